from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from mltrain.engine import distributed
from mltrain.errors import ConfigError, DataError
from tests.engine.ranks import run_ranks
from tests.engine.sharding import SHARDED, check, compare

_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _no_torchrun(monkeypatch):
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)


# One process


def test_one_process_needs_no_group_and_keeps_every_value():
    with distributed.start("cpu") as ranks:
        assert (ranks.rank, ranks.world_size, ranks.local_rank, ranks.is_main) == (0, 1, 0, True)
        assert ranks.device == torch.device("cpu")
        assert not torch.distributed.is_initialized()
        rows = torch.randn(3, 2)
        assert ranks.gather_rows(rows) is rows
        assert torch.equal(ranks.all_reduce_sum(rows.clone()), rows)
        assert ranks.all_gather_objects("a") == ["a"]
        assert ranks.broadcast({"b": 1}) == {"b": 1}
        ranks.barrier()
        with ranks.first():
            pass


def test_an_error_in_the_first_block_comes_through_on_one_process():
    with pytest.raises(DataError, match="no file"), distributed.start("cpu").first():
        raise DataError("no file")


def test_auto_takes_the_fastest_device_there_is():
    device = distributed.start("auto").device
    assert device.type == ("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")


@pytest.mark.parametrize("request_", ["gpu", "cpu:0", "cuda:x", "cuda:", "", "mps:1"])
def test_an_unknown_device_is_refused_with_those_allowed(request_):
    with pytest.raises(ConfigError, match=r"runner\.device=.*allowed: auto, cpu, cuda, cuda:N, mps"):
        distributed.start(request_)


@pytest.mark.parametrize("request_", ["cuda", "cuda:1"])
def test_cuda_without_a_device_is_refused(monkeypatch, request_):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=rf"runner\.device={request_}.*use runner\.device=auto or cpu"):
        distributed.start(request_)


def test_a_cuda_number_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="there are 2 CUDA devices: cuda:0 to cuda:1"):
        distributed.start("cuda:5")


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_more_processes_than_gpus_are_refused_on_every_rank(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in _VARIABLES:
        monkeypatch.setenv(name, "4")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError, match=r"4 processes on this machine, but 2 CUDA devices.*--nproc_per_node=2"):
        distributed.start(device)


def test_incomplete_torchrun_variables_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match=r"LOCAL_RANK, MASTER_ADDR, MASTER_PORT.*torchrun"):
        distributed.start("cpu")
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE must be a whole number"):
        distributed.start("cpu")


def test_one_named_gpu_for_several_processes_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in _VARIABLES:
        monkeypatch.setenv(name, "2")
    with pytest.raises(ConfigError, match="names one device"):
        distributed.start("cuda:1")


# Two processes. Starting them costs seconds, so one pair goes through everything that leaves the group intact.


FULL = torch.arange(5 * 3, dtype=torch.float32).reshape(5, 3)
DTYPES = (torch.bfloat16, torch.bool, torch.int8, torch.int64, torch.float64)


def _raised(function):
    try:
        function()
    except Exception as error:  # noqa: BLE001 - the test looks at whatever was raised
        return f"{type(error).__name__}: {error}"
    return None


def _prepare(ranks, folder):
    file = Path(folder) / "data"
    with ranks.first():
        if ranks.is_main:
            time.sleep(0.3)
        found = file.exists()
        if not found:
            file.write_text(str(ranks.rank))
    return found, file.read_text()


def _fail_in_turn(ranks, failing):
    with ranks.first():
        if ranks.rank == failing:
            raise DataError("annotations are missing")


def _go_through_everything(ranks, folder):
    r = ranks.rank
    part = FULL[:4] if r == 0 else FULL[4:]
    out = {
        "identity": (ranks.rank, ranks.world_size, ranks.is_main),
        "sum": ranks.all_reduce_sum(torch.tensor([1.0 + r, 10.0])).tolist(),
        "objects": ranks.all_gather_objects({"rank": r}),
        "broadcast": ranks.broadcast(f"from {r}"),
        "main": ranks.gather_rows(part),
        "empty": ranks.gather_rows(FULL[:0] if r == 0 else FULL),
        "nothing": ranks.gather_rows(FULL[:0]),
        "strided": ranks.gather_rows(FULL.T[r : r + 1]),
        "dtypes": [ranks.gather_rows(torch.tensor([r, 1 - r]).to(dtype)) for dtype in DTYPES],
        "disagree": _raised(lambda: ranks.gather_rows(torch.zeros(2, 3 + r))),
        "first": _prepare(ranks, folder),
        "fails": [_raised(lambda failing=failing: _fail_in_turn(ranks, failing)) for failing in (0, 1)],
    }
    distributed._TRANSFER_BYTES = 1000
    rows = torch.arange(1000).reshape(250, 4) + 1000 * r
    out["chunked"] = ranks.gather_rows(rows[: 100 + 150 * r])
    model = nn.BatchNorm1d(2)
    model.running_mean.fill_(float(r + 1))
    model.num_batches_tracked.fill_(r + 7)
    with torch.inference_mode():
        ranks.broadcast_buffers(model)
    out["buffers"] = (model.running_mean.tolist(), int(model.num_batches_tracked))
    ranks.barrier()
    out["sharding"] = compare(ranks, SHARDED)
    return out


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    answers = run_ranks(_go_through_everything, str(tmp_path_factory.mktemp("ranks")))
    for rank, (kind, value) in enumerate(answers):
        assert kind == "value", f"rank {rank}: {value}"
    return [value for _, value in answers]


def test_two_ranks_exchange_values(two_ranks):
    for rank, got in enumerate(two_ranks):
        assert got["identity"] == (rank, 2, rank == 0)
        assert got["sum"] == [3.0, 20.0]
        assert got["objects"] == [{"rank": 0}, {"rank": 1}]
        assert got["broadcast"] == "from 0"
        assert got["buffers"] == ([1.0, 1.0], 7)


def test_two_ranks_train_parts_as_they_train_the_whole_and_resume_from_either(two_ranks):
    main, other = (got["sharding"] for got in two_ranks)
    check(main, other, SHARDED)
    assert main["plain"][0][1] > SHARDED["clip_grad_norm"], "clipped"
    assert any(".blocks.0." in name for name in main["frozen"])


def test_rows_of_uneven_ranks_are_joined_in_rank_order(two_ranks):
    main, other = two_ranks
    assert torch.equal(main["main"], FULL)
    assert torch.equal(main["empty"], FULL)
    assert torch.equal(main["strided"], FULL.T[:2])
    assert main["nothing"].shape == (0, 3)
    for dtype, rows in zip(DTYPES, main["dtypes"], strict=True):
        assert rows.dtype == dtype and torch.equal(rows, torch.tensor([0, 1, 1, 0]).to(dtype))
    assert all(other[key] is None for key in ("main", "empty", "strided", "nothing"))


def test_rows_larger_than_one_message_arrive_in_order(two_ranks):
    assert two_ranks[0]["chunked"].flatten().tolist() == [*range(400), *range(1000, 2000)]
    assert two_ranks[1]["chunked"] is None


def test_ranks_that_disagree_about_rows_all_raise(two_ranks):
    for got in two_ranks:
        assert got["disagree"].startswith("ValueError: gather_rows: ranks disagree")


def test_the_main_rank_prepares_files_before_the_others_look(two_ranks):
    assert [got["first"] for got in two_ranks] == [(False, "0"), (True, "0")]


def test_an_error_in_the_first_block_ends_it_on_every_rank(two_ranks):
    own = "DataError: annotations are missing"
    assert two_ranks[0]["fails"] == [own, f"MltrainError: rank 1 stopped with {own}"]
    assert two_ranks[1]["fails"] == [f"MltrainError: rank 0 stopped with {own}", own]


def _one_raises(ranks):
    if ranks.rank == 1:
        raise DataError("a broken image")
    ranks.all_reduce_sum(torch.zeros(4))


def test_a_rank_that_raises_does_not_leave_the_other_waiting():
    start = time.monotonic()
    waiting, raised = run_ranks(_one_raises)
    assert raised[1].startswith("DataError: a broken image")
    assert waiting[0] == "error"
    assert time.monotonic() - start < 50  # the group's own timeout is a minute

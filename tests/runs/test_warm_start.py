"""A training that starts from a run takes its head over, class by class."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from mltrain.config.build import load, load_run
from mltrain.engine import distributed
from mltrain.errors import CheckpointError
from mltrain.models.heads import CSRA, PFC, GlobalAveragePool, MLDecoder, Query2Label
from mltrain.models.heads.take_over import match_classes, take_over
from mltrain.models.weights import read_stored
from mltrain.runs.assemble import assemble
from mltrain.runs.notices import head_was_left
from tests.promises.runs import coloured_run

OLD, NEW = ("cat", "dog", "Traffic_Light", "boat", "lamp"), ("boat", "bus", "cat", "traffic light", "lamp", "sofa")
PAIRS = {0: 3, 2: 0, 3: 2, 4: 4}
WIDTH = {"dim": 16, "num_heads": 2, "ffn_dim": 16}
TOKENS = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))


def test_classes_match_by_name_and_else_by_folded_name_where_that_is_unambiguous() -> None:
    assert match_classes(NEW, OLD) == PAIRS
    assert match_classes(["a b", "A b"], ["a_b"]) == {}, "two names here fold to the one there"
    assert match_classes(["A", "a"], ["a", "A"]) == {0: 1, 1: 0}
    assert match_classes(["A"], ["a", "b"]) == {0: 0}


@pytest.mark.parametrize(
    ("kind", "options", "kept"),
    [
        (GlobalAveragePool, {}, PAIRS),
        (GlobalAveragePool, {"bottleneck": 4}, PAIRS),
        (PFC, {"dim": 4}, PAIRS),
        (CSRA, {"num_heads": 2, "prior": 0.1}, PAIRS),
        (MLDecoder, {**WIDTH, "pooled": True}, PAIRS),
        # groups there (cat dog) (traffic light boat) (lamp); here (boat bus) (cat traffic light) (lamp sofa)
        (MLDecoder, {**WIDTH, "groups": 3}, {0: 3, 2: 0, 4: 4}),
        (Query2Label, WIDTH, PAIRS),
    ],
)
def test_a_class_that_is_taken_over_keeps_its_logit(
    kind: type[nn.Module], options: dict[str, object], kept: dict[int, int]
) -> None:
    torch.manual_seed(1)
    old, new = kind(8, len(OLD), **options).eval(), kind(8, len(NEW), **options).eval()
    grid = {"grid": (2, 2)} if kind is Query2Label else {}
    fresh = new(TOKENS, **grid)
    assert take_over(new, old.state_dict(), PAIRS, same=False) == set(kept)
    found, expected = new(TOKENS, **grid), old(TOKENS, **grid)
    torch.testing.assert_close(found[:, list(kept)], expected[:, list(kept.values())])
    assert not torch.allclose(fresh[:, list(kept)], expected[:, list(kept.values())])
    if kind is GlobalAveragePool and not options:
        assert torch.equal(found[:, 1], fresh[:, 1]), "bus is new, and starts as it would without a checkpoint"


class Own(nn.Module):
    """A head of a user, which does not say which weights belong to a class."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(classes, 8))


def test_a_head_that_names_no_class_axes_is_taken_over_whole_or_not_at_all() -> None:
    old, new = Own(3), Own(3)
    assert take_over(new, old.state_dict(), {0: 0, 1: 1, 2: 2}, same=True) == {0, 1, 2}
    assert torch.equal(new.weight, old.weight)
    with pytest.raises(ValueError, match="class_axes"):
        take_over(Own(2), old.state_dict(), {0: 0}, same=False)
    with pytest.raises(ValueError, match=r"another kind of head.*(fc|weight)"):
        take_over(GlobalAveragePool(8, 3), old.state_dict(), {0: 0}, same=False)
    wide: dict[str, Tensor] = PFC(8, 3, dim=4).state_dict()
    with pytest.raises(ValueError, match=r"neck.weight has the shape \(4, 8\) there and \(6, 8\) here"):
        take_over(PFC(8, 3, dim=6), wide, {0: 0}, same=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured_run(tmp_path_factory.mktemp("old"), "head=ml_decoder", *[f"head.{k}={v}" for k, v in WIDTH.items()])


def start(cfg: DictConfig) -> dict[str, dict[str, float]]:
    """The figures of the validation split before the first step."""
    with distributed.start("cpu") as dist:
        runner = assemble(cfg, dist)
        evaluation = runner.evaluate(runner.val_loader)
        assert evaluation is not None
        return {name: dict(summary.scalars) for name, summary in evaluation.summaries.items()}


@pytest.mark.parametrize("given", [".", "best.pt"])
def test_with_the_same_classes_the_new_run_begins_with_the_figures_of_the_old_one(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, given: str
) -> None:
    result = json.loads((run / "result.json").read_text())
    with caplog.at_level(logging.INFO, "mltrain"):
        found = start(load_run(run, [f"paths.runs={tmp_path}", "seed=1", f"model.checkpoint={run / given}"]))
    expected = result[result["best"]["weights"]]
    for weights in ("val", "ema"):
        assert found[weights] == pytest.approx(expected, abs=1e-4, nan_ok=True)
    assert f"head of {run / given}: all 3 classes taken over" in caplog.text
    assert "weights)" in caplog.text, "it says which weights of the run these are"
    with caplog.at_level(logging.INFO, "mltrain"):
        words = [f"paths.runs={tmp_path}", "seed=1", f"model.checkpoint={run}", "model.head_from_checkpoint=false"]
        alone = start(load_run(run, words))
    assert alone["val"]["map"] != pytest.approx(expected["map"])
    assert "model.head_from_checkpoint=false: the head starts fresh" in caplog.text


def test_new_classes_another_head_and_other_settings_are_said(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = run.parents[3] / "labels.csv"
    renamed = labels.read_text().replace("c", "lamp").replace("lampsv", "csv")
    (labels.parent / "other.csv").write_text(renamed)
    words = [f"dataset.file={labels.parent}/other.csv", f"model.checkpoint={run}", f"paths.runs={tmp_path}"]
    gap = load_run(run, words)
    gap.head = load(["head=gap"]).head
    with caplog.at_level(logging.INFO, "mltrain"):
        start(load_run(run, [*words, "head.query_scale=0.5"]))
        start(gap)
        start(load_run(run, [*words, "head.dim=8", "model.mean=[0,0,0]"]))
    said = [line.partition(": ")[2] for line in caplog.messages if line.startswith("head of ")]
    assert said[0] == "2 of 3 classes taken over; lamp starts fresh; head.query_scale was 1.0 there"
    assert said[1] == "starts fresh, because it is ml_decoder there and gap here; only the backbone is taken over"
    assert said[2].startswith(
        "starts fresh, because duplicate_pooling has the shape (3, 16, 1) there and (3, 8, 1) here"
    )
    assert said[2].endswith("; head.dim was 16 there; only the backbone is taken over")
    assert "another mean or std; for the same figures: model.mean=[0.5,0.5,0.5] model.std=[0.5,0.5,0.5]" in caplog.text


def test_a_checkpoint_that_lacks_a_key_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}, "ema": None, "best": {"weights": "ema"}}, tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match=r"best\.pt: not a checkpoint of a run"):
        read_stored(tmp_path)


def test_a_warm_start_of_an_earlier_version_is_said(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {checkpoint: RUN}\n")
    cfg = load_run(run, [f"model.checkpoint={run}"])
    assert "rerun=true starts with its head too" in (head_was_left(cfg, tmp_path) or "")
    assert head_was_left(cfg, run) is None, "its config has the option"
    assert head_was_left(load_run(run, ["model.checkpoint=/elsewhere/weights.pt"]), tmp_path) is None

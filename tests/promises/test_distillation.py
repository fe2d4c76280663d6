"""A training that follows a teacher run: resumed exactly; refused where the teacher changed or cannot be one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mltrain.config.build import load
from mltrain.config.identity import run_id
from mltrain.errors import ConfigError, DataError, Interrupted
from mltrain.runs.teacher import load_teacher
from tests.promises.runs import SMOOTH, assert_same, execute, fit, state, stop_at, torchrun


@pytest.mark.slow
def test_two_ranks_with_a_teacher_and_gradient_checkpointing_train_as_one_process(
    overrides: list[str], tmp_path: Path
) -> None:
    teacher = fit([*overrides, "runner.max_steps=5", "name=teacher", f"paths.runs={tmp_path}/teacher"])
    options = [*overrides, *SMOOTH, "runner.batch_size=8", "model.grad_checkpointing=true"]
    options += [f"distill.teacher={teacher}", "distill.weight=3"]
    one = fit([*options, f"paths.runs={tmp_path}/one"])
    execute(torchrun(*options))
    two = next((tmp_path / "runs").rglob("result.json")).parent
    assert two.name == one.name
    a, b = state(one), state(two)
    for key, value in a["model"].items():
        torch.testing.assert_close(b["model"][key], value, rtol=2e-4, atol=2e-5, msg=key)
    for one_epoch, two_epochs in zip(a["history"], b["history"], strict=True):
        assert two_epochs["train_loss"] == pytest.approx(one_epoch["train_loss"], rel=1e-5)
    plain = [item for item in options if "grad_checkpointing" not in item and "distill" not in item]
    alone = fit([*plain, f"paths.runs={tmp_path}/alone"])
    assert state(alone)["history"][0]["train_loss"] < a["history"][0]["train_loss"], "the divergence counts"


@pytest.mark.slow
def test_a_run_with_a_teacher_resumes_exactly(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = fit([*overrides, "runner.max_steps=5", "name=teacher"])
    options = [*overrides, f"distill.teacher={teacher}", "distill.weight=3", "distill.temperature=2"]
    whole = fit([*options, f"paths.runs={tmp_path}/whole"])
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 7)
        fit(options)
    resumed = fit(options)
    assert_same(state(resumed), state(whole))
    alone = fit([*overrides, f"paths.runs={tmp_path}/alone"])
    assert alone.name != resumed.name
    assert not torch.equal(state(alone)["model"]["head.fc.weight"], state(resumed)["model"]["head.fc.weight"])
    # another teacher under the same name is other data
    content = torch.load(teacher / "best.pt", weights_only=True)
    content["model"]["head.fc.bias"] += 1
    torch.save(content, teacher / "best.pt")
    with pytest.raises(DataError, match=r"distill\.teacher"):
        fit(options)


def test_settings_without_a_use_are_refused(tmp_path: Path) -> None:
    plain = ["dataset=shapes"]
    assert run_id(load(plain)) == run_id(load([*plain, "distill.weight=1.0"]))
    assert run_id(load(plain)) != run_id(load([*plain, "distill.teacher=runs/x"]))
    with pytest.raises(ConfigError, match=r"distill\.weight=2.*there is no teacher: add distill\.teacher=RUN"):
        load([*plain, "distill.weight=2"])
    with pytest.raises(ConfigError, match=r"distill\.teacher.*compares sigmoids"):
        load(["dataset=digits", "task=single_label", "loss=cross_entropy", "distill.teacher=runs/x"])
    cfg = load([*plain, f"distill.teacher={tmp_path}/nothing"])
    with pytest.raises(ConfigError, match=rf"distill\.teacher={tmp_path}/nothing: "):
        load_teacher(cfg, ("a",), torch.device("cpu"))


@pytest.mark.slow
def test_a_teacher_must_know_every_class(overrides: list[str]) -> None:
    teacher = fit([*overrides, "runner.max_steps=2", "name=teacher"])
    cfg = load([*overrides, f"distill.teacher={teacher}"])
    names = tuple(reversed(state(teacher)["class_names"]))
    found = load_teacher(cfg, names, torch.device("cpu"))
    assert found is not None and not found.model.training
    assert found.columns.tolist() == list(reversed(range(len(names))))
    with pytest.raises(ConfigError, match=r"does not know 1 of \d+ classes of the data set: zebra"):
        load_teacher(cfg, (*names, "zebra"), torch.device("cpu"))

"""A training that follows a teacher run: resumed exactly; refused where the teacher changed or cannot be one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mltrain.config.build import load
from mltrain.config.identity import run_id
from mltrain.errors import ConfigError, DataError, Interrupted
from mltrain.runs.teacher import load_teacher
from tests.promises.runs import assert_same, fit, state, stop_at


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

"""Callbacks: called at their points, resumed bit for bit, harmless to the training, and named when they fail."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mltrain.callbacks import Callback, Stop
from mltrain.config.compose import load, load_run
from mltrain.config.identity import run_id
from mltrain.engine import callbacks as engine_callbacks
from mltrain.engine.callbacks import Callbacks, Named
from mltrain.engine.run_folder import read_result
from mltrain.errors import ConfigError, Interrupted, MltrainError
from tests.promises.runs import assert_same, execute, fit, records, state, stop_at, torchrun

PACKAGE = """
import torch
from mltrain.callbacks import Callback, Stop

SEEN = []

class Counter(Callback):
    def __init__(self, *, stop_at=0):
        self.stop_at, self.steps, self.losses = stop_at, 0, []

    def start(self, run):
        SEEN.append(("start", run.step, run.epoch, run.loss))

    def step(self, run):
        self.steps += 1
        self.losses.append(run.loss)
        torch.rand(3)  # must not disturb the training
        run.model.eval()
        SEEN.append(("step", run.step, run.epoch, self.steps))

    def evaluation(self, run):
        images, classes = run.logits["val"].shape
        assert run.targets.shape == (images, classes) and classes == len(run.class_names)
        assert run.ema_model is not None and run.metrics["ema"]["map"] > 0
        SEEN.append(("evaluation", run.step, run.metrics["val"]["map"], len(self.losses)))
        if run.epoch == self.stop_at:
            return Stop("enough")

    def end(self, run):
        SEEN.append(("end", run.step, run.result["best"]["step"], self.steps))

    def state_dict(self):
        return {"steps": self.steps, "losses": self.losses}

    def load_state_dict(self, state):
        self.steps, self.losses = state["steps"], state["losses"]
"""
GRANT = "paths.imports=[counting_package]"
COUNTER = "[{_target_: counting_package.Counter}]"


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the callbacks of a package in the working directory see."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("mltrain.report.plots.per_class_ap_plot", lambda *given, **options: None)
    (tmp_path / "counting_package.py").write_text(PACKAGE)
    monkeypatch.delitem(sys.modules, "counting_package", raising=False)
    load([GRANT])
    import counting_package  # type: ignore[import-not-found]

    found: list[Any] = counting_package.SEEN
    return found


def test_a_callback_is_resumed_bit_for_bit_and_changes_nothing(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[Any]
) -> None:
    overrides = [*overrides, "dataset.num_train=48", GRANT]
    plain = fit([*overrides, f"paths.runs={tmp_path}/plain"])
    words = [*overrides, f"callbacks={COUNTER}"]
    whole = fit([*words, f"paths.runs={tmp_path}/whole"])
    points = list(seen)
    seen.clear()
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 3)
        fit(words)
    resumed = fit(words)
    assert_same(state(resumed), state(whole))
    assert records(resumed) == records(whole) == records(plain)
    counted = state(whole)
    assert counted.pop("callbacks")["states"][0][1]["steps"] == 6
    assert_same(counted, state(plain))

    assert [(point, step) for point, step, *_ in points] == [
        ("start", 0),
        *[("step", 1), ("step", 2), ("step", 3), ("evaluation", 3)],
        *[("step", 4), ("step", 5), ("step", 6), ("evaluation", 6), ("end", 6)],
    ]
    assert points[0] == ("start", 0, 0, None)
    assert ("start", 5, 2, None) in seen, "called again when the training is resumed"
    assert [point for point in seen if point[0] != "start"] == [point for point in points if point[0] != "start"]

    with pytest.raises(ConfigError, match=r"in a file has no effect; .*paths\.imports=\[counting_package\]"):
        load_run(resumed)
    assert load_run(resumed, [GRANT]).paths.imports == ["counting_package"]


def test_a_callback_ends_the_training_after_its_epoch_and_for_good(overrides: list[str], seen: list[Any]) -> None:
    words = [*overrides, GRANT, "callbacks=[{_target_: counting_package.Counter, stop_at: 1}]"]
    folder = fit([*words, "dataset.num_train=32"])
    result = read_result(folder)
    assert result is not None and result["steps"] == 2 and result["epochs"] == 1
    assert result["ended_early"] == "callbacks.0 (counting_package.Counter): enough"
    (folder / "result.json").unlink()  # as if killed before the result was written
    seen.clear()
    fit([*words, "dataset.num_train=32"])
    assert [point for point, *_ in seen] == ["start", "end"]


@pytest.mark.slow
def test_two_ranks_end_together_and_the_main_one_calls(overrides: list[str], tmp_path: Path, seen: list[Any]) -> None:
    words = [*overrides, GRANT, "callbacks=[{_target_: counting_package.Counter, stop_at: 1}]"]
    execute(torchrun(*words))
    (result,) = (tmp_path / "runs").rglob("result.json")
    found = read_result(result.parent)
    assert found is not None and found["epochs"] == 1 and found["ended_early"].endswith("enough")
    assert state(result.parent)["callbacks"]["states"][0][1]["steps"] == found["steps"]


def test_what_can_end_a_training_counts_for_its_identity(seen: list[Any]) -> None:
    plain = run_id(load())
    assert run_id(load([GRANT, f"callbacks={COUNTER}"])) != plain
    assert run_id(load([GRANT, f"logger.callbacks={COUNTER}"])) == plain
    assert run_id(load(["callbacks=[]", "metrics.own=[]"])) == plain


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([f"callbacks={COUNTER}"], r"callbacks\.0\._target_.*add to the command: paths\.imports=\[counting_package\]"),
        ([GRANT, "callbacks=[{_target_: counting_package.Conter}]"], "did you mean Counter"),
        ([GRANT, "callbacks=[{_target_: counting_package.Counter, stopat: 1}]"], r"did you mean callbacks\.0\.stop_at"),
        ([GRANT, "logger.callbacks=[{_target_: torch.nn.ReLU}]"], "not among the packages"),
        ([GRANT, "callbacks=[{stop_at: 1}]"], "has no _target_; write callbacks="),
        ([GRANT, "callbacks=[counter]"], "must be a list of"),
        (["callbacks=[{_target_: mltrain.callbacks.Profile, step: 1}]"], r"did you mean callbacks\.0\.steps"),
        (["paths.imports=[no_such_package]"], "there is no package no_such_package in"),
    ],
)
def test_a_mistake_in_the_config_is_named(seen: list[Any], words: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load(words)


class _Fails(Callback):
    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def step(self, run: Any) -> Stop | None:
        answer = self.answers.get("step")
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, Any]:
        return self.answers.get("state", {})  # type: ignore[no-any-return]


def _at(point: str, monkeypatch: pytest.MonkeyPatch, *, may_stop: bool = True, **answers: Any) -> Callbacks:
    monkeypatch.setattr(engine_callbacks, "training_view", lambda *given: None)
    items = [Named("callbacks.0", "mypkg.Foo", _Fails(**answers), may_stop=may_stop)]
    made = Callbacks(items)
    made.at(point, SimpleNamespace(dist=SimpleNamespace(is_main=True), model=torch.nn.ReLU()))
    return made


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (
            {"step": ZeroDivisionError("by zero")},
            r"callbacks\.0 \(mypkg\.Foo\) failed in step\(\): ZeroDivisionError: by zero\n.*line \d+: raise answer",
        ),
        ({"step": True}, r"step\(\) returned True; it returns None, or Stop\(REASON\)"),
        ({"step": Stop("late"), "may_stop": False}, r"asks to end the training \(late\).*callbacks=\["),
    ],
)
def test_a_callback_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, answers: Any, expected: str) -> None:
    with pytest.raises(MltrainError, match=expected):
        _at("step", monkeypatch, **answers)


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ({"best": np.float64(1.0)}, r"state_dict\(\)\['best'\] is numpy.float64"),
        ({"a": [1, {2}]}, r"\['a'\]\[1\] is builtins.set"),
        ([1], "is list, not a dict"),
        ({("a",): 1}, "has the key"),
    ],
)
def test_a_state_that_no_checkpoint_could_keep_is_refused(kept: Any, expected: str) -> None:
    items = [Named("callbacks.0", "mypkg.Foo", _Fails(state=kept), may_stop=True)]
    with pytest.raises(ConfigError, match=expected):
        Callbacks(items).state_dict()


def test_states_go_to_the_callbacks_of_their_class(caplog: pytest.LogCaptureFixture) -> None:
    class Keeps(_Fails):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.answers["state"] = state

    def made(*targets: str) -> Callbacks:
        return Callbacks([Named("", target, Keeps(state={"of": target}), may_stop=True) for target in targets])

    saved = {"states": [["a.A", {"n": 1}], ["b.B", {"n": 2}], ["a.A", {"n": 3}]], "stopped": None}
    later = made("b.B", "a.A", "c.C")
    later.load_state_dict(saved)
    assert [item.callback.state_dict() for item in later.items] == [{"n": 2}, {"n": 1}, {"of": "c.C"}]
    assert "c.C" in caplog.text and "begins anew" in caplog.text and "no longer given" in caplog.text

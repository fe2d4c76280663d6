"""Run folders written before the redesign are read, resumed, evaluated and reported.

data/old_runs.tar.xz was made by commit 31a3634, with torch 2.14.1 on a CPU: `whole`, a finished run; `stopped`, the
same run stopped by a signal in the middle of its second epoch; `sweep`, the records and runs of a sweep. The network is
tiny.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mltrain import cli
from mltrain.commands.evaluate import evaluate
from mltrain.commands.report import report
from mltrain.config.build import load, load_run
from mltrain.config.identity import run_folder
from mltrain.runs.predictor import Predictor
from mltrain.runs.train import train
from tests.promises.runs import TINY, records, state, unpack

ARCHIVE = Path(__file__).parent / "data" / "old_runs.tar.xz"
NETWORK = [
    "model.name=resnet18",
    "model.timm_kwargs={layers: [1,1,1,1], channels: [4,4,8,8], stem_type: deep, stem_width: 4}",
    *("head=ml_decoder", "head.dim=16", "head.num_heads=2", "head.ffn_dim=16", "augment=standard", "loss=asl"),
]
RUN = Path("shapes/timm-ml_decoder-asl/a6dcbb78")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    unpack(ARCHIVE, tmp_path)
    return tmp_path


def words(old: Path, runs: str) -> list[str]:
    named = [word for word in TINY if not word.startswith("model.name")]
    return [*named, *NETWORK, f"paths.data={old}/data", f"paths.runs={old / runs}"]


ROUNDING = 1e-4 if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14) else 2e-2
"""Torch before that of the archive rounds otherwise, and one image that changes its rank is 0.4 % of mAP."""


def close(a: Any, b: Any) -> None:
    """Check for equality up to rounding: the losses have been written anew since."""
    if isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=ROUNDING, atol=ROUNDING / 10)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            close(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            close(x, y)
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=ROUNDING, nan_ok=True)
    else:
        assert a == b


def test_an_old_run_has_the_id_that_its_command_has_now(old: Path) -> None:
    assert run_folder(load(words(old, "whole"))) == old / "whole" / RUN
    assert run_folder(load_run(old / "whole" / RUN)).name == RUN.name


def test_an_old_finished_run_is_only_reported(old: Path) -> None:
    before = (old / "whole" / RUN / "result.json").read_bytes()
    assert train(load(words(old, "whole"))) == json.loads(before)
    assert (old / "whole" / RUN / "result.json").read_bytes() == before


def test_an_old_stopped_run_resumes_to_what_the_uninterrupted_run_was(old: Path) -> None:
    stopped = old / "stopped" / RUN
    before = state(stopped)["step"]
    result = train(load(words(old, "stopped")))
    assert before == 8 and result is not None and state(stopped)["step"] == 10
    whole = json.loads((old / "whole" / RUN / "result.json").read_text())
    for weights in ("val", "ema"):
        expected = {k: v for k, v in whole[weights].items() if v is not None}
        close({key: result[weights][key] for key in expected}, expected)  # later versions know more figures
    close(state(stopped, "best")["model"], state(old / "whole" / RUN, "best")["model"])
    expected = records(old / "whole" / RUN)[-1]
    close({key: records(stopped)[-1][key] for key in expected}, expected)


def test_an_old_run_is_evaluated_predicted_with_and_reported(old: Path) -> None:
    folder = old / "whole" / RUN
    expected = json.loads((folder / "result.json").read_text())
    found = evaluate(load_run(folder, [f"paths.data={old}/data", f"dataset.root={old}/data/shapes"]), folder)
    assert found is not None
    assert found["val"]["map"] == pytest.approx(expected["val"]["map"], abs=1e-4)
    assert found["ema"]["map"] == pytest.approx(expected["ema"]["map"], abs=1e-4)
    predictor = Predictor.from_run(folder)
    assert predictor.thresholds is not None and len(set(predictor.thresholds.tolist())) > 1, "of thresholds.json"
    image = next((old / "data" / "shapes").rglob("*.jpg"), None) or next((old / "data" / "shapes").rglob("*.png"))
    assert {label.name for label in predictor(image)} <= set(predictor.class_names)
    assert "a6dcbb78" in report([str(folder)]).read_text()


def test_an_old_sweep_is_compared(
    old: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(old)  # the records name folders as the sweep did
    cli.execute(cli_command("results"), [str(old / "sweep"), "baseline=loss=bce", "resamples=50"])
    text = capsys.readouterr().out
    assert "bce" in text and "ral" in text and "25.16" in text
    page = report([str(next((old / "sweep" / "multirun").iterdir()))])
    assert {"d9ce7082", "d9b747f0"} <= set(re.findall(r"[0-9a-f]{8}", page.read_text()))


def cli_command(name: str) -> cli.Command:
    from importlib import import_module

    command: cli.Command = import_module(f"mltrain.commands.{name}").COMMAND
    return command

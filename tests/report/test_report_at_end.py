"""A training ends with its report, in the main process, and the option that leaves it out is not part of the run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from mltrain.config.compose import load
from mltrain.config.identity import run_id
from tests.promises.runs import TINY, fit

WITH_REPORT = [item for item in TINY if item != "logger.report=false"]


def overrides(folder: Path, *more: str) -> list[str]:
    return [*more, f"paths.data={folder / 'data'}", f"paths.runs={folder / 'runs'}"]


def test_training_writes_its_report_with_pictures(tmp_path: Path) -> None:
    folder = fit(overrides(tmp_path, *WITH_REPORT))
    text = (folder / "report.html").read_text()
    assert 'id="curves"' in text and 'id="examples"' in text
    assert text.count("data:image/jpeg;base64,") >= 10
    assert "Without pictures" not in text


def test_report_can_be_left_out_and_is_not_part_of_the_run(tmp_path: Path) -> None:
    folder = fit(overrides(tmp_path, *TINY))
    assert (folder / "result.json").is_file() and not (folder / "report.html").exists()
    assert run_id(load(overrides(tmp_path, *TINY))) == run_id(load(overrides(tmp_path, *WITH_REPORT)))


def test_training_is_finished_when_its_report_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(logging.getLogger("mltrain"), "propagate", True)
    monkeypatch.setattr("mltrain.report.html.run_report.RunFolder", fail)
    folder = fit(overrides(tmp_path, *WITH_REPORT))
    assert (folder / "result.json").is_file()
    assert "no report was written (MemoryError: no room); try again: mltrain report" in caplog.text

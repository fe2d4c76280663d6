"""Bars on a terminal, lines in a log, nothing away from the main rank."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from mltrain import progress
from mltrain.progress import Meter, amount, duration, resolve_mode, track


class Clock:
    """Time that passes only when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_log_gets_a_line_every_ten_seconds_with_pace_and_time_left(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mltrain")
    with Meter("evaluating coco/val", 4000, unit="images", mode="lines") as meter:
        for _ in range(30):
            clock.now += 1.0
            meter.add(100)
    assert caplog.messages == [
        "evaluating coco/val: 1,000 of 4,000, 25%, 100 images/s, 0:30 left",
        "evaluating coco/val: 2,000 of 4,000, 50%, 100 images/s, 0:20 left",
        "evaluating coco/val: 3,000 of 4,000, 75%, 100 images/s, 0:10 left",
    ]


def test_what_is_over_within_ten_seconds_writes_no_line(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mltrain")
    with Meter("short", 5, unit="images", mode="lines") as meter:
        clock.now += 9.0
        meter.add(5)
    assert not caplog.messages


def test_bytes_and_unknown_totals_are_shown_for_people(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mltrain")
    with Meter("train.zip", None, mode="lines") as meter:
        clock.now += 10.0
        meter.add(25_000_000)
        meter.restart(500_000_000, 1_000_000_000)
        clock.now += 10.0
        meter.add(100_000_000)
    assert caplog.messages == [
        "train.zip: 25.0 MB, 2.5 MB/s",
        "train.zip: 600.0 MB of 1.0 GB, 60%, 10.0 MB/s, 0:40 left",
    ], "the pace of what was done since the restart"


def test_a_terminal_gets_a_bar_and_log_lines_stay_above_it(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("mltrain")
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    try:
        with Meter("evaluating coco/val", 10, unit="images", mode="bar") as meter:
            clock.now += 1.0
            meter.add(4)
            logger.warning("something to read")
    finally:
        logger.removeHandler(handler)
    shown = capsys.readouterr().err
    assert "evaluating coco/val:  40%" in shown
    assert "4/10" in shown
    line = next(line for line in shown.replace("\r", "\n").split("\n") if "something to read" in line)
    assert line.strip() == "something to read", "not in the middle of the bar"


def test_only_the_main_rank_shows_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert resolve_mode("auto") == "bar"
    monkeypatch.setenv("RANK", "1")
    assert resolve_mode("auto") == "off"
    assert resolve_mode("lines") == "lines", "asked for"


def test_tracked_rows_are_the_rows(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mltrain")
    found = []
    for row in track(range(1000), "reading labels.csv", 1000, unit="rows"):
        clock.now += 0.05
        found.append(row)
    assert found == list(range(1000))
    assert len(caplog.messages) == 3
    assert caplog.messages[0] == "reading labels.csv: 256 of 1,000, 26%, 20 rows/s, 0:37 left"


def test_sizes_and_times_are_spelled_for_people() -> None:
    assert [amount(count) for count in (7, 1500, 2.5e6, 13.5e9, 1e12)] == [
        "7 B",
        "1.5 kB",
        "2.5 MB",
        "13.5 GB",
        "1.0 TB",
    ]
    assert [duration(seconds) for seconds in (0.4, 61, 3661)] == ["0:00", "1:01", "1:01:01"]


def test_reading_labels_looking_for_files_and_evaluating_say_how_far_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch
    from PIL import Image

    from mltrain.datasets.csv import csv_file
    from mltrain.datasets.splits import check_files
    from mltrain.engine import distributed
    from mltrain.engine.evaluator import Inference, evaluate
    from mltrain.metrics.summary import summarize
    from mltrain.models import create_classifier
    from mltrain.pipeline.augment import EvalResize
    from mltrain.pipeline.loader import EvalLoader

    caplog.set_level(logging.INFO, logger="mltrain")
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    rows = [f"{k}.png,{'ab'[k % 2]},{'val' if k < 8 else 'train'}" for k in range(300)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,labels,split", *rows]) + "\n")
    for k in range(300):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{k}.png")
    splits = csv_file(file=tmp_path / "labels.csv")
    check_files(splits.train)
    model = create_classifier(name="test_resnet", num_classes=2, pretrained=False)
    loader = EvalLoader(splits.val, EvalResize(image_size=32), batch_size=4, num_workers=0)
    with distributed.start("cpu") as dist:
        for mode in ("lines", "off"):
            evaluate({"val": model}, loader, summarize, Inference(dist, progress=mode))  # type: ignore[arg-type]
    assert torch.is_grad_enabled()
    said = caplog.messages
    assert any(text.startswith("reading labels.csv: 256") for text in said), said
    assert any(text.startswith("csv/train: looking for files: 256 of 292, 88%") for text in said), said
    evaluated = [text for text in said if text.startswith("evaluating csv/val: ")]
    assert [text.partition(",")[0] for text in evaluated] == [f"evaluating csv/val: {k} of 8" for k in (4, 8)], "once"

"""A run without its data: what it says."""

from __future__ import annotations

import logging

import pytest

from mltrain.config.compose import load
from mltrain.runs.dry_run import dry_run


def test_of_made_up_labels_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    level = logging.getLogger("mltrain").level
    dry_run(load(["dataset=coco", "partial=drop", "loss=csl", "sampler=class_aware"]))
    assert [message.partition(":")[0] for message in caplog.messages] == ["everything but the data is in order"]
    assert logging.getLogger("mltrain").level == level

"""Train, val and test are the same images in every command, also where they are drawn."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest

from mltrain.cli import read
from mltrain.commands import browse_dataset, class_prior, create_longtail_dataset, dataset_stats, prepare_data
from mltrain.commands.evaluate import evaluate
from mltrain.commands.tune_thresholds import Options as TuningOptions
from mltrain.commands.tune_thresholds import tune_thresholds
from mltrain.config.build import instantiate, load, load_run
from mltrain.datasets.splits import Splits
from mltrain.engine.run_folder import RunFolder
from tests.promises.runs import coloured_run

DRAWN = ["dataset.folds=3", "dataset.fold=1", "dataset.test_fraction=0.25", "dataset.split_column=none"]


def test_every_command_has_the_same_splits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    drawn = [*DRAWN, "dataset.test_split=null"]
    run = coloured_run(tmp_path, *drawn, "metrics.save_predictions=true")
    data = ["dataset=csv", f"dataset.file={tmp_path}/labels.csv", *drawn]
    splits: Splits = instantiate(load(data).dataset, "dataset")
    assert splits.test is not None and {len(labels) for labels in splits if labels is not None} == {24, 12}
    saved = {split: RunFolder(run).predictions(split).files for split in ("val", "test")}
    assert saved == {"val": tuple(splits.val.files), "test": tuple(splits.test.files)}
    assert json.loads((run / "stats.json").read_text())["num_images"] == len(splits.train)
    evaluate(load_run(run, ["metrics.save_predictions=true"]), run)
    for split, name in (("val", "evaluation_val_predictions.npz"), ("test", "evaluation_test_predictions.npz")):
        assert tuple(np.load(run / name)["files"].tolist()) == saved[split]
    assert "have changed" not in caplog.text
    tuned = tune_thresholds(load_run(run), run, TuningOptions())
    assert tuned is not None
    assert tuned["tuned_on"]["fingerprint"] == splits.val.fingerprint()
    assert tuned["reported_on"]["fingerprint"] == splits.test.fingerprint()
    caplog.set_level(logging.INFO)
    class_prior.class_prior(load_run(run), run)
    assert f"over {len(splits.train)} training images" in caplog.text
    numbers = dataset_stats.dataset_stats(*read(dataset_stats.COMMAND, data))
    assert {part: counts["images"] for part, counts in numbers.items()} == {
        part: len(labels) for part, labels in splits._asdict().items()
    }
    for part, labels in splits._asdict().items():
        words = [*data, f"split={part}", "images=12", f"out={part}.html", "model.image_size=32"]
        browse_dataset.COMMAND.run(*read(browse_dataset.COMMAND, words))
        shown = set(re.findall(r"\b\d+\.png", Path(f"{part}.html").read_text(encoding="utf-8")))
        assert len(shown) == 12 and shown <= set(labels.files)
    words = [*data, "max=8", "b=6", "shortage=clip", "val_fraction=0", "out=tail"]
    create_longtail_dataset.COMMAND.run(*read(create_longtail_dataset.COMMAND, words))
    rows = [line.split(",")[0] for line in Path("tail/labels.csv").read_text(encoding="utf-8").splitlines()[1:]]
    assert {Path(row).name for row in rows if row} <= set(splits.train.files) | set(splits.test.files)
    prepare_data.COMMAND.run(*read(prepare_data.COMMAND, data[:2]))

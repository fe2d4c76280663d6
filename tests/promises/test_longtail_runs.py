"""Long-tailed splits, from their files to the figures of a run: on small data in the published layouts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mltrain import cli
from mltrain.commands.train import COMMAND as TRAIN
from mltrain.config.build import instantiate
from mltrain.config.compose import load
from mltrain.config.overrides import CONFIGS, Source, scan_overrides
from mltrain.config.sweep_settings import compose_settings
from mltrain.datasets.mlt import read_official
from mltrain.datasets.shapes import shapes
from mltrain.labels import LabelStats
from mltrain.longtail.split import write_split
from mltrain.sweeps import job
from mltrain.sweeps import run as sweep
from tests.datasets.mlt_files import ids, targets, write_official, write_voc
from tests.promises.runs import TINY, fit, state

METHODS = ("asl", "cb_focal", "db", "db_focal", "erm", "focal", "ldam", "rs", "rs_focal", "rw")
SMALL = [
    *(item for item in TINY if not item.startswith(("dataset.", "model=", "runner."))),
    "runner.device=cpu",
    "runner.amp=off",
]


@pytest.fixture
def voc(tmp_path: Path) -> list[str]:
    """A VOC tree and a training set in the published files, where the config looks for them; the overrides of a run."""
    write_official(tmp_path / "voc_mlt", targets(), ids())
    write_voc(tmp_path / "voc", ids())
    return [*SMALL, f"paths.data={tmp_path}", f"paths.runs={tmp_path}/runs"]


def result_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "result.json").read_text()))


def test_a_voc_mlt_shaped_run_goes_from_published_files_to_group_figures(voc: list[str], tmp_path: Path) -> None:
    official = read_official(tmp_path / "voc_mlt")
    write_split(tmp_path / "split", train=official.labels, ids=official.ids, manifest={})
    groups = ["metrics.head_min=8", "metrics.medium_min=3"]  # of the 24 images
    counts = targets().sum(0)
    assert all(((low <= counts) & (counts < high)).any() for low, high in ((8, 99), (3, 8), (1, 3)))
    options = [*voc, *groups, "runner.epochs=2", "runner.batch_size=8", "schedule.milestones=[1]"]
    folder = fit(["+experiment=voc_mlt_db", *options, f"dataset.split={tmp_path}/split"])
    result = result_of(folder)
    for name in ("map", "map_head", "map_medium", "map_tail"):
        assert 0 < result["val"][name] <= 100
    assert result["steps"] == 2 * (counts.max() * 20 // 4 // 8) > 2 * 24 // 8, "epochs of class-aware sampling"
    history = state(folder)["history"]
    assert ["val" in record for record in history] == [False, True], (
        "evaluated once: no epoch is chosen on the test set"
    )
    assert all(math.isfinite(record["train_loss"]) for record in history)
    assert folder.parent == tmp_path / "runs" / "voc_mlt" / "db"


def test_published_files_and_their_import_train_alike(voc: list[str], tmp_path: Path) -> None:
    official = read_official(tmp_path / "voc_mlt")
    write_split(tmp_path / "split", train=official.labels, ids=official.ids, manifest={})
    short = [*voc, "runner.epochs=1", "runner.max_steps=2", "runner.batch_size=8"]
    a, b = (
        result_of(fit(["+experiment=voc_mlt_rs", *short, *split]))
        for split in ([], [f"dataset.split={tmp_path}/split"])
    )
    assert a["val"] == b["val"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_the_table_trains(voc: list[str], tmp_path: Path, method: str) -> None:
    short = ["runner.epochs=1", "runner.max_steps=2", "runner.batch_size=8"]
    result = result_of(fit([f"+experiment=voc_mlt_{method}", *voc, *short]))
    assert result["name"] == method and result["steps"] == 2
    assert math.isfinite(result["val"]["map"])


def test_the_whole_table_is_one_command() -> None:
    table = ["+experiment=glob(voc_mlt_*)", "seed=0,1,2"]
    parsed = OverridesParser.create().parse_overrides(scan_overrides(table, Source(), sweep=True).overrides)
    total, before, rerun = sweep._check_jobs(parsed, compose_settings([], Source()), Source())
    expected = [f"experiment=voc_mlt_{method} seed={seed}" for method in METHODS for seed in (0, 1, 2)]
    assert sorted(job.checked) == sorted(expected)
    assert (total, before, rerun) == (len(expected), 0, ())


def test_a_sweep_over_recipes_runs_each_of_them(voc: list[str], tmp_path: Path) -> None:
    short = ["runner.epochs=1", "runner.max_steps=1", "runner.batch_size=8"]
    cli.execute(TRAIN, ["-m", "+experiment=glob(voc_mlt_db*)", *voc, *short])
    results = [result_of(path.parent) for path in (tmp_path / "runs").rglob("result.json")]
    assert sorted(result["name"] for result in results) == ["db", "db_focal"]


@pytest.mark.parametrize(
    ("folder", "images", "steps"), [("VOCdevkit/longtail2012", 3875, 121), ("coco/longtail2017", 22560, 705)]
)
def test_an_epoch_of_the_recipes_has_the_published_length(
    shared_data: Path, folder: str, images: int, steps: int
) -> None:
    cfg = load(["+experiment=mlt_recipe"])
    labels = read_official(shared_data / "longtail_official" / folder).labels
    sampler = instantiate(cfg.sampler, "sampler", labels=labels, stats=LabelStats.from_labels(labels), seed=0)
    assert (len(sampler), len(sampler) // cfg.runner.batch_size) == (images, steps)


@pytest.mark.parametrize("dataset", ["voc_mlt", "coco_mlt"])
def test_each_method_of_the_table_is_a_recipe_for_each_set(dataset: str) -> None:
    found = [path.stem for path in (CONFIGS / "experiment").glob(f"{dataset}_*.yaml")]
    assert sorted(found) == sorted(f"{dataset}_{method}" for method in METHODS)


def test_a_generated_split_of_any_data_trains_as_csv(tmp_path: Path) -> None:
    labels = shapes(root=str(tmp_path / "shapes"), num_train=40, num_val=8, image_size=32).train
    write_split(
        tmp_path / "split", train=labels.select(range(0, 40, 2)), val=labels.select(range(1, 40, 2)), manifest={}
    )
    options = [f"dataset.file={tmp_path}/split/labels.csv", f"dataset.classes={tmp_path}/split/classes.txt"]
    folder = fit(
        [
            "dataset=csv",
            *options,
            f"dataset.root={labels.root}",
            *SMALL,
            f"paths.runs={tmp_path}/runs",
            "runner.epochs=1",
        ]
    )
    assert (folder / "stats.json").is_file() and 0 < result_of(folder)["val"]["map"] <= 100

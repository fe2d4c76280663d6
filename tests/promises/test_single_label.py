"""Runs of task=single_label: one label an image, from a folder of each class."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sklearn import metrics as sk

from mltrain import losses
from mltrain.cli import read
from mltrain.commands.create_longtail_dataset import COMMAND, create_longtail
from mltrain.commands.evaluate import Options, evaluate
from mltrain.config.build import load, load_run
from mltrain.config.rules import BEST, best_figure, single_label_losses, task_of_loss
from mltrain.engine.step import TrainStep
from mltrain.errors import ConfigError, DataError, Interrupted
from tests.promises.runs import TINY, assert_same, fit, records, state, stop_at

SHAPES = ("circle", "cross", "square")
LOSSES = ["cross_entropy", "asl_softmax", "focal_softmax", "ldam_softmax"]


def draw(file: Path, shape: str, k: int) -> None:
    """One shape on a plain ground, somewhere else in each image."""
    image = Image.new("RGB", (40, 40), (20, 30, 60))
    pen, x, y = ImageDraw.Draw(image), 12 + 7 * k % 17, 12 + 5 * k % 17
    if shape == "circle":
        pen.ellipse((x - 9, y - 9, x + 9, y + 9), fill=(220, 60, 60))
    elif shape == "square":
        pen.rectangle((x - 9, y - 9, x + 9, y + 9), fill=(60, 220, 60))
    else:
        pen.line((x - 9, y - 9, x + 9, y + 9), fill=(90, 90, 250), width=5)
        pen.line((x - 9, y + 9, x + 9, y - 9), fill=(90, 90, 250), width=5)
    image.save(file)


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long-tailed: 16, 10 and 6 training images; 4 of each in val and test."""
    root = tmp_path_factory.mktemp("folder")
    for part, counts in (("train", (16, 10, 6)), ("val", (4, 4, 4)), ("test", (4, 4, 4))):
        for shape, count in zip(SHAPES, counts, strict=True):
            (root / part / shape).mkdir(parents=True)
            for k in range(count):
                draw(root / part / shape / f"{k}.png", shape, k + len(part))
    return root


@pytest.fixture
def single(shapes_folder: Path, tmp_path: Path) -> list[str]:
    """Overrides of a run of 2 epochs of 2 steps."""
    kept = [item for item in TINY if not item.startswith("dataset.")]
    return [*kept, "dataset=folder", f"dataset.root={shapes_folder}", f"paths.runs={tmp_path}/runs"]


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_evaluates_and_reports(single: list[str], loss: str) -> None:
    options = ["dataset.test=test", "metrics.head_min=16", "metrics.medium_min=10", "metrics.save_predictions=true"]
    folder = fit([*single, f"loss={loss}", "runner.max_steps=2", *options])
    result = json.loads((folder / "result.json").read_text())
    assert result["steps"] == 2
    figures = set(BEST["single_label"]) | {"macro_P", "macro_R", "weighted_P", "weighted_R", "mauc"}
    figures |= {"accuracy_head", "accuracy_medium", "accuracy_tail"}
    for scalars in (result["val"], result["ema"], *result["test"].values()):
        assert figures <= scalars.keys() and "map" not in scalars
        assert all(math.isfinite(value) for value in scalars.values())
    best = result["best"]
    assert best["by"] == "accuracy" and best["accuracy"] == result[best["weights"]]["accuracy"]
    saved = np.load(folder / "predictions.npz")
    labels, predicted = saved["targets"].argmax(1), saved[f"logits_{best['weights']}"].argmax(1)
    with (folder / "confusion.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header[1:] == [row[0] for row in rows] == list(SHAPES)
    assert [list(map(int, row[1:])) for row in rows] == sk.confusion_matrix(labels, predicted).tolist()
    assert best["accuracy"] == pytest.approx(100 * sk.accuracy_score(labels, predicted))
    assert {"per_class.csv", "per_class_recall.png", "per_class_test.csv", "confusion_test.csv"} <= {
        path.name for path in folder.iterdir()
    }


def test_the_list_of_losses_is_that_of_the_configs() -> None:
    assert single_label_losses() == sorted(LOSSES)
    for loss in LOSSES:
        assert load(["dataset=folder", f"loss={loss}"]).task == "single_label"


def test_stopped_run_resumes_to_the_same_bits(
    single: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [
        "loss=asl_softmax",
        "loss.class_weight=effective",
        "mix=mixup",
        "runner.accumulate=2",
        "runner.batch_size=8",
    ]
    whole = fit([*single, *options])
    stopped = [*single, *options, f"paths.runs={tmp_path}/stopped"]
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        with pytest.raises(Interrupted):
            fit(stopped)
    resumed = fit(stopped)
    for name in ("last", "best"):
        assert_same(state(whole, name), state(resumed, name))
    assert records(whole) == records(resumed)


def test_it_learns_the_shapes_and_evaluates_again_from_its_folder(single: list[str]) -> None:
    options = ["runner.epochs=12", "optimizer.lr=0.01", "augment=none", "metrics.best=balanced_accuracy", "ema=none"]
    folder = fit([*single, *options])
    result = json.loads((folder / "result.json").read_text())
    assert result["val"]["balanced_accuracy"] > 80
    assert result["best"]["by"] == "balanced_accuracy"
    again = evaluate(load_run(folder), folder)
    assert again is not None and again["val"] == result["val"]
    assert (folder / "evaluation_val_confusion.csv").read_text() == (folder / "confusion.csv").read_text()
    with pytest.raises(ConfigError, match=r"tune=thresholds.*task=multi_label.*nothing to tune"):
        evaluate(load_run(folder), folder, Options(tune="thresholds", tune_folds=2))


def test_folders_train_with_sigmoids_as_multi_label(single: list[str]) -> None:
    folder = fit([*single, "task=multi_label", "loss=asl", "runner.max_steps=1", "metrics.best=micro_ap"])
    result = json.loads((folder / "result.json").read_text())
    assert {"map", "OF1"} <= result["val"].keys()
    assert (
        result["best"]["by"] == "micro_ap"
        and result["best"]["micro_ap"] == result[result["best"]["weights"]]["micro_ap"]
    )
    assert not (folder / "confusion.csv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["dataset=folder", "loss=asl"], r"AsymmetricLoss is for task=multi_label.*loss=asl_softmax, cross_entropy"),
        (["loss=cross_entropy"], r"CrossEntropy is for task=single_label.*loss=asl, or task=single_label"),
        (["dataset=folder", "task=multi_label"], r"CrossEntropy is for task=single_label"),
        (["dataset=folder", "metrics.best=map"], r"metrics\.best=map: task=single_label.*accuracy, balanced_accuracy"),
        (["metrics.best=g_mean"], r"metrics\.best=g_mean: task=multi_label.*map, micro_ap"),
        (["dataset=folder", "metrics.threshold=0.3"], r"metrics\.threshold=0\.3: .*highest logit"),
        (["dataset=folder", "metrics.topk=1"], r"metrics\.topk=1: "),
        (["dataset=folder", "metrics.words_k=null"], r"metrics\.words_k=null: "),
        (["dataset=folder", "mix=mixup", "mix.targets=union"], r"mix\.targets=union: .*mix\.targets=linear"),
        (["task=single"], r"task=single: .*did you mean task=single_label"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_wrong_combination_is_refused_with_the_config(options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load(options)


def test_images_of_several_labels_or_none_are_refused_before_training(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainStep, "__call__", None)
    with pytest.raises(DataError, match=r"shapes/train: \d+ of 80 images have not exactly one label.*task=multi_label"):
        fit([*overrides, "task=single_label", "loss=cross_entropy"])
    for k in range(8):
        draw(tmp_path / f"{k}.png", "square", k)
    kept = [item for item in overrides if not item.startswith("dataset.")]
    for labels, message in (
        (["a", "", "b"], r"csv/train: 1 of 4 .*\n  1\.png: no label"),
        (["a", "a;b"], r"1\.png: a, b"),
        (["a"], "1 class"),
    ):
        rows = [f"{k}.png,{labels[k % len(labels)]},{'train' if k < 4 else 'val'}" for k in range(8)]
        (tmp_path / "labels.csv").write_text("\n".join(["image,labels,split", *rows]) + "\n")
        csv_file = ["dataset=csv", f"dataset.file={tmp_path}/labels.csv", "task=single_label", "loss=cross_entropy"]
        with pytest.raises(DataError, match=message):
            fit([*kept, *csv_file])


def test_the_figure_that_chooses_is_the_first_of_its_task_by_default() -> None:
    assert best_figure("multi_label", None) == "map" and best_figure("single_label", None) == "accuracy"
    assert best_figure("single_label", "g_mean") == "g_mean"


def test_every_loss_of_the_package_names_its_task() -> None:
    classes = [getattr(losses, name) for name in losses.__all__]
    assert {cls.task for cls in classes} == {"multi_label", "single_label"}
    for cls in classes:
        assert task_of_loss(f"{cls.__module__}.{cls.__name__}") == cls.task


def test_images_of_unknown_label_are_left_out_of_training_and_figures(single: list[str], tmp_path: Path) -> None:
    """A mark of a verified negative makes a csv partially labelled: beside a positive that changes nothing."""
    labels = ["a", "b", "!a", "b;!a"]  # the third is not a: what it is instead is unknown
    for k in range(24):
        draw(tmp_path / f"{k}.png", SHAPES[k % 2], k)
    rows = [f"{k}.png,{labels[k % 4]},{'train' if k < 16 else 'val'}" for k in range(24)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,labels,split", *rows]) + "\n")
    kept = [item for item in single if not item.startswith("dataset")]
    options = ["dataset=csv", f"dataset.file={tmp_path}/labels.csv", "task=single_label", "loss=cross_entropy"]
    folder = fit([*kept, *options, "runner.batch_size=4", "runner.accumulate=2"])
    result = json.loads((folder / "result.json").read_text())
    assert result["steps"] == 4 and math.isfinite(result["val"]["accuracy"])
    with (folder / "per_class.csv").open() as file:
        assert sum(int(row["val_predicted"]) for row in csv.DictReader(file)) == 6, "of 8 images 2 are of unknown label"


def test_long_tailed_split_of_a_folder_trains(
    single: list[str], shapes_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = [
        "dataset=folder",
        f"dataset.root={shapes_folder}",
        "curve=exponential",
        "max=9",
        "min=3",
        "val_fraction=0.2",
    ]
    cfg, options = read(COMMAND, [*words, f"out={tmp_path}/split", "shortage=clip"])
    with caplog.at_level("INFO", "mltrain"):
        create_longtail(cfg, options)
    command = caplog.messages[-1].partition("train on it: ")[2].split()
    assert command[:3] == ["python", "tools/train.py", "dataset=csv"]
    kept = [item for item in single if not item.startswith("dataset")]
    result = json.loads(
        (fit([*kept, *command[2:], "runner.batch_size=4", "runner.max_steps=2"]) / "result.json").read_text()
    )
    assert result["steps"] == 2 and "accuracy" in result["val"]

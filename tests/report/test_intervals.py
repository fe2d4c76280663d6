"""Intervals, chance levels and tuned thresholds of the page of a run; and the colours of all pages."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from mltrain.engine.run_folder import RunFolder
from mltrain.errors import DataError
from mltrain.files import write_json
from mltrain.metrics.single_label import summarize_single_label
from mltrain.metrics.summary import summarize
from mltrain.report import intervals, palette
from mltrain.report.bootstrap import centred_interval
from mltrain.report.html.predicted import prepare
from mltrain.report.html.run_report import class_table, run_page
from mltrain.report.tables import MEANINGS, meaning
from tests.report.made_runs import make_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "small-gap-asl" / "00000000", classes=25, images=150)


def test_a_centred_interval_lies_about_the_value() -> None:
    resampled = np.arange(101.0)  # mean 50, percentiles 2.5 and 97.5
    assert centred_interval(40.0, resampled) == pytest.approx((40.0, -7.5, 87.5))


def test_intervals_are_of_the_reported_figures_and_narrow_with_the_spread(folder: Path) -> None:
    run = RunFolder(folder)
    found = intervals.intervals_of(run, run.predictions(), 200)
    assert set(found) == {key for key in run.scalars() if key in ("map", "map_head", "map_medium", "map_tail")}
    for key, (value, low, high) in found.items():
        assert value == run.scalars()[key] and low < value < high
    widths = {key: high - low for key, (_, low, high) in found.items()}
    assert widths["map_tail"] > widths["map_head"], "few images of a class say less"
    again = intervals.intervals_of(run, run.predictions(), 200)
    assert again == found, "the same each time"


def test_intervals_of_another_evaluation_are_refused(folder: Path) -> None:
    run = RunFolder(folder)
    saved = run.predictions()
    run.result[saved.weights]["map"] += 1
    with pytest.raises(DataError, match="of another evaluation"):
        intervals.intervals_of(run, saved, 200)


def test_large_predictions_get_fewer_resamples_or_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = RunFolder(folder).predictions()
    assert intervals.affordable(saved, 1000) == 1000 and intervals.affordable(saved, 50) == 50
    monkeypatch.setattr(intervals, "ENTRIES", 300 * saved.targets.size)
    assert intervals.affordable(saved, 1000) == 300
    monkeypatch.setattr(intervals, "ENTRIES", 100 * saved.targets.size)
    assert intervals.affordable(saved, 1000) == 0, "percentiles of so few would be noise"
    assert intervals.affordable(saved, 0) == 0


def test_chance_is_the_prevalence(folder: Path) -> None:
    targets = np.array([[1, 0, -1], [0, 0, 1], [1, 0, -1], [1, 0, 0]], dtype=np.int8)
    assert intervals.prevalence(targets).tolist() == [75.0, 0.0, 50.0]
    run = RunFolder(folder)
    saved = run.predictions()
    share = 100 * (saved.targets == 1).mean(axis=0)
    found = intervals.chance_levels(run, saved)
    assert found["map"] == pytest.approx(share[share > 0].mean()), "classes without a positive do not count"
    assert run.stats is not None
    tail = run.stats.group_indices()["tail"]
    assert found["map_tail"] == pytest.approx(share[tail][share[tail] > 0].mean())


def test_chance_of_single_labels_is_the_most_frequent_class(tmp_path: Path) -> None:
    run = RunFolder(make_run(tmp_path / "x" / "00000000", classes=8, images=80, single_label=True))
    saved = run.predictions()
    most = np.bincount(saved.targets.argmax(axis=1)).max()
    assert intervals.chance_levels(run, saved) == {"accuracy": pytest.approx(100 * most / 80)}
    assert "accuracy" in intervals.intervals_of(run, saved, 50)


def tuned(run: RunFolder, **changes: object) -> np.ndarray:
    """Write thresholds.json, as tune_thresholds does."""
    saved = run.predictions()
    values = np.linspace(0.2, 0.9, len(saved.class_names))
    content = {
        "class_names": list(saved.class_names),
        "thresholds": values.tolist(),
        "weights": saved.weights,
        "best": {key: run.result["best"][key] for key in ("epoch", "step")},
        "chosen_by": "the best F1 of each class",
        "tuned_on": {"split": "val"},
        "folds": 5,
        "figures": {"OF1": 71.5, "CF1": 66.25, "macro_F1": 60.0},
        "figures_before": {"OF1": 70.0, "CF1": 65.0, "macro_F1": 59.0},
    }
    write_json(run.folder / "thresholds.json", content | changes)
    return values


def test_tuned_thresholds_are_used_and_named(tmp_path: Path) -> None:
    run = RunFolder(make_run(tmp_path / "x" / "00000000", classes=12))
    values = tuned(run)
    saved = run.predictions()
    ready, why = prepare(run, saved)
    assert why == ""
    predicted = ready.probability > values
    assert (ready.predicted == predicted).all() and (predicted != (ready.probability > 0.5)).any()
    columns = {column.title: column for column in class_table(run, run.classes["val"], ready).columns}
    assert columns["threshold"].values == pytest.approx(values)
    assert columns["predicted"].values == predicted.sum(axis=0).tolist()
    hits, positives = (predicted & (saved.targets == 1)).sum(axis=0), (saved.targets == 1).sum(axis=0)
    there = positives > 0
    f1 = 200 * hits / np.maximum(predicted.sum(axis=0) + positives, 1)
    assert np.asarray(columns["F1"].values)[there] == pytest.approx(f1[there])
    page = run_page(run, {}, resamples=0)
    notes = " ".join(page.sections[0].context["notes"])
    assert "the best F1 of each class" in notes and "OF1 70.00 → 71.50" in notes and "5 folds" in notes
    assert page.classes["views"]["class 6"]["threshold"] == pytest.approx(values[6], rel=1e-2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"best": {"epoch": 1, "step": 25}}, "of an earlier epoch"),
        ({"weights": "none"}, "is of the none weights"),
        ({"thresholds": [0.5]}, "1 threshold for 12 classes"),
    ],
)
def test_thresholds_that_do_not_fit_are_named_and_not_used(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    run = RunFolder(make_run(tmp_path / "x" / "00000000", classes=12))
    tuned(run, **changes)
    ready, why = prepare(run, run.predictions())
    assert reason in why and ready.tuned is None
    assert (ready.predicted == (run.predictions().logits > 0)).all()
    assert any(reason in text for _, text in run_page(run, {}, resamples=0).left_out)


def test_every_figure_of_a_run_is_explained(folder: Path) -> None:
    logits, targets = torch.tensor([[2.0, -1.0, 0.5], [-1.0, 1.0, 0.0]]), torch.tensor([[1, 0, 0], [0, 1, 1]])
    labels = torch.eye(3, dtype=torch.int8)
    groups = {"tail": [1], "unseen": [2], "seen": [0, 1]}
    several = summarize(logits, targets.to(torch.int8), group_indices=groups, topk=2, words_k=2, ranking=True)
    single = summarize_single_label(torch.randn(3, 3), labels, group_indices={"tail": [1]})
    for key in {**RunFolder(folder).scalars(), **several.scalars, **single.scalars}:
        assert meaning(key), key
    assert "(N+)" in MEANINGS["words_N+"]
    assert meaning("CF1@3").endswith("predicted are the 3 highest of each image, at most")
    assert meaning("map_tail").endswith("; tail classes") and meaning("nothing") == ""


def lab(color: str, deficiency: np.ndarray) -> np.ndarray:
    """CIELAB of a colour (#rrggbb) as people with a deficiency see it."""
    srgb = np.array([int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    linear = deficiency @ np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(linear, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Machado, Oliveira and Fernandes, 2009: matrices of severity 1 for linear RGB
SEEN = {
    "all": np.eye(3),
    "protanopia": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "deuteranopia": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
}


@pytest.mark.parametrize("colours", [palette.LIGHT, palette.DARK], ids=["light", "dark"])
@pytest.mark.parametrize("eyes", SEEN)
def test_colours_can_be_told_apart_and_have_one_meaning(colours: dict[str, str], eyes: str) -> None:
    groups = ["head", "medium", "tail", "text", "neutral"]
    for a, b in itertools.combinations(groups, 2):
        distance = np.linalg.norm(lab(colours[a], SEEN[eyes]) - lab(colours[b], SEEN[eyes]))
        assert distance > 14, (a, b, distance)
    series = [f"s{k}" for k in range(10)]
    meanings = ["head", "medium", "tail", "unseen", "hit", "wrong", "missed", "text", "neutral", *series]
    assert len({colours[key] for key in meanings}) == len(meanings), "two meanings share a colour"

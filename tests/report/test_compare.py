"""Tables of runs: rows, columns, figures, baselines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mltrain.errors import DataError
from mltrain.report.bootstrap import percentile_interval, resample, resampled_figures
from mltrain.report.compare import Comparison, compare, sort_rows
from mltrain.report.differences import add_differences
from mltrain.report.results_table import default_columns, terminal
from tests.report.run_folders import predictions, records, write_run


def one(runs: Path) -> Comparison:
    (table,) = compare(records(runs))
    return table


def test_seeds_are_averaged_and_rows_sorted_by_the_main_figure(tmp_path: Path) -> None:
    for loss, values in {"bce": (40.0, 42.0, 47.0), "asl": (50.0, 51.0)}.items():
        for seed, value in enumerate(values):
            write_run(tmp_path, f"loss={loss}", seed=seed, map=value)
    table = one(tmp_path)
    assert table.columns == ["loss"] and [row.settings for row in table.rows] == [{"loss": "asl"}, {"loss": "bce"}]
    figure = table.rows[1].figures["map"]
    assert figure.mean == pytest.approx(43.0) and figure.std == pytest.approx(np.std([40, 42, 47], ddof=1))
    assert figure.values == (40.0, 42.0, 47.0)
    assert table.rows[1].figures["seconds"].mean == pytest.approx(61.0)
    assert table.split == "val" and any("chosen on the images" in note for note in table.notes)


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    write_run(tmp_path)
    (row,) = one(tmp_path).rows
    assert row.figures["map"].std is None and row.settings == {} and row.label == "small-gap-asl"


def test_columns_are_what_differs_and_can_change_a_result(tmp_path: Path) -> None:
    quiet = {"data.num_workers": 7, "logger.every_steps": 3, "runner.eval_batch_size": 5, "paths.runs": "/elsewhere"}
    write_run(tmp_path, "loss=asl")
    write_run(tmp_path, "loss=asl", changes={"loss.gamma_neg": 2.0, **quiet})
    write_run(tmp_path, "loss=bce", changes={"runner.epochs": 10, "schedule.epochs": 10})
    write_run(tmp_path, "loss=bce", changes={"optimizer.lr": 0.5, "metrics.absent": "zero"})
    table = one(tmp_path)
    # schedule.epochs says no more than runner.epochs; ASL's clip differs from nothing that BCE has.
    assert table.columns == ["loss", "runner.epochs", "optimizer.lr", "loss.gamma_neg", "metrics.absent"]
    by_gamma = {row.settings.get("loss.gamma_neg") for row in table.rows if row.settings["loss"] == "asl"}
    assert by_gamma == {4.0, 2.0} and all("loss.gamma_neg" not in r.settings for r in table.rows[2:])


def test_a_setting_that_follows_from_a_column_is_a_note(tmp_path: Path) -> None:
    for loss in ("asl", "bce"):
        write_run(tmp_path, f"loss={loss}")
        write_run(tmp_path, f"loss={loss}", "head=ml_decoder", "head.dim=32", changes={"model.image_size": 128})
    table = one(tmp_path)
    assert table.columns == ["head", "loss"]
    (implied,) = table.implied
    assert (implied.key, implied.values) == ("model.image_size", {"gap": "64", "ml_decoder": "128"})
    assert "Every run with head=ml_decoder has model.image_size=128." in table.notes


def test_runs_on_other_data_or_of_another_task_are_other_tables(tmp_path: Path) -> None:
    write_run(tmp_path)
    write_run(tmp_path, changes={"dataset.name": "more"})
    write_run(tmp_path, "dataset=digits")
    assert [(t.dataset, t.task) for t in compare(records(tmp_path))] == [
        ("digits", "single_label"),
        ("more", "multi_label"),
        ("shapes", "multi_label"),
    ]


def test_unfinished_runs_stay_visible(tmp_path: Path) -> None:
    write_run(tmp_path, "loss=bce", seed=0)
    write_run(tmp_path, "loss=bce", seed=1, finished=False)
    write_run(tmp_path, "loss=asl", seed=0, finished=False)
    table = one(tmp_path)
    (row,) = table.rows
    assert table.columns == ["loss"] and len(row.runs) == 1 and len(row.unfinished) == 1
    assert len(table.unfinished) == 2
    write_run(tmp_path, config_text=": [")
    assert "unreadable" in {run.status for run in one(tmp_path).unfinished}


def test_only_unreadable_runs_make_a_table_too(tmp_path: Path) -> None:
    write_run(tmp_path, config_text="[")
    table = one(tmp_path)
    assert not table.rows and len(table.unfinished) == 1


def test_the_same_run_twice_counts_once(tmp_path: Path) -> None:
    write_run(tmp_path, map=40.0)
    write_run(tmp_path, map=42.0, changes={"name": "again"})
    table = one(tmp_path)
    (row,) = table.rows
    assert len(row.runs) == 1 and any("1 runs repeat another" in note for note in table.notes)


def test_the_test_split_is_reported_where_all_have_one(tmp_path: Path) -> None:
    write_run(tmp_path, "loss=bce", split="test")
    assert one(tmp_path).split == "test"
    write_run(tmp_path, "loss=asl")
    assert one(tmp_path).split == "val"
    with pytest.raises(DataError, match="no figures of the test split"):
        compare(records(tmp_path), split="test")


def test_an_older_config_compares_with_a_newer_one(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "loss=bce", seed=0)
    text = (folder / "config.yaml").read_text()
    kept = [line for line in text.splitlines() if "min_negatives" not in line and "label_smoothing" not in line]
    (folder / "config.yaml").write_text("\n".join(kept))
    write_run(tmp_path, "loss=bce", seed=1)
    table = one(tmp_path)
    assert table.columns == [] and len(table.rows[0].runs) == 2


def with_predictions(runs: Path, *overrides: str, seed: int = 0, strength: float = 1.0, split: str = "val") -> Path:
    logits, targets = predictions(seed=seed, strength=strength)
    return write_run(runs, *overrides, seed=seed, logits=logits, targets=targets, split=split)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_difference_is_of_means_over_seeds_with_the_paired_interval(tmp_path: Path, split: str) -> None:
    for seed in (0, 1):
        with_predictions(tmp_path, "loss=bce", seed=seed, split=split)
        with_predictions(tmp_path, "loss=asl", seed=seed + 2, strength=2.0, split=split)
    table = one(tmp_path)
    add_differences(table, "loss=bce", resamples=50)
    better, base = table.rows
    assert base.is_baseline and base.difference is None and better.difference is not None
    weights = resample(60, 50)
    found = []
    for seed, strength in ((0, 1.0), (1, 1.0), (2, 2.0), (3, 2.0)):
        logits, targets = predictions(seed=seed, strength=strength)
        found.append(resampled_figures(logits, targets, weights, {})["map"])
    difference = (found[2] + found[3]) / 2 - (found[0] + found[1]) / 2
    value = better.figures["map"].mean - base.figures["map"].mean
    wanted = percentile_interval(value, difference)
    assert better.difference.value == wanted.value
    assert (better.difference.low, better.difference.high) == (wanted.low, wanted.high)
    assert better.difference.low > 0, "twice the strength is better"
    add_differences(table, "loss=bce", figure="map_tail", resamples=50)
    assert better.difference.figure == "map_tail" and better.difference.low is not None


def test_each_row_is_compared_with_the_baseline_of_its_other_settings(tmp_path: Path) -> None:
    values = {
        ("bce", "uniform"): 40.0,
        ("asl", "uniform"): 45.0,
        ("bce", "class_aware"): 30.0,
        ("asl", "class_aware"): 36.0,
    }
    for (loss, sampler), value in values.items():
        write_run(tmp_path, f"loss={loss}", f"sampler={sampler}", map=value)
    table = one(tmp_path)
    add_differences(table, "loss=bce", resamples=0)
    found = {row.label: row.difference.value for row in table.rows if row.difference}
    assert found == {"loss=asl sampler=uniform": 5.0, "loss=asl sampler=class_aware": 6.0}
    add_differences(table, ["loss=bce", "sampler=uniform"], resamples=0)
    found = {row.label: row.difference.value for row in table.rows if row.difference}
    assert found == {
        "loss=asl sampler=uniform": 5.0,
        "loss=bce sampler=class_aware": -10.0,
        "loss=asl sampler=class_aware": -4.0,
    }
    with pytest.raises(ValueError, match="no run has the figure accuracy"):
        add_differences(table, "loss=bce", figure="accuracy")
    with pytest.raises(ValueError, match="none of the finished runs is loss=db, the baseline"):
        add_differences(table, "loss=db")


def test_no_interval_where_predictions_are_missing_or_of_other_images(tmp_path: Path) -> None:
    with_predictions(tmp_path, "loss=bce")
    write_run(tmp_path, "loss=asl", map=99.0)
    logits, targets = predictions(n=50)
    write_run(tmp_path, "loss=db", logits=logits, targets=targets)
    folder = with_predictions(tmp_path, "loss=focal")
    arrays = dict(np.load(folder / "predictions.npz"))
    np.savez(folder / "predictions.npz", **(arrays | {"logits_ema": -arrays["logits_ema"]}))
    table = one(tmp_path)
    add_differences(table, "loss=bce", resamples=20)
    why = {row.settings["loss"]: row.difference.why for row in table.rows if row.difference}
    assert all(row.difference.low is None for row in table.rows if row.difference)
    assert why["asl"].startswith("RUN: the run has kept no predictions of the val split; mltrain evaluate RUN")
    assert "other images" in why["db"] and "of another evaluation" in why["focal"]


def test_rows_are_sorted_by_figure_time_or_setting(tmp_path: Path) -> None:
    for loss, value, seed in (("bce", 40.0, 2), ("asl", 45.0, 1), ("db", 30.0, 0)):
        write_run(tmp_path, f"loss={loss}", map=value, seed=seed, changes={"runner.epochs": 10 + seed})
    table = one(tmp_path)

    def losses(key: str) -> list[str]:
        sort_rows(table, key)
        return [str(row.settings["loss"]) for row in table.rows]

    assert losses("map") == ["asl", "bce", "db"] and losses("-map") == ["db", "bce", "asl"]
    assert losses("seconds") == ["db", "asl", "bce"] and losses("-seconds") == ["bce", "asl", "db"]
    assert losses("loss") == ["asl", "bce", "db"] and losses("-loss") == ["db", "bce", "asl"]
    assert losses("epochs") == ["db", "asl", "bce"]
    with pytest.raises(ValueError, match="no such figure or setting"):
        sort_rows(table, "nothing")


def write_folds(runs: Path, loss: str, values: dict[tuple[int, int], float]) -> None:
    """Runs of three folds, by (seed, fold)."""
    for (seed, fold), value in values.items():
        changes = {"dataset.folds": 3, "dataset.fold": fold}
        write_run(runs, f"loss={loss}", seed=seed, changes=changes, map=value)


def test_folds_are_averaged_as_seeds_are(tmp_path: Path) -> None:
    write_folds(tmp_path, "bce", {(0, 0): 40.0, (0, 1): 42.0, (0, 2): 47.0})
    write_folds(tmp_path, "asl", {(0, 0): 50.0, (0, 2): 54.0})
    table = one(tmp_path)
    assert table.columns == ["loss"] and [row.settings["loss"] for row in table.rows] == ["asl", "bce"]
    figure = table.rows[1].figures["map"]
    assert figure.values == (40.0, 42.0, 47.0) and figure.mean == pytest.approx(43.0)
    assert figure.std == pytest.approx(np.std([40, 42, 47], ddof=1))
    assert table.repeats == "folds" and "folds" in terminal(table, default_columns(table), bold=False)
    assert "loss=asl: 2 of 3 folds; without 1." in table.notes
    assert "Rows have from 2 to 3 folds." in table.notes


def test_folds_and_seeds_make_one_row_and_other_folds_another(tmp_path: Path) -> None:
    write_folds(tmp_path, "bce", {(seed, fold): 40.0 + seed + fold for seed in (0, 1) for fold in (0, 1, 2)})
    write_run(tmp_path, "loss=bce", map=30.0)
    table = one(tmp_path)
    assert [len(row.runs) for row in table.rows] == [6, 1] and table.repeats == "runs"
    assert table.columns == ["dataset.folds"]
    assert table.rows[0].figures["map"].values == (40.0, 41.0, 42.0, 41.0, 42.0, 43.0), "by seed, then by fold"


def test_intervals_over_folds_resample_the_images_of_each_fold(tmp_path: Path) -> None:
    folds = {fold: [predictions(40 + fold, seed, strength) for seed, strength in ((fold, 1.0), (fold + 5, 2.0))]
             for fold in (0, 1, 2)}  # fmt: skip
    for fold, both in folds.items():
        for loss, (logits, targets) in zip(("bce", "asl"), both, strict=True):
            changes = {"dataset.folds": 3, "dataset.fold": fold}
            write_run(tmp_path, f"loss={loss}", changes=changes, logits=logits, targets=targets)
    table = one(tmp_path)
    add_differences(table, "loss=bce", resamples=50)
    (difference,) = [row.difference for row in table.rows if row.difference is not None]
    assert difference.why == "" and difference.low is not None and difference.high is not None
    assert difference.low <= difference.value <= difference.high and difference.value > 0
    expected = []
    for fold, both in folds.items():
        weights = resample(40 + fold, 50, fold)
        b, a = (resampled_figures(logits, targets, weights, {})["map"] for logits, targets in both)
        expected.append(a - b)
    interval = percentile_interval(difference.value, np.mean(expected, axis=0))
    assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))
    third = next(row for row in table.rows if row.settings["loss"] == "asl").runs.pop()
    add_differences(table, "loss=bce", resamples=50)
    (difference,) = [row.difference for row in table.rows if row.difference is not None]
    assert difference.low is None and "has the folds [0, 1], the baseline [0, 1, 2]" in difference.why, third.folder

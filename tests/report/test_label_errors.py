"""mltrain find_label_errors: known errors come first, unknown labels, the page in a browser, corrections that train."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

pytest.importorskip("cleanlab", reason="pip install 'mltrain-vision[clean]'")

from mltrain.commands.find_label_errors import Options, _warn_if_weak, find_label_errors
from mltrain.config.build import instantiate, load
from mltrain.datasets.splits import Splits
from mltrain.engine.saved_tables import SavedPredictions
from mltrain.errors import ConfigError, DataError
from mltrain.report.label_errors import HeldOut, find_candidates, join, judged, skill
from tests.report.browser import Opened, browser

EVIL = "=<img src=x onerror=alert(1)>"
NAMES = (EVIL, "sea", "sun", "never")


def truth(images: int, seed: int = 0, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Right labels of `NAMES`, and logits that tell them apart but for few; the last class has no positive."""
    rng = np.random.default_rng(seed)
    right = (rng.random((images, len(NAMES))) < (0.5, 0.3, 0.1, 0)).astype(np.int8)
    return right, (noise * rng.normal(size=right.shape) + np.where(right == 1, 3.0, -4.0)).astype(np.float32)


def flipped(right: np.ndarray, entries: list[tuple[int, int]]) -> np.ndarray:
    made = right.copy()
    for i, k in entries:
        made[i, k] = 1 - made[i, k]
    return made


def of(targets: np.ndarray, logits: np.ndarray) -> HeldOut:
    files = tuple(f"{i}.png" for i in range(len(targets)))
    return HeldOut(files, NAMES, targets, 1 / (1 + np.exp(-logits.astype(np.float64))))


def saved(
    files: list[str], targets: np.ndarray, logits: np.ndarray, names: tuple[str, ...] = NAMES
) -> SavedPredictions:
    return SavedPredictions(logits, targets, tuple(files), names, "val", "val")


def some_flips(right: np.ndarray, each: int = 4) -> list[tuple[int, int]]:
    """The first images with and without the labels "sea" and "sun"."""
    return [(int(i), k) for k in (1, 2) for value in (0, 1) for i in np.flatnonzero(right[:, k] == value)[:each]]


# -- ranking -----------------------------------------------------------------------------------------------------------


def test_a_model_that_ranks_by_chance_is_told_from_one_that_knows(caplog: pytest.LogCaptureFixture) -> None:
    right, logits = truth(400)
    weak = np.random.default_rng(1).normal(size=logits.shape)
    (good, chance), (bad, same) = skill(of(right, logits)), skill(of(right, weak))
    assert chance == same == pytest.approx(right[:, :3].mean()) and good > 0.99 and abs(bad - chance) < 0.05
    unknown = np.where(np.arange(400)[:, None] < 100, -1, right)
    assert skill(of(unknown, logits))[1] == pytest.approx(right[100:, :3].mean())
    _warn_if_weak(good, chance)
    assert not caplog.text
    _warn_if_weak(bad, chance)
    assert "the model is too weak to find label errors: its mAP on these images is" in caplog.text


def test_known_errors_are_ranked_first_and_the_kinds_take_turns() -> None:
    right, logits = truth(400)
    flips = some_flips(right)
    targets = flipped(right, flips)
    found = find_candidates(of(targets, logits), count=len(flips))
    pairs = list(zip(found.rows.tolist(), found.columns.tolist(), strict=True))
    assert set(pairs) == set(flips) and len(found) == len(flips)
    assert found.given.tolist()[:4] == [1, 0, 1, 0]
    assert (found.given == targets[found.rows, found.columns]).all() and (found.suggested == 1 - found.given).all()
    for value in (0, 1):
        assert (np.diff(found.scores[found.given == value]) >= 0).all()
    assert find_candidates(of(targets, logits), ["missing"]).given.max() == 0
    assert find_candidates(of(targets, logits), ["wrong"]).given.min() == 1
    assert len(find_candidates(of(targets, logits), count=9_999)) == 400 * 3, "every label of a class with both values"
    assert found.counts() == {
        "missing": int((found.given == 0).sum()),
        "wrong": int((found.given == 1).sum()),
        "unknown": 0,
    }


def test_candidates_are_those_of_the_definition() -> None:
    """Confident joint of a class, Northcutt et al., section 3.1: p of the other value is at least its mean there."""
    right, logits = truth(150, seed=3, noise=2.5)
    held_out = of(flipped(right, some_flips(right, each=6)), logits)
    expected = set()
    for k in range(3):
        y, p = held_out.targets[:, k], held_out.probability[:, k]
        value_p = {1: p, 0: 1 - p}
        mean = {value: value_p[value][y == value].mean() for value in (0, 1)}
        for i in range(len(y)):
            confident = [value for value in (0, 1) if value_p[value][i] >= mean[value]]
            if confident and max(confident, key=lambda value: value_p[value][i]) != y[i]:
                expected.add((i, k))
    found = find_candidates(held_out)
    assert set(zip(found.rows.tolist(), found.columns.tolist(), strict=True)) == expected and len(expected) > 15


def test_unknown_labels_are_never_wrong_and_positive_only_on_request() -> None:
    right, logits = truth(400)
    targets = right.copy()
    unknown = some_flips(right, each=10)
    for i, k in unknown:
        targets[i, k] = -1
    found = find_candidates(of(targets, logits))
    assert not {(int(i), int(k)) for i, k in zip(found.rows, found.columns, strict=True)} & set(unknown)
    first = find_candidates(of(targets, logits), ["unknown"], count=5)
    more = find_candidates(of(targets, logits), ["unknown"])
    assert first.rows.tolist() == more.rows.tolist()[:5]
    pairs = {(int(i), int(k)) for i, k in zip(more.rows, more.columns, strict=True)}
    assert pairs <= {(i, k) for i, k in unknown if right[i, k] == 1} and len(pairs) > 8
    assert (more.given == -1).all() and (more.suggested == 1).all() and (np.diff(more.scores) >= 0).all()
    all_kinds = find_candidates(of(targets, logits), ["missing", "wrong", "unknown"])
    assert len(all_kinds) == len(found) + len(more)


def test_a_class_of_one_value_has_no_candidates() -> None:
    right, logits = truth(60)
    logits[:, 3] = 9  # the model is sure of a class without a positive
    held_out = of(right, logits)
    assert 3 not in find_candidates(held_out, ["missing", "wrong", "unknown"]).columns
    assert judged(held_out).tolist() == [True, True, True, False]
    unknown = np.full_like(right, -1)
    assert len(find_candidates(of(unknown, logits), ["missing", "wrong", "unknown"])) == 0


def test_runs_are_joined_by_image_and_class_name() -> None:
    right, logits = truth(6)
    swapped = (NAMES[1], NAMES[0], *NAMES[2:])
    order = [1, 0, 2, 3]
    joined = join(
        [
            ("a", saved(["0", "1", "2"], right[:3], logits[:3])),
            ("b", saved(["3", "4", "5"], right[3:, order], logits[3:, order], swapped)),
            ("c", saved(["2"], right[2:3], logits[2:3] + 1)),
        ]
    )
    assert joined.files == tuple("012345") and (joined.targets == right).all()
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    again = 1 / (1 + np.exp(-(logits[2] + 1).astype(np.float64)))
    assert np.allclose(joined.probability[[0, 5]], p[[0, 5]]) and np.allclose(joined.probability[2], (p[2] + again) / 2)
    with pytest.raises(DataError, match=r"b: other classes than a \(2 names .*: moon, sun\)"):
        join(
            [
                ("a", saved(["0"], right[:1], logits[:1])),
                ("b", saved(["1"], right[:1], logits[:1], (*NAMES[:2], "moon", "never"))),
            ]
        )
    with pytest.raises(DataError, match=r"b: 0 has other labels than in another of the runs"):
        join([("a", saved(["0"], right[:1], logits[:1])), ("b", saved(["0"], 1 - right[:1], logits[:1]))])


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of 60 images with flipped labels (`labels.csv`), and the run folders of its two folds."""
    folder = tmp_path / "data"
    (folder / "photos").mkdir(parents=True)
    right, logits = truth(60, seed=1)
    right[:4, 2] = 1  # the rarest class is in both folds
    logits[:4, 2] = 3
    targets = flipped(
        right, [(int(np.flatnonzero(right[:, 1] == 0)[0]), 1), (int(np.flatnonzero(right[:, 1] == 1)[0]), 1)]
    )
    files = [f"photos/{i}.png" for i in range(60)]
    files[0] = "photos/'=<b>0.png"
    lines = [["image", "labels", "split"]]
    for k, file in enumerate(files):
        Image.new("RGB", (8, 6), (k, 0, 0)).save(folder / file)
        lines.append([file, ";".join(NAMES[c] for c in np.flatnonzero(targets[k] == 1)), "train"])
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(lines)
    (folder / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")
    for fold in (0, 1):
        run = tmp_path / "runs" / f"fold{fold}"
        run.mkdir(parents=True)
        section = {"name": "mine", "root": str(folder), "folds": 2, "fold": fold}
        (run / "config.yaml").write_text(yaml.safe_dump({"dataset": section}))
        (run / "result.json").write_text(json.dumps({"val": {"map": 1.0}, "best": {"weights": "val"}}))
        arrays = {"files": np.array(files)[fold::2], "class_names": np.array(NAMES)}
        np.savez(run / "predictions.npz", logits_val=logits[fold::2], targets=targets[fold::2], **arrays)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_data(folder: Path, *more: str) -> Splits:
    words = [
        "dataset=csv",
        f"dataset.file={folder}/labels.csv",
        f"dataset.classes={folder}/classes.txt",
        "dataset.folds=2",
    ]
    splits = instantiate(load([*words, "model.image_size=32", *more]).dataset, "dataset")
    assert isinstance(splits, Splits)
    return splits


def dense(splits: Splits) -> dict[str, np.ndarray]:
    return {labels.file(i): labels.targets(i) for labels in splits[:2] for i in range(len(labels))}


def test_folds_give_a_table_that_corrects_the_labels_they_were_trained_on(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    runs = tmp_path / "runs"
    table, page = find_label_errors([str(runs / "fold0"), str(runs / "fold1")])
    assert (table, page) == (runs / "label_errors.csv", runs / "label_errors.html") and page.is_file()
    assert "60 images (all 2 folds of the training images): " in caplog.text
    assert "1 of 4 classes has no known positive or no known negative" in caplog.text
    rows = rows_of(table)
    assert list(rows[0]) == ["image", "class", "given", "suggested", "kind", "probability", "score"]
    assert {(row["class"], row["kind"]) for row in rows[:2]} == {("sea", "missing"), ("sea", "wrong")}
    before, after = dense(read_data(data)), dense(read_data(data, f"dataset.corrections={table}"))
    changed = {(file, NAMES[k]) for file, row in before.items() for k in np.flatnonzero(row != after[file])}
    by_place = {(row["image"].removeprefix("'"), row["class"].removeprefix("'")) for row in rows}
    assert changed == by_place and len(changed) == len(rows)


def test_a_single_run_says_how_to_see_the_other_images(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = tmp_path / "runs" / "fold1"
    table, _ = find_label_errors([str(run)], Options(out=str(tmp_path / "new" / "x.csv"), count=1, only="wrong"))
    assert table == tmp_path / "new" / "x.csv" and table.with_suffix(".html").is_file()
    assert "name the runs of dataset.fold=0" in caplog.text and "30 images (fold 1 of 2)" in caplog.text
    assert len(rows_of(table)) <= 1 and all(row["given"] == "1" for row in rows_of(table))
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    for k in (0, 1):
        (sweep / f"job-{k}.json").write_text(
            json.dumps({"folder": str(tmp_path / "runs" / f"fold{k}"), "state": "finished"})
        )
    caplog.clear()
    options = Options(out=str(tmp_path / "y.csv"), classes=["sun"], pictures=0)
    table, page = find_label_errors([str(sweep)], options)
    assert "all 2 folds" in caplog.text and {row["class"] for row in rows_of(table)} <= {"sun"}
    assert '"images":[]' in page.read_text(encoding="utf-8") and "no pictures" not in caplog.text
    caplog.clear()
    both = [str(tmp_path / "runs" / f"fold{k}") for k in (0, 1)]
    find_label_errors(both, Options(out=str(tmp_path / "z.csv"), images=str(tmp_path)))
    assert "no image can be read, so the page has no pictures; images=FOLDER" in caplog.text


def test_names_that_are_no_text_are_left_out_with_a_warning(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "runs" / "fold0"
    with np.load(run / "predictions.npz") as arrays:
        content = dict(arrays)
    content["files"] = np.array([f"photos/{i}\udcff.png" for i in range(30)])
    np.savez(run / "predictions.npz", **content)
    table, _ = find_label_errors([str(run)], Options(out=str(tmp_path / "x.csv")))
    assert "left out, because the names of their image files are not UTF-8" in caplog.text and rows_of(table) == []


def test_mistakes_are_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    run = str(runs / "fold0")

    def refused(kind: type[Exception], arguments: list[str], options: Options | None = None) -> str:
        with pytest.raises(kind) as error:
            find_label_errors(arguments, options)
        assert not (runs / "fold0" / "label_errors.csv").exists()
        return str(error.value)

    assert "name run folders" in refused(ConfigError, [])
    assert "nowhere: no such folder" in refused(DataError, ["nowhere"])
    assert "no run folder (with a config.yaml), and holds no finished run" in refused(DataError, [str(data)])
    assert "there is no class 'se'; did you mean 'sea'?" in refused(ConfigError, [run], Options(classes=["se"]))
    assert "kept no predictions of the test split" in refused(DataError, [run], Options(split="test"))
    assert "holds no logits of the weights 'ema'" in refused(DataError, [run], Options(weights="ema"))
    with pytest.raises(ValueError, match=r"out=x.html: the name must end in .csv"):
        Options(out="x.html")
    (data / "file").write_text("")
    assert "cannot be written" in refused(ConfigError, [run], Options(out=str(data / "file" / "x.csv")))
    config = runs / "fold1" / "config.yaml"
    config.write_text(yaml.safe_dump({"task": "single_label"}))
    assert "a run with task=single_label; the command is for task=multi_label" in refused(
        ConfigError, [str(runs / "fold1")]
    )
    (runs / "fold1" / "result.json").unlink()
    config.write_text("{}")
    assert "no finished run" in refused(DataError, [run, str(runs / "fold1")])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "needs cleanlab: pip install 'mltrain-vision[clean]'" in refused(ConfigError, [run])


def test_ticked_corrections_are_saved_from_the_page_and_train(data: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    table, page = find_label_errors([str(runs / "fold0"), str(runs / "fold1")])
    text, rows = page.read_text(encoding="utf-8"), rows_of(table)
    assert "<img src=x" not in text and "<b>0.png" not in text
    with browser() as started:
        opened = Opened(started, page)
        tab = opened.page
        assert opened.count(".item") == len(rows) and tab.locator("#save").is_disabled()
        assert opened.texts("#count") == [f"{len(rows)} candidates"]
        assert opened.count(".item img") == len(rows)
        for k in range(len(rows)):
            shown = tab.locator(".item").nth(k).text_content()
            assert rows[k]["class"].removeprefix("'") in shown and rows[k]["image"].removeprefix("'") in shown
        tab.locator(".item").nth(1).click()
        tab.locator(".item input").nth(0).check()
        assert opened.texts("#ticked") == ["2 corrections ticked"]
        tab.locator("#filters button", has_text="ticked").click()
        assert opened.count(".item") == 2
        with tab.expect_download() as download:
            tab.locator("#save").click()
        corrections = tmp_path / download.value.suggested_filename
        download.value.save_as(corrections)
        assert not opened.network
        tab.reload()
        tab.wait_for_selector("html[data-ready]", state="attached")
        assert opened.texts("#ticked") == ["2 corrections ticked"], "a reload keeps them"
        count = sum(row["class"] == "sea" for row in rows)
        tab.locator("#class").select_option(label=f"sea ({count})")
        assert opened.count(".item") == count and set(opened.texts(".what span")) == {"+ sea", "− sea"}
        tab.locator("#clear").click()
        assert tab.locator("#save").is_disabled() and not opened.said
    assert corrections.name == "corrections.csv" and rows_of(corrections) == rows[:2]
    before, after = dense(read_data(data)), dense(read_data(data, f"dataset.corrections={corrections}"))
    assert sum(int((before[file] != after[file]).sum()) for file in before) == 2

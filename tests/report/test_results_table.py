"""Tables of runs as text, and published figures beside them."""

from __future__ import annotations

import csv
import io
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from mltrain.engine.latest import point_to
from mltrain.errors import DataError
from mltrain.report.compare import Comparison, compare
from mltrain.report.differences import add_differences
from mltrain.report.published import FIGURE_KEYS, beside, read_published
from mltrain.report.results_table import (
    chosen_columns,
    default_columns,
    duration,
    markdown,
    table_cells,
    terminal,
    to_csv,
)
from mltrain.runs.obtain import followed_argument
from tests.promises.runs import ROOT
from tests.report.run_folders import predictions, records, write_run

PUBLISHED = ROOT / "docs" / "published.yaml"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    runs = tmp_path_factory.mktemp("runs")
    for seed, value in enumerate((40.0, 42.0)):
        write_run(runs, "loss=bce", seed=seed, map=value)
    write_run(runs, "loss=asl", map=50.126)
    write_run(runs, "loss=bce", seed=2, finished=False)
    (found,) = compare(records(runs))
    add_differences(found, "loss=bce", resamples=0)
    return found


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_terminal_shows_mean_spread_best_and_what_has_no_result(table: Comparison) -> None:
    text = terminal(table, default_columns(table), bold=False)
    lines = text.splitlines()
    assert lines[0] == "shapes: validation split, best weights, percent; 3 runs"
    assert cells(lines[2])[:5] == ["loss", "mAP", "head", "tail", "OF1"]
    assert cells(lines[4])[:-1] == ["asl", "50.13*", "51.13*", "49.13*", "60.00", "55.00", "1", "60 s", "100", "+9.13"]
    assert cells(lines[5])[:2] == ["bce", "41.00 ± 1.41"] and cells(lines[5])[-2] == "baseline"
    assert "2 of 3" in lines[5], "a seed is missing"
    assert "Without a result:" in text and "stopped: " in text and "before its first step" in text
    assert len({len(line[: line.index("/")].rstrip()) for line in lines[4:6]}) == 1, "right-aligned"


def test_a_row_ends_in_its_folders_for_the_next_command(table: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (row.runs for row in table.rows)
    monkeypatch.chdir(one[0].folder.parents[2])
    lines = terminal(table, default_columns(table), bold=False).splitlines()
    assert cells(lines[2])[-1] == "folder"
    assert cells(lines[4])[-1] == one[0].folder.relative_to(Path.cwd()).as_posix()
    shown = cells(lines[5])[-1]
    assert "{" in shown and ".." not in shown
    given = subprocess.run(["bash", "-c", f"ls -d {shown}"], capture_output=True, text=True, check=True).stdout
    assert given.split() == sorted(run.folder.relative_to(Path.cwd()).as_posix() for run in two)
    rows = list(csv.DictReader(io.StringIO(to_csv([table], []))))
    assert [len(row["folder"].split()) for row in rows] == [1, 2, 0]


def test_latest_is_a_path_to_the_last_run_and_no_run_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "runs", "loss=bce", map=40.0)
    write_run(tmp_path / "runs", "loss=asl", map=41.0)
    monkeypatch.chdir(tmp_path)
    latest, relative = Path("runs/latest"), folder.relative_to(tmp_path)
    latest.symlink_to(folder)  # as earlier versions did
    assert len(records(Path("runs"))) == 2
    point_to(latest, folder)
    assert not latest.is_symlink() and latest.read_bytes() == f"{relative.relative_to('runs')}\n".encode()
    assert len(records(Path("runs"))) == 2
    (only,) = records(latest)
    assert only.folder == relative
    for text, expected in (
        ("runs/latest", f"{relative}"),
        ("model.checkpoint=runs/latest/best.pt", f"model.checkpoint={relative}/best.pt"),
        ("name=latest", "name=latest"),
        ("other/latest", "other/latest"),
        ("loss=asl", "loss=asl"),
    ):
        assert followed_argument(text) == expected
    point_to(latest, tmp_path / "runs" / "gone")
    assert len(records(Path("runs"))) == 2, "a folder that is gone"
    for own in (tmp_path / "a", tmp_path / "b"):
        own.mkdir()
    (tmp_path / "a" / "latest").mkdir()
    (tmp_path / "b" / "latest").write_text("of somebody\nelse\n")
    point_to(tmp_path / "a" / "latest", folder)
    point_to(tmp_path / "b" / "latest", folder)
    assert (tmp_path / "a" / "latest").is_dir(), "somebody's own folder stays"
    assert (tmp_path / "b" / "latest").read_text() == "of somebody\nelse\n"


def test_best_is_bold_where_there_is_bold(table: Comparison) -> None:
    text = terminal(table, ["map"], bold=True)
    assert "\033[1m" in text and "*" not in text
    lines = markdown(table, ["map", "OF1"]).splitlines()
    assert lines[2] == "| loss | mAP | OF1 | mAP - baseline |" and lines[3] == "|---|---:|---:|---:|"
    assert lines[4] == "| asl | **50.13** | 60.00 | +9.13 |", "equal figures have no best"
    assert lines[5] == "| bce | 41.00 ± 1.41 | 60.00 ± 0.00 | baseline |"


def test_columns_can_be_chosen_and_added(table: Comparison) -> None:
    assert chosen_columns(table, ["CF1", "optimizer.lr"]) == ["CF1", "optimizer.lr"]
    added = chosen_columns(table, ["+optimizer.lr"])
    assert added == [*default_columns(table), "optimizer.lr"]
    shown = table_cells(table, added)
    assert shown.header[:3] == ["loss", "optimizer.lr", "mAP"] and shown.left == {0, 1, len(shown.header) - 1}
    with pytest.raises(ValueError, match="no 'mapp'; figures: map, map_head"):
        chosen_columns(table, ["mapp"])


def test_csv_holds_every_row_and_unfinished_run(table: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv([table], []))))
    assert [row["status"] for row in rows] == ["finished", "finished", "stopped"]
    assert rows[0]["loss"] == "asl" and float(rows[0]["map"]) == pytest.approx(50.126) and rows[0]["map_std"] == ""
    assert float(rows[1]["map_std"]) == pytest.approx(2**0.5, rel=1e-5) and rows[1]["seeds"] == "2"
    assert float(rows[0]["difference"]) == pytest.approx(9.126) and rows[0]["baseline"] == "loss=bce"
    assert rows[0]["seconds"] == "60" and rows[2]["loss"] == "bce" and "before its first step" in rows[2]["note"]


def test_a_table_of_intervals_says_what_they_are(tmp_path: Path) -> None:
    for number, loss in enumerate(("bce", "asl")):
        logits, targets = predictions(strength=1.0 + number)
        write_run(tmp_path, f"loss={loss}", logits=logits, targets=targets)
    (found,) = compare(records(tmp_path))
    add_differences(found, "loss=bce", resamples=30)
    text = terminal(found, ["map"], bold=False)
    assert re.search(r"asl +[\d.]+\* +\+[\d.]+ \[\+[\d.]+, \+[\d.]+\]", text)
    assert "Difference to the baseline loss=bce; in brackets 95 % of paired resamples of the images" in text


def test_durations_are_readable() -> None:
    assert [duration(s) for s in (42.4, 325, 11_520)] == ["42 s", "5.4 min", "3.2 h"]


# -- published figures -----------------------------------------------------------------------------------------------


def test_the_published_figures_are_well_formed_and_name_their_source() -> None:
    found = read_published(PUBLISHED)
    assert len(found) > 30
    for item in found:
        assert re.search(r"https://\S+", item.source) and item.figures
        for name in item.datasets:
            assert (ROOT / "configs" / "dataset" / f"{name}.yaml").is_file(), "as ours are called"
        assert item.partial == "none" or (ROOT / "configs" / "partial" / f"{item.partial}.yaml").is_file()


def test_figures_that_the_recipes_name_are_the_published_ones() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text()
    found = {
        (item.datasets[0], item.method, item.model, item.resolution): item.figures for item in read_published(PUBLISHED)
    }
    for key, value in {
        ("coco", "ASL", "TResNet-L", 448): "86.6",
        ("coco", "ASL", "TResNet-XL", 640): "88.4",
        ("coco", "ML-Decoder", "TResNet-M", 224): "84.2",
        ("coco", "Query2Label", "ResNet-101", 448): "84.9",
        ("voc_mlt", "DB-Focal", "ResNet-50", 224): "78.94",
        ("coco_mlt", "DB-Focal", "ResNet-50", 224): "53.55",
    }.items():
        assert f"{found[key]['map']:g}" == value and value in text


def test_published_figures_stand_beside_with_their_differences(tmp_path: Path) -> None:
    small = {"dataset.name": "coco2017", "model.name": "tresnet_m", "model.image_size": 224}
    write_run(tmp_path, "loss=asl", changes=small)
    write_run(tmp_path, "loss=asl", changes=small | {"model.image_size": 448, "metrics.absent": "zero"})
    (table,) = compare(records(tmp_path))
    items = beside(table, read_published(PUBLISHED))
    assert [item.figures["map"] for item in items] == sorted((i.figures["map"] for i in items), reverse=True)
    (asl,) = (item for item in items if item.label == "ASL, TResNet-M, 224 px")
    assert asl.figures == {"map": 81.8}
    assert asl.differences == (
        "data: COCO 2014 (here coco2017)",
        "resolution: 224 (here 224, 448)",
        "pretraining: ImageNet-21k",
    )
    assert asl.metric_differences == ("classes without positives count 0", "equal scores ranked by row order")
    (other,) = (item for item in items if item.label == "CSRA, ViT-L16, 448 px")
    assert "model: ViT-L16 (here tresnet_m)" in other.differences
    text = terminal(table, ["map"], bold=False, published=items)
    assert "81.8" in text and "[asl] Asymmetric Loss" in text and "resolution: 224 (here 224, 448)" in text
    assert "MODEL_ZOO.md; metric: classes without positives count 0, equal scores ranked by row order" in text
    assert "| ASL, TResNet-M, 224 px | 81.8 | [asl] |" in markdown(table, ["map"], items)
    rows = list(csv.DictReader(io.StringIO(to_csv([table], ["map"], [items]))))
    assert [row["status"] for row in rows].count("published") == len(items)


def test_partial_labels_stand_beside_partial_labels(tmp_path: Path) -> None:
    published = read_published(PUBLISHED)
    write_run(tmp_path, "partial=drop", changes={"dataset.name": "coco"})
    (table,) = compare(records(tmp_path))
    assert {item.mark for item in beside(table, published)} == {"csl"}
    assert any("another draw" in text for text in beside(table, published)[0].differences)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maap": 3}, "figure 1: unknown: maap"),
        ({"source": "x"}, "no source 'x'"),
        ({"map": 120}, "figures from 0 to 100"),
        ({"method": None}, "missing: method"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, change: dict, message: str) -> None:
    entry = {"source": "s", "datasets": ["coco"], "method": "m", "model": "x", "map": 1.0} | change
    entry = {key: value for key, value in entry.items() if value is not None}
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump({"sources": {"s": {"name": "n", "url": "u"}}, "figures": [entry]}))
    with pytest.raises(DataError, match=message):
        read_published(path)
    assert set(entry) - FIGURE_KEYS <= {"maap"}


@pytest.mark.parametrize("text", ["a: [", "figures: []", "[]"])
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"p\.yaml"):
        read_published(path)

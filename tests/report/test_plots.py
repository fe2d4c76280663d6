"""Plots are readable PNG files at any number of classes, and show what they are given."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from mltrain.labels import LabelSet, LabelStats
from mltrain.report import batch, plots
from mltrain.report.outcome import write_per_class
from mltrain.report.pictures import columns_for


def stats(c: int, n: int = 400) -> LabelStats:
    rng = np.random.default_rng(c)
    targets = (rng.random((n, c)) < np.geomspace(0.6, 0.002, c)).astype(np.int8)
    names = [f"class {k} of $x_{k}$ with a long name" for k in range(c)]
    return LabelStats.from_labels(
        LabelSet.from_dense(name="t", root="", files=[str(i) for i in range(n)], class_names=names, targets=targets)
    )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *args: object, **kwargs: object) -> None:
        figures.append(self)
        save(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


@pytest.mark.parametrize("c", [1, 20, 1200])
def test_every_plot_draws_at_any_number_of_classes(tmp_path: Path, drawn: list[Figure], c: int) -> None:
    s = stats(c)
    ap = np.linspace(0, 100, c)
    ap[0] = np.nan if c > 1 else 50
    plots.class_counts_plot(tmp_path / "a.png", s, title="t", targets=s.positives + 1, source_counts=s.positives * 2)
    plots.cooccurrence_plot(tmp_path / "b.png", s, title="t", svg=True)
    (labels,) = {id(figure): figure.axes[0].get_yticklabels() for figure in drawn[1:]}.values()
    plots.per_class_ap_plot(tmp_path / "c.png", {"raw": ap, "EMA": ap}, s)
    plots.labels_per_image_plot(tmp_path / "d.png", np.array([0, 3, 2]), title="t")
    for name in "abcd":
        with Image.open(tmp_path / f"{name}.png") as image:
            assert 400 <= image.width <= 2400 and 350 <= image.height <= 2000, name
    assert len(list(tmp_path.iterdir())) == 5, "temporary files are left"
    text = (tmp_path / "b.svg").read_text(encoding="utf-8")
    shown = np.argsort(-s.positives, kind="stable")[:80]
    assert all(f"class {k} of" in text for k in shown), "names are text"
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 + 1 for below, above in itertools.pairwise(boxes)), "80 names do not overlap"
    assert min(box.x0 for box in boxes) >= 0, "and are not cut"


def test_bars_are_the_counts_and_the_line_is_the_target(tmp_path: Path, drawn: list[Figure]) -> None:
    s = stats(20)
    targets = np.arange(100, 120)
    plots.class_counts_plot(tmp_path / "a.png", s, title="t", targets=targets)
    axes = drawn[0].axes[0]
    bars = sorted((patch.get_x(), patch.get_y() + patch.get_height()) for patch in axes.patches)
    tops = [top for _, top in bars]
    assert tops == pytest.approx(np.maximum(s.positives[::-1], 0.7)), "bars, in the order of the targets"
    line = next(line for line in axes.lines if line.get_label() == "target")
    assert np.asarray(line.get_ydata()).tolist() == targets[::-1].tolist()
    assert axes.get_yscale() == "log"


def test_the_heat_map_is_the_conditional_probability(tmp_path: Path, drawn: list[Figure]) -> None:
    s = stats(20)
    plots.cooccurrence_plot(tmp_path / "a.png", s, title="t")
    shown = np.asarray(drawn[0].axes[0].images[0].get_array())
    order = np.argsort(-s.positives, kind="stable")
    i, j = order[2], order[5]
    assert shown[2, 5] == pytest.approx(s.cooccurrence[i, j] / s.positives[i])


def test_points_stand_at_frequency_and_ap_and_unknown_classes_are_left_out(tmp_path: Path, drawn: list[Figure]) -> None:
    s = stats(20)
    ap = np.linspace(0, 100, 20)
    ap[4] = np.nan
    plots.per_class_ap_plot(tmp_path / "a.png", {"raw": ap}, s)
    axes = drawn[0].axes[0]
    points = np.concatenate([np.asarray(part.get_offsets()) for part in axes.collections])
    expected = np.stack([np.maximum(s.positives, 0.7), ap], axis=1)[~np.isnan(ap)]
    assert np.allclose(points[np.argsort(points[:, 1])], expected)
    assert f"mAP {np.nanmean(ap):.2f}" in axes.get_title(loc="left")


def test_per_class_csv_comes_with_its_plot(tmp_path: Path, drawn: list[Figure]) -> None:
    s = stats(20)
    summaries = {key: SimpleNamespace(per_class={"ap": np.linspace(0, 100, 20)}) for key in ("val", "ema")}
    evaluation: Any = SimpleNamespace(summaries=summaries)
    write_per_class(tmp_path / "per_class.csv", evaluation, s)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["per_class.csv", "per_class_ap.png"]
    assert [axes.get_title(loc="left") for axes in drawn[0].axes] == ["raw: mAP 50.00", "EMA: mAP 50.00"]


def test_pictures_are_laid_out_without_empty_places() -> None:
    assert [columns_for(n) for n in (1, 2, 12, 16, 32, 64)] == [1, 2, 4, 4, 8, 8]
    assert all(-n % columns_for(n) <= 1 for n in range(1, 65)), "at most one place is empty"


def test_a_batch_shows_the_file_of_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[list[tuple[str, str]]] = []
    captioned = batch.captioned

    def keep(image: np.ndarray, lines: list[tuple[str, str]], **options: Any) -> Image.Image:
        written.append(lines)
        return captioned(image, lines, **options)

    monkeypatch.setattr(batch, "captioned", keep)
    images, targets = torch.zeros(3, 3, 20, 20), np.array([[1, 0], [0, 0], [1, 1]])
    batch.batch_picture(images, targets, ["x/1.jpg", "x/2.jpg", "y/3.jpg"], ["a", "b"])
    assert [lines[0] for lines in written] == [("title", "1.jpg"), ("title", "2.jpg"), ("title", "3.jpg")]
    assert written[1][1:] == [("text", "no label")] and written[2][1:] == [("hit", "a"), ("hit", "b")]

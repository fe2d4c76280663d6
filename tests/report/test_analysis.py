"""The numbers behind the plots of a report equal those of the metrics and of direct counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mltrain.engine.run_folder import RunFolder
from mltrain.metrics import average_precision
from mltrain.metrics.counts import count_at_threshold, overall_and_per_class
from mltrain.metrics.thresholds import best_cut
from mltrain.report.html import analysis
from mltrain.report.html import gallery as gallery_module
from mltrain.report.html.gallery import SIDE, Gallery, thumbnail
from mltrain.report.html.page import Page, embed, figure_number, numbers, plot_text
from mltrain.report.html.predicted import prepare
from mltrain.report.html.run_report import run_page
from mltrain.report.predictions import load_predictions
from tests.report.made_runs import make_run


@pytest.fixture(scope="module", params=[0.0, 0.2], ids=["all-known", "some-unknown"])
def made(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Logits with ties and targets, (300, 150): more classes than are counted at a time."""
    rng = np.random.default_rng(0)
    targets = (rng.random((300, 150)) < np.geomspace(0.4, 0.004, 150)).astype(np.int8)
    logits = np.round(rng.normal(-2, 2, targets.shape) + 2.5 * targets, 2).astype(np.float32)
    targets[rng.random(targets.shape) < request.param] = -1
    return logits, targets


def bins_of(made: tuple[np.ndarray, np.ndarray]) -> analysis.Bins:
    return analysis.count_bins(analysis.probabilities(made[0], softmax=False), made[1])


def test_probabilities_are_the_sigmoid_and_the_softmax() -> None:
    logits = torch.randn(50, 7) * 30
    for softmax, expected in ((False, logits.double().sigmoid()), (True, logits.double().softmax(1))):
        found = analysis.probabilities(logits.numpy(), softmax=softmax)
        assert np.allclose(found, expected.numpy(), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.9])
def test_curves_pass_through_the_metrics_at_a_threshold(made: tuple[np.ndarray, np.ndarray], threshold: float) -> None:
    counts = count_at_threshold(*map(torch.from_numpy, made), threshold=threshold)
    expected = overall_and_per_class(counts, counts.positives > 0)
    bins = bins_of(made)
    curve, at = bins.pooled(), bins.pooled().at(threshold)
    assert curve.thresholds[at] == pytest.approx(threshold)
    for values, key in ((curve.precision, "OP"), (curve.recall, "OR"), (curve.f1, "OF1")):
        assert values[at] == pytest.approx(expected[key], abs=0.004), key
    assert bins.macro_f1()[at] == pytest.approx(expected["macro_F1"], abs=0.006)


def test_best_f1_of_the_curve_is_that_of_the_best_cut(made: tuple[np.ndarray, np.ndarray]) -> None:
    curve = bins_of(made).pooled()
    assert curve.f1[curve.best] == pytest.approx(best_cut(*map(torch.from_numpy, made)).f1, abs=0.01)


def test_every_known_entry_is_in_one_bin(made: tuple[np.ndarray, np.ndarray]) -> None:
    bins = bins_of(made)
    assert (bins.known.sum(axis=1) == (made[1] >= 0).sum(axis=0)).all()
    assert (bins.positives.sum(axis=1) == (made[1] == 1).sum(axis=0)).all()
    part = bins.pooled(np.arange(20))
    assert part.recall[0] == 1


def test_calibration_error_is_that_of_twenty_bins(made: tuple[np.ndarray, np.ndarray]) -> None:
    logits, targets = made
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    known = targets >= 0
    place = np.clip(np.ceil(p * 20).astype(int) - 1, 0, 19)
    error = (
        sum(abs((targets[known & (place == k)] == 1).sum() - p[known & (place == k)].sum()) for k in range(20))
        / known.sum()
    )
    found = analysis.reliability(bins_of(made))
    assert found.error == pytest.approx(error, abs=1e-3)
    assert found.counts.sum() == known.sum()


def test_perfectly_calibrated_predictions_have_no_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.random((4000, 20)).astype(np.float32)
    targets = (rng.random(p.shape) < p).astype(np.int8)
    assert analysis.reliability(analysis.count_bins(p, targets)).error < 0.01
    shifted = np.clip(p + 0.2, 0, 1).astype(np.float32)
    assert analysis.reliability(analysis.count_bins(shifted, targets)).error == pytest.approx(0.18, abs=0.02)


def test_confidence_is_compared_with_being_right() -> None:
    found = analysis.confidence_reliability(np.array([0.93, 0.94, 0.52, 0.53]), np.array([1, 0, 1, 1]))
    assert found.counts.tolist() == [2, 2]
    assert found.observed.tolist() == [1.0, 0.5]
    assert found.error == pytest.approx((abs(2 - 1.05) + abs(1 - 1.87)) / 4)


def test_class_curve_ends_at_full_recall_and_its_area_is_the_average_precision() -> None:
    rng = np.random.default_rng(1)
    targets = (rng.random(500) < 0.1).astype(np.int8)
    scores = rng.random(500).astype(np.float32) + 0.5 * targets
    recall, precision = analysis.class_curve(scores, targets, most=1000)
    assert recall[-1] == 1
    area = float((np.diff(recall, prepend=0) * precision).sum())
    expected = average_precision(torch.from_numpy(scores)[:, None], torch.from_numpy(targets)[:, None]).item()
    assert area == pytest.approx(expected)
    assert len(analysis.class_curve(scores, targets, most=10)[0]) == 10


def test_given_is_the_share_of_the_rows_that_have_the_column() -> None:
    marks = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0]], dtype=bool)
    found = analysis.given(marks)
    assert found[0, 1] == pytest.approx(2 / 3) and found[1, 0] == 1
    assert np.isnan(found[2]).all() and np.isnan(np.diag(found)).all()


def test_extremes_are_one_an_image_and_two_a_class() -> None:
    p = np.array([[0.9, 0.8, 0.1], [0.95, 0.2, 0.1], [0.85, 0.7, 0.1], [0.99, 0.3, 0.2]], dtype=np.float32)
    allowed = np.ones(p.shape, dtype=bool)
    allowed[3, 0] = False
    found = analysis.extremes(p, allowed, highest=True, count=3)
    assert [(e.image, e.label) for e in found] == [(1, 0), (0, 0), (2, 1)], "the third of class 0 gives way"
    assert found[0].probability == pytest.approx(0.95)
    lowest = analysis.extremes(p, p > 0.5, highest=False, count=9)
    assert [(e.image, e.label) for e in lowest] == [(2, 1), (0, 1), (1, 0), (3, 0)]
    assert analysis.extremes(p, np.zeros_like(allowed), highest=True, count=3) == []


def test_gallery_finds_what_is_wrong_and_what_is_missed(tmp_path: Path) -> None:
    Image.new("RGBA", (800, 300), (0, 0, 0, 0)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    p = np.array([[0.9, 0.8, 0.01], [0.2, 0.6, 0.3]], dtype=np.float32)
    targets = np.array([[1, 0, 1], [0, 1, -1]], dtype=np.int8)
    files, names = ("a.png", "b.png"), ("x", "y", "z")
    gallery = Gallery(probability=p, targets=targets, predicted=p > 0.5, files=files, names=names, root=tmp_path)
    (wrong,), (missed,) = gallery.wrong(), gallery.missed()
    assert (wrong["caption"], wrong["kind"]) == ("y 80 %", "wrong")
    assert missed["caption"] == "z, ranked 3 of 3"
    assert wrong["labels"] == [("x", "90 %", "hit"), ("y", "80 %", "wrong"), ("z", "1.0 %", "missed")]
    examples = gallery.examples()
    assert [card["caption"] for card in examples] == ["1 of 2 found, 1 wrong", "1 of 1 found, 0 wrong"]
    pictures = gallery.pictures()
    assert [pictures[card["image"]]["file"] for card in (wrong, *examples)] == ["a.png", "a.png", "b.png"]
    assert [image["picture"] is None for image in pictures] == [False, True], "each image once"


def test_pictures_of_classes_stay_within_their_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gallery_module, "SMALLS", 5)
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 4)) < 0.4).astype(np.int8)
    p = np.clip(rng.random((60, 4)) * 0.7 + 0.3 * targets, 0, 1).astype(np.float32)
    files, names = [f"{i}.png" for i in range(60)], list("abcd")
    gallery = Gallery(probability=p, targets=targets, predicted=p > 0.5, files=files, names=names, root=tmp_path)
    cards = gallery.of_classes([0, 1, 2, 3])
    sized = [side for side in gallery._sides.values() if side]
    assert len(sized) == 5
    for k, found in cards.items():
        best = np.flatnonzero((targets[:, k] == 1) & (p[:, k] > 0.5))
        place = list(gallery._sides).index(int(best[np.argmax(p[best, k])]))
        assert found["best"][0]["image"] == place, "the first of each kind is kept, with a picture or without"


def test_thumbnails_are_small_upright_and_on_white(tmp_path: Path) -> None:
    import base64
    import io

    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (1200, 400), "red").save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (300, 100), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    opened = {}
    for name in ("turned.jpg", "clear.png"):
        address = thumbnail(tmp_path / name, SIDE)
        assert address is not None and len(address) < 20_000
        opened[name] = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    assert opened["turned.jpg"].size == (round(SIDE / 3), SIDE)
    assert min(opened["clear.png"].getpixel((5, 5))) > 250
    assert thumbnail(tmp_path / "none.jpg") is None


@pytest.mark.parametrize("single_label", [False, True])
def test_every_figure_is_one_that_plotly_accepts(tmp_path: Path, single_label: bool) -> None:
    objects = pytest.importorskip("plotly.graph_objects")
    run = make_run(tmp_path / "x" / "00000000", classes=40, single_label=single_label, images=150)
    page: Page = run_page(RunFolder(run), {})

    def plain(node: object) -> object:
        """Colours of the page as colours that Python's Plotly knows."""
        if isinstance(node, dict):
            return {k: plain(v) for k, v in node.items()}
        if isinstance(node, list):
            return [plain(v) for v in node]
        return "#123456" if isinstance(node, str) and node.startswith("--") else node

    assert len(page.figures) == 9
    for figure in page.figures.values():
        for view in figure.get("views", {"": figure}).values():
            objects.Figure(plain(view))  # raises for a property that is unknown or of a wrong type


def test_text_for_plotly_has_no_markup_and_data_end_no_script() -> None:
    assert plot_text("<b>$x$ & y") == "&lt;b&gt;&#36;x&#36; &amp; y"
    assert plot_text("a" * 50, 10) == "a" * 9 + "…"
    text = str(embed({"</script>": "\u2028&"}))
    assert "<" not in text and "&" not in text and "\u2028" not in text
    with pytest.raises(ValueError, match="JSON"):
        embed({"x": float("nan")})


def test_numbers_are_short_and_finite() -> None:
    assert numbers(np.array([0.123456, np.nan, 98765.4321])) == [0.1235, None, 98765.4]
    assert numbers([3, None, float("inf")]) == [3, None, None]
    assert [figure_number(v) for v in (None, 12.345, 12345, float("nan"))] == ["–", "12.35", "12,345", "–"]


def test_predictions_of_a_made_run_give_its_figures(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "x" / "00000000", classes=25)
    run, saved = RunFolder(folder), load_predictions(folder)
    ready, why = prepare(run, saved)
    assert why == "" and (ready.predicted == (saved.logits > 0)).all()
    table, found = run.classes["val"], ready.counts()
    for key, values in found.items():
        own = table.figure(saved.weights, key)
        assert own is not None and np.allclose(values, own, atol=1e-3, equal_nan=True), key

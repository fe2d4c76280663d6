"""The page of a run shows what the run folder holds, in a browser, without network, whatever its classes are called."""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mltrain.engine.run_folder import RunFolder
from mltrain.errors import DataError
from mltrain.report.html.run_report import report_at_end, write_run_report
from mltrain.text import csv_text
from tests.report.browser import Opened, browser
from tests.report.made_runs import EVIL, class_names, make_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("runs")
    run = make_run(base / "small-gap-asl" / "0a1b2c3d", classes=45, pictures=base / "images")
    write_run_report(run, images={"val": base / "images"})
    return run


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def opened(chromium: Any, folder: Path) -> Opened:
    return Opened(chromium, folder / "report.html")


def left_out(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return text[text.index('id="left-out"') :] if 'id="left-out"' in text else ""


def test_page_says_nothing_to_the_console_and_asks_for_nothing(opened: Opened) -> None:
    assert opened.said == []
    assert opened.network == []
    assert opened.page.evaluate("window.hacked === undefined")


def test_every_section_is_there_with_content(opened: Opened) -> None:
    titles = [
        *("Results", "Learning curves", "Classes", "Most confident mistakes", "Missed labels", "Examples"),
        *("Precision and recall", "Calibration", "Co-occurrence", "Throughput", "Config and environment"),
    ]
    assert opened.texts("section h2") == titles


def test_plots_are_drawn_with_their_points_and_lines(opened: Opened, folder: Path) -> None:
    assert opened.drawn("quality", ".scatterlayer path.js-line") == 2, "raw and EMA"
    assert opened.drawn("quality", ".scatterlayer path.point") == 2 * 3 + 1, "3 epochs each, and the best"
    assert opened.drawn("training", ".scatterlayer path.js-line") == 2, "each step, and the means of the epochs"
    with (folder / "per_class.csv").open(newline="") as file:
        known = [row for row in csv.DictReader(file) if row["ema_ap"]]
    points = opened.drawn("classes", ".scatterlayer path.point")
    assert points == 2 * len(known) > 40, "a point for each class with an AP, and its chance level"
    assert opened.drawn("groups", ".errorbar") == 4, "an interval for all classes, head, medium and tail"
    assert opened.drawn("pr", ".scatterlayer path.js-line") >= 2
    assert opened.drawn("calibration", ".bars path") > 3
    assert opened.drawn("threshold", ".scatterlayer path.js-line") == 4
    assert opened.drawn("cooccurrence", ".heatmaplayer image") == 1
    assert opened.drawn("throughput", ".scatterlayer path.js-line") == 2


def test_buttons_change_what_a_plot_shows(opened: Opened) -> None:
    def label() -> str:
        return opened.texts('[data-figure="quality"] .ytitle')[0]

    assert label() == "mAP, %"
    opened.page.locator('[data-views="quality"]').get_by_role("button", name="macro F1").click()
    opened.wait("document.querySelector('[data-figure=quality] .ytitle').textContent == 'macro F1, %'")
    opened.page.locator('[data-views="quality"] button').first.click()


def test_pictures_are_in_the_page(opened: Opened) -> None:
    assert opened.count("#mistakes .card") == 10
    assert opened.count("section .card img") == opened.count("section .card") >= 25
    assert opened.page.evaluate("[...document.querySelectorAll('.card img')].every(i => i.src.startsWith('data:'))")
    opened.wait("[...document.querySelectorAll('#mistakes img')].every(i => i.naturalWidth > 10)")


def test_class_table_pages_sorts_and_searches(opened: Opened) -> None:
    box = opened.page.locator('[data-table="classes"]')
    rows = box.locator("tbody tr")
    assert rows.count() == 25, "a page of 45 classes"
    assert box.locator(".pager").inner_text().replace("\n", " ").strip().startswith("‹ back 1 / 2")
    box.get_by_role("button", name="next ›").click()
    assert rows.count() == 20
    box.get_by_role("button", name="‹ back").click()

    def train() -> list[int]:
        return [int(text) for text in box.locator("tbody td:nth-child(3)").all_inner_texts()]

    assert train() == sorted(train(), reverse=True)
    box.locator("th button").nth(2).click()
    assert train() == sorted(train())
    box.locator("th button").first.click()
    names = box.locator("tbody td:first-child")
    shown = names.all_inner_texts()
    assert shown.index("2024") < shown.index("class 6") < shown.index("class 10"), "by their numbers"
    box.locator("input").fill("class 4")
    assert names.all_inner_texts() == [f"class {k}" for k in (14, 24, 34, 40, 41, 42, 43, 44)]
    assert box.locator(".count").inner_text() == "8 of 45"
    box.locator("input").fill("nothing like this")
    assert rows.all_inner_texts() == ["no match"]
    box.locator("input").fill("")
    box.get_by_role("button", name="tail").click()
    assert set(box.locator("tbody td:nth-child(2)").all_inner_texts()) == {"tail"}
    box.get_by_role("button", name="tail").click()


def test_class_names_are_text_everywhere(opened: Opened) -> None:
    box = opened.page.locator('[data-table="classes"]')
    box.locator("input").fill("<")
    shown = box.locator("tbody td:first-child").all_inner_texts()
    assert sorted(shown) == sorted(name for name in class_names(45) if "<" in name)
    box.locator("input").fill("")
    assert opened.count("main b:has-text('bold & strong')") == 0, "markup in a name stays text"
    ticks = opened.texts('[data-figure="cooccurrence"] .ytick text')
    assert any(text.startswith("<b>bold") for text in ticks)
    assert opened.count("script") == 5, "those of the page: theme, data, plotly, page, and plotly unpacked"
    assert EVIL in opened.texts("#setup pre")[0]


def test_light_and_dark_by_preference_and_by_button(chromium: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "bare" / "00000000", predictions=False)
    page = Opened(chromium, write_run_report(run), dark=True)

    def colours() -> tuple[str, str]:
        line = page.page.locator('[data-figure="quality"] path.js-line').first
        return (
            page.page.evaluate("getComputedStyle(document.body).backgroundColor"),
            str(line.evaluate("line => line.style.stroke")),
        )

    dark = colours()
    assert dark[0] == "rgb(18, 22, 28)"
    page.page.locator("#theme").click()
    page.page.wait_for_timeout(300)
    light = colours()
    assert light[0] == "rgb(246, 247, 249)"
    assert light[1] != dark[1], "plots follow"
    assert page.said == []


def test_phone_has_no_sideways_scrolling_and_says_where_a_table_goes_on(chromium: Any, folder: Path) -> None:
    page = Opened(chromium, folder / "report.html", width=390)
    assert page.page.evaluate("document.documentElement.scrollWidth") == 390
    page.page.evaluate("document.querySelectorAll('details').forEach((box) => { box.open = true; })")
    page.page.evaluate("document.querySelectorAll('.scroll').forEach((box) => { box.scrollLeft = 0; })")
    page.page.wait_for_timeout(200)
    cut = page.page.evaluate(
        "[...document.querySelectorAll('section .scroll')].filter((box) => box.scrollWidth > box.clientWidth + 4)"
        ".map((box) => getComputedStyle(box.nextElementSibling).display)"
    )
    assert cut and set(cut) == {"block"}, "each has its sign"
    assert page.said == []


def test_a_link_to_a_section_or_class_opens_it(chromium: Any, folder: Path) -> None:
    context = chromium.new_context()
    tab = context.new_page()
    tab.goto(f"{(folder / 'report.html').as_uri()}#calibration")
    tab.wait_for_selector("html[data-ready]", state="attached")
    assert tab.locator("#calibration > details").get_attribute("open") is not None
    assert tab.locator("#cooccurrence > details").get_attribute("open") is None, "others stay closed"
    tab.goto(f"{(folder / 'report.html').as_uri()}#class=class%206")
    tab.wait_for_selector("#class-view[open]")
    assert tab.locator("#class-view h2").inner_text() == "class 6"
    context.close()


def test_a_class_opens_its_curve_and_its_best_worst_and_missed_images(opened: Opened, folder: Path) -> None:
    saved = RunFolder(folder).predictions()
    k = saved.class_names.index("class 6")
    opened.page.locator('[data-table="classes"]').get_by_role("button", name="class 6", exact=True).click()
    opened.page.wait_for_selector("#class-view[open] .card")
    x, true = saved.logits[:, k], saved.targets[:, k] == 1
    for kind, rank, wanted in (
        ("best", -x, true & (x > 0)),
        ("worst", -x, ~true & (x > 0)),
        ("missed", x, true & (x <= 0)),
    ):
        images = np.flatnonzero(wanted)
        first = [saved.files[i] for i in images[np.argsort(rank[images])]][:4]
        assert opened.texts(f'[data-kind="{kind}"] .file') == first, kind
    rows = opened.csv('[data-save="class-view"]')
    curve = [float(row["precision, %"]) for row in rows if row["series"] == "precision"]
    order = np.argsort(-x)
    places = np.flatnonzero(true[order])
    assert curve == pytest.approx(100 * np.arange(1, len(places) + 1) / (places + 1), rel=1e-2)
    chance = [float(row["precision, %"]) for row in rows if row["series"] == "chance"]
    assert chance[0] == pytest.approx(100 * true.mean(), rel=1e-2)
    opened.page.keyboard.press("Escape")
    assert opened.count("#class-view[open]") == 0


def test_pictures_enlarge_by_keyboard_and_escape_closes(opened: Opened) -> None:
    buttons = opened.page.locator("#mistakes button.enlarge")
    buttons.first.focus()
    opened.page.keyboard.press("Enter")
    large = opened.page.locator(".lightbox[open] img")
    assert large.get_attribute("src") == buttons.first.locator("img").get_attribute("src")
    opened.page.keyboard.press("ArrowRight")
    assert large.get_attribute("src") == buttons.nth(1).locator("img").get_attribute("src")
    opened.page.keyboard.press("Escape")
    assert opened.count(".lightbox[open]") == 0


def test_plots_and_tables_save_their_numbers(opened: Opened, folder: Path) -> None:
    with (folder / "per_class.csv").open(newline="") as file:
        known = {csv_text(row["class"]): row for row in csv.DictReader(file)}
    points = [row for row in opened.csv('[data-save="classes"]') if row["series"] in ("head", "medium", "tail")]
    best = RunFolder(folder).best_weights
    assert len(points) == sum(bool(row[f"{best}_ap"]) for row in known.values())
    for row in points:
        own = known[csv_text(row["name"])]
        assert float(row["average precision, %"]) == pytest.approx(float(own[f"{best}_ap"]), rel=1e-3)
        assert row["training images"] == own["train_positives"] and row["series"] == own["group"]
        assert float(row["positive validation images"]) == float(own[f"{best}_positives"])
    table = opened.csv('[data-table="classes"] .save')
    assert {csv_text(row["class"]) for row in table} == set(known), "all rows, not the page of them"
    assert opened.saved('[data-save="pr"]', "SVG").read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.slow
def test_9605_classes_open_without_freezing(chromium: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "big" / "00000000", classes=9605, images=80)
    path = write_run_report(run, resamples=0)
    assert path.stat().st_size < 4e6
    page = Opened(chromium, path)
    assert page.said == []
    assert page.count('[data-table="classes"] tbody tr') == 25
    assert page.drawn("classes", ".scatterlayer path.point") <= 1200
    elements = page.page.evaluate("document.querySelectorAll('*').length")
    assert elements < 12_000
    started = page.page.evaluate("performance.now()")
    page.page.locator('[data-table="classes"] input').fill("class 96")
    took = page.page.evaluate("performance.now()") - started
    fitting = sum("class" in name and "96" in name for name in class_names(9605))
    assert page.page.locator('[data-table="classes"] .count').inner_text() == f"{fitting} of 9,605"
    assert took < 1500, f"search took {took:.0f} ms"


def test_single_labels_have_confusion_and_no_cooccurrence(chromium: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "single" / "00000000", classes=30, images=200, single_label=True)
    page = Opened(chromium, write_run_report(run))
    titles = page.texts("section h2")
    assert "Confusion" in titles and "Co-occurrence" not in titles
    assert page.drawn("confusion", ".heatmaplayer image") == 1
    assert page.drawn("threshold", ".scatterlayer path.js-line") == 1
    assert page.count('[data-table="confusion"] tbody tr') == 10
    assert page.said == []


def test_what_a_run_lacks_is_named_with_the_reason(tmp_path: Path) -> None:
    run = make_run(tmp_path / "bare" / "00000000", ema=False, predictions=False, groups=False)
    (run / "environment.json").unlink()
    path = write_run_report(run)
    text, missing = path.read_text(encoding="utf-8"), left_out(path)
    for title in ("Groups", "Precision and recall", "Calibration", "Mistakes", "Co-occurrence", "Environment"):
        assert title in missing, title
    assert "metrics.save_predictions=true writes them" in missing
    assert 'id="pr"' not in text and 'id="groups"' not in text and 'id="curves"' in text
    assert "validation, EMA" not in text


def test_single_labels_without_predictions_take_the_confusion_from_its_file(tmp_path: Path) -> None:
    run = make_run(tmp_path / "x" / "00000000", single_label=True, predictions=False)
    assert 'id="confusion"' in write_run_report(run).read_text(encoding="utf-8")
    (run / "confusion.csv").unlink()
    assert "there is no confusion.csv" in left_out(write_run_report(run))


def test_unfinished_run_has_its_curves(tmp_path: Path) -> None:
    run = make_run(tmp_path / "x" / "00000000")
    for name in ("result.json", "per_class.csv", "predictions.npz"):
        (run / name).unlink()
    path = write_run_report(run)
    assert 'id="curves"' in path.read_text(encoding="utf-8")
    assert "has not finished: it stands at epoch 3 of 3" in left_out(path)


def test_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no run folder: it has no config\.yaml"):
        write_run_report(tmp_path)


def test_a_failing_report_is_a_warning_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path / "x y" / "00000000")
    monkeypatch.setattr(logging.getLogger("mltrain"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("mltrain"), "handlers", [])  # pytest's own, where it did not propagate
    monkeypatch.setattr("mltrain.report.html.run_report.write_page", lambda *_: 1 / 0)
    report_at_end(run, {"val": tmp_path})
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "ZeroDivisionError" in caplog.text and f"mltrain report '{run}'" in caplog.text
    assert not (run / "report.html").exists()


def test_a_failed_write_leaves_the_page_that_was_there(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    run = tmp_path / "copy"
    shutil.copytree(folder, run)
    before = (run / "report.html").read_bytes()

    def full(self: Path, *_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_run_report(run)
    assert (run / "report.html").read_bytes() == before
    assert not list(run.glob(".*tmp"))

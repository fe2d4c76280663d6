"""Promises of tools/browse_dataset.py: what is on the page, read in a browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mltrain.cli import read
from mltrain.commands.browse_dataset import COMMAND, browse
from mltrain.errors import ConfigError, DataError
from mltrain.labels import LabelSet
from mltrain.report.html.browse import choose
from tests.promises.runs import ROOT, environment

CHROMIUM = Path("/usr/bin/chromium")
ODD = "<b onmouseover='alert(1)'>café</b> & </script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty images of 40 x 30 pixels and a csv: a frequent class, one of an odd name, a rare one, unknown labels."""
    place = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows = ["image,labels,split"]
    for k in range(30):
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(place / f"{k:02d}.png")
        labels = ["common"] * (k % 2 == 0) + [ODD] * (k % 5 == 0) + ["rare"] * (k == 7) + ["?common"] * (k == 9)
        rows.append(f'{k:02d}.png,"{";".join(labels)}",{"train" if k < 24 else "val"}')
    (place / "11.png").write_bytes(b"no image")
    (place / "labels.csv").write_text("\n".join(rows) + "\n")
    return place


def make(folder: Path, out: Path, *words: str) -> str:
    given = [
        "dataset=csv",
        f"dataset.file={folder}/labels.csv",
        "augment=standard",
        "model.image_size=32",
        "metrics.head_min=5",
        "metrics.medium_min=2",
        f"out={out}",
        *words,
    ]
    return browse(*read(COMMAND, given)).read_text(encoding="utf-8")


def content(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(found.group(1))
    return data


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "browse.html"
    make(folder, out)
    return out


def test_the_page_has_every_image_before_and_after_with_its_labels(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    data = content(text)
    assert data["names"] == [ODD, "common", "rare"] and data["counts"] == [5, 12, 1]
    assert [data["groupNames"][group] for group in data["groups"]] == ["head", "head", "tail"]
    images = {entry["file"]: entry for entry in data["images"]}
    assert len(images) == 24
    assert images["07.png"]["positive"] == [2] and images["00.png"]["positive"] == [0, 1]
    assert images["09.png"]["unknown"] == [1] and images["09.png"]["unknowns"] == 1
    assert images["00.png"]["size"] == [40, 30] and len(images["00.png"]["pictures"]) == 3
    assert "cannot decode the image" in images["11.png"]["error"] and images["11.png"]["pictures"] == []
    assert not re.search(r"(src|href)=[\"']?(https?:|//)", text), "nothing is loaded"
    assert ODD not in text


def test_versions_differ_and_are_the_same_at_every_call(folder: Path, page: Path, tmp_path: Path) -> None:
    again = content(make(folder, tmp_path / "a.html"))
    assert again["images"] == content(page.read_text(encoding="utf-8"))["images"]
    first = again["images"][0]["pictures"]
    assert len(set(first)) == 3
    other = content(make(folder, tmp_path / "b.html", "seed=5", "images=24"))["images"][0]["pictures"]
    assert other[0] == first[0] and other[1] != first[1]


def test_validation_images_are_shown_as_they_are_evaluated(folder: Path, tmp_path: Path) -> None:
    data = content(make(folder, tmp_path / "val.html", "split=val"))
    assert [entry["file"] for entry in data["images"]] == [f"{k}.png" for k in range(24, 30)]
    assert all(len(entry["pictures"]) == 2 for entry in data["images"])
    assert data["counts"] == [1, 3, 0] and data["groups"][1] == 0, "groups are those of the training split"


def test_partial_labels_are_shown_as_training_sees_them(folder: Path, tmp_path: Path) -> None:
    data = content(make(folder, tmp_path / "p.html", "partial=single_positive"))
    assert all(len(entry["positive"]) <= 1 for entry in data["images"])
    assert {entry["unknowns"] for entry in data["images"]} >= {2}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["classes=[rarre]"], "there is no class 'rarre'; did you mean 'rare'?"),
        (["split=test"], "has no such split"),
        (["split=trian"], "did you mean split=train?"),
        (["out=page.txt"], "must end in .html"),
        (["image=5"], "did you mean images"),
    ],
)
def test_mistakes_are_named(folder: Path, tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        make(folder, tmp_path / "x.html", *words)
    assert said in str(error.value)


def _labels(positives: list[list[int]], classes: int) -> LabelSet:
    files = [str(k) for k in range(len(positives))]
    names = [str(c) for c in range(classes)]
    return LabelSet.from_lists(name="t", root="", files=files, class_names=names, positives=positives)


def test_every_class_is_chosen_before_any_has_many() -> None:
    labels = _labels([[0]] * 500 + [[1]] * 50 + [[2, 0]] * 2 + [[3]] + [[]] * 20, 5)
    chosen = choose(labels, 12, pick="classes", seed=0)
    counts = labels.select(chosen).dense().clip(0).sum(0)
    assert len(chosen) == 12 and counts[2] == 2 and counts[3] == 1 and counts[1] >= 3 and (np.diff(chosen) > 0).all()
    assert set(choose(labels, 573, pick="classes", seed=0)) == set(range(573)), "those without a label come too"
    assert not np.array_equal(chosen, choose(labels, 12, pick="classes", seed=1))
    assert choose(labels, 3, pick="first", seed=0).tolist() == [0, 1, 2]
    assert len(set(choose(labels, 30, pick="random", seed=0).tolist())) == 30
    assert set(choose(labels, 99, pick="random", seed=0, among=[2, 3])) == {550, 551, 552}
    with pytest.raises(DataError, match="nothing to show"):
        choose(labels, 5, pick="first", seed=0, among=[4])


def test_the_tool_writes_the_page_and_says_where(tmp_path: Path) -> None:
    words = ["dataset.num_train=40", "dataset.num_val=10", "images=12"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/browse_dataset.py"), *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0 and "browse.html: 12 of 40 images" in done.stderr, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["browse.html", "data"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        yield found
        found.close()


def test_images_are_filtered_by_class_and_group_in_a_browser(page: Path, browser: Any) -> None:
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("dialog", lambda dialog: problems.append("a class name ran as a script"))
    tab.set_default_timeout(10_000)
    tab.goto(page.as_uri())
    items, count = tab.locator(".item"), tab.locator("#count")
    assert items.count() == 24 and count.inner_text() == "24 images"
    assert tab.locator(".item").first.locator("img").count() == 3
    widths = tab.evaluate("Promise.all([...document.images].map((i) => i.decode().then(() => i.naturalWidth)))")
    assert len(widths) == 23 * 3 and min(widths) > 0, "every picture decodes"
    assert tab.locator(".error").inner_text().count("11.png") == 1

    rows = tab.locator("#class-list button")
    assert [row.split()[-1] for row in rows.all_inner_texts()] == ["12", "5", "1"]
    assert ODD.replace("  ", " ") in rows.nth(1).inner_text()
    rows.nth(2).click()
    assert items.count() == 1 and count.inner_text() == "1 of 24 images" and "07.png" in items.inner_text()
    tab.locator("#filters button", has_text="rare ✕").click()
    assert items.count() == 24
    tab.locator("#filters button", has_text="tail 1").click()
    assert items.count() == 1
    tab.locator("#filters button", has_text="with unknown labels 1").click()
    assert "1 unknown: common" in items.inner_text()
    tab.locator("#filters button", has_text="without a label").click()
    assert all("no label" in text for text in items.all_inner_texts())
    tab.locator("#filters button", has_text="all 24").click()
    tab.locator("#search").fill("rar")
    assert rows.count() == 1
    tab.locator("#search").fill("")
    tab.locator("#order").click()
    assert rows.first.inner_text().startswith("rare")
    items.first.locator(".words button").first.click()
    assert count.inner_text() == "5 of 24 images", "a label of an image is a filter too"
    assert problems == []
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_light_and_dark(page: Path, browser: Any, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 780}, color_scheme=scheme)
    tab = context.new_page()
    tab.goto(page.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    boxes = [tab.locator(".item").nth(k).bounding_box() for k in range(3)]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 360 for box in boxes)
    lightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).reduce((a, b) => a + b)"
    dark = tab.evaluate(lightness) < 300
    assert dark == (scheme == "dark")
    tab.locator("#theme").click()
    assert (tab.evaluate(lightness) < 300) != dark
    context.close()

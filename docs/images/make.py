"""Make docs/images/report.png, the picture in README.md and docs/reports.md, from the report of a run.

    mltrain train                               the default training, whose figures README.md shows
    python docs/images/make.py RUN              RUN: its run folder

It needs Chromium and playwright (`pip install playwright`). Copy the last lines of the training into README.md too, so
that picture and text are of one run.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

SHOWN = ("summary", "curves", "classes", "mistakes")
"""Sections of the picture, with the first five mistakes; without the time, which depends on the machine."""
HIDE = f"""
    main > section:not({", ".join(f"#{name}" for name in SHOWN)}), footer, .tile:last-child, .groups.drawn ~ .small,
    #all-figures, #classes .table-box, #mistakes .card:nth-child(n + 6), #mistakes .keys {{ display: none !important; }}
    .top {{ position: static; }}
"""
WIDTH = 1240


def main() -> None:
    page_of_run = Path(sys.argv[1]) / "report.html"
    target = Path(__file__).parent / "report.png"
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as api:
        browser = api.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(page_of_run.resolve().as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        page.add_style_tag(content=HIDE)
        for name in SHOWN:
            page.locator(f"#{name}").scroll_into_view_if_needed()
            page.wait_for_timeout(500)
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(300)
        page.screenshot(path=target, full_page=True)
        browser.close()
    with Image.open(target) as picture:  # 256 colours are a third of the bytes
        picture.convert("RGB").quantize(256, kmeans=3).save(target, optimize=True)
    sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    main()

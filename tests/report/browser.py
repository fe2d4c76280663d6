"""Opening a page in headless Chromium; the tests that do are skipped where there is none."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pages are opened with playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as api:
        started = api.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield started
        finally:
            started.close()


class Opened:
    """A page that was opened and scrolled through, with what it said and asked for meanwhile."""

    def __init__(self, started: Any, path: Path, *, width: int = 1280, dark: bool = False) -> None:
        scheme = "dark" if dark else "light"
        context = started.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.resolve().as_uri())
        self.page.wait_for_selector("html[data-ready]", timeout=30_000, state="attached")
        self.scroll()

    def scroll(self) -> None:
        """Open every section, go to every plot, and wait until it is drawn."""
        self.page.evaluate("document.querySelectorAll('section > details').forEach((box) => { box.open = true; })")
        plots = "section > details [data-figure]"
        for k in range(self.count(plots)):
            self.page.locator(plots).nth(k).scroll_into_view_if_needed()
        self.wait(f"document.querySelectorAll('{plots}:not([data-drawn])').length === 0")

    def saved(self, selector: str, name: str) -> Path:
        """The file that a button of the page writes."""
        with self.page.expect_download() as download:
            self.page.locator(selector).get_by_role("button", name=name).click()
        return Path(download.value.path())

    def csv(self, selector: str) -> list[dict[str, str]]:
        """The rows that the csv button in an element of the page writes."""
        with self.saved(selector, "csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def wait(self, condition: str, seconds: float = 30) -> None:
        """Until a JavaScript expression is true; the page allows no eval, which playwright's own waiting uses."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, f"not so after {seconds} s: {condition}; the page said {self.said}"
            self.page.wait_for_timeout(50)

    def count(self, selector: str) -> int:
        return int(self.page.locator(selector).count())

    def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in self.page.locator(selector).all_text_contents()]

    def drawn(self, figure: str, selector: str) -> int:
        """How many elements of a plot there are."""
        return self.count(f'[data-figure="{figure}"] {selector}')

    @property
    def network(self) -> list[str]:
        """Requests for anything but the file itself and what it holds."""
        return [url for url in self.asked[1:] if not url.startswith(("data:", "blob:"))]

"""Self-contained HTML pages from templates, figures and tables.

A page holds everything: style, script, data and Plotly's own script, compressed (1.5 of 4.8 MB; the browser unpacks it
in some 50 ms). Names of classes, files and options come from users: Jinja2 escapes them in HTML, `embed` in the data,
and `plot_text` where Plotly would read them as markup.
"""

from __future__ import annotations

import base64
import functools
import gzip
import html
import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mltrain.errors import ConfigError
from mltrain.files import write_text
from mltrain.report import palette

Figure = dict[str, Any]
"""A Plotly figure, `{"data": [...], "layout": {...}}`, or several to choose from, `{"views": {title: figure}}`. A
colour is a CSS variable of the page ("--head"), because light and dark pages have different ones."""

_PACKAGES = {"plotly": "plotly>=6,<8", "jinja2": "jinja2>=3.1,<4"}


@dataclass
class Page:
    """The content of a page: sections, their figures and tables."""

    title: str
    subtitle: str
    sections: list[Section] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    cards: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """images of a section, by its name (see `gallery`)"""
    pictures: list[dict[str, Any]] = field(default_factory=list)
    """files and pictures of the images of all cards"""
    pivots: dict[str, dict[str, Any]] = field(default_factory=dict)
    """rows of which a table over two settings is made, by section"""
    classes: dict[str, Any] = field(default_factory=dict)
    """what the views of classes show (see `picture_sections`)"""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """(title, reason) of sections that have nothing to show"""

    def leave_out(self, title: str, reason: str) -> None:
        """Note at the end of the page that a section is missing, and why."""
        self.left_out.append((title, reason))

    @property
    def missing(self) -> list[tuple[str, str]]:
        """Titles and reason of what is left out; titles with the same reason stand together."""
        titles: dict[str, list[str]] = {}
        for title, reason in self.left_out:
            titles.setdefault(reason, []).append(title)
        return [(", ".join(found), reason) for reason, found in titles.items()]

    def add(
        self,
        name: str,
        title: str,
        template: str,
        *,
        lead: str = "",
        short: str = "",
        open: bool = True,
        figures: Mapping[str, Figure] | None = None,
        table: Table | None = None,
        **context: Any,
    ) -> None:
        """Append a section.

        Args:
            name: anchor, and the name of its table.
            title: heading.
            template: file in `templates`.
            lead: text below the heading.
            short: title in the navigation; "": `title`.
            open: show the content at first; else a click on the title does.
            figures: figures of the section by name.
            table: the table of the section.
            context: variables of the template.
        """
        self.figures |= figures or {}
        if table is not None:
            self.tables[name] = context["table"] = table
        self.sections.append(Section(name, title, template, lead, context, short, open))

    def add_plots(self, name: str, title: str, plots: Mapping[str, tuple[Figure, str]], **texts: Any) -> None:
        """Append a section of plots: name -> figure and its description; `texts` are `lead`, `short` and `open`."""
        labels = {name: label for name, (_, label) in plots.items()}
        figures = {name: figure for name, (figure, _) in plots.items()}
        self.add(name, title, "plots.html", figures=figures, plots=labels, **texts)


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading and an anchor."""

    name: str
    title: str
    template: str
    lead: str
    context: dict[str, Any]
    short: str = ""
    """title in the navigation"""
    open: bool = True
    """its content is shown at first"""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    values: Sequence[Any] | np.ndarray
    kind: Literal["number", "text", "group", "link", "code"] = "number"
    """the cells of a link are [text, address]; a button copies those of code"""
    digits: int = 1
    hint: str = ""
    best: bool = False
    """mark the highest value"""
    spread: Sequence[float | None] | None = None
    """standard deviations, shown after the values"""
    sign: bool = False
    """write + before positive numbers"""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted and searched, some rows at a time."""

    columns: Sequence[Column]
    sort: int | None = None
    """column that it is sorted by at first; None: rows are in the given order"""
    descending: bool = True
    search: str | None = None
    """text of the empty search field; None: there is no search field"""
    page: int = 25
    """rows shown at a time"""
    opens: bool = False
    """the first cell of a row opens the view of the class that it names"""

    def to_json(self) -> dict[str, Any]:
        """Return the content of the table for the script of the page."""
        columns = []
        for c in self.columns:
            values = numbers(c.values, 4) if c.kind == "number" else list(c.values)
            columns.append(vars(c) | {"values": values, "spread": c.spread and numbers(c.spread, 4)})
        kept = ("sort", "descending", "page", "opens")
        return {"columns": columns} | {key: getattr(self, key) for key in kept}

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.columns[0].values)


def write_page(path: Path, page: Page) -> None:
    """Write the file of a report atomically.

    Raises:
        ConfigError: Plotly or Jinja2 is not installed.
        OSError: the folder cannot be written.
    """
    _require("plotly")
    kept = ("title", "figures", "cards", "pictures", "classes", "pivots")
    content = {key: getattr(page, key) for key in kept}
    content["tables"] = {k: table.to_json() for k, table in page.tables.items()}
    write_html(path, "page.html", page=page, data=embed(content), plotly=_plotly())


def write_html(path: Path, template: str, **context: Any) -> None:
    """Write a page from a template of this package atomically; raises as `write_page`."""
    _require("jinja2")
    write_text(path, render(template, **context))


def render(template: str, **context: Any) -> str:
    """Return a template of this package with its variables filled in."""
    return str(_environment().get_template(template).render(**context))


def _require(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"a page needs the package {name}: pip install '{_PACKAGES[name]}'")


def embed(content: Any) -> Any:
    """Return JSON for a <script> element, which no text in it can end; raises ValueError if a number is not finite."""
    from markupsafe import Markup

    text = json.dumps(content, default=_json_value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    # The text is safe: <, > and & stand as \u003c ...
    return Markup(text)


def plot_text(text: str, most: int = 40) -> str:
    """Escape a name so that Plotly shows it literally, and shorten it to `most` characters.

    Plotly reads <b>, <a href> and &amp; in labels as markup.
    """
    text = text if len(text) <= most else text[: most - 1] + "…"
    return html.escape(text, quote=False).replace("$", "&#36;")  # two $ would ask for MathJax


def numbers(values: Any, digits: int = 4) -> list[float | int | None]:
    """Round values to `digits` significant digits for JSON; whole numbers stay whole, NaN becomes None."""
    listed = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return [_significant(value, digits) for value in listed]


def duration(seconds: float | None) -> str:
    """Return a time as `45 s`, `12 min` or `3 h 05 min`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def figure_number(value: Any, digits: int = 2) -> str:
    """Return a figure in percent or a count as text; a dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.{digits}f}" if isinstance(value, float) else str(value)


def tile(title: str, value: str, note: str = "", *, spread: str = "", hint: str = "") -> dict[str, str]:
    """Make a tile with a large value, its spread (`± 0.24`) in smaller type, and a note below."""
    return {"title": title, "value": value, "spread": spread, "note": note, "hint": hint}


def _significant(value: Any, digits: int) -> float | int | None:
    if value is None or isinstance(value, bool | int | str):
        return value  # type: ignore[return-value]
    if not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}") if abs(value) < 10**digits else round(float(value), 1)


def _json_value(value: Any) -> Any:
    """Convert NumPy's numbers and arrays for JSON."""
    if isinstance(value, np.ndarray):
        return numbers(value, 5) if value.ndim == 1 else list(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


@functools.lru_cache(maxsize=1)
def _plotly() -> str:
    """Return Plotly's script, gzip and base64."""
    found = importlib.util.find_spec("plotly")
    assert found is not None and found.submodule_search_locations
    script = Path(next(iter(found.submodule_search_locations))) / "package_data" / "plotly.min.js"
    return base64.b64encode(gzip.compress(script.read_bytes(), 6, mtime=0)).decode()


@functools.lru_cache(maxsize=1)
def _environment() -> Any:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=lambda name: not str(name).endswith(".md"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def asset(name: str) -> Any:
        return Markup((Path(__file__).parent / "templates" / name).read_text(encoding="utf-8"))

    environment.globals["asset"] = asset
    environment.globals["palette"] = Markup(palette.css())
    environment.filters["channels"] = lambda values: ", ".join(f"{value:.4g}" for value in values)
    return environment

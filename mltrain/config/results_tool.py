"""The work of tools/results.py: run folders in, tables out."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mltrain.config.results import load_settings
from mltrain.console import exit_on_error
from mltrain.engine.run_folder import weights_key
from mltrain.errors import ConfigError, DataError
from mltrain.report.runs import Filter, RunRecord, known_keys, lookup, read_runs, spelled
from mltrain.text import nearest

if TYPE_CHECKING:
    from mltrain.report.compare import Comparison

FORMATS = ("terminal", "markdown", "csv")
ENDINGS = {".md": "markdown", ".csv": "csv", ".txt": "terminal"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (--help)")


def main(about: str) -> NoReturn:
    """Run the tool for the command line, and leave the process."""
    with exit_on_error():
        if {"-h", "--help"} & set(sys.argv[1:]):
            sys.stdout.write(about.strip() + "\n")
        else:
            run(sys.argv[1:])
    sys.exit(0)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; `words` are folders and filters. Raises ConfigError."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--baseline", action="append", default=[])
    parser.add_argument("--figure")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--split", choices=("auto", "val", "test"), default="auto")
    parser.add_argument("--weights", choices=("best", "raw", "ema"), default="best")
    parser.add_argument("--columns", default="")
    parser.add_argument("--sort")
    parser.add_argument("--against", type=Path)
    parser.add_argument("--format", choices=FORMATS)
    parser.add_argument("--out", type=Path)
    given = parser.parse_intermixed_args(list(argv))
    given.baseline = [word for text in given.baseline for word in text.split()]
    if given.resamples < 0:
        raise ConfigError(f"--resamples {given.resamples}: must be at least 0 (0: no intervals)")
    return given


def run(argv: Sequence[str]) -> None:
    """Read, filter, compare, write. Raises ConfigError or DataError."""
    given = parse(argv)
    from mltrain.report.compare import compare, sort_rows
    from mltrain.report.differences import add_differences
    from mltrain.report.published import beside, read_published
    from mltrain.report.results_table import chosen_columns, has_column, markdown, terminal, to_csv

    folders = [Path(word) for word in given.words if _is_folder(word)]
    words = [word for word in given.words if not _is_folder(word)]
    try:
        filters = [Filter.parse(word) for word in words]
        records = read_runs(folders or [_default_runs()], load_settings)
        if not records:
            where = ", ".join(map(str, folders or [_default_runs()]))
            raise DataError(f"{where}: holds no run folder (one with a config.yaml)")
        keys = known_keys(records)
        for item in [*filters, *map(Filter.parse, given.baseline)]:
            if item.key not in keys:
                near = nearest(item.key, keys)
                hint = f"; did you mean {near}?" if near else ""
                raise ConfigError(f"{item.text}: no run has a {item.key}{hint}")
        chosen = [record for record in records if all(item.matches(record) for item in filters)]
        if not chosen:
            raise DataError(_no_match(records, filters))
        # What cannot be read cannot be judged either: it stays in sight.
        chosen += [record for record in records if record.status == "unreadable" and record not in chosen]
        weights = weights_key(given.weights)
        tables = compare(chosen, split=given.split, weights=weights)
        full = [table for table in tables if table.rows]
        if given.baseline:
            options = {"figure": given.figure, "resamples": given.resamples}
            _where_it_applies(full, lambda table: add_differences(table, given.baseline, **options))
        if given.sort:
            _where_it_applies(full, lambda table: sort_rows(table, given.sort))
        columns = [name for name in given.columns.split(",") if name]
        against = read_published(given.against) if given.against else []
        published = [beside(table, against) for table in tables]
        layout = given.format or (ENDINGS.get(given.out.suffix, "terminal") if given.out else "terminal")
        if layout == "csv":
            text = to_csv(tables, columns, published)
        else:
            parts = []
            for table, found in zip(tables, published, strict=True):
                shown = chosen_columns(
                    table,
                    [c for c in columns if has_column(table, c) or not any(has_column(other, c) for other in full)],
                )
                if layout == "markdown":
                    parts.append(markdown(table, shown, found))
                else:
                    bold = given.out is None and sys.stdout.isatty() and "NO_COLOR" not in os.environ
                    parts.append(terminal(table, shown, bold=bold, published=found))
            text = "\n".join(parts)
    except ValueError as error:  # of the library: what it says is about what was asked for
        raise ConfigError(str(error)) from error
    if given.out is None:
        sys.stdout.write(text)
        return
    try:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {given.out}: cannot be written: {error}") from error


def _where_it_applies(tables: Sequence[Comparison], do: Callable[[Comparison], None]) -> None:
    """`do` for every table; one where it is refused (no baseline in it, say) gets a note, unless all refuse."""
    refused: list[tuple[Comparison, str]] = []
    for table in tables:
        try:
            do(table)
        except ValueError as error:
            refused.append((table, str(error)))
    if tables and len(refused) == len(tables):
        raise ConfigError(refused[0][1])
    for table, text in refused:
        text = text.removeprefix(f"{table.dataset}: ")
        table.notes.append(f"{text[:1].upper()}{text[1:]}.")


def _no_match(records: Sequence[RunRecord], filters: Sequence[Filter]) -> str:
    """Which filter leaves nothing, and what there is instead."""
    lines = [f"none of {len(records)} runs is {' and '.join(item.text for item in filters)}"]
    for item in filters:
        if not any(item.matches(record) for record in records):
            values = sorted({spelled(value) for found, value in (lookup(r, item.key) for r in records) if found})
            more = ", ..." if len(values) > 12 else ""
            lines.append(f"{item.key} is {', '.join(values[:12])}{more}; alternatives are written {item.key}=a|b")
    return "\n".join(lines)


def _is_folder(word: str) -> bool:
    return Path(word).exists() or not re.search(r"[=<>]", word)


def _default_runs() -> Path:
    from mltrain.config.schema import Paths

    return Path(Paths().runs)

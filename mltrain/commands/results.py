"""Compare runs: a table of what differs between them and what came of it, mean ± standard deviation over seeds.

    mltrain results                                       every run below runs/
    mltrain results /data/runs 'loss=asl|bce' 'epochs>=3'   other folders; only some runs
    mltrain results baseline=loss=bce                     differences, with 95 % intervals over the images
    mltrain results against=docs/published.yaml         published figures below, and how they differ
    mltrain results out=results.md                      Markdown; results.csv: csv

A filter is KEY=VALUE, with != >= <= > <, alternatives a|b and patterns resnet*; quote it. KEY is a key of the resolved
config (runner.epochs, or epochs), a section for its option (dataset, model, head, loss, sampler ...), name, seed,
status, or a figure (map>=40).

    baseline=FILTER       the row to compare with; of several the one that agrees in all other settings. Several
                          filters: baseline='loss=bce sampler=uniform'
    figure=map            what is compared: map (default), map_head, map_medium, map_tail; accuracy of single labels
    resamples=1000        of the images, for the intervals; 0: none
    columns=A,B           figures and config keys to show (map,map_tail,words_F1); +A,+B: beside the default ones
    sort=KEY              a figure (best first) or a setting; sort=-KEY: the other way round
    split=auto            val, test; auto: test where all have one
    weights=best          raw, ema; best: those that validation chose in each run
    against=FILE          published figures
    format=FORMAT         terminal, markdown, csv
    out=FILE              write it there; .md and .csv choose the format

docs/reading_results.md says how to read the table.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mltrain.cli import Command
from mltrain.config.schema import PathsOptions, number
from mltrain.engine.run_folder import weights_key
from mltrain.errors import ConfigError, DataError
from mltrain.files import write_text
from mltrain.report.runs import Filter, RunRecord, known_keys, lookup, read_runs, spelled
from mltrain.runs.settings import load_settings
from mltrain.text import did_you_mean

if TYPE_CHECKING:
    from mltrain.report.compare import Comparison

ENDINGS = {".md": "markdown", ".csv": "csv", ".txt": "terminal"}


@dataclass(frozen=True)
class Options:
    """Options of the command itself."""

    baseline: str | None = None
    """filters of the row to compare with, separated by spaces"""
    figure: str | None = None
    """what is compared; None: map, or accuracy of single labels"""
    resamples: int = number(1000, least=0)
    """resamples of the images for the intervals; 0: no intervals"""
    split: Literal["auto", "val", "test"] = "auto"
    weights: Literal["best", "raw", "ema"] = "best"
    columns: str = ""
    """figures and config keys to show, separated by commas"""
    sort: str | None = None
    """a figure or a setting; -KEY reverses the order"""
    against: str | None = None
    """file of published figures"""
    format: Literal["terminal", "markdown", "csv"] | None = None
    """None: from the suffix of `out`"""
    out: str | None = None
    """file for the table; None: standard output"""


def results(arguments: Sequence[str], options: Options) -> None:
    """Read run folders, filter and compare them, and write the table. Raises ConfigError or DataError."""
    from mltrain.report.compare import compare, sort_rows
    from mltrain.report.differences import add_differences
    from mltrain.report.published import beside, read_published
    from mltrain.report.results_table import chosen_columns, has_column, markdown, terminal, to_csv

    baseline = (options.baseline or "").split()
    folders = [Path(word) for word in arguments if _is_folder(word)]
    words = [word for word in arguments if not _is_folder(word)]
    try:
        filters = [Filter.parse(word) for word in words]
        records = read_runs(folders or [_default_runs()], load_settings)
        if not records:
            where = ", ".join(map(str, folders or [_default_runs()]))
            raise DataError(f"{where}: holds no run folder (one with a config.yaml)")
        keys = known_keys(records)
        for item in [*filters, *map(Filter.parse, baseline)]:
            if item.key not in keys:
                raise ConfigError(f"{item.text}: no run has a {item.key}{did_you_mean(item.key, keys)}")
        chosen = [record for record in records if all(item.matches(record) for item in filters)]
        if not chosen:
            raise DataError(_no_match(records, filters))
        # What cannot be read cannot be judged either: it stays in sight.
        chosen += [record for record in records if record.status == "unreadable" and record not in chosen]
        weights = weights_key(options.weights)
        tables = compare(chosen, split=options.split, weights=weights)
        full = [table for table in tables if table.rows]
        if baseline:
            settings: dict[str, Any] = {"figure": options.figure, "resamples": options.resamples}
            _where_it_applies(full, lambda table: add_differences(table, baseline, **settings))
        sort = options.sort
        if sort:
            _where_it_applies(full, lambda table: sort_rows(table, sort))
        columns = [name for name in options.columns.split(",") if name]
        against = read_published(Path(options.against)) if options.against else []
        published = [beside(table, against) for table in tables]
        layout = options.format or (ENDINGS.get(Path(options.out).suffix, "terminal") if options.out else "terminal")
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
                    bold = options.out is None and sys.stdout.isatty() and "NO_COLOR" not in os.environ
                    parts.append(terminal(table, shown, bold=bold, published=found))
            text = "\n".join(parts)
    except ValueError as error:  # of the library: what it says is about what was asked for
        raise ConfigError(str(error)) from error
    if options.out is None:
        sys.stdout.write(text)
        return
    try:
        out = Path(options.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text)
    except OSError as error:
        raise ConfigError(f"out={options.out}: cannot be written: {error}") from error


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
    return Path(PathsOptions().runs)


COMMAND = Command(results, about=__doc__, takes="arguments", options=Options, dashes=True)

"""Compare runs: a table of their differing settings and their figures, mean ± standard deviation over seeds.

    mltrain results                                         every run below runs/
    mltrain results /data/runs 'loss=asl|bce' 'epochs>=3'   other folders; only some runs
    mltrain results baseline=loss=bce                       differences, with 95 % intervals over the images
    mltrain results baseline='loss=bce sampler=uniform'     a baseline that needs two filters
    mltrain results against=docs/published.yaml             published figures below, and how they differ
    mltrain results out=results.md                          Markdown; results.csv: csv

A filter is KEY=VALUE, with != >= <= > <, alternatives a|b and patterns resnet*; quote it. KEY is a key of the resolved
config (runner.epochs, or epochs), a section for its option (dataset, model, head, loss, sampler ...), name, seed,
status, or a figure (map>=40). docs/reading_results.md explains the table.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mltrain import console
from mltrain.cli import Command
from mltrain.config.identity import DEBUG
from mltrain.config.schema import PathsOptions, number
from mltrain.engine.run_folder import weights_key
from mltrain.errors import ConfigError, DataError
from mltrain.files import write_text
from mltrain.report.runs import read_runs
from mltrain.runs.outputs import writing
from mltrain.runs.selection import select, split_arguments, without_imports
from mltrain.runs.settings import load_settings

if TYPE_CHECKING:
    from mltrain.report.compare import Comparison

ENDINGS = {".md": "markdown", ".csv": "csv", ".txt": "terminal"}


@dataclass(frozen=True)
class Options:
    """Options of the command itself."""

    baseline: str | None = None
    """filters of the row to compare with, separated by spaces; of several rows each takes the one with its settings"""
    figure: str | None = None
    """figure to compare: map, map_head, map_medium, map_tail ...; null: map, or accuracy of single-label runs"""
    resamples: int = number(1000, least=0)
    """number of resamples of the images for the intervals; 0: no intervals"""
    split: Literal["auto", "val", "test"] = "auto"
    """split of the figures; auto: test if all runs have one, else val"""
    weights: Literal["best", "raw", "ema"] = "best"
    """weights of the figures; best: those that validation chose in each run"""
    columns: str = ""
    """figures and config keys to show, separated by commas (map,map_tail,words_F1); +A,+B adds to the default ones"""
    sort: str | None = None
    """figure (best first) or setting to sort by; sort=-KEY reverses the order"""
    against: str | None = None
    """file of published figures"""
    format: Literal["terminal", "markdown", "csv"] | None = None
    """form of the table; null: by the suffix of out, .md or .csv, else terminal"""
    out: str | None = None
    """file for the table; null: standard output"""


def results(arguments: Sequence[str], options: Options) -> None:
    """Read run folders, filter and compare them, and write the table. Raises ConfigError or DataError."""
    from mltrain.report.compare import compare, sort_rows
    from mltrain.report.differences import add_differences

    baseline = (options.baseline or "").split()
    _, arguments = without_imports(arguments)  # a table runs no code of a run, and so needs no permission for it
    folders, filters = split_arguments(arguments)
    folders = folders or [Path(PathsOptions().runs)]
    try:
        records = read_runs(folders, load_settings)
        if not records:
            tried = [str(folder / DEBUG) for folder in folders if (folder / DEBUG).is_dir()]
            hint = f"; the tries of debug=... are in {', '.join(tried)}" if tried else ""
            raise DataError(f"{', '.join(map(str, folders))}: holds no run folder (one with a config.yaml){hint}")
        chosen = select(records, filters, baseline)
        # Filters cannot judge runs that cannot be read, so these stay in the table.
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
        text = _as_text(tables, options)
    except ValueError as error:  # the library refuses an option or filter
        raise ConfigError(str(error)) from error
    if options.out is None:
        console.write(text)
    else:
        with writing(Path(options.out)) as out:
            write_text(out, text)


def _as_text(tables: Sequence[Comparison], options: Options) -> str:
    """Return the tables in the format that the options ask for."""
    from mltrain.report.published import beside, read_published
    from mltrain.report.results_table import chosen_columns, has_column, markdown, terminal, to_csv

    columns = [name for name in options.columns.split(",") if name]
    against = read_published(Path(options.against)) if options.against else []
    published = [beside(table, against) for table in tables]
    layout = options.format or (ENDINGS.get(Path(options.out).suffix, "terminal") if options.out else "terminal")
    if layout == "csv":
        return to_csv(tables, columns, published)
    full = [table for table in tables if table.rows]
    bold = options.out is None and sys.stdout.isatty() and "NO_COLOR" not in os.environ
    parts = []
    for table, found in zip(tables, published, strict=True):
        # A column that other tables have may be missing here; one that no table has is refused by `chosen_columns`.
        here = [c for c in columns if has_column(table, c) or not any(has_column(other, c) for other in full)]
        shown = chosen_columns(table, here)
        parts.append(
            markdown(table, shown, found)
            if layout == "markdown"
            else terminal(table, shown, bold=bold, published=found)
        )
    return "\n".join(parts)


def _where_it_applies(tables: Sequence[Comparison], do: Callable[[Comparison], None]) -> None:
    """Call `do` for every table. A table that refuses (it has no baseline, say) gets a note, unless all refuse."""
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


COMMAND = Command(results, about=__doc__, takes="arguments", options=Options, dashes=True)

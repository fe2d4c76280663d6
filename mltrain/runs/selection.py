"""Choice of runs on a command line: folders, and filters of the runs below them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mltrain.config.overrides import granted_packages
from mltrain.config.own_code import NAMES, OPTION, make_importable
from mltrain.engine.latest import followed
from mltrain.errors import ConfigError, DataError
from mltrain.report.runs import Filter, RunRecord, known_keys, lookup, spelled
from mltrain.text import counted, did_you_mean


def split_arguments(arguments: Iterable[str]) -> tuple[list[Path], list[str]]:
    """Return the folders and the filters (KEY=VALUE, KEY>=VALUE ...) among the arguments."""
    folders: list[Path] = []
    filters: list[str] = []
    for text in arguments:
        if Path(text).exists() or not re.search(r"[=<>]", text):
            folders.append(followed(Path(text)))
        else:
            filters.append(text)
    return folders, filters


def without_imports(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the packages that `paths.imports=[mypkg]` allows, and the other arguments.

    Raises:
        ConfigError: there is no such package.
    """
    keys = tuple(f"paths.{name}=" for name in NAMES)
    own: list[str] = []
    rest: list[str] = []
    for text in arguments:
        (own if text.startswith(keys) else rest).append(text)
    packages = [str(package) for package in granted_packages(own)]
    for package in packages:
        if (problem := make_importable(package)) is not None:
            raise ConfigError(f"{OPTION}={package}: {problem}")
    return packages, rest


def select(records: Sequence[RunRecord], filters: Sequence[str], baseline: Sequence[str] = ()) -> list[RunRecord]:
    """Return the runs that match all filters.

    Raises:
        ConfigError: a filter, or one of the baseline, has a key that no run has.
        DataError: no run matches.
        ValueError: a filter cannot be read.
    """
    parsed, keys = [Filter.parse(text) for text in filters], known_keys(records)
    for item in [*parsed, *map(Filter.parse, baseline)]:
        if item.key not in keys:
            raise ConfigError(f"{item.text}: no run has a {item.key}{did_you_mean(item.key, keys)}")
    chosen = [record for record in records if all(item.matches(record) for item in parsed)]
    if not chosen:
        raise DataError(_no_match(records, parsed))
    return chosen


def _no_match(records: Sequence[RunRecord], filters: Sequence[Filter]) -> str:
    """Return a message with the filters that match no run, and the values that the runs have."""
    lines = [f"none of {counted(len(records), 'run')} is {' and '.join(item.text for item in filters)}"]
    for item in filters:
        if not any(item.matches(record) for record in records):
            values = sorted({spelled(value) for found, value in (lookup(r, item.key) for r in records) if found})
            more = ", ..." if len(values) > 12 else ""
            lines.append(f"{item.key} is {', '.join(values[:12])}{more}; alternatives are written {item.key}=a|b")
    return "\n".join(lines)

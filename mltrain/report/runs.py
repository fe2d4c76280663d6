"""Run folders read for comparison: what was asked for, how far each came, what it gave.

    records = read_runs([Path("runs")], load)                          # one RunRecord for each run folder below
    records = [r for r in records if all(f.matches(r) for f in map(Filter.parse, ["dataset=coco", "epochs>=3"]))]

`load(folder)` gives a run's config and the part of it that can change results: `mltrain.runs.settings.load_settings`
(this package does not know configs). `mltrain.report.compare` makes tables of the records.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mltrain.engine.lock import run_lock
from mltrain.errors import DataError, MltrainError

logger = logging.getLogger(__name__)

Load = Callable[[Path], "tuple[dict[str, Any], dict[str, Any]]"]
"""Of a run folder: its whole config, and the settings that can change results, flat: `{"loss": "asl", "loss.gamma_neg":
4.0, "runner.epochs": 40, ...}`. A section with a `_target_` has its component's name under its own name."""

UNFINISHED = ("running", "stopped", "failed", "unreadable")


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One run folder."""

    folder: Path
    status: str
    """"finished"; or "running" (a process holds it), "stopped" (no process; may be resumed), "failed", "unreadable" """
    note: str = ""
    """of a run that is not finished: how far it came, or why it failed"""
    config: Mapping[str, Any] = field(default_factory=dict)
    """resolved; empty where there is none to read"""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """what can change the result, flat (see `Load`); of a job that failed before it had a folder, its overrides"""
    result: Mapping[str, Any] = field(default_factory=dict)
    """content of result.json; empty unless finished"""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """content of environment.json; empty where there is none"""

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def dataset(self) -> str:
        return str(self.settings.get("dataset") or self.folder.parent.parent.name)

    @property
    def task(self) -> str:
        return str(self.config.get("task", "multi_label"))

    @property
    def seed(self) -> int:
        return int(self.config.get("seed", 0))

    @property
    def name(self) -> str:
        return str(self.config.get("name") or self.folder.parent.name)

    @property
    def best_weights(self) -> str:
        """ "val" raw or "ema": those with the better figure on the validation split."""
        return str(self.result["best"]["weights"])

    @property
    def has_test(self) -> bool:
        return bool(self.result.get("test"))

    def scalars(self, split: str = "val", weights: str = "best") -> Mapping[str, float]:
        """Figures (percent) of a finished run; empty where it has none of that split or those weights."""
        weights = self.best_weights if weights == "best" else weights
        tree = self.result if split == "val" else self.result.get("test", {})
        found: Mapping[str, float] = tree.get(weights, {})
        return found

    @property
    def machine(self) -> str:
        """Where it ran: "2 x NVIDIA H200", "AMD EPYC, 2 cores"; empty where not known."""
        gpus, cpu = self.environment.get("gpus") or [], self.environment.get("cpu") or {}
        world = int(self.environment.get("world_size") or 1)
        device = str((self.config.get("runner") or {}).get("device", "auto"))
        if gpus and device != "cpu":
            name = gpus[0].get("name", "GPU") if isinstance(gpus[0], Mapping) else str(gpus[0])
            return f"{world} x {name}"
        if not cpu:
            return ""
        return f"{cpu.get('model', 'CPU')}, {cpu.get('cores', '?')} cores" + (f", {world} ranks" if world > 1 else "")


def read_runs(folders: Iterable[Path], load: Load) -> list[RunRecord]:
    """Every run at or below the folders, finished or not, in the order of their paths.

    Raises:
        DataError: a folder does not exist.
    """
    found: dict[Path, Path] = {}
    jobs: dict[tuple[str, ...], dict[str, Any]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; name the folder of runs (paths.runs), or run folders")
        for path, files in _walk(folder):
            if "config.yaml" in files:
                found[path.resolve()] = path
            for file in files:
                if file.startswith("job-") and file.endswith(".json"):
                    _note_job(path / file, jobs)
    records = [read_run(folder, load, jobs.pop(_tail(folder), None)) for folder in sorted(found.values())]
    return records + [_without_folder(job) for _, job in sorted(jobs.items()) if job["state"] == "failed"]


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders with their files; nothing below a run folder is looked at."""
    for path, names, files in os.walk(folder, followlinks=True):
        yield Path(path), files
        names[:] = [] if "config.yaml" in files else sorted(name for name in names if not name.startswith("."))


def _tail(folder: Path) -> tuple[str, ...]:
    """Data set, name and id: what a run folder is called wherever `paths.runs` lies."""
    return folder.absolute().parts[-3:]


def _note_job(path: Path, jobs: dict[tuple[str, ...], dict[str, Any]]) -> None:
    """What a sweep recorded of a job (`mltrain.sweeps.job`), where it is the newest of that run."""
    try:
        job = _json(path)
    except DataError:
        return
    if job is None or not isinstance(job.get("folder"), str) or "state" not in job:
        return
    key = _tail(Path(job["folder"]))
    if key not in jobs or job.get("started", 0) > jobs[key].get("started", 0):
        jobs[key] = job


def _without_folder(job: Mapping[str, Any]) -> RunRecord:
    """A job of a sweep that failed before it had a run folder."""
    words = (word.partition("=") for word in str(job.get("overrides", "")).split())
    settings: dict[str, Any] = {key.lstrip("+"): value for key, _, value in words}
    folder = Path(job["folder"])
    settings["dataset"] = folder.parent.parent.name
    return RunRecord(folder, "failed", _first_line(job.get("error")), settings=settings)


def _first_line(text: Any) -> str:
    return str(text or "no reason was recorded").splitlines()[0]


def read_run(folder: Path, load: Load, job: Mapping[str, Any] | None = None) -> RunRecord:
    """One run folder; what cannot be read in it is said by the record, not raised.

    Args:
        job: what a sweep recorded of it.
    """
    try:
        config, settings = load(folder)
        environment = _json(folder / "environment.json") or {}
        result = _json(folder / "result.json")
        known: dict[str, Any] = {"config": config, "settings": settings, "environment": environment}
        if result is not None:
            if not isinstance(result.get("best"), Mapping) or "weights" not in result["best"]:
                raise DataError(f"{folder / 'result.json'}: names no best weights")
            return RunRecord(folder, "finished", result=result, **known)
        status, note = _progress(folder, config, job)
        return RunRecord(folder, status, note, **known)
    except (MltrainError, OSError, ValueError) as error:
        return RunRecord(folder, "unreadable", str(error).splitlines()[0])


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no table of values")
    return content


def _progress(folder: Path, config: Mapping[str, Any], job: Mapping[str, Any] | None) -> tuple[str, str]:
    """Status of a run without a result, and how far it came."""
    epochs = (config.get("runner") or {}).get("epochs", "?")
    last = _last_record(folder / "metrics.jsonl")
    reached = f"epoch {last['epoch']} of {epochs}, " if "epoch" in last else ""
    note = f"{reached}step {last['step']}" if "step" in last else "before its first step was logged"
    if _is_locked(folder):
        return "running", note
    for path in sorted(folder.glob("nonfinite_rank*.json")):
        if not (folder / "last.pt").is_file() or path.stat().st_mtime >= (folder / "last.pt").stat().st_mtime:
            return "failed", f"{note}: {(_json(path) or {}).get('error', 'a loss or gradient was not finite')}"
    if job is not None and job["state"] == "failed":
        return "failed", f"{note}: {_first_line(job.get('error'))}"
    return "stopped", note


def _last_record(path: Path) -> dict[str, Any]:
    """The last step of a metrics.jsonl, and the last finished epoch."""
    found: dict[str, Any] = {}
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # the end of a file that is being written
            continue
        found |= {key: record[key] for key in ("step", "epoch") if key in record}
    return found


def _is_locked(folder: Path) -> bool:
    """Whether a process is in the run folder."""
    if not (folder.parent / f".{folder.name}.lock").is_file():
        return False
    try:
        with run_lock(folder, patience=0.0):
            return False
    except MltrainError:
        return True
    except OSError:  # not ours to lock
        return False


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Filter:
    """`key=value`, with `!=`, `>=`, `<=`, `>`, `<`; alternatives `loss=asl|bce`, patterns `model=resnet*`.

    A key is one of the resolved config (`runner.epochs`), its last part where that says which (`epochs`), a section for
    its component's name (`loss`, `head`, `dataset`), `name`, `seed`, `status`, `task`, or a figure of the best weights
    on the validation split (`map>=40`).
    """

    key: str
    sign: str
    values: tuple[str, ...]
    text: str

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Raises ValueError where it is no filter."""
        match = re.fullmatch(r"([\w.@+-]+?)\s*(!=|>=|<=|=|>|<)\s*(.*)", text.strip())
        if match is None or (not match[3] and match[2] not in ("=", "!=")):
            raise ValueError(f"{text!r} is no filter; write KEY=VALUE, e.g. loss=asl, 'loss=asl|bce' or 'epochs>=3'")
        key, sign, value = match.groups()
        values = tuple(part.strip() for part in value.split("|"))
        if sign in _COMPARE:
            try:
                float(value)
            except ValueError:
                raise ValueError(f"{text}: {sign} compares numbers; {value!r} is none") from None
        return cls(key, sign, values, text)

    def matches(self, record: RunRecord) -> bool:
        """Whether the run is meant; a run without the key is not, except by `!=`."""
        found, value = lookup(record, self.key)
        if self.sign in _COMPARE:
            if not found or isinstance(value, bool) or not isinstance(value, int | float):
                return False
            return _COMPARE[self.sign](float(value), float(self.values[0]))
        same = found and any(_same(value, wanted) for wanted in self.values)
        return same if self.sign == "=" else not same


def known_keys(records: Sequence[RunRecord]) -> set[str]:
    """The keys of `lookup` that at least one of the runs has."""
    keys = {"name", "seed", "status", "task", "dataset", "folder"}
    for record in records:
        keys |= set(flatten(record.config)) | set(record.settings)
        if record.finished:
            keys |= set(record.scalars()) | {key for key, value in record.result.items() if _is_number(value)}
    return keys | {key.rpartition(".")[2] for key in keys}


def lookup(record: RunRecord, key: str) -> tuple[bool, Any]:
    """Whether a run has the key of a filter or column, and its value."""
    if key in ("name", "seed", "status", "task", "dataset", "folder"):
        return True, getattr(record, key)
    if key in record.settings:
        return True, record.settings[key]
    flat = flatten(record.config)
    if key in flat:
        return True, flat[key]
    ends = [name for name in flat if name.rpartition(".")[2] == key]
    ends.sort(key=lambda name: not name.startswith("runner."))
    if ends and (ends[0].startswith("runner.") or len({repr(flat[name]) for name in ends}) == 1):
        return True, flat[ends[0]]
    if ends:
        raise ValueError(f"{key} is ambiguous: {', '.join(sorted(ends))}; write the whole key")
    for figures in (record.scalars(), record.result) if record.finished else ():
        if _is_number(figures.get(key)):
            return True, figures[key]
    return False, None


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, keys joined by dots; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def spelled(value: Any) -> str:
    """A config value as an override spells it: `null`, `true`, `0.001`, `[1,2]`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(spelled(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{spelled(item)}" for key, item in value.items()) + "}"
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(value: Any, wanted: str) -> bool:
    if _is_number(value):
        try:
            return float(value) == float(wanted)
        except ValueError:
            return False
    return fnmatch.fnmatchcase(spelled(value), wanted)

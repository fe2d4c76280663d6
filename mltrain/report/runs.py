"""Run folders as records to compare: their settings, how far each came, and their figures.

    records = read_runs([Path("runs")], load)                          # one RunRecord for each run folder below
    records = [r for r in records if all(f.matches(r) for f in map(Filter.parse, ["dataset=coco", "epochs>=3"]))]

`load(folder)` returns a run's config and the part of it that can change results: `mltrain.runs.settings.load_settings`
(this package does not know configs). `mltrain.report.compare` makes tables of the records.
"""

from __future__ import annotations

import fnmatch
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mltrain.config.identity import DEBUG
from mltrain.engine.latest import followed, is_latest
from mltrain.engine.lock import run_lock
from mltrain.engine.run_folder import CONFIG, JOB, NONFINITE, RunFolder, flatten, read_json
from mltrain.errors import DataError, MltrainError
from mltrain.files import walk

Load = Callable[[Path], "tuple[dict[str, Any], dict[str, Any]]"]
"""Run folder -> its whole config, and the settings that can change results, flat: `{"loss": "asl", "loss.gamma_neg":
4.0, "runner.epochs": 40, ...}`. A section with a `_target_` has its component's name under its own name."""


class RunRecord(RunFolder):
    """A run folder with its settings and its status.

    Args:
        folder: the run folder; it need not exist for a job that failed before it had one.
        status: "finished"; or "running" (a process holds it), "stopped" (no process; may be resumed), "failed",
            "unreadable".
        note: how far a run that is not finished came, or why it failed.
        config: resolved, with the options that were added since; empty where there is none to read.
        settings: all that can change the result, flat (see `Load`); the overrides of a job that failed before it had a
            folder.
    """

    def __init__(
        self,
        folder: Path,
        status: str,
        note: str = "",
        *,
        config: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(folder)
        self.status, self.note = status, note
        self.config = dict(config or {})
        self.settings = dict(settings or {})

    @property
    def finished(self) -> bool:
        """True if the run has a result that can be read."""
        return self.status == "finished"

    @property
    def dataset(self) -> str:
        """Name of the data set, known before the run has a result too."""
        return str(self.settings.get("dataset") or self.folder.parent.parent.name)


def read_runs(folders: Iterable[Path], load: Load) -> list[RunRecord]:
    """Read every run at or below the folders, finished or not, in the order of their paths.

    Runs of a debug preset are tries: they are left out, unless a folder of them is named (runs/debug).

    Raises:
        DataError: a folder does not exist.
    """
    folders = [followed(folder) for folder in folders]
    found: dict[Path, Path] = {}
    jobs: dict[tuple[str, ...], dict[str, Any]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; name the folder of runs (paths.runs), or run folders")
        for place, names, files in walk(folder):
            path = Path(place)
            if CONFIG in files:
                found[path.resolve()] = path
            for file in fnmatch.filter(files, JOB):
                _note_job(path / file, jobs)
            # The folders inside a run folder hold no runs. `latest` leads to a run, or is a copy of one, that is found
            # under its own name.
            below = [name for name in names if not name.startswith(".") and not is_latest(path / name)]
            names[:] = [] if CONFIG in files else sorted(below)
    records = [read_record(folder, load, jobs.pop(_tail(folder), None)) for folder in sorted(found.values())]
    if not any(DEBUG in folder.absolute().parts for folder in folders):
        records = [record for record in records if not record.config.get("debug")]
    return records + [_failed_job(job) for _, job in sorted(jobs.items()) if job["state"] == "failed"]


def _tail(folder: Path) -> tuple[str, ...]:
    """Return data set, name and id, which identify a run folder wherever `paths.runs` lies."""
    return folder.absolute().parts[-3:]


def _note_job(path: Path, jobs: dict[tuple[str, ...], dict[str, Any]]) -> None:
    """Keep a sweep's record of a job if it is the newest record of that run."""
    try:
        job = read_json(path)
    except DataError:
        return
    if job is None or not isinstance(job.get("folder"), str) or "state" not in job:
        return
    key = _tail(Path(job["folder"]))
    if key not in jobs or job.get("started", 0) > jobs[key].get("started", 0):
        jobs[key] = job


def _failed_job(job: Mapping[str, Any]) -> RunRecord:
    """Make the record of a job that failed before it had a run folder."""
    overrides = (text.partition("=") for text in str(job.get("overrides", "")).split())
    settings: dict[str, Any] = {key.lstrip("+"): value for key, _, value in overrides}
    folder = Path(job["folder"])
    settings["dataset"] = folder.parent.parent.name
    return RunRecord(folder, "failed", _first_line(job.get("error")), settings=settings)


def _first_line(text: Any) -> str:
    return str(text or "no reason was recorded").splitlines()[0]


def read_record(folder: Path, load: Load, job: Mapping[str, Any] | None = None) -> RunRecord:
    """Read a run folder; `job` is the record that a sweep has of it.

    A file that cannot be read becomes the note of an "unreadable" record.
    """
    try:
        config, settings = load(folder)
        record = RunRecord(folder, "finished", config=config, settings=settings)
        if not record.result:
            record.status, record.note = _progress(record, job)
        _ = record.environment  # read now, so that an unreadable file is noticed here
        return record
    except (MltrainError, OSError, ValueError) as error:
        return RunRecord(folder, "unreadable", str(error).splitlines()[0])


def _progress(run: RunFolder, job: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return the status of a run without a result, and how far it came."""
    epochs = (run.config.get("runner") or {}).get("epochs", "?")
    last: dict[str, Any] = {}
    for record in RunFolder(run.folder).metrics:  # of a new object, so that `run` does not keep them all in memory
        last |= {key: record[key] for key in ("step", "epoch") if key in record}
    reached = f"epoch {last['epoch']} of {epochs}, " if "epoch" in last else ""
    note = f"{reached}step {last['step']}" if "step" in last else "before its first step was logged"
    if _is_locked(run.folder):
        return "running", note
    checkpoint = run.folder / "last.pt"
    for path in sorted(run.folder.glob(NONFINITE.format(rank="*"))):
        if not checkpoint.is_file() or path.stat().st_mtime >= checkpoint.stat().st_mtime:
            return "failed", f"{note}: {(read_json(path) or {}).get('error', 'a loss or gradient was not finite')}"
    if job is not None and job["state"] == "failed":
        return "failed", f"{note}: {_first_line(job.get('error'))}"
    return "stopped", note


def _is_locked(folder: Path) -> bool:
    """Return whether a process works in the run folder."""
    if not (folder.parent / f".{folder.name}.lock").is_file():
        return False
    try:
        with run_lock(folder, patience=0.0):
            return False
    except MltrainError:
        return True
    except OSError:  # not ours to lock
        return False


_FACTS = ("name", "seed", "status", "task", "dataset", "folder")  # properties of a record that filters know
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Filter:
    """A condition on runs: `key=value`, also with `!=`, `>=`, `<=`, `>` and `<`.

    Alternatives are written `loss=asl|bce`, patterns `model=resnet*`.

    A key is one of the resolved config (`runner.epochs`), its last part if that is unambiguous (`epochs`), a section
    for its component's name (`loss`, `head`, `dataset`), `name`, `seed`, `status`, `task`, or a figure of the best
    weights on the validation split (`map>=40`).
    """

    key: str
    sign: str
    values: tuple[str, ...]
    text: str

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Parse the text of a filter; raises ValueError where it is none."""
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
        """Return whether the filter chooses the run; a run without the key is chosen by `!=` alone."""
        found, value = lookup(record, self.key)
        if self.sign in _COMPARE:
            return found and is_number(value) and _COMPARE[self.sign](float(value), float(self.values[0]))
        same = found and any(_same(value, wanted) for wanted in self.values)
        return same if self.sign == "=" else not same


def known_keys(records: Sequence[RunRecord]) -> set[str]:
    """Return the keys of `lookup` that at least one of the runs has."""
    keys = set(_FACTS)
    for record in records:
        keys |= set(flatten(record.config)) | set(record.settings)
        if record.finished:
            keys |= set(record.scalars()) | {key for key, value in record.result.items() if is_number(value)}
    return keys | {key.rpartition(".")[2] for key in keys}


def lookup(record: RunRecord, key: str) -> tuple[bool, Any]:
    """Return whether a run has the key of a filter or column, and its value."""
    if key in _FACTS:
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
        if is_number(figures.get(key)):
            return True, figures[key]
    return False, None


def spelled(value: Any) -> str:
    """Return a config value as an override spells it: `null`, `true`, `0.001`, `[1,2]`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(spelled(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{spelled(item)}" for key, item in value.items()) + "}"
    return str(value)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _same(value: Any, wanted: str) -> bool:
    if is_number(value):
        try:
            return float(value) == float(wanted)
        except ValueError:
            return False
    return fnmatch.fnmatchcase(spelled(value), wanted)

"""The command that repeats a run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from mltrain.engine.run_folder import RunFolder, read_jobs
from mltrain.errors import DataError

_SWEEP = ("-m", "--multirun")
_FOLDER = "hydra.sweep.dir="


def command_of(run: RunFolder) -> str:
    """Return the command line that trains a run, for the shell; empty where environment.json does not have it.

    A job of a sweep has the overrides that its sweep recorded for it. Without that record it is the command of the
    whole sweep.
    """
    words = [str(word) for word in run.environment.get("command") or []][1:]
    if not run.environment.get("command"):
        return ""
    if words[:1] == ["train"]:
        words = words[1:]
    if any(word in _SWEEP or word.startswith(_FOLDER) for word in words):
        words = _job(run, words) or [word for word in words if not word.startswith(_FOLDER)]
    processes = int(run.environment.get("world_size") or 1)
    start = ["mltrain"] if processes == 1 else ["torchrun", f"--nproc_per_node={processes}", "-m", "mltrain"]
    return shlex.join([*start, "train", *words])


def _job(run: RunFolder, words: list[str]) -> list[str]:
    """Return the overrides of the job of a sweep that is this run; none if the sweep has no record of it."""
    named = [word.removeprefix(_FOLDER).strip("'\"") for word in words if word.startswith(_FOLDER)]
    if not named or not Path(named[0]).is_dir():
        return []
    own = run.folder.absolute().parts[-3:]
    try:
        for job in read_jobs(Path(named[0])):
            if Path(str(job.get("folder"))).parts[-3:] == own:
                return re.split(r" (?=[\w./@+~-]+=)", str(job.get("overrides", "")))
    except DataError:  # a damaged record: the sweep's own command does too
        pass
    return []

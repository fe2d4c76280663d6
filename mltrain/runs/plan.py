"""Plan of a command, without running it: `--dry-run`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from omegaconf import DictConfig

from mltrain.config.identity import run_folder
from mltrain.engine.run_folder import CONFIG
from mltrain.report.runs import read_record
from mltrain.report.tables import text_table
from mltrain.runs.settings import load_settings
from mltrain.text import counted


def plan(jobs: Mapping[str, DictConfig]) -> str:
    """Return a table of the runs that a command would start, with the state of each, and a line that counts them.

    Args:
        jobs: checked configs, by what is said of each: the values in which they differ.
    """
    rows, states = [], Counter[str]()
    for number, (label, cfg) in enumerate(jobs.items(), start=1):
        state, note = _state(cfg)
        states[state] += 1
        rows.append([str(number), label, f"{state}{f': {note}' if note else ''}", str(run_folder(cfg))])
    table = text_table(["", "job", "state", "run folder"], rows, left=(1, 2, 3))
    found = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"{table}\n\n{counted(len(rows), 'job')}: {found}; nothing was run\n"


def _state(cfg: DictConfig) -> tuple[str, str]:
    """Return what would happen to a run, and how far it is."""
    folder = run_folder(cfg)
    if not (folder / CONFIG).is_file():
        return "new", ""
    record = read_record(folder, load_settings)
    if record.finished:
        return ("again", "rerun=true replaces its result") if cfg.rerun else ("finished", "")
    if record.status == "running":
        return "running", record.note
    return ("resumes" if any(folder.glob("last.pt")) else "begins anew"), record.note

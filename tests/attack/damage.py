"""Damage every file of a run folder in every way, and use the folder: the result is right, or the file is named."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.attack.children import Ended, run
from tests.attack.compare import differences, snapshot
from tests.attack.kinds import FULL
from tests.attack.operations import Blow
from tests.attack.verdict import Verdict, refusal_problems

NAMED = [*FULL, "name=given"]
USES = {
    "train": NAMED,
    "report": ["report", "RUN"],
    "evaluate": ["evaluate", "RUN"],
    "push": ["push", "RUN"],
    "predict": ["predict", "RUN", "../data", "format=csv", "out=found.csv"],
    "tune_thresholds": ["tune_thresholds", "RUN"],
    "results": ["results", "runs"],
}


def _garble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = b"\xff\x00\xfe\x80" * 2
    path.write_bytes(content)


def _replace(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "emptied": lambda path: path.write_bytes(b"") and None,
    "torn": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]) and None,
    "garbled": _garble,
    "a folder": _replace(Path.mkdir),
    "a FIFO": _replace(lambda path: os.mkfifo(path)),
    "a link to itself": _replace(lambda path: path.symlink_to(path.name)),
}


class Damage:
    """Cases are (state of the run, use, file, damage), in an order of the seed."""

    def __init__(self, place: Path) -> None:
        self.work, self._states = place / "work", {name: place / name for name in ("finished", "stopped")}
        place.mkdir(parents=True)

    def start(self) -> None:
        """Make a finished run and one that was stopped in its second epoch, and use them undamaged."""
        for name, folder in self._states.items():
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir()
            done = run(NAMED, self.work)
            if name == "stopped":
                shutil.rmtree(self.work / "runs")
                half = Blow("SIGTERM", at=2 * done.operations[1] // 3, writes=False)
                done = run(NAMED, self.work, blow=half)
            assert done.code == (0 if name == "finished" else 143), done.log
            shutil.copytree(self.work, folder, symlinks=True)
        self._expected: dict[tuple[str, str], dict[str, Any]] = {}
        cases = []
        for state, folder in self._states.items():
            self._run = next(folder.glob("runs/*/*/*/config.yaml")).parent.relative_to(folder)
            files = [p.relative_to(folder / self._run) for p in (folder / self._run).rglob("*") if p.is_file()]
            uses = USES if state == "finished" else {"train": NAMED}
            for use in uses:
                ended = self._use(state, use)
                assert ended.code == 0, ended.log
                self._expected[state, use] = snapshot(self.work)
            cases += list(itertools.product([state], uses, files, DAMAGES))
        random.Random(0).shuffle(cases)
        self.cases = cases

    def turn(self, number: int, chance: random.Random) -> list[Verdict]:
        """Try one case."""
        if number >= len(self.cases):
            return []
        state, use, file, damage = self.cases[number]
        ended = self._use(state, use, lambda: DAMAGES[damage](self.work / self._run / file))
        problems = refusal_problems(ended, file.name)
        may_be_missing = damage == "missing" and state == "finished"  # what it would have shown is then left out
        if ended.code == 0 and file.name not in ended.log and not may_be_missing:
            here, events = (self._run / file).as_posix(), file.parts[0] != "tensorboard"
            expected, found = self._expected[state, use], snapshot(self.work, events=events)
            # A finished run's file may stay as it is, and so may event files.
            skipped = here if events and state == "finished" else "" if events else f"{self._run}/tensorboard"
            if skipped:
                expected, found = ({k: v for k, v in t.items() if not k.startswith(skipped)} for t in (expected, found))
            problems += [f"nothing names the file, but {line}" for line in differences(expected, found)]
        outcome = "wrong" if problems else "right" if ended.code == 0 else "refused"
        label = f"{state} run, {file} {damage}, {use}: exit {ended.code}"
        return [Verdict(outcome, [label, *problems] if problems else [label], log=ended.log)]

    def _use(self, state: str, use: str, damage: Callable[[], object] = lambda: None) -> Ended:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self._states[state], self.work, symlinks=True)
        damage()
        return run([str(self._run) if word == "RUN" else word for word in USES[use]], self.work, seconds=60)

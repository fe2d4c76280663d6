"""A trial: strike a command a few times, repeat it until it succeeds, and compare what it leaves."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.attack.children import Ended, run
from tests.attack.compare import differences, snapshot
from tests.attack.kinds import Kind
from tests.attack.operations import Blow
from tests.attack.verdict import Verdict

SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")
REPEATS = 3
ENDINGS = {"SIGKILL": {-9}, "SIGTERM": {143, -15}, "SIGINT": {130, -2}, "SIGHUP": {129, -1}, "ENOSPC": {2}}


class Attacked:
    """A kind with its starting folder and the result of the command that nobody struck."""

    def __init__(self, kind: Kind, place: Path) -> None:
        self.kind = kind
        self.given, self.work = place / "given", place / "work"
        self.given.mkdir(parents=True)

    def start(self) -> None:
        """Make the starting folder, and run the command once."""
        self.kind.prepare(self.given, lambda words, folder: _must(run(words, folder)))
        self.words = [*self.kind.words[:1], *self.kind.words_in(self.given), *self.kind.words[1:]]
        self._run_once()  # what it leaves beside the folder, such as drawn data, is there for every trial
        ended, self.expected = self._run_once()
        self.operations, self.seconds = ended.operations, ended.seconds

    def _run_once(self) -> tuple[Ended, dict[str, Any]]:
        self._lay_out()
        ended = run(self.words, self.work, ranks=self.kind.ranks)
        _must(ended)
        self.kind.after(self.work)
        return ended, snapshot(self.work)

    def _lay_out(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.given, self.work, symlinks=True)

    def turn(self, number: int, chance: random.Random) -> list[Verdict]:
        """Try once."""
        return [self.trial(chance)]

    def trial(self, chance: random.Random) -> Verdict:
        """Strike, repeat and compare; the same `chance` makes the same blows."""
        self._lay_out()
        verdict, log = Verdict("right"), []
        with _Disk(self.work, self.kind.disk_mb, chance) as disk:
            for _ in range(chance.randint(min(2, self.kind.blows), self.kind.blows)):
                blow = None if disk.is_full else self._blow(chance)
                ended = self._run(blow, chance)
                log.append(f"---- {blow or 'small disk'}: exit {ended.code}\n{ended.log}")
                what = "ENOSPC" if blow is None else blow.what
                verdict.blows[what] += ended.struck or (blow is None and ended.code == 2)
                verdict.problems += [f"{blow}: {text}" for text in ended.problems]
                if ended.code not in {0} | ENDINGS[what]:
                    verdict.problems.append(f"{blow}: exit code {ended.code}")
                disk.enlarge()
            for _ in range(REPEATS):
                ended = self._run(None, chance)
                log.append(f"---- repeated: exit {ended.code}\n{ended.log}")
                verdict.problems += [f"repeated: {text}" for text in ended.problems]
                if ended.code != 2:
                    break
            if ended.code == 0:
                self.kind.after(self.work)
                verdict.problems += differences(self.expected, snapshot(self.work))
        if ended.code == 2:
            verdict.outcome = "refused"
        if ended.code not in (0, 2) or verdict.problems:
            verdict.outcome = "wrong"
            verdict.problems.append(f"the last repeat ended with {ended.code}")
        verdict.log = "\n".join(log)
        return verdict

    def _run(self, blow: Blow | None, chance: random.Random) -> Ended:
        rank = chance.randrange(self.kind.ranks) if blow and blow.after is not None else 0
        return run(self.words, self.work, blow=blow, ranks=self.kind.ranks, struck_rank=rank)

    def _blow(self, chance: random.Random) -> Blow:
        """Choose one: mostly kills, half of them at a file operation that is no write, a quarter at a moment."""
        what = chance.choices(["SIGKILL", *SIGNALS, "ENOSPC"], [12, 1, 1, 1, 1])[0]
        place = chance.choices(["other", "any", "moment"], [2, 1, 1])[0]
        early = chance.random() ** 1.5  # of a run that resumes, less is left
        if place == "moment" and what != "ENOSPC":
            return Blow(what, after=early * self.seconds)
        writes = place != "other"
        return Blow(what, at=int(early * self.operations[0 if writes else 1]), writes=writes)


class _Disk:
    """A disk of its own for a folder, first too small for the command, then large enough; needs root."""

    def __init__(self, folder: Path, megabytes: float | None, chance: random.Random) -> None:
        self._folder, self._megabytes = folder, megabytes
        self._size = None if megabytes is None else chance.uniform(0.02, 1) * megabytes
        self.is_full = megabytes is not None

    def __enter__(self) -> _Disk:
        if self._size is not None:
            self._mount(f"size={int(self._size * 1024)}k")
        return self

    def __exit__(self, *error: object) -> None:
        if self._megabytes is not None:
            subprocess.run(["umount", "-l", self._folder], check=True)

    def _mount(self, options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", self._folder], check=True)

    def enlarge(self) -> None:
        if self.is_full:
            subprocess.run(["mount", "-o", f"remount,size={int(self._megabytes or 0) * 10}m", self._folder], check=True)
            self.is_full = False


def _must(ended: Ended) -> None:
    assert ended.code == 0 and not ended.problems, f"exit {ended.code} {ended.problems}\n{ended.log}"

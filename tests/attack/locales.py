"""Attack a kind in a locale without UTF-8, in a process of its own, because Python reads the locale when it starts.

Class names of these kinds are not ASCII. The commands must leave the same files as in the locale of this process.
"""

from __future__ import annotations

import json
import locale
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.attack import children
from tests.attack.compare import differences, snapshot
from tests.attack.kinds import KINDS
from tests.attack.trial import Attacked
from tests.attack.verdict import Verdict
from tests.promises.runs import ROOT

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""variables with which Python writes ASCII where a program names no encoding"""


class InLocale:
    """A kind that is attacked in the C locale."""

    def __init__(self, kind: str, place: Path) -> None:
        self._kind, self._here, self._there = kind, place / "here", place / "there"
        self.work = self._there / "work"
        self._problems: list[str] = []

    def start(self) -> None:
        """Run the command in both locales, once undisturbed, and compare what it leaves."""
        here = Attacked(KINDS[self._kind], self._here)
        here.start()
        words = [sys.executable, "-m", "tests.attack.locales", self._kind, str(self._there)]
        environment = {**os.environ, **ASCII, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="ascii"
        )
        encodings = self._answer()
        assert "utf-8" not in map(str.lower, encodings.values()), f"the C locale is not to be had: {encodings}"
        self._problems = differences(here.expected, snapshot(self.work))

    def turn(self, number: int, chance: random.Random) -> list[Verdict]:
        """Try once."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{chance.getrandbits(63)}\n")
        self._process.stdin.flush()
        verdict = Verdict(**self._answer())
        verdict.blows = Counter(verdict.blows)
        if self._problems:
            verdict.outcome, verdict.problems = "wrong", [*self._problems, *verdict.problems]
        return [verdict]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the process in the C locale has ended with {self._process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer


def main(kind: str, place: str) -> None:
    """Read the seed of a trial from each line of standard input, and answer with its verdict."""
    orders, answers = os.fdopen(os.dup(0), encoding="ascii"), os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # nothing else reads there, or writes there
    os.dup2(2, 1)

    def answer(content: object) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    children.import_everything()
    attacked = Attacked(KINDS[kind], Path(place))
    attacked.start()
    answer({"files": locale.getpreferredencoding(False), "names of files": sys.getfilesystemencoding()})
    for line in orders:
        answer(vars(attacked.trial(random.Random(int(line)))))


if __name__ == "__main__":
    main(*sys.argv[1:])

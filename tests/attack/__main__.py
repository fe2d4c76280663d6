"""Attack whole commands, and print what came of it.

    python -m tests.attack seed=0 minutes=30                       everything
    python -m tests.attack minutes=5 kinds=train,push              some kinds
    python -m tests.attack kinds=train trials=17                   one trial again

A trial kills a command (`kill -9`), sends it a signal or fills its disk, one to three times, at a file operation or at
a random moment. It then repeats the command until it succeeds, and compares every file with those of a run that nobody
struck. Trials are a function of seed, kind and number. The folder of a trial that went wrong stays in `keep`.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.attack import children
from tests.attack.configs import Configs
from tests.attack.damage import Damage
from tests.attack.images import OddImages
from tests.attack.kinds import KINDS
from tests.attack.locales import InLocale
from tests.attack.trial import SIGNALS, Attacked
from tests.attack.verdict import Verdict

LISTS: dict[str, Any] = {"damage": Damage, "images": OddImages, "configs": Configs}
"""kinds that are lists of cases, each of which is tried once"""
IN_LOCALE = {"names_c": "names", "names_push_c": "names_push"}
"""kinds that are attacked once more in a locale without UTF-8"""
ALL = [*KINDS, *IN_LOCALE, *LISTS]
COLUMNS = ("tried", "right", "refused", "wrong", "kills", "signals", "full disks")


class Tallies:
    """Counts by kind; they are added to those of a file, if there is one."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        known = json.loads(file.read_text(encoding="utf-8")) if file is not None and file.exists() else {}
        self.by_kind = {kind: Counter(counts) for kind, counts in known.items()}

    def add(self, kind: str, verdict: Verdict) -> None:
        counts = self.by_kind.setdefault(kind, Counter())
        counts.update({"tried": 1, verdict.outcome: 1, "kills": verdict.blows["SIGKILL"]})
        counts.update({"signals": sum(verdict.blows[name] for name in SIGNALS), "full disks": verdict.blows["ENOSPC"]})
        if self._file is not None:
            self._file.write_text(json.dumps(self.by_kind, indent=1), encoding="utf-8")

    def table(self) -> str:
        total: Counter[str] = sum(self.by_kind.values(), Counter())
        lines = [f"| kind | {' | '.join(COLUMNS)} |", f"|---|{'---:|' * len(COLUMNS)}"]
        for kind, counts in [*self.by_kind.items(), ("all", total)]:
            lines.append(f"| {kind} | {' | '.join(f'{counts[column]:,}' for column in COLUMNS)} |")
        return "\n".join(lines)


def attack(
    *, seed: int, minutes: float, kinds: list[str], trials: range | None, keep: Path, tally: Path | None
) -> Tallies:
    """Try the kinds in turn until the time is over, or until each has had its trials."""
    children.import_everything()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that its folder goes
    end, tallies = time.monotonic() + 60 * minutes, Tallies(tally)
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="attack-", dir=memory if memory.is_dir() else None))
    try:
        attacked: dict[str, Any] = {}
        for number in trials or range(10**9):
            for name in kinds:
                if time.monotonic() > end:
                    return tallies
                if name not in attacked:
                    attacked[name] = _attacked(name, place / name)
                    attacked[name].start()
                start = time.monotonic()
                verdicts = attacked[name].turn(number, random.Random(f"{seed} {name} {number}"))
                for verdict in verdicts:
                    tallies.add(name, verdict)
                    if verdict.outcome == "wrong" or (verdict.outcome == "refused" and name not in LISTS):
                        _keep(attacked[name].work, keep / f"{name}-{seed}-{number}", verdict)
                seconds = (time.monotonic() - start) / max(1, len(verdicts))
                for verdict in verdicts if len(verdicts) == 1 else [v for v in verdicts if v.outcome == "wrong"]:
                    said = f"{verdict.outcome:8} {name} {number} {seconds:5.1f} s  {dict(verdict.blows) or ''}"
                    sys.stderr.write("\n    ".join([said, *verdict.problems[:5]]) + "\n")
        return tallies
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _attacked(name: str, place: Path) -> Any:
    if name in LISTS:
        return LISTS[name](place)
    return InLocale(IN_LOCALE[name], place) if name in IN_LOCALE else Attacked(KINDS[name], place)


def _keep(work: Path, folder: Path, verdict: Verdict) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", work, folder], check=True)
    text = "\n".join([verdict.outcome, *verdict.problems, verdict.log])
    folder.with_name(f"{folder.name}.log").write_text(text, encoding="utf-8")


def main(words: list[str]) -> int:
    """Read the arguments, attack, and print the table; 1 if anything went wrong."""
    given = dict(word.split("=", 1) for word in words)
    kinds = given.pop("kinds", ",".join(ALL)).split(",")
    numbers = given.pop("trials", None)
    trials = None if numbers is None else range(*map(int, numbers.split(":"))) if ":" in numbers else [int(numbers)]
    keep, tally = Path(given.pop("keep", "attacked")), given.pop("tally", None)
    seed, minutes = int(given.pop("seed", "0")), float(given.pop("minutes", "30"))
    if given or not set(kinds) <= {*ALL}:
        sys.stderr.write(f"{' '.join(given)}: allowed: seed, minutes, kinds ({', '.join(ALL)}), trials, keep, tally\n")
        return 2
    tallies = attack(
        seed=seed, minutes=minutes, kinds=kinds, trials=trials, keep=keep, tally=Path(tally) if tally else None
    )
    sys.stdout.write(tallies.table() + "\n")
    return int(any(counts["wrong"] for counts in tallies.by_kind.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Outcome of a trial."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.attack.children import Ended


@dataclass
class Verdict:
    """Outcome of a trial."""

    outcome: str
    """right, refused or wrong"""
    problems: list[str] = field(default_factory=list)
    """of a wrong one; else what it was, if that is not plain"""
    blows: Counter[str] = field(default_factory=Counter)
    """blows that came before the command had ended, by kind"""
    log: str = ""


def refusal_problems(ended: Ended, name: str) -> list[str]:
    """Return what is wrong with a command that met a bad file: it must end with 0, or with 2 and the file's name."""
    problems = ended.problems
    if ended.code not in (0, 2):
        problems = [*problems, f"exit code {ended.code}"]
    elif ended.code == 2 and name not in ended.log:
        problems = [*problems, f"the message does not name {name}: {ended.log.strip()[-200:]}"]
    return problems

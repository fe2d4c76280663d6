"""The corpora of hostile, mistyped and numeric configs of tests/config: every one must be refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from omegaconf import OmegaConf

from mltrain.config.check import find_problems
from mltrain.config.compose import load
from mltrain.errors import ConfigError
from tests.attack.verdict import Verdict
from tests.config import test_numbers as numbers
from tests.config import test_security as security
from tests.config.test_typos import TYPOS

AT_ONCE = 50
"""configs in a turn"""


def _is_refused(override: str) -> bool:
    try:
        load([override])
    except ConfigError:
        return True
    return False


def _is_problem(section: str, value: object) -> bool:
    return bool(find_problems(OmegaConf.create({**numbers.config(), section: value}))[1])


def _cases() -> Iterator[tuple[str, Callable[[], bool]]]:
    """Yield the name of each case and what tells whether it is refused."""
    for override, _ in TYPOS:
        yield override, lambda override=override: _is_refused(override)
    for name in numbers.NAMES:
        section, given = name.split("/")[0], numbers.plain(name)
        for key in numbers.options(section, given["_target_"]):
            for value in numbers.NOT_FINITE:
                tree = {**given, key: value}
                yield f"{name} {key}={str(value)[:20]}", lambda s=section, tree=tree: _is_problem(s, tree)
    for target in [*security.HAND_WRITTEN, *security.corpus()]:
        yield f"_target_={target}", lambda t=target: bool(find_problems(OmegaConf.create(security.hostile(t)))[1])


class Configs:
    """Cases in an order of the seed, many in a turn."""

    def __init__(self, place: Path) -> None:
        self.work = place
        place.mkdir(parents=True)

    def start(self) -> None:
        """List the cases."""
        self.cases = list(_cases())
        random.Random(0).shuffle(self.cases)

    def turn(self, number: int, chance: random.Random) -> list[Verdict]:
        """Try the next cases."""
        return [self._try(*case) for case in self.cases[number * AT_ONCE : (number + 1) * AT_ONCE]]

    def _try(self, name: str, refused: Callable[[], bool]) -> Verdict:
        try:
            return Verdict("refused", [name]) if refused() else Verdict("wrong", [f"{name}: was taken"])
        except Exception as error:  # noqa: BLE001  anything but a ConfigError is a fault
            return Verdict("wrong", [f"{name}: {type(error).__name__}: {error}"])

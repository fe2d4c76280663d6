"""Commands in this process, and a finished run for them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mltrain import cli, console
from tests.promises.runs import TINY, fit


class Outcome(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


Call = Callable[..., Outcome]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Run `mltrain ARGUMENTS` in this process."""
    monkeypatch.setattr(console, "log_to_stderr", lambda: None)  # it would change the loggers of other tests
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Outcome:
        argv = [str(argument) for argument in arguments]
        monkeypatch.setattr("sys.argv", ["mltrain", *argv])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert isinstance(left.value.code, int)
        return Outcome(left.value.code, *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a small run on the drawn shapes and return its folder."""
    place = tmp_path_factory.mktemp("run")
    return fit([*TINY, "runner.epochs=1", f"paths.data={place}/data", f"paths.runs={place}/runs"])

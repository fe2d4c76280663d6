"""Exceptions a user sees.

Each message names the file or key, what was found, what is allowed and how to fix it. The command-line tools print the
message alone (no traceback) and leave with `exit_code`.
"""

from __future__ import annotations

import traceback
from pathlib import Path


class MltrainError(Exception):
    """Base of all errors that a user can fix."""

    exit_code = 2


class ConfigError(MltrainError):
    """A config key, value or combination is wrong."""


class DataError(MltrainError):
    """An annotation file, an image or a split is missing, broken or inconsistent."""


class CheckpointError(MltrainError):
    """A weights file or checkpoint cannot be read, or does not fit the model."""


class NonFiniteError(MltrainError):
    """A loss or gradient is NaN or infinite; weights are as before the step."""

    exit_code = 3


class Interrupted(MltrainError):
    """The run was stopped by a signal after saving; `exit_code` is 128 + the signal's number.

    `agreed` is False if this rank stopped by itself, while the others may wait for it.
    """

    def __init__(self, message: str, signum: int, *, agreed: bool = True) -> None:
        super().__init__(message)
        self.agreed = agreed
        self.exit_code = 128 + signum

    def saved(self, now: bool = True) -> Interrupted:
        """Return the same, with a message that says how to go on; `now`: the last checkpoint is of this moment."""
        if now:
            self.args = (f"{self}; it is saved: repeat the command to resume",)
        else:
            self.args = (f"{self}; repeat the command to resume from the last checkpoint",)
        return self


def described(error: BaseException) -> str:
    """Return an error of somebody else's code as text: its type, its message, and the line that raised it.

    The line is the last one outside installed packages, where the author of the code can look.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _installed(Path(frame.filename))]
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text + "".join(f"\n  {f.filename}, line {f.lineno}: {f.line}" for f in (own or frames)[-1:])


def _installed(file: Path) -> bool:
    return "site-packages" in file.parts or file.is_relative_to(Path(__file__).parent)

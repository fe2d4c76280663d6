"""Exceptions a user sees.

Each message names the file or key, what was found, what is allowed and how to fix it. The command-line tools print the
message alone (no traceback) and leave with `exit_code`.
"""

from __future__ import annotations


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

    def saved(self) -> Interrupted:
        """Return the same, with a message that says how to go on."""
        self.args = (f"{self}; it is saved: repeat the command to resume",)
        return self

"""A lock that admits one process at a time to a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mltrain.errors import MltrainError
from mltrain.files import LockedError, locked


@contextmanager
def run_lock(folder: Path, *, patience: float = 5.0) -> Iterator[None]:
    """Keep other processes out of a run folder: two would mix their logs and overwrite each other's checkpoints.

    The lock file is `.<name>.lock` beside the folder, which may itself be deleted meanwhile. It is removed if there is
    no folder at the end, because the run was refused. Wait `patience` seconds for a process that is about to end.

    Raises:
        MltrainError: another process holds it.
        OSError: the lock file cannot be made.
    """
    file = folder.parent / f".{folder.name}.lock"
    try:
        with locked(file, patience=patience):
            try:
                yield
            finally:
                if not folder.exists():
                    with suppress(OSError):  # some systems keep open files
                        file.unlink()
    except LockedError as error:
        raise MltrainError(
            f"{folder}: {error} is in this run; let it end, or give this one a config of its own"
        ) from error

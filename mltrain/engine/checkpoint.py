"""Checkpoint files that survive a kill at any instant; `mltrain.engine.state` knows what is in them.

A file is written under a temporary name in the same folder, flushed to the disk, and renamed over the old one;
nothing is deleted first. `last.pt` moves to `previous.pt` before the new one takes its name, so at every instant at
least one of them is complete. Files are read with `torch.load(weights_only=True)` alone: loading a checkpoint runs no
code from it.
"""

from __future__ import annotations

import logging
import pickle
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from mltrain.errors import CheckpointError, MltrainError
from mltrain.files import atomic_write, has_file, sync_to_disk

logger = logging.getLogger(__name__)

_PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype)
_TENSORS = (torch.Tensor, torch.nn.Parameter)
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile)


class CheckpointFolder:
    """`last.pt`, `previous.pt`, `best.pt` ... of a run folder. One process writes; reading changes nothing."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._cleaned = False
        self.last_is_intact = True
        """False if `load` found `last.pt` missing or damaged and nothing was saved since"""

    def path(self, name: str) -> Path:
        """Return the path of a checkpoint, which may not exist."""
        return self.folder / f"{name}.pt"

    def check_folder(self) -> None:
        """Refuse to make the run folder anew: it would lack what was written at the start."""
        if not self.folder.is_dir():
            raise MltrainError(
                f"{self.folder}: the run folder was deleted or moved during the training, so nothing more is saved; "
                "repeat the command to start again"
            ) from None

    def save(self, state: dict[str, Any], name: str = "last") -> None:
        """Write `state` as `name`; for `last` the one before is kept as `previous`.

        `state` may hold tensors, numbers, strings, None, and dicts, lists and tuples of them.

        Raises:
            ValueError: something else in the state, named by its place.
            CheckpointError: the disk is full or not writable; the older files are as they were.
        """
        _check_state(state)
        path = self.path(name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.remove_stale()
            with atomic_write(path) as temporary:
                # Given a path, torch would store its name in the file.
                with temporary.open("wb") as file, _Writer(file) as writer:
                    torch.save(state, cast("IO[bytes]", writer))  # it needs no more than these methods
                # A damaged `last` (found by `load`, or without its end) must not replace a good `previous`.
                if name == "last" and self.last_is_intact and path.exists() and zipfile.is_zipfile(path):
                    sync_to_disk(temporary)  # the new file must be on the disk before the old one gives up its name
                    path.replace(self.path("previous"))
        except (OSError, RuntimeError) as error:
            raise self._cannot_write(path, error) from error
        if name == "last":
            self.last_is_intact = True

    def load(self, name: str = "last") -> dict[str, Any] | None:
        """Read the state saved as `name`, its tensors on the CPU; None if there is none.

        For `last`, a missing or damaged file falls back to `previous`, with a warning that says why.

        Raises:
            CheckpointError: there are files, but none that can be read.
            DataError: something else than a file has the name.
        """
        path, previous = self.path(name), self.path("previous")
        if not has_file(path) and not (name == "last" and has_file(previous)):
            return None
        state, problem = _read(path)
        if state is not None:
            if name == "last" and previous.is_file() and not zipfile.is_zipfile(previous):
                logger.warning("%s: damaged, but not needed: %s is whole; the next save replaces it", previous, path)
            return state
        if name != "last":
            raise CheckpointError(f"{path}: {problem}")
        self.last_is_intact = False
        if not has_file(previous):
            raise CheckpointError(f"{path}: {problem}, and there is no previous.pt beside it; rerun=true starts over")
        state, previous_problem = _read(previous)
        if state is None:
            raise CheckpointError(
                f"neither checkpoint can be read: {path}: {problem}; {previous}: {previous_problem}; "
                f"rerun=true starts over"
            )
        logger.warning("%s: %s; continuing from %s, which was saved before it", path, problem, previous)
        return state

    def load_last(self, *, start_over: bool) -> dict[str, Any] | None:
        """Read the last state; with `start_over`, a state that cannot be read is none, with a warning.

        Raises:
            CheckpointError: see `load`.
        """
        try:
            return self.load("last")
        except CheckpointError as error:
            if not start_over:
                raise
            logger.warning("%s, as it does now", error)
            self.last_is_intact = False
            return None

    def link(self, name: str, other: str) -> None:
        """Give a checkpoint a second name: a hard link, or a copy where there are none. It replaces what has the name.

        Raises:
            CheckpointError: the disk is full or not writable; the older files are as they were.
        """
        path = self.path(other)
        try:
            with atomic_write(path) as temporary:
                try:
                    temporary.hardlink_to(self.path(name))
                except OSError:
                    shutil.copyfile(self.path(name), temporary)
        except OSError as error:
            raise self._cannot_write(path, error) from error

    def remove_stale(self) -> None:
        """Remove what a killed save left behind; once, and only in a process that writes."""
        if not self._cleaned:
            for file in self.folder.glob(".*.pt.*tmp"):
                file.unlink(missing_ok=True)
            self._cleaned = True

    def _cannot_write(self, path: Path, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"cannot write {path}: {_reason(error)} ({_free_mb(self.folder)}); earlier checkpoints are unharmed. "
            f"Free some space or point paths.runs to another disk, then repeat the command to resume"
        )

    def problem(self, name: str) -> str | None:
        """Return what is wrong with a checkpoint, without its path; None if it can be read."""
        return _read(self.path(name))[1] or None


class _Writer:
    """A file for `torch.save` whose block raises the file's own errors: torch's have a position in its source."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._error: OSError | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._error is not None:
            raise self._error

    def write(self, data: bytes) -> int:
        """Write bytes and return their number."""
        try:
            return self._file.write(data)
        except OSError as error:
            self._error = error
            raise

    def flush(self) -> None:
        """Write what is still in memory."""
        try:
            self._file.flush()
        except OSError as error:
            self._error = error
            raise


def _check_state(state: Any, place: str = "state") -> None:
    """Refuse what `torch.load(weights_only=True)` would not read back.

    Raises:
        ValueError: naming the place of such a value.
    """
    kind = type(state)
    if kind in _PLAIN or kind in _TENSORS:
        return
    if kind in (dict, OrderedDict):
        for key, value in state.items():
            if type(key) not in _PLAIN:
                raise ValueError(f"checkpoint: {place} has a key of type {_kind_name(type(key))}: {key!r}")
            _check_state(value, f"{place}[{key!r}]")
    elif kind in (list, tuple):
        for index, value in enumerate(state):
            _check_state(value, f"{place}[{index}]")
    else:
        advice = (
            "store torch.from_numpy(array) or number.item()" if kind.__module__ == "numpy" else "store plain values"
        )
        raise ValueError(
            f"checkpoint: {place} is a {_kind_name(kind)}; only tensors, numbers, strings, None and dicts, lists and "
            f"tuples of them can be loaded back without running code: {advice}"
        )


def _kind_name(kind: type) -> str:
    """Return the name of a type with its module, as an import spells it."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _read(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Return the state, or None and what is wrong with the file."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            # torch does not check the checksums of tensors: a damaged file would load as wrong weights.
            damaged = archive.testzip()
        if damaged is not None:
            return None, f"damaged ({damaged} does not match its checksum)"
        state = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        return None, "is missing (a save was cut short)"
    except zipfile.BadZipFile:
        return None, f"is cut short or not a checkpoint ({path.stat().st_size} bytes)"
    except pickle.UnpicklingError:
        # torch's own message tells how to run the code in the file.
        return None, (
            "cannot be read: it holds more than tensors and plain values, so mltrain has not written it, and it may "
            "run code when it is loaded; delete it"
        )
    except _UNREADABLE as error:
        return None, f"cannot be read: {_reason(error)}"
    if not isinstance(state, dict):
        return None, f"holds a {type(state).__name__}, not a dict"
    return state, ""


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _free_mb(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB free"
    except OSError:
        return "free space unknown"

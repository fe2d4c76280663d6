"""Checkpoints that survive a kill at any instant.

A file is written under a temporary name in the same folder, flushed to the disk, and renamed over the old one;
nothing is deleted first. `last.pt` moves to `previous.pt` before the new one takes its name, so at every instant at
least one of them is whole. Files are read with `torch.load(weights_only=True)` alone: loading a checkpoint runs no
code from it.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from mltrain.errors import CheckpointError

logger = logging.getLogger(__name__)

_PLAIN = (bool, int, float, str, bytes, type(None))
_TENSORS = (torch.Tensor, torch.nn.Parameter)
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile)


class CheckpointFolder:
    """`last.pt`, `previous.pt` and `best.pt` of a run folder. One process writes; reading changes nothing."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._cleaned = False
        self._last_is_whole = True

    def path(self, name: str) -> Path:
        """The file of a checkpoint, whether it exists or not."""
        return self.folder / f"{name}.pt"

    def save(self, state: dict[str, Any], name: str = "last") -> None:
        """Write `state` as `name`; for `last` the one before is kept as `previous`.

        `state` may hold tensors, numbers, strings, None, and dicts, lists and tuples of them.

        Raises:
            ValueError: something else in the state, named by its place.
            CheckpointError: the disk is full or not writable; the older files are as they were.
        """
        check_state(state)
        path = self.path(name)
        temporary = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_stale()
            handle, temporary_name = tempfile.mkstemp(prefix=f".{name}.", suffix=".pt.tmp", dir=self.folder)
            temporary = Path(temporary_name)
            with os.fdopen(handle, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            # A broken `last` (found by `load`, or cut short: its end is missing) must not push out a whole `previous`.
            if name == "last" and self._last_is_whole and path.exists() and zipfile.is_zipfile(path):
                path.replace(self.path("previous"))
            temporary.replace(path)
            _sync_folder(self.folder)
        except (OSError, RuntimeError) as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            free = _free_mb(self.folder)
            raise CheckpointError(
                f"cannot write {path}: {_reason(error)} ({free}); earlier checkpoints are unharmed. "
                f"Free some space or point paths.runs to another disk, then repeat the command to resume"
            ) from error
        if name == "last":
            self._last_is_whole = True

    def load(self, name: str = "last") -> dict[str, Any] | None:
        """The state saved as `name`, its tensors on the CPU; None where there is none.

        For `last`, a missing or damaged file falls back to `previous`, with a warning that says why.

        Raises:
            CheckpointError: there are files, but none that can be read.
        """
        path, previous = self.path(name), self.path("previous")
        if name != "last":
            if not path.exists():
                return None
            state, problem = _read(path)
            if state is None:
                raise CheckpointError(f"{path}: {problem}")
            return state
        if not path.exists() and not previous.exists():
            return None
        state, problem = _read(path)
        if state is not None:
            return state
        self._last_is_whole = False
        if not previous.exists():
            raise CheckpointError(f"{path}: {problem}, and no previous.pt stands beside it; rerun=true starts afresh")
        state, previous_problem = _read(previous)
        if state is None:
            raise CheckpointError(
                f"neither checkpoint can be read: {path}: {problem}; {previous}: {previous_problem}; "
                f"rerun=true starts afresh"
            )
        logger.warning("%s: %s; going on from %s, which was saved before it", path, problem, previous)
        return state

    def _remove_stale(self) -> None:
        """What a killed save left behind; once, and only by a process that writes."""
        if not self._cleaned:
            for file in self.folder.glob(".*.pt.tmp"):
                file.unlink(missing_ok=True)
            self._cleaned = True


def check_state(state: Any, place: str = "state") -> None:
    """Refuse what `torch.load(weights_only=True)` would not read back, naming its place; ValueError."""
    kind = type(state)
    if kind in _PLAIN or kind in _TENSORS:
        return
    if kind in (dict, OrderedDict):
        for key, value in state.items():
            if type(key) not in _PLAIN:
                raise ValueError(f"checkpoint: {place} has a key of type {kind_name(type(key))}: {key!r}")
            check_state(value, f"{place}[{key!r}]")
    elif kind in (list, tuple):
        for index, value in enumerate(state):
            check_state(value, f"{place}[{index}]")
    else:
        advice = (
            "store torch.from_numpy(array) or number.item()" if kind.__module__ == "numpy" else "store plain values"
        )
        raise ValueError(
            f"checkpoint: {place} is a {kind_name(kind)}; only tensors, numbers, strings, None and dicts, lists and "
            f"tuples of them can be loaded back without running code: {advice}"
        )


def kind_name(kind: type) -> str:
    """Name of a type with its module, as in an import."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _read(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The state, or None and what is wrong with the file."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            # torch reads tensors without looking at their checksums: a damaged file would load as wrong weights.
            damaged = archive.testzip()
        if damaged is not None:
            return None, f"damaged ({damaged} does not match its checksum)"
        state = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        return None, "is missing (a save was cut short)"
    except zipfile.BadZipFile:
        return None, f"is cut short or not a checkpoint ({path.stat().st_size} bytes)"
    except _UNREADABLE as error:
        return None, f"cannot be read: {_reason(error)}"
    if not isinstance(state, dict):
        return None, f"holds a {type(state).__name__}, not a dict"
    return state, ""


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _free_mb(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB free"
    except OSError:
        return "free space unknown"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the renames themselves durable, where the system can open a folder."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Files and folders written atomically, and locks between processes."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import re
import shutil
import socket
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from mltrain.errors import DataError, MltrainError

try:
    import fcntl
except ImportError:  # Windows has no fcntl: there the user starts one process at a time
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class LockedError(MltrainError):
    """Another process holds a lock."""


@contextmanager
def atomic_write(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces `path` when the block succeeds and is removed when it fails.

    The temporary file is hidden, lies in the same folder, and ends in ``.tmp``: pass file formats explicitly. The first
    call for a folder removes those that killed processes of this machine left in it.

    Args:
        path: the file to write; its folder must exist.
        sync: flush file and folder to the disk before returning; switch it off for many small files.

    Raises:
        OSError: the file cannot be written; `path` is as it was.
    """
    _sweep_once(path.parent)
    temporary = _beside(path, "tmp")
    try:
        yield temporary
        if sync:
            sync_to_disk(temporary)
        temporary.replace(path)
        if sync:
            sync_to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, with the line ends of `text`.

    Bytes of file names that are not UTF-8, which Python keeps as lone surrogates, become escapes: \\udcff.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode(errors="backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, indented; numbers that are not finite become null."""
    text = json.dumps(without_nan(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def without_nan(value: Any) -> Any:
    """Return a value for JSON in which numbers that are not finite are None."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def atomic_folder(folder: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield an empty temporary folder, which takes the place of `folder` when the block succeeds.

    A folder that is already there moves aside first and is deleted last. When the block fails, nothing changes.

    Args:
        folder: the folder to write; its parents are made where they are missing.
        sync: flush all files to the disk before returning; switch it off for thousands of files that can be made again.

    Raises:
        OSError: the folder cannot be written.
    """
    with temporary_folder(folder) as temporary:
        yield temporary
        for path in [*temporary.rglob("*"), temporary] if sync else ():
            sync_to_disk(path)
        old = _beside(folder, "old")
        if folder.exists():
            folder.replace(old)
        temporary.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
        if sync:
            sync_to_disk(folder.parent)


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty hidden folder beside `folder`, and remove it after the block.

    What earlier processes left there of the same name, because they were killed, is removed first.

    Raises:
        OSError: the folder cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent, folder.name)
    temporary = _beside(folder, "tmp")
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Delete a folder: it disappears at once, even if a kill leaves some of its content under a temporary name.

    Raises:
        OSError: the folder cannot be renamed or deleted.
    """
    doomed = _beside(folder, "tmp")
    folder.replace(doomed)
    shutil.rmtree(doomed)


def remove_leftovers(folder: Path, name: str | None = None, *, below: bool = False) -> None:
    """Remove temporary files and folders that processes left in `folder` because they were killed.

    A temporary name has the machine and the process that made it. It is removed if that process is dead, or if nothing
    has changed it for a day, because other machines' processes cannot be watched. What cannot be removed stays.
    A folder that had moved aside for a new one, which never came, gets its name back.

    Args:
        folder: the folder; it may be missing.
        name: only what was to become the file or folder of this name; None: everything.
        below: also look into the folders in `folder`.
    """
    for path in leftovers(folder, below=below):
        if name is None or path.name.startswith(f".{name}."):
            target = path.with_name(path.name[1:].partition(".on-")[0])
            if path.suffix == ".old" and not target.exists():
                with suppress(OSError):
                    path.replace(target)
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink(missing_ok=True)


def leftovers(folder: Path, *, below: bool = False) -> list[Path]:
    """Return the files and folders that `remove_leftovers` would remove."""
    found = []
    for place, folders, files in os.walk(folder):  # of a folder that cannot be read, it gives nothing
        for name in (*folders, *files):
            path = Path(place) / name
            if name.startswith(".") and _is_left_over(path):
                found.append(path)
        folders[:] = [name for name in folders if below and not name.startswith(".")]
    return found


_swept: set[Path] = set()


def _sweep_once(folder: Path) -> None:
    """Remove the temporary files of dead processes from a folder that this process first writes to.

    A folder of the user may have files of other programs whose names look like those of earlier versions: they stay.
    """
    if folder not in _swept:
        _swept.add(folder)
        for path in leftovers(folder):
            found = _TEMPORARY.fullmatch(path.name)
            if found is not None and found["host"] and path.suffix == ".tmp" and path.is_file():
                with suppress(OSError):
                    path.unlink(missing_ok=True)


_TEMPORARY = re.compile(r"\..+?(?:(?:\.on-(?P<host>[\w-]+))?\.(?P<pid>\d+)\.\d+|\.\w{8}|\.pt)\.(?:tmp|old)")
"""name of a temporary file or folder; earlier versions did not tell the machine, or not even the process"""
_EARLIER = re.compile(r"\.(?:push|export)-\w{8}")
_OLD_SECONDS = 24 * 3600.0


def _beside(path: Path, ending: str) -> Path:
    """Return the temporary name of `path` in this process and thread."""
    return path.with_name(f".{path.name}.on-{_host()}.{os.getpid()}.{threading.get_ident()}.{ending}")


def _host() -> str:
    return re.sub(r"[^\w-]", "-", socket.gethostname())[:32] or "host"


def _is_left_over(path: Path) -> bool:
    found = _TEMPORARY.fullmatch(path.name)
    if found is None and not _EARLIER.fullmatch(path.name):
        return False
    try:
        changed = path.lstat().st_mtime
    except OSError:
        return False
    if found is not None and found["pid"] and found["host"] in (None, _host()):
        return not is_alive(int(found["pid"]), since=changed)
    return time.time() - changed > _OLD_SECONDS


def is_alive(pid: int, *, since: float) -> bool:
    """Return whether a process of this machine lives that had this number at a time, in seconds since 1970."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # a process of another user
        pass
    # A process that began later has only got the number of an earlier one.
    return time.time() - since < _age(pid) + 10


def _age(pid: int) -> float:
    """Return for how many seconds a process has run; infinity where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        started = int(status.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")  # see proc(5): starttime
        return float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0]) - started
    except (OSError, ValueError, IndexError, AttributeError):
        return math.inf


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """Return what a path is if it exists and is no regular file ("a folder", "a device" ...), else None."""
    try:
        return _KINDS.get(stat.S_IFMT(os.stat(path).st_mode))  # noqa: PTH116
    except OSError:
        return None


def has_file(path: Path) -> bool:
    """Return whether a regular file is there; False if nothing has this name.

    Raises:
        DataError: something else has the name, say a folder, a named pipe (which a reader would wait for), or a link
            to nothing.
    """
    kind = kind_of(path)
    if kind is None and path.is_symlink() and not os.path.exists(path):  # noqa: PTH110  (a circle of links is False)
        kind = "a link that leads to no file"
    if kind is not None:
        raise DataError(f"{path}: is {kind}, not a file; move it away and repeat the command")
    return path.exists()


def walk(folder: str | os.PathLike[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk down a folder as `os.walk` does, symbolic links followed, but never into a folder around the current one."""
    around = {os.fspath(folder): {os.path.realpath(folder)}}
    for place, folders, files in os.walk(folder, followlinks=True):
        outer = around.pop(place)
        for name in list(folders):
            below = os.path.join(place, name)  # noqa: PTH118  (as os.walk joins them)
            real = os.path.realpath(below)
            if real in outer:
                folders.remove(name)
            else:
                around[below] = outer | {real}
        yield place, folders, files


def sync_to_disk(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of the content of a file, in hex. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def give_usual_mode(path: Path) -> None:
    """Let a file be read by whom the umask allows; some libraries make theirs for the owner alone."""
    path.chmod(0o666 & ~umask())


def umask() -> int:
    """Return the file mode bits that this process withholds; the system tells them only in exchange for new ones."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def locked(path: Path, *, patience: float = math.inf) -> Iterator[None]:
    """Hold an exclusive lock between processes on the file `path`, which is made where it is missing.

    The system releases the lock when the process ends, however it ends. The lock is one of `lockf`, because forked
    workers do not inherit those and cannot keep it after their parent. The file names its holder.

    Args:
        path: the lock file; it stays, unless its holder removes it.
        patience: seconds to wait for another process.

    Raises:
        LockedError: another process still holds the lock; the message names it.
        OSError: the lock file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + patience
    with ExitStack() as opened:
        file = opened.enter_context(path.open("a+", encoding="utf-8"))
        _wait_for(file, path, end)
        while not _is_at(file, path):  # the process before has removed it
            file = opened.enter_context(path.open("a+", encoding="utf-8"))
            _wait_for(file, path, end)
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _wait_for(file: IO[str], path: Path, end: float) -> None:
    """Lock a file, which another process may hold until `end`. LockedError: it still does."""
    while fcntl is not None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                logger.warning("%s: this file system has no locks (%s); start one process only", path, error)
                return
            if time.monotonic() > end:
                file.seek(0)
                raise LockedError(file.read().strip() or "another process") from error
        time.sleep(0.05)


def _is_at(file: IO[str], path: Path) -> bool:
    """Return whether an open file is the one that has the name now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False

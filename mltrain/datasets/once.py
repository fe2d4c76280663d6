"""A folder that is generated once: written beside its place, then renamed, by one process while others wait."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from mltrain.errors import DataError

try:
    import fcntl
except ImportError:  # Windows: without the lock two processes at once both generate, and one result is kept
    fcntl = None  # type: ignore[assignment]


def make_folder(folder: Path, *, whole: Callable[[], bool], write: Callable[[Path], None], what: str) -> None:
    """Generate `folder` unless it is whole, so that it is never seen half written.

    Args:
        folder: the place.
        whole: whether the folder is there and complete.
        write: fills the folder it is given, which exists and is empty.
        what: the dataset, for the message.

    Raises:
        DataError: the place cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.parent / f".{folder.name}.lock"):
            if whole():  # made by another process meanwhile
                return
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            try:
                write(temporary)
                temporary.chmod(0o755)  # mkdtemp gives 0o700
                _put(temporary, folder, whole)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{what}: cannot write below {folder.parent} ({error.strerror or error}); point paths.data or dataset.root "
            "to a folder that can be written"
        ) from error


def _put(temporary: Path, folder: Path, whole: Callable[[], bool]) -> None:
    """Rename into place. What is there but not whole makes room; what is whole, another process made it, stays."""
    try:
        temporary.replace(folder)
    except OSError:
        if whole():
            return
        broken = temporary.with_name(temporary.name + ".old")
        with contextlib.suppress(FileNotFoundError):
            folder.replace(broken)
        shutil.rmtree(broken, ignore_errors=True)
        temporary.replace(folder)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        if fcntl is not None:
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield

"""Output files of commands: names that fit, folders that can be written, inputs that are not overwritten."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mltrain.datasets.folder import SUFFIXES
from mltrain.errors import ConfigError


@contextmanager
def writing(path: Path, option: str = "out") -> Iterator[Path]:
    """Create the folder of an output file and yield the file's path.

    Raises:
        ConfigError: the system refuses to write; the message names the option and the reason.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
    except OSError as error:
        raise ConfigError(f"{option}={path}: cannot be written: {error.strerror or error}") from error


def check_suffix(path: str, *suffixes: str, option: str = "out") -> None:
    """Raise ValueError unless a file name ends in one of the suffixes."""
    if Path(path).suffix not in suffixes:
        raise ValueError(f"{option}={path}: the name must end in {' or '.join(suffixes)}")


def copies_folder(folder: Path, option: str, copies: Iterable[Path], originals: Iterable[str]) -> Path:
    """Create the folder for pictures that are made of images, and return it.

    Raises:
        ConfigError: a picture would overwrite one of the images, or the folder cannot be created.
    """
    inputs = {_identity(Path(file)) for file in originals} - {None}
    for copy in copies:
        if _identity(copy) in inputs:
            raise ConfigError(f"{option}={folder}: {copy} is one of the images; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option}={folder}: cannot be created: {error.strerror or error}") from error
    return folder


def refuse_input(path: Path, option: str, originals: Iterable[str]) -> None:
    """Raise ConfigError if an output file would replace one of the images, or another image file."""
    found = _identity(path)
    if path.suffix.lower() in SUFFIXES or (found and found in map(_identity, map(Path, originals))):
        raise ConfigError(
            f"{option}={path}: this is one of the images, or named like one; choose a name such as labels.txt"
        )


def _identity(file: Path) -> tuple[int, int] | None:
    """Return device and number of a file, which are the same for all its names, or None if it does not exist."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino

"""Find the run folder that an argument names; download and convert it if it is `zoo:NAME`."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from mltrain.engine.latest import followed
from mltrain.engine.run_folder import is_run_folder
from mltrain.errors import ConfigError, DataError
from mltrain.runs.zoo import TABLE, ZooModel, models, read_source
from mltrain.text import did_you_mean

logger = logging.getLogger(__name__)

PREFIX = "zoo:"


def leading_runs(words: Sequence[str]) -> int:
    """Return how many arguments are runs, before the first that is none; the first always counts as one."""
    runs = itertools.takewhile(lambda word: word.startswith(PREFIX) or is_run_folder(Path(word)), words)
    return max(1, len(list(runs)))


def followed_argument(text: str) -> str:
    """Return an argument of the command line, PATH or KEY=PATH, with `latest` replaced by the folder that it names."""
    key, equals, value = text.partition("=")
    if not equals:
        key, value = "", text
    found = followed(Path(value))
    return text if found == Path(value) else f"{key}{equals}{found}"


def run_folder(
    word: str,
    words: Sequence[str] = (),
    *,
    out: Path | None = None,
    classes: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Return the run folder that an argument names: a folder, or `zoo:NAME`, downloaded and converted once.

    Args:
        word: folder or zoo:NAME.
        words: KEY=VALUE arguments; paths.data and paths.runs say where to download and convert to.
        out: run folder to write; None: <paths.runs>/zoo/NAME.
        classes: file of class names, as for `convert`.
        overwrite: convert again.

    Raises:
        ConfigError: no such name.
        DataError: the file cannot be downloaded, or has to be fetched by hand.
        CheckpointError: it is not what the table says.
    """
    if not word.startswith(PREFIX):
        return followed(Path(word))
    name, table = word.removeprefix(PREFIX), models()
    if name not in table:
        hint = did_you_mean(name, table, PREFIX + "{}")
        raise ConfigError(f"{word}: there is no such published model{hint}\nallowed: {', '.join(table)}")
    model = table[name]
    paths = {"data": "data", "runs": "runs"}
    for key in paths:
        paths[key] = next((w.partition("=")[2] for w in words if w.startswith(f"paths.{key}=")), paths[key])
    out = out or Path(paths["runs"]) / "zoo" / name
    source = read_source(out)
    if source is not None and source.get("zoo") == name and classes is None and not overwrite:
        return out
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"{word}: get it with one process first: mltrain convert_checkpoint {word}")
    logger.info("%s: %s", word, model.about)
    file = _obtain(word, model, Path(paths["data"]) / "zoo")
    from mltrain.runs.convert import convert  # torch, which a failing download does not wait for

    origin = {"zoo": name, "about": model.about, "url": model.url, "page": model.page, "published": model.published}
    options = [word for word in model.options if not word.lstrip("+").startswith("paths")]  # as paths.imports
    again = overwrite or (source is not None and classes is None)
    return convert(file, options, out=out, classes=classes, overwrite=again, origin=origin)


def _obtain(word: str, model: ZooModel, folder: Path) -> Path:
    """Return the file, downloaded if it is missing; its checksum is the table's or that of the first download."""
    from mltrain.datasets.sources import MB, RemoteFile
    from mltrain.prepare.fetch import fetch

    file = folder / model.file
    if not file.is_file():
        if model.url is None:
            raise DataError(
                f"{word}: cannot be downloaded by a program. Get it from {model.page} and save it as {file.absolute()}"
            )
        # the name in the address is the file's, but for an address that ends in a query
        remote = RemoteFile((model.url,), model.megabytes * MB, ((model.file, 1),))
        try:
            fetch(word, [remote], folder)
        except DataError as error:
            raise DataError(str(error).replace("dataset.root=FOLDER", "paths.data=FOLDER")) from error
    if model.sha256 is not None:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != model.sha256:
            raise DataError(f"{file}: SHA-256 {found}, and {TABLE.name} has {model.sha256}; delete it to get it again")
    return file

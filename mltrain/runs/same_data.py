"""Memory of a run of its data: a repeat on other data is neither shown as finished nor resumed.

`data.npz` in the run folder has the fingerprint of the labels that the run trains on and of the files that its config
names. Runs of older versions have none; they are read as before, and get one when they are resumed. This module does
not import torch, so a sweep finds its finished jobs fast.
"""

from __future__ import annotations

import json
import logging
import shlex
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from mltrain.config.build import instantiate
from mltrain.config.identity import IRRELEVANT, default_name, run_folder
from mltrain.datasets.fingerprint import Fingerprint, SplitFingerprint
from mltrain.datasets.splits import Splits, in_class_order
from mltrain.engine.run_folder import DATA, read_config, read_result
from mltrain.errors import ConfigError, DataError
from mltrain.files import atomic_write, remove_folder, sha256_of
from mltrain.runs.debug import limited, with_validation
from mltrain.runs.settings import WEIGHTS_FILE
from mltrain.text import part_of

log = logging.getLogger(__name__)

IN_RUN_FOLDER = {
    "model.checkpoint": ("best.pt", WEIGHTS_FILE),
    "distill.teacher": ("best.pt", WEIGHTS_FILE),
    "runner.extend": ("last.pt",),
}
"""by key, the files of a run folder that it may name, of which the first that exists counts"""
LABEL_SECTIONS = ("dataset", "partial")
"""what they name changes the labels, and so the fingerprints of these"""


def check_runs(configs: Iterable[DictConfig]) -> bool:
    """Refuse configs whose run has begun or finished on other data; each data set and file is read once.

    Returns:
        False if data that cannot be read left a run unchecked.

    Raises:
        DataError: what has changed, and how to go on; of several runs, those of the first.
    """
    read: dict[str, Splits | None] = {}
    digests: dict[Path, str] = {}
    changed: list[tuple[DictConfig, list[str]]] = []
    checked = True
    total = 0
    for cfg in configs:
        total += 1
        old = None if cfg.rerun else _of_begun(run_folder(cfg))
        if old is None:
            continue
        plain = OmegaConf.to_container(cfg, resolve=True)
        assert isinstance(plain, dict)
        part = (plain["data"]["limit"], plain["data"]["validate_on"])
        key = json.dumps([part, *(plain[section] for section in LABEL_SECTIONS)], sort_keys=True)
        if key not in read:
            read[key] = _read(cfg)
        splits = read[key]
        if splits is None:
            checked = False
            continue
        lines = old.differences(Fingerprint.of(splits, _digests(cfg, digests)), splits)
        if lines:
            changed.append((cfg, lines))
    if len(changed) == 1 and total == 1:
        raise DataError(_refusal(*changed[0]))
    if changed:
        raise DataError(f"{part_of(len(changed), total, 'run', 'are')} of other data. {_refusal(*changed[0])}")
    return checked


def remember(cfg: DictConfig, splits: Splits) -> None:
    """Write the fingerprint to the run folder of a training that begins; compare it if the training resumes.

    With rerun=true an unfinished run on other data is deleted.

    Args:
        splits: labels that the run trains on, `partial` applied.

    Raises:
        DataError: the run began on other data; nothing was changed.
    """
    folder = run_folder(cfg)
    new = Fingerprint.of(splits, _digests(cfg, {}))
    old = _of_begun(folder)
    if old is not None and (lines := old.differences(new, splits)):
        if not cfg.rerun:
            raise DataError(_refusal(cfg, lines))
        log.warning("%s: an unfinished run on other data, which begins anew (%s)", folder, "; ".join(lines))
        remove_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = new.to_arrays()
    content["about"] = np.array(json.dumps(content["about"]))
    with atomic_write(folder / DATA) as temporary, temporary.open("wb") as file:
        np.savez(file, **content)


def warn_of_other_data(cfg: DictConfig, folder: Path, splits: Splits) -> None:
    """Warn in one line if the images that a run is evaluated on are others than those of its training.

    A config that names another data set than the run's own is no reason to warn.
    """
    old = read_fingerprint(folder)
    if old is None or not _same_dataset(cfg, folder):
        return
    found = []
    for part, labels in (("val", splits.val), ("test", splits.test)):
        if labels is not None and part in old.splits:
            differences = old.splits[part].differences(SplitFingerprint.of(labels), labels, order=False)
            found += [f"{part}: {', '.join(differences)}"] if differences else []
    if found:
        log.warning("%s: the data have changed since this run was trained: %s", folder, "; ".join(found))


def label_differences(folder: Path, splits: Splits) -> list[str]:
    """Say how the labels and images of these splits differ from those that a run was trained on; empty if unknown."""
    old = read_fingerprint(folder)
    return [] if old is None else old.differences(Fingerprint.of(splits, {}), splits)


def trained_on(folder: Path, splits: Splits, first: Path) -> dict[str, int]:
    """Return how many images of the evaluated splits a run was trained on, by the names of the files.

    Args:
        folder: the run.
        splits: data set of another run.
        first: folder of that run; if its own training images have such names too, names tell nothing.
    """
    own, other = read_fingerprint(folder), read_fingerprint(first)
    found = {}
    for part, labels in (("val", splits.val), ("test", splits.test)):
        if labels is None or own is None or other is None:
            continue
        names = SplitFingerprint.of(labels).names
        shared = int(np.isin(names, own.splits["train"].names).sum())
        if shared and not np.isin(names, other.splits["train"].names).any():
            found[part] = shared
    return found


def read_fingerprint(folder: Path) -> Fingerprint | None:
    """Return the fingerprint in a run folder; None if it has none, or a damaged one, with a warning."""
    path = folder / DATA
    try:
        with np.load(path, allow_pickle=False) as arrays:
            content: dict[str, Any] = dict(arrays)
        content["about"] = json.loads(str(content["about"]))
        return Fingerprint.from_arrays(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s: cannot be read (%s), so whether the data have changed is not known", path, error)
        return None


def named_files(cfg: DictConfig) -> Iterator[tuple[str, Path]]:
    """Yield (config key, path) of the files whose content a result depends on, such as model.checkpoint.

    The files of the data set are left out: they count by the labels that are read from them. A plain word such as
    resnet50 is no file, even where there is one of that name.
    """
    for section in cfg:
        if section not in IRRELEVANT and section not in LABEL_SECTIONS:
            yield from _files(cfg[section], str(section))


def _files(node: Any, key: str) -> Iterator[tuple[str, Path]]:
    if OmegaConf.is_dict(node):
        for name in node:
            yield from _files(node[name], f"{key}.{name}")
    elif OmegaConf.is_list(node):
        for k, item in enumerate(node):
            yield from _files(item, f"{key}.{k}")
    elif isinstance(node, str) and not key.endswith("._target_"):
        inside = IN_RUN_FOLDER.get(key, ())
        if not inside and not any(mark in node for mark in "/\\."):
            return
        try:
            path = Path(node).expanduser()
            places = (path, *(path / name for name in inside))
            yield from [(key, place) for place in places if place.is_file()][:1]
        except (OSError, ValueError, RuntimeError):  # a text too long for a name, or with a zero byte; no home
            return


def _digests(cfg: DictConfig, known: dict[Path, str]) -> dict[str, str]:
    """Return the SHA-256 of the content of each named file, by key; `known` keeps those that were read before."""
    found = {}
    for key, path in named_files(cfg):
        place = path.resolve()
        if place not in known:
            known[place] = sha256_of(place)
        found[key] = known[place]
    return found


def _of_begun(folder: Path) -> Fingerprint | None:
    """Return the fingerprint of a run that has a result or can be resumed; None where there is no such run."""
    if not any((folder / name).exists() for name in ("last.pt", "previous.pt", "result.json")):
        return None
    return read_fingerprint(folder)


def _read(cfg: DictConfig) -> Splits | None:
    """Return the labels that a config trains on; None if they cannot be read, and a line tells why."""
    try:
        splits: Splits = limited(cfg, instantiate(cfg.dataset, "dataset"))
        fewer = instantiate(cfg.partial, "partial", labels=splits.train)
    except (DataError, ConfigError, OSError) as error:
        reason = str(error).splitlines()[0]
        log.warning("whether the data have changed since is not known, because they cannot be read: %s", reason)
        return None
    if fewer is not None:
        splits = splits._replace(train=fewer)
    splits = in_class_order(splits, splits.train.class_names)
    return with_validation(cfg, splits)


def _same_dataset(cfg: DictConfig, folder: Path) -> bool:
    """Return whether a config reads the data set of the run in a folder, which may have moved."""
    try:
        before = read_config(folder).get("dataset")
    except DataError:
        return False
    now = OmegaConf.to_container(cfg.dataset, resolve=True)
    assert isinstance(now, dict)
    if not isinstance(before, dict):
        return False
    moved = ("root", "file")
    return all(before[key] == value for key, value in now.items() if key in before and key not in moved)


def _refusal(cfg: DictConfig, lines: list[str]) -> str:
    folder = run_folder(cfg)
    finished = read_result(folder) is not None
    state = "finished on other data, so its result is not that of the data as they are now" if finished else ""
    state = state or "began on other data, so it cannot be resumed"
    found = "".join(f"\n  {line}" for line in lines)
    ways = f"rerun=true trains anew and deletes {'the old result' if finished else 'what was trained so far'}"
    old = f"; mltrain report {shlex.quote(str(folder))} shows the old result" if finished else ""
    return f"{folder}: this run {state}:{found}\n{ways}; {_free_name(cfg)} keeps it and trains anew beside it{old}"


def _free_name(cfg: DictConfig) -> str:
    """Return a setting of `name` whose run folder is free."""
    folder = run_folder(cfg)
    name = str(cfg.name or default_name(cfg))
    number = 2
    while (folder.parents[1] / f"{name}-{number}" / folder.name).exists():
        number += 1
    return f"name={name}-{number}"

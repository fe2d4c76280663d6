"""Reduce a folder to what must be equal after every attack: times, durations and process numbers are left out."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mltrain.engine.run_folder import LOG

CLOCK = {"seconds", "images_per_second", "time", "images_per_second_per_gpu"}
"""keys of JSON files and checkpoints whose values depend on the clock"""
_SWEEP = re.compile(r"hydra\.sweep\.dir=\S+")  # its name is a date
CLOCK_TAGS = re.compile(r"images_per_second|data_wait|images/s|seconds")
"""names of figures that do"""


def snapshot(folder: Path, *, events: bool = True) -> dict[str, Any]:
    """Return the content of every file, by its path in the folder; the event files of a folder count as one file.

    The log of a training is left out: what was printed depends on where the training was stopped.
    Without `events` nothing below tensorboard/ is read: its reader waits for ever at a named pipe.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (not events and "/tensorboard/" in name) or path.name == LOG:
            continue
        if not stat.S_ISREG(path.lstat().st_mode):
            found[name] = "a folder" if path.is_dir() else "a special file"
        elif "tfevents" in path.name:
            found[path.parent.relative_to(folder).as_posix() + "/events"] = _events(path.parent)
        else:
            reader = next((read for pattern, read in _READERS if re.search(pattern, name)), _bytes)
            try:
                found[name] = reader(path)
            except Exception as error:  # noqa: BLE001  whatever is wrong with a file is a difference
                found[name] = f"unreadable: {type(error).__name__}: {error}"
    return found


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return a line for each file that is missing, left over or different.

    `previous.pt`, the checkpoint before the last, is there if a run has saved twice: one of a single epoch has only if
    it was stopped.
    """
    others = (name for name in sorted(found.keys() - expected.keys()) if Path(name).name != "previous.pt")
    lines = [f"left over: {name}" for name in others]
    lines += [f"missing: {name}" for name in sorted(expected.keys() - found.keys())]
    for name in sorted(expected.keys() & found.keys()):
        if (place := _first_difference(expected[name], found[name])) is not None:
            lines.append(f"different: {name} {place}")
    return lines


def _first_difference(a: Any, b: Any, place: str = "") -> str | None:
    if type(a) is type(b) and isinstance(a, dict):
        if a.keys() != b.keys():
            return f"{place} keys {sorted(map(str, a.keys() ^ b.keys()))[:5]}"
        pairs = [(a[key], b[key], f"{place}.{key}") for key in a]
    elif type(a) is type(b) and isinstance(a, list | tuple) and len(a) == len(b):
        pairs = [(x, y, f"{place}[{k}]") for k, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        return None if type(a) is type(b) and a == b else f"{place}: {str(a)[:150]} != {str(b)[:150]}"
    return next((found for pair in pairs if (found := _first_difference(*pair)) is not None), None)


def _bytes(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _without_clock(value: Any) -> Any:
    """Return plain values; tensors become their bytes, NaN its name."""
    if isinstance(value, dict):
        kept = ((k, v) for k, v in value.items() if k not in CLOCK and not CLOCK_TAGS.search(str(k)))
        return {str(key): _without_clock(item) for key, item in kept}
    if isinstance(value, list | tuple):
        return [_without_clock(item) for item in value]
    if hasattr(value, "numpy"):
        array = value.detach().numpy()
        return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    if isinstance(value, str):
        return _SWEEP.sub("hydra.sweep.dir=", value)
    return value if value == value else "NaN"


def _checkpoint(path: Path) -> Any:
    import torch

    return _without_clock(torch.load(path, weights_only=True))


def _readable(path: Path) -> str:
    """A file that depends on where the run was stopped needs no more than to be whole."""
    _checkpoint(path)
    return "a checkpoint"


def _json(path: Path) -> Any:
    return _without_clock(json.loads(path.read_text(encoding="utf-8")))


def _json_lines(path: Path) -> Any:
    return [_without_clock(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _archive(path: Path) -> Any:
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        return {
            name: f"{arrays[name].dtype} {hashlib.sha256(arrays[name].tobytes()).hexdigest()}" for name in arrays.files
        }


def _zip(path: Path) -> Any:
    """A PT2 archive, without the times of its members."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def _page(path: Path) -> Any:
    """A page without durations, speeds and dates; its figures, tables and pictures stay."""
    text = path.read_text(encoding="utf-8")
    found: list[Any] = []
    for data in re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL):
        text = text.replace(data, "")
        content = json.loads(data)
        content.get("figures", {}).pop("throughput", None)
        found.append(content)
    for pattern in _CLOCK_TEXT:
        text = re.sub(pattern, "", text)
    return [*found, *text.splitlines()]


_CLOCK_TEXT = (
    r"\d{4}-\d\d-\d\d[T _]\d\d[:-]\d\d([:-]\d\d)?([+-]\d{4})?",
    r"(?<=\d epochs), [\d,]+ images/s",
    r"[\d.,]+( h| min| s| ms| images?/s)\b",
    r"Of that time \d+%[^<]*",
)


def _events(folder: Path) -> Any:
    """Return the points that TensorBoard shows: it reads events as tensors, and forgets those before a restart."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells that it forgets
    read = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    read.Reload()
    tags = [tag for tag in read.Tags()["tensors"] if tag != "custom_scalars__config__"]  # each start writes the layout
    return {tag: _points(read.Tensors(tag), CLOCK_TAGS.search(tag) is not None) for tag in tags}


def _points(events: list[Any], clock: bool) -> list[tuple[int, str]]:
    content = (b"" if clock else e.tensor_proto.SerializeToString() for e in events)
    return [(e.step, hashlib.sha256(c).hexdigest()) for e, c in zip(events, content, strict=True)]


def _cached(path: Path) -> Any:
    """The images of a cache: threads write them in any order."""
    import numpy as np

    pixels = path.with_name(path.name.replace(".index.npy", ".pixels")).read_bytes()
    rows = np.load(path)[:, :3].tolist()
    return [hashlib.sha256(pixels[o : o + h * w * 3]).hexdigest() for o, h, w in rows]


_READERS: list[tuple[str, Callable[[Path], Any]]] = [
    (r"previous\.pt$", _readable),
    (r"\.pt$", _checkpoint),
    (r"\.index\.npy$", _cached),
    (r"\.pixels$", lambda path: path.stat().st_size),
    (r"\.jsonl$", _json_lines),
    (r"\.json$", _json),
    (r"\.npz$", _archive),
    (r"\.pt2$", _zip),
    (r"\.html$|\.md$", _page),
    (r"\.lock$", lambda path: "a lock"),
]

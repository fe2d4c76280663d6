"""Exports of annotation tools in json: each becomes records with an image, its labels and, where it says so, its split.

- Label Studio (https://labelstud.io/guide/task_format): tasks with `data` and `annotations`. Labels are those of its
  controls, Choices as well as boxes and outlines. JSON-MIN (https://labelstud.io/guide/export) are plain records.
- FiftyOne (https://docs.voxel51.com/user_guide/export_datasets.html): ``labels.json`` of FiftyOneImageClassification-
  Dataset beside `data/`, and ``samples.json`` of FiftyOneDataset.
- Datumaro (https://openvinotoolkit.github.io/datumaro), also exported by CVAT: `categories` and `items`.

An image that nobody has annotated is left out, which the log counts; one that is annotated without a label has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mltrain.errors import DataError
from mltrain.text import counted

Record = dict[str, Any]
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})
"""tags of FiftyOne that are splits"""


class Records(NamedTuple):
    """The records of a json file."""

    title: str
    records: list[tuple[str, Record]]
    """(place such as "entry 3", record) of each image"""
    label_keys: tuple[str, ...] = ()
    """keys that hold labels, if the format says"""
    class_names: list[str] | None = None
    """names and order of the classes, if the format says"""
    ignored: tuple[str, ...] = ()
    """notes for the log: records that were left out, and why"""


def label_studio(path: Path, data: Any) -> Records | None:
    """Return the tasks of Label Studio as records, or None for other data."""
    if not isinstance(data, list) or not data or not all(isinstance(task, dict) and "data" in task for task in data):
        return None
    records: list[tuple[str, Record]] = []
    controls: dict[str, None] = {}
    bare = several = 0
    for number, task in enumerate(data, 1):
        made = [a for a in task.get("annotations", task.get("completions", ())) if not a.get("was_cancelled")]
        made = [a for a in made if a.get("ground_truth")] or made
        if not made:
            bare += 1
            continue
        several += len(made) > 1
        record: Record = {"image": _image_of_task(path, number, task["data"])}
        for result in (result for annotation in made for result in annotation.get("result", ())):
            value, control = result.get("value", {}), str(result.get("from_name", "labels"))
            chosen = value.get(str(result.get("type", "")).lower())
            if isinstance(chosen, list) and all(isinstance(label, str) for label in chosen):
                controls[control] = None
                record.setdefault(control, []).extend(chosen)
        if isinstance(task["data"].get("split"), str):
            record["split"] = task["data"]["split"]
        records.append((f"entry {number}", record))
    if not records:
        raise DataError(f"{path}: none of its {len(data)} tasks of Label Studio has an annotation")
    ignored = [f"{bare} tasks without an annotation left out"] if bare else []
    ignored += [f"{several} tasks have several annotations, whose labels are joined"] if several else []
    return Records("tasks of Label Studio", records, tuple(controls), None, tuple(ignored))


def _image_of_task(path: Path, number: int, data: Record) -> str:
    texts = {key: value for key, value in data.items() if isinstance(value, str) and key != "split"}
    if "image" in texts:
        return str(texts["image"])
    likely = {key: value for key, value in texts.items() if "/" in value or "." in value}
    if len(likely) != 1:
        raise DataError(f"{path}, entry {number}: no key of data is the image; found {', '.join(data)}; call it image")
    return str(next(iter(likely.values())))


def fiftyone_labels(path: Path, data: Any) -> Records | None:
    """Return labels.json of FiftyOne's classification datasets as records, or None for other data.

    ``{"classes": ["cat", ...] or null, "labels": {"<name of the image without suffix>": target}}``, where a target is
    the index of a class, or its name if there are no classes, or a list of these for several labels, or null.
    """
    if not isinstance(data, dict) or not isinstance(data.get("labels"), dict):
        return None
    names = data.get("classes")
    records: list[tuple[str, Record]] = []
    bare = 0
    for image, target in data["labels"].items():
        if target is None:
            bare += 1
            continue
        labels = [_label(path, image, one, names) for one in (target if isinstance(target, list) else [target])]
        records.append((f"image {image!r}", {"image": image, "labels": labels}))
    ignored = (f"{counted(bare, 'image')} without an annotation left out",) if bare else ()
    return Records("labels of FiftyOne", records, ("labels",), names, ignored)


def _label(path: Path, image: str, target: Any, names: list[str] | None) -> str:
    if isinstance(target, dict):
        target = target.get("label")
    if type(target) is int and names is not None:
        if not 0 <= target < len(names):
            raise DataError(f"{path}: image {image!r} has the class {target}, but there are {len(names)} classes")
        return names[target]
    if not isinstance(target, str):
        raise DataError(f"{path}: image {image!r} has the target {str(target)[:60]!r}, expected a class")
    return target


def fiftyone_samples(path: Path, data: Any) -> Records | None:
    """Return samples.json of a FiftyOneDataset as records, or None for other data.

    A sample has a `filepath` and fields; a field with labels is of the class Classification, Classifications or
    Detections, as its `_cls` says. Tags such as train and validation are its split.
    """
    if not isinstance(data, dict) or not isinstance(data.get("samples"), list):
        return None
    records: list[tuple[str, Record]] = []
    fields: dict[str, None] = {}
    splits: list[list[str]] = []
    for number, sample in enumerate(data["samples"], 1):
        record: Record = {"image": sample.get("filepath")}
        for key, value in sample.items():
            labels = _labels_of_field(value)
            if labels is not None:
                fields[key] = None
                record[key] = labels
        splits.append([tag for tag in sample.get("tags") or () if isinstance(tag, str) and tag.lower() in SPLITS])
        records.append((f"sample {number}", record))
    if records and all(len(tags) == 1 for tags in splits):
        for (_, record), tags in zip(records, splits, strict=True):
            record["split"] = tags[0]
    bare = [record for _, record in records if not fields.keys() & record.keys()]
    ignored = (f"{len(bare)} samples without an annotation left out",) if bare else ()
    kept = [(entry, record) for entry, record in records if fields.keys() & record.keys()]
    return Records("samples of FiftyOne", kept, tuple(fields), None, ignored)


def _labels_of_field(value: Any) -> list[str] | None:
    """Return the labels in a field of a sample of FiftyOne, or None for a field that holds none."""
    kind = value.get("_cls") if isinstance(value, dict) else None
    if kind == "Classification":
        return [str(value["label"])]
    if kind in ("Classifications", "Detections"):
        return [str(one["label"]) for one in value.get(kind.lower(), ())]
    return None


def datumaro(path: Path, data: Any) -> Records | None:
    """Return the items of Datumaro as records, or None for other data.

    An annotation of any type (label, bbox, mask ...) gives its class to the image.
    """
    if not isinstance(data, dict) or not isinstance(data.get("items"), list) or "categories" not in data:
        return None
    names = [str(label["name"]) for label in data["categories"].get("label", {}).get("labels", ())]
    records = []
    for item in data["items"]:
        labels = list(_labels_of_item(path, item, names))
        media = item.get("media") or item.get("image") or {}
        image = media.get("path") if isinstance(media, dict) else None
        records.append((f"item {item.get('id')!r}", {"image": image or str(item.get("id")), "labels": labels}))
    return Records("items of Datumaro", records, ("labels",), names)


def _labels_of_item(path: Path, item: Record, names: list[str]) -> Iterator[str]:
    for annotation in item.get("annotations", ()):
        number = annotation.get("label_id")
        if number is None:
            continue
        if type(number) is not int or not 0 <= number < len(names):
            raise DataError(f"{path}: item {item.get('id')!r} has label_id {number}, but there are {len(names)} labels")
        yield names[number]


EXPORTS: tuple[Callable[[Path, Any], Records | None], ...] = (label_studio, fiftyone_labels, fiftyone_samples, datumaro)

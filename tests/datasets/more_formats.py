"""More tiny data sets for `formats.CASES`: tables of spreadsheets, and archives."""

from __future__ import annotations

import zipfile
from pathlib import Path

from tests.datasets.formats import CLASSES, LABELS, Case, case, listed, one_hot, touch, write


def pack(path: Path, files: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@case
def csv_of_excel_with_crosses(folder: Path) -> Case:
    touch(folder, *LABELS)
    lines = ["sep=;", "image;cat;dog;sun", *one_hot(list(LABELS), "x", "", ";")]
    return Case(write(folder / "labels.csv", "\r\n".join(lines)), "csv", LABELS, True)


@case
def csv_with_some_blank_splits(folder: Path) -> Case:
    touch(folder, *LABELS)
    images = [image for image in LABELS if image != "a2.jpg"]
    rows = [f"{image},{labels},{'val' if image == 'a8.jpg' else 'train'}" for image, labels in listed(images)]
    text = "\n".join(["image,labels,split", *rows, "a2.jpg,dog,"])
    expected = {image: LABELS[image] for image in images}
    return Case(write(folder / "labels.csv", text), "csv", expected, False)


@case
def csv_beside_a_zip(folder: Path) -> Case:
    pack(folder / "photos.zip", {f"photos/{image}": "" for image in LABELS})
    rows = [f"{image},{labels}" for image, labels in listed(list(LABELS))]
    write(folder / "labels.csv", "\n".join(["image,labels", *rows]))
    return Case(folder, "csv", LABELS, True)


@case
def zip_with_a_table(folder: Path) -> Case:
    rows = [f"{image},{labels}" for image, labels in listed(list(LABELS))]
    table = {"mine/labels.csv": "\n".join(["image,labels", *rows])}
    path = pack(folder / "mine.zip", {**table, **{f"mine/{image}": "" for image in LABELS}})
    return Case(path, "csv", LABELS, True)


@case
def zip_of_class_folders(folder: Path) -> Case:
    places = [f"{split}/{name}" for split in ("train", "val") for name in CLASSES]
    names = [f"{place}/{place.replace('/', '_')}_{image}" for place in places for image in LABELS]
    expected = {name.rpartition("/")[2]: [name.split("/")[1]] for name in names}
    return Case(pack(folder / "mine.zip", dict.fromkeys(names, "")), "folder", expected, False)

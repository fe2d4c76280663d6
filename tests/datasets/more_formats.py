"""More tiny data sets for `formats.CASES`: tables of spreadsheets, archives, lists per class, LabelMe."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from tests.datasets.formats import (
    CLASSES,
    LABELS,
    OF_SPLIT,
    TEST,
    TRAIN,
    VAL,
    Case,
    case,
    listed,
    one_hot,
    touch,
    voc_xml,
    write,
)


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
def folder_with_one_zip_of_everything(folder: Path) -> Case:
    return zip_with_a_table(folder)._replace(path=folder)


@case
def zip_of_class_folders(folder: Path) -> Case:
    places = [f"{split}/{name}" for split in ("train", "val") for name in CLASSES]
    names = [f"{place}/{place.replace('/', '_')}_{image}" for place in places for image in LABELS]
    expected = {name.rpartition("/")[2]: [name.split("/")[1]] for name in names}
    return Case(pack(folder / "mine.zip", dict.fromkeys(names, "")), "folder", expected, False)


@case
def csv_of_chestxray14_with_its_lists(folder: Path) -> Case:
    touch(folder / "images_001" / "images", *LABELS)
    rows = [f"{image},{labels or 'No Finding'},0,{image[1]}" for image, labels in listed(list(LABELS), "|")]
    write(folder / "Data_Entry_2017_v2020.csv", "\n".join(["Image Index,Finding Labels,Follow-up #,Patient ID", *rows]))
    write(folder / "train_val_list.txt", "\n".join([*TRAIN, *VAL]))
    write(folder / "test_list.txt", "\n".join(TEST))
    return Case(folder, "chestxray14", LABELS, True)


def lists_per_class(folder: Path) -> None:
    for split, images in OF_SPLIT.items():
        touch(folder / "JPEGImages", *images)
        for name in CLASSES:
            lines = [f"{image[:-4]} {1 if name in LABELS[image] else -1:2d}" for image in images]
            write(folder / "ImageSets" / "Main" / f"{name}_{split}.txt", "\n".join(lines) + "\n")


@case
def voc_with_a_list_per_class(folder: Path) -> Case:
    lists_per_class(folder)
    return Case(folder, "class_lists", LABELS, False)


@case
def voc_xml_with_a_list_per_class(folder: Path) -> Case:
    lists_per_class(folder)
    for image in LABELS:
        write(folder / "Annotations" / f"{image[:-4]}.xml", voc_xml(image))
    return Case(folder, "voc_files", LABELS, False)


def labelme(image: str) -> str:
    shapes = [{"label": label, "points": [[1, 1], [2, 2]]} for label in LABELS[image] if label != "sun"]
    flags = {"sun": "sun" in LABELS[image]}
    return json.dumps({"version": "5", "flags": flags, "shapes": shapes, "imagePath": f"..\\photos\\{image}"})


@case
def json_of_labelme(folder: Path) -> Case:
    touch(folder, *LABELS)
    for image in LABELS:
        write(folder / f"{image[:-4]}.json", labelme(image))
    return Case(folder, "labelme", LABELS, True)


@case
def json_of_labelme_per_split(folder: Path) -> Case:
    for split, images in OF_SPLIT.items():
        touch(folder / "photos", *images)
        for image in images:
            write(folder / split / f"{image[:-4]}.json", labelme(image))
    return Case(folder, "labelme", LABELS, False)

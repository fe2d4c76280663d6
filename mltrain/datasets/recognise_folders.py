"""Recognise the layout of a folder with images and labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mltrain import storage
from mltrain.datasets.cells import argument
from mltrain.datasets.found import HELD_OUT, Found, held_out_unless, split_of
from mltrain.datasets.names import NO_DATA, SUFFIXES
from mltrain.datasets.recognise_files import recognise_file, root_of_xml
from mltrain.datasets.voc import find_devkit

Look = Callable[[Path, bool], Iterator[Found]]
"""recognises a folder; its second argument says whether the files of train must be there"""
USUAL = {"train": "train", "val": "val", "test": "test"}
NO_CLASS_FOLDERS = frozenset(
    {"images", "labels", "annotations", "jpegimages", "imagesets", "data", "masks", "metadata"}
)
"""folders, in lower case, that are no classes"""


def _yolo(path: Path, need_train: bool) -> Iterator[Found]:
    """Recognise data.yaml, obj.data, or classes.txt beside images/ and labels/."""
    for file in sorted(path.iterdir()):
        if file.suffix.lower() in (".yaml", ".yml", ".data") and (found := recognise_file(file)) is not None:
            yield found
            return
    if (path / "classes.txt").is_file() and (path / "images").is_dir() and (path / "labels").is_dir():
        options = {"file": str(path / "classes.txt"), "val_fraction": HELD_OUT}
        yield Found("a YOLO detection set of Label Studio", "yolo", options)


def _official(path: Path, need_train: bool) -> Iterator[Found]:
    """Recognise Pascal VOC, COCO and LVIS as downloaded."""
    devkit = find_devkit(path)
    years = [year for year in (2007, 2012) if (devkit / f"VOC{year}" / "ImageSets" / "Main").is_dir()]
    for year in years:
        yield Found(f"Pascal VOC {year}", f"voc{year}", {"root": str(path)})
    if len(years) == 2:
        yield Found("Pascal VOC 2007 and 2012", "voc0712", {"root": str(path)})
    for year, group in ((2014, "coco"), (2017, "coco2017")):
        part = "train" if need_train else "val"
        if (path / f"annotations/instances_{part}{year}.json").is_file() and (path / f"{part}{year}").is_dir():
            yield Found(f"COCO {year}", group, {"root": str(path)})
    if (path / f"annotations/lvis_v1_{'train' if need_train else 'val'}.json").is_file():
        yield Found("LVIS", "lvis", {"root": str(path)})


def _voc_layout(path: Path, need_train: bool) -> Iterator[Found]:
    """Recognise Annotations/ beside JPEGImages/ or images, with or without lists."""
    folder = next((path / name for name in ("Annotations", "annotations") if _is_voc(path / name)), None)
    if folder is None:
        return
    options: dict[str, Any] = {"root": str(path)}
    if folder.name != "Annotations":
        options["annotations"] = folder.name
    lists = path / "ImageSets" / "Main"
    found = {split: name for name in ("train", "val", "test") if (lists / f"{name}.txt").is_file() and (split := name)}
    if not found:  # the list of any class has all images
        of_class = sorted(file.name for file in lists.glob("*_train.txt"))[:1]
        names = {split: name.replace("_train", f"_{split}") for name in of_class for split in USUAL}
        found = {split: name[:-4] for split, name in names.items() if (lists / name).is_file()}
    if "train" in found or ("val" in found and not need_train):
        options |= {"train": "ImageSets/Main/train.txt"}
        options |= {split: f"ImageSets/Main/{name}.txt" for split, name in found.items()}
    else:
        whole = next((name for name in ("trainval", "default") if (lists / f"{name}.txt").is_file()), None)
        options["train"] = folder.name if whole is None else f"ImageSets/Main/{whole}.txt"
    if "val" not in options:
        options["val_fraction"] = HELD_OUT
    yield Found("a folder of Pascal VOC's xml annotations", "voc_files", options)


def _class_lists(path: Path, need_train: bool) -> Iterator[Found]:
    """Recognise a list per class and split without xml annotations."""
    names = [file.stem for file in (path / "ImageSets" / "Main").glob("*_*.txt")]
    splits = {name.rpartition("_")[2] for name in names}
    train = next((name for name in ("train", "trainval") if name in splits), None)
    if train is None or _is_voc(path / "Annotations") or not (path / "JPEGImages").is_dir():
        return
    options = {"root": str(path), **({} if train == "train" else {"train_split": train})}
    yield Found("lists of images per class", "class_lists", options | held_out_unless("val" in splits))


def _chestxray14(path: Path, need_train: bool) -> Iterator[Found]:
    """Recognise ChestX-ray14 with its two lists."""
    if all((path / name).is_file() for name in ("train_val_list.txt", "test_list.txt")):
        for file in sorted(path.glob("Data_Entry_2017*.csv")):
            column = argument("group_column", "Patient ID")
            note = f"'No Finding' means no label; {column} keeps a patient in one split"
            yield Found("ChestX-ray14", "chestxray14", {"file": str(file), "val_fraction": HELD_OUT}, note)


def _labelme(path: Path, need_train: bool) -> Iterator[Found]:
    """Recognise LabelMe's json files of single images in the folder itself."""
    if _is_labelme(path):
        yield Found("LabelMe's json files", "labelme", {"root": str(path), "train": ".", "val_fraction": HELD_OUT})


def _xml_files(path: Path, need_train: bool) -> Iterator[Found]:
    """Recognise xml annotations of single images in the folder itself."""
    if _is_voc(path):
        options = {"root": str(path), "train": ".", "val_fraction": HELD_OUT}
        yield Found("a folder of Pascal VOC's xml annotations", "voc_files", options)


def _celeba(path: Path, need_train: bool) -> Iterator[Found]:
    """Recognise CelebA as published, or as csv files."""
    for suffix in ("txt", "csv"):
        if not (path / f"list_attr_celeba.{suffix}").is_file():
            continue
        options: dict[str, Any] = {"root": str(path)}
        if suffix == "csv":
            options["attributes"] = "list_attr_celeba.csv"
        names = ("list_eval_partition.txt", "list_eval_partition.csv")
        partition = next((name for name in names if (path / name).is_file()), None)
        if partition is None:
            options |= {"partition": None, "val_fraction": HELD_OUT}
        elif partition != names[0]:
            options["partition"] = partition
        if (path / "img_align_celeba" / "img_align_celeba").is_dir():
            options["images"] = "img_align_celeba/img_align_celeba"
        yield Found("CelebA", "celeba", options)
        return


def _folders_of_splits(path: Path, need_train: bool) -> Iterator[Found]:
    """Recognise one folder per split, each with the same kind of labels."""
    folders = {split: entry for entry in _below(path) if (split := split_of(entry.name)) is not None}
    if not _are_splits(folders, need_train):
        return
    first = folders.get("train", next(iter(folders.values())))
    names = {split: entry.name for split, entry in folders.items()}
    held_out = held_out_unless("val" in names)
    split_keys = {f"{split}_split": name for split, name in names.items() if name != USUAL[split]}
    files = [{file.name for file in entry.iterdir() if file.is_file()} for entry in folders.values()]
    for file in sorted(set.intersection(*files)):
        found = recognise_file(first / file)
        if found is None:
            continue
        if found.group == "coco_files":
            options = {"root": str(path), **{split: f"{name}/{file}" for split, name in names.items()}}
            yield Found("annotation files in COCO's format, one per split", "coco_files", options | held_out)
        elif found.group in ("csv", "json", "cvat"):
            kept = {key: value for key, value in found.options.items() if key not in ("file", "val_fraction")}
            options = {"file": f"{path}/{{split}}/{file}", **kept, **split_keys, **held_out}
            yield Found(f"{found.title}, one per split", found.group, options, found.note)
    given = {split: name for split, name in names.items() if split == "test" or name != USUAL[split]}
    options = {"root": str(path), **given, **held_out}
    if all(_is_voc(entry) for entry in folders.values()):
        yield Found("folders of Pascal VOC's xml annotations, one per split", "voc_files", options)
    if all(_is_labelme(entry) for entry in folders.values()):
        yield Found("folders of LabelMe's json files, one per split", "labelme", options)


FOLDERS: tuple[Look, ...] = (
    *(_yolo, _official, _voc_layout, _class_lists, _xml_files, _labelme, _celeba, _chestxray14, _folders_of_splits),
)


def _are_splits(found: dict[str, Path], need_train: bool) -> bool:
    """Return whether these are the parts of one set: train at least, or val or test if train is not needed."""
    return "train" in found or (not need_train and bool(found))


def files_of_splits(
    files: list[Path], look: Callable[[Path], Found | None], need_train: bool
) -> tuple[list[Found], list[Path]]:
    """Return the groups of files that have one split each, such as train.csv and val.csv, and the other files."""
    groups: dict[tuple[Path, str], dict[str, Path]] = {}
    for file in files:
        split = split_of(file.stem)
        if split is not None:
            groups.setdefault((file.parent, _without_split(file)), {})[split] = file
    found: list[Found] = []
    used: set[Path] = set()
    for group in groups.values():
        if not _are_splits(group, need_train) or list(group) == ["train"]:
            continue
        one = _group(group, [look(file) for file in group.values()])
        if one is not None:
            found.append(one)
            used.update(group.values())
    return found, [file for file in files if file not in used]


def _group(group: dict[str, Path], formats: list[Found | None]) -> Found | None:
    """Return the format of files that have one split each, or None if they differ."""
    first = formats[0]
    if first is None or len({None if one is None else (one.group, one.title) for one in formats}) > 1:
        return None
    held_out = held_out_unless("val" in group)
    place = next(iter(group.values())).parent
    root = place.parent if place.name.lower() in NO_CLASS_FOLDERS else place
    if first.group in ("coco_files", "list"):
        usual = {"train": "train.txt", "val": "val.txt"} if first.group == "list" else {}
        options: dict[str, Any] = {split: str(file.relative_to(root)) for split, file in group.items()}
        options = {split: name for split, name in options.items() if usual.get(split) != name}
        return Found(f"{first.title}, one per split", first.group, {"root": str(root), **options, **held_out})
    names = {split: _split_text(file) for split, file in group.items()}
    pattern = {str(file.parent / file.name.replace(names[split], "{split}", 1)) for split, file in group.items()}
    if len(pattern) > 1:
        return None
    kept = {key: value for key, value in first.options.items() if key not in ("file", "val_fraction")}
    given = {f"{split}_split": name for split, name in names.items() if name != USUAL[split]}
    options = {"file": pattern.pop(), **kept, **given, **held_out}
    return Found(f"{first.title}, one per split", first.group, options, first.note)


def _split_text(file: Path) -> str:
    """Return the part of a file name that is the name of its split, as it is written."""
    word = next(part for part in _parts(file.stem) if split_of(part) is not None)
    return word.rstrip("0123456789")


def _without_split(file: Path) -> str:
    return file.name.replace(_split_text(file), "", 1)


def _parts(name: str) -> list[str]:
    return [part for part in "".join(c if c.isalnum() else " " for c in name).split() if part]


def class_folders(path: Path, need_train: bool) -> list[Found]:
    """Return the layout of folders named by their class, below folders of splits or not."""
    folders = {split: entry for entry in _below(path) if (split := split_of(entry.name)) is not None}
    if _are_splits(folders, need_train) and all(_are_classes(entry) for entry in folders.values()):
        names = {split: entry.name for split, entry in folders.items()}
        given = {split: name for split, name in names.items() if split == "test" or name != USUAL[split]}
        held_out = held_out_unless("val" in names)
        return [_class_folders({"root": str(path), **given, **held_out})]
    if _are_classes(path):
        return [_class_folders({"root": str(path), "train": ".", "val_fraction": HELD_OUT})]
    return []


def _class_folders(options: dict[str, Any]) -> Found:
    note = (
        "each image has one label: with task=single_label loss=cross_entropy one class is predicted for each, which "
        "dataset=folder sets"
    )
    return Found("folders named by their class", "folder", options, note)


def _are_classes(path: Path) -> bool:
    """Return whether a folder holds two or more folders, and all of them hold images."""
    folders = _below(path)
    if len(folders) < 2 or any(folder.name.lower() in NO_CLASS_FOLDERS for folder in folders):
        return False
    return all(_has_images(folder) for folder in folders)


def _has_images(folder: Path, depth: int = 2) -> bool:
    folders, files = storage.entries(folder)
    if any(name.lower().endswith(SUFFIXES) for name in files):
        return True
    return depth > 0 and any(_has_images(folder / name, depth - 1) for name in folders)


def _below(path: Path) -> list[Path]:
    """Return the folders of a folder that may hold data, sorted."""
    folders, _ = storage.entries(path)
    return [path / name for name in folders if not name.startswith(".") and name.lower() not in NO_DATA]


def _is_voc(folder: Path) -> bool:
    """Return whether a folder holds xml annotations of one image each."""
    if not folder.is_dir():
        return False
    first = min((entry.path for entry in os.scandir(folder) if entry.name.endswith(".xml")), default=None)
    return first is not None and root_of_xml(Path(first)) == "annotation"


def _is_labelme(folder: Path) -> bool:
    """Return whether the first json file in a folder is an annotation of LabelMe."""
    first = next((name for name in storage.entries(folder)[1] if name.endswith(".json")), None)
    content = b"" if first is None else storage.read_bytes(folder / first)
    return all(key in content for key in (b'"imagePath"', b'"shapes"', b'"flags"'))

"""Your own data in Pascal VOC's xml format: one annotation per image, as labelImg, CVAT and Roboflow write it.

An image has the classes of its objects. Classes are those of all annotations of all splits, sorted. A split is a
folder of annotations, or a list of ids such as ``ImageSets/Main/train.txt``, whose annotations are in ``Annotations/``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from mltrain.datasets.names import SUFFIXES, ImageFinder, warn_of_case
from mltrain.datasets.reading import check_choice, read_image_list, require_paths
from mltrain.datasets.splits import Splits, make_splits, split_paths
from mltrain.datasets.voc import ObjectImage, label_set, objects_of
from mltrain.errors import DataError
from mltrain.files import walk
from mltrain.progress import track

log = logging.getLogger(__name__)

HOW = (
    "Expected a folder of xml annotations per split, or a list of their names without suffix: dataset.train=train "
    "dataset.val=val, dataset.train=. dataset.val_fraction=0.1, or dataset.train=ImageSets/Main/train.txt. To use "
    "another place: dataset.root=FOLDER"
)


def voc_files(
    *,
    name: str = "voc_files",
    root: str,
    train: str = "train",
    val: str = "val",
    test: str | None = None,
    annotations: str = "Annotations",
    images: str | None = None,
    difficult: Literal["positive", "negative", "ignore"] = "positive",
    val_fraction: float = 0.0,
    split_seed: int = 0,
    need_train: bool = True,
) -> Splits:
    """Train, val and optionally test from xml annotations.

    Args:
        name: name of the LabelSets and the run folder.
        root: folder that the paths below are relative to.
        train: folder with annotations at any depth ("." is `root` itself), or a list file (.txt) of their names
            without suffix.
        val: the same for val.
        test: the same for test; None: no test set.
        annotations: folder of the annotations that a list names.
        images: folder of the images; default: that of the annotation, or ``JPEGImages/`` beside ``Annotations/``.
        difficult: target of a class if the image has difficult objects of it only: positive (1), negative (0), or
            ignore (-1), as `dataset=voc2007` does.
        val_fraction: above 0, val is this share of train, chosen by a hash of `split_seed` and the path; `val` is then
            not used.
        split_seed: seed of that choice, independent of the run's.
        need_train: the program sets it to False to evaluate; train may then be missing, and is empty in that case.

    Raises:
        DataError: files are missing or broken.
    """
    check_choice("difficult", difficult, ("positive", "negative", "ignore"))
    paths = split_paths(root, train, val, test, val_fraction, need_train=need_train)
    require_paths(name, [*paths.values(), *([Path(root, images)] if images else [])], HOW)
    finder = ImageFinder(root)
    read = {
        part: _merged(name, [_read(*listed, finder, images) for listed in _annotations(root, path, annotations)])
        for part, path in paths.items()
    }
    classes = sorted({label for some in read.values() for image in some for label in image.clear | image.hard})
    warn_of_case(classes, root)
    made = {part: label_set(f"{name}/{part}", root, some, classes, difficult) for part, some in read.items()}
    return make_splits(name, made, val_fraction=val_fraction, split_seed=split_seed)


def _annotations(root: str | os.PathLike[str], path: Path, annotations: str) -> Iterator[tuple[Path, str]]:
    """Yield (annotation, where it is listed) of a split, in order."""
    if path.suffix == ".txt":
        ids = read_image_list(path, lambda line: line.split()[0])
        for entry, line in track(ids.items(), f"reading {path.name}", len(ids), unit="images"):
            yield Path(root, annotations, f"{entry}.xml"), f"{path}, line {line}"
        return
    files = sorted(f"{place}/{file}" for place, _, names in walk(path) for file in names if file.endswith(".xml"))
    if not files:
        raise DataError(f"{path}: no xml annotation. {HOW}")
    for file in track(files, f"reading {path.name}", len(files), unit="images"):
        yield Path(file), file


def _merged(name: str, images: list[ObjectImage]) -> list[ObjectImage]:
    """Return the images of several annotations as one image with the objects of all."""
    by_file: dict[str, ObjectImage] = {}
    for image in images:
        before = by_file.setdefault(image.file, image)
        if before is not image:
            by_file[image.file] = ObjectImage(image.file, before.clear | image.clear, before.hard | image.hard)
    if len(by_file) < len(images):
        log.warning(
            "%s: %d images have several annotations; each has the objects of all", name, len(images) - len(by_file)
        )
    return list(by_file.values())


def _read(file: Path, where: str, finder: ImageFinder, images: str | None) -> ObjectImage:
    """Read one annotation and find its image: by the name of the annotation, or else by its `filename`."""
    try:
        annotation = ElementTree.parse(file).getroot()
    except FileNotFoundError as error:
        raise DataError(f"{where}: there is no annotation {file}") from error
    except ElementTree.ParseError as error:
        raise DataError(f"{file}: broken xml ({error}); export it again") from error
    if annotation.tag != "annotation":
        raise DataError(f"{file}: expected <annotation> as in Pascal VOC, found <{annotation.tag}>")
    clear, hard = objects_of(annotation, str(file))
    beside = os.path.relpath(file.parent, finder.root)
    folders = [images] if images is not None else [beside, beside.replace("Annotations", "JPEGImages"), "JPEGImages"]
    named = (annotation.findtext("filename") or "").strip()
    for folder in folders:
        for name in (file.stem, named):
            path = os.path.normpath(os.path.join(folder, name))  # noqa: PTH118
            if not name:
                continue
            suffix = "" if name.lower().endswith(SUFFIXES) else ".jpg"
            found = finder.find_suffix(path, suffix, where) if suffix else finder.find(path, where)
            if Path(finder.root, found).exists():
                return ObjectImage(found, clear, hard)
    return ObjectImage(os.path.normpath(os.path.join(folders[0], named or f"{file.stem}.jpg")), clear, hard)  # noqa: PTH118

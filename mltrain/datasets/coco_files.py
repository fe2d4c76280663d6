"""Your own data in COCO's format: one annotation file per split, or one file of which a share is held out.

CVAT, Label Studio, Roboflow and others write such files. Rules are those of `mltrain.datasets.coco`; an annotation
needs no box.
"""

from __future__ import annotations

import logging
from pathlib import Path

from mltrain import storage
from mltrain.datasets.coco import Instances, coco_labels, read_coco_file, with_classes_of
from mltrain.datasets.label_files import find_image_root
from mltrain.datasets.reading import require_paths
from mltrain.datasets.splits import Splits, make_splits, split_paths
from mltrain.labels import LabelSet

log = logging.getLogger(__name__)

HOW = (
    "Expected annotation files in COCO's format below dataset.root: dataset.train=FILE and dataset.val=FILE, or "
    "dataset.train=FILE dataset.val_fraction=0.1. To use another place: dataset.root=FOLDER"
)


def coco_files(
    *,
    name: str = "coco_files",
    root: str,
    train: str = "train.json",
    val: str = "val.json",
    test: str | None = None,
    train_images: str | None = None,
    val_images: str | None = None,
    test_images: str | None = None,
    keep_unlabelled: bool = True,
    val_fraction: float = 0.0,
    split_seed: int = 0,
    need_train: bool = True,
) -> Splits:
    """Train, val and optionally test from annotation files in COCO's format.

    Args:
        name: name of the LabelSets and the run folder.
        root: folder that the paths below are relative to.
        train: annotation file of train.
        val: annotation file of val; its categories are matched to those of train by name.
        test: annotation file of test; None: no test set.
        train_images: folder of the images of train; default: the folder of the file, or the one below it or below
            `root` that has the images.
        val_images: the same for val.
        test_images: the same for test.
        keep_unlabelled: keep images without any annotation as all negative; false leaves them out.
        val_fraction: above 0, val is this share of train, chosen by a hash of `split_seed` and the path; `val` is then
            not used.
        split_seed: seed of that choice, independent of the run's.
        need_train: the program sets it to False to evaluate; train may then be missing, and is empty in that case.

    Raises:
        DataError: files are missing or broken, or val has a class that train lacks.
    """
    paths = split_paths(root, train, val, test, val_fraction, need_train=need_train)
    folders = {"train": train_images, "val": val_images, "test": test_images}
    given = {part: Path(root, folder) for part, folder in folders.items() if folder is not None and part in paths}
    require_paths(name, [*paths.values(), *given.values()], HOW)
    made: dict[str, LabelSet] = {}
    for part, path in paths.items():
        found = read_coco_file(path)
        folder = given.get(part) or _image_folder(Path(root), path, found, part)
        labels = coco_labels(found, path, folder, f"{name}/{part}", keep_unlabelled=keep_unlabelled)
        made[part] = with_classes_of(made["train"], labels) if "train" in made else labels
    return make_splits(name, made, val_fraction=val_fraction, split_seed=split_seed)


def _image_folder(root: Path, path: Path, found: Instances, part: str) -> Path:
    """Return the folder of the images of an annotation file."""
    folder = find_image_root(path.parent, found.images)
    if folder == path.parent and path.parent.resolve() != root.resolve():
        below = find_image_root(root, found.images)
        folder = below if below != root or _has_some(root, found) else folder
    if folder != path.parent:
        log.info("%s: the images are in %s: dataset.%s_images=%s", path, folder, part, _relative(folder, root))
    return folder


def _has_some(root: Path, found: Instances) -> bool:
    return any(storage.exists(root / file) for file in found.images[:20])


def _relative(folder: Path, root: Path) -> Path:
    return folder.relative_to(root) if folder.is_relative_to(root) else folder.absolute()

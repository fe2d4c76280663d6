"""The files of Distribution-Balanced Loss: tables read, training sets made from them, and files written."""

from __future__ import annotations

import json
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mltrain.cli import read
from mltrain.commands import create_longtail_dataset as command
from mltrain.commands.create_longtail_dataset import create_longtail
from mltrain.datasets.coco import coco
from mltrain.datasets.mlt import COCO_CLASSES, read_official
from mltrain.datasets.terse_gt import read_terse_gt, terse_gt
from mltrain.datasets.voc import CLASSES
from mltrain.errors import ConfigError, DataError
from mltrain.labels import LabelSet
from mltrain.longtail import LongTailOptions, build_longtail, read_split
from tests.datasets.mlt_files import ids, targets


def table(file: Path, labels: np.ndarray, image_ids: list[str], **changes: Any) -> Path:
    content = {
        "gt_labels": list(labels),
        "img_id2idx": {image: k for k, image in enumerate(image_ids)},
        "idx2img_id": image_ids,
        **changes,
    }
    file.write_bytes(pickle.dumps(content, protocol=2))
    return file


def make(*words: str) -> Path:
    return create_longtail(*read(command.COMMAND, list(words)))


def test_a_table_is_a_training_set_in_its_order(tmp_path: Path) -> None:
    labels, images = targets(), ids()
    (tmp_path / "VOC2012").mkdir()
    found = read_terse_gt(table(tmp_path / "terse_gt_2012.pkl", labels, images))
    assert found.class_names == CLASSES and (found.dense() == labels).all()
    assert found.files[3] == "VOC2012/JPEGImages/2008_000003.jpg" and Path(found.root) == tmp_path
    splits = terse_gt(file=str(tmp_path / "terse_gt_2012.pkl"), val_fraction=0.25)
    assert (len(splits.train), len(splits.val)) == (18, 6)
    with pytest.raises(DataError, match=r"training images only; dataset\.val_fraction=0\.1"):
        terse_gt(file=str(tmp_path / "terse_gt_2012.pkl"))
    wide = np.eye(80, dtype=np.int64)[[4, 70]]
    of_coco = table(tmp_path / "t.pkl", wide, ["9", "554625"], test_gt_labels=[wide[0]])
    found = read_terse_gt(of_coco, root="/coco")
    assert found.class_names == COCO_CLASSES and found.files[0] == "train2017/000000000009.jpg"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_id2idx": dict.fromkeys(ids(), 0)}, "img_id2idx contradicts idx2img_id"),
        ({"idx2img_id": ids()[1:]}, "no list of the ids of the 24 images"),
        ({"gt_labels": list(targets() * 2)}, "other values than 0 and 1"),
        ({"gt_labels": list(np.eye(24, dtype=int))}, "24 classes; VOC has 20 and COCO 80"),
        ({"idx2img_id": [{"x": 1}] * 24}, "twice"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_terse_gt(table(tmp_path / "t.pkl", targets(), ids(), **changes))


def test_a_training_set_made_from_a_table_is_written_as_its_authors_write_it(tmp_path: Path) -> None:
    labels, images = targets(200), ids(200)
    file = table(tmp_path / "terse_gt_2012.pkl", labels, images)
    words = ["dataset=terse_gt", f"dataset.file={file}", "method=published", "max=60", "shortage=clip"]
    folder = make(*words, "published_files=true", f"out={tmp_path / 'split'}")
    source = LabelSet.from_dense(name="x", root="", files=images, class_names=CLASSES, targets=labels.astype(np.int8))
    expected = build_longtail(source, LongTailOptions(method="published", max=60, shortage="clip")).train
    official = read_official(folder / "published")  # compares every number in the files with the labels
    assert official.ids == list(expected.files) and (official.labels.dense() == expected.dense()).all()
    assert (read_split(folder).train.dense() == expected.dense()).all()
    # what their code does with them, and names that NumPy 1 has
    frequencies = pickle.loads((folder / "published/class_freq.pkl").read_bytes())
    assert np.asarray(frequencies["class_freq"]).tolist() == expected.dense().sum(0).tolist()
    groups = pickle.loads((folder / "published/class_split.pkl").read_bytes())
    assert sorted(k for name in ("head", "middle", "tail") for k in groups[name]) == list(range(20))
    names = {
        arg
        for op, arg, _ in pickletools.genops((folder / "published/class_freq.pkl").read_bytes())
        if op.name == "GLOBAL"
    }
    assert "numpy.core.multiarray _reconstruct" in names and not any("_core" in name for name in names)


def test_unknown_labels_cannot_be_written_as_published_files(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("image,labels\n" + "".join(f"{k}.jpg,{'a;?b' if k % 2 else 'b'}\n" for k in range(20)))
    with pytest.raises(ConfigError, match=r"published_files=true: .* unknown labels"):
        make("dataset=csv", f"dataset.file={file}", "max=5", "published_files=true", f"out={tmp_path / 'split'}")
    assert not (tmp_path / "split").exists()


def made_up(root: Path, n: int = 120, classes: int = 4) -> tuple[Path, np.ndarray, np.ndarray]:
    """An annotation file of COCO 2017 train in which a third of the labels are of degenerate boxes only.

    Returns the root, and the labels with and without those.
    """
    rng = np.random.default_rng(3)
    every = (rng.random((n, classes)) < 0.5).astype(np.int8)
    every[:, 0] = 1
    thin = (rng.random((n, classes)) < 0.3) & (every == 1)
    bad = [{"bbox": [1, 1, 0.9, 5]}, {"bbox": [1, 1, 5, 0.5]}, {"area": 0}, {"ignore": 1}]
    annotations: list[dict[str, Any]] = []
    for image, c in np.argwhere(every):
        plain = {"image_id": int(image), "category_id": int(c) + 1, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0}
        crowd = {"iscrowd": int((image + c) % 3 == 0)}  # crowds stay
        annotations.append(plain | (bad[int(image + c) % 4] if thin[image, c] else crowd))
    for part, kept in (("train", annotations), ("val", annotations[:5])):
        (root / f"{part}2017").mkdir(parents=True)
        content = {
            "images": [{"id": k, "file_name": f"{k:012d}.jpg"} for k in range(n)],
            "categories": [{"id": c + 1, "name": COCO_CLASSES[c]} for c in range(classes)],
            "annotations": kept,
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{part}2017.json").write_text(json.dumps(content))
    return root, every, every * ~thin


def test_dropping_degenerate_boxes_decides_the_training_set(tmp_path: Path) -> None:
    root, every, kept = made_up(tmp_path / "coco")
    options = {"root": str(root), "year": 2017, "keep_unlabelled": True}
    assert (coco(**options).train.dense() == every).all()
    assert (coco(**options, degenerate="drop").train.dense() == kept).all()
    words = ["dataset=coco2017", f"dataset.root={root}", "method=published", "max=30", "shortage=clip"]
    made = {}
    for name, labels in (("keep", every), ("drop", kept)):
        folder = make(*words, f"dataset.degenerate={name}", f"out={tmp_path / name}", "published_files=true")
        files = [f"{k:012d}.jpg" for k in range(len(labels))]
        source = LabelSet.from_dense(name="x", root="", files=files, class_names=COCO_CLASSES[:4], targets=labels)
        expected = build_longtail(source, LongTailOptions(method="published", max=30, shortage="clip")).train
        made[name] = (folder / "published/img_id.txt").read_text().split()
        assert made[name] == [str(int(file.removesuffix(".jpg"))) for file in expected.files]
    assert made["keep"] != made["drop"]

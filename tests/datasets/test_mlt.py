"""Promises of VOC-MLT and COCO-MLT: published files and our own splits, the same training set from both."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mltrain import cli
from mltrain.commands.import_longtail_split import COMMAND
from mltrain.datasets import check_files, check_splits, read_csv, read_official
from mltrain.datasets.mlt import COCO_CLASSES, coco_mlt, voc_mlt
from mltrain.datasets.voc import CLASSES
from mltrain.errors import DataError, MltrainError
from mltrain.labels import LabelSet, LabelStats
from mltrain.longtail import LongTailOptions, build_longtail
from mltrain.longtail.split import read_split, write_split
from tests.datasets.mlt_files import ids, targets, write_official, write_voc
from tests.promises.runs import ROOT, execute

TOOL = ROOT / "tools" / "import_longtail_split.py"
FOLDERS = {"VOC-MLT": "VOCdevkit/longtail2012", "COCO-MLT": "coco/longtail2017"}


# -- the published files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "images", "labels", "most", "least", "groups", "first", "last"),
    [
        ("VOC-MLT", 1142, 2346, "person", "cow", (6, 6, 8), "2008_000023", None),
        ("COCO-MLT", 1909, 8316, "person", "bear", (22, 33, 25), "554625", "491440"),
    ],
)
def test_the_published_files_are_the_published_benchmark(
    shared_data: Path,
    title: str,
    images: int,
    labels: int,
    most: str,
    least: str,
    groups: tuple[int, ...],
    first: str,
    last: str | None,
) -> None:
    official = read_official(shared_data / "longtail_official" / FOLDERS[title])
    stats = LabelStats.from_labels(official.labels)
    assert official.benchmark.title == title
    assert (len(official.labels), int(stats.positives.sum())) == (images, labels)
    assert official.labels.class_names == (CLASSES if title == "VOC-MLT" else COCO_CLASSES)
    assert stats.class_names[stats.positives.argmax()] == most
    assert stats.class_names[stats.positives.argmin()] == least
    assert tuple(len(stats.group_indices()[name]) for name in ("head", "medium", "tail")) == groups
    assert official.ids[0] == first and last in (None, official.ids[-1])
    assert len(set(official.ids)) == images


def test_the_published_labels_of_voc_are_those_of_voc2012(shared_data: Path) -> None:
    rows = [line.split(",") for line in (shared_data / "voc2012_trainval_labels.csv").read_text().splitlines()[1:]]
    known = {image: set(labels.split(";")) for image, labels in rows}
    official = read_official(shared_data / "longtail_official" / FOLDERS["VOC-MLT"])
    dense = official.labels.dense()
    for image_id, row in zip(official.ids, dense, strict=True):
        assert {CLASSES[k] for k in np.flatnonzero(row)} == known[image_id]


def test_coco_class_names_are_those_of_its_annotations(shared_data: Path) -> None:
    data = json.loads((shared_data / "coco_tiny" / "annotations" / "instances_val2017.json").read_text())
    assert tuple(entry["name"] for entry in sorted(data["categories"], key=lambda entry: entry["id"])) == COCO_CLASSES


@pytest.mark.parametrize("protocol", [2, 4])
def test_files_in_the_published_layout_become_their_labels(tmp_path: Path, protocol: int) -> None:
    labels = targets(130)
    write_official(tmp_path, labels, ids(130), protocol=protocol)
    official = read_official(tmp_path, root="/data")
    assert official.ids == ids(130)
    assert np.array_equal(official.labels.dense(), labels)
    assert official.labels.path(3) == "/data/VOC2012/JPEGImages/2008_000003.jpg"


def one_more(labels: np.ndarray) -> np.ndarray:
    changed = labels.sum(0)
    changed[2] += 1
    return changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frequencies": {"class_freq": one_more(targets())}}, r"class_freq differs .* in 1 of 20 .* first bird: "),
        ({"frequencies": {"neg_class_freq": targets().sum(0)}}, "neg_class_freq differs from gt_labels in"),
        ({"frequencies": {"condition_prob": np.eye(20)}}, "condition_prob differs from gt_labels in .* and "),
        ({"frequencies": {"condition_prob": np.eye(3)}}, r"condition_prob is no array of the shape \(20, 20\)"),
        ({"groups": {"tail": {np.int64(0)}}}, r"'tail' differs from the rule \(head: at least 100 images, medium"),
        ({"groups": {"head": [1]}}, "class_split.pkl: has no set 'head'"),
    ],
)
def test_files_that_contradict_each_other_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_official(tmp_path, targets(), ids(), **changes)
    with pytest.raises(DataError, match=message) as error:
        read_official(tmp_path)
    assert "contradict each other" in str(error.value)


def test_all_contradictions_are_listed_at_once(tmp_path: Path) -> None:
    write_official(
        tmp_path, targets(), ids(), frequencies={"class_freq": one_more(targets())}, groups={"tail": set(), "head": {1}}
    )
    with pytest.raises(DataError) as error:
        read_official(tmp_path)
    assert len([line for line in str(error.value).splitlines() if line.startswith("  ")]) == 3


@pytest.mark.parametrize(
    ("labels", "image_ids", "message"),
    [
        (targets(), ids()[:-1], "23 image ids, but class_freq.pkl has the labels of 24 images"),
        (targets(), [*ids()[:-1], ids()[0]], "1 image ids are listed twice"),
        (targets(), [*ids()[:-1], "554625"], "1 of 24 image ids is none of VOC 2012's, the first '554625'"),
        (targets()[:, :19], ids(), "19 classes; VOC-MLT has 20 and COCO-MLT 80"),
        (targets() * 2, ids(), "other values than 0 and 1"),
    ],
)
def test_labels_that_do_not_fit_the_ids_are_refused(
    tmp_path: Path, labels: np.ndarray, image_ids: list[str], message: str
) -> None:
    write_official(tmp_path, labels, image_ids)
    with pytest.raises(DataError, match=message):
        read_official(tmp_path)


@pytest.mark.parametrize(
    "content", [{}, [1], {"gt_labels": 3}, {"gt_labels": []}, {"gt_labels": [np.zeros(2), np.zeros(3)]}]
)
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    write_official(tmp_path, targets(), ids())
    rest = dict.fromkeys(("class_freq", "neg_class_freq", "condition_prob"), np.zeros(2))
    content = content | rest if content and isinstance(content, dict) else content
    (tmp_path / "class_freq.pkl").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=r"class_freq\.pkl"):
        read_official(tmp_path)


def test_ids_in_a_real_pickle_are_refused(tmp_path: Path) -> None:
    write_official(tmp_path, targets(), ids(), id_file="img_id.pkl")
    assert read_official(tmp_path).ids == ids()
    (tmp_path / "img_id.pkl").write_bytes(pickle.dumps(ids(), protocol=2))
    with pytest.raises(DataError, match="no text; the published file has one image id per line"):
        read_official(tmp_path)


def test_missing_files_are_listed(tmp_path: Path) -> None:
    write_official(tmp_path, targets(), ids())
    (tmp_path / "class_split.pkl").unlink()
    with pytest.raises(DataError, match="1 of 3 expected paths is missing") as error:
        read_official(tmp_path)
    assert f"missing  {tmp_path / 'class_split.pkl'}" in str(error.value)


# -- dataset=voc_mlt, dataset=coco_mlt -------------------------------------------------------------------------------


def test_published_files_train_on_images_alone_and_test_on_voc2007(tmp_path: Path) -> None:
    split = write_official(tmp_path / "split", targets(), ids())
    splits = voc_mlt(root=str(write_voc(tmp_path, ids())), split=str(split))
    assert not (tmp_path / "VOCdevkit" / "VOC2012" / "Annotations").exists()
    assert np.array_equal(splits.train.dense(), targets())
    assert splits.test is None and splits.val.name == "voc_mlt/test"
    assert len(splits.val) == 8
    for labels in (splits.train, splits.val):
        check_files(labels)
    check_splits(splits)


def test_difficult_objects_of_the_test_set_are_positive(tmp_path: Path) -> None:
    split = write_official(tmp_path / "split", targets(), ids())
    test = voc_mlt(root=str(write_voc(tmp_path, ids())), split=str(split)).val
    assert test.fully_labelled
    assert test.dense().sum() == 8 * 3, "two clear objects and a difficult one in each image"


def test_an_imported_split_trains_as_the_published_files_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    official = write_official(tmp_path / "official", targets(), ids())
    root = write_voc(tmp_path, ids())
    import_split(str(official), f"out={tmp_path}/ours")
    assert f"dataset=voc_mlt dataset.split={tmp_path}/ours" in capsys.readouterr().out
    a, b = (voc_mlt(root=str(root), split=str(folder)) for folder in (official, tmp_path / "ours"))
    assert a.train.fingerprint() == b.train.fingerprint()
    assert a.train.image_paths == b.train.image_paths


def test_a_split_by_image_ids_alone_finds_the_images(tmp_path: Path) -> None:
    """A generated split of a csv file of ids has such ids."""
    labels = LabelSet.from_dense(name="x", root="", files=ids(), class_names=CLASSES, targets=targets())
    write_split(tmp_path / "split", train=labels.select(range(20)), val=labels.select(range(20, 24)), manifest={})
    splits = voc_mlt(root=str(write_voc(tmp_path, ids())), split=str(tmp_path / "split"))
    assert splits.train.file(0) == f"VOC2012/JPEGImages/{ids()[0]}.jpg"
    assert (len(splits.train), len(splits.val), splits.val.name) == (20, 4, "voc_mlt/val"), "its own validation part"
    assert splits.test is not None and splits.test.name == "voc_mlt/test"
    check_splits(splits)
    with pytest.raises(DataError, match="validation part of 4 images already"):
        voc_mlt(root=str(tmp_path), split=str(tmp_path / "split"), val_fraction=0.1)


def test_the_published_generator_gives_the_same_training_set_and_a_validation_part(
    shared_data: Path, tmp_path: Path
) -> None:
    source = read_csv(shared_data / "voc2012_trainval_labels.csv")
    build_longtail(source, LongTailOptions(method="published", max=800)).write(tmp_path / "made")
    root = str(write_voc(tmp_path, ids()))
    made = voc_mlt(root=root, split=str(tmp_path / "made"))
    published = voc_mlt(root=root, split=str(shared_data / "longtail_official" / FOLDERS["VOC-MLT"]))
    assert made.train.fingerprint() == published.train.fingerprint()
    assert made.test is not None and published.val.fingerprint() == made.test.fingerprint()
    assert len(made.val) > 500, "images of VOC 2012 that the training set leaves out"
    check_splits(made)


def test_val_fraction_holds_out_training_images_and_leaves_the_test_set_alone(tmp_path: Path) -> None:
    split = write_official(tmp_path / "split", targets(), ids())
    root = str(write_voc(tmp_path, ids()))
    splits = voc_mlt(root=root, split=str(split), val_fraction=0.25)
    assert (len(splits.train), len(splits.val)) == (18, 6)
    assert splits.test is not None and len(splits.test) == 8
    files = {labels.file(i) for labels in splits[:2] for i in range(len(labels))}
    assert files == {f"VOC2012/JPEGImages/{image_id}.jpg" for image_id in ids()}
    check_splits(splits)
    again, other = (voc_mlt(root=root, split=str(split), val_fraction=0.25, split_seed=seed) for seed in (0, 1))
    assert again.val.fingerprint() == splits.val.fingerprint() != other.val.fingerprint()
    with pytest.raises(DataError, match=r"val_fraction=0\.01 of 24 training images leaves train or val empty"):
        voc_mlt(root=root, split=str(split), val_fraction=0.01)


def coco_tree(root: Path, annotations: list[dict[str, Any]]) -> Path:
    """The two images of the split in train2017, three images with `annotations` in val2017."""
    for folder in ("train2017", "val2017", "annotations"):
        (root / folder).mkdir(parents=True)
    for file in ("train2017/000000000009.jpg", "train2017/000000554625.jpg", *(f"val2017/{k}.jpg" for k in (1, 2, 3))):
        (root / file).touch()
    data = {
        "images": [{"id": k, "file_name": f"{k}.jpg"} for k in (1, 2, 3)],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(COCO_CLASSES)],
        "annotations": annotations,
    }
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(data))
    return root


def annotation(image: int, category: int, **changes: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category + 1, "area": 50.0, "bbox": [0, 0, 10, 5], "iscrowd": 0} | changes


def test_coco_test_labels_follow_the_published_rules(tmp_path: Path) -> None:
    labels = np.zeros((2, 80), dtype=np.int64)
    labels[0, 62] = labels[1, :] = 1
    split = write_official(tmp_path / "split", labels, ["554625", "9"], id_file="img_id.pkl")
    root = coco_tree(
        tmp_path / "coco",
        [
            annotation(1, 0),
            annotation(1, 1, iscrowd=1),
            annotation(1, 2, area=0),
            annotation(1, 3, bbox=[3, 3, 0.5, 8]),
            annotation(1, 4, bbox=[3, 3, 8, 0.99]),
            annotation(1, 5, ignore=1),
            annotation(2, 6, bbox=[3, 3, 1, 1]),
        ],
    )
    splits = coco_mlt(root=str(root), split=str(split))
    assert [np.flatnonzero(row).tolist() for row in splits.val.dense()] == [[0, 1], [6], []]
    assert splits.train.file(1) == "train2017/000000000009.jpg"
    assert COCO_CLASSES[np.flatnonzero(splits.train.targets(0))[0]] == "tv"
    for labels_of in (splits.train, splits.val):
        check_files(labels_of)
    check_splits(splits)


def test_coco_test_set_equals_pycocotools_on_real_images(shared_data: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    tiny = shared_data / "coco_tiny"
    official = shared_data / "longtail_official" / FOLDERS["COCO-MLT"]
    test = coco_mlt(root=str(tiny), split=str(official)).val
    api = COCO(str(tiny / "annotations" / "instances_val2017.json"))
    order = sorted(api.getCatIds())
    for image in api.loadImgs(api.getImgIds()):
        kept = {
            order.index(entry["category_id"])
            for entry in api.loadAnns(api.getAnnIds(imgIds=image["id"]))
            if entry["area"] > 0 and min(entry["bbox"][2:]) >= 1
        }
        row = next(i for i in range(len(test)) if test.file(i) == image["file_name"])
        assert set(np.flatnonzero(test.targets(row)).tolist()) == kept


def test_the_split_of_another_data_set_is_refused(tmp_path: Path) -> None:
    labels = np.ones((2, 80), dtype=np.int64)
    write_official(tmp_path / "coco", labels, ["554625", "9"])
    root = str(write_voc(tmp_path, ids()))
    with pytest.raises(DataError, match="holds COCO-MLT, not VOC-MLT"):
        voc_mlt(root=root, split=str(tmp_path / "coco"))
    other = LabelSet.from_lists(name="x", root="", files=["a.jpg"], class_names=("a", "b"), positives=[[0]])
    write_split(tmp_path / "other", train=other, manifest={})
    with pytest.raises(
        DataError, match=r"has 2 classes \(a, b, \.\.\.\), VOC-MLT has the 20 of VOC 2012; .*dataset=csv"
    ):
        voc_mlt(root=root, split=str(tmp_path / "other"))
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none: holds no split: neither labels.csv nor class_freq.pkl\. The split: "):
        voc_mlt(root=root, split=str(tmp_path / "none"))


@pytest.mark.parametrize("function", [voc_mlt, coco_mlt])
def test_without_data_one_message_lists_everything_expected(tmp_path: Path, function: Any) -> None:
    with pytest.raises(DataError) as error:
        function(root=str(tmp_path), split=str(tmp_path / "split"))
    message = str(error.value)
    assert message.count("  missing  ") == (5 if function is voc_mlt else 4)
    for hint in ("dataset.split=", "dataset.root=", "mltrain import_longtail_split", "mltrain create_longtail_dataset"):
        assert hint in message


# -- the tool --------------------------------------------------------------------------------------------------------


def import_split(*words: str) -> None:
    """The command, in this process."""
    cli.execute(COMMAND, words)


@pytest.mark.parametrize("title", FOLDERS)
def test_an_import_keeps_ids_labels_and_groups(shared_data: Path, tmp_path: Path, title: str) -> None:
    source = shared_data / "longtail_official" / FOLDERS[title]
    import_split(str(source), f"out={tmp_path}/out", "root=/data")
    split = read_split(tmp_path / "out")
    official = read_official(source, root="/data")
    assert split.train.fingerprint() == official.labels.fingerprint()
    assert split.train.root == "/data"
    id_file = next(path for path in source.iterdir() if path.name.startswith("img_id"))
    assert (tmp_path / "out" / "image_ids.txt").read_bytes() == id_file.read_bytes(), "id for id"
    assert set(split.manifest["source"]["sha256"]) == {"class_freq.pkl", "class_split.pkl", id_file.name}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name one folder"),
        (["{source}"], "FOLDER out=DIR"),
        (["{source}", "out={out}", "rot=3"], "rot=3: there is no rot; did you mean root=VALUE?"),
        (["{source}", "out={out}", "overwrite=yes"], "overwrite=yes"),
        (["{source}/none", "out={out}"], "3 of 3 expected paths are missing"),
        (["{source}", "out={source}"], "exists and holds no split"),
        (["{bad}", "out={out}"], "refused, and nothing of it was executed"),
    ],
)
def test_a_mistake_ends_in_a_message_and_nothing_is_written(tmp_path: Path, words: list[str], message: str) -> None:
    places = {"source": tmp_path / "source", "bad": tmp_path / "bad", "out": tmp_path / "out"}
    write_official(places["source"], targets(), ids())
    write_official(places["bad"], targets(), ids())
    mark = tmp_path / "executed"
    (places["bad"] / "class_split.pkl").write_bytes(f"\x80\x02cos\nsystem\nX{{}}touch {mark}\x85R.".encode("latin1"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MltrainError) as error:
        import_split(*(word.format(**places) for word in words))
    assert message in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before, "nothing written, nothing executed"


def test_the_tool_says_a_mistake_without_a_traceback_and_answers_help(tmp_path: Path) -> None:
    done = execute([sys.executable, str(TOOL), str(tmp_path), f"out={tmp_path}/out"], code=2)
    assert "3 of 3 expected paths are missing" in done.stderr and "Traceback" not in done.stderr
    assert "out=null" in execute([sys.executable, str(TOOL), "--help"]).stdout

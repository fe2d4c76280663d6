"""Parquet files and data sets of Hugging Face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mltrain.datasets.hf import hf
from mltrain.datasets.parquet import parquet
from mltrain.datasets.splits import check_files, check_splits
from mltrain.errors import DataError
from mltrain.pipeline.decode import read_image
from tests.datasets.test_shards import positives
from tests.storage.made import make_parquet, row

pytest.importorskip("pyarrow")
VALUES: dict[str, list[Any]] = {
    "names": [["cat", "sun"], ["dog"], []],
    "text": ["cat; sun", "dog", None],
    "indices": [[0, 2], [1], [-1]],
    "one index": [0, 1, None],
    "ones": [[1, 0, 1], [0, 1, 0], [0, 0, 0]],
}


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{k}.png" for k in range(6)]
    for k, path in enumerate(paths):
        Image.new("RGB", (9, 7), (20 * k, 0, 0)).save(path)
    return paths


@pytest.mark.parametrize("kind", VALUES)
def test_kinds_of_labels(images: list[Path], tmp_path: Path, kind: str) -> None:
    data = [path.read_bytes() for path in images[:3]]
    make_parquet(tmp_path / "train-0.parquet", data, {"labels": VALUES[kind]})
    make_parquet(tmp_path / "val.parquet", data[:1], {"labels": VALUES[kind][:1]})
    (tmp_path / "names.txt").write_text("cat\ndog\nsun\n")
    splits = parquet(root=str(tmp_path), classes=str(tmp_path / "names.txt"))
    check_splits(splits)
    check_files(splits.train)
    assert positives(splits.train) == [["cat"] if kind == "one index" else ["cat", "sun"], ["dog"], []]
    assert splits.train.file(2) == f"train-0.parquet/{row(2)}" and read_image(splits.train.path(2)).max() == 40


def test_images_by_path_and_columns_by_name(images: list[Path], tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    structs = [{"bytes": None, "path": "1.png"}, {"bytes": images[2].read_bytes(), "path": "elsewhere.png"}]
    pq.write_table(pa.table({"photo": structs, "tag": ["a", "b"]}), tmp_path / "train.parquet", compression="none")
    pq.write_table(pa.table({"photo": ["3.png"], "tag": ["a"]}), tmp_path / "val.parquet")
    options = {"image_column": "photo", "labels_column": "tag"}
    splits = parquet(root=str(tmp_path), **options)
    assert splits.train.files == ["1.png", "train.parquet/photo/00000001"] and splits.val.files == ["3.png"]
    check_files(splits.train)
    assert [read_image(path).max() for path in splits.train.image_paths] == [20, 40]
    for wrong, message in (
        ({"labels_column": "tags"}, "dataset.labels_column=tags: there is no such column; .*did you mean tag"),
        ({"image_column": "photo"}, "dataset.labels_column=null: which column is it.* has photo, tag. Set"),
        ({"labels_column": "tag", "image_column": "image"}, "dataset.image_column=image: there is no such column"),
    ):
        with pytest.raises(DataError, match=message):
            parquet(root=str(tmp_path), **wrong)
    pq.write_table(pa.table({"photo": pa.array([None], structs_type(pa)), "tag": ["a"]}), tmp_path / "val.parquet")
    with pytest.raises(DataError, match=r"val.parquet, row 0: no image in column 'photo'"):
        parquet(root=str(tmp_path), **options)


def structs_type(pa: Any) -> Any:
    return pa.struct([("bytes", pa.binary()), ("path", pa.string())])


# -- Hugging Face ----------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(images: list[Path], tmp_path: Path) -> Path:
    """A data set of one label an image, as save_to_disk writes it: its Arrow files hold the images."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    content = {"image": [str(path) for path in images], "label": [0, 1, 1, 0, 1, 0]}
    whole = datasets.Dataset.from_dict(content, features=features)
    parts = {"train": whole.select([0, 2, 1, 5]), "validation": whole.select([3, 4])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved", num_shards={"train": 3, "validation": 1})
    return tmp_path / "saved"


def test_a_saved_data_set(saved: Path) -> None:
    splits = hf(path=str(saved))
    check_splits(splits)
    assert splits.train.class_names == ("cat", "dog")
    assert positives(splits.train) == [["cat"], ["dog"], ["dog"], ["cat"]] and len(splits.val) == 2
    assert [read_image(path).max() for path in splits.train.image_paths] == [0, 40, 20, 100]
    assert splits.train.file(0) == f"data-00000-of-00003.arrow/{row(0)}"
    check_files(splits.train)
    held_out = hf(path=str(saved), val_fraction=0.25, test_split="validation")
    assert len(held_out.train) == 3 and held_out.test is not None and held_out.test.files == splits.val.files


def test_parts_of_splits(saved: Path) -> None:
    splits = hf(path=str(saved), split="train[:75%]", val_split="train[3:]+validation[1:]")
    assert [read_image(path).max() for path in splits.train.image_paths] == [0, 40, 20]
    assert [read_image(path).max() for path in splits.val.image_paths] == [100, 80]
    check_splits(splits)


def test_what_is_wrong_with_a_split_is_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        hf(path=str(saved), val_split="test")
    assert "dataset.val_split=test: cannot be loaded: no split 'test'; found train, validation" in str(error.value)
    with pytest.raises(DataError, match=r"split=train\[5:\]: has no row|cannot be loaded"):
        hf(path=str(saved), split="train[5:]")
    with pytest.raises(DataError, match=r"missing  .*/none"):
        hf(path=str(tmp_path / "none"))


def test_multi_label_data_sets_and_a_folder_that_the_library_reads(
    images: list[Path], tmp_path: Path, monkeypatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    names = datasets.ClassLabel(names=["cat", "dog", "sun"])
    lists = {
        "class labels": (datasets.Sequence(names), [[0, 2], [1]]),
        "names": (datasets.Sequence(datasets.Value("string")), [["cat", "sun"], ["dog"]]),
    }
    for kind, (feature, labels) in lists.items():
        features = datasets.Features({"image": datasets.Image(), "labels": feature})
        made = datasets.Dataset.from_dict(
            {"image": [str(path) for path in images[:2]], "labels": labels}, features=features
        )
        made.save_to_disk(tmp_path / kind)
        splits = hf(path=str(tmp_path / kind), val_fraction=0.5)
        assert splits.train.class_names == ("cat", "dog", "sun")
        assert sorted(positives(splits.train) + positives(splits.val)) == [["cat", "sun"], ["dog"]]
    folder = tmp_path / "folder"  # read by load_dataset: images stay files
    for label in ("cat", "dog"):
        for part, k in (("train", 0), ("test", 1)):
            (folder / part / label).mkdir(parents=True)
            Image.fromarray(np.full((5, 5, 3), 9 * len(part) + k, np.uint8)).save(folder / part / label / f"{k}.png")
    splits = hf(path=str(folder), val_split="test")
    assert positives(splits.val) == [["cat"], ["dog"]]
    check_files(splits.val)
    assert read_image(splits.val.path(0)).max() == 37


def test_evaluation_needs_no_training_rows(images: list[Path], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    make_parquet(tmp_path / "val.parquet", [images[0].read_bytes()], {"labels": [["cat"]]})
    alone = parquet(root=str(tmp_path), need_train=False)
    assert (len(alone.train), positives(alone.val)) == (0, [["cat"]])
    names = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    made = datasets.Dataset.from_dict({"image": [str(images[0])], "label": [1]}, features=features)
    datasets.DatasetDict({"validation": made}).save_to_disk(tmp_path / "saved")
    alone = hf(path=str(tmp_path / "saved"), need_train=False)
    assert (len(alone.train), positives(alone.val)) == (0, [["dog"]])
    for read, place in ((parquet, {"root": str(tmp_path)}), (hf, {"path": str(tmp_path / "saved")})):
        with pytest.raises(DataError, match="train"):
            read(**place)

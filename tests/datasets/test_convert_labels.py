"""Promises of mltrain convert_labels: its csv file reads back as the same labels, whatever the source."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from mltrain.commands.convert_labels import Options, convert_labels, with_one_fill
from mltrain.datasets.auto import auto
from mltrain.datasets.csv import csv_file
from mltrain.datasets.splits import Splits
from mltrain.errors import ConfigError, DataError
from mltrain.labels import LabelSet
from tests.datasets.formats import CASES, touch, write
from tests.datasets.test_formats import read

Convert = Callable[..., Splits]


def config(target: str, **options: object) -> DictConfig:
    return OmegaConf.create({"dataset": {"_target_": f"mltrain.datasets.{target}", **options}})


@pytest.fixture
def convert(caplog: pytest.LogCaptureFixture) -> Convert:
    """Convert, and return what the printed options read."""
    caplog.set_level(logging.INFO)

    def run(cfg: DictConfig, out: Path, *extra: str) -> Splits:
        caplog.clear()
        convert_labels(cfg, Options(out=str(out)))
        (line,) = [text for text in caplog.messages if text.startswith("train on it: mltrain train ")]
        return read([*shlex.split(line.removeprefix("train on it: mltrain train ")), *extra])

    return run


def same_labels(one: LabelSet | None, other: LabelSet | None) -> bool:
    if one is None or other is None:
        return one is other
    files = [[Path(path).resolve() for path in labels.image_paths] for labels in (one, other)]
    same_targets = np.array_equal(one.dense(), other.dense())
    return one.class_names == other.class_names and files[0] == files[1] and same_targets


@pytest.mark.parametrize("name", CASES)
def test_every_format_reads_back_as_the_same_labels(name: str, tmp_path: Path, convert: Convert) -> None:
    path = CASES[name](tmp_path / "data").path
    before = auto(path=str(path))
    after = convert(config("auto.auto", path=str(path)), tmp_path / "out" / "labels.csv")
    assert all(same_labels(one, other) for one, other in zip(before, after, strict=True))


def test_files_beside_the_csv_need_no_root_and_move_with_it(tmp_path: Path, convert: Convert) -> None:
    path = CASES["coco_of_roboflow"](tmp_path / "data").path
    convert(config("auto.auto", path=str(path)), path / "labels.csv")
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    splits = csv_file(file=str(moved / "labels.csv"), classes=str(moved / "labels.classes.txt"))
    assert all(Path(labels.path(i)).is_file() for labels in splits if labels is not None for i in range(len(labels)))


@pytest.mark.parametrize(
    "rows",
    [
        ["1,,-1", "0,1,", "-1,0,1", ",,"],
        ["1,,", ",1,", ",,1", "1,1,"],  # nothing is known to be absent
        ["-1,1,0", "0,-1,1", "1,0,-1", "1,1,1"],
    ],
)
@pytest.mark.parametrize("blank", ["negative", "unknown"])
def test_unknown_labels_read_back(tmp_path: Path, rows: list[str], blank: str, convert: Convert) -> None:
    lines = [f"{k}.jpg,{row},{'val' if k else 'train'}\n" for k, row in enumerate(rows)]
    file = write(tmp_path / "in.csv", "image,cat,dog,sun,split\n" + "".join(lines))
    before = csv_file(file=str(file), blank=blank)
    after = convert(config("csv.csv_file", file=str(file), blank=blank), tmp_path / "out.csv")
    assert all(same_labels(one, other) for one, other in zip(before, after, strict=True))


def test_names_with_marks_separators_and_other_scripts_read_back(tmp_path: Path, convert: Convert) -> None:
    names = ["-80C", "!x", "a;b", "hot dog", "forêt", "猫", "zero", "?"]
    classes = write(tmp_path / "c.txt", "".join(f"{name}\n" for name in names))
    rows = "".join(f"{k}.jpg,{name}|{names[k - 1]},{'val' if k < 3 else 'train'}\n" for k, name in enumerate(names))
    file = write(tmp_path / "in.csv", "image,labels,split\n" + rows)
    options = {"file": str(file), "classes": str(classes), "separator": "|"}
    before = csv_file(**options)  # type: ignore[arg-type]
    after = convert(config("csv.csv_file", **options), tmp_path / "out.csv")
    assert before.train.class_names == tuple(names)
    assert all(same_labels(one, other) for one, other in zip(before, after, strict=True))


def test_what_a_csv_file_cannot_hold_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    file = write(tmp_path / "in.csv", "image,labels,split\n1.jpg,sun|!dog,train\n2.jpg,dog|!sun,val\n")
    classes = write(tmp_path / "c.txt", "sun\ndog\n!sun\n")  # the negative of sun looks like the third class
    cfg = config("csv.csv_file", file=str(file), classes=str(classes), separator="|")
    with pytest.raises(DataError, match=r"twice, with two values|cannot hold these labels"):
        OmegaConf.update(cfg, "dataset.blank", "negative")
        write(file, "image,sun,dog,!sun,split\n1.jpg,1,0,-1,train\n2.jpg,0,1,1,val\n")
        OmegaConf.update(cfg, "dataset.blank", "unknown")
        convert_labels(cfg, Options(out=str(tmp_path / "out.csv")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.txt", "in.csv"]


def test_existing_files_and_the_source_are_kept(tmp_path: Path) -> None:
    path = CASES["csv_labels"](tmp_path).path
    text = path.read_text(encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="is what is being converted"):
            convert_labels(config("auto.auto", path=str(path)), Options(out=str(path), overwrite=overwrite))
    other = write(tmp_path / "other.csv", "x\n")
    with pytest.raises(ConfigError, match="overwrite=true replaces it"):
        convert_labels(config("auto.auto", path=str(path)), Options(out=str(other)))
    assert (path.read_text(encoding="utf-8"), other.read_text(encoding="utf-8")) == (text, "x\n")
    convert_labels(config("auto.auto", path=str(path)), Options(out=str(other), overwrite=True))
    assert other.read_text(encoding="utf-8").startswith("image,labels,split\n")
    with pytest.raises(ValueError, match=r"must end in \.csv"):
        Options(out="labels.txt")


def test_splits_with_different_fills_get_one(tmp_path: Path) -> None:
    common = {"root": tmp_path, "class_names": ["a", "b"]}
    train = LabelSet.from_lists(name="train", files=["1"], positives=[[0]], fill=0, **common)  # type: ignore[arg-type]
    val = LabelSet.from_lists(name="val", files=["2"], positives=[[1]], fill=-1, **common)  # type: ignore[arg-type]
    made = with_one_fill({"train": train, "val": val})
    assert {labels.fill for labels in made.values()} == {-1}
    assert made["train"].dense().tolist() == [[1, 0]] and made["val"].dense().tolist() == [[-1, 1]]


def test_only_train_images_get_a_share_in_the_printed_options(tmp_path: Path, convert: Convert) -> None:
    touch(tmp_path, "1.jpg")
    rows = "".join(f"{k}.jpg,{'cat' if k % 2 else 'dog'},train\n" for k in range(20))
    file = write(tmp_path / "in.csv", "image,labels,split\n" + rows)
    after = convert(config("csv.csv_file", file=str(file)), tmp_path / "out.csv")
    assert (len(after.train), len(after.val)) == (18, 2)

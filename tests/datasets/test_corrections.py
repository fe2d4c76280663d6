"""dataset.corrections: labels of train and val are corrected, each correction is checked, run ids stay."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from mltrain.config.build import instantiate, load
from mltrain.config.identity import run_id
from mltrain.datasets.corrections import correct, read_corrections
from mltrain.datasets.fingerprint import Fingerprint
from mltrain.datasets.splits import Splits
from mltrain.errors import DataError
from mltrain.labels import LabelSet

NAMES = ["boat", "sea", "sun"]
HEADER = "image,class,given,suggested\n"


def labels(name: str, targets: list[list[int]], root: str = "/data") -> LabelSet:
    files = [f"{name}/{i}.jpg" for i in range(len(targets))]
    array = np.array(targets, dtype=np.int8)
    return LabelSet.from_dense(name=f"x/{name}", root=root, files=files, class_names=NAMES, targets=array)


def splits() -> Splits:
    train = labels("train", [[1, 0, 0], [0, 1, -1], [0, 0, 0]])
    return Splits(train, labels("val", [[-1, -1, 1], [-1, 0, -1]]), labels("test", [[1, 1, 1]]))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "corrections.csv"


def test_labels_of_train_and_val_are_corrected(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rows = ["train/0.jpg,sea,0,1", "train/0.jpg,boat,1,0", "/data/train/1.jpg,sun,-1,1", "train/2.jpg,sun,0,-1"]
    rows += ["val/0.jpg,sun,1,0", "./val/1.jpg,boat,-1,1", "val/0.jpg,boat,-1,0", "val/1.jpg,sea,0,1"]
    file.write_text(HEADER + "\n".join([*rows, rows[0]]), encoding="utf-8")
    before = splits()
    after = correct(before, file)
    assert after.train.dense().tolist() == [[0, 1, 0], [0, 1, 1], [0, 0, -1]]
    assert after.val.dense().tolist() == [[0, -1, 0], [1, 1, -1]]
    assert before.val.fill == -1 and after.val.fill == -1 and after.test is before.test
    assert before.train.dense().tolist() == [[1, 0, 0], [0, 1, -1], [0, 0, 0]]
    assert "8 labels corrected: train 4, val 4; now positive 4, negative 3, unknown 1" in caplog.text
    assert Fingerprint.of(before, {}).differences(Fingerprint.of(after, {}), after) == [
        "train: 3 with other labels (the first: train/0.jpg, now sea)",
        "val: 2 with other labels (the first: val/0.jpg, now no label)",
    ]


def test_columns_may_be_in_any_order_and_quoted_cells_are_text(file: Path) -> None:
    odd = labels("train", [[0, 0, 0]]).with_classes(["=1+1", "sea", "café"])
    file.write_text(
        "score,suggested,given,class,image\n0.1,1,0,'=1+1,train/0.jpg\n,1,0,cafe\u0301,train\\0.jpg\n",
        encoding="utf-8-sig",
    )
    assert correct(Splits(odd, odd.select([])), file).train.dense().tolist() == [[1, 0, 1]]


def test_a_file_without_rows_changes_nothing_and_says_so(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text(HEADER, encoding="utf-8")
    before = splits()
    assert correct(before, file) == before and "holds no correction" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"needs one column of each name image, class, given, suggested; not so: image, .* Found: an empty file"),
        ("image,class,given\n", r"not so: suggested. Found: image, class, given"),
        ("image,class,given,suggested,class\n", r"not so: class\."),
        ("train/0.jpg,sea,0", r"line 2: 3 fields, the header has 4"),
        ("train/0.jpg,,0,1", r"line 2: no class; every row needs both"),
        (",sea,0,1", r"line 2: no image; every row needs both"),
        ("train/0.jpg,sea,no,1", r"line 2: given is 'no'; it must be 1 \(positive\), 0 \(negative\) or -1 \(unknown\)"),
        ("train/0.jpg,sea,0,2", r"line 2: suggested is '2'; it must be"),
        ("train/0.jpg,sea,0,0", r"line 2: given and suggested are both 0; delete this row"),
        ("train/0.jpg,sea,0,1\ntrain/0.jpg,sea,0,-1", r"line 3: train/0.jpg, sea: another correction than in line 2"),
        (
            "train/0.jpg,sea,0,1\n./train/0.jpg,sea,0,-1",
            r"line 3: ./train/0.jpg, sea: another correction than in line 2",
        ),
        ("train/0.jpg,see,0,1", r"line 2: there is no class 'see'; did you mean 'sea'\?"),
        (
            "train/7.jpg,sea,0,1\n0.jpg,sea,0,1",
            r"2 corrections of images that are in no split:\n  line 2: train/7.jpg\n  line 3: 0.jpg\n"
            r"Image names must be as in the data set, such as train/0.jpg, val/0.jpg, test/0.jpg",
        ),
        ("test/0.jpg,sea,1,0", r"1 correction of images in the test split:\n  line 2: test/0.jpg\nTest labels stay"),
        (
            "train/0.jpg,sea,1,0\ntrain/1.jpg,sun,0,1\ntrain/2.jpg,sea,0,1",
            r"2 corrections of 3 in x/train contradict the data:\n"
            r"  line 2: train/0.jpg, sea: given is 1, the data have 0\n"
            r"  line 3: train/1.jpg, sun: given is 0, the data have -1\n.* already: delete these rows",
        ),
        ('train/0.jpg,"sea,0,1', r"not a csv file"),
    ],
)
def test_corrections_that_do_not_fit_are_refused(content: str, message: str, file: Path) -> None:
    header = "" if content.startswith("image") or not content else HEADER
    file.write_text(header + content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as error:
        correct(splits(), file)
    assert str(error.value).startswith(str(file))


def test_a_missing_file_is_named(file: Path) -> None:
    with pytest.raises(
        DataError, match=r"corrections: 1 of 1 expected path is missing\n  missing  .*corrections.csv\n"
    ):
        read_corrections(file)


def test_images_that_a_command_does_not_read_are_passed_over(file: Path) -> None:
    file.write_text(f"{HEADER}train/0.jpg,sea,0,1\nval/9.jpg,sea,0,1\n", encoding="utf-8")
    train = splits().train
    made = correct(Splits(train, train.select([])), file, whole=False)
    assert made.train.targets(0).tolist() == [1, 1, 0]


def test_training_takes_the_file_and_the_split_stays(file: Path, tmp_path: Path) -> None:
    rows = [f"{k}.jpg,{'sea' if k % 3 else 'sun'}" for k in range(30)]
    (tmp_path / "labels.csv").write_text("image,labels\n" + "\n".join(rows), encoding="utf-8")
    words = ["dataset=csv", f"dataset.file={tmp_path}/labels.csv", "dataset.folds=3", "model.image_size=32"]
    plain = instantiate(load(words).dataset, "dataset")
    file.write_text(f"{HEADER}{plain.val.file(0)},sea,{plain.val.targets(0)[0]},-1\n", encoding="utf-8")
    cfg = load([*words, f"dataset.corrections={file}"])
    made = instantiate(cfg.dataset, "dataset")
    assert made.val.files == plain.val.files and made.train.fingerprint() == plain.train.fingerprint()
    assert made.val.targets(0)[0] == -1 and (made.val.dense()[1:] == plain.val.dense()[1:]).all()
    assert run_id(load([*words, "dataset.corrections=null"])) == run_id(load(words)) != run_id(cfg)

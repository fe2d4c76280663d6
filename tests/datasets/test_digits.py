"""Promises of scikit-learn's digits as a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mltrain.datasets import check_files, check_splits
from mltrain.datasets.digits import digits
from mltrain.datasets.folder import folder
from mltrain.errors import DataError
from mltrain.longtail import LongTailOptions, build_longtail


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("digits")


def test_files_are_the_digits_pixel_for_pixel_and_every_one_is_in_one_split(root: Path) -> None:
    data = load_digits()
    splits = digits(root=str(root))
    check_splits(splits)
    seen = []
    for labels in (splits.train, splits.val):
        check_files(labels)
        for i, target in zip(range(len(labels)), labels.positive_pairs()[1], strict=True):
            number = int(Path(labels.file(i)).stem)
            seen.append(number)
            if i % 50 == 0:
                with Image.open(labels.path(i)) as image:
                    assert image.mode == "L"
                    pixels = np.asarray(image).astype(float)
                np.testing.assert_allclose(pixels * 16 / 255, data.images[number], atol=0.04)
            assert labels.class_names[target] == str(data.target[number])
    assert sorted(seen) == list(range(1797))
    assert np.bincount(splits.val.positive_pairs()[1]).tolist() == [50] * 10
    assert splits.test is None


def test_the_test_set_is_the_last_of_each_class(root: Path) -> None:
    splits = digits(root=str(root), val_fraction=0.1)
    assert splits.test is not None and len(splits.train) + len(splits.val) == 1297 and len(splits.val) == 130
    for k in range(10):
        train, test = (
            [int(Path(labels.file(i)).stem) for i in range(len(labels)) if labels.targets(i)[k]]
            for labels in (splits.train, splits.test)
        )
        assert max(train) < min(test)


def test_a_second_call_writes_nothing_and_the_folder_reader_reads_it_too(root: Path) -> None:
    digits(root=str(root))
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"}
    ours = digits(root=str(root))
    assert before == {path: path.stat().st_mtime_ns for path in before}
    theirs = folder(root=str(root / "v1_50"), train="train", val="test")
    assert theirs.train.fingerprint() == ours.train.fingerprint()


def test_a_long_tailed_split_gives_train_and_val_and_test_stays(root: Path, tmp_path: Path) -> None:
    whole = digits(root=str(root))
    options = LongTailOptions(curve="exponential", max=40, min=2, val_per_class=5)
    build_longtail(whole.train, options).write(tmp_path / "split")
    splits = digits(root=str(root), split=str(tmp_path / "split"))
    counts = np.bincount(splits.train.positive_pairs()[1])
    assert counts[0] == 40 and counts[-1] == 2 and (np.diff(counts) <= 0).all()
    assert np.bincount(splits.val.positive_pairs()[1]).tolist() == [5] * 10
    assert splits.test is not None and splits.test.fingerprint() == whole.val.fingerprint()
    check_splits(splits)
    check_files(splits.train)
    # of a set with another test set: some of its images are tested on here
    with pytest.raises(DataError, match=r"is no split of .*v1_100"):
        digits(root=str(root), split=str(tmp_path / "split"), test_per_class=100)


def test_impossible_options_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)missing  .*labels\.csv.*mltrain create_longtail_dataset dataset=digits"):
        digits(root=str(root), split=str(tmp_path))
    for options in ({"test_per_class": 0}, {"test_per_class": 151}, {"val_fraction": 1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            digits(root=str(root), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="val_fraction is for split=null"):
        digits(root=str(root), split="x", val_fraction=0.1)

"""Promises of the checks that every dataset goes through."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mltrain.datasets import Splits, check_files, check_splits
from mltrain.datasets.reading import require_paths
from mltrain.datasets.splits import hold_out, log_labels, treat_unlabelled
from mltrain.errors import DataError
from mltrain.labels import LabelSet


def labelled(root: Path, files: list[str], name: str = "set/train", classes: tuple[str, ...] = ("a", "b")) -> LabelSet:
    return LabelSet.from_lists(name=name, root=root, files=files, class_names=classes, positives=[[0] for _ in files])


def touch(root: Path, *files: str) -> None:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.encode())


def test_missing_files_are_counted_and_the_first_five_named(tmp_path: Path) -> None:
    touch(tmp_path, "x/0.jpg")
    with pytest.raises(DataError) as error:
        check_files(labelled(tmp_path, [f"x/{i}.jpg" for i in range(9)]))
    message = str(error.value)
    assert "8 of 9" in message and str(tmp_path) in message and "... and 3 more" in message
    assert re.findall(r"x/\d\.jpg", message) == [f"x/{i}.jpg" for i in range(1, 6)]


@pytest.mark.parametrize("kind", ["broken link", "no folder"])
def test_a_link_to_nothing_counts_as_missing(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "images"
    if kind == "broken link":
        root.mkdir()
        (root / "0.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(DataError, match="1 of 1 image file is missing"):
        check_files(labelled(root, ["0.jpg"]))


@pytest.mark.parametrize(
    "kind", ["a folder", "a named pipe (FIFO)", "a socket", "a link to a device", "cannot be followed"]
)
def test_an_image_that_is_no_regular_file_is_named_with_what_it_is(tmp_path: Path, kind: str) -> None:
    touch(tmp_path, "1.jpg")
    path = tmp_path / "0.jpg"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(str(path))
    elif kind == "a link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "cannot be followed":
        path.symlink_to(path)
    else:
        os.mkfifo(path)
    with pytest.raises(
        DataError, match=rf"of 2 images under .*, 1 cannot be read as a regular file.*\n  0\.jpg: .*{re.escape(kind)}"
    ):
        check_files(labelled(tmp_path, ["0.jpg", "1.jpg"]))
    check_files(labelled(tmp_path, ["1.jpg"]))


def test_present_files_pass_through_links_and_folders_above(tmp_path: Path) -> None:
    touch(tmp_path, "real/0.jpg", "side/1.jpg")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "linked.jpg").symlink_to(tmp_path / "real" / "0.jpg")
    (tmp_path / "root" / "folder").symlink_to(tmp_path / "side")
    check_files(labelled(tmp_path / "root", ["linked.jpg", "folder/1.jpg", "../real/0.jpg"]))


@pytest.mark.parametrize(
    "kind", ["same path", "other spelling", "symbolic link", "hard link", "linked folder", "missing"]
)
def test_an_image_in_train_and_val_is_refused(tmp_path: Path, kind: str) -> None:
    touch(tmp_path, "t/0.jpg", "t/1.jpg", "v/2.jpg")
    shared = {
        "same path": "t/1.jpg",
        "other spelling": "v/../t/./1.jpg",
        "symbolic link": "v/s.jpg",
        "hard link": "v/h.jpg",
        "linked folder": "w/1.jpg",
        "missing": "t/1.jpg",
    }[kind]
    (tmp_path / "v" / "s.jpg").symlink_to(tmp_path / "t" / "1.jpg")
    os.link(tmp_path / "t" / "1.jpg", tmp_path / "v" / "h.jpg")
    (tmp_path / "w").symlink_to(tmp_path / "t")
    if kind == "missing":
        (tmp_path / "t" / "1.jpg").unlink()
    train = labelled(tmp_path, ["t/0.jpg", "t/1.jpg"])
    val = labelled(tmp_path, ["v/2.jpg", shared], name="set/val")
    with pytest.raises(DataError) as error:
        check_splits(Splits(train, val))
    assert "set/val shares 1 of its 2 images with set/train" in str(error.value) and shared in str(error.value)
    with pytest.raises(DataError, match="set/val shares 1"):
        check_splits(Splits(train, labelled(tmp_path, ["v/2.jpg"], name="only"), val))


def test_separate_splits_pass_and_val_may_serve_as_test(tmp_path: Path) -> None:
    touch(tmp_path, "t/0.jpg", "v/0.jpg")
    val = labelled(tmp_path / "v", ["0.jpg"], name="set/val")
    check_splits(Splits(labelled(tmp_path / "t", ["0.jpg"]), val, val))


def test_made_up_inode_numbers_do_not_look_like_an_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "t/0.jpg", "v/1.jpg")

    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.name, self.path, self.is_symlink, self.is_file = (
                entry.name,
                entry.path,
                entry.is_symlink,
                entry.is_file,
            )

        def inode(self) -> int:
            return 0xFFFFFFFF

    class Entries:
        def __init__(self, folder: Path) -> None:
            self.found = [Entry(entry) for entry in original(folder)]

        def __enter__(self) -> list[Entry]:
            return self.found

        def __exit__(self, *_: object) -> None:
            return None

    original = os.scandir
    monkeypatch.setattr(os, "scandir", Entries)
    check_splits(Splits(labelled(tmp_path, ["t/0.jpg"]), labelled(tmp_path, ["v/1.jpg"], name="set/val")))


@pytest.mark.parametrize(
    ("classes", "message"), [(("b", "a"), "another order"), (("a", "c"), "b, c"), (("a",), "in one only: b")]
)
def test_splits_with_different_classes_are_refused(tmp_path: Path, classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_splits(Splits(labelled(tmp_path, ["0"]), labelled(tmp_path, ["1"], name="set/val", classes=classes)))


def test_one_log_line_says_images_labels_and_empty_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log_labels(
        LabelSet.from_dense(
            name="x/val",
            root=tmp_path,
            files=["0", "1"],
            class_names=["a", "b", "c"],
            targets=np.array([[1, 1, 0], [0, -1, 0]]),
        )
    )
    assert [record.getMessage() for record in caplog.records] == [
        "x/val: 2 images, 3 classes, 1.00 labels per image, 1 image without a positive, partially labelled "
        "(unknown targets are -1), 1 class without positives (c)"
    ]


def test_all_expected_paths_are_listed_once_found_or_missing(tmp_path: Path) -> None:
    touch(tmp_path, "here")
    with pytest.raises(DataError) as error:
        require_paths("x", [tmp_path / "here", tmp_path / "gone", tmp_path / "gone"], "get it there")
    assert str(error.value).splitlines() == [
        "x: 1 of 2 expected paths is missing",
        f"  found    {tmp_path / 'here'}",
        f"  missing  {tmp_path / 'gone'}",
        "get it there",
    ]


def test_checking_files_is_faster_than_a_stat_for_each(tmp_path: Path) -> None:
    files = [f"{i:05d}.jpg" for i in range(20_000)]
    for file in files:
        (tmp_path / file).touch()
    labels = labelled(tmp_path, files)
    paths = labels.image_paths

    def seconds(call: object) -> float:
        start = time.perf_counter()
        call()  # type: ignore[operator]
        return time.perf_counter() - start

    ours = min(seconds(lambda: check_files(labels)) for _ in range(3))
    stats = min(seconds(lambda: [Path(path).is_file() for path in paths]) for _ in range(3))
    assert ours < stats


def test_a_held_out_share_does_not_depend_on_the_order_of_the_images(tmp_path: Path) -> None:
    files = [f"{i}.jpg" for i in range(50)]
    rest, held = hold_out(labelled(tmp_path, files), 0.2, 0, "set")
    _, turned = hold_out(labelled(tmp_path, files[::-1]), 0.2, 0, "set")
    _, other = hold_out(labelled(tmp_path, files), 0.2, 1, "set")
    assert (len(rest), len(held), rest.name, held.name) == (40, 10, "set/train", "set/val")
    assert set(held.image_paths) == set(turned.image_paths) != set(other.image_paths)
    check_splits(Splits(rest, held))
    with pytest.raises(DataError, match="leaves train or val empty"):
        hold_out(labelled(tmp_path, files), 0.001, 0, "set")
    with pytest.raises(ValueError, match="between 0 and 1"):
        hold_out(labelled(tmp_path, files), 1.0, 0, "set")


def test_images_without_a_positive_are_dropped_kept_or_unknown() -> None:
    targets = np.array([[1, 0], [0, 0], [0, -1], [0, 1]])
    labels = LabelSet.from_dense(name="s", root="r", files=list("abcd"), class_names=("x", "y"), targets=targets)
    policies: dict[Any, list[list[int]]] = {
        "drop": [[1, 0], [0, 1]],
        "negative": [[1, 0], [0, 0], [0, -1], [0, 1]],
        "unknown": [[1, 0], [-1, -1], [-1, -1], [0, 1]],
    }
    for policy, expected in policies.items():
        assert treat_unlabelled(labels, policy).dense().tolist() == expected


def test_an_absolute_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0039.jpg").touch()
    with pytest.raises(DataError, match=r"1 paths begin with / and so are not below dataset.root: remove the /"):
        check_files(labelled(tmp_path, ["/0039.jpg"]))
    check_files(labelled(tmp_path, [f"{tmp_path}/0039.jpg"]))


def test_a_file_with_another_suffix_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.JPG").touch()
    with pytest.raises(DataError, match=r"for 1\.jpg there is 1\.JPG"):
        check_files(labelled(tmp_path, ["1.jpg"]))

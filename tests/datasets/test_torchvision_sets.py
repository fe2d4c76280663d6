"""Promises of the MNIST and CIFAR readers, on small files in the official formats."""

from __future__ import annotations

import gzip
import logging
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mltrain.datasets import check_files, check_splits, torchvision_sets
from mltrain.datasets.torchvision_sets import cifar10, cifar100, mnist
from mltrain.errors import DataError

RANDOM = np.random.default_rng(0)
DIGITS = {part: RANDOM.integers(0, 256, (n, 28, 28), dtype=np.uint8) for part, n in (("train", 12), ("t10k", 5))}
DIGIT_LABELS = {"train": [k % 10 for k in range(12)], "t10k": [3, 9, 0, 1, 3]}


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist_tree(root: Path, packed: bool = False) -> str:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, pixels in DIGITS.items():
        for name, array in (("images-idx3", pixels), ("labels-idx1", np.array(DIGIT_LABELS[part], dtype=np.uint8))):
            data = idx(array)
            path = raw / f"{part}-{name}-ubyte"
            if packed:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(data))
            else:
                path.write_bytes(data)
    return str(root)


def python2_pickle(data: dict[str, Any]) -> bytes:
    """Pickle as Python 2 does, in CIFAR's form: protocol 2, text and pixels as byte strings (instructions U and T)."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def value(item: Any) -> bytes:
        if isinstance(item, np.ndarray):
            shape = b"".join(b"J" + struct.pack("<i", n) for n in item.shape)
            return (
                b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR(K\x01("
                + shape + b"tcnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03" + text(b"|")
                + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + text(item.tobytes()) + b"tb"
            )  # fmt: skip
        if isinstance(item, list):
            return b"](" + b"".join(value(each) for each in item) + b"e"
        return text(item.encode()) if isinstance(item, str) else b"K" + bytes([item])

    return b"\x80\x02}(" + b"".join(text(key.encode()) + value(item) for key, item in data.items()) + b"u."


def batch(n: int, **labels: list[int]) -> dict[str, Any]:
    pixels = RANDOM.integers(0, 256, (n, 3072), dtype=np.uint8)
    return {"batch_label": "a batch", **labels, "data": pixels, "filenames": [f"{i}.png" for i in range(n)]}


def cifar10_tree(root: Path) -> dict[str, Any]:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    batches = {f"data_batch_{k}": batch(2, labels=[k, 9]) for k in range(1, 6)} | {
        "test_batch": batch(3, labels=[0, 1, 2])
    }
    meta = {"num_cases_per_batch": 2, "label_names": [f"thing{k}" for k in range(10)], "num_vis": 0}
    for name, data in {**batches, "batches.meta": meta}.items():
        (folder / name).write_bytes(python2_pickle(data))
    return batches


def cifar100_tree(root: Path) -> str:
    folder = root / "cifar-100-python"
    folder.mkdir()
    meta = {
        "fine_label_names": [f"fine{k}" for k in range(100)],
        "coarse_label_names": [f"coarse{k}" for k in range(20)],
    }
    parts = {
        "train": batch(2, fine_labels=[99, 5], coarse_labels=[3, 19]),
        "test": batch(1, fine_labels=[7], coarse_labels=[2]),
        "meta": meta,
    }
    for name, data in parts.items():
        (folder / name).write_bytes(python2_pickle(data))
    return str(root)


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_unpacked_to_the_same_pixels_and_labels(tmp_path: Path, packed: bool) -> None:
    splits = mnist(root=mnist_tree(tmp_path, packed))
    for labels, part in ((splits.train, "train"), (splits.val, "t10k")):
        assert labels.class_names == tuple("0123456789")
        assert labels.dense().tolist() == np.eye(10, dtype=int)[DIGIT_LABELS[part]].tolist()
        for i, path in enumerate(labels.image_paths):
            assert (pixels(path) == DIGITS[part][i]).all()
        check_files(labels)
    check_splits(splits)
    assert splits.test is None


def test_what_torchvision_reads_from_the_files_is_what_we_read(tmp_path: Path) -> None:
    from torchvision.datasets import MNIST

    splits = mnist(root=mnist_tree(tmp_path))
    theirs = MNIST(str(tmp_path), train=True)
    assert (theirs.data.numpy() == np.stack([pixels(path) for path in splits.train.image_paths])).all()
    assert theirs.targets.tolist() == splits.train.positive_pairs()[1].tolist()


def test_cifar10_is_unpacked_to_the_same_pixels_and_labels(tmp_path: Path) -> None:
    batches = cifar10_tree(tmp_path)
    splits = cifar10(root=str(tmp_path))
    assert splits.train.class_names == tuple(f"thing{k}" for k in range(10))
    assert splits.train.positive_pairs()[1].tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert splits.val.positive_pairs()[1].tolist() == [0, 1, 2]
    expected = np.concatenate([batches[f"data_batch_{k}"]["data"] for k in range(1, 6)])
    for i, path in enumerate(splits.train.image_paths):
        assert (pixels(path) == expected[i].reshape(3, 32, 32).transpose(1, 2, 0)).all()


def test_our_python_2_pickle_is_what_pickle_reads(tmp_path: Path) -> None:
    data = batch(2, labels=[1, 2])
    read = pickle.loads(python2_pickle(data), encoding="latin1")
    assert read.keys() == data.keys() and (read["data"] == data["data"]).all() and read["labels"] == [1, 2]


@pytest.mark.parametrize(("kind", "classes", "found"), [("fine", 100, [99, 5]), ("coarse", 20, [3, 19])])
def test_cifar100_has_fine_and_coarse_labels(tmp_path: Path, kind: Any, classes: int, found: list[int]) -> None:
    splits = cifar100(root=cifar100_tree(tmp_path), labels=kind)
    assert splits.train.num_classes == classes and splits.train.class_names[7] == f"{kind}7"
    assert splits.train.positive_pairs()[1].tolist() == found


def test_unpacking_happens_once_and_the_raw_files_may_go_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    root = mnist_tree(tmp_path)
    first = mnist(root=root).train.fingerprint()
    assert "mnist: unpacking once to" in caplog.text and "mnist: 17 images unpacked" in caplog.text
    for path in (tmp_path / "MNIST" / "raw").iterdir():
        path.unlink()
    caplog.clear()
    assert mnist(root=root).train.fingerprint() == first
    assert "unpack" not in caplog.text


def test_an_interrupted_unpacking_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = mnist_tree(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torchvision_sets.Image, "fromarray", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        mnist(root=root)
    assert [path.name for path in (tmp_path / "MNIST").iterdir() if path.is_dir()] == ["raw"]
    check_files(mnist(root=root).train)


def test_a_share_of_train_becomes_val_and_the_test_set_is_test_then(tmp_path: Path) -> None:
    splits = mnist(root=mnist_tree(tmp_path), val_fraction=0.25)
    assert splits.test is not None
    assert (len(splits.train), len(splits.val), len(splits.test)) == (9, 3, 5)
    assert (splits.val.name, splits.test.name) == ("mnist/val", "mnist/test")
    check_splits(splits)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("train-images-idx3-ubyte", b"", "not an IDX file of 3 dimensions"),
        ("train-images-idx3-ubyte", idx(DIGITS["train"])[:-1], "or not all of it"),
        ("train-labels-idx1-ubyte", idx(DIGITS["train"]), "not an IDX file of 1 dimensions"),
        ("train-labels-idx1-ubyte", idx(np.full(12, 10, dtype=np.uint8)), "labels of train are not all from 0 to 9"),
        ("train-labels-idx1-ubyte", idx(np.zeros(11, dtype=np.uint8)), "12 images and 11 labels"),
    ],
)
def test_a_broken_mnist_file_is_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    root = mnist_tree(tmp_path)
    (tmp_path / "MNIST" / "raw" / name).write_bytes(data)
    with pytest.raises(DataError) as error:
        mnist(root=root)
    assert message in str(error.value)
    assert not (tmp_path / "MNIST" / "png").exists()


def test_a_broken_gzip_is_named(tmp_path: Path) -> None:
    root = mnist_tree(tmp_path, packed=True)
    path = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz: cannot be read"):
        mnist(root=root)


class Bomb:
    def __reduce__(self) -> Any:
        return print, ("executed",)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("data_batch_2", python2_pickle({"labels": [1]}), "expected a dict with data, labels, found labels"),
        ("data_batch_2", python2_pickle(batch(2, labels=[1])), "data must be N x 3072 bytes and labels N numbers"),
        ("data_batch_2", pickle.dumps(Bomb(), 2), "refused, and nothing of it was executed"),
        ("batches.meta", python2_pickle({"label_names": [1]}), "label_names is no list of names"),
        ("batches.meta", b"\x80\x02K", "broken pickle"),
    ],
)
def test_a_broken_or_hostile_cifar_file_is_named_and_not_executed(
    tmp_path: Path, name: str, data: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cifar10_tree(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / name
    path.write_bytes(data)
    with pytest.raises(DataError) as error:
        cifar10(root=str(tmp_path))
    assert message in str(error.value) and str(path) in str(error.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("reader", "title", "files"), [(mnist, "MNIST", 4), (cifar10, "CIFAR10", 7), (cifar100, "CIFAR100", 3)]
)
def test_missing_files_are_one_message_with_the_command(tmp_path: Path, reader: Any, title: str, files: int) -> None:
    with pytest.raises(DataError) as error:
        reader(root=str(tmp_path))
    assert f"{files} of {files} expected paths are missing" in str(error.value)
    assert f"from torchvision.datasets import {title}" in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"labels": "middle"}, {"val_fraction": 1.0}])
def test_a_value_outside_the_choice_is_a_wrong_argument(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        cifar100(root=str(tmp_path), **wrong)

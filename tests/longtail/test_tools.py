"""Promises of `mltrain create_longtail_dataset` and `mltrain dataset_stats`: their arguments and their output."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mltrain import cli
from mltrain.cli import read
from mltrain.commands import create_longtail_dataset as command
from mltrain.commands.create_longtail_dataset import create_longtail
from mltrain.commands.dataset_stats import COMMAND as STATS
from mltrain.commands.dataset_stats import dataset_stats
from mltrain.config.schema import section_options
from mltrain.datasets import read_csv
from mltrain.datasets.csv import csv_file
from mltrain.errors import ConfigError, DataError
from mltrain.longtail import read_split

ROOT = Path(__file__).resolve().parents[2]


def labels_csv(folder: Path, n: int = 300) -> Path:
    """Class c in every (c + 2)-nd image, no split column, no image files."""
    rows = [f"{i:03d}.jpg,{';'.join(f'c{c}' for c in range(6) if i % (c + 2) == 0)}" for i in range(n)]
    path = folder / "labels.csv"
    path.write_text("image,labels\n" + "\n".join(rows) + "\n")
    return path


def make(tmp_path: Path, *words: str) -> Path:
    file = labels_csv(tmp_path)
    return create_longtail(*read(command.COMMAND, ["dataset=csv", f"dataset.file={file}", *words]))


def run(tool: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / tool), *words], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_a_csv_without_splits_and_images_becomes_a_split_that_dataset_csv_reads(tmp_path: Path) -> None:
    folder = make(tmp_path, "max=60", "min=5", f"out={tmp_path / 'lt'}")
    assert {path.name for path in folder.iterdir()} == {
        "image_ids.txt", "val_image_ids.txt", "labels.csv", "classes.txt", "class_counts.csv", "class_split.json",
        "cooccurrence.npz", "manifest.json", "class_counts.png", "cooccurrence.png",
    }  # fmt: skip
    split = read_split(folder)
    train = read_csv(folder / "labels.csv", classes=folder / "classes.txt", split="train")
    assert train.fingerprint() == split.train.fingerprint()
    rows = list(csv.DictReader((folder / "class_counts.csv").open()))
    assert [int(row["source"]) for row in rows] == [150, 100, 75, 60, 50, 43]
    assert max(int(row["target"]) for row in rows) == 60
    assert split.manifest["dataset"]["file"].endswith("labels.csv") and split.manifest["parameters"]["min"] == 5


def test_the_default_folder_is_named_after_data_set_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make(tmp_path, "max=60", "curve=exponential", "min=5", "seed=3", "dataset.name=pets")
    assert folder == tmp_path / "appendix" / "pets" / "exponential_max60_min5_seed3"
    assert make(tmp_path, "max=60", "name=mine").parent == tmp_path / "appendix" / "csv"


def test_source_trainval_takes_both_splits_in_the_order_of_files(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    rows = [f"{i:03d}.jpg,c{i % 2};?c{(i + 1) % 2},{'val' if i % 3 else 'train'}" for i in range(60)]
    file.write_text("image,labels,split\n" + "\n".join(rows) + "\n")
    words = ["dataset=csv", f"dataset.file={file}", "max=20", "shortage=clip"]
    both = create_longtail(*read(command.COMMAND, [*words, "source=trainval", f"out={tmp_path / 'both'}"]))
    alone = create_longtail(*read(command.COMMAND, [*words, f"out={tmp_path / 'alone'}"]))
    assert read_split(both).manifest["source"]["images"] == 60
    assert read_split(alone).manifest["source"]["images"] == 20
    ids = (both / "image_ids.txt").read_text().split()
    assert ids == sorted(ids) and any(int(i) % 3 for i in ids)
    assert (read_split(both).train.dense() == -1).sum() == len(ids)


def test_rows_called_test_stay_the_test_set(tmp_path: Path) -> None:
    """In the statistics, in a long-tailed subset, and in training on that subset."""
    file = tmp_path / "labels.csv"
    rows = [f"{i:03d}.jpg,c{i % 2},{('train', 'train', 'train', 'val', 'test')[i % 5]}" for i in range(100)]
    file.write_text("image,labels,split\n" + "\n".join(rows) + "\n")
    before = csv_file(file=str(file)).test
    numbers = dataset_stats(*read(STATS, ["dataset=csv", f"dataset.file={file}"]))
    assert {part: split["images"] for part, split in numbers.items()} == {"train": 60, "val": 20, "test": 20}
    words = ["dataset=csv", f"dataset.file={file}", "max=20", "shortage=clip", f"out={tmp_path / 'lt'}"]
    made = create_longtail(*read(command.COMMAND, words))
    after = csv_file(file=str(made / "labels.csv"), classes=str(made / "classes.txt"), root=str(tmp_path))
    assert before is not None and after.test is not None and len(before) == 20
    assert after.test.fingerprint() == before.fingerprint()
    split = read_split(made)
    assert split.train.fingerprint() == after.train.fingerprint()
    assert split.val is not None and split.val.fingerprint() == after.val.fingerprint()
    assert not set(before.files) & {*after.train.files, *after.val.files}


def test_source_trainval_never_takes_a_test_set_that_stands_in_for_validation(tmp_path: Path) -> None:
    words = ["dataset=digits", f"dataset.root={tmp_path / 'digits'}", "source=trainval", "max=9", "shortage=clip"]
    with pytest.raises(ConfigError, match="digits/test stands in for it"):
        create_longtail(*read(command.COMMAND, [*words, f"out={tmp_path / 'leak'}"]))
    made = create_longtail(*read(command.COMMAND, [*words, "dataset.val_fraction=0.2", f"out={tmp_path / 'lt'}"]))
    split = read_split(made)
    assert split.val is not None and not (tmp_path / "leak").exists()
    assert all(labels.image_paths[0].split("/")[-3] == "train" for labels in (split.train, split.val))


def test_an_impossible_request_names_class_and_numbers_and_writes_nothing(tmp_path: Path) -> None:
    done = run(
        "create_longtail_dataset.py",
        "dataset=csv",
        f"dataset.file={labels_csv(tmp_path)}",
        "max=400",
        "out=lt",
        cwd=tmp_path,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "  c0: 150 images less 15 for validation, 400 wanted" in done.stderr
    assert "enough images for max=" in done.stderr and "shortage=clip" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"]


def test_a_signal_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_draw", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    words = ["dataset=csv", f"dataset.file={labels_csv(tmp_path)}", "max=60", f"out={tmp_path / 'lt'}"]
    monkeypatch.setattr(sys, "argv", ["create_longtail_dataset.py", *words])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stopped:
            cli.main("create_longtail_dataset")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.value.code == 143
    assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"]


def test_the_command_to_train_has_the_groups_of_the_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    make(tmp_path, "max=60", f"out={tmp_path / 'usual'}")
    assert "train on it" in caplog.text and "metrics." not in caplog.text
    make(tmp_path, "max=60", "head_min=40", "medium_min=10", f"out={tmp_path / 'own'}")
    assert "metrics.head_min=40 metrics.medium_min=10" in caplog.text


@pytest.mark.parametrize("curve", ["pareto", "exponential"])
def test_the_max_that_the_message_offers_works_and_one_more_does_not(tmp_path: Path, curve: str) -> None:
    words = (f"curve={curve}", "min=2")
    with pytest.raises(DataError, match="enough images for max=") as error:
        make(tmp_path, *words, "max=400", "out=never")
    best = int(str(error.value).split("max=")[1].split(",")[0])
    make(tmp_path, *words, f"max={best}", f"out={tmp_path / 'lt'}")
    with pytest.raises(DataError, match="fewer images than wanted"):
        make(tmp_path, *words, f"max={best + 1}", "out=never")


def test_the_min_that_the_message_offers_works_with_its_max(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"enough images for min=\d+ max=\d+, or") as error:
        make(tmp_path, "curve=exponential", "min=60", "out=never")
    offered = re.findall(r"(?:min|max)=\d+", str(error.value).partition("enough images for ")[2])
    make(tmp_path, "curve=exponential", *offered, f"out={tmp_path / 'lt'}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mx=3"], "mx: there is no mx; did you mean max?"),
        (["method=publishd"], "method=publishd: must be balanced | published; did you mean method=published?"),
        (["max=-1"], "max=-1: must be int | null of at least 1"),
        (["min=9", "max=3"], "min=9 is above max=3"),
        (["dataset=cvs"], "did you mean dataset=csv?"),
        (["dataset=csv", "dataset.fil=x"], "did you mean dataset.file?"),
        (["runner.epochs=3"], "there is no runner.epochs"),
        (["max=3,4"], "max=3,4: one value at a time"),
        (["dataset.need_val=true"], "cannot be set"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_before_data_are_read(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(command.COMMAND, ["dataset=csv", *words] if words[0].startswith("dataset.need") else words)
    assert message in str(error.value)


def test_a_name_is_no_path(tmp_path: Path) -> None:
    words = ["dataset=csv", f"dataset.file={labels_csv(tmp_path)}", "name=../../elsewhere"]
    done = run("create_longtail_dataset.py", *words, cwd=tmp_path)
    assert done.returncode == 2 and "name=../../elsewhere" in done.stderr and "out=FOLDER" in done.stderr


def test_dashes_are_answered_with_the_option(tmp_path: Path) -> None:
    done = run("create_longtail_dataset.py", "--max", "800", cwd=tmp_path)
    assert done.returncode == 2 and "did you mean max=800?" in done.stderr


@pytest.mark.parametrize(
    ("tool", "options"), [("create_longtail_dataset.py", command.COMMAND.options), ("dataset_stats.py", STATS.options)]
)
def test_help_names_every_option_and_data_set(tmp_path: Path, tool: str, options: type) -> None:
    done = run(tool, "--help", cwd=tmp_path)
    assert done.returncode == 0 and max(map(len, done.stdout.splitlines())) <= 120
    for name, option in section_options(options).items():
        shown = str(option.default).lower().replace("none", "null")
        assert f"{name}=" in done.stdout, name
        if name not in ("b", "method", "source", "counts", "json", "out"):
            assert f"{name}={shown}" in done.stdout, name
    assert "coco2017" in done.stdout and "shapes" in done.stdout


def test_the_tools_do_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import runpy, sys; sys.modules['torch'] = None; del sys.argv[0]\n"
        f"sys.path.insert(0, {str(ROOT)!r}); runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    words = ["dataset=csv", f"dataset.file={labels_csv(tmp_path)}"]
    command = [sys.executable, "-c", code, str(ROOT / "tools" / "dataset_stats.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "imbalance" in done.stdout


def test_dataset_stats_counts_what_the_file_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "labels.csv"
    rows = ["a,x;y,train", "b,x;y,train", "c,x;?y,train", "d,,train", "e,y;z,val"]
    file.write_text("image,labels,split\n" + "\n".join(rows) + "\n")
    words = [
        "dataset=csv",
        f"dataset.file={file}",
        "head_min=3",
        "medium_min=2",
        f"out={tmp_path / 'st'}",
        f"json={tmp_path / 'x.json'}",
    ]
    numbers = dataset_stats(*read(STATS, words))
    train, val = numbers["train"], numbers["val"]
    assert (train["images"], train["labels"], train["images_without_positive"], train["unknown_targets"]) == (
        4,
        5,
        1,
        1,
    )
    assert train["labels_per_image"] == {"mean": 1.25, "median": 1.5, "max": 2, "histogram": [1, 1, 2]}
    assert train["images_per_class"] == {"largest": 3, "median": 2.0, "smallest": 0}
    assert train["imbalance_ratio"] == 1.5 and train["classes_without_positive"] == ["z"]
    assert {name: group["classes"] for name, group in train["groups"].items()} == {"head": 1, "medium": 1, "tail": 1}
    assert val["groups"]["tail"] == {"classes": 1, "labels": 1}, "groups are those of the training split"
    assert train["top_pairs"][0]["classes"] == ["x", "y"] and train["top_pairs"][0]["images"] == 2
    assert train["top_pairs"][0]["lift"] == pytest.approx(2 * 4 / (3 * 2))
    assert (
        json.loads((tmp_path / "x.json").read_text())
        == numbers
        == json.loads((tmp_path / "st" / "stats.json").read_text())
    )
    table = capsys.readouterr().out
    assert (tmp_path / "st" / "stats.txt").read_text() == table
    assert "labels per image, mean 1.25 2" in " ".join(table.split())
    assert (tmp_path / "st" / "classes.csv").read_text().splitlines()[1] == "x,head,3,1,0,0,1,0"
    assert len(list((tmp_path / "st").glob("*.png"))) == 6


def test_dataset_stats_of_one_split_without_val(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = dataset_stats(*read(STATS, ["dataset=csv", f"dataset.file={labels_csv(tmp_path)}", "top=2"]))
    assert list(numbers) == ["train"] and "... 2 more" in capsys.readouterr().out

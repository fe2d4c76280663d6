"""Every command does its work once, from its command line."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from mltrain.cli import COMMANDS
from mltrain.runs.folder import load_finished
from tests.commands.conftest import Call
from tests.datasets.mlt_files import ids, targets, write_official
from tests.promises.runs import TINY, environment

SMALL = ["dataset.num_train=80", "dataset.num_val=24", "dataset.image_size=32"]
Work = Callable[[Call, Path, Path], None]
WORKS: dict[str, Work] = {}


def work(function: Work) -> Work:
    WORKS[function.__name__.rstrip("_")] = function
    return function


def done(call: Call, *words: object) -> str:
    """Run a command that must succeed, and return its standard output."""
    code, out, err = call(*words)
    assert code == 0, err
    return out


def photo(folder: Path) -> Path:
    file = folder / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(file)
    return file


@work
def train(call: Call, run: Path, folder: Path) -> None:
    done(call, "train", *TINY, "runner.epochs=1", "runner.max_steps=1", "name=once")
    (result,) = folder.glob("runs/shapes/once/*/result.json")
    assert "map" in json.loads(result.read_text())["val"]


@work
def evaluate(call: Call, run: Path, folder: Path) -> None:
    done(call, "evaluate", run, "tune=thresholds", "tune_folds=2")
    evaluation, result = (json.loads((run / f"{name}.json").read_text()) for name in ("evaluation", "result"))
    assert evaluation["val"]["map"] == pytest.approx(result["val"]["map"])
    assert json.loads((run / "tuning.json").read_text())["folds"] == 2


@work
def tune_thresholds(call: Call, run: Path, folder: Path) -> None:
    done(call, "tune_thresholds", run, "per=all", "weights=val")
    found = json.loads((run / "thresholds.json").read_text())
    (run / "thresholds.json").unlink()  # other commands use it
    assert (found["weights"], found["folds"]) == ("val", 5)
    assert len(set(found["thresholds"])) == 1


@work
def find_label_errors(call: Call, run: Path, folder: Path) -> None:
    pytest.importorskip("cleanlab", reason="pip install 'mltrain-vision[clean]'")
    table, page = done(call, "find_label_errors", run, f"out={folder}/errors.csv", "count=4").splitlines()
    with Path(table).open(newline="", encoding="utf-8") as file:
        assert {row["kind"] for row in csv.DictReader(file)} == {"missing", "wrong"}
    assert Path(page).read_text(encoding="utf-8").count("data:image/jpeg") >= 1


@work
def class_prior(call: Call, run: Path, folder: Path) -> None:
    done(call, "class_prior", run)
    with (run / "class_prior.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(load_finished(run).class_names)
    assert all(0 < float(row["prior"]) < 1 for row in rows)


@work
def predict(call: Call, run: Path, folder: Path) -> None:
    file = photo(folder)
    rows = done(call, "predict", run, file, "topk=2", "format=csv", "annotated=seen").splitlines()
    assert len(rows) == 3
    assert (folder / "seen" / "photo.png").is_file()


@work
def explain(call: Call, run: Path, folder: Path) -> None:
    done(call, "explain", run, photo(folder), "topk=1", "out=maps")
    assert (folder / "maps" / "photo.png").is_file()
    assert len(list((folder / "maps" / "photo").iterdir())) == 1


@work
def demo(call: Call, run: Path, folder: Path) -> None:
    from mltrain.runs import demo_server

    served: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_server, "import_gradio", lambda: None)
        patch.setattr(demo_server, "serve", lambda gradio, opened, host, **settings: served.update(settings))
        done(call, "demo", run, "port=0", "nearest=2")
    beside, below = served["answer"](str(photo(folder)))
    assert "20 classes" in beside and below.count("<span>cosine ") == 2


@work
def export(call: Call, run: Path, folder: Path) -> None:
    done(call, "export", run, "out=model.pt2", f"images={photo(folder)}")
    assert torch.export.load(folder / "model.pt2") is not None


@work
def average(call: Call, run: Path, folder: Path) -> None:
    shutil.copytree(run, folder / "other")
    done(call, "average", run, folder / "other", "out=mean", "batch_norm=false")
    result, found = (
        json.loads((run / "result.json").read_text()),
        json.loads((folder / "mean/evaluation.json").read_text()),
    )
    assert found["val"] == pytest.approx(result[result["best"]["weights"]], nan_ok=True)


@work
def push(call: Call, run: Path, folder: Path) -> None:
    done(call, "push", run, "out=hub", "license=mit")
    assert {"README.md", "model.safetensors", "config.yaml", "classes.txt"} <= {
        p.name for p in (folder / "hub").iterdir()
    }


@work
def convert_checkpoint(call: Call, run: Path, folder: Path) -> None:
    torch.save(timm.create_model("test_resnet", num_classes=3).state_dict(), folder / "theirs.pth")
    (folder / "names.txt").write_text("a\nb\nc\n")
    done(call, "convert_checkpoint", "theirs.pth", "model.name=test_resnet", "classes=names.txt", "out=mine")
    assert load_finished(folder / "mine").class_names == ("a", "b", "c")


@work
def report(call: Call, run: Path, folder: Path) -> None:
    shown = done(call, "report", run, "out=page.html")
    assert shown == "page.html\n"
    assert "<html" in (folder / "page.html").read_text(encoding="utf-8")


@work
def results(call: Call, run: Path, folder: Path) -> None:
    assert "mAP" in done(call, "results", run.parents[2], "seed=0")


@work
def dataset_stats(call: Call, run: Path, folder: Path) -> None:
    assert "80" in done(call, "dataset_stats", *SMALL, "json=numbers.json")
    assert json.loads((folder / "numbers.json").read_text())["train"]["images"] == 80


@work
def find_duplicates(call: Call, run: Path, folder: Path) -> None:
    shown = done(call, "find_duplicates", *SMALL, "distance=0", "out=pairs.csv")
    assert shown.startswith("104 images, at most 0 of 128 bits apart: 0 pairs")
    assert (folder / "pairs.csv").read_text() == "distance,split,image,other_split,other\n"


@work
def convert_labels(call: Call, run: Path, folder: Path) -> None:
    done(call, "convert_labels", *SMALL, "out=converted/labels.csv")
    lines = (folder / "converted" / "labels.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "image,labels,split" and len(lines) == 1 + 80 + 24
    assert len((folder / "converted" / "labels.classes.txt").read_text(encoding="utf-8").splitlines()) == 20


@work
def browse_dataset(call: Call, run: Path, folder: Path) -> None:
    done(call, "browse_dataset", *TINY, "images=4", "versions=1", "out=pages/browse.html")
    page = (folder / "pages" / "browse.html").read_text(encoding="utf-8")
    assert "mltrain browse_dataset dataset.num_train=80" in page, "the command to repeat"


@work
def prepare_data(call: Call, run: Path, folder: Path) -> None:
    photo(folder)
    (folder / "labels.csv").write_text("image,labels,split\nphoto.png,a;b,train\n")
    done(call, "prepare_data", "dataset=csv", "dataset.file=labels.csv")
    done(call, "prepare_data", *SMALL, "download=false")


@work
def create_longtail_dataset(call: Call, run: Path, folder: Path) -> None:
    done(call, "create_longtail_dataset", "dataset.num_train=400", "max=40", "shortage=clip", "out=tail")
    assert (folder / "tail" / "labels.csv").is_file()


@work
def import_longtail_split(call: Call, run: Path, folder: Path) -> None:
    source = write_official(folder / "official", targets(), ids())
    shown = done(call, "import_longtail_split", source, "out=split")
    assert "train on it: dataset=voc_mlt dataset.split=split" in shown
    assert (folder / "split" / "labels.csv").is_file()


@work
def build_label_embeddings(call: Call, run: Path, folder: Path) -> None:
    (folder / "vectors.txt").write_text("cat 1 0\ndog 0 1\n")
    (folder / "names.txt").write_text("cat\ndog\n")
    done(call, "build_label_embeddings", "classes=names.txt", "vectors=vectors.txt", "out=new/embeddings.npz")
    assert (folder / "new" / "embeddings.npz").is_file()


@work
def find_lr(call: Call, run: Path, folder: Path) -> None:
    words = [*TINY, "optimizer.lr=0.01", "runner.batch_size=40", "steps=60", "start=1e-5", "end=1"]
    assert done(call, "find_lr", *words).startswith("optimizer.lr=")
    assert (folder / "find_lr.png").is_file()


@work
def inspect_batch(call: Call, run: Path, folder: Path) -> None:
    assert "images, normalised" in done(call, "inspect_batch", *TINY, "images=4")
    assert (folder / "batch.png").is_file()


@work
def list_(call: Call, run: Path, folder: Path) -> None:
    assert "Ridnik" in done(call, "list", "losses")


@work
def completion(call: Call, run: Path, folder: Path) -> None:
    assert done(call, "completion", "line=mltrain train loss=asl_").splitlines() == ["loss=asl_softmax"]


def test_every_command_is_here() -> None:
    assert set(WORKS) == set(COMMANDS)


@pytest.mark.parametrize("name", WORKS)
def test_a_command_does_its_work(
    name: str, call: Call, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    WORKS[name](call, run, tmp_path)


@pytest.mark.parametrize("program", [["-m", "mltrain", "dataset_stats"], ["tools/dataset_stats.py"]])
def test_the_package_and_the_scripts_are_the_same_program(program: list[str], tmp_path: Path) -> None:
    if program[0].startswith("tools/"):
        program = [str(Path(__file__).resolve().parents[2] / program[0])]
    run = subprocess.run(
        [sys.executable, *program, *SMALL], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "images" in run.stdout

"""A stranger who follows a page of docs/own_parts, from a folder of their own, gets what it says.

The files of a page are written as they stand there, and its commands are run as they are typed, in one process, with
settings that make them short.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from mltrain.cli import execute
from mltrain.config.compose import load
from mltrain.config.identity import run_id
from mltrain.engine.run_folder import read_result
from mltrain.errors import ConfigError, MltrainError
from mltrain.runs.obtain import followed_argument
from tests.promises.documented import commands
from tests.promises.runs import ROOT, TINY

FOLDER = ROOT / "docs/own_parts"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name not in ("README.md", "python.md"))
SHORT = [*TINY, "dataset.num_train=32", "dataset.num_val=12", "runner.epochs=1", "ema=none"]


@pytest.fixture
def outside(tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages name, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("mltrain.report.plots.per_class_ap_plot", lambda *given, **options: None)
    for k in range(12):
        Image.new("RGB", (40, 30), (20 * k, 100, 0)).save(tmp_path / f"{k}.jpg")
    part = {f"{k}.jpg": ["sea"] if k % 2 else ["sky", "sea"] for k in range(12)}
    split = {"train": dict(list(part.items())[:8]), "val": dict(list(part.items())[8:])}
    (tmp_path / "notes.json").write_text(json.dumps({"classes": ["sea", "sky"], **split}))
    return tmp_path


def files_of(page: Path) -> dict[str, str]:
    """Name and content of each file that a page shows."""
    blocks = re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    return dict(blocks)


def short(words: list[str]) -> list[str]:
    """TINY without the settings of what the command chooses itself."""
    chosen = {word.partition("=")[0].partition(".")[0] for word in words}
    own = {name for name in ("model", "dataset") if name in chosen}
    return [word for word in SHORT if word.partition("=")[0].partition(".")[0] not in own]


def type_command(words: list[str], data: Path) -> None:
    name, *rest = words
    if name in ("train", "browse_dataset"):
        rest = [*rest, *short(rest), f"paths.data={data}"]
    execute(importlib.import_module(f"mltrain.commands.{name}").COMMAND, rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_can_be_followed(
    page: Path, outside: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, typed = files_of(page), commands([page])
    assert files and typed
    for name, text in files.items():
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_text(text)
    for command in typed:
        words = list(command.words[1:])
        runs = sorted((outside / "runs").rglob("result.json"), key=lambda path: path.stat().st_mtime)
        words = [str(runs[-1].parent) if word == "RUN" else word for word in words]
        type_command(words, data_folder)
    results = [read_result(path.parent) for path in (outside / "runs").rglob("result.json")]
    assert results and all(result and 0 <= result[result["best"]["weights"]]["map"] <= 100 for result in results)
    if page.stem == "metric":
        assert "exact_match" in capsys.readouterr().out
        assert results[0] is not None and results[0]["own_figures"] == ["exact_match"]
    if page.stem == "callback":
        (losses,) = (outside / "runs").rglob("losses.txt")
        assert len(losses.read_text().splitlines()) == 2


def test_the_programs_of_the_python_page_run(
    outside: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = files_of(FOLDER / "python.md")
    extra = ", ".join(repr(word) for word in [*SHORT, f"paths.data={data_folder}"])
    five = files["five_lines.py"].replace('"runner.epochs=2"', f'"runner.epochs=2", {extra}')
    assert len([line for line in files["five_lines.py"].splitlines() if line.strip()]) <= 5
    few = '"runner.device=cpu", "data.num_workers=0", "logger.tensorboard=false", "logger.report=false", '
    own = files["own_objects.py"].replace('*("model', f'*({few}"model')
    for name, text in (("five_lines.py", five), ("own_objects.py", own), ("own_objects.py", own)):
        (outside / name).write_text(text)
        runpy.run_path(str(outside / name))
    logging.getLogger("mltrain").handlers.clear()
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("runs/shapes/timm-gap-asl/")
    assert re.fullmatch(r"100.0 \d+\.\d+ 15", out[1]) and "Label(name='red'" in out[2]
    folders = [path.parent for path in outside.glob("runs/colours/Sequential-gap-BCEWithLogitsLoss/*/config.yaml")]
    assert len(folders) == 1, "the second call found the run of the first"
    with pytest.raises(ConfigError, match=r"was an object of a Python program.*docs/own_parts"):
        execute(importlib.import_module("mltrain.commands.evaluate").COMMAND, [str(folders[0])])


PARTS = """
from torch import nn

class Fails(nn.Module):
    def __init__(self): raise KeyError("lost")

class Head(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.layer = nn.Linear(in_features, num_classes)
    def forward(self, tokens): return self.layer(tokens)

class Squares(nn.Module):
    def forward(self, logits, targets): return (logits - targets) ** 2

def no_splits(*, name="none"): return [1, 2]
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["head=odd_parts.Fails"], r"head \(odd_parts.Fails\): KeyError: 'lost'\n.*odd_parts.py, line 5"),
        (["head=odd_parts.Head"], r"head \(odd_parts.Head\): it returns \(2, 4, 20\).*not logits \(2, 20\)"),
        (["loss=odd_parts.Squares"], r"loss \(Squares\) returned \(16, 20\) for logits.*one number"),
        (["dataset=odd_parts.no_splits"], "returned list, not mltrain.datasets.splits.Splits"),
        (["loss=odd_part.Squares"], r"no such option of loss; .*add paths.imports=\[odd_parts,odd_part\]"),
    ],
)
def test_a_part_that_does_not_fit_is_one_message(
    words: list[str], expected: str, outside: Path, data_folder: Path
) -> None:
    (outside / "odd_parts.py").write_text(PARTS)
    with pytest.raises(MltrainError, match=expected):
        type_command(["train", *words, "paths.imports=[odd_parts]"], data_folder)


def test_a_dotted_option_stands_for_a_file_with_that_target(outside: Path, data_folder: Path) -> None:
    (outside / "odd_parts.py").write_text(PARTS)
    (outside / "configs/loss").mkdir(parents=True)
    (outside / "configs/loss/mine.yaml").write_text("_target_: odd_parts.Squares\n")
    from mltrain.config.overrides import Source

    by_name = load(["loss=odd_parts.Squares", "paths.imports=[odd_parts]"])
    by_file = load(["loss=mine", "paths.imports=[odd_parts]"], source=Source(extra=(outside / "configs",)))
    assert by_name.loss == by_file.loss and run_id(by_name) == run_id(by_file)
    assert by_name.name == "small-gap-Squares"


READER = """
from mltrain.datasets import read_csv
from mltrain.datasets.splits import Splits
from torch import nn

def rows(*, where, name="rows"):
    def split(part): return read_csv(where, root="photos", split=part, name=f"{name}/{part}")
    return Splits(split("train"), split("val"), None)

class Head(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.layer = nn.Linear(in_features, num_classes)
    def forward(self, tokens): return self.layer(tokens.mean(1))

class Wrong:
    def __call__(self, logits, targets): return {"minus_wrong": -float(((logits > 0) != (targets == 1)).float().mean())}

class Nan:
    def __call__(self, logits, targets): return {"mine": float("nan")}
"""


def test_every_command_takes_the_imports_of_a_run(outside: Path, data_folder: Path) -> None:
    (outside / "my_own.py").write_text(READER)
    (outside / "photos").mkdir()
    lines = ["image,labels,split"]
    for k in range(24):
        Image.new("RGB", (40, 30), (10 * k, 100, 0)).save(outside / f"photos/{k}.jpg")
        lines.append(f"{k}.jpg,{'sea' if k % 2 else 'sky'},{'train' if k < 16 else 'val'}")
    (outside / "labels.csv").write_text("\n".join(lines) + "\n")
    own, imports = ["dataset=my_own.rows", "dataset.where=labels.csv", "head=my_own.Head"], "paths.imports=[my_own]"
    best = ["metrics.own=[{_target_: my_own.Wrong}]", "metrics.best=minus_wrong"]
    type_command(["train", *own, *best, imports], data_folder)
    (folder,) = (path.parent for path in (outside / "runs").rglob("result.json"))
    result = read_result(folder)
    assert result is not None and result["best"]["by"] == "minus_wrong"
    weights = result["best"]["weights"]
    assert result["best"]["minus_wrong"] == result[weights]["minus_wrong"]
    assert result[weights]["minus_wrong"] == max(
        result[name]["minus_wrong"] for name in ("val", "ema") if name in result
    )
    for words in (
        ["evaluate", "runs/latest"],
        ["predict", "runs/latest", "photos"],
        ["tune_thresholds", str(folder)],
        ["results"],
        ["results", "runs/latest"],
        ["report", "runs"],
        ["report", str(folder), "out=page.html"],
    ):
        type_command([*map(followed_argument, words), imports], data_folder)
    assert '"pictures":[{' in (outside / "page.html").read_text(encoding="utf-8"), "the data set was read"
    with pytest.raises(ConfigError, match=r"paths.imports=my_onw: there is no package my_onw"):
        type_command(["report", str(folder), "paths.imports=[my_onw]"], data_folder)
    more = ["metrics.own=[{_target_: my_own.Wrong},{_target_: my_own.Nan}]", imports, "ema=none"]
    with pytest.raises(ConfigError, match=r"metrics.best=minus_wrnog: .* did you mean minus_wrong"):
        type_command(["train", *own, *more, "metrics.best=minus_wrnog"], data_folder)
    with pytest.raises(MltrainError, match=r"metrics.best=mine: is NaN"):
        type_command(["train", *own, *more, "metrics.best=mine"], data_folder)
    with pytest.raises(ConfigError, match=r"no such figure; did you mean map.*or one that metrics.own gives"):
        load(["metrics.best=mapp"])

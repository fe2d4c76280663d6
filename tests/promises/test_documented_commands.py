"""Every command that README and docs show still means something.

A command on data that a test can have is run (training for two steps), in a folder that has what the pages name (RUN,
FOLDER, my.csv ...), on a tiny network. One on a public data set is checked as far as it goes without the data: training
composes and checks each job's whole config; other tools have to end with the message that says which files are missing.
"""

from __future__ import annotations

import logging
import re
import runpy
import shutil
import sys
import urllib.request
from contextlib import nullcontext
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from mltrain.config.compose import load
from mltrain.config.overrides import Source, scan_overrides
from mltrain.config.sweep_settings import compose_settings
from mltrain.errors import MltrainError
from mltrain.runs import demo_server
from tests.promises.documented import Command, commands
from tests.promises.runs import ROOT, TINY, fit
from tests.storage.made import make_tar, make_zip

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = commands(PAGES)
TOOLS = [c for c in COMMANDS if c.tool]
# Neither what only prints, nor what needs files of the reader, which tests/promises/test_own_parts.py has.
ASIDE = re.compile(r"--help|--config-dir|--dry-run|paths\.imports=.*")
TRAINING = [c for c in TOOLS if c.tool == "tools/train.py" and not any(map(ASIDE.fullmatch, c.arguments))]
OTHER_TOOLS = [c for c in TOOLS if c not in TRAINING]
REST = [c for c in COMMANDS if not c.tool]
# What no test has: public data, published weights, word vectors, the hub; and what is said where it is missing.
ELSEWHERE = re.compile(
    r"dataset=(coco|voc|nuswide|openimages|lvis|vg500|mnist|cifar|terse_gt)|experiment=|zoo:|repo=|\.pth|\.vec|glove|longtail20|IMAGES|runs/converted|import_longtail|my_configs|my_loss|0a1b2c3d"
)
LACKING = "missing|not found|[nN]o such|none of|could not be downloaded|are free|there is no package"
ANSWERS = {  # that are no failure of the command
    "tools/create_longtail_dataset.py": "holds a split already",  # of the same command on another page
    "tools/convert_labels.py": "overwrite=true replaces it",  # likewise
    "tools/tune_thresholds.py": "no threshold gives",
    "tools/find_lr.py": "no suggestion",
    "tools/average.py": "keeps more of them with",
}
SHORTER = {"tools/find_lr.py": ["steps=20"]}
each = {"ids": str}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages name."""
    root = tmp_path_factory.mktemp("world")
    images = root / "photos"
    images.mkdir()
    rows = ["image,labels,split"]
    for k in range(48):
        Image.new("RGB", (40, 30), (5 * k, 100, 255 - 5 * k)).save(images / f"{k}.jpg")
        labels = ("sea;sun;dog", "tree;hill", "sun;sky", "sea;tree;boat")[k % 4]
        rows.append(f"photos/{k}.jpg,{labels},{('train', 'train', 'val', 'test')[k // 12]}")
    (root / "more").mkdir()
    Image.new("RGB", (40, 30)).save(root / "more/1.png")
    (root / "split.csv").write_text("\n".join(rows) + "\n")
    (root / "my.csv").write_text("\n".join(row.rsplit(",", 1)[0] for row in rows) + "\n")
    (root / "corrections.csv").write_text("image,class,given,suggested\nphotos/0.jpg,sky,0,1\n")
    # labels alone, enough of them to make a long tail of
    many = [f"{k}.jpg,{'common' if k % 10 else 'rare'};{'sea' if k % 3 else 'sky'}" for k in range(1500)]
    shutil.copy(root / "my.csv", root / "mine.csv")
    shutil.copy(images / "0.jpg", root / "photo.jpg")
    for k in range(1500):
        (root / f"{k}.jpg").hardlink_to(root / "photo.jpg")
    (root / "labels.csv").write_text("\n".join(["image,labels", *many]) + "\n")
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (root / "FOLDER" / part / name).mkdir(parents=True)
            for k in range(4):
                shutil.copy(
                    images / f"{16 * (part == 'val') + 8 * (name == 'dog') + k}.jpg",
                    root / "FOLDER" / part / name / f"{k}.jpg",
                )
    make_zip(root / "photos.zip", root, [f"photos/{k}.jpg" for k in range(48)])
    files = [str(path.relative_to(root / "FOLDER")) for path in sorted((root / "FOLDER").rglob("*.jpg"))]
    make_tar(root / "FOLDER.tar", root / "FOLDER", files)
    data = ["dataset=csv", f"dataset.file={root}/split.csv", "dataset.test_split=test", "dataset.name=split"]
    options = [option for option in TINY if not option.startswith("dataset.")]
    long = ["runner.epochs=20", "runner.max_steps=2"]
    for loss in ("bce", "asl"):
        run = fit([*options, *data, *long, f"loss={loss}", f"paths.runs={root}/runs", f"paths.data={root}/data"])
        (root / ("RUN1" if loss == "bce" else "RUN2")).symlink_to(run)
    (root / "RUN").symlink_to(run)
    for name in ("coco", "shapes", "mine"):
        (root / "runs" / name).symlink_to(root / "runs/split")
    (root / "runs/multirun").mkdir()
    (root / "runs/multirun/2026-01-31_12-00-00").symlink_to(root / "runs/split")
    (root / "runs/converted").mkdir()
    (root / "runs/converted/MS_COCO_TRresNet_L_448_86.6").symlink_to(run)
    return root


def test_pages_have_commands() -> None:
    assert {"README.md", "own_data.md", "longtail.md"} <= {c.page for c in COMMANDS}
    assert len(TRAINING) > 20 and len(OTHER_TOOLS) > 20


def test_the_first_sweep_is_the_same_on_both_pages() -> None:
    first = {
        page: next(c for c in COMMANDS if c.page == page and "-m" in c.words) for page in ("README.md", "scale.md")
    }
    assert first["README.md"].words == first["scale.md"].words


@pytest.mark.parametrize("command", TRAINING, **each)
def test_documented_training_composes(command: Command) -> None:
    words = ["dataset=coco" if word == "dataset=..." else word for word in command.arguments]
    multirun = {"-m", "--multirun"} & set(words)
    words = [word for word in words if word not in ("-m", "--multirun")]
    GlobalHydra.instance().clear()
    if not multirun:
        load(words)
        return
    scan = scan_overrides(words, Source(), sweep=True)
    assert not scan.problems
    parsed = OverridesParser.create().parse_overrides(scan.overrides)
    settings = [override.input_line for override in parsed if override.is_hydra_override()]
    compose_settings(settings, Source())
    if any("sweeper" in line for line in settings):
        return  # a search chooses the jobs as it goes
    own = [override for override in parsed if not override.is_hydra_override()]
    jobs = [list(job) for batch in BasicSweeper.split_arguments(own, None) for job in batch]
    assert len(jobs) > 1, "a sweep of one job"
    seen: set[str] = set()
    for job in jobs:
        if not seen.issuperset(job):  # each value once, not each combination
            seen.update(job)
            load(job)


def local(command: Command) -> bool:
    """Return whether a test has the data of a training command."""
    words = command.arguments
    named = [word.removeprefix("dataset=") for word in words if word.startswith("dataset=")]
    return (
        "-m" not in words
        and not ELSEWHERE.search(" ".join(words))
        and not any("experiment" in word for word in words)
        and named in ([], ["csv"], ["folder"], ["auto"])
        and not any("siglip" in word or "dinov2" in word for word in words)  # too large to build here
    )


@pytest.mark.parametrize("command", [c for c in TRAINING if local(c)], **each)
def test_documented_training_on_local_data_trains(
    command: Command, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    words = [word.replace("labels.csv", "my.csv") for word in command.arguments]  # labels.csv has no images
    words = [re.sub("vit_(small|base)_patch16_224", "vit_tiny_patch16_224", word) for word in words]
    fraction = [] if any("val_fraction" in word or "FOLDER" in word for word in words) else ["dataset.val_fraction=0.5"]
    drawn = ["dataset.num_train=40", "dataset.num_val=20", "dataset.image_size=32"]
    shapes = not any(word.startswith("dataset=") for word in words)
    short = ["model.image_size=32", "model.pretrained=false", "runner.batch_size=4", "runner.max_steps=2"]
    kept = [option for option in TINY if option.startswith(("runner.device", "runner.amp", "data.", "logger."))]
    try:
        folder = fit([*words, *(drawn if shapes else fraction), *short, *kept, f"paths.runs={tmp_path}"])
    except MltrainError as error:
        elsewhere = any(".safetensors" in word or word in ("logger.wandb=true", "logger.mlflow=true") for word in words)
        assert elsewhere and re.search(f"{LACKING}|needs the package", str(error)), error
    else:
        assert (folder / "result.json").is_file()


@pytest.mark.parametrize("command", OTHER_TOOLS, **each)
def test_documented_tools_run(
    command: Command, world: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command.tool is not None
    monkeypatch.chdir(world)
    for scheme in ("http", "https"):  # nothing is downloaded
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)  # made once, with the proxies of that time
    logging.getLogger("mltrain").handlers.clear()  # of another test's standard error
    if command.tool == "tools/demo.py":  # all but the server, which would wait for Ctrl-C
        monkeypatch.setattr(demo_server, "import_gradio", lambda: None)
        monkeypatch.setattr(demo_server, "listening", lambda host, port: nullcontext())
        monkeypatch.setattr(demo_server, "serve", lambda *arguments, **settings: None)
    monkeypatch.setattr(sys, "argv", [command.tool, *command.arguments, *SHORTER.get(command.tool, [])])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / command.tool), run_name="__main__")
    said = capfd.readouterr().err
    logging.getLogger("mltrain").handlers.clear()
    allowed = [LACKING] if ELSEWHERE.search(" ".join(command.words)) else []
    allowed += [ANSWERS[command.tool]] if command.tool in ANSWERS else []
    assert not stop.value.code or any(re.search(answer, said) for answer in allowed), said


@pytest.mark.parametrize("command", REST, **each)
def test_other_documented_commands_name_what_there_is(command: Command) -> None:
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for extra in re.findall(r"\[([\w,]+)\]", " ".join(command.words)) if command.program == "pip" else ():
        assert set(extra.split(",")) <= set(extras)
    for word in command.words:
        if word.startswith(("tests/", "benchmarks/", "configs/", "docs/")):
            assert (ROOT / word.split("::")[0]).exists(), word

"""Zero-shot runs of the whole program: some classes hidden from training, all evaluated."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mltrain.cli import read
from mltrain.commands.build_label_embeddings import COMMAND, build_label_embeddings
from mltrain.commands.evaluate import evaluate
from mltrain.config.build import load
from mltrain.config.compose import load_run
from mltrain.datasets.shapes_draw import CLASS_NAMES
from mltrain.errors import ConfigError, DataError
from mltrain.models.label_embeddings import label_embeddings
from mltrain.runs.train import train
from tests.promises.runs import ROOT, environment, fit, state

UNSEEN = ["disc", "square", "star"]
HEAD = ["head=zero_shot", "head.dim=32", "head.num_heads=2", "head.ffn_dim=32"]
HIDE = ["partial=unseen", f"partial.classes=[{','.join(UNSEEN)}]", "metrics.topk=[3,5]"]


def word_vectors(path: Path) -> Path:
    """Made-up vectors of all shapes and of some other words."""
    rng = np.random.default_rng(0)
    words = {*(part for name in CLASS_NAMES for part in name.split()), "the", "of"}
    path.write_text(
        "".join(f"{w} {' '.join(f'{x:.3f}' for x in rng.standard_normal(8))}\n" for w in sorted(words)),
        encoding="utf-8",
    )
    return path


def test_a_run_reports_seen_and_unseen_classes_and_evaluates_again_the_same(
    overrides: list[str], tmp_path: Path
) -> None:
    data = [item for item in overrides if item.startswith(("dataset.", "paths.data"))]
    vectors = word_vectors(tmp_path / "vectors.txt")
    file = build_label_embeddings(*read(COMMAND, [*data, f"vectors={vectors}"]))
    folder = fit([*overrides, *HEAD, *HIDE, "metrics.best=map_unseen"])
    result = json.loads((folder / "result.json").read_text())
    for weights in ("val", "ema"):
        figures = result[weights]
        assert {"map", "map_seen", "map_unseen", "OF1@3", "OF1@5", "OF1_unseen@3", "OP_unseen@3"} <= figures.keys()
        assert "OF1_unseen@5" not in figures, "there are 3 unseen classes"
        assert figures["OR_unseen@3"] == pytest.approx(100)
        assert 17 * figures["map_seen"] + 3 * figures["map_unseen"] == pytest.approx(20 * figures["map"])
    rows = list(csv.DictReader((folder / "per_class.csv").open()))
    assert [row["class"] for row in rows if row["group"] == "unseen"] == [n for n in CLASS_NAMES if n in UNSEEN]
    assert all(row["train_positives"] == "0" and row["val_ap"] for row in rows if row["group"] == "unseen")
    assert not [name for name in state(folder)["model"] if "label_embeddings" in name]
    assert result["best"]["map_unseen"] == max(result["val"]["map_unseen"], result["ema"]["map_unseen"])
    evaluate(load_run(folder, []), folder)
    again = json.loads((folder / "evaluation.json").read_text())
    assert again["val"] == pytest.approx(result["val"])
    np.savez(file, class_names=CLASS_NAMES[1:], vectors=np.ones((19, 8)))
    with pytest.raises(DataError, match=f"1 of 20 classes is not in it:\\s+{CLASS_NAMES[0]}"):
        train(load([*overrides, *HEAD, *HIDE, "seed=1"]))


def test_mistakes_are_known_before_data_and_say_what_to_do(overrides: list[str], tmp_path: Path) -> None:
    coco = [item for item in overrides if not item.startswith("dataset.")]
    missing = [*coco, "dataset=coco", f"paths.data={tmp_path}", *HEAD]
    with pytest.raises(ConfigError, match=r"coco.npz: no such file of label embeddings; mltrain build_label_"):
        train(load(missing))
    with pytest.raises(ConfigError, match=r"metrics.best=map_unseen: no class is unseen in shapes/val.*partial=unseen"):
        train(load([*overrides, "metrics.best=map_unseen"]))
    vectors = word_vectors(tmp_path / "vectors.txt")
    found = [*missing, f"head.embeddings={vectors}", "partial=unseen", "partial.classes=[cat]"]
    with pytest.raises(DataError, match="expected paths are missing"):  # made-up classes are in no file
        train(load(found))
    with pytest.raises(ConfigError, match="head_lr_multiplier"):
        train(load([*found, "optimizer.head_lr_multiplier=-1"]))


def test_the_command_writes_a_file_of_the_classes_of_the_data_set(overrides: list[str], tmp_path: Path) -> None:
    data = [item for item in overrides if item.startswith(("dataset.", "paths.data"))]
    words = [*data, f"vectors={word_vectors(tmp_path / 'vectors.txt')}", f"out={tmp_path / 'made' / 'e.npz'}"]
    tool = [sys.executable, str(ROOT / "tools" / "build_label_embeddings.py")]
    done = subprocess.run([*tool, *words], capture_output=True, text=True, check=True, env=environment())
    assert "20 classes, vectors of 8 numbers" in done.stderr
    assert label_embeddings(tmp_path / "made" / "e.npz", ["star", "disc"]).shape == (2, 8)


def test_the_tool_takes_names_from_a_file_and_other_words_for_them(tmp_path: Path) -> None:
    vectors = word_vectors(tmp_path / "vectors.txt")
    (tmp_path / "classes.txt").write_text("disc\nwheel of fortune\n")
    words = [f"vectors={vectors}", f"classes={tmp_path / 'classes.txt'}", f"out={tmp_path / 'e.npz'}"]
    with pytest.raises(DataError, match=r"wheel of fortune: no 'wheel', 'fortune'.*\n.*aliases=FILE"):
        build_label_embeddings(*read(COMMAND, words))
    (tmp_path / "aliases.txt").write_text("wheel of fortune = the disc\n")
    file = build_label_embeddings(*read(COMMAND, [*words, f"aliases={tmp_path / 'aliases.txt'}"]))
    built = label_embeddings(file, ["wheel of fortune", "disc"])
    the, disc = label_embeddings(vectors, ["the", "disc"])
    np.testing.assert_allclose(built, [(the + disc) / 2, disc], rtol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "vectors: name a file of word vectors"),
        (["vectors=v.txt", "classes=absent.txt"], "classes=absent.txt: no such file"),
        (["vector=v.txt"], "did you mean vectors"),
        (["vectors=v.txt", "classes=c.txt", "out=e.pt"], "must end in .npz"),
        (["vectors=v.txt", "classes=c.txt", "aliases=a.txt"], "a.txt, line 1: expected class=words, found 'disc'"),
    ],
)
def test_the_tool_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    word_vectors(tmp_path / "v.txt")
    (tmp_path / "c.txt").write_text("disc\n")
    (tmp_path / "a.txt").write_text("disc\n")
    with pytest.raises((ConfigError, DataError), match=message):
        build_label_embeddings(*read(COMMAND, words))

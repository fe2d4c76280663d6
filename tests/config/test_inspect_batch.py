"""Promises of `mltrain inspect_batch`: it shows what training gets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mltrain.cli import read
from mltrain.commands.inspect_batch import COMMAND, inspect_batch
from mltrain.config.build import load
from mltrain.errors import ConfigError
from mltrain.labels import LabelSet, LabelStats
from mltrain.models.classifier import Classifier
from mltrain.report.batch import epoch_counts, layout_of, named_targets, sampler_table, target_table, tensor_table
from mltrain.runs.train import train
from tests.promises.runs import ROOT, TINY, environment

MIXED = ["augment=standard", "mix=cutmix", "partial=drop", "sampler=class_aware"]


@pytest.fixture
def normalised(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Results of each call of the model's normalisation."""
    seen: list[torch.Tensor] = []
    normalize = Classifier.normalize

    def spy(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        result = normalize(self, images)
        seen.append(result.clone())
        return result

    monkeypatch.setattr(Classifier, "normalize", spy)
    return seen


@pytest.mark.parametrize(("epoch", "step", "accumulate"), [(1, 1, 1), (0, 1, 2)])
def test_the_batch_is_bit_for_bit_the_one_that_training_meets(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    normalised: list[torch.Tensor],
    epoch: int,
    step: int,
    accumulate: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*TINY, *MIXED, f"runner.accumulate={accumulate}", "runner.batch_size=8", "sampler.epoch_size=64"]
    inspect_batch(*read(COMMAND, [*words, f"epoch={epoch}", f"step={step}"]))
    (shown,) = normalised
    normalised.clear()
    per_epoch = 64 // (8 * accumulate)
    whole = [*words, "runner.evaluate_every=9", "ema=none"]
    train(load([*whole, f"runner.max_steps={epoch * per_epoch + step + 1}", "runner.epochs=2"]))
    taken = [images for images in normalised if len(images) == 8]
    assert torch.equal(shown, taken[(epoch * per_epoch + step) * accumulate])
    assert shown.shape == (8, 3, 32, 32)


def test_tables_and_picture_without_a_run_folder_or_weights(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "inspect_batch.py"), *TINY, *MIXED, "images=6", "top=3"]
    pretrained = ["model.name=resnet18", "model.pretrained=true", "out=a/batch.png"]
    done = subprocess.run(
        [*command, *pretrained], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 0, done.stderr
    for text in (
        "epoch 0, step 0 of",
        "images, as loaded     uint8  16 x 3 x 32 x 32  channels_last",
        "images, normalised",
        "targets, mixed",
        "unknown",
        "an epoch shows",
        "in an epoch  times",
        "... 14 more",
    ):
        assert text in done.stdout, text
    with Image.open(tmp_path / "a/batch.png") as picture:
        assert picture.width == 3 * 208 + 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "data"]


@pytest.mark.parametrize(
    ("words", "said"), [(["step=500"], "step=500: an epoch has 5 steps"), (["out=x.jpg"], "must end in .png")]
)
def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        inspect_batch(*read(COMMAND, [*TINY, *words]))
    assert said in str(error.value)


def test_targets_are_put_into_words() -> None:
    names = ["a", "b", "c", "d"]
    assert named_targets(np.array([1, 0, 1, 0]), names) == {"positive": ["a", "c"]}
    assert named_targets(np.array([0.3, 1, 0, -1]), names) == {"positive": ["b", "a 0.30"], "unknown": ["d"]}
    partial = named_targets(np.array([-1, -1, -1, 0]), names)
    assert partial == {"positive": [], "negative": ["d"], "unknown": ["a", "b", "c"]}
    many = [f"c{k}" for k in range(30)]
    assert named_targets(np.ones(30), many, most=3) == {"positive": ["c0", "c1", "c2", "and 27 more"]}
    assert named_targets(-np.ones(30), many)["unknown"] == ["30 classes"]


def test_a_row_for_each_image_names_what_only_some_have() -> None:
    table = target_table(np.array([[1.0, 0.0], [0.0, -1.0]]), ["x.jpg", "y" * 60 + ".jpg"], ["a", "b"]).splitlines()
    assert table[0].split() == ["image", "positive", "unknown"]
    assert table[2].split() == ["x.jpg", "a", "-"]
    assert table[3].startswith("…y") and table[3].split()[1:] == ["-", "b"] and len(table[3].split()[0]) == 40


def test_numbers_of_a_tensor_are_its_own() -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8).to(memory_format=torch.channels_last)
    images[:, 1] = 10
    images[0, 2] = 4
    row = tensor_table({"images": images}).splitlines()[2]
    assert row.split("  ")[0] == "images" and "uint8" in row and "2 x 3 x 4 x 4" in row and "0 .. 10" in row
    assert "0.000 10.000 2.000" in row and row.endswith("0.000 0.000 2.000")
    assert layout_of(images) == "channels_last" and layout_of(images.contiguous()) == "contiguous"
    assert layout_of(torch.zeros(4, 6)[:, ::2]) == "strided"


def test_the_sampler_table_counts_what_an_epoch_shows() -> None:
    positives: list[Any] = [[0], [0, 1], [0], [2], []]
    labels = LabelSet.from_lists(
        name="t", root="", files=[f"{k}" for k in range(5)], class_names=["a", "b", "c"], positives=positives
    )
    stats = LabelStats.from_labels(labels, head_min=3, medium_min=2)
    shown = np.array([1, 1, 1, 3, 0])
    assert epoch_counts(labels, np.bincount(shown, minlength=5)).tolist() == [4, 3, 1]
    lines = sampler_table(labels, stats, shown).splitlines()
    assert lines[0] == "an epoch shows 5 images: 3 of 5 different ones, one of them 3 times"
    rows = [line.split() for line in lines[4:] if line.strip()]
    assert rows[0] == ["all", "classes", "5", "8", "1.60"]
    assert ["1", "head", "classes", "3", "4", "1.33"] in rows and ["2", "tail", "classes", "2", "4", "2.00"] in rows
    assert rows[-3:] == [
        ["a", "head", "3", "4", "1.33"],
        ["b", "tail", "1", "3", "3.00"],
        ["c", "tail", "1", "1", "1.00"],
    ]

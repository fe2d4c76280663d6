"""Runs on partial labels: of the training set only, through every loss made for them."""

from __future__ import annotations

import csv
import json
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from mltrain.commands.class_prior import class_prior
from mltrain.commands.evaluate import evaluate
from mltrain.config.compose import load, load_run
from mltrain.engine import distributed, evaluator
from mltrain.runs.assemble import build_parts, eval_loader
from tests.promises.runs import ROOT, execute, fit


def test_a_run_drops_labels_of_its_training_set_only(overrides: list[str]) -> None:
    with distributed.start("cpu") as dist:
        plain = build_parts(load(overrides), dist)
        fewer = build_parts(load([*overrides, "partial=drop", "partial.probability=0.3"]), dist)
    assert fewer.splits.val.fingerprint() == plain.splits.val.fingerprint()
    assert plain.stats.unknowns.sum() == 0
    total = plain.stats.num_images * len(plain.stats.class_names)
    assert fewer.stats.unknowns.sum() / total == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize(
    "options",
    [
        ["partial=drop", "loss=csl", "loss.topk=1"],
        ["partial=per_class", "partial.count=10", "loss=csl", "loss.mode=ignore_normalize", "loss.reduction=batchmean"],
        ["partial=single_positive", "partial.dropped=negative", "loss=hill", "sampler=class_aware"],
        ["partial=drop", "mix=mixup", "loss=ghm", "runner.accumulate=2"],
        ["partial=drop", "mix=cutmix", "loss=zlpr", "runner.amp=bf16"],
        ["partial=drop", "loss=two_way", "sampler=square_root"],
    ],
    ids=" ".join,
)
def test_partial_labels_train_with_every_loss_made_for_them(overrides: list[str], options: list[str]) -> None:
    result = json.loads((fit([*overrides, "runner.epochs=1", *options]) / "result.json").read_text())
    assert 0 < result["val"]["map"] <= 100


@pytest.mark.slow
def test_a_first_run_gives_the_priors_of_a_second(overrides: list[str]) -> None:
    options = [*overrides, "partial=drop", "runner.epochs=1"]
    first = fit([*options, "loss=csl", "loss.mode=ignore"])
    class_prior(load_run(first), first)
    file = first / "class_prior.csv"
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    # The same by hand: the best weights over the training set, in one batch.
    state = torch.load(first / "best.pt", weights_only=True)
    with distributed.start("cpu") as dist:
        splits, stats, model = build_parts(load([*options, "loss=csl"]), dist)
        model.load_state_dict(state["model"] if state["best"]["weights"] == "val" else state["ema"]["module"])
        with closing(eval_loader(load(options), dist, splits.train, model)) as loader:
            images = torch.cat([batch.images for batch in loader])
    model.eval()
    with torch.no_grad():
        expected = model(images).sigmoid().mean(0)
    assert [row["class"] for row in rows] == list(stats.class_names)
    torch.testing.assert_close(torch.tensor([float(row["prior"]) for row in rows]), expected, rtol=1e-4, atol=1e-6)
    shares = stats.positives / (stats.positives + stats.negatives)
    assert [float(row["known_positive_share"]) for row in rows] == pytest.approx(shares.tolist())

    split = execute(two_ranks(first))
    assert "class_prior.csv" in split.stdout + split.stderr
    with file.open(newline="") as stream:
        again = [float(row["prior"]) for row in csv.DictReader(stream)]
    assert again == pytest.approx([float(row["prior"]) for row in rows], rel=1e-5)

    second = fit([*options, "loss=csl", f"loss.prior={file}", "loss.prior_threshold=0.4"])
    assert (second / "result.json").is_file()
    assert second != first


def two_ranks(run: Path) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return [*launcher, str(ROOT / "tools" / "class_prior.py"), str(run)]


def partial_csv(folder: Path) -> list[str]:
    """40 images of 3 classes, one or two labels of each verified."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(40):
        PIL.Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{k}.png")
        listed = [f"{'!' if (k + c) % 2 else ''}{'abc'[c]}" for c in (k % 3, (k + 1) % 3)]
        rows.append(f"{k}.png,{';'.join(listed[: 1 + k % 4 // 3])},{'train' if k < 20 else 'val'}")
    (folder / "labels.csv").write_text("\n".join(["image,labels,split", *rows]) + "\n")
    return ["dataset=csv", f"dataset.file={folder}/labels.csv", "runner.batch_size=8", "runner.epochs=1"]


@pytest.mark.slow
def test_evaluation_of_few_known_labels_is_the_same_kept_in_full_and_on_two_ranks(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*(item for item in overrides if not item.startswith("dataset.")), *partial_csv(tmp_path)]
    options.append("metrics.min_negatives=1")
    kept: list[str] = []
    call = evaluator.predict
    monkeypatch.setattr(evaluator, "predict", lambda *a, **k: kept.append("all") or call(*a, **k))
    folder = fit([*options, "metrics.save_predictions=true"])
    full = json.loads((folder / "result.json").read_text())
    assert kept and (folder / "predictions.npz").is_file()
    kept.clear()
    again = fit([*options, "rerun=true"])
    sparse = json.loads((again / "result.json").read_text())
    assert not kept, "only known entries"
    assert again == folder
    for name in ("val", "ema", "last"):
        assert full[name] == sparse[name]
    before = sparse["val"]
    found = evaluate(load_run(again), again)
    assert found is not None and found["val"] == before
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    execute([*launcher, str(ROOT / "tools" / "evaluate.py"), str(again)])
    assert json.loads((again / "evaluation.json").read_text())["val"] == pytest.approx(before)

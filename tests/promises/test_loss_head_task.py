"""Every loss with every head under both tasks: it trains two steps, or is refused, with the fix, before it is built."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mltrain.config.build import load
from mltrain.config.rules import BEST, task_of_loss
from mltrain.datasets.shapes_draw import CLASS_NAMES
from mltrain.engine import distributed
from mltrain.errors import ConfigError
from mltrain.models.label_embeddings import write_label_embeddings
from mltrain.runs.assemble import assemble
from tests.promises.runs import ROOT, TINY

LOSSES = {path.stem: yaml.safe_load(path.read_text())["_target_"] for path in (ROOT / "configs/loss").glob("*.yaml")}
HEADS = sorted(path.stem for path in (ROOT / "configs/head").glob("*.yaml"))
SMALL = {
    "ml_decoder": ("head.dim=16", "head.num_heads=2", "head.ffn_dim=16"),
    "query2label": ("head.dim=16", "head.num_heads=2", "head.ffn_dim=16"),
    "zero_shot": ("head.dim=16", "head.num_heads=2", "head.ffn_dim=16"),
}
CLASSES = ("first", "second", "third")  # of the single-label set


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images in a folder of each of three classes, six to train on and three to evaluate; label embeddings."""
    root = tmp_path_factory.mktemp("single")
    for number, name in enumerate(CLASSES):
        for part, count in (("train", 6), ("val", 3)):
            (root / part / name).mkdir(parents=True)
            for k in range(count):
                Image.new("RGB", (32, 32), (90 * number, 20 * k, 100)).save(root / part / name / f"{k}.png")
    (root / "embeddings").mkdir()
    for name, classes in (("folder", CLASSES), ("shapes", CLASS_NAMES)):
        vectors = np.random.default_rng(0).normal(size=(len(classes), 8))
        write_label_embeddings(root / "embeddings" / f"{name}.npz", classes, vectors)
    return root


def overrides(task: str, data: Path) -> list[str]:
    """A tiny set of the task, and label embeddings of its classes."""
    own = [f"paths.runs={data}/runs", f"paths.data={data}"]
    if task == "multi_label":
        return [*TINY, *own, "dataset.num_train=40", "dataset.name=shapes"]
    kept = [item for item in TINY if not item.startswith("dataset.")]
    return [*kept, *own, "dataset=folder", f"dataset.root={data}", "dataset.name=folder"]


@pytest.mark.parametrize("task", BEST)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_a_loss_with_a_head_trains_or_is_refused_with_the_fix(data: Path, loss: str, head: str, task: str) -> None:
    options = [*overrides(task, data), f"loss={loss}", f"head={head}", *SMALL.get(head, ())]
    if task_of_loss(LOSSES[loss]) != task:
        with pytest.raises(ConfigError, match=rf"loss: .* is for task={task_of_loss(LOSSES[loss])}.*; choose "):
            load(options)
        return
    with distributed.start("cpu") as dist:
        runner = assemble(load(options), dist)
    before = {key: value.clone() for key, value in runner.model.head.named_parameters()}
    runner.model.train()
    runner.train_step.set_epoch(0)
    for step, batch in enumerate(islice(runner.train_loader.epoch(0), 2)):
        assert math.isfinite(runner.train_step(step, [batch]).loss)
    changed = [key for key, value in runner.model.head.named_parameters() if not value.equal(before[key])]
    assert changed, "two steps change the head"

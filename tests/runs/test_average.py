"""Averages of weights: their values, their batch-norm statistics, their figures, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from mltrain.commands.average import Options, average
from mltrain.commands.evaluate import evaluate
from mltrain.config.compose import load_run
from mltrain.engine.batch_norm import estimate_batch_norm, trained_batch_norms
from mltrain.engine.run_folder import RunFolder
from mltrain.errors import CheckpointError, ConfigError
from mltrain.models.backbone import create_backbone
from mltrain.models.classifier import Classifier
from mltrain.models.heads import GlobalAveragePool
from mltrain.models.weights import read_state_dict
from mltrain.pipeline.loader import Batch
from mltrain.runs.average import mean_weights
from mltrain.runs.folder import load_finished
from tests.promises.runs import coloured_run, state

KEPT = ("runner.epochs=4", "runner.keep_best=2", "runner.keep_last=2", "optimizer.lr=1e-2")


@pytest.fixture(scope="module", autouse=True)
def _without_plots() -> Iterator[None]:
    """A plot takes longer than a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mltrain.report.plots.per_class_ap_plot", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, _without_plots: None) -> Path:
    return coloured_run(tmp_path_factory.mktemp("kept"), *KEPT)


def weights_of(run: Path, epoch: int) -> dict[str, torch.Tensor]:
    """The weights of an epoch that validation chose."""
    content = state(run, f"epoch-{epoch:04d}")
    return content["model"] if content["best"]["weights"] == "val" else content["ema"]["module"]


def test_the_mean_is_that_of_each_tensor() -> None:
    states = [{"w": torch.tensor([float(k), 1.0]), "n": torch.tensor(k)} for k in (1, 2, 6)]
    found = mean_weights(states)
    assert found["w"].tolist() == [3.0, 1.0] and found["w"].dtype is torch.float32
    assert found["n"] == 1, "a counter is no mean"


def test_batch_norm_gets_the_mean_of_the_statistics_of_the_batches() -> None:
    torch.manual_seed(0)
    backbone = create_backbone(name="test_resnet", image_size=32, freeze_stages=1)
    model = Classifier(backbone, GlobalAveragePool(backbone.num_features, 3, dropout=0.5))
    layers = trained_batch_norms(model)
    frozen = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m not in layers]
    assert layers and frozen, "the layers of a frozen stage keep their statistics"
    before = [layer.running_var.clone() for layer in frozen if layer.running_var is not None]
    seen: list[torch.Tensor] = []
    layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randint(0, 256, (3, 4, 3, 32, 32), dtype=torch.uint8)
    batches = [Batch(part, torch.zeros(4, 3, dtype=torch.int8), torch.arange(4), []) for part in images]
    estimate_batch_norm(model, batches, device=torch.device("cpu"))
    mean = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    variance = torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(layers[0].running_mean, mean)
    torch.testing.assert_close(layers[0].running_var, variance)
    assert all(torch.equal(a, b.running_var) for a, b in zip(before, frozen, strict=True))
    assert layers[0].momentum is not None and not any(module.training for module in model.modules())


def test_the_average_of_the_best_epochs_is_a_run_like_any_other(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    scores = {r["epoch"]: max(r["val"]["map"], r["ema"]["map"]) for r in RunFolder(run).epochs}
    best = sorted(sorted(scores, key=lambda epoch: -scores[epoch])[:2])
    with caplog.at_level(logging.INFO, "mltrain"):
        out = average([str(run)], Options(best=2, batch_norm=False))
    assert out == run / "average-best2"
    expected = mean_weights([weights_of(run, epoch) for epoch in best])
    found = read_state_dict(out)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    table = next(text for text in caplog.messages if "average of 2" in text).splitlines()
    names = [line.split()[:3] for line in table[2:]]
    assert names == [[split, *word] for split in ("val", "test") for word in (
        ["epoch", str(best[0])], ["epoch", str(best[1])], ["average", "of"])]  # fmt: skip
    written = json.loads((out / "evaluation.json").read_text())
    again = evaluate(load_run(out), out)
    assert again is not None
    assert again["val"] == pytest.approx(written["val"], nan_ok=True)
    assert again["test"]["val"] == pytest.approx(written["test"]["val"], nan_ok=True)
    finished = load_finished(out)
    assert finished.class_names == ("a", "b", "c") and finished.stats is not None
    with caplog.at_level(logging.INFO, "mltrain"):
        average([str(run)], Options(best=2, batch_norm=False))
    assert f"averaged before: {out}" in caplog.text
    with pytest.raises(ConfigError, match="other weights or options; overwrite=true"):
        average([str(run)], Options(best=2))
    statistics = next(name for name in found if name.endswith("running_var"))
    estimated = read_state_dict(average([str(run)], Options(best=2, overwrite=True)))
    assert not torch.equal(found[statistics], estimated[statistics])


@pytest.mark.slow
def test_a_greedy_soup_is_never_worse_than_its_best_member(run: Path, tmp_path: Path) -> None:
    other = coloured_run(tmp_path, "seed=1", "runner.max_steps=1")
    out = average([str(run), str(other)], Options(greedy=True, out=str(tmp_path / "soup"), weights="val"))
    source = json.loads((out / "source.json").read_text())
    alone = [figures["val"]["map"] for figures in source["figures"].values()]
    assert json.loads((out / "evaluation.json").read_text())["val"]["map"] >= max(alone)
    assert str(run) in source["taken"][0] or str(other) in source["taken"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(best=3), r"it has kept the checkpoints of epochs .*; the 3 best are .*runner\.keep_best=3"),
        (Options(last=3), r"the 3 last are 2, 3, 4\. A training keeps more of them with runner\.keep_last=3"),
    ],
)
def test_epochs_that_were_not_kept_are_named(run: Path, options: Options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        average([str(run)], options)


def test_weights_that_do_not_belong_together_are_refused(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    content = torch.load(other / "best.pt", weights_only=True)
    head = content["model"].pop("head.fc.weight")
    torch.save(content | {"best": content["best"] | {"weights": "val"}}, other / "best.pt")
    with pytest.raises(CheckpointError, match=r"not of the same architecture .*1 tensors, first in head\.fc\.weight"):
        average([str(run), str(other)], Options(weights="val"))
    content["model"]["head.fc.weight"] = head
    content["model"]["mean"] = content["model"]["mean"] + 1
    torch.save(content, other / "best.pt")
    with pytest.raises(CheckpointError, match="images of another mean"):
        average([str(run), str(other)], Options(weights="val"))
    torch.save(content | {"class_names": ["a", "b", "d"]}, other / "best.pt")
    with pytest.raises(CheckpointError, match="only the dataset has 'c'; only the checkpoint has 'd'"):
        average([str(run), str(other)], Options(weights="val"))
    for words, option, message in (
        ([run, other], Options(best=2), "several runs give their best"),
        ([run, run], Options(), "named twice"),
        ([], Options(), "name a run folder"),
        ([run], Options(out=str(run)), "is no average; choose another"),
    ):
        with pytest.raises(ConfigError, match=message):
            average([str(word) for word in words], option)
    with pytest.raises(ValueError, match="give one of them"):
        Options(best=2, last=2)

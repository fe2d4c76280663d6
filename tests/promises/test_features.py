"""A training on stored features: the figures, checkpoints and resumes of one on images."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from mltrain.config.build import load
from mltrain.engine import distributed
from mltrain.errors import ConfigError, Interrupted
from mltrain.runs.assemble import assemble
from mltrain.runs.evaluation import open_on_data
from mltrain.runs.predictor import Predictor
from tests.promises.runs import ROOT, assert_same, execute, fit, state, stop_at, torchrun

FROZEN = ["model.freeze_stages=-1", "mix=none", "augment=none", "optimizer.lr=0.05"]


@pytest.fixture
def frozen(overrides: list[str], tmp_path: Path) -> list[str]:
    return [*overrides, *FROZEN, f"data.cache_dir={tmp_path}/cache"]


def figures(folder: Path) -> dict[str, float]:
    return json.loads((folder / "result.json").read_text())["val"]


def test_the_figures_are_those_of_a_training_on_images(frozen: list[str], tmp_path: Path) -> None:
    plain = fit(frozen)
    stored = fit([*frozen, "data.cache=features"])
    assert stored.name != plain.name
    for key in ("map", "micro_ap", "CF1"):
        assert figures(stored)[key] == pytest.approx(figures(plain)[key], abs=0.1), key  # per cent: 1e-3 of 1
    weights, others = state(stored)["model"], state(plain)["model"]
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[key], others[key]) for key in weights if key.startswith("backbone."))
    torch.testing.assert_close(weights["head.fc.weight"], others["head.fc.weight"], rtol=0.01, atol=1e-3)
    # the run is a model of images
    cfg = load([*frozen, "data.cache=features"])
    with open_on_data(cfg, stored) as run:
        again = run.evaluate(run.splits.val, "val", keep_all=True)
        cfg.data.cache = False
        images = run.evaluate(run.splits.val, "val", keep_all=True)
    assert again.summaries["val"].scalars["map"] == figures(stored)["map"]
    torch.testing.assert_close(images.predictions.logits["val"], again.predictions.logits["val"], rtol=0.01, atol=0.01)
    assert Predictor.from_run(stored)(run.splits.val.path(0))


@pytest.mark.slow
def test_runs_share_features_and_resume_exactly(
    frozen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*frozen, "data.cache=features", "data.feature_views=2", "augment=crops", "data.feature_dtype=bf16"]
    options += ["model.image_size=64"]  # 2 x 2 tokens
    whole = fit([*options, f"paths.runs={tmp_path}/whole"])
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 7)
        fit(options)
    assert_same(state(fit(options)), state(whole))

    # heads that use the mean share features, those that need the map share others
    def names() -> set[str]:
        return {path.name for path in (tmp_path / "cache").glob("*.features")}

    assert len(names()) == 2
    before = names()
    fit([*options, "loss=bce", "head=pfc", "runner.max_steps=1"])
    assert names() == before
    small = ["head.dim=32", "head.num_heads=2", "runner.max_steps=1"]
    fit([*options, "head=ml_decoder", *small])
    assert len(names()) == 4
    fit([*options, "loss=focal", "head=csra", "head.num_heads=2", "runner.max_steps=1"])
    assert len(names()) == 4
    # an extension goes on from the backbone of its run
    longer = ["runner.epochs=3", f"runner.extend={whole}"]
    assert state(fit([*options, *longer]))["step"] == 15
    assert len(names()) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.freeze_stages=2"], r"data\.cache.*must not change: add model\.freeze_stages=-1"),
        (["mix=mixup"], r"mix.*mixes images.*mix=none"),
        (["distill.teacher=runs/x"], r"distill\.teacher.*looks at images"),
    ],
)
def test_what_cannot_work_is_refused(frozen: list[str], options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load([*frozen, "data.cache=features", *options])


def test_a_backbone_in_training_mode_is_refused(frozen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mltrain.models.backbone.Backbone.freeze", lambda self, **options: None)
    cfg = load([*frozen, "data.cache=features"])
    with distributed.start("cpu") as dist, pytest.raises(ConfigError, match=r"parts that are trained.*freeze_stages"):
        assemble(cfg, dist)


@pytest.mark.slow
def test_two_ranks_train_on_the_same_features(frozen: list[str], tmp_path: Path) -> None:
    options = [*frozen, "data.cache=features", "data.feature_views=2", "head.dropout=0"]
    alone = fit([*options, f"paths.runs={tmp_path}/alone"])
    execute(torchrun(*options))
    (both,) = (tmp_path / "runs").rglob("last.pt")
    torch.testing.assert_close(
        state(both.parent)["model"]["head.fc.weight"], state(alone)["model"]["head.fc.weight"], rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
def test_commands_take_a_run_on_features(frozen: list[str], tmp_path: Path) -> None:
    run = fit([*frozen, "data.cache=features", "data.feature_views=2", "sampler=class_aware"])
    done = execute([sys.executable, str(ROOT / "tools" / "evaluate.py"), str(run), "data.cache=false"])
    assert "mAP" in done.stdout + done.stderr

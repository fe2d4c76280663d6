"""Default pooling of heads, in new runs and in those of earlier versions; sizes and channels in a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from omegaconf import OmegaConf
from timm.models import _registry

from mltrain.config.class_tokens import BACKBONES, pools_class_token, resolve_tokens
from mltrain.config.compose import load, load_run
from mltrain.config.identity import run_folder, run_id
from mltrain.config.rules import pooling_problems
from mltrain.errors import ConfigError
from mltrain.runs.notices import earlier_pooling

CSV = ("dataset=csv", "dataset.file=labels.csv")


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ({"name": "vit_base_patch16_224"}, "cls"),
        ({"name": "vit_small_patch14_reg4_dinov2.lvd142m"}, "cls"),
        ({"name": "vit_base_patch16_clip_224.openai", "timm_kwargs": {"depth": 2}}, "cls"),
        ({"name": "deit_tiny_distilled_patch16_224"}, "cls"),
        ({"name": "vit_base_patch16_224", "pool": "timm"}, "patches"),
        ({"name": "vit_base_patch16_224", "timm_kwargs": {"class_token": False}}, "patches"),
        ({"name": "vit_base_patch16_siglip_224"}, "patches"),
        ({"name": "vit_base_patch16_dinov3"}, "patches"),
        ({"name": "beitv2_base_patch16_224"}, "patches"),
        ({"name": "swin_tiny_patch4_window7_224"}, "patches"),
        ({"name": "???"}, "patches"),
        ({"name": "vit_base_patch16_224", "_target_": "mypkg.Net"}, "patches"),
    ],
)
def test_the_default_is_how_the_weights_pool(model: dict[str, Any], tokens: str) -> None:
    tree = {"model": {"_target_": BACKBONES, "pool": "head", "timm_kwargs": None, **model}, "head": {"tokens": "auto"}}
    cfg = OmegaConf.create(tree)
    resolve_tokens(cfg)
    assert cfg.head.tokens == tokens
    for chosen in ("patches", "cls", "both"):
        cfg.head.tokens = chosen
        resolve_tokens(cfg)
        assert cfg.head.tokens == chosen


def test_the_config_of_a_run_states_what_is_pooled() -> None:
    assert load([*CSV, "model.name=vit_tiny_patch16_224"]).head.tokens == "cls"
    convolutional = load([*CSV, "head=pfc"])
    assert convolutional.head.tokens == "patches"
    older = OmegaConf.to_container(convolutional)
    assert isinstance(older, dict)
    del older["head"]["tokens"]
    assert run_id(convolutional) == run_id(OmegaConf.create(older)), "runs of convolutional networks keep their ids"
    convolutional.head.tokens = "both"
    assert run_id(convolutional) != run_id(OmegaConf.create(older))


def test_a_run_of_an_earlier_version_keeps_its_pooling_and_its_id(tmp_path: Path) -> None:
    cfg = load(["model=vit_base", "head.tokens=patches", f"paths.runs={tmp_path}"])
    tree = OmegaConf.to_container(cfg)
    assert isinstance(tree, dict)
    for section, keys in {"head": ["tokens"], "model": ["in_chans", "pool"], "eval_resize": ["image_size"]}.items():
        for key in keys:
            del tree[section][key]
    older = run_folder(cfg)
    older.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(tree), older / "config.yaml")
    kept = load_run(older)
    assert kept.head.tokens == "patches" and run_folder(kept) == older
    now = load(["model=vit_base", f"paths.runs={tmp_path}"])
    assert run_id(now) != older.name, "the class token is another model"
    said = earlier_pooling(now, run_folder(now))
    assert said is not None and str(older) in said and "head.tokens=patches" in said
    assert earlier_pooling(cfg, older) is None
    OmegaConf.save(cfg, older / "config.yaml")  # now chosen, by this version
    assert earlier_pooling(now, run_folder(now)) is None


def test_what_does_not_fit_is_refused() -> None:
    words = ["head.tokens=patch", "model.pool=tim", "model.image_size=[32]", "eval_resize.image_size=small"]
    with pytest.raises(ConfigError) as refused:
        load([*words, "augment.image_size=32", "model.in_chans=grey"])
    said = str(refused.value)
    for part in (
        "head.tokens=patch: must be patches | cls | both; did you mean head.tokens=patches?",
        "model.pool=tim: must be head | timm; did you mean model.pool=timm?",
        "model.image_size=[32]: must be int | a list [int, int] | null",
        "eval_resize.image_size=small: must be int | a list [int, int]",
        "augment.image_size=32: cannot be set",
        "model.in_chans=grey: must be int",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        ({"_target_": "mltrain.models.heads.gap.GlobalAveragePool", "tokens": "cls"}, "no class token beside it"),
        ({"_target_": "mltrain.models.heads.csra.CSRA"}, "this head weighs places; use head=gap, or pool=head"),
        ({"_target_": "mltrain.models.heads.pfc.PFC", "tokens": "patches"}, None),
        ({"_target_": "mypkg.Head"}, None),
    ],
)
def test_a_pooled_backbone_needs_a_head_without_places(head: dict[str, Any], problem: str | None) -> None:
    found = list(pooling_problems({"model": {"pool": "timm"}, "head": head}))
    assert [problem in text for _, text in found if problem] == ([True] if problem else [])
    assert bool(found) == (problem is not None)
    assert not list(pooling_problems({"model": {"pool": "head"}, "head": head}))


def test_sizes_may_have_two_sides() -> None:
    cfg = load(["model.image_size=[32,64]", "eval_resize.image_size=[48,96]"])
    assert (cfg.model.image_size, cfg.eval_resize.image_size) == ([32, 64], [48, 96])
    before = run_id(cfg)
    cfg.eval_resize.image_size = None
    assert run_id(cfg) != before, "it changes the figures"


MODULES = ("vision_transformer", "deit", "beit", "eva", "cait", "convit", "xcit", "tnt", "mvitv2", "volo")
MODULES += ("vision_transformer_relpos", "vision_transformer_hybrid")


def _pools_class_token(name: str) -> bool:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    return getattr(model, "global_pool", None) == "token" and isinstance(model.cls_token, torch.Tensor)


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_defaults_are_timms_own(module: str) -> None:
    names = [name for name in timm.list_models() if _registry._model_to_module[name] == module]
    assert names
    assert {name: pools_class_token(name) for name in names} == {name: _pools_class_token(name) for name in names}

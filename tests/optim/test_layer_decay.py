"""Rates and decays of every parameter against timm's own `param_groups_layer_decay`."""

from __future__ import annotations

import pytest
import timm
from timm.optim import param_groups_layer_decay
from torch import nn

from mltrain.models.classifier import Classifier, create_classifier
from mltrain.optim.groups import parameter_groups
from mltrain.optim.optimizers import adamw

# Models of every family with few parameters; the arguments make them small.
SMALL = {
    "test_resnet": {},
    "test_convnext": {},
    "test_vit": {},
    "test_vit2": {},
    "test_efficientnet": {},
    "swin_tiny_patch4_window7_224": {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 2)},
    "swinv2_tiny_window8_256": {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)},
    "eva02_tiny_patch14_224": {"embed_dim": 24, "depth": 2, "num_heads": 3},
    "vit_small_patch16_dinov3": {"embed_dim": 32, "depth": 3, "num_heads": 2},
}
WEIGHT_DECAY, LAYER_DECAY = 0.05, 0.7


def _small(name: str) -> Classifier:
    return create_classifier(name=name, num_classes=5, backbone_options={"timm_kwargs": SMALL[name]})


def _by_name(model, groups, rate) -> dict[str, tuple[float, float]]:
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return {name_of[id(p)]: (rate(group), group["weight_decay"]) for group in groups for p in group["params"]}


@pytest.mark.parametrize("name", SMALL)
def test_rates_and_decays_equal_those_of_timm(name):
    reference = timm.create_model(name, num_classes=5, **SMALL[name])
    no_decay = reference.no_weight_decay() if hasattr(reference, "no_weight_decay") else ()
    expected = _by_name(
        reference,
        param_groups_layer_decay(
            reference, weight_decay=WEIGHT_DECAY, no_weight_decay_list=no_decay, layer_decay=LAYER_DECAY
        ),
        lambda group: group["lr_scale"],
    )
    model = _small(name)
    found = _by_name(
        model,
        parameter_groups(
            model,
            lr=2.0,
            weight_decay=WEIGHT_DECAY,
            layer_decay=LAYER_DECAY,
            model_no_decay=True,
            head_lr_multiplier=3.0,
        ),
        lambda group: group["initial_lr"] / 2.0,
    )
    head = {key: value for key, value in found.items() if key.startswith("head.")}
    assert head == {"head.fc.weight": (3.0, WEIGHT_DECAY), "head.fc.bias": (3.0, 0.0)}
    backbone = {key.removeprefix("backbone.model."): value for key, value in found.items() if key not in head}
    assert backbone == {key: expected[key] for key in backbone}
    classifier = set(expected) - set(backbone)
    assert all(expected[key][0] == 1.0 for key in classifier)  # only timm's classifier is missing
    assert len({rate for rate, _ in backbone.values()}) > 2


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("test_vit", "pos_embed"),
        ("test_vit", "cls_token"),
        ("swin_tiny_patch4_window7_224", "layers.0.blocks.0.attn.relative_position_bias_table"),
    ],
)
def test_what_the_model_exempts_is_decayed_unless_asked(name, table):
    model = _small(name)
    for asked, decay in ((False, 0.05), (True, 0.0)):
        groups = parameter_groups(model, lr=1.0, weight_decay=0.05, model_no_decay=asked)
        assert _by_name(model, groups, lambda group: group["lr"])[f"backbone.model.{table}"] == (1.0, decay)


def test_frozen_stages_are_left_out_and_keep_the_layers_of_the_others():
    whole = create_classifier(name="test_vit", num_classes=5)
    frozen = create_classifier(name="test_vit", num_classes=5, backbone_options={"freeze_stages": 2})
    options = {"lr": 1.0, "weight_decay": 0.05, "layer_decay": 0.5, "model_no_decay": True}
    every, some = (
        _by_name(m, parameter_groups(m, **options), lambda group: group["initial_lr"]) for m in (whole, frozen)
    )
    assert 0 < len(some) < len(every)
    assert some == {name: every[name] for name in some}


def test_the_first_group_is_nearest_to_the_head():
    names = [group["name"] for group in adamw(_small("test_vit"), layer_decay=0.5).param_groups]
    assert names[0].startswith("backbone_1_")
    assert names[-1] == "head_no_decay"


@pytest.mark.parametrize("wrong", [0.0, 1.5, -1.0, float("nan")])
def test_a_wrong_decay_is_refused(wrong):
    with pytest.raises(ValueError, match=r"layer_decay must be above 0 and at most 1"):
        parameter_groups(_small("test_vit"), lr=1.0, weight_decay=0.0, layer_decay=wrong)


def test_a_model_without_layers_of_timm_is_refused():
    for option in ({"layer_decay": 0.5}, {"model_no_decay": True}):
        with pytest.raises(ValueError, match=f"{next(iter(option))} needs a model with a backbone of timm"):
            parameter_groups(nn.Linear(2, 2), lr=1.0, weight_decay=0.0, **option)

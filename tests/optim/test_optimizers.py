from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mltrain.optim.groups import bare_module, parameter_groups
from mltrain.optim.optimizers import adam, adamw, sgd


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 5)
        self.header = nn.Linear(2, 2, bias=False)
        self.group_bias = nn.ParameterDict({"bias": nn.Parameter(torch.zeros(3, 4))})


def _names(model: nn.Module, groups) -> dict[str, set[str]]:
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["name"]: {name_of[id(parameter)] for parameter in group["params"]} for group in groups}


def test_groups_split_backbone_and_head_and_exempt_norms_and_biases():
    model = Net()
    groups = parameter_groups(model, lr=0.1, weight_decay=0.5, head_lr_multiplier=10.0)
    assert _names(model, groups) == {
        "backbone_decay": {"backbone.0.weight", "header.weight"},
        "backbone_no_decay": {"backbone.0.bias", "backbone.1.weight", "backbone.1.bias", "group_bias.bias"},
        "head_decay": {"head.weight"},
        "head_no_decay": {"head.bias"},
    }
    assert [(g["initial_lr"], g["lr"], g["weight_decay"]) for g in groups] == [
        (0.1, 0.1, 0.5),
        (0.1, 0.1, 0.0),
        (1.0, 1.0, 0.5),
        (1.0, 1.0, 0.0),
    ]


def test_frozen_parameters_are_in_no_group():
    model = Net()
    model.backbone.requires_grad_(False)
    names = _names(model, parameter_groups(model, lr=0.1, weight_decay=0.5))
    assert not any(name.startswith("backbone.") for group in names.values() for name in group)
    assert sum(len(group) for group in names.values()) == 4


def test_decay_1d_decays_everything():
    groups = parameter_groups(Net(), lr=0.1, weight_decay=0.5, decay_1d=True)
    assert [group["name"] for group in groups] == ["backbone_decay", "head_decay"]
    assert sum(len(group["params"]) for group in groups) == len(list(Net().parameters()))


def test_wrappers_do_not_hide_the_head():
    model = Net()
    wrapped = nn.DataParallel(nn.DataParallel(model))
    assert bare_module(wrapped) is model
    assert _names(model, parameter_groups(wrapped, lr=1.0, weight_decay=0.0))["head_decay"] == {"head.weight"}


@pytest.mark.parametrize("fused", [None, True, False])
@pytest.mark.parametrize(
    ("build", "reference"),
    [
        (adam, lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1)),
        (adamw, lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)),
        (sgd, lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=0.1, momentum=0.9)),
    ],
)
def test_steps_equal_plain_torch(build, reference, fused):
    torch.manual_seed(0)
    ours = nn.Linear(6, 4)
    theirs = copy.deepcopy(ours)
    optimizers = [build(ours, lr=0.01, weight_decay=0.1, decay_1d=True, fused=fused), reference(theirs.parameters())]
    assert bool(optimizers[0].defaults["fused"]) == (fused is not False)
    for _ in range(5):
        x = torch.randn(8, 6)
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-5, atol=1e-6)


def test_state_survives_a_round_trip_with_group_names():
    model = Net()
    optimizer = adam(model, lr=0.1, head_lr_multiplier=2.0)
    model.head(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    other = adam(model, lr=0.1, head_lr_multiplier=2.0)
    other.load_state_dict(optimizer.state_dict())
    assert [(g["name"], g["initial_lr"]) for g in other.param_groups] == [
        (g["name"], g["initial_lr"]) for g in optimizer.param_groups
    ]
    for parameter, state in optimizer.state.items():
        assert torch.equal(other.state[parameter]["exp_avg"], state["exp_avg"])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda m: adam(m, lr=0.0), "lr must be above 0"),
        (lambda m: adam(m, weight_decay=-1.0), "weight_decay"),
        (lambda m: adam(m, betas=(0.9,)), "betas must be two numbers"),
        (lambda m: sgd(m, head_lr_multiplier=0.0), "freeze its parameters"),
        (lambda m: adamw(m.requires_grad_(False)), "no trainable parameter"),
        (lambda m: adamw(m.header, head_lr_multiplier=2.0), r"under `model.head`"),
    ],
)
def test_wrong_options_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build(Net())


@pytest.mark.parametrize("build", [adam, adamw, sgd])
def test_fused_steps_equal_plain_ones_for_channels_last_weights(build):
    torch.manual_seed(0)
    fused = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1)).to(
        memory_format=torch.channels_last
    )
    plain = copy.deepcopy(fused)
    optimizers = [build(fused, lr=0.01, fused=True), build(plain, lr=0.01, fused=False)]
    for _ in range(3):
        x = torch.randn(2, 3, 9, 9).to(memory_format=torch.channels_last)
        for model, optimizer in zip((fused, plain), optimizers, strict=True):
            model(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    for one, other in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)

"""Gradient checkpointing: the same gradients and running statistics, less kept for the backward pass."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils import checkpoint

from mltrain.config.build import load
from mltrain.errors import ConfigError
from mltrain.models import create_backbone, create_classifier

MODELS = ["test_byobnet", "test_resnet", "test_efficientnet", "test_convnext", "test_vit", "mobilenetv2_035"]


def _trained(grad_checkpointing: bool, name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    options |= {"grad_checkpointing": grad_checkpointing}
    size = 64 if name != "test_vit" else None
    model = create_classifier(name=name, num_classes=4, image_size=size, backbone_options=options).train()
    torch.manual_seed(1)
    side = model.backbone.image_size
    images = 255 * torch.rand(3, 3, side, side)
    for _ in range(2):
        model(images).square().sum().backward()
    return model


@pytest.mark.parametrize("name", MODELS)
def test_gradients_and_statistics_are_those_without(name, monkeypatch):
    calls = []
    original = checkpoint.checkpoint
    monkeypatch.setattr(checkpoint, "checkpoint", lambda *a, **k: calls.append(1) or original(*a, **k))
    plain = _trained(False, name)
    assert not calls
    saving = _trained(True, name)
    assert calls
    for (key, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-6, atol=1e-6 * float(one.grad.abs().max()), msg=key)
    for (key, one), other in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(one, other), key


def test_statistics_would_be_updated_twice_without_the_guard(monkeypatch):
    monkeypatch.setattr("mltrain.models.recompute._hold", lambda module, inputs: None)
    plain, saving = _trained(False, "test_resnet"), _trained(True, "test_resnet")
    batches = "backbone.model.layer1.0.bn1.num_batches_tracked"
    assert plain.get_buffer(batches) == 2
    assert saving.get_buffer(batches) == 4


def test_evaluation_and_copies_do_not_recompute():
    model = create_classifier(name="test_resnet", num_classes=4, backbone_options={"grad_checkpointing": True})
    assert model.train().backbone.model.grad_checkpointing
    assert not model.eval().backbone.model.grad_checkpointing
    assert not copy.deepcopy(model.train()).eval().backbone.model.grad_checkpointing
    hooks = len(model.backbone.model.bn1._forward_pre_hooks)
    model.eval().train()
    assert len(model.backbone.model.bn1._forward_pre_hooks) == hooks == 1


def test_frozen_stages_keep_their_statistics():
    model = _trained(True, "test_resnet", freeze_stages=2)
    assert model.backbone.model.bn1.num_batches_tracked == 0
    assert model.backbone.model.layer4[0].bn1.num_batches_tracked == 2


def test_a_model_that_cannot_is_refused():
    with pytest.raises(ConfigError, match=r"grad_checkpointing=true: timm does not support it for dla46_c"):
        create_backbone(name="dla46_c", image_size=64, grad_checkpointing=True)


def test_a_compiled_model_cannot():
    with pytest.raises(ConfigError, match=r"grad_checkpointing.*a compiled model cannot do it"):
        load(["dataset=shapes", "model.grad_checkpointing=true", "runner.compile=true"])

"""The frozen part of a backbone: it records no autograd graph, and the gradients of the rest stay the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mltrain.models import create_classifier
from mltrain.models.backbone import Features

CASES = [("test_resnet", 2), ("test_vit", 2), ("test_convnext", 2), ("test_efficientnet", 3)]


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    model(images).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("name", "stages"), CASES)
def test_the_frozen_part_runs_without_autograd_and_changes_no_gradient(name: str, stages: int) -> None:
    torch.manual_seed(0)
    options = {"freeze_stages": stages, "freeze_norm": "vit" not in name and "convnext" not in name}
    model = create_classifier(name=name, num_classes=3, image_size=64, backbone_options=options)
    images = torch.randint(0, 256, (2, 3, 64, 64)).float()
    recorded: dict[str, bool] = {}
    for path in model.backbone._frozen:
        module = model.backbone.model.get_submodule(path)

        def note(module: nn.Module, args: object, output: Tensor, path: str = path) -> None:
            recorded[path] = output.requires_grad

        module.register_forward_hook(note)
    model.train()
    frozen = gradients(model, images)
    assert recorded and not any(recorded.values()), recorded
    assert 0 < len(frozen) < len(list(model.parameters()))
    for p in model.parameters():
        p.grad = None
        p.requires_grad_(True)
    whole = gradients(model, images)
    for key, value in frozen.items():
        torch.testing.assert_close(value, whole[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_wholly_frozen_backbone_gives_features_without_a_graph(name: str) -> None:
    model = create_classifier(name=name, num_classes=3, image_size=64, backbone_options={"freeze_stages": -1})
    model.train()
    assert model.backbone.is_frozen and not model.backbone(torch.rand(1, 3, 64, 64)).tokens.requires_grad
    assert model.backbone.training
    for other in ({}, {"freeze_stages": 2}):
        assert not create_classifier(name=name, num_classes=3, image_size=64, backbone_options=other).backbone.is_frozen


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("head", ["gap", "pfc", "csra", "query2label", "ml_decoder"])
def test_a_head_gives_the_same_logits_on_packed_features(name: str, head: str) -> None:
    torch.manual_seed(0)
    options = {} if head in ("gap", "pfc") else {"num_heads": 2}
    model = create_classifier(name=name, num_classes=3, image_size=64, head=head, head_options=options).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        features = model.features(images)
        packed = model.pack(features)
        found = model.features(packed)
        torch.testing.assert_close(model(packed), model(images), rtol=1e-5, atol=1e-5)
        half = model(packed.half())
    assert half.dtype == torch.float32
    assert torch.equal(found.prefix, features.prefix)
    if head in ("gap", "pfc"):
        assert packed.shape[1] == features.prefix.shape[1] + 1
    else:
        assert (
            isinstance(found, Features) and found.grid == features.grid and torch.equal(found.tokens, features.tokens)
        )

"""Batch-norms folded into convolutions give the same features, or are left alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mltrain.models.backbone import create_backbone
from mltrain.models.fold import folded


def trained(model: nn.Module) -> nn.Module:
    """The model with statistics and scales as if it had been trained."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


def batch_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "options", "left"),
    [
        ("resnet18", {}, 0),
        ("mobilenetv2_100", {}, 0),
        ("mobilenetv2_100", {"pad_type": "same"}, 0),
        ("tresnet_m", {}, 0),
        ("densenet121", {}, 62),  # those before a convolution stay
    ],
)
def test_features_are_the_same_and_batch_norms_are_gone(name: str, options: dict, left: int) -> None:
    backbone = trained(create_backbone(name=name, image_size=64, timm_kwargs=options))
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    found = folded(backbone, 64)
    assert batch_norms(found) == left < batch_norms(backbone)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, tokens = backbone(images).tokens, found(images).tokens
    torch.testing.assert_close(tokens, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("name", ["test_vit", "convnext_atto", "nf_resnet26"])
def test_a_model_without_any_is_left_as_it_is(name: str) -> None:
    backbone = create_backbone(name=name, image_size=160 if name == "test_vit" else 64)
    assert folded(backbone, backbone.image_size) is backbone


class Shared(nn.Module):
    """What one batch-norm or convolution does, another layer uses too."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.kind == "output used twice":
            return self.norm(y) + y
        if self.kind == "convolution called twice":
            return self.norm(y) + self.other(self.conv(2 * x))
        return self.norm(self.norm(y))


@pytest.mark.parametrize("kind", ["output used twice", "convolution called twice", "batch-norm called twice"])
def test_what_cannot_be_folded_is_not(kind: str) -> None:
    model = trained(Shared(kind))
    assert folded(model, 8) is model

"""TResNet variants: sizes as published, and the contract of backbones for those that timm lacks."""

from __future__ import annotations

import pytest
import timm
import torch

from mltrain.models import GlobalAveragePool, create_backbone


@pytest.mark.parametrize(
    ("name", "millions"),
    [("tresnet_m", 29.50), ("tresnet_v2_l", 44.29), ("tresnet_xl_v2", 67.42), ("tresnet_s", 23.59)],
)
def test_a_tresnet_has_the_published_number_of_parameters(name: str, millions: float) -> None:
    try:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=80)
    except NotImplementedError:
        pytest.skip(f"timm {timm.__version__} cannot build a TResNet without memory for its weights")
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize("name", ["tresnet_s", "tresnet_xl_v2"])
def test_the_variants_that_timm_lacks_are_backbones_like_others(name: str) -> None:
    backbone = create_backbone(name=name, image_size=64, timm_kwargs={"layers": [1, 1, 1, 1], "width_factor": 0.25})
    assert backbone.mean == (0, 0, 0) and backbone.std == (1, 1, 1)
    assert (backbone.num_features, backbone.layout) == (512, "NCHW")
    features = backbone(torch.rand(2, 3, 64, 96))
    assert features.tokens.shape == (2, 6, 512) and features.grid == (2, 3)
    assert any("conv3" in key for key in backbone.model.body.layer1.state_dict()) == (name == "tresnet_xl_v2")


def test_a_bottleneck_is_one_linear_layer_more() -> None:
    torch.manual_seed(0)
    head, tokens = GlobalAveragePool(8, 3, bottleneck=5, prior=0.1), torch.randn(4, 6, 8)
    expected = (
        torch.nn.functional.linear(tokens.mean(1), head.bottleneck.weight, head.bottleneck.bias) @ head.fc.weight.T
    )
    torch.testing.assert_close(head(tokens), expected + head.fc.bias)
    with pytest.raises(ValueError, match="bottleneck=0"):
        GlobalAveragePool(8, 3, bottleneck=0)

"""Every timm family under one token contract; freezing; settings that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from mltrain.errors import ConfigError, MltrainError
from mltrain.models import (
    CSRA,
    Classifier,
    GlobalAveragePool,
    MLDecoder,
    Query2Label,
    create_backbone,
    create_classifier,
    hub,
)
from mltrain.models import backbone as backbone_module

# name, image size, layout, width, grid side, prefix tokens: small images and the smallest member of each family
FAMILIES = [
    ("resnet18", 64, "NCHW", 512, 2, 0),
    ("resnet26", 64, "NCHW", 2048, 2, 0),
    ("tresnet_m", 64, "NCHW", 2048, 2, 0),
    ("tf_efficientnetv2_b0", 64, "NCHW", 1280, 2, 0),
    ("tf_efficientnetv2_s", 64, "NCHW", 1280, 2, 0),
    ("convnext_atto", 64, "NCHW", 320, 2, 0),
    ("mobilenetv2_050", 96, "NCHW", 1280, 3, 0),
    ("mobilenetv3_small_050", 64, "NCHW", 288, 2, 0),
    ("vit_tiny_patch16_224", 64, "NLC", 192, 4, 1),
    ("vit_small_patch14_reg4_dinov2", 70, "NLC", 384, 5, 5),
    ("deit_tiny_distilled_patch16_224", 64, "NLC", 192, 4, 2),
    ("eva02_tiny_patch14_224", 70, "NLC", 192, 5, 1),
    ("swin_tiny_patch4_window7_224", 224, "NHWC", 768, 7, 0),
    pytest.param("swinv2_cr_tiny_224", 224, "NCHW", 768, 7, 0, marks=pytest.mark.slow),
    ("mambaout_femto", 64, "NHWC", 288, 2, 0),
]


@pytest.mark.parametrize(("name", "size", "layout", "width", "side", "prefix"), FAMILIES)
def test_tokens_grid_and_prefix_are_the_models_own_features(
    name: str, size: int, layout: str, width: int, side: int, prefix: int
) -> None:
    torch.manual_seed(0)
    backbone = create_backbone(name=name, image_size=size).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        tokens, grid, prefix_tokens = backbone(images)
        raw = backbone.model.forward_features(images)
    assert backbone.layout == layout
    assert backbone.num_features == width
    assert tokens.shape == (2, side * side, width)
    assert grid == (side, side)
    assert prefix_tokens.shape == (2, prefix, width)
    norm = getattr(backbone.model, "fc_norm", None)
    if not isinstance(norm, nn.LayerNorm):
        norm = getattr(getattr(backbone.model, "head", None), "norm", nn.Identity())
    for row, column in [(0, 0), (0, side - 1), (side - 1, 0)]:
        if layout == "NCHW":
            expected = raw[:, :, row, column]
        elif layout == "NHWC":
            expected = raw[:, row, column]
        else:
            expected = raw[:, prefix + row * side + column]
        if isinstance(norm, nn.LayerNorm):
            expected = nn.functional.layer_norm(expected, (width,), norm.weight, norm.bias, norm.eps)
        torch.testing.assert_close(tokens[:, row * side + column], expected)
    # every head on it, and nothing in the model that training would leave without a gradient
    heads = (
        GlobalAveragePool(width, 3),
        MLDecoder(width, 3, dim=16, ffn_dim=16),
        CSRA(width, 3, num_heads=2),
        Query2Label(width, 3, dim=16, ffn_dim=16),
    )
    for head in heads:
        classifier = Classifier(backbone, head)
        classifier.zero_grad()
        classifier(torch.randint(256, (2, 3, size, size), dtype=torch.uint8)).sum().backward()
        dead = [k for k, p in classifier.named_parameters() if p.requires_grad and p.grad is None]
        assert not dead


def test_grid_follows_images_that_are_not_square() -> None:
    features = create_backbone(name="resnet18", image_size=64).eval()(torch.zeros(1, 3, 64, 128))
    assert features.grid == (2, 4)
    backbone = create_backbone(
        name="vit_tiny_patch16_224", image_size=64, timm_kwargs={"dynamic_img_size": True}
    ).eval()
    assert backbone(torch.zeros(1, 3, 64, 128)).grid == (4, 8)


def test_mean_std_and_size_come_from_the_weights_metadata() -> None:
    tresnet = create_backbone(name="tresnet_m.miil_in1k_448", image_size=64)
    assert (tresnet.mean, tresnet.std) == ((0, 0, 0), (1, 1, 1))
    vit = create_backbone(name="vit_tiny_patch16_224")
    assert (vit.mean, vit.std, vit.image_size) == ((0.5,) * 3, (0.5,) * 3, 224)
    given = create_backbone(name="resnet18", image_size=64, mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    assert (given.mean, given.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


def test_normalisation_equals_the_formula_for_uint8_and_float_images() -> None:
    classifier = create_classifier(name="resnet18", num_classes=4, image_size=64).eval()
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (images / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    torch.testing.assert_close(classifier.normalize(images), expected, atol=1e-5, rtol=1e-5)
    before = images.float()
    kept = before.clone()
    with torch.no_grad():
        torch.testing.assert_close(classifier(before), classifier(images))
        torch.testing.assert_close(
            classifier.features(images).tokens, classifier.backbone(expected).tokens, atol=1e-4, rtol=1e-4
        )
    assert torch.equal(before, kept)
    assert classifier.normalize(images.to(memory_format=torch.channels_last)).is_contiguous(
        memory_format=torch.channels_last
    )


def test_normalisation_travels_with_the_weights() -> None:
    trained = create_classifier(name="resnet18", num_classes=4, image_size=64, backbone_options={"mean": (0.1,) * 3})
    other = create_classifier(name="resnet18", num_classes=4, image_size=64)
    other.load_state_dict(trained.state_dict())
    images = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(other.eval()(images), trained.eval()(images))


def _train_step(model: nn.Module) -> dict[str, torch.Tensor]:
    """One large step; which tensors of the state it changed, by name."""
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    images = torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8)
    model(images).square().sum().backward()
    optimizer.step()
    return {k: v for k, v in model.state_dict().items() if not torch.equal(v, before[k])}


@pytest.mark.parametrize(
    ("name", "stages", "frozen", "free"),
    [
        ("resnet18", 1, ("conv1.", "bn1."), ("layer1.", "layer4.")),
        ("resnet18", 3, ("conv1.", "bn1.", "layer1.", "layer2."), ("layer3.", "layer4.")),
        ("tresnet_m", 2, ("body.conv1.", "body.layer1."), ("body.layer2.", "body.layer4.")),
        ("mobilenetv2_050", 2, ("conv_stem.", "bn1.", "blocks.0."), ("blocks.1.", "conv_head.")),
        ("vit_tiny_patch16_224", 2, ("cls_token", "pos_embed", "patch_embed.", "blocks.0."), ("blocks.1.", "norm.")),
    ],
)
def test_frozen_stages_keep_weights_and_statistics_in_a_train_step(
    name: str, stages: int, frozen: tuple[str, ...], free: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    model = create_classifier(name=name, num_classes=3, image_size=64, backbone_options={"freeze_stages": stages})
    changed = [k.removeprefix("backbone.model.") for k in _train_step(model)]
    assert not [k for k in changed if k.startswith(frozen)]
    for prefix in free:
        assert [k for k in changed if k.startswith(prefix)], prefix


def test_a_wholly_frozen_backbone_is_in_evaluation_mode_while_the_head_trains() -> None:
    model = create_classifier(name="resnet18", num_classes=3, image_size=64, backbone_options={"freeze_stages": -1})
    assert {k.split(".")[0] for k in _train_step(model)} == {"head"}
    assert not any(m.training for m in model.backbone.model.modules())
    assert model.head.training


def test_frozen_batch_norm_keeps_statistics_scale_and_shift_while_convolutions_train() -> None:
    model = create_classifier(name="resnet18", num_classes=3, image_size=64, backbone_options={"freeze_norm": True})
    changed = [k for k in _train_step(model) if k.startswith("backbone")]
    assert changed
    assert not [k for k in changed if ".bn" in k or "downsample.1" in k or "running" in k]


def test_the_published_long_tail_recipe_freezes_stem_and_first_stage_and_all_statistics() -> None:
    torch.manual_seed(0)
    options = {"freeze_stages": 2, "freeze_norm": "statistics", "timm_kwargs": {"zero_init_last": False}}
    model = create_classifier(name="resnet50", num_classes=3, image_size=64, backbone_options=options)
    parameters = {k for k, _ in model.named_parameters()}
    frozen = {k for k in parameters if k.removeprefix("backbone.model.").startswith(("conv1.", "bn1.", "layer1."))}
    assert len(frozen) == 3 + 10 * 3  # of the first stage 3 blocks of 3 convolutions and a projection, each with norm
    images = torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(model.train()(images), model.eval()(images))
    model.train()
    assert set(_train_step(model)) == parameters - frozen  # scale and shift of the later stages among them; no buffer


def test_stochastic_depth_reaches_the_model() -> None:
    backbone = create_backbone(name="convnext_atto", image_size=64, drop_path=0.3)
    assert max(getattr(m, "drop_prob", 0) for m in backbone.modules()) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet_50"}, "nearest: .*resnet50"),
        ({"name": "resnet50.a9_in1k"}, "no weights tagged 'a9_in1k'.*a1_in1k"),
        ({"name": "xception"}, "legacy_xception"),
        ({"name": "vit_tiny_patch16_224", "image_size": 100}, "image_size=100.*nearest are 96 and 112"),
        ({"name": "tresnet_m", "image_size": 66}, "image_size=66.*nearest are 64 and 96"),
        ({"name": "maxvit_pico_rw_256", "image_size": 100}, "image_size=100.*nearest are 96 and 128"),
        ({"name": "resnet18", "image_size": 0}, "image_size=0"),
        ({"name": "resnet18", "timm_kwargs": {"pad_tpye": "same"}}, "pad_tpye"),
        ({"name": "resnet18", "timm_kwargs": {"num_classes": 5}}, "timm_kwargs.num_classes"),
        ({"name": "vgg11", "drop_path": 0.1, "image_size": 32}, "model.drop_path=0.1"),
        ({"name": "resnet18", "drop_path": 1.5}, "drop_path=1.5"),
        ({"name": "resnet18", "image_size": 64, "freeze_stages": 9}, "0 .none. to 5, or -1.*5: layer4"),
        ({"name": "poolformer_s12", "image_size": 64, "freeze_stages": 1}, "use 0 or -1"),
        ({"name": "vit_tiny_patch16_224", "image_size": 64, "freeze_norm": True}, "freeze_norm=true: .*no batch-norm"),
        ({"name": "vit_tiny_patch16_224", "image_size": 64, "freeze_norm": "statistics"}, "freeze_norm=statistics: "),
        ({"name": "crossvit_tiny_240"}, "crossvit_tiny_240: cannot serve"),
        ({"name": "resnet18", "std": (1, 0, 1)}, "model.std"),
        ({"name": "resnet18", "image_size": 64, "partial_checkpoint": True}, "no model.checkpoint"),
        ({"name": "resnet10t_unknown"}, "no such model"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_its_key(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_backbone(**options)


def test_a_failed_download_says_how_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "get_session", HubThatAnswers)
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(
        MltrainError, match=r"resnet18 could not be downloaded.*no route to host.*model.checkpoint=FILE"
    ):
        create_backbone(name="resnet18", pretrained=True)


class HubThatAnswers:
    """Stands in for the HTTP session of the hub's client."""

    def head(self, url: str, *, timeout: float) -> None:
        assert url.startswith("https://") and timeout <= 10


def test_a_hub_out_of_reach_is_noticed_before_its_client_retries(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Unreachable:
        def head(self, url: str, *, timeout: float) -> None:
            raise OSError("no route to host")

    def create(*args: object, **kwargs: object) -> nn.Module:
        raise AssertionError("timm tried to download")

    monkeypatch.setattr(hub, "get_session", Unreachable)
    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(MltrainError) as raised:
        create_backbone(name="mobilenetv2_100", pretrained=True)
    message = str(raised.value)
    assert raised.value.exit_code == 2 and "\n" not in message
    for words in ("no route to host", "model.checkpoint=FILE", "timm/mobilenetv2_100.ra_in1k", "model=small"):
        assert words in message
    # weights in the cache need no hub
    monkeypatch.setattr(
        hub.huggingface_hub, "try_to_load_from_cache", lambda repo, file, revision: str(tmp_path / file)
    )
    with pytest.raises(MltrainError, match="timm tried to download"):
        create_backbone(name="mobilenetv2_100", pretrained=True)


def test_pretrained_asks_timm_for_its_weights_unless_a_file_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    create = timm.create_model

    def watch(name: str, *, pretrained: bool, **kwargs: object) -> nn.Module:
        asked.append(pretrained)
        return create(name, pretrained=False, **kwargs)

    monkeypatch.setattr(hub, "get_session", HubThatAnswers)
    monkeypatch.setattr(backbone_module.timm, "create_model", watch)
    create_backbone(name="resnet18", pretrained=True, image_size=64)
    with pytest.raises(MltrainError, match="no such file"):
        create_backbone(name="resnet18", pretrained=True, checkpoint="absent.pt", image_size=64)
    assert asked == [True, False]


def test_create_classifier_refuses_unknown_heads_and_options() -> None:
    with pytest.raises(ValueError, match="gap, ml_decoder, pfc"):
        create_classifier(name="resnet18", num_classes=3, head="gpa")
    with pytest.raises(ValueError, match=r"group: not an option of MLDecoder.*groups"):
        create_classifier(name="resnet18", num_classes=3, head="ml_decoder", head_options={"group": 3})

"""Pooling of the class token, of both, and by timm itself gives timm's own logits; grey and wide images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from mltrain.errors import ConfigError
from mltrain.models import PFC, Classifier, GlobalAveragePool, create_backbone, create_classifier
from mltrain.models.explain import class_maps, why_no_maps
from mltrain.models.features import Features
from mltrain.sizes import ImageSize, height_width

CLASSES = 3
REGISTERS = {"reg_tokens": 2}


def timm_model(name: str, size: ImageSize, **options: Any) -> nn.Module:
    """timm's own model with its own classifier, of random weights; the two classifiers of a distilled model are one."""
    cfg = timm.get_pretrained_cfg(name)
    if cfg is not None and cfg.fixed_input_size:
        options["img_size"] = size
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES, **options).eval()
    for module in model.modules():  # norms that do something, also to a constant
        if isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            nn.init.normal_(module.weight, 1, 0.1)
            nn.init.normal_(module.bias, 0, 0.1)
    if hasattr(model, "head_dist"):
        model.head_dist.load_state_dict(model.head.state_dict())
    return model


def ours(reference: nn.Module, name: str, size: ImageSize, tokens: str, pool: str, **options: Any) -> Classifier:
    """Our classifier with the weights of timm's."""
    backbone = create_backbone(name=name, image_size=size, pool=pool, timm_kwargs=options or None)
    state = reference.state_dict()
    backbone.model.load_state_dict({key: state[key] for key in backbone.model.state_dict()})
    head = GlobalAveragePool(backbone.num_features, CLASSES, tokens=tokens)
    classifier: Any = reference.get_classifier()
    classifier = classifier[0] if isinstance(classifier, tuple) else classifier
    head.fc.load_state_dict(classifier.state_dict())
    return Classifier(backbone, head).eval()


def images(size: ImageSize, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, 3, *height_width(size)), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("name", "size", "tokens", "pool", "options"),
    [
        ("test_vit", 32, "cls", "head", {}),
        ("test_vit", (32, 64), "cls", "head", {}),
        ("test_vit", 32, "cls", "head", REGISTERS),
        ("deit_tiny_distilled_patch16_224", 32, "cls", "head", {"depth": 1}),
        ("test_vit", 32, "patches", "timm", {}),  # its class token
        ("test_vit3", (32, 64), "patches", "timm", {}),  # attention pooling, as SigLIP has it
        ("test_vit2", 32, "patches", "timm", {}),  # a mean, and a norm after it
        ("mobilenetv3_small_050", 64, "patches", "timm", {}),  # conv_head
        ("test_convnext", (32, 64), "patches", "timm", {}),
    ],
)
def test_logits_are_those_of_timms_own_model(
    name: str, size: ImageSize, tokens: str, pool: str, options: dict[str, Any]
) -> None:
    reference = timm_model(name, size, **options)
    model = ours(reference, name, size, tokens, pool, **options)
    batch = images(size)
    with torch.no_grad():
        expected = reference(model.normalize(batch))
        torch.testing.assert_close(model(batch), expected, rtol=1e-4, atol=1e-5)
        if pool == "timm":
            features = model.features(batch)
            pooled = reference.forward_head(reference.forward_features(model.normalize(batch)), pre_logits=True)  # type: ignore[operator]
            torch.testing.assert_close(features.tokens[:, 0], pooled, rtol=1e-4, atol=1e-5)
            assert features.grid == (1, 1) and features.prefix.shape[1] == 0
    assert expected.std() > 1e-3, "the classifier sees something"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tokens", "pool"),
    [
        ("vit_base_patch16_siglip_224", "patches", "timm"),
        ("vit_small_patch14_reg4_dinov2", "cls", "head"),
        ("vit_base_patch16_clip_224", "cls", "head"),
        ("eva02_tiny_patch14_224", "patches", "timm"),
        ("cait_xxs24_224", "cls", "head"),
        ("mobilenetv3_large_100", "patches", "timm"),
        ("ghostnet_100", "patches", "timm"),
    ],
)
def test_logits_of_larger_models_are_those_of_timms_own(name: str, tokens: str, pool: str) -> None:
    size = timm.get_pretrained_cfg(name).input_size[-1]
    reference = timm_model(name, size)
    model = ours(reference, name, size, tokens, pool)
    batch = images(size, 1)
    with torch.no_grad():
        torch.testing.assert_close(model(batch), reference(model.normalize(batch)), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_model_of_several_maps_is_used_as_it_pools_them() -> None:
    backbone = create_backbone(name="crossvit_9_240", image_size=240, pool="timm").eval()
    batch = torch.randn(2, 3, 240, 240)
    with torch.no_grad():
        expected = backbone.model.forward_head(backbone.model.forward_features(batch), pre_logits=True)  # type: ignore[operator]
        torch.testing.assert_close(backbone(batch).tokens[:, 0], expected)
    assert backbone.num_features == expected.shape[1]


def test_every_parameter_that_is_kept_has_a_gradient() -> None:
    for name, size, tokens, pool in (
        ("test_vit", 32, "cls", "head"),
        ("test_vit", 32, "both", "head"),
        ("test_vit3", 32, "patches", "timm"),
        ("mobilenetv3_small_050", 64, "patches", "timm"),
    ):
        backbone = create_backbone(name=name, image_size=size, pool=pool)
        model = Classifier(backbone, GlobalAveragePool(backbone.num_features, 2, tokens=tokens))
        model(images(size)).sum().backward()
        assert not [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None], name


def test_both_is_the_class_token_beside_the_mean() -> None:
    tokens, class_token = torch.randn(2, 6, 4), torch.randn(2, 4)
    head = GlobalAveragePool(4, CLASSES, tokens="both").eval()
    expected = class_token @ head.fc.weight[:, :4].T + tokens.mean(1) @ head.fc.weight[:, 4:].T + head.fc.bias
    torch.testing.assert_close(head(tokens, class_token), expected)
    neck = PFC(4, CLASSES, dim=5, tokens="both").eval()
    torch.testing.assert_close(
        neck(tokens, class_token), neck.fc(neck.norm(neck.neck(torch.cat([class_token, tokens.mean(1)], 1))))
    )
    only = PFC(4, CLASSES, dim=5, tokens="cls").eval()
    torch.testing.assert_close(only(tokens, class_token), only.fc(only.norm(only.neck(class_token))))


def test_the_class_token_of_a_batch_goes_to_a_head_that_takes_it() -> None:
    class Own(nn.Module):
        def forward(self, tokens: Tensor, class_token: Tensor) -> Tensor:
            return class_token[:, :CLASSES]

    backbone = create_backbone(name="test_vit", image_size=32, timm_kwargs=REGISTERS).eval()
    model = Classifier(backbone, Own())
    with torch.no_grad():
        features = model.features(images(32))
        assert features.prefix.shape[1] == 3 and backbone.class_tokens == 1
        assert torch.equal(model(images(32)), features.prefix[:, 0, :CLASSES])
    half = Features(features.tokens.half(), features.grid, features.prefix.half()).float()
    assert half.tokens.dtype == half.prefix.dtype == torch.float32, "the head of an evaluation is in fp32"


def test_maps_of_both_are_the_part_of_the_places() -> None:
    model = create_classifier(
        name="test_vit", num_classes=CLASSES, image_size=(32, 64), head_options={"tokens": "both"}
    ).eval()
    nn.init.normal_(model.head.fc.weight)  # type: ignore[union-attr, arg-type]
    found = class_maps(model, images((32, 64)))
    assert found.maps.shape == (2, CLASSES, 2, 4)
    with torch.no_grad():
        features = model.features(images((32, 64)))
        weight = model.head.fc.weight[:, : model.backbone.num_features]  # type: ignore[union-attr]
        rest = features.prefix[:, 0] @ weight.T + model.head.fc.bias  # type: ignore[union-attr]
    torch.testing.assert_close(found.maps.mean((2, 3)) + rest, found.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("tokens", "pool", "reason"),
    [
        ("cls", "head", "head.tokens=cls.*no place.*head.tokens=both"),
        ("patches", "timm", "model.pool=timm.*one vector"),
    ],
)
def test_what_has_no_places_has_no_maps(tokens: str, pool: str, reason: str) -> None:
    options: dict[str, Any] = {"head_options": {"tokens": tokens}, "backbone_options": {"pool": pool}}
    model = create_classifier(name="test_vit", num_classes=2, image_size=32, **options).eval()
    assert why_no_maps(model) is not None
    with pytest.raises(ValueError, match=reason):
        class_maps(model, images(32))


def test_a_class_token_that_is_not_there_is_refused() -> None:
    for name in ("test_resnet", "test_vit2"):  # the second has a register token alone
        backbone = create_backbone(name=name, image_size=32)
        with pytest.raises(ConfigError, match=r"head.tokens=cls: the backbone has no class token; use head.tokens=pat"):
            Classifier(backbone, GlobalAveragePool(backbone.num_features, 2, tokens="cls"))
    with pytest.raises(ValueError, match="tokens='all': must be one of patches, cls, both"):
        GlobalAveragePool(4, 2, tokens="all")  # type: ignore[arg-type]


EQUAL = {"mean": (0.4,) * 3, "std": (0.2,) * 3}


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", pytest.param("tresnet_s", marks=pytest.mark.slow)])
def test_grey_images_give_what_rgb_weights_gave_for_them(name: str, tmp_path: Path) -> None:
    """The mean and std of the three colours are equal here, so that a grey image means the same to both."""
    grey = images(32)[:, :1]
    rgb = create_classifier(name=name, num_classes=CLASSES, image_size=32, backbone_options=dict(EQUAL)).eval()
    torch.save(rgb.backbone.model.state_dict(), tmp_path / "w.pt")
    made: Any = {"name": name, "image_size": 32, "checkpoint": str(tmp_path / "w.pt")}
    one = {"in_chans": 1, "mean": (0.4,), "std": (0.2,)}
    model = create_classifier(num_classes=CLASSES, backbone_options=one, **made).eval()
    model.head.load_state_dict(rgb.head.state_dict())
    with torch.no_grad():
        expected = rgb(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(model(grey), expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(model(grey.expand(-1, 3, -1, -1)), expected, rtol=1e-3, atol=1e-4)


def test_colours_become_their_luma() -> None:
    options = {"in_chans": 1, "timm_kwargs": {"depth": 1}}
    model = create_classifier(name="deit_tiny_patch16_224", num_classes=2, image_size=32, backbone_options=options)
    batch = images(32)
    expected = 0.299 * batch[:, 0] + 0.587 * batch[:, 1] + 0.114 * batch[:, 2]
    mean, std = sum((0.485, 0.456, 0.406)) / 3, sum((0.229, 0.224, 0.225)) / 3
    torch.testing.assert_close(model.normalize(batch)[:, 0], (expected / 255 - mean) / std, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_chans": 4}, r"model.in_chans=4: images are read as RGB, so it is 3 \(RGB\) or 1"),
        ({"in_chans": 1, "mean": (0.5, 0.5, 0.5)}, "model.mean=.*must be one number"),
        ({"image_size": (32, 0)}, r"model.image_size=\[32, 0\]: must be a positive number of pixels, or two"),
        ({"image_size": (40, 64)}, r"model.image_size=\[40,64\].*nearest are \[32,64\] and \[48,80\]"),
        ({"timm_kwargs": {"global_pool": "avg"}}, "timm_kwargs.global_pool.*model.pool"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_backbone(**{"name": "test_vit", "image_size": 32, **options})


def test_places_of_a_wide_image_lie_row_by_row() -> None:
    for name, grid in (("test_vit", (2, 4)), ("test_resnet", (1, 2)), ("test_convnext", (1, 2))):
        backbone = create_backbone(name=name, image_size=(32, 64)).eval()
        assert backbone.image_size == (32, 64) and backbone.step == (32 // grid[0], 64 // grid[1])
        batch = torch.randn(1, 3, 32, 64)
        with torch.no_grad():
            features = backbone(batch)
            assert features.grid == grid and features.tokens.shape[1] == grid[0] * grid[1]
            if name == "test_vit":  # the last patch of the first row is token 3
                embedded = backbone.model.patch_embed(batch)  # type: ignore[operator]
                changed = batch.clone()
                changed[..., :16, 48:] += 1
                difference = (backbone.model.patch_embed(changed) - embedded).abs().sum(-1).flatten()  # type: ignore[operator]
                assert difference.nonzero().tolist() == [[3]]


def test_another_size_than_the_models_is_tried() -> None:
    create_backbone(name="test_resnet", image_size=32).check_size((48, 64))
    dynamic = create_backbone(name="test_vit", image_size=32).train()
    dynamic.check_size((48, 64))
    assert dynamic.training
    fixed = create_backbone(name="deit_tiny_patch16_224", image_size=32, timm_kwargs={"depth": 1})
    with pytest.raises(ValueError, match="Input height"):
        fixed.check_size(48)
    fixed.check_size((32, 32))

"""Any module as a backbone, and what is said of one that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mltrain.errors import ConfigError
from mltrain.models.backbone import Backbone
from mltrain.models.classifier import Classifier, check_head
from mltrain.models.own_backbone import wrap_backbone


class Net(nn.Module):
    """A convolution, whose map is returned in a form."""

    def __init__(self, form: str = "map") -> None:
        super().__init__()
        self.layer, self.norm, self.unused = nn.Conv2d(3, 4, 4, stride=4), nn.BatchNorm2d(4), nn.Linear(2, 2)
        self.form = form

    def forward(self, images: Tensor) -> Any:
        x = self.norm(self.layer(images))
        forms = {"map": x, "tokens": x.flatten(2).mT, "vectors": x.mean((2, 3)), "list": [x], "five": x[None]}
        return self.layer(x) if self.form == "wrong" else forms[self.form]


@pytest.mark.parametrize(("form", "grid"), [("map", (4, 4)), ("tokens", (4, 4)), ("vectors", (1, 1))])
def test_the_features_are_tokens_whatever_form_they_come_in(form: str, grid: tuple[int, int]) -> None:
    module = Net(form)
    backbone = wrap_backbone(module, image_size=16)
    images = torch.randn(2, 3, 16, 16)
    backbone.eval()
    features = backbone(images)
    x = module.norm(module.layer(images))
    expected = x.mean((2, 3))[:, None] if form == "vectors" else x.flatten(2).mT
    assert (backbone.num_features, features.grid, features.prefix.shape[1]) == (4, grid, 0)
    assert torch.equal(features.tokens, expected)
    assert "module.unused.weight" not in backbone.model.state_dict(), "what the features do not need is removed"


def test_size_and_normalisation_come_from_options_or_the_module() -> None:
    module = Net()
    module.image_size, module.mean = 32, (0.5, 0.5, 0.5)  # type: ignore[assignment]
    backbone = wrap_backbone(module)
    assert (backbone.image_size, backbone.mean) == (32, (0.5, 0.5, 0.5))
    assert wrap_backbone(Net(), image_size=8, mean=(0.1, 0.2, 0.3)).mean == (0.1, 0.2, 0.3)
    assert wrap_backbone(backbone) is backbone


def test_weights_and_freezing(tmp_path: Any) -> None:
    source = Net()
    torch.save(source.state_dict(), tmp_path / "net.pt")
    backbone = wrap_backbone(Net(), image_size=16, checkpoint=str(tmp_path / "net.pt"), freeze_stages=-1)
    assert torch.equal(backbone.model.module.layer.weight, source.layer.weight)  # type: ignore[union-attr]
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("made", "options", "expected"),
    [
        (Net("list"), {}, r"its features are list, not one map of tokens; return a map \(B, D, h, w\)"),
        (Net("five"), {}, r"its features are \(1, 1, 4, 4, 4\)"),
        (Net("wrong"), {}, r"cannot run on an image \(1, 3, 16, 16\): RuntimeError.*\n.*test_own_backbone.py, line"),
        (print, {}, "not a torch.nn.Module"),
        (wrap_backbone(Net(), image_size=16), {"freeze_norm": True}, "has no use for freeze_norm"),
    ],
)
def test_what_cannot_be_a_backbone_is_named(made: Any, options: dict[str, Any], expected: str) -> None:
    size = {} if isinstance(made, Backbone) else {"image_size": 16}
    with pytest.raises(ConfigError, match=expected):
        wrap_backbone(made, **size, **options)


def test_a_head_is_tried_before_the_training() -> None:
    model = Classifier(wrap_backbone(Net(), image_size=16), nn.Linear(4, 3))
    with pytest.raises(ConfigError, match=r"returns \(2, 4, 3\) for tokens \(2, 4, 4\), not logits \(2, 3\)"):
        check_head(model, 3)
    with pytest.raises(ConfigError, match="cannot run on tokens"):
        check_head(Classifier(model.backbone, nn.Linear(5, 3)), 3)

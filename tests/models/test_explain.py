"""Maps of classes: what they add up to, and that they point at what the class was told by."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mltrain.models import create_classifier
from mltrain.models.classifier import HEADS
from mltrain.models.explain import class_maps
from mltrain.models.label_embeddings import write_label_embeddings

B, N, D, C, GRID = 3, 20, 16, 7, (4, 5)

EVIDENCE: dict[str, tuple[str, dict[str, Any]]] = {
    "gap": ("gap", {}),
    "gap with a bottleneck": ("gap", {"bottleneck": 5}),
    "pfc": ("pfc", {"dim": 8}),
    "csra": ("csra", {"lam": 0.4}),
    "csra of 4 heads": ("csra", {"num_heads": 4, "lam": 0.4, "prior": 0.1}),
}
SMALL = {"num_heads": 4, "ffn_dim": 32}
ATTENTION: dict[str, tuple[str, dict[str, Any]]] = {
    "ml_decoder": ("ml_decoder", {"dim": 24, **SMALL}),
    "ml_decoder of 3 groups": ("ml_decoder", {"dim": 24, "groups": 3, **SMALL}),
    "query2label": ("query2label", {**SMALL}),
    "query2label, one layer": ("query2label", {"dim": 24, "decoder_layers": 1, "encoder_layers": 0, **SMALL}),
    "query2label with self-attention": (
        "query2label",
        {"keep_first_self_attention": True, "keep_other_self_attention": True, **SMALL},
    ),
}


def build(name: str, options: dict[str, Any], classes: int = C) -> nn.Module:
    torch.manual_seed(0)
    head: nn.Module = HEADS[name](D, classes, **options)
    for parameter in head.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    for buffer in head.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    return head.eval()


def call(head: nn.Module, tokens: Tensor, grid: tuple[int, int], method: str = "forward") -> Tensor:
    options = {"grid": grid} if type(head).__name__ == "Query2Label" else {}
    found: Tensor = getattr(head, method)(tokens, **options)
    return found


@pytest.mark.parametrize("case", EVIDENCE)
def test_evidence_averages_to_the_logit_less_its_constant(case: str) -> None:
    head = build(*EVIDENCE[case]).double()
    tokens = torch.randn(B, N, D, dtype=torch.float64)
    maps, logits = call(head, tokens, GRID, "class_maps"), call(head, tokens, GRID)
    assert maps.shape == (B, C, N)
    if case == "gap":
        constant = head.fc.bias
    elif case.startswith("csra"):
        constant = torch.zeros(C) if head.bias is None else head.bias
    else:
        constant = call(head, torch.zeros_like(tokens), GRID)[0]
    torch.testing.assert_close(maps.mean(2) + constant, logits, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", ATTENTION)
def test_attention_sums_to_1_and_is_the_forward_pass_s_own(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head = build(*ATTENTION[case]).double()
    tokens = torch.randn(B, N, D, dtype=torch.float64)
    maps = call(head, tokens, GRID, "class_maps")
    assert maps.shape == (B, C, N) and bool((maps > 0).all())
    torch.testing.assert_close(maps.sum(2), torch.ones(B, C, dtype=torch.float64))

    # What the last attention of the forward pass was given says the same.
    given: list[tuple[Tensor, Tensor]] = []
    real = F.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        given.append((query, key))
        return real(query, key, value, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    call(head, tokens, GRID)
    query, key = given[-1]
    expected = (query @ key.transpose(2, 3) / math.sqrt(query.shape[3])).softmax(3).mean(1)
    group = 1 if case != "ml_decoder of 3 groups" else 3
    torch.testing.assert_close(maps, expected.repeat_interleave(group, 1)[:, :C])


@pytest.mark.parametrize("case", [*EVIDENCE, "ml_decoder", "query2label, one layer"])
def test_the_map_of_a_class_is_highest_where_its_signal_is(case: str) -> None:
    """Each present class shows in one token; after training on which classes are there, the maps say where."""
    name, options = {**EVIDENCE, **ATTENTION}[case]
    classes, places = 4, 12
    torch.manual_seed(1)
    head = HEADS[name](D, classes, **(options | ({"groups": None} if name == "ml_decoder" else {})))
    signal = 3 * F.normalize(torch.randn(classes, D), dim=1) * math.sqrt(D)

    def draw(count: int) -> tuple[Tensor, Tensor, Tensor]:
        present = torch.rand(count, classes) < 0.5
        place = torch.rand(count, places).argsort(1)[:, :classes]
        tokens = torch.randn(count, places, D)
        rows, columns = present.nonzero(as_tuple=True)
        tokens[rows, place[rows, columns]] += signal[columns]
        return tokens, present, place

    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    for _ in range(250):
        tokens, present, _ = draw(48)
        loss = F.binary_cross_entropy_with_logits(call(head, tokens, (3, 4)), present.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head.eval()
    with torch.no_grad():
        tokens, present, place = draw(200)
        found = call(head, tokens, (3, 4), "class_maps").argmax(2)
    assert float((found == place)[present].float().mean()) > 0.9


def test_maps_lie_on_the_image_as_it_is_seen() -> None:
    """A backbone of known geometry: the mean colour of each 8 x 8 pixels; class k is channel k."""

    class Colours(nn.Module):
        mean, std, num_features, image_size = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 3, 32

        def forward(self, images: Tensor) -> Any:
            pooled = F.avg_pool2d(images, 8)
            grid = (pooled.shape[2], pooled.shape[3])
            from mltrain.models.backbone import Features

            return Features(pooled.flatten(2).transpose(1, 2), grid, pooled.new_zeros(len(images), 0, 3))

    from mltrain.models.classifier import Classifier

    head = HEADS["gap"](3, 3)
    head.fc.weight.data = torch.eye(3)
    model = Classifier(Colours(), head).eval()  # type: ignore[arg-type]
    images = torch.zeros(1, 3, 32, 48, dtype=torch.uint8)
    images[0, 0, 8:16, 40:48] = 255  # red in row 1, column 5
    images[0, 2, 24:32, 0:8] = 255  # blue in row 3, column 0
    found = class_maps(model, images)
    assert found.kind == "evidence" and found.maps.shape == (1, 3, 4, 6)
    assert np.unravel_index(int(found.maps[0, 0].argmax()), (4, 6)) == (1, 5)
    assert np.unravel_index(int(found.maps[0, 2].argmax()), (4, 6)) == (3, 0)
    assert not found.maps[0, 1].any()
    torch.testing.assert_close(found.maps.mean((2, 3)) + head.fc.bias, found.logits)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("head", sorted(set(HEADS) - {"zero_shot"}))
def test_every_head_explains_every_backbone(backbone: str, head: str) -> None:
    options = {} if head in ("gap", "csra") else {"dim": 32}
    model = create_classifier(name=backbone, num_classes=5, head=head, image_size=160, head_options=options).eval()
    images = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    found = class_maps(model, images)
    grid = model.features(images).grid
    assert found.maps.shape == (2, 5, *grid)
    torch.testing.assert_close(found.logits, model(images), rtol=1e-4, atol=1e-5)
    assert found.kind == ("attention" if head in ("ml_decoder", "query2label") else "evidence")


def test_zero_shot_queries_are_explained_too(tmp_path: Any) -> None:
    names = ("a", "b", "c")
    vectors = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
    write_label_embeddings(tmp_path / "e.npz", names, vectors)
    head = HEADS["zero_shot"](D, 3, class_names=names, embeddings=str(tmp_path / "e.npz"), dim=24, **SMALL).eval()
    maps = head.class_maps(torch.randn(B, N, D))
    torch.testing.assert_close(maps.sum(2), torch.ones(B, 3))
    assert float((maps[:, 0] - maps[:, 1]).detach().abs().max()) > 0


def test_a_head_without_maps_is_named() -> None:
    model = SimpleNamespace(head=nn.Linear(2, 2))
    with pytest.raises(ValueError, match="Linear has no class_maps; heads with class_maps: csra, gap"):
        class_maps(model, torch.zeros(1))  # type: ignore[arg-type]

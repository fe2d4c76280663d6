"""CSRA and Query2Label against plain restatements of their published formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mltrain.models import Classifier, create_backbone
from mltrain.models.heads import CSRA, GlobalAveragePool, Query2Label
from mltrain.models.heads.query2label import sine_positions


def assert_same(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


# -- CSRA ------------------------------------------------------------------------------------------------------------


def plain_csra(images: Tensor, weights: list[Tensor], temperatures: list[float], lam: float) -> Tensor:
    """A map (B, D, h, w) through 1 x 1 convolutions (C, D, 1, 1), class by class."""
    total = torch.zeros(len(images), len(weights[0]), dtype=images.dtype)
    for weight, temperature in zip(weights, temperatures, strict=True):
        scores = F.conv2d(images, weight)
        columns = []
        for c in range(len(weight)):
            s = scores[:, c].flatten(1) / weight[c].square().sum().sqrt()
            if temperature == 99:
                attended = s.max(dim=1).values
            else:
                share = torch.exp(temperature * s) / torch.exp(temperature * s).sum(dim=1, keepdim=True)
                attended = (share * s).sum(dim=1)
            columns.append(s.sum(dim=1) / s.shape[1] + lam * attended)
        total = total + torch.stack(columns, dim=1)
    return total


@pytest.mark.parametrize(
    ("num_heads", "temperatures"),
    [(1, [1]), (2, [1, 99]), (4, [1, 2, 4, 99]), (6, [1, 2, 3, 4, 5, 99]), (8, [1, 2, 3, 4, 5, 6, 7, 99])],
)
def test_csra_equals_the_published_formula_in_values_and_gradients(num_heads: int, temperatures: list[float]) -> None:
    torch.manual_seed(0)
    head = CSRA(24, 5, num_heads=num_heads, lam=0.4).double()
    assert [k for k, _ in head.named_parameters()] == [f"multi_head.{k}.head.weight" for k in range(num_heads)]
    tokens = torch.randn(3, 6, 24, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 5)
    weights = [p.detach()[:, :, None, None].requires_grad_() for p in head.parameters()]
    images = tokens.detach().transpose(1, 2).unflatten(2, (2, 3)).requires_grad_()
    expected = plain_csra(images, weights, temperatures, 0.4)
    expected_gradients = torch.autograd.grad((expected * upstream).sum(), [images, *weights])
    logits = head(tokens)
    gradients = torch.autograd.grad((logits * upstream).sum(), [tokens, *head.parameters()])
    ours = [logits, gradients[0].transpose(1, 2).unflatten(2, (2, 3)), *(g[:, :, None, None] for g in gradients[1:])]
    assert_same(ours, [expected, *expected_gradients], 1e-12)
    assert_same([head.float()(tokens.float())], [expected.float()], 1e-6)


def test_csra_takes_temperatures_of_its_own_and_a_prior() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, 9, 8)
    assert torch.equal(
        CSRA(8, 3, num_heads=3, temperatures=[1, 5, 99], prior=0.1)(tokens * 0), torch.full((2, 3), -math.log(9))
    )
    head = CSRA(8, 3, lam=0.0)
    direction = head.multi_head[0].head.weight / head.multi_head[0].head.weight.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head(tokens), tokens.mean(1) @ direction.T)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_csra_stays_finite_and_near_fp32_in_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    head = CSRA(64, 5, num_heads=8, lam=0.5)
    tokens = 60 * torch.randn(2, 49, 64)  # times the temperature 7: beyond what exp() takes in fp16
    exact = head(tokens)
    half = head.to(dtype)(tokens.to(dtype))
    assert half.dtype is torch.float32 and half.isfinite().all()
    step = torch.finfo(dtype).eps
    assert (half - exact).abs().max() < 20 * step * exact.abs().max()


# -- Query2Label -----------------------------------------------------------------------------------------------------


class PlainLayer(nn.Module):
    """A DETR layer of torch's own attention modules; `reads`: with attention to a memory."""

    def __init__(self, dim: int, heads: int, ffn: int, *, attends: bool, reads: bool) -> None:
        super().__init__()
        if attends:
            self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
            self.norm1 = nn.LayerNorm(dim)
        if reads:
            self.multihead_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
            self.norm3 = nn.LayerNorm(dim)
        self.linear1, self.linear2, self.norm2 = nn.Linear(dim, ffn), nn.Linear(ffn, dim), nn.LayerNorm(dim)

    def encode(self, memory: Tensor, place: Tensor) -> Tensor:
        q = memory + place
        memory = self.norm1(memory + self.self_attn(q, q, memory)[0])
        return self.norm2(memory + self.linear2(F.relu(self.linear1(memory))))

    def decode(self, target: Tensor, queries: Tensor, memory: Tensor, place: Tensor) -> Tensor:
        if hasattr(self, "self_attn"):
            q = target + queries
            target = self.norm1(target + self.self_attn(q, q, target)[0])
        target = self.norm2(target + self.multihead_attn(target + queries, memory + place, memory)[0])
        return self.norm3(target + self.linear2(F.relu(self.linear1(target))))


class PlainQuery2Label(nn.Module):
    def __init__(
        self, in_features: int, num_classes: int, dim: int | None, heads: int, ffn: int, encoder: int, kept: list[bool]
    ) -> None:
        super().__init__()
        width = in_features if dim is None else dim
        self.input_proj = nn.Identity() if dim is None else nn.Linear(in_features, dim)
        self.transformer = nn.Module()
        self.transformer.encoder, self.transformer.decoder = nn.Module(), nn.Module()
        self.transformer.encoder.layers = nn.ModuleList(
            PlainLayer(width, heads, ffn, attends=True, reads=False) for _ in range(encoder)
        )
        self.transformer.decoder.layers = nn.ModuleList(
            PlainLayer(width, heads, ffn, attends=keep, reads=True) for keep in kept
        )
        self.transformer.decoder.norm = nn.LayerNorm(width)
        self.query_embed = nn.Embedding(num_classes, width)
        self.fc = nn.Module()
        self.fc.W, self.fc.b = (
            nn.Parameter(torch.zeros(1, num_classes, width)),
            nn.Parameter(torch.zeros(1, num_classes)),
        )

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        memory = self.input_proj(tokens)
        place = plain_positions(grid, memory.shape[2])[None]
        for layer in self.transformer.encoder.layers:
            memory = layer.encode(memory, place)
        queries = self.query_embed.weight[None].repeat(len(tokens), 1, 1)
        target = torch.zeros_like(queries)
        for layer in self.transformer.decoder.layers:
            target = layer.decode(target, queries, memory, place)
        target = self.transformer.decoder.norm(target)
        return torch.stack([target[:, c] @ self.fc.W[0, c] for c in range(self.fc.W.shape[1])], 1) + self.fc.b


def plain_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """Number by number."""
    h, w = grid
    out = torch.zeros(h * w, dim)
    for y in range(h):
        for x in range(w):
            for k in range(dim // 2):
                for start, at, length in ((0, y, h), (dim // 2, x, w)):
                    angle = 2 * math.pi * (at + 1) / (length + 1e-6) / 10_000 ** (2 * (k // 2) / (dim // 2))
                    out[y * w + x, start + k] = math.cos(angle) if k % 2 else math.sin(angle)
    return out


@pytest.mark.parametrize(
    ("dim", "encoder", "kept"),
    [
        (None, 1, [False, False]),
        (16, 1, [False, False]),
        (None, 0, [True]),
        (None, 2, [True, True, True]),
        (24, 1, [False, True]),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_query2label_equals_the_published_formula_in_values_and_gradients(
    dim: int | None, encoder: int, kept: list[bool], training: bool
) -> None:
    torch.manual_seed(0)
    head = Query2Label(
        20, 7, dim=dim, ffn_dim=48, encoder_layers=encoder, decoder_layers=len(kept), dropout=0.0,
        keep_first_self_attention=kept[0], keep_other_self_attention=kept[-1] if len(kept) > 1 else False,
    )  # fmt: skip
    plain = PlainQuery2Label(20, 7, dim, 4, 48, encoder, kept)
    with torch.no_grad():
        for parameter in head.parameters():  # also the biases and norms that start from 0 and 1
            parameter.normal_(std=0.3)
    assert plain.load_state_dict(head.state_dict())
    head.train(training)
    tokens = torch.randn(3, 15, 20, requires_grad=True)
    upstream = torch.randn(3, 7)
    results = []
    for module in (head, plain):
        tokens.grad = None
        logits = module(tokens, grid=(3, 5))
        (logits * upstream).sum().backward()
        results.append([logits, tokens.grad, *(p.grad for _, p in sorted(module.named_parameters()))])
    assert_same(results[0], results[1], 1e-5)


def test_query2label_has_the_published_parameters_and_start() -> None:
    torch.manual_seed(0)
    head = Query2Label(256, 80, ffn_dim=1024)
    shapes = {k: tuple(v.shape) for k, v in head.state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {"query_embed.weight": (80, 256), "fc.W": (1, 80, 256), "fc.b": (1, 80)}
    layers = [("encoder.layers.0", "self_attn", (1, 2)), ("decoder.layers.0", "multihead_attn", (2, 3))]
    layers.append(("decoder.layers.1", *layers[1][1:]))
    for layer, attention, norms in layers:
        start = f"transformer.{layer}"
        expected |= {
            f"{start}.{attention}.in_proj_weight": (768, 256),
            f"{start}.{attention}.in_proj_bias": (768,),
            f"{start}.{attention}.out_proj.weight": (256, 256),
            f"{start}.{attention}.out_proj.bias": (256,),
            f"{start}.linear1.weight": (1024, 256),
            f"{start}.linear1.bias": (1024,),
            f"{start}.linear2.weight": (256, 1024),
            f"{start}.linear2.bias": (256,),
            **{f"{start}.norm{i}.{k}": (256,) for i in norms for k in ("weight", "bias")},
        }
    expected |= {f"transformer.decoder.norm.{k}": (256,) for k in ("weight", "bias")}
    assert shapes == expected
    assert head.query_embed.weight.std().item() == pytest.approx(1, abs=0.02)
    assert head.fc.W.abs().max().item() == pytest.approx(1 / 16, rel=0.01)
    weight = head.transformer.decoder.layers[0].linear1.weight
    assert weight.abs().max().item() == pytest.approx(math.sqrt(6 / (256 + 1024)), rel=0.01)
    assert torch.equal(Query2Label(8, 3, ffn_dim=8, prior=0.1).fc.b, torch.full((1, 3), -math.log(9)))


def test_query2label_drops_differently_for_each_image_in_training_and_not_at_all_in_evaluation() -> None:
    head = Query2Label(16, 5, ffn_dim=64, dropout=0.3)
    tokens = torch.randn(1, 9, 16).expand(4, -1, -1)
    trained = head(tokens, (3, 3))
    assert (trained - trained[:1])[1:].abs().amax(1).min() > 1e-4
    head.eval()
    torch.testing.assert_close(head(tokens, (3, 3)), head(tokens[:1], (3, 3)).expand(4, -1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_query2label_runs_in_half_precision_near_fp32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    head = Query2Label(32, 6, ffn_dim=64).eval()
    tokens = torch.randn(2, 12, 32)
    exact = head(tokens, (3, 4))
    half = head.to(dtype)(tokens.to(dtype), (3, 4))
    assert half.dtype is dtype
    assert (half.float() - exact).abs().max() < 10 * torch.finfo(dtype).eps * exact.abs().max()


def test_positions_tell_rows_from_columns_and_any_two_tokens_apart() -> None:
    positions = sine_positions((7, 5), 64)
    torch.testing.assert_close(positions, plain_positions((7, 5), 64), atol=1e-5, rtol=0)
    distances = torch.cdist(positions, positions) + 9 * torch.eye(35)
    assert distances.min() > 0.1
    assert torch.equal(positions[:5, :32], positions[:1, :32].expand(5, -1)), "the first half tells the row"


# -- both, on backbones ----------------------------------------------------------------------------------------------


def test_only_a_head_that_names_the_grid_is_given_it() -> None:
    backbone = create_backbone(name="test_resnet", image_size=64).eval()
    seen: list[tuple[int, int]] = []

    class Head(nn.Module):
        def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
            seen.append(grid)
            return tokens.mean(1)

    images = torch.randint(256, (1, 3, 64, 96), dtype=torch.uint8)
    Classifier(backbone, Head())(images)
    features = backbone(torch.zeros(1, 3, 64, 96))
    assert seen == [features.grid] and features.grid[0] * 3 == features.grid[1] * 2
    width = backbone.num_features
    Classifier(backbone, GlobalAveragePool(width, 3))(images)
    assert Classifier(backbone, Query2Label(width, 3, ffn_dim=8))(images).shape == (1, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "num_heads=3: .*1, 2, 4, 6, 8 heads"),
        ({"num_heads": 2, "temperatures": [1]}, "needs 2 of them"),
        ({"temperatures": [-1]}, "must be 0 or more"),
        ({"lam": -0.1}, "lam=-0.1"),
        ({"prior": 1.0}, "prior=1.0"),
    ],
)
def test_csra_refuses_options_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CSRA(16, 5, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 18}, "dim=18: must be a positive multiple of 4"),
        ({"num_heads": 3}, "dim=null, the 16 features of the backbone"),
        ({"encoder_layers": -1}, "encoder_layers=-1"),
        ({"decoder_layers": 0}, "decoder_layers=0"),
        ({"ffn_dim": 0}, "ffn_dim=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"prior": 0.0}, "prior=0.0"),
    ],
)
def test_query2label_refuses_options_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Query2Label(16, 5, **options)

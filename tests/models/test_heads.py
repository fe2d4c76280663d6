"""Heads against plain restatements of their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mltrain.labels import LabelSet, LabelStats
from mltrain.models.heads import CSRA, PFC, GlobalAveragePool, MLDecoder, Query2Label
from mltrain.models.heads.ml_decoder import dropout_


class PlainMLDecoder(nn.Module):
    """The published head from torch's own modules: an attention module, classes placed one by one."""

    def __init__(self, in_features: int, num_classes: int, groups: int, dim: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.num_classes, self.groups = num_classes, groups
        self.size = math.ceil(num_classes / groups)
        self.embed_standart = nn.Linear(in_features, dim)
        self.query_embed = nn.Embedding(groups, dim)
        layer = nn.Module()
        layer.multihead_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        layer.linear1, layer.linear2 = nn.Linear(dim, ffn), nn.Linear(ffn, dim)
        layer.norm1, layer.norm2, layer.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.layers = nn.ModuleList([layer])
        self.duplicate_pooling = nn.Parameter(torch.zeros(groups, dim, self.size))
        self.duplicate_pooling_bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, tokens: Tensor) -> Tensor:
        layer = self.layers[0]
        memory = F.relu(self.embed_standart(tokens))
        t = self.query_embed.weight.unsqueeze(0).repeat(len(tokens), 1, 1)
        t = layer.norm1(t + t)
        t = layer.norm2(t + layer.multihead_attn(t, memory, memory)[0])
        h = layer.norm3(t + layer.linear2(F.relu(layer.linear1(t))))
        logits = [
            h[:, c // self.size] @ self.duplicate_pooling[c // self.size, :, c % self.size]
            for c in range(self.num_classes)
        ]
        return torch.stack(logits, 1) + self.duplicate_pooling_bias


@pytest.mark.parametrize(("num_classes", "groups"), [(7, 7), (7, 3), (10, 4), (5, 1), (101, 100)])
@pytest.mark.parametrize("training", [False, True])
def test_ml_decoder_equals_the_published_formula_in_values_and_gradients(
    num_classes: int, groups: int, training: bool
) -> None:
    torch.manual_seed(0)
    head = MLDecoder(20, num_classes, groups=groups, dim=32, num_heads=4, ffn_dim=48, dropout=0.0, learned_queries=True)
    plain = PlainMLDecoder(20, num_classes, groups, 32, 4, 48)
    with torch.no_grad():
        for parameter in head.parameters():  # also the biases and norms that start from 0 and 1
            parameter.normal_(std=0.3)
    assert plain.load_state_dict(head.state_dict())
    head.train(training)
    tokens = torch.randn(3, 11, 20, requires_grad=True)
    weight = torch.randn(3, num_classes)
    results = []
    for module in (head, plain):
        tokens.grad = None
        logits = module(tokens)
        (logits * weight).sum().backward()
        results.append([logits, tokens.grad, *(p.grad for _, p in sorted(module.named_parameters()))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_ml_decoder_has_the_published_parameters_and_starting_values() -> None:
    head = MLDecoder(2048, 80)
    shapes = {k: tuple(v.shape) for k, v in head.state_dict().items()}
    layer = "layers.0."
    assert shapes == {
        "embed_standart.weight": (768, 2048),
        "embed_standart.bias": (768,),
        "query_embed.weight": (80, 768),
        "duplicate_pooling": (80, 768, 1),
        "duplicate_pooling_bias": (80,),
        **{f"{layer}norm{i}.{k}": (768,) for i in (1, 2, 3) for k in ("weight", "bias")},
        f"{layer}multihead_attn.in_proj_weight": (2304, 768),
        f"{layer}multihead_attn.in_proj_bias": (2304,),
        f"{layer}multihead_attn.out_proj.weight": (768, 768),
        f"{layer}multihead_attn.out_proj.bias": (768,),
        f"{layer}linear1.weight": (2048, 768),
        f"{layer}linear1.bias": (2048,),
        f"{layer}linear2.weight": (768, 2048),
        f"{layer}linear2.bias": (768,),
    }
    trainable = sum(p.numel() for p in head.parameters() if p.requires_grad)
    assert round(trainable / 1e6, 2) == 7.15
    assert not head.query_embed.weight.requires_grad
    assert head.query_embed.weight.std().item() == pytest.approx(1, abs=0.02)
    assert head.duplicate_pooling.std().item() == pytest.approx(math.sqrt(2 / (768 + 80)), rel=0.02)
    assert not head.duplicate_pooling_bias.any()
    assert all((norm.weight == 1).all() for norm in (head.layers[0].norm1, head.layers[0].norm2, head.layers[0].norm3))


def test_a_small_query_scale_lets_the_images_show_in_the_logits_from_the_start() -> None:
    spread = []
    for query_scale in (1.0, 0.1):
        torch.manual_seed(0)
        head = MLDecoder(64, 12, dim=64, query_scale=query_scale).eval()
        assert (head.layers[0].norm1.weight == query_scale).all() and (head.layers[0].norm2.weight == 1).all()
        with torch.no_grad():
            spread.append(head(torch.randn(50, 16, 64).relu()).std(0).mean().item())
    assert spread[1] > 4 * spread[0]


def test_pooled_ml_decoder_starts_as_a_linear_layer_of_the_mean_token_and_trains_both() -> None:
    torch.manual_seed(0)
    head = MLDecoder(20, 7, groups=3, dim=16, prior=0.1, pooled=True)
    tokens = torch.randn(4, 9, 20)
    expected = tokens.mean(1) @ head.pooled.weight.T + head.duplicate_pooling_bias
    torch.testing.assert_close(head(tokens), expected)
    assert head.pooled.weight.std().item() == pytest.approx(0.01, rel=0.2)
    head(tokens).square().sum().backward()
    assert head.pooled.weight.grad.any() and head.duplicate_pooling.grad.any()
    with torch.no_grad():
        head.duplicate_pooling.normal_()
    head.eval()
    decoder = MLDecoder(20, 7, groups=3, dim=16).eval()
    decoder.load_state_dict({k: v for k, v in head.state_dict().items() if k != "pooled.weight"})
    torch.testing.assert_close(head(tokens), decoder(tokens) + tokens.mean(1) @ head.pooled.weight.T)


def test_ml_decoder_defaults_to_a_hundred_groups_at_most() -> None:
    assert MLDecoder(8, 80, dim=8).groups == 80
    assert MLDecoder(8, 1006, dim=8).groups == 100


def test_ml_decoder_has_a_logit_for_every_class_where_the_published_count_fails() -> None:
    head = MLDecoder(4, 20001, groups=2000, dim=8, ffn_dim=8)
    assert head.group_size == 11
    assert head(torch.randn(1, 2, 4)).shape == (1, 20001)


@pytest.mark.parametrize("head", [GlobalAveragePool(16, 5), MLDecoder(16, 5, dim=16, ffn_dim=16)])
def test_logits_do_not_depend_on_the_order_of_the_tokens(head: nn.Module) -> None:
    tokens = torch.randn(2, 9, 16)
    head.eval()
    torch.testing.assert_close(head(tokens[:, torch.randperm(9)]), head(tokens), atol=1e-5, rtol=1e-5)


def test_ml_decoder_drops_differently_for_each_image_in_training_and_not_at_all_in_evaluation() -> None:
    head = MLDecoder(16, 5, dim=64, ffn_dim=64, dropout=0.3)
    tokens = torch.randn(1, 9, 16).expand(4, -1, -1)
    trained = head(tokens)
    assert (trained - trained[:1])[1:].abs().amax(1).min() > 1e-4
    head.eval()
    torch.testing.assert_close(head(tokens), head(tokens[:1]).expand(4, -1))


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_keeps_the_expected_share_and_mean_and_passes_gradients_of_what_it_keeps(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(401, 1003, requires_grad=True)
    y = dropout_(x * 1, rate)
    kept = y != 0
    sigma = math.sqrt(rate * (1 - rate) / x.numel())
    assert kept.float().mean().item() == pytest.approx(1 - rate, abs=5 * sigma + 2e-5)
    assert y[kept].unique().tolist() == pytest.approx([1 / (1 - rate)], rel=2e-5)
    for lag in (1, 2, 3, 4):  # the bits of one draw serve four neighbours: they must be independent
        flat = kept.flatten()
        both = (flat[:-lag] & flat[lag:]).float().mean().item()
        assert both == pytest.approx((1 - rate) ** 2, abs=5e-3)
    for quarter in range(4):
        assert kept.flatten()[quarter::4].float().mean().item() == pytest.approx(1 - rate, abs=0.01)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())


def test_queries_are_trained_only_on_request_and_always_saved() -> None:
    for learned in (False, True):
        head = MLDecoder(16, 5, dim=16, learned_queries=learned)
        head(torch.randn(2, 3, 16)).sum().backward()
        assert (head.query_embed.weight.grad is not None) is learned
        assert "query_embed.weight" in head.state_dict()


def test_gap_is_the_mean_of_the_tokens_through_a_linear_layer() -> None:
    head = GlobalAveragePool(2048, 300)
    assert head.fc.weight.std().item() == pytest.approx(0.01, rel=0.02)
    tokens = torch.randn(2, 7, 2048)
    expected = tokens.mean(1) @ head.fc.weight.T + head.fc.bias
    torch.testing.assert_close(head(tokens), expected)
    head = GlobalAveragePool(2048, 3, dropout=0.5)
    assert not torch.equal(head(tokens), head(tokens))
    head.eval()
    assert torch.equal(head(tokens), head(tokens))


@pytest.mark.parametrize("training", [False, True])
def test_pfc_is_the_mean_through_a_normalised_neck_and_a_linear_layer(training: bool) -> None:
    torch.manual_seed(0)
    head = PFC(20, 6, dim=8, dropout=0.0)
    with torch.no_grad():
        for tensor in head.state_dict().values():  # also what starts from 0 and 1
            if tensor.is_floating_point():
                tensor.uniform_(0.3, 1)
    head.train(training)
    tokens = torch.randn(5, 7, 20, requires_grad=True)
    x = tokens.mean(1) @ head.neck.weight.T + head.neck.bias
    mean, var = (x.mean(0), x.var(0, correction=0)) if training else (head.norm.running_mean, head.norm.running_var)
    x = (x - mean) / (var + 1e-5).sqrt() * head.norm.weight + head.norm.bias
    expected = x @ head.fc.weight.T + head.fc.bias
    weight = torch.randn(5, 6)
    inputs = [tokens, *head.parameters()]
    gradients = torch.autograd.grad((expected * weight).sum(), inputs)
    logits = head(tokens)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(torch.autograd.grad((logits * weight).sum(), inputs), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_pfc_starts_as_published_and_drops_half_the_neck_in_training() -> None:
    torch.manual_seed(0)
    head = PFC(2048, 80)
    assert {k: tuple(v.shape) for k, v in head.named_parameters()} == {
        "neck.weight": (256, 2048),
        "neck.bias": (256,),
        "norm.weight": (256,),
        "norm.bias": (256,),
        "fc.weight": (80, 256),
        "fc.bias": (80,),
    }
    assert head.neck.weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.01)
    assert head.fc.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert (head.norm.weight == 1).all()
    assert not any(bias.any() for bias in (head.neck.bias, head.norm.bias, head.fc.bias))
    seen: list[Tensor] = []
    head.fc.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    head(torch.randn(64, 3, 2048))
    assert (seen[0] == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_pfc_trains_on_a_single_image_with_the_running_statistics() -> None:
    head = PFC(16, 3, dim=8, dropout=0.0)
    head(torch.randn(4, 2, 16))
    statistics = [head.norm.running_mean.clone(), head.norm.running_var.clone()]
    tokens = torch.randn(1, 2, 16)
    logits = head(tokens)
    logits.sum().backward()
    assert head.norm.weight.grad is not None and head.norm.weight.grad.any()
    assert torch.equal(statistics[0], head.norm.running_mean) and torch.equal(statistics[1], head.norm.running_var)
    torch.testing.assert_close(head.eval()(tokens), logits)
    compiled = torch.compile(head.train(), backend="eager", dynamic=True)
    for rows in (2, 1, 3):
        assert compiled(tokens.expand(rows, -1, -1)).isfinite().all()


def test_prior_starts_every_class_at_that_probability() -> None:
    for head in (GlobalAveragePool(16, 5, prior=0.01), MLDecoder(16, 5, dim=16, prior=0.01), PFC(16, 5, prior=0.01)):
        head.eval()
        bias = head.duplicate_pooling_bias if isinstance(head, MLDecoder) else head.fc.bias
        torch.testing.assert_close(torch.sigmoid(bias), torch.full((5,), 0.01))
        assert head(torch.zeros(1, 4, 16)).shape == (1, 5)


def test_prior_frequency_starts_each_class_at_its_share_of_the_known_labels() -> None:
    targets = np.array([[1, 0, 0, 1, -1], [1, 1, 0, -1, -1], [0, 0, 0, -1, -1], [1, 0, 0, 0, -1]], np.int8)
    names = [f"{i}.jpg" for i in range(4)]
    labels = LabelSet.from_dense(name="x", root=".", files=names, class_names=list("abcde"), targets=targets)
    stats = LabelStats.from_labels(labels)
    shares = torch.tensor(
        [3 / 4, 1 / 4, 1 / 5, 1 / 2, 5 / 14]
    )  # c has no positive: 1 to 4; e is unknown: 5 to 9 of all
    biases = {GlobalAveragePool: "fc.bias", MLDecoder: "duplicate_pooling_bias", PFC: "fc.bias", CSRA: "bias"}
    for kind, name in (biases | {Query2Label: "fc.b"}).items():
        bias = kind(16, 5, prior="frequency", stats=stats).get_parameter(name)
        torch.testing.assert_close(torch.sigmoid(bias.detach().flatten()), shares)
        with pytest.raises(ValueError, match="prior=frequency needs the statistics"):
            kind(16, 5, prior="frequency")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 6}, "groups=6"),
        ({"groups": 0}, "groups=0"),
        ({"dim": 20}, "num_heads=8"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"prior": 0.0}, "prior=0.0"),
        ({"query_scale": 0.0}, "query_scale=0.0"),
    ],
)
def test_ml_decoder_refuses_options_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLDecoder(16, 5, **options)


@pytest.mark.parametrize("options", [{"dim": 0}, {"dropout": 1.0}, {"prior": 1.0}])
def test_pfc_refuses_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        PFC(16, 5, **options)

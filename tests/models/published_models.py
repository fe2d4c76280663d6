"""The published models, restated plainly under their published parameter names, to write files as theirs are.

Written from the papers and from the names and shapes in the published files; independent of mltrain and of timm.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InPlaceAbn(nn.Module):
    """Batch-norm whose scale is |w| + eps, then a leaky ReLU; slope 1: none."""

    def __init__(self, width: int, slope: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        def column(values: Tensor) -> Tensor:
            return values[:, None, None]

        scale = (self.weight.abs() + 1e-5) / (self.running_var + 1e-5).sqrt()
        x = (x - column(self.running_mean)) * column(scale) + column(self.bias)
        return torch.where(x > 0, x, self.slope * x)


def conv_abn(inputs: int, outputs: int, kernel: int, slope: float) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, InPlaceAbn(outputs, slope))


class Blur(nn.Module):
    """[1, 2, 1] x [1, 2, 1] / 16, every second pixel, borders reflected; no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        line = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype) / 4
        kernel = (line[:, None] * line).expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=x.shape[1])


def conv_down(inputs: int, outputs: int, kernel: int, slope: float, stride: int) -> nn.Sequential:
    """With stride 2 the convolution comes before a blur, and its names get one level more."""
    conv = conv_abn(inputs, outputs, kernel, slope)
    return conv if stride == 1 else nn.Sequential(conv, Blur())


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Block(nn.Module):
    """Basic: 3x3 (down), 3x3, squeeze-excite. Bottleneck: 1x1, 3x3 (down), squeeze-excite, 1x1 to four times more."""

    def __init__(self, inputs: int, planes: int, stride: int, deep: bool, excite: bool) -> None:
        super().__init__()
        outputs = 4 * planes if deep else planes
        if deep:
            self.conv1 = conv_abn(inputs, planes, 1, 1e-3)
            self.conv2 = conv_down(planes, planes, 3, 1e-3, stride)
            self.conv3 = conv_abn(planes, outputs, 1, 1)
        else:
            self.conv1 = conv_down(inputs, planes, 3, 1e-3, stride)
            self.conv2 = conv_abn(planes, planes, 3, 1)
        self.downsample = None
        if stride == 2 or inputs != outputs:
            pool = [nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)] if stride == 2 else []
            self.downsample = nn.Sequential(*pool, conv_abn(inputs, outputs, 1, 1))
        self.se = SqueezeExcite(planes, max(4 * planes // 8 if deep else planes // 4, 64)) if excite else None
        self.deep = deep

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        if self.se is not None:
            y = self.se(y)
        if self.deep:
            y = self.conv3(y)
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class SpaceToDepth(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 3, 5, 1, 2, 4).reshape(n, 16 * c, h // 4, w // 4)


class TResNet(nn.Module):
    """Images in 0..1 -> logits; `head` is given the features (B, D, h, w), or with `pooled` their mean (B, D)."""

    def __init__(self, blocks: tuple[int, ...], planes: int, second: bool, head: nn.Module, *, pooled: bool) -> None:
        super().__init__()
        body = OrderedDict(SpaceToDepth=SpaceToDepth(), conv1=conv_abn(48, planes, 3, 1e-2))
        inputs = planes
        for stage, count in enumerate(blocks):
            deep, width, layer = second or stage > 1, planes * 2**stage, []
            for k in range(count):
                layer.append(Block(inputs, width, 2 if stage and not k else 1, deep, excite=stage < 3))
                inputs = 4 * width if deep else width
            body[f"layer{stage + 1}"] = nn.Sequential(*layer)
        self.body = nn.Sequential(body)
        self.head = head
        self.pooled = pooled

    def forward(self, images: Tensor) -> Tensor:
        x = self.body(images)
        return self.head(x.mean((2, 3)) if self.pooled else x)


class ResNet(nn.Module):
    """torchvision's; images normalised -> features (B, 2048, h, w)."""

    def __init__(self, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for stage, count in enumerate(blocks):
            layer = []
            for k in range(count):
                layer.append(ResNetBlock(inputs, 64 * 2**stage, 2 if stage and not k else 1))
                inputs = 256 * 2**stage
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))

    def features(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(self.bn1(self.conv1(images)).relu(), 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class ResNetBlock(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes)
        self.downsample = None
        if stride == 2 or inputs != 4 * planes:
            conv = nn.Conv2d(inputs, 4 * planes, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(4 * planes))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn3(self.conv3(self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


# -- heads -----------------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class Bottleneck(nn.Module):
    """Of ASL and CSL on Open Images; named `head.fc.embedding_generator.0` and `head.fc.FC`."""

    def __init__(self, inputs: int, classes: int, width: int = 512) -> None:
        super().__init__()
        self.fc = nn.Module()
        self.fc.embedding_generator = nn.Sequential(nn.Linear(inputs, width))
        self.fc.FC = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc.FC(self.fc.embedding_generator(x))


class MLDecoder(nn.Module):
    """Features (B, D, h, w) -> logits. With `words` (C, 300) the queries are made of them and one pooling is shared."""

    def __init__(
        self, inputs: int, classes: int, *, groups: int | None = None, width: int = 768, words: Tensor | None = None
    ) -> None:
        super().__init__()
        self.classes, self.words = classes, words
        groups = min(100, classes) if groups is None else groups
        decoder = self.decoder = nn.Module()
        decoder.embed_standart = nn.Linear(inputs, width)
        if words is None:
            self.size = math.ceil(classes / groups)
            decoder.query_embed = nn.Embedding(groups, width)
            decoder.duplicate_pooling = nn.Parameter(torch.empty(groups, width, self.size))
            decoder.duplicate_pooling_bias = nn.Parameter(torch.empty(classes))
        else:
            self.wordvec_proj = nn.Linear(words.shape[1], width)
            decoder.duplicate_pooling = nn.Parameter(torch.empty(width, 1))
            decoder.duplicate_pooling_bias = nn.Parameter(torch.empty(1))
        layer = nn.Module()
        layer.multihead_attn = nn.MultiheadAttention(width, 8, batch_first=True)
        layer.linear1, layer.linear2 = nn.Linear(width, 2048), nn.Linear(2048, width)
        layer.norm1, layer.norm2, layer.norm3 = (nn.LayerNorm(width) for _ in range(3))
        decoder.layers = nn.ModuleList([layer])

    def forward(self, x: Tensor) -> Tensor:
        decoder, layer = self.decoder, self.decoder.layers[0]
        memory = decoder.embed_standart(x.flatten(2).transpose(1, 2)).relu()
        queries = decoder.query_embed.weight if self.words is None else self.wordvec_proj(self.words).relu()
        t = queries.expand(len(x), -1, -1)
        t = layer.norm1(t + t)
        t = layer.norm2(t + layer.multihead_attn(t, memory, memory)[0])
        h = layer.norm3(t + layer.linear2(layer.linear1(t).relu()))
        if self.words is not None:
            return (h @ decoder.duplicate_pooling).squeeze(2) + decoder.duplicate_pooling_bias
        slots = [
            h[:, c // self.size] @ decoder.duplicate_pooling[c // self.size, :, c % self.size]
            for c in range(self.classes)
        ]
        return torch.stack(slots, 1) + decoder.duplicate_pooling_bias


class ResNetMLDecoder(ResNet):
    """ML-Decoder replaces `fc`."""

    def __init__(self, blocks: tuple[int, ...], classes: int) -> None:
        super().__init__(blocks)
        self.fc = MLDecoder(2048, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images))


class ResNetLinear(ResNet):
    def __init__(self, blocks: tuple[int, ...], classes: int) -> None:
        super().__init__(blocks)
        self.fc = nn.Linear(2048, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).mean((2, 3)))


class CSRA(ResNet):
    """Named `classifier.multi_head.k.head`, 1 x 1 convolutions."""

    def __init__(self, blocks: tuple[int, ...], classes: int, heads: int, lam: float) -> None:
        super().__init__(blocks)
        self.temperatures, self.lam = {1: (1,), 2: (1, 99), 4: (1, 2, 4, 99)}[heads], lam
        self.classifier = nn.Module()
        self.classifier.multi_head = nn.ModuleList(nn.Module() for _ in range(heads))
        for head in self.classifier.multi_head:
            head.head = nn.Conv2d(2048, classes, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x, logits = self.features(images), 0.0
        for head, temperature in zip(self.classifier.multi_head, self.temperatures, strict=True):
            length = head.head.weight.flatten(1).norm(dim=1)
            scores = (head.head(x) / length[:, None, None]).flatten(2)
            attention = (scores * temperature).softmax(2)
            read = scores.amax(2) if temperature == 99 else (scores * attention).sum(2)
            logits = logits + scores.mean(2) + self.lam * read
        return logits


class DistributionBalanced(nn.Module):
    """mmcv's names: `backbone`, `neck` (its second layer is never used), `head.fc_cls`."""

    def __init__(self, blocks: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.backbone = ResNet(blocks)
        self.neck = nn.Module()
        self.neck.unused, self.neck.first = nn.Linear(256, 256), nn.Linear(2048, 256)
        self.neck.bn = nn.BatchNorm1d(256)
        self.head = nn.Module()
        self.head.fc_cls = nn.Linear(256, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head.fc_cls(self.neck.bn(self.neck.first(self.backbone.features(images).mean((2, 3)))))


class Query2Label(nn.Module):
    """Named `backbone.0.body.*`, positions `backbone.1.pe`, `input_proj` (where kept) a 1 x 1 convolution."""

    def __init__(self, body: nn.Module, inputs: int, classes: int, *, size: int, dim: int | None, ffn: int) -> None:
        super().__init__()
        width = inputs if dim is None else dim
        joined = nn.Module()
        joined.body = body
        positions = nn.Module()
        positions.register_buffer("pe", sine(size // 32, width))
        self.backbone = nn.ModuleList([joined, positions])
        self.input_proj = nn.Identity() if dim is None else nn.Conv2d(inputs, dim, 1)
        self.query_embed = nn.Embedding(classes, width)
        self.fc = nn.Module()
        self.fc.W, self.fc.b = nn.Parameter(torch.empty(1, classes, width)), nn.Parameter(torch.empty(1, classes))
        self.transformer = nn.Module()
        for part, count in (("encoder", 1), ("decoder", 2)):
            layers = [nn.Module() for _ in range(count)]
            for layer in layers:
                attention = nn.MultiheadAttention(width, 4, batch_first=True)
                setattr(layer, "self_attn" if part == "encoder" else "multihead_attn", attention)
                layer.linear1, layer.linear2 = nn.Linear(width, ffn), nn.Linear(ffn, width)
                for number in (1, 2) if part == "encoder" else (2, 3):
                    setattr(layer, f"norm{number}", nn.LayerNorm(width))
            holder = nn.Module()
            holder.layers = nn.ModuleList(layers)
            setattr(self.transformer, part, holder)
        self.transformer.decoder.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        body = self.backbone[0].body
        features = body.features(images) if hasattr(body, "features") else body.body(images)
        memory = self.input_proj(features).flatten(2).transpose(1, 2)
        at = self.backbone[1].pe.flatten(2).transpose(1, 2)
        for layer in self.transformer.encoder.layers:
            read = layer.self_attn(memory + at, memory + at, memory)[0]
            memory = layer.norm1(memory + read)
            memory = layer.norm2(memory + layer.linear2(layer.linear1(memory).relu()))
        queries = self.query_embed.weight.expand(len(images), -1, -1)
        t = torch.zeros_like(queries)
        for layer in self.transformer.decoder.layers:
            t = layer.norm2(t + layer.multihead_attn(t + queries, memory + at, memory)[0])
            t = layer.norm3(t + layer.linear2(layer.linear1(t).relu()))
        return (self.fc.W * self.transformer.decoder.norm(t)).sum(2) + self.fc.b


def sine(side: int, width: int) -> Tensor:
    """Positions of a square grid (1, width, side, side), as DETR has them: rows, then columns, over the channels."""
    half = width // 2
    at = torch.arange(1, side + 1) / (side + 1e-6) * 2 * math.pi
    encoded = torch.stack(
        [
            torch.sin(at / 10_000 ** (k / half)) if k % 2 == 0 else torch.cos(at / 10_000 ** ((k - 1) / half))
            for k in range(half)
        ]
    )
    rows, columns = encoded[:, :, None].expand(-1, -1, side), encoded[:, None, :].expand(-1, side, -1)
    return torch.cat((rows, columns))[None]


def randomised(model: nn.Module, *, gain: float = 1.4) -> nn.Module:
    """Weights of which none is left at 0 or 1, scales of both signs; evaluation mode. Deep models need a small gain."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith((".pe", "num_batches_tracked")):
                continue
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 1
            tensor.normal_(generator=generator).mul_(gain / math.sqrt(fan_in) if tensor.ndim > 1 else 0.3)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
            elif tensor.ndim == 1 and name.endswith("weight"):  # scales of norms, of either sign
                tensor.add_(0.8)
                tensor[::3] *= -1
    return model.eval()

"""Heads of published checkpoints, recognised by names and shapes of their tensors; see `mltrain.models.published`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mltrain.errors import CheckpointError
from mltrain.models.heads.csra import TEMPERATURES
from mltrain.models.weights import StateDict, listed


@dataclass(frozen=True)
class HeadPart:
    """The head of a published checkpoint."""

    kind: str
    """its name in `mltrain.models.classifier.HEADS`, whose parameter names `state` has"""
    options: dict[str, Any]
    state: StateDict
    in_features: int
    num_classes: int | None
    """C; None for zero-shot: any number"""
    found: str
    names: set[str]
    """names of its tensors in the file"""
    assumed: tuple[str, ...] = ()
    image_size: int | None = None


def read_head(rest: StateDict, *, found: str, model: str, source: str) -> HeadPart:
    """Recognise the head in the tensors beside the backbone, which `found` describes and timm calls `model`.

    Raises:
        CheckpointError: there is no head, or an unknown one.
    """
    for read in (_ml_decoder, _query2label, _csra, _pfc, _bottleneck, _linear):
        head = read(rest, source)
        if head is not None:
            return head
    if not [k for k in rest if not k.endswith("num_batches_tracked")]:
        raise CheckpointError(
            f"{source}: recognised {found}, and no classifier: there is nothing to evaluate. To train from it: "
            f"model=timm model.name={model} model.checkpoint={source}"
        )
    shown = listed([f"{k} {tuple(v.shape)}" for k, v in rest.items()])
    raise CheckpointError(f"{source}: recognised {found}, but no head in {shown}")


def _under(rest: StateDict, prefix: str) -> StateDict:
    return {k.removeprefix(prefix): v for k, v in rest.items() if k.startswith(prefix)}


def _ml_decoder(rest: StateDict, source: str) -> HeadPart | None:
    key = next((k for k in rest if k.endswith("duplicate_pooling")), None)
    if key is None:
        return None
    outer = key.removesuffix("duplicate_pooling").removesuffix("decoder.")
    state = {k.removeprefix("decoder."): v for k, v in _under(rest, outer).items()}
    try:
        pooling, bias = state["duplicate_pooling"], state["duplicate_pooling_bias"]
        width, inputs = state["embed_standart.weight"].shape
        ffn = state["layers.0.linear1.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{source}: recognised an ML-Decoder under {outer!r}, but it lacks {error}") from error
    heads = 8 if width % 8 == 0 else 1
    options: dict[str, Any] = {"dim": width, "num_heads": heads, "ffn_dim": ffn}
    assumed = (f"head.num_heads={heads} (published)",)
    used = {k for k in rest if k.startswith(outer)}
    if pooling.ndim == 2:
        words = state["wordvec_proj.weight"].shape[1] if "wordvec_proj.weight" in state else width
        found = f"zero-shot ML-Decoder (width {width}, label embeddings of {words} numbers)"
        return HeadPart("zero_shot", options, state, inputs, None, found, used, assumed)
    groups, _, size = pooling.shape
    classes = bias.shape[0]
    if groups * size < classes:
        raise CheckpointError(
            f"{source}: its ML-Decoder has {groups} groups of {size} classes, too few for its {classes} biases"
        )
    found = f"ML-Decoder with {groups} groups of {size} for {classes} classes (width {width})"
    return HeadPart("ml_decoder", {"groups": groups, **options}, state, inputs, classes, found, used, assumed)


def _query2label(rest: StateDict, source: str) -> HeadPart | None:
    if not {"fc.W", "fc.b", "query_embed.weight"} <= rest.keys():
        return None
    state = {k: v for k, v in rest.items() if re.match(r"(transformer|query_embed|fc|input_proj)\.", k)}
    if "transformer.encoder.norm.weight" in state:
        raise CheckpointError(f"{source}: recognised Query2Label with pre_norm, which is not built here")
    classes, width = state["query_embed.weight"].shape
    layers = [_count(state, rf"transformer\.{part}\.layers\.(\d+)\.") for part in ("encoder", "decoder")]
    attends = [f"transformer.decoder.layers.{i}.self_attn.in_proj_weight" in state for i in range(layers[1])]
    if len(set(attends[1:])) > 1:
        raise CheckpointError(f"{source}: recognised Query2Label, but its decoder layers differ in self-attention")
    projection = state.get("input_proj.weight")
    if projection is not None:
        state["input_proj.weight"] = projection.flatten(1)
    options = {
        "dim": None if projection is None else width,
        "num_heads": 4,
        "ffn_dim": state["transformer.decoder.layers.0.linear1.weight"].shape[0],
        "encoder_layers": layers[0],
        "decoder_layers": layers[1],
        "keep_first_self_attention": attends[0],
        "keep_other_self_attention": any(attends[1:]),
    }
    inputs = width if projection is None else projection.shape[1]
    used, size = set(state), None
    positions = next((k for k in rest if k.endswith(".pe") and rest[k].ndim == 4), None)
    if positions is not None:
        used.add(positions)
        size = 32 * rest[positions].shape[2]
    at = f", made for {size} px" if size else ""
    found = f"Query2Label for {classes} classes ({layers[0]} + {layers[1]} layers, width {width}{at})"
    assumed = ("head.num_heads=4 (published)",)
    return HeadPart("query2label", options, state, inputs, classes, found, used, assumed, size)


def _count(state: StateDict, pattern: str) -> int:
    return max((int(m[1]) for k in state if (m := re.match(pattern, k))), default=-1) + 1


def _csra(rest: StateDict, source: str) -> HeadPart | None:
    key = next((k for k in rest if re.search(r"multi_head\.0\.head\.weight$", k)), None)
    if key is None:
        return None
    outer = key.removesuffix("multi_head.0.head.weight")
    state = {k: v.flatten(1) for k, v in _under(rest, outer).items()}
    heads, (classes, inputs) = len(state), state["multi_head.0.head.weight"].shape
    if heads not in TEMPERATURES:
        raise CheckpointError(f"{source}: recognised CSRA with {heads} heads, for which no temperatures are published")
    found = f"CSRA with {heads} heads for {classes} classes"
    lam = {1: 0.1, 4: 0.5, 6: 0.4}.get(heads, 0.3)
    assumed = (f"head.lam={lam} (CSRA's: 1 head 0.1 on VOC, 4 heads 0.5 and 6 heads 0.4 on COCO, 0.3 on WIDER)",)
    used = {k for k in rest if k.startswith(outer)}
    return HeadPart("csra", {"num_heads": heads, "lam": lam}, state, inputs, classes, found, used, assumed)


def _pfc(rest: StateDict, source: str) -> HeadPart | None:
    """Read the head of Distribution-Balanced Loss; shapes identify the neck's tensors, its second layer is unused."""
    final, neck = rest.get("head.fc_cls.weight"), _under(rest, "neck.")
    if final is None or not neck:
        return None
    classes, width = final.shape
    statistics = next((k.removesuffix("running_mean") for k in neck if k.endswith("running_mean")), None)
    layers = [k.removesuffix("weight") for k, v in neck.items() if v.ndim == 2 and v.shape[0] == width]
    layers.sort(key=lambda name: neck[f"{name}weight"].shape[1] == width)  # the unused one maps to the same width
    if statistics is None or not layers:
        raise CheckpointError(
            f"{source}: recognised the head of Distribution-Balanced Loss, but no linear layer and batch-norm in "
            f"{listed([f'neck.{k} {tuple(v.shape)}' for k, v in neck.items()])}"
        )
    state = {f"norm.{k.removeprefix(statistics)}": v for k, v in neck.items() if k.startswith(statistics)}
    state |= {f"neck.{name}": neck[f"{layers[0]}{name}"] for name in ("weight", "bias")}
    state |= {f"fc.{name}": rest[f"head.fc_cls.{name}"] for name in ("weight", "bias")}
    inputs = state["neck.weight"].shape[1]
    found = f"PFC neck and linear head for {classes} classes (width {width})"
    used = {k for k in rest if k.startswith(("neck.", "head.fc_cls."))}
    return HeadPart("pfc", {"dim": width}, state, inputs, classes, found, used)


def _bottleneck(rest: StateDict, source: str) -> HeadPart | None:
    key = next((k for k in rest if k.endswith("embedding_generator.0.weight")), None)
    if key is None:
        return None
    outer = key.removesuffix("embedding_generator.0.weight")
    names = {"embedding_generator.0.": "bottleneck.", "FC.": "fc."}
    try:
        state = {
            f"{ours}{k}": rest[f"{outer}{theirs}{k}"] for theirs, ours in names.items() for k in ("weight", "bias")
        }
    except KeyError as error:
        raise CheckpointError(f"{source}: recognised ASL's bottleneck head, but it lacks {error}") from error
    (width, inputs), (classes, reads) = state["bottleneck.weight"].shape, state["fc.weight"].shape
    if width != reads:
        raise CheckpointError(f"{source}: its bottleneck gives {width} features and its classifier reads {reads}")
    found = f"linear head behind a bottleneck of {width} for {classes} classes"
    used = {k for k in rest if k.startswith(tuple(f"{outer}{name}" for name in names))}
    return HeadPart("gap", {"bottleneck": width}, state, inputs, classes, found, used)


def _linear(rest: StateDict, source: str) -> HeadPart | None:
    layers = [k.removesuffix("weight") for k, v in rest.items() if k.endswith(".weight") and v.ndim == 2]
    layers = [name for name in layers if re.search(r"(^|\.)(fc|head|classifier|last_linear)\.$", name)]
    if len(layers) != 1 or f"{layers[0]}bias" not in rest:
        return None
    state: dict[str, Tensor] = {f"fc.{name}": rest[f"{layers[0]}{name}"] for name in ("weight", "bias")}
    classes, inputs = state["fc.weight"].shape
    used = {f"{layers[0]}{name}" for name in ("weight", "bias")}
    found = f"linear head for {classes} classes"
    return HeadPart("gap", {}, state, inputs, classes, found, used)

"""Published checkpoints of other projects, recognised by the names and shapes of their tensors.

The backbones are TResNet (the authors' and timm's names, InPlaceABN or batch-norm) and ResNet (torchvision's and
mmcv's names), and other timm models that the file or the caller names. The heads are those of ASL, CSL and ML-Decoder
(linear, bottleneck, group decoder, zero-shot), Query2Label, CSRA, the neck and head of Distribution-Balanced Loss, and
a plain linear layer. Settings that the tensors do not determine are assumed, and listed.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mltrain.errors import CheckpointError, DataError
from mltrain.models.published_heads import HeadPart, read_head
from mltrain.models.weights import StateDict, listed, strip_wrappers, tensors_of
from mltrain.text import part_of

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = (224, 256, 288, 299, 320, 336, 368, 384, 416, 448, 512, 576, 640)
"""input sizes that a file's name may contain"""

# (blocks, bottleneck blocks first, planes) -> timm's name or ours
TRESNETS: dict[tuple[tuple[int, ...], bool, int], str] = {
    ((3, 4, 6, 3), False, 64): "tresnet_s",
    ((3, 4, 11, 3), False, 64): "tresnet_m",
    ((4, 5, 18, 3), False, 76): "tresnet_l",
    ((4, 5, 24, 3), False, 83): "tresnet_xl",
    ((3, 4, 23, 3), True, 64): "tresnet_v2_l",
    ((3, 8, 34, 5), True, 64): "tresnet_xl_v2",
}
RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}


@dataclass(frozen=True)
class BackbonePart:
    """The backbone of a published checkpoint."""

    options: dict[str, Any]
    """arguments of `create_backbone`"""
    state: StateDict
    """tensors by timm's names, or by names that timm converts"""
    num_features: int | None
    """D; None if only the built model tells"""
    found: str
    """description for messages"""


@dataclass(frozen=True)
class Published:
    """A recognised checkpoint."""

    backbone: BackbonePart
    head: HeadPart
    class_names: tuple[str, ...] | None
    """as the file spells them"""
    image_size: int | None
    file_head: StateDict
    """the head's tensors under the file's names"""
    assumed: tuple[str, ...] = ()
    """options that the tensors do not determine; the caller may know better"""

    @property
    def found(self) -> str:
        return f"{self.backbone.found}; {self.head.found}"


def recognise(content: Any, *, source: str, file_name: str = "", model: str | None = None) -> Published:
    """Recognise backbone and head in a checkpoint.

    Args:
        content: result of `read_checkpoint`.
        source: the file, for messages.
        file_name: may contain the input size.
        model: timm's name, for a model that is neither TResNet nor ResNet and whose file does not name it.

    Raises:
        CheckpointError: the layout is unknown, with the parts that were recognised and those that were not; or parts do
            not fit each other, with the numbers that disagree.
    """
    state = strip_wrappers(tensors_of(content))
    if not state:
        raise CheckpointError(f"{source}: found no tensors by name; it is no checkpoint of a model")
    meta: Mapping[str, Any] = content if isinstance(content, Mapping) else {}
    saved_name = meta.get("arch") or meta.get("architecture")  # timm's training script saves it
    body, rest = _split_backbone(state, source, model, saved_name if isinstance(saved_name, str) else None)
    head = read_head(rest, found=body.found, model=body.options["name"], source=source)
    left = [name for name in rest if name not in head.names]
    if left:
        raise CheckpointError(
            f"{source}: recognised {body.found}; {head.found}. Not recognised: {listed(left)}; a head with these "
            "is not known here"
        )
    if body.num_features is not None and body.num_features != head.in_features:
        raise CheckpointError(
            f"{source}: the head reads {head.in_features} features and the backbone gives {body.num_features} "
            f"({body.found}; {head.found}): they are of different models"
        )
    named = meta.get("num_classes")
    if isinstance(named, int) and head.num_classes is not None and named != head.num_classes:
        raise CheckpointError(
            f"{source}: says num_classes={named}, but its head gives {head.num_classes} logits ({head.found}): head "
            "and file are of different models"
        )
    sizes = {int(text) for text in re.findall(r"(?<!\d)\d{3}(?!\d)", file_name)} & {*SIZES}
    size = head.image_size or (sizes.pop() if len(sizes) == 1 else None)
    normalisation, assumed = _normalisation(body, head)
    body = replace(body, options=body.options | normalisation)
    assumed += head.assumed
    if size is not None and head.image_size is None:
        assumed += (f"model.image_size={size} (in the file's name)",)
    return Published(body, head, names_of(meta), size, rest, assumed)


def _normalisation(body: BackbonePart, head: HeadPart) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return mean and std of the input, which no tensor tells; nothing if timm has them for its own model."""
    if head.kind == "csra":
        text = "model.mean=[0,0,0] model.std=[1,1,1] (CSRA's code; 0.5 for WIDER)"
        return {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}, (text,)
    if body.num_features is None:
        return {}, ()
    if body.options["name"].startswith("tresnet"):
        other = "; a Query2Label trained without --orid_norm has ImageNet's" if head.kind == "query2label" else ""
        return {}, (f"model.mean=[0,0,0] model.std=[1,1,1] (TResNet's{other})",)
    return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}, ("model.mean and model.std of ImageNet",)


# -- backbones -------------------------------------------------------------------------------------------------------


def _split_backbone(
    state: StateDict, source: str, model: str | None, named: str | None
) -> tuple[BackbonePart, StateDict]:
    """Split tensors into backbone and others; `model` is the name that the caller gives, `named` that of the file."""
    for key, tensor in state.items():
        if re.search(r"(^|\.)body\.conv1\.(0|conv)\.weight$", key) and tensor.ndim == 4 and tensor.shape[1] == 48:
            return _tresnet(state, key[: key.rindex("body.")], source, model)
    for key, tensor in state.items():
        prefix = key.removesuffix("conv1.weight")
        if key.endswith("conv1.weight") and tensor.shape[1:] == (3, 7, 7) and f"{prefix}layer1.0.conv1.weight" in state:
            return _resnet(state, prefix, source, model)
    model = model or named
    if model is None:
        shown = listed([f"{k} {tuple(v.shape)}" for k, v in state.items() if not k.endswith("num_batches_tracked")])
        raise CheckpointError(
            f"{source}: recognised no backbone: neither TResNet (body.conv1...) nor ResNet (conv1, layer1 ...). Its "
            f"tensors: {shown}. If it is a model of timm's, name it: model.name=vit_base_patch16_224, say"
        )
    return _timm(state, source, model)


def _blocks(names: StateDict, layer: str) -> tuple[int, ...]:
    """Count the blocks of the four stages."""
    found = [{int(m[1]) for k in names if (m := re.match(rf"{layer}{stage}\.(\d+)\.", k))} for stage in (1, 2, 3, 4)]
    return tuple(max(numbers) + 1 if numbers else 0 for numbers in found)


def _refuse_other(source: str, model: str | None, name: str, found: str) -> None:
    """Raise CheckpointError if the caller names another model than the tensors show."""
    base = (model or name).partition(".")[0]
    if base != name and base in {*TRESNETS.values(), *RESNETS.values()}:
        raise CheckpointError(f"{source}: model.name={base}, but the file holds {found}; leave model.name out")


def _tresnet(state: StateDict, prefix: str, source: str, model: str | None) -> tuple[BackbonePart, StateDict]:
    body = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(f"{prefix}body.")}
    rest = {k: v for k, v in state.items() if not k.startswith(f"{prefix}body.")}
    stem = next(v for k, v in body.items() if re.match(r"body\.conv1\.(0|conv)\.weight$", k))
    blocks, planes = _blocks(body, r"body\.layer"), stem.shape[0]
    second = any(k.startswith("body.layer1.0.conv3.") for k in body)
    version = "V2, bottleneck blocks throughout" if second else "V1, basic blocks first"
    name = TRESNETS.get((blocks, second, planes))
    abn = any(re.match(r"body\.conv1\.0\.", k) for k in body)
    layers = ", ".join(map(str, blocks))
    norm = "InPlaceABN, folded to |w| + 1e-5" if abn else "batch-norm"
    found = f"{name or 'a TResNet'} (blocks {layers}, {version}, {planes} planes: {32 * planes} features; {norm})"
    options: dict[str, Any] = {"name": name}
    if name is None:
        if 0 in blocks or (second and planes % 8):
            raise CheckpointError(f"{source}: recognised {found}, which no variant of TResNet has")
        options = {
            "name": "tresnet_v2_l" if second else "tresnet_m",
            "timm_kwargs": {"layers": list(blocks), "width_factor": planes / 64},
        }
    _refuse_other(source, model, options["name"], found)
    return BackbonePart(options, body, 32 * planes, found), rest


def _resnet(state: StateDict, prefix: str, source: str, model: str | None) -> tuple[BackbonePart, StateDict]:
    own = re.compile(re.escape(prefix) + r"(conv1|bn1|layer[1-4])\.")
    body = {k.removeprefix(prefix): v for k, v in state.items() if own.match(k)}
    rest = {k: v for k, v in state.items() if not own.match(k)}
    blocks = _blocks(body, "layer")
    deep = "layer1.0.conv3.weight" in body
    second = body.get("layer1.0.conv2.weight")
    if 0 in blocks or second is None or tuple(second.shape) != (64, 64, 3, 3) or body["conv1.weight"].shape[0] != 64:
        if model is not None:
            return _timm(state, source, model)
        shown = f"blocks {blocks}, layer1.0.conv2 {None if second is None else tuple(second.shape)}"
        raise CheckpointError(
            f"{source}: recognised a ResNet, not of the plain width ({shown}): name it, model.name=..."
        )
    name = RESNETS.get((blocks, deep))
    options: dict[str, Any] = {"name": name or ("resnet50" if deep else "resnet18")}
    if name is None:
        options["timm_kwargs"] = {"layers": list(blocks)}
    features = 2048 if deep else 512
    layers = ", ".join(map(str, blocks))
    found = f"{name or 'a ResNet'} (blocks {layers}, {'bottleneck' if deep else 'basic'}: {features} features)"
    _refuse_other(source, model, options["name"], found)
    return BackbonePart(options, body, features, found), rest


# names of the classifier of a timm model
CLASSIFIER = re.compile(r"^(?:.*\.)?(?:fc|head|classifier|last_linear)\.(?:weight|bias)$")


def _timm(state: StateDict, source: str, model: str) -> tuple[BackbonePart, StateDict]:
    """Split off the head of a model that timm names; the rest is the backbone."""
    decoder = next((k.partition("duplicate_pooling")[0] for k in state if k.endswith("duplicate_pooling")), None)
    if decoder is not None:
        outer = decoder.removesuffix("decoder.")
        rest = {k: v for k, v in state.items() if k.startswith(outer)}
    elif "fc.W" in state:  # Query2Label
        own = re.compile(r"(transformer|query_embed|fc|input_proj|backbone\.1)\.")
        rest = {k: v for k, v in state.items() if own.match(k)}
    else:
        rest = {k: v for k, v in state.items() if CLASSIFIER.match(k) and "blocks" not in k and "layers" not in k}
        rest |= {k: v for k, v in state.items() if ".multi_head." in k}
    body = {k: v for k, v in state.items() if k not in rest}
    return BackbonePart({"name": model}, body, None, f"{model} (by its name; {len(body)} tensors)"), rest


# -- class names -----------------------------------------------------------------------------------------------------


def names_of(meta: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return class names by index: `idx_to_class` of ASL, CSL and ML-Decoder, `meta.CLASSES` of mmcv; or None."""
    names = meta.get("idx_to_class")
    if isinstance(names, Mapping):
        by_index = {int(key): str(name) for key, name in names.items() if str(key).isdecimal()}
        complete = sorted(by_index) == list(range(len(names)))
        return tuple(by_index[k] for k in range(len(names))) if names and complete else None
    if names is None and isinstance(meta.get("meta"), Mapping):
        names = meta["meta"].get("CLASSES")
    return tuple(map(str, names)) if isinstance(names, list | tuple) and names else None


def clean_names(names: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return distinct names without the quotes that a csv file has left around them, and notes for the user.

    The list of Open Images classes in ASL's file was written to a csv as the text of a Python list and cut at commas. A
    name with an apostrophe is in three double quotes, which are removed; a name with a comma is cut into pieces with a
    quote at one end, which stay as they are.
    """
    notes, plain = [], [_unquoted(" ".join(name.splitlines()).strip()) for name in names]  # one per line
    quoted = sum(a != b for a, b in zip(plain, names, strict=True))
    if quoted:
        notes.append(f"{quoted} class names had quotes around them, left by a csv file; these are taken off")
    pieces = [name for name in plain if '"' in name or (name[:1] == "'") != (name[-1:] == "'")]
    if pieces:
        notes.append(
            f"{len(pieces)} class names look like pieces of a longer one (cut at a comma), e.g. {pieces[0]!r}: give "
            "the right ones with classes=FILE"
        )
    seen: dict[str, int] = {}
    distinct = []
    for name in plain:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    if len(seen) < len(plain):
        notes.append(f"{len(plain) - len(seen)} class names appear more than once, and are numbered")
    return tuple(distinct), notes


def _unquoted(name: str) -> str:
    while len(name) > 1 and name[0] == name[-1] and name[0] in "\"'":
        name = name[1:-1].strip()
    return name


def names_by_id(names: Sequence[str], path: Path) -> tuple[str, ...]:
    """Replace class ids by their names in a csv file of id,name, such as oidv6-class-descriptions.csv.

    Raises:
        DataError: the file cannot be read, or lacks an id.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            table = {row[0].strip(): row[1].strip() for row in csv.reader(stream) if len(row) == 2}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    missing = [name for name in names if name not in table]
    if missing:
        raise DataError(
            f"{path}: has no name for {part_of(len(missing), len(names), 'class')}, the first {missing[0]!r}; expected "
            "is a csv with a line id,name for each of them"
        )
    given = [table[name] for name in names]
    twice = {label for label in given if given.count(label) > 1} if len(set(given)) < len(given) else set()
    return tuple(f"{label} ({key})" if label in twice else label for key, label in zip(names, given, strict=True))

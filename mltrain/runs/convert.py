"""Convert a published checkpoint to a run folder: config.yaml, model.safetensors, classes.txt and source.json."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from omegaconf import DictConfig

from mltrain.config.build import instantiate
from mltrain.config.compose import load
from mltrain.datasets.reading import read_class_names
from mltrain.errors import CheckpointError, ConfigError, DataError
from mltrain.files import sha256_of
from mltrain.models.classifier import Classifier
from mltrain.models.published import Published, clean_names, names_by_id, recognise
from mltrain.models.weights import load_by_name, read_checkpoint
from mltrain.progress import amount
from mltrain.runs.folder import build_model
from mltrain.runs.model_folder import write_model_folder
from mltrain.runs.numbered import NUMBERED, numbered_names
from mltrain.runs.zoo import read_source
from mltrain.sizes import height_width, in_pixels
from mltrain.text import counted, spell

logger = logging.getLogger(__name__)

DEFAULT_SIZE = 224
OPEN_IMAGES = 9605
"""number of its trainable classes"""
# dataset= that a number of classes stands for, where none is given
DATASETS = {80: "coco", 20: "voc2007", 81: "nuswide_csv", OPEN_IMAGES: "openimages"}
SINGLE_LABEL_CLASSES = (1000, 11221, 21841, 21843)
"""ImageNet and its 21k versions: where the file has no class names, one label per image is assumed"""


@dataclass(frozen=True)
class Names:
    """Class names and their origin."""

    names: tuple[str, ...]
    origin: str
    notes: tuple[str, ...] = ()


def convert(
    file: Path,
    overrides: Sequence[str] = (),
    *,
    out: Path | None = None,
    classes: str | None = None,
    overwrite: bool = False,
    origin: dict[str, Any] | None = None,
) -> Path:
    """Convert a published checkpoint to a run folder and return it; an equal earlier conversion is kept.

    Args:
        file: the checkpoint.
        overrides: KEY=VALUE of the config: what the tensors do not say (`head.lam=0.1`, `model.image_size=448`), the
            data set (`dataset=coco`).
        out: the run folder to write; None: <paths.runs>/converted/<name of the file>.
        classes: a file of class names, one per line in the order of the logits; or a csv of the file's ids and names.
        overwrite: replace what an earlier conversion left in the folder.
        origin: what is known of the file's origin besides, for source.json.

    Raises:
        CheckpointError: the file is refused, not recognised, or its parts do not fit each other.
        ConfigError: a wrong override, or a folder that holds something else.
    """
    words = list(overrides)
    sha256 = _sha256(file)
    made_of = {"file": file.name, "sha256": sha256, "overrides": words, "classes_file": classes}
    out = out or _place(file, words)
    if _is_made(out, made_of, overwrite):
        return out
    logger.info("reading %s, %s", file, amount(file.stat().st_size))
    content = read_checkpoint(file)
    named = next((word.partition("=")[2] for word in words if word.startswith("model.name=")), None)
    published = recognise(content, source=str(file), file_name=file.stem, model=named or _architecture_beside(file))
    logger.info("%s: %s", file, published.found)
    names, cfg, assumed = _config(published, words, classes, file)
    model = build_model(cfg, names.names, None)
    _load(model, published, str(file))
    if published.backbone.num_features is None and published.head.kind == "gap":
        _check_pooling(model, cfg, published, str(file))
    for note in names.notes:
        logger.warning("%s", note)
    for text in assumed:
        logger.info("assumed, since no tensor says it: %s", text)
    source = made_of | {
        "recognised": published.found,
        "assumed": list(assumed),
        "classes": names.origin,
        **(origin or {}),
    }
    write_model_folder(out, cfg, model, names.names, source)
    logger.info("%s: a run folder; %s (%s), input %s", out, counted(len(names.names), "class"), names.origin,
                in_pixels(model.backbone.image_size))  # fmt: skip
    return out


def _sha256(file: Path) -> str:
    if not file.is_file():
        raise CheckpointError(f"weights file {file}: no such file")
    return sha256_of(file)


def _place(file: Path, words: list[str]) -> Path:
    runs = next((word.partition("=")[2] for word in words if word.startswith("paths.runs=")), "runs")
    return Path(runs) / "converted" / file.name.split(".pth")[0].removesuffix(".safetensors").removesuffix(".pt")


def _is_made(out: Path, made_of: dict[str, Any], overwrite: bool) -> bool:
    """Return whether `out` was made of the same before; raise ConfigError if it holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    before = read_source(out) if out.is_dir() else None
    if before is None:
        raise ConfigError(f"out: {out} exists, and is no converted checkpoint; choose another folder with out=DIR")
    if overwrite:
        return False
    if {key: before.get(key) for key in made_of} == made_of:
        logger.info("%s: converted before", out)
        return True
    raise ConfigError(f"out: {out} was made of another file or with other options; overwrite=true, or out=DIR")


def _architecture_beside(file: Path) -> str | None:
    """Return the model's name in the config.json that timm's hub keeps beside its weights."""
    beside = file.with_name("config.json")
    if file.suffix != ".safetensors" or not beside.is_file():
        return None
    try:
        name = json.loads(beside.read_text(encoding="utf-8")).get("architecture")
    except (OSError, ValueError, AttributeError):
        return None
    return name if isinstance(name, str) else None


# -- config ----------------------------------------------------------------------------------------------------------


def _config(
    published: Published, words: list[str], classes_file: str | None, file: Path
) -> tuple[Names, DictConfig, tuple[str, ...]]:
    """Return class names, the config, and the assumptions."""
    given = {word.partition("=")[0] for word in words}
    backbone, head = published.backbone.options, published.head
    assumed = [text for text in published.assumed if text.partition("=")[0] not in given]
    if "model.mean" in given or "model.std" in given:
        assumed = [text for text in assumed if not text.startswith("model.mean")]
    size = published.image_size
    if size is None and "model.image_size" not in given and published.backbone.num_features is not None:
        size = DEFAULT_SIZE
        assumed.append(f"model.image_size={size}")
    made = ["model=timm", "model.pretrained=false", "ema=none", f"head={head.kind}"]
    made += [f"model.{key}={spell(value)}" for key, value in (backbone | {"image_size": size}).items()]
    made += [f"head.{key}={spell(value)}" for key, value in head.options.items()]
    if head.kind == "pfc":
        made.append("eval_resize.antialias=false")
        assumed.append("eval_resize.antialias=false (as the Distribution-Balanced code resizes)")
    classes = head.num_classes
    if "dataset" not in given:
        made += [f"dataset={DATASETS.get(classes or 0, 'csv')}"]
        if classes not in DATASETS and "dataset.file" not in given:
            made += ["dataset.file=labels.csv"]
        else:
            assumed.append(f"dataset={DATASETS.get(classes or 0, 'csv')} ({classes} classes)")
    if published.class_names is None and classes in SINGLE_LABEL_CLASSES and "task" not in given:
        made += ["task=single_label", "loss=cross_entropy"]
        assumed.append(f"task=single_label ({classes} classes)")
    elif "task=single_label" not in words and (script := _threshold(published)) is not None:
        made.append(f"metrics.threshold={script[0]}")
        assumed.append(f"metrics.threshold={script[0]} ({script[1]})")
    if "name" not in given:
        made.append(f"name={spell(str(backbone['name']) + '-' + head.kind)}")
    assumed = [text for text in assumed if text.partition("=")[0] not in given]
    cfg = load([*made, *words])
    names = _names(published, cfg, classes_file, "dataset" in given, file)
    return names, cfg, tuple(assumed)


def _threshold(published: Published) -> tuple[float, str] | None:
    """Return the threshold of the authors' inference script, with its source; None for 0.5, or where there is none."""
    head, names = published.head, published.class_names or ()
    many = head.num_classes == OPEN_IMAGES
    if head.kind in ("ml_decoder", "zero_shot"):
        return (
            (0.97, "ML-Decoder's example for Open Images") if many else (0.75, "ML-Decoder's infer.py and validate.py")
        )
    if head.kind != "gap" or not str(published.backbone.options["name"]).startswith("tresnet"):
        return None  # 0.5: CSRA's evaluation, the sign of the logit in Distribution-Balanced Loss; Query2Label has none
    if many:
        return (
            (0.97, "CSL's infer.py") if names and names[0].startswith("/m/") else (0.995, "ASL's infer.py, Open Images")
        )
    return 0.7, "ASL's infer.py; its validate.py has 0.8"


def _names(published: Published, cfg: DictConfig, classes: str | None, dataset: bool, file: Path) -> Names:
    """Return the names from classes=FILE, the checkpoint or the data set, if one was given; else numbers."""
    wanted, own = published.head.num_classes, published.class_names
    notes: list[str] = []
    if classes is not None:
        path = Path(classes)
        if not path.is_file():
            raise ConfigError(f"classes={classes}: no such file")
        if path.suffix == ".csv" and own is not None:
            names, origin = names_by_id(own, path), f"the file's ids, named in {path.name}"
        else:
            names, origin = tuple(read_class_names(path)), path.name
        key = f"classes={classes}"
    elif own is not None and (wanted is None or len(own) == wanted):
        repaired_names, notes = clean_names(own)
        return Names(repaired_names, "from the file", tuple(notes))
    elif dataset:
        origin = key = f"dataset={cfg.dataset.name}"
        try:
            names = instantiate(cfg.dataset, "dataset", need_train=False).train.class_names
        except DataError as error:
            if wanted is None:
                raise
            reason = str(error).splitlines()[0]
            return _numbered(wanted, f"{key} gives their names when they are evaluated on it (now: {reason})")
    elif wanted is None:
        raise ConfigError(f"{file}: a zero-shot head answers for any classes: name them with classes=FILE")
    elif own is not None:
        raise CheckpointError(
            f"{file}: names {counted(len(own), 'class')}, and its head gives {counted(wanted, 'logit')}; give "
            "the right names with "
            "classes=FILE, one per line"
        )
    else:
        return _numbered(wanted, f"classes=FILE or dataset=NAME gives {wanted} names")
    if wanted is not None and len(names) != wanted:
        raise ConfigError(
            f"{key}: {counted(len(names), 'class')}, and the head of {file} gives {counted(wanted, 'logit')}"
        )
    return Names(names, origin, tuple(notes))


def _numbered(count: int, how: str) -> Names:
    return Names(numbered_names(count), NUMBERED, (f"the file names no classes: they are numbered; {how}",))


_OWN_POOL = "model.pool=timm (the timm model's own pooling)"


# -- weights ---------------------------------------------------------------------------------------------------------


def _load(model: Classifier, published: Published, source: str) -> None:
    """Load the weights; every tensor of the file and of the model must have its counterpart."""
    backbone, head = published.backbone, published.head
    if model.backbone.num_features != head.in_features:
        own = "" if backbone.num_features is not None else f", or the timm model has a layer between: add {_OWN_POOL}"
        raise CheckpointError(
            f"{source}: the head reads {head.in_features} features and {backbone.options['name']} gives "
            f"{model.backbone.num_features}: they are of different models{own}"
        )
    report = load_by_name(model.backbone.model, backbone.state, source=source, convert=_converter(model.backbone.model))
    if report.skipped and backbone.num_features is not None:
        raise CheckpointError(f"{report}\n  recognised {backbone.found}, which has no place for what was skipped")
    load_by_name(model.head, head.state, source=f"{source} (head: {head.found})")


def _converter(module: torch.nn.Module) -> Any:
    """Return timm's own renaming of published names."""
    return getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)


@torch.inference_mode()
def _check_pooling(model: Classifier, cfg: DictConfig, published: Published, source: str) -> None:
    """Refuse a timm model whose own classifier works on something else than what this config pools."""
    name, size = cfg.model.name, model.backbone.image_size
    options: dict[str, Any] = {str(key): value for key, value in (cfg.model.timm_kwargs or {}).items()}
    made_for = timm.get_pretrained_cfg(name)
    if made_for is not None and made_for.fixed_input_size:
        options["img_size"] = size
    if cfg.model.in_chans != 3:
        options["in_chans"] = cfg.model.in_chans
    reference = timm.create_model(name, num_classes=published.head.num_classes, **options)
    state = published.backbone.state | published.file_head
    load_by_name(reference, state, source=source, convert=_converter(reference))
    images = torch.randint(0, 256, (2, 3, *height_width(size)), generator=torch.Generator().manual_seed(0)).float()
    expected, found = reference.eval()(model.normalize(images)), model.eval()(images)
    difference, spread = (expected - found).abs().max().item(), expected.std().item()
    if not difference <= 1e-3 * max(spread, 1e-3):
        raise CheckpointError(
            f"{source}: {name}'s own classifier works on other features than head.tokens={cfg.head.tokens} "
            f"model.pool={cfg.model.pool}: its logits differ by {difference:.3g}. Add {_OWN_POOL}. To train from it "
            f"with a new head: model=timm model.name={name} model.checkpoint={source}"
        )

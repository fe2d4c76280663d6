"""Warm start: the head of `model.checkpoint` is taken over for classes of the same name."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from mltrain.config.schema import DEFAULTS_FOR_OLDER_RUNS
from mltrain.labels import match_classes
from mltrain.models.classifier import Classifier
from mltrain.models.heads.take_over import take_over
from mltrain.models.weights import HEAD, StoredWeights
from mltrain.runs.settings import option_name
from mltrain.text import first_few, part_of, spell

logger = logging.getLogger(__name__)

NO_MATTER = ("_target_", "dropout", "prior", "embeddings")
"""options of a head that may differ without a word: they do not change what trained weights compute in evaluation"""


def start_head(model: Classifier, cfg: DictConfig, class_names: Sequence[str]) -> None:
    """Take over the head of the checkpoint that the backbone was read from, and log one line about it.

    Nothing happens without such a checkpoint. A head of another kind starts fresh, and the line says so.
    """
    stored, model.backbone.stored = model.backbone.stored, None
    if stored is None:
        return
    settings = OmegaConf.to_container(cfg.head, resolve=True)
    assert isinstance(settings, dict)
    told = _take_over(model, stored, {str(k): v for k, v in settings.items()}, tuple(class_names))
    source = cfg.model.checkpoint
    logger.info("head of %s: %s", source, told)
    there = stored.tensors
    if "mean" in there and "std" in there:
        here = {"mean": model.mean, "std": model.std}
        if not all(torch.allclose(there[key].view(-1), tensor.view(-1), rtol=1e-4) for key, tensor in here.items()):
            mean, std = ([round(v / 255, 4) for v in there[key].view(-1).tolist()] for key in ("mean", "std"))
            logger.warning(
                "%s was trained on images of another mean or std; for the same figures: model.mean=%s model.std=%s",
                source, str(mean).replace(" ", ""), str(std).replace(" ", ""),
            )  # fmt: skip


def _take_over(model: Classifier, stored: StoredWeights, settings: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """Take over what fits; return what happened, for the log."""
    old = stored.class_names
    before = stored.head_settings
    kinds = [option_name("head", dict(found)) for found in (before, settings)] if before else []
    if kinds and kinds[0] != kinds[1]:
        return f"starts fresh, because it is {kinds[0]} there and {kinds[1]} here; only the backbone is taken over"
    pairs = match_classes(names, old)
    try:
        copied = take_over(model.head, stored.part(HEAD), pairs, same=names == old)
    except ValueError as error:
        return f"starts fresh, because {error}{_differences(before, settings)}; only the backbone is taken over"
    return _told(copied, pairs, names, old) + _differences(before, settings)


def _told(copied: set[int] | None, pairs: Mapping[int, int], names: tuple[str, ...], old: tuple[str, ...]) -> str:
    if copied is None:
        return "taken over; no weight of it belongs to a single class"
    fresh = [name for k, name in enumerate(names) if k not in copied]
    text = f"all {len(names)} classes taken over"
    if fresh:
        start = "starts" if len(fresh) == 1 else "start"
        text = f"{part_of(len(copied), len(names), 'class')} taken over; {first_few(fresh)} {start} fresh"
    folded = [f"{old[j]} as {names[k]}" for k, j in pairs.items() if k in copied and old[j] != names[k]]
    text += f"; {first_few(folded)}" if folded else ""
    apart = [names[k] for k in pairs if k not in copied]
    if apart:
        text += f" ({first_few(apart)}: in a group of ML-Decoder with classes of other groups there)"
    return text


def _differences(before: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Name the options of the head that change what the same weights compute."""
    defaults = {key: DEFAULTS_FOR_OLDER_RUNS.get(f"head.{key}", value) for key, value in settings.items()}
    there = {**defaults, **before} if before else {}
    found = [
        f"head.{key} was {spell(there[key])} there"
        for key, value in settings.items()
        if key in there and key not in NO_MATTER and there[key] != value
    ]
    return f"; {', '.join(found)}" if found else ""

"""Build every part of a run but its data, so that a config's mistakes are known before data are fetched."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from omegaconf import DictConfig

from mltrain.config.build import instantiate
from mltrain.config.identity import component_name
from mltrain.errors import DataError
from mltrain.labels import LabelSet, LabelStats
from mltrain.metrics.summary import summarize
from mltrain.models.backbone import Backbone
from mltrain.models.classifier import Classifier
from mltrain.models.heads import GlobalAveragePool
from mltrain.runs.eval_size import eval_transform
from mltrain.runs.own_parts import build_callbacks, with_own_metrics
from mltrain.sizes import in_pixels

logger = logging.getLogger(__name__)

# Stands for the number of classes, which only the data tell. It is large because options such as head.groups must not
# exceed it.
_CLASSES = 10_000
_STEPS_PER_EPOCH = 1_000


def dry_run(cfg: DictConfig) -> None:
    """Build model, head, loss and the rest of a config for made-up labels; nothing is downloaded or written.

    Raises:
        ConfigError: a part refuses its options.
        CheckpointError: ``model.checkpoint`` cannot be read or does not fit.
    """
    with _silence_logging():
        backbone = _build(cfg)
    name, parameters = component_name(cfg.model), sum(p.numel() for p in backbone.parameters()) / 1e6
    size = in_pixels(backbone.image_size)
    remote = cfg.model.get("pretrained") and not cfg.model.get("checkpoint")
    note = "; its weights are not loaded yet" if remote else ""
    logger.info("everything but the data is in order: %s, %.1f M parameters, %s%s", name, parameters, size, note)


@contextlib.contextmanager
def _silence_logging() -> Iterator[None]:
    """Silence the parts' messages: about made-up labels they would only mislead."""
    package = logging.getLogger("mltrain")
    level = package.level
    package.setLevel(logging.ERROR)
    try:
        yield
    finally:
        package.setLevel(level)


def _build(cfg: DictConfig) -> Backbone:
    labels = LabelSet.from_lists(
        name="rehearsal", root="", files=["-"], class_names=[str(k) for k in range(_CLASSES)], positives=[[0]]
    )
    stats = LabelStats.from_labels(labels)
    offline = cfg.copy()
    if "pretrained" in offline.model:
        offline.model.pretrained = False
    if "prior" in offline.loss:  # a file of the real classes
        offline.loss.prior = None
    backbone: Backbone = instantiate(offline.model, "model")
    given = {"in_features": backbone.num_features, "num_classes": _CLASSES, "class_names": labels.class_names}
    try:
        head = instantiate(cfg.head, "head", stats=stats, **given)
    except DataError:  # it looks its classes up in a file, which has no made-up ones
        head = GlobalAveragePool(backbone.num_features, _CLASSES)
    model = Classifier(backbone, head)
    with contextlib.suppress(DataError):  # it names classes, which made-up labels do not have
        instantiate(cfg.partial, "partial", labels=labels)
    instantiate(offline.loss, "loss", stats=stats, num_classes=_CLASSES)
    instantiate(cfg.sampler, "sampler", labels=labels, stats=stats, seed=cfg.seed)
    instantiate(cfg.curriculum, "curriculum", labels=labels, seed=cfg.seed)
    instantiate(cfg.augment, "augment", image_size=backbone.image_size)
    eval_transform(cfg, backbone)
    instantiate(cfg.mix, "mix")
    instantiate(cfg.optimizer, "optimizer", model=model)
    instantiate(cfg.schedule, "schedule", steps_per_epoch=_STEPS_PER_EPOCH)
    instantiate(cfg.ema, "ema", model=model)
    build_callbacks(cfg)
    with_own_metrics(cfg, summarize)
    return backbone

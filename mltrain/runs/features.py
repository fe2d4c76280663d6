"""The cache of a run: resized images, or features of its frozen backbone."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from mltrain.config.rules import FEATURES
from mltrain.engine.precision import resolve_amp
from mltrain.errors import ConfigError, DataError
from mltrain.labels import LabelSet
from mltrain.models.classifier import Classifier
from mltrain.pipeline.batch import Cache, Layout, Transform
from mltrain.pipeline.cache import cached_images
from mltrain.pipeline.features import cached_features
from mltrain.runs.eval_size import eval_transform
from mltrain.runs.offline import START
from mltrain.sizes import height_width

logger = logging.getLogger(__name__)

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_NOT_OF_FEATURES = {*START, "freeze_norm", "freeze_stages", "drop_path", "grad_checkpointing"}
"""options of a model that a frozen one's features do not depend on, or that its weights tell"""


def evaluation_cache(cfg: DictConfig, labels: LabelSet, resize: Transform, model: Classifier) -> Cache | None:
    """Open the cache of a split that is evaluated, as `data.cache` asks for; None without one."""
    if cfg.data.cache == FEATURES:
        return _features(cfg, labels, resize, "eval_resize", model, views=0)
    return cached_images(labels, resize, folder=_folder(cfg)) if cfg.data.cache else None  # type: ignore[arg-type]


def training_cache(cfg: DictConfig, labels: LabelSet, augment: Any, model: Classifier) -> Cache | None:
    """Open the cache of the training split, as `data.cache` asks for; None without one.

    Features are those of `data.feature_views` augmented views; of 0, they are of the image as it is evaluated.

    Raises:
        ConfigError: the augmentation, or the backbone, cannot be used with it.
    """
    if cfg.data.cache == FEATURES:
        views = cfg.data.feature_views
        if views:
            return _features(cfg, labels, augment, "augment", model, views=views)
        logger.info(
            "data.cache=features: training images are resized as in evaluation and not augmented; "
            "data.feature_views=4 would store 4 augmented views of each"
        )
        return evaluation_cache(cfg, labels, eval_transform(cfg, model.backbone), model)
    if cfg.data.feature_views:
        logger.warning("data.feature_views=%d does nothing without data.cache=features", cfg.data.feature_views)
    if not cfg.data.cache:
        return None
    if not hasattr(augment, "cache_resize"):
        raise ConfigError(f"data.cache=true: {cfg.augment._target_} has no cache_resize; set data.cache=false")
    return cached_images(labels, augment.cache_resize(cfg.data.cache_size), folder=_folder(cfg))


def _folder(cfg: DictConfig) -> Path:
    return Path(cfg.data.cache_dir or Path(cfg.paths.data) / "cache")


def _features(
    cfg: DictConfig, labels: LabelSet, transform: Transform, section: str, model: Classifier, *, views: int
) -> Cache:
    backbone = model.backbone
    if not backbone.is_frozen:
        raise ConfigError(
            f"data.cache=features: the backbone of {cfg.model._target_} has parts that are trained, or that are in "
            "training mode (batch-norm, dropout); freeze it with model.freeze_stages=-1, or use data.cache=true"
        )
    device = model.mean.device
    amp_dtype = resolve_amp(cfg.runner.amp, device)
    memory_format = torch.channels_last if cfg.runner.channels_last else torch.contiguous_format
    dtype = DTYPES[cfg.data.feature_dtype]

    @torch.inference_mode()
    def compute(images: torch.Tensor) -> torch.Tensor:
        model.eval()
        given = images.to(device, non_blocking=True, memory_format=memory_format)
        with torch.autocast(device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
            features = model.features(given)
        packed = model.pack(features)
        stored = packed.to(dtype)
        if not bool(stored.isfinite().all()):
            raise DataError(_not_finite(labels, packed, cfg))
        return stored.cpu()

    tokens = compute(torch.zeros(1, 3, *height_width(backbone.image_size), dtype=torch.uint8)).shape[1]
    content = {
        "weights": _digest(model),
        "model": {k: v for k, v in _plain(cfg.model).items() if k not in _NOT_OF_FEATURES},
        "image": [backbone.image_size, _plain(cfg[section])],
        "precision": str(amp_dtype),
    }
    return cached_features(
        labels,
        transform,
        compute,
        layout=Layout((tokens, backbone.num_features), dtype),
        content=json.dumps(content, sort_keys=True),
        folder=_folder(cfg),
        views=views,
        num_workers=cfg.data.num_workers,
        pin_memory=device.type == "cuda",
    )


def _plain(section: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(section, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _digest(model: Classifier) -> str:
    """Return the hash of what computes the features: structure, weights, statistics, and normalisation of images."""
    digest = hashlib.sha256(repr(model.backbone.model).encode())
    for name, tensor in {**model.backbone.state_dict(), "mean": model.mean, "std": model.std}.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _not_finite(labels: LabelSet, packed: torch.Tensor, cfg: DictConfig) -> str:
    if bool(packed.isfinite().all()):
        largest = float(packed.abs().max())
        return f"{labels.name}: features up to {largest:.3g} are too large for fp16; set data.feature_dtype=bf16"
    if cfg.runner.amp == "off":
        return f"{labels.name}: the backbone gives features that are not finite; its weights are damaged"
    return f"{labels.name}: the backbone gives features that are not finite; try runner.amp=off"

"""Write the model of a run as one file that runs without mltrain: ONNX, or torch.export's .pt2.

    mltrain export runs/coco/tresnet_l-gap-asl/0a1b2c3d            RUN/model.onnx
    mltrain export RUN out=model.pt2                               torch.export, for PyTorch alone
    mltrain export RUN input=normalised                            the program that uses it normalises
    mltrain export RUN images=photos                               checked on real images

The file takes a batch of any size and gives logits and probabilities; class names, thresholds, image size and the way
of resizing are in its metadata. It is read back and compared with PyTorch at batch sizes 1, 2 and 5; where they differ,
nothing is written.

    out=FILE              .onnx or .pt2; default RUN/model.onnx
    input=uint8           images of 0..255, normalised inside; float: the same as float32; normalised: normalised before
    weights=best          raw or EMA, whichever validation chose; val: raw, ema: EMA
    images=PATH           image or folder of images to compare with; default: drawn ones

KEY=VALUE changes the run's config, e.g. model.image_size=448. ONNX needs `pip install 'mltrain-vision[export]'`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig

from mltrain.cli import Command
from mltrain.config.build import instantiate
from mltrain.errors import ConfigError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the run's config."""

    out: str | None = None  # FILE.onnx or FILE.pt2; null: <RUN>/model.onnx
    input: Literal["uint8", "float", "normalised"] = "uint8"  # what the file takes; the first two are 0..255
    weights: Literal["best", "val", "ema"] = "best"
    images: str | None = None  # image or folder of images to check with; null: drawn ones


CHECKED_IMAGES = 16
"""of `images`, at most so many"""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def export(cfg: DictConfig, folder: Path, options: Options) -> Path:
    """Write the model of a run folder; the path of the file.

    Raises:
        ConfigError: another suffix, missing packages, EMA weights that the run has not, thresholds of other weights,
            `images` without an image.
        CheckpointError: the run's weights are missing or do not fit.
        MltrainError: the model cannot be exported, or the file does not do what the model does.
    """
    from mltrain.models.export import export_classifier, require_onnx
    from mltrain.runs.facts import facts
    from mltrain.runs.folder import load_finished

    path = Path(options.out) if options.out else folder / "model.onnx"
    if path.suffix == ".onnx":
        require_onnx()
    run = load_finished(folder, weights=options.weights, config=cfg)
    transform = instantiate(cfg.eval_resize, "eval_resize", image_size=run.image_size)
    images = _images(Path(options.images), transform) if options.images else None
    metadata = facts(run) | {"input": options.input}
    logger.info("exporting %s at %d px, and running the file beside PyTorch", folder, run.image_size)
    parity = export_classifier(run.model, path, task=cfg.task, input=options.input, metadata=metadata, images=images)
    size = path.stat().st_size / 1e6
    logger.info("%s: %.1f MB, %d classes, %d px, %s", path, size, len(run.class_names), run.image_size, parity)
    return path


def _images(path: Path, transform: Any) -> torch.Tensor:
    import torch

    from mltrain.pipeline.decode import read_image

    files = [path] if path.is_file() else sorted(f for f in path.glob("*") if f.suffix.lower() in SUFFIXES)
    if not files:
        raise ConfigError(f"images={path}: neither an image nor a folder with {', '.join(SUFFIXES)} files")
    return torch.stack([transform(read_image(file)) for file in files[:CHECKED_IMAGES]]).contiguous()


COMMAND = Command(export, about=__doc__, takes="run", options=Options)

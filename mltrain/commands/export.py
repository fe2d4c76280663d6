"""Write the model of a run as one file that runs without mltrain: ONNX, or torch.export's .pt2.

    mltrain export runs/coco/tresnet_l-gap-asl/0a1b2c3d            RUN/model.onnx
    mltrain export RUN out=model.pt2                               torch.export, for PyTorch alone
    mltrain export RUN input=normalised                            the program that uses it normalises
    mltrain export RUN images=photos                               checked on real images

The file takes a batch of any size and gives logits and probabilities; class names, thresholds, image size and the way
of resizing are in its metadata. The command runs the file and compares it with PyTorch at batch sizes 1, 2 and 5; if
they differ, it writes nothing. ONNX needs `pip install 'mltrain-vision[export]'`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig

from mltrain.cli import Command
from mltrain.sizes import in_pixels
from mltrain.text import counted

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the run's config."""

    out: str | None = None
    """file to write, .onnx or .pt2; null: RUN/model.onnx"""
    input: Literal["uint8", "float", "normalised"] = "uint8"
    """uint8: images of 0..255, normalised inside; float: the same as float32; normalised: images normalised before"""
    weights: Literal["best", "val", "ema"] = "best"
    """best: weights that validation chose; val: raw weights; ema: averaged weights"""
    images: str | None = None
    """image or folder of images to compare on; null: random ones"""


CHECKED_IMAGES = 16
"""at most this many of `images` are compared"""


def export(cfg: DictConfig, folder: Path, options: Options) -> Path:
    """Write the model of a run folder and return the path of the file.

    Raises:
        ConfigError: the suffix is unknown, packages are missing, the run has no EMA weights, its thresholds are for
            other weights, or `images` has no image.
        CheckpointError: the run's weights are missing or do not fit.
        MltrainError: the model cannot be exported, or the file and the model give different results.
    """
    from mltrain.models.export import export_classifier, require_onnx
    from mltrain.runs.facts import facts
    from mltrain.runs.folder import load_finished

    path = Path(options.out) if options.out else folder / "model.onnx"
    if path.suffix == ".onnx":
        require_onnx()
    run = load_finished(folder, weights=options.weights, config=cfg)
    images = _images(options.images, run.eval_transform) if options.images else None
    metadata = facts(run) | {"input": options.input}
    size = in_pixels(run.image_size)
    logger.info("exporting %s at %s, and running the file beside PyTorch", folder, size)
    kind = {"task": cfg.task, "input": options.input, "image_size": run.image_size}
    parity = export_classifier(run.model, path, metadata=metadata, images=images, **kind)
    amount = path.stat().st_size / 1e6
    logger.info("%s: %.1f MB, %s, %s, %s", path, amount, counted(len(run.class_names), "class"), size, parity)
    return path


def _images(place: str, transform: Any) -> torch.Tensor:
    import torch

    from mltrain.pipeline.decode import read_image
    from mltrain.runs.predictor import image_files

    files = image_files([place])[:CHECKED_IMAGES]
    return torch.stack([transform(read_image(file)) for file in files]).contiguous()


COMMAND = Command(export, about=__doc__, takes="run", options=Options)

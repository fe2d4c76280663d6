"""Batch-norm statistics of weights that no training step has seen, such as an average of several."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from mltrain.models.classifier import Classifier
from mltrain.pipeline.batch import to_device
from mltrain.pipeline.loader import Batch
from mltrain.progress import Meter, Mode


def trained_batch_norms(model: Classifier) -> list[_BatchNorm]:
    """Return the batch-norm layers whose running statistics follow a training, those of frozen parts left out."""
    was = model.training
    model.train()
    found = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    model.train(was)
    return found


@torch.no_grad()
def estimate_batch_norm(
    model: Classifier,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    amp_dtype: torch.dtype | None = None,
    channels_last: bool = True,
    images: int | None = None,
    progress: Mode = "off",
) -> None:
    """Replace the running statistics by their mean over the batches, as in SWA (Izmailov et al., arXiv 1803.05407).

    Batches count equally. Only the batch-norm layers are in training mode, so dropout and stochastic depth are off, as
    in evaluation. The model is left in evaluation mode.

    Args:
        model: on the device.
        batches: of training images, as the training saw them.
        device: of the model.
        amp_dtype: of autocast over the backbone; None: full precision.
        channels_last: memory format of the images.
        images: how many there are, for the display.
        progress: how to show progress.
    """
    layers = trained_batch_norms(model)
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean of all batches
        layer.train()
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    try:
        with Meter("estimating batch norm", images, unit="images", mode=progress) as meter:
            for batch in batches:
                if len(batch.targets):
                    inputs = to_device(batch.images, device, memory_format)
                    with torch.autocast(device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
                        model(inputs)
                    meter.add(len(batch.targets))
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        model.eval()

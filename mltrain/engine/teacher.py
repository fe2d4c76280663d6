"""The teacher of a training with knowledge distillation: a finished model, and the loss that follows it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from mltrain.losses.distillation import sigmoid_kl
from mltrain.models.classifier import Classifier
from mltrain.sizes import height_width


@dataclass(eq=False)
class Teacher:
    """A frozen model that sees the student's images, mixed and augmented, and normalises them as in its own training.

    Images of another size than the teacher's own are resized to that (bilinear, with antialias).
    """

    model: Classifier
    """in evaluation mode, on the device of the student"""
    columns: torch.Tensor
    """(C,) the teacher's class of each class of the student"""
    weight: float
    temperature: float

    def loss(self, images: torch.Tensor, logits: torch.Tensor, reduction: str) -> torch.Tensor:
        """Return the weighted divergence from the teacher, reduced as the loss of the labels is.

        Args:
            images: (B, 3, H, W), 0..255, uint8 or float.
            logits: (B, C) of the student.
            reduction: sum, mean (over entries) or batchmean (sum / B).
        """
        divergence = self.weight * sigmoid_kl(logits, self.logits(images), self.temperature)
        if reduction == "mean":
            return divergence.mean()
        return divergence.sum() / (1 if reduction == "sum" else len(logits))

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return the teacher's logits (B, C) of the student's classes."""
        size = height_width(self.model.backbone.image_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
        return self.model(images)[:, self.columns]

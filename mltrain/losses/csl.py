"""Class-aware selective loss (CSL) and partial ASL: Ben-Baruch, Ridnik, Friedman, Ben-Cohen, Zamir, Noy, Zelnik-Manor,
"Multi-label Classification with Partial Annotations using Class-aware Selective Loss", CVPR 2022, arXiv:2110.10955.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from mltrain.errors import DataError
from mltrain.labels import LabelStats
from mltrain.losses.asl import AsymmetricLoss
from mltrain.text import part_of

ADVICE = "mltrain class_prior RUN writes such a file (columns: class, prior)"
COLUMNS = (("class", "prior"), ("Classes", "avg_pred"))
"""class and prior, in files of `mltrain class_prior` and in those of the authors' code"""
Mode = Literal["selective", "negative", "ignore", "ignore_normalize"]


class ClassAwareSelectiveLoss(nn.Module):
    """Partial ASL (P-ASL), with a choice of which unknown labels are trained as negatives.

        positive  -(1 - p)^gamma_pos log p        negative  -p_m^gamma_neg log(1 - p_m)        p_m = max(p - clip, 0)
        unknown   -p_m^gamma_unknown log(1 - p_m), for those that count as negatives, else 0

    The focusing weights are constant in the gradient. `mode` says which unknown entries (-1) count:

    - ``negative``: all of them.
    - ``ignore``: none.
    - ``ignore_normalize``: none, and the entries of an image with k known labels weigh 1 + 1 / (1 + k).
    - ``selective``: all but those of a class whose prior is above `prior_threshold`, and the `topk` * B of highest
      probability among the unknown entries of the batch of B images, whatever their class. The batch is what one call
      of the loss gets: with n processes or accumulated micro-batches each part of the step leaves out its own most
      probable ones, as many in all, but not quite the same. All else in the loss does not depend on how a step is cut.

    The prior of a class is the probability that a model trained with ``ignore`` gives it on average over the
    training images: `mltrain class_prior` writes it. Without a prior ``selective`` goes by probability alone.
    Compared with the authors' code in all four modes: 1e-6. As in `AsymmetricLoss`, logarithms are not cut at 1e-8.

    Called with logits (B, C) and targets (B, C), 1, 0, -1 or soft; see `PerLabelLoss` for types and precision.

    Args:
        mode: unknown labels that count as negatives: all (``negative``), none (``ignore``, ``ignore_normalize``),
            ``selective``. See above.
        gamma_pos: focusing exponent of the positives, >= 0.
        gamma_neg: focusing exponent of the known negatives, >= 0. The paper has 3 if a fixed number of labels per class
            is known.
        gamma_unknown: focusing exponent of the unknown labels that count as negatives, >= 0; the paper's 4. The
            authors' code has 2.
        clip: probability margin in [0, 1): negatives with p <= clip are free.
        prior: csv file of class priors, as `mltrain class_prior` writes it. It has the columns class and prior (0 to
            1), or the authors' Classes and avg_pred.
        prior_threshold: ``selective`` leaves out unknown labels of classes with a higher prior; 0.5 in the authors'
            recipes. 0.05 in their code.
        topk: ``selective`` leaves out this many times B unknown labels of highest probability; 0: none. Per batch.
        reduction: ``sum``, the authors', or ``batchmean`` (sum / B).

    Raises:
        ValueError: an argument outside its range, a prior in another mode; inputs as in `PerLabelLoss`.
        DataError: the file of the prior cannot be used.
    """

    prior: Tensor | None
    """fp32 (C,)"""

    task: ClassVar[str] = "multi_label"

    def __init__(
        self,
        *,
        stats: LabelStats | None = None,
        mode: Mode = "selective",
        gamma_pos: float = 0.0,
        gamma_neg: float = 1.0,
        gamma_unknown: float = 2.0,
        clip: float = 0.0,
        prior: str | None = None,
        prior_threshold: float = 0.05,
        topk: int = 5,
        reduction: Literal["sum", "batchmean"] = "sum",
    ) -> None:
        super().__init__()
        if mode not in get_args(Mode):
            raise ValueError(f"mode={mode!r} is unknown; allowed: {', '.join(get_args(Mode))}")
        if reduction not in ("sum", "batchmean"):
            raise ValueError(f"reduction={reduction!r} is unknown; allowed: sum, batchmean")
        if not 0 <= gamma_unknown < math.inf:
            raise ValueError(f"gamma_unknown={gamma_unknown} must be 0 or above")
        if not 0 <= prior_threshold <= 1:
            raise ValueError(f"prior_threshold={prior_threshold} must be in [0, 1]")
        if topk < 0:
            raise ValueError(f"topk={topk} must be 0 or above")
        if prior is not None and mode != "selective":
            raise ValueError(f"prior={prior!r} is for mode='selective' only, not {mode!r}")
        if prior is not None and stats is None:
            raise ValueError("prior needs stats, for the order of the classes")
        self.mode = mode
        self.prior_threshold = prior_threshold
        self.topk = topk
        self.reduction = reduction
        known = _Normalized if mode == "ignore_normalize" else AsymmetricLoss
        self.known = known(gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip, reduction=reduction)
        self.unknown = AsymmetricLoss(gamma_neg=gamma_unknown, clip=clip, reduction=reduction)
        values = None
        if prior is not None and stats is not None:
            values = torch.from_numpy(read_prior(prior, stats.class_names))
        self.register_buffer("prior", values, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.known(logits, targets)
        if self.mode not in ("negative", "selective"):
            return loss
        negatives = targets < 0
        if self.mode == "selective":
            negatives = self._select(logits.detach(), negatives)
        return loss + self.unknown(logits, negatives.to(torch.int8) - 1)

    def _select(self, logits: Tensor, unknown: Tensor) -> Tensor:
        """Return the unknown entries that count as negatives, bool (B, C)."""
        chosen = unknown.clone()
        if self.prior is not None:
            if self.prior.numel() != logits.shape[1]:
                raise ValueError(f"logits have {logits.shape[1]} classes, the prior {self.prior.numel()}")
            chosen &= self.prior <= self.prior_threshold
        count = min(self.topk * len(logits), logits.numel())
        if count:
            # Known entries among them, where fewer are unknown, do no harm: they are False already.
            likely = logits.masked_fill(~unknown, -torch.inf).flatten().topk(count, sorted=False).indices
            chosen.view(-1).index_fill_(0, likely, False)
        return chosen

    def extra_repr(self) -> str:
        prior = "file" if self.prior is not None else None
        return f"mode={self.mode!r}, prior={prior!r}, prior_threshold={self.prior_threshold}, topk={self.topk}"


class _Normalized(AsymmetricLoss):
    """ASL whose entries weigh 1 + 1 / (1 + k), k the known labels of the image."""

    def weight(self, targets: Tensor) -> Tensor:
        return normalized_weight(targets)


def normalized_weight(targets: Tensor) -> Tensor:
    """Return 1 + 1 / (1 + k), (B, 1), k the known labels of each image."""
    return 1 + 1 / (1 + (targets >= 0).sum(1, keepdim=True).to(targets.dtype))


def read_prior(path: str | Path, class_names: tuple[str, ...]) -> np.ndarray:
    """Read class priors from a csv file: fp32 (C,) in the order of `class_names`.

    Raises:
        DataError: as `read_prior_table`, and a class that is missing.
    """
    found = read_prior_table(path)
    missing = [name for name in class_names if name not in found]
    if missing:
        raise DataError(
            f"{path}: of the dataset, {part_of(len(missing), len(class_names), 'class', 'are')} not in it, "
            f"first {missing[0]!r}; "
            f"it must be of the same dataset; {ADVICE}"
        )
    return np.array([found[name] for name in class_names], dtype=np.float32)


def read_prior_table(path: str | Path) -> dict[str, float]:
    """Read class priors by class name, in the order of a csv file with the columns `class` and `prior`.

    The columns may also be those of the authors' code, `Classes` and `avg_pred`.

    Raises:
        DataError: not readable, no such columns, a class that is listed twice, a number outside 0 to 1.
    """
    found: dict[str, float] = {}
    try:
        with Path(path).open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            columns = next((pair for pair in COLUMNS if set(pair) <= set(reader.fieldnames or ())), None)
            if columns is None:
                raise DataError(f"{path}: has the columns {reader.fieldnames}, not class and prior; {ADVICE}")
            for row in reader:
                name, text = (row[column] for column in columns)
                try:
                    value = float(text)
                except (TypeError, ValueError):
                    value = math.nan
                if not 0 <= value <= 1:
                    raise DataError(f"{path}, line {reader.line_num}: prior of {name!r} is {text!r}, not in 0 to 1")
                if name in found:
                    raise DataError(f"{path}, line {reader.line_num}: class {name!r} is listed twice")
                found[name] = value
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); {ADVICE}") from error
    return found

"""All figures of one evaluation, in percent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import sparse
from torch import Tensor

from mltrain.metrics.counts import Counts, count_at_topk, logit_of, overall_and_per_class, word_figures
from mltrain.metrics.entries import DenseEntries, KnownEntries
from mltrain.metrics.label_ranking import label_ranking
from mltrain.text import counted, part_of

Absent = Literal["exclude", "zero", "error"]
TITLES = {"map": "mAP", "g_mean": "G-mean", "mauc": "MAUC", "balanced_accuracy": "balanced accuracy"}
"""titles of figures in tables; others are called by their key"""


@dataclass(frozen=True)
class Summary:
    """Figures of one evaluation, by name; in percent, except counts."""

    scalars: dict[str, float]
    per_class: dict[str, np.ndarray]
    """arrays `(C,)`; the first is the figure that plots show against training frequency"""
    confusion: sparse.csr_matrix | None = None
    """single label only: images of the row's class that were predicted as the column's, int64 `(C, C)`"""


def summarize(
    logits: Tensor | KnownEntries,
    targets: Tensor | None = None,
    *,
    group_indices: Mapping[str, ArrayLike] | None = None,
    threshold: float = 0.5,
    cuts: float | Tensor | None = None,
    topk: int | Sequence[int] | None = 3,
    topk_threshold: float | None = None,
    words_k: int | None = 5,
    absent: Absent = "exclude",
    min_positives: int = 1,
    min_negatives: int = 0,
    ranking: bool = False,
) -> Summary:
    """Evaluate one set of predictions.

    Args:
        logits: `(N, C)` floating point, as the model gave them; or the known entries, without targets.
        targets: `(N, C)` of 1 positive, 0 negative, -1 unknown.
        group_indices: class indices by group name, as `LabelStats.group_indices()`; each group with an evaluable class
            gets `map_<name>`, and `OF1_<name>`, `CF1_<name>`, `macro_F1_<name>` and `hamming_accuracy_<name>` over its
            classes.
        threshold: of the sigmoid, for OP OR OF1 CP CR CF1 macro_F1 and the counts of each class.
        cuts: logits to use instead of `threshold`, as in `count_above`: one per class `(C,)`, for example.
        topk: labels per image for the same figures with suffix `@k`, one k or several; None leaves them out. A group
            called "unseen" is also ranked by itself, with suffix `_unseen@k`: the figures of zero-shot learning,
            where those over all classes are of generalised zero-shot learning (not from known entries).
        topk_threshold: least sigmoid of a label in the figures `@k`: an image has k labels at most then, as in the
            code of ML-GCN and CSRA (0.5). None: exactly k.
        words_k: labels per image for the annotation protocol (`words_P` ...); None leaves them out.
        absent: a class without a known positive is left out of the means over classes ("exclude"), counts as 0 in them
            ("zero", what the ASL family's code does) or is refused ("error").
        min_positives, min_negatives: a class with positives, but with fewer known positives or known negatives than
            this, is left out of the means over classes; `classes_below_support` counts them. A class with unknown
            entries and no known negative has an AP of 1 for any model and is always left out.
        ranking: add the label-ranking metrics `lrap`, `ranking_loss` and `coverage_error` (a number of labels), see
            `label_ranking` (not from known entries).

    Returns:
        Summary. Among the scalars `map` is the mean AP of the classes, `map_weighted` the mean weighted by their known
        positives. Undefined figures are left out: those of a group without an evaluable class, and those at a k above
        the number of classes.

    Raises:
        ValueError: no class has a known positive (unless `absent="zero"`), some have none and `absent="error"`, an
            index is out of range, an unknown `absent`, no class has the support asked for, or inputs as in
            `average_precision` and `count_at_threshold`.
    """
    if absent not in ("exclude", "zero", "error"):
        raise ValueError(f'absent must be "exclude", "zero" or "error"; got {absent!r}')
    entries = logits if isinstance(logits, KnownEntries) else _dense(logits, targets)
    ap = entries.average_precision()
    classes = ap.size
    missing = np.isnan(ap)
    if absent == "error" and missing.any():
        first = ", ".join(str(index) for index in np.flatnonzero(missing)[:5])
        raise ValueError(
            f"{part_of(int(missing.sum()), classes, 'class', 'have')} no positive (first indices: {first})"
        )
    if absent != "zero" and missing.all():
        raise ValueError(f"none of {counted(classes, 'class')} has a positive: there is nothing to evaluate")
    counts = entries.count_above(logit_of(threshold) if cuts is None else cuts)
    unsupported = ~missing & (counts.positives < min_positives)
    negatives = entries.negatives()
    partial = counts.positives + negatives < entries.images
    unsupported |= ~missing & ((negatives < min_negatives) | (partial & (negatives == 0)))
    least_negatives = max(int(partial.any()), min_negatives)
    evaluable = ~unsupported if absent == "zero" else ~(missing | unsupported)
    if not evaluable.any():
        raise ValueError(
            f"none of {counted(classes, 'class')} has {counted(min_positives, 'known positive')} and "
            f"{counted(least_negatives, 'known negative')} "
            "(min_positives, min_negatives): there is nothing to evaluate"
        )
    ap_in_means = np.nan_to_num(ap)

    scalars = {"map": _percent(ap_in_means[evaluable].mean())}
    if counts.positives[evaluable].any():
        scalars["map_weighted"] = _percent(np.average(ap_in_means[evaluable], weights=counts.positives[evaluable]))
    groups: dict[str, np.ndarray] = {}
    for name, indices in (group_indices or {}).items():
        members = np.zeros(classes, dtype=bool)
        members[checked_indices(name, indices, classes)] = True
        members &= evaluable
        if members.any():
            groups[name] = members
            scalars[f"map_{name}"] = _percent(ap_in_means[members].mean())
    micro = entries.micro_average_precision()
    if not math.isnan(micro):
        scalars["micro_ap"] = _percent(micro)

    scalars |= _figures(counts, evaluable, suffix="")
    accuracy = counts.accuracy(negatives)
    scalars["hamming_accuracy"] = _percent(accuracy[evaluable].mean())
    for name, members in groups.items():
        figures = _figures(Counts(*(column * members for column in counts)), members, suffix=f"_{name}")
        scalars |= {f"{key}_{name}": figures[f"{key}_{name}"] for key in ("OF1", "CF1", "macro_F1")}
        scalars[f"hamming_accuracy_{name}"] = _percent(accuracy[members].mean())
    cut_offs = () if topk is None else (topk,) if isinstance(topk, int) else tuple(topk)
    for k in cut_offs:
        if k <= classes:
            scalars |= _figures(entries.count_at_topk(k, topk_threshold), evaluable, suffix=f"@{k}")
    if "unseen" in groups and group_indices and isinstance(entries, DenseEntries):
        indices = checked_indices("unseen", group_indices["unseen"], classes)
        scalars |= _ranked_alone(entries, indices, evaluable, cut_offs)
    if words_k is not None and words_k <= classes:
        words = word_figures(entries.count_at_topk(words_k))
        scalars |= {f"words_{name}": _percent(words[name]) for name in ("P", "R", "F1")}
        scalars["words_N+"] = words["N+"]
    if ranking and isinstance(entries, DenseEntries):
        ranks = label_ranking(entries.logits, entries.targets)
        scalars |= {"lrap": _percent(ranks["lrap"]), "ranking_loss": _percent(ranks["ranking_loss"])}
        scalars["coverage_error"] = ranks["coverage_error"]
    scalars["classes_without_positives"] = float(missing.sum())
    if min_positives > 1 or min_negatives > 0 or unsupported.any():
        scalars["classes_below_support"] = float(unsupported.sum())

    per_class = {
        "ap": 100.0 * ap,
        "positives": counts.positives,
        "predicted": counts.predicted,
        "precision": 100.0 * counts.precision,
        "recall": 100.0 * np.where(missing, np.nan, counts.recall),
        "f1": 100.0 * np.where(missing, np.nan, counts.f1),
    }
    return Summary(scalars, per_class)


def _dense(logits: Tensor, targets: Tensor | None) -> DenseEntries:
    if targets is None:
        raise ValueError("logits need targets")
    return DenseEntries(logits, targets)


def _ranked_alone(
    entries: DenseEntries, indices: np.ndarray, evaluable: np.ndarray, cut_offs: Sequence[int]
) -> dict[str, float]:
    """Return OP ... macro_F1 with suffix `_unseen@k`, predicting the k highest among the classes at `indices` alone.

    Only images that have one of these labels count, as published: the others have nothing to find there.
    """
    scalars: dict[str, float] = {}
    columns = torch.from_numpy(indices)
    wanted = entries.targets[:, columns.to(entries.targets.device)]
    images = (wanted == 1).any(1).nonzero().view(-1)
    alone = entries.logits[:, columns.to(entries.logits.device)][images.to(entries.logits.device)]
    wanted = wanted[images]
    for k in cut_offs:
        if k <= len(columns):
            scalars |= _figures(count_at_topk(alone, wanted, k=k), evaluable[indices], suffix=f"_unseen@{k}")
    return scalars


def _figures(counts: Counts, evaluable: np.ndarray, *, suffix: str) -> dict[str, float]:
    return {f"{name}{suffix}": _percent(value) for name, value in overall_and_per_class(counts, evaluable).items()}


def checked_indices(name: str, indices: ArrayLike, classes: int) -> np.ndarray:
    """Return class indices as int64. ValueError: one is not in 0..classes - 1."""
    array = np.asarray(indices, dtype=np.int64)
    if array.size and not (array.min() >= 0 and array.max() < classes):
        raise ValueError(f'group "{name}" has class indices {array.min()}..{array.max()}; allowed are 0..{classes - 1}')
    return array


def _percent(fraction: float) -> float:
    return 100.0 * float(fraction)

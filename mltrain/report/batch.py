"""The input of a model: a batch as numbers, as text and as one picture, and what a sampler shows in an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mltrain.labels import GROUP_NAMES, LabelSet, LabelStats
from mltrain.report.pictures import Line, captioned, columns_for, tiled
from mltrain.report.tables import abridged, text_table

_LINES = 7
_WIDTH = 200
_UNKNOWN = 5  # more unknown classes than this are only counted


def tensor_table(tensors: dict[str, torch.Tensor]) -> str:
    """Lay out a row for each tensor: type, shape, layout in memory, range, mean and standard deviation.

    Images (B, 3, H, W) have a mean and a deviation for each channel, red, green, blue.
    """
    rows = []
    for name, tensor in tensors.items():
        values = tensor.detach().double().cpu()
        parts = [values[:, k] for k in range(values.shape[1])] if values.ndim == 4 else [values]
        rows.append(
            [
                name,
                str(tensor.dtype).removeprefix("torch."),
                " x ".join(map(str, tensor.shape)),
                layout_of(tensor),
                tensor.device.type,
                f"{values.min():.3g} .. {values.max():.3g}",
                " ".join(f"{part.mean():.3f}" for part in parts),
                " ".join(f"{part.std(correction=0):.3f}" for part in parts),
            ]
        )
    return text_table(["tensor", "dtype", "shape", "memory", "device", "range", "mean", "std"], rows)


def layout_of(tensor: torch.Tensor) -> str:
    """Return the layout in memory: contiguous, channels_last, or strided."""
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return "channels_last"
    return "contiguous" if tensor.is_contiguous() else "strided"


def named_targets(row: np.ndarray, names: Sequence[str], *, most: int = 12) -> dict[str, list[str]]:
    """Return the classes that a row of targets names, by kind.

    Args:
        row: (C,) of 1, 0, -1 and, where images were mixed, values between 0 and 1.
        names: names of the C classes.
        most: how many names of a kind are listed; the others are counted.

    Returns:
        "positive" (with their value if it is between 0 and 1, highest first); "unknown" if there is such a class;
        "negative" if most classes are unknown.
    """
    positive = np.flatnonzero(row > 0)
    positive = positive[np.argsort(-row[positive], kind="stable")]
    found = {"positive": [names[c] if row[c] == 1 else f"{names[c]} {row[c]:.2f}" for c in positive.tolist()]}
    unknown = np.flatnonzero(row < 0).tolist()
    if len(unknown) > len(row) / 2:
        found["negative"] = [names[c] for c in np.flatnonzero(row == 0).tolist()]
    if unknown:
        found["unknown"] = [names[c] for c in unknown] if len(unknown) <= _UNKNOWN else [f"{len(unknown)} classes"]
    for listed in found.values():
        listed[most:] = [f"and {len(listed) - most} more"] if len(listed) > most else []
    return found


def target_table(targets: np.ndarray, files: Sequence[str], names: Sequence[str]) -> str:
    """Lay out a row for each image: its file and the classes that its targets name."""
    named = [named_targets(row, names) for row in targets]
    kinds = [kind for kind in ("positive", "negative", "unknown") if any(kind in found for found in named)]
    header = ["image", *kinds]
    rows = [
        [_tail(file), *(", ".join(found.get(kind, [])) or "-" for kind in kinds)]
        for file, found in zip(files, named, strict=True)
    ]
    return text_table(header, rows, left=range(len(header)))


def batch_picture(
    images: torch.Tensor, targets: np.ndarray, files: Sequence[str], names: Sequence[str], *, most: int = 32
) -> Image.Image:
    """Draw the first `most` images of a batch, (B, 3, H, W) in 0..255, each with its file and the names of its classes.

    Args:
        images: the batch.
        targets: (B, C) of 1, 0, -1 and, where images were mixed, values between 0 and 1.
        files: files of the images, B or fewer; of a path the last part is shown.
        names: names of the C classes.
        most: how many images are drawn.
    """
    pixels = images[:most].detach().float().round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    drawn: list[tuple[np.ndarray, list[Line]]] = []
    for k, image in enumerate(pixels):
        found = named_targets(targets[k], names, most=_LINES - 3)
        lines: list[Line] = [("hit", text) for text in found["positive"]] or [("text", "no label")]
        if "negative" in found:
            lines.append(("wrong", "not " + ", ".join(found["negative"])))
        if "unknown" in found:
            lines.append(("unknown", f"{int((targets[k] < 0).sum())} unknown"))
        title = [("title", Path(files[k]).name)] if k < len(files) else []
        drawn.append((image, [*title, *lines[:_LINES]]))
    columns, cards = columns_for(len(drawn)), []
    for start in range(0, len(drawn), columns):
        row = drawn[start : start + columns]
        rows = max(len(lines) for _, lines in row)
        cards += [captioned(image, lines, width=_WIDTH, rows=rows) for image, lines in row]
    return tiled(cards, columns)


def sampler_table(labels: LabelSet, stats: LabelStats, shown: np.ndarray, *, top: int = 10) -> str:
    """Lay out how often an epoch shows each class beside its number of images: in total, by group, by class.

    Args:
        labels: the training set.
        stats: its statistics.
        shown: the indices that an epoch takes, in any order, repeats included.
        top: how many of the most and of the least frequent classes are listed.
    """
    times = np.bincount(shown, minlength=len(labels))
    counts = epoch_counts(labels, times)
    lines = [
        f"an epoch shows {len(shown):,} images: {np.count_nonzero(times):,} of {len(labels):,} different ones"
        + (f", one of them {times.max()} times" if times.max(initial=0) > 1 else ""),
        "",
    ]
    rows = [["all classes", "", *_compared(stats.positives.sum(), counts.sum())]]
    for name, index in stats.group_indices().items():
        if len(index):
            compared = _compared(stats.positives[index].sum(), counts[index].sum())
            rows.append([f"{len(index)} {name} classes", "", *compared])
    order = np.argsort(-stats.positives, kind="stable")
    classes = [
        [stats.class_names[c], GROUP_NAMES[stats.groups[c]], *_compared(stats.positives[c], counts[c])]
        for c in order.tolist()
    ]
    header = ["labels", "group", "in the data", "in an epoch", "times"]
    return "\n".join([*lines, text_table(header, [*rows, [""] * 5, *abridged(classes, top)])])


def epoch_counts(labels: LabelSet, times: np.ndarray) -> np.ndarray:
    """Count the positives that an epoch shows if it shows image i `times[i]` times; int64 (C,)."""
    rows, columns = labels.positive_pairs()
    return np.bincount(columns, weights=times[rows], minlength=labels.num_classes).astype(np.int64)


def _compared(there: np.integer, shown: np.integer) -> list[str]:
    return [f"{there:,}", f"{shown:,}", f"{shown / there:.2f}" if there else "-"]


def _tail(file: str, most: int = 40) -> str:
    return file if len(file) <= most else "…" + file[1 - most :]

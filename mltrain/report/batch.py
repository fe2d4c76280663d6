"""What enters the model: a batch as numbers, as words and as one picture; and what a sampler shows in an epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from mltrain.labels import GROUP_NAMES, LabelSet, LabelStats
from mltrain.report.pictures import Line, captioned, grid
from mltrain.report.tables import text_table

_LINES = 7
_WIDTH = 200
_UNKNOWN = 5  # more unknown classes than this are only counted


def tensor_table(tensors: dict[str, torch.Tensor]) -> str:
    """A row for each tensor: type, shape, layout in memory, range, and mean and standard deviation.

    Of images (B, 3, H, W) mean and deviation are those of each channel, red, green, blue.
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
    """contiguous, channels_last, or strided."""
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return "channels_last"
    return "contiguous" if tensor.is_contiguous() else "strided"


def target_words(row: np.ndarray, names: Sequence[str], *, most: int = 12) -> dict[str, list[str]]:
    """What a row of targets says, by kind.

    Args:
        row: (C,) of 1, 0, -1 and, where images were mixed, values between 0 and 1.
        names: of the classes.
        most: names of a kind that are listed; the rest is counted.

    Returns:
        "positive" (those between 0 and 1 with their value, highest first), and, where there is such a class, "unknown";
        where most are unknown, also "negative": the known ones.
    """
    positive = np.flatnonzero(row > 0)
    positive = positive[np.argsort(-row[positive], kind="stable")]
    words = {"positive": [names[c] if row[c] == 1 else f"{names[c]} {row[c]:.2f}" for c in positive.tolist()]}
    unknown = np.flatnonzero(row < 0).tolist()
    if len(unknown) > len(row) / 2:
        words["negative"] = [names[c] for c in np.flatnonzero(row == 0).tolist()]
    if unknown:
        words["unknown"] = [names[c] for c in unknown] if len(unknown) <= _UNKNOWN else [f"{len(unknown)} classes"]
    return {kind: _shortened(found, most) for kind, found in words.items()}


def _shortened(words: list[str], most: int) -> list[str]:
    return words if len(words) <= most else [*words[:most], f"and {len(words) - most} more"]


def target_table(targets: np.ndarray, files: Sequence[str], names: Sequence[str]) -> str:
    """A row for each image: its file and what its targets say."""
    words = [target_words(row, names) for row in targets]
    kinds = [kind for kind in ("positive", "negative", "unknown") if any(kind in found for found in words)]
    header = ["image", *kinds]
    rows = [
        [_tail(file), *(", ".join(found.get(kind, [])) or "-" for kind in kinds)]
        for file, found in zip(files, words, strict=True)
    ]
    widths = [max(len(row[k]) for row in (header, *rows)) for k in range(len(header))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def batch_picture(images: torch.Tensor, targets: np.ndarray, names: Sequence[str], *, most: int = 32) -> Image.Image:
    """The images of a batch, 0..255, with their targets in words; the first `most`."""
    pixels = images[:most].detach().float().round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    drawn: list[tuple[np.ndarray, list[Line]]] = []
    for k, image in enumerate(pixels):
        words = target_words(targets[k], names, most=_LINES - 3)
        lines: list[Line] = [("hit", text) for text in words["positive"]] or [("text", "no label")]
        if "negative" in words:
            lines.append(("wrong", "not " + ", ".join(words["negative"])))
        if "unknown" in words:
            lines.append(("unknown", f"{int((targets[k] < 0).sum())} unknown"))
        drawn.append((image, lines[:_LINES]))
    rows = max(len(lines) for _, lines in drawn)
    columns = min(8, max(2, int(np.ceil(np.sqrt(len(drawn))))))
    return grid([captioned(image, lines, width=_WIDTH, rows=rows) for image, lines in drawn], columns)


def sampler_table(labels: LabelSet, stats: LabelStats, shown: np.ndarray, *, top: int = 10) -> str:
    """How often an epoch shows each class, beside how many images of it there are: in total, by group, by class.

    Args:
        labels: the training set.
        stats: of it.
        shown: the indices that an epoch takes, in any order, repeats included.
        top: classes at each end of the table, by their number of images.
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
            rows.append(
                [f"{len(index)} {name} classes", "", *_compared(stats.positives[index].sum(), counts[index].sum())]
            )
    order = np.argsort(-stats.positives, kind="stable")
    listed = order if len(order) <= 2 * top else np.concatenate([order[:top], order[-top:]])
    classes = [
        [stats.class_names[c], GROUP_NAMES[stats.groups[c]], *_compared(stats.positives[c], counts[c])]
        for c in listed.tolist()
    ]
    if len(order) > len(listed):
        classes.insert(top, [f"... {len(order) - len(listed)} more", "", "", "", ""])
    header = ["labels", "group", "in the data", "in an epoch", "times"]
    return "\n".join([*lines, text_table(header, [*rows, ["", "", "", "", ""], *classes])])


def epoch_counts(labels: LabelSet, times: np.ndarray) -> np.ndarray:
    """int64 (C,): positives that an epoch shows, where image i is shown `times[i]` times."""
    rows, columns = labels.positive_pairs()
    return np.bincount(columns, weights=times[rows], minlength=labels.num_classes).astype(np.int64)


def _compared(there: np.integer, shown: np.integer) -> list[str]:
    return [f"{there:,}", f"{shown:,}", f"{shown / there:.2f}" if there else "-"]


def _tail(file: str, most: int = 40) -> str:
    return file if len(file) <= most else "…" + file[1 - most :]

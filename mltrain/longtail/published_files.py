"""Write a training set as the files of Distribution-Balanced Loss, which its code and its descendants load.

class_freq.pkl     gt_labels (int64 targets of each image), class_freq, neg_class_freq, condition_prob [i, j] = P(j|i)
class_split.pkl    head, middle, tail: sets of class indices
img_id.txt         one image id per line, in the order of gt_labels
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mltrain.labels import LabelSet, LabelStats

GROUPS = {"head": "head", "medium": "middle", "tail": "tail"}
"""our name of a group -> theirs"""


def write_published_files(folder: Path, train: LabelSet, stats: LabelStats) -> Path:
    """Write the three files of a fully labelled training set; create the folder and return it.

    Ids are the stems of the image files, without leading zeros where they are numbers, as COCO's are.

    Raises:
        ValueError: a target is unknown, which the files cannot say.
    """
    targets = train.dense()
    if (targets < 0).any():
        raise ValueError(f"{train.name}: has unknown targets (-1), which class_freq.pkl cannot hold")
    together = stats.cooccurrence.toarray()
    conditional = together / np.maximum(stats.positives, 1)[:, None]
    groups = stats.group_indices()
    folder.mkdir(parents=True, exist_ok=True)
    frequencies = {
        "gt_labels": list(targets.astype(np.int64)),
        "class_freq": stats.positives.astype(np.int64),
        "neg_class_freq": stats.negatives.astype(np.int64),
        "condition_prob": conditional,
    }
    _dump(folder / "class_freq.pkl", frequencies)
    _dump(folder / "class_split.pkl", {theirs: set(groups[ours].tolist()) for ours, theirs in GROUPS.items()})
    ids = "".join(f"{image}\n" for image in published_ids(train.files))
    (folder / "img_id.txt").write_text(ids, encoding="utf-8")
    return folder


def published_ids(files: Sequence[str]) -> list[str]:
    """Return the image ids of files: 2008_000023 of VOC, 554625 of COCO's 000000554625.jpg."""
    stems = [PurePosixPath(file).stem for file in files]
    return [str(int(stem)) if stem.isdecimal() else stem for stem in stems]


def _dump(path: Path, content: Any) -> None:
    """Write a pickle of protocol 2 that NumPy 1 and NumPy 2 both load.

    NumPy 2 calls its module numpy._core, which NumPy 1 lacks; it still knows the earlier name. In protocol 2 a name is
    a line of text, so it can be replaced.
    """
    data = pickle.dumps(content, protocol=2)
    path.write_bytes(data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))

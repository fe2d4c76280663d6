"""The published generator gives the published split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mltrain.datasets import read_csv
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.longtail import LongTailOptions, build_longtail
from mltrain.longtail.curves import pareto
from mltrain.longtail.published import published_selection

CURVE = [800, 529, 359, 248, 175, 125, 91, 67, 50, 38, 29, 23, 18, 14, 11, 9, 7, 6, 5, 4]


def test_the_pareto_curve_is_the_published_one() -> None:
    assert pareto(20, max=800, min=1, b=6).tolist() == CURVE
    assert pareto(80, max=1200, min=1, b=6)[-8:].tolist() == [8, 8, 8, 7, 7, 7, 6, 6]


def test_voc_mlt_comes_out_id_for_id_in_order(shared_data: Path, tmp_path: Path) -> None:
    source = read_csv(shared_data / "voc2012_trainval_labels.csv")
    longtail = build_longtail(source, LongTailOptions(method="published", max=800, b=6, seed=0))
    folder = longtail.write(tmp_path / "voc_mlt")
    official = shared_data / "longtail_official" / "VOCdevkit" / "longtail2012" / "img_id.txt"
    assert (folder / "image_ids.txt").read_text().split() == official.read_text().split()
    assert sorted(longtail.targets.tolist(), reverse=True) == CURVE
    counts = dict(zip(source.class_names, longtail.stats.positives.tolist(), strict=True))
    assert (counts["person"], counts["chair"], counts["cow"]) == (775, 479, 4)


def test_another_seed_gives_another_split(shared_data: Path) -> None:
    source = read_csv(shared_data / "voc2012_trainval_labels.csv")
    zero, one = (build_longtail(source, LongTailOptions(method="published", max=800, seed=s)).train for s in (0, 1))
    shared = {zero.file(i) for i in range(len(zero))} & {one.file(i) for i in range(len(one))}
    assert len(shared) < 500


def small() -> LabelSet:
    """200 images of 5 classes, without any random generator: what an image shows follows from its number."""
    positives = [[c for c in range(5) if (i * (c + 3) + i // 7) % (c + 3) == 0] for i in range(200)]
    return LabelSet.from_lists(
        name="small", root="", files=[f"{i:03d}.jpg" for i in range(200)], class_names="abcde", positives=positives
    )


PINNED_TARGETS = [60, 18, 10, 12, 10]
PINNED = [
    128,
    129,
    5,
    6,
    4,
    3,
    147,
    148,
    149,
    22,
    151,
    23,
    153,
    26,
    27,
    24,
    21,
    25,
    152,
    168,
    174,
    48,
    43,
    176,
    189,
    190,
    191,
    64,
    63,
    194,
    195,
    67,
    69,
    192,
    65,
    66,
    68,
    86,
    90,
    105,
    107,
    108,
    109,
    111,
]


def test_a_small_set_gives_the_same_images_on_every_python() -> None:
    longtail = build_longtail(small(), LongTailOptions(method="published", max=60, min=10, seed=0, val_fraction=0))
    assert longtail.targets.tolist() == PINNED_TARGETS
    assert [int(longtail.train.file(i)[:3]) for i in range(len(longtail.train))] == PINNED
    assert longtail.val is None


def test_the_validation_part_comes_from_what_the_published_selection_leaves() -> None:
    options = LongTailOptions(method="published", max=60, min=10, seed=0, val_fraction=0.2)
    longtail, alone = (
        build_longtail(small(), options),
        build_longtail(small(), LongTailOptions(method="published", max=60, min=10, val_fraction=0)),
    )
    assert longtail.val is not None and longtail.train.fingerprint() == alone.train.fingerprint()
    train, val = ({part.file(i) for i in range(len(part))} for part in (longtail.train, longtail.val))
    assert not train & val and (longtail.val.dense() == 1).any(0).all()


def test_the_selection_reaches_the_last_target_exactly_and_earlier_ones_at_most() -> None:
    rng = np.random.default_rng(0)
    labels = [np.flatnonzero(rng.random(6) < 0.35).tolist() for _ in range(300)]
    order, targets = [3, 1, 0, 5, 4, 2], [40, 60, 5, 80, 10, 20]
    chosen = published_selection(labels, order, targets, seed=3)
    assert len(set(chosen.tolist())) == len(chosen)
    counts = np.bincount(np.concatenate([labels[i] for i in chosen]).astype(int), minlength=6)
    assert counts[2] == 5


def test_a_class_with_too_few_images_is_refused_with_the_numbers() -> None:
    with pytest.raises(
        DataError, match=r"small: \d of 5 classes ha(s|ve) fewer images than wanted:\n  [a-e]: \d+ images, \d+ wanted"
    ):
        build_longtail(small(), LongTailOptions(method="published", max=150))

"""Partial labels made from full ones: by the seed alone, in the numbers asked for, and nothing is made up."""

from __future__ import annotations

import numpy as np
import pytest

from mltrain.datasets import partial
from mltrain.labels import LabelSet, LabelStats


def labels(kind: str = "full", images: int = 400, classes: int = 7) -> LabelSet:
    """full: every target known; known: some unknown; sparse: most unknown (fill -1)."""
    rng = np.random.default_rng(0)
    targets = (rng.random((images, classes)) < np.linspace(0.5, 0.01, classes)).astype(np.int8)
    targets[rng.random(targets.shape) < {"full": 0, "known": 0.2, "sparse": 0.7}[kind]] = -1
    files = [f"{k}.jpg" for k in range(images)]
    names = [str(c) for c in range(classes)]
    return LabelSet.from_dense(name="x", root="r", files=files, class_names=names, targets=targets)


KINDS = ("full", "known", "sparse")
MAKERS = {
    "drop": partial.drop_labels,
    "drop most": lambda **given: partial.drop_labels(probability=0.8, **given),
    "drop few": lambda **given: partial.drop_labels(probability=0.1, **given),
    "per class": lambda **given: partial.keep_per_class(count=20, **given),
    "single positive": partial.single_positive,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dropped", ["unknown", "negative"])
@pytest.mark.parametrize("maker", MAKERS)
def test_kept_labels_stay_and_dropped_labels_follow_the_option(maker: str, dropped: str, kind: str) -> None:
    given = labels(kind)
    before, made = given.dense(), MAKERS[maker](labels=given, dropped=dropped)
    after = made.dense()
    changed = before != after
    assert changed.any()
    if dropped == "unknown":
        assert (after[changed] == -1).all()
    else:
        assert (before[changed] == 1).all() and (after[changed] == 0).all()
    assert (made.name, made.root, made.class_names) == (given.name, given.root, given.class_names)
    assert [made.file(k) for k in range(len(made))] == [given.file(k) for k in range(len(given))]
    assert np.array_equal(given.dense(), before)


@pytest.mark.parametrize("maker", MAKERS)
def test_the_seed_alone_decides(maker: str) -> None:
    given = labels()
    np.random.seed(1)
    first, again, other = (MAKERS[maker](labels=given, seed=seed) for seed in (3, 3, 4))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("probability", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_labels_are_dropped_with_the_probability_asked_for(kind: str, probability: float) -> None:
    given = labels(kind, images=3000)
    for dropped, counted in (("unknown", lambda y: y >= 0), ("negative", lambda y: y == 1)):
        made = partial.drop_labels(labels=given, probability=probability, dropped=dropped)  # type: ignore[arg-type]
        before, after = counted(given.dense()), counted(made.dense())
        assert after.sum() / before.sum() == pytest.approx(1 - probability, abs=0.02)
        assert not after[~before].any()


def test_dropping_does_not_depend_on_how_much_is_written_out_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = partial.drop_labels(labels=labels("known"))
    monkeypatch.setattr(partial, "_CHUNK", 7 * 13)
    assert partial.drop_labels(labels=labels("known")).fingerprint() == whole.fingerprint()


def test_few_listed_targets_stay_few() -> None:
    given = labels("sparse", images=4000)
    assert partial.drop_labels(labels=given).fill == partial.keep_per_class(labels=given).fill == -1
    assert partial.drop_labels(labels=labels(), probability=0.1).fill == 0


@pytest.mark.parametrize("kind", KINDS)
def test_so_many_of_each_class_are_kept(kind: str) -> None:
    given = labels(kind)
    before = LabelStats.from_labels(given)
    after = LabelStats.from_labels(partial.keep_per_class(labels=given, count=20))
    assert after.positives.tolist() == np.minimum(before.positives, 20).tolist()
    assert after.negatives.tolist() == np.minimum(before.negatives, 20).tolist()
    assert before.positives.min() < 20 < before.positives.max()
    missing = LabelStats.from_labels(partial.keep_per_class(labels=given, count=20, dropped="negative"))
    assert missing.positives.tolist() == after.positives.tolist()
    assert missing.unknowns.tolist() == before.unknowns.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_each_image_keeps_one_positive_and_each_of_its_positives_has_a_chance(kind: str) -> None:
    given = labels(kind)
    before = given.dense() == 1
    chosen = np.zeros(before.shape, dtype=int)
    for seed in range(12):
        made = partial.single_positive(labels=given, seed=seed).dense()
        assert ((made == 1).sum(1) == before.any(1)).all()
        assert (made != 0).all()
        chosen += made == 1
    double = before.sum(1) == 2
    assert (chosen[double].max(1) < 12).mean() > 0.95
    assert not chosen[~before].any()


@pytest.mark.parametrize(
    ("maker", "options"),
    [
        (partial.drop_labels, {"probability": 1.5}),
        (partial.drop_labels, {"dropped": "gone"}),
        (partial.keep_per_class, {"count": 0}),
        (partial.single_positive, {"seed": -1}),
    ],
)
def test_options_out_of_range_are_refused(maker, options) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        maker(labels=labels(), **options)

"""Promises of partial=unseen: classes hidden from training."""

from __future__ import annotations

import numpy as np
import pytest

from mltrain.datasets.unseen import unseen_classes
from mltrain.errors import DataError
from mltrain.labels import LabelSet, LabelStats


def labels(targets: list[list[int]]) -> LabelSet:
    files = [f"{i}.jpg" for i in range(len(targets))]
    return LabelSet.from_dense(
        name="pets/train", root="r", files=files, class_names=["cat", "dog", "eel"], targets=np.array(targets)
    )


def test_unseen_classes_are_unknown_and_images_of_these_alone_are_left_out() -> None:
    train = labels([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1], [0, -1, 1]])
    hidden = unseen_classes(labels=train, classes=("dog",))
    assert hidden.dense().tolist() == [[1, -1, 0], [0, -1, 0], [1, -1, 1], [0, -1, 1]]
    assert [hidden.file(i) for i in range(4)] == ["0.jpg", "2.jpg", "3.jpg", "4.jpg"], "1.jpg has a dog alone"
    assert hidden.class_names == train.class_names and hidden.name == train.name


def test_unseen_classes_of_partial_labels_lose_what_was_known() -> None:
    train = labels([[1, 1, -1], [-1, 0, -1], [-1, -1, 1], [-1, 1, -1]])
    assert train.fill == -1
    hidden = unseen_classes(labels=train, classes=("dog", "eel"))
    assert hidden.dense().tolist() == [[1, -1, -1], [-1, -1, -1]]


def test_an_unseen_class_is_a_group_of_its_own_in_the_statistics() -> None:
    train = labels([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    stats = LabelStats.from_labels(unseen_classes(labels=train, classes=("dog",)), head_min=2, medium_min=1)
    assert stats.groups.tolist() == [0, 3, 2], "eel has no positive, but is known to be absent"
    assert {k: v.tolist() for k, v in stats.group_indices().items()} == {
        "head": [0], "medium": [], "tail": [2], "unseen": [1]
    }  # fmt: skip
    assert "unseen" not in LabelStats.from_labels(train).group_indices()


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("dgo",), "pets/train has no class 'dgo'; did you mean 'dog'"),
        (("zebra",), "it has cat, dog, eel"),
        (("cat", "dog", "eel"), "no image of pets/train has a label of a class that is not unseen"),
    ],
)
def test_classes_that_cannot_be_unseen_are_refused(classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        unseen_classes(labels=labels([[1, 0, 0], [0, 1, 1]]), classes=classes)

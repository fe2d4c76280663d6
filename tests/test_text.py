"""Numbers with their nouns and verbs."""

from __future__ import annotations

import pytest

from mltrain.text import agreed, counted, part_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (counted(1, "class"), "1 class"),
        (counted(0, "class"), "0 classes"),
        (counted(2, "epoch"), "2 epochs"),
        (counted(1, "label", "are"), "1 label is"),
        (counted(2, "name", "stand"), "2 names stand"),
        (counted(1, "name", "stand"), "1 name stands"),
        (part_of(1, 3, "class", "have"), "1 of 3 classes has"),
        (part_of(2, 3, "class", "have"), "2 of 3 classes have"),
        (part_of(0, 1, "class", "have"), "0 of 1 class has"),
        (part_of(0, 3, "image"), "0 of 3 images"),
        (agreed(1000, "box"), "boxes"),
    ],
)
def test_noun_and_verb_are_in_the_number_of_the_count(text: str, expected: str) -> None:
    assert text == expected

"""Converted checkpoints without class names: their classes are numbered, and get the names of the data set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mltrain.engine.state import TrainState
from mltrain.errors import CheckpointError
from mltrain.runs.zoo import read_source

logger = logging.getLogger(__name__)

NUMBERED = "numbered"
"""origin of the class names in source.json"""


def numbered_names(count: int) -> tuple[str, ...]:
    """Return the names of classes that have none."""
    return tuple(f"class {k}" for k in range(count))


def named(state: TrainState, class_names: Sequence[str], folder: Path) -> TrainState:
    """Return the weights with the classes of a data set: checked, or taken from it where the file named none.

    Args:
        state: weights of a run folder.
        class_names: those of the data set, in the order of the weights where the names match.
        folder: the run folder.

    Raises:
        CheckpointError: the data set has other classes; for a converted file the message says how to name them.
    """
    source = read_source(folder)
    if source is None:
        state.check_classes(tuple(class_names), folder)
        return state
    own = state.class_names
    if source.get("classes") == NUMBERED and own != tuple(class_names) and len(own) == len(class_names):
        logger.warning(
            "%s: the file names no classes, so its %d logits are taken for the data set's classes in their order "
            "(%s, %s, ... %s); another order needs names: convert it again with classes=FILE",
            *(folder, len(own), *class_names[:2], class_names[-1]),
        )
        return replace(state, class_names=tuple(class_names))
    try:
        state.check_classes(tuple(class_names), folder)
    except CheckpointError as error:
        file = f"zoo:{source['zoo']}" if "zoo" in source else source["file"]
        raise CheckpointError(
            f"{error}, or name the classes as the data set does, in a file with one per line in the order of the "
            f"logits ({folder / 'classes.txt'} has the present ones): mltrain convert_checkpoint {file} classes=FILE "
            f"out={folder} overwrite=true"
        ) from error
    return state

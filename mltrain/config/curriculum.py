"""What a curriculum asks of the rest of the config; torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mltrain.config.signatures import PACKAGE, TargetError, read_signature

WORD = "curriculum"
COSTS = "class_costs"
"""the argument of a sampler that follows the class costs"""


def curriculum_problems(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) of everything in a resolved config that does not go with its curriculum, or lacks one."""
    sections = {name: node for name, node in tree.items() if isinstance(node, dict)}
    chosen = sections.get(WORD, {})
    sampler, loss = sections.get("sampler", {}), sections.get("loss", {})
    options = _options(sampler.get("_target_"))
    if chosen.get("_target_") is None:
        if options is not None and COSTS in options:
            yield "sampler", "it follows the class costs of a curriculum, and there is none: add curriculum=spbl"
        if loss.get("class_weight") == WORD:
            yield "loss.class_weight", "there is no curriculum whose class costs these could be: add curriculum=spbl"
        return
    if options is not None and "epoch_size" not in options:
        yield "sampler", "a curriculum needs a sampler with an option epoch_size, e.g. sampler=uniform"
    if chosen.get("scorer") == "svm" and tree.get("task") == "multi_label":
        yield (
            "curriculum.scorer",
            "an SVM tells apart classes that exclude each other; with several labels an image use scorer=model",
        )
    if sections.get("data", {}).get("on_corrupt") == "skip":
        yield (
            "data.on_corrupt",
            "a curriculum scores every training image and can leave none out; use on_corrupt=stop, or curriculum=none",
        )


def _options(target: Any) -> set[str] | None:
    """The options of one of this package's components; None where they are not known."""
    if not isinstance(target, str) or not target.startswith(PACKAGE + "."):
        return None
    try:
        return set(read_signature(target).parameters)
    except TargetError:
        return None

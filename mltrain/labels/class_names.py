"""Match the class names of two lists, which may spell them differently: `traffic_light` is `traffic light`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from mltrain.text import first_few

_BETWEEN_WORDS = re.compile(r"[\s_-]+")


def folded(name: str) -> str:
    """Return a name without case, white space, underscores and hyphens; as it is if nothing else would be left."""
    text = unicodedata.normalize("NFC", name)
    return _BETWEEN_WORDS.sub("", text).casefold() or text


def match_classes(new: Sequence[str], old: Sequence[str]) -> dict[int, int]:
    """Return {number in `new`: number in `old`} of the classes of the same name.

    A name that both lists have literally is matched first. The rest is compared as `folded`, and matches where exactly
    one name on each side is left for it; more of them are ambiguous, and match nothing.
    """
    place = {name: k for k, name in enumerate(old)}
    pairs = {k: place[name] for k, name in enumerate(new) if name in place}
    taken = {*pairs.values()}
    left_old = _by_folded({k: name for k, name in enumerate(old) if k not in taken})
    for key, mine in _by_folded({k: name for k, name in enumerate(new) if k not in pairs}).items():
        theirs = left_old.get(key, [])
        if len(mine) == len(theirs) == 1:
            pairs[mine[0]] = theirs[0]
    return dict(sorted(pairs.items()))


def ambiguous(new: Sequence[str], old: Sequence[str]) -> list[str]:
    """Return the names that `match_classes` leaves out because several differ in case or separators only, sorted."""
    pairs = match_classes(new, old)
    taken = {*pairs.values()}
    left_new = _by_folded({k: name for k, name in enumerate(new) if k not in pairs})
    left_old = _by_folded({k: name for k, name in enumerate(old) if k not in taken})
    both = left_new.keys() & left_old.keys()
    return sorted({new[k] for key in both for k in left_new[key]} | {old[k] for key in both for k in left_old[key]})


def differences(new: Sequence[str], old: Sequence[str], new_title: str, old_title: str) -> str:
    """Return how two lists of classes differ, for a message, without a full stop.

    Args:
        new: class names.
        old: other class names.
        new_title: place of the first list, such as "the dataset".
        old_title: place of the second.
    """
    pairs = match_classes(new, old)
    unclear = ambiguous(new, old)
    taken = {*pairs.values()}
    only = {
        new_title: [name for k, name in enumerate(new) if k not in pairs and name not in unclear],
        old_title: [name for k, name in enumerate(old) if k not in taken and name not in unclear],
    }
    parts = [f"only {title} has {first_few(list(map(repr, names)))}" for title, names in only.items() if names]
    if unclear:
        parts.append(f"which of these is which is not clear: {first_few(list(map(repr, unclear)))}")
    if not parts:
        k = next(k for k in range(len(new)) if new[k] != old[k])
        parts.append(f"number {k} is {new[k]!r} in {new_title} and {old[k]!r} in {old_title}")
    return "; ".join(parts)


def _by_folded(names: Mapping[int, str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for k, name in names.items():
        found.setdefault(folded(name), []).append(k)
    return found

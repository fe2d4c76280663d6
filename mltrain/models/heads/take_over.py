"""Start a head from the head of other weights, class by class.

A head says with `class_axes` which of its tensors have a row for each class. All other tensors belong to the whole head
and must have the same shape in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from mltrain.models.heads.common import ClassAxes


def match_classes(new: Sequence[str], old: Sequence[str]) -> dict[int, int]:
    """Return {number in `new`: number in `old`} of the classes of the same name.

    Names that no other list has literally are compared without regard to case, spaces and underscores, and match where
    exactly one name on each side is left for it.
    """
    place = {name: k for k, name in enumerate(old)}
    pairs = {k: place[name] for k, name in enumerate(new) if name in place}
    taken = set(pairs.values())
    left_new = _by_folded({k: name for k, name in enumerate(new) if k not in pairs})
    left_old = _by_folded({k: name for k, name in enumerate(old) if k not in taken})
    for folded, mine in left_new.items():
        theirs = left_old.get(folded, [])
        if len(mine) == len(theirs) == 1:
            pairs[mine[0]] = theirs[0]
    return dict(sorted(pairs.items()))


def _by_folded(names: Mapping[int, str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for k, name in names.items():
        found.setdefault(" ".join(name.casefold().replace("_", " ").split()), []).append(k)
    return found


@torch.no_grad()
def take_over(head: nn.Module, state: Mapping[str, Tensor], pairs: Mapping[int, int], *, same: bool) -> set[int] | None:
    """Copy the weights of another head of the same kind into `head`.

    Args:
        head: gets the weights.
        state: tensors of the other head, by name.
        pairs: {class here: class there}.
        same: both have the same classes in the same order; then any head whose tensors fit is copied whole.

    Returns:
        The classes that were copied; None for a head whose weights belong to no single class, which is copied whole.

    Raises:
        ValueError: the tensors do not fit, or the head does not say which of them have classes; nothing was copied.
    """
    own = head.state_dict()
    if own.keys() != state.keys():
        only = sorted(own.keys() ^ state.keys())
        raise ValueError(f"it is another kind of head: only one of the two has {', '.join(only[:3])}")
    axes: ClassAxes | None = getattr(head, "class_axes", None)
    if same and all(own[name].shape == state[name].shape for name in own):
        head.load_state_dict(dict(state))
        return set(pairs) if axes != {} else None
    if axes is None:
        raise ValueError("the classes differ, and the head does not say with class_axes which weights belong to them")
    by_class = {name: found for name in own if (found := _axes_of(name, axes))}
    for name, tensor in own.items():
        free = by_class.get(name, ())
        here, there = (_fixed(shape, free) for shape in (tensor.shape, state[name].shape))
        if here != there:
            raise ValueError(f"{name} has the shape {tuple(state[name].shape)} there and {tuple(tensor.shape)} here")
    for name, tensor in own.items():  # the tensors of state_dict() are the head's own
        if name not in by_class:
            tensor.copy_(state[name])
    if not axes:
        return None
    copy_classes = getattr(head, "copy_classes", None)
    if copy_classes is not None:
        return set(copy_classes(state, pairs))
    mine, theirs = list(pairs), list(pairs.values())
    for name, (axis, *_) in by_class.items() if mine else ():
        rows = state[name].index_select(axis, torch.tensor(theirs))
        own[name].index_copy_(axis, torch.tensor(mine), rows.to(own[name].dtype))
    return set(mine)


def _axes_of(name: str, axes: ClassAxes) -> tuple[int, ...]:
    return next((found for pattern, found in axes.items() if fnmatchcase(name, pattern)), ())


def _fixed(shape: Sequence[int], free: Sequence[int]) -> list[int]:
    return [length for axis, length in enumerate(shape) if axis not in free]

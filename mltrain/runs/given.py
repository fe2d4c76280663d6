"""Objects of a Python program as parts of a config: a network, a loss, a data set that no file describes.

A config names classes and functions. So each object gets a function that returns a copy of it, in a module that exists
in this process alone. The function has an option `fingerprint`, by which the identity of a run depends on the object.
"""

from __future__ import annotations

import copy
import hashlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from mltrain.config.own_code import GIVEN
from mltrain.datasets.splits import Splits
from mltrain.labels import LabelSet


def give(made: Any, name: str | None = None) -> dict[str, Any]:
    """Return the section of a config that stands for an object in this process.

    Args:
        made: the object; each use gets a copy, so that a training does not change it.
        name: last part of the target; None: the name of the object's class or function.
    """
    module = sys.modules.setdefault(GIVEN, types.ModuleType(GIVEN))
    kind = made if isinstance(made, types.FunctionType) else type(made)
    label = name or kind.__name__.strip("<>")
    build = _builder(made)
    build.__name__ = build.__qualname__ = label
    build.__module__ = GIVEN
    setattr(module, label, build)
    return {"_target_": f"{GIVEN}.{label}", "fingerprint": fingerprint(made)}


def _builder(made: Any) -> Callable[..., Any]:
    if isinstance(made, Splits):

        def build_data(*, name: str, fingerprint: str) -> Splits:
            return made

        return build_data

    def build(*, fingerprint: str) -> Any:
        return copy.deepcopy(made)

    return build


def fingerprint(made: Any) -> str:
    """Return 12 hex digits of all that an object holds: its class, numbers, text, arrays, tensors, and what is inside.

    It does not depend on the process. Functions count by their compiled code, other objects by their attributes.
    """
    digest = hashlib.sha256()
    for part in _parts(made, set()):
        digest.update(part)
    return digest.hexdigest()[:12]


def _parts(value: Any, open_: set[int]) -> Iterator[bytes]:
    """Yield the bytes that describe a value; an object that holds itself is described once."""
    yield f"{type(value).__module__}.{type(value).__qualname__}:".encode()
    if isinstance(value, LabelSet):
        yield value.fingerprint().encode()
    elif isinstance(value, torch.Tensor):
        plain = value.detach().cpu()
        yield from _parts((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy(), open_)
    elif isinstance(value, np.ndarray):
        yield str((value.dtype, value.shape)).encode() + np.ascontiguousarray(value).tobytes()
    elif isinstance(value, (type(None), bool, int, float, complex, str, bytes, type)):
        yield repr(value).encode()
    elif isinstance(value, types.FunctionType):
        yield value.__qualname__.encode() + value.__code__.co_code + repr(value.__code__.co_names).encode()
        yield from _parts([c for c in value.__code__.co_consts if not isinstance(c, types.CodeType)], open_)
        yield from _parts([cell.cell_contents for cell in value.__closure__ or ()], open_)
    elif id(value) not in open_:
        inside = open_ | {id(value)}
        if isinstance(value, Mapping):
            content: Any = list(value.items())
        elif isinstance(value, (set, frozenset)):
            content = sorted(fingerprint(item) for item in value)
        elif isinstance(value, (list, tuple)):
            content = value
        else:
            attributes = vars(value) if hasattr(value, "__dict__") else {"": repr(value)}
            hidden = isinstance(value, nn.Module)  # hooks and caches of torch
            content = [
                pair for pair in attributes.items() if not (hidden and pair[0].endswith(("_hooks", "_with_kwargs")))
            ]
        for item in content:
            yield b"("
            for inner in item if isinstance(item, tuple) and content is not value else (item,):
                yield from _parts(inner, inside)

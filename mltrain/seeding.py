"""Random state as a function of a key: nothing depends on what was drawn before, so a checkpoint holds no state.

There are two hashes, because both random streams are part of finished runs. `key_hash` takes words and integers and
seeds steps; `integer_hash` takes integers and seeds images and orders. torch is imported by the functions that need it:
the readers of data sets use this module without it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import random
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

_MASK = (1 << 64) - 1

# The first part of an `integer_hash` key says what the key is for, so that e.g. the order of an epoch and its
# augmentation are independent.
ORDER, IMAGE, MIX, PHOTOMETRIC, SIDES, POLICY = 1, 2, 3, 4, 5, 6


def splitmix64(value: int) -> int:
    """Return one output of the splitmix64 generator (Steele, Lea and Flood 2014) for a 64-bit state."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


@functools.lru_cache(maxsize=256)
def _word(text: str) -> int:
    data = text.encode(errors="surrogateescape")
    return zlib.crc32(data) | (zlib.adler32(data) << 32)


def key_hash(*key: int | str) -> int:
    """Return 64 well-mixed bits of the key; its order and length count. Equal on every machine and Python version."""
    value = len(key)
    for part in key:
        value = splitmix64(value ^ ((_word(part) if isinstance(part, str) else part) & _MASK))
    return value


def integer_hash(*key: int) -> int:
    """Return a 63-bit hash of integers."""
    state = 0
    for part in key:
        state = splitmix64(state + (part & _MASK))
    return state >> 1


def generator_for(*key: int | str) -> torch.Generator:
    """Return a CPU generator seeded with the `key_hash` of the key."""
    import torch

    return torch.Generator().manual_seed(key_hash(*key))


def integer_generator(*key: int) -> torch.Generator:
    """Return a CPU generator seeded with the `integer_hash` of the key."""
    import torch

    return torch.Generator().manual_seed(integer_hash(*key))


def hashed_order(seed: int, names: Sequence[str]) -> list[int]:
    """Return the indices of `names` in a random order that depends on seed and names alone, not on their order."""
    digests = [hashlib.sha256(f"{seed}\0{name}".encode(errors="surrogateescape")).digest() for name in names]
    return sorted(range(len(names)), key=digests.__getitem__)


@contextmanager
def kept_random_state() -> Iterator[torch.Generator]:
    """Yield torch's default CPU generator, to be seeded at will, and restore its state afterwards.

    It is the default generator because torchvision's transforms draw from no other. CUDA's are not touched.
    """
    import torch

    generator = torch.default_generator
    state = generator.get_state()
    try:
        yield generator
    finally:
        generator.set_state(state)


def seed_start(seed: int, *, deterministic: bool = False) -> None:
    """Seed torch (every device), NumPy and Python before the model is built, and choose the kind of kernels.

    `deterministic` insists on deterministic kernels: an operation that has none raises. On a GPU two runs agree bit for
    bit only with it, and only on the same hardware and library versions. Without it cuDNN picks the fastest kernels.
    """
    import torch

    value = key_hash("start", seed)
    torch.manual_seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    random.seed(value)
    if deterministic:
        # cuBLAS reads it when its first handle is made; torch refuses deterministic matrix products without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic


def seed_step(seed: int, step: int, micro: int = 0, rank: int = 0) -> None:
    """Key torch's global generators (dropout, drop path) by optimizer step, micro-batch within it, and rank.

    `torch.manual_seed` would do the same, but it visits every kind of device and takes over 20 times as long.
    """
    import torch

    value = key_hash("step", seed, step, micro, rank)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(value)
    elif _has_mps():
        torch.mps.manual_seed(value)


@functools.cache
def _has_mps() -> bool:
    import torch

    return torch.backends.mps.is_available()

"""Random state as a function of integers: nothing here depends on what was drawn before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_MASK = (1 << 64) - 1

# What a key is for; a first part that keeps e.g. the order of an epoch and its augmentation independent.
ORDER, IMAGE, MIX, PHOTOMETRIC, SIDES = 1, 2, 3, 4, 5


def hash_key(*parts: int) -> int:
    """63-bit hash of integers (the splitmix64 finaliser, Steele et al. 2014, over each part in turn)."""
    state = 0
    for part in parts:
        state = (state + (part & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def keyed_generator(*parts: int) -> torch.Generator:
    """A CPU generator whose state is a function of `parts`."""
    return torch.Generator().manual_seed(hash_key(*parts))


@contextmanager
def kept_random_state() -> Iterator[torch.Generator]:
    """The default CPU generator, to be seeded at will: its state is put back on leaving. CUDA is not touched.

    The default generator, and not one of our own, because torchvision's transforms draw from nothing else.
    """
    generator = torch.default_generator
    state = generator.get_state()
    try:
        yield generator
    finally:
        generator.set_state(state)

"""Random state as a function of a key, so that a checkpoint holds none.

Every random draw of training happens after a `seed_step` for its step, so a run that resumes at a step draws what the
uninterrupted run drew, whatever ran before it in the process.
"""

from __future__ import annotations

import functools
import os
import random
import zlib

import numpy as np
import torch

_MASK = 0xFFFFFFFFFFFFFFFF


def splitmix64(value: int) -> int:
    """One output of the splitmix64 generator (Steele, Lea and Flood 2014) for a 64-bit state: a bijection that mixes
    bits."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


@functools.lru_cache(maxsize=256)
def _word(text: str) -> int:
    data = text.encode()
    return zlib.crc32(data) | (zlib.adler32(data) << 32)


def key_hash(*key: int | str) -> int:
    """64 well-mixed bits of the key; its order and length count. The same on every machine and Python version."""
    value = len(key)
    for part in key:
        value = splitmix64(value ^ ((_word(part) if isinstance(part, str) else part) & _MASK))
    return value


def generator_for(*key: int | str) -> torch.Generator:
    """A CPU generator that depends on the key alone."""
    return torch.Generator().manual_seed(key_hash(*key))


def seed_start(seed: int, *, deterministic: bool = False) -> None:
    """Seed torch (every device), NumPy and Python before the model is built, and choose the kind of kernels.

    `deterministic` insists on deterministic kernels: an operation that has none raises. On a GPU two runs agree bit for
    bit only with it, and only on the same hardware and library versions. Without it cuDNN picks the fastest kernels.
    """
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

    Not `torch.manual_seed`: that visits every kind of device and takes over 20 times as long (measured).
    """
    value = key_hash("step", seed, step, micro, rank)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(value)
    elif _has_mps():
        torch.mps.manual_seed(value)


@functools.cache
def _has_mps() -> bool:
    return torch.backends.mps.is_available()

"""Which dtype mixed precision uses."""

from __future__ import annotations

import logging

import torch

from mltrain.errors import ConfigError

logger = logging.getLogger(__name__)


def resolve_amp(setting: str, device: torch.device) -> torch.dtype | None:
    """The autocast dtype of ``runner.amp`` on a device, or None for full precision.

    ``auto`` takes bf16 on a GPU that has it in hardware and fp16 (with loss scaling) on an older one. On a CPU it takes
    bf16 only where the processor multiplies bf16 matrices in tiles (AMX). With AVX-512 bf16 alone it depends on the
    network: MobileNetV2 trains about 1.35 times as fast, the small default network slower (docs/results.md), so there
    it is left to ``runner.amp=bf16``.

    Raises:
        ConfigError: fp16 on a CPU, which has no loss-scaled fp16 training.
    """
    if setting == "off":
        return None
    if setting == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
        if device.type == "cpu":
            return torch.bfloat16 if _cpu_has_tiles() else None
        return None
    if setting == "fp16" and device.type != "cuda":
        raise ConfigError(f"runner.amp=fp16 needs a CUDA device, the device is {device}. Use runner.amp=bf16 or off.")
    return {"bf16": torch.bfloat16, "fp16": torch.float16}[setting]


def _cpu_has_tiles() -> bool:
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(has_amx()) if has_amx is not None else False

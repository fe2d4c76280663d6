"""The dtype of mixed precision."""

from __future__ import annotations

import logging

import torch

from mltrain.errors import ConfigError

logger = logging.getLogger(__name__)


def resolve_amp(setting: str, device: torch.device) -> torch.dtype | None:
    """Return the autocast dtype of ``runner.amp`` on a device, or None for full precision.

    ``auto`` takes bf16 on a GPU that has it in hardware and fp16 (with loss scaling) on an older one. On a CPU it takes
    bf16 if the processor has instructions for it (AVX-512 bf16 or AMX): AVX-512 bf16 alone made small convolutional
    networks train 1.4 to 1.5 times as fast (docs/results.md).

    Raises:
        ConfigError: fp16 on a CPU, which has no loss-scaled fp16 training.
    """
    if setting == "off":
        return None
    if setting == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
        if device.type == "cpu":
            return torch.bfloat16 if _cpu_has_bf16() else None
        return None
    if setting == "fp16" and device.type != "cuda":
        raise ConfigError(f"runner.amp=fp16 needs a CUDA device, the device is {device}. Use runner.amp=bf16 or off.")
    return {"bf16": torch.bfloat16, "fp16": torch.float16}[setting]


def _cpu_has_bf16() -> bool:
    probes = (getattr(torch.cpu, f"_is_{kind}_supported", None) for kind in ("avx512_bf16", "amx_tile"))
    return any(probe() for probe in probes if probe is not None)

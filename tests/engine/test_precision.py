"""Which dtype `runner.amp` means on which device."""

from __future__ import annotations

import pytest
import torch

from mltrain.engine.precision import resolve_amp
from mltrain.errors import ConfigError

CPU = torch.device("cpu")


def test_what_is_asked_for_is_taken() -> None:
    assert resolve_amp("off", CPU) is None
    assert resolve_amp("bf16", CPU) is torch.bfloat16
    with pytest.raises(ConfigError, match=r"runner\.amp=fp16 needs a CUDA device"):
        resolve_amp("fp16", CPU)


@pytest.mark.parametrize(("avx", "amx"), [(True, False), (False, True), (False, False)])
def test_auto_on_a_cpu_is_bf16_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, avx: bool, amx: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert resolve_amp("auto", CPU) is (torch.bfloat16 if avx or amx else None)


@pytest.mark.parametrize(("capability", "dtype"), [((9, 0), torch.bfloat16), ((7, 5), torch.float16)])
def test_auto_on_a_gpu_follows_its_generation(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_amp("auto", torch.device("cuda", 0)) is dtype

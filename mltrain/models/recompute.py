"""Gradient checkpointing: activations are computed again in the backward pass instead of kept.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mltrain.errors import ConfigError

_KEPT = "_kept_statistics"


def check_supported(model: nn.Module, name: str) -> None:
    """Raise ConfigError if timm cannot checkpoint a model's gradients."""
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
        model.set_grad_checkpointing(False)  # type: ignore[operator]
    except (AttributeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"model.grad_checkpointing=true: timm does not support it for {name}; leave it false, and lower "
            "runner.batch_size with a higher runner.accumulate to save memory"
        ) from error


def set_recompute(model: nn.Module, enable: bool) -> None:
    """Switch gradient checkpointing of a timm model on or off.

    A batch-norm that is computed a second time must not update its running statistics a second time.
    """
    model.set_grad_checkpointing(enable)  # type: ignore[operator]
    for module in model.modules() if enable else ():
        # Looked up again at each call, because converting to synchronised batch-norm replaces the modules.
        if isinstance(module, _BatchNorm) and module.track_running_stats and _hold not in _hooks(module):
            module.register_forward_pre_hook(_hold)
            module.register_forward_hook(_release, always_call=True)  # torch stops a second pass early by an exception


def _hooks(module: nn.Module) -> list[Any]:
    return list(module._forward_pre_hooks.values())


def _hold(module: nn.Module, inputs: Any) -> None:
    """Replace the running statistics by copies if this forward pass is part of a backward pass.

    Copies and not None, because torch compares what both passes save; nor can the statistics be set back afterwards,
    because autograd refuses tensors that were written since they were saved.
    """
    if module.training and torch._C._current_graph_task_id() != -1:
        kept = {name: buffer for name, buffer in module._buffers.items() if buffer is not None}
        module.__dict__[_KEPT] = kept
        module._buffers.update({name: buffer.clone() for name, buffer in kept.items()})


def _release(module: nn.Module, inputs: Any, output: Any) -> None:
    module._buffers.update(module.__dict__.pop(_KEPT, {}))

"""Exponential moving average of the weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from mltrain.optim.groups import bare_module
from mltrain.optim.shards import is_sharded, own_part


class ModelEma:
    """A float32 copy of a model that follows it: shadow += (1 - d) * (weights - shadow), once per optimizer step.

    d is `decay`, or with `warmup` min(decay, (1 + t) / (10 + t)) after t earlier updates: without it the average of a
    short run is mostly its initial weights (at 0.9997 half of them remain after 2,300 steps; the ASL code reports such
    epochs). Float buffers (batch-norm statistics) are averaged too, integer buffers are copied. Parameters that are
    frozen when the average is built are copied once.

    `module` is an ordinary module in evaluation mode, without gradients, on the model's device and in its memory
    format: build the average after moving the model. `DistributedDataParallel` and `torch.compile` wrappers are
    unwrapped. The whole update is one `torch._foreach_lerp_` (a few kernels on a GPU, no temporaries).
    """

    def __init__(self, model: nn.Module, *, decay: float = 0.9997, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in 0..1 and below 1, got {decay}")
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        source = bare_module(model)
        self.module = copy.deepcopy(source).eval().requires_grad_(False)
        for tensor in (*self.module.parameters(), *self.module.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.float()

        self.follow(source)

    def follow(self, source: nn.Module) -> None:
        """Average the weights of `source` from now on, a model of the same structure.

        Call it again when the parameters of both models were replaced by their parts, as sharding does.
        """
        self._sharded = is_sharded(source)
        shadow_parameters = dict(self.module.named_parameters())
        pairs = [(shadow_parameters[name], p) for name, p in source.named_parameters() if p.requires_grad]
        self._parameters = [parameter for _, parameter in pairs]
        # A module may rebind a buffer instead of writing into it, so each update looks the buffers up again.
        self._float_buffers: list[tuple[torch.Tensor, dict[str, Any], str]] = []
        self._other_buffers: list[tuple[dict[str, Any], dict[str, Any], str]] = []
        seen: set[int] = set()
        for shadow_owner, owner in zip(self.module.modules(), source.modules(), strict=True):
            for name, buffer in owner._buffers.items():
                shadow = shadow_owner._buffers[name]
                if buffer is None or shadow is None or id(shadow) in seen:
                    continue
                seen.add(id(shadow))
                if buffer.is_floating_point():
                    self._float_buffers.append((shadow, owner._buffers, name))
                else:
                    self._other_buffers.append((shadow_owner._buffers, owner._buffers, name))
        self._shadows = [shadow for shadow, _ in pairs] + [shadow for shadow, _, _ in self._float_buffers]
        self._cast = any(tensor.dtype is not torch.float32 for tensor in self._weights())

    def decay_at(self, updates: int) -> float:
        """Return the decay of the update that follows `updates` earlier ones."""
        return min(self.decay, (1 + updates) / (10 + updates)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self) -> None:
        """Average the model's current weights in. Call it after every optimizer step that was not skipped."""
        weights = self._weights()
        if self._cast:
            weights = [weight.float() for weight in weights]
        shadows = self._shadows
        if self._sharded:  # looked up each time, because loading a state dict may give a DTensor other memory
            shadows, weights = [own_part(tensor) for tensor in shadows], [own_part(tensor) for tensor in weights]
        torch._foreach_lerp_(shadows, weights, 1.0 - self.decay_at(self.updates))
        for shadow_owner, owner, name in self._other_buffers:
            shadow_owner[name] = owner[name]
        self.updates += 1

    def _weights(self) -> list[torch.Tensor]:
        return self._parameters + [owner[name] for _, owner, name in self._float_buffers]

    def state_dict(self) -> dict[str, Any]:
        """Return `{"updates": int, "module": state dict of the averaged weights}`; the tensors are not copies."""
        return {"updates": self.updates, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`. RuntimeError (of torch): the weights do not fit the model."""
        self.module.load_state_dict(state["module"])
        self.updates = int(state["updates"])

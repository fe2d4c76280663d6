"""Weights, gradients, optimizer state and averaged weights spread over the ranks, by torch's FSDP2 (`fully_shard`).

    shard_model(model, dist)   before the optimizer is built
    whole([model, ema.module])  weights complete on each rank, for an evaluation
    gathered / spread           between the parts of the ranks and the complete tensors of a checkpoint

Rajbhandari et al., "ZeRO", arXiv 1910.02054; Zhao et al., "PyTorch FSDP", arXiv 2304.11277. Each rank keeps 1/N of each
tensor, cut along its first dimension. The weights of a block are gathered before its forward and its backward pass and
dropped after it; gradients are averaged into the parts. A checkpoint has complete tensors, in the order and under the
names of an unsharded run.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import torch
from torch import nn

from mltrain.engine.distributed import Distributed
from mltrain.errors import ConfigError, MltrainError
from mltrain.models.classifier import Classifier
from mltrain.models.stages import blocks
from mltrain.optim.shards import is_sharded, is_spread
from mltrain.sizes import height_width

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

T = TypeVar("T")


def check_shardable(dist: Distributed, amp_dtype: torch.dtype | None) -> None:
    """Refuse what only the started process knows; `mltrain.config.rules` refuses what the config shows.

    Raises:
        ConfigError: a single process, or fp16.
    """
    if dist.world_size == 1:
        raise ConfigError(
            "runner.shard=true spreads the model over several processes, and this is one; start them with "
            "`torchrun --standalone --nproc_per_node=N tools/train.py ...`, or set runner.shard=false"
        )
    if amp_dtype is torch.float16:
        raise ConfigError("runner.shard=true: runner.amp chose fp16 for this GPU; set runner.amp=bf16 or off")


def shard_model(model: Classifier, dist: Distributed) -> None:
    """Replace the parameters by their parts: each block of the backbone, the rest of the backbone, the head.

    The model stays the same object. All ranks begin with the weights of rank 0.
    """
    from torch.distributed import broadcast
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # Tokens are a view of the backbone's output, which a head must not write into; none of ours does.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    mesh = init_device_mesh(dist.device.type, (dist.world_size,))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()  # FSDP2 takes no channels_last weights
            broadcast(parameter.data, src=0)
    # Not the model itself: an evaluation calls backbone and head apart.
    for part in (*blocks(model.backbone.model), model.backbone, model.head):
        sharded = fully_shard(part, mesh=mesh, reshard_after_forward=True)
        if dist.device.type == "cpu":  # gloo takes no mean, and torch 2.8 gives it the sum without a word
            sharded.set_force_sum_reduction_for_comms(True)
    # FSDP2 sets itself up in the first forward pass, and `whole` may come before one.
    training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, *height_width(model.backbone.image_size), device=dist.device))
    model.train(training)


@contextmanager
def whole(models: Iterable[nn.Module]) -> Iterator[None]:
    """Keep the complete weights on each rank in the block, so that ranks may run different numbers of batches.

    All ranks have to enter it. Models that are not sharded are left alone.
    """
    sharded = [model for model in models if is_sharded(model)]
    if not sharded:
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    parts = [part for model in sharded for part in model.modules() if isinstance(part, FSDPModule)]
    with torch.inference_mode(False), torch.no_grad():  # else training could not use the tensors later
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
    try:
        yield
    finally:
        with torch.inference_mode(False), torch.no_grad():
            for part in parts:
                part.set_reshard_after_forward(True, recurse=False)
                part.reshard()


def gathered(content: T, dist: Distributed) -> T:
    """Return a state dict with complete tensors on the CPU of rank 0, and None for them on others.

    Every rank has to call it with the same names. A state dict of a model that is not sharded is returned as it is.
    """
    return _gathered(content, dist) if _has_spread(content) else content


def _gathered(content: Any, dist: Distributed) -> Any:
    if is_spread(content):
        tensor = content.full_tensor()  # by all ranks
        return tensor.cpu() if dist.is_main else None
    if isinstance(content, dict):
        copied = type(content)((key, _gathered(value, dist)) for key, value in content.items())
        vars(copied).update(vars(content)) if hasattr(content, "__dict__") else None  # versions of the modules
        return copied
    if isinstance(content, (list, tuple)):
        return type(content)(_gathered(value, dist) for value in content)
    return content


def _has_spread(content: Any) -> bool:
    if isinstance(content, dict):
        return any(_has_spread(value) for value in content.values())
    if isinstance(content, (list, tuple)):
        return any(_has_spread(value) for value in content)
    return is_spread(content)


def spread_weights(state: dict[str, Any], module: nn.Module) -> dict[str, Any]:
    """Return a state dict whose complete tensors are cut into parts where the parameters of `module` are."""
    own = module.state_dict()
    return {name: _like(value, own.get(name)) for name, value in state.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict with complete tensors, cut into parts where the optimizer's parameters are.

    What is not cut gets the memory order of its parameter: fused kernels run through both in order of memory, and a
    sharded run, whose weights are not in `channels_last` order, may have written the checkpoint.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    of_each = {
        number: {key: _like(value, parameters[number]) for key, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": of_each})


def _like(value: Any, own: Any) -> Any:
    """Cut or lay out a complete tensor as `own` is. One of another shape, such as a count of steps, stays as it is."""
    if not isinstance(own, torch.Tensor) or not isinstance(value, torch.Tensor) or value.shape != own.shape:
        return value
    if not is_spread(own):
        same = value.stride() == own.stride()
        return value if same else torch.empty_like(own, dtype=value.dtype, device=value.device).copy_(value)
    from torch.distributed.tensor import distribute_tensor

    complete, like = value.to(own.device).contiguous(), cast("DTensor", own)
    parts = distribute_tensor(complete, like.device_mesh, like.placements, src_data_rank=None)  # each rank has read it
    return parts.clone()  # a part may be a view, which would keep the complete tensor in memory


class SpreadModel:
    """Stand-in for a sharded model in callbacks: they run on one rank, which has a part of the weights only."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # copy, pickle and the like ask whether it has such a method
            raise AttributeError(name)
        _refuse()

    def __call__(self, *arguments: Any, **options: Any) -> NoReturn:
        _refuse()


def _refuse() -> NoReturn:
    raise MltrainError(
        "runner.shard=true: a callback runs on one process, which has a part of the weights only; use the logits and "
        "metrics that it is given, or set runner.shard=false"
    )

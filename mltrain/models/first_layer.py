"""The first layer of weights for RGB images, adapted to images of another number of channels as timm adapts it."""

from __future__ import annotations

from collections.abc import Callable

from timm.models import adapt_input_conv
from torch import Tensor, nn

IN_CHANS = (3, 1)
"""allowed numbers of channels: RGB, and grey"""

StateDict = dict[str, Tensor]
Convert = Callable[[StateDict, nn.Module], StateDict]


def adapt_first_layer(convert: Convert | None, layers: str | tuple[str, ...] | None) -> Convert:
    """Return the conversion `convert`, followed by the adaptation of the first layer of a timm model.

    For grey images timm sums the weights of the three colours: a grey image then gives what its RGB copy gave, where
    the mean and std of the colours are the same. Nothing changes where the number of channels fits.

    Args:
        convert: renames and resamples the tensors of a file; None: takes them as they are.
        layers: `first_conv` of the model's pretrained config.
    """
    names = (layers,) if isinstance(layers, str) else layers or ()

    def converted(state: StateDict, model: nn.Module) -> StateDict:
        state = dict(state if convert is None else convert(state, model))
        own = model.state_dict()
        for key in (f"{name}.weight" for name in names):
            there, here = state.get(key), own.get(key)
            if there is None or here is None or there.ndim != 4 or there.shape[1] == here.shape[1]:
                continue
            if here.shape[1] == 1 or (there.shape[1] % 3 == 0 and here.shape[1] == there.shape[1] // 3):
                state[key] = adapt_input_conv(1, there)
        return state

    return converted

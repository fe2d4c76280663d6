"""Pretrained weights that cannot be downloaded: said at once, while the hub's own client would retry for a minute."""

from __future__ import annotations

import os

import huggingface_hub
import timm
from huggingface_hub import constants
from huggingface_hub.utils import get_session

from mltrain.errors import MltrainError

SECONDS = 10
"""within which the hub must answer"""
FILES = ("model.safetensors", "pytorch_model.bin")
"""names of weights that timm looks for, the first before the second"""


def check_hub(name: str) -> None:
    """Check that timm's weights of a model are in the cache, or that their server answers.

    Raises:
        MltrainError: neither; the message has the ways out.
    """
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.hf_hub_id or os.environ.get("TIMM_USE_OLD_CACHE"):
        return  # the weights are not on the hub, or may lie in the cache of older versions of timm
    repo, _, revision = cfg.hf_hub_id.partition("@")
    files = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else FILES
    if any(
        isinstance(huggingface_hub.try_to_load_from_cache(repo, file, revision=revision or None), str) for file in files
    ):
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:  # the hub's client has had requests, httpx and its own exceptions
        raise no_weights(name, f"{constants.ENDPOINT} does not answer: {error}") from error


def no_weights(name: str, reason: str) -> MltrainError:
    """Return the error that pretrained weights cannot be had, with the ways out."""
    cfg = timm.get_pretrained_cfg(name)
    page = f"; {constants.ENDPOINT}/{cfg.hf_hub_id} has it" if cfg is not None and cfg.hf_hub_id else ""
    return MltrainError(
        f"model.pretrained=true: timm's weights for {name} could not be downloaded or loaded ({reason}). Without "
        f"network access use model.checkpoint=FILE, a file of these weights ({FILES[0]} or a weights-only .pt{page}); "
        "or train from random weights, which needs far more images: model=small optimizer=scratch, a small network, or "
        "model.pretrained=false"
    )

"""The size at which a model is evaluated: its own, or another one that the config asks for."""

from __future__ import annotations

from omegaconf import DictConfig

from mltrain.config.build import instantiate
from mltrain.errors import ConfigError
from mltrain.models.features import Backbone
from mltrain.pipeline.batch import Transform
from mltrain.sizes import ImageSize, in_pixels, simplest, spelled


def eval_size(cfg: DictConfig, backbone: Backbone) -> ImageSize:
    """Return `eval_resize.image_size`, or the size of the model (Touvron et al., FixRes, arXiv 1906.06423).

    Raises:
        ConfigError: it is no size, or the model cannot take images of it.
    """
    given = cfg.eval_resize.get("image_size")
    if given is None:
        return backbone.image_size
    try:
        size = simplest(given)
    except ValueError as error:
        raise ConfigError(f"eval_resize.{error}") from error
    try:
        backbone.check_size(size)
    except ValueError as error:
        dynamic = hasattr(backbone.model, "dynamic_img_size")
        advice = "add model.timm_kwargs={dynamic_img_size: true}, or " if dynamic else ""
        raise ConfigError(
            f"eval_resize.image_size={spelled(size)}: {cfg.model.get('name')} is built for "
            f"{in_pixels(backbone.image_size)} and cannot take images of that size ({error}); {advice}leave it null"
        ) from error
    return size


def eval_transform(cfg: DictConfig, backbone: Backbone) -> Transform:
    """Build the transform of evaluation. Raises ConfigError as `eval_size`."""
    transform: Transform = instantiate(cfg.eval_resize, "eval_resize", image_size=eval_size(cfg, backbone))
    return transform

"""Configuration: from a command line to checked keyword arguments. Only this and `tools` know Hydra."""

from mltrain.config.compose import load, load_run

__all__ = ["load", "load_run"]

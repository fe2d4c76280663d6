"""The config language: from a command line to checked keyword arguments of components."""

from mltrain.config.compose import load, load_run

__all__ = ["load", "load_run"]

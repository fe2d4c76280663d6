"""Optimizers and their parameter groups, learning-rate schedules, and the moving average of the weights."""

from mltrain.optim.ema import ModelEma
from mltrain.optim.optimizers import adam, adamw, sgd, timm_optimizer
from mltrain.optim.schedules import Constant, Cosine, MultiStep, OneCycle, Schedule, apply

__all__ = [
    "Constant",
    "Cosine",
    "ModelEma",
    "MultiStep",
    "OneCycle",
    "Schedule",
    "adam",
    "adamw",
    "apply",
    "sgd",
    "timm_optimizer",
]

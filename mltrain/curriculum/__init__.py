"""Curricula: the order in which training images are used, in NumPy alone. `mltrain.engine.curriculum` runs them."""

from mltrain.curriculum.complexity import ClassComplexity
from mltrain.curriculum.spbl import SelfPacedBalance, Stage

__all__ = ["ClassComplexity", "SelfPacedBalance", "Stage"]

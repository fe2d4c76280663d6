"""Which training images come when: curricula, in NumPy alone. The runner's side is `mltrain.engine.curriculum`."""

from mltrain.curriculum.complexity import ClassComplexity
from mltrain.curriculum.spbl import SelfPacedBalance, Stage

__all__ = ["ClassComplexity", "SelfPacedBalance", "Stage"]

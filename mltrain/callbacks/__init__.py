"""Your code at points of a training: `callbacks=[{_target_: mypkg.Foo, option: 1}]`."""

from mltrain.callbacks.base import Callback, Stop, TrainingView
from mltrain.callbacks.profile import Profile

__all__ = ["Callback", "Profile", "Stop", "TrainingView"]

"""The methods of training, a class each: what a step minimises.

A class says all that there is to say of its method: it registers a subclass of :class:`Objective`,
and is from then on a choice of :class:`~wdtr_lite.training.Config` and of the command line, has a
row in the benchmark and a name in tables.
"""

from wdtr_lite.training.objectives.base import METHODS, OPTIONS, Objective, register

# In the order of help and tables.
# isort: off
from wdtr_lite.training.objectives import penalties
from wdtr_lite.training.objectives import learnt
from wdtr_lite.training.objectives import noise
from wdtr_lite.training.objectives import expansion
from wdtr_lite.training.objectives import adversarial
from wdtr_lite.training.objectives import deepfool
from wdtr_lite.training.objectives import projection
# isort: on

__all__ = [
    "METHODS", "OPTIONS", "Objective", "adversarial", "deepfool", "expansion", "learnt", "noise",
    "penalties",
    "projection", "register",
]  # fmt: skip

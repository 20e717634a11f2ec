"""Training, from a configuration to weights: resumable, the same for the same seed, captured in a
CUDA graph on a GPU.

The images lie on the device as uint8. A run in a folder leaves ``checkpoint.pt``, replaced in one
step, and ``metrics.jsonl``, a line for each epoch; killed at any time it goes on from its last
checkpoint, on a CPU to the very same weights.
"""

from wdtr_lite.training.checkpoint import Run, load, network
from wdtr_lite.training.choices import AUGMENTATIONS, OPTIMIZERS, SCHEDULES
from wdtr_lite.training.config import Config
from wdtr_lite.training.loop import Divergence, Step, Training, fit, fit_together
from wdtr_lite.training.objectives import METHODS, Objective, register

__all__ = [
    "AUGMENTATIONS",
    "METHODS",
    "OPTIMIZERS",
    "SCHEDULES",
    "Config",
    "Divergence",
    "Objective",
    "Run",
    "Step",
    "Training",
    "fit",
    "fit_together",
    "load",
    "network",
    "register",
]

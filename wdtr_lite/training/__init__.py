"""Training, from a configuration to weights: resumable, the same for the same seed, captured in a
CUDA graph on a GPU.

The images lie on the device as uint8. A run in a folder leaves ``checkpoint.pt``, replaced in one
step, and ``metrics.jsonl``, a line for each epoch; killed at any time it goes on from its last
checkpoint. While it runs no other run can use the folder (``.lock``); it is :class:`Busy`.

A run is the same again, bit by bit, on a CPU with the same machine, versions of the libraries and
number of threads (``torch.get_num_threads()``), also if it was killed in between. With any other of
these, sums are rounded otherwise, and training amplifies that: with two threads in place of one,
the weights of a small_cnn differ by 2e-7 of the largest after an epoch and by 2e-5 after ten. On a
GPU convolutions are repeatable; what torch has in no repeatable form
(:func:`torch.use_deterministic_algorithms` has a list) is not.

The first weights come from torch's global generator, which is seeded for them and then left as it
was: another thread that draws from it meanwhile changes them.
"""

from wdtr_lite.training.checkpoint import Run, load, network
from wdtr_lite.training.choices import AUGMENTATIONS, OPTIMIZERS, SCHEDULES
from wdtr_lite.training.config import Config
from wdtr_lite.training.lock import Busy
from wdtr_lite.training.loop import fit, fit_together
from wdtr_lite.training.objectives import METHODS, Objective, register
from wdtr_lite.training.run import Divergence, Step, Training, Unfinished

__all__ = [
    "AUGMENTATIONS",
    "METHODS",
    "OPTIMIZERS",
    "SCHEDULES",
    "Busy",
    "Config",
    "Divergence",
    "Objective",
    "Run",
    "Step",
    "Training",
    "Unfinished",
    "fit",
    "fit_together",
    "load",
    "network",
    "register",
]

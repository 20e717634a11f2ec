"""Every check of an argument, once.

What is given is refused with a ``TypeError`` if it is of the wrong kind (no tensor, another
floating type than the graph's, an int64 label that is none), with a ``ValueError`` if its value,
shape or device is wrong: a negative or non-finite pixel, a shape that does not fit the graph, a
number out of range, an unknown option. The message names the argument and the value. Pixels are
looked at only where they can be: not under compilation, a ``torch.func`` transform or CUDA-graph
capture, nor on the meta device.
"""

from wdtr_lite.checks.attacks import *  # noqa: F403
from wdtr_lite.checks.classifiers import *  # noqa: F403
from wdtr_lite.checks.fixed import *  # noqa: F403
from wdtr_lite.checks.measures import *  # noqa: F403
from wdtr_lite.checks.stored import *  # noqa: F403
from wdtr_lite.checks.tensors import *  # noqa: F403
from wdtr_lite.checks.values import *  # noqa: F403

"""The networks of the experiments, with smooth activations and the input normalisation as their
first layer.

They take images (B, C, H, W) in [0, 1] to logits (B, classes), so that gradients in the images are
with respect to intensities. Weights are drawn from torch's global generator, as in all of torch's
modules: call ``torch.manual_seed`` before.
"""

from wdtr_lite.models.layers import ACTIVATIONS as ACTIVATIONS
from wdtr_lite.models.layers import Normalize
from wdtr_lite.models.registry import MODELS, build, register
from wdtr_lite.models.registry import Classifier as Classifier
from wdtr_lite.models.resnet import resnet8, resnet20
from wdtr_lite.models.small import small_cnn

# isort: off
from wdtr_lite.models.enresnet import enresnet8, enresnet20
# isort: on

__all__ = [
    "MODELS",
    "Normalize",
    "build",
    "enresnet8",
    "enresnet20",
    "register",
    "resnet8",
    "resnet20",
    "small_cnn",
]

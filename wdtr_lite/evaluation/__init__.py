"""How often a classifier is wrong: on images, on attacked images, and how its labels change as an
image moves; and how far an image may be moved before they can.

Images are evaluated in batches as float (B, C, H, W) in [0, 1]; uint8 images and images without a
channel axis are converted batch by batch. A model that is a :class:`torch.nn.Module` is in
evaluation mode meanwhile; afterwards each of its modules is in the mode it was in. Nothing is moved
to another device.
"""

from wdtr_lite.evaluation.certificate import (
    RobustRadius,
    SmallestAttack,
    SoftplusBounds,
    robust_radius,
    smallest_attack,
    softplus_bounds,
)
from wdtr_lite.evaluation.curvature import (
    Curvatures,
    CurvatureSums,
    curvature_sums,
    curvatures,
)
from wdtr_lite.evaluation.errors import error, misclassified, predictions, robust_error
from wdtr_lite.evaluation.invariance import (
    Flips,
    label_flips,
    translated_labels,
    translation_sequence,
    variations,
)

__all__ = [
    "CurvatureSums",
    "Curvatures",
    "Flips",
    "RobustRadius",
    "SmallestAttack",
    "SoftplusBounds",
    "curvature_sums",
    "curvatures",
    "error",
    "label_flips",
    "misclassified",
    "predictions",
    "robust_error",
    "robust_radius",
    "smallest_attack",
    "softplus_bounds",
    "translated_labels",
    "translation_sequence",
    "variations",
]

r"""Adversarial images: what a change within a ball does to a classifier at worst, nearly.

All attacks ascend the cross-entropy :math:`\ell(f(x_i), y_i)` of each image, which is attacked on
its own where the model does not couple images. They follow the gradient of the margin
:math:`\log \sum_{j \ne y} e^{z_j} - z_y` of the logits z, which has the same direction and does not
vanish in rounding where a prediction is sure (:func:`input_gradient`). The model maps images (B,
C, H, W) in [0, 1] to logits (B, K) or to an object that has them as ``.logits``; it is used in the
mode it is in: put it in evaluation mode before. Its parameters and their ``.grad`` are left as they
are.
"""

from wdtr_lite.attacks.gradient import ascend, fgsm, ifgsm, input_gradient, pgd
from wdtr_lite.attacks.projected_sinkhorn import (
    project_to_wasserstein_ball,
    projected_sinkhorn_attack,
)
from wdtr_lite.attacks.specification import METHODS, Attack, register
from wdtr_lite.attacks.wasserstein import wasserstein_attack

__all__ = [
    "METHODS",
    "Attack",
    "ascend",
    "fgsm",
    "ifgsm",
    "input_gradient",
    "pgd",
    "project_to_wasserstein_ball",
    "projected_sinkhorn_attack",
    "register",
    "wasserstein_attack",
]

for _method in (fgsm, ifgsm, pgd):
    register(_method.__name__, _method)

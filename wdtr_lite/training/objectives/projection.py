"""Penalties on the Jacobian from one random projection of the logits, where all are too many."""

import torch
from torch import Tensor, nn

from wdtr_lite.regularizer import Terms
from wdtr_lite.training.objectives.base import register
from wdtr_lite.training.objectives.penalties import Jacobian


class Centred(nn.Module):
    """Logits less their mean, which no softmax sees."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits - logits.mean(1, keepdim=True)


@register
class SampledCrossLipschitz(Jacobian):
    r"""Hein and Andriushchenko (2017) at the cost of Hoffman, Roberts and Yaida (2019): with P that
    takes the mean off k logits, and v uniform on the sphere,

    .. math:: k^{-2} \sum_{ab} \|\nabla f_a - \nabla f_b\|^2 = \tfrac2k \|P J\|_F^2
       = 2\, \mathbb{E}_v \|v^\top P J\|^2,

    the Jacobian penalty of centred logits at a weight of 2 / k.
    """

    name, label = "sampled_cross_lipschitz", "cross-Lipschitz penalty, sampled"

    def terms(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epsilon: float
    ) -> Terms:
        centred = nn.Sequential(model, Centred())
        outputs, loss, penalty = super().terms(centred, x, y, generator, epsilon)
        return Terms(outputs, loss, 2 / outputs.shape[1] * penalty)

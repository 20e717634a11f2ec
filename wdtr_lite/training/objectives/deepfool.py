"""Training for a large distance from the nearest other class."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from wdtr_lite import checks
from wdtr_lite.kernels import LibraryKernels
from wdtr_lite.regularizer import Terms
from wdtr_lite.regularizer.forward import cross_entropy
from wdtr_lite.training.objectives.base import Objective, logits_of, register, weight_of


@register
class DeepFool(Objective):
    r"""Yan, Guo and Zhang (2018), Deep Defense: eta squared times

    .. math:: e^{-c\,\rho} \text{ where x is classified as y,} \quad e^{d\,\rho} \text{ elsewhere,}
       \qquad \rho = \frac{\|\Delta_x\|_2}{\|x\|_2}

    with :math:`\|\Delta_x\|_2` of :func:`boundary_distance`. That is the first of DeepFool's steps,
    and exact of a linear classifier where it is right; its authors take up to five, differentiate
    through all of them as through a recurrent network, multiply by 1.02 and fine-tune networks that
    are trained already. A further step starts at an image beyond this boundary's linearisation,
    which corrects for curvature, and costs as much as the first.

    Where :math:`\rho` is 16 or more there is no penalty: :math:`e^{-c \rho}` is 0 in float32, and
    :math:`e^{d \rho}` soon no number. So it is of a black image, which has no relative distance,
    and of one from which no change leads, to first order, to another class.
    """

    name, label = "deepfool", "DeepFool penalty"
    options = ("eta",)
    needs = ("eta",)
    trial = {"eta": 1.0}
    c: ClassVar[float] = 25.0
    d: ClassVar[float] = 5.0
    farthest: ClassVar[float] = 16.0

    def terms(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epsilon: float
    ) -> Terms:
        image = x.detach().requires_grad_()
        with LibraryKernels():
            outputs = logits_of(model, image)
        distance, length = boundary_distance(outputs, image, y), x.flatten(1).norm(dim=1)
        near = distance < self.farthest * length  # elsewhere a quotient that is not used
        relative = distance.where(near, 0) / length.where(near, 1)
        exponent = torch.where(outputs.argmax(1) == y, -self.c * relative, self.d * relative)
        penalty = weight_of(self.config, x.device) * exponent.exp().where(near, 0)
        return Terms(outputs, cross_entropy(outputs, y), penalty)


def boundary_distance(outputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    r"""How far it is from each image to the nearest other class, to first order, (B,).

    .. math:: \|\Delta_x\|_2 = \min_{j \ne y} \frac{|z_y - z_j|}{\|\nabla_x (z_y - z_j)\|_2}

    of logits z. By Cauchy and Schwarz no shorter change makes the linearised :math:`z_y - z_j`
    vanish than the one along its gradient. Of an image that is not classified as y, j is the class
    that it is classified as: the distance to where these two are level.

    Where layers couple the images, as batch normalisation in training mode does, j is that of each
    logit's gradient of the batch's sum, and the length that of the sum of all images' differences.

    Of a linear classifier it is exact for an image classified as y. For another it is at most the
    way to the images classified as y, and less where a third class lies between.

    Parameters
    ----------
    outputs : tensor, (B, K)
        Logits of at least two classes, computed from x.
    x : tensor, (B, C, H, W)
        Images that require a gradient.
    y : tensor, (B,)
        int64 labels.

    Returns
    -------
    tensor, (B,)
        Differentiable in the parameters: where the nearest class is one alone, its derivative is
        that of the minimum. Infinite, without a derivative, where the gradient of the difference
        is zero, or so small that its square is next to none in its type.

    References
    ----------
    Moosavi-Dezfooli, Fawzi and Frossard (2016), Algorithm 2.
    """
    checks.rivals(outputs)
    predicted, own = outputs.argmax(1), y[:, None]
    gradients = torch.stack([_gradient(logit, x) for logit in outputs.unbind(1)], 1)  # (B, K, n)
    lengths = (gradients - gradients[torch.arange(len(y)), y][:, None]).norm(dim=2)
    gaps = outputs.gather(1, own) - outputs  # (B, K)
    ratios = (gaps.detach().abs() / lengths).where(lengths > 0, torch.inf)  # 0 of the own class
    nearest = torch.where(predicted == y, ratios.argmin(1), predicted)
    gap = gaps.gather(1, nearest[:, None]).squeeze(1)
    length = _gradient(gap, x, create_graph=True).norm(dim=1)
    steep = length > torch.finfo(length.dtype).tiny ** 0.4  # then the derivative is finite too
    return (gap.abs() / length.where(steep, 1)).where(steep, torch.inf)


def _gradient(values: Tensor, x: Tensor, *, create_graph: bool = False) -> Tensor:
    """That of the values' sum in each image, (B, n)."""
    found = torch.autograd.grad(values.sum(), x, retain_graph=True, create_graph=create_graph)
    return found[0].flatten(1)

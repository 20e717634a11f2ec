"""Theorem 1 as a penalty: what noise adds to the loss, to second order in eta."""

from functools import cache, lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wdtr_lite import metric, noise
from wdtr_lite.calculus.derivatives import refuse_wrong_thirds
from wdtr_lite.calculus.laplacian import drift
from wdtr_lite.graph import PixelGraph
from wdtr_lite.kernels import LibraryKernels
from wdtr_lite.regularizer import Terms
from wdtr_lite.regularizer.forward import cross_entropy
from wdtr_lite.training.objectives.base import (
    Objective,
    logits_of,
    pixel_graph,
    register,
    weight_of,
)

if TYPE_CHECKING:
    from wdtr_lite.training.config import Config

FLOOR = 1 / 255
"""The least intensity in a metric that has a volume."""


class Expansion(Objective):
    """Half eta squared times an expectation over the noise of eta 1, by one draw v for each image.

    Other penalties have the weight eta squared. Half of it adds what the Wasserstein noise of the
    same eta and scale adds.
    """

    options = ("eta", "radius", "scale")
    needs = ("eta", "radius")
    trial = {"eta": 0.1, "radius": 2}

    def __init__(self, config: "Config", size: tuple[int, int], device: torch.device):
        super().__init__(config, size, device)
        self.graph = pixel_graph(config, size, device)
        self.weight = weight_of(config, device) / 2

    def terms(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epsilon: float
    ) -> Terms:
        point = self.point(x)
        v = noise.sample(self.graph, point, 1.0, generator=generator)[0]
        with LibraryKernels():
            leaf = x.detach().requires_grad_()
            outputs = logits_of(model, leaf)
            loss = cross_entropy(outputs, y)
            value = self.value(leaf, outputs, loss, v, point)
        if self.config.scale:
            value = value / metric.mean_diagonal(self.graph, point).clamp_min(1e-12)
        return Terms(outputs, loss, self.weight * value)

    def point(self, x: Tensor) -> Tensor:
        """Where the metric is taken."""
        return x

    def value(
        self, leaf: Tensor, outputs: Tensor, loss: Tensor, v: Tensor, point: Tensor
    ) -> Tensor:
        """What the weight is multiplied by, (B,)."""
        raise NotImplementedError


@register
class GaussNewton(Expansion):
    r"""The first term alone, :math:`l'' \|\nabla_W f\|_W^2`: of the cross-entropy the variance,
    under the predicted probabilities, of the derivatives of the logits along v.
    """

    name, label = "gauss_newton", "first term"

    def value(
        self, leaf: Tensor, outputs: Tensor, loss: Tensor, v: Tensor, point: Tensor
    ) -> Tensor:
        weights = torch.zeros_like(outputs, requires_grad=True)
        (pulled,) = torch.autograd.grad(outputs, leaf, weights, create_graph=True)
        (along,) = torch.autograd.grad(pulled, weights, v, create_graph=True)
        p = outputs.softmax(1)
        return (p * (along - (p * along).sum(1, keepdim=True)).square()).sum(1)


class BothTerms(Expansion):
    r"""Both terms, which are :math:`\operatorname{tr}(L \nabla^2 \ell)` of the loss :math:`\ell`
    at the images: the second derivative :math:`v^\top \nabla^2 \ell\, v`.

    Not bounded below: where the loss is concave along the noise this is negative.
    """

    @classmethod
    def check(cls, config: "Config") -> None:
        super().check(config)
        if config.activation == "relu":
            raise ValueError(
                f"method={cls.name!r} needs second derivatives of the network, which "
                "activation='relu' has not: take softplus"
            )

    def value(
        self, leaf: Tensor, outputs: Tensor, loss: Tensor, v: Tensor, point: Tensor
    ) -> Tensor:
        (g,) = torch.autograd.grad(loss.sum(), leaf, create_graph=True)
        refuse_wrong_thirds(g, "model")
        (bent,) = torch.autograd.grad(g, leaf, v, create_graph=True)
        return (v * bent + self.first_order(g, point)).sum((1, 2, 3))

    def first_order(self, g: Tensor, point: Tensor) -> Tensor:
        """What the gradient adds, pixel by pixel."""
        return torch.zeros_like(g)


@register
class SecondOrder(BothTerms):
    """With the Laplacian that additive noise makes."""

    name, label = "second_order", "both terms"


@register
class LaplaceBeltrami(BothTerms):
    r"""With the Laplace–Beltrami operator, :math:`\operatorname{tr}(L \nabla^2 \ell) + b^\top
    \nabla \ell`, in the metric of :math:`\max(x, 1/255)`, for a volume needs light on every pixel.

    The drift b takes time O(n³), once for each image: for small ones, on a CPU.
    """

    name, label = "laplace_beltrami", "both terms, Laplace–Beltrami"
    devices = ("cpu",)

    def point(self, x: Tensor) -> Tensor:
        return x.clamp_min(FLOOR)

    def first_order(self, g: Tensor, point: Tensor) -> Tensor:
        return g * known_drift(self.graph, point)


def volume_drift(graph: PixelGraph, x: Tensor) -> Tensor:
    r"""The drift of the Laplace–Beltrami operator, :math:`b = \nabla \cdot L + L\, \nabla \log
    \operatorname{vol}`: for small noise :math:`\tfrac12 \eta^2 b` is the mean of :math:`\exp_x(\xi)
    - x`.

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., H, W)
        Positive on every pixel.

    Returns
    -------
    tensor of the same shape and type
        Sums to zero in each channel.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph
    >>> from wdtr_lite.training.objectives.expansion import volume_drift
    >>> volume_drift(PixelGraph(1, 3, 1), torch.tensor([[0.25, 0.5, 0.25]])).round(decimals=4)
    tensor([[ 1., -2.,  1.]])

    References
    ----------
    Appendix B (v) of Lin et al. (2019), corrected.
    """
    graph, point = graph.converted(dtype=torch.float64), x.double()
    return drift(graph, point).to(x.dtype)


def known_drift(graph: PixelGraph, x: Tensor) -> Tensor:
    """The same in float32, on a graph of weights 1: of each channel of an image found once and
    kept, on a CPU.
    """
    drifts = [
        _drift_of(graph.height, graph.width, graph.radius, image.numpy().tobytes())
        for image in x.float().flatten(0, -3)
    ]
    return torch.stack(drifts).view(x.shape)


@lru_cache(maxsize=2**17)
def _drift_of(height: int, width: int, radius: int, pixels: bytes) -> Tensor:
    x = torch.frombuffer(bytearray(pixels), dtype=torch.float32).view(height, width)
    return volume_drift(_graph(height, width, radius), x)


_graph = cache(PixelGraph)

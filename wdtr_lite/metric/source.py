"""A source of mass, for images whose masses differ."""

from dataclasses import dataclass

import torch
from torch import Tensor

from wdtr_lite import checks

KINDS = ("local", "uniform")


@dataclass(frozen=True)
class Source:
    r"""What mass may appear and vanish, beside being moved, and how easily.

    A change of an image is what mass is moved and a source, :math:`\xi = L(x)\,\Phi + s`, which
    costs :math:`\Phi^\top L(x)\,\Phi + \|s\|^2 / \alpha`. The least cost of a change is its squared
    length in the metric whose inverse is

    .. math:: L(x) + \alpha P, \qquad P = I \text{ (local)} \quad \text{or} \quad
       P = \tfrac1n \mathbf 1 \mathbf 1^\top \text{ (uniform),}

    P the projection to the sources that there may be: any, or those that are the same in all
    pixels of a channel. Without a source :math:`L(x)\,\mathbf 1 = 0`: a brighter or darker image is
    at no finite distance, and a gradient that is constant has norm 0.

    Parameters
    ----------
    kind : {"local", "uniform"}
    strength : float
        :math:`\alpha`, in the unit of L(x), from 1e-20 to 1e10. Below some 1e-5 of L's diagonal
        derivatives lose digits in float32: those of a potential, and at an image of several parts
        that are not linked all.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph, metric
    >>> x, brighter = torch.tensor([[0.5, 0.5, 0.0]]), torch.ones(1, 3)
    >>> graph = PixelGraph(1, 3, 1)
    >>> metric.grad_norm_sq(graph, x, brighter)
    tensor(0.)
    >>> metric.grad_norm_sq(graph, x, brighter, source=metric.Source("uniform", 0.1))
    tensor(0.3000)

    References
    ----------
    Gangbo, Li, Osher and Puthawala (2019) for the uniform source; Lee, Lai, Li and Osher (2021) for
    the local one.
    """

    kind: str
    strength: float

    def __post_init__(self):
        checks.option(self.kind, "kind", KINDS)
        strength = checks.number(self.strength, "strength", positive=True)
        if not 1e-20 <= strength <= 1e10:  # above, float32 loses the rest beside a uniform source
            raise ValueError(f"strength must be from 1e-20 to 1e10, got {strength:g}")
        object.__setattr__(self, "strength", strength)

    def product(self, v: Tensor) -> Tensor:
        r""":math:`\alpha P v`, (..., H, W)."""
        checks.plane(v, "v")
        return self.strength * (v if self.kind == "local" else _mean(v).expand_as(v))

    def norm_sq(self, v: Tensor) -> Tensor:
        r""":math:`\alpha\, v^\top P v` of each channel, (...)."""
        checks.plane(v, "v")
        if self.kind == "local":
            return self.strength * (v * v).sum((-2, -1))
        return self.strength * v.shape[-2:].numel() * _mean(v)[..., 0, 0] ** 2

    def mean_diagonal(self, size: int) -> float:
        r"""The mean of the diagonal of :math:`\alpha P` on so many pixels."""
        size = checks.whole(size, "size")
        return self.strength / (1 if self.kind == "local" else size)

    def sample(self, like: Tensor, generator: torch.Generator) -> Tensor:
        r"""Noise of covariance :math:`\alpha P`, of the shape of images (..., H, W) or, uniform,
        (..., 1, 1).
        """
        checks.plane(like, "like")
        checks.generator(generator, like)
        local = self.kind == "local"
        shape = like.shape if local else (*like.shape[:-2], 1, 1)
        drawn = torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)
        return self.mean_diagonal(like.shape[-2:].numel()) ** 0.5 * drawn


def _mean(v: Tensor) -> Tensor:
    return v.mean((-2, -1), keepdim=True)


def checked(source: Source | None) -> Source | None:
    """A source or None, returned."""
    if source is not None:
        checks.instance(source, "source", Source)
    return source

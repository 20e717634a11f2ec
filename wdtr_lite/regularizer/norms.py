"""The norms in which an input gradient is measured.

The penalties are made of squared norms: a norm gives :math:`N(x, g)`, the squared norm of the
gradient g at the images x, and its derivative in g, along which finite differences step. A new
norm is a subclass of :class:`InputNorm`.
"""

from torch import Tensor, nn

from wdtr_lite import checks
from wdtr_lite.graph import PixelGraph
from wdtr_lite.metric import operators
from wdtr_lite.metric.source import Source, checked


class InputNorm(nn.Module):
    r"""A norm of input gradients, which may depend on the images. It moves with the module that
    holds it.

    A subclass defines :meth:`norm_sq` and :meth:`direction`, of which
    :class:`~wdtr_lite.regularizer.GradientPenalty` makes the rest. Training on a GPU waits for no
    look at what they return: a square that its type cannot hold is infinite or NaN, where
    :func:`wdtr_lite.metric.grad_norm_sq` raises.

    Examples
    --------
    A squared norm with a weight for each pixel:

    >>> import torch
    >>> from wdtr_lite.regularizer import GradientPenalty, InputNorm
    >>> class Weighted(InputNorm):
    ...     def __init__(self, weight):
    ...         super().__init__()
    ...         self.register_buffer("weight", weight)
    ...
    ...     def norm_sq(self, x, g):
    ...         return (self.weight * g**2).sum((1, 2, 3))
    ...
    ...     def direction(self, x, g):
    ...         return 2 * self.weight * g
    >>> penalty = GradientPenalty(Weighted(torch.tensor([[1.0, 0.0]])), of="logits")
    >>> penalty(lambda x: 3 * x.sum((1, 2, 3)), torch.rand(1, 1, 1, 2))
    tensor([9.])
    """

    def check(self, x: Tensor) -> None:
        """Refuse what are no images for this norm; here any finite tensor is one."""
        checks.floating(x, "x")
        checks.bounded(x, "x")

    def norm_sq(self, x: Tensor, g: Tensor) -> Tensor:
        """The squared norm of a gradient g at images x, both (B, C, H, W): (B,).

        Differentiable in g.
        """
        raise NotImplementedError

    def direction(self, x: Tensor, g: Tensor) -> Tensor:
        """The derivative of :meth:`norm_sq` in g, (B, C, H, W)."""
        raise NotImplementedError


class Euclidean(InputNorm):
    r"""The Euclidean norm, :math:`\|g\|_2^2 = \sum_i g_i^2`.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.regularizer import Euclidean
    >>> Euclidean().norm_sq(torch.zeros(1, 1, 1, 2), torch.tensor([[[[3.0, -4.0]]]]))
    tensor([25.])

    References
    ----------
    Drucker and LeCun (1992).
    """

    def norm_sq(self, x: Tensor, g: Tensor) -> Tensor:
        checks.gradient(g, x)
        return (g * g).flatten(1).sum(1)

    def direction(self, x: Tensor, g: Tensor) -> Tensor:
        checks.gradient(g, x)
        return 2 * g


class Wasserstein(checks.Fixed, InputNorm):
    r"""The dual norm of the Wasserstein metric, :math:`g^\top L(x)\, g`, summed over channels.

    Parameters
    ----------
    graph : PixelGraph
    scale : {"trace", None}
        "trace" divides L(x) by its mean diagonal over the batch, so that radii and the Euclidean
        metric compare at the same η. None is the paper's.
    source : Source, optional
        Adds :math:`\alpha\, g^\top P g`, so that a gradient which brightens or darkens all pixels
        evenly counts too. With the scale "trace" α is relative, :math:`\alpha P` is added to the
        divided L(x), and the sum is divided by its mean diagonal: of a local source of strength 1
        half of the Euclidean penalty and half of the Wasserstein one.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph
    >>> from wdtr_lite.metric import Source
    >>> from wdtr_lite.regularizer import Wasserstein
    >>> x, g = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[3.0, -4.0]]]])
    >>> Wasserstein(PixelGraph(1, 2, radius=1)).norm_sq(x, g)
    tensor([49.])
    >>> Wasserstein(PixelGraph(1, 2, radius=1), source=Source("local", 1.0)).norm_sq(x, g)
    tensor([37.])

    References
    ----------
    Equation (7) of Lin et al. (2019); :class:`~wdtr_lite.metric.Source`.
    """

    _fixed = "scale", "source"

    def __init__(
        self, graph: PixelGraph, scale: str | None = "trace", *, source: Source | None = None
    ):
        super().__init__()
        checks.graph(graph)
        checks.option(scale, "scale", ("trace", None))
        self.graph, self.scale, self.source = graph, scale, checked(source)
        self._whole = 1 + source.mean_diagonal(graph.size) if source and scale else 1.0

    def __repr__(self) -> str:
        source = f", source={self.source!r}" if self.source else ""
        return f"Wasserstein({self.graph!r}, scale={self.scale!r}{source})"

    def check(self, x: Tensor) -> None:
        """Non-negative images on the graph, of its device and type."""
        checks.image(self.graph, x, moderate=True)

    def norm_sq(self, x: Tensor, g: Tensor) -> Tensor:
        unit = self.unit(x)
        checks.gradient(g, x)
        value = operators.grad_norm_sq(self.graph, x, g) / unit
        if self.source is None:
            return value
        return (value + self.source.norm_sq(g).sum(1)) / self._whole

    def direction(self, x: Tensor, g: Tensor) -> Tensor:
        unit = self.unit(x)
        checks.gradient(g, x)
        moved = operators.product(self.graph, x, g) / unit
        if self.source is None:
            return 2 * moved
        return 2 * (moved + self.source.product(g)) / self._whole

    def unit(self, x: Tensor) -> Tensor | float:
        """What L(x) is divided by: its mean diagonal, 1 where all is black; 1 without a scale."""
        checks.on_graph(self.graph, x, "x")
        if self.scale is None:
            return 1.0
        mean = operators.mean_diagonal(self.graph, x)
        return mean.where(mean != 0, 1)


class L1(InputNorm):
    r"""The squared sum of absolute values, :math:`\|g\|_1^2 = \bigl(\sum_i |g_i|\bigr)^2`.

    By duality :math:`\varepsilon \|g\|_1` is what an attack that changes each intensity by at most
    :math:`\varepsilon`, in the norm L-infinity, gains to first order. Where :math:`g_i = 0` the
    derivative takes 0 for that of :math:`|g_i|`.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.regularizer import L1
    >>> x, g = torch.zeros(1, 1, 1, 2), torch.tensor([[[[3.0, -4.0]]]])
    >>> L1().norm_sq(x, g), L1().direction(x, g)
    (tensor([49.]), tensor([[[[ 14., -14.]]]]))

    References
    ----------
    Finlay and Oberman (2019).
    """

    def norm_sq(self, x: Tensor, g: Tensor) -> Tensor:
        checks.gradient(g, x)
        return g.abs().flatten(1).sum(1) ** 2

    def direction(self, x: Tensor, g: Tensor) -> Tensor:
        checks.gradient(g, x)
        return 2 * g.abs().sum((1, 2, 3), keepdim=True) * g.sign()


class LInf(InputNorm):
    r"""The squared largest absolute value, :math:`\|g\|_\infty^2 = \max_i g_i^2`.

    By duality :math:`\varepsilon \|g\|_\infty` is what an attack of length :math:`\varepsilon` in
    the norm L1, a few pixels say, gains to first order. Where several values are the largest the
    derivative is the mean of theirs; of :math:`g = 0` it is 0.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.regularizer import LInf
    >>> x, g = torch.zeros(1, 1, 1, 2), torch.tensor([[[[3.0, -4.0]]]])
    >>> LInf().norm_sq(x, g), LInf().direction(x, g)
    (tensor([16.]), tensor([[[[ 0., -8.]]]]))

    References
    ----------
    Finlay and Oberman (2019).
    """

    def norm_sq(self, x: Tensor, g: Tensor) -> Tensor:
        checks.gradient(g, x)
        return g.abs().flatten(1).amax(1) ** 2

    def direction(self, x: Tensor, g: Tensor) -> Tensor:
        checks.gradient(g, x)
        size = g.abs()
        largest = size.amax((1, 2, 3), keepdim=True)
        chosen = size == largest
        return 2 * largest * g.sign() * chosen / chosen.sum((1, 2, 3), keepdim=True)


_NAMED = {"euclidean": Euclidean, "l1": L1, "linf": LInf}


def input_norm(metric: PixelGraph | InputNorm | str, scale: str | None = "trace") -> InputNorm:
    """The norm that a word or a graph stands for.

    Parameters
    ----------
    metric : PixelGraph, "euclidean", "l1", "linf" or InputNorm
        A graph stands for :class:`Wasserstein`; a norm is returned as it is.
    scale : {"trace", None}
        Of a graph's :class:`Wasserstein`; without effect on the others.

    Returns
    -------
    InputNorm

    Examples
    --------
    >>> from wdtr_lite.regularizer import input_norm
    >>> input_norm("l1")
    L1()
    """
    checks.option(scale, "scale", ("trace", None))
    if isinstance(metric, InputNorm):
        if isinstance(metric, Wasserstein) and metric.scale != scale is None:
            raise ValueError(f"scale is that of the norm, {metric.scale!r}, got None")
        return metric
    if isinstance(metric, PixelGraph):
        return Wasserstein(metric, scale)
    if not isinstance(metric, str) or metric not in _NAMED:
        raise ValueError(
            "metric must be a PixelGraph, an InputNorm or one of "
            f"{', '.join(map(repr, _NAMED))}, got {checks.shown(metric)}"
        )
    return _NAMED[metric]()

"""Wasserstein Gaussian noise: additive noise whose covariance is the inverse metric tensor."""

import torch
from torch import Tensor

from wdtr_lite import checks
from wdtr_lite.graph import PixelGraph
from wdtr_lite.metric.source import Source, checked

__all__ = ["project_to_simplex", "sample"]


def sample(
    graph: PixelGraph,
    x: Tensor,
    eta: float,
    *,
    generator: torch.Generator,
    n: int = 1,
    nonnegative: bool = False,
    source: Source | None = None,
) -> Tensor:
    r"""Samples of Wasserstein Gaussian noise, exactly, without a factorisation.

    .. math:: \xi = \eta\, D^\top \Lambda(x)^{1/2} z, \quad z \sim \mathcal N(0, I), \\
       \mathbb{E}\,\xi = 0, \quad
       \mathbb{E}\,\xi\xi^\top = \eta^2 D^\top \Lambda(x) D = \eta^2 L(x).

    On each edge a random amount of mass passes from one end to the other, so every channel's noise
    sums to zero. Its energy is :math:`\mathbb{E} \|\xi\|^2 = \eta^2 \operatorname{tr} L(x)`, the
    sum of all degrees times the mass of x times η². Time grows with the number of edges; memory is
    a few arrays of the result's size, for edges are drawn one offset at a time.

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., H, W)
        Non-negative intensities. The samples of an (H, W) image are (n, H, W), which other
        functions read as n channels: give (1, H, W) to get n images.
    eta : float
        The paper's noise level, at least 0.
    generator : torch.Generator
        On the device of x.
    n : int
        Samples per image; at most 2³¹ pixels together.
    nonnegative : bool
        Replace x + ξ by the nearest image (in L2) without negative pixels and with the mass of x in
        each channel. The noise is then no longer Gaussian: its mean is not zero, for black pixels
        next to ink can only gain, its total variance is smaller than :math:`\eta^2
        \operatorname{tr} L(x)`, and it may carry mass between parts of x that the graph does not
        link. The effect does not vanish with `eta`. With a source the mass is that of x + ξ.
    source : Source, optional
        Adds independent noise of covariance :math:`\eta^2 \alpha P`: the sum has :math:`\eta^2
        (L(x) + \alpha P)`, and no channel keeps its mass.

    Returns
    -------
    tensor, (n, *x.shape)
        The noise ξ, not the noisy image. Differentiable in x where edges carry mass, and in the
        graph's kernel.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph, noise
    >>> x = torch.tensor([[0.5, 0.5, 0.0]])
    >>> generator = torch.Generator().manual_seed(0)
    >>> xi = noise.sample(PixelGraph(1, 3, 1), x, 0.1, generator=generator, n=2)
    >>> xi.shape, bool(xi.sum((-2, -1)).abs().max() < 1e-6)
    (torch.Size([2, 1, 3]), True)

    References
    ----------
    Section 3 of Lin et al. (2019).
    """
    checks.image(graph, x)
    eta = checks.number(eta, "eta")
    n = checks.whole(n, "n", most=2**31 // max(x.numel(), 1))
    checks.flag(nonnegative, "nonnegative")
    checks.generator(generator, x)
    u = x / graph.volume
    xi = x.new_zeros(n, *x.shape)
    kind = {"generator": generator, "device": x.device, "dtype": x.dtype}
    for offset, weight in graph.forward_offsets():
        low, high = graph.endpoints(u, offset)
        variance = (low + high) * (0.5 * weight)
        if variance.requires_grad:  # the square root has no derivative at 0
            deviation = torch.where(variance > 0, variance.where(variance > 0, 1).sqrt(), 0)
        else:
            deviation = variance.sqrt_()
        flux = torch.randn(n, *variance.shape, **kind).mul_(deviation * eta)
        graph.endpoints(xi, offset)[1].add_(flux)
        graph.endpoints(xi, offset)[0].sub_(flux)
    if source := checked(source):
        xi = xi + eta * source.sample(xi, generator)
    checks.in_range(xi, "noise.sample", "eta or x")
    if nonnegative:
        total = (x + xi).sum((-2, -1)).clamp_min(0) if source else x.sum((-2, -1))
        xi = project_to_simplex(x + xi, total) - x
    return xi


def project_to_simplex(x: Tensor, mass: Tensor | float) -> Tensor:
    r"""The nearest image in L2 without negative pixels and with the given mass, :math:`\max(x -
    \tau, 0)`.

    Parameters
    ----------
    x : tensor, (..., H, W)
    mass : float or tensor (...)
        Non-negative.

    Returns
    -------
    tensor, (..., H, W)

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.noise import project_to_simplex
    >>> project_to_simplex(torch.tensor([[0.7, -0.2, 0.5]]), 1.0)
    tensor([[0.6000, 0.0000, 0.4000]])

    References
    ----------
    Duchi et al. (2008).
    """
    checks.field(x)
    mass = checks.totals(mass, x)
    flat = x.flatten(-2)
    ordered = flat.sort(dim=-1, descending=True).values
    # A mass far below the pixels would be lost in their rounding, but not in that of differences.
    top = ordered[..., :1].where(1000 * mass[..., None] < ordered[..., :1].abs(), 0)
    flat, ordered = flat - top, ordered - top
    # What is below the largest by more than the mass is black, however large its sum.
    ordered = ordered.clamp_min(ordered[..., :1] - 2 * mass[..., None])
    count = torch.arange(1, flat.shape[-1] + 1, device=x.device, dtype=x.dtype)
    threshold = (ordered.cumsum(-1) - mass[..., None]) / count
    checks.in_range(threshold, "project_to_simplex")
    support = (ordered > threshold).sum(-1, keepdim=True).clamp_min(1)
    return (flat - threshold.gather(-1, support - 1)).clamp_min(0).view_as(x)

"""Lengths of tangent vectors, through the potential that conjugate gradients find."""

from typing import NamedTuple

import torch
from torch import Tensor

from wdtr_lite import checks
from wdtr_lite.graph import PixelGraph
from wdtr_lite.metric import operators
from wdtr_lite.metric.solver import Inverse, Solver
from wdtr_lite.metric.source import Source, checked


class Potential(NamedTuple):
    r"""A solution :math:`\Phi = L(x)^{+} \xi`, or with a source :math:`(L(x) + \alpha P)^{-1}
    \xi`, and what it took.
    """

    value: Tensor  # (..., H, W)
    iterations: int  # of conjugate gradients, the same for the whole batch
    # the batch's largest ||xi - L value|| / ||xi||, squares divided by L's diagonal
    residual: float


def potential(
    graph: PixelGraph,
    x: Tensor,
    xi: Tensor,
    *,
    source: Source | None = None,
    tol: float | None = None,
    max_iter: int | None = None,
) -> Potential:
    r"""The potential of a tangent vector: the least-norm :math:`\Phi` with :math:`L(x)\,\Phi =
    \xi`.

    Conjugate gradients with the diagonal of L(x) as preconditioner, a batch at a time, every
    channel a system of its own.

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., H, W)
        Non-negative intensities.
    xi : tensor of the same shape
        Sums to zero on each connected component of the pixels that x links: two neighbours are
        linked unless both are black, so black pixels without a lit neighbour are components of one,
        where xi is 0. With a uniform source this holds of what xi is less its mean, with a local
        one xi is any vector.
    source : Source, optional
    tol : float, optional
        Relative residual to stop at, each pixel's square divided by L's diagonal; by default 1e-10
        in float64, 1e-5 in float32.
    max_iter : int, optional
        By default 10 n, at most 100 n.

    Returns
    -------
    Potential
        ``value`` is differentiable, once, in x, xi and the graph's kernel.

    Raises
    ------
    RuntimeError
        If the residual, computed anew at the end, is above ten times `tol`: `max_iter` is too small
        or x too ill-conditioned.

    References
    ----------
    The continuity equation below (5) of Lin et al. (2019).
    """
    return solve(graph, x, xi, "xi", source, tol, max_iter)


def solve(
    graph: PixelGraph,
    x: Tensor,
    xi: Tensor,
    name: str,
    source: Source | None = None,
    tol: float | None = None,
    max_iter: int | None = None,
) -> Potential:
    """As :func:`potential`, of a vector that messages call `name`."""
    found = _parts(graph, x, xi, name, source, tol, max_iter)
    return Potential(found.value, found.iterations, found.residual)


class _Parts(NamedTuple):
    """A potential's two parts: what moves mass, and levels, which a source alone gives. Levels are
    much larger where a source is weak, and L(x) leaves nothing of them within a component.
    """

    moved: Tensor
    level: Tensor
    iterations: int
    residual: float

    @property
    def value(self) -> Tensor:
        return self.moved + self.level

    @property
    def apart(self) -> Tensor:
        """The potential up to a constant."""
        return self.moved + (self.level - self.level.mean((-2, -1), keepdim=True))


def _parts(
    graph: PixelGraph,
    x: Tensor,
    xi: Tensor,
    name: str,
    source: Source | None,
    tol: float | None,
    max_iter: int | None,
) -> _Parts:
    checks.image(graph, x)
    checks.vector(graph, xi, name, x)
    source, low = checked(source), graph.dtype != torch.float64
    tol = checks.tolerance((1e-5 if low else 1e-10) if tol is None else tol)
    most = 100 * graph.size
    max_iter = checks.whole(most // 10 if max_iter is None else max_iter, "max_iter", most=most)
    if not x.numel():
        return _Parts(torch.zeros_like(x), torch.zeros_like(x), 0, 0.0)
    shape = (-1, graph.height, graph.width)
    with torch.no_grad():
        solver = Solver(graph, x.detach().reshape(shape), tol, max_iter, source)
        level = solver.level(xi)
        right, size = solver.balance(_moved(xi, level), _slack(x, xi, 1e-4 if low else 1e-9), name)
        value, iterations, residual = solver.solve(right)
        given = right if source else xi.reshape(shape) / size
        work, energy = ((value * v).sum((1, 2)) for v in (given, solver.product(value)))
        if not bool(((work - energy).abs() <= tol**0.5 * work).all()):
            solver.fail(
                f"the solution's energy does not match its work: {name}'s rounding matters "
                "where x hardly has mass"
            )
        value = solver.unscaled(value, size, name).view(x.shape)
    alpha = source.strength if source else 1.0
    found = _Parts(value, level / alpha, iterations, residual)
    if torch.is_grad_enabled() and (
        x.requires_grad or xi.requires_grad or graph.volume.requires_grad
    ):
        image = operators.product(graph, x, found.apart)
        image = image - image.mean((-2, -1), keepdim=True)  # 0, but not to a derivative's rounding
        xi = xi - (image - image.detach())
        level = solver.level(xi)
        value = Inverse.apply(xi - level, value, solver)
        found = found._replace(moved=value, level=level / alpha)
    return found


def _moved(xi: Tensor, level: Tensor) -> Tensor:
    """What is left of the vector, 0 in a channel where that is rounding."""
    moved = xi - level
    largest, of = (v.abs().amax((-2, -1), keepdim=True) for v in (moved, level))
    return moved.where(largest > 8 * torch.finfo(xi.dtype).eps * of, 0)


def _slack(x: Tensor, xi: Tensor, tol: float) -> Tensor:
    """How far from zero xi's sums may be, per channel: relative to it, or by the rounding of x,
    where xi is a difference of images.
    """
    own = xi.detach().abs().sum((-2, -1), dtype=torch.float64)
    size, mass = (
        v.sum(-1, keepdim=True).expand_as(v) if v.dim() else v
        for v in (own, x.detach().sum((-2, -1), dtype=torch.float64))
    )
    rounding = torch.minimum(8 * torch.finfo(x.dtype).eps * mass, size / 100)
    return torch.maximum(tol * own, rounding)


def _form(graph: PixelGraph, x: Tensor, phi: _Parts, psi: _Parts, source: Source | None) -> Tensor:
    """phi' (L(x) + alpha P) psi, one number per image."""
    form = operators.image_sum(phi.apart * operators.product(graph, x, psi.apart))
    if not source:
        return form
    return form + operators.image_sum(phi.value * source.product(psi.value))


def tangent_norm_sq(
    graph: PixelGraph,
    x: Tensor,
    xi: Tensor,
    *,
    source: Source | None = None,
    unit: str | None = None,
    tol: float | None = None,
    max_iter: int | None = None,
) -> Tensor:
    r"""The squared length of a tangent vector, :math:`\xi^\top G_W(x)\, \xi = \xi^\top L(x)^{+}
    \xi`, one number per image.

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., C, H, W) or (H, W)
        Non-negative intensities.
    xi : tensor of the same shape
        Sums to zero on each connected component of the pixels that x links, in each channel; with a
        source as in :func:`potential`.
    source : Source, optional
        In place of L(x) its sum with :math:`\alpha P`, which counts in the same unit.
    unit : {None, "pixel"}
        ``"pixel"`` gives squared pixels where x has mass 1.
    tol, max_iter
        Of the solver; :func:`potential` has the same and reports iterations and residual.

    Returns
    -------
    tensor, (...)
        Differentiable, twice, in x, xi and the graph's kernel. The relative error is of the order
        of `tol` squared times L's condition number, down to rounding: in float32 it can reach 0.2 %
        where x has pixels 1e12 times below others.

    Raises
    ------
    RuntimeError
        As :func:`potential`.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph, metric
    >>> x, xi = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[-0.1, 0.1, 0.0]])
    >>> round(float(metric.tangent_norm_sq(PixelGraph(1, 3, 1), x, xi)), 6)
    0.006667

    References
    ----------
    Equation (5) and Definition 2 of Lin et al. (2019).
    """
    factor = operators.squared_unit(graph, unit)
    phi = _parts(graph, x, xi, "xi", source, tol, max_iter)
    value = operators.image_sum(2 * xi * phi.value)
    value = value - _form(graph, x, phi, phi, source)
    return checks.in_range(value, "tangent_norm_sq").clamp_min(0) / factor


def inner(
    graph: PixelGraph,
    x: Tensor,
    xi: Tensor,
    zeta: Tensor,
    *,
    source: Source | None = None,
    unit: str | None = None,
    tol: float | None = None,
    max_iter: int | None = None,
) -> Tensor:
    r"""The inner product of two tangent vectors, :math:`g_x(\xi, \zeta) = \xi^\top L(x)^{+} \zeta`,
    one number per image.

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., C, H, W) or (H, W)
        Non-negative intensities.
    xi, zeta : tensors of the same shape
        Tangent vectors as in :func:`tangent_norm_sq`.
    source, unit, tol, max_iter
        As in :func:`tangent_norm_sq`.

    Returns
    -------
    tensor, (...)
        Differentiable, twice, in x, xi, zeta and the graph's kernel.

    Raises
    ------
    RuntimeError
        As :func:`potential`.

    References
    ----------
    Definition 2 of Lin et al. (2019).
    """
    factor = operators.squared_unit(graph, unit)
    phi, psi = (
        _parts(graph, x, v, name, source, tol, max_iter) for v, name in ((xi, "xi"), (zeta, "zeta"))
    )
    value = operators.image_sum(xi * psi.value) + operators.image_sum(zeta * phi.value)
    value = value - _form(graph, x, phi, psi, source)
    return checks.in_range(value, "inner") / factor

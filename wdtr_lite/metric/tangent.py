"""Lengths of tangent vectors, through the potential that conjugate gradients find."""

from typing import NamedTuple

import torch
from torch import Tensor

from wdtr_lite import checks
from wdtr_lite.graph import PixelGraph
from wdtr_lite.metric import operators
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
    checks.image(graph, x)
    checks.vector(graph, xi, name, x)
    if not (source := checked(source)):
        return _solve(graph, x, xi, name, 0.0, tol, max_iter)
    if source.kind == "local":
        return _solve(graph, x, xi, name, source.strength, tol, max_iter)
    level = xi.mean((-2, -1), keepdim=True)  # of which L(x) knows nothing
    found = _solve(graph, x, xi - level, name, 0.0, tol, max_iter)
    return found._replace(value=found.value + level / source.strength)


def _solve(
    graph: PixelGraph,
    x: Tensor,
    xi: Tensor,
    name: str,
    shift: float,
    tol: float | None,
    max_iter: int | None,
) -> Potential:
    """Of the matrix L(x) + shift I."""
    low = graph.dtype != torch.float64
    tol = checks.tolerance((1e-5 if low else 1e-10) if tol is None else tol)
    most = 100 * graph.size
    max_iter = checks.whole(most // 10 if max_iter is None else max_iter, "max_iter", most=most)
    if not x.numel():
        return Potential(torch.zeros_like(x), 0, 0.0)
    shape = (-1, graph.height, graph.width)
    with torch.no_grad():
        how = (graph, x.detach().reshape(shape), tol, max_iter)
        solver = _Shifted(*how, shift) if shift else _Solver(*how)
        right, size = solver.balance(xi.detach(), _slack(x, xi, 1e-4 if low else 1e-9), name)
        value, iterations, residual = solver.solve(right)
        image = solver.product(value)
        work, energy = ((value * v).sum((1, 2)) for v in (xi.reshape(shape) / size, image))
        if not bool(((work - energy).abs() <= tol**0.5 * work).all()):
            solver.fail(
                f"the solution's energy does not match its work: {name}'s rounding matters "
                "where x hardly has mass"
            )
        value = solver.unscaled(value, size, name).view(x.shape)
    if torch.is_grad_enabled() and (
        x.requires_grad or xi.requires_grad or graph.volume.requires_grad
    ):
        image = operators.product(graph, x, value)
        value = _Inverse.apply(xi - (image - image.detach()), value, solver)
    return Potential(value, iterations, residual)


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


def _size(v: Tensor) -> Tensor:
    """The power of two below each largest value of (M, H, W); dividing by it rounds nothing."""
    most = v.abs().amax((1, 2), keepdim=True)
    return torch.where(most > 0, most / (2 * most.frexp().mantissa), 1)


class _Solver:
    """Conjugate gradients for L(x) Phi = xi on a batch x (M, H, W), of images and vectors that are
    brought to size 1, so that no square is out of range.
    """

    def __init__(self, graph: PixelGraph, x: Tensor, tol: float, max_iter: int):
        self.graph, self.tol, self.max_iter = graph, tol, max_iter
        self.size = _size(x)
        self.x = x / self.size
        self.density = self.x / graph.volume
        self.diagonal = operators.diagonal(graph, self.density)
        self.component = graph.components(x)

    def product(self, v: Tensor) -> Tensor:
        return operators.density_product(self.graph, self.density, self.diagonal, v)

    def project(self, v: Tensor) -> Tensor:
        """v less its mean on each component: the nearest vector in the range of L(x)."""
        return self._less(v, torch.ones_like(v))

    def balance(self, xi: Tensor, slack: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """xi brought to size 1, its rounding to zero sums spread as L's diagonal is, so that hardly
        lit pixels stay balanced; and its size.
        """
        xi = xi.reshape(self.x.shape)
        total, size = self._sums(xi), _size(xi)
        excess = total.abs() - slack.reshape(-1, 1)
        if not bool((excess <= 0).all()):
            self._refuse(total, excess, name)
        return torch.where(self.diagonal > 0, self._less(xi / size, self.diagonal), 0), size

    def unscaled(self, value: Tensor, size: Tensor, name: str = "gradient") -> Tensor:
        """The solution for a right side of that size."""
        return checks.in_range(value * (size / self.size), f"the potential of {name}")

    def _sums(self, v: Tensor) -> Tensor:
        """The sum over each component, at the place of its label, (M, n)."""
        return torch.zeros_like(v.flatten(1)).scatter_add(1, self.component, v.flatten(1))

    def _less(self, v: Tensor, weight: Tensor) -> Tensor:
        share = self._sums(v) / self._sums(weight).where(self._sums(weight) > 0, 1)
        return v - weight * share.gather(1, self.component).view_as(v)

    def _refuse(self, total: Tensor, excess: Tensor, name: str) -> None:
        image, label = divmod(int(excess.nan_to_num(nan=torch.inf).argmax()), excess.shape[1])
        count = int((self.component[image] == label).sum())
        row, column = divmod(label, self.graph.width)
        raise ValueError(
            f"{name} must sum to zero on each connected component of the pixels that x links; "
            f"in image {image} the component of {count} pixels at ({row}, {column}) sums to "
            f"{float(total[image, label]):.3g}"
        )

    def solve(self, right: Tensor) -> tuple[Tensor, int, float]:
        def dot(a, b):
            return (a * b).sum((1, 2), keepdim=True)

        inverse = torch.where(self.diagonal > 0, 1 / self.diagonal, 0)
        value, residual = torch.zeros_like(right), right
        direction = z = inverse * residual
        rho = dot(residual, z)
        norm = rho.where(rho > 0, 1)
        iterations = 0
        while bool((active := rho > self.tol**2 * norm).any()) and iterations < self.max_iter:
            image = self.product(direction)
            step = torch.where(active, rho / dot(direction, image).where(active, 1), 0)
            value = value + step * direction
            residual = residual - step * image
            z = inverse * residual
            rho, old = dot(residual, z), rho
            direction = z + torch.where(active, rho / old.where(active, 1), 0) * direction
            iterations += 1
        residual = right - self.product(value)
        worst = float((dot(residual, inverse * residual) / norm).max().sqrt())
        if not worst <= 10 * self.tol:
            self.fail(
                f"relative residual {worst:.2g} after {iterations} iterations, "
                f"tol={self.tol:.2g}, max_iter={self.max_iter}"
            )
        return self.project(value), iterations, worst

    @staticmethod
    def fail(what: str) -> None:
        raise RuntimeError(
            f"{what}: if max_iter is not too small, x has mass on some pixels many orders below "
            "that on others"
        )


class _Shifted(_Solver):
    """The same for L(x) + shift I, which is regular. Of the constants on a component L knows
    nothing: their part of the solution is known.
    """

    def __init__(self, graph: PixelGraph, x: Tensor, tol: float, max_iter: int, shift: float):
        super().__init__(graph, x, tol, max_iter)
        self.shift = shift / self.size
        self.diagonal = self.diagonal + self.shift

    def project(self, v: Tensor) -> Tensor:
        return v

    def balance(self, xi: Tensor, slack: Tensor, name: str) -> tuple[Tensor, Tensor]:
        xi = xi.reshape(self.x.shape)
        size = _size(xi)
        return xi / size, size

    def solve(self, right: Tensor) -> tuple[Tensor, int, float]:
        moved = super().project(right)
        value, iterations, residual = super().solve(moved)
        return super().project(value) + (right - moved) / self.shift, iterations, residual


class _Inverse(torch.autograd.Function):
    """A known solution of L Phi = right; its derivative in the right side is another solve."""

    @staticmethod
    def forward(ctx, right, value, solver):
        ctx.solver = solver
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        with torch.no_grad():
            right = ctx.solver.project(grad.reshape(ctx.solver.x.shape))
            size = _size(right)
            value = ctx.solver.unscaled(ctx.solver.solve(right / size)[0], size).view(grad.shape)
        return _Inverse.apply(grad, value, ctx.solver), None, None


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
    phi = potential(graph, x, xi, source=source, tol=tol, max_iter=max_iter).value
    value = operators.image_sum(2 * xi * phi)
    value = value - operators.image_sum(phi * operators.product(graph, x, phi, source))
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
        solve(graph, x, v, name, source, tol, max_iter).value
        for v, name in ((xi, "xi"), (zeta, "zeta"))
    )
    value = operators.image_sum(xi * psi) + operators.image_sum(zeta * phi)
    value = value - operators.image_sum(phi * operators.product(graph, x, psi, source))
    return checks.in_range(value, "inner") / factor

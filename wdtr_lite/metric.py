r"""The Wasserstein-2 metric tensor of an image, and its inverse, the weighted Laplacian L(x).

Images are tensors (..., C, H, W) or (H, W). Each channel is a measure of its own: matrices come per
channel, norms and distances are summed over the channels, so that one image gives one number. ``scale="pixel"``
multiplies L(x) by :math:`2 / (n S)`, S the sum of the weights times the squared offsets, the mean of the row and the
column part: moving a blob that is wide against the radius and far from the border by one pixel then measures about 1.
Derivatives are those of :mod:`torch.autograd`, not of ``torch.func``.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor
from torch.nn import functional as F

from wdtr_lite.graph import PixelGraph, _check_image, _check_tensor, _check_whole, _sparse

__all__ = [
    "DynamicDistance",
    "Potential",
    "apply_laplacian",
    "dynamic_distance",
    "grad_norm_sq",
    "grad_norm_sq_algorithm1",
    "inner",
    "laplacian",
    "laplacian_sparse",
    "mean_diagonal",
    "mobility",
    "potential",
    "tangent_norm_sq",
]


class Potential(NamedTuple):
    r"""A solution :math:`\Phi = L(x)^{+} \xi` and what it took.

    Taught in :doc:`chapter 3 </book/metric_tensor>`.
    """

    value: Tensor  # (..., H, W)
    iterations: int  # of conjugate gradients, the same for the whole batch
    residual: float  # largest ||xi - L value|| / ||xi|| of the batch, squares divided by L's diagonal


class DynamicDistance(NamedTuple):
    """A Benamou-Brenier distance and its geodesic.

    Taught in :doc:`chapter 3 </book/metric_tensor>`.
    """

    distance: Tensor  # (...)
    path: Tensor  # (steps + 1, ..., H, W), from x to y


def mobility(graph: PixelGraph, x: Tensor) -> Tensor:
    r"""The diagonal of :math:`\Lambda(x)`: on each edge the mean of both ends' densities.

    .. math:: \Lambda(x)_{(i,j)} = \tfrac12 \Bigl(\frac{x_i}{d_i} + \frac{x_j}{d_j}\Bigr)

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., H, W)
        Non-negative intensities.

    Returns
    -------
    tensor, (..., number of edges)
        Edges in the order of :meth:`~wdtr_lite.graph.PixelGraph.incidence`.

    Raises
    ------
    ValueError, TypeError
        If x does not fit the graph, or has a negative or non-finite pixel.

    References
    ----------
    Definition 1 of Lin et al. (2019). Taught in :doc:`chapter 3 </book/metric_tensor>`.
    """
    _check_image(graph, x)
    j, i = graph._edges()[0]
    u = (x / graph.volume).flatten(-2)
    return (u[..., i] + u[..., j]) / 2


def laplacian(graph: PixelGraph, x: Tensor) -> Tensor:
    r"""The weighted Laplacian as a dense matrix, :math:`L(x) = D^\top \Lambda(x) D`.

    .. math:: L(x)_{ij} = \begin{cases}
       \tfrac12 \sum_{k \in N(i)} \omega_{ik} (x_i/d_i + x_k/d_k) & i = j \\
       -\tfrac12\, \omega_{ij} (x_i/d_i + x_j/d_j) & j \in N(i) \\ 0 & \text{otherwise}\end{cases}

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., H, W)
        Non-negative intensities.

    Returns
    -------
    tensor, (..., n, n)
        Symmetric, positive semi-definite, rows summing to 0.

    Raises
    ------
    ValueError, TypeError
        If x does not fit the graph, or has a negative or non-finite pixel.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph, metric
    >>> metric.laplacian(PixelGraph(1, 3, 1), torch.tensor([[0.5, 0.5, 0.0]]))
    tensor([[ 1.5000, -1.5000,  0.0000],
            [-1.5000,  2.0000, -0.5000],
            [ 0.0000, -0.5000,  0.5000]])

    References
    ----------
    Section 4 and Definition 1 of Lin et al. (2019). Taught in :doc:`chapter 3 </book/metric_tensor>`.
    """
    _check_image(graph, x)
    return _dense_laplacian(graph, x)


def _dense_laplacian(graph: PixelGraph, x: Tensor) -> Tensor:
    return _laplacian_of(graph._adjacency(), (x / graph.volume).flatten(-2))


def _laplacian_of(weights: Tensor, density: Tensor) -> Tensor:
    edges = weights * (density[..., :, None] + density[..., None, :]) / 2
    return torch.diag_embed(edges.sum(-1)) - edges


def mean_diagonal(graph: PixelGraph, x: Tensor) -> Tensor:
    r"""The mean of the diagonal of L(x) over all pixels, channels and images, a number.

    .. math:: \frac1n \operatorname{tr} L(x) = \Bigl(\sum_{i=1}^n \sum_{j \in N(i)} \omega_{ij}\Bigr) \cdot \frac1n \sum_{i=1}^n x_i

    L(x) divided by it has, on average, the diagonal of the identity: penalties of different radii, and the Euclidean one,
    compare.

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., H, W)
        Non-negative intensities.

    Returns
    -------
    tensor, ()

    Raises
    ------
    ValueError, TypeError
        If x does not fit the graph, or has a negative or non-finite pixel.

    References
    ----------
    Taught in :doc:`chapter 7 </book/fast_penalty>`.
    """
    _check_image(graph, x)
    return _mean_diagonal(graph, x)


def _mean_diagonal(graph: PixelGraph, x: Tensor) -> Tensor:
    return graph.degree.sum() * x.mean()


def laplacian_sparse(graph: PixelGraph, x: Tensor) -> Tensor:
    """The weighted Laplacian of :func:`laplacian` as a sparse COO tensor.

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., H, W)
        Non-negative intensities.

    Returns
    -------
    sparse COO tensor, (..., n, n)
        Memory and time grow with the number of edges times the number of images.

    Raises
    ------
    ValueError, TypeError
        If x does not fit the graph, or has a negative or non-finite pixel.

    References
    ----------
    Section 4 of Lin et al. (2019). Taught in :doc:`chapter 3 </book/metric_tensor>`.
    """
    value = mobility(graph, x)
    (j, i), weight = graph._edges()
    value = (value * weight).reshape(-1)  # (M edges)
    batch = torch.cartesian_prod(*(torch.arange(k, device=x.device) for k in x.shape[:-2])) if x.dim() > 2 else None
    images = value.numel() // len(i)
    ends = torch.stack([torch.cat([i, j, i, j]), torch.cat([i, j, j, i])]).repeat(1, images)
    values = torch.stack([value, value, -value, -value]).view(4, images, len(i)).transpose(0, 1).reshape(-1)
    if batch is not None:
        place = batch.view(images, x.dim() - 2).T.repeat_interleave(4 * len(i), dim=1)
        ends = torch.cat([place, ends])
    return _sparse(ends, values, (*x.shape[:-2], graph.size, graph.size))


def apply_laplacian(graph: PixelGraph, x: Tensor, v: Tensor) -> Tensor:
    r"""The product L(x) v, without the matrix.

    With :math:`u = x/d` and :math:`(Bv)_i = \sum_{j \in N(i)} \omega_{ij} v_j`,

    .. math:: L(x)\,v = \tfrac12 \bigl[ (u \cdot B1 + Bu) \cdot v - u \cdot Bv - B(u \cdot v) \bigr].

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., H, W)
        Non-negative intensities.
    v : tensor, (..., H, W)
        Any vectors; the leading dimensions of x and v broadcast.

    Returns
    -------
    tensor, (..., H, W)

    Raises
    ------
    ValueError, TypeError
        If x or v does not fit the graph, or x has a negative or non-finite pixel.

    References
    ----------
    Section 4 of Lin et al. (2019). Taught in :doc:`chapter 3 </book/metric_tensor>`.
    """
    _check_image(graph, x)
    _check_tensor(graph, v, "v")
    return _apply(graph, x, v)


def _apply(graph: PixelGraph, x: Tensor, v: Tensor) -> Tensor:
    """L(x) v for x of either sign."""
    u = x / graph.volume
    return _product(graph, u, _diagonal(graph, u), v)


def _product(graph: PixelGraph, u: Tensor, diagonal: Tensor, v: Tensor) -> Tensor:
    return diagonal * v - u / 2 * graph.neighbor_sum(v) - graph.neighbor_sum(u * v) / 2


def _diagonal(graph: PixelGraph, u: Tensor) -> Tensor:
    return (u * graph.degree + graph.neighbor_sum(u)) / 2


def _carre_du_champ(graph: PixelGraph, v: Tensor, w: Tensor | None = None) -> Tensor:
    r"""Half the sum over neighbours of :math:`\omega_{ij} (v_i - v_j)(w_i - w_j)`, (..., H, W); w = v by default."""
    if w is None:
        sums = graph.neighbor_sum(torch.stack([v, v * v]))
        return (graph.degree * v * v + sums[1]) / 2 - v * sums[0]
    sums = graph.neighbor_sum(torch.stack(torch.broadcast_tensors(v, w, v * w)))
    return (graph.degree * v * w + sums[2] - v * sums[1] - w * sums[0]) / 2


def _total(value: Tensor) -> Tensor:
    """Sum over the pixels and the channels, in float64, of an image (..., C, H, W) or (H, W)."""
    return value.sum(tuple(range(-min(3, value.dim()), 0)), dtype=torch.float64).to(value.dtype)


def grad_norm_sq(graph: PixelGraph, x: Tensor, grad: Tensor) -> Tensor:
    r"""The squared Wasserstein gradient norm (7), one number per image.

    .. math:: \nabla f^\top L(x) \nabla f &= \sum_{(i,j) \in E} \omega_{ij} (g_i - g_j)^2\, \frac{x_i/d_i + x_j/d_j}{2} \\
       &= \sum_i \frac{x_i}{d_i} \cdot \tfrac12 \sum_{j \in N(i)} \omega_{ij} (g_i - g_j)^2

    computed through :math:`\tfrac12\,(B1 \cdot g^2 + B(g^2)) - g \cdot Bg`, whose cost does not grow with the radius. Each
    channel of the gradient is centred first, at its mean :math:`\bar g` over the densities :math:`u = x/d`, which changes nothing
    but the rounding; sums are in float64.

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., C, H, W) or (H, W)
        Non-negative intensities.
    grad : tensor of the same shape
        The gradient :math:`g = \nabla f(x)`.

    Returns
    -------
    tensor, (...)
        Never negative. In float32 the relative error is below 1e-5 on rough gradients. Where the gradient has plateaus of
        different height under the ink the value is a small difference of large numbers; the absolute error is always below
        1e-6 times the sum over the pixels of :math:`u\, [B1 \cdot h + B(h)]`, with :math:`h = (g - \bar g)^2`.

    Raises
    ------
    ValueError, TypeError
        If x or grad does not fit the graph, or x has a negative or non-finite pixel.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph, metric
    >>> graph = PixelGraph(1, 3, 1)
    >>> metric.grad_norm_sq(graph, torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    tensor(1.5000)

    References
    ----------
    Equation (7) of Lin et al. (2019). Taught in :doc:`chapter 3 </book/metric_tensor>`.
    """
    _check_image(graph, x)
    _check_tensor(graph, grad, "grad", x.shape)
    return _grad_norm_sq(graph, x, grad)


def _grad_norm_sq(graph: PixelGraph, x: Tensor, grad: Tensor) -> Tensor:
    u = x / graph.volume
    mass = u.sum((-2, -1), keepdim=True)
    grad = grad - (u * grad).sum((-2, -1), keepdim=True) / mass.where(mass > 0, 1)
    return _total(u * _carre_du_champ(graph, grad)).clamp_min(0)


def grad_norm_sq_algorithm1(graph: PixelGraph, x: Tensor, grad: Tensor) -> Tensor:
    """The squared Wasserstein gradient norm by the paper's Algorithm 1, a pair of convolutions per neighbour.

    The reference that :func:`grad_norm_sq` is measured against. Each pair of opposite neighbour relations is
    taken once, edges that leave the image are left out, and each term is multiplied by its weight, which the
    printed algorithm asks for but does not use.

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., C, H, W) or (H, W)
        Non-negative intensities.
    grad : tensor of the same shape

    Returns
    -------
    tensor, (...)

    Raises
    ------
    ValueError, TypeError
        If x or grad does not fit the graph, or x has a negative or non-finite pixel.

    References
    ----------
    Algorithm 1 of Lin et al. (2019). Taught in :doc:`chapter 3 </book/metric_tensor>`.
    """
    _check_image(graph, x)
    _check_tensor(graph, grad, "grad", x.shape)
    with torch.autocast(x.device.type, enabled=False):
        return _algorithm1(graph, x, grad)


def _algorithm1(graph: PixelGraph, x: Tensor, grad: Tensor) -> Tensor:
    u, g = (v.reshape(-1, 1, graph.height, graph.width) for v in (x / graph.volume, grad))
    total = x.new_zeros(len(u))
    for (dy, dx), weight in graph._half():  # line 2
        here, there = (0, max(0, -dx)), (dy, max(0, dx))
        k, m = (x.new_zeros(1, 1, dy + 1, abs(dx) + 1) for _ in range(2))  # lines 3 and 4
        k[0, 0][here], k[0, 0][there] = 1, -1
        m[0, 0][here], m[0, 0][there] = 0.5, 0.5
        h, v = F.conv2d(g, k), F.conv2d(u, m)  # lines 5 and 6
        total = total + weight * (h * h * v).sum((1, 2, 3))  # lines 7 to 9
    return total.reshape(x.shape[:-2]).sum(-1) if x.dim() > 2 else total[0]


def potential(
    graph: PixelGraph, x: Tensor, xi: Tensor, *, tol: float | None = None, max_iter: int | None = None
) -> Potential:
    r"""The potential of a tangent vector: the least-norm :math:`\Phi` with :math:`L(x)\,\Phi = \xi`.

    Conjugate gradients with the diagonal of L(x) as preconditioner, a batch at a time, every channel a system of its own.

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., H, W)
        Non-negative intensities.
    xi : tensor of the same shape
        Sums to zero on each connected component of the pixels that x links: two neighbours are linked
        unless both are black, so black pixels without a lit neighbour are components of one, where xi is 0.
    tol : float, optional
        Relative residual to stop at, each pixel's square divided by L's diagonal; by default 1e-10 in float64, 1e-5 in float32.
    max_iter : int, optional
        By default 10 n.

    Returns
    -------
    Potential
        ``value`` is differentiable, once, in x, xi and the graph's kernel.

    Raises
    ------
    ValueError, TypeError
        If x or xi does not fit the graph, x has a negative or non-finite pixel, or xi is no tangent vector.
    RuntimeError
        If the residual, computed anew at the end, is above ten times `tol`: `max_iter` is too small or x too ill-conditioned.

    References
    ----------
    The continuity equation below (5) of Lin et al. (2019). Taught in :doc:`chapter 3 </book/metric_tensor>`.
    """
    return _potential(graph, x, xi, "xi", tol, max_iter)


def _potential(
    graph: PixelGraph, x: Tensor, xi: Tensor, name: str, tol: float | None = None, max_iter: int | None = None
) -> Potential:
    _check_image(graph, x)
    _check_tensor(graph, xi, name, x.shape)
    low = graph.dtype != torch.float64
    tol = (1e-5 if low else 1e-10) if tol is None else tol
    if not 0 < tol < 1:
        raise ValueError(f"tol must be between 0 and 1, got {tol!r}")
    max_iter = 10 * graph.size if max_iter is None else max_iter
    _check_whole(max_iter, "max_iter")
    if not x.numel():
        return Potential(torch.zeros_like(x), 0, 0.0)
    shape = (-1, graph.height, graph.width)
    solver = _Solver(graph, x.detach().reshape(shape), tol, max_iter)
    with torch.no_grad():
        right = solver.balance(xi.detach().reshape(shape), 1e-4 if low else 1e-9, name)
        value, iterations, residual = solver.solve(right)
        value = value.view(x.shape)
        work, energy = ((value * v).sum((-2, -1)) for v in (xi, _apply(graph, x, value)))
        if not bool(((work - energy).abs() <= tol**0.5 * work).all()):
            solver.fail(f"the solution's energy does not match its work: {name}'s rounding matters where x hardly has mass")
    if torch.is_grad_enabled() and (x.requires_grad or xi.requires_grad or graph.volume.requires_grad):
        image = _apply(graph, x, value)
        value = _Inverse.apply(xi - (image - image.detach()), value, solver)
    return Potential(value, iterations, residual)


class _Solver:
    """Conjugate gradients for L(x) Phi = xi on a batch x (M, H, W)."""

    def __init__(self, graph: PixelGraph, x: Tensor, tol: float, max_iter: int):
        with torch.no_grad():
            self.graph = graph
            self.x, self.tol, self.max_iter = x, tol, max_iter
            self.density = x / graph.volume
            self.diagonal = _diagonal(graph, self.density)
            self.component = graph._components(x)

    def project(self, v: Tensor) -> Tensor:
        """v less its mean on each component: the nearest vector in the range of L(x)."""
        return self._less(v, torch.ones_like(v))

    def balance(self, xi: Tensor, tol: float, name: str) -> Tensor:
        """xi with its rounding to zero sums spread as L's diagonal is, so that hardly lit pixels stay balanced."""
        total = self._sums(xi)
        excess = total.abs() - tol * xi.abs().sum((1, 2)).unsqueeze(1)
        if not bool((excess <= 0).all()):  # NaN fails it
            self._refuse(total, excess, name)
        return torch.where(self.diagonal > 0, self._less(xi, self.diagonal), 0)

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
            f"{name} must sum to zero on each connected component of the pixels that x links; in image "
            f"{image} the component of {count} pixels at ({row}, {column}) sums to {float(total[image, label]):.3g}"
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
            image = _product(self.graph, self.density, self.diagonal, direction)
            step = torch.where(active, rho / dot(direction, image).where(active, 1), 0)
            value = value + step * direction
            residual = residual - step * image
            z = inverse * residual
            rho, old = dot(residual, z), rho
            direction = z + torch.where(active, rho / old.where(active, 1), 0) * direction
            iterations += 1
        residual = right - _product(self.graph, self.density, self.diagonal, value)
        worst = float((dot(residual, inverse * residual) / norm).max().sqrt())
        if not worst <= 10 * self.tol:
            self.fail(f"relative residual {worst:.2g} after {iterations} iterations, tol={self.tol:.2g}, max_iter={self.max_iter}")
        return self.project(value), iterations, worst

    @staticmethod
    def fail(what: str) -> None:
        raise RuntimeError(f"{what}: if max_iter is not too small, x has mass on some pixels many orders below that on others")


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
            value = ctx.solver.solve(right)[0].view(grad.shape)
        return _Inverse.apply(grad, value, ctx.solver), None, None


def tangent_norm_sq(
    graph: PixelGraph,
    x: Tensor,
    xi: Tensor,
    *,
    scale: str | None = None,
    tol: float | None = None,
    max_iter: int | None = None,
) -> Tensor:
    r"""The squared length of a tangent vector, :math:`\xi^\top G_W(x)\, \xi = \xi^\top L(x)^{+} \xi`, one number per image.

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., C, H, W) or (H, W)
        Non-negative intensities.
    xi : tensor of the same shape
        Sums to zero on each connected component of the pixels that x links, in each channel.
    scale : {None, "pixel"}
        ``"pixel"`` gives squared pixels where x has mass 1.
    tol, max_iter
        Of the solver; :func:`potential` has the same and reports iterations and residual.

    Returns
    -------
    tensor, (...)
        Differentiable, twice, in x, xi and the graph's kernel. The relative error is of the order of `tol` squared times L's
        condition number, down to rounding.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As :func:`potential`.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph, metric
    >>> line = PixelGraph(1, 3, 1)
    >>> float(metric.tangent_norm_sq(line, torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[-0.1, 0.1, 0.0]])))
    0.006666...

    References
    ----------
    Equation (5) and Definition 2 of Lin et al. (2019). Taught in :doc:`chapter 3 </book/metric_tensor>`.
    """
    factor = _length_factor(graph, scale)
    phi = potential(graph, x, xi, tol=tol, max_iter=max_iter).value
    return (_total(2 * xi * phi) - _total(phi * _apply(graph, x, phi))).clamp_min(0) / factor


def inner(
    graph: PixelGraph,
    x: Tensor,
    xi: Tensor,
    zeta: Tensor,
    *,
    scale: str | None = None,
    tol: float | None = None,
    max_iter: int | None = None,
) -> Tensor:
    r"""The inner product of two tangent vectors, :math:`g_x(\xi, \zeta) = \xi^\top L(x)^{+} \zeta`, one number per image.

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., C, H, W) or (H, W)
        Non-negative intensities.
    xi, zeta : tensors of the same shape
        Tangent vectors as in :func:`tangent_norm_sq`.
    scale, tol, max_iter
        As in :func:`tangent_norm_sq`.

    Returns
    -------
    tensor, (...)
        Differentiable, twice, in x, xi, zeta and the graph's kernel.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As :func:`potential`.

    References
    ----------
    Definition 2 of Lin et al. (2019). Taught in :doc:`chapter 3 </book/metric_tensor>`.
    """
    factor = _length_factor(graph, scale)
    phi, psi = (_potential(graph, x, v, k, tol, max_iter).value for v, k in ((xi, "xi"), (zeta, "zeta")))
    return (_total(xi * psi) + _total(zeta * phi) - _total(phi * _apply(graph, x, psi))) / factor


def _length_factor(graph: PixelGraph, scale: str | None) -> float | Tensor:
    """What L is multiplied by: 1, or 2 / (n S)."""
    if scale is None:
        return 1.0
    if scale != "pixel":
        raise ValueError(f"scale must be None or 'pixel', got {scale!r}")
    axes = (graph.height > 1) + (graph.width > 1)
    moment = sum(2 * weight * (dy**2 + dx**2) for (dy, dx), weight in graph._half()) / axes
    return 2 / (graph.size * moment)


def dynamic_distance(
    graph: PixelGraph, x: Tensor, y: Tensor, steps: int = 16, *, scale: str | None = None
) -> DynamicDistance:
    r"""The geodesic distance of the metric :math:`L(x)^{+}`, in the manner of Benamou and Brenier, for small graphs.

    .. math:: d(x, y)^2 = \min_{x_0 = x,\, x_N = y}\; N \sum_{k=0}^{N-1}
       (x_{k+1} - x_k)^\top L\bigl(\tfrac{x_k + x_{k+1}}{2}\bigr)^{+} (x_{k+1} - x_k)

    over paths of N steps with non-negative pixels. The problem is convex; a logarithmic barrier and Newton's method find its
    value to 1e-8. Against continuous time the error falls as :math:`1/N^2`. Dense: memory
    :math:`O((N n)^2)`, time :math:`O((N n)^3)`, seconds for N n = 1,500; on the CPU in float64, whatever the input's type.

    Parameters
    ----------
    graph : PixelGraph
    x, y : tensors, (..., C, H, W) or (H, W)
        Images of equal mass in each channel; black pixels are allowed.
    steps : int
        N, at least 2.
    scale : {None, "pixel"}
        ``"pixel"`` gives pixels where the mass is 1.

    Returns
    -------
    DynamicDistance
        ``distance`` (...) is differentiable, once, in x and y, where they differ.

    Raises
    ------
    ValueError, TypeError
        If x or y does not fit the graph, has a negative or non-finite pixel, or their masses or shapes differ.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph, metric
    >>> line = PixelGraph(1, 2, 1).to(dtype=torch.float64)
    >>> left, right = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
    >>> round(float(metric.dynamic_distance(line, left, right).distance), 6)
    1.0

    References
    ----------
    Benamou and Brenier (2000); Maas (2011) for graphs, there with the logarithmic mean. Taught in :doc:`chapter 3 </book/metric_tensor>`.
    """
    _check_image(graph, x)
    _check_image(graph, y, "y")
    _check_tensor(graph, y, "y", x.shape)
    _check_whole(steps, "steps", 2)
    masses = [z.detach().double().sum((-2, -1)) for z in (x, y)]
    if not torch.allclose(*masses, rtol=1e-6 if graph.dtype != torch.float64 else 1e-10, atol=0):
        raise ValueError("x and y must have the same mass in each channel")
    factor = _length_factor(graph, scale)
    ends = [z.detach().double().cpu().reshape(-1, graph.size).numpy() for z in (x, y)]
    wide = graph.to("cpu", torch.float64)
    weights, volume = (z.detach().numpy() for z in (wide._adjacency(), wide.volume.flatten()))
    paths = [_geodesic_path(weights, volume, a, b, steps) for a, b in zip(*ends, strict=True)]
    inside = torch.as_tensor(np.stack(paths, 1)[1:-1], device=x.device, dtype=x.dtype).view(steps - 1, *x.shape)
    path = torch.cat([x[None], inside, y[None]])
    middle, move = ((path[1:] + path[:-1]) / 2).double(), path.diff(dim=0).double()
    move = move - move.mean((-2, -1), keepdim=True)
    moves = (move != 0).any(-1, keepdim=True).any(-2, keepdim=True)  # black pixels may be out of reach where nothing moves
    inverse = _pseudo_inverse(_dense_laplacian(graph.to(dtype=torch.float64), middle.where(moves, 1)))
    flat = move.flatten(-2)
    squared = steps * torch.einsum("k...i,k...ij,k...j->...", flat, inverse, flat)
    squared = (squared.sum(-1) if x.dim() > 2 else squared) / factor
    distance = torch.where(squared > 0, squared.where(squared > 0, 1).sqrt(), 0)
    return DynamicDistance(distance.to(x.dtype), path.detach())


def _pseudo_inverse(laplacian: Tensor) -> Tensor:
    """The pseudo-inverse where the null space is the constants: of the Laplacian of a connected graph."""
    n = laplacian.shape[-1]
    scale = laplacian.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    constant = laplacian.new_full((n, n), 1 / n)
    return torch.linalg.inv(laplacian + scale * constant) - constant / scale


def _geodesic_path(weights: np.ndarray, volume: np.ndarray, x: np.ndarray, y: np.ndarray, steps: int) -> np.ndarray:
    """The minimising path (steps + 1, n) between two measures of mass m, by Newton's method with a barrier."""
    n, mass = len(x), x.sum()
    time = np.linspace(0, 1, steps + 1)[:, None]
    path = x + time * (y - x)
    if np.array_equal(x, y):
        return path
    path[1:-1] += 0.1 * (mass / n - path[1:-1])
    basis = np.linalg.qr(np.c_[np.ones(n), np.eye(n)[:, 1:]])[0][:, 1:]  # of the vectors of sum 0
    barrier = _energy(weights, volume, path) / (n * steps)
    while True:
        for _ in range(50):
            value, gradient, hessian = _action(weights, volume, path)
            inside = path[1:-1]
            slope = gradient - barrier / inside
            k = np.arange(steps - 1)
            hessian[k, :, k, :] += np.einsum("ki,ij->kij", barrier / inside**2, np.eye(n))
            reduced = np.einsum("ia,kilj,jb->kalb", basis, hessian, basis, optimize=True)
            size = (steps - 1) * (n - 1)
            move = cho_solve(cho_factor(reduced.reshape(size, size)), (slope @ basis).ravel())
            move = -move.reshape(steps - 1, n - 1) @ basis.T
            decrement = -float((slope * move).sum())
            length = min(1.0, 0.99 / max(float((-move / inside).max()), 1e-300))
            goal = value - barrier * np.log(inside).sum()
            while length > 1e-12:
                trial = path.copy()
                trial[1:-1] += length * move
                if _energy(weights, volume, trial) - barrier * np.log(trial[1:-1]).sum() <= goal - 0.1 * length * decrement:
                    path = trial
                    break
                length /= 2
            if decrement <= 1e-3 * barrier or length <= 1e-12:
                break
        if barrier * n * (steps - 1) <= 1e-8 * value:
            return path
        barrier /= 10


def _parts(weights, volume, path):
    """The moves of a path, the potentials of its steps and the pseudo-inverses, in float64."""
    middle, move = (path[1:] + path[:-1]) / 2 / volume, np.diff(path, axis=0)
    inverse = _pseudo_inverse(_laplacian_of(*map(torch.from_numpy, (weights, middle)))).numpy()
    return move, np.einsum("kij,kj->ki", inverse, move), inverse


def _energy(weights, volume, path) -> float:
    move, phi, _ = _parts(weights, volume, path)
    return len(move) * float((move * phi).sum())


def _action(weights, volume, path):
    """The action of a path with its gradient and Hessian in the inner points, (N - 1, n) and (N - 1, n, N - 1, n)."""
    move, phi, inverse = _parts(weights, volume, path)
    steps, n = move.shape
    slope = weights * (phi[:, :, None] - phi[:, None, :]) / (2 * volume[:, None])  # (N, n, n)
    q = (slope * (phi[:, :, None] - phi[:, None, :])).sum(-1)  # the derivative of phi' L(x) phi in x
    k_matrix = -slope.transpose(0, 2, 1)
    i = np.arange(n)
    k_matrix[:, i, i] += slope.sum(-1)
    ahead, behind = np.eye(n) - k_matrix / 2, -(np.eye(n) + k_matrix / 2)
    gradient = steps * ((2 * phi - q / 2)[:-1] + (-2 * phi - q / 2)[1:])
    hessian = np.zeros((steps - 1, n, steps - 1, n))
    k = np.arange(steps - 1)
    blocks = [[2 * steps * a.transpose(0, 2, 1) @ inverse @ b for b in (behind, ahead)] for a in (behind, ahead)]
    hessian[k, :, k, :] = blocks[1][1][:-1] + blocks[0][0][1:]
    if steps > 2:
        hessian[k[:-1], :, k[1:], :] = blocks[0][1][1:-1]
        hessian[k[1:], :, k[:-1], :] = blocks[1][0][1:-1]
    return steps * float((move * phi).sum()), gradient, hessian

"""Curvature of functions of images in the Wasserstein metric."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from wdtr_lite import checks, noise
from wdtr_lite.calculus.derivatives import differentiate, second_derivative
from wdtr_lite.graph import PixelGraph, full_precision
from wdtr_lite.metric import operators
from wdtr_lite.metric.solver import size_of

Function = Callable[[Tensor], Tensor]

FLOOR = 1 / 255
"""The least intensity in the metric, that of :func:`~wdtr_lite.attacks.wasserstein_attack`."""


class Curvatures(NamedTuple):
    """The outermost eigenvalues of a Hessian in the metric, (B,) each."""

    lowest: Tensor
    highest: Tensor


class CurvatureSums(NamedTuple):
    """Sums over the eigenvalues of a Hessian in the metric, (B,) each, estimated."""

    laplacian: Tensor
    """The sum."""
    frobenius: Tensor
    """The root of the sum of the squares."""


def curvatures(
    f: Function,
    x: Tensor,
    graph: PixelGraph,
    *,
    at: Tensor | None = None,
    iterations: int = 20,
) -> Curvatures:
    r"""The least and the largest second derivative of a function along changes of length 1: the
    outermost eigenvalues of :math:`M^{1/2} \nabla^2 f M^{1/2}`.

    By Lanczos' method from a random start, without a root or an inverse of M: :math:`\nabla^2 f\,
    M` has the same eigenvalues, and is symmetric in the inner product :math:`p^\top M q` of
    potentials. Potentials of norm 0, the same at all pixels of a channel, count with eigenvalue 0.
    What is found lies within the spectrum and tends to its ends from inside.

    Parameters
    ----------
    f : function of images (B, C, H, W) -> (B,)
        Every image on its own.
    x : tensor, (B, C, H, W)
        Non-negative images: where the Hessian is taken.
    graph : PixelGraph
    at : tensor of the same shape, optional
        Non-negative images, the centres of the balls, where M is; by default x.
    iterations : int
        Hessian-vector products.

    Returns
    -------
    Curvatures
        ``lowest`` is at most 0, ``highest`` at least 0.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph
    >>> from wdtr_lite.evaluation import curvatures
    >>> product = lambda x: x[:, 0, 0, 0] * x[:, 0, 0, 1]
    >>> found = curvatures(product, torch.tensor([[[[0.5, 0.5]]]]), PixelGraph(1, 2, 1))
    >>> round(float(found.lowest), 3), round(float(found.highest), 3)
    (-1.0, 0.0)

    References
    ----------
    Lanczos (1950).
    """
    checks.batch(x)
    checks.some_pixels(x)
    checks.image(graph, x)
    iterations = checks.repeats(iterations, "iterations")
    ball = Ball(graph, _centre(graph, x, at))
    leaf, grad = differentiate(f, x.detach(), create_graph=True)
    return outermost(leaf, grad, ball, iterations)


def curvature_sums(
    f: Function,
    x: Tensor,
    graph: PixelGraph,
    *,
    generator: torch.Generator,
    samples: int = 100,
) -> CurvatureSums:
    r"""The Laplacian of a function in the metric, and the Frobenius norm of its Hessian there, from
    random directions :math:`\zeta \sim \mathcal N(0, M)`.

    .. math:: \operatorname{tr}(M \nabla^2 f) = \mathbb E\, \zeta^\top \nabla^2 f\, \zeta, \qquad
       \bigl\| M^{1/2} \nabla^2 f M^{1/2} \bigr\|_F^2
       = \mathbb E\, (\nabla^2 f \zeta)^\top M\, (\nabla^2 f \zeta)

    The Frobenius norm is at least the largest curvature. The Laplacian need not be: it is where no
    eigenvalue is negative, and is not where negative ones cancel.

    Parameters
    ----------
    f, x, graph
        As in :func:`curvatures`.
    generator : torch.Generator
        On the device of x.
    samples : int
        Hessian-vector products.

    Returns
    -------
    CurvatureSums

    References
    ----------
    Hutchinson (1989); equation (8) of Lin et al. (2019) for the Laplacian.
    """
    checks.batch(x)
    checks.some_pixels(x)
    checks.image(graph, x)
    checks.generator(generator, x)
    samples = checks.repeats(samples, "samples")
    ball = Ball(graph, x)
    leaf, grad = differentiate(f, x.detach(), create_graph=True)
    laplacian, norms = torch.zeros_like(x[:, 0, 0, 0]), []
    for _ in range(samples):
        zeta = ball.sample(generator)
        product = second_derivative(grad, leaf, zeta, create_graph=False)
        laplacian = laplacian + operators.image_sum(zeta * product)
        norms.append(ball.norm(product))
    size = power_of_two(torch.stack(norms).amax(0))
    squares = sum(((norm / size) ** 2 for norm in norms), torch.zeros_like(size))
    found = CurvatureSums(laplacian / samples, size * (squares / samples).sqrt())
    _differentiable(torch.stack(found), "f")
    return found


# ---------------------------------------------------------------- the metric


class Ball:
    """Lengths about images, by the inverse M of the metric there."""

    def __init__(self, graph: PixelGraph, centre: Tensor):
        self.graph, self.at = graph, centre.detach().clamp_min(FLOOR)
        self.factor = float(operators.squared_unit(graph, "pixel"))

    def raised(self, g: Tensor) -> Tensor:
        return self.factor * operators.product(self.graph, self.at, g)

    def norm(self, g: Tensor) -> Tensor:
        size = power_of_two(g.abs().amax((1, 2, 3)))  # squares are not to leave the type's range
        square = operators.grad_norm_sq(self.graph, self.at, g / _spread(size))
        return size * (self.factor * square).sqrt()

    def sample(self, generator: torch.Generator) -> Tensor:
        return noise.sample(self.graph, self.at, self.factor**0.5, generator=generator)[0]


def outermost(
    leaf: Tensor, grad: Tensor, ball: Ball, iterations: int, name: str = "f"
) -> Curvatures:
    """The ends of the spectrum of Lanczos' tridiagonal matrix, of the gradient of a function that
    messages call `name`.
    """
    _differentiable(grad, name)
    with full_precision(leaf):
        matrix = _tridiagonal(leaf, grad, ball, iterations, name)
        _differentiable(matrix, name)
        found = torch.linalg.eigvalsh(matrix)
    return Curvatures(found[:, 0].clamp_max(0), found[:, -1].clamp_min(0))


def _tridiagonal(leaf: Tensor, grad: Tensor, ball: Ball, iterations: int, name: str) -> Tensor:
    """Lanczos' matrix. Potentials are made orthogonal to all before them, twice against rounding;
    where rounding is all that is left, there are no more. Their means, which have no norm, would
    grow from step to step.
    """
    generator = torch.Generator(leaf.device).manual_seed(0)
    v = torch.randn(leaf.shape, generator=generator, device=leaf.device, dtype=leaf.dtype)
    potentials, changes, diagonal, beside = [], [], [], []
    largest = torch.zeros_like(v[:, 0, 0, 0])
    for k in range(min(iterations, leaf[0].numel())):
        v = _centred(v)
        size = ball.norm(v)
        _differentiable(size, name)
        largest = size if k < 2 else torch.maximum(largest, size)
        rounding = 1e3 * torch.finfo(v.dtype).eps * largest
        for _ in range(2 if potentials else 0):
            shares = torch.einsum("kbchw,bchw->kb", torch.stack(changes), v)
            v = _centred(v - torch.einsum("kb,kbchw->bchw", shares, torch.stack(potentials)))
        size = ball.norm(v)
        size = size.where(size > rounding, torch.zeros_like(size))
        inverse = _spread(torch.where(size > 0, 1 / size, 0))
        beside.append(size)
        potentials.append(v * inverse)
        changes.append(ball.raised(potentials[-1]))
        v = second_derivative(grad, leaf, changes[-1], create_graph=False)
        diagonal.append(operators.image_sum(v * changes[-1]))
    off = torch.stack(beside, -1)[:, 1:]
    matrix = torch.diag_embed(torch.stack(diagonal, -1))
    return matrix + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)


def power_of_two(size: Tensor) -> Tensor:
    """That below each of the numbers (B,), or 1; dividing by it rounds nothing."""
    return size_of(size[:, None, None])[:, 0, 0]


def _differentiable(found: Tensor, name: str) -> None:
    """Derivatives of a function, so named, or what is made of them."""
    if checks.eager(found) and not (valid := found.isfinite()).all():
        raise checks.NotFinite(
            f"{name} must have finite first and second derivatives in x, "
            f"got {found[~valid][0].item():g} in {found.dtype}: scale {name} or x if they overflow"
        )


def _centred(v: Tensor) -> Tensor:
    return v - v.mean((-2, -1), keepdim=True)


def _spread(value: Tensor) -> Tensor:
    return value[:, None, None, None]


def _centre(graph: PixelGraph, x: Tensor, at: Tensor | None) -> Tensor:
    if at is None:
        return x
    checks.image(graph, at, "at")
    checks.like(at, x, "at")
    return at

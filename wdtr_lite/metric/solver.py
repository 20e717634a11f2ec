"""Conjugate gradients for the potential of a tangent vector, with its derivative."""

import torch
from torch import Tensor

from wdtr_lite import checks
from wdtr_lite.graph import PixelGraph
from wdtr_lite.metric import operators
from wdtr_lite.metric.source import Source


def size_of(v: Tensor) -> Tensor:
    """The power of two below each largest value of (M, H, W); dividing by it rounds nothing."""
    most = v.abs().amax((1, 2), keepdim=True)
    return torch.where(most > 0, most / (2 * most.frexp().mantissa), 1)


class Solver:
    """Conjugate gradients for L(x) Phi = xi on a batch x (M, H, W), of images and vectors that are
    brought to size 1, so that no square is out of range. With a local source for L(x) + alpha I, of
    vectors without a :meth:`level`.
    """

    def __init__(
        self, graph: PixelGraph, x: Tensor, tol: float, max_iter: int, source: Source | None
    ):
        self.graph, self.tol, self.max_iter, self.source = graph, tol, max_iter, source
        self.size = size_of(x)
        self.x = x / self.size
        self.density = self.x / graph.volume
        self.diagonal = operators.diagonal(graph, self.density)
        if source and source.kind == "local":
            self.diagonal = self.diagonal + source.strength / self.size
        self.component = graph.components(x)

    def level(self, xi: Tensor) -> Tensor:
        """The part of a vector, of the shape of the images, that the source alone gives: its means
        over the pixels of a component, with a uniform source over all; without a source none.
        """
        if not self.source:
            return torch.zeros_like(xi)
        if self.source.kind == "uniform":
            return xi.mean((-2, -1), keepdim=True).expand_as(xi)
        flat = xi.reshape(self.x.shape)
        return self._shares(flat, torch.ones_like(flat)).view(xi.shape)

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
        total, size = self._sums(xi), size_of(xi)
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
        return v - weight * self._shares(v, weight)

    def _shares(self, v: Tensor, weight: Tensor) -> Tensor:
        """Of each component the sum over v by that over the weight, in all its pixels."""
        share = self._sums(v) / self._sums(weight).where(self._sums(weight) > 0, 1)
        return share.gather(1, self.component).view_as(v)

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


class Inverse(torch.autograd.Function):
    """A known solution of L Phi = right; its derivative in the right side is another solve."""

    @staticmethod
    def forward(ctx, right, value, solver):
        ctx.solver = solver
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        with torch.no_grad():
            given = grad.reshape(ctx.solver.x.shape)
            right = ctx.solver.project(ctx.solver.project(given))  # of the rounding, too
            most, of = (v.abs().amax((1, 2), keepdim=True) for v in (right, given))
            right = right.where(most > 16 * torch.finfo(of.dtype).eps * of, 0)
            size = size_of(right)
            value = ctx.solver.unscaled(ctx.solver.solve(right / size)[0], size).view(grad.shape)
        return Inverse.apply(grad, value, ctx.solver), None, None

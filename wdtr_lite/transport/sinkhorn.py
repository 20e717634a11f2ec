"""Entropic transport by Sinkhorn's iteration in the log domain."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch

from wdtr_lite import checks
from wdtr_lite.graph import full_precision
from wdtr_lite.transport import measures
from wdtr_lite.transport.measures import Image


def sinkhorn_distance(
    x: Image,
    y: Image,
    *,
    epsilon: float,
    p: float = 2,
    debiased: bool = False,
    tol: float | None = None,
    max_iter: int = 10_000,
) -> Image:
    r"""Entropic transport between batches of images, by Sinkhorn's iteration in the log domain.

    With :math:`\Pi_{\mathrm S}` the plan from x to y that minimises :math:`\langle \Pi, C\rangle +
    \varepsilon_{\mathrm S}\, \mathrm{KL}(\Pi \mid x \otimes y)`, where :math:`\varepsilon_{\mathrm
    S}` is `epsilon`, and :math:`\mathrm{OT}(x, y)` that minimum, it returns

    * the transport cost of this plan, :math:`\langle \Pi_{\mathrm S}, C\rangle^{1/p}`, which,
      converged, is at least :math:`\mathrm W_p` and, for two equal images, not zero;
    * with ``debiased=True`` the Sinkhorn divergence :math:`\bigl(\mathrm{OT}(x, y) -
      \tfrac12\mathrm{OT}(x, x) - \tfrac12\mathrm{OT}(y, y)\bigr)^{1/p}`, which is zero for two
      equal images. Only for p up to 2, where it is never negative, and not
      at an `epsilon` so far above the largest cost that it drowns in rounding.

    The n x n cost is never formed: for p = 2 the kernel is a product over rows and columns, so one
    iteration costs O(n (H + W)) per pair; for other p it is summed row by row, O(n²). Costs are
    lowered from the grid's diameter to `epsilon` by halves before the iteration proper.
    Differentiable once in x and y, by implicit differentiation of the fixed point; in a black pixel
    as for a mass too small to move any other.

    Parameters
    ----------
    x, y : tensors or arrays, (B, H, W) or (H, W)
        Images, normalised to mass 1, on one device and of one floating type.
    epsilon : float
        Entropic regularisation, in pixels to the power p.
    p : float
        Order of the Euclidean pixel distance, at least 1.
    debiased : bool
        Return the Sinkhorn divergence instead.
    tol : float, optional
        Largest L1 error of the plan's marginals at which to stop; by default 1e-6 in float64, 1e-3
        in lower precision. The gradient may miss some 40 times as much of its norm, where epsilon
        is small.
    max_iter : int
        Bound on the iterations; the smaller `epsilon`, the more are needed, most of all between
        images of separate blobs. Reaching it is a ``RuntimeWarning``.

    Returns
    -------
    tensor or array, (B,) or ()
        In pixels.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.transport import sinkhorn_distance
    >>> x = torch.zeros(1, 5, 5, dtype=torch.float64)
    >>> x[0, 1, 1] = 1
    >>> sinkhorn_distance(x, x.roll(2, -1), epsilon=0.1)
    tensor([2.], dtype=torch.float64)

    References
    ----------
    Cuturi (2013); Feydy et al. (2019); Luise et al. (2018) for the derivative.
    """
    if torch.is_inference_mode_enabled():  # where nothing has a derivative
        with torch.inference_mode(False), torch.no_grad():
            return sinkhorn_distance(
                x, y, epsilon=epsilon, p=p, debiased=debiased, tol=tol, max_iter=max_iter
            )
    epsilon, p = checks.number(epsilon, "epsilon", positive=True), checks.order(p)
    max_iter = checks.whole(max_iter, "max_iter")
    checks.flag(debiased, "debiased")
    if tol is not None:
        tol = checks.tolerance(tol)
    if debiased and p > 2:
        raise ValueError(
            f"p must be at most 2 where debiased, beyond the divergence can be negative, got {p!r}"
        )
    a, b = (measures.as_tensor(measures.measure(z, k)) for z, k in ((x, "x"), (y, "y")))
    if a.shape != b.shape or a.dim() not in (2, 3):
        raise ValueError(
            f"x and y must both be (B, H, W) or (H, W), got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if (a.dtype, a.device) != (b.dtype, b.device):
        raise ValueError(
            f"x and y must share type and device, got {a.dtype}, {a.device} and "
            f"{b.dtype}, {b.device}"
        )
    shape, a, b = a.shape[:-2], a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:])
    tol = tol or (1e-6 if a.dtype == torch.float64 else 1e-3)
    with full_precision(a):
        if debiased:
            both = torch.cat([a, b])
            own = EntropicProblem(both, both, p, epsilon, tol, max_iter)
            checks.divergence(epsilon, own.diameter, a.dtype)
            value = EntropicProblem(a, b, p, epsilon, tol, max_iter).optimum()
            value = value - sum(own.optimum().chunk(2)) / 2
        else:
            value = EntropicProblem(a, b, p, epsilon, tol, max_iter).transport_cost()
    floor = torch.finfo(a.dtype).tiny  # a divergence rounded below zero is zero, with zero gradient
    value = torch.where(value > floor, value.clamp_min(floor) ** (1 / p), 0.0).reshape(shape)
    if value.requires_grad:
        value.register_hook(_refuse_second_derivative)
    return value if isinstance(x, torch.Tensor) or isinstance(y, torch.Tensor) else value.numpy()


# ---------------------------------------------------------------- Sinkhorn's iteration


class EntropicProblem:
    """A batch of entropic problems on one grid, solved on construction.

    Only the potential g is kept; the other is f = half_step(g). Where a is b the two potentials are
    equal, and averaging g with its half step at least halves the error.
    """

    def __init__(
        self, a: torch.Tensor, b: torch.Tensor, p: float, epsilon: float, tol: float, max_iter: int
    ):
        self.epsilon, self.a = epsilon, _logarithms(a)  # a, b: (B, H, W)
        self.b = self.a if a is b else _logarithms(b)
        rows, cols = (torch.arange(k, dtype=a.dtype, device=a.device) for k in a.shape[-2:])
        rows, cols = ((k - k[:, None]) ** 2 for k in (rows, cols))  # squared offsets
        self.diameter = float((rows.max() + cols.max()) ** (p / 2))
        checks.entropic(epsilon, p, self.diameter, a.dtype)
        self.log_sum = separable(rows, cols) if p == 2 else row_by_row(rows, cols, p)
        self.g = self._fixed_point(tol, max_iter)

    def half_step(
        self, potential: torch.Tensor, of: "_Masses", at: "_Masses", epsilon: float, exact: bool
    ) -> torch.Tensor:
        rate = potential.new_full((1, 1, 1), 1 / epsilon)
        return -epsilon * self.sums(potential / epsilon, of, at, rate, exact)

    def sums(
        self, v: torch.Tensor, of: "_Masses", at: "_Masses", rate: torch.Tensor, exact: bool
    ) -> torch.Tensor:
        """The log-sums at each pixel of `at`; with `exact`, right in their derivatives in black
        pixels of `of` too, which then have a mass for all but the darkest of `at`: beside those it
        would be most of the sum.
        """
        lit = self.log_sum(of.lit + v, rate, exact)
        if not (exact and of.mass.requires_grad):
            return lit
        return torch.where(at.mass > at.dark, self.log_sum(of.all + v, rate, exact), lit)

    def sweep(self, g: torch.Tensor, epsilon: float, exact: bool = False) -> torch.Tensor:
        f = self.half_step(g, self.b, self.a, epsilon, exact)
        same = self.a is self.b
        return (g + f) / 2 if same else self.half_step(f, self.a, self.b, epsilon, exact)

    def _fixed_point(self, tol: float, max_iter: int) -> torch.Tensor:
        with torch.no_grad():
            step = 2 if self.a is self.b else 1
            g, epsilon = torch.zeros_like(self.b.mass), self.diameter
            while epsilon > self.epsilon:
                g, epsilon = self.sweep(g, epsilon), epsilon / 2
            for _ in range(max_iter):
                g, last = self.sweep(g, self.epsilon), g
                # The plan of (f, last) has rows a and columns b exp(excess).
                excess = step * (last - g) / self.epsilon
                error = float((self.b.mass * excess.clamp(max=1).expm1().abs()).sum((-2, -1)).max())
                if error <= tol:
                    break
            else:
                warnings.warn(
                    f"sinkhorn_distance stopped at max_iter={max_iter} with a marginal error of "
                    f"{error:.1e} (tol={tol:.1e}): raise max_iter, tol or epsilon, or pass float64 "
                    "images",
                    RuntimeWarning,
                    stacklevel=4,
                )
            if self.a is self.b:  # black pixels, which weigh nothing above, have converged then too
                g = self.half_step(g, self.b, self.a, self.epsilon, exact=False)
        g = self.sweep(g, self.epsilon, exact=True)
        if g.requires_grad:
            g.register_hook(self._implicit_gradient(g.detach(), tol, max_iter))
        return g

    def _implicit_gradient(self, g: torch.Tensor, tol: float, max_iter: int) -> Callable:
        """Backward hook that turns the gradient of the last sweep into that of its fixed point."""
        g = g.requires_grad_()
        image = self.sweep(g, self.epsilon)

        def hook(grad: torch.Tensor | None) -> torch.Tensor | None:
            if grad is None:  # of one that did not matter
                return None
            # The sum is 0 but for rounding, of which every step would add as much again.
            grad = grad - grad.sum((-2, -1), keepdim=True) * self.b.mass
            total, most = grad, tol * grad.abs().amax((-2, -1))
            for _ in range(max_iter):
                last = total
                with full_precision(grad):
                    total = grad + torch.autograd.grad(image, g, last, retain_graph=True)[0]
                if bool(((total - last).abs().amax((-2, -1)) <= most).all()):
                    break
            else:
                warnings.warn(
                    f"the gradient of sinkhorn_distance stopped at max_iter={max_iter}: raise "
                    "max_iter, tol or epsilon, or pass float64 images",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return total

        return hook

    def transport_cost(self) -> torch.Tensor:
        """<P, C>: each row's mean cost is minus the derivative of its log-sum in 1 / epsilon."""
        with torch.enable_grad():
            a, v = self.a.mass, self.g / self.epsilon
            rate = a.new_full((len(a), 1, 1), 1 / self.epsilon).requires_grad_()
            total = (a * self.sums(v, self.b, self.a, rate, exact=True)).sum()
            return -torch.autograd.grad(total, rate, create_graph=self.g.requires_grad)[0].flatten()

    def optimum(self) -> torch.Tensor:
        """OT_epsilon = <a, f> + <b, g>; its gradient is (f, g), by the envelope theorem."""
        f = self.half_step(self.g, self.b, self.a, self.epsilon, exact=False)
        return (self.a.mass * f.detach() + self.b.mass * self.g.detach()).sum((-2, -1))


class _Masses(NamedTuple):
    """An image and its logarithms, (B, H, W)."""

    mass: torch.Tensor
    lit: torch.Tensor  # next to nothing at black pixels
    all: torch.Tensor  # there that of a mass so small that others do not see it
    dark: float  # the mass of those which would


def _logarithms(mass: torch.Tensor) -> _Masses:
    kind = torch.finfo(mass.dtype)
    least = kind.tiny**0.75  # whose derivative may be multiplied by a small one of a loss
    lit = mass.where(mass > 0, 1).log().where(mass > 0, kind.min / 4)
    return _Masses(mass, lit, (mass + least).log(), least / kind.eps**2)


def _refuse_second_derivative(grad: torch.Tensor) -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "sinkhorn_distance is differentiable once: no create_graph=True through it"
        )


def separable(rows: torch.Tensor, cols: torch.Tensor) -> Callable:
    """(v, rate, exact) -> log sum_j exp(v_j - rate C_ij) for the cost rows + cols, one axis after
    the other.

    v is (B, H, W), rate (1, 1, 1) or (B, 1, 1). The value is always exact to rounding; with `exact`
    so is the derivative in the log-mass of black pixels, whose terms underflow in the sum.
    """

    def contract(v: torch.Tensor, exponent: torch.Tensor, exact: bool) -> torch.Tensor:
        if exact:
            return (v[..., None] + exponent[..., None, :, :]).logsumexp(-2)
        # A matrix product of exponentials; the lines in which a sum underflows are summed with a
        # maximum for each entry of the result. What is lost to underflow is below rounding.
        floor = torch.finfo(v.dtype).tiny / torch.finfo(v.dtype).eps
        top = v.amax(-1, keepdim=True)
        total = (v - top).exp() @ exponent.exp()
        out = total.clamp_min(floor).log() + top
        weak = (total < floor).any(-1)  # (B, H)
        if bool(weak.any()):
            exponent = exponent.expand(len(v), -1, -1)[weak.nonzero()[:, 0]]
            out = out.index_put((weak,), (v[weak][..., None] + exponent).logsumexp(-2))
        return out

    def log_sum(v: torch.Tensor, rate: torch.Tensor, exact: bool = False) -> torch.Tensor:
        return contract(contract(v, -rate * cols, exact).mT, -rate * rows, exact).mT

    return log_sum


def row_by_row(rows: torch.Tensor, cols: torch.Tensor, p: float) -> Callable:
    """The same for C = (rows + cols)^(p/2), one row of the result at a time and always exact."""

    def log_sum(v: torch.Tensor, rate: torch.Tensor, exact: bool = True) -> torch.Tensor:
        out = []
        for row in rows:
            cost = (row[:, None, None] + cols) ** (p / 2)  # (H, W, W)
            out.append((v[..., None] - rate[..., None] * cost).logsumexp((-3, -2)))
        return torch.stack(out, dim=-2)

    return log_sum

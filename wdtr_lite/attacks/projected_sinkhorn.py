"""The ball of the transport distance, by Sinkhorn's iteration with a projection in it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from wdtr_lite import checks
from wdtr_lite.attacks.gradient import input_gradient, spread
from wdtr_lite.models import Classifier

_NEWTON = 4  # steps for Lambert's function: to 1e-6
_ROUNDS = 20  # of letting mass in
_STEEPEST = 500.0  # of exponents: exp(-500) is far above float64's smallest number
_DEAREST = 1e40  # of a mass of 1, in budgets: its square times exp(500) is finite


def project_to_wasserstein_ball(
    w: Tensor,
    x: Tensor,
    epsilon: float | Tensor,
    *,
    window: int = 5,
    p: float = 2,
    regularization: float = 0.01,
    iterations: int = 200,
) -> Tensor:
    r"""The image nearest to w (in L2) of those in [0, 1] that moving mass makes of x at a cost of
    at most :math:`\epsilon^p`.

    .. math:: \min_{x', \Pi \ge 0} \ \tfrac12 \|w - x'\|^2
       + \varepsilon_{\mathrm S} \sum_{ij} \Pi_{ij} \log \Pi_{ij}
       \quad\text{subject to}\quad
       \Pi 1 = x, \ \Pi^\top 1 = x' \le 1, \ \sum_{ij} C_{ij} \Pi_{ij} \le \epsilon^p

    with :math:`\varepsilon_{\mathrm S}` the regularization, as it goes to 0 the projection itself,
    and :math:`C_{ij} = |a_i - a_j|^p`, pixels being one unit apart. A plan moves mass within a
    window about each pixel and not from channel to channel; all channels share the cost. Masses are
    intensities as they are.

    The plan is :math:`\Pi_{ij} = \exp((\varphi_i + \psi_j - \lambda C_{ij}) / \varepsilon_{\mathrm
    S})`, and the dual is ascended block by block: :math:`\varphi` such that rows sum to x;
    :math:`\psi_j = w_j - x'_j` with

    .. math:: x'_j = \varepsilon_{\mathrm S} W\Bigl(\frac{1}{\varepsilon_{\mathrm S}}
       e^{w_j / \varepsilon_{\mathrm S}}
       \sum_i e^{(\varphi_i - \lambda C_{ij}) / \varepsilon_{\mathrm S}}\Bigr),

    W Lambert's function, or less where columns would sum to more than 1; and a Newton step for
    :math:`\lambda \ge 0`, with which the cost falls.

    Parameters
    ----------
    w : tensor, (B, C, H, W)
        Of any values, float32 or float64. A constant added to a channel changes nothing, as masses
        hold.
    x : tensor of the same shape
        Images in [0, 1].
    epsilon : float or tensor (B,)
        Radius, non-negative: of p = 2 that of :func:`wasserstein_attack`, in pixels where a mass of
        1 is moved; of p = 1 in masses times pixels.
    window : int
        Side of the window, odd, in pixels; what lies beyond the image takes no time.
    p : float
        At least 1.
    regularization : float
        At least 0.002, in intensities. Where it is small, more iterations are needed. That of an
        image is (1 + d) / 500 if this is more, d the largest deviation of w - x from its mean over
        a channel's pixels that mass can reach, in an attack from 0: float64 then holds the
        exponents.
    iterations : int

    Returns
    -------
    tensor, (B, C, H, W)
        Images in [0, 1] whose cost is at most :math:`\epsilon^p`, to rounding: the last plan is
        mixed with that which moves nothing. Masses hold but for what is cut off above 1, which
        goes to 0 with the iterations.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.attacks import project_to_wasserstein_ball
    >>> w, x = torch.tensor([[[[0.2, 0.6]]]]), torch.tensor([[[[0.5, 0.3]]]])
    >>> project_to_wasserstein_ball(w, x, 0.4, regularization=0.002)  # 0.16 moves by a pixel
    tensor([[[[0.3400, 0.4600]]]])

    References
    ----------
    Wong, Schmidt and Kolter (2019), who divide x by its mass and cut off at 1 after the projection.
    """
    checks.projected(w, x)
    checks.graph_dtype(x.dtype, "x")
    projection = _Projection(x, epsilon, window, p, regularization)
    return projection(
        projection.centred(w.detach().double()), checks.repeats(iterations, "iterations")
    )


def projected_sinkhorn_attack(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    epsilon: float | Tensor,
    *,
    window: int = 5,
    p: float = 2,
    step: float = 0.2,
    steps: int = 20,
    regularization: float = 0.01,
    iterations: int = 10,
) -> Tensor:
    r"""Projected gradient ascent in the ball of the transport distance.

    .. math:: x_{k+1} = \Pi_{\epsilon}\bigl(x_k + \alpha \operatorname{sign} g(x_k)\bigr),
       \quad x_0 = x

    with :math:`\Pi_{\epsilon}` as in :func:`project_to_wasserstein_ball`, begun from the last
    step's dual variables, and g as in :func:`input_gradient`.

    Parameters
    ----------
    model, x, y
        As in :func:`fgsm`.
    epsilon, window, p, regularization
        As in :func:`project_to_wasserstein_ball`.
    step : float
        :math:`\alpha`, positive, in intensities.
    steps : int
    iterations : int
        Of each projection.

    Returns
    -------
    tensor, (B, C, H, W)
        Adversarial images in the ball, detached.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.attacks import projected_sinkhorn_attack
    >>> left_is_one = lambda x: torch.stack([x[:, 0, 0, 1], x[:, 0, 0, 0]], 1)
    >>> x, y = torch.tensor([[[[0.5, 0.3]]]]), torch.tensor([1])
    >>> projected_sinkhorn_attack(left_is_one, x, y, 0.4)
    tensor([[[[0.3400, 0.4600]]]])

    References
    ----------
    Wong, Schmidt and Kolter (2019).
    """
    checks.attacked(x, y)
    step = checks.number(step, "step", positive=True)
    checks.length(step, "step", x.dtype)
    steps, iterations = checks.repeats(steps, "steps"), checks.repeats(iterations, "iterations")
    projection = _Projection(x, epsilon, window, p, regularization)
    found = x.detach()
    for _ in range(steps):
        gradient = input_gradient(model, found, y)
        found = projection(found + step * gradient.sign(), iterations)
    return found


class _Projection:
    """The projections to the balls about images, each begun from the dual of the one before."""

    def __init__(
        self, x: Tensor, epsilon: float | Tensor, window: int, p: float, regularization: float
    ):
        window, p = checks.window(window), checks.order(p)
        self.dtype, self.x = x.dtype, x.detach().double()
        self.regularization = torch.full_like(self.x[:, :1, :1, :1], checks.sharp(regularization))
        radius = checks.radii(epsilon, x).double()
        half = min(window // 2, max(x.shape[-2:]) - 1)
        self.cost, self.allowed = _costs(radius, half, p)
        self.reached = F.max_pool2d(self.x, 2 * half + 1, 1, half) > 0
        self.v, self.rate = torch.ones_like(self.x), (radius**p).clamp_max(_DEAREST)
        self.steepest = _STEEPEST * self.rate

    @torch.no_grad()
    def __call__(self, w: Tensor, iterations: int) -> Tensor:
        w = w.double()
        self._soften((w - self.x).abs().amax((1, 2, 3), keepdim=True))
        for _ in range(iterations):
            u, cost, slope = self._rows()
            self._steepen(cost, slope)
            self.v = self._columns(w, *self._sums(u))
        return self._moved(*self._admitted()).to(self.dtype)

    def centred(self, w: Tensor) -> Tensor:
        """w up to a constant in each channel, with the mass of x where mass can come to; x where it
        cannot, and where no value of w matters.
        """
        change = (w - self.x).where(self.reached, 0)
        mean = change.mean((2, 3), keepdim=True) / self.reached.double().mean((2, 3), keepdim=True)
        return self.x + (change - mean).where(self.reached, 0)

    def _soften(self, deviation: Tensor) -> None:
        """A regularization with which w - x' is within the exponents, of the same dual."""
        before = self.regularization
        self.regularization = torch.maximum(before, (1 + deviation) / _STEEPEST)
        ratio = before / self.regularization
        self.v, self.rate = self.v**ratio, self.rate * ratio.flatten()

    def _admitted(self) -> tuple[Tensor, Tensor]:
        """u and v of the plan, v lowered until no pixel gets more than what it has room for: mass
        that is not let in stays where it is.
        """
        (u, *_), v = self._rows(), self.v
        offered = self._sums(u)[0] - u
        for _ in range(_ROUNDS):
            room = 1 - self.x + u * (self._sums(v)[0] - v)
            v = torch.minimum(v, (room / offered).where(offered > 0, torch.inf))
        return u, v

    def _moved(self, u: Tensor, v: Tensor) -> Tensor:
        """x after the moves of a plan, or so large a share of them as the limit allows."""
        sums, costs = self._sums(v, powers=2)
        change = v * (self._sums(u)[0] - u) - u * (sums - v)
        cost = (u * costs).sum((1, 2, 3))
        return (self.x + change / spread(cost.clamp_min(1))).clamp(0, 1)

    def _rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """u, with which the plan's rows sum to x; the cost, and how fast it falls."""
        sums, costs, squares = self._sums(self.v, powers=3)
        u = self.x / sums
        return u, (u * costs).sum((1, 2, 3)), (u * squares).sum((1, 2, 3))

    def _steepen(self, cost: Tensor, slope: Tensor) -> None:
        """A Newton step of lambda / regularization towards log(cost) = 0."""
        step = (cost.log() * cost / slope).where(slope > 0, 0)
        self.rate = (self.rate + step).clamp_min(0).minimum(self.steepest)

    def _columns(self, w: Tensor, s: Tensor) -> Tensor:
        """v, with which the plan's columns sum to w - eps log(v), or to 1 if that is more."""
        eps = self.regularization
        image = eps * lambert_of_exp(w / eps + (s / eps).log())
        return torch.minimum(((w - image) / eps).clamp(-_STEEPEST, _STEEPEST).exp(), 1 / s)

    def _sums(self, v: Tensor, powers: int = 1) -> tuple[Tensor, ...]:
        """The sums of v over each pixel's window with weights K, K cost, K cost^2, so many."""
        decay = torch.exp(-self.rate[:, None, None] * self.cost) * self.allowed
        kernel = torch.stack([decay * self.cost**power for power in range(powers)], 1)
        kernel = kernel.repeat_interleave(v.shape[1], 0).flatten(0, 1)[:, None]
        flat = v.reshape(1, -1, *v.shape[-2:])
        sums = F.conv2d(flat, kernel, padding=kernel.shape[-1] // 2, groups=flat.shape[1])
        return sums.view(*v.shape[:2], powers, *v.shape[-2:]).unbind(2)


def _costs(radius: Tensor, half: int, p: float) -> tuple[Tensor, Tensor]:
    """Of moves by up to half a window, (B, window, window), in units of each image's limit; and
    which are allowed: of those that cost too much not even rounding errors are moved.
    """
    offset = torch.arange(-half, half + 1, device=radius.device, dtype=radius.dtype)
    distance = (offset**2 + offset[:, None] ** 2).sqrt()
    cost = (distance / radius[:, None, None].clamp_min(torch.finfo(radius.dtype).tiny)) ** p
    allowed = cost < _DEAREST
    return cost.where(allowed, 0), allowed


def lambert_of_exp(value: Tensor) -> Tensor:
    """Lambert's function of the exponential, the y > 0 with y + log(y) = value, which is cut off at
    -700. By Newton's steps from below, in float64.
    """
    value = value.clamp_min(-700)
    low, high = value.clamp_max(1), value.clamp_min(1)
    y = torch.where(value > 1, high - high.log(), (low - low.exp()).exp())
    for _ in range(_NEWTON):
        y = y * (1 + value - y.log()) / (1 + y)
    return y

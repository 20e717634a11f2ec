"""Steepest ascent in the Wasserstein metric."""

import torch
from torch import Tensor

from wdtr_lite import checks
from wdtr_lite.attacks.gradient import input_gradient, scaled, spread
from wdtr_lite.graph import PixelGraph
from wdtr_lite.metric import Source, operators, tangent_norm_sq
from wdtr_lite.metric.source import checked
from wdtr_lite.models import Classifier

_BISECTIONS = 50  # of a bracket of at most 2: to float64 rounding


def wasserstein_attack(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    graph: PixelGraph,
    epsilon: float | Tensor,
    *,
    steps: int = 1,
    unit: str | None = "pixel",
    floor: float = 1 / 255,
    source: Source | None = None,
) -> Tensor:
    r"""Steepest ascent within a ball of the Wasserstein metric: mass is moved, no channel gains or
    loses any.

    With the metric :math:`G_W(\tilde x) = L(\tilde x)^{+}` at :math:`\tilde x = \max(x,
    \text{floor})`, a change is limited by

    .. math:: \xi^\top L(\tilde x)^{+}\, \xi \le \epsilon^2, \qquad 0 \le x + \xi \le 1, \qquad
       \textstyle\sum_i \xi_i = 0 \text{ in each channel.}

    Without a source a black or a white channel stays as it is.

    To first order the loss rises most along :math:`v = L(\tilde x)\, g / \sqrt{g^\top L(\tilde x)\,
    g}`, a vector of length 1; for a linear loss and an interior image :math:`\xi = \epsilon v`
    solves the problem. After each step, of length ε, or :math:`2.5\, \epsilon / \text{steps}` if
    there are several, ξ is projected (in L2) to the box and the masses, then shrunk to the ball.
    The metric is that at :math:`\tilde x` in all steps: a quadratic form in place of the transport
    distance, right for small changes.

    Parameters
    ----------
    model, x, y
        As in :func:`fgsm`. x has the device and type of the graph.
    graph : PixelGraph
    epsilon : float or tensor (B,)
        Radius, non-negative, in the metric's length. With ``unit="pixel"``, moving a blob of mass m
        by one pixel measures about :math:`\sqrt{m}`.
    steps : int
    unit : {None, "pixel"}
        As in :func:`~wdtr_lite.metric.tangent_norm_sq`.
    floor : float
        Positive, at most 1. At x itself no mass can reach a black pixel without lit neighbours; the
        floor links all pixels. It is in the metric only, not in the image. For one below 1e-3 give
        x and graph in float64.
    source : Source, optional
        Of mass: the ball is that of the metric whose inverse is :math:`L(\tilde x) + \alpha P`, and
        channels may gain or lose mass.

    Returns
    -------
    tensor, (B, C, H, W)
        Adversarial images, detached. Masses hold to rounding, the length in float32 to 1e-4, with a
        floor below 1e-3 to 1e-2 only. Not to be captured in a CUDA graph: the length is found by
        conjugate gradients.

    Raises
    ------
    RuntimeError
        If the floor is so small that the length cannot be found.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph
    >>> from wdtr_lite.attacks import wasserstein_attack
    >>> left_is_one = lambda x: torch.stack([x[:, 0, 0, 1], x[:, 0, 0, 0]], 1)
    >>> x, y = torch.tensor([[[[0.5, 0.4]]]]), torch.tensor([1])
    >>> wasserstein_attack(left_is_one, x, y, PixelGraph(1, 2, 1), 0.2)
    tensor([[[[0.3658, 0.5342]]]])

    References
    ----------
    Section 3 of Lin et al. (2019); Wong, Schmidt and Kolter (2019) for the ball of the transport
    distance.
    """
    checks.image(graph, x)
    checks.attacked(x, y)
    steps, radius = checks.repeats(steps, "steps"), checks.radii(epsilon, x)
    floor, source = checks.floor(floor, x.dtype), checked(source)
    factor = operators.squared_unit(graph, unit)
    x = x.detach()
    at = x.clamp_min(floor)
    length = spread(radius * (1 if steps == 1 else 2.5 / steps))
    xi = torch.zeros_like(x)
    for _ in range(steps):
        gradient = input_gradient(model, (x + xi).clamp(0, 1), y)
        with torch.no_grad():
            gradient = scaled(gradient)
            norm = spread((operators.grad_norm_sq(graph, at, gradient, source) * factor).sqrt())
            raised = operators.product(graph, at, gradient, source) * factor
            xi = xi + length * torch.where(norm > 0, raised / norm.where(norm > 0, 1), 0)
            xi = (x + xi).clamp(0, 1) - x if source else to_box(x, xi)
            size = _length(graph, at, xi, unit, floor, source)
            xi = xi * spread(torch.where(size > radius, radius / size.where(size > 0, 1), 1))
    return (x + xi).clamp(0, 1)


def _length(
    graph: PixelGraph,
    at: Tensor,
    xi: Tensor,
    unit: str | None,
    floor: float,
    source: Source | None,
) -> Tensor:
    try:
        return tangent_norm_sq(graph, at, xi, source=source, unit=unit).sqrt()
    except RuntimeError as error:
        if type(error) is not RuntimeError:  # but out of memory
            raise
        raise RuntimeError(
            f"floor={floor:g} is too small{', or the source too weak,' if source else ''} to "
            f"measure lengths in {xi.dtype}: take a larger one"
            + (", or x and graph in float64" if xi.dtype == torch.float32 else "")
        ) from error


def to_box(x: Tensor, xi: Tensor) -> Tensor:
    """The change nearest to xi (in L2) with 0 <= x + xi <= 1 and sum zero in each channel:
    clip(xi - tau, -x, 1 - x).
    """
    xi, low, high = xi.double(), -x.double(), 1 - x.double()
    below, above = xi.amin((-2, -1), keepdim=True), xi.amax((-2, -1), keepdim=True)
    for _ in range(_BISECTIONS):
        tau = (below + above) / 2
        positive = (xi - tau).clamp(low, high).sum((-2, -1), keepdim=True) > 0
        below, above = torch.where(positive, tau, below), torch.where(positive, above, tau)
    return _balanced((xi - (below + above) / 2).clamp(low, high)).to(x.dtype)


def _balanced(xi: Tensor) -> Tensor:
    """Changes that add and take away one mass in each channel, the smaller of the two: of a black
    or a white channel, where one of them is rounding, none.
    """
    more, less = xi.clamp_min(0), -xi.clamp_max(0)
    gain, loss = (part.sum((-2, -1), keepdim=True) for part in (more, less))
    mass = torch.minimum(gain, loss)
    return more * (mass / gain.where(gain > 0, 1)) - less * (mass / loss.where(loss > 0, 1))

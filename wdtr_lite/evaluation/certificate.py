r"""How far an image may be moved in the Wasserstein metric before its label can change: radii from
gradient and curvature, and the attack that they are held against.

The ball is that of :func:`~wdtr_lite.attacks.wasserstein_attack` at its defaults, :math:`\xi^\top
M^{+} \xi \le \epsilon^2` with :math:`M = L(\tilde x)`, :math:`\tilde x = \max(x, 1/255)`, in
pixels. It is flat: M is that of its centre everywhere, and curvature is that of the ordinary
Hessian.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wdtr_lite import checks
from wdtr_lite.attacks import input_gradient, wasserstein_attack
from wdtr_lite.calculus.derivatives import differentiate
from wdtr_lite.evaluation.curvature import FLOOR, Ball, outermost, power_of_two
from wdtr_lite.graph import PixelGraph
from wdtr_lite.models import Classifier
from wdtr_lite.models.modes import evaluating


class RobustRadius(NamedTuple):
    """What a radius is made of, of the rival class that allows the smallest; (B,) each."""

    margin: Tensor
    """The rival's logit less that of the label: negative where the image is not taken for it."""
    slope: Tensor
    """The norm of the margin's gradient in the metric."""
    curvature: Tensor
    radius: Tensor
    """0 where the image is misclassified."""
    rival: Tensor
    """int64."""


class SmallestAttack(NamedTuple):
    """The least length of the attacks that succeeded."""

    epsilon: Tensor
    """(B,), 0 where the image is misclassified as it is, infinite where none succeeded."""
    images: Tensor
    """(B, C, H, W), those of the last success, else x."""


class SoftplusBounds(NamedTuple):
    """What slope and curvature of no margin exceed at any input, (B,) each."""

    slope: Tensor
    curvature: Tensor


def robust_radius(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    graph: PixelGraph,
    *,
    curvature: float | Tensor | None = None,
    iterations: int = 20,
) -> RobustRadius:
    r"""The length below which no change makes an image misclassified, if its margins curve no more
    than is assumed.

    An image is misclassified only if a rival's margin :math:`m_j = z_j - z_y` is not negative, z
    the logits. With the slope :math:`a = \sqrt{g^\top M g}`, :math:`g = \nabla m_j`, and C at least
    the largest eigenvalue of :math:`M^{1/2} \nabla^2 m_j M^{1/2}` on the way, Taylor's formula has

    .. math:: m_j(x + \xi) \le m_j(x) + a \epsilon + \tfrac12 C \epsilon^2, \qquad
       r_j = \frac{-a + \sqrt{a^2 + 2 C |m_j|}}{C} = \frac{2 |m_j|}{a + \sqrt{a^2 + 2 C |m_j|}}

    and the radius is the smallest :math:`r_j`. What it is depends on C:

    - a number that no curvature exceeds in the ball of that radius: a **certificate**
      (:func:`softplus_bounds` has one for small networks; of an affine model it is 0, and the
      radius exact but for the box);
    - by default the image's own, from :func:`~wdtr_lite.evaluation.curvatures`: **no
      certificate**, for the curvature may be larger elsewhere in the ball;
    - 0: the first-order radius :math:`|m_j| / a`, an **estimate**, too large where the margin
      curves upwards.

    Parameters
    ----------
    model : function of images -> logits (B, K), or an object that has them as ``.logits``
        Twice differentiable, by softplus say: a ReLU's curvature is 0 where it is one. In
        evaluation mode meanwhile.
    x : tensor, (B, C, H, W)
        Images in [0, 1], of the graph's device and type.
    y : tensor, (B,)
        int64 labels.
    graph : PixelGraph
    curvature : float or tensor (B,), optional
        C, non-negative, of all rivals alike. By default that of each rival at x.
    iterations : int
        Of :func:`~wdtr_lite.evaluation.curvatures`.

    Returns
    -------
    RobustRadius
        In the unit of the attack's epsilon: moving a blob of mass m by one pixel measures about
        :math:`\sqrt m`.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph
    >>> from wdtr_lite.evaluation import robust_radius, smallest_attack
    >>> left_is_one = lambda x: torch.stack([x[:, 0, 0, 1], x[:, 0, 0, 0]], 1)
    >>> x, y, graph = torch.tensor([[[[0.6, 0.4]]]]), torch.tensor([1]), PixelGraph(1, 2, 1)
    >>> round(float(robust_radius(left_is_one, x, y, graph).radius), 3)
    0.141
    >>> round(float(smallest_attack(left_is_one, x, y, graph, tries=20).epsilon), 3)
    0.141

    References
    ----------
    Finlay and Oberman (2019), whose bound is for the Euclidean norm; Hein and Andriushchenko (2017)
    for the smallest over the rivals.
    """
    _check(model, x, y, graph)
    iterations = checks.repeats(iterations, "iterations")
    given = None if curvature is None else _curvature(curvature, x, y)
    ball = Ball(graph, x)
    with evaluating(model):
        input_gradient(model, x, y)  # refuses a model that autograd does not see through
        classes = _logits(model, x, y).shape[1]
        found = [
            _against(Margin(model, y, (y + k) % classes), x, ball, given, iterations)
            for k in range(1, classes)
        ]
    each = [torch.stack(values) for values in zip(*found, strict=True)]
    nearest = each[3].argmin(0, keepdim=True)
    return RobustRadius(*(values.gather(0, nearest)[0] for values in each))


def smallest_attack(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    graph: PixelGraph,
    *,
    steps: int = 10,
    tries: int = 12,
) -> SmallestAttack:
    """The least length at which :func:`~wdtr_lite.attacks.wasserstein_attack` makes each image
    misclassified: an upper bound of its robust radius.

    The first try has length 1. After a failure the length doubles, until there is a success; then
    the gap between the longest failure since and the least success is halved. A success proves that
    the radius is no larger; a failure proves nothing, and an attack that fails at one length may
    succeed at a smaller one that was not tried. Lengths stay in the range of the attack's.

    Parameters
    ----------
    model, x, y, graph
        As in :func:`robust_radius`.
    steps : int
        Of each attack.
    tries : int

    Returns
    -------
    SmallestAttack
    """
    _check(model, x, y, graph)
    steps, tries = checks.repeats(steps, "steps"), checks.repeats(tries, "tries")
    images = x.detach().clone()
    with evaluating(model):
        wrong = _logits(model, images, y).argmax(1) != y
        least = torch.where(wrong, 0.0, torch.inf).to(x)
        failed, epsilon = torch.zeros_like(least), torch.where(wrong, 0.0, 1.0).to(x)
        for _ in range(tries):
            tried = epsilon
            found = wasserstein_attack(model, x, y, graph, epsilon, steps=steps, floor=FLOOR)
            wrong = _logits(model, found, y).argmax(1) != y
            images[wrong] = found[wrong]
            least, failed = least.where(~wrong, epsilon), failed.where(wrong, epsilon)
            epsilon = _tried(torch.where(least.isinf(), 2 * epsilon, (failed + least) / 2))
            if torch.equal(epsilon, tried):
                break
    return SmallestAttack(least, images)


def _tried(epsilon: Tensor) -> Tensor:
    """The lengths within what :func:`~wdtr_lite.attacks.wasserstein_attack` takes, or 0."""
    least, most = checks.lengths(epsilon.dtype)
    return epsilon.clamp(least, most / 2).where(epsilon > 0, 0)


def softplus_bounds(
    weights: Sequence[Tensor], x: Tensor, y: Tensor, graph: PixelGraph
) -> SoftplusBounds:
    r"""Slope and curvature that no margin of a chain of affine layers :math:`W_k` with softplus
    between them exceeds, at any input, in the metric of each image.

    Softplus has slopes in (0, 1) and second derivatives in (0, 1/4]. Of the layers' values
    :math:`h_1 = W_1 x + b_1`, :math:`h_k = W_k \operatorname{softplus}(h_{k-1}) + b_k`, the first
    and second derivatives along a change of length 1 are at most

    .. math:: S_1 = \|W_1 M^{1/2}\|, \quad S_k = \|W_k\| S_{k-1}, \qquad
       K_1 = 0, \quad K_k = \tfrac14 \|W_k\|_{1 \to 2}\, S_{k-1}^2 + \|W_k\| K_{k-1}

    with the largest length of a column :math:`\|W\|_{1 \to 2}`. For a margin the last layer is the
    row :math:`w = W_{j} - W_{y}`, and :math:`\max_i (w_i)_+` stands for its columns. With one
    hidden layer, all w equal and positive, the curvature is attained where :math:`h_1 = 0`; with
    each layer more the product of norms leaves more to spare. Norms are those of whole matrices,
    exact to rounding.

    Parameters
    ----------
    weights : sequence of tensors (n_k, n_{k-1})
        At least two, the last (K, n). The first is of the pixels, in intensities; convolutions as
        matrices. Of the type of x.
    x, y, graph
        As in :func:`robust_radius`, which takes the curvature.

    Returns
    -------
    SoftplusBounds
        The largest over the rivals, computed in float64; none rounded to 0.

    References
    ----------
    Szegedy et al. (2014) for the product of norms.
    """
    checks.image(graph, x)
    checks.batch(x)
    checks.some_pixels(x)
    checks.labels(y, x)
    first, *middle, last = _chained(weights, x)
    checks.classes(y, len(last))

    slope = _norms(first, x.double(), graph.converted(dtype=torch.float64))
    curvature = torch.zeros_like(slope)
    for weight in middle:
        norm, column = torch.linalg.matrix_norm(weight, 2), weight.norm(dim=0).max()
        slope, curvature = norm * slope, column / 4 * slope**2 + norm * curvature
        _moderate(slope, "weights must have a product of norms that is", 1e100)
    rows = last - last[y][:, None]
    norm, above = rows.norm(dim=-1).T, rows.amax(-1).clamp_min(0).T
    curvature = above / 4 * slope**2 + norm * curvature
    bounds = (_upwards(bound.amax(0), x) for bound in (norm * slope, curvature))
    return SoftplusBounds(*(checks.in_range(v, "softplus_bounds", "weights") for v in bounds))


def _upwards(bound: Tensor, x: Tensor) -> Tensor:
    """Like x, but not 0 where it is not."""
    least = torch.finfo(x.dtype).tiny
    return bound.to(x).clamp_min(least).where(bound.to(x.device) > 0, 0)


def _moderate(sizes: Tensor, what: str, most: float) -> None:
    """Sizes of whose products none leaves the range of float64."""
    outside = (sizes > most) | ((sizes > 0) & (sizes < 1 / most))
    if outside.any():
        got = f"{float(sizes[outside][0]):g}"
        raise ValueError(f"{what} 0 or from {1 / most:g} to {most:g}, got {got}")


def _norms(weight: Tensor, x: Tensor, graph: PixelGraph) -> Tensor:
    r"""The norm of :math:`W M^{1/2}` of each image, the root of the largest eigenvalue of
    :math:`R M R^\top`: by W = QR it has at most as many rows as there are pixels.
    """
    rows = torch.linalg.qr(weight, mode="r").R
    potentials = rows.view(-1, *x.shape[1:])
    products = [Ball(graph, image).raised(potentials).flatten(1) @ rows.T for image in x.split(1)]
    return torch.linalg.eigvalsh(torch.stack(products))[:, -1].clamp_min(0).sqrt()


# ---------------------------------------------------------------- margins


class Margin:
    """The logit of a rival less that of the label."""

    def __init__(self, model: Classifier, y: Tensor, rival: Tensor):
        self.model, self.y, self.rival = model, y, rival

    def __call__(self, x: Tensor) -> Tensor:
        logits = _logits(self.model, x, self.y)
        rival, own = (logits.gather(1, k[:, None])[:, 0] for k in (self.rival, self.y))
        return rival - own


def _logits(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    logits = checks.logits(checks.called(model, x), x)
    checks.rivals(logits)
    checks.of_model(y, logits)
    return logits


def _against(
    margin: Margin, x: Tensor, ball: Ball, curvature: Tensor | None, iterations: int
) -> RobustRadius:
    leaf, grad = differentiate(margin, x.detach(), create_graph=curvature is None, name="model")
    slope = ball.norm(grad.detach())
    if curvature is None:
        curvature = outermost(leaf, grad, ball, iterations, "model").highest
    with torch.no_grad():
        value = margin(x)
    checks.computed(value, slope, curvature)
    return RobustRadius(value, slope, curvature, radius_of(value, slope, curvature), margin.rival)


def radius_of(margin: Tensor, slope: Tensor, curvature: Tensor) -> Tensor:
    """The radius of one rival, as :func:`robust_radius` has it, (B,)."""
    short = (-margin).clamp_min(0)
    size = power_of_two(torch.maximum(slope, curvature.sqrt() * short.sqrt()))
    short, slope, curvature = (v / size for v in (short, slope, curvature))  # against underflow
    radius = 2 * short / (slope + (slope**2 + 2 * curvature * short).sqrt())
    return radius.where(short > 0, torch.zeros_like(radius))


# ---------------------------------------------------------------- arguments


def _check(model: Classifier, x: Tensor, y: Tensor, graph: PixelGraph) -> None:
    checks.function(model, "model")
    checks.image(graph, x)
    checks.attacked(x, y)
    checks.labels(y, x)


def _curvature(curvature: float | Tensor, x: Tensor, y: Tensor) -> Tensor:
    if not isinstance(curvature, Tensor):
        number = checks.number(curvature, "curvature")
        curvature = torch.full(y.shape, number, device=x.device, dtype=torch.float64)
    checks.floating(curvature, "curvature")
    checks.valued(curvature, "curvature")
    checks.like(curvature, y, "curvature", "y")
    checks.nonnegative(curvature, "curvature")
    most = torch.finfo(x.dtype).max
    if bool((curvature.double() > most).any()):
        got = f"{float(curvature.detach().max()):g}"
        raise ValueError(f"curvature must be at most {most:.2g} in {x.dtype}, got {got}")
    return _upwards(curvature.detach(), x)


def _chained(weights: Sequence[Tensor], x: Tensor) -> Sequence[Tensor]:
    """At least two finite matrices like x, each of as many columns as the one before has rows;
    returned in float64.
    """
    checks.every(checks.some(weights, "weights"), "weights", Tensor)
    if len(weights) < 2:
        raise ValueError(f"weights must be of at least two layers, got {len(weights)}")
    columns = x[0].numel()
    for k, weight in enumerate(weights):
        name = f"weights[{k}]"
        checks.valued(weight, name)
        if weight.dtype != x.dtype:
            raise TypeError(f"{name} is {weight.dtype} but x is {x.dtype}")
        if weight.dim() != 2 or weight.shape[1] != columns or not len(weight):
            raise ValueError(f"{name} must be (n, {columns}), got {tuple(weight.shape)}")
        checks.bounded(weight, name)
        _moderate(
            weight.detach().abs().max().double(), f"{name} must have a largest entry that is", 1e40
        )
        columns = len(weight)
    return [weight.detach().double() for weight in weights]

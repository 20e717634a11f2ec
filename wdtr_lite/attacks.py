r"""Adversarial images: what a change within a ball does to a classifier at worst, nearly.

All attacks ascend the summed cross-entropy :math:`\sum_i \ell(f(x_i), y_i)` in the images, so that
each image is attacked on its own where the model does not couple images. The model maps images (B,
C, H, W) in [0, 1] to logits (B, K); it is used in the mode it is in: put it in evaluation mode
before. Its parameters and their ``.grad`` are left as they are.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from wdtr_lite import checks
from wdtr_lite.graph import PixelGraph
from wdtr_lite.metric import operators, tangent_norm_sq

__all__ = ["ascend", "fgsm", "ifgsm", "input_gradient", "pgd", "wasserstein_attack"]

Classifier = Callable[[Tensor], Tensor]

_BISECTIONS = 50  # of a bracket of at most 2: to float64 rounding


def fgsm(model: Classifier, x: Tensor, y: Tensor, epsilon: float, *, norm: str = "linf") -> Tensor:
    r"""The fast gradient (sign) method: one step of length epsilon, clipped to [0, 1].

    .. math:: x' = x + \epsilon \operatorname{sign}(g) \quad\text{or}\quad x' = x + \epsilon\, g / \|g\|_2,
       \qquad g = \nabla_x \ell(f(x), y)

    Parameters
    ----------
    model : function of images -> logits (B, K)
    x : tensor, (B, C, H, W)
        Images in [0, 1].
    y : tensor, (B,)
        int64 labels.
    epsilon : float
        Radius of the ball about each image, in intensities.
    norm : {"linf", "l2"}
        Of the ball: the largest pixel, or the Euclidean length over pixels and channels.

    Returns
    -------
    tensor, (B, C, H, W)
        Adversarial images, detached. Where the gradient is zero, x.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.attacks import fgsm
    >>> brighter_is_one = lambda x: torch.stack([0 * x.sum((1, 2, 3)), x.sum((1, 2, 3))], 1)
    >>> fgsm(brighter_is_one, torch.tensor([[[[0.5, 0.05]]]]), torch.tensor([1]), 0.1)
    tensor([[[[0.4000, 0.0000]]]])

    References
    ----------
    Goodfellow, Shlens and Szegedy (2015).
    """
    _check(x, y, epsilon, norm)
    return ascend(model, x, y, x.detach(), epsilon, epsilon, 1, norm)


def ifgsm(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    *,
    alpha: float,
    steps: int,
    norm: str = "linf",
) -> Tensor:
    r"""The iterative fast gradient (sign) method: steps of length alpha, each projected to the ball
    about x, then to [0, 1].

    .. math:: x_{k+1} = \Pi_{[0,1]}\, \Pi_{\epsilon}\bigl(x_k + \alpha \operatorname{sign} \nabla_x \ell(f(x_k), y)\bigr),
       \quad x_0 = x

    and likewise with :math:`g / \|g\|_2`. The paper's I-FGSM-20 is epsilon = 8/255, alpha = 2/255,
    steps = 20.

    Parameters
    ----------
    model, x, y, epsilon, norm
        As in :func:`fgsm`.
    alpha : float
        Length of a step in `norm`, positive.
    steps : int

    Returns
    -------
    tensor, (B, C, H, W)
        Adversarial images, detached.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.attacks import ifgsm
    >>> brighter_is_one = lambda x: torch.stack([0 * x.sum((1, 2, 3)), x.sum((1, 2, 3))], 1)
    >>> ifgsm(brighter_is_one, torch.tensor([[[[0.5, 0.05]]]]), torch.tensor([1]), 0.1, alpha=0.04, steps=2)
    tensor([[[[0.4200, 0.0000]]]])

    References
    ----------
    Kurakin, Goodfellow and Bengio (2017).
    """
    _check(x, y, epsilon, norm, alpha, steps)
    return ascend(model, x, y, x.detach(), epsilon, alpha, steps, norm)


def pgd(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    *,
    alpha: float,
    steps: int,
    norm: str = "linf",
    restarts: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient ascent: :func:`ifgsm` from a random point of the ball.

    Parameters
    ----------
    model, x, y, epsilon, alpha, steps, norm
        As in :func:`ifgsm`.
    restarts : int
        Runs from different points, with the images that no run before it had misclassified. Of each
        image the misclassified result is kept or, without one, that of the largest loss.
    generator : torch.Generator, optional
        On the device of x. Starts are uniform in the ball, then clipped to [0, 1]; without a
        generator the start is x.

    Returns
    -------
    tensor, (B, C, H, W)
        Adversarial images, detached.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.attacks import pgd
    >>> brighter_is_one = lambda x: torch.stack([0 * x.sum((1, 2, 3)), x.sum((1, 2, 3))], 1)
    >>> x, y = torch.tensor([[[[0.5, 0.05]]]]), torch.tensor([1])
    >>> pgd(brighter_is_one, x, y, 0.1, alpha=0.1, steps=2, restarts=3, generator=torch.Generator().manual_seed(0))
    tensor([[[[0.4000, 0.0000]]]])

    References
    ----------
    Madry, Makelov, Schmidt, Tsipras and Vladu (2018).
    """
    _check(x, y, epsilon, norm, alpha, steps)
    checks.whole(restarts, "restarts")
    if generator is None:
        if restarts != 1:
            raise ValueError(
                f"restarts must be 1 without a generator, got {restarts}: all runs would be the same"
            )
        return ascend(model, x, y, x.detach(), epsilon, alpha, steps, norm)
    checks.generator(generator, x)
    found = ascend(model, x, y, _start(x, epsilon, norm, generator), epsilon, alpha, steps, norm)
    if restarts == 1:
        return found
    wrong, loss = _outcome(model, found, y)
    for _ in range(restarts - 1):
        start = _start(x, epsilon, norm, generator)
        left = (~wrong).nonzero().squeeze(1)
        if not len(left):
            break
        again = ascend(model, x[left], y[left], start[left], epsilon, alpha, steps, norm)
        again_wrong, again_loss = _outcome(model, again, y[left])
        better = again_wrong | (again_loss > loss[left])
        kept = left[better]
        found[kept], wrong[kept], loss[kept] = (
            again[better],
            again_wrong[better],
            again_loss[better],
        )
    return found


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
) -> Tensor:
    r"""Steepest ascent within a ball of the Wasserstein metric: mass is moved, no channel gains or
    loses any.

    With the metric :math:`G_W(\tilde x) = L(\tilde x)^{+}` at :math:`\tilde x = \max(x,
    \text{floor})`, a change is limited by

    .. math:: \xi^\top L(\tilde x)^{+}\, \xi \le \epsilon^2, \qquad 0 \le x + \xi \le 1, \qquad \textstyle\sum_i \xi_i = 0
       \text{ in each channel.}

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
        Positive. At x itself no mass can reach a black pixel without lit neighbours; the floor
        links all pixels. It is in the metric only, not in the image.

    Returns
    -------
    tensor, (B, C, H, W)
        Adversarial images, detached. Masses hold to rounding, the length in float32 to 1e-4. Not to
        be captured in a CUDA graph: the length is found by conjugate gradients.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph
    >>> from wdtr_lite.attacks import wasserstein_attack
    >>> left_is_one = lambda x: torch.stack([x[:, 0, 0, 1], x[:, 0, 0, 0]], 1)
    >>> wasserstein_attack(left_is_one, torch.tensor([[[[0.5, 0.4]]]]), torch.tensor([1]), PixelGraph(1, 2, 1), 0.2)
    tensor([[[[0.3658, 0.5342]]]])

    References
    ----------
    Section 3 of Lin et al. (2019); Wong, Schmidt and Kolter (2019) for the ball of the transport
    distance.
    """
    checks.image(graph, x)
    _check(x, y, steps=steps)
    _check_radius(epsilon, x)
    checks.number(floor, "floor", positive=True)
    factor = operators.squared_unit(graph, unit)
    x = x.detach()
    at = x.clamp_min(floor)
    radius = torch.as_tensor(epsilon, device=x.device, dtype=x.dtype).detach().expand(len(x))
    length = _spread(radius * (1 if steps == 1 else 2.5 / steps))
    xi = torch.zeros_like(x)
    for _ in range(steps):
        gradient = input_gradient(model, (x + xi).clamp(0, 1), y)
        with torch.no_grad():
            gradient = _scaled(gradient)
            norm = _spread((operators.grad_norm_sq(graph, at, gradient) * factor).sqrt())
            step = torch.where(
                norm > 0,
                operators.product(graph, at, gradient) * factor / norm.where(norm > 0, 1),
                0,
            )
            xi = _to_box(x, xi + length * step)
            size = tangent_norm_sq(graph, at, xi, unit=unit).sqrt()
            xi = xi * _spread(torch.where(size > radius, radius / size.where(size > 0, 1), 1))
    return (x + xi).clamp(0, 1)


# ---------------------------------------------------------------- steps


def ascend(
    model, x: Tensor, y: Tensor, start: Tensor, epsilon: float, alpha: float, steps: int, norm: str
) -> Tensor:
    centre, at = x.detach(), start
    for _ in range(steps):
        gradient = input_gradient(model, at, y)
        with torch.no_grad():
            step = gradient.sign() if norm == "linf" else _unit(gradient)
            at = (centre + _to_ball(at + alpha * step - centre, epsilon, norm)).clamp(0, 1)
    return at


def input_gradient(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """The gradient in the images of the summed cross-entropy."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        loss = F.cross_entropy(_logits(model, leaf), y, reduction="sum")
        return torch.autograd.grad(loss, leaf)[0]


def _logits(model: Classifier, x: Tensor) -> Tensor:
    logits = model(x)
    if not isinstance(logits, Tensor):
        raise TypeError(f"model must return a tensor, got {type(logits).__name__}")
    if logits.dim() != 2 or len(logits) != len(x):
        raise ValueError(f"model must return ({len(x)}, K) logits, got {tuple(logits.shape)}")
    return logits


@torch.no_grad()
def _outcome(model: Classifier, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each image is misclassified, and its loss."""
    logits = _logits(model, x)
    return logits.argmax(1) != y, F.cross_entropy(logits, y, reduction="none")


def _spread(value: Tensor) -> Tensor:
    """One number per image, to be multiplied with images."""
    return value[:, None, None, None]


def _length(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v, dim=(1, 2, 3), keepdim=True)


def _scaled(v: Tensor) -> Tensor:
    """Each image divided by its largest entry, for gradients whose squares underflow."""
    largest = v.abs().amax((1, 2, 3), keepdim=True)
    return v / largest.where(largest > 0, 1)


def _unit(v: Tensor) -> Tensor:
    v = _scaled(v)
    length = _length(v)
    return v / length.where(length > 0, 1)


def _to_ball(v: Tensor, radius: float, norm: str) -> Tensor:
    if norm == "linf":
        return v.clamp(-radius, radius)
    length = _length(v)
    return v * (radius / length.where(length > 0, 1)).clamp_max(1)


def _start(x: Tensor, epsilon: float, norm: str, generator: torch.Generator) -> Tensor:
    return (x.detach() + epsilon * _uniform(x, norm, generator)).clamp(0, 1)


def _uniform(x: Tensor, norm: str, generator: torch.Generator) -> Tensor:
    """Uniform in the unit ball."""
    how = {"generator": generator, "device": x.device, "dtype": x.dtype}
    if norm == "linf":
        return 2 * torch.rand(x.shape, **how) - 1
    direction = _unit(torch.randn(x.shape, **how))
    return direction * _spread(torch.rand(len(x), **how) ** (1 / max(1, x[0].numel())))


def _to_box(x: Tensor, xi: Tensor) -> Tensor:
    r"""The change nearest to xi (in L2) with 0 <= x + xi <= 1 and sum zero in each channel, clip(xi
    - tau, -x, 1 - x).
    """
    xi, low, high = xi.double(), -x.double(), 1 - x.double()
    below, above = (
        xi.amin((-2, -1), keepdim=True),
        xi.amax((-2, -1), keepdim=True),
    )  # the sum is >= 0 and <= 0 there
    for _ in range(_BISECTIONS):
        tau = (below + above) / 2
        positive = (xi - tau).clamp(low, high).sum((-2, -1), keepdim=True) > 0
        below, above = torch.where(positive, tau, below), torch.where(positive, above, tau)
    return (xi - (below + above) / 2).clamp(low, high).to(x.dtype)


# ---------------------------------------------------------------- what comes in


def _check_radius(epsilon: float | Tensor, x: Tensor) -> None:
    if not isinstance(epsilon, Tensor):
        return checks.number(epsilon, "epsilon")
    if epsilon.shape != x.shape[:1]:
        raise ValueError(f"epsilon must be one number or ({len(x)},), got {tuple(epsilon.shape)}")
    if checks.eager(x) and not bool(((epsilon >= 0) & epsilon.isfinite()).all()):
        raise ValueError("epsilon must be non-negative and finite")


def _check(
    x: Tensor,
    y: Tensor,
    epsilon: float = 0.0,
    norm: str = "linf",
    alpha: float = 1.0,
    steps: int = 1,
) -> None:
    checks.floating(x, "x")
    if x.dim() != 4:
        raise ValueError(f"x must be (B, C, H, W), got {tuple(x.shape)}")
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        raise TypeError(
            f"y must be an int64 tensor, got {y.dtype if isinstance(y, Tensor) else type(y).__name__}"
        )
    if y.shape != x.shape[:1]:
        raise ValueError(f"y must have one label for each image, ({len(x)},), got {tuple(y.shape)}")
    checks.number(epsilon, "epsilon")
    checks.number(alpha, "alpha", positive=True)
    checks.whole(steps, "steps")
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm must be 'linf' or 'l2', got {norm!r}")
    if not x.numel():
        raise ValueError(f"x must hold an image, got {tuple(x.shape)}")
    if checks.eager(x):
        low, high = torch.aminmax(x.detach())
        if not (low >= 0 and high <= 1):  # NaN fails both
            raise ValueError("x must be in [0, 1]")
        if not bool((y >= 0).all()):
            raise ValueError("y must be non-negative")

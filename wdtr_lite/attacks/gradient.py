"""Attacks that follow the gradient of the loss in the images, in L-infinity and L2."""

import torch
from torch import Tensor

from wdtr_lite import checks
from wdtr_lite.attacks.margin import margin
from wdtr_lite.models import Classifier


def fgsm(model: Classifier, x: Tensor, y: Tensor, epsilon: float, *, norm: str = "linf") -> Tensor:
    r"""The fast gradient (sign) method: one step of length epsilon, clipped to [0, 1].

    .. math:: x' = x + \epsilon \operatorname{sign}(g) \quad\text{or}\quad
       x' = x + \epsilon\, g / \|g\|_2, \qquad g \parallel \nabla_x \ell(f(x), y)

    with g as in :func:`input_gradient`.

    Parameters
    ----------
    model : function of images -> logits (B, K), or an object that has them as ``.logits``
    x : tensor, (B, C, H, W)
        Images in [0, 1].
    y : tensor, (B,) or (B, K)
        int64 labels, or probabilities.
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
    return ascend(model, x, y, x, epsilon, epsilon, 1, norm)


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

    .. math:: x_{k+1} = \Pi_{[0,1]}\, \Pi_{\epsilon}\bigl(
       x_k + \alpha \operatorname{sign} g(x_k)\bigr), \quad x_0 = x

    and likewise with :math:`g / \|g\|_2`; g as in :func:`input_gradient`. The paper's I-FGSM-20 is
    epsilon = 8/255, alpha = 2/255, steps = 20.

    Parameters
    ----------
    model, x, y, epsilon, norm
        As in :func:`fgsm`.
    alpha : float
        Length of a step in `norm`, positive unless epsilon is 0.
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
    >>> x, y = torch.tensor([[[[0.5, 0.05]]]]), torch.tensor([1])
    >>> ifgsm(brighter_is_one, x, y, 0.1, alpha=0.04, steps=2)
    tensor([[[[0.4200, 0.0000]]]])

    References
    ----------
    Kurakin, Goodfellow and Bengio (2017).
    """
    return ascend(model, x, y, x, epsilon, alpha, steps, norm)


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
        As in :func:`ifgsm`; y are labels.
    restarts : int
        Runs from different points, with the images that no run before it had misclassified. Of each
        image the misclassified result is kept or, without one, that of the largest loss, compared
        by the margin, which does not saturate.
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
    >>> random = torch.Generator().manual_seed(0)
    >>> pgd(brighter_is_one, x, y, 0.1, alpha=0.1, steps=2, restarts=3, generator=random)
    tensor([[[[0.4000, 0.0000]]]])

    References
    ----------
    Madry, Makelov, Schmidt, Tsipras and Vladu (2018).
    """
    restarts = checks.repeats(restarts, "restarts")
    if generator is None:
        if restarts != 1:
            raise ValueError(
                f"restarts must be 1 without a generator, got {restarts}: "
                "all runs would be the same"
            )
        return ascend(model, x, y, x, epsilon, alpha, steps, norm)
    checks.attacked(x, y)
    checks.labels(y, x)
    epsilon, alpha, steps = checks.strength(epsilon, alpha, steps, norm, x.dtype)
    checks.generator(generator, x)
    found = ascend(model, x, y, _start(x, epsilon, norm, generator), epsilon, alpha, steps, norm)
    if restarts == 1:
        return found
    wrong, height = _outcome(model, found, y)
    for _ in range(restarts - 1):
        start = _start(x, epsilon, norm, generator)
        left = (~wrong).nonzero().squeeze(1)
        if not len(left):
            break
        again = ascend(model, x[left], y[left], start[left], epsilon, alpha, steps, norm)
        again_wrong, again_height = _outcome(model, again, y[left])
        better = again_wrong | (again_height > height[left])
        at = left[better]
        found[at], wrong[at], height[at] = again[better], again_wrong[better], again_height[better]
    return found


# ---------------------------------------------------------------- steps


def ascend(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    epsilon: float,
    alpha: float,
    steps: int,
    norm: str,
) -> Tensor:
    """The steps of :func:`ifgsm` from anywhere: projected gradient ascent in the ball about x.

    Parameters
    ----------
    model, x, y, epsilon, alpha, steps, norm
        As in :func:`ifgsm`.
    start : tensor of the shape of x
        Images in [0, 1].

    Returns
    -------
    tensor, (B, C, H, W)
        Adversarial images, detached.
    """
    checks.attacked(x, y)
    epsilon, alpha, steps = checks.strength(epsilon, alpha, steps, norm, x.dtype)
    checks.start(start, x)
    centre, at = x.detach(), start.detach()
    for _ in range(steps):
        gradient = input_gradient(model, at, y)
        with torch.no_grad():
            step = gradient.sign() if norm == "linf" else _unit(gradient)
            at = (centre + _to_ball(at + alpha * step - centre, epsilon, norm)).clamp(0, 1)
    return at


def input_gradient(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    r"""The gradient in the images of what attacks ascend: of labels that of the margin, which has
    the direction of the cross-entropy's, but does not round to zero where a prediction is sure.

    .. math:: g = \nabla_x m, \quad m = \log \sum_{j \ne y} e^{z_j} - z_y, \quad z = f(x), \qquad
       \ell = \log(1 + e^m), \quad \nabla_x \ell = \frac{g}{1 + e^{-m}}

    Of probabilities q it is the gradient of the cross-entropy, written in the gaps to the likeliest
    class c,

    .. math:: \ell = \log\Bigl(1 + \sum_{j \ne c} e^{z_j - z_c}\Bigr)
       - \sum_{j \ne c} q_j (z_j - z_c), \qquad
       \frac{\partial \ell}{\partial z_j} = p_j - q_j \text{ for } j \ne c;

    where q is of one class alone, that of the margin.

    Parameters
    ----------
    model, x, y
        As in :func:`fgsm`.

    Returns
    -------
    tensor, (B, C, H, W)

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.attacks import input_gradient
    >>> brighter_is_one = lambda x: torch.stack([0 * x.sum((1, 2, 3)), x.sum((1, 2, 3))], 1)
    >>> input_gradient(brighter_is_one, torch.zeros(1, 1, 1, 2), torch.tensor([1]))
    tensor([[[[-1., -1.]]]])
    >>> input_gradient(brighter_is_one, torch.zeros(1, 1, 1, 2), torch.tensor([[0.25, 0.75]]))
    tensor([[[[-0.2500, -0.2500]]]])
    """
    checks.function(model, "model")
    checks.batch(x)
    checks.recording(x)
    checks.targets(y, x)
    checks.probabilities(y)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = margin(_logits(model, leaf), y).sum()
        seen = value.requires_grad
        found = torch.autograd.grad(value, leaf, allow_unused=True)[0] if seen else None
    gradient = checks.differentiable(found)
    checks.computed(value, gradient)
    return gradient


@torch.no_grad()
def _outcome(model: Classifier, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each image is misclassified, and its margin."""
    logits = _logits(model, x)
    return logits.argmax(1) != y, margin(logits, y)


def _logits(model: Classifier, x: Tensor) -> Tensor:
    return checks.logits(checks.called(model, x), x)


def spread(value: Tensor) -> Tensor:
    """One number per image, to be multiplied with images."""
    return value[:, None, None, None]


def _length(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v, dim=(1, 2, 3), keepdim=True)


def scaled(v: Tensor) -> Tensor:
    """Each image divided by its largest entry, for gradients whose squares underflow."""
    largest = v.abs().amax((1, 2, 3), keepdim=True)
    return v / largest.where(largest > 0, 1)


def _unit(v: Tensor) -> Tensor:
    v = scaled(v)
    length = _length(v)
    return v / length.where(length > 0, 1)


def _to_ball(v: Tensor, radius: float, norm: str) -> Tensor:
    if norm == "linf":
        return v.clamp(-radius, radius)
    length = _length(v)
    return v * (radius / length.where(length > 0, 1)).clamp_max(1)


def _start(x: Tensor, epsilon: float, norm: str, generator: torch.Generator) -> Tensor:
    return (x.detach() + epsilon * uniform(x, norm, generator)).clamp(0, 1)


def uniform(x: Tensor, norm: str, generator: torch.Generator) -> Tensor:
    """Uniform in the unit ball."""
    how = {"generator": generator, "device": x.device, "dtype": x.dtype}
    if norm == "linf":
        return 2 * torch.rand(x.shape, **how) - 1
    direction = _unit(torch.randn(x.shape, **how))
    return direction * spread(torch.rand(len(x), **how) ** (1 / max(1, x[0].numel())))

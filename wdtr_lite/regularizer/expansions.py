"""What training with noise penalises: the expansions of Theorem 1."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from wdtr_lite import calculus, checks
from wdtr_lite.calculus import Estimate, derivatives
from wdtr_lite.graph import PixelGraph, full_precision
from wdtr_lite.models import Classifier
from wdtr_lite.regularizer import forward
from wdtr_lite.regularizer.forward import Loss


class SecondOrder(NamedTuple):
    r"""The terms of Theorem 1 per image.

    .. math:: \mathbb{E}\,l \approx
       \text{loss} + \tfrac12 \eta^2 (\text{gradient} + \text{laplacian})
    """

    loss: Tensor  # (B,), without noise
    gradient: Tensor  # (B,), l'' ||grad f||^2
    laplacian: Tensor  # (B,), l' times the Laplacian of f
    standard_error: Tensor  # (B,), of the Laplacian term


def second_order_expansion(
    loss: Loss,
    f: Classifier,
    metric: PixelGraph | str,
    x: Tensor,
    y: Any,
    *,
    volume: bool = False,
    estimator: str = "exact",
    samples: int = 100,
    generator: torch.Generator | None = None,
    create_graph: bool = False,
) -> SecondOrder:
    r"""Both terms of Theorem 1, for a twice differentiable loss and one or several outputs.

    For outputs :math:`f = (f_1, \dots, f_k)` and noise of mean zero and covariance :math:`\eta^2
    L(x)`,

    .. math:: \mathbb{E}\,l(f(x + \xi), y) = l + \tfrac12 \eta^2 \Bigl[
       \sum_{ab} \frac{\partial^2 l}{\partial f_a \partial f_b} \nabla f_a^\top L \nabla f_b
       + \sum_a \frac{\partial l}{\partial f_a} \Delta f_a \Bigr] + o(\eta^2).

    Several outputs are combined by the full Hessian of l in them, so that the two terms add up to
    the Laplacian of :math:`l \circ f` whatever l; the paper's mean of k separate losses is the case
    of a diagonal Hessian. The first term is not the penalty of Appendix D, :math:`\|\nabla (l \circ
    f)\|^2 = l'^2 \|\nabla f\|^2`.

    Parameters
    ----------
    loss : function of outputs (B,) or (B, k) and y -> (B,)
    f : function of images -> (B,) or (B, k)
        Its running statistics move, as in any pass; those of penalties do not.
    metric : PixelGraph or "euclidean"
        Euclidean: L(x) is the identity, :math:`\Delta` the ordinary Laplacian, x any real tensor.
    x : tensor, (B, C, H, W)
        Non-negative images; positive where `volume`.
    y : tensor
        Labels, handed to the loss.
    volume : bool
        False: :math:`\Delta f = \operatorname{tr}(L \nabla^2 f)`, right for additive noise :math:`x
        + \xi`. True: the Laplace–Beltrami operator, right for noise through the exponential map,
        :math:`\exp_x(\xi)`.
    estimator, samples, generator
        Of the Laplacian, as in :func:`~wdtr_lite.calculus.laplace_beltrami`.
    create_graph : bool
        Keep what is needed to differentiate the result in the parameters of f.

    Returns
    -------
    SecondOrder

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.regularizer import second_order_expansion
    >>> square = lambda output, y: (output - y) ** 2
    >>> mean = lambda x: x.mean((1, 2, 3))
    >>> x, y = torch.ones(1, 1, 2, 2), torch.zeros(1)
    >>> terms = second_order_expansion(square, mean, "euclidean", x, y)
    >>> terms.gradient, terms.laplacian  # 2 ||grad f||^2 = 2 / 4, and a linear f has no Laplacian
    (tensor([0.5000]), tensor([0.]))

    References
    ----------
    Theorem 1 of Lin et al. (2019), made precise; Bishop (1995).
    """
    forward.checked_functions(loss, f)
    volume, create_graph = (
        checks.flag(value, name)
        for value, name in ((volume, "volume"), (create_graph, "create_graph"))
    )
    checks.point(metric, x, interior=volume)
    checks.batch(x)
    checks.recording(x)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        outputs = forward.differentiable_outputs(f, leaf)
        value = forward.differentiable_losses(loss, outputs, y)
        columns = forward.as_columns(outputs)  # (B, k)
        first = forward.column_gradients(value[:, None], outputs)[:, 0]  # l', as the outputs
        second = forward.column_gradients(forward.as_columns(first), outputs)
        second = second.reshape(*columns.shape, columns.shape[1])  # l'', (B, k, k)
        jacobian = forward.column_gradients(columns, leaf)  # (B, k, C, H, W)
        raised = derivatives.raised(metric, x.detach()[:, None], jacobian)
        with full_precision(x):
            gradient = (second * (jacobian.flatten(2) @ raised.flatten(2).mT)).sum((1, 2))
        slope = forward.loss_slope(loss, f, x, y) if create_graph else first.detach()
    checks.in_range(gradient, "second_order_expansion", "loss or f, unless they or y hold NaN")
    if not create_graph:
        value, gradient = value.detach(), gradient.detach()
    laplacian = calculus.laplace_beltrami(
        forward.weighted_outputs(f, slope),
        metric,
        x.detach(),
        volume=volume,
        estimator=estimator,
        samples=samples,
        generator=generator,
        create_graph=create_graph,
    )
    return SecondOrder(value, gradient, laplacian.value, laplacian.standard_error)


def first_order_expansion(
    loss: Loss, f: Classifier, x: Tensor, y: Any, mean: Tensor, *, create_graph: bool = False
) -> Tensor:
    r"""The first-order term for noise of non-zero mean, one number per image.

    .. math:: \mathbb{E}\,l(f(x + \xi), y) = l + \sum_a \frac{\partial l}{\partial f_a}\,
       \nabla f_a^\top\, \mathbb{E}\,\xi + O(\mathbb{E} \|\xi\|^2)

    Parameters
    ----------
    loss : function of outputs (B,) or (B, k) and y -> (B,)
    f : function of images -> (B,) or (B, k)
    x : tensor, (B, C, H, W)
    y : tensor
        Labels, handed to the loss.
    mean : tensor of the shape of x
        The mean of the noise, or the perturbation itself where it is deterministic.
    create_graph : bool
        As in :func:`second_order_expansion`.

    Returns
    -------
    tensor, (B,)

    References
    ----------
    Section 3 of Lin et al. (2019), below Theorem 1.
    """
    forward.checked_functions(loss, f)
    create_graph = checks.flag(create_graph, "create_graph")
    checks.batch(x)
    checks.recording(x)
    checks.bounded(x, "x")
    checks.alike(mean, x, "mean")
    checks.bounded(mean, "mean")
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = forward.losses_of(loss, forward.differentiable_outputs(f, leaf), y)
        grad = derivatives.gradient_of(value, leaf, "loss", create_graph=create_graph)
    large = "mean, loss or f, unless they or y hold NaN"
    return checks.in_range((grad * mean).sum((1, 2, 3)), "first_order_expansion", large)


def perturbed_loss(loss: Loss, f: Classifier, x: Tensor, y: Any, xi: Tensor) -> Estimate:
    r"""The mean loss under perturbations, by Monte Carlo, one number per image.

    .. math:: \mathbb{E}\,l(f(x + \xi), y) \approx \frac1N \sum_{k=1}^{N} l(f(x + \xi_k), y)

    is the loss (3). With the truth, a function, in place of the labels it is the loss (2), whose
    label is that of :math:`x + \xi_k`; with one ξ = 0 it is a term of (1).

    Parameters
    ----------
    loss : function of outputs (B,) or (B, k) and y -> (B,)
    f : function of images -> (B,) or (B, k)
    x : tensor, (B, C, H, W)
    y : tensor, or function of images (B, C, H, W) -> tensor
        Labels, handed to the loss; or the truth, which labels each perturbed image.
    xi : tensor, (N, B, C, H, W)
        Perturbations, from :func:`~wdtr_lite.noise.sample` say.

    Returns
    -------
    Estimate
        ``value`` and ``standard_error`` over the N perturbations, (B,) each; the error of one is
        NaN.

    References
    ----------
    Equations (1) to (3) of Lin et al. (2019).
    """
    forward.checked_functions(loss, f)
    checks.batch(x)
    checks.bounded(x, "x")
    checks.floating(xi, "xi")
    checks.valued(xi, "xi")
    checks.bounded(xi, "xi")
    if xi.shape[1:] != x.shape or not len(xi):
        raise ValueError(
            f"xi must be (N, {', '.join(map(str, x.shape))}), got {tuple(xi.shape)} "
            f"with x {tuple(x.shape)}"
        )
    checks.alike(xi[0], x, "xi")
    truth = y if callable(y) else lambda image: y
    draws = torch.stack(
        [
            forward.losses_of(loss, forward.outputs_of(f, x + step, "f"), truth(x + step))
            for step in xi
        ]
    )
    error = draws.std(0) if len(draws) > 1 else torch.full_like(draws[0], float("nan"))
    return Estimate(draws.mean(0), error / len(draws) ** 0.5)

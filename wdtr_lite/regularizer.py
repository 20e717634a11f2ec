"""What training with noise penalises: the expansions of Theorem 1.

Here f is a classifier, images (B, C, H, W) -> outputs (B,) or (B, k), each image on its own; a loss takes
outputs and labels to one number per image, (B,), each from its own row. f is evaluated several times: it must be deterministic and
not couple images (no dropout, batch normalisation in evaluation mode).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from wdtr_lite import calculus
from wdtr_lite.calculus import Estimate, _check_point
from wdtr_lite.graph import PixelGraph, _check_floating
from wdtr_lite.metric import _apply

__all__ = ["SecondOrder", "first_order_expansion", "perturbed_loss", "second_order_expansion"]

Classifier = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


class SecondOrder(NamedTuple):
    r"""The terms of Theorem 1 per image.

    .. math:: \mathbb{E}\,l \approx \text{loss} + \tfrac12 \eta^2 (\text{gradient} + \text{laplacian})

    Taught in :doc:`chapter 6 </book/theorem_one>`.
    """

    loss: Tensor  # (B,), without noise
    gradient: Tensor  # (B,), l'' ||grad f||^2
    laplacian: Tensor  # (B,), l' times the Laplacian of f
    standard_error: Tensor  # (B,), of the Laplacian term


def _outputs(f: Classifier, x: Tensor) -> Tensor:
    """The outputs as (B, k)."""
    outputs = f(x)
    if not isinstance(outputs, Tensor):
        raise TypeError(f"f must return a tensor, got {type(outputs).__name__}")
    if outputs.shape[:1] != x.shape[:1] or outputs.dim() not in (1, 2):
        raise ValueError(f"f must return ({len(x)},) or ({len(x)}, k) outputs, got {tuple(outputs.shape)}")
    return outputs


def _values(loss: Loss, outputs: Tensor, y: Tensor) -> Tensor:
    value = loss(outputs, y)
    if value.shape != outputs.shape[:1]:
        raise ValueError(f"loss must return one number per image, ({len(outputs)},), got {tuple(value.shape)}")
    return value


def _rows(value: Tensor, at: Tensor) -> Tensor:
    """The derivative in `at` (B, ...) of each column of `value` (B, k), with its graph: (B, k, ...)."""
    rows = [
        torch.autograd.grad(column.sum(), at, create_graph=True, materialize_grads=True)[0]
        if column.requires_grad
        else torch.zeros_like(at)
        for column in value.T
    ]
    return torch.stack(rows, 1)


def _check(graph: PixelGraph | None, x: Tensor, *, interior: bool = False) -> None:
    _check_point(graph, x, interior=interior)
    if x.dim() != 4:
        raise ValueError(f"x must be (B, C, H, W), got {tuple(x.shape)}")


def second_order_expansion(
    loss: Loss,
    f: Classifier,
    graph: PixelGraph | None,
    x: Tensor,
    y: Tensor,
    *,
    volume: bool = False,
    estimator: str = "exact",
    samples: int = 100,
    generator: torch.Generator | None = None,
    create_graph: bool = False,
) -> SecondOrder:
    r"""Both terms of Theorem 1, for a twice differentiable loss and one or several outputs.

    For outputs :math:`f = (f_1, \dots, f_k)` and noise of mean zero and covariance :math:`\eta^2 L(x)`,

    .. math:: \mathbb{E}\,l(f(x + \xi), y) = l + \tfrac12 \eta^2 \Bigl[ \sum_{ab} \frac{\partial^2 l}{\partial f_a \partial f_b}
       \nabla f_a^\top L \nabla f_b + \sum_a \frac{\partial l}{\partial f_a} \Delta f_a \Bigr] + o(\eta^2).

    Several outputs are combined by the full Hessian of l in them, so that the two terms add up to the Laplacian of
    :math:`l \circ f` whatever l; the paper's mean of k separate losses is the case of a diagonal Hessian. The first term is not
    the penalty of Appendix D, :math:`\|\nabla (l \circ f)\|^2 = l'^2 \|\nabla f\|^2`.

    Parameters
    ----------
    loss : function of outputs (B,) or (B, k) and y -> (B,)
    f : function of images -> (B,) or (B, k)
    graph : PixelGraph or None
        None for Euclidean inputs: L(x) is the identity, :math:`\Delta` the ordinary Laplacian, x any real tensor.
    x : tensor, (B, C, H, W)
        Non-negative images; positive where `volume`.
    y : tensor
        Labels, handed to the loss.
    volume : bool
        False: :math:`\Delta f = \operatorname{tr}(L \nabla^2 f)`, right for additive noise :math:`x + \xi`. True: the
        Laplace–Beltrami operator, right for noise through the exponential map, :math:`\exp_x(\xi)`.
    estimator, samples, generator
        Of the Laplacian, as in :func:`~wdtr_lite.calculus.laplace_beltrami`.
    create_graph : bool
        Keep what is needed to differentiate the result in the parameters of f.

    Returns
    -------
    SecondOrder

    Raises
    ------
    ValueError, TypeError
        If f or the loss returns another shape, or as :func:`~wdtr_lite.calculus.laplace_beltrami`.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.regularizer import second_order_expansion
    >>> square = lambda output, y: (output - y) ** 2
    >>> mean = lambda x: x.mean((1, 2, 3))
    >>> terms = second_order_expansion(square, mean, None, torch.ones(1, 1, 2, 2), torch.zeros(1))
    >>> terms.gradient, terms.laplacian  # 2 ||grad f||^2 = 2 / 4, and a linear f has no Laplacian
    (tensor([0.5000]), tensor([0.]))

    References
    ----------
    Theorem 1 of Lin et al. (2019), made precise; Bishop (1995). Taught in :doc:`chapter 6 </book/theorem_one>`.
    """
    _check(graph, x, interior=volume)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        outputs = _outputs(f, leaf)
        value = _values(loss, outputs, y)
        flat = outputs.reshape(len(x), -1)
        first = _rows(value[:, None], outputs)[:, 0]  # l', of the shape of the outputs
        second = _rows(first.reshape(len(x), -1), outputs).reshape(len(x), flat.shape[1], -1)  # l'', (B, k, k)
        jacobian = _rows(flat, leaf)  # (B, k, C, H, W)
        raised = jacobian if graph is None else _apply(graph, x.detach()[:, None], jacobian)
        gradient = (second * (jacobian.flatten(2) @ raised.flatten(2).mT)).sum((1, 2))
        weight = first.detach()
        if create_graph:  # l' must depend on the parameters of f but not on the leaf
            fixed = f(x.detach())
            if fixed.requires_grad:
                weight = _rows(_values(loss, fixed, y)[:, None], fixed)[:, 0]
    if not create_graph:
        value, gradient = value.detach(), gradient.detach()
    laplacian = calculus.laplace_beltrami(
        lambda image: (weight * f(image)).reshape(len(image), -1).sum(1),  # its Laplacian is sum_a l'_a Delta f_a
        graph, x.detach(), volume=volume, estimator=estimator, samples=samples, generator=generator, create_graph=create_graph,
    )  # fmt: skip
    return SecondOrder(value, gradient, laplacian.value, laplacian.standard_error)


def first_order_expansion(
    loss: Loss, f: Classifier, x: Tensor, y: Tensor, mean: Tensor, *, create_graph: bool = False
) -> Tensor:
    r"""The first-order term for noise of non-zero mean, one number per image.

    .. math:: \mathbb{E}\,l(f(x + \xi), y) = l + \sum_a \frac{\partial l}{\partial f_a}\, \nabla f_a^\top\, \mathbb{E}\,\xi + O(\mathbb{E} \|\xi\|^2)

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

    Raises
    ------
    ValueError, TypeError
        If a shape differs, something is no floating tensor, or f or the loss returns another shape.

    References
    ----------
    Section 3 of Lin et al. (2019), below Theorem 1. Taught in :doc:`chapter 6 </book/theorem_one>`.
    """
    _check(None, x)
    _check_floating(mean, "mean")
    if mean.shape != x.shape:
        raise ValueError(f"mean must have the shape of x, {tuple(x.shape)}, got {tuple(mean.shape)}")
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = _values(loss, _outputs(f, leaf), y)
        if not value.requires_grad:
            return torch.zeros_like(value)
        grad = torch.autograd.grad(value.sum(), leaf, create_graph=create_graph, materialize_grads=True)[0]
    return (grad * mean).sum((1, 2, 3))


def perturbed_loss(
    loss: Loss, f: Classifier, x: Tensor, y: Tensor | Callable[[Tensor], Tensor], xi: Tensor
) -> Estimate:
    r"""The mean loss under perturbations, by Monte Carlo, one number per image.

    .. math:: \mathbb{E}\,l(f(x + \xi), y) \approx \frac1N \sum_{k=1}^{N} l(f(x + \xi_k), y)

    is the loss (3). With the truth, a function, in place of the labels it is the loss (2), whose label is that of
    :math:`x + \xi_k`; with one ξ = 0 it is a term of (1).

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
        ``value`` and ``standard_error`` over the N perturbations, (B,) each; the error of one is NaN.

    Raises
    ------
    ValueError, TypeError
        If a shape differs, something is no floating tensor, or f or the loss returns another shape.

    References
    ----------
    Equations (1) to (3) of Lin et al. (2019). Taught in :doc:`chapter 6 </book/theorem_one>`.
    """
    _check(None, x)
    _check_floating(xi, "xi")
    if xi.shape[1:] != x.shape or not len(xi):
        raise ValueError(f"xi must be (N, {', '.join(map(str, x.shape))}), got {tuple(xi.shape)}")
    truth = y if callable(y) else lambda image: y
    draws = torch.stack([_values(loss, _outputs(f, x + step), truth(x + step)) for step in xi])
    error = draws.std(0) if len(draws) > 1 else torch.full_like(draws[0], float("nan"))
    return Estimate(draws.mean(0), error / len(draws) ** 0.5)

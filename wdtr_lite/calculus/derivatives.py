"""First and second derivatives of a function of images: gradient, Christoffel symbol, Hessian."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.autograd.graph import Node

from wdtr_lite import checks
from wdtr_lite.graph import PixelGraph
from wdtr_lite.kernels import LibraryKernels
from wdtr_lite.metric import operators, tangent

Function = Callable[[Tensor], Tensor]
Metric = PixelGraph | str  # "euclidean"

_UNKNOWN = "torch::autograd::NotImplemented", "CdistBackwardBackward", "PdistBackwardBackward"
"""Autograd's names of derivatives that torch lacks, without their numbers at the end."""

UNLESS_NAN = "f or x, unless f itself is NaN"
"""What to scale where a result is not finite."""


def raised(metric: Metric, x: Tensor, v: Tensor) -> Tensor:
    """L(x) v; in the Euclidean metric v."""
    return operators.product(metric, x, v) if isinstance(metric, PixelGraph) else v


def differentiate(
    f: Function, x: Tensor, *, create_graph: bool, name: str = "f"
) -> tuple[Tensor, Tensor]:
    """x as a leaf of autograd's graph, or x itself where it is on one, and the ordinary gradient of
    f there.
    """
    checks.function(f, "f")
    checks.recording(x)
    with torch.enable_grad(), LibraryKernels() if create_graph else nullcontext():
        leaf = x if x.requires_grad else x.detach().requires_grad_()
        found = checks.called(f, leaf, function=name)
        value = checks.numbers(found, leaf.shape[: max(leaf.dim() - 3, 0)], "f")
        grad = gradient_of(value, leaf, name, create_graph=create_graph)
        if create_graph:
            explain_missing(grad, name)
        return leaf, grad


def gradient_of(value: Tensor, leaf: Tensor, name: str, *, create_graph: bool) -> Tensor:
    """The ordinary gradient of values that a function, so named, returned, (...)."""
    checks.tracked(value, name)
    found = torch.autograd.grad(value.sum(), leaf, create_graph=create_graph, allow_unused=True)
    return checks.differentiable(found[0], name)


def second_derivative(grad: Tensor, leaf: Tensor, v: Tensor, *, create_graph: bool) -> Tensor:
    """The Hessian-vector product, from a gradient with its graph."""
    if not grad.requires_grad:
        return torch.zeros_like(leaf)
    (product,) = torch.autograd.grad(
        grad, leaf, v, retain_graph=True, create_graph=create_graph, materialize_grads=True
    )
    return product


def explain_missing(grad: Tensor, name: str, instead: str = "another function") -> None:
    """Where a function has no second derivative, let the backward pass say what to take instead."""

    def explain(gradients: object) -> None:
        raise RuntimeError(
            f"{name} has a function of which torch has no second derivative, a hard activation, "
            f"fused attention or torch.cdist say: take {instead}"
        )

    for node in autograd_nodes(grad):
        if node.name().rstrip("0123456789") in _UNKNOWN:
            node.register_prehook(explain)
        elif node.name() == "torch::autograd::Error":  # of a function that is once_differentiable
            grad.register_hook(explain)  # for this node is on no way to the parameters


def refuse_wrong_thirds(grad: Tensor, name: str = "f") -> None:
    """Refuse a function with layers that take the mean and variance of what they see for constants
    in their third derivatives, from its gradient with its graph: where the package's own are not.
    """
    for node in autograd_nodes(grad):
        kind, training = node.name(), getattr(node, "_saved_train", True)
        if training and ("BatchNormBackwardB" in kind or "LayerNormBackwardB" in kind):
            raise ValueError(
                f"{name} has third derivatives that torch gets wrong, of {kind}: take "
                "normalisation by torch.nn or torch.nn.functional, outside of autocast and "
                "activation checkpointing, or ask for no derivative of the result "
                "(torch.no_grad())"
            )


def autograd_nodes(value: Tensor) -> Iterator[Node]:
    """Autograd's graph of a tensor."""
    seen, left = set(), [value.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left.extend(before for before, _ in node.next_functions)
        yield node


def hessian_trace(
    grad: Tensor, leaf: Tensor, pairs: Iterable[tuple[Tensor, Tensor]], create_graph: bool
) -> Tensor:
    """The sum of v' H w over the pairs."""

    def product(v: Tensor, w: Tensor) -> Tensor:
        second = second_derivative(grad, leaf, v, create_graph=create_graph)
        return operators.image_sum(w * second)

    return sum(
        (product(v, w) for v, w in pairs), leaf.new_zeros(leaf.shape[: max(leaf.dim() - 3, 0)])
    )


def gradient(f: Function, graph: PixelGraph, x: Tensor, *, create_graph: bool = False) -> Tensor:
    r"""The Wasserstein gradient, :math:`\operatorname{grad}_W f(x) = L(x)\,\nabla f(x)`.

    Parameters
    ----------
    f : function of images (..., C, H, W) or (H, W) -> (...)
    graph : PixelGraph
    x : tensor
        Non-negative images.
    create_graph : bool
        Keep what is needed to differentiate the result, in the parameters of f or in x.

    Returns
    -------
    tensor of the shape of x
        A tangent vector: it sums to zero in each channel.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph, calculus
    >>> column = torch.tensor([[0.0, 1.0, 2.0]])
    >>> x = torch.tensor([[0.5, 0.5, 0.0]])
    >>> calculus.gradient(lambda x: (x * column).sum(), PixelGraph(1, 3, 1), x)
    tensor([[-1.5000,  1.0000,  0.5000]])

    References
    ----------
    Appendix B (ii) of Lin et al. (2019).
    """
    checks.image(graph, x)
    create_graph = checks.flag(create_graph, "create_graph")
    grad = differentiate(f, x, create_graph=create_graph)[1]
    with torch.set_grad_enabled(create_graph):
        return checks.in_range(operators.product(graph, x, grad), "gradient", UNLESS_NAN)


def christoffel(graph: PixelGraph, x: Tensor, sigma1: Tensor, sigma2: Tensor) -> Tensor:
    r"""The Christoffel symbol applied to two tangent vectors.

    .. math:: \Gamma_x(\sigma_1, \sigma_2)
       = {}& -\tfrac12 \bigl[ L(\sigma_1) \Phi_2 + L(\sigma_2) \Phi_1 \bigr] \\
       & + \tfrac12 L(x) \Bigl( \frac{1}{2 d_i} \sum_{j \in N(i)} \omega_{ij}
       (\Phi_{1,i} - \Phi_{1,j}) (\Phi_{2,i} - \Phi_{2,j}) \Bigr)_i

    with :math:`\Phi_k = L(x)^{+} \sigma_k`. A geodesic satisfies :math:`\ddot x = -\Gamma_x(\dot x,
    \dot x)`.

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., H, W)
        Positive on every pixel.
    sigma1, sigma2 : tensors of the same shape
        Tangent vectors.

    Returns
    -------
    tensor of the same shape
        Sums to zero in each channel.

    References
    ----------
    Appendix B (i) of Lin et al. (2019).
    """
    checks.image(graph, x, interior=True)
    phi1 = tangent.solve(graph, x, sigma1, "sigma1").value
    phi2 = tangent.solve(graph, x, sigma2, "sigma2").value
    carried = operators.product(graph, sigma1, phi2) + operators.product(graph, sigma2, phi1)
    (unit1, phi1), (unit2, phi2) = map(_moderate, (phi1, phi2))  # so that no square underflows
    density = operators.carre_du_champ(graph, phi1, phi2) / graph.volume
    symbol = (unit1 * (unit2 * operators.product(graph, x, density)) - carried) / 2
    return checks.in_range(symbol, "christoffel")


def _moderate(phi: Tensor) -> tuple[Tensor, Tensor]:
    """A power of two for each channel, and phi divided by it, which is less than 2 then."""
    largest = phi.detach().abs().amax((-2, -1), keepdim=True)
    most = math.frexp(torch.finfo(phi.dtype).max)[1] - 1
    exponent = largest.frexp().exponent.clamp(1 - most, most)  # of normal numbers
    unit = torch.ldexp(torch.ones_like(largest), exponent)
    return unit, phi / unit


def hessian(
    f: Function,
    graph: PixelGraph,
    x: Tensor,
    sigma1: Tensor,
    sigma2: Tensor,
    *,
    create_graph: bool = False,
) -> Tensor:
    r"""The Riemannian Hessian applied to two tangent vectors, one number per image.

    .. math:: \operatorname{Hess}_W f(x)(\sigma_1, \sigma_2)
       = \sigma_1^\top \nabla^2 f(x)\, \sigma_2 - \Gamma_x(\sigma_1, \sigma_2)^\top \nabla f(x)

    which for :math:`\sigma_1 = \sigma_2 = \sigma` is the second derivative of f along the geodesic
    that leaves x with velocity σ. The paper prints the last term with a plus.

    Parameters
    ----------
    f : function of images (..., C, H, W) or (H, W) -> (...)
    graph : PixelGraph
    x : tensor
        Images, positive on every pixel.
    sigma1, sigma2 : tensors of the same shape
        Tangent vectors.
    create_graph : bool
        As in :func:`gradient`.

    Returns
    -------
    tensor, (...)

    References
    ----------
    Appendix B (iii) of Lin et al. (2019).
    """
    checks.image(graph, x, interior=True)
    create_graph = checks.flag(create_graph, "create_graph")
    leaf, grad = differentiate(f, x, create_graph=True)
    if create_graph:
        refuse_wrong_thirds(grad)
    with torch.set_grad_enabled(create_graph):
        symbol = christoffel(graph, x, sigma1, sigma2)
        second = second_derivative(grad, leaf, sigma2, create_graph=create_graph)
        value = operators.image_sum(sigma1 * second) - operators.image_sum(symbol * grad)
        return checks.in_range(value, "hessian", UNLESS_NAN)

r"""Riemannian calculus on the probability simplex with the Wasserstein-2 metric, :math:`g_x = L(x)^{+}`.

A function f takes images (..., C, H, W) or (H, W) to one number each, (...), every image on its own. What
needs :math:`L(x)^{+}` or its determinant holds in the interior of the simplex: every pixel positive. The f given must be
deterministic and let gradients through: one that detaches its input counts as constant.
Tangent vectors sum to zero in each channel; a colour image is a point of a product of simplices.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from wdtr_lite import noise
from wdtr_lite.graph import PixelGraph, _check_floating, _check_generator, _check_image, _check_whole
from wdtr_lite.metric import (
    _apply,
    _carre_du_champ,
    _dense_laplacian,
    _potential,
    _pseudo_inverse,
    _total,
)

__all__ = [
    "Estimate",
    "christoffel",
    "exponential_map",
    "geodesic",
    "gradient",
    "hessian",
    "laplace_beltrami",
    "laplace_beltrami_printed",
    "laplacian_divergence",
    "log_volume",
    "log_volume_gradient",
]

Function = Callable[[Tensor], Tensor]


class Estimate(NamedTuple):
    """A value per image and its standard error, which is zero where nothing was sampled.

    Taught in :doc:`chapter 5 </book/riemannian_calculus>`.
    """

    value: Tensor  # (...)
    standard_error: Tensor  # (...)


def _check_point(graph: PixelGraph | None, x: Tensor, *, interior: bool) -> None:
    """An image of the graph; without a graph, of Euclidean space, any floating tensor."""
    if graph is None:
        _check_floating(x, "x")
    else:
        _check_image(graph, x, interior=interior)


def _derivative(f: Function, x: Tensor, *, create_graph: bool) -> tuple[Tensor, Tensor]:
    """x as a leaf of the graph, or x itself where it is on one, and the ordinary gradient of f there."""
    with torch.enable_grad():
        leaf = x if x.requires_grad else x.detach().requires_grad_()
        value = f(leaf)
        if not isinstance(value, Tensor):
            raise TypeError(f"f must return a tensor, got {type(value).__name__}")
        expected = leaf.shape[: max(leaf.dim() - 3, 0)]
        if value.shape != expected:
            raise ValueError(f"f must return one number per image, {tuple(expected)}, got {tuple(value.shape)}")
        if not value.requires_grad:
            return leaf, torch.zeros_like(leaf)
        return leaf, torch.autograd.grad(value.sum(), leaf, create_graph=create_graph, materialize_grads=True)[0]


def _second_derivative(grad: Tensor, leaf: Tensor, v: Tensor, *, create_graph: bool) -> Tensor:
    """The Hessian-vector product, from a gradient with its graph."""
    if not grad.requires_grad:
        return torch.zeros_like(leaf)
    (product,) = torch.autograd.grad(grad, leaf, v, retain_graph=True, create_graph=create_graph, materialize_grads=True)
    return product


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

    Raises
    ------
    ValueError, TypeError
        If x does not fit the graph or is no image, or f does not return one number per image.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph, calculus
    >>> column = torch.tensor([[0.0, 1.0, 2.0]])
    >>> calculus.gradient(lambda x: (x * column).sum(), PixelGraph(1, 3, 1), torch.tensor([[0.5, 0.5, 0.0]]))
    tensor([[-1.5000,  1.0000,  0.5000]])

    References
    ----------
    Appendix B (ii) of Lin et al. (2019). Taught in :doc:`chapter 5 </book/riemannian_calculus>`.
    """
    _check_image(graph, x)
    with torch.set_grad_enabled(create_graph):
        return _apply(graph, x, _derivative(f, x, create_graph=create_graph)[1])


def christoffel(graph: PixelGraph, x: Tensor, sigma1: Tensor, sigma2: Tensor) -> Tensor:
    r"""The Christoffel symbol applied to two tangent vectors.

    .. math:: \Gamma_x(\sigma_1, \sigma_2) = {}& -\tfrac12 \bigl[ L(\sigma_1) \Phi_2 + L(\sigma_2) \Phi_1 \bigr] \\
       & + \tfrac12 L(x) \Bigl( \frac{1}{2 d_i} \sum_{j \in N(i)} \omega_{ij}
       (\Phi_{1,i} - \Phi_{1,j}) (\Phi_{2,i} - \Phi_{2,j}) \Bigr)_i

    with :math:`\Phi_k = L(x)^{+} \sigma_k`. A geodesic satisfies :math:`\ddot x = -\Gamma_x(\dot x, \dot x)`.

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

    Raises
    ------
    ValueError, TypeError
        If x is not in the interior, a sigma is no tangent vector, or a shape, type or device differs.

    References
    ----------
    Appendix B (i) of Lin et al. (2019). Taught in :doc:`chapter 5 </book/riemannian_calculus>`.
    """
    _check_image(graph, x, interior=True)
    phi1, phi2 = _potential(graph, x, sigma1, "sigma1").value, _potential(graph, x, sigma2, "sigma2").value
    carried = _apply(graph, sigma1, phi2) + _apply(graph, sigma2, phi1)
    return (_apply(graph, x, _carre_du_champ(graph, phi1, phi2) / graph.volume) - carried) / 2


def hessian(
    f: Function, graph: PixelGraph, x: Tensor, sigma1: Tensor, sigma2: Tensor, *, create_graph: bool = False
) -> Tensor:
    r"""The Riemannian Hessian applied to two tangent vectors, one number per image.

    .. math:: \operatorname{Hess}_W f(x)(\sigma_1, \sigma_2)
       = \sigma_1^\top \nabla^2 f(x)\, \sigma_2 - \Gamma_x(\sigma_1, \sigma_2)^\top \nabla f(x)

    which for :math:`\sigma_1 = \sigma_2 = \sigma` is the second derivative of f along the geodesic that leaves x with velocity
    σ. The paper prints the last term with a plus.

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

    Raises
    ------
    ValueError, TypeError
        As :func:`christoffel`; also if f does not return one number per image.

    References
    ----------
    Appendix B (iii) of Lin et al. (2019). Taught in :doc:`chapter 5 </book/riemannian_calculus>`.
    """
    _check_image(graph, x, interior=True)
    leaf, grad = _derivative(f, x, create_graph=True)
    with torch.set_grad_enabled(create_graph):
        symbol = christoffel(graph, x, sigma1, sigma2)
        second = _second_derivative(grad, leaf, sigma2, create_graph=create_graph)
        return _total(sigma1 * second) - _total(symbol * grad)


_TOO_UNEVEN = "x has mass on some pixels too many orders below that on others for float64"


def log_volume(graph: PixelGraph, x: Tensor) -> Tensor:
    r"""The logarithm of the Riemannian volume density, :math:`-\tfrac12 \log \det{}' L(x)`.

    The product det' of the positive eigenvalues is the determinant of :math:`L(x) + s\, 1 1^\top / n`
    over s, which is positive definite: one Cholesky factor, no eigenvalues. Dense, in float64 whatever the input's type:
    memory O(n²), time O(n³) per channel.

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., C, H, W) or (H, W)
        Positive on every pixel.

    Returns
    -------
    tensor, (...)
        Summed over channels. Differentiable in x and the graph's kernel.

    Raises
    ------
    ValueError, TypeError
        If x is not in the interior of the simplex, or does not fit the graph.
    RuntimeError
        If x is too ill-conditioned. Up to 13 orders of magnitude between its pixels are safe.

    References
    ----------
    Appendix B (iv) of Lin et al. (2019). Taught in :doc:`chapter 5 </book/riemannian_calculus>`.
    """
    _check_image(graph, x, interior=True)
    matrix = _dense_laplacian(graph.to(dtype=torch.float64), x.double())
    scale = matrix.detach().diagonal(dim1=-2, dim2=-1).mean(-1)
    factor, failed = torch.linalg.cholesky_ex(matrix + scale[..., None, None] / graph.size)
    if bool(failed.any()):
        raise RuntimeError(f"log_volume: {_TOO_UNEVEN}")
    value = scale.log() / 2 - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return (value.sum(-1) if x.dim() > 2 else value).to(x.dtype)


def log_volume_gradient(graph: PixelGraph, x: Tensor) -> Tensor:
    r"""The ordinary gradient of :func:`log_volume`, from the effective resistances R of the graph.

    .. math:: \partial_i \log \operatorname{vol}(x) = -\frac{1}{4 d_i} \sum_{j \in N(i)} \omega_{ij} R_{ij}, \qquad
       R_{ij} = L^{+}_{ii} + L^{+}_{jj} - 2 L^{+}_{ij}

    Dense, in float64 whatever the input's type: memory O(n²), time O(n³) per channel.

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., H, W)
        Positive on every pixel.

    Returns
    -------
    tensor of the same shape

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As :func:`log_volume`.

    References
    ----------
    Appendix B (iv) of Lin et al. (2019). Taught in :doc:`chapter 5 </book/riemannian_calculus>`.
    """
    _check_image(graph, x, interior=True)
    wide = graph.to(dtype=torch.float64)
    try:
        inverse = _pseudo_inverse(_dense_laplacian(wide, x.double()))
    except torch.linalg.LinAlgError as error:
        raise RuntimeError(f"log_volume_gradient: {_TOO_UNEVEN}") from error
    diagonal = inverse.diagonal(dim1=-2, dim2=-1)
    resistance = diagonal[..., :, None] + diagonal[..., None, :] - 2 * inverse
    return (-(wide._adjacency() * resistance).sum(-1).view_as(x) / (4 * wide.volume)).to(x.dtype)


def laplacian_divergence(graph: PixelGraph) -> Tensor:
    r"""The divergence of the matrix L(x) over its rows, :math:`\sum_i \partial L_{ij} / \partial x_i`, the same at every x.

    .. math:: (\nabla \cdot L)_j = \tfrac12 \Bigl( \sum_i \deg(i) - \sum_{i \in N(j)} \frac{\omega_{ij}}{d_i} \Bigr)

    It vanishes where all degrees are equal, on the complete graph say. On a pixel grid it is zero far from the border only.

    Parameters
    ----------
    graph : PixelGraph

    Returns
    -------
    tensor, (H, W)

    References
    ----------
    The term that Appendix B (v) and equation (8) of Lin et al. (2019) leave out.
    Taught in :doc:`chapter 5 </book/riemannian_calculus>`.
    """
    return (graph.degree.sum() - graph.neighbor_sum(1 / graph.volume)) / 2


def laplace_beltrami(
    f: Function,
    graph: PixelGraph | None,
    x: Tensor,
    *,
    volume: bool = True,
    estimator: str = "exact",
    samples: int = 100,
    generator: torch.Generator | None = None,
    create_graph: bool = False,
) -> Estimate:
    r"""The Laplace–Beltrami operator of the Wasserstein metric, or the Laplacian that additive noise makes.

    .. math:: \Delta_W f = \operatorname{tr}(L \nabla^2 f) + (\nabla \cdot L)^\top \nabla f + \nabla f^\top L\, \nabla \log \operatorname{vol}
       = \frac{1}{\operatorname{vol}} \sum_{ij} \partial_i \bigl( \operatorname{vol} L_{ij}\, \partial_j f \bigr)

    with ``volume=True``; the trace alone, the paper's (8), with ``volume=False``. The trace is exact, a
    Hessian–vector product per pixel, or the mean of :math:`\zeta^\top \nabla^2 f\, \zeta` over samples
    :math:`\zeta \sim N(0, L(x))`, a Hessian–vector product each, without bias.

    Parameters
    ----------
    f : function of images (..., C, H, W) or (H, W) -> (...)
    graph : PixelGraph or None
        None for the Euclidean metric: the ordinary Laplacian, of any real x.
    x : tensor
        Images; positive on every pixel where `volume`.
    volume : bool
        Without effect in the Euclidean metric, whose volume is constant.
    estimator : {"exact", "stochastic"}
        Of the trace. The other terms are always exact, dense: memory O(n²), time O(n³) per channel.
    samples : int
        At least 2, of the stochastic estimator.
    generator : torch.Generator
        Of the stochastic estimator.
    create_graph : bool
        As in :func:`gradient`. Memory grows with the number of Hessian–vector products.

    Returns
    -------
    Estimate
        ``value`` and ``standard_error``, (...) each.

    Raises
    ------
    ValueError, TypeError
        If x does not fit the graph or is no image (with `volume`: not in the interior), f does not return one number per
        image, or an option is out of range.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph, calculus
    >>> square = lambda x: (x**2).sum()
    >>> x = torch.tensor([[0.25, 0.5, 0.25]])
    >>> calculus.laplace_beltrami(square, PixelGraph(1, 3, 1), x, volume=False).value
    tensor(8.)

    References
    ----------
    Appendix B (v) and equation (8) of Lin et al. (2019), corrected.
    Taught in :doc:`chapter 5 </book/riemannian_calculus>`.
    """
    _check_point(graph, x, interior=volume)
    if estimator not in ("exact", "stochastic"):
        raise ValueError(f"estimator must be 'exact' or 'stochastic', got {estimator!r}")
    leaf, grad = _derivative(f, x, create_graph=True)
    with torch.set_grad_enabled(create_graph):
        if estimator == "exact":
            pairs = ((e, e if graph is None else _apply(graph, x, e)) for e in _unit_vectors(x))
            trace = Estimate(_hessian_trace(grad, leaf, pairs, create_graph), _total(torch.zeros_like(x)))
        else:
            trace = _sampled_trace(grad, leaf, _noises(graph, x, samples, generator), create_graph)
        if not volume or graph is None:
            return trace
        drift = laplacian_divergence(graph) + _apply(graph, x, log_volume_gradient(graph, x))
        return Estimate(trace.value + _total(drift * grad), trace.standard_error)


def laplace_beltrami_printed(f: Function, graph: PixelGraph, x: Tensor) -> Tensor:
    r"""The paper's formula for the Laplace–Beltrami operator, as printed, for comparison.

    .. math:: \operatorname{tr}(L \nabla^2 f) + \nabla f^\top L\, \nabla \log \det(L)^{-1/2}

    It lacks :math:`(\nabla \cdot L)^\top \nabla f`: right where all degrees are equal or f's gradient is orthogonal to :math:`\nabla \cdot L`,
    and not otherwise.

    Parameters
    ----------
    f : function of images (..., C, H, W) or (H, W) -> (...)
    graph : PixelGraph
    x : tensor
        Images, positive on every pixel.

    Returns
    -------
    tensor, (...)

    Raises
    ------
    ValueError, TypeError
        As :func:`laplace_beltrami`.

    References
    ----------
    Section 4 and Appendix B (v) of Lin et al. (2019). Taught in :doc:`chapter 5 </book/riemannian_calculus>`.
    """
    _check_image(graph, x, interior=True)
    _, grad = _derivative(f, x, create_graph=False)
    return laplace_beltrami(f, graph, x).value - _total(laplacian_divergence(graph) * grad)


def _unit_vectors(x: Tensor):
    """The unit vectors of one image's pixels, the same for each image of the batch."""
    shape = x.shape[-3:]
    for k in range(shape.numel()):
        e = x.new_zeros(shape.numel())
        e[k] = 1
        yield e.view(shape).expand_as(x)


def _noises(graph: PixelGraph | None, x: Tensor, samples: int, generator: torch.Generator | None):
    """Directions of covariance L(x), or of the identity."""
    _check_whole(samples, "samples", 2)
    _check_generator(generator, x)
    for _ in range(samples):
        if graph is None:
            yield torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        else:
            yield noise.sample(graph, x, 1.0, generator=generator)[0]


def _hessian_trace(grad: Tensor, leaf: Tensor, pairs, create_graph: bool) -> Tensor:
    """The sum of v' H w over the pairs."""
    total = 0
    for v, w in pairs:
        total = total + _total(w * _second_derivative(grad, leaf, v, create_graph=create_graph))
    return total


def _sampled_trace(grad: Tensor, leaf: Tensor, directions, create_graph: bool) -> Estimate:
    draws = torch.stack([_hessian_trace(grad, leaf, [(v, v)], create_graph) for v in directions])
    return Estimate(draws.mean(0), draws.detach().std(0) / len(draws) ** 0.5)


def geodesic(graph: PixelGraph, x: Tensor, sigma: Tensor, *, time: float = 1.0, steps: int = 100) -> Tensor:
    r"""The geodesic from x with initial velocity σ, by Hamilton's equations.

    .. math:: \dot x = L(x)\,\Phi, \qquad \dot\Phi_i = -\frac{1}{4 d_i} \sum_{j \in N(i)} \omega_{ij} (\Phi_i - \Phi_j)^2, \qquad
       \Phi(0) = L(x)^{+} \sigma

    integrated by the classical Runge–Kutta method, of order 4. Mass is conserved to rounding.

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., H, W)
        Positive on every pixel.
    sigma : tensor of the same shape
        A tangent vector.
    time : float
        The end of the interval.
    steps : int
        At least 1.

    Returns
    -------
    tensor, (steps + 1, ..., H, W)
        Differentiable, once, in x and sigma.

    Raises
    ------
    ValueError, TypeError
        If x is not in the interior, sigma is no tangent vector, an option is out of range, or a shape, type or device differs.
    RuntimeError
        If the path leaves the simplex: geodesics of this metric can reach its border.

    References
    ----------
    Appendix B of Lin et al. (2019). Taught in :doc:`chapter 5 </book/riemannian_calculus>`.
    """
    _check_image(graph, x, interior=True)
    _check_whole(steps, "steps")
    if not abs(time) < float("inf"):
        raise ValueError(f"time must be finite, got {time!r}")
    phi, h = _potential(graph, x, sigma, "sigma").value, time / steps

    def flow(x, phi):
        return _apply(graph, x, phi), _carre_du_champ(graph, phi) / (-2 * graph.volume)

    path = [x]
    for k in range(steps):
        a, b = flow(x, phi)
        c, d = flow(x + h / 2 * a, phi + h / 2 * b)
        e, p = flow(x + h / 2 * c, phi + h / 2 * d)
        q, r = flow(x + h * e, phi + h * p)
        x = x + h / 6 * (a + 2 * c + 2 * e + q)
        phi = phi + h / 6 * (b + 2 * d + 2 * p + r)
        if not bool((x >= 0).all()):  # NaN fails it
            raise RuntimeError(f"the geodesic leaves the simplex before time {(k + 1) * h:.3g}: a shorter sigma stays inside")
        path.append(x)
    return torch.stack(path)


def exponential_map(graph: PixelGraph, x: Tensor, sigma: Tensor, *, steps: int = 100) -> Tensor:
    r"""The point that the geodesic from x with velocity σ reaches at time 1, :math:`\exp_x(\sigma)`.

    Parameters
    ----------
    graph, x, sigma, steps
        As in :func:`geodesic`.

    Returns
    -------
    tensor of the shape of x

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As :func:`geodesic`.

    References
    ----------
    Appendix B of Lin et al. (2019). Taught in :doc:`chapter 5 </book/riemannian_calculus>`.
    """
    return geodesic(graph, x, sigma, steps=steps)[-1]

"""The Riemannian volume, and the Laplace–Beltrami operator that needs it."""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from wdtr_lite import checks, noise
from wdtr_lite.calculus.derivatives import (
    UNLESS_NAN,
    Function,
    Metric,
    differentiate,
    hessian_trace,
    raised,
    refuse_wrong_thirds,
)
from wdtr_lite.graph import PixelGraph
from wdtr_lite.metric import operators


class Estimate(NamedTuple):
    """A value per image and its standard error, which is zero where nothing was sampled."""

    value: Tensor  # (...)
    standard_error: Tensor  # (...)


_TOO_UNEVEN = "x has mass on some pixels too many orders below that on others for float64"


def log_volume(graph: PixelGraph, x: Tensor) -> Tensor:
    r"""The logarithm of the Riemannian volume density, :math:`-\tfrac12 \log \det{}' L(x)`.

    The product det' of the positive eigenvalues is the determinant of :math:`L(x) + s\, 1 1^\top /
    n` over s, which is positive definite: one Cholesky factor, no eigenvalues. Dense, in float64
    whatever the input's type: memory O(n²), time O(n³) per channel.

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
    RuntimeError
        If x is too ill-conditioned. Up to 13 orders of magnitude between its pixels are safe.

    References
    ----------
    Appendix B (iv) of Lin et al. (2019).
    """
    checks.image(graph, x, interior=True)
    matrix = operators.dense_laplacian(graph.converted(dtype=torch.float64), x.double())
    scale = matrix.detach().diagonal(dim1=-2, dim2=-1).mean(-1)
    checks.in_range(scale, "log_volume")
    factor, failed = torch.linalg.cholesky_ex(matrix + scale[..., None, None] / graph.size)
    if bool(failed.any()):
        raise RuntimeError(f"log_volume: {_TOO_UNEVEN}")
    value = scale.log() / 2 - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return (value.sum(-1) if x.dim() > 2 else value).to(x.dtype)


def log_volume_gradient(graph: PixelGraph, x: Tensor) -> Tensor:
    r"""The ordinary gradient of :func:`log_volume`, from the effective resistances R of the graph.

    .. math:: \partial_i \log \operatorname{vol}(x)
       = -\frac{1}{4 d_i} \sum_{j \in N(i)} \omega_{ij} R_{ij}, \qquad
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
    RuntimeError
        As :func:`log_volume`.

    References
    ----------
    Appendix B (iv) of Lin et al. (2019).
    """
    checks.image(graph, x, interior=True)
    wide = graph.converted(dtype=torch.float64)
    try:
        inverse = operators.pseudo_inverse(operators.dense_laplacian(wide, x.double()))
    except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
        raise RuntimeError(f"log_volume_gradient: {_TOO_UNEVEN}") from error
    diagonal = inverse.diagonal(dim1=-2, dim2=-1)
    resistance = diagonal[..., :, None] + diagonal[..., None, :] - 2 * inverse
    value = -(wide.adjacency() * resistance).sum(-1).view_as(x) / (4 * wide.volume)
    return checks.in_range(value.to(x.dtype), "log_volume_gradient")


def drift(graph: PixelGraph, x: Tensor) -> Tensor:
    r"""What the volume adds to the Laplace–Beltrami operator, to be multiplied with the gradient:
    :math:`\nabla \cdot L + L\, \nabla \log \operatorname{vol}`, x positive.
    """
    slope = log_volume_gradient(graph, x)
    return laplacian_divergence(graph) + operators.product(graph, x, slope)


def laplacian_divergence(graph: PixelGraph) -> Tensor:
    r"""The divergence of the matrix L(x) over its rows, :math:`\sum_i \partial L_{ij} / \partial
    x_i`, the same at every x.

    .. math:: (\nabla \cdot L)_j
       = \tfrac12 \Bigl( \sum_i \deg(i) - \sum_{i \in N(j)} \frac{\omega_{ij}}{d_i} \Bigr)

    It vanishes where all degrees are equal, on the complete graph say. On a pixel grid it is zero
    far from the border only.

    Parameters
    ----------
    graph : PixelGraph

    Returns
    -------
    tensor, (H, W)

    References
    ----------
    The term that Appendix B (v) and equation (8) of Lin et al. (2019) leave out.
    """
    checks.graph(graph)
    return (graph.degree.sum() - graph.neighbor_sum(1 / graph.volume)) / 2


def laplace_beltrami(
    f: Function,
    metric: Metric,
    x: Tensor,
    *,
    volume: bool = True,
    estimator: str = "exact",
    samples: int = 100,
    generator: torch.Generator | None = None,
    create_graph: bool = False,
) -> Estimate:
    r"""The Laplace–Beltrami operator of the Wasserstein metric, or the Laplacian that additive
    noise makes.

    .. math:: \Delta_W f &= \operatorname{tr}(L \nabla^2 f) + (\nabla \cdot L)^\top \nabla f
       + \nabla f^\top L\, \nabla \log \operatorname{vol} \\
       &= \frac{1}{\operatorname{vol}} \sum_{ij}
       \partial_i \bigl( \operatorname{vol} L_{ij}\, \partial_j f \bigr)

    with ``volume=True``; the trace alone, the paper's (8), with ``volume=False``. The trace is
    exact, a Hessian–vector product per pixel, or the mean of :math:`\zeta^\top \nabla^2 f\, \zeta`
    over samples :math:`\zeta \sim \mathcal N(0, L(x))`, each a Hessian–vector product, unbiased.

    Parameters
    ----------
    f : function of images (..., C, H, W) or (H, W) -> (...)
    metric : PixelGraph or "euclidean"
        Euclidean: the ordinary Laplacian, of any real x.
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
    """
    volume, create_graph = (
        checks.flag(value, name)
        for value, name in ((volume, "volume"), (create_graph, "create_graph"))
    )
    checks.point(metric, x, interior=volume)
    checks.option(estimator, "estimator", ("exact", "stochastic"))
    stochastic = estimator == "stochastic"
    samples = checks.repeats(samples, "samples", 1 + stochastic)
    if stochastic or generator is not None:
        checks.generator(generator, x)
    leaf, grad = differentiate(f, x, create_graph=True)
    if create_graph:
        refuse_wrong_thirds(grad)
    with torch.set_grad_enabled(create_graph):
        if not stochastic:
            pairs = ((e, raised(metric, x, e)) for e in _unit_vectors(x))
            value = hessian_trace(grad, leaf, pairs, create_graph)
            trace = Estimate(value, torch.zeros_like(value))
        else:
            noises = _noises(metric, x, samples, cast(torch.Generator, generator))
            trace = _sampled_trace(grad, leaf, noises, create_graph)
        value = trace.value
        if isinstance(metric, PixelGraph) and volume:
            value = value + operators.image_sum(drift(metric, x) * grad)
        return Estimate(
            checks.in_range(value, "laplace_beltrami", UNLESS_NAN), trace.standard_error
        )


def laplace_beltrami_printed(f: Function, graph: PixelGraph, x: Tensor) -> Tensor:
    r"""The paper's formula for the Laplace–Beltrami operator, as printed, for comparison.

    .. math:: \operatorname{tr}(L \nabla^2 f) + \nabla f^\top L\, \nabla \log \det(L)^{-1/2}

    It lacks :math:`(\nabla \cdot L)^\top \nabla f`: right where all degrees are equal or f's
    gradient is orthogonal to :math:`\nabla \cdot L`, and not otherwise.

    Parameters
    ----------
    f : function of images (..., C, H, W) or (H, W) -> (...)
    graph : PixelGraph
    x : tensor
        Images, positive on every pixel.

    Returns
    -------
    tensor, (...)

    References
    ----------
    Section 4 and Appendix B (v) of Lin et al. (2019).
    """
    checks.image(graph, x, interior=True)
    _, grad = differentiate(f, x, create_graph=False)
    return laplace_beltrami(f, graph, x).value - operators.image_sum(
        laplacian_divergence(graph) * grad
    )


def _unit_vectors(x: Tensor):
    """The unit vectors of one image's pixels, the same for each image of the batch."""
    shape = x.shape[-3:]
    for k in range(shape.numel()):
        e = x.new_zeros(shape.numel())
        e[k] = 1
        yield e.view(shape).expand_as(x)


def _noises(metric: Metric, x: Tensor, samples: int, generator: torch.Generator):
    """Directions of covariance L(x), or of the identity."""
    for _ in range(samples):
        if isinstance(metric, PixelGraph):
            yield noise.sample(metric, x, 1.0, generator=generator)[0]
        else:
            yield torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def _sampled_trace(grad: Tensor, leaf: Tensor, directions, create_graph: bool) -> Estimate:
    draws = torch.stack([hessian_trace(grad, leaf, [(v, v)], create_graph) for v in directions])
    spread = draws.detach().std(0) if draws.numel() else torch.zeros_like(draws[0])
    return Estimate(draws.mean(0), spread / len(draws) ** 0.5)

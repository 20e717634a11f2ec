"""The weights of the pixel graph learnt from examples of the changes that images undergo."""

import math

import numpy as np
import torch
from torch import Tensor

from wdtr_lite import checks
from wdtr_lite.graph import PixelGraph
from wdtr_lite.metric import operators

_TOGETHER = 50  # images whose matrices are held at once
_RANGE = 20.0  # of the logarithm of a weight, to both sides of where it starts
_SPAN = 1e10  # of an image's intensities; beyond, rounding moves the gradient of the fit
_LARGEST = 1e250  # weight to start from, and its inverse the smallest


def log_likelihood(graph: PixelGraph, x: Tensor, xi: Tensor) -> Tensor:
    r"""The log-density of changes under the Wasserstein Gaussian :math:`\mathcal N(0, L(x))`.

    .. math:: \log p(\xi \mid x) = -\tfrac12\, \xi^\top L(x)^{+} \xi
       - \tfrac12 \log \det{}' L(x) - \tfrac{n - 1}{2} \log 2 \pi,

    :math:`\det'` the product of the n - 1 positive eigenvalues: a density on the changes that sum
    to zero. The noise level is in the weights, for :math:`\eta^2 L_\omega(x) = L_{\eta^2
    \omega}(x)`.

    Parameters
    ----------
    graph : PixelGraph
    x : tensor, (..., H, W)
        Positive intensities.
    xi : tensor of the same shape
        Changes that sum to zero.

    Returns
    -------
    tensor, (...)
        In nats, a number for each channel; computed in float64, to its rounding however much the
        intensities differ. It has no derivative, whatever requires one.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph, metric
    >>> x, xi = torch.full((1, 2), 0.5), torch.tensor([[1.0, -1.0]])
    >>> metric.log_likelihood(PixelGraph(1, 2, 1), x, xi)  # variance 2 along xi, of length √2
    tensor(-1.7655)

    References
    ----------
    Section 3 of Lin et al. (2019).
    """
    checks.image(graph, x, interior=True)
    checks.vector(graph, xi, "xi", x)
    checks.zero_sum(xi, x, "xi")
    wide = graph.converted(dtype=torch.float64)
    with torch.no_grad():
        values = [
            _by_elimination(operators.dense_laplacian(wide, images), changes)
            for images, changes in _parts(x, xi)
        ]
    value = torch.cat(values).view(x.shape[:-2]).to(x.dtype)
    return checks.in_range(value, "log_likelihood")


def fit_ground_metric(x: Tensor, xi: Tensor, radius: int) -> PixelGraph:
    r"""The pixel graph whose Wasserstein Gaussian makes given changes most likely.

    .. math:: \omega^\star = \arg\max_\omega \sum_k \log \mathcal N\bigl(\xi_k;
       0, L_\omega(x_k)\bigr), \qquad \omega(o) = \omega(-o) > 0,

    over one weight for each pair of opposite offsets, by L-BFGS in their logarithms, from equal
    weights. Nothing else is free: the changes tell the product :math:`\eta^2 \omega` alone. The
    fitted noise is that of ``noise.sample`` with η = 1; a penalty whose L(x) is divided by its mean
    diagonal sees the ratios of the weights only.

    Parameters
    ----------
    x : tensor, (..., H, W)
        Images, positive on every pixel, the largest intensity of each at most 1e10 times its least.
    xi : tensor of the same shape
        A change of each, which sums to zero: say another image of the same class and mass, less x.
    radius : int
        Of the graph.

    Returns
    -------
    PixelGraph
        With a kernel, of the type and on the device of x; computed in float64. A weight that the
        changes drive to zero ends as small as the likelihood can still tell, at 2e-9 times the
        first at the least.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph, metric, noise
    >>> generator = torch.Generator().manual_seed(0)
    >>> x = torch.rand(500, 3, 4, generator=generator) + 0.1
    >>> kernel = torch.tensor([[1.0, 4.0, 1.0], [2.0, 0.0, 2.0], [1.0, 4.0, 1.0]])
    >>> graph = PixelGraph(3, 4, 1, weight=kernel)
    >>> xi = noise.sample(graph, x, 1.0, generator=generator)[0]
    >>> found = metric.fit_ground_metric(x, xi, 1).kernel
    >>> [[round(float(weight), 1) for weight in row] for row in found]
    [[0.9, 3.8, 1.1], [2.1, 0.0, 2.1], [1.1, 3.8, 0.9]]

    References
    ----------
    Section 3 of Lin et al. (2019) lets the metric be "trained from examples"; Cuturi and Avis
    (2014) learn the cost of transport from labelled histograms.
    """
    checks.field(x)
    checks.alike(xi, x, "xi")
    equal = PixelGraph(x.shape[-2], x.shape[-1], radius).to(x.device, x.dtype)
    checks.some_pixels(x)
    checks.image(equal, x, interior=True)
    checks.bounded(xi, "xi")
    checks.zero_sum(xi, x, "xi")
    _check_span(x)
    with torch.inference_mode(False), torch.enable_grad():
        graph = _most_likely(equal.converted(dtype=torch.float64), x, xi)
        try:
            return graph.to(x.dtype)
        except ValueError as error:
            raise ValueError(
                f"xi must be changes whose weights {x.dtype} holds, got up to "
                f"{float(xi.detach().abs().max()):.2g}: {error}"
            ) from None


def _check_span(x: Tensor) -> None:
    low, high = (v.detach().double() for v in (x.amin((-2, -1)), x.amax((-2, -1))))
    if bool((wide := high > _SPAN * low).any()):
        raise ValueError(
            f"x must have intensities up to {_SPAN:g} times their least in each channel, got "
            f"{float(low[wide][0]):.3g} to {float(high[wide][0]):.3g}"
        )


def _first_weight(equal: PixelGraph, x: Tensor, xi: Tensor) -> float:
    """That of a graph of equal weights whose changes are as large."""
    x, xi = x.detach().double(), xi.detach().double()
    first = float(xi.square().mean() / operators.mean_diagonal(equal, x))
    if not bool(xi.any()):
        raise ValueError("xi must hold a change, got zeros")
    if not 1 / _LARGEST < first < _LARGEST:
        raise ValueError(
            f"xi must have squares, over the intensities of x, from {1 / _LARGEST:g} to "
            f"{_LARGEST:g}, got {first:.2g}"
        )
    return first


def _most_likely(equal: PixelGraph, x: Tensor, xi: Tensor) -> PixelGraph:
    """The fit in float64, from a graph of equal weights."""
    from scipy.optimize import minimize  # half a second that few need

    first, radius = _first_weight(equal, x, xi), equal.radius
    row, column = (equal.offsets[len(equal.offsets) // 2 :] + radius).T

    def graph_of(logarithms: Tensor) -> PixelGraph:
        half = logarithms.new_zeros(2 * radius + 1, 2 * radius + 1)
        half = half.index_put((row, column), first * logarithms.exp())
        return PixelGraph(equal.height, equal.width, radius, weight=half + half.flip(0, 1))

    def loss(logarithms: np.ndarray) -> tuple[float, np.ndarray]:
        """The negative log-likelihood, in nats a pixel, and its gradient."""
        at, total = torch.tensor(logarithms, device=x.device, requires_grad=True), 0.0
        graph = graph_of(at)
        for images, changes in _parts(x, xi):
            laplacian = operators.dense_laplacian(graph, images)
            value, slope = _log_density(laplacian.detach(), changes)
            laplacian.backward(-slope / x.numel(), retain_graph=True)  # the parts share the kernel
            total -= float(value.sum()) / x.numel()
        assert at.grad is not None
        return total, at.grad.cpu().numpy()

    start = np.zeros(len(row))
    bounds = [(-_RANGE, _RANGE)] * len(row)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    with torch.no_grad():
        return graph_of(torch.from_numpy(found.x).to(x.device))


def _parts(*tensors: Tensor) -> zip:
    """Of images (..., H, W) some at a time, (M, H, W), as copies in float64: autograd keeps none
    that was made in inference mode.
    """
    wide = (v.detach().to(torch.float64, copy=True) for v in tensors)
    layers = (v.reshape(-1, *v.shape[-2:]) for v in wide)
    return zip(*(each.split(_TOGETHER) for each in layers), strict=True)


def _log_density(laplacian: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
    r"""Of changes (M, H, W) for the matrices (M, n, n), and the derivative in the matrix, up to
    what is constant: :math:`\tfrac12 (\Phi \Phi^\top - L^{+})` with the potential :math:`\Phi =
    L^{+} \xi`.
    """
    n = laplacian.shape[-1]
    level = laplacian.diagonal(dim1=-2, dim2=-1).mean(-1)  # becomes the constants' eigenvalue
    factor = torch.linalg.cholesky(laplacian + level[:, None, None] / n)
    inverse = torch.cholesky_inverse(factor)
    change = (xi - xi.mean((-2, -1), keepdim=True)).flatten(1)[..., None]  # without its rounding
    potential = inverse @ change
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - level.log()
    work = (change * potential).sum((-2, -1))
    value = -(work + log_det + (n - 1) * math.log(2 * math.pi)) / 2
    return value, (potential * potential.mT - inverse) / 2


def _by_elimination(laplacian: Tensor, xi: Tensor) -> Tensor:
    r"""The log-density of changes (M, H, W) for the matrices (M, n, n), by Gaussian elimination of
    all pixels but the last: with the degree :math:`p` of each among those that remain and the
    change :math:`c` that it hands on, :math:`\xi^\top L^{+} \xi = \sum c^2 / p` and
    :math:`\det{}' L = n \prod p`. Edges are added, never subtracted, so that the degrees keep all
    their digits; a Cholesky factor of L loses them.
    """
    n, edges = laplacian.shape[-1], -laplacian  # above the diagonal
    change = (xi - xi.mean((-2, -1), keepdim=True)).flatten(1)  # without its rounding
    value = change.new_full(change.shape[:1], (n - 1) * math.log(2 * math.pi) + math.log(n))
    for k in range(n - 1):
        own, rest = edges[:, k, k + 1 :], edges[:, k + 1 :, k + 1 :]
        degree = own.sum(-1, keepdim=True)
        shares = own / degree
        value += change[:, k].square() / degree[:, 0] + degree[:, 0].log()
        change[:, k + 1 :] += change[:, k, None] * shares
        rest.baddbmm_(own[..., None], shares[:, None])
    return -value / 2

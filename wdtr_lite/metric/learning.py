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
        In nats, a number for each channel; computed in float64.

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
            _log_density(operators.dense_laplacian(wide, images), changes)[0]
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
        Images, positive on every pixel.
    xi : tensor of the same shape
        A change of each, which sums to zero: say another image of the same class and mass, less x.
    radius : int
        Of the graph.

    Returns
    -------
    PixelGraph
        With a kernel, of the type and on the device of x; computed in float64. A weight that the
        changes drive to zero ends at 2e-9 times the first.

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
    from scipy.optimize import minimize  # half a second that few need

    checks.field(x)
    checks.alike(xi, x, "xi")
    equal = PixelGraph(x.shape[-2], x.shape[-1], radius).to(x.device, x.dtype)
    checks.some_pixels(x)
    checks.image(equal, x, interior=True)
    checks.bounded(xi, "xi")
    checks.zero_sum(xi, x, "xi")
    first = float(xi.detach().square().mean() / operators.mean_diagonal(equal, x.detach()))
    if not first > 0:
        raise ValueError("xi must hold a change, got zeros")
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
        return graph_of(torch.from_numpy(found.x).to(x.device)).to(x.dtype)


def _parts(*tensors: Tensor) -> zip:
    """Of images (..., H, W) some at a time, (M, H, W) in float64."""
    layers = (v.detach().double().reshape(-1, *v.shape[-2:]) for v in tensors)
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

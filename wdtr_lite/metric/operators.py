"""The algebra of L(x) on a pixel graph, unchecked: x may have either sign."""

import torch
from torch import Tensor
from torch.nn import functional as F

from wdtr_lite import checks
from wdtr_lite.graph import PixelGraph
from wdtr_lite.metric.source import Source


def product(graph: PixelGraph, x: Tensor, v: Tensor, source: Source | None = None) -> Tensor:
    """L(x) v, or (L(x) + alpha P) v."""
    u = x / graph.volume
    if not source:
        return density_product(graph, u, diagonal(graph, u), v)
    # L leaves nothing of a level, which is much larger than the rest where alpha is small.
    apart = v - v.mean((-2, -1), keepdim=True)
    return density_product(graph, u, diagonal(graph, u), apart) + source.product(v)


def density_product(graph: PixelGraph, u: Tensor, diagonal: Tensor, v: Tensor) -> Tensor:
    """L(x) v from the density u = x / d and the diagonal of L(x)."""
    return diagonal * v - u / 2 * graph.weighted_sum(v) - graph.weighted_sum(u * v) / 2


def diagonal(graph: PixelGraph, u: Tensor) -> Tensor:
    """The diagonal of L(x), of the density u = x / d."""
    return (u * graph.degree + graph.weighted_sum(u)) / 2


def carre_du_champ(graph: PixelGraph, v: Tensor, w: Tensor | None = None) -> Tensor:
    r"""Half the sum over neighbours of :math:`\omega_{ij} (v_i - v_j)(w_i - w_j)`, (..., H, W),
    with w = v by default.
    """
    if w is None:
        sums = graph.weighted_sum(torch.stack([v, v * v]))
        return (graph.degree * v * v + sums[1]) / 2 - v * sums[0]
    sums = graph.weighted_sum(torch.stack(torch.broadcast_tensors(v, w, v * w)))
    return (graph.degree * v * w + sums[2] - v * sums[1] - w * sums[0]) / 2


def image_sum(value: Tensor) -> Tensor:
    """Sum over the pixels and the channels, in float64, of an image (..., C, H, W) or (H, W)."""
    return value.sum(tuple(range(-min(3, value.dim()), 0)), dtype=torch.float64).to(value.dtype)


def channel_sum(value: Tensor) -> Tensor:
    """Sum over the channels of (..., C), or of the only one, ()."""
    return value.sum(-1) if value.dim() else value


def mean_diagonal(graph: PixelGraph, x: Tensor) -> Tensor:
    """The mean of the diagonal of L(x) over all pixels, channels and images."""
    return graph.degree.sum() * x.mean()


def grad_norm_sq(
    graph: PixelGraph, x: Tensor, grad: Tensor, source: Source | None = None
) -> Tensor:
    """The squared norm (7), of gradients that are centred first against rounding, and a source's
    part.
    """
    u = x / graph.volume
    mass = u.sum((-2, -1), keepdim=True)
    apart = grad - (u * grad).sum((-2, -1), keepdim=True) / mass.where(mass > 0, 1)
    value = image_sum(u * carre_du_champ(graph, apart)).clamp_min(0)
    return value + channel_sum(source.norm_sq(grad)) if source else value


def algorithm1(graph: PixelGraph, x: Tensor, grad: Tensor) -> Tensor:
    """The squared norm (7) by the paper's Algorithm 1."""
    u, g = (v.reshape(-1, 1, graph.height, graph.width) for v in (x / graph.volume, grad))
    total = x.new_zeros(len(u))
    for (dy, dx), weight in graph.forward_offsets():  # line 2
        here, there = (0, max(0, -dx)), (dy, max(0, dx))
        k, m = (x.new_zeros(1, 1, dy + 1, abs(dx) + 1) for _ in range(2))  # lines 3 and 4
        k[0, 0][here], k[0, 0][there] = 1, -1
        m[0, 0][here], m[0, 0][there] = 0.5, 0.5
        h, v = F.conv2d(g, k), F.conv2d(u, m)  # lines 5 and 6
        total = total + weight * (h * h * v).sum((1, 2, 3))  # lines 7 to 9
    return total.reshape(x.shape[:-2]).sum(-1) if x.dim() > 2 else total[0]


def dense_laplacian(graph: PixelGraph, x: Tensor) -> Tensor:
    """L(x) as a matrix, (..., n, n)."""
    return laplacian_of(graph.adjacency(), (x / graph.volume).flatten(-2))


def laplacian_of(weights: Tensor, density: Tensor) -> Tensor:
    """The same, of all weights (n, n) and the density x / d as (..., n)."""
    edges = weights * (density[..., :, None] + density[..., None, :]) / 2
    return torch.diag_embed(edges.sum(-1)) - edges


def pseudo_inverse(laplacian: Tensor) -> Tensor:
    """The pseudo-inverse where the null space is the constants: of the Laplacian of a connected
    graph.
    """
    n = laplacian.shape[-1]
    level = laplacian.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    constant = laplacian.new_full((n, n), 1 / n)
    return torch.linalg.inv(laplacian + level * constant) - constant / level


def squared_unit(graph: PixelGraph, unit: str | None) -> float | Tensor:
    """What L is multiplied by: 1, or 2 / (n s_r)."""
    checks.graph(graph)
    checks.option(unit, "unit", (None, "pixel"))
    if unit is None:
        return 1.0
    axes = (graph.height > 1) + (graph.width > 1)
    moment = sum(2 * weight * (dy**2 + dx**2) for (dy, dx), weight in graph.forward_offsets())
    return 2 / (graph.size * moment / axes)

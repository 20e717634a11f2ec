"""The geodesic distance of the metric, in the manner of Benamou and Brenier."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wdtr_lite import checks
from wdtr_lite.graph import PixelGraph
from wdtr_lite.metric import operators

LARGEST = 2**14  # rows of Newton's matrix, of 2 GiB


class DynamicDistance(NamedTuple):
    """A Benamou-Brenier distance and its geodesic."""

    distance: Tensor  # (...)
    path: Tensor  # (steps + 1, ..., H, W), from x to y


def dynamic_distance(
    graph: PixelGraph, x: Tensor, y: Tensor, steps: int = 16, *, unit: str | None = None
) -> DynamicDistance:
    r"""The geodesic distance of the metric :math:`L(x)^{+}`, in the manner of Benamou and Brenier,
    for small graphs.

    .. math:: d_L(x, y)^2 = \min_{x_0 = x,\, x_N = y}\; N \sum_{k=0}^{N-1}
       (x_{k+1} - x_k)^\top L\bigl(\tfrac{x_k + x_{k+1}}{2}\bigr)^{+} (x_{k+1} - x_k)

    over paths of N steps with non-negative pixels. The problem is convex; a logarithmic barrier and
    Newton's method find its value to 1e-8. Against continuous time the error falls as
    :math:`1/N^2`. Dense: memory :math:`O((N n)^2)`, time :math:`O((N n)^3)`, seconds for N n =
    1,500; on the CPU in float64, whatever the input's type.

    Parameters
    ----------
    graph : PixelGraph
    x, y : tensors, (..., C, H, W) or (H, W)
        Images of equal mass in each channel; black pixels are allowed.
    steps : int
        N, at least 2; N n is at most 16,384.
    unit : {None, "pixel"}
        ``"pixel"`` gives pixels where the mass is 1.

    Returns
    -------
    DynamicDistance
        ``distance`` (...) is differentiable, once, in x and y, where they differ.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph, metric
    >>> line = PixelGraph(1, 2, 1).to(dtype=torch.float64)
    >>> left, right = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
    >>> round(float(metric.dynamic_distance(line, left, right).distance), 6)
    1.0

    References
    ----------
    Benamou and Brenier (2000); Maas (2011) for graphs, there with the logarithmic mean.
    """
    checks.image(graph, x)
    checks.image(graph, y, "y")
    checks.like(y, x, "y")
    steps = checks.whole(steps, "steps", 2, max(2, LARGEST // graph.size))
    checks.same_mass(x, y)
    factor = operators.squared_unit(graph, unit)
    ends = [z.detach().double().resolve_neg().cpu().reshape(-1, graph.size).numpy() for z in (x, y)]
    wide = graph.converted("cpu", torch.float64)
    weights, volume = (z.detach().numpy() for z in (wide.adjacency(), wide.volume.flatten()))
    paths = []
    for a, b in zip(*ends, strict=True):
        exponent = int(np.frexp(a.sum())[1])
        exponent *= abs(exponent) > 300  # else squares are in range
        a, b = np.ldexp(a, -exponent), np.ldexp(b, -exponent)
        paths.append(np.ldexp(_geodesic_path(weights, volume, a, b, steps), exponent))
    inside = np.reshape(paths, (len(paths), steps + 1, graph.size)).swapaxes(0, 1)[1:-1]
    inside = torch.as_tensor(inside, device=x.device, dtype=x.dtype).reshape(steps - 1, *x.shape)
    mass = (x + y).sum((-2, -1), keepdim=True)
    mass = mass.where(mass > 0, 1)
    path = torch.cat([x[None], inside * (mass / mass.detach()), y[None]])  # it has their mass
    middle, move = ((path[1:] + path[:-1]) / 2).double(), path.diff(dim=0).double()
    move = (move - move.mean((-2, -1), keepdim=True)).flatten(-2)
    # Where nothing moves black pixels may be out of reach.
    middle = middle.where((move != 0).any(-1)[..., None, None], 1)
    wide = graph.converted(dtype=torch.float64)
    inverse = operators.pseudo_inverse(operators.dense_laplacian(wide, middle))
    squared = steps * torch.einsum("k...i,k...ij,k...j->...", move, inverse, move)
    squared = (squared.sum(-1) if x.dim() > 2 else squared) / factor
    distance = torch.where(squared > 0, squared.where(squared > 0, 1).sqrt(), 0)
    distance = checks.in_range(distance.to(x.dtype), "dynamic_distance")
    return DynamicDistance(distance, path.detach())


def _geodesic_path(
    weights: np.ndarray, volume: np.ndarray, x: np.ndarray, y: np.ndarray, steps: int
) -> np.ndarray:
    """The minimising path (steps + 1, n) between two measures of equal mass, by Newton's method
    with a barrier.
    """
    from scipy.linalg import cho_factor, cho_solve  # half a second that few need

    n, mass = len(x), x.sum()
    time = np.linspace(0, 1, steps + 1)[:, None]
    path = x + time * (y - x)
    if np.array_equal(x, y):
        return path
    path[1:-1] += 0.1 * (mass / n - path[1:-1])
    basis = np.linalg.qr(np.c_[np.ones(n), np.eye(n)[:, 1:]])[0][:, 1:]  # of the vectors of sum 0
    barrier = _energy(weights, volume, path) / (n * steps)
    while True:
        for _ in range(50):
            value, gradient, hessian = _action(weights, volume, path)
            inside = path[1:-1]
            slope = gradient - barrier / inside
            k = np.arange(steps - 1)
            hessian[k, :, k, :] += np.einsum("ki,ij->kij", barrier / inside**2, np.eye(n))
            reduced = np.einsum("ia,kilj,jb->kalb", basis, hessian, basis, optimize=True)
            size = (steps - 1) * (n - 1)
            move = cho_solve(cho_factor(reduced.reshape(size, size)), (slope @ basis).ravel())
            move = -move.reshape(steps - 1, n - 1) @ basis.T
            decrement = -float((slope * move).sum())
            length = min(1.0, 0.99 / max(float((-move / inside).max()), 1e-300))
            goal = value - barrier * np.log(inside).sum()
            while length > 1e-12:
                trial = path.copy()
                trial[1:-1] += length * move
                reached = _energy(weights, volume, trial) - barrier * np.log(trial[1:-1]).sum()
                if reached <= goal - 0.1 * length * decrement:
                    path = trial
                    break
                length /= 2
            if decrement <= 1e-3 * barrier or length <= 1e-12:
                break
        if barrier * n * (steps - 1) <= 1e-8 * value:
            return path
        barrier /= 10


def _parts(weights, volume, path):
    """The moves of a path, the potentials of its steps and the pseudo-inverses, in float64."""
    middle, move = (path[1:] + path[:-1]) / 2 / volume, np.diff(path, axis=0)
    matrix = operators.laplacian_of(torch.from_numpy(weights), torch.from_numpy(middle))
    inverse = operators.pseudo_inverse(matrix).numpy()
    return move, np.einsum("kij,kj->ki", inverse, move), inverse


def _energy(weights, volume, path) -> float:
    move, phi, _ = _parts(weights, volume, path)
    return len(move) * float((move * phi).sum())


def _action(weights, volume, path):
    """The action of a path with its gradient and Hessian in the inner points, (N - 1, n) and
    (N - 1, n, N - 1, n).
    """
    move, phi, inverse = _parts(weights, volume, path)
    steps, n = move.shape
    fall = phi[:, :, None] - phi[:, None, :]
    slope = weights * fall / (2 * volume[:, None])  # (N, n, n)
    q = (slope * fall).sum(-1)  # the derivative of phi' L(x) phi in x
    k_matrix = -slope.transpose(0, 2, 1)
    i = np.arange(n)
    k_matrix[:, i, i] += slope.sum(-1)
    ahead, behind = np.eye(n) - k_matrix / 2, -(np.eye(n) + k_matrix / 2)
    gradient = steps * ((2 * phi - q / 2)[:-1] + (-2 * phi - q / 2)[1:])
    hessian = np.zeros((steps - 1, n, steps - 1, n))
    k = np.arange(steps - 1)
    blocks = [
        [2 * steps * a.transpose(0, 2, 1) @ inverse @ b for b in (behind, ahead)]
        for a in (behind, ahead)
    ]
    hessian[k, :, k, :] = blocks[1][1][:-1] + blocks[0][0][1:]
    if steps > 2:
        hessian[k[:-1], :, k[1:], :] = blocks[0][1][1:-1]
        hessian[k[1:], :, k[:-1], :] = blocks[1][0][1:-1]
    return steps * float((move * phi).sum()), gradient, hessian

"""Static optimal transport between images.

An image is a histogram: its pixels are points of the plane, one unit apart, and its intensities,
divided by their sum, are masses on those points. Every function here normalises its images that
way, so distances compare images of equal mass. The exact linear programs are solved by POT's
network simplex.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import ot
import torch
from scipy.optimize import brentq
from scipy.spatial.distance import cdist

__all__ = [
    "TransportPlan",
    "as_measure",
    "displacement_interpolation",
    "euclidean_interpolation",
    "fixed_distance_interpolate",
    "ground_cost",
    "pairwise_distances",
    "sinkhorn_distance",
    "transport_plan",
    "wasserstein_distance",
]

Image = np.ndarray | torch.Tensor


class TransportPlan(NamedTuple):
    r"""A sparse transport plan: entry k moves ``mass[k]`` from pixel ``source[k]`` to ``target[k]``.

    Pixels are numbered row by row, :math:`i = \text{row} \cdot W + \text{column}`. An optimal plan of
    two images with n and m lit pixels has at most n + m - 1 entries.

    Taught in :doc:`chapter 1 </book/discrete_ot>`.
    """

    source: np.ndarray  # (k,) int64
    target: np.ndarray  # (k,) int64
    mass: np.ndarray  # (k,) float64, sums to 1


def as_measure(image: Image) -> Image:
    r"""The image as a probability measure on its pixels: :math:`x_i / \sum_j x_j`.

    Parameters
    ----------
    image : array or tensor, (..., H, W)
        Non-negative intensities in any unit. Floating types keep their precision; integers
        become float64.

    Returns
    -------
    array or tensor, (..., H, W)
        Of the same kind, every H x W image summing to 1.

    Raises
    ------
    ValueError
        If a pixel is negative, NaN or infinite, if an image has no mass, or has no two axes.

    Examples
    --------
    >>> import numpy as np
    >>> from wdtr_lite.transport import as_measure
    >>> as_measure(np.array([[1, 3], [0, 4]]))
    array([[0.125, 0.375],
           [0.   , 0.5  ]])

    Taught in :doc:`chapter 1 </book/discrete_ot>`.
    """
    return _measure(image, "image")


def ground_cost(
    shape: tuple[int, int],
    p: float = 2,
    *,
    metric: str | Callable | np.ndarray = "euclidean",
) -> np.ndarray:
    r"""The cost matrix :math:`C_{ij} = d_\Omega(a_i, a_j)^p` between all pixel centres of a grid.

    Parameters
    ----------
    shape : (H, W)
        Grid of n = H W pixels, one unit apart, numbered row by row.
    p : float
        Exponent, at least 1.
    metric : str, callable or array, optional
        The ground metric :math:`d_\Omega`: a name that :func:`scipy.spatial.distance.cdist` knows,
        a function of two points ``(row, column)``, or an (n, n) matrix of distances.

    Returns
    -------
    array, (n, n)
        float64, in pixels to the power p.

    Raises
    ------
    ValueError
        If the shape is not two positive whole numbers, p < 1, the name is unknown, or a distance is negative or
        not finite.

    Examples
    --------
    >>> from wdtr_lite.transport import ground_cost
    >>> ground_cost((1, 3))
    array([[0., 1., 4.],
           [1., 0., 1.],
           [4., 1., 0.]])

    References
    ----------
    Equation (4) of Lin, Dukler, Li and Montúfar (2019). Taught in :doc:`chapter 1 </book/discrete_ot>`.
    """
    if len(shape) != 2 or not all(k >= 1 and k == int(k) for k in shape):
        raise ValueError(f"shape must be two positive whole numbers (H, W), got {shape!r}")
    _check_p(p)
    pixels = _pixels(np.arange(shape[0] * shape[1]), shape[1])
    if isinstance(metric, str) and metric == "euclidean":
        return _euclidean_cost(pixels, pixels, p)
    if isinstance(metric, str) or callable(metric):
        try:
            distance = cdist(pixels, pixels, metric)
        except ValueError as error:
            raise ValueError(f"metric={metric!r}: {error}") from error
    else:
        distance = _matrix(metric, len(pixels), "metric")
    _check_cost(distance, "metric")
    return _power(distance, p)


def transport_plan(x: Image, y: Image, *, p: float = 2, cost: np.ndarray | None = None) -> TransportPlan:
    r"""An exact optimal plan of the linear program (4), as a sparse list of moves.

    .. math:: \min_{\Pi \ge 0} \sum_{ij} C_{ij} \Pi_{ij}
       \quad\text{subject to}\quad \Pi 1 = x,\ \Pi^\top 1 = y.

    On a grid the optimum can be reached by several plans; this is the one POT's network simplex finds.

    Parameters
    ----------
    x, y : array or tensor, (H, W)
        Images, normalised to mass 1.
    p : float
        Exponent of the Euclidean pixel distance. With `cost` it is not used.
    cost : array, (n, n), optional
        Costs :math:`d_\Omega^p` to use instead, n = H W; see :func:`ground_cost`.

    Raises
    ------
    ValueError
        If an image or the cost is invalid, or the shapes differ.
    RuntimeError
        If the solver does not finish, or a large p spreads the costs beyond its precision.

    Examples
    --------
    >>> import numpy as np
    >>> from wdtr_lite.transport import transport_plan
    >>> plan = transport_plan(np.array([[1, 1, 0]]), np.array([[0, 1, 1]]))
    >>> for i, j, mass in zip(*plan):
    ...     print(f"{mass:.1f} from pixel {i} to pixel {j}")
    0.5 from pixel 0 to pixel 1
    0.5 from pixel 1 to pixel 2

    References
    ----------
    Equation (4) of Lin et al. (2019); solver: Bonneel et al. (2011), in POT, Flamary et al. (2021).
    Taught in :doc:`chapter 1 </book/discrete_ot>`.
    """
    return _plan(*_supports(x, y), p, cost)


def wasserstein_distance(x: Image, y: Image, *, p: float = 2, cost: np.ndarray | None = None) -> float:
    r"""The exact Wasserstein-p distance, in pixels: the optimum of (4) to the power 1/p.

    .. math:: W_p(x, y) = \Bigl(\min_{\Pi} \sum_{ij} d_\Omega(a_i, a_j)^p\, \Pi_{ij}\Bigr)^{1/p}

    Parameters
    ----------
    x, y : array or tensor, (H, W)
        Images, normalised to mass 1.
    p : float
        Order, at least 1.
    cost : array, (n, n), optional
        Costs that are already :math:`d_\Omega^p`; the result is then in the unit of :math:`d_\Omega`.

    Raises
    ------
    ValueError
        If an image, `p` or the cost is invalid, or the shapes differ.
    RuntimeError
        If the solver does not finish, or a large p spreads the costs beyond its precision.

    Examples
    --------
    >>> import numpy as np
    >>> from wdtr_lite.transport import wasserstein_distance
    >>> x = np.zeros((5, 5))
    >>> x[0, 0] = 1
    >>> round(wasserstein_distance(x, np.roll(x, (3, 4), (0, 1))), 12)
    5.0

    References
    ----------
    Equation (4) of Lin et al. (2019); Peyré and Cuturi (2019), chapter 2.
    Taught in :doc:`chapter 1 </book/discrete_ot>`.
    """
    a, b, width = _supports(x, y)
    return _solve(a, b, width, p, cost)[1]


def pairwise_distances(
    xs: Sequence[Image] | Image,
    ys: Sequence[Image] | Image | None = None,
    *,
    p: float = 2,
    cost: np.ndarray | None = None,
    workers: int | None = None,
) -> np.ndarray:
    """Exact Wasserstein-p distances between all pairs of images, on all cores.

    Parameters
    ----------
    xs, ys : arrays or tensors, (N, H, W) and (M, H, W)
        Images, each normalised to mass 1. Without `ys`: among `xs`, each pair
        solved once unless a `cost` is given, which need not be symmetric.
    p, cost
        As in :func:`wasserstein_distance`.
    workers : int, optional
        Threads (the solver runs outside Python's lock). By default one per available core.

    Returns
    -------
    array, (N, M)
        float64, in pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from wdtr_lite.transport import pairwise_distances
    >>> digits = np.eye(9).reshape(9, 3, 3)  # one lit pixel each
    >>> pairwise_distances(digits[:3])
    array([[0., 1., 2.],
           [1., 0., 1.],
           [2., 1., 0.]])

    Taught in :doc:`chapter 1 </book/discrete_ot>`.
    """
    _check_p(p)
    a, width = _support_list(xs, "xs")
    b, width_y = (a, width) if ys is None else _support_list(ys, "ys")
    if (a[0].size, width) != (b[0].size, width_y):
        shapes = [(k.size // w, w) for k, w in ((a[0], width), (b[0], width_y))]
        raise ValueError(f"xs and ys must hold images of one shape, got {shapes[0]} and {shapes[1]}")
    if workers is None:  # the cores this process may use, where the system tells
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    elif workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers!r}")
    symmetric = ys is None and cost is None
    pairs = list(combinations(range(len(a)), 2) if symmetric else product(range(len(a)), range(len(b))))

    def distance(pair: tuple[int, int]) -> float:
        return _solve(a[pair[0]], b[pair[1]], width, p, cost)[1]

    with ThreadPoolExecutor(workers) as pool:
        values = list(pool.map(distance, pairs))
    out = np.zeros((len(a), len(b)))
    if pairs:
        i, j = np.array(pairs).T
        out[i, j] = values
        if symmetric:
            out[j, i] = values
    return out


def sinkhorn_distance(
    x: Image,
    y: Image,
    *,
    epsilon: float,
    p: float = 2,
    debiased: bool = False,
    tol: float | None = None,
    max_iter: int = 10_000,
) -> Image:
    r"""Entropic transport between batches of images, by Sinkhorn's iteration in the log domain.

    With :math:`P_\varepsilon = \arg\min_P \langle P, C\rangle + \varepsilon\, \mathrm{KL}(P \mid x \otimes y)`
    over the plans from x to y, and :math:`\mathrm{OT}_\varepsilon(x, y)` that minimum, it returns

    * the transport cost of the entropic plan, :math:`\langle P_\varepsilon, C\rangle^{1/p}`, which, converged, is at
      least :math:`W_p` and, for two equal images, not zero;
    * with ``debiased=True`` the Sinkhorn divergence :math:`\bigl(\mathrm{OT}_\varepsilon(x, y) -
      \tfrac12\mathrm{OT}_\varepsilon(x, x) - \tfrac12\mathrm{OT}_\varepsilon(y, y)\bigr)^{1/p}`,
      which is zero for two equal images. Only for p up to 2, where it is never negative. At an
      `epsilon` far above the largest cost it drowns in rounding.

    The n x n cost is never formed: for p = 2 the kernel is a product over rows and columns, so one
    iteration costs O(n (H + W)) per pair; for other p it is summed row by row, O(n²). Costs are
    lowered from the grid's diameter to `epsilon` by halves before the iteration proper. Differentiable
    once in x and y, by implicit differentiation of the fixed point.

    Parameters
    ----------
    x, y : tensors or arrays, (B, H, W) or (H, W)
        Images, normalised to mass 1, on one device and of one floating type.
    epsilon : float
        Entropic regularisation, in pixels to the power p.
    p : float
        Order of the Euclidean pixel distance, at least 1.
    debiased : bool
        Return the Sinkhorn divergence instead.
    tol : float, optional
        Largest L1 error of the plan's marginals at which to stop; by default 1e-6 in float64, 1e-3 in
        lower precision.
    max_iter : int
        Bound on the iterations; the smaller `epsilon`, the more are needed, most of all between
        images of separate blobs. Reaching it is a ``RuntimeWarning``.

    Returns
    -------
    tensor or array, (B,) or ()
        In pixels.

    Raises
    ------
    ValueError
        If an image is invalid, shapes, types or devices differ, or `epsilon`, `p`, `tol` or `max_iter` is out
        of range; also where `epsilon` is below the rounding error of the largest cost.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.transport import sinkhorn_distance
    >>> x = torch.zeros(1, 5, 5, dtype=torch.float64)
    >>> x[0, 1, 1] = 1
    >>> sinkhorn_distance(x, x.roll(2, -1), epsilon=0.1)
    tensor([2.], dtype=torch.float64)

    References
    ----------
    Cuturi (2013); Feydy et al. (2019); Luise et al. (2018) for the derivative.
    Taught in :doc:`chapter 1 </book/discrete_ot>`.
    """
    for name, value in (("epsilon", epsilon), ("max_iter", max_iter), *([] if tol is None else [("tol", tol)])):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, got {value!r}")
    _check_p(p)
    if debiased and p > 2:
        raise ValueError(f"p must be at most 2 where debiased, for the divergence can be negative beyond, got {p!r}")
    a, b = (torch.as_tensor(_measure(z, name)) for z, name in ((x, "x"), (y, "y")))
    if a.shape != b.shape or a.dim() not in (2, 3):
        raise ValueError(f"x and y must both be (B, H, W) or (H, W), got {tuple(a.shape)} and {tuple(b.shape)}")
    if (a.dtype, a.device) != (b.dtype, b.device):
        raise ValueError(f"x and y must share type and device, got {a.dtype}, {a.device} and {b.dtype}, {b.device}")
    shape, a, b = a.shape[:-2], a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:])
    tol = tol or (1e-6 if a.dtype == torch.float64 else 1e-3)
    if debiased:
        both = torch.cat([a, b])
        own = _EntropicProblem(both, both, p, epsilon, tol, max_iter).optimum()
        value = _EntropicProblem(a, b, p, epsilon, tol, max_iter).optimum() - sum(own.chunk(2)) / 2
    else:
        value = _EntropicProblem(a, b, p, epsilon, tol, max_iter).transport_cost()
    floor = torch.finfo(a.dtype).tiny  # a divergence rounded below zero is zero, with zero gradient
    value = torch.where(value > floor, value.clamp_min(floor) ** (1 / p), 0.0).reshape(shape)
    if value.requires_grad:
        value.register_hook(_refuse_second_derivative)
    return value if isinstance(x, torch.Tensor) or isinstance(y, torch.Tensor) else value.numpy()


def displacement_interpolation(x: Image, y: Image, t: float, *, plan: TransportPlan | None = None) -> Image:
    r"""The image at time t of the Wasserstein-2 geodesic from x to y.

    Each move (i, j, mass) of the optimal plan puts its mass at :math:`(1 - t)\,a_i + t\,a_j`; what falls
    between pixel centres is shared among the four around it, bilinearly. This splatting keeps the mass
    and its centre, and spreads it with a standard deviation of at most half a pixel per axis.

    Parameters
    ----------
    x, y : array or tensor, (H, W)
        Images, normalised to mass 1.
    t : float
        Time in [0, 1].
    plan : TransportPlan, optional
        An optimal plan from x to y, where one is at hand; found anew otherwise.

    Returns
    -------
    array or tensor, (H, W)
        Mass 1, of x's kind.

    Raises
    ------
    ValueError
        If an image is invalid, t lies outside [0, 1], or the plan does not move x to y.

    Examples
    --------
    >>> import numpy as np
    >>> from wdtr_lite.transport import displacement_interpolation
    >>> displacement_interpolation(np.array([[1, 0, 0]]), np.array([[0, 0, 1]]), 0.25)
    array([[0.5, 0.5, 0. ]])

    References
    ----------
    McCann (1997); Peyré and Cuturi (2019), section 7.1. Taught in :doc:`chapter 2 </book/interpolation>`.
    """
    _check_time(t)
    a, b, width = _supports(x, y)
    if plan is None:
        plan = _plan(a, b, width)
    else:
        _check_plan(plan, a, b)
    start = _pixels(plan.source, width)
    position = start + t * (_pixels(plan.target, width) - start)  # mass that stays is not rounded off its pixel
    corner = np.floor(position).astype(np.int64)
    fraction = position - corner
    height = a.size // width
    image = np.zeros((height + 1, width + 1))  # a border that only zero weights reach
    for step in product((0, 1), repeat=2):
        weight = np.where(step, fraction, 1 - fraction).prod(axis=1)
        np.add.at(image, tuple((corner + step).T), plan.mass * weight)
    return _like(image[:height, :width], x)


def euclidean_interpolation(x: Image, y: Image, t: float) -> Image:
    r"""The cross-fade :math:`(1 - t)\,x + t\,y` of the two measures, the geodesic of L2.

    Parameters
    ----------
    x, y : array or tensor, (H, W)
        Images, normalised to mass 1.
    t : float
        Time in [0, 1].

    Returns
    -------
    array or tensor, (H, W)
        Mass 1, of x's kind.

    Raises
    ------
    ValueError
        If an image is invalid, the shapes differ, or t lies outside [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> from wdtr_lite.transport import euclidean_interpolation
    >>> euclidean_interpolation(np.array([[1, 0, 0]]), np.array([[0, 0, 1]]), 0.25)
    array([[0.75, 0.  , 0.25]])

    Taught in :doc:`chapter 2 </book/interpolation>`.
    """
    _check_time(t)
    a, b = _dense_pair(x, y)
    return _like((1 - t) * a + t * b, x)


def fixed_distance_interpolate(x: Image, y: Image, distance: float, *, metric: str = "wasserstein") -> Image:
    r"""The point at a given distance from x on the geodesic towards y, as in Figure 1.

    The distance is the one realised on the pixel grid. Splatting spreads mass that has moved a
    fraction of a pixel, so the interpolate at time t usually lies farther from x than
    :math:`t\,W_2(x, y)`; the time is therefore solved for, by Brent's method on exact distances.

    Parameters
    ----------
    x, y : array or tensor, (H, W)
        Images, normalised to mass 1.
    distance : float
        From 0 to the distance of x and y: for ``"wasserstein"`` W2, in pixels; for ``"euclidean"`` the
        L2 norm of the difference of the measures.
    metric : {"wasserstein", "euclidean"}

    Returns
    -------
    array or tensor, (H, W)
        Mass 1, of x's kind; its distance from x is `distance` to about 1e-6 relative for float64
        images and distances above 1e-3.

    Raises
    ------
    ValueError
        If an image is invalid, the metric is unknown, or the distance is negative or beyond y.

    Examples
    --------
    >>> import numpy as np
    >>> from wdtr_lite.transport import fixed_distance_interpolate, wasserstein_distance
    >>> x, y = np.array([[1, 0, 0, 0]]), np.array([[0, 0, 0, 1]])
    >>> z = fixed_distance_interpolate(x, y, 1.5)
    >>> round(wasserstein_distance(x, z), 6)
    1.5

    References
    ----------
    Figure 1 of Lin et al. (2019). Taught in :doc:`chapter 2 </book/interpolation>`.
    """
    if metric not in ("wasserstein", "euclidean"):
        raise ValueError(f"metric must be 'wasserstein' or 'euclidean', got {metric!r}")
    a, b = _dense_pair(x, y)
    total = wasserstein_distance(a, b) if metric == "wasserstein" else float(np.linalg.norm(b - a))
    if not 0 <= distance <= total * (1 + 1e-9):  # a distance measured by the caller may be rounded up
        raise ValueError(f"distance={distance!r} must lie between 0 and the distance of x and y, {total:.6g}")
    if distance == 0 or distance >= total * (1 - 1e-9):
        return _like(b if distance else a, x)
    if metric == "euclidean":
        return _like(a + distance / total * (b - a), x)
    plan = transport_plan(a, b)

    def excess(t: float) -> float:
        return (wasserstein_distance(a, displacement_interpolation(a, b, t, plan=plan)) if t else 0.0) - distance

    return _like(displacement_interpolation(a, b, brentq(excess, 0, 1, xtol=1e-30, rtol=1e-9), plan=plan), x)


# ---------------------------------------------------------------- images, supports and checks


class _Support(NamedTuple):
    """The lit pixels of a measure."""

    index: np.ndarray  # (k,)
    mass: np.ndarray  # (k,)
    size: int  # number of pixels of the image


def _to_numpy(image: Image) -> np.ndarray:
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        return (image.float() if image.dtype == torch.bfloat16 else image).numpy()  # NumPy has no bfloat16
    return np.asarray(image)


def _measure(image: Image, name: str) -> Image:
    if isinstance(image, torch.Tensor):
        real, floating = not image.is_complex(), image.is_floating_point()
    else:
        image = np.asarray(image)
        real, floating = image.dtype.kind in "fiub", image.dtype.kind == "f"
    if not real:
        raise ValueError(f"{name} must hold real numbers, got {image.dtype}")
    if not floating:
        image = image.double() if isinstance(image, torch.Tensor) else image.astype(np.float64)
    if image.ndim < 2 or 0 in image.shape:
        raise ValueError(f"{name} must have shape (..., H, W), got {tuple(image.shape)}")
    with np.errstate(all="ignore"):
        mass = image.sum((-2, -1))
    if not bool(((mass > 0) & (mass < float("inf"))).all()) or not bool((image >= 0).all()):
        raise ValueError(f"{name} must be non-negative, finite and of positive mass: {_describe(_to_numpy(image))}")
    return image / mass[..., None, None]


def _describe(image: np.ndarray) -> str:
    """What is wrong with an image that is not a measure."""
    if not np.isfinite(image).all():
        return f"it holds {image[~np.isfinite(image)][0]}"
    if (image < 0).any():
        return f"its least pixel is {image.min():g}"
    with np.errstate(over="ignore"):
        mass = image.sum((-2, -1))
    return f"a total mass is {mass[~((mass > 0) & (mass < np.inf))].flat[0]:g}"


def _dense(image: Image, name: str) -> np.ndarray:
    """The image as a float64 measure."""
    image = _to_numpy(image)
    return _measure(image.astype(np.float64) if image.dtype.kind == "f" else image, name)


def _dense_pair(x: Image, y: Image) -> tuple[np.ndarray, np.ndarray]:
    """Both images as float64 measures (H, W)."""
    a, b = _dense(x, "x"), _dense(y, "y")
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"x and y must both have shape (H, W), got {a.shape} and {b.shape}")
    return a, b


def _supports(x: Image, y: Image) -> tuple[_Support, _Support, int]:
    a, b = _dense_pair(x, y)
    return _support(a), _support(b), a.shape[1]


def _support(measure: np.ndarray) -> _Support:
    flat = measure.ravel()
    index = flat.nonzero()[0]
    return _Support(index, flat[index], flat.size)


def _support_list(images: Sequence[Image] | Image, name: str) -> tuple[list[_Support], int]:
    batch = [_to_numpy(z) for z in images]
    shapes = sorted({z.shape for z in batch})
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise ValueError(f"{name} must have shape (N, H, W), got {len(batch)} images of shapes {shapes}")
    return [_support(z) for z in _dense(np.stack(batch), name)], shapes[0][1]


def _like(image: np.ndarray, x: Image) -> Image:
    """A float64 image in the kind, floating type and device of x."""
    if isinstance(x, torch.Tensor):
        return torch.as_tensor(image, dtype=x.dtype if x.is_floating_point() else torch.float64, device=x.device)
    x = np.asarray(x)
    return image.astype(x.dtype if x.dtype.kind == "f" else np.float64)


def _pixels(index: np.ndarray, width: int) -> np.ndarray:
    """Pixel numbers as points (row, column): (k, 2) float64."""
    return np.stack(np.divmod(index, width), axis=1).astype(np.float64)


def _euclidean_cost(a: np.ndarray, b: np.ndarray, p: float) -> np.ndarray:
    squared = cdist(a, b, "sqeuclidean")
    return squared if p == 2 else _power(squared, p / 2)


def _power(distance: np.ndarray, p: float) -> np.ndarray:
    try:
        with np.errstate(over="raise"):
            return distance**p
    except FloatingPointError as error:
        raise ValueError(f"p is too large for the distances of this grid: their power {p!r} overflows") from error


def _check_p(p: float) -> None:
    if not 1 <= p < float("inf"):
        raise ValueError(f"p must be at least 1 and finite, got {p!r}")


def _check_time(t: float) -> None:
    if not 0 <= t <= 1:
        raise ValueError(f"t must lie in [0, 1], got {t!r}")


def _matrix(given: np.ndarray, n: int, name: str) -> np.ndarray:
    matrix = _to_numpy(given)
    if matrix.shape != (n, n):
        raise ValueError(f"{name} must have shape ({n}, {n}), one row and column per pixel, got {matrix.shape}")
    if matrix.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, got {matrix.dtype}")
    return matrix.astype(np.float64, copy=False)


def _check_cost(cost: np.ndarray, name: str) -> None:
    valid = (cost >= 0) & (cost < np.inf)
    if not valid.all():
        raise ValueError(f"{name} must be finite and non-negative, it holds {cost[~valid][0]:g}")


def _check_plan(plan: TransportPlan, a: _Support, b: _Support) -> None:
    if not (np.asarray(plan.mass) >= 0).all():
        raise ValueError(f"plan must hold non-negative masses, its least is {np.min(plan.mass):g}")
    for end, support, field, name in ((plan.source, a, "source", "x"), (plan.target, b, "target", "y")):
        inside = (np.asarray(end) >= 0) & (np.asarray(end) < support.size)
        error = -np.bincount(support.index, support.mass, support.size + 1)
        np.add.at(error, np.where(inside, end, support.size), plan.mass)  # outside the image: pixel n
        if abs(error).sum() > 1e-6:
            raise ValueError(f"plan must move x to y: its {field} differs from {name} by {abs(error).sum():.2g}")


def _solve(
    a: _Support, b: _Support, width: int, p: float, cost: np.ndarray | None
) -> tuple[np.ndarray, float]:
    """The optimal flow between two supports, (len(a), len(b)), and its W_p."""
    _check_p(p)
    if cost is None:
        cost = _euclidean_cost(_pixels(a.index, width), _pixels(b.index, width), p)
    else:
        cost = _matrix(cost, a.size, "cost")[np.ix_(a.index, b.index)]
        _check_cost(cost, "cost")
    exponent = int(np.frexp(cost.max())[1])
    cost = np.ldexp(cost, -exponent)  # the solver's tolerances are absolute; a power of two does not round
    flow, log = ot.emd(a.mass, b.mass, cost, numItermax=10**8, log=True, center_dual=False, check_marginals=False)
    if log["warning"] is not None:
        raise RuntimeError(f"the network simplex failed: {log['warning']}")
    slack = (cost - log["u"][:, None] - log["v"]).min()
    least = max(a.mass @ log["u"] + b.mass @ log["v"] + min(slack, 0), 0) ** (1 / p)  # by duality
    distance = float(log["cost"]) ** (1 / p)
    if distance - least > 1e-6:
        raise RuntimeError(f"p={p!r} spreads the costs beyond the solver's precision: take a smaller p")
    return flow, distance * 2 ** (exponent / p)


def _plan(a: _Support, b: _Support, width: int, p: float = 2, cost: np.ndarray | None = None) -> TransportPlan:
    flow, _ = _solve(a, b, width, p, cost)
    i, j = flow.nonzero()
    return TransportPlan(a.index[i], b.index[j], flow[i, j])


# ---------------------------------------------------------------- Sinkhorn's iteration


class _EntropicProblem:
    """A batch of entropic problems on one grid, solved on construction.

    Only the potential g is kept; the other is f = half_step(g). Log-masses of black pixels are the
    logarithm of the smallest normal number instead of -inf, which keeps every gradient finite. Where
    a is b the two potentials are equal, and averaging g with its half step at least halves the error.
    """

    def __init__(self, a: torch.Tensor, b: torch.Tensor, p: float, epsilon: float, tol: float, max_iter: int):
        self.a, self.b, self.epsilon = a, b, epsilon  # a, b: (B, H, W)
        tiny = torch.finfo(a.dtype).tiny
        self.log_a, self.log_b = (a + tiny).log(), (b + tiny).log()
        rows, cols = (torch.arange(k, dtype=a.dtype, device=a.device) for k in a.shape[-2:])
        rows, cols = ((k - k[:, None]) ** 2 for k in (rows, cols))  # squared offsets
        self.diameter = float((rows.max() + cols.max()) ** (p / 2))
        if epsilon < torch.finfo(a.dtype).eps * self.diameter:
            raise ValueError(
                f"epsilon must exceed the rounding error of costs up to {self.diameter:.3g} in {a.dtype}, got {epsilon!r}"
            )
        self.log_sum = _separable(rows, cols) if p == 2 else _row_by_row(rows, cols, p)
        self.g = self._fixed_point(tol, max_iter)

    def half_step(
        self, potential: torch.Tensor, log_mass: torch.Tensor, epsilon: float, exact: bool = False
    ) -> torch.Tensor:
        rate = potential.new_full((1, 1, 1), 1 / epsilon)
        return -epsilon * self.log_sum(log_mass + potential / epsilon, rate, exact)

    def sweep(self, g: torch.Tensor, epsilon: float, exact: bool = False) -> torch.Tensor:
        f = self.half_step(g, self.log_b, epsilon, exact)
        return (g + f) / 2 if self.a is self.b else self.half_step(f, self.log_a, epsilon, exact)

    def _fixed_point(self, tol: float, max_iter: int) -> torch.Tensor:
        with torch.no_grad():
            g, epsilon, step = torch.zeros_like(self.b), self.diameter, 2 if self.a is self.b else 1
            while epsilon > self.epsilon:
                g, epsilon = self.sweep(g, epsilon), epsilon / 2
            for _ in range(max_iter):
                g, last = self.sweep(g, self.epsilon), g
                # The plan of (f, last) has rows a and columns b exp(excess).
                excess = step * (last - g) / self.epsilon
                error = float((self.b * excess.clamp(max=1).expm1().abs()).sum((-2, -1)).max())
                if error <= tol:
                    break
            else:
                warnings.warn(
                    f"sinkhorn_distance stopped at max_iter={max_iter} with a marginal error of {error:.1e} "
                    f"(tol={tol:.1e}): raise max_iter, tol or epsilon, or pass float64 images",
                    RuntimeWarning,
                    stacklevel=4,
                )
        g = self.sweep(g, self.epsilon, exact=True)
        if g.requires_grad:
            g.register_hook(self._implicit_gradient(g.detach(), tol, max_iter))
        return g

    def _implicit_gradient(self, g: torch.Tensor, tol: float, max_iter: int) -> Callable:
        """Backward hook that turns the gradient of the last sweep into that of its fixed point."""
        g = g.requires_grad_()
        image = self.sweep(g, self.epsilon)

        def hook(grad: torch.Tensor) -> torch.Tensor:
            total = grad
            for _ in range(max_iter):
                last = total
                total = grad + torch.autograd.grad(image, g, last, retain_graph=True)[0]
                if bool((total - last).abs().max() <= tol * grad.abs().max()):
                    break
            return total

        return hook

    def transport_cost(self) -> torch.Tensor:
        """<P, C>: each row's mean cost is minus the derivative of its log-sum in 1 / epsilon."""
        with torch.enable_grad():
            rate = self.a.new_full((len(self.a), 1, 1), 1 / self.epsilon).requires_grad_()
            total = (self.a * self.log_sum(self.log_b + self.g / self.epsilon, rate, exact=True)).sum()
            return -torch.autograd.grad(total, rate, create_graph=self.g.requires_grad)[0].flatten()

    def optimum(self) -> torch.Tensor:
        """OT_epsilon = <a, f> + <b, g>; its gradient is (f, g), by the envelope theorem."""
        f = self.half_step(self.g, self.log_b, self.epsilon)
        return (self.a * f.detach() + self.b * self.g.detach()).sum((-2, -1))


def _refuse_second_derivative(grad: torch.Tensor) -> None:
    if torch.is_grad_enabled():
        raise RuntimeError("sinkhorn_distance is differentiable once: no create_graph=True through it")


def _separable(rows: torch.Tensor, cols: torch.Tensor) -> Callable:
    """(v, rate, exact) -> log sum_j exp(v_j - rate C_ij) for the cost rows + cols, one axis after the other.

    v is (B, H, W), rate (1, 1, 1) or (B, 1, 1). The value is always exact to rounding; with `exact`
    so is the derivative in the log-mass of black pixels, whose terms underflow in the sum.
    """

    def contract(v: torch.Tensor, exponent: torch.Tensor, exact: bool) -> torch.Tensor:
        if exact:
            return (v[..., None] + exponent[..., None, :, :]).logsumexp(-2)
        # A matrix product of exponentials; the lines in which a sum underflows are summed with a maximum
        # for each entry of the result.
        floor = torch.finfo(v.dtype).tiny / torch.finfo(v.dtype).eps  # what is lost to underflow is below rounding
        top = v.amax(-1, keepdim=True)
        total = (v - top).exp() @ exponent.exp()
        out = total.clamp_min(floor).log() + top
        weak = (total < floor).any(-1)  # (B, H)
        if bool(weak.any()):
            exponent = exponent.expand(len(v), -1, -1)[weak.nonzero()[:, 0]]
            out = out.index_put((weak,), (v[weak][..., None] + exponent).logsumexp(-2))
        return out

    def log_sum(v: torch.Tensor, rate: torch.Tensor, exact: bool = False) -> torch.Tensor:
        return contract(contract(v, -rate * cols, exact).mT, -rate * rows, exact).mT

    return log_sum


def _row_by_row(rows: torch.Tensor, cols: torch.Tensor, p: float) -> Callable:
    """The same for C = (rows + cols)^(p/2), one row of the result at a time and always exact."""

    def log_sum(v: torch.Tensor, rate: torch.Tensor, exact: bool = True) -> torch.Tensor:
        out = []
        for row in rows:
            cost = (row[:, None, None] + cols) ** (p / 2)  # (H, W, W)
            out.append((v[..., None] - rate[..., None] * cost).logsumexp((-3, -2)))
        return torch.stack(out, dim=-2)

    return log_sum

"""The linear program (4), solved exactly by POT's network simplex."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, product
from typing import Any, NamedTuple, cast

import numpy as np
from scipy.spatial.distance import cdist

from wdtr_lite import checks
from wdtr_lite.transport import measures
from wdtr_lite.transport.measures import Image


class TransportPlan(NamedTuple):
    r"""A sparse transport plan: entry k moves ``mass[k]`` from pixel ``source[k]`` to
    ``target[k]``.

    Pixels are numbered row by row, :math:`i = \text{row} \cdot W + \text{column}`. An optimal plan
    of two images with n and m lit pixels has at most n + m - 1 entries.
    """

    source: np.ndarray  # (k,) int64
    target: np.ndarray  # (k,) int64
    mass: np.ndarray  # (k,) float64, sums to 1


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

    Examples
    --------
    >>> from wdtr_lite.transport import ground_cost
    >>> ground_cost((1, 3))
    array([[0., 1., 4.],
           [1., 0., 1.],
           [4., 1., 0.]])

    References
    ----------
    Equation (4) of Lin, Dukler, Li and Montúfar (2019).
    """
    shape, p = checks.grid(shape), checks.order(p)
    pixels = measures.pixels(np.arange(shape[0] * shape[1]), shape[1])
    if isinstance(metric, str) and metric == "euclidean":
        return _euclidean_cost(pixels, pixels, p)
    if isinstance(metric, str) or callable(metric):
        try:
            if callable(metric) and np.iscomplexobj(metric(pixels[0], pixels[-1])):
                raise TypeError("a complex number")  # of which cdist takes the real part
            distance = cdist(pixels, pixels, cast(Any, metric))
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ValueError(
                f"metric must give distances, got {checks.shown(metric)}: {error}"
            ) from error
    else:
        distance = _matrix(metric, len(pixels), "metric")
    checks.costs(distance, "metric")
    return _power(distance, p, p)


def transport_plan(
    x: Image, y: Image, *, p: float = 2, cost: np.ndarray | None = None
) -> TransportPlan:
    r"""An exact optimal plan of the linear program (4), as a sparse list of moves.

    .. math:: \min_{\Pi \ge 0} \sum_{ij} C_{ij} \Pi_{ij}
       \quad\text{subject to}\quad \Pi 1 = x,\ \Pi^\top 1 = y.

    On a grid the optimum can be reached by several plans; this is the one POT's network simplex
    finds.

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
    """
    return plan_between(*measures.supports(x, y), p, cost)


def wasserstein_distance(
    x: Image, y: Image, *, p: float = 2, cost: np.ndarray | None = None
) -> float:
    r"""The exact Wasserstein-p distance, in pixels: the optimum of (4) to the power 1/p.

    .. math:: \mathrm W_p(x, y)
       = \Bigl(\min_{\Pi} \sum_{ij} d_\Omega(a_i, a_j)^p\, \Pi_{ij}\Bigr)^{1/p}

    Parameters
    ----------
    x, y : array or tensor, (H, W)
        Images, normalised to mass 1.
    p : float
        Order, at least 1.
    cost : array, (n, n), optional
        Costs that are already :math:`d_\Omega^p`; the result is then in the unit of
        :math:`d_\Omega`.

    Returns
    -------
    float
        The optimum of (4) has an error of about 1e-16 times the largest cost: for p = 2 and ten
        pixels a distance of 1e-5 is right to 1e-6, one of 1e-7 to 1 %, one of 1e-8 is 0.

    Raises
    ------
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
    """
    a, b, width = measures.supports(x, y)
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
    """
    p = checks.order(p)
    workers = checks.whole(_cores() if workers is None else workers, "workers")
    a, width = measures.support_list(xs, "xs")
    b, width_y = (a, width) if ys is None else measures.support_list(ys, "ys")
    if (a[0].size, width) != (b[0].size, width_y):
        shapes = [(k.size // w, w) for k, w in ((a[0], width), (b[0], width_y))]
        raise ValueError(
            f"xs and ys must hold images of one shape, got {shapes[0]} and {shapes[1]}"
        )
    symmetric = ys is None and cost is None
    i, j = range(len(a)), range(len(b))
    pairs = list(combinations(i, 2) if symmetric else product(i, j))

    def distance(pair: tuple[int, int]) -> float:
        return _solve(a[pair[0]], b[pair[1]], width, p, cost)[1]

    with ThreadPoolExecutor(workers) as pool:
        values = list(pool.map(distance, pairs))
    out = np.zeros((len(a), len(b)))
    if pairs:
        out[tuple(np.transpose(pairs))] = values
    return out + out.T if symmetric else out


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _euclidean_cost(a: np.ndarray, b: np.ndarray, p: float) -> np.ndarray:
    squared = cdist(a, b, "sqeuclidean")
    return squared if p == 2 else _power(squared, p / 2, p)


def _power(distance: np.ndarray, exponent: float, p: float) -> np.ndarray:
    try:
        with np.errstate(over="raise"):
            return distance**exponent
    except FloatingPointError as error:
        raise ValueError(
            f"p is too large for the distances of this grid: a power overflows, got {p!r}"
        ) from error


def _matrix(given: np.ndarray, n: int, name: str) -> np.ndarray:
    matrix = measures.to_numpy(checks.array(given, name))
    checks.square(matrix, n, name)
    return matrix.astype(np.float64, copy=False)


def _solve(
    a: measures.Support, b: measures.Support, width: int, p: float, cost: np.ndarray | None
) -> tuple[np.ndarray, float]:
    """The optimal flow between two supports, (len(a), len(b)), and its W_p."""
    import ot  # loads scikit-learn: seconds that only the exact solver needs

    p = checks.order(p)
    checks.pairs(a, b)
    if cost is None:
        cost = _euclidean_cost(measures.pixels(a.index, width), measures.pixels(b.index, width), p)
    else:
        cost = _matrix(cost, a.size, "cost")[np.ix_(a.index, b.index)]
        checks.costs(cost, "cost")
    exponent = int(np.frexp(cost.max())[1])
    cost = np.ldexp(cost, -exponent)  # does not round; the solver's tolerances are absolute
    flow, log = ot.emd(
        a.mass, b.mass, cost, numItermax=10**8, log=True, center_dual=False, check_marginals=False
    )
    if log["warning"] is not None:
        raise RuntimeError(f"the network simplex failed: {log['warning']}")
    slack = (cost - log["u"][:, None] - log["v"]).min()
    least = max(a.mass @ log["u"] + b.mass @ log["v"] + min(slack, 0), 0) ** (1 / p)  # by duality
    distance = float(log["cost"]) ** (1 / p)
    if distance - least > 1e-6:
        raise RuntimeError(
            f"p={p!r} spreads the costs beyond the solver's precision: take a smaller p"
        )
    return flow, distance * 2 ** (exponent / p)


def plan_between(
    a: measures.Support,
    b: measures.Support,
    width: int,
    p: float = 2,
    cost: np.ndarray | None = None,
) -> TransportPlan:
    """As :func:`transport_plan`, of two supports."""
    flow, _ = _solve(a, b, width, p, cost)
    i, j = flow.nonzero()
    return TransportPlan(a.index[i], b.index[j], flow[i, j])

"""Images between two images: along the Wasserstein-2 geodesic, along the straight line, at a given
distance.
"""

from itertools import product
from typing import cast

import numpy as np
from scipy.optimize import brentq

from wdtr_lite import checks
from wdtr_lite.transport import exact, measures
from wdtr_lite.transport.measures import Image

ROUNDING = 1e-8  # the W2 that the solver does not tell from 0


def displacement_interpolation(
    x: Image, y: Image, t: float, *, plan: exact.TransportPlan | None = None
) -> Image:
    r"""The image at time t of the Wasserstein-2 geodesic from x to y.

    Each move (i, j, mass) of the optimal plan puts its mass at :math:`(1 - t)\,a_i + t\,a_j`; what
    falls between pixel centres is shared among the four around it, bilinearly. This splatting keeps
    the mass and its centre, and spreads it with a standard deviation of at most half a pixel per
    axis.

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

    Examples
    --------
    >>> import numpy as np
    >>> from wdtr_lite.transport import displacement_interpolation
    >>> displacement_interpolation(np.array([[1, 0, 0]]), np.array([[0, 0, 1]]), 0.25)
    array([[0.5, 0.5, 0. ]])

    References
    ----------
    McCann (1997); Peyré and Cuturi (2019), section 7.1.
    """
    t = checks.time(t)
    a, b, width = measures.supports(x, y)
    if plan is None:
        plan = exact.plan_between(a, b, width)
    else:
        checks.plan(plan, a, b)
    return measures.like(_splat(plan, t, (a.size // width, width)), x)


def _splat(plan: exact.TransportPlan, t: float, shape: tuple[int, int]) -> np.ndarray:
    """The mass of a plan on its way at time t, shared among pixels bilinearly, (H, W)."""
    height, width = shape
    start, end = measures.pixels(plan.source, width), measures.pixels(plan.target, width)
    position = start + t * (end - start)  # mass that stays is not rounded off its pixel
    corner = np.floor(position).astype(np.int64)
    fraction = position - corner
    image = np.zeros((height + 1, width + 1))  # a border that only zero weights reach
    for step in product((0, 1), repeat=2):
        weight = np.where(step, fraction, 1 - fraction).prod(axis=1)
        np.add.at(image, tuple((corner + step).T), plan.mass * weight)
    return image[:height, :width]


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

    Examples
    --------
    >>> import numpy as np
    >>> from wdtr_lite.transport import euclidean_interpolation
    >>> euclidean_interpolation(np.array([[1, 0, 0]]), np.array([[0, 0, 1]]), 0.25)
    array([[0.75, 0.  , 0.25]])
    """
    t = checks.time(t)
    a, b = measures.dense_pair(x, y)
    return measures.like((1 - t) * a + t * b, x)


def fixed_distance_interpolate(
    x: Image, y: Image, distance: float, *, metric: str = "wasserstein"
) -> Image:
    r"""The point at a given distance from x on the geodesic towards y, as in Figure 1.

    The distance is the one realised on the pixel grid. Splatting spreads mass that has moved a
    fraction of a pixel, so the interpolate at time t usually lies farther from x than
    :math:`t\,\mathrm W_2(x, y)`; the time is therefore solved for, by Brent's method on exact
    distances.

    Parameters
    ----------
    x, y : array or tensor, (H, W)
        Images, normalised to mass 1.
    distance : float
        From 0 to the distance of x and y: for ``"wasserstein"`` W2, in pixels; for ``"euclidean"``
        the L2 norm of the difference of the measures.
    metric : {"wasserstein", "euclidean"}

    Returns
    -------
    array or tensor, (H, W)
        Mass 1, of x's kind; its distance from x is `distance` to about 1e-6 relative for float64
        images and distances above 1e-3. A distance below 1e-8 gives x: no solver sees it.

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
    Figure 1 of Lin et al. (2019).
    """
    distance = checks.number(distance, "distance")
    checks.option(metric, "metric", ("wasserstein", "euclidean"))
    a, b = measures.dense_pair(x, y)
    straight = metric == "euclidean"
    total = float(np.linalg.norm(b - a)) if straight else exact.wasserstein_distance(a, b)
    # A distance measured by the caller may be rounded up.
    if distance > total * (1 + 1e-9):
        raise ValueError(f"distance must be at most that of x and y, {total:.6g}, got {distance!r}")
    if distance == 0 or distance >= total * (1 - 1e-9):
        return measures.like(b if distance else a, x)
    if distance < ROUNDING and not straight:
        return measures.like(a, x)
    if straight:
        return measures.like(a + distance / total * (b - a), x)
    plan, (height, width) = exact.transport_plan(a, b), a.shape

    def between(t: float) -> np.ndarray:
        return _splat(plan, t, (height, width))

    def excess(t: float) -> float:
        return (exact.wasserstein_distance(a, between(t)) if t else 0.0) - distance

    t = brentq(excess, 0, 1, xtol=1e-30, rtol=1e-9, maxiter=300)  # pyright: ignore[reportArgumentType]
    return measures.like(between(cast(float, t)), x)

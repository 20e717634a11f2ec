"""Geodesics, by Hamilton's equations."""

import torch
from torch import Tensor

from wdtr_lite import checks
from wdtr_lite.graph import PixelGraph
from wdtr_lite.metric import operators, tangent


def geodesic(
    graph: PixelGraph, x: Tensor, sigma: Tensor, *, time: float = 1.0, steps: int = 100
) -> Tensor:
    r"""The geodesic from x with initial velocity σ, by Hamilton's equations.

    .. math:: \dot x = L(x)\,\Phi, \qquad
       \dot\Phi_i = -\frac{1}{4 d_i} \sum_{j \in N(i)} \omega_{ij} (\Phi_i - \Phi_j)^2, \qquad
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
    RuntimeError
        If the path leaves the simplex: geodesics of this metric can reach its border.

    References
    ----------
    Appendix B of Lin et al. (2019).
    """
    checks.image(graph, x, interior=True)
    steps, time = checks.repeats(steps, "steps"), checks.finite(time, "time")
    phi, h = tangent.solve(graph, x, sigma, "sigma").value, time / steps

    def flow(x, phi):
        bend = operators.carre_du_champ(graph, phi)
        return operators.product(graph, x, phi), bend / (-2 * graph.volume)

    path = [x]
    for k in range(steps):
        a, b = flow(x, phi)
        c, d = flow(x + h / 2 * a, phi + h / 2 * b)
        e, p = flow(x + h / 2 * c, phi + h / 2 * d)
        q, r = flow(x + h * e, phi + h * p)
        x = x + h / 6 * (a + 2 * c + 2 * e + q)
        phi = phi + h / 6 * (b + 2 * d + 2 * p + r)
        if not bool((x >= 0).all()):  # NaN fails it
            raise RuntimeError(
                f"the geodesic leaves the simplex before time {(k + 1) * h:.3g}: "
                "a shorter sigma or time stays inside"
            )
        path.append(x)
    return torch.stack(path)


def exponential_map(graph: PixelGraph, x: Tensor, sigma: Tensor, *, steps: int = 100) -> Tensor:
    r"""The point that the geodesic from x with velocity σ reaches at time 1,
    :math:`\exp_x(\sigma)`.

    Parameters
    ----------
    graph, x, sigma, steps
        As in :func:`geodesic`.

    Returns
    -------
    tensor of the shape of x

    Raises
    ------
    RuntimeError
        As :func:`geodesic`.

    References
    ----------
    Appendix B of Lin et al. (2019).
    """
    return geodesic(graph, x, sigma, steps=steps)[-1]

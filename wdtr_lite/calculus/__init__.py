r"""Riemannian calculus on the probability simplex with the Wasserstein-2 metric, :math:`g_x =
L(x)^{+}`.

A function f takes images (..., C, H, W) or (H, W) to one number each, (...), every image on its
own. What needs :math:`L(x)^{+}` or its determinant holds in the interior of the simplex: every
pixel positive. The f given must be deterministic and let gradients through: one that detaches its
input counts as constant. Tangent vectors sum to zero in each channel; a colour image is a point of
a product of simplices.
"""

from wdtr_lite.calculus.derivatives import christoffel, gradient, hessian
from wdtr_lite.calculus.geodesics import exponential_map, geodesic
from wdtr_lite.calculus.laplacian import (
    Estimate,
    laplace_beltrami,
    laplace_beltrami_printed,
    laplacian_divergence,
    log_volume,
    log_volume_gradient,
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

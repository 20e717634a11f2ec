"""Static optimal transport between images.

An image is a histogram: its pixels are points of the plane, one unit apart, and its intensities,
divided by their sum, are masses on those points. Every function here normalises its images that
way, so distances compare images of equal mass. The exact linear programs are solved by POT's
network simplex.
"""

from wdtr_lite.transport.exact import (
    TransportPlan,
    ground_cost,
    pairwise_distances,
    transport_plan,
    wasserstein_distance,
)
from wdtr_lite.transport.interpolation import (
    displacement_interpolation,
    euclidean_interpolation,
    fixed_distance_interpolate,
)
from wdtr_lite.transport.measures import as_measure
from wdtr_lite.transport.sinkhorn import sinkhorn_distance

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

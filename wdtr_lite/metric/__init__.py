r"""The Wasserstein-2 metric tensor of an image, and its inverse, the weighted Laplacian L(x).

Images are tensors (..., C, H, W) or (H, W). Each channel is a measure of its own: matrices come per
channel, norms and distances are summed over the channels, so that one image gives one number.
``unit="pixel"`` multiplies L(x) by :math:`2 / (n s_r)`, :math:`s_r` the sum of the weights times
the squared offsets, the mean of the row and the column part: moving a blob that is wide against the
radius and far from the border by one pixel then measures about 1. Derivatives are those of
:mod:`torch.autograd`, not of ``torch.func``. A norm or product that its type cannot hold is a
``RuntimeError``.
"""

from wdtr_lite.metric.dynamic import DynamicDistance, dynamic_distance
from wdtr_lite.metric.learning import fit_ground_metric, log_likelihood
from wdtr_lite.metric.source import Source
from wdtr_lite.metric.tangent import Potential, inner, potential, tangent_norm_sq
from wdtr_lite.metric.weighted_laplacian import (
    apply_laplacian,
    grad_norm_sq,
    grad_norm_sq_algorithm1,
    laplacian,
    laplacian_sparse,
    mean_diagonal,
    mobility,
)

__all__ = [
    "DynamicDistance",
    "Potential",
    "Source",
    "apply_laplacian",
    "dynamic_distance",
    "fit_ground_metric",
    "grad_norm_sq",
    "grad_norm_sq_algorithm1",
    "inner",
    "laplacian",
    "laplacian_sparse",
    "log_likelihood",
    "mean_diagonal",
    "mobility",
    "potential",
    "tangent_norm_sq",
]

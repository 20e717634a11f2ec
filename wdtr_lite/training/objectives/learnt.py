"""The Wasserstein penalty on a pixel graph whose weights were learnt."""

import torch

from wdtr_lite.graph import PixelGraph
from wdtr_lite.training.objectives.base import register
from wdtr_lite.training.objectives.penalties import Penalty

WEIGHTS = {
    (0, 1): 0.05,
    (0, 2): 0.32,
    (1, -2): 0.19,
    (1, -1): 0.82,
    (1, 1): 1.0,
    (1, 2): 0.01,
    (2, 0): 0.04,
    (4, -1): 0.11,
    (4, 0): 0.25,
}
"""By offset, the largest 1, of the graph that the experiment ``ground_metric`` learns from digits
of 14 x 14 pixels and their nearest neighbours, the mean of its draws; each is also that of the
opposite offset.
"""


@register
class LearntWasserstein(Penalty):
    """The Wasserstein penalty with weights learnt from digits: the data's own ground metric."""

    name, label = "learnt_wasserstein", "Wasserstein penalty, learnt graph"
    options = ("eta", "of", "mode", "scale")

    def input_metric(self, size: tuple[int, int], device: torch.device) -> PixelGraph:
        return learnt_graph(*size).to(device)


def learnt_graph(height: int, width: int) -> PixelGraph:
    """The pixel graph with :data:`WEIGHTS`."""
    radius = max(abs(step) for offset in WEIGHTS for step in offset)
    half = torch.zeros(2 * radius + 1, 2 * radius + 1, dtype=torch.float32)
    for (row, column), weight in WEIGHTS.items():
        half[radius + row, radius + column] = weight
    return PixelGraph(height, width, radius, weight=half + half.flip(0, 1))

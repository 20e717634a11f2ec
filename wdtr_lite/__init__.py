"""Wasserstein diffusion Tikhonov regularization, taught and re-tested.

The companion package of the WDTR book. Importing it needs neither matplotlib nor ipywidgets;
``wdtr_lite.plots`` and ``wdtr_lite.widgets``, which draw the book's figures, do.
"""

from wdtr_lite import (
    attacks,
    calculus,
    data,
    graph,
    metric,
    models,
    noise,
    regularizer,
    robustness,
    train,
    transport,
)
from wdtr_lite.graph import PixelGraph

__all__ = [
    "PixelGraph",
    "attacks",
    "calculus",
    "data",
    "graph",
    "metric",
    "models",
    "noise",
    "regularizer",
    "robustness",
    "train",
    "transport",
]
__version__ = "0.1.0"

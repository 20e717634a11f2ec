"""Wasserstein diffusion Tikhonov regularization, taught and re-tested.

The companion package of the WDTR book. A submodule loads when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wdtr_lite import (
        attacks,
        book,
        calculus,
        data,
        evaluation,
        graph,
        kernels,
        metric,
        models,
        noise,
        regularizer,
        study,
        training,
        transport,
    )
    from wdtr_lite.graph import PixelGraph
    from wdtr_lite.regularizer import GradientPenalty

__all__ = [
    "GradientPenalty",
    "PixelGraph",
    "attacks",
    "book",
    "calculus",
    "data",
    "evaluation",
    "graph",
    "kernels",
    "metric",
    "models",
    "noise",
    "regularizer",
    "study",
    "training",
    "transport",
]
__version__ = "0.2.0"

_HOMES = {"PixelGraph": "graph", "GradientPenalty": "regularizer"}


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f"wdtr_lite.{_HOMES[name]}"), name)
    if name in __all__:
        return import_module(f"wdtr_lite.{name}")
    raise AttributeError(f"module 'wdtr_lite' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

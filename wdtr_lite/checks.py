"""Every check of an argument, once.

What is given is refused with a ``TypeError`` if it is of the wrong kind (no tensor, another
floating type than the graph's, an int64 label that is none), with a ``ValueError`` if its value,
shape or device is wrong: a negative or non-finite pixel, a shape that does not fit the graph, a
number out of range, an unknown option. The message names the argument and the value. Values are
looked at in eager execution only: not under compilation, a ``torch.func`` transform or CUDA-graph
capture.
"""

from numbers import Integral, Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from wdtr_lite.graph import PixelGraph


def whole(value: int, name: str, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def number(value: float, name: str, *, positive: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not (0 < value if positive else 0 <= value) or not value < float("inf"):
        raise ValueError(
            f"{name} must be {'positive' if positive else 'non-negative'} and finite, got {value!r}"
        )


def floating(v: Tensor, name: str) -> None:
    if not isinstance(v, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(v).__name__}")
    if not v.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor, got {v.dtype}")


def generator(generator: torch.Generator, x: Tensor) -> None:
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if generator.device.type != x.device.type:
        raise ValueError(f"generator is on {generator.device} but x is on {x.device}")


def on_graph(graph: "PixelGraph", v: Tensor, name: str, shape: torch.Size | None = None) -> None:
    """A floating tensor (..., H, W) of the graph's device and type, or of exactly the given shape."""
    if not hasattr(graph, "neighbor_sum"):
        raise TypeError(f"graph must be a PixelGraph, got {type(graph).__name__}")
    floating(v, name)
    if v.dtype != graph.dtype:
        raise TypeError(
            f"{name} is {v.dtype} but the graph is {graph.dtype}: convert it, or use graph.to(dtype=...)"
        )
    if v.device != graph.device:
        raise ValueError(
            f"{name} is on {v.device} but the graph is on {graph.device}: use graph.to(device)"
        )
    if v.shape[-2:] != (graph.height, graph.width):
        raise ValueError(
            f"{name} must be (..., {graph.height}, {graph.width}), got {tuple(v.shape)}"
        )
    if shape is not None and v.shape != shape:
        raise ValueError(f"{name} must have the shape of x, {tuple(shape)}, got {tuple(v.shape)}")


def image(graph: "PixelGraph", x: Tensor, name: str = "x", *, interior: bool = False) -> None:
    """An image: as above, non-negative and finite, in the interior positive. Values are checked
    when eager only.
    """
    on_graph(graph, x, name)
    if not eager(x):
        return
    low, high = torch.aminmax(x.detach()) if x.numel() else (1.0, 1.0)
    if not (low >= 0 and high < float("inf")):  # NaN fails both
        raise ValueError(f"{name} must be non-negative and finite")
    if interior and not low > 0:
        raise ValueError(
            f"{name} must be positive on every pixel: this holds in the interior of the simplex only"
        )


def eager(x: Tensor) -> bool:
    """Whether the values of x may be looked at: not under compilation, a ``torch.func`` transform
    or CUDA-graph capture.
    """
    capturing = x.is_cuda and torch.cuda.is_current_stream_capturing()
    return not (
        torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or capturing
    )


def option(value: str | None, name: str, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")

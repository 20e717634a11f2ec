"""Every check of an argument, once.

What is given is refused with a ``TypeError`` if it is of the wrong kind (no tensor, another
floating type than the graph's, an int64 label that is none), with a ``ValueError`` if its value,
shape or device is wrong: a negative or non-finite pixel, a shape that does not fit the graph, a
number out of range, an unknown option. The message names the argument and the value. Pixels are
looked at only where they can be: not under compilation, a ``torch.func`` transform or CUDA-graph
capture, nor on the meta device.
"""

from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from wdtr_lite.graph import PixelGraph
    from wdtr_lite.transport.exact import TransportPlan
    from wdtr_lite.transport.measures import Image, Support

# ---------------------------------------------------------------- numbers and options


def whole(value: int, name: str, least: int = 1) -> None:
    """A whole number, at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def number(value: float, name: str, *, positive: bool = False) -> None:
    """A finite number, at least 0 or above it."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not (0 < value if positive else 0 <= value) or not value < float("inf"):
        raise ValueError(
            f"{name} must be {'positive' if positive else 'non-negative'} and finite, got {value!r}"
        )


def tolerance(tol: float) -> None:
    """A relative tolerance, between 0 and 1."""
    if not 0 < tol < 1:
        raise ValueError(f"tol must be between 0 and 1, got {tol!r}")


def order(p: float) -> None:
    """The order of a Wasserstein distance."""
    if not 1 <= p < float("inf"):
        raise ValueError(f"p must be at least 1 and finite, got {p!r}")


def time(t: float) -> None:
    """A time on the way from one image to another."""
    if not 0 <= t <= 1:
        raise ValueError(f"t must lie in [0, 1], got {t!r}")


def option(value: str | None, name: str, allowed: tuple) -> None:
    """One of the allowed values."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


# ---------------------------------------------------------------- tensors and graphs


def floating(v: Tensor, name: str) -> None:
    """A tensor of a floating type."""
    if not isinstance(v, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(v).__name__}")
    if not v.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor, got {v.dtype}")


def like(v: Tensor, x: Tensor, name: str) -> None:
    """Of the shape of x."""
    if v.shape != x.shape:
        raise ValueError(f"{name} must have the shape of x, {tuple(x.shape)}, got {tuple(v.shape)}")


def nonnegative(v: Tensor, name: str) -> None:
    """Non-negative and finite values."""
    if not v.numel() or not eager(v):
        return
    low, high = torch.aminmax(v.detach())
    if not (low >= 0 and high < float("inf")):  # NaN fails both
        raise ValueError(f"{name} must be non-negative and finite, got {low:g} to {high:g}")


def generator(generator: torch.Generator | None, x: Tensor) -> torch.Generator:
    """A generator on the device of x, returned."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if generator.device.type != x.device.type:
        raise ValueError(f"generator is on {generator.device} but x is on {x.device}")
    return generator


def graph_dtype(dtype: torch.dtype, name: str) -> None:
    """One of the types that a pixel graph can have."""
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be torch.float32 or torch.float64, got {dtype}")


def kernel(weight: Tensor, radius: int) -> None:
    """Weights by offset (2r + 1, 2r + 1), non-negative and finite, equal at opposite offsets."""
    floating(weight, "weight")
    graph_dtype(weight.dtype, "weight")
    side = 2 * radius + 1
    if weight.shape != (side, side):
        raise ValueError(
            f"weight must have shape {(side, side)} for radius {radius}, got {tuple(weight.shape)}"
        )
    if weight.is_meta:
        return
    low, high = torch.aminmax(weight.detach())
    if not (low >= 0 and high < float("inf")):  # NaN fails both
        raise ValueError(f"weight must be non-negative and finite, got {low:g} to {high:g}")
    if not torch.equal(weight, weight.flip(0, 1)):
        raise ValueError("weight must be equal at opposite offsets: weight + weight.flip(0, 1) is")


def on_graph(graph: "PixelGraph", v: Tensor, name: str, x: Tensor | None = None) -> None:
    """A tensor (..., H, W) of the graph's device and type, or of exactly the shape of x."""
    if not hasattr(graph, "neighbor_sum"):
        raise TypeError(f"graph must be a PixelGraph, got {type(graph).__name__}")
    floating(v, name)
    if v.dtype != graph.dtype:
        raise TypeError(
            f"{name} is {v.dtype} but the graph is {graph.dtype}: convert it, "
            "or use graph.to(dtype=...)"
        )
    if v.device != graph.device:
        raise ValueError(
            f"{name} is on {v.device} but the graph is on {graph.device}: use graph.to(device)"
        )
    if v.shape[-2:] != (graph.height, graph.width):
        raise ValueError(
            f"{name} must be (..., {graph.height}, {graph.width}), got {tuple(v.shape)}"
        )
    if x is not None:
        like(v, x, name)


def image(graph: "PixelGraph", x: Tensor, name: str = "x", *, interior: bool = False) -> None:
    """An image: on the graph, non-negative and finite; in the interior of the simplex positive."""
    on_graph(graph, x, name)
    nonnegative(x, name)
    if interior and x.numel() and eager(x) and not (low := x.detach().min()) > 0:
        raise ValueError(
            f"{name} must be positive on every pixel, its least is {low:g}: "
            "this holds in the interior of the simplex only"
        )


def metric(metric: "PixelGraph | str") -> None:
    """A pixel graph, or the word "euclidean"."""
    if not hasattr(metric, "neighbor_sum") and metric != "euclidean":
        raise ValueError(f"metric must be a PixelGraph or 'euclidean', got {metric!r}")


def point(space: "PixelGraph | str", x: Tensor, *, interior: bool = False) -> None:
    """An image on the graph; in the Euclidean metric any floating tensor."""
    metric(space)
    if isinstance(space, str):
        floating(x, "x")
    else:
        image(space, x, interior=interior)


def eager(x: Tensor) -> bool:
    """Whether the values of x may be looked at."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or x.is_meta
        or (x.is_cuda and torch.cuda.is_current_stream_capturing())
    )


# ---------------------------------------------------------------- measures, costs and plans


def real(image: "Image", name: str) -> None:
    """An array or tensor of real numbers."""
    tensor = isinstance(image, Tensor)
    if image.is_complex() if tensor else image.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, got {image.dtype}")


def measure(image: "Image", name: str) -> None:
    """Images (..., H, W) that can be normalised: non-negative, each of positive and finite mass."""
    if image.ndim < 2 or 0 in image.shape:
        raise ValueError(f"{name} must have shape (..., H, W), got {tuple(image.shape)}")
    says = f"{name} must be non-negative, finite and of positive mass"
    least = image.min()
    if not least >= 0:  # NaN fails it
        raise ValueError(f"{says}: its least pixel is {least:g}")
    with np.errstate(over="ignore"):
        mass = image.sum((-2, -1))
    for value in (mass.min(), mass.max()):
        if not 0 < value < float("inf"):
            raise ValueError(f"{says}: a total mass is {value:g}")


def pair(a: np.ndarray, b: np.ndarray) -> None:
    """Two images (H, W) of one shape."""
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"x and y must both have shape (H, W), got {a.shape} and {b.shape}")


def square(matrix: np.ndarray, n: int, name: str) -> None:
    """A real matrix with a row and a column per pixel."""
    if matrix.shape != (n, n):
        raise ValueError(
            f"{name} must have shape ({n}, {n}), one row and column per pixel, got {matrix.shape}"
        )
    real(matrix, name)


def costs(cost: np.ndarray, name: str) -> None:
    """Distances, or powers of them."""
    valid = (cost >= 0) & (cost < np.inf)
    if not valid.all():
        raise ValueError(f"{name} must be finite and non-negative, it holds {cost[~valid][0]:g}")


def plan(plan: "TransportPlan", a: "Support", b: "Support") -> None:
    """Moves of positive mass, from the measure a to the measure b."""
    if not (np.asarray(plan.mass) >= 0).all():
        raise ValueError(f"plan must hold non-negative masses, its least is {np.min(plan.mass):g}")
    ends = (("source", "x", plan.source, a), ("target", "y", plan.target, b))
    for field, name, end, support in ends:
        inside = (np.asarray(end) >= 0) & (np.asarray(end) < support.size)
        error = -np.bincount(support.index, support.mass, support.size + 1)
        np.add.at(error, np.where(inside, end, support.size), plan.mass)  # outside: pixel n
        if abs(error).sum() > 1e-6:
            raise ValueError(
                f"plan must move x to y: its {field} differs from {name} by {abs(error).sum():.2g}"
            )


# ---------------------------------------------------------------- classifiers and their data


def device(device: str | torch.device) -> torch.device:
    """One that this machine has."""
    available = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if str(device).partition(":")[0] not in available:
        raise ValueError(f"device must be {' or '.join(available)} here, got {str(device)!r}")
    return torch.device(device)


def logits(returned: object, x: Tensor, *, single: bool = False) -> Tensor:
    """The logits (B, K) that a classifier returned of the images x, or an object's ``.logits``; of
    a single output (B,) too.
    """
    found = getattr(returned, "logits", returned)
    if not isinstance(found, Tensor):
        raise TypeError(
            "model must return a tensor, or an object whose .logits is one, "
            f"got {type(returned).__name__}"
        )
    if found.dim() not in ((1, 2) if single else (2,)) or found.shape[:1] != x.shape[:1]:
        shapes = f"({len(x)},) or ({len(x)}, K)" if single else f"({len(x)}, K)"
        raise ValueError(f"model must return {shapes} logits, got {tuple(found.shape)}")
    return found


def labels(y: Tensor, x: Tensor, name: str = "y") -> None:
    """An int64 label for each image."""
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        what = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"{name} must be an int64 tensor, got {what}")
    if y.shape != x.shape[:1]:
        raise ValueError(
            f"{name} must have one label for each image, ({len(x)},), got {tuple(y.shape)}"
        )


def classes(y: Tensor, count: int, name: str = "y") -> None:
    """Labels of so many classes, from 0."""
    if not y.numel() or not eager(y):
        return
    low, high = torch.aminmax(y)
    if low < 0 or high >= count:
        raise ValueError(f"{name} must be from 0 to {count - 1}, got {low} to {high}")


def targets(y: Tensor, x: Tensor) -> None:
    """An int64 label for each image, or probabilities (B, K)."""
    if not isinstance(y, Tensor) or not y.is_floating_point():
        labels(y, x)
    elif y.dim() != 2 or len(y) != len(x):
        raise ValueError(
            f"y must be ({len(x)},) labels or ({len(x)}, K) probabilities, got {tuple(y.shape)}"
        )


def intensities(x: Tensor, name: str = "x") -> None:
    """Values in [0, 1]."""
    if not x.numel() or not eager(x):
        return
    low, high = torch.aminmax(x.detach())
    if not (low >= 0 and high <= 1):  # NaN fails both
        raise ValueError(f"{name} must be in [0, 1], got {low:g} to {high:g}")


def images(images: Tensor, *, floats: bool = True) -> None:
    """uint8, or with `floats` floating in [0, 1]; (N, C, H, W) or (N, H, W)."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, got {type(images).__name__}")
    if images.dtype != torch.uint8 and not (floats and images.is_floating_point()):
        kinds = "uint8 or floating" if floats else "uint8"
        raise TypeError(f"images must be {kinds}, got {images.dtype}")
    if images.dim() not in (3, 4) or 0 in images.shape[1:]:
        raise ValueError(f"images must be (N, C, H, W) or (N, H, W), got {tuple(images.shape)}")
    if floats and images.is_floating_point():
        intensities(images, "images")


def batch(x: Tensor) -> None:
    """Floating images (B, C, H, W)."""
    floating(x, "x")
    if x.dim() != 4:
        raise ValueError(f"x must be (B, C, H, W), got {tuple(x.shape)}")


def attacked(x: Tensor, y: Tensor) -> None:
    """At least one image, in [0, 1], and the labels or probabilities."""
    batch(x)
    targets(y, x)
    if not x.numel():
        raise ValueError(f"x must hold an image, got {tuple(x.shape)}")
    intensities(x)
    if eager(y) and bool((y < 0).any()):
        raise ValueError(f"y must be non-negative, its least is {y.min():g}")


def strength(epsilon: float, alpha: float, steps: int, norm: str) -> None:
    """The ball of an attack, and its steps."""
    number(epsilon, "epsilon")
    number(alpha, "alpha", positive=epsilon > 0)
    whole(steps, "steps")
    option(norm, "norm", ("linf", "l2"))

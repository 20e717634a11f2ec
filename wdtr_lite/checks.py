"""Every check of an argument, once.

What is given is refused with a ``TypeError`` if it is of the wrong kind (no tensor, another
floating type than the graph's, an int64 label that is none), with a ``ValueError`` if its value,
shape or device is wrong: a negative or non-finite pixel, a shape that does not fit the graph, a
number out of range, an unknown option. The message names the argument and the value. Pixels are
looked at only where they can be: not under compilation, a ``torch.func`` transform or CUDA-graph
capture, nor on the meta device.
"""

import json
import os
import pickle
import sys
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from wdtr_lite.graph import PixelGraph
    from wdtr_lite.transport.exact import TransportPlan
    from wdtr_lite.transport.measures import Image, Support

INFINITY = float("inf")

# ---------------------------------------------------------------- numbers and options


def whole(value: int, name: str, least: int = 1) -> None:
    """A whole number, at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r:.80}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if value >= 2**63:
        raise ValueError(f"{name} must be less than 2**63, got {value}")


def real_number(value: float, name: str) -> float:
    """A number of Python's or NumPy's, finite or not, returned as a float."""
    kinds = (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise TypeError(f"{name} must be a number, got {type(value).__name__} {value!r:.80}")
    try:
        return float(value)
    except OverflowError:
        return INFINITY if value > 0 else -INFINITY


def finite(value: float, name: str) -> None:
    """A finite number of either sign."""
    if not abs(real_number(value, name)) < INFINITY:
        raise ValueError(f"{name} must be finite, got {value!r:.80}")


def number(value: float, name: str, *, positive: bool = False) -> None:
    """A finite number, at least 0 or above it."""
    size = real_number(value, name)
    if not (0 < size if positive else 0 <= size) or not size < INFINITY:
        says = "positive" if positive else "non-negative"
        raise ValueError(f"{name} must be {says} and finite, got {value!r:.80}")


def tolerance(tol: float) -> None:
    """A relative tolerance, between 0 and 1."""
    if not 0 < real_number(tol, "tol") < 1:
        raise ValueError(f"tol must be between 0 and 1, got {tol!r:.80}")


def order(p: float) -> None:
    """The order of a Wasserstein distance."""
    if not 1 <= real_number(p, "p") < INFINITY:
        raise ValueError(f"p must be at least 1 and finite, got {p!r:.80}")


def time(t: float) -> None:
    """A time on the way from one image to another."""
    if not 0 <= real_number(t, "t") <= 1:
        raise ValueError(f"t must lie in [0, 1], got {t!r:.80}")


def flag(value: bool, name: str) -> None:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__} {value!r:.80}")


def option(value: str | None, name: str, allowed: tuple) -> None:
    """One of the allowed values."""
    if not isinstance(value, str | None) or value not in allowed:
        allowed_values = ", ".join(map(repr, allowed))
        raise ValueError(f"{name} must be one of {allowed_values}, got {value!r:.80}")


def instance(value: object, name: str, kind: type | tuple[type, ...]) -> None:
    """Of a class, or of one of several."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(each.__name__.removesuffix("Type") for each in kinds)
        raise TypeError(f"{name} must be {names}, got {value!r:.80}")


def every(values: Sequence, name: str, kind: type) -> Sequence:
    """A list or tuple of objects of a class, returned."""
    instance(values, name, (list, tuple))
    for k, each in enumerate(values):
        instance(each, f"{name}[{k}]", kind)
    return values


def some(values: Any, name: str, kind: type | tuple[type, ...] = (list, tuple)) -> Any:
    """A list or tuple, or another collection, that is not empty, returned."""
    instance(values, name, kind)
    if not values:
        raise ValueError(f"{name} must not be empty, got {values!r}")
    return values


def held(values: Mapping, name: str, key: str) -> None:
    """A mapping that has a key."""
    if key not in values:
        raise ValueError(f"{name} must have {key!r}, got {list(values)!r:.80}")


def outcomes(values: np.ndarray, name: str = "outcomes") -> None:
    """An array (n,) of yes or no, or of shares of yes, n at least 1."""
    instance(values, name, np.ndarray)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be bool or numbers in [0, 1], got {values.dtype}")
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name} must be (n,), n at least 1, got {values.shape}")
    if not (values.min() >= 0 and values.max() <= 1):  # NaN fails both
        raise ValueError(f"{name} must be in [0, 1], got {values.min()} to {values.max()}")


def as_json(options: Mapping, name: str) -> None:
    """Options that JSON keeps."""
    try:
        json.dumps(options)
    except TypeError:
        raise TypeError(f"{name} must have options that JSON keeps, got {options!r:.200}") from None


def importable(value: object, name: str) -> None:
    """Of a class that another process can import, and of parts that it can be sent."""
    kind = type(value)
    written = Path(getattr(sys.modules["__main__"], "__file__", "")).is_file()
    if "<locals>" in kind.__qualname__ or (kind.__module__ == "__main__" and not written):
        raise TypeError(
            f"{name} is a {kind.__name__}, which other processes cannot import: "
            "write the class into a file, outside of functions"
        )
    try:
        pickle.dumps(value)
    except Exception as error:  # pickle raises several kinds
        raise TypeError(f"{name} cannot be sent to another process: {error}") from error


def function(value: object, name: str) -> None:
    """What can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r:.80}")


def registered(name: str, value: object, kind: str, registry: Mapping) -> None:
    """A function, and a name that is free for it."""
    function(value, kind)
    untaken(name, value, registry)


# ---------------------------------------------------------------- tensors and graphs


def precise(x: Tensor, what: str) -> None:
    """A type in which differences can be taken."""
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x must be float32 or float64 for {what}, got {x.dtype}")


def floating(v: Tensor, name: str) -> None:
    """A tensor of a floating type."""
    if not isinstance(v, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(v).__name__}")
    if v.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(f"{name} must be a floating tensor, got {v.dtype}")
    dense(v, name)


def dense(v: Tensor, name: str) -> None:
    """A tensor that holds every value."""
    if v.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {v.layout}")


def like(v: Tensor, x: Tensor, name: str, other: str = "x") -> None:
    """Of the shape of x."""
    if v.shape != x.shape:
        raise ValueError(
            f"{name} must have the shape of {other}, {tuple(x.shape)}, got {tuple(v.shape)}"
        )


def nonnegative(v: Tensor, name: str) -> None:
    """Non-negative and finite values."""
    if not v.numel() or not eager(v):
        return
    low, high = torch.aminmax(v.detach())
    if not (low >= 0 and high < float("inf")):  # NaN fails both
        raise ValueError(f"{name} must be non-negative and finite, got {low:g} to {high:g}")


def valued(v: Tensor, name: str) -> None:
    """A dense tensor that is not on the meta device."""
    dense(v, name)
    if v.is_meta:
        raise ValueError(f"{name} must hold values, got a tensor on meta")


def bounded(v: Tensor, name: str) -> None:
    """Finite values."""
    if not v.numel() or not eager(v):
        return
    low, high = torch.aminmax(v.detach())
    if not (low > -INFINITY and high < INFINITY):  # NaN fails both
        raise ValueError(f"{name} must be finite, got {low:g} to {high:g}")


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
        raise TypeError(f"{name} must be torch.float32 or torch.float64, got {dtype!r:.80}")


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


def is_graph(graph: object) -> bool:
    """Whether it is a pixel graph."""
    return isinstance(graph, torch.nn.Module) and hasattr(graph, "neighbor_sum")


def graph(graph: "PixelGraph") -> None:
    """A pixel graph."""
    if not is_graph(graph):
        raise TypeError(f"graph must be a PixelGraph, got {type(graph).__name__}")


def on_graph(pixels: "PixelGraph", v: Tensor, name: str, x: Tensor | None = None) -> None:
    """A tensor (..., H, W) of the graph's device and type, or of exactly the shape of x."""
    graph(pixels)
    floating(v, name)
    if v.dtype != pixels.dtype:
        wide = v.dtype in (torch.float32, torch.float64)
        raise TypeError(
            f"{name} is {v.dtype} but the graph is {pixels.dtype}: convert it"
            + (", or use graph.to(dtype=...)" if wide else "")
        )
    if v.device != pixels.device:
        raise ValueError(
            f"{name} is on {v.device} but the graph is on {pixels.device}: use graph.to(device)"
        )
    if v.shape[-2:] != (pixels.height, pixels.width):
        raise ValueError(
            f"{name} must be (..., {pixels.height}, {pixels.width}), got {tuple(v.shape)}"
        )
    if x is not None:
        like(v, x, name)


def some_pixels(x: Tensor) -> None:
    """At least one image."""
    if not x.numel():
        raise ValueError(f"x must hold an image, got {tuple(x.shape)}")


def layers(graph: "PixelGraph", x: Tensor) -> None:
    """Images (M, H, W) on the graph."""
    image(graph, x)
    if x.dim() != 3:
        raise ValueError(f"x must be (M, {graph.height}, {graph.width}), got {tuple(x.shape)}")


def offset(graph: "PixelGraph", v: Tensor, offset: tuple[int, int]) -> tuple[int, int]:
    """An offset within the radius to a pixel of larger number, for a tensor (..., H, W)."""
    if not isinstance(v, Tensor):
        raise TypeError(f"v must be a tensor, got {type(v).__name__}")
    if v.shape[-2:] != (graph.height, graph.width):
        raise ValueError(f"v must be (..., {graph.height}, {graph.width}), got {tuple(v.shape)}")
    pair = isinstance(offset, tuple | list) and len(offset) == 2
    if not pair or any(isinstance(k, bool) or not isinstance(k, Integral) for k in offset):
        raise TypeError(f"offset must be two whole numbers, got {offset!r:.80}")
    if not (0, 0) < tuple(offset) or max(map(abs, offset)) > graph.radius:
        raise ValueError(f"offset must be one of forward_offsets(), got {offset!r:.80}")
    return offset


def vector(graph: "PixelGraph", v: Tensor, name: str, x: Tensor | None = None) -> None:
    """The same, of finite values."""
    on_graph(graph, v, name, x)
    bounded(v, name)


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
    if not is_graph(metric) and not (isinstance(metric, str) and metric == "euclidean"):
        raise ValueError(f"metric must be a PixelGraph or 'euclidean', got {metric!r:.80}")


def point(space: "PixelGraph | str", x: Tensor, *, interior: bool = False) -> None:
    """An image on the graph; in the Euclidean metric any floating tensor."""
    metric(space)
    if isinstance(space, str):
        floating(x, "x")
        bounded(x, "x")
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


def field(x: Tensor) -> None:
    """Finite values (..., H, W), of either sign, in float32 or float64."""
    floating(x, "x")
    graph_dtype(x.dtype, "x")
    if x.dim() < 2 or 0 in x.shape[-2:]:
        raise ValueError(f"x must be (..., H, W), got {tuple(x.shape)}")
    bounded(x, "x")


def broadcast(v: Tensor, x: Tensor, name: str) -> None:
    """Of a shape that broadcasts with that of x."""
    try:
        torch.broadcast_shapes(v.shape, x.shape)
    except RuntimeError as error:
        raise ValueError(
            f"{name} must broadcast with x, {tuple(x.shape)}, got {tuple(v.shape)}"
        ) from error


def same_mass(x: Tensor, y: Tensor) -> None:
    """Images (..., H, W) of the same mass in each channel, to rounding."""
    masses = [z.detach().double().sum((-2, -1)) for z in (x, y)]
    apart = (masses[0] - masses[1]).abs()
    if bool((apart > (1e-10 if x.dtype == torch.float64 else 1e-6) * masses[1]).any()):
        got = " and ".join(f"{mass.flatten()[apart.argmax()]:.9g}" for mass in masses)
        raise ValueError(f"x and y must have the same mass in each channel, got {got}")


def totals(mass: "float | Tensor", x: Tensor) -> Tensor:
    """A total for each image (..., H, W), non-negative and finite, returned in the type of x."""
    if not isinstance(mass, Tensor):
        number(mass, "mass")
    else:
        real(mass, "mass")
        batch = x.shape[:-2]
        if mass.dim() > len(batch) or any(
            k not in (1, n) for k, n in zip(reversed(mass.shape), reversed(batch), strict=False)
        ):
            raise ValueError(f"mass must be {tuple(batch)} or a number, got {tuple(mass.shape)}")
        nonnegative(mass, "mass")
    return torch.as_tensor(mass, device=x.device, dtype=x.dtype)


# ---------------------------------------------------------------- measures, costs and plans


def array(image: object, name: str) -> "Image":
    """A tensor, or what NumPy reads as an array, returned as one; of real numbers."""
    if isinstance(image, Tensor):
        valued(image, name)
    elif isinstance(image, list | tuple) or hasattr(image, "__array__"):
        try:
            image = np.asarray(image)
        except ValueError as error:
            raise ValueError(f"{name} must be an array, got {image!r:.80}: {error}") from error
    else:
        raise TypeError(f"{name} must be an array or a tensor, got {type(image).__name__}")
    real(image, name)
    return image


def real(image: "Image", name: str) -> None:
    """An array or tensor of real numbers."""
    tensor = isinstance(image, Tensor)
    short = tensor and image.is_floating_point() and image.dtype.itemsize == 1
    if image.is_complex() or short if tensor else image.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, got {image.dtype}")


def grid(shape: tuple[int, int]) -> None:
    """The shape (H, W) of images."""
    pair = isinstance(shape, tuple | list | np.ndarray) and len(shape) == 2
    if not pair or not all(
        isinstance(side, Integral) and not isinstance(side, bool) and side > 0 for side in shape
    ):
        raise ValueError(f"shape must be two positive whole numbers (H, W), got {shape!r:.80}")


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
    if not all(hasattr(plan, field) for field in ("source", "target", "mass")):
        raise TypeError(f"plan must be a TransportPlan, got {type(plan).__name__}")
    parts = [np.asarray(part) for part in (plan.source, plan.target, plan.mass)]
    kinds = "".join(part.dtype.kind for part in parts)
    if kinds not in ("iif", "iii") or any(p.ndim != 1 or len(p) != len(parts[0]) for p in parts):
        says = ", ".join(f"{part.dtype} {part.shape}" for part in parts)
        raise ValueError(f"plan must hold pixels, pixels and masses of one length, got {says}")
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


def entropic(epsilon: float, p: float, diameter: float, dtype: torch.dtype) -> None:
    """A regularisation that neither drowns in the rounding of costs up to the diameter, nor they
    in that of it.
    """
    rounding = torch.finfo(dtype).eps
    if not diameter < INFINITY:
        raise ValueError(f"p must have powers that {dtype} holds on this grid, got {p!r}")
    if epsilon < rounding * diameter:
        raise ValueError(
            f"epsilon must exceed the rounding error of costs up to {diameter:.3g} "
            f"in {dtype}, got {epsilon!r}"
        )
    at_most(epsilon, "epsilon", max(diameter, 1) / rounding**2, dtype)


def divergence(epsilon: float, diameter: float, dtype: torch.dtype) -> None:
    """A regularisation in whose rounding a divergence of up to the diameter does not drown."""
    at_most(epsilon, "epsilon", 1e-5 * max(diameter, 1) / torch.finfo(dtype).eps, dtype)


def at_most(value: float, name: str, most: float, dtype: torch.dtype) -> None:
    """A number that the type's rounding allows."""
    if value > most:
        raise ValueError(f"{name} must be at most {most:.2g} in {dtype}, got {value!r}")


# ---------------------------------------------------------------- classifiers and their data


def device(device: str | torch.device) -> torch.device:
    """One that this machine has."""
    instance(device, "device", (str, torch.device))
    kind, _, number = str(device).partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.is_available() and torch.cuda.device_count()}
    if not (number or "0").isdecimal() or int(number or 0) >= there.get(kind, 0):
        available = " or ".join(name for name, count in there.items() if count)
        raise ValueError(f"device must be {available} here, got {str(device)!r}")
    return torch.device(device)


def logits(
    returned: object, x: Tensor, *, single: bool = False, name: str = "model"
) -> Tensor:
    """The logits (B, K) that a classifier returned of the images x, or an object's ``.logits``; of
    a single output (B,) too.
    """
    found = getattr(returned, "logits", returned)
    if not isinstance(found, Tensor):
        raise TypeError(
            f"{name} must return a tensor, or an object whose .logits is one, "
            f"got {type(returned).__name__}"
        )
    if found.is_complex() or found.dtype == torch.bool:
        raise TypeError(f"{name} must return real numbers, got {found.dtype}")
    dense(found, f"what {name} returns")
    dims = (1, 2) if single else (2,)
    if found.dim() not in dims or found.shape[:1] != x.shape[:1] or 0 in found.shape[1:]:
        shapes = f"({len(x)},) or ({len(x)}, K)" if single else f"({len(x)}, K)"
        raise ValueError(f"{name} must return {shapes} logits, got {tuple(found.shape)}")
    return found


def recording(x: Tensor) -> None:
    """Images of which autograd can take a gradient."""
    if x.is_inference() or torch.is_inference_mode_enabled():
        raise RuntimeError(
            "there are no gradients in inference mode: use torch.no_grad() for evaluation"
        )


def differentiable(gradient: Tensor | None, name: str = "model") -> Tensor:
    """The gradient of what a function returned, which is None where autograd saw no way to x."""
    if gradient is None:
        raise ValueError(
            f"{name} must be differentiable in x, got outputs on which autograd sees no way from "
            "it: is there a torch.no_grad(), a detach(), an argmax or NumPy inside?"
        )
    return gradient


def labels(y: Tensor, x: Tensor, name: str = "y") -> None:
    """An int64 label for each image."""
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        what = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"{name} must be an int64 tensor, got {what}")
    dense(y, name)
    if y.shape != x.shape[:1]:
        raise ValueError(
            f"{name} must have one label for each image, ({len(x)},), got {tuple(y.shape)}"
        )
    if y.device != x.device:
        raise ValueError(f"{name} is on {y.device} but the images are on {x.device}")


def per_image(returned: object, x: Tensor, name: str) -> Tensor:
    """A number for each image, (B,), that a function returned."""
    return numbers(returned, x.shape[:1], name)


def numbers(returned: object, shape: torch.Size, name: str) -> Tensor:
    """The same, of images of any batch."""
    if not isinstance(returned, Tensor):
        raise TypeError(f"{name} must return a tensor, got {type(returned).__name__}")
    if not returned.is_floating_point():
        raise TypeError(f"{name} must return a floating tensor, got {returned.dtype}")
    if returned.shape != shape:
        raise ValueError(
            f"{name} must return one number per image, {tuple(shape)}, got {tuple(returned.shape)}"
        )
    return returned


def scored(y: Tensor, outputs: Tensor) -> None:
    """What logits (B, K) are compared with: int64 labels (B,) of K classes, or probabilities."""
    if outputs.dim() != 2:
        raise ValueError(
            f"model must return ({len(outputs)}, K) logits for the cross-entropy, "
            f"got {tuple(outputs.shape)}"
        )
    targets(y, outputs)
    if y.is_floating_point():
        like(y, outputs, "y", "the outputs")
    else:
        classes(y, outputs.shape[1])


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
        return
    dense(y, "y")
    if y.dim() != 2 or len(y) != len(x):
        raise ValueError(
            f"y must be ({len(x)},) labels or ({len(x)}, K) probabilities, got {tuple(y.shape)}"
        )
    if y.device != x.device:
        raise ValueError(f"y is on {y.device} but the images are on {x.device}")


def intensities(x: Tensor, name: str = "x") -> None:
    """Values in [0, 1]."""
    if not x.numel() or not eager(x):
        return
    low, high = torch.aminmax(x.detach())
    if not (low >= 0 and high <= 1):  # NaN fails both
        bytes_ = ": divide bytes by 255" if low >= 0 and 2 < high <= 255 else ""
        raise ValueError(f"{name} must be in [0, 1], got {low:g} to {high:g}{bytes_}")


def per_channel(value: Any, name: str) -> Tensor:
    """A finite number, or one for each channel; returned as a tensor (C,)."""
    if not isinstance(value, np.ndarray | Tensor):
        value = value if isinstance(value, list | tuple) else [value]
        for each in value:
            finite(each, name)
    numbers = torch.as_tensor(array(value, name)).to(torch.get_default_dtype()).flatten()
    if not len(numbers):
        raise ValueError(f"{name} must be a number or one for each channel, got {value!r:.80}")
    bounded(numbers, name)
    return numbers


def images(images: Tensor) -> None:
    """uint8, or floating in [0, 1]; (N, C, H, W) or (N, H, W)."""
    if not isinstance(images, Tensor):
        hint = ": torch.from_numpy(images)" if isinstance(images, np.ndarray) else ""
        raise TypeError(f"images must be a tensor, got {type(images).__name__}{hint}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating, got {images.dtype}")
    valued(images, "images")
    image_shape(images)
    if images.is_floating_point():
        intensities(images, "images")


def varied(images: Tensor, shift: int, margin: int) -> None:
    """Images (N, C, H, W) in [0, 1] that can be moved by pixels and continued by a margin."""
    floating(images, "images")
    graph_dtype(images.dtype, "images")
    valued(images, "images")
    if images.dim() != 4 or not images.numel():
        raise ValueError(f"images must be (N, C, H, W), at least one, got {tuple(images.shape)}")
    intensities(images, "images")
    whole(shift, "shift", 0)
    whole(margin, "margin", 0)
    least = min(images.shape[-2:])
    if shift > least:
        raise ValueError(f"shift must be at most the images' shorter side, {least}, got {shift}")
    if margin >= least:
        raise ValueError(f"margin must be less than the shorter side, {least}, got {margin}")
    if least + 2 * margin < 17:
        raise ValueError(
            "images must be at least 17 pixels high and wide with their margins, got "
            f"{tuple(images.shape)} with margin={margin}"
        )


def shifts(shifts: Iterable[int], side: int, padding: str) -> list[int]:
    """Shifts by at most the side, less one pixel where the border is not repeated; returned."""
    if isinstance(shifts, str | bytes | Tensor) or not isinstance(shifts, Iterable):
        raise TypeError(f"shifts must be a sequence of whole numbers, got {shifts!r:.80}")
    shifts, limit = list(shifts), side - (padding == "reflect")
    if not shifts:
        raise ValueError("shifts must hold at least one shift, got []")
    for shift in shifts:
        whole(shift, "shifts", -limit)
        if shift > limit:
            raise ValueError(
                f"shifts must be at most {limit} with {padding!r} and {side} pixels, got {shift}"
            )
    return [int(shift) for shift in shifts]


def image_shape(images: Tensor) -> None:
    """(N, C, H, W) or (N, H, W)."""
    if images.dim() not in (3, 4) or 0 in images.shape[1:]:
        raise ValueError(f"images must be (N, C, H, W) or (N, H, W), got {tuple(images.shape)}")


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
    recording(x)
    intensities(x)
    probabilities(y)
    if eager(y) and bool((y < 0).any()):
        raise ValueError(f"y must be non-negative, its least is {y.min():g}")


def start(start: Tensor, x: Tensor) -> None:
    """Images in [0, 1] of the shape, type and device of x."""
    floating(start, "start")
    like(start, x, "start")
    if start.dtype != x.dtype:
        raise TypeError(f"start is {start.dtype} but x is {x.dtype}")
    if start.device != x.device:
        raise ValueError(f"start is on {start.device} but x is on {x.device}")
    intensities(start, "start")


def strength(
    epsilon: float, alpha: float, steps: int, norm: str, dtype: torch.dtype | None = None
) -> None:
    """The ball of an attack, and its steps; lengths have a square in the type of the images."""
    number(epsilon, "epsilon")
    number(alpha, "alpha", positive=epsilon > 0)
    whole(steps, "steps")
    option(norm, "norm", ("linf", "l2"))
    if dtype is not None:
        length(epsilon, "epsilon", dtype)
        length(alpha, "alpha", dtype)


def length(value: float, name: str, dtype: torch.dtype) -> None:
    """A length whose square the type holds."""
    most = 0.5 * torch.finfo(dtype).max ** 0.5
    if value > most:
        raise ValueError(f"{name} must be at most {most:.2g} in {dtype}, got {value:.2g}")


def radii(epsilon: float | Tensor, x: Tensor) -> None:
    """A radius, or one for each image, which the type of x holds."""
    if not isinstance(epsilon, Tensor):
        number(epsilon, "epsilon")
        return length(epsilon, "epsilon", x.dtype)
    floating(epsilon, "epsilon")
    valued(epsilon, "epsilon")
    if epsilon.shape != x.shape[:1]:
        raise ValueError(f"epsilon must be one number or ({len(x)},), got {tuple(epsilon.shape)}")
    nonnegative(epsilon, "epsilon")
    if eager(epsilon):
        length(float(epsilon.detach().max()), "epsilon", x.dtype)


def floor(floor: float, dtype: torch.dtype) -> None:
    """The least intensity of a metric, which the type holds."""
    number(floor, "floor", positive=True)
    least = torch.finfo(dtype).tiny
    if not least <= floor <= 1:
        raise ValueError(f"floor must be from {least:.2g} to 1 in {dtype}, got {floor!r}")


def probabilities(y: Tensor) -> None:
    """Labels; or rows of probabilities, which sum to 1 up to the rounding of their type."""
    if not y.is_floating_point() or not y.numel() or not eager(y):
        return
    sums = y.detach().float().sum(1)
    if sums.isnan().any():
        raise NotFinite("y must be probabilities, got nan")
    if y.min() < 0:
        raise ValueError(f"y must be non-negative, its least is {y.min():g}")
    off = (sums - 1).abs()
    if off.max() > max(1e-3, torch.finfo(y.dtype).eps):
        raise ValueError(
            f"y must be probabilities that sum to 1, got a sum of {sums[off.argmax()]:g}"
        )


def rivals(logits: Tensor) -> None:
    """Logits of at least two classes."""
    if logits.shape[1] < 2:
        raise ValueError(
            f"model must return logits of at least two classes, got {tuple(logits.shape)}"
        )


class NotFinite(ValueError):
    """Where a model's outputs or derivatives are not finite, as those of one that diverged."""


def computed(*values: Tensor) -> None:
    """What a model returned of images, and its derivatives."""
    for v in values:
        if eager(v) and not (valid := v.isfinite()).all():
            raise NotFinite(
                f"model must have finite logits and gradients in x, got {v[~valid][0]:g}"
            )


# ---------------------------------------------------------------- names, folders, data sets


def text(value: object, name: str) -> None:
    """A word, not empty."""
    instance(value, name, str)
    if not value:
        raise ValueError(f"{name} must not be empty, got {value!r}")


def texts(values: Iterable[str], name: str) -> tuple[str, ...]:
    """Several words, as a tuple."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a tuple of names, got {values!r:.80}")
    found = tuple(values)
    for each in found:
        instance(each, name, str)
    return found


def folder(value: str | os.PathLike, name: str = "folder") -> Path:
    """A folder's path; the folder may be missing."""
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str):
        raise TypeError(f"{name} must be a path, got {value!r:.80}")
    if not path or "\0" in path:
        raise ValueError(f"{name} must name a folder, got {path!r:.80}")
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError(f"{name} must be a folder, got the file {path!r}")
    return Path(path)


def untaken(name: str, thing: object, table: Mapping[str, object]) -> None:
    """A name that is free, or that of the same thing; also of one defined again, as by a notebook's
    cell that is run twice.
    """

    def origin(each: Any) -> object:
        defined = isinstance(each, FunctionType | type)
        return (each.__module__, each.__qualname__) if defined else each

    text(name, "name")
    before = table.get(name, thing)
    if origin(before) != origin(thing):
        raise ValueError(f"name must be free, got {name!r}, which is {before!r:.80}")


def weights(weights: Mapping[str, Tensor], name: str) -> None:
    """A network's, finite, by name."""
    instance(weights, name, Mapping)
    for key, value in weights.items():
        instance(key, f"each name in {name}", str)
        instance(value, f"{name}[{key!r}]", Tensor)
        if not (valid := value.isfinite()).all():
            raise ValueError(f"{name}[{key!r}] must be finite, got {value[~valid][0]:g}")


def objective(method: type, kind: type, options: tuple[str, ...]) -> None:
    """A class of the kind, a method of training, which says what it is and what it uses of the
    options.
    """
    if not (isinstance(method, type) and issubclass(method, kind)):
        raise TypeError(f"method must be a subclass of {kind.__name__}, got {method!r:.80}")
    for name in ("name", "label"):
        text(getattr(method, name, None), f"{method.__name__}.{name}")
    used = texts(method.options, f"{method.__name__}.options")
    texts(method.needs, f"{method.__name__}.needs")
    instance(method.trial, f"{method.__name__}.trial", Mapping)
    for name, allowed in {"options": options, "needs": used, "trial": used}.items():
        for each in getattr(method, name):
            option(each, f"{method.__name__}.{name}", allowed)


def trainable(model: nn.Module) -> nn.Module:
    """A network with weights to train, in a type that float32 images go through, returned."""
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    if not parameters:
        raise ValueError(f"model must have parameters to train, got {type(model).__name__}")
    for weight in parameters:
        if weight.dtype in (torch.float64, torch.complex64, torch.complex128):
            raise TypeError(f"model must have float32 parameters, got {weight.dtype}")
    return model


def stored_images(images: Tensor) -> None:
    """uint8 (N, C, H, W) or (N, H, W), channels not last."""
    if images.dtype != torch.uint8:
        small = images.is_floating_point() and images.numel() and images.max() <= 1
        hint = {
            torch.bool: "255 * images.to(torch.uint8)",
            torch.uint16: "(images.int() // 257).to(torch.uint8)",
        }.get(images.dtype, "images.round().to(torch.uint8)")
        hint = "(255 * images).round().to(torch.uint8)" if small else hint
        raise TypeError(f"images must be uint8, 0 (black) to 255, got {images.dtype}: {hint}")
    image_shape(images)
    if images.dim() == 4 and images.shape[3] in (1, 3, 4) and min(images.shape[1:3]) > 4:
        raise ValueError(
            f"images must be (N, C, H, W), got {tuple(images.shape)}: images.movedim(3, 1)"
        )


def stored_labels(labels: Tensor, images: Tensor) -> None:
    """A whole number for each image."""
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise TypeError(f"labels must be whole numbers, got {labels.dtype}: labels.long()")
    if labels.shape != images.shape[:1]:
        hints = {1: ": labels[:, 0]"} if labels.dim() == 2 else {}
        hint = hints.get(labels.shape[-1], ": labels.argmax(1)") if labels.dim() == 2 else ""
        raise ValueError(
            f"labels must be one for each image, ({len(images)},), got {tuple(labels.shape)}{hint}"
        )


def indices(index: Tensor, count: int, name: str) -> None:
    """Different images of so many, by their number."""
    if index.dtype.is_floating_point or index.dtype.is_complex:
        raise TypeError(f"{name} must hold whole numbers, got {index.dtype}")
    if index.dim() != 1 or index.dtype == torch.bool:
        shapes = f"({count},)" if index.dtype == torch.bool else "(n,)"
        raise ValueError(f"{name} must be {shapes} of {index.dtype}, got {tuple(index.shape)}")
    index = index.long()
    outside = index[(index < 0) | (index >= count)]
    if len(outside):
        raise ValueError(f"{name} must hold numbers from 0 to {count - 1}, got {int(outside[0])}")
    values, often = index.unique(return_counts=True)
    if len(values) < len(index):
        raise ValueError(f"{name} must name no image twice, got {int(values[often > 1][0])} again")


def parts(split: Mapping[str, Tensor]) -> None:
    """Training images, which no other part's errors are measured on."""
    if not len(split.get("train", ())):
        held = {part: len(index) for part, index in split.items()}
        raise ValueError(f"split must have images to train on, 'train', got {held}")
    apart = [("train", "test"), ("validation", "test"), ("fit", "test"), ("fit", "validation")]
    for one, other in apart:
        if {one, other} <= split.keys():
            common = split[one][torch.isin(split[one], split[other])]
            if len(common):
                raise ValueError(
                    f"split must have no image both in {one!r} and in {other!r}, "
                    f"got {int(common[0])}"
                )

"""Measures, costs and plans."""

from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wdtr_lite.checks.tensors import real, valued
from wdtr_lite.checks.values import INFINITY, instance, shown

LARGEST = 2**15  # rows of a dense matrix between pixels, of 8 GiB

if TYPE_CHECKING:
    from wdtr_lite.transport.exact import TransportPlan
    from wdtr_lite.transport.measures import Image, Support


def array(image: object, name: str) -> "Image":
    """A tensor, or what NumPy reads as an array, returned as one; of real numbers."""
    if isinstance(image, Tensor):
        valued(image, name)
    elif isinstance(image, np.generic):
        raise TypeError(f"{name} must be an array or a tensor, got {shown(image)}")
    elif isinstance(image, list | tuple) or hasattr(image, "__array__"):
        if np.ma.is_masked(image):
            raise ValueError(f"{name} must have no masked pixels, got {shown(image)}")
        try:
            image = np.asarray(image)
        except ValueError as error:
            raise ValueError(f"{name} must be an array, got {shown(image)}: {error}") from error
    else:
        raise TypeError(f"{name} must be an array or a tensor, got {type(image).__name__}")
    real(image, name)
    return image


def grid(shape: tuple[int, int]) -> tuple[int, int]:
    """The shape (H, W) of images, returned as Python's numbers."""
    sequence = isinstance(shape, tuple | list | np.ndarray) and getattr(shape, "ndim", 1) > 0
    if not (sequence and len(shape) == 2) or not all(
        isinstance(side, Integral) and not isinstance(side, bool) and side > 0 for side in shape
    ):
        raise ValueError(f"shape must be two positive whole numbers (H, W), got {shown(shape)}")
    height, width = map(int, shape)
    if height * width > LARGEST:
        raise ValueError(f"shape must have at most {LARGEST} pixels, got {shown(shape)}")
    return height, width


def measure(image: "Image", name: str) -> None:
    """Images (..., H, W) that can be normalised: non-negative, each of positive and finite mass."""
    if image.ndim < 2 or 0 in image.shape:
        raise ValueError(f"{name} must have shape (..., H, W), got {tuple(image.shape)}")
    says = f"{name} must be non-negative, finite and of positive mass"
    least = image.min()
    if not least >= 0:  # NaN fails it
        raise ValueError(f"{says}: its least pixel is {float(least):g}")
    with np.errstate(over="ignore"):
        mass = image.sum((-2, -1))
    for value in (mass.min(), mass.max()):
        if not 0 < value < float("inf"):
            raise ValueError(f"{says}: a total mass is {float(value):g}")


def pair(a: np.ndarray, b: np.ndarray) -> None:
    """Two images (H, W) of one shape."""
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"x and y must both have shape (H, W), got {a.shape} and {b.shape}")


def pairs(a: "Support", b: "Support") -> None:
    """Two measures between whose lit pixels a dense matrix can be held."""
    if len(a.index) * len(b.index) > LARGEST**2:
        raise ValueError(
            f"x and y must have at most {LARGEST} lit pixels each, got {len(a.index)} and "
            f"{len(b.index)}"
        )


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
    for field in ("source", "target", "mass"):
        instance(getattr(plan, field), f"plan.{field}", np.ndarray)
    parts = plan.source, plan.target, plan.mass
    kinds = "".join(part.dtype.kind for part in parts)
    if kinds not in ("iif", "iii") or any(p.ndim != 1 or len(p) != len(parts[0]) for p in parts):
        says = ", ".join(f"{part.dtype} {part.shape}" for part in parts)
        raise ValueError(f"plan must hold pixels, pixels and masses of one length, got {says}")
    if not (plan.mass >= 0).all():
        raise ValueError(f"plan must hold non-negative masses, its least is {np.min(plan.mass):g}")
    ends = (("source", "x", plan.source, a), ("target", "y", plan.target, b))
    for field, name, end, support in ends:
        inside = (end >= 0) & (end < support.size)
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

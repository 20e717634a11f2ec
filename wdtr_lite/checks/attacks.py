"""Attacks: what they are given, their strength, what they return."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wdtr_lite.checks.classifiers import (
    alike,
    batch,
    intensities,
    probabilities,
    recorded,
    recording,
    targets,
)
from wdtr_lite.checks.tensors import bounded, eager, floating, nonnegative, some_pixels, valued
from wdtr_lite.checks.values import number, option, repeats, shown, whole


def attacked(x: Tensor, y: Tensor) -> None:
    """At least one image, in [0, 1], of a type that small steps do not vanish in, and the labels or
    probabilities.
    """
    batch(x)
    if x.dtype.itemsize < 4:
        raise TypeError(
            f"x must be float32 or float64 for an attack, got {x.dtype}, in which its steps are "
            f"rounded away: attack lambda x: model(x.to({x.dtype})) at x.float()"
        )
    targets(y, x)
    if not x.numel():
        raise ValueError(f"x must hold an image, got {tuple(x.shape)}")
    recording(x)
    intensities(x)
    probabilities(y)
    if eager(y) and bool((y < 0).any()):
        raise ValueError(f"y must be non-negative, its least is {y.min():g}")


def attack_method(method: Callable, options: tuple[str, ...]) -> None:
    """A function of model, x, y, epsilon and others of the options, each of them by name."""
    try:
        signature = inspect.signature(method)
        for each in signature.parameters.values():
            if each.kind is each.VAR_KEYWORD:
                raise TypeError(f"which of {', '.join(options)} does **{each.name} take?")
        taken = {name: None for name in options if name in signature.parameters}
        signature.bind(None, None, None, **{"epsilon": None, **taken})
    except (TypeError, ValueError) as error:
        raise TypeError(
            "method must take model, x, y and epsilon, and name what else it takes, got "
            f"{shown(method)}: {error}"
        ) from None


def start(start: Tensor, x: Tensor) -> None:
    """Images in [0, 1] of the shape, type and device of x."""
    alike(start, x, "start")
    recorded(start, "start")
    intensities(start, "start")


def strength(
    epsilon: float, alpha: float, steps: int, norm: str, dtype: torch.dtype | None = None
) -> tuple[float, float, int]:
    """The ball of an attack, and its steps, returned; lengths have a square in the type of the
    images, and steps change intensities in it.
    """
    epsilon = number(epsilon, "epsilon")
    alpha = number(alpha, "alpha", positive=epsilon > 0)
    steps = repeats(steps, "steps")
    option(norm, "norm", ("linf", "l2"))
    if dtype is not None:
        length(epsilon, "epsilon", dtype)
        length(alpha, "alpha", dtype)
    return epsilon, alpha, steps


def lengths(dtype: torch.dtype) -> tuple[float, float]:
    """The least and the largest that an attack has in a type."""
    return torch.finfo(dtype).eps, 0.5 * torch.finfo(dtype).max ** 0.5


def length(value: float, name: str, dtype: torch.dtype) -> None:
    """A length of 0 or that changes a 1, and whose square the type holds."""
    least, most = lengths(dtype)
    if value > most:
        raise ValueError(f"{name} must be at most {most:.2g} in {dtype}, got {value:.2g}")
    if 0 < value < least:
        raise ValueError(
            f"{name} must be at least {least:.2g} in {dtype} to change an image, got {value:.2g}"
        )


def radii(epsilon: float | Tensor, x: Tensor) -> Tensor:
    """A radius, or one for each image, which the type of x holds; returned as (B,)."""
    if not isinstance(epsilon, Tensor):
        epsilon = number(epsilon, "epsilon")
        length(epsilon, "epsilon", x.dtype)
        return torch.full((len(x),), epsilon, device=x.device, dtype=x.dtype)
    floating(epsilon, "epsilon")
    valued(epsilon, "epsilon")
    if epsilon.shape != x.shape[:1]:
        raise ValueError(f"epsilon must be one number or ({len(x)},), got {tuple(epsilon.shape)}")
    nonnegative(epsilon, "epsilon")
    if eager(epsilon):
        length(float(epsilon.detach().max()), "epsilon", x.dtype)
    return epsilon.detach().to(x.device, x.dtype)


def floor(floor: float, dtype: torch.dtype) -> float:
    """The least intensity of a metric, which the type holds; returned."""
    floor = number(floor, "floor", positive=True)
    least = torch.finfo(dtype).tiny
    if not least <= floor <= 1:
        raise ValueError(f"floor must be from {least:.2g} to 1 in {dtype}, got {floor!r}")
    return floor


def projected(w: Tensor, x: Tensor) -> None:
    """At least one image, in [0, 1], and what is projected to the balls about them."""
    batch(x)
    some_pixels(x)
    intensities(x)
    alike(w, x, "w")
    bounded(w, "w")


def window(side: int) -> int:
    """The side of a window about a pixel, odd, returned."""
    side = whole(side, "window", 3, 2**10)
    if side % 2 == 0:
        raise ValueError(f"window must be odd, got {side}")
    return side


def sharp(regularization: float) -> float:
    """An entropic regularization of intensities whose exponentials float64 holds, returned."""
    regularization = number(regularization, "regularization")
    if not 0.002 <= regularization <= 1e6:
        raise ValueError(f"regularization must be from 0.002 to 1e6, got {regularization!r}")
    return regularization


def attacking(found: Any, x: Tensor) -> Tensor:
    """Images in [0, 1] like x that an attack returned, detached."""
    tensor = isinstance(found, Tensor)
    if not tensor or found.shape != x.shape or found.dtype != x.dtype or found.device != x.device:
        wanted, got = (
            f"{v.dtype} {tuple(v.shape)} on {v.device}" if isinstance(v, Tensor) else f"{shown(v)}"
            for v in (x, found)
        )
        raise ValueError(f"attack must return images like x, {wanted}, got {got}")
    valued(found, "what attack returns")
    intensities(found, "what attack returns")
    return found.detach()

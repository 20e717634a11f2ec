"""Classifiers, their images and labels."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wdtr_lite.checks.measures import array
from wdtr_lite.checks.tensors import (
    bounded,
    dense,
    eager,
    floating,
    graph_dtype,
    like,
    nonnegative,
    valued,
)
from wdtr_lite.checks.values import finite, instance, number, option, whole


def device(device: str | torch.device) -> torch.device:
    """One that this machine has."""
    instance(device, "device", (str, torch.device))
    kind, _, number = str(device).partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.is_available() and torch.cuda.device_count()}
    if not (number or "0").isdecimal() or int(number or 0) >= there.get(kind, 0):
        available = " or ".join(name for name, count in there.items() if count)
        raise ValueError(f"device must be {available} here, got {str(device)!r}")
    return torch.device(device)


def logits(returned: object, x: Tensor, *, single: bool = False, name: str = "model") -> Tensor:
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

"""Classifiers, their images and labels."""

import sys
from collections.abc import Iterable, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wdtr_lite.checks.measures import array
from wdtr_lite.checks.tensors import (
    dense,
    eager,
    floating,
    graph_dtype,
    like,
    valued,
)
from wdtr_lite.checks.values import finite, instance, number, shown, whole

PLAIN = RuntimeError, TypeError, ValueError, NotImplementedError, IndexError, KeyError
"""Errors that say little of what they are about."""


def device(device: str | torch.device) -> torch.device:
    """One that this machine has."""
    instance(device, "device", (str, torch.device))
    kind, _, number = str(device).partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.is_available() and torch.cuda.device_count()}
    if not (number or "0").isdecimal() or int(number or 0) >= there.get(kind, 0):
        available = " or ".join(name for name, count in there.items() if count)
        raise ValueError(f"device must be {available} here, got {str(device)!r}")
    return torch.device(device)


def default_device() -> None:
    """Torch's, on which tensors are made: one that has values."""
    if (found := torch.get_default_device()).type == "meta":
        raise ValueError(f"torch's default device must hold values, got {found}")


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
    short = found.is_floating_point() and found.dtype.itemsize == 1
    if found.is_complex() or found.dtype == torch.bool or short:
        raise TypeError(f"{name} must return real numbers, got {found.dtype}")
    valued(found, f"what {name} returns")
    dims = (1, 2) if single else (2,)
    if found.dim() not in dims or found.shape[:1] != x.shape[:1] or 0 in found.shape[1:]:
        shapes = f"({len(x)},) or ({len(x)}, K)" if single else f"({len(x)}, K)"
        raise ValueError(f"{name} must return {shapes} logits, got {tuple(found.shape)}")
    return found


def called(model: Any, x: Tensor, name: str = "x", function: str = "model") -> Any:
    """What a model returns, so named; it may refuse images, so named, for their type."""
    try:
        return model(x)
    except PLAIN as error:
        weights = model.parameters() if isinstance(model, torch.nn.Module) else ()
        types = sorted({str(weight.dtype) for weight in weights})
        if isinstance(error, RuntimeError) and types and str(x.dtype) not in types:
            raise TypeError(
                f"{name} must be {' or '.join(types)}, as the weights of {function}, got {x.dtype}"
            ) from None
        failed(error, function, x, name)
        raise


def failed(error: Exception, function: str, x: Tensor, name: str = "images") -> None:
    """Raise an error of the images, so named, that a function, so named, was given as one that says
    so; an error of a class of its own is the function's word.
    """
    if type(error) in PLAIN and " failed on " not in str(error):
        raise type(error)(f"{function} failed on {name} {tuple(x.shape)}: {error}") from error


def recording(x: Tensor) -> None:
    """Images of which autograd can take a gradient."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "there are no gradients in inference mode: use torch.no_grad() for evaluation"
        )
    recorded(x, "x")


def recorded(v: Tensor, name: str) -> None:
    """What autograd can keep."""
    if v.is_inference():
        raise ValueError(
            f"{name} must be made outside of inference mode, got an inference tensor: take "
            f"{name}.clone()"
        )


def differentiable(gradient: Tensor | None, name: str = "model", of: str = "x") -> Tensor:
    """The gradient of what a function returned, which is None where autograd saw no way to x."""
    if gradient is None:
        raise ValueError(
            f"{name} must be differentiable in {of}, got outputs on which autograd sees no way "
            "from it: is there a torch.no_grad(), a detach(), an argmax or NumPy inside?"
        )
    return gradient


def tracked(value: Tensor, name: str, of: str = "x") -> Tensor:
    """What a function returned, with a graph of autograd's; returned."""
    return differentiable(value if value.requires_grad else None, name, of)


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


def numbers(returned: Any, shape: torch.Size, name: str) -> Tensor:
    """The same, of images of any batch."""
    floating(returned, what := f"what {name} returns")
    valued(returned, what)
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
    if torch.is_grad_enabled():
        recorded(y, "y")
    if y.is_floating_point():
        like(y, outputs, "y", "the outputs")
    else:
        of_model(y, outputs)


def of_model(y: Tensor, outputs: Tensor, name: str = "y") -> None:
    """Labels that a model has a logit for, of (B, K)."""
    classes(y, outputs.shape[1], name, f": model returns {outputs.shape[1]} logits")


def classes(y: Tensor, count: int, name: str = "y", why: str = "") -> None:
    """Labels of so many classes, from 0."""
    if not y.numel() or not eager(y):
        return
    low, high = torch.aminmax(y)
    if low < 0 or high >= count:
        raise ValueError(f"{name} must be from 0 to {count - 1}, got {low} to {high}{why}")


def targets(y: Tensor, x: Tensor) -> None:
    """An int64 label for each image, or probabilities (B, K)."""
    if not isinstance(y, Tensor) or not y.is_floating_point():
        labels(y, x)
        return
    floating(y, "y")
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
        raise ValueError(f"{name} must be in [0, 1], got {float(low):g} to {float(high):g}{bytes_}")


def per_channel(value: Any, name: str) -> Tensor:
    """A finite number, or one for each channel; returned as a tensor (C,)."""
    given = value
    if not isinstance(value, np.ndarray | Tensor):
        given = value if isinstance(value, list | tuple) else [value]
        given = [finite(each, name) for each in given]
    given = array(given, name)
    given = given.astype(float) if isinstance(given, np.ndarray) else given.detach()
    numbers = torch.as_tensor(given).to(torch.get_default_dtype())
    valued(numbers, name)
    if not bool(numbers.isfinite().all()):
        raise ValueError(f"{name} must be finite, got {shown(value)} in {numbers.dtype}")
    if not numbers.numel() or numbers.numel() != max(numbers.shape, default=1):
        raise ValueError(
            f"{name} must be a number or one for each channel, got {shown(numbers.tolist())} of "
            f"shape {tuple(numbers.shape)}"
        )
    return numbers.flatten()


def channels(x: Tensor, mean: Tensor) -> None:
    """Floating images (..., C, H, W) on the device of a mean for each channel, or one for all."""
    floating(x, "x")
    if len(mean) not in (1, *x.shape[-3:-2]):
        raise ValueError(
            f"x must be (..., {len(mean)}, H, W), of as many channels as mean and std, "
            f"got {tuple(x.shape)}"
        )
    if x.device != mean.device:
        raise ValueError(f"x is on {x.device} but mean is on {mean.device}")


def images(images: Tensor) -> None:
    """uint8, or floating in [0, 1]; (N, C, H, W) or (N, H, W)."""
    if not isinstance(images, Tensor):
        hint = ": torch.from_numpy(images)" if isinstance(images, np.ndarray) else ""
        raise TypeError(f"images must be a tensor, got {type(images).__name__}{hint}")
    if images.dtype != torch.uint8:
        if not images.is_floating_point():
            raise TypeError(f"images must be uint8 or floating, got {images.dtype}")
        floating(images, "images")
    valued(images, "images")
    image_shape(images)
    if images.is_floating_point():
        intensities(images, "images")


def varied(images: Tensor, shift: int, margin: int) -> tuple[int, int]:
    """Images (N, C, H, W) in [0, 1] that can be moved by pixels and continued by a margin; both
    are returned.
    """
    floating(images, "images")
    graph_dtype(images.dtype, "images")
    valued(images, "images")
    if images.dim() != 4 or not images.numel():
        raise ValueError(f"images must be (N, C, H, W), at least one, got {tuple(images.shape)}")
    intensities(images, "images")
    shift, margin = whole(shift, "shift", 0), whole(margin, "margin", 0)
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
    return shift, margin


def shifts(shifts: Iterable[int], side: int, padding: str) -> list[int]:
    """Shifts by at most the side, less one pixel where the border is not repeated; returned."""
    single = getattr(shifts, "shape", None) == ()
    if isinstance(shifts, str | bytes | Set | Tensor) or not isinstance(shifts, Iterable) or single:
        raise TypeError(f"shifts must be a sequence of whole numbers, got {shown(shifts)}")
    shifts, limit = list(shifts), side - (padding == "reflect")
    if not shifts:
        raise ValueError("shifts must hold at least one shift, got []")
    for shift in shifts:
        if abs(whole(shift, "shifts", -sys.maxsize)) > limit:
            raise ValueError(
                f"shifts must be at most {limit} with {padding!r} and {side} pixels, got {shift}"
            )
    return [int(shift) for shift in shifts]


def angle(degrees: float) -> float:
    """An angle up to a full turn, returned."""
    size = number(degrees, "degrees")
    if size > 360:
        raise ValueError(f"degrees must be at most 360, got {degrees!r}")
    return size


def image_shape(images: Tensor) -> None:
    """(N, C, H, W) or (N, H, W)."""
    if images.dim() not in (3, 4) or 0 in images.shape[1:]:
        raise ValueError(f"images must be (N, C, H, W) or (N, H, W), got {tuple(images.shape)}")


def batch(x: Tensor) -> None:
    """Floating images (B, C, H, W)."""
    floating(x, "x")
    valued(x, "x")
    if x.dim() != 4:
        raise ValueError(f"x must be (B, C, H, W), got {tuple(x.shape)}")


def alike(v: Tensor, x: Tensor, name: str) -> None:
    """A tensor of the shape, type and device of x."""
    floating(v, name)
    like(v, x, name)
    if v.dtype != x.dtype:
        raise TypeError(f"{name} is {v.dtype} but x is {x.dtype}")
    if v.device != x.device:
        raise ValueError(f"{name} is on {v.device} but x is on {x.device}")


def gradient(g: Tensor, x: Tensor) -> None:
    """A gradient at images x, both (B, C, H, W)."""
    batch(x)
    alike(g, x, "g")


def defined(thing: Any, name: str, base: type, *methods: str) -> None:
    """A thing whose class defines the methods that its base leaves open."""
    for method in methods:
        if getattr(type(thing), method) is getattr(base, method):
            raise TypeError(f"{name} must define {method}(), got {shown(thing)}")


def stride(step: float) -> float:
    """The step of a finite difference, returned: where no quotient over- or underflows."""
    step = number(step, "step", positive=True)
    if not 1e-12 <= step <= 1e6:
        raise ValueError(f"step must be from 1e-12 to 1e+06, got {step!r}")
    return step


def probabilities(y: Tensor) -> None:
    """Labels; or rows of probabilities, which sum to 1 up to the rounding of their type."""
    if not y.is_floating_point() or not y.numel() or not eager(y):
        return
    sums = y.detach().float().sum(1)
    if sums.isnan().any():
        raise NotFinite("y must be probabilities, got nan")
    if y.min() < 0:
        raise ValueError(f"y must be non-negative, its least is {y.min().item():g}")
    off = (sums - 1).abs()
    if off.max() > max(1e-3, torch.finfo(y.dtype).eps):
        raise ValueError(
            f"y must be probabilities that sum to 1, got a sum of {float(sums[off.argmax()]):g}"
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
                f"model must have finite logits and gradients in x, got {v[~valid][0].item():g}"
            )

"""Images as probability measures on their pixels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

Image = np.ndarray | torch.Tensor


def as_measure(image: Image) -> Image:
    r"""The image as a probability measure on its pixels: :math:`x_i / \sum_j x_j`.

    Parameters
    ----------
    image : array or tensor, (..., H, W)
        Non-negative intensities in any unit. Floating types keep their precision; integers
        become float64.

    Returns
    -------
    array or tensor, (..., H, W)
        Of the same kind, every H x W image summing to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from wdtr_lite.transport import as_measure
    >>> as_measure(np.array([[1, 3], [0, 4]]))
    array([[0.125, 0.375],
           [0.   , 0.5  ]])
    """
    return measure(image, "image")


# ---------------------------------------------------------------- images, supports and checks


class Support(NamedTuple):
    """The lit pixels of a measure."""

    index: np.ndarray  # (k,)
    mass: np.ndarray  # (k,)
    size: int  # number of pixels of the image


def to_numpy(image: Image) -> np.ndarray:
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        return (
            image.float() if image.dtype == torch.bfloat16 else image
        ).numpy()  # NumPy has no bfloat16
    return np.asarray(image)


def measure(image: Image, name: str) -> Image:
    if isinstance(image, torch.Tensor):
        real, floating = not image.is_complex(), image.is_floating_point()
    else:
        image = np.asarray(image)
        real, floating = image.dtype.kind in "fiub", image.dtype.kind == "f"
    if not real:
        raise ValueError(f"{name} must hold real numbers, got {image.dtype}")
    if not floating:
        image = image.double() if isinstance(image, torch.Tensor) else image.astype(np.float64)
    if image.ndim < 2 or 0 in image.shape:
        raise ValueError(f"{name} must have shape (..., H, W), got {tuple(image.shape)}")
    with np.errstate(all="ignore"):
        mass = image.sum((-2, -1))
    if not bool(((mass > 0) & (mass < float("inf"))).all()) or not bool((image >= 0).all()):
        raise ValueError(
            f"{name} must be non-negative, finite and of positive mass: {_describe(to_numpy(image))}"
        )
    return image / mass[..., None, None]


def _describe(image: np.ndarray) -> str:
    """What is wrong with an image that is not a measure."""
    if not np.isfinite(image).all():
        return f"it holds {image[~np.isfinite(image)][0]}"
    if (image < 0).any():
        return f"its least pixel is {image.min():g}"
    with np.errstate(over="ignore"):
        mass = image.sum((-2, -1))
    return f"a total mass is {mass[~((mass > 0) & (mass < np.inf))].flat[0]:g}"


def dense(image: Image, name: str) -> np.ndarray:
    """The image as a float64 measure."""
    image = to_numpy(image)
    return measure(image.astype(np.float64) if image.dtype.kind == "f" else image, name)


def dense_pair(x: Image, y: Image) -> tuple[np.ndarray, np.ndarray]:
    """Both images as float64 measures (H, W)."""
    a, b = dense(x, "x"), dense(y, "y")
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"x and y must both have shape (H, W), got {a.shape} and {b.shape}")
    return a, b


def supports(x: Image, y: Image) -> tuple[Support, Support, int]:
    a, b = dense_pair(x, y)
    return support(a), support(b), a.shape[1]


def support(measure: np.ndarray) -> Support:
    flat = measure.ravel()
    index = flat.nonzero()[0]
    return Support(index, flat[index], flat.size)


def support_list(images: Sequence[Image] | Image, name: str) -> tuple[list[Support], int]:
    batch = [to_numpy(z) for z in images]
    shapes = sorted({z.shape for z in batch})
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise ValueError(
            f"{name} must have shape (N, H, W), got {len(batch)} images of shapes {shapes}"
        )
    return [support(z) for z in dense(np.stack(batch), name)], shapes[0][1]


def like(image: np.ndarray, x: Image) -> Image:
    """A float64 image in the kind, floating type and device of x."""
    if isinstance(x, torch.Tensor):
        return torch.as_tensor(
            image, dtype=x.dtype if x.is_floating_point() else torch.float64, device=x.device
        )
    x = np.asarray(x)
    return image.astype(x.dtype if x.dtype.kind == "f" else np.float64)


def pixels(index: np.ndarray, width: int) -> np.ndarray:
    """Pixel numbers as points (row, column): (k, 2) float64."""
    return np.stack(np.divmod(index, width), axis=1).astype(np.float64)


def check_time(t: float) -> None:
    if not 0 <= t <= 1:
        raise ValueError(f"t must lie in [0, 1], got {t!r}")


def check_order(p: float) -> None:
    if not 1 <= p < float("inf"):
        raise ValueError(f"p must be at least 1 and finite, got {p!r}")

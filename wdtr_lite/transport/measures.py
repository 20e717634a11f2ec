"""Images as probability measures on their pixels."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch

from wdtr_lite import checks

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


def measure(image: Image, name: str) -> Image:
    """As :func:`as_measure`, of an image that messages call `name`."""
    image = checks.array(image, name)
    if isinstance(image, torch.Tensor):
        image = image if image.is_floating_point() else image.double()
    else:
        image = image if image.dtype.kind == "f" else image.astype(np.float64)
    if image.dtype.itemsize == 2:  # whose sums overflow or lose small pixels
        if isinstance(image, torch.Tensor):
            return cast(torch.Tensor, measure(image.float(), name)).to(image.dtype)
        return cast(np.ndarray, measure(image.astype(np.float32), name)).astype(image.dtype)
    checks.measure(image, name)
    return image / image.sum((-2, -1))[..., None, None]


def to_numpy(image: Image) -> np.ndarray:
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().resolve_neg()
        image = (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    return np.asarray(image)


def as_tensor(image: Image) -> torch.Tensor:
    """The image as a tensor, which has no type longer than float64."""
    if isinstance(image, np.ndarray) and image.dtype.itemsize > 8:
        image = image.astype(np.float64)
    return torch.as_tensor(image)


def like(image: np.ndarray, x: Image) -> Image:
    """A float64 image in the kind, floating type and device of x."""
    if isinstance(x, torch.Tensor):
        dtype = x.dtype if x.is_floating_point() else torch.float64
        return torch.as_tensor(image, dtype=dtype, device=x.device)
    x = np.asarray(x)
    return image.astype(x.dtype if x.dtype.kind == "f" else np.float64)


def dense(image: Image, name: str) -> np.ndarray:
    """The image as a float64 measure."""
    image = to_numpy(checks.array(image, name))
    image = image.astype(np.float64) if image.dtype.kind == "f" else image
    return np.asarray(measure(image, name))


def dense_pair(x: Image, y: Image) -> tuple[np.ndarray, np.ndarray]:
    """Both images as float64 measures (H, W)."""
    a, b = dense(x, "x"), dense(y, "y")
    checks.pair(a, b)
    return a, b


class Support(NamedTuple):
    """The lit pixels of a measure."""

    index: np.ndarray  # (k,)
    mass: np.ndarray  # (k,)
    size: int  # number of pixels of the image


def support(measure: np.ndarray) -> Support:
    flat = measure.ravel()
    index = flat.nonzero()[0]
    return Support(index, flat[index], flat.size)


def supports(x: Image, y: Image) -> tuple[Support, Support, int]:
    """The lit pixels of two images (H, W), and their width."""
    a, b = dense_pair(x, y)
    return support(a), support(b), a.shape[1]


def support_list(images: Sequence[Image] | Image, name: str) -> tuple[list[Support], int]:
    """The lit pixels of several images of one shape, and their width."""
    if not isinstance(images, Sequence) or isinstance(images, memoryview):
        images = checks.array(images, name)
    each = images if isinstance(images, Sequence) or images.ndim else ()
    batch = [to_numpy(checks.array(z, name)) for z in each]
    shapes = sorted({z.shape for z in batch})
    if len(shapes) != 1 or len(shapes[0]) != 2:
        listed = isinstance(images, Sequence)
        got = f"{len(batch)} images of shapes {shapes}" if listed else tuple(images.shape)
        raise ValueError(f"{name} must have shape (N, H, W), got {got}")
    return [support(z) for z in dense(np.stack(batch), name)], shapes[0][1]


def pixels(index: np.ndarray, width: int) -> np.ndarray:
    """Pixel numbers as points (row, column): (k, 2) float64."""
    return np.stack(np.divmod(index, width), axis=1).astype(np.float64)

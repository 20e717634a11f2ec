"""How predicted labels change as an image moves, and natural variations of images."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torchvision.transforms import v2

from wdtr_lite import checks
from wdtr_lite.evaluation.errors import as_batch, labels_of, parts
from wdtr_lite.graph import full_precision
from wdtr_lite.models import Classifier
from wdtr_lite.models.modes import evaluating

_AXES = {"horizontal": -1, "vertical": -2}
_PADDINGS = ("zeros", "edge", "reflect", "circular")


class Flips(NamedTuple):
    """How many labels change along a sequence, per image."""

    consecutive: Tensor
    """int64 (N,), shifts whose label is not that of the shift before them in the list."""
    from_unshifted: Tensor
    """int64 (N,), shifts whose label is not that of the unshifted image."""


def translation_sequence(image: Tensor, axis: str, shifts: Sequence[int], padding: str) -> Tensor:
    r"""An image moved by whole pixels, once for each shift, without interpolation.

    Along the axis, of N pixels, the result's pixel k for a shift s is the image's pixel

    .. math:: \begin{cases} k - s & \text{where } 0 \le k - s < N\text{, and elsewhere} \\
       \text{0, black} & \text{zeros} \\
       \text{pixel } 0 \text{ or } N - 1, \text{ the nearer} & \text{edge} \\
       \text{pixel } -(k - s) \text{ or } 2 (N - 1) - (k - s) & \text{reflect} \\
       \text{pixel } (k - s) \bmod N & \text{circular.}
       \end{cases}

    Parameters
    ----------
    image : tensor, (..., C, H, W)
    axis : {"horizontal", "vertical"}
    shifts : sequence of int
        In pixels, positive to the right or down; at most N in size, with ``"reflect"``, which skips
        the border pixel, N - 1.
    padding : {"zeros", "edge", "reflect", "circular"}

    Returns
    -------
    tensor, (number of shifts, ..., C, H, W)

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.evaluation import translation_sequence
    >>> image = torch.tensor([[[1.0, 2.0, 3.0]]])
    >>> translation_sequence(image, "horizontal", [-1, 0, 1], "edge").squeeze()
    tensor([[2., 3., 3.],
            [1., 2., 3.],
            [1., 1., 2.]])

    References
    ----------
    Section 5.2 and Figure 2 of Lin et al. (2019), who do not name their padding.
    """
    checks.floating(image, "image")
    if image.dim() < 3:
        raise ValueError(f"image must be (..., C, H, W), got {tuple(image.shape)}")
    dim, shifts = _checked(image, axis, shifts, padding)
    return torch.stack([_moved(image, dim, shift, padding) for shift in shifts])


def label_flips(
    model: Classifier,
    images: Tensor,
    axis: str,
    shifts: Sequence[int],
    padding: str,
    *,
    batch_size: int = 500,
) -> Flips:
    r"""How often the predicted label changes along the translated versions of each image.

    With the labels :math:`c_1, \dots, c_S` of the shifts in the order given and :math:`c` of the
    unshifted image,

    .. math:: \text{consecutive} = \#\{k \ge 2 : c_k \ne c_{k-1}\}, \qquad
       \text{from\_unshifted} = \#\{k : c_k \ne c\}.

    The paper counts "label flips in the sequence", which may mean either; for the first, give the
    shifts in increasing order.

    Parameters
    ----------
    model, images, batch_size
        As in :func:`predictions`; the model sees as many translated images at a time.
    axis, shifts, padding
        As in :func:`translation_sequence`.

    Returns
    -------
    Flips
        Both counts, int64 (N,).

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.evaluation import label_flips
    >>> brighter_left = lambda x: x.sum((1, 2))
    >>> image = torch.tensor([[[0.0, 1.0, 0.0]]])
    >>> label_flips(brighter_left, image, "horizontal", [-1, 0, 1], "zeros")
    Flips(consecutive=tensor([2]), from_unshifted=tensor([2]))

    References
    ----------
    Section 5.2 and Table 2 of Lin et al. (2019).
    """
    checks.images(images)
    _, shifts = _checked(images, axis, shifts, padding)
    labels = translated_labels(model, images, axis, [0, *shifts], padding, batch_size=batch_size)
    return Flips((labels[2:] != labels[1:-1]).sum(0), (labels[1:] != labels[0]).sum(0))


def translated_labels(
    model: Classifier,
    images: Tensor,
    axis: str,
    shifts: Sequence[int],
    padding: str,
    *,
    batch_size: int = 500,
) -> Tensor:
    """The predicted labels of the translated versions of each image, which :func:`label_flips`
    counts.

    Parameters
    ----------
    model, images, batch_size
        As in :func:`predictions`; the model sees as many translated images at a time.
    axis, shifts, padding
        As in :func:`translation_sequence`.

    Returns
    -------
    tensor, (S, N)
        int64, a row for each shift.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.evaluation import translated_labels
    >>> brighter_left = lambda x: x.sum((1, 2))
    >>> image = torch.tensor([[[0.0, 1.0, 0.0]]])
    >>> translated_labels(brighter_left, image, "horizontal", [-1, 0, 1], "zeros")
    tensor([[0],
            [1],
            [2]])

    References
    ----------
    Section 5.2 of Lin et al. (2019).
    """
    checks.images(images)
    batch_size = checks.whole(batch_size, "batch_size")
    dim, shifts = _checked(images, axis, shifts, padding)
    labels = [images.new_zeros((len(shifts), 0), dtype=torch.int64)]
    with evaluating(model):
        for part in parts(images, batch_size):
            x = as_batch(images[part], model)
            labels.append(
                torch.stack([labels_of(model, _moved(x, dim, shift, padding)) for shift in shifts])
            )
    return torch.cat(labels, 1)


def variations(
    images: Tensor, seed: int, *, shift: int = 2, degrees: float = 30, margin: int = 0
) -> dict[str, Tensor]:
    """Natural variations, each image by its own random draw, the blur of all the same.

    Parameters
    ----------
    images : tensor, (N, C, H, W)
        Floating, in [0, 1].
    seed : int
    shift : int
        Pixels by which an image is moved at most, along both axes.
    degrees : float
        By which it is turned at most.
    margin : int
        Pixels by which the image is continued by reflection at its border before it is varied; what
        comes in from further outside is black.

    Returns
    -------
    dict of str to tensor
        ``"translation"``; ``"rotation"``; ``"elastic"``, bent by torchvision's displacements of
        strength 60, smoothed over 4 pixels; ``"blur"``, Gaussian with standard deviation 1 pixel.

    References
    ----------
    Simard, Steinkraus and Platt (2003) for elastic deformations.
    """
    shift, margin = checks.varied(images, shift, margin)
    seed, degrees = checks.seed(seed), checks.angle(degrees)
    size = list(images.shape[-2:])
    height, width = (side + 2 * margin for side in size)
    bilinear = v2.InterpolationMode.BILINEAR
    transforms = {
        "translation": v2.RandomAffine([0, 0], translate=(shift / width, shift / height)),
        "rotation": v2.RandomRotation([-degrees, degrees], interpolation=bilinear),
        "elastic": v2.ElasticTransform(60.0, 4.0, interpolation=bilinear),
        "blur": v2.GaussianBlur(5, 1.0),
    }
    wide = v2.functional.pad(images, [margin], padding_mode="reflect") if margin else images
    drawing = _Drawing(torch.Generator().manual_seed(seed))
    with torch.device("cpu"), full_precision(images), drawing:
        varied = {
            name: torch.stack([change(image) for image in wide]).clamp(0, 1)
            for name, change in transforms.items()
        }
    return {name: v2.functional.center_crop(each, size) for name, each in varied.items()}


class _Drawing(TorchFunctionMode):
    """What torchvision draws from torch's global generator, which other threads may draw from too,
    is drawn from another, in float32 whatever torch's default type is.
    """

    def __init__(self, generator: torch.Generator):
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self, func: Callable, types: Any, args: Sequence = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.rand, torch.Tensor.uniform_):
            kwargs["generator"] = self.generator
        if func in (torch.rand, torch.empty):
            kwargs.setdefault("dtype", torch.float32)
        return func(*args, **kwargs)


def _moved(image: Tensor, dim: int, shift: int, padding: str) -> Tensor:
    """The image of :func:`translation_sequence` for one shift."""
    side = image.shape[dim]
    source = torch.arange(side, device=image.device) - shift
    inside = (source >= 0) & (source < side)
    if padding == "reflect":
        source = (side - 1) - ((side - 1) - source.abs()).abs()
    source = source % side if padding == "circular" else source.clamp(0, side - 1)
    moved = image.index_select(dim, source)
    if padding == "zeros":
        moved = torch.where(inside if dim == -1 else inside[:, None], moved, 0)
    return moved


def _checked(
    image: Tensor, axis: str, shifts: Sequence[int], padding: str
) -> tuple[int, list[int]]:
    """The dimension of the axis, and the shifts."""
    checks.option(axis, "axis", tuple(_AXES))
    checks.option(padding, "padding", _PADDINGS)
    dim = _AXES[axis]
    return dim, checks.shifts(shifts, image.shape[dim], padding)

"""How often a classifier is wrong: on images, on attacked images, and how its labels change as an
image moves.

Images are evaluated in batches as float (B, C, H, W) in [0, 1]; uint8 images and images without a
channel axis are converted batch by batch. A model that is a :class:`torch.nn.Module` is in
evaluation mode meanwhile; afterwards each of its modules is in the mode it was in. Nothing is moved
to another device.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from wdtr_lite import checks

__all__ = [
    "Flips",
    "error",
    "label_flips",
    "misclassified",
    "predictions",
    "robust_error",
    "translated_labels",
    "translation_sequence",
    "variations",
]

Classifier = Callable[[Tensor], Tensor]
Attack = Callable[[Classifier, Tensor, Tensor], Tensor]

_AXES = {"horizontal": -1, "vertical": -2}
_PADDINGS = ("zeros", "edge", "reflect", "circular")


class Flips(NamedTuple):
    """How many labels change along a sequence, per image."""

    consecutive: (
        Tensor  # int64 (N,), shifts whose label is not that of the shift before them in the list
    )
    from_unshifted: Tensor  # int64 (N,), shifts whose label is not that of the unshifted image


def predictions(model: Classifier, images: Tensor, *, batch_size: int = 500) -> Tensor:
    """The predicted labels, the first of the largest logits; -1 where a logit is NaN.

    Parameters
    ----------
    model : function of images (B, C, H, W) -> logits (B, K)
    images : tensor, (N, C, H, W) or (N, H, W)
        uint8, or floating in [0, 1]. On the device of the model.
    batch_size : int
        Images at a time.

    Returns
    -------
    tensor, (N,)
        int64.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.evaluation import predictions
    >>> brighter_left = lambda x: x.sum((1, 2))
    >>> predictions(brighter_left, torch.tensor([[[255, 0]], [[0, 255]]], dtype=torch.uint8))
    tensor([0, 1])
    """
    _check_images(images)
    checks.whole(batch_size, "batch_size")
    with _evaluating(model):
        labels = [_labels(model, _as_batch(images[part])) for part in _parts(images, batch_size)]
    return torch.cat([images.new_zeros(0, dtype=torch.int64), *labels])


def misclassified(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    attack: Attack | None = None,
    *,
    batch_size: int = 500,
) -> Tensor:
    """Which images are misclassified, as they are or attacked.

    Parameters
    ----------
    model, images, batch_size
        As in :func:`predictions`. An attack with a random start draws it batch by batch.
    labels : tensor, (N,)
        int64.
    attack : function of model, x (B, C, H, W) and y (B,) -> images (B, C, H, W), optional
        Of :mod:`wdtr_lite.attacks` for instance, the other arguments bound by
        ``functools.partial``. Called with gradients as the caller has them, the model in evaluation
        mode.

    Returns
    -------
    tensor, (N,)
        bool.

    Examples
    --------
    >>> import torch
    >>> from functools import partial
    >>> from wdtr_lite.attacks import fgsm
    >>> from wdtr_lite.evaluation import mistakes
    >>> brighter_left = lambda x: x.sum((1, 2))
    >>> x, y = torch.tensor([[[0.5, 0.4]], [[0.5, 0.1]]]), torch.tensor([0, 0])
    >>> mistakes(brighter_left, x, y), mistakes(brighter_left, x, y, partial(fgsm, epsilon=0.1))
    (tensor([False, False]), tensor([ True, False]))

    References
    ----------
    Section 5.1 of Lin et al. (2019).
    """
    _check_images(images)
    _check_labels(labels, images)
    checks.whole(batch_size, "batch_size")
    wrong = [images.new_zeros(0, dtype=torch.bool)]
    with _evaluating(model):
        for part in _parts(images, batch_size):
            x, y = _as_batch(images[part]), labels[part]
            if attack is not None:
                x = _attacked(attack, model, x, y)
            wrong.append(_labels(model, x) != y)
    return torch.cat(wrong)


def error(model: Classifier, images: Tensor, labels: Tensor, *, batch_size: int = 500) -> float:
    """The fraction of images that are misclassified, the mean of :func:`mistakes`.

    Parameters
    ----------
    model, images, labels, batch_size
        As in :func:`mistakes`, at least one image.

    Returns
    -------
    float
        Between 0 and 1.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.evaluation import error
    >>> error(lambda x: x.sum((1, 2)), torch.tensor([[[0.5, 0.4]], [[0.5, 0.1]]]), torch.tensor([0, 1]))
    0.5

    References
    ----------
    Section 5.1 of Lin et al. (2019).
    """
    return _rate(misclassified(model, images, labels, batch_size=batch_size))


def robust_error(
    model: Classifier, images: Tensor, labels: Tensor, attack: Attack, *, batch_size: int = 500
) -> float:
    """The fraction of images that are misclassified once attacked, the mean of :func:`mistakes`.

    Parameters
    ----------
    model, images, labels, attack, batch_size
        As in :func:`mistakes`, at least one image.

    Returns
    -------
    float
        Between 0 and 1. Of the attacked images alone: an image that is misclassified as it is
        counts only if it still is.

    Examples
    --------
    >>> import torch
    >>> from functools import partial
    >>> from wdtr_lite.attacks import fgsm
    >>> from wdtr_lite.evaluation import robust_error
    >>> x, y = torch.tensor([[[0.5, 0.4]], [[0.5, 0.1]]]), torch.tensor([0, 0])
    >>> robust_error(lambda x: x.sum((1, 2)), x, y, partial(fgsm, epsilon=0.1))
    0.5

    References
    ----------
    Section 5.1 of Lin et al. (2019).
    """
    if not callable(attack):
        raise TypeError(f"attack must be a function of model, x and y, got {type(attack).__name__}")
    return _rate(misclassified(model, images, labels, attack, batch_size=batch_size))


def translation_sequence(image: Tensor, axis: str, shifts: Sequence[int], padding: str) -> Tensor:
    r"""An image moved by whole pixels, once for each shift, without interpolation.

    Along the axis, of N pixels, the result's pixel k for a shift s is the image's pixel

    .. math:: \begin{cases} k - s & \text{where } 0 \le k - s < N\text{, and elsewhere} \\
       \text{0, black} & \text{zeros} \\ \text{pixel } 0 \text{ or } N - 1, \text{ the nearer} & \text{edge} \\
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
    >>> translation_sequence(torch.tensor([[[1.0, 2.0, 3.0]]]), "horizontal", [-1, 0, 1], "edge").squeeze()
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
    dim = _checked_axis(axis)
    shifts = _checked_shifts(shifts, padding, image.shape[dim])
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

    .. math:: \text{consecutive} = \#\{k \ge 2 : c_k \ne c_{k-1}\}, \qquad \text{from\_unshifted} = \#\{k : c_k \ne c\}.

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
    >>> label_flips(brighter_left, torch.tensor([[[0.0, 1.0, 0.0]]]), "horizontal", [-1, 0, 1], "zeros")
    Flips(consecutive=tensor([2]), from_unshifted=tensor([2]))

    References
    ----------
    Section 5.2 and Table 2 of Lin et al. (2019).
    """
    _check_images(images)
    shifts = _checked_shifts(shifts, padding, images.shape[_checked_axis(axis)])
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
    >>> translated_labels(brighter_left, torch.tensor([[[0.0, 1.0, 0.0]]]), "horizontal", [-1, 0, 1], "zeros")
    tensor([[0],
            [1],
            [2]])

    References
    ----------
    Section 5.2 of Lin et al. (2019).
    """
    _check_images(images)
    checks.whole(batch_size, "batch_size")
    dim = _checked_axis(axis)
    shifts = _checked_shifts(shifts, padding, images.shape[dim])
    labels = [images.new_zeros((len(shifts), 0), dtype=torch.int64)]
    with _evaluating(model):
        for part in _parts(images, batch_size):
            x = _as_batch(images[part])
            labels.append(
                torch.stack([_labels(model, _moved(x, dim, shift, padding)) for shift in shifts])
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
    height, width = (side + 2 * margin for side in images.shape[-2:])
    bilinear = v2.InterpolationMode.BILINEAR
    transforms = {
        "translation": v2.RandomAffine(0, translate=(shift / width, shift / height)),
        "rotation": v2.RandomRotation(degrees, interpolation=bilinear),
        "elastic": v2.ElasticTransform(60.0, 4.0, interpolation=bilinear),
        "blur": v2.GaussianBlur(5, 1.0),
    }
    wide = v2.functional.pad(images, margin, padding_mode="reflect") if margin else images
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        varied = {
            name: torch.stack([change(image) for image in wide]).clamp(0, 1)
            for name, change in transforms.items()
        }
    return {
        name: v2.functional.center_crop(each, images.shape[-2:]) for name, each in varied.items()
    }


# ---------------------------------------------------------------- batches


def _parts(images: Tensor, batch_size: int) -> Iterator[slice]:
    return (slice(start, start + batch_size) for start in range(0, len(images), batch_size))


def _as_batch(images: Tensor) -> Tensor:
    """uint8 or floating images (B, H, W) or (B, C, H, W) as floating (B, C, H, W) in [0, 1]."""
    x = images if images.is_floating_point() else images.to(torch.get_default_dtype()) / 255
    return x if x.dim() == 4 else x.unsqueeze(1)


@contextmanager
def _evaluating(model: Classifier) -> Iterator[None]:
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


@torch.no_grad()
def _labels(model: Classifier, x: Tensor) -> Tensor:
    logits = model(x)
    if not isinstance(logits, Tensor):
        raise TypeError(f"model must return a tensor, got {type(logits).__name__}")
    if logits.dim() != 2 or len(logits) != len(x):
        raise ValueError(f"model must return ({len(x)}, K) logits, got {tuple(logits.shape)}")
    return logits.argmax(1).where(~logits.isnan().any(1), -1)


def _attacked(attack: Attack, model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    found = attack(model, x, y)
    if not isinstance(found, Tensor) or found.shape != x.shape or found.dtype != x.dtype:
        what = (
            f"{found.dtype} {tuple(found.shape)}"
            if isinstance(found, Tensor)
            else type(found).__name__
        )
        raise ValueError(
            f"attack must return images like x, {x.dtype} {tuple(x.shape)}, got {what}"
        )
    _check_range(found, "attack must return images in [0, 1]")
    return found.detach()


def _rate(wrong: Tensor) -> float:
    if not len(wrong):
        raise ValueError("images must hold at least one image")
    return int(wrong.sum()) / len(wrong)


def _moved(image: Tensor, dim: int, shift: int, padding: str) -> Tensor:
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


# ---------------------------------------------------------------- what comes in


def _check_range(x: Tensor, message: str) -> None:
    low, high = torch.aminmax(x.detach())
    if not (low >= 0 and high <= 1):  # NaN fails both
        raise ValueError(message)


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, got {type(images).__name__}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating, got {images.dtype}")
    if images.dim() not in (3, 4) or 0 in images.shape[1:]:
        raise ValueError(f"images must be (N, C, H, W) or (N, H, W), got {tuple(images.shape)}")
    if images.is_floating_point() and len(images):
        _check_range(images, "images must be in [0, 1]")


def _check_labels(labels: Tensor, images: Tensor) -> None:
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        what = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be an int64 tensor, got {what}")
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels must have one for each image, ({len(images)},), got {tuple(labels.shape)}"
        )


def _checked_axis(axis: str) -> int:
    if axis not in _AXES:
        raise ValueError(f"axis must be one of {sorted(_AXES)}, got {axis!r}")
    return _AXES[axis]


def _checked_shifts(shifts: Sequence[int], padding: str, side: int) -> list[int]:
    if padding not in _PADDINGS:
        raise ValueError(f"padding must be one of {sorted(_PADDINGS)}, got {padding!r}")
    limit = side - (padding == "reflect")
    shifts = list(shifts)
    if not shifts:
        raise ValueError("shifts must hold at least one shift")
    for shift in shifts:
        checks.whole(shift, "shifts", -limit)
        if shift > limit:
            raise ValueError(
                f"shifts must be at most {limit} with {padding!r} and {side} pixels, got {shift}"
            )
    return [int(shift) for shift in shifts]

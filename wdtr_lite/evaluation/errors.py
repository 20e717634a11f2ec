"""Predicted labels, and how often they are wrong on images as they are or attacked."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from wdtr_lite import checks
from wdtr_lite.models import Classifier
from wdtr_lite.models.modes import evaluating

Attacker = Callable[[Classifier, Tensor, Tensor], Tensor]


def predictions(model: Classifier, images: Tensor, *, batch_size: int = 500) -> Tensor:
    """The predicted labels, the first of the largest logits; -1 where a logit is NaN.

    Parameters
    ----------
    model : function of images (B, C, H, W) -> logits (B, K)
        Or to an object that has them as ``.logits``.
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
    checks.images(images)
    batch_size = checks.whole(batch_size, "batch_size")
    with evaluating(model):
        labels = [
            labels_of(model, as_batch(images[part], model)) for part in parts(images, batch_size)
        ]
    return torch.cat([images.new_zeros(0, dtype=torch.int64), *labels])


def misclassified(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    attack: Attacker | None = None,
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
        An :class:`~wdtr_lite.attacks.Attack` for instance. Called with gradients as the caller has
        them, the model in evaluation mode.

    Returns
    -------
    tensor, (N,)
        bool.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.attacks import Attack
    >>> from wdtr_lite.evaluation import misclassified
    >>> brighter_left = lambda x: x.sum((1, 2))
    >>> x, y = torch.tensor([[[0.5, 0.4]], [[0.5, 0.1]]]), torch.tensor([0, 0])
    >>> misclassified(brighter_left, x, y)
    tensor([False, False])
    >>> misclassified(brighter_left, x, y, Attack("fgsm", 0.1))
    tensor([ True, False])

    References
    ----------
    Section 5.1 of Lin et al. (2019).
    """
    checks.images(images)
    checks.labels(labels, images, "labels")
    batch_size = checks.whole(batch_size, "batch_size")
    if attack is not None:
        checks.function(attack, "attack")
    wrong = [images.new_zeros(0, dtype=torch.bool)]
    with evaluating(model):
        for part in parts(images, batch_size):
            x, y = as_batch(images[part], model), labels[part]
            if attack is not None:
                x = _attacked(attack, model, x, y)
            logits = logits_of(model, x)
            checks.of_model(y, logits, "labels")
            wrong.append(largest(logits) != y)
    return torch.cat(wrong)


def error(model: Classifier, images: Tensor, labels: Tensor, *, batch_size: int = 500) -> float:
    """The fraction of images that are misclassified, the mean of :func:`misclassified`.

    Parameters
    ----------
    model, images, labels, batch_size
        As in :func:`misclassified`, at least one image.

    Returns
    -------
    float
        Between 0 and 1.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.evaluation import error
    >>> x, y = torch.tensor([[[0.5, 0.4]], [[0.5, 0.1]]]), torch.tensor([0, 1])
    >>> error(lambda x: x.sum((1, 2)), x, y)
    0.5

    References
    ----------
    Section 5.1 of Lin et al. (2019).
    """
    return _rate(misclassified(model, images, labels, batch_size=batch_size))


def robust_error(
    model: Classifier, images: Tensor, labels: Tensor, attack: Attacker, *, batch_size: int = 500
) -> float:
    """The fraction of images that are misclassified once attacked, the mean of
    :func:`misclassified`.

    Parameters
    ----------
    model, images, labels, attack, batch_size
        As in :func:`misclassified`, at least one image.

    Returns
    -------
    float
        Between 0 and 1. Of the attacked images alone: an image that is misclassified as it is
        counts only if it still is.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.attacks import Attack
    >>> from wdtr_lite.evaluation import robust_error
    >>> x, y = torch.tensor([[[0.5, 0.4]], [[0.5, 0.1]]]), torch.tensor([0, 0])
    >>> robust_error(lambda x: x.sum((1, 2)), x, y, Attack("fgsm", 0.1))
    0.5

    References
    ----------
    Section 5.1 of Lin et al. (2019).
    """
    checks.function(attack, "attack")
    return _rate(misclassified(model, images, labels, attack, batch_size=batch_size))


def _attacked(attack: Attacker, model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    try:
        found = attack(model, x, y)
    except checks.PLAIN as error:
        checks.of_model(y, logits_of(model, x), "labels")
        checks.failed(error, "attack", x)
        raise
    return checks.attacking(found, x)


def _rate(wrong: Tensor) -> float:
    if not len(wrong):
        raise ValueError("images must hold at least one image, got none")
    return int(wrong.sum()) / len(wrong)


# ---------------------------------------------------------------- batches


def parts(images: Tensor, batch_size: int) -> Iterator[slice]:
    """Where each batch is."""
    starts = range(0, len(images), batch_size)
    return (slice(start, start + batch_size) for start in starts)


def as_batch(images: Tensor, model: Classifier) -> Tensor:
    """A copy of uint8 or floating images (B, H, W) or (B, C, H, W) as floating (B, C, H, W) in
    [0, 1]: bytes in torch's default type, unless the model's weights are float32.
    """
    weights = model.parameters() if isinstance(model, nn.Module) else iter(())
    single = next(weights, images).dtype == torch.float32
    dtype = torch.float32 if single else torch.get_default_dtype()
    x = images.clone() if images.is_floating_point() else images.to(dtype) / 255
    return x if x.dim() == 4 else x.unsqueeze(1)


def labels_of(model: Classifier, x: Tensor) -> Tensor:
    """The predicted labels of a batch, as in :func:`predictions`."""
    return largest(logits_of(model, x))


@torch.no_grad()
def logits_of(model: Classifier, x: Tensor) -> Tensor:
    """The logits of a batch, without a graph."""
    return checks.logits(checks.called(model, x, "images"), x)


def largest(logits: Tensor) -> Tensor:
    """The first of the largest of each row; -1 where one is NaN."""
    return logits.argmax(1).where(~logits.isnan().any(1), -1)

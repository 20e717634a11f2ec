"""The networks by name."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from wdtr_lite import checks
from wdtr_lite.models.layers import PerChannel

Classifier = Callable[[Tensor], Any]  # images to logits (B, K) or an object that has .logits

MODELS: dict[str, Callable[..., nn.Module]] = {}
"""The networks by name, for configurations and the command line."""


def register(name: str, make: Callable[..., nn.Module] | None = None) -> Callable:
    """Give a network a name, which :class:`~wdtr_lite.training.Config` knows from then on; the
    command line knows what the package registers.

    Parameters
    ----------
    name : str
    make : function, optional
        Returns the network, of the keywords that :func:`build` passes on. Without it the result is
        a decorator.

    Returns
    -------
    function
        `make` itself.

    Examples
    --------
    >>> from torch import nn
    >>> from wdtr_lite import models
    >>> @models.register("linear")
    ... def linear(*, classes, channels, mean, std, **others):
    ...     layers = nn.Conv2d(channels, classes, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ...     return nn.Sequential(models.Normalize(mean, std), *layers)
    >>> models.build("linear", classes=7, channels=1, mean=0.5, std=0.5)[1].out_channels
    7
    >>> del models.MODELS["linear"]
    """
    if make is None:
        return partial(register, name)
    checks.registered(name, make, "make", MODELS)
    MODELS[name] = make
    return make


def build(
    name: str,
    *,
    classes: int,
    channels: int,
    mean: PerChannel,
    std: PerChannel,
    activation: str | None = None,
    width: int | None = None,
) -> nn.Module:
    """A network by name, for given data.

    Parameters
    ----------
    name : str
        ``"resnet20"``, ``"resnet8"``, ``"small_cnn"`` or what :func:`register` has named.
    classes, channels : int
    mean, std : float or one for each channel
        Of the intensities, as for :class:`Normalize`.
    activation : {"softplus", "relu"}, optional
    width : int, optional
        By default both are the network's own.

    Returns
    -------
    torch.nn.Module
        Images (B, C, H, W) in [0, 1] to logits (B, classes).

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import models
    >>> network = models.build("resnet8", classes=100, channels=3, mean=0.5, std=0.25)
    >>> network(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 100])
    """
    checks.option(name, "name", tuple(MODELS))
    classes, channels = checks.size(classes, "classes"), checks.size(channels, "channels")
    given = {"activation": activation, "width": width}
    given = {option: value for option, value in given.items() if value is not None}
    checks.function(MODELS[name], f"the network of name {name!r}")
    made = MODELS[name](classes=classes, channels=channels, mean=mean, std=std, **given)
    checks.instance(made, f"the network of name {name!r}", nn.Module)
    return made

"""The networks of the experiments, with smooth activations and the input normalisation as their
first layer.

They take images (B, C, H, W) in [0, 1] to logits (B, classes), so that gradients in the images are
with respect to intensities. Weights are drawn from torch's global generator, as in all of torch's
modules: call ``torch.manual_seed`` before.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wdtr_lite import checks

__all__ = ["MODELS", "Normalize", "build", "register", "resnet8", "resnet20", "small_cnn"]

Classifier = Callable[[Tensor], Any]  # images to logits (B, K) or an object that has .logits
Activation = Callable[[Tensor], Tensor]
PerChannel = float | Sequence[float]

# Out of place, for double back-propagation.
_ACTIVATIONS: dict[str, Activation] = {"softplus": F.softplus, "relu": F.relu}

_CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
_CIFAR10_STD = (0.2470, 0.2435, 0.2616)

MODELS: dict[str, Callable[..., nn.Module]] = {}
"""The networks by name, for configurations and the command line."""


def register(name: str, make: Callable[..., nn.Module] | None = None) -> Callable:
    """Give a network a name, which :class:`~wdtr_lite.training.Config` and the command line know
    from then on.

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
    given = {"activation": activation, "width": width}
    given = {option: value for option, value in given.items() if value is not None}
    return MODELS[name](classes=classes, channels=channels, mean=mean, std=std, **given)


class Normalize(nn.Module):
    r"""The layer :math:`(x - \text{mean}) / \text{std}`, channel by channel.

    Put before a network that was trained on normalised images, such as timm's and torchvision's, it
    makes one of intensities in [0, 1]: ``nn.Sequential(Normalize(mean, std), model)``, with a
    loader that does not normalise.

    Parameters
    ----------
    mean, std : float or one for each channel
        `std` positive.
    channels : int, optional
        By default as many as numbers are given; of one number, any.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.models import Normalize
    >>> Normalize((0.5, 0.25), 0.25)(torch.ones(1, 2, 1, 1)).flatten()
    tensor([2., 3.])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: PerChannel, std: PerChannel, channels: int | None = None):
        super().__init__()
        values = [_numbers(mean, "mean"), _numbers(std, "std")]
        count = channels or max(map(len, values))
        for name, value in zip(("mean", "std"), values, strict=True):
            if len(value) not in (1, count):
                raise ValueError(
                    f"{name} must be one number or {count}, one for each channel, got {len(value)}"
                )
            self.register_buffer(name, value.repeat(count // len(value)).view(-1, 1, 1))
        if not bool((self.std > 0).all()):
            raise ValueError(f"std must be positive, got {std!r}")

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def _numbers(value: PerChannel, name: str) -> Tensor:
    numbers = torch.as_tensor(value, dtype=torch.get_default_dtype()).reshape(-1)
    if not bool(numbers.isfinite().all()):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return numbers


class _Block(nn.Module):
    """Two convolutions and a shortcut without parameters: every second pixel, the new channels
    zero (option A).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Activation):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.new, self.activation = stride, outputs - inputs, activation

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.activation(self.bn1(self.conv1(x)))))
        shortcut = x[..., :: self.stride, :: self.stride]
        if self.new:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))
        return self.activation(out + shortcut)


class _ResNet(nn.Module):
    """Three stages of `blocks` blocks with width, 2 width and 4 width channels, after He et al.
    (2016), Section 4.2.
    """

    def __init__(
        self,
        blocks: int,
        activation: str,
        width: int,
        classes: int,
        channels: int,
        mean: PerChannel,
        std: PerChannel,
    ):
        super().__init__()
        act = _checked(activation, width=width, classes=classes, channels=channels)
        self.normalize = Normalize(mean, std, channels)
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.activation = act
        sides = [
            (width * max(1, 2**stage // 2), width * 2**stage, 1 + (stage > 0)) for stage in range(3)
        ]
        self.stages = nn.Sequential(
            *(
                _Block(outputs if k else inputs, outputs, 1 if k else stride, act)
                for inputs, outputs, stride in sides
                for k in range(blocks)
            )
        )
        self.linear = nn.Linear(4 * width, classes)
        _kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.bn(self.conv(self.normalize(x))))
        return self.linear(self.stages(x).mean((2, 3)))


class _SmallCNN(nn.Module):
    def __init__(self, activation: str, width: int, classes: int, channels: int, mean, std):
        super().__init__()
        self.activation = _checked(activation, width=width, classes=classes, channels=channels)
        self.normalize = Normalize(mean, std, channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.linear1 = nn.Linear(2 * width * 7 * 7, 64)
        self.linear2 = nn.Linear(64, classes)
        _kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        act = self.activation
        x = act(self.conv2(act(self.conv1(self.normalize(x)))))
        if x.shape[-2:] != (7, 7):  # the pooling's derivative is not deterministic on a GPU
            x = F.adaptive_avg_pool2d(x, 7)
        return self.linear2(act(self.linear1(x.flatten(1))))


def _checked(activation: str, **sizes: int) -> Activation:
    checks.option(activation, "activation", tuple(_ACTIVATIONS))
    for name, value in sizes.items():
        checks.whole(value, name)
    return _ACTIVATIONS[activation]


def _kaiming(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


@register("resnet20")
def resnet20(
    activation: str = "softplus",
    *,
    width: int = 16,
    classes: int = 10,
    channels: int = 3,
    mean: PerChannel = _CIFAR10_MEAN,
    std: PerChannel = _CIFAR10_STD,
) -> nn.Module:
    r"""The ResNet-20 of He et al. for CIFAR-10: 269,722 parameters, shortcuts without parameters
    (option A).

    .. math:: \text{softplus}(t) = \log(1 + e^t)

    in place of the ReLU makes the network twice differentiable, which penalties on the gradient ask
    for. Convolutions have no bias and Kaiming's normal weights; batch normalisation couples the
    images of a batch in training mode.

    Parameters
    ----------
    activation : {"softplus", "relu"}
    width : int
        Channels of the first of the three stages; the others have twice and four times as many.
    classes : int
    channels : int
        C of the images.
    mean, std : float or one for each channel
        :math:`(x - \text{mean}) / \text{std}` is the first layer; by default of the CIFAR-10
        training images, so other numbers of channels need their own.

    Returns
    -------
    torch.nn.Module
        Images (B, C, H, W) in [0, 1] of any size to logits (B, classes).

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.models import resnet20
    >>> network = resnet20()
    >>> sum(p.numel() for p in network.parameters())
    269722
    >>> network(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])

    References
    ----------
    He, Zhang, Ren and Sun (2016), Section 4.2; Section 5.1 of Lin et al. (2019) for the softplus.
    """
    return _ResNet(3, activation, width, classes, channels, mean, std)


@register("resnet8")
def resnet8(
    activation: str = "softplus",
    *,
    width: int = 16,
    classes: int = 10,
    channels: int = 3,
    mean: PerChannel = _CIFAR10_MEAN,
    std: PerChannel = _CIFAR10_STD,
) -> nn.Module:
    """The smallest relative of :func:`resnet20`: one block a stage in place of three, 75,290
    parameters.

    Parameters
    ----------
    activation, width, classes, channels, mean, std
        As in :func:`resnet20`.

    Returns
    -------
    torch.nn.Module
        Images (B, C, H, W) in [0, 1] of any size to logits (B, classes).

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.models import resnet8
    >>> resnet8(channels=1, mean=0.1307, std=0.3081)(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 10])

    References
    ----------
    He, Zhang, Ren and Sun (2016), Section 4.2.
    """
    return _ResNet(1, activation, width, classes, channels, mean, std)


@register("small_cnn")
def small_cnn(
    activation: str = "softplus",
    *,
    width: int = 8,
    classes: int = 10,
    channels: int = 1,
    mean: PerChannel = 0.1307,
    std: PerChannel = 0.3081,
) -> nn.Module:
    """A network for 28 x 28 digits that trains in seconds: two convolutions of stride 2, two
    linear layers.

    Without batch normalisation, so that no image sees another of its batch. 3 x 3 convolutions with
    `width` and twice as many channels, 64 hidden units; 52,138 parameters. Features of images of
    other sizes are averaged to 7 x 7 (on a GPU, torch has no deterministic derivative for that).

    Parameters
    ----------
    activation : {"softplus", "relu"}
    width : int
        Channels of the first convolution.
    classes : int
    channels : int
        C of the images.
    mean, std : float or one for each channel
        Of the input normalisation; by default of the MNIST training images.

    Returns
    -------
    torch.nn.Module
        Images (B, C, H, W) in [0, 1] to logits (B, classes).

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.models import small_cnn
    >>> small_cnn()(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 10])

    References
    ----------
    LeCun, Bottou, Bengio and Haffner (1998).
    """
    return _SmallCNN(activation, width, classes, channels, mean, std)

"""Residual networks for CIFAR-10."""

from torch import Tensor, nn
from torch.nn import functional as F

from wdtr_lite.models.layers import Activation, Normalize, PerChannel, chosen, kaiming
from wdtr_lite.models.registry import register

_CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
_CIFAR10_STD = (0.2470, 0.2435, 0.2616)


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
        act, sizes = chosen(activation, width=width, classes=classes, channels=channels)
        width, classes, channels = sizes
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
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.bn(self.conv(self.normalize(x))))
        return self.linear(self.stages(x).mean((2, 3)))


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

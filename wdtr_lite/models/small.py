"""A small network for digits."""

from torch import Tensor, nn
from torch.nn import functional as F

from wdtr_lite.models.layers import Normalize, PerChannel, chosen, kaiming
from wdtr_lite.models.registry import register


class _SmallCNN(nn.Module):
    def __init__(self, activation: str, width: int, classes: int, channels: int, mean, std):
        super().__init__()
        self.activation, sizes = chosen(activation, width=width, classes=classes, channels=channels)
        width, classes, channels = sizes
        self.normalize = Normalize(mean, std, channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.linear1 = nn.Linear(2 * width * 7 * 7, 64)
        self.linear2 = nn.Linear(64, classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        act = self.activation
        x = act(self.conv2(act(self.conv1(self.normalize(x)))))
        if x.shape[-2:] != (7, 7):  # the pooling's derivative is not deterministic on a GPU
            x = F.adaptive_avg_pool2d(x, 7)
        return self.linear2(act(self.linear1(x.flatten(1))))


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

"""What networks share: the input normalisation, activations, first weights."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wdtr_lite import checks

Activation = Callable[[Tensor], Tensor]
PerChannel = float | Sequence[float]

# Out of place, for double back-propagation.
ACTIVATIONS: dict[str, Activation] = {"softplus": F.softplus, "relu": F.relu}
"""The activations by name, for configurations and the command line."""


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
        values = [checks.per_channel(mean, "mean"), checks.per_channel(std, "std")]
        largest = max(map(len, values))
        count = largest if channels is None else checks.size(channels, "channels")
        for name, given, value in zip(("mean", "std"), (mean, std), values, strict=True):
            if len(value) not in (1, count):
                raise ValueError(
                    f"{name} must be one number or {count}, one for each channel, "
                    f"got {checks.shown(given)}"
                )
            self.register_buffer(name, value.repeat(count // len(value)).view(-1, 1, 1))
        if not bool((self.std > 0).all()):
            raise ValueError(f"std must be positive, got {checks.shown(std)}")
        if not bool((torch.stack([self.mean, 1 - self.mean]) / self.std).isfinite().all()):
            raise ValueError(
                "mean and std must keep intensities in [0, 1] finite, "
                f"got {checks.shown(mean)} and {checks.shown(std)}"
            )

    def forward(self, x: Tensor) -> Tensor:
        checks.channels(x, self.mean)
        return (x - self.mean) / self.std


def chosen(activation: str, **sizes: int) -> tuple[Activation, list[int]]:
    """The activation of a name, and the sizes of a network, positive whole numbers."""
    checks.option(activation, "activation", tuple(ACTIVATIONS))
    return ACTIVATIONS[activation], [checks.size(value, name) for name, value in sizes.items()]


def kaiming(model: nn.Module) -> None:
    """Draw the weights of convolutions, after He et al. (2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

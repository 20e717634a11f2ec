"""Residual networks with noise in their blocks, averaged."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from wdtr_lite.models.registry import register
from wdtr_lite.models.resnet import resnet8, resnet20

LEVEL = 0.1  # of the noise, in standard deviations of what it is added to
MEMBERS = 2


class Noisy(nn.Module):
    r"""A block with noise on what it returns,

    .. math:: B(x) + \text{level} \cdot \sigma(B(x))\, \xi, \qquad \xi \sim N(0, I),

    in training and in evaluation mode, with the standard deviation :math:`\sigma` over an image's
    features.

    On a CPU the noise is drawn from a seed of the block's own, the buffer ``draws``, which each
    pass moves by one: passes differ, and a network that is stored and goes on draws what it would
    have drawn. On a GPU it is drawn from torch's global generator, as dropout is.

    Parameters
    ----------
    block : torch.nn.Module
    level : float
    """

    draws: Tensor

    def __init__(self, block: nn.Module, level: float = LEVEL):
        super().__init__()
        self.block, self.level = block, level
        self.register_buffer("draws", torch.randint(2**48, ()))

    def forward(self, x: Tensor) -> Tensor:
        out = self.block(x)
        return out + self.level * out.std((1, 2, 3), keepdim=True) * self._noise(out)

    @torch.no_grad()
    def _noise(self, out: Tensor) -> Tensor:
        if out.is_cuda:
            return torch.randn_like(out)
        generator = torch.Generator().manual_seed(int(self.draws))
        with torch._C._DisableFuncTorch():  # torch.func lets no pass write to a buffer
            self.draws += 1
        return torch.randn(out.shape, generator=generator, dtype=out.dtype)


class Ensemble(nn.Module):
    """The mean of several networks' logits. Of one network several times it is the mean of as many
    of its passes.

    Parameters
    ----------
    members : iterable of torch.nn.Module
    """

    def __init__(self, members: Iterable[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


def _ensemble(make: Callable[..., nn.Module], activation: str, options: dict) -> Ensemble:
    """Members of their own weights, with noise after each block."""
    members = [make(activation, **options) for _ in range(MEMBERS)]
    for member in members:
        blocks = member.get_submodule("stages").children()
        member.stages = nn.Sequential(*map(Noisy, blocks))
    return Ensemble(members)


@register("enresnet20")
def enresnet20(activation: str = "softplus", **options: Any) -> nn.Module:
    r"""An ensemble of two :func:`~wdtr_lite.models.resnet20` with noise in their blocks, trained
    jointly: a ResNet as a transport equation with diffusion.

    A residual block :math:`x_{k+1} = x_k + F(x_k)` is a step of :math:`\dot x = F(x)`, along whose
    paths a transport equation carries what the last layer makes of :math:`x`. With noise,

    .. math:: x_{k+1} = x_k + F(x_k) + \text{level} \cdot \sigma\, \xi_k, \qquad
       \xi_k \sim N(0, I),

    the equation has a term of diffusion, and its solution is the mean over the noise (Feynman and
    Kac), here over as many passes as there are networks. The level is 0.1 of the standard deviation
    of what it is added to, in evaluation too; see ``models.enresnet.Noisy``. Noise
    masks gradients: judge such a network also with the noise off, ``Noisy.level = 0``, and under
    attacks on the mean of many passes.

    The authors' code has blocks whose last operation is the sum and takes the standard deviation
    over the whole batch; here an activation follows the sum, the noise comes after it, and each
    image has its own standard deviation, so that in evaluation no image sees another. They average
    up to five networks.

    Parameters
    ----------
    activation : {"softplus", "relu"}
    **options
        ``width``, ``classes``, ``channels``, ``mean`` and ``std``, as of
        :func:`~wdtr_lite.models.resnet20`.

    Returns
    -------
    torch.nn.Module
        Images (B, C, H, W) in [0, 1] of any size to logits (B, classes), the mean of the networks'.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.models import enresnet20
    >>> network, x = enresnet20(width=4).eval(), torch.rand(2, 3, 32, 32)
    >>> network(x).shape, bool((network(x) == network(x)).all())
    (torch.Size([2, 10]), False)

    References
    ----------
    Wang, Yuan, Shi and Osher (2018), EnResNet.
    """
    return _ensemble(resnet20, activation, options)


@register("enresnet8")
def enresnet8(activation: str = "softplus", **options: Any) -> nn.Module:
    """The smallest relative of :func:`enresnet20`: an ensemble of two
    :func:`~wdtr_lite.models.resnet8`.

    Parameters
    ----------
    activation, **options
        As in :func:`enresnet20`.

    Returns
    -------
    torch.nn.Module
        Images (B, C, H, W) in [0, 1] of any size to logits (B, classes).

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.models import enresnet8
    >>> enresnet8(channels=1, mean=0.1307, std=0.3081)(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 10])

    References
    ----------
    Wang, Yuan, Shi and Osher (2018), EnResNet.
    """
    return _ensemble(resnet8, activation, options)

"""What a configuration chooses from by name: optimizers, schedules, augmentations."""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer

if TYPE_CHECKING:
    from wdtr_lite.training.config import Config


def _sgd(parameters: Iterable[Parameter], config: "Config", device: torch.device) -> Optimizer:
    return SGD(
        parameters,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def _adamw(parameters: Iterable[Parameter], config: "Config", device: torch.device) -> Optimizer:
    return AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(config.momentum, 0.999),
        weight_decay=config.weight_decay,
        capturable=device.type == "cuda",
    )


OPTIMIZERS: dict[str, Callable[[Iterable[Parameter], "Config", torch.device], Optimizer]] = {
    "sgd": _sgd,
    "adamw": _adamw,
}
"""Functions of parameters, configuration and device -> optimizer, by name. The schedule scales
the learning rate that each of its groups has. A GPU captures its steps in a graph, anew where the
learning rate changes. It must hold all weights that are not frozen. A run that goes on has the
optimizer's state of each weight and what was added to its groups later; entries of the groups that
its constructor sets are as the constructor sets them.

References: Sutskever et al. (2013); Loshchilov and Hutter (2019).
"""


def always_gathered(optimizer: Optimizer) -> tuple[str, ...]:
    """What an optimizer that is known gathers of each weight that it has moved."""
    if isinstance(optimizer, AdamW):
        return "step", "exp_avg", "exp_avg_sq"
    moving = isinstance(optimizer, SGD) and all(g["momentum"] for g in optimizer.param_groups)
    return ("momentum_buffer",) if moving else ()


def _milestones(config: "Config", epoch: int) -> float:
    return 0.1 ** sum(epoch >= milestone for milestone in config.milestones)


def _cosine(config: "Config", epoch: int) -> float:
    return (1 + math.cos(math.pi * epoch / config.epochs)) / 2


SCHEDULES: dict[str, Callable[["Config", int], float]] = {
    "milestones": _milestones,
    "cosine": _cosine,
    "constant": lambda config, epoch: 1.0,
}
"""Functions of the configuration and the epoch, from 0 -> factor of the learning rate, by name.

Reference: Loshchilov and Hutter (2017) for the cosine.
"""


def _flip_crop(x: Tensor, generator: torch.Generator) -> Tensor:
    n, channels, height, width = x.shape
    device, margin = x.device, 4
    shift = torch.randint(2 * margin + 1, (2, n, 1), generator=generator, device=device)
    flipped = torch.randint(2, (n, 1), generator=generator, device=device).bool()
    rows = shift[0] + torch.arange(height, device=device)  # (B, H)
    columns = shift[1] + torch.arange(width, device=device)
    columns = torch.where(flipped, columns.flip(1), columns)  # (B, W)
    image = torch.arange(n, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[:, None, None]
    padded = F.pad(x, (margin, margin, margin, margin))
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda x, generator: x,
    "flip_crop": _flip_crop,
}
"""Functions of images (B, C, H, W) in [0, 1] and a generator on their device -> images, by name.

``"flip_crop"``: half of the images mirrored, all cropped anew from 4 black pixels more on each
side. Reference: He, Zhang, Ren and Sun (2016).
"""

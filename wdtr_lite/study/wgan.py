"""Small Wasserstein generative adversarial networks, whose critic's gradient is held to norm 1."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from wdtr_lite import checks
from wdtr_lite.graph import PixelGraph
from wdtr_lite.metric import grad_norm_sq
from wdtr_lite.models import Normalize
from wdtr_lite.regularizer import GradientPenalty

__all__ = ["Fitted", "Trainer", "critic", "generator", "mixture", "train", "unit_graph"]

BATCH = 64
NOISE = 32  # numbers that a generator makes an image of
TURNS = 5  # steps of the critic for one of the generator, as in Gulrajani et al.


def unit_graph(height: int, width: int, radius: int) -> PixelGraph:
    r"""A pixel graph whose weight lets one unit of ink count in pixels.

    The gradient of the ink's mean column, the number of each pixel's column, has norm 1 at one unit
    of ink that is far from the border. In the first and the last row its norm is larger, with the
    radius 1 :math:`\sqrt{16/15} = 1.033`. So this ramp proves a shift by k pixels to be k / 1.033
    long only; one that is a little flatter near those rows proves almost k away from them.

    Parameters
    ----------
    height, width, radius : int
        As for :class:`~wdtr_lite.graph.PixelGraph`, of a width of 2 pixels at least.

    Examples
    --------
    >>> from wdtr_lite.study.wgan import unit_graph
    >>> unit_graph(1, 7, 1)
    PixelGraph(1, 7, 1, weight=0.16666666666666666)
    """
    graph = PixelGraph(height, checks.whole(width, "width", 2), radius).to(torch.float64)
    ink = torch.zeros(graph.height, graph.width, dtype=torch.float64)
    ink[graph.height // 2, graph.width // 2] = 1
    column = torch.arange(graph.width, dtype=torch.float64).expand_as(ink)
    square = float(grad_norm_sq(graph, ink, column))
    return PixelGraph(height, width, radius, weight=1 / square)


def critic(side: int, unit: float = 1.0, width: int = 256) -> nn.Module:
    """A network from square images (B, 1, side, side) to numbers (B,): two hidden layers.

    Parameters
    ----------
    side : int
    unit : float
        Of the intensities, which are divided by it.
    width : int
        Of the hidden layers.
    """
    return nn.Sequential(
        Normalize(0.0, unit),
        nn.Flatten(),
        nn.Linear(side**2, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, 1),
        nn.Flatten(0),
    )


def generator(side: int, width: int = 256) -> nn.Module:
    """A network from Gaussian noise (B, 32) to square images (B, 1, side, side) in [0, 1]: two
    hidden layers with batch normalisation.
    """
    return nn.Sequential(
        nn.Linear(NOISE, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, side**2),
        nn.Sigmoid(),
        nn.Unflatten(1, (1, side, side)),
    )


def mixture(real: Tensor, fake: Tensor) -> Tensor:
    """One image between each pair, at a random place of the straight line: the one fades into the
    other.
    """
    t = torch.rand(len(real), 1, 1, 1)
    return t * real + (1 - t) * fake


class Trainer:
    r"""A critic D in training. A step lowers

    .. math:: \E D(\text{fake}) - \E D(\text{real})
       + \lambda\, \E \bigl(\|\nabla D(\text{between})\| - 1\bigr)^2

    by Adam, at a rate that falls to 0 over the second half of the steps.

    References
    ----------
    Gulrajani et al. (2017); Dukler et al. (2019) for the Wasserstein norm.
    """

    def __init__(
        self, model: nn.Module, penalty: GradientPenalty, weight: float, steps: int, rate: float
    ):
        self.model, self.penalty, self.weight = model, penalty, weight
        self.update = _update(model, steps, rate)

    def step(self, real: Tensor, fake: Tensor, between: Tensor) -> tuple[float, float]:
        """What the critic tells of the distance, and the mean norm of its gradient."""
        norm = (self.penalty(self.model, between) + 1e-12).sqrt()  # at 0 a root has no slope
        estimate = self.model(real).mean() - self.model(fake).mean()
        self.update(self.weight * (norm - 1).square().mean() - estimate)
        return estimate.item(), norm.mean().item()


def _update(model: nn.Module, steps: int, rate: float) -> Callable[[Tensor], None]:
    optimizer = torch.optim.Adam(model.parameters(), rate, betas=(0.5, 0.9))
    schedule = LambdaLR(optimizer, lambda k: min(1.0, 2 * (1 - k / steps)))

    def update(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    return update


class Fitted(NamedTuple):
    """Two networks that were trained against each other, in evaluation mode."""

    generator: nn.Module
    critic: nn.Module


def train(
    images: Tensor,
    penalty: GradientPenalty,
    weight: float,
    steps: int,
    seed: int,
    *,
    rate: float = 1e-3,
    watch: Callable[[int, nn.Module, float], None] = lambda *_: None,
) -> Fitted:
    """A generator and a critic, trained from images (N, 1, S, S) in [0, 1].

    The critic makes five steps for one of the generator. Its gradient is measured at mixtures of
    images and generated ones.

    Parameters
    ----------
    images : tensor, (N, 1, S, S)
    penalty : GradientPenalty
        With ``of="logits"``.
    weight : float
        Of the penalty, λ.
    steps : int
        Of the generator.
    seed : int
        Of torch's own generator, which draws all that is random.
    rate : float
        Of both networks.
    watch : function of the step, the generator and the mean of the critic's estimates since the
        last call
    """
    torch.manual_seed(checks.seed(seed))
    made, judge = generator(images.shape[-1]), critic(images.shape[-1])
    trainer = Trainer(judge, penalty, weight, TURNS * steps, rate)
    improve = _update(made, steps, rate)
    for step in range(1, steps + 1):
        told = []
        for _ in range(TURNS):
            real = images[torch.randint(len(images), (BATCH,))]
            with torch.no_grad():
                fake = made(torch.randn(BATCH, NOISE))
            told.append(trainer.step(real, fake, mixture(real, fake))[0])
        improve(-judge(made(torch.randn(BATCH, NOISE))).mean())
        watch(step, made, sum(told) / TURNS)
    return Fitted(made.eval(), judge.eval())

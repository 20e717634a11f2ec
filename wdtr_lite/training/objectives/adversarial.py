"""Training on adversarial examples."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wdtr_lite import attacks, checks
from wdtr_lite.attacks import Attack
from wdtr_lite.graph import PixelGraph
from wdtr_lite.models.modes import evaluating
from wdtr_lite.regularizer import Terms
from wdtr_lite.regularizer.forward import cross_entropy
from wdtr_lite.training.objectives.base import (
    Objective,
    logits_of,
    normal,
    register,
)

if TYPE_CHECKING:
    from wdtr_lite.training.config import Config


class Adversarial(Objective):
    """Images attacked as the network stands, in evaluation mode."""

    options = ("epsilon", "warmup")
    needs = ("epsilon",)
    trial = {"epsilon": 8 / 255}
    attack: ClassVar[str]

    def images(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epsilon: float
    ) -> Tensor:
        attack = Attack(self.attack, epsilon, steps=self.config.steps)
        with evaluating(model):
            return or_nan(partial(attack, model, x, y, generator=generator), x)


def or_nan(images: Callable[[], Tensor], x: Tensor) -> Tensor:
    """Attacked images; NaN of a network that has diverged, so that its loss tells."""
    try:
        return images()
    except checks.NotFinite:
        return torch.full_like(x, torch.nan)


@register
class FGSM(Adversarial):
    """Goodfellow, Shlens and Szegedy (2015)."""

    name, label, attack = "fgsm", "FGSM training", "fgsm"


@register
class PGD(Adversarial):
    """Madry et al. (2018)."""

    name, label, attack = "pgd", "PGD-7 training", "pgd"
    options = ("epsilon", "steps", "warmup")


class _LitGraph(PixelGraph):
    """Of images without black pixels, as the floor of the attack's metric makes them: all pixels
    are linked, and need not be searched.
    """

    def components(self, x: Tensor) -> Tensor:
        return torch.full((len(x), self.size), self.size - 1, device=x.device)


@register
class WassersteinBall(Objective):
    """Images moved within the Wasserstein ball, as the end of Section 3 of Lin et al. (2019) has
    it. On a CPU: lengths are found by conjugate gradients, which no CUDA graph captures.
    """

    name, label = "wasserstein_attack", "Wasserstein-ball training"
    options = ("epsilon", "radius", "steps", "warmup")
    needs = ("epsilon", "radius")
    trial = {"epsilon": 4.0, "radius": 4, "steps": 1}
    devices = ("cpu",)
    check_epsilon = staticmethod(checks.moderate)

    def __init__(self, config: "Config", size: tuple[int, int], device: torch.device):
        super().__init__(config, size, device)
        assert config.radius is not None, "the method needs it"
        self.graph = _LitGraph(*size, config.radius).to(device, torch.float32)

    def images(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epsilon: float
    ) -> Tensor:
        attack = partial(attacks.wasserstein_attack, steps=self.config.steps)
        with evaluating(model):
            return or_nan(partial(attack, model, x, y, self.graph, epsilon), x)


@register
class Trades(Objective):
    """Zhang et al. (2019): eta squared times the Kullback-Leibler divergence from the predicted
    probabilities to those on images attacked to make it large.
    """

    name, label = "trades", "TRADES"
    options = ("eta", "epsilon", "steps", "warmup")
    needs = ("eta", "epsilon")
    trial = {"eta": 6**0.5, "epsilon": 8 / 255}
    attack: ClassVar[str] = "pgd"

    def terms(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epsilon: float
    ) -> Terms:
        attacked = self.attacked(model, x, generator, epsilon)
        outputs = logits_of(model, x)
        divergence = kullback_leibler(outputs, logits_of(model, attacked))
        return Terms(outputs, cross_entropy(outputs, y), self.config.eta**2 * divergence)

    def attacked(
        self, model: nn.Module, x: Tensor, generator: torch.Generator, epsilon: float
    ) -> Tensor:
        attack = Attack(self.attack, epsilon, steps=self.config.steps)
        with evaluating(model):
            with torch.no_grad():
                probabilities = logits_of(model, x).softmax(1)
            # Autocast keeps the weights it cast, in torch 2.4 also those without a gradient.
            torch.clear_autocast_cache()
            start = x + 1e-3 * normal(x.shape, x, generator)
            how = (epsilon, attack.step, attack.steps, attack.norm)
            ascent = partial(attacks.ascend, model, x, probabilities, start.clamp(0, 1), *how)
            return or_nan(ascent, x)


def kullback_leibler(outputs: Tensor, attacked: Tensor) -> Tensor:
    """The divergence from the probabilities of one row of logits to those of another, (B,)."""
    log_p, log_q = (logits.log_softmax(1) for logits in (attacked, outputs))
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)

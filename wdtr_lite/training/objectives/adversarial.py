"""Training on adversarial examples."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wdtr_lite import attacks
from wdtr_lite.attacks import Attack
from wdtr_lite.models.modes import evaluating
from wdtr_lite.regularizer import Terms
from wdtr_lite.regularizer.forward import cross_entropy
from wdtr_lite.training.objectives.base import Objective, logits_of, register


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
            return attack(model, x, y, generator=generator)


@register
class FGSM(Adversarial):
    """Goodfellow, Shlens and Szegedy (2015)."""

    name, label, attack = "fgsm", "FGSM training", "fgsm"


@register
class PGD(Adversarial):
    """Madry et al. (2018)."""

    name, label, attack = "pgd", "PGD-7 training", "pgd"
    options = ("epsilon", "steps", "warmup")


@register
class Trades(Objective):
    """Zhang et al. (2019): eta squared times the Kullback-Leibler divergence from the predicted
    probabilities to those on images attacked to make it large.
    """

    name, label = "trades", "TRADES"
    options = ("eta", "epsilon", "steps", "warmup")
    needs = ("epsilon",)
    trial = {"eta": 6**0.5, "epsilon": 8 / 255}
    attack: ClassVar[str] = "pgd"

    def terms(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epsilon: float
    ) -> Terms:
        attacked = self.attacked(model, x, generator, epsilon)
        outputs = logits_of(model, x)
        log_probabilities = logits_of(model, attacked).log_softmax(1)
        divergence = F.kl_div(log_probabilities, outputs.softmax(1), reduction="none").sum(1)
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
            start = x + 1e-3 * torch.randn(x.shape, generator=generator, device=x.device)
            return attacks.ascend(
                model, x, probabilities, start.clamp(0, 1), epsilon, attack.step, attack.steps,
                attack.norm,
            )  # fmt: skip

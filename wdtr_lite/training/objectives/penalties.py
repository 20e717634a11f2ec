"""Penalties on input gradients."""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wdtr_lite.graph import PixelGraph
from wdtr_lite.metric import Source
from wdtr_lite.regularizer import GradientPenalty, InputNorm, Terms, norms
from wdtr_lite.regularizer.forward import cross_entropy
from wdtr_lite.training.objectives.base import (
    Objective,
    normal,
    pixel_graph,
    register,
    weight_of,
)

if TYPE_CHECKING:
    from wdtr_lite.training.config import Config


class Penalty(Objective):
    """The squared norm of an input gradient, times eta squared."""

    options = ("eta", "of", "mode")
    needs = ("eta",)
    trial = {"eta": 0.1}
    metric: ClassVar[str] = "euclidean"
    of: ClassVar[str | None] = None

    def __init__(self, config: "Config", size: tuple[int, int], device: torch.device):
        super().__init__(config, size, device)
        self.weight = weight_of(config, device)
        self.penalty = GradientPenalty(
            self.input_metric(size, device),
            of=self.of or config.of,
            mode=config.mode,
            scale=config.scale,
        )

    def input_metric(
        self, size: tuple[int, int], device: torch.device
    ) -> str | PixelGraph | InputNorm:
        return self.metric

    def terms(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epsilon: float
    ) -> Terms:
        outputs, loss, penalty = self.penalty.terms(model, x, y)
        return Terms(outputs, loss, self.weight * penalty)


@register
class Euclidean(Penalty):
    """Drucker and LeCun (1992)."""

    name, label = "euclidean", "Euclidean penalty"


@register
class Wasserstein(Penalty):
    """Lin et al. (2019)."""

    name, label = "wasserstein", "Wasserstein penalty"
    options = ("eta", "radius", "of", "mode", "scale", "source", "strength")
    needs = ("eta", "radius")
    trial = {"eta": 0.1, "radius": 8}

    @classmethod
    def check(cls, config: "Config") -> None:
        super().check(config)
        if bool(config.source) != bool(config.strength):
            raise ValueError(
                f"source and strength must be given together, got source={config.source!r}, "
                f"strength={config.strength!r}"
            )

    def input_metric(
        self, size: tuple[int, int], device: torch.device
    ) -> str | PixelGraph | InputNorm:
        config, graph = self.config, pixel_graph(self.config, size, device)
        source = Source(config.source, config.strength) if config.source else None
        return norms.Wasserstein(graph, config.scale, source=source)


@register
class L1(Penalty):
    """Finlay and Oberman (2019): the dual norm of changes limited in every pixel."""

    name, label, metric = "l1", "L1 penalty", "l1"
    trial = {"eta": 0.01}


@register
class LInf(Penalty):
    """Finlay and Oberman (2019): the dual norm of changes of limited sum."""

    name, label, metric = "linf", "L∞ penalty", "linf"
    trial = {"eta": 1.0}


@register
class CrossLipschitz(Penalty):
    """Hein and Andriushchenko (2017): the gradients of all differences of two logits."""

    name, label = "cross_lipschitz", "cross-Lipschitz penalty"
    options = ("eta", "mode")
    of = "logit_differences"


@register
class Jacobian(Objective):
    """Hoffman, Roberts and Yaida (2019): the Jacobian's squared norm, from one random projection
    of the logits.
    """

    name, label = "jacobian", "Jacobian penalty"
    options = ("eta", "mode")
    trial = {"eta": 0.1}

    def __init__(self, config: "Config", size: tuple[int, int], device: torch.device):
        super().__init__(config, size, device)
        self.weight = weight_of(config, device)

    def terms(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epsilon: float
    ) -> Terms:
        direction = None

        def projected(outputs: Tensor, _: Tensor) -> Tensor:
            nonlocal direction  # the same when a finite difference asks again
            if direction is None:
                direction = F.normalize(normal(outputs.shape, x, generator), dim=1)
            return (outputs * direction).sum(1)

        penalty = GradientPenalty("euclidean", loss=projected, mode=self.config.mode)
        outputs, _, norm_sq = penalty.terms(model, x, y)
        weight = self.weight * outputs.shape[1]
        return Terms(outputs, cross_entropy(outputs, y), weight * norm_sq)

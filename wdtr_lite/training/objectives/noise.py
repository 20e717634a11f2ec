"""Training on noisy images."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wdtr_lite import metric, noise
from wdtr_lite.training.objectives.base import Objective, normal, pixel_graph, register

if TYPE_CHECKING:
    from wdtr_lite.training.config import Config


@register
class GaussianNoise(Objective):
    """White noise of standard deviation eta."""

    name, label = "gaussian_noise", "Gaussian noise"
    options = ("eta",)
    needs = ("eta",)
    trial = {"eta": 0.1}

    def images(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epsilon: float
    ) -> Tensor:
        return x + self.config.eta * normal(x.shape, x, generator)


@register
class WassersteinNoise(Objective):
    """Noise of covariance eta squared L(x), Lin et al. (2019)."""

    name, label = "wasserstein_noise", "Wasserstein noise"
    options = ("eta", "radius", "scale")
    needs = ("eta", "radius")
    trial = {"eta": 0.1, "radius": 2}

    def __init__(self, config: "Config", size: tuple[int, int], device: torch.device):
        super().__init__(config, size, device)
        self.graph = pixel_graph(config, size, device)

    def images(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epsilon: float
    ) -> Tensor:
        drawn = noise.sample(self.graph, x, self.config.eta, generator=generator)[0]
        if self.config.scale is None:
            return x + drawn
        return x + drawn / metric.mean_diagonal(self.graph, x).clamp_min(1e-12) ** 0.5

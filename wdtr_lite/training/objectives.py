"""The methods of training, a class each: what a step minimises.

A class says all that there is to say of its method: it registers a subclass of :class:`Objective`,
and is from then on a choice of :class:`~wdtr_lite.training.Config` and of the command line, has a
row in the benchmark and a name in tables.
"""

from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wdtr_lite import attacks, checks, metric, noise
from wdtr_lite.attacks import Attack
from wdtr_lite.graph import PixelGraph
from wdtr_lite.regularizer import GradientPenalty, Terms

if TYPE_CHECKING:
    from wdtr_lite.training.config import Config

METHODS: dict[str, type["Objective"]] = {}
"""The classes of the methods by name."""


class Objective:
    """A method of training: here the cross-entropy on :meth:`images`, without a penalty.

    A subclass overrides :meth:`images` or :meth:`terms`, has a name, and is registered.

    Parameters
    ----------
    config : Config
    size : (int, int)
        Height and width of the images.
    device : torch.device

    Attributes
    ----------
    name : str
        As in ``Config(method=name)``.
    label : str
        As in tables and figures.
    options : tuple of str
        Those of eta, radius, of, mode, scale, epsilon, steps and warmup that the method uses.
    needs : tuple of str
        Those of them that must be given.
    trial : dict
        Options with which the benchmark times a step.
    attack : str or None
        The method of the :class:`~wdtr_lite.attacks.Attack` in each step, if there is one.

    Examples
    --------
    >>> from wdtr_lite.training import METHODS, Config, Objective, register
    >>> @register
    ... class Darker(Objective):
    ...     name, label, options, trial = "darker", "half the light", ("eta",), {"eta": 0.5}
    ...
    ...     def images(self, model, x, y, generator, epsilon):
    ...         return self.config.eta * x
    >>> Config(method="darker", eta=0.5).method
    'darker'
    >>> del METHODS["darker"]
    """

    name: ClassVar[str]
    label: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    trial: ClassVar[Mapping[str, Any]] = {}
    attack: ClassVar[str | None] = None

    def __init__(self, config: "Config", size: tuple[int, int], device: torch.device):
        self.config = config

    @classmethod
    def check(cls, config: "Config") -> None:
        """Refuse a strength that the method has not, ask for one that it needs."""
        for name in ("eta", "radius", "epsilon"):
            value = getattr(config, name)
            if value and name not in cls.options:
                raise ValueError(f"method={cls.name!r} needs no {name}, got {name}={value!r}")
            if not value and name in cls.needs:
                raise ValueError(f"method={cls.name!r} needs {name}, got {name}={value!r}")

    def terms(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epsilon: float
    ) -> Terms:
        """What a step minimises, for each image; a GPU captures it in a graph.

        Parameters
        ----------
        model : torch.nn.Module
            In training mode, and left in it.
        x : tensor, (B, C, H, W)
            Images in [0, 1].
        y : tensor, (B,)
            int64 labels.
        generator : torch.Generator
            Of all that is drawn, on the device of x.
        epsilon : float
            That of the configuration, smaller in the epochs of the warm-up.

        Returns
        -------
        Terms
            Outputs (B, K); loss (B,); penalty (B,) with its weight.
        """
        outputs = _logits(model, self.images(model, x, y, generator, epsilon))
        loss = _cross_entropy(outputs, y)
        return Terms(outputs, loss, torch.zeros_like(loss))

    def images(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epsilon: float
    ) -> Tensor:
        """The images to train on in place of x; all as in :meth:`terms`."""
        return x


def register(method: type[Objective]) -> type[Objective]:
    """Make a class a method of training under its name: a decorator.

    Examples
    --------
    See :class:`Objective`.
    """
    METHODS[method.name] = method
    return method


@register
class Plain(Objective):
    """Plain training."""

    name, label = "none", "plain"


# ---------------------------------------------------------------- penalties


class Penalty(Objective):
    """The squared norm of an input gradient, times eta squared."""

    options = ("eta", "of", "mode")
    trial = {"eta": 0.1}
    metric: ClassVar[str] = "euclidean"
    of: ClassVar[str | None] = None

    def __init__(self, config: "Config", size: tuple[int, int], device: torch.device):
        super().__init__(config, size, device)
        self.penalty = GradientPenalty(
            self.input_metric(size, device),
            of=self.of or config.of,
            mode=config.mode,
            scale=config.scale,
        )

    def input_metric(self, size: tuple[int, int], device: torch.device) -> str | PixelGraph:
        return self.metric

    def terms(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epsilon: float
    ) -> Terms:
        outputs, loss, penalty = self.penalty.terms(model, x, y)
        return Terms(outputs, loss, self.config.eta**2 * penalty)


@register
class Euclidean(Penalty):
    """Drucker and LeCun (1992)."""

    name, label = "euclidean", "Euclidean penalty"


@register
class Wasserstein(Penalty):
    """Lin et al. (2019)."""

    name, label = "wasserstein", "Wasserstein penalty"
    options = ("eta", "radius", "of", "mode", "scale")
    needs = ("radius",)
    trial = {"eta": 0.1, "radius": 8}

    def input_metric(self, size: tuple[int, int], device: torch.device) -> str | PixelGraph:
        return _graph(self.config, size, device)


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

    def terms(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epsilon: float
    ) -> Terms:
        direction = None

        def projected(outputs: Tensor, _: Tensor) -> Tensor:
            nonlocal direction  # the same when a finite difference asks again
            if direction is None:
                normal = torch.randn(outputs.shape, generator=generator, device=x.device)
                direction = F.normalize(normal, dim=1)
            return (outputs * direction).sum(1)

        penalty = GradientPenalty("euclidean", loss=projected, mode=self.config.mode)
        outputs, _, norm_sq = penalty.terms(model, x, y)
        weight = self.config.eta**2 * outputs.shape[1]
        return Terms(outputs, _cross_entropy(outputs, y), weight * norm_sq)


# ---------------------------------------------------------------- noise


@register
class GaussianNoise(Objective):
    """White noise of standard deviation eta."""

    name, label = "gaussian_noise", "Gaussian noise"
    options = ("eta",)
    trial = {"eta": 0.1}

    def images(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epsilon: float
    ) -> Tensor:
        return x + self.config.eta * torch.randn(x.shape, generator=generator, device=x.device)


@register
class WassersteinNoise(Objective):
    """Noise of covariance eta squared L(x), Lin et al. (2019)."""

    name, label = "wasserstein_noise", "Wasserstein noise"
    options = ("eta", "radius", "scale")
    needs = ("radius",)
    trial = {"eta": 0.1, "radius": 2}

    def __init__(self, config: "Config", size: tuple[int, int], device: torch.device):
        super().__init__(config, size, device)
        self.graph = _graph(config, size, device)

    def images(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epsilon: float
    ) -> Tensor:
        drawn = noise.sample(self.graph, x, self.config.eta, generator=generator)[0]
        if self.config.scale is None:
            return x + drawn
        return x + drawn / metric.mean_diagonal(self.graph, x).clamp_min(1e-12) ** 0.5


# ---------------------------------------------------------------- adversarial examples


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
        with _evaluation_mode(model):
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
        outputs = _logits(model, x)
        log_probabilities = _logits(model, attacked).log_softmax(1)
        divergence = F.kl_div(log_probabilities, outputs.softmax(1), reduction="none").sum(1)
        return Terms(outputs, _cross_entropy(outputs, y), self.config.eta**2 * divergence)

    def attacked(
        self, model: nn.Module, x: Tensor, generator: torch.Generator, epsilon: float
    ) -> Tensor:
        attack = Attack(self.attack, epsilon, steps=self.config.steps)
        with _evaluation_mode(model):
            with torch.no_grad():
                probabilities = _logits(model, x).softmax(1)
            # Autocast keeps the weights it cast, in torch 2.4 also those without a gradient.
            torch.clear_autocast_cache()
            start = x + 1e-3 * torch.randn(x.shape, generator=generator, device=x.device)
            return attacks.ascend(
                model, x, probabilities, start.clamp(0, 1), epsilon, attack.step, attack.steps,
                attack.norm,
            )  # fmt: skip


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    return checks.logits(model(x), x)


def _cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(outputs, y, reduction="none")


def _graph(config: "Config", size: tuple[int, int], device: torch.device) -> PixelGraph:
    assert config.radius is not None, "the method needs it"
    return PixelGraph(*size, config.radius).to(device, torch.float32)


@contextmanager
def _evaluation_mode(model: nn.Module):
    model.eval()
    yield
    model.train()

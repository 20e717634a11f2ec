"""What a method of training is, plain training, and the methods by name."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from wdtr_lite import attacks, checks
from wdtr_lite.graph import PixelGraph
from wdtr_lite.regularizer import Terms
from wdtr_lite.regularizer.forward import cross_entropy

if TYPE_CHECKING:
    from wdtr_lite.training.config import Config

OPTIONS = (
    "eta", "radius", "of", "mode", "scale", "source", "strength", "epsilon", "steps", "warmup"
)  # fmt: skip

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
        Those of eta, radius, of, mode, scale, source, strength, epsilon, steps and warmup that the
        method uses; ``Config`` refuses the others.
    needs : tuple of str
        Those of them that must be given.
    trial : dict
        Options with which the benchmark times a step.
    attack : str or None
        The method of the :class:`~wdtr_lite.attacks.Attack` in each step, if there is one.
    devices : tuple of str
        The types of those it computes on.
    check_epsilon : function
        Of epsilon and its name, refuses one: by default, what is no length of intensities.

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
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    check_epsilon: ClassVar[Callable[[float, str], float]] = staticmethod(checks.intensity)

    def __init__(self, config: "Config", size: tuple[int, int], device: torch.device):
        from wdtr_lite.training.config import Config  # which imports the methods

        checks.instance(config, "config", Config)
        checks.sides(size, "size")
        checks.instance(device, "device", torch.device)
        if device.type not in self.devices:
            raise ValueError(
                f"device must be {' or '.join(self.devices)} for method={self.name!r}, "
                f"got {str(device)!r}"
            )
        self.config = config

    @classmethod
    def check(cls, config: "Config") -> None:
        """Refuse an option that the method has not, ask for one that it needs."""
        cls.check_epsilon(config.epsilon, "epsilon")
        defaults = {option.name: option.default for option in fields(config)}
        for name in OPTIONS:
            value = getattr(config, name)
            if value != defaults[name] and name not in cls.options:
                raise ValueError(f"method={cls.name!r} needs no {name}, got {name}={value!r}")
        for name in cls.needs:
            if not (value := getattr(config, name)):
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
        images = self.images(model, x, y, generator, epsilon)
        images = checks.transformed(images, x, f"{type(self).__name__}.images")
        outputs = logits_of(model, images)
        loss = cross_entropy(outputs, y)
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
    checks.objective(method, Objective, OPTIONS)
    checks.option(method.attack, f"{method.__name__}.attack", (None, *attacks.METHODS))
    checks.untaken(method.name, method, METHODS)
    METHODS[method.name] = method
    return method


@register
class Plain(Objective):
    """Plain training."""

    name, label = "none", "plain"


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    outputs = checks.logits(model(x), x)
    checks.floating(outputs, "what model returns")
    return outputs


def normal(shape: torch.Size, x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers, of the type and on the device of x."""
    checks.generator(generator, x)
    return torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)


def pixel_graph(config: "Config", size: tuple[int, int], device: torch.device) -> PixelGraph:
    assert config.radius is not None, "the method needs it"
    return PixelGraph(*size, config.radius).to(device, torch.float32)


def weight_of(config: "Config", device: torch.device) -> Tensor:
    """A penalty's weight, eta squared: a tensor, so that one compiled step serves every eta."""
    return torch.tensor(config.eta**2, dtype=torch.float32, device=device)

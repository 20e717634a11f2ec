"""What an attack is, and the methods by name."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wdtr_lite import checks
from wdtr_lite.models import Classifier

OPTIONS = "epsilon", "alpha", "steps", "restarts", "norm", "generator"

METHODS: dict[str, Callable[..., Tensor]] = {}
"""The methods of an :class:`Attack` by name."""


def register(name: str, method: Callable[..., Tensor] | None = None) -> Callable:
    """Give a method a name, which :class:`Attack` knows from then on; the command line knows what
    the package registers.

    Parameters
    ----------
    name : str
    method : function, optional
        Of model, x, y and epsilon, and of those of the keywords alpha, steps, restarts, norm and
        generator that it names, to images. Without it the result is a decorator.

    Returns
    -------
    function
        `method` itself.
    """
    checks.text(name, "name")
    if method is None:
        return partial(register, name)
    checks.registered(name, method, "method", METHODS)
    checks.attack_method(method, OPTIONS)
    METHODS[name] = method
    return method


@dataclass(frozen=True)
class Attack:
    r"""A method and its strength: a function of model, x and y to adversarial images.

    Options that the method does not have are not looked at.

    Attributes
    ----------
    method : str
        ``"fgsm"``, ``"ifgsm"``, ``"pgd"`` or what :func:`register` has named.
    epsilon : float
        Radius of the ball about each image, in intensities.
    alpha : float, optional
        Length of a step in `norm`; by default :math:`2.5\, \epsilon / \text{steps}`.
    steps, restarts : int
    norm : {"linf", "l2"}
    seed : int
        Of the random starts, drawn anew at each call.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.attacks import Attack
    >>> brighter_is_one = lambda x: torch.stack([0 * x.sum((1, 2, 3)), x.sum((1, 2, 3))], 1)
    >>> attack = Attack("pgd", 0.1, steps=10)
    >>> attack(brighter_is_one, torch.tensor([[[[0.5, 0.05]]]]), torch.tensor([1]))
    tensor([[[[0.4000, 0.0000]]]])
    """

    method: str
    epsilon: float
    alpha: float | None = None
    steps: int = 20
    restarts: int = 1
    norm: str = "linf"
    seed: int = 0

    def __post_init__(self):
        checks.option(self.method, "method", tuple(METHODS))
        alpha = self.epsilon if self.alpha is None else self.alpha
        epsilon, alpha, steps = checks.strength(self.epsilon, alpha, self.steps, self.norm)
        numbers = {
            "epsilon": epsilon,
            "alpha": alpha,
            "steps": steps,
            "restarts": checks.repeats(self.restarts, "restarts"),
            "seed": checks.seed(self.seed),
        }
        for name, value in numbers.items():
            if isinstance(getattr(self, name), np.generic):
                object.__setattr__(self, name, value)

    @property
    def step(self) -> float:
        """Length of a step."""
        return 2.5 * self.epsilon / self.steps if self.alpha is None else self.alpha

    @property
    def settings(self) -> dict[str, Any]:
        """Epsilon and the options that the method has, which the result depends on; `alpha` is the
        length of a step.
        """
        names = inspect.signature(METHODS[self.method]).parameters
        values = {
            "norm": self.norm,
            "epsilon": self.epsilon,
            "alpha": self.step,
            "steps": self.steps,
            "restarts": self.restarts,
        }
        used = {name: value for name, value in values.items() if name in names}
        return used | {"seed": self.seed} if "generator" in names else used

    def __call__(
        self, model: Classifier, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Adversarial images, their random starts of the generator, if there is one."""
        checks.function(model, "model")
        checks.floating(x, "x")
        checks.valued(x, "x")
        if generator is not None:
            checks.generator(generator, x)
        settings = self.settings
        if "seed" in settings:
            del settings["seed"]
            if generator is None:
                generator = torch.Generator(x.device).manual_seed(self.seed)
            settings["generator"] = generator
        return checks.attacking(METHODS[self.method](model, x, y, **settings), x)

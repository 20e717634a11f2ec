"""What a training run depends on, checked once."""

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from functools import partial
from types import UnionType
from typing import Any, get_args

from torch import nn

from wdtr_lite import checks, data, models
from wdtr_lite.attacks import Attack
from wdtr_lite.metric import source
from wdtr_lite.regularizer.penalties import MODES, OF
from wdtr_lite.training.choices import AUGMENTATIONS, OPTIMIZERS, SCHEDULES
from wdtr_lite.training.objectives import METHODS


def _option(
    default: Any,
    text: str,
    choices: Collection = (),
    *,
    names: Callable[[], Iterable[str]] = tuple,
    check: Callable[[Any, str], Any] | None = None,
) -> Any:
    """A field and its help. One of `choices` if there are any; `names` are what the command line
    offers of a field that takes others too; `check` returns the value as plain Python, by default
    that of the field's type.
    """
    metadata = {"help": text, "choices": choices, "names": names, "check": check}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """What a training run depends on; the defaults are those of Appendix D, without a penalty.

    Each field is an option of ``python -m wdtr_lite train``, whose ``--help`` explains it. One that
    the method does not use is refused, unless it is as by default. Lengths are in pixels (radius,
    and epsilon of wasserstein_attack), in intensities of [0, 1] (epsilon, and eta of noise) or in
    epochs (epochs, warmup, milestones); eta of a penalty, rates and momentum have no unit. The same
    configuration gives the same weights on a CPU of the same kind, with the same versions and
    number of threads; else they differ by rounding, which training amplifies.

    Examples
    --------
    >>> from wdtr_lite.training import Config
    >>> Config(method="wasserstein", eta=0.1, radius=4).epochs
    200

    References
    ----------
    Appendix D of Lin et al. (2019).
    """

    data: str = _option("cifar10", "data set, as in wdtr_lite.data.load", names=data.names)
    split: str | None = _option(
        None, "which split of the data set, where it has several: official or holdout"
    )
    part: str = _option(
        "train",
        "train on all training images, or (fit) on those that are not kept for validation, "
        "which a data set must have then",
        ("train", "fit"),
    )
    images: int | None = _option(
        None, "train on so many images, drawn at random, the same for every seed; default all"
    )
    model: str = _option("resnet20", "network, as in wdtr_lite.models", names=lambda: models.MODELS)
    activation: str = _option("softplus", "activation of the network", models.ACTIVATIONS)
    width: int | None = _option(
        None, "channels of the network's first stage; default the network's own", check=checks.size
    )
    method: str = _option("none", "what is added to plain training", METHODS)
    eta: float = _option(
        0.0,
        "of a penalty and of trades: the root of the weight; "
        "of noise: its standard deviation per pixel, on average, of intensities in [0, 1]",
    )
    radius: int | None = _option(
        None, "neighbourhood of the pixel graph, in pixels, of the wasserstein methods"
    )
    of: str = _option("loss", "whose gradient a penalty takes", OF)
    mode: str = _option("double_backprop", "how a penalty is differentiated", MODES)
    scale: str | None = _option(
        "trace",
        "divide L(x) by its mean diagonal (trace), or take it as it is (none)",
        ("trace", None),
    )
    source: str | None = _option(
        None,
        "of the wasserstein penalty: let mass appear and vanish, in each pixel by itself (local) "
        "or in all alike (uniform)",
        (*source.KINDS, None),
    )
    strength: float = _option(
        0.0, "of the source: alpha, of L(x) as it is scaled", check=checks.moderate
    )
    epsilon: float = _option(
        0.0,
        "of fgsm, pgd and trades: the largest change of a pixel, of intensities in [0, 1]; "
        "of wasserstein_attack: the length of a change in pixels, where a mass of 1 is moved",
    )
    steps: int = _option(
        7,
        "of pgd, trades and wasserstein_attack: how many steps, each of 2.5 epsilon / steps",
        check=checks.repeats,
    )
    warmup: int = _option(
        0,
        "of fgsm, pgd, trades and wasserstein_attack: epochs in which epsilon grows to its value; "
        "without them training may never start",
        check=partial(checks.repeats, least=0),
    )
    augmentation: str = _option(
        "none",
        "what is changed in the images at random: nothing, "
        "or half of them mirrored and all cropped from 4 black pixels more on each side",
        AUGMENTATIONS,
    )
    epochs: int = _option(200, "how many passes over the images", check=checks.repeats)
    batch_size: int = _option(
        128, "images per step; what is left over at an epoch's end waits for the next epoch's order"
    )
    optimizer: str = _option("sgd", "stochastic gradient descent, or AdamW", OPTIMIZERS)
    learning_rate: float = _option(
        0.1, "of the optimizer, in the first epoch: what gradients are multiplied by"
    )
    schedule: str = _option(
        "milestones", "how the learning rate falls, from epoch to epoch", SCHEDULES
    )
    milestones: tuple[int, ...] = _option(
        (100, 150), "epochs after which the schedule milestones divides the learning rate by 10"
    )
    momentum: float = _option(
        0.9, "of sgd, less than 1; the first beta of adamw", check=checks.below_one
    )
    weight_decay: float = _option(
        1e-4, "of the optimizer: sgd adds so many times the weights to their gradients"
    )
    precision: str = _option(
        "float32",
        "arithmetic of the network; finite differences stay float32, "
        "and tf32 differs on a GPU only",
        ("float32", "tf32", "bfloat16"),
    )
    seed: int = _option(
        0,
        "of the first weights, the order of the images, the noise: a whole number",
        check=checks.seed,
    )

    def __post_init__(self):
        for option in fields(self):
            object.__setattr__(self, option.name, _checked(option, getattr(self, option.name)))
        METHODS[self.method].check(self)
        if (self.mode, self.activation) == ("finite_difference", "relu"):
            warnings.warn(
                "activation='relu' makes the gradient of mode='finite_difference' noise: take "
                "softplus, or double_backprop",
                stacklevel=3,
            )

    @property
    def attack(self) -> Attack | None:
        """What is done to the images of each step after the warm-up, by fgsm, pgd and trades."""
        method = METHODS[self.method].attack
        return Attack(method, self.epsilon, steps=self.steps) if method else None


def _checked(option: Field, value: Any) -> Any:
    """The value, as the plain Python that a checkpoint holds."""
    name, kind = option.name, option.type
    if isinstance(kind, UnionType):  # it may be None
        if value is None:
            return None
        kind = get_args(kind)[0]
    if choices := option.metadata["choices"]:
        checks.option(value, name, tuple(choices))
        if isinstance(choices, Mapping):
            checks.function(choices[value], f"{name} {value!r}")
        return _plain(value)
    check = option.metadata["check"] or DEFAULT_CHECKS[kind]
    return check(value, name)


def _name(value: str, name: str) -> str:
    checks.text(value, name)
    return _plain(value)


def _plain(value: str) -> str:
    """The text of a text's subclass: of a member of an enumeration ``str`` gives another."""
    return "".join(value)


def _epochs(value: Iterable[int], name: str) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be a tuple of epochs, got {checks.shown(value)}")
    return tuple(checks.repeats(each, name) for each in value)


def recorded(config: Config, model: nn.Module | None, dataset: data.Dataset) -> Config:
    """The configuration with the names of what is trained on what."""
    names: dict[str, Any] = {"data": dataset.name}
    if dataset.split_name is None or (config.split or "official") != dataset.split_name:
        names["split"] = dataset.split_name
    if model is not None:
        names["model"] = type(model).__name__
    return replace(config, **names)


DEFAULT_CHECKS = {str: _name, int: checks.whole, float: checks.moderate, tuple[int, ...]: _epochs}

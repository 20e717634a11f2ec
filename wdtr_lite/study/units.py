"""In which unit is the paper's epsilon? Table 1's networks attacked at many, in several units."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from wdtr_lite import attacks
from wdtr_lite.data import Dataset
from wdtr_lite.study import grid
from wdtr_lite.study.questions import Errors, batches, images_of, judged, probabilities
from wdtr_lite.study.spec import Question, register
from wdtr_lite.study.store import Store
from wdtr_lite.study.table1 import NETWORKS, PAPER, Selected

__all__ = [
    "TOLD",
    "UNITS",
    "Case",
    "UnitErrors",
    "Units",
    "curve",
    "deviations",
    "name_of",
    "reached",
    "rms",
]

UNITS = {
    "pixels": (1.0, 1.0, 1.0),
    "[-1, 1]": (0.5, 0.5, 0.5),
    "std 0.247": (0.247, 0.243, 0.262),
    "std 0.202": (0.2023, 0.1994, 0.2010),
}
"""The size of one unit in intensities, for red, green and blue.

Of images as they are, mapped to [-1, 1], divided by the standard deviation of CIFAR-10's pixels, or
by the average over its images of the standard deviation within one, both of which are in use.
"""

STEPS = {"FGSM": 1, "I-FGSM-20": 20}


@dataclass(frozen=True)
class UnitErrors(Question, name="unit_errors"):
    """Like :class:`~wdtr_lite.study.questions.Errors`, under FGSM (one step) or I-FGSM (several,
    each of a quarter of epsilon), with an epsilon for each channel, or one for all, in units of
    1/255; clipped to [0, 1] or not.

    The sign of a gradient is the same in units of any size, so that an attack in other units is
    this one, its epsilons multiplied by :data:`UNITS`.
    """

    part: str
    images: int
    epsilons: Sequence[float]
    steps: int
    clipped: bool

    def __call__(self, model: nn.Module, dataset: Dataset) -> dict[str, Any]:
        x, y = images_of(model, dataset, self.part, self.images)
        wrong = [
            probabilities(model, self._attacked(model, *batch)).argmax(1) != batch[1]
            for batch in batches(x, y)
        ]
        return judged(torch.cat(wrong))

    def _attacked(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        size = x.new_tensor(self.epsilons)[:, None, None] / 255
        step = size if self.steps == 1 else size / 4
        at = x
        for _ in range(self.steps):
            moved = at + step * attacks.input_gradient(model, at, y).sign() - x
            at = x + torch.minimum(torch.maximum(moved, -size), size)
            at = at.clamp(0, 1) if self.clipped else at
        return at


class Case(NamedTuple):
    """An attack of Table 1 in a unit."""

    attack: str
    unit: str
    clipped: bool
    epsilon: float


def name_of(case: Case) -> str:
    """Of its measurement: ``"FGSM 8 std 0.247"``, with ``" unclipped"`` or not."""
    return f"{case.attack} {case.epsilon:g} {case.unit}" + " unclipped" * (not case.clipped)


@dataclass(frozen=True, kw_only=True)
class Units(Selected):
    """The networks of Table 1, first seed, under FGSM and I-FGSM-20 of many sizes in the units of
    :data:`UNITS`: in which of them are the errors those of the paper, which does not name its unit?

    Parameters
    ----------
    networks : Networks
    images : dict of str to int
        How many test images are attacked, by attack.
    epsilons : dict of str to sequence of float
        In 1/255 of each unit, by attack.

    References
    ----------
    Section 5.1 of Lin et al. (2019).
    """

    images: dict[str, int]
    epsilons: dict[str, Sequence[float]]

    def cases(self) -> Iterator[Case]:
        """Clipped at every epsilon, unclipped at those that the paper states."""
        told = {attack: {e for a, e in TOLD.values() if a == attack} for attack in STEPS}
        for clipped in (True, False):
            for unit in UNITS:
                for attack, epsilons in self.epsilons.items():
                    for epsilon in epsilons:
                        if clipped or epsilon in told[attack]:
                            yield Case(attack, unit, clipped, epsilon)

    def run(self, store: Store) -> dict[str, Any]:
        """``rows``, one for each network, with the ``measurements`` of :class:`UnitErrors` by
        :func:`name_of` each case; of the images as they are by ``"FGSM 0"``, ``"I-FGSM-20 0"``.
        """
        seed = self.networks.seeds[0]
        first = [job for job in self.final(store) if job.labels["seed"] == seed]
        questions: dict[str, Question] = {
            f"{attack} 0": Errors("test", images, None) for attack, images in self.images.items()
        }
        questions |= {name_of(case): self.question(case) for case in self.cases()}
        return {"rows": grid.rows(first, questions, store)}

    def question(self, case: Case) -> UnitErrors:
        epsilons = tuple(round(case.epsilon * size, 6) for size in UNITS[case.unit])
        images = self.images[case.attack]
        return UnitErrors("test", images, epsilons, STEPS[case.attack], case.clipped)


# ---------------------------------------------------------------- beside the paper's numbers

Curve = tuple[np.ndarray, np.ndarray]  # epsilons in 1/255 of a unit, errors in percent

TOLD = {
    "FGSM 8": ("FGSM", 8),
    "FGSM 25": ("FGSM", 25),
    "I-FGSM-20 8": ("I-FGSM-20", 8),
}
"""Attack, and the epsilon in 1/255 that is stated, of the rows of the paper's Table 1."""


def curve(
    measured: Mapping[str, Mapping], attack: str, unit: str = "pixels", *, clipped: bool = True
) -> Curve:
    """The error of a network against epsilon, from what :class:`Units` measured of it: of the
    images as they are first.
    """
    found = {0.0: measured[f"{attack} 0"]}
    for name, each in measured.items():
        epsilon = float(name.split()[1])
        if name == name_of(Case(attack, unit, clipped, epsilon)):
            found[epsilon] = each
    epsilons = sorted(found)
    errors = [100 * found[epsilon]["wrong"] / found[epsilon]["n"] for epsilon in epsilons]
    return np.array(epsilons), np.array(errors)


def reached(found: Curve, error: float) -> float | None:
    """The least epsilon at which a curve has an error, straight lines between its points."""
    epsilons, errors = found
    for k in range(1, len(errors)):
        low, high = errors[k - 1], errors[k]
        if low < high and low <= error <= high:
            return float(np.interp(error, [low, high], epsilons[k - 1 : k + 1]))
    return None


def deviations(
    networks: Mapping[str, Mapping],
    unit: str = "pixels",
    *,
    clipped: bool = True,
    factor: float = 1.0,
) -> dict[tuple[str, str], float]:
    """Our errors less those of the paper, in points, by its row and the method: at the epsilons
    that it states, times a factor, in a unit.

    Parameters
    ----------
    networks : dict of str to dict
        What :class:`Units` measured, by method.
    """
    found = {}
    for row, (attack, epsilon) in TOLD.items():
        for method, measured in networks.items():
            ours = curve(measured, attack, unit, clipped=clipped)
            found[row, method] = float(np.interp(factor * epsilon, *ours)) - PAPER[row][method]
    return found


def rms(values: Mapping[Any, float]) -> float:
    """The root of the mean square."""
    return float(np.sqrt(np.mean(np.square(list(values.values())))))


register(
    "units",
    quick=Units(
        networks=NETWORKS["quick"],
        images={"FGSM": 100, "I-FGSM-20": 20},
        epsilons={"FGSM": (1, 8), "I-FGSM-20": (8,)},
    ),
    full=Units(
        networks=NETWORKS["full"],
        images={"FGSM": 1000, "I-FGSM-20": 250},
        epsilons={
            "FGSM": (0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 16, 25, 32),
            "I-FGSM-20": (0.5, 1, 2, 3, 4, 8, 16, 32),
        },
    ),
)

"""In which unit is the paper's epsilon? Table 1's networks attacked at many, in several units."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wdtr_lite import attacks
from wdtr_lite.data import Dataset
from wdtr_lite.study import grid
from wdtr_lite.study.questions import batches, images_of, judged, probabilities
from wdtr_lite.study.spec import Question, register
from wdtr_lite.study.store import Store
from wdtr_lite.study.table1 import NETWORKS, Selected

__all__ = ["UNITS", "UnitErrors", "Units", "name_of"]

UNITS = {
    "pixels": (1.0, 1.0, 1.0),
    "[-1, 1]": (0.5, 0.5, 0.5),
    "std 0.247": (0.247, 0.243, 0.262),
    "std 0.202": (0.2023, 0.1994, 0.2010),
}
"""How many intensities of [0, 1] one unit is, in red, green and blue: images as they are; mapped to
[-1, 1]; divided by the standard deviation of CIFAR-10's pixels, or by the average over its images
of the standard deviation within one, both of which are in use.
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
        for clipped in (True, False):
            for unit in UNITS:
                for attack, epsilons in self.epsilons.items():
                    for epsilon in epsilons:
                        yield Case(attack, unit, clipped, epsilon)

    def run(self, store: Store) -> dict[str, Any]:
        """``rows``, one for each network, with the ``measurements`` of :class:`UnitErrors` by
        :func:`name_of` each case.
        """
        seed = self.networks.seeds[0]
        first = [job for job in self.final(store) if job.labels["seed"] == seed]
        questions = {name_of(case): self.question(case) for case in self.cases()}
        return {"rows": grid.rows(first, questions, store)}

    def question(self, case: Case) -> UnitErrors:
        epsilons = tuple(round(case.epsilon * size, 6) for size in UNITS[case.unit])
        images = self.images[case.attack]
        return UnitErrors("test", images, epsilons, STEPS[case.attack], case.clipped)


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

"""Questions that several experiments ask, and the attacks.

A question that one experiment alone asks is in that experiment's file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wdtr_lite import attacks, evaluation
from wdtr_lite.attacks import Attack
from wdtr_lite.data import Dataset
from wdtr_lite.graph import PixelGraph
from wdtr_lite.study.outcomes import pack, pack_bits
from wdtr_lite.study.spec import Question

__all__ = [
    "ATTACKS",
    "AXES",
    "PADDINGS",
    "Errors",
    "Flips",
    "WassersteinAttack",
    "batches",
    "drawn",
    "fgsm",
    "images_of",
    "judged",
    "pgd20",
    "probabilities",
    "rounded",
    "with_channels",
]

Attacking = Callable[..., Tensor]  # of model, x, y; a frozen dataclass where it is to be stored

AXES, PADDINGS = ("horizontal", "vertical"), ("zeros", "edge", "reflect")


def fgsm(epsilon: float) -> Attack:
    """FGSM, epsilon in units of 1/255."""
    return Attack("fgsm", epsilon / 255)


def pgd20(epsilon: float) -> Attack:
    """20 steps of an eighth of epsilon, which is in units of 1/255."""
    return Attack("pgd", epsilon / 255, alpha=epsilon / 8 / 255, steps=20)


@dataclass(frozen=True)
class WassersteinAttack:
    """:func:`~wdtr_lite.attacks.wasserstein_attack` on the pixel graph of a radius."""

    epsilon: float
    radius: int
    steps: int = 1

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        graph = PixelGraph(x.shape[-2], x.shape[-1], self.radius).to(x.device, x.dtype)
        return attacks.wasserstein_attack(model, x, y, graph, self.epsilon, steps=self.steps)


ATTACKS: dict[str, Attacking] = {
    "FGSM 8": fgsm(8),
    "FGSM 25": fgsm(25),
    "I-FGSM-20 8": Attack("ifgsm", 8 / 255, alpha=2 / 255, steps=20),
    "PGD-50 linf": Attack("pgd", 8 / 255, alpha=2 / 255, steps=50, restarts=10),
    "PGD-50 l2": Attack("pgd", 128 / 255, alpha=16 / 255, steps=50, restarts=10, norm="l2"),
    "fgsm 0.1": Attack("fgsm", 0.1),
    "pgd 0.05": Attack("pgd", 0.05, alpha=0.05 / 8, steps=20),
    "pgd 0.1": Attack("pgd", 0.1, alpha=0.1 / 8, steps=20),
    "pgd 0.2": Attack("pgd", 0.2, alpha=0.2 / 8, steps=20),
    "wasserstein 4": WassersteinAttack(4.0, radius=4),
}
"""Functions of model, x and y by name, epsilon in units of 1/255 of photographs, in intensities of
digits, the last in the Wasserstein metric.
"""


@dataclass(frozen=True)
class Errors(Question, name="errors"):
    """How many of ``n`` images of a part are misclassified, ``wrong``, as they are or attacked;
    and which, ``outcomes``, as :func:`~wdtr_lite.study.outcomes.pack_bits` has them.
    """

    part: str
    images: int | None
    attack: Attacking | None

    def __call__(self, model: nn.Module, dataset: Dataset) -> dict[str, Any]:
        x, y = drawn(model, dataset, self.part, self.images)
        return judged(evaluation.misclassified(model, x, y, self.attack))


@dataclass(frozen=True)
class Flips(Question, name="flips"):
    """Label flips of ``n`` images moved by -S, ..., S pixels, summed over the images: a number for
    each S up to the reach.

    Both counts of :func:`~wdtr_lite.evaluation.label_flips`: ``consecutive`` and
    ``from_unshifted``. And the ``labels`` themselves, (shifts, n), as
    :func:`~wdtr_lite.study.outcomes.pack` has them.
    """

    part: str
    images: int
    axis: str
    padding: str
    reach: int

    def __call__(self, model: nn.Module, dataset: Dataset) -> dict[str, object]:
        x, _ = drawn(model, dataset, self.part, self.images)
        reach = self.reach
        shifts, spans = range(-reach, reach + 1), range(1, reach + 1)
        labels = evaluation.translated_labels(model, x, self.axis, shifts, self.padding)
        changes, departures = (labels[1:] != labels[:-1]).sum(1), (labels != labels[reach]).sum(1)
        return {
            "n": len(x),
            "labels": pack(labels.cpu()),
            "consecutive": [int(changes[reach - s : reach + s].sum()) for s in spans],
            "from_unshifted": [int(departures[reach - s : reach + s + 1].sum()) for s in spans],
        }


# ---------------------------------------------------------------- what questions share


def judged(wrong: Tensor) -> dict[str, Any]:
    """What a question about errors answers, of the images that are misclassified."""
    return {"wrong": int(wrong.sum()), "n": len(wrong), "outcomes": pack_bits(wrong.cpu())}


def drawn(
    model: nn.Module, dataset: Dataset, part: str, images: int | None = None
) -> tuple[Tensor, Tensor]:
    """So many images of a part, or all, (N, C, H, W) in uint8, and their labels, on the model's
    device.
    """
    x, y = dataset.part(part, images)
    device = next(model.parameters()).device
    return with_channels(x).to(device), y.to(device)


def with_channels(images: Tensor) -> Tensor:
    """Images (N, C, H, W), also of grey ones (N, H, W)."""
    return images if images.dim() == 4 else images[:, None]


def images_of(
    model: nn.Module, dataset: Dataset, part: str, images: int | None
) -> tuple[Tensor, Tensor]:
    """So many images of a part, (N, C, H, W) in [0, 1], and their labels, on the model's device."""
    x, y = drawn(model, dataset, part, images)
    return x.float() / 255, y


def batches(*tensors: Tensor) -> zip:
    return zip(*(each.split(250) for each in tensors), strict=True)


@torch.no_grad()
def probabilities(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).softmax(1)


def rounded(values: Tensor) -> list:
    return np.round(values.detach().double().cpu().numpy(), 4).tolist()

"""Digits classified by networks trained plainly, with penalties, noise and adversarial examples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from wdtr_lite import evaluation
from wdtr_lite.data import Dataset
from wdtr_lite.study import grid
from wdtr_lite.study.questions import ATTACKS, drawn, images_of
from wdtr_lite.study.spec import Job, Networks, Question, Setting, Trained, register
from wdtr_lite.study.statistics import choose
from wdtr_lite.study.store import Store

__all__ = ["NETWORKS", "DigitErrors", "RobustDigits", "SmallDigitErrors"]

NAMES = ("fgsm 0.1", "pgd 0.05", "pgd 0.1", "pgd 0.2", "wasserstein 4")


@dataclass(frozen=True)
class _Digits:
    """How many of ``n`` digits a network gets ``wrong``: the whole part as it is; as many drawn
    from it as are evaluated, varied (translation, rotation, elastic) and under the attacks of these
    names.
    """

    part: str
    evaluated: int
    names: Sequence[str]

    def __call__(self, model: nn.Module, dataset: Dataset) -> dict[str, Any]:
        images, labels = images_of(model, dataset, self.part, self.evaluated)
        varied = self.varied(model, images)
        wrong = {"natural": evaluation.misclassified(model, *drawn(model, dataset, self.part))}
        wrong |= {
            name: evaluation.misclassified(model, varied[name].to(images), labels)
            for name in ("translation", "rotation", "elastic")
        }
        wrong |= {
            name: evaluation.misclassified(model, images, labels, ATTACKS[name])
            for name in self.names
        }
        return {
            "wrong": {name: int(each.sum()) for name, each in wrong.items()},
            "n": {name: len(each) for name, each in wrong.items()},
        }

    def varied(self, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
        return evaluation.variations(images.cpu(), seed=0)


class DigitErrors(_Digits, Question, name="digit_errors"):
    """How many digits a network gets wrong: as they are, varied and attacked."""


class SmallDigitErrors(_Digits, Question, name="small_digit_errors"):
    """The same of ``mnist14``, whose digits are varied as MNIST, before four pixels become one."""

    def varied(self, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
        whole, _ = images_of(model, grid.dataset_of("mnist"), self.part, self.evaluated)
        moved = super().varied(model, whole)
        return {name: F.avg_pool2d(each, 2) for name, each in moved.items()}


@dataclass(frozen=True, kw_only=True)
class RobustDigits(Trained):
    """Digits classified by networks trained plainly, with penalties, with noise and on adversarial
    examples.

    For each method the candidates are trained as the search says and evaluated on ``validation``;
    for each criterion :func:`~wdtr_lite.study.statistics.choose` picks one, which is trained from
    several seeds and evaluated on ``test``.

    Parameters
    ----------
    networks : Networks
        What is made of a choice, ``also``, is made of that by the first criterion.
    criteria : dict of str to list of str
        The conditions whose mean error decides, by the criterion's name.
    evaluated : int
        How many images, drawn at random, are attacked and varied. Natural errors are on the whole
        part.
    """

    criteria: dict[str, list[str]]
    evaluated: int

    def run(self, store: Store) -> dict[str, Any]:
        """``search`` and ``rows``, a row for each network: its method, setting and seed, the
        criterion it was ``chosen_for``, how many of n images it got ``wrong`` under each condition,
        and its training's last metrics.
        """
        search = self._search(store)
        return {"search": search, "rows": self._rows(self._final(search), "test", NAMES, store)}

    def planned(self, store: Store) -> list[Job]:
        """The grid's networks, and those of the choice once it can be made."""
        search = self._search(replace(store, finished=True))
        unfinished = any("missing" in row for row in search)
        return self.networks.grid() + ([] if unfinished else self._final(search))

    def _search(self, store: Store) -> list[dict[str, Any]]:
        tried = [_without_seed(job) for job in self.networks.grid()]
        return self._rows(tried, "validation", ["pgd 0.1"], store)

    def _final(self, search: list[dict[str, Any]]) -> list[Job]:
        """None before plain training, by which is chosen, was searched."""
        if any("missing" in row for row in search if row["method"] == "none"):
            return []
        jobs, networks = [], self.networks
        for criterion, conditions in self.criteria.items():
            jobs += _chosen(networks, criterion, choose(search, conditions))
            networks = replace(networks, also={})
        return jobs

    def _rows(
        self, jobs: list[Job], part: str, names: Sequence[str], store: Store
    ) -> list[dict[str, Any]]:
        questions = self.questions(part, names)
        return [_flat(row) for row in grid.rows(jobs, questions, store)]

    def questions(self, part: str, names: Sequence[str]) -> dict[str, Question]:
        """What is asked of each network: ``errors``, whose columns are the row's."""
        return {"errors": DigitErrors(part, self.evaluated, names)}


def _without_seed(job: Job) -> Job:
    """All that are tried have the first."""
    return Job({name: job.labels[name] for name in ("method", "setting")}, job.config)


def _chosen(networks: Networks, criterion: str, chosen: dict[str, Setting]) -> list[Job]:
    """Method by method."""
    settings = networks.named(chosen)
    jobs = [
        networks.job(name, setting, seed)
        for name, setting in settings.items()
        for seed in networks.seeds
    ]
    return [Job({"chosen_for": criterion, **job.labels}, job.config) for job in jobs]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """With the errors' columns in the row, other measurements by name, and the time of training
    beside its metrics.
    """
    if "measurements" not in row:
        return row
    training = {**row["training"], "seconds": row["seconds"]["training"]}
    other = ("measurements", "training", "seconds")
    labels = {name: row[name] for name in row if name not in other}
    measured = dict(row["measurements"])
    return {**labels, **measured.pop("errors"), **measured, "training": training}


_SHARED = {"model": "small_cnn", "learning_rate": 0.05}

NETWORKS = {
    "quick": Networks(
        dataset="mnist5k",
        training={"epochs": 5, "milestones": [4], **_SHARED},
        search={"images": 1000, "part": "fit"},
        candidates={
            "none": [{}],
            "euclidean": [{"eta": 0.5}],
            "wasserstein": [{"eta": 0.5, "radius": 4}],
        },
    ),
    "full": Networks(
        dataset="mnist",
        training={"epochs": 8, "milestones": [5, 7], **_SHARED},
        search={"images": 20_000, "part": "fit"},
        candidates={
            "none": [{}],
            "euclidean": [{"eta": eta} for eta in (0.5, 1.0, 2.0, 4.0)],
            "wasserstein": [
                {"eta": eta, "radius": radius}
                for radius in (1, 2, 4, 8)
                for eta in (0.5, 1.0, 2.0, 4.0)
            ],
            "wasserstein_noise": [
                {"eta": eta, "radius": radius} for radius in (1, 2) for eta in (0.1, 0.2, 0.4)
            ],
            "gaussian_noise": [{"eta": eta} for eta in (0.1, 0.2, 0.4)],
            "pgd": [{"epsilon": epsilon, "warmup": 3} for epsilon in (0.05, 0.1, 0.2)],
        },
        also={
            "wasserstein, finite difference": {
                "method": "wasserstein",
                "mode": "finite_difference",
            }
        },
        seeds=(0, 1, 2),
    ),
}
"""The networks, by profile."""

register(
    "robust_digits",
    quick=RobustDigits(networks=NETWORKS["quick"], criteria={"attack": ["pgd 0.1"]}, evaluated=200),
    full=RobustDigits(
        networks=NETWORKS["full"],
        criteria={
            "attack": ["pgd 0.1"],
            "variation": ["translation", "rotation", "elastic"],
        },
        evaluated=2000,
    ),
)

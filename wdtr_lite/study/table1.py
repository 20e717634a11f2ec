"""Table 1: natural and robust error of networks trained in several ways."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from wdtr_lite.study import grid
from wdtr_lite.study.questions import ATTACKS, Errors
from wdtr_lite.study.spec import Job, Networks, Setting, Trained, register
from wdtr_lite.study.statistics import choose
from wdtr_lite.study.store import Store
from wdtr_lite.training import Run

__all__ = ["CONDITIONS", "CRITERION", "NETWORKS", "PAPER", "Selected", "Table1", "searched"]

CONDITIONS = ("natural", "FGSM 8", "FGSM 25", "I-FGSM-20 8")
"""The rows of Table 1."""

CRITERION = ("natural", "I-FGSM-20 8")
"""Those whose mean on validation images decides which setting of a method is taken."""

PAPER = {
    "natural": {"none": 16.29, "euclidean": 15.61, "wasserstein": 15.35},
    "FGSM 8": {"none": 82.22, "euclidean": 31.10, "wasserstein": 30.20},
    "FGSM 25": {"none": 89.72, "euclidean": 66.83, "wasserstein": 44.32},
    "I-FGSM-20 8": {"none": 90.15, "euclidean": 40.06, "wasserstein": 32.12},
}
"""The errors that the paper prints, in percent."""


@dataclass(frozen=True, kw_only=True)
class Selected(Trained):
    """An experiment on the networks of Table 1, with the settings that it chose."""

    follows = "table1"

    @property
    def lacks_gpu(self) -> bool:
        """Networks that are trained like those of the full scale take two cores weeks."""
        return _kind(self.networks) == _kind(NETWORKS["full"]) and not torch.cuda.is_available()

    def planned(self, store: Store) -> list[Job]:
        """The grid's networks, then those of the choice so far or, before there is one, of the
        first candidates in its place.
        """
        _, chosen = searched(self.networks, Store(store.root, finished=True))
        return self.networks.planned(chosen)

    def final(self, store: Store) -> list[Job]:
        """The networks of the choice."""
        return self.networks.final(searched(self.networks, store)[1])


@dataclass(frozen=True, kw_only=True)
class Table1(Selected):
    """Natural and robust error of networks trained in several ways: the paper's Table 1.

    Each setting is trained once, from the first seed, and evaluated on validation images. Of each
    method the setting with the lowest mean of natural error and error under I-FGSM-20 is chosen; it
    is trained from every seed and evaluated on test images.

    Parameters
    ----------
    networks : Networks
    attacked : int
        How many test images are attacked.

    References
    ----------
    Section 5.1 of Lin et al. (2019).
    """

    follows = None
    attacked: int

    def run(self, store: Store) -> dict[str, Any]:
        """``search``; ``chosen``, a setting for each method, and whether it is from the whole grid,
        ``grid_complete``; and ``rows``: for each network its labels, and ``wrong`` of ``n`` by
        condition and which, ``outcomes``, or ``missing``.
        """
        networks, questions = self.networks, _questions("test", self.attacked)
        if networks.initial:
            grid.rows(networks.final(networks.initial), questions, store)
        search, chosen = searched(networks, store)
        rows = _counted(grid.rows(networks.final(chosen), questions, store))
        complete = _is_complete(search)
        return {"search": search, "chosen": chosen, "grid_complete": complete, "rows": rows}

    def publish(self, result: dict[str, Any], store: Store) -> dict[str, Run]:
        """The networks of the first seed."""
        found = {}
        for row in result["rows"]:
            method, setting, seed = row["method"], row["setting"], row["seed"]
            if method in result["chosen"] and seed == self.networks.seeds[0] and "wrong" in row:
                config = self.networks.job(method, setting, seed).config
                found[method] = grid.trained(config, store)
        return found


def _kind(networks: Networks) -> tuple:
    return networks.dataset, networks.split, networks.training


def searched(networks: Networks, store: Store) -> tuple[list[dict], dict[str, Setting]]:
    """The grid's rows and what is chosen from them; while some are missing, the initial settings.
    No grid where there is no choice.
    """
    if not networks.leave_a_choice:
        return [], networks.firsts()
    search = _counted(grid.rows(networks.grid(), _questions("validation", None), store))
    if not _is_complete(search):
        return search, networks.initial
    chosen = choose(search, CRITERION, allowance=1.0)
    return search, {method: chosen[method] for method in networks.candidates if method in chosen}


def _questions(part: str, attacked: int | None) -> dict[str, Errors]:
    """Natural errors on the whole part, the others on so many of its images."""
    return {
        name: Errors(part, attacked if name in ATTACKS else None, ATTACKS.get(name))
        for name in CONDITIONS
    }


def _is_complete(rows: Sequence[dict]) -> bool:
    return not any("missing" in row for row in rows)


def _counted(rows: list[dict]) -> list[dict]:
    """With the measurements of :class:`Errors` as columns: ``wrong``, ``n``, ``outcomes``."""
    counted = []
    for row in rows:
        measured = row.pop("measurements", {})
        columns = ("wrong", "n", "outcomes") if measured else ()
        counts = {
            key: {name: each[key] for name, each in measured.items()}
            for key in columns
            if all(key in each for each in measured.values())  # once there were no outcomes
        }
        counted.append({**row, **counts})
    return counted


_DIFFERENCE = {"mode": "finite_difference"}
_ETAS = (0.25, 0.5, 1.0, 2.0)
_RADII = (2, 4, 6, 8)

NETWORKS = {
    "quick": Networks(
        dataset="mnist5k_color",
        training={
            "model": "resnet8",
            "width": 8,
            "images": 2000,
            "batch_size": 32,
            "epochs": 3,
            "milestones": [2],
        },
        search={"part": "fit"},
        candidates={
            "none": [{}],
            "euclidean": [{"eta": 0.5, **_DIFFERENCE}],
            "wasserstein": [{"eta": 0.5, "radius": 2, **_DIFFERENCE}],
        },
    ),
    "cpu": Networks(
        dataset="cifar10",
        split="holdout",
        training={"model": "resnet8", "epochs": 4, "milestones": [2, 3]},
        search={"images": 10_000, "epochs": 6, "milestones": [4, 5]},
        candidates={
            "none": [{}],
            "euclidean": [{"eta": eta, **_DIFFERENCE} for eta in _ETAS],
            "wasserstein": [
                {"eta": eta, "radius": radius, **_DIFFERENCE}
                for radius in _RADII
                for eta in (0.5, 1.0, 2.0)
            ],
        },
        seeds=(0, 1, 2),
    ),
    "full": Networks(
        dataset="cifar10",
        split="holdout",
        training={"precision": "bfloat16"},
        candidates={
            "none": [{}],
            "euclidean": [{"eta": eta} for eta in _ETAS],
            "wasserstein": [{"eta": eta, "radius": radius} for radius in _RADII for eta in _ETAS],
        },
        initial={
            "none": {},
            "euclidean": {"eta": 1.0},
            "wasserstein": {"eta": 1.0, "radius": 8},
        },
        seeds=(0, 1, 2),
    ),
}
"""The networks of Table 1, by profile."""

register(
    "table1",
    quick=Table1(networks=NETWORKS["quick"], attacked=100),
    cpu=Table1(networks=NETWORKS["cpu"], attacked=2000),
    full=Table1(networks=NETWORKS["full"], attacked=5000),
)

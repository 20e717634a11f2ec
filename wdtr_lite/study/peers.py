"""The methods that the paper cites, each with as many settings to choose from."""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from wdtr_lite.data import Dataset
from wdtr_lite.models.enresnet import Ensemble, Noisy
from wdtr_lite.study import grid
from wdtr_lite.study.questions import ATTACKS, Errors
from wdtr_lite.study.spec import Networks, register
from wdtr_lite.study.store import Store
from wdtr_lite.study.table1 import CRITERION, NETWORKS
from wdtr_lite.study.tradeoff import Tradeoff

__all__ = ["NoiseOff", "OnAverage", "Peers"]


@dataclass(frozen=True)
class NoiseOff(Errors, name="noise_off"):
    """:class:`~wdtr_lite.study.questions.Errors` of a network whose noise is off, for the attack
    and after it.
    """

    def __call__(self, model: nn.Module, dataset: Dataset) -> dict[str, Any]:
        for layer in model.modules():
            if isinstance(layer, Noisy):
                layer.level = 0.0
        return super().__call__(model, dataset)


@dataclass(frozen=True, kw_only=True)
class OnAverage(Errors, name="on_average"):
    """:class:`~wdtr_lite.study.questions.Errors` of the mean of so many passes, which the attack
    follows too: noise cannot mask the gradient of its own mean.
    """

    passes: int

    def __call__(self, model: nn.Module, dataset: Dataset) -> dict[str, Any]:
        return super().__call__(Ensemble(self.passes * [model]), dataset)


@dataclass(frozen=True, kw_only=True)
class Peers(Tradeoff):
    """:class:`~wdtr_lite.study.tradeoff.Tradeoff` of the methods that the paper cites and of its
    own two penalties, with as many settings of each to choose from.
    """

    follows = None
    passes: int = 4

    def run(self, store: Store) -> dict[str, Any]:
        """As in Table 1. Of networks with noise the rows have ``noise_off`` and, on two fifths of
        the attacked images, ``on_average``: what was counted, by condition.
        """
        result = super().run(store)
        jobs = self.networks.final(result["chosen"])
        noisy = ["EnResNet" in job.labels["method"] for job in jobs]
        asked = [job for job, is_noisy in zip(jobs, noisy, strict=True) if is_noisy]
        rows = [row for row, is_noisy in zip(result["rows"], noisy, strict=True) if is_noisy]
        for name, questions in self._of_noise().items():
            for row, found in zip(rows, grid.rows(asked, questions, store), strict=True):
                row[name] = found["measurements"]
        return result

    def _of_noise(self) -> dict[str, dict[str, Errors]]:
        many, few = self.attacked, 2 * self.attacked // 5
        return {
            "noise_off": {each: NoiseOff("test", many, ATTACKS.get(each)) for each in CRITERION},
            "on_average": {
                each: OnAverage("test", few, ATTACKS.get(each), passes=self.passes)
                for each in CRITERION
            },
        }


_DIFFERENCE = {"mode": "finite_difference"}
_BALLS = [{"epsilon": k / 255, "warmup": 1} for k in (2, 4, 8)]
_FEW_STEPS = [{**ball, "steps": 3} for ball in _BALLS]
_ENSEMBLE = {"model": "enresnet8"}

register(
    "peers",
    quick=Peers(
        networks=replace(
            NETWORKS["quick"],
            candidates={
                "none": [{}],
                "deepfool": [{"eta": 0.5}],
                "none, EnResNet": [{"method": "none", **_ENSEMBLE}],
            },
        ),
        attacked=50,
    ),
    cpu=Peers(
        networks=Networks(
            dataset="cifar16",
            split="holdout",
            training={
                "model": "resnet8",
                "width": 8,
                "images": 4_000,
                "batch_size": 64,
                "epochs": 3,
                "milestones": [2],
            },
            candidates={
                "none": [{}],
                "euclidean": [{"eta": eta, **_DIFFERENCE} for eta in (0.5, 1.0, 2.0)],
                "wasserstein": [
                    {"eta": eta, "radius": 4, **_DIFFERENCE} for eta in (0.5, 1.0, 2.0)
                ],
                "gaussian_noise": [{"eta": eta} for eta in (0.05, 0.1, 0.2)],
                "jacobian": [{"eta": eta, **_DIFFERENCE} for eta in (0.1, 0.3, 1.0)],
                "sampled_cross_lipschitz": [{"eta": eta, **_DIFFERENCE} for eta in (0.2, 0.7, 2.0)],
                "l1": [{"eta": eta} for eta in (0.025, 0.05, 0.1)],
                "linf": [{"eta": eta} for eta in (3.0, 6.0, 12.0)],
                "deepfool": [{"eta": eta} for eta in (0.25, 0.5, 1.0)],
                "fgsm": _BALLS,
                "pgd": _FEW_STEPS,
                "trades": [{**_FEW_STEPS[-1], "eta": weight**0.5} for weight in (1, 3, 6)],
                "none, EnResNet": [{"method": "none", **_ENSEMBLE}],
                "pgd, EnResNet": [{"method": "pgd", **_ENSEMBLE, **one} for one in _FEW_STEPS],
            },
            seeds=(0, 1, 2),
        ),
        attacked=500,
    ),
)

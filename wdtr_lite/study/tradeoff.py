"""Robust error against natural error and cost, of the penalties and of their rivals."""

from dataclasses import dataclass, replace
from typing import Any

from wdtr_lite.study.spec import register
from wdtr_lite.study.store import Store
from wdtr_lite.study.table1 import NETWORKS, Table1
from wdtr_lite.training import METHODS, Run

__all__ = ["SHORT", "TRIED", "Tradeoff"]


@dataclass(frozen=True, kw_only=True)
class Tradeoff(Table1):
    """:class:`~wdtr_lite.study.table1.Table1` with further methods; of its own methods the settings
    that it chose. ``quick`` takes the registered methods as the benchmark tries them.
    """

    follows = "table1"

    def publish(self, result: dict[str, Any], store: Store) -> dict[str, Run]:
        """Nothing: Table 1 does."""
        return {}


_DIFFERENCE = {"mode": "finite_difference"}
_RIVALS = {
    "gaussian_noise": [{"eta": eta} for eta in (0.05, 0.1, 0.2)],
    "jacobian": [{"eta": eta, **_DIFFERENCE} for eta in (0.1, 0.3)],
    "fgsm": [{"epsilon": 8 / 255, "warmup": 1}],
    "pgd": [{"epsilon": 8 / 255, "warmup": 1}],
    "trades": [{"epsilon": 8 / 255, "warmup": 1, "eta": 6**0.5}],
}
_EXACT = {"wasserstein, exact": {"method": "wasserstein", "mode": "double_backprop"}}
_ALL = {
    profile: replace(networks, candidates={**networks.candidates, **_RIVALS}, also=_EXACT)
    for profile, networks in NETWORKS.items()
}
TRIED = {
    name: [dict(method.trial)]
    for name, method in METHODS.items()
    if name != "laplace_beltrami"  # which inverts a matrix of all pixels for each image
}
"""Settings of the methods to try, by name."""
SHORT = {"model": "resnet8", "images": 6_000, "epochs": 4, "milestones": [3]}
"""What two cores can do for each of many networks."""

register(
    "tradeoff",
    quick=Tradeoff(
        networks=replace(_ALL["quick"], candidates={**TRIED, **_ALL["quick"].candidates}),
        attacked=100,
    ),
    cpu=Tradeoff(networks=replace(_ALL["cpu"], training=SHORT, search={}), attacked=500),
    full=Tradeoff(
        networks=replace(
            _ALL["full"],
            also={"wasserstein, finite difference": {"method": "wasserstein", **_DIFFERENCE}},
        ),
        attacked=5000,
    ),
)

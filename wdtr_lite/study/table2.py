"""Table 2: label flips of moved images."""

from dataclasses import dataclass
from typing import Any

from wdtr_lite.study import grid
from wdtr_lite.study.questions import AXES, PADDINGS, Flips
from wdtr_lite.study.spec import register
from wdtr_lite.study.store import Store
from wdtr_lite.study.table1 import NETWORKS, Selected

__all__ = ["PAPER", "Table2"]

PAPER = {
    "horizontal": {"none": 10.009, "euclidean": 7.898, "wasserstein": 6.488},
    "vertical": {"none": 9.920, "euclidean": 9.437, "wasserstein": 7.956},
}
"""The mean label flips that the paper prints."""


@dataclass(frozen=True, kw_only=True)
class Table2(Selected):
    """Label flips of the networks of Table 1 along translations, by axis and padding: the paper's
    Table 2.

    Parameters
    ----------
    networks : Networks
    moved : int
        How many test images are moved.
    reach : int
        By how many pixels at most.

    References
    ----------
    Section 5.2 of Lin et al. (2019).
    """

    moved: int
    reach: int

    def run(self, store: Store) -> dict[str, Any]:
        """``rows``, one for each network, whose ``measurements`` are
        :class:`~wdtr_lite.study.questions.Flips` by ``"axis padding"``.
        """
        questions = {
            f"{axis} {padding}": Flips("test", self.moved, axis, padding, self.reach)
            for axis in AXES
            for padding in PADDINGS
        }
        return {"rows": grid.rows(self.final(store), questions, store)}


register(
    "table2",
    quick=Table2(networks=NETWORKS["quick"], moved=200, reach=4),
    cpu=Table2(networks=NETWORKS["cpu"], moved=1000, reach=16),
    full=Table2(networks=NETWORKS["full"], moved=1000, reach=16),
)

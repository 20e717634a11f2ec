"""A pixel graph learnt from differences of digits of one class, and a penalty with it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wdtr_lite import checks, metric
from wdtr_lite.data import Dataset
from wdtr_lite.graph import PixelGraph
from wdtr_lite.study import grid
from wdtr_lite.study.questions import Errors, WassersteinAttack
from wdtr_lite.study.robust_digits import RobustDigits, SmallDigitErrors
from wdtr_lite.study.spec import Experiment, Networks, Question, register
from wdtr_lite.study.store import Store

__all__ = ["GroundMetric", "Pairs", "Penalties", "autocorrelation", "pairs"]


class Pairs(NamedTuple):
    """Images as positive measures (N, H, W) in float64, and what to add for another of the same
    class.
    """

    x: Tensor
    xi: Tensor


def pairs(
    dataset: Dataset,
    part: str,
    kind: str,
    count: int,
    pool: int,
    seed: int,
    side: int,
    floor: float = 1 / 255,
) -> Pairs:
    """Digits of a part of the data, each with another of its class.

    Parameters
    ----------
    dataset : Dataset
        Of grey images.
    part : str
    kind : {"nearest", "random"}
        The other is the nearest in L2 of those in the pool, or any of them.
    count : int
        So many pairs.
    pool : int
        Of so many digits, drawn at random, both are taken.
    seed : int
        Of the draw.
    side : int
        Height and width to which the digits are averaged.
    floor : float
        What black is raised to, of intensities in [0, 1], before the mass is made 1.
    """
    checks.option(kind, "kind", ("nearest", "random"))
    generator = torch.Generator().manual_seed(checks.seed(seed))
    index = dataset.split[part]
    index = index[torch.randperm(len(index), generator=generator)[:pool]]
    labels, images = dataset.labels[index], dataset.images[index].double() / 255
    images = F.adaptive_avg_pool2d(images, side).clamp_min(floor)
    images = images / images.sum((-2, -1), keepdim=True)
    x = images[:count]
    apart = torch.cdist(x.flatten(1), images.flatten(1))
    if kind == "random":
        apart = torch.rand(apart.shape, generator=generator, dtype=torch.float64)
    apart[labels[:count, None] != labels] = torch.inf
    apart.fill_diagonal_(torch.inf)
    return Pairs(x, images[apart.argmin(1)] - x)


def autocorrelation(xi: Tensor, radius: int) -> Tensor:
    r"""The sum of :math:`\xi_i \xi_{i + o}` over the pixels of all changes (N, H, W), divided by
    that of :math:`\xi_i^2`: for each offset o up to the radius, (2r + 1, 2r + 1).
    """
    height, width = xi.shape[-2:]
    around = F.pad(xi, (radius,) * 4)
    window = range(2 * radius + 1)
    found = [
        [(xi * around[:, y : y + height, x : x + width]).sum() for x in window] for y in window
    ]
    return torch.tensor(found) / xi.square().sum()


@dataclass(frozen=True, kw_only=True)
class GroundMetric(Experiment):
    """How likely do pixel graphs make the differences of digits of one class? Those of equal
    weights, and one learnt.

    The level of each noise is fitted to the pairs that the graph is learnt from, all are judged on
    others: these of the training part, those of the test part.

    Parameters
    ----------
    dataset : str
    side : int
        Height and width to which the digits are averaged.
    kinds : dict of str to int
        Of :func:`pairs`: in so many draws.
    learn, judge : int
        Pairs to learn from, and to judge by.
    pool : int
        As in :func:`pairs`.
    radii : sequence of int
        Of the graphs of equal weights.
    radius : int
        Of the graph that is learnt.
    """

    dataset: str
    side: int
    kinds: dict[str, int]
    learn: int
    judge: int
    pool: int
    radii: Sequence[int]
    radius: int

    @property
    def source(self) -> tuple[str, str | None]:
        return self.dataset, None

    def run(self, store: Store) -> dict[str, Any]:
        """``rows``, one for each kind, draw and noise: the log-likelihood of the pairs that judge,
        its ``mean`` in nats a pixel, ``standard_error`` and ``n``, and that of the pairs to learn
        from, ``learnt_from``. ``kernels``, one for each kind and draw: the learnt ``weights`` by
        offset, the largest 1, and the ``autocorrelation`` of the differences.
        """
        rows, kernels = [], []
        for kind, draws in self.kinds.items():
            for draw in range(draws):
                labels = {"kind": kind, "draw": draw}
                some, others = (self._pairs(part, **labels) for part in ("fit", "test"))
                learnt = metric.fit_ground_metric(some.x, some.xi, self.radius)
                equal = {
                    f"r = {r}": PixelGraph(self.side, self.side, r).to(torch.float64)
                    for r in self.radii
                }
                noises = {"isotropic": None, **equal, "learnt": learnt}
                rows += [
                    {**labels, "noise": noise, **_judged(graph, some, others)}
                    for noise, graph in noises.items()
                ]
                assert learnt.kernel is not None
                weights = learnt.kernel / learnt.kernel.max()
                found = autocorrelation(some.xi, self.radius)
                kernels.append(
                    {**labels, "weights": weights.tolist(), "autocorrelation": found.tolist()}
                )
        return {"rows": rows, "kernels": kernels}

    def _pairs(self, part: str, kind: str, draw: int) -> Pairs:
        count = self.learn if part == "fit" else self.judge
        dataset = grid.dataset_of(*self.source)
        return pairs(dataset, part, kind, count, self.pool, draw, self.side)


def _judged(graph: PixelGraph | None, some: Pairs, others: Pairs) -> dict[str, float]:
    """The log-likelihood of the others under the graph's noise, or white noise without one, at the
    level that is most likely for some; in nats a pixel.
    """
    pixels = some.x[0].numel()
    (work, at_zero), (other_work, at_others_zero) = (_parts(graph, each) for each in (some, others))
    level = work.mean() / (pixels - 1)
    known = (at_zero - work / level / 2 - (pixels - 1) / 2 * level.log()) / pixels
    found = (at_others_zero - other_work / level / 2 - (pixels - 1) / 2 * level.log()) / pixels
    return {
        "mean": float(found.mean()),
        "standard_error": float(found.std() / len(found) ** 0.5),
        "n": len(found),
        "learnt_from": float(known.mean()),
    }


def _parts(graph: PixelGraph | None, given: Pairs) -> tuple[Tensor, Tensor]:
    r"""Of each pair :math:`\xi^\top L^{+} \xi`, and the log-density of no change; L = I without a
    graph.
    """
    if graph is None:
        free = given.xi[0].numel() - 1
        work = given.xi.square().sum((1, 2))
        return work, torch.full_like(work, -free / 2 * math.log(2 * math.pi))
    at_zero = metric.log_likelihood(graph, given.x, torch.zeros_like(given.xi))
    return 2 * (at_zero - metric.log_likelihood(graph, *given)), at_zero


# ---------------------------------------------------------------- a penalty with it


@dataclass(frozen=True, kw_only=True)
class Penalties(RobustDigits):
    """:class:`~wdtr_lite.study.robust_digits.RobustDigits` of ``mnist14``, under a Wasserstein
    attack too, as ``wasserstein``: of the length 1, at half the side of MNIST's what 4 is there.
    """

    def questions(self, part: str, names: Sequence[str]) -> dict[str, Question]:
        attack = WassersteinAttack(1.0, radius=2)
        return {
            "errors": SmallDigitErrors(part, self.evaluated, ("pgd 0.1",)),
            "wasserstein": Errors(part, self.evaluated, attack),
        }


register(
    "ground_metric",
    quick=GroundMetric(
        dataset="mnist5k",
        side=14,
        kinds={"nearest": 1},
        learn=40,
        judge=40,
        pool=1000,
        radii=(1, 2, 4),
        radius=2,
    ),
    full=GroundMetric(
        dataset="mnist14",
        side=14,
        kinds={"nearest": 3, "random": 3},
        learn=200,
        judge=200,
        pool=10_000,
        radii=(1, 2, 4, 6, 8),
        radius=4,
    ),
)

_ETAS = (0.25, 0.5, 1.0, 2.0, 4.0)
_EQUAL = {
    f"wasserstein, r = {r}": [{"method": "wasserstein", "radius": r, "eta": eta} for eta in _ETAS]
    for r in (1, 2, 4, 8)
}
_TRAINING = {"model": "small_cnn", "learning_rate": 0.05}
_CRITERION = {"attack": ["pgd 0.1"]}

register(
    "ground_metric_penalty",
    quick=Penalties(
        networks=Networks(
            dataset="mnist14",
            training={"images": 1000, "epochs": 2, "milestones": [], **_TRAINING},
            search={"part": "fit"},
            candidates={"none": [{}], "learnt_wasserstein": [{"eta": 1.0}]},
        ),
        criteria=_CRITERION,
        evaluated=100,
    ),
    full=Penalties(
        networks=Networks(
            dataset="mnist14",
            training={"images": 20_000, "epochs": 6, "milestones": [4], **_TRAINING},
            search={"part": "fit"},
            candidates={
                "none": [{}],
                "euclidean": [{"eta": eta} for eta in _ETAS],
                **_EQUAL,
                "learnt_wasserstein": [{"eta": eta} for eta in _ETAS],
            },
            seeds=(0, 1, 2),
        ),
        criteria=_CRITERION,
        evaluated=2000,
    ),
)

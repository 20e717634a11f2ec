"""Networks attacked in two Wasserstein balls, of the metric and of the transport distance, and
trained in the first.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from wdtr_lite import attacks, metric, training, transport
from wdtr_lite.data import Dataset
from wdtr_lite.graph import PixelGraph
from wdtr_lite.study import files, grid, robust_digits, table1
from wdtr_lite.study.questions import ATTACKS, Errors, WassersteinAttack, images_of, rounded
from wdtr_lite.study.spec import Job, Question, Trained, register
from wdtr_lite.study.statistics import choose
from wdtr_lite.study.store import Store
from wdtr_lite.training.run import Training

__all__ = ["BALLS", "Agreement", "StaticBall", "TransportBall"]

RADIUS = 4  # of the pixel graph
FLOOR = 1 / 255  # of the metric
METHODS = ("none", "euclidean", "wasserstein")


@dataclass(frozen=True)
class StaticBall:
    """:func:`~wdtr_lite.attacks.projected_sinkhorn_attack` with a cost of squared distances."""

    epsilon: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return attacks.projected_sinkhorn_attack(model, x, y, self.epsilon)


BALLS = {"metric": partial(WassersteinAttack, radius=RADIUS, steps=10), "static": StaticBall}


@dataclass(frozen=True)
class Agreement(Question, name="transport_agreement"):
    r"""How long changes of images are in both balls: by the ball in which they were attacked, for
    each epsilon and each of so many images, the ``metric`` length :math:`\sqrt{\xi^\top L(\tilde
    x)^{+} \xi}` and the ``static`` one, :math:`\sqrt{m}\, \mathrm W_2(x, x + \xi)`, m the image's
    ``mass``; both in pixels where a mass of 1 is moved.
    """

    part: str
    images: int
    epsilons: Sequence[float]

    def __call__(self, model: nn.Module, dataset: Dataset) -> dict[str, Any]:
        x, y = images_of(model, dataset, self.part, self.images)
        found: dict[str, Any] = {"mass": rounded(x.sum((1, 2, 3)))}
        for name, ball in BALLS.items():
            moved = [ball(epsilon)(model, x, y) for epsilon in self.epsilons]
            found[name] = {
                "metric": [rounded(metric_length(x, each)) for each in moved],
                "static": [rounded(static_length(x, each)) for each in moved],
            }
        return found


def metric_length(x: Tensor, moved: Tensor) -> Tensor:
    """Of a change of grey images (B, 1, H, W), (B,)."""
    graph = PixelGraph(x.shape[-2], x.shape[-1], RADIUS).to(x.device, x.dtype)
    return metric.tangent_norm_sq(graph, x.clamp_min(FLOOR), moved - x, unit="pixel").sqrt()


def static_length(x: Tensor, moved: Tensor) -> Tensor:
    """The transport distance of grey images (B, 1, H, W) without a window, by linear programming,
    times the root of the mass, (B,).
    """
    pairs = zip(x[:, 0], moved[:, 0], strict=True)
    distances = [transport.wasserstein_distance(a, b) for a, b in pairs]
    return x.sum((1, 2, 3)).sqrt() * x.new_tensor(distances)


@dataclass(frozen=True, kw_only=True)
class TransportBall(Trained):
    """Digits classified by networks trained plainly, with penalties and on adversarial examples,
    and Table 1's published networks, attacked in both balls.

    Of each method the setting with the lowest error in the metric's ball is chosen on
    ``validation``, by :func:`~wdtr_lite.study.statistics.choose`, and trained from several seeds.

    Parameters
    ----------
    epsilon : float
        Of the balls about digits, in pixels where a mass of 1 is moved.
    evaluated : int
        How many digits, drawn at random, are attacked.
    profiles : sequence of str
        Those of Table 1 whose networks are attacked.
    epsilons : sequence of float
        Of the balls about photographs.
    photographs : int
        How many are attacked.
    sizes : sequence of float
        Of the changes that :class:`Agreement` measures.
    measured : int
        Of how many digits.
    """

    epsilon: float
    evaluated: int
    profiles: Sequence[str]
    epsilons: Sequence[float]
    photographs: int
    sizes: Sequence[float]
    measured: int

    def run(self, store: Store) -> dict[str, Any]:
        """``search`` and ``rows`` of the digits' networks; ``agreement`` of the lengths, with the
        first plain one; ``published``, errors of Table 1's networks by profile and method; and
        ``steps``, the processor's seconds for a step of training by method.
        """
        search = self._rows(self.networks.grid(), "validation", ["metric"], store)
        final = self.networks.final(choose(search, [f"metric {self.epsilon:g}"]))
        rows = self._rows(final, "test", ["pgd 0.1", *BALLS], store)
        plain = next(job for job in final if job.labels["method"] == "none")
        agreement = Agreement("test", self.measured, self.sizes)
        [found] = grid.rows([plain], {"agreement": agreement}, store)
        dataset = grid.dataset_of(*self.source)
        return {
            "search": search,
            "rows": rows,
            "agreement": found["measurements"]["agreement"],
            "published": self._photos(),
            "steps": {job.labels["method"]: step_seconds(job.config, dataset) for job in final},
        }

    def _rows(
        self, jobs: list[Job], part: str, names: Sequence[str], store: Store
    ) -> list[dict[str, Any]]:
        questions = {"natural": Errors(part, None, None)}
        for name in names:
            condition = f"{name} {self.epsilon:g}" if name in BALLS else name
            attack = BALLS[name](self.epsilon) if name in BALLS else ATTACKS[name]
            questions[condition] = Errors(part, self.evaluated, attack)
        return [_flat(row) for row in grid.rows(jobs, questions, store)]

    def _photos(self) -> dict[str, dict[str, Any]]:
        return {
            profile: {method: self._asked(method, profile) for method in METHODS}
            for profile in self.profiles
        }

    def _asked(self, method: str, profile: str) -> dict[str, Any]:
        """A published network."""
        source = table1.NETWORKS[profile]
        network = files.network(method, profile)
        dataset = grid.dataset_of(source.dataset, source.split)
        balls = {f"{name} {e:g}": BALLS[name](e) for name in BALLS for e in self.epsilons}
        return _counts({
            name: Errors("test", self.photographs, ball)(network, dataset)
            for name, ball in {"natural": None, **balls}.items()
        })  # fmt: skip


def step_seconds(config: training.Config, dataset: Dataset, steps: int = 10) -> float:
    """What a step of training takes, of the processor's time, on average."""
    run = Training(config, dataset=dataset)
    batches = run.begin_epoch()
    begun = time.process_time()
    for batch in batches[:steps]:
        run.batch.copy_(batch)
        run.step()
    return (time.process_time() - begun) / min(steps, len(batches))


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """With ``wrong`` and ``n`` by condition in place of the measurements, and the training's time
    beside its metrics.
    """
    trained = {**row["training"], "seconds": row["seconds"]["training"]}
    labels = {name: row[name] for name in ("method", "setting", "seed")}
    return {**labels, **_counts(row["measurements"]), "training": trained}


def _counts(measured: dict[str, Any]) -> dict[str, Any]:
    return {key: {name: each[key] for name, each in measured.items()} for key in ("wrong", "n")}


_QUICK, _FULL = robust_digits.NETWORKS["quick"], robust_digits.NETWORKS["full"]
_BALL = "wasserstein_attack"
_PART = {**_FULL.training, **_FULL.search}

register(
    "transport_ball",
    quick=TransportBall(
        networks=replace(
            _QUICK,
            candidates={
                "none": [{}],
                _BALL: [{"epsilon": 4.0, "radius": RADIUS, "steps": 1}],
            },
            search={},
            training={**_QUICK.training, "images": 1000, "part": "fit"},
        ),
        epsilon=4.0,
        evaluated=50,
        profiles=(),
        epsilons=(),
        photographs=0,
        sizes=(1.0, 4.0),
        measured=5,
    ),
    full=TransportBall(
        networks=replace(
            _FULL,
            training=_PART,
            search={},
            candidates={
                "none": [{}],
                "euclidean": _FULL.candidates["euclidean"],
                "wasserstein": [s for s in _FULL.candidates["wasserstein"] if s["radius"] == 8],
                "pgd": [{"epsilon": 0.025, "warmup": 3}, *_FULL.candidates["pgd"]],
                _BALL: [
                    {"epsilon": epsilon, "radius": RADIUS, "steps": 1, "warmup": 3}
                    for epsilon in (1.0, 2.0, 4.0, 8.0, 16.0)
                ],
            },
            also={},
        ),
        epsilon=4.0,
        evaluated=500,
        profiles=("cpu", "full"),
        epsilons=(0.1, 0.3, 1.0, 3.0),
        photographs=80,
        sizes=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
        measured=100,
    ),
)

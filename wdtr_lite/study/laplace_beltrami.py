"""Small digits classified by networks trained with Theorem 1's terms, and with the noise that they
expand.
"""

import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch
from torch import nn

from wdtr_lite import metric, noise
from wdtr_lite.data import Dataset
from wdtr_lite.graph import PixelGraph
from wdtr_lite.regularizer import perturbed_loss, second_order_expansion
from wdtr_lite.regularizer.forward import cross_entropy
from wdtr_lite.study import grid
from wdtr_lite.study.outcomes import pack
from wdtr_lite.study.questions import batches, drawn, images_of, probabilities
from wdtr_lite.study.robust_digits import RobustDigits, SmallDigitErrors
from wdtr_lite.study.spec import Job, Networks, Question, register
from wdtr_lite.study.store import Store
from wdtr_lite.training.objectives.expansion import FLOOR, known_drift, volume_drift
from wdtr_lite.training.run import Training

__all__ = ["ETAS", "Expansions", "Labels", "TermSizes"]

ETAS = (0.1, 0.2, 0.4)
"""The noise levels, per pixel on average, of intensities in [0, 1]."""


@dataclass(frozen=True)
class Labels(Question, name="labels"):
    """What a network takes each image of a part for, as :func:`~wdtr_lite.study.outcomes.pack` has
    it.
    """

    part: str

    def __call__(self, model: nn.Module, dataset: Dataset) -> str:
        x, _ = drawn(model, dataset, self.part)
        found = [probabilities(model, each.float() / 255).argmax(1) for (each,) in batches(x)]
        return pack(torch.cat(found).cpu())


@dataclass(frozen=True)
class TermSizes(Question, name="term_sizes"):
    r"""The terms of Theorem 1 at images of a part, on average, with L(x) divided by its mean
    diagonal: ``gradient``, :math:`l'' \|\nabla_W f\|^2`; ``laplacian``, :math:`l'
    \operatorname{tr}(L \nabla^2 f)`; ``drift``, :math:`b^\top \nabla \ell` in the metric of
    :math:`\max(x, 1/255)`; beside them ``appendix``, :math:`\|\nabla_W \ell\|^2`. Of the
    second and third also the mean size, ``|laplacian|`` and ``|drift|``. ``added`` is what noise of
    each of :data:`ETAS` adds to the ``loss``, by so many pairs of draws.
    """

    part: str
    images: int
    radius: int
    pairs: int

    def __call__(self, model: nn.Module, dataset: Dataset) -> dict[str, Any]:
        model = deepcopy(model).double()
        x, y = images_of(model, dataset, self.part, self.images)
        graph = PixelGraph(x.shape[-2], x.shape[-1], self.radius)
        drift, point = known_drift(graph, x.clamp_min(FLOOR)), x.double().clamp_min(FLOOR)
        graph, x = graph.to(torch.float64), x.double()
        unit, unit_there = (metric.mean_diagonal(graph, each) for each in (x, point))
        terms = second_order_expansion(cross_entropy, model, graph, x, y)
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(cross_entropy(model(leaf), y).sum(), leaf)
        found = {
            "loss": terms.loss,
            "gradient": terms.gradient / unit,
            "laplacian": terms.laplacian / unit,
            "drift": (drift * g).sum((1, 2, 3)) / unit_there,
            "appendix": metric.grad_norm_sq(graph, x, g) / unit,
        }
        found |= {f"|{name}|": found[name].abs() for name in ("laplacian", "drift")}
        generator = torch.Generator().manual_seed(0)
        xi = noise.sample(graph, x, 1.0, generator=generator, n=self.pairs) / unit**0.5
        with torch.no_grad():
            added = [
                perturbed_loss(cross_entropy, model, x, y, torch.cat([eta * xi, -eta * xi])).value
                for eta in ETAS
            ]
        means = {name: float(each.mean()) for name, each in found.items()}
        return means | {"added": [float((each - terms.loss).mean()) for each in added]}


@dataclass(frozen=True, kw_only=True)
class Expansions(RobustDigits):
    """Every candidate from every seed, so that methods are compared at the same eta.

    Parameters
    ----------
    measured : int
        How many test images :class:`TermSizes` takes.
    rounds : int
        Of steps that are timed.
    """

    criteria: dict[str, list[str]] = field(default_factory=dict)
    measured: int
    rounds: int

    def run(self, store: Store) -> dict[str, Any]:
        """``rows``, as those of :class:`~wdtr_lite.study.robust_digits.RobustDigits`; the
        ``milliseconds`` of the processor that a step of each method takes, and those that the
        drift of one image takes, once.
        """
        rows = self._rows(self.planned(store), "test", ["pgd 0.1"], store)
        return {"rows": rows, "milliseconds": self.times()}

    def planned(self, store: Store) -> list[Job]:
        """All networks."""
        networks = self.networks
        return [
            networks.job(name, setting, seed)
            for seed in networks.seeds
            for name, settings in networks.candidates.items()
            for setting in settings
        ]

    def questions(self, part: str, names: Sequence[str]) -> dict[str, Question]:
        terms = TermSizes(part, self.measured, 2, 8)
        errors = SmallDigitErrors(part, self.evaluated, names)
        return {"errors": errors, "labels": Labels(part), "terms": terms}

    def times(self) -> dict[str, float]:
        """Medians, the methods in turn, after a round that is not timed."""
        dataset, runs = grid.dataset_of(*self.source), {}
        for name, setting in self.networks.firsts().items():
            config = self.networks.job(name, setting, 0).config
            run = Training(replace(config, images=config.batch_size, epochs=1), dataset=dataset)
            run.batch.copy_(run.begin_epoch()[0])
            runs[name] = run
        taken = {name: [] for name in [*runs, "drift"]}
        images = dataset.part("test", self.rounds + 1)[0].float() / 255
        graph = PixelGraph(images.shape[-2], images.shape[-1], 2)
        for image in images.clamp_min(FLOOR):
            for name, run in runs.items():
                taken[name].append(_seconds(lambda run=run: run.step(eager=True)))
            taken["drift"].append(_seconds(lambda image=image: volume_drift(graph, image)))
        return {name: round(1e3 * median(each[1:]), 3) for name, each in taken.items()}


def _seconds(call) -> float:
    """Of this process, whatever others do."""
    began = time.process_time()
    call()
    return time.process_time() - began


def _candidates(etas: Sequence[float]) -> dict[str, list[dict[str, Any]]]:
    """The penalty of Appendix D has Theorem 1's weight, half eta squared, too."""
    noisy = [{"eta": eta, "radius": 2} for eta in etas]
    return {
        "none": [{}],
        "wasserstein": [{"eta": round(eta * 0.5**0.5, 6), "radius": 2} for eta in etas],
        "gauss_newton": noisy,
        "second_order": noisy,
        "laplace_beltrami": noisy,
        "wasserstein_noise": noisy,
    }


_TRAINING = {"model": "small_cnn", "learning_rate": 0.05}

register(
    "laplace_beltrami",
    quick=Expansions(
        networks=Networks(
            dataset="mnist14",
            training={"images": 256, "epochs": 2, "milestones": [], **_TRAINING},
            candidates=_candidates([0.1]),
        ),
        evaluated=100,
        measured=20,
        rounds=3,
    ),
    full=Expansions(
        networks=Networks(
            dataset="mnist14",
            training={"epochs": 2, "milestones": [1], **_TRAINING},
            candidates=_candidates(ETAS),
            seeds=(0, 1, 2),
        ),
        evaluated=2000,
        measured=200,
        rounds=50,
    ),
)

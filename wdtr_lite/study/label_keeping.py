"""How often a digit on the way to another keeps its label, in L2 and in W2."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from wdtr_lite import checks, transport
from wdtr_lite.study import grid
from wdtr_lite.study.nearest_neighbours import digits, draw
from wdtr_lite.study.spec import Experiment, register
from wdtr_lite.study.statistics import summary
from wdtr_lite.study.store import Store

__all__ = ["LabelKeeping"]

Classifier = Callable[[np.ndarray], np.ndarray]  # images (N, H, W) of any mass -> labels (N,)


@dataclass(frozen=True, kw_only=True)
class LabelKeeping(Experiment):
    """How often an interpolate at a fixed distance keeps the label of its source.

    Two classifiers are trained on measures of the training part: a random forest, which compares
    single pixels with thresholds, and a support vector machine, whose kernel is a function of the
    L2 distance. Sources are test digits that both classify rightly, each with a target of another
    class. The distance is one for all pairs: a fraction of the median distance of the pairs in the
    same metric. Where the target is nearer than that, the interpolate is the target.

    Parameters
    ----------
    dataset : str
    classifier_size : int
        Training digits of the classifiers.
    pairs : int
        Source-target pairs, the n of every row.
    fractions : sequence of float
        Distances, in medians.
    seed : int
    """

    dataset: str
    classifier_size: int
    pairs: int
    fractions: Sequence[float]
    seed: int

    @property
    def source(self) -> tuple[str, str | None]:
        return self.dataset, None

    def run(self, store: Store) -> dict[str, Any]:
        """``classifier_error`` on the test part, the ``medians``, the pairs' ``labels`` and
        ``targets`` and ``rows``: one per classifier (``"forest"`` or ``"svm"``), metric and
        fraction, with the ``predictions`` (a string of digits), the share of interpolates that are
        their targets, ``reached``, and of kept labels, ``mean``, with its ``standard_error`` and
        ``n``.
        """
        dataset = grid.dataset_of(*self.source)
        generator = torch.Generator().manual_seed(checks.seed(self.seed))
        training = draw(dataset, "train", self.classifier_size, generator)
        classifiers = _classifiers(*training, self.seed)
        images, labels = draw(dataset, "test", len(dataset.split["test"]), generator)
        correct = {name: classify(images) == labels for name, classify in classifiers.items()}
        sources, targets = self._pairs(correct, labels, generator)
        measures = np.asarray(transport.as_measure(images))
        medians, rows = {}, []
        for metric in ("euclidean", "wasserstein"):
            ways = measures[sources], measures[targets]
            medians[metric], interpolates = _interpolates(*ways, metric, self.fractions)
            for fraction, (reached, points) in zip(self.fractions, interpolates, strict=True):
                for name, classify in classifiers.items():
                    predictions = classify(points)
                    rows.append({
                        "classifier": name,
                        "metric": metric,
                        "fraction": fraction,
                        "predictions": digits(predictions),
                        "reached": reached,
                        **summary(predictions == labels[sources]),
                    })  # fmt: skip
        return {
            "classifier_error": {name: summary(~outcome) for name, outcome in correct.items()},
            "medians": medians,
            "labels": digits(labels[sources]),
            "targets": digits(labels[targets]),
            "rows": rows,
        }

    def _pairs(
        self, correct: dict[str, np.ndarray], labels: np.ndarray, generator: torch.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Indices of sources, which all classify rightly, and of targets of another class."""
        right = np.logical_and.reduce(list(correct.values())).nonzero()[0]
        if len(right) < self.pairs:
            raise ValueError(
                f"pairs={self.pairs} is more than the {len(right)} test digits classified rightly"
            )
        sources = right[: self.pairs]
        order = torch.randperm(len(labels), generator=generator).tolist()
        targets = [
            next(j for j in order[k:] + order[:k] if labels[j] != labels[i])
            for k, i in enumerate(sources)
        ]
        return sources, np.array(targets)


def _interpolates(
    sources: np.ndarray, targets: np.ndarray, metric: str, fractions: Sequence[float]
) -> tuple[float, list[tuple[float, np.ndarray]]]:
    """The median distance of the pairs; at each fraction of it the share of pairs that are nearer,
    and the interpolates (N, H, W).
    """
    distance = {"euclidean": _euclidean, "wasserstein": transport.wasserstein_distance}[metric]
    found = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        lengths = np.array(list(pool.map(distance, sources, targets)))
        median = float(np.median(lengths))
        for fraction in fractions:
            radius = fraction * median

            def between(x, y, length, radius=radius):
                end = min(radius, length)
                return transport.fixed_distance_interpolate(x, y, end, metric=metric)

            points = np.stack(list(pool.map(between, sources, targets, lengths)))
            found.append((float(np.mean(lengths <= radius)), points))
    return median, found


def _euclidean(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.linalg.norm(x - y))


def _classifiers(images: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, Classifier]:
    """Classifiers of measures."""
    if find_spec("sklearn") is None:
        raise ValueError("label_keeping needs scikit-learn: pip install scikit-learn")
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.svm import SVC

    def features(images: np.ndarray) -> np.ndarray:
        flat = transport.as_measure(images).reshape(len(images), -1)
        return flat * images[0].size  # mean pixel 1

    machines = {"forest": RandomForestClassifier(300, random_state=seed), "svm": SVC(C=10)}
    for machine in machines.values():
        machine.fit(features(images), labels)
    return {
        name: lambda images, machine=machine: machine.predict(features(images))
        for name, machine in machines.items()
    }


register(
    "label_keeping",
    quick=LabelKeeping(
        dataset="mnist5k",
        classifier_size=2000,
        pairs=40,
        fractions=(0.2, 0.4, 0.6, 0.8),
        seed=0,
    ),
    full=LabelKeeping(
        dataset="mnist",
        classifier_size=10_000,
        pairs=1000,
        fractions=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
        seed=0,
    ),
)

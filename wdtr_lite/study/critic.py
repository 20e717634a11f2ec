"""Critics of generative adversarial networks, in the Euclidean and the Wasserstein metric: on blobs
whose distance is known, and on digits.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wdtr_lite import checks, metric, noise
from wdtr_lite.data import Dataset
from wdtr_lite.graph import PixelGraph
from wdtr_lite.metric import Source
from wdtr_lite.regularizer import GradientPenalty, Wasserstein
from wdtr_lite.study import blobs, grid, wgan
from wdtr_lite.study.spec import Experiment, register
from wdtr_lite.study.store import Store, read, write

__all__ = ["Critics", "Judge", "changes", "class_score", "frechet_distance", "penalty_of"]

RADIUS = 2  # of the digits' graph
SOURCE = 0.1  # of the mean diagonal of L
METHODS = {
    "euclidean": None,
    "wasserstein": None,
    "wasserstein, uniform source": "uniform",
    "wasserstein, local source": "local",
}
"""Of a critic of digits, by the kind of source."""


def penalty_of(method: str, images: Tensor) -> GradientPenalty:
    """The penalty of a critic of digits, of one of the ``METHODS``: on the graph of radius 2,
    the source with a tenth of the mean diagonal of L.
    """
    checks.option(method, "method", tuple(METHODS))
    if method == "euclidean":
        return GradientPenalty("euclidean", of="logits")
    graph = _graph(images)
    kind, source = METHODS[method], None
    if kind is not None:
        source = Source(kind, SOURCE * float(metric.mean_diagonal(graph, images)))
    return GradientPenalty(Wasserstein(graph, None, source=source), of="logits")


def _graph(images: Tensor) -> PixelGraph:
    return wgan.unit_graph(images.shape[-2], images.shape[-1], RADIUS)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    r"""The squared Fréchet distance of two Gaussians, fitted to features (N, k) and (M, k).

    .. math:: \|m_a - m_b\|^2 + \operatorname{tr} \bigl(\Sigma_a + \Sigma_b
       - 2 (\Sigma_a \Sigma_b)^{1/2}\bigr)

    References
    ----------
    Heusel et al. (2017), of features of another network.
    """
    a, b = a.double(), b.double()
    one, two = a.T.cov(), b.T.cov()
    roots = torch.linalg.eigvals(one @ two).real.clamp_min(0).sqrt()
    apart = (a.mean(0) - b.mean(0)).square().sum()
    return float(apart + one.trace() + two.trace() - 2 * roots.sum())


def class_score(p: Tensor) -> float:
    r"""How clear and how varied classes are, from 1 to their number, of probabilities (N, k):
    :math:`\exp \E \operatorname{KL}(p \,\|\, \bar p)`.

    References
    ----------
    Salimans et al. (2016), of the classes of another network.
    """
    p = p.clamp_min(1e-12)
    return float((p * (p / p.mean(0)).log()).sum(1).mean().exp())


class Judge:
    """A classifier of digits, trained plainly, that looks at generated ones."""

    def __init__(self, images: Tensor, labels: Tensor, epochs: int):
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
        layers += [nn.Flatten(), nn.Linear(512, 64), nn.ReLU()]
        self.features, self.head = nn.Sequential(*layers), nn.Linear(64, 10)
        model = nn.Sequential(self.features, self.head)
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for _ in range(epochs):
            for batch in torch.randperm(len(images)).split(128):
                optimizer.zero_grad()
                F.cross_entropy(model(images[batch]), labels[batch]).backward()
                optimizer.step()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, 64) and probabilities (N, 10)."""
        features = self.features(images)
        return features, self.head(features).softmax(1)


def changes(
    model: nn.Module, images: Tensor, graph: PixelGraph, generator: torch.Generator
) -> dict[str, float]:
    """The mean absolute change of a critic's value from an image to it ``moved`` by a pixel, to it
    with ``wasserstein noise`` or ``pixel noise``, each of a fifth of its length, and to
    ``another``.
    """
    ways = [(1, -1), (-1, -1), (1, -2), (-1, -2)]
    other = images[torch.randperm(len(images), generator=generator)]
    flow = noise.sample(graph, images, 1.0, generator=generator)[0]
    white = torch.randn(images.shape, generator=generator)
    lengths = 0.2 * images.flatten(1).norm(dim=1)[:, None, None, None]
    noisy = [images + lengths * F.normalize(xi.flatten(1)).view_as(xi) for xi in (flow, white)]
    groups = {
        "moved": [images.roll(*way) for way in ways],
        "wasserstein noise": [noisy[0]],
        "pixel noise": [noisy[1]],
        "another": [other],
    }
    with torch.no_grad():
        value = model(images)
        return {
            name: float(torch.stack([model(each) - value for each in group]).abs().mean())
            for name, group in groups.items()
        }


@dataclass(frozen=True, kw_only=True)
class Critics(Experiment):
    """Critics of blobs whose distance is known, and of digits of half the side.

    Of blobs each of ``blobs.CRITICS`` is trained for every shift and seed. Of
    digits a generator and a critic are trained with each of the methods, with the first seed for
    each weight of the penalty; with the weight whose generator is nearest to validation digits for
    all seeds. And a critic alone for each method, weight and seed, on digits and double exposures.

    Parameters
    ----------
    dataset : str
    shifts : sequence of float
    blob_steps : int
    methods : sequence of str
        As in :func:`penalty_of`.
    weights : sequence of float
    seeds : sequence of int
    steps : int
        Of the generator.
    epochs : int
        Of the classifier that judges it.
    evaluated : int
        Generated digits, and those of the data, that are compared.
    """

    dataset: str
    shifts: Sequence[float]
    blob_steps: int
    methods: Sequence[str]
    weights: Sequence[float]
    seeds: Sequence[int]
    steps: int
    epochs: int
    evaluated: int

    @property
    def source(self) -> tuple[str, str | None]:
        return self.dataset, None

    def run(self, store: Store) -> dict[str, Any]:
        """``known`` distances of blobs and ``blobs``, what their critics tell; ``search`` and
        ``rows`` of the digits' networks, ``exposures`` of the critics alone; of the data ``real``,
        what the judge says of it. What is measured of a network is stored, so that a stopped run
        goes on.
        """
        dataset = grid.dataset_of(*self.source)
        key = hashlib.md5(repr((self.config(), dataset)).encode()).hexdigest()[:8]
        kept = _Kept(store.root and store.root.parent / f"critic-{key}")
        with torch.random.fork_rng(devices=[]):
            return self._measure(_Task(dataset, self), kept)

    def _measure(self, task: "_Task", kept: "_Kept") -> dict[str, Any]:
        def row(method: str, weight: float, seed: int) -> dict[str, Any]:
            return kept(f"{method} {weight:g} {seed}", lambda: task.row(method, weight, seed))

        told = [
            kept(
                f"blobs {name} {shift:g} {seed}",
                lambda case=(name, shift, self.blob_steps, seed): blobs.critic_of(*case),
            )
            for name in blobs.CRITICS
            for shift in self.shifts
            for seed in self.seeds
        ]
        search = [
            row(method, weight, self.seeds[0]) for method in self.methods for weight in self.weights
        ]
        rows = []
        for method in self.methods:
            best = min(
                (each for each in search if each["method"] == method),
                key=lambda each: each["frechet"]["validation"],
            )
            rows += [row(method, best["setting"]["weight"], seed) for seed in self.seeds]
        exposures = [
            kept(
                f"exposures {method} {weight:g} {seed}",
                lambda case=(method, weight, seed): task.exposures(*case),
            )
            for method in self.methods
            for weight in self.weights
            for seed in self.seeds
        ]
        return {
            "known": [{"shift": shift, **blobs.known(shift)} for shift in self.shifts],
            "blobs": told,
            "real": task.real(),
            "search": [{k: v for k, v in each.items() if k != "samples"} for each in search],
            "rows": rows,
            "exposures": exposures,
        }


class _Kept:
    """What was measured, a file each, so that a stopped run goes on."""

    def __init__(self, folder: Path | None):
        self.folder = folder

    def __call__(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        file = self.folder and self.folder / f"{name}.json"
        found = file and read(file)
        if found:
            return dict(found)
        found = measure()
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file, found)
        return found


class _Task:
    """The digits, their judge, and the networks of an experiment."""

    def __init__(self, dataset: Dataset, experiment: Critics):
        self.experiment, n = experiment, experiment.evaluated
        self.images, labels = _halved(dataset, "fit")
        self.judge = Judge(self.images, labels, experiment.epochs)
        self.parts = {part: _halved(dataset, part, n)[0] for part in ("validation", "test", "fit")}
        self.labels = _halved(dataset, "test", n)[1]
        self.seen = {part: self.judge(images)[0] for part, images in self.parts.items()}

    def real(self) -> dict[str, float]:
        """Of test digits: their distance to training ones, their score, the judge's error."""
        p = self.judge(self.parts["test"])[1]
        return {
            "frechet": frechet_distance(self.seen["fit"], self.seen["test"]),
            "score": class_score(p),
            "error": float((p.argmax(1) != self.labels).double().mean()),
        }

    def row(self, method: str, weight: float, seed: int) -> dict[str, Any]:
        """A network trained and measured."""
        every, history, told = max(1, self.experiment.steps // 15), [], []

        def watch(step: int, generator: nn.Module, estimate: float) -> None:
            told.append(estimate)
            if step % every == 0:
                seen = self._quality(generator)
                mean = float(np.mean(told[-every:]))
                history.append({"step": step, "estimate": mean, "frechet": seen["test"]})

        penalty, began = penalty_of(method, self.images[:1000]), time.process_time()
        found = wgan.train(self.images, penalty, weight, self.experiment.steps, seed, watch=watch)
        seconds = time.process_time() - began
        quality = self._quality(found.generator)
        test = self.parts["test"][:2000]
        generator = torch.Generator().manual_seed(0)
        return {
            "method": method,
            "setting": {"weight": weight},
            "seed": seed,
            "history": history,
            "score": quality.pop("score"),
            "frechet": quality,
            "changes": changes(found.critic, test, _graph(test), generator),
            "seconds": {"training": round(seconds, 1)},
            "samples": _bytes(_drawn(found.generator, 24)),
        }

    def exposures(self, method: str, weight: float, seed: int) -> dict[str, Any]:
        """A critic alone, trained to tell digits from double exposures, the means of two digits
        each. With what probability it values a digit of a part higher than a double exposure,
        ``right``; of test digits by how much on average, ``gap``, and its ``changes``.
        """
        torch.manual_seed(seed)
        model = wgan.critic(self.images.shape[-1])
        penalty, steps = penalty_of(method, self.images[:1000]), self.experiment.steps
        trainer = wgan.Trainer(model, penalty, weight, steps, 1e-3)
        for _ in range(steps):
            real, one, two = self.images[torch.randint(len(self.images), (3, wgan.BATCH))]
            fake = (one + two) / 2
            trainer.step(real, fake, wgan.mixture(real, fake))
        right = {}
        for part in ("validation", "test"):
            digits = self.parts[part][:2000]
            with torch.no_grad():
                real, fake = model(digits), model((digits + digits.roll(1, 0)) / 2)
            right[part] = float((real[:, None] > fake).double().mean())
        generator = torch.Generator().manual_seed(0)
        return {
            "method": method,
            "setting": {"weight": weight},
            "seed": seed,
            "right": right,
            "gap": float(real.mean() - fake.mean()),
            "changes": changes(model, digits, _graph(digits), generator),
        }

    def _quality(self, generator: nn.Module) -> dict[str, float]:
        """Of a generator: the distance of its digits to those of either part, and their score."""
        features, p = self.judge(_drawn(generator, self.experiment.evaluated))
        parts = ("validation", "test")
        distances = {part: frechet_distance(features, self.seen[part]) for part in parts}
        return {**distances, "score": class_score(p)}


@torch.no_grad()
def _drawn(generator: nn.Module, n: int) -> Tensor:
    """Images of n fixed draws, in evaluation mode."""
    training = generator.training
    draws = torch.randn(n, wgan.NOISE, generator=torch.Generator().manual_seed(1))
    images = generator.eval()(draws)
    generator.train(training)
    return images


def _halved(dataset: Dataset, part: str, n: int | None = None) -> tuple[Tensor, Tensor]:
    """Images (N, 1, H/2, W/2) in [0, 1], each pixel the mean of four, and labels."""
    images, labels = dataset.part(part, n)
    return F.avg_pool2d(images[:, None].float() / 255, 2), labels


def _bytes(images: Tensor) -> str:
    return (255 * images).round().byte().numpy().tobytes().hex()


register(
    "critic",
    quick=Critics(
        dataset="mnist5k",
        shifts=(4,),
        blob_steps=100,
        methods=("euclidean", "wasserstein, local source"),
        weights=(10.0,),
        seeds=(0,),
        steps=60,
        epochs=2,
        evaluated=400,
    ),
    full=Critics(
        dataset="mnist",
        shifts=(1, 2, 4, 6, 8),
        blob_steps=600,
        methods=tuple(METHODS),
        weights=(1.0, 10.0, 100.0),
        seeds=(0, 1, 2),
        steps=1200,
        epochs=3,
        evaluated=5000,
    ),
)

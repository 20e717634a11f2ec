"""The networks of Table 1 on naturally varied images, and on the way between images."""

from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wdtr_lite import evaluation, transport
from wdtr_lite.data import Dataset
from wdtr_lite.graph import PixelGraph
from wdtr_lite.regularizer import GradientPenalty
from wdtr_lite.study import grid
from wdtr_lite.study.questions import (
    AXES,
    Flips,
    batches,
    images_of,
    judged,
    probabilities,
    rounded,
    with_channels,
)
from wdtr_lite.study.spec import Question, register
from wdtr_lite.study.store import Store
from wdtr_lite.study.table1 import NETWORKS, Selected

__all__ = ["GradientNorms", "PathLengths", "Variation", "VariationErrors", "paths"]


@dataclass(frozen=True)
class VariationErrors(Question, name="variation_errors"):
    """How many of ``n`` images are misclassified, ``wrong``, as they are and under each of the
    natural variations of photographs; and which, ``outcomes``, as
    :func:`~wdtr_lite.study.outcomes.pack_bits` has them.

    :func:`~wdtr_lite.evaluation.variations` by up to 4 pixels and 15 degrees, the image continued
    by 8 pixels of reflection.
    """

    part: str
    images: int

    def __call__(self, model: nn.Module, dataset: Dataset) -> dict[str, Any]:
        x, y = images_of(model, dataset, self.part, self.images)
        varied = evaluation.variations(x.cpu(), 0, shift=4, degrees=15, margin=8)
        cases = {"natural": x, **{name: each.to(x) for name, each in varied.items()}}
        found = {
            name: judged(evaluation.misclassified(model, each, y)) for name, each in cases.items()
        }
        parts = ("wrong", "outcomes")
        by_part = {part: {name: each[part] for name, each in found.items()} for part in parts}
        return {"n": len(y), **by_part}


@dataclass(frozen=True)
class GradientNorms(Question, name="gradient_norms"):
    """Norms of the gradient in the image, a list of one for each image, by function and metric: of
    the ``loss`` and of the ``margin``, ``euclidean`` and ``wasserstein``, the latter of the L(x)
    that has mean diagonal 1 over each 250 images.
    """

    part: str
    images: int
    radius: int

    def __call__(self, model: nn.Module, dataset: Dataset) -> dict[str, list[float]]:
        x, y = images_of(model, dataset, self.part, self.images)
        graph = PixelGraph(x.shape[-2], x.shape[-1], self.radius).to(x.device, x.dtype)
        penalties = {
            f"{of} {name}": GradientPenalty(metric, of=of)
            for of in ("loss", "margin")
            for name, metric in (("euclidean", "euclidean"), ("wasserstein", graph))
        }
        return {
            name: rounded(
                torch.cat([penalty(model, *batch).detach().sqrt() for batch in batches(x, y)])
            )
            for name, penalty in penalties.items()
        }


@dataclass(frozen=True)
class PathLengths(Question, name="along_paths"):
    r"""How much the prediction changes on the way from an image to another, a list of one number
    for each pair.

    The length of the path of the predictions ŷ, the softmax of the logits, at steps + 1 equal
    times, in total variation:

    .. math:: \sum_k \tfrac12 \|\hat y(x_{t_{k+1}}) - \hat y(x_{t_k})\|_1

    By the pair's classes, ``within`` one or ``between`` two, and the path: ``wasserstein`` is the
    displacement interpolation of each channel, its mass changing linearly, clipped at 1;
    ``euclidean`` the straight line. Networks compare on one path; paths do not compare, since the
    parcels of a displacement are rounded to pixels, which makes its images rougher than those of a
    line.

    References
    ----------
    McCann (1997) for displacement interpolation.
    """

    part: str
    pairs: int
    steps: int

    def __call__(self, model: nn.Module, dataset: Dataset) -> dict[str, list[float]]:
        device = next(model.parameters()).device
        lengths = {}
        for name, joined in paths(dataset, self.part, self.pairs, self.steps).items():
            found = torch.stack([probabilities(model, path.to(device)) for path in joined])
            lengths[name] = rounded((found[:, 1:] - found[:, :-1]).abs().sum(2).sum(1) / 2)
        return lengths


@cache
def paths(dataset: Dataset, part: str, pairs: int, steps: int) -> dict[str, Tensor]:
    """Images on the way, (pairs, steps + 1, C, H, W), by the pair's classes and the path."""
    images, labels = dataset.part(part)
    x, times = with_channels(images).double().numpy() / 255, np.linspace(0, 1, steps + 1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).tolist()
    # A channel without light is no measure.
    order = [i for i in order if x[i].sum((1, 2)).min() > 0]
    found = {}
    for classes in ("within", "between"):
        chosen = _joined(order, labels, pairs, same=classes == "within")
        for name, path in (("wasserstein", displacements), ("euclidean", _line)):
            on_the_way = np.stack([path(x[i], x[j], times) for i, j in chosen])
            found[f"{classes} {name}"] = torch.from_numpy(on_the_way).float().clamp(0, 1)
    return found


def _joined(order: list[int], labels: Tensor, pairs: int, *, same: bool) -> list[tuple[int, int]]:
    """The first images, each with the next one in the order that is of its class, or of another."""
    found = []
    for k, i in enumerate(order[:pairs]):
        later = (j for j in order[k + 1 :] if (labels[i] == labels[j]) == same)
        found += [(i, j) for j in islice(later, 1)]
    if len(found) < pairs:
        kind = "the same class" if same else "two classes"
        raise ValueError(f"pairs must be at most the {len(found)} of {kind}, got {pairs}")
    return found


def displacements(start: np.ndarray, end: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Each channel displaced on its own, its mass changing linearly, (T, C, H, W)."""
    channels = []
    for a, b in zip(start, end, strict=True):
        plan, masses = transport.transport_plan(a, b), (1 - times) * a.sum() + times * b.sum()
        channels.append(
            [
                mass * transport.displacement_interpolation(a, b, t, plan=plan)
                for t, mass in zip(times, masses, strict=True)
            ]
        )
    return np.stack(channels, 1)


def _line(start: np.ndarray, end: np.ndarray, times: np.ndarray) -> np.ndarray:
    return np.stack([(1 - t) * start + t * end for t in times])


@dataclass(frozen=True, kw_only=True)
class Variation(Selected):
    """The networks of Table 1 on naturally varied images, their gradients, and their predictions
    along paths between images.

    Parameters
    ----------
    networks : Networks
    images : int
        How many test images are varied.
    gradients : int
        Of how many the gradient is taken.
    radius : int
        Of the graph in whose metric.
    pairs : int
        How many pairs of images are joined by paths.
    steps : int
        Of each path.
    moved, reach : int
        As in :class:`~wdtr_lite.study.table2.Table2`.

    References
    ----------
    Section 5.2 of Lin et al. (2019).
    """

    images: int
    gradients: int
    radius: int
    pairs: int
    steps: int
    moved: int
    reach: int

    def run(self, store: Store) -> dict[str, Any]:
        """``rows``, one for each network with its ``measurements``: :class:`VariationErrors`,
        :class:`GradientNorms`, :class:`PathLengths`, and two of Table 2's
        :class:`~wdtr_lite.study.questions.Flips`.
        """
        questions = {
            "variations": VariationErrors("test", self.images),
            "gradients": GradientNorms("test", self.gradients, self.radius),
            "paths": PathLengths("test", self.pairs, self.steps),
            **{
                f"{axis} edge": Flips("test", self.moved, axis, "edge", self.reach) for axis in AXES
            },
        }
        return {"rows": grid.rows(self.final(store), questions, store)}


_FEWER = {"none, fewer images": {"method": "none", **NETWORKS["cpu"].search}}

register(
    "variation",
    quick=Variation(
        networks=NETWORKS["quick"],
        images=100,
        gradients=50,
        radius=2,
        pairs=3,
        steps=4,
        moved=200,
        reach=4,
    ),
    cpu=Variation(
        networks=replace(NETWORKS["cpu"], also=_FEWER),
        images=2000,
        gradients=1000,
        radius=2,
        pairs=60,
        steps=10,
        moved=1000,
        reach=16,
    ),
    full=Variation(
        networks=NETWORKS["full"],
        images=5000,
        gradients=1000,
        radius=2,
        pairs=200,
        steps=10,
        moved=1000,
        reach=16,
    ),
)

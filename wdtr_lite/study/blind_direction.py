"""Images classified by networks whose penalty sees a gradient that brightens all pixels evenly."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from wdtr_lite.data import Dataset
from wdtr_lite.graph import PixelGraph
from wdtr_lite.regularizer import Wasserstein
from wdtr_lite.regularizer.forward import cross_entropy
from wdtr_lite.study import files, grid, robust_digits, table1
from wdtr_lite.study.questions import batches, images_of
from wdtr_lite.study.robust_digits import RobustDigits
from wdtr_lite.study.spec import Question, Setting, register
from wdtr_lite.study.store import Store
from wdtr_lite.study.tradeoff import SHORT, Tradeoff

__all__ = ["BlindDirection", "GradientShares", "Photographs"]


@dataclass(frozen=True)
class GradientShares(Question, name="gradient_shares"):
    r"""Where the loss's gradients g at images of a part lie: the sums over the images of
    :math:`\|g\|^2`, ``all``; of that of their part that is the same in all pixels, ``even``,
    :math:`n \bar g^2`; and of that on ``black`` pixels. And of :math:`g^\top L(x)\, g`, ``seen``,
    on the pixel graph of a radius, L(x) divided by its mean diagonal over the batch; and how many
    of the pixels are black, ``black_pixels``.
    """

    part: str
    images: int
    radius: int

    def __call__(self, model: nn.Module, dataset: Dataset) -> dict[str, float]:
        model, sums = deepcopy(model).double(), dict.fromkeys(("even", "all", "black", "seen"), 0.0)
        x, y = images_of(model, dataset, self.part, self.images)
        graph = PixelGraph(x.shape[-2], x.shape[-1], self.radius)
        norm = Wasserstein(graph.to(x.device, torch.float64))
        for image, label in batches(x.double(), y):
            loss = cross_entropy(model(image.requires_grad_()), label)
            g = torch.autograd.grad(loss.sum(), image)[0]
            sums["even"] += float(g[0, 0].numel() * g.mean((-2, -1)).square().sum())
            sums["all"] += float(g.square().sum())
            sums["black"] += float(g[image == 0].square().sum())
            sums["seen"] += float(norm.norm_sq(image.detach(), g).sum())
        return sums | {"black_pixels": float((x == 0).double().mean())}


@dataclass(frozen=True, kw_only=True)
class BlindDirection(RobustDigits):
    """:class:`~wdtr_lite.study.robust_digits.RobustDigits` of penalties with a source of mass and
    without, with the :class:`GradientShares` of each network's gradients.
    """

    def questions(self, part: str, names: Sequence[str]) -> dict[str, Question]:
        shares = GradientShares(part, self.evaluated, 8)
        return {**super().questions(part, names), "gradient": shares}


@dataclass(frozen=True, kw_only=True)
class Photographs(Tradeoff):
    """:class:`~wdtr_lite.study.tradeoff.Tradeoff` of penalties with a source of mass and without,
    with the :class:`GradientShares` of each network's gradients.
    """

    def run(self, store: Store) -> dict[str, Any]:
        """As in Table 1; each row has the shares as ``gradient``, and ``published`` has those of
        Table 1's published networks, by profile and method.
        """
        result, asked = super().run(store), GradientShares("test", self.attacked, 8)
        jobs = self.networks.final(result["chosen"])
        shares = grid.rows(jobs, {"gradient": asked}, store)
        for row, found in zip(result["rows"], shares, strict=True):
            row |= found.get("measurements", {})
        dataset = grid.dataset_of(*self.source)
        published = {
            profile: {
                method: asked(files.network(method, profile), dataset)
                for method in ("none", "euclidean", "wasserstein")
            }
            for profile in ("cpu", "full")
        }
        return result | {"published": published}


def _sources(
    kind: str, radius: int, strengths: Sequence[float], etas: Sequence[float], **more: str
) -> dict[str, list[Setting]]:
    """A penalty's candidates."""
    fixed = {"method": "wasserstein", "radius": radius, "source": kind, **more}
    settings: list[Setting] = [
        {**fixed, "strength": strength, "eta": eta} for strength in strengths for eta in etas
    ]
    return {f"wasserstein, {kind} source": settings}


_ETAS = (0.5, 1.0, 2.0, 4.0)
_DIGITS = replace(
    robust_digits.NETWORKS["full"],
    candidates={
        "none": [{}],
        "euclidean": [{"eta": eta} for eta in _ETAS],
        "wasserstein": [{"eta": eta, "radius": 8} for eta in _ETAS],
        **_sources("local", 8, (0.1, 1.0), _ETAS),
        **_sources("uniform", 8, (1.0, 10.0), _ETAS),
    },
    also={},
)
_DIFFERENCE = {"mode": "finite_difference"}
_PHOTOGRAPHS = replace(
    table1.NETWORKS["cpu"],
    training=SHORT,
    search={},
    candidates={
        **table1.NETWORKS["cpu"].candidates,
        **_sources("local", 8, (0.1, 1.0), (1.0,), **_DIFFERENCE),
        **_sources("uniform", 8, (1.0, 10.0), (1.0,), **_DIFFERENCE),
    },
)
_CRITERION = {"attack": ["pgd 0.1"]}

register(
    "blind_direction",
    quick=BlindDirection(
        networks=replace(
            robust_digits.NETWORKS["quick"],
            candidates={
                "none": [{}],
                "wasserstein": [{"eta": 1.0, "radius": 4}],
                **_sources("local", 4, (1.0,), (1.0,)),
            },
        ),
        criteria=_CRITERION,
        evaluated=200,
    ),
    cpu=Photographs(networks=_PHOTOGRAPHS, attacked=500),
    full=BlindDirection(networks=_DIGITS, criteria=_CRITERION, evaluated=2000),
)

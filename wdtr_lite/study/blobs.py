"""Blobs of ink whose distance to moved ones is known, and what critics tell of it."""

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from wdtr_lite import checks, metric
from wdtr_lite.graph import PixelGraph
from wdtr_lite.regularizer import GradientPenalty, Wasserstein
from wdtr_lite.study import wgan

__all__ = ["CRITICS", "Blobs", "critic_of", "known", "length", "times", "ways"]

SIDE, SPREAD, RADIUS = 24, 1.5, 1  # of the blobs' pictures, in pixels
UNIT = 0.05  # a blob's intensities
CRITICS = {
    "euclidean": ("euclidean", "fade", 10.0),
    "wasserstein, fade": ("wasserstein", "fade", 100.0),
    "wasserstein, move": ("wasserstein", "move", 100.0),
}
"""The critics of blobs: norm, the images at which it is measured, weight of the penalty."""


class Blobs(NamedTuple):
    """Blobs of ink of mass 1, given by their centres (B,) in pixels; images (B, 1, 24, 24)."""

    row: Tensor
    column: Tensor

    @classmethod
    def draw(cls, n: int, shift: float = 0.0) -> "Blobs":
        """At random in a window of 5 rows and 2 columns, then moved to the right."""
        return cls(9.5 + 5 * torch.rand(n), 7 + 2 * torch.rand(n) + shift)

    def images(self) -> Tensor:
        place = torch.arange(SIDE, dtype=self.row.dtype)
        rows, columns = (
            torch.exp(-((place - centre[:, None]) ** 2) / (2 * SPREAD**2)) for centre in self
        )
        x = rows[:, None, :, None] * columns[:, None, None]
        return x / x.sum((-2, -1), keepdim=True)

    def between(self, others: "Blobs") -> "Blobs":
        """At a random place of each straight line between two centres."""
        t = torch.rand(len(self.row))
        return Blobs(*(t * a + (1 - t) * b for a, b in zip(self, others, strict=True)))


def length(graph: PixelGraph, path: Tensor) -> float:
    """The length of a path of images (steps + 1, H, W), each step's the length of the change in the
    metric of its middle.
    """
    middle, change = (path[1:] + path[:-1]) / 2, path.diff(dim=0)
    return float(metric.tangent_norm_sq(graph, middle[:, None], change[:, None]).sqrt().sum())


def times(steps: int) -> Tensor:
    """From 0 to 1, closest at the ends, where fading is fast without bound, (steps + 1,)."""
    return (1 - torch.linspace(0, torch.pi, steps + 1, dtype=torch.float64).cos()) / 2


def ways(shift: float, steps: int = 256) -> dict[str, Tensor]:
    """Paths (steps + 1, 24, 24) in float64 from a blob to the moved one, at these :func:`times`:
    ``moving``, and ``fading`` into it.
    """
    t = times(steps)
    moving = Blobs(torch.full_like(t, 12), 8 + shift * t).images()[:, 0]
    fading = moving[0] + t[:, None, None] * (moving[-1] - moving[0])
    return {"moving": moving, "fading": fading}


def known(shift: float) -> dict[str, float]:
    """Of blobs and the same blobs moved by a shift: the distance of the two sets in the Euclidean
    metric, from 500 blobs each, and the lengths of the :func:`ways` in the Wasserstein metric.
    """
    torch.manual_seed(0)
    here, there = (Blobs.draw(500, k).images().flatten(1).double() for k in (0, shift))
    cost = torch.cdist(here, there).numpy()
    graph = wgan.unit_graph(SIDE, SIDE, RADIUS).to(torch.float64)
    return {
        "euclidean": float(cost[linear_sum_assignment(cost)].mean()),
        **{name: length(graph, path) for name, path in ways(shift).items()},
    }


def critic_of(name: str, shift: float, steps: int, seed: int) -> dict[str, Any]:
    """What a critic of :data:`CRITICS` tells of the distance of blobs and moved ones: its
    ``estimate`` from new blobs, and the mean ``norm`` of its gradient at the end.
    """
    kind, where, weight = CRITICS[name]
    torch.manual_seed(checks.seed(seed))
    graph = wgan.unit_graph(SIDE, SIDE, RADIUS)
    norm = "euclidean" if kind == "euclidean" else Wasserstein(graph, scale=None)
    model = wgan.critic(SIDE, UNIT, 128)
    trainer = wgan.Trainer(model, GradientPenalty(norm, of="logits"), weight, steps, 1e-3)
    norms = []
    for _ in range(steps):
        here, there = Blobs.draw(wgan.BATCH), Blobs.draw(wgan.BATCH, shift)
        x, y = here.images(), there.images()
        between = wgan.mixture(y, x) if where == "fade" else there.between(here).images()
        norms.append(trainer.step(y, x, between)[1])
    with torch.no_grad():
        estimate = model(Blobs.draw(2000, shift).images()).mean()
        estimate = estimate - model(Blobs.draw(2000).images()).mean()
    told = {"critic": name, "shift": shift, "seed": seed}
    return told | {"estimate": float(estimate), "norm": float(np.mean(norms[-50:]))}

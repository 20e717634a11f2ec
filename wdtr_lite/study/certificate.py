"""How far digits and photographs can be moved before their labels change: radii from gradient and
curvature, held against an attack.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wdtr_lite import evaluation, metric, noise
from wdtr_lite.attacks.wasserstein import to_box
from wdtr_lite.data import Dataset
from wdtr_lite.evaluation.certificate import Margin, radius_of
from wdtr_lite.evaluation.curvature import FLOOR
from wdtr_lite.graph import PixelGraph
from wdtr_lite.study import files, grid, robust_digits, table1
from wdtr_lite.study.questions import images_of
from wdtr_lite.study.spec import Question, Trained, register
from wdtr_lite.study.store import Store

__all__ = ["Certificate", "CertifiedRadii", "RobustRadii", "matrices"]

_BATCH = 50  # images whose second derivatives are kept at a time


@dataclass(frozen=True)
class RobustRadii(Question, name="robust_radii"):
    r"""Of the images of a part that a network classifies rightly, of so many, on the pixel graph of
    a radius, a list each:

    ``first``, ``own`` and ``frobenius``, the radii of
    :func:`~wdtr_lite.evaluation.robust_radius` with curvature 0, the image's largest, and the
    Frobenius norm of that rival's; ``attack``, the least length of an attack that succeeded, null
    where none did. Of the rival of ``own`` its ``margin`` and ``slope``, ``lowest`` and largest
    ``curvature`` and ``laplacian``; and the largest curvature met on the way to the attacked image,
    ``path``, and at random changes of the length of ``own``, ``ball``.
    """

    part: str
    images: int
    radius: int

    def __call__(self, model: nn.Module, dataset: Dataset) -> dict[str, list[float | None]]:
        generator, found = torch.Generator().manual_seed(0), {}
        for x, y in right(model, dataset, self.part, self.images):
            graph = PixelGraph(x.shape[-2], x.shape[-1], self.radius).to(x.dtype)
            for name, values in _radii(model, x, y, graph, generator).items():
                found[name] = found.get(name, []) + _told(values)
        return found


@dataclass(frozen=True)
class CertifiedRadii(Question, name="certified_radii"):
    """Of the images of :class:`RobustRadii`, for the network
    :func:`~wdtr_lite.models.small_cnn`: the radii that
    :func:`~wdtr_lite.evaluation.softplus_bounds` proves, by its ``curvature`` and by its ``slope``
    alone, ``|margin| / slope``.
    """

    part: str
    images: int
    radius: int

    def __call__(self, model: nn.Module, dataset: Dataset) -> dict[str, list[float | None]]:
        model, found = deepcopy(model).double(), {"curvature": [], "slope": []}
        layers = matrices(model)
        for x, y in right(model, dataset, self.part, self.images):
            graph = PixelGraph(x.shape[-2], x.shape[-1], self.radius).to(x.dtype)
            bounds = evaluation.softplus_bounds(layers, x, y, graph)
            radius = evaluation.robust_radius(model, x, y, graph, curvature=bounds.curvature).radius
            found["curvature"] += _told(radius)
            found["slope"] += _told(-_gaps(model(x), y).amax(1) / bounds.slope)
        return found


@dataclass(frozen=True, kw_only=True)
class Certificate(Trained):
    """The radii of digits, for networks that another experiment has chosen; and of photographs, for
    those of Table 1 that are published.

    Parameters
    ----------
    networks : Networks
        With one candidate a method.
    evaluated : int
        How many test images of digits.
    photographs : int
        And how many photographs.

    References
    ----------
    Finlay and Oberman (2019).
    """

    evaluated: int
    photographs: int

    def run(self, store: Store) -> dict[str, Any]:
        """``rows``, of each network of digits with the ``measurements`` ``radii`` and
        ``certified``; ``published``, the :class:`RobustRadii` of Table 1's networks by profile and
        method.
        """
        asked = "test", self.evaluated, 4
        questions = {"radii": RobustRadii(*asked), "certified": CertifiedRadii(*asked)}
        rows = grid.rows(self.networks.final(self.networks.firsts()), questions, store)
        return {"rows": rows, "published": self._published() if self.photographs else {}}

    def _published(self) -> dict[str, dict[str, dict]]:
        networks, asked = table1.NETWORKS["full"], RobustRadii("test", self.photographs, 4)
        dataset = grid.dataset_of(networks.dataset, networks.split)
        return {
            profile: {
                method: asked(files.network(method, profile), dataset)
                for method in networks.candidates
            }
            for profile in ("cpu", "full")
        }


def right(model: nn.Module, dataset: Dataset, part: str, images: int) -> zip:
    """The images that are classified rightly, of so many, and their labels, in small batches, on
    the CPU in the type of the model, which is put into evaluation mode.
    """
    x, y = images_of(model.eval().cpu(), dataset, part, images)
    kept = evaluation.predictions(model, x) == y
    if not kept.any():
        raise ValueError(f"model must classify an image rightly, got none of {len(y)} right")
    x = x.to(next(model.parameters()).dtype)
    return zip(x[kept].split(_BATCH), y[kept].split(_BATCH), strict=True)


def matrices(model: Any) -> list[Tensor]:
    """The affine layers of a :func:`~wdtr_lite.models.small_cnn` for 28 x 28 pixels, without their
    constants, the first with the normalisation.
    """
    first, second = (_matrix(layer, side) for layer, side in ((model.conv1, 28), (model.conv2, 14)))
    found = [first / model.normalize.std.item(), second, model.linear1.weight, model.linear2.weight]
    return [weight.detach() for weight in found]


def _matrix(layer: nn.Conv2d, side: int) -> Tensor:
    pixels = layer.in_channels * side**2
    basis = torch.eye(pixels, dtype=layer.weight.dtype).view(-1, layer.in_channels, side, side)
    return F.conv2d(basis, layer.weight, stride=layer.stride, padding=layer.padding).flatten(1).T


def _radii(
    model: nn.Module, x: Tensor, y: Tensor, graph: PixelGraph, generator: torch.Generator
) -> dict[str, Tensor]:
    first = evaluation.robust_radius(model, x, y, graph, curvature=0.0)
    own = evaluation.robust_radius(model, x, y, graph)
    attack = evaluation.smallest_attack(model, x, y, graph)
    margin = Margin(model, y, own.rival)

    def largest(points: list[Tensor]) -> Tensor:
        found = [evaluation.curvatures(margin, point, graph, at=x) for point in points]
        return torch.stack([each.highest for each in found]).amax(0)

    sums = evaluation.curvature_sums(margin, x, graph, generator=generator, samples=50)
    way = attack.images - x
    return {
        "first": first.radius,
        "own": own.radius,
        "frobenius": radius_of(own.margin, own.slope, sums.frobenius),
        "attack": attack.epsilon,
        "margin": own.margin,
        "slope": own.slope,
        "lowest": evaluation.curvatures(margin, x, graph).lowest,
        "curvature": own.curvature,
        "laplacian": sums.laplacian,
        "path": largest([x + share * way for share in (0.25, 0.5, 0.75, 1.0)]),
        "ball": largest([_moved(x, own.radius, graph, generator) for _ in range(4)]),
    }


def _gaps(logits: Tensor, y: Tensor) -> Tensor:
    """The margins of all rivals, (B, K)."""
    own = y[:, None]
    return (logits - logits.gather(1, own)).scatter(1, own, -torch.inf)


def _moved(x: Tensor, length: Tensor, graph: PixelGraph, generator: torch.Generator) -> Tensor:
    """Images moved in a random direction by a length, within [0, 1]."""
    at = x.clamp_min(FLOOR)
    xi = noise.sample(graph, at, 1.0, generator=generator)[0]
    share = length / metric.tangent_norm_sq(graph, at, xi, unit="pixel").sqrt()
    return x + to_box(x, share[:, None, None, None] * xi)


def _told(values: Tensor) -> list[float | None]:
    """Four digits of each, None of infinity."""
    return [float(f"{v:.4g}") if v < float("inf") else None for v in values.tolist()]


_DIGITS = replace(
    robust_digits.NETWORKS["full"],
    candidates={
        "none": [{}],
        "euclidean": [{"eta": 2.0}],
        "wasserstein": [{"eta": 2.0, "radius": 8}],
    },
    also={},
)
"""As the experiments ``robust_digits`` and ``blind_direction`` chose."""

register(
    "certificate",
    quick=Certificate(networks=robust_digits.NETWORKS["quick"], evaluated=10, photographs=0),
    full=Certificate(networks=_DIGITS, evaluated=100, photographs=25),
)

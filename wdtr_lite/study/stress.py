"""The networks of Table 1 under attacks that do not trust one gradient."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wdtr_lite import attacks, evaluation, training
from wdtr_lite.attacks import Attack
from wdtr_lite.data import Dataset
from wdtr_lite.study import grid
from wdtr_lite.study.outcomes import pack
from wdtr_lite.study.questions import (
    ATTACKS,
    Attacking,
    Errors,
    batches,
    fgsm,
    images_of,
    judged,
    pgd20,
    probabilities,
    rounded,
)
from wdtr_lite.study.spec import Job, Question, register
from wdtr_lite.study.store import Store
from wdtr_lite.study.table1 import NETWORKS, Selected

__all__ = ["AutoAttack", "Confidence", "Frames", "LossSurface", "Stress", "TransferErrors"]


@dataclass(frozen=True)
class TransferErrors(Question, name="transfer_errors"):
    """Like :class:`~wdtr_lite.study.questions.Errors`, of images that were attacked with another
    network, the source, which is in the store or trained there; after so many ``epochs`` of its
    training, where that is not finished.
    """

    part: str
    images: int
    attack: Attack
    source: training.Config
    epochs: int | None = None
    store: Store = field(default=Store(), compare=False)

    def __call__(self, model: nn.Module, dataset: Dataset) -> dict[str, Any]:
        x, y = images_of(model, dataset, self.part, self.images)
        other = grid.trained(self.source, self.store).model.to(x.device)
        attacked = torch.cat([self.attack(other, *batch) for batch in batches(x, y)])
        return judged(evaluation.misclassified(model, attacked, y))


@dataclass(frozen=True)
class AutoAttack(Question, name="autoattack"):
    """How many of ``n`` images are misclassified under AutoAttack's standard attacks in
    L-infinity, epsilon in units of 1/255, ``wrong`` after each of them.

    Each attack goes on with the images that those before it left. ``outcomes`` are which of them
    misled each image, the natural image 0, the first attack 1 and so on, and 255 if none did, as
    :func:`~wdtr_lite.study.outcomes.pack` has them. ``only="square"`` runs that one,
    which sees no gradient. Needs the package pyautoattack.

    References
    ----------
    Croce and Hein (2020); Andriushchenko et al. (2020) for Square.
    """

    part: str
    images: int
    epsilon: float
    only: str | None = None

    def __call__(self, model: nn.Module, dataset: Dataset) -> dict[str, Any]:
        from pyautoattack import AutoAttack

        x, y = images_of(model, dataset, self.part, self.images)
        attacker = AutoAttack(model, eps=self.epsilon / 255, seed=0, device=x.device)
        names = [self.only] if self.only else list(attacker.attacks_to_run or [])
        misled = torch.where(evaluation.misclassified(model, x, y), 0, 255)
        for k, name in enumerate(names, 1):
            left = (misled == 255).nonzero().squeeze(1)
            if len(left):
                attacker.attacks_to_run = [name]
                with _tracing():
                    _, labels = attacker.run_standard_evaluation(x[left], y[left])
                misled[left[labels != y[left]]] = k
        wrong = {name: int((misled <= k).sum()) for k, name in enumerate(["natural", *names])}
        return {"n": len(y), "wrong": wrong, "outcomes": pack(misled.cpu())}


@contextmanager
def _tracing() -> Iterator[None]:
    """What follows the calls, coverage or a debugger, is put back: pyautoattack ends it."""
    trace = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(trace)


@dataclass(frozen=True)
class Confidence(Question, name="confidence"):
    """The probability of the predicted label, on average over so many images."""

    part: str
    images: int

    def __call__(self, model: nn.Module, dataset: Dataset) -> float:
        x, _ = images_of(model, dataset, self.part, self.images)
        found = torch.cat([probabilities(model, each) for (each,) in batches(x)])
        return round(float(found.amax(1).double().mean()), 4)


@dataclass(frozen=True)
class LossSurface(Question, name="loss_surface"):
    """The ``loss`` at x + a s + b u, a list of rows for each image: s the signs of the gradient, u
    random signs.

    a (of a row) and b (of a column) are ``at``, so many points from -reach to reach in units of
    1/255; nothing is clipped.
    """

    part: str
    images: int
    reach: float
    points: int

    def __call__(self, model: nn.Module, dataset: Dataset) -> dict[str, list]:
        x, y = images_of(model, dataset, self.part, self.images)
        at = torch.linspace(-self.reach, self.reach, self.points, dtype=torch.float32)
        a, b = (
            side.reshape(-1, 1, 1, 1).to(x) / 255 for side in torch.meshgrid(at, at, indexing="ij")
        )
        generator = torch.Generator().manual_seed(0)
        surfaces = []
        for image, label in zip(x, y, strict=True):
            uphill = attacks.input_gradient(model, image[None], label[None])[0].sign()
            aside = torch.randint(2, image.shape, generator=generator).to(image) * 2 - 1
            loss = _losses(model, image + a * uphill + b * aside, label)
            surfaces.append(rounded(loss.reshape(self.points, self.points)))
        return {"at": at.tolist(), "loss": surfaces}


@torch.no_grad()
def _losses(model: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    logits = torch.cat([model(some) for some in x.split(500)])
    return F.cross_entropy(logits, label.expand(len(x)), reduction="none")


@dataclass(frozen=True)
class Frames(Question, name="frames"):
    """For each image and each epsilon in units of 1/255 the ``pixels`` after PGD-20, as
    hexadecimal bytes, and the ``probabilities``.
    """

    part: str
    images: int
    epsilons: Sequence[float]

    def __call__(self, model: nn.Module, dataset: Dataset) -> list[list[dict[str, Any]]]:
        x, y = images_of(model, dataset, self.part, self.images)
        attacked = [pgd20(epsilon)(model, x, y) if epsilon else x for epsilon in self.epsilons]
        found = [rounded(probabilities(model, each)) for each in attacked]
        return [
            [
                {"pixels": _hex(each[k]), "probabilities": shares[k]}
                for each, shares in zip(attacked, found, strict=True)
            ]
            for k in range(len(x))
        ]


def _hex(image: Tensor) -> str:
    return (image * 255).round().to(torch.uint8).cpu().numpy().tobytes().hex()


@dataclass(frozen=True, kw_only=True)
class Stress(Selected):
    """The networks of Table 1, first seed, under attacks that do not trust one gradient.

    PGD-50 with 10 restarts in L-infinity and L2, AutoAttack, Square, PGD-20 and FGSM of growing
    epsilon, the loss around images, how sure the predictions are, and examples made with each of
    the penalised networks and, with several seeds, with the plain network of the last there is.

    Parameters
    ----------
    networks : Networks
    attacked : int
        How many test images are attacked.
    autoattack : int
        How many by AutoAttack, and of these up to 250 by Square alone; 0 for none.
    epsilons : sequence of float
        Of FGSM and PGD-20, in units of 1/255.
    pictured : int
        How many images are drawn.

    References
    ----------
    Madry et al. (2018); Croce and Hein (2020); Athalye, Carlini and Wagner (2018).
    """

    attacked: int
    autoattack: int
    epsilons: Sequence[float]
    pictured: int

    def run(self, store: Store) -> dict[str, Any]:
        """``rows``, one for each network with its ``measurements``; and the ``labels`` of the
        images pictured.
        """
        if self.autoattack and find_spec("pyautoattack") is None:
            raise ValueError(
                'AutoAttack needs the package pyautoattack: pip install "wdtr-lite[attack]"'
            )
        final, seed = self.final(store), self.networks.seeds[0]
        first = [job for job in final if job.labels["seed"] == seed]
        if not store.trains:
            final = [job for job in final if grid.taken(job.config, store)]
        plain = [job for job in final if job.labels["method"] == "none"]
        if not plain:
            return {"rows": [], "labels": []}
        # Trained before several of them ask for the source at once.
        grid.rows([plain[-1], *first], {}, store)
        questions = self._attacked() | self._pictured() | self._autoattacked()
        questions |= self._transferred(first, plain[-1], store)
        _, labels = grid.dataset_of(*self.source).part("test", self.pictured)
        return {"rows": grid.rows(first, questions, store), "labels": labels.tolist()}

    def _attacked(self) -> dict[str, Question]:
        drawn = ("test", self.attacked)
        tried: dict[str, Attacking] = {name: ATTACKS[name] for name in ("PGD-50 linf", "PGD-50 l2")}
        tried |= {f"FGSM {epsilon}": fgsm(epsilon) for epsilon in self.epsilons}
        tried |= {f"PGD-20 {epsilon}": pgd20(epsilon) for epsilon in self.epsilons}
        return {
            "natural": Errors(*drawn, None),
            "confidence": Confidence(*drawn),
            **{name: Errors(*drawn, attack) for name, attack in tried.items()},
        }

    def _pictured(self) -> dict[str, Question]:
        return {
            "surface": LossSurface("test", self.pictured, reach=16, points=21),
            "frames": Frames("test", self.pictured, epsilons=(0, 2, 4, 8, 16)),
        }

    def _autoattacked(self) -> dict[str, Question]:
        if not self.autoattack:
            return {}
        fewer = min(self.autoattack, 250)  # it asks each image up to 5,000 times
        return {
            "autoattack": AutoAttack("test", self.autoattack, 8),
            "square": AutoAttack("test", fewer, 8, only="square"),
        }

    def _transferred(self, first: list[Job], plain: Job, store: Store) -> dict[str, Question]:
        penalised = [job for job in first if job.labels["method"] != "none"]
        sources = {f"transfer {job.labels['method']}": job.config for job in penalised}
        if len(self.networks.seeds) > 1:  # else the source is the network itself
            sources["transfer"] = plain.config
        return {
            name: TransferErrors(
                "test", self.attacked, pgd20(8), source, _stopped(source, store), store
            )
            for name, source in sources.items()
        }


def _stopped(source: training.Config, store: Store) -> int | None:
    run = None if store.trains else grid.taken(source, store)
    return run and grid.stopped(run)


_EPSILONS = (1, 2, 4, 8, 16, 24, 32, 64)

register(
    "stress",
    quick=Stress(networks=NETWORKS["quick"], attacked=20, autoattack=0, epsilons=(8,), pictured=1),
    cpu=Stress(
        networks=NETWORKS["cpu"], attacked=500, autoattack=250, epsilons=_EPSILONS, pictured=4
    ),
    full=Stress(
        networks=NETWORKS["full"], attacked=500, autoattack=500, epsilons=_EPSILONS, pictured=4
    ),
)

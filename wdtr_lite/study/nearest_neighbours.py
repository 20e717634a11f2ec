"""k-nearest-neighbour classification of digits in L2 and in W2."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist
from scipy.stats import mode

from wdtr_lite import checks, transport
from wdtr_lite.data import Dataset
from wdtr_lite.study import grid
from wdtr_lite.study.spec import Experiment, register
from wdtr_lite.study.statistics import summary
from wdtr_lite.study.store import AGAIN, Store, digest
from wdtr_lite.training.checkpoint import replace_file

__all__ = ["NearestNeighbours", "digits", "draw"]


@dataclass(frozen=True, kw_only=True)
class NearestNeighbours(Experiment):
    """k-nearest-neighbour classification of digits in L2 and in W2.

    The test digits and the largest training set are drawn at random from their parts of the data; a
    smaller training set is the beginning of a larger one. A vote's ties go to the smaller label.

    Parameters
    ----------
    dataset : str
    train_sizes, neighbours : sequence of int
        Every combination is measured.
    test_size : int
    seed : int
        Of the draw.
    """

    dataset: str
    train_sizes: Sequence[int]
    test_size: int
    neighbours: Sequence[int]
    seed: int

    @property
    def source(self) -> tuple[str, str | None]:
        return self.dataset, None

    def run(self, store: Store) -> dict[str, Any]:
        """``labels``, the true ones, and ``rows``: one per metric, training size and k, with the
        ``predictions`` (a string of digits), the error's ``mean``, ``standard_error`` and ``n``.
        Metrics: ``"intensities"`` (L2 of the pixels as stored), ``"euclidean"`` (L2 of the
        measures) and ``"wasserstein"`` (W2). The last are stored, 50 test digits at a time, so that
        a stopped run goes on.
        """
        dataset = grid.dataset_of(*self.source)
        generator = torch.Generator().manual_seed(checks.seed(self.seed))
        train, train_labels = draw(dataset, "train", max(self.train_sizes), generator)
        test, test_labels = draw(dataset, "test", self.test_size, generator)
        rows, columns = (images.reshape(len(images), -1) for images in (test, train))
        distances = {
            "intensities": cdist(rows, columns),
            "euclidean": cdist(_of_mass_one(rows), _of_mass_one(columns)),
            "wasserstein": _in_blocks(test, train, self._blocks(dataset, store)),
        }
        found = []
        for metric, matrix in distances.items():
            for size in self.train_sizes:
                order = matrix[:, :size].argsort(axis=1, kind="stable")
                for k in self.neighbours:
                    predictions = mode(train_labels[order[:, :k]], axis=1).mode
                    found.append({
                        "metric": metric,
                        "train_size": size,
                        "k": k,
                        "predictions": digits(predictions),
                        **summary(predictions != test_labels),
                    })  # fmt: skip
        return {"labels": digits(test_labels), "rows": found}

    def _blocks(self, dataset: Dataset, store: Store) -> Path | None:
        """A folder for distances, never another run's."""
        asked = (self.config(), repr(dataset), digest(dataset))
        key = hashlib.md5(repr(asked).encode()).hexdigest()[:8]
        return store.root and store.root.parent / f"nearest_neighbours-{key}"


def _in_blocks(test: np.ndarray, train: np.ndarray, folder: Path | None) -> np.ndarray:
    blocks = []
    for start in range(0, len(test), 50):
        file = folder / f"{start}.npz" if folder else None
        rows = test[start : start + 50]
        if file and file.exists():
            blocks.append(_read(file, (len(rows), len(train))))
            continue
        blocks.append(transport.pairwise_distances(rows, train))
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, lambda stream: np.savez(stream, distances=blocks[-1]))
            done = min(start + 50, len(test))
            print(f"distances of {done} of {len(test)} test digits", flush=True)
    return np.concatenate(blocks)


def _read(file: Path, shape: tuple[int, int]) -> np.ndarray:
    checks.regular(file)
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as held:
            found = checks.array_of(held, "distances")
    except Exception as error:  # NumPy, zipfile and zlib raise nearly anything
        raise ValueError(f"{file} is damaged: {AGAIN}") from error
    if found.shape != shape or found.dtype != np.float64:
        raise ValueError(f"{file} holds {found.dtype} {found.shape}, not float64 {shape}: {AGAIN}")
    return found


def _of_mass_one(flat: np.ndarray) -> np.ndarray:
    return flat / flat.sum(1, keepdims=True)


def draw(
    dataset: Dataset, part: str, size: int, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """So many images (N, H, W) and labels (N,) of a part."""
    images, labels = dataset.part(part)
    if images.dim() != 3:
        raise ValueError(f"dataset must be of grey images (N, H, W), got {dataset}")
    if size > len(images):
        raise ValueError(
            f"{size} images asked for, but {dataset.name} has {len(images)} in {part!r}"
        )
    chosen = torch.randperm(len(images), generator=generator)[:size]
    return images[chosen].double().numpy(), labels[chosen].numpy()


def digits(labels: np.ndarray) -> str:
    """Labels as a string, a digit each."""
    return "".join(map(str, labels))


register(
    "nearest_neighbours",
    quick=NearestNeighbours(
        dataset="mnist5k", train_sizes=(50, 100, 200), test_size=50, neighbours=(1, 3), seed=0
    ),
    full=NearestNeighbours(
        dataset="mnist",
        train_sizes=(50, 100, 200, 500, 1000),
        test_size=1000,
        neighbours=(1, 3, 5),
        seed=0,
    ),
)

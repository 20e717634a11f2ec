"""What networks take photographs for, wherever these are moved: for the reader to move."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wdtr_lite import evaluation
from wdtr_lite.data import Dataset
from wdtr_lite.study import grid
from wdtr_lite.study.questions import PADDINGS, images_of
from wdtr_lite.study.spec import Question, register
from wdtr_lite.study.store import Store
from wdtr_lite.study.table1 import NETWORKS, Selected

__all__ = ["Everywhere", "Photographs"]


@dataclass(frozen=True)
class Everywhere(Question, name="everywhere"):
    """Predicted labels of images moved down and to the right by -reach, ..., reach pixels: of each
    image (2 reach + 1)², row by row.
    """

    part: str
    images: int
    padding: str
    reach: int

    def __call__(self, model: nn.Module, dataset: Dataset) -> list[list[int]]:
        x, _ = images_of(model, dataset, self.part, self.images)
        shifts, found = range(-self.reach, self.reach + 1), []
        for lowered in evaluation.translation_sequence(x, "vertical", shifts, self.padding):
            moved = evaluation.translation_sequence(lowered, "horizontal", shifts, self.padding)
            found += [evaluation.predictions(model, each) for each in moved]
        return torch.stack(found, 1).tolist()


@dataclass(frozen=True, kw_only=True)
class Photographs(Selected):
    """The first test images, moved in both directions at once, asked of the networks of Table 1,
    first seed.

    Parameters
    ----------
    networks : Networks
    images : int
    reach : int
        By how many pixels they are moved at most.

    References
    ----------
    Figure 2 of Lin et al. (2019) moves images horizontally.
    """

    images: int
    reach: int

    def run(self, store: Store) -> dict[str, Any]:
        """``images``, each with its ``label`` and ``pixels`` as hexadecimal bytes, and ``rows``,
        one for each network, with the ``measurements`` by padding.
        """
        questions = {
            padding: Everywhere("test", self.images, padding, self.reach) for padding in PADDINGS
        }
        first = self.networks.seeds[0]
        final = [job for job in self.final(store) if job.labels["seed"] == first]
        images, labels = grid.dataset_of(*self.source).part("test", self.images)
        return {
            "images": [
                {"label": int(label), "pixels": image.numpy().tobytes().hex()}
                for image, label in zip(images, labels, strict=True)
            ],
            "rows": grid.rows(final, questions, store),
        }


register(
    "photographs",
    quick=Photographs(networks=NETWORKS["quick"], images=2, reach=2),
    full=Photographs(networks=NETWORKS["full"], images=8, reach=8),
)

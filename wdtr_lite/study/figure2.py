"""Figure 2: single images on the move."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wdtr_lite import evaluation
from wdtr_lite.data import Dataset
from wdtr_lite.study import grid
from wdtr_lite.study.questions import images_of, probabilities, rounded
from wdtr_lite.study.spec import Question, register
from wdtr_lite.study.store import Store
from wdtr_lite.study.table1 import NETWORKS, Selected

__all__ = ["Figure2", "Sequences"]


@dataclass(frozen=True)
class Sequences(Question, name="sequences"):
    """Predicted ``labels`` and their ``confidences`` of images moved by -reach, ..., reach pixels,
    a list for each image.
    """

    part: str
    images: int
    axis: str
    padding: str
    reach: int

    def __call__(self, model: nn.Module, dataset: Dataset) -> dict[str, list]:
        x, _ = images_of(model, dataset, self.part, self.images)
        shifts = range(-self.reach, self.reach + 1)
        moved = evaluation.translation_sequence(x, self.axis, shifts, self.padding)
        confidences, labels = torch.stack([probabilities(model, each) for each in moved], 1).max(2)
        return {"labels": labels.tolist(), "confidences": rounded(confidences)}


@dataclass(frozen=True, kw_only=True)
class Figure2(Selected):
    """Single images moved horizontally, and what the networks of Table 1, first seed, take them
    for: the paper's Figure 2.

    Shown are the first test images, of those drawn, that all the networks classify rightly where
    they are.

    Parameters
    ----------
    networks : Networks
    images : int
        How many are shown.
    drawn : int
        From how many.
    padding : str
    reach : int
        By how many pixels they are moved at most.

    References
    ----------
    Section 5.2 of Lin et al. (2019).
    """

    images: int
    drawn: int
    padding: str
    reach: int

    def run(self, store: Store) -> dict[str, Any]:
        """``images``, each with its ``label`` and ``pixels`` as hexadecimal bytes, and ``rows``,
        one for each network, with the ``labels`` and ``confidences`` of each image at each shift.
        """
        question = Sequences("test", self.drawn, "horizontal", self.padding, self.reach)
        seed = self.networks.seeds[0]
        final = [job for job in self.final(store) if job.labels["seed"] == seed]
        rows = grid.rows(final, {"sequences": question}, store)
        rows = [row for row in rows if "measurements" in row]
        measured = [row["measurements"]["sequences"] for row in rows]
        images, labels = grid.dataset_of(*self.source).part("test", self.drawn)
        right = [
            k
            for k, label in enumerate(labels.tolist())
            if all(each["labels"][k][self.reach] == label for each in measured)
        ][: self.images]
        return {
            "images": [
                {"label": int(labels[k]), "pixels": images[k].numpy().tobytes().hex()}
                for k in right
            ],
            "rows": [
                {
                    **{name: row[name] for name in ("method", "setting", "seed")},
                    **{name: [found[k] for k in right] for name, found in each.items()},
                }
                for row, each in zip(rows, measured, strict=True)
            ],
        }


register(
    "figure2",
    quick=Figure2(networks=NETWORKS["quick"], images=2, drawn=20, padding="zeros", reach=4),
    cpu=Figure2(networks=NETWORKS["cpu"], images=4, drawn=100, padding="zeros", reach=12),
    full=Figure2(networks=NETWORKS["full"], images=4, drawn=100, padding="zeros", reach=12),
)

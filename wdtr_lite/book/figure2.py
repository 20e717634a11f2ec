"""What chapter 10 shows of single images on the move: Figure 2."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from wdtr_lite import evaluation
from wdtr_lite.book.reports import CLASSES, photo, short

__all__ = ["draw", "images"]

_SIZE = 9


def images(report: Mapping) -> Tensor:
    """The images that are moved, (N, 3, 32, 32), uint8."""
    images = report["result"]["images"]
    return torch.from_numpy(np.stack([photo(image["pixels"]) for image in images]))


def draw(report: Mapping) -> None:
    """Draw moved images, each over the answers of the networks at each shift."""
    reach, rows = report["config"]["reach"], report["result"]["rows"]
    figure = plt.figure(figsize=(4.6, 4.7))
    panels = figure.subfigures(4, 1, squeeze=False, hspace=0.02, height_ratios=(1.12, 1, 1, 1)).flat
    for k, (panel, x) in enumerate(zip(panels, images(report), strict=True)):
        shifts = range(-reach, reach + 1, 4)
        grid = panel.add_gridspec(4, len(shifts), height_ratios=(2.5, 1, 1, 1))
        places = [panel.add_subplot(grid[0, column]) for column in range(len(shifts))]
        _draw_copies(places, x, shifts, named=k == 0)
        right = report["result"]["images"][k]["label"]
        for place, row in enumerate(rows, 1):
            axes = panel.add_subplot(grid[place, :])
            _draw_answers(axes, row["labels"][k], right)
            name = short(row["method"])
            axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=_SIZE)


def _draw_copies(panels: Sequence[Axes], x: Tensor, shifts: Sequence[int], *, named: bool) -> None:
    """Named: each with its shift above it."""
    copies = evaluation.translation_sequence(x[None].double() / 255, "horizontal", shifts, "zeros")
    for axes, shift, copy in zip(panels, shifts, copies, strict=True):
        axes.imshow(copy[0].permute(1, 2, 0).numpy())
        if named:
            axes.set_title(f"{shift:+d}" if shift else "0", fontsize=_SIZE)
        axes.axis("off")


def _draw_answers(axes: Axes, labels: Sequence[int], right: int) -> None:
    """A bar for each run of equal labels, with the name of the class."""
    reach = len(labels) // 2
    ends = [k for k in range(1, len(labels)) if labels[k] != labels[k - 1]]
    for start, end in zip([0, *ends], [*ends, len(labels)], strict=True):
        ok = labels[start] == right
        axes.barh(
            0,
            end - start,
            left=start - reach - 0.5,
            color="#9CCBEA" if ok else "#F2B98A",
            edgecolor="black",
            hatch=None if ok else "///",
            linewidth=0.6,
            clip_on=False,
        )
        if end - start > 2:
            _write(axes, (start + end - 1) / 2 - reach, CLASSES[labels[start]])
    axes.set(xlim=(-reach - 2, reach + 2), yticks=[], xticks=[])
    axes.spines[:].set_visible(False)


def _write(axes: Axes, x: float, text: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    axes.text(x, 0, text, fontsize=_SIZE, ha="center", va="center", clip_on=True, bbox=box)

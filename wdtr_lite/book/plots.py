"""Images, plans and curves, drawn alike in every chapter."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wdtr_lite.transport import TransportPlan
from wdtr_lite.transport.measures import Image

__all__ = [
    "COLORS",
    "MARKERS",
    "color_of",
    "dots",
    "error_bars",
    "image_grid",
    "name_dots",
    "name_rows",
    "seed_dots",
    "show_attack",
    "show_change",
    "show_image",
    "show_plan",
    "style",
]

COLORS = {
    "euclidean": "#D55E00",
    "wasserstein": "#0072B2",
    "intensities": "#6F6F6F",
    "sinkhorn": "#007A5A",
}
"""One colour per metric in every figure, distinct to colour-blind readers and in grey (after Okabe
and Ito, 2008).
"""

RED, BLUE, GREY, GREEN = COLORS.values()

MARKERS = {
    "euclidean": "s",
    "wasserstein": "o",
    "intensities": "^",
    "sinkhorn": "D",
    "none": "*",
    "wasserstein, exact": "D",
    "gaussian_noise": "^",
    "jacobian": "v",
    "fgsm": "P",
    "pgd": "X",
    "trades": "d",
}
"""One marker per metric or method of training in every figure."""

_NAMES = {
    "euclidean": "L2",
    "wasserstein": "W2",
    "intensities": "L2 of intensities",
    "sinkhorn": "Sinkhorn",
}


def color_of(method: str) -> str:
    """The colour of a method of training: that of its metric, else black."""
    return COLORS.get(method.partition(",")[0], "black")


def style() -> None:
    """Set the book's defaults: readable fonts, thin frames, no colour map surprises."""
    plt.rcParams.update({
        "figure.dpi": 120,
        "figure.constrained_layout.use": True,
        "font.size": 11,
        "axes.titlesize": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=list(COLORS.values())),
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "image.cmap": "gray_r",
    })  # fmt: skip


def show_image(axes: Axes, image: Image, title: str = "", *, vmax: float | None = None) -> None:
    """Draw one image (H, W), white at 0 and black at `vmax` (by default its largest pixel), with a
    frame.
    """
    axes.imshow(image, vmin=0, vmax=vmax, interpolation="nearest")
    _frame(axes, title)


def show_change(axes: Axes, change: Image, title: str = "", *, vmax: float | None = None) -> None:
    """Draw a signed image (H, W), white at 0, red at `vmax` (by default its largest absolute
    pixel), blue at -`vmax`.
    """
    vmax = float(abs(change).max()) if vmax is None else vmax
    axes.imshow(change, cmap="RdBu_r", vmin=-vmax, vmax=vmax)
    _frame(axes, title)


def show_attack(x: Image, found: Image, *, vmax: float | None = None) -> Figure:
    """Draw a picture (H, W), the attacked one, and what was changed; `vmax` as in
    :func:`show_image`.
    """
    figure, axes = plt.subplots(1, 3, figsize=(4.6, 1.8))
    show_image(axes[0], x, "picture", vmax=vmax)
    show_image(axes[1], found, "attacked", vmax=vmax)
    show_change(axes[2], found - x, "change")
    return figure


def _frame(axes: Axes, title: str) -> None:
    axes.set(xticks=[], yticks=[], title=title)
    axes.spines[:].set_visible(True)
    axes.spines[:].set(color="#9A9A9A", linewidth=0.8)


def image_grid(
    images: Sequence[Sequence[Image]],
    *,
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    size: float = 1.05,
) -> Figure:
    """Draw rows of images with one title per column and one label per row.

    Parameters
    ----------
    images : rows of images (H, W)
        Each image is drawn from white at 0 to black at its own largest pixel.
    columns, rows : sequence of str
        Titles and labels.
    size : float
        Width of an image, in inches.

    Returns
    -------
    Figure
    """
    height, width = len(images), len(images[0])
    figure, grid = plt.subplots(
        height, width, squeeze=False, figsize=(size * width + 0.5, size * height + 0.35)
    )
    for row, row_of_axes in enumerate(grid):
        for column, axes in enumerate(row_of_axes):
            show_image(axes, images[row][column], columns[column] if columns and row == 0 else "")
        if rows:
            row_of_axes[0].set_ylabel(rows[row])
    return figure


def show_plan(axes: Axes, shape: tuple[int, int], plan: TransportPlan, *, moves: int = 200) -> None:
    """Draw the heaviest moves of a plan as arrows from source to target, darker where more mass
    moves.

    Parameters
    ----------
    axes : Axes
    shape : (H, W)
        The grid of the plan's images.
    plan : TransportPlan
    moves : int
        Largest number of arrows.
    """
    heaviest = plan.mass.argsort(kind="stable")[::-1][:moves]
    (y0, x0), (y1, x1) = (np.divmod(end[heaviest], shape[1]) for end in (plan.source, plan.target))
    alpha = 0.15 + 0.85 * plan.mass[heaviest] / plan.mass.max()
    axes.quiver(
        x0, y0, x1 - x0, y1 - y0, alpha=alpha,
        angles="xy", scale_units="xy", scale=1, width=0.006, color=COLORS["wasserstein"],
    )  # fmt: skip


def error_bars(
    axes: Axes,
    x: Sequence[float],
    mean: Sequence[float],
    error: Sequence[float],
    metric: str,
    **options,
) -> None:
    """Draw a curve with error bars in the colour, marker and name of its metric, a key of
    :data:`COLORS`.
    """
    options = {
        "color": COLORS[metric],
        "marker": MARKERS[metric],
        "label": _NAMES[metric],
        "capsize": 3,
    } | options
    axes.errorbar(x, mean, error, **options)


def dots(
    axes: Axes,
    found: Mapping[str, Mapping[str, tuple[float, float]]],
    paper: Mapping[str, Mapping[str, float]],
    methods: Sequence[str],
) -> None:
    """Draw means with their errors, a row a condition, a mark a method, and the paper's numbers as
    open marks of the same shape.

    Parameters
    ----------
    axes : Axes
    found : mapping of condition -> method -> (mean, error)
    paper : mapping of condition -> method -> value
    methods : sequence of str
    """
    rows = np.arange(len(found))[::-1]
    for k, method in enumerate(methods):
        places = rows + 0.24 - 0.24 * k
        means, errors = zip(*(each[method] for each in found.values()), strict=True)
        look: Any = {"color": color_of(method), "marker": MARKERS[method], "linestyle": "none"}
        axes.errorbar(means, places, xerr=errors, markersize=6, linewidth=1.2, **look)
        told = [paper[condition][method] for condition in found]
        axes.plot(told, places, markersize=7, markerfacecolor="none", **look)
    axes.set_yticks(rows, list(found))
    axes.set(ylim=(-0.6, len(found) - 0.3))


def seed_dots(
    axes: Axes,
    found: Mapping[str, Sequence[float] | np.ndarray],
    looks: Mapping[str, tuple[str, str, str]],
    form: str = ".1f",
) -> None:
    """Draw what was measured of each network, a row a method, the first on top, and over it the
    mean.

    Parameters
    ----------
    axes : Axes
    found : mapping of method -> values
    looks : mapping of method -> colour, marker, colour of its face
    form : str
        How the mean is written.
    """
    for place, (method, values) in enumerate(reversed(list(found.items()))):
        tint, marker, face = looks[method]
        axes.plot(values, [place] * len(values), marker, color=tint, markersize=4,
                  markerfacecolor=face, alpha=0.6)  # fmt: skip
        axes.text(min(values), place + 0.22, format(np.mean(values), form), fontsize=9.5)
    axes.tick_params(labelsize=9.5)
    axes.set(xlim=(0, None), ylim=(-0.5, len(found) - 0.3))
    axes.margins(x=0.12)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Write the names of the rows of :func:`seed_dots`, the first on top."""
    axes.set_yticks(range(len(names)), names[::-1], fontsize=9.5)


def name_dots(axes: Axes, names: Mapping[str, str], row: int = -1) -> None:
    """Write what the marks of :func:`dots` stand for beside those of one row."""
    for line, (method, name) in zip(axes.lines[::2], names.items(), strict=True):
        x, y = (np.asarray(values)[row] for values in line.get_data())
        axes.annotate(
            name, (x, y), (8, 0), textcoords="offset points",
            color=color_of(method), fontsize=9, va="center",
        )  # fmt: skip

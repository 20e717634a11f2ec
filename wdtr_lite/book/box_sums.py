"""A window that slides over a digit, and what its sum costs: chapter 7."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from wdtr_lite.book import plots, widgets
from wdtr_lite.book.plots import BLUE, GREY, RED

__all__ = ["additions", "draw_window", "slide", "window_sum"]


def additions(radius: int) -> tuple[int, int]:
    """How many additions a pixel's window takes: pixel by pixel, and by running sums along both
    axes, of which each takes one to go on and one subtraction.
    """
    return (2 * radius + 1) ** 2 - 1, 4


def window_sum(image: np.ndarray, radius: int, row: int, column: int) -> float:
    """The sum of the pixels at most `radius` rows and columns away."""
    top, left = max(row - radius, 0), max(column - radius, 0)
    return float(image[top : row + radius + 1, left : column + radius + 1].sum())


def draw_window(image: np.ndarray, radius: int, row: int, column: int) -> Figure:
    """Draw a window of an image, its sums down each column, and their running sum: two of its
    values tell the window's sum.
    """
    figure = plt.figure(figsize=(4.2, 3.9))
    grid = figure.add_gridspec(3, 2, height_ratios=(1.5, 1, 1.3), width_ratios=(1, 1.05))
    picture, words = (figure.add_subplot(grid[0, k]) for k in range(2))
    columns, running = (figure.add_subplot(grid[k, :]) for k in (1, 2))
    _picture(picture, image, radius, row, column)
    _words(words, radius)
    sums = image[max(row - radius, 0) : row + radius + 1].sum(0)
    _columns(columns, sums, radius, column)
    _running(running, sums, radius, column)
    for axes in (columns, running):
        axes.tick_params(labelsize=9.5)
        axes.set_xlim(-1, len(sums))
    return figure


def _picture(axes: Axes, image: np.ndarray, radius: int, row: int, column: int) -> None:
    plots.show_image(axes, image)
    corner, size = (column - radius - 0.5, row - radius - 0.5), 2 * radius + 1
    for left, width, color, hatch in (
        (corner[0], size, GREY, None),
        (corner[0], 1, RED, "////"),
        (corner[0] + size, 1, BLUE, "\\\\\\\\"),
    ):
        box = Rectangle((left, corner[1]), width, size, fill=False, ec=color, lw=1.6, hatch=hatch)
        axes.add_patch(box)
    axes.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))


def _words(axes: Axes, radius: int) -> None:
    one_by_one, by_running = additions(radius)
    axes.axis("off")
    for y, text, color, size in (
        (0.95, f"window {2 * radius + 1} × {2 * radius + 1}", "black", 10),
        (0.8, "to go one to the right:", "black", 10),
        (0.65, "  this column leaves", RED, 10),
        (0.5, "  this column enters", BLUE, 10),
        (0.28, f"pixel by pixel: {one_by_one}", "black", 10),
        (0.13, f"by running sums: {by_running}", "black", 10),
        (-0.02, "additions a pixel", "black", 10),
    ):
        axes.text(0, y, text, color=color, fontsize=size, va="center", transform=axes.transAxes)


def _columns(axes: Axes, sums: np.ndarray, radius: int, column: int) -> None:
    place = np.arange(len(sums))
    inside = abs(place - column) <= radius
    axes.bar(place, sums, color=np.where(inside, "#4d4d4d", "#c9c9c9"), width=0.8)
    for k, color in ((column - radius, RED), (column + radius + 1, BLUE)):
        if 0 <= k < len(sums):
            axes.bar(k, sums[k], color=color, width=0.8)
            axes.plot(k, -0.35, "^", color=color, markersize=5, clip_on=False)
    axes.set(xticks=[], ylim=(0, max(sums.max(), 1) * 1.15))
    axes.set_title("the window's rows, summed down each column", fontsize=10, loc="left")


def _running(axes: Axes, sums: np.ndarray, radius: int, column: int) -> None:
    total = np.concatenate([[0], sums.cumsum()])  # up to and with column k - 1
    place = np.arange(-1, len(sums))
    axes.step(place, total, where="mid", color="black", linewidth=1.2)
    first, last = max(column - radius - 1, -1), min(column + radius, len(sums) - 1)
    low, high = total[first + 1], total[last + 1]
    for k, value in ((first, low), (last, high)):
        axes.plot(k, value, "o", color=GREY, markersize=6, zorder=3)
    axes.plot((first, last), (low, low), ":", color=GREY, linewidth=1.2)
    axes.annotate(
        "", (last, high), (last, low), arrowprops={"arrowstyle": "<->", "color": GREY, "lw": 1.5}
    )
    axes.set_ylim(-0.06 * total[-1], 1.12 * total[-1])
    axes.set_xlabel("column", fontsize=10)
    axes.set_title(
        f"their running sum: two of its values differ by {high - low:.1f}",
        fontsize=10, loc="left",
    )  # fmt: skip


def slide(image: np.ndarray, row: int = 14) -> None:
    """Let the reader choose the window's radius and its column."""
    widgets.explore(
        lambda radius, column: draw_window(image, radius, row, column),
        {"radius": [1, 2, 4, 8], "column": [6, 10, 14, 18, 22]},
        start={"radius": 4, "column": 14},
        question="Make the window larger, and move it. How many values of the running sum are "
        "read, and on what does that number depend?",
        describe=lambda radius, column: (
            f"A window of {2 * radius + 1} by {2 * radius + 1} pixels at column {column} of a "
            f"handwritten 4. It holds {window_sum(image, radius, row, column):.1f}: the difference "
            "of two values of the running sum."
        ),
    )

"""The drawing of chapter 3: pixel graphs, their edges as thick as their ink, and the matrices."""

import io

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import SVG
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, as_tensor, tensor

from wdtr_lite import PixelGraph, data, metric, transport
from wdtr_lite.book import plots

__all__ = ["pixel_graph"]

_BLUE, _ORANGE = plots.COLORS["wasserstein"], plots.COLORS["euclidean"]


def pixel_graph() -> SVG:
    """Draw two pixel graphs, edges as thick as their ink, beside the matrix L(x) of each."""
    graph, x = PixelGraph(1, 3, radius=1).double(), tensor([[0.5, 0.5, 0.0]]).double()
    figure, axes = plt.subplots(2, 2, figsize=(5.4, 4), height_ratios=(1, 1.25))
    _draw_line(axes[0, 0], graph, x)
    _draw_matrix(axes[0, 1], metric.laplacian(graph, x), numbers=True)
    axes[0, 1].set_title("L(x) of the three")
    image = as_tensor(transport.as_measure(data.load("mnist5k").images[2000].double()))
    patch = image[11:17, 10:16]
    _draw_patch(axes[1, 0], patch)
    patch_graph = PixelGraph(*patch.shape, radius=1).double()
    _draw_matrix(axes[1, 1], metric.laplacian(patch_graph, patch), numbers=False)
    axes[1, 1].set_title("L(x) of the 36, zeros blank")
    return _svg(figure)


def _draw_line(axes: Axes, graph: PixelGraph, x: Tensor) -> None:
    """Three pixels, their ink, their volumes and densities, and the two edges."""
    density = (x / graph.volume)[0]
    for i in range(3):
        axes.add_patch(_pixel(i * 1.6, 0, 0.8, float(x[0, i])))
        color = "white" if x[0, i] > 0.3 else "black"
        axes.text(i * 1.6, 0, f"{x[0, i]:g}", ha="center", va="center", color=color)
        axes.text(i * 1.6, -0.75, f"{graph.volume[0, i]:g}", ha="center", va="center")
        axes.text(i * 1.6, -1.2, f"{density[i]:g}", ha="center", va="center")
    for row, name in ((0, "ink x"), (-0.75, "volume d"), (-1.2, "x / d")):
        axes.text(-0.65, row, name, ha="right", va="center")
    for i in range(2):
        ink = float(density[i] + density[i + 1]) / 2
        axes.plot([i * 1.6 + 0.42, i * 1.6 + 1.18], [0, 0], color=_BLUE, linewidth=6 * ink)
        axes.text(i * 1.6 + 0.8, 0.45, f"{ink:g}", ha="center", color=_BLUE)
    axes.text(1.6, 0.95, "ink on the edge", ha="center", color=_BLUE)
    axes.set(xlim=(-2.4, 3.7), ylim=(-1.5, 1.3), aspect="equal")
    axes.set_axis_off()


def _pixel(x: float, y: float, side: float, ink: float) -> Rectangle:
    grey = str(1 - min(1.0, 1.4 * ink))
    return Rectangle((x - side / 2, y - side / 2), side, side, facecolor=grey, edgecolor="#6F6F6F")


def _draw_patch(axes: Axes, patch: Tensor) -> None:
    """The pixels of a picture, each edge as thick as the mean ink of its two ends."""
    height, width = patch.shape
    top = float(patch.max())
    for i, j in np.ndindex(height, width):
        for k, m in ((i, j + 1), (i + 1, j - 1), (i + 1, j), (i + 1, j + 1)):
            if k < height and 0 <= m < width:
                ink = float(patch[i, j] + patch[k, m]) / (2 * top)
                axes.plot([j, m], [-i, -k], color=_BLUE, linewidth=4 * ink, zorder=1)
        axes.add_patch(_pixel(j, -i, 0.42, float(patch[i, j]) / top))
    axes.set_title("36 pixels of a 4, r = 1")
    axes.set(xlim=(-0.5, width - 0.5), ylim=(0.5 - height, 0.5), aspect="equal")
    axes.set_axis_off()


def _draw_matrix(axes: Axes, matrix: Tensor, *, numbers: bool) -> None:
    """The entries of a matrix, orange where positive, blue where negative, paler where smaller."""
    n, top = len(matrix), float(matrix.abs().max())
    for i, j in np.ndindex(n, n):
        entry = float(matrix[i, j])
        if entry != 0:
            color, alpha = (_ORANGE, _BLUE)[entry < 0], 0.15 + 0.6 * abs(entry) / top
            cell = (j, n - 1 - i), 1, 1
            axes.add_patch(Rectangle(*cell, facecolor=color, alpha=alpha, linewidth=0))
        if numbers:
            text = f"{entry:g}".replace("-", "−")
            axes.text(j + 0.5, n - 0.5 - i, text, ha="center", va="center")
    axes.set(xlim=(0, n), ylim=(0, n), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_visible(True)
    axes.spines[:].set(color="#9A9A9A", linewidth=0.8)


def _svg(figure: Figure) -> SVG:
    """The figure as a drawing, the same bytes each time."""
    file = io.StringIO()
    with plt.rc_context({"svg.hashsalt": "wdtr"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return SVG(file.getvalue())

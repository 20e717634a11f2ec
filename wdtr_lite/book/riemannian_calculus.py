"""What chapter 5 draws: the triangle of three-pixel images, a flow of the entropy beside heat, and
what the paper's Laplace-Beltrami operator lacks.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from wdtr_lite import PixelGraph, calculus, metric
from wdtr_lite.book import plots

__all__ = [
    "LENGTHS",
    "STARTS",
    "circle",
    "describe_circle",
    "draw_circle",
    "logarithmic_mean",
    "misplaced",
    "on_paper",
    "opening",
    "show_divergence",
    "show_entropy",
    "show_log_volume",
    "show_missing",
    "show_trace",
]

LINE = PixelGraph(1, 3, radius=1).to(dtype=torch.float64)

STARTS = {
    "even": (1 / 3, 1 / 3, 1 / 3),
    "most ink on pixel 1": (0.75, 0.15, 0.10),
    "most ink on pixel 2": (0.10, 0.80, 0.10),
    "most ink on pixel 3": (0.10, 0.15, 0.75),
}
"""Where the geodesics of the chapter start."""

LENGTHS = (0.02, 0.04, 0.08)
"""How far they go."""


# ---------------------------------------------------------------- the triangle


def on_paper(path: Tensor) -> tuple[Tensor, Tensor]:
    """Masses (..., 3) as points of an equilateral triangle, pixel 2 on top."""
    return path[..., 2] + path[..., 1] / 2, path[..., 1] * (3**0.5 / 2)


def circle(x: Tensor, length: float, directions: int = 72) -> Tensor:
    """Geodesics of one length from x (1, 3) in all directions, (steps + 1, directions + 1, 3)."""
    values, vectors = torch.linalg.eigh(metric.laplacian(LINE, x))
    angle = torch.linspace(0, 2 * torch.pi, directions + 1, dtype=x.dtype)
    all_round = torch.stack([angle.cos(), angle.sin()])
    sigma = (vectors[:, 1:] * values[1:].sqrt()) @ all_round * length
    start = x.expand(directions + 1, 1, 3).contiguous()
    return calculus.geodesic(LINE, start, sigma.T[:, None].contiguous())[:, :, 0]


def _start(name: str) -> Tensor:
    return torch.tensor([STARTS[name]], dtype=torch.float64)


def _triangle(ax: Axes) -> None:
    corners = torch.eye(3, dtype=torch.float64)
    ax.plot(*on_paper(corners[[0, 1, 2, 0]]), color="black", linewidth=1)
    for k, (place, apart) in enumerate((("top", -0.02), ("bottom", 0.02), ("top", -0.02))):
        column, height = (float(z) for z in on_paper(corners[k]))
        ax.text(column, height + apart, f"pixel {k + 1}", ha="center", va=place)
    ax.set_aspect("equal")
    ax.set_axis_off()


def _family(ax: Axes, path: Tensor) -> None:
    """Some geodesics of a circle, and where all end."""
    for k in range(0, 72, 6):
        ax.plot(*on_paper(path[:, k]), color="grey", linewidth=0.6)
    ax.plot(*on_paper(path[-1]), color=plots.COLORS["wasserstein"])
    ax.plot(*on_paper(path[0, 0]), "k.")


def opening() -> None:
    """Draw geodesic circles of two lengths around four pictures of three pixels."""
    plots.style()
    _, ax = plt.subplots(figsize=(4.0, 3.0))
    _triangle(ax)
    for name in STARTS:
        for length in LENGTHS[1:]:
            _family(ax, circle(_start(name), length))


def draw_circle(start: str, length: float) -> Figure:
    """One geodesic circle, and some of the geodesics that reach it."""
    figure, ax = plt.subplots(figsize=(3.4, 2.7))
    _triangle(ax)
    _family(ax, circle(_start(start), length))
    return figure


def describe_circle(start: str, length: float) -> str:
    """How much ink each pixel gains at most on the circle."""
    x = _start(start)
    gains = 100 * (circle(x, length)[-1] - x).amax(0)
    texts = [f"pixel {k + 1} by {float(gain):.1f} %" for k, gain in enumerate(gains)]
    return (
        f"Straight ahead for a length of {length}, from {start}. "
        f"At most a picture gains, of all ink: {', '.join(texts)}."
    )


def show_log_volume(steps: int = 90) -> None:
    """Draw the log volume over the triangle."""
    inside = torch.tensor(
        [
            (i + 1 / 3, j + 1 / 3, steps - i - j - 2 / 3)
            for i in range(steps)
            for j in range(steps - i)
        ],
        dtype=torch.float64,
    )
    inside = inside / steps
    values = calculus.log_volume(LINE, inside.view(-1, 1, 1, 3))
    figure, ax = plt.subplots(figsize=(4.6, 3.4))
    _triangle(ax)
    column, height = (k.numpy() for k in on_paper(inside))
    shown = ax.tripcolor(column, height, values.numpy(), shading="gouraud", cmap="viridis")
    figure.colorbar(shown, label="log volume")


# ---------------------------------------------------------------- the flow of the entropy


def logarithmic_mean(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(u - v) / (log u - log v), and u where both are equal."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (u - v) / (np.log(u) - np.log(v))
    return np.where(np.isclose(u, v, rtol=1e-9), (u + v) / 2, mean)


def misplaced(flow: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """At each time, the share of the mass (%) that is elsewhere than in the heat equation."""
    return 50 * np.abs(flow - heat).sum(-1)


def show_entropy(times: np.ndarray, heat: np.ndarray, flows: Mapping[str, np.ndarray]) -> None:
    """Draw the flows at three times beside the heat equation, and the misplaced mass."""
    _, (left, right) = plt.subplots(1, 2, figsize=(5.4, 2.4), width_ratios=[1.3, 1])
    colors = [plots.COLORS[name] for name in ("wasserstein", "euclidean", "sinkhorn")]
    places = (4.4, 0.5), (6.4, 0.2), (9.5, 0.07)
    for k, color, place in zip((4, 20, 100), colors, places, strict=True):
        left.plot(heat[k], color=color)
        left.plot(flows["logarithmic"][k], "x", color=color)
        left.plot(flows["arithmetic"][k], ".", color=color)
        side = "right" if k == 4 else "left"
        left.text(*place, f"t = {times[k]:.2f}", color=color, ha=side)
    arrow = {"arrowstyle": "-", "linewidth": 0.7}
    for text, values, height in (
        ("× logarithmic,\n— heat", heat[4], 0.62),
        ("• arithmetic", flows["arithmetic"][4], 0.42),
    ):
        left.annotate(text, (5.1, values[5]), (7.5, height), arrowprops=arrow, va="center")
    left.set(xlabel="pixel", ylabel="mass", ylim=(0, heat[4].max() + 0.12))
    for name, line, place in (("logarithmic", "--", (0.03, 0.3)), ("arithmetic", "-", (0.14, 2.5))):
        values = misplaced(flows[name], heat)
        right.plot(times, values, line, color=plots.COLORS["wasserstein"])
        right.text(*place, name)
    right.set(xlabel="time t", ylabel="misplaced mass (%)", ylim=(-0.2, None))


# ---------------------------------------------------------------- the Laplace-Beltrami operator


def show_missing(errors: Mapping[str, tuple[float, bool]]) -> None:
    """Draw the error of the printed operator (%), a row a graph, and where all degrees are
    equal.
    """
    _, ax = plt.subplots(figsize=(5.2, 2.0))
    for place, (error, even) in enumerate(errors.values()):
        color = plots.COLORS["wasserstein" if even else "euclidean"]
        ax.plot(error, place, "o" if even else "s", color=color, clip_on=False)
        text = f"{error:.1f} %" + ", degrees are equal" * even
        ax.text(error + 0.3, place, text, color=color, va="center")
    ax.set(xlim=(0, 12), xlabel="error of the operator as printed (%)")
    ax.set_yticks(range(len(errors)), list(errors))
    ax.invert_yaxis()


def show_divergence(radii: Sequence[int] = (1, 4, 8)) -> None:
    """Draw the missing drift on a grid of 28 × 28 pixels, by radius."""
    figure, axes = plt.subplots(1, len(radii), figsize=(5.4, 1.6))
    for ax, radius in zip(axes, radii, strict=True):
        grid = PixelGraph(28, 28, radius)
        relative = 2 * calculus.laplacian_divergence(grid) / grid.degree.sum()
        shown = ax.imshow(relative.numpy(), cmap="RdBu_r", vmin=-0.6, vmax=0.6)
        ax.set(title=f"r = {radius}", xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes, label="2 (∇·L) / Z")


def show_trace(samples: Mapping[int, tuple[float, float]], exact: float) -> None:
    """Draw sampled traces with their errors beside the exact one."""
    _, ax = plt.subplots(figsize=(5.2, 1.5))
    for place, (value, error) in enumerate(samples.values()):
        ax.errorbar(value, place, xerr=error, fmt="o", color=plots.COLORS["wasserstein"], capsize=3)
    ax.axvline(exact, color="black", linewidth=1, linestyle="--")
    ax.text(exact, -0.75, " exact", va="center")
    ax.set(xlabel="tr(L∇²f)", ylim=(len(samples) - 0.5, -1.1))
    ax.set_yticks(range(len(samples)), [f"{count:,} samples" for count in samples])

"""What chapter 3 shows: changes of a 4 and their lengths, volumes, radii, two distances."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from wdtr_lite import PixelGraph, data, metric, transport
from wdtr_lite.book import plots, tables

__all__ = [
    "RADII",
    "bump",
    "distances",
    "fade_against_move",
    "five_changes",
    "geodesics",
    "length",
    "length_table",
    "moves",
    "opening",
    "radius_tables",
    "refinement",
    "show_directions",
    "show_distances",
    "show_geodesics",
    "show_radii",
    "show_spectra",
    "show_volumes",
    "spectrum_table",
    "volume_table",
]

RADII = (1, 2, 4, 8)
"""The radii that the chapter compares."""

_BLUE, _ORANGE = plots.COLORS["wasserstein"], plots.COLORS["euclidean"]


# ---------------------------------------------------------------- five changes


def five_changes(image: Tensor, another: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Five changes of an image (H, W), of equal L2 norm, that sum to zero."""
    generator = torch.Generator().manual_seed(seed)

    def sprinkled(where: Tensor) -> Tensor:
        speck = torch.randn(image.shape, generator=generator, dtype=image.dtype) * where
        return speck - where * speck.sum() / where.sum()

    turn = _turned(image, 3) - _turned(image, -3)
    changes = {
        "move": (image.roll(1, 1) - image.roll(-1, 1)) / 2,
        "turn": turn - image * turn.sum(),
        "sprinkle the ink": sprinkled((image > 0).to(image)),
        "fade to another 4": another - image,
        "sprinkle all": sprinkled(torch.ones_like(image)),
    }
    return {name: 0.3 * image.norm() / one.norm() * one for name, one in changes.items()}


def _turned(image: Tensor, degrees: float) -> Tensor:
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]], dtype=image.dtype)
    grid = F.affine_grid(turn, [1, 1, *image.shape], align_corners=False)
    return F.grid_sample(image[None, None], grid, align_corners=False)[0, 0]


def length(image: Tensor, change: Tensor, radius: int = 1) -> float:
    """How long a change is, in pixels; infinite where ink would have to cross white."""
    graph = PixelGraph(*image.shape, radius=radius).double()
    try:
        return float(metric.tangent_norm_sq(graph, image, change, unit="pixel")) ** 0.5
    except ValueError:
        return float("inf")


def opening() -> None:
    """Draw five changes of a 4, of equal L2 norm, each with its length."""
    four, another = transport.as_measure(data.load("mnist5k").images[2000:2002].double())
    changes = five_changes(four, another)
    figure, axes = plt.subplots(2, 5, figsize=(5.2, 2.6))
    for (top, bottom), (name, change) in zip(axes.T, changes.items(), strict=True):
        first, _, rest = name.partition(" ")
        plots.show_image(top, (four + change).clamp_min(0).numpy(), f"{first}\n{rest}")
        plots.show_change(bottom, change.numpy(), vmax=0.5 * float(change.abs().max()))
        pixels = length(four, change)
        bottom.set_xlabel("infinite" if np.isinf(pixels) else f"{pixels:.2f} pixels")
    figure.align_titles()


def length_table(changes: Mapping[str, Tensor], images: Mapping[str, Tensor]) -> Markdown:
    """The lengths of the changes at each of the images, in pixels."""
    rows = [
        [name, *(length(image, change) for change in changes.values())]
        for name, image in images.items()
    ]
    text = tables.table(["pixels", *changes], rows, ["", *[".3f"] * len(changes)]).data
    return Markdown(str(text).replace(" inf ", " infinite "))


# ---------------------------------------------------------------- volumes, directions


def show_volumes(side: int = 28) -> None:
    """Draw the volume of each pixel, for three radii."""
    figure, axes = plt.subplots(1, 3, figsize=(5.3, 1.9))
    for ax, radius in zip(axes, (1, 4, 8), strict=True):
        volume = side**2 * PixelGraph(side, side, radius).volume
        shown = ax.imshow(volume.numpy(), cmap="viridis", vmin=0.3, vmax=1.5)
        ax.set(title=f"r = {radius}", xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes, label="n d")


def volume_table(side: int = 28) -> Markdown:
    """The volumes in a corner and in the centre, by radius."""
    rows = []
    for radius in RADII:
        volume = side**2 * PixelGraph(side, side, radius).volume
        corner, centre = volume[0, 0], volume[side // 2, side // 2]
        whole = (volume > 0.999 * volume.max()).double().mean()
        rows.append([radius, corner, centre, centre / corner, f"{100 * whole:.0f} %"])
    header = ["r", "n d, corner", "n d, centre", "centre / corner", "whole windows"]
    return tables.table(header, rows, ["", ".3f", ".3f", ".2f"])


def show_directions(image: Tensor, vectors: Tensor) -> Figure:
    """Draw an image and the last three columns of `vectors`, each with its largest pixel red."""
    figure, panels = plt.subplots(1, 4, figsize=(4.1, 1.4))
    plots.show_image(panels[0], image.numpy(), "x")
    for rank, axes in enumerate(panels[1:], start=1):
        vector = vectors[:, -rank].view(image.shape)
        red = vector * torch.sign(vector.flatten()[vector.abs().argmax()])
        plots.show_change(axes, red.numpy(), f"soft {rank}")
    return figure


def show_spectra(values: Mapping[int, Tensor]) -> None:
    """Draw the positive eigenvalues of L(x), by radius, largest first, over the largest."""
    _, axes = plt.subplots(figsize=(5.3, 2.8))
    for (radius, some), style in zip(values.items(), ("-", "--", "-.", ":"), strict=True):
        (line,) = axes.semilogy(some.flip(0) / some[-1], style)
        end = (len(some) - 1, float(some[0] / some[-1]))
        axes.annotate(
            f"r = {radius}", end, (4, 0), textcoords="offset points", color=line.get_color()
        )
    axes.set(xlabel="rank", ylabel="eigenvalue / largest", xlim=(0, 870))


def spectrum_table(values: Mapping[int, Tensor], pixels: int) -> Markdown:
    """How many eigenvalues are positive, and how far they spread, by radius."""
    rows = [
        [radius, len(some), pixels - len(some), some[-1], some[0] / some[-1]]
        for radius, some in values.items()
    ]
    header = ["r", "positive", "zero", "largest", "smallest positive / largest"]
    return tables.table(header, rows, ["", "", "", ".0f", ".1e"])


# ---------------------------------------------------------------- the radius


def moves(four: Tensor) -> dict[str, list[float]]:
    """How long it is to move a picture by one pixel, for each of :data:`RADII`."""
    cases = {f"blob, width {w}": _moving(side, w) for side, w in ((64, 6), (64, 4), (28, 2))}
    cases["the 4"] = four, (four.roll(1, 1) - four.roll(-1, 1)) / 2
    return {
        name: [length(image, change, radius) for radius in RADII]
        for name, (image, change) in cases.items()
    }


def _moving(side: int, width: float) -> tuple[Tensor, Tensor]:
    """A blob, and how it changes per pixel moved."""
    place = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    profile = torch.exp(-(place**2) / (2 * width**2))
    blob = torch.outer(profile, profile) / profile.sum() ** 2
    change = blob * place / width**2
    return blob, change - blob * change.sum()


def fade_against_move(measures: Tensor, seed: int = 0, pairs: int = 30) -> dict[int, np.ndarray]:
    """Length of a fade to another image of the class over that of a move of the same L2 norm, by
    radius. The images (500 of each class, one class after the other) lie on grey paper.
    """
    pick = np.random.default_rng(seed)
    images, steps = [], []
    for k in pick.integers(0, len(measures), pairs):
        other = 500 * (k // 500) + (k + pick.integers(1, 500)) % 500
        image = 0.95 * measures[k] + 0.05 / measures[k].numel()
        move = (image.roll(1, 1) - image.roll(-1, 1)) / 2
        both = torch.stack([move, measures[other] - measures[k]])
        images.append(image.expand(both.shape))
        steps.append(both / both.flatten(1).norm(dim=1)[:, None, None])
    ratios = {}
    for radius in RADII:
        graph = PixelGraph(*measures.shape[-2:], radius=radius).double()
        squares = metric.tangent_norm_sq(
            graph, torch.stack(images)[:, :, None], torch.stack(steps)[:, :, None]
        )
        ratios[radius] = (squares[:, 1] / squares[:, 0]).sqrt().numpy()
    return ratios


def show_radii(lengths: Mapping[str, Sequence[float]], ratios: Mapping[int, np.ndarray]) -> None:
    """Draw what moves are long, and what fades are long over moves, by radius."""
    _, (left, right) = plt.subplots(1, 2, figsize=(5.6, 2.4))
    for name, values in lengths.items():
        color = "black" if name == "the 4" else "#6F6F6F"
        left.plot(RADII, values, "o-", color=color)
    for name, below in (("the 4", -5), ("blob, width 2", 18), ("blob, width 6", 18)):
        text = name.replace("blob, width 6", "blobs, width 4 and 6").replace("blob, ", "")
        at = {"xy": (8, lengths[name][-1]), "xytext": (3, -below), "textcoords": "offset points"}
        left.annotate(text, **at, ha="right", color="black" if name == "the 4" else "#5A5A5A")
    left.set(title="a move by 1 pixel", ylabel="length (pixels)", ylim=(0, 6))
    for radius, some in ratios.items():
        right.plot(np.full(len(some), radius), some, ".", color="#9A9A9A", markersize=4)
    means = [some.mean() for some in ratios.values()]
    bars = [some.std(ddof=1) / len(some) ** 0.5 for some in ratios.values()]
    plots.error_bars(right, list(ratios), means, bars, "wasserstein")
    right.axhline(1, color="black", linewidth=0.8, linestyle="--")
    right.set(title="a fade", ylabel="fade / move", yscale="log")
    right.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    right.minorticks_off()
    for axes in (left, right):
        axes.set(xlabel="radius r", xticks=RADII, xlim=(0, 9))


def radius_tables(
    lengths: Mapping[str, Sequence[float]], ratios: Mapping[int, np.ndarray]
) -> Markdown:
    """The same in numbers, two tables."""
    header = ["moved by 1 pixel", *(f"r = {radius}" for radius in RADII)]
    moved = tables.table(header, [[n, *v] for n, v in lengths.items()], ["", *[".3f"] * len(RADII)])
    rows = [
        [
            radius,
            tables.mean_error(some, 2),
            f"{some.min():.2f} to {some.max():.2f}",
            f"{100 * (some < 1).mean():.0f} %",
        ]
        for radius, some in ratios.items()
    ]
    n = len(next(iter(ratios.values())))
    faded = tables.table(["r", f"fade / move, {n} digits", "range", "fade shorter"], rows)
    return Markdown(f"{moved.data}\n\n{faded.data}")


# ---------------------------------------------------------------- the distances


def bump(shift: float, pixels: int = 32, width: float = 3.0, floor: float = 1e-3) -> Tensor:
    """A bump of mass 1 on a line of pixels (1, pixels), `shift` from its middle."""
    place = torch.arange(pixels, dtype=torch.float64) - (pixels - 1) / 2
    x = torch.exp(-((place - shift) ** 2) / (2 * width**2)) + floor
    return (x / x.sum()).view(1, pixels)


def distances(x: Tensor, y: Tensor, middle: Tensor | None = None) -> dict[str, float]:
    """Three distances between two rows of pixels, in pixels: the linear program's, the geodesic
    one, and the length of the change at `middle` (by default, `x`).
    """
    line = PixelGraph(*x.shape, radius=1).double()
    path = metric.dynamic_distance(line, x, y, 8, unit="pixel")
    squared = metric.tangent_norm_sq(line, x if middle is None else middle, y - x, unit="pixel")
    return {
        "static": transport.wasserstein_distance(x, y),
        "dynamic": float(path.distance),
        "tangent": float(squared) ** 0.5,
    }


def refinement() -> dict[int, dict[str, float]]:
    """The distances between two bumps 1/32 of a segment apart, over the true one, by the number of
    pixels on the segment.
    """
    found = {}
    for pixels in (8, 16, 32, 64):
        apart = pixels / 32
        x, y = (bump(end * apart, pixels, 0.12 * pixels) for end in (-0.5, 0.5))
        told = distances(x, y, (x + y) / 2)
        found[pixels] = {name: value / apart for name, value in told.items()}
    return found


_LINES = {
    "static": ("s-", _ORANGE, "static"),
    "dynamic": ("o-", _BLUE, "dynamic"),
    "tangent": (":", "black", "tangent"),
}


def show_distances(
    by_shift: Mapping[float, Mapping[str, float]], by_pixels: Mapping[int, Mapping[str, float]]
) -> None:
    """Draw squared distances over the shift, and distances over the true one by the grid."""
    _, (left, right) = plt.subplots(1, 2, figsize=(5.6, 2.4))
    for name, (style, color, _) in _LINES.items():
        left.loglog([*by_shift], [d[name] ** 2 for d in by_shift.values()], style, color=color)
        right.semilogx([*by_pixels], [d[name] for d in by_pixels.values()], style, color=color)
    left.axvline(1, color="#9A9A9A", linewidth=0.8)
    left.text(0.012, 0.06, "static", color=_ORANGE)
    left.text(0.16, 2e-4, "dynamic,\ntangent", color=_BLUE)
    left.set(xlabel="shift (pixels)", ylabel="squared distance", title="same grid")
    right.text(11, 1.8, "static", color=_ORANGE)
    right.text(8, 0.78, "dynamic, tangent", color=_BLUE)
    right.axhline(1, color="#9A9A9A", linewidth=0.8)
    right.set(xlabel="pixels", ylabel="distance / true", title="same shift", ylim=(0.7, 2.1))
    right.set_xticks([*by_pixels], [*map(str, by_pixels)])
    right.minorticks_off()


def geodesics(pixels: int = 32) -> tuple[dict[str, Tensor], float, float]:
    """Three paths (17, pixels) from a bump on the left to one on the right, and their static and
    dynamic distance.
    """
    left, right = (bump(end, pixels, 2.0, 1e-6) for end in (-7.5, 7.5))
    line = PixelGraph(1, pixels, radius=1).double()
    result = metric.dynamic_distance(line, left, right, 16, unit="pixel")
    times = np.linspace(0, 1, 17)
    paths = {
        "L2": torch.stack([(1 - t) * left[0] + t * right[0] for t in times]),
        "displacement": torch.stack([
            torch.as_tensor(transport.displacement_interpolation(left, right, t))[0] for t in times
        ]),
        "dynamic": result.path[:, 0],
    }  # fmt: skip
    return paths, transport.wasserstein_distance(left, right), float(result.distance)


def show_geodesics(paths: Mapping[str, Tensor]) -> None:
    """Draw the paths, time downwards."""
    _, panels = plt.subplots(1, len(paths), figsize=(5.3, 2.3), sharey=True)
    for axes, (name, path) in zip(panels, paths.items(), strict=True):
        axes.imshow(path.numpy(), aspect="auto", extent=(0, path.shape[1], 1, 0))
        axes.set(title=name, xlabel="pixel")
    panels[0].set_ylabel("time")

"""What the section on certificates draws and reports: radii, proved and estimated, and attacks."""

from collections.abc import Mapping, Sequence
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from wdtr_lite import PixelGraph, data, evaluation, metric, study
from wdtr_lite.book import plots, reports, sprint, tables

__all__ = [
    "RADII",
    "beaten",
    "curvature_table",
    "draw_beaten",
    "draw_kept",
    "draw_margin",
    "inside",
    "kept_table",
    "lists",
    "margin_told",
    "network",
    "opening",
    "radius_table",
    "together",
    "true_radius",
]

RADII = {
    "proved": "proved everywhere",
    "frobenius": "Frobenius norm at x",
    "own": "curvature at x",
    "first": "slope at x alone",
    "attack": "attack",
}
"""What the section calls the radii, from the smallest."""

_TITLES = {"digits": "digits", "cpu": "photographs, ResNet-8", "full": "photographs, ResNet-20"}
_LENGTHS = (1.0, 2.0, 4.0)  # pixels


def lists(method: str, pictures: str = "digits") -> list[dict[str, np.ndarray]]:
    """What was measured of each network of a method, of digits or of Table 1's profile: arrays with
    a number for each image that it classifies rightly; ``proved`` and ``proved by slope`` of digits
    alone.
    """
    result = study.stored("certificate")["result"]
    if pictures != "digits":
        return [_arrays(result["published"][pictures][method])]
    return [
        _arrays(found["radii"])
        | {"proved": np.array(found["certified"]["curvature"])}
        | {"proved by slope": np.array(found["certified"]["slope"])}
        for row in reports.select(result["rows"], method=method)
        for found in [row["measurements"]]
    ]


def _arrays(found: Mapping[str, Sequence[float | None]]) -> dict[str, np.ndarray]:
    return {
        name: np.array([np.inf if v is None else v for v in each]) for name, each in found.items()
    }


def beaten(found: Mapping[str, np.ndarray], radius: str) -> np.ndarray:
    """The images whose attack is shorter than a radius, which is no bound for them."""
    return found["attack"] < found[radius]


def inside(found: Mapping[str, np.ndarray]) -> np.ndarray:
    """The largest curvature that was met within the radius of the curvature at x, by the curvature
    at x: at random changes, and on the attack's way where that is no longer.
    """
    path = np.where(beaten(found, "own"), found["path"], 0)
    return np.maximum(found["ball"], path) / found["curvature"]


def together(method: str, pictures: str = "digits") -> dict[str, np.ndarray]:
    """:func:`lists`, the networks' images one after the other."""
    each = lists(method, pictures)
    return {name: np.concatenate([found[name] for found in each]) for name in each[0]}


# ---------------------------------------------------------------- figures


def opening() -> None:
    """Draw the median radii by how they are found, a row a way to train, a dot a network."""
    plots.style()
    _, panels = plt.subplots(2, 1, figsize=(4.5, 3.6), sharex=True)
    for axes, pictures in zip(panels, ("digits", "full"), strict=True):
        for name, marker, tint, side in (
            ("proved", "X", "black", "center"),
            ("own", "o", plots.COLORS["wasserstein"], "right"),
            ("attack", "^", plots.COLORS["euclidean"], "left"),
        ):
            if name == "proved" and pictures != "digits":
                continue
            for place, method in enumerate(reversed(reports.MAIN)):
                medians = [np.median(found[name]) for found in lists(method, pictures)]
                axes.plot(medians, [place] * len(medians), marker, color=tint, alpha=0.7, ms=5)
            plain = np.median(together("none", pictures)[name])
            axes.text(
                plain,
                2.35,
                RADII[name].removesuffix(" everywhere"),
                color=tint,
                fontsize=9.5,
                ha=side,
            )
        axes.set_title(_TITLES[pictures], fontsize=10)
        _name_rows(axes)
        axes.set(xscale="log", xlim=(0.01, 40), ylim=(-0.5, 2.9))
    panels[1].set_xlabel("median radius (pixels × √mass)", fontsize=9.5)


def draw_kept() -> None:
    """Draw how many digits keep their label up to a length, by each radius, all networks of a way
    to train together.
    """
    _, panels = plt.subplots(3, 1, figsize=(4.5, 3.9), sharex=True, sharey=True)
    lengths = np.linspace(0, 14, 281)
    for axes, method in zip(panels, reports.MAIN, strict=True):
        found = together(method)
        kept = {name: 100 * _kept(found[name], lengths) for name in ("proved", "own", "attack")}
        axes.fill_between(lengths, kept["own"], kept["attack"], color="black", alpha=0.12, lw=0)
        for name, line, tint in (
            ("proved", ":", "black"),
            ("own", "--", plots.COLORS["wasserstein"]),
            ("attack", "-", plots.COLORS["euclidean"]),
        ):
            axes.plot(lengths, kept[name], line, color=tint)
        axes.set_title(reports.short(method), fontsize=10, loc="right")
        axes.set(xlim=(0, 14), ylim=(0, 105))
        axes.tick_params(labelsize=9.5)
    panels[1].set_ylabel("digits that keep their label (%)", fontsize=9.5)
    panels[2].set_xlabel("length of the change (pixels × √mass)", fontsize=9.5)
    for text, place, tint in (
        ("proved", (0.35, 70), "black"),
        ("curvature\nat x", (0.6, 5), plots.COLORS["wasserstein"]),
        ("attack", (10.5, 55), plots.COLORS["euclidean"]),
    ):
        panels[2].text(*place, text, color=tint, fontsize=9.5)


def _kept(radii: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return (radii[:, None] > lengths).mean(0)


def draw_beaten() -> None:
    """Draw of how many digits an attack is shorter than the radius from the slope, and from the
    curvature at the digit, a row a way to train, a dot a network.
    """
    _, panels = plt.subplots(1, 2, figsize=(4.5, 2.0), sharey=True)
    for axes, radius in zip(panels, ("first", "own"), strict=True):
        found = {
            method: [100 * beaten(each, radius).mean() for each in lists(method)]
            for method in reports.MAIN
        }
        tints = {method: plots.color_of(method) for method in found}
        plots.seed_dots(axes, found, {m: (tint, "o", tint) for m, tint in tints.items()})
        axes.set_title(RADII[radius], fontsize=9.5)
        axes.set_xlabel("beaten (%)", fontsize=9.5)
        _name_rows(axes)
        axes.set_xlim(-4, 100)


def _name_rows(axes: Axes) -> None:
    plots.name_rows(axes, [reports.short(m) for m in reports.MAIN])
    axes.tick_params(labelsize=9.5)


# ---------------------------------------------------------------- tables


def radius_table() -> Markdown:
    """The median radii by how they are found, and how often an attack is shorter."""
    lines = []
    for pictures, method in _each():
        found = together(method, pictures)
        medians = [
            f"{np.median(found[name]):.2g}" if name in found else "–"
            for name in ("proved by slope", *RADII)
        ]
        counts = [int(beaten(found, name).sum()) for name in ("first", "own", "frobenius")]
        share = np.median(found["own"] / found["attack"])
        alike = np.corrcoef(np.log(found["own"]), np.log(found["attack"]))[0, 1]
        lines.append([_named(pictures, method), len(found["own"]), *medians, share, alike, *counts])
    header = ["", "images", "proved by slope", *RADII.values()]
    header += ["curvature at x / attack", "correlation of their logarithms"]
    header += [f"beaten: {RADII[name]}" for name in ("first", "own", "frobenius")]
    return tables.table(header, lines, ["", "", *[""] * 6, ".2f", ".2f"])


def kept_table() -> Markdown:
    """How many images keep their label up to a length: by the curvature at them, and as far as the
    attack knows, in percent.
    """
    lines = []
    for pictures, method in _each():
        found, cells = together(method, pictures), []
        for length in _LENGTHS:
            kept = [100 * float(np.mean(found[name] > length)) for name in ("own", "attack")]
            cells.append(" – ".join(f"{value:.0f}" for value in kept))
        lines.append([_named(pictures, method), *cells])
    return tables.table(["label kept (%)", *(f"ε = {length:g}" for length in _LENGTHS)], lines)


def curvature_table() -> Markdown:
    """What the radii are made of, and whether the curvature at an image is the largest about it."""
    lines = []
    for pictures, method in _each():
        found = together(method, pictures)
        medians = [
            f"{np.median(values):.2g}"
            for values in (-found["margin"], found["slope"], found["curvature"])
        ]
        largest = inside(found)
        shares = [
            f"{100 * np.mean(each):.0f}"
            for each in (
                found["laplacian"] < found["curvature"],
                found["path"] > found["curvature"],
                largest > 1,
            )
        ]
        lines.append(
            [_named(pictures, method), *medians, *shares, np.median(largest), largest.max()]
        )
    header = ["", "−m", "a", "C at x", "Laplacian below C (%)", "larger on the attack's way (%)"]
    header += ["larger in the ball (%)", "there / C, median", "there / C, at most"]
    return tables.table(header, lines, [*[""] * 7, ".2f", ".1f"])


def _each() -> list[tuple[str, str]]:
    return [(pictures, method) for pictures in _TITLES for method in reports.MAIN]


def _named(pictures: str, method: str) -> str:
    return f"{_TITLES[pictures]}: {reports.short(method)}"


# ---------------------------------------------------------------- one digit


@cache
def network(trained: str) -> nn.Module:
    """A network trained for a few seconds, ``"plain"`` or ``"Wasserstein"``."""
    penalty = {} if trained == "plain" else {"method": "wasserstein", "eta": 0.5, "radius": 4}
    return sprint.trained(**penalty)


@cache
def _tried(trained: str, digit: int) -> dict:
    """A digit, its smallest attack, and the radius against the class that this finds."""
    model = network(trained)
    images, labels = data.load("mnist5k").part("test", digit + 1)
    x, y, graph = images[digit:, None] / 255, labels[digit:], PixelGraph(28, 28, 4)
    attack = evaluation.smallest_attack(model, x, y, graph)
    pair = torch.cat([y, model(attack.images).argmax(1)])

    def duel(at: Tensor) -> Tensor:
        return model(at)[:, pair]

    ours = torch.zeros_like(y)
    own = evaluation.robust_radius(duel, x, ours, graph)
    first = evaluation.robust_radius(duel, x, ours, graph, curvature=0.0)
    way = attack.images - x
    length = float(metric.tangent_norm_sq(graph, x.clamp_min(1 / 255), way, unit="pixel").sqrt())
    steps = np.linspace(0, 1.25 * length, 101)
    with torch.no_grad():
        logits = duel(x + torch.as_tensor(steps / length).float().view(-1, 1, 1, 1) * way)
    return {
        "x": x, "attacked": attack.images, "pair": pair.tolist(), "length": length, "steps": steps,
        "margins": (logits[:, 1] - logits[:, 0]).numpy(), "own": own, "first": float(first.radius),
    }  # fmt: skip


def draw_margin(trained: str, digit: int) -> Figure:
    """Draw the margin on the straight way to the smallest attack, and Taylor's lines above it."""
    tried = _tried(trained, digit)
    own, steps = tried["own"], tried["steps"]
    line = float(own.margin) + float(own.slope) * steps
    parabola = line + float(own.curvature) * steps**2 / 2
    figure, axes = plt.subplot_mosaic(
        "mx;ma", figsize=(4.0, 2.7), width_ratios=[2.6, 1], gridspec_kw={"hspace": 0.05}
    )
    axes["m"].axhline(0, color="black", lw=0.8)
    for values, tint, style, name in (
        (tried["margins"], "black", "-", "the margin"),
        (line, plots.COLORS["euclidean"], ":", "slope"),
        (parabola, plots.COLORS["wasserstein"], "--", "slope and\ncurvature"),
    ):
        axes["m"].plot(steps, values, style, color=tint, label=name)
    axes["m"].set_ylim(1.15 * float(own.margin), -0.5 * float(own.margin))
    axes["m"].legend(fontsize=9, loc="lower right", handlelength=1.6)
    axes["m"].set_xlabel("length (pixels × √mass)", fontsize=9.5)
    axes["m"].set_ylabel("margin", fontsize=9.5)
    axes["m"].tick_params(labelsize=9.5)
    for name, image, label in zip(
        "xa", (tried["x"], tried["attacked"]), tried["pair"], strict=True
    ):
        plots.show_image(axes[name], image[0, 0].numpy(), f"a {label}")
    return figure


def margin_told(trained: str, digit: int) -> str:
    """What :func:`draw_margin` shows, in a sentence."""
    tried = _tried(trained, digit)
    return (
        f"The {trained} network reads digit number {digit}, a {tried['pair'][0]}, as a "
        f"{tried['pair'][1]} after a change of length {tried['length']:.1f}; slope alone says "
        f"{tried['first']:.1f}, slope and curvature {float(tried['own'].radius):.1f}."
    )


# ---------------------------------------------------------------- three pixels


def true_radius(model: nn.Module, x: Tensor, y: Tensor, graph: PixelGraph, longest: float) -> float:
    """The least length of a change that makes a picture of three pixels, (1, 1, 1, 3), of class y
    another, by trying the whole disc of changes.
    """
    unit = 1 / metric.tangent_norm_sq(graph, x[0, 0], x[0, 0] - x.mean(), unit="pixel")
    unit = unit * metric.tangent_norm_sq(graph, x[0, 0], x[0, 0] - x.mean())
    values, vectors = torch.linalg.eigh(unit * metric.laplacian(graph, x[0, 0]))
    angles = torch.linspace(0, 2 * np.pi, 721, dtype=x.dtype)
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    directions = circle @ (vectors[:, 1:] * values[1:].sqrt()).T
    lengths = torch.linspace(0, longest, 2001, dtype=x.dtype)
    points = x.flatten() + lengths[:, None, None] * directions
    wrong = (model(points.view(-1, 1, 1, 3)).argmax(1) != y).view(len(lengths), -1).any(1)
    return float(lengths[wrong].min()) if wrong.any() else float("inf")

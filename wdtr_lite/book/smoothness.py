"""What chapter 10 reports of smoothness: the margin's gradient, and paths between images."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from wdtr_lite.book import tables
from wdtr_lite.book.natural_variation import COLOR_OF, compared, draw_dots, letter, name_methods
from wdtr_lite.book.reports import MAIN, measured, measurements, path_lengths, select, short

__all__ = [
    "PATHS",
    "draw_norms",
    "draw_paths",
    "norms_table",
    "paths_table",
    "ratios_table",
]

PATHS = {"wasserstein": "W2 geodesic", "euclidean": "straight line"}
"""The two ways from one image to another."""

_CLASSES = {"within": "within class", "between": "between classes"}


# ---------------------------------------------------------------- gradients


def draw_norms(rows: Sequence[Mapping]) -> None:
    """Draw how the norms of the margin's gradient are distributed, in either metric."""
    methods = compared(rows)[::-1]
    _, panels = plt.subplots(1, 2, figsize=(4.6, 1.1 + 0.3 * len(methods)), sharey=True)
    for axes, metric in zip(panels, ("euclidean", "wasserstein"), strict=True):
        boxes = axes.boxplot(
            [_norms(rows, method, metric) for method in methods],
            orientation="horizontal",
            whis=(5, 95),
            showfliers=False,
            patch_artist=True,
            widths=0.5,
            medianprops={"color": "black"},
            tick_labels=[short(method) for method in methods],
            manage_ticks=axes is panels[0],  # which are shared
        )
        for patch, method in zip(boxes["boxes"], methods, strict=True):
            patch.set(facecolor=COLOR_OF[method], alpha=0.5)
        letter(axes, xscale="log", title=f"{metric.capitalize()} metric", xlabel="norm")


def norms_table(rows: Sequence[Mapping]) -> Markdown:
    """The medians of these norms, and their ratio."""
    lines = []
    for m in compared(rows):
        e, w = (np.median(_norms(rows, m, metric)) for metric in ("euclidean", "wasserstein"))
        lines.append([short(m), e, w, w / e])
    header = ["median norm", "Euclidean metric", "Wasserstein metric", "ratio"]
    return tables.table(header, lines, ["", ".2f", ".2f", ".2f"])


def _norms(rows: Sequence[Mapping], method: str, metric: str) -> np.ndarray:
    """Of every image and network of a method."""
    found = [row["measurements"]["gradients"] for row in select(rows, method=method)]
    return np.concatenate([one[f"margin {metric}"] for one in found])


# ---------------------------------------------------------------- paths


def draw_paths(report: Mapping) -> None:
    """Draw the lengths of the first networks' answers' paths, with their standard errors over the
    pairs of images, and the ratios of :func:`ratios_table`.
    """
    rows, drawn = measured(report["result"]["rows"]), _drawn_ratios(report)
    lengths = {
        f"{name}, {told}": {
            method: _mean(path_lengths(rows, method, f"{classes} {path}")[0]) for method in MAIN
        }
        for path, name in PATHS.items()
        for classes, told in _CLASSES.items()
    }
    ratios = {
        name: {method: _interval(drawn[path][method]) for method in MAIN}
        for path, name in PATHS.items()
    }
    figure, panels = plt.subplots(2, 1, figsize=(4.6, 3.3), height_ratios=(4, 2))
    draw_dots(panels[0], lengths)
    letter(panels[0], xlabel="length of the answer's path", xlim=(0, None))
    draw_dots(panels[1], ratios)
    letter(panels[1], xlabel="ratio between / within", xlim=(0.9, None))
    name_methods(figure, MAIN)


def _mean(values: np.ndarray) -> tuple[float, float]:
    """With its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def _interval(values: np.ndarray) -> tuple[float, tuple[float, float]]:
    """The last value, and how far below and above it 95 % of those before it lie."""
    low, high = np.percentile(values[:-1], [2.5, 97.5])
    return float(values[-1]), (float(values[-1] - low), float(high - values[-1]))


def paths_table(rows: Sequence[Mapping]) -> Markdown:
    """Lengths of the answer's path within and between classes, and their ratio."""
    lines, ratios, methods = [], [], compared(rows)
    for path, name in PATHS.items():
        within, between = (
            [path_lengths(rows, method, f"{classes} {path}").mean(1) for method in methods]
            for classes in _CLASSES
        )
        ratio = [b / w for b, w in zip(between, within, strict=True)]
        for title, lengths in zip(_CLASSES.values(), (within, between), strict=True):
            lines.append([f"{name}, {title}", *(tables.mean_sd(one, 2) for one in lengths)])
        ratios.append([f"{name}, ratio", *(tables.mean_sd(one, 2) for one in ratio)])
    return tables.table(["length of the path", *map(short, methods)], [*lines, *ratios])


def ratios_table(report: Mapping) -> Markdown:
    """The ratio between / within of the first networks, and how far it is above the plain one's,
    each with the range that holds 95 % of it when the pairs are drawn anew, the same for all.
    """
    drawn, lines = _drawn_ratios(report), []
    for path, name in PATHS.items():
        found = drawn[path]
        for method in MAIN:
            above = "" if method == "none" else _range(found[method] - found["none"], "+")
            lines.append([f"{name}, {short(method)}", _range(found[method]), above])
    return tables.table(["ratio between / within", "ratio", "above plain"], lines)


def _drawn_ratios(report: Mapping, draws: int = 2000) -> dict[str, dict[str, np.ndarray]]:
    """By path and method the ratios of the pairs drawn anew, the observed one last."""
    networks = measurements(report)
    pairs = len(networks["none"]["paths"]["within wasserstein"])
    drawn = np.random.default_rng(0).integers(pairs, size=(draws, pairs))
    found: dict[str, dict[str, np.ndarray]] = {path: {} for path in PATHS}
    for path, method in ((path, method) for path in PATHS for method in MAIN):
        within, between = (
            np.array(networks[method]["paths"][f"{classes} {path}"]) for classes in _CLASSES
        )
        anew = between[drawn].mean(1) / within[drawn].mean(1)
        found[path][method] = np.append(anew, between.mean() / within.mean())
    return found


def _range(values: np.ndarray, sign: str = "") -> str:
    """The last value, and where 95 % of those before it lie."""
    low, high = np.percentile(values[:-1], [2.5, 97.5])
    return f"{values[-1]:{sign}.2f} ({low:{sign}.2f} to {high:{sign}.2f})"

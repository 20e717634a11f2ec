"""What chapter 10 reports: moved images, Table 2, other variations, gradients and paths."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from wdtr_lite.book import plots, tables
from wdtr_lite.book.reports import (
    MAIN,
    flips,
    flips_by_image,
    label,
    measured,
    measurements,
    path_lengths,
    select,
    short,
)
from wdtr_lite.book.units import differences_table, told
from wdtr_lite.study.questions import AXES, PADDINGS
from wdtr_lite.study.table2 import PAPER

__all__ = [
    "COMPARED",
    "COUNTS",
    "PATHS",
    "changed_table",
    "compared",
    "comparison_table",
    "describe_norms",
    "describe_ratios",
    "digits_table",
    "draw_changes",
    "draw_comparison",
    "draw_norms",
    "equal_error_table",
    "nearest_table",
    "paper_table",
    "paths_table",
    "variation_pairs",
    "variations_table",
]

COMPARED = (*MAIN, "none, fewer images")
"""The methods of Table 2, and the plain networks that have the penalised ones' error."""

COUNTS = {"consecutive": "consecutive", "from_unshifted": "from the unshifted"}
"""The two counts of label flips."""

PATHS = {"wasserstein": "W2 geodesic", "euclidean": "straight line"}
"""The two ways from one image to another."""

_LINES = {
    "none": ("black", "-"),
    "euclidean": (plots.COLORS["euclidean"], "--"),
    "wasserstein": (plots.COLORS["wasserstein"], "-."),
    "none, fewer images": (plots.COLORS["intensities"], ":"),
}
_VARIATIONS = ("translation", "rotation", "elastic", "blur")
_REACHES = range(1, 17)


# ---------------------------------------------------------------- Table 2


def paper_table() -> Markdown:
    """The label flips that the paper prints."""
    rows = [[axis, *(PAPER[axis][method] for method in MAIN)] for axis in PAPER]
    return tables.table(["the paper, label flips", *map(label, MAIN)], rows, ["", *[".3f"] * 3])


def digits_table(rows: Sequence[Mapping]) -> Markdown:
    """The label flips of the quick profile's digits."""
    lines = [
        [f"{axis}, {padding}, {name}", *_flips(rows, f"{axis} {padding}", count)]
        for count, name in COUNTS.items()
        for axis in AXES
        for padding in ("zeros", "edge")
    ]
    return tables.table(["digits, flips", *map(short, MAIN)], lines)


def comparison_table(report: Mapping, count: str) -> Markdown:
    """The paper's label flips and ours, by one of the :data:`COUNTS`: of several seeds mean and
    standard deviation, of one the standard error over the images, and that of the difference of the
    two penalties.
    """
    rows, lines = measured(report["result"]["rows"]), []
    several = len(select(rows, method="none")) > 1
    for axis in AXES:
        paper = (f"{PAPER[axis][method]:.2f}" for method in MAIN)
        lines.append([axis, "the paper", "not said", *paper, *([] if several else [""])])
        for padding in PADDINGS:
            case = f"{axis} {padding}"
            found = _flips(rows, case, count) if several else _by_image(report, case, count)
            lines.append(["", "ours", padding, *found])
    header = ["flips", "", "padding", *map(short, MAIN)]
    return tables.table([*header, *([] if several else ["Wasserstein − Euclidean"])], lines)


def draw_comparison(report: Mapping) -> None:
    """Draw the numbers of both :func:`comparison_table`, the paper's as open marks."""
    networks = measurements(report)
    _, panels = plt.subplots(1, 2, figsize=(6.8, 3.6), sharey=True)
    for axes, (count, title) in zip(panels, COUNTS.items(), strict=True):
        ours = {
            f"{axis}, {padding}": {
                method: _mean(flips_by_image(networks[method][f"{axis} {padding}"], count))
                for method in MAIN
            }
            for axis in AXES
            for padding in PADDINGS
        }
        paper = {f"{axis}, {padding}": PAPER[axis] for axis in AXES for padding in PADDINGS}
        plots.dots(axes, ours, paper, MAIN)
        axes.set(title=title, xlabel="label flips of an image")
    plots.name_dots(panels[0], {method: short(method) for method in MAIN})


def _mean(values: np.ndarray) -> tuple[float, float]:
    """With its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def _by_image(report: Mapping, case: str, count: str) -> list[str]:
    """Of the first networks, and of the difference of the two penalties, image by image."""
    networks = measurements(report)
    found = {method: flips_by_image(networks[method][case], count) for method in MAIN}
    difference = found["wasserstein"].astype(float) - found["euclidean"]
    told = [tables.mean_error(found[method], 2) for method in MAIN]
    return [*told, tables.mean_error(difference, 2, sign="+")]


def _flips(
    rows: Sequence[Mapping], case: str, count: str, methods: Sequence[str] = MAIN
) -> list[str]:
    return [tables.mean_sd(flips(rows, method, case, count), 2) for method in methods]


def nearest_table(rows: Sequence[Mapping]) -> Markdown:
    """Of each padding and count the reach at which the plain networks come nearest to the paper's
    numbers, and the flips there.
    """
    paper = [" / ".join(f"{PAPER[axis][method]:.1f}" for axis in AXES) for method in MAIN]
    lines = [["not said", "the paper", "not said", *paper]]
    for padding in PADDINGS:
        for count, name in COUNTS.items():
            best = min(_REACHES, key=lambda reach: _off(rows, padding, count, reach))
            found = [_both(rows, method, padding, count, best) for method in MAIN]
            texts = (" / ".join(f"{mean:.1f}" for mean in both) for both in found)
            lines.append([padding, name, str(best), *texts])
    return tables.table(["padding", "count", "nearest S", *map(short, MAIN)], lines)


def _off(rows: Sequence[Mapping], padding: str, count: str, reach: int) -> float:
    """How far the plain networks are from the paper's."""
    ours = _both(rows, "none", padding, count, reach)
    return sum(abs(mean - PAPER[axis]["none"]) for mean, axis in zip(ours, AXES, strict=True))


def _both(
    rows: Sequence[Mapping], method: str, padding: str, count: str, reach: int
) -> list[float]:
    """Mean flips on the two axes."""
    return [flips(rows, method, f"{axis} {padding}", count, reach).mean() for axis in AXES]


# ---------------------------------------------------------------- at equal error


def compared(rows: Sequence[Mapping]) -> list[str]:
    """Those of :data:`COMPARED` that there are rows of."""
    return [method for method in COMPARED if select(rows, method=method)]


def equal_error_table(rows: Sequence[Mapping]) -> Markdown:
    """Natural error and label flips, beside those of a plain network of the same error."""
    lines = [
        [
            "natural error (%)",
            *(tables.mean_sd(_errors(rows, m, "natural")) for m in compared(rows)),
        ]
    ]
    lines += [
        [f"{axis}, edge, {name}", *_flips(rows, f"{axis} edge", count, COMPARED)]
        for count, name in COUNTS.items()
        for axis in AXES
    ]
    return tables.table(["", *map(short, COMPARED)], lines)


def _errors(rows: Sequence[Mapping], method: str, case: str) -> np.ndarray:
    """The errors on varied images of each network of a method, in percent."""
    found = [row["measurements"]["variations"] for row in select(rows, method=method)]
    return np.array([100 * one["wrong"][case] / one["n"] for one in found])


def draw_changes(rows: Sequence[Mapping]) -> None:
    """Draw the flips against the reach, and the share of changed labels against the shift."""
    _, panels = plt.subplots(1, 3, figsize=(6.8, 2.9))
    for method in compared(rows):
        color, line = _LINES[method]
        upto = _upto(rows, method, "horizontal", "consecutive")
        panels[0].plot(_REACHES, upto, line, color=color, label=short(method))
        for axes, axis in zip(panels[1:], AXES, strict=True):
            axes.plot(_REACHES, _changed(rows, method, axis), line, color=color)
            axes.set(xlabel="shift k (pixels)", ylim=(0, 75), title=axis)
    panels[0].set(xlabel="reach S (pixels)", title="flips, horizontal", ylim=(0, 5))
    panels[1].set_ylabel("changed labels (%)")
    panels[0].legend(fontsize=7)


def changed_table(rows: Sequence[Mapping]) -> Markdown:
    """The share of changed labels at some shifts."""
    lines = [
        [f"{axis}, k = {k}", *(_changed(rows, method, axis)[k - 1] for method in compared(rows))]
        for axis in AXES
        for k in (1, 2, 4, 8, 16)
    ]
    header = ["changed labels (%) at k pixels", *map(short, compared(rows))]
    return tables.table(header, lines, ["", *[".1f"] * len(compared(rows))])


def _upto(rows: Sequence[Mapping], method: str, axis: str, count: str) -> list[float]:
    """Flips of an image, border repeated, at each reach."""
    return [flips(rows, method, f"{axis} edge", count, reach).mean() for reach in _REACHES]


def _changed(rows: Sequence[Mapping], method: str, axis: str) -> np.ndarray:
    """Labels that are not the unshifted image's, at 1, ..., 16 pixels both ways, in percent."""
    return 100 * np.diff([0, *_upto(rows, method, axis, "from_unshifted")]) / 2


# ---------------------------------------------------------------- variations, gradients, paths


def variations_table(rows: Sequence[Mapping]) -> Markdown:
    """The errors on varied images, and how far they are above those on images as they are."""
    lines = [
        [case, *(tables.mean_sd(_errors(rows, m, case)) for m in compared(rows))]
        for case in ("natural", *_VARIATIONS)
    ]
    for case in _VARIATIONS:
        above = [_errors(rows, m, case) - _errors(rows, m, "natural") for m in compared(rows)]
        lines.append([f"{case}, above natural", *map(tables.mean_sd, above)])
    return tables.table(["error (%)", *map(short, compared(rows))], lines)


def variation_pairs(report: Mapping) -> Markdown:
    """The two penalties on varied images, image by image."""
    euclidean, wasserstein = (
        measurements(report)[method]["variations"] for method in ("euclidean", "wasserstein")
    )

    cases = ("natural", *_VARIATIONS)
    return differences_table({
        case: (told(wasserstein, case), told(euclidean, case)) for case in cases
    })  # fmt: skip


def draw_norms(rows: Sequence[Mapping]) -> None:
    """Draw how the norms of the margin's gradient are distributed, in either metric."""
    _, panels = plt.subplots(1, 2, figsize=(6.8, 3.0), sharey=True)
    for axes, metric in zip(panels, ("euclidean", "wasserstein"), strict=True):
        boxes = axes.boxplot(
            [_norms(rows, method, metric) for method in compared(rows)],
            whis=(5, 95),
            showfliers=False,
            patch_artist=True,
            tick_labels=[short(method).replace(", ", ",\n") for method in compared(rows)],
        )
        for patch, method in zip(boxes["boxes"], compared(rows), strict=True):
            patch.set(facecolor=_LINES[method][0], alpha=0.5)
        axes.set(yscale="log", title=f"{metric.capitalize()} metric")
        axes.tick_params(axis="x", labelsize=7)
    panels[0].set_ylabel("norm of the margin's gradient")


def describe_norms(rows: Sequence[Mapping]) -> str:
    """The medians of these norms, and their ratio."""
    lines = []
    for m in compared(rows):
        e, w = (np.median(_norms(rows, m, metric)) for metric in ("euclidean", "wasserstein"))
        medians = f"Euclidean {e:5.2f}, Wasserstein {w:5.2f}, ratio {w / e:.2f}"
        lines.append(f"{short(m):20s} medians: {medians}")
    return "\n".join(lines)


def _norms(rows: Sequence[Mapping], method: str, metric: str) -> np.ndarray:
    """Of every image and network of a method."""
    found = [row["measurements"]["gradients"] for row in select(rows, method=method)]
    return np.concatenate([one[f"margin {metric}"] for one in found])


def paths_table(rows: Sequence[Mapping]) -> Markdown:
    """Lengths of the answer's path within and between classes, and their ratio."""
    lines, ratios, methods = [], [], compared(rows)
    for path, name in PATHS.items():
        within = [path_lengths(rows, method, f"within {path}").mean(1) for method in methods]
        between = [
            path_lengths(rows, method, f"between {path}").mean(1) for method in compared(rows)
        ]
        ratio = [b / w for b, w in zip(between, within, strict=True)]
        for title, lengths in (("within class", within), ("between classes", between)):
            lines.append([f"{name}, {title}", *(tables.mean_sd(one, 2) for one in lengths)])
        ratios.append([f"{name}, between / within", *(tables.mean_sd(one, 2) for one in ratio)])
    header = ["length of the answer's path", *map(short, methods)]
    return tables.table(header, [*lines, *ratios])


def describe_ratios(report: Mapping, draws: int = 2000) -> str:
    """The ratio between / within of the first networks, and how far it is above the plain one's,
    each with the range that holds 95 % of it when the pairs are drawn anew, the same for all.
    """
    networks, lines = measurements(report), []
    pairs = len(networks["none"]["paths"]["within wasserstein"])
    drawn = np.random.default_rng(0).integers(pairs, size=(draws, pairs))
    for path, name in PATHS.items():
        found = {}
        for method in MAIN:
            within, between = (
                np.array(networks[method]["paths"][f"{classes} {path}"])
                for classes in ("within", "between")
            )
            found[method] = np.append(
                between[drawn].mean(1) / within[drawn].mean(1), between.mean() / within.mean()
            )
            text = _range(found[method])
            if method != "none":
                text += ", above plain " + _range(found[method] - found["none"], "+")
            lines.append(f"{name:13s} {label(method):20s} {text}")
    return "\n".join(lines)


def _range(values: np.ndarray, sign: str = "") -> str:
    """The last value, and where 95 % of those before it lie."""
    low, high = np.percentile(values[:-1], [2.5, 97.5])
    return f"{values[-1]:{sign}.2f} ({low:{sign}.2f} to {high:{sign}.2f})"

"""What chapter 2 reports: distances on a geodesic, and whether an interpolate keeps its label."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from wdtr_lite import data, transport
from wdtr_lite.book import plots, tables

__all__ = [
    "JUDGES",
    "differences",
    "judges",
    "label_curve",
    "label_curves",
    "label_table",
    "opening",
    "show_realised",
    "show_variations",
    "variation_table",
]

JUDGES = {"forest": "forest", "svm": "SVM"}
"""The classifiers of the experiment ``label_keeping``."""


def opening() -> None:
    """Draw the way from one 1 to another: the cross-fade, and the displacement interpolation."""
    x, y = transport.as_measure(data.load("mnist5k").images[[500, 515]].double().numpy())
    times = np.linspace(0, 1, 7)
    paths = {
        "L2": [transport.euclidean_interpolation(x, y, t) for t in times],
        "W2": [transport.displacement_interpolation(x, y, t) for t in times],
    }
    titles = ["one 1", "", "", "halfway", "", "", "another"]
    plots.image_grid(list(paths.values()), columns=titles, rows=list(paths), size=0.72)


def show_realised(times: np.ndarray, realised: np.ndarray, total: float) -> None:
    """Draw the W2 distances from the source at some times beside the nominal ones, t · `total`."""
    _, (left, right) = plt.subplots(1, 2, figsize=(5.6, 2.7))
    line = {"color": "black", "linewidth": 1, "linestyle": "--"}
    dots = {"color": plots.COLORS["wasserstein"]}
    left.plot([0, 1], [0, total], **line)
    left.text(0.55, 0.36 * total, "nominal:\nt W2(x, y)")
    left.plot(times, realised, "o-", **dots)
    left.text(0.05, 0.62 * total, "on the\ngrid", **dots)
    left.set(xlabel="time t", ylabel="W2 from x (pixels)")
    right.plot(times, np.array(realised) / (times * total), "o-", **dots)
    right.axhline(1, **line)
    right.set(xlabel="time t", ylabel="on the grid / nominal", xscale="log")


def label_curve(report: Mapping, judge: str, metric: str) -> list[Mapping]:
    """The rows of one classifier and one metric, by distance."""
    rows = report["result"]["rows"]
    return [row for row in rows if (row["classifier"], row["metric"]) == (judge, metric)]


def _asked(report: Mapping, judge: str) -> list[tuple[Mapping, Mapping, list, list]]:
    """By distance: the rows of L2 and of W2, and in percent of each pair whether the label is kept
    and whether it is of a third class, in both.
    """
    labels, targets = (np.array(list(report["result"][key])) for key in ("labels", "targets"))
    found = []
    curves = (label_curve(report, judge, metric) for metric in ("euclidean", "wasserstein"))
    for l2, w2 in zip(*curves, strict=True):
        said = [np.array(list(row["predictions"])) for row in (l2, w2)]
        kept = [100.0 * (s == labels) for s in said]
        third = [100.0 * ((s != labels) & (s != targets)) for s in said]
        found.append((l2, w2, kept, third))
    return found


def label_table(report: Mapping) -> Markdown:
    """How many labels are kept in L2 and in W2, in percent, and the paired differences."""
    rows = []
    for judge, name in JUDGES.items():
        for l2, w2, kept, third in _asked(report, judge):
            rows.append(
                [name, l2["fraction"], *map(tables.mean_error, kept)]
                + [tables.mean_error(w2s - l2s, sign="+") for l2s, w2s in (kept, third)]
                + [f"{100 * l2['reached']:.1f} / {100 * w2['reached']:.1f}"]
            )
    header = ["judge", "distance", "L2 keeps", "W2 keeps", "W2 − L2"]
    header += ["third class, W2 − L2", "at the target, L2 / W2"]
    return tables.table(header, rows)


def differences(report: Mapping, judge: str) -> dict[float, tuple[float, float]]:
    """W2 − L2: how many more labels one classifier keeps, in percent, and the standard error of
    the paired difference, by distance.
    """
    found = {}
    for l2, _, (in_l2, in_w2), _ in _asked(report, judge):
        gap = in_w2 - in_l2
        found[l2["fraction"]] = gap.mean(), gap.std(ddof=1) / len(gap) ** 0.5
    return found


def label_curves(report: Mapping) -> None:
    """Draw how many labels are kept, by distance, a panel a classifier."""
    _, panels = plt.subplots(1, 2, figsize=(5.6, 3), sharey=True)
    for axes, (judge, name) in zip(panels, JUDGES.items(), strict=True):
        for metric in ("euclidean", "wasserstein"):
            curve = label_curve(report, judge, metric)
            plots.error_bars(
                axes,
                [row["fraction"] for row in curve],
                [100 * row["mean"] for row in curve],
                [100 * row["standard_error"] for row in curve],
                metric,
            )
        axes.set(xlabel="distance (medians)", title=name, ylim=(0, 104))
    panels[0].set_ylabel("label kept (%)")
    panels[0].text(0.36, 82, "W2", color=plots.COLORS["wasserstein"])
    panels[0].text(0.12, 50, "L2", color=plots.COLORS["euclidean"])
    panels[1].text(0.55, 42, "W2", color=plots.COLORS["wasserstein"])
    panels[1].text(0.36, 48, "L2", color=plots.COLORS["euclidean"])


def show_variations(found: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Draw how far variations of digits lie, in medians of each metric: means and standard
    errors.
    """
    _, axes = plt.subplots(figsize=(5.6, 2.7))
    rows = np.arange(len(found))[::-1]
    for metric, shift, side in (("euclidean", 0.14, 1), ("wasserstein", -0.14, -1)):
        some = [each[metric] for each in found.values()]
        axes.errorbar(
            [each.mean() for each in some],
            rows + shift,
            xerr=[each.std(ddof=1) / len(each) ** 0.5 for each in some],
            fmt=plots.MARKERS[metric],
            color=plots.COLORS[metric],
        )
        axes.annotate(
            {"euclidean": "L2", "wasserstein": "W2"}[metric],
            (some[0].mean(), rows[0] + shift),
            (14 * side, -4),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            color=plots.COLORS[metric],
        )
    axes.axvline(1, color="black", linewidth=1, linestyle="--")
    axes.text(1.01, rows[0], "the median\nof other classes", va="center")
    axes.set(xlabel="distance (medians)", xlim=(0, 1.45), ylim=(-0.5, len(found) - 0.4))
    axes.set_yticks(rows, list(found))


def variation_table(found: Mapping[str, Mapping[str, np.ndarray]]) -> Markdown:
    """The same in numbers."""
    rows = [
        [name, *(tables.mean_error(each[metric], 2) for metric in ("euclidean", "wasserstein"))]
        for name, each in found.items()
    ]
    n = len(next(iter(found.values()))["euclidean"])
    return tables.table([f"{n} digits", "L2, medians", "W2, medians"], rows)


def judges(report: Mapping) -> None:
    """Print the classifiers' own errors and the medians of the distances."""
    for judge, name in JUDGES.items():
        error = report["result"]["classifier_error"][judge]
        print(
            f"error of the {name} itself: {100 * error['mean']:.1f} ±",
            f"{100 * error['standard_error']:.1f} % of {error['n']:,} digits",
        )
    medians = report["result"]["medians"]
    print(f"medians: L2 {medians['euclidean']:.4f},", f"W2 {medians['wasserstein']:.3f} pixels")

"""What chapter 2 reports: distances on a geodesic, and whether an interpolate keeps its label."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from wdtr_lite.book import plots, tables

__all__ = [
    "JUDGES",
    "judges",
    "label_curve",
    "label_curves",
    "label_table",
    "show_realised",
]

JUDGES = {"forest": "forest", "svm": "SVM"}
"""The classifiers of the experiment ``label_keeping``."""


def show_realised(times: np.ndarray, realised: np.ndarray, total: float) -> None:
    """Draw the W2 distances from the source at some times beside the nominal ones, t · `total`."""
    _, (left, right) = plt.subplots(1, 2, figsize=(6.6, 2.8))
    line = {"color": "black", "linewidth": 1, "linestyle": "--"}
    dots = {"color": plots.COLORS["wasserstein"]}
    left.plot([0, 1], [0, total], label="nominal: t W2(x, y)", **line)
    left.plot(times, realised, "o-", label="on the grid", **dots)
    left.set(xlabel="time t", ylabel="W2 from x (pixels)")
    left.legend()
    right.plot(times, realised / (times * total), "o-", **dots)
    right.axhline(1, **line)
    right.set(xlabel="time t", ylabel="realised / nominal", xscale="log")


def label_curve(report: Mapping, judge: str, metric: str) -> list[Mapping]:
    """The rows of one classifier and one metric, by distance."""
    rows = report["result"]["rows"]
    return [row for row in rows if (row["classifier"], row["metric"]) == (judge, metric)]


def label_table(report: Mapping) -> Markdown:
    """How many labels are kept in L2 and in W2, in percent, and the paired differences."""
    labels, targets = (np.array(list(report["result"][key])) for key in ("labels", "targets"))
    rows = []
    for judge, name in JUDGES.items():
        curves = (label_curve(report, judge, metric) for metric in ("euclidean", "wasserstein"))
        for l2, w2 in zip(*curves, strict=True):
            said = [np.array(list(row["predictions"])) for row in (l2, w2)]
            kept = [100.0 * (s == labels) for s in said]
            third = [100.0 * ((s != labels) & (s != targets)) for s in said]
            rows.append(
                [name, l2["fraction"], *map(tables.mean_error, kept)]
                + [tables.mean_error(w2s - l2s, sign="+") for l2s, w2s in (kept, third)]
                + [f"{100 * l2['reached']:.1f} / {100 * w2['reached']:.1f}"]
            )
    header = ["judge", "distance", "L2 keeps", "W2 keeps", "W2 − L2"]
    header += ["third class, W2 − L2", "at the target, L2 / W2"]
    return tables.table(header, rows)


def label_curves(report: Mapping) -> None:
    """Draw how many labels are kept, by distance, a panel a classifier."""
    _, panels = plt.subplots(1, 2, figsize=(6.8, 3), sharey=True)
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
        axes.set(xlabel="distance (medians)", title=name, ylim=(0, 102))
    panels[0].set_ylabel("label kept (%)")
    panels[0].legend()


def judges(report: Mapping) -> None:
    """Print the classifiers' own errors and the medians of the distances."""
    for judge, name in JUDGES.items():
        error = report["result"]["classifier_error"][judge]
        print(
            f"error of the {name} itself: {100 * error['mean']:.1f} ±",
            f"{100 * error['standard_error']:.1f} %, n = {error['n']:,}",
        )
    medians = report["result"]["medians"]
    print(f"medians: L2 {medians['euclidean']:.4f},", f"W2 {medians['wasserstein']:.3f} pixels")

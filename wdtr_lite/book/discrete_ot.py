"""What chapter 1 reports: nearest neighbours in three distances, and what a distance costs."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from matplotlib.axes import Axes

from wdtr_lite.book import plots, tables

__all__ = [
    "error_curves",
    "error_table",
    "paired_table",
    "scaling_curves",
    "scaling_table",
    "show_distance",
    "show_spread",
    "speeds",
    "stability_table",
]

_NAMES = {
    "intensities": "L2 of intensities",
    "euclidean": "L2 of measures",
    "wasserstein": "W2",
}


def show_distance(
    axes: Axes,
    metric: str,
    shifts: Sequence[float],
    curve: Sequence[float],
    shift: int,
    to_another: float,
) -> None:
    """Draw a distance over the shift, mark one `shift`, and the distance to another digit, a 7."""
    color = plots.COLORS[metric]
    axes.plot(shifts, curve, color=color)
    axes.plot(shift, curve[list(shifts).index(shift)], "o", color=color)
    axes.axhline(to_another, color="black", linewidth=1, linestyle="--")
    axes.text(shifts[0], to_another, "to the 7", va="bottom", fontsize=9)
    name = {"euclidean": "L2", "wasserstein": "W2 (pixels)"}[metric]
    axes.set(xlabel="shift (pixels)", ylabel=name, ylim=(0, None))


def show_spread(spread: Mapping[str, np.ndarray], source: int, target: np.ndarray) -> None:
    """Draw where the ink of the pixel `source` goes, a panel a plan, over the outline of
    `target`.
    """
    height, width = target.shape
    _, panels = plt.subplots(1, len(spread), figsize=(6.8, 2.1))
    for axes, (title, image) in zip(panels, spread.items(), strict=True):
        plots.show_image(axes, image.reshape(height, width), title)
        axes.contour(target, levels=[target.max() / 4], colors="#9A9A9A", linewidths=0.8)
        row, column = divmod(source, width)
        axes.plot(column, row, "x", color=plots.COLORS["euclidean"], markersize=7)


def error_table(report: Mapping) -> Markdown:
    """The 1-nearest-neighbour errors of the experiment ``nearest_neighbours``, by distance and
    training size.
    """
    sizes = report["config"]["train_sizes"]
    header = ["1-nearest-neighbour error, %", *(f"{size} training digits" for size in sizes)]
    rows = [
        [
            name,
            *((100 * row["mean"], 100 * row["standard_error"]) for row in _curve(report, metric)),
        ]
        for metric, name in _NAMES.items()
    ]
    return tables.table(header, rows, ["", *[".0f"] * len(sizes)])


def error_curves(report: Mapping) -> None:
    """The same errors as curves over the training size."""
    _, axes = plt.subplots(figsize=(6, 3.4))
    for metric in ("euclidean", "intensities", "wasserstein"):
        curve = _curve(report, metric)
        plots.error_bars(
            axes,
            [row["train_size"] for row in curve],
            [100 * row["mean"] for row in curve],
            [100 * row["standard_error"] for row in curve],
            metric,
            label=_NAMES[metric],
        )
    sizes = report["config"]["train_sizes"]
    axes.set(xscale="log", xlabel="training digits", ylabel="error (%)", ylim=(0, None))
    axes.set_xticks(sizes, sizes)
    axes.minorticks_off()
    axes.legend()


def _curve(report: Mapping, metric: str) -> list[Mapping]:
    rows = report["result"]["rows"]
    return [row for row in rows if (row["metric"], row["k"]) == (metric, 1)]


def paired_table(report: Mapping) -> Markdown:
    """All errors, and what W2 saves over L2 of the intensities on the same test digits."""
    truth = np.array(list(report["result"]["labels"]))
    wrong = {
        (row["metric"], row["train_size"], row["k"]): 100.0
        * (np.array(list(row["predictions"])) != truth)
        for row in report["result"]["rows"]
    }
    rows = []
    for size in report["config"]["train_sizes"]:
        for k in report["config"]["neighbours"]:
            errors = [wrong[metric, size, k] for metric in _NAMES]
            saved = wrong["intensities", size, k] - wrong["wasserstein", size, k]
            rows.append([size, k, *map(tables.mean_error, [*errors, saved])])
    return tables.table(["training digits", "k", *_NAMES.values(), "saved by W2, paired"], rows)


def stability_table(benchmark: Mapping) -> Markdown:
    """Two ways to run Sinkhorn's iteration, for smaller and smaller ε."""

    def yes_or_no(right: bool) -> str:
        return "yes" if right else "no"

    rows = [
        [
            row["epsilon"],
            row["sinkhorn_log"],
            "nan" if row["pot_plain"] is None else row["pot_plain"],
            yes_or_no(row["pot_plain_right"]),
            row["sinkhorn_distance"],
            yes_or_no(row["sinkhorn_distance_right"]),
        ]
        for row in benchmark["stability"]
    ]
    header = ["ε", "converged", "plain POT", "it is right", "wdtr_lite", "it is right"]
    return tables.table(header, rows, ["", ".4f", ".4f", "", ".4f", ""])


def scaling_curves(benchmark: Mapping) -> None:
    """What one distance costs, by the number of pixels."""
    rows = benchmark["scaling"]
    _, axes = plt.subplots(figsize=(6, 3.4))
    for key, name, metric, marker in (
        ("linprog_ms", "linprog", "intensities", "^"),
        ("exact_ms", "network simplex", "wasserstein", "o"),
        ("sinkhorn_debiased_ms", "Sinkhorn", "sinkhorn", "D"),
    ):
        measured = [(row["n"], row[key]) for row in rows if row[key] is not None]
        axes.plot(*zip(*measured), color=plots.COLORS[metric], marker=marker, label=name)
    axes.set(xscale="log", yscale="log", xlabel="pixels n", ylabel="time (ms)")
    sizes = [row["n"] for row in rows]
    axes.set_xticks(sizes, sizes)
    axes.minorticks_off()
    axes.legend()


def scaling_table(benchmark: Mapping) -> Markdown:
    """The same costs in numbers, and Sinkhorn's error."""
    rows = [
        [
            row["n"],
            row["linprog_ms"],
            row["exact_ms"],
            row["sinkhorn_debiased_ms"],
            f"{100 * row['sinkhorn_relative_error']:.1f} %",
        ]
        for row in benchmark["scaling"]
    ]
    header = ["pixels", "linprog, ms", "network simplex, ms", "Sinkhorn, ms", "its error"]
    return tables.table(header, rows, ["", ".1f", ".2f", ".1f"])


def speeds(benchmark: Mapping) -> None:
    """Print how many times faster the package is than POT in a loop."""
    exact, pairs = benchmark["exact"], benchmark["pairwise"]
    print(
        f"exact, lit pixels only: {exact['wasserstein_distance_ms']:.2f} ms,",
        f"{exact['median_ratio']:.1f} times faster than the full grid",
    )
    print(
        f"all distances of {pairs['digits']} digits on all cores:",
        f"{pairs['ratio']:.1f} times faster than a loop",
    )
    for row in benchmark["batched_sinkhorn"]:
        print(
            f"{row['batch']} pairs at epsilon = {row['epsilon']:g}:",
            f"{1e3 * row['sinkhorn_distance_s'] / row['batch']:.1f} ms a pair,",
            f"{row['ratio']:.0f} times faster than a loop over POT",
            f"\n    ({row['ratio_to_lit_pixels']:.1f} times, where POT",
            "is given the lit pixels only)",
        )

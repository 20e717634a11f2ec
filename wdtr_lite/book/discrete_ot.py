"""What chapter 1 reports: nearest neighbours in three distances, and what a distance costs."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from matplotlib.axes import Axes

from wdtr_lite import data, transport
from wdtr_lite.book import plots, tables

__all__ = [
    "entropic_curves",
    "entropic_table",
    "error_curves",
    "error_table",
    "opening",
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


def opening() -> None:
    """Draw a 1 that slides to the right, and its L2 and W2 distance to where it was."""
    one = transport.as_measure(data.load("mnist5k").images[503].double().numpy())
    shifts = np.arange(11)
    moved = [np.roll(one, shift, axis=1) for shift in shifts]
    curves = {
        "euclidean": [float(np.linalg.norm(one - image)) for image in moved],
        "wasserstein": [transport.wasserstein_distance(one, image) for image in moved],
    }
    shown = (1, 2, 4, 7, 10)
    figure = plt.figure(figsize=(5.4, 3))
    grid = figure.add_gridspec(2, len(shown), height_ratios=(1, 1.5))
    for column, shift in enumerate(shown):
        axes = figure.add_subplot(grid[0, column])
        plots.show_image(axes, np.maximum(0.35 * one, moved[shift]), f"{shift} px")
    axes = figure.add_subplot(grid[1, :])
    for metric, curve in curves.items():
        axes.plot(
            shifts, np.array(curve) / curve[-1], color=plots.COLORS[metric],
            marker=plots.MARKERS[metric],
        )  # fmt: skip
    axes.text(4, 1.09, "L2: flat from 4 pixels on", color=plots.COLORS["euclidean"])
    axes.text(5.6, 0.4, "W2: the shift itself", color=plots.COLORS["wasserstein"])
    axes.set(xlabel="moved by (pixels)", ylabel="distance / at 10", ylim=(0, 1.3))
    axes.set_xticks(shifts)


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
    axes.text(shifts[0], to_another, "the 7", va="bottom")
    name = {"euclidean": "L2", "wasserstein": "W2 (pixels)"}[metric]
    axes.set(xlabel="shift (pixels)", ylabel=name, ylim=(0, None))


def show_spread(spread: Mapping[str, np.ndarray], source: int, target: np.ndarray) -> None:
    """Draw where the ink of the pixel `source` goes, a panel a plan, over the outline of
    `target`.
    """
    height, width = target.shape
    _, panels = plt.subplots(1, len(spread), figsize=(5.3, 1.9))
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
    """Draw the same errors over the training size, and what W2 saves for each number of
    neighbours.
    """
    _, (left, right) = plt.subplots(1, 2, figsize=(5.6, 2.8), width_ratios=(1.2, 1))
    for metric in ("euclidean", "intensities", "wasserstein"):
        curve = _curve(report, metric)
        plots.error_bars(
            left,
            [row["train_size"] for row in curve],
            [100 * row["mean"] for row in curve],
            [100 * row["standard_error"] for row in curve],
            metric,
            label=_NAMES[metric],
        )
    left.set(ylabel="error (%), k = 1", ylim=(0, 50))
    left.legend(loc="upper right", borderaxespad=0)
    sizes = report["config"]["train_sizes"]
    for shift, (k, marker) in enumerate(
        zip(report["config"]["neighbours"], ("o", "s", "^"), strict=True)
    ):
        saved = [_saved(report, size, k) for size in sizes]
        right.errorbar(
            np.array(sizes) * 1.12 ** (shift - 1),
            [each.mean() for each in saved],
            [each.std(ddof=1) / len(each) ** 0.5 for each in saved],
            fmt=marker, color=plots.COLORS["wasserstein"], alpha=1 - 0.3 * shift, capsize=2,
            label=f"k = {k}",
        )  # fmt: skip
    right.axhline(0, color="black", linewidth=0.8)
    right.set(ylabel="saved by W2 (points)")
    right.legend()
    for axes in (left, right):
        axes.set(xscale="log", xlabel="training digits")
        axes.set_xticks([50, 200, 1000], ["50", "200", "1,000"])
        axes.minorticks_off()


def _curve(report: Mapping, metric: str) -> list[Mapping]:
    rows = report["result"]["rows"]
    return [row for row in rows if (row["metric"], row["k"]) == (metric, 1)]


def _wrong(report: Mapping, metric: str, size: int, k: int) -> np.ndarray:
    """100 for each test digit that is misread, else 0."""
    truth = np.array(list(report["result"]["labels"]))
    (row,) = (
        row
        for row in report["result"]["rows"]
        if (row["metric"], row["train_size"], row["k"]) == (metric, size, k)
    )
    return 100.0 * (np.array(list(row["predictions"])) != truth)


def _saved(report: Mapping, size: int, k: int) -> np.ndarray:
    """What W2 saves over L2 of the intensities, on each test digit."""
    return _wrong(report, "intensities", size, k) - _wrong(report, "wasserstein", size, k)


def paired_table(report: Mapping) -> Markdown:
    """All errors, and what W2 saves over L2 of the intensities on the same test digits."""
    rows = []
    for size in report["config"]["train_sizes"]:
        for k in report["config"]["neighbours"]:
            errors = [_wrong(report, metric, size, k) for metric in _NAMES]
            saved = _saved(report, size, k)
            rows.append([size, k, *map(tables.mean_error, [*errors, saved])])
    return tables.table(["training digits", "k", *_NAMES.values(), "saved by W2, paired"], rows)


def entropic_curves(found: Mapping[float, Mapping[str, float]], exact: float) -> None:
    """Draw Sinkhorn's distances over the weight of the entropy, and the exact one."""
    _, axes = plt.subplots(figsize=(5.6, 2.3))
    weights, color = list(found), plots.COLORS["sinkhorn"]
    for name, style, place in (
        ("entropic", "D-", (1.2, 3.6)),
        ("debiased", "D--", (9, 1.7)),
        ("entropic (x, x)", "D:", (2, 0.45)),
    ):
        axes.semilogx(weights, [found[weight][name] for weight in weights], style, color=color)
        axes.text(*place, name, color=color)
    axes.axhline(exact, color=plots.COLORS["wasserstein"], linewidth=1)
    axes.text(
        weights[0], exact, "exact W2", ha="right", va="bottom", color=plots.COLORS["wasserstein"]
    )
    axes.set(xlabel=r"$\varepsilon_{\mathrm{S}}$ (pixels²)", ylabel="distance (pixels)")
    axes.set(ylim=(0, None))


def entropic_table(found: Mapping[float, Mapping[str, float]], exact: float) -> Markdown:
    """The same in numbers."""
    rows = [[f"{weight:g}", *told.values(), exact] for weight, told in found.items()]
    names = list(next(iter(found.values())))
    return tables.table(["ε_S", *names, "exact W2"], rows, ["", *[".4f"] * (len(names) + 1)])


def stability_table(benchmark: Mapping) -> Markdown:
    """Two ways to run Sinkhorn's iteration, for smaller and smaller ε_S."""

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
    header = ["ε_S", "converged", "plain POT", "it is right", "wdtr_lite", "it is right"]
    return tables.table(header, rows, ["", ".4f", ".4f", "", ".4f", ""])


def scaling_curves(benchmark: Mapping) -> None:
    """Draw what one distance costs, by the number of pixels."""
    rows = benchmark["scaling"]
    _, axes = plt.subplots(figsize=(5.3, 2.9))
    for key, name, metric, marker in (
        ("linprog_ms", "linprog", "intensities", "^"),
        ("exact_ms", "network simplex", "wasserstein", "o"),
        ("sinkhorn_debiased_ms", "Sinkhorn", "sinkhorn", "D"),
    ):
        measured = [(row["n"], row[key]) for row in rows if row[key] is not None]
        axes.plot(*zip(*measured, strict=True), color=plots.COLORS[metric], marker=marker)
        n, time = measured[-1]
        low = key == "exact_ms"
        at = {"xy": (n, time), "xytext": (8, -8 if low else 0), "textcoords": "offset points"}
        axes.annotate(name, **at, color=plots.COLORS[metric])
    axes.set(xscale="log", yscale="log", xlabel="pixels n", ylabel="time (ms)", xlim=(40, 16000))
    sizes = [row["n"] for row in rows]
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()


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

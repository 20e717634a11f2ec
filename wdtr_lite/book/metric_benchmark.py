"""What chapters 3, 4 and 5 report of ``benchmarks/metric.py``."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from IPython.display import Markdown

from wdtr_lite.book import plots, tables

__all__ = [
    "accuracy",
    "draw_gradient_norms",
    "gradient_norms",
    "laplacian_costs",
    "laplacian_errors",
    "sampling",
]


def gradient_norms(benchmark: Mapping) -> Markdown:
    """Window sums against Algorithm 1, by radius."""
    rows = [
        [
            row["radius"],
            row["forward_ms"],
            row["forward_algorithm1_ms"],
            row["forward_ratio"],
            row["forward_backward_ratio"],
        ]
        for row in benchmark["gradient_norm"]
        if row["device"] == "cpu" and row["radius"] > 1
    ]
    header = ["r", "window sums (ms)", "Algorithm 1 (ms)", "ratio", "ratio, with derivative"]
    return tables.table(header, rows, ["", ".2f", ".0f", ".0f", ".0f"])


def draw_gradient_norms(benchmark: Mapping) -> None:
    """Draw what the gradient norm costs by window sums and by Algorithm 1, over the radius."""
    rows = [
        row for row in benchmark["gradient_norm"] if row["device"] == "cpu" and row["radius"] > 1
    ]
    radii = [row["radius"] for row in rows]
    _, axes = plt.subplots(figsize=(5.3, 2.4))
    for key, name, metric in (
        ("forward_algorithm1_ms", "Algorithm 1, mended", "intensities"),
        ("forward_ms", "sums over windows", "wasserstein"),
    ):
        times = [row[key] for row in rows]
        axes.semilogy(radii, times, color=plots.COLORS[metric], marker=plots.MARKERS[metric])
        at = {"xy": (radii[-1], times[-1]), "xytext": (10, -4), "textcoords": "offset points"}
        axes.annotate(f"{times[-1]:.3g} ms:\n{name}", **at, color=plots.COLORS[metric])
    axes.set(xlabel="radius r", ylabel="time (ms)", xticks=radii, xlim=(1.5, 11.5), ylim=(1, 2000))


def accuracy(benchmark: Mapping) -> None:
    """Print what float32 loses in the gradient norm, by the kind of gradient."""
    print("largest error in float32, over r = 2, 4, 6, 8:")
    for name in (
        "normal",
        "normal + 50",
        "plateaus + 1e-4 noise",
        "constant",
        "two plateaus + 1e-2 noise",
        "two plateaus + 1e-4 noise",
    ):
        cases = [row for row in benchmark["accuracy"] if row["gradient"] == name]
        assert min(row["smallest_value"] for row in cases) >= 0
        error = max(row["relative_error"] or 0 for row in cases)
        print(f"{name:26s} relative {error:.1e}")


def sampling(benchmark: Mapping) -> None:
    """Print what a sample of the noise costs, against factors of its covariance."""
    timing = benchmark["noise_sampling"]
    print(
        f"one sample for each of {timing['images']:,} images of",
        f"{timing['side']} × {timing['side']}, r = {timing['radius']}:",
    )
    print(f"  parcels           {timing['sample_s']:6.1f} s")
    for name, key in (("Cholesky factors", "cholesky"), ("eigenvectors", "eigh")):
        print(
            f"  {name:17s} {timing[f'{key}_s_scaled']:6.1f} s,",
            f"{timing[f'ratio_to_{key}']:.0f} times as long",
        )


def laplacian_errors(benchmark: Mapping) -> Markdown:
    """How exact the sampled Laplace-Beltrami operator is, by the number of samples."""
    rows = [
        [
            row["samples"],
            f"{100 * row['relative_error']:.1f} %",
            f"{100 * row['within_two_standard_errors']:.0f} %",
        ]
        for row in benchmark["laplace_beltrami_error"]
    ]
    return tables.table(["samples", "error (rms)", "within two error bars"], rows)


def laplacian_costs(benchmark: Mapping) -> Markdown:
    """What the operator costs, exactly and by 100 samples, by the size of the image."""
    rows = [
        [row["shape"].replace("x", " × "), row["n"], row["exact_s"], row["samples_100_s"]]
        for row in benchmark["laplace_beltrami_cost"]
    ]
    return tables.table(
        ["image", "n", "exact (s)", "100 samples (s)"], rows, ["", "", ".2f", ".2f"]
    )

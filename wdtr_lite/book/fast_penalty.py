"""What chapter 7 draws, and what it reports of ``benchmarks/training.py`` and ``precision.py``."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display
from torch.utils._python_dispatch import TorchDispatchMode

from wdtr_lite import study
from wdtr_lite.book import plots, tables
from wdtr_lite.book.plots import BLUE, GREEN, GREY, RED

__all__ = [
    "compilation",
    "cost_table",
    "count_table",
    "draw_radii",
    "draw_steps",
    "every_number",
    "gpu_table",
    "ladder",
    "metric_table",
    "networks_table",
    "opening",
    "operations",
    "precision_table",
    "prototype_table",
    "radius_table",
    "target_table",
]

_STEPS = {
    "plain": "plain",
    "gaussian noise": "Gaussian noise",
    "W noise r=2": "Wasserstein noise, r = 2",
    "euclidean": "Euclidean (L2) penalty",
    **{f"W r={r}": f"Wasserstein penalty, r = {r}" for r in (2, 4, 6, 8)},
    "W r=8, README": "– r = 8, as three lines",
    "euclidean, FD": "Euclidean, finite difference",
    "W r=8, FD": "Wasserstein r = 8, finite difference",
    "W r=8, FD central": "– central",
    "fgsm": "FGSM adversarial training",
    "pgd-7": "PGD-7 adversarial training",
    "plain, bf16": "plain, bfloat16",
    "W r=8, bf16": "Wasserstein r = 8, bfloat16",
    "plain, compiled": "plain, one compiled graph",
    "W r=8, compiled": "Wasserstein r = 8, one compiled graph",
    "W r=8, FD, compiled": "– finite difference, one compiled graph",
}

_LADDER = {
    "W r=8, naive": "as torch does it, beside the loop's own pass",
    "W r=8, torch's": "+ one pass for outputs, loss and penalty",
    "W r=8": "+ second derivatives by the library's kernels",
    "W r=8, FD": "or: a finite difference",
    "W r=8, compiled": "or: one compiled graph",
}

_OPENING = {
    "plain": (("plain",), "black"),
    "FGSM training": (("fgsm",), GREEN),
    "penalty, finite difference": (("W r=8, FD",), BLUE),
    "Wasserstein penalty": (tuple(f"W r={r}" for r in (2, 4, 6, 8)), BLUE),
    "Euclidean penalty": (("euclidean",), RED),
    "PGD-7 training": (("pgd-7",), GREEN),
}


def opening() -> None:
    """Draw what a step of each kind of training takes, in plain steps: the chapter in a picture."""
    plots.style()
    measured = _on_cpu(study.stored("benchmark_training"))
    _, axes = plt.subplots(figsize=(4.6, 2.3))
    for place, (keys, color) in enumerate(reversed(_OPENING.values())):
        ratios = [measured[key]["ratio"] for key in keys]
        axes.hlines(place, 0, max(ratios), color="#d9d9d9", linewidth=1)
        axes.plot(ratios, [place] * len(ratios), "o", color=color, markersize=6)
        text = f"{min(ratios):.1f}" + (f" to {max(ratios):.1f}" if len(ratios) > 1 else "")
        if len(ratios) > 1:
            text += ", r = 2, 4, 6, 8"
        axes.text(max(ratios) + 0.15, place, text, va="center", fontsize=9.5)
    plots.name_rows(axes, list(_OPENING))
    axes.set_xlim(0, 6.9)
    axes.set_xlabel("time of a step, in plain steps", fontsize=10)


def draw_radii(radii: Sequence[int], times: Mapping[str, Sequence[float]]) -> None:
    """Draw times in ms of Algorithm 1 and of its replacements against the radius."""
    _, axes = plt.subplots(figsize=(4.6, 2.4))
    looks = zip(times.items(), (RED, BLUE, GREEN), "soD", strict=True)
    for (name, values), color, marker in looks:
        axes.loglog(radii, values, marker + "-", color=color, markersize=5)
        above = name != "band matrices"
        axes.annotate(
            name, (radii[1], values[1]), (0, 9 if above else -9), textcoords="offset points",
            ha="center", va="bottom" if above else "top", color=color, fontsize=10,
        )  # fmt: skip
    pairs = np.array([_pairs(radius) for radius in radii])
    axes.loglog(radii, pairs * times["Algorithm 1"][1] / pairs[1], ":", color=GREY)
    axes.set_xticks(radii, [str(radius) for radius in radii])
    axes.minorticks_off()
    axes.set(xlabel="radius r (pixels)", ylabel="time (ms)")
    axes.set_ylim(min(min(values) for values in times.values()) / 6, None)


def _pairs(radius: int) -> int:
    """Pairs of opposite neighbours, each of which is a turn of Algorithm 1's loop."""
    return ((2 * radius + 1) ** 2 - 1) // 2


def radius_table(radii: Sequence[int], times: Mapping[str, Sequence[float]]) -> Markdown:
    """The same times as numbers."""
    rows = [[r, _pairs(r), *ms] for r, *ms in zip(radii, *times.values(), strict=True)]
    return tables.table(["r", "pairs", *(f"{name} (ms)" for name in times)], rows,
                        ["", "", *[".2f"] * len(times)])  # fmt: skip


def count_table(counts: Mapping[str, Mapping[str, int]]) -> Markdown:
    """How many calls each kind of step makes, and how many of two kinds of layers."""
    rows = [
        [
            name,
            sum(found.values()),
            sum(n for call, n in found.items() if call.startswith("convolution")),
            sum(n for call, n in found.items() if "batch_norm" in call),
        ]
        for name, found in counts.items()
    ]
    return tables.table(["step", "calls", "of convolutions", "of batch norms"], rows)


def draw_steps(
    steps: np.ndarray, errors: Mapping[tuple[str, bool], Sequence[float]], single: float
) -> None:
    """Draw the error of a finite difference over its step, by precision and whether central, and
    that of double back-propagation in float32, `single`.
    """
    _, axes = plt.subplots(figsize=(4.5, 2.9))
    for (dtype, central), values in errors.items():
        axes.loglog(
            steps, values, "-" if dtype == "float32" else "--",
            marker="D" if central else "o", markersize=4.5, color=GREEN if central else BLUE,
        )  # fmt: skip
    axes.axhline(single, linestyle=":", color="black")
    axes.axvline(5e-3, color=GREY, linewidth=0.8)
    for x, y, text, color in (
        (6e-8, 3e-2, "float32", "black"),
        (6e-8, 5e-9, "float64", "black"),
        (8e-3, 0.6, "one-sided", BLUE),
        (7e-2, 1.5e-4, "central", GREEN),
        (6e-3, 2e-10, "default step", GREY),
    ):
        axes.text(x, y, text, color=color, fontsize=9.5)
    axes.set(xlabel="step: largest ‖h w‖ (L2 of intensities)")
    axes.set(ylabel="relative error", ylim=(1e-10, 20), xlim=(4e-8, 2))


def _on_cpu(benchmark: Mapping) -> dict[str, Mapping]:
    return {row["step"]: row for row in benchmark["step_costs"] if row["device"] == "cpu"}


def cost_table(benchmark: Mapping) -> Markdown:
    """What each kind of training step costs."""
    measured = _on_cpu(benchmark)
    columns = ("ms", "ratio", "gflop", "peak_mib")
    rows = [[name, *(measured[key][column] for column in columns)] for key, name in _STEPS.items()]
    header = ["step", "ms", "of a plain step", "GFLOP", "memory (MiB)"]
    return tables.table(header, rows, ["", ",.0f", ".2f", ".1f", ",.0f"])


def compilation(benchmark: Mapping) -> None:
    """Print how long compiling takes."""
    for key in ("plain", "W r=8", "W r=8, FD"):
        seconds = _on_cpu(benchmark)[f"{key}, compiled"]["compile_s"]
        print(f"compiling, {key}: {'not run' if seconds is None else f'{seconds:.0f}'} s, once")


def ladder(benchmark: Mapping) -> None:
    """Draw what a penalised step takes, in plain ones, remedy by remedy."""
    measured = _on_cpu(benchmark)
    _, axes = plt.subplots(figsize=(4.5, 2.6))
    for place, (key, text) in zip(range(len(_LADDER), 0, -1), _LADDER.items(), strict=True):
        ratio = measured[key]["ratio"] or 0.0
        axes.barh(place, ratio, color=BLUE, height=0.32)
        axes.text(ratio + 0.05, place, f"{ratio:.2f}" if ratio else "not run", va="center",
                  fontsize=9.5)  # fmt: skip
        axes.text(0.03, place + 0.36, text, va="center", fontsize=9.5,
                  bbox={"fc": "white", "ec": "none", "pad": 0.5})  # fmt: skip
    axes.axvline(1, color="black", linewidth=1, zorder=0)
    axes.axvline(2, color=GREY, linewidth=1, linestyle="--", zorder=0)
    axes.set(yticks=[], xlim=(0, 4.5), ylim=(0.6, len(_LADDER) + 0.7))
    axes.set_xlabel("time of a step, in plain steps; dashed: by products", fontsize=10)


def operations(step: Callable[[], object]) -> Mapping[str, int]:
    """How often a step calls each of torch's functions that computes values, by name."""
    with _Counting() as counting:
        step()
    return counting.found


class _Counting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        returned = [r.alias_info for r in func._schema.returns]
        if all(alias is None or alias.is_write for alias in returned):  # else a view
            self.found[str(func._overloadpacket).removeprefix("aten.")] += 1
        return func(*args, **(kwargs or {}))


def networks_table(benchmark: Mapping) -> Markdown:
    """What the penalty costs networks that are not the book's."""
    rows = [
        [row["network"], row["plain_ms"], *(row[key] for key in ("torchs", "ours", "fd"))]
        for row in benchmark["other_networks"]
        if row["device"] == "cpu"
    ]
    header = ["network", "plain (ms)", "torch's", "the package's", "difference"]
    return tables.table(header, rows, ["", ",.0f", ".2f", ".2f", ".2f"])


def every_number(benchmark: Mapping, precision: Mapping) -> None:
    """Show all tables of the two benchmarks, each under a line that names it."""
    for title, shown in {
        "Training steps": cost_table(benchmark),
        "The metric alone": metric_table(benchmark),
        "Other networks: a penalised step over a plain one": networks_table(benchmark),
        "float32 and bfloat16, mean ± sd over three seeds": precision_table(precision),
        "What was aimed at": target_table(benchmark),
    }.items():
        display(Markdown(f"**{title}**"), shown)


def prototype_table(prototype: Mapping) -> Markdown:
    """What a prototype of the compiled step measured on a GPU."""
    rows = [[row["step"], row["precision"], row["networks"], row["engine_ms"], row["graph_ms"]]
            for row in prototype["steps"]]  # fmt: skip
    header = ["step, ms", "precision", "at once", "replayed", "compiled"]
    return tables.table(header, rows, ["", "", "", ".1f", ".1f"])


def metric_table(benchmark: Mapping) -> Markdown:
    """What the metric alone costs, by radius, with window sums and with Algorithm 1."""

    def share(ratio: float, places: int) -> str:
        return f"{100 * ratio:,.{places}f} %"

    rows = []
    for row in benchmark["penalty_alone"]:
        if row["device"] == "cpu":
            rows.append([row["radius"], row["ours_ms"], share(row["ours_over_plain_step"], 2)])
            slow = row["algorithm1_ms"]
            rows[-1] += (
                ["–", "–"] if slow is None else [slow, share(row["algorithm1_over_plain_step"], 0)]
            )
    header = ["r", "window sums (ms)", "of a plain step", "Algorithm 1 (ms)", "of a plain step"]
    return tables.table(header, rows, ["", ".2f", "", ",.0f"])


def target_table(benchmark: Mapping) -> Markdown:
    """What was promised of the ratios, and what was measured."""
    rows = [
        [
            row["target"].replace("<=", "≤"),
            row["measured"],
            "met" if row["met"] else "**missed**",
        ]
        for row in benchmark["targets"]
    ]
    return tables.table(["ratio of times", "measured", ""], rows)


def precision_table(benchmark: Mapping) -> Markdown:
    """Training in float32 and in bfloat16, from three seeds."""
    assert {row["n"] for row in benchmark["precision"]} == {3}
    rows = [
        [
            {"none": "none", "wasserstein": "Wasserstein"}[row["method"]],
            row["precision"],
            (row["training_loss_mean"], row["training_loss_sd"]),
            (100 * row["test_error_mean"], 100 * row["test_error_sd"]),
        ]
        for row in benchmark["precision"]
    ]
    header = ["penalty", "precision", "loss", "error (%)"]
    return tables.table(header, rows, ["", "", ".4f", ".2f"])


def gpu_table(benchmark: Mapping) -> Markdown | None:
    """Print the GPU, if one was measured, and return what it does in a second."""
    measured = benchmark["gpu_throughput"]
    print(f"on a GPU: {measured[0]['device'] if measured else 'not run'}")
    if not measured:
        return None
    rows = [
        [
            _STEPS[row["step"]],
            row["precision"],
            row["networks"],
            row["eager_images_per_second"] if row["networks"] == 1 else "",
            row["captured_images_per_second"],
            row["hours_200_epochs"],
            row["floor_hours"],
        ]
        for row in measured
    ]
    header = ["step", "precision", "networks at once", "images / s, eager"]
    header += ["captured", "hours for 200 epochs", "at peak arithmetic"]
    return tables.table(header, rows, ["", "", "", ",d", ",d", ".2f", ".3f"])

"""What chapter 7 draws, and what it reports of ``benchmarks/training.py`` and ``precision.py``."""

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch.utils._python_dispatch import TorchDispatchMode

from wdtr_lite.book import plots, tables
from wdtr_lite.transport.measures import Image

__all__ = [
    "box_sum",
    "compilation",
    "cost_table",
    "double_backpropagation",
    "gpu_table",
    "ladder",
    "metric_table",
    "networks_table",
    "operations",
    "precision_table",
    "prototype_table",
    "target_table",
]

_BLUE, _RED, _GREY = (plots.COLORS[key] for key in ("wasserstein", "euclidean", "intensities"))

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
    "W r=8, naive": "double back-propagation as torch does it, beside the loop's own pass",
    "W r=8, torch's": "one pass for outputs, loss and penalty",
    "W r=8": "second derivatives by the library's kernels",
    "W r=8, FD": "a finite difference in place of second derivatives",
    "W r=8, compiled": "double back-propagation as one compiled graph",
}


def double_backpropagation() -> None:
    """Draw a network of two layers, its first backward pass and the second one through both."""
    _, axes = plt.subplots(figsize=(6.8, 2.7))
    axes.set(xlim=(-1.75, 3.45), ylim=(-0.45, 1.4))
    axes.axis("off")
    _passes(axes)
    _weights(axes)
    _second_pass(axes)
    for y, name, color in (
        (1.15, "forward", "black"),
        (0.9, "first backward", _BLUE),
        (0.65, "second backward", _RED),
    ):
        axes.text(-1.6, y, name, color=color, va="center", fontsize=10)


def _passes(axes: Axes) -> None:
    nodes = {
        "x": (0, 1), "a": (1, 1), "h": (2, 1), "ℓ": (3, 1),
        "ℓ'": (3, 0), r"$\bar h$": (2, 0), r"$\bar a$": (1, 0), "g": (0, 0),
        "P = gᵀL g": (-1.25, 0),
    }  # fmt: skip
    for k, (start, end) in enumerate(pairwise(nodes.values())):
        wide = start == nodes["g"]  # what it leads to is a wide box
        _arrow(axes, start, end, "black" if k < 3 else _BLUE, gaps=(15, 24 if wide else 15))
    for name, place in nodes.items():
        _box(axes, place, name, "round,pad=0.35", "black" if place[1] else _BLUE)


def _weights(axes: Axes) -> None:
    for x, name in ((0.5, "$W_1$"), (2.5, "$W_2$")):
        for end in (1, 0):
            axes.plot((x, x), (0.5, end), color=_GREY, linewidth=1)
            _arrow(axes, (x + 0.06, end), (x + 0.06, 0.5), _RED, line="--", gaps=(9, 9))
        _box(axes, (x, 0.5), name, "square,pad=0.3", _GREY)
    axes.plot((1, 1), (0.82, 0.18), ":", color=_GREY)
    _arrow(axes, (1.06, 0), (1.06, 1), _RED, line="--")
    axes.text(1.13, 0.5, "s'(a)", color=_GREY, va="center", fontsize=10)


def _second_pass(axes: Axes) -> None:
    below, above = -0.08, 1.08
    for x, end in pairwise((-1.25, 0, 1, 2, 3)):
        _arrow(axes, (x, below), (end, below), _RED, bend=0.35, line="--")
    _arrow(axes, (3.08, 0), (3.08, 1), _RED, bend=0.35, line="--")
    for x in (3, 2):
        _arrow(axes, (x, above), (x - 1, above), _RED, bend=0.35, line="--")


def _arrow(axes: Axes, start, end, color: str, bend=0.0, line="-", gaps=(15, 15)) -> None:
    axes.annotate(
        "", end, start,
        arrowprops={
            "arrowstyle": "->", "color": color, "linestyle": line, "lw": 1.6,
            "connectionstyle": f"arc3,rad={bend}", "shrinkA": gaps[0], "shrinkB": gaps[1],
        },
    )  # fmt: skip


def _box(axes: Axes, place, name: str, style: str, edge: str) -> None:
    box = {"boxstyle": style, "fc": "white", "ec": edge}
    axes.text(place[0], place[1], name, ha="center", va="center", fontsize=11, bbox=box)


def box_sum(image: Image, radius: int, row: int, column: int) -> None:
    """Draw a window of an image and the one a pixel to its right, the image's sums along rows and
    then along columns, and the pixel where both end.
    """
    side = np.arange(len(image))
    band = (abs(side[:, None] - side) <= radius).astype(float)
    along_rows = image @ band
    panels = {
        "v: one column leaves, one enters": image,
        "v T: sums along rows": along_rows,
        "T v T: sums over windows": band @ along_rows,
    }
    _, axes = plt.subplots(1, 3, figsize=(8.2, 3.1))
    for ax, (title, values) in zip(axes, panels.items(), strict=True):
        plots.show_image(ax, values, title)
    top, left, size = row - radius - 0.5, column - radius - 0.5, 2 * radius + 1
    _patch(axes[0], (left, top), (size, size), _GREY)
    _patch(axes[0], (left, top), (1, size), _RED, hatch="////")
    _patch(axes[0], (left + size, top), (1, size), _BLUE, hatch="\\\\\\\\")
    _patch(axes[1], (column - 0.5, top), (1, size), _BLUE)
    for ax in axes[1:]:
        _patch(ax, (column - 0.5, row - 0.5), (1, 1), _RED)


def _patch(axes: Axes, corner, size, color: str, hatch: str | None = None) -> None:
    axes.add_patch(Rectangle(corner, *size, fill=False, ec=color, lw=1.6, hatch=hatch))


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
    ratios = [measured[key]["ratio"] or 0.0 for key in _LADDER]
    _, axes = plt.subplots(figsize=(7.2, 2.6))
    places = np.arange(len(ratios))[::-1]
    bars = axes.barh(places, ratios, color=_BLUE, height=0.6)
    axes.bar_label(bars, [f"{r:.2f}" if r else "not run" for r in ratios], padding=4)
    axes.set_yticks(places, _LADDER.values())
    axes.axvline(1, color="black", linewidth=1)
    axes.axvline(2, color=_GREY, linewidth=1, linestyle="--")
    axes.set(xlabel="time of a step, in plain steps (black); dashed: by products")
    axes.margins(x=0.12)


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
    header = ["network", "plain (ms)", "torch's derivatives", "the package's", "finite difference"]
    return tables.table(header, rows, ["", ",.0f", ".2f", ".2f", ".2f"])


def prototype_table(prototype: Mapping) -> Markdown:
    """What a prototype of the compiled step measured on a GPU."""
    rows = [[row["step"], row["precision"], row["networks"], row["engine_ms"], row["graph_ms"]]
            for row in prototype["steps"]]  # fmt: skip
    header = ["step", "precision", "networks at once", "torch's derivatives, captured (ms)"]
    return tables.table([*header, "one compiled graph (ms)"], rows, ["", "", "", ".1f", ".1f"])


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
    """Training in float32 and in bfloat16."""
    rows = [
        [
            {"none": "none", "wasserstein": "Wasserstein"}[row["method"]],
            row["precision"],
            row["n"],
            (row["training_loss_mean"], row["training_loss_sd"]),
            (100 * row["test_error_mean"], 100 * row["test_error_sd"]),
        ]
        for row in benchmark["precision"]
    ]
    header = ["penalty", "precision", "n", "training loss", "test error (%)"]
    return tables.table(header, rows, ["", "", "", ".4f", ".2f"])


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

"""Gradients in the pixels: how a penalty on them is differentiated, what it does to them, and what
attacks make of them. Chapters 7 and 8.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from wdtr_lite.book import plots, reports, widgets
from wdtr_lite.book.plots import BLUE, GREEN, GREY, RED

__all__ = [
    "PASSES",
    "draw_pass",
    "show_attacks",
    "show_norms",
    "show_pairs",
    "show_versions",
    "step_through",
]

_PALE, _READ = "#d9d9d9", "#ffe9a8"

_NODES = {
    "x": (0, 2), "a": (1, 2), "z": (2, 2), "ℓ": (3, 2),
    "ℓ'": (3, 0), "z̄": (2, 0), "ā": (1, 0), "g": (0, 0),
    "P": (0, -1), "W1": (0.5, 1), "W2": (2.5, 1),
}  # fmt: skip
_TEXT = {
    "P": r"P = g$^\top$L(x) g", "W1": "$W_1$", "W2": "$W_2$", "z̄": r"$\bar z$", "ā": r"$\bar a$",
}  # fmt: skip
_FORWARD, _BACKWARD = ("x", "a", "z", "ℓ"), ("ℓ'", "z̄", "ā", "g")

PASSES = {
    "forward": {
        "made": "a, z and the loss ℓ",
        "read": "the image x and both weights",
        "units": "one unit a layer",
        "color": "black",
    },
    "first backward": {
        "made": "the derivative of ℓ in z, in a and in x, which is g",
        "read": "both weights again, and a for the activation's slope s'(a)",
        "units": "one unit a layer, since it goes to the input only",
        "color": BLUE,
    },
    "penalty": {
        "made": "one number an image, P",
        "read": "g, and x for the metric L(x)",
        "units": "next to nothing, at any radius",
        "color": GREEN,
    },
    "second backward": {
        "made": "the derivative of P in both weights, each from both rows",
        "read": "everything that was made before, right to left and back",
        "units": "four units a layer, two along each row",
        "color": RED,
    },
}
"""What the passes of a penalised step make, read and cost, in their order. A unit is a layer's
forward product.
"""

_MADE = (
    {"a", "z", "ℓ"},
    {"ℓ'", "z̄", "ā", "g"},
    {"P"},
    set(),
)
_READS = (
    {"x", "W1", "W2"},
    {"ℓ", "W1", "W2", "a"},
    {"g", "x"},
    set(_NODES) - {"P"},
)


def draw_pass(step: int) -> Figure:
    """Draw the graph of a penalised step as it is after `step` of the four :data:`PASSES`."""
    figure, axes = plt.subplots(figsize=(4.2, 3.1))
    axes.set(xlim=(-0.85, 3.45), ylim=(-1.4, 2.75))
    axes.axis("off")
    colors = [each["color"] for each in PASSES.values()]
    if step == 4:
        colors[:3] = ["black"] * 3
    _edges(axes, step, colors)
    name = list(PASSES)[step - 1]
    axes.text(-0.8, 2.65, f"{step}  {name}", fontsize=12, weight="bold", color=colors[step - 1])
    made = {"x", "W1", "W2"}.union(*_MADE[:step])
    for node, (x, y) in _NODES.items():
        now = node in _MADE[step - 1]
        there = node in made
        axes.text(
            x, y, _TEXT.get(node, node), ha="center" if node != "P" else "left", va="center",
            fontsize=11, color="black" if there else _PALE,
            bbox={
                "boxstyle": ("square" if node.startswith("W") else "round") + ",pad=0.35",
                "fc": _READ if node in _READS[step - 1] else "white",
                "ec": colors[step - 1] if now else "black" if there else _PALE,
                "lw": 2.4 if now else 1,
            },
        )  # fmt: skip
    axes.text(1.3, -0.9, "yellow: read in this pass", fontsize=9.5, va="center")
    told = "bold: made in this pass" if step < 4 else "dashed: the way to both weights"
    axes.text(1.3, -1.2, told, fontsize=9.5, va="center", color=colors[step - 1])
    return figure


def _edges(axes: Axes, step: int, colors: list[str]) -> None:
    chain = [*_FORWARD, *_BACKWARD, "P"]
    for k, (start, end) in enumerate(pairwise(chain)):
        made_in = 1 if k < 3 else 3 if end == "P" else 2
        color = _PALE if made_in > step else colors[made_in - 1] if made_in == step else "black"
        _arrow(axes, _NODES[start], _NODES[end], color, width=2.2 if made_in == step else 1.2)
    for weight, x in (("W1", 0.5), ("W2", 2.5)):
        for made_in, y in ((1, 2), (2, 0)):
            color = _PALE if made_in > step else colors[0] if made_in < step else colors[step - 1]
            axes.plot((x, x), (_NODES[weight][1], y), color=color, linewidth=1.2, zorder=0)
    if step >= 2:  # the slope of the activation
        axes.plot((1, 1), (2, 0), ":", color=GREY, linewidth=1.4, zorder=0)
        axes.text(1.08, 1.0, "s'(a)", color=GREY, fontsize=10, va="center")
    if step >= 3:  # the metric
        axes.annotate("", (-0.12, -0.75), (-0.12, 1.86), arrowprops={
            "arrowstyle": "->", "color": GREY, "ls": ":", "lw": 1.4,
            "connectionstyle": "arc3,rad=0.3", "shrinkA": 4, "shrinkB": 2,
        })  # fmt: skip
        axes.text(-0.85, 0.2, "L(x)", color=GREY, fontsize=10, va="center")
    if step == 4:
        _second(axes)


def _second(axes: Axes) -> None:
    """The second pass: up from P, to the right along the lower row, to the left along the upper."""
    _arrow(axes, (0.12, -1), (0.12, 0), RED, line="--", width=1.8)
    for x in range(3):
        _arrow(axes, (x, -0.08), (x + 1, -0.08), RED, bend=0.4, line="--", width=1.8)
        _arrow(axes, (3 - x, 2.08), (2 - x, 2.08), RED, bend=0.4, line="--", width=1.8)
    _arrow(axes, (3.08, 0), (3.08, 2), RED, bend=0.3, line="--", width=1.8)
    _arrow(axes, (0.93, 0), (0.93, 2), RED, line="--", width=1.4)
    for x in (0.5, 2.5):
        for y in (0, 2):
            _arrow(axes, (x + 0.09, y), (x + 0.09, 1), RED, line="--", width=1.8, gaps=(2, 12))


def _arrow(axes: Axes, start, end, color: str, *, bend=0.0, line="-", width=1.6, gaps=(14, 14)):
    axes.annotate(
        "", end, start, zorder=1,
        arrowprops={
            "arrowstyle": "->", "color": color, "linestyle": line, "lw": width,
            "connectionstyle": f"arc3,rad={bend}", "shrinkA": gaps[0], "shrinkB": gaps[1],
        },
    )  # fmt: skip


def step_through() -> None:
    """Let the reader step through the four passes of a penalised training step."""
    names = list(PASSES)

    def describe(step: int) -> str:
        told = PASSES[names[step - 1]]
        return (
            f"Step {step} of 4, {names[step - 1]}: it makes {told['made']}; it reads "
            f"{told['read']}. Cost: {told['units']}."
        )

    widgets.explore(
        draw_pass,
        {"step": [1, 2, 3, 4]},
        question="Step through it. Which tensors of the forward pass are read by the second "
        "backward pass, and how often does each weight receive a derivative?",
        describe=describe,
    )


def show_versions(
    versions: Mapping[str, Tensor], probabilities: Sequence[Tensor], digit: int
) -> None:
    """Draw one digit in all its versions, (N, 1, H, W) each, and the answers to them, of
    probabilities (N, K) each.
    """
    columns = -(-len(versions) // 2)
    _, grid = plt.subplots(2, columns, figsize=(4.6, 3.3))
    for axes in grid.flat[len(versions) :]:
        axes.axis("off")
    used = grid.flat[: len(versions)]
    for axes, (name, images), belief in zip(used, versions.items(), probabilities, strict=True):
        value, label = belief[digit].max(0)
        plots.show_image(axes, images[digit, 0].numpy(), vmax=1)
        axes.set_title(name, fontsize=9.5)
        axes.set_xlabel(f"{int(label)} ({float(value):.2f})", fontsize=9.5)


def show_attacks(image: Tensor, attacked: Mapping[str, Tensor]) -> None:
    """Draw a digit (H, W), two attacked versions of it, and their changes."""
    _, grid = plt.subplots(2, 3, figsize=(4.6, 3.1))
    plots.show_image(grid[0, 0], image.numpy(), "digit", vmax=1)
    grid[1, 0].axis("off")
    for column, (name, version) in zip(grid[:, 1:].T, attacked.items(), strict=True):
        plots.show_image(column[0], version.numpy(), name, vmax=1)
        plots.show_change(column[1], (version - image).numpy(), "its change", vmax=0.25)
    for axes in grid.flat:
        axes.title.set_fontsize(9.5)


def show_pairs(
    image: Tensor, pairs: Mapping[str, tuple[Tensor, Tensor]], lengths: Mapping[str, tuple]
) -> None:
    """Draw a digit's gradient g and L(x) g (H, W) in each network, a column each, with their
    lengths ‖g‖_E and ‖g‖_W below. Each picture has its own scale.
    """
    _, grid = plt.subplots(2, len(pairs), figsize=(4.5, 3.0))
    for column, (name, both) in zip(grid.T, pairs.items(), strict=True):
        for axes, change, label, length in zip(
            column, both, ("‖g‖$_E$", "‖g‖$_W$"), lengths[name], strict=True
        ):
            plots.show_change(axes, change.numpy())
            axes.contour(image.numpy(), [0.5], colors="black", linewidths=0.6)
            axes.set_xlabel(f"{label} = {length:.2g}", fontsize=9.5)
        column[0].set_title(name, fontsize=9.5)
    for axes, label in zip(grid[:, 0], ("g", "L(x) g"), strict=True):
        axes.set_ylabel(label, fontsize=11, rotation=0, labelpad=18, va="center")


def show_norms(norms: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Draw histograms of the Euclidean and the Wasserstein norms, (2, N), of each network."""
    _, panels = plt.subplots(1, 2, figsize=(4.5, 2.4), sharey=True)
    bins = np.logspace(-5, 1.5, 40).tolist()
    for k, (axes, name) in enumerate(zip(panels, ("‖g‖$_E$", "‖g‖$_W$"), strict=True)):
        for place, (method, both) in enumerate(norms.items()):
            tint = plots.color_of(method)
            axes.hist(both[k], bins, histtype="step", color=tint, linewidth=1.6)
            if k == 0:
                axes.text(0.03, 0.93 - 0.11 * place, reports.short(method), color=tint,
                          fontsize=9.5, transform=axes.transAxes)  # fmt: skip
        axes.set(xscale="log", ylim=(0, 125))
        axes.set_xlabel(name, fontsize=10)
        axes.tick_params(labelsize=9.5)
    panels[0].set_ylabel("digits", fontsize=9.5)

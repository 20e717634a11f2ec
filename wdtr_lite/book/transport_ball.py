"""What the section on the transport ball draws and reports: two Wasserstein balls."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import minimize
from torch import Tensor, nn

from wdtr_lite import data, study
from wdtr_lite.book import plots, reports, sprint, tables
from wdtr_lite.study.transport_ball import BALLS, metric_length, static_length

__all__ = [
    "NAMES",
    "attack_told",
    "draw_attack",
    "draw_errors",
    "draw_photographs",
    "error_table",
    "length_table",
    "lengths",
    "nearest",
    "opening",
    "photograph_table",
    "rows",
    "search_table",
    "step_table",
]

NAMES = {
    "none": "plain",
    "euclidean": "Euclidean",
    "wasserstein": "Wasserstein",
    "pgd": "PGD",
    "wasserstein_attack": "ball",
}
"""What the section calls the networks."""

CONDITIONS = {
    "natural": "natural",
    "pgd 0.1": "PGD 0.1",
    "metric 4": "metric ball, 4",
    "static 4": "transport ball, 4",
}

_BALLS = {"metric": BALLS["metric"], "transport": BALLS["static"]}
_LOOKS = {"metric": (plots.COLORS["wasserstein"], "o"), "static": (plots.COLORS["sinkhorn"], "D")}
_NETWORKS = {"cpu": "ResNet-8", "full": "ResNet-20"}
_TINTS = {"pgd": "#6F6F6F", "wasserstein_attack": "#007A5A"}


def _stored() -> Mapping:
    return study.stored("transport_ball")


def _result() -> Mapping:
    return _stored()["result"]


def rows() -> list[Mapping]:
    """The digits' networks that were chosen."""
    return _result()["rows"]


# ---------------------------------------------------------------- two lengths


def lengths(ball: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masses of the images (N,), and of the changes that the attack in a ball made of them the
    lengths in the metric and by transport, (sizes, N).
    """
    found = _result()["agreement"]
    mass, length, static = found["mass"], found[ball]["metric"], found[ball]["static"]
    return np.array(mass), np.array(length), np.array(static)


def opening() -> None:
    """Draw the transport distance of changes over their length in the metric, a dot an attacked
    image; the line on which both are equal, and the root law.
    """
    plots.style()
    _, axes = plt.subplots(figsize=(4.5, 3.6))
    for ball, (tint, marker) in _LOOKS.items():
        mass, length, static = lengths(ball)
        axes.plot(length.ravel(), static.ravel(), marker, color=tint, alpha=0.25, markersize=3)
    reach = np.array([0.05, 40])
    axes.plot(reach, reach, color="black", linewidth=1)
    axes.plot(reach, _root_law(np.median(mass), reach), "--", color="black", linewidth=1)
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("length in the metric (pixels)", fontsize=9.5)
    axes.set_ylabel("transport distance (pixels)", fontsize=9.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks([0.1, 1, 10], ["0.1", "1", "10"], fontsize=9.5)
    axes.set(xlim=reach, ylim=(0.12, 25))
    words = {"fontsize": 9.5, "textcoords": "offset points"}
    axes.annotate(
        "attacked in\nthe metric's ball", (0.07, 2.6), (0, 8), color=_LOOKS["metric"][0], **words
    )
    axes.annotate(
        "attacked in the\ntransport ball", (2.2, 0.6), (0, -10), color=_LOOKS["static"][0], **words
    )
    axes.annotate("equal", (0.35, 0.35), (6, -14), **words)
    axes.annotate("root law", (0.07, 0.7), (0, -2), **words)


def _root_law(mass: Any, length: Any) -> Any:
    """The transport distance of a change that every grain makes by one pixel or not at all."""
    return np.sqrt(np.sqrt(mass) * length)


def length_table() -> Markdown:
    """By ball and radius the median of both lengths, their ratio with its tenth and ninetieth
    percent, and the ratio by the root law.
    """
    sizes, lines = _stored()["config"]["sizes"], []
    for ball, name in (("metric", "metric"), ("static", "transport")):
        mass, *both = lengths(ball)
        for size, length, static in zip(sizes, *both, strict=True):
            low, middle, high = np.percentile(static / length, (10, 50, 90))
            law = np.median(_root_law(mass, length) / length)
            lines.append([f"{name}, ε = {size:g}", np.median(length), np.median(static),
                          middle, f"{low:.2f} – {high:.2f}", law])  # fmt: skip
    header = ["ball", "metric", "transport", "ratio", "80 % of the images", "root law"]
    return tables.table(header, lines, ["", ".2f", ".2f", ".2f", "", ".2f"])


# ---------------------------------------------------------------- errors


def draw_errors() -> None:
    """Draw the errors of the digits' networks under four conditions, a dot a network."""
    _, panels = plt.subplots(2, 2, figsize=(4.5, 4.6), sharey=True)
    for axes, (condition, text) in zip(panels.flat, CONDITIONS.items(), strict=True):
        found = {m: list(reports.errors(rows(), condition, method=m)) for m in NAMES}
        looks = {m: (tint := _TINTS.get(m, plots.color_of(m)), "o", tint) for m in NAMES}
        plots.seed_dots(axes, found, looks)
        plots.name_rows(axes, list(NAMES.values()))
        axes.set_xlim(0, 1.3 * max(map(max, found.values())))
        axes.set_title(text, fontsize=9.5)
    for axes in panels[1]:
        axes.set_xlabel("test error (%)", fontsize=9.5)


def error_table() -> Markdown:
    """The errors of the digits' networks, mean and standard deviation over the seeds."""
    lines = []
    for method, name in NAMES.items():
        cells = [
            tables.mean_sd(reports.errors(rows(), condition, method=method), 1)
            for condition in CONDITIONS
        ]
        lines.append([f"{name} ({_setting(rows(), method)})".replace(" ()", ""), *cells])
    return tables.table(["% error", *CONDITIONS.values()], lines)


def search_table() -> Markdown:
    """Every setting that was tried, with its errors on the validation images."""
    shown = {"natural": "natural", "metric 4": "metric ball, 4"}
    return tables.search_table(_result()["search"], NAMES, told, shown)


def _setting(found: list[Mapping], method: str) -> str:
    return told(reports.select(found, method=method)[0]["setting"])


def told(setting: Mapping) -> str:
    """The weight, or the radius of the ball, of a setting."""
    epsilon = [f"ε = {setting['epsilon']:g}"] if "epsilon" in setting else []
    penalty = [] if epsilon else [reports.setting_of(setting)]
    return ", ".join(part for part in (*epsilon, *penalty) if part)


def draw_photographs() -> None:
    """Draw the errors of Table 1's large networks over the radius, in both balls."""
    found = _result()["published"]["full"]
    radii = _stored()["config"]["epsilons"]
    _, panels = plt.subplots(1, 2, figsize=(4.6, 2.7), sharey=True)
    for axes, (ball, text) in zip(
        panels, (("metric", "metric ball"), ("static", "transport ball")), strict=True
    ):
        for method in reports.MAIN:
            curve = [reports.rate(found[method], f"{ball} {radius:g}") for radius in radii]
            axes.plot(radii, curve, color=plots.color_of(method), marker=plots.MARKERS[method],
                      markersize=5)  # fmt: skip
        axes.set(xscale="log", ylim=(0, 105))
        axes.set_title(text, fontsize=9.5)
        axes.set_xticks(radii, [f"{radius:g}" for radius in radii], fontsize=9.5)
        axes.minorticks_off()
        axes.tick_params(labelsize=9.5)
        axes.set_xlabel("radius (pixels)", fontsize=9.5)
    panels[0].set_ylabel("error (%)", fontsize=9.5)
    _name_curves(panels[1])


def _name_curves(axes: Axes) -> None:
    """Beside a mark each, of the middle of the curve."""
    for line, method in zip(axes.lines, reports.MAIN, strict=True):
        axes.plot([], [], color=line.get_color(), marker=line.get_marker(), markersize=5,
                  label=NAMES[method])  # fmt: skip
    axes.legend(fontsize=9, loc="upper left", handlelength=1.2)


def photograph_table() -> Markdown:
    """The errors of Table 1's networks, in percent."""
    lines, header = [], []
    for profile, networks in _result()["published"].items():
        for method, found in networks.items():
            errors = [reports.rate(found, condition) for condition in found["wrong"]]
            lines.append([f"{_NETWORKS[profile]}, {NAMES[method]}", *errors])
            header = [c.replace("static", "transport") for c in found["wrong"]]
    return tables.table(["% error", *header], lines, ["", *[".0f"] * len(header)])


def step_table() -> Markdown:
    """What a step of training takes, in milliseconds of one core."""
    found = _result()["steps"]
    lines = [[name, 1000 * found[method]] for method, name in NAMES.items()]
    return tables.table(["trained", "milliseconds a step"], lines, ["", ".0f"])


# ---------------------------------------------------------------- the projection, the attacks


def nearest(
    target: Tensor, x: Tensor, epsilon: float, window: int, regularization: float
) -> Tensor:
    """The regularised projection of a picture (H, W) to the ball of squared distances about x, by
    sequential programming over the whole plan.
    """
    pixels = torch.cartesian_prod(*(torch.arange(side) for side in x.shape))
    offset = pixels[:, None] - pixels
    source, goal = (offset.abs().amax(2) <= window // 2).nonzero(as_tuple=True)
    cost = offset[source, goal].square().sum(1).double().numpy()
    places = np.arange(len(pixels))[:, None]
    rows_, columns = ((end.numpy() == places) * 1.0 for end in (source, goal))
    wanted, mass = target.double().flatten().numpy(), x.double().flatten().numpy()

    def objective(plan):
        miss = columns @ plan - wanted
        value = miss @ miss / 2 + regularization * (plan * np.log(plan)).sum()
        return value, columns.T @ miss + regularization * (np.log(plan) + 1)

    found = minimize(
        objective,
        (mass @ rows_) * np.where(cost == 0, 0.99, 0.01 / (rows_.sum(1) @ rows_ - 1)),
        jac=True,
        bounds=[(1e-12, 1)] * len(cost),
        constraints=[
            {"type": "eq", "fun": lambda plan: rows_ @ plan - mass, "jac": lambda _: rows_},
            {"type": "ineq", "fun": lambda plan: epsilon**2 - cost @ plan, "jac": lambda _: -cost},
            {"type": "ineq", "fun": lambda plan: 1 - columns @ plan, "jac": lambda _: -columns},
        ],
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-14},
    )
    return torch.from_numpy(columns @ found.x).view_as(x)


@cache
def _subject() -> tuple[nn.Module, Tensor, Tensor]:
    """A network trained plainly for a few seconds, a digit and its label."""
    model = sprint.trained()
    images, labels = data.load("mnist5k").part("test", 8)
    return model, images[3:4, None] / 255, labels[3:4]


@cache
def attacked(ball: str, radius: float) -> tuple[Tensor, Tensor]:
    """A digit (1, 1, 28, 28) and what the attack in a ball makes of it."""
    model, x, y = _subject()
    return x, _BALLS[ball](radius)(model, x, y)


def draw_attack(ball: str, radius: float) -> Figure:
    """Draw the digit, the attacked one, and what was changed."""
    x, found = attacked(ball, radius)
    return plots.show_attack(x[0, 0].numpy(), found[0, 0].numpy(), vmax=1)


def attack_told(ball: str, radius: float) -> str:
    """What :func:`draw_attack` shows, in a sentence."""
    model, x, y = _subject()
    x, found = attacked(ball, radius)
    moved = 50 * float((found - x).abs().sum() / x.sum())
    with torch.no_grad():
        answer = int(model(found).argmax())
    right = "still right" if answer == int(y) else f"now taken for a {answer}"
    return (
        f"The {ball}'s ball, radius {radius:g}: {moved:.0f} % of the ink changes place. The change "
        f"has length {float(metric_length(x, found)):.1f} in the metric, and transport distance "
        f"{float(static_length(x, found)):.1f}. The {int(y)} is {right}."
    )

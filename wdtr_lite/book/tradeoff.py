"""What chapter 11 reports of the methods of training: their cost beside their errors."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from matplotlib.figure import Figure

from wdtr_lite.book import plots, tables, widgets
from wdtr_lite.book.reports import errors, label, select, setting_of

__all__ = ["choose_for_yourself", "costs", "draw_tradeoff", "tradeoff_table"]

_STEPS = {
    "none": "plain",
    "euclidean": "euclidean, FD",
    "wasserstein": "wasserstein, FD",
    "wasserstein, exact": "wasserstein",
    "gaussian_noise": "gaussian noise",
    "jacobian": "jacobian, FD",
    "fgsm": "fgsm",
    "pgd": "pgd-7",
    "trades": "trades-7",
}  # in the benchmark

_OFFSETS = {
    "none": (8, 3),
    "euclidean": (12, 11),
    "wasserstein": (8, 5),
    "wasserstein, exact": (-8, 7),
    "gaussian_noise": (8, 5),
    "jacobian": (-8, -13),
    "trades": (8, 4),
    "pgd": (8, -12),
    "fgsm": (8, 5),
}  # of the texts in the figure, in points


# ---------------------------------------------------------------- cost beside robustness


def costs(benchmark: Mapping) -> dict[str, float]:
    """The time of a training step of each method, in plain steps."""
    ratios = {row["step"]: row["ratio"] for row in benchmark["step_costs"]}
    return {method: ratios[step] for method, step in _STEPS.items()}


def tradeoff_table(tradeoff: Mapping, benchmark: Mapping) -> Markdown:
    """Setting, cost and errors of each method."""
    rows, chosen = tradeoff["result"]["rows"], tradeoff["result"]["chosen"]
    lines = [
        [
            label(method),
            setting_of(chosen.get(method, chosen["wasserstein"])),
            cost,
            np.mean([row["seconds"]["training"] for row in select(rows, method=method)]),
            tables.mean_sd(errors(rows, "natural", method=method)),
            tables.mean_sd(errors(rows, "I-FGSM-20 8", method=method)),
        ]
        for method, cost in costs(benchmark).items()
    ]
    header = ["method", "setting", "step, × plain", "training, s", "natural", "I-FGSM-20 8/255"]
    return tables.table(header, lines, ["", "", ".2f", ".0f"])


def draw_tradeoff(tradeoff: Mapping, benchmark: Mapping) -> None:
    """Draw natural error against error under I-FGSM-20, each method with its cost."""
    rows = tradeoff["result"]["rows"]
    _, axes = plt.subplots(figsize=(4.6, 3.6))
    for method, cost in costs(benchmark).items():
        x, y = (errors(rows, name, method=method) for name in ("natural", "I-FGSM-20 8"))
        color, center = plots.color_of(method), (x.mean(), y.mean())
        axes.errorbar(
            *center,
            y.std(ddof=1),
            x.std(ddof=1),
            fmt=plots.MARKERS[method],
            color=color,
            ms=5,
            mfc="none" if "," in method else color,
            elinewidth=0.8,
            capsize=2,
        )
        text, offset = f"{label(method)} ({cost:.1f})", _OFFSETS[method]
        side = "right" if offset[0] < 0 else "left"
        axes.annotate(text, center, offset, textcoords="offset points", fontsize=9, ha=side)
    axes.set_xlim(54, 74)
    axes.set_xlabel("natural error (%)", fontsize=9.5)
    axes.set_ylabel("error under I-FGSM-20 (%)", fontsize=9.5)
    axes.tick_params(labelsize=9.5)


def choose_for_yourself(tradeoff: Mapping, benchmark: Mapping, *, question: str) -> None:
    """Weigh the error under attack against the natural error, and see which method is the best that
    a budget allows.
    """
    rows, cost = tradeoff["result"]["rows"], costs(benchmark)
    points = {
        method: [errors(rows, c, method=method).mean() for c in ("natural", "I-FGSM-20 8")]
        for method in cost
    }

    def ranked(weight: int, budget: str) -> list[tuple[float, str]]:
        natural_weight = 1 - weight / 100
        means = {
            method: natural_weight * natural + (1 - natural_weight) * attacked
            for method, (natural, attacked) in points.items()
            if cost[method] <= _BUDGETS[budget]
        }
        return sorted((mean, method) for method, mean in means.items())

    def draw(attack_weight: int, budget: str) -> Figure:
        figure, axes = plt.subplots(figsize=(4.4, 2.7))
        means, methods = zip(*ranked(attack_weight, budget), strict=True)
        axes.barh(range(len(means)), means, 0.6, color=[plots.color_of(m) for m in methods])
        axes.set_yticks(range(len(means)), [f"{label(m)} ({cost[m]:.1f})" for m in methods])
        axes.set_xlim(50, 100)
        axes.set_xlabel("weighted error (%)", fontsize=9.5)
        axes.tick_params(labelsize=9.5)
        axes.invert_yaxis()
        return figure

    def describe(attack_weight: int, budget: str) -> str:
        (best, method), *others = ranked(attack_weight, budget)
        next_best = f", then {label(others[0][1])} with {others[0][0]:.1f}" if others else ""
        return (
            f"{attack_weight} % attacked images, {budget}: {label(method)} with a weighted error "
            f"of {best:.1f} %{next_best}."
        )

    choices = {"attack_weight": [0, 10, 20, 30, 50, 100], "budget": list(_BUDGETS)}
    widgets.explore(draw, choices, question=question, describe=describe)


_BUDGETS = {"a plain step": 1.1, "three plain steps": 3.0, "any time": np.inf}  # of a step, at most

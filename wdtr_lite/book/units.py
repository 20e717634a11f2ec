"""What chapter 9 reports of the paper's own networks: errors against epsilon, the unit in which the
paper's is, and pairs of networks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from matplotlib.axes import Axes

from wdtr_lite.book import plots, tables
from wdtr_lite.book.reports import MAIN, label, measurements
from wdtr_lite.study import units
from wdtr_lite.study.outcomes import bits
from wdtr_lite.study.statistics import paired
from wdtr_lite.study.table1 import PAPER

__all__ = [
    "best_factor",
    "differences_table",
    "draw_errors",
    "draw_reached",
    "pair",
    "pairs_table",
    "row_pair",
    "told",
    "unit_table",
]

PENALISED = ("euclidean", "wasserstein")

MISFIT = "FGSM 25", "wasserstein"
"""The row of Table 1 and the method that no unit explains."""


def draw_errors(report: Mapping) -> None:
    """Draw the errors against epsilon in pixels, bands of two standard errors; and the paper's
    numbers, open, where it states them, an arrow to where ours are the same.
    """
    networks = measurements(report)
    _, panels = plt.subplots(1, 2, figsize=(7.2, 3.8), sharey=True)
    for axes, attack in zip(panels, report["config"]["epsilons"], strict=True):
        for method, measured in networks.items():
            epsilons, errors = units.curve(measured, attack)
            n, color = measured[f"{attack} 0"]["n"], plots.color_of(method)
            spread = 2 * np.sqrt(errors * (100 - errors) / n)
            style: dict[str, Any] = {"color": color, "marker": plots.MARKERS[method], "ms": 4}
            axes.plot(epsilons[1:], errors[1:], label=label(method), **style)
            low, high = errors - spread, errors + spread
            axes.fill_between(epsilons[1:], low[1:], high[1:], color=color, alpha=0.15, lw=0)
            _draw_told(axes, attack, method, (epsilons, errors))
        axes.set(xscale="log", xlabel="ε, in 1/255 of [0, 1]", title=attack, ylim=(0, 103))
        axes.set_xticks([0.25, 1, 2, 4, 8, 25], ["¼", "1", "2", "4", "8", "25"])
        axes.minorticks_off()
    panels[0].set_ylabel("error (%)")
    panels[1].legend(fontsize=9, loc="lower right")


def _draw_told(axes: Axes, attack: str, method: str, found: units.Curve) -> None:
    color, marker = plots.color_of(method), plots.MARKERS[method]
    for row, (told, epsilon) in units.TOLD.items():
        if told != attack:
            continue
        error = PAPER[row][method]
        axes.plot(epsilon, error, marker, color=color, mfc="white", ms=8)
        ours = units.reached(found, error)
        if ours:
            arrow = {"arrowstyle": "->", "color": color, "lw": 0.8, "ls": ":"}
            axes.annotate("", (ours, error), (epsilon, error), arrowprops=arrow)


def draw_reached(report: Mapping) -> None:
    """Draw the epsilon at which our networks have each error of the paper, as a share of the one
    that the paper states, and what that share would be in each unit.
    """
    networks = measurements(report)
    _, axes = plt.subplots(figsize=(6.8, 3.4))
    names = list(units.TOLD)
    for unit, size in units.UNITS.items():
        mean = sum(size) / 3
        axes.axvline(mean, color="#9A9A9A", lw=1, zorder=0)
        axes.text(mean, -0.65, unit, rotation=45, fontsize=8, ha="left")
    for place, (row, (attack, epsilon)) in enumerate(units.TOLD.items()):
        for k, method in enumerate(MAIN):
            ours = units.reached(units.curve(networks[method], attack), PAPER[row][method])
            style: dict[str, Any] = {
                "color": plots.color_of(method),
                "marker": plots.MARKERS[method],
            }
            if ours is not None:
                axes.plot(ours / epsilon, place + 0.2 * (1 - k), ls="none", **style)
    for method in MAIN:
        style: dict[str, Any] = {"color": plots.color_of(method), "marker": plots.MARKERS[method]}
        axes.plot([], [], ls="none", label=label(method), **style)
    axes.set(xlabel="our ε / stated ε", xlim=(0, 1.1), ylim=(-0.6, len(names) - 0.4))
    axes.set_yticks(range(len(names)), [f"{name}/255" for name in names])
    axes.invert_yaxis()
    axes.legend(fontsize=9, loc="lower right")


def unit_table(report: Mapping) -> Markdown:
    """How far our errors are from the paper's, in points (root of the mean square), if its epsilons
    are in each of the units.
    """
    networks = measurements(report)
    rows = []
    for unit, size in units.UNITS.items():
        for clipped in (True, False):
            left = [
                units.rms(units.deviations(some, unit, clipped=clipped))
                for some in _groups(networks)
            ]
            about = (
                f"{8 * min(size):.1f} to {8 * max(size):.1f}" if len({*size}) > 1 else 8 * size[0]
            )
            rows.append([unit, "yes" if clipped else "no", about, *left])
    for name, misfit in (("any", None), ("any, without the misfit", MISFIT)):
        factor, *left = best_factor(report, misfit)
        rows.append([f"{name}: × {factor:.2f}", "yes", 8 * factor, *left])
    header = ["unit", "clipped", "8/255 is, in pixels / 255", "penalised (6)", "plain (3)"]
    return tables.table(header, rows, ["", "", ".1f", ".1f", ".1f"])


def _groups(networks: Mapping[str, Mapping]) -> tuple[dict, dict]:
    """The penalised and the plain."""
    penalised = {method: networks[method] for method in PENALISED}
    return penalised, {"none": networks["none"]}


def best_factor(report: Mapping, but: tuple[str, str] | None = None) -> tuple[float, float, float]:
    """The factor by which the paper's epsilons, taken for pixels, explain the errors of its
    penalised networks best, all but one perhaps, and what it leaves, in points, of these and of the
    plain ones.
    """
    penalised, plain = _groups(measurements(report))

    def left(networks: dict, factor: float) -> float:
        found = units.deviations(networks, factor=factor)
        return units.rms({case: gap for case, gap in found.items() if case != but})

    factors = np.geomspace(0.05, 1.2, 200)
    best = float(min(factors, key=lambda factor: left(penalised, float(factor))))
    return best, left(penalised, best), left(plain, best)


# ---------------------------------------------------------------- pairs


def pair(first: Mapping, second: Mapping) -> dict:
    """The difference of two networks' errors, of what a question of errors told of the same images
    (:func:`~wdtr_lite.study.statistics.paired`).
    """
    return paired(*(bits(each["outcomes"], each["n"]) for each in (first, second)))


def told(found: Mapping, case: str) -> dict:
    """Of a row of Table 1, or of errors on varied images, what one case of them told."""
    n = found["n"]
    parts = {part: found[part][case] for part in ("wrong", "outcomes")}
    return {**parts, "n": n[case] if isinstance(n, Mapping) else n}


def row_pair(first: Mapping, second: Mapping, condition: str) -> dict:
    """The same of two rows of Table 1, under a condition."""
    return pair(told(first, condition), told(second, condition))


def pairs_table(report: Mapping, attack: str) -> Markdown:
    """The Euclidean and the Wasserstein network under an attack, image by image."""
    euclidean, wasserstein = (measurements(report)[method] for method in PENALISED)
    cases = [
        (f"{epsilon:g}", units.name_of(units.Case(attack, "pixels", True, epsilon)))
        for epsilon in report["config"]["epsilons"][attack]
    ]
    named = {f"ε = {epsilon}/255": name for epsilon, name in cases}
    named = {"as they are": f"{attack} 0"} | named
    return differences_table({
        name: (wasserstein[case], euclidean[case]) for name, case in named.items()
    })  # fmt: skip


def differences_table(pairs: Mapping[str, Sequence[Mapping]]) -> Markdown:
    """The errors of the Wasserstein and the Euclidean network, by case, and their difference with
    its standard error over the images.
    """
    rows = []
    for name, (wasserstein, euclidean) in pairs.items():
        found = pair(wasserstein, euclidean)
        errors = [100 * each["wrong"] / each["n"] for each in (euclidean, wasserstein)]
        difference = f"{100 * found['difference']:+.1f} ± {100 * found['standard_error']:.1f}"
        counts = f"{found['only_second']} / {found['only_first']}"
        rows.append([name, found["n"], *errors, difference, counts, found["p_value"]])
    header = [
        "error (%)",
        "images",
        "Euclidean",
        "Wasserstein",
        "difference",
        "only E / only W wrong",
        "p",
    ]
    return tables.table(header, rows, ["", "", ".1f", ".1f", "", "", ".2g"])

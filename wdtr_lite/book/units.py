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
from wdtr_lite.book.reports import MAIN, first, measurements, short
from wdtr_lite.study import units
from wdtr_lite.study.outcomes import bits
from wdtr_lite.study.statistics import paired
from wdtr_lite.study.table1 import PAPER

__all__ = [
    "best_factor",
    "differences_table",
    "draw_differences",
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
    _, panels = plt.subplots(1, 2, figsize=(4.7, 2.7), sharey=True)
    for axes, attack in zip(panels, report["config"]["epsilons"], strict=True):
        for method, measured in networks.items():
            epsilons, errors = units.curve(measured, attack)
            n, color = measured[f"{attack} 0"]["n"], plots.color_of(method)
            spread = 2 * np.sqrt(errors * (100 - errors) / n)
            style: dict[str, Any] = {"color": color, "marker": plots.MARKERS[method], "ms": 4}
            axes.plot(epsilons[1:], errors[1:], label=short(method), **style)
            low, high = errors - spread, errors + spread
            axes.fill_between(epsilons[1:], low[1:], high[1:], color=color, alpha=0.15, lw=0)
            _draw_told(axes, attack, method, (epsilons, errors))
        axes.set(xscale="log", xlabel="ε, in units of 1/255", title=attack, ylim=(0, 103))
        axes.set_xticks([0.25, 1, 2, 4, 8, 25], ["¼", "1", "2", "4", "8", "25"])
        axes.minorticks_off()
    panels[0].set_ylabel("error (%)")
    panels[1].legend(
        fontsize=9.5, loc="lower right", handlelength=1.2, labelspacing=0.2, borderaxespad=0
    )


def _draw_told(axes: Axes, attack: str, method: str, found: units.Curve) -> None:
    color, marker = plots.color_of(method), plots.MARKERS[method]
    for row, (told, epsilon) in units.TOLD.items():
        if told != attack:
            continue
        error = PAPER[row][method]
        axes.plot(epsilon, error, marker, color=color, mfc="white", ms=7)
        ours = units.reached(found, error)
        if ours:
            arrow = {"arrowstyle": "->", "color": color, "lw": 0.8, "ls": ":"}
            axes.annotate("", (ours, error), (epsilon, error), arrowprops=arrow)


def draw_reached(report: Mapping) -> None:
    """Draw the epsilon at which our networks have each error of the paper, as a share of the one
    that the paper states, and what that share would be in each unit.
    """
    networks = measurements(report)
    _, axes = plt.subplots(figsize=(4.7, 2.5))
    means = [sum(size) / 3 for size in units.UNITS.values()]
    for unit, mean in zip(units.UNITS, means, strict=True):
        axes.axvline(mean, color=plots.GREY, lw=1, zorder=0)
        side = "right" if mean in (min(means), 1) else "left"
        axes.text(mean, -0.7, unit, fontsize=9.5, ha=side)
    for place, (row, (attack, epsilon)) in enumerate(units.TOLD.items()):
        for k, method in enumerate(MAIN):
            ours = units.reached(units.curve(networks[method], attack), PAPER[row][method])
            if ours is not None:
                look: Any = {"color": plots.color_of(method), "marker": plots.MARKERS[method]}
                name = "" if place else short(method)
                axes.plot(ours / epsilon, place + 0.2 * (1 - k), ls="none", label=name, **look)
    axes.set(xlabel="our ε / stated ε", xlim=(0, 1.1), ylim=(-0.6, len(units.TOLD) - 0.4))
    axes.set_yticks(range(len(units.TOLD)), [f"{name}/255" for name in units.TOLD])
    axes.invert_yaxis()
    axes.legend(fontsize=9.5, loc="center right", bbox_to_anchor=(0.88, 0.5))


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
    header = ["unit", "clipped", "8/255 is, in pixels × 255", "penalised (6)", "plain (3)"]
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
    return differences_table({
        f"{epsilon:g}/255" if epsilon else "as they are": both
        for epsilon, both in _pairs(report, attack).items()
    })  # fmt: skip


def _pairs(report: Mapping, attack: str) -> dict[float, tuple[Mapping, Mapping]]:
    """What was told of the Wasserstein and of the Euclidean network, by epsilon, 0 first."""
    cases: dict[float, str] = {0.0: f"{attack} 0"}
    for epsilon in report["config"]["epsilons"][attack]:
        cases[epsilon] = units.name_of(units.Case(attack, "pixels", True, epsilon))
    found = measurements(report)
    return {e: (found["wasserstein"][c], found["euclidean"][c]) for e, c in cases.items()}


def draw_differences(full: Mapping, report: Mapping) -> None:
    """Draw the error of the Wasserstein network less that of the Euclidean one, with its standard
    error over the images: under FGSM against epsilon, and of the rows of Table 1, on more images.
    """
    swept, networks = _pairs(report, "FGSM"), first(full)
    places = {epsilon: place for place, epsilon in enumerate(swept)}
    _, axes = plt.subplots(figsize=(4.7, 2.6))
    axes.axhline(0, color="black", lw=0.8)
    _draw_pairs(axes, "FGSM", dict(zip(places.values(), swept.values(), strict=True)), "o", "black")
    for attack, rows, marker, color in (
        ("FGSM", {"natural": 0, "FGSM 8": 8, "FGSM 25": 25}, "D", plots.GREEN),
        ("I-FGSM-20", {"I-FGSM-20 8": 8}, "v", plots.RED),
    ):
        shift = 0.3 if attack == "FGSM" else 0.6
        found = {
            places[epsilon] + shift: [told(networks[m], row) for m in reversed(PENALISED)]
            for row, epsilon in rows.items()
        }
        _draw_pairs(axes, attack, found, marker, color)
    fractions = {0.25: "¼", 0.5: "½"}
    axes.set_xticks(list(places.values()), [fractions.get(e, f"{e:g}") for e in places])
    axes.set(
        ylim=(-3.6, 3.2), xlabel="ε, in units of 1/255", ylabel="difference of errors (points)"
    )
    axes.legend(fontsize=9.5, loc="lower right")
    for height, place, name in ((0.96, "top", "Euclidean"), (0.04, "bottom", "Wasserstein")):
        axes.text(0.02, height, f"{name} ahead", transform=axes.transAxes, fontsize=9.5, va=place)


def _draw_pairs(
    axes: Axes, attack: str, pairs: Mapping[float, Sequence[Mapping]], marker: str, color: str
) -> None:
    found = [pair(*both) for both in pairs.values()]
    gaps, errors = (
        [100 * each[part] for each in found] for part in ("difference", "standard_error")
    )
    images = next(iter(pairs.values()))[0]["n"]
    axes.errorbar(
        list(pairs), gaps, errors, fmt=marker, ms=5, lw=1.2, color=color,
        label=f"{attack}, {images:,} images",
    )  # fmt: skip


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
    header = ["error (%)", "images", "Euclidean", "Wasserstein", "difference"]
    header += ["only Euclidean / only Wasserstein wrong", "p-value"]
    return tables.table(header, rows, ["", "", ".1f", ".1f", "", "", ".2g"])

"""What chapter 8 reports of the experiment ``robust_digits``."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from matplotlib.axes import Axes
from scipy import stats

from wdtr_lite import study
from wdtr_lite.book import plots, reports, tables

__all__ = [
    "NAMES",
    "by_seed_table",
    "color",
    "cost_table",
    "difference_table",
    "draw_differences",
    "draw_errors",
    "error_curves",
    "error_points",
    "error_table",
    "opening",
    "search_table",
    "training_time",
    "twin_gaps",
    "twin_table",
]

NAMES = {
    **{name: reports.label(name) for name in reports.MAIN},
    **{name: reports.label(name) for name in ("gaussian_noise", "wasserstein_noise")},
    "pgd": "PGD training",
}
"""What the chapter calls the methods."""

_TWIN = "wasserstein, finite difference"
_VARIED = ("translation", "rotation", "elastic")
_NATURAL = {"as they are": ("natural",)}
_ATTACKED = {
    "FGSM 0.1": ("fgsm 0.1",),
    "PGD 0.05": ("pgd 0.05",),
    "PGD 0.1": ("pgd 0.1",),
    "PGD 0.2": ("pgd 0.2",),
    "Wasserstein 4": ("wasserstein 4",),
}
_MOVED = {
    "moved": ("translation",),
    "turned": ("rotation",),
    "bent": ("elastic",),
    "mean of the three": _VARIED,
}
_COLUMNS = {"attack": _NATURAL | _ATTACKED, "variation": _NATURAL | _MOVED}
_ALL = _NATURAL | _ATTACKED | _MOVED
_SIGNS = {"x": "×", "s": "■", "o": "●", "D": "◆"}
_CASES = [(purpose, name) for purpose, columns in _COLUMNS.items() for name in columns]


def color(method: str) -> str:
    """The colour of a method's metric; black without one."""
    return plots.COLORS.get(method, "black")


def opening() -> None:
    """Draw the errors of five ways to train, under attack and on varied digits: the chapter in a
    picture.
    """
    plots.style()
    report = study.stored("robust_digits")
    _, panels = plt.subplots(1, 2, figsize=(4.6, 2.4), sharey=True)
    methods = ["none", "euclidean", "wasserstein", "gaussian_noise", "pgd"]
    for axes, (purpose, name, title) in zip(
        panels,
        (
            ("attack", "PGD 0.1", "attacked by PGD"),
            ("variation", "mean of the three", "moved, turned, bent"),
        ),
        strict=True,
    ):
        errors = {method: _errors(report, method, name, purpose) for method in methods}
        plots.seed_dots(axes, errors, _looks())
        axes.set_title(title, fontsize=9.5)
        axes.set_xlabel("test error (%)", fontsize=9.5)
    plots.name_rows(panels[0], [NAMES[m] for m in methods])


def draw_errors(found: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    """Draw errors in percent with their standard errors, a row a condition, a mark a method."""
    _, axes = plt.subplots(figsize=(4.5, 0.9 + 0.36 * len(found)))
    methods = list(next(iter(found.values())))
    places = np.arange(len(found))[::-1]
    for k, method in enumerate(methods):
        tint, marker, face = _looks()[method]
        means, bars = zip(*(row[method] for row in found.values()), strict=True)
        axes.errorbar(
            means, places - 0.2 * (k - (len(methods) - 1) / 2), xerr=bars, color=tint,
            marker=marker, markerfacecolor=face, linestyle="none", markersize=5, linewidth=1.2,
        )  # fmt: skip
        if len(methods) > 1:
            axes.text(k / len(methods), 1.02, f"{_SIGNS[marker]} {reports.short(method)}",
                      color=tint, fontsize=9.5, transform=axes.transAxes)  # fmt: skip
        else:
            for place, mean, bar in zip(places, means, bars, strict=True):
                axes.text(mean + bar + 0.6, place, f"{mean:.1f}", va="center", fontsize=9.5)
    axes.set_yticks(places, list(found), fontsize=9.5)
    axes.set(xlim=(0, None), ylim=(-0.6, len(found) - 0.4))
    axes.set_xlabel("error (%)", fontsize=9.5)
    axes.tick_params(labelsize=9.5)


def training_time(report: Mapping) -> None:
    """Print how many networks were trained, each counted once, and for how long."""
    rows = report["result"]["rows"]
    final = {(r["method"], str(r["setting"]), r["seed"]): r["training"] for r in rows}
    trained = [row["training"] for row in report["result"]["search"]] + list(final.values())
    minutes = sum(training["seconds"] for training in trained) / 60
    print(f"{len(trained)} networks, {minutes:.0f} minutes of training in all")


# --- the choice ---


def error_curves(report: Mapping) -> None:
    """Draw the validation errors of both penalties over η, and mark the chosen settings."""
    _, grid = plt.subplots(2, 2, figsize=(4.5, 3.9))
    panels = grid.flat[:3]
    for axes, conditions, title, limits in zip(
        panels,
        (("pgd 0.1",), _VARIED, ("natural",)),
        ("PGD, ε = 0.1", "moved, turned, bent", "natural"),
        ((0, None), (8, 14), (0, 4)),
        strict=True,
    ):
        _curves(axes, report, conditions)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("η", fontsize=10)
        axes.tick_params(labelsize=9.5)
        axes.set_ylim(limits)
    (plain,) = reports.select(report["result"]["search"], method="none")
    limit = _rate(plain, ("natural",)) + 1
    panels[2].axhline(limit, color="black", ls=":", lw=1)
    for axes in grid[:, 0]:
        axes.set_ylabel("validation error (%)", fontsize=9.5)
    grid[1, 1].axis("off")
    grid[1, 1].legend(*panels[0].get_legend_handles_labels(), loc="center", fontsize=9.5)


def _curves(axes: Axes, report: Mapping, conditions: Sequence[str]) -> None:
    search = report["result"]["search"]
    etas = []
    for radius, shade in ((None, 1.0), (1, 0.25), (2, 0.45), (4, 0.7), (8, 1.0)):
        method = "wasserstein" if radius else "euclidean"
        curve = [
            row
            for row in reports.select(search, method=method)
            if row["setting"].get("radius") == radius
        ]
        etas = [row["setting"]["eta"] for row in curve]
        axes.plot(
            etas, [_rate(row, conditions) for row in curve],
            color=plots.COLORS[method], alpha=shade,
            label=f"Wasserstein, r = {radius}" if radius else "Euclidean",
            marker="o" if radius else "s", markersize=4,
        )  # fmt: skip
        for row in curve:
            for purpose in _purposes(report, row):
                ring, size = {"attack": ("o", 10), "variation": ("s", 13)}[purpose]
                axes.plot(
                    row["setting"]["eta"], _rate(row, conditions), ring,
                    markersize=size, color="black", fillstyle="none",
                )  # fmt: skip
    (plain,) = reports.select(search, method="none")
    axes.axhline(_rate(plain, conditions), color="black", ls="--", lw=1)
    axes.set_xscale("log")
    axes.set_xticks(etas, [f"{eta:g}" for eta in etas])
    axes.minorticks_off()


def search_table(report: Mapping) -> Markdown:
    """The validation errors of the candidates, of the two penalties only where chosen."""
    rows = [
        [reports.short(row["method"]), _in_words(row["setting"])]
        + [_rate(row, conditions) for conditions in (("natural",), ("pgd 0.1",), _VARIED)]
        + [{"attack": "attack", "variation": "varied", "": ""}.get("".join(found), "both")]
        for row in report["result"]["search"]
        for found in [_purposes(report, row)]
        if row["method"] not in ("euclidean", "wasserstein") or found
    ]
    header = ["method", "setting", "natural", "PGD", "varied", "for"]
    return tables.table(header, rows, ["", "", ".1f", ".1f", ".1f"])


def _in_words(setting: Mapping) -> str:
    symbols = {"eta": "η", "radius": "r", "epsilon": "ε"}
    return ", ".join(f"{s}={setting[k]:g}" for k, s in symbols.items() if k in setting) or "–"


def _purposes(report: Mapping, row: Mapping) -> list[str]:
    return [
        purpose
        for purpose, conditions in report["config"]["criteria"].items()
        if study.choose(report["result"]["search"], conditions)[row["method"]] == row["setting"]
    ]


def _rate(row: Mapping, conditions: Sequence[str]) -> float:
    """In percent, the mean over the conditions."""
    return 100 * float(np.mean([row["wrong"][name] / row["n"][name] for name in conditions]))


# --- the test ---


def _networks(report: Mapping, method: str, purpose: str) -> list[Mapping]:
    return reports.select(report["result"]["rows"], method=method, chosen_for=purpose)


def _errors(report: Mapping, method: str, name: str, purpose: str = "attack") -> np.ndarray:
    """In percent, by seed, in a column of the tables."""
    networks = _networks(report, method, purpose)
    return np.array([_rate(row, _ALL[name]) for row in networks])


def _places(name: str) -> int:
    return 1 if name in _ATTACKED else 2


def _mean_sd(report: Mapping, method: str, name: str, purpose: str = "attack") -> str:
    return tables.mean_sd(_errors(report, method, name, purpose), _places(name))


def error_table(report: Mapping, purpose: str, part: slice = slice(None)) -> Markdown:
    """The test errors of all methods, with the settings chosen for a purpose; or some columns."""
    columns = list(_COLUMNS[purpose])[part]
    rows = [
        [label, *(_mean_sd(report, method, name, purpose) for name in columns)]
        for method, label in NAMES.items()
    ]
    return tables.table(["error (%)", *columns], rows)


def error_points(report: Mapping) -> None:
    """Draw the same errors, a panel a purpose."""
    figure, panels = plt.subplots(2, 1, figsize=(4.5, 5.6))
    for axes, (purpose, columns) in zip(panels, _COLUMNS.items(), strict=True):
        for k, (method, (tint, marker, face)) in enumerate(_looks().items()):
            found = [_errors(report, method, name, purpose) for name in columns]
            axes.errorbar(
                np.arange(len(columns)) + 0.13 * (k - 2.5),
                [errors.mean() for errors in found],
                [errors.std(ddof=1) for errors in found],
                color=tint, marker=marker, markerfacecolor=face, linestyle="none",
                markersize=4.5, capsize=2, linewidth=1.2, label=NAMES[method],
            )  # fmt: skip
        axes.set_xticks(range(len(columns)), [name.replace(" ", "\n", 1) for name in columns])
        axes.tick_params(labelsize=9.5)
        axes.set(ylim=(0, None))
        axes.set_title(f"settings chosen for {purpose}", fontsize=10)
        axes.set_ylabel("test error (%)", fontsize=9.5)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, fontsize=9.5)


def _looks() -> dict[str, tuple]:
    """A colour, a marker and its filling for each method."""
    euclidean, wasserstein = plots.COLORS["euclidean"], plots.COLORS["wasserstein"]
    return {
        "none": ("black", "x", "none"),
        "euclidean": (euclidean, "s", None),
        "wasserstein": (wasserstein, "o", None),
        "gaussian_noise": (euclidean, "s", "white"),
        "wasserstein_noise": (wasserstein, "o", "white"),
        "pgd": (plots.COLORS["sinkhorn"], "D", None),
    }


def by_seed_table(report: Mapping, part: slice = slice(None)) -> Markdown:
    """The errors of each seed by itself, each choice at both purposes."""
    columns = {name: _ALL[name] for name in ("as they are", "FGSM 0.1", "PGD 0.1")}
    columns |= {"mean of the three": _VARIED}
    columns = dict(list(columns.items())[part])
    networks = {"Euclidean, both": ("euclidean", "attack")}
    for method, short in (("wasserstein", "Wasserstein"), ("pgd", "PGD")):
        networks |= {f"{short}, {purpose}": (method, purpose) for purpose in _COLUMNS}
    first, second = (
        study.choose(report["result"]["search"], conditions)["euclidean"]
        for conditions in report["config"]["criteria"].values()
    )
    assert first == second
    rows = [
        [label]
        + [
            " / ".join(f"{error:.1f}" for error in _errors(report, method, name, purpose))
            for name in columns
        ]
        for label, (method, purpose) in networks.items()
    ]
    return tables.table(["method, chosen for", *columns], rows)


# --- differences ---


def _difference(report: Mapping, other: str, name: str, purpose: str) -> np.ndarray:
    """The Wasserstein penalty's errors minus another method's, seed by seed."""
    ours, theirs = (_errors(report, method, name, purpose) for method in ("wasserstein", other))
    return ours - theirs


def _is_clear(change: np.ndarray) -> bool:
    """Whether a mean over seeds differs from zero at 95 %, by Student's t."""
    bar = stats.t.ppf(0.975, len(change) - 1)
    return bool(abs(change.mean()) > bar * change.std(ddof=1) / len(change) ** 0.5)


def draw_differences(report: Mapping) -> None:
    """Draw the Wasserstein penalty's errors minus the Euclidean one's, with what a mean of so many
    differences must exceed to be clear at 95 %.
    """
    sizes = [len(columns) for columns in _COLUMNS.values()]
    _, panels = plt.subplots(2, 1, figsize=(4.6, 4.2), height_ratios=sizes)
    for axes, (purpose, columns) in zip(panels, _COLUMNS.items(), strict=True):
        for place, name in enumerate(reversed(list(columns))):
            change = _difference(report, "euclidean", name, purpose)
            bar = stats.t.ppf(0.975, len(change) - 1) * change.std(ddof=1) / len(change) ** 0.5
            tint = plots.COLORS["wasserstein" if change.mean() < 0 else "euclidean"]
            axes.errorbar(
                change.mean(), place, xerr=bar, color=tint, marker="o", markersize=6, capsize=2,
                markerfacecolor=None if _is_clear(change) else "white", linewidth=1.2,
            )  # fmt: skip
        axes.axvline(0, color="black", linewidth=1)
        plots.name_rows(axes, list(columns))
        axes.set_ylim(-0.6, len(columns) - 0.4)
        axes.set_title(f"settings chosen for {purpose}", fontsize=10)
        axes.tick_params(labelsize=9.5)
    panels[1].set_xlabel("Wasserstein minus Euclidean (points of error)", fontsize=9.5)


def difference_table(report: Mapping, part: slice = slice(None)) -> Markdown:
    """The Wasserstein penalty minus each other method, with a star where it is clear."""
    others = ["euclidean", "none", "gaussian_noise", "wasserstein_noise", "pgd"][part]
    rows = []
    for purpose, name in _CASES:
        changes = [_difference(report, other, name, purpose) for other in others]
        rows.append([f"{name} ({purpose})"])
        rows[-1] += [
            tables.mean_error(change, _places(name), sign="+") + " *" * _is_clear(change)
            for change in changes
        ]
    header = ["Wasserstein minus", *(NAMES[each].removesuffix(" penalty") for each in others)]
    return tables.table(header, rows)


def twin_gaps(report: Mapping) -> dict[str, float]:
    """How far apart both ways to differentiate the penalty are, in standard errors."""
    gaps = {}
    for name in _ALL:
        both = [_errors(report, method, name) for method in ("wasserstein", _TWIN)]
        spread = sum(errors.var(ddof=1) / len(errors) for errors in both) ** 0.5
        gaps[name] = float(abs(both[0].mean() - both[1].mean()) / spread)
    return gaps


def twin_table(report: Mapping) -> Markdown:
    """The test errors of both ways to differentiate the penalty."""
    rows = [
        [name, _mean_sd(report, "wasserstein", name), _mean_sd(report, _TWIN, name), gap]
        for name, gap in twin_gaps(report).items()
    ]
    header = ["error (%)", "double back-propagation", "finite difference"]
    header.append("apart, in standard errors")
    return tables.table(header, rows, ["", "", "", ".1f"])


def cost_table(report: Mapping) -> Markdown:
    """How long a network of each method trained."""
    rows = []
    for method, label in (NAMES | {_TWIN: "Wasserstein penalty, finite difference"}).items():
        networks = _networks(report, method, "attack")
        seconds = np.array([row["training"]["seconds"] for row in networks])
        rows.append([label, tables.mean_sd(seconds, 0), seconds.min()])
    plain = rows[0][2]
    for row in rows:
        row.append(row[2] / plain)
    header = ["method", "training, s", "fastest, s", "fastest, times plain"]
    return tables.table(header, rows, ["", "", ".0f", ".1f"])

"""What chapter 9 reports: Table 1 and the grid behind it."""

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from wdtr_lite import study, training
from wdtr_lite.book import plots, tables
from wdtr_lite.book.reports import (
    MAIN,
    errors,
    first,
    label,
    rate,
    select,
    setting_of,
    share,
    short,
)
from wdtr_lite.book.units import differences_table, draw_errors, told
from wdtr_lite.study.statistics import across_seeds
from wdtr_lite.study.table1 import PAPER

__all__ = [
    "by_seed_table",
    "comparison_table",
    "draw_comparison",
    "draw_grid",
    "error_table",
    "grid_table",
    "opening",
    "pairs_table",
    "sources",
    "style",
    "taken",
    "trained_table",
]

_CONDITIONS = {
    "natural": "natural",
    "FGSM 8": "FGSM, ε = 8/255",
    "FGSM 25": "FGSM, ε = 25/255",
    "I-FGSM-20 8": "I-FGSM-20, ε = 8/255",
}


def style() -> None:
    """The book's style, with letters for pictures as wide as a telephone."""
    plots.style()
    plt.rcParams.update({"font.size": 9.5, "axes.titlesize": 9.5})


def opening() -> None:
    """Draw the errors of the three networks against epsilon: the chapter in a picture."""
    style()
    draw_errors(study.stored("units"))


def sources(**reports: dict | None) -> str:
    """Where the reports of Table 1 come from, by profile, or the command that makes them."""
    texts = []
    for profile, report in reports.items():
        if report:
            texts.append(f"{profile}: {report['data']}\n{study.describe(report)}\n")
        else:
            texts.append(f"{profile}: not run. The command that runs it:")
            texts.append(f"python -m wdtr_lite experiment table1 --profile {profile}\n")
    return "\n".join(texts)


# ---------------------------------------------------------------- Table 1


def error_table(rows: list[dict]) -> Markdown:
    """The errors of networks, mean and standard deviation over seeds."""
    lines = [[name, *_measured(rows, condition)] for condition, name in _CONDITIONS.items()]
    return tables.table(["error (%)", *map(label, MAIN)], lines)


def comparison_table(full: Mapping) -> Markdown:
    """The paper's errors and those of our networks of the first seed, with the standard error over
    the images.
    """
    networks, lines = first(full), []
    for condition, name in _CONDITIONS.items():
        lines.append([name, "paper", *_paper(condition)])
        ours = [share(networks[m]["wrong"][condition], networks[m]["n"][condition]) for m in MAIN]
        lines.append(["", "ours", *ours])
    return tables.table(["error (%)", "", *map(label, MAIN)], lines, ["", "", *[".1f"] * 3])


def draw_comparison(full: Mapping) -> None:
    """Draw the numbers of :func:`comparison_table`, the paper's as open marks."""
    networks = first(full)
    ours = {
        name: {
            method: share(networks[method]["wrong"][condition], networks[method]["n"][condition])
            for method in MAIN
        }
        for condition, name in _CONDITIONS.items()
    }
    paper = {name: PAPER[condition] for condition, name in _CONDITIONS.items()}
    _, axes = plt.subplots(figsize=(4.6, 2.7))
    plots.dots(axes, ours, paper, MAIN)
    plots.name_dots(axes, {method: short(method) for method in MAIN}, row=0)
    axes.set(xlim=(0, 103), xlabel="error (%)")


def trained_table(full: Mapping) -> Markdown:
    """How far our networks were trained, of how many epochs, and their error on what they were
    trained on.
    """
    networks = first(full)
    epochs = training.Config(**full["config"]["networks"]["training"]).epochs
    lines = [
        ["setting", *(setting_of(networks[m]["setting"]) or "–" for m in MAIN)],
        ["epochs", *(f"{networks[m]['training']['epoch']} of {epochs}" for m in MAIN)],
        [
            "training error (%)",
            *(f"{100 * networks[m]['training']['error']:.1f}" for m in MAIN),
        ],
        ["trained on", *(networks[m]["training"]["device"].partition(",")[0] for m in MAIN)],
        ["training, minutes", *(networks[m]["seconds"]["training"] / 60 for m in MAIN)],
    ]
    return tables.table(["", *map(label, MAIN)], lines, ["", *[".1f"] * 3])


def _paper(condition: str) -> list[str]:
    return [f"{PAPER[condition][method]:.2f}" for method in MAIN]


def _measured(rows: list[dict], condition: str) -> list[str]:
    return [tables.percent(across_seeds(rows, condition, method=method)) for method in MAIN]


def by_seed_table(report: Mapping) -> Markdown:
    """The settings, the errors of each seed, and the training errors behind Table 1."""
    result = report["result"]
    rows = result["rows"]
    lines = [["setting", *(setting_of(result["chosen"][m]) or "–" for m in MAIN)]]
    for condition, name in _CONDITIONS.items():
        lines.append([name, *(_each(errors(rows, condition, method=m)) for m in MAIN)])
    trained = [
        _each(100 * row["training"]["error"] for row in select(rows, method=m)) for m in MAIN
    ]
    seeds = " / ".join(map(str, report["config"]["networks"]["seeds"]))
    header = [f"error (%), seeds {seeds}", *map(short, MAIN)]
    return tables.table(header, [*lines, ["training, last epoch", *trained]])


def _each(values: Iterable[float]) -> str:
    return " / ".join(f"{value:.1f}" for value in values)


def pairs_table(full: Mapping) -> Markdown:
    """The two penalties under the conditions of Table 1, image by image."""
    networks = first(full)
    return differences_table({
        name: (
            told(networks["wasserstein"], condition),
            told(networks["euclidean"], condition),
        )
        for condition, name in _CONDITIONS.items()
    })  # fmt: skip


# ---------------------------------------------------------------- the grid


def draw_grid(search: Sequence[Mapping], chosen: Mapping[str, Mapping]) -> None:
    """Draw natural error against error under I-FGSM-20 of each setting, a ring around the chosen
    ones.
    """
    _, axes = plt.subplots(figsize=(4.7, 3.0))
    for method, radius, marker, line in (
        ("none", None, "*", "none"),
        ("euclidean", None, "s", "-"),
        ("wasserstein", 2, "o", "-"),
        ("wasserstein", 4, "v", "--"),
        ("wasserstein", 6, "^", "-."),
        ("wasserstein", 8, "D", ":"),
    ):
        name = f"{short(method)}, r = {radius}" if radius else short(method)
        color = plots.color_of(method)
        rows = [
            row for row in select(search, method=method) if row["setting"].get("radius") == radius
        ]
        points = [(rate(row, "natural"), rate(row, "I-FGSM-20 8")) for row in rows]
        axes.plot(
            *zip(*points, strict=True), color=color, marker=marker, linestyle=line, label=name
        )
        for row, point in zip(rows, points, strict=True):
            if row["setting"] == chosen[method]:
                axes.plot(*point, "o", ms=15, mfc="none", mec=color)
    axes.set(xlabel="natural error (%)", ylabel="error under I-FGSM-20 (%)")
    axes.legend(fontsize=9.5)


def grid_table(search: Sequence[Mapping], chosen: Mapping[str, Mapping]) -> Markdown:
    """The errors of each setting on the validation images; a ring marks the chosen ones."""
    rows = [
        [
            f"{short(row['method'])} {setting_of(row['setting'])}",
            *(f"{rate(row, condition):.1f}" for condition in _CONDITIONS),
            "◯" if row["setting"] == chosen[row["method"]] else "",
        ]
        for row in search
    ]
    return tables.table(["setting", *_CONDITIONS.values(), "ring"], rows)


def taken(search: Sequence[Mapping], draws: np.ndarray) -> str:
    """How often each setting was taken: the four most frequent, then by η.

    Parameters
    ----------
    search : rows of the grid
    draws : array of int
        The place in `search` of the setting that each draw took.
    """
    shares = 100 * np.bincount(draws, minlength=len(search)) / len(draws)
    most = np.argsort(-shares)[:4]
    settings = [f"{shares[k]:4.0f} %  {setting_of(search[k]['setting'])}" for k in most]
    etas = np.array([row["setting"]["eta"] for row in search])
    weights = [f"{shares[etas == eta].sum():4.0f} %  η = {eta:g}" for eta in np.unique(etas)]
    title = f"{label(search[0]['method'])}: share of draws"
    return "\n".join([title, *settings, "by weight:", *weights])

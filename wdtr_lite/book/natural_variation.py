"""What chapter 10 reports: moved images, Table 2, steadiness at equal error, other variations."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wdtr_lite import study
from wdtr_lite.book import plots, tables
from wdtr_lite.book.reports import (
    MAIN,
    flips,
    flips_by_image,
    label,
    measured,
    measurements,
    select,
    share,
    short,
)
from wdtr_lite.book.units import differences_table, told
from wdtr_lite.study.questions import AXES, PADDINGS
from wdtr_lite.study.table2 import PAPER

__all__ = [
    "COLOR_OF",
    "COMPARED",
    "COUNTS",
    "changed_table",
    "compared",
    "comparison_table",
    "digits_table",
    "draw_changes",
    "draw_comparison",
    "draw_dots",
    "draw_variations",
    "equal_error_table",
    "letter",
    "name_methods",
    "nearest_table",
    "opening",
    "paper_table",
    "variation_pairs",
    "variations_table",
    "wins_table",
]

COMPARED = (*MAIN, "none, fewer images")
"""The methods of Table 2, and the plain networks that have the penalised ones' error."""

COUNTS = {"consecutive": "from shift to shift", "from_unshifted": "from the unshifted"}
"""The two counts of label flips."""

COLOR_OF: dict[str, str] = {
    **{method: plots.color_of(method) for method in MAIN},
    "none, fewer images": plots.COLORS["intensities"],
}
"""The colours of :data:`COMPARED`."""

_LINES: dict[str, Any] = dict(zip(COMPARED, ("-", "--", "-.", ":"), strict=True))
_MARKS: dict[str, Any] = {**plots.MARKERS, "none, fewer images": "^"}
_VARIATIONS = {
    "natural": "as they are",
    "translation": "moved",
    "rotation": "turned",
    "elastic": "bent",
    "blur": "blurred",
}
_REACHES = range(1, 17)
_SIZE = 9.5


# ---------------------------------------------------------------- how the chapter draws


def letter(axes: Axes, **texts: Any) -> None:
    """Set an axes' texts and limits, in letters that stay legible on a narrow page."""
    axes.set(**texts)
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set_fontsize(_SIZE)
    axes.tick_params(labelsize=_SIZE)


def name_methods(figure: Figure, methods: Iterable[str], *, lines: bool = False) -> None:
    """Write above a figure which mark, or line, is which method's, in its colour."""
    methods = list(methods)
    looks = [
        {"linestyle": _LINES[method]} if lines else {"linestyle": "none", "marker": _MARKS[method]}
        for method in methods
    ]
    figure.legend(
        [Line2D([], [], color=COLOR_OF[m], **look) for m, look in zip(methods, looks, strict=True)],
        [short(method) for method in methods],
        labelcolor=[COLOR_OF[method] for method in methods],
        loc="outside upper center",
        ncols=len(methods),
        fontsize=_SIZE,
        handlelength=1.4 if lines else 0.8,
        handletextpad=0.4,
        columnspacing=0.8,
        borderpad=0.2,
    )


def draw_dots(axes: Axes, found: Mapping[str, Mapping[str, tuple[float, Any]]]) -> None:
    """Draw numbers with their errors, or with how far an interval goes below and above them, a row
    a condition, a mark a method.
    """
    places = np.arange(len(found))[::-1]
    methods = list(next(iter(found.values())))
    for k, method in enumerate(methods):
        numbers, errors = zip(*(row[method] for row in found.values()), strict=True)
        axes.errorbar(
            numbers, places - 0.2 * (k - (len(methods) - 1) / 2), xerr=np.transpose(errors),
            color=COLOR_OF[method], marker=_MARKS[method], linestyle="none", markersize=5,
            linewidth=1.2,
        )  # fmt: skip
    axes.set_yticks(places, list(found))
    letter(axes, ylim=(-0.5, len(found) - 0.5))


# ---------------------------------------------------------------- Table 2


def opening() -> None:
    """Draw how often answers change while an image moves, and how often they are lost: the chapter
    in a picture.
    """
    plots.style()
    draw_changes(measured(study.stored("table2")["result"]["rows"]), ("horizontal",))


def paper_table() -> Markdown:
    """The label flips that the paper prints."""
    rows = [[axis, *(PAPER[axis][method] for method in MAIN)] for axis in PAPER]
    return tables.table(["the paper, label flips", *map(label, MAIN)], rows, ["", *[".3f"] * 3])


def digits_table(rows: Sequence[Mapping]) -> Markdown:
    """The label flips of the quick profile's digits."""
    lines = [
        [f"{axis}, {padding}, {name}", *_flips(rows, f"{axis} {padding}", count)]
        for count, name in COUNTS.items()
        for axis in AXES
        for padding in ("zeros", "edge")
    ]
    return tables.table(["digits, flips", *map(short, MAIN)], lines)


def comparison_table(report: Mapping, count: str) -> Markdown:
    """The paper's label flips and ours, by one of the :data:`COUNTS`: of several seeds mean and
    standard deviation, of one the standard error over the images, and that of the difference of the
    two penalties.
    """
    rows, lines = measured(report["result"]["rows"]), []
    several = len(select(rows, method="none")) > 1
    for axis in AXES:
        paper = (f"{PAPER[axis][method]:.2f}" for method in MAIN)
        lines.append([f"{axis}, the paper", *paper, *([] if several else [""])])
        for padding in PADDINGS:
            case = f"{axis} {padding}"
            found = _flips(rows, case, count) if several else _by_image(report, case, count)
            lines.append([f"{axis}, {padding}", *found])
    header = [f"flips {COUNTS[count]}", *map(short, MAIN)]
    return tables.table([*header, *([] if several else ["W − E"])], lines)


def draw_comparison(report: Mapping) -> None:
    """Draw the numbers of both :func:`comparison_table`, the paper's as open marks."""
    networks = measurements(report)
    cases = {f"{axis},\n{padding}": (axis, padding) for axis in AXES for padding in PADDINGS}
    figure, panels = plt.subplots(1, 2, figsize=(4.6, 3.5), sharey=True)
    for axes, (count, title) in zip(panels, COUNTS.items(), strict=True):
        ours = {
            name: {m: _mean(flips_by_image(networks[m][f"{axis} {padding}"], count)) for m in MAIN}
            for name, (axis, padding) in cases.items()
        }
        paper = {name: PAPER[axis] for name, (axis, _) in cases.items()}
        plots.dots(axes, ours, paper, MAIN)
        letter(axes, title=title, xlabel="label flips of an image")
    name_methods(figure, MAIN)


def _mean(values: np.ndarray) -> tuple[float, float]:
    """With its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def _by_image(report: Mapping, case: str, count: str) -> list[str]:
    """Of the first networks, and of the difference of the two penalties, image by image."""
    networks = measurements(report)
    found = {method: flips_by_image(networks[method][case], count) for method in MAIN}
    difference = found["wasserstein"].astype(float) - found["euclidean"]
    told = [tables.mean_error(found[method], 2) for method in MAIN]
    return [*told, tables.mean_error(difference, 2, sign="+")]


def _flips(
    rows: Sequence[Mapping], case: str, count: str, methods: Sequence[str] = MAIN
) -> list[str]:
    return [tables.mean_sd(flips(rows, method, case, count), 2) for method in methods]


def nearest_table(rows: Sequence[Mapping]) -> Markdown:
    """Of each padding and count the reach at which the plain networks come nearest to the paper's
    numbers, and the flips there.
    """
    paper = [" / ".join(f"{PAPER[axis][method]:.1f}" for axis in AXES) for method in MAIN]
    lines = [["the paper", "not said", *paper]]
    for padding in PADDINGS:
        for count, name in COUNTS.items():
            best = min(_REACHES, key=lambda reach: _off(rows, padding, count, reach))
            found = [_both(rows, method, padding, count, best) for method in MAIN]
            texts = (" / ".join(f"{mean:.1f}" for mean in both) for both in found)
            lines.append([f"{padding}, {name}", str(best), *texts])
    return tables.table(["nearest to the paper", "S", *map(short, MAIN)], lines)


def _off(rows: Sequence[Mapping], padding: str, count: str, reach: int) -> float:
    """How far the plain networks are from the paper's."""
    ours = _both(rows, "none", padding, count, reach)
    return sum(abs(mean - PAPER[axis]["none"]) for mean, axis in zip(ours, AXES, strict=True))


def _both(
    rows: Sequence[Mapping], method: str, padding: str, count: str, reach: int
) -> list[float]:
    """Mean flips on the two axes."""
    return [flips(rows, method, f"{axis} {padding}", count, reach).mean() for axis in AXES]


# ---------------------------------------------------------------- at equal error


def compared(rows: Sequence[Mapping]) -> list[str]:
    """Those of :data:`COMPARED` that there are rows of."""
    return [method for method in COMPARED if select(rows, method=method)]


def equal_error_table(rows: Sequence[Mapping]) -> Markdown:
    """Natural error and label flips, beside those of a plain network of the same error."""
    lines = [
        [
            "natural error (%)",
            *(tables.mean_sd(_errors(rows, m, "natural")) for m in compared(rows)),
        ]
    ]
    lines += [
        [f"{axis}, edge, {name}", *_flips(rows, f"{axis} edge", count, COMPARED)]
        for count, name in COUNTS.items()
        for axis in AXES
    ]
    return tables.table(["", *map(short, COMPARED)], lines)


def _errors(rows: Sequence[Mapping], method: str, case: str) -> np.ndarray:
    """The errors on varied images of each network of a method, in percent."""
    found = [row["measurements"]["variations"] for row in select(rows, method=method)]
    return np.array([100 * one["wrong"][case] / one["n"] for one in found])


def wins_table(rows: Sequence[Mapping]) -> Markdown:
    """In how many of the cases of axis and padding one method's networks flip less than another's,
    in every seed.
    """
    cases = [f"{axis} {padding}" for axis in AXES for padding in PADDINGS]

    def wins(better: str, worse: str, count: str) -> str:
        ahead = [flips(rows, better, c, count) < flips(rows, worse, c, count) for c in cases]
        return f"{sum(each.all() for each in ahead)} of {len(cases)}"

    pairs = [("euclidean", "none"), ("wasserstein", "none"), ("wasserstein", "euclidean")]
    lines = [
        [f"{short(a)} than {short(b)}", *(wins(a, b, count) for count in COUNTS)] for a, b in pairs
    ]
    return tables.table(["flips less in every seed", *COUNTS.values()], lines)


def draw_changes(rows: Sequence[Mapping], directions: Sequence[str] = AXES) -> None:
    """Draw the flips against the reach, and the share of changed labels against the shift, a row of
    panels a direction.
    """
    figure, panels = plt.subplots(
        len(directions), 2, figsize=(4.6, 0.9 + 1.4 * len(directions)), squeeze=False
    )
    for (left, right), axis in zip(panels, directions, strict=True):
        for method in compared(rows):
            look = {"color": COLOR_OF[method], "linestyle": _LINES[method]}
            left.plot(_REACHES, _upto(rows, method, axis, "consecutive"), **look)
            right.plot(_REACHES, _changed(rows, method, axis), **look)
        letter(left, ylabel=axis, ylim=(0, None))
        letter(right, ylim=(0, 75))
        for axes in (left, right):
            axes.set(xlim=(0, 16.5), xticks=[1, 4, 8, 12, 16])
    letter(panels[0, 0], title="flips from shift to shift")
    letter(panels[0, 1], title="changed labels (%)")
    letter(panels[-1, 0], xlabel="reach S (pixels)")
    letter(panels[-1, 1], xlabel="shift k (pixels)")
    name_methods(figure, compared(rows), lines=True)


def changed_table(rows: Sequence[Mapping], padding: str = "edge") -> Markdown:
    """The share of changed labels at some shifts."""
    methods = compared(rows)
    lines = [
        [f"{axis}, k = {k}", *(_changed(rows, method, axis, padding)[k - 1] for method in methods)]
        for axis in AXES
        for k in (1, 2, 4, 8, 16)
    ]
    header = [f"changed labels (%), {padding}", *map(short, methods)]
    return tables.table(header, lines, ["", *[".1f"] * len(compared(rows))])


def _upto(
    rows: Sequence[Mapping], method: str, axis: str, count: str, padding: str = "edge"
) -> list[float]:
    """Flips of an image at each reach."""
    case = f"{axis} {padding}"
    return [flips(rows, method, case, count, reach).mean() for reach in _REACHES]


def _changed(rows: Sequence[Mapping], method: str, axis: str, padding: str = "edge") -> np.ndarray:
    """Labels that are not the unshifted image's, at 1, ..., 16 pixels both ways, in percent."""
    return 100 * np.diff([0, *_upto(rows, method, axis, "from_unshifted", padding)]) / 2


# ---------------------------------------------------------------- other variations


def draw_variations(large: Sequence[Mapping], small: Sequence[Mapping]) -> None:
    """Draw the errors on varied images: of one network a method, with their standard errors over
    the images, and of small ones, with the standard deviation over seeds.
    """
    figure, panels = plt.subplots(1, 2, figsize=(4.6, 2.9), sharey=True)
    for axes, rows, title in zip(panels, (large, small), ("large", "small"), strict=True):
        found = {
            name: {method: _error(rows, method, case) for method in compared(rows)}
            for case, name in _VARIATIONS.items()
        }
        draw_dots(axes, found)
        letter(axes, title=f"{title} networks", xlabel="error (%)", xlim=(0, 78))
    name_methods(figure, compared(small))


def _error(rows: Sequence[Mapping], method: str, case: str) -> tuple[float, float]:
    """With its standard error over the images, or standard deviation over seeds."""
    errors = _errors(rows, method, case)
    if len(errors) > 1:
        return errors.mean(), errors.std(ddof=1)
    (row,) = select(rows, method=method)
    found = row["measurements"]["variations"]
    return share(found["wrong"][case], found["n"])


def variations_table(rows: Sequence[Mapping]) -> Markdown:
    """The errors on varied images, and how far they are above those on images as they are."""
    lines = [
        [name, *(tables.mean_sd(_errors(rows, m, case)) for m in compared(rows))]
        for case, name in _VARIATIONS.items()
    ]
    for case in list(_VARIATIONS)[1:]:
        above = [_errors(rows, m, case) - _errors(rows, m, "natural") for m in compared(rows)]
        lines.append([f"{_VARIATIONS[case]}, above", *map(tables.mean_sd, above)])
    return tables.table(["error (%)", *map(short, compared(rows))], lines)


def variation_pairs(report: Mapping) -> Markdown:
    """The two penalties on varied images, image by image."""
    euclidean, wasserstein = (
        measurements(report)[method]["variations"] for method in ("euclidean", "wasserstein")
    )
    return differences_table({
        name: (told(wasserstein, case), told(euclidean, case))
        for case, name in _VARIATIONS.items()
    })  # fmt: skip

"""What the section on critics draws and reports: distances of blobs, and generated digits."""

from collections.abc import Mapping, Sequence
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import rankdata
from torch import Tensor

from wdtr_lite import study
from wdtr_lite.book import plots, reports, tables
from wdtr_lite.study import blobs
from wdtr_lite.study.wgan import unit_graph

__all__ = [
    "CHANGES",
    "NAMES",
    "WAYS",
    "alone",
    "blob_table",
    "change_table",
    "digit_table",
    "draw_changes",
    "draw_digits",
    "draw_way",
    "follows",
    "generator_table",
    "opening",
    "relative",
    "right",
    "search_table",
    "told",
    "way_told",
]

NAMES = {
    "euclidean": "Euclidean",
    "wasserstein": "Wasserstein",
    "wasserstein, uniform source": "W, uniform source",
    "wasserstein, local source": "W, local source",
}
"""What the section calls the digits' critics."""

CRITICS = {
    "euclidean": "Euclidean, between: fading",
    "wasserstein, fade": "Wasserstein, between: fading",
    "wasserstein, move": "Wasserstein, between: moving",
}
"""And the blobs' critics."""

CHANGES = {
    "moved": "moved by a pixel",
    "wasserstein noise": "Wasserstein noise",
    "pixel noise": "pixel noise",
}
"""What a critic is asked about."""

_LOOKS = {
    "euclidean": (plots.COLORS["euclidean"], plots.MARKERS["euclidean"], None),
    "wasserstein": (plots.COLORS["wasserstein"], plots.MARKERS["wasserstein"], None),
    "wasserstein, uniform source": (plots.COLORS["wasserstein"], "s", "none"),
    "wasserstein, local source": (plots.COLORS["wasserstein"], "D", "none"),
    "wasserstein, fade": (plots.COLORS["wasserstein"], "D", "none"),
    "wasserstein, move": (plots.COLORS["wasserstein"], plots.MARKERS["wasserstein"], None),
}


def _result() -> Mapping:
    return study.stored("critic")["result"]


def told(critic: str, shift: float) -> list[float]:
    """The distances that the critics of blobs tell, a seed each: their estimates divided by the
    norm of their gradients, which the penalty leaves a little above 1.
    """
    found = reports.select(_result()["blobs"], critic=critic, shift=shift)
    return [row["estimate"] / row["norm"] for row in found]


def opening() -> None:
    """Draw what the critics of blobs tell over the shift, and what is known of the distances."""
    plots.style()
    _, (left, right) = plt.subplots(1, 2, figsize=(4.7, 2.5))
    known = _result()["known"]
    shifts = [row["shift"] for row in known]
    blue, red = plots.COLORS["wasserstein"], plots.COLORS["euclidean"]
    left.plot([0, *shifts], [0, *shifts], color=blue, linewidth=1)
    left.plot([0, *shifts], [0, *(row["fading"] for row in known)], ":", color=blue, linewidth=1)
    right.plot([0, *shifts], [0, *(row["euclidean"] for row in known)], color=red, linewidth=1)
    for axes, critics in (
        (left, ("wasserstein, move", "wasserstein, fade")),
        (right, ["euclidean"]),
    ):
        for critic in critics:
            _mark(axes, critic, shifts)
        axes.set_xlabel("shift (pixels)", fontsize=9.5)
        axes.tick_params(labelsize=9.5)
        axes.set(xlim=(0, 1.08 * max(shifts)), ylim=(0, None))
    left.set_title("Wasserstein (pixels)", fontsize=9.5)
    right.set_title("Euclidean (intensities)", fontsize=9.5)
    far = known[-1]
    left.annotate("fading", (far["shift"], far["fading"]), (-6, -4), textcoords="offset points",
                  ha="right", va="top", fontsize=9.5, color=blue)  # fmt: skip
    left.annotate("moving", (far["shift"], far["shift"]), (4, -26), textcoords="offset points",
                  ha="right", va="top", fontsize=9.5, color=blue)  # fmt: skip


def _mark(axes: Axes, critic: str, shifts: list[float]) -> None:
    tint, marker, face = _LOOKS[critic]
    for shift in shifts:
        values = told(critic, shift)
        axes.plot([shift] * len(values), values, marker, color=tint, markersize=4.5,
                  markerfacecolor=face, alpha=0.7)  # fmt: skip


def blob_table() -> Markdown:
    """What is known of the blobs' distances, the Euclidean one from 500 blobs of each set, and what
    their critics tell, mean and standard deviation over the seeds.
    """
    lines = [
        [
            f"{row['shift']:g}",
            f"{row['euclidean']:.3f}",
            tables.mean_sd(told("euclidean", row["shift"]), 3),
            f"{row['moving']:.2f}",
            tables.mean_sd(told("wasserstein, move", row["shift"]), 2),
            f"{row['fading']:.2f}",
            tables.mean_sd(told("wasserstein, fade", row["shift"]), 2),
        ]
        for row in _result()["known"]
    ]
    names = ["Euclidean, 500 to 500", "critic", "moving", "critic", "fading", "critic"]
    return tables.table(["shift", *names], lines)


# ---------------------------------------------------------------- ways from blob to blob

WAYS = ("fading", "moving")
"""How a blob becomes the moved one."""

_STEPS = 96
_QUARTERS = (0, 32, 48, 64, 96)  # the steps at which a quarter of the time is over


@cache
def _way(way: str, shift: float) -> tuple[Tensor, np.ndarray]:
    """Pictures (97, 24, 24) from a blob to the moved one, and the length of each step."""
    path = blobs.ways(shift, _STEPS)[way]
    graph = unit_graph(*path.shape[1:], radius=1).to(path.dtype)
    return path, np.array([blobs.length(graph, path[k : k + 2]) for k in range(_STEPS)])


def draw_way(way: str, shift: float) -> Figure:
    """Draw five pictures of a way, and under them the length of what is behind."""
    path, steps = _way(way, shift)
    figure = plt.figure(figsize=(3.6, 2.3))
    grid = figure.add_gridspec(2, 5, height_ratios=(1, 1.4))
    for k, (place, name) in enumerate(zip(_QUARTERS, ("start", "¼", "½", "¾", "end"), strict=True)):
        axes = figure.add_subplot(grid[0, k])
        plots.show_image(axes, path[place][4:20].numpy(), name)
    axes = figure.add_subplot(grid[1, :])
    t = blobs.times(_STEPS).numpy()
    axes.plot(t, [0, *steps.cumsum()], color=plots.COLORS["wasserstein"])
    axes.plot(t, shift * t, color="#6F6F6F", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, None))
    axes.set_xlabel("t", fontsize=9.5)
    axes.set_ylabel("length so far\n(pixels)", fontsize=9.5)
    axes.tick_params(labelsize=9.5)
    return figure


def way_told(way: str, shift: float) -> str:
    """What :func:`draw_way` shows, in a sentence."""
    steps = _way(way, shift)[1]
    ends = 100 * (steps[: _QUARTERS[1]].sum() + steps[_QUARTERS[3] :].sum()) / steps.sum()
    return (
        f"A blob {way} to {shift:g} pixels further right: the way is {steps.sum():.1f} pixels "
        f"long, {ends:.0f} % of it in the first and the last quarter. Grey: a steady move."
    )


# ---------------------------------------------------------------- digits


def rows(method: str) -> list[Mapping]:
    """The chosen networks of a method."""
    return reports.select(_result()["rows"], method=method)


def alone(method: str, weight: float | None = None) -> list[Mapping]:
    """The critics of double exposures of a method: of a weight, or of that which is right most
    often of validation digits.
    """
    found = reports.select(_result()["exposures"], method=method)
    if weight is None:
        weights = dict.fromkeys(row["setting"]["weight"] for row in found)
        weight = max(weights, key=lambda each: right(alone(method, each), "validation"))
    return [row for row in found if row["setting"]["weight"] == weight]


def right(found: Sequence[Mapping], part: str = "test") -> float:
    """How often critics value a digit higher than a double exposure, their mean in percent."""
    return 100 * float(np.mean([row["right"][part] for row in found]))


def relative(found: Sequence[Mapping], change: str) -> list[float]:
    """By how much a change of a digit moves the value of critics of double exposures, in percent of
    what they tell.
    """
    return [100 * row["changes"][change] / row["gap"] for row in found]


_RAISED = {"euclidean": -7, "wasserstein, local source": 1, "wasserstein, uniform source": 11}


def draw_digits(count: int = 10) -> None:
    """Draw digits that the first generator of each method makes from the same noise, and how far
    all are from test digits during training.
    """
    figure = plt.figure(figsize=(4.7, 3.9))
    grid = figure.add_gridspec(len(NAMES) + 1, 1, height_ratios=[1] * len(NAMES) + [4])
    for place, (method, name) in enumerate(NAMES.items()):
        pixels = np.frombuffer(bytes.fromhex(rows(method)[0]["samples"]), np.uint8)
        images = pixels.reshape(-1, 14, 14)[:count]
        axes = figure.add_subplot(grid[place])
        plots.show_image(axes, np.hstack(list(images)), vmax=255)
        text = name.replace(", ", ",\n")
        axes.set_ylabel(text, fontsize=9.5, rotation=0, ha="right", va="center")
    axes = figure.add_subplot(grid[-1])
    for method, name in NAMES.items():
        tint, _, face = _LOOKS[method]
        for row in rows(method):
            steps = [each["step"] for each in row["history"]]
            values = [each["frechet"] for each in row["history"]]
            axes.plot(steps, values, "--" if face else "-", color=tint, linewidth=1, alpha=0.8)
        last = rows(method)[0]["history"][-1]
        axes.annotate(name, (last["step"], last["frechet"]), (4, _RAISED.get(method, 0)),
                      textcoords="offset points", va="center", fontsize=9.5,
                      color=tint)  # fmt: skip
    axes.axhline(_result()["real"]["frechet"], color="#6F6F6F", linewidth=1)
    axes.set(yscale="log", xlim=(0, 1.42 * last["step"]))
    axes.set_xticks(np.linspace(0, last["step"], 4))
    axes.set_xlabel("steps of the generator", fontsize=9.5)
    axes.set_ylabel("Fréchet distance", fontsize=9.5)
    axes.tick_params(labelsize=9.5)


def draw_changes() -> None:
    """Draw what three changes of a digit do to each critic of double exposures, in percent of what
    it tells.
    """
    _, panels = plt.subplots(1, 3, figsize=(4.7, 2.5), sharey=True)
    for axes, (change, text) in zip(panels, CHANGES.items(), strict=True):
        found = {method: relative(alone(method), change) for method in NAMES}
        _dot_rows(axes, found, ".0f")
        axes.set_xlim(0, 1.3 * max(map(max, found.values())))
        axes.set_xlabel(text.replace(" ", "\n", 1) + " (%)", fontsize=9.5)


def _dot_rows(axes: Axes, found: Mapping[str, list[float]], form: str = ".1f") -> None:
    plots.seed_dots(
        axes,
        found,
        {m: (t, k, face or t) for m, (t, k, face) in _LOOKS.items() if m in found},
        form,
    )
    plots.name_rows(axes, [NAMES[m].replace(", ", ",\n") for m in found])


def follows(row: Mapping) -> float:
    """How well the critic's estimate follows the Fréchet distance during training: the rank
    correlation of the two.
    """
    ranks = (rankdata([each[key] for each in row["history"]]) for key in ("estimate", "frechet"))
    return float(np.corrcoef(*ranks)[0, 1])


def digit_table() -> Markdown:
    """Quality of the generators, how the critics' estimates follow it, and seconds of training,
    mean and standard deviation over the seeds.
    """
    lines = []
    for method, name in NAMES.items():
        chosen = rows(method)
        lines.append([
            f"{name} (λ = {chosen[0]['setting']['weight']:g})",
            tables.mean_sd([row["frechet"]["test"] for row in chosen]),
            tables.mean_sd([row["score"] for row in chosen]),
            tables.mean_sd([follows(row) for row in chosen], 2),
            tables.mean_sd([row["seconds"]["training"] for row in chosen], 0),
        ])  # fmt: skip
    real = _result()["real"]
    lines.append(["digits themselves", f"{real['frechet']:.1f}", f"{real['score']:.1f}", *"––"])
    names = ["Fréchet distance", "class score", "estimate follows", "seconds"]
    return tables.table(["critic", *names], lines)


def change_table() -> Markdown:
    """What changes of a digit do to the critics of double exposures with each weight, in percent of
    what they tell, mean and standard deviation over the seeds; and how often they are right.
    """
    lines = []
    for method, name in NAMES.items():
        for weight in study.stored("critic")["config"]["weights"]:
            found = alone(method, weight)
            chosen = " (chosen)" * (found == alone(method))
            lines.append([
                f"{name}, λ = {weight:g}{chosen}",
                f"{right(found):.1f}",
                *(tables.mean_sd(relative(found, change), 1) for change in CHANGES),
            ])  # fmt: skip
    names = [f"{text} (%)" for text in CHANGES.values()]
    return tables.table(["critic", "right (%)", *names], lines)


def generator_table() -> Markdown:
    """What the same changes do to the critics of the generators, in percent of what another digit
    does.
    """
    lines = []
    for method, name in NAMES.items():
        found = [row["changes"] for row in rows(method)]
        cells = [[100 * each[change] / each["another"] for each in found] for change in CHANGES]
        lines.append([name, *(tables.mean_sd(values, 1) for values in cells)])
    return tables.table(["critic", *(f"{text} (%)" for text in CHANGES.values())], lines)


def search_table() -> Markdown:
    """Every weight that was tried, with the distance to validation digits."""
    lines = [
        [NAMES[row["method"]], f"{row['setting']['weight']:g}", row["frechet"]["validation"],
         row["score"], follows(row)]
        for row in _result()["search"]
    ]  # fmt: skip
    names = ["Fréchet distance", "class score", "estimate follows"]
    return tables.table(["critic", "λ", *names], lines, ["", "", ".1f", ".1f", ".2f"])

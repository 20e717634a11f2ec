"""What the section on both terms of Theorem 1 draws and reports."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import combinations, permutations

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from wdtr_lite import PixelGraph, data, metric, study
from wdtr_lite.book import plots, reports, sprint, tables
from wdtr_lite.study.laplace_beltrami import ETAS
from wdtr_lite.study.outcomes import unpack
from wdtr_lite.training.objectives.expansion import volume_drift

__all__ = [
    "NAMES",
    "cost",
    "disagreement",
    "disagreement_table",
    "draw_drift",
    "draw_errors",
    "drift_told",
    "error_table",
    "eta_of",
    "failed",
    "level",
    "opening",
    "predicted",
    "rows",
    "shift",
    "sizes",
    "small_digits",
    "subject",
    "term_table",
]

NAMES = {
    "none": "plain",
    "wasserstein": "Appendix D",
    "gauss_newton": "first term",
    "second_order": "both terms",
    "laplace_beltrami": "Laplace–Beltrami",
    "wasserstein_noise": "noise",
}
"""What the section calls the networks."""

_LOOKS = {
    "none": ("black", "*"),
    "wasserstein": (plots.BLUE, "o"),
    "gauss_newton": (plots.BLUE, "D"),
    "second_order": (plots.RED, "s"),
    "laplace_beltrami": (plots.GREEN, "P"),
    "wasserstein_noise": (plots.GREY, "^"),
}

SEEDS = 3
_CONDITIONS = ("natural", "pgd 0.1", "translation", "rotation", "elastic")


def rows(method: str, eta: float | None = None) -> list[Mapping]:
    """The networks of a method, at a level of the noise, but for those that failed."""
    found = reports.select(study.stored("laplace_beltrami")["result"]["rows"], method=method)
    there = [row for row in found if eta is None or method == "none" or eta_of(row) == eta]
    return [row for row in there if not failed(row)]


def failed(row: Mapping) -> bool:
    """Whether a training diverged, or ended with one answer for nearly all digits."""
    return "wrong" not in row or reports.rate(row, "natural") > 80


def eta_of(row: Mapping) -> float:
    """The noise whose expansion has the weight of a row's penalty, half eta squared."""
    eta = row["setting"].get("eta", 0.0)
    return round(eta * 2**0.5, 4) if row["method"] == "wasserstein" else eta


def level(method: str, condition: str, eta: float) -> list[float]:
    """The errors of the networks of a method in percent."""
    return list(reports.errors(rows(method, eta), condition))


def cost(method: str) -> float:
    """How many plain steps a step takes."""
    found = study.stored("laplace_beltrami")["result"]["milliseconds"]
    return found[method] / found["none"]


def opening() -> None:
    """Draw what a step costs and the errors at one level, a row a way to train."""
    plots.style()
    _, (left, right) = plt.subplots(1, 2, figsize=(4.5, 2.7), sharey=True)
    _dot_rows(left, {method: [cost(method)] for method in NAMES}, of=1)
    left.set_xlabel("time of a step\n(plain = 1)", fontsize=9.5)
    _dot_rows(right, {method: level(method, "natural", 0.2) for method in NAMES})
    right.set_xlabel("natural error (%),\nη = 0.2", fontsize=9.5)


def draw_errors(etas: Sequence[float]) -> None:
    """Draw the errors on digits as they are and under attack, a row of panels a level, a dot a
    network.
    """
    size = (4.5, 0.5 + 1.9 * len(etas))
    _, panels = plt.subplots(len(etas), 2, figsize=size, sharey=True, sharex="col", squeeze=False)
    for line, eta in zip(panels, etas, strict=True):
        for axes, condition in zip(line, ("natural", "pgd 0.1"), strict=True):
            _dot_rows(axes, {method: level(method, condition, eta) for method in NAMES})
            axes.set_title(f"η = {eta:g}", fontsize=9.5)
    for axes, text in zip(
        panels[-1], ("natural error (%)", "error under PGD 0.1 (%)"), strict=True
    ):
        axes.set_xlabel(text, fontsize=9.5)


def _dot_rows(axes: Axes, found: Mapping[str, Sequence[float]], of: int = SEEDS) -> None:
    """A row a method, the mean written over it; where there is no network, that all failed."""
    for place, (method, values) in enumerate(reversed(list(found.items()))):
        tint, marker = _LOOKS[method]
        if not values:
            axes.text(0.03, place, "failed", color=tint, fontsize=9.5, va="center",
                      transform=axes.get_yaxis_transform())  # fmt: skip
            continue
        axes.plot(values, [place] * len(values), marker, color=tint, markersize=4.5, alpha=0.7)
        text = f"{np.mean(values):.1f}" + _share(values, of)
        axes.text(min(values), place + 0.2, text, fontsize=9.5)
    plots.name_rows(axes, [NAMES[m] for m in found])
    axes.tick_params(labelsize=9.5)
    largest = max(max(values) for values in found.values() if values)
    axes.set(ylim=(-0.5, len(found) - 0.3), xlim=(0, max(1.3 * largest, axes.get_xlim()[1])))


# ---------------------------------------------------------------- the terms


def sizes(method: str, eta: float | None = None) -> list[Mapping]:
    """What :class:`~wdtr_lite.study.laplace_beltrami.TermSizes` found of each network."""
    return [row["terms"] for row in rows(method, eta)]


def term_table(eta: float) -> Markdown:
    """The terms at test images, with signs and by size, means over the seeds; and what noise adds
    to the loss, over half eta squared.
    """
    keys = ("appendix", "gradient", "laplacian", "|laplacian|", "drift", "|drift|")
    lines = []
    for method, name in NAMES.items():
        found = sizes(method, eta)
        if found:
            added = np.mean([each["added"][ETAS.index(eta)] for each in found])
            means = [float(np.mean([each[key] for each in found])) for key in keys]
            lines.append([name, *means, float(added / (eta**2 / 2))])
    header = ["trained", "l'² ‖∇f‖²", "l'' ‖∇f‖²", "l' tr(L∇²f)", "its size", "drift", "its size"]
    return tables.table([*header, "noise adds"], lines, ["", *[".3f"] * 7])


def predicted(method: str, eta: float) -> list[float]:
    """What the two terms say noise adds to the loss of each network, over what it adds."""
    return [
        eta**2 / 2 * (each["gradient"] + each["laplacian"]) / each["added"][ETAS.index(eta)]
        for each in sizes(method)
    ]


# ---------------------------------------------------------------- the networks


def _share(values: Sequence[float], of: int) -> str:
    """How many of so many there are, where some but not all failed."""
    return f" ({len(values)} of {of})" if 0 < len(values) < of else ""


def error_table(eta: float) -> Markdown:
    """The errors under each condition, mean and standard deviation over the seeds."""
    lines = []
    for method, name in NAMES.items():
        found = [level(method, condition, eta) for condition in _CONDITIONS]
        cells = [tables.mean_sd(each, 1) if each else "failed" for each in found]
        lines.append([name + _share(found[0], SEEDS), *cells])
    heads = ["natural", "PGD 0.1", *_CONDITIONS[2:]]
    return tables.table(["% error", *heads], lines)


def disagreement(first: str, second: str, eta: float, *, seeds: str) -> list[float]:
    """How many test images, in percent, two networks take for different digits: of every pair with
    ``"the same"`` seed, or with ``"different"`` ones.
    """
    one, other = (_labels(rows(method, eta)) for method in (first, second))
    if seeds == "the same":
        pairs: Iterable = [(seed, seed) for seed in one]
    else:
        pairs = (combinations if first == second else permutations)(one, 2)
    return [100 * float(np.mean(one[a] != other[b])) for a, b in pairs]


def _labels(found: Sequence[Mapping]) -> dict[int, np.ndarray]:
    """By seed."""
    return {row["seed"]: unpack(row["labels"], (10_000,)) for row in found}


def disagreement_table(eta: float) -> Markdown:
    """Noise beside each other way to train."""
    lines = [
        ["noise and noise", "–", _rates("wasserstein_noise", eta, "different")],
        *(
            [f"noise and {NAMES[m]}", _rates(m, eta, "the same"), _rates(m, eta, "different")]
            for m in NAMES
            if m != "wasserstein_noise" and level(m, "natural", eta)
        ),
    ]
    return tables.table(["networks (%)", "same seed", "different seeds"], lines)


def _rates(method: str, eta: float, seeds: str) -> str:
    return tables.mean_sd(disagreement("wasserstein_noise", method, eta, seeds=seeds), 2)


# ---------------------------------------------------------------- the drift


@cache
def subject() -> tuple[nn.Module, Tensor, Tensor, PixelGraph]:
    """A network trained plainly for a few seconds on digits of 14 x 14 pixels; eight test digits
    with their labels; the pixel graph.
    """
    digits = small_digits()
    model = sprint.trained(digits)
    images, labels = digits.part("test", 8)
    return model.double(), images[:, None].double() / 255, labels, PixelGraph(14, 14, 2)


def small_digits() -> data.Dataset:
    """The digits of mnist5k in 14 x 14 pixels."""
    digits = data.load("mnist5k")
    images = F.avg_pool2d(digits.images[:, None].double(), 2)[:, 0].round().to(torch.uint8)
    return data.Dataset("small digits", images, digits.labels, digits.source, digits.split)


def shift(black: str, eta: float) -> tuple[Tensor, Tensor]:
    """A digit (14, 14) with black pixels at 1/255 say, and where the drift moves it on average."""
    _, images, _, graph = subject()
    x = images[4, 0].clamp_min(1 / float(black.removeprefix("1/")))
    unit = float(metric.mean_diagonal(graph.to(torch.float64), x))
    return x, eta**2 / 2 * volume_drift(graph, x) / unit


def draw_drift(black: str, eta: float) -> Figure:
    """Draw the digit, the shift, and both together."""
    x, moved = shift(black, eta)
    figure, axes = plt.subplots(1, 3, figsize=(4.6, 1.8))
    plots.show_image(axes[0], x.numpy(), "digit", vmax=1)
    plots.show_change(axes[1], moved.numpy(), "mean shift")
    plots.show_image(axes[2], (x + moved).numpy(), "together", vmax=1)
    return figure


def drift_told(black: str, eta: float) -> str:
    """What :func:`draw_drift` shows, in a sentence."""
    x, moved = shift(black, eta)
    size, below = float(moved.square().mean().sqrt()), float((x + moved < 0).double().mean())
    return (
        f"Black is {black}, η = {eta:g}: the mean shift is {size:.3f} per pixel where the noise is "
        f"{eta:g}, and takes {100 * below:.0f} % of the pixels below zero."
    )

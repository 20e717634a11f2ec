"""What the section on the blind direction draws and reports: the metric with a source of mass."""

from collections.abc import Iterable, Mapping
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from wdtr_lite import PixelGraph, attacks, data, metric, study
from wdtr_lite.book import plots, reports, sprint, tables
from wdtr_lite.metric import Source
from wdtr_lite.study.table1 import CONDITIONS

__all__ = [
    "NAMES",
    "draw_errors",
    "draw_shares",
    "draw_steps",
    "error_table",
    "least_cost",
    "opening",
    "published_table",
    "search_table",
    "share_table",
    "shares",
    "step_told",
    "unbalanced_cost",
]

NAMES = {
    "none": "plain",
    "euclidean": "Euclidean",
    "wasserstein": "Wasserstein",
    "wasserstein, uniform source": "W, uniform source",
    "wasserstein, local source": "W, local source",
}
"""What the chapter calls the networks."""

_CONDITIONS = {
    "natural": "natural",
    "fgsm 0.1": "FGSM 0.1",
    "pgd 0.05": "PGD 0.05",
    "pgd 0.1": "PGD 0.1",
    "pgd 0.2": "PGD 0.2",
    "wasserstein 4": "Wasserstein 4",
}

_EPSILON = 4.0  # of the attack that the chapter draws, in pixels


_PICTURES = {"digits": ("full", "pgd 0.1"), "photographs": ("cpu", "I-FGSM-20 8")}
"""Where the networks are, and the attack that decided what was chosen."""


def rows(pictures: str) -> list[Mapping]:
    """The networks that were chosen, of digits or photographs."""
    return study.stored("blind_direction", _PICTURES[pictures][0])["result"]["rows"]


def opening() -> None:
    """Draw how much of the loss's gradient is even, and the errors under attack, for digits and
    photographs, a row a way to train, a dot a network.
    """
    plots.style()
    _, panels = plt.subplots(2, 2, figsize=(4.5, 4.6), sharey=True)
    for line, (pictures, (_, attack)) in zip(panels, _PICTURES.items(), strict=True):
        found = {name: [100 * each["even"] for each in shares(name, pictures)] for name in NAMES}
        _dot_rows(line[0], found, ".1f")
        errors = {name: list(reports.errors(rows(pictures), attack, method=name)) for name in NAMES}
        _dot_rows(line[1], errors)
        for axes in line:
            axes.set_title(pictures, fontsize=9.5)
    panels[1, 0].set_xlabel("even part of the\ngradient's energy (%)", fontsize=9.5)
    panels[1, 1].set_xlabel("error under attack (%)", fontsize=9.5)


def draw_shares() -> None:
    """Draw how much of the gradient's energy lies on black pixels, and what the Wasserstein norm
    sees of a unit of it, a row a way to train, a dot a network.
    """
    _, panels = plt.subplots(1, 2, figsize=(4.5, 2.4), sharey=True)
    for axes, key, factor, form, text in (
        (panels[0], "black", 100, ".0f", "energy on black\npixels (%)"),
        (panels[1], "seen", 1, ".1f", "seen of a unit\nof energy"),
    ):
        found = {name: [factor * each[key] for each in shares(name)] for name in NAMES}
        _dot_rows(axes, found, form)
        axes.set_xlabel(text, fontsize=9.5)


def draw_errors() -> None:
    """Draw the errors of the penalised networks under four conditions, a dot a network."""
    _, panels = plt.subplots(2, 2, figsize=(4.5, 4.4), sharey=True)
    methods = [name for name in NAMES if name != "none"]
    for axes, condition in zip(
        panels.flat, ("natural", "pgd 0.05", "pgd 0.1", "wasserstein 4"), strict=True
    ):
        _dot_rows(
            axes,
            {
                name: list(reports.errors(rows("digits"), condition, method=name))
                for name in methods
            },
        )
        axes.set_title(_CONDITIONS[condition], fontsize=9.5)
    for axes in panels[1]:
        axes.set_xlabel("test error (%)", fontsize=9.5)


def _dot_rows(axes: Axes, found: Mapping[str, list[float]], form: str = ".1f") -> None:
    tints = {m: plots.COLORS.get(m.partition(",")[0], "black") for m in found}
    plots.seed_dots(
        axes, found, {m: (t, "o", "none" if "," in m else t) for m, t in tints.items()}, form
    )
    plots.name_rows(axes, [NAMES[m] for m in found])
    axes.set_xlim(0, 1.3 * max(map(max, found.values())))


def shares(method: str, pictures: str = "digits") -> list[dict[str, float]]:
    """Of each network of a method the shares of the gradients' energy: that is ``even``, that lies
    on ``black`` pixels; and what the Wasserstein norm sees for one unit of it, ``seen``.
    """
    return _shares(row["gradient"] for row in reports.select(rows(pictures), method=method))


def _shares(found: Iterable[Mapping[str, float]]) -> list[dict[str, float]]:
    return [{k: each[k] / each["all"] for k in ("even", "black", "seen")} for each in found]


def published_table() -> Markdown:
    """The even share of the gradients of Table 1's published networks, in percent."""
    found = study.stored("blind_direction", "cpu")["result"]["published"]
    lines = [
        [text, *(100 * _shares([found[profile][m]])[0]["even"] for m in reports.MAIN)]
        for profile, text in (("cpu", "ResNet-8, 4 epochs"), ("full", "ResNet-20, 159 epochs"))
    ]
    return tables.table(["even (%)", *map(reports.short, reports.MAIN)], lines, ["", *[".2f"] * 3])


def share_table(pictures: str) -> Markdown:
    """The shares by method, in percent, mean and standard deviation over the seeds."""
    lines = []
    for method, name in NAMES.items():
        each = shares(method, pictures)
        cells = [
            tables.mean_sd([factor * one[key] for one in each], places)
            for key, factor, places in (("even", 100, 2), ("black", 100, 1), ("seen", 1, 2))
        ]
        lines.append([name, *cells])
    return tables.table(["trained", "even (%)", "on black pixels (%)", "seen"], lines)


def error_table(pictures: str) -> Markdown:
    """The errors of the networks under each condition, mean and standard deviation over seeds."""
    conditions = _CONDITIONS if pictures == "digits" else {name: name for name in CONDITIONS}
    lines = []
    for method, name in NAMES.items():
        setting = _setting(reports.select(rows(pictures), method=method)[0]["setting"])
        cells = [
            tables.mean_sd(reports.errors(rows(pictures), condition, method=method), 1)
            for condition in conditions
        ]
        lines.append([f"{name} ({setting})" if setting else name, *cells])
    return tables.table(["% error", *conditions.values()], lines)


def _setting(setting: Mapping) -> str:
    strength = f", α = {setting['strength']:g}" if "strength" in setting else ""
    return reports.setting_of(setting) + strength


def search_table() -> Markdown:
    """Every setting that was tried, with its errors on the validation images."""
    search = study.stored("blind_direction")["result"]["search"]
    shown = {condition: _CONDITIONS[condition] for condition in ("natural", "pgd 0.1")}
    return tables.search_table(search, NAMES, _setting, shown)


# ---------------------------------------------------------------- the metric itself


def least_cost(graph: PixelGraph, x: Tensor, xi: Tensor, source: Source) -> float:
    """The least cost of a change of an image (H, W), by least squares over the flux of each edge
    and the source of each pixel, or of all alike.
    """
    columns = graph.incidence().to_dense() * metric.mobility(graph, x).sqrt()[:, None]
    free = torch.eye(graph.size, dtype=x.dtype)
    if source.kind == "uniform":
        free = torch.full((1, graph.size), graph.size**-0.5, dtype=x.dtype)
    ways = torch.cat([columns, source.strength**0.5 * free]).T.numpy()
    found, *_ = np.linalg.lstsq(ways, xi.flatten().numpy(), rcond=1e-12)
    assert np.allclose(ways @ found, xi.flatten().numpy(), atol=1e-10)
    return float(found @ found)


def unbalanced_cost(x: Tensor, y: Tensor, strength: float) -> float:
    r"""The static unbalanced transport cost of two images (H, W) by POT: the cost of a plan in
    squared pixels plus :math:`\tfrac{2}{\alpha}` of the squared misses of both its marginals.
    """
    import ot

    pixels = torch.cartesian_prod(*(torch.arange(side, dtype=torch.float64) for side in x.shape))
    cost = torch.cdist(pixels, pixels).square().numpy()
    a, b = x.flatten().double().numpy(), y.flatten().double().numpy()
    plan = ot.unbalanced.mm_unbalanced(
        a, b, cost, reg_m=2 / strength, div="l2", numItermax=20_000, stopThr=1e-14
    )
    misses = ((plan.sum(1) - a) ** 2).sum() + ((plan.sum(0) - b) ** 2).sum()
    return float((plan * cost).sum() + 2 / strength * misses)


@cache
def _subject() -> tuple[nn.Module, Tensor, Tensor, PixelGraph]:
    """A network trained plainly for a few seconds, a digit and its label, the pixel graph."""
    model = sprint.trained()
    images, labels = data.load("mnist5k").part("test", 8)
    return model, images[3:4, None] / 255, labels[3:4], PixelGraph(28, 28, 4)


def attacked(source: str, strength: float) -> tuple[Tensor, Tensor]:
    """A digit (1, 1, 28, 28) and what the attack of the chapter makes of it; the strength of the
    source is relative to L's mean diagonal.
    """
    model, x, y, graph = _subject()
    alpha = strength * float(metric.mean_diagonal(graph, x))
    found = attacks.wasserstein_attack(model, x, y, graph, _EPSILON, source=Source(source, alpha))
    return x, found


def draw_steps(source: str, strength: float) -> Figure:
    """Draw the digit, the attacked one, and what was changed."""
    x, found = attacked(source, strength)
    return plots.show_attack(x[0, 0].numpy(), found[0, 0].numpy())


def step_told(source: str, strength: float) -> str:
    """What :func:`draw_steps` shows, in a sentence."""
    x, found = attacked(source, strength)
    gain = 100 * float((found - x).sum() / x.sum())
    black = 100 * float((found - x)[x == 0].abs().sum() / (found - x).abs().sum())
    return (
        f"One step of length {_EPSILON:g} pixels with a {source} source, α = {strength:g}: the "
        f"picture's ink changes by {gain:+.1f} %, {black:.0f} % of the change is on black pixels."
    )

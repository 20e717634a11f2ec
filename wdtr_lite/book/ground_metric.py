"""What the section on a learnt ground metric draws and reports."""

from collections.abc import Mapping
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from wdtr_lite import PixelGraph, data, metric, noise, study
from wdtr_lite.book import plots, reports, tables
from wdtr_lite.metric import operators
from wdtr_lite.study.ground_metric import Pairs, autocorrelation, pairs
from wdtr_lite.training.objectives.learnt import learnt_graph

__all__ = [
    "NETWORKS",
    "NOISES",
    "change_told",
    "draw_changes",
    "draw_errors",
    "draw_kernels",
    "draw_likelihoods",
    "drawn_changes",
    "error_table",
    "kernels",
    "likelihood_table",
    "likelihoods",
    "networks",
    "opening",
    "potential_ratios",
    "search_table",
    "show_kernel",
    "side_by_side",
    "slope_by_differences",
    "slope_by_edges",
]

NOISES = ("isotropic", "r = 8", "r = 6", "r = 4", "r = 2", "r = 1", "learnt")
"""As the figures have them, from the top."""

NETWORKS = {
    "none": "plain",
    "euclidean": "Euclidean",
    "wasserstein, r = 1": "W, r = 1",
    "wasserstein, r = 2": "W, r = 2",
    "wasserstein, r = 4": "W, r = 4",
    "wasserstein, r = 8": "W, r = 8",
    "learnt_wasserstein": "W, learnt",
}
"""What the section calls the networks."""

CONDITIONS = {
    "natural": "natural",
    "translation": "moved",
    "rotation": "turned",
    "elastic": "bent",
    "pgd 0.1": "PGD 0.1",
    "wasserstein": "Wasserstein 1",
}

_KINDS = {"nearest": "nearest of the class", "random": "any of the class"}
_SMALL = 9.5  # letters


def opening() -> None:
    """Draw how changes of digits go together, and the weights that are learnt from them."""
    plots.style()
    figure, axes = plt.subplots(1, 2, figsize=(4.6, 2.7))
    found = kernels("nearest", "autocorrelation")
    show_kernel(figure, axes[0], found, "correlation of\nthe changes", signed=True)
    show_kernel(figure, axes[1], kernels("nearest", "weights"), "learnt weight")


def draw_kernels() -> None:
    """Draw the kernels of each draw, of both kinds of pairs."""
    stored = _stored()["kernels"]
    figure, axes = plt.subplots(2, 3, figsize=(4.6, 3.4))
    for row, (kind, text) in zip(axes, _KINDS.items(), strict=True):
        for each, found in zip(row, reports.select(stored, kind=kind), strict=True):
            show_kernel(figure, each, np.array(found["weights"]), f"draw {found['draw'] + 1}")
        row[0].set_ylabel(text, fontsize=_SMALL)


def show_kernel(
    figure: Figure, axes: Axes, kernel: np.ndarray, title: str, *, signed: bool = False
) -> None:
    """Draw numbers by offset (2r + 1, 2r + 1) with their colour bar, the centre crossed out; signed
    ones from blue over white to red.
    """
    r = len(kernel) // 2
    kernel = kernel.copy()
    kernel[r, r] = np.nan
    most = float(np.nanmax(abs(kernel)))
    colors = {"cmap": "RdBu_r", "vmin": -most} if signed else {"cmap": "Blues", "vmin": 0}
    drawn = axes.imshow(kernel, vmax=most, extent=(-r - 0.5, r + 0.5, r + 0.5, -r - 0.5), **colors)
    axes.plot(0, 0, "x", color="black", markersize=5)
    axes.set(xticks=[-r, 0, r], yticks=[-r, 0, r])
    axes.tick_params(labelsize=_SMALL)
    axes.set_title(title, fontsize=_SMALL)
    bar = figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.9)
    bar.ax.tick_params(labelsize=_SMALL)


def kernels(kind: str, part: str) -> np.ndarray:
    """The ``weights`` or the ``autocorrelation`` of a kind of pairs, the mean over the draws."""
    found = reports.select(_stored()["kernels"], kind=kind)
    return np.mean([each[part] for each in found], axis=0)


# ---------------------------------------------------------------- likelihoods


def likelihoods(kind: str, of: str = "mean") -> dict[str, list[float]]:
    """Of each noise the log-likelihood of the pairs it was not fitted to, in nats a pixel, of each
    draw; ``learnt_from`` of those that it was fitted to.
    """
    rows = reports.select(_stored()["rows"], kind=kind)
    return {name: [row[of] for row in reports.select(rows, noise=name)] for name in NOISES}


def draw_likelihoods() -> None:
    """Draw the log-likelihoods, a row a noise, a dot a draw of pairs."""
    _, panels = plt.subplots(1, 2, figsize=(4.6, 3.0), sharey=True)
    for axes, (kind, text) in zip(panels, _KINDS.items(), strict=True):
        found = likelihoods(kind)
        plots.seed_dots(axes, found, {name: _look(name) for name in found}, ".2f")
        values = [value for each in found.values() for value in each]
        margin = max(values) - min(values)
        axes.set_xlim(min(values) - 0.1 * margin, max(values) + 0.3 * margin)
        axes.set_title(text, fontsize=_SMALL)
        axes.set_xlabel("nats a pixel", fontsize=_SMALL)
        names = [f"equal, {name}" if name.startswith("r") else name for name in found]
        plots.name_rows(axes, names)


def likelihood_table() -> Markdown:
    """The log-likelihoods in nats a pixel, mean and standard deviation over the draws, on the pairs
    that judge and on those that were fitted.
    """
    columns = [(kind, of) for kind in _KINDS for of in ("mean", "learnt_from")]
    lines = [
        [name, *(tables.mean_sd(likelihoods(kind, of)[name], 3) for kind, of in columns)]
        for name in NOISES
    ]
    names = ["nearest, held out", "nearest, fitted", "any, held out", "any, fitted"]
    return tables.table(["noise", *names], lines)


def _look(name: str) -> tuple[str, str, str]:
    tint = plots.COLORS["euclidean" if name in ("isotropic", "euclidean") else "wasserstein"]
    tint = "black" if name == "none" else tint
    return tint, "D" if "learnt" in name else "o", tint if "learnt" in name else "none"


def _stored() -> Mapping:
    return study.stored("ground_metric")["result"]


# ---------------------------------------------------------------- networks


def networks() -> list[Mapping]:
    """The rows of the networks that were chosen, the Wasserstein attack among what was wrong."""
    return [_with_attack(row) for row in _penalties()["rows"]]


def _with_attack(row: Mapping) -> Mapping:
    more = {key: {**row[key], "wasserstein": row["wasserstein"][key]} for key in ("wrong", "n")}
    return {**row, **more}


def draw_errors() -> None:
    """Draw the errors of the penalised networks under four conditions, a dot a network."""
    rows, penalised = networks(), [name for name in NETWORKS if name != "none"]
    _, panels = plt.subplots(2, 2, figsize=(4.6, 4.6), sharey=True)
    for axes, condition in zip(
        panels.flat, ("natural", "translation", "pgd 0.1", "wasserstein"), strict=True
    ):
        found = {m: reports.errors(rows, condition, method=m) for m in penalised}
        plots.seed_dots(axes, found, {name: _look(name) for name in found})
        axes.set_xlim(0, 1.3 * max(map(max, found.values())))
        axes.set_title(CONDITIONS[condition], fontsize=_SMALL)
        plots.name_rows(axes, [NETWORKS[name] for name in penalised])
    for axes in panels[1]:
        axes.set_xlabel("test error (%)", fontsize=_SMALL)


def error_table() -> Markdown:
    """The errors of the networks in percent, mean and standard deviation over the seeds."""
    rows, lines = networks(), []
    for method, name in NETWORKS.items():
        setting = _eta(reports.select(rows, method=method)[0]["setting"])
        errors = [tables.mean_sd(reports.errors(rows, c, method=method)) for c in CONDITIONS]
        lines.append([f"{name} ({setting})" if setting else name, *errors])
    return tables.table(["% error", *CONDITIONS.values()], lines)


def search_table() -> Markdown:
    """Every setting that was tried, with its errors on the validation images."""
    shown = {condition: CONDITIONS[condition] for condition in ("natural", "pgd 0.1")}
    return tables.search_table(_penalties()["search"], NETWORKS, _eta, shown)


def _eta(setting: Mapping) -> str:
    return reports.setting_of({k: v for k, v in setting.items() if k == "eta"})


def _penalties() -> Mapping:
    return study.stored("ground_metric_penalty")["result"]


# ---------------------------------------------------------------- noises to look at


_DRAWN = 0  # of the digits below


@cache
def _subject() -> Pairs:
    """Digits of 14 x 14 with their nearest neighbours."""
    return pairs(data.load("mnist5k"), "train", "nearest", 40, 4000, 0, 14)


def draw_changes(noise_of: str) -> Figure:
    """Draw a digit, a real change, and one of the same energy drawn from a noise."""
    x, xi = (each[_DRAWN] for each in _subject())
    sample = drawn_changes(noise_of)[_DRAWN]
    sample = sample * (xi.square().sum() / sample.square().sum()).sqrt()
    figure, axes = plt.subplots(1, 3, figsize=(4.6, 1.9))
    most = float(xi.abs().max())
    plots.show_image(axes[0], x.numpy(), "digit")
    plots.show_change(axes[1], xi.numpy(), "real change", vmax=most)
    plots.show_change(axes[2], sample.numpy(), "drawn", vmax=most)
    return figure


def drawn_changes(noise_of: str) -> Tensor:
    """A change of each digit, (40, 14, 14), from a noise of unit weights or the learnt ones."""
    x, generator = _subject().x, torch.Generator().manual_seed(1)
    if noise_of == "isotropic":
        sample = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        return sample - sample.mean((1, 2), keepdim=True)
    if noise_of == "learnt":
        graph = learnt_graph(14, 14)
    else:
        graph = PixelGraph(14, 14, int(noise_of.removeprefix("r = ")))
    return noise.sample(graph.to(torch.float64), x, 1.0, generator=generator)[0]


def change_told(noise_of: str) -> str:
    """What goes together in real changes and in those of a noise, in a sentence."""
    real, found = (side_by_side(each) for each in (_subject().xi, drawn_changes(noise_of)))
    told = (
        f"Correlation of the changes of two pixels side by side, over 40 digits: {real:+.2f} in "
        f"real changes, {found:+.2f} in those drawn from the noise {noise_of}."
    )
    return told.replace("-", "−")


def side_by_side(xi: Tensor) -> float:
    """The correlation of the changes (N, H, W) of pixels side by side."""
    return float(autocorrelation(xi, 1)[[0, 1], [1, 0]].mean())


# ---------------------------------------------------------------- by brute force


def slope_by_edges(graph: PixelGraph, x: Tensor, xi: Tensor) -> Tensor:
    r"""The derivative of the log-likelihood of a change (H, W) in the weight of each edge, at fixed
    volumes: :math:`\tfrac14 (u_i + u_j) [(\Phi_i - \Phi_j)^2 - R_{ij}]`, R the effective
    resistance; in the order of :meth:`~wdtr_lite.graph.PixelGraph.edges`.
    """
    j, i = graph.edges()[0]
    inverse = torch.linalg.pinv(metric.laplacian(graph, x), hermitian=True)
    potential = inverse @ xi.flatten()
    diagonal = inverse.diagonal()
    resistance = diagonal[i] + diagonal[j] - 2 * inverse[i, j]
    return metric.mobility(graph, x) * ((potential[i] - potential[j]) ** 2 - resistance) / 2


def slope_by_differences(graph: PixelGraph, x: Tensor, xi: Tensor, step: float = 1e-5) -> Tensor:
    """The same by central differences of the likelihood, from eigenvalues."""
    density, change = (x / graph.volume).flatten(), xi.flatten()

    def likelihood(weights: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(operators.laplacian_of(weights, density))
        along = (vectors.T @ change)[1:]
        return -(along.square() / values[1:] + values[1:].log()).sum() / 2

    slopes = []
    for j, i in graph.edges()[0].T:
        more = torch.zeros_like(graph.adjacency())
        more[i, j] = more[j, i] = step
        values = [likelihood(graph.adjacency() + sign * more) for sign in (1, -1)]
        slopes.append((values[0] - values[1]) / (2 * step))
    return torch.stack(slopes)


def potential_ratios(graph: PixelGraph, x: Tensor, xi: Tensor) -> Tensor:
    r"""For each offset of the graph's window, also of weight zero, the sum of
    :math:`(u_i + u_j) (\Phi_i - \Phi_j)^2` over its edges and all pairs, divided by that of
    :math:`(u_i + u_j) R_{ij}`; (2r + 1, 2r + 1), 1 in the middle.
    """
    inverse = torch.linalg.pinv(metric.laplacian(graph, x), hermitian=True)
    potential = (inverse @ xi.flatten(1)[:, :, None])[:, :, 0]
    diagonal = inverse.diagonal(dim1=1, dim2=2)
    u = (x / graph.volume).flatten(1)
    number = torch.arange(graph.size).view(graph.height, graph.width)
    r = graph.radius
    ratios = torch.ones(2 * r + 1, 2 * r + 1, dtype=x.dtype)
    for (row, column), _ in PixelGraph(graph.height, graph.width, r).forward_offsets():
        j, i = (end.flatten() for end in graph.endpoints(number, (row, column)))
        resistance = diagonal[:, i] + diagonal[:, j] - 2 * inverse[:, i, j]
        both = u[:, i] + u[:, j]
        driven = (both * (potential[:, i] - potential[:, j]) ** 2).sum()
        ratio = driven / (both * resistance).sum()
        ratios[r + row, r + column] = ratios[r - row, r - column] = ratio
    return ratios

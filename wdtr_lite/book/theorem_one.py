"""What chapter 6 draws and trains: one pixel under noise, remainders and their orders, the terms of
Theorem 1 along a training run.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from wdtr_lite import PixelGraph, metric, regularizer
from wdtr_lite.book import plots
from wdtr_lite.book.plots import BLUE, GREEN, GREY, RED

__all__ = [
    "change_at",
    "cross_entropy",
    "describe_point",
    "draw_point",
    "mean_and_error",
    "opening",
    "order",
    "quadrature",
    "share",
    "show_anatomy",
    "show_labels",
    "show_monte_carlo",
    "show_remainders",
    "show_trained",
    "square",
    "tanh_classifier",
    "train",
]


# ---------------------------------------------------------------- losses, means, orders


def square(output: Tensor, y: Any) -> Tensor:
    """The square error."""
    return (output - y) ** 2


def cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    """The softmax cross entropy of each row of logits."""
    return F.cross_entropy(outputs, y, reduction="none")


def quadrature(dimension: int, nodes: int = 5) -> tuple[Tensor, Tensor]:
    """Nodes (N, dimension) and weights (N,) for means over N(0, I), exact for polynomials up to
    degree 2 `nodes` - 1 in each variable.
    """
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    grid = torch.tensor(list(product(z, repeat=dimension)))
    weights = torch.tensor(list(product(w / w.sum(), repeat=dimension)))
    return grid, weights.prod(1)


def order(x: np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    """The slope of y over x, both logarithmic."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def mean_and_error(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error along the rows."""
    return samples.mean(1), samples.std(1, ddof=1) / samples.shape[1] ** 0.5


def share(part: Tensor, whole: Tensor) -> tuple[float, float]:
    """The ratio of two sums over images, with its standard error."""
    ratio = float(part.sum() / whole.sum())
    error = (part - ratio * whole).std() / whole.mean() / len(part) ** 0.5
    return ratio, float(error)


# ---------------------------------------------------------------- one pixel


def tanh_classifier(x: Tensor) -> Tensor:
    """tanh(1.5 x) of one pixel, images (B, 1, 1, 1) to outputs (B,)."""
    return torch.tanh(1.5 * x).sum((1, 2, 3))


def _loss(x: Tensor) -> Tensor:
    """The square error at each number, for the label 1."""
    return (torch.tanh(1.5 * x) - 1) ** 2


def _average(x: Tensor, eta: float) -> Tensor:
    """Its mean under noise."""
    nodes, weights = quadrature(1, 40)
    return _loss(x[:, None] + eta * nodes[:, 0]) @ weights


def _terms(x: Tensor) -> regularizer.SecondOrder:
    pixels, labels = x.view(-1, 1, 1, 1), torch.ones(len(x), dtype=x.dtype)
    return regularizer.second_order_expansion(square, tanh_classifier, "euclidean", pixels, labels)


_LINE = torch.linspace(-2.5, 2.5, 201, dtype=torch.float64)


def opening() -> None:
    """Draw a loss and its average over noise, and the two terms that noise adds."""
    plots.style()
    _, (left, right) = plt.subplots(1, 2, figsize=(5.2, 2.3))
    left.plot(_LINE, _loss(_LINE), color="black")
    left.plot(_LINE, _average(_LINE, 0.6), "--", color=BLUE)
    cloud = -1 + 0.6 * torch.randn(40, generator=torch.Generator().manual_seed(1))
    left.plot(cloud, _loss(cloud), ".", color=GREY, alpha=0.6)
    left.text(-0.3, 3.2, "loss")
    left.text(0.75, 0.55, "average", color=BLUE)
    left.set(xlabel="input x", ylabel="loss", xlim=(-2.5, 2.5))
    right.axhline(0, color="black", linewidth=0.8)
    terms = _terms(_LINE)
    right.plot(_LINE, terms.gradient, color=RED)
    right.plot(_LINE, terms.laplacian, color=GREEN)
    right.plot(_LINE, terms.gradient + terms.laplacian, color=BLUE)
    few = _LINE[::10]
    change = (_average(few, 0.1) - _loss(few)) / (0.5 * 0.1**2)
    right.plot(few, change, "o", color="black", markersize=3.5)
    right.text(0.55, 4.3, "gradient", color=RED)
    right.text(0.2, -3.2, "Laplacian", color=GREEN)
    right.text(0.5, 6.2, "sum", color=BLUE)
    right.text(0.75, 2.3, "• measured")
    right.set(xlabel="input x", ylabel="change / ½η²")


def draw_point(x: float, eta: float) -> Figure:
    """The loss, noisy inputs around one, and their average loss."""
    figure, axes = plt.subplots(figsize=(4.2, 2.2))
    point = torch.tensor([x], dtype=torch.float64)
    axes.plot(_LINE, _loss(_LINE), color="black")
    z = torch.randn(30, generator=torch.Generator().manual_seed(0))
    axes.plot(x + eta * z, _loss(x + eta * z), ".", color=GREY, alpha=0.7)
    axes.plot(x, _loss(point), "o", color="black")
    axes.plot(x, _average(point, eta), "D", color=BLUE)
    axes.set(xlabel="input x", ylabel="loss", ylim=(-0.3, 4.3), xlim=(-4, 2.5))
    axes.text(-3.9, 0.5, "● loss")
    axes.text(-3.9, 0, "◆ average", color=BLUE)
    return figure


def change_at(x: float, eta: float) -> tuple[float, float]:
    """By how much the average differs from the loss, and what the two terms predict."""
    point = torch.tensor([x], dtype=torch.float64)
    terms = _terms(point)
    predicted = 0.5 * eta**2 * float(terms.gradient + terms.laplacian)
    return float(_average(point, eta) - _loss(point)), predicted


def describe_point(x: float, eta: float) -> str:
    """The same in a sentence."""
    change, predicted = change_at(x, eta)
    return (
        f"At x = {x} with noise of η = {eta} the average loss differs from "
        f"the loss by {change:+.3f}; the two terms predict {predicted:+.3f}."
    )


# ---------------------------------------------------------------- remainders


def show_remainders(etas: np.ndarray, rests: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Draw what each of three candidates for the Laplacian leaves, a panel a noise, and lines of
    slopes 2 and 4.
    """
    _, axes = plt.subplots(1, 2, figsize=(5.2, 3.1), sharey=True)
    styles = ((BLUE, "o", 9), (RED, "s", 6), (GREY, "^", 4))
    for ax, (kind, curves) in zip(axes, rests.items(), strict=True):
        for rest, (color, mark, size) in zip(curves.values(), styles, strict=True):
            ax.loglog(etas, rest, mark + "-", color=color, markersize=size)
        _slopes(ax, etas, ((2, 6e-5), (4, 2.5e-9)))
        ax.set(xlabel="η", title=f"noise: {kind}")
        ax.set_xticks([0.002, 0.005, 0.01], ["0.002", "0.005", "0.01"])
        ax.minorticks_off()
    left, right = rests.values()
    for panel, curves, which, place, (color, _, _) in (
        (axes[0], left, 0, (1.13 * etas[-1], 1.0), styles[0]),
        (axes[1], right, 1, (etas[0], 1.8), styles[1]),
        (axes[0], left, 2, (1.13 * etas[-1], 1.3), styles[2]),
    ):
        name, rest = list(curves.items())[which]
        panel.text(place[0], place[1] * rest[-1], name, color=color, va="center")
    axes[0].set_ylabel("remainder (loss)")


def _slopes(ax: Axes, etas: np.ndarray, starts: Sequence[tuple[int, float]]) -> None:
    for power, start in starts:
        line = start * (etas / etas[0]) ** power
        ax.loglog(etas, line, color="black", linewidth=0.7)
        ax.text(float(etas[-1]), float(line[-1]), f" slope {power}", va="center")
    ax.set_xlim(etas[0] * 0.9, etas[-1] * 2.8)


def show_labels(etas: Sequence[float], losses: np.ndarray, errors: np.ndarray) -> None:
    """Draw the losses (1), (2) and (3), with errors, against the noise."""
    _, ax = plt.subplots(figsize=(5.2, 2.1))
    texts = ("(1) no noise", "(2) labels of the noisy images", "(3) old labels")
    places = np.arange(len(etas))
    for k, (text, color, mark) in enumerate(
        zip(texts, (GREY, GREEN, RED), ("^", "o", "s"), strict=True)
    ):
        ax.errorbar(places, losses[k], errors[k], color=color, marker=mark, capsize=3)
        column, height = ((3.6, losses[0, 0] * 1.25), (1.8, 0.055), (2.0, 0.9))[k]
        ax.text(column, height, text, color=color)
    ax.set(yscale="log", xlabel="noise η", ylabel="mean loss", ylim=(0.045, 3))
    ax.set_xticks(places, [f"{eta:g}" for eta in etas])
    ax.set_yticks([0.1, 0.3, 1], ["0.1", "0.3", "1"])
    ax.minorticks_off()


def show_monte_carlo(
    per_pixel: np.ndarray, ratios: Mapping[str, np.ndarray], rest: np.ndarray
) -> None:
    """Draw measured over predicted changes (levels, samples) of single samples and of pairs, and
    the remainder with a line of slope 4.
    """
    _, (left, right) = plt.subplots(1, 2, figsize=(5.2, 2.4))
    for (name, samples), color, mark, nudge, height in zip(
        ratios.items(), (RED, BLUE), "so", (0.94, 1.06), (-0.35, 1.4), strict=True
    ):
        mean, error = mean_and_error(samples)
        left.errorbar(per_pixel * nudge, mean, error, fmt=mark, color=color, capsize=3)
        left.text(per_pixel[1], height, name, color=color)
    left.axhline(1, color="black", linewidth=1, linestyle="--")
    left.set_ylabel("measured / predicted")
    mean, error = mean_and_error(rest)
    right.errorbar(per_pixel, mean, error, fmt="o", color=BLUE, capsize=3)
    line = mean[0] * (per_pixel / per_pixel[0]) ** 4
    right.plot(per_pixel, line, color="black", linewidth=0.8)
    right.text(per_pixel[2] * 0.9, line[2] * 3, "slope 4", ha="right")
    right.set(yscale="log", ylabel="remainder (loss)")
    for ax in (left, right):
        ax.set(xscale="log", xlabel="noise per pixel (rms)")
        ax.set_xticks([0.01, 0.03, 0.1, 0.3], ["0.01", "0.03", "0.1", "0.3"])
        ax.tick_params(axis="x", which="minor", labelbottom=False)


# ---------------------------------------------------------------- a training run


def train(
    images: Tensor,
    labels: Tensor,
    epochs: int,
    *,
    seed: int,
    graph: PixelGraph | None = None,
    penalty: float = 0.0,
    keep: Collection[int] = (),
) -> tuple[torch.nn.Sequential, dict[int, torch.nn.Sequential]]:
    """A network of one hidden layer of softplus units, trained with Appendix D's penalty of a
    weight; and copies of it after the epochs in `keep`.
    """
    torch.manual_seed(seed)
    shuffle = torch.Generator().manual_seed(seed)
    layers = torch.nn.Linear(784, 64), torch.nn.Softplus(), torch.nn.Linear(64, 10)
    net = torch.nn.Sequential(torch.nn.Flatten(), *layers).to(images.dtype)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    copies = {0: copy.deepcopy(net)} if 0 in keep else {}
    for epoch in range(1, epochs + 1):
        for batch in torch.randperm(len(images), generator=shuffle).split(100):
            inputs = images[batch].requires_grad_(penalty > 0)
            losses = cross_entropy(net(inputs), labels[batch])
            total = losses.mean()
            if graph is not None and penalty:
                (slope,) = torch.autograd.grad(losses.sum(), inputs, create_graph=True)
                total = total + penalty * metric.grad_norm_sq(graph, images[batch], slope).mean()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        if epoch in keep:
            copies[epoch] = copy.deepcopy(net)
    return net, copies


def show_anatomy(
    epochs: Sequence[int], followed: Mapping[str, Sequence[Mapping[str, Tensor]]]
) -> None:
    """Draw the terms along a training run, and their shares of the gradient term."""
    _, (left, right) = plt.subplots(1, 2, figsize=(5.2, 2.4))
    places = np.arange(len(epochs))
    for key, color, mark, name, where in (
        ("gradient", RED, "s", "l''‖∇f‖²", (3.2, 600)),
        ("laplacian", GREEN, "D", "|l' tr(L∇²f)|", (1.6, 22)),
        ("slope", GREY, "^", "|l'|", (4.4, 0.5)),
    ):
        values = [float(m[key].abs().mean()) for m in followed["train"]]
        left.semilogy(places, values, mark + "-", color=color)
        left.text(*where, name, color=color)
    left.set(xlabel="epoch", ylabel="mean over training digits")

    def laplacian(m: Mapping[str, Tensor]) -> tuple[float, float]:
        return share(m["laplacian"].abs(), m["gradient"])

    def left_out(m: Mapping[str, Tensor]) -> tuple[float, float]:
        return share((m["appendix"] - m["gradient"]).abs(), m["gradient"])

    for name, ratio, part, color, mark, where in (
        ("Laplacian, train", laplacian, "train", GREEN, "D", (0.1, 0.012)),
        ("Laplacian, test", laplacian, "test", BLUE, "o", (2.8, 0.13)),
        ("left out by App. D", left_out, "train", GREY, "^", (1.7, 1.45)),
    ):
        mean, error = np.array([ratio(m) for m in followed[part]]).T
        right.errorbar(places, mean, error, color=color, marker=mark, capsize=3)
        right.text(*where, name, color=color)
    right.set(xlabel="epoch", ylabel="share of gradient term", yscale="log", ylim=(0.008, 2.5))
    right.set_yticks([0.01, 0.1, 1], ["1 %", "10 %", "100 %"])
    for ax in (left, right):
        ax.set_xticks(places, [str(epoch) for epoch in epochs])


def show_trained(shares: Mapping[float, tuple[float, float]]) -> None:
    """Draw the Laplacian term's share of the gradient term, with errors, by the penalty's
    weight.
    """
    _, ax = plt.subplots(figsize=(5.2, 1.5))
    for place, (ratio, error) in enumerate(shares.values()):
        ax.errorbar(100 * ratio, place, xerr=100 * error, fmt="D", color=GREEN, capsize=3)
    ax.set(xlabel="Laplacian term, % of the gradient term", xlim=(0, 14))
    ax.set_yticks(range(len(shares)), [f"weight {weight:g}" for weight in shares])
    ax.set_ylim(len(shares) - 0.5, -0.5)

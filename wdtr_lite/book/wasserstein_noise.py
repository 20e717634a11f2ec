"""What chapter 4 draws and measures: noise at equal energy, its power, its smooth warps, how far it
carries ink, and what keeping pixels non-negative costs.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown
from torch import Tensor
from torch.nn.functional import max_pool2d

from wdtr_lite import PixelGraph, data, metric, noise, transport
from wdtr_lite.book import plots, tables

__all__ = [
    "LEVELS",
    "NAMES",
    "RADII",
    "bands",
    "carried",
    "draw",
    "eta_of",
    "generator",
    "graphs",
    "kept",
    "measures",
    "moved",
    "moved_table",
    "near_ink",
    "noisy_flower",
    "opening",
    "share_table",
    "show_carried",
    "show_flower",
    "show_kept",
    "show_moved",
    "show_spectrum",
    "show_variance",
    "show_warps",
    "smooth_warps",
    "warp_shares",
    "warp_table",
]

RADII = (1, 2, 4, 8)
"""Of the graphs whose noise is compared."""

NAMES = {0: "isotropic"} | {r: f"W, r = {r}" for r in RADII}
"""What the noise of each radius is called; radius 0 is isotropic noise."""

LEVELS = (0.1, 0.3, 0.6)
"""The noise levels at which distances are measured."""

_DIGIT = 1502  # a 3
_SHADES = {0: plots.COLORS["euclidean"], 1: "#003A5D", 2: "#0072B2", 4: "#3A8FC4", 8: "#5AA9D6"}
_MARKS = {0: "s", 1: "o", 2: "^", 4: "D", 8: "v"}


# ---------------------------------------------------------------- pictures and noise


@cache
def measures() -> Tensor:
    """The digits of ``mnist5k`` as measures, (5000, 28, 28)."""
    return torch.as_tensor(transport.as_measure(data.load("mnist5k").images.double()))


@cache
def graphs(side: int = 28) -> dict[int, PixelGraph]:
    """The graph of each radius."""
    return {r: PixelGraph(side, side, r).to(dtype=torch.float64) for r in RADII}


def generator(seed: int, k: int = 0) -> torch.Generator:
    """The k-th source of random numbers of a seed."""
    return torch.Generator().manual_seed(1000 * seed + k)


def eta_of(graph: PixelGraph, x: Tensor, rho: float) -> float:
    """The η at which the noise has the expected energy (rho ‖x‖)²."""
    return float(rho * x.norm() / (graph.degree.sum() * x.sum()).sqrt())


def draw(x: Tensor, radius: int, rho: float, n: int, source: torch.Generator) -> Tensor:
    """Samples (n, H, W) at noise level rho; radius 0 is isotropic noise."""
    if radius == 0:
        eta = rho * x.norm() / x.numel() ** 0.5
        return eta * torch.randn(n, *x.shape, generator=source, dtype=x.dtype)
    graph = graphs(x.shape[-1])[radius]
    return noise.sample(graph, x, eta_of(graph, x, rho), generator=source, n=n)


def near_ink(x: Tensor, k: int) -> Tensor:
    """Which pixels are at most k rows and k columns away from ink."""
    return max_pool2d(x[None], 2 * k + 1, stride=1, padding=k)[0] > 0


def _variance(x: Tensor, radius: int) -> Tensor:
    """Of each pixel, up to a factor."""
    if radius == 0:
        return torch.ones_like(x)
    return metric.laplacian(graphs(x.shape[-1])[radius], x).diagonal().view_as(x)


def opening(seed: int = 0) -> None:
    """Draw a digit with five noises of one energy, and the noises alone."""
    plots.style()
    x = measures()[_DIGIT]
    _, axes = plt.subplots(2, 6, figsize=(5.4, 2.1))
    plots.show_image(axes[0, 0], x.numpy(), "picture")
    axes[1, 0].set_axis_off()
    axes[1, 0].text(0, 0.5, "noise\nalone", va="center")
    for column, (r, name) in zip(axes.T[1:], NAMES.items(), strict=True):
        xi = draw(x, r, 0.4, 1, generator(seed, r))[0]
        plots.show_image(column[0], (x + xi).numpy(), name, vmax=float(x.max()))
        plots.show_change(column[1], xi.numpy(), vmax=0.5 * float(x.max()))


def noisy_flower(seed: int = 0) -> tuple[Tensor, dict[int, Tensor], float]:
    """A dahlia (3, 64, 64), noises at level 0.3 by radius, and their expected energy."""
    from sklearn.datasets import load_sample_image

    photo = load_sample_image("flower.jpg")[40:424, 120:504] / 255
    flower = torch.tensor(photo.reshape(64, 6, 64, 6, 3).mean((1, 3))).permute(2, 0, 1)
    energy = (0.3 * flower.norm()) ** 2
    isotropic = torch.randn(flower.shape, generator=generator(seed, 20), dtype=flower.dtype)
    noises = {0: (energy / flower.numel()).sqrt() * isotropic}
    for r in (1, 2, 8):
        graph = graphs(64)[r]
        eta = float((energy / (graph.degree.sum() * flower.sum())).sqrt())
        noises[r] = noise.sample(graph, flower, eta, generator=generator(seed, 20 + r))[0]
    return flower, noises, float(energy)


def show_flower(flower: Tensor, noises: Mapping[int, Tensor]) -> None:
    """Draw a photograph with noises, and the noises around mid-grey."""
    _, axes = plt.subplots(2, len(noises) + 1, figsize=(5.3, 2.4))
    for ax in axes.flat:
        ax.set_axis_off()
    axes[0, 0].imshow(flower.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes[0, 0].set_title("picture")
    for column, (r, xi) in zip(axes.T[1:], noises.items(), strict=True):
        for ax, image in zip(column, (flower + xi, 0.5 + xi), strict=True):
            ax.imshow(image.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
        column[0].set_title(NAMES[r])


def show_variance(x: Tensor) -> None:
    """Draw the standard deviation of every pixel, by radius."""
    _, axes = plt.subplots(1, 6, figsize=(5.4, 1.2))
    plots.show_image(axes[0], x.numpy(), "picture")
    for ax, (r, name) in zip(axes[1:], NAMES.items(), strict=True):
        plots.show_image(ax, _variance(x, r).sqrt().numpy(), name, vmax=None if r else 3)


def share_table(x: Tensor) -> Markdown:
    """How much of the energy lands on ink, and within k pixels of it."""
    reach = (0, *RADII)
    rows = []
    for r, name in NAMES.items():
        variance = _variance(x, r)
        inside = [float(variance[near_ink(x, k)].sum() / variance.sum()) for k in reach]
        rows.append([name, *(100 * share for share in inside)])
    header = ["% of the energy", "on ink", *(f"within {k}" for k in RADII)]
    return tables.table(header, rows, ["", *[".1f"] * 5])


# ---------------------------------------------------------------- how rough


_BANDS = torch.linspace(0, 0.5, 8)
_CENTRES = ((_BANDS[1:] + _BANDS[:-1]) / 2).tolist()


def bands(power: Tensor) -> list[float]:
    """The mean power (28, 28) in seven bands of frequency, over all directions."""
    cycles = torch.fft.fftfreq(28)
    band = torch.bucketize((cycles[:, None] ** 2 + cycles**2).sqrt(), _BANDS)
    return [float(power[band == k].mean()) for k in range(1, 8)]  # 0 is the mean, 8 the corners


def show_spectrum(spectrum: Mapping[int, Sequence[float]], x: Tensor) -> None:
    """Draw the power of the noises by frequency, and that of the digit itself."""
    _, ax = plt.subplots(figsize=(5.2, 2.4))
    for r, values in spectrum.items():
        ax.plot(_CENTRES, values, marker=_MARKS[r], color=_SHADES[r])
        height = {1: 0, 2: 0.24, 4: 0.48, 8: 0.74}.get(r, values[0])  # apart
        ax.text(_CENTRES[0] - 0.008, height, NAMES[r], color=_SHADES[r], ha="right", va="center")
    own = torch.fft.fft2(x - x.mean()).abs().square()
    ax.plot(_CENTRES, bands(own / own.mean()), "--", color="#6F6F6F")
    ax.text(0.03, 1.75, "the digit itself", color="#6F6F6F")
    ax.set(xlabel="spatial frequency (cycles per pixel)", xlim=(-0.07, 0.48))
    ax.set(ylabel="power (white = 1)", ylim=(-0.15, 2), xticks=[0, 0.1, 0.2, 0.3, 0.4])


# ---------------------------------------------------------------- smooth warps


def carried(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """-div(x v): what a velocity field v in pixels does to the ink."""
    change = torch.zeros_like(x)
    for axis, speed in ((0, down), (1, right)):
        flux, last = x * speed, x.shape[axis] - 1
        flux = (flux.narrow(axis, 1, last) + flux.narrow(axis, 0, last)) / 2  # across the side
        change.narrow(axis, 1, last).add_(flux)
        change.narrow(axis, 0, last).sub_(flux)
    return change


def smooth_warps(x: Tensor) -> tuple[Tensor, Tensor]:
    """The changes (784, 18) by shifts, stretches, shears and bends, at most two half-waves across
    the frame; and an orthonormal basis of them.
    """
    place = (torch.arange(28, dtype=x.dtype) + 0.5) / 28
    waves = [torch.cos(math.pi * k * place) for k in range(3)]
    still = torch.zeros_like(x)
    changes = [
        carried(x, *field).flatten()
        for wave in (torch.outer(a, b) for a in waves for b in waves)
        for field in ((wave, still), (still, wave))
    ]
    warps = torch.stack(changes, 1)
    return warps, torch.linalg.qr(warps)[0]


def warp_shares(images: Tensor) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """By radius, in percent of the energy, one number an image: what lies in its smooth warps, of
    the noise and of independent pixels of the same variances.
    """
    bases = [smooth_warps(image)[1].T.reshape(-1, 28, 28) for image in images]
    shares = {}
    for r, graph in graphs().items():
        found = []
        for image, basis in zip(images, bases, strict=True):
            parts = [
                basis * metric.apply_laplacian(graph, image, basis),
                basis**2 * _variance(image, r),
            ]
            energy = graph.degree.sum() * image.sum()
            found.append([float(100 * part.sum() / energy) for part in parts])
        noisy, alone = np.array(found).T
        shares[r] = noisy, alone
    return shares


def show_warps(shares: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> None:
    """Draw the means of these shares with their errors, a row a radius."""
    _, ax = plt.subplots(figsize=(5.2, 1.8))
    color, grey = plots.COLORS["wasserstein"], plots.COLORS["intensities"]
    for place, pair in enumerate(shares.values()):
        for values, shade, mark in zip(pair, (color, grey), ("o", "d"), strict=True):
            error = values.std(ddof=1) / len(values) ** 0.5
            face = shade if mark == "o" else "white"
            ax.errorbar(values.mean(), place, xerr=error, fmt=mark, color=shade, mfc=face)
            if place == 0:
                name = "the noise" if mark == "o" else "independent pixels"
                ax.text(values.mean(), -0.3, name, color=shade, ha="center")
    ax.axvline(100 * 18 / 784, color=plots.COLORS["euclidean"], linewidth=1)
    ax.text(2.4, len(shares) - 0.6, "isotropic", color=plots.COLORS["euclidean"])
    ax.set(xlim=(0, 13), xlabel="% of the energy in 18 smooth warps", ylim=(3.6, -0.9))
    ax.set_yticks(range(len(shares)), [NAMES[r] for r in shares])


def warp_table(shares: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> Markdown:
    """The same in numbers, and the largest."""
    rows = [[NAMES[0], *[f"{100 * 18 / 784:.1f}"] * 3]]
    for r, (noisy, alone) in shares.items():
        rows.append([NAMES[r], tables.mean_error(noisy), noisy.max(), tables.mean_error(alone)])
    header = ["% in 18 smooth warps", "the noise", "at most", "independent pixels"]
    return tables.table(header, rows, ["", "", ".1f"])


def show_carried(x: Tensor, kinds: Mapping[str, Tensor]) -> None:
    """Draw changes of a picture, and the changed pictures."""
    _, axes = plt.subplots(2, len(kinds) + 1, figsize=(4.6, 2.4))
    plots.show_image(axes[0, 0], x.numpy(), "picture")
    axes[1, 0].set_axis_off()
    for column, (name, xi) in zip(axes.T[1:], kinds.items(), strict=True):
        plots.show_image(column[0], (x + xi[0]).numpy(), name, vmax=float(x.max()))
        plots.show_change(column[1], xi[0].numpy(), vmax=0.5 * float(x.max()))


# ---------------------------------------------------------------- how far, and how long


def moved(chosen: Sequence[int], seed: int = 0) -> dict[tuple[float, int], np.ndarray]:
    """By noise level and radius, (digits, 5): W2 from the digit, the ink that moves (%), how far
    (pixels), the ink beyond 2 pixels (%), and the L2 distance left, of projected samples.
    """
    found: dict[tuple[float, int], list] = {(rho, r): [] for rho in LEVELS for r in NAMES}
    for (rho, r), rows in found.items():
        for k in chosen:
            y = measures()[k]
            xi = draw(y, r, rho, 1, generator(seed, 50 + k))[0]
            noisy = noise.project_to_simplex(y + xi, 1.0)
            share = float((noisy - y).abs().sum() / 2)
            way = transport.wasserstein_distance(y, noisy, p=1) / share
            beyond = 100 * float(noisy[~near_ink(y, 2)].sum())
            left = float((noisy - y).norm() / y.norm())
            distance = transport.wasserstein_distance(y, noisy)
            rows.append([distance, 100 * share, way, beyond, left])
    return {case: np.array(rows) for case, rows in found.items()}


def show_moved(found: Mapping[tuple[float, int], np.ndarray]) -> None:
    """Draw W2 between a digit and its noisy version against the noise level."""
    _, ax = plt.subplots(figsize=(5.2, 2.1))
    for r, name in NAMES.items():
        values = np.array([found[rho, r][:, 0] for rho in LEVELS])
        error = values.std(1, ddof=1) / values.shape[1] ** 0.5
        means = values.mean(1)
        ax.errorbar(LEVELS, means, error, color=_SHADES[r], marker=_MARKS[r], capsize=3)
        place = (LEVELS[-1] * 1.04, means[-1] * {1: 0.9, 2: 1.03, 4: 1.1}.get(r, 1))  # apart
        ax.text(*place, name, color=_SHADES[r], va="center")
    ticks = (0.25, 0.5, 1, 2)
    ax.set(xlabel="noise level ρ", ylabel="W2 from the digit (pixels)", xscale="log")
    ax.set(yscale="log", xticks=LEVELS, xticklabels=LEVELS, xlim=(0.09, 0.85))
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()


def moved_table(found: Mapping[tuple[float, int], np.ndarray], rho: float) -> Markdown:
    """All five quantities at one noise level."""
    places = (3, 1, 2, 2, 3)
    rows = [
        [name, *(tables.mean_error(v, k) for v, k in zip(found[rho, r].T, places, strict=True))]
        for r, name in NAMES.items()
    ]
    header = [f"ρ = {rho}, {len(found[rho, 0])} digits", "W2 (pixels)", "ink that moves (%)"]
    header += ["how far (pixels)", "ink beyond 2 pixels (%)", "L2 left"]
    return tables.table(header, rows)


# ---------------------------------------------------------------- black pixels


def kept(x: Tensor, levels: Sequence[float], count: int, seed: int = 0) -> dict:
    """By radius 0, 1 and 4 and noise level, in percent: the negative pixels, the variance that the
    projection keeps, and the square of the mean that it makes, of the energy; and that mean.
    """
    found = {}
    for r in (0, 1, 4):
        for rho in levels:
            xi = draw(x, r, rho, count, generator(seed, 80 + r))
            left = noise.project_to_simplex(x + xi, 1.0) - x
            energy = rho**2 * x.norm() ** 2
            variance = left.var(0).sum()
            square = left.mean(0).square().sum() - variance / count
            shares = [(x + xi < 0).double().mean(), variance / energy, square / energy]
            found[r, rho] = [float(100 * share) for share in shares], left.mean(0)
    return found


def show_kept(found: Mapping, rho: float) -> None:
    """Draw the variance kept against the noise level, and the means at one level."""
    _, axes = plt.subplots(1, 4, figsize=(5.6, 1.9), width_ratios=[2.2, 1, 1, 1])
    levels = sorted({level for _, level in found})
    largest = max(float(found[r, rho][1].abs().max()) for r in (0, 1, 4))
    for ax, r in zip(axes[1:], (0, 1, 4), strict=True):
        values = [found[r, level][0][1] for level in levels]
        axes[0].plot(levels, values, color=_SHADES[r], marker=_MARKS[r])
        side, apart = ("bottom", 4) if r == 1 else ("top", -5)
        axes[0].text(levels[0], values[0] + apart, NAMES[r], color=_SHADES[r], va=side)
        plots.show_change(ax, found[r, rho][1].numpy(), NAMES[r], vmax=largest)
    axes[0].set(xscale="log", xlabel="noise level ρ", ylabel="variance kept (%)", ylim=(0, 128))
    axes[0].set_xticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
    axes[0].set_yticks([0, 50, 100])

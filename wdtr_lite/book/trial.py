"""What chapter 9 reports of the harder trial of Table 1's networks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from torch import Tensor

from wdtr_lite.book import plots, tables, widgets
from wdtr_lite.book.reports import CLASSES, MAIN, label, measurements, photo, share, short

__all__ = [
    "attack_it_yourself",
    "autoattack_table",
    "draw_epsilons",
    "draw_surfaces",
    "draw_trial",
    "lost",
    "misread",
    "pictured",
    "signs_table",
    "trial_table",
]

_TRIALS = {
    "natural": "as they are",
    "transfer": "from the plain",
    "transfer euclidean": "from the Euclidean",
    "transfer wasserstein": "from the Wasserstein",
    "FGSM 8": "FGSM",
    "square square": "Square",
    "PGD-20 8": "PGD-20",
    "PGD-50 linf": "PGD-50, 10 starts",
    "autoattack square": "AutoAttack",
    "PGD-50 l2": "PGD-50 in L2, 128/255",
}

_PARTS = {
    "autoattack natural": "as they are",
    "autoattack apgd-ce": "APGD",
    "autoattack apgd-t": "APGD, targeted",
    "autoattack fab-t": "FAB, targeted",
    "autoattack square": "Square",
}

_SHOWN = [0, 2, 4, 8, 16]
"""The epsilons of the images that are shown, in 1/255."""

_SIGNS = {
    "2. Square / APGD / APGD, targeted": [
        "square square",
        "autoattack apgd-ce",
        "autoattack apgd-t",
    ],
    "3. made with itself / plain / Euclidean / Wasserstein": [
        "PGD-20 8",
        "transfer",
        "transfer euclidean",
        "transfer wasserstein",
    ],
    "4. PGD-20 / PGD-50, 10 starts": ["PGD-20 8", "PGD-50 linf"],
    "5. PGD-20 at 32/255 / at 64/255": ["PGD-20 32", "PGD-20 64"],
}


def misread(trial: Mapping) -> dict[str, dict[str, tuple[int, int]]]:
    """How many of how many images each network misreads under each attack, by its name, and after
    each part of an attack that has several, as ``"autoattack apgd-t"``.
    """
    return {method: _counts(measured) for method, measured in measurements(trial).items()}


def _counts(measured: Mapping) -> dict[str, tuple[int, int]]:
    counts = {}
    for name, found in measured.items():
        if not isinstance(found, Mapping) or "wrong" not in found:
            continue
        wrong, n = found["wrong"], found["n"]
        parts = wrong if isinstance(wrong, Mapping) else {"": wrong}
        counts |= {f"{name} {part}".strip(): (count, n) for part, count in parts.items()}
    return counts


def trial_table(trial: Mapping) -> Markdown:
    """The error under each attack, with the standard error over the images."""
    counts = misread(trial)
    rows = [
        [name, counts["none"][attack][1], *(share(*counts[method][attack]) for method in MAIN)]
        for attack, name in _TRIALS.items()
    ]
    header = ["error (%), ε = 8/255", "images", *map(label, MAIN)]
    return tables.table(header, rows, ["", "", ".1f", ".1f", ".1f"])


def draw_trial(trial: Mapping) -> None:
    """Draw the numbers of :func:`trial_table`."""
    counts = misread(trial)
    _, axes = plt.subplots(figsize=(4.7, 3.6))
    rows = np.arange(len(_TRIALS))[::-1]
    for k, method in enumerate(MAIN):
        means, errors = zip(*(share(*counts[method][attack]) for attack in _TRIALS), strict=True)
        look: Any = {"color": plots.color_of(method), "marker": plots.MARKERS[method]}
        places = rows + 0.22 * (1 - k)
        axes.errorbar(
            means, places, xerr=errors, ls="none", ms=5, lw=1.2, label=short(method), **look
        )
    axes.set_yticks(rows, list(_TRIALS.values()))
    axes.set(xlim=(0, 103), ylim=(-0.6, len(rows) - 0.4), xlabel="error (%)")
    axes.legend(fontsize=9.5, loc=(0.02, 0.3))


def autoattack_table(trial: Mapping) -> Markdown:
    """How far AutoAttack's parts got, one after the other."""
    rows = [
        [label(method), *(counts[part][0] for part in _PARTS)]
        for method, counts in misread(trial).items()
    ]
    images = trial["config"]["autoattack"]
    return tables.table([f"images misread, of {images}", *_PARTS.values()], rows)


def draw_epsilons(trial: Mapping) -> None:
    """Draw the error against ε, under twenty steps and under one."""
    _, axes = plt.subplots(figsize=(4.5, 2.8))
    epsilons = trial["config"]["epsilons"]
    for method, counts in misread(trial).items():
        for attack, line in (("PGD-20", "-"), ("FGSM", "--")):
            names = ["natural", *(f"{attack} {epsilon}" for epsilon in epsilons)]
            axes.plot(
                [0, *epsilons],
                [share(*counts[name])[0] for name in names],
                line,
                color=plots.color_of(method),
                marker=plots.MARKERS[method],
                ms=5,
                label=f"{short(method)}, {attack}",
            )
    axes.set(xlabel="ε, in units of 1/255", ylabel="error (%)", ylim=(None, 103))
    axes.legend(fontsize=9.5)


def signs_table(trial: Mapping) -> Markdown:
    """The signs of a masked gradient, one by one, in percent of the images."""
    counts = misread(trial)
    first = [_one_step_is_better(counts[method], trial["config"]["epsilons"]) for method in MAIN]
    rows = [["1. ε × 255 at which FGSM finds more than PGD-20", *first]]
    for sign, attacks in _SIGNS.items():
        each = [" / ".join(_percent(*counts[method][name]) for name in attacks) for method in MAIN]
        rows.append([sign, *each])
    return tables.table(["error (%)", *map(label, MAIN)], rows)


def _percent(wrong: int, n: int) -> str:
    return f"{100 * wrong / n:.1f}"


def _one_step_is_better(counts: Mapping, epsilons: Iterable[int]) -> str:
    better = [e for e in epsilons if counts[f"FGSM {e}"] > counts[f"PGD-20 {e}"]]
    return ", ".join(map(str, better)) or "none"


# ---------------------------------------------------------------- single images


def draw_surfaces(trial: Mapping) -> None:
    """Draw the loss around the first image that all networks read rightly as it is."""
    surfaces = {
        method: np.array(measured["surface"]["loss"])[_all_right(trial)]
        for method, measured in measurements(trial).items()
    }
    at = measurements(trial)["none"]["surface"]["at"]
    levels = [0, 0.1, 0.3, 1, 3, 10, 30, 100]
    norm = BoundaryNorm(levels, 256)
    figure, panels = plt.subplots(1, 3, figsize=(4.7, 2.6), sharey=True)
    for axes, (method, surface) in zip(panels, surfaces.items(), strict=True):
        filled = axes.contourf(at, at, surface, levels, cmap="cividis", norm=norm)
        axes.contour(at, at, surface, levels, colors="white", linewidths=0.6)
        axes.set(title=short(method), aspect="equal", xticks=[-8, 0, 8], yticks=[-8, 0, 8])
    panels[1].set_xlabel("random signs")
    panels[0].set_ylabel("gradient's signs")
    figure.colorbar(
        filled, ax=panels, label="loss", location="bottom", shrink=0.7, aspect=30, format="%g"
    )


def _all_right(trial: Mapping) -> int:
    answers = [[_answer(frames[0]) for frames in m["frames"]] for m in measurements(trial).values()]
    truth = trial["result"]["labels"]
    return next(k for k, each in enumerate(zip(*answers, strict=True)) if set(each) == {truth[k]})


def _answer(frame: Mapping) -> int:
    return int(np.argmax(frame["probabilities"]))


def pictured(trial: Mapping) -> tuple[Tensor, Tensor]:
    """The images that are shown, as they are, (N, 3, 32, 32) in [0, 1], and their labels."""
    frames = next(iter(measurements(trial).values()))["frames"]
    pixels = np.stack([photo(each[0]["pixels"]) for each in frames])
    return torch.from_numpy(pixels).float() / 255, torch.tensor(trial["result"]["labels"])


def lost(trial: Mapping, epsilon: int) -> dict[str, int]:
    """How many of the images that are shown each network misreads under attack."""
    place, truth = _SHOWN.index(epsilon), trial["result"]["labels"]
    return {
        method: sum(
            _answer(frames[place]) != right
            for frames, right in zip(measured["frames"], truth, strict=True)
        )
        for method, measured in measurements(trial).items()
    }


def attack_it_yourself(trial: Mapping, *, question: str) -> None:
    """Show four images, and what each network reads in them, under an attack that the reader
    chooses.
    """
    named = {label(method): measured for method, measured in measurements(trial).items()}
    truth = [CLASSES[k] for k in trial["result"]["labels"]]

    def frames(method: str, epsilon: int) -> list[Mapping]:
        return [each[_SHOWN.index(epsilon)] for each in named[method]["frames"]]

    def draw(method: str, epsilon: int) -> Figure:
        figure, grid = plt.subplots(2, 4, figsize=(4.2, 2.4))
        pairs = grid.reshape(4, 2)  # each image beside its answers
        for axes, frame, right in zip(pairs, frames(method, epsilon), truth, strict=True):
            _draw_answers(axes, frame, right)
        return figure

    def describe(method: str, epsilon: int) -> str:
        found = []
        for frame, right in zip(frames(method, epsilon), truth, strict=True):
            answer = _answer(frame)
            sure = frame["probabilities"][answer]
            found.append(f"{right}: {CLASSES[answer]} ({sure:.2f})")
        return f"{method}, ε = {epsilon}/255. The image and the answer: {', '.join(found)}."

    choices = {"method": list(named), "epsilon": _SHOWN}
    widgets.explore(draw, choices, question=question, describe=describe)


def _draw_answers(axes: Sequence[Axes], frame: Mapping, right: str) -> None:
    """An image beside its three likeliest classes."""
    picture, bars = axes
    picture.imshow(photo(frame["pixels"]).transpose(1, 2, 0))
    picture.set_title(right, fontsize=9.5)
    picture.axis("off")
    best = np.argsort(frame["probabilities"])[::-1][:3]
    names = [CLASSES[k] for k in best]
    sure = [frame["probabilities"][k] for k in best]
    colors = [plots.COLORS["wasserstein" if name == right else "euclidean"] for name in names]
    bars.barh(range(3), sure, color=colors)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
    for place, (name, probability) in enumerate(zip(names, sure, strict=True)):
        text = f"{name} {probability:.2f}"
        bars.text(0.03, place, text, va="center", fontsize=9, bbox=box)
    bars.set(xlim=(0, 1), yticks=[], xticks=[])
    bars.invert_yaxis()

"""The verdict of the first page and of the README: what the penalty is for, and what it costs."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from wdtr_lite import study, transport
from wdtr_lite.book import plots, scorecard
from wdtr_lite.book.reports import (
    errors,
    first,
    flips_by_image,
    label,
    measurements,
    rate,
    select,
)
from wdtr_lite.study.outcomes import unpack
from wdtr_lite.study.questions import AXES

__all__ = ["draw", "draw_balls", "text"]

_TEXT = """\
| | |
| --- | --- |
| **What it is for** | A classifier that changes its answer little when the ink of an image moves or spreads a little. One term is added to the loss: $$\\eta^2\\, \\nabla \\ell^\\top L(x) \\nabla \\ell$$, where $$\\nabla \\ell$$ is the gradient of the loss in the image. |
| **Use it when** | answers should be steady. While a photograph moves sideways, up to 16 pixels, its border repeated, the paper's ResNet-20 changes its answer $fewer % less often from one shift to the next; where black comes in, not less often up to 8 pixels ($moves). Steadier is not more often right: moved by up to four pixels on both axes, the border mirrored, $moved_wasserstein % are misread, $moved_none % with plain training. Blurred by one pixel, $blur_wasserstein % in place of $blur_none % ($varied); training on blurred ones was not compared. |
| **Do not use it when** | somebody attacks: at 8/255 still $attacked_wasserstein % of the photographs are misread ($robustness). Nor for larger shifts: from four pixels on, or two where black comes in, more answers change than with plain training. Four pixels sideways, black coming in, change $black_wasserstein % in place of $black_none %. |
| **It costs** | $step plain training steps of a ResNet-20 on a CPU ($fast by a finite difference, for smooth networks), at any radius ($costs). And natural error: from $natural_none to $natural_wasserstein % on CIFAR-10; on MNIST from $digits_none to $set_wasserstein % (set for moved digits) or $digits_wasserstein % (set for attack; not clear). |
| **Better under attack** | Training on attacked images. On MNIST, trained with PGD at 0.1, networks misread $set_pgd % of the digits as they are, $attacked_pgd % under that attack and $varied_pgd % of moved, turned and bent ones; with the Wasserstein penalty, set for each purpose, $set_wasserstein, $seeds_wasserstein, and $varied_wasserstein % ($digits). A PGD step costs $step_pgd plain ones, an FGSM step (not tried on MNIST) $step_fgsm ($costs). On CIFAR-10 they were compared in a sprint alone ($sprint). |
| **As good, and simpler** | The Euclidean penalty, $$\\eta^2 \\lVert \\nabla \\ell \\rVert^2$$. Under attack level in the one large pair ($attacked_euclidean and $attacked_wasserstein %, $pair), ahead in every seed of small networks: by $ahead_small points on CIFAR-10 ($small), with $mnist_euclidean % on MNIST. Level on blur ($blur_euclidean %). The Wasserstein penalty changes answers $ahead % less often from shift to shift where the border is continued, $behind % more often where black comes in sideways ($flips). Gaussian noise costs one step: $mnist_gaussian_noise % on MNIST. |
| **How sure** | CIFAR-10: one ResNet-20 of each method, with η and r chosen on ResNet-8, trained in bfloat16 by a prototype to epoch $epoch of 200; test images are mostly held-out training images. MNIST: three small networks of each; one with the Wasserstein penalty misleads a weak attack, which flatters it ($digits). Of $checked statements of the paper $holding hold as printed, $qualified in part, $failing do not ($equations); [every claim has its verdict]($claims). |
"""  # noqa: E501

_PLACES = {
    "moves": ("chapter 10", "natural_variation", "fig-steadier"),
    "varied": ("chapter 10", "natural_variation", "fig-varied"),
    "flips": ("chapter 10", "natural_variation", "fig-table-2"),
    "robustness": ("chapter 9", "adversarial", "fig-table-1"),
    "pair": ("chapter 9", "adversarial", "fig-pair"),
    "small": ("chapter 9", "adversarial", "small-networks"),
    "costs": ("chapter 7", "fast_penalty", "fig-cost"),
    "digits": ("chapter 8", "training", "fig-test"),
    "sprint": ("chapter 11", "claims", "fig-tradeoff"),
}  # what is said of a place, its page, and its label there


def text(book: Path, *, labels: bool = False) -> str:
    """The verdict as a Markdown table, with numbers from ``results/``.

    Parameters
    ----------
    book : Path
        Of the folder of the chapters, for the links.
    labels : bool
        Whether the links lead to labels within the chapters, which only the book's pages know.
    """
    links = {
        name: f"{{ref}}`{said} <{label}>`" if labels else f"[{said}]({book / page}.ipynb)"
        for name, (said, page, label) in _PLACES.items()
    }
    links |= {"equations": f"[all of them]({book / 'equations.md'})"}
    links |= {"claims": str(book / "claims.ipynb")}
    equations = (book / "equations.md").read_text()
    numbers = _photographs() | _digits() | _small() | _steps() | scorecard.of_equations(equations)
    return Template(_TEXT).substitute(links | numbers)


def _photographs() -> dict[str, str]:
    networks, varied = first(study.stored("table1")), measurements(study.stored("variation"))
    moved = measurements(study.stored("table2"))

    def varied_by(variation: str, method: str) -> str:
        found = varied[method]["variations"]
        return f"{100 * found['wrong'][variation] / found['n']:.0f}"

    def fewer(case: str, other: str) -> float:
        """How many percent fewer label flips than another network's, from shift to shift."""
        ours, theirs = (
            flips_by_image(moved[method][case], "consecutive").mean()
            for method in ("wasserstein", other)
        )
        return 100 * (1 - ours / theirs)

    ahead = [fewer(f"{axis} {p}", "euclidean") for axis in AXES for p in ("edge", "reflect")]
    three = ("none", "euclidean", "wasserstein")
    return {
        **{f"blur_{method}": varied_by("blur", method) for method in three},
        **{f"moved_{method}": varied_by("translation", method) for method in three},
        **{f"natural_{m}": f"{rate(networks[m], 'natural'):.1f}" for m in three},
        **{f"attacked_{m}": f"{rate(networks[m], 'I-FGSM-20 8'):.0f}" for m in three},
        **{f"black_{m}": f"{_changed(moved[m]['horizontal zeros'], 4):.0f}" for m in three},
        "fewer": f"{fewer('horizontal edge', 'none'):.0f}",
        "ahead": f"{min(ahead):.0f} to {max(ahead):.0f}",
        "behind": f"{-fewer('horizontal zeros', 'euclidean'):.0f}",
        "epoch": networks["wasserstein"]["training"]["epoch"],
    }


def _changed(found: Mapping, pixels: int) -> float:
    """The share of the answers that so many pixels, either way, change, in percent."""
    middle = len(found["consecutive"])
    labels = unpack(found["labels"], (2 * middle + 1, found["n"]))
    moved = labels[[middle - pixels, middle + pixels]]
    return float(100 * (moved != labels[middle]).mean())


def _digits() -> dict[str, str]:
    found = study.stored("robust_digits")["result"]["rows"]
    rows, moved = (select(found, chosen_for=each) for each in ("attack", "variation"))
    kinds = ("translation", "rotation", "elastic")
    both = ("wasserstein", "pgd")
    return {
        **{
            f"mnist_{method}": f"{errors(rows, 'pgd 0.1', method=method).mean():.0f}"
            for method in ("euclidean", "gaussian_noise")
        },
        **{
            f"digits_{method}": f"{errors(rows, 'natural', method=method).mean():.1f}"
            for method in ("none", "wasserstein")
        },
        **{f"set_{m}": f"{errors(moved, 'natural', method=m).mean():.1f}" for m in both},
        **{
            f"varied_{m}": f"{np.mean([errors(moved, kind, method=m) for kind in kinds]):.1f}"
            for m in both
        },
        "attacked_pgd": f"{errors(moved, 'pgd 0.1', method='pgd').mean():.1f}",
        "seeds_wasserstein": "{:.0f} to {:.0f}".format(
            *np.sort(errors(rows, "pgd 0.1", method="wasserstein"))[[0, -1]]
        ),
    }


def _small() -> dict[str, str]:
    rows = study.stored("table1", "cpu")["result"]["rows"]
    wasserstein, euclidean = (
        errors(rows, "I-FGSM-20 8", method=method) for method in ("wasserstein", "euclidean")
    )
    return {"ahead_small": f"{(wasserstein - euclidean).mean():.0f}"}


def _steps() -> dict[str, str]:
    names = {"step": "W r=8", "fast": "W r=8, FD", "step_pgd": "pgd-7", "step_fgsm": "fgsm"}
    return {name: f"{_ratios()[step]:.1f}" for name, step in names.items()}


def _ratios() -> dict[str, float]:
    """What a step of a ResNet-20 costs, in plain steps."""
    costs = study.stored("benchmark_training")["step_costs"]
    return {row["step"]: row["ratio"] for row in costs}


# ---------------------------------------------------------------- the figure


def draw() -> None:
    """Draw natural error against error under attack, of methods of training on two data sets; the
    area of a mark is the cost of a training step, of a ResNet-20.
    """
    _, panels = plt.subplots(1, 2, figsize=(6.8, 3.4))
    digits = study.stored("robust_digits")["result"]["rows"]
    photographs = study.stored("tradeoff", "cpu")["result"]["rows"]
    _draw_methods(panels[0], digits, "pgd 0.1", _ON_DIGITS)
    panels[0].set(title="MNIST, 8 epochs", ylabel="error under attack (%)")
    _draw_methods(panels[1], photographs, "I-FGSM-20 8", _ON_PHOTOGRAPHS)
    panels[1].set(title="CIFAR-10, 4 short epochs")
    for axes in panels:
        axes.set_xlabel("natural error (%)")


class _Shown(NamedTuple):
    """The rows of networks in the figure, the step that trained them, as it was timed, and where
    their name stands, in points.
    """

    rows: Mapping[str, str]
    step: str
    place: tuple[int, int]
    name: str = ""


_FOR_ATTACK = {"chosen_for": "attack"}
_ON_DIGITS = (
    _Shown({"method": "none", **_FOR_ATTACK}, "plain", (8, 4)),
    _Shown({"method": "gaussian_noise", **_FOR_ATTACK}, "gaussian noise", (10, 4)),
    _Shown({"method": "euclidean", **_FOR_ATTACK}, "euclidean", (12, -4)),
    _Shown({"method": "wasserstein", **_FOR_ATTACK}, "W r=8", (-64, 12)),
    _Shown({"method": "pgd", **_FOR_ATTACK}, "pgd-7", (-40, -24), "PGD at 0.2"),
    _Shown({"method": "pgd", "chosen_for": "variation"}, "pgd-7", (-14, -22), "PGD at 0.1"),
)
_ON_PHOTOGRAPHS = (
    _Shown({"method": "none"}, "plain", (8, 2)),
    _Shown({"method": "gaussian_noise"}, "gaussian noise", (8, 2)),
    _Shown({"method": "euclidean"}, "euclidean, FD", (-62, 6)),
    _Shown({"method": "wasserstein"}, "W r=8, FD", (12, 6)),
    _Shown({"method": "fgsm"}, "fgsm", (-38, 12)),
    _Shown({"method": "pgd"}, "pgd-7", (-62, -16)),
)


def _draw_methods(axes: Axes, rows: list[Mapping], attack: str, shown: Iterable[_Shown]) -> None:
    for networks, step, place, name in shown:
        method, cost = networks["method"], _ratios()[step]
        x, y = (errors(rows, each, **networks).mean() for each in ("natural", attack))
        axes.scatter(x, y, s=60 * cost, color=plots.color_of(method), alpha=0.75, lw=0)
        axes.annotate(
            f"{name or label(method)} ({cost:.1f})",
            (x, y),
            place,
            textcoords="offset points",
            fontsize=8,
        )
    axes.margins(0.22)


def draw_balls(image: Tensor, moved: Tensor, other: Tensor) -> None:
    """Draw the paper's idea: about an image a ball in L2, which leaves its class, and one in W2,
    which follows it; with the three images at their places.
    """
    _, axes = plt.subplots(figsize=(6.8, 3.7))
    for height, name, right in ((0.0, "all the moved 4s", 0.62), (1.75, "all the moved 2s", -1.7)):
        at = np.linspace(-3.6, 3.6, 200)
        middle = height + 0.07 * at**2
        axes.fill_between(at, middle - 0.42, middle + 0.42, color="#ECECEC", lw=0)
        place = (right, height + 0.07 * right**2)
        axes.text(*place, name, fontsize=8, color="#444444", va="center")
    turn = np.linspace(0, 2 * np.pi, 200)
    reach = 3.2 * np.cos(turn)
    balls = {
        "euclidean": (2.05 * np.cos(turn), 2.05 * np.sin(turn)),
        "wasserstein": (reach, 0.07 * reach**2 + 0.6 * np.sin(turn)),
    }
    for metric, ball in balls.items():
        axes.plot(*ball, color=plots.COLORS[metric])
    axes.text(1.35, -1.75, "L2 ball", color=plots.COLORS["euclidean"], fontsize=10)
    axes.text(-3.4, -0.35, "W2 ball", color=plots.COLORS["wasserstein"], fontsize=10)
    x = transport.as_measure(image.numpy())
    _put(axes, image, (0, 0))
    for picture, place in ((moved, (2.55, 0.42)), (other, (0.35, 1.75))):
        _put(axes, picture, place)
        y = transport.as_measure(picture.numpy())
        far = (
            f"L2 {np.linalg.norm(x - y):.3f}\nW2 {transport.wasserstein_distance(x, y):.2f} pixels"
        )
        axes.annotate(
            far, place, (30, 2), textcoords="offset points", fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    axes.set(xlim=(-3.7, 4.6), ylim=(-2.1, 2.7), aspect="equal")
    axes.axis("off")


def _put(axes: Axes, picture: Tensor, place: tuple[float, float], size: float = 0.42) -> None:
    x, y = place
    box = axes.inset_axes((x - size, y - size, 2 * size, 2 * size), transform=axes.transData)
    plots.show_image(box, picture.numpy())

"""The verdict of the first page and of the README: what the penalty is for, and what it costs."""

from collections.abc import Mapping
from pathlib import Path
from string import Template

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from wdtr_lite import study, transport
from wdtr_lite.book import claims, plots, tradeoff
from wdtr_lite.book.reports import (
    errors,
    first,
    flips_by_image,
    label,
    measurements,
    rate,
    select,
)
from wdtr_lite.study.questions import AXES

__all__ = ["draw", "draw_balls", "text"]

_TEXT = """\
| | |
| --- | --- |
| **What it is for** | A classifier that changes its answer little when the ink of an image moves or spreads a little. One term is added to the loss: $$\\eta^2\\, \\nabla \\ell^\\top L(x) \\nabla \\ell$$, where $$\\nabla \\ell$$ is the gradient of the loss in the image. |
| **Use it when** | answers should be steady. While a photograph moves sideways, up to 16 pixels, its border repeated, the paper's ResNet-20 changes its answer $fewer % less often from one shift to the next; where black comes in, not less often up to 8 pixels ($moves). Steadier is not more often right: moved by up to four pixels $moved_wasserstein % of the photographs are misread, $moved_none % with plain training. Blurred by a Gaussian of one pixel, $blur_wasserstein % are misread in place of $blur_none %; training on blurred photographs was not compared. |
| **Do not use it when** | somebody attacks: at 8/255 still $attacked_wasserstein % of the photographs are misread ($robustness). Nor for larger shifts: moved by four pixels or more, by two or more where black comes in, a photograph loses its label more often than with plain training. |
| **It costs** | $step plain training steps of a ResNet-20 on a CPU ($fast by a finite difference, for smooth networks), at any radius ($costs). And natural error: from $natural_none to $natural_wasserstein % on CIFAR-10, from $digits_none to $digits_wasserstein % on MNIST. |
| **Better under attack** | Training on attacked images. On MNIST PGD at 0.1 misleads $mnist_pgd % of such a network's answers, and $seeds_wasserstein % of those of three networks with the Wasserstein penalty. PGD training costs $step_pgd steps and misreads $digits_pgd % of the digits as they are; FGSM training costs $step_fgsm steps ($digits). On CIFAR-10 they were compared in a sprint of four epochs alone. |
| **As good, and simpler** | The Euclidean penalty, $$\\eta^2 \\lVert \\nabla \\ell \\rVert^2$$. Under attack it is level on CIFAR-10 ($attacked_euclidean %) and ahead on MNIST ($mnist_euclidean %); on blur it is level ($blur_euclidean %). The Wasserstein penalty changes answers $ahead % less often from shift to shift, where the border is continued. Gaussian noise costs one step, and on MNIST comes to $mnist_gaussian_noise %. |
| **How sure** | CIFAR-10: one ResNet-20 of each method, at epoch $epoch of 200. MNIST: three small networks of each; one of those with the Wasserstein penalty misleads a weak attack, which makes it look better than it is ($digits). Of $checked statements of the paper $failing do not hold as printed ($equations). |
"""  # noqa: E501

_CHAPTERS = {
    "moves": ("chapter 10", "natural_variation.ipynb"),
    "robustness": ("chapter 9", "adversarial.ipynb"),
    "costs": ("chapter 7", "fast_penalty.ipynb"),
    "digits": ("chapter 8", "training.ipynb"),
    "equations": ("all of them", "equations.md"),
}


def text(book: Path) -> str:
    """The verdict as a Markdown table, with numbers from ``results/``.

    Parameters
    ----------
    book : Path
        Of the folder of the chapters, for the links.
    """
    links = {name: f"[{said}]({book / file})" for name, (said, file) in _CHAPTERS.items()}
    equations = (book / "equations.md").read_text()
    numbers = _photographs() | _digits() | _steps() | claims.of_equations(equations)
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
        "fewer": f"{fewer('horizontal edge', 'none'):.0f}",
        "ahead": f"{min(ahead):.0f} to {max(ahead):.0f}",
        "epoch": networks["wasserstein"]["training"]["epoch"],
    }


def _digits() -> dict[str, str]:
    rows = select(study.stored("robust_digits")["result"]["rows"], chosen_for="attack")
    return {
        **{
            f"mnist_{method}": f"{errors(rows, 'pgd 0.1', method=method).mean():.0f}"
            for method in ("euclidean", "gaussian_noise", "pgd")
        },
        **{
            f"digits_{method}": f"{errors(rows, 'natural', method=method).mean():.1f}"
            for method in ("none", "wasserstein", "pgd")
        },
        "seeds_wasserstein": "{:.0f}, {:.0f} and {:.0f}".format(
            *errors(rows, "pgd 0.1", method="wasserstein")
        ),
    }


def _steps() -> dict[str, str]:
    costs = study.stored("benchmark_training")["step_costs"]
    names = {"step": "W r=8", "fast": "W r=8, FD", "step_pgd": "pgd-7", "step_fgsm": "fgsm"}
    ratio = {row["step"]: row["ratio"] for row in costs}
    return {name: f"{ratio[step]:.1f}" for name, step in names.items()}


# ---------------------------------------------------------------- the figure


def draw() -> None:
    """Draw natural error against error under attack, of methods of training on two data sets; the
    area of a mark is the cost of a training step.
    """
    _, panels = plt.subplots(1, 2, figsize=(6.8, 3.4))
    digits = select(study.stored("robust_digits")["result"]["rows"], chosen_for="attack")
    costs = tradeoff.costs(study.stored("benchmark_tradeoff"))
    _draw_methods(panels[0], digits, "pgd 0.1", costs, _ON_DIGITS)
    panels[0].set(title="MNIST, 8 epochs", ylabel="error under attack (%)")
    photographs = study.stored("tradeoff", "cpu")["result"]["rows"]
    _draw_methods(panels[1], photographs, "I-FGSM-20 8", costs, _ON_PHOTOGRAPHS)
    panels[1].set(title="CIFAR-10, 4 short epochs")
    for axes in panels:
        axes.set_xlabel("natural error (%)")


_ON_DIGITS = {
    "none": (8, 4),
    "gaussian_noise": (10, 4),
    "euclidean": (-4, -16),
    "wasserstein": (8, 6),
    "pgd": (-10, 16),
}
_ON_PHOTOGRAPHS = {
    "none": (8, 2),
    "gaussian_noise": (8, 2),
    "euclidean": (-62, 6),
    "wasserstein": (12, 6),
    "fgsm": (-38, 12),
    "pgd": (-62, -16),
}  # the methods drawn, and where their names stand, in points


def _draw_methods(
    axes: Axes,
    rows: list[Mapping],
    attack: str,
    costs: Mapping[str, float],
    places: Mapping[str, tuple[int, int]],
) -> None:
    for method, place in places.items():
        x, y = (errors(rows, name, method=method).mean() for name in ("natural", attack))
        axes.scatter(x, y, s=60 * costs[method], color=plots.color_of(method), alpha=0.75, lw=0)
        axes.annotate(
            f"{label(method)} ({costs[method]:.1f})",
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

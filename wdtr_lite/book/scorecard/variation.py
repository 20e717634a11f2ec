"""The paper's claims on moved images (Table 2) and on what lies between images."""

import numpy as np

from wdtr_lite import study
from wdtr_lite.book.reports import MAIN, flips_by_image, measurements, path_lengths
from wdtr_lite.book.scorecard.claim import NO, PARTLY, Claim, mark, strokes
from wdtr_lite.study.questions import PADDINGS
from wdtr_lite.study.table2 import PAPER as PAPER2

__all__ = ["flips", "paths"]


def flips(axis: str) -> Claim:
    """Table 2, along an axis."""
    networks = measurements(study.stored("table2"))
    counted = {
        (border, count): [flips_by_image(networks[m][f"{axis} {border}"], count) for m in MAIN]
        for border in PADDINGS
        for count in ("consecutive", "from_unshifted")
    }
    ordered = [_below(a, b) and _below(b, c) for a, b, c in counted.values()]
    black, edge = (counted[border, "consecutive"] for border in ("zeros", "edge"))
    with_black = (
        "the Euclidean one is ahead" if _below(black[2], black[1]) else "the order is not clear"
    )
    return Claim(
        f"Fewer label flips under {axis} moves, fewest with the Wasserstein penalty (Table 2)",
        mark(all(ordered), PARTLY if any(ordered) else NO),
        f"from shift to shift, border continued; with black {with_black}",
        strokes(f"{PAPER2[axis][m]:.1f}" for m in MAIN),
        f"{strokes(f'{flips.mean():.1f}' for flips in black)} (black), "
        f"{strokes(f'{flips.mean():.1f}' for flips in edge)} (border repeated); the paper's order "
        f"is clear in {sum(ordered)} of {len(ordered)} ways to count",
        "fig-table-2",
        "Three borders, two counts. ✔ if the paper's order is clear in all six, by two standard "
        "errors over images from one method to the next, ~ if in some.",
    )


def _below(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether the second flips clearly less than the first, of the same images."""
    less = first - second
    return bool(less.mean() > 2 * less.std(ddof=1) / len(less) ** 0.5)


def paths() -> Claim:
    """That answers are smooth within classes and flexible across."""
    networks = measurements(study.stored("variation"))
    small = study.stored("variation", "cpu")["result"]["rows"]

    def shares(path: str, method: str) -> tuple[float, float]:
        """Of the plain network's length, that of another's, within and between classes."""
        lengths = [
            [sum(networks[m]["paths"][f"{classes} {path}"]) for classes in ("within", "between")]
            for m in (method, "none")
        ]
        within, between = (ours / plain for ours, plain in zip(*lengths, strict=True))
        return within, between

    def ratio(method: str) -> float:
        """Between over within, of the small networks."""
        within, between = (
            path_lengths(small, method, f"{each} wasserstein").mean(1)
            for each in ("within", "between")
        )
        return float((between / within).mean())

    found = [shares(path, "wasserstein") for path in ("wasserstein", "euclidean")]
    holds = [within < 0.9 and between > 1.1 * within for within, between in found]
    return Claim(
        '"Low variability within classes but remain flexible across classes"',
        mark(all(holds), PARTLY if any(holds) else NO),
        "with either penalty, along W2 geodesics; not in small networks",
        "–",
        "change of the answer along W2 geodesics, of the plain network's, within / between "
        "classes: {:.2f} / {:.2f} (Euclidean {:.2f} / {:.2f}); along straight lines "
        "{:.2f} / {:.2f}. ".format(*found[0], *shares("wasserstein", "euclidean"), *found[1])
        + "Between over within, small networks: "
        + strokes(f"{ratio(m):.2f}" for m in MAIN)
        + ". The images on these paths are also rougher",
        "fig-paths",
        "Of the large Wasserstein network: below 0.9 within, and between at least a tenth above "
        "within. ✔ along geodesics and lines, ~ along one.",
    )

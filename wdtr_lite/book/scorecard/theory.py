"""The paper's claims on its formulas, its distance and noise, and what the penalty costs."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from wdtr_lite import study
from wdtr_lite.book.reports import errors, select
from wdtr_lite.book.scorecard.claim import NO, PARTLY, Claim, Printed, mark

__all__ = [
    "cost",
    "formulas",
    "laplacian",
    "neighbourhood",
    "noise",
    "of_equations",
    "robust_distance",
]


def of_equations(equations: str) -> dict[str, int]:
    """How many statements of the paper were ``checked`` on their page; how many of them hold as
    printed, ``holding``, how many are ``qualified`` and how many are ``failing``.
    """
    found = [
        line.split("|")[2].strip()
        for line in equations.splitlines()
        if line.startswith("| ") and "test_" in line
    ]
    checked = [verdict for verdict in found if not verdict.startswith("*repaired*")]
    holding = sum(verdict.startswith("yes") for verdict in checked)
    failing = sum(verdict.startswith("**no**") for verdict in checked)
    return {
        "checked": len(checked),
        "holding": holding,
        "qualified": len(checked) - holding - failing,
        "failing": failing,
    }


def formulas(book: Path) -> Claim:
    """That the formulas hold."""
    n = of_equations((book / "equations.md").read_text())
    return Claim(
        "The formulas: metric tensor, calculus, Theorem 1, Algorithm 1",
        mark(n["holding"] == n["checked"], PARTLY if n["holding"] else NO),
        f"{100 * n['holding'] / n['checked']:.0f} % as printed",
        "–",
        f"of {n['checked']} statements {n['holding']} hold as printed, {n['qualified']} up to a "
        f"factor, a condition or a reading, {n['failing']} do not",
        "equations",
        "✔ if all statements hold as printed, ✘ if none does. The book's own repairs do not count.",
    )


def laplacian(book: Path) -> Claim:
    """That the Laplacian term may be dropped."""
    chapter = Printed(book / "theorem_one.ipynb")
    seen, unseen = (chapter.row("digits", f"{each}, at the end")[4] for each in ("train", "test"))
    free, strong = (chapter.row("penalty's weight", weight)[4] for weight in ("0", "0.0005"))
    largest = max(seen, unseen, free, strong)
    return Claim(
        "Where the training error vanishes the Laplace–Beltrami term may be omitted, as l′ "
        "vanishes (Section 3)",
        mark(largest < 1, NO if largest > 10 else PARTLY),
        "not for that reason",
        "0",
        f"its share of the gradient term: {seen:.0f} % on training digits, {unseen:.0f} % on test "
        f"digits; with a strong penalty {strong:.0f} % in place of {free:.0f} %",
        "fig-trained",
        "✔ if the term is below 1 % of the gradient term in every case measured, ✘ if it is above "
        "10 % in one.",
    )


def robust_distance(book: Path) -> Claim:
    """That the distance is robust."""
    moves = Printed(book / "interpolation.ipynb")
    by = {k: moves.row("77 digits", f"moved by {k}")[1:] for k in (1, 2, 4)}
    farther = _nearer(book)
    moved = all(w2 < l2 for l2, w2 in (by[1], by[2]))
    noisy = max(farther) < 1
    return Claim(
        '"Robust to natural variations such as translations and independent noise" (W2, Section 1)',
        mark(moved and noisy, PARTLY if moved or noisy else NO),
        "to short moves, not to noise",
        "–",
        f"a digit moved by 2 pixels: {by[2][1]:.2f} medians (L2 {by[2][0]:.2f}), by 4: "
        f"{by[4][1]:.2f} ({by[4][0]:.2f}). Independent noise is up to {max(farther):.1f} times as "
        "far as Wasserstein noise of its energy",
        "fig-variations",
        "Two tests: moves by 1 and 2 pixels are nearer than in L2, in medians of each; independent "
        "noise is no farther than Wasserstein noise. ✔ both, ~ one.",
    )


def neighbourhood() -> Claim:
    """Figure 1."""
    keeping = study.stored("label_keeping")["result"]["rows"]

    def kept(classifier: str, fraction: float) -> list[float]:
        cases = (
            select(keeping, classifier=classifier, metric=metric, fraction=fraction)[0]
            for metric in ("wasserstein", "euclidean")
        )
        return [100 * row["mean"] for row in cases]

    near, far = ({c: kept(c, at) for c in ("forest", "svm")} for at in (0.3, 0.7))
    more = [[w2 > l2 for w2, l2 in at.values()] for at in (near, far)]
    told = [
        "forest {:.1f} (L2 {:.1f}), SVM {:.1f} ({:.1f})".format(*at["forest"], *at["svm"])
        for at in (near, far)
    ]
    return Claim(
        'Near a digit W2 gives "a more coherent neighborhood" than L2 (Figure 1)',
        mark(all(map(all, more)), PARTLY if all(more[0]) else NO),
        "at small distances",
        "pictures",
        f"label kept, in percent: at 0.3 medians {told[0]}; at 0.7 {told[1]}",
        "fig-keep",
        "✔ if both judges keep more labels in W2 at 0.3 and at 0.7 medians, ~ if at 0.3.",
    )


def _nearer(book: Path) -> list[float]:
    """How many times as far in W2 independent noise is as Wasserstein noise, of each radius."""
    text = Printed(book / "wasserstein_noise.ipynb").text
    found = [line for line in text.splitlines() if "isotropic / Wasserstein" in line]
    return [float(line.split("Wasserstein ")[1].split(" ±")[0]) for line in found]


def noise(book: Path) -> Claim:
    """That the noise is natural."""
    chapter = Printed(book / "wasserstein_noise.ipynb")
    warps = [chapter.row("% in 18 smooth warps", f"W, r = {r}") for r in (1, 2, 4, 8)]
    nearer = _nearer(book)
    digits = select(study.stored("robust_digits")["result"]["rows"], chosen_for="variation")
    trained = {m: _varied(digits, m) for m in ("wasserstein_noise", "gaussian_noise", "none")}
    is_near, bends = min(nearer) > 1, all(noise > alone for _, noise, _, alone in warps)
    smooth = [noise for _, noise, *_ in warps]
    return Claim(
        'Wasserstein noise "reflects the natural local variability of images"',
        mark(is_near and bends, PARTLY if is_near or bends else NO),
        "local, not natural",
        "–",
        f"{min(nearer):.1f} to {max(nearer):.1f} times nearer in W2 than independent noise of its "
        f"energy, but {min(smooth):.0f} to {max(smooth):.0f} % of it are smooth warps. Trained "
        "with it, moved, turned and bent digits: "
        "{:.1f} % (Gaussian noise {:.1f}, plain {:.1f})".format(*trained.values()),
        "fig-noise-warps",
        "Two tests: nearer in W2 than independent noise, at each radius; more of it in smooth "
        "warps than of independent pixels of the same variances. ✔ both, ~ one.",
    )


def _varied(rows: list[Mapping], method: str) -> float:
    """The mean error on moved, turned and bent digits."""
    kinds = ("translation", "rotation", "elastic")
    return float(np.mean([errors(rows, kind, method=method) for kind in kinds]))


def cost() -> Claim:
    """That the penalty is cheap."""
    told = study.stored("benchmark_training")
    ratio = {row["step"]: row["ratio"] for row in told["step_costs"]}
    (alone,) = select(told["penalty_alone"], radius=8)
    metric = alone["ours_over_plain_step"]
    extra, pgd, fgsm = (ratio[step] - 1 for step in ("W r=8", "pgd-7", "fgsm"))
    return Claim(
        '"Negligible cost in comparison to training with adversarial data augmentation"',
        mark(extra < 0.1 * min(pgd, fgsm), PARTLY if metric < 0.1 * min(pgd, fgsm) else NO),
        "the metric is cheap, its gradient is not",
        "–",
        f"the metric takes {100 * metric:.0f} % of a plain step. The whole penalty adds "
        f"{extra:.1f} steps: {100 * extra / pgd:.0f} % of what PGD-7 training adds, "
        f"{extra / fgsm:.1f} times what FGSM training adds",
        "fig-cost",
        "✔ if the penalty's extra time is below a tenth of PGD-7's and of FGSM training's, ~ if "
        "that of the metric alone is.",
    )

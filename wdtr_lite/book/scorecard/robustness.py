"""The paper's claims on errors, under attack and without (Table 1)."""

from collections.abc import Mapping

import numpy as np
from scipy import stats

from wdtr_lite import study
from wdtr_lite.book.reports import MAIN, errors, first, measured, rate, select
from wdtr_lite.book.scorecard.claim import NO, NOT_CLAIMED, OPEN, PARTLY, YES, Claim, mark, strokes
from wdtr_lite.book.trial import misread
from wdtr_lite.book.units import PENALISED, row_pair
from wdtr_lite.study.table1 import PAPER
from wdtr_lite.training import Config

__all__ = [
    "STATE_OF_THE_ART",
    "gaps_by_seed",
    "masked",
    "natural",
    "state_of_the_art",
    "strong",
    "training_error",
    "under_attack",
    "wasserstein_first",
]

ATTACK = "I-FGSM-20 8"

STATE_OF_THE_ART = {"FGSM 8": 37.52, ATTACK: 42.06}
"""What the paper compares its errors with, of Wang et al. (2018b)."""


def _three(networks: Mapping[str, Mapping], condition: str) -> str:
    return strokes(f"{rate(networks[m], condition):.1f}" for m in MAIN)


def _told(condition: str) -> str:
    return strokes(f"{PAPER[condition][m]:.2f}" for m in MAIN)


def _gap(networks: Mapping[str, Mapping], a: str, b: str, condition: str) -> tuple[float, float]:
    """The first network's error less the second's, with its standard error, in points."""
    found = row_pair(networks[a], networks[b], condition)
    return 100 * found["difference"], 100 * found["standard_error"]


def under_attack() -> list[Claim]:
    """Of the paper's own networks, one of each method."""
    networks = first(study.stored("table1"))
    rule = (
        "✔ if both errors are within five points of the paper's, ~ if both are clearly below the "
        "plain network's{}."
    )
    found = []
    for condition, says, order, words in (
        (ATTACK, "more robust (Table 1, I-FGSM-20, 8/255)", False, "in direction, not in size"),
        ("FGSM 25", "and most the Wasserstein one, at 25/255 (Table 1, FGSM)", True, "reversed"),
    ):
        close = all(abs(rate(networks[m], condition) - PAPER[condition][m]) < 5 for m in PENALISED)
        gains = [_gap(networks, m, "none", condition) for m in PENALISED]
        ahead, error = _gap(networks, "wasserstein", "euclidean", condition)
        partly = all(gain < -2 * e for gain, e in gains) and (not order or ahead < -2 * error)
        words = "as there" if close else words
        more = f"; Wasserstein − Euclidean {ahead:+.1f} ± {error:.1f}" if order else ""
        found.append(
            Claim(
                f"Both penalties make a network {says}" if not order else f"The same, {says}",
                mark(close, PARTLY if partly else NO),
                words,
                _told(condition),
                _three(networks, condition) + more,
                "fig-table-1",
                rule.format(" and the Wasserstein one below the Euclidean" if order else ""),
            )
        )
    return found


def masked() -> Claim:
    """Masked is a network that an attack with another loss, or with more steps, fools far more
    often.
    """
    counts = misread(study.stored("stress"))
    weaker, harder = (
        [100 * counts[m][name][0] / counts[m][name][1] for m in MAIN]
        for name in ("autoattack apgd-ce", "autoattack square")
    )
    more = max(h - w for h, w in zip(harder[1:], weaker[1:], strict=True))
    digits = select(study.stored("robust_digits")["result"]["rows"], chosen_for="attack")
    steps = [
        rate(row, "pgd 0.1") - rate(row, "fgsm 0.1")
        for method in PENALISED
        for row in measured(select(digits, method=method))
    ]
    masked = sum(each > 20 for each in steps)
    return Claim(
        f"{NOT_CLAIMED} The robustness is no masked gradient",
        NO if more > 10 else PARTLY if masked else YES,
        f"but for {masked} MNIST network of {len(steps)}" if masked else "none is",
        "–",
        f"CIFAR-10: AutoAttack finds {more:.0f} points more than APGD at most; "
        f"MNIST (FGSM against PGD alone): {masked} of {len(steps)} networks mislead FGSM",
        "hard-to-attack",
        "✘ if AutoAttack finds over ten points more than its first part on a large network, ~ if "
        "PGD finds over twenty points more than FGSM on a network of MNIST.",
    )


def wasserstein_first() -> Claim:
    """That the Wasserstein penalty is the better one under attack."""
    large, error = _gap(first(study.stored("table1")), "wasserstein", "euclidean", ATTACK)
    small = gaps_by_seed()
    ahead = [large < -2 * error, *(max(gaps) < 0 for gaps in small.values())]
    behind = [large > 2 * error, *(min(gaps) > 0 for gaps in small.values())]
    told = [
        f"{name} {min(gaps):+.1f} to {max(gaps):+.1f}"
        if max(gaps) - min(gaps) > 1
        else f"{name} {np.mean(gaps):+.1f}"
        for name, gaps in small.items()
    ]
    return Claim(
        "Of the two penalties the Wasserstein one is the more robust (Table 1)",
        YES if all(ahead) else PARTLY if any(ahead) else NO,
        f"behind in {sum(behind)} of {len(behind)} comparisons, ahead in {sum(ahead) or 'none'}",
        f"{PAPER[ATTACK]['wasserstein'] - PAPER[ATTACK]['euclidean']:+.1f} points",
        f"points: ResNet-20 {large:+.1f} ± {error:.1f}, one pair; in every seed " + ", ".join(told),
        "fig-pair",
        "Four comparisons under attack. Ahead is lower by two standard errors over images (the "
        "large pair) or in every seed. ✔ ahead in all, ~ in some, ✘ in none.",
    )


def gaps_by_seed() -> dict[str, np.ndarray]:
    """The error of each Wasserstein network less that of the Euclidean one, where there are seeds,
    under attack.
    """
    digits = select(study.stored("robust_digits")["result"]["rows"], chosen_for="attack")
    cases = {
        "ResNet-8": (study.stored("table1", "cpu")["result"]["rows"], ATTACK),
        "ResNet-8 in a sprint": (study.stored("tradeoff", "cpu")["result"]["rows"], ATTACK),
        "MNIST": (digits, "pgd 0.1"),
    }
    return {
        name: errors(rows, condition, method="wasserstein")
        - errors(rows, condition, method="euclidean")
        for name, (rows, condition) in cases.items()
    }


def state_of_the_art() -> Claim:
    """That the errors are as low as others'."""
    networks = first(study.stored("table1"))
    best = {c: min(rate(networks[m], c) for m in PENALISED) for c in STATE_OF_THE_ART}
    behind = [best[c] - told for c, told in STATE_OF_THE_ART.items()]
    there = (f"{PAPER[c]['wasserstein']:.1f} ({told})" for c, told in STATE_OF_THE_ART.items())
    return Claim(
        'The errors at 8/255 "compare well with the state of the art" of 2018',
        mark(max(behind) <= 0, NO if min(behind) > 5 else PARTLY),
        "{:.0f} and {:.0f} points behind".format(*behind),
        ", ".join(there),
        "FGSM, I-FGSM-20, of the better penalty: "
        + ", ".join(f"{error:.1f}" for error in best.values()),
        "fig-table-1",
        "✔ if the better penalty errs no more often than the numbers that the paper compares with "
        "(in brackets), ✘ if over five points more often in both.",
    )


def natural() -> Claim:
    """That the natural error falls."""
    networks = first(study.stored("table1"))
    gaps = [_gap(networks, m, "none", "natural") for m in PENALISED]
    few = select(study.stored("benchmark_precision")["precision"], precision="float32")
    plain, penalised = (100 * np.array(select(few, method=m)[0]["test_error"]) for m in
                        ("none", "wasserstein"))  # fmt: skip
    _, p = stats.ttest_ind(plain, penalised, equal_var=False)
    digits = study.stored("robust_digits")["result"]["rows"]
    on_all = [
        errors(select(digits, chosen_for="variation"), "natural", method=m).mean()
        for m in ("none", "wasserstein")
    ]
    return Claim(
        "The natural error falls (Table 1)",
        mark(all(gap < -2 * e for gap, e in gaps)),
        "rises on CIFAR-10 at η = 1; fell on few digits",
        _told("natural"),
        f"{_three(networks, 'natural')}. Plain and Wasserstein: {plain.mean():.1f} and "
        f"{penalised.mean():.1f} on 4,000 digits (p = {p:.2f}), {on_all[0]:.1f} and "
        f"{on_all[1]:.1f} on 60,000",
        "fig-table-1",
        "✔ if both penalised ResNet-20 err clearly less often than the plain one, by two standard "
        "errors over images.",
    )


def strong() -> Claim:
    """That strong penalties cost nothing."""
    search = [row for row in study.stored("table1", "cpu")["result"]["search"] if "wrong" in row]
    (plain,) = (rate(row, "natural") for row in search if row["method"] == "none")
    found = [(row["setting"]["eta"], rate(row, "natural")) for row in search
             if row["method"] == "wasserstein"]  # fmt: skip
    weak, strong = (
        [error for each, error in found if each == eta] for eta in (min(found)[0], max(found)[0])
    )
    harmless = [error <= plain for _, error in found]
    return Claim(
        '"High levels of regularization … without hurting test performance" (abstract, Figure 1)',
        mark(all(harmless), PARTLY if any(harmless) else NO),
        "every setting costs, a stronger one more",
        "a drawing",
        f"natural error of ResNet-8: plain {plain:.0f} %; Wasserstein {min(weak):.0f} to "
        f"{max(weak):.0f} % at η = {min(found)[0]:g}, {min(strong):.0f} to {max(strong):.0f} % at "
        f"η = {max(found)[0]:g}",
        "fig-grid",
        "Of the grid's Wasserstein settings: ✔ if no one has a higher natural error than plain "
        "training, ✘ if each has.",
    )


def training_error() -> Claim:
    """That the training error vanishes."""
    report = study.stored("table1")
    networks = first(report)
    training = [100 * networks[m]["training"]["error"] for m in MAIN]
    epochs = Config(**report["config"]["networks"]["training"]).epochs
    finished = all(networks[m]["training"]["epoch"] == epochs for m in MAIN)
    return Claim(
        '"The training error converges to zero in all cases"',
        mark(max(training) < 0.1, NO if finished else OPEN),
        "the plain network's; the others were stopped",
        "0",
        f"{strokes(f'{each:.1f}' for each in training)}, "
        f"after {networks['none']['training']['epoch']} of {epochs} epochs",
        "fig-table-1",
        "✔ if all are below 0.1 %, ✘ if one is not after all epochs.",
    )

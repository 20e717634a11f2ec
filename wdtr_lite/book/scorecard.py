"""What chapter 11 opens with: the paper's claims, each with a verdict and two numbers."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from IPython.display import Markdown

from wdtr_lite import study
from wdtr_lite.book.reports import MAIN, first, flips_by_image, measured, measurements, rate, select
from wdtr_lite.book.trial import misread
from wdtr_lite.book.units import PENALISED, row_pair
from wdtr_lite.study.table1 import PAPER
from wdtr_lite.study.table2 import PAPER as PAPER2
from wdtr_lite.training import Config

__all__ = ["Claim", "claims", "scorecard"]

YES, PARTLY, NO, OPEN = "✔", "~", "✘", "?"


class Claim(NamedTuple):
    """What the paper says, in its words or shorter; whether it repeats; a number of the paper's,
    one of ours; and the page.
    """

    says: str
    verdict: str
    paper: str
    ours: str
    page: str


def scorecard(equations: str) -> Markdown:
    """The claims as a table.

    Parameters
    ----------
    equations : str
        The page of the statements that were checked.
    """
    lines = ["| the paper says | | the paper | here |", "| --- | :-: | --- | --- |"]
    lines += [
        f"| {{doc}}`{claim.says} <{claim.page}>` | {claim.verdict} | {claim.paper} | {claim.ours} |"
        for claim in claims(equations)
    ]
    return Markdown("\n".join(lines))


def claims(equations: str) -> list[Claim]:
    """Each with the verdict that its numbers give."""
    return [_formulas(equations), *_pictures(), _cost(), *_errors(), _flips(), _paths()]


def _mark(holds: bool, otherwise: str = NO) -> str:
    return YES if holds else otherwise


def _formulas(equations: str) -> Claim:
    lines = [line for line in equations.splitlines() if line.startswith("| ") and "test_" in line]
    fail = sum(line.split("|")[2].strip().startswith("**no**") for line in lines)
    return Claim(
        "The formulas: metric tensor, calculus, Theorem 1, Algorithm 1",
        _mark(fail == 0, PARTLY),
        "–",
        f"{len(lines) - fail} of {len(lines)} statements hold as printed",
        "equations",
    )


def _pictures() -> list[Claim]:
    keeping = study.stored("label_keeping")["result"]["rows"]
    near, far = (
        [_kept(keeping, metric, fraction) for metric in ("euclidean", "wasserstein")]
        for fraction in (0.3, 0.7)
    )
    digits = select(study.stored("robust_digits")["result"]["rows"], chosen_for="attack")
    noises = ("gaussian_noise", "wasserstein_noise")
    gauss, wasserstein = (_mean(digits, method, "pgd 0.1") for method in noises)
    return [
        Claim(
            'Near a digit, W2 gives "a more coherent neighborhood" than L2 (Figure 1)',
            _mark(near[1] > near[0] and far[1] > far[0], PARTLY if near[1] > near[0] else NO),
            "pictures",
            f"label kept at 0.3 medians: {near[1]:.0f} % (W2), {near[0]:.0f} % (L2); "
            f"at 0.7: {far[1]:.0f} %, {far[0]:.0f} %",
            "interpolation",
        ),
        Claim(
            "Wasserstein noise reflects natural variability",
            _mark(wasserstein < gauss),
            "–",
            f"trained with it, PGD 0.1 on MNIST: {wasserstein:.0f} % wrong "
            f"(Gaussian noise {gauss:.0f} %)",
            "wasserstein_noise",
        ),
    ]


def _kept(rows: list[Mapping], metric: str, fraction: float) -> float:
    (row,) = select(rows, classifier="forest", metric=metric, fraction=fraction)
    return 100 * row["mean"]


def _mean(rows: list[Mapping], method: str, condition: str) -> float:
    found = [rate(row, condition) for row in measured(select(rows, method=method))]
    return sum(found) / len(found)


def _cost() -> Claim:
    told = study.stored("benchmark_training")["step_costs"]
    ratio = {row["step"]: row["ratio"] for row in told}
    penalty, pgd = ratio["W r=8"], ratio["pgd-7"]
    return Claim(
        '"Negligible cost in comparison to training with adversarial data augmentation"',
        _mark(penalty < 1 + 0.1 * (pgd - 1), PARTLY if penalty < pgd else NO),
        "–",
        f"a step is {penalty:.1f} plain ones; of PGD-7 training {pgd:.1f}, of FGSM training "
        f"{ratio['fgsm']:.1f}",
        "fast_penalty",
    )


def _errors() -> list[Claim]:
    """Of the paper's own networks, one of each method."""
    report = study.stored("table1")
    networks = first(report)

    def three(condition: str) -> str:
        return _strokes(f"{rate(networks[m], condition):.1f}" for m in MAIN)

    def paper(condition: str) -> str:
        return _strokes(f"{PAPER[condition][m]:.2f}" for m in MAIN)

    def difference(first: str, second: str, condition: str) -> tuple[float, float]:
        found = row_pair(networks[first], networks[second], condition)
        return 100 * found["difference"], 100 * found["standard_error"]

    attack = "I-FGSM-20 8"
    gains = [difference(m, "none", attack) for m in MAIN[1:]]
    same_size = all(abs(rate(networks[m], attack) - PAPER[attack][m]) < 5 for m in MAIN[1:])
    ahead, error = difference("wasserstein", "euclidean", attack)
    costs = [difference(m, "none", "natural") for m in MAIN[1:]]
    training = [100 * networks[m]["training"]["error"] for m in MAIN]
    epochs = Config(**report["config"]["networks"]["training"]).epochs
    finished = all(networks[m]["training"]["epoch"] == epochs for m in MAIN)
    return [
        Claim(
            "Both penalties make a network more robust (Table 1, I-FGSM-20, 8/255)",
            _mark(same_size, PARTLY if all(gain < -2 * e for gain, e in gains) else NO),
            paper(attack),
            f"{three(attack)}" + ("" if same_size else "; in direction, not in size"),
            "adversarial",
        ),
        _masked(),
        Claim(
            "The Wasserstein penalty more so (the same)",
            _mark(ahead < -2 * error, NO if ahead > 2 * error else OPEN),
            f"{PAPER[attack]['wasserstein'] - PAPER[attack]['euclidean']:+.1f} points",
            f"{ahead:+.1f} ± {error:.1f} points, one pair of networks",
            "adversarial",
        ),
        Claim(
            "The natural error falls",
            _mark(all(cost < -2 * e for cost, e in costs)),
            paper("natural"),
            f"{three('natural')}, at η = 1",
            "adversarial",
        ),
        Claim(
            '"The training error converges to zero in all cases"',
            _mark(max(training) < 0.1, NO if finished else OPEN),
            "0",
            f"{_strokes(f'{each:.1f}' for each in training)}, "
            f"after {networks['none']['training']['epoch']} of {epochs} epochs",
            "adversarial",
        ),
    ]


def _masked() -> Claim:
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
        "(Not claimed, but needed.) The robustness is no masked gradient",
        NO if more > 10 else PARTLY if masked else YES,
        "–",
        f"CIFAR-10: AutoAttack finds {more:.0f} points more than APGD at most; "
        f"MNIST (FGSM against PGD alone): {masked} of {len(steps)} networks mislead FGSM",
        "adversarial",
    )


def _flips() -> Claim:
    networks = measurements(study.stored("table2"))
    fewer = {
        (case, count): [flips_by_image(networks[m][case], count).mean() for m in MAIN]
        for case in networks["none"]
        for count in ("consecutive", "from_unshifted")
    }
    ordered = [plain > euclidean > wasserstein for plain, euclidean, wasserstein in fewer.values()]
    told = PAPER2["horizontal"]
    ours, black = (fewer[f"horizontal {each}", "consecutive"] for each in ("edge", "zeros"))
    return Claim(
        "Fewer label flips under translation, fewest with the Wasserstein penalty (Table 2)",
        _mark(all(ordered), PARTLY if any(ordered) else NO),
        _strokes(f"{told[m]:.1f}" for m in MAIN),
        f"{_strokes(f'{mean:.1f}' for mean in ours)} (border repeated) or "
        f"{_strokes(f'{mean:.1f}' for mean in black)} (black), horizontally; the paper's order in "
        f"{sum(ordered)} of {len(ordered)} ways to count",
        "natural_variation",
    )


def _paths() -> Claim:
    networks = measurements(study.stored("variation"))

    def shares(path: str) -> tuple[float, float]:
        """Of the plain network's length, that of the Wasserstein network."""
        lengths = [
            [sum(networks[m]["paths"][f"{classes} {path}"]) for classes in ("within", "between")]
            for m in ("wasserstein", "none")
        ]
        within, between = (ours / plain for ours, plain in zip(*lengths, strict=True))
        return within, between

    found = [shares(path) for path in ("wasserstein", "euclidean")]
    holds = [within < 0.9 and between > 1.1 * within for within, between in found]
    within, between = found[0]
    return Claim(
        '"Low variability within classes but flexible across classes"',
        _mark(all(holds), PARTLY if any(holds) else NO),
        "–",
        "change of the Wasserstein network's answer along W2 geodesics, of the plain one's: "
        f"{within:.2f} within, {between:.2f} between classes; along straight lines "
        f"{found[1][0]:.2f}, {found[1][1]:.2f}",
        "natural_variation",
    )


def _strokes(texts: Iterable[str]) -> str:
    return " / ".join(texts)

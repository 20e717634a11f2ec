"""The paper's claims, counted, in a table, and the rules of their marks."""

from collections.abc import Mapping
from pathlib import Path

from IPython.display import Markdown

from wdtr_lite import study
from wdtr_lite.book.reports import first, rate
from wdtr_lite.book.scorecard import robustness, theory, variation
from wdtr_lite.book.scorecard.claim import NO, NOT_CLAIMED, OPEN, PARTLY, YES, Claim
from wdtr_lite.study.questions import AXES
from wdtr_lite.study.table1 import PAPER

__all__ = ["claims", "rules", "scorecard"]


def scorecard(book: Path) -> Markdown:
    """How many claims repeat, and each of them in a table.

    Parameters
    ----------
    book : Path
        Of the folder of the chapters: its pages and what these print are read.
    """
    found = claims(book)
    marks = [claim.verdict for claim in found if not claim.says.startswith(NOT_CLAIMED)]
    in_full, partly, no, undecided = (marks.count(mark) for mark in (YES, PARTLY, NO, OPEN))
    plain = first(study.stored("table1"))["none"]
    lines = [
        f"**Of {len(marks)} claims {in_full or 'none'} "
        f"{'repeats' if in_full < 2 else 'repeat'} in full, {partly} in part, {no} not; "
        f"{undecided} is undecided.** One number repeats that is no claim, the plain network's "
        f"error: {_percent(plain, 'natural')} %, in the paper {PAPER['natural']['none']}.",
        "",
        "| the paper says | verdict | the paper | here |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {_link(claim)} | {claim.verdict} {claim.words} | {claim.paper} | {claim.ours} |"
        for claim in found
    ]
    return Markdown("\n".join(lines))


def _percent(row: Mapping, condition: str) -> str:
    share, n = rate(row, condition), row["n"][condition]
    return f"{share:.1f} ± {(share * (100 - share) / n) ** 0.5:.1f}"


def rules(book: Path) -> Markdown:
    """The rule of each mark, a line each."""
    return Markdown("\n".join(f"- *{claim.says}* {claim.rule}" for claim in claims(book)))


def _link(claim: Claim) -> str:
    role = "doc" if claim.place == "equations" else "ref"
    return f"{{{role}}}`{claim.says} <{claim.place}>`"


def claims(book: Path) -> list[Claim]:
    """Each with the verdict that its numbers give."""
    return [
        theory.formulas(book),
        theory.laplacian(book),
        theory.robust_distance(book),
        theory.neighbourhood(),
        theory.noise(book),
        theory.cost(),
        *robustness.under_attack(),
        robustness.masked(),
        robustness.wasserstein_first(),
        robustness.state_of_the_art(),
        robustness.natural(),
        robustness.strong(),
        robustness.training_error(),
        *(variation.flips(axis) for axis in AXES),
        variation.paths(),
    ]

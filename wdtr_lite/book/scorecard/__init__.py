"""What chapter 11 opens with: the paper's claims, each with a verdict, its rule and numbers."""

from wdtr_lite.book.scorecard.claim import Claim
from wdtr_lite.book.scorecard.table import claims, rules, scorecard
from wdtr_lite.book.scorecard.theory import of_equations

__all__ = ["Claim", "claims", "of_equations", "rules", "scorecard"]

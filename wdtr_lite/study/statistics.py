"""Rows of networks made into numbers of a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wdtr_lite import checks

__all__ = ["across_seeds", "choose", "summary"]


def summary(outcomes: np.ndarray) -> dict:
    """Mean of n yes-or-no outcomes and its binomial standard error, sqrt(m (1 - m) / n)."""
    checks.outcomes(outcomes)
    mean, n = float(np.mean(outcomes)), len(outcomes)
    return {"mean": mean, "standard_error": (mean * (1 - mean) / n) ** 0.5, "n": n}


def across_seeds(rows: list[dict], condition: str, **labels: object) -> dict:
    """Mean error under a condition of the networks with these labels, its standard deviation over
    n seeds.

    Parameters
    ----------
    rows : list of dict
        Each with its labels, and counts ``wrong`` and ``n`` by condition.
    condition : str
    **labels
        What a row must hold, ``method="none"`` for instance.

    Returns
    -------
    dict
        ``mean``, ``sd`` (None of one seed, both of none) and ``n``.
    """
    chosen = [
        row
        for row in checks.every(rows, "rows", dict)
        if all(_under(name, row, "label") == value for name, value in labels.items())
        and "wrong" in row
    ]
    errors = [_error(row, condition) for row in chosen]
    return {
        "mean": float(np.mean(errors)) if errors else None,
        "sd": float(np.std(errors, ddof=1)) if len(errors) > 1 else None,
        "n": len(errors),
    }


def choose(
    search: list[dict], conditions: Sequence[str], allowance: float = 0.01
) -> dict[str, dict]:
    """Of each method the setting with the lowest validation error, on average over the conditions,
    among those whose natural error is at most `allowance` above that of plain training (method
    ``"none"``); without any, that of the lowest natural error.
    """
    checks.number(allowance, "allowance")
    checks.every(conditions, "conditions", str)
    search = [row for row in checks.every(search, "search", dict) if "wrong" in row]
    plain = [_error(row, "natural") for row in search if row["method"] == "none"]
    limit, chosen = min(plain, default=float("inf")) + allowance, {}
    for row in sorted(search, key=lambda row: sum(_error(row, name) for name in conditions)):
        if _error(row, "natural") <= limit:
            chosen.setdefault(row["method"], row["setting"])
    for row in sorted(search, key=lambda row: _error(row, "natural")):
        chosen.setdefault(row["method"], row["setting"])
    return chosen


def _error(row: dict, condition: str) -> float:
    return _under(condition, row["wrong"], "condition") / row["n"][condition]


def _under(key: str, row: dict, name: str) -> Any:
    checks.option(key, name, tuple(row))
    return row[key]

"""Rows of networks made into numbers of a table."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest

from wdtr_lite import checks

__all__ = ["across_seeds", "choose", "paired", "summary"]


def summary(outcomes: np.ndarray) -> dict:
    """Mean of n yes-or-no outcomes and its binomial standard error, sqrt(m (1 - m) / n)."""
    checks.outcomes(outcomes)
    if not np.isin(outcomes, (0, 1)).all():
        raise ValueError(f"outcomes must be 0 or 1, got {checks.shown(outcomes.tolist())}")
    mean, n = float(np.mean(outcomes, dtype=np.float64)), len(outcomes)
    return {"mean": mean, "standard_error": (mean * (1 - mean) / n) ** 0.5, "n": n}


def paired(first: np.ndarray, second: np.ndarray) -> dict:
    r"""The difference of two means of yes-or-no outcomes of the same n images.

    With b images on which only the first says yes and c on which only the second does,

    .. math:: d = \frac{b - c}{n}, \qquad s = \frac1n \sqrt{b + c - (b - c)^2 / n}

    The p-value is that of the exact test of McNemar: of b among b + c even odds.

    Returns
    -------
    dict
        ``difference`` d and its ``standard_error`` s, ``only_first`` b, ``only_second`` c,
        ``p_value`` and ``n``.

    Examples
    --------
    >>> import numpy as np
    >>> from wdtr_lite.study.statistics import paired
    >>> one, other = np.array([True, True, True, False]), np.array([False, False, True, False])
    >>> paired(one, other)["difference"]
    0.5

    References
    ----------
    McNemar (1947).
    """
    for name, outcomes in (("first", first), ("second", second)):
        checks.outcomes(outcomes, name)
        if outcomes.dtype != bool:
            raise TypeError(f"{name} must be bool, got {outcomes.dtype}")
    if first.shape != second.shape:
        raise ValueError(f"first and second must be as long, got {len(first)} and {len(second)}")
    b, c, n = int((first & ~second).sum()), int((second & ~first).sum()), len(first)
    return {
        "difference": (b - c) / n,
        "standard_error": (b + c - (b - c) ** 2 / n) ** 0.5 / n,
        "only_first": b,
        "only_second": c,
        "p_value": float(binomtest(b, b + c).pvalue) if b + c else 1.0,
        "n": n,
    }


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
    errors = [
        _error(row, f"rows[{k}]", condition, "condition")
        for k, row in enumerate(checks.every(rows, "rows", dict))
        if all(
            _same(_under(name, checks.some(row, f"rows[{k}]", dict), "label"), value, name)
            for name, value in labels.items()
        )
        and "wrong" in row
    ]
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
    allowance = checks.number(allowance, "allowance")
    checks.every(checks.some(conditions, "conditions"), "conditions", str)
    found = [
        _Found(
            checks.held(row, f"search[{k}]", "method", str),
            checks.held(row, f"search[{k}]", "setting", dict),
            _error(row, f"search[{k}]", "natural", "a condition"),
            sum(_error(row, f"search[{k}]", each, "conditions") for each in conditions),
        )
        for k, row in enumerate(checks.every(search, "search", dict))
        if "wrong" in row
    ]
    plain = [each.natural for each in found if each.method == "none"]
    if allowance < 1 and not plain:  # errors are at most 1
        methods = sorted({each.method for each in found})
        raise ValueError(
            "search must hold errors of plain training, method 'none', which "
            f"allowance={allowance!r} is added to, got those of {checks.shown(methods)}"
        )
    rounding = 1e-9  # errors of so many images differ by more
    limit, chosen = min(plain, default=0.0) + allowance + rounding, {}
    for each in sorted(found, key=lambda each: each.errors):
        if each.natural <= limit:
            chosen.setdefault(each.method, each.setting)
    for each in sorted(found, key=lambda each: each.natural):
        chosen.setdefault(each.method, each.setting)
    return chosen


class _Found(NamedTuple):
    method: str
    setting: dict[str, Any]
    natural: float  # error
    errors: float  # summed over the conditions


def _error(row: dict, name: str, condition: str, argument: str) -> float:
    wrong, counts = (checks.held(row, name, part, dict) for part in ("wrong", "n"))
    checks.some(wrong, f"{name}['wrong']", dict)
    errors = _under(condition, wrong, argument)
    n = checks.held(counts, f"{name}['n']", condition)
    n = checks.whole(n, f"{name}['n'][{condition!r}]")
    return checks.whole(errors, f"{name}['wrong'][{condition!r}]", 0, n) / n


def _same(held: object, value: object, name: str) -> bool:
    try:
        return bool(held == value)
    except (RuntimeError, ValueError) as error:
        raise TypeError(f"{name} must be one value, got {checks.shown(value)}") from error


def _under(key: str, row: dict, name: str) -> Any:
    checks.option(key, name, tuple(row))
    return row[key]

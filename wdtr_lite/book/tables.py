"""Measured numbers as text, and tables of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from IPython.display import Markdown

from wdtr_lite.book.reports import rate

__all__ = ["mean_error", "mean_sd", "percent", "search_table", "table"]


def mean_error(values: np.ndarray, places: int = 1, *, sign: str = "") -> str:
    """Mean ± standard error of n measured numbers, to `places` digits; ``sign="+"`` shows the sign
    of the mean always.
    """
    error = values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():{sign}.{places}f} ± {error:.{places}f}"


def mean_sd(values: Sequence[float] | np.ndarray, places: int = 1) -> str:
    """Mean ± standard deviation of numbers measured over seeds, to `places` digits; of one number,
    the number.
    """
    spread = f" ± {np.std(values, ddof=1):.{places}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{places}f}{spread}"


def percent(found: Mapping, places: int = 1) -> str:
    """A rate of :func:`~wdtr_lite.study.across_seeds` in percent: mean ± standard deviation over
    seeds, or "not run".
    """
    if found["mean"] is None:
        return "not run"
    spread = "" if found["sd"] is None else f" ± {100 * found['sd']:.{places}f}"
    return f"{100 * found['mean']:.{places}f}{spread}"


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], forms: Sequence[str] = ()
) -> Markdown:
    """A table of measured numbers as Markdown, numbers aligned to the right.

    Parameters
    ----------
    header : sequence of str
    rows : sequence of rows
        A cell is a text, a number, a tuple of a number and its error, or None of what was not run.
    forms : sequence of str
        How the numbers of each column are formatted, ``".2f"`` for instance; "" where it ends.
    """
    forms = [*forms, *[""] * (len(header) - len(forms))]
    body = [[_cell(*each) for each in zip(row, forms, strict=True)] for row in rows]
    lines = [[_cell(name) for name in header], ["---", *["--:"] * (len(header) - 1)], *body]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def search_table(
    search: Iterable[Mapping],
    names: Mapping[str, str],
    told: Callable[[Mapping], str],
    conditions: Mapping[str, str],
    corner: str = "trained",
) -> Markdown:
    """Every setting that was tried, as it is told, with its errors under some conditions, in
    percent. Methods and conditions have their names by those of the rows.
    """
    lines = [
        [names[row["method"]], told(row["setting"]) or "–", *(rate(row, c) for c in conditions)]
        for row in search
    ]
    forms = ["", "", *[".1f"] * len(conditions)]
    return table([corner, "setting", *conditions.values()], lines, forms)


def _cell(value: object, form: str = "") -> str:
    if value is None:
        return "not run"
    if isinstance(value, tuple):
        return " ± ".join(format(number, form) for number in value)
    return value.replace("|", r"\|") if isinstance(value, str) else format(value, form)

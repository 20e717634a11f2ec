"""A claim of the paper with its verdict, and what the verdicts are made of."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["NO", "NOT_CLAIMED", "OPEN", "PARTLY", "YES", "Claim", "Printed", "mark", "strokes"]

YES, PARTLY, NO, OPEN = "✔", "~", "✘", "?"
NOT_CLAIMED = "(Not claimed, but needed.)"


class Claim(NamedTuple):
    """What the paper says, in its words or shorter; whether it repeats, and in words; a number of
    the paper's, ours; the label of the place that has more, and the rule of the mark.
    """

    says: str
    verdict: str
    words: str
    paper: str
    ours: str
    place: str
    rule: str


def mark(holds: bool, otherwise: str = NO) -> str:
    """That it repeats, or otherwise."""
    return YES if holds else otherwise


def strokes(texts: Iterable[str]) -> str:
    """The texts with strokes between them."""
    return " / ".join(texts)


class Printed:
    """What a chapter's stored outputs print. A test runs the chapters again and compares."""

    def __init__(self, path: Path):
        outputs = [
            output
            for cell in json.loads(path.read_text())["cells"]
            for output in cell.get("outputs", [])
        ]
        texts = (out.get("text") or out.get("data", {}).get("text/markdown", "") for out in outputs)
        self.name, self.text = path.name, "\n".join("".join(text) for text in texts)

    def row(self, table: str, name: str) -> list[float]:
        """The numbers of the row of this name, of the table whose first heading this is; nan for
        texts.
        """
        inside = False
        for line in self.text.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            inside = line.startswith("|") and (inside or cells[0] == table)
            if inside and cells[0] == name:
                return [_number(cell) for cell in cells]
        raise ValueError(f"{self.name} prints no row {name!r} of a table {table!r}")


def _number(cell: str) -> float:
    try:
        return float(cell.split(" ±")[0].replace(",", ""))
    except ValueError:
        return float("nan")

"""The table of equations is complete, and what it and the table of symbols name exists."""

import ast
import re
from functools import reduce
from pathlib import Path

import pytest
import yaml

import wdtr_lite

ROOT = Path(__file__).resolve().parent.parent
TABLE = (ROOT / "book" / "equations.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TABLE.splitlines()
    if line.startswith("| ") and "---" not in line
][1:]
CHAPTERS = [
    chapter["file"]
    for part in yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    for chapter in part["chapters"]
    if part.get("numbered")
]
REQUIRED = [
    *(f"({k})" for k in range(1, 9)),
    *(f"Appendix B ({k})" for k in ("i", "ii", "iii", "iv", "v")),
    *(
        "Definition 1",
        "Definition 2",
        "Theorem 1",
        "Example 2",
        "Example 3",
        "Example 4",
        "Algorithm 1",
    ),
]


@pytest.mark.parametrize("item", REQUIRED)
def test_every_formula_of_the_paper_has_a_row(item):
    assert any(re.match(re.escape(item) + r"(?![\w(])", row[0]) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_row_names_what_exists(row):
    _, verdict, chapter, function, test = row
    reduce(getattr, function.strip("`").split("."), wdtr_lite)
    file, name = test.strip("`").split("::")
    defined = ast.parse((ROOT / "tests" / file).read_text()).body
    assert name in [node.name for node in defined if isinstance(node, ast.FunctionDef)]
    number, page = re.fullmatch(r"{doc}`(\d+) <(\w+)>`", chapter).groups()
    assert CHAPTERS[int(number) - 1] == f"book/{page}"
    assert verdict


def test_notation_names_what_exists():
    named = re.findall(r"`(\w+(?:\.\w+)+)`", (ROOT / "book" / "notation.md").read_text())
    assert named
    for name in named:
        reduce(getattr, name.split("."), wdtr_lite)

"""The table of equations is complete, and what it and the table of symbols name exists."""

import ast
import re
from functools import reduce
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional as F

import wdtr_lite
from wdtr_lite import PixelGraph, metric, regularizer

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


def test_every_row_says_whether_it_holds():
    verdicts = [row[1] for row in ROWS]
    assert sum(verdict.startswith("**no**") for verdict in verdicts) == 13
    assert sum(verdict.startswith("*repaired*") for verdict in verdicts) == 2
    for row in ROWS:
        repaired = "repaired" in row[0] or row[0].startswith("the same")
        assert row[1].startswith("*repaired*") == repaired


def test_outputs_of_a_softmax_are_not_separate():
    """Each output's own term, summed, is the theorem's for separate losses alone."""
    graph, y = PixelGraph(2, 3, radius=1).to(dtype=torch.float64), torch.tensor([3])
    generator = torch.Generator().manual_seed(0)
    x, V, common = (
        torch.rand(size, generator=generator, dtype=torch.float64)
        for size in ((1, 1, 2, 3), (10, 6), (1, 6))
    )
    V = V + 3 * common  # what all logits share does not change a softmax

    def logits(images):
        return images.flatten(1) @ V.T

    def softmax(outputs, y):
        return F.cross_entropy(outputs, y, reduction="none")

    def separate(outputs, y):
        targets = F.one_hot(y, 10).to(outputs)
        return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(1)

    norms = metric.grad_norm_sq(graph, x.expand(10, 1, 2, 3), V.view(10, 1, 2, 3))
    for loss, slopes in ((softmax, logits(x).softmax(1)), (separate, logits(x).sigmoid())):
        found = float(regularizer.second_order_expansion(loss, logits, graph, x, y).gradient)
        own = float((slopes * (1 - slopes) * norms).sum())
        if loss is separate:
            assert found == pytest.approx(own / 10)
        else:
            assert own > 2 * found

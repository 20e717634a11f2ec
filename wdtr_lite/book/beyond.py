"""What chapter 12 opens with: the questions of its sections and their answers."""

import json
from pathlib import Path

from IPython.display import Markdown

__all__ = ["SECTIONS", "answers"]

SECTIONS = (
    "blind_direction",
    "laplace_beltrami",
    "transport_ball",
    "certificate",
    "ground_metric",
    "critic",
)
"""The chapter's pages, in their order."""


def answers(book: Path) -> Markdown:
    """Of each section the question it opens with and its answer, as its page has them.

    Parameters
    ----------
    book : Path
        The folder of the chapters.
    """
    lines = []
    for name in SECTIONS:
        title, question, answer = _opening(book / f"{name}.ipynb")
        lines.append(f"- {{doc}}`{title} <{name}>`. *{question}* {answer}")
    return Markdown("\n".join(lines))


def _opening(page: Path) -> tuple[str, str, str]:
    """The title; the last sentence of what follows it, a question; the first bold paragraph."""
    cells = json.loads(page.read_text())["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    title, opening = texts[0].removeprefix("# ").split("\n", 1)
    question = opening.split(". ")[-1].replace("*", "").strip()
    return title, question, next(text for text in texts if text.startswith("**")).strip("*\n")

"""Chapter 12's first page: its sections and what they answer."""

import json
import re
from pathlib import Path

import yaml

from wdtr_lite.book import beyond

BOOK = Path(__file__).parents[1] / "book"


def test_the_sections_are_those_of_the_contents():
    toc = yaml.safe_load((BOOK.parent / "_toc.yml").read_text())
    chapters = [entry for part in toc["parts"] for entry in part["chapters"]]
    (chapter,) = (entry for entry in chapters if entry["file"] == "book/beyond")
    listed = [each["file"] for each in chapter["sections"]]
    assert listed == [f"book/{name}" for name in beyond.SECTIONS]


def test_each_section_asks_and_answers():
    lines = beyond.answers(BOOK).data.splitlines()
    assert len(lines) == len(beyond.SECTIONS)
    for name, line in zip(beyond.SECTIONS, lines, strict=True):
        question = re.fullmatch(rf"- {{doc}}`.+ <{name}>`\. \*([^*]+)\?\* [^*]+", line)
        assert question and len(question[1]) > 20


def test_the_verdict_has_the_sections_numbers():
    cells = json.loads((BOOK / "beyond.ipynb").read_text())["cells"]
    verdict = "".join(cells[1]["source"])
    answers = beyond.answers(BOOK).data
    numbers = re.findall(r"\d+ to \d+ %|\d+\.\d|\d+ nats|\d+ %", verdict)
    assert len(numbers) == 4
    for number in numbers:
        assert number in answers

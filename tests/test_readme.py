"""What the README and the reference show prints what they say, as typed into a bare interpreter."""

import contextlib
import doctest
import importlib
import io
import re
from pathlib import Path

import pytest
from test_package import CORE

from wdtr_lite.book import verdict

README = Path(__file__).parent.parent / "README.md"


def test_example_prints_what_it_says():
    text = README.read_text()
    code, expected = (
        re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)[1] for kind in ("python", "text")
    )
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue() == expected


def test_verdict_is_that_of_the_results():
    assert verdict.text(Path("book")) in README.read_text()


def test_every_number_of_the_verdict_has_a_label_to_lead_to():
    """Those of figures are in the cells' metadata, the others above their headings."""
    book = README.parent / "book"
    places = re.findall(r"{ref}`[^<]+<([\w-]+)>`", verdict.text(book, labels=True))
    assert len(places) > 8 and "](book/training.ipynb)" in verdict.text(Path("book"))
    chapters = "".join(path.read_text() for path in book.glob("*.ipynb"))
    for label in places:
        assert f'"name": "{label}"' in chapters or f"({label})=" in chapters


def test_links_lead_to_files():
    for target in re.findall(r"\]\(([^)#]+)", README.read_text()):
        assert target.startswith("http") or (README.parent / target).exists(), target


@pytest.mark.parametrize("module", CORE)
def test_reference_examples_need_no_names_of_the_module(module):
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    loaded = importlib.import_module(f"wdtr_lite.{module}")
    for name in loaded.__all__:
        for example in finder.find(getattr(loaded, name), name, globs={}):
            runner.run(example)
    assert runner.tries > 0 and runner.failures == 0

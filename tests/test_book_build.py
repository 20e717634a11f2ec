"""What the book's own extensions make of a page, and what follows from the address of the
repository.
"""

import base64
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import pytest
import yaml
from docutils import nodes
from docutils.utils import new_document

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = "https://github.com/someone/somewhere"
PAGE = "interpolation"


@pytest.fixture(scope="module")
def module():
    """`module(name)`: one of `book/_ext` or `tools`."""
    folders = [str(ROOT / "book" / "_ext"), str(ROOT / "tools")]
    sys.path[:0] = folders
    yield importlib.import_module
    for folder in folders:
        sys.path.remove(folder)


# ---------------------------------------------------------------- symbols


@pytest.fixture(scope="module")
def symbols(module):
    return module("symbols")


@pytest.fixture(scope="module")
def table(symbols):
    known, clashes = symbols.read((ROOT / "book" / "notation.md").read_text())
    assert clashes == []  # no symbol has two meanings
    return known


def test_the_table_of_notation_is_read(table):
    assert len(table) > 80
    assert all(name and said for name, said in table.values())
    assert not [said for _, said in table.values() if re.search(r"[\\`]|\$", said)]


@pytest.mark.parametrize(
    ("formula", "names"),
    [
        (r"L(x)", ["L(x)"]),
        (r"\eta^2 L(x)", ["η", "L(x)"]),
        (r"r = 8", ["r"]),
        (r"x_t", ["x_t"]),
        (r"x_{t}", ["x_t"]),
        (r"\varepsilon_{\mathrm S} = 5", ["ε_S"]),
        (r"g^\T L(x)\, g", ["gᵀ L(x) g"]),
        (r"\|\nabla_W f\|_W^2", ["‖ ∇_W f ‖_W²"]),
        (r"l''", ["l''"]),
        (r"\begin{aligned} &r \\[-1ex] &+ \delta \text{ with } \end{aligned}", ["r", "δ"]),
        (r"\sum_{b=1}^{B} \xi", ["B", "ξ"]),
        # with another index, accent or font it is another symbol
        (r"x_b", []),
        (r"\bar y", []),
        (r"\mathrm{g}", []),
        (r"L_x", []),
        (r"1 + 2", []),
    ],
)
def test_symbols_of_a_formula(symbols, table, formula, names):
    lines = symbols.tooltip(formula, table).splitlines()
    assert [line.partition(": ")[0] for line in lines] == names


def test_tooltip_says_meaning_code_and_unit(symbols, table):
    said = symbols.tooltip(r"\W_2", table)
    assert "Wasserstein distance" in said
    assert "wasserstein_distance" in said and said.endswith("unit: pixel")


@pytest.mark.parametrize("formula", [nodes.math, nodes.math_block])
def test_a_formula_is_explained_in_a_line_and_displayed(symbols, table, formula):
    page = new_document("page")
    page += formula("", r"\W_2")
    symbols.explain(SimpleNamespace(symbols=table), page, "page")
    assert isinstance(page[0], symbols.symbol) and isinstance(page[0][0], formula)
    assert page[0]["title"] == symbols.tooltip(r"\W_2", table)
    writer = SimpleNamespace(body=[])
    page[0]["title"] = "W: <1>\nx: 2"
    symbols.visit_symbol(writer, page[0])
    kind = "span" if formula is nodes.math else "div"
    assert writer.body == [f'<{kind} class="symbol" title="W: &lt;1&gt;&#10;x: 2">']


def test_two_meanings_are_found(symbols):
    table = "| $x$ | an image | `x` | – | – |\n| $y$, $x$ | a label | – | – | – |\n"
    assert len(symbols.read(table)[1]) == 1


# ---------------------------------------------------------------- letters in pictures


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_picture_tells_its_letters(module, tmp_path, kind, monkeypatch):
    from matplotlib.backend_bases import FigureCanvasBase

    monkeypatch.setattr(FigureCanvasBase, "print_figure", FigureCanvasBase.print_figure)
    pictures, _ = module("pictures"), module("lettering")
    figure, axes = plt.subplots(figsize=(5, 3))
    axes.text(0, 0, "small", fontsize=6.5)
    axes.text(0, 0, "hidden", fontsize=2, visible=False)
    path = tmp_path / f"picture.{kind}"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    assert pictures.measures(path.name, tmp_path) == pytest.approx((5, 6.5), rel=1e-3)
    assert pictures.legible_width(5, 6.5) == 499  # 9 px letters


def test_a_picture_without_that_is_taken_for_the_books_frames(module, tmp_path):
    from PIL import Image

    path = tmp_path / "frame.png"
    Image.new("L", (180, 10)).save(path)
    data = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    assert module("pictures").measures(data, "") == (2, 9)


# ---------------------------------------------------------------- the address of the repository


def test_one_line_has_the_address(module):
    (line,) = re.findall(r"^repository: .*$", (ROOT / "_config.yml").read_text(), re.MULTILINE)
    assert module("notebooks").address() == yaml.safe_load(line)["repository"]["url"].rstrip("/")


def test_launch_cell_follows_the_address(module):
    tool = module("notebooks")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title")])
    for address, count in [(ADDRESS, 2), (ADDRESS, 2), ("", 1)]:
        notebook = tool.with_launch_cell(notebook, address)
        nbformat.validate(notebook)
        assert len(notebook.cells) == count
    cell = tool.with_launch_cell(notebook, ADDRESS).cells[1]
    assert ADDRESS in cell.source and cell.metadata.tags == ["remove-cell"]


def test_stored_notebooks_have_it_if_and_only_if_the_address_is_known(module):
    tool = module("notebooks")
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        before = [cell.source for cell in notebook.cells]
        after = [cell.source for cell in tool.with_launch_cell(notebook, tool.address()).cells]
        assert before == after, path.stem


def test_launch_cell_on_colab_and_elsewhere(module, monkeypatch):
    cell = compile(module("notebooks").LAUNCH_CELL.format(address=ADDRESS), "cell", "exec")
    commands, folders = [], []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.setattr(os, "chdir", folders.append)
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec(cell, {})
    assert commands == [] and folders == []
    monkeypatch.setitem(sys.modules, "google.colab", object())
    exec(cell, {})
    assert [ADDRESS in commands[0], "pip" in commands[1]] == [True, True]
    assert folders == ["/content/book/book"] and sys.path[0] == "/content/book"


@pytest.fixture(scope="module")
def built_with_address(tmp_path_factory):
    """A chapter and a page of the book, built with an address."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    tool = [sys.executable, ROOT / "tools" / "notebooks.py", "stage", source]
    subprocess.run(tool, check=True)
    config = (source / "_config.yml").read_text()
    assert 'url: ""' in config or ADDRESS not in config
    config = re.sub(r'url: "[^"]*"', f'url: "{ADDRESS}"', config, count=1)
    config = config.replace("      - api_pages\n", "")  # there are none here
    (source / "_config.yml").write_text(config)
    toc = {"format": "jb-book", "root": "book/notation", "chapters": [{"file": f"book/{PAGE}"}]}
    (source / "_toc.yml").write_text(yaml.dump(toc))
    build = [Path(sys.prefix, "bin", "jupyter-book"), "build", "-q", source, "--path-output"]
    subprocess.run([*build, folder], check=True, capture_output=True)
    return folder / "_build" / "html" / "book"


def test_buttons_follow_from_the_address(built_with_address):
    page = (built_with_address / f"{PAGE}.html").read_text()
    found = set(re.findall(r'href="(https://[^"]*)"', page))
    colab = "https://colab.research.google.com/github/someone/somewhere/blob/main"
    assert f"{colab}/book/{PAGE}.ipynb" in found
    binder = "https://mybinder.org/v2/gh/someone/somewhere/main"
    assert f"{binder}?urlpath=lab/tree/book/{PAGE}.ipynb" in found
    assert f"{ADDRESS}/edit/main/book/{PAGE}.ipynb" in found
    assert f"{ADDRESS}/blob/main/book/{PAGE}.ipynb" in found
    assert any(link.startswith(f"{ADDRESS}/issues/new") for link in found)
    plain = (built_with_address / "notation.html").read_text()
    assert "colab" not in plain and f"{ADDRESS}/edit/main/book/notation.md" in plain


def test_a_formula_of_a_page_has_its_tooltip(built_with_address):
    page = (built_with_address / f"{PAGE}.html").read_text()
    assert re.search(r'<span class="symbol" title="[^"]*interpolat[^"]*"><span class="math', page)

"""The stored notebooks: executed in order, free of errors, without traces of their machine."""

import ast
import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PATHS = sorted((ROOT / "book").glob("*.ipynb"))
MACHINE_PATH = re.compile(r"/(root|home|work|tmp|Users)/")


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def images(cell):
    return [
        data
        for output in cell.outputs
        for kind, data in output.get("data", {}).items()
        if kind.startswith("image/")
    ]


def test_there_are_notebooks():
    assert PATHS


def test_is_valid_and_small(path, notebook):
    nbformat.validate(notebook)
    assert path.stat().st_size < 3_000_000


def test_is_in_the_table_of_contents(path):
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [entry for part in toc["parts"] for entry in part["chapters"]]
    sections = [each for entry in chapters for each in entry.get("sections", [])]
    listed = [toc["root"], *(entry["file"] for entry in [*chapters, *sections])]
    assert f"book/{path.stem}" in listed


def test_was_executed_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_has_no_errors_and_nothing_on_stderr(notebook):
    kinds = [output.get("name", output.output_type) for output in outputs(notebook)]
    assert "error" not in kinds
    assert "stderr" not in kinds


def test_holds_no_traces_of_its_run(path, notebook):
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.language_info == {"name": "python"}
    for cell in notebook.cells:
        assert not {"papermill", "execution"} & cell.metadata.keys()
        assert "injected-parameters" not in cell.metadata.get("tags", [])
    assert not MACHINE_PATH.search(path.read_text())


def test_uses_no_private_name_of_the_package(notebook):
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            reached = [node.attr] if isinstance(node, ast.Attribute) else []
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wdtr_lite"):
                reached = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            assert not [name for name in reached if name[0] == "_"], cell.source


def test_parameters_are_the_documented_constants(notebook):
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    constants = {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in ast.parse(tagged[0].source).body
    }
    assert constants == {"profile": "quick", "seed": 0}


def test_pictures_have_alt_text(notebook):
    for cell in code_cells(notebook):
        if images(cell):
            assert cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "").strip(), (
                cell.source[:200]
            )


# ---------------------------------------------------------------- the kernel they run on


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Where another python3 is found, which fails."""
    spec = tmp_path / "elsewhere" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    told = {"argv": ["false", "{connection_file}"], "display_name": "other", "language": "python"}
    spec.write_text(json.dumps(told))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "elsewhere"))
    return tmp_path


def test_they_are_executed_by_this_environment(elsewhere):
    source, executed = elsewhere / "source.ipynb", elsewhere / "executed.ipynb"
    cell = nbformat.v4.new_code_cell("import sys; print(sys.prefix)")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), source)
    tool = [sys.executable, ROOT / "tools" / "notebooks.py"]
    subprocess.run([*tool, "run", source, executed], check=True, capture_output=True)
    (output,) = outputs(nbformat.read(executed, as_version=4))
    assert output.text.strip() == sys.prefix


def test_make_tests_and_shows_them_in_this_environment(elsewhere):
    code = "import jupyter_client.kernelspec as k; print(k.get_kernel_spec('python3').resource_dir)"
    probe = f'probe: ; @"{sys.executable}" -c "{code}"'
    made = subprocess.run(
        ["make", "--silent", f"--eval={probe}", "probe"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert Path(made.stdout.strip()) == ROOT / ".venv" / "share" / "jupyter" / "kernels" / "python3"


# ---------------------------------------------------------------- the figures of the README


def test_readme_figures_are_those_of_the_introduction():
    notebook = nbformat.read(ROOT / "book" / "intro.ipynb", as_version=4)
    drawn = {
        tag.removeprefix("figure:"): cell
        for cell in notebook.cells
        for tag in cell.metadata.get("tags", [])
        if tag.startswith("figure:")
    }
    for name, cell in drawn.items():
        (picture,) = images(cell)
        stored = (ROOT / "book" / "figures" / f"{name}.png").read_bytes()
        assert stored == base64.b64decode(picture)
    shown = re.findall(r"book/figures/(\w+)\.png", (ROOT / "README.md").read_text())
    assert shown and set(shown) <= set(drawn)

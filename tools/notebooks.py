"""Execute the book's notebooks with papermill, store their outputs, stage the book's sources.

    python tools/notebooks.py run SRC DST [name=value ...]   execute SRC, write the result to DST
    python tools/notebooks.py store SRC ...                  execute with the defaults, in place
    python tools/notebooks.py stage DST [EXECUTED]           copy the sources, executed where newer

Nothing is written unless every cell ran. Where _config.yml has the address of the repository, each
notebook's first code cell fetches the package on Colab and Binder; where it has none, none does.
"""

import ast
import base64
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError, strip_color

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "book" / "figures"  # the outputs of cells tagged figure:NAME
RUN_METADATA = {"papermill", "execution", "ExecuteTime"}  # times and paths
LETTERING = f"__import__('runpy').run_path({str(ROOT / 'tools' / 'lettering.py')!r})"
LAUNCH = "launch"  # the id of the cell below
LAUNCH_CELL = """\
# On Colab and Binder: the book and its package. Elsewhere nothing happens.
import importlib.util
import os
import subprocess
import sys

if "google.colab" in sys.modules and not os.path.isdir("/content/book"):
    address = "{address}"
    clone = ["git", "clone", "-q", "--depth=1", address, "/content/book"]
    subprocess.run(clone, check=True)
    install = [sys.executable, "-m", "pip", "install", "-q"]
    extras = "/content/book[book,attack]"
    subprocess.run([*install, "-e", extras], check=True)
    os.chdir("/content/book/book")
    sys.path.insert(0, "/content/book")
elif importlib.util.find_spec("wdtr_lite") is None:
    sys.path.insert(0, os.path.abspath(".."))"""
CALL = re.compile(r"File |Cell |-+> ")  # the lines of IPython's tracebacks that say where


class NotebookError(Exception):
    """What stopped a chapter, said in a few lines."""


def address():
    """The repository's, as _config.yml has it; empty while it is not known."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    return (config.get("repository", {}).get("url") or "").rstrip("/")


def with_launch_cell(notebook, address):
    """The notebook with the cell for Colab and Binder after its title, or without it."""
    notebook.cells = [cell for cell in notebook.cells if cell.get("id") != LAUNCH]
    if address:
        cell = nbformat.v4.new_code_cell(LAUNCH_CELL.format(address=address), id=LAUNCH)
        cell.metadata["tags"] = ["remove-cell"]
        notebook.cells.insert(1, cell)
    return notebook


def execute(source, parameters):
    """The executed notebook, without what belongs to the run only."""
    defaults = {
        name: ast.literal_eval(info["default"])
        for name, info in papermill.inspect_notebook(str(source)).items()
    }
    if unknown := parameters.keys() - defaults.keys():
        known = ", ".join(defaults) or "no parameters"
        raise NotebookError(
            f"{source.stem}: no parameter named {', '.join(sorted(unknown))}; it has {known}"
        )
    changed = {name: value for name, value in parameters.items() if value != defaults[name]}
    kernels = str(Path(sys.prefix, "share", "jupyter"))  # of this environment, before any other
    os.environ.update(WDTR_WIDGETS="static", OMP_NUM_THREADS="1", JUPYTER_PATH=kernels)
    running = {}
    try:
        notebook = papermill.execute_notebook(
            with_launch_cell(nbformat.read(source, as_version=4), address()),
            None,
            changed,
            kernel_name="python3",
            cwd=source.parent,
            progress_bar=False,
            coalesce_streams=True,  # how often a cell's output was flushed is chance
            extra_arguments=[
                "--IPKernelApp.log_level=CRITICAL",  # it warns of its unencrypted local socket
                f"--IPKernelApp.exec_lines={LETTERING}",
            ],
            on_cell_start=lambda **cell: running.update(cell),
        )
    except PapermillExecutionError as error:
        raise NotebookError(failure(source, running, summary(error.traceback))) from None
    except DeadKernelError:
        raise NotebookError(
            failure(source, running, ["the kernel died: killed, or out of memory?"])
        ) from None
    return strip(notebook)


def failure(source, running, details):
    first_line = running["cell"].source.strip().partition("\n")[0]
    return "\n    ".join(
        [f"{source.stem}: cell {running['cell_index'] + 1} failed: {first_line}", *details]
    )


def summary(traceback):
    """The last calls, one line each, and the error."""
    calls = [
        line for line in strip_color("\n".join(traceback[:-1])).splitlines() if CALL.match(line)
    ]
    return [*calls[-8:], *strip_color(traceback[-1]).splitlines()[-6:]]


def strip(notebook):
    """Remove times, paths and machine details, which would change a stored notebook."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        for key in RUN_METADATA & cell.metadata.keys():
            del cell.metadata[key]
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
    return notebook


def write(path, content):
    """Replace the file in one step, and leave it alone where nothing changed."""
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def run(source, destination, parameters):
    start = time.perf_counter()
    notebook = execute(source, parameters)
    write(destination, nbformat.writes(notebook).encode() + b"\n")
    print(f"executed {source.stem} in {time.perf_counter() - start:.0f} s", flush=True)
    return notebook


def store(source):
    notebook = run(source, source, {})
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            kind, _, name = tag.partition(":")
            if kind == "figure":
                picture = base64.b64decode(cell.outputs[-1].data["image/png"])
                write(FIGURES / f"{name}.png", picture)


def stage(destination, executed):
    """A tree for jupyter-book; what did not change is left, since Sphinx goes by its times."""
    sources = [ROOT / "_config.yml", ROOT / "_toc.yml", *(ROOT / "book").rglob("*")]
    staged = set()
    for source in sources:
        name = source.relative_to(ROOT)
        if not source.is_file() or any(part.startswith((".", "__")) for part in name.parts):
            continue
        copy = executed and executed / source.name
        if copy and copy.exists() and copy.stat().st_mtime > source.stat().st_mtime:
            source = copy
        write(destination / name, source.read_bytes())
        staged.add(destination / name)
    for old in destination.rglob("*"):
        if old.is_file() and old not in staged:
            old.unlink()


def main(command, *arguments):
    if command == "run":
        source, destination, *settings = arguments
        pairs = (setting.split("=", 1) for setting in settings)
        parameters = {name: int(value) if value.isdigit() else value for name, value in pairs}
        run(Path(source).resolve(), Path(destination).resolve(), parameters)
    elif command == "store":
        for source in arguments:
            store(Path(source).resolve())
    elif command == "stage":
        destination, *executed = (Path(argument).resolve() for argument in arguments)
        stage(destination, *(executed or [None]))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except NotebookError as error:
        sys.exit(str(error))

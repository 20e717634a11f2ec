"""The package as a whole: who may import whom, what importing costs, what a public name owes its
reader.
"""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import wdtr_lite

ROOT = Path(wdtr_lite.__file__).parent
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
# From the ground up: a floor imports from its own and those below.
FLOORS = [
    {"checks"},
    {"graph", "data"},
    {"transport", "metric", "noise", "calculus", "kernels"},
    {"models", "attacks", "evaluation", "regularizer"},
    {"training"},
    {"study"},
    {"book", "__main__"},
]
LEVEL = {room: level for level, floor in enumerate(FLOORS) for room in floor}
HOME = Path(__file__).parents[1]
AROUND = [path for room in ("tests", "benchmarks") for path in sorted((HOME / room).rglob("*.py"))]
OURS = {"wdtr_lite"} | {path.stem for path in AROUND}
CORE = sorted(room for room, level in LEVEL.items() if 0 < level < LEVEL["study"])
PUBLIC = {"_fields", "_replace"}  # a named tuple's own
TORCHS_OWN = {
    "_backward_hooks",
    "_buffers",
    "_forward_pre_hooks",
    "_overloadpacket",
    "_post_accumulate_grad_hooks",
    "_schema",
}


@pytest.fixture(params=FILES, ids=str)
def file(request):
    return request.param


@pytest.fixture
def tree(file):
    return ast.parse(FILES[file].read_text())


def imported(tree):
    """The dotted names that a file imports from the package when it runs."""
    skipped = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in skipped:
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import) and node not in skipped:
            yield from (alias.name for alias in node.names)


def room(file):
    return file.partition("/")[0].removesuffix(".py")


def rooms_below(tree):
    names = (name.split(".") for name in imported(tree))
    homes = {"PixelGraph": "graph", "GradientPenalty": "regularizer"}
    return {homes.get(name[1], name[1]) for name in names if name[0] == "wdtr_lite"}


def test_there_is_a_floor_for_every_room():
    assert {room(file) for file in FILES} == LEVEL.keys() | {"__init__"}


def test_imports_go_downwards(file, tree):
    above = {name for name in rooms_below(tree) if LEVEL[name] > LEVEL.get(room(file), -1)}
    assert not above


def test_rooms_do_not_import_each_other():
    below = {name: set() for name in LEVEL}
    for file, path in FILES.items():
        if room(file) in below:
            below[room(file)] |= rooms_below(ast.parse(path.read_text())) - {room(file)}
    while below:
        ground = {name for name, others in below.items() if not others & below.keys()}
        assert ground, f"in a circle: {below}"
        below = {name: others for name, others in below.items() if name not in ground}


@pytest.mark.parametrize(
    "path", [*FILES.values(), *AROUND], ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_no_private_name_crosses_a_file(path):
    tree = ast.parse(path.read_text())
    private = {
        name
        for name in imported(tree)
        if name.partition(".")[0] in OURS and "._" in name.replace("__", "")
    }
    foreign = {"self", "cls", "super()"} | {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if (getattr(node, "module", None) or alias.name).partition(".")[0] not in OURS
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr[0] == "_" and node.attr[:2] != "__":
            owner = ast.unparse(node.value)
            if owner.partition(".")[0] not in foreign and node.attr not in PUBLIC | TORCHS_OWN:
                private.add(f"{owner}.{node.attr}")
    assert not private


def test_is_short(file):
    assert len(FILES[file].read_text().splitlines()) <= 400


# ---------------------------------------------------------------- what importing costs


def printed(code):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert result.stderr == ""
    return result.stdout.split()


def test_the_package_loads_what_is_used():
    """Alone nothing; with a graph and a penalty nothing beyond torch; the core without the book's
    libraries and what only some data sets and measurements need.
    """
    show = "print(*{name.partition('.')[0] for name in sys.modules} - before - {'wdtr_lite'});"
    alone = printed(f"import sys; before = {{*sys.modules}}; import wdtr_lite; {show}")
    assert not set(alone) - sys.stdlib_module_names
    before = "import sys, torch; before = {name.partition('.')[0] for name in sys.modules};"
    used = printed(f"{before} from wdtr_lite import PixelGraph, GradientPenalty; {show}")
    assert not set(used) - sys.stdlib_module_names
    core = ", ".join(f"wdtr_lite.{name}" for name in CORE)
    unwanted = {"matplotlib", "ipywidgets", "IPython", "mlxtend", "pyautoattack", "distributed"}
    loaded = printed(f"import sys, {core}; print(*sys.modules)")
    assert not unwanted & {name.partition(".")[0] for name in loaded}
    assert not {"wdtr_lite.study", "wdtr_lite.book"} & set(loaded)


# ---------------------------------------------------------------- public names


def test_the_package_is_typed():
    assert (ROOT / "py.typed").exists()


def public_names(module):
    """Those of a module or a folder; of a folder without ``__all__``, those of its modules."""
    loaded = importlib.import_module(module)
    assert loaded.__doc__, module
    if hasattr(loaded, "__all__"):
        return [f"{module}.{name}" for name in loaded.__all__]
    inside = pkgutil.iter_modules(getattr(loaded, "__path__", []))
    return [name for info in inside for name in public_names(f"{module}.{info.name}")]


@pytest.mark.parametrize("name", sorted(LEVEL.keys() - {"__main__"}))
def test_public_names_have_a_text(name):
    for public in public_names(f"wdtr_lite.{name}"):
        module, _, last = public.rpartition(".")
        thing = getattr(importlib.import_module(module), last)
        assert not callable(thing) or thing.__doc__, public


def test_the_package_names_its_rooms():
    rooms = set(wdtr_lite.__all__) - {"PixelGraph", "GradientPenalty"}
    assert rooms == LEVEL.keys() - {"checks", "__main__"}
    for name in wdtr_lite.__all__:
        assert getattr(wdtr_lite, name).__doc__


def test_texts_repeat_nothing(tree):
    """What `checks` refuses and where things are taught is said elsewhere, once."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node) or ""
            assert "Taught in" not in text
            raised = text.partition("Raises\n------\n")[2].partition("\n\n")[0].splitlines()
            assert not {"TypeError", "ValueError"} & {*raised}, node.name

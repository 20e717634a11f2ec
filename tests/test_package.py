"""The package as a whole: what importing it costs, and what every public name owes its reader."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import wdtr_lite

CORE = ["data", "transport", "graph", "metric", "noise", "calculus", "regularizer"]
CORE += ["models", "attacks", "train", "robustness"]


def test_the_core_imports_without_the_book():
    """Neither matplotlib nor ipywidgets, nor what only mnist5k needs, is imported with the package."""
    code = (
        f"import sys, wdtr_lite, {', '.join(f'wdtr_lite.{module}' for module in CORE)};"
        "print([m for m in ('matplotlib', 'ipywidgets', 'IPython', 'mlxtend') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]" and result.stderr == ""


def test_the_package_is_typed():
    assert (Path(wdtr_lite.__file__).parent / "py.typed").exists()


def test_the_package_names_its_modules():
    assert set(CORE) <= set(wdtr_lite.__all__)
    for name in wdtr_lite.__all__:
        assert getattr(wdtr_lite, name).__doc__


def public_names():
    modules = sorted(
        path.stem for path in Path(wdtr_lite.__file__).parent.glob("*.py") if path.stem[0] != "_"
    )
    for module in modules:
        loaded = importlib.import_module(f"wdtr_lite.{module}")
        assert loaded.__doc__ and loaded.__all__, module
        for name in loaded.__all__:
            yield pytest.param(getattr(loaded, name, None), id=f"{module}.{name}")


@pytest.mark.parametrize("thing", list(public_names()))
def test_public_name(thing):
    """It exists and, a function or class, says where it is taught."""
    assert thing is not None
    if callable(thing):
        assert thing.__doc__ and "Taught in :doc:`" in thing.__doc__


@pytest.mark.parametrize("module", CORE)
def test_all_lists_every_public_name(module):
    loaded = importlib.import_module(f"wdtr_lite.{module}")
    defined = {
        name
        for name, thing in vars(loaded).items()
        if name[0] != "_"
        and callable(thing)
        and getattr(thing, "__module__", None) == loaded.__name__
    }
    assert set(loaded.__all__) == defined

"""The API pages: every public name under the name that users import it by.

A public name that is on no page is a warning, so that a `-W` build fails.
"""

import importlib
import pkgutil

from sphinx.util import logging

import wdtr_lite

logger = logging.getLogger(__name__)


def public_names(module):
    """What a module or a folder exports; of a folder without ``__all__``, what
    its modules do."""
    if hasattr(module, "__all__"):
        return {f"{module.__name__}.{name}" for name in module.__all__}
    inside = pkgutil.iter_modules(getattr(module, "__path__", []))
    names = (f"{module.__name__}.{info.name}" for info in inside)
    return set().union(*map(public_names, map(importlib.import_module, names)))


def check_complete(app, env):
    documented = env.get_domain("py").objects
    for info in pkgutil.iter_modules(wdtr_lite.__path__):
        if info.name.startswith("_"):
            continue
        page = f"book/api/{info.name}"
        if page not in env.found_docs:
            logger.warning("%s.md is not there, or not in _toc.yml", page)
        module = importlib.import_module(f"wdtr_lite.{info.name}")
        for name in sorted(public_names(module) - documented.keys()):
            logger.warning("%s is public and not on %s", name, page)


def find_by_home(app, env, node, contnode):
    """A reference by the file that defines a name leads to the folder that
    exports it."""
    if node.get("refdomain") != "py":
        return None
    top, _, rest = node["reftarget"].removeprefix("wdtr_lite.").partition(".")
    target = f"wdtr_lite.{top}.{rest.partition('.')[2]}"
    return env.get_domain("py").resolve_xref(
        env,
        node["refdoc"],
        app.builder,
        node["reftype"],
        target,
        node,
        contnode,
    )


def skip_tuple_fields(app, what, name, member, skip, options):
    """The fields of a NamedTuple say "Alias for field number 0": its class's
    docstring says more."""
    return True if type(member).__name__ == "_tuplegetter" else None


def setup(app):
    app.connect("env-check-consistency", check_complete)
    app.connect("missing-reference", find_by_home)
    app.connect("autodoc-skip-member", skip_tuple_fields)
    return {"parallel_read_safe": True}

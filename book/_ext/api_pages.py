"""The API pages: warn of every public name that none documents, so that a `-W` build fails."""

import importlib
import pkgutil

from sphinx.util import logging

import wdtr_lite

logger = logging.getLogger(__name__)


def check_complete(app, env):
    documented = env.get_domain("py").objects
    modules = [info.name for info in pkgutil.iter_modules(wdtr_lite.__path__) if not info.name.startswith("_")]
    for name in modules:
        if f"book/api/{name}" not in env.found_docs:
            logger.warning("wdtr_lite.%s has no page book/api/%s.md in _toc.yml", name, name)
        for public in getattr(importlib.import_module(f"wdtr_lite.{name}"), "__all__", []):
            if f"wdtr_lite.{name}.{public}" not in documented:
                logger.warning("wdtr_lite.%s.%s is public and on no API page: has it a docstring?", name, public)
    last_parts = {name.rpartition(".")[2] for name in documented}
    for public in getattr(wdtr_lite, "__all__", []):
        if public not in last_parts:
            logger.warning("wdtr_lite.%s is public and on no API page", public)


def skip_tuple_fields(app, what, name, member, skip, options):
    """The fields of a NamedTuple say "Alias for field number 0": its class's docstring says more."""
    return True if type(member).__name__ == "_tuplegetter" else None


def setup(app):
    app.connect("env-check-consistency", check_complete)
    app.connect("autodoc-skip-member", skip_tuple_fields)
    return {"parallel_read_safe": True}

"""Warn of every public name of the package that no API page documents: under `-W` the build fails."""

import importlib
import pkgutil

from sphinx.util import logging

import wdtr_lite

logger = logging.getLogger(__name__)


def check_api_pages(app, env):
    documented = env.get_domain("py").objects
    for info in pkgutil.iter_modules(wdtr_lite.__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"wdtr_lite.{info.name}")
        if f"book/api/{info.name}" not in env.found_docs:
            logger.warning("wdtr_lite.%s has no page book/api/%s.md in _toc.yml", info.name, info.name)
        for name in getattr(module, "__all__", []):
            if f"{module.__name__}.{name}" not in documented:
                logger.warning("%s.%s is public and on no API page: has it a docstring?", module.__name__, name)
    last_parts = {name.rpartition(".")[2] for name in documented}
    for name in getattr(wdtr_lite, "__all__", []):
        if name not in last_parts:
            logger.warning("wdtr_lite.%s is public and on no API page", name)


def setup(app):
    app.connect("env-check-consistency", check_api_pages)
    return {"parallel_read_safe": True}

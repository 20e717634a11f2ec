"""The book's experiments: grids of networks, what is asked of them, and the results.

The core never imports it. Each experiment is a file of this folder, found by itself.
"""

from importlib import import_module
from pkgutil import iter_modules

from wdtr_lite.study.files import found, network, path_of, stored
from wdtr_lite.study.questions import ATTACKS
from wdtr_lite.study.results import (
    declared,
    describe,
    network_minutes,
    progress,
    provenance,
    run,
)
from wdtr_lite.study.spec import EXPERIMENTS
from wdtr_lite.study.statistics import across_seeds, choose, summary

__all__ = [
    "ATTACKS",
    "EXPERIMENTS",
    "across_seeds",
    "choose",
    "declared",
    "describe",
    "found",
    "network",
    "network_minutes",
    "path_of",
    "progress",
    "provenance",
    "run",
    "stored",
    "summary",
]

_FIRST = """
nearest_neighbours label_keeping robust_digits table1 table2 figure2 photographs
units stress variation tradeoff blind_direction laplace_beltrami transport_ball ground_metric critic
certificate
"""  # in the order of the book, others after them

for _name in dict.fromkeys([*_FIRST.split(), *(module.name for module in iter_modules(__path__))]):
    import_module(f"{__name__}.{_name}")

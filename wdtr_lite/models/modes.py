"""A network's layers set otherwise for a while: evaluation mode, attributes held.

Threads may hold the same layers at once: the first that comes keeps what was there, the last that
goes puts it back.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from wdtr_lite import checks
from wdtr_lite.models.registry import Classifier

_LOCK = threading.Lock()
_HELD: WeakKeyDictionary[nn.Module, dict[str, list]] = WeakKeyDictionary()
"""Of each layer that is held, by attribute: what it was, and how many hold it."""


@contextmanager
def evaluating(model: Classifier) -> Iterator[None]:
    """The model in evaluation mode, afterwards each of its modules as before."""
    checks.function(model, "model")
    with held({layer: {"training": False} for layer in layers(model)}):
        yield


@contextmanager
def held(changes: Mapping[nn.Module, Mapping[str, Any]]) -> Iterator[None]:
    """Attributes of layers as given, afterwards as before."""
    with _LOCK:
        for layer, values in changes.items():
            known = _HELD.setdefault(layer, {})
            for name in values:
                known.setdefault(name, [vars(layer)[name], 0])[1] += 1
            vars(layer).update(values)
    try:
        yield
    finally:
        with _LOCK:
            for layer, values in changes.items():
                for name in values:
                    _release(layer, name)


def _release(layer: nn.Module, name: str) -> None:
    before, holders = _HELD[layer].pop(name)
    if holders > 1:
        _HELD[layer][name] = [before, holders - 1]
    else:
        vars(layer)[name] = before


def layers(model: Classifier) -> list[nn.Module]:
    """The modules of a model; none of a function."""
    return list(model.modules()) if isinstance(model, nn.Module) else []

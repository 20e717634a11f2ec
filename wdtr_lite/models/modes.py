"""A network's layers set otherwise for a while: evaluation mode, attributes held.

Threads may hold the same layers at once: what was there is put back when the last of them goes.
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
"""Of each layer that is held, by attribute: what it was, then all that it is held at."""


@contextmanager
def evaluating(model: Classifier) -> Iterator[None]:
    """The model in evaluation mode, afterwards each of its modules as before."""
    checks.function(model, "model")
    with held({layer: {"training": False} for layer in layers(model)}):
        yield


@contextmanager
def held(changes: Mapping[nn.Module, Mapping[str, Any]]) -> Iterator[None]:
    """Attributes of layers as given, afterwards as before."""
    values = [(layer, *each) for layer, given in changes.items() for each in given.items()]
    with _LOCK:
        for layer, name, value in values:  # all are read first: one may be another's, compiled
            known = _HELD.setdefault(layer, {}).setdefault(name, [getattr(layer, name)])
            known.append(value)
        for layer, name, value in values:
            setattr(layer, name, value)
    try:
        yield
    finally:
        with _LOCK:
            for layer, name, value in values:
                known = _HELD[layer][name]
                del known[max(k for k, each in enumerate(known) if k and each is value)]
                setattr(layer, name, known[-1])
                if len(known) == 1:
                    del _HELD[layer][name]


def own(layer: nn.Module, name: str) -> Any:
    """An attribute as it is where nobody holds it."""
    with _LOCK:
        return _HELD.get(layer, {}).get(name, [getattr(layer, name)])[0]


def layers(model: Classifier) -> list[nn.Module]:
    """The modules of a model; none of a function."""
    return list(model.modules()) if isinstance(model, nn.Module) else []

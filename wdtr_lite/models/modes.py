"""A network's layers set otherwise for a while: evaluation mode, attributes held.

Of the layers in training mode, which may be set otherwise, one thread at a time is the user. Others
wait in turn for as long as it evaluates; itself it may take them again.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from threading import Condition, get_ident
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from wdtr_lite import checks
from wdtr_lite.models.registry import Classifier

_LOCK = Condition()
_USERS: WeakKeyDictionary[nn.Module, list[int]] = WeakKeyDictionary()
"""Of each layer in use its thread, once for each use."""
_WAITING: dict[int, set[nn.Module]] = {}
"""The layers for which threads wait, by thread, who came first in front."""
_HELD: WeakKeyDictionary[nn.Module, dict[str, list]] = WeakKeyDictionary()
"""Of each layer that is held, by attribute: what it was, then all that it is held at."""


@contextmanager
def evaluating(model: Classifier) -> Iterator[None]:
    """The model in evaluation mode, afterwards each of its modules as before."""
    checks.function(model, "model")
    with used(model) as training, held({layer: {"training": False} for layer in training}):
        yield


@contextmanager
def used(model: Classifier) -> Iterator[list[nn.Module]]:
    """The layers of a model in training mode, which no other thread uses meanwhile."""
    training, me = [layer for layer in layers(model) if own(layer, "training")], get_ident()
    with _LOCK:
        _wait(me, set(training))
        for layer in training:
            _USERS.setdefault(layer, []).append(me)
    try:
        yield training
    finally:
        with _LOCK:
            for layer in training:
                _USERS[layer].remove(me)
                if not _USERS[layer]:
                    del _USERS[layer]
            _LOCK.notify_all()


def _wait(me: int, wanted: set[nn.Module]) -> None:
    """For the threads that use these layers, and those that came before and wait for them."""
    inside = any(me in users for users in _USERS.values())

    def others() -> set[int]:
        return {_USERS[layer][0] for layer in wanted if layer in _USERS} - {me}

    def next_in_turn() -> bool:
        ahead = takewhile(me.__ne__, () if inside else _WAITING)
        return not others() and all(wanted.isdisjoint(_WAITING[thread]) for thread in ahead)

    if inside and others() & set(_WAITING):
        raise RuntimeError("two threads, each evaluating a model, wait for that of the other")
    _WAITING[me] = wanted
    try:
        _LOCK.wait_for(next_in_turn)
    finally:
        del _WAITING[me]


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

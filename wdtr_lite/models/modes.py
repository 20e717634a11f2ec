"""A network's layers set otherwise for a while: evaluation mode, attributes held.

Of the layers in training mode, which may be set otherwise, one thread at a time is the user. Others
wait in turn for as long as it evaluates; itself it may take them again. Evaluations share them,
also those of threads that an evaluation starts and waits for: an attack may have its own. A penalty
in such a thread would wait for ever, and is refused.
"""

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from threading import Condition, RLock, current_thread, get_ident, main_thread
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from wdtr_lite import checks
from wdtr_lite.models.registry import Classifier

LOOK = 0.1  # seconds after which a thread that waits looks again for whom
PATIENCE = 300  # looks in a row at which nobody of these is at work, until it gives up

_LOCK = RLock()
_CHANGED = Condition(_LOCK)
_USERS: WeakKeyDictionary[Any, list[tuple[int, object]]] = WeakKeyDictionary()
"""Of each layer in use its threads and with whom they share it, once for each use."""
_WAITING: dict[int, set] = {}
"""The layers for which threads wait, by thread, who came first in front."""
_BEGUN = [0]  # uses so far
_TRAINED: WeakKeyDictionary[nn.Module, tuple[int, int]] = WeakKeyDictionary()
"""Of each layer whose parameters are trained the thread, and in how many trainings."""
_HELD: WeakKeyDictionary[Any, dict[str, list]] = WeakKeyDictionary()
"""Of each layer or hook that is held, by attribute: what it was, then all that it is held at."""
_SWITCHED: dict[nn.Module, tuple[int, ExitStack]] = {}
"""Of each model that its own method put into evaluation mode: how often, and what puts it back."""


@contextmanager
def evaluating(model: Classifier) -> Iterator[None]:
    """The model in evaluation mode, afterwards each of its modules as before. Where a module's
    ``train`` does more than set the attribute, by that.
    """
    checks.function(model, "model")
    acts = any(map(_acts, layers(model)))
    with used(model, *layers(model), sharing=model if acts else evaluating) as training:
        off = {layer: {"training": False} for layer in training}
        with _switched(model) if acts and training else held(off):
            yield


@contextmanager
def trained(model: nn.Module) -> Iterator[None]:
    """The model trained by this thread, in one training or in several that take turns."""
    me = get_ident()
    learning = [layer for layer in layers(model) if _learns(layer)]

    def begin() -> None:
        if any(_TRAINED.get(layer, (me, 0))[0] != me for layer in learning):
            raise RuntimeError(
                "model is being trained in another thread: give each training its own copy"
            )
        for layer in learning:
            _TRAINED[layer] = me, _TRAINED.get(layer, (me, 0))[1] + 1

    def end() -> None:
        for layer in learning:
            _, count = _TRAINED.pop(layer)
            if count > 1:
                _TRAINED[layer] = me, count - 1

    with _between(begin, end):
        yield


@contextmanager
def used(model: Classifier, *more: object, sharing: object = None) -> Iterator[list[nn.Module]]:
    """The layers of a model in training mode, which no other thread uses meanwhile, nor `more`;
    but for those that share them in the same sense. Of a model in evaluation mode none, all of
    which evaluations share, but which no other thread puts into training mode meanwhile.
    """
    training, use, wanted = _in_training(model), (0, sharing), set()

    def wait() -> None:
        nonlocal training, use, wanted
        asked = None
        while training != asked:  # the mode as it is when the turn has come
            asked = training
            still = sharing is None and not (training or more)
            use = get_ident(), evaluating if still else sharing
            wanted = {*(training or layers(model)), *more}
            _wait(use, wanted)
            training = _in_training(model)

    def begin() -> None:
        _BEGUN[0] += 1
        for each in wanted:
            _USERS.setdefault(each, []).append(use)

    def end() -> None:
        for each in wanted:
            _USERS[each].remove(use)
            if not _USERS[each]:
                del _USERS[each]
        _CHANGED.notify_all()

    with _between(begin, end, wait):
        yield training


def _in_training(model: Classifier) -> list[nn.Module]:
    return [layer for layer in layers(model) if own(layer, "training")]


def _wait(use: tuple[int, object], wanted: set) -> None:
    """For the threads that use these layers, and those that came before and wait for them."""
    me, sharing = use
    inside = any(thread == me for users in list(_USERS.values()) for thread, _ in users)

    def users(*, sharers: bool) -> set[int]:
        found = (user for each in wanted for user in _USERS.get(each, ()))
        return {thread for thread, sense in found if (sense is sharing is not None) == sharers}

    def next_in_turn() -> bool:
        first = inside or users(sharers=True)
        ahead = takewhile(me.__ne__, () if first else _WAITING)
        free = users(sharers=False) <= {me}
        return free and all(wanted.isdisjoint(_WAITING[thread]) for thread in ahead)

    if inside and (users(sharers=False) - {me}) & set(_WAITING):
        raise RuntimeError("two threads, each evaluating a model, wait for that of the other")
    idle, begun = 0, _BEGUN[0]
    try:
        _WAITING[me] = wanted
        while not _CHANGED.wait_for(next_in_turn, LOOK):
            idle = idle + 1 if begun == _BEGUN[0] and _stuck(me, set()) else 0
            begun = _BEGUN[0]
            if idle == PATIENCE:
                raise RuntimeError(
                    "another thread evaluates model or takes a penalty of it, and waits for a "
                    "thread meanwhile, for this one it seems: let an attack take penalties of "
                    "model, or evaluate parts of it, in the thread that called it, or with a copy"
                )
    finally:
        _WAITING.pop(me, None)


def _stuck(thread: int, seen: set[int]) -> bool:
    """Whether it waits for threads of which none is at work, here or for something else."""
    if thread in seen:
        return True
    seen.add(thread)
    if thread not in _WAITING:
        return _blocked(thread)
    wanted = _WAITING[thread]
    ahead = takewhile(thread.__ne__, _WAITING)
    users = {user for each in wanted for user, _ in _USERS.get(each, ())}
    users |= {other for other in ahead if not wanted.isdisjoint(_WAITING[other])}
    return all(_stuck(user, seen) for user in users)


def _blocked(thread: int) -> bool:
    """Whether it has ended, or is in Python's own waiting for a thread, a queue or an event."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return True
    waits = frame.f_globals.get("__name__") in ("threading", "selectors")
    return waits and frame.f_code.co_name != "__enter__"  # of a lock, which is short


@contextmanager
def _switched(model: Any) -> Iterator[None]:
    """In evaluation mode by its own method, called for the first thread and undone for the last."""

    def begin() -> None:
        uses, back = _SWITCHED.get(model, (0, ExitStack()))
        if not uses:
            back.enter_context(_switching(model))
        _SWITCHED[model] = uses + 1, back

    def end() -> None:
        uses, back = _SWITCHED.pop(model)
        if uses > 1:
            _SWITCHED[model] = uses - 1, back
        else:
            back.close()

    with _between(begin, end):
        yield


@contextmanager
def _switching(model: Any) -> Iterator[None]:
    modes = {layer: layer.training for layer in layers(model)}
    try:
        model.eval()
    finally:
        found = {layer: {"training": layer.training} for layer in modes}
        for layer, mode in modes.items():
            layer.training = mode
    with held(found):
        try:
            yield
        finally:
            for layer, mode in modes.items():  # parents first, whose method moves those within
                if layer.training != mode:
                    layer.train(mode)


def _acts(layer: nn.Module) -> bool:
    """Whether it does more than note the mode, by a method of its own."""
    methods = ((getattr(layer, name), getattr(nn.Module, name)) for name in ("train", "eval"))
    return any(getattr(found, "__func__", None) is not plain for found, plain in methods)


@contextmanager
def held(changes: Mapping[Any, Mapping[str, Any]]) -> Iterator[None]:
    """Attributes of layers, or of their hooks, as given, afterwards as before."""
    values = [(layer, *each) for layer, given in changes.items() for each in given.items()]

    def begin() -> None:
        for layer, name, value in values:  # all are read first: one may be another's, compiled
            known = _HELD.setdefault(layer, {}).setdefault(name, [getattr(layer, name)])
            known.append(value)
        for layer, name, value in values:
            setattr(layer, name, value)

    def end() -> None:
        for layer, name, value in values:
            known = _HELD[layer][name]
            del known[max(k for k, each in enumerate(known) if k and each is value)]
            setattr(layer, name, known[-1])
            if len(known) == 1:
                del _HELD[layer][name]

    with _between(begin, end):
        yield


@contextmanager
def _between(
    begin: Callable[[], None], end: Callable[[], None], wait: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Something begun, under the lock, and ended. An interrupt comes before or after, not within;
    while it waits too.
    """
    begun = False

    def finish() -> None:
        nonlocal begun
        with _uninterrupted(), _LOCK:
            _WAITING.pop(get_ident(), None)  # where the wait was interrupted at its end
            if begun:
                begun = False
                end()

    try:
        try:
            with _LOCK:
                wait()
                with _uninterrupted():
                    begin()
                    begun = True
            yield
        finally:
            finish()
    except BaseException:  # an interrupt may have come before that
        finish()
        raise


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """An interrupt (Ctrl-C), which the main thread gets at any point, comes after this."""
    handler = signal.getsignal(signal.SIGINT)
    if current_thread() is not main_thread() or not callable(handler):
        yield
        return
    came = []
    signal.signal(signal.SIGINT, lambda *event: came.append(event))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(*came[0])


def _learns(layer: nn.Module) -> bool:
    return any(p.requires_grad for p in layer.parameters(recurse=False))


def own(layer: nn.Module, name: str) -> Any:
    """An attribute as it is where nobody holds it."""
    with _LOCK:
        return _HELD.get(layer, {}).get(name, [getattr(layer, name)])[0]


def layers(model: Classifier) -> list[nn.Module]:
    """The modules of a model; none of a function."""
    return list(model.modules()) if isinstance(model, nn.Module) else []

"""The arithmetic of a step, and torch's settings of it as they were before.

The settings are the process's own: threads whose steps need the same ones share them, others take
turns, and the last one out leaves them as the first one found them.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Condition, get_ident
from typing import Any

import torch
from torch.backends import cudnn

_LOCK = Condition()
_INSIDE: list[tuple[int, bool]] = []
"""Of each step its thread, and whether it is in TF32."""
_BEFORE: list[tuple[int, ExitStack]] = []
"""The settings to go back to, once no more steps are inside than were then."""


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """float32 as it is written, TF32 in the GPU's products, or bfloat16 in the network; repeatable
    convolutions.
    """
    tf32 = precision == "tf32" and device.type == "cuda"
    bfloat16 = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with _set(tf32), bfloat16:
        try:
            yield
        finally:
            # Within a caller's autocast the weights as cast for one step would stay for the next.
            torch.clear_autocast_cache()


@contextmanager
def _set(tf32: bool) -> Iterator[None]:
    me = get_ident()
    with _LOCK:
        _LOCK.wait_for(lambda: all(other == tf32 for thread, other in _INSIDE if thread != me))
        if all(thread == me for thread, _ in _INSIDE):
            with ExitStack() as before:
                before.enter_context(_restored_by_operation())
                before.enter_context(_restored())
                torch.set_float32_matmul_precision("high" if tf32 else "highest")
                cudnn.enabled, cudnn.benchmark, cudnn.deterministic = True, False, True
                cudnn.allow_tf32 = tf32
                _BEFORE.append((len(_INSIDE), before.pop_all()))
        _INSIDE.append((me, tf32))
    try:
        yield
    finally:
        with _LOCK:
            _INSIDE.remove((me, tf32))
            while _BEFORE and _BEFORE[-1][0] >= len(_INSIDE):
                _BEFORE.pop()[1].close()
            _LOCK.notify_all()


@contextmanager
def _restored() -> Iterator[None]:
    flags = cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32
    products = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = flags
        torch.set_float32_matmul_precision(products)


@contextmanager
def _restored_by_operation() -> Iterator[None]:
    """The settings that torch has since 2.9, which inherit from each other. Where the older ones
    say otherwise torch refuses to read these, so within they agree.
    """
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        yield
        return
    mkldnn, convolutions = backends.mkldnn, [backends.cudnn.conv, backends.cudnn.rnn]
    parents = [backends, backends.cudnn, mkldnn]
    products = [backends.cuda.matmul, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]
    before = []
    try:
        for setting in parents + products + convolutions:
            before.append((setting, setting.fp32_precision))
            setting.fp32_precision = "none"  # nothing inherits from it
        try:
            _ = cudnn.allow_tf32
        except RuntimeError:
            for setting in convolutions:
                setting.fp32_precision = "tf32"
        yield
    finally:
        for setting, value in reversed(before):
            setting.fp32_precision = value

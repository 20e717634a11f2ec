"""What the layers ask of tensors and of autograd."""

from typing import Any

import torch
from torch import Tensor, nn

_REAL = torch.float32, torch.float64, torch.bfloat16, torch.float16


def ordinary(v: Any) -> bool:
    """Whether it is a dense, real tensor of torch's own class, or none at all."""
    return v is None or (
        type(v) in (Tensor, nn.Parameter)
        and v.layout == torch.strided
        and not (v.is_nested or v.is_meta)
        and v.dtype in _REAL
        and v.numel() > 0
    )


def plain(*tensors: Tensor | None) -> bool:
    """Ordinary tensors, one of them with derivatives, and those by autograd alone."""
    tracked = all(map(ordinary, tensors)) and any(
        v is not None and v.requires_grad for v in tensors
    )
    return tracked and not transformed()


def transformed() -> bool:
    """Whether ``torch.func`` or forward-mode derivatives are at work."""
    levels = torch.autograd.forward_ad._current_level
    return torch._C._are_functorch_transforms_active() or levels >= 0


def integers(values: Any) -> bool:
    """A tuple or list of Python's own."""
    return isinstance(values, (tuple, list)) and set(map(type, values)) <= {int}


def inner(v: Any) -> Any:
    """A leaf as a node of autograd's graph, of the same strides: only of these can :func:`wanted`
    ask.
    """
    return v[...] if v is not None and v.requires_grad and v.is_leaf else v


def wanted(ctx: Any, k: int) -> bool:
    """Whether this backward pass needs the derivative in the k-th argument: a pass to the input
    alone needs none in the weights.
    """
    node = ctx.next_functions[k][0] if ctx.needs_input_grad[k] else None
    return node is not None and torch._C._will_engine_execute_node(node)


def batched(v: Tensor) -> bool:
    """Whether it stands for several gradients at once, as with ``is_grads_batched`` and within
    ``torch.func.vmap``: then autograd keeps no graph of a function of ours.
    """
    kinds = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    return kinds.is_batchedtensor(v) or kinds.is_legacy_batchedtensor(v)


def checkpointed() -> bool:
    """Whether this is a pass of activation checkpointing, the first one or its repetition."""
    autograd = torch._C._autograd  # pyright: ignore[reportAttributeAccessIssue]
    top = getattr(autograd, "_top_saved_tensors_default_hooks", None)  # from torch 2.8 on
    hooks = top(True) if top else None
    return hooks is not None and hooks[0].__module__ == "torch.utils.checkpoint"

"""What the layers ask of tensors and of autograd."""

from typing import Any

import torch
from torch import Tensor, nn


def plain(*tensors: Tensor | None) -> bool:
    """Dense tensors of torch's own class, one of them with derivatives."""
    return any(v is not None and v.requires_grad for v in tensors) and all(
        v is None
        or (type(v) in (Tensor, nn.Parameter) and v.layout == torch.strided and v.numel() > 0)
        for v in tensors
    )


def inner(v: Any) -> Any:
    """A leaf as a node of autograd's graph: only of these can :func:`wanted` ask."""
    return v.view_as(v) if v is not None and v.requires_grad and v.is_leaf else v


def wanted(ctx: Any, k: int) -> bool:
    """Whether this backward pass needs the derivative in the k-th argument: a pass to the input
    alone needs none in the weights.
    """
    node = ctx.next_functions[k][0] if ctx.needs_input_grad[k] else None
    return node is not None and torch._C._will_engine_execute_node(node)

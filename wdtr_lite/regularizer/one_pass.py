"""One backward pass for two derivatives: that in the images, wanted at once, and that in the
weights, wanted when training's backward pass comes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from wdtr_lite.calculus.derivatives import autograd_nodes


def gradient_and_values(values: Tensor, leaf: Tensor) -> tuple[Tensor | None, Tensor]:
    """The gradient in `leaf` of the sum of the values (B,), and the values with their derivative in
    the weights, which for equal weights of the images is known then.
    """
    nodes = autograd_nodes(values)
    weights = [node.variable for node in nodes if hasattr(node, "variable")]
    weights = [w for w in weights if w is not leaf]
    if any(w._backward_hooks for w in weights):  # which would see the pass, and may change it
        weights = []
    gradient, *known = torch.autograd.grad(
        values.sum(), [leaf, *weights], retain_graph=True, allow_unused=True
    )
    return gradient, _Known.apply((values, known), *weights) if weights else values


class _Known(Function):
    @staticmethod
    def forward(ctx: Any, pair: tuple[Tensor, list[Tensor]], *weights: Tensor) -> Tensor:
        ctx.values, ctx.known = pair
        ctx.save_for_backward(*weights)
        return ctx.values.detach()

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        create_graph = torch.is_grad_enabled()
        if not create_graph and bool((along == along[:1]).all()):
            return None, *(g if g is None else along[0] * g for g in ctx.known)
        return None, *torch.autograd.grad(
            ctx.values, ctx.saved_tensors, along, retain_graph=True,
            create_graph=create_graph, allow_unused=True,
        )  # fmt: skip

"""One backward pass for two derivatives: that in the images, wanted at once, and that in the
weights, wanted when training's backward pass comes.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.graph import Node

from wdtr_lite.calculus.derivatives import autograd_nodes
from wdtr_lite.kernels.nodes import batched

_number = methodcaller("_sequence_nr")


def next_number(leaf: Tensor) -> int:
    """The number that autograd's graph has reached in this thread."""
    return _number(leaf.view_as(leaf).grad_fn)


def gradient_and_value(
    value: Tensor, leaf: Tensor, start: int, linear: Callable[[], bool]
) -> tuple[Tensor | None, Tensor]:
    """The gradient in `leaf` of the sum of a value of each image, (B,), and the value with its
    derivative in the weights: known already where all images will count alike, and the backward
    pass is `linear` in how much. Where weights are computed, others may ask for the derivative in
    them, or change it on its way: it goes their way. Transposing them, in the pass, which started
    at this number of autograd's, is no computation: every linear layer does.
    """
    nodes = list(autograd_nodes(value))
    weights = [w for node in nodes if (w := getattr(node, "variable", leaf)) is not leaf]
    hooks = any(w._backward_hooks for w in weights)  # which would see the pass, and may change it
    passed = range(start, next_number(leaf))
    computed = any(
        node.name() != "TBackward0" or _number(node) not in passed
        for node in _apart(nodes, leaf)
        if not hasattr(node, "variable")
    )
    if hooks or computed or not len(value):
        weights = []
    gradient, *known = torch.autograd.grad(
        value.sum(), [leaf, *weights], retain_graph=True, allow_unused=True
    )
    return gradient, _Known.apply((value, known, linear), *weights) if weights else value


def _apart(nodes: Iterable[Node], leaf: Tensor) -> Iterator[Node]:
    """The nodes from which no way leads to the leaf."""
    after, ways, left = defaultdict(list), set(), []
    for node in nodes:
        for before, _ in node.next_functions:
            after[before].append(node)
        if getattr(node, "variable", None) is leaf:
            left.append(node)
    while left:
        node = left.pop()
        if node not in ways:
            ways.add(node)
            left.extend(after[node])
    return (node for node in nodes if node not in ways)


class _Known(Function):
    @staticmethod
    def forward(ctx: Any, found: tuple, *weights: Tensor) -> Tensor:
        ctx.value, ctx.known, ctx.linear = found
        ctx.save_for_backward(*weights)
        return ctx.value.detach()

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        create_graph = torch.is_grad_enabled()
        whole = not (create_graph or batched(along)) and ctx.linear()
        if whole and bool((along == along[:1]).all()):
            return None, *(g if g is None else along[0] * g for g in ctx.known)
        return None, *torch.autograd.grad(
            ctx.value, ctx.saved_tensors, along, retain_graph=True,
            create_graph=create_graph, allow_unused=True,
        )  # fmt: skip

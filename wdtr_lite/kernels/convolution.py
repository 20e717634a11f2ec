"""Convolutions that differentiate into the three kernels that a library has of each."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from wdtr_lite.kernels.nodes import inner, plain, wanted

aten = torch.ops.aten


class _Convolution(Function):
    """y = w * x + b. With its two gradients, <gy, w * x> is linear in each of the three: each
    derivative of one of these functions is another of them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, how: tuple) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.how = how
        with torch.autocast(x.device.type, enabled=False):
            return aten.convolution(x, w, b, *how)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, w = ctx.saved_tensors
        gy = inner(gy)
        return (
            _InputGradient.apply(gy, w, x.detach(), ctx.how) if wanted(ctx, 0) else None,
            _WeightGradient.apply(gy, x, w.detach(), ctx.how) if wanted(ctx, 1) else None,
            gy.sum([d for d in range(gy.dim()) if d != 1]) if wanted(ctx, 2) else None,
            None,
        )


class _InputGradient(Function):
    @staticmethod
    def forward(ctx: Any, gy: Tensor, w: Tensor, x: Tensor, how: tuple) -> Tensor:
        ctx.save_for_backward(gy, w)
        ctx.how = how
        return _gradients(gy, x, w, how, 0)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        gy, w = ctx.saved_tensors
        v = inner(v)
        return (
            _Convolution.apply(v, w, None, ctx.how) if wanted(ctx, 0) else None,
            _WeightGradient.apply(gy, v, w.detach(), ctx.how) if wanted(ctx, 1) else None,
            None,
            None,
        )


class _WeightGradient(Function):
    @staticmethod
    def forward(ctx: Any, gy: Tensor, x: Tensor, w: Tensor, how: tuple) -> Tensor:
        ctx.save_for_backward(gy, x)
        ctx.how = how
        return _gradients(gy, x, w, how, 1)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        gy, x = ctx.saved_tensors
        v = inner(v)
        return (
            _Convolution.apply(x, v, None, ctx.how) if wanted(ctx, 0) else None,
            _InputGradient.apply(gy, v, x.detach(), ctx.how) if wanted(ctx, 1) else None,
            None,
            None,
        )


def _gradients(gy: Tensor, x: Tensor, w: Tensor, how: tuple, which: int) -> Tensor:
    """That of the input, or of the weight; of the other tensor the kernel looks at the shape."""
    mask = [which == 0, which == 1, False]
    return aten.convolution_backward(gy, x, w, None, *how, mask)[which]


def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    dims = weight.dim() - 2
    stride, dilation = _each(stride, dims), _each(dilation, dims)
    if isinstance(padding, str):
        around = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if padding == "same" and (any(n % 2 for n in around) or any(s != 1 for s in stride)):
            return None
        padding = [n // 2 if padding == "same" else 0 for n in around]
    how = (stride, _each(padding, dims), dilation, False, [0] * dims, groups)
    return _convolved(input, weight, bias, how)


def transposed(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor | None:
    dims = weight.dim() - 2
    lists = [_each(v, dims) for v in (stride, padding, dilation, output_padding)]
    return _convolved(input, weight, bias, (*lists[:3], True, lists[3], groups))


def _each(value: Any, dims: int) -> list[int]:
    """One number for each dimension."""
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


def _convolved(x: Tensor, w: Tensor, b: Tensor | None, how: tuple) -> Tensor | None:
    if not plain(x, w, b):
        return None
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
        x, w, b = x.to(dtype), w.to(dtype), None if b is None else b.to(dtype)
    if x.dim() == w.dim() - 1:  # one image without a batch
        return _Convolution.apply(inner(x)[None], inner(w), inner(b), how)[0]
    return _Convolution.apply(inner(x), inner(w), inner(b), how)

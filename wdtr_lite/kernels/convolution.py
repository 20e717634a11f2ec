"""Convolutions that differentiate into the three kernels that a library has of each."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from wdtr_lite.kernels.nodes import batched, inner, integers, plain, wanted

aten = torch.ops.aten


class _Convolution(Function):
    """y = w * x + b. With its two gradients, <gy, w * x> is linear in each of the three: each
    derivative of one of these functions is another of them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, how: tuple) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.how = how
        return _torchs(x, w, b, how)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, w = ctx.saved_tensors
        gy = inner(gy)
        return (
            _gradient(gy, w, x.detach(), ctx.how, 0) if wanted(ctx, 0) else None,
            _gradient(gy, x, w.detach(), ctx.how, 1) if wanted(ctx, 1) else None,
            gy.sum([d for d in range(gy.dim()) if d != 1]) if wanted(ctx, 2) else None,
            None,
        )


class _Gradient(Function):
    """That in x (which = 0), of gy and w, or that in w (which = 1), of gy and x."""

    @staticmethod
    def forward(
        ctx: Any, gy: Tensor, other: Tensor, like: Tensor, how: tuple, which: int
    ) -> Tensor:
        ctx.save_for_backward(gy, other)
        ctx.how, ctx.which = how, which
        return _torchs_gradient(gy, other, like, how, which)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        gy, other = ctx.saved_tensors
        v, how, which = inner(v), ctx.how, ctx.which
        convolution = _torchs if batched(v) else _Convolution.apply
        return (
            convolution(*_ordered(v, other, which), None, how) if wanted(ctx, 0) else None,
            _gradient(gy, v, other.detach(), how, 1 - which) if wanted(ctx, 1) else None,
            None,
            None,
            None,
        )


def _torchs(x: Tensor, w: Tensor, b: Tensor | None, how: tuple) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return aten.convolution(x, w, b, *how)


def _torchs_gradient(gy: Tensor, other: Tensor, like: Tensor, how: tuple, which: int) -> Tensor:
    x, w = _ordered(like, other, which)
    mask = [which == 0, which == 1, False]
    return aten.convolution_backward(gy, x, w, None, *how, mask)[which]


def _gradient(gy: Tensor, other: Tensor, like: Tensor, how: tuple, which: int) -> Tensor:
    found = _torchs_gradient if batched(gy) or batched(other) else _Gradient.apply
    return found(gy, other, like, how, which)


def _ordered(one: Tensor, other: Tensor, which: int) -> tuple[Tensor, Tensor]:
    """Input and weight, of which `one` is that one."""
    return (other, one) if which else (one, other)


def convolution(
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    if not _usual(dims, input, weight, bias):
        return None
    stride, dilation = _each(stride, dims), _each(dilation, dims)
    if isinstance(padding, str):
        padding = _around(padding, weight, stride, dilation)
    how = (stride, _each(padding, dims), dilation, False, [0] * dims, groups)
    return _convolved(input, weight, bias, how)


def transposed(
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor | None:
    if not _usual(dims, input, weight, bias):
        return None
    lists = [_each(v, dims) for v in (stride, padding, dilation, output_padding)]
    return _convolved(input, weight, bias, (*lists[:3], True, lists[3], groups))


def _usual(dims: int, x: Tensor, w: Tensor, b: Tensor | None) -> bool:
    return plain(x, w, b) and w.dim() == dims + 2 and x.dim() in (dims + 1, dims + 2)


def _each(value: Any, dims: int) -> list[int]:
    """One number for each dimension; none, if it is not plainly that."""
    values = (value,) if type(value) is int else value
    if not integers(values) or len(values) not in (1, dims):
        return []
    return list(values) * (dims // len(values))


def _around(padding: str, w: Tensor, stride: list[int], dilation: list[int]) -> list[int]:
    """The numbers that a name of torch's stands for; none, if these are not plain numbers."""
    if padding == "valid":
        return [0] * (w.dim() - 2)
    both = [d * (k - 1) for d, k in zip(dilation, w.shape[2:], strict=False)]
    even = all(n % 2 == 0 for n in both) and all(s == 1 for s in stride)
    return [n // 2 for n in both] if padding == "same" and even else []


def _convolved(x: Tensor, w: Tensor, b: Tensor | None, how: tuple) -> Tensor | None:
    *lists, _, output_padding, groups = how
    if not all([*lists, output_padding]) or type(groups) is not int:
        return None
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x, w, b = (_cast(v, torch.get_autocast_dtype(kind)) for v in (x, w, b))
    if len({v.dtype for v in (x, w, b) if v is not None}) > 1:
        return None
    if x.dim() == w.dim() - 1:  # one image without a batch
        return _Convolution.apply(inner(x)[None], inner(w), inner(b), how)[0]
    return _Convolution.apply(inner(x), inner(w), inner(b), how)


def _cast(v: Any, dtype: torch.dtype) -> Any:
    return v if v is None or v.dtype == torch.float64 else v.to(dtype)

"""Layers that differentiate, at every order, into the library's own kernels.

Torch's second derivative of a convolution lays out copies and convolves with kernels as large as
the image, that of batch normalisation passes many times over its input, and the third derivatives
of batch, layer and instance normalisation take mean and variance for constants. Within
:class:`LibraryKernels` these functions have the same values and other derivatives.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten

_NOT_KEPT = None, None, 0.0  # running mean and variance, and their momentum


class LibraryKernels(TorchFunctionMode):
    """A context in which the convolutions and normalisations that a model calls, whosever it is,
    are those below. Where ``torch.func``, ``torch.compile`` or forward-mode derivatives are at
    work, and for what these do not know, they are torch's.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: Sequence = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        ours = REPLACED.get(func)
        if ours and torch.is_grad_enabled() and not _transformed():
            found = ours(*args, **kwargs)
            if found is not None:
                return found
        return func(*args, **kwargs)


def _transformed() -> bool:
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _plain(*tensors: Tensor | None) -> bool:
    """Dense tensors of torch's own class, one of them with derivatives."""
    return any(v is not None and v.requires_grad for v in tensors) and all(
        v is None
        or (type(v) in (Tensor, nn.Parameter) and v.layout == torch.strided and v.numel() > 0)
        for v in tensors
    )


# ---------------------------------------------------------------- what the engine asks for


def _inner(v: Any) -> Any:
    """A leaf as a node of autograd's graph: only of these can :func:`_wanted` ask."""
    return v.view_as(v) if v is not None and v.requires_grad and v.is_leaf else v


def _wanted(ctx: Any, k: int) -> bool:
    """Whether this backward pass needs the derivative in the k-th argument: a pass to the input
    alone needs none in the weights.
    """
    node = ctx.next_functions[k][0] if ctx.needs_input_grad[k] else None
    return node is not None and torch._C._will_engine_execute_node(node)


# ---------------------------------------------------------------- convolution


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
        gy = _inner(gy)
        return (
            _InputGradient.apply(gy, w, x.detach(), ctx.how) if _wanted(ctx, 0) else None,
            _WeightGradient.apply(gy, x, w.detach(), ctx.how) if _wanted(ctx, 1) else None,
            gy.sum([d for d in range(gy.dim()) if d != 1]) if _wanted(ctx, 2) else None,
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
        v = _inner(v)
        return (
            _Convolution.apply(v, w, None, ctx.how) if _wanted(ctx, 0) else None,
            _WeightGradient.apply(gy, v, w.detach(), ctx.how) if _wanted(ctx, 1) else None,
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
        v = _inner(v)
        return (
            _Convolution.apply(x, v, None, ctx.how) if _wanted(ctx, 0) else None,
            _InputGradient.apply(gy, v, x.detach(), ctx.how) if _wanted(ctx, 1) else None,
            None,
            None,
        )


def _gradients(gy: Tensor, x: Tensor, w: Tensor, how: tuple, which: int) -> Tensor:
    """That of the input, or of the weight; of the other tensor the kernel looks at the shape."""
    mask = [which == 0, which == 1, False]
    return aten.convolution_backward(gy, x, w, None, *how, mask)[which]


def _convolution(
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


def _transposed(
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
    if not _plain(x, w, b):
        return None
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        x, w, b = (v if v is None else v.to(torch.get_autocast_dtype(kind)) for v in (x, w, b))
    if x.dim() == w.dim() - 1:  # one image without a batch
        return _Convolution.apply(_inner(x)[None], _inner(w), _inner(b), how)[0]
    return _Convolution.apply(_inner(x), _inner(w), _inner(b), how)


# ---------------------------------------------------------------- normalisation


class _Normalization(Function):
    """w (x - mean) / sqrt(var + eps) + b, channel by channel, with the batch's mean and variance.

    `kept` are running mean and variance, which move, and their momentum.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor | None, b: Tensor | None, kept: tuple, eps: float
    ) -> Tensor:
        mean, var, momentum = kept
        y, mean, rstd = torch.native_batch_norm(x, w, b, mean, var, True, momentum, eps)
        ctx.save_for_backward(x, w, mean, rstd)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        gx, gw, gb = _NormalizationGradient.apply(_inner(gy), *ctx.saved_tensors, ctx.eps)
        _, with_w, with_b = ctx.needs_input_grad[:3]
        return gx, gw if with_w else None, gb if with_b else None, None, None


class _NormalizationGradient(Function):
    """gx, which is linear in gy and its own adjoint, and the sums gw and gb."""

    @staticmethod
    def forward(
        ctx: Any, gy: Tensor, x: Tensor, w: Tensor | None, mean: Tensor, rstd: Tensor, eps: float
    ) -> tuple:
        gx, gw, gb = _native_gradients(gy, x, w, mean, rstd, eps)
        ctx.save_for_backward(gy, x, w, mean, rstd, gw, gb)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        return gx, gw, gb

    @staticmethod
    def backward(ctx: Any, v: Tensor | None, *others: Tensor | None) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        gy, x, w, mean, rstd, gw, gb = ctx.saved_tensors
        if v is None or torch.is_grad_enabled() or any(u is not None for u in others):
            found = _composed_derivatives(gy, x, w, ctx.eps, (v, *others))
        else:
            found = _second_derivatives(v, gy, x, w, mean, rstd, gw, gb, ctx.eps)
        return *found, None, None, None


def _native_gradients(
    gy: Tensor, x: Tensor, w: Tensor | None, mean: Tensor, rstd: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """gx, and the sums of gy (x - mean) rstd and of gy."""
    if w is None:  # for which torch gives no sums
        w = torch.ones_like(mean)
    return aten.native_batch_norm_backward(
        gy, x, w, None, None, mean, rstd, True, eps, [True, True, True]
    )


def _second_derivatives(
    v: Tensor, gy: Tensor, x: Tensor, w: Tensor | None, mean: Tensor, rstd: Tensor, gw: Tensor,
    gb: Tensor, eps: float,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """The derivatives of <v, gx> in gy, x and w, in as few passes as can be: with z = (x - mean)
    rstd, all but the sum <v, gy> is known from gradients, and that in x is a combination of x, gy
    and v.
    """
    n = x.numel() // x.shape[1]
    in_gy, vz, v_sum = _native_gradients(v, x, w, mean, rstd, eps)
    vg = (v * gy).sum([d for d in range(x.dim()) if d != 1], dtype=mean.dtype)
    v_mean, g_mean, vz, gz, vg = torch.stack([v_sum, gb, vz, gw, vg]) / n
    vg = vg - v_mean * g_mean
    in_w = rstd * n * (vg - vz * gz)
    scale = -rstd.square() if w is None else -w * rstd.square()
    of_z = scale * rstd * (vg - 3 * vz * gz)
    of_g, of_v = scale * vz, scale * gz
    constant = -(of_z * mean + of_g * g_mean + of_v * v_mean)
    constant, of_z, of_g, of_v = (_per_channel(c, x) for c in (constant, of_z, of_g, of_v))
    in_x = torch.addcmul(constant, x, of_z).addcmul_(gy, of_g).addcmul_(v, of_v)
    return in_gy, in_x.to(x.dtype), None if w is None else in_w.to(w.dtype)


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *[1] * (x.dim() - 2))


def _composed_derivatives(
    gy: Tensor, x: Tensor, w: Tensor | None, eps: float, along: tuple
) -> tuple[Tensor | None, ...]:
    """The derivatives of the three gradients, by autograd: those of every order."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        at = [u if u is None else u.view_as(u) for u in (gy, x, w)]
        if not create_graph:
            at = [u if u is None else u.detach() for u in at]
        at = [u if u is None or u.requires_grad else u.requires_grad_() for u in at]
        pairs = [pair for pair in zip(_composed(*at, eps), along) if pair[1] is not None]
        inputs = [u for u in at if u is not None]
        found = torch.autograd.grad(
            [value for value, _ in pairs], inputs, [u for _, u in pairs],
            create_graph=create_graph, allow_unused=True,
        )  # fmt: skip
    return found if w is not None else (*found, None)


def _composed(gy: Tensor, x: Tensor, w: Tensor | None, eps: float) -> tuple[Tensor, ...]:
    """The three gradients, of elementary functions."""
    others = [d for d in range(x.dim()) if d != 1]
    centred = x - x.mean(others, keepdim=True)
    rstd = (centred.square().mean(others, keepdim=True) + eps).rsqrt()
    z = centred * rstd
    g = gy if w is None else gy * _per_channel(w, x)
    parts = g.mean(others, keepdim=True) + z * (g * z).mean(others, keepdim=True)
    return rstd * (g - parts), (gy * z).sum(others), gy.sum(others)


def _normalized(
    x: Tensor, w: Tensor | None, b: Tensor | None, eps: float, kept: tuple = _NOT_KEPT
) -> Tensor:
    return _Normalization.apply(_inner(x), _inner(w), _inner(b), kept, eps)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if not training or not _plain(input, weight, bias) or input.numel() == input.shape[1]:
        return None
    return _normalized(input, weight, bias, eps, (running_mean, running_var, momentum))


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    size = math.prod(normalized_shape)
    if tuple(input.shape[input.dim() - len(normalized_shape) :]) != tuple(normalized_shape):
        return None
    return _by_groups(input, size, weight, bias, eps)


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    if input.dim() < 2 or input.shape[1] % num_groups:
        return None
    channels = [v if v is None else _per_channel(v, input) for v in (weight, bias)]
    return _by_groups(input, math.prod(input.shape[1:]) // num_groups, *channels, eps)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if not use_input_stats or input.dim() < 3:
        return None
    channels = [v if v is None else _per_channel(v, input) for v in (weight, bias)]
    kept = [v if v is None else v.repeat(len(input)) for v in (running_mean, running_var)]
    found = _by_groups(input, input[0, 0].numel(), *channels, eps, (*kept, momentum))
    if found is not None:
        for running, each in zip((running_mean, running_var), kept, strict=True):
            if running is not None and each is not None:
                running.copy_(each.view(len(input), -1).mean(0))
    return found


def _by_groups(
    x: Tensor, size: int, w: Tensor | None, b: Tensor | None, eps: float, kept: tuple = _NOT_KEPT
) -> Tensor | None:
    """Normalised in groups of so many neighbours: batch normalisation of one image of which each
    group is a channel.
    """
    if not _plain(x, w, b) or size < 2 or torch.is_autocast_enabled(x.device.type):
        return None
    z = _normalized(_inner(x).reshape(1, -1, size), None, None, eps, kept).view(x.shape)
    z = z if w is None else z * w
    return z if b is None else z + b


REPLACED = {
    torch.conv1d: _convolution,
    torch.conv2d: _convolution,
    torch.conv3d: _convolution,
    torch.conv_transpose1d: _transposed,
    torch.conv_transpose2d: _transposed,
    torch.conv_transpose3d: _transposed,
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
}

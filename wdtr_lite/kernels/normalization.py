"""Normalisation with second derivatives in few passes, and right ones of every order."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from wdtr_lite.kernels.nodes import (
    batched,
    checkpointed,
    inner,
    integers,
    ordinary,
    plain,
    transformed,
)

aten = torch.ops.aten

_NOT_KEPT = None, None, 0.0  # running mean and variance, and their momentum


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
        x, w, mean, rstd = ctx.saved_tensors
        if batched(gy):
            gx, gw, gb = _composed(gy, x, w, ctx.eps)
        else:
            gx, gw, gb = _NormalizationGradient.apply(inner(gy), x, w, mean, rstd, ctx.eps)
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


def _affine(w: Tensor | None, b: Tensor | None, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    return (
        None if w is None else _per_channel(w, x),
        None if b is None else _per_channel(b, x),
    )


def _scaled(z: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
    z = z if w is None else z * w
    return z if b is None else z + b


def _composed_derivatives(
    gy: Tensor, x: Tensor, w: Tensor | None, eps: float, along: tuple
) -> tuple[Tensor | None, ...]:
    """The derivatives of the three gradients, by autograd: those of every order."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        at = [v.view_as(v) if create_graph else v.detach() for v in (gy, x, w) if v is not None]
        inputs = [v if v.requires_grad else v.requires_grad_() for v in at]
        values = _composed(inputs[0], inputs[1], None if w is None else inputs[2], eps)
        pairs = [pair for pair in zip(values, along, strict=True) if pair[1] is not None]
        found = torch.autograd.grad(
            [value for value, _ in pairs], inputs, [u for _, u in pairs],
            create_graph=create_graph, allow_unused=True,
        )  # fmt: skip
    return found if w is not None else (*found, None)


def _composed(gy: Tensor, x: Tensor, w: Tensor | None, eps: float) -> tuple[Tensor, ...]:
    """The three gradients, of elementary functions."""
    z, rstd = _standardized(x, eps)
    others = _others(x)
    g = gy if w is None else gy * _per_channel(w, x)
    parts = g.mean(others, keepdim=True) + z * (g * z).mean(others, keepdim=True)
    return rstd * (g - parts), (gy * z).sum(others), gy.sum(others)


def _standardized(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    centred = x - x.mean(_others(x), keepdim=True)
    rstd = (centred.square().mean(_others(x), keepdim=True) + eps).rsqrt()
    return centred * rstd, rstd


def _others(x: Tensor) -> list[int]:
    """The dimensions but for that of the channels."""
    return [d for d in range(x.dim()) if d != 1]


def _normalized(
    x: Tensor, w: Tensor | None, b: Tensor | None, eps: float, kept: tuple = _NOT_KEPT
) -> Tensor:
    if transformed():
        mean, var, momentum = kept
        if mean is not None:  # these move as ever
            torch.native_batch_norm(x, None, None, mean, var, True, momentum, eps)
        return _scaled(_standardized(x, eps)[0], *_affine(w, b, x))
    return _Normalization.apply(inner(x), inner(w), inner(b), kept, eps)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    kept = running_mean, running_var, momentum
    if training is not True or not _ours(input, weight, bias) or input.dim() < 2:
        return None
    if not _fit(input, input.shape[1:2], weight, bias, eps, kept):
        return None
    if input.numel() == input.shape[1]:
        return None
    return _normalized(input, weight, bias, eps, kept)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    if not _ours(input, weight, bias) or not integers(normalized_shape):
        return None
    shape = input.shape[input.dim() - len(normalized_shape) :]
    if shape != tuple(normalized_shape) or not _fit(input, shape, weight, bias, eps):
        return None
    return _by_groups(input, math.prod(shape), weight, bias, eps)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    if not _ours(input, weight, bias) or input.dim() < 2 or type(num_groups) is not int:
        return None
    if num_groups < 1 or input.shape[1] % num_groups:
        return None
    if not _fit(input, input.shape[1:2], weight, bias, eps):
        return None
    size = math.prod(input.shape[1:]) // num_groups
    return _by_groups(input, size, *_affine(weight, bias, input), eps)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if use_input_stats is not True or not _ours(input, weight, bias) or input.dim() < 3:
        return None
    running = running_mean, running_var
    if not _fit(input, input.shape[1:2], weight, bias, eps, (*running, momentum)):
        return None
    if transformed() and running_mean is not None:  # in torch's own function these may move
        torch.instance_norm(input, None, None, *running, True, momentum, eps, False)
        running = None, None
    each = [v if v is None else v.repeat(len(input)).to(_exact(input)) for v in running]
    size, affine = math.prod(input.shape[2:]), _affine(weight, bias, input)
    found = _by_groups(input, size, *affine, eps, (*each, momentum))
    if found is not None:
        for whole, parts in zip(running, each, strict=True):
            if whole is not None and parts is not None:
                whole.copy_(parts.view(len(input), -1).mean(0))
    return found


def _ours(*tensors: Tensor | None) -> bool:
    return plain(*tensors) or (transformed() and all(map(ordinary, tensors)))


def _fit(
    x: Tensor, shape: Sequence[int], w: Tensor | None, b: Tensor | None, eps: float,
    kept: tuple = _NOT_KEPT,
) -> bool:  # fmt: skip
    """Whether parameters and what is kept are of this shape, where x is, and the numbers such; and
    the pass is not one that will be repeated without these functions.
    """
    *running, momentum = kept
    vectors = [v for v in (w, b, *running) if v is not None]
    return (
        isinstance(eps, (int, float))
        and eps > 0
        and not checkpointed()
        and isinstance(momentum, (int, float))
        and all(map(ordinary, running))
        and all(v.shape == shape and v.device == x.device for v in vectors)
        and not any(v is not None and v.requires_grad for v in running)
    )


def _exact(x: Tensor) -> torch.dtype:
    """The type of the statistics: not lower than float32."""
    return torch.promote_types(x.dtype, torch.float32)


def _by_groups(
    x: Tensor, size: int, w: Tensor | None, b: Tensor | None, eps: float, kept: tuple = _NOT_KEPT
) -> Tensor | None:
    """Normalised in groups of so many neighbours: batch normalisation of one image of which each
    group is a channel.
    """
    if size < 2 or torch.is_autocast_enabled(x.device.type):
        return None
    if any(v is not None and v.dtype != x.dtype for v in (w, b)):
        return None
    groups = inner(x.to(_exact(x))).reshape(1, -1, size)
    z = _normalized(groups, None, None, eps, kept).view(x.shape)
    return _scaled(z, w, b).to(x.dtype)

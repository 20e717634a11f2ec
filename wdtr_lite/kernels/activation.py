"""Smooth activations whose second derivatives are a few passes over their input."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from wdtr_lite.kernels.nodes import batched, plain

aten = torch.ops.aten


class _Smooth(NamedTuple):
    """A function f of x and options, gradient(gy, x) = gy f'(x), and second(v, v f'(x), g, x) =
    v gy f''(x), where g is gy or, with `of_gx`, gy f'(x). Of `composed`, the gradient too, torch
    knows all derivatives.
    """

    value: Callable
    gradient: Callable
    second: Callable
    composed: Callable
    options: tuple = ()
    of_gx: bool = False


class _Activation(Function):
    """f(x), element by element."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: _Smooth) -> Tensor:
        ctx.save_for_backward(x)
        ctx.f = f
        return f.value(x, *f.options)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        return _gradient(gy, x, ctx.f), None


class _ActivationGradient(Function):
    """gx = gy f'(x)."""

    @staticmethod
    def forward(ctx: Any, gy: Tensor, x: Tensor, f: _Smooth) -> Tensor:
        gx = f.gradient(gy, x, *f.options)
        ctx.save_for_backward(x, gx if f.of_gx else gy)
        ctx.f = f
        return gx

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x, g), f = ctx.saved_tensors, ctx.f
        in_gy = _gradient(v, x, f)
        in_x = f.second(v, in_gy, g, x, *f.options) if ctx.needs_input_grad[1] else None
        return in_gy, in_x, None


def _gradient(gy: Tensor, x: Tensor, f: _Smooth) -> Tensor:
    return f.composed(gy, x, *f.options) if batched(gy) else _ActivationGradient.apply(gy, x, f)


def _silu_gradient(gy: Tensor, x: Tensor) -> Tensor:
    s = x.sigmoid()
    return gy * (s * (1 + x * (1 - s)))


def _of_softplus(
    v: Tensor, in_gy: Tensor, gx: Tensor, x: Tensor, beta: float, threshold: float
) -> Tensor:
    """Of log(1 + exp(beta x)) / beta, and of x above the threshold: f'' = beta f' (1 - f')."""
    found = (v - in_gy).mul_(gx)
    return found if beta == 1 else found.mul_(beta)


def _of_silu(v: Tensor, in_gy: Tensor, gy: Tensor, x: Tensor) -> Tensor:
    """Of x s(x), s the logistic function: f'' = s (1 - s) (2 + x (1 - 2 s))."""
    s = x.sigmoid()
    bent = torch.rsub(s, 1, alpha=2).mul_(x).add_(2) * v
    return aten.sigmoid_backward(bent, s).mul_(gy)


def _of_gelu(v: Tensor, in_gy: Tensor, gy: Tensor, x: Tensor) -> Tensor:
    """Of x times the normal distribution function: f'' = (2 - x^2) exp(-x^2 / 2) / sqrt(2 pi)."""
    density = x.square().mul_(-0.5).sub_(0.5 * math.log(2 * math.pi)).exp_()
    bent = (2 * density).addcmul_(x * density, x, value=-1)  # of finite factors at any x
    return (bent * v).mul_(gy)


_SILU = _Smooth(aten.silu, aten.silu_backward, _of_silu, _silu_gradient)
_GELU = _Smooth(aten.gelu, aten.gelu_backward, _of_gelu, aten.gelu_backward)


def softplus(input: Tensor, beta: float = 1, threshold: float = 20) -> Tensor | None:
    if not plain(input) or not {type(beta), type(threshold)} <= {int, float}:
        return None
    if torch.is_autocast_enabled(input.device.type):  # some devices compute it in float32
        return None
    slope, options = aten.softplus_backward, (beta, threshold)
    f = _Smooth(aten.softplus, slope, _of_softplus, slope, options, of_gx=True)
    return _Activation.apply(input, f)


def silu(input: Tensor, inplace: bool = False) -> Tensor | None:
    return _Activation.apply(input, _SILU) if plain(input) and not inplace else None


def gelu(input: Tensor, approximate: str = "none") -> Tensor | None:
    return _Activation.apply(input, _GELU) if plain(input) and approximate == "none" else None

"""Smooth activations whose second derivatives are a few passes over their input."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from wdtr_lite.kernels.nodes import plain

aten = torch.ops.aten


class _Activation(Function):
    """f(x), element by element."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: "_Smooth") -> Tensor:
        ctx.save_for_backward(x)
        ctx.f = f
        return f.value(x)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _ActivationGradient.apply(gy, *ctx.saved_tensors, ctx.f), None


class _ActivationGradient(Function):
    """gx = gy f'(x)."""

    @staticmethod
    def forward(ctx: Any, gy: Tensor, x: Tensor, f: "_Smooth") -> Tensor:
        gx = f.gradient(gy, x)
        ctx.save_for_backward(x, gx if f.of_gx else gy)
        ctx.f = f
        return gx

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, g = ctx.saved_tensors
        in_gy = _ActivationGradient.apply(v, x, ctx.f)
        in_x = ctx.f.second(v, in_gy, g, x) if ctx.needs_input_grad[1] else None
        return in_gy, in_x, None


class _Softplus(NamedTuple):
    """log(1 + exp(beta x)) / beta, and x where beta x is above the threshold, of which
    f'' = beta f' (1 - f').
    """

    beta: float
    threshold: float
    of_gx = True

    def value(self, x: Tensor) -> Tensor:
        return aten.softplus(x, *self)

    def gradient(self, gy: Tensor, x: Tensor) -> Tensor:
        return aten.softplus_backward(gy, x, *self)

    def second(self, v: Tensor, in_gy: Tensor, gx: Tensor, x: Tensor) -> Tensor:
        found = (v - in_gy).mul_(gx)
        return found if self.beta == 1 else found.mul_(self.beta)


class _SiLU(NamedTuple):
    """x s(x), of the logistic function s: f'' = s (1 - s) (2 + x (1 - 2 s))."""

    of_gx = False

    def value(self, x: Tensor) -> Tensor:
        return aten.silu(x)

    def gradient(self, gy: Tensor, x: Tensor) -> Tensor:
        return aten.silu_backward(gy, x)

    def second(self, v: Tensor, in_gy: Tensor, gy: Tensor, x: Tensor) -> Tensor:
        s = x.sigmoid()
        bent = torch.rsub(s, 1, alpha=2).mul_(x).add_(2).mul_(v)
        return aten.sigmoid_backward(bent, s).mul_(gy)


class _GELU(NamedTuple):
    """x times the normal distribution function: f'' = (2 - x^2) exp(-x^2 / 2) / sqrt(2 pi)."""

    of_gx = False

    def value(self, x: Tensor) -> Tensor:
        return aten.gelu(x)

    def gradient(self, gy: Tensor, x: Tensor) -> Tensor:
        return aten.gelu_backward(gy, x)

    def second(self, v: Tensor, in_gy: Tensor, gy: Tensor, x: Tensor) -> Tensor:
        density = x.square().mul_(-0.5).sub_(0.5 * math.log(2 * math.pi)).exp_()
        bent = (2 * density).addcmul_(x * density, x, value=-1)  # of finite factors at any x
        return bent.mul_(v).mul_(gy)


_Smooth = _Softplus | _SiLU | _GELU


def _activated(x: Any, f: _Smooth) -> Tensor | None:
    return _Activation.apply(x, f) if plain(x) else None


def softplus(input: Tensor, beta: float = 1, threshold: float = 20) -> Tensor | None:
    if not plain(input) or not {type(beta), type(threshold)} <= {int, float}:
        return None
    if torch.is_autocast_enabled(input.device.type):  # some devices compute it in float32
        return None
    return _activated(input, _Softplus(beta, threshold))


def silu(input: Tensor, inplace: bool = False) -> Tensor | None:
    return None if inplace else _activated(input, _SiLU())


def gelu(input: Tensor, approximate: str = "none") -> Tensor | None:
    return _activated(input, _GELU()) if approximate == "none" else None

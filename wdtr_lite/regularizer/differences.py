"""The finite difference of a penalty, and whether it can be trusted.

Its value is known, 2 g'Lg, which tells how well a step suits a model. Kinks do not show in it: they
are looked for in autograd's graph, and where this hides what is computed, in the gradient.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node
from torch.nn import functional as F

from wdtr_lite import checks
from wdtr_lite.calculus.derivatives import autograd_nodes
from wdtr_lite.regularizer.forward import input_gradients

TOLERANCE = 0.03  # of the value; the derivative in the parameters is some times worse
BENT = 0.3  # of the gradient's change: smooth models are near 0, those with kinks near 1

KINKS = {
    "ReluBackward", "LeakyReluBackward", "PreluKernelBackward", "RreluWithNoiseBackward",
    "ThresholdBackward", "HardtanhBackward", "HardswishBackward", "HardsigmoidBackward",
    "HardshrinkBackward", "SoftshrinkBackward", "MaximumBackward", "MinimumBackward",
    "AmaxBackward", "AminBackward", "MaxBackward", "MinBackward", "MaxPool2DWithIndicesBackward",
    "MaxPool3DWithIndicesBackward", "AdaptiveMaxPool2DBackward", "AdaptiveMaxPool3DBackward",
    "FractionalMaxPool2DBackward", "FractionalMaxPool3DBackward", "AbsBackward",
    "CopysignBackward", "FmaxBackward", "FminBackward", "AminmaxBackward", "MedianBackward",
    "NanmedianBackward", "ModeBackward", "CummaxBackward", "CumminBackward", "SortBackward",
    "TopkBackward", "KthvalueBackward", "RenormBackward", "MaxPool2DBackward",
    "MkldnnMaxPool2DBackward", "MkldnnMaxPool3DBackward", "MultiMarginLossBackward",
    "MultilabelMarginLossBackward", "FracBackward", "FmodBackward", "RemainderBackward",
    "SignBackward", "SgnBackward", "RoundBackward", "FloorBackward", "CeilBackward",
    "TruncBackward",
}  # fmt: skip
"""Autograd's names of functions that jump or whose derivative does, without their numbers at the
end.
"""

NORMS = {
    "LinalgVectorNormBackward": "_saved_ord",
    "NormBackward": "_saved_p",
    "DistBackward": "_saved_p",
    "CdistBackward": "_saved_p",
    "PdistBackward": "_saved_p",
}
"""Those of norms, which are smooth for powers between 1 and infinity, and where the power is."""

REDUCTIONS = "ScatterReduceBackward", "IndexReduceBackward", "SegmentReduceBackward"
"""Those of sums, means, products or extremes."""

UNCLEAR = re.compile("CppNode|DifferentiableGraph|Where|GridSampler|CudnnRnn")
"""Those, besides Python's, of which autograd does not say what they compute."""


def changes(
    columns: Callable[[Tensor], tuple[Tensor, Tensor]],
    values: Tensor,
    x: Tensor,
    directions: Sequence[Tensor],
    step: float,
    central: bool,
) -> list[Tensor]:
    """The derivative of each column along its direction, k times (B,), by a difference whose
    longest image moves by `step`.
    """
    found = []
    for k, direction in enumerate(directions):
        w, longest = _steps(direction, step)
        ahead = _at(columns, x + w)[:, k]
        behind = _at(columns, x - w)[:, k] if central else values[:, k]
        difference = ahead - behind
        if difference.requires_grad and checks.eager(x):
            difference.register_hook(partial(_as_it_must, (ahead, behind)))
        found.append((difference / 2 if central else difference) * (longest / step))
    return found


def _steps(w: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """A joint direction of images as steps of which the longest is `step`, and its longest."""
    longest = F.pad(w.flatten(1).norm(dim=1), (0, 1)).amax()  # 0 of no images
    usable = longest > step / torch.finfo(w.dtype).max
    return w * (step / longest.where(usable, 1)), longest


def bends(
    columns: Callable[[Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    gradients: Sequence[Tensor],
    directions: Sequence[Tensor],
    step: float,
    central: bool,
) -> bool:
    """Whether the gradient of the column that has the longest direction changes along it, or back
    along it if `central`, by other than twice as much in four steps, which meet more kinks than
    one, as in two.
    """
    k = max(range(len(directions)), key=lambda k: float(directions[k].norm()))
    w, _ = _steps(directions[k], 4 * step)

    def column(image: Tensor) -> tuple[Tensor, Tensor]:
        values, outputs = columns(image)
        return values[:, k : k + 1], outputs

    def change(w: Tensor) -> Tensor:
        return input_gradients(column, x + w, create_graph=False)[2][0] - gradients[k]

    rounding = 1000 * torch.finfo(x.dtype).eps * gradients[k].norm()

    def bent(w: Tensor) -> bool:
        whole = change(w)
        return bool((whole - 2 * change(w / 2)).norm() > BENT * whole.norm() + rounding)

    return bent(w) or (central and bent(-w))


def _at(columns: Callable[[Tensor], tuple[Tensor, Tensor]], image: Tensor) -> Tensor:
    """A pass whose images require no gradient, which each backward pass would compute then."""
    try:
        return columns(image)[0]
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        raise RuntimeError(
            "a model or loss that takes a gradient in its images has no finite difference, whose "
            "images have none: take mode='double_backprop'"
        ) from error


@torch.no_grad()
def miss(
    found: Sequence[Tensor],
    values: Tensor,
    gradients: Sequence[Tensor],
    directions: Sequence[Tensor],
) -> float:
    """By how much of it the differences miss the derivative along the directions; those of infinite
    values, of masked logits say, have none to be looked at.
    """
    true = torch.stack([(g * w).sum() for g, w in zip(gradients, directions)])
    off = torch.stack([change.sum() for change in found]) - true
    off = off.masked_fill(values.isinf().any(0), 0)
    scale = true.abs().sum()
    return float(off.abs().sum() / scale.where(scale > 0, 1))


def direction_warning(
    squares: Sequence[Tensor], gradients: Sequence[Tensor], directions: Sequence[Tensor]
) -> str | None:
    """What to say of a norm whose direction is not the derivative of its square, which is twice the
    square along the gradient.
    """
    g, w = torch.stack([*gradients]), torch.stack([*directions])
    along, right = float((g * w).sum()), 2 * float(torch.stack([*squares]).detach().sum())
    rounding = 1000 * torch.finfo(g.dtype).eps * float(g.square().sum())
    if not abs(along - right) > TOLERANCE * abs(right) + rounding:
        return None
    return (
        f"direction of the norm is {along:g} along g, where the derivative of norm_sq is twice the "
        f"square, {right:g}: the penalty's derivative in the parameters is wrong"
    )


def step_warning(step: float, missed: float, elsewhere: Callable[[float], float]) -> str | None:
    """What to say of a step that misses so much; `elsewhere` is what others miss."""
    if missed <= TOLERANCE:
        return None
    others = {other: elsewhere(other) for other in (step / 10, step * 10)}
    best = min(others, key=others.__getitem__)
    advice = (
        f"step={best:g} misses {100 * others[best]:.2g} %"
        if others[best] <= TOLERANCE
        else "a step ten times smaller or larger is not right either: is there dropout that draws "
        "from other generators than torch's, a hook or a function that changes gradients, or "
        "arithmetic below float32? mode='double_backprop' has no step"
    )
    return (
        f"step={step:g} misses {100 * missed:.2g} % of the slope that the finite difference should "
        f"have, and more of its derivative in the parameters; {advice}"
    )


def rounding_warning(step: float, x: Tensor) -> str | None:
    """What to say of a step that is lost in the rounding of large pixels."""
    reach = float(x.abs().amax()) if x.numel() else 0.0
    if step > 1000 * torch.finfo(x.dtype).eps * reach:
        return None
    return (
        f"step={step:g} is near the rounding of x, which reaches {reach:g}, and so is what the "
        f"finite difference finds: take intensities in [0, 1], or step={step * reach:g}"
    )


def kink_warning(outputs: Tensor, bends: Callable[[], bool]) -> str | None:
    """What to say of a model with kinks; of what cannot be seen, where its gradient `bends`."""
    nodes = list(autograd_nodes(outputs))
    found, where = {_kind(node) for node in nodes if _has_kink(node)}, "it has"
    if not found:
        found = {_kind(node) for node in nodes if _hidden(node)}
        where = "it has kinks, or arithmetic below float32, within"
        if not found or not bends():
            return None
    kinds = ", ".join(name.removesuffix("Backward") for name in sorted(found))
    return (
        f"model is not smooth, {where} {kinds}: the finite difference's derivative in the "
        "parameters is mostly noise then, though its value is right; take mode='double_backprop' "
        "or smooth activations, average pooling"
    )


def _hidden(node: Node) -> bool:
    return isinstance(node, BackwardCFunction) or bool(UNCLEAR.search(node.name()))


def _has_kink(node: Node) -> bool:
    if isinstance(node, BackwardCFunction):  # of any name
        return False
    if _kind(node) in REDUCTIONS:
        return getattr(node, "_saved_reduce", "") in ("amax", "amin", "max", "min")
    if _kind(node) in NORMS:
        power = getattr(node, NORMS[_kind(node)])  # None is 2
        return power is not None and not 1 < power < float("inf")
    if _kind(node) == "EluBackward":  # SELU's too
        return getattr(node, "_saved_alpha", 1) * getattr(node, "_saved_input_scale", 1) != 1
    if _kind(node) in ("ClampBackward", "ClampMinBackward", "ClampMaxBackward"):
        bounds = getattr(node, "_saved_min", None), getattr(node, "_saved_max", None)
        given = (torch.as_tensor(at) for at in bounds if at is not None)
        return any(bool(((at <= 0) | (at >= 1e-3)).any()) for at in given)  # else a guard
    return _kind(node) in KINKS


def _kind(node: Node) -> str:
    return node.name().rstrip("0123456789")


def _as_it_must(ends: Sequence[Tensor], gradient: Tensor) -> None:
    """A hook of the backward pass, which refuses one inside autocast, where a difference of
    gradients that are rounded to 8 bits, divided by the step, is noise; one that is to be
    differentiated again, for a difference's second derivative is not that of the penalty; and one
    to what was computed within the pass to one of the ends.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "a finite difference can be differentiated once, without create_graph=True: take "
            "mode='double_backprop'"
        )
    if torch.is_autocast_enabled(gradient.device.type):
        raise RuntimeError(
            "backward() inside torch.autocast rounds a finite difference away: leave autocast "
            "before backward(), or take mode='double_backprop'"
        )
    ways = [end.grad_fn for end in ends if end.grad_fn]
    if len({torch._C._will_engine_execute_node(way) for way in ways}) > 1:
        raise RuntimeError(
            "a finite difference has no derivative in what model computes on the way, which each "
            "of its passes has for itself: take mode='double_backprop'"
        )

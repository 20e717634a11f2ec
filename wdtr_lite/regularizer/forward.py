"""A classifier and its loss evaluated: outputs, their derivatives, and evaluations that repeat
without moving the model.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from wdtr_lite import checks
from wdtr_lite.calculus.derivatives import autograd_nodes
from wdtr_lite.kernels import LibraryKernels
from wdtr_lite.models import Classifier
from wdtr_lite.models.modes import held, layers, used
from wdtr_lite.regularizer.norms import InputNorm
from wdtr_lite.regularizer.one_pass import gradient_and_value, next_number

MASKS = (
    "the passes of a penalty do not draw the same numbers from torch's global generator: another "
    "thread draws from it meanwhile, or model draws more in one pass than in the next. Give each "
    "thread a process of its own; of a GradientPenalty take mode='double_backprop'"
)

STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}
"""The buffers of torch's batch normalisation."""

_writes = attrgetter("_version")

Loss = Callable[[Tensor, Any], Tensor]
Buffers = Mapping[nn.Module, Mapping[str, Tensor]]


def checked_functions(loss: Loss, f: Classifier) -> None:
    checks.function(loss, "loss")
    checks.function(f, "f")


def outputs_of(f: Classifier, x: Tensor, name: str = "model") -> Tensor:
    """The outputs, (B,) or (B, k): what f returns, or its ``.logits``."""
    found = checks.logits(checks.called(f, x, function=name), x, single=True, name=name)
    checks.floating(found, f"what {name} returns")
    return found


def differentiable_outputs(f: Classifier, leaf: Tensor) -> Tensor:
    """The same, of which autograd sees the way from the images."""
    with LibraryKernels():
        outputs = outputs_of(f, leaf, "f")
    ways = (node for node in autograd_nodes(outputs) if getattr(node, "variable", None) is leaf)
    checks.differentiable(leaf if next(ways, None) else None, "f")
    return outputs


def losses_of(loss: Loss, outputs: Tensor, y: Any) -> Tensor:
    """The loss of each image, (B,)."""
    try:
        found = loss(outputs, y)
    except checks.PLAIN as error:
        if loss is not cross_entropy:  # whose errors name y
            checks.failed(error, "loss", outputs, "outputs")
        raise
    return checks.per_image(found, outputs, "loss")


def differentiable_losses(loss: Loss, outputs: Tensor, y: Any) -> Tensor:
    """The same, of which autograd sees the way from outputs that have one."""
    value = losses_of(loss, outputs, y)
    return checks.tracked(value, "loss") if outputs.requires_grad else value


def column_gradients(value: Tensor, at: Tensor) -> Tensor:
    """The derivative in `at` (B, ...) of each column of `value`, with its graph: (B, k, ...)."""
    rows = [
        torch.autograd.grad(column.sum(), at, create_graph=True, materialize_grads=True)[0]
        if column.requires_grad
        else torch.zeros_like(at)
        for column in value.T
    ]
    return torch.stack(rows, 1)


def loss_slope(loss: Loss, f: Classifier, x: Tensor, y: Any) -> Tensor:
    """The derivative l' of the loss in the outputs at x: a function of the parameters, not of x."""
    with torch.enable_grad():
        outputs = outputs_of(f, x.detach())
        at = outputs if outputs.requires_grad else outputs.clone().requires_grad_()
        slope = column_gradients(differentiable_losses(loss, at, y)[:, None], at)[:, 0]
    return slope if outputs.requires_grad else slope.detach()


def weighted_outputs(f: Classifier, slope: Tensor) -> Classifier:
    r"""The function whose Laplacian is :math:`\sum_a l'_a \Delta f_a`."""
    return lambda image: as_columns(slope * outputs_of(f, image)).sum(1)


def as_columns(outputs: Tensor) -> Tensor:
    """Outputs (B,) or (B, k) as (B, k)."""
    return outputs if outputs.dim() == 2 else outputs[:, None]


def cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    """That of each image, of labels or probabilities."""
    checks.scored(y, outputs)
    checks.probabilities(y)
    return F.cross_entropy(outputs, y, reduction="none")


def input_gradients(
    columns: Callable[[Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    *,
    create_graph: bool,
    one_pass: Callable[[], bool] | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Of a function x -> columns (B, k), outputs: the outputs, the columns, and the gradient in x
    of each column's sum, k times (B, C, H, W). With `one_pass` a single column's derivative in the
    weights is found too, and used where `one_pass()` is true by then.
    """
    kernels = LibraryKernels() if create_graph else nullcontext()
    if torch._C._are_functorch_transforms_active():
        with kernels:
            vjp = torch.func.vjp(columns, x, has_aux=True)
        values, pull, outputs = vjp  # pyright: ignore[reportAssignmentType]
        units = torch.eye(values.shape[1], dtype=values.dtype, device=values.device)
        return outputs, values, [pull(unit.expand_as(values))[0] for unit in units]
    with torch.enable_grad(), kernels:
        leaf = x.detach().requires_grad_()
        start = next_number(leaf) if one_pass else 0
        values, outputs = columns(leaf)
        separate = values.unbind(1) if values.requires_grad else ()
        if one_pass and len(separate) == 1:
            gradient, value = gradient_and_value(separate[0], leaf, start, one_pass)
            found, values = [gradient], value[:, None]
        else:
            found = [
                torch.autograd.grad(
                    column.sum(), leaf,
                    create_graph=create_graph, retain_graph=True, allow_unused=True,
                )[0]
                for column in separate
            ]  # fmt: skip
    checks.differentiable(next((g for g in found if g is not None), None))
    return outputs, values, [torch.zeros_like(x) if g is None else g for g in found]


@contextmanager
def fixed_statistics(
    model: Classifier, *more: object, buffers: Buffers | None = None
) -> Iterator[None]:
    """Layers of batch normalisation in training mode use the batch's statistics, and move neither
    their running ones nor the singular vectors of spectral normalisation. Other layers, and those
    made from these, move copies of their buffers; in evaluation mode too, of those given. `more` is
    used as they are.
    """
    given = {layer: _copies(found) for layer, found in (buffers or {}).items()}
    with used(model, *more) as training:
        fixed = {layer: _fixing(layer) | given.pop(layer, {}) for layer in training}
        still = {hook: {"n_power_iterations": 0} for layer in training for hook in _spectral(layer)}
        with held(fixed | given | still):
            yield


def _copies(buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in buffers.items() if not is_lazy(buffer)}


def _fixing(layer: nn.Module) -> dict:
    """The attributes with which a layer in training mode moves nothing."""
    if any(map(is_lazy, layer.buffers(recurse=False))):
        raise ValueError(
            "model must have seen images, which its lazy layers take their sizes from: call "
            f"model(x) once before, got {layer}"
        )
    if isinstance(layer, _SpectralNorm):
        return {"training": False}
    copies = _copies(dict(layer.named_buffers(recurse=False)))
    if _batch_norm(layer):
        return copies | {"momentum": 0.0}
    hooks = _spectral(layer)
    if not hooks:
        return copies
    weights = {hook.name: getattr(layer, hook.name) for hook in hooks}  # which they compute anew
    for hook in hooks:
        copies |= _vectors(layer, hook)
    return {"_buffers": {**layer._buffers, **copies}, **weights}


def _batch_norm(layer: nn.Module) -> bool:
    """Torch's own, whose forward pass moves running statistics and nothing else."""
    passes = _BatchNorm.forward, nn.SyncBatchNorm.forward
    own = isinstance(layer, _BatchNorm) and type(layer).forward in passes
    return own and STATISTICS.issuperset(layer._buffers)


def _spectral(layer: nn.Module) -> list[SpectralNorm]:
    hooks = layer._forward_pre_hooks.values()
    return [hook for hook in hooks if isinstance(hook, SpectralNorm)]


@torch.no_grad()
def _vectors(layer: nn.Module, hook: SpectralNorm) -> dict[str, Tensor]:
    """The singular vectors of a weight; where they are not those of a forward pass in training mode
    with this weight, random ones say, as the next would move them.
    """
    u, v = (getattr(layer, f"{hook.name}_{end}").clone() for end in "uv")
    if layer.training:
        weight, used = getattr(layer, f"{hook.name}_orig"), getattr(layer, hook.name)
        matrix = hook.reshape_weight_to_matrix(weight)
        image, moved_u, moved_v = matrix @ v, u, v
        for _ in range(hook.n_power_iterations):
            moved_v = F.normalize(matrix.mT @ moved_u, dim=0, eps=hook.eps)
            moved_u = F.normalize(matrix @ moved_v, dim=0, eps=hook.eps)
        passed = _near(F.normalize(image, dim=0, eps=hook.eps), u)
        passed &= _near(used.to(weight), weight / (u @ image))
        u, v = u.where(passed, moved_u), v.where(passed, moved_v)
    return {f"{hook.name}_u": u, f"{hook.name}_v": v}


def _near(found: Tensor, right: Tensor) -> Tensor:
    """To the rounding of half types."""
    return (found - right).norm() <= 0.01 * right.norm()


def replay(model: Classifier, device: torch.device) -> Callable[[], AbstractContextManager]:
    """A context of each of a model's passes: those after the first repeat it, with the buffers that
    it had and the same dropout masks, and move nothing. Threads take turns, with it for `more` in
    :func:`used`.
    """
    random, moved = _random(device), None
    before = [
        (layer, found, [_version(buffer) for buffer in found.values()], _copies(found))
        for layer in layers(model)
        if (found := _moving(layer))
    ]

    @contextmanager
    def once():
        nonlocal moved
        with random(), nullcontext() if moved is None else fixed_statistics(model, buffers=moved):
            yield
        if moved is None:
            moved = {
                layer: copies
                for layer, found, versions, copies in before
                if _moved(layer, found, versions)
            }

    return once


def _moving(layer: nn.Module) -> dict[str, Tensor]:
    """The buffers that a pass may move, but for those that :func:`fixed_statistics` keeps."""
    if _batch_norm(layer) or isinstance(layer, _SpectralNorm):
        return {}
    vectors = {f"{hook.name}_{end}" for hook in _spectral(layer) for end in "uv"}
    found = layer.named_buffers(recurse=False)
    return {name: buffer for name, buffer in found if name not in vectors}


def _moved(layer: nn.Module, buffers: Mapping[str, Tensor], versions: list[int]) -> bool:
    """Whether these were replaced, or written to since."""
    now = _moving(layer)
    return any(
        now.get(name) is not buffer or _version(buffer) != version
        for (name, buffer), version in zip(buffers.items(), versions, strict=True)
    )


def _version(buffer: Tensor) -> int:
    """How often it was written to; an inference tensor cannot be."""
    return 0 if buffer.is_inference() else _writes(buffer)


def _random(device: torch.device) -> Callable[[], AbstractContextManager]:
    """A context in which torch's generators give what they gave in the first of them."""
    cuda = device.type == "cuda"
    if torch._C._are_functorch_transforms_active() or (
        cuda and torch.cuda.is_current_stream_capturing()
    ):
        return nullcontext
    devices, known = [device] if cuda else [], []

    def states() -> list[Tensor]:
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]

    @contextmanager
    def once():
        if len(known) < 2:
            known.append(states())
            yield
            known.append(states())
        elif _same(*known):  # nothing is drawn
            yield
        else:
            with torch.random.fork_rng(devices):
                torch.set_rng_state(known[0][0])
                for state in known[0][1:]:
                    torch.cuda.set_rng_state(state, device)
                yield
                if not any(_same(states(), each) for each in known):
                    raise RuntimeError(MASKS)

    return once


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def checked_batch(norm: InputNorm, x: Tensor) -> Tensor:
    """The images as constants."""
    norm.check(x)
    checks.batch(x)
    checks.recording(x)
    return x.detach()

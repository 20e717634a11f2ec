"""The derivatives of a training step, one operation after the other or as one graph.

On a GPU a step of small kernels waits for Python, and its elementwise passes for the memory. The
graph is traced through autograd, the gradient of the gradient's norm included, so that the compiler
sees nothing but plain arithmetic. What differs between runs of one kind is an input of it: weights,
images, the pixel graph, the penalty's weight, what is drawn. One compiled step serves them all.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, make_fx
from torch.nn.utils import stateless
from torch.overrides import TorchFunctionMode

Gradients = tuple[Tensor | None, ...]
Derivatives = Callable[[Tensor, Tensor], tuple[Gradients, Tensor]]
"""Of images and labels the gradient in each parameter, and the sums that are reported."""


@torch.no_grad()
def give(model: nn.Module, gradients: Mapping[Tensor, Tensor | None]) -> None:
    """Each parameter its gradient, as ``backward`` does: a tensor of its own, then the hooks that
    wait for it. A parameter without one, as a frozen one, has none then.
    """
    given: set[int] = set()  # autograd gives one tensor to parameters that enter as a sum
    for parameter in model.parameters():
        parameter.grad = gradient = gradients.get(parameter)
        if gradient is None:
            continue
        if id(gradient) in given:
            parameter.grad = gradient.clone()
        given.add(id(gradient))
        for hook in (parameter._post_accumulate_grad_hooks or {}).values():
            hook(parameter)


class Graph:
    """The derivatives as one graph, of which `compile` makes what is called.

    Parameters
    ----------
    derivatives : function of x, y -> gradients, sums
        Those of the model's parameters; the model's buffers may move.
    model : torch.nn.Module
    x, y : tensors
        A batch: others have its size.
    compile : function of a graph and its inputs -> function of these

    Raises
    ------
    Exception
        Where the step cannot be traced: it looks at values, or draws from torch's global
        generator, as dropout does; or its parameters have hooks.
    """

    def __init__(
        self, derivatives: Derivatives, model: nn.Module, x: Tensor, y: Tensor, compile: Callable
    ):
        for name, parameter in model.named_parameters():
            if parameter._backward_hooks:  # others are put in its place, without them
                raise NotImplementedError(f"{name} has a hook")
        self.held = dict(model.named_parameters()) | dict(model.named_buffers())
        graph, self.draws = _traced(derivatives, model, self.held, x, y)
        self.constants = _lifted(graph)
        self.call = compile(graph, self._inputs(x, y))

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Gradients, Tensor]:
        with torch.no_grad():
            for drawn, draw in self.draws:
                drawn.copy_(draw())
            *gradients, sums = self.call(*self._inputs(x, y))
        return tuple(gradients), sums

    def _inputs(self, x: Tensor, y: Tensor) -> list[Tensor]:
        return [*(v.detach() for v in self.held.values()), x, y, *self.constants]


def inductor(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Callable:
    """Compiled by torch's compiler, which keeps what it made by graph, version and processor, in
    the folder ``TORCHINDUCTOR_CACHE_DIR``.
    """
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import compile_fx
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    shapes = FakeTensorMode(shape_env=ShapeEnv())  # without one it keeps nothing
    sizes = [shapes.from_tensor(v, static_shapes=True) for v in inputs]  # else some are unknowns
    with torch.no_grad(), tracing(TracingContext(shapes)):
        compiled: Any = compile_fx(graph, sizes)
    return compiled


def whole(derivatives: Derivatives, model: nn.Module, x: Tensor, y: Tensor) -> Derivatives:
    """The derivatives as one compiled graph or, where that cannot be, as they are."""
    try:
        return Graph(derivatives, model, x, y, inductor)
    except Exception as error:
        said = str(error).strip().splitlines() or [""]
        warnings.warn(
            f"the training step is not compiled, {type(error).__name__}: {said[0]:.200}",
            stacklevel=2,
        )
        return derivatives


def _traced(
    derivatives: Derivatives, model: nn.Module, held: dict[str, Tensor], x: Tensor, y: Tensor
) -> tuple[fx.GraphModule, list[tuple[Tensor, Callable]]]:
    drawn = _Drawn()

    def step(*given: Tensor) -> tuple:
        swapped = dict(zip(held, given))
        with stateless._reparametrize_module(model, swapped), drawn:
            gradients, sums = derivatives(*given[len(held) :])
        return *gradients, sums

    given = [v.detach().clone().requires_grad_(v.requires_grad) for v in held.values()]
    graph = make_fx(step)(*given, x, y)
    for node in graph.graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise NotImplementedError(f"{node.target} draws from torch's global generator")
    return graph, drawn.draws


class _Drawn(TorchFunctionMode):
    """What is drawn from a generator is a constant of the graph, to be drawn anew in each step."""

    def __init__(self):
        super().__init__()
        self.draws: list[tuple[Tensor, Callable]] = []

    def __torch_function__(
        self, func: Callable, types: Any, args: Sequence = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is None:
            return func(*args, **kwargs)
        if any(isinstance(v, Tensor) for v in args):
            raise NotImplementedError(f"{func} draws in place")
        draw = partial(func, *args, **kwargs)
        with disable_proxy_modes_tracing():
            value = draw()
        self.draws.append((value, draw))
        return value


def _lifted(graph: fx.GraphModule) -> list[Tensor]:
    """The graph's constants, which become its last inputs."""
    constants, last = {}, [n for n in graph.graph.nodes if n.op == "placeholder"][-1]
    for node in [n for n in graph.graph.nodes if n.op == "get_attr"]:
        if node.target not in constants:
            with graph.graph.inserting_after(last):
                last = graph.graph.placeholder(str(node.target))
            constants[node.target] = (last, getattr(graph, str(node.target)))
        node.replace_all_uses_with(constants[node.target][0])
        graph.graph.erase_node(node)
    graph.recompile()
    return [value for _, value in constants.values()]

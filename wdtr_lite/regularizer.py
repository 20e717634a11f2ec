"""The penalties for training, and what training with noise penalises: the expansions of Theorem 1.

Here f is a classifier, images (B, C, H, W) -> outputs (B,) or (B, k); a loss takes outputs and labels to one number per
image, (B,), each from its own row. The expansions evaluate f several times: it must be deterministic and not couple images
(no dropout, batch normalisation in evaluation mode). The penalties take any model, in training mode too.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from wdtr_lite import calculus
from wdtr_lite.calculus import Estimate, _check_point, _derivative, _hessian_trace
from wdtr_lite.graph import PixelGraph, _check_floating, _check_generator, _check_whole, _eager
from wdtr_lite.metric import _apply, _grad_norm_sq, _mean_diagonal

__all__ = [
    "GradientPenalty",
    "SecondOrder",
    "Terms",
    "first_order_expansion",
    "laplacian_penalty",
    "perturbed_loss",
    "second_order_expansion",
]

Classifier = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


class SecondOrder(NamedTuple):
    r"""The terms of Theorem 1 per image.

    .. math:: \mathbb{E}\,l \approx \text{loss} + \tfrac12 \eta^2 (\text{gradient} + \text{laplacian})

    Taught in :doc:`chapter 6 </book/theorem_one>`.
    """

    loss: Tensor  # (B,), without noise
    gradient: Tensor  # (B,), l'' ||grad f||^2
    laplacian: Tensor  # (B,), l' times the Laplacian of f
    standard_error: Tensor  # (B,), of the Laplacian term


def _outputs(f: Classifier, x: Tensor) -> Tensor:
    """The outputs as (B, k)."""
    outputs = f(x)
    if not isinstance(outputs, Tensor):
        raise TypeError(f"f must return a tensor, got {type(outputs).__name__}")
    if outputs.shape[:1] != x.shape[:1] or outputs.dim() not in (1, 2):
        raise ValueError(f"f must return ({len(x)},) or ({len(x)}, k) outputs, got {tuple(outputs.shape)}")
    return outputs


def _values(loss: Loss, outputs: Tensor, y: Tensor) -> Tensor:
    value = loss(outputs, y)
    if value.shape != outputs.shape[:1]:
        raise ValueError(f"loss must return one number per image, ({len(outputs)},), got {tuple(value.shape)}")
    return value


def _rows(value: Tensor, at: Tensor) -> Tensor:
    """The derivative in `at` (B, ...) of each column of `value` (B, k), with its graph: (B, k, ...)."""
    rows = [
        torch.autograd.grad(column.sum(), at, create_graph=True, materialize_grads=True)[0]
        if column.requires_grad
        else torch.zeros_like(at)
        for column in value.T
    ]
    return torch.stack(rows, 1)


def _check(graph: PixelGraph | None, x: Tensor, *, interior: bool = False) -> None:
    _check_point(graph, x, interior=interior)
    if x.dim() != 4:
        raise ValueError(f"x must be (B, C, H, W), got {tuple(x.shape)}")


def second_order_expansion(
    loss: Loss,
    f: Classifier,
    graph: PixelGraph | None,
    x: Tensor,
    y: Tensor,
    *,
    volume: bool = False,
    estimator: str = "exact",
    samples: int = 100,
    generator: torch.Generator | None = None,
    create_graph: bool = False,
) -> SecondOrder:
    r"""Both terms of Theorem 1, for a twice differentiable loss and one or several outputs.

    For outputs :math:`f = (f_1, \dots, f_k)` and noise of mean zero and covariance :math:`\eta^2 L(x)`,

    .. math:: \mathbb{E}\,l(f(x + \xi), y) = l + \tfrac12 \eta^2 \Bigl[ \sum_{ab} \frac{\partial^2 l}{\partial f_a \partial f_b}
       \nabla f_a^\top L \nabla f_b + \sum_a \frac{\partial l}{\partial f_a} \Delta f_a \Bigr] + o(\eta^2).

    Several outputs are combined by the full Hessian of l in them, so that the two terms add up to the Laplacian of
    :math:`l \circ f` whatever l; the paper's mean of k separate losses is the case of a diagonal Hessian. The first term is not
    the penalty of Appendix D, :math:`\|\nabla (l \circ f)\|^2 = l'^2 \|\nabla f\|^2`.

    Parameters
    ----------
    loss : function of outputs (B,) or (B, k) and y -> (B,)
    f : function of images -> (B,) or (B, k)
    graph : PixelGraph or None
        None for Euclidean inputs: L(x) is the identity, :math:`\Delta` the ordinary Laplacian, x any real tensor.
    x : tensor, (B, C, H, W)
        Non-negative images; positive where `volume`.
    y : tensor
        Labels, handed to the loss.
    volume : bool
        False: :math:`\Delta f = \operatorname{tr}(L \nabla^2 f)`, right for additive noise :math:`x + \xi`. True: the
        Laplace–Beltrami operator, right for noise through the exponential map, :math:`\exp_x(\xi)`.
    estimator, samples, generator
        Of the Laplacian, as in :func:`~wdtr_lite.calculus.laplace_beltrami`.
    create_graph : bool
        Keep what is needed to differentiate the result in the parameters of f.

    Returns
    -------
    SecondOrder

    Raises
    ------
    ValueError, TypeError
        If f or the loss returns another shape, or as :func:`~wdtr_lite.calculus.laplace_beltrami`.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.regularizer import second_order_expansion
    >>> square = lambda output, y: (output - y) ** 2
    >>> mean = lambda x: x.mean((1, 2, 3))
    >>> terms = second_order_expansion(square, mean, None, torch.ones(1, 1, 2, 2), torch.zeros(1))
    >>> terms.gradient, terms.laplacian  # 2 ||grad f||^2 = 2 / 4, and a linear f has no Laplacian
    (tensor([0.5000]), tensor([0.]))

    References
    ----------
    Theorem 1 of Lin et al. (2019), made precise; Bishop (1995). Taught in :doc:`chapter 6 </book/theorem_one>`.
    """
    _check(graph, x, interior=volume)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        outputs = _outputs(f, leaf)
        value = _values(loss, outputs, y)
        flat = outputs.reshape(len(x), -1)
        first = _rows(value[:, None], outputs)[:, 0]  # l', of the shape of the outputs
        second = _rows(first.reshape(len(x), -1), outputs).reshape(len(x), flat.shape[1], -1)  # l'', (B, k, k)
        jacobian = _rows(flat, leaf)  # (B, k, C, H, W)
        raised = jacobian if graph is None else _apply(graph, x.detach()[:, None], jacobian)
        gradient = (second * (jacobian.flatten(2) @ raised.flatten(2).mT)).sum((1, 2))
        slope = _slope(loss, f, x, y) if create_graph else first.detach()
    if not create_graph:
        value, gradient = value.detach(), gradient.detach()
    laplacian = calculus.laplace_beltrami(
        _weighted(f, slope), graph, x.detach(),
        volume=volume, estimator=estimator, samples=samples, generator=generator, create_graph=create_graph,
    )  # fmt: skip
    return SecondOrder(value, gradient, laplacian.value, laplacian.standard_error)


def _slope(loss: Loss, f: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """The derivative l' of the loss in the outputs at x, which depends on the parameters of f but not on x."""
    with torch.enable_grad():
        outputs = _outputs(f, x.detach())
        at = outputs if outputs.requires_grad else outputs.detach().requires_grad_()
        slope = _rows(_values(loss, at, y)[:, None], at)[:, 0]
    return slope if outputs.requires_grad else slope.detach()


def _weighted(f: Classifier, slope: Tensor) -> Classifier:
    r"""The function whose Laplacian is :math:`\sum_a l'_a \Delta f_a`."""
    return lambda image: _per_image(slope * f(image)).sum(1)


def _per_image(outputs: Tensor) -> Tensor:
    """Outputs (B,) or (B, k) as (B, k)."""
    return outputs if outputs.dim() == 2 else outputs[:, None]


def first_order_expansion(
    loss: Loss, f: Classifier, x: Tensor, y: Tensor, mean: Tensor, *, create_graph: bool = False
) -> Tensor:
    r"""The first-order term for noise of non-zero mean, one number per image.

    .. math:: \mathbb{E}\,l(f(x + \xi), y) = l + \sum_a \frac{\partial l}{\partial f_a}\, \nabla f_a^\top\, \mathbb{E}\,\xi + O(\mathbb{E} \|\xi\|^2)

    Parameters
    ----------
    loss : function of outputs (B,) or (B, k) and y -> (B,)
    f : function of images -> (B,) or (B, k)
    x : tensor, (B, C, H, W)
    y : tensor
        Labels, handed to the loss.
    mean : tensor of the shape of x
        The mean of the noise, or the perturbation itself where it is deterministic.
    create_graph : bool
        As in :func:`second_order_expansion`.

    Returns
    -------
    tensor, (B,)

    Raises
    ------
    ValueError, TypeError
        If a shape differs, something is no floating tensor, or f or the loss returns another shape.

    References
    ----------
    Section 3 of Lin et al. (2019), below Theorem 1. Taught in :doc:`chapter 6 </book/theorem_one>`.
    """
    _check(None, x)
    _check_floating(mean, "mean")
    if mean.shape != x.shape:
        raise ValueError(f"mean must have the shape of x, {tuple(x.shape)}, got {tuple(mean.shape)}")
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = _values(loss, _outputs(f, leaf), y)
        if not value.requires_grad:
            return torch.zeros_like(value)
        grad = torch.autograd.grad(value.sum(), leaf, create_graph=create_graph, materialize_grads=True)[0]
    return (grad * mean).sum((1, 2, 3))


def perturbed_loss(
    loss: Loss, f: Classifier, x: Tensor, y: Tensor | Callable[[Tensor], Tensor], xi: Tensor
) -> Estimate:
    r"""The mean loss under perturbations, by Monte Carlo, one number per image.

    .. math:: \mathbb{E}\,l(f(x + \xi), y) \approx \frac1N \sum_{k=1}^{N} l(f(x + \xi_k), y)

    is the loss (3). With the truth, a function, in place of the labels it is the loss (2), whose label is that of
    :math:`x + \xi_k`; with one ξ = 0 it is a term of (1).

    Parameters
    ----------
    loss : function of outputs (B,) or (B, k) and y -> (B,)
    f : function of images -> (B,) or (B, k)
    x : tensor, (B, C, H, W)
    y : tensor, or function of images (B, C, H, W) -> tensor
        Labels, handed to the loss; or the truth, which labels each perturbed image.
    xi : tensor, (N, B, C, H, W)
        Perturbations, from :func:`~wdtr_lite.noise.sample` say.

    Returns
    -------
    Estimate
        ``value`` and ``standard_error`` over the N perturbations, (B,) each; the error of one is NaN.

    Raises
    ------
    ValueError, TypeError
        If a shape differs, something is no floating tensor, or f or the loss returns another shape.

    References
    ----------
    Equations (1) to (3) of Lin et al. (2019). Taught in :doc:`chapter 6 </book/theorem_one>`.
    """
    _check(None, x)
    _check_floating(xi, "xi")
    if xi.shape[1:] != x.shape or not len(xi):
        raise ValueError(f"xi must be (N, {', '.join(map(str, x.shape))}), got {tuple(xi.shape)}")
    truth = y if callable(y) else lambda image: y
    draws = torch.stack([_values(loss, _outputs(f, x + step), truth(x + step)) for step in xi])
    error = draws.std(0) if len(draws) > 1 else torch.full_like(draws[0], float("nan"))
    return Estimate(draws.mean(0), error / len(draws) ** 0.5)


class Terms(NamedTuple):
    """What one pass through the model gives.

    Taught in :doc:`chapter 7 </book/fast_penalty>`.
    """

    outputs: Tensor  # (B,) or (B, k)
    loss: Tensor  # (B,)
    penalty: Tensor  # (B,)


def _cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(outputs, y, reduction="none")


class GradientPenalty:
    r"""The squared norm of a classifier's input gradient, one number per image, ready to be trained with.

    .. math:: \nabla^\top G(x)^{-1} \nabla, \qquad \nabla = \frac{\partial\, \ell(f(x), y)}{\partial x}, \quad
       G(x)^{-1} = L(x) \text{ or } I

    is what Appendix D adds to the loss, times η². With a :class:`~wdtr_lite.graph.PixelGraph` this is Wasserstein
    regularisation, at the price of the Euclidean penalty.

    Parameters
    ----------
    metric : PixelGraph or "euclidean"
    of : {"loss", "logits", "margin"}
        Whose gradient: the loss's; each output's, the k squared norms summed (a discriminator has one output); or that
        of the true class's output minus the largest other.
    mode : {"double_backprop", "finite_difference"}
        How the penalty is differentiated in the parameters. Double back-propagation is exact. The finite difference
        needs first derivatives only: with :math:`w = 2 L g` held fixed, the derivative of :math:`g^\top L g` is that of
        :math:`[\ell(x + h w) - \ell(x)] / h`, one pass in one joint direction of the whole batch, so that
        batch normalisation sees the same mixture of images as g did. Its value is exact too.
    scale : {"trace", None}
        "trace" divides L(x) by its mean diagonal over the batch, so that radii and the Euclidean metric compare at the
        same η. None is the paper's.
    loss : function of outputs and y -> (B,)
        By default the cross-entropy.
    central : bool
        The difference :math:`[\ell(x + h w) - \ell(x - h w)] / 2 h`: more exact, two passes.
    step : float
        The largest Euclidean length of :math:`h w` among the images of a batch.

    Raises
    ------
    ValueError, TypeError
        If an option is none of these; when called, if x does not fit the graph or, with a graph, has a negative or
        non-finite pixel (normalisation belongs into the model), or the model or the loss returns another shape.
    RuntimeError
        In inference mode.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite import PixelGraph
    >>> from wdtr_lite.regularizer import GradientPenalty
    >>> x, y = torch.rand(8, 1, 28, 28), torch.arange(8)
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    >>> penalty = GradientPenalty(PixelGraph(28, 28, radius=4))
    >>> loss = torch.nn.functional.cross_entropy(model(x), y)
    >>> (loss + 0.1**2 * penalty(model, x, y).mean()).backward()

    Notes
    -----
    The images are taken as constants: nothing flows back to x. A model with batch normalisation is evaluated in the mode it
    is in, and a call does not move its running statistics; this needs the :class:`torch.nn.Module` itself, not a function
    around it, and no activation checkpointing around those layers. Under ``torch.no_grad()`` no graph is kept. Double
    back-propagation needs second derivatives, which torch lacks for compiled models and some fused operations, scaled
    dot-product attention's among them; finite differences do not.

    Finite differences are right for the sum, the mean and any equal weights of the numbers returned; with unequal weights
    only where the model does not couple the images. They ask for intensities in [0, 1] and a smooth model, without ReLU or
    max-pooling: a step that crosses a kink adds an error of order 1/h, which can be larger than the gradient. Under autocast
    they run in the type of x. All passes share their dropout masks, except under ``torch.func`` and CUDA-graph capture.

    References
    ----------
    Equation (7) and Appendix D of Lin et al. (2019); Drucker and LeCun (1992) for double back-propagation.
    Taught in :doc:`chapter 7 </book/fast_penalty>`.
    """

    def __init__(
        self,
        metric: PixelGraph | str,
        *,
        of: str = "loss",
        mode: str = "double_backprop",
        scale: str | None = "trace",
        loss: Loss = _cross_entropy,
        central: bool = False,
        step: float = 5e-3,
    ):
        self._graph = _graph(metric)
        _check_option(of, "of", ("loss", "logits", "margin"))
        _check_option(mode, "mode", ("double_backprop", "finite_difference"))
        _check_option(scale, "scale", ("trace", None))
        if not callable(loss):
            raise TypeError(f"loss must be a function, got {type(loss).__name__}")
        if isinstance(step, bool) or not isinstance(step, Real) or not 0 < step < float("inf"):
            raise ValueError(f"step must be a positive number, got {step!r}")
        if central and mode != "finite_difference":
            raise ValueError("central is an option of mode='finite_difference'")
        self.metric, self.of, self.mode, self.scale = metric, of, mode, scale
        self.loss, self.central, self.step = loss, bool(central), float(step)

    def __repr__(self) -> str:
        return f"GradientPenalty({self.metric!r}, of={self.of!r}, mode={self.mode!r}, scale={self.scale!r})"

    def __call__(self, model: Classifier, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The penalty of each image, (B,), of a model, images (B, C, H, W) and labels; `of="logits"` needs none."""
        with _fixed_statistics(model):
            return self._evaluate(model, x, y)[-1]

    def terms(self, model: Classifier, x: Tensor, y: Tensor) -> Terms:
        """Outputs, loss and penalty from one pass: a training step's fastest form; running statistics move once."""
        outputs, penalty = self._evaluate(model, x, y)
        return Terms(outputs, _values(self.loss, outputs, y), penalty)

    def _evaluate(self, model: Classifier, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """The model's outputs and the penalty."""
        x = _checked_batch(self._graph, x)
        if y is None and self.of != "logits":
            raise ValueError(f"y, the labels, must be given for of={self.of!r}")
        keep, difference = torch.is_grad_enabled(), self.mode == "finite_difference"
        with torch.autocast(x.device.type, enabled=False) if difference else nullcontext():
            again = _replay(x.device) if difference else nullcontext

            def columns(image):
                return self._columns(model, image, y)

            def perturbed(image):
                with again(), _fixed_statistics(model):
                    return columns(image)[0]

            outputs, values, gradients = _gradients(columns, x, create_graph=keep and not difference)
            if not keep:
                outputs, gradients = outputs.detach(), [g.detach() for g in gradients]
            if not keep or not difference:
                return outputs, sum(self._norm_sq(x, g) for g in gradients)
            penalty = x.new_zeros(len(x))
            for k, g in enumerate(g.detach() for g in gradients):
                change = self._change(lambda image, k=k: perturbed(image)[:, k], values[:, k], x, g)
                penalty = penalty + self._norm_sq(x, g) + (change - change.detach())
            return outputs, penalty

    def _change(self, at: Callable[[Tensor], Tensor], value: Tensor, x: Tensor, g: Tensor) -> Tensor:
        """The difference quotient of a function, of known value at x, along the joint direction 2 L g, (B,)."""
        w = 2 * g if self._graph is None else 2 * (_apply(self._graph, x, g) / self._unit(x)).detach()
        longest = F.pad(w.flatten(1).norm(dim=1), (0, 1)).amax()  # 0 of no images
        w = w * (self.step / longest.where(longest > 0, 1))
        ahead = at(x + w)
        difference = (ahead - at(x - w)) / 2 if self.central else ahead - value
        return difference * (longest / self.step)

    def _columns(self, model: Classifier, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """The functions whose gradients are penalised, (B, k), and the model's outputs."""
        outputs = _outputs(model, x)
        if self.of == "loss":
            return _values(self.loss, outputs, y)[:, None], outputs
        if self.of == "logits":
            return _per_image(outputs), outputs
        if outputs.dim() != 2 or outputs.shape[1] < 2:
            raise ValueError(f"of='margin' needs at least two outputs per image, got {tuple(outputs.shape)}")
        _check_classes(y, outputs)
        true = y[:, None] == torch.arange(outputs.shape[1], device=outputs.device)
        return (outputs.where(true, 0).sum(1) - outputs.where(~true, -torch.inf).amax(1))[:, None], outputs

    def _norm_sq(self, x: Tensor, g: Tensor) -> Tensor:
        if self._graph is None:
            return (g * g).flatten(1).sum(1)
        return _grad_norm_sq(self._graph, x, g) / self._unit(x)

    def _unit(self, x: Tensor) -> Tensor | float:
        return _trace_unit(self._graph, x) if self.scale else 1.0


def laplacian_penalty(
    metric: PixelGraph | str,
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator,
    samples: int = 1,
    scale: str | None = "trace",
    loss: Loss = _cross_entropy,
) -> Tensor:
    r"""The second term of Theorem 1, by random projections, one number per image, differentiable in the parameters.

    .. math:: \sum_k \frac{\partial \ell}{\partial f_k}\, \Delta f_k, \qquad
       \Delta f_k = \operatorname{tr}(L(x) \nabla^2 f_k) \text{ or } \operatorname{tr}(\nabla^2 f_k)

    Parameters
    ----------
    metric : PixelGraph or "euclidean"
    model : function of images -> (B,) or (B, k)
        Twice differentiable: with ReLU the term is 0.
    x : tensor, (B, C, H, W)
        Non-negative images.
    y : tensor
        Labels, handed to the loss.
    generator : torch.Generator
        Of the projections, on the device of x.
    samples : int
        Projections per image. The result is unbiased whatever their number, and may be negative.
    scale : {"trace", None}
        As in :class:`GradientPenalty`.
    loss : function of outputs and y -> (B,)
        By default the cross-entropy.

    Returns
    -------
    tensor, (B,)

    Raises
    ------
    ValueError, TypeError
        If an argument is none of these, or as :func:`~wdtr_lite.calculus.laplace_beltrami`.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.regularizer import laplacian_penalty
    >>> square = lambda x: (x**2).sum((1, 2, 3))  # its Laplacian is 2 n
    >>> identity = lambda outputs, y: outputs
    >>> generator = torch.Generator().manual_seed(0)
    >>> laplacian_penalty("euclidean", square, torch.ones(1, 1, 2, 2), None, generator=generator, loss=identity).item()
    8.0

    References
    ----------
    Theorem 1 of Lin et al. (2019); Hutchinson (1989) for the trace. Taught in :doc:`chapter 7 </book/fast_penalty>`.
    """
    graph = _graph(metric)
    _check_option(scale, "scale", ("trace", None))
    x = _checked_batch(graph, x)
    _check_whole(samples, "samples")
    _check_generator(generator, x)
    keep = torch.is_grad_enabled()
    with _fixed_statistics(model):
        slope = _slope(loss, model, x, y)
        leaf, grad = _derivative(_weighted(model, slope if keep else slope.detach()), x, create_graph=True)
        trace = _hessian_trace(grad, leaf, _signs(graph, leaf.detach(), samples, generator), keep) / samples
    return trace if graph is None or scale is None else trace / _trace_unit(graph, x)


def _signs(graph: PixelGraph | None, x: Tensor, samples: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs z, L z of random signs z: the expectation of z'L H z is the trace of L H."""
    for _ in range(samples):
        z = torch.randint(2, x.shape, generator=generator, device=x.device).to(x.dtype) * 2 - 1
        yield z, z if graph is None else _apply(graph, x, z)


def _gradients(columns, x: Tensor, *, create_graph: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Outputs, columns (B, k), and the gradient in x of each column's sum, k times (B, C, H, W)."""
    if torch._C._are_functorch_transforms_active():
        values, pull, outputs = torch.func.vjp(columns, x, has_aux=True)
        units = torch.eye(values.shape[1], dtype=values.dtype, device=values.device)
        return outputs, values, [pull(unit.expand_as(values))[0] for unit in units]
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        values, outputs = columns(leaf)
        if not values.requires_grad:
            return outputs, values, [torch.zeros_like(x) for _ in values.T]
        gradients = [
            torch.autograd.grad(column.sum(), leaf, create_graph=create_graph, retain_graph=True, materialize_grads=True)[0]
            for column in values.unbind(1)
        ]
    return outputs, values, gradients


@contextmanager
def _fixed_statistics(model: Classifier) -> Iterator[None]:
    """Normalisation layers in training mode use the batch's statistics, and neither their running ones nor the singular
    vectors of spectral normalisation move."""
    before = []
    for layer in model.modules() if isinstance(model, nn.Module) else []:
        changes = _fixing(layer) if layer.training else {}
        before.append((layer, {name: getattr(layer, name) for name in changes}))
        vars(layer).update(changes)
    try:
        yield
    finally:
        for layer, values in before:
            vars(layer).update(values)


def _fixing(layer: nn.Module) -> dict:
    """The attributes with which a layer in training mode moves nothing."""
    if isinstance(layer, _NormBase):
        return {"track_running_stats": False, "momentum": 0.0}
    hooks = layer._forward_pre_hooks.values()
    if isinstance(layer, _SpectralNorm) or any(isinstance(hook, SpectralNorm) for hook in hooks):
        return {"training": False}
    return {}


def _replay(device: torch.device) -> Callable[[], AbstractContextManager]:
    """A context in which torch's global generators repeat what they give from here on: the same dropout masks."""
    cuda = device.type == "cuda"
    if torch._C._are_functorch_transforms_active() or (cuda and torch.cuda.is_current_stream_capturing()):
        return nullcontext
    state, device_state = torch.get_rng_state(), torch.cuda.get_rng_state(device) if cuda else None

    @contextmanager
    def again():
        with torch.random.fork_rng([device] if cuda else []):
            torch.set_rng_state(state)
            if cuda:
                torch.cuda.set_rng_state(device_state, device)
            yield

    return again


def _trace_unit(graph: PixelGraph, x: Tensor) -> Tensor:
    """The mean diagonal of L(x), or 1 where all is black."""
    unit = _mean_diagonal(graph, x)
    return unit.where(unit > 0, 1)


def _graph(metric: PixelGraph | str) -> PixelGraph | None:
    if isinstance(metric, PixelGraph):
        return metric
    if metric != "euclidean":
        raise ValueError(f"metric must be a PixelGraph or 'euclidean', got {metric!r}")
    return None


def _check_option(value: str | None, name: str, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _check_classes(y: Tensor, outputs: Tensor) -> None:
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != outputs.shape[:1]:
        raise ValueError(f"y must be int64 classes ({len(outputs)},)")
    if _eager(y) and len(y) and not bool(((y >= 0) & (y < outputs.shape[1])).all()):
        raise ValueError(f"y must be classes from 0 to {outputs.shape[1] - 1}")


def _checked_batch(graph: PixelGraph | None, x: Tensor) -> Tensor:
    """The images as constants."""
    _check(graph, x)
    if x.is_inference() or torch.is_inference_mode_enabled():
        raise RuntimeError("there are no gradients in inference mode: use torch.no_grad() for evaluation")
    return x.detach()

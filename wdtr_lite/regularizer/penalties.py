"""The penalties for training, for any model, in training mode too."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wdtr_lite import checks
from wdtr_lite.calculus import derivatives
from wdtr_lite.graph import PixelGraph
from wdtr_lite.metric import operators
from wdtr_lite.regularizer import forward
from wdtr_lite.regularizer.forward import Classifier, Loss


class Terms(NamedTuple):
    """What one pass through the model gives."""

    outputs: Tensor  # (B,) or (B, k)
    loss: Tensor  # (B,)
    penalty: Tensor  # (B,)


class GradientPenalty:
    r"""The squared norm of a classifier's input gradient, one number per image, ready to be trained
    with.

    .. math:: \nabla^\top G(x)^{-1} \nabla, \qquad \nabla = \frac{\partial\, \ell(f(x), y)}{\partial x}, \quad
       G(x)^{-1} = L(x) \text{ or } I

    is what Appendix D adds to the loss, times η². With a :class:`~wdtr_lite.graph.PixelGraph` this
    is Wasserstein regularisation, at the price of the Euclidean penalty.

    Parameters
    ----------
    metric : PixelGraph or "euclidean"
    of : {"loss", "logits", "margin"}
        Whose gradient: the loss's; each output's, the k squared norms summed (a discriminator has
        one output); or that of the true class's output minus the largest other.
    mode : {"double_backprop", "finite_difference"}
        How the penalty is differentiated in the parameters. Double back-propagation is exact. The
        finite difference needs first derivatives only: with :math:`w = 2 L g` held fixed, the
        derivative of :math:`g^\top L g` is that of :math:`[\ell(x + h w) - \ell(x)] / h`, one pass
        in one joint direction of the whole batch, so that batch normalisation sees the same mixture
        of images as g did. Its value is exact too.
    scale : {"trace", None}
        "trace" divides L(x) by its mean diagonal over the batch, so that radii and the Euclidean
        metric compare at the same η. None is the paper's.
    loss : function of outputs and y -> (B,)
        By default the cross-entropy.
    central : bool
        The difference :math:`[\ell(x + h w) - \ell(x - h w)] / 2 h`: more exact, two passes.
    step : float
        The largest Euclidean length of :math:`h w` among the images of a batch.

    Raises
    ------
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
    The images are taken as constants: nothing flows back to x. A model with batch normalisation is
    evaluated in the mode it is in, and a call does not move its running statistics; this needs the
    :class:`torch.nn.Module` itself, not a function around it, and no activation checkpointing
    around those layers. Under ``torch.no_grad()`` no graph is kept. Double back-propagation needs
    second derivatives, which torch lacks for compiled models and some fused operations, scaled
    dot-product attention's among them; finite differences do not.

    Finite differences are right for the sum, the mean and any equal weights of the numbers
    returned; with unequal weights only where the model does not couple the images. They ask for
    intensities in [0, 1] and a smooth model, without ReLU or max-pooling: a step that crosses a
    kink adds an error of order 1/h, which can be larger than the gradient. Under autocast they run
    in the type of x. All passes share their dropout masks, except under ``torch.func`` and
    CUDA-graph capture.

    References
    ----------
    Equation (7) and Appendix D of Lin et al. (2019); Drucker and LeCun (1992) for double
    back-propagation.
    """

    def __init__(
        self,
        metric: PixelGraph | str,
        *,
        of: str = "loss",
        mode: str = "double_backprop",
        scale: str | None = "trace",
        loss: Loss = forward.cross_entropy,
        central: bool = False,
        step: float = 5e-3,
    ):
        self._graph = _graph(metric)
        checks.option(of, "of", ("loss", "logits", "margin"))
        checks.option(mode, "mode", ("double_backprop", "finite_difference"))
        checks.option(scale, "scale", ("trace", None))
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
        """The penalty of each image, (B,), of a model, images (B, C, H, W) and labels;
        `of="logits"` needs none.
        """
        with forward.fixed_statistics(model):
            return self._evaluate(model, x, y)[-1]

    def terms(self, model: Classifier, x: Tensor, y: Tensor) -> Terms:
        """Outputs, loss and penalty from one pass: a training step's fastest form; running
        statistics move once.
        """
        outputs, penalty = self._evaluate(model, x, y)
        return Terms(outputs, forward.losses_of(self.loss, outputs, y), penalty)

    def _evaluate(self, model: Classifier, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """The model's outputs and the penalty."""
        x = forward.checked_batch(self._graph, x)
        if y is None and self.of != "logits":
            raise ValueError(f"y, the labels, must be given for of={self.of!r}")
        keep, difference = torch.is_grad_enabled(), self.mode == "finite_difference"
        with torch.autocast(x.device.type, enabled=False) if difference else nullcontext():
            again = forward.replay(x.device) if difference else nullcontext

            def columns(image):
                return self._columns(model, image, y)

            def perturbed(image):
                with again(), forward.fixed_statistics(model):
                    return columns(image)[0]

            outputs, values, gradients = forward.input_gradients(
                columns, x, create_graph=keep and not difference
            )
            if not keep:
                outputs, gradients = outputs.detach(), [g.detach() for g in gradients]
            if not keep or not difference:
                return outputs, sum(self._norm_sq(x, g) for g in gradients)
            penalty = x.new_zeros(len(x))
            for k, g in enumerate(g.detach() for g in gradients):
                change = self._change(lambda image, k=k: perturbed(image)[:, k], values[:, k], x, g)
                penalty = penalty + self._norm_sq(x, g) + (change - change.detach())
            return outputs, penalty

    def _change(
        self, at: Callable[[Tensor], Tensor], value: Tensor, x: Tensor, g: Tensor
    ) -> Tensor:
        """The difference quotient of a function, of known value at x, along the joint direction 2
        L g, (B,).
        """
        w = (
            2 * g
            if self._graph is None
            else 2 * (operators.product(self._graph, x, g) / self._unit(x)).detach()
        )
        longest = F.pad(w.flatten(1).norm(dim=1), (0, 1)).amax()  # 0 of no images
        w = w * (self.step / longest.where(longest > 0, 1))
        ahead = at(x + w)
        difference = (ahead - at(x - w)) / 2 if self.central else ahead - value
        return difference * (longest / self.step)

    def _columns(self, model: Classifier, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """The functions whose gradients are penalised, (B, k), and the model's outputs."""
        outputs = forward.outputs_of(model, x)
        if self.of == "loss":
            return forward.losses_of(self.loss, outputs, y)[:, None], outputs
        if self.of == "logits":
            return forward.as_columns(outputs), outputs
        if outputs.dim() != 2 or outputs.shape[1] < 2:
            raise ValueError(
                f"of='margin' needs at least two outputs per image, got {tuple(outputs.shape)}"
            )
        forward.check_classes(y, outputs)
        true = y[:, None] == torch.arange(outputs.shape[1], device=outputs.device)
        return (outputs.where(true, 0).sum(1) - outputs.where(~true, -torch.inf).amax(1))[
            :, None
        ], outputs

    def _norm_sq(self, x: Tensor, g: Tensor) -> Tensor:
        if self._graph is None:
            return (g * g).flatten(1).sum(1)
        return operators.grad_norm_sq(self._graph, x, g) / self._unit(x)

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
    loss: Loss = forward.cross_entropy,
) -> Tensor:
    r"""The second term of Theorem 1, by random projections, one number per image, differentiable in
    the parameters.

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
    Theorem 1 of Lin et al. (2019); Hutchinson (1989) for the trace.
    """
    graph = _graph(metric)
    checks.option(scale, "scale", ("trace", None))
    x = forward.checked_batch(graph, x)
    checks.whole(samples, "samples")
    checks.generator(generator, x)
    keep = torch.is_grad_enabled()
    with forward.fixed_statistics(model):
        slope = forward.loss_slope(loss, model, x, y)
        leaf, grad = derivatives.differentiate(
            forward.weighted_outputs(model, slope if keep else slope.detach()), x, create_graph=True
        )
        trace = (
            derivatives.hessian_trace(
                grad, leaf, _signs(graph, leaf.detach(), samples, generator), keep
            )
            / samples
        )
    return trace if graph is None or scale is None else trace / _trace_unit(graph, x)


def _signs(
    graph: PixelGraph | None, x: Tensor, samples: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs z, L z of random signs z: the expectation of z'L H z is the trace of L H."""
    for _ in range(samples):
        z = torch.randint(2, x.shape, generator=generator, device=x.device).to(x.dtype) * 2 - 1
        yield z, z if graph is None else operators.product(graph, x, z)


def _trace_unit(graph: PixelGraph, x: Tensor) -> Tensor:
    """The mean diagonal of L(x), or 1 where all is black."""
    unit = operators.mean_diagonal(graph, x)
    return unit.where(unit > 0, 1)


def _graph(metric: PixelGraph | str) -> PixelGraph | None:
    if isinstance(metric, PixelGraph):
        return metric
    if metric != "euclidean":
        raise ValueError(f"metric must be a PixelGraph or 'euclidean', got {metric!r}")
    return None

"""The penalties for training, for any model, in training mode too."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wdtr_lite import checks
from wdtr_lite.calculus import derivatives
from wdtr_lite.graph import PixelGraph
from wdtr_lite.models import Classifier
from wdtr_lite.models.modes import used
from wdtr_lite.regularizer import differences
from wdtr_lite.regularizer.forward import (
    Loss,
    as_columns,
    checked_batch,
    cross_entropy,
    differentiable_losses,
    fixed_statistics,
    input_gradients,
    losses_of,
    outputs_of,
    replay,
)
from wdtr_lite.regularizer.norms import InputNorm, input_norm

OF = ("loss", "logits", "margin", "logit_differences")
"""Whose gradient a :class:`GradientPenalty` can measure."""

MODES = ("double_backprop", "finite_difference")
"""How it can be differentiated in the parameters."""

_BYTES = 100, 255  # images whose largest pixel lies between have hardly been divided by 255


class Terms(NamedTuple):
    """What one pass through the model gives."""

    outputs: Tensor  # (B,) or (B, k); the ``.logits`` of a model that returns an object
    loss: Tensor  # (B,)
    penalty: Tensor  # (B,)


class GradientPenalty(checks.Fixed):
    r"""The squared norm of a classifier's input gradient, one number per image, ready to be trained
    with.

    .. math:: \nabla^\top G(x)^{-1} \nabla, \qquad
       \nabla = \frac{\partial\, \ell(f(x), y)}{\partial x}, \quad
       G(x)^{-1} = L(x) \text{ or } I

    is what Appendix D adds to the loss, times η². With a :class:`~wdtr_lite.graph.PixelGraph` this
    is Wasserstein regularisation, at the price of the Euclidean penalty. It is a module: held by
    another one, it moves with it.

    Parameters
    ----------
    metric : PixelGraph, "euclidean", "l1", "linf" or InputNorm
        The norm: :class:`Wasserstein` on the graph, :class:`Euclidean`, :class:`L1`, :class:`LInf`,
        or your own.
    of : {"loss", "logits", "margin", "logit_differences"}
        Whose gradient: the loss's; each output's, the k squared norms summed (a discriminator has
        one output); that of the true class's output minus the largest other; or, of each output
        less the mean of all, :math:`\tfrac2k \sum_m \|\nabla (f_m - \bar f)\|^2`, which in
        the Euclidean and the Wasserstein norm is cross-Lipschitz regularisation,
        :math:`k^{-2} \sum_{ab} \|\nabla f_a - \nabla f_b\|^2`.
    mode : {"double_backprop", "finite_difference"}
        How the penalty is differentiated in the parameters. Double back-propagation is exact. The
        finite difference needs first derivatives only: with w held fixed, the derivative of the
        squared norm in the gradient, :math:`2 L g` of :math:`g^\top L g`, the derivative in the
        parameters is that of :math:`[\ell(x + h w) - \ell(x)] / h`, one pass in one joint
        direction of the whole batch, so that batch normalisation sees the same mixture of images as
        g did. Its value is exact too.
    scale : {"trace", None}
        Of a PixelGraph: "trace" divides L(x) by its mean diagonal over the batch, so that radii and
        the Euclidean metric compare at the same η. None is the paper's.
    loss : function of outputs and y -> (B,)
        By default the cross-entropy.
    central : bool
        The difference :math:`[\ell(x + h w) - \ell(x - h w)] / 2 h`: more exact, two passes.
    step : float
        The largest Euclidean length of :math:`h w` among the images of a batch.

    Raises
    ------
    RuntimeError
        In inference mode. Of a finite difference whose passes draw other numbers than one another.

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
    evaluated in the mode it is in, and a call moves neither its running statistics nor the vectors
    of spectral normalisation, which are used as they are; those of the older
    ``nn.utils.spectral_norm``, if no pass in training mode has made them, as the next would. This
    needs the :class:`torch.nn.Module` itself, not a function around it, and no activation
    checkpointing around those layers, whose repetition moves them. Under ``torch.no_grad()`` no
    graph is kept. Double back-propagation needs second derivatives, which torch lacks for compiled
    models and some fused operations, as of attention; finite differences do not.

    Finite differences are right for the sum, the mean and any equal weights of the numbers
    returned; with unequal weights only where the model does not couple the images, and their
    gradients are not orders of magnitude apart. They can be differentiated once, which
    ``torch.func`` does not tell. They ask for intensities in [0, 1] in float32 or float64 and a
    smooth model: across the kinks of ReLU or max-pooling the derivative is mostly noise, many times
    too long. The quotient's own value is known, :math:`2 g^\top L g`. Both are looked at in the
    calls 1, 2, 4, 8, …, and a warning says once what is wrong, and which `step` is better. It comes
    where 3 % of that value are missed; the derivative in the parameters may miss several times as
    much, 10 % of an EfficientNet's say. The kinks of ``x * (x > 0)`` are not seen. Nor is, but for
    what that value misses, that gradients are other than the values' slopes: by hooks and functions
    of your own, clipping say, or by ``detach()`` in a normalisation or loss, which the perturbed
    passes compute anew. The penalty's derivative is wrong then; the loss of :meth:`terms` is
    differentiated by a pass of its own. Under autocast they run in the type of x; call
    ``backward()`` outside it. All passes share the dropout masks of torch's global generators,
    except under ``torch.func`` and CUDA-graph capture, and see the buffers that the first one saw.
    So those of several threads take turns, and raise where another thread draws from these
    generators meanwhile. They have derivatives, and so has the loss that comes with them, in
    parameters and in what was computed from them before the call, not in the outputs and what else
    the model computes on the way; a model that takes gradients in its images needs the other mode.

    References
    ----------
    Equation (7) and Appendix D of Lin et al. (2019); Drucker and LeCun (1992) for double
    back-propagation; Finlay and Oberman (2019) for the norms L1 and L-infinity; Hein and
    Andriushchenko (2017) for the logit differences.
    """

    _fixed = "of", "mode", "loss", "central", "step"

    def __init__(
        self,
        metric: PixelGraph | InputNorm | str,
        *,
        of: str = "loss",
        mode: str = "double_backprop",
        scale: str | None = "trace",
        loss: Loss = cross_entropy,
        central: bool = False,
        step: float = 5e-3,
    ):
        super().__init__()
        self.norm = input_norm(metric, scale)
        checks.option(of, "of", OF)
        checks.option(mode, "mode", MODES)
        checks.function(loss, "loss")
        self.central, self.step = checks.flag(central, "central"), checks.stride(step)
        difference = mode == "finite_difference"
        if central and not difference:
            raise ValueError(f"central is an option of mode='finite_difference', got {mode=}")
        needed = ("norm_sq", "direction") if difference else ("norm_sq",)
        checks.defined(self.norm, "metric", InputNorm, *needed)
        self.of, self.mode, self.loss = of, mode, loss
        self._calls, self._warned, self._linear = 0, False, True
        own = isinstance(metric, InputNorm)
        self._choices = f"{metric!r}, {of=}, {mode=}" + ("" if own else f", {scale=}")
        if difference:
            self._choices += f", {central=}, {step=}"

    def __repr__(self) -> str:
        return f"GradientPenalty({self._choices})"

    def forward(self, model: Classifier, x: Tensor, y: Any = None) -> Tensor:
        """The penalty of each image.

        Parameters
        ----------
        model : function of images -> (B,) or (B, k), or object whose ``.logits`` are these
        x : tensor, (B, C, H, W)
            Images that the norm is for; of a PixelGraph non-negative ones.
        y : tensor, optional
            Labels, handed to the loss. Of "margin" int64 classes (B,); "logits" and
            "logit_differences" need none.

        Returns
        -------
        tensor, (B,)
        """
        with fixed_statistics(model, *self._more()):
            return self._evaluate(model, x, y)[-1]

    def terms(self, model: Classifier, x: Tensor, y: Any) -> Terms:
        """Outputs, loss and penalty from one pass: a training step's fastest form.

        Arguments are those of a call. Running statistics move once.
        """
        with used(model, *self._more()):
            outputs, values, penalty = self._evaluate(model, x, y)
        loss = values[:, 0] if self.of == "loss" else losses_of(self.loss, outputs, y)
        return Terms(outputs, loss, penalty)

    def _square(self, x: Tensor, g: Tensor) -> Tensor:
        """The squared norm, (B,), of which autograd sees the way from the gradient."""
        square = checks.per_image(self.norm.norm_sq(x, g), x, "norm_sq")
        return checks.tracked(square, "norm_sq", "g") if g.requires_grad else square

    def _more(self) -> tuple:
        return (replay,) if self.mode == "finite_difference" else ()

    def _evaluate(self, model: Classifier, x: Tensor, y: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The model's outputs, the functions whose gradients are penalised, (B, k), and the
        penalty.
        """
        x = checked_batch(self.norm, x)
        checks.function(model, "model")
        if self.mode == "finite_difference":
            checks.precise(x, "mode='finite_difference'")
        if y is None and self.of in ("loss", "margin"):
            raise ValueError(f"y must be given for of={self.of!r}, got None")
        keep, difference = torch.is_grad_enabled(), self.mode == "finite_difference"
        eager = keep and checks.eager(x)
        with torch.autocast(x.device.type, enabled=False) if difference else nullcontext():
            once = replay(model, x.device) if difference else nullcontext

            def columns(image: Tensor) -> tuple[Tensor, Tensor]:
                with once():
                    return self._columns(model, image, y)

            outputs, values, gradients = input_gradients(
                columns,
                x,
                create_graph=keep and not difference,
                one_pass=(lambda: self._linear) if eager and difference else None,
            )
            if difference or not keep:
                gradients = [g.detach() for g in gradients]
            squares = [self._square(x, g) for g in gradients]
            penalty = sum(squares, x.new_zeros(len(x)))
            if difference and keep:
                penalty = penalty + self._changes(columns, values, outputs, x, gradients, squares)
        if eager and not difference:
            self._warn_of_bytes(x)
            another = "mode='finite_difference', or another function"
            derivatives.explain_missing(penalty, "model", another)
        return (outputs, values, penalty) if keep else (outputs.detach(), values.detach(), penalty)

    def _changes(
        self,
        columns: Callable[[Tensor], tuple[Tensor, Tensor]],
        values: Tensor,
        outputs: Tensor,
        x: Tensor,
        gradients: list[Tensor],
        squares: list[Tensor],
    ) -> Tensor:
        """Zero, (B,), with the derivative of the squared norms in the parameters: the difference
        quotient of each column along the joint direction of the norm's derivative.
        """
        directions = [self.norm.direction(x, g) for g in gradients]
        for w in directions:
            checks.alike(w, x, "what direction returns")
        directions = [w.detach() for w in directions]
        found = differences.changes(columns, values, x, directions, self.step, self.central)

        @torch.no_grad()
        def missed(step: float) -> float:
            others = differences.changes(columns, values, x, directions, step, self.central)
            return differences.miss(others, values, gradients, directions)

        def bends() -> bool:
            return differences.bends(columns, x, gradients, directions, self.step, self.central)

        if checks.eager(x) and self._due():
            off = differences.miss(found, values, gradients, directions)
            self._linear = off <= differences.TOLERANCE
            self._warn(
                differences.direction_warning(squares, gradients, directions)
                or differences.kink_warning(outputs, bends)
                or differences.rounding_warning(self.step, x)
                or differences.step_warning(self.step, off, missed)
            )
        total = x.new_zeros(len(x))
        for change in found:
            total = total + (change - change.detach())
        total.detach().zero_()  # which NaN is not, that infinite values leave
        return total

    def _warn_of_bytes(self, x: Tensor) -> None:
        """At the first call: a look costs a GPU a wait."""
        self._calls += 1
        reach = float(x.abs().amax()) if self._calls == 1 and x.numel() else 0.0
        if _BYTES[0] < reach <= _BYTES[1]:
            self._warn(
                f"x reaches {reach:g}: the penalty's weight is meant for intensities in [0, 1], "
                "divide by 255"
            )

    def _due(self) -> bool:
        """At the calls 1, 2, 4, 8, …: a look costs a GPU a wait."""
        self._calls += 1
        return self._calls & (self._calls - 1) == 0

    def _warn(self, text: str | None) -> None:
        """Once."""
        if text and not self._warned:
            self._warned = True
            warnings.warn(text, stacklevel=2)

    def _columns(self, model: Classifier, x: Tensor, y: Any) -> tuple[Tensor, Tensor]:
        """The functions whose gradients are penalised, (B, k), and the model's outputs."""
        outputs = outputs_of(model, x)
        if self.of == "loss":
            return differentiable_losses(self.loss, outputs, y)[:, None], outputs
        if self.of == "logits":
            return as_columns(outputs), outputs
        if outputs.dim() != 2 or outputs.shape[1] < 2:
            raise ValueError(
                f"model must return at least two outputs per image for of={self.of!r}, "
                f"got {tuple(outputs.shape)}"
            )
        if self.of == "margin":
            return _margin(outputs, y)[:, None], outputs
        factor = (2 / outputs.shape[1]) ** 0.5
        return factor * (outputs - outputs.mean(1, keepdim=True)), outputs


def _margin(outputs: Tensor, y: Tensor) -> Tensor:
    """The output of the true class minus the largest other, (B,)."""
    checks.labels(y, outputs)
    checks.of_model(y, outputs)
    true = y[:, None] == torch.arange(outputs.shape[1], device=outputs.device)
    return outputs.where(true, 0).sum(1) - outputs.where(~true, -torch.inf).amax(1)

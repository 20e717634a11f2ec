"""The second term of Theorem 1, for training."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from wdtr_lite import checks
from wdtr_lite.calculus import derivatives
from wdtr_lite.graph import PixelGraph
from wdtr_lite.models import Classifier
from wdtr_lite.regularizer.forward import (
    Loss,
    checked_batch,
    cross_entropy,
    fixed_statistics,
    loss_slope,
    replay,
    weighted_outputs,
)
from wdtr_lite.regularizer.norms import Wasserstein, input_norm


def laplacian_penalty(
    metric: PixelGraph | str,
    model: Classifier,
    x: Tensor,
    y: Any,
    *,
    generator: torch.Generator,
    samples: int = 1,
    scale: str | None = "trace",
    loss: Loss = cross_entropy,
) -> Tensor:
    r"""The second term of Theorem 1, by random projections, one number per image.

    .. math:: \sum_k \frac{\partial \ell}{\partial f_k}\, \Delta f_k, \qquad
       \Delta f_k = \operatorname{tr}(L(x) \nabla^2 f_k) \text{ or } \operatorname{tr}(\nabla^2 f_k)

    Differentiable in the parameters.

    Parameters
    ----------
    metric : PixelGraph or "euclidean"
    model : function of images -> (B,) or (B, k), or object whose ``.logits`` are these
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
    >>> x, rng = torch.ones(1, 1, 2, 2), torch.Generator().manual_seed(0)
    >>> laplacian_penalty("euclidean", square, x, None, generator=rng, loss=identity).item()
    8.0

    References
    ----------
    Theorem 1 of Lin et al. (2019); Hutchinson (1989) for the trace.
    """
    checks.metric(metric)
    norm = input_norm(metric, scale)
    x = checked_batch(norm, x)
    checks.function(model, "model")
    checks.function(loss, "loss")
    samples = checks.repeats(samples, "samples")
    checks.generator(generator, x)
    keep = torch.is_grad_enabled()
    with fixed_statistics(model, replay):
        once = replay(model, x.device)
        with once():
            slope = loss_slope(loss, model, x, y)
        weighted = weighted_outputs(model, slope if keep else slope.detach())
        with once():
            leaf, grad = derivatives.differentiate(weighted, x, create_graph=True, name="model")
        checks.differentiable(grad if grad.grad_fn or grad.any() else None)
        if keep:
            derivatives.refuse_wrong_thirds(grad, "model")
        signs = _signs(metric, leaf.detach(), samples, generator)
        trace = derivatives.hessian_trace(grad, leaf, signs, keep) / samples
    return trace / norm.unit(x) if isinstance(norm, Wasserstein) else trace


def _signs(
    metric: PixelGraph | str, x: Tensor, samples: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs z, L z of random signs z: the expectation of z'L H z is the trace of L H."""
    for _ in range(samples):
        z = torch.randint(2, x.shape, generator=generator, device=x.device).to(x.dtype) * 2 - 1
        yield z, derivatives.raised(metric, x, z)

"""Layers that differentiate, at every order, into the library's own kernels.

Torch's second derivative of a convolution lays out copies and convolves with kernels as large as
the image, those of batch normalisation and of smooth activations pass many times over their input,
and the third derivatives of batch, layer and instance normalisation take mean and variance for
constants. Within :class:`LibraryKernels` these functions have the same values and other
derivatives.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from wdtr_lite.kernels import activation, convolution, normalization

__all__ = ["REPLACED", "LibraryKernels"]

REPLACED = {
    torch.conv1d: partial(convolution.convolution, 1),
    torch.conv2d: partial(convolution.convolution, 2),
    torch.conv3d: partial(convolution.convolution, 3),
    torch.conv_transpose1d: partial(convolution.transposed, 1),
    torch.conv_transpose2d: partial(convolution.transposed, 2),
    torch.conv_transpose3d: partial(convolution.transposed, 3),
    F.batch_norm: normalization.batch_norm,
    F.layer_norm: normalization.layer_norm,
    F.group_norm: normalization.group_norm,
    F.instance_norm: normalization.instance_norm,
    F.softplus: activation.softplus,
    F.silu: activation.silu,
    F.gelu: activation.gelu,
}
"""Which functions of torch are replaced by which.

:meta hide-value:
"""


class LibraryKernels(TorchFunctionMode):
    r"""A context in which the convolutions, normalisations and smooth activations (softplus, SiLU,
    GELU) that a model calls, whosever it is, are those of this package.

    The values are torch's; layer, group and instance normalisation of float16 and bfloat16 compute
    in float32. With :math:`\bar a` the gradient in the output, :math:`\langle \bar a,
    K * z \rangle` is linear in each of the three, so that every derivative of a convolution, of
    its gradient in the input or of its gradient in the weights is one of these three again: the
    library's kernels, whatever the order. Normalisation by the mean and variance of what it sees
    has a second derivative of one more kernel and a combination of its inputs, and of higher
    orders that of its definition. Softplus :math:`f` has :math:`f'' = \beta f' (1 - f')`, a product
    of what the first derivatives are.

    :class:`~wdtr_lite.regularizer.GradientPenalty` and all else here that needs second derivatives
    takes it by itself; it is of use for a gradient penalty of your own. The derivatives may be
    asked for outside of the context. Where ``torch.func`` or forward-mode derivatives are at work,
    normalisation is made of elementary functions, for the sake of its third derivatives, and the
    others stay torch's. So do all within ``torch.compile``, layer and group normalisation and
    softplus under autocast, normalisation within activation checkpointing, activations in place
    and GELU by tanh, and functions of tensors that are complex or not dense or of arguments that
    are not the usual ones.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.kernels import LibraryKernels
    >>> layer, x = torch.nn.Conv2d(1, 1, 3), torch.rand(1, 1, 5, 5, requires_grad=True)
    >>> with LibraryKernels():
    ...     value = layer(x).square().sum()
    >>> (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    >>> gradient.square().sum().backward()
    >>> layer.weight.grad.shape
    torch.Size([1, 1, 3, 3])
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: Sequence = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        ours = REPLACED.get(func)
        if ours and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            found = ours(*args, **kwargs)
            if found is not None:
                return found
        return func(*args, **kwargs)

"""The penalties for training, and what training with noise penalises: the expansions of Theorem 1.

Here f is a classifier, images (B, C, H, W) -> outputs (B,) or (B, k), or an object whose
``.logits`` are these; a loss takes outputs and labels to one number per image, (B,), each from its
own row. The expansions evaluate f several times: it must be deterministic and not couple images (no
dropout, batch normalisation in evaluation mode). The penalties take any model, in training mode
too.
"""

from wdtr_lite.regularizer.expansions import (
    SecondOrder,
    first_order_expansion,
    perturbed_loss,
    second_order_expansion,
)
from wdtr_lite.regularizer.laplacian_term import laplacian_penalty
from wdtr_lite.regularizer.norms import L1, Euclidean, InputNorm, LInf, Wasserstein, input_norm
from wdtr_lite.regularizer.penalties import GradientPenalty, Terms

__all__ = [
    "L1",
    "Euclidean",
    "GradientPenalty",
    "InputNorm",
    "LInf",
    "SecondOrder",
    "Terms",
    "Wasserstein",
    "first_order_expansion",
    "input_norm",
    "laplacian_penalty",
    "perturbed_loss",
    "second_order_expansion",
]

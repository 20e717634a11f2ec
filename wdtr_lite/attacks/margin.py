"""What attacks ascend: cross-entropy, but with a gradient that rounding leaves."""

import torch
from torch import Tensor
from torch.nn import functional as F

from wdtr_lite import checks


def margin(logits: Tensor, y: Tensor) -> Tensor:
    r"""A function of the logits with the cross-entropy's direction of steepest ascent, (B,).

    Of labels it is the margin :math:`m = \log \sum_{j \ne y} e^{z_j} - z_y`. Cross-entropy is
    softplus(m), whose slope is 0 in float32 where m is below -17 (there p_y - 1 is); m has slope 1
    everywhere. Of probabilities q, with c the class of the largest, it is the cross-entropy

    .. math:: \log\Bigl(1 + \sum_{j \ne c} e^{z_j - z_c}\Bigr) - \sum_{j \ne c} q_j (z_j - z_c),

    whose slope p_j - q_j in such a z_j takes no difference from 1; where all q_j in the sum are 0,
    the margin to c.

    Parameters
    ----------
    logits : tensor, (B, K)
    y : tensor, (B,) or (B, K)
        int64 labels, or probabilities.
    """
    checks.rivals(logits)
    checks.scored(y, logits)
    soft = y.is_floating_point()
    own = y.argmax(1, keepdim=True) if soft else y[:, None]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    gaps = logits - logits.gather(1, own)
    here = torch.arange(logits.shape[1], device=y.device) == own
    value = gaps.masked_fill(here, -torch.inf).logsumexp(1)
    if not soft:
        return value
    others = y.to(gaps.dtype).masked_fill(here, 0)
    pull = (others * gaps.masked_fill(others == 0, 0)).sum(1)
    entropy = -F.logsigmoid(-value) - pull
    return torch.where(others.sum(1) > 0, entropy, value)

"""What became of each image, packed into text that a result file holds.

Two networks that were asked about the same images compare by the images on which they differ:
:func:`~wdtr_lite.study.statistics.paired`.
"""

import base64
import binascii
import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from wdtr_lite import checks

__all__ = ["bits", "pack", "pack_bits", "unpack"]


def pack_bits(outcomes: ArrayLike) -> str:
    """Yes-or-no outcomes, eight to a byte, the first in the highest bit, in base64."""
    found = np.asarray(outcomes)
    checks.outcomes(found)
    return base64.b64encode(np.packbits(found).tobytes()).decode()


def bits(packed: str, n: int) -> np.ndarray:
    """The n outcomes of :func:`pack_bits`, as booleans.

    Examples
    --------
    >>> from wdtr_lite.study.outcomes import bits, pack_bits
    >>> bits(pack_bits([True, False, True]), 3).tolist()
    [True, False, True]
    """
    n = checks.whole(n, "n")
    held = _bytes(packed)
    if len(held) != math.ceil(n / 8):
        raise ValueError(f"packed must hold n={n} outcomes, got {len(held)} bytes")
    return np.unpackbits(held, count=n).astype(bool)


def pack(numbers: ArrayLike) -> str:
    """Whole numbers from 0 to 255, of any shape, a byte each, deflated, in base64."""
    found = np.asarray(numbers)
    if found.dtype.kind not in "iu" or (found.size and not 0 <= found.min() <= found.max() <= 255):
        raise ValueError(f"numbers must be whole, from 0 to 255, got {checks.shown(numbers)}")
    return base64.b64encode(zlib.compress(found.astype(np.uint8).tobytes(), 9)).decode()


def unpack(packed: str, shape: Sequence[int]) -> np.ndarray:
    """The numbers of :func:`pack`, in uint8.

    Examples
    --------
    >>> from wdtr_lite.study.outcomes import pack, unpack
    >>> unpack(pack([[3, 3], [7, 0]]), (2, 2)).tolist()
    [[3, 3], [7, 0]]
    """
    shape = tuple(checks.whole(side, "each of shape") for side in checks.some(shape, "shape"))
    try:
        held = np.frombuffer(zlib.decompress(_bytes(packed).tobytes()), np.uint8)
    except zlib.error as error:
        raise ValueError(f"packed must be as pack makes it, got {checks.shown(packed)}") from error
    if held.size != math.prod(shape):
        raise ValueError(f"packed must hold numbers of shape={shape}, got {held.size}")
    return held.reshape(shape)


def _bytes(packed: str) -> np.ndarray:
    checks.text(packed, "packed")
    try:
        return np.frombuffer(base64.b64decode(packed, validate=True), np.uint8)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"packed must be base64, got {checks.shown(packed)}") from error

"""What became of each image, packed into text that a result file holds.

Two networks that were asked about the same images compare by the images on which they differ:
:func:`~wdtr_lite.study.statistics.paired`.
"""

import base64
import binascii
import math
import sys
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from wdtr_lite import checks

__all__ = ["bits", "pack", "pack_bits", "unpack"]


def pack_bits(outcomes: ArrayLike | Tensor) -> str:
    """Yes-or-no outcomes, eight to a byte, the first in the highest bit, in base64."""
    found = _array(outcomes, "outcomes")
    checks.outcomes(found)
    if found.dtype.kind == "f":
        raise TypeError(f"outcomes must be bool or whole numbers, 0 or 1, got {found.dtype}")
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
    found = np.unpackbits(held).astype(bool)
    if found[n:].any():
        raise ValueError(f"packed must hold n={n} outcomes, got more in {checks.shown(packed)}")
    return found[:n]


def pack(numbers: ArrayLike | Tensor) -> str:
    """Whole numbers from 0 to 255, of any shape, a byte each, deflated, in base64."""
    found = _array(numbers, "numbers")
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
    size, stream = math.prod(shape), zlib.decompressobj()
    try:
        held = stream.decompress(_bytes(packed).tobytes(), min(size + 1, sys.maxsize))
    except zlib.error as error:
        raise ValueError(f"packed must be as pack makes it, got {checks.shown(packed)}") from error
    if len(held) > size:
        raise ValueError(f"packed must hold numbers of shape={shape}, got over {size}")
    if not stream.eof or stream.unused_data:
        raise ValueError(f"packed must be as pack makes it, got {checks.shown(packed)}")
    if len(held) < size:
        raise ValueError(f"packed must hold numbers of shape={shape}, got {len(held)}")
    return np.frombuffer(held, np.uint8).reshape(shape)


def _array(values: ArrayLike | Tensor, name: str) -> np.ndarray:
    found = checks.array(values, name)
    if not isinstance(found, Tensor):
        return found
    found = found.detach().cpu()
    return (found.double() if found.is_floating_point() else found).numpy()


def _bytes(packed: str) -> np.ndarray:
    checks.text(packed, "packed")
    try:
        return np.frombuffer(base64.b64decode(packed, validate=True), np.uint8)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"packed must be base64, got {checks.shown(packed)}") from error

"""What a data set is given, as the tensors that it holds: converted where the meaning is sure."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wdtr_lite import checks


def images(given: Any) -> Tensor:
    found = _tensor(given, "images")
    checks.stored_images(found)
    return found


def labels(given: Any, images: Tensor) -> Tensor:
    found = _tensor(_array(given, "labels"), "labels")
    checks.stored_labels(found, images)
    return found.long()


def split(given: Any, count: int) -> dict[str, Tensor]:
    """Indices of so many images for each part; those of ``"fit"`` from the others."""
    checks.instance(given, "split", Mapping)
    parts = {part: _index(index, count, f"split[{part!r}]") for part, index in given.items()}
    checks.parts(parts)
    if "validation" in parts and "fit" not in parts:
        parts["fit"] = parts["train"][~torch.isin(parts["train"], parts["validation"])]
    return parts


def classes(given: Any, labels: Tensor) -> tuple[str, ...]:
    """Their names; by default ``"0"``, ``"1"``, … to the largest label."""
    largest = int(labels.max()) if len(labels) else -1
    names = checks.texts(given, "classes") or tuple(map(str, range(largest + 1)))
    checks.classes(labels, len(names), "labels")
    return names


def _index(given: Any, count: int, name: str) -> Tensor:
    if isinstance(given, slice):
        given = range(count)[given]
    if isinstance(given, list | tuple | range) and not len(given):
        return torch.arange(0)
    index = _tensor(_array(given, name), name)
    if index.dtype == torch.bool and index.shape == (count,):
        return index.nonzero().squeeze(1)
    checks.indices(index, count, name)
    return index.long()


def _array(given: Any, name: str) -> Any:
    """A sequence of Python's as an array."""
    if not isinstance(given, list | tuple | range):
        return given
    try:
        return np.asarray(given)
    except ValueError as error:  # not all of one length
        raise TypeError(f"{name} must hold whole numbers, got {given!r:.80}") from error


def _tensor(given: Any, name: str) -> Tensor:
    """An array as a tensor of its own, on the CPU."""
    if isinstance(given, np.ndarray) and given.dtype.kind in "biuf" and given.itemsize < 9:
        return torch.tensor(given.astype(given.dtype.newbyteorder("="), order="C"))
    if not isinstance(given, Tensor):
        got = f"{given.dtype}" if isinstance(given, np.ndarray) else f"{given!r:.80}"
        raise TypeError(f"{name} must be a tensor or an array of numbers, got {got}")
    checks.dense(given, name)
    return given.cpu()

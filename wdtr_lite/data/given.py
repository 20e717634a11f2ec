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
    found = _integers(given, "labels")
    checks.stored_labels(found, images)
    return found.long()


def split(given: Any, count: int) -> dict[str, Tensor]:
    """Indices of so many images for each part; those of ``"fit"`` from the others."""
    checks.instance(given, "split", Mapping)
    for part in given:
        checks.text(part, "each part of split")
    parts = {part: _index(index, count, f"split[{part!r}]") for part, index in given.items()}
    checks.parts(parts)
    if "validation" in parts and "fit" not in parts:
        parts["fit"] = parts["train"][~torch.isin(parts["train"], parts["validation"])]
    return parts


def classes(given: Any, labels: Tensor) -> tuple[str, ...]:
    """Their names; by default ``"0"``, ``"1"``, … to the largest label."""
    names = checks.texts(given, "classes")
    if len(set(names)) < len(names):
        checks.distinct(names, "classes")  # in the square of their number
    if names:
        checks.classes(labels, len(names), "labels", f": classes is {checks.shown(names)}")
        return names
    largest = int(labels.max()) if len(labels) else -1
    checks.whole(largest, "labels", -(2**63), 2**16 - 1)
    checks.classes(labels, largest + 1, "labels")
    return tuple(map(str, range(largest + 1)))


def _index(given: Any, count: int, name: str) -> Tensor:
    if isinstance(given, slice):
        given = _sliced(given, count, name)
    if isinstance(given, list | tuple | range) and not given:
        return torch.arange(0, device="cpu")
    if isinstance(given, range) and given[count:]:
        raise ValueError(
            f"{name} must hold numbers from 0 to {count - 1}, got {checks.shown(given)}"
        )
    index = _integers(given, name)
    if index.dtype == torch.bool and index.shape == (count,):
        return index.nonzero().squeeze(1)
    checks.indices(index, count, name)
    return index.long()


def _sliced(given: slice, count: int, name: str) -> range:
    try:
        return range(count)[given]
    except (TypeError, ValueError) as error:  # no numbers, steps of 0
        raise type(error)(
            f"{name} must be a slice of whole numbers, got {checks.shown(given)}"
        ) from None


def _integers(given: Any, name: str) -> Tensor:
    """The same of a sequence of Python's too; of uint64, what int64 holds."""
    if isinstance(given, list | tuple | range):
        try:
            given = np.asarray(given)
        except (TypeError, ValueError, RuntimeError) as error:  # say, not all of one length
            raise TypeError(f"{name} must hold whole numbers, got {checks.shown(given)}") from error
    found = _tensor(given, name)
    if found.dtype == torch.uint64:
        checks.whole(int(found.numpy().max(initial=0)), name, 0)
        return found.long()
    return found


def _tensor(given: Any, name: str) -> Tensor:
    """An array as a tensor of its own, on the CPU."""
    if isinstance(given, np.ndarray) and given.dtype.kind in "biuf" and given.itemsize < 9:
        if np.ma.is_masked(given):
            raise ValueError(f"{name} must have no masked values, got some of {given.shape}")
        native = given.astype(f"={given.dtype.kind}{given.itemsize}", order="C")
        return torch.tensor(native, device="cpu")
    if not isinstance(given, Tensor):
        got = f"{given.dtype}" if isinstance(given, np.ndarray) else f"{checks.shown(given)}"
        raise TypeError(f"{name} must be a tensor or an array of numbers, got {got}")
    checks.valued(given, name)
    return given.cpu()

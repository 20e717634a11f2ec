"""Numbers out of stored reports, and what the chapters call things."""

from collections.abc import Iterable, Mapping

import numpy as np

from wdtr_lite import data, training
from wdtr_lite.study.outcomes import unpack

__all__ = [
    "CLASSES",
    "MAIN",
    "errors",
    "first",
    "flips",
    "flips_by_image",
    "label",
    "measured",
    "measurements",
    "path_lengths",
    "photo",
    "rate",
    "select",
    "setting_of",
    "share",
    "short",
]

CLASSES = data.PUBLISHED["cifar10"].classes
"""What the labels of CIFAR-10 stand for, in their order."""

MAIN = ("none", "euclidean", "wasserstein")
"""The methods of the paper's tables."""


def label(method: str) -> str:
    """What the chapters call a method, or a variant such as ``"wasserstein, exact"``."""
    name, _, variant = method.partition(", ")
    text = training.METHODS[name].label
    return f"{text.removesuffix(' penalty')}, {variant}" if variant else text


def short(method: str) -> str:
    """A label for narrow columns."""
    return label(method).removesuffix(" penalty")


def setting_of(setting: Mapping) -> str:
    """The weight and the radius of a setting, such as ``"η = 1, r = 8"``."""
    names = {"eta": "η", "radius": "r"}
    return ", ".join(f"{names[k]} = {v:.3g}" for k, v in setting.items() if k in names)


def select(rows: Iterable[Mapping], **labels: object) -> list[Mapping]:
    """The rows that hold these labels, ``method="none"`` for instance."""
    return [row for row in rows if all(row[name] == value for name, value in labels.items())]


def rate(row: Mapping, condition: str) -> float:
    """The error of one network under a condition, in percent."""
    return 100 * row["wrong"][condition] / row["n"][condition]


def share(wrong: int, n: int) -> tuple[float, float]:
    """Of n images, in percent, with its standard error."""
    p = wrong / n
    return 100 * p, 100 * (p * (1 - p) / n) ** 0.5


def errors(rows: Iterable[Mapping], condition: str, **labels: object) -> np.ndarray:
    """The errors of the networks with these labels that were trained to the end, in percent."""
    return np.array([rate(row, condition) for row in select(rows, **labels) if "wrong" in row])


def measurements(report: Mapping) -> dict[str, Mapping]:
    """What was measured of each method, of its first network."""
    return {method: row["measurements"] for method, row in first(report).items()}


def first(report: Mapping) -> dict[str, Mapping]:
    """The first network of each method that is there."""
    found: dict[str, Mapping] = {}
    for row in measured(report["result"]["rows"]):
        found.setdefault(row["method"], row)
    return found


def measured(rows: Iterable[Mapping]) -> list[Mapping]:
    """The rows of networks that are there."""
    return [row for row in rows if "measurements" in row or "wrong" in row]


def flips(
    rows: Iterable[Mapping], method: str, case: str, count: str, reach: int | None = None
) -> np.ndarray:
    """Mean label flips of an image, of each network of a method.

    Parameters
    ----------
    rows : rows of the experiment ``table2`` or ``variation``
    method : str
    case : str
        An axis and a padding, such as ``"horizontal edge"``.
    count : {"consecutive", "from_unshifted"}
        Changes from the shift before, or from the unshifted image.
    reach : int, optional
        Shifts up to this many pixels; all of them by default.
    """
    found = [row["measurements"][case] for row in measured(select(rows, method=method))]
    return np.array([one[count][reach - 1 if reach else -1] / one["n"] for one in found])


def flips_by_image(found: Mapping, count: str, reach: int | None = None) -> np.ndarray:
    """The label flips of each image, counted as in :func:`flips`, from what
    :class:`~wdtr_lite.study.questions.Flips` told of a network.
    """
    middle = len(found[count])
    labels = unpack(found["labels"], (2 * middle + 1, found["n"]))
    reach = reach or middle
    labels = labels[middle - reach : middle + reach + 1]
    if count == "consecutive":
        return (labels[1:] != labels[:-1]).sum(0)
    return (labels != labels[reach]).sum(0)


def path_lengths(rows: Iterable[Mapping], method: str, case: str) -> np.ndarray:
    """Lengths of the answer's path, of each network of a method and each pair of images."""
    return np.array([row["measurements"]["paths"][case] for row in select(rows, method=method)])


def photo(pixels: str) -> np.ndarray:
    """The image (3, 32, 32) of bytes that a report holds as hexadecimal digits."""
    return np.frombuffer(bytes.fromhex(pixels), np.uint8).reshape(3, 32, 32)

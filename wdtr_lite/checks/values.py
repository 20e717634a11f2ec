"""Numbers, options, names, functions."""

import json
import pickle
import re
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

INFINITY = float("inf")


def shown(value: object) -> str:
    """A value as a message shows it."""
    try:
        return repr(value)[:80]
    except Exception:  # of thousands of digits, nested as deep, or with a faulty __repr__
        return f"a {type(value).__name__} that cannot be shown"


def whole(value: int, name: str, least: int = 1, most: int = 2**63 - 1) -> int:
    """A whole number from `least` to `most`, returned as Python's: NumPy's small types wrap."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {shown(value)}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {shown(value)}")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {shown(value)}")
    return int(value)


def repeats(value: int, name: str, least: int = 1) -> int:
    """How often something is done, returned."""
    return whole(value, name, least, 10**6)


def size(value: int, name: str) -> int:
    """A number of channels or classes, returned."""
    return whole(value, name, 1, 2**16)


def seed(value: int, name: str = "seed") -> int:
    """One that torch's generator tells from all others: on a CPU it takes 32 bits. Returned."""
    return whole(value, name, 0, 2**32 - 1)


def real_number(value: float, name: str) -> float:
    """A number of Python's or NumPy's, finite or not, returned as a float."""
    kinds = (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise TypeError(f"{name} must be a number, got {type(value).__name__} {shown(value)}")
    try:
        return float(value) + 0.0  # -0.0 is 0.0
    except OverflowError:
        return INFINITY if value > 0 else -INFINITY


def finite(value: float, name: str) -> float:
    """A finite number of either sign, returned as a float."""
    size = real_number(value, name)
    if not abs(size) < INFINITY:
        raise ValueError(f"{name} must be finite, got {shown(value)}")
    return size


def number(value: float, name: str, *, positive: bool = False) -> float:
    """A finite number, at least 0 or above it, returned as a float."""
    size = real_number(value, name)
    if not (0 < size if positive else 0 <= size) or not size < INFINITY:
        says = "positive" if positive else "non-negative"
        raise ValueError(f"{name} must be {says} and finite, got {shown(value)}")
    return size


def moderate(value: float, name: str) -> float:
    """The same, up to 1e30, returned: float32 and its squares go no further."""
    size = number(value, name)
    if size > 1e30:
        raise ValueError(f"{name} must be at most 1e30, got {shown(value)}")
    return size


def below_one(value: float, name: str) -> float:
    """A number from 0 on that is less than 1, returned as a float."""
    size = number(value, name)
    if size >= 1:
        raise ValueError(f"{name} must be less than 1, got {shown(value)}")
    return size


def intensity(value: float, name: str) -> float:
    """A length of intensities in [0, 1], returned as a float."""
    size = number(value, name)
    if size > 1:
        raise ValueError(
            f"{name} must be at most 1, since intensities lie in [0, 1], got {size:g}: "
            f"do you mean {size:g}/255?"
        )
    return size


def tolerance(tol: float) -> float:
    """A relative tolerance, between 0 and 1, returned as a float."""
    size = real_number(tol, "tol")
    if not 0 < size < 1:
        raise ValueError(f"tol must be between 0 and 1, got {shown(tol)}")
    return size


def order(p: float) -> float:
    """The order of a Wasserstein distance, returned as a float."""
    size = real_number(p, "p")
    if not 1 <= size < INFINITY:
        raise ValueError(f"p must be at least 1 and finite, got {shown(p)}")
    return size


def time(t: float) -> float:
    """A time on the way from one image to another, returned as a float."""
    size = real_number(t, "t")
    if not 0 <= size <= 1:
        raise ValueError(f"t must lie in [0, 1], got {shown(t)}")
    return size


def flag(value: bool, name: str) -> bool:
    """True or False, returned as Python's."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__} {shown(value)}")
    return bool(value)


def sides(values: Sequence[int], name: str) -> None:
    """Height and width, in pixels."""
    if not isinstance(values, tuple | list) or len(values) != 2:
        raise TypeError(f"{name} must be (height, width), got {shown(values)}")
    for side in values:
        whole(side, name)


def option(value: str | None, name: str, allowed: tuple) -> None:
    """One of the allowed values."""
    if not isinstance(value, str | None) or value not in allowed:
        allowed_values = ", ".join(map(repr, allowed))
        raise ValueError(f"{name} must be one of {allowed_values}, got {shown(value)}")


def instance(value: object, name: str, kind: type | tuple[type, ...]) -> None:
    """Of a class, or of one of several."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(each.__name__.removesuffix("Type") for each in kinds)
        raise TypeError(f"{name} must be {names}, got {shown(value)}")


def every(values: Sequence, name: str, kind: type) -> Sequence:
    """A list or tuple of objects of a class, returned."""
    instance(values, name, (list, tuple))
    for k, each in enumerate(values):
        instance(each, f"{name}[{k}]", kind)
    return values


def some(values: Any, name: str, kind: type | tuple[type, ...] = (list, tuple)) -> Any:
    """A list or tuple, or another collection, that is not empty, returned."""
    instance(values, name, kind)
    if not values:
        raise ValueError(f"{name} must not be empty, got {shown(values)}")
    return values


def distinct(values: Sequence, name: str) -> None:
    """Values none of which occurs twice."""
    for k, each in enumerate(values):
        if each in values[:k]:
            raise ValueError(f"{name} must differ, got {shown(each)} again")


def held(values: Mapping, name: str, key: str, kind: type | tuple[type, ...] = object) -> Any:
    """What a mapping has under a key, of a class, returned."""
    try:
        found = values[key]
    except KeyError:
        raise ValueError(f"{name} must have {key!r}, got {shown(list(values))}") from None
    instance(found, f"{name}[{key!r}]", kind)
    return found


def outcomes(values: np.ndarray, name: str = "outcomes") -> None:
    """An array (n,) of yes or no, or of shares of yes, n at least 1."""
    instance(values, name, np.ndarray)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be bool or numbers in [0, 1], got {values.dtype}")
    if np.ma.is_masked(values):
        raise ValueError(f"{name} must have no masked values, got {shown(values.tolist())}")
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name} must be (n,), n at least 1, got {values.shape}")
    if not (values.min() >= 0 and values.max() <= 1):  # NaN fails both
        raise ValueError(f"{name} must be in [0, 1], got {values.min()} to {values.max()}")


def as_json(value: Any, name: str) -> Any:
    """What JSON keeps, returned as it keeps it."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{name} must have finite numbers, got {constant}")

    def differing(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            distinct([key for key, _ in pairs], f"the keys in {name}, as text,")
        return found

    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name} must be what JSON keeps, got {shown(value)}") from None
    return json.loads(text, parse_constant=refuse, object_pairs_hook=differing)


def keyed(value: object, name: str) -> None:
    """Dictionaries by text, also those within: JSON makes the same of 1 and "1"."""
    if isinstance(value, dict):
        for key in value:
            instance(key, f"each key in {name}", str)
        value = list(value.values())
    for each in value if isinstance(value, (list, tuple)) else ():
        keyed(each, name)


def importable(value: object, name: str) -> None:
    """Of a class that another process can import, and of parts that it can be sent."""
    kind = type(value)
    written = Path(getattr(sys.modules["__main__"], "__file__", "")).is_file()
    if "<locals>" in kind.__qualname__ or (kind.__module__ == "__main__" and not written):
        raise TypeError(
            f"{name} is a {kind.__name__}, which other processes cannot import: "
            "write the class into a file, outside of functions"
        )
    try:
        pickle.dumps(value)
    except Exception as error:  # pickle raises several kinds
        raise TypeError(f"{name} cannot be sent to another process: {error}") from error


def function(value: object, name: str) -> None:
    """What can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {shown(value)}")


def registered(name: str, value: object, kind: str, registry: Mapping) -> None:
    """A function, and a name that is free for it."""
    function(value, kind)
    untaken(name, value, registry)


def text(value: object, name: str) -> None:
    """A word, not empty."""
    instance(value, name, str)
    if not value:
        raise ValueError(f"{name} must not be empty, got {value!r}")


def word(value: object, name: str) -> None:
    """A word that a file can be named by."""
    instance(value, name, str)
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", str(value)):
        raise ValueError(
            f"{name} must be up to 100 letters, digits, _ and -, no others, got {shown(value)}"
        )


def texts(values: Iterable[str], name: str) -> tuple[str, ...]:
    """Several words in their order, as a tuple."""
    unordered = isinstance(values, str | Set) or getattr(values, "shape", None) == ()
    if unordered or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a tuple of names, got {shown(values)}")
    try:
        found = tuple(values)
    except Exception as error:  # a nested tensor's, say
        raise TypeError(f"{name} must be a tuple of names, got {shown(values)}") from error
    for each in found:
        if not isinstance(each, str):
            raise TypeError(
                f"{name} must be a tuple of names, got {shown(each)} in {shown(values)}"
            )
    return found


def untaken(name: str, thing: object, table: Mapping[str, object]) -> None:
    """A name that is free, or that of the same thing; also of one defined again, as by a notebook's
    cell that is run twice.
    """

    def origin(each: Any) -> object:
        defined = isinstance(each, FunctionType | type)
        return (each.__module__, each.__qualname__) if defined else each

    text(name, "name")
    before = table.get(name, thing)
    if origin(before) != origin(thing):
        raise ValueError(f"name must be free, got {name!r}, which is {shown(before)}")

"""The names under which networks and measurements were stored before.

A network's folder was the hash of all fields of its configuration, in their order; a measurement's
file that of the function that was asked, with its module and options. Both are made here as they
were made then, so that what was trained and measured is found.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any

from wdtr_lite import attacks, training

FIELDS = (
    "data", "split", "part", "images", "model", "activation", "width", "method", "eta", "radius",
    "of", "mode", "scale", "epsilon", "steps", "warmup", "epochs", "batch_size", "learning_rate",
    "milestones", "momentum", "weight_decay", "precision", "seed",
)  # fmt: skip

ALWAYS = ("data", "split", "method", "seed")  # of a source of transferred attacks

MODULES = {"digit_errors": "experiments"}  # others were in evidence

RENAMED = {"evaluated": "judged"}

MEASURED = {"answer": "measurement", "chances": "probabilities"}


def folder(config: training.Config) -> str | None:
    """Name that a network's folder had; None of one that could not be trained then."""
    values = asdict(config)
    if any(values[each.name] != each.default for each in fields(config) if each.name not in FIELDS):
        return None
    return _hash(json.dumps([{name: values[name] for name in FIELDS}, {}]), 12)


def files(name: str, options: dict[str, Any]) -> Iterator[str]:
    """Names that a measurement's file may have had: whole lengths were written with a point or
    without.
    """
    for number in (int, float):
        old = {RENAMED.get(key, key): _option(key, value, number) for key, value in options.items()}
        function = f"wdtr_lite.{MODULES.get(name, 'evidence')}.{name}"
        yield f"{name}-{_hash(f'{function} {json.dumps(old, sort_keys=True)}', 8)}.json"


def measurement(known: Any) -> Any:
    """What a measurement's file said, with today's keys."""
    if isinstance(known, dict):
        return {MEASURED.get(key, key): measurement(value) for key, value in known.items()}
    return [measurement(value) for value in known] if isinstance(known, list) else known


def _option(name: str, value: Any, number: type) -> Any:
    if name == "source":  # fields of a configuration
        default = training.Config()
        return {key: getattr(default, key) for key in ALWAYS} | value
    if name == "attack" and value is not None:
        return _attack(value, number)
    return value


def _attack(options: dict[str, Any], number: type) -> dict[str, Any]:
    """Lengths in units of 1/255; steps were written beside alpha, others where they mattered."""
    old = options | {"epsilon": _length(options["epsilon"], int)}
    if "alpha" in options:
        default = attacks.Attack("pgd", 0.0)
        old |= {"alpha": _length(options["alpha"], number)}
        old |= {"steps": options.get("steps", default.steps)}
    return old


def _length(intensities: float, number: type) -> float:
    length = round(255 * intensities, 6)
    return number(length) if length == int(length) else length


def _hash(text: str, digits: int) -> str:
    return hashlib.md5(text.encode()).hexdigest()[:digits]

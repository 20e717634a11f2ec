"""Where networks and what was measured of them are, under names that say what they are.

A network has a folder named by the fields of its configuration that are not as by default, a
measurement a file named by its question and the question's options: a field or an option that is
added later changes no name. What was stored under the names before these is found and renamed.

Each file says of which network, question and images it is, and holds its checksum; what was stored
before there were any is taken as it is.
"""

import hashlib
import json
import math
import re
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from wdtr_lite import checks, training
from wdtr_lite.data import Dataset
from wdtr_lite.study import legacy
from wdtr_lite.study.spec import Question
from wdtr_lite.training.checkpoint import replace_file
from wdtr_lite.training.images import checksum

__all__ = ["AGAIN", "Store", "Told", "described", "digest", "given", "name_of", "read", "write"]

FORMAT = 2  # of the names; 1 is legacy's
_FIRST = {"Attack", "Config", "WassersteinAttack"}  # whose class the names leave out

AGAIN = "delete it, and run the command again"


@dataclass(frozen=True)
class Store:
    """A folder of networks and measurements, and who is to make those that are missing.

    What is there is known by the names and options of network and question. If other images or
    labels have been registered under the name of its data set since, it is refused; a change of the
    code that trains or asks is not seen: delete the network's folder then.

    Parameters
    ----------
    root : path, optional
        Without it all is done here and now, and nothing is stored. With it, on a machine without a
        GPU, in a process on each core.
    cluster : str, optional
        Address of a Dask scheduler. Its workers must see the same `root` and the same data under
        the same paths: a run whose worker dies goes on from its checkpoint on another.
    finished : bool
        Make nothing: take what is there already.
    trains : bool
        Without it no network is trained: those that are there are asked, also one whose training
        stopped before its end, and those whose weights ``results/`` holds.
    until : float, optional
        A time, in seconds as ``time.time`` gives it, after which no epoch and no measurement
        is begun.
    """

    root: Path | None = None
    cluster: str | None = None
    finished: bool = False
    until: float | None = None
    trains: bool = True

    def __post_init__(self):
        if self.root is not None:
            object.__setattr__(self, "root", checks.folder(self.root, "root"))
        if self.cluster is not None:
            checks.text(self.cluster, "cluster")
        for name in ("finished", "trains"):
            object.__setattr__(self, name, checks.flag(getattr(self, name), name))
        if self.until is not None:
            checks.finite(self.until, "until")
        timed = self.until is not None
        if self.root is None and (self.cluster or self.finished or timed or not self.trains):
            raise ValueError(
                "root must be given with cluster, finished, until or trains=False, got None"
            )

    def folder(self, config: training.Config) -> Path:
        """Of a network, with its :func:`name_of`."""
        if self.root is None:
            raise ValueError("root must be given where networks are stored, got None")
        folder, before = self.root / name_of(config), legacy.folder(config)
        if before and not folder.exists() and (self.root / before).exists():
            with suppress(FileNotFoundError):
                (self.root / before).rename(folder)
        return folder

    def file(self, config: training.Config, question: Question) -> Path:
        """Of a measurement: ``QUESTION-HASH.json`` in the network's folder."""
        folder, options = self.folder(config), _options(question)
        file = folder / f"{question.name}-{_hash(options)}.json"
        if not file.exists() and _of_the_package(question):
            for before in legacy.files(question.name, options):
                if (known := read(folder / before)) is not None:
                    write(file, legacy.measurement(known))
                    (folder / before).unlink(missing_ok=True)
        return file

    def written(self, configs: Iterable[training.Config]) -> dict[Path, int]:
        """When each file of these networks was, in nanoseconds."""
        files = (file for config in configs for file in self.folder(config).glob("[!.]*"))
        return {file: file.stat().st_mtime_ns for file in files}

    def measured(
        self, config: training.Config, question: Question, epochs: int | None = None
    ) -> "Told | None":
        """What is stored of a question: its ``measurement``, and the ``seconds`` that it took. Of a
        network that is trained for fewer epochs than its configuration's, after so many.
        """
        file = self.file(config, question)
        told = read(file)
        if told is not None:
            _check_keys(told, "network", "question", "epochs", "images", "seconds", "measurement")
            _, seconds = told["measurement"], told["seconds"]
            _check_owner(told, network=name_of(config), question=described(question))
            try:
                checks.number(seconds, "seconds")
            except (TypeError, ValueError) as error:
                raise ValueError(f"{file} is damaged, {error}: {AGAIN}") from error
            if told.get("epochs", config.epochs) != (epochs or config.epochs):
                return None  # it was asked when trained less, or more
        return told

    def keep(
        self,
        config: training.Config,
        question: Question,
        measurement: Any,
        seconds: float,
        epochs: int | None = None,
        images: int | None = None,
    ) -> None:
        """Store a measurement: `images` is the :func:`digest` of the data set."""
        told = {
            "network": name_of(config),
            "question": described(question),
            **_given(epochs=epochs, images=images),
            "seconds": checks.number(seconds, "seconds"),
            "measurement": measurement,
        }
        write(_made(self.file(config, question)), told)

    def diverged(self, config: training.Config) -> "Told | None":
        """How the training ``diverged``, if it did."""
        file = self.folder(config) / "diverged.json"
        told = read(file, (str, dict))  # once it was the text alone
        if isinstance(told, str):
            told = Told({"diverged": told}, file)
        if told is not None:
            _check_keys(told, "network", "images", "diverged")
            _check_owner(told, network=name_of(config))
            if not told.part("diverged", str):
                raise ValueError(f"{file} holds '' in place of what happened: {AGAIN}")
        return told

    def keep_divergence(
        self, config: training.Config, says: str, images: int | None = None
    ) -> None:
        """Store how the training diverged: `images` is the :func:`digest` of the data set."""
        checks.text(says, "says")
        file = self.folder(config) / "diverged.json"
        write(_made(file), {"network": name_of(config), **_given(images=images), "diverged": says})


def name_of(config: training.Config) -> str:
    """Of a network: ``DATA-MODEL-METHOD-sSEED-HASH``."""
    checks.instance(config, "config", training.Config)
    shown = f"{config.data}-{config.model}-{config.method}-s{config.seed}"
    return re.sub(r"[^\w.-]", "_", shown) + "-" + _hash(given(config))


@cache
def digest(dataset: Dataset) -> int:
    """Checksum of all images and labels, and of which are in which part."""
    found = checksum(dataset.images, dataset.labels.contiguous())
    for part, index in sorted(dataset.split.items()):
        found = zlib.crc32(part.encode() + index.numpy().tobytes(), found)
    return found


def described(question: Question) -> str:
    """A question's name and options."""
    options = _options(question)
    return f"{question.name} {json.dumps(options, sort_keys=True)}"


def _options(question: Question) -> dict[str, Any]:
    checks.instance(question, "question", Question)
    options = given(question)
    checks.as_json(options, f"the question {question.name!r}, its options,")
    checks.keyed(options, f"the options of the question {question.name!r}")
    return options


def given(value: Any) -> Any:
    """A frozen dataclass as a dictionary of its fields that are not as by default; those that are
    not compared are left out. One within it has its ``class`` there, but for the first of this
    package.
    """
    chosen = {}
    for each in fields(value):
        default = each.default
        if each.default_factory is not MISSING:
            default = each.default_factory()
        if each.compare and (default is MISSING or getattr(value, each.name) != default):
            chosen[each.name] = _part(getattr(value, each.name))
    return chosen


def _part(value: Any) -> Any:
    if not is_dataclass(value) or isinstance(value, type):
        return value
    kind = type(value)
    known = _ours(kind) and kind.__name__ in _FIRST
    return given(value) if known else {"class": _called(kind), **given(value)}


def _called(kind: type) -> str:
    """By the same name in each process of a script."""
    module = "__main__" if kind.__module__ == "__mp_main__" else kind.__module__
    return f"{module}.{kind.__qualname__}"


def _ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "wdtr_lite"


def _of_the_package(question: Question) -> bool:
    """Whether it can have been asked before names were as they are."""
    parts = [question, *(getattr(question, each.name) for each in fields(question))]
    return all(_ours(type(part)) for part in parts if is_dataclass(part))


class Told(dict):
    """An object that a file holds, which names the file where it lacks a key."""

    def __init__(self, values: dict, file: Path):
        super().__init__(values)
        self.file = file

    def __missing__(self, key: str) -> NoReturn:
        raise ValueError(f"{self.file} lacks {key!r}: {AGAIN}")

    def part(self, key: str, kind: type = dict) -> Any:
        """What is there under a key, of the kind."""
        return _of(kind, self[key], self.file)

    def parts(self, key: str) -> "list[Told]":
        """The objects of the list there."""
        return [_of(dict, each, self.file) for each in self.part(key, list)]


def read(file: Path, kind: type | tuple[type, ...] = dict, *, sealed: bool = False) -> Any:
    """What a file says, of the kind, with a checksum if it must be `sealed`; None where the file is
    not there.
    """
    checks.regular(file)
    try:
        found = json.loads(
            file.read_text(),
            object_hook=lambda values: Told(values, file),
            parse_float=_finite,
            parse_constant=_finite,
        )
        told = found.pop("checksum", None) if isinstance(found, Told) else None
        if (sealed or told is not None) and told != _checksum(found):
            raise ValueError("the checksum differs, or there is none")
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {AGAIN}") from error
    return _of(kind, found, file)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no number of JSON")
    return value


def _checksum(values: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def _of(kind: type | tuple[type, ...], found: Any, file: Path) -> Any:
    if not isinstance(found, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(each.__name__ for each in kinds)
        raise ValueError(f"{file} holds {checks.shown(found)} in place of a {names}: {AGAIN}")
    return found


def _given(**values: int | None) -> dict[str, int]:
    return {name: value for name, value in values.items() if value is not None}


def _made(file: Path) -> Path:
    """A file whose folder is there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _check_keys(told: Told, *known: str) -> None:
    """None but those that are written, as a flipped bit makes one."""
    if unknown := sorted(told.keys() - set(known)):
        raise ValueError(f"{told.file} holds {checks.shown(unknown[0])}, which is unknown: {AGAIN}")


def _check_owner(told: Told, **owner: str) -> None:
    """Of the network, and to the question, that it is taken for; once that was not told."""
    for name, expected in owner.items() if "network" in told else ():
        if told[name] != expected:
            raise ValueError(f"{told.file} is of the {name} {checks.shown(told[name])}: {AGAIN}")


def write(file: Path, value: dict[str, Any], indent: int | None = None) -> None:
    """As JSON, with its checksum, so that a kill at any time leaves the old file or the new one,
    whole.
    """
    value = checks.as_json(value, f"what {file} is to hold")
    text = json.dumps({**value, "checksum": _checksum(value)}, indent=indent) + "\n"
    replace_file(file, lambda stream: stream.write(text.encode()))


def _hash(options: dict) -> str:
    text = json.dumps({"format": FORMAT, **options}, sort_keys=True)
    return hashlib.md5(text.encode()).hexdigest()[:12]

"""Where networks and what was measured of them are, under names that say what they are.

A network has a folder named by the fields of its configuration that are not as by default, a
measurement a file named by its question and the question's options: a field or an option that is
added later changes no name. What was stored under the names before these is found and renamed.
"""

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

from wdtr_lite import checks, training
from wdtr_lite.study import legacy
from wdtr_lite.study.spec import Question
from wdtr_lite.training.checkpoint import replace_file

__all__ = ["AGAIN", "Store", "Told", "given", "read", "write"]

FORMAT = 2  # of the names; 1 is legacy's

AGAIN = "delete it, and run the command again"


@dataclass(frozen=True)
class Store:
    """A folder of networks and measurements, and who is to make those that are missing.

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
    """

    root: Path | None = None
    cluster: str | None = None
    finished: bool = False

    def __post_init__(self):
        if self.root is not None:
            object.__setattr__(self, "root", checks.folder(self.root, "root"))
        if self.cluster is not None:
            checks.text(self.cluster, "cluster")
        checks.flag(self.finished, "finished")

    def folder(self, config: training.Config) -> Path:
        """Of a network: ``DATA-MODEL-METHOD-sSEED-HASH``."""
        assert self.root is not None
        shown = f"{config.data}-{config.model}-{config.method}-s{config.seed}"
        name = re.sub(r"[^\w.-]", "_", shown) + "-" + _hash(given(config))
        folder, before = self.root / name, legacy.folder(config)
        if before and not folder.exists():
            with suppress(FileNotFoundError):
                (self.root / before).rename(folder)
        return folder

    def file(self, config: training.Config, question: Question) -> Path:
        """Of a measurement: ``QUESTION-HASH.json`` in the network's folder."""
        folder, options = self.folder(config), given(question)
        checks.as_json(options, f"the question {question.name!r}")
        file = folder / f"{question.name}-{_hash(options)}.json"
        if not file.exists():
            for before in legacy.files(question.name, options):
                if (known := read(folder / before)) is not None:
                    write(file, legacy.measurement(known))
                    (folder / before).unlink(missing_ok=True)
        return file


def given(value: Any) -> Any:
    """A frozen dataclass as a dictionary of its fields that are not as by default; those that are
    not compared are left out.
    """
    if not is_dataclass(value):
        return value
    chosen = {}
    for each in fields(value):
        default = each.default
        if each.default_factory is not MISSING:
            default = each.default_factory()
        if each.compare and (default is MISSING or getattr(value, each.name) != default):
            chosen[each.name] = given(getattr(value, each.name))
    return chosen


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


def read(file: Path, kind: type = dict) -> Any:
    """What a file says, of the kind; None where it is not there."""
    try:
        found = json.loads(file.read_text(), object_hook=lambda values: Told(values, file))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {AGAIN}") from error
    return _of(kind, found, file)


def _of(kind: type, found: Any, file: Path) -> Any:
    if not isinstance(found, kind):
        raise ValueError(f"{file} holds {found!r:.40} in place of a {kind.__name__}: {AGAIN}")
    return found


def write(file: Path, value: object, indent: int | None = None) -> None:
    """As JSON, so that a kill at any time leaves the old file or the new one, whole."""
    text = json.dumps(value, indent=indent) + "\n"
    replace_file(file, lambda stream: stream.write(text.encode()))


def _hash(options: dict) -> str:
    text = json.dumps({"format": FORMAT, **options}, sort_keys=True)
    return hashlib.md5(text.encode()).hexdigest()[:12]

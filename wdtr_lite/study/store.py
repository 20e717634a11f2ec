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
from typing import Any

from wdtr_lite import training
from wdtr_lite.study import legacy
from wdtr_lite.study.spec import Question
from wdtr_lite.training.checkpoint import replace_file

__all__ = ["Store", "given", "write"]

FORMAT = 2  # of the names; 1 is legacy's


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
        file = folder / f"{question.name}-{_hash(options)}.json"
        if not file.exists():
            for before in legacy.files(question.name, options):
                if known := read(folder / before):
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


def read(file: Path) -> dict | None:
    """What a file says; None where it is not there, or damaged."""
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def write(file: Path, value: object, indent: int | None = None) -> None:
    """As JSON, so that a kill at any time leaves the old file or the new one, whole."""
    text = json.dumps(value, indent=indent) + "\n"
    replace_file(file, lambda stream: stream.write(text.encode()))


def _hash(options: dict) -> str:
    text = json.dumps({"format": FORMAT, **options}, sort_keys=True)
    return hashlib.md5(text.encode()).hexdigest()[:12]

"""What an experiment is declared by: its networks, its questions, its options.

A new experiment is a new file in this folder: a frozen dataclass of its options with a method
``run``, and a call of :func:`register` with an object of it for each profile.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import nn

from wdtr_lite import checks, training
from wdtr_lite.data import Dataset

if TYPE_CHECKING:
    from wdtr_lite.study.store import Store

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "Job",
    "Networks",
    "Question",
    "Trained",
    "register",
]

Setting = dict[str, Any]  # fields of Config

_QUESTIONS: dict[str, type] = {}


@dataclass(frozen=True)
class Question(ABC):
    """What is asked of a network: a function of model and data set, its options the fields.

    A class is made with ``name``, which names the files of what was measured and never changes: a
    word of letters, digits, _ and -, its own among all questions.
    """

    name: ClassVar[str]

    def __init_subclass__(cls, name: str, **options):
        super().__init_subclass__(**options)
        checks.word(name, "name")
        checks.untaken(name, cls, _QUESTIONS)
        cls.name = name
        _QUESTIONS[name] = cls

    @abstractmethod
    def __call__(self, model: nn.Module, dataset: Dataset) -> object:
        """The measurement, as JSON keeps it."""


class Job(NamedTuple):
    """A network of an experiment."""

    labels: dict[str, Any]  # method, setting, seed: what its row says
    config: training.Config


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Methods, settings to choose from, and seeds.

    Each candidate is trained once, from the first seed; what is chosen of each method from every
    seed.

    Parameters
    ----------
    dataset, split : str
        As in :func:`wdtr_lite.data.load`.
    training : dict
        Fields of :class:`~wdtr_lite.training.Config` that all networks share, others than
        ``data``, ``split``, ``method`` and ``seed``, which are told here.
    search : dict
        Those that differ while choosing.
    candidates : dict of str to list of dict
        The settings of each method, fields again; under a name of its own where they say the
        ``method``, all the same.
    initial : dict of str to dict
        Settings to begin with, which also stand in for the choice while the grid is unfinished.
    also : dict of str to dict
        Further methods by name: a ``method``, as chosen, with other fields.
    seeds : sequence of int
    """

    dataset: str
    split: str | None = None
    training: Setting = field(default_factory=dict)
    search: Setting = field(default_factory=dict)
    candidates: dict[str, list[Setting]]
    initial: dict[str, Setting] = field(default_factory=dict)
    also: dict[str, Setting] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self):
        checks.text(self.dataset, "dataset")
        checks.instance(self.split, "split", (str, NoneType))
        seeds = tuple(checks.whole(seed, "seeds", 0) for seed in checks.some(self.seeds, "seeds"))
        checks.distinct(seeds, "seeds")
        object.__setattr__(self, "seeds", seeds)
        methods = tuple(checks.some(self.candidates, "candidates", dict))
        for part in ("initial", "also"):
            checks.instance(getattr(self, part), part, dict)
        told = ("data", "split", "method", "seed")
        allowed = tuple(each.name for each in fields(training.Config) if each.name not in told)
        for name, setting in self._settings():
            checks.instance(setting, name, dict)
            for key in setting:
                more = ("method",) if name.startswith(("also", "candidates")) else ()
                checks.option(key, f"a field in {name}", allowed + more)
        for name, settings in self.candidates.items():
            found = dict.fromkeys(setting.get("method", name) for setting in settings)
            if len(found) > 1:
                told = " and ".join(map(repr, found))
                raise ValueError(f"candidates[{name!r}] must be of one method, got {told}")
        for method in self.initial:
            checks.option(method, "a method in initial", methods)
        for name, setting in self.also.items():
            checks.text(name, "a name in also")
            method = checks.held(setting, f"also[{name!r}]", "method")
            checks.option(method, f"also[{name!r}]['method']", methods)
        checks.distinct([*methods, *self.also], "the names in candidates and also")
        self.grid()  # Config checks the values
        self.final(self.firsts())
        self.final(self.initial)

    def _settings(self) -> Iterator[tuple[str, Setting]]:
        """All of them, by where they stand."""
        yield from (("training", self.training), ("search", self.search))
        for method, settings in self.candidates.items():
            for k, setting in enumerate(checks.some(settings, f"candidates[{method!r}]")):
                yield f"candidates[{method!r}][{k}]", setting
        for part in ("initial", "also"):
            for name, setting in getattr(self, part).items():
                yield f"{part}[{name!r}]", setting

    @property
    def leave_a_choice(self) -> bool:
        return any(len(settings) > 1 for settings in self.candidates.values())

    def firsts(self) -> dict[str, Setting]:
        """The first candidate of each method."""
        return {method: settings[0] for method, settings in self.candidates.items()}

    def planned(self, chosen: dict[str, Setting]) -> list[Job]:
        """The grid, if it leaves a choice, and what is trained then of the choice or, before there
        is one, of the first candidates.
        """
        grid = self.grid() if self.leave_a_choice else []
        return grid + self.final(chosen or self.firsts())

    def grid(self) -> list[Job]:
        """Every candidate."""
        return [
            self.job(method, setting, self.seeds[0], **self.search)
            for method, settings in self.candidates.items()
            for setting in settings
        ]

    def final(self, chosen: dict[str, Setting]) -> list[Job]:
        """The chosen ones and those of ``also``, seed by seed."""
        settings = self.named(chosen)
        return [self.job(name, settings[name], seed) for seed in self.seeds for name in settings]

    def named(self, chosen: dict[str, Setting]) -> dict[str, Setting]:
        """The settings of a choice, and of what is made from it, with their methods."""
        found = {name: {"method": self._method(name), **each} for name, each in chosen.items()}
        for name, changes in self.also.items():
            if changes["method"] in found:
                found[name] = {**found[changes["method"]], **changes}
        return found

    def job(self, name: str, setting: Setting, seed: int, **changes: Any) -> Job:
        """The network of a method's setting, trained as all are but for the changes."""
        method = {"method": self._method(name), **setting}
        shown = {key: value for key, value in setting.items() if key != "method"}
        shared = {"data": self.dataset, "split": self.split, **self.training, **changes}
        config = training.Config(**{**shared, **method, "seed": seed})
        return Job({"method": name, "setting": shown, "seed": seed}, config)

    def _method(self, name: str) -> str:
        """That of a name's candidates: the name itself, unless they say another."""
        first, *_ = self.candidates.get(name, [{}])
        return first.get("method", name)

    def settled(self, chosen: dict[str, Setting]) -> "Networks":
        """With what is chosen as the only candidates of those methods."""
        only = {method: [setting] for method, setting in chosen.items()}
        return replace(self, candidates={**self.candidates, **only})


@dataclass(frozen=True, kw_only=True)
class Experiment(ABC):
    """A measurement of the book at one scale, its options the fields."""

    trains: ClassVar[bool] = False  # networks, which may be finished or not
    follows: ClassVar[str | None] = None  # the experiment whose choice of settings it takes

    @property
    @abstractmethod
    def source(self) -> tuple[str, str | None]:
        """Data set and split."""

    @abstractmethod
    def run(self, store: "Store") -> dict[str, Any]:
        """The result, as JSON keeps it: ``rows`` and what else there is to say."""

    @property
    def lacks_gpu(self) -> bool:
        """Whether it asks for a GPU, and there is none."""
        return False

    def planned(self, store: "Store") -> list[Job]:
        """The networks it takes, as far as is known."""
        return []

    def publish(self, result: dict[str, Any], store: "Store") -> dict[str, training.Run]:
        """Networks to put beside the result, by method."""
        return {}

    def config(self) -> dict[str, Any]:
        """The options, as a result file holds them."""
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True, kw_only=True)
class Trained(Experiment):
    """An experiment on networks."""

    trains = True
    networks: Networks

    @property
    def source(self) -> tuple[str, str | None]:
        return self.networks.dataset, self.networks.split

    def planned(self, store: "Store") -> list[Job]:
        """All that there is to try, and the first candidates as if they were chosen."""
        return self.networks.planned({})


PROFILES = ("quick", "cpu", "full")

EXPERIMENTS: dict[str, dict[str, Experiment]] = {}
"""The experiments by name and profile. ``quick`` is for the live cells of a chapter, ``cpu`` is
what two cores can do of an experiment whose ``full`` scale asks for a GPU.
"""


def register(name: str, **profiles: Experiment) -> None:
    """Make an experiment known to the command line, ``results/`` and the book.

    Parameters
    ----------
    name : str
        A new one, or that of an experiment of the same module, which is replaced.
    **profiles : Experiment
        ``quick``, ``cpu`` and ``full``, or some of them.
    """
    checks.word(name, "name")
    for profile, experiment in checks.some(profiles, "profiles", dict).items():
        checks.option(profile, "a profile", PROFILES)
        checks.instance(experiment, profile, Experiment)
    known = EXPERIMENTS.get(name, profiles)
    if known != profiles and _modules(known) != _modules(profiles):
        raise ValueError(f"name must be new, got {name!r}, an experiment of {_modules(known)}")
    EXPERIMENTS[name] = profiles


def _modules(profiles: dict[str, Experiment]) -> str:
    return ", ".join(sorted({type(experiment).__module__ for experiment in profiles.values()}))

"""The networks of a grid: each trained once, and asked each question once.

What is in the store is not done again, by whichever experiment it is asked for; a network whose
training was killed goes on from its last checkpoint. What is of other images or labels than those
that the name of the data set stands for now is refused. After a change of the code that trains or
asks, delete its folder: a measurement is known by the question's name and options. Networks are
independent of each other: on a GPU several train at once, on a CPU each core trains one, and a
cluster's workers share them out, several to each where all have a GPU.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from wdtr_lite import checks, data, training
from wdtr_lite.data import Dataset
from wdtr_lite.study.files import published
from wdtr_lite.study.spec import Job, Question
from wdtr_lite.study.store import AGAIN, Store, Told, described, digest, name_of
from wdtr_lite.study.workers import executor, unfinished
from wdtr_lite.training.checkpoint import checksum_of, found_in, trained_on_checksum
from wdtr_lite.training.lock import held

__all__ = [
    "Network",
    "complete",
    "dataset_of",
    "outcome",
    "progress",
    "rows",
    "stopped",
    "taken",
    "together",
    "trained",
    "work",
]

TOGETHER = 8  # networks that train at once on a GPU

Questions = Mapping[str, Question]


class Network(NamedTuple):
    """What to train, and what to ask of it."""

    config: training.Config
    questions: Questions  # by the measurement's name


def rows(jobs: Sequence[Job], questions: Questions, store: Store) -> list[dict[str, Any]]:
    """A row for each job: its labels and the :func:`outcome` of its network, or ``missing``."""
    outcomes = complete([Network(job.config, questions) for job in jobs], store)
    return [
        {**job.labels, **({"missing": True} if found is None else found)}
        for job, found in zip(jobs, outcomes, strict=True)
    ]


def complete(networks: Sequence[Network], store: Store) -> list[dict[str, Any] | None]:
    """Train what is not trained, ask what is not measured.

    Parameters
    ----------
    networks : sequence of Network
        In the order in which they are to be done. One that occurs twice is trained once.
    store : Store

    Returns
    -------
    list of dict or None
        As :func:`outcome`, which is None for a network that is not finished.

    Raises
    ------
    ChildProcessError
        If a process of the pool was killed: what was finished is kept, and the next call goes on.
    ConnectionError
        If the scheduler of the cluster is lost: likewise.
    Unfinished
        If the store's time was up before all was done: likewise.
    """
    checks.instance(store, "store", Store)
    for network in checks.every(networks, "networks", Network):
        checks.instance(network.config, "config", training.Config)
        checks.instance(network.questions, "questions", Mapping)
        for name, question in network.questions.items():
            checks.text(name, "each name in questions")
            checks.instance(question, f"questions[{name!r}]", Question)
        checks.distinct(["training", *network.questions], "the names in questions, and 'training',")
    if store.root is None:
        return [_here(network) for network in networks]
    missing = [network for network in networks if outcome(network, store) is None]
    if not store.trains:
        missing = [network for network in missing if taken(network.config, store)]
    missing = [] if store.finished else _merged(missing)
    before = store.written(config for config, _ in missing)
    if missing and torch.cuda.is_available() and not store.cluster:
        for group in _groups(missing, TOGETHER):
            print(*together(group, store), sep="\n", flush=True)
    elif missing:
        for network in [] if store.cluster else missing:
            for question in network.questions.values():
                checks.importable(question, f"the question {question.name!r}")
        with executor(store.cluster) as (workers, on_gpus):
            size = min(TOGETHER, math.ceil(len(missing) / on_gpus)) if on_gpus else 1
            asked = [workers.submit(together, group, store) for group in _groups(missing, size)]
            for done in as_completed(asked):
                print(*done.result(), sep="\n", flush=True)
    left = [network for network in missing if outcome(network, store) is None]
    if store.until is not None and left:
        worked = store.written(config for config, _ in missing) != before
        raise unfinished(f"{len(left)} networks are left", worked=worked)
    return [outcome(network, store) for network in networks]


def outcome(network: Network, store: Store) -> dict[str, Any] | None:
    """What is stored of a network: its ``measurements`` by name, the last metrics of its
    ``training``, the ``seconds`` that the training and each measurement took; None where not all
    is there. Of a training that diverged, ``diverged`` says how.
    """
    if diverged := _diverged(network.config, store):
        return {"diverged": diverged}
    run = taken(network.config, store)
    if run is None:
        return None
    measured = {
        name: _known(network.config, question, run, store)
        for name, question in network.questions.items()
    }
    return None if None in measured.values() else _outcome(run, measured)


def taken(
    config: training.Config, store: Store, device: str | torch.device = "cpu"
) -> training.Run | None:
    """The network of a configuration that is asked: the store's, once all of its epochs are done.
    A store that does not train takes it as far as it is, or a published one.
    """
    run = _begun(config, store.folder(config), device)
    if store.trains and run and stopped(run):
        return None
    return run if run or store.trains else published(config, device)


def stopped(run: training.Run) -> int | None:
    """After how many epochs a training stopped before its end; None of one that is finished."""
    return len(run.history) if len(run.history) < run.config.epochs else None


def progress(configs: Sequence[training.Config], store: Store) -> list[tuple[float, float]]:
    """Of each network the seconds of training done, and those still to come on one core, or the
    GPU, of this machine: measured on two steps of each kind of training. Of a store that does not
    train, as it went where the networks that are there were trained.
    """
    runs = [
        _begun(config, store.folder(config)) if store.trains else taken(config, store)
        for config in configs
    ]
    seen = [run.history[-1]["images_per_second"] for run in runs if run and not store.trains]
    measured, found = cache(_images_per_second), []
    for config, run in zip(configs, runs, strict=True):
        history = run.history if run else []
        epochs = 0 if _diverged(config, store) else config.epochs - len(history)
        images = config.images or len(dataset_of(config.data, config.split).split[config.part])
        speed = sum(seen) / len(seen) if seen else measured(_kind(config)) if epochs else 1.0
        found.append((sum(epoch["seconds"] for epoch in history), epochs * images / speed))
    return found


def trained(config: training.Config, store: Store) -> training.Run:
    """The network of a configuration, from the store or trained there. Without a store's root it is
    kept in memory, so that it is trained once a process.
    """
    if store.root is None:
        return in_memory(config, dataset_of(config.data, config.split))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if run := taken(config, store, device):
        return run
    if not store.trains:
        raise ValueError(f"config must be of a network that is trained, got {config}")
    return training.fit(
        config,
        folder=store.folder(config),
        dataset=dataset_of(config.data, config.split),
        checkpoint_every=1,
        until=store.until,
        progress=False,
    )


@cache
def in_memory(config: training.Config, dataset: Dataset) -> training.Run:
    """The network of a configuration trained on a data set, once a process."""
    return training.fit(config, dataset=dataset, progress=False)


def dataset_of(name: str, split: str | None = None) -> Dataset:
    """:func:`~wdtr_lite.data.load`, kept in memory until the name is registered anew."""
    return _loaded(name, split, data.SOURCES.get(name))


@cache
def _loaded(name: str, split: str | None, source: data.Source | None) -> Dataset:
    return data.load(name, split=split)


# ---------------------------------------------------------------- one network


def work(network: Network, store: Store) -> str:
    """Train a network and ask what is not measured yet; a line about it. While another process is
    at it, wait.
    """
    told = None
    while True:
        try:
            return f"{_name(network.config)}: {_worked(network, store)}"
        except training.Busy as busy:
            if str(busy) != told:
                told = str(busy)
                print(f"{_name(network.config)} waits: {told}", flush=True)
            time.sleep(1)


def _worked(network: Network, store: Store) -> str:
    config, folder = network.config, store.folder(network.config)
    if _diverged(config, store):
        return "diverged"
    try:
        run = trained(config, store)
    except training.Unfinished as stopped:
        return str(stopped)
    except training.Divergence as error:
        store.keep_divergence(config, str(error), _digest(config))
        return "diverged"
    if store.until is not None and time.time() > store.until:
        return "trained; the time is up"
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder) as check_kept:
        measured = _measured(network, run, store, check_kept).values()
    return json.dumps([found["measurement"] for found in measured])[:200]


def _merged(networks: list[Network]) -> list[Network]:
    """Each configuration once, with all that is asked of it."""
    merged: dict[training.Config, dict[str, Question]] = {}
    for config, questions in networks:
        merged.setdefault(config, {}).update(
            {described(question): question for question in questions.values()}
        )
    return [Network(*each) for each in merged.items()]


def _here(network: Network) -> dict[str, Any]:
    try:
        run = trained(network.config, Store())
    except training.Divergence as error:
        return {"diverged": str(error)}
    return _outcome(run, _measured(network, run, Store(), lambda: None))


def _measured(
    network: Network, run: training.Run, store: Store, check_kept: Callable[[], None]
) -> dict[str, dict]:
    measured = {}
    for name, question in network.questions.items():
        known = store.root and _known(network.config, question, run, store)
        if known:
            measured[name] = known
            continue
        if store.until is not None and time.time() > store.until:
            break
        began = time.perf_counter()
        dataset = dataset_of(network.config.data, network.config.split)
        found = question(deepcopy(run.model), dataset)  # it may change what it is given
        seconds = round(time.perf_counter() - began, 2)
        found = checks.as_json(found, f"the answer to the question {question.name!r}")
        measured[name] = {"measurement": found, "seconds": seconds}
        if store.root:
            check_kept()
            store.keep(network.config, question, found, seconds, stopped(run), digest(dataset))
    return measured


def _outcome(run: training.Run, measured: dict[str, Any]) -> dict[str, Any]:
    seconds = {"training": round(sum(epoch["seconds"] for epoch in run.history), 2)}
    return {
        "measurements": {name: found["measurement"] for name, found in measured.items()},
        "training": run.history[-1],
        "seconds": seconds | {name: found["seconds"] for name, found in measured.items()},
    }


# ---------------------------------------------------------------- many


def together(group: Sequence[Network], store: Store) -> list[str]:
    """Train networks, on a GPU at once, and ask what is not measured yet; a line about each."""
    several = group if len(group) > 1 else ()
    configs = [config for config, _ in several if not taken(config, store)]
    for source in dict.fromkeys((config.data, config.split) for config in configs):
        some = [config for config in configs if (config.data, config.split) == source]
        try:
            training.fit_together(
                some,
                folders=[store.folder(config) for config in some],
                dataset=dataset_of(*source),
                until=store.until,
            )
        except training.Unfinished as stopped:
            print(stopped, flush=True)
        except (training.Divergence, training.Busy) as error:
            print(f"{error} The others go on one by one.", flush=True)
    return [work(network, store) for network in group]


def _groups(networks: list[Network], size: int) -> list[list[Network]]:
    return [networks[first : first + size] for first in range(0, len(networks), size)]


# ---------------------------------------------------------------- small ones


def _kind(config: training.Config) -> training.Config:
    """Two steps of such a training."""
    steps = {"images": config.batch_size, "epochs": 2, "part": "train"}
    return replace(config, **steps, warmup=0, milestones=(), learning_rate=0.0, seed=0)


def _images_per_second(config: training.Config) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = dataset_of(config.data, config.split)
        run = training.fit(config, dataset=found, progress=False)
        return run.history[-1]["images_per_second"]
    finally:
        torch.set_num_threads(threads)


def _begun(
    config: training.Config, folder: Path, device: str | torch.device = "cpu"
) -> training.Run | None:
    """The run in a folder, as far as it is."""
    if not found_in(folder):
        return None
    run = training.load(folder, device=device)
    if run.config != config:
        raise ValueError(f"{folder} holds the network {name_of(run.config)!r}: {AGAIN}")
    dataset = dataset_of(config.data, config.split)
    if not trained_on_checksum(folder, _checksum(dataset, config.part, config.images)):
        raise ValueError(
            f"{folder} holds a network trained on other images than those of {config.data!r} now: "
            f"{AGAIN}"
        )
    return run


_checksum = cache(checksum_of)


def _known(
    config: training.Config, question: Question, run: training.Run, store: Store
) -> Told | None:
    """What is stored of a question, which was asked on the images that there are now."""
    return _of_images(store.measured(config, question, stopped(run)), config)


def _diverged(config: training.Config, store: Store) -> str | None:
    """How the training diverged, if it did, on the images that there are now."""
    told = _of_images(store.diverged(config), config)
    return told["diverged"] if told else None


def _of_images(told: Told | None, config: training.Config) -> Told | None:
    """The same, of the images of the data set as it is now; once that was not told."""
    if told and "images" in told and told["images"] != _digest(config):
        raise ValueError(
            f"{told.file} is of other images than those of {config.data!r} now: {AGAIN}"
        )
    return told


def _digest(config: training.Config) -> int:
    return digest(dataset_of(config.data, config.split))


def _name(config: training.Config) -> str:
    names = ("eta", "radius", "epsilon")
    setting = {name: getattr(config, name) for name in names if getattr(config, name)}
    return f"{config.model} {config.method} {setting} seed {config.seed}"

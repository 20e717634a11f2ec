"""The networks of a grid: each trained once, and asked each question once, in a folder of its own.

A question is a function of a network that returns numbers for a table. What is in the folder is not
done again, by whichever experiment it is asked for; a network whose training was killed goes on
from its last checkpoint. After a change of the code that trains or asks, delete the folder: an
answer is known by the question's name and options. Networks are independent of each other: on a GPU
several train at once, on a CPU each core trains one, and a cluster's workers share them out.
"""

import hashlib
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from wdtr_lite import data, training
from wdtr_lite.data import Dataset

__all__ = [
    "Network",
    "across_seeds",
    "choose",
    "complete",
    "dataset_of",
    "outcome",
    "progress",
    "trained",
]

TOGETHER = 8  # networks that train at once on a GPU

Question = Callable[..., object]


class Network(NamedTuple):
    """What to train, and what to ask of it."""

    config: training.Config
    questions: dict[
        str, Question
    ]  # by the answer's name; each a partial of a module's function: model, dataset -> JSON


def complete(
    networks: Sequence[Network],
    root: str | os.PathLike | None = None,
    *,
    cluster: str | None = None,
    finished: bool = False,
) -> list[dict | None]:
    """Train what is not trained, ask what is not answered.

    Parameters
    ----------
    networks : sequence of Network
        In the order in which they are to be done. One that occurs twice is trained once.
    root : path, optional
        Where networks and answers are kept, a folder for each configuration. Without it all is done
        here and now, and nothing is kept. With it, on a machine without a GPU, in a process on each
        core.
    cluster : str, optional
        Address of a Dask scheduler. Its workers must see the same `root` and the same data under
        the same paths: a run whose worker dies goes on from its checkpoint on another.
    finished : bool
        Do nothing: return what is there already.

    Returns
    -------
    list of dict or None
        As :func:`outcome`, which is None for a network that is not finished.
    """
    if root is None:
        return [_here(network) for network in networks]
    root = Path(root)
    missing = (
        []
        if finished
        else _merged([network for network in networks if outcome(network, root) is None])
    )
    if missing and torch.cuda.is_available() and not cluster:
        _on_gpu(missing, root)
    elif missing:
        with _executor(cluster) as executor:
            for done in as_completed(
                [executor.submit(_work, network, root) for network in missing]
            ):
                print(done.result(), flush=True)
    return [outcome(network, root) for network in networks]


def outcome(network: Network, root: str | os.PathLike) -> dict | None:
    """What is kept of a network: its ``answers`` by name, the last metrics of its ``training``,
    the ``seconds`` that the
    training and each answer took; None where not all is there. Of a training that diverged,
    ``diverged`` says how.
    """
    folder = _folder(network.config, root)
    if (folder / "diverged.json").exists():
        return {"diverged": json.loads((folder / "diverged.json").read_text())}
    measurements = {
        name: _answered(_file(folder, question)) for name, question in network.questions.items()
    }
    if None in measurements.values() or not _is_trained(network.config, folder):
        return None
    return _outcome(training.load(folder), measurements)


def progress(networks: Sequence[Network], root: str | os.PathLike) -> list[tuple[float, float]]:
    """Of each network the seconds of training done, and those still to come on one core, or the
    GPU, of this machine: measured
    on two steps of each kind of training.
    """
    rate = cache(_images_per_second)
    found = []
    for config, _ in networks:
        folder = _folder(config, root)
        history = training.load(folder).history if _has_checkpoint(folder) else []
        epochs = 0 if (folder / "diverged.json").exists() else config.epochs - len(history)
        images = config.images or len(dataset_of(config.data, config.split).split[config.part])
        kind = replace(
            config,
            images=config.batch_size,
            epochs=2,
            warmup=0,
            milestones=(),
            learning_rate=0.0,
            seed=0,
            part="train",
        )
        found.append(
            (
                sum(epoch["seconds"] for epoch in history),
                epochs * images / rate(kind) if epochs else 0.0,
            )
        )
    return found


def _images_per_second(config: training.Config) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data_set = dataset_of(config.data, config.split)
        return training.fit(config, dataset=data_set, progress=False).history[-1][
            "images_per_second"
        ]
    finally:
        torch.set_num_threads(threads)


@cache
def trained(
    config: training.Config, root: str | os.PathLike | None = None, device: str | None = None
) -> training.Run:
    """The network of a configuration, from its folder or trained there; kept in memory, so that it
    is trained once a process.
    """
    folder = root and _folder(config, root)
    if folder and _is_trained(config, folder):
        return training.load(
            folder, device=device or ("cuda" if torch.cuda.is_available() else "cpu")
        )
    data_set = dataset_of(config.data, config.split)
    return training.fit(
        config, folder=folder, dataset=data_set, device=device, checkpoint_every=1, progress=False
    )


@cache
def dataset_of(name: str, split: str | None = None) -> Dataset:
    """:func:`~wdtr_lite.data.load`, kept in memory."""
    return data.load(name, split=split)


def across_seeds(rows: list[dict], condition: str, **labels) -> dict:
    """Mean error under a condition of the networks with these labels, its standard deviation over
    n seeds.

    Parameters
    ----------
    rows : list of dict
        Each with its labels, and counts ``wrong`` and ``n`` by condition.
    condition : str
    **labels
        What a row must hold, ``method="none"`` for instance.

    Returns
    -------
    dict
        ``mean``, ``sd`` (None of one seed, both of none) and ``n``.
    """
    chosen = [
        row
        for row in rows
        if all(row[name] == value for name, value in labels.items()) and "wrong" in row
    ]
    errors = [row["wrong"][condition] / row["n"][condition] for row in chosen]
    return {
        "mean": float(np.mean(errors)) if errors else None,
        "sd": float(np.std(errors, ddof=1)) if len(errors) > 1 else None,
        "n": len(errors),
    }


def choose(search: list[dict], conditions: list[str], allowance: float = 0.01) -> dict[str, dict]:
    """Of each method the setting with the lowest validation error, on average over the conditions,
    among those whose natural
    error is at most `allowance` above that of plain training (method ``"none"``); without any, that
    of the lowest natural error.
    """

    def error(row: dict, *conditions: str) -> float:
        return sum(row["wrong"][name] / row["n"][name] for name in conditions)

    search = [row for row in search if "wrong" in row]
    plain = [error(row, "natural") for row in search if row["method"] == "none"]
    limit, chosen = min(plain, default=float("inf")) + allowance, {}
    for row in sorted(search, key=lambda row: error(row, *conditions)):
        if error(row, "natural") <= limit:
            chosen.setdefault(row["method"], row["setting"])
    for row in sorted(search, key=lambda row: error(row, "natural")):
        chosen.setdefault(row["method"], row["setting"])
    return chosen


# ---------------------------------------------------------------- one network


def _work(network: Network, root: Path, device: str | None = None) -> str:
    """Train a network and ask what is not answered yet; a line about it."""
    config, folder = network.config, _folder(network.config, root)
    try:
        run = trained(config, root, device)
    except training.Divergence as error:
        _write(folder / "diverged.json", str(error))
        return f"{_name(config)}: diverged"
    measurements = [found["answer"] for found in _measurements(network, run, folder).values()]
    return f"{_name(config)}: {json.dumps(measurements)[:200]}"


def _merged(networks: list[Network]) -> list[Network]:
    """Each configuration once, with all that is asked of it."""
    merged: dict[training.Config, dict[str, partial]] = {}
    for config, questions in networks:
        merged.setdefault(config, {}).update(
            {_described(question): question for question in questions.values()}
        )
    return [Network(*each) for each in merged.items()]


def _here(network: Network) -> dict:
    try:
        run = trained(network.config)
    except training.Divergence as error:
        return {"diverged": str(error)}
    return _outcome(run, _measurements(network, run))


def _measurements(
    network: Network, run: training.Run, folder: Path | None = None
) -> dict[str, dict]:
    measurements = {}
    for name, question in network.questions.items():
        file = folder and _file(folder, question)
        if file and (known := _answered(file)):
            measurements[name] = known
            continue
        began = time.perf_counter()
        answer = question(run.model, dataset_of(network.config.data, network.config.split))
        seconds = round(time.perf_counter() - began, 2)
        measurements[name] = {
            "question": _described(question),
            "seconds": seconds,
            "answer": answer,
        }
        if file:
            _write(file, measurements[name])
    return measurements


def _outcome(run: training.Run, measurements: dict[str, dict]) -> dict:
    seconds = {"training": round(sum(epoch["seconds"] for epoch in run.history), 2)}
    return {
        "measurements": {name: found["answer"] for name, found in measurements.items()},
        "training": run.history[-1],
        "seconds": seconds | {name: found["seconds"] for name, found in measurements.items()},
    }


def _on_gpu(missing: list[Network], root: Path) -> None:
    for first in range(0, len(missing), TOGETHER):
        group = missing[first : first + TOGETHER]
        configs = [config for config, _ in group if not _is_trained(config, _folder(config, root))]
        for source in dict.fromkeys((config.data, config.split) for config in configs):
            some = [config for config in configs if (config.data, config.split) == source]
            try:
                training.fit_together(
                    some,
                    folders=[_folder(config, root) for config in some],
                    dataset=dataset_of(*source),
                )
            except training.Divergence as error:
                print(f"{error} The others go on one by one.", flush=True)
        for network in group:
            print(_work(network, root), flush=True)


@contextmanager
def _executor(cluster: str | None) -> Iterator[Executor]:
    """A process on each core, or the workers of a Dask cluster, which answer to the same
    interface.
    """
    if cluster is None:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(os.cpu_count(), spawn, _begin) as executor:
            yield executor
        return
    from distributed import Client

    with Client(cluster) as client:
        yield client.get_executor(pure=False)


def _begin() -> None:
    """One thread for each process of the pool, which ends with the process that started it, even
    if that one is killed.
    """
    torch.set_num_threads(1)

    def follow():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


# ---------------------------------------------------------------- files


def _folder(config: training.Config, root: str | os.PathLike) -> Path:
    return Path(root) / hashlib.md5(json.dumps([asdict(config), {}]).encode()).hexdigest()[:12]


def _described(question: partial) -> str:
    options = {name: value for name, value in question.keywords.items() if name != "root"}
    module = question.func.__module__.replace("study.", "")
    return f"{module}.{question.func.__qualname__} {json.dumps(options, sort_keys=True)}"


def _file(folder: Path, question: partial) -> Path:
    return (
        folder
        / f"{question.func.__name__}-{hashlib.md5(_described(question).encode()).hexdigest()[:8]}.json"
    )


def _answered(file: Path) -> dict | None:
    """What the file says; None where it is not there, or damaged."""
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _has_checkpoint(folder: Path) -> bool:
    return (folder / "checkpoint.pt").exists()


def _is_trained(config: training.Config, folder: Path) -> bool:
    return _has_checkpoint(folder) and len(training.load(folder).history) == config.epochs


def _write(file: Path, value: object) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(value))
    part.replace(file)


def _name(config: training.Config) -> str:
    setting = {
        name: getattr(config, name)
        for name in ("eta", "radius", "epsilon")
        if getattr(config, name)
    }
    return f"{config.model} {config.method} {setting} seed {config.seed}"

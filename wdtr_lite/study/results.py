"""Experiments run as declared, and the files of ``results/``, each with its provenance.

``python -m wdtr_lite experiment NAME --profile full`` runs one and writes ``results/NAME.json``.
"""

import json
import os
import platform
import subprocess
import textwrap
import time
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from wdtr_lite import checks
from wdtr_lite.study import grid
from wdtr_lite.study.files import found, networks_folder, path_of, publish
from wdtr_lite.study.spec import EXPERIMENTS, Experiment, Trained
from wdtr_lite.study.store import Store, write
from wdtr_lite.study.workers import unfinished

__all__ = [
    "decided",
    "declared",
    "describe",
    "network_minutes",
    "progress",
    "provenance",
    "run",
]

LIBRARIES = ("numpy", "scipy", "torch", "torchvision", "POT", "scikit-learn", "pyautoattack")


def declared(name: str, profile: str) -> Experiment:
    """An experiment of :data:`~wdtr_lite.study.spec.EXPERIMENTS`."""
    checks.option(name, "name", tuple(EXPERIMENTS))
    checks.option(profile, "profile", tuple(EXPERIMENTS[name]))
    return EXPERIMENTS[name][profile]


def decided(name: str, profile: str) -> Experiment:
    """An experiment with the settings that Table 1 chose as its only candidates of those methods,
    where it follows Table 1 and that was run as declared; else it searches as Table 1 does.
    """
    experiment = declared(name, profile)
    if not isinstance(experiment, Trained) or experiment.follows is None:
        return experiment
    leader = found(experiment.follows, profile)
    if leader is None or leader["config"] != declared(experiment.follows, profile).config():
        return experiment
    result = leader.part("result")
    if not result["grid_complete"]:
        return experiment
    return replace(experiment, networks=experiment.networks.settled(result.part("chosen")))


def run(
    name: str,
    profile: str = "quick",
    *,
    cluster: str | None = None,
    finished: bool = False,
    until: float | None = None,
) -> dict[str, Any]:
    """Run an experiment as declared in :data:`~wdtr_lite.study.spec.EXPERIMENTS`.

    ``quick`` returns the result. The other profiles also write it, ``full`` to
    ``results/NAME.json``, ``cpu`` to ``results/NAME_cpu.json``; stopped, they go on from
    ``_runs/``, where networks are stored for all experiments. Where ``full`` asks for a GPU and
    there is none nor a cluster, no network is trained: those that are there, in ``_runs/`` or
    published, are asked as far as they are trained.

    Parameters
    ----------
    name : str
        A key of :data:`~wdtr_lite.study.spec.EXPERIMENTS`.
    profile : {"quick", "cpu", "full"}
    cluster, finished, until
        As for :class:`~wdtr_lite.study.store.Store`. An experiment without networks is not begun
        after `until`, but goes on to its end.

    Returns
    -------
    dict
        ``experiment``, ``profile``, ``config``, ``data`` (its source and split), ``result``,
        ``provenance``; of networks whose weights are written too the ``history`` of the training
        and the files' checksums (SHA-256), ``weights``.

    Raises
    ------
    ChildProcessError, ConnectionError
        If a process that trains is killed, or the scheduler: the same call goes on.
    Unfinished
        Where the time is up: likewise.
    """
    experiment, began = declared(name, profile), time.monotonic()
    quick, store = profile == "quick", Store(networks_folder(), cluster, finished, until)
    finished = store.finished
    if finished and not experiment.trains:
        raise ValueError(f"{name} has no networks that could be finished")
    if quick and (finished or cluster or until is not None):
        raise ValueError(
            "finished, cluster and until are for the profiles cpu and full, quick stores nothing: "
            f"got {finished=}, {cluster=}, {until=}"
        )
    trains = not finished and (bool(cluster) or not experiment.lacks_gpu)
    store = Store() if quick else replace(store, trains=trains)
    chosen, path = decided(name, profile), path_of(name, profile)
    dataset = grid.dataset_of(*experiment.source)
    if not quick:
        path.parent.mkdir(exist_ok=True)  # if that is not allowed, before hours of work
    if until is not None and not experiment.trains and time.time() > until:
        raise unfinished(f"{name} is not begun", worked=False)
    result = chosen.run(store)
    command = f"python -m wdtr_lite experiment {name} --profile {profile}"
    command += " --finished" * finished + (" --cluster ADDRESS" if cluster else "")
    report = {
        "experiment": name,
        "profile": profile,
        "config": experiment.config(),
        "data": repr(dataset),
        "result": result,
        "provenance": provenance(command, time.monotonic() - began),
    }
    if not quick:
        _check_told(report, store)
        if networks := experiment.publish(result, store):
            report["history"] = {method: each.history for method, each in networks.items()}
            report["weights"] = {
                method: publish(name, profile, method, each) for method, each in networks.items()
            }
        write(path, report, indent=1)
    return report


def _check_told(report: dict[str, Any], store: Store) -> None:
    """Not less than the file does."""
    name, profile = report["experiment"], report["profile"]
    path, known = path_of(name, profile), found(name, profile)
    before = _told(known["result"]) if known else 0
    if store.finished and _told(report["result"]) < max(1, before):
        raise ValueError(f"less of {name} is finished in {store.root} than {path} tells already")


def _told(result: dict[str, Any]) -> int:
    return sum("missing" not in row for row in [*result.get("search", []), *result["rows"]])


def progress(name: str, profile: str) -> list[tuple[dict[str, Any], float, float]]:
    """The networks an experiment trains: labels, seconds trained so far, seconds this machine
    should still take.

    Seconds of one core or of the GPU; of an experiment that lacks one, of the GPU on which the
    networks that are there were trained. Without networks the list is empty.
    """
    trains = not declared(name, profile).lacks_gpu
    store = Store(networks_folder(), finished=True, trains=trains)
    labels = {}  # of the grid and of what is chosen from it each once
    for job in decided(name, profile).planned(store):
        labels.setdefault(job.config, job.labels)
    seconds = grid.progress(list(labels), store)
    return [(told, *each) for told, each in zip(labels.values(), seconds, strict=True)]


# ---------------------------------------------------------------- provenance


def provenance(command: str, seconds: float) -> dict[str, Any]:
    """Where and how a result was measured: device, library versions, commit, command, wall time.

    Parameters
    ----------
    command : str
        What one types to measure it again.
    seconds : float
        Wall time of the measurement.
    """
    checks.text(command, "command")
    seconds = checks.number(seconds, "seconds")
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "wall_seconds": round(seconds, 1),
        "device": ", ".join([*_gpu_names(), _cpu_name(), f"{os.cpu_count()} cores"]),
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(),
    }


def _versions() -> dict[str, str]:
    """Of the libraries that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        git = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return git.stdout.strip() or "unknown"


def _gpu_names() -> list[str]:
    return [torch.cuda.get_device_name()] if torch.cuda.is_available() else []


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def network_minutes(report: dict[str, Any]) -> float | None:
    """What training and asking the networks of a result took, each on one core, by whichever
    command; None without.
    """
    checks.instance(report, "report", dict)
    result = checks.held({"result": {}, **report}, "report", "result", dict)
    trained, asked = set(), []
    for part in ("search", "rows"):
        name = f"report['result'][{part!r}]"
        for k, row in enumerate(checks.every(result.get(part, []), name, dict)):
            if "seconds" in row:
                network, seconds = _took(row, f"{name}[{k}]")
                trained.add(network)  # in search and rows it is one
                asked.append(seconds)
    return (sum(seconds for *_, seconds in trained) + sum(asked)) / 60 if asked else None


def _took(row: dict[str, Any], name: str) -> tuple[tuple[str, str, int, float], float]:
    """A network with the seconds of its training, and those of what it was asked."""
    method = checks.held(row, name, "method", str)
    setting = json.dumps(row.get("setting"), sort_keys=True)
    seed = checks.held(row, name, "seed", int)
    seconds = checks.held(row, name, "seconds", dict)
    for key, value in seconds.items():
        checks.number(value, f"{name}['seconds'][{key!r}]")
    training = checks.held(seconds, f"{name}['seconds']", "training")
    return (method, setting, seed, training), sum(seconds.values()) - training


def describe(report: dict[str, Any]) -> str:
    """How a stored report was measured, a line each: device, time and commit; versions; command.

    The time is that of the command or, where networks were trained, :func:`network_minutes`.
    """
    checks.instance(report, "report", dict)
    origin, name = checks.held(report, "report", "provenance", dict), "report['provenance']"
    device, date, commit, command = (
        checks.held(origin, name, key, str) for key in ("device", "date", "commit", "command")
    )
    libraries = checks.held(origin, name, "versions", dict).items()
    versions = ", ".join(f"{library} {number}" for library, number in libraries)
    wall = checks.number(checks.held(origin, name, "wall_seconds"), f"{name}['wall_seconds']")
    minutes, spent = f"{wall / 60:.0f} minutes", network_minutes(report)
    if spent is not None:
        minutes = f"{spent:.0f} network-minutes"
    told = f"{device}; {minutes} on {date}; commit {commit}"
    return "\n".join([told, *textwrap.wrap(versions, 76), command])

"""Experiments run as declared, and the files of ``results/``, each with its provenance.

``python -m wdtr_lite experiment NAME --profile full`` runs one and writes ``results/NAME.json``.
"""

import hashlib
import io
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
from torch import Tensor, nn

from wdtr_lite import checks, training
from wdtr_lite.study import grid
from wdtr_lite.study.spec import EXPERIMENTS, Experiment, Networks, Trained
from wdtr_lite.study.store import AGAIN, Store, Told, read, write
from wdtr_lite.training.checkpoint import replace_file, tensors_in

__all__ = [
    "decided",
    "declared",
    "describe",
    "found",
    "network",
    "network_minutes",
    "path_of",
    "progress",
    "provenance",
    "report_in",
    "run",
    "stored",
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
    ``_runs/``, where networks are stored for all experiments.

    Parameters
    ----------
    name : str
        A key of :data:`~wdtr_lite.study.spec.EXPERIMENTS`.
    profile : {"quick", "cpu", "full"}
    cluster, finished, until
        As for :class:`~wdtr_lite.study.store.Store`.

    Returns
    -------
    dict
        ``experiment``, ``profile``, ``config``, ``data`` (its source and split), ``result``,
        ``provenance``; where weights are written too, their checksums (SHA-256), ``weights``.

    Raises
    ------
    ChildProcessError, ConnectionError
        If a process that trains is killed, or the scheduler: the same call goes on.
    Unfinished
        Where the time is up: likewise.
    """
    experiment, began = declared(name, profile), time.monotonic()
    quick, store = profile == "quick", Store(_networks(), cluster, finished, until)
    if finished and not experiment.trains:
        raise ValueError(f"{name} has no networks that could be finished")
    if quick and (finished or cluster or until):
        raise ValueError(
            "finished, cluster and until are for the profiles cpu and full, quick stores nothing: "
            f"got {finished=}, {cluster=}, {until=}"
        )
    store = Store() if quick else store
    chosen, path = decided(name, profile), path_of(name, profile)
    dataset = grid.dataset_of(*experiment.source)
    if not quick:
        path.parent.mkdir(exist_ok=True)  # if that is not allowed, before hours of work
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
        if weights := experiment.publish(result, store):
            report["weights"] = {
                method: _published(path_of(name, profile, f"_{method}.pt"), each)
                for method, each in weights.items()
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


def _published(file: Path, weights: dict[str, Tensor]) -> str:
    """The checksum of the file that holds them from now on."""
    content = io.BytesIO()  # torch makes another error of a full disk's
    torch.save(weights, content)
    replace_file(file, lambda stream: stream.write(content.getbuffer()))
    return _checksum(file)


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def network(method: str, profile: str = "cpu") -> nn.Module:
    """A network of Table 1, first seed, with its published weights, in evaluation mode on the CPU.

    Parameters
    ----------
    method : {"none", "euclidean", "wasserstein"}
    profile : {"cpu", "full"}
    """
    profiles = tuple(each for each in EXPERIMENTS["table1"] if each != "quick")
    checks.option(profile, "profile", profiles)
    report = stored("table1", profile)
    chosen, rows = report["result"].part("chosen"), report["result"]["rows"]
    trained = [row for row in rows if row["method"] in chosen and "wrong" in row]
    checks.option(method, "method", tuple(dict.fromkeys(row["method"] for row in trained)))
    row = next(row for row in trained if row["method"] == method)
    networks = Networks(**report["config"]["networks"])
    config = networks.job(method, row["setting"], row["seed"]).config
    path = path_of("table1", profile, f"_{method}.pt")
    if _checksum(path) != report.part("weights")[method]:
        raise ValueError(f"{path} is damaged or another network's: {AGAIN}")
    return training.network(config, tensors_in(path, AGAIN))


def progress(name: str, profile: str) -> list[tuple[dict[str, Any], float, float]]:
    """The networks an experiment trains: labels, seconds trained so far, seconds this machine
    should still take.

    Seconds of one core or of the GPU. Without networks the list is empty.
    """
    store = Store(_networks(), finished=True)
    planned = decided(name, profile).planned(store)
    seconds = grid.progress([job.config for job in planned], store)
    return [(job.labels, *each) for job, each in zip(planned, seconds, strict=True)]


# ---------------------------------------------------------------- files


def path_of(name: str, profile: str = "full", suffix: str = ".json") -> Path:
    """Where a result is stored: ``results/NAME.json``, ``results/NAME_cpu.json``; of the checkout,
    seen from its top or ``book/``.
    """
    for part, value in (("name", name), ("suffix", suffix)):
        checks.instance(value, part, str)
    checks.option(profile, "profile", ("quick", "cpu", "full"))
    places = (Path("results"), Path("../results"))
    folder = next((folder for folder in places if folder.is_dir()), Path("results"))
    return folder / (name + ("" if profile == "full" else f"_{profile}") + suffix)


def _networks() -> Path:
    """What stopped runs go on from, beside the results."""
    return path_of("").parent.parent / "_runs" / "networks"


def stored(name: str, profile: str = "full") -> Told:
    """The result file ``results/NAME.json``, or ``results/NAME_cpu.json``, as an experiment or a
    benchmark wrote it.
    """
    path = path_of(name, profile)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}, of name={checks.shown(name)}, was not run: make results runs experiments, "
            "benchmarks/*.py --write benchmarks"
        )
    return report_in(path)


def report_in(path: Path) -> Told:
    """What a file of ``results/`` says."""
    report = read(path, sealed=True)
    report.part("provenance")
    if path.stem.startswith("benchmark_"):
        held = report["name"]
    else:
        held = path_of(report.part("experiment", str), report.part("profile", str)).stem
        report.part("config")
        report.part("result").parts("rows")
    if held != path.stem:
        raise ValueError(f"{path} holds {held!r}: {AGAIN}")
    return report


def found(name: str, profile: str = "full") -> Told | None:
    """:func:`stored`, or None where it was not run."""
    return stored(name, profile) if path_of(name, profile).exists() else None


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


def _took(row: dict[str, Any], name: str) -> tuple[tuple[str, int, float], float]:
    """A network with the seconds of its training, and those of what it was asked."""
    method = checks.held(row, name, "method", str)
    seed = checks.held(row, name, "seed", int)
    seconds = checks.held(row, name, "seconds", dict)
    for key, value in seconds.items():
        checks.number(value, f"{name}['seconds'][{key!r}]")
    training = checks.held(seconds, f"{name}['seconds']", "training")
    return (method, seed, training), sum(seconds.values()) - training


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

"""The files of ``results/``: what was measured, and the weights of the networks."""

import hashlib
import io
from pathlib import Path

import torch
from torch import nn

from wdtr_lite import checks, training
from wdtr_lite.study.spec import EXPERIMENTS, Networks
from wdtr_lite.study.store import AGAIN, Told, read
from wdtr_lite.training.checkpoint import replace_file, tensors_in

__all__ = [
    "found",
    "network",
    "networks_folder",
    "path_of",
    "publish",
    "published",
    "report_in",
    "stored",
]


def path_of(name: str, profile: str = "full", suffix: str = ".json") -> Path:
    """Where a result is stored: ``results/NAME.json``, ``results/NAME_cpu.json``; of the checkout,
    seen from its top or ``book/``.
    """
    for part, value in (("name", name), ("suffix", suffix)):
        checks.instance(value, part, str)
    if name:
        checks.word(name, "name")
    checks.option(profile, "profile", ("quick", "cpu", "full"))
    places = (Path("results"), Path("../results"))
    folder = next((folder for folder in places if folder.is_dir()), Path("results"))
    return folder / (name + ("" if profile == "full" else f"_{profile}") + suffix)


def networks_folder() -> Path:
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
        held, profile = report.part("experiment", str), report.part("profile", str)
        held += "" if profile == "full" else f"_{profile}"
        report.part("config")
        report.part("result").parts("rows")
    if held != path.stem:
        raise ValueError(f"{path} holds {held!r}: {AGAIN}")
    return report


def found(name: str, profile: str = "full") -> Told | None:
    """:func:`stored`, or None where it was not run."""
    return stored(name, profile) if path_of(name, profile).exists() else None


# ---------------------------------------------------------------- networks


def publish(name: str, profile: str, method: str, run: training.Run) -> str:
    """Put a network's weights beside a result; the checksum (SHA-256) of the file."""
    file, content = path_of(name, profile, f"_{method}.pt"), io.BytesIO()
    torch.save(run.model.cpu().state_dict(), content)  # of a full disk torch makes another error
    replace_file(file, lambda stream: stream.write(content.getbuffer()))
    return _checksum(file)


def network(method: str, profile: str = "cpu") -> nn.Module:
    """A network of Table 1, first seed, with its published weights, in evaluation mode on the CPU.

    Parameters
    ----------
    method : {"none", "euclidean", "wasserstein"}
    profile : {"cpu", "full"}
        ``full`` are the paper's networks; how many epochs they were trained for, their rows say.
    """
    profiles = tuple(each for each in EXPERIMENTS["table1"] if each != "quick")
    checks.option(profile, "profile", profiles)
    report = stored("table1", profile)
    configs = _published(report)
    checks.option(method, "method", tuple(configs))
    return _made(report, method, configs[method])


def published(config: training.Config, device: str | torch.device = "cpu") -> training.Run | None:
    """The network of Table 1 at full scale that has this configuration, if its weights are there,
    as far as it was trained.
    """
    report = found("table1")
    methods = _published(report).items() if report else ()
    method = next((method for method, known in methods if known == config), None)
    if report is None or method is None:
        return None
    model = _made(report, method, config).to(device)
    return training.Run(model, report.part("history")[method], config)


def _published(report: Told) -> dict[str, training.Config]:
    """Of the first seed, by method."""
    networks, rows = Networks(**report["config"]["networks"]), report["result"]["rows"]
    found = {}
    for row in rows:
        if row["method"] in report.part("weights") and "wrong" in row:
            config = networks.job(row["method"], row["setting"], row["seed"]).config
            found.setdefault(row["method"], config)
    return found


def _made(report: Told, method: str, config: training.Config) -> nn.Module:
    path = path_of("table1", report["profile"], f"_{method}.pt")
    if _checksum(path) != report["weights"][method]:
        raise ValueError(f"{path} is damaged or another network's: {AGAIN}")
    return training.network(config, tensors_in(path, AGAIN))


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()

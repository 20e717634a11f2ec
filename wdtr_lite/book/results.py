"""What the page of results says: which file is from where."""

import json
from collections.abc import Iterable, Mapping

from IPython.display import Markdown

from wdtr_lite import study
from wdtr_lite.book import tables
from wdtr_lite.study.files import report_in
from wdtr_lite.training import Config

__all__ = ["benchmarks_table", "commands", "experiments_table", "load", "versions", "weights"]

Reports = Mapping[str, Mapping]  # by the file's name without its suffix


def load() -> Reports:
    """Every report of ``results/``."""
    paths = sorted(study.path_of("").parent.glob("*.json"))
    return {path.stem: report_in(path) for path in paths}


def experiments_table(reports: Reports) -> Markdown:
    """Date, time and commit of each experiment, and how far its networks were trained."""
    rows = []
    for name, profile in _declared():
        path = study.path_of(name, profile)
        report = reports.get(path.stem)
        rows.append([f"`{path.name}`", profile, _trained(report), *_spent(report)])
    header = ["file", "profile", "networks", "date", "minutes", "network-minutes", "commit"]
    return tables.table(header, rows, ["", "", "", "", ".0f", ".0f"])


def _trained(report: Mapping | None) -> str:
    """How many of an experiment's networks are there, how far they were trained, and on what if not
    on the machine that asked them.
    """
    if report is None or "networks" not in report["config"]:
        return "–"
    every = [*report["result"]["rows"], *dict(report["result"]).get("search", [])]
    there = _without_repeats(row for row in every if "training" in row)
    if not there:  # it tells nothing of its networks: those of Table 1
        return "those of Table 1"
    told = [row["training"] for row in there]
    epochs = Config(**report["config"]["networks"]["training"]).epochs
    reached = sorted({int(each["epoch"]) for each in told})
    length = " or ".join(map(str, reached))
    length = f"to epoch {length} of {epochs}" if reached[0] < epochs else f"{length} epochs"
    trained = [f"{len(there)} of {len(_without_repeats(every))}", length]
    devices = (device.partition(",")[0] for device in _elsewhere(report))
    return ", ".join([*trained, *devices])


def _elsewhere(report: Mapping) -> list[str]:
    """On what its networks were trained, if not on the machine that asked them."""
    rows = (row["training"] for row in report["result"]["rows"] if "training" in row)
    return sorted({each.get("device", "") for each in rows} - {"", "CPU"})


def _without_repeats(rows: Iterable[Mapping]) -> list[Mapping]:
    """The rows, one of each network."""
    found: dict[str, Mapping] = {}
    for row in rows:
        took = row.get("training", {}).get("seconds")
        key = [row["method"], row["setting"], row.get("seed"), took]
        found.setdefault(json.dumps(key, sort_keys=True, default=str), row)
    return list(found.values())


def _spent(report: Mapping | None) -> list[str | float]:
    if report is None:
        return ["not run", "–", "–", "–"]
    made, networks = report["provenance"], study.network_minutes(dict(report))
    return [made["date"], made["wall_seconds"] / 60, networks or "–", f"`{made['commit']}`"]


def commands(reports: Reports) -> str:
    """The data, device and command of each experiment."""
    lines = []
    for name, profile in _declared():
        path = study.path_of(name, profile)
        lines.append(path.name)
        if report := reports.get(path.stem):
            lines.append("  " + report["data"].replace(", from", "\n  from"))
            lines += [f"  {report['provenance'][key]}" for key in ("device", "command")]
            lines += [f"  networks trained on {device}" for device in _elsewhere(report)]
        else:
            lines.append("  not run; the command that runs it:")
            lines.append(f"  python -m wdtr_lite experiment {name} --profile {profile}")
    return "\n".join(lines)


def _declared() -> list[tuple[str, str]]:
    return [
        (name, profile)
        for name, profiles in study.EXPERIMENTS.items()
        for profile in profiles
        if profile != "quick"
    ]


def benchmarks_table(reports: Reports) -> Markdown:
    """Date, time, commit and command of each benchmark."""
    rows = []
    for name, report in reports.items():
        if name.startswith("benchmark_"):
            made = report["provenance"]
            minutes, texts = made["wall_seconds"] / 60, (made["commit"], made["command"])
            rows.append([f"`{name}.json`", made["date"], minutes, *(f"`{text}`" for text in texts)])
    header = ["file", "date", "minutes", "commit", "command"]
    return tables.table(header, rows, ["", "", ".0f"])


def versions(reports: Reports) -> str:
    """The library versions, each set with the files that were made with it."""
    files: dict[str, list[str]] = {}
    for name, report in reports.items():
        found = report["provenance"]["versions"].items()
        text = ", ".join(f"{library} {number}" for library, number in found)
        files.setdefault(text.replace(", torch", ",\n  torch", 1), []).append(name)
    return "\n".join("\n    ".join([f"{versions}:", *names]) for versions, names in files.items())


def weights() -> str:
    """The files of weights."""
    return "\n".join(path.name for path in sorted(study.path_of("").parent.glob("*.pt")))

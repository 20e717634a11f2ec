"""What chapter 11 reports of the methods that the paper cites."""

from collections.abc import Mapping
from typing import NamedTuple

import matplotlib.pyplot as plt
from IPython.display import Markdown

from wdtr_lite import study
from wdtr_lite.book import plots, reports, tables
from wdtr_lite.study.table1 import CONDITIONS, CRITERION

__all__ = ["NAMES", "draw", "noise_table", "peer_table", "search_table", "systems_table"]

NAMES = {
    "none": "plain",
    "gaussian_noise": "Gaussian noise",
    "euclidean": "L2 penalty",
    "l1": "L1 penalty",
    "linf": "L∞ penalty",
    "wasserstein": "Wasserstein penalty",
    "jacobian": "Jacobian penalty",
    "sampled_cross_lipschitz": "cross-Lipschitz",
    "deepfool": "DeepFool penalty",
    "fgsm": "FGSM training",
    "pgd": "PGD-3 training",
    "trades": "TRADES-3",
    "none, EnResNet": "EnResNet, plain",
    "pgd, EnResNet": "EnResNet, PGD-3",
}
"""What the chapter calls the methods."""


class _System(NamedTuple):
    """What the paper names: its source, its class here, and the method it is measured as."""

    name: str
    source: str
    ours: str
    method: str
    differs: str = ""


_SYSTEMS = (
    _System("Gradient penalty, L2", "drucker1992", "euclidean", "euclidean"),
    _System("Lipschitz norm L1", "finlay2019", "l1", "l1", "squared"),
    _System("Lipschitz norm L∞", "finlay2019", "linf", "linf", "squared"),
    _System(
        "Jacobian regularisation",
        "jakubovitz2018",
        "jacobian",
        "jacobian",
        "from the first step on, one projection",
    ),
    _System(
        "Cross-Lipschitz regularisation",
        "hein2017",
        "sampled_cross_lipschitz",
        "sampled_cross_lipschitz",
        "one projection; exact: cross_lipschitz",
    ),
    _System("Deep Defense (DeepFool)", "yan2018", "deepfool", "deepfool", "one step, from scratch"),
    _System("Gaussian augmentation", "zantedeschi2017", "gaussian_noise", "gaussian_noise"),
    _System("Adversarial training, FGSM", "goodfellow2015", "fgsm", "fgsm"),
    _System("Adversarial training, PGD", "madry2018", "pgd", "pgd", "three steps"),
    _System("TRADES", "zhang2019", "trades", "trades", "three steps"),
    _System("EnResNet", "wang2018", "enresnet8", "none, EnResNet", "two networks"),
    _System("EnResNet, by PGD", "wang2018", "enresnet8, pgd", "pgd, EnResNet", "two networks"),
    _System("Wasserstein penalty (the paper)", "lin2019wdtr", "wasserstein", "wasserstein"),
)


def _result() -> Mapping:
    return study.stored("peers", "cpu")["result"]


def _errors(method: str, condition: str) -> list[float]:
    return list(reports.errors(_result()["rows"], condition, method=method))


def draw() -> None:
    """Draw the natural error and that under I-FGSM-20 of each method, a dot a network, in the order
    of their mean.
    """
    _, panels = plt.subplots(1, 2, figsize=(4.6, 5.4), sharey=True)
    order = sorted(NAMES, key=lambda name: sum(sum(_errors(name, each)) for each in CRITERION))
    looks = {
        name: (plots.color_of(name), "o", "none" if "EnResNet" in name else plots.color_of(name))
        for name in order
    }
    for axes, condition in zip(panels, CRITERION, strict=True):
        plots.seed_dots(axes, {name: _errors(name, condition) for name in order}, looks)
        axes.set_xlim(55, 105)
        axes.set_title(condition.removesuffix(" 8"), fontsize=9.5)
        axes.set_xlabel("test error (%)", fontsize=9.5)
    plots.name_rows(panels[0], [NAMES[name] for name in order])


def peer_table() -> Markdown:
    """The setting that was chosen of each method and the errors, mean and standard deviation over
    the seeds.
    """
    chosen = _result()["chosen"]
    lines = [
        [name, setting_told(chosen[method])]
        + [tables.mean_sd(_errors(method, condition)) for condition in CONDITIONS]
        for method, name in NAMES.items()
    ]
    return tables.table(["% error", "setting", *CONDITIONS], lines)


def search_table() -> Markdown:
    """Every setting that was tried, with its errors on the validation images."""
    shown: dict[str, str] = {condition: condition for condition in CRITERION}
    return tables.search_table(_result()["search"], NAMES, setting_told, shown, "% error")


def setting_told(setting: Mapping) -> str:
    """The numbers of a setting, such as ``"η = 1, r = 4"`` or ``"ε = 8/255"``."""
    told = [reports.setting_of(setting)]
    if "epsilon" in setting:
        told.append(f"ε = {255 * setting['epsilon']:.0f}/255")
    return ", ".join(filter(None, told)) or "–"


def noise_table() -> Markdown:
    """The errors of the ensembles with their noise, without it, and of the mean of several passes,
    which the attack follows too.
    """
    lines = []
    for method in (name for name in NAMES if "EnResNet" in name):
        lines.append([NAMES[method], *(tables.mean_sd(_errors(method, c)) for c in CRITERION)])
        for part, text in {"noise_off": "noise off", "on_average": "mean of four passes"}.items():
            told = [row[part] for row in reports.select(_result()["rows"], method=method)]
            rates = ([100 * one[c]["wrong"] / one[c]["n"] for one in told] for c in CRITERION)
            lines.append([f"{NAMES[method]}, {text}", *map(tables.mean_sd, rates)])
    return tables.table(["% error", *CRITERION], lines)


def systems_table() -> Markdown:
    """The systems that the paper compares itself with or relates itself to, each with its source,
    its name in the package, and its errors here.
    """
    lines = [
        [
            system.name,
            f"{{cite:t}}`{system.source}`",
            f"`{system.ours}`",
            *(tables.mean_sd(_errors(system.method, condition)) for condition in CRITERION),
            system.differs,
        ]
        for system in _SYSTEMS
    ]
    header = ["system", "source", "here", "natural", "I-FGSM-20", "differs by"]
    return tables.table(header, lines)

"""The paper's Tables 1 and 2 and Figure 2 on CIFAR-10, and a harder trial of the same networks.

What is asked of a network are functions of the network and the data set, :class:`~wdtr_lite.runs.Network` has their partials;
the experiments say which networks, and put the answers into rows.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from wdtr_lite import attacks, robustness, runs, train
from wdtr_lite.data import Dataset
from wdtr_lite.runs import Network

__all__ = ["ATTACKS", "attack", "errors", "table1"]

ATTACKS = {
    "natural": None,
    "FGSM 8": {"method": "fgsm", "epsilon": 8},
    "FGSM 25": {"method": "fgsm", "epsilon": 25},
    "I-FGSM-20 8": {"method": "ifgsm", "epsilon": 8, "alpha": 2, "steps": 20},
}
"""The rows of Table 1; epsilon and alpha in units of 1/255."""


def attack(method: str, epsilon: float, alpha: float | None = None, **options) -> Callable:
    """An attack of :mod:`wdtr_lite.attacks` as a function of model, x and y, its lengths in units of 1/255.

    Random starts are drawn anew from `seed` for each batch of images.

    Taught in :doc:`chapter 9 </book/adversarial>`.
    """
    if alpha is not None:
        options["alpha"] = alpha / 255
    if method != "pgd":
        return partial(getattr(attacks, method), epsilon=epsilon / 255, **options)
    seed = options.pop("seed", 0)

    def pgd(model, x, y):
        generator = torch.Generator(x.device).manual_seed(seed)
        return attacks.pgd(model, x, y, epsilon / 255, generator=generator, **options)

    return pgd


# ---------------------------------------------------------------- questions


def errors(model: nn.Module, dataset: Dataset, *, part: str, images: int | None, attack: dict | None) -> dict:
    """How many of n images of a part are misclassified, ``wrong``, as they are or under :func:`attack`.

    Taught in :doc:`chapter 9 </book/adversarial>`.
    """
    found = robustness.mistakes(model, *_part(model, dataset, part, images), attack and _attack(**attack))
    return {"wrong": int(found.sum()), "n": len(found)}


_attack = attack  # the name is a question's option too


def _part(model: nn.Module, dataset: Dataset, part: str, images: int | None) -> tuple[Tensor, Tensor]:
    device = next(model.parameters()).device
    x, y = dataset.part(part, images)
    return x.to(device), y.to(device)


def _errors(part: str, attacked: int | None) -> dict[str, partial]:
    """Questions of Table 1: natural errors on a whole part, the others on so many of its images."""
    return {
        name: partial(errors, part=part, images=attacked if options else None, attack=options) for name, options in ATTACKS.items()
    }


# ---------------------------------------------------------------- experiments


def table1(study: dict, *, part: str = "test", **kept) -> dict:
    """Natural and robust error of networks trained plainly and with both penalties: the paper's Table 1.

    Each setting is trained once, from the first seed, and judged on validation images. Of each method the setting with the
    lowest error under I-FGSM-20 is chosen, among those whose natural error is at most `allowance` above that of plain training;
    it is trained from every seed and judged on test images.

    Parameters
    ----------
    study : dict
        As in :data:`~wdtr_lite.experiments.EXPERIMENTS`: ``training``, fields of :class:`~wdtr_lite.train.Config` that all
        networks share; ``search``, those that differ while choosing; ``candidates``, the settings by method; ``allowance``;
        ``seeds``; ``attacked``, how many images are attacked.
    **kept
        `root` and `cluster` of :func:`~wdtr_lite.runs.complete`.

    Returns
    -------
    dict
        ``search``, what was ``chosen`` from it, and ``rows``: for each network its labels, and ``wrong`` of ``n`` by condition.

    References
    ----------
    Section 5.1 of Lin et al. (2019). Taught in :doc:`chapter 9 </book/adversarial>`.
    """
    search, chosen = _chosen(study, **kept)
    return {"search": search, "chosen": chosen, "rows": _counted(_rows(_final(study, chosen), _errors(part, study["attacked"]), **kept))}


def _chosen(study: dict, **kept) -> tuple[list[dict], dict[str, dict]]:
    jobs = [
        ({"method": method, "setting": setting, "seed": study["seeds"][0]}, {**study["training"], **study["search"], **setting})
        for method, settings in study["candidates"].items()
        for setting in settings
    ]
    search = _counted(_rows(jobs, _errors("validation", None), **kept))
    return search, runs.choose(search, ["I-FGSM-20 8"], study["allowance"])


def _final(study: dict, chosen: dict[str, dict]) -> list[tuple[dict, dict]]:
    return [
        ({"method": method, "setting": setting, "seed": seed}, {**study["training"], **setting})
        for seed in study["seeds"]
        for method, setting in chosen.items()
    ]


def _rows(jobs: list[tuple[dict, dict]], questions: dict[str, partial], **kept) -> list[dict]:
    """A row for each job (labels, fields of its Config): the labels and what became of the network."""
    networks = [
        Network(train.Config(**{"method": labels["method"], **fields, "seed": labels["seed"]}), questions) for labels, fields in jobs
    ]
    return [{**labels, **outcome} for (labels, _), outcome in zip(jobs, runs.complete(networks, **kept), strict=True)]


def _counted(rows: list[dict]) -> list[dict]:
    """With the answers of :func:`errors` as two columns, ``wrong`` and ``n``."""
    return [
        row if "diverged" in row else {
            **{name: value for name, value in row.items() if name != "answers"},
            **{count: {name: answer[count] for name, answer in row["answers"].items()} for count in ("wrong", "n")},
        }
        for row in rows
    ]  # fmt: skip

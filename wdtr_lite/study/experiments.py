"""The book's measurements, each from a declared configuration to a result file with its
provenance.

``python -m wdtr_lite experiment NAME --profile full`` runs one and writes ``results/NAME.json``.
"""

import hashlib
import json
import os
import platform
import subprocess
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.distance import cdist
from scipy.stats import mode
from torch import nn

from wdtr_lite import attacks, data, evaluation, training, transport
from wdtr_lite.graph import PixelGraph
from wdtr_lite.study import evidence, runs

__all__ = [
    "EXPERIMENTS",
    "declared",
    "describe",
    "digit_errors",
    "found",
    "label_keeping",
    "nearest_neighbours",
    "network",
    "network_minutes",
    "path_of",
    "progress",
    "provenance",
    "robust_digits",
    "run",
    "stored",
    "summary",
]


def provenance(command: str, seconds: float) -> dict:
    """Where and how a result was measured: device, library versions, commit, command, wall time.

    Parameters
    ----------
    command : str
        What one types to measure it again.
    seconds : float
        Wall time of the measurement.
    """
    try:
        command_of_git = [
            "git",
            "-C",
            str(Path(__file__).parent),
            "describe",
            "--always",
            "--dirty",
        ]
        git = subprocess.run(command_of_git, capture_output=True, text=True)
        commit = git.stdout.strip() or "unknown"
    except OSError:
        commit = "unknown"
    libraries = ("numpy", "scipy", "torch", "POT", "scikit-learn")
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "wall_seconds": round(seconds, 1),
        "device": ", ".join([*_gpu_names(), _cpu_name(), f"{os.cpu_count()} cores"]),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in libraries},
        },
        "commit": commit,
    }


def _gpu_names() -> list[str]:
    return [torch.cuda.get_device_name()] if torch.cuda.is_available() else []


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if cpuinfo.exists()
        else []
    )
    return names[0].split(":")[1].strip() if names else platform.machine()


def summary(outcomes: np.ndarray) -> dict:
    """Mean of n yes-or-no outcomes and its binomial standard error, sqrt(m (1 - m) / n)."""
    mean, n = float(np.mean(outcomes)), len(outcomes)
    return {"mean": mean, "standard_error": (mean * (1 - mean) / n) ** 0.5, "n": n}


def nearest_neighbours(
    dataset: data.Dataset,
    *,
    train_sizes: list[int],
    test_size: int,
    neighbours: list[int],
    seed: int,
    checkpoint: Path | None = None,
) -> dict:
    """k-nearest-neighbour classification of digits in L2 and in W2.

    The test digits and the largest training set are drawn at random from their parts of the data; a
    smaller training set is the beginning of a larger one. A vote's ties go to the smaller label.

    Parameters
    ----------
    dataset : Dataset
    train_sizes, neighbours : list of int
        Every combination is measured.
    test_size : int
    seed : int
        Of the draw.
    checkpoint : path, optional
        Folder for the distances of 50 test digits at a time, from which a stopped run goes on.

    Returns
    -------
    dict
        ``labels``, the true ones, and ``rows``: one per metric, training size and k, with the
        ``predictions`` (a string of digits), the error's ``mean``, ``standard_error`` and ``n``.
        Metrics: ``"intensities"`` (L2 of the pixels as stored), ``"euclidean"`` (L2 of the
        measures) and ``"wasserstein"`` (W2).
    """
    generator = torch.Generator().manual_seed(seed)
    train, train_labels = _draw(dataset, "train", max(train_sizes), generator)
    test, test_labels = _draw(dataset, "test", test_size, generator)
    flat = [images.reshape(len(images), -1) for images in (test, train)]
    distances = {
        "intensities": cdist(*flat),
        "euclidean": cdist(*(images / images.sum(1, keepdims=True) for images in flat)),
        "wasserstein": _in_blocks(test, train, checkpoint),
    }
    rows = []
    for metric, matrix in distances.items():
        for size in train_sizes:
            order = matrix[:, :size].argsort(axis=1, kind="stable")
            for k in neighbours:
                predictions = mode(train_labels[order[:, :k]], axis=1).mode
                outcome = summary(predictions != test_labels)
                rows.append(
                    {
                        "metric": metric,
                        "train_size": size,
                        "k": k,
                        "predictions": _digits(predictions),
                        **outcome,
                    }
                )
    return {"labels": _digits(test_labels), "rows": rows}


def _in_blocks(test: np.ndarray, train: np.ndarray, checkpoint: Path | None) -> np.ndarray:
    blocks = []
    for start in range(0, len(test), 50):
        file = checkpoint / f"{start}.npy" if checkpoint else None
        if file and file.exists():
            blocks.append(np.load(file))
            continue
        blocks.append(transport.pairwise_distances(test[start : start + 50], train))
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part.npy")
            np.save(part, blocks[-1])
            part.rename(file)
            print(
                f"distances of {min(start + 50, len(test))} of {len(test)} test digits", flush=True
            )
    return np.concatenate(blocks)


def label_keeping(
    dataset: data.Dataset,
    *,
    classifier_size: int,
    pairs: int,
    fractions: list[float],
    seed: int,
) -> dict:
    """How often an interpolate at a fixed distance keeps the label of its source.

    Two classifiers are trained on measures of the training part: a random forest, which compares
    single pixels with thresholds, and a support vector machine, whose kernel is a function of the
    L2 distance. Sources are test digits that both classify rightly, each with a target of another
    class. The distance is one for all pairs: a fraction of the median distance of the pairs in the
    same metric. Where the target is nearer than that, the interpolate is the target.

    Parameters
    ----------
    dataset : Dataset
    classifier_size : int
        Training digits of the classifiers.
    pairs : int
        Source-target pairs, the n of every row.
    fractions : list of float
        Distances, in medians.
    seed : int

    Returns
    -------
    dict
        ``classifier_error`` on the test part, the ``medians``, the pairs' ``labels`` and
        ``targets`` and ``rows``: one per classifier (``"forest"`` or ``"svm"``), metric and
        fraction, with the ``predictions`` (a string of digits), the share of interpolates that are
        their targets, ``reached``, and of kept labels, ``mean``, with its ``standard_error`` and
        ``n``.
    """
    generator = torch.Generator().manual_seed(seed)
    classifiers = _classifiers(*_draw(dataset, "train", classifier_size, generator), seed)
    images, labels = _draw(dataset, "test", len(dataset.split["test"]), generator)
    correct = {name: classify(images) == labels for name, classify in classifiers.items()}
    right = np.logical_and.reduce(list(correct.values())).nonzero()[0]
    if len(right) < pairs:
        raise ValueError(
            f"pairs={pairs} is more than the {len(right)} test digits classified rightly"
        )
    sources = right[:pairs]
    order = torch.randperm(len(images), generator=generator).tolist()
    targets = np.array(
        [
            next(j for j in order[k:] + order[:k] if labels[j] != labels[i])
            for k, i in enumerate(sources)
        ]
    )
    measures = transport.as_measure(images)
    rows, medians = [], {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for metric, distance in (
            ("euclidean", _euclidean),
            ("wasserstein", transport.wasserstein_distance),
        ):
            lengths = np.array(list(pool.map(distance, measures[sources], measures[targets])))
            medians[metric] = float(np.median(lengths))
            for fraction in fractions:
                radius = fraction * medians[metric]
                points = pool.map(
                    lambda i, j, length: transport.fixed_distance_interpolate(
                        measures[i], measures[j], min(radius, length), metric=metric
                    ),
                    sources, targets, lengths,
                )  # fmt: skip
                points = np.stack(list(points))
                for name, classify in classifiers.items():
                    predictions = classify(points)
                    rows.append({
                        "classifier": name,
                        "metric": metric,
                        "fraction": fraction,
                        "predictions": _digits(predictions),
                        "reached": float(np.mean(lengths <= radius)),
                        **summary(predictions == labels[sources]),
                    })  # fmt: skip
    return {
        "classifier_error": {name: summary(~outcome) for name, outcome in correct.items()},
        "medians": medians,
        "labels": _digits(labels[sources]),
        "targets": _digits(labels[targets]),
        "rows": rows,
    }


def robust_digits(study: dict, **kept) -> dict:
    """Digits classified by networks trained plainly, with penalties, with noise and on adversarial
    examples.

    For each method the candidates are trained on the part ``fit`` and judged on ``validation``; for
    each criterion :func:`~wdtr_lite.study.runs.choose` picks one, which is trained on the whole
    part ``train`` from several seeds and judged on ``test``.

    Parameters
    ----------
    study : dict
        As in :data:`EXPERIMENTS`: the ``dataset``; ``training``, fields of
        :class:`~wdtr_lite.training.Config` that all networks share; ``search``, fields that differ
        while choosing; ``candidates``, the settings tried, by method; ``criteria``, the conditions
        whose mean error decides, by the criterion's name; ``also``, further methods by name: a
        ``method``, as chosen for the first criterion, with other fields; ``seeds``; ``judged``, how
        many images, drawn at random, are attacked and varied. Natural errors are on the whole part.
    **kept
        `root` and `cluster` of :func:`~wdtr_lite.study.runs.complete`.

    Returns
    -------
    dict
        ``search`` and ``rows``, a row for each network: its method, setting and seed, the criterion
        it was ``chosen_for``, how many of n images it got ``wrong`` under each condition, and its
        training's last metrics.
    """
    first, shared = study["seeds"][0], {"data": study["dataset"], **study["training"]}
    tried = [
        (
            {"method": method, "setting": setting},
            {
                **shared,
                **study["search"],
                "part": "fit",
                "method": method,
                **setting,
                "seed": first,
            },
        )
        for method, settings in study["candidates"].items()
        for setting in settings
    ]
    found = _judged("validation", tried, ["pgd 0.1"], study["judged"], **kept)
    jobs = []
    for k, (criterion, conditions) in enumerate(study["criteria"].items()):
        chosen = {
            method: (method, setting) for method, setting in runs.choose(found, conditions).items()
        }
        for name, changes in study["also"].items():
            if k or changes["method"] not in chosen:
                continue
            method, setting = chosen[changes["method"]]
            chosen[name] = (
                method,
                {**setting, **{key: value for key, value in changes.items() if key != "method"}},
            )
        jobs += [
            (
                {"chosen_for": criterion, "method": name, "setting": setting, "seed": seed},
                {**shared, "method": method, **setting, "seed": seed},
            )
            for name, (method, setting) in chosen.items()
            for seed in study["seeds"]
        ]
    return {"search": found, "rows": _judged("test", jobs, list(ATTACKS), study["judged"], **kept)}


def _judged(part: str, jobs: list[tuple], names: list[str], judged: int, **kept) -> list[dict]:
    """A row for each job (what to say of it, fields of its Config)."""
    question = partial(digit_errors, part=part, judged=judged, names=names)
    networks = [
        runs.Network(training.Config(**options), {"errors": question}) for _, options in jobs
    ]
    return [
        {**label, **_judgement(outcome)}
        for (label, _), outcome in zip(jobs, runs.complete(networks, **kept), strict=True)
    ]


def _judgement(outcome: dict | None) -> dict:
    if outcome is None:
        return {"missing": True}
    if "diverged" in outcome:
        return outcome
    return {
        **outcome["measurements"]["errors"],
        "training": {**outcome["training"], "seconds": outcome["seconds"]["training"]},
    }


def digit_errors(
    model: nn.Module, dataset: data.Dataset, *, part: str, judged: int, names: list[str]
) -> dict:
    """How many of ``n`` digits a network gets ``wrong``: the whole part as it is; as many drawn
    from it as are judged, varied
    (translation, rotation, elastic) and under the attacks of these names.
    """
    images, labels = dataset.part(part, judged)
    images = images[:, None].float() / 255
    varied = evaluation.variations(images, seed=0)
    wrong = {"natural": evaluation.misclassified(model, *dataset.part(part))}
    wrong |= {
        name: evaluation.misclassified(model, varied[name], labels)
        for name in ("translation", "rotation", "elastic")
    }
    wrong |= {
        name: evaluation.misclassified(model, images, labels, ATTACKS[name]) for name in names
    }
    return {
        "wrong": {name: int(each.sum()) for name, each in wrong.items()},
        "n": {name: len(each) for name, each in wrong.items()},
    }


def _pgd(epsilon: float) -> Callable:
    def attack(model, x, y):
        generator = torch.Generator().manual_seed(0)
        return attacks.pgd(model, x, y, epsilon, alpha=epsilon / 8, steps=20, generator=generator)

    return attack


ATTACKS = {
    "fgsm 0.1": lambda model, x, y: attacks.fgsm(model, x, y, 0.1),
    "pgd 0.05": _pgd(0.05),
    "pgd 0.1": _pgd(0.1),
    "pgd 0.2": _pgd(0.2),
    "wasserstein 4": lambda model, x, y: attacks.wasserstein_attack(
        model, x, y, PixelGraph(*x.shape[-2:], 4), 4.0
    ),
}
"""The attacks of :func:`robust_digits` by name: largest change of a pixel, or length in the
Wasserstein metric.
"""


def _euclidean(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.linalg.norm(x - y))


def _classifiers(
    images: np.ndarray, labels: np.ndarray, seed: int
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Classifiers of measures, each a function: images (N, H, W) of any mass -> labels (N,)."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.svm import SVC

    def features(images: np.ndarray) -> np.ndarray:
        return (
            transport.as_measure(images).reshape(len(images), -1) * images[0].size
        )  # mean pixel 1

    machines = {"forest": RandomForestClassifier(300, random_state=seed), "svm": SVC(C=10)}
    for machine in machines.values():
        machine.fit(features(images), labels)
    return {
        name: lambda images, machine=machine: machine.predict(features(images))
        for name, machine in machines.items()
    }


def _draw(
    dataset: data.Dataset, part: str, size: int, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    images, labels = dataset.part(part)
    if size > len(images):
        raise ValueError(
            f"{size} images asked for, but {dataset.name} has {len(images)} in {part!r}"
        )
    chosen = torch.randperm(len(images), generator=generator)[:size]
    return images[chosen].double().numpy(), labels[chosen].numpy()


def _digits(labels: np.ndarray) -> str:
    return "".join(map(str, labels))


_DIGITS = {
    "nearest_neighbours": {
        "quick": {
            "dataset": "mnist5k",
            "train_sizes": [50, 100, 200],
            "test_size": 50,
            "neighbours": [1, 3],
            "seed": 0,
        },
        "full": {
            "dataset": "mnist",
            "train_sizes": [50, 100, 200, 500, 1000],
            "test_size": 1000,
            "neighbours": [1, 3, 5],
            "seed": 0,
        },
    },
    "label_keeping": {
        "quick": {
            "dataset": "mnist5k",
            "classifier_size": 2000,
            "pairs": 40,
            "fractions": [0.2, 0.4, 0.6, 0.8],
            "seed": 0,
        },
        "full": {
            "dataset": "mnist",
            "classifier_size": 10_000,
            "pairs": 1000,
            "fractions": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
            "seed": 0,
        },
    },
    "robust_digits": {
        "quick": {
            "dataset": "mnist5k",
            "training": {
                "model": "small_cnn",
                "epochs": 5,
                "milestones": [4],
                "learning_rate": 0.05,
            },
            "search": {"images": 1000},
            "candidates": {
                "none": [{}],
                "euclidean": [{"eta": 0.5}],
                "wasserstein": [{"eta": 0.5, "radius": 4}],
            },
            "criteria": {"attack": ["pgd 0.1"]},
            "also": {},
            "seeds": [0],
            "judged": 200,
        },
        "full": {
            "dataset": "mnist",
            "training": {
                "model": "small_cnn",
                "epochs": 8,
                "milestones": [5, 7],
                "learning_rate": 0.05,
            },
            "search": {"images": 20_000},
            "candidates": {
                "none": [{}],
                "euclidean": [{"eta": eta} for eta in (0.5, 1.0, 2.0, 4.0)],
                "wasserstein": [
                    {"eta": eta, "radius": radius}
                    for radius in (1, 2, 4, 8)
                    for eta in (0.5, 1.0, 2.0, 4.0)
                ],
                "wasserstein_noise": [
                    {"eta": eta, "radius": radius} for radius in (1, 2) for eta in (0.1, 0.2, 0.4)
                ],
                "gaussian_noise": [{"eta": eta} for eta in (0.1, 0.2, 0.4)],
                "pgd": [{"epsilon": epsilon, "warmup": 3} for epsilon in (0.05, 0.1, 0.2)],
            },
            "criteria": {
                "attack": ["pgd 0.1"],
                "variation": ["translation", "rotation", "elastic"],
            },
            "also": {
                "wasserstein, finite difference": {
                    "method": "wasserstein",
                    "mode": "finite_difference",
                }
            },
            "seeds": [0, 1, 2],
            "judged": 2000,
        },
    },
}

_DIFFERENCE = {"mode": "finite_difference"}

_STUDIES = {
    "quick": {
        "dataset": "mnist5k_color",
        "split": None,
        "training": {
            "model": "resnet8",
            "width": 8,
            "images": 2000,
            "batch_size": 32,
            "epochs": 3,
            "milestones": [2],
        },
        "search": {"part": "fit"},
        "candidates": {
            "none": [{}],
            "euclidean": [{"eta": 0.5, **_DIFFERENCE}],
            "wasserstein": [{"eta": 0.5, "radius": 2, **_DIFFERENCE}],
        },
        "likeliest": {},
        "also": {},
        "seeds": [0],
        "attacked": 100,
    },
    "cpu": {
        "dataset": "cifar10",
        "split": "holdout",
        "training": {"model": "resnet8", "epochs": 4, "milestones": [2, 3]},
        "search": {"images": 10_000, "epochs": 6, "milestones": [4, 5]},
        "candidates": {
            "none": [{}],
            "euclidean": [{"eta": eta, **_DIFFERENCE} for eta in (0.25, 0.5, 1.0, 2.0)],
            "wasserstein": [
                {"eta": eta, "radius": radius, **_DIFFERENCE}
                for radius in (2, 4, 6, 8)
                for eta in (0.5, 1.0, 2.0)
            ],
        },
        "likeliest": {},
        "also": {},
        "seeds": [0, 1, 2],
        "attacked": 2000,
    },
    "full": {
        "dataset": "cifar10",
        "split": "holdout",
        "training": {},
        "search": {},
        "candidates": {
            "none": [{}],
            "euclidean": [{"eta": eta} for eta in (0.25, 0.5, 1.0, 2.0)],
            "wasserstein": [
                {"eta": eta, "radius": radius}
                for radius in (2, 4, 6, 8)
                for eta in (0.25, 0.5, 1.0, 2.0)
            ],
        },
        "likeliest": {
            "none": {},
            "euclidean": {"eta": 1.0},
            "wasserstein": {"eta": 1.0, "radius": 2},
        },
        "also": {},
        "seeds": [0, 1, 2],
        "attacked": 5000,
    },
}

# What each experiment adds to the study, by profile.
_ADDED = {
    "table1": {"quick": {}, "cpu": {}, "full": {}},
    "table2": {
        "quick": {"moved": {"images": 200, "reach": 4}},
        "cpu": {"moved": {"images": 1000, "reach": 16}},
        "full": {"moved": {"images": 1000, "reach": 16}},
    },
    "figure2": {
        "quick": {"shown": {"images": 2, "of": 20, "padding": "zeros", "reach": 4}},
        "cpu": {"shown": {"images": 4, "of": 100, "padding": "zeros", "reach": 12}},
        "full": {"shown": {"images": 4, "of": 100, "padding": "zeros", "reach": 12}},
    },
    "stress": {
        "quick": {"harder": {"attacked": 20, "autoattack": 0, "epsilons": [8], "pictured": 1}},
        "cpu": {
            "harder": {
                "attacked": 500,
                "autoattack": 250,
                "epsilons": [1, 2, 4, 8, 16, 24, 32, 64],
                "pictured": 4,
            }
        },
        "full": {
            "harder": {
                "attacked": 1000,
                "autoattack": 1000,
                "epsilons": [1, 2, 4, 8, 16, 24, 32, 64],
                "pictured": 4,
            }
        },
    },
    "variation": {
        "quick": {
            "natural": {"images": 100, "gradients": 50, "radius": 2, "pairs": 3, "steps": 4},
            "moved": {"images": 200, "reach": 4},
        },
        "cpu": {
            "natural": {"images": 2000, "gradients": 1000, "radius": 2, "pairs": 60, "steps": 10},
            "moved": {"images": 1000, "reach": 16},
            "also": {"none, fewer images": {"method": "none", **_STUDIES["cpu"]["search"]}},
        },
        "full": {
            "natural": {"images": 5000, "gradients": 1000, "radius": 2, "pairs": 200, "steps": 10},
            "moved": {"images": 1000, "reach": 16},
        },
    },
}

_RIVALS = {
    "gaussian_noise": [{"eta": eta} for eta in (0.05, 0.1, 0.2)],
    "jacobian": [{"eta": eta, **_DIFFERENCE} for eta in (0.1, 0.3)],
    "fgsm": [{"epsilon": 8 / 255, "warmup": 1}],
    "pgd": [{"epsilon": 8 / 255, "warmup": 1}],
    "trades": [{"epsilon": 8 / 255, "warmup": 1, "eta": 6**0.5}],
}


_EXACT = {"wasserstein, exact": {"method": "wasserstein", "mode": "double_backprop"}}
_SHORT = {"model": "resnet8", "images": 6_000, "epochs": 4, "milestones": [3]}


def _tradeoff(profile: str, **changes) -> dict:
    study = _STUDIES[profile]
    return {**study, "candidates": {**study["candidates"], **_RIVALS}, "also": _EXACT, **changes}


EXPERIMENTS = {
    **_DIGITS,
    **{
        name: {profile: {**_STUDIES[profile], **added} for profile, added in by.items()}
        for name, by in _ADDED.items()
    },
    "tradeoff": {
        "quick": _tradeoff("quick"),
        "cpu": _tradeoff("cpu", training=_SHORT, search={}, attacked=500),
        "full": _tradeoff(
            "full",
            also={"wasserstein, finite difference": {"method": "wasserstein", **_DIFFERENCE}},
        ),
    },
}
"""The configuration of each experiment and profile. ``quick`` is for the live cells of a chapter,
``cpu`` is what two cores can do of an experiment whose ``full`` scale asks for a GPU.
"""


STUDIED = {
    "robust_digits": robust_digits,
    "table1": evidence.table1,
    "table2": evidence.table2,
    "figure2": evidence.figure2,
    "stress": evidence.stress,
    "variation": evidence.variation,
    "tradeoff": evidence.table1,
}
_MEASURED = {"nearest_neighbours": nearest_neighbours, "label_keeping": label_keeping}


def declared(name: str, profile: str) -> dict:
    """The configuration of an experiment in :data:`EXPERIMENTS`."""
    if name not in EXPERIMENTS:
        raise ValueError(f"name must be one of {sorted(EXPERIMENTS)}, got {name!r}")
    if profile not in EXPERIMENTS[name]:
        raise ValueError(f"profile must be one of {sorted(EXPERIMENTS[name])}, got {profile!r}")
    return EXPERIMENTS[name][profile]


def run(
    name: str, profile: str = "quick", *, cluster: str | None = None, finished: bool = False
) -> dict:
    """Run an experiment as declared in :data:`EXPERIMENTS`.

    ``quick`` returns the result. The other profiles also write it, ``full`` to
    ``results/NAME.json``, ``cpu`` to ``results/NAME_cpu.json``; stopped, they go on from
    ``_runs/``, where networks are kept for all experiments.

    Parameters
    ----------
    name : str
        A key of :data:`EXPERIMENTS`.
    profile : {"quick", "cpu", "full"}
    cluster, finished
        As for :func:`~wdtr_lite.study.runs.complete`.

    Returns
    -------
    dict
        ``experiment``, ``profile``, ``config``, ``data`` (its source and split), ``result``,
        ``provenance``.
    """
    config = declared(name, profile)
    if finished and name not in STUDIED:
        raise ValueError(f"{name} has no networks that could be finished")
    if profile == "quick" and (finished or cluster):
        raise ValueError(
            "finished and cluster are for the profiles cpu and full: quick keeps nothing"
        )
    dataset = runs.dataset_of(config["dataset"], config.get("split"))
    began = time.monotonic()
    if name in STUDIED:
        kept = (
            {}
            if profile == "quick"
            else {"root": _kept("networks"), "cluster": cluster, "finished": finished}
        )
        result = STUDIED[name](_decided(name, profile), **kept)
    else:
        options = {key: value for key, value in config.items() if key != "dataset"}
        if name == "nearest_neighbours" and profile == "full":
            key = hashlib.md5(repr((config, dataset)).encode()).hexdigest()[
                :8
            ]  # never another run's
            options["checkpoint"] = _kept(f"{name}-{key}")
        result = _MEASURED[name](dataset, **options)
    command = (
        f"python -m wdtr_lite experiment {name} --profile {profile}" + " --finished" * finished
    )
    command += " --cluster ADDRESS" if cluster else ""
    report = {
        "experiment": name,
        "profile": profile,
        "config": config,
        "data": repr(dataset),
        "result": result,
        "provenance": provenance(command, time.monotonic() - began),
    }
    if profile != "quick":
        path, known = path_of(name, profile), found(name, profile)
        if finished and _told(result) < max(1, _told(known["result"]) if known else 0):
            raise ValueError(
                f"less of {name} is finished in {_kept('networks')} than {path} tells already"
            )
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n")
        if name == "table1":
            _publish(report)
    return report


def _told(result: dict) -> int:
    return sum("missing" not in row for row in [*result.get("search", []), *result["rows"]])


def _decided(name: str, profile: str) -> dict:
    """An experiment's configuration with the settings that Table 1 chose as its only candidates of
    those methods, where Table 1
    was run as declared; else it searches as Table 1 does.
    """
    config, table1 = declared(name, profile), found("table1", profile)
    if name == "table1" or "likeliest" not in config or table1 is None:
        return config
    if table1["config"] != declared("table1", profile) or not table1["result"]["grid_complete"]:
        return config
    settled = {method: [setting] for method, setting in table1["result"]["chosen"].items()}
    return {**config, "candidates": {**config["candidates"], **settled}}


def _publish(report: dict) -> None:
    """The weights of the networks of the first seed, beside the result."""
    config, profile = report["config"], report["profile"]
    for row in report["result"]["rows"]:
        if row["seed"] == config["seeds"][0] and "wrong" in row:
            weights = (
                runs.trained(_config_of(report, row), _kept("networks")).model.cpu().state_dict()
            )
            torch.save(weights, path_of("table1", profile, f"_{row['method']}.pt"))


def network(method: str, profile: str = "cpu") -> nn.Module:
    """A network of Table 1, first seed, with its published weights, in evaluation mode on the CPU.

    Parameters
    ----------
    method : {"none", "euclidean", "wasserstein"}
    profile : {"cpu", "full"}

    Raises
    ------
    FileNotFoundError
        Where it was not run.
    """
    report = stored("table1", profile)
    row = next(row for row in report["result"]["rows"] if row["method"] == method)
    weights = torch.load(path_of("table1", profile, f"_{method}.pt"), weights_only=True)
    return training.network(_config_of(report, row), weights)


def _config_of(report: dict, row: dict) -> training.Config:
    config = report["config"]
    return training.Config(
        data=config["dataset"],
        split=config["split"],
        method=row["method"],
        seed=row["seed"],
        **{**config["training"], **row["setting"]},
    )


def path_of(name: str, profile: str = "full", suffix: str = ".json") -> Path:
    """Where a result is kept: ``results/NAME.json``, ``results/NAME_cpu.json``; of the checkout,
    seen from its top or ``book/``.
    """
    folder = next(
        (folder for folder in (Path("results"), Path("../results")) if folder.is_dir()),
        Path("results"),
    )
    return folder / (name + ("" if profile == "full" else f"_{profile}") + suffix)


def _kept(name: str) -> Path:
    """A folder of what a stopped run goes on from, beside the results."""
    return path_of("").parent.parent / "_runs" / name


def progress(name: str, profile: str) -> list[tuple[dict, float, float]]:
    """The networks an experiment trains: labels, seconds trained so far, seconds this machine
    should still take.

    Seconds of one core or of the GPU. Without networks, or for ``robust_digits``, the list is
    empty.
    """
    config = declared(name, profile)
    if "likeliest" not in config:
        return []
    root = _kept("networks")
    planned = evidence.planned(_decided(name, profile), root)
    seconds = runs.progress([network for _, network in planned], root)
    return [(labels, *each) for (labels, _), each in zip(planned, seconds, strict=True)]


def stored(name: str, profile: str = "full") -> dict:
    """The result file ``results/NAME.json``, or ``results/NAME_cpu.json``, as an experiment or a
    benchmark wrote it.

    Raises
    ------
    FileNotFoundError
        Where it was not run; the message says how to.
    """
    path = path_of(name, profile)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} was not run: make results runs experiments, benchmarks/*.py --write benchmarks"
        )
    return json.loads(path.read_text())


def found(name: str, profile: str = "full") -> dict | None:
    """:func:`stored`, or None where it was not run."""
    return stored(name, profile) if path_of(name, profile).exists() else None


def network_minutes(report: dict) -> float | None:
    """What training and asking the networks of a result took, each on one core, by whichever
    command; None without.
    """
    result = report.get("result", {})
    rows = [row for row in [*result.get("search", []), *result.get("rows", [])] if "seconds" in row]
    trained = {
        (row["method"], row["seed"], row["seconds"]["training"]) for row in rows
    }  # in search and rows it is one network
    asked = sum(sum(row["seconds"].values()) - row["seconds"]["training"] for row in rows)
    return (sum(seconds for *_, seconds in trained) + asked) / 60 if rows else None


def describe(report: dict) -> str:
    """How a stored report was measured, a line each: device, time and commit; versions; command.

    The time is that of the command or, where networks were trained, :func:`network_minutes`.
    """
    origin = report["provenance"]
    versions = ", ".join(f"{name} {number}" for name, number in origin["versions"].items())
    minutes, spent = f"{origin['wall_seconds'] / 60:.0f} minutes", network_minutes(report)
    if spent is not None:
        minutes = f"{spent:.0f} network-minutes"
    run = f"{origin['device']}; {minutes} on {origin['date']}; commit {origin['commit']}"
    return "\n".join([run, *textwrap.wrap(versions, 76), origin["command"]])

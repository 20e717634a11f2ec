"""The book's measurements, each from a declared configuration to a result file with its provenance.

``python -m wdtr_lite experiment NAME --profile full`` runs one and writes ``results/NAME.json``.
"""

import hashlib
import json
import multiprocessing
import os
import platform
import subprocess
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.distance import cdist
from scipy.stats import mode

from torch import Tensor, nn
from torchvision.transforms import v2

from wdtr_lite import attacks, data, robustness, train, transport
from wdtr_lite.graph import PixelGraph

__all__ = [
    "EXPERIMENTS",
    "across_seeds",
    "choose",
    "describe",
    "label_keeping",
    "nearest_neighbours",
    "provenance",
    "robust_digits",
    "run",
    "stored",
    "summary",
    "variations",
]

RUNS = Path("_runs")


def provenance(command: str, seconds: float) -> dict:
    """Where and how a result was measured: device, library versions, commit, command, wall time.

    Parameters
    ----------
    command : str
        What one types to measure it again.
    seconds : float
        Wall time of the measurement.

    References
    ----------
    Taught in :doc:`chapter 1 </book/discrete_ot>`.
    """
    try:
        git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
        commit = git.stdout.strip() or "unknown"
    except OSError:
        commit = "unknown"
    libraries = ("numpy", "scipy", "torch", "POT", "scikit-learn")
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "wall_seconds": round(seconds, 1),
        "device": f"{_cpu_name()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in libraries}},
        "commit": commit,
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    return names[0].split(":")[1].strip() if names else platform.machine()


def summary(outcomes: np.ndarray) -> dict:
    """Mean of n yes-or-no outcomes and its binomial standard error, sqrt(m (1 - m) / n).

    Taught in :doc:`chapter 1 </book/discrete_ot>`.
    """
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
        Metrics: ``"intensities"`` (L2 of the pixels as stored), ``"euclidean"`` (L2 of the measures)
        and ``"wasserstein"`` (W2).

    References
    ----------
    Taught in :doc:`chapter 1 </book/discrete_ot>`.
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
                rows.append({"metric": metric, "train_size": size, "k": k, "predictions": _digits(predictions), **outcome})
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
            print(f"distances of {min(start + 50, len(test))} of {len(test)} test digits", flush=True)
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

    Two classifiers are trained on measures of the training part: a random forest, which compares single
    pixels with thresholds, and a support vector machine, whose kernel is a function of the L2 distance. Sources are test digits that
    both classify rightly, each with a target of another class. The distance is one for all
    pairs: a fraction of the median distance of the pairs in the same metric. Where the target is nearer
    than that, the interpolate is the target.

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
        ``classifier_error`` on the test part, the ``medians``, the pairs' ``labels`` and ``targets`` and
        ``rows``: one per classifier (``"forest"`` or ``"svm"``), metric and fraction, with the
        ``predictions`` (a string of digits), the share of interpolates that are their targets,
        ``reached``, and of kept labels, ``mean``, with its ``standard_error`` and ``n``.

    References
    ----------
    Taught in :doc:`chapter 2 </book/interpolation>`.
    """
    generator = torch.Generator().manual_seed(seed)
    classifiers = _classifiers(*_draw(dataset, "train", classifier_size, generator), seed)
    images, labels = _draw(dataset, "test", len(dataset.split["test"]), generator)
    correct = {name: classify(images) == labels for name, classify in classifiers.items()}
    right = np.logical_and.reduce(list(correct.values())).nonzero()[0]
    if len(right) < pairs:
        raise ValueError(f"pairs={pairs} is more than the {len(right)} test digits classified rightly")
    sources = right[:pairs]
    order = torch.randperm(len(images), generator=generator).tolist()
    targets = np.array([next(j for j in order[k:] + order[:k] if labels[j] != labels[i]) for k, i in enumerate(sources)])
    measures = transport.as_measure(images)
    rows, medians = [], {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for metric, distance in (("euclidean", _euclidean), ("wasserstein", transport.wasserstein_distance)):
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


def across_seeds(rows: list[dict], method: str, condition: str, chosen_for: str = "attack") -> dict:
    """Mean error of a method's networks, chosen for one criterion, under a condition; its standard deviation over n seeds.

    Taught in :doc:`chapter 8 </book/training>`.
    """
    chosen = [row for row in rows if (row["method"], row["chosen_for"]) == (method, chosen_for)]
    errors = [row["wrong"][condition] / row["n"][condition] for row in chosen]
    return {"mean": float(np.mean(errors)), "sd": float(np.std(errors, ddof=1)) if len(errors) > 1 else None, "n": len(errors)}


def variations(images: Tensor, seed: int) -> dict[str, Tensor]:
    """Natural variations of digits, each image by its own random draw: moved by up to 2 pixels along both axes, turned by up to
    30 degrees, bent elastically (torchvision's, displacements of strength 60 smoothed over 4 pixels).

    Parameters
    ----------
    images : tensor, (N, C, H, W)
        Floating, in [0, 1].
    seed : int

    Returns
    -------
    dict of str to tensor
        ``"translation"``, ``"rotation"``, ``"elastic"``; black comes in from outside.

    References
    ----------
    Simard, Steinkraus and Platt (2003) for elastic deformations. Taught in :doc:`chapter 8 </book/training>`.
    """
    height, width = images.shape[-2:]
    bilinear = v2.InterpolationMode.BILINEAR
    transforms = {
        "translation": v2.RandomAffine(0, translate=(2 / width, 2 / height)),
        "rotation": v2.RandomRotation(30, interpolation=bilinear),
        "elastic": v2.ElasticTransform(60.0, 4.0, interpolation=bilinear),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {name: torch.stack([change(image) for image in images]).clamp(0, 1) for name, change in transforms.items()}


def choose(search: list[dict], conditions: list[str], allowance: float = 0.01) -> dict[str, dict]:
    """Of each method the setting with the lowest validation error, on average over the conditions, among those whose natural
    error is at most `allowance` above that of plain training (method ``"none"``); without any, that of the lowest natural error.

    Taught in :doc:`chapter 8 </book/training>`.
    """

    def error(row: dict, *conditions: str) -> float:
        return sum(row["wrong"][name] / row["n"][name] for name in conditions)

    limit = min(error(row, "natural") for row in search if row["method"] == "none") + allowance
    chosen = {}
    for row in sorted(search, key=lambda row: error(row, *conditions)):
        if error(row, "natural") <= limit:
            chosen.setdefault(row["method"], row["setting"])
    for row in sorted(search, key=lambda row: error(row, "natural")):
        chosen.setdefault(row["method"], row["setting"])
    return chosen


def robust_digits(
    dataset: data.Dataset,
    *,
    training: dict,
    search: dict,
    candidates: dict[str, list[dict]],
    criteria: dict[str, list[str]],
    also: dict[str, dict],
    seeds: list[int],
    judged: int,
    folder: Path | None = None,
) -> dict:
    """Digits classified by networks trained plainly, with penalties, with noise and on adversarial examples.

    For each method the candidates are trained on the part ``fit`` and judged on ``validation``; for each criterion
    :func:`choose` picks one, which is trained on the whole part ``train`` from several seeds and judged on ``test``.

    Parameters
    ----------
    dataset : Dataset
    training : dict
        Fields of :class:`~wdtr_lite.train.Config` that all networks share.
    search : dict
        Fields that differ while choosing.
    candidates : dict of str to list of dict
        The settings tried, by method of :class:`~wdtr_lite.train.Config`.
    criteria : dict of str to list of str
        The conditions whose mean error decides, by the criterion's name.
    also : dict of str to dict
        Further methods by name: a ``method``, as chosen for the first criterion, with other fields.
    seeds : list of int
    judged : int
        Images, drawn at random, that are attacked and varied. Natural errors are on the whole part.
    folder : path, optional
        Where networks and their errors are kept; what is there is not done again. With it the networks are trained in parallel,
        a process on each core; without it one after the other.

    Returns
    -------
    dict
        ``search`` and ``rows``, a row for each network: its method, setting and seed, the criterion it was ``chosen_for``, how
        many of n images it got ``wrong`` under each condition, and its training's last metrics.

    References
    ----------
    Taught in :doc:`chapter 8 </book/training>`.
    """
    tried = [
        ({"method": method, "setting": setting}, {**training, **search, "part": "fit", "method": method, **setting, "seed": seeds[0]})
        for method, settings in candidates.items()
        for setting in settings
    ]
    found = _judged(dataset, "validation", tried, ["pgd 0.1"], judged, folder)
    jobs = []
    for k, (criterion, conditions) in enumerate(criteria.items()):
        chosen = {method: (method, setting) for method, setting in choose(found, conditions).items()}
        for name, changes in also.items() if k == 0 else ():
            method, setting = chosen[changes["method"]]
            chosen[name] = method, {**setting, **{key: value for key, value in changes.items() if key != "method"}}
        jobs += [
            (
                {"chosen_for": criterion, "method": name, "setting": setting, "seed": seed},
                {**training, "method": method, **setting, "seed": seed},
            )
            for name, (method, setting) in chosen.items()
            for seed in seeds
        ]
    return {"search": found, "rows": _judged(dataset, "test", jobs, list(ATTACKS), judged, folder)}


def _judged(
    dataset: data.Dataset, part: str, jobs: list[tuple], names: list[str], judged: int, folder: Path | None
) -> list[dict]:
    """A row for each job (what to say of it, fields of its Config)."""
    cases = _cases(dataset, part, judged)
    configs = [train.Config(data=dataset.name, **options) for _, options in jobs]
    arguments = [(dataset, config, cases, names, folder and folder / _key(config)) for config in dict.fromkeys(configs)]
    if folder is None:
        outcomes = [_train_and_judge(*each) for each in arguments]
    else:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(os.cpu_count(), spawn, torch.set_num_threads, (1,)) as pool:
            outcomes = list(pool.map(_train_and_judge, *zip(*arguments, strict=True)))
    outcome_of = {config: outcome for (_, config, *_), outcome in zip(arguments, outcomes, strict=True)}
    return [{**label, **outcome_of[config]} for (label, _), config in zip(jobs, configs, strict=True)]


def _key(config: train.Config) -> str:
    return hashlib.md5(json.dumps(asdict(config)).encode()).hexdigest()[:12]


def _cases(dataset: data.Dataset, part: str, judged: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Images and labels: the whole part, as many drawn from it as are judged, and these varied."""
    drawn, labels = dataset.part(part, judged)
    drawn = drawn[:, None].float() / 255
    cases = {"drawn": drawn, **variations(drawn, seed=0)}
    return {"natural": dataset.part(part), **{name: (case, labels) for name, case in cases.items()}}


def _train_and_judge(
    dataset: data.Dataset, config: train.Config, cases: dict, names: list[str], folder: Path | None
) -> dict:
    done = folder and folder / "outcome.json"
    if done and done.exists():
        return json.loads(done.read_text())
    run = train.fit(config, folder=folder, dataset=dataset, device="cpu", checkpoint_every=1, progress=False)
    images, labels = cases["drawn"]
    wrong = {name: robustness.mistakes(run.model, *case) for name, case in cases.items() if name != "drawn"}
    for name in names:
        wrong[name] = robustness.mistakes(run.model, images, labels, ATTACKS[name])
    outcome = {
        "wrong": {name: int(each.sum()) for name, each in wrong.items()},
        "n": {name: len(each) for name, each in wrong.items()},
        "training": {**run.history[-1], "seconds": round(sum(epoch["seconds"] for epoch in run.history), 1)},
    }
    if done:
        part = done.with_suffix(".part")
        part.write_text(json.dumps(outcome))
        part.replace(done)
        print(f"{config.method} {config.part} seed {config.seed}: {outcome['wrong']}", flush=True)
    return outcome


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
    "wasserstein 4": lambda model, x, y: attacks.wasserstein_attack(model, x, y, PixelGraph(*x.shape[-2:], 4), 4.0),
}
"""The attacks of :func:`robust_digits` by name: largest change of a pixel, or length in the Wasserstein metric."""


def _euclidean(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.linalg.norm(x - y))


def _classifiers(images: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Classifiers of measures, each a function: images (N, H, W) of any mass -> labels (N,)."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.svm import SVC

    def features(images: np.ndarray) -> np.ndarray:
        return transport.as_measure(images).reshape(len(images), -1) * images[0].size  # mean pixel 1

    machines = {"forest": RandomForestClassifier(300, random_state=seed), "svm": SVC(C=10)}
    for machine in machines.values():
        machine.fit(features(images), labels)
    return {name: lambda images, machine=machine: machine.predict(features(images)) for name, machine in machines.items()}


def _draw(dataset: data.Dataset, part: str, size: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    images, labels = dataset.part(part)
    if size > len(images):
        raise ValueError(f"{size} images asked for, but {dataset.name} has {len(images)} in {part!r}")
    chosen = torch.randperm(len(images), generator=generator)[:size]
    return images[chosen].double().numpy(), labels[chosen].numpy()


def _digits(labels: np.ndarray) -> str:
    return "".join(map(str, labels))


EXPERIMENTS = {
    "nearest_neighbours": {
        "quick": {"dataset": "mnist5k", "train_sizes": [50, 100, 200], "test_size": 50, "neighbours": [1, 3], "seed": 0},
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
            "training": {"model": "small_cnn", "epochs": 5, "milestones": [4], "learning_rate": 0.05},
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
            "training": {"model": "small_cnn", "epochs": 8, "milestones": [5, 7], "learning_rate": 0.05},
            "search": {"images": 20_000},
            "candidates": {
                "none": [{}],
                "euclidean": [{"eta": eta} for eta in (0.5, 1.0, 2.0, 4.0)],
                "wasserstein": [{"eta": eta, "radius": radius} for radius in (1, 2, 4, 8) for eta in (0.5, 1.0, 2.0, 4.0)],
                "wasserstein_noise": [{"eta": eta, "radius": radius} for radius in (1, 2) for eta in (0.1, 0.2, 0.4)],
                "gaussian_noise": [{"eta": eta} for eta in (0.1, 0.2, 0.4)],
                "pgd": [{"epsilon": epsilon, "warmup": 3} for epsilon in (0.05, 0.1, 0.2)],
            },
            "criteria": {"attack": ["pgd 0.1"], "variation": ["translation", "rotation", "elastic"]},
            "also": {"wasserstein, finite difference": {"method": "wasserstein", "mode": "finite_difference"}},
            "seeds": [0, 1, 2],
            "judged": 2000,
        },
    },
}
"""The configuration of each experiment, by profile."""


_MEASURES = {"nearest_neighbours": nearest_neighbours, "label_keeping": label_keeping, "robust_digits": robust_digits}


def run(name: str, profile: str = "quick") -> dict:
    """Run an experiment as declared in :data:`EXPERIMENTS`.

    ``quick`` returns the result. ``full`` also writes it to ``results/NAME.json``; a full run that was stopped
    goes on from ``_runs/``.

    Parameters
    ----------
    name : str
        A key of :data:`EXPERIMENTS`.
    profile : {"quick", "full"}

    Returns
    -------
    dict
        ``experiment``, ``profile``, ``config``, ``data`` (its source and split), ``result``, ``provenance``.

    Raises
    ------
    ValueError
        If the name or the profile is unknown.

    References
    ----------
    Taught in :doc:`chapter 1 </book/discrete_ot>`.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"name must be one of {sorted(EXPERIMENTS)}, got {name!r}")
    if profile not in EXPERIMENTS[name]:
        raise ValueError(f"profile must be one of {sorted(EXPERIMENTS[name])}, got {profile!r}")
    config = EXPERIMENTS[name][profile]
    dataset = data.load(config["dataset"])
    options = {key: value for key, value in config.items() if key != "dataset"}
    kept = {"nearest_neighbours": "checkpoint", "robust_digits": "folder"}
    if name in kept and profile == "full":
        key = hashlib.md5(repr((config, dataset)).encode()).hexdigest()[:8]  # never another run's
        options[kept[name]] = RUNS / f"{name}-{key}"
    began = time.monotonic()
    result = _MEASURES[name](dataset, **options)
    command = f"python -m wdtr_lite experiment {name} --profile {profile}"
    report = {
        "experiment": name,
        "profile": profile,
        "config": config,
        "data": repr(dataset),
        "result": result,
        "provenance": provenance(command, time.monotonic() - began),
    }
    if profile == "full":
        _results().mkdir(exist_ok=True)
        (_results() / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def _results() -> Path:
    """``results/`` of the checkout, seen from its top or from a notebook in ``book/``."""
    return next((folder for folder in (Path("results"), Path("../results")) if folder.is_dir()), Path("results"))


def stored(name: str) -> dict:
    """The result file ``results/NAME.json``, as an experiment or a benchmark wrote it.

    Raises
    ------
    FileNotFoundError
        Where it was not run; the message says how to.

    References
    ----------
    Taught in :doc:`chapter 1 </book/discrete_ot>`.
    """
    path = _results() / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} was not run: make results runs experiments, benchmarks/*.py --write benchmarks")
    return json.loads(path.read_text())


def describe(report: dict) -> str:
    """How a stored report was measured, a line each: device, time and commit; versions; command.

    Taught in :doc:`chapter 1 </book/discrete_ot>`.
    """
    origin = report["provenance"]
    versions = ", ".join(f"{name} {number}" for name, number in origin["versions"].items())
    run = f"{origin['device']}; {origin['wall_seconds'] / 60:.0f} minutes on {origin['date']}; commit {origin['commit']}"
    return "\n".join([run, *textwrap.wrap(versions, 76), origin["command"]])

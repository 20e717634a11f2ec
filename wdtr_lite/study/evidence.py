"""The paper's Tables 1 and 2 and Figure 2, and a harder trial of the same networks.

Questions are functions of a network and a data set, whose partials a
:class:`~wdtr_lite.study.runs.Network` carries. Experiments take a study, a dictionary of
:data:`~wdtr_lite.study.experiments.EXPERIMENTS`, say which networks it needs and put the answers
into rows.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wdtr_lite import attacks, evaluation, training, transport
from wdtr_lite.data import Dataset
from wdtr_lite.graph import PixelGraph
from wdtr_lite.regularizer import GradientPenalty
from wdtr_lite.study import runs
from wdtr_lite.study.runs import Network

__all__ = [
    "CLASSES",
    "CRITERION",
    "PAPER",
    "TABLE1",
    "along_paths",
    "attack",
    "autoattack",
    "confidence",
    "errors",
    "figure2",
    "flips",
    "frames",
    "gradient_norms",
    "loss_surface",
    "photo",
    "planned",
    "sequences",
    "stress",
    "table1",
    "table2",
    "transfer_errors",
    "variation",
    "variation_errors",
]

TABLE1 = {
    "natural": None,
    "FGSM 8": {"method": "fgsm", "epsilon": 8},
    "FGSM 25": {"method": "fgsm", "epsilon": 25},
    "I-FGSM-20 8": {"method": "ifgsm", "epsilon": 8, "alpha": 2, "steps": 20},
}
"""The rows of Table 1, each with the options of :func:`attack`."""

PAPER = {
    "table1": {
        "natural": {"none": 16.29, "euclidean": 15.61, "wasserstein": 15.35},
        "FGSM 8": {"none": 82.22, "euclidean": 31.10, "wasserstein": 30.20},
        "FGSM 25": {"none": 89.72, "euclidean": 66.83, "wasserstein": 44.32},
        "I-FGSM-20 8": {"none": 90.15, "euclidean": 40.06, "wasserstein": 32.12},
    },
    "table2": {
        "horizontal": {"none": 10.009, "euclidean": 7.898, "wasserstein": 6.488},
        "vertical": {"none": 9.920, "euclidean": 9.437, "wasserstein": 7.956},
    },
}
"""The numbers that the paper prints, errors in percent and mean label flips."""

CRITERION = ["natural", "I-FGSM-20 8"]
"""The rows of Table 1 whose mean on validation images decides which setting of a method is taken.
"""

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""What the labels of CIFAR-10 stand for, in their order."""

AXES, PADDINGS = ("horizontal", "vertical"), ("zeros", "edge", "reflect")


def attack(method: str, epsilon: float, alpha: float | None = None, **options) -> Callable:
    """An attack of :mod:`wdtr_lite.attacks` as a function of model, x and y, its lengths in units
    of 1/255.

    The starts of ``"pgd"`` are drawn from seed 0, anew for each batch of images.
    """
    if alpha is not None:
        options["alpha"] = alpha / 255
    if method != "pgd":
        return partial(getattr(attacks, method), epsilon=epsilon / 255, **options)

    def pgd(model, x, y):
        return attacks.pgd(
            model,
            x,
            y,
            epsilon / 255,
            generator=torch.Generator(x.device).manual_seed(0),
            **options,
        )

    return pgd


# ---------------------------------------------------------------- questions


def errors(
    model: nn.Module, dataset: Dataset, *, part: str, images: int | None, attack: dict | None
) -> dict:
    """How many of ``n`` images of a part are misclassified, ``wrong``, as they are or under
    :func:`attack`.
    """
    found = evaluation.misclassified(
        model, *_part(model, dataset, part, images), attack and _attack(**attack)
    )
    return {"wrong": int(found.sum()), "n": len(found)}


_attack = attack  # a name that the option of a question hides


def transfer_errors(
    model: nn.Module,
    dataset: Dataset,
    *,
    part: str,
    images: int,
    attack: dict,
    source: dict,
    root: str | None,
) -> dict:
    """How many of ``n`` images are misclassified, ``wrong``, that were attacked with another
    network, of these fields of Config.
    """
    x, y = _float_part(model, dataset, part, images)
    other, change = (
        runs.trained(training.Config(**source), root).model.to(x.device),
        _attack(**attack),
    )
    found = torch.cat([change(other, *batch) for batch in _batches(x, y)])
    return {"wrong": int(evaluation.misclassified(model, found, y).sum()), "n": len(y)}


def autoattack(
    model: nn.Module,
    dataset: Dataset,
    *,
    part: str,
    images: int,
    epsilon: float,
    only: str | None = None,
) -> dict:
    """How many of ``n`` images are misclassified under AutoAttack's standard attacks in
    L-infinity, ``wrong`` after each of them.

    Each attack goes on with the images that those before it left. ``only="square"`` runs that one,
    which sees no gradient. Needs the package pyautoattack.

    References
    ----------
    Croce and Hein (2020); Andriushchenko et al. (2020) for Square.
    """
    from pyautoattack import AutoAttack

    x, y = _float_part(model, dataset, part, images)
    judge = AutoAttack(model, eps=epsilon / 255, seed=0, device=x.device)
    names = [only] if only else list(judge.attacks_to_run)
    right = ~evaluation.misclassified(model, x, y)
    wrong = {"natural": int((~right).sum())}
    for name in names:
        left = right.nonzero().squeeze(1)
        if len(left):
            judge.attacks_to_run = [name]
            _, measurements = judge.run_standard_evaluation(x[left], y[left])
            right[left] = measurements == y[left]
        wrong[name] = int((~right).sum())
    return {"n": len(y), "wrong": wrong}


def confidence(model: nn.Module, dataset: Dataset, *, part: str, images: int) -> float:
    """The probability of the answer, on average over so many images."""
    x, _ = _float_part(model, dataset, part, images)
    return round(
        float(
            torch.cat([_probabilities(model, each) for (each,) in _batches(x)])
            .amax(1)
            .double()
            .mean()
        ),
        4,
    )


def flips(
    model: nn.Module,
    dataset: Dataset,
    *,
    part: str,
    images: int,
    axis: str,
    padding: str,
    reach: int,
) -> dict:
    """Label flips of ``n`` images moved by -S, ..., S pixels, summed over the images: a number for
    each S up to the reach.

    Both counts of :func:`~wdtr_lite.evaluation.label_flips`: ``consecutive`` and
    ``from_unshifted``.
    """
    x, _ = _part(model, dataset, part, images)
    labels = evaluation.translated_labels(model, x, axis, range(-reach, reach + 1), padding)
    changes, departures = (labels[1:] != labels[:-1]).sum(1), (labels != labels[reach]).sum(1)
    spans = range(1, reach + 1)
    return {
        "n": len(x),
        "consecutive": [int(changes[reach - s : reach + s].sum()) for s in spans],
        "from_unshifted": [int(departures[reach - s : reach + s + 1].sum()) for s in spans],
    }


def sequences(
    model: nn.Module,
    dataset: Dataset,
    *,
    part: str,
    images: int,
    axis: str,
    padding: str,
    reach: int,
) -> dict:
    """Predicted ``labels`` and their ``confidences`` of images moved by -reach, ..., reach pixels,
    a list for each image.
    """
    x, _ = _float_part(model, dataset, part, images)
    moved = evaluation.translation_sequence(x, axis, range(-reach, reach + 1), padding)
    probabilities = torch.stack([_probabilities(model, each) for each in moved], 1)
    confidences, labels = probabilities.max(2)
    return {"labels": labels.tolist(), "confidences": _rounded(confidences)}


def variation_errors(model: nn.Module, dataset: Dataset, *, part: str, images: int) -> dict:
    """How many of ``n`` images are misclassified, ``wrong``, as they are and under each of the
    natural variations of photographs.

    :func:`~wdtr_lite.evaluation.variations` by up to 4 pixels and 15 degrees, the image continued
    by 8 pixels of reflection.
    """
    x, y = _float_part(model, dataset, part, images)
    varied = evaluation.variations(x.cpu(), 0, shift=4, degrees=15, margin=8)
    cases = {"natural": x, **{name: each.to(x) for name, each in varied.items()}}
    return {
        "n": len(y),
        "wrong": {
            name: int(evaluation.misclassified(model, each, y).sum())
            for name, each in cases.items()
        },
    }


def gradient_norms(
    model: nn.Module, dataset: Dataset, *, part: str, images: int, radius: int
) -> dict:
    """Norms of the gradient in the image, a list of one for each image, by function and metric: of
    the ``loss`` and of the
    ``margin``, ``euclidean`` and ``wasserstein``, the latter of the L(x) that has mean diagonal 1
    over each 250 images.
    """
    x, y = _float_part(model, dataset, part, images)
    graph = PixelGraph(*x.shape[-2:], radius).to(x.device, x.dtype)
    penalties = {
        f"{of} {name}": GradientPenalty(metric, of=of)
        for of in ("loss", "margin")
        for name, metric in (("euclidean", "euclidean"), ("wasserstein", graph))
    }
    return {
        name: _rounded(
            torch.cat([penalty(model, *batch).detach().sqrt() for batch in _batches(x, y)])
        )
        for name, penalty in penalties.items()
    }


def along_paths(model: nn.Module, dataset: Dataset, *, part: str, pairs: int, steps: int) -> dict:
    r"""How much the answer changes on the way from an image to another, a list of one number for
    each pair.

    The length of the path of the answers p, the softmax of the logits, at steps + 1 equal times, in
    total variation:

    .. math:: \sum_k \tfrac12 \|p(x_{t_{k+1}}) - p(x_{t_k})\|_1

    By the pair's classes, ``within`` one or ``between`` two, and the path: ``wasserstein`` is the
    displacement interpolation of each channel, its mass changing linearly, clipped at 1;
    ``euclidean`` the straight line. Networks compare on one path; paths do not compare, since the
    parcels of a displacement are rounded to pixels, which makes its images rougher than those of a
    line.

    References
    ----------
    McCann (1997) for displacement interpolation.
    """
    device = next(model.parameters()).device
    lengths = {}
    for name, paths in _paths(dataset, part, pairs, steps).items():
        probabilities = torch.stack([_probabilities(model, path.to(device)) for path in paths])
        lengths[name] = _rounded(
            (probabilities[:, 1:] - probabilities[:, :-1]).abs().sum(2).sum(1) / 2
        )
    return lengths


def loss_surface(
    model: nn.Module, dataset: Dataset, *, part: str, images: int, reach: float, points: int
) -> dict:
    """The ``loss`` at x + a s + b u, a list of rows for each image: s the signs of the gradient, u
    random signs.

    a (of a row) and b (of a column) are ``at``, so many points from -reach to reach in units of
    1/255; nothing is clipped.
    """
    x, y = _float_part(model, dataset, part, images)
    at = torch.linspace(-reach, reach, points)
    generator = torch.Generator().manual_seed(0)
    surfaces = []
    for image, label in zip(x, y, strict=True):
        uphill = attacks.input_gradient(model, image[None], label[None])[0].sign()
        aside = torch.randint(2, image.shape, generator=generator).to(image) * 2 - 1
        a, b = (
            side.reshape(-1, 1, 1, 1).to(image) / 255
            for side in torch.meshgrid(at, at, indexing="ij")
        )
        grid = image + a * uphill + b * aside
        with torch.no_grad():
            logits = torch.cat([model(part) for part in grid.split(500)])
        loss = F.cross_entropy(logits, label.expand(len(grid)), reduction="none")
        surfaces.append(_rounded(loss.reshape(points, points)))
    return {"at": at.tolist(), "loss": surfaces}


def frames(
    model: nn.Module, dataset: Dataset, *, part: str, images: int, epsilons: Sequence[float]
) -> list[list[dict]]:
    """For each image and each epsilon in units of 1/255 the ``pixels`` after PGD-20, as
    hexadecimal bytes, and the ``chances``.
    """
    x, y = _float_part(model, dataset, part, images)
    found = [attack(**_pgd(epsilon))(model, x, y) if epsilon else x for epsilon in epsilons]
    probabilities = [_rounded(_probabilities(model, each)) for each in found]
    return [
        [
            {"pixels": _hex(each[k]), "probabilities": chance[k]}
            for each, chance in zip(found, probabilities, strict=True)
        ]
        for k in range(len(x))
    ]


def _part(
    model: nn.Module, dataset: Dataset, part: str, images: int | None
) -> tuple[Tensor, Tensor]:
    device = next(model.parameters()).device
    x, y = dataset.part(part, images)
    return x.to(device), y.to(device)


def _float_part(
    model: nn.Module, dataset: Dataset, part: str, images: int | None
) -> tuple[Tensor, Tensor]:
    x, y = _part(model, dataset, part, images)
    return x.float() / 255, y


def _batches(*tensors: Tensor) -> zip:
    return zip(*(each.split(250) for each in tensors), strict=True)


@torch.no_grad()
def _probabilities(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).softmax(1)


def _rounded(values: Tensor) -> list:
    return np.round(values.detach().double().cpu().numpy(), 4).tolist()


def photo(pixels: str) -> np.ndarray:
    """The picture (32, 32, 3), uint8, of the hexadecimal bytes in a result."""
    return np.frombuffer(bytes.fromhex(pixels), np.uint8).reshape(3, 32, 32).transpose(1, 2, 0)


def _hex(image: Tensor) -> str:
    return (image * 255).round().to(torch.uint8).cpu().numpy().tobytes().hex()


@cache
def _paths(dataset: Dataset, part: str, pairs: int, steps: int) -> dict[str, Tensor]:
    """Images on the way, (pairs, steps + 1, C, H, W), by the pair's classes and the path."""
    x, y = dataset.part(part)
    x, times = x.double().numpy() / 255, np.linspace(0, 1, steps + 1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    order = [
        int(i) for i in order if x[i].sum((1, 2)).min() > 0
    ]  # a channel without light is no measure
    found = {}
    for classes in ("within", "between"):
        chosen = [
            (i, next(j for j in order[k + 1 :] if (y[i] == y[j]) == (classes == "within")))
            for k, i in enumerate(order[:pairs])
        ]
        for name, path in (("wasserstein", _displacements), ("euclidean", _line)):
            images = np.stack([path(x[i], x[j], times) for i, j in chosen])
            found[f"{classes} {name}"] = torch.from_numpy(images).float().clamp(0, 1)
    return found


def _displacements(start: np.ndarray, end: np.ndarray, times: np.ndarray) -> np.ndarray:
    channels = []
    for a, b in zip(start, end, strict=True):
        plan, masses = transport.transport_plan(a, b), (1 - times) * a.sum() + times * b.sum()
        channels.append(
            [
                m * transport.displacement_interpolation(a, b, t, plan=plan)
                for t, m in zip(times, masses, strict=True)
            ]
        )
    return np.stack(channels, 1)


def _line(start: np.ndarray, end: np.ndarray, times: np.ndarray) -> np.ndarray:
    return np.stack([(1 - t) * start + t * end for t in times])


# ---------------------------------------------------------------- experiments


def table1(study: dict, **kept) -> dict:
    """Natural and robust error of networks trained in several ways: the paper's Table 1.

    Each setting is trained once, from the first seed, and judged on validation images. Of each
    method the setting with the lowest mean of natural error and error under I-FGSM-20 is chosen; it
    is trained from every seed and judged on test images.

    Parameters
    ----------
    study : dict
        ``dataset`` and ``split``; ``training``, fields of :class:`~wdtr_lite.training.Config` that
        all networks share; ``search``, those that differ while choosing; ``candidates``, the
        settings by method; ``likeliest``, the settings to begin with, which also stand in for the
        choice while the grid is unfinished; ``also``, further methods by name: a method as chosen,
        with other fields; ``seeds``; ``attacked``, how many test images are attacked.
    **kept
        `root`, `cluster`, `finished` of :func:`~wdtr_lite.study.runs.complete`.

    Returns
    -------
    dict
        ``search``; ``chosen``, a setting for each method, and whether it is from the whole grid,
        ``grid_complete``; and ``rows``: for each network its labels, and ``wrong`` of ``n`` by
        condition, or ``missing``.

    References
    ----------
    Section 5.1 of Lin et al. (2019).
    """
    questions = _table1_questions("test", study["attacked"])
    if study["likeliest"]:
        _rows(_final(study, study["likeliest"]), questions, **kept)
    search, chosen = _searched(study, **kept)
    rows = _counted(_rows(_final(study, chosen), questions, **kept))
    return {"search": search, "chosen": chosen, "grid_complete": _is_complete(search), "rows": rows}


def table2(study: dict, **kept) -> dict:
    """Label flips of the networks of Table 1 along translations, by axis and padding: the paper's
    Table 2.

    Parameters
    ----------
    study : dict
        As for :func:`table1`; and ``moved``, the options `images` and `reach` of :func:`flips`.
    **kept
        As for :func:`table1`.

    Returns
    -------
    dict
        ``rows``, one for each network, whose ``answers`` are :func:`flips` by ``"axis padding"``.

    References
    ----------
    Section 5.2 of Lin et al. (2019).
    """
    questions = {
        f"{axis} {padding}": _flips(study, axis, padding) for axis in AXES for padding in PADDINGS
    }
    return {"rows": _rows(_final(study, _searched(study, **kept)[1]), questions, **kept)}


def figure2(study: dict, **kept) -> dict:
    """Single images moved horizontally, and what the networks of Table 1, first seed, take them
    for: the paper's Figure 2.

    Shown are the first test images, of those drawn, that all the networks classify rightly where
    they are.

    Parameters
    ----------
    study : dict
        As for :func:`table1`; and ``shown``, how many ``images``, drawn from how many, ``of``, by
        ``padding`` and ``reach``.
    **kept
        As for :func:`table1`.

    Returns
    -------
    dict
        ``images``, each with its ``label`` and ``pixels`` as hexadecimal bytes, and ``rows``, one
        for each network, with the ``labels`` and ``confidences`` of each image at each shift.

    References
    ----------
    Section 5.2 of Lin et al. (2019).
    """
    options = study["shown"]
    question = partial(
        sequences,
        part="test",
        images=options["of"],
        axis="horizontal",
        padding=options["padding"],
        reach=options["reach"],
    )
    final = [
        job
        for job in _final(study, _searched(study, **kept)[1])
        if job[0]["seed"] == study["seeds"][0]
    ]
    rows = [row for row in _rows(final, {"sequences": question}, **kept) if "measurements" in row]
    images, labels = runs.dataset_of(study["dataset"], study["split"]).part("test", options["of"])
    centre = options["reach"]
    right = [
        k
        for k, label in enumerate(labels.tolist())
        if all(r["measurements"]["sequences"]["labels"][k][centre] == label for r in rows)
    ][: options["images"]]
    return {
        "images": [
            {"label": int(labels[k]), "pixels": images[k].numpy().tobytes().hex()} for k in right
        ],
        "rows": [
            {
                **{name: row[name] for name in ("method", "setting", "seed")},
                **{
                    name: [answer[k] for k in right]
                    for name, answer in row["measurements"]["sequences"].items()
                },
            }
            for row in rows
        ],
    }


def stress(study: dict, **kept) -> dict:
    """The networks of Table 1, first seed, under attacks that do not trust one gradient.

    PGD-50 with 10 restarts in L-infinity and L2, AutoAttack, Square, PGD-20 and FGSM of growing
    epsilon, the loss around images, how sure the answers are, and examples made with each of the
    penalised networks and, with several seeds, with the plain network of the last.

    Parameters
    ----------
    study : dict
        As for :func:`table1`; and ``harder``: how many test images are ``attacked`` by PGD and
        Square, how many by ``autoattack``; the ``epsilons``; ``pictured``, how many images are
        drawn.
    **kept
        As for :func:`table1`.

    Returns
    -------
    dict
        ``rows``, one for each network with its ``answers``; and the ``labels`` of the images
        pictured.

    References
    ----------
    Madry et al. (2018); Croce and Hein (2020); Athalye, Carlini and Wagner (2018).
    """
    options = study["harder"]
    drawn = {"part": "test", "images": options["attacked"]}
    pgd50 = {"method": "pgd", "steps": 50, "restarts": 10}
    questions = {
        "natural": partial(errors, **drawn, attack=None),
        "confidence": partial(confidence, **drawn),
        "PGD-50 linf": partial(errors, **drawn, attack={**pgd50, "epsilon": 8, "alpha": 2}),
        "PGD-50 l2": partial(
            errors, **drawn, attack={**pgd50, "epsilon": 128, "alpha": 16, "norm": "l2"}
        ),
        **{
            f"FGSM {e}": partial(errors, **drawn, attack={"method": "fgsm", "epsilon": e})
            for e in options["epsilons"]
        },
        **{f"PGD-20 {e}": partial(errors, **drawn, attack=_pgd(e)) for e in options["epsilons"]},
        "surface": partial(
            loss_surface, part="test", images=options["pictured"], reach=16, points=21
        ),
        "frames": partial(
            frames, part="test", images=options["pictured"], epsilons=[0, 2, 4, 8, 16]
        ),
    }
    if options["autoattack"]:
        if find_spec("pyautoattack") is None:
            raise ValueError(
                'AutoAttack needs the package pyautoattack: pip install "wdtr-lite[attack]"'
            )
        tested = {"part": "test", "images": options["autoattack"], "epsilon": 8}
        questions |= {
            "autoattack": partial(autoattack, **tested),
            "square": partial(autoattack, **tested, only="square"),
        }
    final = _final(study, _searched(study, **kept)[1])
    first = [job for job in final if job[0]["seed"] == study["seeds"][0]]
    sources = [job for job in final if job[0]["method"] == "none"]
    if not sources:
        return {"rows": [], "labels": []}
    _rows(
        [sources[-1], *first], {}, **kept
    )  # trained before several of them ask for the source at once
    others = {
        f"transfer {labels['method']}": fields
        for labels, fields in first
        if labels["method"] != "none"
    }
    if len(study["seeds"]) > 1:  # else the source is the network itself
        others["transfer"] = sources[-1][1]
    for name, source in others.items():
        questions[name] = partial(
            transfer_errors, **drawn, attack=_pgd(8), source=source, root=kept.get("root")
        )
    rows = _rows(first, questions, **kept)
    _, labels = runs.dataset_of(study["dataset"], study["split"]).part("test", options["pictured"])
    return {"rows": rows, "labels": labels.tolist()}


def variation(study: dict, **kept) -> dict:
    """The networks of Table 1 on naturally varied images, their gradients, and their answers along
    paths between images.

    Parameters
    ----------
    study : dict
        As for :func:`table2`; and ``natural``: how many test ``images`` are varied, how many
        ``gradients`` are taken with which ``radius``, how many ``pairs`` are joined by paths of how
        many ``steps``.
    **kept
        As for :func:`table1`.

    Returns
    -------
    dict
        ``rows``, one for each network with its ``answers``: :func:`variation_errors`,
        :func:`gradient_norms`, :func:`along_paths`, and two of Table 2's :func:`flips`.

    References
    ----------
    Section 5.2 of Lin et al. (2019).
    """
    options = study["natural"]
    questions = {
        "variations": partial(variation_errors, part="test", images=options["images"]),
        "gradients": partial(
            gradient_norms, part="test", images=options["gradients"], radius=options["radius"]
        ),
        "paths": partial(along_paths, part="test", pairs=options["pairs"], steps=options["steps"]),
        **{f"{axis} edge": _flips(study, axis, "edge") for axis in AXES},
    }
    return {"rows": _rows(_final(study, _searched(study, **kept)[1]), questions, **kept)}


def planned(study: dict, root: str) -> list[tuple[dict, Network]]:
    """The networks of :func:`table1`, with their labels: the grid's, then those of the choice so
    far or, before there is one, of
    the first candidates in its place.
    """
    _, chosen = _searched(study, root=root, finished=True)
    stand_in = {method: settings[0] for method, settings in study["candidates"].items()}
    jobs = (_grid(study) if _has_choice(study) else []) + _final(
        study, chosen or study["likeliest"] or stand_in
    )
    return [(labels, Network(training.Config(**fields), {})) for labels, fields in jobs]


def _flips(study: dict, axis: str, padding: str) -> partial:
    return partial(flips, part="test", axis=axis, padding=padding, **study["moved"])


def _table1_questions(part: str, attacked: int | None) -> dict[str, partial]:
    """Natural errors on the whole part, the others on so many of its images."""
    return {
        name: partial(errors, part=part, images=attacked if options else None, attack=options)
        for name, options in TABLE1.items()
    }


def _pgd(epsilon: float) -> dict:
    return {"method": "pgd", "epsilon": epsilon, "alpha": epsilon / 8, "steps": 20}


def _grid(study: dict) -> list[tuple[dict, dict]]:
    """Labels and fields of Config of each candidate."""
    return [
        _job(study, method, setting, study["seeds"][0], study["search"])
        for method, settings in study["candidates"].items()
        for setting in settings
    ]


def _final(study: dict, chosen: dict[str, dict]) -> list[tuple[dict, dict]]:
    """The same of the chosen ones, seed by seed."""
    named = {method: {"method": method, **setting} for method, setting in chosen.items()}
    for name, changes in study["also"].items():
        if changes["method"] in named:
            named[name] = {**named[changes["method"]], **changes}
    return [
        _job(study, name, setting, seed)
        for seed in study["seeds"]
        for name, setting in named.items()
    ]


def _job(
    study: dict, name: str, setting: dict, seed: int, changes: dict | None = None
) -> tuple[dict, dict]:
    shared = {
        "data": study["dataset"],
        "split": study["split"],
        **study["training"],
        **(changes or {}),
    }
    shown = {key: value for key, value in setting.items() if key != "method"}
    return {"method": name, "setting": shown, "seed": seed}, {
        **shared,
        "method": name,
        **setting,
        "seed": seed,
    }


def _searched(study: dict, **kept) -> tuple[list[dict], dict[str, dict]]:
    """The grid's rows and what is chosen from them; while some are missing, the likeliest. No grid
    where there is no choice.
    """
    if not _has_choice(study):
        return [], {method: settings[0] for method, settings in study["candidates"].items()}
    search = _counted(_rows(_grid(study), _table1_questions("validation", None), **kept))
    if not _is_complete(search):
        return search, study["likeliest"]
    chosen = runs.choose(search, CRITERION, allowance=1.0)
    return search, {method: chosen[method] for method in study["candidates"] if method in chosen}


def _has_choice(study: dict) -> bool:
    return any(len(settings) > 1 for settings in study["candidates"].values())


def _is_complete(rows: list[dict]) -> bool:
    return not any("missing" in row for row in rows)


def _rows(jobs: list[tuple[dict, dict]], questions: dict[str, partial], **kept) -> list[dict]:
    """A row for each job: the labels and what became of the network."""
    networks = [Network(training.Config(**fields), questions) for _, fields in jobs]
    outcomes = runs.complete(networks, **kept)
    return [
        {**labels, **({"missing": True} if found is None else found)}
        for (labels, _), found in zip(jobs, outcomes, strict=True)
    ]


def _counted(rows: list[dict]) -> list[dict]:
    """With the answers of :func:`errors` as two columns, ``wrong`` and ``n``."""
    counted = []
    for row in rows:
        measurements = row.pop("measurements", None)
        counts = ("wrong", "n") if measurements else ()
        counted.append(
            {
                **row,
                **{
                    count: {name: answer[count] for name, answer in measurements.items()}
                    for count in counts
                },
            }
        )
    return counted

"""Each question that networks are asked, by hand; the experiments that ask them, on a small study."""

import copy
import json
import shutil
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from oracles import graph_of
from torch import nn
from torch.nn import functional as F

from wdtr_lite import attacks, data, evaluation, metric, training, transport
from wdtr_lite.study import evidence, experiments, runs

NETWORK = {"data": "mnist5k_color", "model": "resnet8", "width": 2}
SMALL = {**NETWORK, "images": 1000, "epochs": 3, "batch_size": 25, "milestones": ()}


@pytest.fixture(scope="module")
def digits():
    """mnist5k_color with 50 images for validation and 250 for tests, five and twenty-five of each class."""
    whole = data.load("mnist5k_color")
    few = {"validation": whole.split["validation"][::10], "test": whole.split["test"][::4]}
    return replace(whole, split={**whole.split, **few})


@pytest.fixture(scope="module", autouse=True)
def trained_on_digits(digits):
    """Wherever the package asks for the data set; networks are trained in this process, in turn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "dataset_of", lambda name, split=None: {"mnist5k_color": digits}[name])
        patch.setattr(runs, "_executor", in_this_process)
        yield


@contextmanager
def in_this_process(cluster):
    class Executor:
        def submit(self, function, *arguments):
            future = Future()
            future.set_result(function(*arguments))
            return future

    yield Executor()


@pytest.fixture(scope="module")
def model():
    return runs.trained(training.Config(**SMALL)).model


@pytest.fixture(scope="module")
def linear(digits):
    """A linear model, trained on the first 300 of the images drawn for training until it knows most of them."""
    x, y = digits.part("train", 300)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(x.float() / 255), y).backward()
        optimizer.step()
    return model.eval()


def drawn(digits, images, part="test"):
    """The images that a question is asked about, (B, C, H, W) in [0, 1], and their labels."""
    index = digits.split[part]
    index = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(0))[:images]]
    return digits.images[index].float() / 255, digits.labels[index]


@torch.no_grad()
def labels_of(model, x):
    return model(x).argmax(1)


@torch.no_grad()
def chances_of(model, x):
    return model(x).softmax(1)


def wrong(model, x, y):
    return int((labels_of(model, x) != y).sum())


def seeded():
    return torch.Generator().manual_seed(0)


# ---------------------------------------------------------------- attacked

ATTACKS = {
    "FGSM 8": (evidence.TABLE1["FGSM 8"], partial(attacks.fgsm, epsilon=8 / 255)),
    "FGSM 25": (evidence.TABLE1["FGSM 25"], partial(attacks.fgsm, epsilon=25 / 255)),
    "FGSM l2": (
        {"method": "fgsm", "epsilon": 128, "norm": "l2"},
        partial(attacks.fgsm, epsilon=128 / 255, norm="l2"),
    ),
    "I-FGSM-20 8": (
        evidence.TABLE1["I-FGSM-20 8"],
        partial(attacks.ifgsm, epsilon=8 / 255, alpha=2 / 255, steps=20),
    ),
    "PGD": (
        {"method": "pgd", "epsilon": 4, "alpha": 1, "steps": 3},
        lambda *case: attacks.pgd(*case, 4 / 255, alpha=1 / 255, steps=3, generator=seeded()),
    ),
    "PGD l2": (
        {"method": "pgd", "epsilon": 128, "alpha": 16, "steps": 2, "norm": "l2", "restarts": 2},
        lambda *case: attacks.pgd(
            *case, 128 / 255, alpha=16 / 255, steps=2, norm="l2", restarts=2, generator=seeded()
        ),
    ),
}


@pytest.mark.parametrize("options, expected", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_is_the_one_of_attacks(options, expected, model, digits):
    """With lengths in units of 1/255; asked twice it finds the same, random start or not."""
    x, y = drawn(digits, 10)
    found = evidence.attack(**options)
    attacked = found(model, x, y)
    assert torch.equal(attacked, expected(model, x, y)) and torch.equal(
        attacked, found(model, x, y)
    )
    assert not torch.equal(attacked, x)


def test_the_rows_of_table_1():
    """Section 5.1 and Table 1 of the paper; its numbers are printed for each of them, and of three methods."""
    assert (
        list(evidence.TABLE1)
        == list(evidence.PAPER["table1"])
        == ["natural", "FGSM 8", "FGSM 25", "I-FGSM-20 8"]
    )
    assert set(evidence.CRITERION) <= set(evidence.TABLE1) and evidence.TABLE1["natural"] is None
    for table in evidence.PAPER.values():
        assert all(list(row) == ["none", "euclidean", "wasserstein"] for row in table.values())


@pytest.mark.parametrize(
    "part, images, n", [("test", 40, 40), ("test", None, 250), ("validation", None, 50)]
)
def test_errors(part, images, n, model, digits):
    """As they are, and attacked; of so many images drawn at random or of the whole part."""
    x, y = drawn(digits, images, part)
    natural = evidence.errors(model, digits, part=part, images=images, attack=None)
    assert natural == {"wrong": wrong(model, x, y), "n": n}
    found = evidence.errors(
        model, digits, part=part, images=images, attack=evidence.TABLE1["FGSM 8"]
    )
    assert found == {"wrong": wrong(model, attacks.fgsm(model, x, y, 8 / 255), y), "n": n}
    assert 0 < natural["wrong"] < found["wrong"]


def test_transfer_errors(model, digits, tmp_path):
    """Attacked with the other network, judged by this one: neither's own error. Trained where the root says, once."""
    source = {**SMALL, "seed": 1, "epochs": 2}
    options = {
        "part": "test",
        "images": 60,
        "attack": {"method": "ifgsm", "epsilon": 8, "alpha": 4, "steps": 3},
    }
    ask = partial(
        evidence.transfer_errors, model, digits, **options, source=source, root=str(tmp_path)
    )
    found = ask()
    other = training.fit(training.Config(**source), dataset=digits, progress=False).model
    x, y = drawn(digits, 60)
    attacked = attacks.ifgsm(other, x, y, 8 / 255, alpha=4 / 255, steps=3)
    assert found == {"wrong": wrong(model, attacked, y), "n": 60}
    own = evidence.errors(model, digits, **options)["wrong"]
    assert found["wrong"] != own and found["wrong"] != wrong(other, attacked, y)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    assert len(kept) == 2 and ask() == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")} == kept


def test_transfer_of_the_network_itself_is_its_own_error(model, digits):
    pgd = {"method": "pgd", "epsilon": 8, "alpha": 4, "steps": 1}
    found = evidence.transfer_errors(
        model, digits, part="test", images=50, attack=pgd, source=SMALL, root=None
    )
    assert found == evidence.errors(model, digits, part="test", images=50, attack=pgd)


def test_autoattack(linear, digits):
    """After each of the four in their order; of a linear model all that there are in the end, and no more."""
    pytest.importorskip("pyautoattack")
    found = evidence.autoattack(linear, digits, part="test", images=8, epsilon=3)
    x, y = drawn(digits, 8)
    assert found["n"] == 8 and list(found["wrong"]) == [
        "natural",
        "apgd-ce",
        "apgd-t",
        "fab-t",
        "square",
    ]
    counts = list(found["wrong"].values())
    assert counts == sorted(counts) and counts[0] == wrong(linear, x, y)
    margins = []
    for image, label in zip(x, y, strict=True):
        slopes = (linear[1].weight - linear[1].weight[label]).detach().view(10, 3, 32, 32)
        worst = (image + 3 / 255 * slopes.sign()).clamp(0, 1)
        gains = (slopes * worst).flatten(1).sum(1) + (
            linear[1].bias - linear[1].bias[label]
        ).detach()
        margins.append(gains[torch.arange(10) != label].amax())
    assert counts[0] < counts[-1] == int((torch.stack(margins) > 0).sum()) < 8


def test_autoattack_square_only(linear, digits):
    """From the images that are right as they are; with none left it is not called."""
    pytest.importorskip("pyautoattack")
    found = evidence.autoattack(linear, digits, part="test", images=8, epsilon=4, only="square")
    assert found["n"] == 8 and list(found["wrong"]) == ["natural", "square"]
    assert found["wrong"]["natural"] < found["wrong"]["square"]
    upside_down = nn.Sequential(linear, nn.Linear(10, 10))
    with torch.no_grad():
        upside_down[1].weight.copy_(-torch.eye(10))
        upside_down[1].bias.zero_()
    x, y = drawn(digits, 5)
    natural = wrong(upside_down, x, y)
    assert evidence.autoattack(upside_down, digits, part="test", images=5, epsilon=0, only="square") == {
        "n": 5, "wrong": {"natural": natural, "square": natural},
    }  # fmt: skip
    assert natural == 5


# ---------------------------------------------------------------- moved and varied


@pytest.mark.parametrize("padding", ["zeros", "edge", "reflect"])
@pytest.mark.parametrize("axis", ["horizontal", "vertical"])
def test_flips_are_those_of_every_span(axis, padding, model, digits):
    """-S, ..., S for each S up to the reach, both counts of label_flips."""
    found = evidence.flips(
        model, digits, part="test", images=30, axis=axis, padding=padding, reach=3
    )
    x, _ = drawn(digits, 30)
    counts = [evaluation.label_flips(model, x, axis, range(-s, s + 1), padding) for s in (1, 2, 3)]
    assert found == {
        "n": 30,
        "consecutive": [int(count.consecutive.sum()) for count in counts],
        "from_unshifted": [int(count.from_unshifted.sum()) for count in counts],
    }
    assert (
        found["consecutive"] != found["from_unshifted"]
        and 0 < found["consecutive"][0] < found["consecutive"][2]
    )


def test_sequences(model, digits):
    found = evidence.sequences(
        model, digits, part="test", images=6, axis="vertical", padding="edge", reach=2
    )
    x, _ = drawn(digits, 6)
    moved = evaluation.translation_sequence(x, "vertical", [-2, -1, 0, 1, 2], "edge")
    for k in range(6):
        confidences, labels = chances_of(model, moved[:, k]).max(1)
        assert found["labels"][k] == labels.tolist()
        assert found["confidences"][k] == pytest.approx(confidences.tolist(), abs=6e-5)
    assert (
        len(found["labels"]) == len(found["confidences"]) == 6
        and len({*sum(found["labels"], [])}) > 1
    )


def test_variation_errors(model, digits):
    found = evidence.variation_errors(model, digits, part="test", images=40)
    x, y = drawn(digits, 40)
    varied = evaluation.variations(x, 0, shift=4, degrees=15, margin=8)
    expected = {
        "natural": wrong(model, x, y),
        **{name: wrong(model, each, y) for name, each in varied.items()},
    }
    assert found == {"n": 40, "wrong": expected}
    assert (
        list(expected) == ["natural", "translation", "rotation", "elastic", "blur"]
        and len({*expected.values()}) > 1
    )
    seen = []
    with model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])):
        evidence.variation_errors(model, digits, part="test", images=40)
    assert all(torch.equal(*pair) for pair in zip(seen, [x, *varied.values()], strict=True))


# ---------------------------------------------------------------- gradients and surfaces


def test_gradient_norms(model, digits):
    """Of three images by back-propagation and dense matrices in float64; the trace is the mean over all three."""
    found = evidence.gradient_norms(model, digits, part="test", images=3, radius=2)
    x, y = drawn(digits, 3)
    x, exact, graph = (
        x.double().requires_grad_(),
        copy.deepcopy(model).double(),
        graph_of(32, 32, 2),
    )
    logits = exact(x)
    others = logits.masked_fill(F.one_hot(y, 10).bool(), -torch.inf)
    columns = {
        "loss": F.cross_entropy(logits, y, reduction="none"),
        "margin": logits[range(3), y] - others.amax(1),
    }
    dense = [[metric.laplacian(graph, channel) for channel in image] for image in x.detach()]
    unit = torch.stack([matrix.diagonal() for matrices in dense for matrix in matrices]).mean()
    assert list(found) == [
        "loss euclidean",
        "loss wasserstein",
        "margin euclidean",
        "margin wasserstein",
    ]
    for name, column in columns.items():
        gradient = torch.autograd.grad(column.sum(), x, retain_graph=True)[0].flatten(2)
        energy = [
            sum(g @ m @ g for g, m in zip(*pair, strict=True))
            for pair in zip(gradient, dense, strict=True)
        ]
        lengths = {
            "euclidean": gradient.flatten(1).norm(dim=1),
            "wasserstein": (torch.stack(energy) / unit).sqrt(),
        }
        for length, expected in lengths.items():
            assert found[f"{name} {length}"] == pytest.approx(expected.tolist(), rel=1e-4, abs=6e-5)
            assert min(found[f"{name} {length}"]) > 0.01


def test_loss_surface(model, digits):
    """A row for each step along the gradient's signs, a column for each along random signs; the loss in the middle."""
    found = evidence.loss_surface(model, digits, part="test", images=2, reach=16, points=5)
    assert found["at"] == [-16, -8, 0, 8, 16]
    x, y = drawn(digits, 2)
    generator = torch.Generator().manual_seed(0)
    for k in range(2):
        leaf = x[k : k + 1].clone().requires_grad_()
        signs = torch.autograd.grad(F.cross_entropy(model(leaf), y[k : k + 1]), leaf)[0].sign()
        aside = torch.randint(2, x[k].shape, generator=generator) * 2.0 - 1
        loss = np.array(found["loss"][k])
        assert loss.shape == (5, 5)
        assert loss[2, 2] == pytest.approx(
            float(F.cross_entropy(model(x[k : k + 1]), y[k : k + 1]).detach()), abs=6e-5
        )
        for i, a in enumerate(found["at"]):
            for j, b in enumerate(found["at"]):
                logits = model(x[k] + a / 255 * signs + b / 255 * aside).detach()
                assert loss[i, j] == pytest.approx(
                    float(F.cross_entropy(logits, y[k : k + 1])), abs=2e-4
                )
        uphill, sideways = np.ptp(loss[:, 2]), np.ptp(loss[2])
        assert uphill > 2 * sideways and loss[3, 2] > loss[2, 2] > loss[1, 2]


def test_loss_surface_where_the_image_is_black_or_white(linear, digits):
    """There, too, the direction is that of the gradient's signs: of a linear margin the surface is straight along it."""
    black = replace(digits, images=digits.images // 128 * 255)
    found = np.array(
        evidence.loss_surface(linear, black, part="test", images=1, reach=1, points=3)["loss"][0]
    )
    x, y = drawn(black, 1)
    leaf = x.clone().requires_grad_()
    signs = torch.autograd.grad(F.cross_entropy(linear(leaf), y), leaf)[0].sign()
    expected = [float(F.cross_entropy(linear(x + a / 255 * signs), y).detach()) for a in (-1, 0, 1)]
    assert found[:, 1].tolist() == pytest.approx(expected, abs=2e-4)


def test_frames(model, digits):
    """Epsilon 0 is the image; the others PGD-20's, rounded to bytes; the chances are of the images before rounding."""
    found = evidence.frames(model, digits, part="test", images=2, epsilons=[0, 4, 16])
    x, y = drawn(digits, 2)
    assert [len(row) for row in found] == [3, 3]
    for k, row in enumerate(found):
        for epsilon, frame in zip([0, 4, 16], row, strict=True):
            attacked = x
            if epsilon:
                how = {"alpha": epsilon / 8 / 255, "steps": 20, "generator": seeded()}
                attacked = attacks.pgd(model, x, y, epsilon / 255, **how)
            pixels = torch.tensor(list(bytes.fromhex(frame["pixels"]))).reshape(3, 32, 32)
            assert torch.equal(pixels, (attacked[k] * 255).round().long())
            assert (pixels / 255 - x[k]).abs().max() <= (epsilon + 1e-3) / 255
            assert frame["probabilities"] == pytest.approx(
                chances_of(model, attacked)[k].tolist(), abs=6e-5
            )
            assert sum(frame["probabilities"]) == pytest.approx(1, abs=5e-4)
            picture = evidence.photo(frame["pixels"])
            assert picture.dtype == np.uint8 and picture.shape == (32, 32, 3)
            assert (picture.transpose(2, 0, 1) == pixels.numpy()).all()
        assert torch.equal(
            torch.tensor(list(bytes.fromhex(row[0]["pixels"]))).reshape(3, 32, 32) / 255, x[k]
        )
        losses = [-np.log(max(frame["probabilities"][y[k]], 1e-4)) for frame in row]
        assert losses[0] < losses[1] and losses[0] < losses[2]


# ---------------------------------------------------------------- paths

WAYS = ("within wasserstein", "within euclidean", "between wasserstein", "between euclidean")


@pytest.fixture(scope="module")
def paths(digits):
    return evidence._paths(digits, "test", 4, 5)


def ends(digits, path):
    """The two images of a path, as indices."""
    bytes_of = (path[[0, -1]] * 255).round().to(torch.uint8)
    found = [
        (digits.images == image).flatten(1).all(1).nonzero().squeeze(1).tolist()
        for image in bytes_of
    ]
    assert all(len(index) == 1 for index in found)
    return [index[0] for index in found]


def test_paths_lead_from_image_to_image_of_one_class_or_two(digits, paths):
    """Two test images, the first ones the same for all; the ends are the images, and both paths have the same ends."""
    assert set(paths) == set(WAYS)
    starts = []
    for classes in ("within", "between"):
        pairs = [ends(digits, path) for path in paths[f"{classes} euclidean"]]
        assert pairs == [ends(digits, path) for path in paths[f"{classes} wasserstein"]]
        assert all(
            (digits.labels[i] == digits.labels[j]) == (classes == "within") for i, j in pairs
        )
        assert all({i, j} <= {*digits.split["test"].tolist()} and i != j for i, j in pairs)
        starts.append([i for i, _ in pairs])
        for path in (*paths[f"{classes} euclidean"], *paths[f"{classes} wasserstein"]):
            originals = digits.images[ends(digits, path)].float() / 255
            torch.testing.assert_close(path[[0, -1]], originals, rtol=0, atol=1e-6)
    assert starts[0] == starts[1] and len({*starts[0]}) == 4
    assert len({int(digits.labels[i]) for i in starts[0]}) > 1


def test_the_masses_change_linearly(digits, paths):
    """Of each channel, at equal times, along both paths; where a pixel was clipped at 1 a little is missing."""
    times = torch.linspace(0, 1, 6)[:, None]
    for name in WAYS:
        assert (
            paths[name].shape == (4, 6, 3, 32, 32)
            and paths[name].min() >= 0
            and paths[name].max() <= 1
        )
        for path in paths[name]:
            mass = path.sum((2, 3))
            expected = mass[0] + times * (mass[-1] - mass[0])
            assert (mass < expected * 1.0001).all() and (mass > 0.99 * expected).all()
    i, j = ends(digits, paths["between wasserstein"][0])
    start, end = digits.images[[i, j]].double().numpy() / 255
    unclipped = evidence._displacements(start, end, np.linspace(0, 1, 6))
    mass = unclipped.sum((2, 3))
    np.testing.assert_allclose(mass, mass[0] + times.numpy() * (mass[-1] - mass[0]), rtol=1e-6)
    np.testing.assert_allclose(unclipped.clip(0, 1), paths["between wasserstein"][0], atol=1e-6)


def test_the_paths_are_displacements_and_lines(digits, paths):
    """In the middle: transport's interpolation with a plan of its own, times the mean mass; the mean of the images."""
    for classes in ("within", "between"):
        path, line = paths[f"{classes} wasserstein"][1], paths[f"{classes} euclidean"][1]
        start, end = digits.images[ends(digits, path)].double().numpy() / 255
        for channel in range(3):
            a, b = start[channel], end[channel]
            moved = transport.displacement_interpolation(a, b, 0.4) * (
                0.6 * a.sum() + 0.4 * b.sum()
            )
            np.testing.assert_allclose(path[2, channel], moved.clip(0, 1), atol=1e-5)
        np.testing.assert_allclose(line[2], 0.6 * start + 0.4 * end, atol=1e-6)


def test_along_paths_of_a_linear_model(linear, digits, paths):
    """Half the change of the softmax in the 1-norm, step by step, in float64."""
    found = evidence.along_paths(linear, digits, part="test", pairs=4, steps=5)
    weight, bias = (parameter.detach().double().numpy() for parameter in linear[1].parameters())
    assert set(found) == set(WAYS)
    for name in WAYS:
        for length, path in zip(found[name], paths[name].double().numpy(), strict=True):
            logits = path.reshape(6, -1) @ weight.T + bias
            odds = np.exp(logits - logits.max(1, keepdims=True))
            measurements = odds / odds.sum(1, keepdims=True)
            expected = sum(
                0.5 * np.abs(measurements[k + 1] - measurements[k]).sum() for k in range(5)
            )
            assert length == pytest.approx(expected, abs=1e-4)
            assert length >= 0.5 * np.abs(measurements[-1] - measurements[0]).sum() - 1e-4
    assert min(found["between euclidean"]) > 0.01


def test_along_paths_of_a_constant_model(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    nn.init.zeros_(model[1].weight)
    assert evidence.along_paths(model, digits, part="test", pairs=4, steps=5) == dict.fromkeys(
        WAYS, [0.0] * 4
    )


def test_along_paths_counts_ways_there_and_back(digits):
    """A step function of the brightness, which changes linearly: the answer turns over once, on either path, or never."""

    class Brighter(nn.Module):
        def __init__(self, than):
            super().__init__()
            self.than = nn.Parameter(torch.tensor(than))

        def forward(self, x):
            return 1e6 * torch.stack([x.mean((1, 2, 3)), self.than.expand(len(x))], 1)

    paths = evidence._paths(digits, "test", 4, 5)
    bright = paths["between euclidean"][:, [0, -1]].mean((2, 3, 4)).sort(1).values
    for k in range(4):
        found = evidence.along_paths(
            Brighter(float(bright[k].mean())), digits, part="test", pairs=4, steps=5
        )
        for way in ("between euclidean", "between wasserstein"):
            assert found[way][k] == 1.0 and set(found[way]) <= {0.0, 1.0}


# ---------------------------------------------------------------- experiments

BRIEFLY = {
    "model": "small_cnn", "activation": "relu", "width": 4,
    "images": 500, "batch_size": 10, "epochs": 4, "milestones": [], "learning_rate": 0.02,
}  # fmt: skip
DIVERGES = {"eta": 0.5, "learning_rate": 1e20}

STUDY = {
    **experiments._STUDIES["quick"],
    "training": {**experiments._STUDIES["quick"]["training"], **BRIEFLY},
    "search": {"epochs": 2},
    "candidates": {
        "none": [{}],
        "euclidean": [{"eta": 3.0}, {"eta": 0.3}, DIVERGES],
        "wasserstein": [{"eta": 0.5, "radius": 2, "mode": "finite_difference"}],
    },
    "also": {"wasserstein, exact": {"method": "wasserstein", "mode": "double_backprop"}},
    "seeds": [3, 4],
    "attacked": 40,
}
GRID = [
    (method, setting) for method, settings in STUDY["candidates"].items() for setting in settings
]


def config_of(row, **changes):
    method = STUDY["also"].get(row["method"], row)["method"]
    fields = {
        "data": "mnist5k_color",
        **STUDY["training"],
        **changes,
        **row["setting"],
        "method": method,
        "seed": row["seed"],
    }
    return training.Config(**fields)


def network_of(row, root=None, **changes):
    """From its folder, or trained anew."""
    return runs.trained(config_of(row, **changes), root).model


def named(row):
    return {name: row[name] for name in ("method", "setting", "seed")}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("networks")


@pytest.fixture(scope="module")
def table1(root):
    return evidence.table1(STUDY, root=root)


def test_table1_search(table1, digits):
    """Every candidate in order, of the first seed, trained as the search says, judged on all validation images."""
    search = table1["search"]
    assert [(row["method"], row["setting"], row["seed"]) for row in search] == [
        (*case, 3) for case in GRID
    ]
    diverged = [row for row in search if "diverged" in row]
    assert [row["setting"] for row in diverged] == [DIVERGES] and "diverged in epoch 1" in diverged[
        0
    ]["diverged"]
    row = search[2]
    model, (x, y) = network_of(row, epochs=2), digits.part("validation")
    assert list(row["wrong"]) == list(evidence.TABLE1) and row["n"] == dict.fromkeys(
        evidence.TABLE1, 50
    )
    for name, how in evidence.TABLE1.items():
        x = digits.part("validation")[0].float() / 255
        assert row["wrong"][name] == wrong(
            model, evidence.attack(**how)(model, x, y) if how else x, y
        )
    assert row["training"]["epoch"] == 2 and set(row["seconds"]) == {"training", *evidence.TABLE1}


def test_table1_choice(table1):
    """Of each method the candidate with the fewest mistakes under the criterion's conditions, of those that did not diverge."""
    assert table1["grid_complete"] is True
    best = {}
    for row in table1["search"]:
        if "wrong" in row:
            misclassified = sum(row["wrong"][name] for name in evidence.CRITERION)
            best[row["method"]] = min(
                best.get(row["method"], (1000, {})),
                (misclassified, row["setting"]),
                key=lambda pair: pair[0],
            )
    assert table1["chosen"] == {method: setting for method, (_, setting) in best.items()}


@pytest.mark.parametrize(
    "counts, chosen",
    [
        (
            {3.0: (30, 10, 10, 40), 0.3: (10, 90, 90, 50), 0.5: (20, 5, 5, 45)},
            0.3,
        ),  # of 50, 50: sums 70, 60, 65
        (
            {3.0: (40, 0, 0, 15), 0.3: (10, 90, 90, 50), 0.5: (20, 5, 5, 45)},
            3.0,
        ),  # however inaccurate
        ({3.0: None, 0.3: (50, 0, 0, 50), 0.5: (49, 0, 0, 50)}, 0.5),
    ],
)
def test_table1_choice_by_hand(counts, chosen, monkeypatch):
    """The natural error and the one under I-FGSM-20 weigh the same; FGSM has no say. None diverged."""

    def complete(networks, **kept):
        given = [counts.get(network.config.eta, (25, 25, 25, 25)) for network in networks]
        return [
            {"diverged": "the run diverged"}
            if each is None
            else {
                "measurements": {
                    name: {"wrong": w, "n": 100}
                    for name, w in zip(evidence.TABLE1, each, strict=True)
                }
            }
            for each in given
        ]

    monkeypatch.setattr(runs, "complete", complete)
    settings = {**STUDY["candidates"], "euclidean": [{"eta": eta} for eta in counts]}
    found = evidence.table1({**STUDY, "candidates": settings, "also": {}})
    assert found["chosen"]["euclidean"] == {"eta": chosen} and found["chosen"]["none"] == {}
    assert {row["setting"].get("eta") for row in found["rows"] if row["method"] == "euclidean"} == {
        chosen
    }


def test_table1_rows(table1, digits):
    """Each method as chosen and each further one, seed by seed, on the test images: all, or so many attacked."""
    rows, methods = table1["rows"], [*table1["chosen"], "wasserstein, exact"]
    assert [(row["seed"], row["method"]) for row in rows] == [
        (seed, method) for seed in (3, 4) for method in methods
    ]
    wasserstein = {"eta": 0.5, "radius": 2}
    settings = {
        **table1["chosen"],
        "wasserstein, exact": {**wasserstein, "mode": "double_backprop"},
    }
    assert [row["setting"] for row in rows] == 2 * list(settings.values())
    assert table1["chosen"]["wasserstein"] == {**wasserstein, "mode": "finite_difference"}
    assert all(
        row["n"] == {"natural": 250, "FGSM 8": 40, "FGSM 25": 40, "I-FGSM-20 8": 40} for row in rows
    )
    row = rows[7]
    model, (x, y) = network_of(row), drawn(digits, 40)
    whole, labels = digits.part("test")
    assert row["wrong"]["natural"] == wrong(model, whole.float() / 255, labels)
    assert row["wrong"]["FGSM 25"] == wrong(model, attacks.fgsm(model, x, y, 25 / 255), y)
    assert row["wrong"]["I-FGSM-20 8"] == wrong(
        model, attacks.ifgsm(model, x, y, 8 / 255, alpha=2 / 255, steps=20), y
    )
    assert rows[2]["wrong"] != rows[6]["wrong"] and row["training"]["epoch"] == 4


def test_table1_is_there_when_it_is_asked_again(table1, root, monkeypatch):
    """Nothing is trained or asked: the same rows from the folder, which JSON keeps as they are."""
    monkeypatch.setattr(runs, "_work", None)
    assert (
        evidence.table1(STUDY, root=root)
        == table1
        == evidence.table1(STUDY, root=root, finished=True)
    )
    assert json.loads(json.dumps(table1)) == table1


def test_table1_with_holes(table1, root, tmp_path):
    """A candidate's network missing: no choice but the likeliest. An answer missing: that row, the others as they are."""
    holed, likeliest = (
        tmp_path / "networks",
        {method: table1["chosen"][method] for method in ("none", "euclidean")},
    )
    shutil.copytree(root, holed)
    row = table1["search"][1]
    shutil.rmtree(runs._folder(config_of(row, epochs=2), holed))
    found = evidence.table1(STUDY, root=holed, finished=True)
    assert found["grid_complete"] is False and found["chosen"] == {} and found["rows"] == []
    assert found["search"] == [
        *table1["search"][:1],
        {**named(row), "missing": True},
        *table1["search"][2:],
    ]
    answered = runs._folder(
        config_of({"method": "euclidean", "setting": likeliest["euclidean"], "seed": 4}), holed
    )
    next(answered.glob("errors-*.json")).unlink()
    found = evidence.table1({**STUDY, "likeliest": likeliest}, root=holed, finished=True)
    done = {(row["method"], row["seed"]): row for row in table1["rows"]}
    final = [done[method, seed] for seed in (3, 4) for method in likeliest]
    assert found["chosen"] == likeliest and not found["grid_complete"]
    assert found["rows"] == [*final[:3], {**named(final[3]), "missing": True}]
    assert (
        runs.outcome(runs.Network(config_of(row, epochs=2), {}), holed) is None
    )  # nothing was done


def test_table1_of_nothing(tmp_path):
    found = evidence.table1({**STUDY, "likeliest": {"none": {}}}, root=tmp_path, finished=True)
    assert all(row["missing"] for row in found["search"]) and len(found["search"]) == 5
    assert found["rows"] == [
        {"method": "none", "setting": {}, "seed": seed, "missing": True} for seed in (3, 4)
    ]
    assert not any(tmp_path.iterdir())


def test_table1_does_the_likeliest_first(tmp_path, monkeypatch):
    """All its seeds before the grid, then what the choice adds."""
    done = []

    def noted(networks, root, **how):
        done.extend(
            (n.config.method, n.config.eta, n.config.seed, n.config.epochs) for n in networks
        )
        return [None] * len(networks)

    monkeypatch.setattr(runs, "complete", noted)
    found = evidence.table1({**STUDY, "likeliest": {"euclidean": {"eta": 0.3}}}, root=tmp_path)
    likeliest = [("euclidean", 0.3, 3, 4), ("euclidean", 0.3, 4, 4)]
    grid = [(method, setting.get("eta", 0.0), 3, 2) for method, setting in GRID]
    assert done == likeliest + grid + likeliest and found["chosen"] == {"euclidean": {"eta": 0.3}}


def test_table1_without_a_choice_has_no_search(root, table1):
    """One candidate a method; without a root nothing is kept, and the outcome is the same."""
    study = {**STUDY, "candidates": {"none": [{}]}, "also": {}, "seeds": [3], "likeliest": {}}
    for kept in ({"root": root}, {}):
        found = evidence.table1(study, **kept)
        assert (found["search"], found["chosen"], found["grid_complete"]) == (
            [],
            {"none": {}},
            True,
        )
        (row,), expected = (
            found["rows"],
            next(row for row in table1["rows"] if row["method"] == "none"),
        )
        assert (named(row), row["wrong"], row["n"]) == (
            named(expected),
            expected["wrong"],
            expected["n"],
        )


def test_table2(root, table1, digits):
    rows = evidence.table2({**STUDY, "moved": {"images": 20, "reach": 2}}, root=root)["rows"]
    assert [named(row) for row in rows] == [named(row) for row in table1["rows"]]
    cases = [
        f"{axis} {padding}"
        for axis in ("horizontal", "vertical")
        for padding in ("zeros", "edge", "reflect")
    ]
    assert all(list(row["measurements"]) == cases for row in rows)
    model = network_of(rows[4], root)
    for case in cases:
        axis, padding = case.split()
        expected = evidence.flips(
            model, digits, part="test", images=20, axis=axis, padding=padding, reach=2
        )
        assert rows[4]["measurements"][case] == expected
    assert len({json.dumps(row["measurements"]) for row in rows}) > 1


def test_figure2(root, table1, digits):
    """The first of the images drawn that all four networks of the first seed know, and what they take them for."""
    shown = {"images": 2, "of": 200, "padding": "edge", "reach": 2}
    found = evidence.figure2({**STUDY, "shown": shown}, root=root)
    assert [named(row) for row in found["rows"]] == [named(row) for row in table1["rows"][:4]]
    networks = [network_of(row, root) for row in found["rows"]]
    x, y = drawn(digits, 200)
    known = (
        torch.stack([labels_of(model, x) == y for model in networks])
        .all(0)
        .nonzero()
        .squeeze(1)
        .tolist()
    )
    assert len(known) > 2
    assert len(found["images"]) == 2
    for k, image in zip(known, found["images"], strict=False):
        assert image["label"] == y[k]
        np.testing.assert_allclose(
            evidence.photo(image["pixels"]).transpose(2, 0, 1) / 255, x[k], atol=1e-6
        )
    moved = evaluation.translation_sequence(x[known[:2]], "horizontal", range(-2, 3), "edge")
    for row, model in zip(found["rows"], networks, strict=True):
        assert set(row) == {"method", "setting", "seed", "labels", "confidences"}
        for k in range(2):
            confidences, labels = chances_of(model, moved[:, k]).max(1)
            assert row["labels"][k] == labels.tolist() and row["labels"][k][2] == y[known[k]]
            assert row["confidences"][k] == pytest.approx(confidences.tolist(), abs=6e-5)


PLAIN = {**STUDY, "candidates": {"none": [{}]}, "also": {}}


def test_stress(root, digits):
    """First seeds only; the source of transfer is the plain network of the last."""
    harder = {"attacked": 3, "autoattack": 0, "epsilons": [2, 8], "pictured": 1}
    found = evidence.stress({**PLAIN, "harder": harder}, root=root)
    assert [(row["method"], row["seed"]) for row in found["rows"]] == [("none", 3)]
    x, y = drawn(digits, 3)
    assert found["labels"] == y[:1].tolist()
    row = found["rows"][0]
    model, measurements = network_of(row, root), row["measurements"]
    assert list(measurements) == [
        "natural", "confidence", "PGD-50 linf", "PGD-50 l2", "FGSM 2", "FGSM 8", "PGD-20 2", "PGD-20 8", "surface", "frames", "transfer",
    ]  # fmt: skip
    expected = {
        "natural": x,
        "FGSM 2": attacks.fgsm(model, x, y, 2 / 255),
        "FGSM 8": attacks.fgsm(model, x, y, 8 / 255),
        "PGD-20 2": attacks.pgd(
            model, x, y, 2 / 255, alpha=0.25 / 255, steps=20, generator=seeded()
        ),
        "PGD-20 8": attacks.pgd(model, x, y, 8 / 255, alpha=1 / 255, steps=20, generator=seeded()),
    }
    source = network_of({**row, "seed": 4}, root)
    expected["transfer"] = attacks.pgd(
        source, x, y, 8 / 255, alpha=1 / 255, steps=20, generator=seeded()
    )
    for name, images in expected.items():
        assert measurements[name] == {"wrong": wrong(model, images, y), "n": 3}
    assert measurements["confidence"] == pytest.approx(
        float(chances_of(model, x).amax(1).mean()), abs=6e-5
    )
    assert measurements["surface"] == evidence.loss_surface(
        model, digits, part="test", images=1, reach=16, points=21
    )
    assert measurements["frames"] == evidence.frames(
        model, digits, part="test", images=1, epsilons=[0, 2, 4, 8, 16]
    )


def test_stress_asks_harder_questions(monkeypatch):
    """PGD-50 with 10 restarts in both norms; AutoAttack, and Square with the same options, of so many images."""
    asked = {}

    def complete(networks, **kept):
        asked.update(networks[0].questions)
        return [{"measurements": {}} for _ in networks]

    monkeypatch.setattr(runs, "complete", complete)
    evidence.stress(
        {**PLAIN, "harder": {"attacked": 9, "autoattack": 7, "epsilons": [8], "pictured": 1}}
    )
    options = {"part": "test", "images": 7, "epsilon": 8}
    assert asked["autoattack"].func is asked["square"].func is evidence.autoattack
    assert asked["autoattack"].keywords == options and asked["square"].keywords == {
        **options,
        "only": "square",
    }
    hard = {"method": "pgd", "steps": 50, "restarts": 10}
    for norm, lengths in (
        ("linf", {"epsilon": 8, "alpha": 2}),
        ("l2", {"epsilon": 128, "alpha": 16, "norm": "l2"}),
    ):
        question = asked[f"PGD-50 {norm}"]
        assert question.func is evidence.errors
        assert question.keywords == {"part": "test", "images": 9, "attack": {**hard, **lengths}}


def test_stress_transfers_from_each_penalised_network(monkeypatch):
    """Of the first seed, and from the plain one of the last; with one seed not from the plain one, which is its own target."""
    asked = []
    monkeypatch.setattr(
        runs, "complete", lambda networks, **kept: [asked.append(network) for network in networks]
    )
    harder = {"attacked": 9, "autoattack": 0, "epsilons": [8], "pictured": 1}
    study = {**PLAIN, "candidates": {"none": [{}], "euclidean": [{"eta": 0.3}]}, "harder": harder}
    for seeds, sources in (([3, 4], {"transfer euclidean": ("euclidean", 3), "transfer": ("none", 4)}),
                           ([3], {"transfer euclidean": ("euclidean", 3)})):  # fmt: skip
        evidence.stress({**study, "seeds": seeds})
        found = {
            name: q.keywords["source"]
            for name, q in asked[-1].questions.items()
            if q.func is evidence.transfer_errors
        }
        assert {
            name: (source["method"], source["seed"]) for name, source in found.items()
        } == sources


def test_stress_before_the_grid_is_complete(tmp_path):
    """Nothing is chosen yet: no rows, as in the other experiments."""
    harder = {"attacked": 3, "autoattack": 0, "epsilons": [8], "pictured": 1}
    assert evidence.stress({**STUDY, "harder": harder}, root=tmp_path, finished=True)["rows"] == []


def test_variation(root, digits):
    natural = {"images": 20, "gradients": 5, "radius": 2, "pairs": 2, "steps": 2}
    moved = {"images": 20, "reach": 2}
    rows = evidence.variation({**PLAIN, "natural": natural, "moved": moved}, root=root)["rows"]
    assert [(row["method"], row["seed"]) for row in rows] == [("none", 3), ("none", 4)]
    model = network_of(rows[1], root)
    assert rows[1]["measurements"] == {
        "variations": evidence.variation_errors(model, digits, part="test", images=20),
        "gradients": evidence.gradient_norms(model, digits, part="test", images=5, radius=2),
        "paths": evidence.along_paths(model, digits, part="test", pairs=2, steps=2),
        "horizontal edge": evidence.flips(
            model, digits, part="test", axis="horizontal", padding="edge", **moved
        ),
        "vertical edge": evidence.flips(
            model, digits, part="test", axis="vertical", padding="edge", **moved
        ),
    }
    assert rows[0]["measurements"] != rows[1]["measurements"]


def test_the_others_before_the_grid_is_complete(tmp_path):
    added = {
        "moved": {"images": 20, "reach": 2},
        "shown": {"images": 2, "of": 20, "padding": "zeros", "reach": 2},
        "natural": {"images": 20, "gradients": 5, "radius": 2, "pairs": 2, "steps": 2},
    }
    kept = {"root": tmp_path, "finished": True}
    assert [
        ask({**STUDY, **added}, **kept)["rows"] for ask in (evidence.table2, evidence.variation)
    ] == [[], []]
    assert evidence.figure2({**STUDY, **added}, **kept)["rows"] == []
    missing = evidence.table2({**STUDY, **added, "likeliest": {"none": {}}}, **kept)["rows"]
    assert missing == [
        {"method": "none", "setting": {}, "seed": seed, "missing": True} for seed in (3, 4)
    ]


def test_planned(table1, root, tmp_path):
    """The grid's networks, then those of the choice; before there is one of the likeliest, or else of the first candidates."""
    grid = [(*case, 3) for case in GRID]
    cases = {
        root: [(row["method"], row["setting"], row["seed"]) for row in table1["rows"]],
        tmp_path: [
            (method, setting, seed)
            for seed in (3, 4)
            for method, setting in (
                ("none", {}),
                ("euclidean", {"eta": 3.0}),
                ("wasserstein", STUDY["candidates"]["wasserstein"][0]),
                ("wasserstein, exact", {"eta": 0.5, "radius": 2, "mode": "double_backprop"}),
            )
        ],
    }
    for where, final in cases.items():
        found = evidence.planned(STUDY, where)
        assert [tuple(labels.values()) for labels, _ in found] == grid + final
        rows = [
            dict(zip(("method", "setting", "seed"), case, strict=True)) for case in grid + final
        ]
        configs = [config_of(row, epochs=2 if k < len(grid) else 4) for k, row in enumerate(rows)]
        assert [network.config for _, network in found] == configs
    assert (
        len(evidence.planned({**STUDY, "likeliest": {"none": {}}}, root)) == len(GRID) + 8
    )  # chosen, not the likeliest
    likeliest = evidence.planned({**STUDY, "likeliest": {"none": {}}}, tmp_path)
    assert [tuple(labels.values()) for labels, _ in likeliest] == [
        *grid,
        ("none", {}, 3),
        ("none", {}, 4),
    ]
    assert not any(tmp_path.iterdir())

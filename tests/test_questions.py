"""Each question that networks are asked, by hand."""

import base64
import copy
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import small_study
import torch
from oracles import graph_of
from small_study import (
    NETWORK,
    drawn,
    labels_of,
    probabilities_of,
    seeded,
    wrong,
)
from torch import nn
from torch.nn import functional as F

from wdtr_lite import (
    PixelGraph,
    attacks,
    data,
    evaluation,
    metric,
    models,
    training,
    transport,
)
from wdtr_lite.attacks import Attack
from wdtr_lite.study import grid
from wdtr_lite.study.blind_direction import GradientShares
from wdtr_lite.study.certificate import CertifiedRadii, RobustRadii
from wdtr_lite.study.figure2 import Sequences
from wdtr_lite.study.laplace_beltrami import Labels, TermSizes
from wdtr_lite.study.outcomes import bits, unpack
from wdtr_lite.study.photographs import Everywhere
from wdtr_lite.study.questions import ATTACKS, Errors, Flips, fgsm, pgd20
from wdtr_lite.study.robust_digits import NAMES, DigitErrors, SmallDigitErrors
from wdtr_lite.study.spec import Question
from wdtr_lite.study.store import Store
from wdtr_lite.study.stress import AutoAttack, Confidence, Frames, LossSurface, TransferErrors
from wdtr_lite.study.table1 import NETWORKS
from wdtr_lite.study.transport_ball import Agreement
from wdtr_lite.study.units import UNITS, Case, UnitErrors, Units, name_of
from wdtr_lite.study.variation import (
    GradientNorms,
    PathLengths,
    VariationErrors,
    displacements,
)
from wdtr_lite.study.variation import (
    paths as paths_of,
)

digits = small_study.digits
trained_on_digits = small_study.trained_on_digits

SMALL = {**NETWORK, "images": 1000, "epochs": 3, "batch_size": 25, "milestones": ()}


@pytest.fixture(scope="module")
def model():
    return grid.trained(training.Config(**SMALL), Store()).model


@pytest.fixture(scope="module")
def linear(digits):
    """A linear model, trained on 300 images until it knows most of them."""
    x, y = digits.part("train", 300)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(x.float() / 255), y).backward()
        optimizer.step()
    return model.eval()


# ---------------------------------------------------------------- attacked

BY_HAND = {
    "FGSM 8": partial(attacks.fgsm, epsilon=8 / 255),
    "FGSM 25": partial(attacks.fgsm, epsilon=25 / 255),
    "I-FGSM-20 8": partial(attacks.ifgsm, epsilon=8 / 255, alpha=2 / 255, steps=20),
    "fgsm 0.1": partial(attacks.fgsm, epsilon=0.1),
    "pgd 0.1": lambda *case: attacks.pgd(*case, 0.1, alpha=0.0125, steps=20, generator=seeded()),
    "wasserstein 4": lambda *case: attacks.wasserstein_attack(*case, PixelGraph(32, 32, 4), 4.0),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_an_attack_is_what_its_name_says(name, model, digits):
    """Asked twice it finds the same, random start or not."""
    x, y = drawn(digits, 10)
    attacked = ATTACKS[name](model, x, y)
    assert torch.equal(attacked, BY_HAND[name](model, x, y)) and not torch.equal(attacked, x)
    assert torch.equal(attacked, ATTACKS[name](model, x, y))


def test_the_attacks_of_the_studies():
    """Section 5.1 of the paper; ten starts where an attack is not to be foiled by one."""
    hard = {"steps": 50, "restarts": 10}
    assert {name: ATTACKS[name] for name in ("PGD-50 linf", "PGD-50 l2")} == {
        "PGD-50 linf": Attack("pgd", 8 / 255, alpha=2 / 255, **hard),
        "PGD-50 l2": Attack("pgd", 128 / 255, alpha=16 / 255, norm="l2", **hard),
    }
    assert fgsm(25) == ATTACKS["FGSM 25"]
    assert pgd20(8) == Attack("pgd", 8 / 255, alpha=1 / 255, steps=20)
    for name in ("pgd 0.05", "pgd 0.1", "pgd 0.2"):
        size = float(name.split()[1])
        assert ATTACKS[name] == Attack("pgd", size, alpha=size / 8, steps=20)


def test_names_of_questions_differ():
    """They name files; so they never change either."""
    names = [each.name for each in of_the_package()]
    assert sorted(names) == [
        "along_paths", "autoattack", "certified_radii", "confidence", "digit_errors", "errors",
        "everywhere", "flips", "frames", "gradient_norms", "gradient_shares", "labels",
        "loss_surface", "robust_radii", "sequences", "small_digit_errors", "term_sizes",
        "transfer_errors", "transport_agreement", "unit_errors", "variation_errors",
    ]  # fmt: skip


def judged(model, x, y):
    """Counted, and image by image, by hand."""
    found = (labels_of(model, x) != y).tolist()
    eight = ["".join("01"[each] for each in found[k : k + 8]) for k in range(0, len(found), 8)]
    outcomes = base64.b64encode(bytes(int(each.ljust(8, "0"), 2) for each in eight)).decode()
    assert bits(outcomes, len(found)).tolist() == found
    return {"wrong": sum(found), "n": len(found), "outcomes": outcomes}


@pytest.mark.parametrize(
    "part, images, n", [("test", 40, 40), ("test", None, 250), ("validation", None, 50)]
)
def test_errors(part, images, n, model, digits):
    """As they are, and attacked; of so many images drawn at random or of the whole part."""
    x, y = digits.part(part, images)
    x = x / 255
    natural = Errors(part=part, images=images, attack=None)(model, digits)
    assert natural == judged(model, x, y)
    found = Errors(part=part, images=images, attack=fgsm(8))(model, digits)
    assert found == judged(model, attacks.fgsm(model, x, y, 8 / 255), y) and found["n"] == n
    assert 0 < natural["wrong"] < found["wrong"]


def test_transfer_errors(model, digits, tmp_path):
    """Attacked with the other network, evaluated on this one: neither's own error. Trained where
    the root says, once.
    """
    source = training.Config(**SMALL | {"seed": 1, "epochs": 1})
    ifgsm = Attack("ifgsm", 8 / 255, alpha=4 / 255, steps=3)
    question = TransferErrors("test", 60, ifgsm, source, store=Store(tmp_path))
    found = question(model, digits)
    other = training.fit(source, dataset=digits, progress=False).model
    x, y = drawn(digits, 60)
    attacked = attacks.ifgsm(other, x, y, 8 / 255, alpha=4 / 255, steps=3)
    assert found == judged(model, attacked, y)
    own = Errors("test", 60, ifgsm)(model, digits)["wrong"]
    assert found["wrong"] != own and found["wrong"] != wrong(other, attacked, y)
    stored = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/[!.]*")}
    assert len(stored) == 2 and question(model, digits) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/[!.]*")} == stored


def test_transfer_of_the_network_itself_is_its_own_error(model, digits):
    pgd = Attack("pgd", 8 / 255, alpha=4 / 255, steps=1)
    found = TransferErrors("test", 50, pgd, training.Config(**SMALL))(model, digits)
    assert found == Errors("test", 50, pgd)(model, digits)


def test_autoattack(linear, digits):
    """After each of the four in their order; of a linear model all that there are in the end."""
    pytest.importorskip("pyautoattack")
    found = AutoAttack(part="test", images=8, epsilon=3)(linear, digits)
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
    stages = unpack(found["outcomes"], (8,))
    assert [int((stages <= k).sum()) for k in range(5)] == counts and set(stages) <= {
        *range(5),
        255,
    }
    assert ((stages == 0) == (labels_of(linear, x) != y).numpy()).all()
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
    found = AutoAttack(part="test", images=8, epsilon=4, only="square")(linear, digits)
    assert found["n"] == 8 and list(found["wrong"]) == ["natural", "square"]
    assert found["wrong"]["natural"] < found["wrong"]["square"]
    upside_down = nn.Sequential(linear, nn.Linear(10, 10))
    with torch.no_grad():
        upside_down[1].weight.copy_(-torch.eye(10))
        upside_down[1].bias.zero_()
    x, y = drawn(digits, 5)
    natural = wrong(upside_down, x, y)
    found = AutoAttack(part="test", images=5, epsilon=0, only="square")(upside_down, digits)
    assert found["wrong"] == {"natural": natural, "square": natural}
    assert unpack(found["outcomes"], (5,)).tolist() == [0] * 5
    assert natural == 5


# ---------------------------------------------------------------- in units


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("clipped", [True, False])
def test_an_attack_in_units(unit, clipped, model, digits):
    """On images in those units, with a model that takes them; clipped to what pixels can be."""
    size = torch.tensor(UNITS[unit])[:, None, None]
    x, y = drawn(digits, 30)
    z, epsilon, alpha = x / size, 8 / 255, 2 / 255
    at = z.clone()
    for _ in range(20):
        at.requires_grad_(True)
        loss = F.cross_entropy(model(at * size), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, at)
        at = at.detach() + alpha * gradient.sign()
        at = z + (at - z).clamp(-epsilon, epsilon)
        at = torch.minimum(at.clamp_min(0), 1 / size) if clipped else at
    study = Units(
        networks=NETWORKS["quick"], images={"I-FGSM-20": 30}, epsilons={"I-FGSM-20": (2, 8)}
    )
    questions = {case: study.question(case) for case in study.cases()}
    found = questions[Case("I-FGSM-20", unit, clipped, 8)](model, digits)
    assert found == judged(model, at * size, y) and 0 < found["wrong"] <= 30
    assert len({name_of(case) for case in questions}) == len(questions) == 12
    assert Case("I-FGSM-20", unit, False, 2) not in questions, "at the paper's epsilons alone"


def test_attacks_in_pixels_are_those_of_table_1(model, digits):
    for steps, name in ((1, "FGSM 8"), (20, "I-FGSM-20 8")):
        found = UnitErrors("test", 40, (8.0, 8.0, 8.0), steps, True)(model, digits)
        assert found == Errors("test", 40, ATTACKS[name])(model, digits)


# ---------------------------------------------------------------- of one channel or several

SOURCE = training.Config(
    data="mnist5k", model="small_cnn", width=2, images=64, batch_size=32, epochs=1
)
EACH = [
    *(Errors("test", 3, attack) for attack in (None, *ATTACKS.values())),
    Flips("test", 3, "horizontal", "edge", 2),
    Sequences("test", 3, "vertical", "reflect", 2),
    Everywhere("test", 3, "edge", 1),
    DigitErrors("test", 3, NAMES),
    TransferErrors("test", 3, fgsm(8), SOURCE),
    UnitErrors("test", 3, (8.0,), 20, True),
    AutoAttack("test", 2, 32),
    Confidence("test", 3),
    LossSurface("test", 2, 16, 3),
    Frames("test", 2, (0, 8)),
    VariationErrors("test", 3),
    GradientNorms("test", 3, 2),
    GradientShares("test", 3, 2),
    PathLengths("test", 2, 2),
    Labels("test"),
    TermSizes("test", 2, 2, 2),
    RobustRadii("test", 2, 2),
]
OF_DIGITS = [
    SmallDigitErrors("test", 3, ["pgd 0.1"]),
    CertifiedRadii("test", 2, 2),
    Agreement("test", 2, (1.0,)),
]


each = pytest.mark.parametrize("question", EACH, ids=lambda question: question.name)


def of_the_package():
    return {each for each in Question.__subclasses__() if "wdtr_lite" in each.__module__}


def test_each_question_is_there():
    assert {type(question) for question in EACH + OF_DIGITS} == of_the_package()


@pytest.fixture(scope="module")
def grey():
    """Digits (N, H, W), and the very same as (N, 1, H, W)."""
    whole = data.load("mnist5k")
    few = {part: index[::25] for part, index in whole.split.items()}
    grey = replace(whole, split=few)
    return grey, replace(grey, images=grey.images[:, None])


@pytest.fixture(scope="module")
def small_cnn(grey):
    torch.manual_seed(0)
    model = models.small_cnn(width=4, mean=(0.5,), std=(0.5,))
    x, y = grey[1].part("train")
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(x / 255), y).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("question", EACH + OF_DIGITS, ids=lambda question: question.name)
def test_grey_images_are_images_of_one_channel(question, grey, small_cnn, monkeypatch):
    without, with_one = grey
    monkeypatch.setattr(grid, "dataset_of", lambda name, split=None: with_one)
    found = question(small_cnn, without)
    assert found == question(small_cnn, with_one)
    assert json.loads(json.dumps(found)) == found


def test_a_network_that_classifies_nothing_rightly_has_no_radii(grey):
    wrong = models.small_cnn(width=4, mean=(0.5,), std=(0.5,))
    torch.nn.init.zeros_(wrong.linear2.weight)
    least = grey[0].part("test", 30)[1].bincount(minlength=10) == 0
    wrong.linear2.bias.data = least * 9.0
    for question in (q for q in OF_DIGITS if "radii" in q.name):
        with pytest.raises(ValueError, match="model must classify an image rightly"):
            question(wrong.eval(), grey[0])


@each
def test_images_in_colour(question, model, digits, monkeypatch):
    source = replace(SOURCE, data="mnist5k_color")
    if isinstance(question, TransferErrors):
        question = replace(question, source=source)
    found = question(model, digits)
    assert json.loads(json.dumps(found)) == found


# ---------------------------------------------------------------- moved and varied


@pytest.mark.parametrize("padding", ["zeros", "edge", "reflect"])
@pytest.mark.parametrize("axis", ["horizontal", "vertical"])
def test_flips_are_those_of_every_span(axis, padding, model, digits):
    """-S, ..., S for each S up to the reach, both counts of label_flips."""
    found = Flips(part="test", images=30, axis=axis, padding=padding, reach=3)(model, digits)
    x, _ = drawn(digits, 30)
    counts = [evaluation.label_flips(model, x, axis, range(-s, s + 1), padding) for s in (1, 2, 3)]
    labels = unpack(found.pop("labels"), (7, 30))
    moved = evaluation.translation_sequence(x, axis, range(-3, 4), padding)
    assert all(
        row.tolist() == labels_of(model, each).tolist()
        for row, each in zip(labels, moved, strict=True)
    )
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
    found = Sequences(part="test", images=6, axis="vertical", padding="edge", reach=2)(
        model, digits
    )
    x, _ = drawn(digits, 6)
    moved = evaluation.translation_sequence(x, "vertical", [-2, -1, 0, 1, 2], "edge")
    for k in range(6):
        confidences, labels = probabilities_of(model, moved[:, k]).max(1)
        assert found["labels"][k] == labels.tolist()
        assert found["confidences"][k] == pytest.approx(confidences.tolist(), abs=6e-5)
    assert (
        len(found["labels"]) == len(found["confidences"]) == 6
        and len({label for row in found["labels"] for label in row}) > 1
    )


def test_everywhere(model, digits):
    found = Everywhere("test", 4, "reflect", 2)(model, digits)
    x, _ = drawn(digits, 4)
    at = range(-2, 3)
    for k, image in enumerate(x):
        rows = evaluation.translation_sequence(image, "vertical", at, "reflect")
        each = [evaluation.translation_sequence(r, "horizontal", at, "reflect") for r in rows]
        assert found[k] == labels_of(model, torch.cat(each)).tolist()
    assert len(found) == 4 and len({label for row in found for label in row}) > 1


def test_variation_errors(model, digits):
    found = VariationErrors(part="test", images=40)(model, digits)
    x, y = drawn(digits, 40)
    varied = evaluation.variations(x, 0, shift=4, degrees=15, margin=8)
    expected = {
        "natural": wrong(model, x, y),
        **{name: wrong(model, each, y) for name, each in varied.items()},
    }
    outcomes = found.pop("outcomes")
    assert {name: int(bits(each, 40).sum()) for name, each in outcomes.items()} == expected
    assert found == {"n": 40, "wrong": expected}
    assert (
        list(expected) == ["natural", "translation", "rotation", "elastic", "blur"]
        and len({*expected.values()}) > 1
    )
    seen = []
    with model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])):
        VariationErrors(part="test", images=40)(model, digits)
    assert all(torch.equal(*pair) for pair in zip(seen, [x, *varied.values()], strict=True))


# ---------------------------------------------------------------- gradients and surfaces


def test_gradient_norms(model, digits):
    """Of three images by back-propagation and dense matrices in float64; the trace is the mean over
    all three.
    """
    found = GradientNorms(part="test", images=3, radius=2)(model, digits)
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
    """A row for each step along the gradient's signs, a column for each along random signs; the
    loss in the middle.
    """
    found = LossSurface(part="test", images=2, reach=16, points=5)(model, digits)
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
    """There, too, the direction is that of the gradient's signs: of a linear margin the surface is
    straight along it.
    """
    black = replace(digits, images=digits.images // 128 * 255)
    found = np.array(
        LossSurface(part="test", images=1, reach=1, points=3)(linear, black)["loss"][0]
    )
    x, y = drawn(black, 1)
    leaf = x.clone().requires_grad_()
    signs = torch.autograd.grad(F.cross_entropy(linear(leaf), y), leaf)[0].sign()
    expected = [float(F.cross_entropy(linear(x + a / 255 * signs), y).detach()) for a in (-1, 0, 1)]
    assert found[:, 1].tolist() == pytest.approx(expected, abs=2e-4)


def test_frames(model, digits):
    """Epsilon 0 is the image; the others PGD-20's, rounded to bytes, the probabilities of the
    images before rounding.
    """
    found = Frames(part="test", images=2, epsilons=[0, 4, 16])(model, digits)
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
                probabilities_of(model, attacked)[k].tolist(), abs=6e-5
            )
            assert sum(frame["probabilities"]) == pytest.approx(1, abs=5e-4)
        assert torch.equal(
            torch.tensor(list(bytes.fromhex(row[0]["pixels"]))).reshape(3, 32, 32) / 255, x[k]
        )
        losses = [-np.log(max(frame["probabilities"][y[k]], 1e-4)) for frame in row]
        assert losses[0] < losses[1] and losses[0] < losses[2]


# ---------------------------------------------------------------- paths

WAYS = ("within wasserstein", "within euclidean", "between wasserstein", "between euclidean")


@pytest.fixture(scope="module")
def paths(digits):
    return paths_of(digits, "test", 3, 5)


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
    """Two test images, the first ones the same for all; the ends are the images, and both paths
    have the same ends.
    """
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
    assert starts[0] == starts[1] and len({*starts[0]}) == 3
    assert len({int(digits.labels[i]) for i in starts[0]}) > 1


def test_the_masses_change_linearly(digits, paths):
    """Of each channel, at equal times, along both paths; where a pixel was clipped at 1 a little is
    missing.
    """
    times = torch.linspace(0, 1, 6)[:, None]
    for name in WAYS:
        assert (
            paths[name].shape == (3, 6, 3, 32, 32)
            and paths[name].min() >= 0
            and paths[name].max() <= 1
        )
        for path in paths[name]:
            mass = path.sum((2, 3))
            expected = mass[0] + times * (mass[-1] - mass[0])
            assert (mass < expected * 1.0001).all() and (mass > 0.99 * expected).all()
    i, j = ends(digits, paths["between wasserstein"][0])
    start, end = digits.images[[i, j]].double().numpy() / 255
    unclipped = displacements(start, end, np.linspace(0, 1, 6))
    mass = unclipped.sum((2, 3))
    np.testing.assert_allclose(mass, mass[0] + times.numpy() * (mass[-1] - mass[0]), rtol=1e-6)
    np.testing.assert_allclose(unclipped.clip(0, 1), paths["between wasserstein"][0], atol=1e-6)


def test_the_paths_are_displacements_and_lines(digits, paths):
    """In the middle: transport's interpolation with a plan of its own, times the mean mass; the
    mean of the images.
    """
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
    found = PathLengths(part="test", pairs=3, steps=5)(linear, digits)
    weight, bias = (parameter.detach().double().numpy() for parameter in linear[1].parameters())
    assert set(found) == set(WAYS)
    for name in WAYS:
        for length, path in zip(found[name], paths[name].double().numpy(), strict=True):
            logits = path.reshape(6, -1) @ weight.T + bias
            odds = np.exp(logits - logits.max(1, keepdims=True))
            p = odds / odds.sum(1, keepdims=True)
            expected = sum(0.5 * np.abs(p[k + 1] - p[k]).sum() for k in range(5))
            assert length == pytest.approx(expected, abs=1e-4)
            assert length >= 0.5 * np.abs(p[-1] - p[0]).sum() - 1e-4
    assert min(found["between euclidean"]) > 0.01


def test_along_paths_of_a_constant_model(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    nn.init.zeros_(model[1].weight)
    assert PathLengths(part="test", pairs=3, steps=5)(model, digits) == dict.fromkeys(
        WAYS, [0.0] * 3
    )


def test_along_paths_counts_ways_there_and_back(digits):
    """A step function of the brightness, which changes linearly: the prediction turns over once, on
    either path, or never.
    """

    class Brighter(nn.Module):
        def __init__(self, than):
            super().__init__()
            self.than = nn.Parameter(torch.tensor(than))

        def forward(self, x):
            return 1e6 * torch.stack([x.mean((1, 2, 3)), self.than.expand(len(x))], 1)

    paths = paths_of(digits, "test", 3, 5)
    bright = paths["between euclidean"][:, [0, -1]].mean((2, 3, 4)).sort(1).values
    for k in range(3):
        found = PathLengths(part="test", pairs=3, steps=5)(
            Brighter(float(bright[k].mean())), digits
        )
        for way in ("between euclidean", "between wasserstein"):
            assert found[way][k] == 1.0 and set(found[way]) <= {0.0, 1.0}

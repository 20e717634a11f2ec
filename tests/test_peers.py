"""The methods that the paper cites: DeepFool regularisation, EnResNet, sampled cross-Lipschitz
regularisation, the norms of Finlay and Oberman; and the experiment that compares them.
"""

from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from small_study import digits, trained_on_digits  # noqa: F401  fixtures
from torch import nn
from torch.nn import functional as F

from wdtr_lite import attacks, data, evaluation, models, study, training
from wdtr_lite.attacks import Attack
from wdtr_lite.book import peers
from wdtr_lite.models.enresnet import Ensemble, Noisy
from wdtr_lite.regularizer import GradientPenalty, input_norm
from wdtr_lite.study.peers import NoiseOff, OnAverage
from wdtr_lite.study.questions import Errors
from wdtr_lite.training import METHODS, Config
from wdtr_lite.training.objectives import penalties
from wdtr_lite.training.objectives.deepfool import boundary_distance
from wdtr_lite.training.run import Training

SHAPE = (3, 3, 4)  # of an image
SMALL = {"data": "mnist5k_color", "width": 2, "images": 64, "batch_size": 16, "learning_rate": 0.05}


@pytest.fixture
def images():
    return torch.rand(8, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def classifier(*, linear=False):
    """Of five classes, in float64."""
    torch.manual_seed(0)
    layers = [nn.Linear(36, 5)] if linear else [nn.Linear(36, 7), nn.Softplus(), nn.Linear(7, 5)]
    return nn.Sequential(nn.Flatten(), *layers).double()


def distances(model, x, y):
    image = x.clone().requires_grad_()
    return boundary_distance(model(image), image, y)


def objective(name, **options):
    """A method, called as in training, with its draws from one seed."""
    config = Config(method=name, **options)
    method = METHODS[name](config, SHAPE[1:], torch.device("cpu"))
    return lambda model, x, y: method.terms(model, x, y, torch.Generator().manual_seed(2), 0.0)


def generator(seed):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- DeepFool


def gradients(model, x, y):
    """DeepFool's penalty, and its sum's gradients in the weights."""
    penalty = objective("deepfool", eta=1.0)(model, x, y).penalty
    return Differentiated(penalty, torch.autograd.grad(penalty.sum(), list(model.parameters())))


class Differentiated(NamedTuple):
    penalty: torch.Tensor
    slopes: tuple[torch.Tensor, ...]


def test_the_distance_of_a_linear_classifier_is_exact(images):
    """No shorter change makes another class as likely; along the gradient one so long does."""
    model = classifier(linear=True)
    y = model(images).argmax(1)
    found = distances(model, images, y).detach()
    weight = model[1].weight.detach()
    random = torch.Generator().manual_seed(3)
    for x, label, length in zip(images, y, found, strict=True):
        directions = torch.randn(2000, 36, dtype=torch.float64, generator=random)
        directions = torch.cat([weight - weight[label], directions])  # to each class, and anywhere
        moves = length * F.normalize(directions[directions.norm(dim=1) > 0], dim=1)
        assert (model(x + 0.999 * moves.view(-1, *SHAPE)).argmax(1) == label).all()
        assert (model(x + 1.001 * moves[:4].view(-1, *SHAPE)).argmax(1) != label).any()


def test_a_wrong_label_is_as_far_as_its_boundary_with_the_prediction(images):
    model = classifier(linear=True)
    z, weight, bias = model(images), model[1].weight, model[1].bias
    predicted = z.argmax(1)
    y = (predicted + 2) % 5
    normal = weight[predicted] - weight[y]
    offset = (images.flatten(1) * normal).sum(1) + bias[predicted] - bias[y]
    found = distances(model, images, y)
    torch.testing.assert_close(found, offset / normal.norm(dim=1))
    directions = torch.randn(2000, 36, dtype=torch.float64, generator=generator(3))
    for x, label, length, own in zip(images, y, found.detach(), normal.detach(), strict=True):
        moves = length * F.normalize(torch.cat([-own[None], directions]), dim=1)
        assert (model(x + 0.999 * moves.view(-1, *SHAPE)).argmax(1) != label).all()


def test_a_third_class_may_lie_before_ones_own():
    """Of the logits -t, 1 and t the first wins below -1 only, but is level with the last at 0."""
    x, y = torch.full((1, 1, 1, 1), 3.0), torch.tensor([0])

    def model(x):
        t = x.flatten()
        return torch.stack([-t, torch.ones_like(t), t], 1)

    assert float(distances(model, x, y).detach()) == 3
    assert model(x - 3.9).argmax() == 1 and model(x - 4.1).argmax() == 0


@pytest.mark.parametrize("dark", [0.0, 1e-4])
@pytest.mark.parametrize("right", [True, False])
def test_an_image_without_a_relative_distance_has_no_penalty(images, dark, right):
    """Nor a part in the derivative."""
    model, images = classifier(linear=True), images.clone()
    images[0] *= dark
    y = model(images).argmax(1)
    y = y if right else (y + 1) % 5
    found = gradients(model, images, y)
    assert found.penalty[0] == 0 and (found.penalty[1:] > 0).all()
    for one, rest in zip(found.slopes, gradients(model, images[1:], y[1:]).slopes, strict=True):
        torch.testing.assert_close(one, rest)


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("scale", [0.0, 1e-30])
def test_logits_of_one_gradient_are_infinitely_far(images, right, scale):
    model = classifier(linear=True).float()
    with torch.no_grad():
        model[1].weight *= scale
    images = images.float()
    y = model(images).argmax(1)
    y = y if right else (y + 1) % 5
    assert (distances(model, images, y) == torch.inf).all()
    found = gradients(model, images, y)
    assert not found.penalty.any()
    assert not any(slope.any() for slope in found.slopes)


def test_a_black_image_does_not_stop_training():
    pictures = torch.randint(1, 256, (16, 8, 8), dtype=torch.uint8, generator=generator(0))
    pictures[0] = 0
    labels, part = torch.arange(16), {"train": torch.arange(16)}
    config = Config(
        data="d", method="deepfool", eta=0.1, model="small_cnn", epochs=1, milestones=(),
        batch_size=16,
    )  # fmt: skip

    def trained(labels):
        dataset = data.Dataset("d", pictures, labels, "me", part)
        return training.fit(config, dataset=dataset, progress=False)

    assert 0 < trained(labels % 4).history[0]["penalty"] < 1
    with pytest.raises(ValueError, match=r"at least two classes, got \(16, 1\)"):
        trained(labels * 0)


def test_the_penalty_is_that_of_its_authors(images):
    """From the distances by a loop over classes and images."""
    model, y = classifier(), torch.arange(8) % 5
    y[:4] = model(images).argmax(1)[:4]
    expected = []
    for x, label in zip(images, y.tolist(), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda one: model(one[None])[0], x)
        z, rows = model(x[None])[0], jacobian.flatten(1)
        predicted = int(z.argmax())
        right = predicted == label
        others = [k for k in range(5) if k != label] if right else [predicted]
        distance = min(abs(z[label] - z[k]) / (rows[label] - rows[k]).norm() for k in others)
        expected.append(0.25 * torch.exp((-25 if right else 5) * distance / x.norm()))
    outputs, loss, penalty = objective("deepfool", eta=0.5)(model, images, y)
    torch.testing.assert_close(penalty, torch.stack(expected))
    torch.testing.assert_close(loss, F.cross_entropy(model(images), y, reduction="none"))
    torch.testing.assert_close(outputs, model(images))


def test_the_penalty_is_differentiated_in_the_parameters(images):
    """Against central differences in random directions."""
    model, y = classifier(), torch.arange(8) % 5
    y[:4] = model(images).argmax(1)[:4]
    value = objective("deepfool", eta=1.0)
    parameters = list(model.parameters())
    found = torch.autograd.grad(value(model, images, y).penalty.sum(), parameters)
    random, before = torch.Generator().manual_seed(4), deepcopy(model.state_dict())
    for _ in range(5):
        along = [torch.randn(p.shape, dtype=p.dtype, generator=random) for p in parameters]
        sides = []
        for h in (1e-6, -1e-6):
            model.load_state_dict(before)
            with torch.no_grad():
                for parameter, direction in zip(parameters, along, strict=True):
                    parameter += h * direction
            sides.append(float(value(model, images, y).penalty.sum().detach()))
        slope = sum(float((g * d).sum()) for g, d in zip(found, along, strict=True))
        assert slope == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-5)


def test_fine_tuning_moves_boundaries_away():
    """From the images on their side, as its authors train: networks that can classify already."""
    shared = {
        "data": "mnist5k", "images": 512, "model": "small_cnn", "width": 2, "batch_size": 32,
        "milestones": (),
    }  # fmt: skip
    first = training.fit(Config(epochs=8, learning_rate=0.02, **shared), progress=False).model
    x, y = data.load("mnist5k").part("train", 256)
    x, found = x[:, None].float() / 255, {}
    for name, options in {"none": {}, "deepfool": {"eta": 1.0}}.items():
        config = Config(method=name, epochs=2, learning_rate=0.005, **shared, **options)
        model = training.fit(config, model=deepcopy(first), progress=False).model
        right = model(x).argmax(1) == y
        assert right.float().mean() > 0.98
        found[name] = distances(model, x, y)[right].median()
    assert found["deepfool"] > 1.08 * found["none"]


# ---------------------------------------------------------------- EnResNet


def ensemble(seed=0):
    torch.manual_seed(seed)
    return models.enresnet8(width=2)


def noise_off(model):
    quiet = deepcopy(model)
    for layer in quiet.modules():
        if isinstance(layer, Noisy):
            layer.level = 0.0
    return quiet


@pytest.mark.parametrize(("name", "single"), [("enresnet8", "resnet8"), ("enresnet20", "resnet20")])
def test_without_noise_it_is_the_mean_of_two_resnets(name, single):
    torch.manual_seed(0)
    model = noise_off(models.build(name, classes=7, channels=3, mean=0.5, std=0.5, width=2)).eval()
    x, logits = torch.rand(4, 3, 16, 16), []
    for member in model.members:
        weights = {
            key.replace(".block.", "."): value
            for key, value in member.state_dict().items()
            if not key.endswith("draws")
        }
        twin = models.build(single, classes=7, channels=3, mean=0.5, std=0.5, width=2).eval()
        twin.load_state_dict(weights)
        logits.append(twin(x))
    assert not torch.allclose(*logits)
    torch.testing.assert_close(model(x), (logits[0] + logits[1]) / 2)


def test_noise_is_a_tenth_of_what_it_is_added_to():
    """Image by image, in evaluation mode too; white."""
    layer = Noisy(nn.Identity()).eval()
    x = torch.rand(3, 8, 40, 40) * torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1, 1)
    noise = (layer(x) - x).flatten(1)
    torch.testing.assert_close(noise.std(1), 0.1 * x.flatten(1).std(1), rtol=0.02, atol=0)
    assert (noise.mean(1).abs() < 4 * noise.std(1) / noise.shape[1] ** 0.5).all()
    assert abs(torch.corrcoef(noise)[0, 1]) < 0.04


def test_each_pass_draws_other_noise_and_a_copy_the_same():
    """Blocks, members and networks of other seeds have noise of their own."""
    model, x = ensemble().eval(), torch.rand(2, 3, 8, 8)
    copy = deepcopy(model)
    first, second = model(x), model(x)
    assert not torch.equal(first, second)
    assert torch.equal(copy(x), first) and torch.equal(copy(x), second)
    blocks = [layer for layer in model.modules() if isinstance(layer, Noisy)]
    blocks += [layer for layer in ensemble(1).modules() if isinstance(layer, Noisy)]
    assert len({int(layer.draws) for layer in blocks}) == len(blocks) == 12


def test_torch_func_takes_its_gradients():
    """Of the pass that is made, which moves the draws as any other."""
    model, x = ensemble().eval(), torch.rand(2, 3, 8, 8)
    twin, image = deepcopy(model), x.clone().requires_grad_()
    for _ in range(2):
        expected = torch.autograd.grad(twin(image).sum(), image)[0]
        torch.testing.assert_close(torch.func.grad(lambda v: model(v).sum())(x), expected)
    for name, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name


@pytest.mark.parametrize(
    ("method", "options"), [("none", {}), ("pgd", {"epsilon": 0.03, "steps": 2})]
)
def test_it_goes_on_from_a_checkpoint_as_if_never_stopped(tmp_path, method, options):
    config = Config(model="enresnet8", method=method, epochs=2, milestones=(1,), **SMALL, **options)
    whole = training.fit(config, progress=False, device="cpu").model.state_dict()
    stopped = Training(config, folder=tmp_path, checkpoint_every=1)
    steps = stopped.steps()
    for _ in range(6):  # four are an epoch
        next(steps)
    steps.close()
    stopped.close()
    torch.rand(3)  # whoever draws from torch's generator meanwhile
    assert stopped.epoch == 1
    model = training.fit(config, folder=tmp_path, progress=False, device="cpu").model
    for name, value in model.state_dict().items():
        assert torch.equal(value, whole[name]), name


def test_attacks_follow_the_gradient_of_the_pass_they_make():
    """Against differences of the margin with the noise that was drawn."""
    model = ensemble().double().eval()
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    y, before = torch.tensor([1, 2]), deepcopy(model.state_dict())
    gradient = attacks.input_gradient(model, x, y)

    def margin(image):
        model.load_state_dict(before)
        z = model(image)
        others = z.scatter(1, y[:, None], -torch.inf)
        return (others.logsumexp(1) - z.gather(1, y[:, None])[:, 0]).detach()

    for k in range(5):
        along = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(k))
        slope = (margin(x + 1e-6 * along) - margin(x - 1e-6 * along)) / 2e-6
        torch.testing.assert_close((gradient * along).sum((1, 2, 3)), slope, rtol=1e-5, atol=1e-8)


def test_both_modes_of_a_penalty_see_the_same_noise():
    """A finite difference between passes of other noise would be off by orders of magnitude."""
    x, y, gradients = torch.rand(8, 3, 8, 8), torch.arange(8), []
    for mode in ("double_backprop", "finite_difference"):
        model = ensemble().train()
        penalty = GradientPenalty("euclidean", mode=mode).terms(model, x, y).penalty
        parts = torch.autograd.grad(penalty.mean(), list(model.parameters()), allow_unused=True)
        gradients.append(torch.cat([p.flatten() for p in parts if p is not None]))
    exact, difference = gradients
    assert (difference - exact).norm() < 0.05 * exact.norm()


# ---------------------------------------------------------------- norms, cross-Lipschitz


def test_norms_are_the_squared_derivatives_along_the_directions_of_tulip(images):
    """Finlay and Oberman's code steps along v and squares the change: the sign of the gradient,
    there divided by the root of the number of intensities, is L1; its unit vector L2; its largest
    entry alone L-infinity. And no direction in the ball of the dual norm gains more.
    """
    g = torch.randn(images.shape, dtype=images.dtype, generator=torch.Generator().manual_seed(5))
    flat, x = g.flatten(1), images
    largest = F.one_hot(flat.abs().argmax(1), flat.shape[1])
    found = {
        "l1": (flat.sign(), torch.inf),
        "euclidean": (F.normalize(flat, dim=1), 2),
        "linf": (flat.sign() * largest, 1),
    }
    anywhere = torch.randn(500, 1, flat.shape[1], dtype=torch.float64)
    for name, (v, dual) in found.items():
        norm_sq = input_norm(name).norm_sq(x, g)
        torch.testing.assert_close(norm_sq, (flat * v).sum(1) ** 2)
        assert torch.allclose(torch.linalg.vector_norm(v, dual, 1), v.new_ones(()))
        ball = anywhere / torch.linalg.vector_norm(anywhere, dual, 2, keepdim=True)
        assert ((ball * flat).sum(2) ** 2 <= norm_sq + 1e-9).all()
    tulip = (flat * flat.sign() / flat.shape[1] ** 0.5).sum(1) ** 2
    torch.testing.assert_close(input_norm("l1").norm_sq(x, g) / flat.shape[1], tulip)


def test_the_sampled_cross_lipschitz_penalty_has_the_exact_one_as_its_mean(images, monkeypatch):
    """Over the directions of a basis, which stand for all."""
    model, y = classifier(), torch.arange(8) % 5
    exact = GradientPenalty("euclidean", of="logit_differences")(model, images, y)
    sampled = objective("sampled_cross_lipschitz", eta=0.5)
    found = []
    for k in range(5):
        row = torch.eye(5, dtype=torch.float64)[k].expand(8, 5)
        monkeypatch.setattr(penalties, "normal", lambda *_, row=row: row)
        _, loss, penalty = sampled(model, images, y)
        found.append(penalty)
        torch.testing.assert_close(loss, F.cross_entropy(model(images), y, reduction="none"))
    torch.testing.assert_close(torch.stack(found).mean(0), 0.25 * exact)


# ---------------------------------------------------------------- the experiment


def test_every_method_has_as_many_settings_to_choose_from():
    """But for plain training, which has none."""
    candidates = study.declared("peers", "cpu").networks.candidates
    few = {name for name, settings in candidates.items() if len(settings) != 3}
    assert few == {"none", "none, EnResNet"}
    cited = {"gaussian_noise", "jacobian", "l1", "linf", "deepfool", "fgsm", "pgd", "trades"}
    assert cited < set(candidates)


def test_noise_is_taken_from_the_networks_that_are_judged_without(digits):  # noqa: F811
    model = ensemble().eval()
    attack = Attack("fgsm", 0.02)
    told = NoiseOff("test", 40, attack)(deepcopy(model), digits)
    assert told == Errors("test", 40, attack)(noise_off(model), digits)
    x, y = digits.part("test", 40)
    twin = deepcopy(model)
    mean = Ensemble(3 * [twin])
    wrong = evaluation.misclassified(mean, x.float() / 255, y, attack)
    assert OnAverage("test", 40, attack, passes=3)(deepcopy(model), digits)["wrong"] == wrong.sum()
    assert int(twin.members[0].stages[0].draws) == int(model.members[0].stages[0].draws) + 6


# ---------------------------------------------------------------- its result, and the book's


@pytest.fixture(scope="module")
def result():
    return study.stored("peers", "cpu")["result"]


def rate(row, condition):
    return 100 * row["wrong"][condition] / row["n"][condition]


def of(rows, method, condition):
    return [rate(row, condition) for row in rows if row["method"] == method]


def cells(table):
    lines = table.data.splitlines()[2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_settings_are_chosen_by_the_rule_of_table_1(result):
    """The lowest mean of natural error and error under I-FGSM-20 on validation images."""
    best = {}
    for row in result["search"]:
        both = rate(row, "natural") + rate(row, "I-FGSM-20 8")
        best.setdefault(row["method"], []).append((both, row["setting"]))
    assert result["chosen"] == {name: min(found, key=lambda each: each[0])[1]
                                for name, found in best.items()}  # fmt: skip
    assert set(best) == set(peers.NAMES)
    assert {(row["method"], row["seed"]) for row in result["rows"]} == {
        (name, seed) for name in peers.NAMES for seed in range(3)
    }


def test_dots_and_tables_are_of_the_counts(result):
    peers.draw()
    order = [text.get_text() for text in plt.gcf().axes[0].get_yticklabels()][::-1]
    names = {text: method for method, text in peers.NAMES.items()}
    for axes, condition in zip(plt.gcf().axes, ("natural", "I-FGSM-20 8"), strict=True):
        for name, line in zip(reversed(order), axes.lines, strict=True):
            assert list(line.get_xdata()) == of(result["rows"], names[name], condition)
    means = [
        np.mean(of(result["rows"], names[name], "natural"))
        + np.mean(of(result["rows"], names[name], "I-FGSM-20 8"))
        for name in order
    ]
    assert means == sorted(means)
    for line in cells(peers.peer_table()):
        for condition, told in zip(("natural", "I-FGSM-20 8"), line[2::3], strict=True):
            found = of(result["rows"], names[line[0]], condition)
            assert told == f"{np.mean(found):.1f} ± {np.std(found, ddof=1):.1f}"
    plt.close("all")


def test_no_system_that_the_paper_names_is_without_a_number(result):
    """Or without a class here, or a source in the bibliography."""
    sources = (Path(__file__).parents[1] / "book/references.bib").read_text()
    lines = cells(peers.systems_table())
    for system, source, ours, natural, attacked, _ in lines:
        assert system and f"{{{source.split('`')[1]}," in sources
        name = ours.strip("`").split(",")[0]
        assert name in METHODS or name in models.MODELS
        assert float(natural.split(" ± ")[0]) < 90 and float(attacked.split(" ± ")[0]) <= 100
    assert {line[2].strip("`").split(",")[0] for line in lines} >= {
        "deepfool", "enresnet8", "trades", "pgd", "fgsm", "gaussian_noise", "jacobian", "l1",
        "linf", "sampled_cross_lipschitz", "wasserstein",
    }  # fmt: skip


def test_ensembles_are_also_judged_without_noise_and_on_average(result):
    lines = cells(peers.noise_table())
    assert len(lines) == 6
    for k, method in enumerate(("none, EnResNet", "pgd, EnResNet")):
        rows = [row for row in result["rows"] if row["method"] == method]
        for part, line in zip(("noise_off", "on_average"), lines[3 * k + 1 :], strict=False):
            found = [
                100 * row[part]["natural"]["wrong"] / row[part]["natural"]["n"] for row in rows
            ]
            assert line[1] == f"{np.mean(found):.1f} ± {np.std(found, ddof=1):.1f}"
            assert {row[part]["I-FGSM-20 8"]["n"] for row in rows} == {
                500 if part == "noise_off" else 200
            }

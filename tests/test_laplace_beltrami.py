"""Theorem 1 as a penalty, and what the section on it says."""

from itertools import pairwise
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from oracles import generator, graph_of, real
from test_digits import blobs  # noqa: F401  a fixture
from torch import nn
from torch.nn import functional as F

from wdtr_lite import calculus, data, evaluation, metric, models, noise, study
from wdtr_lite.book import laplace_beltrami as report
from wdtr_lite.book import reports
from wdtr_lite.kernels import LibraryKernels
from wdtr_lite.regularizer import second_order_expansion
from wdtr_lite.study import EXPERIMENTS, grid
from wdtr_lite.study.laplace_beltrami import ETAS, Expansions, TermSizes
from wdtr_lite.study.outcomes import unpack
from wdtr_lite.study.robust_digits import SmallDigitErrors
from wdtr_lite.study.spec import Networks
from wdtr_lite.study.store import Store
from wdtr_lite.training import METHODS, Config
from wdtr_lite.training.objectives import expansion

SIZE = (4, 5)
NAMES = ["gauss_newton", "second_order", "laplace_beltrami"]


def cross_entropy(outputs, y):
    return F.cross_entropy(outputs, y, reduction="none")


@pytest.fixture
def net():
    """Two layers of softplus units, with curvature that the penalties see."""
    torch.manual_seed(0)
    layers = nn.Linear(20, 12), nn.Softplus(), nn.Linear(12, 4)
    net = nn.Sequential(nn.Flatten(), *layers).double()
    with torch.no_grad():
        for weights in net.parameters():
            weights *= 3
    return net


def images(n, seed=0):
    """Random images, a third of the pixels black, each value one of float32."""
    x = torch.rand(n, 1, *SIZE, generator=generator(seed))
    return (x * (torch.rand(x.shape, generator=generator(seed + 1)) > 1 / 3)).double()


def labels(n):
    return torch.arange(n) % 4


def objective(name, eta=0.1, scale: str | None = "trace"):
    """In float64."""
    config = Config(method=name, eta=eta, radius=2, scale=scale)
    found: Any = METHODS[name](config, SIZE, torch.device("cpu"))
    found.graph = graph_of(*SIZE, 2)
    return found


def noisy(x, eta, scale: str | None = "trace", seed=0):
    """The noise that training adds, in float64."""
    config = Config(method="wasserstein_noise", eta=eta, radius=2, scale=scale)
    found: Any = METHODS["wasserstein_noise"](config, SIZE, x.device)
    found.graph = graph_of(*SIZE, 2)
    return found.images(nn.Identity(), x, labels(len(x)), generator(seed), 0.0) - x


def penalty(found, model, x, y, seed=0):
    return found.terms(model, x, y, generator(seed), 0.0).penalty


def exact(name, net, x, y):
    """What an Expansion estimates, without its weight: the package's own terms, by dense traces."""
    graph = graph_of(*SIZE, 2)
    if name != "laplace_beltrami":
        terms = second_order_expansion(cross_entropy, net, graph, x, y)
        return terms.gradient + (terms.laplacian if name == "second_order" else 0)
    point = x.clamp_min(1 / 255)
    terms = second_order_expansion(
        cross_entropy, lambda z: net(z + (x - point)), graph, point, y, volume=True
    )
    return terms.gradient + terms.laplacian


def expanded(name, graph, eta):
    """The objective written out, from dense matrices and the Jacobian row by row."""

    def written(model, x, y, generator, epsilon):
        point = x.clamp_min(1 / 255) if name == "laplace_beltrami" else x
        dense = metric.laplacian(graph, point)
        v, z = noise.sample(graph, point, 1.0, generator=generator)[0], x.clone().requires_grad_()
        with LibraryKernels():  # torch's batch normalisation has wrong third derivatives
            outputs = model(z)
            loss = cross_entropy(outputs, y)
            if name == "gauss_newton":
                along = torch.stack([(v * slope(output, z)).sum() for output in outputs.flatten()])
                p, along = outputs.softmax(1), along.view_as(outputs)
                value = (p * along**2).sum(1) - (p * along).sum(1) ** 2
            else:
                g = slope(loss, z)
                value = (v * slope(g * v, z)).sum((1, 2, 3))
        if name == "laplace_beltrami":
            wide = graph.converted(dtype=torch.float64)
            up = calculus.log_volume_gradient(wide, point.double()).flatten(2)[..., None]
            b = calculus.laplacian_divergence(wide).flatten() + (dense.double() @ up)[..., 0]
            value = value + (g.flatten(2) * b).sum((1, 2)).to(g.dtype)
        unit = dense.diagonal(dim1=-2, dim2=-1).mean()
        return outputs, loss, eta**2 / 2 * value / unit

    return written


def slope(values, z):
    return torch.autograd.grad(values.sum(), z, create_graph=True)[0]


# ---------------------------------------------------------------- the penalties


@pytest.mark.parametrize("scale", [None, "trace"])
@pytest.mark.parametrize("name", NAMES)
def test_penalties_are_unbiased(name, scale, net):
    """The mean over 20,000 probes of one image within four standard errors of the dense value."""
    x, y = images(1), labels(1)
    many = x.expand(20_000, -1, -1, -1), y.expand(20_000)
    found = penalty(objective(name, 0.1, scale), net, *many).detach()
    point = x.clamp_min(1 / 255) if name == "laplace_beltrami" else x
    unit = float(metric.mean_diagonal(graph_of(*SIZE, 2), point)) if scale else 1.0
    expected = 0.1**2 / 2 * float(exact(name, net, x, y)) / unit
    error = float(found.std()) / len(found) ** 0.5
    assert error < 0.1 * abs(expected)
    assert abs(float(found.mean()) - expected) < 4 * error


def test_the_three_differ(net):
    values = [float(exact(name, net, images(1), labels(1))) for name in NAMES]
    assert min(abs(a - b) for a in values for b in values if a is not b) > 0.1 * abs(values[0])


@pytest.mark.parametrize("scale", [None, "trace"])
def test_half_the_second_difference_is_antithetic_noise(scale, net):
    """With the same draw: the mean loss at x + xi and x - xi, less that at x, is the penalty but
    for a remainder of the fourth order. With the weight eta squared it would be half of it.
    """
    x, y = images(6), labels(6)
    rests, etas = [], (0.04, 0.02, 0.01)
    if scale is None:
        etas = tuple(eta / 20 for eta in etas)
    for eta in etas:
        xi = noisy(x, eta, scale, seed=3)
        losses = [cross_entropy(net(x + sign * xi), y) for sign in (1, 0, -1)]
        added = (losses[0] + losses[2]) / 2 - losses[1]
        found = penalty(objective("second_order", eta, scale), net, x, y, seed=3)
        rests.append((added - found).detach().abs())
    assert float((rests[2] / added.detach().abs()).median()) < 1e-3
    for larger, smaller in pairwise(rests):
        assert float((larger / smaller).median()) == pytest.approx(16, rel=0.05)


def test_noise_in_training_adds_the_penalty(net):
    """The mean loss of training with noise, less the plain loss, by 40,000 draws of eta 0.02."""
    x, y = images(1), labels(1)
    xi = noisy(x.expand(40_000, -1, -1, -1), 0.02, seed=1)
    with torch.no_grad():
        ends = [cross_entropy(net(x + sign * xi), y.expand(40_000)) for sign in (1, -1)]
        added = (ends[0] + ends[1]) / 2 - cross_entropy(net(x), y)
    unit = metric.mean_diagonal(graph_of(*SIZE, 2), x)
    expected = float(0.02**2 / 2 * exact("second_order", net, x, y) / unit)
    error = float(added.std()) / len(added) ** 0.5
    assert error < 0.05 * abs(expected)
    assert abs(float(added.mean()) - expected) < 4 * error + 0.01 * abs(expected)


def test_the_first_term_is_the_penalty_under_the_networks_own_labels(net):
    r"""Of the cross-entropy l'' is the mean of l' l'^T over labels that the network predicts, so
    that Appendix D's penalty with such labels has the first term for mean.
    """
    x, graph = images(3), graph_of(*SIZE, 2)
    probabilities = net(x).softmax(1).detach()
    mean = torch.zeros(3, dtype=torch.float64)
    for label in range(4):
        leaf = x.clone().requires_grad_()
        loss = cross_entropy(net(leaf), torch.full((3,), label))
        (g,) = torch.autograd.grad(loss.sum(), leaf)
        mean += probabilities[:, label] * metric.grad_norm_sq(graph, x, g)
    torch.testing.assert_close(mean, exact("gauss_newton", net, x, labels(3)).detach())


@pytest.mark.parametrize("model", ["mlp", "resnet8"])
@pytest.mark.parametrize("name", NAMES)
def test_derivatives_in_the_weights(name, model, net):
    """Against central differences along a random direction, batch normalisation in training
    included.
    """
    if model == "resnet8":
        torch.manual_seed(1)
        net = models.build("resnet8", width=2, classes=4, channels=1, mean=[0.2], std=[0.3])
        net = net.double()
    net.train()
    x, y, found = images(5), labels(5), objective(name, 0.3)
    weights = list(net.parameters())
    directions = [torch.randn(w.shape, dtype=w.dtype, generator=generator(7)) for w in weights]

    def value():
        return penalty(found, net, x, y).sum()

    gradients = torch.autograd.grad(value(), weights, allow_unused=True)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None)
    ends = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            for w, d in zip(weights, directions, strict=True):
                w += step * d
        ends.append(float(value().detach()))
        with torch.no_grad():
            for w, d in zip(weights, directions, strict=True):
                w -= step * d
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_with_the_penalty(name, net):
    """Outputs and losses are those of the images; black ones have no noise."""
    x, y = images(3), labels(3)
    x[2] = 0
    found = objective(name).terms(net, x, y, generator(), 0.0)
    torch.testing.assert_close(found.outputs, net(x))
    torch.testing.assert_close(found.loss, cross_entropy(net(x), y))
    if name != "laplace_beltrami":
        assert found.penalty[2] == 0 and bool((found.penalty[:2] != 0).all())
    else:
        assert bool(found.penalty.isfinite().all())


def test_all_black_is_no_division_by_zero(net):
    for name in NAMES:
        assert bool(penalty(objective(name), net, 0 * images(2), labels(2)).isfinite().all())


# ---------------------------------------------------------------- the drift


def test_drift_is_that_of_the_operator():
    """Of a linear function the operator is the drift alone."""
    graph, x = graph_of(*SIZE, 2), images(3).clamp_min(1 / 255)
    slope = torch.randn(1, *SIZE, dtype=torch.float64, generator=generator(2))
    found = (expansion.volume_drift(graph, x) * slope).sum((1, 2, 3))
    expected = calculus.laplace_beltrami(lambda z: (z * slope).sum((1, 2, 3)), graph, x).value
    torch.testing.assert_close(found, expected)


def test_drift_by_differences_of_the_log_determinant():
    """div L + L grad log vol, the volume by eigenvalues, the divergence entry by entry."""
    graph, x = (
        graph_of(3, 3, 1),
        torch.rand(3, 3, dtype=torch.float64, generator=generator(1)) + 0.1,
    )

    def log_volume(z):
        return -0.5 * float(torch.linalg.eigvalsh(metric.laplacian(graph, z))[1:].log().sum())

    h, slope, divergence = 1e-5, torch.zeros(9).double(), torch.zeros(9).double()
    for k in range(9):
        e = torch.zeros(9, dtype=torch.float64)
        e[k] = h
        ends = x + e.view(3, 3), x - e.view(3, 3)
        slope[k] = (log_volume(ends[0]) - log_volume(ends[1])) / (2 * h)
        bent = metric.laplacian(graph, ends[0]) - metric.laplacian(graph, ends[1])
        divergence += bent[k] / (2 * h)
    expected = divergence + metric.laplacian(graph, x) @ slope
    found = expansion.volume_drift(graph, x)
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-6, atol=1e-6)


def test_drift_of_an_image_is_found_once(net, monkeypatch):
    calls = []

    def counted(graph, x):
        calls.append(x)
        return torch.zeros_like(x)

    monkeypatch.setattr(expansion, "volume_drift", counted)
    found, x = objective("laplace_beltrami"), images(4, seed=50)
    for order in ([0, 1, 2], [3, 2, 1], [0, 0, 3]):
        penalty(found, net, x[order], labels(3))
    assert len(calls) == 4


def test_drift_is_what_the_operator_adds(net):
    """Of the same draws: the difference from both terms in the same metric is b^T grad l."""
    x, y = images(4), labels(4)
    point, graph = x.clamp_min(1 / 255), graph_of(*SIZE, 2)
    found = penalty(objective("laplace_beltrami", 0.2), net, x, y)
    v = noise.sample(graph, point, 1.0, generator=generator())[0]
    bent = []
    for image, label, each in zip(x, y, v.flatten(1), strict=True):

        def of_image(z, label=label):
            return F.cross_entropy(net(z[None])[0], label)

        matrix: Any = torch.autograd.functional.hessian(of_image, image)
        bent.append(each @ matrix.view(20, 20) @ each)
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(cross_entropy(net(leaf), y).sum(), leaf)
    drift = (g * expansion.volume_drift(graph, point)).sum((1, 2, 3))
    unit = metric.mean_diagonal(graph, point)
    torch.testing.assert_close(
        found, 0.2**2 / 2 * (torch.stack(bent) + drift) / unit, rtol=1e-5, atol=1e-7
    )


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", ["second_order", "laplace_beltrami"])
def test_relu_has_no_second_derivative(name):
    with pytest.raises(ValueError, match=f"^method='{name}' needs second derivatives of the net"):
        Config(method=name, eta=0.1, radius=2, activation="relu")


def test_the_first_term_needs_none():
    assert Config(method="gauss_newton", eta=0.1, radius=2, activation="relu")


def test_laplace_beltrami_trains_on_a_cpu():
    config = Config(method="laplace_beltrami", eta=0.1, radius=2)
    with pytest.raises(ValueError, match="^device must be cpu for method='laplace_beltrami', g"):
        METHODS["laplace_beltrami"](config, SIZE, torch.device("cuda"))


# ---------------------------------------------------------------- small digits


@real("mnist")
def test_small_digits_are_means_of_four():
    digits, small = data.load("mnist"), data.load("mnist14")
    assert small.name == "mnist14" and small.images.shape == (70_000, 14, 14)
    assert torch.equal(small.labels, digits.labels)
    assert all(torch.equal(small.split[part], digits.split[part]) for part in digits.split)
    means = F.avg_pool2d(digits.images[::70, None].double(), 2)[:, 0]
    off = small.images[::70].double() - means
    assert -0.5 < off.min() < off.max() <= 0.5
    assert small.images.dtype == torch.uint8


# ---------------------------------------------------------------- the experiment


def test_term_sizes_by_hand(blobs):  # noqa: F811
    torch.manual_seed(0)
    model = models.build("small_cnn", classes=3, channels=1, mean=[0.1], std=[0.3])
    found = TermSizes("test", 3, 2, 2)(model, blobs)
    pixels, y = blobs.part("test", 3)
    x, graph, model = pixels[:, None].double() / 255, graph_of(6, 6, 2), model.double()
    point = x.clamp_min(1 / 255)
    units = [metric.mean_diagonal(graph, each) for each in (x, point)]
    both, drifts, appendix, plain = [], [], [], []
    for image, lifted, label in zip(x, point, y, strict=True):

        def loss(z, label=label):
            return F.cross_entropy(model(z[None])[0], label)

        (g,) = torch.autograd.grad(loss(leaf := image.clone().requires_grad_()), leaf)
        curvature: Any = torch.autograd.functional.hessian(loss, image)
        matrix = metric.laplacian(graph, image[0])
        both.append((matrix * curvature.view(36, 36)).sum() / units[0])
        appendix.append(g.flatten() @ matrix @ g.flatten() / units[0])
        drifts.append((g * expansion.volume_drift(graph, lifted)).sum() / units[1])
        plain.append(loss(image).detach())
    expected = [torch.stack(each).mean() for each in (both, appendix, drifts, plain)]
    told = [found["gradient"] + found["laplacian"], *map(found.get, ("appendix", "drift", "loss"))]
    assert told == pytest.approx([float(each) for each in expected], rel=1e-5)
    assert found["|drift|"] == pytest.approx(float(torch.stack(drifts).abs().mean()), rel=1e-5)
    xi = noise.sample(graph, x, 1.0, generator=generator(), n=2) / units[0] ** 0.5
    for eta, added in zip(ETAS, found["added"], strict=True):
        noisy = [cross_entropy(model(x + sign * eta * each), y) for each in xi for sign in (1, -1)]
        by_hand = (torch.stack(noisy).detach().mean(0) - expected[3]).mean()
        assert added == pytest.approx(float(by_hand))


def stand_in(size, name):
    """Three classes on size x size pixels, a block of light each; 14 x 14 is the mean of four."""
    y = torch.arange(60) % 3
    images = torch.zeros(60, 28, 28, dtype=torch.uint8)
    for k, (image, label) in enumerate(zip(images, y, strict=True)):
        image[8 * label + 2 : 8 * label + 8, 4:20] = 100 + 2 * k
    if size == 14:
        images = images.view(60, 14, 2, 14, 2).double().mean((2, 4)).round().byte()
    parts = {"train": torch.arange(40), "test": torch.arange(40, 60)}
    return data.Dataset(name, images, y, "a test", parts)


def test_the_experiment(monkeypatch):
    """Each method from each seed at each eta; what is asked of them; the times."""
    sets = {"mnist14": stand_in(14, "mnist14"), "mnist": stand_in(28, "mnist")}
    monkeypatch.setattr(grid, "dataset_of", lambda name, split=None: sets[name])
    study_ = Expansions(
        networks=Networks(
            dataset="mnist14",
            training={"model": "small_cnn", "epochs": 1, "batch_size": 20, "learning_rate": 0.05,
                      "milestones": []},
            candidates={
                "none": [{}],
                "second_order": [{"eta": eta, "radius": 2} for eta in (0.1, 0.2)],
                "laplace_beltrami": [{"eta": 0.01, "radius": 2}],
            },
            seeds=(0, 1),
        ),
        evaluated=12,
        measured=4,
        rounds=2,
    )  # fmt: skip
    result = study_.run(Store())
    labels_of = [(r["method"], r["setting"].get("eta"), r["seed"]) for r in result["rows"]]
    settings = [("none", None), ("second_order", 0.1), ("second_order", 0.2),
                ("laplace_beltrami", 0.01)]  # fmt: skip
    assert labels_of == [(*each, seed) for seed in (0, 1) for each in settings]
    for row in result["rows"]:
        assert row["n"] == {"natural": 20} | dict.fromkeys(
            ("pgd 0.1", "translation", "rotation", "elastic"), 12
        )
        assert unpack(row["labels"], (20,)).max() < 3 and row["terms"]["loss"] > 0
    assert set(result["milliseconds"]) == {"none", "second_order", "laplace_beltrami", "drift"}
    assert all(each > 0 for each in result["milliseconds"].values())


def test_variations_are_made_before_pixels_are_averaged(monkeypatch):
    """Of images that a network knows by heart the errors are those of the varied, averaged ones."""
    sets = {"mnist14": stand_in(14, "mnist14"), "mnist": stand_in(28, "mnist")}
    monkeypatch.setattr(grid, "dataset_of", lambda name, split=None: sets[name])
    seen = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            seen.append(x.detach())
            return x.mean((1, 2, 3))[:, None] * 0 + self.weight

    SmallDigitErrors("test", 12, ["pgd 0.1"])(Watching(), sets["mnist14"])
    whole = sets["mnist"].part("test", 12)[0][:, None].float() / 255
    for name, mine in evaluation.variations(whole, seed=0).items():
        small = F.avg_pool2d(mine, 2)
        among = any(x.shape == small.shape and torch.equal(x, small) for x in seen)
        assert among == (name != "blur")
    assert any(torch.equal(x, sets["mnist14"].part("test")[0][:, None].float() / 255) for x in seen)


def test_the_penalty_of_appendix_d_has_the_same_weight():
    declared: Any = EXPERIMENTS["laplace_beltrami"]["full"]
    candidates = declared.networks.candidates
    for mine, theirs in zip(candidates["wasserstein"], candidates["second_order"], strict=True):
        weight = float(objective("second_order", theirs["eta"]).weight)
        assert mine["eta"] ** 2 == pytest.approx(weight, rel=1e-4)
    assert list(candidates) == ["none", "wasserstein", *NAMES, "wasserstein_noise"]


# ---------------------------------------------------------------- the section


ROWS = study.stored("laplace_beltrami")["result"]["rows"]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def of(method, condition, eta):
    """The errors in percent, from the counts."""
    weight = {"wasserstein": round(eta * 0.5**0.5, 6)}.get(method, eta)
    return [
        100 * row["wrong"][condition] / row["n"][condition]
        for row in ROWS
        if row["method"] == method and row["setting"].get("eta", weight) == weight
        if row.get("wrong", {"natural": 8865})["natural"] < 8000
    ]


def cells(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.data.splitlines()]


@pytest.mark.parametrize("eta", ETAS)
def test_errors_are_those_of_the_counts(eta):
    lines = cells(report.error_table(eta))[2:]
    for line, (method, name) in zip(lines, report.NAMES.items(), strict=True):
        trained = len(of(method, "pgd 0.1", eta))
        assert line[0] == (f"{name} (2 of 3)" if trained == 2 else name)
        if not trained:
            assert set(line[1:]) == {"failed"}
            continue
        mean, sd = line[2].split(" ± ")
        assert float(mean) == pytest.approx(np.mean(of(method, "pgd 0.1", eta)), abs=0.051)
        assert float(sd) == pytest.approx(np.std(of(method, "pgd 0.1", eta), ddof=1), abs=0.051)


def test_drawn_are_the_errors():
    report.draw_errors(ETAS)
    panels = [(eta, condition) for eta in ETAS for condition in ("natural", "pgd 0.1")]
    for axes, place in zip(plt.gcf().axes, panels, strict=True):
        drawn = [sorted(np.asarray(line.get_xdata())) for line in axes.lines]
        there = [sorted(of(method, *place[::-1])) for method in list(report.NAMES)[::-1]]
        assert drawn == [each for each in there if each]
        told = [text.get_text() for text in axes.texts].count("failed")
        assert told + len(drawn) == len(report.NAMES)
    report.opening()
    left = plt.gcf().axes[0]
    found = study.stored("laplace_beltrami")["result"]["milliseconds"]
    ratios = [found[method] / found["none"] for method in report.NAMES]
    assert [float(np.asarray(line.get_xdata())[0]) for line in left.lines][::-1] == pytest.approx(
        ratios
    )


def test_terms_are_means_over_the_networks():
    lines = cells(report.term_table(0.1))[2:]
    there = [m for m in report.NAMES if of(m, "natural", 0.1)]
    for line, method in zip(lines, there, strict=True):
        found = report.sizes(method, 0.1)
        assert line[0] == report.NAMES[method] and len(found) == len(of(method, "natural", 0.1))
        for cell, key in ((line[2], "gradient"), (line[3], "laplacian"), (line[6], "|drift|")):
            assert float(cell) == pytest.approx(np.mean([e[key] for e in found]), abs=0.0051)
    (first, *_), eta = report.sizes("none"), ETAS[1]
    both = first["gradient"] + first["laplacian"]
    assert report.predicted("none", eta)[0] == eta**2 / 2 * both / first["added"][1]


def test_disagreement_counts_images():
    noise_ = {
        r["seed"]: unpack(r["labels"], (10_000,)) for r in report.rows("wasserstein_noise", 0.1)
    }
    both = {r["seed"]: unpack(r["labels"], (10_000,)) for r in report.rows("second_order", 0.1)}
    same = report.disagreement("wasserstein_noise", "second_order", 0.1, seeds="the same")
    assert same == pytest.approx([100 * np.mean(noise_[s] != both[s]) for s in (0, 1, 2)])
    other = report.disagreement("wasserstein_noise", "second_order", 0.1, seeds="different")
    pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
    assert other == pytest.approx([100 * np.mean(noise_[a] != both[b]) for a, b in pairs])
    own = report.disagreement("wasserstein_noise", "wasserstein_noise", 0.1, seeds="different")
    assert len(own) == 3 and min(own) > 0
    first = cells(report.disagreement_table(0.1))[2]
    assert first[2].startswith(f"{np.mean(own):.2f} ± ")


def test_small_digits_of_the_page():
    small, digits = report.small_digits(), data.load("mnist5k")
    off = small.images.double() - F.avg_pool2d(digits.images[:, None].double(), 2)[:, 0]
    assert off.abs().max() <= 0.5 and torch.equal(small.labels, digits.labels)


def test_the_shift_is_half_eta_squared_times_the_drift():
    x, moved = report.shift("1/50", 0.1)
    graph = graph_of(14, 14, 2)
    drift = expansion.volume_drift(graph, x) / metric.mean_diagonal(graph, x)
    assert float(x.min()) == 1 / 50
    torch.testing.assert_close(moved, 0.1**2 / 2 * drift)
    told = report.drift_told("1/50", 0.1)
    below = 100 * float((x + moved < 0).double().mean())
    assert f"is {float(moved.square().mean() ** 0.5):.3f} per" in told
    assert f"takes {below:.0f} % of" in told
    assert len(report.draw_drift("1/50", 0.1).axes) == 3
    assert "0.051 per pixel where the noise is 0.1, and takes 48 %" in report.drift_told(
        "1/255", 0.1
    )


def test_what_the_section_says():
    """Its words hold of the numbers."""
    mean = {
        (m, c, e): np.mean(found)
        for m in report.NAMES
        for c in ("natural", "pgd 0.1")
        for e in ETAS
        if len(found := of(m, c, e)) == 3
    }
    costs = {method: f"{report.cost(method):.1f}" for method in report.NAMES}
    assert list(costs.values()) == ["1.0", "2.6", "3.2", "5.0", "5.2", "1.6"]
    three = ("gauss_newton", "second_order", "wasserstein_noise")
    for condition, width in (("natural", 0.15), ("pgd 0.1", 1.6)):
        alike = [mean[m, condition, 0.1] for m in three]
        assert max(alike) - min(alike) < width
    assert f"{mean['gauss_newton', 'natural', 0.2]:.1f}" == "3.1"
    both = {row["seed"]: row for row in report.rows("second_order", 0.2)}
    first = {row["seed"]: row for row in report.rows("gauss_newton", 0.2)}
    assert sorted(both) == [1, 2] and sorted(first) == [0, 1, 2]
    for condition, told in (("natural", ["4.6", "3.2"]), ("pgd 0.1", ["69.9", "64.7"])):
        rates = [[reports.rate(found[s], condition) for s in both] for found in (both, first)]
        assert [f"{np.mean(each):.1f}" for each in rates] == told
        assert all(more > less for more, less in zip(*rates, strict=True))
    assert not of("second_order", "natural", 0.4)
    goes_on = ("wasserstein_noise", "gauss_newton", "wasserstein")
    assert [f"{mean[m, 'natural', 0.4]:.1f}" for m in goes_on] == ["7.3", "4.1", "3.0"]
    assert {round(mean[m, "pgd 0.1", 0.4]) for m in goes_on} == {60, 63}
    assert not any(of("laplace_beltrami", "natural", e) for e in ETAS)
    drifted = [row for row in ROWS if row["method"] == "laplace_beltrami"]
    assert len(drifted) == 9 and sum("diverged" in row for row in drifted) == 5
    assert round(max(of("none", "pgd 0.1", 0.1))) == 86


def test_what_the_section_says_of_terms_and_agreement():
    plain = {
        key: np.mean([each[key] for each in report.sizes("none")])
        for key in ("gradient", "|laplacian|", "laplacian", "drift", "|drift|")
    }
    assert [f"{each:.1f}" for each in plain.values()] == ["7.2", "2.7", "0.4", "0.9", "8.9"]
    for eta, low, high in ((0.2, 32, 49), (0.1, 63, 79)):
        shares = [100 * each for each in report.predicted("none", eta)]
        assert (round(min(shares)), round(max(shares))) == (low, high)
    noise_ = "wasserstein_noise"
    told = [
        np.mean(report.disagreement(noise_, other, 0.1, seeds=seeds))
        for other, seeds in (
            ("second_order", "the same"), ("none", "the same"), (noise_, "different")
        )
    ]  # fmt: skip
    assert [f"{each:.1f}" for each in told] == ["1.3", "1.8", "2.6"]
    milliseconds = study.stored("laplace_beltrami")["result"]["milliseconds"]
    assert round(milliseconds["drift"]) == 5

"""The section on the transport ball: the attack and its projection, training in the metric's ball,
the experiment, and what the section draws.
"""

import matplotlib

matplotlib.use("Agg")

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from oracles import generator
from scipy.optimize import linprog, minimize
from scipy.special import wrightomega
from test_digits import blobs, on_a_cpu  # noqa: F401  fixtures

from wdtr_lite import PixelGraph, attacks, data, metric, models, study, training, transport
from wdtr_lite.attacks import project_to_wasserstein_ball, projected_sinkhorn_attack
from wdtr_lite.attacks.projected_sinkhorn import lambert_of_exp
from wdtr_lite.book import reports
from wdtr_lite.book import transport_ball as report
from wdtr_lite.metric import operators
from wdtr_lite.models.modes import evaluating
from wdtr_lite.study import grid
from wdtr_lite.study.questions import Errors
from wdtr_lite.study.spec import Networks
from wdtr_lite.study.store import Store, described
from wdtr_lite.study.transport_ball import BALLS, Agreement, TransportBall
from wdtr_lite.training import Config

# ---------------------------------------------------------------- the projection


class Moves:
    """Every move within the window of an image (H, W): the constraints on a plan, as matrices."""

    def __init__(self, shape, window, p):
        pixels = [(row, column) for row in range(shape[0]) for column in range(shape[1])]
        ends = [
            (i, j, ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** (p / 2))
            for i, a in enumerate(pixels)
            for j, b in enumerate(pixels)
            if max(abs(a[0] - b[0]), abs(a[1] - b[1])) <= window // 2
        ]
        source, target, self.cost = (np.array(each) for each in zip(*ends, strict=True))
        n = np.arange(len(pixels))[:, None]
        self.rows, self.columns = (source == n) * 1.0, (target == n) * 1.0
        self.stays = source == target

    def solve(self, w, x, epsilon, p, rho):
        """The regularised projection, over the plan itself."""
        w, x = w.ravel(), x.ravel()
        near = np.where(self.stays, 0.99, 0.01 / (self.rows.sum(1) - 1)[self.rows.argmax(0)])
        limits: list[dict[str, Any]] = [
            {"type": "eq", "fun": lambda P: self.rows @ P - x, "jac": lambda P: self.rows},
            {"type": "ineq", "fun": lambda P: epsilon**p - self.cost @ P,
             "jac": lambda P: -self.cost},
            {"type": "ineq", "fun": lambda P: 1 - self.columns @ P, "jac": lambda P: -self.columns},
        ]  # fmt: skip
        found = minimize(
            lambda P: ((w - self.columns @ P) ** 2).sum() / 2 + rho * (P * np.log(P)).sum(),
            near * (x @ self.rows),
            jac=lambda P: -self.columns.T @ (w - self.columns @ P) + rho * (np.log(P) + 1),
            bounds=[(1e-12, 1)] * len(self.cost),
            constraints=limits,
            method="SLSQP",
            options={"maxiter": 1000, "ftol": 1e-14},
        )
        return self.columns @ found.x

    def best(self, gain, x, epsilon, p):
        """The largest gain of a change within the ball, a linear program."""
        found = linprog(
            -gain.ravel() @ self.columns,
            A_ub=np.vstack([self.cost, self.columns]),
            b_ub=np.append(epsilon**p, np.ones(x.size)),
            A_eq=self.rows,
            b_eq=x.ravel(),
        )
        return -found.fun - gain.ravel() @ x.ravel()


def images(*shape, seed=0):
    """Some of them with a white pixel, and what is projected."""
    random = generator(seed)
    x = torch.rand(shape, dtype=torch.float64, generator=random)
    x[..., 0, 0] = 1
    return x + 0.3 * torch.randn(shape, dtype=torch.float64, generator=random), x


def distance(x, z, p):
    """The transport distance of images (C, H, W) of the same masses, without a window."""
    costs = [
        float(a.sum()) * transport.wasserstein_distance(a, b / b.sum() * a.sum(), p=p) ** p
        for a, b in zip(x, z, strict=True)
        if a.sum()
    ]
    return sum(costs) ** (1 / p)


@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize(("p", "epsilon"), [(2, 0.4), (1, 0.3)])
def test_it_is_the_convex_solution(window, p, epsilon):
    """With the same regularization, by sequential programming over the plan."""
    w, x = images(1, 1, 3, 3)
    how = {"window": window, "p": p, "regularization": 0.05}
    found = project_to_wasserstein_ball(w, x, epsilon, iterations=2000, **how)
    expected = Moves((3, 3), window, p).solve(w.numpy(), x.numpy(), epsilon, p, 0.05)
    assert abs(found.numpy().ravel() - expected).max() < 1e-5
    assert abs(found - x).max() > 0.05 and abs(found - w).max() > 0.05


def test_it_is_the_convex_solution_of_larger_images():
    w, x = images(1, 1, 4, 4, seed=1)
    found = project_to_wasserstein_ball(w, x, 0.5, window=3, regularization=0.05, iterations=2000)
    expected = Moves((4, 4), 3, 2).solve(w.numpy(), x.numpy(), 0.5, 2, 0.05)
    assert abs(found.numpy().ravel() - expected).max() < 1e-4


def test_the_regularization_costs_little():
    """Of the nearest point z*, |z - z*|^2 <= |w - z|^2 - |w - z*|^2 <= 2 rho m log(window^2)."""
    w, x = images(1, 1, 4, 4)
    nearest = torch.tensor(Moves((4, 4), 3, 2).solve(w.numpy(), x.numpy(), 0.5, 2, 1e-6))
    nearest, off = nearest.view_as(x), []
    for rho in (0.03, 0.01, 0.003):
        z = project_to_wasserstein_ball(w, x, 0.5, window=3, regularization=rho, iterations=5000)
        gap = float((w - z).square().sum() - (w - nearest).square().sum())
        assert float((z - nearest).square().sum()) <= gap + 1e-5
        assert -1e-5 < gap <= 2 * rho * float(x.sum()) * np.log(9)
        off.append(float((z - nearest).norm()))
    assert off[2] < off[1] < off[0] and off[2] < 0.02


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("iterations", [1, 10, 300])
def test_it_is_in_the_ball(p, iterations):
    """However few the iterations: box, masses and cost, which transport without a window has."""
    w, x = images(3, 2, 6, 5)
    x[1, 0] = 0
    epsilon = torch.tensor([0.2, 0.7, 30.0], dtype=torch.float64)
    z = project_to_wasserstein_ball(w, x, epsilon, p=p, iterations=iterations)
    assert 0 <= z.min() and z.max() <= 1
    assert torch.allclose(z.sum((-2, -1)), x.sum((-2, -1)), atol=1e-6)
    assert not z[1, 0].any()
    sizes = [distance(a, b, p) for a, b in zip(x, z, strict=True)]
    assert all(size <= e + 1e-6 for size, e in zip(sizes, epsilon.tolist(), strict=True))
    assert iterations == 1 or sizes[0] > 0.15


def test_images_do_not_see_each_other():
    w, x = images(3, 2, 5, 6)
    epsilon = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    together = project_to_wasserstein_ball(w, x, epsilon)
    for k in range(3):
        alone = project_to_wasserstein_ball(w[k : k + 1], x[k : k + 1], float(epsilon[k]))
        assert torch.allclose(alone[0], together[k], atol=1e-12)


def test_channels_share_the_cost():
    """Two equal channels at epsilon are one at epsilon / 2^(1/2)."""
    w, x = images(1, 1, 5, 5)
    one = project_to_wasserstein_ball(w, x, 0.5, iterations=500)
    two = project_to_wasserstein_ball(w.repeat(1, 2, 1, 1), x.repeat(1, 2, 1, 1), 0.5 * 2**0.5,
                                      iterations=500)  # fmt: skip
    assert torch.allclose(two, one.repeat(1, 2, 1, 1), atol=1e-9)


def test_no_radius_no_change():
    w, x = images(2, 1, 4, 4)
    assert torch.equal(project_to_wasserstein_ball(w, x, 0.0), x)
    black = torch.zeros(1, 1, 4, 4)
    assert torch.equal(project_to_wasserstein_ball(black + 0.5, black, 1.0), black)


def test_a_point_of_the_ball_stays():
    """But for the regularization."""
    x = torch.rand(1, 1, 6, 6, dtype=torch.float64, generator=generator())
    w = x.roll(1, -1)
    z = project_to_wasserstein_ball(w, x, 100.0, window=13, regularization=0.002, iterations=5000)
    assert abs(z - w).max() < 0.02 < abs(w - x).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types(dtype):
    w, x = (v.to(dtype) for v in images(1, 1, 4, 4))
    z = project_to_wasserstein_ball(w, x, 0.3)
    assert z.dtype == dtype
    assert torch.allclose(z.double(), project_to_wasserstein_ball(w.double(), x.double(), 0.3))


@pytest.mark.parametrize("constant", [0.3, 2, 6, -2, -20, 1e5])
@pytest.mark.parametrize("rho", [0.01, 0.002])
def test_a_constant_changes_nothing(constant, rho):
    """Masses hold: ||w - x'||^2 changes by a constant; also where white pixels are full."""
    w, x = images(2, 2, 5, 6)
    expected = project_to_wasserstein_ball(w, x, 0.4, regularization=rho)
    found = project_to_wasserstein_ball(w + constant, x, 0.4, regularization=rho)
    assert torch.allclose(found, expected, atol=1e-6)
    pair = torch.tensor([[[[0.5, 0.3]]]]).double()
    stays = project_to_wasserstein_ball(pair + constant, pair, 0.4, regularization=rho)
    assert abs(stays - pair).max() < 0.2 * rho


@pytest.mark.parametrize("far", [3, 50, 1e6])
def test_far_values_are_a_linear_program(far):
    """Of halves far apart the gain is nearly the best; and what no mass can reach has no say."""
    x = torch.zeros(1, 1, 6, 20, dtype=torch.float64)
    x[..., :6] = images(1, 1, 6, 6)[1]
    gain = torch.ones(1, 1, 6, 6, dtype=torch.float64)
    gain[..., :3] = -1
    w = torch.full_like(x, 1e30)
    w[..., :6], w[..., 6:8] = far * gain, -far
    z = project_to_wasserstein_ball(w, x, 0.5)
    best = Moves((6, 6), 5, 2).best(gain.numpy(), x[..., :6].numpy(), 0.5, 2)
    assert 0.99 * best < float((gain * (z - x)[..., :6]).sum()) <= best + 1e-6


@pytest.mark.parametrize(("window", "p"), [(5, 300), (5, 683), (51, 250), (51, 1e9)])
def test_costs_beyond_the_largest_number(window, p):
    """Of such orders a move by more than epsilon is forbidden, one by less is free."""
    w, x = images(1, 1, 6, 6)
    how = {"window": window, "p": p}
    still = project_to_wasserstein_ball(10 * w, x, 0.9, **how)  # of masses up to 0.9^p
    assert abs(still - x).max() < 1e-11
    one = project_to_wasserstein_ball(10 * w, x, 1.2, **how)
    free = Moves((6, 6), 3, 1)
    free.cost = np.where(free.cost > 1, 1e6, 0)
    best = free.best(10 * (w - x).numpy(), x.numpy(), 1e-3, 1)
    assert one.isfinite().all() and abs(one - x).max() > 0.1
    assert float((10 * (w - x) * (one - x)).sum()) <= best + 1e-6


def test_windows_end_with_the_image():
    w, x = images(1, 1, 4, 6)
    wide, whole = (project_to_wasserstein_ball(w, x, 0.5, window=side) for side in (1001, 11))
    assert torch.equal(wide, whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_types_are_refused(dtype):
    w, x = (v.to(dtype) for v in images(1, 1, 4, 4))
    with pytest.raises(TypeError, match=f"^x must be torch.float32 or .*, got {dtype}$"):
        project_to_wasserstein_ball(w, x, 0.3)


def test_lambert():
    """Against scipy, from where the exponential vanishes to where it overflows."""
    value = torch.linspace(-700, 900, 4001, dtype=torch.float64)
    expected = torch.tensor(wrightomega(value.numpy()))
    assert float(((lambert_of_exp(value) - expected) / expected).abs().max()) < 1e-6
    assert 0 < float(lambert_of_exp(torch.tensor(-torch.inf, dtype=torch.float64))) < 1e-300


# ---------------------------------------------------------------- the attack


def linear(gain):
    """A model whose margin is linear in the image."""
    return lambda x: torch.stack([(gain * x).sum((1, 2, 3)), 0 * x.sum((1, 2, 3))], 1)


@pytest.mark.parametrize(("p", "epsilon"), [(2, 0.6), (1, 0.5)])
def test_of_a_linear_loss_it_is_nearly_the_best(p, epsilon):
    """The linear program's gain is reached to 3 %, and never passed. Of a gradient whose sign is
    its direction: else the steps are not along it.
    """
    gain = torch.randn(1, 1, 5, 5, dtype=torch.float64, generator=generator(2)).sign()
    x = images(1, 1, 5, 5)[1]
    y = torch.tensor([1])
    how = {"p": p, "steps": 60, "iterations": 50, "regularization": 0.002}
    z = projected_sinkhorn_attack(linear(gain), x, y, epsilon, **how)
    best = Moves((5, 5), 5, p).best(gain.numpy(), x.numpy(), epsilon, p)
    assert 0.97 * best < float((gain * (z - x)).sum()) <= best + 1e-6


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_long_steps_are_of_a_linear_program(steps):
    gain = torch.randn(1, 1, 5, 5, dtype=torch.float64, generator=generator(2)).sign()
    x = images(1, 1, 5, 5)[1]
    how = {"step": 10, "steps": steps, "iterations": 200}
    z = projected_sinkhorn_attack(linear(gain), x, torch.tensor([1]), 0.6, **how)
    best = Moves((5, 5), 5, 2).best(gain.numpy(), x.numpy(), 0.6, 2)
    assert 0.97 * best < float((gain * (z - x)).sum()) <= best + 1e-6


def test_attacked_digits_are_in_the_ball():
    torch.manual_seed(0)
    model = models.build("small_cnn", classes=3, channels=1, mean=[0.1], std=[0.3]).eval()
    x = torch.rand(4, 1, 8, 8, generator=generator())
    y = torch.tensor([0, 1, 2, 0])
    z = projected_sinkhorn_attack(model, x, y, 1.0)
    assert 0 <= z.min() and z.max() <= 1 and z.dtype == torch.float32
    sizes = [distance(a.double(), b.double(), 2) for a, b in zip(x, z, strict=True)]
    assert all(0.8 < size < 1 + 1e-3 for size in sizes)
    before, after = (torch.nn.functional.cross_entropy(model(v), y) for v in (x, z))
    assert after > before
    alone = projected_sinkhorn_attack(model, x[:1], y[:1], 1.0)
    assert torch.allclose(alone, z[:1], atol=1e-5)


# ---------------------------------------------------------------- training


SMALL = {"data": "mnist5k", "model": "small_cnn", "images": 64, "batch_size": 32, "epochs": 1}
BALL = {"method": "wasserstein_attack", "epsilon": 2.0, "radius": 3, "steps": 2}


def test_it_trains_on_attacked_images():
    """Those of the attack on the network as it stands."""
    config = Config(**SMALL, **BALL)
    objective = training.METHODS["wasserstein_attack"](config, (6, 5), torch.device("cpu"))
    torch.manual_seed(0)
    model = models.build("small_cnn", classes=3, channels=1, mean=[0.1], std=[0.3]).train()
    x, y = torch.rand(4, 1, 6, 5, generator=generator()), torch.tensor([0, 1, 2, 0])
    terms = objective.terms(model, x, y, generator(), 0.5)
    with evaluating(model):
        graph = PixelGraph(6, 5, 3)
        expected = attacks.wasserstein_attack(model, x, y, graph, 0.5, steps=2)
    assert model.training and not torch.equal(expected, x)
    loss = torch.nn.functional.cross_entropy(model(expected), y, reduction="none")
    assert torch.allclose(terms.loss, loss) and not terms.penalty.any()
    run = training.fit(config, progress=False, device="cpu")
    plain = training.fit(Config(**SMALL), progress=False, device="cpu")
    assert run.history[0]["loss"] > plain.history[0]["loss"]


def test_its_epsilon_is_in_pixels():
    assert Config(**SMALL, **BALL | {"epsilon": 8}).epsilon == 8
    for method in ("fgsm", "pgd", "trades", "none"):
        with pytest.raises(
            ValueError, match=r"^epsilon must be at most 1, .* got 8: do you mean 8"
        ):
            Config(method=method, epsilon=8)
    for bad, message in (
        ({"epsilon": -1}, "epsilon must be non-negative and finite, got -1"),
        ({"epsilon": 1e31}, r"epsilon must be at most 1e30, got 1e\+31"),
        ({"epsilon": 0.0}, "method='wasserstein_attack' needs epsilon, got epsilon=0.0"),
        ({"radius": None}, "method='wasserstein_attack' needs radius, got radius=None"),
        ({"eta": 0.1}, "method='wasserstein_attack' needs no eta, got eta=0.1"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            Config(**SMALL, **BALL | bad)


def test_it_trains_on_a_cpu():
    with pytest.raises(ValueError, match="^device must be cpu for method='wasserstein_attack',"):
        training.METHODS["wasserstein_attack"](Config(**BALL), (6, 5), torch.device("cuda"))


# ---------------------------------------------------------------- the experiment


def network(classes=3):
    torch.manual_seed(0)
    return models.build("small_cnn", classes=classes, channels=1, mean=[0.1], std=[0.3]).eval()


def test_both_lengths_by_hand(blobs):  # noqa: F811
    model, sizes, graph = network(), (0.3, 1.0), PixelGraph(6, 6, 4).to(torch.float64)
    found = Agreement("test", 3, sizes)(model, blobs)
    images_, labels = blobs.part("test", 3)
    x = images_[:, None].float() / 255
    assert found["mass"] == pytest.approx(x.sum((1, 2, 3)).tolist(), abs=1e-3)
    for name, ball in BALLS.items():
        lengths = zip(sizes, found[name]["metric"], found[name]["static"], strict=True)
        for epsilon, metrics, statics in lengths:
            moved = ball(epsilon)(model, x, labels)
            limited = metrics if name == "metric" else statics
            assert all(0 < length <= epsilon + 1e-3 for length in limited)
            for k in range(3):
                a, b = x[k, 0].double(), moved[k, 0].double()
                inverse = torch.linalg.pinv(metric.laplacian(graph, a.clamp_min(1 / 255)))
                xi = (b - a).flatten()
                length = float(xi @ inverse @ xi / operators.squared_unit(graph, "pixel")) ** 0.5
                assert metrics[k] == pytest.approx(length, rel=1e-3)
                assert statics[k] == pytest.approx(distance(a[None], b[None], 2), rel=1e-3)


def test_the_experiment_on_blobs(blobs, monkeypatch):  # noqa: F811
    networks = Networks(
        dataset="blobs",
        training={"model": "small_cnn", "epochs": 1, "batch_size": 8, "milestones": []},
        candidates={
            "none": [{}],
            "wasserstein_attack": [
                {"epsilon": e, "radius": 2, "steps": 1} for e in (0.5, 1.0)
            ],
        },
        seeds=(0, 1),
    )  # fmt: skip
    parts = blobs.split | {"validation": torch.arange(30, 40)}
    digits = type(blobs)("blobs", blobs.images, blobs.labels, "a test", parts)
    monkeypatch.setattr(grid, "dataset_of", lambda name, split: {"blobs": digits}[name])
    experiment = TransportBall(
        networks=networks, epsilon=0.5, evaluated=6, profiles=(), epsilons=(), photographs=0,
        sizes=(0.5,), measured=2,
    )  # fmt: skip
    result = experiment.run(Store())
    assert [row["method"] for row in result["search"]] == ["none", *["wasserstein_attack"] * 2]
    assert set(result["search"][0]["wrong"]) == {"natural", "metric 0.5"}
    assert [(row["method"], row["seed"]) for row in result["rows"]] == [
        (method, seed) for seed in (0, 1) for method in ("none", "wasserstein_attack")
    ]
    errors = [row["wrong"]["metric 0.5"] for row in result["search"][1:]]
    chosen = result["rows"][1]["setting"]["epsilon"]
    assert errors[(0.5, 1.0).index(chosen)] == min(errors)
    for row in result["rows"]:
        assert row["n"] == {"natural": 20, "pgd 0.1": 6, "metric 0.5": 6, "static 0.5": 6}
        assert row["training"]["seconds"] > 0
    assert len(result["agreement"]["static"]["metric"][0]) == 2 and result["published"] == {}
    assert 0 < result["steps"]["none"] < result["steps"]["wasserstein_attack"]


def test_the_balls_of_the_experiment():
    model, x = network(), torch.rand(2, 1, 6, 6, generator=generator())
    y = torch.tensor([0, 2])
    graph = PixelGraph(6, 6, 4)
    for ball, found in (
        ("metric", attacks.wasserstein_attack(model, x, y, graph, 0.7, steps=10)),
        ("static", projected_sinkhorn_attack(model, x, y, 0.7)),
    ):
        assert torch.equal(BALLS[ball](0.7)(model, x, y), found)


def test_their_measurements_have_different_names():
    """Names are of options alone."""
    assert len({described(Errors("test", 5, ball(4.0))) for ball in BALLS.values()}) == 2


# ---------------------------------------------------------------- what the section draws


STORED = study.stored("transport_ball")
ROWS, CONFIG = STORED["result"]["rows"], STORED["config"]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def of(method, condition):
    """The errors in percent, from the counts."""
    found = [row for row in ROWS if row["method"] == method]
    return [100 * row["wrong"][condition] / row["n"][condition] for row in found]


def cells(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.data.splitlines()]


def test_errors_are_those_of_the_counts():
    assert {row["method"] for row in ROWS} == set(report.NAMES)
    for line, method in zip(cells(report.error_table())[2:], report.NAMES, strict=True):
        assert line[0].startswith(report.NAMES[method])
        for cell, condition in zip(line[1:], report.CONDITIONS, strict=True):
            mean, *sd = map(float, cell.split(" ± "))
            found = of(method, condition)
            assert mean == pytest.approx(np.mean(found), abs=0.051)
            expected = [np.std(found, ddof=1)] if len(found) > 1 else []
            assert sd == pytest.approx(expected, abs=0.051)
    report.draw_errors()
    for axes, condition in zip(plt.gcf().axes, report.CONDITIONS, strict=True):
        drawn = [sorted(line.get_xdata()) for line in axes.lines]
        assert drawn == [sorted(of(method, condition)) for method in list(report.NAMES)[::-1]]


def test_photographs_are_those_of_the_counts():
    published = STORED["result"]["published"]
    header, _, *lines = cells(report.photograph_table())
    assert "transport 1" in header
    networks = [(p, m) for p in CONFIG["profiles"] for m in reports.MAIN]
    for line, (profile, method) in zip(lines, networks, strict=True):
        found = published[profile][method]
        rates = [100 * found["wrong"][c] / found["n"][c] for c in found["wrong"]]
        assert line[1:] == [f"{rate:.0f}" for rate in rates]
    report.draw_photographs()
    for axes, ball in zip(plt.gcf().axes, ("metric", "static"), strict=True):
        for line, method in zip(axes.lines[:3], reports.MAIN, strict=True):
            found = published["full"][method]
            assert list(line.get_ydata()) == [
                100 * found["wrong"][f"{ball} {e:g}"] / found["n"][f"{ball} {e:g}"]
                for e in CONFIG["epsilons"]
            ]


def test_lengths_are_those_of_the_images():
    """The attacks keep to their balls; every image is drawn; the table's medians are theirs."""
    agreement = STORED["result"]["agreement"]
    table = cells(report.length_table())[2:]
    for k, ball in enumerate(("metric", "static")):
        _, length, static = report.lengths(ball)
        limited = length if ball == "metric" else static
        assert (limited <= np.array(CONFIG["sizes"])[:, None] * (1 + 2e-3)).all()
        n = len(CONFIG["sizes"])
        for line, a, b in zip(table[k * n : k * n + n], length, static, strict=True):
            expected = [np.median(a), np.median(b), np.median(b / a)]
            assert [float(cell) for cell in line[1:4]] == pytest.approx(expected, abs=0.0051)
    report.opening()
    drawn = plt.gcf().axes[0].lines
    for line, ball in zip(drawn[:2], ("metric", "static"), strict=True):
        assert sorted(line.get_ydata()) == sorted(np.ravel(agreement[ball]["static"]))


def test_the_root_law_of_a_digit_moved_by_a_share():
    x = data.load("mnist5k").part("test", 8)[0][3].double() / 255
    for share in (0.05, 0.3, 1.0):
        moved = x + share * (x.roll(1, 1) - x)
        distance_ = transport.wasserstein_distance(x, moved)
        assert distance_ == pytest.approx(share**0.5, abs=1e-8)


def test_the_search_is_told_whole():
    lines = cells(report.search_table())[2:]
    for line, row in zip(lines, STORED["result"]["search"], strict=True):
        assert line[0] == report.NAMES[row["method"]]
        assert line[2:] == [
            f"{reports.rate(row, condition):.1f}" for condition in ("natural", "metric 4")
        ]
    steps = [float(line[1]) for line in cells(report.step_table())[2:]]
    told = [1000 * STORED["result"]["steps"][method] for method in report.NAMES]
    assert steps == pytest.approx(told, abs=0.51)


def test_brute_force_is_near_the_projection():
    w, x = images(1, 1, 3, 3, seed=3)
    brute = report.nearest(w[0, 0], x[0, 0], 0.4, window=3, regularization=0.05)
    expected = Moves((3, 3), 3, 2).solve(w.numpy(), x.numpy(), 0.4, 2, 0.05)
    assert abs(brute.numpy().ravel() - expected).max() < 1e-6


def test_attacks_are_told():
    """Each is as long as its ball is wide."""
    for ball, word in (("metric", "in the metric"), ("transport", "transport distance")):
        text = report.attack_told(ball, 2.0)
        before, after = text.split(word, 1)
        length = before.split()[-1] if ball == "metric" else after.split()[0].rstrip(".")
        assert float(length) == pytest.approx(2.0, abs=0.051)
    assert len(report.draw_attack("transport", 2.0).axes) == 3


def test_what_the_section_says():
    """Its words hold of the numbers."""
    mean = {(m, c): np.mean(of(m, c)) for m in report.NAMES for c in report.CONDITIONS}
    defences = [m for m in report.NAMES if m != "none"]
    metric4 = [mean[m, "metric 4"] for m in defences]
    assert f"{mean['none', 'metric 4']:.0f}" == "22" and 9.5 < min(metric4) < max(metric4) < 11
    told = {c: [f"{mean[m, c]:.1f}" for m in report.NAMES] for c in report.CONDITIONS}
    assert told["static 4"][1:] == ["10.3", "8.2", "16.4", "7.5"]
    assert told["pgd 0.1"][1:] == ["11.9", "17.9", "12.6", "21.5"]
    assert told["natural"] == ["2.0", "1.9", "2.4", "1.5", "2.3"]
    by_seed = zip(*(of(m, "static 4") for m in defences), strict=True)
    assert all(max(wasserstein, ball) < min(flat, pgd) for flat, wasserstein, pgd, ball in by_seed)
    searched = {
        row["setting"]["epsilon"]: f"{reports.rate(row, 'metric 4'):.1f}"
        for row in STORED["result"]["search"]
        if row["method"] == "wasserstein_attack"
    }
    assert searched == {1: "14.4", 2: "11.6", 4: "8.8", 8: "7.0", 16: "11.2"}
    chosen = {row["method"]: row["setting"] for row in ROWS}
    assert chosen["wasserstein_attack"]["epsilon"] == 8 and chosen["pgd"]["epsilon"] == 0.05
    steps = {m: round(1000 * seconds) for m, seconds in STORED["result"]["steps"].items()}
    assert [steps[m] for m in ("wasserstein_attack", "pgd", "wasserstein")] == [56, 52, 18]
    photos = STORED["result"]["published"]["full"]
    rates = [[reports.rate(photos[m], f"{ball} 1") for m in reports.MAIN]
             for ball in ("metric", "static")]  # fmt: skip
    assert [f"{rate:.0f}" for rate in rates[0]] == ["100", "39", "36"]
    assert f"{rates[1][0]:.0f}" == "21"

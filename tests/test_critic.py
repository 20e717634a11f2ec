"""The section on critics: blobs of known distance, small generative networks, and what it tells."""

import matplotlib

matplotlib.use("Agg")

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from oracles import generator
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from scipy.stats import spearmanr
from torch import nn

from wdtr_lite import metric, study
from wdtr_lite.book import critic as report
from wdtr_lite.data import Dataset
from wdtr_lite.regularizer import GradientPenalty, Wasserstein
from wdtr_lite.study import blobs, critic, wgan
from wdtr_lite.study.blobs import Blobs
from wdtr_lite.study.store import Store


@pytest.fixture(autouse=True)
def apart():
    with torch.random.fork_rng(devices=[]):
        yield


# ---------------------------------------------------------------- the unit


@pytest.mark.parametrize("radius", [1, 2])
def test_mean_column_has_norm_one(radius):
    """Of any picture of mass 1 away from the border, by the sum over edges of the definition."""
    graph = wgan.unit_graph(12, 11, radius).to(torch.float64)
    x = torch.zeros(12, 11, dtype=torch.float64)
    x[4:8, 4:7] = torch.rand(4, 3, dtype=torch.float64, generator=generator())
    x = x / x.sum()
    column = torch.arange(11.0, dtype=torch.float64).expand(12, 11)
    (j, i), weight = graph.edges()
    g, u = column.flatten(), (x / graph.volume).flatten()
    assert float((weight * (g[i] - g[j]) ** 2 * (u[i] + u[j]) / 2).sum()) == pytest.approx(1)
    assert float(metric.grad_norm_sq(graph, x, column)) == pytest.approx(1)


def norm_at_pixels(graph, potential):
    """At one unit of ink in each pixel, by the sum over edges of the definition."""
    (j, i), weight = graph.edges()
    g = potential.flatten()
    half = weight * (g[i] - g[j]) ** 2 / 2
    total = torch.zeros_like(g).index_add(0, i, half).index_add(0, j, half)
    return (total / graph.volume.flatten()).sqrt().reshape(potential.shape)


@pytest.mark.parametrize(("radius", "largest"), [(1, math.sqrt(16 / 15)), (2, 1.0142)])
def test_the_plain_ramp_is_too_steep_in_the_border_rows(radius, largest):
    graph = wgan.unit_graph(24, 24, radius).to(torch.float64)
    norms = norm_at_pixels(graph, torch.arange(24.0).double().expand(24, 24))
    assert float(norms.max()) == pytest.approx(largest, abs=5e-5)
    assert bool((norms[0].max() > 1.01) & (norms[radius:-radius] < 1 + 1e-12).all())


def test_a_flatter_ramp_proves_the_shift():
    """Its norm is at most 1 at every picture, here also random ones, and it tells 7.9999 at 8."""
    graph = wgan.unit_graph(24, 24, 1).to(torch.float64)
    place = torch.arange(24.0).double()
    t = (torch.minimum(place, 23 - place) / 4).clamp(max=1)
    ramp = (0.964 + 0.036 * t**2 * (3 - 2 * t))[:, None] * (place - 11.5)
    norms = norm_at_pixels(graph, ramp)
    assert 1 - 1e-12 < float(norms.max()) < 1 + 1e-12
    x = torch.rand(5, 1, 24, 24, dtype=torch.float64, generator=generator()) ** 9
    x = x / x.sum((-2, -1), keepdim=True)
    mean = (x[:, 0] * norms**2).sum((-2, -1))
    found = metric.grad_norm_sq(graph, x, ramp.expand_as(x).contiguous())
    assert torch.allclose(found, mean) and float(found.max()) < 1
    starts = torch.cartesian_prod(torch.linspace(9.5, 14.5, 21), torch.linspace(7, 9, 9)).double()
    row, column = starts.T
    told = ((Blobs(row, column + 8).images() - Blobs(row, column).images()) * ramp).sum((1, 2, 3))
    assert 7.9999 < float(told.min()) < 8


def test_a_penalty_of_one_output_is_the_gradients_norm():
    """``of="logits"`` of a critic (B,), against numeric differences; with its slope in the
    critic's weights.
    """
    graph = wgan.unit_graph(5, 5, 1).to(torch.float64)
    model = wgan.critic(5, 0.5, 8).double()
    x = torch.rand(3, 1, 5, 5, dtype=torch.float64, generator=generator())
    penalty = GradientPenalty(Wasserstein(graph, scale=None), of="logits")
    h = 1e-6
    steps = h * torch.eye(25, dtype=torch.float64).view(25, 1, 1, 5, 5)
    with torch.no_grad():
        slopes = torch.stack([(model(x + s) - model(x - s)) / (2 * h) for s in steps], 1)
    laplacian = metric.laplacian(graph, x)[:, 0]
    expected = torch.einsum("bi,bij,bj->b", slopes, laplacian, slopes)
    assert torch.allclose(penalty(model, x), expected, rtol=1e-5)

    weight = model[2].weight
    found = torch.autograd.grad(penalty(model, x).sum(), weight)[0][1, 7]
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight[1, 7] += sign * h
            values.append(penalty(model, x).sum())
            weight[1, 7] -= sign * h
    assert float(found) == pytest.approx(float(values[0] - values[1]) / (2 * h), rel=1e-4)


def test_a_step_lowers_what_it_says():
    """One step of the trainer is Adam's on the loss, written out with autograd alone."""
    x, y, z = (torch.rand(4, 1, 5, 5, generator=generator(k)) for k in range(3))
    torch.manual_seed(0)
    ours = wgan.critic(5, 1.0, 8)
    torch.manual_seed(0)
    theirs = wgan.critic(5, 1.0, 8)
    penalty = GradientPenalty("euclidean", of="logits")
    estimate, norm = wgan.Trainer(ours, penalty, 10.0, 100, 0.01).step(x, y, z)

    at = z.clone().requires_grad_()
    g = torch.autograd.grad(theirs(at).sum(), at, create_graph=True)[0]
    norms = g.flatten(1).norm(dim=1)
    gap = theirs(x).mean() - theirs(y).mean()
    optimizer = torch.optim.Adam(theirs.parameters(), 0.01, betas=(0.5, 0.9))
    (10 * (norms - 1).square().mean() - gap).backward()
    optimizer.step()
    assert (estimate, norm) == pytest.approx((gap.item(), norms.mean().item()))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_mixture_lies_between():
    x, y = torch.zeros(50, 1, 2, 2), torch.ones(50, 1, 2, 2)
    z = wgan.mixture(x, y)
    assert bool((z == z[:, :, :1, :1]).all()) and 0 <= float(z.min()) < 0.2 < 0.8 < float(z.max())


# ---------------------------------------------------------------- blobs


def test_blobs_are_where_they_say():
    here = Blobs(torch.tensor([10.0, 13.5]), torch.tensor([8.0, 14.25]))
    x = here.images()
    place = torch.arange(24.0)
    assert torch.allclose(x.sum((1, 2, 3)), torch.ones(2))
    assert torch.allclose(torch.einsum("bchw,h->b", x, place), here.row, atol=1e-4)
    assert torch.allclose(torch.einsum("bchw,w->b", x, place), here.column, atol=1e-4)
    middle = here.between(Blobs(here.row, here.column + 4))
    assert torch.equal(middle.row, here.row)
    assert bool(((middle.column >= here.column) & (middle.column <= here.column + 4)).all())
    moved = Blobs.draw(1000, 6).column
    assert 13 <= float(moved.min()) < 13.1 and 14.9 < float(moved.max()) <= 15


def test_lengths_of_ways():
    """Moving is as long as the shift at least, and hardly longer; fading is longer. A fading step
    against the dense pseudo-inverse; two blobs' Euclidean distance in closed form.
    """
    found = blobs.known(4)
    assert 4 <= found["moving"] < 4.06 and found["fading"] > 1.2 * found["moving"]
    graph = wgan.unit_graph(24, 24, 1).to(torch.float64)
    for name, path in blobs.ways(8, 1024).items():  # in the limit of small steps
        assert blobs.known(8)[name] == pytest.approx(blobs.length(graph, path), rel=1e-3)
    assert blobs.times(96)[[0, 32, 48, 64, 96]].tolist() == pytest.approx(
        [0, 1 / 4, 1 / 2, 3 / 4, 1]
    )
    path = blobs.ways(4)["fading"][80:82]
    laplacian, step = metric.laplacian(graph, path.mean(0)), (path[1] - path[0]).flatten()
    inverse = torch.linalg.pinv(laplacian, hermitian=True, rtol=1e-14)
    assert blobs.length(graph, path) == pytest.approx(math.sqrt(float(step @ inverse @ step)))
    here, there = blobs.ways(4)["moving"][[0, -1]]
    pair = math.sqrt((1 - math.exp(-16 / 9)) / (2 * math.pi * 1.5**2))
    assert float((here - there).norm()) == pytest.approx(pair, rel=1e-3)
    assert 0.8 * pair < found["euclidean"] <= pair * 1.001


def test_how_exact_the_euclidean_distance_is():
    """500 random blobs to 500: within 1 % of a grid's; other draws scatter, and less further on."""

    def assigned(*sets):
        cost = torch.cdist(*(blob.images().flatten(1).double() for blob in sets)).numpy()
        return cost[linear_sum_assignment(cost)].mean()

    row = 9.5 + 5 * (torch.arange(25) + 0.5) / 25
    row, column = torch.cartesian_prod(row, 7 + 2 * (torch.arange(20) + 0.5) / 20).T
    scatter = {}
    for shift in (1, 4):
        grid = assigned(Blobs(row, column), Blobs(row, column + shift))
        assert blobs.known(shift)["euclidean"] == pytest.approx(grid, rel=0.01)
        torch.manual_seed(1)
        draws = [assigned(Blobs.draw(500), Blobs.draw(500, shift)) for _ in range(8)]
        scatter[shift] = np.std(draws, ddof=1) / grid
    assert 0.02 < scatter[1] < 0.06 and scatter[4] < 0.01


def test_no_way_is_shorter_than_the_shortest():
    """The convex program's, on a line; and no shorter than what the mean column tells."""
    line = wgan.unit_graph(1, 10, 1).to(torch.float64)
    at, place = torch.linspace(3, 6, 33).double(), torch.arange(10).double()
    path = torch.exp(-((place - at[:, None]) ** 2) / 2)[:, None]
    path = path / path.sum(-1, keepdim=True)
    least = float(metric.dynamic_distance(line, path[0], path[-1]).distance)
    assert float(((path[-1] - path[0]) @ place).sum()) <= least <= blobs.length(line, path)


def test_a_critic_of_blobs_tells_the_distance():
    """With the norm held along moving blobs it is the shift, but for the soft penalty."""
    found = blobs.critic_of("wasserstein, move", 4, 300, 0)
    assert found["estimate"] / found["norm"] == pytest.approx(4, rel=0.05)
    assert found["norm"] == pytest.approx(1 + 4 / 200, abs=0.01)
    assert found == blobs.critic_of("wasserstein, move", 4, 300, 0)


# ---------------------------------------------------------------- digits


def test_frechet_distance():
    a = torch.randn(400, 3, generator=generator(0), dtype=torch.float64)
    b = (
        2
        * torch.randn(300, 3, generator=generator(1), dtype=torch.float64)
        @ torch.tensor([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 0.3]], dtype=torch.float64)
    )
    one, two = (np.cov(v.numpy().T) for v in (a, b))
    apart = float((a.mean(0) - b.mean(0)).square().sum())
    expected = apart + np.trace(one + two - 2 * sqrtm(one @ two).real)
    assert critic.frechet_distance(a, b) == pytest.approx(expected)
    assert critic.frechet_distance(a, a + 3) == pytest.approx(27)


def test_class_score():
    sure = torch.eye(10).repeat(3, 1)
    assert critic.class_score(sure) == pytest.approx(10)
    assert critic.class_score(sure[[0, 0, 0]]) == pytest.approx(1)
    assert critic.class_score(torch.full((5, 10), 0.1)) == pytest.approx(1)
    half = torch.tensor([[0.5, 0.5], [1.0, 0.0]])  # against their mean, (3/4, 1/4)
    told = (0.5 * math.log(2 / 3) + 0.5 * math.log(2) + math.log(4 / 3)) / 2
    assert critic.class_score(half) == pytest.approx(math.exp(told), rel=1e-5)


def test_changes_by_hand():
    """Of the sum of the ink: moving changes nothing, Wasserstein noise neither, pixel noise does;
    of the mean column moving by a pixel changes the column's mass.
    """
    x = torch.zeros(6, 1, 14, 14)
    x[:, :, 4:9, 4:9] = torch.rand(6, 1, 5, 5, generator=generator())
    graph = wgan.unit_graph(14, 14, 2)
    ink = nn.Sequential(nn.Flatten(), nn.Linear(196, 1, bias=False), nn.Flatten(0))
    nn.init.ones_(ink[1].weight)
    found = critic.changes(ink, x, graph, generator())
    assert max(found["moved"], found["wasserstein noise"]) < 1e-4 < found["pixel noise"]
    with torch.no_grad():
        ink[1].weight.copy_(torch.arange(14.0).repeat(14)[None])
    found = critic.changes(ink, x, graph, generator())
    assert found["moved"] == pytest.approx(float(x.sum()) / 6 / 2, rel=1e-4)


def test_penalties_of_digits():
    x = torch.rand(3, 1, 14, 14, generator=generator())
    brighten = lambda image: image.sum((1, 2, 3))  # noqa: E731
    found = {m: critic.penalty_of(m, x)(brighten, x) for m in critic.METHODS}
    graph = wgan.unit_graph(14, 14, 2)
    assert torch.allclose(found["euclidean"], torch.full((3,), 196.0))
    assert float(found["wasserstein"].abs().max()) < 1e-3
    tenth = 0.1 * metric.laplacian(graph, x).diagonal(dim1=-2, dim2=-1).mean()
    for kind in ("local", "uniform"):
        assert torch.allclose(found[f"wasserstein, {kind} source"], 196 * tenth, rtol=1e-3)
    ramp = torch.linspace(-1, 1, 14).expand(14, 14)  # moves ink, and has the mean 0
    moves = lambda image: (ramp * image).sum((1, 2, 3))  # noqa: E731
    plain, uniform, local = (critic.penalty_of(m, x)(moves, x) for m in list(critic.METHODS)[1:])
    assert torch.allclose(plain, uniform, rtol=1e-4)
    assert torch.allclose(local - plain, tenth * ramp.square().sum(), rtol=1e-3)


@pytest.fixture
def pictures():
    """Twenty-eight pixels wide, of three classes: a bar at three places."""
    labels = torch.arange(240) % 3
    images = torch.zeros(240, 28, 28, dtype=torch.uint8)
    for k, label in enumerate(labels.tolist()):
        images[k, 6 + k % 4 : 20, 6 + 6 * label : 10 + 6 * label] = 255
    parts = {"train": (0, 180), "fit": (0, 120), "validation": (120, 180), "test": (180, 240)}
    split = {part: torch.arange(*ends) for part, ends in parts.items()}
    return Dataset("bars", images, labels, "made here", split)


def test_the_experiment_on_bars(pictures, monkeypatch, tmp_path):
    monkeypatch.setattr(critic.grid, "dataset_of", lambda *_: pictures)
    small = critic.Critics(
        dataset="bars",
        shifts=(1,),
        blob_steps=3,
        methods=("euclidean", "wasserstein, local source"),
        weights=(1.0, 10.0),
        seeds=(0, 1),
        steps=4,
        epochs=1,
        evaluated=60,
    )
    before = torch.get_rng_state()
    result = small.run(Store(tmp_path / "networks"))
    assert torch.equal(torch.get_rng_state(), before)
    assert [row["shift"] for row in result["known"]] == [1]
    assert len(result["blobs"]) == 3 * 2
    assert [(row["method"], row["setting"]["weight"]) for row in result["search"]] == [
        (method, weight) for method in small.methods for weight in (1.0, 10.0)
    ]
    assert [row["seed"] for row in result["rows"]] == [0, 1, 0, 1]
    for method in small.methods:
        tried = [row for row in result["search"] if row["method"] == method]
        best = min(tried, key=lambda row: row["frechet"]["validation"])
        kept = [row for row in result["rows"] if row["method"] == method]
        assert {row["setting"]["weight"] for row in kept} == {best["setting"]["weight"]}
        assert kept[0]["frechet"] == best["frechet"]
    for row in result["rows"]:
        assert len(bytes.fromhex(row["samples"])) == 24 * 14 * 14
        assert [each["step"] for each in row["history"]] == [1, 2, 3, 4]
        assert row["history"][-1]["frechet"] == pytest.approx(row["frechet"]["test"])
        assert min(row["changes"].values()) > 0 and 1 <= row["score"] <= 10
    assert [
        (row["method"], row["setting"]["weight"], row["seed"]) for row in result["exposures"]
    ] == [
        (method, weight, seed)
        for method in small.methods
        for weight in small.weights
        for seed in small.seeds
    ]
    for row in result["exposures"]:
        assert 0 <= min(row["right"].values()) <= max(row["right"].values()) <= 1
        assert math.isfinite(row["gap"]) and min(row["changes"].values()) > 0

    def nothing(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(critic.wgan, "train", nothing)
    monkeypatch.setattr(critic.wgan, "Trainer", nothing)
    monkeypatch.setattr(critic.blobs, "critic_of", nothing)
    assert small.run(Store(tmp_path / "networks")) == result


# ---------------------------------------------------------------- the section

RESULT = study.stored("critic")["result"]


@pytest.fixture
def closed():
    yield
    plt.close("all")


def cells(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.data.splitlines()]


def of(method):
    return [row for row in RESULT["rows"] if row["method"] == method]


def test_what_critics_of_blobs_tell(closed):
    lines = cells(report.blob_table())[2:]
    for line, known in zip(lines, RESULT["known"], strict=True):
        assert float(line[0]) == known["shift"]
        for name, column in (
            ("euclidean", 2),
            ("wasserstein, move", 4),
            ("wasserstein, fade", 6),
        ):
            values = [
                row["estimate"] / row["norm"]
                for row in RESULT["blobs"]
                if row["critic"] == name and row["shift"] == known["shift"]
            ]
            assert len(values) == 3 and report.told(name, known["shift"]) == values
            assert float(line[column].split(" ± ")[0]) == pytest.approx(np.mean(values), abs=0.006)
        for column, key in ((1, "euclidean"), (3, "moving"), (5, "fading")):
            assert float(line[column]) == pytest.approx(known[key], abs=0.006)
    report.opening()
    left, right = plt.gcf().axes
    marks = [line for line in left.lines if line.get_marker() in "oD"]
    assert len(marks) == 2 * len(RESULT["known"])
    assert list(right.lines[0].get_ydata()) == [0, *(row["euclidean"] for row in RESULT["known"])]


def test_tables_of_digits(closed):
    for line, method in zip(cells(report.digit_table())[2:6], report.NAMES, strict=True):
        assert line[0].startswith(report.NAMES[method])
        follows = [
            spearmanr(*zip(*((h["estimate"], h["frechet"]) for h in row["history"]), strict=True))
            for row in of(method)
        ]
        for column, values, places in (
            (1, [row["frechet"]["test"] for row in of(method)], 1),
            (2, [row["score"] for row in of(method)], 1),
            (3, [each.statistic for each in follows], 2),
        ):
            mean, sd = line[column].split(" ± ")
            assert float(mean) == pytest.approx(np.mean(values), abs=0.51 * 10**-places)
            assert float(sd) == pytest.approx(np.std(values, ddof=1), abs=0.51 * 10**-places)
    search = cells(report.search_table())[2:]
    assert len(search) == len(RESULT["search"]) == 12
    assert [line[2] for line in search] == [
        f"{row['frechet']['validation']:.1f}" for row in RESULT["search"]
    ]
    report.draw_digits()
    curves = plt.gcf().axes[-1].lines
    assert len(curves) == 3 * 4 + 1
    first = of("euclidean")[0]["history"]
    assert list(curves[0].get_ydata()) == [each["frechet"] for each in first]
    for line, method in zip(cells(report.generator_table())[2:], report.NAMES, strict=True):
        noise = [
            100 * each["pixel noise"] / each["another"]
            for row in of(method)
            for each in [row["changes"]]
        ]
        assert float(line[3].split(" ± ")[0]) == pytest.approx(np.mean(noise), abs=0.051)


def test_critics_of_double_exposures(closed):
    lines = cells(report.change_table())[2:]
    chosen = {}
    for line, (method, weight) in zip(
        lines, itertools.product(report.NAMES, (1.0, 10.0, 100.0)), strict=True
    ):
        found = [
            row
            for row in RESULT["exposures"]
            if (row["method"], row["setting"]["weight"]) == (method, weight)
        ]
        assert line[0].startswith(f"{report.NAMES[method]}, λ = {weight:g}") and len(found) == 3
        validation = np.mean([row["right"]["validation"] for row in found])
        if validation > chosen.get(method, (0, 0))[0]:
            chosen[method] = (validation, weight)
        right = 100 * np.mean([row["right"]["test"] for row in found])
        assert float(line[1]) == pytest.approx(right, abs=0.051)
        for column, change in zip((2, 3, 4), report.CHANGES, strict=True):
            values = [100 * row["changes"][change] / row["gap"] for row in found]
            assert float(line[column].split(" ± ")[0]) == pytest.approx(np.mean(values), abs=0.051)
    told = {method: report.alone(method)[0]["setting"]["weight"] for method in report.NAMES}
    assert told == {method: weight for method, (_, weight) in chosen.items()}
    assert sum("(chosen)" in line[0] for line in lines) == 4
    report.draw_changes()
    drawn = [sorted(line.get_xdata()) for line in plt.gcf().axes[1].lines]
    noise = [report.relative(report.alone(method), "wasserstein noise") for method in report.NAMES]
    assert drawn == [sorted(values) for values in noise[::-1]]


def test_ways_are_told(closed):
    """A fading blob's way is longer, and its two ends are more than half of it."""
    fading, moving = (report.way_told(way, 8) for way in report.WAYS)
    assert "19.0 pixels long, 59 %" in fading and "8.1 pixels long, 50 %" in moving
    assert len(report.draw_way("fading", 4).axes) == 6


def test_what_the_section_says():
    """Its words hold of the numbers."""
    told = {
        (name, shift): np.mean(report.told(name, shift))
        for name in blobs.CRITICS
        for shift in (1, 2, 4, 6, 8)
    }
    move, fade, flat = "wasserstein, move", "wasserstein, fade", "euclidean"
    assert [f"{told[move, k]:.1f}" for k in (4, 8)] == ["4.0", "8.0"]
    assert [f"{told[fade, k]:.1f}" for k in (4, 6, 8)] == ["4.2", "7.0", "11.8"]
    known = {row["shift"]: row for row in RESULT["known"]}
    assert f"{known[8]['fading']:.1f}" == "19.0"
    assert all(0.96 < told[flat, k] / known[k]["euclidean"] < 1 for k in known)
    assert told[flat, 8] < 1.15 * told[flat, 4]
    norms = [row["norm"] for row in RESULT["blobs"] if (row["critic"], row["shift"]) == (move, 8)]
    assert np.allclose(norms, 1.04, atol=0.005)
    distance = {m: np.mean([row["frechet"]["test"] for row in of(m)]) for m in report.NAMES}
    sourced, lit = "wasserstein, local source", "wasserstein, uniform source"
    assert [f"{distance[m]:.1f}" for m in ("euclidean", sourced)] == ["7.5", "12.9"]
    assert [f"{distance[m]:.{k}f}" for m, k in (("wasserstein", 0), (lit, 1))] == ["334", "15.6"]
    assert f"{RESULT['real']['frechet']:.1f}" == "0.9"
    assert f"{100 * RESULT['real']['error']:.1f}" == "2.7"
    follows = {m: np.mean([report.follows(row) for row in of(m)]) for m in report.NAMES}
    assert [f"{follows[m]:.2f}" for m in (sourced, lit, "euclidean")] == ["0.94", "0.95", "0.31"]
    tried = [report.follows(row) for row in RESULT["search"] if row["method"] == "euclidean"]
    assert f"{max(tried):.2f}" == "0.85"
    peak = max(of("wasserstein")[0]["history"], key=lambda each: each["estimate"])
    beside = {each["step"]: each["estimate"] for each in of(sourced)[0]["history"]}
    assert (round(peak["estimate"]), f"{beside[peak['step']]:.1f}") == (93, "1.4")
    seconds = {m: np.mean([row["seconds"]["training"] for row in of(m)]) for m in report.NAMES}
    assert [round(seconds[m]) for m in ("euclidean", sourced)] == [54, 66]
    change = {
        (m, c): np.mean(report.relative(report.alone(m), c))
        for m in report.NAMES
        for c in report.CHANGES
    }
    both = (sourced, "euclidean")
    assert [f"{change[m, 'wasserstein noise']:.1f}" for m in both] == ["7.5", "9.8"]
    assert [f"{change[m, 'moved']:.1f}" for m in both] == ["18.6", "20.2"]
    assert [f"{change[m, 'pixel noise']:.1f}" for m in both] == ["8.2", "5.9"]
    right = {m: report.right(report.alone(m)) for m in report.NAMES}
    assert [round(right[m]) for m in report.NAMES] == [94, 86, 90, 91]
    moved = {
        m: np.mean([row["changes"]["moved"] / row["changes"]["another"] for row in of(m)])
        for m in ("wasserstein", sourced)
    }
    assert [round(100 * share) for share in moved.values()] == [2, 48]

"""The section on the blind direction: what it draws and reports, and the experiment behind it."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from oracles import generator
from test_digits import blobs  # noqa: F401  a fixture

from wdtr_lite import PixelGraph, data, metric, models, study
from wdtr_lite.book import blind_direction as report
from wdtr_lite.book import reports
from wdtr_lite.metric import Source
from wdtr_lite.study.blind_direction import BlindDirection, GradientShares
from wdtr_lite.study.spec import Networks
from wdtr_lite.study.store import Store

ROWS = study.stored("blind_direction")["result"]["rows"]
PHOTOGRAPHS = study.stored("blind_direction", "cpu")["result"]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def of(method, condition, rows=ROWS):
    """The errors in percent, from the counts."""
    return [
        100 * row["wrong"][condition] / row["n"][condition]
        for row in rows
        if row["method"] == method
    ]


def cells(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.data.splitlines()]


def test_every_network_has_a_name():
    assert list(report.NAMES) == list(
        study.EXPERIMENTS["blind_direction"]["full"].networks.candidates
    )[:3] + ["wasserstein, uniform source", "wasserstein, local source"]
    assert {row["method"] for row in ROWS} == set(report.NAMES)


def test_errors_are_those_of_the_counts():
    for line, method in zip(cells(report.error_table("digits"))[2:], report.NAMES, strict=True):
        assert line[0].startswith(report.NAMES[method])
        mean, sd = line[4].split(" ± ")  # PGD 0.1
        assert float(mean) == pytest.approx(np.mean(of(method, "pgd 0.1")), abs=0.051)
        assert float(sd) == pytest.approx(np.std(of(method, "pgd 0.1"), ddof=1), abs=0.051)
    report.draw_errors()
    for axes, condition in zip(
        plt.gcf().axes, ("natural", "pgd 0.05", "pgd 0.1", "wasserstein 4"), strict=True
    ):
        drawn = [sorted(line.get_xdata()) for line in axes.lines]
        methods = [method for method in report.NAMES if method != "none"][::-1]
        assert drawn == [sorted(of(method, condition)) for method in methods]


def test_shares_are_parts_of_the_energy():
    for line, method in zip(cells(report.share_table("digits"))[2:], report.NAMES, strict=True):
        told = [row["gradient"] for row in ROWS if row["method"] == method]
        even = np.mean([100 * each["even"] / each["all"] for each in told])
        assert float(line[1].split(" ± ")[0]) == pytest.approx(even, abs=0.0051)
        assert all(0 < each[key] < each["all"] for each in told for key in ("even", "black"))
    for draw, column in ((report.opening, 0), (report.draw_shares, 0)):
        draw()
        marks = [line for line in plt.gcf().axes[column].lines if len(line.get_xdata()) == 3]
        assert len(marks) == len(report.NAMES)


def test_what_the_chapter_says():
    """Its words hold of the numbers."""
    share = {m: np.mean([each["even"] for each in report.shares(m)]) for m in report.NAMES}
    assert all(0.001 <= each["even"] < 0.002 for each in report.shares("none"))
    assert share["none"] < min(share[m] for m in report.NAMES if m != "none")
    assert max(each["even"] for m in report.NAMES for each in report.shares(m)) < 0.022
    black = {m: np.mean([each["black"] for each in report.shares(m)]) for m in report.NAMES}
    assert (round(100 * black["wasserstein"]), round(100 * black["euclidean"])) == (53, 29)
    energy = {m: np.mean([r["gradient"]["all"] for r in ROWS if r["method"] == m]) for m in share}
    assert 25 < energy["none"] / energy["wasserstein"] < 40
    even = [sum(r["gradient"]["even"] for r in ROWS if r["method"] == m) for m in reports.MAIN]
    assert round(even[0] / even[2]) == 4
    pgd = {m: np.mean(of(m, "pgd 0.1")) for m in report.NAMES}
    order = ["euclidean", "wasserstein, local source", "wasserstein, uniform source", "wasserstein"]
    assert sorted(order, key=pgd.__getitem__) == order
    natural = {m: np.mean(of(m, "natural")) for m in report.NAMES}
    assert natural["euclidean"] < natural["wasserstein, local source"]
    lengths = [np.mean(of(m, "wasserstein 4")) for m in order]
    assert max(lengths) - min(lengths) < 0.2


def test_black_pixels_without_lit_neighbours():
    """As many as the chapter says."""
    x = data.load("mnist5k").part("test", 8)[0][3].double() / 255
    graphs = (PixelGraph(28, 28, radius).to(torch.float64) for radius in (4, 8))
    diagonals = (metric.laplacian(graph, x).diagonal() for graph in graphs)
    assert [int((diagonal == 0).sum()) for diagonal in diagonals] == [334, 62]


def test_what_the_chapter_says_of_photographs():
    rows = PHOTOGRAPHS["rows"]
    even = {
        m: [100 * each["even"] for each in report.shares(m, "photographs")] for m in report.NAMES
    }
    assert (round(np.mean(even["none"])), round(np.mean(even["wasserstein"]))) == (8, 45)
    assert (round(min(even["wasserstein"])), round(max(even["wasserstein"]))) == (41, 47)
    name = "I-FGSM-20 8"
    before, after = (of(m, name, rows) for m in ("wasserstein", "wasserstein, uniform source"))
    assert all(a > b for a, b in zip(before, after, strict=True))
    assert (round(np.mean(before)), round(np.mean(after))) == (83, 80)
    assert abs(np.mean(of("euclidean", name, rows)) - np.mean(after)) < 1
    natural = [
        np.mean(of(m, "natural", rows)) for m in ("wasserstein", "wasserstein, uniform source")
    ]
    assert f"{natural[1] - natural[0]:.1f}" == "1.4"
    energy = {
        m: np.mean([row["gradient"]["all"] for row in rows if row["method"] == m])
        for m in ("wasserstein", "wasserstein, uniform source")
    }
    assert 0.45 < energy["wasserstein, uniform source"] / energy["wasserstein"] < 0.55
    large = PHOTOGRAPHS["published"]["full"]
    assert max(each["even"] / each["all"] for each in large.values()) < 0.02
    lines = cells(report.published_table())
    assert float(lines[3][3]) == round(
        100 * large["wasserstein"]["even"] / large["wasserstein"]["all"], 2
    )
    assert len(cells(report.error_table("photographs"))) == 2 + len(report.NAMES)


def test_the_search_is_told_whole():
    search = study.stored("blind_direction")["result"]["search"]
    lines = cells(report.search_table())
    assert {each["setting"].get("strength") for each in search} == {None, 0.1, 1.0, 10.0}
    for line, row in zip(lines[2:], search, strict=True):
        assert line[0] == report.NAMES[row["method"]]
        rates = [reports.rate(row, condition) for condition in ("natural", "pgd 0.1")]
        assert line[2:] == [f"{rate:.1f}" for rate in rates]


@pytest.mark.parametrize("kind", ["local", "uniform"])
def test_least_cost(kind):
    graph, source = PixelGraph(4, 3, 1).to(torch.float64), Source(kind, 0.2)
    x, xi = (torch.rand(4, 3, dtype=torch.float64, generator=generator(k)) for k in (0, 1))
    found = float(metric.tangent_norm_sq(graph, x, xi, source=source))
    assert report.least_cost(graph, x, xi, source) == pytest.approx(found, rel=1e-8)


def test_unbalanced_cost_of_a_brightening():
    x = torch.rand(4, 4, dtype=torch.float64, generator=generator(0)) + 0.5
    assert report.unbalanced_cost(x, x + 1e-3, 0.01) == pytest.approx(16e-6 / 0.01, rel=1e-3)


def test_gradient_shares_by_hand(blobs):  # noqa: F811
    torch.manual_seed(0)
    model = models.build("small_cnn", classes=3, channels=1, mean=[0.1], std=[0.3])
    found = GradientShares("test", 8, 2)(model, blobs)
    images, labels = blobs.part("test", 8)
    x = (images[:, None].double() / 255).requires_grad_()
    loss = torch.nn.functional.cross_entropy(model.double()(x), labels, reduction="sum")
    g = torch.autograd.grad(loss, x)[0]
    graph = PixelGraph(6, 6, 2).to(torch.float64)
    laplacian = metric.laplacian(graph, x.detach())
    mean = laplacian.diagonal(dim1=-2, dim2=-1).mean()
    v = g.flatten(2)
    expected = {
        "even": float((v.sum(2) ** 2 / 36).sum()),
        "all": float((v**2).sum()),
        "black": float((g[x == 0] ** 2).sum()),
        "seen": float(torch.einsum("bci,bcij,bcj->", v, laplacian, v) / mean),
        "black_pixels": float((x == 0).double().mean()),
    }
    assert found == pytest.approx(expected)


def test_the_experiment_on_blobs(monkeypatch):
    """Each row has errors and shares; a name's candidates may be of another method."""
    networks = Networks(
        dataset="mnist5k",
        training={"model": "small_cnn", "images": 64, "epochs": 1, "batch_size": 32,
                  "learning_rate": 0.05, "milestones": []},
        search={"part": "fit"},
        candidates={
            "none": [{}],
            "with a source": [
                {"method": "wasserstein", "radius": 2, "source": "local", "strength": s, "eta": 0.1}
                for s in (0.5, 1.0)
            ],
        },
        seeds=(0,),
    )  # fmt: skip
    study_ = BlindDirection(networks=networks, criteria={"attack": ["pgd 0.1"]}, evaluated=8)
    result = study_.run(Store())
    assert [row["method"] for row in result["search"]] == ["none", *["with a source"] * 2]
    assert sorted(row["method"] for row in result["rows"]) == ["none", "with a source"]
    for row in result["rows"]:
        assert row["n"]["pgd 0.1"] == 8 and 0 < row["gradient"]["even"] < row["gradient"]["all"]


def test_steps_are_told():
    """More of the attack paints where the source is strong."""
    told = [report.step_told("local", strength) for strength in (0.1, 100.0)]
    black = [float(text.split("%, ")[1].split(" %")[0]) for text in told]
    assert black[1] > black[0]
    assert report.draw_steps("uniform", 1.0).axes

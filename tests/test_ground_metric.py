"""A pixel graph learnt by maximum likelihood, and the section on it."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from oracles import generator, graph_of, kernel
from scipy.linalg import null_space
from scipy.optimize import minimize_scalar
from scipy.stats import multivariate_normal

from wdtr_lite import PixelGraph, data, metric, noise, study
from wdtr_lite.book import ground_metric as report
from wdtr_lite.book import reports
from wdtr_lite.study.ground_metric import GroundMetric, autocorrelation, pairs
from wdtr_lite.study.store import Store
from wdtr_lite.training.objectives.learnt import WEIGHTS, learnt_graph

SIZES = {
    "3x4": (3, 4, 1, 0.7),
    "weighted": (4, 3, 2, kernel(2)),
    "row": (1, 5, 2, 1.0),
    "2x6_wide": (2, 6, 5, kernel(5, seed=3)),
}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist5k")


def images(count, height, width, seed=0):
    x = torch.rand(count, height, width, dtype=torch.float64, generator=generator(seed)) + 0.05
    return x / x.sum((1, 2), keepdim=True)


def drawn(graph, x, seed=1):
    """A change of each image from the graph's Gaussian."""
    return noise.sample(graph, x, 1.0, generator=generator(seed))[0]


def brute_force(graph, x, xi):
    """The normal density by scipy, in coordinates of the changes that sum to zero."""
    axes = null_space(np.ones((1, graph.size)))
    values = []
    for image, change in zip(x, xi, strict=True):
        covariance = axes.T @ metric.laplacian(graph, image).numpy() @ axes
        values.append(multivariate_normal(cov=covariance).logpdf(axes.T @ change.flatten().numpy()))
    return np.array(values)


# ---------------------------------------------------------------- the likelihood


@pytest.mark.parametrize("size", SIZES)
def test_log_likelihood_is_the_normal_density(size):
    graph = graph_of(*SIZES[size])
    x = images(3, graph.height, graph.width)
    xi = torch.randn(x.shape, dtype=torch.float64, generator=generator(2))
    xi = xi - xi.mean((1, 2), keepdim=True)
    expected = brute_force(graph, x, xi)
    assert metric.log_likelihood(graph, x, xi).numpy() == pytest.approx(expected, rel=1e-10)


def test_log_likelihood_of_channels_and_of_float32():
    """A number for each channel, whatever the batch; in float32 as in float64, but for rounding."""
    graph = PixelGraph(4, 5, 2)
    x = images(6, 4, 5).view(3, 2, 4, 5)
    xi = 0.1 * drawn(graph_of(4, 5, 2), x)
    wide = metric.log_likelihood(graph.converted(dtype=torch.float64), x, xi)
    assert wide.shape == (3, 2)
    assert torch.equal(wide[1, 1], metric.log_likelihood(graph_of(4, 5, 2), x[1, 1], xi[1, 1]))
    low = metric.log_likelihood(graph, x.float(), xi.float())
    assert low.dtype == torch.float32
    assert low.numpy() == pytest.approx(wide.numpy(), rel=1e-5)
    many = x[:1, 0].expand(120, 4, 5), xi[:1, 0].expand(120, 4, 5)  # in parts
    assert metric.log_likelihood(graph_of(4, 5, 2), *many).std() < 1e-12


@pytest.mark.parametrize("least", [1e-13, 1e-14, 1e-15, 1e-16, 1e-60])
def test_log_likelihood_keeps_its_digits_however_dark_a_pixel(least):
    """A chain's L has as its det' n times the product of its edges, and as its potential the sums
    of what flows over each.
    """
    x = torch.full((1, 10), least, dtype=torch.float64)
    x[0, 0] = x[0, -1] = 1
    graph = graph_of(1, 10, 1)
    u = (x / graph.volume)[0]
    edges = (u[1:] + u[:-1]) / 2
    xi = torch.randn(1, 10, dtype=torch.float64, generator=generator()) * least**0.5
    xi = xi - xi.mean()
    work = float((xi[0].cumsum(0)[:-1].square() / edges).sum())
    log_det = float(edges.log().sum()) + np.log(10)
    still = -(log_det + 9 * np.log(2 * np.pi)) / 2
    found = [float(metric.log_likelihood(graph, x, each)) for each in (0 * xi, xi)]
    assert found == pytest.approx([still, still - work / 2], rel=1e-13)


def test_the_noise_level_is_a_scale_of_the_weights():
    x = images(2, 3, 4)
    xi = drawn(graph_of(3, 4, 1), x)
    louder = metric.log_likelihood(graph_of(3, 4, 1, 9.0), x, 3 * xi)
    change = metric.log_likelihood(graph_of(3, 4, 1), x, xi) - louder
    assert change.numpy() == pytest.approx(11 * np.log(3))  # the density of what is stretched


def test_the_true_weights_are_most_likely_in_expectation():
    """The mean of log p − log q over draws from p is the divergence of two normal laws."""
    true = graph_of(3, 4, 2, kernel(2))
    x = images(1, 3, 4).expand(4000, 3, 4)
    xi = drawn(true, x)
    first = metric.log_likelihood(true, x, xi)
    for seed in range(1, 6):
        other = graph_of(3, 4, 2, kernel(2, seed=seed))
        p, q = (metric.laplacian(each, x[0]).numpy() for each in (true, other))
        logs = [np.log(np.linalg.eigvalsh(each)[1:]).sum() for each in (p, q)]
        divergence = (np.trace(np.linalg.pinv(q) @ p) - 11 + logs[1] - logs[0]) / 2
        gain = first - metric.log_likelihood(other, x, xi)
        assert divergence > 0.05
        assert abs(gain.mean() - divergence) < 4 * gain.std() / len(x) ** 0.5


# ---------------------------------------------------------------- the fit


TRUE = torch.tensor([
    [2.0, 1.5, 1.0, 2.5, 2.0],
    [1.2, 0.8, 3.0, 1.0, 2.5],
    [1.5, 2.5, 0.0, 2.5, 1.5],
    [2.5, 1.0, 3.0, 0.8, 1.2],
    [2.0, 2.5, 1.0, 1.5, 2.0],
], dtype=torch.float64)  # fmt: skip


def test_the_fit_is_stationary():
    """By numeric differences of the brute-force likelihood in the logarithm of each weight."""
    x = images(12, 4, 3)
    xi = drawn(graph_of(4, 3, 2, TRUE), x)
    found = metric.fit_ground_metric(x, xi, 2)

    def likelihood(offset, factor):
        weight = found.kernel.clone()
        for sign in (1, -1):
            weight[2 + sign * offset[0], 2 + sign * offset[1]] *= factor
        return brute_force(graph_of(4, 3, 2, weight), x, xi).sum()

    at = brute_force(found, x, xi).sum()
    for offset, weight in found.forward_offsets():
        up, down, far_up, far_down = (
            likelihood(offset, np.exp(h)) for h in (0.01, -0.01, 0.3, -0.3)
        )
        assert abs(up - down) / 0.02 < 0.01  # nats
        if float(weight) > 0.01 * float(found.kernel.max()):
            assert max(far_up, far_down) < at


def test_the_fit_recovers_the_weights():
    """Within the errors of the Fisher information, tr(L⁺ ∂L L⁺ ∂L) / 2 for each pair of weights."""
    true = graph_of(4, 5, 2, TRUE)
    x = images(400, 4, 5)
    found = metric.fit_ground_metric(x, drawn(true, x), 2)
    row, column = (true.offsets[12:] + 2).T

    def laplacian(logarithms, image):
        half = torch.zeros(5, 5, dtype=torch.float64).index_put((row, column), logarithms.exp())
        return metric.laplacian(PixelGraph(4, 5, 2, weight=half + half.flip(0, 1)), image)

    truth = TRUE[row, column].log()
    steps = 1e-5 * torch.eye(12, dtype=torch.float64)
    slopes = [(laplacian(truth + s, x) - laplacian(truth - s, x)) / 2e-5 for s in steps]
    inverse = torch.linalg.pinv(laplacian(truth, x), hermitian=True)
    moved = torch.stack([inverse @ slope for slope in slopes])
    information = torch.einsum("amij,bmji->ab", moved, moved) / 2
    error = information.inverse().diagonal().sqrt()
    off = (found.kernel[row, column].log() - truth) / error
    assert error.max() < 0.4
    assert off.abs().max() < 3.5 and 0.3 < off.square().mean() < 2.2


def test_the_fit_follows_its_data():
    """Turned images turn the kernel; twice the change is four times the weight; types stay."""
    x = images(40, 3, 5)
    xi = drawn(graph_of(3, 5, 1, TRUE[1:4, 1:4]), x)
    found = metric.fit_ground_metric(x, xi, 1).kernel
    turned = metric.fit_ground_metric(x.mT, xi.mT, 1).kernel
    assert turned.numpy() == pytest.approx(found.T.numpy(), rel=1e-2)
    twice = metric.fit_ground_metric(x, 2 * xi, 1).kernel
    assert twice.numpy() == pytest.approx(4 * found.numpy(), rel=1e-2)
    low = metric.fit_ground_metric(x.view(20, 2, 3, 5).float(), xi.view(20, 2, 3, 5).float(), 1)
    assert low.dtype == torch.float32
    assert low.kernel.numpy() == pytest.approx(found.numpy(), rel=1e-2)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_fit_needs_no_gradients_of_its_caller(mode):
    x = images(20, 3, 4)
    xi = drawn(graph_of(3, 4, 1), x)
    expected = metric.fit_ground_metric(x, xi, 1).kernel
    with mode():
        inside = metric.fit_ground_metric(x, xi, 1)
        made = metric.fit_ground_metric(x.clone(), xi.clone(), 1).kernel
        low = metric.fit_ground_metric(x.float(), xi.float(), 1)
        copies = x.clone(), xi.clone()
    assert torch.equal(inside.kernel, expected) and torch.equal(made, expected)
    assert torch.equal(metric.fit_ground_metric(*copies, 1).kernel, expected)
    weight = inside.kernel.clone().requires_grad_()  # as that of any other graph
    metric.laplacian(PixelGraph(3, 4, 1, weight=weight), x[0]).sum().backward()
    assert low.dtype == low.kernel.dtype == torch.float32


def test_the_fit_follows_the_scale_of_its_data_as_far_as_their_type():
    x = images(40, 3, 5)
    xi = drawn(graph_of(3, 5, 1, TRUE[1:4, 1:4]), x)
    x, xi = x.float(), xi.float()
    kernel = metric.fit_ground_metric(x, xi, 1).kernel.double()
    for factor in (1e18, 1e-13):
        found = metric.fit_ground_metric(x, factor * xi, 1).kernel.double()
        assert (found / factor**2).numpy() == pytest.approx(kernel.numpy(), rel=1e-2)
    for factor, size in ((1e25, "large"), (1e-30, "small")):
        said = f"whose weights torch.float32 holds, got up to .* weight is too {size}"
        with pytest.raises(ValueError, match=said):
            metric.fit_ground_metric(x, (factor * xi).requires_grad_(), 1)
    with pytest.raises(ValueError, match="xi must have squares, .* from 1e-250 to 1e.250, got"):
        metric.fit_ground_metric(x.double(), 1e-140 * xi.double(), 1)


def test_an_image_too_dark_for_the_fit_is_refused():
    x = images(2, 3, 4)
    x[1, 0, 0] = 1e-12
    with pytest.raises(ValueError, match="x must have intensities up to 1e.10 times .* 1e-12 to"):
        metric.fit_ground_metric(x, drawn(graph_of(3, 4, 1), x), 1)


def test_a_weight_that_is_not_needed_goes():
    """Changes of a graph of radius 1 give none of radius 2; of rows alone hardly any between."""
    x = images(300, 4, 5)
    found = metric.fit_ground_metric(x, drawn(graph_of(4, 5, 1), x), 2).kernel
    ring = torch.ones(5, 5, dtype=torch.bool)
    ring[1:4, 1:4] = False
    assert found[ring].mean() < 0.03
    rows = drawn(graph_of(1, 5, 1), x.view(-1, 1, 5)).view_as(x)
    alone = metric.fit_ground_metric(x, rows, 1).kernel
    assert alone[0].max() < 1e-6 * alone[1, 2]


def test_no_change_is_refused():
    x = images(2, 3, 4)
    with pytest.raises(ValueError, match="xi must hold a change, got zeros"):
        metric.fit_ground_metric(x, torch.zeros_like(x), 1)
    for call in (
        lambda: metric.fit_ground_metric(x, x - 0.05, 1),
        lambda: metric.log_likelihood(graph_of(3, 4, 1), x, x - 0.05),
    ):
        with pytest.raises(ValueError, match=r"xi must sum to zero in each channel, .* of 0\.4"):
            call()


# ---------------------------------------------------------------- pairs of digits


def test_pairs_are_of_one_class(digits):
    for kind in ("nearest", "random"):
        x, xi = pairs(digits, "train", kind, 30, 400, 3, 14)
        assert x.shape == xi.shape == (30, 14, 14) and x.dtype == torch.float64
        assert (
            x.sum((1, 2)).numpy() == pytest.approx(1) and float(xi.sum((1, 2)).abs().max()) < 1e-12
        )
        assert float(x.min()) > 0 and float((x + xi).min()) > 0
        whole, labels = measures(digits, "train")
        own = torch.cdist(x.flatten(1), whole).argmin(1)
        other = torch.cdist((x + xi).flatten(1), whole).argmin(1)
        assert torch.equal(labels[own], labels[other]) and bool((own != other).all())


def test_the_nearest_is_the_nearest(digits):
    x, xi = pairs(digits, "train", "nearest", 5, len(digits.split["train"]), 0, 14)
    whole, labels = measures(digits, "train")
    for image, change in zip(x, xi, strict=True):
        apart = (whole - image.flatten()).norm(dim=1)
        own = int(apart.argmin())
        rest = apart[(labels == labels[own]) & (torch.arange(len(whole)) != own)]
        assert float(change.norm()) == pytest.approx(float(rest.min()), rel=1e-9)


def measures(digits, part):
    images, labels = digits.part(part)
    pooled = images.double().view(-1, 14, 2, 14, 2).mean((2, 4)) / 255
    pooled = pooled.clamp_min(1 / 255).flatten(1)
    return pooled / pooled.sum(1, keepdim=True), labels


def test_autocorrelation_by_hand():
    xi = torch.tensor([[[1.0, 2.0], [-3.0, 0.0]]])
    found = autocorrelation(xi, 1) * 14
    assert found.tolist() == [[0.0, -3.0, -6.0], [2.0, 14.0, 2.0], [-6.0, -3.0, 0.0]]


def test_an_edge_claims_opposite_changes():
    """The covariance off the diagonal is −ω (u + u') / 2, on the diagonal it is positive."""
    graph, x = graph_of(3, 4, 2, kernel(2)), images(1, 3, 4)[0]
    xi = noise.sample(graph, x, 1.0, generator=generator(), n=40000).flatten(1)
    found, u = xi.T @ xi / len(xi), (x / graph.volume).flatten()
    claimed = -graph.adjacency() * (u[:, None] + u) / 2
    apart = ~torch.eye(12, dtype=torch.bool)
    scale = found.diagonal().max()
    assert float((found - claimed)[apart].abs().max() / scale) < 0.03
    assert bool((claimed[apart] <= 0).all())


# ---------------------------------------------------------------- the experiments


def test_the_experiment_by_hand(digits):
    """Each noise at its best level, which a search finds too."""
    small = GroundMetric(
        dataset="mnist5k", side=14, kinds={"random": 1}, learn=8, judge=6, pool=400,
        radii=(2,), radius=1,
    )  # fmt: skip
    result = small.run(Store())
    some, others = (
        pairs(digits, part, "random", count, 400, 0, 14)
        for part, count in (("fit", 8), ("test", 6))
    )
    weights = torch.tensor(result["kernels"][0]["weights"], dtype=torch.float64)
    assert weights.max() == 1
    graphs = {"r = 2": torch.ones(5, 5, dtype=torch.float64), "learnt": weights}
    by_noise = {row["noise"]: row for row in result["rows"]}
    assert list(by_noise) == ["isotropic", *graphs]
    for name, weight in graphs.items():

        def per_pixel(level, given, weight=weight):
            graph = PixelGraph(14, 14, len(weight) // 2, weight=np.exp(level) * weight)
            return metric.log_likelihood(graph, *given) / 196

        best = minimize_scalar(lambda v: -float(per_pixel(v, some).mean()), (-14, -11))
        found, told = per_pixel(best.x, others), by_noise[name]
        assert told["learnt_from"] == pytest.approx(-best.fun, rel=1e-6)
        assert told["mean"] == pytest.approx(float(found.mean()), rel=1e-4)
        assert told["standard_error"] == pytest.approx(float(found.std()) / 6**0.5, rel=1e-3)
    level = some.xi.square().sum((1, 2)).mean() / 195  # of white noise
    white = -195 / 2 * (2 * np.pi * level).log() - others.xi.square().sum((1, 2)) / level / 2
    assert by_noise["isotropic"]["mean"] == pytest.approx(float(white.mean()) / 196)
    together = torch.tensor(result["kernels"][0]["autocorrelation"])
    assert together.numpy() == pytest.approx(autocorrelation(some.xi, 1).numpy())


def test_the_learnt_graph_is_the_stored_one():
    """The mean kernel of the nearest neighbours, its largest weight 1, to two digits."""
    stored = report.kernels("nearest", "weights")
    rounded = (stored / stored.max()).round(2)
    row, column = np.indices(rounded.shape) - 4
    forward = (row > 0) | ((row == 0) & (column > 0))
    found = {
        (int(y), int(x)): float(rounded[y + 4, x + 4])
        for y, x in zip(row[forward], column[forward], strict=True)
        if rounded[y + 4, x + 4]
    }
    assert found == WEIGHTS
    assert learnt_graph(14, 14).kernel.numpy() == pytest.approx(rounded, abs=1e-7)


# ---------------------------------------------------------------- the section


def test_slopes_by_numeric_differences():
    graph, x = graph_of(3, 4, 2, kernel(2)), images(1, 3, 4)[0]
    xi = drawn(graph, x)
    slopes = report.slope_by_edges(graph, x, xi)
    assert len(slopes) == len(graph.edges()[1])
    assert slopes.numpy() == pytest.approx(
        report.slope_by_differences(graph, x, xi).numpy(), rel=1e-5, abs=1e-6
    )


def test_potential_ratios_are_sums_of_slopes():
    """One more than the sum of the slopes over the model's part of it; 1 for the model itself."""
    graph, x = graph_of(3, 4, 2, kernel(2)), images(2, 3, 4)
    xi = drawn(graph, x)
    ratios = report.potential_ratios(graph, x, xi)
    j, i = graph.edges()[0]
    row, column = i // 4 - j // 4, i % 4 - j % 4
    still = [report.slope_by_edges(graph, each, torch.zeros(3, 4).double()) for each in x]
    slopes = [report.slope_by_edges(graph, *each) for each in zip(x, xi, strict=True)]
    for offset, _ in graph.forward_offsets():
        own = (row == offset[0]) & (column == offset[1])
        expected = 1 - sum(s[own].sum() for s in slopes) / sum(s[own].sum() for s in still)
        for sign in (1, -1):
            found = ratios[2 + sign * offset[0], 2 + sign * offset[1]]
            assert float(found) == pytest.approx(float(expected), rel=1e-10)
    many = images(1, 3, 4).expand(20000, 3, 4)
    assert float((report.potential_ratios(graph, many, drawn(graph, many)) - 1).abs().max()) < 0.05


def test_weights_are_zero_where_the_slope_is_negative(digits):
    """At the fit the section shows; the correlation does not tell it."""
    x, xi = pairs(digits, "train", "nearest", 40, 4000, 0, 14)
    graph = metric.fit_ground_metric(x, xi, 2)
    weights = graph.kernel / graph.kernel.max()
    ratios, together = report.potential_ratios(graph, x, xi), autocorrelation(xi, 2)
    active = weights > 0.01
    assert 0.96 < ratios[active].min() and ratios[active].max() < 1.035
    idle = ~active
    idle[2, 2] = False
    assert ratios[idle].max() < 0.95
    assert [f"{float(each[3, 1]):.2f}" for each in (weights, together)] == ["0.50", "0.12"]
    assert [f"{float(each[4, 2]):.2f}" for each in (weights, together)] == ["0.00", "-0.05"]


def cells(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.data.splitlines()]


def test_likelihoods_are_those_of_the_rows():
    rows = study.stored("ground_metric")["result"]["rows"]
    lines = cells(report.likelihood_table())[2:]
    assert [line[0] for line in lines] == list(report.NOISES)
    for line in lines:
        told = [r["mean"] for r in rows if (r["kind"], r["noise"]) == ("random", line[0])]
        assert len(told) == 3
        assert float(line[3].split(" ± ")[0]) == pytest.approx(np.mean(told), abs=0.00051)
    report.draw_likelihoods()
    drawn_ = [line.get_xdata() for line in plt.gcf().axes[0].lines]
    assert sorted(drawn_[0]) == sorted(report.likelihoods("nearest")["learnt"])


def test_errors_are_those_of_the_rows():
    rows = study.stored("ground_metric_penalty")["result"]["rows"]
    for line, method in zip(cells(report.error_table())[2:], report.NETWORKS, strict=True):
        own = [row for row in rows if row["method"] == method]
        assert len(own) == 3 and line[0].startswith(report.NETWORKS[method])
        for column, found in (
            (5, [row["wrong"]["pgd 0.1"] / row["n"]["pgd 0.1"] for row in own]),
            (6, [row["wasserstein"]["wrong"] / row["wasserstein"]["n"] for row in own]),
        ):
            assert float(line[column].split(" ± ")[0]) == pytest.approx(
                100 * np.mean(found), abs=0.051
            )
    report.draw_errors()
    assert [len(axes.lines) for axes in plt.gcf().axes] == [6] * 4
    assert len(cells(report.search_table())) == 2 + 31


def test_kernels_are_drawn():
    report.opening()
    bars = [axes for axes in plt.gcf().axes if axes.get_label() == "<colorbar>"]
    assert len(bars) == 2
    report.draw_kernels()
    assert len(plt.gcf().axes) == 12


def test_noises_are_told():
    texts = [report.change_told(name).replace("−", "-") for name in ("r = 1", "learnt")]
    told = [float(text.split(", ")[-1].split()[0]) for text in texts]
    assert told[0] < -0.1 < told[1]
    assert len(report.draw_changes("isotropic").axes) == 3


def test_what_the_section_says():
    near, other = (report.likelihoods(kind) for kind in ("nearest", "random"))
    mean = {name: 196 * np.mean(values) for name, values in near.items()}
    assert round(mean["learnt"] - mean["r = 2"]) == 13
    assert round(mean["r = 2"] - mean["isotropic"]) == 176
    assert round(196 * (np.mean(other["learnt"]) - np.mean(other["r = 2"]))) == 16
    for found in (near, other):
        assert max(found, key=lambda name: np.mean(found[name])) == "learnt"
        assert min(found, key=lambda name: np.mean(found[name])) == "isotropic"
        assert all(a > b for a, b in zip(found["learnt"], found["r = 2"], strict=True))
        equal = [name for name in found if name.startswith("r")]
        assert max(equal, key=lambda name: np.mean(found[name])) == "r = 2"
    together = report.kernels("nearest", "autocorrelation")
    assert {f"{together[4, 5]:.2f}", f"{together[5, 4]:.2f}"} == {"0.19"}
    stored = study.stored("ground_metric")["result"]["kernels"]
    nearest = sorted(w for each in stored for w in (each["weights"][4][5], each["weights"][5][4]))
    assert nearest[-2] < 0.003 and f"{nearest[-1]:.2f}" == "0.15"
    for each in stored[:3]:
        forward, correlation = (
            np.array(each[of]).flatten()[41:] for of in ("weights", "autocorrelation")
        )
        negative = correlation < 0
        assert negative.sum() in (35, 36) and (negative & (forward < 0.01)).sum() == 31
        assert 0.06 < each["autocorrelation"][5][3] < 0.085
        assert 0.71 < each["weights"][5][3] < 0.9
    many = [round((np.array(each["weights"]) > 0.01).sum() / 2) for each in stored]
    assert (min(many[:3]), max(many[:3]), min(many[3:]), max(many[3:])) == (5, 6, 8, 14)
    assert all(
        row["standard_error"] < 0.045 for row in study.stored("ground_metric")["result"]["rows"]
    )


def test_what_the_section_says_of_the_networks():
    rows = report.networks()
    penalised = [name for name in report.NETWORKS if name.startswith(("wasserstein", "learnt"))]
    found = {
        condition: {name: reports.errors(rows, condition, method=name) for name in report.NETWORKS}
        for condition in report.CONDITIONS
    }
    told = {name: f"{np.mean(values):.0f}" for name, values in found["pgd 0.1"].items()}
    assert list(told.values()) == ["77", "26", "72", "65", "51", "50", "68"]
    told = {name: f"{np.mean(values):.1f}" for name, values in found["wasserstein"].items()}
    assert list(told.values()) == ["24.1", "15.1", "14.8", "14.1", "12.6", "13.3", "14.4"]
    eta = {row["method"]: row["setting"].get("eta") for row in rows}
    assert [eta[name] for name in penalised] == [0.25, 0.25, 0.5, 0.5, 0.25]
    moved = {name: float(np.mean(values)) for name, values in found["translation"].items()}
    assert [f"{moved[name]:.1f}" for name in ("none", "euclidean")] == ["12.8", "12.4"]
    own = sorted(moved[name] for name in penalised)
    assert [f"{own[0]:.1f}", f"{own[-1]:.1f}"] == ["10.1", "11.0"]
    attacked = found["pgd 0.1"]
    for radius in (4, 8):
        assert min(attacked["learnt_wasserstein"]) > max(attacked[f"wasserstein, r = {radius}"])
    search = {
        row["setting"]["eta"]: reports.rate(row, "pgd 0.1")
        for row in study.stored("ground_metric_penalty")["result"]["search"]
        if row["method"] == "learnt_wasserstein"
    }
    assert abs(search[0.25] - search[0.5]) < 0.2

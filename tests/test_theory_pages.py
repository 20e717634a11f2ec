"""What chapters 4, 5 and 6 draw and measure, against closed forms, and that it is named."""

import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from wdtr_lite import PixelGraph, calculus, metric
from wdtr_lite.book import riemannian_calculus, theorem_one, wasserstein_noise

pytestmark = pytest.mark.usefixtures("closed_figures")


@pytest.fixture
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def three():
    return wasserstein_noise.measures()[1502]


def written(axes):
    return [text.get_text().strip() for text in axes.texts]


# ---------------------------------------------------------------- chapter 4


@pytest.mark.parametrize("radius", wasserstein_noise.NAMES)
def test_noise_has_the_energy_of_its_level(three, radius):
    xi = wasserstein_noise.draw(three, radius, 0.4, 200, wasserstein_noise.generator(0))
    energy = xi.square().sum((1, 2)).mean() / (0.4 * three.norm()) ** 2
    assert energy == pytest.approx(1, abs=0.03)
    assert (xi.sum((1, 2)).abs().max() < 1e-13) == (radius > 0)


def test_ink_is_near_within_a_window():
    x = torch.zeros(5, 7)
    x[2, 3] = 1
    assert wasserstein_noise.near_ink(x, 1).nonzero().min(0).values.tolist() == [1, 2]
    assert int(wasserstein_noise.near_ink(x, 1).sum()) == 9


def test_the_opening_draws_each_noise():
    wasserstein_noise.opening()
    titles = [axes.get_title() for axes in plt.gcf().axes[:6]]
    assert titles == ["picture", *wasserstein_noise.NAMES.values()]


def test_the_flower_is_noisy_where_it_is_bright():
    flower, noises, energy = wasserstein_noise.noisy_flower()
    bright, dark = flower.mean(0) > 0.5, flower.mean(0) < 0.15
    for r, xi in noises.items():
        assert float(xi.square().sum()) == pytest.approx(energy, rel=0.05)
        assert (xi[:, bright].std() > 1.5 * xi[:, dark].std()) == (r > 0)
    wasserstein_noise.show_flower(flower, noises)
    assert len(plt.gcf().axes) == 2 * (len(noises) + 1)


def test_shares_of_isotropic_noise_are_those_of_the_area(three):
    body = wasserstein_noise.share_table(three).data.splitlines()[2:]
    shares = [float(cell) for cell in body[0].strip("|").split("|")[1:]]
    assert shares[0] == pytest.approx(100 * float((three > 0).double().mean()), abs=0.05)
    for r, line in zip(wasserstein_noise.RADII, body[1:], strict=True):
        assert line.strip("|").split("|")[2 + wasserstein_noise.RADII.index(r)].strip() == "100.0"
    wasserstein_noise.show_variance(three)
    assert len(plt.gcf().axes) == 6


def test_white_power_is_the_same_in_every_band(three):
    assert wasserstein_noise.bands(torch.ones(28, 28)) == [1.0] * 7
    wasserstein_noise.show_spectrum({0: [1.0] * 7, 1: [0.5] * 7}, three)
    assert set(written(plt.gca())) == {"isotropic", "W, r = 1", "the digit itself"}


def test_a_constant_field_shifts_the_ink(three):
    """The centre moves by the speed, and no ink is lost."""
    zero, one = torch.zeros_like(three), torch.ones_like(three)
    change = wasserstein_noise.carried(three, zero, one)
    columns = torch.arange(28.0, dtype=three.dtype).expand(28, 28)
    assert float(change.sum()) == pytest.approx(0, abs=1e-12)
    assert float((change * columns).sum()) == pytest.approx(1, rel=1e-6)


def test_smooth_warps_have_an_orthonormal_basis(three):
    warps, basis = wasserstein_noise.smooth_warps(three)
    assert torch.linalg.matrix_rank(warps) == 18
    assert torch.allclose(basis.T @ basis, torch.eye(18, dtype=basis.dtype))
    shift = wasserstein_noise.carried(three, torch.zeros_like(three), torch.ones_like(three))
    assert torch.allclose(basis @ (basis.T @ shift.flatten()), shift.flatten())


def test_warp_shares_are_traces_of_the_covariance(three):
    shares = wasserstein_noise.warp_shares(three[None])
    _, basis = wasserstein_noise.smooth_warps(three)
    for r, (noisy, alone) in shares.items():
        cov = metric.laplacian(wasserstein_noise.graphs()[r], three)
        inside = torch.trace(basis.T @ cov @ basis) / cov.trace()
        assert noisy.item() == pytest.approx(100 * float(inside))
        diagonal = torch.trace(basis.T @ torch.diag(cov.diagonal()) @ basis) / cov.trace()
        assert alone.item() == pytest.approx(100 * float(diagonal))


def test_warps_are_drawn_and_written():
    shares = {r: (np.array([1.0, 3.0]), np.array([4.0, 4.0])) for r in wasserstein_noise.RADII}
    wasserstein_noise.show_warps(shares)
    assert set(written(plt.gca())) == {"the noise", "independent pixels", "isotropic"}
    line = wasserstein_noise.warp_table(shares).data.splitlines()[3]
    assert line == "| W, r = 1 | 2.0 ± 1.0 | 3.0 | 4.0 ± 0.0 |"


def test_how_far_ink_is_moved(monkeypatch):
    monkeypatch.setattr(wasserstein_noise, "LEVELS", (0.3,))
    found = wasserstein_noise.moved([1502, 0])
    for r in wasserstein_noise.RADII:
        assert (found[0.3, r][:, 0] < found[0.3, 0][:, 0]).all()
    assert (found[0.3, 1][:, 3] == 0).all()  # nothing beyond two pixels
    wasserstein_noise.show_moved(found)
    assert set(written(plt.gca())) == set(wasserstein_noise.NAMES.values())
    assert "2 digits" in wasserstein_noise.moved_table(found, 0.3).data


def test_changes_are_drawn_beside_the_changed_pictures(three):
    wasserstein_noise.show_carried(three, {"one": three[None], "other": -three[None]})
    assert [axes.get_title() for axes in plt.gcf().axes[:3]] == ["picture", "one", "other"]


def test_what_the_projection_keeps(three):
    kept = wasserstein_noise.kept(three, (0.1, 0.4), 50)
    for (r, _), (shares, mean) in kept.items():
        assert 0 < shares[1] < 105 and abs(float(mean.sum())) < 1e-12
        assert mean[three > 0].sum() < 0 < mean[three == 0].sum(), r
    wasserstein_noise.show_kept(kept, 0.4)
    assert set(written(plt.gcf().axes[0])) == {"isotropic", "W, r = 1", "W, r = 4"}


# ---------------------------------------------------------------- chapter 5


def test_corners_of_the_triangle_are_equally_far():
    column, height = riemannian_calculus.on_paper(torch.eye(3))
    corners = torch.stack([column, height], 1)
    assert torch.pdist(corners).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("start", riemannian_calculus.STARTS)
def test_a_circle_has_one_radius(start):
    x = torch.tensor([riemannian_calculus.STARTS[start]], dtype=torch.float64)
    ends = riemannian_calculus.circle(x, 0.04)[-1]
    line = PixelGraph(1, 3, 1).to(dtype=torch.float64)
    for end in ends[::18]:
        distance = metric.dynamic_distance(line, x, end[None], 32).distance
        assert float(distance) == pytest.approx(0.04, rel=1e-3)
    assert torch.allclose(ends[0], ends[-1])


def test_what_is_said_of_a_circle():
    said = riemannian_calculus.describe_circle("even", 0.04)
    assert "pixel 1 by 4.0 %, pixel 2 by 5.7 %, pixel 3 by 4.0 %" in said
    other = riemannian_calculus.describe_circle("most ink on pixel 2", 0.04)
    assert said.partition("gains")[2] == other.partition("gains")[2]
    figure = riemannian_calculus.draw_circle("even", 0.04)
    assert written(figure.axes[0]) == ["pixel 1", "pixel 2", "pixel 3"]


def test_triangles_are_drawn():
    riemannian_calculus.opening()
    assert written(plt.gca()) == ["pixel 1", "pixel 2", "pixel 3"]
    riemannian_calculus.show_log_volume(steps=12)
    assert plt.gcf().axes[-1].get_ylabel() == "log volume"


def test_the_logarithmic_mean_is_below_the_arithmetic():
    u, v = np.array([1.0, 2.0, 0.0]), np.array([math.e, 2.0, 1.0])
    mean = riemannian_calculus.logarithmic_mean(u, v)
    assert mean == pytest.approx([math.e - 1, 2, 0])


def test_misplaced_mass():
    assert riemannian_calculus.misplaced(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]])) == [50]


def test_the_marks_of_the_flow_are_named():
    times = np.linspace(0, 0.5, 101)
    heat = np.full((101, 16), 1 / 16)
    riemannian_calculus.show_entropy(times, heat, {"logarithmic": heat, "arithmetic": heat})
    left, right = plt.gcf().axes
    assert {"× logarithmic,\n— heat", "• arithmetic", "t = 0.02", "t = 0.50"} <= set(written(left))
    assert set(written(right)) == {"logarithmic", "arithmetic"}


def test_errors_of_the_printed_operator_are_drawn():
    riemannian_calculus.show_missing({"a": (9.7, False), "b": (0.0, True)})
    assert written(plt.gca()) == ["9.7 %", "0.0 %, degrees are equal"]
    riemannian_calculus.show_divergence((1, 2))
    drawn = plt.gcf().axes[0].images[0].get_array()
    grid = PixelGraph(28, 28, 1)
    assert np.allclose(drawn, 2 * calculus.laplacian_divergence(grid) / grid.degree.sum())
    riemannian_calculus.show_trace({30: (1.0, 0.5), 3000: (2.0, 0.1)}, 2.0)
    labels = [label.get_text() for label in plt.gca().get_yticklabels()]
    assert labels == ["30 samples", "3,000 samples"]


# ---------------------------------------------------------------- chapter 6


def test_quadrature_integrates_polynomials():
    z, weights = theorem_one.quadrature(2, 3)
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights @ (z[:, 0] ** 4 * z[:, 1] ** 2)) == pytest.approx(3)


def test_order_of_a_power():
    x = np.geomspace(0.1, 1, 5)
    assert theorem_one.order(x, 3 * x**4) == pytest.approx(4)


def test_means_and_shares_have_errors():
    mean, error = theorem_one.mean_and_error(np.array([[1.0, 3.0]]))
    assert (mean.item(), error.item()) == (2, 1)
    whole = torch.tensor([1.0, 2.0, 3.0])
    assert theorem_one.share(2 * whole, whole) == pytest.approx((2, 0))


@pytest.mark.parametrize("x", [-1.0, 0.0, 1.0])
def test_the_two_terms_predict_the_change(x):
    change, predicted = theorem_one.change_at(x, 0.05)
    assert change == pytest.approx(predicted, rel=0.02)
    assert f"{predicted:+.3f}" in theorem_one.describe_point(x, 0.05)


def test_the_picture_of_one_pixel():
    theorem_one.opening()
    left, right = plt.gcf().axes
    assert written(left) == ["loss", "average"]
    assert written(right) == ["gradient", "Laplacian", "sum", "• measured"]
    assert len(theorem_one.draw_point(0.0, 0.2).axes[0].texts) == 2


def test_slopes_of_the_remainders_are_written():
    etas = np.geomspace(0.002, 0.011, 6)
    curves = dict.fromkeys(("trace (8)", "Laplace–Beltrami", "as printed"), etas**2)
    theorem_one.show_remainders(etas, {"x + ξ": curves, "exp(ξ)": curves})
    left, right = plt.gcf().axes
    assert written(left) == ["slope 2", "slope 4", "trace (8)", "as printed"]
    assert written(right) == ["slope 2", "slope 4", "Laplace–Beltrami"]


def test_measured_losses_are_drawn():
    theorem_one.show_labels([0, 1], np.ones((3, 2)), np.full((3, 2), 0.1))
    assert len(plt.gca().containers) == 3 and len(written(plt.gca())) == 3
    levels = np.geomspace(0.01, 0.3, 6)
    samples = np.linspace(0.5, 1.5, 10) * np.ones((6, 1))
    theorem_one.show_monte_carlo(levels, {"x + ξ": samples, "x ± ξ": samples}, samples)
    assert written(plt.gcf().axes[0]) == ["x + ξ", "x ± ξ"]


def test_a_penalty_keeps_the_gradient_small():
    torch.manual_seed(0)
    images, labels = torch.rand(200, 1, 28, 28), torch.arange(200) % 10
    graph = PixelGraph(28, 28, 1)
    found = []
    for penalty in (0.0, 1e-2):
        net, copies = theorem_one.train(
            images, labels, 2, seed=0, graph=graph, penalty=penalty, keep=(0, 2)
        )
        assert list(copies) == [0, 2]
        last, first = net[1].weight, copies[0][1].weight
        assert torch.equal(copies[2][1].weight, last) and not torch.equal(first, last)
        leaf = images.clone().requires_grad_()
        loss = theorem_one.cross_entropy(net(leaf), labels).sum()
        (slope,) = torch.autograd.grad(loss, leaf)
        found.append(float(metric.grad_norm_sq(graph, images, slope).mean()))
    assert found[1] < found[0]


def test_a_training_run_is_drawn():
    terms = {key: torch.rand(10) + 0.1 for key in ("slope", "gradient", "laplacian", "appendix")}
    theorem_one.show_anatomy([0, 1], {"train": [terms, terms], "test": [terms, terms]})
    left, right = plt.gcf().axes
    assert len(written(left)) == len(written(right)) == 3
    theorem_one.show_trained({0.0: (0.05, 0.01), 1e-4: (0.1, 0.01)})
    labels = [label.get_text() for label in plt.gca().get_yticklabels()]
    assert labels == ["weight 0", "weight 0.0001"]


def test_losses_of_outputs():
    output, y = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0])
    assert theorem_one.square(output, y).tolist() == [1, 4]
    assert theorem_one.tanh_classifier(torch.zeros(2, 1, 1, 1)).tolist() == [0, 0]

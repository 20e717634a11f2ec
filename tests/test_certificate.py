"""Certificates: radii from gradient and curvature, the experiment on them, and its section."""

from itertools import pairwise

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from oracles import generator, graph_of, weight_matrix
from oracles import laplacian as laplacian_by_loops
from torch import nn
from torch.autograd.functional import hessian
from torch.nn import functional as F

from wdtr_lite import PixelGraph, calculus, data, metric, study
from wdtr_lite.attacks import wasserstein_attack
from wdtr_lite.book import certificate as report
from wdtr_lite.book import reports
from wdtr_lite.evaluation import (
    curvature_sums,
    curvatures,
    robust_radius,
    smallest_attack,
    softplus_bounds,
)
from wdtr_lite.evaluation.certificate import radius_of
from wdtr_lite.metric import operators
from wdtr_lite.models import small_cnn
from wdtr_lite.study.certificate import CertifiedRadii, RobustRadii, matrices

FLOOR = 1 / 255


def pictures(count, channels, height, width, seed=0):
    """Some black pixels, the others not near 0 or 1."""
    drawn = torch.rand(count, channels, height, width, generator=generator(seed)).double()
    return torch.where(drawn < 0.2, 0, 0.3 + 0.4 * drawn)


def inverse_metric(x, radius):
    """M of an image (C, H, W) by the paper's definitions, dense, channel by channel, in pixels."""
    height, width = x.shape[-2:]
    weights = weight_matrix(height, width, radius)
    squares = sum(
        (r - s) ** 2 + (c - d) ** 2
        for r in range(-radius, radius + 1)
        for c in range(-radius, radius + 1)
        for s, d in [(0, 0)]
        if abs(r) < height and abs(c) < width
    )
    unit = 2 / (height * width * squares / ((height > 1) + (width > 1)))
    blocks = [laplacian_by_loops(weights, c.clamp_min(FLOOR).flatten().numpy()) for c in x]
    return unit * torch.block_diag(*map(torch.tensor, blocks))


def root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T


def spectrum(f, point, m):
    """The eigenvalues of M^{1/2} H M^{1/2} of f at one image (C, H, W), by autograd's dense
    Hessian."""
    n = point.numel()
    second = hessian(lambda x: f(x[None])[0], point).reshape(n, n)
    return torch.linalg.eigvalsh(root(m) @ second @ root(m))


class Chain(nn.Module):
    """Affine layers with softplus between."""

    def __init__(self, *sizes, seed=0, gain=1.0):
        super().__init__()
        torch.manual_seed(seed)
        layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        self.layers = nn.ModuleList(layers).double().requires_grad_(False)
        for layer in self.layers:
            layer.weight *= gain

    @property
    def weights(self):
        return [layer.weight for layer in self.layers]

    def forward(self, x):
        h = x.flatten(1)
        for layer in self.layers[:-1]:
            h = F.softplus(layer(h))
        return self.layers[-1](h)


def labelled(model, x):
    """As the model has it, so that nothing is misclassified."""
    return model(x).argmax(1)


def two_class(f):
    """A classifier whose margin against label 0 is f."""
    return lambda x: torch.stack([torch.zeros_like(f(x)), f(x)], 1)


def true_radius(model, x, y, longest, m):
    """The least length of a change of a picture of three pixels that makes it misclassified, by
    brute force over the disc of changes; boundaries of the box are not looked at."""
    angles = torch.linspace(0, 2 * torch.pi, 721, dtype=torch.float64)[:-1]
    values, vectors = torch.linalg.eigh(m)
    legs = (vectors * values.clamp_min(0).sqrt())[:, 1:]  # the first is the constant
    directions = torch.stack([angles.cos(), angles.sin()], 1) @ legs.T
    lengths = torch.linspace(0, longest, 2001, dtype=torch.float64)
    points = x.flatten() + lengths[:, None, None] * directions
    logits = model(points.view(-1, 1, 1, 3))
    wrong = (logits.argmax(1) != y).view(len(lengths), -1).any(1)
    return float(lengths[wrong.nonzero()[0, 0]]) if wrong.any() else float("inf")


# ---------------------------------------------------------------- curvature


@pytest.mark.parametrize("channels", [1, 2])
def test_curvatures_are_those_of_the_dense_hessian(channels):
    x = pictures(3, channels, 6, 6)
    model = Chain(36 * channels, 10, 8, 3, gain=3.0)
    f = lambda x: model(x)[:, 0] - model(x)[:, 1]  # noqa: E731
    found = curvatures(f, x, graph_of(6, 6, 2), iterations=36 * channels)
    few = curvatures(f, x, graph_of(6, 6, 2), iterations=4)
    for k, point in enumerate(x):
        values = spectrum(f, point, inverse_metric(point, 2))
        assert float(found.lowest[k]) == pytest.approx(float(values[0]), rel=1e-8)
        assert float(found.highest[k]) == pytest.approx(float(values[-1]), rel=1e-8)
        assert values[0] - 1e-12 <= few.lowest[k] <= 0 <= few.highest[k] <= values[-1] + 1e-12
        assert few.highest[k] > 0.5 * values[-1]


def test_curvature_elsewhere_in_the_metric_of_the_centre():
    x, point = pictures(1, 1, 6, 6), pictures(1, 1, 6, 6, seed=1)
    model = Chain(36, 10, 8, 3, gain=3.0)
    f = lambda x: model(x)[:, 0]  # noqa: E731
    found = curvatures(f, point, graph_of(6, 6, 2), at=x, iterations=36)
    values = spectrum(f, point[0], inverse_metric(x[0], 2))
    own = spectrum(f, point[0], inverse_metric(point[0], 2))
    assert float(found.highest) == pytest.approx(float(values[-1]), rel=1e-8)
    assert abs(values[-1] / own[-1] - 1) > 1e-3


def test_an_affine_function_has_no_curvature():
    x = pictures(2, 1, 3, 4)
    found = curvatures(lambda x: x.sum((1, 2, 3)) + x[:, 0, 0, 0], x, graph_of(3, 4, 1))
    assert not torch.cat(found).any()


def test_sums_are_those_of_the_eigenvalues():
    x, graph = pictures(2, 1, 4, 5), graph_of(4, 5, 2)
    model = Chain(20, 10, 8, 3, gain=3.0)
    f = lambda x: model(x)[:, 0] - model(x)[:, 1]  # noqa: E731
    found = curvature_sums(f, x, graph, generator=generator(), samples=1000)
    for k, point in enumerate(x):
        values = spectrum(f, point, inverse_metric(point, 2))
        error = (2 * values.square().sum() / 1000).sqrt()  # of a sum of squared Gaussians
        assert abs(found.laplacian[k] - values.sum()) < 4 * error
        assert float(found.frobenius[k]) == pytest.approx(float(values.norm()), rel=0.2)
        assert found.frobenius[k] > values[-1]


def test_the_laplacian_is_that_of_equation_8():
    x, graph = pictures(1, 1, 3, 4).clamp_min(0.1), graph_of(3, 4, 1)
    model = Chain(12, 6, 2, gain=3.0)
    f = lambda x: model(x)[:, 0]  # noqa: E731
    xi = x - x.mean((-2, -1), keepdim=True)
    unit = metric.tangent_norm_sq(graph, x, xi) / metric.tangent_norm_sq(graph, x, xi, unit="pixel")
    exact = unit * calculus.laplace_beltrami(f, graph, x, volume=False).value
    dense = spectrum(f, x[0], inverse_metric(x[0], 1)).sum()
    assert float(exact) == pytest.approx(float(dense), rel=1e-8)


def test_the_laplacian_is_no_bound_where_curvatures_cancel():
    """A saddle: its Laplacian vanishes, its largest curvature does not."""
    x = torch.full((1, 1, 1, 3), 0.5, dtype=torch.float64)
    m = inverse_metric(x[0], 1)
    values, vectors = torch.linalg.eigh(m)
    ways = vectors[:, 1:] / values[1:].sqrt()  # of length 1
    quadratic = ways @ torch.diag(torch.tensor([1.0, -1.0]).double()) @ ways.T
    f = lambda x: (x.flatten(1) @ quadratic * x.flatten(1)).sum(1) / 2  # noqa: E731
    sums = curvature_sums(f, x, graph_of(1, 3, 1), generator=generator(), samples=1000)
    found = curvatures(f, x, graph_of(1, 3, 1))
    assert float(found.highest) == pytest.approx(1, rel=1e-9)
    assert float(found.lowest) == pytest.approx(-1, rel=1e-9)
    assert abs(float(sums.laplacian)) < 0.25
    assert float(sums.frobenius) == pytest.approx(2**0.5, rel=0.1)


# ---------------------------------------------------------------- radii


def test_of_a_linear_classifier_the_radius_is_exact():
    x, graph = pictures(4, 2, 4, 5), graph_of(4, 5, 2)
    model = Chain(40, 4, gain=0.3)
    y = labelled(model, x)
    found = robust_radius(model, x, y, graph)
    assert found.curvature.max() < 1e-12
    for k, point in enumerate(x):
        m, logits = inverse_metric(point, 2), model(point[None])[0]
        each = {
            j: float((logits[y[k]] - logits[j]) / (w @ m @ w).sqrt())
            for j in range(4)
            if j != y[k]
            for w in [model.weights[0][j] - model.weights[0][y[k]]]
        }
        rival = min(each, key=each.__getitem__)
        assert float(found.radius[k]) == pytest.approx(each[rival], rel=1e-10)
        assert int(found.rival[k]) == rival
        assert float(found.margin[k]) == pytest.approx(float(logits[rival] - logits[y[k]]))


def test_the_attack_needs_the_radius_and_no_more():
    """On a linear classifier, where the box is far away."""
    x = 0.4 + 0.2 * torch.rand(3, 1, 4, 5, generator=generator()).double()
    weight = torch.randn(1, 1, 4, 5, generator=generator(1)).double()
    heights = (weight * x).sum((1, 2, 3)) + 0.03
    model = two_class(lambda at: (weight * at).sum((1, 2, 3)) - heights)
    y, graph = torch.zeros(3, dtype=torch.int64), graph_of(4, 5, 2)
    least = smallest_attack(model, x, y, graph, tries=30).epsilon
    assert least.numpy() == pytest.approx(robust_radius(model, x, y, graph).radius, rel=1e-6)


def test_of_equal_curvature_in_all_directions_the_radius_is_the_quadratics():
    x = torch.full((1, 1, 1, 3), 0.5, dtype=torch.float64)
    x[0, 0, 0] += torch.tensor([0.1, -0.05, 0.0]).double()
    m, slope = inverse_metric(x[0], 1), torch.tensor([1.0, -2.0, 0.5]).double()
    bend = 3 * torch.linalg.pinv(m)
    a = float((slope @ m @ slope).sqrt())

    def f(at):
        move = (at - x).flatten(1)
        return -0.2 + move @ slope + (move @ bend * move).sum(1) / 2

    y = torch.tensor([0])
    found = robust_radius(two_class(f), x, y, graph_of(1, 3, 1))
    expected = (-a + (a * a + 2 * 3 * 0.2) ** 0.5) / 3
    assert float(found.slope) == pytest.approx(a, rel=1e-10)
    assert float(found.curvature) == pytest.approx(3, rel=1e-8)
    assert float(found.radius) == pytest.approx(expected, rel=1e-8)
    assert true_radius(two_class(f), x, 0, 0.3, m) == pytest.approx(expected, abs=2 * 0.3 / 2000)
    first = robust_radius(two_class(f), x, y, graph_of(1, 3, 1), curvature=0.0)
    assert float(first.radius) == pytest.approx(0.2 / a, rel=1e-10)
    given = robust_radius(
        two_class(f), x, y, graph_of(1, 3, 1), curvature=torch.tensor([3.0]).double()
    )
    assert float(given.radius) == pytest.approx(expected, rel=1e-10)


def test_a_constant_margin_is_never_overcome_and_a_wrong_label_has_radius_0():
    x, y = pictures(2, 1, 3, 4), torch.tensor([0, 1])
    model = two_class(lambda x: 0 * x.sum((1, 2, 3)) - 1)
    assert robust_radius(model, x, y, graph_of(3, 4, 1)).radius.tolist() == [float("inf"), 0]
    assert smallest_attack(model, x, y, graph_of(3, 4, 1)).epsilon.tolist() == [float("inf"), 0]


def test_the_own_curvature_is_no_certificate():
    """A margin that bends upwards only later."""
    x = torch.full((1, 1, 1, 3), 0.5, dtype=torch.float64)
    model = two_class(lambda x: -0.05 + 2 * F.softplus(200 * (x[:, 0, 0, 0] - 0.53)) / 200)
    m, y = inverse_metric(x[0], 1), torch.tensor([0])
    bound = float(robust_radius(model, x, y, graph_of(1, 3, 1)).radius)
    least = float(smallest_attack(model, x, y, graph_of(1, 3, 1), tries=20).epsilon)
    assert true_radius(model, x, 0, 0.2, m) - 0.2 / 2000 <= least < 0.9 * bound


def test_models_that_autograd_does_not_see_through_are_refused():
    x, y = pictures(2, 1, 3, 4), torch.tensor([0, 1])
    layer = nn.Linear(12, 3).double()
    with pytest.raises(ValueError, match="model must be differentiable in x"):
        robust_radius(lambda x: layer(x.detach().flatten(1)), x, y, graph_of(3, 4, 1))


# ---------------------------------------------------------------- certificates


def test_with_one_hidden_layer_the_bound_is_attained():
    x = pictures(2, 1, 3, 4)
    model = Chain(12, 5, 2)
    with torch.no_grad():
        model.layers[0].bias -= model.layers[0](x[:1].flatten(1))[0]
        model.layers[1].weight.copy_(torch.tensor([[0.0], [0.7]]).expand(2, 5))
    y = torch.zeros(2, dtype=torch.int64)
    bounds = softplus_bounds(model.weights, x, y, graph_of(3, 4, 1))
    f = lambda x: model(x)[:, 1] - model(x)[:, 0]  # noqa: E731
    found = [spectrum(f, point, inverse_metric(point, 1))[-1] for point in x]
    assert float(bounds.curvature[0]) == pytest.approx(float(found[0]), rel=1e-8)
    assert found[1] < bounds.curvature[1]


def test_with_two_hidden_layers_it_is_attained_where_the_second_is_straight():
    """Its units far in the positive, its weights small and those after it large."""
    x, small, way = pictures(1, 1, 3, 4), 1e-5, torch.tensor([0.6, 0.0, 0.8]).double()
    model = Chain(12, 1, 3, 2)
    with torch.no_grad():
        model.layers[0].bias -= model.layers[0](x.flatten(1))[0]
        model.layers[1].weight.copy_(small * way[:, None])
        model.layers[1].bias.fill_(15)
        model.layers[2].weight.copy_(torch.stack([0 * way, way / small]))
    bounds = softplus_bounds(model.weights, x, torch.tensor([0]), graph_of(3, 4, 1))
    f = lambda x: model(x)[:, 1] - model(x)[:, 0]  # noqa: E731
    found = spectrum(f, x[0], inverse_metric(x[0], 1))[-1]
    assert float(bounds.curvature) == pytest.approx(float(found), rel=1e-4)


@pytest.mark.parametrize("rows", [5, 143, 170])
def test_the_first_layers_norm_is_that_of_the_dense_matrix(rows):
    """Of fewer rows than pixels and of more, with singular values that lie close together, which
    twenty steps of Lanczos' method do not reach."""
    x, model = pictures(2, 1, 12, 12), Chain(144, rows, 2)
    roots = [root(inverse_metric(point, 2)) for point in x]
    first, last = model.weights
    if rows == 143:
        left = torch.linalg.svd(first @ roots[0], full_matrices=False)
        values = torch.linspace(1, 0.5, rows).double()
        first.copy_(left.U * values @ left.Vh @ torch.linalg.pinv(roots[0], rtol=1e-6))
    bounds = softplus_bounds(model.weights, x, torch.tensor([0, 1]), graph_of(12, 12, 2))
    for slope, half in zip(bounds.slope, roots, strict=True):
        expected = torch.linalg.matrix_norm(first @ half, 2) * (last[0] - last[1]).norm()
        assert float(slope) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("sizes", [(12, 6, 3), (12, 6, 5, 3), (12, 6, 5, 4, 3)])
def test_nothing_exceeds_the_bounds(sizes):
    model, graph = Chain(*sizes, gain=3.0), graph_of(3, 4, 1)
    x = pictures(1, 1, 3, 4)
    m, points = inverse_metric(x[0], 1), 2 * torch.randn(30, 1, 3, 4, generator=generator())
    for y in range(3):
        bounds = softplus_bounds(model.weights, x, torch.tensor([y]), graph)
        for point in points.double():
            for j in {0, 1, 2} - {y}:
                f = lambda x, j=j, y=y: model(x)[:, j] - model(x)[:, y]  # noqa: E731
                assert spectrum(f, point, m)[-1] <= bounds.curvature * (1 + 1e-9)
                g = torch.autograd.functional.jacobian(f, point[None]).flatten()
                assert (g @ m @ g).sqrt() <= bounds.slope * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_a_certificate_never_exceeds_the_true_radius(seed):
    model = Chain(3, 4, 3, 3, seed=seed, gain=2.0)
    x = pictures(1, 1, 1, 3, seed).clamp_min(0.1)
    y, graph = labelled(model, x), graph_of(1, 3, 1)
    m = inverse_metric(x[0], 1)
    bounds = softplus_bounds(model.weights, x, y, graph)
    certified = float(robust_radius(model, x, y, graph, curvature=bounds.curvature).radius)
    first, second = model(x)[0].sort(descending=True).values[:2]
    lipschitz = float((first - second) / bounds.slope)
    longest = 20 * certified
    truth = true_radius(model, x, int(y), longest, m)
    assert 0 < certified <= truth + longest / 2000
    assert lipschitz <= truth + longest / 2000
    least = smallest_attack(model, x, y, graph).epsilon
    assert truth - longest / 2000 <= float(least) or truth == float("inf")


def test_bounds_refuse_what_is_no_chain():
    x, y = pictures(2, 1, 3, 4), torch.tensor([0, 1])
    good = Chain(12, 5, 3).weights
    for bad, error in (
        ([], "must not be empty"),
        (good[:1], "at least two layers"),
        ([good[0], good[0]], r"weights\[1\] must be \(n, 5\)"),
        ([good[0][:, 1:], good[1]], r"weights\[0\] must be \(n, 12\)"),
        ([good[0] * float("nan"), good[1]], r"weights\[0\] must be finite"),
    ):
        with pytest.raises(ValueError, match=error):
            softplus_bounds(bad, x, y, graph_of(3, 4, 1))
    with pytest.raises(TypeError, match=r"weights\[0\] is torch.float32"):
        softplus_bounds([good[0].float(), good[1]], x, y, graph_of(3, 4, 1))


# ---------------------------------------------------------------- the smallest attack


def test_what_the_smallest_attack_returns_succeeds_at_its_length():
    x, graph = pictures(6, 1, 4, 5), graph_of(4, 5, 2)
    model = Chain(20, 10, 3, gain=4.0)
    y = labelled(model, x)
    found = smallest_attack(model, x, y, graph)
    hit = found.epsilon.isfinite()
    assert hit.any()
    assert (labelled(model, found.images) != y).tolist() == hit.tolist()
    lengths = [
        float(move @ torch.linalg.pinv(inverse_metric(point, 2)) @ move) ** 0.5
        for point, image in zip(x, found.images, strict=True)
        for move in [(image - point).flatten()]
    ]
    assert (torch.tensor(lengths) <= found.epsilon * (1 + 1e-6)).all()
    again = wasserstein_attack(model, x[hit], y[hit], graph, found.epsilon[hit], steps=10)
    assert torch.equal(again, found.images[hit])
    assert torch.equal(found.images[~hit], x[~hit])
    more = smallest_attack(model, x, y, graph, tries=14).epsilon
    assert (more <= found.epsilon).all()
    assert np.isclose(more[hit], found.epsilon[hit], rtol=0.1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lengths_stay_in_the_attacks_range(dtype):
    """Of an image on the boundary, which the shortest attack suffices for, beside one that cannot
    change and one that needs an ordinary length."""
    x = torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.6, 0.4]], dtype=dtype)[:, None, None]
    y, graph = torch.zeros(3, dtype=torch.int64), PixelGraph(1, 2, 1).to(dtype)
    found = smallest_attack(two_pixels, x, y, graph, steps=1, tries=1100)
    least = torch.finfo(dtype).eps
    assert least <= found.epsilon[0] < 3 * least
    assert found.epsilon[1] == float("inf")
    assert float(found.epsilon[2]) == pytest.approx(0.02**0.5, rel=1e-5)
    assert (two_pixels(found.images).argmax(1) != y).tolist() == [True, False, True]
    assert torch.equal(found.images[1], x[1])


# ---------------------------------------------------------------- the range of the type


def two_pixels(x):
    """Their intensities as logits."""
    return x.flatten(1)


def cubic(x):
    return (x**3).sum((1, 2, 3)) - (x[..., 1:] * x[..., :-1]).sum((1, 2, 3))


SCALES = (1e-35, 1e-23, 1e-20, 1e18, 1e20, 1e33)
SMALL = torch.rand(2, 1, 4, 4, generator=generator())


@pytest.mark.parametrize("scale", SCALES)
def test_curvature_grows_with_the_function_where_its_square_has_no_number(scale):
    found, one = (
        torch.cat(curvatures(lambda x: s * cubic(x), SMALL, PixelGraph(4, 4, 1)))
        for s in (scale, 1.0)
    )
    assert torch.allclose(found / scale, one, rtol=1e-5)
    found, one = (
        torch.cat(
            curvature_sums(
                lambda x: s * cubic(x), SMALL, PixelGraph(4, 4, 1), generator=generator()
            )
        )
        for s in (scale, 1.0)
    )
    assert torch.allclose(found / scale, one, rtol=1e-4)


@pytest.mark.parametrize("scale", SCALES)
def test_a_radius_does_not_depend_on_the_scale_of_the_logits(scale):
    x, y, graph = torch.tensor([[[[0.6, 0.4]]]]), torch.tensor([0]), PixelGraph(1, 2, 1)
    bent = lambda x: torch.stack([x[:, 0, 0, 0], x[:, 0, 0, 1] + x[:, 0, 0, 1] ** 2], 1)  # noqa: E731
    for model in (two_pixels, bent):
        found, one = (robust_radius(lambda x: s * model(x), x, y, graph) for s in (scale, 1.0))
        assert float(found.radius) == pytest.approx(float(one.radius), rel=1e-5)
    found = robust_radius(lambda x: scale * two_pixels(x), x, y, graph)
    assert float(found.radius) == pytest.approx(0.02**0.5, rel=1e-5)


def test_a_radius_is_that_of_float64_whatever_margin_slope_and_curvature():
    sizes = torch.tensor([0.0, 1e-30, 1e-20, 1.0, 1e18, 1e30])
    short, slope, curvature = torch.cartesian_prod(sizes[1:], sizes, sizes).T
    found, wide = (
        radius_of(*(v.to(dtype) for v in (-short, slope, curvature)))
        for dtype in (torch.float32, torch.float64)
    )
    kept = (wide > 1e-37) & (wide < 1e38)
    assert kept.sum() > 100
    assert torch.allclose(found.double()[kept], wide[kept], rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [1e-25, 1e-10, 1.0, 1e10])
def test_bounds_of_float32_are_those_of_float64(scale):
    x, y = pictures(2, 1, 3, 4), torch.tensor([0, 1])
    weights = [scale * Chain(12, 5, 3).weights[0], *Chain(12, 5, 3).weights[1:]]
    wide = softplus_bounds(weights, x, y, graph_of(3, 4, 1))
    narrow = softplus_bounds([w.float() for w in weights], x.float(), y, PixelGraph(3, 4, 1))
    for found, expected in zip(narrow, wide, strict=True):
        assert found.dtype == torch.float32
        least = torch.finfo(torch.float32).tiny  # a bound is not rounded to 0
        assert torch.allclose(found.double(), expected.clamp_min(least), rtol=1e-6, atol=0)


def test_bounds_that_overflow_are_refused():
    x, y, graph = pictures(1, 1, 1, 2), torch.tensor([0]), graph_of(1, 2, 1)
    eye = torch.eye(2)
    for scales in ((1e20, 1.0), (1e20, 1e20)):
        weights = [scale * eye for scale in scales]
        with pytest.raises(RuntimeError, match="softplus_bounds overflows .* scale weights"):
            softplus_bounds(weights, x.float(), y, PixelGraph(1, 2, 1))
    for scale in (1e-200, 1e200):
        with pytest.raises(ValueError, match=r"weights\[1\] must have a largest entry .* got"):
            softplus_bounds([eye.double(), scale * eye.double()], x, y, graph)
    for scale in (1e-40, 1e40):
        with pytest.raises(ValueError, match="weights must have a product of norms .* got"):
            softplus_bounds([scale * eye.double()] * 5, x, y, graph)
    zero = softplus_bounds([0 * eye.double(), eye.double()], x, y, graph)
    assert not torch.cat(zero).any()


def test_autocast_changes_no_digit():
    product = torch.randn(16, 16, generator=generator())
    f = lambda x: (x.flatten(1)[:, :, None] * x.flatten(1)[:, None] * product).sum((1, 2))  # noqa: E731
    weights = [torch.randn(30, 16), torch.randn(20, 30), torch.randn(2, 20)]
    graph, y = PixelGraph(4, 4, 1), torch.tensor([0, 1])
    calls = (
        lambda: curvatures(f, SMALL, graph),
        lambda: softplus_bounds(weights, SMALL, y, graph),
        lambda: robust_radius(two_class(f), SMALL, y, graph),
    )
    for call in calls:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = call()
        assert torch.equal(torch.stack(found), torch.stack(call()))


def test_derivatives_that_are_not_finite_are_refused_by_name():
    black, graph = torch.zeros(1, 1, 4, 4), PixelGraph(4, 4, 1)
    root, bent = (lambda x, p=p: (x**p).sum((1, 2, 3)) for p in (0.5, 1.5))
    nothing = lambda x: (x - 1).sqrt().sum((1, 2, 3))  # noqa: E731
    error = "f must have finite first and second derivatives in x, got .* scale f or x"
    for f, x in (
        (root, black),
        (bent, black),
        (nothing, SMALL),
        (cubic, 1e30 * SMALL),
        (lambda x: 1e38 * cubic(x), SMALL),
    ):
        with pytest.raises(ValueError, match=error):
            curvatures(f, x, graph)
        with pytest.raises(ValueError, match=error):
            curvature_sums(f, x, graph, generator=generator())
    with pytest.raises(ValueError, match=error.replace("f ", "model ")):
        robust_radius(two_class(lambda x: bent(x) - 1), black, torch.tensor([0]), graph)


def test_a_curvature_that_the_type_does_not_hold_is_refused():
    x, y, graph = torch.tensor([[[[0.6, 0.4]]]]), torch.tensor([0]), PixelGraph(1, 2, 1)
    for large in (1e39, torch.tensor([1e39], dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"curvature must be at most 3.4e\+38 .* got 1e\+39"):
            robust_radius(two_pixels, x, y, graph, curvature=large)
    small = robust_radius(two_pixels, x, y, graph, curvature=1e-60)
    assert small.curvature > 0


def test_empty_batches_are_refused():
    x, graph = torch.zeros(0, 1, 1, 2), PixelGraph(1, 2, 1)
    f = lambda x: x.sum((1, 2, 3))  # noqa: E731
    labels = torch.zeros(0, dtype=torch.int64)
    for call in (
        lambda: curvatures(f, x, graph),
        lambda: curvature_sums(f, x, graph, generator=generator()),
        lambda: softplus_bounds([torch.eye(2)] * 2, x, labels, graph),
    ):
        with pytest.raises(ValueError, match=r"x must hold an image, got \(0, 1, 1, 2\)"):
            call()


# ---------------------------------------------------------------- the experiment


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return small_cnn(width=2).double().requires_grad_(False)


@pytest.fixture(scope="module")
def digits():
    x, y = data.load("mnist5k").part("test", 6)
    return x[:, None].double() / 255, y


def test_a_networks_matrices_are_its_layers(network, digits):
    first, second, third, last = matrices(network)
    x, _ = digits
    layers = [network.conv1(network.normalize(x)), network.conv2(network.conv1(x))]
    zero = torch.zeros_like(x)
    constants = [network.conv1(network.normalize(zero)), network.conv2(network.conv1(zero))]
    changes = [(h - c).flatten(1) for h, c in zip(layers, constants, strict=True)]
    assert torch.allclose(x.flatten(1) @ first.T, changes[0])
    hidden = (network.conv1(x) - network.conv1(zero)).flatten(1)
    assert torch.allclose(hidden @ second.T, changes[1])
    assert torch.equal(third, network.linear1.weight)
    assert torch.equal(last, network.linear2.weight)


def test_the_bounds_of_a_network_exceed_what_it_has(network, digits):
    x, y = digits
    graph = PixelGraph(28, 28, 4).to(torch.float64)
    bounds = softplus_bounds(matrices(network), x, y, graph)
    found = robust_radius(network, x, y, graph)
    assert (found.curvature < bounds.curvature).all()
    assert (found.slope < bounds.slope).all()


def test_radii_are_those_of_the_images_that_are_classified_rightly(network, digits):
    images = (255 * digits[0][:, 0]).byte()
    y = network(images[:, None].double() / 255).argmax(1)
    y[1] = (y[1] + 1) % 10
    parts = {"train": torch.tensor([0]), "test": torch.arange(1, 6)}
    mine = data.Dataset("mine", images, y, "here", parts)
    images, y = mine.part("test", 5)
    x = images[:, None].double() / 255
    kept = network(x).argmax(1) == y
    found = RobustRadii("test", 5, 4)(network, mine)
    graph = PixelGraph(28, 28, 4).to(torch.float64)
    own = robust_radius(network, x[kept], y[kept], graph)
    first = robust_radius(network, x[kept], y[kept], graph, curvature=0.0)
    for name, values in (("own", own.radius), ("first", first.radius), ("slope", own.slope)):
        assert found[name] == pytest.approx(values.tolist(), rel=1e-3)
    assert all(len(values) == 4 for values in found.values())
    assert all(r < f for r, f in zip(found["frobenius"], found["own"], strict=True))
    certified = CertifiedRadii("test", 5, 4)(network, mine)
    assert sorted(certified) == ["curvature", "slope"]
    for name, values in certified.items():
        assert all(0 < r < f for r, f in zip(values, found["own"], strict=True)), name


# ---------------------------------------------------------------- the section


ROWS = study.stored("certificate")["result"]["rows"]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def told(method):
    """The stored radii of the digits of all networks of a method."""
    each = [row["measurements"]["radii"] for row in ROWS if row["method"] == method]
    return {name: [v for radii in each for v in radii[name]] for name in each[0]}


def cells(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.data.splitlines()]


def test_the_digits_networks_are_those_of_chapter_12():
    chosen = {
        row["method"]: row["setting"]
        for row in study.stored("blind_direction")["result"]["rows"]
        if row["method"] in reports.MAIN
    }
    candidates = study.EXPERIMENTS["certificate"]["full"].networks.candidates
    assert candidates == {method: [chosen[method]] for method in reports.MAIN}


def test_radii_in_the_table_are_medians_and_counts():
    lines = cells(report.radius_table())
    for method, line in zip(reports.MAIN, lines[2:5], strict=True):
        found = told(method)
        row = dict(zip(lines[0], line, strict=True))
        assert int(row["images"]) == len(found["own"])
        for name, text in report.RADII.items():
            if name != "proved":
                assert float(row[text]) == pytest.approx(np.median(found[name]), rel=0.06)
        for name in ("first", "own", "frobenius"):
            pairs = zip(found["attack"], found[name], strict=True)
            count = sum(attack < radius for attack, radius in pairs)
            assert int(row[f"beaten: {report.RADII[name]}"]) == count
    assert len(lines) == 2 + 9


def test_labels_that_are_kept():
    report.draw_kept()
    for axes, method in zip(plt.gcf().axes, reports.MAIN, strict=True):
        found = told(method)
        proved, own, attack = axes.lines
        for line, name in ((own, "own"), (attack, "attack")):
            lengths, shares = line.get_data()
            k = int(np.argmin(np.abs(np.asarray(lengths) - 4.0)))
            expected = np.mean([radius > lengths[k] for radius in found[name]])
            assert shares[k] == pytest.approx(100 * expected)
        assert (proved.get_ydata() <= attack.get_ydata()).all()
    lines = cells(report.kept_table())
    shares = [np.mean([r > 4 for r in told("wasserstein")[name]]) for name in ("own", "attack")]
    assert lines[4][-1] == " – ".join(f"{100 * share:.0f}" for share in shares)


def test_dots_are_the_networks():
    report.draw_beaten()
    for axes, name in zip(plt.gcf().axes, ("first", "own"), strict=True):
        for line, method in zip(axes.lines, reversed(reports.MAIN), strict=True):
            each = [row["measurements"]["radii"] for row in ROWS if row["method"] == method]
            shares = [
                100 * np.mean([a < r for a, r in zip(one["attack"], one[name], strict=True)])
                for one in each
            ]
            assert sorted(line.get_xdata()) == pytest.approx(sorted(shares))
    report.opening()
    digits, photographs = plt.gcf().axes
    assert [len(line.get_xdata()) for line in digits.lines] == [3] * 9
    assert [len(line.get_xdata()) for line in photographs.lines] == [1] * 6


def test_brute_force_on_three_pixels_is_that_of_the_test():
    x, model = pictures(1, 1, 1, 3).clamp_min(0.1), Chain(3, 4, 3, seed=2, gain=2.0)
    y = labelled(model, x)
    found = report.true_radius(model, x, y, graph_of(1, 3, 1), 10.0)
    own = true_radius(model, x, int(y), 10.0, inverse_metric(x[0], 1))
    assert found < 10
    assert found == pytest.approx(own, abs=2 * 10 / 2000)


def test_a_margin_is_drawn_below_its_lines():
    report.draw_margin("plain", 3)
    _, margin, line, parabola = plt.gcf().axes[0].lines
    values = np.asarray(margin.get_ydata())
    assert values[0] == pytest.approx(line.get_ydata()[0], abs=1e-3)
    assert values[0] < 0 < values[-1]
    assert (np.asarray(parabola.get_ydata()) >= np.asarray(line.get_ydata())).all()
    assert "a 7, as a " in report.margin_told("plain", 3)


def test_what_the_section_says():
    """Its words hold of the numbers."""
    found = {method: told(method) for method in reports.MAIN}
    beaten = {
        name: [sum(np.less(each["attack"], each[name])) for each in found.values()]
        for name in ("own", "first", "frobenius")
    }
    counts = [len(each["own"]) for each in found.values()]
    assert (beaten["own"], sum(counts)) == ([0, 0, 1], 885)
    assert beaten["frobenius"] == [0, 0, 0]
    shares = [round(100 * b / n) for b, n in zip(beaten["first"], counts, strict=True)]
    assert shares == [5, 27, 73]
    medians = {m: {k: np.median(v) for k, v in each.items()} for m, each in found.items()}
    for name, told_of in (("own", (2.9, 4.8, 4.7)), ("attack", (6.0, 8.9, 8.4))):
        assert [round(medians[m][name], 1) for m in reports.MAIN] == list(told_of)
    digits = [report.together(m) for m in reports.MAIN]
    assert [round(np.median(f["proved"]), 2) for f in digits] == [0.10, 0.03, 0.02]
    needed = [f["attack"] / f["proved"] for f in digits]
    assert [round(np.median(each)) for each in needed] == [57, 291, 446]
    assert round(100 / min(each.min() for each in needed)) == 15
    for seed in range(3):
        euclidean, wasserstein = (
            np.median(report.lists(m)[seed]["attack"]) for m in ("euclidean", "wasserstein")
        )
        assert wasserstein < euclidean
    for pictures, beaten_of in (
        ("full", [(20, 23), (9, 24), (5, 24)]),
        ("cpu", [(8, 19), (3, 12), (1, 15)]),
    ):
        each = [report.together(m, pictures) for m in reports.MAIN]
        assert [(report.beaten(f, "first").sum(), len(f["own"])) for f in each] == beaten_of
    photographs = [report.lists(m, "full")[0] for m in reports.MAIN]
    assert [round(float(np.median(f["attack"])), 1) for f in photographs] == [0.4, 2.2, 3.0]
    all_photographs = [report.lists(m, p)[0] for m in reports.MAIN for p in ("cpu", "full")]
    assert sum(len(f["own"]) for f in all_photographs) == 117
    assert not any(report.beaten(f, "own").any() for f in all_photographs)
    assert all(max(each["lowest"]) < 0 for each in found.values())
    more = [np.divide(each["ball"], each["curvature"]) for each in found.values()]
    assert [round(100 * np.mean(each > 1)) for each in more] == [90, 90, 70]
    assert [round(100 * np.median(each)) for each in more] == [104, 104, 104]
    assert round(max(each.max() for each in more), 1) == 1.8
    lost = digits[2]
    (k,) = report.beaten(lost, "own").nonzero()[0]
    assert round(float(lost["own"][k]), 1) == 6.0
    assert round(float(lost["attack"][k]), 1) == 5.8
    assert round(float(report.inside(lost)[k]), 1) == 6.2 == round(report.inside(lost).max(), 1)
    laplacian = np.less(found["none"]["laplacian"], found["none"]["curvature"])
    assert round(100 * laplacian.mean()) == 19


def test_many_iterations_of_a_spectrum_without_zero():
    """Potentials do not grow in the direction that has no norm."""
    graph = PixelGraph(6, 6, 2).to(torch.float64)
    x = 0.2 + 0.6 * torch.rand(2, 1, 6, 6, dtype=torch.float64, generator=generator(0))
    few, many = (
        curvatures(lambda z: z.square().sum((1, 2, 3)) / 2, x, graph, iterations=k)
        for k in (35, 200)
    )
    spectrum = torch.linalg.eigvalsh(metric.laplacian(graph, x)[:, 0])
    largest = spectrum[:, -1] * float(operators.squared_unit(graph, "pixel"))
    assert torch.allclose(few.highest, largest, rtol=1e-8)
    assert torch.allclose(many.highest, largest, rtol=1e-8)

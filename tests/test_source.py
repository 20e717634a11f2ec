"""The metric with a source of mass, against the minimisation that defines it."""

import numpy as np
import pytest
import torch
from oracles import SIZES, generator, graph_of, inside, weight_matrix
from scipy.linalg import lstsq

from wdtr_lite import PixelGraph, metric, noise
from wdtr_lite.attacks import wasserstein_attack
from wdtr_lite.metric import Source
from wdtr_lite.metric.source import KINDS
from wdtr_lite.regularizer import GradientPenalty, Wasserstein


@pytest.fixture(params=SIZES.values(), ids=SIZES)
def size(request):
    return request.param


@pytest.fixture(params=KINDS)
def source(request):
    return Source(request.param, 0.3)


def projection(kind, n):
    return np.eye(n) if kind == "local" else np.full((n, n), 1 / n)


def least_cost(weights, x, xi, source):
    """The least sum of m^2 / mobility over the edges that carry mass, plus s^2 / alpha over the
    pixels, of a flux m and a source s of its kind with D'm + s = xi: a least-squares problem in
    both, solved by eliminating the constraint.
    """
    n, volume = len(x), weights.sum(0) / weights.sum()
    columns, costs = [], []
    for i in range(n):
        for j in range(i):
            if weights[i, j] and x[i] / volume[i] + x[j] / volume[j] > 0:
                edge = np.zeros(n)
                edge[i], edge[j] = weights[i, j] ** 0.5, -(weights[i, j] ** 0.5)
                columns.append(edge)
                costs.append((x[i] / volume[i] + x[j] / volume[j]) / 2)
    for s in np.eye(n) if source.kind == "local" else np.ones((1, n)):
        columns.append(s)
        costs.append(source.strength / (s @ s))
    scaled = np.array(columns).T * np.sqrt(costs)  # of variables divided by the root of their cost
    found = lstsq(scaled, xi)[0]  # the shortest
    assert np.allclose(scaled @ found, xi)
    return found @ found


def test_length_is_the_least_cost_of_moves_and_sources(size, source):
    """Of changes of any sum; where the source is local, also on black pixels out of reach."""
    graph, weights = graph_of(*size), weight_matrix(*size)
    x = inside(3, *size[:2])
    if source.kind == "local":
        x[0] = 0
        x[1, ..., 1:] = 0
    xi = torch.randn(x.shape, dtype=x.dtype, generator=generator(1))
    found = metric.tangent_norm_sq(graph, x[:, None], xi[:, None], source=source)
    for value, image, change in zip(
        found, x.flatten(1).numpy(), xi.flatten(1).numpy(), strict=True
    ):
        assert float(value) == pytest.approx(least_cost(weights, image, change, source), rel=1e-8)


def test_inverse_is_the_laplacian_plus_the_projection(size, source):
    graph, x = graph_of(*size), inside(2, *size[:2])
    matrix = metric.laplacian(graph, x, source=source)
    n = graph.size
    expected = metric.laplacian(graph, x).numpy() + 0.3 * projection(source.kind, n)
    assert np.allclose(matrix.numpy(), expected, rtol=1e-12, atol=1e-12)
    v = torch.randn(x.shape, dtype=x.dtype, generator=generator(2))
    applied = metric.apply_laplacian(graph, x, v, source=source)
    assert torch.allclose(applied.flatten(1), (matrix @ v.flatten(1)[..., None])[..., 0])
    squared = metric.grad_norm_sq(graph, x[:, None], v[:, None], source=source)
    assert torch.allclose(squared, (applied * v).sum((1, 2)))
    phi = metric.potential(graph, x, applied, source=source).value
    assert torch.allclose(phi, v, atol=1e-7)
    w = v.flip(0)
    product = metric.inner(graph, x[:, None], applied[:, None], w[:, None], source=source)
    assert torch.allclose(product, (v * w).sum((1, 2)), atol=1e-7)


def test_brightening_in_closed_form(source):
    """A change of c in every pixel is all source: n c^2 / alpha; its gradient's norm likewise."""
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64, generator=generator(0))
    graph, c = PixelGraph(4, 5, 2).to(torch.float64), torch.full_like(x, 0.1)
    length = metric.tangent_norm_sq(graph, x, c, source=source)
    assert torch.allclose(length, torch.full_like(length, 3 * 20 * 0.01 / 0.3))
    norm = metric.grad_norm_sq(graph, x, c, source=source)
    assert torch.allclose(norm, torch.full_like(norm, 0.3 * 3 * 20 * 0.01))
    assert bool(metric.grad_norm_sq(graph, x, c).abs().max() < 1e-14)


def test_between_the_two_metrics(size):
    """A weak local source leaves the length of a tangent vector as it is, a strong one leaves its
    Euclidean length.
    """
    graph, x = graph_of(*size), inside(1, *size[:2])[:, None]
    xi = torch.randn(x.shape, dtype=x.dtype, generator=generator(3))
    xi = xi - xi.mean((-2, -1), keepdim=True)
    weak = metric.tangent_norm_sq(graph, x, xi, source=Source("local", 1e-9))
    assert torch.allclose(weak, metric.tangent_norm_sq(graph, x, xi), rtol=1e-4)
    strong = metric.tangent_norm_sq(graph, x, xi, source=Source("local", 1e9))
    assert torch.allclose(1e9 * strong, (xi**2).sum((1, 2, 3)), rtol=1e-4)
    uniform = metric.tangent_norm_sq(graph, x, xi, source=Source("uniform", 0.1))
    assert torch.allclose(uniform, metric.tangent_norm_sq(graph, x, xi), rtol=1e-6)


def test_differentiable(source):
    graph = PixelGraph(2, 3, 1).to(torch.float64)
    drawn = generator(0)
    x, v = (torch.rand(2, 1, 2, 3, dtype=torch.float64, generator=drawn) for _ in range(2))
    inputs = x.requires_grad_(), v.requires_grad_()

    def length(x, v):
        return metric.tangent_norm_sq(graph, x, v, source=source)

    def norm(x, v):
        return metric.grad_norm_sq(graph, x, v, source=source)

    for function in (length, norm):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs, atol=1e-4)


def test_noise_has_the_inverse_metric_as_covariance(source):
    graph = PixelGraph(2, 3, 1).to(torch.float64)
    x = torch.tensor([[[0.5, 0.1, 0.0], [0.0, 0.2, 0.2]]], dtype=torch.float64)
    drawn = generator(0)
    xi = noise.sample(graph, x, 0.5, generator=drawn, n=40_000, source=source).flatten(1)
    matrix = 0.25 * metric.laplacian(graph, x, source=source)[0]
    found = xi.T @ xi / len(xi)
    diagonal = matrix.diagonal()
    spread = (matrix**2 + diagonal[:, None] * diagonal).div(len(xi)).sqrt()
    assert bool(((found - matrix).abs() < 5 * spread).all())


def test_noisy_images_without_negative_pixels(source):
    x = torch.rand(3, 1, 6, 6, generator=generator(0))
    kind = {"generator": generator(1), "source": source}
    image = x + noise.sample(PixelGraph(6, 6, 1), x, 0.2, nonnegative=True, **kind)[0]
    assert bool((image >= -1e-6).all())
    assert bool((image.sum((-2, -1)) != x.sum((-2, -1))).all())


@pytest.mark.parametrize("kind", KINDS)
def test_float32_and_half_black_digits(kind):
    x = torch.zeros(1, 1, 12, 12)
    x[..., 4:8, 4:8] = 1
    graph, xi = PixelGraph(12, 12, 2), torch.zeros_like(x)
    xi[..., 5, 5], xi[..., 6, 7] = 0.1, -0.2
    if kind == "uniform":
        x = x + 0.001
    narrow = metric.tangent_norm_sq(graph, x, xi, source=Source(kind, 0.05))
    wide = metric.tangent_norm_sq(
        graph.converted(dtype=torch.float64), x.double(), xi.double(), source=Source(kind, 0.05)
    )
    assert torch.allclose(narrow.double(), wide, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        (("global", 0.1), ValueError, "kind must be"),
        (("local", 0.0), ValueError, "strength must be positive"),
        (("local", float("nan")), ValueError, "strength must be"),
        (("local", "much"), TypeError, "strength must be"),
        (("local", 1e-39), ValueError, "strength must be from 1e-20 to 1e10, got 1e-39"),
        (("uniform", 2e10), ValueError, "strength must be from 1e-20 to 1e10, got 2e"),
    ],
)
def test_bad_sources(arguments, error, told):
    with pytest.raises(error, match=told):
        Source(*arguments)


@pytest.mark.parametrize(
    ("method", "arguments", "error", "told"),
    [
        ("product", (3.0,), TypeError, "v must be a tensor, got float"),
        ("product", (torch.ones(3),), ValueError, r"v must be \(\.\.\., H, W\), got \(3,\)"),
        ("norm_sq", (None,), TypeError, "v must be a tensor, got NoneType"),
        ("norm_sq", (torch.ones(2, 2).long(),), TypeError, "v must be a floating tensor, got"),
        ("mean_diagonal", (0,), ValueError, "size must be at least 1, got 0"),
        ("mean_diagonal", ("a",), TypeError, "size must be a whole number, got 'a'"),
        ("sample", (torch.ones(2, 2), None), TypeError, "generator must be a torch.Generator"),
        ("sample", (None, generator()), TypeError, "like must be a tensor, got NoneType"),
    ],
)
def test_bad_arguments_of_a_source(method, arguments, error, told, source):
    with pytest.raises(error, match=f"^{told}"):
        getattr(source, method)(*arguments)


@pytest.mark.parametrize("bad", ["local", 0.1])
def test_a_source_must_be_one(bad):
    x = torch.rand(1, 1, 3, 3)
    graph = PixelGraph(3, 3, 1)
    for call in (
        lambda: metric.laplacian(graph, x, source=bad),
        lambda: metric.apply_laplacian(graph, x, x, source=bad),
        lambda: metric.grad_norm_sq(graph, x, x, source=bad),
        lambda: metric.potential(graph, x, x, source=bad),
        lambda: metric.tangent_norm_sq(graph, x, x, source=bad),
        lambda: metric.inner(graph, x, x, x, source=bad),
        lambda: noise.sample(graph, x, 0.1, generator=generator(), source=bad),
    ):
        with pytest.raises(TypeError, match="source must be Source"):
            call()


def test_a_uniform_source_does_not_reach_islands():
    """What the source does not explain is moved, which needs a way."""
    x = torch.tensor([[[[1.0, 0.0, 0.0, 0.0, 1.0]]]])
    with pytest.raises(ValueError, match="xi must sum to zero"):
        metric.tangent_norm_sq(PixelGraph(1, 5, 1), x, x, source=Source("uniform", 1.0))


@pytest.mark.parametrize("scale", ["trace", None])
def test_norm_of_the_penalty(source, scale):
    """By the dense matrix; its direction is its derivative."""
    graph, drawn = PixelGraph(4, 3, 2).to(torch.float64), generator(0)
    x, g = (torch.rand(3, 2, 4, 3, dtype=torch.float64, generator=drawn) for _ in range(2))
    matrix = metric.laplacian(graph, x)
    if scale == "trace":
        matrix = matrix / matrix.diagonal(dim1=-2, dim2=-1).mean()
    matrix = matrix + 0.3 * torch.tensor(projection(source.kind, 12))
    if scale == "trace":
        matrix = matrix / matrix.diagonal(dim1=-2, dim2=-1).mean()
    norm, v = Wasserstein(graph, scale, source=source), g.flatten(2)
    found = norm.norm_sq(x, g.requires_grad_())
    assert torch.allclose(found, torch.einsum("bci,bcij,bcj->b", v, matrix, v))
    slope = torch.autograd.grad(found.sum(), g)[0]
    assert torch.allclose(norm.direction(x, g), slope)


def test_finite_difference_of_the_penalty(source):
    """The same derivative in the parameters as double back-propagation."""
    drawn = generator(0)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(12, 5), torch.nn.Softplus(), torch.nn.Linear(5, 3)
    ).double()
    x, y = torch.rand(6, 1, 4, 3, dtype=torch.float64, generator=drawn), torch.arange(6) % 3
    norm, found = Wasserstein(PixelGraph(4, 3, 1).to(torch.float64), source=source), []
    for how in ({}, {"mode": "finite_difference", "step": 1e-5, "central": True}):
        penalty = GradientPenalty(norm, **how)(model, x, y).sum()
        found.append(torch.autograd.grad(penalty, model[1].weight)[0])
    assert torch.allclose(*found, rtol=1e-4, atol=1e-7)


def ball(graph, x, xi, source):
    return metric.tangent_norm_sq(graph, x, xi, source=source, unit="pixel").sqrt()


def test_attack_solves_the_linear_problem(source):
    """Of a linear loss and an interior image: epsilon times the unit vector along (L + alpha P) g,
    and no change of that length raises the loss more.
    """
    graph, drawn = PixelGraph(4, 4, 1).to(torch.float64), generator(0)
    weight = torch.randn(16, dtype=torch.float64, generator=drawn)
    x = 0.4 + 0.2 * torch.rand(1, 1, 4, 4, dtype=torch.float64, generator=drawn)

    def model(z):
        score = z.flatten(1) @ weight
        return torch.stack([0 * score, score], 1)

    y = torch.tensor([0])
    xi = wasserstein_attack(model, x, y, graph, 0.01, source=source) - x
    assert float(ball(graph, x, xi, source)) == pytest.approx(0.01, rel=1e-6)
    raised = metric.apply_laplacian(graph, x, weight.view(1, 1, 4, 4), source=source)
    assert torch.allclose(xi / xi.norm(), raised / raised.norm(), atol=1e-8)
    for _ in range(50):
        other = torch.randn(x.shape, dtype=torch.float64, generator=drawn)
        other = 0.01 * other / ball(graph, x, other, source)
        assert float(other.flatten() @ weight) < float(xi.flatten() @ weight)


def test_attack_stays_in_the_box_and_in_the_ball(source):
    graph, drawn = PixelGraph(4, 4, 1).to(torch.float64), generator(0)
    weight = torch.randn(16, 2, dtype=torch.float64, generator=drawn)
    x = torch.rand(5, 1, 4, 4, dtype=torch.float64, generator=drawn).round(decimals=0)
    y = torch.arange(5) % 2
    found = wasserstein_attack(
        lambda z: z.flatten(1) @ weight, x, y, graph, 0.4, steps=4, source=source
    )
    assert bool(((found >= 0) & (found <= 1)).all())
    lengths = ball(graph, x.clamp_min(1 / 255), found - x, source)
    assert bool((lengths < 0.4 * (1 + 1e-6)).all())
    assert bool(((found - x).sum((1, 2, 3)).abs() > 1e-6).any())


@pytest.mark.parametrize("alpha", [0.1, 1e-2, 1e-3])
def test_derivatives_in_float32_with_a_weak_source(source, alpha):
    """The level, of the size 1 / alpha, has no part in the derivative in x but its rounding."""
    graph, drawn = PixelGraph(12, 12, 2), generator(0)
    x = torch.rand(1, 1, 12, 12, generator=drawn) + 0.2
    xi = 0.1 * torch.randn(1, 1, 12, 12, generator=drawn) + 0.1
    found = []
    for g, image, change in (
        (graph, x, xi),
        (graph.converted(dtype=torch.float64), x.double(), xi.double()),
    ):
        image = image.clone().requires_grad_()
        length = metric.tangent_norm_sq(g, image, change, source=Source(source.kind, alpha))
        found.append(torch.autograd.grad(length.sum(), image)[0].double())
    assert float((found[0] - found[1]).norm() / found[1].norm()) < 1e-4


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-6, 1e-5, 1e-3])
def test_even_brightening_up_to_rounding(source, noise):
    """The rounding of an even change is no moved mass."""
    graph, drawn = PixelGraph(28, 28, 2), generator(0)
    for _ in range(10):
        x = 0.8 * torch.rand(2, 3, 28, 28, generator=drawn)
        xi = (
            (x + 0.1) - x
            if noise == 0
            else 0.1 * (1 + noise * torch.randn(x.shape, generator=drawn))
        )
        found = metric.tangent_norm_sq(graph, x, xi, source=source)
        assert torch.allclose(found, torch.full((2,), 3 * 784 * 0.01 / 0.3), rtol=2e-3)


def test_attack_along_an_even_gradient(source):
    """The docstring's model, brighter is one, moves evenly."""
    x = 0.1 + 0.8 * torch.rand(1, 1, 2, 3, generator=generator(0))

    def brighter_is_one(z):
        return torch.stack([0 * z.sum((1, 2, 3)), z.sum((1, 2, 3))], 1)

    y, graph = torch.tensor([1]), PixelGraph(2, 3, 1)
    found = wasserstein_attack(brighter_is_one, x, y, graph, 0.01, source=source)
    assert torch.allclose(found - x, (found - x).mean().expand_as(x), atol=1e-6)
    assert float((found - x).mean()) < 0


def test_attack_with_a_weak_source():
    """Far weaker than L(x), whose rounding it is below."""
    x = torch.rand(2, 1, 28, 28, generator=generator(0))
    weight = torch.randn(784, 10, generator=generator(1))
    found = wasserstein_attack(
        lambda z: z.flatten(1) @ weight, x, torch.tensor([1, 2]), PixelGraph(28, 28, 2), 0.3,
        floor=1.0, source=Source("local", 1e-3),
    )  # fmt: skip
    assert found.shape == x.shape


@pytest.mark.parametrize("alpha", [1e-2, 1e-3])
def test_derivative_of_a_potential_in_float32_with_a_weak_source(source, alpha):
    graph, drawn = PixelGraph(3, 4, 1), generator(0)
    x = torch.rand(1, 3, 4, generator=drawn) + 0.2
    xi, along = (torch.randn(1, 3, 4, generator=drawn) for _ in range(2))
    found = []
    for g, *given in (
        (graph, x, xi, along),
        (graph.converted(dtype=torch.float64), x.double(), xi.double(), along.double()),
    ):
        image = given[0].clone().requires_grad_()
        phi = metric.potential(g, image, given[1], source=Source(source.kind, alpha)).value
        found.append(torch.autograd.grad((phi * given[2]).sum(), image)[0].double())
    assert float((found[0] - found[1]).norm() / found[1].norm()) < 2e-4


@pytest.mark.parametrize("lit", ["all", "islands", "dot"])
@pytest.mark.parametrize("kind", [None, *KINDS])
def test_second_derivatives_whatever_is_lit(lit, kind):
    """Along cotangents with a level, which no tangent vector has: rounding alone is left of it."""
    graph, source = PixelGraph(5, 6, 1).to(torch.float64), kind and Source(kind, 1.0)
    for seed in range(5):
        drawn = generator(seed)
        x, v, along = (torch.rand(5, 6, dtype=torch.float64, generator=drawn) for _ in range(3))
        if lit != "all":
            keep = torch.zeros(5, 6, dtype=torch.bool)
            keep[2, 3] = True
            keep[0, :2] = keep[4, 5] = lit == "islands"
            x = x * keep
        xi = metric.apply_laplacian(graph, x, v, source=source).requires_grad_()
        x.requires_grad_()
        length = metric.tangent_norm_sq(graph, x, xi, source=source)
        slopes = torch.autograd.grad(length, (x, xi), create_graph=True)
        torch.autograd.grad((slopes[0] * along).sum(), (x, xi), retain_graph=True)
        (second,) = torch.autograd.grad((slopes[1] * along).sum(), xi)
        if kind != "uniform":
            inverse = torch.linalg.pinv(metric.laplacian(graph, x, source=source))
            assert torch.allclose(second.flatten(), 2 * inverse @ along.flatten(), atol=1e-9)

"""Wasserstein Gaussian noise: its covariance exactly and by sampling, its mass, the projection, and
bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import (
    SIZES,
    generator,
    gpu,
    graph_of,
    images,
    inside,
    kernel,
    laplacian,
    measures,
    seeds,
    weight_matrix,
)
from scipy.optimize import minimize

from wdtr_lite import PixelGraph, data, metric, noise, transport
from wdtr_lite.noise import project_to_simplex, sample


@pytest.fixture(params=SIZES.values(), ids=SIZES)
def size(request):
    return request.param


# ---------------------------------------------------------------- the distribution


def test_noise_is_a_factor_of_the_laplacian(size, monkeypatch):
    """Fed the unit vectors for its normal numbers, one an edge, it gives eta D' Lambda^1/2 column
    by column; so its covariance is eta^2 D' Lambda D = eta^2 L(x) without any sampling error."""
    graph, x = graph_of(*size), images(*size[:2], seed=1, black=0.4)
    weights = weight_matrix(*size)
    edges = int(np.count_nonzero(weights)) // 2
    unit, used = torch.eye(edges, dtype=torch.float64), 0

    def feed(n, *shape, **_):
        nonlocal used
        part = unit[:, used : used + math.prod(shape)]
        used += part.shape[1]
        return part.view(n, *shape)

    monkeypatch.setattr(torch, "randn", feed)
    factor = sample(graph, x, 0.3, generator=generator(), n=edges).flatten(1).numpy()
    assert used == edges
    np.testing.assert_allclose(
        factor.T @ factor, 0.09 * laplacian(weights, x.flatten().numpy()), rtol=0, atol=1e-12
    )
    d = weights.sum(1) / weights.sum()
    for row, (j, i) in zip(
        factor, (np.flatnonzero(r) for r in graph.incidence().to_dense().numpy())
    ):
        u = x.flatten().numpy() / d
        expected = np.zeros(graph.size)
        expected[i] = 0.3 * (weights[i, j] * (u[i] + u[j]) / 2) ** 0.5
        expected[j] = -expected[i]
        np.testing.assert_allclose(row, expected, rtol=1e-12)


def test_noise_covariance(size):
    """Mean 0 and covariance eta^2 L(x), each entry within five standard errors of 50,000 samples:
    the standard error of C_ij is sqrt((C_ii C_jj + C_ij^2) / n) for Gaussians."""
    n, eta = 50_000, 0.2
    graph, x = graph_of(*size), images(*size[:2], seed=2)
    xi = sample(graph, x, eta, generator=generator(), n=n).flatten(1)
    expected = torch.tensor(eta**2 * laplacian(weight_matrix(*size), x.flatten().numpy()))
    variance = expected.diagonal()
    error = ((variance[:, None] * variance + expected**2) / n).sqrt()
    assert ((xi.T @ xi / n - expected).abs() <= 5 * error + 1e-15).all()
    assert (xi.mean(0).abs() <= 5 * (variance / n).sqrt() + 1e-15).all()


def test_noise_energy(size):
    """E |xi|^2 = eta^2 tr L(x) is eta^2 times the sum of all degrees times the mass of x, wherever
    the mass is."""
    x, weights = images(2, *size[:2]), weight_matrix(*size)
    for image in x.flatten(1).numpy():
        assert laplacian(weights, image).trace() == pytest.approx(
            weights.sum() * image.sum(), rel=1e-12
        )
    xi = sample(graph_of(*size), x, 0.3, generator=generator(), n=5000)
    energy = xi.square().sum((-2, -1))
    expected = 0.09 * float(weights.sum()) * x.sum((-2, -1))
    assert ((energy.mean(0) - expected).abs() <= 5 * energy.std(0) / 5000**0.5).all()


def test_noise_is_gaussian():
    """The even moments 1, 3 and 15 of a mixed direction, within five standard errors."""
    graph, x = graph_of(3, 4, 2, kernel(2)), inside(3, 4)
    n, v = 100_000, np.sin(np.arange(12))
    xi = sample(graph, x, 1.0, generator=generator(), n=n).flatten(1)
    matrix = laplacian(weight_matrix(3, 4, 2, kernel(2)), x.flatten().numpy())
    z = (xi @ torch.tensor(v)) / (v @ matrix @ v) ** 0.5
    for power, moment in ((2, 1), (4, 3), (6, 15)):
        draws = z**power
        assert float(draws.mean()) == pytest.approx(moment, abs=5 * float(draws.std()) / n**0.5)


def test_images_and_channels_have_noise_of_their_own():
    """Independent between the images of a batch, channels and samples, each with its image's
    covariance."""
    n, eta = 20_000, 1.0
    graph, x = graph_of(2, 2, 1), inside(2, 3, 2, 2)
    xi = sample(graph, x, eta, generator=generator(), n=n).view(n, 24)
    expected = torch.zeros(24, 24, dtype=torch.float64)
    for k, image in enumerate(x.view(6, 4).numpy()):
        expected[4 * k : 4 * k + 4, 4 * k : 4 * k + 4] = torch.tensor(
            laplacian(weight_matrix(2, 2, 1), image)
        )
    variance = expected.diagonal()
    error = ((variance[:, None] * variance + expected**2) / n).sqrt()
    assert ((xi.T @ xi / n - expected).abs() <= 5 * error).all()
    between = (xi[1:] * xi[:-1]).mean(0)
    assert (between.abs() <= 5 * variance / n**0.5).all()


@given(seed=seeds, eta=st.sampled_from([1e-3, 0.1, 3.0]))
def test_noise_keeps_the_mass_of_each_channel(seed, eta):
    """To rounding: what leaves one end of an edge arrives at the other."""
    graph, x = graph_of(4, 5, 3, kernel(3)), images(2, 3, 4, 5, seed=seed, black=0.5)
    xi = sample(graph, x, eta, generator=generator(seed), n=3)
    assert (xi.sum((-2, -1)).abs() <= 1e-14 * xi.abs().sum((-2, -1))).all()


def test_black_pixels_without_a_lit_neighbour_stay_black():
    x = torch.zeros(1, 7, dtype=torch.float64)
    x[0, 2] = 1
    xi = sample(graph_of(1, 7, 1), x, 0.5, generator=generator(), n=100)
    assert (xi[..., [0, 4, 5, 6]] == 0).all() and (xi[..., 1:4] != 0).all()
    assert (sample(graph_of(1, 7, 1), 0 * x, 0.5, generator=generator()) == 0).all()


def test_noise_is_reproducible():
    graph, x = graph_of(*SIZES["3x4_weighted"]), images(2, 3, 4)
    first = sample(graph, x, 0.1, generator=generator(), n=4)
    assert torch.equal(first, sample(graph, x, 0.1, generator=generator(), n=4))
    assert not torch.equal(first, sample(graph, x, 0.1, generator=generator(1), n=4))
    source = generator()
    one, other = (sample(graph, x, 0.1, generator=source) for _ in range(2))
    assert not torch.equal(one, other)
    state = torch.get_rng_state()
    sample(graph, x, 0.1, generator=generator())
    assert torch.equal(state, torch.get_rng_state())


def test_shapes_types_and_eta():
    for shape in ((3, 4), (2, 3, 4), (5, 2, 3, 4), (0, 2, 3, 4)):
        x = images(*shape)
        for n in (1, 3):
            xi = sample(graph_of(3, 4, 1), x, 0.1, generator=generator(), n=n)
            assert xi.shape == (n, *shape) and xi.dtype == torch.float64
    x = images(3, 4)
    assert sample(PixelGraph(3, 4, 1), x.float(), 0.1, generator=generator()).dtype == torch.float32
    assert (sample(graph_of(3, 4, 1), x, 0, generator=generator(), n=2) == 0).all()
    one, three = (sample(graph_of(3, 4, 1), x, eta, generator=generator()) for eta in (1, 3))
    torch.testing.assert_close(three, 3 * one, rtol=1e-12, atol=0)


def test_noise_is_differentiable():
    """In x and in a kernel, the normal numbers held fixed; at black pixels beside black ones it is
    zero, not NaN."""
    x, raw = inside(2, 3).requires_grad_(), kernel(1).requires_grad_()

    def of(x, raw):
        return sample(
            PixelGraph(2, 3, 1, weight=(raw + raw.flip(0, 1)) / 2),
            x,
            0.3,
            generator=generator(),
            n=2,
        )

    assert torch.autograd.gradcheck(of, (x, raw))
    x = torch.tensor([[0.5, 0.0, 0.0, 0.0, 0.5]], dtype=torch.float64, requires_grad=True)
    sample(graph_of(1, 5, 1), x, 0.3, generator=generator()).square().sum().backward()
    assert x.grad.isfinite().all() and x.grad[0, 2] == 0 and (x.grad[0, [0, 1, 3, 4]] != 0).all()
    with torch.no_grad():
        assert not sample(graph_of(1, 5, 1), x, 0.3, generator=generator()).requires_grad


def test_density_has_half_the_covariance():
    """The printed density exp(-xi' L^+ xi / eta^2), integrated on a grid over the three-pixel
    simplex around x, has covariance eta^2 L(x) / 2, not the eta^2 L(x) of the text: a factor 2."""
    x, eta = np.array([0.3, 0.4, 0.3]), 0.04
    matrix = laplacian(weight_matrix(1, 3, 1), x)
    inverse = np.linalg.pinv(matrix, rcond=1e-10)
    a, b = np.meshgrid(*(np.linspace(-0.28, 0.28, 401),) * 2)
    xi = np.stack([a, b, -a - b], axis=-1)
    density = np.exp(-np.einsum("abi,ij,abj->ab", xi, inverse, xi) / eta**2) * ((x + xi) >= 0).all(
        -1
    )
    covariance = np.einsum("ab,abi,abj->ij", density, xi, xi) / density.sum()
    np.testing.assert_allclose(covariance, eta**2 * matrix / 2, rtol=1e-3, atol=1e-3 * eta**2)
    assert abs(covariance - eta**2 * matrix).max() > 0.4 * eta**2 * abs(matrix).max()
    n = 20_000
    xi = sample(graph_of(1, 3, 1), torch.tensor(x[None]), eta, generator=generator(), n=n).flatten(
        1
    )
    ratio = xi.square().mean(0).numpy() / covariance.diagonal()
    np.testing.assert_allclose(ratio, 2, atol=5 * 2 * (2 / n) ** 0.5)


def test_density_of_the_dynamic_distance_has_half_the_covariance():
    """exp(-d^2 / eta^2) with the metric's own distance d(x, x + xi), summed over a grid of tangent
    vectors of three pixels in a row: the covariance is eta^2 L(x) / 2."""
    eta, x = 0.005, torch.tensor([[0.3, 0.4, 0.3]], dtype=torch.float64)
    flux = torch.cartesian_prod(*[torch.linspace(-3.3, 3.3, 12, dtype=torch.float64)] * 2)
    matrix = torch.tensor(laplacian(weight_matrix(1, 3, 1), x.flatten().numpy()))
    values, vectors = torch.linalg.eigh(matrix)
    xi = eta * flux @ (vectors[:, 1:] * values[1:].sqrt()).T  # spans the vectors of sum zero
    y = (x + xi).view(-1, 1, 1, 3)
    assert y.min() > 0
    distance = metric.dynamic_distance(graph_of(1, 3, 1), x.expand_as(y), y, 2).distance
    density = torch.exp(-(distance**2) / eta**2)
    covariance = (xi.T * density) @ xi / density.sum()
    np.testing.assert_allclose(covariance / eta**2, matrix / 2, rtol=0.01, atol=1e-4)


def test_density_of_the_linear_program_is_laplace():
    """exp(-W_2^2 / eta^2) with the distance (4) is exp(-(|a| + |b|) / eta^2) in the flows over the
    two edges of three pixels in a row: independent, each of variance 2 eta^4, wherever the mass
    is."""
    eta, h = 0.1, 0.5  # the step of the grid over eta^2
    line = np.arange(-20, 21) * h * eta**2
    flow = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    xi = flow @ np.array([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]])
    for x in ([0.3, 0.4, 0.3], [0.2, 0.3, 0.5]):
        fits = (x + xi > 0).all(1)
        assert fits[abs(flow).sum(1) < 0.1].all()
        cost = np.array(
            [transport.wasserstein_distance(np.array([x]), (x + v)[None]) ** 2 for v in xi[fits]]
        )
        np.testing.assert_allclose(cost, abs(flow[fits]).sum(1), rtol=0, atol=1e-8)
        density = np.exp(-cost / eta**2)
        covariance = (flow[fits].T * density) @ flow[fits] / density.sum()
        # a sum over the grid has 2 (1 - h^2 / 12) in place of 2; some flows are out of its reach
        np.testing.assert_allclose(
            covariance, 2 * eta**4 * np.eye(2), rtol=h**2 / 6, atol=0.02 * eta**4
        )


# ---------------------------------------------------------------- without negative pixels


def by_bisection(image, mass):
    """max(image - tau, 0) with the tau that gives the mass, of one channel (n,)."""
    low, high = image.min() - mass - 1, image.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(image - middle, 0).sum() > mass else (low, middle)
    return np.maximum(image - low, 0)


@given(seed=seeds, mass=st.sampled_from([0.0, 0.1, 1.0, 40.0]))
def test_projection_by_bisection(seed, mass):
    v = torch.tensor(np.random.default_rng(seed).standard_normal((2, 3, 4)))
    projected = project_to_simplex(v, torch.tensor([mass, 2 * mass], dtype=torch.float64))
    for image, result, m in zip(v.flatten(1).numpy(), projected.flatten(1), (mass, 2 * mass)):
        np.testing.assert_allclose(result, by_bisection(image, m), atol=1e-12 * (1 + m))
    assert (projected >= 0).all()
    again = project_to_simplex(projected, torch.tensor([mass, 2 * mass], dtype=torch.float64))
    torch.testing.assert_close(again, projected, rtol=1e-12, atol=1e-13)


def test_projection_is_the_nearest_image():
    """Against SciPy's minimiser of the L2 distance under the constraints."""
    for seed in range(5):
        v = np.random.default_rng(seed).standard_normal(6)
        result = minimize(
            lambda z: ((z - v) ** 2).sum(),
            np.full(6, 1 / 6),
            jac=lambda z: 2 * (z - v),
            method="SLSQP",
            bounds=[(0, None)] * 6,
            constraints={"type": "eq", "fun": lambda z: z.sum() - 1, "jac": lambda z: np.ones(6)},
            options={"ftol": 1e-15},
        )
        projected = project_to_simplex(torch.tensor(v.reshape(2, 3)), torch.tensor(1.0).double())
        np.testing.assert_allclose(projected.flatten(), result.x, atol=1e-6)


def test_projection_of_ties_and_of_images():
    x = measures(3, 4, 5)
    torch.testing.assert_close(
        project_to_simplex(x, torch.ones(3).double()), x, rtol=1e-12, atol=1e-15
    )
    level = torch.full((2, 3), 0.7)
    torch.testing.assert_close(
        project_to_simplex(level, torch.tensor(1.0)), torch.full((2, 3), 1 / 6)
    )


@pytest.fixture(scope="module")
def digits():
    """Three digits as float64 images (3, 1, 28, 28)."""
    return data.load("mnist5k").images[[0, 700, 4000]].double()[:, None] / 255


@pytest.mark.parametrize("eta", [1e-3, 0.05, 1.0])
def test_nonnegative_noise(digits, eta):
    """x + xi has no negative pixel and x's mass, and is the projection of what the Gaussian noise
    makes of x."""
    x, graph = digits, graph_of(28, 28, 2)
    plain, kept = (
        sample(graph, x, eta, generator=generator(), n=2, nonnegative=flag)
        for flag in (False, True)
    )
    assert (x + plain).min() < 0 <= (x + kept).min() + 1e-15
    torch.testing.assert_close(
        (x + kept).sum((-2, -1)), x.sum((-2, -1)).expand(2, 3, 1), rtol=1e-12, atol=0
    )
    noisy = (x + plain).flatten(-2)
    for k, image in enumerate(noisy[0, :, 0].numpy()):
        expected = by_bisection(image, float(x[k].sum()))
        np.testing.assert_allclose((x + kept)[0, k, 0].flatten(), expected, atol=1e-11)


def test_nonnegative_noise_is_the_noise_where_nothing_is_negative():
    graph, x = graph_of(3, 4, 1), inside(3, 4)
    plain, kept = (
        sample(graph, x, 1e-4, generator=generator(), n=5, nonnegative=flag)
        for flag in (False, True)
    )
    assert (x + plain > 0).all()
    torch.testing.assert_close(kept, plain, rtol=0, atol=1e-15)


def test_nonnegative_noise_has_a_mean_and_less_covariance():
    """What its docstring warns of: a black pixel next to ink gains, and variances are smaller."""
    graph, x = graph_of(1, 3, 1), torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    plain, kept = (
        sample(graph, x, 0.1, generator=generator(), n=20_000, nonnegative=flag)
        for flag in (False, True)
    )
    assert kept[:, 0, 2].min() >= 0 and float(kept[:, 0, 2].mean()) > 0.02
    assert float(kept.flatten(1).var(0).sum()) < 0.9 * float(plain.flatten(1).var(0).sum())


def test_nonnegative_noise_is_differentiable():
    x = inside(2, 3).requires_grad_()
    graph = graph_of(2, 3, 1)

    def of(x):
        return sample(graph, x, 0.15, generator=generator(3), n=2, nonnegative=True)

    assert (of(x) + x == 0).any()
    assert torch.autograd.gradcheck(of, x)


@gpu
def test_on_the_gpu():
    """Other normal numbers than the CPU's, so the moments are compared."""
    n = 20_000
    graph, x = graph_of(3, 4, 2, kernel(2)).to("cuda"), images(3, 4)
    on_gpu = torch.Generator("cuda").manual_seed(0)
    xi = sample(graph, x.cuda(), 0.2, generator=on_gpu, n=n).flatten(1)
    assert xi.is_cuda
    expected = torch.tensor(
        0.04 * laplacian(weight_matrix(3, 4, 2, kernel(2)), x.flatten().numpy())
    ).cuda()
    variance = expected.diagonal()
    error = ((variance[:, None] * variance + expected**2) / n).sqrt()
    assert ((xi.T @ xi / n - expected).abs() <= 5 * error + 1e-15).all()
    v = images(4, 3, 4, seed=1) - 0.3
    mass = torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(
        project_to_simplex(v.cuda(), mass.cuda()).cpu(), project_to_simplex(v, mass)
    )
    for source, where in ((generator(), x.cuda()), (on_gpu, x)):
        with pytest.raises(ValueError, match="^generator is on .* but x is on"):
            sample(graph.converted(where.device), where, 0.2, generator=source)


# ---------------------------------------------------------------- bad input

GRAPH, X = graph_of(3, 4, 1), images(2, 3, 4)

BAD_CALLS = {
    "x": ({"x": -X}, ValueError, "x must be non-negative and finite"),
    "eta": ({"eta": -0.1}, ValueError, "eta must be non-negative and finite, got -0.1"),
    "n": ({"n": 0}, ValueError, "n must be at least 1, got 0"),
    "generator": ({"generator": None}, TypeError, "generator must be a torch.Generator, got None"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls(case):
    changed, error, says = BAD_CALLS[case]
    options = {"x": X, "eta": 0.1, "generator": generator(), **changed}
    with pytest.raises(error, match=f"^{says}"):
        sample(GRAPH, options.pop("x"), options.pop("eta"), **options)


@pytest.mark.parametrize("scale", [1e-200, 1e-40, 1e-10, 1e-3, 1.0, 1e3, 1e200])
def test_any_mass_is_kept(scale):
    """Also one that the pixels' own rounding exceeds."""
    x = torch.tensor(np.random.default_rng(0).standard_normal((2, 3, 4)))
    found = project_to_simplex(x, scale)
    mass = found.sum((-2, -1))
    torch.testing.assert_close(mass / scale, torch.ones_like(mass), rtol=1e-12, atol=0)
    assert bool((found >= 0).all())
    black = 1e-30 * X
    xi = sample(GRAPH, black, 1.0, generator=generator(), n=2, nonnegative=True)
    kept = (black + xi).sum((-2, -1)) / black.sum((-2, -1))
    torch.testing.assert_close(kept, torch.ones_like(kept))


@pytest.mark.parametrize("mass", [-1.0, math.nan, math.inf])
def test_a_mass_that_no_image_has(mass):
    for masses in (mass, torch.tensor([1.0, mass])):
        with pytest.raises(
            ValueError, match=f"^mass must be non-negative and finite, got .*{mass:g}"
        ):
            project_to_simplex(X, masses)


@pytest.mark.parametrize("eta", [1e-30, 1e18])
def test_noise_is_linear_in_eta_at_any_size(eta):
    """In float32 the square of eta is 0 or infinite."""
    graph, x = PixelGraph(3, 4, 1), X.float()
    one, scaled = (sample(graph, x, size, generator=generator(), n=3) for size in (1.0, eta))
    assert scaled.isfinite().all() and scaled.dtype == torch.float32
    torch.testing.assert_close(scaled.double() / eta, one.double(), rtol=1e-5, atol=1e-6)


def test_the_generator_has_no_default():
    with pytest.raises(TypeError, match="generator"):
        noise.sample(GRAPH, X, 0.1)


def test_overflow_is_reported():
    graph, x = PixelGraph(3, 4, 1), torch.ones(1, 3, 4)
    for image, eta in ((3e38 * x, 0.1), (x, 1e300)):
        with pytest.raises(RuntimeError, match=r"^noise.sample overflows torch\.float32"):
            sample(graph, image, eta, generator=generator(), nonnegative=True)
    with pytest.raises(ValueError, match=r"^mass must be at most 3.4e\+38 in .*, got 1e\+300"):
        project_to_simplex(x, 1e300)
    with pytest.raises(RuntimeError, match="^project_to_simplex overflows"):
        project_to_simplex(torch.tensor([[1e38, 3e38]]), 3.3e38)


@pytest.mark.parametrize("pixels", [[0.0, -3e38, -3e38], [3e38, -3e38, -3e38], [5e7, -1.0, 0.0]])
def test_projection_of_far_apart_pixels(pixels):
    assert project_to_simplex(torch.tensor([pixels]), 1.0).tolist() == [[1.0, 0.0, 0.0]]


def test_projection_far_below_zero():
    """The mass is far below the rounding of the pixels."""
    found = project_to_simplex(torch.full((1, 4), -1e9), 1.0)
    assert found.tolist() == [[0.25] * 4]

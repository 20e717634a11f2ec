"""Riemannian calculus against the textbook's formulas in a chart of the simplex, geodesics,
sampling, and bad input."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from oracles import (
    generator,
    gpu,
    graph_of,
    inside,
    kernel,
    laplacian,
    laplacian_basis,
    tangents,
    volume,
    weight_matrix,
)

from wdtr_lite import PixelGraph, calculus, metric, noise
from wdtr_lite.calculus import (
    christoffel,
    exponential_map,
    geodesic,
    gradient,
    hessian,
    laplace_beltrami,
    laplace_beltrami_printed,
    laplacian_divergence,
    log_volume,
    log_volume_gradient,
)

# degrees equal, unequal, and unequal with weights; the printed formula can only tell the first
# from the others
SIZES = {"2x2": (2, 2, 1), "2x3": (2, 3, 1), "row": (1, 4, 2), "2x3_weighted": (2, 3, 2, kernel(2))}


@pytest.fixture(params=SIZES.values(), ids=SIZES)
def size(request):
    return request.param


def f(x):
    """A smooth function of images that no symmetry makes simple and in which pixels and channels
    interact."""
    axes = tuple(range(-min(3, x.dim()), 0))
    k = torch.arange(x.shape[-2:].numel(), device=x.device, dtype=x.dtype).view(x.shape[-2:])
    a, b = torch.sin(k + 1), torch.cos(1.7 * k)
    channel = torch.arange(
        1.0, 1 + (x.shape[-3] if x.dim() > 2 else 1), device=x.device, dtype=x.dtype
    )
    y = x * channel[:, None, None] if x.dim() > 2 else x
    return (
        torch.sin(2 * (a * y).sum(axes))
        + (b * y**3).sum(axes)
        + (a * y).sum(axes) * (b * y).sum(axes)
    )


def derivatives(x):
    """The ordinary gradient (n,) and Hessian (n, n) of f at one image."""

    def flat(v):
        return f(v.view(x.shape))

    v = x.flatten()
    return torch.autograd.functional.jacobian(flat, v), torch.autograd.functional.hessian(flat, v)


class Chart:
    """The simplex in its first n - 1 pixels y, the last being what is left of the mass. There the
    inverse of the metric is the block of L without last row and column, and a tangent vector is its
    first n - 1 entries."""

    def __init__(self, size, x):
        self.basis, self.shape, self.mass = laplacian_basis(weight_matrix(*size)), x.shape, x.sum()
        self.y = x.flatten()[:-1]
        n = x.numel()
        self.lift = torch.cat([torch.eye(n - 1), -torch.ones(1, n - 1)]).double()

    def point(self, y):
        return torch.cat([y, (self.mass - y.sum())[None]])

    def inverse_metric(self, y):
        return torch.einsum("k,kij->ij", self.point(y), self.basis)[:-1, :-1]

    def metric(self, y):
        return torch.linalg.inv(self.inverse_metric(y))

    def f(self, y):
        return f(self.point(y).view(self.shape))

    def symbols(self):
        """The textbook's Gamma^c_ab = g^cd (d_a g_bd + d_b g_ad - d_d g_ab) / 2, as (a, b, c)."""
        slope = torch.autograd.functional.jacobian(self.metric, self.y)  # (b, d, a)
        lower = slope.permute(2, 0, 1) + slope.permute(0, 2, 1) - slope
        return torch.einsum("abd,dc->abc", lower, self.inverse_metric(self.y)) / 2

    def divergence(self, density):
        """(1 / density) d_a (density g^ab d_b f), by differentiating the product."""

        def field(y):
            with torch.enable_grad():
                y = y if y.requires_grad else y.requires_grad_()
                slope = torch.autograd.grad(self.f(y), y, create_graph=True)[0]
            return density(y) * self.inverse_metric(y) @ slope

        return torch.autograd.functional.jacobian(field, self.y).trace() / density(self.y)

    def volume(self, y):
        return torch.linalg.det(self.metric(y)).sqrt()


def test_the_chart_is_the_metric():
    """Its metric is that of Definition 2: L^+ between lifted vectors, with NumPy's
    pseudo-inverse."""
    for size in SIZES.values():
        x = inside(*size[:2])
        chart = Chart(size, x)
        inverse = np.linalg.pinv(laplacian(weight_matrix(*size), x.flatten().numpy()), rcond=1e-12)
        expected = chart.lift.T @ torch.tensor(inverse) @ chart.lift
        torch.testing.assert_close(chart.metric(chart.y), expected, rtol=1e-9, atol=1e-11)


# ---------------------------------------------------------------- first order


def test_gradient_is_the_papers(size):
    """Appendix B (ii): L grad f; the vector whose inner product with any other is the derivative
    along it."""
    graph, x, sigma = graph_of(*size), inside(*size[:2]), tangents(*size[:2])
    slope = derivatives(x)[0]
    value = gradient(f, graph, x)
    expected = laplacian(weight_matrix(*size), x.flatten().numpy()) @ slope.numpy()
    np.testing.assert_allclose(value.flatten(), expected, rtol=1e-11, atol=1e-12)
    assert float(value.sum()) == pytest.approx(0, abs=1e-13)
    assert float(metric.inner(graph, x, value, sigma)) == pytest.approx(
        float(slope @ sigma.flatten()), rel=1e-8
    )
    assert float(metric.tangent_norm_sq(graph, x, value)) == pytest.approx(
        float(metric.grad_norm_sq(graph, x, slope.view_as(x))), rel=1e-8
    )


def test_entropy_flow(size):
    """With the logarithmic mean on the edges the entropy's gradient flow is the graph's heat
    equation, exactly; with the paper's arithmetic mean it is so up to a relative (log u_i - log
    u_j)^2 / 12 on each edge."""
    graph = graph_of(*size)
    d, incidence = graph.volume, graph.incidence().to_dense()

    def entropy(x):
        return (x * (x / d).log()).sum((-2, -1))

    errors = []
    for contrast in (1.0, 0.1):
        x = d * (1 + contrast * tangents(*size[:2]).clamp(-0.8, 0.8))
        x = x / x.sum()
        u = (x / d).flatten()
        slope = u.log() + 1
        heat = -(incidence.T @ incidence @ u)
        steps = incidence @ u / (incidence @ u.log())  # (u_i - u_j) / (log u_i - log u_j)
        torch.testing.assert_close(
            -(incidence.T * steps @ incidence @ slope), heat, rtol=1e-9, atol=1e-12
        )
        flow = -gradient(entropy, graph, x).flatten()
        arithmetic = metric.mobility(graph, x)
        assert (arithmetic >= steps).all()
        assert (
            arithmetic / steps - 1 <= (incidence.sign() @ u.log()) ** 2 / 12 * (1 + 1e-6) + 1e-12
        ).all()
        errors.append(float((flow - heat).norm() / heat.norm()))
    assert 1e-3 < errors[0] and errors[1] < 0.03 * errors[0]


def entropy_hessian(size, x):
    """The eigenvalues of the entropy's Riemannian Hessian at x (H, W), in an orthonormal basis of
    the tangent vectors."""
    graph = graph_of(*size)

    def entropy(x):
        return (x * (x / graph.volume).log()).sum((-3, -2, -1))

    values, vectors = torch.linalg.eigh(
        torch.tensor(laplacian(weight_matrix(*size), x.flatten().numpy()))
    )
    frame = (vectors[:, 1:] * values[1:].sqrt()).T.reshape(-1, 1, *x.shape)  # v' L^+ w is 1 or 0
    n = len(frame)
    a, b = frame.repeat_interleave(n, 0), frame.repeat(n, 1, 1, 1)
    return torch.linalg.eigvalsh(hessian(entropy, graph, x.expand_as(a), a, b).view(n, n))


def test_entropy_is_not_convex():
    """On six pixels in a row with two hardly lit ones the Hessian has a negative eigenvalue, -3.5;
    none at the uniform image."""
    x = torch.tensor([[0.1406, 0.001, 0.2478, 0.3026, 0.001, 0.3070]], dtype=torch.float64)
    assert float(entropy_hessian((1, 6, 1), x / x.sum())[0]) == pytest.approx(-3.5, abs=0.1)
    assert entropy_hessian((1, 6, 1), torch.full((1, 6), 1 / 6).double())[0] > 1


# ---------------------------------------------------------------- Christoffel and Hessian


def test_christoffel(size):
    """Appendix B (i) against the derivatives of the metric in the chart."""
    x, (a, b) = inside(*size[:2]), tangents(2, *size[:2])
    chart = Chart(size, x)
    v, w = (z.flatten()[:-1] for z in (a, b))
    expected = chart.lift @ torch.einsum("abc,a,b->c", chart.symbols(), v, w)
    value = christoffel(graph_of(*size), x, a, b)
    torch.testing.assert_close(value.flatten(), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("light", [1e-30, 1e-20, 1e18, 1e25, 1e30])
def test_christoffel_of_any_light(light):
    """Of degree -1 in x; the squares of the potentials are beyond float32."""
    x, (a, b) = inside(2, 3), tangents(2, 2, 3)
    expected = christoffel(graph_of(2, 3, 1), x, a, b)
    graph = graph_of(2, 3, 1).to(torch.float32)
    value = christoffel(graph, (light * x).float(), a.float(), b.float())
    torch.testing.assert_close(light * value.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("speed", [0.01, 1.0, 100.0])
def test_the_derivatives_of_christoffel_and_hessian(speed):
    """Where potentials are below and above 1."""
    graph, weights = graph_of(2, 3, 1), tangents(2, 3)

    def symbol(x, a):
        a = a - a.mean()
        return (christoffel(graph, x, a, a.cos() - a.cos().mean()) * weights).sum() / speed**2

    def second(x, a):
        a = a - a.mean()
        return hessian(f, graph, x, a, a, create_graph=True) / speed**2

    inputs = inside(2, 3).requires_grad_(), (speed * tangents(2, 3)).requires_grad_()
    for of in (symbol, second):
        assert torch.autograd.gradcheck(of, inputs, rtol=1e-4, atol=1e-6)


def test_christoffel_is_symmetric_bilinear_and_tangent(size):
    graph, x, (a, b, c) = graph_of(*size), inside(3, *size[:2]), tangents(3, 3, *size[:2])
    close = {"rtol": 1e-8, "atol": 1e-8}
    ab = christoffel(graph, x, a, b)
    torch.testing.assert_close(ab, christoffel(graph, x, b, a), **close)
    torch.testing.assert_close(
        christoffel(graph, x, 2 * a + c, b), 2 * ab + christoffel(graph, x, c, b), **close
    )
    assert ab.sum((-2, -1)).abs().max() < 1e-12 * ab.abs().max()
    for k in range(3):
        torch.testing.assert_close(ab[k], christoffel(graph, x[k], a[k], b[k]), **close)


def along(graph, x, sigma, *, h=0.02):
    """The second derivative of f along the geodesic from x with velocity sigma: central, of fourth
    order."""
    values = {
        t: float(f(geodesic(graph, x, sigma, time=t * h, steps=20)[-1])) for t in (-2, -1, 1, 2)
    }
    return (16 * (values[1] + values[-1]) - values[2] - values[-2] - 30 * float(f(x))) / (12 * h**2)


def test_hessian_along_geodesics(size):
    """Appendix B (iii) with a minus: the second derivative along the geodesic, and polarised from
    it."""
    graph, x, (a, b) = graph_of(*size), inside(*size[:2]), tangents(2, *size[:2], size=0.1)
    for sigma in (a, b):
        value = float(hessian(f, graph, x, sigma, sigma))
        assert value == pytest.approx(along(graph, x, sigma), rel=1e-4)
    mixed = (hessian(f, graph, x, a + b, a + b) - hessian(f, graph, x, a - b, a - b)) / 4
    assert float(hessian(f, graph, x, a, b)) == pytest.approx(float(mixed), rel=1e-8)
    assert float(hessian(f, graph, x, a, b)) == pytest.approx(
        float(hessian(f, graph, x, b, a)), rel=1e-8
    )


def test_hessian_printed_sign_fails(size):
    """With the paper's plus it is off by twice the Christoffel term, which is not small."""
    graph, x, sigma = graph_of(*size), inside(*size[:2]), tangents(*size[:2], seed=1, size=0.1)
    slope, second = derivatives(x)
    flat, term = sigma.flatten(), float(christoffel(graph, x, sigma, sigma).flatten() @ slope)
    printed = float(flat @ second @ flat) + term
    exact = along(graph, x, sigma)
    assert float(flat @ second @ flat) - term == pytest.approx(exact, rel=1e-4)
    assert abs(printed - exact) > 0.1 * abs(exact)


def test_hessian_is_in_the_chart(size):
    """The textbook's f_ab - Gamma^c_ab f_c."""
    x, (a, b) = inside(*size[:2]), tangents(2, *size[:2])
    chart = Chart(size, x)
    slope = torch.autograd.functional.jacobian(chart.f, chart.y)
    matrix = torch.autograd.functional.hessian(chart.f, chart.y) - chart.symbols() @ slope
    expected = a.flatten()[:-1] @ matrix @ b.flatten()[:-1]
    assert float(hessian(f, graph_of(*size), x, a, b)) == pytest.approx(float(expected), rel=1e-7)


# ---------------------------------------------------------------- volume


def test_log_volume(size):
    """Appendix B (iv): minus half the logarithms of the positive eigenvalues; in the chart up to a
    constant, log(n) / 2."""
    graph, x = graph_of(*size), inside(2, 3, *size[:2])
    expected = [
        [
            -np.log(
                np.linalg.eigvalsh(laplacian(weight_matrix(*size), image.flatten().numpy()))[1:]
            ).sum()
            / 2
            for image in channels
        ]
        for channels in x
    ]
    np.testing.assert_allclose(log_volume(graph, x), np.sum(expected, 1), rtol=1e-10)
    assert float(log_volume(graph, x[0, 0])) == pytest.approx(expected[0][0], rel=1e-10)
    chart = Chart(size, x[0, 0])
    in_chart = float(chart.volume(chart.y).log()) - math.log(graph.size) / 2
    assert float(log_volume(graph, x[0, 0])) == pytest.approx(in_chart, rel=1e-10)


def exact_log_volume(weights, x):
    """-log det' / 2 without rounding: det' L is n times the determinant of L less a row and its
    column (Kirchhoff)."""
    w = [[Fraction(v) for v in row] for row in weights.tolist()]
    degree = [sum(row) for row in w]
    u = [Fraction(v) * sum(degree) / d for v, d in zip(x.tolist(), degree)]
    n = len(u)
    matrix = [[-w[i][j] * (u[i] + u[j]) / 2 for j in range(n)] for i in range(n)]
    for i in range(n):
        matrix[i][i] = -sum(matrix[i])
    determinant = Fraction(n)
    for k in range(n - 1):
        determinant *= matrix[k][k]
        for i in range(k + 1, n - 1):
            ratio = matrix[i][k] / matrix[k][k]
            matrix[i] = [a - ratio * b for a, b in zip(matrix[i], matrix[k])]
    return -(math.log(determinant.numerator) - math.log(determinant.denominator)) / 2


def near_black(ground):
    """A grey ground and a bright heap of 2 x 2 pixels."""
    x = torch.full((6, 6), ground, dtype=torch.float32)
    x[2:4, 2:4] = 0.25
    return x


@pytest.mark.parametrize("ground", [1e-7, 1e-8, 1e-9])
def test_float32_near_black(ground):
    """To 1e-4 of the same image in float64: pivots and resistances are differences that float32
    does not hold."""
    graph, x = PixelGraph(6, 6, 1), near_black(ground)
    wide = graph.converted(dtype=torch.float64)
    close = {"rtol": 1e-4, "atol": 0, "check_dtype": False}
    for function in (
        log_volume,
        log_volume_gradient,
        lambda graph, x: laplace_beltrami(lambda x: (x**2).sum(), graph, x).value,
    ):
        value = function(graph, x)
        assert value.dtype == torch.float32 and value.isfinite().all()
        torch.testing.assert_close(value, function(wide, x.double()), **close)


def test_log_volume_of_a_hopeless_image():
    """Instead of NaN, or of the logarithm of rounding."""
    x = near_black(0).double() + 1e-25
    with pytest.raises(
        RuntimeError, match="^log_volume: x has mass on some pixels too many orders below"
    ):
        log_volume(graph_of(6, 6, 1), x)
    with pytest.raises(RuntimeError, match="^log_volume: "):
        log_volume(PixelGraph(6, 6, 1), torch.stack([near_black(0.1), x.float()]))


@pytest.mark.parametrize("mass", [1e-8, 1e8])
def test_log_volume_gradient_of_any_mass(size, mass):
    """It is homogeneous of degree -1, to rounding."""
    graph, x = graph_of(*size), inside(*size[:2])
    value = mass * log_volume_gradient(graph, mass * x)
    torch.testing.assert_close(value, log_volume_gradient(graph, x), rtol=1e-11, atol=0)


@pytest.mark.parametrize("dim", [1.0, 1e-4, 1e-8])
def test_log_volume_of_an_ill_conditioned_image(size, dim):
    """All but two pixels are dim, against fractions: the relative error of det' is L's condition
    number times rounding."""
    graph, x = graph_of(*size), inside(*size[:2])
    x.view(-1)[2:] *= dim
    exact = exact_log_volume(weight_matrix(*size), x.flatten())
    assert float(log_volume(graph, x)) == pytest.approx(exact, abs=1e-13 / dim)


def test_log_volume_gradient(size):
    graph, x = graph_of(*size), inside(2, *size[:2]).requires_grad_()
    value = log_volume_gradient(graph, x)
    torch.testing.assert_close(
        value, torch.autograd.grad(log_volume(graph, x).sum(), x)[0], rtol=1e-9, atol=1e-10
    )
    assert torch.autograd.gradcheck(lambda x: log_volume(graph, x), x)
    assert torch.autograd.gradcheck(lambda x: log_volume_gradient(graph, x), x, rtol=1e-5)


def test_log_volume_is_differentiable_in_a_kernel():
    def of(raw):
        return log_volume(PixelGraph(2, 3, 1, weight=(raw + raw.flip(0, 1)) / 2), inside(2, 3))

    assert torch.autograd.gradcheck(of, kernel(1).requires_grad_())


def test_laplacian_divergence(size):
    """sum_i dL_ij / dx_i of the paper's L, which is linear in x; the formula in its docstring."""
    value = laplacian_divergence(graph_of(*size))
    x = inside(*size[:2]).requires_grad_()
    slope = torch.autograd.functional.jacobian(
        lambda x: metric.laplacian(graph_of(*size), x), x
    ).flatten(-2)
    torch.testing.assert_close(
        value.flatten(), torch.einsum("iji->j", slope), rtol=1e-11, atol=1e-11
    )
    basis = laplacian_basis(weight_matrix(*size))
    torch.testing.assert_close(
        value.flatten(), torch.einsum("iij->j", basis), rtol=1e-11, atol=1e-11
    )
    d = volume(weight_matrix(*size))
    if np.allclose(d, d[0]):
        assert value.abs().max() < 1e-12
    else:
        assert value.abs().max() > 0.1


def test_laplacian_divergence_is_zero_far_from_the_border():
    value = laplacian_divergence(graph_of(12, 13, 2))
    assert value[4:8, 4:9].abs().max() < 1e-9 < 1 < value[0].abs().min()


# ---------------------------------------------------------------- the Laplace-Beltrami operator


def test_laplace_beltrami_is_the_divergence_form(size):
    """(1 / sqrt g) d_a (sqrt g g^ab d_b f) in the chart."""
    x = inside(*size[:2])
    chart = Chart(size, x)
    estimate = laplace_beltrami(f, graph_of(*size), x)
    assert float(estimate.value) == pytest.approx(float(chart.divergence(chart.volume)), rel=1e-8)
    assert float(estimate.standard_error) == 0


def test_laplace_beltrami_is_the_trace_of_the_hessian(size):
    """Appendix A: g^ab (f_ab - Gamma^c_ab f_c), in the chart and over an orthonormal basis of this
    package's Hessian."""
    graph, x = graph_of(*size), inside(*size[:2])
    chart = Chart(size, x)
    slope = torch.autograd.functional.jacobian(chart.f, chart.y)
    matrix = torch.autograd.functional.hessian(chart.f, chart.y) - chart.symbols() @ slope
    value = float(laplace_beltrami(f, graph, x).value)
    assert value == pytest.approx(float((chart.inverse_metric(chart.y) * matrix).sum()), rel=1e-7)
    frame = (chart.lift @ torch.linalg.cholesky(chart.inverse_metric(chart.y))).T.reshape(
        -1, *x.shape
    )
    many = x.expand_as(frame)
    torch.testing.assert_close(
        metric.tangent_norm_sq(graph, many[:, None], frame[:, None]),
        torch.ones(len(frame)).double(),
    )
    total = float(hessian(f, graph, many[:, None], frame[:, None], frame[:, None]).sum())
    assert value == pytest.approx(total, rel=1e-7)


def printed(size, x):
    """tr(L f'') + f'^T L (log det'^(-1/2))' as in Appendix B (v), from eigenvalues and central
    differences."""
    weights = weight_matrix(*size)
    slope, second = derivatives(x)

    def log_density(v):
        return -np.log(np.linalg.eigvalsh(laplacian(weights, v))[1:]).sum() / 2

    v, h = x.flatten().numpy(), 1e-5
    change = np.array(
        [(log_density(v + h * e) - log_density(v - h * e)) / (2 * h) for e in np.eye(len(v))]
    )
    matrix = laplacian(weights, v)
    return float((matrix * second.numpy()).sum() + slope.numpy() @ matrix @ change)


def test_printed_laplace_beltrami_holds_where_degrees_are_equal(size):
    """On the complete graph of 2 x 2 pixels it is the divergence form, on the others it is far from
    it."""
    x = inside(*size[:2])
    chart = Chart(size, x)
    exact = float(chart.divergence(chart.volume))
    value = float(laplace_beltrami_printed(f, graph_of(*size), x))
    assert value == pytest.approx(printed(size, x), rel=1e-6)
    if size == SIZES["2x2"]:
        assert value == pytest.approx(exact, rel=1e-9)
    else:
        assert abs(value - exact) > 0.02 * abs(exact)
        missing = float(laplacian_divergence(graph_of(*size)).flatten() @ derivatives(x)[0])
        assert value + missing == pytest.approx(exact, rel=1e-8)


def test_equation_8(size):
    """The trace is the sum over edges of w (f_ii - 2 f_ij + f_jj) (x_i / d_i + x_j / d_j) / 2."""
    x, weights = inside(*size[:2]), weight_matrix(*size)
    second = derivatives(x)[1].numpy()
    u = x.flatten().numpy() / volume(weights)
    edges = sum(
        weights[i, j] * (second[i, i] - 2 * second[i, j] + second[j, j]) * (u[i] + u[j]) / 2
        for i in range(len(u))
        for j in range(i)
    )
    assert float(laplace_beltrami(f, graph_of(*size), x, volume=False).value) == pytest.approx(
        edges, rel=1e-10
    )


def test_equation_8_is_not_the_divergence_form(size):
    """For the Lebesgue measure, d_a (L_ab d_b f) has (div L)' f' more than (8): zero where all
    degrees are equal only."""
    graph, x = graph_of(*size), inside(*size[:2])
    chart = Chart(size, x)
    lebesgue = float(chart.divergence(lambda y: torch.ones_like(y[0])))
    value = float(laplace_beltrami(f, graph, x, volume=False).value)
    missing = float(laplacian_divergence(graph).flatten() @ derivatives(x)[0])
    assert value + missing == pytest.approx(lebesgue, rel=1e-9)
    if size == SIZES["2x2"]:
        assert value == pytest.approx(lebesgue, rel=1e-9)
    else:
        assert abs(value - lebesgue) > 0.02 * abs(lebesgue)


def test_laplacian_of_euclidean_inputs():
    """In the Euclidean metric it is the sum of second derivatives, of any real tensor, whatever
    `volume`."""
    x = tangents(2, 3, 2, 3)
    for volume_term in (True, False):
        value = laplace_beltrami(f, "euclidean", x, volume=volume_term).value
        for k in range(2):
            assert float(value[k]) == pytest.approx(float(derivatives(x[k])[1].trace()), rel=1e-11)


@pytest.mark.parametrize("volume_term", [False, True])
@pytest.mark.parametrize("graph", [graph_of(2, 3, 1), "euclidean"])
def test_stochastic_laplacian_is_unbiased_and_knows_its_error(graph, volume_term):
    """400 runs: their mean within four standard errors of the exact value, their spread what each
    run says of itself."""
    x = inside(2, 2, 3)
    exact = float(laplace_beltrami(f, graph, x, volume=volume_term).value)
    runs = laplace_beltrami(
        f,
        graph,
        x.expand(400, 2, 2, 3),
        volume=volume_term,
        estimator="stochastic",
        samples=50,
        generator=generator(),
    )
    spread = float(runs.value.std())
    assert float(runs.value.mean()) == pytest.approx(exact, abs=4 * spread / 20)
    assert float(runs.standard_error.square().mean()) ** 0.5 == pytest.approx(spread, rel=0.15)
    again = laplace_beltrami(
        f, graph, x, volume=volume_term, estimator="stochastic", samples=3, generator=generator(5)
    )
    same = laplace_beltrami(
        f, graph, x, volume=volume_term, estimator="stochastic", samples=3, generator=generator(5)
    )
    assert torch.equal(again.value, same.value) and again.standard_error > 0


@pytest.mark.parametrize("samples", [2, 3, 5])
def test_stochastic_laplacian_of_few_samples(samples):
    """The mean of zeta' f'' zeta over noise.sample's draws and the root of their unbiased variance
    over their number."""
    graph, x, source = graph_of(2, 3, 1), inside(2, 3), generator(3)
    second = derivatives(x)[1].numpy()
    draws = [
        noise.sample(graph, x, 1.0, generator=source).flatten().numpy() for _ in range(samples)
    ]
    products = [z @ second @ z for z in draws]
    estimate = laplace_beltrami(
        f, graph, x, volume=False, estimator="stochastic", samples=samples, generator=generator(3)
    )
    mean = sum(products) / samples
    variance = sum((p - mean) ** 2 for p in products) / (samples - 1)
    assert float(estimate.value) == pytest.approx(mean, rel=1e-10)
    assert float(estimate.standard_error) == pytest.approx((variance / samples) ** 0.5, rel=1e-10)


def test_stochastic_laplacian_has_the_variance_of_its_quadratic_form():
    """Of zeta' f'' zeta it is 2 tr((L f'')^2); the error after n samples is the root of its n-th
    part."""
    graph, x, n = graph_of(2, 3, 1), inside(2, 3), 1000
    product = (
        torch.tensor(laplacian(weight_matrix(2, 3, 1), x.flatten().numpy())) @ derivatives(x)[1]
    )
    expected = (2 * float((product @ product).trace()) / n) ** 0.5
    runs = laplace_beltrami(
        f, graph, x, volume=False, estimator="stochastic", samples=n, generator=generator()
    )
    assert float(runs.standard_error) == pytest.approx(expected, rel=0.1)


def test_a_linear_function_has_the_drift_alone(size):
    graph, x = graph_of(*size), inside(*size[:2])
    v = torch.sin(torch.arange(x.numel(), dtype=torch.float64)).view_as(x)

    def linear(x):
        return (x * v).sum((-2, -1))

    drift = laplacian_divergence(graph) + metric.apply_laplacian(
        graph, x, log_volume_gradient(graph, x)
    )
    assert float(laplace_beltrami(linear, graph, x).value) == pytest.approx(
        float((drift * v).sum()), rel=1e-10
    )
    for volume_term, options in (
        (False, {}),
        (False, {"estimator": "stochastic", "generator": generator()}),
    ):
        estimate = laplace_beltrami(linear, graph, x, volume=volume_term, **options)
        assert float(estimate.value) == float(estimate.standard_error) == 0
    assert float(laplace_beltrami(lambda x: 0 * x.sum() + 1, graph, x).value) == 0
    for function in (laplace_beltrami, laplace_beltrami_printed):
        value = function(lambda x: 0 * x.sum() + 1, graph, x)
        assert float(getattr(value, "value", value)) == 0
    assert (gradient(lambda x: 0 * x.sum() + 1, graph, x) == 0).all()


@pytest.mark.parametrize("weight", [2.0, torch.ones((), dtype=torch.float64, requires_grad=True)])
def test_a_function_that_autograd_cannot_see_through_is_refused(weight):
    """Instead of derivatives of 0."""
    graph, x, sigma = graph_of(1, 3, 1), inside(1, 3), tangents(1, 3)
    for derivative in (
        lambda f: gradient(f, graph, x),
        lambda f: hessian(f, graph, x, sigma, sigma),
        lambda f: laplace_beltrami(f, graph, x),
        lambda f: laplace_beltrami_printed(f, graph, x),
    ):
        with pytest.raises(ValueError, match="^f must be differentiable in x, got outputs on whic"):
            derivative(lambda x: weight * x.detach().sum())


def test_the_laplacian_of_the_volume_measure_is_symmetric():
    """With E = grad f . grad h the carre du champ: Delta(f h) = f Delta h + h Delta f + 2 f' L
    h'."""
    graph, x = graph_of(2, 3, 1), inside(2, 3)

    def h(x):
        return f(x.flip(-1)) + (x**2).sum()

    def delta(function):
        return float(laplace_beltrami(function, graph, x).value)

    slopes = [torch.autograd.functional.jacobian(function, x) for function in (f, h)]
    cross = float((slopes[0] * metric.apply_laplacian(graph, x, slopes[1])).sum())
    expected = float(f(x)) * delta(h) + float(h(x)) * delta(f) + 2 * cross
    assert delta(lambda x: f(x) * h(x)) == pytest.approx(expected, rel=1e-9)


# ---------------------------------------------------------------- batches, channels, types


def functions_of(graph, x, a, b):
    """Each function that returns one number or image per image."""
    return {
        "gradient": gradient(f, graph, x),
        "christoffel": christoffel(graph, x, a, b),
        "hessian": hessian(f, graph, x, a, b),
        "log_volume": log_volume(graph, x),
        "log_volume_gradient": log_volume_gradient(graph, x),
        "laplace_beltrami": laplace_beltrami(f, graph, x).value,
        "trace": laplace_beltrami(f, graph, x, volume=False).value,
        "printed": laplace_beltrami_printed(f, graph, x),
        "exponential_map": exponential_map(graph, x, 0.02 * a, steps=5),
    }


def test_a_batch_of_colour_images_is_a_loop():
    graph, x, (a, b) = graph_of(2, 3, 1), inside(3, 2, 2, 3), tangents(2, 3, 2, 2, 3)
    together = functions_of(graph, x, a, b)
    for k in range(3):
        for name, alone in functions_of(graph, x[k], a[k], b[k]).items():
            assert alone.shape == together[name].shape[1:]
            torch.testing.assert_close(together[name][k], alone, rtol=1e-8, atol=1e-9)


def test_channels_are_a_product_of_simplices():
    """Of a function of one channel the other adds nothing, and traces of channels add up."""
    graph, x = graph_of(2, 3, 1), inside(2, 2, 3)

    def of_channel(c):
        return lambda x: f(x[c : c + 1])

    for c in range(2):
        alone = laplace_beltrami(f, graph, x[c])
        assert float(laplace_beltrami(of_channel(c), graph, x).value) == pytest.approx(
            float(alone.value), rel=1e-10
        )
    both = laplace_beltrami(lambda x: f(x[:1]) + f(x[1:]), graph, x).value
    assert float(both) == pytest.approx(
        sum(float(laplace_beltrami(f, graph, x[c]).value) for c in range(2)), rel=1e-10
    )
    assert float(log_volume(graph, x)) == pytest.approx(
        float(log_volume(graph, x[0]) + log_volume(graph, x[1]))
    )


def test_float32():
    graph, x, (a, b) = graph_of(2, 3, 1), inside(2, 3), tangents(2, 2, 3, size=0.1)
    single = functions_of(graph.converted(dtype=torch.float32), x.float(), a.float(), b.float())
    for name, exact in functions_of(graph, x, a, b).items():
        assert single[name].dtype == torch.float32
        torch.testing.assert_close(single[name].double(), exact, rtol=1e-3, atol=1e-4)
    estimate = laplace_beltrami(
        f,
        graph.converted(dtype=torch.float32),
        x.float(),
        estimator="stochastic",
        samples=5,
        generator=generator(),
    )
    assert estimate.value.dtype == estimate.standard_error.dtype == torch.float32


@pytest.mark.parametrize("leaf", [True, False])
def test_derivatives_keep_a_graph_only_if_asked(leaf):
    """Values are the same; without `create_graph` nothing is kept of f, of its parameters or of
    x."""
    graph, (a, b) = graph_of(2, 3, 1), tangents(2, 2, 3)
    x = inside(2, 3).requires_grad_(leaf)
    parameter = torch.ones((), dtype=torch.float64, requires_grad=True)

    def g(x):
        return parameter * f(x)

    def derived(**options):
        sampled = {"estimator": "stochastic", "samples": 3, "generator": generator(), **options}
        return (
            gradient(g, graph, x, **options),
            hessian(g, graph, x, a, b, **options),
            laplace_beltrami(g, graph, x, **options).value,
            laplace_beltrami(g, graph, x, volume=False, **options).value,
            laplace_beltrami(g, "euclidean", x, **options).value,
            laplace_beltrami(g, graph, x, **sampled).value,
        )

    plain, kept = derived(), derived(create_graph=True)
    assert not any(value.requires_grad for value in plain) and all(
        value.requires_grad for value in kept
    )
    for value, again in zip(plain, kept):
        torch.testing.assert_close(value, again.detach(), rtol=1e-10, atol=1e-11)
    with torch.no_grad():
        for value, again in zip(plain, derived()):
            torch.testing.assert_close(value, again, rtol=1e-10, atol=1e-11)
        assert not any(value.requires_grad for value in functions_of(graph, x, a, b).values())
    assert x.grad is None and parameter.grad is None


def test_operators_are_differentiable_in_x_and_in_f():
    graph, (a, b) = graph_of(1, 3, 1), tangents(2, 1, 3)
    options = {"create_graph": True}

    def of(x, weight):
        def g(x):
            return (weight * x**3).sum((-2, -1)) + torch.sin((weight * x).sum((-2, -1)))

        return (
            gradient(g, graph, x, **options),
            hessian(g, graph, x, a, b, **options),
            laplace_beltrami(g, graph, x, **options).value,
            laplace_beltrami(g, graph, x, volume=False, **options).value,
            laplace_beltrami(g, "euclidean", x, **options).value,
            laplace_beltrami(
                g, graph, x, estimator="stochastic", samples=3, generator=generator(), **options
            ).value,
        )

    weight = torch.tensor([[0.7, -1.3, 0.4]], dtype=torch.float64, requires_grad=True)
    for x in (inside(1, 3).requires_grad_(), inside(1, 3)):
        assert torch.autograd.gradcheck(of, (x, weight), rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------- geodesics


def test_geodesic_solves_its_equation(size):
    """x'' = -Gamma(x', x'), by central differences of the path, from x with velocity sigma."""
    graph, x, sigma = graph_of(*size), inside(*size[:2]), tangents(*size[:2], size=0.05)
    path = geodesic(graph, x, sigma, steps=100)
    assert path.shape == (101, *x.shape) and torch.equal(path[0], x)
    h = 1 / 100
    assert float(
        ((-3 * path[0] + 4 * path[1] - path[2]) / (2 * h) - sigma).abs().max()
    ) < 1e-4 * float(sigma.abs().max())
    middle = path[2:-2:24]
    before, after, twice = path[1:-3:24], path[3:-1:24], (path[:-4:24], path[4::24])
    velocity = (8 * (after - before) - (twice[1] - twice[0])) / (12 * h)
    bend = (16 * (after + before) - twice[0] - twice[1] - 30 * middle) / (12 * h**2)
    velocity = velocity - velocity.mean((-2, -1), keepdim=True)
    torch.testing.assert_close(
        bend, -christoffel(graph, middle, velocity, velocity), rtol=1e-5, atol=1e-7
    )


def test_geodesic_has_constant_speed(size):
    """The tangent norm of its velocity is that of sigma all the way."""
    graph, x, sigma = graph_of(*size), inside(*size[:2]), tangents(*size[:2], size=0.05)
    h, path = 1 / 100, geodesic(graph, x, sigma, steps=100)
    velocity = (8 * (path[3:-1] - path[1:-3]) - (path[4:] - path[:-4])) / (12 * h)
    velocity = velocity - velocity.mean((-2, -1), keepdim=True)
    speed = metric.tangent_norm_sq(graph, path[2:-2, None], velocity[:, None])
    torch.testing.assert_close(
        speed, metric.tangent_norm_sq(graph, x, sigma).expand_as(speed), rtol=1e-7, atol=0
    )


def test_geodesic_converges_at_fourth_order():
    graph, x, sigma = graph_of(2, 3, 1), inside(2, 3), tangents(2, 3, size=0.08)
    exact = exponential_map(graph, x, sigma, steps=256)
    errors = [float((exponential_map(graph, x, sigma, steps=n) - exact).norm()) for n in (4, 8, 16)]
    np.testing.assert_allclose(np.log2(errors[:-1]) - np.log2(errors[1:]), 4, atol=0.4)


def test_geodesic_is_the_shortest_path(size):
    """Between its ends the dynamic distance is its length, |sigma|, up to the distance's 1 / N^2;
    and it is the path."""
    graph, x, sigma = graph_of(*size), inside(*size[:2]), tangents(*size[:2], size=0.04)
    path = geodesic(graph, x, sigma, steps=32)
    distance, shortest = metric.dynamic_distance(graph, x, path[-1], 32)
    assert float(distance) == pytest.approx(
        float(metric.tangent_norm_sq(graph, x, sigma)) ** 0.5, rel=1e-4
    )
    assert float((shortest - path).abs().max()) < 0.02 * float((path[-1] - x).abs().max())


def test_geodesic_keeps_the_mass_and_its_time():
    graph, x, sigma = graph_of(2, 3, 1), 3 * inside(2, 2, 3), tangents(2, 2, 3, size=0.1)
    path = geodesic(graph, x, sigma, steps=20)
    torch.testing.assert_close(
        path.sum((-2, -1)), torch.full((21, 2), 3.0).double(), rtol=1e-13, atol=0
    )
    assert torch.equal(exponential_map(graph, x, sigma, steps=20), path[-1])
    torch.testing.assert_close(
        geodesic(graph, x, sigma, time=0.5, steps=10), path[:11], rtol=1e-12, atol=0
    )
    torch.testing.assert_close(
        geodesic(graph, x, -sigma, time=-1.0, steps=20), path, rtol=1e-12, atol=0
    )
    assert torch.equal(exponential_map(graph, x, 0 * sigma, steps=3), x)


def test_geodesic_that_leaves_the_simplex():
    graph, x, sigma = graph_of(2, 3, 1), inside(2, 3), tangents(2, 3)
    with pytest.raises(
        RuntimeError, match=r"^the geodesic leaves the simplex before time 0\.\d+: .* sigma or time"
    ):
        geodesic(graph, x, sigma)
    with pytest.raises(RuntimeError, match="^the geodesic leaves the simplex"):
        exponential_map(graph, x, 1e3 * sigma)


def test_geodesic_that_hardly_leaves_the_simplex():
    """Two pixels, whose geodesics are straight lines: a pixel of -1e-6 is refused, one of 1e-6 is
    not."""
    graph, x, sigma = (
        graph_of(1, 2, 1),
        torch.tensor([[0.25, 0.75]]).double(),
        torch.tensor([[-1.0, 1.0]]).double(),
    )
    end = exponential_map(graph, x, (0.25 - 1e-6) * sigma, steps=4)
    np.testing.assert_allclose(end[0], [1e-6, 1 - 1e-6], rtol=0, atol=1e-12)
    with pytest.raises(RuntimeError, match="^the geodesic leaves the simplex before time 1: "):
        geodesic(graph, x, (0.25 + 1e-6) * sigma, steps=4)


def test_geodesic_is_differentiable():
    graph = graph_of(1, 3, 1)

    def of(x, v):
        return geodesic(graph, x, v - v.mean(), steps=4)[1:]

    inputs = inside(1, 3).requires_grad_(), tangents(1, 3, size=0.05).requires_grad_()
    assert torch.autograd.gradcheck(of, inputs, rtol=1e-4, atol=1e-6)


@gpu
def test_on_the_gpu():
    cpu = graph_of(2, 3, 2, kernel(2))
    graph, x, (a, b) = cpu.converted("cuda"), inside(2, 2, 2, 3), tangents(2, 2, 2, 2, 3)
    on_cpu = functions_of(cpu, x, a, b)
    for name, result in functions_of(graph, x.cuda(), a.cuda(), b.cuda()).items():
        assert result.is_cuda
        torch.testing.assert_close(result.cpu(), on_cpu[name], rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(laplacian_divergence(graph).cpu(), laplacian_divergence(cpu))
    source = torch.Generator("cuda").manual_seed(0)
    estimate = laplace_beltrami(
        f, graph, x.cuda(), estimator="stochastic", samples=400, generator=source
    )
    error = (estimate.value.cpu() - on_cpu["laplace_beltrami"]).abs()
    assert (error <= 5 * estimate.standard_error.cpu()).all()


# ---------------------------------------------------------------- bad input

GRAPH, X, SIGMA = graph_of(3, 4, 1), inside(2, 3, 4), tangents(2, 3, 4, size=1e-3)
BLACK = X * (torch.arange(12).view(3, 4) != 5)
SAMPLED = {"estimator": "stochastic", "generator": generator()}

POSITIVE, NEGATIVE = "x must be positive on every pixel", "x must be non-negative and finite"


def test_what_overflows_says_so():
    graph, x = GRAPH.converted(dtype=torch.float32), 3e38 * inside(3, 4).float()
    sigma = x.flip(-1) - x
    with pytest.raises(RuntimeError, match=r"^christoffel overflows torch\.float32"):
        christoffel(graph, x, sigma - sigma.mean(), sigma - sigma.mean())
    for scale, kind in ((1e307, torch.float64), (1e-310, torch.float64), (1e-40, torch.float32)):
        image = (scale * inside(3, 4)).to(kind)
        with pytest.raises(RuntimeError, match=rf"^log_volume_gradient overflows {kind}"):
            log_volume_gradient(GRAPH.converted(dtype=kind), image)
    with pytest.raises(RuntimeError, match=r"^log_volume overflows torch\.float64"):
        log_volume(GRAPH, 1e307 * inside(3, 4))


def test_an_estimate_of_no_images():
    none = inside(3, 4)[None, None][:0]
    found = laplace_beltrami(
        lambda x: x.sum((-3, -2, -1)), GRAPH, none, estimator="stochastic", generator=generator()
    )
    assert found.value.shape == found.standard_error.shape == (0,)


BAD_CALLS = {
    "gradient": (lambda: gradient(f, GRAPH, -X), NEGATIVE),
    "christoffel": (lambda: christoffel(GRAPH, BLACK, SIGMA, SIGMA), POSITIVE),
    "christoffel_1": (lambda: christoffel(GRAPH, X, SIGMA[:1], SIGMA), "sigma1 must have the sh"),
    "christoffel_2": (lambda: christoffel(GRAPH, X, SIGMA, SIGMA + 1), "sigma2 must sum to zero"),
    "hessian": (lambda: hessian(f, GRAPH, BLACK, SIGMA, SIGMA), POSITIVE),
    "hessian_1": (lambda: hessian(f, GRAPH, X, SIGMA + 1, SIGMA), "sigma1 must sum to zero"),
    "hessian_2": (lambda: hessian(f, GRAPH, X, SIGMA, SIGMA[:1]), "sigma2 must have the shape"),
    "log_volume": (lambda: log_volume(GRAPH, BLACK), POSITIVE),
    "log_volume_gradient": (lambda: log_volume_gradient(GRAPH, BLACK), POSITIVE),
    "laplace_beltrami": (lambda: laplace_beltrami(f, GRAPH, BLACK), POSITIVE),
    "trace": (lambda: laplace_beltrami(f, GRAPH, -X, volume=False), NEGATIVE),
    "metric": (lambda: laplace_beltrami(f, "l1", X), "metric must be .*'euclidean', got 'l1'"),
    "estimator": (lambda: laplace_beltrami(f, GRAPH, X, estimator="mc"), "estimator must .*'mc'"),
    "samples": (
        lambda: laplace_beltrami(f, GRAPH, X, samples=1, **SAMPLED),
        "samples must be at least 2, got 1",
    ),
    "printed": (lambda: laplace_beltrami_printed(f, GRAPH, BLACK), POSITIVE),
    "geodesic": (lambda: geodesic(GRAPH, BLACK, SIGMA), POSITIVE),
    "geodesic_sigma": (lambda: geodesic(GRAPH, X, SIGMA * np.nan), "sigma must be finite, got nan"),
    "steps": (lambda: geodesic(GRAPH, X, SIGMA, steps=0), "steps must be at least 1, got 0"),
    "time": (lambda: geodesic(GRAPH, X, SIGMA, time=math.inf), "time must be finite, got inf"),
    "exponential_map": (lambda: exponential_map(GRAPH, BLACK, SIGMA), POSITIVE),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls(case):
    call, says = BAD_CALLS[case]
    with pytest.raises(ValueError, match=f"^{says}"):
        call()


OF_A_FUNCTION = {
    "gradient": lambda g, x: gradient(g, GRAPH, x),
    "hessian": lambda g, x: hessian(g, GRAPH, x, SIGMA, SIGMA),
    "laplace_beltrami": lambda g, x: laplace_beltrami(g, GRAPH, x),
    "euclidean": lambda g, x: laplace_beltrami(g, "euclidean", x),
    "printed": lambda g, x: laplace_beltrami_printed(g, GRAPH, x),
}


@pytest.mark.parametrize("function", ["hessian", "laplace_beltrami", "euclidean", "printed"])
def test_a_function_without_second_derivatives(function):
    with pytest.raises(RuntimeError, match="^f has a function of which torch has no second deriv"):
        OF_A_FUNCTION[function](lambda x: torch.nn.functional.hardsigmoid(x).sum(), X)


@pytest.mark.parametrize("function", OF_A_FUNCTION)
def test_a_function_of_another_shape(function):
    with pytest.raises(ValueError, match=r"^f must return one .*image, \(\), got \(2, 3, 4\)$"):
        OF_A_FUNCTION[function](lambda x: x, X)


def test_what_a_function_must_return():
    for g, x, says in (
        (lambda x: x.sum((-2, -1)), X, r"\(\), got \(2,\)$"),
        (lambda x: x.sum()[None], X, r"\(\), got \(1,\)$"),
        (lambda x: x.sum(), X[None], r"\(1,\), got \(\)$"),
    ):
        with pytest.raises(ValueError, match=f"^f must return one number per image, {says}"):
            gradient(g, GRAPH, x)
    with pytest.raises(TypeError, match=r"^what f returns must be a tensor, got float$"):
        gradient(lambda x: 1.5, GRAPH, X)


@pytest.mark.parametrize("metric", [GRAPH, "euclidean"])
def test_sampling_needs_a_generator(metric):
    with pytest.raises(TypeError, match=r"^generator must be a torch.Generator, got NoneType$"):
        laplace_beltrami(f, metric, X, estimator="stochastic")


def test_the_border_has_a_gradient_and_a_trace():
    """Neither needs the inverse of L."""
    x = inside(2, 3)
    x[0, 1] = 0
    assert gradient(f, graph_of(2, 3, 1), x).isfinite().all()
    assert calculus.laplace_beltrami(f, graph_of(2, 3, 1), x, volume=False).value.isfinite()


def test_log_volume_gradient_of_a_hopeless_image():
    x = torch.full((6, 6), 1e-25, dtype=torch.float64)
    x[2:4, 2:4] = 0.25
    with pytest.raises(RuntimeError, match="^log_volume_gradient: x has mass"):
        calculus.log_volume_gradient(graph_of(6, 6, 1), x)


# ---------------------------------------------------------------- what does not fit the type


def test_overflow_is_reported():
    graph, x = PixelGraph(3, 4, 1), 1e5 * (torch.rand(2, 1, 3, 4) + 0.5)
    sigma, rng = x - x.mean((-2, -1), keepdim=True), torch.Generator()

    def large(image):
        return (1e30 * image**2).sum((-3, -2, -1))

    calls = {
        "gradient": lambda: calculus.gradient(large, graph, x),
        "hessian": lambda: calculus.hessian(large, graph, x, sigma, sigma),
        "laplace_beltrami": lambda: calculus.laplace_beltrami(
            large, graph, x, estimator="stochastic", generator=rng
        ),
    }
    for name, call in calls.items():
        with pytest.raises(RuntimeError, match=f"^{name} overflows torch.float32"):
            call()


def test_no_channels():
    graph, x = PixelGraph(3, 4, 1), torch.ones(2, 0, 3, 4)
    found = calculus.laplace_beltrami(lambda x: (x**2).sum((-3, -2, -1)), graph, x)
    assert found.value.tolist() == [0, 0]


def test_options_of_the_other_estimator_are_checked():
    graph, x = PixelGraph(3, 4, 1), torch.ones(1, 3, 4)
    for name in ("samples", "generator"):
        with pytest.raises(TypeError, match=f"^{name} must be"):
            calculus.laplace_beltrami(lambda x: x.sum((-3, -2, -1)), graph, x, **{name: object()})


def test_what_f_raises_names_it():
    """And a module without a forward."""
    x = torch.rand(1, 1, 3, 3)
    for f, says in ((torch.nn.Linear(4, 3), "shapes"), (PixelGraph(3, 3, 1), "forward")):
        with pytest.raises((RuntimeError, NotImplementedError), match=f"^f failed on x .*{says}"):
            calculus.gradient(f, PixelGraph(3, 3, 1), x)


@pytest.mark.parametrize("call", [calculus.gradient, calculus.laplace_beltrami])
def test_nan_of_a_function_is_no_overflow(call):
    x = torch.full((1, 1, 3, 3), 0.5, dtype=torch.float64)
    graph = PixelGraph(3, 3, 1).to(torch.float64)
    with pytest.raises(RuntimeError, match="scale f or x, unless f itself is NaN"):
        call(lambda z: (z * float("nan")).square().sum((1, 2, 3)), graph, x)

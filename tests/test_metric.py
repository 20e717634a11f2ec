"""The metric tensor and its inverse against the paper's loops, pseudo-inverses, other solvers, and
bad input."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from oracles import (
    SIZES,
    gpu,
    graph_of,
    images,
    inside,
    kernel,
    laplacian,
    measures,
    seeds,
    tangents,
    volume,
    weight_matrix,
)
from scipy.optimize import minimize

from wdtr_lite import PixelGraph, data, metric, noise, transport
from wdtr_lite.metric import (
    dynamic_distance,
    grad_norm_sq,
    grad_norm_sq_algorithm1,
    inner,
    potential,
    tangent_norm_sq,
)


@pytest.fixture(params=SIZES.values(), ids=SIZES)
def size(request):
    return request.param


@pytest.fixture(scope="module")
def digits():
    """12 random digits as float64 images of mass 1: most pixels black."""
    chosen = np.random.default_rng(0).choice(5000, 12, replace=False)
    x = data.load("mnist5k").images[chosen].double()
    return x / x.sum((-2, -1), keepdim=True)


def loop(size, x):
    """The paper's L of each image of a batch, (M, n, n)."""
    weights = weight_matrix(*size)
    return np.stack([laplacian(weights, image) for image in x.reshape(-1, len(weights)).numpy()])


# ---------------------------------------------------------------- L(x)


def test_laplacian_is_the_papers(size):
    """Entry by entry, dense, sparse and applied to the unit vectors, one image and a batch of
    colour images."""
    graph, x = graph_of(*size), images(2, 3, *size[:2])
    n = graph.size
    identity = torch.eye(n, dtype=torch.float64).view(n, *size[:2])
    for image in (x, x[0], x[0, 0]):
        expected = loop(size, image).reshape(*image.shape[:-2], n, n)
        dense, sparse = metric.laplacian(graph, image), metric.laplacian_sparse(graph, image)
        applied = metric.apply_laplacian(graph, image[..., None, :, :], identity).flatten(-2)
        assert sparse.is_sparse and dense.dtype == sparse.dtype == applied.dtype == torch.float64
        for matrix in (dense, sparse.to_dense(), applied):
            np.testing.assert_allclose(
                matrix, expected, rtol=1e-12, atol=1e-12 * abs(expected).max()
            )


def test_mean_diagonal(size):
    """Over all pixels, channels and images: L over it has diagonal 1 on average."""
    graph, x = graph_of(*size), images(2, 3, *size[:2])
    value = metric.mean_diagonal(graph, x)
    assert value.shape == () and value.dtype == torch.float64
    assert float(value) == pytest.approx(
        loop(size, x).diagonal(axis1=-2, axis2=-1).mean(), rel=1e-12
    )
    scaled = metric.laplacian(graph, x[0, 0] / metric.mean_diagonal(graph, x[0, 0]))
    assert float(scaled.trace()) == pytest.approx(graph.size, rel=1e-12)
    assert float(metric.mean_diagonal(graph, 0 * x)) == 0


def test_mean_diagonal_is_differentiable():
    def value(half, x):
        return metric.mean_diagonal(PixelGraph(3, 4, 2, weight=half + half.flip(0, 1)), x)

    assert torch.autograd.gradcheck(
        value, (kernel(2).requires_grad_(), inside(2, 3, 4).requires_grad_())
    )


def test_laplacian_is_definition_1(size):
    """D' Lambda(x) D, with Lambda the mean of both ends' x / d on each edge."""
    graph, x = graph_of(*size), images(2, *size[:2])
    d = volume(weight_matrix(*size))
    incidence = graph.incidence().to_dense()
    diagonal = metric.mobility(graph, x)
    for image, values, expected in zip(x, diagonal, loop(size, x)):
        u = image.flatten().numpy() / d
        for row, value in zip(incidence, values):
            j, i = row.nonzero().flatten().tolist()
            assert float(value) == pytest.approx((u[i] + u[j]) / 2, rel=1e-13)
        np.testing.assert_allclose(
            incidence.T * values @ incidence, expected, rtol=1e-12, atol=1e-12
        )


def test_laplacian_is_only_semidefinite(size):
    """The paper calls L and G_W positive definite. But L 1 = 0, and so G_W 1 = 0 for G_W = L^+: of
    rank n - 1 where every pixel is positive, definite on changes that sum to zero."""
    graph, x = graph_of(*size), inside(*size[:2])
    matrix = metric.laplacian(graph, x)
    assert torch.equal(matrix, matrix.mT)
    assert matrix.sum(1).abs().max() < 1e-12 * matrix.diagonal().max()
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    assert abs(eigenvalues[0]) < 1e-12 * eigenvalues[-1] and eigenvalues[1] > 1e-3 * eigenvalues[-1]
    assert vectors[:, 0].std(correction=0) < 1e-10
    inverse = torch.linalg.pinv(matrix, rtol=1e-10, hermitian=True)
    assert (
        torch.linalg.matrix_rank(matrix, rtol=1e-10)
        == torch.linalg.matrix_rank(inverse, rtol=1e-10)
        == graph.size - 1
    )
    assert inverse.sum(1).abs().max() < 1e-11 * inverse.abs().max()
    black = metric.laplacian(graph, images(20, *size[:2], black=0.7))
    assert torch.linalg.eigvalsh(black).min() > -1e-11


def test_the_rank_falls_where_black_pixels_are_out_of_reach():
    """It is n less the number of components: {0, 1, 2}, 3, 4, 5 and {6, 7, 8} on a row lit at 1 and
    7."""
    x = torch.zeros(1, 9, dtype=torch.float64)
    x[0, 1], x[0, 7] = 0.25, 0.75
    assert torch.linalg.matrix_rank(metric.laplacian(graph_of(1, 9, 1), x), rtol=1e-10) == 9 - 5
    assert torch.linalg.matrix_rank(metric.laplacian(graph_of(1, 9, 3), x), rtol=1e-10) == 9 - 1


def test_laplacian_is_linear_in_the_image(size):
    graph, (x, y), v = graph_of(*size), images(2, *size[:2]), tangents(*size[:2])
    both = metric.apply_laplacian(graph, x + 2 * y, v)
    apart = metric.apply_laplacian(graph, x, v) + 2 * metric.apply_laplacian(graph, y, v)
    torch.testing.assert_close(both, apart, rtol=1e-12, atol=1e-11)


def test_apply_laplacian_broadcasts():
    graph, x, v = graph_of(3, 4, 2, kernel(2)), images(5, 1, 3, 4), images(2, 3, 4, seed=1)
    result = metric.apply_laplacian(graph, x, v)
    assert result.shape == (5, 2, 3, 4)
    torch.testing.assert_close(result[3, 1], metric.apply_laplacian(graph, x[3, 0], v[1]))


def test_laplacian_of_no_images_is_none():
    graph = graph_of(3, 4, 1)
    nothing = torch.zeros(0, 1, 3, 4, dtype=torch.float64)
    assert metric.laplacian(graph, nothing).shape == (0, 1, 12, 12)
    assert (
        metric.mobility(graph, nothing).shape[:2]
        == metric.laplacian_sparse(graph, nothing).shape[:2]
        == (0, 1)
    )
    assert grad_norm_sq(graph, nothing, nothing).shape == (0,)


def test_laplacian_is_differentiable(size):
    graph, x, v = (
        graph_of(*size),
        inside(*size[:2]).requires_grad_(),
        tangents(*size[:2]).requires_grad_(),
    )
    for function in (metric.mobility, metric.laplacian):
        assert torch.autograd.gradcheck(lambda x: function(graph, x), x)
    assert torch.autograd.gradcheck(lambda x: metric.laplacian_sparse(graph, x).to_dense(), x)
    assert torch.autograd.gradcheck(lambda x, v: metric.apply_laplacian(graph, x, v), (x, v))


# ---------------------------------------------------------------- the gradient norm


def edge_sum(weights, x, g):
    """(7): the sum over edges i > j of w (g_i - g_j)^2 (x_i / d_i + x_j / d_j) / 2, by a double
    loop."""
    d = volume(weights)
    return sum(
        weights[i, j] * (g[i] - g[j]) ** 2 * (x[i] / d[i] + x[j] / d[j]) / 2
        for i in range(len(x))
        for j in range(i)
    )


def test_equation_7(size):
    """As a sum over edges, as g' L g, summed over the channels."""
    graph, (x, g) = graph_of(*size), images(2, 2, 3, *size[:2])
    value = grad_norm_sq(graph, x, g - 0.4)
    assert value.shape == (2,)
    weights, flat = weight_matrix(*size), [z.flatten(-2).numpy() for z in (x, g)]
    expected = [sum(edge_sum(weights, *channel) for channel in zip(*image)) for image in zip(*flat)]
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    product = (g * metric.apply_laplacian(graph, x, g)).sum((1, 2, 3))
    torch.testing.assert_close(value, product, rtol=1e-11, atol=0)
    assert grad_norm_sq(graph, x[0, 0], g[0, 0]).shape == ()
    assert float(grad_norm_sq(graph, x[0, 0], g[0, 0])) == pytest.approx(
        edge_sum(weights, flat[0][0, 0], flat[1][0, 0])
    )


def relations(height, width, radius, weight, x, g, offsets):
    """Lines 2 to 9 of Algorithm 1 in float64, pixel windows for convolutions: one term per
    relation."""
    d = weight_matrix(height, width, radius, weight).sum(1).reshape(height, width)
    u = x / (d / d.sum())
    total = 0.0
    for dy, dx in offsets:
        here = (slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx)))
        there = (slice(max(0, dy), height - max(0, -dy)), slice(max(0, dx), width - max(0, -dx)))
        h, v = g[here] - g[there], (u[here] + u[there]) / 2
        total += (weight if np.isscalar(weight) else float(weight[radius + dy, radius + dx])) * (
            h * h * v
        ).sum()
    return total


def test_algorithm_1(size):
    """Each pair of opposite relations once, in float64 and to 1e-5 in float32; then it is (7)."""
    graph, (x, g) = graph_of(*size), images(2, 2, 3, *size[:2])
    half = graph.offsets[len(graph.offsets) // 2 :].tolist()
    expected = [
        sum(relations(*size, *channel, half) for channel in zip(*image))
        for image in zip(x.numpy(), g.numpy())
    ]
    value = grad_norm_sq_algorithm1(graph, x, g)
    assert value.shape == (2,) and grad_norm_sq_algorithm1(graph, x[0, 0], g[0, 0]).shape == ()
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(value, grad_norm_sq(graph, x, g), rtol=1e-11)
    single = grad_norm_sq_algorithm1(graph.converted(dtype=torch.float32), x.float(), g.float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, expected, rtol=1e-5)


def printed_algorithm_1(offsets, image, g, centre):
    """Lines 1 to 11 as printed: a kernel K with 1 and -1, a kernel M with `centre` twice, and no
    weight anywhere. Convolutions stay inside the image."""
    total = 0.0
    for dy, dx in offsets:
        k, m = (torch.zeros(1, 1, 1 + abs(dy), 1 + abs(dx), dtype=torch.float64) for _ in range(2))
        here, there = (0, 0, max(0, -dy), max(0, -dx)), (0, 0, max(0, dy), max(0, dx))
        k[here], k[there] = 1, -1
        m[here] = m[there] = centre
        h, v = (
            torch.nn.functional.conv2d(z[None, None], kernel) for z, kernel in ((g, k), (image, m))
        )
        total += float((h * h * v).sum())
    return total


def test_algorithm_1_as_printed(size):
    """Over "neighbor relation tuples arranged symmetrically" it is twice (7), if all weights are 1
    and M is applied to X / d: weights have no effect, and a 1 / (2 d) inside the kernel, the same
    at every pixel, is wrong where degrees differ."""
    graph, (x, g) = graph_of(*size), images(2, *size[:2])
    offsets, true = graph.offsets.tolist(), float(grad_norm_sq(graph, x, g))
    printed = printed_algorithm_1(offsets, x / graph.volume, g, 1 / 2)
    weights = weight_matrix(*size)
    ones, d = (weights > 0).astype(float), volume(weights)
    flat = x.flatten().numpy() / d * volume(ones), g.flatten().numpy()  # the same x / d
    assert printed == pytest.approx(2 * edge_sum(ones, *flat), rel=1e-12)
    if (weights == ones).all():
        assert printed == pytest.approx(2 * true, rel=1e-12)
    else:
        assert abs(printed - 2 * true) > 0.05 * true
    mended = relations(
        *size, x.numpy(), g.numpy(), offsets
    )  # with the weights, and still each edge twice
    assert mended == pytest.approx(2 * true, rel=1e-12)
    constant = printed_algorithm_1(offsets, x, g, 1 / (2 * d[len(d) // 2]))
    if np.allclose(d, d[0]):
        assert constant == pytest.approx(printed, rel=1e-12)
    else:
        assert abs(constant - printed) > 5e-3 * printed


@pytest.mark.parametrize("radius", [2, 4, 6, 8])
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_gradient_norm_in_float32(radius, offset):
    """A relative error of 1e-5 on rough gradients, with a constant added or not."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(8, 3, 32, 32, generator=g)
    grad = torch.randn(8, 3, 32, 32, generator=g) + offset
    graph = PixelGraph(32, 32, radius)
    wide = grad_norm_sq_algorithm1(graph.converted(dtype=torch.float64), x.double(), grad.double())
    half = graph.offsets[len(graph.offsets) // 2 :].tolist()
    value = grad_norm_sq(graph, x, grad)
    assert value.dtype == torch.float32
    np.testing.assert_allclose(value, wide, rtol=1e-5)
    count = np.ones((32, 32))
    for axis in (0, 1):
        lines = abs(np.subtract.outer(np.arange(32), np.arange(32))) <= radius
        count = np.moveaxis(np.tensordot(lines, count, (1, axis)), 0, axis)
    u = x[0].double().numpy() / ((count - 1) / (count - 1).sum())
    by_hand = 0.0
    for dy, dx in half:
        h, w = 32 - dy, 32 - abs(dx)
        a, b = max(0, -dx), max(0, dx)
        low, high = (
            (slice(None), slice(0, h), slice(a, a + w)),
            (slice(None), slice(dy, dy + h), slice(b, b + w)),
        )
        steps = grad[0].double().numpy()
        by_hand += ((steps[high] - steps[low]) ** 2 * (u[high] + u[low]) / 2).sum()
    assert float(value[0]) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("radius", [1, 2, 8])
@pytest.mark.parametrize("height", [1.0, 1e3])
def test_gradient_norm_on_plateaus(radius, height):
    """Ink on both plateaus of the gradient, on one, on both sides of a dark step: in float32 never
    negative, and within the bound the docstring states, 1e-6 sum_i u_i [B1 (g - mean)^2 + B((g -
    mean)^2)]_i with the mean over u."""
    graph = PixelGraph(32, 32, radius)
    wide = graph.converted(dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    x = torch.rand(40, 1, 32, 32, generator=g)
    x[10:20, ..., 16 - radius :] = 0  # where the true value is zero
    x[20:, ..., 16 - radius : 16 + radius] = 0  # here too, and half of the rounding is negative
    grad = height * (torch.rand(40, 1, 1, 1, generator=g) + (torch.arange(32) >= 16)).expand(
        40, 1, 32, 32
    )
    value = grad_norm_sq(graph, x, grad).double()
    exact = grad_norm_sq_algorithm1(wide, x.double(), grad.double())
    assert (exact[:10] > 0).all() and (exact[10:] == 0).all()
    u = x.double() / wide.volume
    mean = (u * grad).sum((-2, -1), keepdim=True) / u.sum((-2, -1), keepdim=True)
    squares = (grad - mean).square()
    bound = 1e-6 * (
        u * (wide.neighbor_sum(torch.ones_like(u)) * squares + wide.neighbor_sum(squares))
    ).sum((1, 2, 3))
    assert (value >= 0).all() and ((value - exact).abs() <= bound).all()
    assert ((value - exact)[20:] > 0).any() and (value[20:] == 0).any()
    assert torch.equal(grad_norm_sq(graph, x, torch.full_like(x, 0.3)), torch.zeros(40))


def test_each_channel_of_the_gradient_has_its_own_level():
    """In float32 to 1e-5 where the channels' levels are 0 and 1e4."""
    graph, g = PixelGraph(32, 32, 2), torch.Generator().manual_seed(0)
    x, grad = torch.rand(4, 2, 32, 32, generator=g), torch.randn(4, 2, 32, 32, generator=g)
    grad = grad + torch.tensor([0.0, 1e4])[:, None, None]
    exact = grad_norm_sq_algorithm1(graph.converted(dtype=torch.float64), x.double(), grad.double())
    np.testing.assert_allclose(grad_norm_sq(graph, x, grad), exact, rtol=1e-5)


@pytest.mark.parametrize("weight", [1.0, kernel(2).float()], ids=["constant", "kernel"])
def test_autocast_changes_nothing(weight):
    """In half precision a small difference of large numbers would be noise."""
    graph, g = PixelGraph(8, 9, 2, weight=weight), torch.Generator().manual_seed(0)
    x, v = torch.rand(2, 3, 8, 9, generator=g), torch.randn(2, 3, 8, 9, generator=g)
    xi = 0.01 * metric.apply_laplacian(graph, x, v)
    for function, tensor in ((metric.apply_laplacian, v), (grad_norm_sq, v), (tangent_norm_sq, xi)):
        expected = function(graph, x, tensor)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = function(graph, x, tensor)
        assert value.dtype == torch.float32 and torch.equal(value, expected)


def test_gradient_norm_is_differentiable(size):
    graph, x, g = (
        graph_of(*size),
        inside(2, *size[:2]).requires_grad_(),
        tangents(2, *size[:2]).requires_grad_(),
    )
    for function in (grad_norm_sq, grad_norm_sq_algorithm1):
        assert torch.autograd.gradcheck(lambda x, g: function(graph, x, g), (x, g))
    assert torch.autograd.gradgradcheck(lambda x, g: grad_norm_sq(graph, x, g), (x[0], g[0]))


# ---------------------------------------------------------------- the unit of a pixel


def blob(width=5.0):
    """A round blob of mass 1 on 28 x 28 pixels and minus its derivative along a row, its velocity
    at one pixel a time."""
    row = torch.arange(28, dtype=torch.float64) - 13.5
    x = torch.exp(-(row[:, None] ** 2 + row**2) / (2 * width**2))
    x = x / x.sum()
    return x, row * x / width**2


@pytest.mark.parametrize(
    ("radius", "low", "high"), [(1, 0.97, 1.05), (2, 0.97, 1.08), (4, 0.97, 1.15), (8, 1.0, 1.3)]
)
def test_pixel_unit(radius, low, high):
    """Moving a smooth blob by one pixel measures about 1, along rows as along columns."""
    x, velocity = blob()
    graph = graph_of(28, 28, radius)
    length = float(tangent_norm_sq(graph, x, velocity, unit="pixel")) ** 0.5
    assert low < length < high
    assert float(tangent_norm_sq(graph, x, velocity.mT, unit="pixel")) ** 0.5 == pytest.approx(
        length, rel=1e-8
    )


def test_pixel_unit_does_not_depend_on_the_weights_size():
    x, velocity = blob()
    lengths = [
        tangent_norm_sq(graph_of(28, 28, 2, w), x, velocity, unit="pixel") for w in (1.0, 7.0)
    ]
    lengths.append(
        tangent_norm_sq(
            graph_of(28, 28, 2, torch.full((5, 5), 0.1).double()), x, velocity, unit="pixel"
        )
    )
    torch.testing.assert_close(lengths[1:], lengths[:1] * 2, rtol=1e-9, atol=0)


def test_pixel_unit_is_a_factor():
    """2 / (n S), S the sum of the weights times the squared row offsets, on L: its inverse on every
    square."""
    for size in (SIZES["3x4_weighted"], SIZES["4x3_constant"], SIZES["row"]):
        height, width, radius, weight = size
        rows, columns = (
            np.arange(-radius, radius + 1).clip(1 - side, side - 1) for side in (height, width)
        )
        seen = [  # offsets that some pixel pair has
            (dy, dx, weight if np.isscalar(weight) else float(weight[radius + dy, radius + dx]))
            for dy in sorted(set(rows.tolist()))
            for dx in sorted(set(columns.tolist()))
        ]
        axes = (height > 1) + (width > 1)
        factor = 2 / (height * width * sum(w * (dy**2 + dx**2) for dy, dx, w in seen) / axes)
        graph, x, xi = graph_of(*size), inside(height, width), tangents(height, width)
        y = x + 0.05 * xi / xi.abs().max()
        for plain, scaled in (
            (tangent_norm_sq(graph, x, xi), tangent_norm_sq(graph, x, xi, unit="pixel")),
            (inner(graph, x, xi, y - x), inner(graph, x, xi, y - x, unit="pixel")),
            (
                dynamic_distance(graph, x, y, 2)[0] ** 2,
                dynamic_distance(graph, x, y, 2, unit="pixel")[0] ** 2,
            ),
        ):
            assert float(scaled) == pytest.approx(float(plain) / factor, rel=1e-9)


# ---------------------------------------------------------------- tangent vectors


def test_definition_2(size):
    """xi' L^+ zeta with NumPy's pseudo-inverse, summed over the channels."""
    graph, x = graph_of(*size), inside(2, 3, *size[:2])
    xi, zeta = tangents(2, 2, 3, *size[:2])
    inverse = np.linalg.pinv(loop(size, x), rcond=1e-10, hermitian=True).reshape(
        2, 3, graph.size, graph.size
    )
    flat = [v.flatten(-2).numpy() for v in (xi, zeta)]
    for pair, value in (
        ((0, 0), tangent_norm_sq(graph, x, xi)),
        ((0, 1), inner(graph, x, xi, zeta)),
    ):
        expected = np.einsum("bci,bcij,bcj->b", flat[pair[0]], inverse, flat[pair[1]])
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)
    phi = potential(graph, x, xi).value
    np.testing.assert_allclose(
        phi.flatten(-2), np.einsum("bcij,bcj->bci", inverse, flat[0]), atol=1e-7
    )
    assert (
        tangent_norm_sq(graph, x[0, 0], xi[0, 0]).shape
        == inner(graph, x[0, 0], xi[0, 0], zeta[0, 0]).shape
        == ()
    )


@settings(max_examples=10)
@given(seed=seeds)
def test_inner_product(seed):
    """Symmetric, bilinear, positive, and polarised from the norm."""
    graph, x = graph_of(3, 4, 2, kernel(2)), inside(3, 4, seed=seed)
    a, b, c = tangents(3, 3, 4, seed=seed)

    def batch(function, *vectors):
        vectors = [torch.stack(v)[:, None] for v in vectors]
        return function(graph, x.expand_as(vectors[0]), *vectors)

    norm = batch(tangent_norm_sq, (a, b, c, a + b, a - b, 0 * a))
    ab, ba, cb, mixed, aa = batch(inner, (a, b, c, 2 * a - c, a), (b, a, b, b, a))
    close = {"rtol": 0, "atol": 1e-9 * float(norm[:3].sum())}
    torch.testing.assert_close(ab, ba, **close)
    torch.testing.assert_close(mixed, 2 * ab - cb, **close)
    torch.testing.assert_close(aa, norm[0], **close)
    torch.testing.assert_close(ab, (norm[3] - norm[4]) / 4, **close)
    assert (norm[:5] > 0).all() and norm[5] == 0


def test_the_two_norms_are_dual(size):
    """The tangent norm of L g is the gradient norm of g."""
    graph, x, g = graph_of(*size), images(2, 3, *size[:2], black=0.5), tangents(2, 3, *size[:2])
    xi = metric.apply_laplacian(graph, x, g)
    torch.testing.assert_close(
        tangent_norm_sq(graph, x, xi), grad_norm_sq(graph, x, g), rtol=1e-9, atol=1e-12
    )


def test_potential_is_least_norm_and_reports(size):
    graph, x = graph_of(*size), measures(4, *size[:2], black=0.6, seed=1)
    xi = metric.apply_laplacian(graph, x, tangents(4, *size[:2]))
    matrices, flat = loop(size, x), xi.flatten(1).numpy()
    expected = np.einsum("mij,mj->mi", np.linalg.pinv(matrices, rcond=1e-10, hermitian=True), flat)
    diagonal = matrices.diagonal(axis1=1, axis2=2)
    weight = np.divide(1, diagonal, out=np.zeros_like(diagonal), where=diagonal > 0)
    steps = []
    for tol in (1e-10, 1e-2):
        value, iterations, residual = potential(graph, x, xi, tol=tol)
        left = np.einsum("mij,mj->mi", matrices, value.flatten(1)) - flat
        relative = ((weight * left**2).sum(1) / (weight * flat**2).sum(1)).max() ** 0.5
        assert residual == pytest.approx(relative, abs=1e-13) and residual <= tol
        np.testing.assert_allclose(value.flatten(1), expected, atol=1e3 * tol * abs(expected).max())
        steps.append(iterations)
    assert 0 < steps[1] <= steps[0] <= 2 * graph.size


def test_potential_of_nothing_is_nothing():
    graph, x = graph_of(3, 4, 1), images(2, 3, 4)
    value, iterations, residual = potential(graph, x, torch.zeros_like(x))
    assert torch.equal(value, torch.zeros_like(x)) and (iterations, residual) == (0, 0)
    assert torch.equal(potential(graph, 0 * x, 0 * x).value, torch.zeros_like(x))
    assert potential(graph, x[:0], x[:0]).value.shape == (0, 3, 4)


@pytest.mark.parametrize("dim", [1.0, 1e-3, 1e-6])
def test_tangent_norm_on_a_row_in_closed_form(dim):
    """Radius 1 leaves mass one way to go: the sum over edges of flux^2 / (w mobility), also where x
    is dim."""
    graph, x, xi = graph_of(1, 8, 1, 1.5), inside(1, 8), tangents(1, 8)
    x[0, 3:5] *= dim
    u = x[0].numpy() / volume(weight_matrix(1, 8, 1, 1.5))
    flux = np.cumsum(xi[0].numpy())[:-1]
    expected = (flux**2 / (1.5 * (u[1:] + u[:-1]) / 2)).sum()
    assert float(tangent_norm_sq(graph, x, xi)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("radius", [1, 2, 4])
def test_black_pixels_of_digits(digits, radius):
    """A digit's black pixels beyond the window of its ink are components of one pixel: no mass can
    go there."""
    graph = graph_of(28, 28, radius)
    xi = noise.sample(graph, digits, 0.1, generator=torch.Generator().manual_seed(0))[0]
    assert (xi == 0).flatten(1).sum(1).min() > 10  # there are such pixels
    value = tangent_norm_sq(graph, digits[:, None], xi[:, None])
    assert (value > 0).all()
    for k in range(2):
        inverse = np.linalg.pinv(
            metric.laplacian(graph, digits[k]).numpy(), rcond=1e-10, hermitian=True
        )
        flat = xi[k].flatten().numpy()
        assert float(value[k]) == pytest.approx(flat @ inverse @ flat, rel=1e-8)
    xi[3, 0, 0] += 1e-3
    with pytest.raises(
        ValueError, match=r"^xi must sum to zero .* in image 3 the component of \d+ pixels? at \("
    ):
        tangent_norm_sq(graph, digits[:, None], xi[:, None])


def test_rounding_is_spread_where_the_mass_is():
    """Two bright pixels among hardly lit ones, through which not even the rounding of xi can flow:
    its imbalance of 1e-12 belongs to the bright ones."""
    graph = graph_of(1, 6, 1)
    x, xi = torch.full((1, 6), 1e-20).double(), torch.zeros(1, 6).double()
    x[0, 0], x[0, 1] = 1.0, 0.5
    xi[0, 0], xi[0, 1] = 0.1, -0.1 + 1e-12
    expected = 0.1**2 / float(metric.mobility(graph, x)[0])
    assert float(tangent_norm_sq(graph, x, xi)) == pytest.approx(expected, rel=1e-9)


def test_rounding_that_matters_is_refused():
    """A narrow blob whose border is 1e-80 of its middle. Its derivative, less the 1e-21 that it
    lacks to sum zero, taken from every pixel alike, asks hardly lit pixels for mass that they lack;
    taken where the mass is, it is harmless."""
    graph, row = graph_of(56, 56, 1), torch.arange(56, dtype=torch.float64) - 27.5
    x = torch.exp(-(row[:, None] ** 2 + row**2) / 18)
    x = x / x.sum()
    xi = row * x / 9
    expected = float(tangent_norm_sq(graph, x, xi))
    assert float(tangent_norm_sq(graph, x, xi - xi.sum() * x)) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(
        RuntimeError, match="^the solution's energy does not match its work: xi's rounding matters"
    ):
        tangent_norm_sq(graph, x, xi - 1e-21)


def test_two_components():
    """Two blobs too far apart: each must keep its mass."""
    graph, x, xi = graph_of(1, 9, 1), torch.zeros(1, 9).double(), torch.zeros(1, 9).double()
    x[0, 1], x[0, 7] = 0.25, 0.75
    xi[0] = torch.tensor([0.1, -0.3, 0.2, 0, 0, 0, 0.2, 0, -0.2], dtype=torch.float64)
    apart = [torch.where(torch.arange(9) < 4, xi, 0), torch.where(torch.arange(9) < 4, 0, xi)]
    both = [float(tangent_norm_sq(graph, x, part)) for part in apart]
    assert float(tangent_norm_sq(graph, x, xi)) == pytest.approx(sum(both), rel=1e-12)
    phi = potential(graph, x, xi).value
    for part in (phi[0, :3], phi[0, 3:6], phi[0, 6:]):
        assert float(part.sum()) == pytest.approx(0, abs=1e-13)
    xi[0, 0], xi[0, 8] = 0.2, -0.3
    assert float(xi.sum()) == pytest.approx(0, abs=1e-15)
    with pytest.raises(
        ValueError, match=r"image 0 the component of 3 pixels at \(0, [28]\) sums to -?0.1$"
    ):
        tangent_norm_sq(graph, x, xi)


def test_max_iter_is_enforced(digits):
    graph = graph_of(28, 28, 1)
    xi = noise.sample(graph, digits[:1], 0.1, generator=torch.Generator().manual_seed(0))[0]
    for function in (potential, tangent_norm_sq, lambda *a, **k: inner(*a, xi, **k)):
        with pytest.raises(RuntimeError, match="^relative residual .*tol=1e-10.*max_iter=3"):
            function(graph, digits[:1], xi, max_iter=3)


def test_tangent_norm_in_float32(digits):
    for radius in (1, 2, 8):
        graph = PixelGraph(28, 28, radius)
        wide = graph.converted(dtype=torch.float64)
        xi = noise.sample(wide, digits, 0.1, generator=torch.Generator().manual_seed(0))[0][:, None]
        value = tangent_norm_sq(graph, digits[:, None].float(), xi.float())
        assert value.dtype == torch.float32
        expected = tangent_norm_sq(wide, digits[:, None], xi)
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=0)


def centred(v):
    return v - v.mean((-2, -1), keepdim=True)


@pytest.mark.parametrize("size", [(2, 2, 1, kernel(1)), (1, 4, 2)], ids=["2x2", "row"])
def test_tangent_norm_is_differentiable_twice(size):
    graph = graph_of(*size)
    inputs = (inside(*size[:2]).requires_grad_(), tangents(*size[:2], seed=1).requires_grad_())

    def norm(x, v):
        return tangent_norm_sq(graph, x, centred(v), tol=1e-14)

    def product(x, v):
        return inner(graph, x, centred(v), centred(v**2 - x), tol=1e-14)

    for function in (norm, product):
        assert torch.autograd.gradcheck(function, inputs, rtol=1e-5)
        assert torch.autograd.gradgradcheck(function, inputs, rtol=1e-4, atol=1e-6)
    assert torch.autograd.gradcheck(
        lambda x, v: potential(graph, x, centred(v), tol=1e-14).value, inputs, rtol=1e-5
    )


def test_tangent_norm_is_differentiable_in_a_kernel():
    x, xi, zeta = inside(2, 2), *tangents(2, 2, 2)

    def of_kernel(raw):
        graph = PixelGraph(2, 2, 1, weight=(raw + raw.flip(0, 1)) / 2)
        options = {"tol": 1e-14, "unit": "pixel"}
        return tangent_norm_sq(graph, x, xi, **options), inner(graph, x, xi, zeta, **options)

    raw = kernel(1).requires_grad_()
    assert torch.autograd.gradcheck(of_kernel, raw, rtol=1e-5)
    assert torch.autograd.gradgradcheck(of_kernel, raw, rtol=1e-4, atol=1e-6)


def test_tangent_norm_without_grad_has_no_graph():
    graph, x, xi = graph_of(2, 3, 1), inside(2, 3).requires_grad_(), tangents(2, 3)
    with torch.no_grad():
        assert not tangent_norm_sq(graph, x, xi).requires_grad
    assert tangent_norm_sq(graph, x, xi).requires_grad
    assert not tangent_norm_sq(graph, x.detach(), xi).requires_grad


# ---------------------------------------------------------------- the dynamic distance


def action(weights, path):
    """N sum of the steps' squared lengths at their middles, with NumPy's pseudo-inverse."""
    return (len(path) - 1) * sum(
        (b - a)
        @ np.linalg.pinv(laplacian(weights, (a + b) / 2), rcond=1e-11, hermitian=True)
        @ (b - a)
        for a, b in pairwise(path)
    )


@pytest.mark.parametrize("steps", [2, 7, 16])
def test_two_pixels_in_closed_form(steps):
    """With d = 1/2 both pixels L = (x_1 + x_2) [[1, -1], [-1, 1]] is constant along the path: d =
    |x_1 - y_1| / sqrt(m)."""
    graph = graph_of(1, 2, 1)
    for x, y in (
        ((0.2, 0.8), (0.7, 0.3)),
        ((1.0, 0.0), (0.0, 1.0)),
        ((3.0, 1.0), (0.0, 4.0)),
        ((0.0, 2.0), (0.5, 1.5)),
    ):
        a, b = (torch.tensor([z], dtype=torch.float64) for z in (x, y))
        distance, path = dynamic_distance(graph, a, b, steps)
        assert float(distance) == pytest.approx(abs(x[0] - y[0]) / sum(x) ** 0.5, rel=1e-7)
        straight = torch.lerp(
            a, b, torch.linspace(0, 1, steps + 1, dtype=torch.float64)[:, None, None]
        )
        torch.testing.assert_close(path, straight, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["2x2", "row_weighted", "4x3_constant"])
def test_dynamic_distance_is_a_distance(name):
    """Symmetric, zero between equals, with the triangle inequality; small steps make up for the
    discrete time."""
    graph = graph_of(*SIZES[name])
    x, y, z = measures(3, *SIZES[name][:2], seed=4)
    xy, yz, xz, yx = (
        float(dynamic_distance(graph, *pair)[0]) for pair in ((x, y), (y, z), (x, z), (y, x))
    )
    assert xy == pytest.approx(yx, rel=1e-7) and min(xy, yz, xz) > 0
    assert xz < (xy + yz) * (1 + 1e-3)
    distance, path = dynamic_distance(graph, x, x)
    assert 0 <= float(distance) < 1e-15
    torch.testing.assert_close(path, x.expand(17, *x.shape), rtol=1e-15, atol=0)


def test_dynamic_distance_of_a_negative_view():
    """Which NumPy does not take."""
    (x, y), graph = measures(2, 2, 3), graph_of(2, 3, 1)
    found = dynamic_distance(graph, torch._neg_view(-x), y, 3)
    assert torch.equal(found.distance, dynamic_distance(graph, x, y, 3).distance)


@pytest.mark.parametrize("name", ["2x2", "row", "3x4_weighted"])
def test_the_path_has_its_ends_its_mass_and_no_negative_pixel(name):
    """Also from an image with black pixels to another; and its action is the squared distance."""
    graph = graph_of(*SIZES[name])
    x, y = 2.5 * measures(2, *SIZES[name][:2], seed=1, black=0.5)
    assert (x == 0).any() and (y == 0).any()
    distance, path = dynamic_distance(graph, x, y, 8)
    assert path.shape == (9, *x.shape) and not path.requires_grad
    assert torch.equal(path[0], x) and torch.equal(path[-1], y)
    assert (path[1:-1] > 0).all()
    torch.testing.assert_close(
        path.sum((-2, -1)), torch.full((9,), 2.5, dtype=torch.float64), rtol=1e-12, atol=0
    )
    value = action(weight_matrix(*SIZES[name]), path.flatten(1).numpy())
    assert float(distance) ** 2 == pytest.approx(value, rel=1e-7)
    straight = (
        torch.lerp(x, y, torch.linspace(0, 1, 9, dtype=torch.float64)[:, None, None])
        .flatten(1)
        .numpy()
    )
    assert value < action(weight_matrix(*SIZES[name]), straight)


@pytest.mark.filterwarnings("ignore:Values in x were outside bounds")  # an old scipy steps out
@pytest.mark.parametrize("black", [False, True])
def test_dynamic_distance_is_the_minimum(black):
    """Against SciPy's minimiser over the three inner points of a path of four steps on three
    pixels."""
    weights = weight_matrix(1, 3, 1)
    x, y = np.array([0.6, 0.4 - 0.15 * (not black), 0.15 * (not black)]), np.array([0.1, 0.2, 0.7])

    def path_of(v):
        inner = v.reshape(3, 2)
        return np.vstack([x, np.c_[inner, 1 - inner.sum(1)], y])

    start = np.linspace(x, y, 5)[1:-1, :2].ravel()
    result = minimize(
        lambda v: action(weights, path_of(v)),
        start,
        method="SLSQP",
        bounds=[(1e-9, 1)] * 6,
        constraints={"type": "ineq", "fun": lambda v: 1 - 1e-9 - v.reshape(3, 2).sum(1)},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert result.success
    distance, path = dynamic_distance(
        graph_of(1, 3, 1), torch.tensor(x[None]), torch.tensor(y[None]), 4
    )
    assert float(distance) ** 2 == pytest.approx(result.fun, rel=1e-6)
    np.testing.assert_allclose(path[:, 0], path_of(result.x), atol=2e-3)


def test_dynamic_distance_converges_at_second_order():
    """The error falls as 1 / N^2: each difference is four times the next."""
    for size, seed in (((1, 3, 1), 0), ((2, 3, 1), 1)):
        x, y = inside(2, *size[:2], seed=seed)
        values = [
            float(dynamic_distance(graph_of(*size), x, y, steps)[0]) for steps in (4, 8, 16, 32)
        ]
        drops = np.diff(values)
        np.testing.assert_allclose(drops[:-1] / drops[1:], 4, rtol=0.05)


def test_equation_5_dynamic():
    """Of the dynamic distance (5) is right: d^2 is second order, and over xi' L^+ xi it tends to
    1."""
    for name in ("2x2", "row", "3x4_weighted"):
        graph, x = graph_of(*SIZES[name]), inside(*SIZES[name][:2])
        xi = tangents(*SIZES[name][:2])
        xi = 0.5 * x.min() * xi / xi.abs().max()
        norm = float(tangent_norm_sq(graph, x, xi))
        scales = [1, 0.1, 0.01]
        squares = [float(dynamic_distance(graph, x, x + s * xi, 4)[0]) ** 2 for s in scales]
        np.testing.assert_allclose(np.diff(np.log10(squares)), -2, atol=0.1)
        errors = [abs(square / (s**2 * norm) - 1) for s, square in zip(scales, squares)]
        assert errors[2] < 1e-2 and errors[2] < 0.2 * errors[1] < 0.04 * errors[0] + 1e-9


def test_equation_5_static_is_first_order():
    """On a fixed grid the static W2^2 of (4) is proportional to the perturbation, not to its
    square: (5) fails."""
    for name in ("2x2", "row", "3x4_weighted"):
        x = inside(*SIZES[name][:2])
        xi = tangents(*SIZES[name][:2])
        xi = 0.5 * x.min() * xi / xi.abs().max()
        squares = [transport.wasserstein_distance(x, x + s * xi) ** 2 for s in (1, 0.1, 0.01)]
        np.testing.assert_allclose(np.diff(np.log10(squares)), -1, atol=1e-3)


def test_dynamic_distance_of_channels():
    """Squares add up over the channels, whose masses may differ; a batch is a loop."""
    graph = graph_of(2, 3, 1)
    mass = torch.tensor([1.0, 3.0]).double()[:, None, None]
    x, y = measures(2, 4, 2, 2, 3) * mass
    distance, path = dynamic_distance(graph, x, y, 4)
    assert distance.shape == (4,) and path.shape == (5, 4, 2, 2, 3)
    for k in range(4):
        apart = [float(dynamic_distance(graph, x[k, c], y[k, c], 4)[0]) for c in range(2)]
        assert float(distance[k]) == pytest.approx(np.hypot(*apart), rel=1e-7)


def test_dynamic_distance_of_scaled_masses():
    """L is linear in x, so the distance grows with the square root of the mass."""
    graph, (x, y) = graph_of(2, 3, 1), measures(2, 2, 3)
    one, four = (float(dynamic_distance(graph, m * x, m * y, 4)[0]) for m in (1, 4))
    assert four == pytest.approx(2 * one, rel=1e-7)
    for mass in (1e-8, 1e8):  # to rounding
        scaled = dynamic_distance(graph, mass * x, mass * y, 4)
        assert float(scaled.distance) == pytest.approx(mass**0.5 * one, rel=1e-10)


def test_dynamic_distance_of_a_black_channel():
    """Between black and black it is zero, and a colour image may have no blue."""
    graph, (x, y) = graph_of(2, 3, 1), measures(2, 2, 3)
    assert float(dynamic_distance(graph, 0 * x, 0 * y).distance) == 0
    with_black = [torch.stack([z, 0 * z]) for z in (x, y)]
    assert float(dynamic_distance(graph, *with_black).distance) == float(
        dynamic_distance(graph, x, y).distance
    )


def heaps():
    """Two pictures of 6 x 6 pixels like digits: the first two rows black, out of reach of the ink,
    and the last."""
    x = torch.zeros(2, 6, 6, dtype=torch.float64)
    x[0, 3:5, 1:4] = torch.tensor([[0.1, 0.3, 0.1], [0.2, 0.2, 0.1]]).double()
    x[1, 3:5, 2:5] = torch.tensor([[0.1, 0.2, 0.2], [0.3, 0.1, 0.1]]).double()
    return x / x.sum((-2, -1), keepdim=True)


def test_dynamic_distance_between_equal_pictures():
    """Exactly zero, with black pixels that nothing can reach, also of one image or one channel."""
    graph, (x, y) = graph_of(6, 6, 1), heaps()
    assert (
        torch.linalg.matrix_rank(metric.laplacian(graph, x), rtol=1e-10) < 35
    )  # not only constants have no length
    for steps in (2, 16):
        distance, path = dynamic_distance(graph, x, x, steps)
        assert float(distance) == 0
        torch.testing.assert_close(path, x.expand(steps + 1, 6, 6), rtol=1e-14, atol=0)
    single = dynamic_distance(
        graph.converted(dtype=torch.float32), x.float(), x.float(), 2
    ).distance
    assert single.dtype == torch.float32 and float(single) == 0
    apart = float(dynamic_distance(graph, x, y, 2).distance)
    assert 0.1 < apart < 1
    channels = torch.stack([x, x]), torch.stack([x, y])
    assert float(dynamic_distance(graph, *channels, 2).distance) == pytest.approx(apart, rel=1e-8)
    batch = dynamic_distance(graph, *(z[:, None] for z in channels), 2).distance
    assert float(batch[0]) == 0 and float(batch[1]) == pytest.approx(apart, rel=1e-8)
    leaf = channels[1][:, None].clone().requires_grad_()
    slope = torch.autograd.grad(
        dynamic_distance(graph, channels[0][:, None], leaf, 2).distance.sum(), leaf
    )[0]
    assert slope.isfinite().all() and slope[1].abs().max() > 0


def test_dynamic_distance_in_two_steps_between_pictures():
    """Its one inner point has ink everywhere; the value is the action of the path, and more steps
    make it little different."""
    graph, (x, y) = graph_of(6, 6, 1), heaps()
    distance, path = dynamic_distance(graph, x, y, 2)
    assert (path[1] > 0).all() and float(path[1].sum()) == pytest.approx(1, rel=1e-12)
    value = action(weight_matrix(6, 6, 1), path.flatten(1).numpy())
    assert float(distance) ** 2 == pytest.approx(value, rel=1e-6)
    assert float(distance) == pytest.approx(
        float(dynamic_distance(graph, x, y, 6).distance), rel=0.3
    )


def test_dynamic_distance_is_differentiable():
    """Against a central difference along moves of mass, in both ends at once."""
    graph, (x, y) = graph_of(2, 3, 1), inside(2, 2, 3, seed=2)
    a, b = tangents(2, 2, 3, seed=3) * 0.05
    x.requires_grad_()
    y.requires_grad_()
    slope = [
        float((g * v).sum())
        for g, v in zip(torch.autograd.grad(dynamic_distance(graph, x, y, 6)[0], (x, y)), (a, b))
    ]
    x, y = x.detach(), y.detach()
    h = 1e-2
    values = [
        float(dynamic_distance(graph, x + s * h * a, y + s * h * b, 6)[0]) for s in (1, -1, 2, -2)
    ]
    central = (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * h)
    assert abs(central) > 1e-2 and sum(slope) == pytest.approx(central, rel=1e-5)
    one = [float(dynamic_distance(graph, x, y + s * h * b, 6)[0]) for s in (1, -1)]
    assert slope[1] == pytest.approx((one[0] - one[1]) / (2 * h), rel=1e-2)


@pytest.mark.parametrize("unit", [None, "pixel"])
@pytest.mark.parametrize("size", [(1, 2, 1), (1, 4, 1), (2, 3, 1)])
def test_dynamic_distance_of_images_whose_mass_changes(size, unit):
    """Of both alike: it grows as the root of the mass, so by half of itself."""
    graph, (x, y) = graph_of(*size), inside(2, *size[:2], seed=2)
    mass = torch.ones((), dtype=x.dtype, requires_grad=True)
    distance = dynamic_distance(graph, mass * x, mass * y, 4, unit=unit).distance
    (slope,) = torch.autograd.grad(distance, mass)
    assert float(slope) == pytest.approx(float(distance.detach()) / 2, rel=1e-6)


def test_dynamic_distance_in_float32():
    graph, (x, y) = PixelGraph(2, 3, 1), measures(2, 2, 3)
    distance, path = dynamic_distance(graph, x.float(), y.float())
    assert distance.dtype == path.dtype == torch.float32
    exact = dynamic_distance(graph.converted(dtype=torch.float64), x, y).distance
    assert float(distance) == pytest.approx(float(exact), rel=1e-5)


@gpu
def test_on_the_gpu():
    for name in ("3x4_weighted", "4x3_constant"):
        cpu = graph_of(*SIZES[name])
        graph = cpu.converted("cuda")
        x, y = measures(2, 2, 3, *SIZES[name][:2], black=0.2)
        xi = metric.apply_laplacian(cpu, x, tangents(2, 3, *SIZES[name][:2]))
        calls = {
            "mobility": lambda graph, x, y, xi: metric.mobility(graph, x),
            "laplacian": lambda graph, x, y, xi: metric.laplacian(graph, x),
            "laplacian_sparse": lambda graph, x, y, xi: metric.laplacian_sparse(
                graph, x
            ).to_dense(),
            "apply_laplacian": metric_of(metric.apply_laplacian),
            "grad_norm_sq": metric_of(grad_norm_sq),
            "algorithm_1": metric_of(grad_norm_sq_algorithm1),
            "tangent_norm_sq": metric_of(tangent_norm_sq),
            "potential": lambda graph, x, y, xi: potential(graph, x, xi).value,
            "dynamic_distance": lambda graph, x, y, xi: dynamic_distance(graph, x, y, 4).distance,
        }
        for call in calls.values():
            result = call(graph, x.cuda(), y.cuda(), xi.cuda())
            assert result.is_cuda
            torch.testing.assert_close(result.cpu(), call(cpu, x, y, xi), rtol=1e-7, atol=1e-9)
        with pytest.raises(ValueError, match="grad is on cpu but the graph is on cuda:0"):
            grad_norm_sq(graph, x.cuda(), xi)


def metric_of(function):
    return lambda graph, x, y, xi: function(graph, x, xi)


# ---------------------------------------------------------------- bad input

GRAPH = graph_of(3, 4, 2, kernel(2))
X, Y = inside(2, 2, 3, 4)
XI = tangents(2, 3, 4)
TWICE = Y * torch.tensor([0.9, 1.1]).double()[:, None, None]

NEGATIVE = "x must be non-negative and finite"
GRAD, MASSES = "grad must have the shape of x", "x and y must have the same mass in each channel"

# ---------------------------------------------------------------- values at the end of their range

LARGE_AND_SMALL = [
    (dtype, scale)
    for dtype, scales in (
        (torch.float32, (1e-40, 1e-30, 1e-20, 1e20, 1e30)),
        (torch.float64, (1e-310, 1e-200, 1e-30, 1e30, 1e200, 1e306)),
    )
    for scale in scales
]


@pytest.mark.parametrize(("dtype", "scale"), LARGE_AND_SMALL)
def test_masses_of_any_size(dtype, scale):
    """Squares of what is given are out of range; lengths are not."""
    graph, x = GRAPH.converted(dtype=dtype), inside(3, 4).to(dtype)
    xi = x.flip(-1) - x
    xi = xi - xi.mean()
    close = {"rtol": 5e-3 if scale == 1e-40 else 1e-4, "atol": 0}  # it has 16 bits
    expected = tangent_norm_sq(graph, x, xi)
    found = tangent_norm_sq(graph, scale * x, scale * xi) / scale
    torch.testing.assert_close(found, expected, **close)
    phi, scaled = potential(graph, x, xi).value, potential(graph, scale * x, scale * xi)
    torch.testing.assert_close(scaled.value, phi, rtol=1e-3, atol=1e-5)
    assert scaled.iterations > 0
    value = potential(graph, x, scale * xi).value / scale
    torch.testing.assert_close(value, phi, rtol=1e-3, atol=1e-5)
    if 1e-38 < scale < 1e38 or (dtype == torch.float64 and 1e-300 < scale < 1e300):
        value = inner(graph, x, scale * xi, xi / scale)
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=0)
        value = dynamic_distance(graph, scale * x, scale * x.flip(-1), 2).distance / scale**0.5
        exact = dynamic_distance(graph, x, x.flip(-1), 2).distance
        torch.testing.assert_close(value, exact, rtol=1e-4, atol=0)


def test_no_images_at_all():
    none = inside(3, 4)[None][:0]
    found = dynamic_distance(GRAPH, none, none, 3)
    assert found.path.shape == (4, 0, 3, 4) and not found.distance.any()
    for call in (grad_norm_sq, grad_norm_sq_algorithm1, tangent_norm_sq):
        assert call(GRAPH, none[:, None], none[:, None]).shape == (0,)
    with pytest.raises(ValueError, match=r"^x must hold an image, got \(0, 3, 4\)"):
        metric.mean_diagonal(GRAPH, none)


@pytest.mark.parametrize("call", [grad_norm_sq, grad_norm_sq_algorithm1, tangent_norm_sq])
def test_what_overflows_says_so(call):
    """The square of 1e30 is no float32; a rounded or clamped one would be wrong."""
    graph, x = GRAPH.converted(dtype=torch.float32), inside(3, 4).float()
    v = 1e30 * (x.flip(-1) - x)
    with pytest.raises(RuntimeError, match=rf"^{call.__name__} overflows torch\.float32"):
        call(graph, x, v - v.mean())
    with pytest.raises(RuntimeError, match=r"^apply_laplacian overflows torch\.float32"):
        metric.apply_laplacian(graph, 1e30 * x, 1e30 * x)
    with pytest.raises(RuntimeError, match=r"^mean_diagonal overflows torch\.float32"):
        metric.mean_diagonal(graph, torch.full_like(x, 1e38))


def test_sums_are_zero_to_the_rounding_of_the_images():
    """The difference of images that are nearly equal sums to what their masses are rounded by; a
    vector of that size that sums to nothing of the kind is refused.
    """
    x = inside(3, 4)
    y = x + 1e-10 * tangents(3, 4)
    y = y / y.sum()
    xi = (y - x) - (y - x).mean()
    expected = tangent_norm_sq(GRAPH, x, xi)
    for rounding in (0, 1e-16, -1e-16):
        shifted = xi.clone()
        shifted[1, 2] += rounding
        found = tangent_norm_sq(GRAPH, x, shifted)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="^xi must sum to zero"):
        tangent_norm_sq(GRAPH, x, 1e-17 * x)
    channels, v = torch.stack([x, 0 * x]), torch.stack([1e-3 * tangents(3, 4), 0 * x])
    expected = tangent_norm_sq(GRAPH, channels, v)
    v[1, 1, 2] = 6.94e-18  # in a black channel
    torch.testing.assert_close(tangent_norm_sq(GRAPH, channels, v), expected)
    v[1, 1, 2] = 1e-9
    with pytest.raises(
        ValueError, match=r"^xi must sum to zero .* pixels at \(1, 2\) sums to 1e-09"
    ):
        tangent_norm_sq(GRAPH, channels, v)


class Labelled(torch.Tensor):
    """Tensors of another class, as libraries have them."""


BAD_CALLS = {
    "mobility": (lambda: metric.mobility(GRAPH, -X), NEGATIVE),
    "laplacian": (lambda: metric.laplacian(GRAPH, -X), NEGATIVE),
    "laplacian_sparse": (lambda: metric.laplacian_sparse(GRAPH, -X), NEGATIVE),
    "apply": (lambda: metric.apply_laplacian(GRAPH, -X, XI), NEGATIVE),
    "apply_v": (lambda: metric.apply_laplacian(GRAPH, X, XI.mT), r"v must be \(\.\.\."),
    "mean_diagonal": (lambda: metric.mean_diagonal(GRAPH, -X), NEGATIVE),
    "grad_norm": (lambda: grad_norm_sq(GRAPH, -X, XI), NEGATIVE),
    "grad_norm_grad": (lambda: grad_norm_sq(GRAPH, X, XI[0]), GRAD),
    "algorithm1": (lambda: grad_norm_sq_algorithm1(GRAPH, -X, XI), NEGATIVE),
    "algorithm1_grad": (lambda: grad_norm_sq_algorithm1(GRAPH, X, XI[0]), GRAD),
    "potential": (lambda: potential(GRAPH, -X, XI), NEGATIVE),
    "potential_xi": (lambda: potential(GRAPH, X, XI[:1]), "xi must have the shape of x"),
    "tol": (lambda: potential(GRAPH, X, XI, tol=0.0), "tol must be between 0 and 1, got 0.0"),
    "max_iter": (lambda: potential(GRAPH, X, XI, max_iter=0), "max_iter must be at least 1, got"),
    "tangent_norm": (lambda: tangent_norm_sq(GRAPH, -X, XI), NEGATIVE),
    "tangent_norm_unit": (lambda: tangent_norm_sq(GRAPH, X, XI, unit=1), "unit must be .* got 1"),
    "sum": (lambda: tangent_norm_sq(GRAPH, X, XI + 1e-3), "xi must sum to zero .* 12 pixels at"),
    "nan": (lambda: tangent_norm_sq(GRAPH, X, XI * np.nan), "xi must be finite, got nan"),
    "inner": (lambda: inner(GRAPH, -X, XI, XI), NEGATIVE),
    "inner_zeta": (lambda: inner(GRAPH, X, XI, XI + 1e-3), "zeta must sum to zero"),
    "inner_unit": (lambda: inner(GRAPH, X, XI, XI, unit="trace"), "unit must be .*, got 'trace'"),
    "dynamic": (lambda: dynamic_distance(GRAPH, -X, Y), NEGATIVE),
    "dynamic_y": (lambda: dynamic_distance(GRAPH, X, -Y), "y must be non-negative and finite"),
    "one_channel": (lambda: dynamic_distance(GRAPH, X, Y[0]), "y must have the shape of x"),
    "dynamic_unit": (lambda: dynamic_distance(GRAPH, X, Y, unit="x"), "unit must be .*, got 'x'"),
    "steps": (lambda: dynamic_distance(GRAPH, X, Y, 1), "steps must be at least 2, got 1"),
    "masses": (lambda: dynamic_distance(GRAPH, X, Y * 1.001), MASSES),
    "masses_of_channels": (lambda: dynamic_distance(GRAPH, X, TWICE), MASSES),
    "masses_of_a_subclass": (
        lambda: dynamic_distance(GRAPH, X.as_subclass(Labelled), Y.as_subclass(Labelled) * 2),
        MASSES + r", got \d",
    ),
    "subclass": (lambda: metric.mobility(GRAPH, -X.as_subclass(Labelled)), NEGATIVE + r", got -\d"),
    "subclass_nan": (
        lambda: tangent_norm_sq(GRAPH, X, XI.as_subclass(Labelled) * np.nan),
        "xi must be finite, got nan to nan",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls(case):
    call, says = BAD_CALLS[case]
    with pytest.raises(ValueError, match=f"^{says}"):
        call()


def test_algorithm_1_under_autocast():
    graph, x = GRAPH.converted(dtype=torch.float32), X.float()
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        within = grad_norm_sq_algorithm1(graph, x, grad)
    torch.testing.assert_close(within, grad_norm_sq_algorithm1(graph, x, grad), rtol=0, atol=0)


@pytest.mark.parametrize("function", [metric.mobility, metric.laplacian, metric.laplacian_sparse])
def test_matrices_beyond_their_type(function):
    graph = PixelGraph(3, 4, 1)
    with pytest.raises(RuntimeError, match=r"overflows torch\.float32: scale its arguments"):
        function(graph, torch.full((3, 4), 3e38))
    with pytest.raises(RuntimeError, match=r"overflows torch\.float32: scale its arguments"):
        function(PixelGraph(3, 4, 1, weight=1e30), torch.full((3, 4), 1e38))


def test_a_path_beyond_memory_is_refused():
    with pytest.raises(ValueError, match="^steps must be at most 1365, got 2147483648"):
        metric.dynamic_distance(GRAPH, X, X, 2**31)

"""Theorem 1's terms against closed forms, quadrature of the noise, the Laplacian of the composite,
and bad input."""

from types import SimpleNamespace

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
    tangents,
    weight_matrix,
)
from torch.nn import functional as F

from wdtr_lite import PixelGraph, calculus, metric, noise, regularizer
from wdtr_lite.regularizer import (
    first_order_expansion,
    perturbed_loss,
    second_order_expansion,
)

SIZES = {"2x3": (2, 3, 1), "row_weighted": (1, 4, 2, kernel(2))}


@pytest.fixture(params=SIZES.values(), ids=SIZES)
def size(request):
    return request.param


# ---------------------------------------------------------------- classifiers and losses


def scalar(x):
    """A smooth function of images, one output each, (B,)."""
    flat = x.flatten(1)
    k = torch.arange(flat.shape[1], dtype=x.dtype, device=x.device)
    a, b = torch.sin(k + 1), torch.cos(1.7 * k)
    return torch.sin(2 * flat @ a) + flat**3 @ b + (flat @ a) * (flat @ b) + 0.3


def probability(x):
    return torch.sigmoid(scalar(x))


def logits(x, outputs=10):
    """Ten outputs, (B, 10)."""
    flat = x.flatten(1)
    k = torch.arange(flat.shape[1] * outputs, dtype=x.dtype, device=x.device).view(
        flat.shape[1], outputs
    )
    return torch.sin(3 * flat @ torch.sin(k)) + flat**2 @ torch.cos(1.3 * k)


def linear(x):
    flat = x.flatten(1)
    return flat @ torch.sin(torch.arange(1.0, 1 + flat.shape[1], dtype=x.dtype)) + 1


def square(output, y):
    return (output - y) ** 2


def binary_cross_entropy(output, y):
    return -y * output.log() - (1 - y) * (1 - output).log()


def cross_entropy(output, y):
    return F.cross_entropy(output, y, reduction="none")


def odd_loss(output, y):
    """A loss of several outputs that no symmetry makes simple, its Hessian full and indefinite."""
    return (
        torch.exp(output[:, 0] * output[:, 1]) + y * torch.sin(output.sum(1)) - output[:, -1] ** 3
    )


CASES = {
    "square": (square, scalar, torch.tensor([0.7, -0.4, 1.5]).double()),
    "binary_cross_entropy": (
        binary_cross_entropy,
        probability,
        torch.tensor([1.0, 0.0, 1.0]).double(),
    ),
    "cross_entropy": (cross_entropy, logits, torch.tensor([3, 9, 0])),
    "odd": (odd_loss, lambda x: logits(x, 3), torch.tensor([1.0, 2.0, -1.0]).double()),
    "one_column": (
        lambda o, y: torch.cosh(o[:, 0] - y),
        lambda x: logits(x, 1),
        torch.tensor([1.0, 2.0, -1.0]).double(),
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    return request.param


def tensor_l(size, x):
    """L of one image (C, H, W), or the identity: block-diagonal in the channels, (C n, C n)."""
    if size == "euclidean":
        return torch.eye(x.numel(), dtype=torch.float64)
    weights = weight_matrix(*size)
    return torch.block_diag(
        *(torch.tensor(laplacian(weights, channel.flatten().numpy())) for channel in x)
    )


def jacobian_and_hessians(f, x):
    """Of each output of f at one image (C, H, W): (k, N) and (k, N, N)."""

    def flat(v):
        return f(v.view(1, *x.shape)).reshape(-1)

    v = x.flatten()
    jacobian = torch.autograd.functional.jacobian(flat, v)
    hessians = [
        torch.autograd.functional.hessian(lambda v: flat(v)[a], v) for a in range(len(jacobian))
    ]
    return jacobian, torch.stack(hessians)


def loss_derivatives(loss, f, x, y):
    """l' (k,) and l'' (k, k) at one image."""
    output = f(x[None])

    def of(o):
        return loss(o.view_as(output), y[None])[0]

    flat = output.reshape(-1)
    return torch.autograd.functional.jacobian(of, flat), torch.autograd.functional.hessian(of, flat)


# ---------------------------------------------------------------- the two terms


@pytest.mark.parametrize("euclidean", [False, True])
def test_terms_are_the_theorems(case, size, euclidean):
    """l'' grad f' L grad f and l' tr(L f''), from dense derivatives of f and l, image by image."""
    loss, f, y = case
    x = inside(3, 2, *size[:2])
    terms = second_order_expansion(loss, f, "euclidean" if euclidean else graph_of(*size), x, y)
    torch.testing.assert_close(terms.loss, loss(f(x), y))
    assert (
        terms.gradient.shape == terms.laplacian.shape == (3,) and (terms.standard_error == 0).all()
    )
    for k in range(3):
        matrix = tensor_l("euclidean" if euclidean else size, x[k])
        jacobian, hessians = jacobian_and_hessians(f, x[k])
        first, second = loss_derivatives(loss, f, x[k], y[k])
        gradient = (second * (jacobian @ matrix @ jacobian.T)).sum()
        trace = first @ torch.einsum("kij,ij->k", hessians, matrix)
        assert float(terms.gradient[k]) == pytest.approx(float(gradient), rel=1e-9, abs=1e-10)
        assert float(terms.laplacian[k]) == pytest.approx(float(trace), rel=1e-9, abs=1e-10)


@pytest.mark.parametrize("volume", [False, True])
def test_terms_add_up_to_the_laplacian_of_the_composite(case, size, volume):
    """Of l after f, whatever l: the chain rule."""
    loss, f, y = case
    x = inside(3, 2, *size[:2])
    for graph in (graph_of(*size), "euclidean"):
        terms = second_order_expansion(loss, f, graph, x, y, volume=volume)
        composite = calculus.laplace_beltrami(
            lambda image: loss(f(image), y), graph, x, volume=volume
        ).value
        torch.testing.assert_close(
            terms.gradient + terms.laplacian, composite, rtol=1e-9, atol=1e-9
        )


def test_volume_changes_the_laplacian_term_alone(case, size):
    """By l' (div L + L grad log vol)' grad f; the Laplacian of each output weighted by l'."""
    loss, f, y = case
    graph, x = graph_of(*size), inside(3, 1, *size[:2])
    additive, exponential = (
        second_order_expansion(loss, f, graph, x, y, volume=flag) for flag in (False, True)
    )
    assert torch.equal(additive.gradient, exponential.gradient) and torch.equal(
        additive.loss, exponential.loss
    )
    drift = calculus.laplacian_divergence(graph) + metric.apply_laplacian(
        graph, x, calculus.log_volume_gradient(graph, x)
    )
    for k in range(3):
        first, _ = loss_derivatives(loss, f, x[k], y[k])
        slope = first @ jacobian_and_hessians(f, x[k])[0]
        expected = float(slope @ drift[k].flatten())
        assert float((exponential.laplacian - additive.laplacian)[k]) == pytest.approx(
            expected, rel=1e-8, abs=1e-9
        )
        assert abs(expected) > 1e-3


def test_stochastic_terms():
    """The Laplacian term within four of its standard errors, the others exact."""
    graph, x = graph_of(2, 3, 1), inside(3, 1, 2, 3)
    loss, f, y = CASES["cross_entropy"]
    for volume in (False, True):
        exact = second_order_expansion(loss, f, graph, x, y, volume=volume)
        sampled = second_order_expansion(
            loss,
            f,
            graph,
            x,
            y,
            volume=volume,
            estimator="stochastic",
            samples=300,
            generator=generator(),
        )
        assert torch.equal(exact.gradient, sampled.gradient) and torch.equal(
            exact.loss, sampled.loss
        )
        assert ((sampled.laplacian - exact.laplacian).abs() <= 4 * sampled.standard_error).all()
        assert (sampled.standard_error > 0).all()


def test_linear_classifier_and_linear_loss():
    """A linear f has no Laplacian without the volume, a linear l no gradient term."""
    graph, x, y = graph_of(2, 3, 1), inside(3, 1, 2, 3), torch.zeros(3).double()
    terms = second_order_expansion(square, linear, graph, x, y)
    assert (terms.laplacian == 0).all() and (terms.gradient > 0).all()
    terms = second_order_expansion(lambda o, y: 3 * o - y, scalar, graph, x, y)
    assert (terms.gradient == 0).all()
    terms = second_order_expansion(square, lambda x: 0 * scalar(x) + 1, graph, x, y)
    assert (terms.gradient == 0).all() and (terms.laplacian == 0).all()


# ---------------------------------------------------------------- the paper's examples


def pieces(f, graph, x):
    """f, ||grad f||^2 and Delta f, each (B,)."""
    leaf = x.clone().requires_grad_()
    grad = torch.autograd.grad(f(leaf).sum(), leaf)[0]
    if graph == "euclidean":
        norm = grad.square().sum((1, 2, 3))
    else:
        norm = metric.grad_norm_sq(graph, x, grad)
    return f(x), norm, calculus.laplace_beltrami(f, graph, x, volume=False).value


def test_example_2(size):
    """Square error: l'' = 2 and l' = 2 (f - y), so Theorem 1's E^R is twice what the example
    prints; with the prefactor eta^2 of Section 4 in place of eta^2 / 2 the print is right. Its
    first-order term is right."""
    graph, x, y = graph_of(*size), inside(3, 1, *size[:2]), torch.tensor([0.7, -0.4, 1.5]).double()
    value, norm, delta = pieces(scalar, graph, x)
    terms = second_order_expansion(square, scalar, graph, x, y)
    torch.testing.assert_close(terms.gradient, 2 * norm, rtol=1e-10, atol=0)
    torch.testing.assert_close(terms.laplacian, 2 * (value - y) * delta, rtol=1e-10, atol=0)
    printed = norm + (value - y) * delta
    torch.testing.assert_close(
        terms.gradient + terms.laplacian, 2 * printed, rtol=1e-10, atol=1e-12
    )
    mean = tangents(3, 1, *size[:2], size=0.1)
    leaf = x.clone().requires_grad_()
    slope = (torch.autograd.grad(scalar(leaf).sum(), leaf)[0] * mean).sum((1, 2, 3))
    first = first_order_expansion(square, scalar, x, y, mean)
    torch.testing.assert_close(first, 2 * (value - y) * slope, rtol=1e-10, atol=1e-13)


def test_example_3(size):
    """Cross entropy in a probability, as printed."""
    graph, x, y = graph_of(*size), inside(3, 1, *size[:2]), torch.tensor([1.0, 0.0, 0.25]).double()
    p, norm, delta = pieces(probability, graph, x)
    terms = second_order_expansion(binary_cross_entropy, probability, graph, x, y)
    torch.testing.assert_close(
        terms.gradient, (y / p**2 + (1 - y) / (1 - p) ** 2) * norm, rtol=1e-10, atol=0
    )
    slope = -y / p + (1 - y) / (1 - p)
    torch.testing.assert_close(terms.laplacian, slope * delta, rtol=1e-10, atol=1e-12)
    mean = tangents(3, 1, *size[:2], size=0.1)
    leaf = x.clone().requires_grad_()
    along = (torch.autograd.grad(probability(leaf).sum(), leaf)[0] * mean).sum((1, 2, 3))
    first = first_order_expansion(binary_cross_entropy, probability, x, y, mean)
    torch.testing.assert_close(first, slope * along, rtol=1e-10, atol=1e-13)


def test_example_3_of_k_outputs():
    """The mean of k losses of one output each has a diagonal Hessian: the mean of their terms."""
    graph, x = graph_of(2, 3, 1), inside(3, 1, 2, 3)
    y = F.one_hot(torch.tensor([1, 0, 2]), 3).double()

    def outputs(x):
        return torch.sigmoid(logits(x, 3))

    def mean_loss(o, y):
        return binary_cross_entropy(o, y).mean(1)

    terms = second_order_expansion(mean_loss, outputs, graph, x, y)
    apart = [
        second_order_expansion(binary_cross_entropy, lambda x: outputs(x)[:, a], graph, x, y[:, a])
        for a in range(3)
    ]
    for together, separate in zip(terms, zip(*apart)):
        torch.testing.assert_close(together, torch.stack(separate).mean(0), rtol=1e-10, atol=1e-12)


def test_example_4():
    """Euclidean inputs and f = x'Ax / 2 + b'x. Exactly,
    E (f(x + xi) - y)^2 = (f - y + eta^2 tr A / 2)^2 + eta^2 |Ax + b|^2 + eta^4 tr A^2 / 2,
    so l + eta^2 E^R / 2 with the theorem's E^R = 2 |grad f|^2 + 2 (f - y) tr A lacks
    eta^4 (tr A^2 / 2 + (tr A)^2 / 4) and no more; the printed half of that E^R is wrong at order
    eta^2."""
    g = generator()
    a, b = (
        torch.randn(6, 6, generator=g, dtype=torch.float64),
        torch.randn(6, generator=g, dtype=torch.float64),
    )
    a = a + a.T
    x, y = (
        torch.randn(4, 1, 2, 3, generator=g, dtype=torch.float64),
        torch.randn(4, generator=g, dtype=torch.float64),
    )

    def quadratic(x):
        flat = x.flatten(1)
        return ((flat @ a) * flat).sum(1) / 2 + flat @ b

    value, slope = quadratic(x), x.flatten(1) @ a + b
    terms = second_order_expansion(square, quadratic, "euclidean", x, y)
    torch.testing.assert_close(terms.gradient, 2 * slope.square().sum(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(terms.laplacian, 2 * (value - y) * a.trace(), rtol=1e-12, atol=1e-12)
    for eta in (0.1, 0.5):
        exact = (
            (value - y + eta**2 * a.trace() / 2) ** 2
            + eta**2 * slope.square().sum(1)
            + eta**4 * (a @ a).trace() / 2
        )
        expansion = terms.loss + eta**2 / 2 * (terms.gradient + terms.laplacian)
        rest = eta**4 * ((a @ a).trace() / 2 + a.trace() ** 2 / 4)
        torch.testing.assert_close(exact - expansion, rest.expand(4), rtol=1e-9, atol=0)
        xi = eta * torch.randn(20_000, *x.shape, generator=g, dtype=torch.float64)
        draws = (quadratic((x + xi).view(-1, 1, 2, 3)).view(-1, 4) - y) ** 2
        assert ((draws.mean(0) - exact).abs() <= 5 * draws.std(0) / 20_000**0.5).all()


# ---------------------------------------------------------------- Theorem 1

SIMPLICES = {
    "row": ((1, 3, 1), [0.3, 0.4, 0.3]),  # degrees 1, 2, 1
    "row_uneven": ((1, 3, 1), [0.25, 0.4, 0.35]),
    "square": ((2, 2, 1), [0.25, 0.2, 0.3, 0.25]),  # equal degrees
}


def gaussian(size, x, eta, nodes=8):
    """Gauss-Hermite nodes (N, 1, H, W) and weights (N,) of N(0, eta^2 L(x)) on the vectors of sum
    zero."""
    values, vectors = np.linalg.eigh(laplacian(weight_matrix(*size), x.flatten().numpy()))
    root = vectors[:, 1:] * values[1:] ** 0.5
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    axes = root.shape[1]
    points = np.stack(np.meshgrid(*[z] * axes, indexing="ij"), -1).reshape(-1, axes)
    weight = (
        np.stack(np.meshgrid(*[w / w.sum()] * axes, indexing="ij"), -1).reshape(-1, axes).prod(1)
    )
    return torch.tensor(eta * points @ root.T).view(-1, 1, *size[:2]), torch.tensor(weight)


def remainders(size, x, loss, f, y, *, exponential, etas=(0.0005, 0.001, 0.002)):
    """E l(f(moved x)) - l over eta^2 / 2, less the right and less the wrong limit, for each eta."""
    graph, x = graph_of(*size), torch.tensor(x, dtype=torch.float64).view(1, 1, *size[:2])
    additive, beltrami = (
        second_order_expansion(loss, f, graph, x, y, volume=flag) for flag in (False, True)
    )
    right, wrong = (beltrami, additive) if exponential else (additive, beltrami)
    errors = []
    for eta in etas:
        xi, weight = gaussian(size, x, eta)
        moved = (
            calculus.exponential_map(graph, x.expand_as(xi), xi, steps=20)
            if exponential
            else x + xi
        )
        change = float(weight @ (loss(f(moved), y.expand(len(xi), *y.shape[1:])) - right.loss))
        errors.append(
            [change - eta**2 / 2 * float(t.gradient + t.laplacian) for t in (right, wrong)]
        )
    return np.abs(np.array(errors).T)


LIMITS = {name: CASES[name] for name in ("square", "binary_cross_entropy", "cross_entropy")}


@pytest.mark.parametrize("loss", LIMITS)
@pytest.mark.parametrize("simplex", SIMPLICES)
@pytest.mark.parametrize("exponential", [False, True], ids=["additive", "exponential"])
def test_theorem_1(simplex, loss, exponential):
    """The remainder after eta^2 is of order eta^4 with the Laplacian that belongs to the noise.
    With the other one it is of order eta^2, and more than ten times as large."""
    size, x = SIMPLICES[simplex]
    function, f, y = LIMITS[loss]
    right, wrong = remainders(size, x, function, f, y[:1], exponential=exponential)
    assert (np.log2(right[1:] / right[:-1]) > 3.5).all()
    np.testing.assert_allclose(np.log2(wrong[1:] / wrong[:-1]), 2, atol=0.3)
    assert (wrong > 10 * right).all()


def test_theorem_1_additive():
    """Noise x + xi of covariance eta^2 L(x): tr(L f''), not the Laplace-Beltrami operator."""
    size, x = SIMPLICES["row_uneven"]
    right, wrong = remainders(
        size, x, square, scalar, torch.tensor([0.7]).double(), exponential=False
    )
    assert (np.log2(right[1:] / right[:-1]) > 3.5).all() and (wrong > 10 * right).all()


def test_theorem_1_exponential():
    """Noise exp_x(xi), xi of covariance eta^2 L(x): the whole Laplace-Beltrami operator."""
    size, x = SIMPLICES["row_uneven"]
    right, wrong = remainders(
        size, x, square, scalar, torch.tensor([0.7]).double(), exponential=True
    )
    assert (np.log2(right[1:] / right[:-1]) > 3.5).all() and (wrong > 10 * right).all()


def test_section_4_factor():
    """E + eta^2 E^R, as Section 4 writes, overshoots: the change over eta^2 E^R tends to 1/2."""
    size, x = SIMPLICES["row_uneven"]
    x = torch.tensor(x, dtype=torch.float64).view(1, 1, 1, 3)
    for loss, f, y in LIMITS.values():
        terms = second_order_expansion(loss, f, graph_of(*size), x, y[:1])
        ratios = []
        for eta in (0.004, 0.002, 0.001):
            xi, weight = gaussian(size, x, eta)
            change = float(
                weight @ (loss(f(x + xi), y[:1].expand(len(xi), *y.shape[1:])) - terms.loss)
            )
            ratios.append(change / (eta**2 * float(terms.gradient + terms.laplacian)))
        errors = abs(np.array(ratios) - 0.5)
        assert errors[-1] < 1e-3 and (errors[1:] < 0.3 * errors[:-1]).all()


def test_theorem_1_with_this_packages_noise():
    """Monte Carlo of noise.sample, within five standard errors of the expansion, which noise
    explains and nothing else: at this eta the second-order term is 20 standard errors."""
    graph, x, y, eta = (
        graph_of(2, 3, 1),
        inside(2, 1, 2, 3),
        torch.tensor([0.7, -0.4]).double(),
        0.01,
    )
    terms = second_order_expansion(square, scalar, graph, x, y)
    xi = noise.sample(graph, x, eta, generator=generator(), n=3000)
    pairs = torch.stack([xi, -xi], 1).flatten(0, 1)  # the odd orders cancel
    change = square(scalar((x + pairs).flatten(0, 1)).view(-1, 2), y) - terms.loss
    draws = change.view(-1, 2, 2).mean(1)
    error = draws.std(0) / len(draws) ** 0.5
    expected = eta**2 / 2 * (terms.gradient + terms.laplacian)
    assert ((draws.mean(0) - expected).abs() <= 5 * error + 0.02 * expected.abs()).all()
    assert (expected.abs() > 20 * error).all()


# ---------------------------------------------------------------- first order


def test_first_order(case, size):
    """The remainder of a deterministic perturbation is of order 2, image by image."""
    loss, f, y = case
    x, v = inside(3, 2, *size[:2]), tangents(3, 2, *size[:2], size=0.1)
    first = first_order_expansion(loss, f, x, y, v)
    assert first.shape == (3,) and not first.requires_grad
    errors = [loss(f(x + e * v), y) - loss(f(x), y) - e * first for e in (0.01, 0.005, 0.0025)]
    orders = torch.log2(errors[0] / errors[1]), torch.log2(errors[1] / errors[2])
    assert all(((order - 2).abs() < 0.3).all() for order in orders)
    torch.testing.assert_close(first_order_expansion(loss, f, x, y, 2 * v), 2 * first)


def test_first_order_along_steepest_descent(size):
    """Along eps L grad f it is eps l' ||grad f||^2 in the Wasserstein norm, along eps grad f in the
    Euclidean one."""
    graph, x, y = graph_of(*size), inside(3, 1, *size[:2]), torch.tensor([0.7, -0.4, 1.5]).double()
    slope = 2 * (scalar(x) - y)
    for metric_graph in (graph, "euclidean"):
        _, norm, _ = pieces(scalar, metric_graph, x)
        leaf = x.clone().requires_grad_()
        step = torch.autograd.grad(scalar(leaf).sum(), leaf)[0]
        if metric_graph is graph:
            step = metric.apply_laplacian(graph, x, step)
            torch.testing.assert_close(
                step, calculus.gradient(scalar, graph, x), rtol=1e-12, atol=1e-14
            )
        first = first_order_expansion(square, scalar, x, y, 0.01 * step)
        torch.testing.assert_close(first, 0.01 * slope * norm, rtol=1e-10, atol=1e-14)


def test_first_order_of_a_constant_is_zero():
    x, v, y = inside(3, 2, 2, 3), tangents(3, 2, 2, 3), torch.zeros(3).double()
    for create_graph in (False, True):
        first = first_order_expansion(
            square, lambda x: 0 * x.sum((1, 2, 3)) + 1, x, y, v, create_graph=create_graph
        )
        assert torch.equal(first.detach(), torch.zeros(3, dtype=torch.float64))


def detached(x):
    return scalar(x.detach())


def weighted(x):
    return torch.ones((), requires_grad=True) * detached(x)


@pytest.mark.parametrize("f", [detached, weighted, torch.no_grad()(scalar)])
def test_a_function_that_autograd_cannot_see_through_is_refused(f):
    """Instead of derivatives of 0."""
    x, y = inside(3, 2, 2, 3), torch.zeros(3).double()
    says = "^f must be differentiable in x, got outputs on which autograd sees no way from it"
    with pytest.raises(ValueError, match=says):
        first_order_expansion(square, f, x, y, x)
    with pytest.raises(ValueError, match=says):
        second_order_expansion(square, f, "euclidean", x, y)


@pytest.mark.parametrize(
    "loss",
    [torch.no_grad()(square), lambda output, y: torch.ones_like(output, requires_grad=True) * 2],
    ids=["no_grad", "of something else"],
)
def test_a_loss_that_autograd_cannot_see_through_is_refused(loss):
    x, y = inside(3, 2, 2, 3), torch.zeros(3).double()
    says = "^loss must be differentiable in x, got outputs on which autograd sees no way from it"
    with pytest.raises(ValueError, match=says):
        first_order_expansion(loss, scalar, x, y, x)
    if not loss(y, y).requires_grad:
        for create_graph in (False, True):
            with pytest.raises(ValueError, match=says):
                second_order_expansion(loss, scalar, "euclidean", x, y, create_graph=create_graph)


# ---------------------------------------------------------------- the perturbed loss


def test_perturbed_loss_is_the_mean(case):
    loss, f, y = case
    x = inside(3, 1, 2, 3)
    xi = noise.sample(graph_of(2, 3, 1), x, 0.02, generator=generator(), n=7)
    estimate = perturbed_loss(loss, f, x, y, xi)
    draws = np.array(
        [[float(loss(f((x + step)[k : k + 1]), y[k : k + 1])) for k in range(3)] for step in xi]
    )
    np.testing.assert_allclose(estimate.value, draws.mean(0), rtol=1e-10)
    np.testing.assert_allclose(estimate.standard_error, draws.std(0, ddof=1) / 7**0.5, rtol=1e-8)
    single = perturbed_loss(loss, f, x, y, xi[:1])
    np.testing.assert_allclose(single.value, draws[0], rtol=1e-10)
    assert single.standard_error.isnan().all()


def test_equations_1_to_3():
    """(1) with xi = 0, (3) with the labels of x, (2) with a known rule's labels of x + xi, by
    loops; (2) and (3) differ where a label flips and only there."""
    x = inside(4, 1, 2, 3)
    graph = graph_of(2, 3, 1)

    def rule(x):
        return (x[..., 0].sum((-2, -1)) > x[..., 2].sum((-2, -1))).long()

    def classify(x):
        return logits(x, 2)

    y = rule(x)
    clean = perturbed_loss(cross_entropy, classify, x, y, torch.zeros(1, *x.shape).double())
    torch.testing.assert_close(clean.value, cross_entropy(classify(x), y))
    flipped = {}
    for eta in (1e-6, 0.05):
        xi = noise.sample(graph, x, eta, generator=generator(), n=30)
        labels = rule(x + xi)
        fixed, true = (
            perturbed_loss(cross_entropy, classify, x, y, xi),
            perturbed_loss(cross_entropy, classify, x, rule, xi),
        )
        for estimate, label in ((fixed, lambda k, b: y[b]), (true, lambda k, b: labels[k, b])):
            draws = [
                [
                    float(-classify((x + xi[k])[b : b + 1]).log_softmax(1)[0, label(k, b)])
                    for b in range(4)
                ]
                for k in range(30)
            ]
            np.testing.assert_allclose(estimate.value, np.mean(draws, 0), rtol=1e-10)
        flipped[eta] = (labels != y).any(0)
        assert torch.equal(flipped[eta], fixed.value != true.value)
    assert not flipped[1e-6].any() and flipped[0.05].any()


# ---------------------------------------------------------------- Appendix D's penalty


def test_appendix_d_penalty(size):
    """||grad (l o f)||^2 = l'^2 ||grad f||^2, not the theorem's l'' ||grad f||^2; for cross entropy
    in logits the two agree in the mean over labels drawn from the classifier's own probabilities
    (Fisher)."""
    graph, x, y = graph_of(*size), inside(3, 1, *size[:2]), torch.tensor([0.7, -0.4, 1.5]).double()

    def penalty(loss, f, y):
        leaf = x.clone().requires_grad_()
        return metric.grad_norm_sq(graph, x, torch.autograd.grad(loss(f(leaf), y).sum(), leaf)[0])

    value, norm, _ = pieces(scalar, graph, x)
    theorem = second_order_expansion(square, scalar, graph, x, y).gradient
    torch.testing.assert_close(
        penalty(square, scalar, y), 4 * (value - y) ** 2 * norm, rtol=1e-10, atol=0
    )
    assert ((penalty(square, scalar, y) - theorem).abs() > 0.3 * theorem).any()
    probabilities = logits(x).softmax(1)
    labels = [torch.full((3,), k) for k in range(10)]
    mean = sum(
        probabilities[:, k] * penalty(cross_entropy, logits, label)
        for k, label in enumerate(labels)
    )
    for label in labels[:2]:  # l'' does not depend on the label
        gradient = second_order_expansion(cross_entropy, logits, graph, x, label).gradient
        torch.testing.assert_close(mean, gradient, rtol=1e-9, atol=0)
        assert ((penalty(cross_entropy, logits, label) - gradient).abs() > 0.2 * gradient).any()


# ---------------------------------------------------------------- training


def test_terms_are_differentiable_in_the_parameters():
    """Against finite differences, every term and the first-order one, through l' too."""
    graph, x, mean = graph_of(1, 3, 1), inside(2, 1, 1, 3), tangents(2, 1, 1, 3, size=0.1)
    y = torch.tensor([1, 0])

    def of(weight):
        def f(x):
            return torch.sin(x.flatten(1) @ weight) + x.flatten(1) ** 2 @ weight

        options = {"create_graph": True}
        terms = [
            second_order_expansion(cross_entropy, f, graph, x, y, **options),
            second_order_expansion(cross_entropy, f, graph, x, y, volume=True, **options),
            second_order_expansion(cross_entropy, f, "euclidean", x, y, **options),
            second_order_expansion(
                cross_entropy,
                f,
                graph,
                x,
                y,
                estimator="stochastic",
                samples=3,
                generator=generator(),
                **options,
            ),
        ]
        first = first_order_expansion(cross_entropy, f, x, y, mean, **options)
        return (
            *(part for term in terms for part in term[:3]),
            first,
            perturbed_loss(cross_entropy, f, x, y, mean[None])[0],
        )

    weight = torch.tensor(
        [[0.5, -1.2], [1.0, 0.3], [-0.7, 0.9]], dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(of, weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [torch.nn.BatchNorm2d(2), torch.nn.InstanceNorm2d(2), torch.nn.LayerNorm([2, 2, 3])],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("what", ["expansion", "hessian"])
def test_third_derivatives_that_torch_gets_wrong(layer, what):
    """Of these layers it takes mean and variance for constants; the package does not."""
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2), layer, torch.nn.Tanh(), torch.nn.Flatten())
    net, x, y = net.double(), inside(2, 1, 3, 4), torch.tensor([1, 0])
    graph, sigma = graph_of(3, 4, 1), x - x.mean((-2, -1), keepdim=True)

    def value(weight):
        def f(x):
            return torch.func.functional_call(net, {"0.weight": weight}, (x,))

        if what == "expansion":
            found = second_order_expansion(cross_entropy, f, graph, x, y, create_graph=True)
            return found.laplacian + found.gradient
        return calculus.hessian(lambda x: f(x).sum(1), graph, x, sigma, sigma, create_graph=True)

    assert torch.autograd.gradcheck(value, net[0].weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_expansion_of_a_function_in_full_precision_is_so_within_autocast(dtype):
    def f(x):
        return 1e-4 * torch.stack([(x * x.cos()).sum((1, 2, 3)), x.sin().sum((1, 2, 3))], 1)

    x, y = inside(2, 1, 3, 4).float(), torch.tensor([1, 0])
    arguments = cross_entropy, f, graph_of(3, 4, 1).converted(dtype=torch.float32), x, y
    expected = second_order_expansion(*arguments)
    with torch.autocast("cpu", dtype):
        found = second_order_expansion(*arguments)
    for name in ("loss", "gradient", "laplacian"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))


def test_a_network_in_float32():
    """Softplus layers as in training: the terms have the parameters' gradients if asked, else no
    graph."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        torch.nn.Softplus(),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 30, 10),
    )
    graph, x, y = PixelGraph(5, 6, 2), inside(2, 3, 5, 6).float(), torch.tensor([4, 7])
    options = {"estimator": "stochastic", "samples": 4}
    terms = second_order_expansion(
        cross_entropy, net, graph, x, y, generator=generator(), create_graph=True, **options
    )
    sum(part.sum() for part in terms[:3]).backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in net.parameters())
    plain = second_order_expansion(
        cross_entropy, net, graph, x, y, generator=generator(), **options
    )
    with torch.no_grad():
        free = second_order_expansion(
            cross_entropy, net, graph, x, y, generator=generator(), **options
        )
    for kept, a, b in zip(terms, plain, free):
        assert a.dtype == torch.float32 and not a.requires_grad and not b.requires_grad
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, kept.detach(), rtol=1e-4, atol=1e-6)
    wide = second_order_expansion(
        cross_entropy, net.double(), graph.converted(dtype=torch.float64), x.double(), y
    )
    single = second_order_expansion(cross_entropy, net.float(), graph, x, y)
    for a, b in zip(single[:3], wide):
        torch.testing.assert_close(a.double(), b.detach(), rtol=1e-3, atol=1e-5)


def test_labels_may_be_anything_the_loss_takes():
    graph, x = graph_of(2, 3, 1), inside(3, 1, 2, 3)
    label = torch.tensor([3, 9, 0])
    hard = second_order_expansion(cross_entropy, logits, graph, x, label)
    soft = second_order_expansion(cross_entropy, logits, graph, x, F.one_hot(label, 10).double())
    for a, b in zip(hard, soft):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_outputs_with_logits():
    """An object's ``.logits`` are the outputs."""
    graph, x, y = graph_of(2, 3, 1), inside(3, 1, 2, 3), torch.tensor([3, 9, 0])
    xi = tangents(5, 3, 1, 2, 3, size=1e-3)

    def wrapped(x):
        return SimpleNamespace(logits=logits(x))

    for f in (logits, wrapped):
        terms = second_order_expansion(cross_entropy, f, graph, x, y)
        first = first_order_expansion(cross_entropy, f, x, y, xi[0])
        found = [*terms, first, *perturbed_loss(cross_entropy, f, x, y, xi)]
        if f is logits:
            expected = found
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@gpu
def test_on_the_gpu():
    cpu, x, (loss, f, y) = graph_of(2, 3, 1), inside(3, 2, 2, 3), CASES["cross_entropy"]
    xi = noise.sample(cpu, x, 0.02, generator=generator(), n=4)
    calls = (
        lambda graph, x, y, xi: second_order_expansion(loss, f, graph, x, y)[:3],
        lambda graph, x, y, xi: second_order_expansion(loss, f, graph, x, y, volume=True)[:3],
        lambda graph, x, y, xi: second_order_expansion(loss, f, "euclidean", x, y)[:3],
        lambda graph, x, y, xi: (first_order_expansion(loss, f, x, y, xi[0]),),
        lambda graph, x, y, xi: perturbed_loss(loss, f, x, y, xi),
    )
    for call in calls:
        for result, expected in zip(
            call(cpu.converted("cuda"), x.cuda(), y.cuda(), xi.cuda()), call(cpu, x, y, xi)
        ):
            assert result.is_cuda
            torch.testing.assert_close(result.cpu(), expected, rtol=1e-8, atol=1e-9)
    with pytest.raises(ValueError, match="x is on cpu but the graph is on cuda:0"):
        second_order_expansion(loss, f, cpu.converted("cuda"), x, y)


# ---------------------------------------------------------------- bad input

GRAPH, X, Y = graph_of(3, 4, 1), inside(2, 1, 3, 4), torch.zeros(2).double()
XI = tangents(5, 2, 1, 3, 4, size=1e-3)


CALLS = {
    "second_order": lambda loss=square, f=scalar, x=X: second_order_expansion(loss, f, GRAPH, x, Y),
    "euclidean": lambda loss=square, f=scalar, x=X: second_order_expansion(
        loss, f, "euclidean", x, Y
    ),
    "first_order": lambda loss=square, f=scalar, x=X: first_order_expansion(loss, f, x, Y, x),
    "perturbed_loss": lambda loss=square, f=scalar, x=X: perturbed_loss(loss, f, x, Y, x[None]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_other_shapes(call):
    """Of x without a batch, of what f returns, of what the loss returns."""
    with pytest.raises(ValueError, match=r"^x must be \(B, C, H, W\), got \(2, 3, 4\)$"):
        call(x=X[:, 0])
    with pytest.raises(ValueError, match=r"^f must return .* logits, got \(1,\)$"):
        call(f=lambda x: x.sum((1, 2, 3))[:1])
    for loss, shape in (
        (lambda o, y: ((o - y) ** 2).mean(), r"\(\)"),
        (lambda o, y: (o - y)[:, None], r"\(2, 1\)"),
    ):
        with pytest.raises(
            ValueError, match=rf"^loss must return one number per image, \(2,\), got {shape}$"
        ):
            call(loss=loss)


BAD_CALLS = {
    "x": (
        lambda: second_order_expansion(square, scalar, GRAPH, -X, Y),
        ValueError,
        "x must be non-negative and finite",
    ),
    "x_of_the_volume": (
        lambda: second_order_expansion(square, scalar, GRAPH, X - X.min(), Y, volume=True),
        ValueError,
        "x must be positive on every pixel",
    ),
    "metric": (
        lambda: second_order_expansion(square, scalar, "l1", X, Y),
        ValueError,
        "metric must be .*'euclidean', got 'l1'",
    ),
    "estimator": (
        lambda: second_order_expansion(square, scalar, GRAPH, X, Y, estimator="mc"),
        ValueError,
        "estimator must .*'mc'",
    ),
    "mean_of_samples": (
        lambda: first_order_expansion(square, scalar, X, Y, XI),
        ValueError,
        r"mean must have the shape of x, \(2, 1, 3, 4\), got \(5, 2, 1, 3, 4\)",
    ),
    "mean_of_a_number": (
        lambda: first_order_expansion(square, scalar, X, Y, 0),
        TypeError,
        "mean must be a tensor, got int",
    ),
    "first_order_overflows": (
        lambda: first_order_expansion(
            square, lambda x: 1e20 * scalar(x), X.float(), Y.float(), X.float()
        ),
        RuntimeError,
        "first_order_expansion overflows torch.float32: scale mean, loss or f, unless",
    ),
    "second_order_overflows": (
        lambda: second_order_expansion(
            square, lambda x: 1e20 * scalar(x), "euclidean", X.float(), Y.float()
        ),
        RuntimeError,
        "second_order_expansion overflows torch.float32: scale loss or f, unless",
    ),
    "xi_without_samples": (
        lambda: perturbed_loss(square, scalar, X, Y, XI[0]),
        ValueError,
        r"xi must be \(N, 2, 1, 3, 4\)",
    ),
    "xi_of_another_type": (
        lambda: perturbed_loss(square, scalar, X.float(), Y, XI),
        TypeError,
        "xi is torch.float64 but x is torch.float32",
    ),
    "xi_of_no_samples": (
        lambda: perturbed_loss(square, scalar, X, Y, XI[:0]),
        ValueError,
        r"xi must be \(N, 2, 1, 3, 4\), got \(0, 2, 1, 3, 4\) with x \(2, 1, 3, 4\)",
    ),
    "f_of_images_of_another_type": (
        lambda: second_order_expansion(square, torch.nn.Linear(4, 1), "euclidean", X, Y),
        TypeError,
        "x must be torch.float32, as the weights of f, got torch.float64",
    ),
    "f_of_images_of_another_size": (
        lambda: perturbed_loss(square, torch.nn.Linear(7, 1).double(), X, Y, XI),
        RuntimeError,
        r"f failed on x \(2, 1, 3, 4\): ",
    ),
    "xi_of_integers": (
        lambda: perturbed_loss(square, scalar, X, Y, XI.long()),
        TypeError,
        "xi must be a floating tensor, got torch.int64",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(name):
    call, error, says = BAD_CALLS[name]
    with pytest.raises(error, match=f"^{says}"):
        call()


def test_euclidean_inputs_may_be_negative():
    terms = second_order_expansion(square, scalar, "euclidean", XI[0], Y, volume=True)
    assert terms.gradient.isfinite().all() and (terms.gradient > 0).all()


def test_what_a_loss_raises_names_it():
    x, y = torch.rand(2, 1, 3, 3), torch.tensor([0, 1])
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 3))
    with pytest.raises(TypeError, match=r"^loss failed on outputs \(2, 3\): .*positional"):
        regularizer.GradientPenalty("euclidean", loss=torch.nn.Identity())(model, x, y)

"""A pixel graph learnt by maximum likelihood, and the section on it."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
import torch
from oracles import generator, graph_of, kernel
from scipy.linalg import null_space
from scipy.stats import multivariate_normal

from wdtr_lite import PixelGraph, metric, noise

SIZES = {
    "3x4": (3, 4, 1, 0.7),
    "weighted": (4, 3, 2, kernel(2)),
    "row": (1, 5, 2, 1.0),
    "2x6_wide": (2, 6, 5, kernel(5, seed=3)),
}


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

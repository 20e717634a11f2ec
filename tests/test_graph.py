"""The pixel graph against loops over pixel pairs, and bad input."""

import copy
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import (
    SIZES,
    bad_tensors,
    cases,
    gpu,
    graph_of,
    images,
    kernel,
    seeds,
    volume,
    weight_matrix,
)

from wdtr_lite import PixelGraph, metric


@pytest.fixture(params=SIZES.values(), ids=SIZES)
def size(request):
    return request.param


@st.composite
def sizes(draw):
    height, width = draw(st.integers(1, 5)), draw(st.integers(2, 5))
    radius = draw(st.integers(1, max(height, width) - 1))
    weight = (
        kernel(radius, draw(seeds)) if draw(st.booleans()) else draw(st.sampled_from([1.0, 0.25]))
    )
    return height, width, radius, weight


# ---------------------------------------------------------------- neighbours


def test_offsets_are_those_of_the_window():
    """All offsets within the radius that some pixel pair has, but for the pixel's own, row by row."""
    for height, width, radius in ((5, 6, 1), (5, 6, 4), (1, 7, 3), (7, 1, 3), (2, 9, 5), (2, 2, 1)):
        rows, columns = min(radius, height - 1), min(radius, width - 1)
        window = [
            [r, c]
            for r in range(-rows, rows + 1)
            for c in range(-columns, columns + 1)
            if (r, c) != (0, 0)
        ]
        offsets = PixelGraph(height, width, radius).offsets
        assert offsets.tolist() == window and offsets.dtype == torch.int64


def test_offsets_are_symmetric_halves():
    for size in SIZES.values():
        offsets = graph_of(*size).offsets
        assert torch.equal(offsets, -offsets.flip(0))
        forward = offsets[len(offsets) // 2 :]
        assert all(row > 0 or row == 0 and column > 0 for row, column in forward.tolist())


def test_an_offset_of_weight_zero_is_no_edge():
    weight = kernel(2, zeros=0)
    weight[0, 1] = weight[4, 3] = 0
    offsets = graph_of(4, 5, 2, weight).offsets.tolist()
    assert len(offsets) == 22 and [-2, -1] not in offsets and [2, 1] not in offsets
    cross = torch.tensor([[0.0, 2, 0], [3, 7, 3], [0, 2, 0]])
    assert PixelGraph(3, 3, 1, weight=cross).offsets.tolist() == [[-1, 0], [0, -1], [0, 1], [1, 0]]


def test_the_centre_of_a_kernel_is_not_used():
    weight = kernel(2)
    other = weight.clone()
    other[2, 2] = 100
    x, v = images(2, 4, 5), images(2, 4, 5, seed=1)
    for function in (PixelGraph.neighbor_sum, lambda graph, v: metric.apply_laplacian(graph, x, v)):
        assert torch.equal(
            function(graph_of(4, 5, 2, weight), v), function(graph_of(4, 5, 2, other), v)
        )
    assert torch.equal(graph_of(4, 5, 2, weight).volume, graph_of(4, 5, 2, other).volume)


def test_size_and_repr(size):
    height, width, radius, weight = size
    graph = graph_of(*size)
    assert graph.size == height * width
    shown = "kernel" if isinstance(weight, torch.Tensor) else weight
    assert repr(graph) == f"PixelGraph({height}, {width}, {radius}, weight={shown})"


# ---------------------------------------------------------------- volume and sums


def test_volume_is_the_papers_d(size):
    """d_i = sum_j w_ij / sum_ij w_ij, by a double loop over pixels."""
    height, width, *_ = size
    weights = weight_matrix(*size)
    graph = graph_of(*size)
    np.testing.assert_allclose(graph.volume, volume(weights).reshape(height, width), rtol=1e-13)
    np.testing.assert_allclose(graph.degree, weights.sum(1).reshape(height, width), rtol=1e-13)
    assert float(graph.volume.sum()) == pytest.approx(1, abs=1e-14)


@given(size=sizes(), seed=seeds)
def test_neighbor_sum_is_a_double_loop(size, seed):
    height, width, *_ = size
    v = torch.tensor(np.random.default_rng(seed).standard_normal((2, 3, height, width)))
    loop = v.flatten(-2).numpy() @ weight_matrix(*size).T
    graph = graph_of(*size)
    np.testing.assert_allclose(graph.neighbor_sum(v).flatten(-2), loop, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(graph.neighbor_sum(v[0, 0]), graph.neighbor_sum(v)[0, 0])


@given(size=sizes(), seed=seeds)
def test_neighbor_sum_is_symmetric(size, seed):
    v, w = torch.tensor(np.random.default_rng(seed).standard_normal((2, *size[:2])))
    graph = graph_of(*size)
    assert float((v * graph.neighbor_sum(w)).sum()) == pytest.approx(
        float((w * graph.neighbor_sum(v)).sum()), abs=1e-11
    )


def test_a_constant_kernel_is_a_constant_weight():
    v = images(2, 5, 6)
    for radius in (1, 3, 5):
        constant = torch.full((2 * radius + 1,) * 2, 0.7, dtype=torch.float64)
        one, other = graph_of(5, 6, radius, constant), graph_of(5, 6, radius, 0.7)
        torch.testing.assert_close(one.neighbor_sum(v), other.neighbor_sum(v), rtol=1e-13, atol=0)
        assert torch.equal(one.offsets, other.offsets)
        torch.testing.assert_close(
            one.incidence().to_dense(), other.incidence().to_dense(), rtol=1e-15, atol=0
        )


# ---------------------------------------------------------------- the incidence matrix


def test_incidence_is_definition_1(size):
    """A row an edge: sqrt(w) at the larger pixel, -sqrt(w) at the smaller, and each edge of the graph once."""
    weights = weight_matrix(*size)
    incidence = graph_of(*size).incidence()
    assert incidence.is_sparse and incidence.is_coalesced()
    rows = incidence.to_dense().numpy()
    assert rows.shape == (np.count_nonzero(weights) // 2, len(weights))
    seen = set()
    for row in rows:
        j, i = np.flatnonzero(row)
        assert i > j and (i, j) not in seen
        seen.add((i, j))
        assert row[i] == pytest.approx(weights[i, j] ** 0.5, rel=1e-14) and row[j] == -row[i]


def test_incidence_follows_the_forward_offsets(size):
    _, width, *_ = size
    graph = graph_of(*size)
    steps = []
    for row in graph.incidence().to_dense().numpy():
        (r, c), (s, d) = (divmod(pixel, width) for pixel in np.flatnonzero(row))
        if not steps or steps[-1] != [s - r, d - c]:
            steps.append([s - r, d - c])
    assert steps == graph.offsets[len(graph.offsets) // 2 :].tolist()


# ---------------------------------------------------------------- type and device


def test_the_type_is_torchs_or_the_kernels():
    assert PixelGraph(3, 4, 1).dtype == torch.float32 == PixelGraph(3, 4, 1).volume.dtype
    assert PixelGraph(3, 4, 1, weight=kernel(1)).dtype == torch.float64
    torch.set_default_dtype(torch.float64)
    try:
        assert PixelGraph(3, 4, 1).volume.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_to(size):
    single = PixelGraph(*size[:3], weight=size[3]).to(dtype=torch.float32)
    double = single.to("cpu", torch.float64)
    assert (
        single.dtype == torch.float32 and double.dtype == torch.float64
    )  # and the first is as it was
    for graph in (single, double):
        for tensor in (
            graph.volume,
            graph.degree,
            graph.incidence(),
            graph.neighbor_sum(graph.volume),
        ):
            assert tensor.dtype == graph.dtype and tensor.device == graph.device == torch.device(
                "cpu"
            )
    torch.testing.assert_close(single.volume.double(), double.volume, rtol=1e-6, atol=0)
    assert repr(single.to()) == repr(single) and torch.equal(single.to().offsets, single.offsets)


def test_to_keeps_the_gradient_of_the_kernel():
    weight = kernel(1).requires_grad_()
    PixelGraph(2, 3, 1, weight=weight).to(dtype=torch.float32).volume[0, 0].backward()
    assert weight.grad.dtype == torch.float64 and weight.grad.abs().max() > 0


def test_a_copy_is_a_graph():
    graph = graph_of(*SIZES["3x4_weighted"])
    for twin in (copy.copy(graph), copy.deepcopy(graph)):
        assert torch.equal(twin.volume, graph.volume)


# ---------------------------------------------------------------- learnable weights


def symmetric(raw):
    """Kernel weights that can be varied one by one."""
    return (raw + raw.flip(0, 1)) / 2


@pytest.mark.parametrize(("height", "width", "radius"), [(3, 3, 1), (1, 4, 2)])
def test_kernel_is_differentiable(height, width, radius):
    raw = kernel(radius, zeros=0).requires_grad_()
    x, g = images(2, height, width, seed=1, black=0.2), images(2, height, width, seed=2)
    functions = {
        "volume": lambda graph: graph.volume,
        "neighbor_sum": lambda graph: graph.neighbor_sum(g),
        "incidence": lambda graph: graph.incidence().to_dense(),
        "mobility": lambda graph: metric.mobility(graph, x),
        "laplacian": lambda graph: metric.laplacian(graph, x),
        "laplacian_sparse": lambda graph: metric.laplacian_sparse(graph, x).to_dense(),
        "apply_laplacian": lambda graph: metric.apply_laplacian(graph, x, g),
        "grad_norm_sq": lambda graph: metric.grad_norm_sq(graph, x, g),
        "algorithm_1": lambda graph: metric.grad_norm_sq_algorithm1(graph, x, g),
    }
    for function in functions.values():

        def of_weight(raw):
            return function(PixelGraph(height, width, radius, weight=symmetric(raw)))

        assert torch.autograd.gradcheck(of_weight, raw)


def test_a_kernels_scale_scales_the_laplacian():
    """d does not change and L is linear in the weights, so its derivative along them is L itself."""
    weight = kernel(2)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    x, g = images(3, 4), images(3, 4, seed=1)
    value = metric.grad_norm_sq(PixelGraph(3, 4, 2, weight=scale * weight), x, g)
    assert float(torch.autograd.grad(value, scale)[0]) == pytest.approx(
        float(value.detach()), rel=1e-12
    )


@gpu
def test_on_the_gpu(size):
    cpu = graph_of(*size)
    graph = cpu.to("cuda")
    v = images(2, *size[:2])
    assert graph.device.type == "cuda" and cpu.device.type == "cpu"
    for function in (
        lambda graph, v: graph.neighbor_sum(v),
        lambda graph, v: graph.volume,
        lambda graph, v: graph.incidence().to_dense(),
    ):
        result = function(graph, v.cuda())
        assert result.is_cuda
        torch.testing.assert_close(result.cpu(), function(cpu, v), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="v is on cpu but the graph is on cuda:0"):
        graph.neighbor_sum(v)


# ---------------------------------------------------------------- bad input


def kernel_with(value, *places):
    weight = torch.ones(3, 3)
    for place in places:
        weight[place] = value
    return weight


BOTH = ((0, 1), (2, 1))  # a pair of opposite offsets
ALONG_THE_ROW = kernel_with(0.0, *((r, c) for r in range(3) for c in (0, 2)))  # leaves columns only

BAD_CALLS = {
    "height_zero": (lambda: PixelGraph(0, 3, 1), ValueError, "height must be at least 1, got 0"),
    "width_negative": (
        lambda: PixelGraph(3, -2, 1),
        ValueError,
        "width must be at least 1, got -2",
    ),
    "radius_zero": (lambda: PixelGraph(3, 4, 0), ValueError, "radius must be at least 1, got 0"),
    "radius_too_large": (
        lambda: PixelGraph(3, 4, 4),
        ValueError,
        "radius must be less than .* 4 pixels, got 4",
    ),
    "one_pixel": (
        lambda: PixelGraph(1, 1, 1),
        ValueError,
        "radius must be less than .* 1 pixels, got 1",
    ),
    "height_fraction": (
        lambda: PixelGraph(3.0, 4, 1),
        TypeError,
        "height must be a whole number, got 3.0",
    ),
    "width_text": (
        lambda: PixelGraph(3, "4", 1),
        TypeError,
        "width must be a whole number, got '4'",
    ),
    "radius_fraction": (
        lambda: PixelGraph(3, 4, 1.5),
        TypeError,
        "radius must be a whole number, got 1.5",
    ),
    "radius_bool": (
        lambda: PixelGraph(3, 4, True),
        TypeError,
        "radius must be a whole number, got True",
    ),
    "weight_zero": (
        lambda: PixelGraph(3, 4, 1, weight=0),
        ValueError,
        "weight must be positive and finite, got 0",
    ),
    "weight_negative": (
        lambda: PixelGraph(3, 4, 1, weight=-1.0),
        ValueError,
        "weight must be positive .*got -1.0",
    ),
    "weight_nan": (
        lambda: PixelGraph(3, 4, 1, weight=np.nan),
        ValueError,
        "weight must be positive .*got nan",
    ),
    "weight_inf": (
        lambda: PixelGraph(3, 4, 1, weight=np.inf),
        ValueError,
        "weight must be positive .*got inf",
    ),
    "weight_bool": (
        lambda: PixelGraph(3, 4, 1, weight=True),
        TypeError,
        "weight must be a number .*got bool",
    ),
    "weight_text": (
        lambda: PixelGraph(3, 4, 1, weight="1"),
        TypeError,
        "weight must be a number .*got str",
    ),
    "weight_array": (
        lambda: PixelGraph(3, 4, 1, weight=np.ones((3, 3))),
        TypeError,
        "weight must be .*got ndarray",
    ),
    "kernel_integer": (
        lambda: PixelGraph(3, 4, 1, weight=torch.ones(3, 3).long()),
        TypeError,
        "weight must be a floating tensor, got torch.int64",
    ),
    "kernel_complex": (
        lambda: PixelGraph(3, 4, 1, weight=torch.ones(3, 3) * 1j),
        TypeError,
        "weight must be a floating tensor, got torch.complex64",
    ),
    "kernel_shape": (
        lambda: PixelGraph(3, 4, 2, weight=torch.ones(3, 3)),
        ValueError,
        r"weight must have shape \(5, 5\) for radius 2, got \(3, 3\)",
    ),
    "kernel_number": (
        lambda: PixelGraph(3, 4, 1, weight=torch.tensor(1.0)),
        ValueError,
        r"weight must have shape \(3, 3\) for radius 1, got \(\)",
    ),
    "kernel_asymmetric": (
        lambda: PixelGraph(3, 4, 1, weight=kernel_with(2.0, (0, 1))),
        ValueError,
        r"weight must be equal at opposite offsets: weight \+ weight.flip\(0, 1\) is",
    ),
    "kernel_mirrored": (  # left and right agree, and top and bottom; opposite offsets do not
        lambda: PixelGraph(3, 4, 1, weight=kernel_with(2.0, (0, 0), (0, 2))),
        ValueError,
        "weight must be equal at opposite offsets",
    ),
    "kernel_symmetric_as_a_matrix": (  # weight == weight.T says nothing of opposite offsets
        lambda: PixelGraph(3, 4, 1, weight=kernel_with(2.0, (0, 1), (1, 0))),
        ValueError,
        "weight must be equal at opposite offsets",
    ),
    "kernel_negative": (
        lambda: PixelGraph(3, 4, 1, weight=kernel_with(-1.0, *BOTH)),
        ValueError,
        "weight must be non-negative and finite",
    ),
    "kernel_nan": (
        lambda: PixelGraph(3, 4, 1, weight=kernel_with(np.nan, *BOTH)),
        ValueError,
        "weight must be non-negative and finite",
    ),
    "kernel_inf": (
        lambda: PixelGraph(3, 4, 1, weight=kernel_with(np.inf, *BOTH)),
        ValueError,
        "weight must be non-negative and finite",
    ),
    "kernel_zero": (
        lambda: PixelGraph(3, 4, 1, weight=torch.zeros(3, 3)),
        ValueError,
        "weight leaves a pixel without neighbours",
    ),
    "pixels_without_neighbours": (
        lambda: PixelGraph(1, 4, 1, weight=ALONG_THE_ROW),
        ValueError,
        "weight leaves a pixel without neighbours",
    ),
    "to_type": (
        lambda: PixelGraph(3, 4, 1).to(torch.float64),
        TypeError,
        re.escape(
            "device must be a device, got the type torch.float64: write to(dtype=torch.float64)"
        ),
    ),
    "to_integers": (
        lambda: PixelGraph(3, 4, 1).to(dtype=torch.int64),
        TypeError,
        "dtype must be torch.float32 or torch.float64, got torch.int64",
    ),
    "to_half": (
        lambda: PixelGraph(3, 4, 1).to(dtype=torch.float16),
        TypeError,
        "dtype must be torch.float32 or torch.float64, got torch.float16",
    ),
    "kernel_half": (
        lambda: PixelGraph(3, 4, 1, weight=torch.ones(3, 3).half()),
        TypeError,
        ".*must be torch.float32 or torch.float64, got torch.float16",
    ),
    "kernel_bfloat16": (
        lambda: PixelGraph(3, 4, 1, weight=torch.ones(3, 3).bfloat16()),
        TypeError,
        ".*must be torch.float32 or torch.float64, got torch.bfloat16",
    ),
    "weight_beyond_float32": (
        lambda: PixelGraph(3, 4, 1, weight=1e39),
        ValueError,
        "weight .*not finite",
    ),
    "kernel_of_infinite_sum": (
        lambda: PixelGraph(3, 4, 1, weight=torch.full((3, 3), 3e38)),
        ValueError,
        "weight .*not finite",
    ),
    "columns_apart": (  # every pixel has a neighbour, in its own column
        lambda: PixelGraph(3, 4, 1, weight=ALONG_THE_ROW),
        ValueError,
        "weight leaves the pixels in several unconnected parts",
    ),
    "colours_of_the_chessboard": (
        lambda: PixelGraph(3, 4, 1, weight=kernel_with(0.0, *BOTH, (1, 0), (1, 2))),
        ValueError,
        "weight leaves the pixels in several unconnected parts",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls(case):
    call, error, says = BAD_CALLS[case]
    with pytest.raises(error, match=f"^{says}"):
        call()


def test_thin_images_and_whole_windows_are_fine():
    for height, width, radius in (
        (1, 2, 1),
        (2, 1, 1),
        (1, 28, 27),
        (28, 1, 8),
        (2, 2, 1),
        (3, 9, 8),
    ):
        assert float(PixelGraph(height, width, radius).volume.sum()) == pytest.approx(1, abs=1e-5)
    assert PixelGraph(4, 1, 1, weight=ALONG_THE_ROW).offsets.tolist() == [[-1, 0], [1, 0]]


@pytest.mark.parametrize(("call", "value", "error", "message"), cases({
    "neighbor_sum": (graph_of(3, 4, 1).neighbor_sum, bad_tensors("v", images(2, 3, 4))),
    "neighbor_sum_weighted": (graph_of(3, 4, 2, kernel(2)).neighbor_sum, bad_tensors("v", images(2, 3, 4))),
}))  # fmt: skip
def test_bad_tensors(call, value, error, message):
    with pytest.raises(error, match=message):
        call(value)


def test_a_graph_of_float32_takes_no_float64():
    with pytest.raises(
        TypeError, match=r"^v is torch.float64 but the graph is torch.float32: .*graph.to\(dtype="
    ):
        PixelGraph(3, 4, 1).neighbor_sum(images(3, 4))


def test_a_weight_too_large_for_the_new_type_is_refused():
    kernel = torch.full((3, 3), 1e37, dtype=torch.float64)
    with pytest.raises(ValueError, match="^weight is too large for torch.float32"):
        PixelGraph(9, 9, 1, weight=kernel).to(dtype=torch.float32)

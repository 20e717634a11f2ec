"""The pixel graph against loops over pixel pairs; as a module; and bad input."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import SIZES, gpu, graph_of, images, kernel, seeds, volume, weight_matrix
from scipy.sparse.csgraph import connected_components
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from wdtr_lite import PixelGraph, metric, noise


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
    """All within the radius that some pixel pair has, but for the pixel's own, row by row."""
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
        assert all(row > 0 or (row == 0 and column > 0) for row, column in forward.tolist())


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
    """A row an edge: sqrt(w) at the larger pixel, -sqrt(w) at the smaller; each edge once."""
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


def test_edges_and_adjacency(size):
    """Each edge once, the smaller pixel first, with its weight; and all weights as a matrix."""
    weights = weight_matrix(*size)
    graph = graph_of(*size)
    np.testing.assert_allclose(graph.adjacency(), weights, rtol=1e-13)
    (j, i), weight = graph.edges()
    assert (j < i).all() and len(i) == np.count_nonzero(weights) // 2
    found = np.zeros_like(weights)
    found[j, i] = weight
    np.testing.assert_allclose(found, np.triu(weights), rtol=1e-13)


def test_endpoints_are_the_ends_of_the_edges(size):
    graph = graph_of(*size)
    number = torch.arange(graph.size).view(size[:2])
    ends = [graph.endpoints(number, offset) for offset, _ in graph.forward_offsets()]
    pairs = [torch.stack([low.flatten(), high.flatten()]) for low, high in ends]
    assert torch.equal(torch.cat(pairs, 1), graph.edges()[0])
    batch = graph.endpoints(number.expand(2, 3, -1, -1), graph.offsets[-1].tolist())
    assert batch[0].shape == (2, 3, *ends[-1][0].shape)


@given(size=sizes(), seed=seeds)
def test_components_are_scipys(size, seed):
    """Of the graph without the edges between two black pixels; the label is the largest pixel."""
    graph, x = graph_of(*size), images(3, *size[:2], seed=seed, black=0.8)
    for image, label in zip(x, graph.components(x)):
        lit = image.flatten().numpy() > 0
        links = weight_matrix(*size) * (lit[:, None] | lit)
        expected = connected_components(links, directed=False)[1]
        largest = [np.flatnonzero(expected == component).max() for component in expected]
        assert label.tolist() == largest


# ---------------------------------------------------------------- a module


class Holder(nn.Module):
    """A model with a graph, as a penalty has one."""

    def __init__(self, graph):
        super().__init__()
        self.graph, self.layer = graph, nn.Linear(2, 2)


def tensors_of(graph):
    return graph.volume, graph.degree, graph.incidence(), graph.neighbor_sum(graph.volume)


def test_the_type_is_torchs_or_the_kernels():
    assert PixelGraph(3, 4, 1).dtype == torch.float32 == PixelGraph(3, 4, 1).volume.dtype
    assert PixelGraph(3, 4, 1, weight=kernel(1)).dtype == torch.float64
    try:
        for given, dtype in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
            torch.set_default_dtype(given)
            assert PixelGraph(3, 4, 1).dtype == dtype == PixelGraph(3, 4, 1).volume.dtype
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("move", [nn.Module.double, lambda m: m.to("cpu", torch.float64)])
def test_a_graph_moves_with_the_module_that_holds_it(size, move):
    """In place, and its constants are computed anew, not rounded twice."""
    graph = PixelGraph(*size[:3], weight=size[3]).float()
    shown = repr(graph)
    holder = Holder(graph)
    assert move(holder) is holder and holder.graph is graph and repr(graph) == shown
    for tensor in tensors_of(graph):
        assert tensor.dtype == torch.float64 and tensor.device == graph.device
    weight = size[3].float().double() if isinstance(size[3], torch.Tensor) else size[3]
    for moved, exact in zip(tensors_of(graph), tensors_of(graph_of(*size[:3], weight))):
        torch.testing.assert_close(moved.to_dense(), exact.to_dense(), rtol=1e-14, atol=0)


def test_converted_is_a_copy(size):
    graph = graph_of(*size)
    single, double = graph.converted(dtype=torch.float32), graph.converted("cpu")
    assert single.dtype == torch.float32 and double.dtype == graph.dtype == torch.float64
    for here, there in zip(tensors_of(graph), tensors_of(double)):
        assert torch.equal(here.to_dense(), there.to_dense())
    for here, there in zip(tensors_of(graph), tensors_of(single)):
        assert there.dtype == torch.float32
        here, there = here.to_dense(), there.to_dense().double()
        torch.testing.assert_close(here, there, rtol=1e-6, atol=1e-7)
    assert repr(single) == repr(graph) and torch.equal(single.offsets, graph.offsets)


@pytest.mark.parametrize("weight", [1.0, kernel(1), nn.Parameter(kernel(1))])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_a_type_that_a_graph_cannot_have_leaves_it_as_it_was(weight, dtype):
    """Half types convert the other parts of the module that holds it."""
    graph = PixelGraph(3, 4, 1, weight=weight).double()
    before, parameters = [tensor.clone() for tensor in tensors_of(graph)], [*graph.parameters()]
    model = nn.Sequential(nn.Linear(2, 2), Holder(graph), nn.BatchNorm1d(2))
    for module in (graph, Holder(graph), model):
        if dtype == torch.int64:
            with pytest.raises(TypeError, match=f"got .*{dtype}"):
                module.to(dtype)
        else:
            assert module.to(dtype) is module
    floats = {v.dtype for layer in (model[0], model[2]) for v in layer.parameters()}
    assert floats == {torch.float32 if dtype == torch.int64 else dtype}
    for here, there in zip(before, tensors_of(graph)):
        assert there.dtype == torch.float64 and torch.equal(here.to_dense(), there.to_dense())
    assert all(a is b for a, b in zip(parameters, graph.parameters(), strict=True))


@pytest.mark.parametrize("weight", [1.0, nn.Parameter(kernel(1))])
def test_a_half_type_moves_the_graph_to_the_device(weight):
    graph = PixelGraph(3, 4, 1, weight=weight).float()
    assert graph.to("meta", torch.float16) is graph
    assert graph.device.type == "meta" and graph.dtype == graph.volume.dtype == torch.float32


def test_a_weight_too_large_for_the_new_type_leaves_the_graph_as_it_was():
    weight = torch.full((3, 3), 1e37, dtype=torch.float64)
    graph = PixelGraph(9, 9, 1, weight=weight)
    with pytest.raises(ValueError, match=r"^weight is too large for .* torch\.float32"):
        graph.float()
    assert graph.dtype == graph.kernel.dtype == graph.volume.dtype == torch.float64


@pytest.mark.parametrize("weight", [1.0, kernel(1), nn.Parameter(kernel(1))])
def test_copies_and_pickles(weight):
    graph = PixelGraph(3, 4, 1, weight=weight).double()
    for twin in (copy.copy(graph), copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert torch.equal(twin.volume, graph.volume) and repr(twin) == repr(graph)
    twin.float()
    assert twin.volume.dtype == torch.float32 and graph.volume.dtype == torch.float64


def test_only_a_parameter_is_saved_and_trained():
    """What a model's checkpoint holds does not change with the constants of its penalty."""
    for weight in (1.0, kernel(1), kernel(1).requires_grad_()):
        graph = PixelGraph(3, 4, 1, weight=weight)
        assert not graph.state_dict() and not list(graph.parameters())
    graph = PixelGraph(3, 4, 1, weight=nn.Parameter(kernel(1)))
    assert list(graph.state_dict()) == ["kernel"] and list(graph.parameters()) == [graph.kernel]
    other = PixelGraph(3, 4, 1, weight=nn.Parameter(kernel(1, seed=1)))
    assert not torch.equal(other.volume, graph.volume)
    other.load_state_dict(graph.state_dict())
    assert torch.equal(other.volume, graph.volume)


@pytest.mark.parametrize(
    ("learnt", "told"),
    [
        (-1.0, "weight must be non-negative and finite, got -1 to 0"),
        (math.nan, "weight must be non-negative and finite, got nan to nan"),
        (math.inf, "weight must be non-negative and finite, got 0 to inf"),
        (0.0, r"weight leaves a pixel without neighbours, got \[\[0.0, .*"),
    ],
)
def test_weights_that_an_optimiser_has_spoilt(learnt, told):
    """Refused by whatever is computed with them, by name."""
    graph = PixelGraph(3, 4, 1, weight=nn.Parameter(kernel(1)))
    x = images(1, 3, 4, seed=1)
    graph.kernel.data.fill_(learnt)
    for computed in (
        graph.edges,
        graph.incidence,
        lambda: graph.volume,
        lambda: metric.apply_laplacian(graph, x, x),
        lambda: metric.laplacian(graph, x),
        lambda: metric.laplacian_sparse(graph, x[0]),
        lambda: metric.grad_norm_sq(graph, x, x),
        lambda: metric.grad_norm_sq_algorithm1(graph, x, x),
        lambda: metric.mean_diagonal(graph, x),
        lambda: metric.tangent_norm_sq(graph, x, x - x.mean((-2, -1), keepdim=True), unit="pixel"),
        lambda: noise.sample(graph, x, 0.1, generator=torch.Generator()),
    ):
        with pytest.raises(ValueError, match=f"^{told}$"):
            computed()


@pytest.mark.parametrize(("optimizer", "lr"), [(torch.optim.SGD, 1.0), (torch.optim.Adam, 0.03)])
def test_an_optimiser_trains_a_parameter(optimizer, lr):
    """Towards the weights that made a gradient norm; they stay equal at opposite offsets."""
    x, g = images(20, 4, 5, seed=1), images(20, 4, 5, seed=2)
    target = metric.grad_norm_sq(graph_of(4, 5, 1, kernel(1, zeros=0)), x, g)
    weight = nn.Parameter(torch.ones(3, 3, dtype=torch.float64))
    graph = PixelGraph(4, 5, 1, weight=weight)
    step = optimizer(graph.parameters(), lr=lr)
    losses = []
    for _ in range(30):
        loss = (metric.grad_norm_sq(graph, x, g) / target - 1).square().mean()
        step.zero_grad()
        loss.backward()
        step.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0] and graph.kernel is weight
    matrix = graph.adjacency().detach()
    assert torch.equal(matrix, matrix.mT)
    np.testing.assert_allclose(matrix, weight_matrix(4, 5, 1, weight.detach()), rtol=1e-12)


def test_weights_that_differ_at_opposite_offsets_count_by_their_mean():
    """Whatever happens to a parameter, L stays symmetric."""
    graph = PixelGraph(3, 4, 2, weight=nn.Parameter(kernel(2)))
    with torch.no_grad():
        graph.kernel.mul_(torch.rand(5, 5, generator=torch.Generator().manual_seed(0)))
    mean = (graph.kernel + graph.kernel.flip(0, 1)).detach() / 2
    for here, there in zip(tensors_of(graph), tensors_of(graph_of(3, 4, 2, mean))):
        torch.testing.assert_close(here.detach(), there, rtol=1e-14, atol=0)
    assert graph.converted(dtype=torch.float32).dtype == torch.float32


def test_a_parametrization_keeps_a_parameter_positive():
    graph = PixelGraph(3, 4, 2, weight=nn.Parameter(torch.ones(5, 5)))
    register_parametrization(graph, "kernel", nn.Softplus())
    graph.double()
    expected = graph_of(3, 4, 2, torch.full((5, 5), np.log(1 + np.e)))
    torch.testing.assert_close(graph.volume.detach(), expected.volume, rtol=1e-6, atol=0)
    graph.volume[0, 0].backward()
    (raw,) = graph.parameters()
    assert raw.grad.abs().max() > 0


def test_a_kernel_keeps_its_gradient_on_the_move():
    for move in (PixelGraph.float, lambda graph: graph.converted(dtype=torch.float32)):
        weight = kernel(1).requires_grad_()
        move(PixelGraph(2, 3, 1, weight=2 * weight)).volume[0, 0].backward()
        assert weight.grad.dtype == torch.float64 and weight.grad.abs().max() > 0


@pytest.mark.parametrize("weight", [1.0, nn.Parameter(kernel(2).float())], ids=["one", "kernel"])
def test_compiled(weight):
    """In one graph, with the same values and gradients, and with what is refused refused."""
    graph, x, g = PixelGraph(3, 4, 2, weight=weight), *images(2, 5, 3, 4).float()
    leaves = [g.requires_grad_(), *graph.parameters()]

    def function(x, g):
        return metric.grad_norm_sq(graph, x, g)

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    values = [f(x, g) for f in (compiled, function)]
    torch.testing.assert_close(*values, rtol=1e-6, atol=0)
    slopes = [torch.autograd.grad(value.sum(), leaves) for value in values]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-6)


def test_the_meta_device():
    """For shapes; and a model that is made there is filled elsewhere."""
    x = torch.empty(2, 3, 4, device="meta")
    graph = PixelGraph(3, 4, 2).to("meta")
    assert graph.volume.is_meta and metric.laplacian(graph, x).shape == (2, 12, 12)
    with torch.device("meta"):
        holder = Holder(PixelGraph(3, 4, 2))
    assert holder.graph.device.type == "meta"
    holder.to_empty(device="cpu")
    for here, there in zip(tensors_of(holder.graph), tensors_of(PixelGraph(3, 4, 2))):
        assert torch.equal(here.to_dense(), there.to_dense())


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
    """d does not change and L is linear in the weights: its derivative along them is L itself."""
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
    graph = cpu.converted("cuda")
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


@gpu
@pytest.mark.parametrize("weight", [1.0, kernel(2).float()], ids=["one", "kernel"])
def test_capture_in_a_cuda_graph(weight):
    """Nothing is copied from the CPU, nothing is waited for."""
    graph = PixelGraph(3, 4, 2, weight=weight).to("cuda")
    x, g = images(2, 2, 3, 4).float().cuda()
    metric.grad_norm_sq(graph, x, g)
    torch.cuda.synchronize()
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        value = metric.grad_norm_sq(graph, x, g)
    g.mul_(3)
    recorded.replay()
    torch.testing.assert_close(value, metric.grad_norm_sq(graph, x, g))


# ---------------------------------------------------------------- bad input


def kernel_with(value, *places):
    weight = torch.ones(3, 3)
    for place in places:
        weight[place] = value
    return weight


BOTH = ((0, 1), (2, 1))  # a pair of opposite offsets
ALONG_THE_ROW = kernel_with(0.0, *((r, c) for r in range(3) for c in (0, 2)))  # leaves columns only
CHESSBOARD = kernel_with(0.0, *BOTH, (1, 0), (1, 2))  # of one colour
ALONE = "weight leaves a pixel without neighbours"
APART = "weight leaves the pixels in unconnected parts"

BAD_CALLS = {
    "height": ((0, 3, 1), 1.0, ValueError, "height must be at least 1, got 0"),
    "width": ((3, "4", 1), 1.0, TypeError, "width must be a whole number, got '4'"),
    "radius": ((3, 4, 1.5), 1.0, TypeError, "radius must be a whole number, got 1.5"),
    "radius_too_large": ((3, 4, 4), 1.0, ValueError, "radius must be less .* 4 pixels, got 4"),
    "one_pixel": ((1, 1, 1), 1.0, ValueError, "radius must be less than .* 1 pixels, got 1"),
    "weight": ((3, 4, 1), 0, ValueError, "weight must be positive and finite, got 0"),
    "weight_array": ((3, 4, 1), np.ones((3, 3)), TypeError, "weight must be .*got ndarray"),
    "kernel": ((3, 4, 2), torch.ones(3, 3), ValueError, r"weight must have shape \(5, 5\)"),
    "beyond_float32": ((3, 4, 1), 1e39, ValueError, r"weight is too large .*got 1e\+39"),
    "infinite_sum": ((3, 4, 1), torch.full((3, 3), 3e38), ValueError, "weight is too large"),
    "below_float32": ((3, 4, 1), 1e-300, ValueError, "weight is too small .*got 1e-300"),
    "half_below_float32": (
        (3, 4, 1),
        kernel_with(1e-45, *BOTH),
        ValueError,
        "weight is too small for torch.float32, got 1.4013e-45",
    ),
    "asymmetric": (
        (3, 4, 1),
        kernel_with(2.0, (0, 1)),
        ValueError,
        r"weight must be equal at .*, got 2 at \[-1, 0\] and 1 at \[1, 0\]: weight \+ weight\.flip",
    ),
    "taller_than_memory": ((2**31, 4, 1), 1.0, ValueError, "height must be at most 8192, got 2147"),
    "zero": ((3, 4, 1), torch.zeros(3, 3), ValueError, rf"{ALONE}, got \[\[0.0, 0.0, 0.0\]"),
    "alone": ((1, 4, 1), ALONG_THE_ROW, ValueError, rf"{ALONE}, got \[\[0.0, 1.0, 0.0\]"),
    "columns_apart": ((3, 4, 1), ALONG_THE_ROW, ValueError, rf"{APART}, got \[\[0.0, 1.0, 0.0\]"),
    "colours_apart": ((3, 4, 1), CHESSBOARD, ValueError, APART),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls(case):
    size, weight, error, says = BAD_CALLS[case]
    with pytest.raises(error, match=f"^{says}"):
        PixelGraph(*size, weight=weight)


@pytest.mark.parametrize("name", ["height", "width", "radius"])
def test_what_else_was_made_of_does_not_change(name):
    graph = PixelGraph(4, 5, 1)
    with pytest.raises(
        AttributeError, match=f"^{name} of a PixelGraph cannot be changed: make ano"
    ):
        setattr(graph, name, 3)
    assert graph.converted(dtype=torch.float64).radius == copy.deepcopy(graph).radius == 1


def test_a_bad_tensor():
    for graph in (graph_of(3, 4, 1), graph_of(3, 4, 2, kernel(2))):
        with pytest.raises(ValueError, match=r"^v must be \(\.\.\., 3, 4\), got \(4, 3\)"):
            graph.neighbor_sum(images(4, 3))


@pytest.mark.parametrize("device", [np.zeros(2), torch.zeros(2), 0], ids=str)
def test_a_device_of_another_kind(device):
    with pytest.raises(TypeError, match="^device must be str or device, got"):
        PixelGraph(3, 4, 1).converted(device)


def test_components_of_no_images():
    for weight in (1.0, torch.ones(3, 3)):
        found = PixelGraph(3, 4, 1, weight=weight).components(torch.rand(0, 3, 4))
        assert found.shape == (0, 12) and found.dtype == torch.int64


def test_thin_images_and_whole_windows_are_fine():
    for size in ((1, 2, 1), (2, 1, 1), (1, 28, 27), (28, 1, 8), (2, 2, 1), (3, 9, 8)):
        assert float(PixelGraph(*size).volume.sum()) == pytest.approx(1, abs=1e-5)
    assert PixelGraph(4, 1, 1, weight=ALONG_THE_ROW).offsets.tolist() == [[-1, 0], [1, 0]]


def test_numpys_small_numbers_do_not_wrap():
    one, x = np.uint8(1), images(3, 4)
    graph = PixelGraph(np.uint8(20), np.uint8(20), one)
    assert (graph.height, graph.width, graph.radius, graph.size) == (20, 20, 1, 400)
    for found, expected in zip(
        graph_of(3, 4, 1).endpoints(x, (one, one)), graph_of(3, 4, 1).endpoints(x, (1, 1))
    ):
        assert torch.equal(found, expected)


def test_a_sum_beyond_the_type_is_reported():
    graph = PixelGraph(3, 4, 1)
    with pytest.raises(RuntimeError, match=r"^neighbor_sum overflows torch\.float32: scale v"):
        graph.neighbor_sum(torch.full((3, 4), 3e38))
    with pytest.raises(ValueError, match="^v must be finite, got nan to nan"):
        graph.neighbor_sum(torch.full((3, 4), math.nan))


def test_a_graph_of_tiny_weights_keeps_its_type():
    graph = PixelGraph(3, 4, 1, weight=torch.full((3, 3), 1e-300, dtype=torch.float64))
    assert float(graph.volume.sum()) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"^weight is too small for .* torch\.float32"):
        graph.to(torch.float32)


def test_a_graph_made_in_inference_mode_takes_part_in_gradients():
    with torch.inference_mode():
        graph = PixelGraph(3, 4, 1)
    x = images(3, 4).float().requires_grad_()
    (found,) = torch.autograd.grad((x * graph.neighbor_sum(x)).sum(), x)
    torch.testing.assert_close(found, 2 * graph.neighbor_sum(x).detach())

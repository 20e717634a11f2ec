"""The penalties for training: norms and values against loops in float64, gradients in the
parameters against differences, what a call leaves as it was, and the ways a training step is run.
"""

import copy
import pickle
import re
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracles import (
    SIZES,
    generator,
    gpu,
    graph_of,
    images,
    inside,
    kernel,
    laplacian,
    weight_matrix,
)
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from wdtr_lite import PixelGraph, data
from wdtr_lite.calculus.derivatives import autograd_nodes
from wdtr_lite.metric import apply_laplacian, mean_diagonal
from wdtr_lite.models import MODELS
from wdtr_lite.regularizer import (
    L1,
    Euclidean,
    GradientPenalty,
    InputNorm,
    LInf,
    Terms,
    Wasserstein,
    input_norm,
    laplacian_penalty,
    second_order_expansion,
)

MODES, SCALES = ("double_backprop", "finite_difference"), (None, "trace")
BOTH = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(params=SIZES.values(), ids=SIZES)
def size(request):
    return request.param


# ---------------------------------------------------------------- networks and brute force


def network(name="small_cnn", dtype=torch.float64, **how):
    torch.manual_seed(0)
    return MODELS[name](
        **{"channels": 1, "mean": 0.3, "std": 0.5, "width": 4, "classes": 5, **how}
    ).to(dtype)


def small(dropout=0.0, norm=None):
    """Two layers of convolutions on 6 x 6 images, with what a test asks for in between, 4 classes,
    float64."""
    torch.manual_seed(0)
    between = [norm] if norm else [nn.Dropout(dropout)] if dropout else []
    layers = [
        nn.Conv2d(1, 6, 3),
        *between,
        nn.Softplus(),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.Softplus(),
        nn.Flatten(),
    ]
    return nn.Sequential(*layers, nn.Linear(8, 4)).double()


GRAPH, X, Y = graph_of(6, 6, 2, kernel(2)), images(5, 1, 6, 6), torch.arange(5) % 4
METRICS = pytest.mark.parametrize("metric", [GRAPH, "euclidean"], ids=["wasserstein", "euclidean"])
EVERY = {"wasserstein": GRAPH, "euclidean": "euclidean", "l1": "l1", "linf": "linf"}


def converted(metric, **to):
    """A graph's copy; a word is the same everywhere."""
    return metric.converted(**to) if isinstance(metric, PixelGraph) else metric


def cross_entropy(outputs, y):
    return F.cross_entropy(outputs, y, reduction="none")


def margin(outputs, y):
    best = [max(row[j] for j in range(len(row)) if j != label) for row, label in zip(outputs, y)]
    return torch.stack([row[label] - other for row, label, other in zip(outputs, y, best)])


COLUMNS = {
    "loss": lambda outputs, y: cross_entropy(outputs, y)[:, None],
    "logits": lambda outputs, y: outputs.view(len(outputs), -1),
    "margin": lambda outputs, y: margin(outputs, y)[:, None],
    "logit_differences": lambda outputs, y: (
        (outputs[:, :, None] - outputs[:, None]).flatten(1) / outputs.shape[1]  # every pair
    ),
}


def matrices(size, x):
    """The paper's L of each channel, (B, C, n, n), or the identity."""
    n = size[0] * size[1]
    if size[2] == "euclidean":
        return torch.eye(n, dtype=torch.float64).expand(*x.shape[:2], n, n)
    weights = weight_matrix(*size)
    dense = [laplacian(weights, channel.numpy()) for channel in x.reshape(-1, n)]
    return torch.tensor(np.stack(dense)).view(*x.shape[:2], n, n)


def brute_force(size, model, columns, x, y, scale=None):
    """g' L g column by column, one image at a time, over the mean of all diagonals."""
    every, values = matrices(size, x), []
    for image, label, matrix in zip(x, y, every):
        leaf, total = image[None].clone().requires_grad_(), 0.0
        for column in columns(model(leaf), label[None])[0]:
            g = torch.autograd.grad(column, leaf, retain_graph=True)[0][0].flatten(1)
            total += float(torch.einsum("ci,cij,cj->", g, matrix, g))
        values.append(total)
    unit = every.diagonal(dim1=-2, dim2=-1).mean() if scale else 1.0
    return torch.tensor(values, dtype=torch.float64) / unit


def grads(value, model):
    """The gradient of a number in all parameters, one vector."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    parts = torch.autograd.grad(value, wanted, retain_graph=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts]).detach()


def error(a, b):
    a, b = a.detach(), b.detach()
    return float((a - b).norm() / b.norm())


def close(a, b, rtol=1e-9, atol=1e-13):
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


# ---------------------------------------------------------------- norms


def norm_by_hand(metric, x, g):
    """The squared norm of each image's gradient, in numpy."""
    if isinstance(metric, PixelGraph):
        every = matrices((6, 6, 2, kernel(2)), x).numpy()
        flat = g.flatten(2).numpy()
        return np.array(
            [sum(v @ L @ v for v, L in zip(*image)) for image in zip(flat, every, strict=True)]
        )
    order = {"euclidean": 2, "l1": 1, "linf": np.inf}[metric]
    return np.array([np.linalg.norm(image.ravel(), order) ** 2 for image in g.numpy()])


@pytest.mark.parametrize("metric", EVERY.values(), ids=EVERY)
def test_norms_by_hand(metric):
    """Of colour images; the direction is the norm's derivative, by autograd and by differences, and
    along g twice the norm."""
    x = images(3, 2, 6, 6)
    g = torch.randn(3, 2, 6, 6, generator=generator(), dtype=torch.float64)
    norm = input_norm(metric, scale=None)
    value, direction = norm.norm_sq(x, g), norm.direction(x, g)
    np.testing.assert_allclose(value, norm_by_hand(metric, x, g), rtol=1e-11)
    leaf = g.clone().requires_grad_()
    close(direction, torch.autograd.grad(norm.norm_sq(x, leaf).sum(), leaf)[0], rtol=1e-12)
    close((direction * g).sum((1, 2, 3)), 2 * value)
    v = torch.randn(g.shape, generator=generator(1), dtype=g.dtype)
    ends = [norm.norm_sq(x, g + h * v) for h in (1e-6, -1e-6)]
    close((direction * v).sum((1, 2, 3)), (ends[0] - ends[1]) / 2e-6, rtol=1e-7)
    if metric is GRAPH:
        scaled, unit = input_norm(metric), mean_diagonal(metric, x)
        close(scaled.norm_sq(x, g), value / unit)
        close(scaled.direction(x, g), direction / unit)


def test_l1_and_linf_are_dual_norms():
    """What the worst change of size 1 gains, over all corners of the other ball."""
    g = torch.randn(1, 1, 2, 3, generator=generator(), dtype=torch.float64)
    corners = torch.tensor(list(product((-1.0, 1.0), repeat=6))).double()
    close(L1().norm_sq(g, g).sqrt(), (corners @ g.flatten()).max()[None])
    axes = torch.cat([torch.eye(6), -torch.eye(6)]).double()
    close(LInf().norm_sq(g, g).sqrt(), (axes @ g.flatten()).max()[None])


def test_l1_and_linf_at_kinks():
    """A zero takes no part in L1; of equals, LInf takes the mean; of no gradient both are zero, and
    so is all that autograd makes of them."""
    g = torch.tensor([[[[3.0, 0.0, -3.0, 1.0]]], [[[0.0] * 4]]], requires_grad=True)
    for norm, value, direction in (
        (L1(), 49.0, [14.0, 0.0, -14.0, 14.0]),
        (LInf(), 9.0, [3.0, 0.0, -3.0, 0.0]),
    ):
        assert norm.norm_sq(g, g).tolist() == [value, 0.0]
        found = norm.direction(g, g.detach())
        assert found.tolist() == [[[direction]], [[[0.0] * 4]]]
        assert torch.equal(torch.autograd.grad(norm.norm_sq(g, g).sum(), g)[0], found)
        assert norm.norm_sq(g[:0], g[:0]).shape == (0,)
        assert norm.direction(g[:0], g[:0]).shape == (0, 1, 1, 4)


def test_the_unit_of_black_is_1_and_of_nan_nan():
    norm = Wasserstein(GRAPH)
    assert float(norm.unit(0 * X)) == 1 and norm.unit(float("nan") * X).isnan()


def test_input_norm_takes_words_graphs_and_norms():
    own = Wasserstein(GRAPH, scale=None)
    assert input_norm(own) is own
    assert isinstance(input_norm(GRAPH), Wasserstein) and input_norm(GRAPH).graph is GRAPH
    for word, kind in (("euclidean", Euclidean), ("l1", L1), ("linf", LInf)):
        assert type(input_norm(word)) is kind
    assert torch.equal(
        GradientPenalty(own)(small(), X, Y), GradientPenalty(GRAPH, scale=None)(small(), X, Y)
    )


class Rough(InputNorm):
    """A norm of one's own: of neighbours' differences."""

    def norm_sq(self, x, g):
        return (g.diff(dim=-1) ** 2).sum((1, 2, 3))

    def direction(self, x, g):
        return 2 * (F.pad(g.diff(dim=-1), (1, 0)) - F.pad(g.diff(dim=-1), (0, 1)))


@pytest.mark.parametrize("metric", [*EVERY.values(), Rough()], ids=[*EVERY, "own"])
@pytest.mark.parametrize("of", COLUMNS)
def test_both_modes_by_differences_of_each_norm(metric, of):
    """The gradient in the parameters of a smooth network: double back-propagation, the finite
    difference, and the numeric derivative of the value along random directions."""
    model = small()
    exact, close_to = (
        grads(GradientPenalty(metric, of=of, **how)(model, X, Y).sum(), model)
        for how in ({}, {"mode": "finite_difference", "central": True, "step": 1e-4})
    )
    assert error(close_to, exact) < 1e-6
    rng = generator()
    for _ in range(3):
        v = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in model.parameters()]
        slope = difference(lambda m: GradientPenalty(metric, of=of)(m, X, Y).sum(), model, v, 1e-6)
        assert float(exact @ vector(v)) == pytest.approx(slope, abs=2e-6 * float(exact.norm()))


@pytest.mark.parametrize("mode", ["double_backprop", "finite_difference"])
def test_the_gradient_of_each_image_at_once(mode):
    """Vectorised, as in a loop."""
    model = small()
    value, parameters = GradientPenalty(GRAPH, mode=mode)(model, X, Y), list(model.parameters())
    how = {"retain_graph": True, "allow_unused": True}
    units = torch.eye(len(X), dtype=X.dtype)
    at_once = torch.autograd.grad(value, parameters, units, is_grads_batched=True, **how)
    for k, each in enumerate(value):
        for mine, one in zip(at_once, torch.autograd.grad(each, parameters, **how), strict=True):
            assert (mine is None) == (one is None)
            if one is not None:
                torch.testing.assert_close(mine[k], one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("how", [{}, {"mode": "finite_difference"}])
def test_a_loss_that_autograd_cannot_see_through_is_named(how):
    penalty = GradientPenalty(GRAPH, loss=torch.no_grad()(cross_entropy), **how)
    for call in (penalty, penalty.terms):
        with pytest.raises(ValueError, match="^loss must be differentiable in x, got outputs on"):
            call(small(), X, Y)


class Detached(Rough):
    def norm_sq(self, x, g):
        return super().norm_sq(x, g.detach())


def test_a_norm_that_autograd_cannot_see_through_is_refused():
    """Instead of training without a penalty; of a finite difference its direction counts."""
    with pytest.raises(ValueError, match="^norm_sq must be differentiable in g, got outputs on wh"):
        GradientPenalty(Detached())(small(), X, Y)
    how = {"mode": "finite_difference"}
    own, right = (
        grads(GradientPenalty(norm, **how)(model, X, Y).sum(), model)
        for norm, model in ((Detached(), small()), (Rough(), small()))
    )
    assert torch.equal(own, right)


def test_it_moves_with_the_module_that_holds_it():
    """To float64 and back; nothing is saved."""

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = small()
            self.penalty = GradientPenalty(PixelGraph(6, 6, 2, weight=kernel(2)))

    holder = Holder().float()
    expected = GradientPenalty(GRAPH)(small(), X, Y).detach()
    assert [name for name in holder.state_dict() if "penalty" in name] == []
    for dtype in (torch.float64, torch.float32):
        holder.to(dtype)
        value = holder.penalty(holder.model, X.to(dtype), Y).detach()
        assert value.dtype == dtype
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=0)


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("of", COLUMNS)
def test_values_by_brute_force(size, of):
    """In both modes the value is that of g itself; colour images, some black pixels."""
    graph, x, y = graph_of(*size), images(3, 2, *size[:2]), torch.tensor([4, 0, 2])
    model = network(channels=2)
    expected = {scale: brute_force(size, model, COLUMNS[of], x, y, scale) for scale in SCALES}
    for scale, mode in product(SCALES, MODES):
        penalty = GradientPenalty(graph, of=of, scale=scale, mode=mode)(model, x, y)
        assert penalty.shape == (3,) and penalty.dtype == torch.float64
        close(penalty.detach(), expected[scale])


@pytest.mark.parametrize("of", COLUMNS)
def test_euclidean_values_by_brute_force(of):
    """The scale of the trace is 1 there, and any real image goes."""
    model, x, y = network(channels=2), images(3, 2, 5, 4) - 0.5, torch.tensor([4, 0, 2])
    expected = brute_force((5, 4, "euclidean"), model, COLUMNS[of], x, y)
    for scale, mode in product(SCALES, MODES):
        penalty = GradientPenalty("euclidean", of=of, scale=scale, mode=mode)(model, x, y)
        close(penalty.detach(), expected)


@pytest.mark.parametrize("metric", ["l1", "linf"])
def test_values_of_other_norms(metric):
    """From the gradient of each column, one image at a time; of differences to the mean logit."""
    model, x, y = network(channels=2), images(3, 2, 5, 4) - 0.5, torch.tensor([4, 0, 2])

    def to_the_mean(outputs, y):
        return (2 / 5) ** 0.5 * (outputs - outputs.mean(1)[:, None])

    for of, columns in {**COLUMNS, "logit_differences": to_the_mean}.items():
        leaf = x.clone().requires_grad_()
        gradients = [
            torch.autograd.grad(column.sum(), leaf, retain_graph=True)[0]
            for column in columns(model(leaf), y).T
        ]
        expected = sum(norm_by_hand(metric, x, g) for g in gradients)
        for mode in MODES:
            value = GradientPenalty(metric, of=of, mode=mode)(model, x, y).detach()
            np.testing.assert_allclose(value, expected, rtol=1e-9)


class WithLogits(nn.Module):
    """A network whose output is an object, as in Hugging Face's library."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return SimpleNamespace(logits=self.model(x), loss=None)


@BOTH
@pytest.mark.parametrize("of", COLUMNS)
def test_outputs_with_logits(mode, of):
    """They stand for the logits, of which ``Terms`` has them."""
    model = small(norm=nn.BatchNorm2d(6))
    penalty = GradientPenalty(GRAPH, mode=mode, of=of)
    assert torch.equal(penalty(WithLogits(model), X, Y), penalty(model, X, Y))
    model.eval()
    found, expected = penalty.terms(WithLogits(model), X, Y), penalty.terms(model, X, Y)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(grads(found.penalty.sum(), model), grads(expected.penalty.sum(), model))


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_one_output(shape):
    """A discriminator: no labels, or a loss of its own."""
    size, x, y = (3, 4, 2, kernel(2)), images(3, 1, 3, 4), torch.tensor([1.0, 0.0, 1.0]).double()
    net = network(classes=1)

    def model(image):
        return net(image).view(len(image), *shape[1:])

    def square(outputs, y):
        return (outputs.view(-1) - y) ** 2

    for mode in MODES:
        penalty = GradientPenalty(graph_of(*size), of="logits", mode=mode)
        close(
            penalty(model, x).detach(), brute_force(size, model, COLUMNS["logits"], x, y, "trace")
        )
        own = GradientPenalty(graph_of(*size), loss=square, mode=mode, scale=None)
        close(
            own(model, x, y).detach(),
            brute_force(size, model, lambda o, y: square(o, y)[:, None], x, y),
        )


@METRICS
@BOTH
def test_values_under_batch_normalisation(metric, mode):
    """Images that share statistics: g is the derivative of the batch's sum; the others count."""
    model = network("resnet8")
    leaf = X.clone().requires_grad_()
    g = torch.autograd.grad(cross_entropy(model(leaf), Y).sum(), leaf)[0].flatten(2)
    matrix = matrices((6, 6, 2, kernel(2)) if metric is GRAPH else (6, 6, "euclidean"), X)
    expected = torch.einsum("bci,bcij,bcj->b", g, matrix, g)
    close(GradientPenalty(metric, scale=None, mode=mode)(model, X, Y).detach(), expected)
    with torch.no_grad():
        assert error(GradientPenalty(metric, scale=None)(model, X[:4], Y[:4]), expected[:4]) > 1e-3


@pytest.mark.parametrize("scale", [None, "trace"])
@BOTH
def test_differentiable_in_a_kernel(mode, scale):
    model, x, y = network(), images(3, 1, 3, 4), torch.tensor([4, 0, 2])

    def value(half):
        graph = PixelGraph(3, 4, 2, weight=half + half.flip(0, 1))
        return GradientPenalty(graph, mode=mode, scale=scale)(model, x, y)

    assert torch.autograd.gradcheck(value, (kernel(2) / 2).requires_grad_(), fast_mode=True)


def test_repr_names_the_choices():
    text = repr(GradientPenalty("euclidean", of="margin", mode="finite_difference", scale=None))
    choices = "of='margin', mode='finite_difference', scale=None, central=False, step=0.005"
    assert text == f"GradientPenalty('euclidean', {choices})"
    text = repr(GradientPenalty(Wasserstein(PixelGraph(3, 4, 1), scale=None), of="logits"))
    norm = "Wasserstein(PixelGraph(3, 4, 1, weight=1.0), scale=None)"
    assert text == f"GradientPenalty({norm}, of='logits', mode='double_backprop')"


# ---------------------------------------------------------------- gradients in the parameters


def difference(value, model, direction, h=1e-5):
    """The central difference of a number along a direction in the parameters."""
    moved, ends = copy.deepcopy(model), []
    with torch.no_grad():
        for size in (h, -2 * h):
            for p, v in zip(moved.parameters(), direction):
                p += size * v
            ends.append(float(value(moved)))
    return (ends[0] - ends[1]) / (2 * h)


@pytest.mark.parametrize("name", ["small_cnn", "resnet8"])
@pytest.mark.parametrize(
    ("metric", "of"),
    [*((GRAPH, of) for of in COLUMNS), ("euclidean", "loss")],
    ids=[*COLUMNS, "euclidean"],
)
def test_double_backprop_by_differences(metric, of, name):
    """Along a random direction of each parameter, in training mode."""
    model, penalty = network(name, width=2), GradientPenalty(metric, of=of)
    weights = torch.linspace(0.5, 2, 5).double()

    def value(model):
        return (weights * penalty(model, X, Y)).sum()

    exact = torch.autograd.grad(value(model), list(model.parameters()), materialize_grads=True)
    largest = max(float(g.norm()) for g in exact)
    rng = generator()
    for k, (p, g) in enumerate(zip(model.parameters(), exact)):
        v = torch.randn(p.shape, generator=rng, dtype=p.dtype)
        direction = [v if k == j else torch.zeros_like(q) for j, q in enumerate(model.parameters())]
        assert float((g * v).sum()) == pytest.approx(
            difference(value, model, direction), rel=1e-6, abs=1e-7 * largest
        )


@METRICS
@pytest.mark.parametrize("of", COLUMNS)
@pytest.mark.parametrize(("central", "order"), [(False, 1), (True, 2)])
def test_finite_differences_converge(metric, of, central, order):
    """In float64 the error falls as h, of the central difference as h^2, in training mode."""
    model = network("resnet8")
    exact = grads(GradientPenalty(metric, of=of)(model, X, Y).sum(), model)
    steps = [1e-2, 3e-4]
    errors = [
        error(
            grads(
                GradientPenalty(metric, of=of, mode="finite_difference", central=central, step=h)(
                    model, X, Y
                ).sum(),
                model,
            ),
            exact,
        )
        for h in steps
    ]
    slope = np.log(errors[0] / errors[1]) / np.log(steps[0] / steps[1])
    assert slope == pytest.approx(order, abs=0.1) and errors[-1] < 1e-2


def naive(metric, model, x, y, h=1e-2):
    """Each image's squared difference along its own normalised direction, all taken at once."""
    leaf = x.clone().requires_grad_()
    loss = cross_entropy(model(leaf), y)
    g = torch.autograd.grad(loss.sum(), leaf, retain_graph=True)[0]
    raised = (
        g if metric == "euclidean" else apply_laplacian(metric, x, g) / mean_diagonal(metric, x)
    )
    size = raised.flatten(1).norm(dim=1)
    ahead = cross_entropy(model(x + h * raised / size[:, None, None, None]), y)
    return ((ahead - loss) / h * size) ** 2 / (g * raised).sum((1, 2, 3))


@cache
def digits():
    """The first 320 of the shuffled training digits, as a data loader of batches of 32."""
    x, y = data.load("mnist5k").part("train")
    chosen = torch.randperm(len(x), generator=generator())[:320]
    pairs = torch.utils.data.TensorDataset(x[chosen, None] / 255, y[chosen])
    return torch.utils.data.DataLoader(pairs, batch_size=32)


@pytest.mark.parametrize(
    "metric", [PixelGraph(28, 28, 4), "euclidean"], ids=["wasserstein", "euclidean"]
)
def test_finite_differences_in_float32(metric):
    """1 % in the whole gradient of a resnet20 in training mode, to which squared differences of
    each image come nowhere near."""
    model = network("resnet20", torch.float32, width=16, classes=10, mean=0.1307, std=0.3081)
    x, y = (part[:16] for part in next(iter(digits())))
    exact = grads(GradientPenalty(metric)(model, x, y).mean(), model)
    for central, bound in ((False, 0.01), (True, 0.005)):
        penalty = GradientPenalty(metric, mode="finite_difference", central=central)
        assert error(grads(penalty(model, x, y).mean(), model), exact) <= bound
    assert error(grads(naive(metric, model, x, y).mean(), model), exact) > 0.1


@METRICS
@pytest.mark.parametrize("central", [False, True])
def test_passes_and_their_steps(metric, central):
    """One pass and one or two perturbed, whose longest step is `step`, in the direction L g; one
    alone without grad."""
    seen, net = [], small()

    def model(x):
        seen.append(x.detach())
        return net(x)

    GradientPenalty(metric)(model, X, Y)
    assert len(seen) == 1 and torch.equal(seen.pop(), X)
    penalty = GradientPenalty(metric, mode="finite_difference", central=central, step=0.03)
    with torch.no_grad():
        penalty(model, X, Y)
    assert len(seen) == 1 and torch.equal(seen.pop(), X)
    penalty(model, X, Y)
    steps = [x - X for x in seen]
    assert len(steps) == 2 + central and torch.equal(seen[0], X)
    leaf = X.clone().requires_grad_()
    (g,) = torch.autograd.grad(cross_entropy(net(leaf), Y).sum(), leaf)
    direction = g if metric == "euclidean" else apply_laplacian(metric, X, g)
    expected = 0.03 * direction / direction.flatten(1).norm(dim=1).max()
    close(steps[1], expected, atol=1e-12)
    close(steps[-1], -expected if central else expected, atol=1e-12)


@METRICS
@pytest.mark.parametrize("of", COLUMNS)
def test_each_image_has_its_gradient_where_nothing_is_coupled(metric, of):
    model = small()
    exact, close_to = (
        GradientPenalty(metric, of=of, **how)(model, X, Y)
        for how in ({}, {"mode": "finite_difference", "central": True, "step": 1e-4})
    )
    for a, b in zip(close_to, exact):
        assert error(*(grads(value, model) for value in (a, b))) < 1e-5 if b > 0 else not float(a)
    weights = torch.tensor([3.0, -1.0, 0.0, 0.5, 2.0]).double()
    assert error(*(grads((weights * value).sum(), model) for value in (close_to, exact))) < 1e-5


# ---------------------------------------------------------------- what a call leaves as it was


LAYERS = {
    "batch": lambda: nn.BatchNorm2d(6),
    "cumulative": lambda: nn.BatchNorm2d(6, momentum=None),
    "untracked": lambda: nn.BatchNorm2d(6, track_running_stats=False),
    "instance": lambda: nn.InstanceNorm2d(6, track_running_stats=True, affine=True),
    "group": lambda: nn.GroupNorm(2, 6),
}


def state_of(model):
    """A copy of parameters and buffers, and the settings of each layer."""
    settings = [
        (m.training, getattr(m, "momentum", None), getattr(m, "track_running_stats", None))
        for m in model.modules()
    ]
    return {name: value.clone() for name, value in model.state_dict().items()}, settings


def unchanged(model, before):
    state, settings = state_of(model)
    return settings == before[1] and all(
        torch.equal(value, before[0][name]) for name, value in state.items()
    )


@METRICS
@BOTH
@pytest.mark.parametrize("norm", LAYERS)
def test_terms_is_one_pass(metric, mode, norm):
    """The plain outputs and loss, the penalty of a call; statistics move as in one plain pass, in a
    call not at all."""
    model, plain = small(norm=LAYERS[norm]()), small(norm=LAYERS[norm]())
    penalty, before = (
        GradientPenalty(metric, mode=mode, central=mode == "finite_difference"),
        state_of(model),
    )
    alone = penalty(model, X, Y)
    gradient = grads(alone.sum(), model)
    assert unchanged(model, before)
    outputs = plain(X)
    if norm in ("batch", "cumulative", "instance"):
        assert not unchanged(plain, before)
    terms = penalty.terms(model, X, Y)
    assert unchanged(model, state_of(plain))
    assert isinstance(terms, Terms) and terms._fields == ("outputs", "loss", "penalty")
    (
        close(terms.outputs, outputs),
        close(terms.loss, cross_entropy(outputs, Y)),
        close(terms.penalty, alone),
    )
    close(grads(terms.penalty.sum(), model), gradient)
    close(grads(terms.loss.sum(), model), grads(cross_entropy(plain(X), Y).sum(), plain))


@BOTH
def test_terms_of_other_outputs_and_losses(mode):
    """The loss is the penalty's own, whatever is penalised."""
    model = small()
    for of in COLUMNS:
        terms = GradientPenalty(
            GRAPH, of=of, mode=mode, loss=lambda o, y: (o[:, 0] - y) ** 2
        ).terms(model, X, Y)
        close(terms.loss, (model(X)[:, 0] - Y) ** 2)
        close(terms.outputs, model(X))


@METRICS
@BOTH
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_evaluation_mode(metric, mode, norm):
    """By the running statistics, which rest; each image alone."""
    model = small(norm=LAYERS[norm]())
    for _ in range(3):
        model(X)
    model.eval()
    before, penalty = state_of(model), GradientPenalty(metric, mode=mode, scale=None)
    size = (6, 6, 2, kernel(2)) if metric is GRAPH else (6, 6, "euclidean")
    for value in (penalty(model, X, Y), penalty.terms(model, X, Y).penalty):
        assert unchanged(model, before)
        close(value.detach(), brute_force(size, model, COLUMNS["loss"], X, Y))


class OwnStatistics(nn.Module):
    """Normalises by torch's function, in place; counts by an assignment."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("var", torch.ones(6))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.count = self.count + 1
        return F.batch_norm(x, self.mean, self.var, training=self.training)


class Largest(nn.BatchNorm2d):
    """Keeps what torch's does not."""

    def __init__(self):
        super().__init__(6)
        self.register_buffer("largest", torch.zeros(6).double())

    def forward(self, x):
        self.largest.lerp_(x.detach().amax((0, 2, 3)), 0.1)
        return super().forward(x)


def observed():
    """Torch's own batch normalisation, with a buffer that a hook moves."""

    def count(layer, given, returned):
        layer.seen += len(returned)

    norm = nn.BatchNorm2d(6)
    norm.register_buffer("seen", torch.zeros(()))
    norm.register_forward_hook(count)
    return norm


SHELLS = {
    "subclass": lambda: small(norm=Largest()),
    "observed": lambda: small(norm=observed()),
    "own": lambda: small(norm=OwnStatistics()),
    "scripted": lambda: torch.jit.script(small(norm=nn.BatchNorm2d(6))),
    "traced": lambda: torch.jit.trace(small(norm=nn.BatchNorm2d(6)), X, check_trace=False),
    "exported": lambda: torch.export.export(small(norm=nn.BatchNorm2d(6)), (X,)).module(),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@BOTH
@pytest.mark.parametrize("shell", SHELLS)
def test_statistics_of_other_layers(shell, mode):
    """Whatever moves the buffers, a call leaves them, and `terms` moves them once."""
    model, plain = SHELLS[shell](), SHELLS[shell]()
    penalty = GradientPenalty(GRAPH, mode=mode, step=1e-4)
    before, tensors = state_of(model), dict(model.named_buffers())
    value = penalty(model, X, Y)
    assert unchanged(model, before)
    assert all(v is tensors[name] for name, v in model.named_buffers())
    with torch.no_grad():
        laplacian_penalty(GRAPH, model, X, Y, generator=generator())
    assert unchanged(model, before)
    plain(X)
    close(penalty.terms(model, X, Y).penalty, value)
    assert unchanged(model, state_of(plain)) and not unchanged(model, before)
    exact = GradientPenalty(GRAPH)(small(norm=nn.BatchNorm2d(6)), X, Y)
    close(value, exact)


class Counting(nn.Conv2d):
    """Multiplies by the number of passes, in training mode."""

    def __init__(self):
        super().__init__(6, 6, 1)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += self.training
        return super().forward(x) * self.passes.clone()


@pytest.mark.parametrize("mode", MODES)
def test_spectral_normalisation_by_hooks_of_a_layer_with_buffers(mode):
    """It stays in training mode, and its own buffer moves once."""

    def made():
        torch.manual_seed(0)
        model = small(norm=nn.utils.spectral_norm(Counting()))
        with torch.no_grad():
            for _ in range(500):  # until passes move its vectors no more
                model(X)
        model[1].passes.zero_()
        return model

    how = {} if mode == "double_backprop" else {"mode": mode, "central": True, "step": 1e-4}
    model, plain, penalty = made(), made(), GradientPenalty("euclidean", **how)
    exact = GradientPenalty("euclidean").terms(plain, X, Y).penalty
    expected, before = grads(exact.sum(), plain), state_of(model)
    alone = penalty(model, X, Y)
    close(alone, exact, rtol=1e-6)
    assert error(grads(alone.sum(), model), expected) < 1e-5 and unchanged(model, before)
    together = penalty.terms(model, X, Y).penalty
    close(together, exact, rtol=1e-6)
    assert error(grads(together.sum(), model), expected) < 1e-5
    assert unchanged(model, state_of(plain))


class Running(nn.Module):
    """Takes off a mean that moves with every pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        self.mean.mul_(0.5).add_(x.detach().mean(), alpha=0.5)
        return x * (1 + self.mean)


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("call", [GradientPenalty.__call__, GradientPenalty.terms])
def test_passes_that_repeat_the_first_see_its_buffers(call, central, recwarn):
    def slopes(penalty):
        model = small(norm=Running())
        found = call(penalty, model, X, Y)
        return grads(getattr(found, "penalty", found).sum(), model)

    finite = GradientPenalty(GRAPH, mode="finite_difference", central=central, step=1e-4)
    assert error(slopes(finite), slopes(GradientPenalty(GRAPH))) < 1e-3 and not recwarn


class Replaced(Running):
    """The same, as another tensor."""

    def forward(self, x):
        self.mean = self.mean / 2 + x.detach().mean() / 2
        return x * (1 + self.mean)


@pytest.mark.parametrize("layer", [Running, Replaced])
@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("call", [GradientPenalty.__call__, GradientPenalty.terms])
def test_buffers_that_move_in_evaluation_mode(call, central, layer, recwarn):
    """They move as in one pass, and all passes see those of the first."""

    def result(**how):
        model = small(norm=layer()).eval()
        buffer = model[1].mean
        found = call(GradientPenalty(GRAPH, **how), model, X, Y)
        found = grads(getattr(found, "penalty", found).sum(), model)
        assert (model[1].mean is buffer) == (layer is Running)
        return found, model[1].mean

    found, mean = result(mode="finite_difference", central=central, step=1e-4)
    expected, once = result()
    assert error(found, expected) < 1e-3 and torch.equal(mean, once) and not recwarn


class Counts(nn.Module):
    """The number of passes, times the squares of the pixels."""

    def __init__(self):
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        return self.passes * (x**2).sum((1, 2, 3))


def test_the_passes_of_the_laplacian_see_the_same_buffers():
    itself = lambda outputs, y: outputs  # noqa: E731
    for model in (Counts(), Counts().eval()):
        how = {"generator": generator(), "loss": itself}
        value = laplacian_penalty("euclidean", model, torch.ones(1, 1, 4, 8), None, **how)
        assert value.item() == 64


def test_instance_normalisation_keeps_its_statistics_to_the_last_bit():
    model = small(norm=nn.InstanceNorm2d(6, track_running_stats=True)).float()
    for x in (torch.rand(7, 1, 6, 6), torch.full((7, 1, 6, 6), 1e30)):
        model(torch.rand(7, 1, 6, 6))
        before = state_of(model)
        GradientPenalty("euclidean")(model, x, torch.arange(7) % 4)
        assert unchanged(model, before)


def test_a_lazy_layer_without_images_is_refused_and_stays_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(4))
    for call in (
        lambda: GradientPenalty("euclidean")(model, X.float(), Y),
        lambda: laplacian_penalty("euclidean", model, X.float(), Y, generator=generator()),
    ):
        with pytest.raises(ValueError, match="^model must have seen images, .* LazyBatchNorm2d"):
            call()
    value = GradientPenalty("euclidean").terms(model, X.float(), Y).penalty
    close(GradientPenalty("euclidean")(model, X.float(), Y), value)


class Refuses(nn.BatchNorm2d):
    """Raises on the pass of the given number."""

    def __init__(self, passes):
        super().__init__(6)
        self.passes = passes

    def forward(self, x):
        if not self.passes:
            raise ArithmeticError("enough")
        self.passes -= 1
        return super().forward(x)


def test_settings_return_after_an_error():
    for passes, call in (
        (0, GradientPenalty.__call__),
        (1, GradientPenalty.__call__),
        (1, GradientPenalty.terms),
    ):
        model = small(norm=Refuses(passes))
        before, rng = state_of(model), torch.get_rng_state()
        with pytest.raises(ArithmeticError, match="enough"):
            call(GradientPenalty(GRAPH, mode="finite_difference"), model, X, Y)
        assert state_of(model)[1] == before[1] and torch.equal(torch.get_rng_state(), rng)
        if call is GradientPenalty.__call__:
            assert unchanged(model, before)
    model = small(norm=Refuses(1))
    before = state_of(model)
    with pytest.raises(ArithmeticError, match="enough"):
        laplacian_penalty(GRAPH, model, X, Y, generator=generator())
    assert unchanged(model, before)


@METRICS
@BOTH
def test_nothing_else_changes(metric, mode):
    """No .grad, no requires_grad, no image, no mode, no hook."""
    model, x = small(), X.clone()
    old = x.clone()
    GradientPenalty(metric, mode=mode)(model, x, Y)
    assert not x.requires_grad and x.grad is None and x.is_leaf and torch.equal(x, old)
    assert all(p.grad is None and p.requires_grad for p in model.parameters()) and model.training


@METRICS
@BOTH
def test_nothing_flows_back_to_the_images(metric, mode):
    """Not where x requires grad either, nor to what x was made from."""
    model, x = small(), X.clone().requires_grad_()
    for value in (
        GradientPenalty(metric, mode=mode)(model, x, Y),
        GradientPenalty(metric, mode=mode)(model, x * 1, Y),
        GradientPenalty(metric, mode=mode).terms(model, x, Y).penalty,
    ):
        value.sum().backward()
        assert x.grad is None and x.requires_grad
    assert all(p.grad is not None for p in model.parameters())


@METRICS
@BOTH
def test_without_grad_there_is_no_graph(metric, mode):
    model, penalty = small(), GradientPenalty(metric, mode=mode)
    expected = penalty(model, X, Y).detach()
    with torch.no_grad():
        value, terms = penalty(model, X, Y), penalty.terms(model, X, Y)
    assert torch.equal(value, expected) and torch.equal(terms.penalty, expected)
    assert not any(part.requires_grad for part in (value, *terms))
    close(terms.outputs, model(X).detach()), close(terms.loss, cross_entropy(model(X), Y).detach())


@METRICS
def test_inference_mode_is_refused(metric):
    """And tensors made in it: never zeros."""
    with torch.inference_mode():
        made_there = X.clone()
    calls = [
        lambda x: GradientPenalty(metric)(small(), x, Y),
        lambda x: GradientPenalty(metric, mode="finite_difference")(small(), x, Y),
        lambda x: laplacian_penalty(metric, small(), x, Y, generator=generator()),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="^x must be made outside of inference mode"):
            call(made_there)
        with torch.inference_mode(), pytest.raises(RuntimeError, match="inference mode"):
            call(X)


# ---------------------------------------------------------------- layers


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class OfPixels(nn.Module):
    """A layer of sequences, of the pixels as vectors of channels."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        tokens = x.flatten(2).mT
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return self.layer(tokens).mT.unflatten(2, x.shape[2:])


class Attention(nn.MultiheadAttention):
    def forward(self, tokens):
        return super().forward(tokens, tokens, tokens, need_weights=False)[0]


class Recurrent(nn.GRU):
    def forward(self, tokens):
        return super().forward(tokens)[0]


SMOOTH = ["Softplus", "GELU", "SiLU", "Mish", "ELU", "Sigmoid", "Tanh", "LogSigmoid"]
KINKED = {
    "ReLU": nn.ReLU,
    "LeakyReLU": nn.LeakyReLU,
    "PReLU": nn.PReLU,
    "ReLU6": nn.ReLU6,
    "Hardtanh": nn.Hardtanh,
    "Hardswish": nn.Hardswish,
    "MaxPool": lambda: nn.MaxPool2d(2),
    "AdaptiveMaxPool": lambda: nn.AdaptiveMaxPool2d(2),
    "maximum": lambda: Function(lambda x: torch.maximum(x, 0 * x)),
    "amax": lambda: Function(lambda x: x.amax((2, 3), keepdim=True)),
    "SELU": nn.SELU,
    "ELU of slope 2": lambda: nn.ELU(2.0),
    "clamp": lambda: Function(lambda x: x.clamp(min=0)),
    "abs": lambda: Function(torch.abs),
}
EACH_LAYER = {
    **{name: getattr(nn, name) for name in SMOOTH},
    **KINKED,
    "BatchNorm": lambda: nn.BatchNorm2d(4),
    "BatchNorm, evaluation": lambda: nn.BatchNorm2d(4).eval(),
    "LayerNorm": lambda: nn.LayerNorm([4, 4, 4]),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "InstanceNorm": lambda: nn.InstanceNorm2d(4, affine=True),
    "InstanceNorm, evaluation": lambda: nn.InstanceNorm2d(4, track_running_stats=True).eval(),
    "RMSNorm": lambda: nn.RMSNorm([4, 4, 4]),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(2),
    "Softmax": lambda: nn.Softmax(1),
    "GLU": lambda: nn.Sequential(nn.Conv2d(4, 8, 1), nn.GLU(1)),
    "AvgPool": lambda: nn.AvgPool2d(2),
    "AdaptiveAvgPool": lambda: nn.AdaptiveAvgPool2d(3),
    "Upsample": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "ConvTranspose": lambda: nn.ConvTranspose2d(4, 4, 3),
    "Conv, groups": lambda: nn.Conv2d(4, 4, 3, groups=4),
    "spectral_norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)),
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)),
    "Attention": lambda: OfPixels(Attention(4, 2, batch_first=True)),
    "GRU": lambda: OfPixels(Recurrent(4, 4, batch_first=True)),
    "normalize": lambda: Function(lambda x: F.normalize(x, dim=1)),
    "std": lambda: Function(lambda x: x / x.std((2, 3), keepdim=True)),
}


def around(layer):
    """A smooth network with the layer in between, float64."""
    torch.manual_seed(1)
    first = nn.Conv2d(1, 4, 3), nn.Tanh(), EACH_LAYER[layer](), nn.Tanh(), nn.Flatten()
    model = nn.Sequential(*first, nn.LazyLinear(4)).double()
    model(X)
    return model


def along_the_parameters(value, model):
    """The derivative of a number in one random direction: by autograd, and by differences."""
    parameters = list(model.parameters())
    direction = [
        torch.randn(p.shape, generator=generator(k), dtype=p.dtype)
        for k, p in enumerate(parameters)
    ]
    slopes = torch.autograd.grad(value(model), parameters, materialize_grads=True)
    exact = sum(float((g * v).sum()) for g, v in zip(slopes, direction))
    return exact, difference(value, model, direction, h=1e-6)


@pytest.mark.parametrize("layer", EACH_LAYER)
@pytest.mark.parametrize("metric", EVERY.values(), ids=EVERY)
def test_the_penalty_through_each_layer(metric, layer):
    exact, numeric = along_the_parameters(
        lambda model: GradientPenalty(metric)(model, X, Y).sum(), around(layer)
    )
    assert exact == pytest.approx(numeric, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("layer", EACH_LAYER)
def test_the_laplacian_through_each_layer(layer):
    def value(model):
        return laplacian_penalty(GRAPH, model, X, Y, generator=generator(), samples=2).sum()

    exact, numeric = along_the_parameters(value, around(layer))
    assert exact == pytest.approx(numeric, rel=1e-4, abs=1e-7)


class Checkpointed(nn.Sequential):
    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=False)


@pytest.mark.skipif(torch.__version__ < "2.8", reason="torch does not say what is checkpointed")
@BOTH
@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm([6, 4, 4]), nn.GroupNorm(2, 6), nn.InstanceNorm2d(6), nn.BatchNorm2d(6)],
    ids=str,
)
def test_normalisation_within_activation_checkpointing(norm, mode):
    """As without; third derivatives are torch's there, and refused where they are wrong."""
    plain = small(norm=norm)
    model = nn.Sequential(plain[0], Checkpointed(*plain[1:3]), *plain[3:])
    for call in (GradientPenalty.__call__, GradientPenalty.terms):
        value, expected = (call(GradientPenalty(GRAPH, mode=mode), m, X, Y) for m in (model, plain))
        value, expected = (getattr(v, "penalty", v) for v in (value, expected))
        close(value, expected)
        assert error(grads(value.sum(), model), grads(expected.sum(), plain)) < 1e-9
    margin = GradientPenalty(GRAPH, of="margin")
    value, expected = (grads(margin(m, X, Y).sum(), m) for m in (model, plain))
    assert error(value, expected) < 1e-9
    with torch.no_grad():
        laplacian = [
            laplacian_penalty(GRAPH, m, X, Y, generator=generator()) for m in (model, plain)
        ]
    close(*laplacian)
    if not isinstance(norm, nn.GroupNorm):
        with pytest.raises(ValueError, match="outside of autocast and activation checkpointing"):
            laplacian_penalty(GRAPH, model, X, Y, generator=generator())


@pytest.mark.parametrize("where", ["autocast", "torch.batch_norm"])
def test_third_derivatives_that_are_still_torchs_are_refused(where):
    """It takes mean and variance for constants there."""
    norm = nn.LayerNorm(4).double() if where == "autocast" else None

    def model(x):
        x = x.flatten(1)[:, :4] ** 2
        return norm(x) if norm else torch.batch_norm(x, *[None] * 4, True, 0.1, 1e-5, True)

    with (
        torch.autocast("cpu", torch.bfloat16, enabled=where == "autocast"),
        pytest.raises(ValueError, match="^model has third derivatives that torch gets wrong"),
    ):
        laplacian_penalty(GRAPH, model, X, Y, generator=generator())
    with torch.no_grad():
        assert laplacian_penalty(GRAPH, model, X, Y, generator=generator()).isfinite().all()


class Rectified(torch.autograd.Function):
    """Of no name that tells."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] > 0)


class Relu(torch.autograd.Function):
    """A smooth function of the name of one with kinks."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.sigmoid())
        return F.softplus(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0]


def close_by(x):
    """Copies of which some pass 0 wherever x moves by a hundredth."""
    return x[..., None] - torch.linspace(-1, 1, 200).double()


def in_pairs(x, reduce):
    """The largest, least or sum of each two pixels, by scattering."""
    flat = x.flatten(1)
    index = (torch.arange(flat.shape[1]) // 2).expand_as(flat)
    return flat.new_zeros(len(x), flat.shape[1] // 2).scatter_reduce(1, index, flat, reduce)


def sampled(x, mode):
    """A picture looked at where the layer before says, of both corners' pixels."""
    picture = torch.linspace(-1, 1, 64).sin().double().view(1, 1, 8, 8).expand(len(x), -1, -1, -1)
    grid = x[:, :2].movedim(1, 3)
    return F.grid_sample(picture, grid, mode=mode, align_corners=False, padding_mode="border")


OTHER_KINKS = {
    "a function of one's own": lambda: Function(lambda x: Rectified.apply(close_by(x)).mean(-1)),
    "where": lambda: Function(lambda x: torch.where(close_by(x) > 0, close_by(x), 0).mean(-1)),
    "scatter_reduce": lambda: Function(lambda x: in_pairs(x, "amax")),
    "segment_reduce": lambda: Function(
        lambda x: torch.segment_reduce(
            x.flatten(1), "max", lengths=torch.full((len(x), 32), 2), axis=1
        )
    ),
    "grid_sample": lambda: Function(lambda x: sampled(10 * x, "bilinear")),
    "sign": lambda: Function(lambda x: x * x.sign()),
    "remainder": lambda: Function(lambda x: x % 0.1),
    "Hardsigmoid": nn.Hardsigmoid,
    "topk": lambda: Function(lambda x: x.flatten(1).topk(5).values),
    "kthvalue": lambda: Function(lambda x: x.kthvalue(2, 3).values),
    "mode": lambda: Function(lambda x: x.mode(3).values),
    "nanmedian": lambda: Function(lambda x: x.nanmedian(3).values),
    "fmin": lambda: Function(lambda x: torch.fmin(x, -x)),
    "aminmax": lambda: Function(lambda x: torch.aminmax(x, dim=3).max),
    "copysign": lambda: Function(lambda x: x.copysign(x.flip(1))),
    "renorm": lambda: Function(lambda x: x.renorm(2, 0, 0.1)),
    "FractionalMaxPool": lambda: nn.FractionalMaxPool2d(2, output_size=2),
    "clamp by a tensor": lambda: Function(lambda x: x.clamp(min=torch.zeros(4).double())),
    "norm 1": lambda: Function(lambda x: torch.linalg.vector_norm(x, 1, 1)),
    "norm inf": lambda: Function(lambda x: x.norm(float("inf"), 1)),
    "normalize inf": lambda: Function(lambda x: F.normalize(x, p=float("inf"))),
    "cdist": lambda: Function(lambda x: torch.cdist(x, x.flip(1), p=1)),
    "pairwise_distance": lambda: Function(lambda x: F.pairwise_distance(x, x.flip(1), p=1)),
}
OTHER_SMOOTH = {
    "a function of one's own, smooth": lambda: Function(Relu.apply),
    "where, smooth": lambda: Function(lambda x: torch.where(x > 1, x.exp(), x.exp())),
    "scatter_reduce, sums": lambda: Function(lambda x: in_pairs(x, "sum")),
    "grid_sample, cubic": lambda: Function(lambda x: sampled(x, "bicubic")),
    "norm 3": lambda: Function(lambda x: torch.linalg.vector_norm(x, 3, 1)),
    "pairwise_distance of order 2": lambda: Function(lambda x: F.pairwise_distance(x, x.flip(3))),
    "guard": lambda: Function(lambda x: x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)),
    "guard by a tensor": lambda: Function(
        lambda x: x / x.norm(dim=1, keepdim=True).clamp(min=torch.tensor(1e-12).double())
    ),
}


@pytest.mark.parametrize("layer", [*EACH_LAYER, *OTHER_KINKS, *OTHER_SMOOTH])
def test_finite_differences_warn_of_kinks(layer, recwarn):
    made = {**EACH_LAYER, **OTHER_KINKS, **OTHER_SMOOTH}[layer]()
    model = nn.Sequential(nn.Conv2d(1, 4, 3), made, nn.Flatten(), nn.LazyLinear(4))
    model = model.double()
    model(X)
    penalty = GradientPenalty(GRAPH, mode="finite_difference")
    for _ in range(4):
        penalty(model, X, Y)
    kinked = layer in KINKED or layer in OTHER_KINKS
    assert len(recwarn) == kinked
    assert all("model is not smooth" in str(each.message) for each in recwarn)


@pytest.mark.parametrize("at", [1 + 1e-3, 1 - 1e-3])
@pytest.mark.parametrize("central", [True, False])
def test_finite_differences_warn_of_a_kink_behind(at, central, recwarn):
    """Which a central difference meets, and another does not."""
    theta, x = torch.ones((), dtype=torch.float64, requires_grad=True), 0 * X[:1, :, :1, :2] + 0.5

    def bent(image):
        z = theta * image.sum((1, 2, 3))
        beyond = z - at if at > 1 else at - z
        return z + torch.where(beyond > 0, 0.02 * beyond, 0.0)

    how = {"of": "logits", "mode": "finite_difference", "central": central}
    penalty = GradientPenalty("euclidean", **how)
    (found,) = torch.autograd.grad(penalty(bent, x).sum(), theta)
    met = central or at > 1
    assert len(recwarn) == met and (abs(float(found) - 4) > 1) == met
    assert all("model is not smooth" in str(each.message) for each in recwarn)


@pytest.mark.parametrize("factor", [2.0, 1.0, 0.0, -2.0, 200.0])
def test_finite_differences_warn_of_a_wrong_direction(factor, recwarn):
    class Own(InputNorm):
        def norm_sq(self, x, g):
            return (g**2).sum((1, 2, 3))

        def direction(self, x, g):
            return factor * g

    penalty = GradientPenalty(Own(), mode="finite_difference")
    for _ in range(3):
        penalty(small(), X, Y)
    said = [str(each.message) for each in recwarn]
    assert len(said) == (factor != 2)
    assert all("where the derivative of norm_sq is twice the square" in each for each in said)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Softplus, nn.ELU])
def test_finite_differences_warn_of_kinks_in_a_compiled_model(activation, recwarn):
    torch.manual_seed(0)
    inner = nn.Conv2d(1, 32, 3), activation(), nn.Conv2d(32, 32, 3), activation()
    model = nn.Sequential(*inner, nn.Flatten(), nn.Linear(128, 4))
    with compiled(model) as fast:
        GradientPenalty("euclidean", mode="finite_difference")(fast, X.float(), Y)
    said = [str(each.message) for each in recwarn]
    kinked = activation is nn.ReLU
    assert len(said) == kinked
    assert all("kinks, or arithmetic below float32, within CompiledFunction:" in s for s in said)


# ---------------------------------------------------------------- where a difference cannot work


class OtherDropout(nn.Module):
    """Draws from NumPy, which knows nothing of torch's seeds."""

    def forward(self, x):
        return x * torch.from_numpy(np.random.default_rng().random(x.shape) < 0.5)


def step_warnings(model, x, **how):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        penalty = GradientPenalty("euclidean", mode="finite_difference", **how)
        for _ in range(3):
            penalty(model, x, Y).sum().backward()
    return [str(each.message) for each in found]


def test_steps_that_fit_say_nothing():
    x = X.float()
    for model in (small(), small(norm=nn.BatchNorm2d(6)), small(dropout=0.5)):
        assert step_warnings(model.float(), x) == []


def test_a_step_that_is_too_long():
    """Through a function that bends within it."""
    model = nn.Sequential(small(), Function(lambda z: torch.sin(10 * z)))
    (said,) = step_warnings(model, X, step=1.0)
    assert re.match(r"step=1 misses .* % of the slope.*; step=0.1 misses \d\.\d+ %$", said)


def test_intensities_of_255():
    """Steps are lost in rounding; a longer one is right."""
    model, x = nn.Sequential(Function(lambda x: x / 255), small().float()), 255 * X.float()
    (said,) = step_warnings(model, x)
    assert re.match(r"step=0.005 is near the rounding of x, which reaches 2\d\d", said)
    assert step_warnings(model, x, step=0.5) == []
    assert step_warnings(model.double(), x.double()) == []


def test_dropout_of_other_generators():
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Softplus(), OtherDropout(), nn.Flatten())
    (said,) = step_warnings(nn.Sequential(model, nn.Linear(96, 4)), X.float())
    assert "dropout that draws from other generators" in said


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_differences_want_single_precision(dtype):
    penalty = GradientPenalty("euclidean", mode="finite_difference")
    with pytest.raises(TypeError, match=f"^x must be float32 or float64 for .*, got {dtype}"):
        penalty(small().to(dtype), X.to(dtype), Y)
    assert GradientPenalty("euclidean")(small().to(dtype), X.to(dtype), Y).dtype == dtype


@METRICS
def test_backward_inside_autocast_is_refused(metric):
    model, x = small().float(), X.float()
    metric = converted(metric, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value = GradientPenalty(metric, mode="finite_difference")(model, x, Y).sum()
        with pytest.raises(RuntimeError, match="leave autocast before backward"):
            value.backward()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Hardsigmoid(),
        OfPixels(Attention(4, 2, batch_first=True)),
        Function(lambda x: torch.cdist(x.flatten(2), torch.eye(16))),
    ],
    ids=["hard", "fused", "distances"],
)
def test_a_model_without_second_derivatives(layer, monkeypatch):
    """The backward pass says what to do, each time."""
    monkeypatch.setattr(torch.nn.attention, "sdpa_kernel", lambda backend: nullcontext())
    model = nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.Flatten(), nn.Linear(64, 4))
    penalty = GradientPenalty("euclidean")
    for _ in range(3):
        value = penalty(model, X.float(), Y).sum()
        with pytest.raises(RuntimeError, match="no second derivative.*mode='finite_difference'"):
            value.backward()
    with pytest.raises(RuntimeError, match="^model has .* no second derivative.*another function"):
        laplacian_penalty("euclidean", model, X.float(), Y, generator=generator())


# ---------------------------------------------------------------- dropout


@METRICS
def test_dropout_repeats_its_mask(metric, monkeypatch):
    """In the perturbed passes; with other masks the difference would be far off."""
    model = small(dropout=0.5)

    def gradient(**how):
        torch.manual_seed(1)
        return grads(GradientPenalty(metric, **how)(model, X, Y).sum(), model)

    exact = gradient()
    for central, bound in ((False, 1e-3), (True, 1e-6)):
        how = {"mode": "finite_difference", "central": central, "step": 1e-4}
        assert error(gradient(**how), exact) < bound
    other_masks = lambda *given: lambda: torch.random.fork_rng(enabled=False)  # noqa: E731
    monkeypatch.setattr("wdtr_lite.regularizer.penalties.replay", other_masks)
    with pytest.warns(UserWarning, match="step=0.0001 misses .*dropout that draws from other"):
        assert error(gradient(**how), exact) > 1


def test_the_passes_of_the_laplacian_share_a_mask():
    """Of d z^2, d 0 or 2 with equal odds, and the square for loss: 2 (d z^2) (2 d) of mean 8."""
    drawn = nn.Sequential(nn.Flatten(0), Function(torch.square), nn.Dropout(0.5))
    square = lambda outputs, y: outputs**2  # noqa: E731
    x, how = torch.ones(1000, 1, 1, 1), {"generator": generator(), "loss": square}
    assert set(laplacian_penalty("euclidean", drawn, x, None, **how).tolist()) == {0, 16}


@pytest.mark.parametrize(
    "how",
    [{}, {"mode": "finite_difference"}, {"mode": "finite_difference", "central": True}],
    ids=str,
)
def test_the_global_generator_moves_as_in_one_pass(how):
    model = small(dropout=0.5)
    torch.manual_seed(1)
    outputs = model(X)
    after = torch.get_rng_state()
    for call in (GradientPenalty.__call__, GradientPenalty.terms):
        torch.manual_seed(1)
        result = call(GradientPenalty(GRAPH, **how), model, X, Y)
        assert torch.equal(torch.get_rng_state(), after)
    close(result.outputs, outputs)


class Meanwhile(nn.Module):
    """Another thread draws in the given passes."""

    def __init__(self, *passes):
        super().__init__()
        self.passes, self.count = passes, 0

    def forward(self, x):
        if self.count in self.passes:
            thread = threading.Thread(target=torch.rand, args=(1,))
            thread.start()
            thread.join()
        self.count += 1
        return x


@pytest.mark.parametrize("passes", [(0,), (1,)])
def test_draws_of_another_thread_are_refused(passes):
    """They would mix the masks, for gradients a thousand times too long."""
    model = small(dropout=0.5)
    before = state_of(model)
    for call in (
        lambda mixed: GradientPenalty(GRAPH, mode="finite_difference")(mixed, X, Y),
        lambda mixed: laplacian_penalty(GRAPH, mixed, X, Y, generator=generator()),
    ):
        with pytest.raises(RuntimeError, match="another thread draws .*mode='double_backprop'"):
            call(nn.Sequential(Meanwhile(*passes), model))
        assert unchanged(model, before)


@pytest.mark.parametrize("passes", [(0,), (1,)])
def test_draws_of_another_thread_beside_a_model_that_does_not_draw(passes):
    model = small()
    for each in (nn.Sequential(Meanwhile(*passes), model), model):
        value = GradientPenalty(GRAPH, mode="finite_difference", step=1e-4)(each, X, Y)
        found = grads(value.sum(), model)
        assert error(found, grads(GradientPenalty(GRAPH)(model, X, Y).sum(), model)) < 1e-3


def test_finite_differences_of_threads_take_turns():
    """Of different models: their masks are torch's global generator's."""
    order = []

    def noted(x):
        order.append(threading.get_ident())
        time.sleep(0.005)
        return x

    models = [nn.Sequential(Function(noted), small(dropout=0.5)) for _ in range(2)]

    def run(model):
        for _ in range(5):
            GradientPenalty(GRAPH, mode="finite_difference", step=1e-4).terms(model, X, Y)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, models))
    assert len(set(order)) == 2 and order[::2] == order[1::2]


@METRICS
@BOTH
def test_spectral_normalisation(metric, mode):
    """A power iteration on every pass in training: none in a call, and the perturbed pass has the
    same weight."""
    model = small()
    model[0], model[-1] = (
        nn.utils.parametrizations.spectral_norm(layer) for layer in (model[0], model[-1])
    )
    resting = copy.deepcopy(model).eval()
    before, exact = state_of(model), grads(GradientPenalty(metric)(resting, X, Y).sum(), resting)
    penalty = GradientPenalty(
        metric, mode=mode, **({"step": 1e-4} if mode == "finite_difference" else {})
    )
    gradient = grads(penalty(model, X, Y).sum(), model)
    assert unchanged(model, before)
    assert error(gradient, exact) < 1e-3


# ---------------------------------------------------------------- frozen parameters, zeros


@METRICS
@BOTH
def test_frozen_parameters(metric, mode):
    """The value is the same; of some frozen, the others' gradients; of all, no error."""
    model, penalty = small(), GradientPenalty(metric, mode=mode)
    expected = penalty(model, X, Y)
    full = torch.autograd.grad(expected.sum(), list(model.parameters()), materialize_grads=True)
    model[0].requires_grad_(False)
    value = penalty(model, X, Y)
    close(value, expected)
    value.sum().backward()
    for p, g in zip(model.parameters(), full):
        if p.requires_grad:
            close(p.grad, g)
        else:
            assert p.grad is None
    model.requires_grad_(False).zero_grad(set_to_none=True)
    value = penalty(model, X, Y)
    close(value.detach(), expected.detach())
    if value.requires_grad:
        value.sum().backward()
    assert all(p.grad is None for p in model.parameters())


def finite_step(penalty, model, x, y):
    """All gradients of a step that has the penalty are finite; its value."""
    terms = penalty.terms(model, x, y)
    gradient = grads((terms.loss + terms.penalty).sum(), model)
    assert gradient.isfinite().all()
    return terms.penalty.detach(), gradient


class Blind(nn.Module):
    """The outputs do not depend on the images, the parameters do."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.ones(4, dtype=torch.float64))

    def forward(self, x):
        return self.bias.expand(len(x), 4)


class Detaching(nn.Sequential):
    def forward(self, x):
        return super().forward(x.detach())


class Untracked(nn.Sequential):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


BLIND = {
    "parameters": Blind,
    "constant": lambda: lambda x: x.new_ones(len(x), 4),
    "detach": lambda: Detaching(small()),
    "no_grad": lambda: Untracked(small()),
    "argmax": lambda: lambda x: F.one_hot(small()(x).argmax(1), 4).double(),
    "numpy": lambda: lambda x: torch.from_numpy(x.detach().flatten(1).numpy()[:, :4]),
}


@METRICS
@BOTH
@pytest.mark.parametrize("of", COLUMNS)
@pytest.mark.parametrize("model", BLIND)
def test_a_model_without_a_gradient_in_x(metric, mode, of, model):
    """Would have penalty zero, and not be trained against anything."""
    penalty = GradientPenalty(metric, of=of, mode=mode)
    with pytest.raises(ValueError, match="^model must be differentiable in x, got outputs on"):
        penalty(BLIND[model](), X, Y)


@METRICS
@pytest.mark.parametrize("model", BLIND)
def test_a_model_without_a_laplacian(metric, model):
    with pytest.raises(ValueError, match="^model must be differentiable in x, got outputs on"):
        laplacian_penalty(metric, BLIND[model](), X, Y, generator=generator())


@METRICS
@BOTH
def test_an_output_that_does_not_depend_on_x(metric, mode):
    """Among others that do, has gradient zero."""
    model = lambda x: torch.stack([x.sum((1, 2, 3)), 0 * Y.double()], 1)  # noqa: E731
    both = GradientPenalty(metric, of="logits", mode=mode)(model, X)
    one = GradientPenalty(metric, of="logits", mode=mode)(lambda x: model(x)[:, :1], X)
    assert torch.equal(both.detach(), one.detach())


@METRICS
@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_gradients_and_black_images(metric, mode, dtype):
    """Zero, not NaN: of a linear layer of weight 0, and of images without mass."""
    model, metric = small().to(dtype), converted(metric, dtype=dtype)
    penalty, x = GradientPenalty(metric, mode=mode), X.to(dtype)
    value, gradient = finite_step(penalty, model, torch.zeros_like(x), Y)
    if metric != "euclidean":
        assert torch.equal(value, torch.zeros_like(value))
        plain = grads(cross_entropy(model(torch.zeros_like(x)), Y).sum(), model)
        torch.testing.assert_close(gradient, plain)
    one = torch.cat([torch.zeros_like(x[:1]), x[1:]])
    assert (finite_step(penalty, model, one, Y)[0][0] == 0) == (metric != "euclidean")
    with torch.no_grad():
        model[-1].weight.zero_()
    value, _ = finite_step(penalty, model, x, Y)
    assert torch.equal(value, torch.zeros_like(value))


@METRICS
@BOTH
@pytest.mark.parametrize("of", ["loss", "logits", "margin"])
def test_no_images(metric, mode, of):
    """As plain training has them: a penalty of no numbers."""
    value = GradientPenalty(metric, mode=mode, of=of)(small(), X[:0], Y[:0])
    assert value.shape == (0,)
    assert value.sum().detach() == 0
    value.sum().backward()
    assert laplacian_penalty(metric, small(), X[:0], Y[:0], generator=generator()).shape == (0,)


@METRICS
def test_margin_wants_classes(metric):
    model = small()
    k = model(X).shape[1]
    for wrong, kind, says in (
        (F.one_hot(Y, k), ValueError, "have one label for each image"),
        (Y.double(), TypeError, "be an int64 tensor, got torch.float64"),
        (Y + k, ValueError, f"be from 0 to {k - 1}, got {k} to"),
    ):
        with pytest.raises(kind, match=f"^y must {says}"):
            GradientPenalty(metric, of="margin")(model, X, wrong)


@METRICS
def test_margin_of_very_negative_logits(metric):
    model = small()
    with torch.no_grad():
        expected = GradientPenalty(metric, of="margin")(model, X, Y)
        close(
            GradientPenalty(metric, of="margin")(lambda image: model(image) - 1e4, X, Y),
            expected,
            rtol=1e-6,
        )


@METRICS
def test_finite_differences_of_masked_logits(metric, recwarn):
    """Minus infinity on purpose, by addition too, through which there is a gradient."""
    mask = torch.tensor([0, 0, -torch.inf, 0]).double()
    for masked in (lambda z: z + mask, lambda z: z.masked_fill(mask < 0, -torch.inf)):

        def found(mode, masked=masked, **how):
            model = nn.Sequential(small(), Function(masked))
            value = GradientPenalty(metric, of="logits", mode=mode, **how)(model, X)
            return value.detach(), grads(value.sum(), model)

        exact, slopes = found("double_backprop")
        for central in (False, True):
            value, slope = found("finite_difference", central=central, step=1e-4)
            close(value, exact)
            assert error(slope, slopes) < 1e-3
    assert not recwarn


@METRICS
def test_finite_differences_of_small_gradients(metric):
    """A loss a million times smaller has the same relative error: the step is a length."""
    model = small()
    for factor in (1.0, 1e-6):

        def loss(outputs, y, factor=factor):
            return factor * cross_entropy(outputs, y)

        exact, found = (
            grads(
                GradientPenalty(metric, loss=loss, mode=mode)(model, X, Y).sum() / factor**2, model
            )
            for mode in ("double_backprop", "finite_difference")
        )
        assert error(found, exact) < 0.01


@METRICS
@BOTH
def test_spectral_normalisation_by_hooks(metric, mode):
    """The older ``nn.utils.spectral_norm``, as critics use it."""
    model = small()
    for k in (0, -1):
        nn.utils.spectral_norm(model[k])
    model(X)
    vectors = [(model[k].weight_u.clone(), model[k].weight_v.clone()) for k in (0, -1)]
    gradient = {}
    for training in (True, False):
        model.train(training)
        penalty = GradientPenalty(
            metric, mode=mode, **({"step": 1e-4} if mode == "finite_difference" else {})
        )
        gradient[training] = grads(penalty(model, X, Y).sum(), model)
    for k, (u, v) in zip((0, -1), vectors, strict=True):
        assert torch.equal(model[k].weight_u, u) and torch.equal(model[k].weight_v, v)
    assert error(gradient[True], gradient[False]) < 1e-9
    model.train()
    model(X)
    assert not torch.equal(model[0].weight_u, vectors[0][0])


@METRICS
@BOTH
def test_spectral_normalisation_by_hooks_that_no_pass_has_moved(metric, mode):
    """Its vectors are random until then: the penalty takes the first pass's, and moves none."""
    model, penalty = small(), GradientPenalty(metric, mode=mode)
    for k in (0, -1):
        nn.utils.spectral_norm(model[k])
    vector, weight = model[0].weight_u.clone(), model[0].weight
    of_terms = penalty.terms(copy.deepcopy(model), X, Y).penalty
    first, again = penalty(model, X, Y), penalty(model, X, Y)
    gradient = grads(first.sum(), model)
    assert torch.equal(model[0].weight_u, vector) and model[0].weight is weight
    model(X)
    after = penalty(model, X, Y)
    for found in (first, again, of_terms):
        torch.testing.assert_close(found, after, rtol=1e-12, atol=0)
    assert error(gradient, grads(after.sum(), model)) < 1e-12


def assigned(model):
    twin = small()
    for k in (0, -1):
        nn.utils.spectral_norm(twin[k])
    twin.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    return twin


def evaluated(model):
    with torch.no_grad():
        copy.deepcopy(model).eval()(X)
        model.eval()(X)
    return model.train()


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "another type and back": lambda model: copy.deepcopy(model).float().double(),
    "another layout": lambda model: copy.deepcopy(model).to(memory_format=torch.channels_last),
    "assigned": assigned,
    "evaluated": evaluated,
}


@BOTH
@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("moved", [False, True])
def test_spectral_normalisation_by_hooks_of_a_copy(moved, how, mode):
    """Of copies in every manner, of models that a pass has moved as of others."""
    model = small()
    for k in (0, -1):
        nn.utils.spectral_norm(model[k])
    if moved:
        with torch.no_grad():
            for _ in range(500):
                model(X)
    penalty = GradientPenalty("euclidean", of="logits", mode=mode)
    expected = penalty(model, X)
    torch.testing.assert_close(penalty(COPIES[how](model), X), expected, rtol=1e-5, atol=0)


# ---------------------------------------------------------------- values that no type holds


@pytest.mark.parametrize("metric", ["euclidean", "l1", "linf"])
@BOTH
@pytest.mark.parametrize("pixel", [float("nan"), float("inf")])
def test_images_that_are_not_finite(metric, mode, pixel):
    with pytest.raises(ValueError, match="^x must be finite, got"):
        GradientPenalty(metric, mode=mode)(small(), X.masked_fill(X > X.mean(), pixel), Y)


@pytest.mark.parametrize("step", [1e-12, 5e-3, 1e6])
@pytest.mark.parametrize("factor", [1e-30, 1.0, 1e15])
def test_the_value_is_exact_at_every_step(step, factor):
    """Also where a quotient by it would over- or underflow."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    x = torch.rand(2, 1, 3, 4)

    def scaled(image):
        return factor * model(image)

    exact = GradientPenalty("euclidean", of="logits")(scaled, x)
    penalty = GradientPenalty("euclidean", of="logits", mode="finite_difference", step=step)
    with warnings.catch_warnings(action="ignore"):  # of the derivative in the parameters
        assert torch.equal(penalty(scaled, x), exact)


def test_a_norm_that_lacks_what_a_penalty_needs():
    class Half(InputNorm):
        def norm_sq(self, x, g):
            return (g * g).sum((1, 2, 3))

    with pytest.raises(TypeError, match=r"^metric must define norm_sq\(\), got InputNorm"):
        GradientPenalty(InputNorm())
    with pytest.raises(TypeError, match=r"^metric must define direction\(\), got Half"):
        GradientPenalty(Half(), mode="finite_difference")
    assert GradientPenalty(Half())(small(), X, Y).shape == Y.shape


@pytest.mark.parametrize("name", ["of", "mode", "loss", "central", "step"])
def test_what_a_penalty_was_made_of_does_not_change(name):
    with pytest.raises(AttributeError, match=f"^{name} of a GradientPenalty cannot be changed"):
        setattr(GradientPenalty(GRAPH), name, "zz")
    with pytest.raises(AttributeError, match="^scale of a Wasserstein cannot be changed"):
        input_norm(GRAPH).scale = None


def test_the_scale_of_a_norm_is_its_own():
    with pytest.raises(ValueError, match="^scale is that of the norm, 'trace', got None"):
        GradientPenalty(input_norm(GRAPH), scale=None)
    for norm in (input_norm(GRAPH, None), "euclidean"):
        assert GradientPenalty(norm, scale=None)(small(), X, Y).shape == Y.shape


# ---------------------------------------------------------------- torch.func


def penalised(penalty, model, parameters, x, y):
    return penalty(lambda image: functional_call(model, parameters, (image,)), x, y)


def vector(parts):
    return torch.cat([part.flatten() for part in parts])


@METRICS
@BOTH
@pytest.mark.parametrize("of", COLUMNS)
def test_functional_call(metric, mode, of):
    """Ordinary autograd of a model with its parameters given, and torch.func.grad."""
    model, penalty = small(), GradientPenalty(metric, mode=mode, of=of)
    expected = penalty(model, X, Y)
    gradient = grads(expected.sum(), model)
    parameters = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    value = penalised(penalty, model, parameters, X, Y)
    close(value, expected)
    close(
        vector(torch.autograd.grad(value.sum(), list(parameters.values()), materialize_grads=True)),
        gradient,
    )
    pure = {name: p.detach() for name, p in parameters.items()}
    transformed, value = torch.func.grad_and_value(
        lambda p: penalised(penalty, model, p, X, Y).sum()
    )(pure)
    close(value, expected.sum().detach())
    close(vector(transformed.values()), gradient)


class Slope(nn.Module):
    """A network of the gradient of another, by autograd or by torch.func."""

    def __init__(self, potential, transformed):
        super().__init__()
        self.potential, self.transformed = potential, transformed
        self.last = nn.Linear(36, 4).double()

    def forward(self, x):
        if self.transformed:
            slope = torch.func.grad(lambda image: self.potential(image).sum())(x)
        else:
            value = self.potential(x).sum()
            (slope,) = torch.autograd.grad(value, x, create_graph=True)
        return self.last(slope.flatten(1))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # which torch itself calls
@pytest.mark.parametrize("norm", [nn.LayerNorm([4, 4]), nn.InstanceNorm2d(6), nn.GroupNorm(2, 6)])
def test_third_derivatives_of_normalisation_within_torch_func(norm):
    """Where a model is a gradient itself, and where the penalty's gradient is differentiated."""
    model, penalty = small(norm=norm).double(), GradientPenalty(GRAPH)
    found = []
    for transformed in (False, True):
        torch.manual_seed(0)
        inner = Slope(model, transformed)
        found.append(grads(penalty(inner, X, Y).sum(), inner))
    close(*found)

    def value(weight):
        return penalised(penalty, model, {"0.weight": weight}, X, Y).sum()

    weight = model[0].weight.detach()
    along = weight.cos()
    (_, expected) = torch.autograd.functional.hvp(value, weight, along)
    close(torch.func.jvp(torch.func.grad(value), (weight,), (along,))[1], expected)


@pytest.mark.filterwarnings("ignore:There is a performance drop.*unfold_backward:UserWarning")
@METRICS
@BOTH
@pytest.mark.parametrize("of", COLUMNS)
def test_vmap_over_examples(metric, mode, of):
    """The gradient of each image's penalty at once, as a loop of batches of one."""
    model, penalty = network(), GradientPenalty(metric, mode=mode, of=of)
    pure = {name: p.detach() for name, p in model.named_parameters()}

    def one(parameters, image, label):
        return penalised(penalty, model, parameters, image[None], label[None])[0]

    together = torch.func.vmap(torch.func.grad(one), (None, 0, 0))(pure, X, Y)
    for k in range(len(X)):
        alone = grads(penalty(model, X[k : k + 1], Y[k : k + 1]).sum(), model)
        close(vector(part[k] for part in together.values()), alone, rtol=1e-6, atol=1e-9)


# ---------------------------------------------------------------- types, memory formats, compiling


@METRICS
@BOTH
def test_types(metric, mode):
    """As x: float64 in, float64 out, float32 near it."""
    penalty = GradientPenalty(metric, mode=mode)
    wide = penalty(small(), X, Y)
    single = GradientPenalty(converted(metric, dtype=torch.float32), mode=mode)
    narrow = single(small().float(), X.float(), Y)
    assert wide.dtype == torch.float64 and narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, wide.float(), rtol=1e-4, atol=1e-6)


@METRICS
def test_autocast(metric):
    """Double back-propagation follows it; the difference runs in the type of x, as without it."""
    model, x = small().float(), X.float()
    metric = converted(metric, dtype=torch.float32)

    def result(autocast, **how):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            terms = GradientPenalty(metric, **how).terms(model, x, Y)
        return terms, grads(terms.penalty.sum(), model)

    (plain, gradient), (cast, cast_gradient) = result(False), result(True)
    assert cast.outputs.dtype == torch.bfloat16 and cast.penalty.dtype == torch.float32
    assert 0 < error(cast.penalty, plain.penalty) < 0.05 and error(cast_gradient, gradient) < 0.1
    how = {"mode": "finite_difference"}
    (plain, gradient), (cast, cast_gradient) = result(False, **how), result(True, **how)
    assert cast.outputs.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(cast, plain)) and torch.equal(
        cast_gradient, gradient
    )


@METRICS
@BOTH
def test_channels_last(metric, mode):
    """The same numbers of images and weights in the other order in memory, in training mode."""
    x = images(4, 3, 6, 6)
    model, penalty = network("resnet8", channels=3), GradientPenalty(metric, mode=mode)
    expected = penalty(model, x, Y[:4])
    gradient = grads(expected.sum(), model)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    for image in (x.contiguous(memory_format=torch.channels_last), x.mT.contiguous().mT, x):
        value = penalty(other, image, Y[:4])
        close(value.detach(), expected.detach(), rtol=1e-9)
        assert error(grads(value.sum(), other), gradient) < 1e-6


@contextmanager
def compiled(model):
    torch._dynamo.reset()
    yield torch.compile(model, backend="aot_eager")
    torch._dynamo.reset()


def test_a_compiled_model():
    """The difference needs first derivatives alone, which torch.compile has; it refuses second
    ones."""
    model = small(norm=nn.BatchNorm2d(6))
    before, how = state_of(model), {"mode": "finite_difference", "step": 1e-4}
    with compiled(model) as fast:
        for metric in (GRAPH, "euclidean"):
            penalty = GradientPenalty(metric, **how)
            expected, value = penalty(model, X, Y), penalty(fast, X, Y)
            close(value.detach(), expected.detach(), rtol=1e-8)
            assert error(grads(value.sum(), model), grads(expected.sum(), model)) < 1e-6
            assert unchanged(model, before)
        plain = copy.deepcopy(model)
        penalty.terms(fast, X, Y), plain(X)
        for name, value in state_of(plain)[0].items():
            close(model.state_dict()[name], value)
        with pytest.raises(RuntimeError, match="does not currently support double backward"):
            GradientPenalty("euclidean")(fast, X, Y).sum().backward()


# ---------------------------------------------------------------- training


@BOTH
def test_critic_of_a_gan(mode):
    """The gradient penalty (||grad D|| - 1)^2 at points between real and generated images, as it is
    usually written."""
    critic, real, made = network(classes=1), images(6, 1, 8, 8), images(6, 1, 8, 8, seed=1)
    share = torch.rand(6, 1, 1, 1, generator=generator(), dtype=torch.float64)
    between = share * real + (1 - share) * made
    leaf = between.clone().requires_grad_()
    (g,) = torch.autograd.grad(critic(leaf).sum(), leaf, create_graph=True)
    expected = ((g.flatten(1).norm(dim=1) - 1) ** 2).mean()
    how = {} if mode == "double_backprop" else {"mode": mode, "central": True, "step": 1e-4}
    value = (
        (GradientPenalty("euclidean", of="logits", **how)(critic, between).sqrt() - 1) ** 2
    ).mean()
    close(value.detach(), expected.detach())
    assert error(grads(value, critic), grads(expected, critic)) < 1e-6


def train_one_epoch(
    model, criterion, optimizer, loader, device, scaler=None, penalty=None, eta=0.0
):
    """An epoch as torchvision's reference recipe for classification runs it, and three lines."""
    model.train()
    for image, target in loader:
        image, target = image.to(device), target.to(device)
        with torch.autocast(device, torch.bfloat16, enabled=scaler is not None):
            output = model(image)
            loss = criterion(output, target)
            if penalty is not None:
                value = penalty(model, image, target)
                loss = loss + eta**2 * value.mean()
        optimizer.zero_grad()
        if scaler is not None:
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            scaler.step(optimizer)
            scaler.update()
        else:
            loss.backward()
            optimizer.step()
    return loss.item()


def trained(mode, amp):
    """Loss and penalty on the digits after three epochs; without a mode trained without."""
    model = network("small_cnn", torch.float32, width=8, classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler("cpu", enabled=False) if amp else None
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    penalty = GradientPenalty(PixelGraph(28, 28, 2), mode=mode) if mode else None
    for _ in range(3):
        train_one_epoch(model, criterion, optimizer, digits(), "cpu", scaler, penalty, eta=0.3)
    measure = GradientPenalty(PixelGraph(28, 28, 2))
    with torch.no_grad():
        terms = [measure.terms(model, x, y) for x, y in digits()]
    _, losses, penalties = (torch.cat(part) for part in zip(*terms))
    return float(losses.mean()), float(penalties.mean())


@pytest.mark.parametrize("amp", [False, True])
def test_a_training_recipe(amp):
    """The penalty and not the loss is what falls below that of training without."""
    loss, free = trained(None, amp)
    for mode in MODES:
        penalised_loss, held = trained(mode, amp)
        assert held < 0.6 * free and penalised_loss < 1.5 and loss < 1.5


# ---------------------------------------------------------------- the Laplacian


TINY = (2, 3, 1, kernel(1))


def tiny():
    """A twice differentiable network for images of 6 pixels, three outputs, float64."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def exact_laplacian(metric, model, x, y, scale):
    value = second_order_expansion(cross_entropy, model, metric, x, y).laplacian
    if metric == "euclidean" or scale is None:
        return value
    return value / matrices(TINY, x).diagonal(dim1=-2, dim2=-1).mean()


def feed_signs(monkeypatch, n):
    """All 2^n sign patterns in the place of random ones, for the images of a batch of as many."""
    patterns = torch.cartesian_prod(*(torch.tensor([0, 1]),) * n)
    monkeypatch.setattr(torch, "randint", lambda high, shape, **_: patterns.view(shape))
    return len(patterns)


@pytest.mark.parametrize("scale", [None, "trace"])
@pytest.mark.parametrize("euclidean", [False, True])
def test_laplacian_penalty_has_the_trace_for_mean(euclidean, scale, monkeypatch):
    """The mean over all signs is the exact trace, and so are the gradients in the parameters."""
    metric = "euclidean" if euclidean else graph_of(*TINY)
    model, x, y = tiny(), inside(1, 1, 2, 3), torch.tensor([2])
    every = feed_signs(monkeypatch, 6)
    batch, labels = x.expand(every, 1, 2, 3), y.expand(every)
    values = laplacian_penalty(metric, model, batch, labels, generator=generator(), scale=scale)
    expected = exact_laplacian(metric, model, x, y, scale)
    assert values.shape == (every,) and values.detach().std() > 1e-3
    close(values.mean().detach(), expected[0].detach())
    exact = second_order_expansion(cross_entropy, model, metric, x, y, create_graph=True).laplacian
    unit = float(expected / exact.detach())
    close(grads(values.mean(), model), unit * grads(exact[0], model))


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("euclidean", [False, True])
def test_laplacian_penalty_by_sampling(euclidean, samples):
    """Of torch's generator: unbiased within four standard errors, of variance ~ 1 / samples."""
    metric, model, n = "euclidean" if euclidean else graph_of(*TINY), tiny(), 3000
    x, y = inside(2, 1, 2, 3), torch.tensor([2, 0])
    batch, labels = x.repeat(n, 1, 1, 1), y.repeat(n)
    with torch.no_grad():
        draws, one = (
            laplacian_penalty(metric, model, batch, labels, generator=generator(3), samples=k).view(
                n, 2
            )
            for k in (samples, 1)
        )
    expected = exact_laplacian(metric, model, x, y, "trace")
    assert ((draws.mean(0) - expected).abs() <= 4 * draws.std(0) / n**0.5).all()
    torch.testing.assert_close(draws.var(0), one.var(0) / samples, rtol=0.25, atol=0)


@METRICS
@pytest.mark.parametrize("name", ["small_cnn", "resnet8"])
def test_laplacian_penalty_by_differences(metric, name):
    """Its gradient in each parameter, of the same signs; batch normalisation in evaluation mode."""
    model = network(name, width=2).eval()

    def value(model):
        return laplacian_penalty(metric, model, X, Y, generator=generator(1), samples=2).sum()

    exact = torch.autograd.grad(value(model), list(model.parameters()), materialize_grads=True)
    largest, rng = max(float(g.norm()) for g in exact), generator()
    for k, (p, g) in enumerate(zip(model.parameters(), exact)):
        v = torch.randn(p.shape, generator=rng, dtype=p.dtype)
        direction = [v if k == j else torch.zeros_like(q) for j, q in enumerate(model.parameters())]
        assert float((g * v).sum()) == pytest.approx(
            difference(value, model, direction), rel=1e-6, abs=1e-7 * largest
        )


@pytest.mark.parametrize("shape", [(), (1,)])
def test_laplacian_penalty_of_one_output(shape):
    """With an axis and without, of a loss of its own that needs no labels."""
    x, graph, n = inside(1, 1, 2, 3), graph_of(*TINY), 3000

    def model(image):
        return (image.flatten(1) ** 3).sum(1).view(len(image), *shape)

    def cubic(outputs, y):
        return (outputs.view(-1) + 1) ** 3

    batch = x.expand(n, 1, 2, 3)
    draws = laplacian_penalty(
        graph, model, batch, None, generator=generator(), loss=cubic, scale=None
    ).detach()
    expected = second_order_expansion(cubic, model, graph, x, None).laplacian
    assert abs(draws.mean() - expected) <= 4 * draws.std() / n**0.5 and draws.std() > 0


@METRICS
def test_laplacian_penalty_without_curvature(metric):
    """Of ReLU it is zero, and of a linear network."""
    model = network(activation="relu", width=2)
    value = laplacian_penalty(metric, model, X, Y, generator=generator())
    assert torch.equal(value.detach(), torch.zeros(5).double())
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 4)).double()
    value = laplacian_penalty(metric, linear, X, Y, generator=generator())
    assert torch.equal(value.detach(), torch.zeros(5).double())
    black = laplacian_penalty(
        metric, small(), torch.zeros_like(X), Y, generator=generator()
    ).detach()
    assert black.isfinite().all() and (black == 0).all() == (metric is GRAPH)


@pytest.mark.parametrize("central", [False, True])
def test_a_finite_difference_is_differentiated_once(central):
    """Its second derivative would lack that of the penalty."""
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    penalty = GradientPenalty("euclidean", of="logits", mode="finite_difference", central=central)
    value = penalty(lambda x: weight * x.sum((1, 2, 3)), X).sum()
    with pytest.raises(RuntimeError, match="once, without create_graph=True: take mode='double_"):
        torch.autograd.grad(value, weight, create_graph=True)
    (gradient,) = torch.autograd.grad(value, weight)
    assert gradient == pytest.approx(2 * 2 * X.numel(), rel=1e-6)


def test_of_one_pass_unequal_weights_and_hooks_go_through_the_graph():
    """What is known of the pass is for images that count alike, and a hook may change gradients."""
    penalty = GradientPenalty(GRAPH, mode="finite_difference", central=True, step=1e-3)
    exact = GradientPenalty(GRAPH)

    def slopes(penalty, weights, hook=None):
        model = small()
        hook = hook and model[0].weight.register_hook(hook)
        _, loss, squared = penalty.terms(model, X, Y)
        (weights * (loss + 0.1 * squared)).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    equal, unequal = torch.ones(5).double() / 5, torch.arange(1, 6).double()
    for weights in (equal, unequal):
        for hook in (None, lambda gradient: gradient.clamp(-1e-3, 1e-3)):
            found, right = (slopes(each, weights, hook) for each in (penalty, exact))
            assert (found - right).norm() < 1e-3 * right.norm()


@contextmanager
def computed_weights(model):
    """A weight that is computed from a parameter, before the model is called."""
    nn.utils.parametrize.register_parametrization(model[-1], "weight", Function(torch.exp))
    with nn.utils.parametrize.cached():
        yield model, model[-1].weight


@contextmanager
def fast_weights(model):
    """Those of meta-learning, of a function around the model."""
    fast = {name: 1 * p for name, p in model.named_parameters()}
    yield lambda x: functional_call(model, fast, (x,)), fast["5.weight"]


@pytest.mark.parametrize("weights", [computed_weights, fast_weights])
@pytest.mark.parametrize("central", [False, True])
def test_derivatives_in_what_was_computed_before_the_call(weights, central):
    finite = GradientPenalty(GRAPH, mode="finite_difference", central=central, step=1e-4)
    with weights(small()) as (model, weight):
        exact, found = (p.terms(model, X, Y) for p in (GradientPenalty(GRAPH), finite))
        for value, right in zip(found[1:], exact[1:], strict=True):
            slope, expected = (
                torch.autograd.grad(v.mean(), weight, retain_graph=True)[0] for v in (value, right)
            )
            assert (slope - expected).norm() < 1e-3 * expected.norm()
        weight.retain_grad()
        found.penalty.mean().backward()
        assert (weight.grad - slope).norm() < 1e-9 * slope.norm()


@pytest.mark.parametrize("of", ["loss", "logits"])
def test_finite_differences_have_no_derivative_in_activations(of):
    """Neither in those of the first pass nor in those of the last."""
    seen, model = [], small()
    model[2].register_forward_hook(lambda layer, given, found: seen.append(found))
    penalty = GradientPenalty(GRAPH, mode="finite_difference", of=of)(model, X, Y).mean()
    says = "no derivative in what model computes on the way|appears to not have been used"
    for activation in (seen[0], seen[-1]):
        with pytest.raises(RuntimeError, match=says):
            torch.autograd.grad(penalty, activation, retain_graph=True)
    assert torch.autograd.grad(penalty, model[2].weight)[0].any()


def test_a_model_that_takes_gradients_in_its_images():
    def slopes(x):
        (found,) = torch.autograd.grad(energy(x).sum(), x, create_graph=True)
        return found.flatten(1)

    energy = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Softplus()).double()
    assert GradientPenalty(GRAPH)(slopes, X, Y).shape == (5,)
    with pytest.raises(RuntimeError, match="gradient in its images .*mode='double_backprop'"):
        GradientPenalty(GRAPH, mode="finite_difference")(slopes, X, Y)


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clamp(-1e-2, 1e-2)


def hooked(x):
    if x.requires_grad:
        x.register_hook(lambda gradient: gradient / gradient.norm())
    return x


@pytest.mark.filterwarnings("ignore:step=0.005 misses")
@pytest.mark.parametrize("change", [Clipped.apply, hooked], ids=["function", "hook"])
def test_of_one_pass_a_backward_pass_that_is_not_linear_goes_through_the_graph(change):
    """The loss has the gradient that it has without the penalty, whichever the call."""
    model = small()
    model.insert(1, Function(change))
    expected = grads(cross_entropy(model(X), Y).mean(), model)
    penalty = GradientPenalty("euclidean", mode="finite_difference")
    for _ in range(3):
        loss = penalty.terms(model, X, Y).loss.mean()
        assert error(grads(loss, model), expected) < 1e-9


def hooked_copy(weight):
    weight = 1 * weight
    weight.register_hook(lambda gradient: gradient.clamp(-1e-2, 1e-2))
    return weight


@pytest.mark.parametrize("change", [Clipped.apply, hooked_copy], ids=["function", "hook"])
def test_of_one_pass_a_weights_own_backward_pass_that_is_not_linear(change):
    """It is asked for the derivative that the loss has, once."""
    model, first = small(), small()[0].weight.detach().requires_grad_()

    def clipped(x):
        return model[1:](F.conv2d(x, change(first)))

    (expected,) = torch.autograd.grad(cross_entropy(clipped(X), Y).mean(), first)
    loss = GradientPenalty("euclidean", mode="finite_difference").terms(clipped, X, Y).loss.mean()
    assert error(torch.autograd.grad(loss, first)[0], expected) < 1e-9


@pytest.mark.parametrize(
    ("compute", "shape"), [(torch.neg, (36, 4)), (torch.t, (4, 36))], ids=["minus", "transposed"]
)
def test_derivatives_in_what_another_thread_computed(compute, shape):
    """Autograd numbers the functions of each thread by themselves."""
    parameter = torch.randn(shape, generator=generator(), dtype=X.dtype).requires_grad_()
    for _ in range(50):
        weight = compute(parameter)

    def model(x):
        return (x.flatten(1) @ weight).tanh()

    penalty = GradientPenalty("euclidean", mode="finite_difference")
    with ThreadPoolExecutor(1) as pool:
        loss = pool.submit(penalty.terms, model, X, Y).result().loss.mean()
    (expected,) = torch.autograd.grad(cross_entropy(model(X), Y).mean(), weight)
    (found,) = torch.autograd.grad(loss + 0 * weight.sum(), weight)
    assert error(found, expected) < 1e-9


@pytest.mark.parametrize("name", MODELS)
def test_the_packages_networks_take_one_pass(name):
    model = network(name, width=2)
    loss = GradientPenalty("euclidean", mode="finite_difference").terms(model, X, Y).loss
    assert "_KnownBackward" in {node.name() for node in autograd_nodes(loss)}


@METRICS
def test_laplacian_penalty_leaves_things_as_they_were(metric):
    """Statistics, .grad, the global generator, the images; without grad no graph; a seed repeats
    its numbers."""
    model, x = small(norm=nn.BatchNorm2d(6)), X.clone().requires_grad_()
    before, rng = state_of(model), torch.get_rng_state()
    value = laplacian_penalty(metric, model, x, Y, generator=generator())
    assert unchanged(model, before) and torch.equal(torch.get_rng_state(), rng)
    with torch.no_grad():
        again = laplacian_penalty(metric, model, x, Y, generator=generator())
        other = laplacian_penalty(metric, model, x, Y, generator=generator(1))
    torch.testing.assert_close(again, value.detach(), rtol=1e-12, atol=0)
    assert not again.requires_grad and not torch.allclose(other, again)
    assert all(p.grad is None for p in model.parameters())
    value.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@METRICS
def test_nothing_flows_back_to_the_images_of_laplacian_penalty(metric):
    x = X.clone().requires_grad_()
    laplacian_penalty(metric, small(), x, Y, generator=generator()).sum().backward()
    assert x.grad is None


# ---------------------------------------------------------------- on a GPU


@gpu
@METRICS
@BOTH
def test_on_the_gpu(metric, mode):
    """The CPU's values and gradients; dropout's masks repeat there too."""
    where = converted(metric, device="cuda")
    model = small()
    penalty, expected = (
        GradientPenalty(where, mode=mode),
        GradientPenalty(metric, mode=mode)(model, X, Y),
    )
    gradient = grads(expected.sum(), model)
    value = penalty(model.cuda(), X.cuda(), Y.cuda())
    assert value.is_cuda
    close(value.detach().cpu(), expected.detach(), rtol=1e-8)
    assert error(grads(value.sum(), model).cpu(), gradient) < 1e-6
    model = small(dropout=0.5).cuda()
    how = {"central": True, "step": 1e-4} if mode == "finite_difference" else {}
    found = []
    for choice in ({}, {"mode": mode, **how}):
        torch.cuda.manual_seed(1)
        found.append(
            grads(GradientPenalty(where, **choice)(model, X.cuda(), Y.cuda()).sum(), model)
        )
    assert error(*found) < 1e-5
    value = laplacian_penalty(
        where, small().cuda(), X.cuda(), Y.cuda(), generator=torch.Generator("cuda").manual_seed(0)
    )
    assert value.is_cuda and value.isfinite().all()


@gpu
@METRICS
@BOTH
def test_on_the_gpu_captured_in_a_graph(metric, mode):
    """A whole training step, replayed on other images, gives the parameters of the eager steps."""
    metric = converted(metric, device="cuda")
    penalty, batches = (
        GradientPenalty(metric, mode=mode),
        [images(5, 1, 6, 6, seed=k).cuda() for k in range(3)],
    )
    y = Y.cuda()

    def trained(advance):
        model = small(norm=nn.BatchNorm2d(6)).cuda()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def step(x):
            optimizer.zero_grad(set_to_none=True)
            terms = penalty.terms(model, x, y)
            (terms.loss + terms.penalty).mean().backward()
            optimizer.step()

        start = copy.deepcopy(model.state_dict())
        advance(step, lambda: model.load_state_dict(start))
        return state_of(model)[0]

    def eager(step, reset):
        for x in batches:
            step(x)

    def captured(step, reset):
        x, side, graph = batches[0].clone(), torch.cuda.Stream(), torch.cuda.CUDAGraph()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step(x)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            step(x)
        reset()
        for batch in batches:
            x.copy_(batch)
            graph.replay()
        torch.cuda.synchronize()

    expected, found = trained(eager), trained(captured)
    for name, value in found.items():
        close(value, expected[name], rtol=1e-8, atol=1e-12)


# ---------------------------------------------------------------- bad input


EUCLIDEAN, NEGATIVE = GradientPenalty("euclidean"), X - 0.5
FEW = r"loss must return one number per image, \(5,\), got \(\)"


def gives(x, metric=GRAPH, **how):
    return GradientPenalty(metric, **how)(small(), x, Y)


def laplacian_of(x=X, **how):
    return laplacian_penalty(
        **{"metric": GRAPH, "model": small(), "x": x, "y": Y, "generator": generator(), **how}
    )


BAD_CALLS = {
    "metric_name": (
        lambda: GradientPenalty("wasserstein"),
        ValueError,
        "metric must be a PixelGraph, an InputNorm or one of 'euclidean', 'l1', 'linf', got 'wass",
    ),
    "metric_none": (lambda: GradientPenalty(None), ValueError, "metric must be .*got None"),
    "norm_scale": (
        lambda: Wasserstein(GRAPH, scale="pixel"),
        ValueError,
        "scale must be one of 'trace', None, got 'pixel'",
    ),
    "of": (
        lambda: GradientPenalty(GRAPH, of="logit"),
        ValueError,
        "of must be one of 'loss', 'logits', 'margin', 'logit_differences', got 'logit'",
    ),
    "mode": (
        lambda: GradientPenalty(GRAPH, mode="exact"),
        ValueError,
        "mode must be .*finite_difference', got 'exact'",
    ),
    "scale": (
        lambda: GradientPenalty("euclidean", scale=1.0),
        ValueError,
        "scale must be one of 'trace', None, got 1.0",
    ),
    "loss": (
        lambda: GradientPenalty(GRAPH, loss="mse"),
        TypeError,
        "loss must be a function, got 'mse'",
    ),
    "central": (
        lambda: GradientPenalty(GRAPH, central=True),
        ValueError,
        "central is an option of mode='finite_diff",
    ),
    "step": (
        lambda: GradientPenalty(GRAPH, mode="finite_difference", step=0),
        ValueError,
        "step must be positive and finite, got 0",
    ),
    "x": (lambda: gives(NEGATIVE), ValueError, "x must be non-negative and finite"),
    "x_of_the_difference": (
        lambda: gives(NEGATIVE, mode="finite_difference"),
        ValueError,
        "x must be non-negative and finite",
    ),
    "x_of_terms": (
        lambda: GradientPenalty(GRAPH).terms(small(), NEGATIVE, Y),
        ValueError,
        "x must be non-negative and finite",
    ),
    "x_of_three_axes": (
        lambda: gives(X[0]),
        ValueError,
        r"x must be \(B, C, H, W\), got \(1, 6, 6\)",
    ),
    "euclidean_x_of_three_axes": (
        lambda: gives(X[0], "euclidean"),
        ValueError,
        r"x must be \(B, C, H, W\), got \(1, 6, 6\)",
    ),
    "x_of_integers": (
        lambda: gives(X.long(), "l1"),
        TypeError,
        "x must be a floating tensor, got torch.int64",
    ),
    "no_labels": (
        lambda: GradientPenalty(GRAPH)(small(), X),
        ValueError,
        "y must be given for of='loss', got None",
    ),
    "no_labels_margin": (
        lambda: GradientPenalty(GRAPH, of="margin")(small(), X),
        ValueError,
        "y must be given for of='margin', got None",
    ),
    "loss_of_the_batch": (lambda: gives(X, loss=F.cross_entropy), ValueError, FEW),
    "loss_of_the_batch_in_terms": (
        lambda: GradientPenalty(GRAPH, of="logits", loss=F.cross_entropy).terms(small(), X, Y),
        ValueError,
        FEW,
    ),
    "margin_of_one_output": (
        lambda: GradientPenalty("euclidean", of="margin")(lambda x: x.sum((1, 2, 3)), X, Y),
        ValueError,
        r"model must return at least two outputs per image for of='margin', got \(5,\)",
    ),
    "differences_of_one_output": (
        lambda: GradientPenalty("l1", of="logit_differences")(lambda x: x[:, 0, 0, :1], X),
        ValueError,
        r"model must return at least two outputs .* of='logit_differences', got \(5, 1\)",
    ),
    "outputs_of_images": (
        lambda: EUCLIDEAN(lambda x: x, X, Y),
        ValueError,
        r"model must return \(5,\) or",
    ),
    "logits_of_numbers": (
        lambda: EUCLIDEAN(lambda x: SimpleNamespace(logits=None), X, Y),
        TypeError,
        "model must return a tensor, .* got SimpleNamespace",
    ),
    "laplacian_metric": (
        lambda: laplacian_of(metric="l1"),
        ValueError,
        "metric must be a PixelGraph or 'euclidean', got 'l1'",
    ),
    "laplacian_x": (lambda: laplacian_of(NEGATIVE), ValueError, "x must be non-negative"),
    "laplacian_samples": (
        lambda: laplacian_of(samples=0),
        ValueError,
        "samples must be at least 1, got 0",
    ),
    "laplacian_generator": (
        lambda: laplacian_of(generator=None),
        TypeError,
        "generator must be a torch.Generator, got NoneType",
    ),
    "laplacian_loss": (lambda: laplacian_of(loss=F.cross_entropy), ValueError, FEW),
}


def of_the_outputs(change):
    """A penalty of a model whose outputs are changed."""
    return lambda: gives_of(lambda x: change(small()(x)))


def gives_of(model=None, y=Y, metric=GRAPH, **how):
    return GradientPenalty(metric, **how)(model or small(), X, y)


class OfTheBatch(InputNorm):
    def norm_sq(self, x, g):
        return (g * g).sum()


class OfPixelsOnly(Rough):
    def direction(self, x, g):
        return g.flatten(1)


BAD_CALLS |= {
    "labels_int32": (
        lambda: gives_of(y=Y.int()),
        TypeError,
        "y must be an int64 tensor, got torch.int32",
    ),
    "labels_of_floats": (
        lambda: gives_of(y=Y.double()),
        ValueError,
        r"y must be \(5,\) labels or \(5, K\) probabilities, got \(5,\)",
    ),
    "labels_too_few": (lambda: gives_of(y=Y[:3]), ValueError, r"y must have one label.*got \(3,\)"),
    "labels_too_large": (
        lambda: gives_of(y=Y + 1),
        ValueError,
        "y must be from 0 to 3, got 1 to 4",
    ),
    "labels_ignored": (
        lambda: gives_of(y=Y * 0 - 100),
        ValueError,
        "y must be from 0 to 3, got -100 to -100",
    ),
    "labels_of_a_list": (lambda: gives_of(y=[0] * 5), TypeError, "y must be an int64 .*got list"),
    "probabilities_of_fewer": (
        lambda: gives_of(y=torch.ones(5, 3).double() / 3),
        ValueError,
        r"y must have the shape of the outputs, \(5, 4\), got \(5, 3\)",
    ),
    "model": (lambda: gives_of("resnet"), TypeError, "model must be a function, got 'resnet'"),
    "dict": (of_the_outputs(lambda z: {"z": z}), TypeError, "model must return .* got dict"),
    "tuple": (of_the_outputs(lambda z: (z, z)), TypeError, "model must return .* got tuple"),
    "one_output_of_the_cross_entropy": (
        of_the_outputs(lambda z: z[:, 0]),
        ValueError,
        r"model must return \(5, K\) logits for the cross-entropy, got \(5,\)",
    ),
    "loss_of_none": (
        lambda: gives_of(loss=lambda outputs, y: None),
        TypeError,
        "what loss returns must be a tensor, got NoneType",
    ),
    "loss_of_a_number": (
        lambda: gives_of(loss=lambda outputs, y: 1.0),
        TypeError,
        "what loss returns must be a tensor, got float",
    ),
    "images_of_another_type": (
        lambda: gives_of(small().float()),
        TypeError,
        "x must be torch.float32, as the weights of model, got torch.float64",
    ),
    "images_of_another_size": (
        lambda: EUCLIDEAN.terms(small(), X[..., :4], Y),
        RuntimeError,
        r"model failed on x \(5, 1, 6, 4\): ",
    ),
    "laplacian_of_images_of_another_type": (
        lambda: laplacian_penalty(GRAPH, small().float(), X, Y, generator=generator()),
        TypeError,
        "x must be torch.float32, as the weights of model, got torch.float64",
    ),
    "norm_of_the_batch": (
        lambda: gives_of(metric=OfTheBatch()),
        ValueError,
        r"norm_sq must return one number per image, \(5,\), got \(\)",
    ),
    "direction_of_pixels": (
        lambda: gives_of(metric=OfPixelsOnly(), mode="finite_difference"),
        ValueError,
        r"what direction returns must have the shape of x, \(5, 1, 6, 6\), got \(5, 36\)",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls(case):
    call, kind, says = BAD_CALLS[case]
    with pytest.raises(kind, match=f"^{says}"):
        call()


def test_images_of_bytes_are_told_once():
    x, y = torch.full((2, 1, 4, 4), 255.0), torch.tensor([0, 1])
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    penalty = GradientPenalty("euclidean")
    with pytest.warns(UserWarning, match="x reaches 255.*divide by 255"):
        penalty(model, x, y)
    penalty(model, x, y)  # warnings are errors
    GradientPenalty("euclidean")(model, x / 255, y)


def test_labels_that_a_loss_of_ones_own_refuses():
    loss = partial(nn.functional.cross_entropy, reduction="none")
    with pytest.raises(IndexError, match=r"^loss failed on outputs \(2, 2\): Target 5"):
        GradientPenalty("euclidean", loss=loss)(
            nn.Sequential(nn.Flatten(), nn.Linear(16, 2)),
            torch.rand(2, 1, 4, 4),
            torch.tensor([0, 5]),
        )

"""Every public function times every kind of bad argument: what is refused names the argument and
the value, at once.
"""

import inspect
import re
import signal
import tempfile
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from wdtr_lite import (
    GradientPenalty,
    PixelGraph,
    attacks,
    calculus,
    data,
    evaluation,
    graph,
    metric,
    models,
    noise,
    regularizer,
    study,
    training,
    transport,
)

ROOMS = [attacks, calculus, data, evaluation, graph, metric, models, noise, regularizer]
ROOMS += [training, transport]
NAN, INF = float("nan"), float("inf")


class Returns:
    """A function that returns the same, whatever it is given."""

    def __init__(self, value):
        self.value = value

    def __call__(self, *arguments):
        return self.value


# ---------------------------------------------------------------- kinds of bad argument
# Each takes a good value and gives it back with bad ones.

SPARSE = torch.eye(3, 4).to_sparse()
NO_TENSORS = [None, "x", 3, NAN, [[0.5]], np.ones((3, 4), np.float32), object(), PixelGraph]
NO_LISTS = [None, "0.1", b"1", 1j, True, object(), NAN, INF]
NO_NUMBERS = [*NO_LISTS, [0.1], np.ones(1), np.array(2), np.True_, torch.ones(())]
RETURNED = [None, 0.5, "x", [0.5], {"logits": 1}, (torch.ones(2, 3),), torch.ones(7, 5, 1, 1)]
RETURNED += [torch.ones(2, 3, device="meta"), torch.ones(2, 3).to(torch.float8_e4m3fn)]


def optional(kind):
    return kind[0], [bad for bad in kind[1] if bad is not None]


def number(value, *also):
    return value, [*NO_NUMBERS, -INF, 10**400, *also]


def natural(value, *also):
    return value, [*NO_NUMBERS, 2.0, -1, 2**70, *also]


def whole(value, *also):
    return natural(value, 0, *also)


def option(value, *also):
    return value, ["nothing", "", b"x", 3, NAN, True, ["x"], np.array(["x", "y"]), *also]


def text(value, *also):
    """A name that need not be known yet."""
    return value, [3, NAN, b"x", object(), ["x"], *also]


def flag(value):
    arrays = [torch.tensor(True), np.array([True]), np.array(True)]
    return value, ["yes", 1, 0, None, NAN, object(), *arrays]


def source(value, *also):
    return value, [7, "cpu", np.random.default_rng(0), torch.Generator, object(), *also]


def function(value, *returned):
    return value, [None, "pgd", 3, NAN, torch.ones(3), object(), *map(Returns, returned)]


def unusual(v):
    """The tensor in ways that do not hold its values as floating numbers."""
    flat = v.float() if v.dtype != torch.bool else v
    with warnings.catch_warnings(action="ignore"):  # both are to go
        shares = torch.quantize_per_tensor(flat, 0.01, 0, torch.quint8)
        nested = torch.nested.as_nested_tensor([v, v], layout=torch.strided)
    jagged = torch.nested.as_nested_tensor([v, v], layout=torch.jagged)
    return [v.to("meta"), v.to_sparse(), shares, nested, jagged]


def on_graph(v, *also):
    """A tensor (..., 3, 4) of the graph's type."""
    other = torch.float64 if v.dtype == torch.float32 else torch.float32
    types = [other, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
    shapes = [v[..., :-1], v.mT, v.flatten(), v.sum()]
    return v, [*NO_TENSORS, *map(v.to, types), *shapes, *unusual(v), *also]


def with_pixels(v, *pixels):
    return [v.masked_fill(torch.arange(v.shape[-1]) == 1, pixel) for pixel in pixels]


def vector(v, *also):
    return on_graph(v, *with_pixels(v, NAN, INF, -INF), *also)


def image(x, *also):
    return vector(x, *with_pixels(x, -0.5), *also)


def measure(x):
    """An image of the transport functions."""
    tensor = torch.as_tensor(x)
    bad = [None, "x", 3, NAN, object(), {}, [[1], [1, 2]], np.array([[None, 1]]), np.array(["x"])]
    bad += [np.float32(0.5), np.array(0.5), tensor.sum(), x[0], x[:0], x * 1j, 0 * x]
    bad += [*unusual(tensor), *with_pixels(tensor, NAN, INF, -0.5)]
    bad += [np.ma.masked_array(tensor, tensor > 0.15)]
    return x, bad + [z.numpy() for z in with_pixels(tensor, NAN, -1)]


def stored(x):
    """Images (N, C, H, W) of the evaluation, uint8 or in [0, 1]."""
    types = map(x.to, [torch.int64, torch.bool, torch.complex64])
    bad = [255 * x, *with_pixels(x, NAN, INF, -0.5, 2), x[0, 0], x[None], x[..., :0], x.sum()]
    numpy = (255 * x).byte().numpy()
    return x, [*NO_TENSORS, *types, *bad, *unusual(x), numpy]


def hard(y):
    types = map(y.to, [torch.int32, torch.float32, torch.bool, torch.uint8])
    bad = [y[:1], y[:, None], y.sum(), y - 1, y + 99, *unusual(y)]
    return [None, "x", 3, y.tolist(), y.numpy(), object(), *types, *bad]


def labels(y):
    return y, [*hard(y), torch.eye(3)[y]]


def floats(x):
    """Floating images (B, C, H, W)."""
    types = map(x.to, [torch.uint8, torch.int64, torch.bool, torch.complex64])
    return x, [*NO_TENSORS, *types, x[0], x.sum(), *unusual(x)]


def batch(x):
    """The same, in [0, 1]."""
    return x, [*floats(x)[1], *with_pixels(x, NAN, INF, -0.5, 2)]


def scores(y):
    """Labels, or a number for each class (B, K)."""
    return y, [*hard(y), torch.eye(4)[y]]


def targets(y):
    """Labels, or probabilities (B, K)."""
    soft = torch.eye(3)[y]
    return y, [*scores(y)[1], 1 + soft, -soft, soft * NAN]


def moves(value):
    bad = [None, 3, "ab", [], [0.5], [True], [None], ["1"], [99], [-99], [NAN], object()]
    return value, [*bad, torch.ones(2), np.ones(2), np.array(2), [np.True_]]


# ---------------------------------------------------------------- good calls

X = torch.rand(2, 1, 3, 4, generator=torch.Generator().manual_seed(0)) / 10 + 0.1
XI = X - X.mean((-2, -1), keepdim=True)
Y = torch.tensor([0, 2])
GRID = PixelGraph(3, 4, 1)
GRAPH = (GRID, [None, "euclidean", 3, object(), nn.Identity(), PixelGraph, torch.ones(3, 4)])
METRIC = (GRID, [None, "l1", "", 3, NAN, object(), nn.Identity(), PixelGraph, X, ["l1"]])
IMAGE, VECTOR, TANGENT = image(X), vector(XI), vector(XI, XI + 1)
INSIDE = image(X, *with_pixels(X, 0))
UNIT = option(None)
TOL, MAX_ITER = optional(number(1e-4, 0, 1, -1)), optional(whole(100))
SCALAR = function(lambda x: (x**2).sum((-3, -2, -1)), *RETURNED, Y, Y * 1j)
GENERATOR = source(torch.Generator().manual_seed(0), None)
MODEL = function(lambda x: x.flatten(1)[:, :3], *RETURNED, torch.ones(2, 0), torch.ones(2, 3) * 1j)
IMAGES, LABELS = stored(X), labels(Y)
BATCH, AXIS, SHIFTS = whole(2), option("vertical", None), moves([0, 1])
PADDING = option("edge", None)
A, B = (z.double().numpy() for z in X[:, 0])
ORDER, COST = number(1.5, 0.5, 0, -1), None
PIXELS = np.ones((12, 12))
COSTS = (
    PIXELS * 1.0,
    [
        "x",
        3,
        NAN,
        object(),
        PIXELS[1:],
        PIXELS * 1j,
        PIXELS * NAN,
        PIXELS * INF,
        -PIXELS,
        [[1]],
        PIXELS.astype(str),
        torch.ones(12, 12, device="meta"),
    ],
)
PLAN = transport.transport_plan(A, B)
PHOTOS, TARGETS, SCORES = batch(X), targets(Y), scores(Y)
GRADED = (X, [*floats(X)[1], *with_pixels(X, NAN, INF)])
NORM, STEPS, SAMPLES = option("l2", None), whole(2, 2**31), whole(2, 1, 2**31)
RADIUS, ALPHA = number(0.1, -1), number(0.05, -1)
WINDOW, SHARP = whole(3, 1, 2, 4, 2**31), number(0.01, 0, -1, 1e-3, 1e7)
FLOATING = function(MODEL[0], *(each.value for each in MODEL[1][6:]), X[:, 0, 0, :3].long())
VALUES = (X, [*floats(X)[1], X.double()])
SLOPE = (XI, [*floats(XI)[1], XI.double(), XI[:1]])
WASSERSTEIN = regularizer.Wasserstein(GRID)
LOSS = function(regularizer.forward.cross_entropy, *RETURNED, Y, torch.ones(2) * 1j)
SOURCE = metric.Source("local", 0.1), ["local", 0.1, NAN, object(), ("local", 0.1), metric.Source]
NO_SOURCE = None, SOURCE[1]
SCALE, PENALTY = option("trace"), GradientPenalty(GRID)
PARTS = {"train": torch.arange(6), "test": torch.arange(6, 8)}
STORED = (torch.arange(512) % 251).byte().view(8, 8, 8)
CLASSES = torch.arange(8) % 3
MINE = data.Dataset("mine", STORED, CLASSES, "here", PARTS)
CONFIG = training.Config(
    data="mnist5k",
    model="small_cnn",
    width=2,
    epochs=1,
    batch_size=4,
    method="wasserstein",
    eta=0.1,
    radius=2,
)
WEIGHTS_BY_OFFSET = [torch.ones(3, 3).long(), torch.ones(5, 5), -torch.ones(3, 3)]
DEVICE = ("cpu", ["gpu", 3, NAN, object(), "cuda:99", "", "meta"])
CHANNELS = [*NO_LISTS, -INF, 10**400, "ab", [], [NAN], [0.1, 0.2], ["a"], [1j], {}, X[0, 0]]
SIZES = {
    "activation": option("relu", None),
    "width": whole(2, 2**31),
    "classes": whole(3, 2**31),
    "channels": whole(1, 2**31),
    "mean": (0.5, [*CHANNELS, torch.ones(1) * 1j, 1e39, 3e38]),
    "std": (0.5, [*CHANNELS, 0, -1, [0.0], 1e39, 1e-40, 1e-300]),
}

NORMS = (GRID, [bad for bad in METRIC[1] if bad is not METRIC[1][1]])  # "l1" is one
LOSS_NAMES = function(regularizer.forward.cross_entropy)
CONFIGURED = (CONFIG, [None, "x", 3, NAN, {}, object(), training.Config])
NETWORK = (None, ["x", 3, NAN, object(), nn.Identity, lambda x: x])
RUN = {
    "dataset": (MINE, ["mnist5k", 3, NAN, object(), STORED, (STORED, CLASSES)]),
    "folder": (None, ["", 3, NAN, object(), ["x"], b"x"]),
    "device": optional(DEVICE),
    "checkpoint_every": whole(1),
    "until": (None, optional(number(0.0))[1]),
    "progress": flag(False),
}
NAME, PROFILE = text("table1", None), text("cpu", None)
ROW = {"method": "none", "seed": 0, "setting": {}, "wrong": {"natural": 1}, "n": {"natural": 9}}
ROWS = (
    [ROW],
    [
        None, "x", 3, NAN, object(), {}, [3], [None], *(
            [ROW | {part: bad}] for part in ("wrong", "n")
            for bad in (None, 3, "x", [], {"natural": NAN}, {"natural": "x"}, {"natural": 1.5})
        ),
        [ROW | {"n": {"natural": 0}}], [ROW | {"wrong": {"natural": -1}}],
        [ROW | {"wrong": {"natural": 10}}],
    ],
)  # fmt: skip
REPORTS = [None, "x", 3, NAN, [], object(), {"result": 3}, {"result": {"rows": 3}}]
REPORTS += [{"result": {"search": [3]}}, {"result": {"rows": [{"seconds": 3}]}}]
FOLDER = tempfile.TemporaryDirectory()
WEIGHTS = training.fit(CONFIG, dataset=MINE, folder=FOLDER.name, progress=False).model.state_dict()

CALLS = {
    PixelGraph: {
        "height": whole(3, 2**31),
        "width": whole(4, 2**31),
        "radius": whole(1, 4, 2**31),
        "weight": number(1.0, 0, -1, 1e-300, 1e300, *WEIGHTS_BY_OFFSET),
    },
    GRID.converted: {
        "device": ("cpu", ["gpu", 3, NAN, object(), "cuda:99", ""]),
        "dtype": (
            torch.float64, ["float64", PIXELS, torch.float16, torch.int64, 3, np.float32, float],
        ),
    },
    GRID.endpoints: {
        "v": (X, [*NO_TENSORS, X[..., :-1], X.sum(), *unusual(X)[1:]]),
        "offset": (
            (1, -1), [None, 3, "ab", (0, 0), (0, -1), (9, 0), (1,), (0.5, 1), (True, 0), (NAN, 1)],
        ),
    },
    GRID.neighbor_sum: {"v": vector(XI)},
    GRID.components: {"x": image(X[:, 0], X)},
    # metric
    metric.mobility: {"graph": GRAPH, "x": IMAGE},
    metric.Source: {"kind": option("local"), "strength": number(0.1, 0, -1)},
    metric.laplacian: {"graph": GRAPH, "x": IMAGE, "source": SOURCE},
    metric.laplacian_sparse: {"graph": GRAPH, "x": IMAGE},
    metric.apply_laplacian: {"graph": GRAPH, "x": IMAGE, "v": VECTOR, "source": SOURCE},
    metric.mean_diagonal: {"graph": GRAPH, "x": IMAGE},
    metric.grad_norm_sq: {"graph": GRAPH, "x": IMAGE, "grad": VECTOR, "source": SOURCE},
    metric.grad_norm_sq_algorithm1: {"graph": GRAPH, "x": IMAGE, "grad": VECTOR},
    metric.log_likelihood: {"graph": GRAPH, "x": INSIDE, "xi": TANGENT},
    metric.fit_ground_metric: {"x": INSIDE, "xi": TANGENT, "radius": whole(1, 4, 2**31)},
    metric.potential: {
        "graph": GRAPH, "x": IMAGE, "xi": TANGENT, "source": NO_SOURCE, "tol": TOL,
        "max_iter": MAX_ITER,
    },
    metric.tangent_norm_sq: {
        "graph": GRAPH, "x": IMAGE, "xi": TANGENT, "source": NO_SOURCE, "unit": UNIT, "tol": TOL,
        "max_iter": MAX_ITER,
    },
    metric.inner: {
        "graph": GRAPH, "x": IMAGE, "xi": TANGENT, "zeta": TANGENT,
        "source": NO_SOURCE, "unit": UNIT, "tol": TOL, "max_iter": MAX_ITER,
    },
    metric.dynamic_distance: {
        "graph": GRAPH, "x": image(X[0]), "y": image(X[0].flip(-1), X[1]),
        "steps": whole(2, 1, 2**31), "unit": UNIT,
    },
    # noise
    noise.sample: {
        "graph": GRAPH, "x": IMAGE, "eta": number(0.1, -1), "generator": GENERATOR,
        "n": whole(2, 2**31),
        "nonnegative": flag(True), "source": SOURCE,
    },
    noise.project_to_simplex: {
        "x": (
            X, [*NO_TENSORS, X.long(), X.half(), X * 1j, X.sum(), X[..., :0], *unusual(X)[1:],
                *with_pixels(X, NAN, INF)],
        ),
        "mass": (
            1.0, [None, "1", NAN, INF, -1, 1e300, np.True_, np.array(1.0), [1.0], object(), X * 1j,
                  *unusual(X), torch.ones(3), np.ones(3), -torch.ones(2, 1),
                  torch.full((2, 1), NAN)],
        ),
    },
    # calculus
    calculus.gradient: {"f": SCALAR, "graph": GRAPH, "x": IMAGE, "create_graph": flag(True)},
    calculus.christoffel: {"graph": GRAPH, "x": INSIDE, "sigma1": TANGENT, "sigma2": TANGENT},
    calculus.hessian: {
        "f": SCALAR, "graph": GRAPH, "x": INSIDE, "sigma1": TANGENT, "sigma2": TANGENT,
        "create_graph": flag(False),
    },
    calculus.geodesic: {
        "graph": GRAPH, "x": INSIDE, "sigma": vector(XI / 100, XI + 1), "time": number(0.5),
        "steps": whole(3, 2**31),
    },
    calculus.exponential_map: {
        "graph": GRAPH, "x": INSIDE, "sigma": vector(XI / 100, XI + 1), "steps": whole(3, 2**31),
    },
    calculus.laplace_beltrami: {
        "f": SCALAR, "metric": METRIC, "x": INSIDE, "volume": flag(True),
        "estimator": option("stochastic", None), "samples": SAMPLES, "generator": GENERATOR,
        "create_graph": flag(False),
    },
    calculus.laplace_beltrami_printed: {"f": SCALAR, "graph": GRAPH, "x": INSIDE},
    calculus.laplacian_divergence: {"graph": GRAPH},
    calculus.log_volume: {"graph": GRAPH, "x": INSIDE},
    calculus.log_volume_gradient: {"graph": GRAPH, "x": INSIDE},
    # transport
    transport.as_measure: {"image": measure(A)},
    transport.displacement_interpolation: {
        "x": measure(A), "y": measure(B), "t": number(0.5, -0.1, 1.1),
        "plan": (
            PLAN, ["x", 3, NAN, object(), PIXELS, {}, (1, 2, 3), PLAN[::-1],
                   PLAN._replace(mass=None), PLAN._replace(source=PLAN.source + 0.5),
                   PLAN._replace(target=PLAN.target[:2])],
        ),
    },
    transport.euclidean_interpolation: {
        "x": measure(A), "y": measure(B), "t": number(0.5, -0.1, 1.1),
    },
    transport.fixed_distance_interpolate: {
        "x": measure(A), "y": measure(B), "distance": number(0.01, -1, 99),
        "metric": option("euclidean", None),
    },
    transport.ground_cost: {
        "shape": (
            (3, 4), [None, 3, "ab", (3,), (3, 4, 5), (0, 4), (3, -1), (3, 4.5), (True, 4), (NAN, 4),
                     (INF, 4), ("3", "4"), (np.True_, 4), (2**31, 4), (10**400, 1), np.array(3),
                     object(), torch.ones(2)],
        ),
        "p": ORDER,
        "metric": (
            "cityblock", [None, "nothing", "", 3, NAN, object(), PIXELS[1:], -PIXELS, PIXELS * NAN,
                          [[1]], GRID, np.float32(0.5), Returns("x"), Returns(NAN), Returns(-1.0)],
        ),
    },
    transport.pairwise_distances: {
        "xs": measure(A[None].repeat(2, 0)), "ys": optional(measure(B[None].repeat(2, 0))),
        "p": ORDER, "cost": COSTS, "workers": optional(whole(1)),
    },
    transport.sinkhorn_distance: {
        "x": measure(A), "y": measure(B), "epsilon": number(0.5, 0, -1, 1e-300, 1e300), "p": ORDER,
        "debiased": flag(True), "tol": optional(number(1e-6, 0, -1)), "max_iter": whole(1000),
    },
    transport.transport_plan: {"x": measure(A), "y": measure(B), "p": ORDER, "cost": COSTS},
    transport.wasserstein_distance: {"x": measure(A), "y": measure(B), "p": ORDER, "cost": COSTS},
    # models
    models.Normalize: {
        **{k: SIZES[k] for k in ("mean", "std")}, "channels": optional(SIZES["channels"]),
    },
    models.build: {
        "name": option("small_cnn", None), **SIZES,
        "activation": option("relu"), "width": optional(whole(2)),
    },
    models.register: {
        "name": ("refusals", [None, "", 3, NAN, ["x"], object(), "resnet8"]),
        "make": (models.small_cnn, ["x", 3, NAN, object()]),
    },
    models.enresnet8: SIZES,
    models.enresnet20: SIZES,
    models.resnet8: SIZES,
    models.resnet20: SIZES,
    models.small_cnn: SIZES,
    # evaluation
    evaluation.predictions: {"model": MODEL, "images": IMAGES, "batch_size": BATCH},
    evaluation.misclassified: {
        "model": MODEL, "images": IMAGES, "labels": LABELS, "batch_size": BATCH,
        "attack": optional(function(lambda m, x, y: x, *RETURNED, X.double())),
    },
    evaluation.error: {"model": MODEL, "images": IMAGES, "labels": LABELS, "batch_size": BATCH},
    evaluation.robust_error: {
        "model": MODEL, "images": IMAGES, "labels": LABELS, "batch_size": BATCH,
        "attack": function(lambda m, x, y: x, *RETURNED, X.double(), X + 2, X * NAN),
    },
    evaluation.label_flips: {
        "model": MODEL, "images": IMAGES, "axis": AXIS, "shifts": SHIFTS, "padding": PADDING,
        "batch_size": BATCH,
    },
    evaluation.translated_labels: {
        "model": MODEL, "images": IMAGES, "axis": AXIS, "shifts": SHIFTS, "padding": PADDING,
        "batch_size": BATCH,
    },
    evaluation.translation_sequence: {
        "image": (X, [*NO_TENSORS, X.long(), X * 1j, X[0, 0], X.sum(), *unusual(X)[1:]]),
        "axis": AXIS, "shifts": SHIFTS, "padding": PADDING,
    },
    evaluation.variations: {
        "images": stored(torch.rand(2, 1, 20, 20)), "seed": natural(0),
        "shift": natural(2, 21), "degrees": number(10, -1, 1e39), "margin": natural(1, 20, -5),
    },
    evaluation.robust_radius: {
        "model": MODEL, "x": PHOTOS, "y": LABELS, "graph": GRAPH, "iterations": whole(2, 2**31),
        "curvature": (0.1, [*NO_LISTS[1:], [0.1], np.ones(2), -1, 10**400, torch.ones(3),
                            -torch.ones(2), torch.ones(2) * NAN, torch.ones(2).long()]),
    },
    evaluation.smallest_attack: {
        "model": MODEL, "x": PHOTOS, "y": LABELS, "graph": GRAPH, "steps": STEPS,
        "tries": whole(2, 2**31),
    },
    evaluation.curvatures: {
        "f": SCALAR, "x": IMAGE, "graph": GRAPH, "at": optional(image(X)),
        "iterations": whole(2, 2**31),
    },
    evaluation.curvature_sums: {
        "f": SCALAR, "x": IMAGE, "graph": GRAPH, "generator": GENERATOR,
        "samples": whole(2, 2**31),
    },
    evaluation.softplus_bounds: {
        "weights": ([torch.ones(4, 12), torch.ones(3, 4)],
                    [None, "x", 3, NAN, [], [3], [torch.ones(3, 12)], torch.ones(2, 3, 12),
                     [torch.ones(4, 12), torch.ones(3, 4) * NAN],
                     [torch.ones(4, 12), torch.ones(3, 4).double()],
                     [torch.ones(4, 11), torch.ones(3, 4)],
                     [torch.ones(4, 12), torch.ones(3, 5)]]),
        "x": IMAGE, "y": LABELS, "graph": GRAPH,
    },
    # attacks
    attacks.Attack: {
        "method": option("pgd", None), "epsilon": RADIUS, "alpha": optional(ALPHA), "steps": STEPS,
        "restarts": whole(1, 2**31), "norm": NORM, "seed": natural(0),
    },
    attacks.Attack("pgd", 0.1): {
        "model": MODEL, "x": PHOTOS, "y": LABELS, "generator": optional(GENERATOR),
    },
    attacks.fgsm: {"model": MODEL, "x": PHOTOS, "y": TARGETS, "epsilon": RADIUS, "norm": NORM},
    attacks.ifgsm: {
        "model": MODEL, "x": PHOTOS, "y": TARGETS, "epsilon": RADIUS, "alpha": ALPHA,
        "steps": STEPS, "norm": NORM,
    },
    attacks.pgd: {
        "model": MODEL, "x": PHOTOS, "y": LABELS, "epsilon": RADIUS, "alpha": ALPHA,
        "steps": STEPS, "norm": NORM, "restarts": whole(1, 2**31), "generator": optional(GENERATOR),
    },
    attacks.ascend: {
        "model": MODEL, "x": PHOTOS, "y": TARGETS, "epsilon": RADIUS, "alpha": ALPHA,
        "steps": STEPS, "norm": NORM, "start": (X, [*PHOTOS[1][:-1], X.double(), X[:1]]),
    },
    attacks.input_gradient: {"model": MODEL, "x": GRADED, "y": TARGETS},
    attacks.project_to_wasserstein_ball: {
        "w": (X, [*VALUES[1], *with_pixels(X, NAN, INF)]), "x": PHOTOS, "epsilon": RADIUS,
        "window": WINDOW, "p": ORDER, "regularization": SHARP, "iterations": STEPS,
    },
    attacks.projected_sinkhorn_attack: {
        "model": MODEL, "x": PHOTOS, "y": TARGETS, "epsilon": RADIUS, "steps": STEPS,
        "step": number(0.2, 0, -1, 1e300), "window": WINDOW, "p": ORDER, "regularization": SHARP,
        "iterations": STEPS,
    },
    attacks.register: {
        "name": ("mine", [None, "", 3, NAN, ["x"], object(), "pgd"]),
        "method": (attacks.fgsm, ["x", 3, NAN, object()]),
    },
    attacks.wasserstein_attack: {
        "model": MODEL, "x": PHOTOS, "y": TARGETS, "graph": GRAPH, "steps": STEPS, "unit": UNIT,
        "epsilon": (0.1, [*NO_LISTS, [0.1], np.ones(1), -1, 10**400, torch.ones(3), -torch.ones(2),
                          torch.ones(2) * NAN, torch.ones(2).long()]),
        "floor": number(0.01, 0, -1, 2), "source": SOURCE,
    },
    # regularizer
    GradientPenalty: {
        "metric": (GRID, [*NORMS[1], regularizer.InputNorm()]),
        "of": option("loss", None), "mode": option("double_backprop", None),
        "scale": SCALE, "loss": LOSS_NAMES, "central": flag(False),
        "step": number(0.01, 0, -1, 1e-300, 1e300),
    },
    PENALTY: {"model": FLOATING, "x": image(X, 1e38 * X, 1e-44 * X), "y": SCORES},
    PENALTY.terms: {"model": FLOATING, "x": image(X, 1e38 * X, 1e-44 * X), "y": SCORES},
    **{
        norm: {"x": VALUES, "g": SLOPE}
        for kind in (regularizer.L1, regularizer.LInf, regularizer.Euclidean)
        for norm in (kind().norm_sq, kind().direction)
    },
    WASSERSTEIN.norm_sq: {"x": on_graph(X), "g": SLOPE},
    WASSERSTEIN.direction: {"x": on_graph(X), "g": SLOPE},
    regularizer.L1: {},
    regularizer.LInf: {},
    regularizer.Euclidean: {},
    regularizer.InputNorm: {},
    regularizer.Wasserstein: {"graph": GRAPH, "scale": SCALE, "source": SOURCE},
    regularizer.input_norm: {"metric": NORMS, "scale": SCALE},
    regularizer.laplacian_penalty: {
        "metric": METRIC, "model": FLOATING, "x": image(X), "y": SCORES, "generator": GENERATOR,
        "samples": whole(1, 2**31), "scale": SCALE, "loss": LOSS,
    },
    regularizer.first_order_expansion: {
        "loss": LOSS, "f": FLOATING, "x": GRADED, "y": SCORES,
        "mean": (XI, [*NO_TENSORS, XI.long(), XI * 1j, XI[:1], XI.double(), *unusual(XI)]),
        "create_graph": flag(False),
    },
    regularizer.second_order_expansion: {
        "loss": LOSS, "f": FLOATING, "metric": METRIC, "x": INSIDE, "y": SCORES,
        "volume": flag(True), "create_graph": flag(False), "samples": SAMPLES,
        "estimator": option("stochastic", None), "generator": GENERATOR,
    },
    regularizer.perturbed_loss: {
        "loss": LOSS, "f": FLOATING, "x": GRADED, "y": SCORES,
        "xi": (XI[None].repeat(2, 1, 1, 1, 1),
               [*NO_TENSORS, XI.long(), XI * 1j, XI[:, :, 1:], XI.sum(), XI[:, None] * NAN,
                *unusual(XI[None])]),
    },
    # data
    data.Dataset: {
        "name": ("mine", [None, "", 3, NAN, b"x", object()]),
        "images": (STORED, [None, "x", 3, NAN, object(), STORED[0], STORED[:0, :0], STORED.float(),
                            STORED / 255, STORED.int(), STORED * 1j, STORED > 3,
                            STORED.to_sparse(), STORED.to("meta"), STORED[1:]]),
        "labels": (CLASSES, [None, "x", 3, NAN, object(), CLASSES[:1], CLASSES.float(), CLASSES - 1,
                             CLASSES[:, None], CLASSES > 1, CLASSES * 1j, CLASSES * 10**9,
                             CLASSES.to("meta"), [2**63] * 8]),
        "source": ("here", [None, 3, NAN, b"x", object()]),
        "split": (PARTS, [None, "x", 3, NAN, object(), [1], {}, {"test": [1]}, {"train": None},
                          {"train": [99]}, {"train": [-1]}, {"train": [0.5]}, {"train": "x"},
                          {"train": [0, 0], "test": [1]}, {"train": [0], "test": [0]}, {3: [0]},
                          {"train": slice(None, "a")}, {"train": range(10**30)}]),
        "split_name": text(None),
        "classes": (("a", "b", "c"), [None, 3, NAN, object(), (1, 2, 3), "abc",
                                      ("a", "a", "b"), ("a",), {"a"}, torch.tensor(3)]),
    },
    MINE.part: {"which": option("train", None), "images": optional(whole(3, 99))},
    data.load: {
        "name": option("mnist5k", None), "root": (None, [3, NAN, object(), ["x"], b"x"]),
        "split": (None, ["x", "", 3, NAN, object(), ["x"]]),
    },
    data.names: {},
    data.register: {
        "name": ("mine", [None, "", 3, NAN, ["x"], object(), "mnist5k"]),
        "read": (lambda root, split: MINE, ["x", 3, NAN, object()]),
        "splits": ((), [None, 3, NAN, object(), "ab", [3], [None]]),
    },
    # study
    study.across_seeds: {"rows": ROWS, "condition": option("natural", None)},
    study.choose: {
        "search": ROWS, "allowance": number(0.01, -1),
        "conditions": (["natural"], [None, 3, "natural", NAN, [], [3], [None], ["x"]]),
    },
    study.summary: {
        "outcomes": (
            np.ones(3),
            [
                None, "x", 3, NAN, [True], object(), torch.ones(3), np.ones(()), np.ones(0),
                np.eye(2), np.array([NAN]), np.array([2.5]), np.array([-1.0]), np.array(["a"]),
                np.array([1j]), np.array([None]), np.ma.array([1, 0], mask=[1, 0]),
            ],
        ),
    },
    study.declared: {"name": option("table1", None), "profile": option("cpu", None)},
    study.progress: {"name": option("label_keeping", None), "profile": option("full", None)},
    study.network: {"method": option("none", None), "profile": option("cpu", None, "quick")},
    study.path_of: {"name": NAME, "profile": PROFILE, "suffix": text(".json", None)},
    study.stored: {"name": NAME, "profile": PROFILE},
    study.found: {"name": NAME, "profile": PROFILE},
    study.provenance: {"command": text("run", None, ""), "seconds": number(1.0, -1)},
    study.describe: {
        "report": (
            study.stored("label_keeping"),
            [*REPORTS, {"provenance": 3}, {"provenance": {"device": 3}}],
        )
    },
    study.network_minutes: {"report": ({}, REPORTS)},
    # training
    training.Config: {
        **{k: option(getattr(CONFIG, k), None) for k in (
            "part", "activation", "method", "of", "mode", "augmentation",
            "optimizer", "schedule", "precision",
        )},
        **{k: whole(getattr(CONFIG, k)) for k in ("epochs", "batch_size", "steps")},
        **{k: optional(whole(2)) for k in ("images", "width", "radius")},
        **{k: number(getattr(CONFIG, k), -1) for k in (
            "eta", "strength", "learning_rate", "weight_decay",
        )},
        "epsilon": number(CONFIG.epsilon, -1, 8), "momentum": number(CONFIG.momentum, -1, 1),
        **{k: text(getattr(CONFIG, k), None) for k in ("data", "model")},
        "split": text(None), "scale": SCALE, "source": option(None), "warmup": natural(0),
        "seed": natural(0),
        "milestones": (
            (1, 2), [None, 3, "ab", NAN, object(), (0.5,), (True,), (-1,), ("1",), (NAN,)],
        ),
    },
    training.fit: {"config": CONFIGURED, "model": NETWORK, **RUN},
    training.Training: {
        "config": CONFIGURED, "model": NETWORK, **{k: RUN[k] for k in RUN if k != "progress"},
        "device": ("cpu", [*DEVICE[1], None]),
    },
    training.fit_together: {
        "configs": ([CONFIG], [None, "x", 3, NAN, object(), CONFIG, [None], [{}], [3]]),
        "folders": (None, ["x", 3, NAN, object(), [3], [""], [NAN]]),
        **{k: RUN[k] for k in RUN if k != "folder"},
    },
    training.load: {
        "folder": (FOLDER.name, [None, "", 3, NAN, object(), b"x", ["x"]]), "device": DEVICE,
        "model": NETWORK,
    },
    training.network: {
        "config": CONFIGURED, "classes": whole(3), "channels": whole(1),
        "weights": (WEIGHTS, [None, "x", 3, NAN, object(), [X]]),
    },
    training.register: {
        "method": (training.METHODS["none"], [None, "x", 3, NAN, object(), int, lambda: 3]),
    },
}  # fmt: skip


# ---------------------------------------------------------------- the tests


def called(function):
    thing = function if hasattr(function, "__qualname__") else type(function)
    return f"{thing.__module__.removeprefix('wdtr_lite.')}.{thing.__qualname__}"


RECORDS = tuple | BaseException | data.Published | training.Objective  # made, not called


def test_the_table_is_complete():
    public = [getattr(room, name) for room in ROOMS for name in room.__all__]
    missing = [thing for thing in public if callable(thing) and thing not in CALLS]
    assert all(isinstance(thing, type) and issubclass(thing, RECORDS) for thing in missing), missing
    for function, arguments in CALLS.items():
        call = function.forward if isinstance(function, nn.Module) else function
        parameters = inspect.signature(call).parameters.values()
        named = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        hidden = any(p.kind == p.VAR_KEYWORD for p in parameters)  # handed on
        assert named == set(arguments) or (hidden and named < set(arguments)), called(function)


@pytest.fixture(autouse=True)
def registries_as_before():
    tables = [attacks.METHODS, data.SOURCES, models.MODELS, training.METHODS]
    before = [dict(table) for table in tables]
    yield
    for table, known in zip(tables, before, strict=True):
        table.clear()
        table.update(known)


@contextmanager
def at_once():
    """A TimeoutError after two seconds."""

    def stop(*_):
        raise TimeoutError("two seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def marks(value):
    """What a message can show of a value."""
    if isinstance(value, Returns):
        yield from marks(value.value)
    yield from (repr(value), type(value).__name__)
    nested = isinstance(value, torch.Tensor) and value.is_nested
    if isinstance(value, torch.Tensor | np.ndarray) and not nested:
        yield from (str(value.dtype), str(tuple(value.shape)))
    if isinstance(value, torch.Tensor):
        yield from (str(value.dtype), str(value.device), str(value.layout))
        held = value.layout == torch.strided and not (value.is_meta or nested)
        wide = value.double() if value.is_floating_point() else value
        sums = wide.sum((-2, -1)) if value.dim() > 1 else wide
        value = [*value.flatten().tolist(), *sums.flatten().tolist()] if held else ()
    if isinstance(value, float):
        yield from (f"{value:g}", f"{value:.3g}", f"{value:.9g}")
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple | np.ndarray):
        for v in value:
            yield from marks(v)


def shown(mark, text):
    """Whether a word of a text; of long ones the beginning."""
    end = "" if mark[40:] else r"(?!\w)"
    return re.search(rf"(?<![\w.]){re.escape(mark[:40])}{end}", text)


CASES = [(function, name) for function, arguments in CALLS.items() for name in arguments]


def outcome(function, name, bad):
    """What is wrong with the refusal of a bad value, if anything."""
    arguments = {k: good for k, (good, _) in CALLS[function].items()} | {name: bad}
    try:
        with at_once():
            returned = function(**arguments)
    except (TypeError, ValueError) as error:
        text = str(error)
        if not re.search(rf"\b{name}\b", text):
            return f"does not name {name}: {error!r}"
        if not any(shown(mark, text) for mark in marks(bad)):
            return f"does not show the value: {error!r}"
        return None
    except BaseException as error:
        return f"raw {error!r}"
    return f"taken: {type(returned).__name__}"


@pytest.mark.parametrize(
    ("function", "name"), CASES, ids=[f"{called(function)}-{name}" for function, name in CASES]
)
def test_bad_arguments_are_refused(function, name):
    found = [(bad, outcome(function, name, bad)) for bad in CALLS[function][name][1]]
    wrong = [f"{name}={bad!r:.60} {what:.150}" for bad, what in found if what]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(found)}", *wrong])


@pytest.mark.parametrize("function", CALLS, ids=called)
def test_good_arguments_are_taken(function):
    function(**{name: good for name, (good, _) in CALLS[function].items()})


# ---------------------------------------------------------------- NumPy's numbers


def numpys(value):
    """Numbers of Python's as NumPy's, of whose types whole ones have the smallest."""
    if type(value) in (tuple, list) and all(type(each) in (int, float) for each in value):
        return type(value)(map(numpys, value))
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int):
        return np.min_scalar_type(value).type(value)
    return np.float64(value) if isinstance(value, float) else value


def plain(value):
    """What can be compared of a result, with the type of each number; but not times."""
    if isinstance(value, torch.Tensor):
        return plain(value.detach().to_dense().numpy())
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.tolist()
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items() if "second" not in name}
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    if isinstance(value, nn.Module):
        return repr(value), plain(value.state_dict())
    fields = getattr(value, "__dict__", {})
    numbers = {k: each for k, each in fields.items() if np.isscalar(each)}
    return (type(value).__name__, plain(numbers)) if fields else repr(value)


def is_number(value):
    return "np." in repr(numpys(value))


NUMBERS = [(function, name) for function, name in CASES if is_number(CALLS[function][name][0])]


@pytest.mark.parametrize(
    ("function", "name"), NUMBERS, ids=[f"{called(function)}-{name}" for function, name in NUMBERS]
)
def test_numpys_numbers_are_pythons(function, name):
    arguments = {k: good for k, (good, _) in CALLS[function].items()}
    found = []
    for value in (arguments[name], numpys(arguments[name])):
        torch.manual_seed(0)
        GENERATOR[0].manual_seed(0)
        found.append(plain(function(**arguments | {name: value})))
    assert found[0] == found[1]

"""Every check of an argument, by itself: what it takes, what it refuses, and what it says then."""

import re
import warnings
from fractions import Fraction
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import generator, gpu, graph_of, images, inside, kernel, tangents

from wdtr_lite import PixelGraph, checks
from wdtr_lite.transport import TransportPlan, measures, transport_plan

NAN, INF = float("nan"), float("inf")


def refused(cases):
    """pytest parameters of a dict: check -> list of (arguments, error, message)."""
    return pytest.mark.parametrize(
        ("check", "arguments", "error", "says"),
        [
            pytest.param(getattr(checks, check), *case, id=f"{check}-{k}")
            for check, some in cases.items()
            for k, case in enumerate(some)
        ],
    )


def test_checks_load_no_module_of_the_package():
    """Any of them may import it."""
    assert not [v for v in vars(checks).values() if getattr(v, "__module__", "") == "wdtr_lite"]
    assert "PixelGraph" not in vars(checks) and "Support" not in vars(checks)


# ---------------------------------------------------------------- numbers and options


@refused(
    {
        "whole": [
            ((0, "n"), ValueError, "n must be at least 1, got 0"),
            ((-3, "n"), ValueError, "n must be at least 1, got -3"),
            ((1, "n", 2), ValueError, "n must be at least 2, got 1"),
            ((2.0, "n"), TypeError, "n must be a whole number, got 2.0"),
            ((True, "n"), TypeError, "n must be a whole number, got True"),
            (("4", "n"), TypeError, "n must be a whole number, got '4'"),
            ((None, "n"), TypeError, "n must be a whole number, got None"),
        ],
        "number": [
            ((-0.1, "eta"), ValueError, "eta must be non-negative and finite, got -0.1"),
            ((NAN, "eta"), ValueError, "eta must be non-negative and finite, got nan"),
            ((INF, "eta"), ValueError, "eta must be non-negative and finite, got inf"),
            (("a", "eta"), TypeError, "eta must be a number, got str 'a'"),
            ((True, "eta"), TypeError, "eta must be a number, got bool True"),
            ((1j, "eta"), TypeError, "eta must be a number, got complex 1j"),
            ((torch.ones(()), "eta"), TypeError, "eta must be a number, got Tensor tensor\\(1.\\)"),
            ((np.ones(1), "eta"), TypeError, r"eta must be a number, got ndarray array\(.*"),
        ],
        "moderate": [
            ((-1, "eta"), ValueError, "eta must be non-negative and finite, got -1"),
            ((1e31, "eta"), ValueError, r"eta must be at most 1e30, got 1e\+31"),
        ],
        "below_one": [
            ((-1, "m"), ValueError, "m must be non-negative and finite, got -1"),
            ((1, "m"), ValueError, "m must be less than 1, got 1"),
        ],
        "intensity": [
            ((-1, "alpha"), ValueError, "alpha must be non-negative and finite, got -1"),
            ((8, "alpha"), ValueError, r"alpha must be at most 1, .* got 8: .* 8/255\?"),
        ],
        "tolerance": [
            ((value,), ValueError, f"tol must be between 0 and 1, got {value}")
            for value in (0.0, 1, -1e-9, NAN, INF)
        ],
        "order": [
            ((value,), ValueError, f"p must be at least 1 and finite, got {value!r}")
            for value in (0.5, 0, -1, NAN, INF)
        ],
        "time": [
            ((value,), ValueError, rf"t must lie in \[0, 1\], got {value!r}")
            for value in (-1e-9, 1.1, NAN, INF)
        ],
        "option": [
            (("l2", "metric", ("a", "b")), ValueError, "metric must be one of 'a', 'b', got 'l2'"),
            ((None, "unit", ("pixel",)), ValueError, "unit must be one of 'pixel', got None"),
            (("", "unit", (None, "x")), ValueError, "unit must be one of None, 'x', got ''"),
        ],
    }
)
def test_numbers_and_options(check, arguments, error, says):
    with pytest.raises(error, match=f"^{says}$"):
        check(*arguments)


class Local:
    """Not in a function."""


def in_itself():
    return reduce(lambda inner, _: [inner], range(10**5), [])


def of_a_function():
    class Inner:
        pass

    return Inner()


@refused(
    {
        "instance": [
            ((3, "root", str), TypeError, "root must be str, got 3"),
            ((3, "root", (str, type(None))), TypeError, "root must be str or None, got 3"),
        ],
        "every": [
            (("ab", "names", str), TypeError, "names must be list or tuple, got 'ab'"),
            ((["a", 3], "names", str), TypeError, r"names\[1\] must be str, got 3"),
        ],
        "some": [
            (((), "seeds"), ValueError, r"seeds must not be empty, got \(\)"),
            (({}, "grid", dict), ValueError, "grid must not be empty, got {}"),
            ((3, "seeds"), TypeError, "seeds must be list or tuple, got 3"),
        ],
        "held": [
            (({"a": 1}, "report", "b"), ValueError, r"report must have 'b', got \['a'\]"),
            (({"a": 1}, "report", "a", str), TypeError, r"report\['a'\] must be str, got 1"),
        ],
        "distinct": [
            (((0, 1, 0), "seeds"), ValueError, "seeds must differ, got 0 again"),
            ((["a", [], []], "names"), ValueError, r"names must differ, got \[\] again"),
        ],
        "outcomes": [
            (([True],), TypeError, r"outcomes must be ndarray, got \[True\]"),
            (
                (np.array(["a"]),),
                TypeError,
                r"outcomes must be bool or numbers in \[0, 1\], got <U1",
            ),
            (
                (np.ma.array([1, 0], mask=[1, 0]),),
                ValueError,
                r"outcomes must have no masked values, got \[None, 0\]",
            ),
            ((np.array([NAN]),), ValueError, r"outcomes must be in \[0, 1\], got nan to nan"),
            ((np.array([2]),), ValueError, r"outcomes must be in \[0, 1\], got 2 to 2"),
            ((np.ones((0,), bool),), ValueError, r"outcomes must be \(n,\), .*, got \(0,\)"),
            ((np.ones((2, 2), bool),), ValueError, r"outcomes must be \(n,\), .*, got \(2, 2\)"),
        ],
        "as_json": [
            (({"a": len}, "q"), TypeError, "q must be what JSON keeps, got {'a': <.*"),
            (({"a": [NAN]}, "q"), ValueError, "q must have finite numbers, got NaN"),
            (
                ([{1: 2, "1": 3}], "q"),
                ValueError,
                "the keys in q, as text, must differ, got '1' again",
            ),
            ((-INF, "q"), ValueError, "q must have finite numbers, got -Infinity"),
            (
                (in_itself(), "q"),
                ValueError,
                r"q must be what JSON keeps, got (\[\[.*|a list that .*)",
            ),
        ],
        "keyed": [
            (({1: 2}, "q"), TypeError, "each key in q must be str, got 1"),
            (([{"a": ({None: 2},)}], "q"), TypeError, "each key in q must be str, got None"),
        ],
        "importable": [
            ((of_a_function(), "q"), TypeError, "q is a Inner, which other processes cannot .*"),
            (([lambda: 0], "q"), TypeError, "q cannot be sent to another process: .*"),
        ],
    }
)
def test_objects_and_collections(check, arguments, error, says):
    with pytest.raises(error, match=f"^{says}$"):
        check(*arguments)


def test_good_objects_and_collections():
    checks.instance(True, "n", (int, str))
    assert checks.every(["a"], "names", str) == ["a"] and checks.every((), "names", str) == ()
    assert checks.some({"a": 1}, "grid", dict) == {"a": 1}
    assert checks.held({"a": 1}, "report", "a") == checks.held({"a": 1}, "", "a", int) == 1
    checks.distinct((), "seeds")
    checks.distinct((0, 1), "seeds")
    checks.outcomes(np.array([True, False]))
    assert checks.as_json({"a": (1, None, "NaN"), 2: 0.1}, "q") == {
        "a": [1, None, "NaN"], "2": 0.1,
    }  # fmt: skip
    checks.keyed({"a": [{"b": {}}, 3]}, "q")
    checks.importable(Local(), "q")


def test_positive_numbers():
    for value in (0, -1, NAN, INF):
        with pytest.raises(ValueError, match=f"^tol must be positive and finite, got {value!r}$"):
            checks.number(value, "tol", positive=True)


def test_good_numbers_and_options():
    for value in (1, 10**12, np.int64(3)):
        checks.whole(value, "n")
    checks.whole(0, "n", 0)
    for value in (0, 2.5, np.float32(1), 1e300):
        assert checks.number(value, "eta") == value
    checks.number(1e-300, "eta", positive=True)
    assert checks.tolerance(1e-10) == 1e-10
    assert checks.order(1) == 1 and checks.order(2.5) == 2.5
    assert checks.time(0) == 0 and checks.time(1.0) == 1


def test_numbers_are_returned_as_pythons():
    small, half = np.uint8(1), np.float16(0.5)
    found = [checks.whole(small, "n"), checks.number(half, "eta"), checks.finite(small, "t")]
    found += [checks.tolerance(half), checks.order(small), checks.time(half)]
    found += [checks.moderate(small, "eta"), checks.below_one(half, "m"), checks.intensity(1, "a")]
    assert [type(value) for value in found] == [int, *[float] * 8]
    assert checks.flag(np.True_, "volume") is True
    for pair in (checks.grid((small, small)), checks.offset(GRAPH, X, (small, -1))):
        assert all(type(side) is int for side in pair)
    checks.option(None, "unit", (None, "pixel"))


# ---------------------------------------------------------------- tensors and graphs

GRAPH, X = graph_of(3, 4, 1), images(2, 3, 4)


def with_pixel(value, image=X):
    image = image.clone() if isinstance(image, torch.Tensor) else image.copy()
    image[..., 1, 2] = value
    return image


BAD_TENSORS = [
    (X[..., :-1], ValueError, r"must be \(\.\.\., 3, 4\), got \(2, 3, 3\)"),
    (X.mT, ValueError, r"must be \(\.\.\., 3, 4\), got \(2, 4, 3\)"),
    (X.flatten(), ValueError, r"must be \(\.\.\., 3, 4\), got \(24,\)"),
    (X.long(), TypeError, "must be a floating tensor, got torch.int64"),
    (X * 1j, TypeError, "must be a floating tensor, got torch.complex128"),
    (X.float(), TypeError, r"is torch.float32 but the graph is torch.float64: .*graph.to\(dtype="),
    (X.half(), TypeError, "is torch.float16 but the graph is torch.float64"),
    (X.to("meta"), ValueError, r"is on meta but the graph is on cpu: use graph.to\(device\)"),
    (X.numpy(), TypeError, "must be a tensor, got ndarray"),
    (X.tolist(), TypeError, "must be a tensor, got list"),
    (None, TypeError, "must be a tensor, got NoneType"),
]
with warnings.catch_warnings(action="ignore"):
    QUANTISED = torch.quantize_per_tensor(X.float(), 0.01, 0, torch.quint8)
    NESTED = torch.nested.as_nested_tensor([X.float()], layout=torch.strided)
BAD_KERNELS = [
    (torch.ones(3, 3).long(), TypeError, "must be a floating tensor, got torch.int64"),
    (torch.ones(3, 3).half(), TypeError, "must be torch.float32 or .*, got torch.float16"),
    (torch.ones(3, 3).bfloat16(), TypeError, "must be torch.float32 or .*, got torch.bfloat16"),
    (torch.ones(5, 5), ValueError, r"must have shape \(3, 3\) for radius 1, got \(5, 5\)"),
    (torch.tensor(1.0), ValueError, r"must have shape \(3, 3\) for radius 1, got \(\)"),
    (-torch.ones(3, 3), ValueError, "must be non-negative and finite, got -1 to -1"),
    (torch.full((3, 3), NAN), ValueError, "must be non-negative and finite, got nan to nan"),
    (torch.full((3, 3), INF), ValueError, "must be non-negative and finite, got inf to inf"),
]


@refused(
    {
        "floating": [
            ((value, "v"), error, f"v {says}$")
            for value, error, says in BAD_TENSORS
            if error is TypeError and "graph" not in says
        ],
        "dense": [
            ((X.to_sparse(), "v"), TypeError, "v must be a dense tensor, got torch.sparse_coo"),
            ((QUANTISED, "v"), TypeError, "v must be .*, got a quantised one of torch.quint8"),
            ((NESTED, "v"), TypeError, "v must be .*, got a nested one of torch.float32"),
        ],
        "precise": [
            ((X.half(), "it"), TypeError, "x must be float32 or float64 for it, got torch.float16"),
        ],
        "in_range": [
            ((with_pixel(value), "f"), RuntimeError, "f overflows torch.float64: scale its arg")
            for value in (NAN, INF, -INF)
        ],
        "like": [
            ((X, X[0], "mean"), ValueError, r"mean must .* of x, \(3, 4\), got \(2, 3, 4\)"),
            ((X[:0], X, "mean"), ValueError, r"mean must .* of x, \(2, 3, 4\), got \(0, 3, 4\)"),
        ],
        "nonnegative": [
            ((with_pixel(value), "y"), ValueError, f"y must be non-negative and finite, {says}")
            for value, says in ((-1e-9, "got -1e-09 to 0"), (NAN, "got nan"), (INF, ".* to inf"))
        ],
        "metric": [
            ((value,), ValueError, f"metric must be a PixelGraph or 'euclidean', got {value!r}")
            for value in (None, "l1", "Euclidean")
        ],
        "point": [
            (("l1", X), ValueError, "metric must be a PixelGraph or 'euclidean', got 'l1'"),
            ((GRAPH, -1 - X), ValueError, "x must be non-negative and finite"),
            ((GRAPH, X.float()), TypeError, "x is torch.float32 but the graph is torch.float64"),
            (("euclidean", X.long()), TypeError, "x must be a floating tensor, got torch.int64"),
            (("euclidean", None), TypeError, "x must be a tensor, got NoneType"),
        ],
        "generator": [
            ((None, X), TypeError, "generator must be a torch.Generator, got NoneType"),
            ((7, X), TypeError, "generator must be a torch.Generator, got int"),
            ((generator(), X.to("meta")), ValueError, "generator is on cpu but x is on meta"),
        ],
        "graph_dtype": [
            ((dtype, "a graph"), TypeError, f"a graph must be torch.float32 .*, got {dtype}")
            for dtype in (torch.float16, torch.int64, torch.complex64)
        ],
        "kernel": [((value, 1), error, f"weight {says}") for value, error, says in BAD_KERNELS],
        "on_graph": [
            *(((GRAPH, value, "v"), error, f"v {says}") for value, error, says in BAD_TENSORS),
            ((None, X, "v"), TypeError, "graph must be a PixelGraph, got NoneType"),
            (("euclidean", X, "v"), TypeError, "graph must be a PixelGraph, got str"),
            ((GRAPH, X, "xi", X[0]), ValueError, r"xi must have .* of x, \(3, 4\), got \(2"),
            ((PixelGraph(3, 4, 1), X, "v"), TypeError, "v is torch.float64 but the graph is torch"),
        ],
        "image": [
            *(((GRAPH, value, "y"), error, f"y {says}") for value, error, says in BAD_TENSORS),
            *(
                ((GRAPH, with_pixel(value)), ValueError, f"x must be non-negative and .*{says}")
                for value, says in ((-1e-9, "got -1e-09 to 0"), (NAN, "nan"), (INF, "to inf"))
            ),
        ],
    }
)
def test_tensors_and_graphs(check, arguments, error, says):
    with pytest.raises(error, match=f"^{says}"):
        check(*arguments)


@pytest.mark.parametrize(
    "changed",
    [
        [(0, 1)],
        [(0, 0), (0, 2)],  # left and right agree, and top and bottom; opposite offsets do not
        [(0, 1), (1, 0)],  # weight == weight.T says nothing of opposite offsets
    ],
)
def test_weights_differ_at_opposite_offsets(changed):
    weight = torch.ones(3, 3)
    for place in changed:
        weight[place] = 2
    with pytest.raises(ValueError, match=r"^weight must be equal at .*: weight \+ weight.flip\(0"):
        checks.kernel(weight, 1)
    checks.kernel(weight + weight.flip(0, 1), 1)


def test_the_interior_of_the_simplex():
    positive = inside(2, 3, 4)
    checks.image(GRAPH, positive, interior=True)
    checks.image(GRAPH, with_pixel(0.0, positive))
    with pytest.raises(ValueError, match="^x must be positive on every pixel, its least is 0: "):
        checks.image(GRAPH, with_pixel(0.0, positive), interior=True)
    with pytest.raises(ValueError, match="^x must be positive on every pixel, its least is 0: "):
        checks.point(GRAPH, with_pixel(0.0, positive), interior=True)
    with pytest.raises(ValueError, match="^y must be non-negative and finite, got -0.5 to "):
        checks.image(GRAPH, with_pixel(-0.5, positive), "y", interior=True)


def test_good_tensors():
    source = generator()
    assert checks.generator(source, X) is source
    checks.floating(X.bfloat16(), "v")
    checks.kernel(kernel(2).requires_grad_(), 2)
    checks.kernel(torch.empty(3, 3, device="meta"), 1)
    checks.on_graph(GRAPH, tangents(5, 2, 3, 4), "v")
    checks.on_graph(GRAPH, X, "v", X)
    for image in (X, X[0], X[:0], 0 * X, X.clone().requires_grad_()):
        checks.image(GRAPH, image)
        checks.point(GRAPH, image)
        checks.point("euclidean", image - 1, interior=True)
    checks.image(GRAPH, X[:0], interior=True)
    checks.image(GRAPH.converted("meta"), X.to("meta"), interior=True)
    checks.like(X, X + 1, "mean")
    checks.dense(X, "v")
    checks.precise(X, "it")
    assert checks.in_range(X, "f") is X and checks.in_range(META, "f") is META
    checks.nonnegative(torch.tensor([0, 3]), "y")
    checks.metric(GRAPH)
    checks.metric("euclidean")


def test_pixels_are_looked_at_where_they_can_be():
    """A bad image passes where looking at it would fail or wait."""
    bad = -1 - X

    def look(x):
        checks.image(GRAPH, x)
        return x.sum()

    with pytest.raises(ValueError, match="^x must be non-negative"):
        look(bad)
    expected = float(bad.sum())
    compiled = torch.compile(look, backend="eager", fullgraph=True)
    assert float(compiled(bad)) == pytest.approx(expected)
    assert float(torch.func.vmap(look)(bad).sum()) == pytest.approx(expected)
    assert torch.equal(torch.func.grad(look)(bad), torch.ones_like(bad))
    assert checks.eager(bad) and not checks.eager(bad.to("meta"))


@gpu
def test_pixels_are_not_looked_at_during_capture():
    x = X.cuda()
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        captured = checks.eager(x)
        x.sum()
    assert not captured and checks.eager(x)


# ---------------------------------------------------------------- measures, costs and plans

GOOD = np.arange(1.0, 13).reshape(3, 4)
OTHER = GOOD[::-1].copy()
A, B = (measures.support(z / z.sum()) for z in (GOOD, OTHER))
MANY = measures.support(np.ones(40_000))
PLAN = transport_plan(GOOD, OTHER)
SOURCE, TARGET = "plan must move x to y: its source", "plan must move x to y: its target"


def cost_with(value):
    cost = np.ones((12, 12))
    cost[3, 5] = value
    return cost


@refused(
    {
        "real": [
            ((GOOD + 1j, "x"), ValueError, "x must hold real numbers, got complex128"),
            ((torch.tensor(GOOD + 1j), "x"), ValueError, "x must hold .*, got torch.complex128"),
            ((np.array([["a", "b"]]), "x"), ValueError, "x must hold real numbers, got <U1"),
            ((np.array([[None, 1]]), "x"), ValueError, "x must hold real numbers, got object"),
        ],
        "measure": [
            ((kind(image), "x"), ValueError, f"x must {says}")
            for kind in (np.asarray, torch.tensor)
            for image, says in (
                (with_pixel(-2.5, GOOD), "be non-negative, .*: its least pixel is -2.5"),
                (with_pixel(np.nan, GOOD), "be non-negative, .*: its least pixel is nan"),
                (with_pixel(np.inf, GOOD), "be .*of positive mass: a total mass is inf"),
                (np.array([[np.inf, -np.inf]]), "be .*: its least pixel is -inf"),
                (0 * GOOD, "be .*of positive mass: a total mass is 0"),
                (np.full((3, 4), 1e308), "be .*of positive mass: a total mass is inf"),
                (np.stack([GOOD, 0 * GOOD]), "be .*of positive mass: a total mass is 0"),
                (np.zeros((0, 4)), r"have shape \(\.\.\., H, W\), got \(0, 4\)"),
                (GOOD[0], r"have shape \(\.\.\., H, W\), got \(4,\)"),
            )
        ],
        "pair": [
            ((GOOD, np.ones((4, 3))), ValueError, r"x and y must .*got \(3, 4\) and \(4, 3\)"),
            ((GOOD[None],) * 2, ValueError, r"x and y must .*\(H, W\), got \(1, 3, 4\) and"),
        ],
        "square": [
            ((np.ones((12, 11)), 12, "c"), ValueError, r"c must .*\(12, 12\).*got \(12, 11\)"),
            ((np.ones(()), 12, "c"), ValueError, r"c must .*\(12, 12\).*got \(\)"),
            ((cost_with(1) + 1j, 12, "c"), ValueError, "c must hold real numbers, got complex128"),
            ((np.full((12, 12), "1"), 12, "c"), ValueError, "c must hold real numbers, got <U1"),
        ],
        "pairs": [
            ((MANY, MANY), ValueError, "x and y must have at most 32768 lit pixels .*, got 40000"),
        ],
        "at_most": [
            ((2.5, "e", 2, torch.float32), ValueError, "e must be at most 2 in torch.f.*, got 2.5"),
        ],
        "costs": [
            ((cost_with(value), "cost"), ValueError, f"cost must .*, it holds {value}")
            for value in (-0.25, np.nan, np.inf)
        ],
        "plan": [
            ((PLAN, B, A), ValueError, f"{SOURCE} differs from x by 0.8"),
            ((PLAN, A, A), ValueError, f"{TARGET} differs from y by 0.8"),
            ((PLAN._replace(mass=PLAN.mass / 2), A, B), ValueError, f"{SOURCE} .* by 0.5"),
            ((PLAN._replace(target=PLAN.target + 12), A, B), ValueError, TARGET),
            ((PLAN._replace(source=PLAN.source - 12), A, B), ValueError, SOURCE),
            ((PLAN._replace(mass=PLAN.mass * np.nan), A, B), ValueError, "plan must hold .*nan"),
            ((PLAN._replace(mass=-PLAN.mass), A, B), ValueError, "plan must hold .* -0."),
            ((TransportPlan(*(k[:0] for k in PLAN)), A, B), ValueError, f"{SOURCE} .* by 1"),
        ],
    }
)
def test_measures_costs_and_plans(check, arguments, error, says):
    with pytest.raises(error, match=f"^{says}"):
        check(*arguments)


def test_a_plan_with_mass_where_the_image_has_none():
    black = measures.support(with_pixel(0.0, GOOD / 71))
    with pytest.raises(ValueError, match=f"^{SOURCE} differs from x by 0.0"):
        checks.plan(TransportPlan(*np.diag_indices(12), GOOD.ravel() / 71), black, black)


def test_good_measures_costs_and_plans():
    for image in (GOOD, torch.tensor(GOOD).bfloat16(), np.ones((2, 3, 4, 5)), GOOD > 1):
        checks.real(image, "x")
        checks.measure(image * 1.0, "x")
    checks.pair(GOOD, OTHER)
    checks.square(np.ones((12, 12), np.uint8), 12, "cost")
    checks.costs(cost_with(0.0), "cost")
    checks.plan(PLAN, A, B)
    checks.pairs(A, MANY)
    checks.at_most(2, "e", 2, torch.float32)


# ---------------------------------------------------------------- classifiers and their data

BATCH, LABELS = torch.zeros(3, 1, 4, 4), torch.tensor([0, 2, 1])
with torch.inference_mode():
    MADE_THERE = torch.ones(3)
STORED = BATCH.to(torch.uint8)
NO_IMAGES = r"images must be \(N, C, H, W\) or \(N, H, W\), got"


class Output:
    """As Hugging Face's models return one."""

    def __init__(self, logits):
        self.logits = logits


@refused(
    {
        "device": [
            (("gpu",), ValueError, "device must be cpu.* here, got 'gpu'"),
            ((torch.device("meta"),), ValueError, "device must be cpu.* here, got 'meta'"),
            (("",), ValueError, "device must be cpu.* here, got ''"),
            (("cpu:1",), ValueError, "device must be cpu.* here, got 'cpu:1'"),
            (("cuda:99",), ValueError, "device must be cpu.* here, got 'cuda:99'"),
            (("cpu:x",), ValueError, "device must be cpu.* here, got 'cpu:x'"),
            ((None,), TypeError, "device must be str or device, got None"),
            ((0,), TypeError, "device must be str or device, got 0"),
        ],
        "logits": [
            ((None, BATCH), TypeError, "model must return a tensor, .*got NoneType"),
            (((LABELS, LABELS), BATCH), TypeError, "model must return a tensor, .*got tuple"),
            ((Output(None), BATCH), TypeError, "model must return a tensor, .*got Output"),
            ((torch.zeros(3), BATCH), ValueError, r"model must return \(3, K\) .*got \(3,\)"),
            ((torch.zeros(2, 5), BATCH), ValueError, r"model must return \(3, K\) .*got \(2, 5\)"),
            ((torch.zeros(3, 5, 1), BATCH), ValueError, r"model must .*got \(3, 5, 1\)"),
            ((Output(torch.zeros(4, 5)), BATCH), ValueError, r"model must .*got \(4, 5\)"),
        ],
        "classes": [
            ((LABELS, 2), ValueError, "y must be from 0 to 1, got 0 to 2"),
            ((LABELS - 1, 3, "labels"), ValueError, "labels must be from 0 to 2, got -1 to 1"),
        ],
        "targets": [
            ((LABELS.tolist(), BATCH), TypeError, "y must be an int64 tensor, got list"),
            ((LABELS.int(), BATCH), TypeError, "y must be an int64 tensor, got torch.int32"),
            ((LABELS[:2], BATCH), ValueError, r"y must have one .*image, \(3,\), got \(2,\)"),
            (
                (torch.ones(3), BATCH),
                ValueError,
                r"y must be \(3,\) labels or \(3, K\) prob.*\(3,\)",
            ),
            ((torch.ones(2, 5), BATCH), ValueError, r"y must be .* probabilities, got \(2, 5\)"),
            ((torch.eye(3).to_sparse(), BATCH), TypeError, "y must be a dense tensor, got torch"),
            ((LABELS.to_sparse(), BATCH), TypeError, "y must be a dense tensor, got torch.sparse"),
            ((torch.eye(3).to("meta"), BATCH), ValueError, "y is on meta but the images are on"),
        ],
        "images": [
            ((BATCH[0, 0],), ValueError, rf"{NO_IMAGES} \(4, 4\)"),
            ((BATCH[None],), ValueError, rf"{NO_IMAGES} \(1, 3, 1, 4, 4\)"),
            ((BATCH[..., :0],), ValueError, rf"{NO_IMAGES} \(3, 1, 4, 0\)"),
            ((BATCH.long(),), TypeError, "images must be uint8 or floating, got torch.int64"),
            ((BATCH.numpy(),), TypeError, "images must be a tensor, got ndarray"),
            *(
                ((value,), ValueError, r"images must be in \[0, 1\]")
                for value in (BATCH + 2, BATCH - 0.5, BATCH * NAN)
            ),
        ],
        "batch": [
            ((STORED,), TypeError, "x must be a floating tensor, got torch.uint8"),
            ((BATCH.numpy(),), TypeError, "x must be a tensor, got ndarray"),
            ((BATCH[0],), ValueError, r"x must be \(B, C, H, W\), got \(1, 4, 4\)"),
        ],
        "attacked": [
            (
                (BATCH.half(), LABELS),
                TypeError,
                r"x must be float32 or float64 for an attack, got torch.float16, in which .*: "
                r"attack lambda x: model\(x.to\(torch.float16\)\) at x.float\(\)",
            ),
            ((STORED, LABELS), TypeError, "x must be a floating tensor, got torch.uint8"),
            ((BATCH[0], LABELS), ValueError, r"x must be \(B, C, H, W\), got \(1, 4, 4\)"),
            ((BATCH[:0], LABELS[:0]), ValueError, r"x must hold an image, got \(0, 1, 4, 4\)"),
            ((BATCH - 1, LABELS), ValueError, r"x must be in \[0, 1\], got -1 to -1"),
            ((BATCH, LABELS[:2]), ValueError, "y must have one label for each image"),
            ((BATCH, -LABELS), ValueError, "y must be non-negative, its least is -2"),
            ((BATCH, -torch.eye(3)), ValueError, "y must be non-negative, its least is -1"),
            ((BATCH, 2 * torch.eye(3)), ValueError, "y must be probabilities that sum to 1, .* 2"),
            (
                (BATCH, torch.eye(3).to(torch.float8_e4m3fn)),
                TypeError,
                "y must be a floating tensor, got torch.float8_e4m3fn",
            ),
        ],
        "probabilities": [
            ((torch.eye(3) - 0.1,), ValueError, "y must be non-negative, its least is -0.1"),
            ((0.99 * torch.eye(3),), ValueError, "y must .* that sum to 1, got a sum of 0.99"),
            ((NAN * torch.eye(3),), checks.NotFinite, "y must be probabilities, got nan"),
        ],
        "rivals": [
            ((torch.zeros(3, 1),), ValueError, r"model must .* two classes, got \(3, 1\)"),
        ],
        "computed": [
            ((LABELS / 2, BATCH + INF), checks.NotFinite, "model must have finite .*, got inf"),
            ((BATCH * NAN,), checks.NotFinite, "model must have finite logits and .*, got nan"),
        ],
        "start": [
            ((None, BATCH), TypeError, "start must be a tensor, got NoneType"),
            ((BATCH[:2], BATCH), ValueError, "start must have the shape of x"),
            ((BATCH.double(), BATCH), TypeError, "start is torch.float64 but x is torch.float32"),
            ((BATCH.to("meta"), BATCH), ValueError, "start is on meta but x is on cpu"),
            ((BATCH - 1, BATCH), ValueError, r"start must be in \[0, 1\], got -1 to -1"),
        ],
        "radii": [
            ((-1, BATCH), ValueError, "epsilon must be non-negative and finite, got -1"),
            ((1e30, BATCH), ValueError, r"epsilon must be at most 9.2e\+18 in torch.float32"),
            ((BATCH[:, 0, 0, 0].to("meta"), BATCH), ValueError, "epsilon must hold values, .*meta"),
            ((torch.zeros(2), BATCH), ValueError, r"epsilon must be one number .*\(2,\)"),
            ((LABELS, BATCH), TypeError, "epsilon must be a floating tensor, got torch.int64"),
            ((LABELS / NAN, BATCH), ValueError, "epsilon must be non-negative .* got nan to nan"),
            ((LABELS * 1e30, BATCH), ValueError, r"epsilon must be at most 9.2e\+18 in .* 2e\+30"),
        ],
        "floor": [
            ((0, torch.float64), ValueError, "floor must be positive and finite, got 0"),
            ((1.5, torch.float64), ValueError, "floor must be from .* to 1 .*, got 1.5"),
            ((1e-40, torch.float32), ValueError, "floor must be from 1.2e-38 to 1 .*, got 1e-40"),
        ],
        "projected": [
            ((BATCH[0], BATCH[0]), ValueError, "x must be .*"),
            ((BATCH[:0], BATCH[:0]), ValueError, "x must hold an image, got"),
            ((BATCH, BATCH + 2), ValueError, r"x must be in \[0, 1\], got"),
            ((BATCH.double(), BATCH), TypeError, "w is torch.float64 but x is torch.float32"),
            ((BATCH * NAN, BATCH), ValueError, "w must be finite, got nan to nan"),
        ],
        "window": [
            ((4,), ValueError, "window must be odd, got 4"),
            ((1,), ValueError, "window must be at least 3, got 1"),
            ((5.0,), TypeError, "window must be a whole number, got 5.0"),
        ],
        "sharp": [
            ((0,), ValueError, "regularization must be from 0.002 to 1e6, got 0.0"),
            ((1e7,), ValueError, "regularization must be from 0.002 to 1e6, got 10000000.0"),
        ],
        "strength": [
            ((-0.1, 0.1, 2, "l2"), ValueError, "epsilon must be non-negative and finite"),
            (("8/255", 0.1, 2, "l2"), TypeError, "epsilon must be a number, got str"),
            ((0.1, 0, 2, "l2"), ValueError, "alpha must be positive and finite"),
            ((0.1, None, 2, "l2"), TypeError, "alpha must be a number, got NoneType"),
            ((0.1, 0.1, 0, "l2"), ValueError, "steps must be at least 1, got 0"),
            ((0.1, 0.1, 2.0, "l2"), TypeError, "steps must be a whole number, got 2.0"),
            ((0.1, 0.1, 2, "l1"), ValueError, "norm must be one of 'linf', 'l2', got 'l1'"),
            ((1e19, 1, 2, "l2", torch.float32), ValueError, r"epsilon must be at most 9.2e\+18"),
            ((0.1, 200, 2, "l2", torch.float16), ValueError, r"alpha must be at most 1.3e\+02"),
        ],
        "differentiable": [
            ((None, "f"), ValueError, "f must be differentiable in x, got outputs on which autog"),
        ],
        "scored": [
            ((LABELS, LABELS * 1.0), ValueError, r"model must return .* logits .*, got \(3,\)"),
            ((LABELS, torch.zeros(3, 2)), ValueError, "y must be from 0 to 1, got 0 to 2"),
            ((torch.ones(3, 2), torch.zeros(3, 4)), ValueError, r"y must have .*, got \(3, 2\)"),
        ],
        "repeats": [
            ((2**31, "steps"), ValueError, "steps must be at most 1000000, got 2147483648"),
        ],
        "size": [((2**31, "width"), ValueError, "width must be at most 65536, got 2147483648")],
        "angle": [((1e39,), ValueError, "degrees must be at most 360, got 1e\\+39")],
        "stride": [
            ((value,), ValueError, f"step must be from 1e-12 to 1e.06, got {value}")
            for value in (1e-300, 1e-13, 2e6)
        ],
        "alike": [
            ((BATCH.double(), BATCH, "g"), TypeError, "g is torch.float64 but x is torch.float32"),
            ((BATCH[:1], BATCH, "g"), ValueError, r"g must have the shape of x, .*, got \(1, 1, "),
        ],
        "gradient": [((3, BATCH), TypeError, "g must be a tensor, got int")],
        "recorded": [
            ((MADE_THERE, "y"), ValueError, "y must be made outside of inference mode, got an inf"),
        ],
        "of_model": [
            (
                (LABELS, torch.zeros(3, 2), "labels"),
                ValueError,
                "labels must be from 0 to 1, got 0 to 2: model returns 2 logits",
            ),
        ],
        "defined": [
            ((object(), "metric", object, "__repr__"), TypeError, "metric must define __r"),
        ],
        "attacking": [
            ((None, BATCH), ValueError, "attack must return images like x, .*, got None"),
            ((BATCH + 2, BATCH), ValueError, r"what attack returns must be in \[0, 1\]"),
        ],
        "length": [
            ((1e20, "alpha", torch.float32), ValueError, r"alpha must be at most 9.2e\+18 in .*"),
            ((1e-7, "alpha", torch.float32), ValueError, "alpha must be at least 1.2e-07 .* 1e-07"),
        ],
        "image_shape": [
            ((BATCH[0, 0],), ValueError, r"images must be .* or \(N, H, W\), got \(4, 4\)"),
            ((BATCH[:, :0],), ValueError, r"images must be .*, got \(3, 0, 4, 4\)"),
        ],
        "called": [
            (
                (torch.nn.Linear(4, 4), BATCH.double(), "images"),
                TypeError,
                "images must be torch.float32, as the weights of model, got torch.float64",
            ),
            (
                (torch.nn.Linear(4, 4), BATCH.double(), "x", "f"),
                TypeError,
                "x must be torch.float32, as the weights of f, got torch.float64",
            ),
            ((int, BATCH), ValueError, r"model failed on x \(3, 1, 4, 4\): only one element"),
        ],
        "failed": [
            ((TypeError("so"), "f", BATCH), TypeError, r"f failed on images \(3, 1, 4, 4\): so$"),
        ],
        "labels": [
            ((LABELS.tolist(), BATCH), TypeError, "y must be an int64 tensor, got list"),
            ((LABELS.int(), BATCH), TypeError, "y must be an int64 tensor, got torch.int32"),
            ((LABELS.float(), BATCH, "labels"), TypeError, "labels must be .*torch.float32"),
            ((LABELS[:2], BATCH), ValueError, r"y must have one .*image, \(3,\), got \(2,\)"),
            ((LABELS[:, None], BATCH), ValueError, r"y must have one .*, got \(3, 1\)"),
        ],
        "intensities": [
            ((BATCH - 1e-6,), ValueError, r"x must be in \[0, 1\], got -1e-06 to -1e-06"),
            ((BATCH + 2, "images"), ValueError, r"images must be in \[0, 1\], got 2 to 2$"),
            ((BATCH + 255,), ValueError, r"x must .*, got 255 to 255: divide bytes by 255$"),
            ((BATCH * NAN,), ValueError, r"x must be in \[0, 1\], got nan to nan"),
        ],
    }
)
def test_classifiers_and_their_data(check, arguments, error, says):
    with pytest.raises(error, match=f"^{says}"):
        check(*arguments)


def test_a_default_device_holds_values():
    checks.default_device()
    with torch.device("meta"), pytest.raises(ValueError, match="^torch's default device must .*me"):
        checks.default_device()


def test_outputs_of_one_class():
    single = torch.zeros(3)
    assert checks.logits(Output(single), BATCH, single=True) is single
    assert checks.logits(single[:, None], BATCH, single=True).shape == (3, 1)
    for outputs in (single.sum(), single[:2], BATCH):
        with pytest.raises(ValueError, match=r"^model must return \(3,\) or \(3, K\) logits, got"):
            checks.logits(outputs, BATCH, single=True)
    with pytest.raises(TypeError, match="^model must return a tensor, .*got list"):
        checks.logits(single.tolist(), BATCH, single=True)


def test_good_classifiers_and_data():
    assert checks.device("cpu") == checks.device(torch.device("cpu")) == torch.device("cpu")
    logits = torch.zeros(3, 5)
    assert checks.logits(logits, BATCH) is checks.logits(Output(logits), BATCH) is logits
    checks.labels(LABELS, BATCH)
    checks.scored(LABELS, torch.zeros(3, 3))
    checks.length(1e18, "alpha", torch.float32)
    checks.image_shape(BATCH[:0])
    assert checks.differentiable(BATCH) is BATCH
    checks.classes(LABELS, 3)
    checks.classes(LABELS[:0], 0)
    for y in (LABELS, torch.eye(3)):
        checks.targets(y, BATCH)
        checks.attacked(BATCH, y)
    for x in (BATCH, BATCH[:, 0], BATCH[:0], STORED, STORED[:, 0]):
        checks.images(x)
    checks.batch(BATCH[:0])
    checks.strength(0, 0, 1, "linf")
    checks.strength(1e19, 1e19, 1, "l2", torch.float64)
    checks.probabilities(LABELS - 5)
    checks.probabilities(torch.tensor([[0.5004, 0.5], [0.0, 1.0]]))
    checks.probabilities(torch.tensor([[0.504, 0.5]], dtype=torch.bfloat16))
    checks.probabilities(torch.eye(3).to("meta"))
    checks.rivals(torch.zeros(3, 2))
    checks.computed(BATCH, LABELS)
    checks.radii(torch.ones(3, requires_grad=True), BATCH)
    checks.start(BATCH, BATCH)
    for epsilon in (0, 2.5, torch.zeros(3), torch.ones(3).double()):
        checks.radii(epsilon, BATCH)
    checks.projected(BATCH - 3, BATCH)
    assert (checks.window(np.int64(3)), checks.sharp(0.002)) == (3, 0.002)
    for floor in (1, 1 / 255, 1e-30):
        checks.floor(floor, torch.float32)
    for x in (BATCH, BATCH + 1, BATCH[:0], BATCH.to("meta") - 1):
        checks.intensities(x)


# ---------------------------------------------------------------- what is given and returned

MASKED = np.ma.masked_array([[1.0, 2.0]], [[False, True]])
DENSE, META = torch.ones(3, 4), torch.ones(3, 4, device="meta")
MASSES = r"x and y must have the same mass in each channel, got"
PHOTOS = torch.ones(2, 1, 20, 20)


@refused(
    {
        "real_number": [
            (("1", "t"), TypeError, "t must be a number, got str '1'"),
            ((Fraction(1, 2), "t"), TypeError, "t must be a number, got Fraction"),
        ],
        "finite": [
            ((value, "t"), ValueError, f"t must be finite, got {str(value)[:80]}")
            for value in (NAN, INF, -INF, 10**400)
        ],
        "whole": [
            ((2**63, "n"), ValueError, f"n must be at most {2**63 - 1}, got {2**63}"),
            ((np.uint8(5), "n", 1, 4), ValueError, r"n must be at most 4, got np.uint8\(5\)"),
        ],
        "flag": [
            ((value, "volume"), TypeError, f"volume must be True or False, got {says}")
            for value, says in (("yes", "str 'yes'"), (1, "int 1"), (None, "NoneType None"))
        ],
        "function": [(("pgd", "attack"), TypeError, "attack must be a function, got 'pgd'")],
        "registered": [
            (("mine", 3, "make", {}), TypeError, "make must be a function, got 3"),
            (("sin", max, "make", {"sin": min}), ValueError, "name must be free, got 'sin', which"),
        ],
        "dense": [((DENSE.to_sparse(), "v"), TypeError, "v must be a dense .*torch.sparse_coo")],
        "valued": [((META, "v"), ValueError, "v must hold values, got a tensor on meta")],
        "bounded": [
            ((DENSE * value, "v"), ValueError, f"v must be finite, got {value} to {value}")
            for value in (NAN, INF, -INF)
        ],
        "graph": [
            ((value,), TypeError, f"graph must be a PixelGraph, got {type(value).__name__}")
            for value in (None, "euclidean", PixelGraph, torch.nn.Identity())
        ],
        "some_pixels": [((X[:0],), ValueError, r"x must hold an image, got \(0, 3, 4\)")],
        "layers": [
            ((GRAPH, X[0]), ValueError, r"x must be \(M, 3, 4\), got \(3, 4\)"),
            ((GRAPH, -1 - X), ValueError, "x must be non-negative and finite"),
        ],
        "offset": [
            ((GRAPH, X.numpy(), (0, 1)), TypeError, "v must be a tensor, got ndarray"),
            ((GRAPH, X[..., 1:], (0, 1)), ValueError, r"v must be \(\.\.\., 3, 4\), got \(2, 3, 3"),
            *(
                ((GRAPH, X, value), error, f"offset must be {says}, got {re.escape(repr(value))}")
                for value, error, says in (
                    (None, TypeError, "two whole numbers"),
                    ((0, 0.5), TypeError, "two whole numbers"),
                    ((0, 0), ValueError, r"one of forward_offsets\(\)"),
                    ((0, -1), ValueError, r"one of forward_offsets\(\)"),
                    ((0, 2), ValueError, r"one of forward_offsets\(\)"),
                )
            ),
        ],
        "vector": [
            ((GRAPH, X * NAN, "xi"), ValueError, "xi must be finite, got nan to nan"),
            ((GRAPH, X[0], "xi", X), ValueError, "xi must have the shape of x"),
        ],
        "field": [
            ((X.half(),), TypeError, "x must be torch.float32 or torch.float64, got torch.float16"),
            ((X.sum(),), ValueError, r"x must be \(\.\.\., H, W\), got \(\)"),
            ((X[:, :0],), ValueError, r"x must be \(\.\.\., H, W\), got \(2, 0, 4\)"),
            ((X * NAN,), ValueError, "x must be finite, got nan to nan"),
        ],
        "broadcast": [((X[:, :2], X, "v"), ValueError, r"v must broadcast .* got \(2, 2, 4\)")],
        "same_mass": [
            ((X, 2 * X), ValueError, MASSES),
            ((X, X * torch.tensor([1, 1.5])[:, None, None]), ValueError, MASSES),
        ],
        "zero_sum": [
            ((X, X, "xi"), ValueError, "xi must sum to zero in each channel, got a sum of ")
        ],
        "totals": [
            ((value, X), error, f"mass must be {says}")
            for value, error, says in (
                (NAN, ValueError, "non-negative and finite, got nan"),
                (10**400, ValueError, "non-negative and finite, got 1000"),
                (None, TypeError, "a number, got NoneType None"),
                (torch.ones(3), ValueError, r"\(2,\) or a number, got \(3,\)"),
                (torch.ones(1, 2), ValueError, r"\(2,\) or a number, got \(1, 2\)"),
                (-torch.ones(2), ValueError, "non-negative and finite, got -1 to -1"),
            )
        ]
        + [((1e300, X.float()), ValueError, r"mass must be at most 3.4e\+38 in .*, got 1e\+300")],
        "array": [
            ((None, "x"), TypeError, "x must be an array or a tensor, got NoneType"),
            (([[1], [1, 2]], "x"), ValueError, r"x must be an array, got \[\[1\], \[1, 2\]\]"),
            ((META, "x"), ValueError, "x must hold values, got a tensor on meta"),
            ((DENSE * 1j, "x"), ValueError, "x must hold real numbers, got torch.complex64"),
            ((MASKED, "x"), ValueError, r"x must have no masked pixels, got masked_array"),
        ],
        "grid": [
            ((value,), ValueError, f"shape must be two .*, got {re.escape(repr(value))}")
            for value in (None, "ab", (3,), (3, 0), (3, 2.5), (True, 2), np.array(3))
        ]
        + [
            (((2**31, 1),), ValueError, r"shape must .* at most 32768 pixels, got \(2147483648, 1"),
        ],
        "entropic": [
            ((1e-7, 2, 13.0, torch.float32), ValueError, "epsilon must exceed .*, got 1e-07"),
            ((1e20, 2, 13.0, torch.float32), ValueError, r"epsilon must be at most 9.1e\+14 in"),
            ((1.0, 1e300, INF, torch.float64), ValueError, r"p must have powers .*, got 1e\+300"),
        ],
        "divergence": [
            ((1e5, 13.0, torch.float32), ValueError, r"epsilon must be at most 1.1e\+03 in"),
        ],
        "numbers": [
            ((0.5, (2,), "f"), TypeError, "what f returns must be a tensor, got float"),
            (
                (LABELS, (3,), "f"),
                TypeError,
                "what f returns must be a floating tensor, got torch.int64",
            ),
            (
                (torch.ones(3, dtype=torch.float8_e4m3fn), (3,), "f"),
                TypeError,
                "what f returns must be a floating tensor, got torch.float8_e4m3fn",
            ),
            (
                (torch.ones(3).to_sparse(), (3,), "f"),
                TypeError,
                "what f returns must be a dense tensor, got torch.sparse_coo",
            ),
            (
                (torch.ones(3, device="meta"), (3,), "f"),
                ValueError,
                "what f returns must hold values, got a tensor on meta",
            ),
            ((DENSE, (3,), "f"), ValueError, r"f must return .*, \(3,\), got \(3, 4\)"),
        ],
        "per_image": [
            ((None, BATCH, "loss"), TypeError, "what loss returns must be a tensor, got None"),
            ((DENSE, BATCH, "loss"), ValueError, r"loss must return .*, \(3,\), got \(3, 4\)"),
        ],
        "per_channel": [
            ((value, "mean"), error, f"mean must {says}")
            for value, error, says in (
                (None, TypeError, "be a number, got NoneType None"),
                ([0.1, "a"], TypeError, "be a number, got str 'a'"),
                ([0.1, NAN], ValueError, "be finite, got nan"),
                ([], ValueError, r"be a number or one for each channel, got \[\]"),
                (DENSE * 1j, ValueError, "hold real numbers, got torch.complex64"),
                (DENSE * INF, ValueError, r"be finite, got tensor\(\[\[inf"),
                (1e39, ValueError, "be finite, got 1e\\+39 in torch.float32"),
                (DENSE, ValueError, r"be a number or one .*, got \[\[1.0, .* of shape \(3, 4\)"),
            )
        ],
        "channels": [
            ((PHOTOS.byte(), DENSE[0]), TypeError, "x must be a floating tensor, got torch.uint8"),
            ((PHOTOS, DENSE[0]), ValueError, r"x must be \(\.\.\., 4, H, W\), .*got \(2, 1, 20"),
            ((META, DENSE[0, :1]), ValueError, "x is on meta but mean is on cpu"),
        ],
        "varied": [
            ((PHOTOS.byte(), 2, 0), TypeError, "images must be a floating tensor, got torch.uint8"),
            ((PHOTOS[:0], 2, 0), ValueError, r"images must be .*, at least one, got \(0, 1, 20"),
            ((PHOTOS[0], 2, 0), ValueError, r"images must be \(N, C, H, W\), .*got \(1, 20, 20"),
            ((255 * PHOTOS, 2, 0), ValueError, r"images must be in \[0, 1\], got 255 to 255"),
            ((PHOTOS * NAN, 2, 0), ValueError, r"images must be in \[0, 1\], got nan to nan"),
            ((PHOTOS, 21, 0), ValueError, "shift must be at most .* 20, got 21"),
            ((PHOTOS, -1, 0), ValueError, "shift must be at least 0, got -1"),
            ((PHOTOS, 2, 20), ValueError, "margin must be less than .* 20, got 20"),
            ((PHOTOS, 2, -5), ValueError, "margin must be at least 0, got -5"),
            ((PHOTOS[..., :12], 2, 2), ValueError, r"images must be .* 17 pixels .*\(2, 1, 20, 12"),
        ],
        "shifts": [
            ((value, 4, "reflect"), error, f"shifts must {says}")
            for value, error, says in (
                (3, TypeError, "be a sequence of whole numbers, got 3"),
                ("12", TypeError, "be a sequence of whole numbers, got '12'"),
                ({1, 2}, TypeError, r"be a sequence of whole numbers, got \{1, 2\}"),
                ([], ValueError, r"hold at least one shift, got \[\]"),
                ([0.5], TypeError, "be a whole number, got 0.5"),
                ([4], ValueError, "be at most 3 with 'reflect' and 4 pixels, got 4"),
                ([-4], ValueError, "be at most 3 with 'reflect' and 4 pixels, got -4"),
            )
        ],
    }
)
def test_what_is_given_and_returned(check, arguments, error, says):
    with pytest.raises(error, match=f"^{says}"):
        check(*arguments)


def test_good_values_given_and_returned():
    assert checks.real_number(10**400, "n") == INF and checks.real_number(-(10**400), "n") == -INF
    assert checks.real_number(np.float16(0.5), "n") == 0.5
    for value in (-1, 0, 1e308, np.float32(-2)):
        checks.finite(value, "t")
    for value in (True, np.bool_(False)):
        checks.flag(value, "f")
    checks.function(torch.nn.Identity(), "f")
    for known in ({}, {"max": max}):
        checks.registered("max", max, "make", known)
    checks.bounded(META, "v")
    checks.bounded(DENSE[:0] * NAN, "v")
    assert checks.is_graph(GRAPH) and not checks.is_graph(PixelGraph)
    checks.layers(GRAPH, X)
    assert checks.offset(GRAPH, LABELS.new_ones(3, 4), (1, -1)) == (1, -1)
    checks.vector(GRAPH, -X, "xi", X)
    checks.field(-X[:0])
    checks.broadcast(X[:1], X, "v")
    checks.same_mass(X, X.flip(-1))
    checks.same_mass(X[:0], X[:0])
    checks.zero_sum(X - X.flip(-1), X, "xi")
    for mass in (1, 0.5, torch.ones(()), torch.ones(2), torch.ones(1)):
        assert checks.totals(mass, X).dtype == X.dtype
    assert checks.array([[1, 2]], "x").shape == (1, 2) and checks.array(DENSE, "x") is DENSE
    for shape in ((3, 4), [3, 4], torch.Size([3, 4]), np.array([3, 4])):
        checks.grid(shape)
    checks.entropic(0.1, 2, 0.0, torch.float32)
    checks.divergence(0.1, 0.0, torch.float32)
    for value in (0.5, 1, [0.5], (0.5,), np.full((1, 1), 0.5), torch.full((1, 1, 1), 0.5)):
        assert checks.per_channel(value, "mean").shape == (1,)
    assert checks.per_channel([2**70, 0], "mean").tolist() == [2.0**70, 0]
    assert checks.per_channel(torch.ones(3, 1, 1), "mean").shape == (3,)
    checks.channels(PHOTOS, DENSE[0, :1])
    checks.channels(PHOTOS[:, [0] * 4], DENSE[0])
    checks.varied(PHOTOS, 20, 19)
    checks.varied(PHOTOS[..., :12], 0, 3)
    for shifts in ([-3, 3], range(-3, 4), np.arange(4), (k for k in (0, 1))):
        assert all(type(shift) is int for shift in checks.shifts(shifts, 4, "reflect"))
    assert checks.shifts([-4, 4], 4, "edge") == [-4, 4]


# ---------------------------------------------------------------- names, folders, data sets


class Kind:
    name, label, options, needs, trial = "kind", "a kind", ("eta",), (), {}
    devices, check_epsilon = ("cpu",), staticmethod(float)


def kind(**changes):
    return type("Mine", (Kind,), changes), Kind, ("eta", "steps")


HERE = __file__
WEIGHT = torch.zeros(2)
TERMS = torch.zeros(2, 3), WEIGHT, WEIGHT
HELD = torch.nn.Parameter(torch.zeros(2))


def sgd():
    return torch.optim.SGD([HELD], lr=0.1)


def lbfgs():
    return torch.optim.LBFGS([HELD])


@refused(
    {
        "text": [
            ((3, "name"), TypeError, "name must be str, got 3"),
            ((None, "name"), TypeError, "name must be str, got None"),
            (("", "name"), ValueError, "name must not be empty, got ''"),
        ],
        "texts": [
            (("cat", "classes"), TypeError, "classes must be a tuple of names, got 'cat'"),
            ((3, "classes"), TypeError, "classes must be a tuple of names, got 3"),
            (((3,), "classes"), TypeError, "classes must be a tuple of names, got 3 in .*"),
            (({"a"}, "classes"), TypeError, "classes must be a tuple of names, got {'a'}"),
            ((WEIGHT[0], "classes"), TypeError, r"classes .* of names, got tensor\(0.\)"),
        ],
        "folder": [
            (("",), ValueError, "folder must name a folder, got ''"),
            (("a\0",), ValueError, "folder must name a folder, got 'a"),
            ((3,), TypeError, "folder must be a path, got 3"),
            ((b"a",), TypeError, "folder must be a path, got b'a'"),
            ((None,), TypeError, "folder must be a path, got None"),
            ((HERE,), ValueError, f"folder must be a folder, got the file '{HERE}'"),
            (("", "root"), ValueError, "root must name a folder, got ''"),
            (("a" * 5000,), ValueError, "folder must name a folder, got 'aaa.*File name too long"),
        ],
        "regular": [((Path("/dev/zero"),), ValueError, "/dev/zero must be a regular file, not")],
        "takes": [
            (
                (torch.nn.Linear(3, 3), BATCH),
                ValueError,
                r"model must take images \(3, 1, 4, 4\), got a Linear, which raises RuntimeError: ",
            ),
        ],
        "transformed": [
            ((None, BATCH, "f"), TypeError, "f must return images in torch.float32 .*None"),
            ((BATCH.half(), BATCH, "f"), TypeError, "f must .* got torch.float16 on cpu"),
            ((BATCH[:1], BATCH, "f"), ValueError, r"f must return images \(3, C, H, W\), got \(1"),
            ((BATCH[:, 0], BATCH, "f"), ValueError, r"f must return images .*got \(3, 4, 4\)"),
        ],
        "terms": [
            ((None, 2, 3, "f"), TypeError, r"f must return Terms\(outputs, .*\), got None"),
            ((TERMS[:2], 2, 3, "f"), TypeError, r"f must return Terms"),
            ((TERMS, 2, 4, "f"), ValueError, r"outputs of f must be \(2, 4\), got \(2, 3\): model"),
            ((TERMS, 3, 3, "f"), ValueError, r"outputs of f must be \(3, 3\), got \(2, 3\)"),
            (((*TERMS[:2], 0), 2, 3, "f"), TypeError, "penalty of f must be a floating .* got 0"),
            (((*TERMS[:2], WEIGHT.long()), 2, 3, "f"), TypeError, "penalty .*, got torch.int64"),
            (((TERMS[0], WEIGHT[0], WEIGHT), 2, 3, "f"), ValueError, r"loss .* \(2,\), got \(\)"),
            ((TERMS, 2, 3, "f"), ValueError, "loss of f must depend on the weights of model"),
        ],
        "contrast": [
            (([0.1, 0.0],), ValueError, r"images must vary in each channel, got .* \[0.1, 0.0\]"),
            (([NAN],), ValueError, r"images must vary in each channel, got .* \[nan\]"),
        ],
        "untaken": [
            (("a", len, {"a": abs}), ValueError, "name must be free, got 'a', which is <"),
            (("a", Kind, {"a": kind}), ValueError, "name must be free, got 'a', which is <"),
            ((3, len, {}), TypeError, "name must be str, got 3"),
            (("", len, {}), ValueError, "name must not be empty, got ''"),
        ],
        "same_types": [
            (
                ({"weight": WEIGHT.half()}, torch.nn.Linear(1, 2), "model"),
                TypeError,
                r"model\['weight'\] must be torch.float32, got torch.float16",
            ),
        ],
        "weights": [
            ((3, "model"), TypeError, "model must be Mapping, got 3"),
            (({3: WEIGHT}, "model"), TypeError, "each name in model must be str, got 3"),
            (({"a": 3.0}, "model"), TypeError, r"model\['a'\] must be Tensor, got 3.0"),
            (({"a": WEIGHT.to("meta")}, "model"), ValueError, r"model\['a'\] must hold values"),
        ],
        "finite_weights": [
            (
                ({"weight": WEIGHT / 0}, torch.nn.Linear(1, 2), "model"),
                ValueError,
                r"model\['weight'\] must be finite, got nan",
            ),
        ],
        "optimizer": [
            ((3, [], "f"), TypeError, "f must be Optimizer, got 3"),
            ((sgd(), [WEIGHT], "f"), ValueError, "f must hold all weights .* got SGD without 1 of"),
            ((lbfgs(), [HELD], "f"), TypeError, "f must step without a closure, got LBFGS: missi"),
        ],
        "objective": [
            (("a", Kind, ()), TypeError, "method must be a subclass of Kind, got 'a'"),
            ((dict, Kind, ()), TypeError, "method must be a subclass of Kind, got <class 'dict'>"),
            (kind(name=None), TypeError, "Mine.name must be str, got None"),
            (kind(label=""), ValueError, "Mine.label must not be empty, got ''"),
            (kind(options="eta"), TypeError, "Mine.options must be a tuple of names, got 'eta'"),
            (kind(options=("etta",)), ValueError, "Mine.options must be one of 'eta', 'steps'"),
            (kind(needs=("steps",)), ValueError, "Mine.needs must be one of 'eta', got 'steps'"),
            (kind(trial={"steps": 1}), ValueError, "Mine.trial must be one of 'eta', got 'steps'"),
            (kind(trial=("eta",)), TypeError, "Mine.trial must be Mapping, got "),
        ],
        "trainable": [
            ((torch.nn.Flatten(),), ValueError, "model must have parameters to train, got Flatten"),
            (
                (torch.nn.Linear(2, 2).requires_grad_(False),),
                ValueError,
                "model must have parameters to train, got Linear",
            ),
            (
                (torch.nn.Linear(2, 2).double(),),
                TypeError,
                "model must have float32 parameters, got torch.float64",
            ),
            (
                (torch.inference_mode()(lambda: torch.nn.Linear(2, 2))(),),
                ValueError,
                "model must have been made outside of inference mode, got inference tensors",
            ),
        ],
        "stored_images": [
            ((STORED[0, 0],), ValueError, rf"{NO_IMAGES} \(4, 4\)"),
            ((BATCH,), TypeError, r"images must be uint8, .* got torch.float32: \(255 \* images\)"),
            ((BATCH + 9,), TypeError, "images must be uint8, .* got torch.float32: images.round"),
            ((BATCH.long(),), TypeError, "images must be uint8, .* got torch.int64: images.round"),
            ((BATCH > 0,), TypeError, r"images must be .* got torch.bool: 255 \* images"),
            (
                (torch.zeros(2, 8, 9, 3, dtype=torch.uint8),),
                ValueError,
                r"images must be \(N, C, H, W\), got \(2, 8, 9, 3\): images.movedim\(3, 1\)",
            ),
        ],
        "stored_labels": [
            ((LABELS.float(), BATCH), TypeError, "labels must be whole numbers, got torch.float32"),
            ((LABELS > 0, BATCH), TypeError, "labels must be whole numbers, got torch.bool"),
            ((LABELS[:1], BATCH), ValueError, r"labels must be one for .* got \(1,\)$"),
            ((LABELS[:, None], BATCH), ValueError, r"labels .* got \(3, 1\): labels\[:, 0\]"),
            ((torch.eye(3).long(), BATCH), ValueError, r"labels .*\(3, 3\): labels.argmax\(1\)"),
        ],
        "indices": [
            ((WEIGHT, 3, "i"), TypeError, "i must hold whole numbers, got torch.float32"),
            ((LABELS > 0, 4, "i"), ValueError, r"i must be \(4,\) of torch.bool, got \(3,\)"),
            ((LABELS[None], 4, "i"), ValueError, r"i must be \(n,\) of torch.int64, got \(1, 3\)"),
            ((torch.tensor([0, 4]), 4, "i"), ValueError, "i must hold numbers from 0 to 3, got 4"),
            ((torch.tensor([-1]), 4, "i"), ValueError, "i must hold numbers from 0 to 3, got -1"),
            ((torch.tensor([2, 1, 2]), 4, "i"), ValueError, "i must name no image twice, got 2"),
        ],
        "parts": [
            (({"test": LABELS},), ValueError, r"split must have images .* got {'test': 3}"),
            (({"train": LABELS[:0]},), ValueError, r"split must have images .* got {'train': 0}"),
            *(
                (
                    ({"train": torch.tensor([9]), one: LABELS, other: torch.tensor([1])},),
                    ValueError,
                    f"split must have no image both in '{one}' and in '{other}', got 1",
                )
                for one, other in (
                    ("train", "test"), ("validation", "test"), ("fit", "test"),
                    ("fit", "validation"),
                )
            ),
        ],
    }
)  # fmt: skip
def test_names_folders_and_data_sets(check, arguments, error, says):
    with pytest.raises(error, match=f"^{says}"):
        check(*arguments)


def test_good_names_folders_and_data_sets(tmp_path):
    checks.text("a", "name")
    assert checks.texts(iter("ab"), "names") == ("a", "b") and checks.texts((), "names") == ()
    for path in (tmp_path, tmp_path / "missing"):
        assert checks.folder(path) == checks.folder(str(path)) == path
    again = type("Kind", (), {"__module__": __name__, "__qualname__": "Kind"})
    for thing in (Kind, again):
        checks.untaken("a", thing, {"a": Kind})
    checks.untaken("b", len, {"a": Kind})
    checks.weights({"a": WEIGHT, "b": LABELS, "c._extra_state": 3}, "model")
    masked = torch.nn.Linear(1, 2)
    masked.register_buffer("mask", WEIGHT.log())
    assert checks.unbounded(masked) == {"mask"}
    checks.finite_weights({"weight": WEIGHT, "mask": WEIGHT.log()}, masked, "model")
    assert checks.are_finite(WEIGHT.to(torch.float8_e4m3fn)).all()
    assert checks.optimizer(best := sgd(), [HELD], "f") is best
    checks.same_types({"a": LABELS, "weight": WEIGHT}, torch.nn.Linear(1, 2), "model")
    checks.objective(*kind())
    model = torch.nn.Linear(2, 2)
    assert checks.trainable(model) is model
    with torch.inference_mode(), pytest.raises(RuntimeError, match="no gradients in inference"):
        checks.trainable(model)
    checks.takes(torch.nn.Linear(4, 4), BATCH)
    checks.regular(tmp_path / "missing")
    checks.contrast([0.1, 1.0])
    assert checks.transformed(BATCH[..., :2], BATCH, "f").shape == (3, 1, 4, 2)
    terms = TERMS[0], WEIGHT.clone().requires_grad_(), WEIGHT
    assert checks.terms(terms, 2, 3, "f") is terms
    checks.stored_images(STORED)
    for shape in [(2, 2, 4, 4), (2, 16, 4, 4), (2, 3, 9, 3), (2, 9, 9, 5)]:
        checks.stored_images(torch.zeros(shape, dtype=torch.uint8))
    checks.stored_labels(LABELS.int(), BATCH)
    checks.indices(torch.tensor([3, 0]), 4, "i")
    checks.parts({"train": LABELS, "validation": LABELS, "test": LABELS + 3})


def test_values_are_shown_whatever_they_are():
    deep = []
    for _ in range(10**5):
        deep = [deep]
    assert checks.shown("x" * 200) == "'" + "x" * 79
    assert checks.shown(10**5000) == "a int that cannot be shown"
    assert checks.shown(deep) == "a list that cannot be shown"
    with pytest.raises(ValueError, match="n must be at most 4, got a int that cannot be shown"):
        checks.whole(10**5000, "n", 1, 4)

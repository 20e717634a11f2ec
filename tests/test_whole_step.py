"""A training step as one graph: the same numbers, whatever the method."""

import pytest
import torch
from oracles import gpu
from torch import nn
from torch._dynamo.utils import counters

from wdtr_lite import data
from wdtr_lite.training import METHODS, Config, fit
from wdtr_lite.training.run import Training
from wdtr_lite.training.whole_step import Graph, inductor, whole

BATCH = 8
METHODS_AND_OPTIONS = [
    *((name, {}) for name in sorted(METHODS) if "cuda" in METHODS[name].devices),
    ("wasserstein", {"mode": "finite_difference"}),
    ("wasserstein", {"of": "margin", "scale": None}),
    ("wasserstein", {"precision": "bfloat16"}),
]


def as_it_is(graph, inputs):
    return graph


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist5k")


def training(digits, method, model="small_cnn", given=None, **options):
    options = {**METHODS[method].trial, **options}
    config = Config(
        data="mnist5k", images=4 * BATCH, model=model, method=method, batch_size=BATCH, **options
    )
    run = Training(config, dataset=digits, model=given)
    run.begin_epoch()
    return run


def batches(run):
    return [(run.images[k : k + BATCH].float() / 255, run.labels[k : k + BATCH])
            for k in range(0, 3 * BATCH, BATCH)]  # fmt: skip


@pytest.mark.parametrize("model", ["small_cnn", "resnet8"])
@pytest.mark.parametrize(("method", "options"), METHODS_AND_OPTIONS)
def test_the_graph_computes_what_the_step_does(digits, method, options, model):
    eager, traced = (training(digits, method, model, **options) for _ in range(2))
    graph = Graph(traced.derivatives, traced.model, *batches(traced)[0], as_it_is)
    for run in (eager, traced):
        run.generator.manual_seed(3)
    near = 1e-3 if "finite_difference" in options.values() else 0.0  # it differs by rounding
    for x, y in batches(eager):
        mine, theirs = flat(graph(x, y)), flat(eager.derivatives(x, y))
        assert float((mine - theirs).norm()) <= near * float(theirs.norm())
    for a, b in zip(traced.model.state_dict().values(), eager.model.state_dict().values()):
        assert torch.equal(a, b)


def flat(found):
    gradients, sums = found
    return torch.cat([v.flatten() for v in (*gradients, sums)])


@pytest.mark.parametrize("method", ["wasserstein", "euclidean", "jacobian"])
def test_one_graph_serves_every_setting_and_seed(digits, method):
    radii = [{"radius": 2}, {"radius": 5}] if method == "wasserstein" else [{}, {}]
    codes, seen = [], []
    for seed, radius in enumerate(radii):
        run = training(digits, method, eta=0.1 + seed, seed=seed, **radius)
        keep = lambda graph, inputs: codes.append(graph.code)  # noqa: E731
        graph = Graph(run.derivatives, run.model, *batches(run)[0], keep)
        seen.append(len(graph.constants))
    assert codes[0] == codes[1] and seen[0] == seen[1] > 0


class Awkward(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.linear, self.kind = nn.Linear(784, 10), kind

    def forward(self, x):
        x = x.flatten(1)
        if self.kind == "dropout":
            x = nn.functional.dropout(x)
        if self.kind == "value" and float(x.sum()) > 0:
            x = 2 * x
        return self.linear(x)


@pytest.mark.parametrize(
    ("kind", "why"), [("dropout", "global generator"), ("value", "value out of a tracing tensor")]
)
def test_what_cannot_be_one_graph_goes_step_by_step_and_says_why(digits, kind, why):
    run = training(digits, "none", given=Awkward(kind))
    with pytest.warns(UserWarning, match=f"the training step is not compiled.*{why}"):
        found = whole(run.derivatives, run.model, *batches(run)[0])
    assert found == run.derivatives


def test_hooks_of_weights_are_not_lost_in_a_graph(digits):
    run = training(digits, "none")
    name, weight = next(run.model.named_parameters())
    hook = weight.register_hook(lambda gradient: 2 * gradient)
    with pytest.warns(
        UserWarning, match=f"is not compiled, NotImplementedError: {name} has a hook"
    ):
        assert whole(run.derivatives, run.model, *batches(run)[0]) == run.derivatives
    hook.remove()
    assert isinstance(Graph(run.derivatives, run.model, *batches(run)[0], as_it_is), Graph)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_the_compiled_step_of_the_smallest_network(digits):
    eager, compiled = (training(digits, "wasserstein", eta=0.3) for _ in range(2))
    graph = Graph(compiled.derivatives, compiled.model, *batches(compiled)[0], inductor)
    for x, y in batches(eager):
        mine, theirs = flat(graph(x, y)), flat(eager.derivatives(x, y))
        assert (mine - theirs).norm() < 1e-5 * theirs.norm()
    counters.clear()
    other = training(digits, "wasserstein", eta=0.7, radius=5, seed=3)
    graph = Graph(other.derivatives, other.model, *batches(other)[0], inductor)
    assert counters["inductor"]["fxgraph_cache_hit"] == 1, "what was compiled is kept"
    x, y = batches(other)[0]
    mine, theirs = flat(graph(x, y)), flat(other.derivatives(x, y))
    assert (mine - theirs).norm() < 1e-5 * theirs.norm()


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_sizes_are_known_to_the_compiler(digits):
    """Without a scalar of them, on which it would fail: here 3 x 3 channels of 3 x 3 pixels."""
    layers = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3)
    pooling = nn.Softplus(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    network = nn.Sequential(*layers, *pooling, nn.Linear(3, 10))
    run = training(digits, "none", given=network)
    graph = Graph(run.derivatives, run.model, *batches(run)[0], inductor)
    x, y = batches(run)[0]
    mine, theirs = flat(graph(x, y)), flat(run.derivatives(x, y))
    assert (mine - theirs).norm() < 1e-5 * theirs.norm()


def test_a_gpu_compiles_what_is_long_enough_and_no_warm_up(digits, monkeypatch):
    monkeypatch.setattr("wdtr_lite.training.run.whole", lambda *step: "compiled")
    run = training(digits, "pgd", epochs=5, warmup=2)  # 20 steps
    run.stream = object()  # as on a GPU
    found = []
    for worth in (21, 20):
        monkeypatch.setattr("wdtr_lite.training.run.WORTH_COMPILING", worth)
        for run.epoch in range(4):
            run.compute = run.derivatives
            run.begin_epoch()
            found.append(run.compute == "compiled")
    assert found == [False] * 6 + [True] * 2


@gpu
@pytest.mark.parametrize("method", ["none", "wasserstein", "pgd"])
def test_on_the_gpu_the_compiled_step_is_captured(digits, method, monkeypatch):
    config = training(digits, method, epochs=2, learning_rate=0.05).config
    losses = []
    for worth in (0, 10**9):
        monkeypatch.setattr("wdtr_lite.training.run.WORTH_COMPILING", worth)
        run = fit(config, dataset=digits, device="cuda", progress=False)
        losses.append([epoch["loss"] for epoch in run.history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)

"""The networks: sizes, normalisation, smoothness, double back-propagation, names, bad input."""

import asyncio
import copy
import gc
import linecache
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wdtr_lite import GradientPenalty, PixelGraph, data, models
from wdtr_lite.evaluation import misclassified, predictions
from wdtr_lite.models import MODELS, Normalize, modes, resnet8, resnet20, small_cnn
from wdtr_lite.models.modes import evaluating, held, own
from wdtr_lite.regularizer.forward import fixed_statistics

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"resnet20": 269_722, "resnet8": 75_290, "small_cnn": 52_138}


def network(name="resnet8", seed=0, **how):
    torch.manual_seed(seed)
    return MODELS[name](**how)


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", SIZES)
def test_size(name):
    """The published number of parameters for ResNet-20, 0.27 million."""
    assert count(network(name)) == SIZES[name]
    assert count(network(name, channels=5, mean=0.5, std=1.0)) > SIZES[name] - 1000


def test_resnet20_layers():
    """19 convolutions without bias, each with a batch normalisation behind it; a linear layer."""
    modules = list(network("resnet20").modules())
    convolutions = [m for m in modules if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 19 and all(m.bias is None for m in convolutions)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in modules) == 19
    assert [m.out_features for m in modules if isinstance(m, nn.Linear)] == [10]
    assert [m.out_channels for m in convolutions] == [16] * 7 + [32] * 6 + [64] * 6
    assert [m.stride[0] for m in convolutions] == [1] * 7 + [2] + [1] * 5 + [2] + [1] * 5


@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 3), ("resnet8", 1)])
@pytest.mark.parametrize("activation", ["softplus", "relu"])
def test_resnet_by_hand(name, blocks, activation):
    """Written out from the paper, with the network's own weights: option-A shortcuts take every
    second pixel and pad the channels with zeros."""
    model, x = (
        network(name, activation=activation, width=4).double(),
        torch.rand(3, 3, 9, 8, dtype=torch.float64),
    )
    act = {"softplus": lambda t: (1 + t.exp()).log(), "relu": lambda t: t * (t > 0)}[activation]
    weights = iter(list(model.parameters()))

    def conv_bn(h, stride):
        h = F.conv2d(h, next(weights), stride=stride, padding=1)
        mean, var = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), unbiased=False, keepdim=True)
        gain, bias = next(weights), next(weights)
        return (h - mean) / (var + 1e-5).sqrt() * gain[:, None, None] + bias[:, None, None]

    mean, std = (
        torch.tensor(v)[:, None, None].double()
        for v in ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])
    )
    h = act(conv_bn((x - mean) / std, 1))
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            shortcut = h
            if stride == 2:
                half = torch.zeros(
                    3, h.shape[1] // 2, *h[:, :, ::2, ::2].shape[2:], dtype=torch.float64
                )
                shortcut = torch.cat([half, h[:, :, ::2, ::2], half], 1)
            h = act(conv_bn(act(conv_bn(h, stride)), 1) + shortcut)
    expected = h.mean((2, 3)) @ next(weights).T + next(weights)
    torch.testing.assert_close(
        model(x), expected, rtol=1e-6, atol=1e-6
    )  # its means and deviations are float32 numbers


def test_small_cnn_by_hand():
    model, x = (
        network("small_cnn", activation="relu").double(),
        torch.rand(4, 1, 28, 28, dtype=torch.float64),
    )
    a, b, c, d, e, f, g, h = model.parameters()
    z = (x - 0.1307) / 0.3081
    z = F.conv2d(F.conv2d(z, a, b, stride=2, padding=1).relu(), c, d, stride=2, padding=1).relu()
    assert z.shape[1:] == (16, 7, 7)
    expected = (z.flatten(1) @ e.T + f).relu() @ g.T + h
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SIZES)
def test_convolutions_start_as_in_he_et_al(name):
    """Normal of variance 2 / fan-in: the fourth standardised moment is 3, the variance 1."""
    model = network(name, width=32)
    weights = [m.weight.detach() for m in model.modules() if isinstance(m, nn.Conv2d)]
    draws = torch.cat([(w * (w[0].numel() / 2) ** 0.5).flatten() for w in weights])
    n = len(draws)
    assert float(draws.square().mean()) == pytest.approx(1, abs=5 * (2 / n) ** 0.5)
    assert float((draws**4).mean()) == pytest.approx(3, abs=5 * (96 / n) ** 0.5)


@pytest.mark.parametrize("name", SIZES)
def test_weights_are_of_the_global_generator(name):
    x = torch.rand(2, 3, 28, 28)
    models = [network(name, seed, channels=3).eval() for seed in (1, 1, 2)]
    first, again, other = (model(x) for model in models)
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("name", SIZES)
def test_normalisation_is_the_first_layer(name):
    """Images normalised outside give what a network without normalisation gives."""
    x = torch.rand(2, 3, 28, 28)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.4, 0.8)
    inside = network(name, channels=3, mean=mean, std=std)
    outside = network(name, channels=3, mean=0.0, std=1.0)
    z = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(inside(x), outside(z))
    assert count(inside) == count(outside) and "normalize.mean" in inside.state_dict()


def test_default_normalisation_is_of_cifar10():
    """Of all pixels of the 50,000 training images, to the digits given; where they are at hand."""
    try:
        images = data.load("cifar10", split="holdout").images[:50_000]
    except FileNotFoundError:
        pytest.skip("no CIFAR-10 here")
    level = torch.arange(256).double() / 255
    for k, (mean, std) in enumerate(
        zip(network().normalize.mean, network().normalize.std, strict=True)
    ):
        share = torch.bincount(images[:, k].flatten(), minlength=256) / images[:, k].numel()
        expected = (share * level).sum()
        assert abs(float(mean - expected)) < 6e-5
        assert abs(float(std - ((share * level**2).sum() - expected**2).sqrt())) < 6e-5


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("size", [(28, 28), (32, 32), (8, 12), (33, 5)])
def test_images_of_other_sizes(name, size):
    logits = network(name, channels=3, classes=7)(torch.rand(2, 3, *size))
    assert logits.shape == (2, 7) and bool(logits.isfinite().all())


@pytest.mark.parametrize("name", SIZES)
def test_derivatives(name):
    """First and second, in images and parameters, against finite differences: nothing is changed in
    place, and softplus has slope 1/2 at 0 and beta 1."""
    model = network(name, channels=1, mean=0.5, std=0.5, width=2).double().eval()
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    v = torch.randn(x.shape, dtype=torch.float64)

    def along(x):
        return (torch.autograd.grad(model(x)[:, 0].sum(), x, create_graph=True)[0] * v).sum()

    def slope(x):
        return along(x).item()

    h = 1e-4
    ahead, behind = (float(model(x + s * v)[:, 0].detach()) for s in (h, -h))
    assert slope(x) == pytest.approx((ahead - behind) / (2 * h), rel=1e-5)
    second = torch.autograd.grad(along(x), x)[0]
    assert float((second * v).sum()) == pytest.approx(
        (slope(x + h * v) - slope(x - h * v)) / (2 * h), rel=1e-4
    )
    weight = next(model.parameters())
    mixed = torch.autograd.grad(along(x), weight)[0]
    w = torch.randn(weight.shape, dtype=torch.float64)

    def moved(s):
        with torch.no_grad():
            weight.add_(s * w)
        value = slope(x)
        with torch.no_grad():
            weight.sub_(s * w)
        return value

    assert float((mixed * w).sum()) == pytest.approx((moved(h) - moved(-h)) / (2 * h), rel=1e-4)
    t = torch.zeros(1)
    assert float(model.activation(t)) == pytest.approx(np.log(2)) and float(
        model.activation(t + 1)
    ) == pytest.approx(1.313262)


def test_small_cnn_does_not_couple_images():
    model = network("small_cnn")
    assert model.training
    x = torch.rand(6, 1, 28, 28)
    torch.testing.assert_close(model(x)[:2], model(x[:2]))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_small_cnn_learns():
    """Nine of ten other digits after three passes through mnist5k's 4,000."""
    model, digits = network("small_cnn"), data.load("mnist5k")
    (x, y), (test_x, test_y) = (
        (images.float()[:, None] / 255, labels)
        for images, labels in (digits.part("train"), digits.part("test"))
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for batch in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        assert float((model(test_x).argmax(1) == test_y).float().mean()) > 0.88


def test_resnet8_learns():
    """Its loss on one batch falls below a fifth in thirty steps."""
    model, digits = network(width=8, channels=1, mean=0.1307, std=0.3081), data.load("mnist5k")
    x, y = digits.images[::100].float()[:, None] / 255, digits.labels[::100]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


# ---------------------------------------------------------------- normalisation


def test_normalize():
    """Channel by channel; of one number any number of channels; constants, not parameters."""
    x = torch.rand(2, 3, 4, 5)
    layer = Normalize((0.1, 0.5, 0.9), 0.5)
    for k, mean in enumerate((0.1, 0.5, 0.9)):
        torch.testing.assert_close(layer(x)[:, k], (x[:, k] - mean) / 0.5)
    torch.testing.assert_close(Normalize(0.5, 0.25)(x), 4 * x - 2)
    assert Normalize(0.5, 0.25, 3).mean.shape == Normalize(0.5, (1, 2, 3)).std.shape == (3, 1, 1)
    assert not list(layer.parameters()) and list(layer.state_dict()) == ["mean", "std"]
    assert layer.double()(x.double()).dtype == torch.float64
    assert float(Normalize(2**70, 1).mean) == 2.0**70


def test_a_network_trained_on_normalised_images():
    """The recipe of one line: its logits on normalised images, its gradients in the intensities."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    model = network(channels=3, mean=0.0, std=1.0).eval()
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    z = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    logits, expected = nn.Sequential(Normalize(mean, std), model)(x), model(z)
    torch.testing.assert_close(logits, expected)
    gradients = [torch.autograd.grad(out[:, 0].sum(), x)[0] for out in (logits, expected)]
    torch.testing.assert_close(*gradients)


# ---------------------------------------------------------------- by name


@pytest.mark.parametrize("name", SIZES)
def test_build(name):
    """The network of that name, for the data given; what is not given is the network's own."""
    given = {"classes": 100, "channels": 2, "mean": (0.2, 0.3), "std": 0.5}
    torch.manual_seed(0)
    model = models.build(name, **given)
    x = torch.rand(2, 2, 28, 28)
    assert torch.equal(model(x), network(name, **given)(x)) and model(x).shape == (2, 100)
    torch.manual_seed(0)
    model = models.build(name, **given, activation="relu", width=4)
    assert torch.equal(model(x), network(name, **given, activation="relu", width=4)(x))


def test_register(monkeypatch):
    """By a call or a decorator; the keywords are those that are given."""
    for name in ("mine", "yours"):
        monkeypatch.setitem(MODELS, name, None)
        del MODELS[name]
    asked = []

    def make(**how):
        asked.append(how)
        return nn.Flatten()

    assert models.register("mine", make) is make and models.register("yours")(make) is make
    data_given = {"classes": 3, "channels": 1, "mean": 0.1, "std": 0.2}
    assert isinstance(models.build("mine", **data_given), nn.Flatten)
    models.build("yours", **data_given, activation="relu", width=5)
    assert asked == [data_given, {**data_given, "activation": "relu", "width": 5}]


def test_a_name_that_is_taken(monkeypatch):
    """By another network it is refused; a notebook's cell may be run again."""

    def cell():
        def mine(**how):
            return nn.Flatten()

        return mine

    monkeypatch.setitem(MODELS, "mine", None)
    del MODELS["mine"]
    models.register("resnet8", resnet8)
    for make in (cell(), cell()):
        models.register("mine", make)
        assert MODELS["mine"] is make
    for name in ("resnet8", "small_cnn"):
        with pytest.raises(ValueError, match=f"^name must be free, got '{name}', which is <fun"):
            models.register(name, cell())
    assert MODELS["resnet8"] is resnet8 and MODELS["small_cnn"] is small_cnn


def test_published_networks_load():
    """Whoever saved weights finds every tensor under its name."""
    paths = sorted((ROOT / "results").glob("table1_cpu_*.pt"))
    assert len(paths) == 3
    for path in paths:
        model = models.build("resnet8", classes=10, channels=3, mean=0.0, std=1.0)
        model.load_state_dict(torch.load(path, weights_only=True))
        assert (
            float(
                (model.normalize.mean.flatten() - torch.tensor([0.491, 0.482, 0.447])).abs().max()
            )
            < 1e-3
        )


# ---------------------------------------------------------------- modes held meanwhile


class Interrupt:
    """An interrupt (Ctrl-C) at the k-th line of the module that holds layers. Not where a lock is
    left, at which Python looks for none.
    """

    def __init__(self, k):
        self.left, self.entered = k, set()

    def __call__(self, frame, event, argument):
        if frame.f_code.co_filename != modes.__file__:
            return None
        place = frame, frame.f_lineno
        lock = linecache.getline(modes.__file__, frame.f_lineno).strip().endswith("_LOCK:")
        if event == "line" and not (lock and place in self.entered):
            self.entered.add(place)
            self.left -= 1
            if self.left == 0:
                self.at = frame.f_lineno
                signal.raise_signal(signal.SIGINT)
        return self


@pytest.mark.parametrize("asked", ["predictions", "penalty", "finite_difference"])
def test_an_interrupt_leaves_nothing_held(asked):
    """At whatever line of the bookkeeping it comes."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3))
    x, y = torch.rand(2, 1, 6, 6), torch.tensor([0, 1])
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    ways = {
        "predictions": lambda: predictions(model, x),
        "penalty": lambda: GradientPenalty("euclidean")(model, x, y),
        "finite_difference": lambda: GradientPenalty("euclidean", mode="finite_difference")(
            model, x, y
        ),
    }
    before, interrupted = sys.gettrace(), 0
    while True:
        interrupt = Interrupt(interrupted + 1)
        sys.settrace(interrupt)
        try:
            ways[asked]()
            break
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.settrace(before)
        assert all(layer.training for layer in model.modules()), interrupt.at
        assert all(own(layer, "training") for layer in model.modules()), interrupt.at
        with ThreadPoolExecutor(1) as pool:  # where the turn of others comes
            assert pool.submit(ways["penalty"]).result(10) is not None, interrupt.at
        assert model.state_dict().keys() == kept.keys()
        for name, value in model.state_dict().items():
            assert torch.equal(value, kept[name]), name
    assert interrupted > 50


def normalised():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.Softplus(),
        nn.InstanceNorm2d(3, track_running_stats=True),
        nn.utils.spectral_norm(nn.Conv2d(3, 3, 3)),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def condition(model):
    """All that a penalty and an evaluation set otherwise for a while."""
    held = ("training", "track_running_stats", "momentum")
    layers = [[getattr(layer, name, None) for name in held] for layer in model.modules()]
    return layers, {name: v.clone() for name, v in model.state_dict().items()}


def assert_as_before(model, before):
    layers, state = condition(model)
    assert layers == before[0]
    assert all(torch.equal(v, before[1][name]) for name, v in state.items())


PENALTY, SHAPE = GradientPenalty(PixelGraph(6, 6, 1)), (4, 1, 6, 6)


def test_threads_leave_a_model_as_it_was():
    """A penalty in one, predictions in another, started at the same time."""
    model, x, y = normalised(), torch.rand(SHAPE), torch.tensor([0, 1, 2, 0])
    model[6].eval()
    before, interval = condition(model), sys.getswitchinterval()
    calls = [lambda: PENALTY(model, x, y), lambda: predictions(model, x)]
    together = threading.Barrier(4)

    def run(call):
        for _ in range(10):
            together.wait(60)
            call()

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for thread in [pool.submit(run, call) for call in calls * 2]:
                thread.result()
    finally:
        sys.setswitchinterval(interval)
    assert_as_before(model, before)


@pytest.mark.parametrize("mode", ["double_backprop", "finite_difference"])
def test_threads_take_turns_with_a_model(mode):
    """Of a hundred penalties beside predictions every number is right, and so are theirs."""
    model, x, y = normalised(), torch.rand(SHAPE), torch.tensor([0, 1, 2, 0])
    model(x)
    penalty = GradientPenalty(PixelGraph(6, 6, 1), mode=mode, step=1e-2)
    wrapped, before = nn.Sequential(nn.Identity(), model), condition(model)
    expected, labels = penalty(model, x, y).detach(), predictions(model, x)
    done = threading.Event()

    def predicted():
        while not done.is_set():
            assert torch.equal(predictions(wrapped, x, batch_size=2), labels)

    with ThreadPoolExecutor(1) as pool:
        thread = pool.submit(predicted)
        try:
            found = [penalty(model, x, y).detach() for _ in range(100)]
        finally:
            done.set()
        thread.result(60)
    assert all(torch.equal(value, expected) for value in found)
    assert_as_before(model, before)


def test_threads_wait_for_no_other_model_nor_in_evaluation_mode():
    model, other, frozen, x = normalised(), normalised(), normalised().eval(), torch.rand(SHAPE)
    with ThreadPoolExecutor(1) as pool, evaluating(model), evaluating(frozen):
        for each in (other, frozen):
            pool.submit(predictions, each, x).result(60)
        waits = pool.submit(PENALTY, nn.Sequential(model), x, torch.tensor([0, 1, 2, 0]))
        with pytest.raises(TimeoutError):
            waits.result(0.1)
        assert predictions(model, x).shape == (4,)
    assert waits.result(60).shape == (4,)


@pytest.mark.parametrize("make", [normalised, lambda: Switches(normalised())])
def test_an_attack_whose_threads_evaluate(make):
    """Beside a penalty that waits for all of them."""
    model, x, y = make(), torch.rand(SHAPE), torch.tensor([0, 1, 2, 0])
    before, expected = condition(model), predictions(model, x)
    started = threading.Event()

    def attack(model, x, y):
        started.set()
        time.sleep(0.1)  # in which the penalty comes to wait
        with ThreadPoolExecutor(2) as pool:
            found = pool.map(lambda part: predictions(model, part), x.split(2))
        assert torch.equal(torch.cat(list(found)), expected)
        return x

    other = threading.Thread(target=lambda: started.wait(60) and PENALTY(model, x, y))
    other.start()
    assert misclassified(model, x, y, attack).tolist() == (expected != y).tolist()
    other.join(60)
    assert not other.is_alive()
    assert_as_before(model, before)


def test_two_threads_that_would_wait_for_each_other():
    one, two = normalised(), normalised()
    both = threading.Barrier(2)

    def cross(mine, other):
        with evaluating(mine):
            both.wait(60)
            with fixed_statistics(other):
                return True

    with ThreadPoolExecutor(2) as pool:
        threads = [pool.submit(cross, one, two), pool.submit(cross, two, one)]
        errors = [thread.exception(60) for thread in threads]
    assert sorted(str(error) for error in errors)[0] == "None"
    assert "wait for that of the other" in str([error for error in errors if error])
    assert one.training and two.training and one[1].training and two[1].training


def by_pool(call):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def by_thread(call):
    found = []
    thread = threading.Thread(target=lambda: found.append(raised_by(call)))
    thread.start()
    thread.join()
    raise found[0]


def raised_by(call):
    try:
        return call()
    except RuntimeError as error:
        return error


STARTS = {
    "pool": by_pool,
    "thread": by_thread,
    "event loop": lambda call: asyncio.run(asyncio.to_thread(call)),
    "thread of a thread": lambda call: by_pool(lambda: by_thread(call)),
}


def attacks_whose_threads_would_wait_for_ever():
    """All at once, each on a model of its own."""
    modes.PATIENCE = 10
    x, y = torch.rand(SHAPE), torch.tensor([0, 1, 2, 0])
    finite = GradientPenalty("euclidean", mode="finite_difference")
    penalties = [
        lambda model: PENALTY(model, x, y),
        lambda model: finite.terms(nn.Sequential(model), x, y),
        lambda model: predictions(Switches(model), x),
    ]
    models = [(start, call, normalised()) for start in STARTS.values() for call in penalties]

    def run(start, call, model):
        before = condition(model)
        with pytest.raises(RuntimeError, match="another thread evaluates model or takes a penalty"):
            misclassified(model, x, y, lambda *given: start(lambda: call(model)))
        assert_as_before(model, before)

    with ThreadPoolExecutor(len(models)) as pool:
        for thread in [pool.submit(run, *each) for each in models]:
            thread.result()


def test_attacks_whose_threads_would_wait_for_ever():
    """In a process of their own, which can be ended."""
    call = "import test_models; test_models.attacks_whose_threads_would_wait_for_ever()"
    subprocess.run([sys.executable, "-c", call], cwd=ROOT / "tests", timeout=120, check=True)


def test_a_thread_waits_for_others_at_work(monkeypatch):
    """However long, also where the one that started them waits itself."""
    monkeypatch.setattr(modes, "PATIENCE", 10)
    model, x, y = normalised(), torch.rand(SHAPE), torch.tensor([0, 1, 2, 0])
    ready = threading.Event()

    def attack(model, x, y):
        ready.set()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            by_pool(lambda: [predictions(model, x) for _ in range(100)])
        return x

    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(lambda: ready.wait(60) and PENALTY(model, x, y))
        misclassified(model, x, y, attack)
    assert waits.result(60).shape == (4,)


@pytest.mark.parametrize("first", ["evaluating", "fixing"])
def test_holders_that_overlap(first):
    """The mode is the one that counts when the other has gone, and the statistics stay."""
    model, x = normalised(), torch.rand(SHAPE)
    before = condition(model)
    one, two = evaluating(model), fixed_statistics(model)
    if first == "fixing":
        one, two = two, one
    one.__enter__()
    two.__enter__()
    model(x)
    one.__exit__(None, None, None)
    assert model[1].training == (first == "evaluating")
    model(x)
    two.__exit__(None, None, None)
    assert_as_before(model, before)


def test_a_layer_is_held_within_holding_it():
    layer = nn.Dropout()
    with held({layer: {"p": 0.1}}):
        with held({layer: {"p": 0.2}}), held({layer: {"p": 0.1}}):
            assert layer.p == 0.1
        assert layer.p == 0.1 and own(layer, "p") == 0.5
    assert layer.p == own(layer, "p") == 0.5


def test_an_exception_puts_back_what_was_there():
    model = normalised()
    before = condition(model)
    with pytest.raises(RuntimeError, match="^mine$"), evaluating(model), fixed_statistics(model):
        raise RuntimeError("mine")
    assert_as_before(model, before)
    with pytest.raises(TypeError, match="^model must return a tensor"):
        predictions(nn.Sequential(model, Broken()), torch.rand(SHAPE))
    assert_as_before(model, before)


class Broken(nn.Module):
    def forward(self, x):
        return None


def test_copies_of_a_model_that_is_held():
    model, x = normalised(), torch.rand(SHAPE)
    before = condition(model)
    with evaluating(model):
        twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        for twin in twins:
            assert torch.equal(predictions(twin, x), predictions(model, x))
    assert_as_before(model, before)
    assert not any(layer.training for twin in twins for layer in twin.modules())


def test_layers_that_go_and_come_meanwhile():
    model = normalised()
    gone = weakref.ref(model[2])
    with evaluating(model):
        model[2] = nn.ReLU()
        assert model[2].training and not gone().training
    assert model[1].training and model[2].training
    gc.collect()
    assert gone() is None


class Switches(nn.Sequential):
    """Acts on the call: noise in training mode alone, told of each change once."""

    noise, told = 1.0, ()

    def train(self, mode=True):
        if mode != self.training:
            self.told = (*self.told, mode)
        self.noise = float(mode)
        return super().train(mode)

    def forward(self, x):
        return super().forward(x) + self.noise * torch.arange(3, 0, -1)


class AlwaysOn(nn.Dropout):
    def train(self, mode=True):
        return super().train()


def test_models_that_act_on_a_change_of_mode():
    """Within others, and with parts in other modes, which they keep."""
    x = torch.rand(SHAPE)
    resting = Switches(nn.Identity()).eval()
    acting = Switches(normalised(), resting, AlwaysOn(0.5))
    model = nn.Sequential(acting, nn.Dropout(0.5))
    acting[0][6].eval()
    before = condition(model)
    plain = copy.deepcopy(model).eval()
    for outer in (model, nn.Sequential(model)):
        acting.told, resting.told = (), ()
        with evaluating(outer):
            assert [layer.training for layer in model.modules()] == [
                layer.training for layer in plain.modules()
            ]
            with evaluating(outer), evaluating(model), evaluating(acting[0]):
                assert acting.noise == resting.noise == 0
            assert acting.noise == 0 and own(acting, "training")
        assert acting.told == (False, True) and acting.noise == 1
        assert resting.noise == 0
        assert_as_before(model, before)
    with pytest.raises(RuntimeError, match="^mine$"), evaluating(model):
        raise RuntimeError("mine")
    assert acting.noise == 1
    assert_as_before(model, before)
    assert predictions(Switches(nn.Flatten(), nn.Linear(36, 3)).eval(), x).shape == (4,)


def test_threads_that_evaluate_a_model_that_acts():
    """The last one brings it back; a penalty among them has it in training mode."""
    model, x, y = Switches(normalised()), torch.rand(SHAPE), torch.tensor([0, 1, 2, 0])
    before, expected, labels = condition(model), PENALTY(model, x, y), predictions(model, x)

    def run(k):
        for _ in range(10):
            if k:
                assert torch.equal(predictions(model, x, batch_size=1), labels)
            else:
                assert torch.equal(PENALTY(model, x, y), expected)

    with ThreadPoolExecutor(3) as pool:
        for thread in [pool.submit(run, k) for k in range(3)]:
            thread.result(60)
    assert model.noise == 1
    assert_as_before(model, before)


def test_an_exported_model_says_what_torch_says():
    model, x = normalised()[:4].append(nn.Flatten()), torch.rand(SHAPE)
    model = torch.export.export(model, (x,)).module()
    with pytest.raises(NotImplementedError, match="eval"):
        predictions(model, x)
    assert all(layer.training for layer in model.modules())
    for layer in model.modules():
        layer.training = False
    assert predictions(model, x).shape == (4,)


@pytest.mark.parametrize("wrapped", ["compiled", "scripted", "parallel"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_models_in_a_shell(wrapped):
    """Whose own mode is another module's or not Python's."""
    model, x = normalised()[:4].append(nn.Flatten()), torch.rand(SHAPE)
    expected = predictions(model, x)
    shell = {
        "compiled": lambda: torch.compile(model, backend="eager"),
        "scripted": lambda: torch.jit.script(model),
        "parallel": lambda: nn.DataParallel(model),
    }[wrapped]()
    before = condition(model)
    assert torch.equal(predictions(shell, x), expected)
    assert shell.training
    assert_as_before(model, before)


# ---------------------------------------------------------------- bad input


def on_meta(make):
    with torch.device("meta"):
        return make(0.5, 0.5)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: resnet8("tanh"),
            ValueError,
            "^activation must be one of 'softplus', 'relu', got 'tanh'",
        ),
        (lambda: resnet20(width=0), ValueError, "^width must be at least 1, got 0"),
        (lambda: small_cnn(classes=1.5), TypeError, "^classes must be a whole number"),
        (lambda: small_cnn(channels=0), ValueError, "^channels must be at least 1"),
        (
            lambda: resnet8(channels=2, mean=(0.1, 0.2, 0.3)),
            ValueError,
            "^mean must be one number or 2, one for each channel, got \\(0.1, 0.2, 0.3\\)",
        ),
        (
            lambda: Normalize((0.1, 0.2, 0.3), (0.1, 0.2)),
            ValueError,
            "^std must be one number or 3, one for each channel, got \\(0.1, 0.2\\)",
        ),
        (
            lambda: Normalize((0.5, 0.4), np.ones((4, 5))),
            ValueError,
            r"^std must be a number or one for each channel, got \[\[1.0, .* of shape \(4, 5\)",
        ),
        (
            lambda: Normalize((0.5, 0.4), 0.5)(torch.rand(2, 3, 4, 4)),
            ValueError,
            r"^x must be \(..., 2, H, W\), of as many channels .*, got \(2, 3, 4, 4\)",
        ),
        (
            lambda: Normalize((0.5, 0.4), 0.5)(torch.rand(2, 1, 4, 4)),
            ValueError,
            r"^x must be \(..., 2, H, W\), of as many channels .*, got \(2, 1, 4, 4\)",
        ),
        (
            lambda: Normalize(0.5, 0.5)(torch.rand(2, 3, 4, 4, device="meta")),
            ValueError,
            "^x is on meta but mean is on cpu",
        ),
        (lambda: on_meta(Normalize), ValueError, "^mean must hold values, got a tensor on meta"),
        (lambda: Normalize(float("nan"), 1.0), ValueError, "^mean must be finite, got nan"),
        (
            lambda: Normalize(0.0, (0.5, 0.0)),
            ValueError,
            r"^std must be positive, got \(0.5, 0.0\)",
        ),
        (
            lambda: models.build("resnet9", classes=2, channels=1, mean=0.0, std=1.0),
            ValueError,
            "^name must be one of 'resnet20', 'resnet8', 'small_cnn', 'enresnet20', 'enresnet8'",
        ),
    ],
)
def test_bad_input(call, kind, message):
    with pytest.raises(kind, match=message):
        call()

"""Training: every step against plain torch, the same for the same seed, continued after a stop or a kill at any moment."""

import copy
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import signal
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import gpu
from torch.nn import functional as F

from wdtr_lite import (
    PixelGraph,
    attacks,
    data,
    evaluation,
    metric,
    models,
    noise,
    training,
)
from wdtr_lite.regularizer import GradientPenalty
from wdtr_lite.training import Config, Divergence, fit_together, load


def stand_in(seed=0):
    """70 random images of 8 x 8 pixels, a third of the pixels black, brighter in the upper half for odd labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (70,), generator=generator)
    images = torch.rand(70, 8, 8, generator=generator) * (
        torch.rand(70, 8, 8, generator=generator) > 1 / 3
    )
    images[:, :4] *= (0.3 + 0.7 * (labels % 2))[:, None, None]
    ends = {"train": (0, 60), "fit": (0, 50), "validation": (50, 60), "test": (60, 70)}
    split = {part: torch.arange(*bounds) for part, bounds in ends.items()}
    return data.Dataset("stand-in", (255 * images).byte(), labels, "a test", split)


IMAGES = stand_in()


def config(**how):
    small = {
        "model": "resnet8",
        "width": 2,
        "epochs": 2,
        "batch_size": 16,
        "learning_rate": 0.05,
        "milestones": (),
    }
    return Config(**small | how)


def fit(config, **how):
    return training.fit(config, **{"device": "cpu", "dataset": IMAGES, "progress": False} | how)


def assert_same(a, b):
    """Tensors, also in dicts and lists, equal bit by bit."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert a == b


def weights(run):
    return run.model.state_dict()


def checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(history):
    return [{key: value for key, value in line.items() if "second" not in key} for line in history]


# ---------------------------------------------------------------- one step, written out


def batches(config, epoch, images, labels):
    """The images in the order of the epoch's generator, the incomplete last batch left out."""
    order = torch.randperm(
        len(images), generator=torch.Generator().manual_seed(1_000_003 * config.seed + epoch)
    )
    for start in range(0, len(images) - config.batch_size + 1, config.batch_size):
        batch = order[start : start + config.batch_size]
        yield images[batch][:, None].float() / 255, labels[batch]


def by_hand(config, objective, rates, epsilons):
    """Stochastic gradient descent on an objective: model, x, y, generator, epsilon -> outputs, loss (B,), penalty (B,)."""
    images, labels = IMAGES.part(config.part)
    pixels = images.double() / 255
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = models.MODELS[config.model](
            config.activation,
            width=config.width,
            channels=1,
            mean=float(pixels.mean()),
            std=float(pixels.std()),
        )
    model.train()
    parameters, velocities, history = list(model.parameters()), None, []
    for epoch, (rate, epsilon) in enumerate(zip(rates, epsilons, strict=True)):
        generator, sums, n = (
            torch.Generator().manual_seed(1_000_003 * config.seed + epoch),
            [0.0, 0.0, 0.0],
            0,
        )
        for x, y in batches(config, epoch, images, labels):
            outputs, loss, penalty = objective(model, x, y, generator, epsilon)
            gradients = torch.autograd.grad((loss + penalty).sum() / len(x), parameters)
            with torch.no_grad():
                decayed = [
                    g + config.weight_decay * p for g, p in zip(gradients, parameters, strict=True)
                ]
                velocities = [
                    config.momentum * v + g
                    for v, g in zip(velocities or [0.0] * len(decayed), decayed, strict=True)
                ]
                for p, v in zip(parameters, velocities, strict=True):
                    p -= rate * v
            n += len(x)
            terms = (loss.sum(), penalty.sum(), (outputs.argmax(1) != y).sum())
            sums = [s + t.item() for s, t in zip(sums, terms, strict=True)]
        history.append(
            {"epoch": epoch + 1}
            | {key: s / n for key, s in zip(("loss", "penalty", "error"), sums, strict=True)}
        )
    return model, history


def plain(change=lambda model, x, y, generator, epsilon: x):
    def objective(model, x, y, generator, epsilon):
        outputs = model(change(model, x, y, generator, epsilon))
        loss = F.cross_entropy(outputs, y, reduction="none")
        return outputs, loss, 0 * loss

    return objective


def penalised(metric, eta, **how):
    def objective(model, x, y, generator, epsilon):
        outputs, loss, penalty = GradientPenalty(metric, **how).terms(model, x, y)
        return outputs, loss, eta**2 * penalty

    return objective


def adversarial(attack):
    def change(model, x, y, generator, epsilon):
        model.eval()
        x = attack(model, x, y, generator, epsilon)
        model.train()
        return x

    return plain(change)


GRAPH = PixelGraph(8, 8, 2)


def noisy(eta, scale):
    def change(model, x, y, generator, epsilon):
        unit = (
            torch.stack([metric.laplacian(GRAPH, image).diagonal() for image in x[:, 0]]).mean()
            if scale
            else 1
        )
        return x + noise.sample(GRAPH, x, eta, generator=generator)[0] / unit**0.5

    return plain(change)


def projected(eta):
    """The logits' Jacobian against a random unit vector for each image, its squared norm times the number of logits."""

    def objective(model, x, y, generator, epsilon):
        z = x.clone().requires_grad_()
        outputs = model(z)
        direction = torch.randn(outputs.shape, generator=generator)
        direction = direction / (direction**2).sum(1, keepdim=True) ** 0.5
        rows = torch.autograd.grad((direction * outputs).sum(), z, create_graph=True)[0]
        return (
            outputs,
            F.cross_entropy(outputs, y, reduction="none"),
            eta**2 * 10 * (rows**2).sum((1, 2, 3)),
        )

    return objective


def divergence(answers, logits):
    """Kullback-Leibler, from the answers to the softmax of the logits, (B,)."""
    return (answers * (answers.log() - logits.log_softmax(1))).sum(1)


def attacked_answers(model, x, generator, epsilon, steps):
    """The images of TRADES: signs up the divergence from what the network, in evaluation mode, answers; near x at first. The
    cross-entropy with the answers has the divergence's gradient; written like the package's, to the last bit, for signs of
    gradients that are nearly zero hang on it."""
    model.eval()
    answers = model(x).softmax(1).detach()
    at = (x + 1e-3 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    for _ in range(steps):
        at.requires_grad_()
        uphill = torch.autograd.grad(F.cross_entropy(model(at), answers, reduction="sum"), at)[
            0
        ].sign()
        at = (
            x + (at.detach() + 2.5 * epsilon / steps * uphill - x).clamp(-epsilon, epsilon)
        ).clamp(0, 1)
    model.train()
    return at


def trades(eta, steps):
    def objective(model, x, y, generator, epsilon):
        at = attacked_answers(model, x, generator, epsilon, steps)
        outputs = model(x)
        penalty = eta**2 * divergence(outputs.softmax(1), model(at))
        return outputs, F.cross_entropy(outputs, y, reduction="none"), penalty

    return objective


METHODS = {
    "none": ({}, plain()),
    "none_small_cnn": ({"model": "small_cnn", "seed": 3, "part": "fit"}, plain()),
    "none_relu": ({"activation": "relu", "momentum": 0.5, "weight_decay": 0.01}, plain()),
    "euclidean": ({"method": "euclidean", "eta": 0.3}, penalised("euclidean", 0.3)),
    "wasserstein": ({"method": "wasserstein", "eta": 0.3, "radius": 2}, penalised(GRAPH, 0.3)),
    "wasserstein_finite_difference": (
        {"method": "wasserstein", "eta": 0.3, "radius": 2, "mode": "finite_difference"},
        penalised(GRAPH, 0.3, mode="finite_difference"),
    ),
    "wasserstein_unscaled_margin": (
        {"method": "wasserstein", "eta": 0.1, "radius": 2, "scale": None, "of": "margin"},
        penalised(GRAPH, 0.1, scale=None, of="margin"),
    ),
    "euclidean_logits": ({"method": "euclidean", "eta": 0.1, "of": "logits"}, penalised("euclidean", 0.1, of="logits")),
    "jacobian": ({"method": "jacobian", "eta": 0.1}, projected(0.1)),
    "gaussian_noise": (
        {"method": "gaussian_noise", "eta": 0.2},
        plain(lambda model, x, y, generator, epsilon: x + 0.2 * torch.randn(x.shape, generator=generator)),
    ),
    "wasserstein_noise": ({"method": "wasserstein_noise", "eta": 0.2, "radius": 2}, noisy(0.2, "trace")),
    "wasserstein_noise_unscaled": ({"method": "wasserstein_noise", "eta": 0.02, "radius": 2, "scale": None}, noisy(0.02, None)),
    "fgsm": ({"method": "fgsm", "epsilon": 0.1}, adversarial(lambda m, x, y, g, epsilon: attacks.fgsm(m, x, y, epsilon))),
    "pgd": (
        {"method": "pgd", "epsilon": 0.1, "steps": 3},
        adversarial(lambda m, x, y, g, epsilon: attacks.pgd(m, x, y, epsilon, alpha=0.25 / 3, steps=3, generator=g)),
    ),
    "pgd_warmup": (
        {"method": "pgd", "epsilon": 0.1, "steps": 2, "warmup": 2},
        adversarial(lambda m, x, y, g, epsilon: attacks.pgd(m, x, y, epsilon, alpha=1.25 * epsilon, steps=2, generator=g)),
    ),
    "trades": ({"method": "trades", "epsilon": 0.1, "eta": 1.0, "steps": 3}, trades(1.0, 3)),
    "trades_warmup": ({"method": "trades", "epsilon": 0.1, "eta": 0.5, "steps": 2, "warmup": 2}, trades(0.5, 2)),
}  # fmt: skip


@pytest.mark.parametrize("how, objective", METHODS.values(), ids=METHODS)
def test_training_written_out(how, objective):
    """Order, objective, descent, schedules and metrics, of three epochs with a milestone after the second.

    Less exact for TRADES: its attack begins near the divergence's minimum, where the signs of gradients hang on rounding.
    """
    asked = config(epochs=3, milestones=(2,), **how)
    run = fit(asked)
    epsilons = [0.1 / 3, 0.2 / 3, 0.1] if asked.warmup else [0.1] * 3
    rtol, atol = (1e-2, 3e-4) if asked.method == "trades" else (1e-4, 1e-6)
    model, history = by_hand(asked, objective, [0.05, 0.05, 0.005], epsilons)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights(run)[name], value, rtol=rtol, atol=atol)
    assert [line["epoch"] for line in run.history] == [1, 2, 3]
    for found, expected in zip(run.history, history, strict=True):
        assert {key: found[key] for key in expected} == pytest.approx(expected, rel=rtol, abs=atol)
        assert found["seconds"] > 0 and found["images_per_second"] > 0


def test_no_two_methods_train_alike():
    """So that the test above tells them apart."""
    biases = [list(weights(fit(config(**how))).values())[-1] for how, _ in METHODS.values()]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(biases, 2))


@pytest.mark.parametrize(
    "how", [{"method": "gaussian_noise"}, {"method": "wasserstein_noise", "radius": 2}], ids=str
)
def test_eta_is_the_noise_of_a_pixel_on_average(how):
    """The root mean square over 2,000 images of 64 pixels, within 2 %. Black images change only if the noise is Gaussian."""
    terms = training._terms(config(eta=0.2, **how), (8, 8), torch.device("cpu"))
    x, seen = (IMAGES.images[:50, None].float() / 255).repeat(40, 1, 1, 1), []

    def model(images):
        seen.append(images)
        return torch.zeros(len(images), 10)

    labels = torch.zeros(len(x), dtype=torch.long)
    terms(model, x, labels, torch.Generator().manual_seed(0), 0.0)
    assert float(((seen[0] - x) ** 2).mean() ** 0.5) == pytest.approx(0.2, rel=0.02)
    terms(model, 0 * x, labels, torch.Generator().manual_seed(0), 0.0)
    assert bool(seen[1].any()) == (how["method"] == "gaussian_noise")


def terms_of(model, x, y, draw=0, **how):
    """Outputs, loss and penalty of a configuration's step."""
    asked = config(**how)
    terms = training._terms(asked, x.shape[-2:], torch.device("cpu"))
    return terms(model, x, y, torch.Generator().manual_seed(draw), asked.epsilon)


def batch(n=16):
    return IMAGES.images[:n, None].float() / 255, IMAGES.labels[:n]


@pytest.mark.parametrize("mode", ["double_backprop", "finite_difference"])
def test_jacobian_term_is_the_squared_norm_on_average(mode):
    """Of a linear model the norm of its matrix: each image's draw by hand, their mean within four standard errors of less
    than half a percent; of one logit without any error. The loss is the cross-entropy."""
    x, y = (part.repeat(250, *[1] * (part.dim() - 1)) for part in batch())
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    matrix = model[1].weight.detach()
    outputs, loss, penalty = terms_of(model, x, y, method="jacobian", eta=0.3, mode=mode)
    direction = F.normalize(
        torch.randn(4000, 10, generator=torch.Generator().manual_seed(0)), dim=1
    )
    torch.testing.assert_close(penalty, 0.3**2 * 10 * ((direction @ matrix) ** 2).sum(1))
    torch.testing.assert_close(loss, F.cross_entropy(model(x), y, reduction="none"))
    assert torch.equal(outputs, model(x))
    error = float(penalty.detach().std()) / 4000**0.5
    expected = 0.3**2 * float((matrix**2).sum())
    assert error < 0.005 * expected and abs(float(penalty.detach().mean()) - expected) < 4 * error
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 1))
    penalty = terms_of(model, x[:5], 0 * y[:5], method="jacobian", eta=0.3, mode=mode)[2]
    torch.testing.assert_close(penalty, 0.3**2 * (model[1].weight ** 2).sum().expand(5))


def test_jacobian_term_of_a_network_is_the_squared_norm_on_average():
    """Against all rows of the Jacobian; 400 draws."""
    model, (x, y) = models.resnet8(width=2, channels=1, mean=0.3, std=0.3).eval(), batch(8)
    z = x.clone().requires_grad_()
    rows = [torch.autograd.grad(logit.sum(), z, retain_graph=True)[0] for logit in model(z).T]
    expected = sum((row**2).sum((1, 2, 3)) for row in rows)
    draws = torch.stack(
        [terms_of(model, x, y, draw=k, method="jacobian", eta=1)[2].detach() for k in range(400)]
    )
    error = draws.std(0) / 400**0.5
    assert (error < 0.06 * expected).all() and ((draws.mean(0) - expected).abs() < 4 * error).all()


def test_jacobian_by_finite_differences_is_nearly_exact():
    """The same value; its derivative in the weights within 2 %, in training mode."""
    torch.manual_seed(0)
    model, (x, y) = models.resnet8(width=2, channels=1, mean=0.3, std=0.3).train(), batch()
    values, slopes = [], []
    for mode in ("double_backprop", "finite_difference"):
        penalty = terms_of(model, x, y, method="jacobian", eta=1, mode=mode)[2]
        values.append(penalty.detach())
        gradients = torch.autograd.grad(
            penalty.mean(), list(model.parameters()), allow_unused=True, materialize_grads=True
        )
        slopes.append(torch.cat([gradient.flatten() for gradient in gradients]))
    torch.testing.assert_close(*values)
    assert slopes[0].norm() > 0.1
    assert (slopes[1] - slopes[0]).norm() < 0.02 * slopes[0].norm()


def test_trades_term_is_the_divergence_of_attacked_images():
    """Weighted by eta squared, in training mode. The attack, in evaluation mode, stays within epsilon and [0, 1], moves nearly
    every pixel as far as it may, and makes the divergence ten times as large as random signs do."""
    model, (x, y), epsilon = fit(config()).model.train(), batch(), 0.05
    untouched, seen = copy.deepcopy(model), []
    hook = model.register_forward_pre_hook(
        lambda module, inputs: seen.append((module.training, inputs[0].detach().clone()))
    )
    outputs, loss, penalty = terms_of(model, x, y, method="trades", epsilon=epsilon, eta=1.5)
    hook.remove()
    assert [mode for mode, _ in seen] == [False] * 8 + [True] * 2 and model.training
    attacked = seen[-1][1]
    assert torch.equal(seen[0][1], x) and torch.equal(seen[-2][1], x)
    torch.testing.assert_close(
        attacked, attacked_answers(untouched, x, torch.Generator().manual_seed(0), epsilon, 7)
    )
    torch.testing.assert_close(penalty, 1.5**2 * divergence(model(x).softmax(1), model(attacked)))
    torch.testing.assert_close(loss, F.cross_entropy(model(x), y, reduction="none"))
    torch.testing.assert_close(outputs, model(x))
    change = (attacked - x).abs()
    assert change.max() <= epsilon + 1e-6 and attacked.min() >= 0 and attacked.max() <= 1
    assert (change > 0.99 * epsilon)[(x > epsilon) & (x < 1 - epsilon)].double().mean() > 0.8
    model = untouched.eval()
    with torch.no_grad():
        answers, signs = (
            model(x).softmax(1),
            torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).sign(),
        )
        found, start, random_signs = (
            divergence(answers, model(z))
            for z in (attacked, seen[1][1], (x + epsilon * signs).clamp(0, 1))
        )
    assert (found > start).all() and found.mean() > 10 * random_signs.mean()


# ---------------------------------------------------------------- images and schedule


@pytest.fixture
def seen(monkeypatch):
    """The indices of the images of each step."""
    steps, made = [], training._terms

    def recorded(*arguments):
        terms = made(*arguments)

        def record(model, x, y, *rest):
            same = (x[:, None, 0] * 255 == IMAGES.images.float()).flatten(2).all(2)
            assert (same.sum(1) == 1).all()
            steps.append(same.int().argmax(1).tolist())
            assert torch.equal(IMAGES.labels[steps[-1]], y)
            return terms(model, x, y, *rest)

        return record

    monkeypatch.setattr(training, "_terms", recorded)
    return steps


def test_each_epoch_has_an_order_of_its_own(seen):
    """Three batches of 16 of the 60 images, none twice; which 12 wait differs, so that all are seen."""
    fit(config(epochs=8))
    assert [len(step) for step in seen] == [16] * 24
    epochs = [sum(seen[k : k + 3], []) for k in range(0, 24, 3)]
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    assert (
        len({tuple(epoch) for epoch in epochs}) == len({frozenset(epoch) for epoch in epochs}) == 8
    )
    assert set(itertools.chain(*epochs)) == set(range(60))


@pytest.mark.parametrize("part, size", [("train", 60), ("fit", 50)])
def test_part_and_images(part, size, seen):
    """Only images of the part; a subset is drawn at random, the same for every seed, in another order."""
    fit(config(part=part, epochs=12))
    assert set(itertools.chain(*seen)) == set(range(size))
    subsets, orders = [], []
    for seed in (0, 1):
        seen.clear()
        fit(config(part=part, images=32, seed=seed))
        orders.append(seen[0])
        subsets.append(set(seen[0] + seen[1]))
    assert subsets[0] == subsets[1] and len(subsets[0]) == 32 and subsets[0] < set(range(size))
    assert subsets[0] != set(range(32)) and orders[0] != orders[1]


def test_normalisation_is_of_the_images_trained_on():
    """Mean and standard deviation of each channel, of colour images too."""
    brightness = torch.tensor([80, 160, 240]).view(3, 1, 1)
    colours = (
        torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * brightness
    ).byte()
    parts = {"train": torch.arange(30), "test": torch.arange(30, 40)}
    run = fit(
        config(epochs=1),
        dataset=data.Dataset("colours", colours, IMAGES.labels[:40], "a test", parts),
    )
    pixels = colours[:30].double().transpose(0, 1).flatten(1) / 255
    torch.testing.assert_close(run.model.normalize.mean.flatten(), pixels.mean(1).float())
    torch.testing.assert_close(run.model.normalize.std.flatten(), pixels.std(1).float())
    few, all_of_them = (fit(config(images=n, epochs=1)).model.normalize.mean for n in (20, None))
    assert not torch.equal(few, all_of_them)


@pytest.mark.parametrize(
    "milestones, rates",
    [
        ((), [0.1] * 5),
        ((2, 4), [0.1, 0.1, 0.01, 0.01, 0.001]),
        ([4, 2], [0.1, 0.1, 0.01, 0.01, 0.001]),
        ((5,), [0.1] * 5),
    ],
)
def test_learning_rate(milestones, rates, monkeypatch):
    seen, step = [], torch.optim.SGD.step

    def record(self, *arguments):
        seen.append([group["lr"] for group in self.param_groups])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", record)
    fit(config(epochs=5, learning_rate=0.1, milestones=milestones))
    assert [rate for (rate,) in seen] == pytest.approx([rate for rate in rates for _ in range(3)])


# ---------------------------------------------------------------- the same for the same seed


@pytest.mark.parametrize(
    "name",
    [
        "none",
        "wasserstein",
        "wasserstein_finite_difference",
        "wasserstein_noise",
        "pgd",
        "jacobian",
        "trades",
    ],
)
def test_same_seed_same_weights(name, capsys):
    """Whatever torch's global generator, which stays as it is, and with a progress bar or without."""
    asked = config(**METHODS[name][0])
    first = fit(asked)
    torch.manual_seed(12345)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    second = fit(asked, progress=True)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all() and random.getstate() == before[2]
    assert_same(weights(first), weights(second))
    assert without_times(first.history) == without_times(second.history)
    other = weights(fit(replace(asked, seed=1)))
    assert not torch.equal(other["conv.weight"], weights(first)["conv.weight"])
    assert capsys.readouterr().err


def test_the_first_weights_are_of_the_seed():
    still = [
        weights(fit(config(seed=seed, learning_rate=0.0)))["conv.weight"]
        for seed in (0, 1, 2**32 - 1)
    ]
    assert not torch.equal(still[0], still[1]) and not torch.equal(still[1], still[2])


def test_a_run_comes_in_evaluation_mode():
    run = fit(config())
    assert not any(module.training for module in run.model.modules())
    assert run.config == config() and len(run.history) == 2


def test_training_learns():
    """Odd labels are brighter above: the loss falls, and a penalty makes the gradients smaller."""
    free, held = (
        fit(config(epochs=30, learning_rate=0.1, **how))
        for how in ({}, {"method": "euclidean", "eta": 3.0})
    )
    assert free.history[-1]["loss"] < 0.7 * free.history[0]["loss"]
    x, y = IMAGES.images[:60, None].float() / 255, IMAGES.labels[:60]
    sizes = [GradientPenalty("euclidean")(run.model, x, y).mean() for run in (free, held)]
    assert sizes[1] < 0.2 * sizes[0]


# ---------------------------------------------------------------- stopped and continued


class Stopped(BaseException):
    pass


LONG = config(epochs=5, milestones=(2, 4), method="wasserstein_noise", radius=2, eta=0.1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return fit(LONG, folder=folder), folder


def assert_ends_like(undisturbed, folder, **how):
    """The stopped run, continued: weights, running statistics, momentum, metrics."""
    whole, whole_folder = undisturbed
    run = fit(LONG, folder=folder, **how)
    assert_same(weights(run), weights(whole))
    assert_same(checkpoint(folder), checkpoint(whole_folder))
    assert without_times(run.history) == without_times(whole.history)
    assert lines(folder) == run.history
    assert {path.name.removesuffix(".part").strip(".") for path in folder.iterdir()} == {
        "checkpoint.pt",
        "metrics.jsonl",
    }


def stop_at_write(monkeypatch, call, how):
    """Stop while the file of the given call is written, before it is in its place, or after."""
    calls, write_file, move = itertools.count(), training._replace, os.replace

    def stopped(path, write):
        if next(calls) != call:
            return write_file(path, write)
        if how == "while written":

            def write_half(stream):
                stream.write(b"PK")
                raise Stopped

            write_file(path, write_half)
        if how == "before it is moved":
            monkeypatch.setattr(os, "replace", lambda *paths: stop())
        write_file(path, write)
        stop()

    def stop():
        monkeypatch.setattr(os, "replace", move)
        raise Stopped

    monkeypatch.setattr(training, "_replace", stopped)


@pytest.mark.parametrize("how", ["while written", "before it is moved", "after"])
@pytest.mark.parametrize("call", range(10))
def test_stopped_at_a_file_and_continued(call, how, undisturbed, tmp_path, monkeypatch):
    """At each of the two files of each of the five epochs; between the two as well."""
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at_write(patch, call, how)
        fit(LONG, folder=tmp_path, checkpoint_every=1)
    assert (tmp_path / "checkpoint.pt").exists() == (call > 1 or (call, how) == (1, "after"))
    if call == 9 and how == "after":
        monkeypatch.setattr(
            training._Training, "_eager_step", None
        )  # nothing is left to be trained
    assert_ends_like(undisturbed, tmp_path, checkpoint_every=1)


@pytest.mark.parametrize("every", [1, 2, 3, 10])
@pytest.mark.parametrize("step", [0, 2, 3, 7, 11, 14])
def test_stopped_within_an_epoch_and_continued(step, every, undisturbed, tmp_path, monkeypatch):
    """And what is found on the way is whole: the last checkpoint is of a multiple of `every`."""
    steps, eager = itertools.count(), training._Training._eager_step

    def stopped(self):
        if next(steps) == step:
            raise Stopped
        eager(self)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(training._Training, "_eager_step", stopped)
        fit(LONG, folder=tmp_path / "a" / "run", checkpoint_every=every)
    epochs = step // 3
    if epochs >= every:
        found = load(tmp_path / "a" / "run")
        assert (
            checkpoint(tmp_path / "a" / "run")["epoch"]
            == len(found.history)
            == epochs // every * every
        )
    if epochs:
        assert [line["epoch"] for line in lines(tmp_path / "a" / "run")] == list(
            range(1, epochs + 1)
        )
    assert_ends_like(undisturbed, tmp_path / "a" / "run", checkpoint_every=every)


@pytest.mark.parametrize("name", ["jacobian", "trades", "trades_warmup"])
def test_rivals_stopped_and_continued(name, tmp_path, monkeypatch):
    """Within the third epoch of four; what an epoch draws is drawn again."""
    asked = config(epochs=4, milestones=(3,), **METHODS[name][0])
    whole, steps, eager = fit(asked), itertools.count(), training._Training._eager_step

    def stopped(self):
        if next(steps) == 7:
            raise Stopped
        eager(self)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(training._Training, "_eager_step", stopped)
        fit(asked, folder=tmp_path, checkpoint_every=1)
    assert checkpoint(tmp_path)["epoch"] == 2
    run = fit(asked, folder=tmp_path)
    assert_same(weights(run), weights(whole))
    assert without_times(run.history) == without_times(whole.history)


def killed_run(folder):
    """In another process."""
    torch.set_num_threads(1)
    fit(replace(LONG, epochs=KILLED_EPOCHS), folder=folder, checkpoint_every=1)


KILLED_EPOCHS = 160


def test_killed_ten_times_nothing_is_lost(tmp_path, monkeypatch):
    """SIGKILL at random moments, within an epoch or a file; after each the files are whole. The same weights in the end."""
    processes = multiprocessing.get_context("forkserver")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    processes.set_forkserver_preload(
        [__name__, "torch._dynamo"]
    )  # imported once; SGD needs the latter
    whole, folder, moments = tmp_path / "whole", tmp_path / "killed", random.Random(0)
    undisturbed = processes.Process(target=killed_run, args=(whole,))
    undisturbed.start()
    epochs = []
    for _ in range(10):
        before, deadline = stamp(folder), time.monotonic() + 60
        process = processes.Process(target=killed_run, args=(folder,))
        process.start()
        while stamp(folder) == before and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        epochs.append(checkpoint(folder)["epoch"] if (folder / "checkpoint.pt").exists() else 0)
        assert [line["epoch"] for line in lines(folder)][: epochs[-1]] == list(
            range(1, epochs[-1] + 1)
        )
    assert epochs == sorted(set(epochs)) and 0 < epochs[0] and epochs[-1] < KILLED_EPOCHS
    last = processes.Process(target=killed_run, args=(folder,))
    last.start()
    for process in (undisturbed, last):
        process.join(120)
        assert process.exitcode == 0
    assert_same(checkpoint(folder), checkpoint(whole))
    assert checkpoint(folder)["epoch"] == KILLED_EPOCHS and checkpoint(folder)["optimizer"]["state"]
    assert without_times(lines(folder)) == without_times(lines(whole))


def stamp(folder):
    path = folder / "checkpoint.pt"
    return path.stat().st_mtime_ns if path.exists() else None


def test_a_finished_run_returns_at_once(undisturbed, monkeypatch):
    monkeypatch.setattr(training._Training, "_eager_step", None)
    before = {path: path.stat().st_mtime_ns for path in undisturbed[1].iterdir()}
    assert_ends_like(undisturbed, undisturbed[1])
    assert before == {path: path.stat().st_mtime_ns for path in undisturbed[1].iterdir()}


@pytest.mark.parametrize(
    "change, named",
    [
        ({"seed": 7}, "seed=0"),
        ({"epochs": 6}, "epochs=5"),
        ({"milestones": (2,)}, r"milestones=\(2, 4\)"),
        ({"method": "gaussian_noise", "radius": None}, "method='wasserstein_noise', radius=2"),
        ({"scale": None, "eta": 0.2}, "eta=0.1, scale='trace'"),
    ],
)
def test_a_folder_holds_one_configuration(change, named, undisturbed):
    with pytest.raises(
        ValueError,
        match=rf"\d holds a run with {named}: choose another folder, or delete that one$",
    ):
        fit(replace(LONG, **change), folder=undisturbed[1])


def test_a_folder_holds_one_set_of_images(undisturbed):
    """Other images, other labels, another part: even where they are as many from the same source."""
    labels = replace(IMAGES, labels=IMAGES.labels.roll(1))
    for other in (stand_in(seed=1), labels, replace(IMAGES, source="elsewhere")):
        with pytest.raises(
            ValueError,
            match=r"holds a run on other images \(stand-in: 70 images .*\): choose another folder$",
        ):
            fit(LONG, folder=undisturbed[1], dataset=other)


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(training._Training, "_eager_step", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        fit(config(), folder=tmp_path / "file")


def test_numpy_numbers_are_continued_as_numbers(tmp_path):
    """A sweep's options often are NumPy's; the checkpoint holds plain ones, which alone it loads again."""
    numbers = {
        "eta": np.linspace(0.1, 0.2, 2)[0],
        "width": np.int64(2),
        "seed": np.int32(1),
        "milestones": (np.int64(1),),
    }
    asked = config(method="euclidean", **numbers)
    fit(asked, folder=tmp_path)
    assert (
        load(tmp_path).config
        == asked
        == config(method="euclidean", eta=0.1, width=2, seed=1, milestones=(1,))
    )


# ---------------------------------------------------------------- load


def test_load(undisturbed):
    run, folder = undisturbed
    state = torch.get_rng_state()
    found = load(str(folder))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(weights(found), weights(run))
    assert found.config == LONG and found.history == run.history
    assert not any(module.training for module in found.model.modules())
    assert torch.equal(
        evaluation.predictions(found.model, IMAGES.images),
        evaluation.predictions(run.model, IMAGES.images),
    )
    x = IMAGES.images[:, None].float() / 255
    assert torch.equal(found.model(x), run.model(x))


def test_load_of_nothing(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"holds no checkpoint.pt: train with folder='.*' first"
    ):
        load(tmp_path)


def test_images_without_a_folder_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(config())
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- divergence


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_diverges_stops(name):
    message = (
        r"^the run diverged in epoch \d+ \(loss \S+, penalty \S+\); there is no checkpoint\. Lower"
    )
    with pytest.raises(Divergence, match=message):
        fit(config(epochs=100, learning_rate=1e30, **METHODS[name][0] | {"weight_decay": 1.0}))


@pytest.fixture
def diverging(monkeypatch):
    """From the given step on the loss is not a number; its derivative is, and so are the weights."""

    def at(step):
        steps, made = itertools.count(), training._terms

        def broken(*arguments):
            terms = made(*arguments)

            def measure(*case):
                outputs, loss, penalty = terms(*case)
                return outputs, loss + (math.nan if next(steps) >= step else 0), penalty

            return measure

        monkeypatch.setattr(training, "_terms", broken)

    return at


def test_divergence_names_the_epoch_and_the_last_good_checkpoint(
    undisturbed, diverging, tmp_path, monkeypatch
):
    """In the fourth epoch of five, with checkpoints every two; the cause mended, the run goes on to the same end."""
    with monkeypatch.context():
        diverging(10)
        with pytest.raises(Divergence) as error:
            fit(LONG, folder=tmp_path, checkpoint_every=2)
    monkeypatch.undo()
    assert str(error.value).startswith("the run diverged in epoch 4 (loss nan, penalty 0.0); ")
    assert (
        f"the last good one is {tmp_path / 'checkpoint.pt'}. Lower the learning rate or eta."
        in str(error.value)
    )
    kept = checkpoint(tmp_path)
    assert kept["epoch"] == 2 and all(value.isfinite().all() for value in kept["model"].values())
    assert [line["epoch"] for line in lines(tmp_path)] == [1, 2, 3] and all(
        map(math.isfinite, lines(tmp_path)[2].values())
    )
    assert_ends_like(undisturbed, tmp_path)


def test_divergence_before_the_first_checkpoint(diverging, tmp_path):
    diverging(4)
    with pytest.raises(Divergence, match="in epoch 2 .*; there is no checkpoint"):
        fit(config(), folder=tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists() and len(lines(tmp_path)) == 1


@pytest.mark.parametrize(
    "what, value",
    [("linear.weight", math.nan), ("conv.weight", math.inf), ("bn.running_var", math.inf)],
)
def test_a_number_lost_in_the_last_step_is_noticed(what, value, tmp_path, monkeypatch):
    """The losses of the epoch were all finite; no checkpoint of it is kept."""
    steps, eager = itertools.count(1), training._Training._eager_step

    def broken(self):
        eager(self)
        if next(steps) == 6:
            self.model.state_dict()[what].view(-1)[0] = value

    monkeypatch.setattr(training._Training, "_eager_step", broken)
    with pytest.raises(
        Divergence, match=r"in epoch 2 \(loss \d.*the last good one is .*checkpoint.pt"
    ):
        fit(config(epochs=3), folder=tmp_path, checkpoint_every=1)
    assert checkpoint(tmp_path)["epoch"] == len(lines(tmp_path)) == 1


# ---------------------------------------------------------------- what comes in


BAD = {
    "data": (
        {"data": "cifar"},
        ValueError,
        "data must be one of cifar10, mnist, mnist5k, mnist5k_color, got 'cifar'",
    ),
    "part": ({"part": "test"}, ValueError, "part must be one of train, fit, got 'test'"),
    "model": (
        {"model": "vgg"},
        ValueError,
        "model must be one of resnet20, resnet8, small_cnn, got 'vgg'",
    ),
    "activation": (
        {"activation": "tanh"},
        ValueError,
        "activation must be one of softplus, relu, got 'tanh'",
    ),
    "method": (
        {"method": "l2"},
        ValueError,
        "method must be one of none, euclidean, wasserstein, .*, got 'l2'",
    ),
    "of": ({"of": "logit"}, ValueError, "of must be one of loss, logits, margin, got 'logit'"),
    "mode": (
        {"mode": "exact"},
        ValueError,
        "mode must be one of double_backprop, finite_difference, got 'exact'",
    ),
    "scale": ({"scale": "none"}, ValueError, "scale must be one of trace, None, got 'none'"),
    "precision": (
        {"precision": "float16"},
        ValueError,
        "precision must be one of float32, tf32, bfloat16, got 'float16'",
    ),
    "images": ({"images": 0}, ValueError, "images must be at least 1, got 0"),
    "images_type": ({"images": 1e3}, TypeError, "images must be a whole number, got 1000.0"),
    "width": ({"width": 0}, ValueError, "width must be at least 1, got 0"),
    "warmup": ({"warmup": -1}, ValueError, "warmup must be at least 0, got -1"),
    "steps": ({"steps": -1}, ValueError, "steps must be at least 1, got -1"),
    "epochs": ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
    "epochs_type": ({"epochs": True}, TypeError, "epochs must be a whole number, got True"),
    "batch_size": ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    "batch_size_type": (
        {"batch_size": "128"},
        TypeError,
        "batch_size must be a whole number, got '128'",
    ),
    "seed": ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
    "seed_type": ({"seed": 0.5}, TypeError, "seed must be a whole number, got 0.5"),
    "seed_none": ({"seed": None}, TypeError, "seed must be a whole number, got None"),
    "eta": (
        {"method": "euclidean", "eta": -0.1},
        ValueError,
        "eta must be non-negative and finite, got -0.1",
    ),
    "eta_type": ({"method": "euclidean", "eta": "0.1"}, TypeError, "eta must be a number, got str"),
    "eta_unused": ({"eta": 0.1}, ValueError, "method='none' needs no eta, got eta=0.1"),
    "eta_adversary": (
        {"method": "fgsm", "epsilon": 0.1, "eta": 1},
        ValueError,
        "method='fgsm' needs no eta, got eta=1.0",
    ),
    "epsilon": (
        {"method": "pgd", "epsilon": float("nan")},
        ValueError,
        "epsilon must be non-negative and finite, got nan",
    ),
    "epsilon_trades": (
        {"method": "trades", "eta": 1},
        ValueError,
        "method='trades' needs epsilon > 0, got 0.0",
    ),
    "epsilon_jacobian": (
        {"method": "jacobian", "eta": 1, "epsilon": 0.1},
        ValueError,
        "method='jacobian' needs no epsilon, got 0.1",
    ),
    "epsilon_missing": ({"method": "pgd"}, ValueError, "method='pgd' needs epsilon > 0, got 0.0"),
    "epsilon_unused": ({"epsilon": 0.1}, ValueError, "method='none' needs no epsilon, got 0.1"),
    "radius": (
        {"method": "wasserstein", "radius": 0},
        ValueError,
        "radius must be at least 1, got 0",
    ),
    "radius_type": (
        {"method": "wasserstein", "radius": 1.0},
        TypeError,
        "radius must be a whole number, got 1.0",
    ),
    "radius_missing": (
        {"method": "wasserstein"},
        ValueError,
        "method='wasserstein' needs a radius, got radius=None",
    ),
    "radius_noise": (
        {"method": "wasserstein_noise"},
        ValueError,
        "method='wasserstein_noise' needs a radius, got radius=None",
    ),
    "radius_jacobian": (
        {"method": "jacobian", "radius": 2},
        ValueError,
        "method='jacobian' needs no radius, got radius=2",
    ),
    "radius_trades": (
        {"method": "trades", "epsilon": 0.1, "radius": 2},
        ValueError,
        "method='trades' needs no radius, got radius=2",
    ),
    "radius_unused": (
        {"method": "euclidean", "radius": 2},
        ValueError,
        "method='euclidean' needs no radius, got radius=2",
    ),
    "eta_jacobian": (
        {"method": "jacobian", "eta": -1},
        ValueError,
        "eta must be non-negative and finite, got -1",
    ),
    "learning_rate": (
        {"learning_rate": float("inf")},
        ValueError,
        "learning_rate must be non-negative and finite, got inf",
    ),
    "momentum": ({"momentum": -1}, ValueError, "momentum must be non-negative and finite, got -1"),
    "weight_decay": (
        {"weight_decay": None},
        TypeError,
        "weight_decay must be a number, got NoneType",
    ),
    "milestones": ({"milestones": 100}, TypeError, "milestones must be a tuple of epochs, got 100"),
    "milestones_text": (
        {"milestones": "100"},
        TypeError,
        "milestones must be a tuple of epochs, got '100'",
    ),
    "milestones_type": (
        {"milestones": (100, 150.0)},
        TypeError,
        "milestones must be a whole number, got 150.0",
    ),
    "milestones_sign": ({"milestones": (-1,)}, ValueError, "milestones must be at least 1, got -1"),
}


@pytest.mark.parametrize("how, error, message", BAD.values(), ids=BAD)
def test_a_wrong_field_is_named(how, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        Config(**how)


def test_every_field_has_a_wrong_value_above():
    """But the split, which depends on the data set."""
    assert set(Config.__dataclass_fields__) - set(BAD) == {"split"}
    with pytest.raises(ValueError, match="^split must be None for mnist5k, got 'holdout'"):
        training.fit(Config(data="mnist5k", split="holdout"), device="cpu")


def test_the_defaults_are_those_of_appendix_d():
    """ResNet-20 on CIFAR-10, 200 epochs of SGD with momentum; a tenth of the learning rate after 100 and 150."""
    c = Config()
    assert (c.model, c.activation, c.data, c.batch_size) == ("resnet20", "softplus", "cifar10", 128)
    assert (c.epochs, c.learning_rate, c.milestones, c.momentum, c.weight_decay) == (
        200,
        0.1,
        (100, 150),
        0.9,
        1e-4,
    )
    with pytest.raises(AttributeError):
        c.epochs = 1


def test_width_is_the_networks_own_unless_given(tmp_path):
    widths = {None: 8, 2: 2}
    for asked, found in widths.items():
        fit(config(model="small_cnn", width=asked, epochs=1), folder=tmp_path / str(asked))
        assert len(load(tmp_path / str(asked)).model.conv1.weight) == found


ERRORS = {
    "batch_size": (
        {"batch_size": 61},
        {},
        "batch_size must be at most the number of images, 60, got 61",
    ),
    "batch_size_images": (
        {"batch_size": 32, "images": 31},
        {},
        "batch_size must be at most the number of images, 31, got 32",
    ),
    "images": (
        {"images": 51, "part": "fit"},
        {},
        "images must be at least 1 and at most 50, those of 'fit', got 51",
    ),
    "radius": (
        {"method": "wasserstein", "radius": 8},
        {},
        "radius must be less than the longer side, 8 pixels, got 8",
    ),
    "checkpoint_every": ({}, {"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
    "device": ({}, {"device": "gpu"}, "device must be cpu.* here, got 'gpu'"),
    "device_other": ({}, {"device": torch.device("meta")}, "device must be cpu.* here, got 'meta'"),
}


@pytest.mark.parametrize("how, options, message", ERRORS.values(), ids=ERRORS)
def test_what_does_not_fit_is_named(how, options, message, tmp_path):
    with pytest.raises(ValueError, match=f"^{message}$"):
        fit(config(**how), folder=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device")
def test_without_a_gpu_one_is_told_so(undisturbed):
    for call in (
        lambda device: fit(config(), device=device),
        lambda device: load(undisturbed[1], device=device),
    ):
        with pytest.raises(ValueError, match="^device must be cpu here, got 'cuda'$"):
            call("cuda")


def test_black_images_are_refused():
    black = replace(IMAGES, images=IMAGES.images * 0)
    with pytest.raises(ValueError, match="^std must be positive"):
        fit(config(), dataset=black)


# ---------------------------------------------------------------- several at once, precision


def test_together_as_one_by_one(tmp_path):
    methods = (
        {"method": "pgd", "epsilon": 0.1, "steps": 2, "epochs": 3},
        {"method": "gaussian_noise", "eta": 0.1, "images": 32},
    )
    configs = [config(seed=1), *(config(**how) for how in methods)]
    folders = [tmp_path / "a", None, tmp_path / "c"]
    runs = fit_together(configs, folders=folders, device="cpu", dataset=IMAGES, progress=False)
    for run, asked in zip(runs, configs, strict=True):
        assert run.config == asked
        assert_same(weights(run), weights(fit(asked)))
    assert (tmp_path / "a" / "checkpoint.pt").exists() and len(lines(tmp_path / "c")) == 2
    again = fit_together(configs, folders=folders, device="cpu", dataset=IMAGES, progress=False)
    for run, other in zip(runs, again, strict=True):
        assert_same(weights(run), weights(other))


def test_together_needs_a_folder_each(tmp_path):
    with pytest.raises(
        ValueError, match="^folders must be one for each of the 2 configurations, got 1$"
    ):
        fit_together([config(), config()], folders=[tmp_path], device="cpu", dataset=IMAGES)
    assert fit_together([], device="cpu", progress=False) == []


def test_tf32_is_float32_on_a_cpu():
    assert_same(
        *(weights(fit(replace(LONG, precision=precision))) for precision in ("float32", "tf32"))
    )


@pytest.mark.parametrize("name", ["none", "wasserstein", "wasserstein_noise", "fgsm"])
def test_bfloat16_is_nearly_float32(name):
    """Losses within 3 %, not equal; the weights stay float32."""
    exact, rough = (
        fit(config(precision=precision, **METHODS[name][0]))
        for precision in ("float32", "bfloat16")
    )
    for a, b in zip(exact.history, rough.history, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=0.03) and b["loss"] != a["loss"]
        assert b["penalty"] == pytest.approx(a["penalty"], rel=0.1)
    assert {value.dtype for value in rough.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["euclidean", "wasserstein", "jacobian"])
def test_a_finite_difference_is_differentiated_in_float32(name):
    """Its two losses are, so that bfloat16 changes nothing of it; their difference would magnify a rounding."""
    options = METHODS[name][0] | {"mode": "finite_difference"}
    exact, same = (
        fit(config(precision=precision, **options)) for precision in ("float32", "bfloat16")
    )
    assert_same(exact.model.state_dict(), same.model.state_dict())


def arithmetic():
    cudnn = torch.backends.cudnn
    return (
        torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu"), torch.are_deterministic_algorithms_enabled(),
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32,
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_torchs_settings_are_as_before(precision, monkeypatch):
    """After a training as after an error, whatever they were; without a warning. Within, convolutions are repeatable."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.set_float32_matmul_precision("medium")
    try:
        before = arithmetic()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with training._arithmetic(precision, torch.device("cpu")):
                within = arithmetic()
            fit(config(precision=precision))
            with pytest.raises(Stopped), training._arithmetic(precision, torch.device("cpu")):
                raise Stopped
        assert arithmetic() == before
    finally:
        torch.set_float32_matmul_precision("highest")
    assert within == (
        "highest",
        precision == "bfloat16",
        before[2],
        True,
        False,
        True,
        False,
        False,
    )


# ---------------------------------------------------------------- progress


def test_progress(tmp_path, capsys, monkeypatch):
    """Loss, penalty, error, images per second and the time left; a continued run starts where it was."""
    asked = config(method="euclidean", eta=0.5, epochs=4)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at_write(patch, 3, "after")
        fit(asked, folder=tmp_path, checkpoint_every=1)
    capsys.readouterr()
    run = fit(asked, folder=tmp_path, progress=True)
    shown = capsys.readouterr().err
    assert shown.startswith("\r 50%") and "96.0/192 [00:00<" in shown and "192/192" in shown
    last = run.history[-1]
    for key in ("epoch", "loss", "penalty", "error"):
        assert f"{key}={last[key]:.4g}" in shown
    assert re.search(r"\d[kM]? images/s, ", shown) and re.search(r"\d\d:\d\d<\d\d:\d\d, ", shown)
    assert fit(asked, folder=tmp_path).history == run.history
    assert capsys.readouterr() == ("", "")


# ---------------------------------------------------------------- on a GPU

PENALISED = ["none", "wasserstein", "wasserstein_finite_difference"]
ON_THE_GPU = [
    *PENALISED,
    "wasserstein_noise",
    "gaussian_noise",
    "fgsm",
    "pgd",
    "pgd_warmup",
    "jacobian",
    "trades",
]


def on_the_gpu(asked, **how):
    return fit(asked, device="cuda", **how)


def assert_close(a, b):
    for name, value in weights(a).items():
        torch.testing.assert_close(value, weights(b)[name], rtol=1e-3, atol=1e-5)


@gpu
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("name", ON_THE_GPU)
def test_on_the_gpu_a_captured_step_is_the_step(name, precision, monkeypatch):
    """Three eager steps, then a captured one, replayed; a milestone or another epsilon captures again. Each replay draws
    noise anew."""
    asked = config(
        batch_size=8,
        epochs=3,
        milestones=(2,),
        learning_rate=0.01,
        precision=precision,
        **METHODS[name][0],
    )
    calls, eager_step = [], training._Training._eager_step

    def counted(self):
        calls.append(torch.cuda.is_current_stream_capturing())
        eager_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(training._Training, "_eager_step", counted)
        captured = on_the_gpu(asked)
    assert calls == [False, False, False, True] * (3 if asked.warmup else 2)
    monkeypatch.setattr(training._Training, "_step", lambda self, k: self._eager_step())
    eager = on_the_gpu(asked)
    assert_close(captured, eager)
    for a, b in zip(without_times(captured.history), without_times(eager.history), strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=0.02)


@gpu
def test_on_the_gpu_a_milestone_after_the_capture_takes_effect():
    stopped = on_the_gpu(config(batch_size=8, epochs=2, milestones=(1,), learning_rate=0.01))
    same = on_the_gpu(config(batch_size=8, epochs=2, milestones=(), learning_rate=0.01))
    assert stopped.history[0]["loss"] == pytest.approx(same.history[0]["loss"], rel=1e-4)
    start = on_the_gpu(config(batch_size=8, epochs=1, learning_rate=0.01))
    moved = [
        (weights(run)["conv.weight"] - weights(start)["conv.weight"]).norm()
        for run in (stopped, same)
    ]
    assert moved[0] < 0.3 * moved[1]


@gpu
def test_on_the_gpu_together_as_one_by_one():
    configs = [
        config(batch_size=8, learning_rate=0.01, seed=seed, **METHODS[name][0])
        for seed, name in enumerate(ON_THE_GPU)
    ]
    runs = fit_together(configs, device="cuda", dataset=IMAGES, progress=False)
    for run, asked in zip(runs, configs, strict=True):
        assert_close(run, on_the_gpu(asked))


@gpu
def test_on_the_gpu_as_on_the_cpu():
    """Weights and order are drawn on the CPU; one epoch of a penalty differs by rounding."""
    asked = config(batch_size=8, epochs=1, learning_rate=0.01, **METHODS["wasserstein"][0])
    gpu, cpu = on_the_gpu(asked), fit(asked)
    for name, value in weights(cpu).items():
        torch.testing.assert_close(weights(gpu)[name].cpu(), value, rtol=1e-2, atol=1e-4)


@gpu
def test_on_the_gpu_stopped_and_continued(tmp_path, monkeypatch):
    asked = config(
        batch_size=8,
        epochs=4,
        milestones=(3,),
        learning_rate=0.01,
        **METHODS["wasserstein_noise"][0],
    )
    before = torch.cuda.get_rng_state()
    whole = on_the_gpu(asked)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at_write(patch, 3, "after")
        on_the_gpu(asked, folder=tmp_path, checkpoint_every=1)
    assert_close(on_the_gpu(asked, folder=tmp_path), whole)
    assert_same(weights(load(tmp_path)).keys(), weights(whole).keys())
    assert next(load(tmp_path, device="cuda").model.parameters()).is_cuda


@gpu
def test_on_the_gpu_a_run_that_diverges_stops():
    with pytest.raises(Divergence, match="in epoch"):
        on_the_gpu(config(batch_size=8, epochs=100, learning_rate=1e30, weight_decay=1.0))


@pytest.mark.parametrize("file", ["checkpoint.pt", "metrics.jsonl"])
@pytest.mark.parametrize("how", ["truncated", "empty", "other"])
def test_a_damaged_run_is_named(file, how, tmp_path):
    config = training.Config(
        data="mnist5k", images=32, batch_size=16, model="small_cnn", width=2, epochs=2
    )
    training.fit(config, folder=tmp_path, checkpoint_every=1, progress=False)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(
        {"truncated": content[: len(content) // 2], "empty": b"", "other": b"{}"}[how]
    )
    for use in (training.load, lambda folder: training.fit(config, folder=folder, progress=False)):
        with pytest.raises(ValueError, match=f"{file} is damaged.*delete"):
            use(tmp_path)

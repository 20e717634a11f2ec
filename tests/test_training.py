"""Training: every step against plain torch, the same for the same seed, continued after a stop or
a kill at any moment; any network, any images.
"""

import copy
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import signal
import sys
import tarfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracles import gpu
from test_laplace_beltrami import expanded
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
from wdtr_lite.regularizer import GradientPenalty, Terms
from wdtr_lite.training import (
    Config,
    Divergence,
    Objective,
    Training,
    fit_together,
    load,
)
from wdtr_lite.training import checkpoint as files
from wdtr_lite.training.arithmetic import arithmetic
from wdtr_lite.training.objectives.adversarial import kullback_leibler
from wdtr_lite.training.objectives.learnt import WEIGHTS


def stand_in(seed=0):
    """70 random images of 8 x 8 pixels, a third of the pixels black, brighter in the upper half for
    odd labels.
    """
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
        "model": "resnet8", "width": 2, "epochs": 2, "batch_size": 16, "learning_rate": 0.05,
        "milestones": (),
    }  # fmt: skip
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
    """What the file holds, but for the checksum of the metrics, which hold times."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    state.pop("metrics", None)
    return state


def store(folder, state):
    """A checkpoint as it was before it held a checksum of the metrics."""
    torch.save(state, folder / "checkpoint.pt")


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


def sgd(config):
    """(weights, gradients, rate) -> weights, with momentum."""
    velocities = itertools.repeat(0.0)

    def update(weights, gradients, rate):
        nonlocal velocities
        decayed = [g + config.weight_decay * w for w, g in zip(weights, gradients, strict=True)]
        pairs = zip(velocities, decayed, strict=False)
        velocities = [config.momentum * v + g for v, g in pairs]
        return [w - rate * v for w, v in zip(weights, velocities, strict=True)]

    return update


def adamw(config):
    """The weights' decay apart from the gradients; both means corrected for their start at 0."""
    means, squares, n = itertools.repeat(0.0), itertools.repeat(0.0), 0

    def update(weights, gradients, rate):
        nonlocal means, squares, n
        n, (beta, gamma) = n + 1, (config.momentum, 0.999)
        pairs = list(zip(means, squares, gradients, strict=False))
        means = [beta * m + (1 - beta) * g for m, _, g in pairs]
        squares = [gamma * s + (1 - gamma) * g**2 for _, s, g in pairs]
        moved = []
        for w, m, s in zip(weights, means, squares, strict=True):
            step = m / (1 - beta**n) / ((s / (1 - gamma**n)) ** 0.5 + 1e-8)
            moved.append(w - rate * config.weight_decay * w - rate * step)
        return moved

    return update


def by_hand(config, objective, rates, epsilons):
    """Descent on an objective: model, x, y, generator, epsilon -> outputs, loss, penalty (B,)."""
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
    update = {"sgd": sgd, "adamw": adamw}[config.optimizer](config)
    parameters, history = list(model.parameters()), []
    for epoch, (rate, epsilon) in enumerate(zip(rates, epsilons, strict=True)):
        generator = torch.Generator().manual_seed(1_000_003 * config.seed + epoch)
        sums, n = [0.0, 0.0, 0.0], 0
        for x, y in batches(config, epoch, images, labels):
            outputs, loss, penalty = objective(model, x, y, generator, epsilon)
            gradients = torch.autograd.grad((loss + penalty).sum() / len(x), parameters)
            with torch.no_grad():
                moved = update([p.clone() for p in parameters], gradients, rate)
                for p, w in zip(parameters, moved, strict=True):
                    p.copy_(w)
            n += len(x)
            terms = (loss.sum(), penalty.sum(), (outputs.argmax(1) != y).sum())
            sums = [s + t.item() for s, t in zip(sums, terms, strict=True)]
        means = zip(("loss", "penalty", "error"), sums, strict=True)
        history.append({"epoch": epoch + 1} | {key: s / n for key, s in means})
    return model, history


def plain(change=lambda model, x, y, generator, epsilon: x):
    def objective(model, x, y, generator, epsilon):
        outputs = model(change(model, x, y, generator, epsilon))
        loss = F.cross_entropy(outputs, y, reduction="none")
        return outputs, loss, 0 * loss

    return objective


def input_gradients(columns, x):
    """Of each of the columns (B, k) that x goes to, (B, k, H W)."""
    rows = [torch.autograd.grad(column.sum(), x, create_graph=True)[0] for column in columns.T]
    return torch.stack(rows, 1).flatten(2)


def normed(eta, norm_sq, columns=lambda outputs, loss: loss[:, None]):
    """A norm of the gradients of the loss, or of other columns, by plain autograd."""

    def objective(model, x, y, generator, epsilon):
        z = x.clone().requires_grad_()
        outputs = model(z)
        loss = F.cross_entropy(outputs, y, reduction="none")
        return outputs, loss, eta**2 * norm_sq(input_gradients(columns(outputs, loss), z))

    return objective


def differences(rows):
    """The mean over all pairs of logits of the squared distance of their gradients."""
    return ((rows[:, :, None] - rows[:, None]) ** 2).sum(3).mean((1, 2))


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


def pgd(steps):
    def attack(model, x, y, generator, epsilon):
        alpha = 2.5 * epsilon / steps
        return attacks.pgd(model, x, y, epsilon, alpha=alpha, steps=steps, generator=generator)

    return attack


GRAPH = PixelGraph(8, 8, 2)


def flipped_and_cropped(x, generator):
    """Row and column where each crop of a frame of 4 pixels begins, then who is mirrored."""
    corners = torch.randint(9, (2, len(x), 1), generator=generator).tolist()
    mirrored = torch.randint(2, (len(x), 1), generator=generator).tolist()
    changed = torch.zeros_like(x)
    for k in range(len(x)):
        framed = torch.zeros(x.shape[1], x.shape[2] + 8, x.shape[3] + 8)
        framed[:, 4:-4, 4:-4] = x[k]
        (top,), (left,) = corners[0][k], corners[1][k]
        crop = framed[:, top : top + x.shape[2], left : left + x.shape[3]]
        changed[k] = crop.flip(2) if mirrored[k][0] else crop
    return changed


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
    """The logits' Jacobian against a random unit vector for each image, its squared norm times the
    number of logits.
    """

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


def sampled_differences(eta):
    """Twice the squared norm of one such projection of the logits less their mean."""

    def objective(model, x, y, generator, epsilon):
        z = x.clone().requires_grad_()
        outputs = model(z)
        direction = torch.randn(outputs.shape, generator=generator)
        direction = direction / (direction**2).sum(1, keepdim=True) ** 0.5
        centred = outputs - outputs.mean(1, keepdim=True)
        rows = torch.autograd.grad((direction * centred).sum(), z, create_graph=True)[0]
        loss = F.cross_entropy(outputs, y, reduction="none")
        return outputs, loss, eta**2 * 2 * (rows**2).sum((1, 2, 3))

    return objective


def deepfool(eta):
    """The distance to the nearest plane between two classes, image by image; of a network that
    does not couple them.
    """

    def objective(model, x, y, generator, epsilon):
        z = x.clone().requires_grad_()
        outputs = model(z)
        rows, penalty = input_gradients(outputs, z), []
        for k, label in enumerate(y.tolist()):
            gaps = (outputs[k, label] - outputs[k]).abs()
            distances = [
                gaps[j] / (rows[k, label] - rows[k, j]).norm() for j in range(10) if j != label
            ]
            predicted = int(outputs[k].argmax())
            if predicted == label:
                penalty.append((-25 * min(distances) / x[k].norm()).exp())
            else:
                distance = distances[predicted - (predicted > label)]
                penalty.append((5 * distance / x[k].norm()).exp())
        loss = F.cross_entropy(outputs, y, reduction="none")
        return outputs, loss, eta**2 * torch.stack(penalty)

    return objective


def learnt():
    """Each weight at its offset and at the opposite one."""
    kernel = torch.zeros(9, 9)
    for (row, column), weight in WEIGHTS.items():
        kernel[4 + row, 4 + column] = kernel[4 - row, 4 - column] = weight
    return PixelGraph(8, 8, 4, weight=kernel)


def divergence(answers, logits):
    """Kullback-Leibler, from the answers to the softmax of the logits, (B,)."""
    return (answers * (answers.log() - logits.log_softmax(1))).sum(1)


def attacked_answers(model, x, generator, epsilon, steps):
    """The images of TRADES: signs up the divergence from what the network, in evaluation mode,
    answers; near x at first. The cross-entropy with the answers has the divergence's gradient;
    written like the package's, to the last bit, for signs of gradients that are nearly zero hang on
    it.
    """
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
    "adamw": (
        {"optimizer": "adamw", "momentum": 0.8, "weight_decay": 0.1, "learning_rate": 0.005},
        plain(),
    ),
    "cosine": ({"schedule": "cosine"}, plain()),
    "constant": ({"schedule": "constant"}, plain()),
    "flip_crop": (
        {"augmentation": "flip_crop"},
        plain(lambda model, x, y, generator, epsilon: flipped_and_cropped(x, generator)),
    ),
    "euclidean": ({"method": "euclidean", "eta": 0.3}, normed(0.3, lambda g: (g**2).sum((1, 2)))),
    "wasserstein": ({"method": "wasserstein", "eta": 0.3, "radius": 2}, penalised(GRAPH, 0.3)),
    "wasserstein_finite_difference": (
        {"method": "wasserstein", "eta": 0.3, "radius": 2, "mode": "finite_difference"},
        penalised(GRAPH, 0.3, mode="finite_difference"),
    ),
    "wasserstein_unscaled_margin": (
        {"method": "wasserstein", "eta": 0.1, "radius": 2, "scale": None, "of": "margin"},
        penalised(GRAPH, 0.1, scale=None, of="margin"),
    ),
    "euclidean_logits": (
        {"method": "euclidean", "eta": 0.1, "of": "logits"},
        normed(0.1, lambda g: (g**2).sum((1, 2)), lambda outputs, loss: outputs),
    ),
    "l1": ({"method": "l1", "eta": 0.05}, normed(0.05, lambda g: g.abs().sum((1, 2)) ** 2)),
    "linf": ({"method": "linf", "eta": 1.0}, normed(1.0, lambda g: g.abs().amax((1, 2)) ** 2)),
    "cross_lipschitz": (
        {"method": "cross_lipschitz", "eta": 0.2},
        normed(0.2, differences, lambda outputs, loss: outputs),
    ),
    "jacobian": ({"method": "jacobian", "eta": 0.1}, projected(0.1)),
    "sampled_cross_lipschitz": (
        {"method": "sampled_cross_lipschitz", "eta": 0.2}, sampled_differences(0.2)
    ),
    "deepfool": (
        {"method": "deepfool", "eta": 0.1, "model": "small_cnn", "width": 16,
         "learning_rate": 0.001},
        deepfool(0.1),
    ),
    "learnt_wasserstein": (
        {"method": "learnt_wasserstein", "eta": 0.3}, penalised(learnt(), 0.3)
    ),
    "gaussian_noise": (
        {"method": "gaussian_noise", "eta": 0.2},
        plain(lambda m, x, y, g, epsilon: x + 0.2 * torch.randn(x.shape, generator=g)),
    ),
    "wasserstein_noise": (
        {"method": "wasserstein_noise", "eta": 0.2, "radius": 2}, noisy(0.2, "trace")
    ),
    "wasserstein_noise_unscaled": (
        {"method": "wasserstein_noise", "eta": 0.02, "radius": 2, "scale": None}, noisy(0.02, None)
    ),
    **{
        name: ({"method": name, "eta": 0.1, "radius": 2}, expanded(name, GRAPH, 0.1))
        for name in ("gauss_newton", "second_order", "laplace_beltrami")
    },
    "fgsm": (
        {"method": "fgsm", "epsilon": 0.1},
        adversarial(lambda m, x, y, g, epsilon: attacks.fgsm(m, x, y, epsilon)),
    ),
    "pgd": ({"method": "pgd", "epsilon": 0.1, "steps": 3}, adversarial(pgd(3))),
    "pgd_warmup": (
        {"method": "pgd", "epsilon": 0.1, "steps": 2, "warmup": 2}, adversarial(pgd(2))
    ),
    "wasserstein_attack": (
        {"method": "wasserstein_attack", "epsilon": 0.1, "radius": 2, "steps": 2},
        adversarial(
            lambda m, x, y, g, epsilon: attacks.wasserstein_attack(m, x, y, GRAPH, epsilon, steps=2)
        ),
    ),
    "trades": ({"method": "trades", "epsilon": 0.1, "eta": 1.0, "steps": 3}, trades(1.0, 3)),
    "trades_warmup": (
        {"method": "trades", "epsilon": 0.1, "eta": 0.5, "steps": 2, "warmup": 2}, trades(0.5, 2)
    ),
}  # fmt: skip
RATES = {
    "milestones": [1, 1, 0.1],
    "cosine": [1, 0.75, 0.25],  # (1 + cos(pi k / 3)) / 2
    "constant": [1, 1, 1],
}


@cache
def trained(name):
    """Three epochs with a milestone after the second."""
    small = {"epochs": 3, "milestones": (2,)}
    return fit(config(**small | METHODS[name][0]))


@pytest.mark.parametrize("name", METHODS)
def test_training_written_out(name):
    """Order, objective, descent, schedules and metrics.

    Less exact for TRADES: its attack begins near the divergence's minimum, where the signs of
    gradients hang on rounding.
    """
    run, objective = trained(name), METHODS[name][1]
    asked = run.config
    rates = [asked.learning_rate * factor for factor in RATES[asked.schedule]]
    epsilons = [0.1 / 3, 0.2 / 3, 0.1] if asked.warmup else [0.1] * 3
    rtol, atol = (1e-2, 3e-4) if asked.method == "trades" else (1e-4, 1e-6)
    model, history = by_hand(asked, objective, rates, epsilons)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(weights(run)[key], value, rtol=rtol, atol=atol)
    assert [line["epoch"] for line in run.history] == [1, 2, 3]
    for found, expected in zip(run.history, history, strict=True):
        assert {key: found[key] for key in expected} == pytest.approx(expected, rel=rtol, abs=atol)
        assert found["seconds"] > 0 and found["images_per_second"] > 0


def test_every_choice_is_written_out():
    tried = [config(**how) for how, _ in METHODS.values()]
    for field in ("method", "optimizer", "schedule", "augmentation", "mode", "scale"):
        (option,) = [option for option in fields(Config) if option.name == field]
        assert {getattr(each, field) for each in tried} == set(option.metadata["choices"])


def test_no_two_methods_train_alike():
    """So that the test above tells them apart."""
    biases = [list(weights(trained(name)).values())[-1] for name in METHODS]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(biases, 2))


def objective_of(asked):
    return training.METHODS[asked.method](asked, (8, 8), torch.device("cpu"))


@pytest.mark.parametrize(
    "how", [{"method": "gaussian_noise"}, {"method": "wasserstein_noise", "radius": 2}], ids=str
)
def test_eta_is_the_noise_of_a_pixel_on_average(how):
    """The root mean square over 2,000 images of 64 pixels, within 2 %. Black images change only if
    the noise is Gaussian.
    """
    terms = objective_of(config(eta=0.2, **how)).terms
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
    generator = torch.Generator().manual_seed(draw)
    return objective_of(asked).terms(model, x, y, generator, asked.epsilon)


def batch(n=16):
    return IMAGES.images[:n, None].float() / 255, IMAGES.labels[:n]


@pytest.mark.parametrize("mode", ["double_backprop", "finite_difference"])
def test_jacobian_term_is_the_squared_norm_on_average(mode):
    """Of a linear model the norm of its matrix: each image's draw by hand, their mean within four
    standard errors of less than half a percent; of one logit without any error. The loss is the
    cross-entropy.
    """
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
    """Against all rows of the Jacobian; 400 draws of each image."""
    model, (x, y) = models.resnet8(width=2, channels=1, mean=0.3, std=0.3).eval(), batch(8)
    z = x.clone().requires_grad_()
    rows = [torch.autograd.grad(logit.sum(), z, retain_graph=True)[0] for logit in model(z).T]
    expected = torch.stack([(row**2).sum((1, 2, 3)) for row in rows]).sum(0)
    many = x.repeat(400, 1, 1, 1), y.repeat(400)
    draws = terms_of(model, *many, method="jacobian", eta=1)[2].detach().view(400, 8)
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
    """Weighted by eta squared, in training mode. The attack, in evaluation mode, stays within
    epsilon and [0, 1], moves nearly every pixel as far as it may, and makes the divergence ten
    times as large as random signs do.
    """
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


def test_trades_divergence_of_probabilities_that_underflow():
    """Of gaps of 200, either way: finite, with its gradient, as in float64."""
    logits = torch.tensor([[0.0, -200.0, -1.0], [200.0, 0.0, 0.0], [0.0, -200.0, 0.0]])
    attacked = torch.tensor([[0.0, -1.0, -200.0], [0.0, 200.0, 1.0], [0.0, -200.0, 0.5]])

    def value_and_slopes(*pair):
        value = kullback_leibler(*(each.requires_grad_() for each in pair))
        return [value, *torch.autograd.grad(value.sum(), pair)]

    exact = value_and_slopes(logits.double(), attacked.double())
    for found, expected in zip(value_and_slopes(logits, attacked), exact, strict=True):
        torch.testing.assert_close(found, expected.float())
    with torch.no_grad():
        moderate = (logits / 20).double(), (attacked / 20).double()
        expected = divergence(moderate[0].softmax(1), moderate[1])
        torch.testing.assert_close(kullback_leibler(*moderate), expected)


# ---------------------------------------------------------------- images and schedule


@pytest.fixture
def seen(monkeypatch):
    """The indices of the images of each step."""
    steps, terms = [], Objective.terms

    def record(self, model, x, y, *rest):
        same = (x[:, None, 0] * 255 == IMAGES.images.float()).flatten(2).all(2)
        assert (same.sum(1) == 1).all()
        steps.append(same.int().argmax(1).tolist())
        assert torch.equal(IMAGES.labels[steps[-1]], y)
        return terms(self, model, x, y, *rest)

    monkeypatch.setattr(Objective, "terms", record)
    return steps


def test_each_epoch_has_an_order_of_its_own(seen):
    """Three batches of 16 of the 60 images, none twice; which 12 wait differs, so that all are
    seen.
    """
    fit(config(epochs=8))
    assert [len(step) for step in seen] == [16] * 24
    epochs = [[*itertools.chain(*seen[k : k + 3])] for k in range(0, 24, 3)]
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    assert (
        len({tuple(epoch) for epoch in epochs}) == len({frozenset(epoch) for epoch in epochs}) == 8
    )
    assert set(itertools.chain(*epochs)) == set(range(60))


@pytest.mark.parametrize("part, size", [("train", 60), ("fit", 50)])
def test_part_and_images(part, size, seen):
    """Only images of the part; a subset is drawn at random, the same for every seed, in another
    order.
    """
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
    "how, rates",
    [
        ({}, [0.1] * 5),
        ({"milestones": (2, 4)}, [0.1, 0.1, 0.01, 0.01, 0.001]),
        ({"milestones": [4, 2]}, [0.1, 0.1, 0.01, 0.01, 0.001]),
        ({"milestones": (5,)}, [0.1] * 5),
        ({"schedule": "constant", "milestones": (2,)}, [0.1] * 5),
        ({"schedule": "cosine"}, [0.05 * (1 + math.cos(0.2 * math.pi * k)) for k in range(5)]),
    ],
    ids=str,
)
def test_learning_rate(how, rates, monkeypatch):
    seen, step = [], torch.optim.SGD.step

    def record(self, *arguments):
        seen.append([group["lr"] for group in self.param_groups])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", record)
    fit(config(epochs=5, learning_rate=0.1, **how))
    assert [rate for (rate,) in seen] == pytest.approx([rate for rate in rates for _ in range(3)])


def halves(parameters, config, device):
    """The first weight learns ten times as slowly."""
    first, *others = parameters
    groups = [{"params": [first], "lr": config.learning_rate / 10}, {"params": others}]
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)


def test_learning_rates_of_an_optimizer_of_your_own_keep_their_ratio(tmp_path, monkeypatch):
    """Also where the run is stopped and continued."""
    monkeypatch.setitem(training.OPTIMIZERS, "halves", halves)
    asked = config(epochs=4, optimizer="halves", milestones=(2,))
    run = Training(asked, dataset=IMAGES, folder=tmp_path, checkpoint_every=1)
    ends = (step for step in run.steps() if step.metrics)
    rates = [[group["lr"] for group in run.optimizer.param_groups] for _ in ends]
    assert rates == [[0.05 / 10, 0.05]] * 2 + [[0.05 / 10 * 0.1, 0.05 * 0.1]] * 2
    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at_write(patch, 5, "after")
        fit(asked, folder=stopped, checkpoint_every=1)
    assert_same(weights(fit(asked, folder=stopped)), weights(run))


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="Linux has such a folder")
def test_a_folder_in_which_no_file_can_be_made_is_not_busy():
    with pytest.raises(OSError, match="folder cannot be written: .*: '/proc/self'"):
        fit(config(), folder="/proc/self")


class Growing(torch.optim.SGD):
    """The more steps were done, the longer they are; how many, its groups hold."""

    def step(self):
        for group in self.param_groups:
            group["steps"] = group.get("steps", 0) + 1
            group["lr"] = group["initial_lr"] * group["steps"]
        super().step()


def assert_continued(asked, folder, monkeypatch):
    """Stopped and run again it ends with the weights of a run that was not stopped."""
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at_write(patch, 3, "after")
        fit(asked, folder=folder, checkpoint_every=1)
    assert_same(weights(fit(asked, folder=folder)), weights(fit(asked)))


def test_what_an_optimizer_keeps_in_its_groups_is_continued(tmp_path, monkeypatch):
    def growing(parameters, config, device):
        return Growing(parameters, lr=config.learning_rate / 10)

    monkeypatch.setitem(training.OPTIMIZERS, "growing", growing)
    assert_continued(config(epochs=4, optimizer="growing"), tmp_path, monkeypatch)


def test_an_optimizer_that_gathers_sums_of_rows_is_continued(tmp_path, monkeypatch):
    def adafactor(parameters, config, device):
        return torch.optim.Adafactor(parameters, lr=config.learning_rate)

    monkeypatch.setitem(training.OPTIMIZERS, "adafactor", adafactor)
    assert_continued(config(epochs=4, optimizer="adafactor"), tmp_path, monkeypatch)


def test_flips_and_crops_are_of_all_kinds():
    """Each of the 9 x 9 crops, mirrored or not, about as often as the others, in colour."""
    x = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(0)) + 0.1
    augment, generator = training.AUGMENTATIONS["flip_crop"], torch.Generator().manual_seed(0)
    seen = augment(x.expand(8100, -1, -1, -1), generator)
    framed = F.pad(x[0], (4, 4, 4, 4))
    crops = [
        image[:, top : top + 5, left : left + 6]
        for image in (framed, framed.flip(2))
        for top, left in itertools.product(range(9), repeat=2)
    ]
    counts = torch.stack([(seen == crop).flatten(1).all(1).sum() for crop in crops])
    assert counts.sum() == 8100 and 20 < counts.min() and counts.max() < 80  # 50 on average


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
    """Whatever torch's global generator, which stays as it is; with a progress bar or without."""
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
    assert run.config == config(data="stand-in") and len(run.history) == 2


def test_training_learns():
    """Odd labels are brighter above: the loss falls, and a penalty makes the gradients smaller."""
    free, held = (
        fit(config(epochs=20, learning_rate=0.1, **how))
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
    assert {path.name for path in folder.iterdir()} == {".lock", "checkpoint.pt", "metrics.jsonl"}


def stop_at_write(monkeypatch, call, how):
    """Stop while the file of the given call is written, before it is in its place, or after."""
    calls, write_file, move = itertools.count(), files.replace_file, os.replace

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

    monkeypatch.setattr(files, "replace_file", stopped)


@pytest.mark.parametrize("how", ["while written", "before it is moved", "after"])
@pytest.mark.parametrize("call", [0, 1, 2, 3, 8, 9])
def test_stopped_at_a_file_and_continued(call, how, undisturbed, tmp_path, monkeypatch):
    """At each of the two files, in the first two and the last of five epochs; between the two."""
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at_write(patch, call, how)
        fit(LONG, folder=tmp_path, checkpoint_every=1)
    assert (tmp_path / "checkpoint.pt").exists() == (call > 1 or (call, how) == (1, "after"))
    if call == 9 and how == "after":
        monkeypatch.setattr(Training, "eager_step", None)  # nothing is left to be trained
    assert_ends_like(undisturbed, tmp_path, checkpoint_every=1)


@pytest.mark.parametrize(
    "step, every", [(0, 1), (2, 1), (3, 1), (7, 1), (7, 2), (11, 3), (14, 1), (14, 10)]
)
def test_stopped_within_an_epoch_and_continued(step, every, undisturbed, tmp_path, monkeypatch):
    """And what is found on the way is whole: the last checkpoint is of a multiple of `every`."""
    steps, eager = itertools.count(), Training.eager_step

    def stopped(self):
        if next(steps) == step:
            raise Stopped
        eager(self)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Training, "eager_step", stopped)
        fit(LONG, folder=tmp_path / "a" / "run", checkpoint_every=every)
    epochs = step // 3
    if epochs >= every:
        found = load(tmp_path / "a" / "run")
        kept = epochs // every * every
        assert checkpoint(tmp_path / "a" / "run")["epoch"] == len(found.history) == kept
    if epochs:
        written = [line["epoch"] for line in lines(tmp_path / "a" / "run")]
        assert written == list(range(1, epochs + 1))
    assert_ends_like(undisturbed, tmp_path / "a" / "run", checkpoint_every=every)


ALL_NEW = {"optimizer": "adamw", "schedule": "cosine", "augmentation": "flip_crop"}
CHOICES = {name: METHODS[name][0] for name in ("jacobian", "trades_warmup")} | {
    "adamw": {"optimizer": "adamw"},
    "cosine": {"schedule": "cosine"},
    "flip_crop": {"augmentation": "flip_crop"},
    "all": ALL_NEW | METHODS["pgd"][0] | {"precision": "bfloat16"},
}


@pytest.mark.parametrize("how", CHOICES.values(), ids=CHOICES)
def test_choices_stopped_and_continued(how, tmp_path, monkeypatch):
    """Within the third epoch of four; what an epoch draws is drawn again."""
    asked = config(epochs=4, milestones=(3,), **how)
    whole, steps, eager = fit(asked), itertools.count(), Training.eager_step

    def stopped(self):
        if next(steps) == 7:
            raise Stopped
        eager(self)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Training, "eager_step", stopped)
        fit(asked, folder=tmp_path, checkpoint_every=1)
    assert checkpoint(tmp_path)["epoch"] == 2
    run = fit(asked, folder=tmp_path)
    assert_same(weights(run), weights(whole))
    assert without_times(run.history) == without_times(whole.history)


def killed_run(folder):
    """In another process."""
    torch.set_num_threads(1)
    fit(replace(LONG, epochs=KILLED_EPOCHS, **ALL_NEW), folder=folder, checkpoint_every=1)


KILLED_EPOCHS = 80


def test_killed_eight_times_nothing_is_lost(tmp_path, monkeypatch):
    """SIGKILL at random moments, within an epoch or a file; after each the files are whole. The
    same weights in the end, of an optimizer with two means, a schedule, and images that change.
    """
    processes = multiprocessing.get_context("forkserver")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    # Imported once; optimizers need the latter.
    processes.set_forkserver_preload([__name__, "torch._dynamo"])
    whole, folder, moments = tmp_path / "whole", tmp_path / "killed", random.Random(0)
    undisturbed = processes.Process(target=killed_run, args=(whole,))
    undisturbed.start()
    epochs = []
    for _ in range(8):
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
        written = [line["epoch"] for line in lines(folder)]
        assert written[: epochs[-1]] == list(range(1, epochs[-1] + 1))
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
    monkeypatch.setattr(Training, "eager_step", None)
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
        ({"optimizer": "adamw"}, "optimizer='sgd'"),
    ],
)
def test_a_folder_holds_one_configuration(change, named, undisturbed):
    with pytest.raises(
        ValueError,
        match=rf"\d holds a run with {named}: choose another folder, or delete that one$",
    ):
        fit(replace(LONG, **change), folder=undisturbed[1])


def test_a_folder_holds_one_set_of_images(undisturbed):
    """Other images, other labels, another source: even where they are as many."""
    labels = replace(IMAGES, labels=IMAGES.labels.roll(1))
    for other in (stand_in(seed=1), labels, replace(IMAGES, source="elsewhere")):
        with pytest.raises(
            ValueError,
            match=r"holds a run on other images \(stand-in: 70 images .*\): choose another folder$",
        ):
            fit(LONG, folder=undisturbed[1], dataset=other)


def test_numpy_numbers_are_continued_as_numbers(tmp_path):
    """A sweep's options often are NumPy's; the checkpoint holds plain ones, which alone it loads
    again.
    """
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
        == replace(asked, data="stand-in")
        == config(data="stand-in", method="euclidean", eta=0.1, width=2, seed=1, milestones=(1,))
    )


def test_runs_from_before_there_were_choices_go_on(undisturbed, tmp_path, monkeypatch):
    """Their configuration lacks the new fields, and ten classes go without saying."""
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at_write(patch, 5, "after")
        fit(LONG, folder=tmp_path, checkpoint_every=1)
    state = checkpoint(tmp_path)
    for name in ALL_NEW:
        del state["config"][name]
    del state["sizes"], state["given"]
    store(tmp_path, state)
    assert load(tmp_path).config == replace(LONG, data="stand-in")
    assert_ends_like(undisturbed, tmp_path)


def test_options_without_use_were_accepted_once(tmp_path):
    asked = config(data="stand-in", method="euclidean", eta=0.1)
    run = fit(asked, folder=tmp_path)
    state = checkpoint(tmp_path)
    state["config"] |= {"scale": None, "steps": 3, "warmup": 1}
    store(tmp_path, state)
    assert load(tmp_path).config == asked
    assert_same(weights(fit(asked, folder=tmp_path)), weights(run))


OLD = Path(__file__).parents[2] / "shared" / "fullscale" / "networks-159epochs.tar"


@pytest.mark.skipif(not OLD.exists(), reason="no networks trained before")
def test_networks_trained_before_are_found(tmp_path):
    """ResNet-20s of 159 epochs: what they were trained on and how, their weights and metrics."""
    with tarfile.open(OLD) as tar:
        tar.extractall(tmp_path, filter="data")
    asked = {"data": "cifar10", "split": "holdout", "precision": "bfloat16"}
    settings = [
        {},
        {"method": "euclidean", "eta": 1.0},
        {"method": "wasserstein", "eta": 1.0, "radius": 8},
    ]
    names = ["none-eta0-rNone-s0", "euclidean-eta1-rNone-s0", "wasserstein-eta1-r8-s0"]
    for name, how in zip(names, settings, strict=True):
        run = load(tmp_path / name)
        assert run.config == Config(**asked, **how) and len(run.history) == 159
        assert_same(weights(run), checkpoint(tmp_path / name)["model"])
        assert run.history[-1]["epoch"] == 159 and run.history[-1]["error"] < 0.25


# ---------------------------------------------------------------- load


def test_load(undisturbed):
    run, folder = undisturbed
    state = torch.get_rng_state()
    found = load(str(folder))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(weights(found), weights(run))
    assert found.config == run.config == replace(LONG, data="stand-in")
    assert found.history == run.history
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


@pytest.mark.parametrize("name", ["none", "wasserstein", "pgd", "trades"])
def test_a_run_that_diverges_stops(name):
    message = (
        r"^the run diverged in epoch \d+ \(loss \S+, penalty \S+\); there is no checkpoint\. Lower"
    )
    with pytest.raises(Divergence, match=message):
        fit(config(epochs=100, learning_rate=1e30, **METHODS[name][0] | {"weight_decay": 1.0}))


@pytest.fixture
def diverging(monkeypatch):
    """From the given step on the loss is not a number; its derivative and the weights are."""

    def at(step):
        steps, terms = itertools.count(), Objective.terms

        def broken(self, *case):
            outputs, loss, penalty = terms(self, *case)
            return outputs, loss + (math.nan if next(steps) >= step else 0), penalty

        monkeypatch.setattr(Objective, "terms", broken)

    return at


def test_divergence_names_the_epoch_and_the_last_good_checkpoint(
    undisturbed, diverging, tmp_path, monkeypatch
):
    """In the fourth epoch of five, with checkpoints every two; the cause mended, the run goes on to
    the same end.
    """
    with monkeypatch.context():
        diverging(10)
        with pytest.raises(Divergence) as error:
            fit(LONG, folder=tmp_path, checkpoint_every=2)
    monkeypatch.undo()
    assert str(error.value).startswith("the run diverged in epoch 4 (loss nan, penalty 0.0); ")
    assert (
        f"the last good one is {tmp_path / 'checkpoint.pt'}. Lower the learning rate, "
        "eta or the weight decay." in str(error.value)
    )
    kept = checkpoint(tmp_path)
    assert kept["epoch"] == 2 and all(value.isfinite().all() for value in kept["model"].values())
    assert [line["epoch"] for line in lines(tmp_path)] == [1, 2, 3]
    last = lines(tmp_path)[2]
    assert last.pop("device") == "CPU" and all(map(math.isfinite, last.values()))
    assert_ends_like(undisturbed, tmp_path)


def test_divergence_before_the_first_checkpoint(diverging, tmp_path):
    diverging(4)
    with pytest.raises(Divergence, match="in epoch 2 .*; there is no checkpoint"):
        fit(config(), folder=tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists() and len(lines(tmp_path)) == 1


class Masked(torch.nn.Module):
    """A network that holds a mask of its own, and says more than tensors do."""

    def __init__(self, mask):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.register_buffer("mask", mask)

    def forward(self, x):
        return self.layer(x.flatten(1))

    def get_extra_state(self):
        return {"version": 3}

    def set_extra_state(self, state):
        assert state == {"version": 3}


class Summed(torch.nn.Module):
    """Autograd gives both biases one gradient."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10, bias=False)
        self.first, self.second = (torch.nn.Parameter(torch.zeros(10)) for _ in range(2))

    def forward(self, x):
        return self.layer(x.flatten(1)) + (self.first + self.second)


def test_parameters_do_not_share_a_gradient(monkeypatch):
    """An optimizer that scales gradients in place scales each once."""

    class Halving(torch.optim.SGD):
        def step(self, closure=None):
            for parameter in self.param_groups[0]["params"]:
                parameter.grad.mul_(0.5)
            return super().step(closure)

    monkeypatch.setitem(
        training.OPTIMIZERS, "halving", lambda ps, c, device: Halving(ps, lr=2 * c.learning_rate)
    )
    monkeypatch.setitem(
        training.OPTIMIZERS, "whole", lambda ps, c, device: torch.optim.SGD(ps, lr=c.learning_rate)
    )
    model = Summed()
    halved, whole = (
        fit(config(optimizer=each, epochs=1), model=copy.deepcopy(model)).model
        for each in ("halving", "whole")
    )
    for name in ("first", "second"):
        assert torch.allclose(getattr(halved, name), getattr(whole, name), rtol=1e-4)


def test_hooks_of_parameters_are_called_as_by_backward():
    """Those that wait for a gradient may change it, or take the step themselves; once each, and
    not those of a frozen parameter.
    """
    model, called = Summed(), []
    model.second.requires_grad_(False)
    hooked = copy.deepcopy(model)

    def steps_itself(parameter):
        called.append(parameter)
        parameter.sub_(0.05 * parameter.grad)
        parameter.grad = None

    for parameter in (hooked.layer.weight, hooked.first):
        parameter.register_hook(lambda gradient: 2 * gradient)
        parameter.register_post_accumulate_grad_hook(lambda p: p.grad.mul_(0.5))
        parameter.register_post_accumulate_grad_hook(steps_itself)
    asked = config(epochs=1, momentum=0.0, weight_decay=0.0)
    run, expected = fit(asked, model=hooked), fit(asked, model=model)
    assert len(called) == 2 * 3
    for one, other in zip(run.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "mask",
    [torch.full((2, 2), -math.inf).triu(1), torch.ones(3).to(torch.float8_e4m3fn)],
    ids=["-inf", "float8"],
)
def test_what_a_network_holds_from_the_start_is_no_divergence(mask, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model, asked = Masked(mask), config(epochs=3)
    whole = fit(asked, model=copy.deepcopy(model))
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at_write(patch, 3, "after")
        fit(asked, model=copy.deepcopy(model), folder=tmp_path, checkpoint_every=1)
    run = fit(asked, model=copy.deepcopy(model), folder=tmp_path)
    found = load(tmp_path, model=Masked(mask))
    assert torch.equal(run.model.layer.weight, whole.model.layer.weight)
    assert torch.equal(found.model.layer.weight, whole.model.layer.weight)
    assert torch.equal(found.model.mask.float(), mask.float())
    with pytest.raises(Divergence):
        fit(config(learning_rate=1e30, epochs=9), model=model)


def test_an_extra_state_that_no_checkpoint_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(Masked, "get_extra_state", lambda self: Stopped())
    model = Masked(torch.ones(2))
    with pytest.raises(TypeError, match="^model must have an extra state of tensors, .*_extra_st"):
        fit(config(), model=model, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    fit(config(epochs=1), model=model)


@pytest.mark.parametrize(
    "what, value",
    [("linear.weight", math.nan), ("conv.weight", math.inf), ("bn.running_var", math.inf)],
)
def test_a_number_lost_in_the_last_step_is_noticed(what, value, tmp_path, monkeypatch):
    """The losses of the epoch were all finite; no checkpoint of it is kept."""
    steps, eager = itertools.count(1), Training.eager_step

    def broken(self):
        eager(self)
        if next(steps) == 6:
            self.model.state_dict()[what].view(-1)[0] = value

    monkeypatch.setattr(Training, "eager_step", broken)
    with pytest.raises(
        Divergence, match=r"in epoch 2 \(loss \d.*the last good one is .*checkpoint.pt"
    ):
        fit(config(epochs=3), folder=tmp_path, checkpoint_every=1)
    assert checkpoint(tmp_path)["epoch"] == len(lines(tmp_path)) == 1


# ---------------------------------------------------------------- what comes in


BAD = {
    "data": (5, TypeError, "data must be str, got 5"),
    "split": ("", ValueError, "split must not be empty, got ''"),
    "model": (None, TypeError, "model must be str, got None"),
    "part": ("test", ValueError, "part must be one of 'train', 'fit', got 'test'"),
    "images": (1e3, TypeError, "images must be a whole number, got 1000.0"),
    "activation": ("tanh", ValueError, "activation must be one of 'softplus', 'relu', got 'tanh'"),
    "width": (0, ValueError, "width must be at least 1, got 0"),
    "method": ("l2", ValueError, "method must be one of 'none', 'euclidean', .*, got 'l2'"),
    "eta": (-0.1, ValueError, "eta must be non-negative and finite, got -0.1"),
    "radius": (1.0, TypeError, "radius must be a whole number, got 1.0"),
    "of": ("logit", ValueError, "of must be one of 'loss', 'logits', .*, got 'logit'"),
    "mode": ("exact", ValueError, "mode must be one of 'double_backprop', .*, got 'exact'"),
    "scale": ("none", ValueError, "scale must be one of 'trace', None, got 'none'"),
    "source": ("all", ValueError, "source must be one of 'local', 'uniform', None, got 'all'"),
    "strength": (-1.0, ValueError, "strength must be non-negative and finite, got -1.0"),
    "epsilon": ("0.1", TypeError, "epsilon must be a number, got str '0.1'"),
    "steps": (0, ValueError, "steps must be at least 1, got 0"),
    "warmup": (-1, ValueError, "warmup must be at least 0, got -1"),
    "augmentation": ("crop", ValueError, "augmentation must be one of 'none', .*, got 'crop'"),
    "epochs": (2**31, ValueError, "epochs must be at most 1000000, got 2147483648"),
    "batch_size": ("128", TypeError, "batch_size must be a whole number, got '128'"),
    "optimizer": ("adam", ValueError, "optimizer must be one of 'sgd', 'adamw', got 'adam'"),
    "learning_rate": (
        math.inf, ValueError, "learning_rate must be non-negative and finite, got inf"
    ),
    "schedule": ("linear", ValueError, "schedule must be one of 'milestones', .*, got 'linear'"),
    "milestones": ((100, 0), ValueError, "milestones must be at least 1, got 0"),
    "momentum": (-1, ValueError, "momentum must be non-negative and finite, got -1"),
    "weight_decay": (None, TypeError, "weight_decay must be a number, got NoneType None"),
    "precision": ("float16", ValueError, "precision must be one of 'float32', .*, got 'float16'"),
    "seed": (None, TypeError, "seed must be a whole number, got None"),
}  # fmt: skip


@pytest.mark.parametrize("field", BAD)
def test_a_wrong_field_is_named(field):
    value, error, message = BAD[field]
    with pytest.raises(error, match=f"^{message}$"):
        Config(**{field: value})


def test_every_field_has_a_wrong_value():
    """And the data sets and the networks that there are decide about their names."""
    assert {field.name for field in fields(Config)} == set(BAD)
    with pytest.raises(TypeError, match="^milestones must be a tuple of epochs, got '100'$"):
        Config(milestones="100")
    for asked, message in [
        ({"data": "cifar"}, "data must be one of .*, got 'cifar'"),
        ({"data": "mnist5k", "split": "holdout"}, "split must be None for mnist5k, got 'holdout'"),
    ]:
        with pytest.raises(ValueError, match=f"^{message}"):
            training.fit(Config(**asked), device="cpu")
    with pytest.raises(ValueError, match=r"^model must be one of .*, got 'vgg'"):
        fit(config(model="vgg"))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"epsilon": 8}, r"epsilon must be at most 1, .* got 8: do you mean 8/255\?"),
        ({"momentum": 1}, "momentum must be less than 1, got 1"),
        ({"eta": 1e31}, "eta must be at most 1e30, got 1e\\+31"),
        ({"width": 2**20}, "width must be at most 65536, got 1048576"),
        ({"steps": 2**31}, "steps must be at most 1000000, got 2147483648"),
        ({"warmup": 2**31}, "warmup must be at most 1000000, got 2147483648"),
        ({"milestones": (1, 2**31)}, "milestones must be at most 1000000, got 2147483648"),
        ({"seed": 2**32}, "seed must be at most 4294967295, got 4294967296"),
    ],
    ids=str,
)
def test_a_field_that_is_too_large_is_named(how, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Config(**how)


@pytest.mark.parametrize("name", ["small_cnn", "resnet8"])
def test_a_network_that_is_too_large_is_not_made(name):
    """Told before its memory is written to."""
    for width in (2**13, 2**16):
        with pytest.raises(ValueError, match=f"^model='{name}' of width={width}, 10 classes, 1 ch"):
            fit(config(model=name, width=width))


@pytest.mark.parametrize(
    "how, message",
    [
        ({"eta": 0.1}, "method='none' needs no eta, got eta=0.1"),
        ({"method": "euclidean", "radius": 2}, "method='euclidean' needs no radius, got radius=2"),
        ({"method": "jacobian", "epsilon": 0.1}, "method='jacobian' needs no epsilon, .*=0.1"),
        ({"method": "wasserstein", "radius": 2}, "method='wasserstein' needs eta, got eta=0.0"),
        ({"method": "wasserstein", "eta": 1}, "method='wasserstein' needs radius, .*=None"),
        ({"method": "trades", "eta": 1}, "method='trades' needs epsilon, got epsilon=0.0"),
        ({"mode": "finite_difference"}, "method='none' needs no mode, got mode='finite_diff.*'"),
        ({"method": "l1", "scale": None}, "method='l1' needs no scale, got scale=None"),
        ({"method": "cross_lipschitz", "of": "margin"}, ".* needs no of, got of='margin'"),
        ({"method": "fgsm", "epsilon": 0.1, "steps": 9}, "method='fgsm' needs no steps, .*=9"),
        ({"warmup": 2}, "method='none' needs no warmup, got warmup=2"),
    ],
    ids=str,
)
def test_a_method_has_its_options_and_no_others(how, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Config(**how)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, (8, 8), torch.device("cpu")), "config must be Config, got None"),
        ((Config(), 8, torch.device("cpu")), r"size must be \(height, width\), got 8"),
        ((Config(), (8,), torch.device("cpu")), r"size must be \(height, width\), got \(8,\)"),
        ((Config(), (8, 0), torch.device("cpu")), "size must be at least 1, got 0"),
        ((Config(), (8, 8), "cpu"), "device must be device, got 'cpu'"),
    ],
)
def test_a_method_is_made_of_the_right_things(arguments, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}$"):
        training.METHODS["none"](*arguments)


@pytest.mark.parametrize("name", training.METHODS)
def test_what_a_method_says_of_itself(name):
    """A label of its own; options of Config, and what they are tried with is accepted."""
    method, options = training.METHODS[name], {field.name for field in fields(Config)}
    assert method.name == name and set(method.needs) <= set(method.options) <= options
    assert [each.label for each in training.METHODS.values()].count(method.label) == 1
    assert set(method.needs) <= set(method.trial) <= set(method.options)
    asked = Config(method=name, **method.trial)
    if method.attack is None:
        assert asked.attack is None
    else:
        assert asked.attack == attacks.Attack(method.attack, 8 / 255, steps=7)
        assert asked.attack.step == 2.5 * 8 / 255 / 7


class Own(Objective):
    name, label, options, needs, trial = "own", "my own", ("eta",), ("eta",), {"eta": 0.1}


BAD_METHODS = {
    "no class": ("pgd", TypeError, "method must be a subclass of Objective, got 'pgd'"),
    "an object": (object(), TypeError, "method must be a subclass of Objective, got <object"),
    "another class": (dict, TypeError, "method must be a subclass of Objective, got <class 'dict"),
    "no name": ({"name": None}, TypeError, "Own.name must be str, got None"),
    "no label": ({"label": ""}, ValueError, "Own.label must not be empty, got ''"),
    "no devices": ({"devices": None}, TypeError, "Own.devices must be a tuple of names, got None"),
    "no check": (
        {"check_epsilon": None}, TypeError, "Own.check_epsilon must be a function, got None"
    ),
    "unknown option": (
        {"options": ("etta",)}, ValueError, "Own.options must be one of 'eta', .*, got 'etta'"
    ),
    "a word": ({"options": "eta"}, TypeError, "Own.options must be a tuple of names, got 'eta'"),
    "needs of no options": (
        {"options": (), "trial": {}}, ValueError,
        "Own.needs must be among Own.options, which is empty, got 'eta'",
    ),
    "a need": ({"needs": ("radius",)}, ValueError, "Own.needs must be one of 'eta', got 'radius'"),
    "a trial": ({"trial": {"steps": 1}}, ValueError, "Own.trial must be one of 'eta', got 'steps'"),
    "no trial": ({"trial": None}, TypeError, "Own.trial must be Mapping, got None"),
    "an attack": ({"attack": "cw"}, ValueError, "Own.attack must be one of None, .*, got 'cw'"),
    "a taken name": ({"name": "pgd"}, ValueError, "name must be free, got 'pgd', which is <class"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_METHODS)
def test_what_is_no_method_is_not_registered(case):
    method, kind, message = BAD_METHODS[case]
    method = type("Own", (Own,), method) if isinstance(method, dict) else method
    before = dict(training.METHODS)
    with pytest.raises(kind, match=f"^{message}"):
        training.register(method)
    assert training.METHODS == before


def test_a_method_may_be_defined_again(monkeypatch):
    """By a notebook's cell that is run twice."""
    monkeypatch.setattr(training.objectives.base, "METHODS", dict(training.METHODS))
    again = type("Own", (Own,), {"__module__": __name__, "__qualname__": "Own"})
    for method in (Own, Own, again):
        assert training.register(method) is method
    assert training.objectives.base.METHODS["own"] is again


def test_a_method_is_a_class():
    """Registered, it is trained with."""

    @training.register
    class Darker(Objective):
        name, label, options = "darker", "half the light", ("eta",)

        def images(self, model, x, y, generator, epsilon):
            return self.config.eta * x

    try:
        asked = config(method="darker", eta=0.5)
        _, history = by_hand(asked, plain(lambda m, x, *_: 0.5 * x), [0.05] * 2, [0.0] * 2)
        found = fit(asked).history
        assert found[1]["loss"] == pytest.approx(history[1]["loss"], rel=1e-5)
    finally:
        del training.METHODS["darker"]


def test_the_defaults_are_those_of_appendix_d():
    """ResNet-20 on CIFAR-10, 200 epochs of SGD with momentum; a tenth of the learning rate after
    100 and 150; no augmentation.
    """
    c = Config()
    assert (c.model, c.activation, c.data, c.batch_size) == ("resnet20", "softplus", "cifar10", 128)
    descent = (c.optimizer, c.learning_rate, c.schedule, c.milestones, c.momentum, c.weight_decay)
    assert descent == ("sgd", 0.1, "milestones", (100, 150), 0.9, 1e-4)
    assert (c.epochs, c.augmentation) == (200, "none")
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
    "images": (
        {"images": 51, "part": "fit"},
        {},
        "images must be at most 50, those of 'fit', got 51",
    ),
    "radius": (
        {"method": "wasserstein", "eta": 0.1, "radius": 8},
        {},
        "radius must be less than the longer side, 8 pixels, got 8",
    ),
    "checkpoint_every": ({}, {"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
    "device": ({}, {"device": "gpu"}, "device must be cpu.* here, got 'gpu'"),
    "no device": ({}, {"device": ""}, "device must be cpu.* here, got ''"),
    "device 99": ({}, {"device": "cuda:99"}, "device must be cpu.* here, got 'cuda:99'"),
    "part": (
        {"part": "fit"},
        {"dataset": replace(IMAGES, split={"train": range(60)})},
        "part must be 'train' for stand-in, which keeps no images for validation, got 'fit'",
    ),
    "nothing to train": (
        {},
        {"model": torch.nn.Flatten()},
        "model must have parameters to train, got Flatten",
    ),
    "frozen": (
        {},
        {"model": torch.nn.Linear(64, 10).requires_grad_(False)},
        "model must have parameters to train, got Linear",
    ),
}


@pytest.mark.parametrize("how, options, message", ERRORS.values(), ids=ERRORS)
def test_what_does_not_fit_is_named(how, options, message, tmp_path):
    with pytest.raises(ValueError, match=f"^{message}$"):
        fit(config(**how), folder=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


KINDS = {
    "config": ([None], {}, "config must be Config, got None"),
    "options": ([{"model": "resnet8"}], {}, "config must be Config, got {'model': 'resnet8'}"),
    "model": ([config()], {"model": "resnet8"}, "model must be Module or None, got 'resnet8'"),
    "a class": ([config()], {"model": torch.nn.Linear}, "model must be Module or None, got <class"),
    "float64": (
        [config()],
        {"model": torch.nn.Linear(64, 10).double()},
        "model must have float32 parameters, got torch.float64",
    ),
    "dataset": (
        [config()], {"dataset": "mnist5k"}, "dataset must be Dataset or None, got 'mnist5k'"
    ),
    "a pair": (
        [config()],
        {"dataset": (IMAGES.images, IMAGES.labels)},
        r"dataset must be Dataset or None, got \(tensor",
    ),
    "device": ([config()], {"device": 0}, "device must be str or device, got 0"),
    "checkpoint_every": (
        [config()], {"checkpoint_every": 2.0}, "checkpoint_every must be a whole number, got"
    ),
    "progress": ([config()], {"progress": "no"}, "progress must be True or False, got str 'no'"),
}  # fmt: skip


@pytest.mark.parametrize("case", KINDS)
def test_what_is_of_another_kind_is_named(case):
    arguments, options, message = KINDS[case]
    with pytest.raises(TypeError, match=f"^{message}"):
        fit(*arguments, **options)


@pytest.mark.parametrize(
    ("configs", "options", "kind", "message"),
    [
        (config(), {}, TypeError, r"configs must be list or tuple, got Config\("),
        ([config(), None], {}, TypeError, r"configs\[1\] must be Config, got None"),
        ([config()], {"folders": "a"}, TypeError, "folders must be list or tuple, got 'a'"),
        ([config()], {"folders": [3]}, TypeError, "folders must be a path, got 3"),
        ([config()], {"folders": []}, ValueError, "folders must be one for each of the 1 .*got 0"),
        (
            [config(), config()],
            {"folders": ["a", "./a"]},
            ValueError,
            "folders must differ from each other, got .*/a'",
        ),
        ([config()], {"progress": None}, TypeError, "progress must be True or False, got None"),
        ([config()], {"dataset": None, "device": 3}, TypeError, "device must be str or device"),
    ],
    ids=str,
)
def test_what_is_of_another_kind_is_named_of_several(configs, options, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        fit_together(configs, **{"dataset": IMAGES, "device": "cpu", "progress": False} | options)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"config": None}, TypeError, "config must be Config, got None"),
        ({"weights": None}, TypeError, "weights must be Mapping, got None"),
        ({"weights": {"a": 3}}, TypeError, r"weights\['a'\] must be Tensor, got 3"),
        ({"weights": {3: torch.ones(1)}}, TypeError, "each name in weights must be str, got 3"),
        (
            {"weights": {"bn.running_var": torch.tensor(math.nan)}},
            ValueError,
            r"weights\['bn.running_var'\] must be finite, got nan",
        ),
        ({"weights": {"a": torch.ones(1)}}, ValueError, "weights must be of the network of Config"),
        ({"classes": 0}, ValueError, "classes must be at least 1, got 0"),
        ({"classes": 9}, ValueError, r"weights must be of the network of .*[\s\S]*size mismatch"),
        ({"channels": None}, TypeError, "channels must be a whole number, got None"),
    ],
    ids=str,
)
def test_weights_of_no_network_are_named(change, kind, message):
    mean = [0.5] * 3
    network = models.build("resnet8", classes=10, channels=3, mean=mean, std=mean, width=2)
    given = {"config": config(), "weights": network.state_dict()}
    assert_same(training.network(**given).state_dict().keys(), network.state_dict().keys())
    given |= change
    with pytest.raises(kind, match=f"^{message}"):
        training.network(given.pop("config"), given.pop("weights"), **given)


def test_load_takes_a_network(undisturbed):
    with pytest.raises(TypeError, match="^model must be Module or None, got 'resnet8'$"):
        load(undisturbed[1], model="resnet8")
    with pytest.raises(TypeError, match="^device must be str or device, got None$"):
        load(undisturbed[1], device=None)


def test_a_network_of_too_few_classes(tmp_path):
    with pytest.raises(ValueError, match="^y must be from 0 to 4, got 0 to 9: model returns 5"):
        fit(config(), model=Tiny(classes=5))


def test_a_network_of_too_many_classes():
    message = r"^outputs of Plain.terms must be \(16, 10\), got \(16, 11\): model has a logit for"
    with pytest.raises(ValueError, match=message):
        fit(config(), model=Tiny(classes=11))


def test_a_network_of_other_images():
    """What it raises is told of the model; what else fails in a step is not."""
    message = (
        r"^model must take images \(1, 1, 8, 8\), got a Linear, which raises RuntimeError: mat1"
    )
    with pytest.raises(ValueError, match=message):
        fit(config(), model=torch.nn.Linear(3, 3))
    network = Tiny()
    run = Training(config(), model=network, dataset=IMAGES)
    run.objective.terms = lambda *_: {}["nothing"]
    with pytest.raises(KeyError, match="nothing"):
        list(run.steps())


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", METHODS)
def test_whatever_the_default_type_is(name, request):
    asked = config(epochs=1, **METHODS[name][0])
    run = fit(asked)
    request.getfixturevalue("float64")
    assert_same(weights(fit(asked)), weights(run))
    assert torch.get_default_dtype() == torch.float64


def test_stored_networks_whatever_the_default_type_is(undisturbed, float64):
    run, folder = undisturbed
    for found in (load(folder), fit(LONG, folder=folder)):
        assert_same(weights(found), weights(run))
    assert_same(weights(run), training.network(LONG, weights(run), channels=1).state_dict())


def test_stored_networks_whatever_the_default_device_is(undisturbed):
    with torch.device("meta"):
        found = load(undisturbed[1])
    assert_same(weights(found), weights(undisturbed[0]))


def test_where_there_are_no_gradients():
    """Without them one trains all the same; in inference mode there can be none."""
    with torch.no_grad():
        without = fit(LONG)
    assert_same(weights(without), weights(fit(LONG)))
    with torch.inference_mode():
        made = Tiny()
        with pytest.raises(RuntimeError, match="no gradients in inference mode: train outside"):
            fit(config())
    with pytest.raises(ValueError, match="^model must have been made outside of inference mode"):
        fit(config(), model=made)
    fit(config(epochs=1), model=copy.deepcopy(made))


RETURNED = {
    "augmentation": (training.AUGMENTATIONS, lambda v: lambda x, generator: v(x)),
    "schedule": (training.SCHEDULES, lambda v: lambda config, epoch: v(config)),
    "optimizer": (training.OPTIMIZERS, lambda v: lambda *how: v(how)),
}


def of_others(how):
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)


STRANGE = {
    "augmentation None": (lambda x: None, TypeError, "augmentation 'own' must return images"),
    "augmentation float64": (
        lambda x: x.double(), TypeError, "augmentation 'own' must return .*, got torch.float64 on"
    ),
    "augmentation fewer": (
        lambda x: x[1:], ValueError, r"augmentation 'own' must return .* got \(15, 1, 8, 8\)"
    ),
    "schedule None": (lambda c: None, TypeError, "what schedule 'own' returns must be a number"),
    "schedule NaN": (lambda c: math.nan, ValueError, "what schedule 'own' returns .* got nan"),
    "schedule -1": (lambda c: -1, ValueError, "what schedule 'own' returns must be non-neg.*-1"),
    "optimizer None": (
        lambda how: None, TypeError, "what optimizer 'own' returns must be Optimizer, got None"
    ),
    "optimizer of others": (
        of_others, ValueError,
        "what optimizer 'own' returns must hold all weights .* frozen, got SGD without .. of them",
    ),
    "optimizer of some": (
        lambda how: torch.optim.SGD([*how[0]][:1]), ValueError,
        "what optimizer 'own' returns must hold all weights .* frozen, got SGD without .. of them",
    ),
    "optimizer with closure": (
        lambda how: torch.optim.LBFGS(how[0]), TypeError,
        "what optimizer 'own' returns must step without a closure, got LBFGS",
    ),
    "schedule 1e308": (
        lambda c: 1e308, ValueError, "learning_rate times schedule 'own' must be at most 1e30"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STRANGE)
def test_what_choices_return_is_named(case, monkeypatch):
    function, kind, message = STRANGE[case]
    field = case.split()[0]
    table, wrap = RETURNED[field]
    monkeypatch.setitem(table, "own", wrap(function))
    with pytest.raises(kind, match=f"^{message}"):
        fit(config(**{field: "own"}))


@pytest.mark.parametrize("field", ["augmentation", "schedule", "optimizer"])
def test_a_choice_is_a_function(field, monkeypatch):
    monkeypatch.setitem(RETURNED[field][0], "own", 3)
    with pytest.raises(TypeError, match=f"^{field} 'own' must be a function, got 3"):
        config(**{field: "own"})


def good(model, x, y):
    outputs = model(x)
    loss = F.cross_entropy(outputs, y, reduction="none")
    return Terms(outputs, loss, 0 * loss)


TERMS = {
    "None": (lambda m, x, y: None, TypeError, r"Own.terms must return Terms\(.*, got None"),
    "two": (lambda m, x, y: good(m, x, y)[:2], TypeError, "Own.terms must return Terms"),
    "a mean": (
        lambda m, x, y: good(m, x, y)._replace(loss=F.cross_entropy(m(x), y)),
        ValueError,
        r"loss of Own.terms must be \(16,\), got \(\)",
    ),
    "no penalty": (
        lambda m, x, y: good(m, x, y)._replace(penalty=None),
        TypeError,
        "penalty of Own.terms must be a floating tensor, got None",
    ),
    "whole": (
        lambda m, x, y: good(m, x, y)._replace(penalty=y),
        TypeError,
        "penalty of Own.terms must be a floating tensor, got torch.int64",
    ),
    "no gradient": (
        lambda m, x, y: Terms(*(v.detach() for v in good(m, x, y))),
        ValueError,
        "loss of Own.terms must depend on the weights of model",
    ),
}


@pytest.mark.parametrize("case", TERMS)
def test_what_a_method_returns_is_named(case, monkeypatch):
    terms, kind, message = TERMS[case]
    method = type("Own", (Objective,), {"label": "own", "terms": lambda self, *a: terms(*a[:3])})
    monkeypatch.setitem(training.METHODS, "own", method)
    with pytest.raises(kind, match=f"^{message}"):
        fit(config(method="own"))


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (None, TypeError, "Own.images must return images in torch.float32 on cpu, got None"),
        (IMAGES.images[:16, None], TypeError, ".* in torch.float32 on cpu, got torch.uint8 on cpu"),
        (torch.ones(3), ValueError, r"Own.images must return images \(16, C, H, W\), got \(3,\)"),
    ],
    ids=["None", "bytes", "three numbers"],
)
def test_the_images_of_a_method_are_named(value, kind, message, monkeypatch):
    method = type("Own", (Objective,), {"label": "own", "images": lambda *_: value})
    monkeypatch.setitem(training.METHODS, "own", method)
    with pytest.raises(kind, match=f"^{message}"):
        fit(config(method="own"))


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
    with pytest.raises(ValueError, match=r"^images must vary in each channel, got .* \[0.0\]"):
        fit(config(), dataset=black)


# ---------------------------------------------------------------- any network, any images


class Tiny(torch.nn.Module):
    """A stranger: its outputs are an object's, as of Hugging Face's models."""

    def __init__(self, classes=10, hidden=6, channels=1):
        super().__init__()
        self.first = torch.nn.Linear(64 * channels, hidden)
        self.second = torch.nn.Linear(hidden, classes)

    def forward(self, x):
        return SimpleNamespace(logits=self.second(F.softplus(self.first(x.flatten(1)))))


def hundred_classes():
    """As the stand-in, of two channels."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(256, (70, 2, 8, 8), generator=generator).byte()
    labels = torch.cat([torch.tensor([99, 0]), torch.randint(100, (68,), generator=generator)])
    names = tuple(f"class {k}" for k in range(100))
    split = {"train": torch.arange(60), "test": torch.arange(60, 70)}
    return data.Dataset("hundred", images, labels, "a test", split, classes=names)


@pytest.mark.parametrize("name", ["none", "wasserstein", "cross_lipschitz", "trades", "all"])
def test_any_network(name, tmp_path):
    """Trained as it comes, in place; found again with one of its kind, to the same weights."""
    options = CHOICES[name] if name == "all" else METHODS[name][0]
    torch.manual_seed(0)
    model, asked = Tiny(), config(epochs=3, **options)
    before, copied = copy.deepcopy(model.state_dict()), copy.deepcopy(model)
    run = fit(asked, model=model, folder=tmp_path)
    assert run.model is model and not model.training
    assert not torch.equal(model.first.weight, before["first.weight"])
    assert run.config == replace(asked, data="stand-in", model="Tiny")
    assert_same(weights(fit(asked, model=copied)), weights(run))
    found = load(tmp_path, model=Tiny())
    assert_same(weights(found), weights(run))
    assert found.config == run.config and found.history == run.history
    again = fit(asked, model=Tiny(), folder=tmp_path)
    assert_same(weights(again), weights(run))


def test_a_given_network_stopped_and_continued(tmp_path, monkeypatch):
    asked, model = config(epochs=4, **ALL_NEW), Tiny()
    whole = fit(asked, model=copy.deepcopy(model))
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at_write(patch, 3, "after")
        fit(asked, model=model, folder=tmp_path, checkpoint_every=1)
    assert_same(weights(fit(asked, model=Tiny(), folder=tmp_path)), weights(whole))


def test_a_folder_holds_one_kind_of_network(tmp_path):
    class Other(Tiny):
        pass

    fit(config(), model=Tiny(), folder=tmp_path)
    with pytest.raises(ValueError, match="holds a run with model='Tiny': choose another folder"):
        fit(config(), model=Other(), folder=tmp_path)
    with pytest.raises(ValueError, match="holds a run with model='Tiny': choose another folder"):
        fit(config(), folder=tmp_path)
    for use in (
        lambda model: fit(config(), model=model, folder=tmp_path),
        lambda model: load(tmp_path, model=model),
    ):
        says = r"holds a run of another network, not of model: [\s\S]*size"
        with pytest.raises(ValueError, match=says):
            use(Tiny(hidden=7))
    with pytest.raises(ValueError, match="holds a run of a given Tiny: pass one as model=..."):
        load(tmp_path)


def test_a_default_device_without_values_is_refused():
    says = "^torch's default device must hold values, got meta"
    with torch.device("meta"), pytest.raises(ValueError, match=says):
        fit(config())


def test_a_given_network_may_be_called_as_another(tmp_path):
    class resnet8(Tiny):
        pass

    run = fit(config(), model=resnet8(), folder=tmp_path)
    for use in (load, lambda folder: fit(config(), folder=folder)):
        with pytest.raises(ValueError, match="holds a run of a given resnet8: pass one as model="):
            use(tmp_path)
    assert_same(weights(load(tmp_path, model=Tiny())), weights(run))
    state = checkpoint(tmp_path)
    del state["given"]  # as it was stored before
    store(tmp_path, state)
    with pytest.raises(ValueError, match=r"checkpoint\.pt holds a run of another network"):
        load(tmp_path)
    with pytest.raises(ValueError, match="weights must be of the network of .*'resnet8'"):
        training.network(config(), weights(run))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_frozen_layer_stays_as_it_is(optimizer):
    """Whatever gradient it had; one that is frozen on the way too."""
    torch.manual_seed(0)
    model, asked = Tiny(), config(optimizer=optimizer)
    model.first.weight.grad = torch.ones_like(model.first.weight)
    model.first.requires_grad_(False)
    before, clean = copy.deepcopy(model), copy.deepcopy(model)
    clean.first.weight.grad = None
    assert_same(weights(fit(asked, model=model)), weights(fit(asked, model=clean)))
    assert_same(model.first.state_dict(), before.first.state_dict())
    assert model.first.weight.grad is None and model.second.weight.grad is not None
    run, kept = Training(asked, model=before, dataset=IMAGES), None
    before.first.requires_grad_(True)
    for step in run.steps():
        if step.metrics and kept is None:
            kept = copy.deepcopy(before.first.state_dict())
            before.first.requires_grad_(False)
    assert not torch.equal(kept["weight"], model.first.weight)
    assert_same(before.first.state_dict(), kept)


def test_a_frozen_layer_is_frozen_where_the_run_goes_on(tmp_path):
    asked = config(epochs=1)

    def tiny(*frozen):
        model = Tiny()
        for name in frozen:
            model.get_submodule(name).requires_grad_(False)
        return model

    fit(asked, model=tiny("first"), folder=tmp_path)
    fit(asked, model=tiny("first"), folder=tmp_path)
    message = r"holds a run of a model with \['first.weight', 'first.bias'\] frozen, got one with "
    for other, found in (((), r"\[\]"), (("second",), r"\['second.weight', 'second.bias'\]")):
        with pytest.raises(ValueError, match=message + found):
            fit(asked, model=tiny(*other), folder=tmp_path)
    state = checkpoint(tmp_path)
    del state["frozen"]  # as it was stored before
    store(tmp_path, state)
    fit(asked, model=tiny(), folder=tmp_path)


@pytest.mark.parametrize("how", [{}, {"method": "trades", "epsilon": 0.1, "eta": 1.0}], ids=str)
def test_classes_and_channels_are_of_the_images(how, tmp_path):
    dataset = hundred_classes()
    run = fit(config(**how), dataset=dataset, folder=tmp_path)
    assert run.model.linear.out_features == 100 and run.model.conv.in_channels == 2
    assert run.config.data == "hundred"
    found = load(tmp_path)
    assert_same(weights(found), weights(run))
    network = training.network(run.config, weights(run), classes=100, channels=2)
    assert_same(network.state_dict(), weights(run))


def test_a_registered_network_is_one_of_the_configuration(tmp_path):
    @models.register("line")
    def line(*, classes, channels, mean, std, **others):
        layers = torch.nn.Flatten(), torch.nn.Linear(64 * channels, classes)
        return torch.nn.Sequential(models.Normalize(mean, std), *layers)

    try:
        for dataset in (IMAGES, hundred_classes()):
            folder = tmp_path / dataset.name
            run = fit(config(model="line"), dataset=dataset, folder=folder)
            assert run.model[2].out_features == len(dataset.classes) and run.config.model == "line"
            assert_same(weights(load(folder)), weights(run))
    finally:
        del models.MODELS["line"]


def test_other_peoples_data(tmp_path):
    """250 classes of uint8 labels, arrays, a mask and no test part: as the same in tensors."""
    generator = torch.Generator().manual_seed(4)
    images = torch.randint(256, (70, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(250, (70,), generator=generator)
    labels[3] = 249
    train = torch.arange(70) < 60
    tensors = data.Dataset(
        "theirs",
        images,
        labels,
        "a test",
        {"train": train.nonzero()[:, 0], "test": torch.arange(60, 70)},
    )
    arrays = data.Dataset(
        "theirs",
        images.numpy(),
        labels.numpy().astype(np.uint8),
        "a test",
        {"train": train.numpy()},
    )
    run = fit(config(), dataset=arrays, folder=tmp_path)
    assert run.model.linear.out_features == 250
    assert_same(weights(load(tmp_path)), weights(run))
    assert_same(weights(fit(config(), dataset=tensors)), weights(run))


def test_the_split_is_recorded(tmp_path):
    """That of the images given; which is the data set's first goes without saying."""
    for named, asked, recorded in [
        (None, None, None), ("official", None, None), ("official", "official", "official"),
        ("holdout", None, "holdout"), ("holdout", "holdout", "holdout"), (None, "holdout", None),
        (None, "official", None),
    ]:  # fmt: skip
        dataset = replace(IMAGES, split_name=named)
        assert Training(config(split=asked), dataset=dataset).config.split == recorded


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
        assert run.config == replace(asked, data="stand-in")
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


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_trains_every_weight(name):
    """A pass without gradients leaves nothing for those with them: torch 2.4's autocast keeps what
    it cast, and TRADES trained 480 of 75,290 weights of a ResNet-8.
    """
    run = Training(config(precision="bfloat16", **METHODS[name][0]), dataset=IMAGES)
    batches = run.begin_epoch()
    run.batch.copy_(batches[0])
    run.step()
    gradients = [parameter.grad for parameter in run.model.parameters()]
    assert all(gradient is not None and gradient.any() for gradient in gradients)


@pytest.mark.parametrize("name", ["euclidean", "wasserstein", "jacobian"])
def test_a_finite_difference_is_differentiated_in_float32(name):
    """Its two losses are, so that bfloat16 changes nothing of it; their difference would magnify a
    rounding.
    """
    options = METHODS[name][0] | {"mode": "finite_difference"}
    exact, same = (
        fit(config(precision=precision, **options)) for precision in ("float32", "bfloat16")
    )
    assert_same(exact.model.state_dict(), same.model.state_dict())


def settings():
    cudnn = torch.backends.cudnn
    return (
        torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu"),
        torch.are_deterministic_algorithms_enabled(), cudnn.enabled, cudnn.benchmark,
        cudnn.deterministic, cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32,
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_torchs_settings_are_as_before(precision, monkeypatch):
    """After a training as after an error, whatever they were; without a warning. Within,
    convolutions are repeatable.
    """
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.set_float32_matmul_precision("medium")
    try:
        before = settings()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with arithmetic(precision, torch.device("cpu")):
                within = settings()
            fit(config(precision=precision))
            with pytest.raises(Stopped), arithmetic(precision, torch.device("cpu")):
                raise Stopped
        assert settings() == before
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


@pytest.mark.parametrize("first_out", [0, 1])
def test_torchs_settings_in_two_threads(first_out, monkeypatch):
    """The last one out leaves them as the first one found them; in between they stay."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = settings()
    steps = [InAThread("float32", "cpu"), InAThread("bfloat16", "cpu")]
    for step in steps:
        step.enter()
    within = settings()
    assert within != before and not torch.backends.cudnn.benchmark
    steps.pop(first_out).leave()
    assert settings() == within
    steps.pop().leave()
    assert settings() == before


def test_other_settings_wait():
    """A step in TF32 for one in float32, and the other way round; not within one thread."""
    for precisions in (("float32", "tf32"), ("tf32", "float32")):
        one, other = (InAThread(precision, "cuda") for precision in precisions)
        one.enter()
        other.start()
        assert not other.entered.wait(0.2)
        one.leave()
        other.enter()
        assert torch.backends.cudnn.allow_tf32 == (precisions[1] == "tf32")
        other.leave()
    before = settings()
    with arithmetic("float32", torch.device("cpu")):
        outer = settings()
        with arithmetic("tf32", torch.device("cuda")):
            assert torch.backends.cudnn.allow_tf32
        assert settings() == outer
    assert settings() == before


class InAThread(threading.Thread):
    """A step's arithmetic in a thread of its own."""

    def __init__(self, precision, device):
        super().__init__(daemon=True)
        self.how = precision, torch.device(device)
        self.entered, self.asked = threading.Event(), threading.Event()

    def run(self):
        with arithmetic(*self.how):
            self.entered.set()
            self.asked.wait(60)

    def enter(self):
        if not self.is_alive():
            self.start()
        assert self.entered.wait(60)

    def leave(self):
        self.asked.set()
        self.join(60)


def test_two_threads_train_as_one_by_one():
    """Also their first weights, which torch's global generator draws."""
    asked, before = [replace(LONG, seed=seed) for seed in range(4)], settings()
    found, random_state = {}, torch.get_rng_state()

    def train(each):
        found[each] = fit(each)

    threads = [threading.Thread(target=train, args=(each,)) for each in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert settings() == before and torch.equal(torch.get_rng_state(), random_state)
    for each in asked:
        assert_same(weights(found[each]), weights(fit(each)))


@pytest.mark.parametrize(
    "how",
    [{}, {"method": "euclidean", "eta": 0.1, "mode": "finite_difference"},
     {"method": "pgd", "epsilon": 0.1, "steps": 1}],
    ids=repr,
)  # fmt: skip
def test_who_evaluates_in_another_thread_takes_turns(how):
    """Also the penalty, which is of a network in training mode; the weights are as without."""
    asked = config(epochs=8, learning_rate=0.02, **how)
    alone, training = (Training(asked, dataset=IMAGES) for _ in range(2))
    x, y, asked_often = IMAGES.images[:4], IMAGES.labels[:4], [0, 0]
    over, failed = threading.Event(), []
    penalty = GradientPenalty("euclidean", mode="finite_difference")

    def asks(k, question):
        try:
            while not over.is_set():
                question(training.model)
                asked_often[k] += 1
        except Exception as error:
            failed.append(error)

    questions = (
        lambda model: evaluation.robust_error(model, x, y, attacks.Attack("fgsm", 0.1)),
        lambda model: penalty(model, x[:, None] / 255, y),
    )
    threads = [
        threading.Thread(target=asks, args=each, daemon=True) for each in enumerate(questions)
    ]
    for thread in threads:
        thread.start()
    for _ in training.steps():
        pass
    run = training.run()
    over.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    for _ in alone.steps():
        pass
    assert not failed and min(asked_often) > 4
    assert_same(weights(run), weights(alone.run()))
    assert not any(layer.training for layer in run.model.modules())


def by_operation():
    """Settings that torch has since 2.9."""
    backends = torch.backends
    return [
        each.fp32_precision
        for each in (
            backends, backends.cudnn, backends.cudnn.conv, backends.cudnn.rnn,
            backends.cuda.matmul, backends.mkldnn.matmul, backends.mkldnn.conv,
        )
    ]  # fmt: skip


SETTINGS = {
    "matmul": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "conv": "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "mkldnn": "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
    "all": "torch.backends.fp32_precision = 'tf32'",
    "some": "torch.backends.fp32_precision = 'tf32'; torch.backends.cudnn.fp32_precision = 'ieee'",
    "none": "",
}


@pytest.fixture
def newer():
    """Whatever torch's newer settings become, they are put back."""
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("torch has them since 2.9")
    with arithmetic("float32", torch.device("cpu")):
        yield


@pytest.mark.parametrize("said", SETTINGS)
def test_torchs_newer_settings_are_as_before(said, newer, undisturbed):
    """Which do not go together with the older ones. Within, float32 is float32."""
    torch.backends.fp32_precision = "none"
    exec(SETTINGS[said])
    before = by_operation()
    with arithmetic("float32", torch.device("cpu")):
        within, older = by_operation(), settings()
    assert by_operation() == before
    assert (
        not {"tf32", "bf16"} & {*within} and older[0] == "highest" and older[6:] == (False, False)
    )
    assert_same(weights(fit(LONG)), weights(undisturbed[0]))
    assert by_operation() == before
    torch.backends.fp32_precision = "none"  # what was inherited is still
    inherited = {"all": {"none", "ieee"}}.get(said)
    assert inherited is None or {*by_operation()} <= inherited


# ---------------------------------------------------------------- progress


def test_progress(tmp_path, capsys, monkeypatch):
    """Loss, penalty, error, images per second and the time left; a continued run starts where it
    was.
    """
    monkeypatch.setenv("COLUMNS", "200")  # an old tqdm cuts what is wider
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
    *PENALISED, "l1", "linf", "cross_lipschitz", "wasserstein_noise", "gaussian_noise", "fgsm",
    "pgd", "pgd_warmup", "jacobian", "trades", "adamw", "cosine", "flip_crop",
]  # fmt: skip


def on_the_gpu(asked, **how):
    return fit(asked, device="cuda", **how)


def assert_close(a, b):
    for name, value in weights(a).items():
        torch.testing.assert_close(value, weights(b)[name], rtol=1e-3, atol=1e-5)


@gpu
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("name", ON_THE_GPU)
def test_on_the_gpu_a_captured_step_is_the_step(name, precision, monkeypatch):
    """Three eager steps, then a captured one, replayed; another learning rate or epsilon captures
    again. Each replay draws noise anew.
    """
    small = {"batch_size": 8, "epochs": 3, "milestones": (2,), "learning_rate": 0.01}
    asked = config(**small | {"precision": precision} | METHODS[name][0])
    calls, eager_step = [], Training.eager_step

    def counted(self):
        calls.append(torch.cuda.is_current_stream_capturing())
        eager_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "eager_step", counted)
        captured = on_the_gpu(asked)
    changing = asked.warmup or asked.schedule == "cosine"
    assert calls == [False, False, False, True] * (3 if changing else 2)
    monkeypatch.setattr(Training, "step", lambda self, *, eager=False: self.eager_step())
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
        config(**{"batch_size": 8, "learning_rate": 0.01, "seed": seed} | METHODS[name][0])
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
    fit(config(), folder=tmp_path, checkpoint_every=1)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(
        {"truncated": content[: len(content) // 2], "empty": b"", "other": b"{}"}[how]
    )
    for use in (load, lambda folder: fit(config(), folder=folder)):
        with pytest.raises(ValueError, match=f"{file} is damaged.*delete"):
            use(tmp_path)


def test_within_the_callers_autocast_a_step_sees_the_last_ones_weights():
    """Autocast keeps weights that it has cast until its outermost context ends."""
    config = Config(
        data="mnist5k", images=48, model="small_cnn", width=2, epochs=2, batch_size=16,
        learning_rate=0.05, precision="bfloat16",
    )  # fmt: skip
    alone = fit(config, device="cpu", progress=False)
    with torch.autocast("cpu", torch.bfloat16):
        within = fit(config, device="cpu", progress=False)
    assert [epoch["loss"] for epoch in within.history] == [epoch["loss"] for epoch in alone.history]


@pytest.mark.parametrize("given", [{"source": "local"}, {"strength": 1.0}])
def test_a_source_comes_with_its_strength(given):
    with pytest.raises(ValueError, match="source and strength must be given together"):
        Config(method="wasserstein", eta=0.1, radius=2, **given)


def test_two_threads_do_not_train_one_model():
    """Each would move the other's weights; in turns, in one thread, they may."""
    config = Config(data="mnist5k", images=64, model="small_cnn", epochs=2, batch_size=32)
    model = models.build("small_cnn", classes=10, channels=1, mean=[0.1], std=[0.3])
    one, two = (training.Training(config, model=model).steps() for _ in range(2))
    next(one), next(two)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(training.fit, config, model=model, progress=False, device="cpu")
        with pytest.raises(RuntimeError, match="^model is being trained in another thread"):
            other.result()
        part = pool.submit(training.fit, config, model=torch.nn.Sequential(model), progress=False)
        with pytest.raises(RuntimeError, match="^model is being trained in another thread"):
            part.result()
    one.close(), two.close()
    assert training.fit(config, model=model, progress=False, device="cpu").history


@pytest.mark.parametrize("name", ["gaussian_noise", "jacobian", "sampled_cross_lipschitz"])
def test_what_is_drawn_is_of_a_generator(name):
    asked = Config(**METHODS[name][0])
    objective = training.METHODS[name](asked, (8, 8), torch.device("cpu"))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    x, y = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    with pytest.raises(TypeError, match="generator must be a torch.Generator, got NoneType"):
        objective.terms(model, x, y, None, 0.0)


def test_steps_begun_anew_end_those_before():
    run = Training(config(epochs=2), dataset=IMAGES)
    one, two = run.steps(), run.steps()
    next(one), next(two)
    with pytest.raises(RuntimeError, match=r"^steps\(\) was called anew"):
        next(one)
    assert [step.images for step in two] and run.epoch == len(run.history) == 2


def test_without_a_console(monkeypatch):
    """As a program without a window has none: no bar is shown."""
    monkeypatch.setattr(sys, "stderr", None)
    assert fit_together([config(epochs=1)], dataset=IMAGES, progress=True)[0].history


def test_a_network_without_values_is_refused_by_name(tmp_path):
    fit(config(epochs=1), model=Tiny(), dataset=IMAGES, folder=tmp_path)
    with pytest.raises(ValueError, match="^model must have parameters with values, got some on"):
        load(tmp_path, model=Tiny().to("meta"))


@pytest.mark.parametrize("asked", ["predictions", "penalty", "finite_difference"])
def test_what_is_asked_while_a_training_begins(asked):
    """Of a network in evaluation mode, whose mode takes a while to be set: predictions are still
    made in it, and nothing moves the running statistics but the training's batches.
    """
    begun, modes = threading.Event(), []

    class Slow(torch.nn.Sequential):
        def train(self, mode=True):
            if mode and threading.current_thread() is not threading.main_thread():
                begun.set()
                time.sleep(0.3)
            return super().train(mode)

    def note(layer, inputs, output):
        if threading.current_thread() is threading.main_thread():
            modes.append(layer.training)

    layers = torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Softplus()
    pooling = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(2, 10)
    model = Slow(*layers, *pooling).eval()
    model[1].register_forward_hook(note)
    x, y = data.load("mnist5k").part("test", 8)
    x = x[:, None].float() / 255
    config = Config(data="mnist5k", images=64, epochs=2, batch_size=32, learning_rate=0.02)
    with ThreadPoolExecutor(1) as pool:
        fitted = pool.submit(training.fit, config, model=model, progress=False, device="cpu")
        assert begun.wait(60)
        if asked == "predictions":
            evaluation.predictions(model, x)
        elif asked == "penalty":
            GradientPenalty("euclidean")(model, x, y)
        else:
            GradientPenalty("euclidean", mode="finite_difference")(model, x, y)
        fitted.result()
    assert modes and int(model[1].num_batches_tracked) == 4
    assert asked != "predictions" or not any(modes)


def test_a_checkpoint_behind_a_link_to_nowhere_is_not_overwritten(tmp_path):
    (tmp_path / "checkpoint.pt").symlink_to(tmp_path / "elsewhere" / "checkpoint.pt")
    config = Config(data="mnist5k", images=64, model="small_cnn", epochs=1, batch_size=32)
    with pytest.raises(OSError, match="checkpoint.pt"):
        training.fit(config, folder=tmp_path, progress=False, device="cpu")
    assert (tmp_path / "checkpoint.pt").is_symlink()


def test_a_function_that_is_once_differentiable_is_refused():
    """Torch itself tells a ``backward`` alone, not who asks for the parameters' derivatives."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            ctx.save_for_backward(a)
            return F.softplus(a)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, along):
            (a,) = ctx.saved_tensors
            return along * a.sigmoid()

    class Smooth(torch.nn.Module):
        def forward(self, x):
            return Once.apply(x)

    def model():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(784, 16), Smooth(), torch.nn.Linear(16, 10)
        )

    config = Config(data="mnist5k", images=64, method="euclidean", eta=1.0, epochs=1, batch_size=32)
    with pytest.raises(RuntimeError, match="no second derivative"):
        training.fit(config, model=model(), progress=False, device="cpu")
    difference = replace(config, mode="finite_difference")
    assert training.fit(difference, model=model(), progress=False, device="cpu").history

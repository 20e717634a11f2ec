"""``python -m wdtr_lite train|evaluate``: options are the fields of Config, the help teaches, errors say what to change."""

import functools
import json
import re
import shlex
import subprocess
import sys
from argparse import Namespace
from dataclasses import fields

import pytest
import torch

from wdtr_lite import __main__, attacks, data, robustness, train

SMALL = "--data mnist5k --model small_cnn --width 2 --images 256 --epochs 1 --learning-rate 0.02 --device cpu".split()
digits = functools.cache(data.load)


@pytest.fixture(autouse=True)
def cached(monkeypatch):
    monkeypatch.setattr(data, "load", digits)


def call(*arguments):
    __main__.main([str(argument) for argument in arguments])


def told(capsys):
    """The one JSON line that was printed."""
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


# ---------------------------------------------------------------- train


@pytest.fixture
def asked(monkeypatch):
    """What train hands on in place of training."""
    calls = []

    def fit(config, **options):
        calls.append((config, options))
        return train.Run(None, [{"epoch": 1}], config)

    monkeypatch.setattr(train, "fit", fit)
    return calls


def test_without_options_the_defaults(asked, capsys):
    call("train", "--folder", "runs")
    assert asked == [(train.Config(), {"folder": "runs", "device": None, "checkpoint_every": 10})]
    assert told(capsys) == {"epoch": 1}


OPTIONS = {
    "data": ("mnist", "mnist"), "split": ("holdout", "holdout"), "part": ("fit", "fit"), "images": ("500", 500),
    "model": ("resnet8", "resnet8"), "activation": ("relu", "relu"), "width": ("4", 4), "method": ("euclidean", "euclidean"),
    "eta": ("1e-1 --method euclidean", 0.1), "radius": ("3 --method wasserstein", 3), "of": ("margin", "margin"),
    "mode": ("finite_difference", "finite_difference"), "scale": ("none", None), "epsilon": ("0.1 --method fgsm", 0.1),
    "steps": ("3", 3), "warmup": ("2", 2), "epochs": ("2", 2), "batch_size": ("32", 32), "learning_rate": ("0.01", 0.01),
    "milestones": ("1 2 3", (1, 2, 3)), "momentum": ("0", 0.0), "weight_decay": ("0.001", 0.001),
    "precision": ("bfloat16", "bfloat16"), "seed": ("5", 5),
}  # fmt: skip


@pytest.mark.parametrize("field", [field.name for field in fields(train.Config)])
def test_each_field_is_an_option(field, asked):
    text, value = OPTIONS[field]
    call("train", "--folder", "runs", "--" + field.replace("_", "-"), *text.split())
    found = getattr(asked[0][0], field)
    assert found == value != getattr(train.Config(), field) and type(found) is type(value)


@pytest.mark.parametrize(
    "text, field, value",
    [("--scale trace", "scale", "trace"), ("--milestones", "milestones", ()), ("--images none", "images", None)],
)
def test_options_that_are_none_or_empty(text, field, value, asked):
    call("train", "--folder", "runs", *text.split())
    assert getattr(asked[0][0], field) == value


def test_where_and_how_often(asked):
    call(*"train --folder a/b --device cpu --checkpoint-every 3".split())
    assert asked[0][1] == {"folder": "a/b", "device": "cpu", "checkpoint_every": 3}


# ---------------------------------------------------------------- help


def help_of(command, capsys):
    with pytest.raises(SystemExit) as end:
        call(*command, "--help")
    assert end.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_of_train_explains_every_field(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = help_of(["train"], capsys).partition("options:")[2]
    for field in fields(train.Config):
        shown = field.default if field.name != "milestones" else "100 150"
        explained = re.escape(field.metadata["help"]) + ("" if shown is None else re.escape(f" (default: {shown})"))
        assert re.search(f"--{field.name.replace('_', '-')} [^-]*{explained}", text), field.name
        for choice in field.metadata["choices"] or ():
            assert re.search(f"--{field.name} {{[^}}]*\\b{'none' if choice is None else choice}\\b[^}}]*}}", text), choice


def test_help_names_the_commands(capsys):
    text = help_of([], capsys)
    assert "{train,evaluate,experiment}" in text and "Train a network on labelled images" in text
    text = help_of(["evaluate"], capsys)
    defaults = {"epsilon": "8/255", "steps": "20", "restarts": "1", "norm": "linf", "part": "test", "seed": "0"}
    for option, default in defaults.items():
        assert re.search(rf"--{option} [^-]*\(default: {default}\)", text), option


def examples():
    """The commands that the help of train shows."""
    return [shlex.split(line)[3:] for line in __main__.TRAIN.replace("\\\n", " ").splitlines() if "python -m" in line]


def test_the_examples_of_the_help_are_right(tmp_path, capsys):
    """Made smaller, they train and attack a network."""
    first, second = examples()
    assert first[first.index("--folder") + 1] == second[1]
    call(*first, "--folder", tmp_path, "--epochs", 1, "--images", 256, "--device", "cpu")
    assert told(capsys)["penalty"] > 0
    call("evaluate", tmp_path, *second[2:], "--steps", 2, "--images", 50, "--device", "cpu")
    assert told(capsys)["n"] == 50


# ---------------------------------------------------------------- train and evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "digits"
    call("train", "--folder", path, *SMALL)
    return path


def test_train_prints_its_last_epoch(folder, capsys):
    """The run that the same configuration gives; called again it is there."""
    capsys.readouterr()
    call("train", "--folder", folder, *SMALL)
    last = told(capsys)
    config = train.Config(data="mnist5k", model="small_cnn", width=2, images=256, epochs=1, learning_rate=0.02)
    run, loaded = train.fit(config, device="cpu", progress=False), train.load(folder)
    assert last == loaded.history[0]
    assert {key: last[key] for key in ("epoch", "loss", "penalty", "error")}.items() <= run.history[0].items()
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name])


def generator(seed):
    return torch.Generator().manual_seed(seed)


PGD = {"epsilon": 0.1, "alpha": 0.125, "steps": 2}
EVALUATIONS = {
    "plain": ("", "test", None, None),
    "validation": ("--part validation", "validation", None, None),
    "fit": ("--part fit --images 600", "fit", 600, None),
    "fgsm": ("--attack fgsm", "test", None, lambda: functools.partial(attacks.fgsm, epsilon=8 / 255)),
    "fgsm_l2": (
        "--attack fgsm --norm l2 --epsilon 2", "test", None, lambda: functools.partial(attacks.fgsm, epsilon=2.0, norm="l2")
    ),
    "ifgsm": (
        "--attack ifgsm --epsilon 0.05 --alpha 0.01 --steps 3", "test", None,
        lambda: functools.partial(attacks.ifgsm, epsilon=0.05, alpha=0.01, steps=3),
    ),
    "ifgsm_defaults": (
        "--attack ifgsm --images 100", "test", 100,
        lambda: functools.partial(attacks.ifgsm, epsilon=8 / 255, alpha=1 / 255, steps=20),
    ),
    "pgd": (
        "--attack pgd --epsilon 0.1 --steps 2", "test", None,
        lambda: functools.partial(attacks.pgd, **PGD, generator=generator(0)),
    ),
    "pgd_restarts": (
        "--attack pgd --epsilon 0.1 --steps 2 --restarts 3 --seed 4 --images 510", "test", 510,
        lambda: functools.partial(attacks.pgd, **PGD, restarts=3, generator=generator(4)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("text, part, n, attack", EVALUATIONS.values(), ids=EVALUATIONS)
def test_evaluate(text, part, n, attack, folder, capsys):
    """The error of robustness, with n and the binomial standard error; random starts go on from batch to batch."""
    capsys.readouterr()
    call("evaluate", folder, "--device", "cpu", *text.split())
    line = told(capsys)
    images, labels = digits("mnist5k").part(part, n)
    model = train.load(folder).model
    expected = robustness.robust_error(model, images, labels, attack()) if attack else robustness.error(model, images, labels)
    assert 0 < expected < 1 and line["n"] == len(images) == (n or {"test": 1000, "validation": 500}[part])
    assert line["mean"] == pytest.approx(expected, abs=1e-12)
    assert line["standard_error"] == pytest.approx((expected * (1 - expected) / line["n"]) ** 0.5)
    words = text.split()
    assert line["attack"] == (words[words.index("--attack") + 1] if attack else "none")
    assert (line["folder"], line["part"]) == (str(folder), part)


def test_evaluate_attacks_where_it_should(folder, capsys):
    """An attack does harm, a stronger one more; other seeds start elsewhere."""
    capsys.readouterr()
    errors = []
    for epsilon in (0.01, 0.05, 0.1):
        call("evaluate", folder, "--device", "cpu", "--attack", "pgd", "--steps", 3, "--images", 200, "--epsilon", epsilon)
        errors.append(told(capsys)["mean"])
    assert errors == sorted(set(errors))
    starts = [__main__.ATTACKS["pgd"](options(seed)).keywords["generator"].initial_seed() for seed in (0, 1)]
    assert starts == [0, 1]


def options(seed):
    return Namespace(epsilon=0.1, alpha=None, steps=1, norm="linf", restarts=1, seed=seed, device="cpu")


# ---------------------------------------------------------------- errors


TRAIN_ERRORS = {
    "method": ("--method tikhonov", "method must be one of none, euclidean, wasserstein, .*, got 'tikhonov'"),
    "radius": ("--method wasserstein", "method='wasserstein' needs a radius, got radius=None"),
    "radius_unused": ("--radius 2", "method='none' needs no radius, got radius=2"),
    "epsilon": ("--method pgd", "method='pgd' needs epsilon > 0, got 0.0"),
    "epsilon_unused": ("--epsilon 0.1", "method='none' needs no epsilon, got 0.1"),
    "eta": ("--eta 1", "method='none' needs no eta, got eta=1.0"),
    "scale": ("--scale mean", "scale must be one of trace, None, got 'mean'"),
    "epochs": ("--epochs 0", "epochs must be at least 1, got 0"),
    "learning_rate": ("--learning-rate nan", "learning_rate must be non-negative and finite, got nan"),
    "milestones": ("--milestones 0 5", "milestones must be at least 1, got 0"),
    "batch": ("--batch-size 300", "batch_size must be at most the number of images, 256, got 300"),
    "images": ("--images 4001", "images must be at least 1 and at most 4000, those of 'train', got 4001"),
    "split": ("--split official", "split must be None for mnist5k, got 'official'"),
    "checkpoint": ("--checkpoint-every 0", "checkpoint_every must be at least 1, got 0"),
    "device": ("--device gpu", "device must be .* here, got 'gpu'"),
    "divergence": ("--learning-rate 1e30", "the run diverged in epoch 1 .*; there is no checkpoint. Lower .*"),
}


@pytest.mark.parametrize("text, message", TRAIN_ERRORS.values(), ids=TRAIN_ERRORS)
def test_what_train_cannot_do_it_explains(text, message, tmp_path):
    """Exit status 1, the message on stderr, which is what Python does with a text."""
    with pytest.raises(SystemExit) as end:
        call("train", "--folder", tmp_path, *SMALL, *text.split())
    assert re.fullmatch(f"python -m wdtr_lite train: {message}", end.value.code)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_train_keeps_another_configurations_run(folder, tmp_path):
    for text, named in (("--seed 1", "seed=0"), ("--width 4 --epochs 2", "width=2, epochs=1")):
        with pytest.raises(SystemExit, match=f"holds a run with {named}: choose another folder, or delete that one"):
            call("train", "--folder", folder, *SMALL, *text.split())
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="train: .*file"):
        call("train", "--folder", tmp_path / "file", *SMALL)


EVALUATE_ERRORS = {
    "images": ("--images 0", "images must be at least 1 and at most 1000, those of 'test', got 0"),
    "images_sign": ("--images -5", "images must be at least 1 and at most 1000, those of 'test', got -5"),
    "steps": ("--attack pgd --steps 0", "steps must be at least 1, got 0"),
    "alpha": ("--attack pgd --alpha 0", "alpha must be positive and finite, got 0.0"),
    "epsilon": ("--attack fgsm --epsilon -1", "epsilon must be non-negative and finite, got -1.0"),
    "restarts": ("--attack pgd --restarts 0", "restarts must be at least 1, got 0"),
    "device": ("--device gpu", "device must be .* here, got 'gpu'"),
}


@pytest.mark.parametrize("text, message", EVALUATE_ERRORS.values(), ids=EVALUATE_ERRORS)
def test_what_evaluate_cannot_do_it_explains(text, message, folder):
    with pytest.raises(SystemExit) as end:
        call("evaluate", folder, *text.split())
    assert re.fullmatch(f"python -m wdtr_lite evaluate: {message}", end.value.code)


@pytest.mark.parametrize(
    "text, message",
    [
        ("train", "the following arguments are required: --folder"),
        ("train --folder x --epochs many", "argument --epochs: invalid int value: 'many'"),
        ("train --folder x --radius 1.5", "argument --radius: invalid int value: '1.5'"),
        ("train --folder x --epoch-s 3", "unrecognized arguments: --epoch-s 3"),
        ("evaluate", "the following arguments are required: folder"),
        ("evaluate x --attack cw", "argument --attack: invalid choice: 'cw'"),
        ("evaluate x --part all", "argument --part: invalid choice: 'all'"),
        ("evaluate x --norm l1", "argument --norm: invalid choice: 'l1'"),
        ("", "the following arguments are required: command"),
        ("fit", "argument command: invalid choice: 'fit'"),
    ],
)
def test_what_cannot_be_read(text, message, capsys):
    with pytest.raises(SystemExit) as end:
        call(*text.split())
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_as_a_command(tmp_path):
    """Exit status and streams of the process itself."""
    command = [sys.executable, "-m", "wdtr_lite", "evaluate", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    message = f"python -m wdtr_lite evaluate: {tmp_path} holds no checkpoint.pt: train with folder='{tmp_path}' first\n"
    assert (result.returncode, result.stdout, result.stderr) == (1, "", message)

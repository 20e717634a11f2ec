"""``python -m wdtr_lite train|evaluate|experiment``: options are the fields of Config and Attack,
the help teaches, errors say what to change.
"""

import functools
import json
import re
import shlex
import subprocess
import sys
import time
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from small_study import in_this_process

from wdtr_lite import __main__, attacks, data, evaluation, models, study, training
from wdtr_lite.study import grid
from wdtr_lite.study.spec import Networks
from wdtr_lite.study.store import Store

SMALL = shlex.split(
    "--data mnist5k --model small_cnn --width 2 --images 256 --epochs 1 --learning-rate 0.02 "
    "--device cpu"
)
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
        return training.Run(None, [{"epoch": 1}], config)

    monkeypatch.setattr(training, "fit", fit)
    return calls


def test_without_options_the_defaults(asked, capsys):
    call("train", "--folder", "runs")
    assert asked == [
        (
            training.Config(),
            {"folder": "runs", "device": None, "checkpoint_every": 10, "until": None},
        )
    ]
    assert told(capsys) == {"epoch": 1}


OPTIONS = {
    "data": ("mnist", "mnist"), "split": ("holdout", "holdout"), "part": ("fit", "fit"),
    "images": ("500", 500), "model": ("resnet8", "resnet8"), "activation": ("relu", "relu"),
    "width": ("4", 4), "method": ("euclidean --eta 1", "euclidean"),
    "eta": ("1e-1 --method euclidean", 0.1), "radius": ("3 --method wasserstein --eta 1", 3),
    "of": ("margin --method l1 --eta 1", "margin"),
    "mode": ("finite_difference --method l1 --eta 1", "finite_difference"),
    "scale": ("none --method wasserstein --eta 1 --radius 3", None),
    "source": ("local --method wasserstein --eta 1 --radius 3 --strength 1", "local"),
    "strength": ("0.5 --method wasserstein --eta 1 --radius 3 --source uniform", 0.5),
    "epsilon": ("0.1 --method fgsm", 0.1), "steps": ("3 --method pgd --epsilon 0.1", 3),
    "warmup": ("2 --method fgsm --epsilon 0.1", 2),
    "augmentation": ("flip_crop", "flip_crop"), "epochs": ("2", 2),
    "batch_size": ("32", 32), "optimizer": ("adamw", "adamw"), "learning_rate": ("0.01", 0.01),
    "schedule": ("cosine", "cosine"), "milestones": ("1 2 3", (1, 2, 3)), "momentum": ("0", 0.0),
    "weight_decay": ("0.001", 0.001), "precision": ("bfloat16", "bfloat16"), "seed": ("5", 5),
}  # fmt: skip


@pytest.mark.parametrize("field", [field.name for field in fields(training.Config)])
def test_each_field_is_an_option(field, asked):
    text, value = OPTIONS[field]
    call("train", "--folder", "runs", "--" + field.replace("_", "-"), *text.split())
    found = getattr(asked[0][0], field)
    assert found == value != getattr(training.Config(), field) and type(found) is type(value)


def test_options_that_are_none_or_empty(asked):
    options = "--folder a/b --device cpu --checkpoint-every 3 --images none --milestones"
    call("train", *shlex.split(options))
    config, options = asked[0]
    assert (config.images, config.milestones) == (None, ())
    assert options == {
        "folder": "a/b", "device": "cpu", "checkpoint_every": 3, "until": None,
    }  # fmt: skip


@pytest.mark.parametrize("text, value", [("8/255", 8 / 255), ("1/4", 0.25), (".1/1", 0.1)])
def test_numbers_may_be_fractions(text, value, asked):
    options = ["--method", "fgsm", "--epsilon", text, "--weight-decay", text]
    call("train", "--folder", "runs", *options)
    assert (asked[0][0].epsilon, asked[0][0].weight_decay) == (value, value)


@pytest.mark.parametrize("name", training.METHODS)
def test_each_method_is_there(name, asked):
    method = training.METHODS[name]
    options = [f"--{option.replace('_', '-')}={value}" for option, value in method.trial.items()]
    call("train", "--folder", "runs", "--method", name, *options)
    assert asked[0][0] == training.Config(method=name, **method.trial)


# ---------------------------------------------------------------- help


def help_of(command, capsys):
    with pytest.raises(SystemExit) as end:
        call(*command, "--help")
    assert end.value.code == 0
    return " ".join(capsys.readouterr().out.split())


OFFERED = {"data": data.names(), "model": models.MODELS}


def test_help_of_train_explains_every_field(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = help_of(["train"], capsys).partition("options:")[2]
    for field in fields(training.Config):
        option = field.name.replace("_", "-")
        shown = field.default if field.name != "milestones" else "100 150"
        default = "" if shown is None else f" (default: {shown})"
        explained = re.escape(field.metadata["help"] + default)
        assert re.search(f"--{option} [^-]*{explained}", text), field.name
        for choice in OFFERED.get(field.name, field.metadata["choices"]):
            named = "none" if choice is None else choice
            assert re.search(f"--{option} {{[^}}]*\\b{named}\\b[^}}]*}}", text), choice


def test_help_names_the_commands(capsys):
    text = help_of([], capsys)
    assert "{train,evaluate,experiment}" in text and "Train a network on labelled images" in text
    text = help_of(["evaluate"], capsys)
    defaults = {
        "epsilon": "8/255", "steps": "20", "restarts": "1", "norm": "linf", "part": "test",
        "seed": "0",
    }  # fmt: skip
    for option, default in defaults.items():
        assert re.search(rf"--{option} [^-]*\(default: {default}\)", text), option
    text = help_of(["experiment"], capsys)
    assert all(name in text for name in (*study.EXPERIMENTS, "all"))


def examples():
    """The commands that the help of train shows."""
    return [
        shlex.split(line)[3:]
        for line in __main__.TRAIN.replace("\\\n", " ").splitlines()
        if "python -m" in line
    ]


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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", digits)
        call("train", "--folder", path, *SMALL)
    return path


def test_train_prints_its_last_epoch(folder, capsys):
    """The run that the same configuration gives; called again it is there."""
    capsys.readouterr()
    call("train", "--folder", folder, *SMALL)
    last = told(capsys)
    config = training.Config(
        data="mnist5k", model="small_cnn", width=2, images=256, epochs=1, learning_rate=0.02
    )
    run, loaded = training.fit(config, device="cpu", progress=False), training.load(folder)
    assert last == loaded.history[0]
    expected = {key: last[key] for key in ("epoch", "loss", "penalty", "error")}
    assert expected.items() <= run.history[0].items()
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name])


def generator(seed):
    return torch.Generator().manual_seed(seed)


def bound(attack, **options):
    return lambda: functools.partial(attack, **options)


PGD = {"epsilon": 0.1, "alpha": 0.125, "steps": 2}
EVALUATIONS = {
    "plain": ("", "test", None, None),
    "validation": ("--part validation", "validation", None, None),
    "fit": ("--part fit --images 600", "fit", 600, None),
    "fgsm": ("--attack fgsm", "test", None, bound(attacks.fgsm, epsilon=8 / 255)),
    "fgsm_l2": (
        "--attack fgsm --norm l2 --epsilon 2 --images 200", "test", 200,
        bound(attacks.fgsm, epsilon=2.0, norm="l2"),
    ),
    "ifgsm": (
        "--attack ifgsm --epsilon 0.05 --alpha 0.01 --steps 3 --images 200", "test", 200,
        bound(attacks.ifgsm, epsilon=0.05, alpha=0.01, steps=3),
    ),
    "fractions": (
        "--attack ifgsm --epsilon 16/255 --alpha 4/255 --steps 3 --images 200", "test", 200,
        bound(attacks.ifgsm, epsilon=16 / 255, alpha=4 / 255, steps=3),
    ),
    "ifgsm_defaults": (
        "--attack ifgsm --images 50", "test", 50,
        bound(attacks.ifgsm, epsilon=8 / 255, alpha=1 / 255, steps=20),
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
SETTINGS = {
    "none": [],
    "fgsm": ["norm", "epsilon"],
    "ifgsm": ["norm", "epsilon", "alpha", "steps"],
    "pgd": ["norm", "epsilon", "alpha", "steps", "restarts", "seed"],
}


@pytest.mark.parametrize("text, part, n, attack", EVALUATIONS.values(), ids=EVALUATIONS)
def test_evaluate(text, part, n, attack, folder, capsys):
    """The error, with n and the binomial standard error, and what the attack was; random starts go
    on from batch to batch.
    """
    capsys.readouterr()
    call("evaluate", folder, "--device", "cpu", *text.split())
    line = told(capsys)
    images, labels = digits("mnist5k").part(part, n)
    model = training.load(folder).model
    expected = (
        evaluation.robust_error(model, images, labels, attack())
        if attack
        else evaluation.error(model, images, labels)
    )
    assert 0 < expected < 1 and line["n"] == len(images)
    assert len(images) == (n or {"test": 1000, "validation": 500}[part])
    assert line["mean"] == pytest.approx(expected, abs=1e-12)
    assert line["standard_error"] == pytest.approx((expected * (1 - expected) / line["n"]) ** 0.5)
    words = text.split()
    name = words[words.index("--attack") + 1] if attack else "none"
    assert list(line)[:-3] == ["folder", "part", "attack", *SETTINGS[name]]
    assert (line["folder"], line["part"], line["attack"]) == (str(folder), part, name)
    for option in SETTINGS[name]:
        if f"--{option}" in words:
            word = words[words.index(f"--{option}") + 1]
            value = float(Fraction(word)) if option in ("epsilon", "alpha") else word
            assert line[option] == value or str(line[option]) == word


def test_evaluate_attacks_where_it_should(folder, capsys):
    """An attack does harm, a stronger one more."""
    capsys.readouterr()
    attack, errors = "--device cpu --attack pgd --steps 3 --images 200 --epsilon", []
    for epsilon in (0.01, 0.05, 0.1):
        call("evaluate", folder, *shlex.split(attack), epsilon)
        errors.append(told(capsys)["mean"])
    assert errors == sorted(set(errors))


# ---------------------------------------------------------------- experiment

TRAINED = {
    "model": "resnet8", "width": 2, "images": 64, "batch_size": 32, "epochs": 1, "milestones": [],
}  # fmt: skip
NETWORKS = Networks(
    dataset="mnist5k_color",
    training=TRAINED,
    candidates={"none": [{}], "euclidean": [{"eta": 0.1}]},
    seeds=(0, 1),
)
SEARCHED = replace(
    NETWORKS,
    training=TRAINED | {"epochs": 3},
    search={"epochs": 2},
    candidates={"none": [{}], "euclidean": [{"eta": 0.1}, {"eta": 0.2}]},
)


def small(name, **options):
    return replace(study.EXPERIMENTS[name]["quick"], **options)


@pytest.fixture
def workshop(monkeypatch, tmp_path):
    """Small experiments, in a folder of their own; networks are trained in this process."""
    table1, table2 = (
        small("table1", networks=NETWORKS, attacked=5),
        small("table2", networks=NETWORKS, moved=4, reach=2),
    )
    neighbours = small("nearest_neighbours", train_sizes=(5,), test_size=4, neighbours=(1,))
    changed = {
        "nearest_neighbours": {"quick": neighbours, "full": neighbours},
        "table1": {"quick": table1, "cpu": table1, "full": replace(table1, networks=SEARCHED)},
        "table2": {"quick": table2, "cpu": table2},
    }
    declared = dict(study.EXPERIMENTS)
    study.EXPERIMENTS.clear()
    study.EXPERIMENTS.update(changed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(grid, "executor", in_this_process)
    grid.in_memory.cache_clear()
    yield tmp_path
    study.EXPERIMENTS.clear()
    study.EXPERIMENTS.update(declared)  # in their order
    grid.in_memory.cache_clear()


def rows(capsys):
    """What experiments print for their networks: the rows, and where they are from."""
    lines = capsys.readouterr().out.splitlines()
    printed = [json.loads(line) for line in lines if line.startswith("{")]
    assert printed[-1].keys() == {"command", "date", "wall_seconds", "device", "versions", "commit"}
    return printed[:-1]


def test_experiment_prints_the_rows_of_its_result(workshop, monkeypatch, capsys):
    """In percent; the networks of a table are those of the next, whose label flips are shown."""
    call("experiment", "table1", "--profile", "cpu")
    stored = study.stored("table1", "cpu")["result"]["rows"]
    labels = [("none", 0), ("euclidean", 0), ("none", 1), ("euclidean", 1)]
    for row, whole, label in zip(rows(capsys), stored, labels, strict=True):
        assert (row["method"], row["seed"]) == label == (whole["method"], whole["seed"])
        assert "wrong" not in row and "n" not in row
        assert row["percent"]["FGSM 8"] == 20 * whole["wrong"]["FGSM 8"]
    grid.in_memory.cache_clear()
    monkeypatch.setattr(training, "fit", None)
    call("experiment", "table2", "--profile", "cpu")
    measured = study.stored("table2", "cpu")["result"]["rows"]
    assert [row["training"] for row in measured] == [row["training"] for row in stored]
    for row, whole in zip(rows(capsys), measured, strict=True):
        assert "measurements" not in row
        found = whole["measurements"].items()
        assert row["flips"] == {name: each["consecutive"][-1] / 4 for name, each in found}


def test_quick_writes_nothing(workshop, capsys):
    call("experiment", "table1")
    assert len(rows(capsys)) == 4 and not list(workshop.iterdir())


def test_finished_writes_what_is_there(workshop, monkeypatch, capsys):
    less = "less of table1 is finished in .* than results/table1_cpu.json tells"
    with pytest.raises(SystemExit, match=less):
        call("experiment", "table1", "--profile", "cpu", "--finished")
    one = replace(NETWORKS, candidates={"none": [{}]}, seeds=(0,))
    with monkeypatch.context() as patch:
        patch.setitem(study.EXPERIMENTS["table1"], "cpu", small("table1", networks=one, attacked=5))
        call("experiment", "table1", "--profile", "cpu")
    assert len(rows(capsys)) == 1
    monkeypatch.setattr(training, "fit", None)
    call("experiment", "table1", "--profile", "cpu", "--finished")
    assert [row.get("missing") for row in rows(capsys)] == [None, True, True, True]
    command = study.stored("table1", "cpu")["provenance"]["command"]
    assert command == "python -m wdtr_lite experiment table1 --profile cpu --finished"


def listed(capsys, *arguments):
    capsys.readouterr()
    call("experiment", *arguments, "--list")
    return capsys.readouterr().out.splitlines()


def test_list(workshop, capsys):
    """Networks with the time they took, or should; nothing is done."""
    head, *lines = listed(capsys, "table1", "--profile", "cpu")
    assert head == "table1, cpu: results/table1_cpu.json was not run"
    assert not list(workshop.iterdir())
    form = r"  (none|euclidean) +(eta=0.1)? +seed ([01])  missing, about \d+ min"
    labels = [("none", None), ("euclidean", "eta=0.1")]
    found = [re.fullmatch(form, line).groups() for line in lines]
    assert found == [(*label, seed) for seed in "01" for label in labels]
    grid.trained(NETWORKS.job("euclidean", {"eta": 0.1}, 1).config, Store(Path("_runs/networks")))
    lines = listed(capsys, "table1", "--profile", "cpu")[1:]
    states = [line.partition("seed ")[2][3:] for line in lines]
    assert re.fullmatch(r"done in \d+ s", states.pop())
    assert all(state.startswith("missing, about ") for state in states)
    call("experiment", "table1", "--profile", "cpu")
    head, *lines = listed(capsys, "table1", "--profile", "cpu")
    assert head == "table1, cpu: results/table1_cpu.json is there"
    assert len(lines) == 4 and all(re.search(r"done in \d+ s$", line) for line in lines)


def test_list_of_a_grid(workshop, capsys):
    """The grid, then what stands in for its choice, from each seed."""
    _, *lines = listed(capsys, "table1", "--profile", "full")
    assert [tuple(re.split(r"seed | {2,}", line.strip())[:-1]) for line in lines] == [
        ("none", "", "0"), ("euclidean", "eta=0.1", "", "0"), ("euclidean", "eta=0.2", "", "0"),
        ("none", "", "0"), ("euclidean", "eta=0.1", "", "0"), ("none", "", "1"),
        ("euclidean", "eta=0.1", "", "1"),
    ]  # fmt: skip


def test_list_of_all(workshop, capsys):
    heads = [line for line in listed(capsys, "all", "--profile", "cpu") if not line.startswith(" ")]
    names = [head.partition(":")[0] for head in heads]
    assert names == ["nearest_neighbours, full", "table1, cpu", "table2, cpu"]


@pytest.mark.parametrize(
    "profile, more, expected",
    [
        ("quick", [], ["nearest_neighbours quick", "table1 quick", "table2 quick"]),
        ("cpu", [], ["nearest_neighbours full", "table1 cpu", "table2 cpu"]),
        ("cpu", ["--finished"], ["table1 cpu", "table2 cpu"]),
    ],
)
def test_all(profile, more, expected, workshop, monkeypatch, capsys):
    """What has no cpu profile is done in full, what has no networks has none finished; options go
    to each.
    """
    called = []

    def run(name, profile, **options):
        called.append(f"{name} {profile}")
        handed = {"cluster": "tcp://there:1", "finished": bool(more), "until": None}
        assert options == handed
        return {"result": {"rows": []}, "provenance": {}}

    monkeypatch.setattr(study, "run", run)
    call("experiment", "all", "--profile", profile, "--cluster", "tcp://there:1", *more)
    assert called == expected


def test_the_cluster_is_handed_on(workshop, monkeypatch):
    seen = []

    def complete(networks, store):
        seen.append(store)
        return [None for _ in networks]

    monkeypatch.setattr(grid, "complete", complete)
    call("experiment", "table1", "--profile", "cpu", "--cluster", "tcp://there:1")
    assert set(seen) == {Store(Path("_runs/networks"), "tcp://there:1", False)}
    command = study.stored("table1", "cpu")["provenance"]["command"]
    assert command.endswith(" --profile cpu --cluster ADDRESS")


def test_from_the_chapters_folder_the_same_files_are_meant(workshop, monkeypatch):
    (workshop / "results").mkdir()
    (workshop / "book").mkdir()
    monkeypatch.chdir(workshop / "book")
    call("experiment", "table1", "--profile", "cpu")
    assert sorted(path.name for path in workshop.iterdir()) == ["_runs", "book", "results"]
    assert not list((workshop / "book").iterdir())


# ---------------------------------------------------------------- errors


ERRORS = {
    "option": ("train", "--method tikhonov", "method must be one of 'none', .*, got 'tikhonov'"),
    "number": ("train", "--learning-rate nan", "learning_rate must be non-negative .*, got nan"),
    "method": ("train", "--radius 2", "method='none' needs no radius, got radius=2"),
    "data": ("train", "--data cifar", "data must be one of .*, got 'cifar'"),
    "network": ("train", "--model vgg", "model must be one of .*, got 'vgg'"),
    "split": ("train", "--split official", "split must be None for mnist5k, got 'official'"),
    "images": ("train", "--images 4001", "images must be at most 4000, .* got 4001"),
    "checkpoint": ("train", "--checkpoint-every 0", "checkpoint_every must be at least 1, got 0"),
    "device": ("train", "--device gpu", "device must be .* here, got 'gpu'"),
    "divergence": ("train", "--learning-rate 1e30", "the run diverged in epoch 1 .* Lower .*"),
    "part": ("evaluate", "--images 0", "images must be at least 1, got 0"),
    "steps": ("evaluate", "--attack pgd --steps 0", "steps must be at least 1, got 0"),
    "epsilon": (
        "train",
        "--method fgsm --epsilon 8",
        "epsilon must be at most 1, .* got 8: .* 8/255\\?",
    ),
    "radius": (
        "evaluate",
        "--attack fgsm --epsilon 8",
        "epsilon must be at most 1, .* got 8: .* 8/255\\?",
    ),
    "step": (
        "evaluate",
        "--attack pgd --epsilon 8/255 --alpha 2",
        "alpha must be at most 1, .* got 2: .* 2/255\\?",
    ),
    "no attack": (
        "evaluate",
        "--epsilon 8/255 --steps 20",
        "attack must be told with epsilon, steps, got 'none'",
    ),
    "norm": ("evaluate", "--attack fgsm --norm l1", "norm must be one of 'linf', 'l2', got 'l1'"),
}


@pytest.mark.parametrize("command, text, message", ERRORS.values(), ids=ERRORS)
def test_what_cannot_be_done_is_explained(command, text, message, folder, tmp_path):
    """Exit status 1, the message on stderr, which is what Python does with a text."""
    start = ["train", "--folder", tmp_path, *SMALL] if command == "train" else ["evaluate", folder]
    with pytest.raises(SystemExit) as end:
        call(*start, *text.split())
    assert re.fullmatch(f"python -m wdtr_lite {command}: {message}", end.value.code)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_run_on_images_that_were_given(tmp_path, capsys):
    """Under the name of a data set, or under one that nobody knows."""
    whole = digits("mnist5k")
    flipped = replace(whole, images=255 - whole.images)
    few = replace(whole, split={"train": torch.arange(64), "test": torch.arange(64, 100)})
    config = training.Config(data="mnist5k", model="small_cnn", width=2, images=64, epochs=1,
        batch_size=32, learning_rate=0.02)  # fmt: skip
    for k, given in enumerate([flipped, few, replace(flipped, name="mine"), whole]):
        folder = tmp_path / str(k)
        training.fit(config, dataset=given, folder=folder, device="cpu", progress=False)
        if given is whole:
            call("evaluate", folder, "--device", "cpu")
            assert told(capsys)["n"] == 1000
            continue
        message = f"{folder} holds a run on images that it was given, .* {given.name!r} here"
        with pytest.raises(SystemExit, match=message):
            call("evaluate", folder, "--device", "cpu")


def code_after(error, monkeypatch):
    """Of a training that is stopped by it."""

    def fit(*_, **__):
        raise error

    monkeypatch.setattr(training, "fit", fit)
    with pytest.raises(SystemExit) as end:
        call("train", "--folder", "runs")
    return end.value.code


@pytest.mark.parametrize("error", [training.Busy("in use"), RuntimeError("no memory"), OSError(28)])
def test_what_stops_a_command_is_told_in_a_line(error, monkeypatch):
    assert code_after(error, monkeypatch) == f"python -m wdtr_lite train: {error}"


@pytest.mark.parametrize("behind", [False, True])
def test_an_interrupted_command(behind, monkeypatch, capsys):
    """Is told in a line, and exits as a shell says it; also where another error came of it."""
    error = RuntimeError("trying to pop from empty mode stack") if behind else KeyboardInterrupt()
    if behind:
        error.__context__ = KeyboardInterrupt()
    assert code_after(error, monkeypatch) == 130
    assert capsys.readouterr().err == "python -m wdtr_lite train: interrupted\n"


@pytest.mark.parametrize(
    "text",
    [
        "fgsm --steps 3",
        "fgsm --seed 1",
        "fgsm --alpha 1/255",
        "ifgsm --restarts 2",
        "ifgsm --seed 1",
    ],
)
def test_an_option_that_the_attack_has_not(text, folder):
    method, option, value = text.split()
    told = f"attack='{method}' needs no {option[2:]}, got {option[2:]}="
    with pytest.raises(SystemExit, match=told):
        call("evaluate", folder, "--device", "cpu", "--attack", method, option, value)


def test_quick_has_no_time(capsys):
    told = "minutes are for the profiles cpu and full, quick stores nothing to go on from, got 2"
    with pytest.raises(SystemExit, match=told):
        call("experiment", "table1", "--minutes", "2")


@pytest.mark.parametrize("more", [["--cluster", "x"], ["--finished"]])
def test_a_list_is_a_list(more):
    with pytest.raises(SystemExit, match="list trains and writes nothing: call it without"):
        call("experiment", "table1", "--list", *more)


def test_options_are_written_out(capsys):
    with pytest.raises(SystemExit) as end:
        call("train", "--folder", "x", "--learning", "1")
    assert end.value.code == 2 and "--learning" in capsys.readouterr().err


def test_exit_codes_are_told(capsys):
    with pytest.raises(SystemExit):
        call("--help")
    assert "75, the\ntime of --minutes is up" in capsys.readouterr().out


def test_train_stops_in_time_and_goes_on(folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        call("train", "--folder", tmp_path, *SMALL, "--minutes", "0")
    assert stopped.value.code == 1  # with 75 a loop would call it for ever
    said = "the time is up after epoch 0 of 1: the same call goes on, given time for an epoch"
    assert said in capsys.readouterr().err
    call("train", "--folder", tmp_path, *SMALL, "--minutes", "10")
    weights, expected = (training.load(each).model.state_dict() for each in (tmp_path, folder))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_an_experiment_stops_in_time(monkeypatch, capsys):
    def run(name, profile, *, until, **options):
        assert 0 < until - time.time() <= 60
        raise training.Unfinished("the time is up, 3 networks are left.")

    monkeypatch.setattr(study, "run", run)
    with pytest.raises(SystemExit) as stopped:
        call("experiment", "table1", "--profile", "cpu", "--minutes", "1")
    assert stopped.value.code == 75 and "3 networks are left" in capsys.readouterr().err


def test_train_keeps_another_configurations_run(folder, tmp_path):
    for text, named in (("--seed 1", "seed=0"), ("--width 4 --epochs 2", "width=2, epochs=1")):
        with pytest.raises(
            SystemExit, match=f"holds a run with {named}: choose another folder, or delete that one"
        ):
            call("train", "--folder", folder, *SMALL, *text.split())
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="train: .*file"):
        call("train", "--folder", tmp_path / "file", *SMALL)


@pytest.mark.parametrize(
    "text, message",
    [
        ("train", "the following arguments are required: --folder"),
        ("train --folder x --epochs many", "argument --epochs: invalid int value: 'many'"),
        ("train --folder x --eta a/2", "argument --eta: invalid number value: 'a/2'"),
        ("evaluate x --epsilon 8/", "argument --epsilon: invalid number value: '8/'"),
        ("train --folder x --epsilon=--", "argument --epsilon: expected a value, got '--'"),
        ("train --folder x --milestones=--", "argument --milestones: expected a value, got '--'"),
        ("evaluate x --alpha 8/0", "argument --alpha: invalid number value: '8/0'"),
        ("train --folder x --radius 1.5", "argument --radius: invalid int value: '1.5'"),
        ("evaluate x --attack cw", "argument --attack: invalid choice: 'cw'"),
        ("evaluate x --part all", "argument --part: invalid choice: 'all'"),
        ("experiment nothing", "argument name: invalid choice: 'nothing'"),
        ("experiment table1 --profile slow", "argument --profile: invalid choice: 'slow'"),
        ("", "the following arguments are required: command"),
        ("fit", "argument command: invalid choice: 'fit'"),
    ],
)
def test_what_cannot_be_read(text, message, capsys):
    with pytest.raises(SystemExit) as end:
        call(*text.split())
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_as_a_command(tmp_path):
    """Exit status and streams of the process itself, which loads only what it needs."""
    heavy = {"wdtr_lite.study", "torchvision", "matplotlib", "sklearn"}
    code = f"""
import runpy, sys
try:
    runpy.run_module("wdtr_lite", run_name="__main__")
finally:
    print(*{heavy!r} & sys.modules.keys())"""
    command = [sys.executable, "-c", code, "evaluate", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    message = (
        f"python -m wdtr_lite evaluate: {tmp_path} holds no checkpoint.pt: "
        f"train with folder='{tmp_path}' first\n"
    )
    assert (result.returncode, result.stdout, result.stderr) == (1, "\n", message)

"""``python -m wdtr_lite train|evaluate``: options are the fields of Config, the help teaches,
errors say what to change.
"""

import functools
import json
import os
import re
import shlex
import subprocess
import sys
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from wdtr_lite import __main__, attacks, data, evaluation, training
from wdtr_lite.study import evidence, experiments, runs

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
        return training.Run(None, [{"epoch": 1}], config)

    monkeypatch.setattr(training, "fit", fit)
    return calls


def test_without_options_the_defaults(asked, capsys):
    call("train", "--folder", "runs")
    assert asked == [
        (training.Config(), {"folder": "runs", "device": None, "checkpoint_every": 10})
    ]
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


@pytest.mark.parametrize("field", [field.name for field in fields(training.Config)])
def test_each_field_is_an_option(field, asked):
    text, value = OPTIONS[field]
    call("train", "--folder", "runs", "--" + field.replace("_", "-"), *text.split())
    found = getattr(asked[0][0], field)
    assert found == value != getattr(training.Config(), field) and type(found) is type(value)


@pytest.mark.parametrize(
    "text, field, value",
    [
        ("--scale trace", "scale", "trace"),
        ("--milestones", "milestones", ()),
        ("--images none", "images", None),
    ],
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
    for field in fields(training.Config):
        shown = field.default if field.name != "milestones" else "100 150"
        explained = re.escape(field.metadata["help"]) + (
            "" if shown is None else re.escape(f" (default: {shown})")
        )
        assert re.search(f"--{field.name.replace('_', '-')} [^-]*{explained}", text), field.name
        for choice in field.metadata["choices"] or ():
            assert re.search(
                f"--{field.name} {{[^}}]*\\b{'none' if choice is None else choice}\\b[^}}]*}}", text
            ), choice


def test_help_names_the_commands(capsys):
    text = help_of([], capsys)
    assert "{train,evaluate,experiment}" in text and "Train a network on labelled images" in text
    text = help_of(["evaluate"], capsys)
    defaults = {
        "epsilon": "8/255",
        "steps": "20",
        "restarts": "1",
        "norm": "linf",
        "part": "test",
        "seed": "0",
    }
    for option, default in defaults.items():
        assert re.search(rf"--{option} [^-]*\(default: {default}\)", text), option


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
    assert {key: last[key] for key in ("epoch", "loss", "penalty", "error")}.items() <= run.history[
        0
    ].items()
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
    """The error of robustness, with n and the binomial standard error; random starts go on from
    batch to batch.
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
    assert 0 < expected < 1 and line["n"] == len(images) == (
        n or {"test": 1000, "validation": 500}[part]
    )
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
        call(
            "evaluate",
            folder,
            "--device",
            "cpu",
            "--attack",
            "pgd",
            "--steps",
            3,
            "--images",
            200,
            "--epsilon",
            epsilon,
        )
        errors.append(told(capsys)["mean"])
    assert errors == sorted(set(errors))
    starts = [
        __main__.ATTACKS["pgd"](options(seed)).keywords["generator"].initial_seed()
        for seed in (0, 1)
    ]
    assert starts == [0, 1]


def options(seed):
    return Namespace(
        epsilon=0.1, alpha=None, steps=1, norm="linf", restarts=1, seed=seed, device="cpu"
    )


# ---------------------------------------------------------------- experiment


def study(**changes):
    shared = {
        "model": "resnet8",
        "width": 2,
        "images": 64,
        "batch_size": 32,
        "epochs": 1,
        "milestones": [],
    }
    return {
        "dataset": "mnist5k_color", "split": None, "training": shared, "search": {},
        "candidates": {"none": [{}], "euclidean": [{"eta": 0.1}]}, "likeliest": {}, "also": {}, "seeds": [0, 1], "attacked": 5,
    } | changes  # fmt: skip


GRID = study(
    training=study()["training"] | {"epochs": 3}, search={"epochs": 2},
    candidates={"none": [{}], "euclidean": [{"eta": 0.1}, {"eta": 0.2}]},
)  # fmt: skip
NEIGHBOURS = {
    "dataset": "mnist5k",
    "train_sizes": [5],
    "test_size": 4,
    "neighbours": [1],
    "seed": 0,
}


@pytest.fixture
def workshop(monkeypatch, tmp_path):
    """Small experiments, in a folder of their own; networks are trained in this process."""
    small = {
        "nearest_neighbours": {"quick": NEIGHBOURS, "full": NEIGHBOURS},
        "table1": {"quick": study(), "cpu": study(), "full": GRID},
        "table2": {
            "quick": study(moved={"images": 4, "reach": 2}),
            "cpu": study(moved={"images": 4, "reach": 2}),
        },
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments, "EXPERIMENTS", small)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    @contextmanager
    def executor(cluster):
        with ThreadPoolExecutor(1) as pool:
            yield pool

    monkeypatch.setattr(runs, "_executor", executor)
    runs.trained.cache_clear()
    yield tmp_path
    runs.trained.cache_clear()


def rows(capsys):
    """What experiments print for their networks: a line for each that is done, the rows, where they
    are from.
    """
    printed = [
        json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")
    ]
    assert printed[-1].keys() == {"command", "date", "wall_seconds", "device", "versions", "commit"}
    return printed[:-1]


def test_experiment_writes_its_result_and_weights(workshop, capsys):
    call("experiment", "table1", "--profile", "cpu")
    found = rows(capsys)
    report = experiments.stored("table1", "cpu")
    assert sorted(path.name for path in (workshop / "results").iterdir()) == [
        "table1_cpu.json", "table1_cpu_euclidean.pt", "table1_cpu_none.pt",
    ]  # fmt: skip
    assert (
        report["config"] == study()
        and report["profile"] == "cpu"
        and report["experiment"] == "table1"
    )
    assert report["provenance"]["command"] == "python -m wdtr_lite experiment table1 --profile cpu"
    assert report["data"] == repr(digits("mnist5k_color"))
    labels = [("none", 0), ("euclidean", 0), ("none", 1), ("euclidean", 1)]
    assert [(row["method"], row["seed"]) for row in report["result"]["rows"]] == labels
    assert [(row["method"], row["seed"]) for row in found] == labels
    for row, kept in zip(found, report["result"]["rows"], strict=True):
        assert "wrong" not in row and "n" not in row
        assert row["percent"]["FGSM 8"] == 20 * kept["wrong"]["FGSM 8"]
    images, truth = digits("mnist5k_color").part("test")
    for row, method in zip(report["result"]["rows"], ("none", "euclidean"), strict=False):
        model = experiments.network(method, "cpu")
        assert (
            int(evaluation.misclassified(model, images, truth).sum()) == row["wrong"]["natural"]
        ), "the very network of the table"


def test_quick_writes_nothing(workshop, capsys):
    call("experiment", "table1")
    assert len(rows(capsys)) == 4 and not list(workshop.iterdir())


def test_the_networks_of_a_table_are_those_of_the_next(workshop, monkeypatch, capsys):
    call("experiment", "table1", "--profile", "cpu")
    runs.trained.cache_clear()
    monkeypatch.setattr(training, "fit", None)
    call("experiment", "table2", "--profile", "cpu")
    first, second = (
        experiments.stored(name, "cpu")["result"]["rows"] for name in ("table1", "table2")
    )
    assert [row["training"] for row in first] == [row["training"] for row in second]
    assert all(row["measurements"]["vertical edge"]["n"] == 4 for row in second)
    shown = rows(capsys)[-4:]
    for row, kept in zip(shown, second, strict=True):
        assert "measurements" not in row
        assert row["flips"] == {
            name: answer["consecutive"][-1] / 4 for name, answer in kept["measurements"].items()
        }


def test_finished_writes_what_is_there(workshop, monkeypatch, capsys):
    fit = training.fit
    monkeypatch.setattr(training, "fit", None)
    with pytest.raises(
        SystemExit,
        match="less of table1 is finished in _runs/networks than results/table1_cpu.json tells",
    ):
        call("experiment", "table1", "--profile", "cpu", "--finished")
    assert not list(workshop.iterdir())
    done = runs.Network(
        training.Config(data="mnist5k_color", **study()["training"]),
        evidence._table1_questions("test", 5),
    )
    monkeypatch.setattr(training, "fit", fit)
    runs.complete([done], "_runs/networks")
    monkeypatch.setattr(training, "fit", None)
    call("experiment", "table1", "--profile", "cpu", "--finished")
    assert [row.get("missing") for row in rows(capsys)] == [None, True, True, True]
    report = experiments.stored("table1", "cpu")
    assert (
        report["provenance"]["command"]
        == "python -m wdtr_lite experiment table1 --profile cpu --finished"
    )
    assert report["result"]["rows"][0]["wrong"].keys() == evidence.TABLE1.keys()
    assert [path.name for path in workshop.glob("results/*.pt")] == ["table1_cpu_none.pt"]
    (workshop / "_runs").rename(workshop / "elsewhere")
    before = (workshop / "results/table1_cpu.json").read_text()
    with pytest.raises(SystemExit, match="less of table1 is finished"):
        call("experiment", "table1", "--profile", "cpu", "--finished")
    assert (workshop / "results/table1_cpu.json").read_text() == before


def test_finished_and_cluster_are_not_for_quick(workshop):
    for option in (["--finished"], ["--cluster", "tcp://there:1"]):
        with pytest.raises(
            SystemExit, match="finished and cluster are for the profiles cpu and full"
        ):
            call("experiment", "table1", *option)


def test_finished_of_an_unfinished_grid(workshop, capsys):
    """No choice, no networks of a choice."""
    shared = {"data": "mnist5k_color", **GRID["training"], **GRID["search"]}
    runs.complete(
        [runs.Network(training.Config(**shared), evidence._table1_questions("validation", None))],
        "_runs/networks",
    )
    call("experiment", "table1", "--profile", "full", "--finished")
    assert rows(capsys) == []
    result = experiments.stored("table1")["result"]
    assert result["chosen"] == {} and result["grid_complete"] is False
    assert [row.get("missing") for row in result["search"]] == [None, True, True]


def listed(capsys, *arguments):
    capsys.readouterr()
    call("experiment", *arguments, "--list")
    return capsys.readouterr().out.splitlines()


def test_list(workshop, capsys):
    """Networks with the time they took, or should; nothing is done."""
    head, *lines = listed(capsys, "table1", "--profile", "cpu")
    assert head == "table1, cpu: results/table1_cpu.json was not run" and not list(
        workshop.iterdir()
    )
    form = r"  (none|euclidean) +(eta=0.1)? +seed ([01])  missing, about \d+ min"
    assert [re.fullmatch(form, line).groups() for line in lines] == [
        ("none", None, "0"), ("euclidean", "eta=0.1", "0"), ("none", None, "1"), ("euclidean", "eta=0.1", "1"),
    ]  # fmt: skip
    config = training.Config(
        data="mnist5k_color", **study()["training"], method="euclidean", eta=0.1, seed=1
    )
    runs.trained(config, "_runs/networks")
    states = [
        line.partition("seed ")[2][3:] for line in listed(capsys, "table1", "--profile", "cpu")[1:]
    ]
    assert re.fullmatch(r"done in \d+ s", states.pop()) and all(
        state.startswith("missing, about ") for state in states
    )
    call("experiment", "table1", "--profile", "cpu")
    head, *lines = listed(capsys, "table1", "--profile", "cpu")
    assert head == "table1, cpu: results/table1_cpu.json is there"
    assert len(lines) == 4 and all(re.search(r"done in \d+ s$", line) for line in lines)


def test_list_of_a_grid(workshop, capsys):
    """The grid, then what stands in for its choice, from each seed."""
    _, *lines = listed(capsys, "table1", "--profile", "full")
    assert [tuple(re.split(r"seed | {2,}", line.strip())[:-1]) for line in lines] == [
        ("none", "", "0"), ("euclidean", "eta=0.1", "", "0"), ("euclidean", "eta=0.2", "", "0"),
        ("none", "", "0"), ("euclidean", "eta=0.1", "", "0"), ("none", "", "1"), ("euclidean", "eta=0.1", "", "1"),
    ]  # fmt: skip


def test_list_of_all(workshop, capsys):
    heads = [line for line in listed(capsys, "all", "--profile", "cpu") if not line.startswith(" ")]
    assert [head.partition(":")[0] for head in heads] == [
        "nearest_neighbours, full",
        "table1, cpu",
        "table2, cpu",
    ]


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
        assert options == {"cluster": "tcp://there:1", "finished": bool(more)}
        return {"result": {"rows": []}, "provenance": {}}

    monkeypatch.setattr(experiments, "run", run)
    call("experiment", "all", "--profile", profile, "--cluster", "tcp://there:1", *more)
    assert called == expected


def test_the_cluster_is_handed_on(workshop, monkeypatch):
    seen = []

    def complete(networks, root=None, *, cluster=None, finished=False):
        seen.append((root, cluster, finished))
        return [None for _ in networks]

    monkeypatch.setattr(runs, "complete", complete)
    call("experiment", "table1", "--profile", "cpu", "--cluster", "tcp://there:1")
    assert set(seen) == {(Path("_runs/networks"), "tcp://there:1", False)}
    assert experiments.stored("table1", "cpu")["provenance"]["command"].endswith(
        " --profile cpu --cluster ADDRESS"
    )


def test_from_the_chapters_folder_the_same_files_are_meant(workshop, monkeypatch):
    (workshop / "results").mkdir()
    (workshop / "book").mkdir()
    monkeypatch.chdir(workshop / "book")
    call("experiment", "table1", "--profile", "cpu")
    assert sorted(path.name for path in workshop.iterdir()) == ["_runs", "book", "results"]
    assert not list((workshop / "book").iterdir())


def test_the_experiments_of_the_book():
    assert {name: list(by) for name, by in experiments.EXPERIMENTS.items()} == {
        **dict.fromkeys(
            ["nearest_neighbours", "label_keeping", "robust_digits"], ["quick", "full"]
        ),
        **dict.fromkeys(
            ["table1", "table2", "figure2", "stress", "variation", "tradeoff"],
            ["quick", "cpu", "full"],
        ),
    }


@pytest.mark.parametrize("option", [[], ["--list"]], ids=["run", "list"])
def test_a_profile_that_an_experiment_has_not(option, workshop):
    with pytest.raises(SystemExit) as end:
        call("experiment", "nearest_neighbours", "--profile", "cpu", *option)
    message = "profile must be one of ['full', 'quick'], got 'cpu'"
    assert end.value.code == f"python -m wdtr_lite experiment: {message}"


def test_in_processes_from_the_shell(workshop, monkeypatch, capsys):
    """Without a GPU each core trains one; called again, here, nothing is trained."""
    words = ["experiment", "table1", "--profile", "cpu"]
    code = f"""
from wdtr_lite import __main__
from wdtr_lite.study import experiments
experiments.EXPERIMENTS["table1"]["cpu"] = {study()!r}
__main__.main({words!r})"""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    lines = result.stdout.splitlines()
    names = [
        f"resnet8 {name} seed {seed}"
        for name in ("none {}", "euclidean {'eta': 0.1}")
        for seed in (0, 1)
    ]
    assert sorted(line.partition(": [")[0] for line in lines if line[0] != "{") == sorted(names)
    monkeypatch.setattr(training, "fit", None)
    call(*words)
    again = capsys.readouterr().out.splitlines()
    assert len(again) == 5 and again[:-1] == [line for line in lines if line[0] == "{"][:-1]


# ---------------------------------------------------------------- errors


TRAIN_ERRORS = {
    "method": (
        "--method tikhonov",
        "method must be one of none, euclidean, wasserstein, .*, got 'tikhonov'",
    ),
    "radius": ("--method wasserstein", "method='wasserstein' needs a radius, got radius=None"),
    "radius_unused": ("--radius 2", "method='none' needs no radius, got radius=2"),
    "epsilon": ("--method pgd", "method='pgd' needs epsilon > 0, got 0.0"),
    "epsilon_unused": ("--epsilon 0.1", "method='none' needs no epsilon, got 0.1"),
    "eta": ("--eta 1", "method='none' needs no eta, got eta=1.0"),
    "scale": ("--scale mean", "scale must be one of trace, None, got 'mean'"),
    "epochs": ("--epochs 0", "epochs must be at least 1, got 0"),
    "learning_rate": (
        "--learning-rate nan",
        "learning_rate must be non-negative and finite, got nan",
    ),
    "milestones": ("--milestones 0 5", "milestones must be at least 1, got 0"),
    "batch": ("--batch-size 300", "batch_size must be at most the number of images, 256, got 300"),
    "images": (
        "--images 4001",
        "images must be at least 1 and at most 4000, those of 'train', got 4001",
    ),
    "split": ("--split official", "split must be None for mnist5k, got 'official'"),
    "checkpoint": ("--checkpoint-every 0", "checkpoint_every must be at least 1, got 0"),
    "device": ("--device gpu", "device must be .* here, got 'gpu'"),
    "divergence": (
        "--learning-rate 1e30",
        "the run diverged in epoch 1 .*; there is no checkpoint. Lower .*",
    ),
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
        with pytest.raises(
            SystemExit, match=f"holds a run with {named}: choose another folder, or delete that one"
        ):
            call("train", "--folder", folder, *SMALL, *text.split())
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="train: .*file"):
        call("train", "--folder", tmp_path / "file", *SMALL)


EVALUATE_ERRORS = {
    "images": ("--images 0", "images must be at least 1 and at most 1000, those of 'test', got 0"),
    "images_sign": (
        "--images -5",
        "images must be at least 1 and at most 1000, those of 'test', got -5",
    ),
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
        ("experiment", "the following arguments are required: name"),
        ("experiment nothing", "argument name: invalid choice: 'nothing'"),
        ("experiment table1 --profile slow", "argument --profile: invalid choice: 'slow'"),
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

"""Published numbers are rebuilt from the raw outcomes; the experiments' code is checked on small data."""

import itertools
import json
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from wdtr_lite import (
    PixelGraph,
    __main__,
    attacks,
    data,
    evaluation,
    models,
    training,
    transport,
)  # fmt: skip
from wdtr_lite.study import evidence, experiments, runs

STORED = Path(__file__).parent.parent / "results"
MUST = {
    "full": ["nearest_neighbours", "label_keeping", "robust_digits"],
    "cpu": ["table1", "table2", "figure2", "stress", "variation", "tradeoff"],
}


def path_of(name, profile="full", suffix=".json"):
    return STORED / experiments.path_of(name, profile, suffix).name


def stored(name, profile="full"):
    return json.loads(path_of(name, profile).read_text())


def profiles(*names):
    """Names and profiles of results that are there, or must be."""
    by = [(name, profile) for name in names for profile in MUST]
    found = [
        (name, profile)
        for name, profile in by
        if name in MUST[profile] or path_of(name, profile).exists()
    ]
    return pytest.mark.parametrize(
        "name, profile", found, ids=[f"{name}_{profile}" for name, profile in found]
    )


@profiles(*experiments.EXPERIMENTS)
def test_stored_result_is_what_the_code_declares(name, profile):
    report = stored(name, profile)
    config = experiments.EXPERIMENTS[name][profile]
    assert report["config"] == config
    assert (report["experiment"], report["profile"]) == (name, profile)
    split = f" ({config['split']})" if "split" in config else ""
    assert report["data"].startswith(f"{config['dataset']}{split}: ")
    assert (
        f"python -m wdtr_lite experiment {name} --profile {profile}"
        in report["provenance"]["command"]
    )
    assert_origin_is_told(report)


def test_no_result_is_of_nothing():
    """Each file is an experiment's, a benchmark's or weights of Table 1."""
    declared = {
        path_of(name, profile) for name, by in experiments.EXPERIMENTS.items() for profile in by
    }
    benchmarks = set(STORED.glob("benchmark_*.json"))
    weights = {
        path_of("table1", profile, f"_{method}.pt")
        for profile, study in experiments.EXPERIMENTS["table1"].items()
        for method in study["candidates"]
    }
    assert set(STORED.iterdir()) <= declared | benchmarks | weights


@pytest.mark.parametrize(
    "path", sorted(STORED.glob("benchmark_*.json")), ids=lambda path: path.stem
)
def test_stored_benchmark_is_of_a_script_here(path):
    report = json.loads(path.read_text())
    script = path.stem.removeprefix("benchmark_")
    assert (STORED.parent / "benchmarks" / f"{script}.py").exists()
    assert report["name"] == path.stem
    assert f"python benchmarks/{script}.py --write" in report["provenance"]["command"]
    assert_origin_is_told(report)


def assert_origin_is_told(report):
    origin = report["provenance"]
    assert origin["wall_seconds"] > 0
    assert "dirty" not in origin["commit"]
    assert {"command", "date", "device", "versions"} <= origin.keys()
    assert "/root" not in json.dumps(report)


def assert_row_follows(row, outcomes):
    n = len(outcomes)
    mean = sum(outcomes) / n
    assert row["n"] == n
    assert row["mean"] == pytest.approx(mean, abs=1e-12)
    assert row["standard_error"] == pytest.approx((mean * (1 - mean) / n) ** 0.5, abs=1e-12)


def test_nearest_neighbour_table_follows_from_its_predictions():
    report = stored("nearest_neighbours")
    config, result = report["config"], report["result"]
    combinations = {(r["metric"], r["train_size"], r["k"]) for r in result["rows"]}
    assert (
        len(combinations)
        == len(result["rows"])
        == 3 * len(config["train_sizes"]) * len(config["neighbours"])
    )
    for row in result["rows"]:
        assert len(row["predictions"]) == config["test_size"]
        assert_row_follows(
            row, [p != label for p, label in zip(row["predictions"], result["labels"], strict=True)]
        )


def test_label_keeping_table_follows_from_its_predictions():
    report = stored("label_keeping")
    config, result = report["config"], report["result"]
    combinations = {(r["classifier"], r["metric"], r["fraction"]) for r in result["rows"]}
    assert len(combinations) == len(result["rows"]) == 2 * 2 * len(config["fractions"])
    assert all(a != b for a, b in zip(result["labels"], result["targets"], strict=True))
    for row in result["rows"]:
        assert len(row["predictions"]) == config["pairs"]
        assert_row_follows(
            row, [p == label for p, label in zip(row["predictions"], result["labels"], strict=True)]
        )


@pytest.fixture(scope="module")
def blobs():
    """Three classes on 6 x 6 pixels: a lit block in one of three places, of random brightness."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(60) % 3
    images = torch.zeros(60, 6, 6, dtype=torch.uint8)
    for image, label in zip(images, labels, strict=True):
        image[label * 2 : label * 2 + 2, 1:5] = torch.randint(
            50, 250, (2, 4), generator=generator, dtype=torch.uint8
        )
    return data.Dataset(
        "blobs", images, labels, "a test", {"train": torch.arange(40), "test": torch.arange(40, 60)}
    )


def test_nearest_neighbours_by_hand(blobs):
    options = {"train_sizes": [5, 20], "test_size": 10, "neighbours": [1, 3], "seed": 3}
    result = experiments.nearest_neighbours(blobs, **options)
    generator = torch.Generator().manual_seed(3)
    train, test = (torch.randperm(n, generator=generator)[:k] for n, k in ((40, 20), (20, 10)))
    images, labels = blobs.images.double().numpy(), blobs.labels.numpy()
    for row in result["rows"]:
        for k, i in enumerate(40 + test):

            def distance(j, i=i, metric=row["metric"]):
                x, y = images[i], images[j]
                if metric == "wasserstein":
                    return transport.wasserstein_distance(x, y)
                return (
                    np.linalg.norm(x / x.sum() - y / y.sum())
                    if metric == "euclidean"
                    else np.linalg.norm(x - y)
                )

            near = sorted(train[: row["train_size"]].tolist(), key=distance)[: row["k"]]
            votes = labels[near].tolist()
            assert int(row["predictions"][k]) == min(set(votes), key=lambda v: (-votes.count(v), v))
    assert result["labels"] == "".join(str(int(v)) for v in labels[40 + test])


def test_a_stopped_run_goes_on_where_it_was(blobs, tmp_path, monkeypatch, capsys):
    options = {"train_sizes": [5], "test_size": 20, "neighbours": [1], "seed": 0}
    whole = experiments.nearest_neighbours(blobs, **options)
    assert experiments.nearest_neighbours(blobs, **options, checkpoint=tmp_path) == whole
    assert "distances of 20 of 20" in capsys.readouterr().out
    monkeypatch.setattr(transport, "pairwise_distances", None)  # a resumed run must not need it
    assert experiments.nearest_neighbours(blobs, **options, checkpoint=tmp_path) == whole


def test_label_keeping_keeps_at_zero_and_loses_at_the_target(blobs):
    result = experiments.label_keeping(
        blobs, classifier_size=40, pairs=12, fractions=[0.0, 5.0], seed=0
    )
    for row in result["rows"]:
        expected = result["labels"] if row["fraction"] == 0 else result["targets"]
        assert row["predictions"] == expected
        assert row["reached"] == (row["fraction"] > 0)
        assert row["mean"] == 1 - row["reached"]


def test_errors_say_what_is_wrong(blobs, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="name must be one of .*'nothing'"):
        experiments.run("nothing")
    with pytest.raises(ValueError, match="profile must be one of .*'slow'"):
        experiments.run("label_keeping", "slow")
    with pytest.raises(ValueError, match="41 images asked for"):
        experiments.label_keeping(blobs, classifier_size=41, pairs=1, fractions=[0.5], seed=0)
    with pytest.raises(ValueError, match="pairs=21"):
        experiments.label_keeping(blobs, classifier_size=40, pairs=21, fractions=[0.5], seed=0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="label_keeping.json was not run: make results"):
        experiments.stored("label_keeping")


def test_full_run_from_the_command_line_writes_its_report(blobs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = {"dataset": "blobs", "classifier_size": 40, "pairs": 5, "fractions": [0.5], "seed": 0}
    monkeypatch.setitem(experiments.EXPERIMENTS, "label_keeping", {"full": small})
    monkeypatch.setattr(runs, "dataset_of", lambda name, split: {"blobs": blobs}[name])
    monkeypatch.setattr(
        "sys.argv", ["wdtr_lite", "experiment", "label_keeping", "--profile", "full"]
    )
    __main__.main()
    assert '"metric": "wasserstein"' in capsys.readouterr().out
    report = experiments.stored("label_keeping")
    assert report["config"] == small
    assert (
        report["provenance"]["command"]
        == "python -m wdtr_lite experiment label_keeping --profile full"
    )
    assert report["provenance"]["command"] in experiments.describe(report)


def test_minutes_of_networks_add_up():
    one, other = ({"method": "none", "seed": seed} for seed in (0, 1))
    grid = one | {"seconds": {"training": 60, "natural": 30}}
    rows = [
        one | {"seconds": {"training": 60, "flips": 15}},
        {"missing": True},
        other | {"seconds": {"training": 45}},
    ]
    report = {"result": {"search": [grid], "rows": rows}}
    assert experiments.network_minutes(report) == 2.5, "the network of the grid is trained once"
    assert (
        experiments.network_minutes({"result": {"rows": [{}]}})
        is None
        is experiments.network_minutes({})
    )
    origin = {
        "device": "a CPU",
        "wall_seconds": 60,
        "date": "today",
        "commit": "c",
        "versions": {},
        "command": "run",
    }
    assert "; 2 network-minutes on today" in experiments.describe(report | {"provenance": origin})
    assert "; 1 minutes on today" in experiments.describe(
        {"result": {"rows": []}, "provenance": origin}
    )


DIGITS = {
    "dataset": "mnist5k",
    "training": {
        "model": "small_cnn", "width": 2, "images": 64, "epochs": 2, "batch_size": 32, "milestones": [], "learning_rate": 0.05,
    },
    "search": {"epochs": 1},
    "candidates": {"none": [{}], "euclidean": [{"eta": 0.1}, {"eta": 0.2}]},
    "criteria": {"attack": ["pgd 0.1"], "variation": ["elastic"]},
    "also": {"difference": {"method": "euclidean", "mode": "finite_difference"}},
    "seeds": [0, 1],
    "judged": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def digits_result():
    return experiments.robust_digits(DIGITS)


def test_robust_digits_trains_what_it_should(digits_result):
    assert [(row["method"], row["setting"]) for row in digits_result["search"]] == [
        ("none", {}), ("euclidean", {"eta": 0.1}), ("euclidean", {"eta": 0.2}),
    ]  # fmt: skip
    labels = [(row["chosen_for"], row["method"], row["seed"]) for row in digits_result["rows"]]
    methods = [("attack", name) for name in ("none", "euclidean", "difference")]
    methods += [("variation", name) for name in ("none", "euclidean")]
    assert sorted(labels) == sorted((*method, seed) for method in methods for seed in (0, 1))


@pytest.mark.parametrize("part", ["validation", "test"])
def test_robust_digits_by_hand(part, digits_result):
    """A network of the search, from the part fit, and one of the choice, from the whole part train."""
    digits = runs.dataset_of("mnist5k")
    if part == "validation":
        row, changes = digits_result["search"][2], {"epochs": 1, "part": "fit"}
    else:
        row = next(
            row
            for row in digits_result["rows"]
            if row["method"] == "difference" and row["seed"] == 1
        )
        changes = {"seed": 1}
        assert row["setting"]["mode"] == "finite_difference"
    config = training.Config(
        data="mnist5k", **DIGITS["training"] | {"method": "euclidean"} | row["setting"] | changes
    )
    run = training.fit(config, dataset=digits, device="cpu", progress=False)
    images, labels = digits.part(part)
    assert row["wrong"]["natural"] == int(
        (evaluation.predictions(run.model, images) != labels).sum()
    )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:8]
    drawn, wanted = images[order][:, None] / 255, labels[order]
    varied = evaluation.variations(drawn, seed=0)
    for name in ("translation", "rotation", "elastic"):
        assert row["wrong"][name] == int(
            (evaluation.predictions(run.model, varied[name]) != wanted).sum()
        )
    names = list(experiments.ATTACKS) if part == "test" else ["pgd 0.1"]
    for name in names:
        attacked = experiments.ATTACKS[name](run.model, drawn, wanted)
        assert row["wrong"][name] == int(
            (evaluation.predictions(run.model, attacked) != wanted).sum()
        )
    assert row["n"] == {"natural": len(labels)} | dict.fromkeys(
        ["translation", "rotation", "elastic", *names], 8
    )
    expected = run.history[-1]
    assert {
        key: row["training"][key] for key in ("epoch", "loss", "penalty", "error")
    }.items() <= expected.items()


def test_attacks_of_digits_are_what_their_names_say(digits_result):
    digits = runs.dataset_of("mnist5k")
    model = runs.trained(training.Config(data="mnist5k", **DIGITS["training"])).model
    images, labels = digits.part("test", 20)
    x, graph = images[:, None] / 255, PixelGraph(28, 28, 4)
    for name, attack in experiments.ATTACKS.items():
        changed, size = attack(model, x, labels), float(name.split()[1])
        assert changed.min() >= 0 and changed.max() <= 1 and not torch.equal(changed, x)
        if name.startswith("wasserstein"):
            by_hand = attacks.wasserstein_attack(model, x, labels, graph, size)
            assert torch.equal(changed, by_hand)
        else:
            assert 0.9 * size < (changed - x).abs().max() <= size + 1e-6


def test_robust_digits_in_a_folder_is_the_same_and_done_once(tmp_path, monkeypatch):
    study = DIGITS | {"candidates": {"none": [{}]}, "also": {}, "seeds": [0]}

    @contextmanager
    def executor(cluster):
        with ThreadPoolExecutor(1) as pool:
            yield pool

    monkeypatch.setattr(runs, "_executor", executor)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def outcome(**kept):
        rows = experiments.robust_digits(study, **kept)["rows"]
        return [(row["wrong"], row["training"]["loss"]) for row in rows]

    assert outcome(root=tmp_path) == outcome()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    assert outcome(root=tmp_path) == outcome(root=tmp_path, finished=True) == outcome()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")} == written != {}


def test_robust_digits_shows_its_holes(tmp_path, monkeypatch):
    """Finished only, where nothing is; and where a network diverged."""
    found = experiments.robust_digits(DIGITS, root=tmp_path, finished=True)
    assert [row["missing"] for row in found["search"]] == [True] * 3
    wild = DIGITS | {
        "candidates": {"none": [{}], "euclidean": [{"eta": 1e30}]},
        "also": {},
        "seeds": [0],
    }
    rows = experiments.robust_digits(wild)["rows"]
    assert [row["method"] for row in rows if "wrong" in row] == ["none", "none"]


def test_robust_digits_table_follows_from_its_counts():
    report = stored("robust_digits")
    config, result = report["config"], report["result"]
    tried = [
        (method, setting)
        for method, settings in config["candidates"].items()
        for setting in settings
    ]
    assert [(row["method"], row["setting"]) for row in result["search"]] == tried
    first = next(iter(config["criteria"]))
    wanted = []
    for criterion, conditions in config["criteria"].items():
        chosen = runs.choose(result["search"], conditions)
        for name, changes in config["also"].items() if criterion == first else ():
            chosen[name] = chosen[changes["method"]] | {
                k: v for k, v in changes.items() if k != "method"
            }
        wanted += [
            (criterion, name, setting, seed)
            for name, setting in chosen.items()
            for seed in config["seeds"]
        ]
    assert [
        (row["chosen_for"], row["method"], row["setting"], row["seed"]) for row in result["rows"]
    ] == wanted
    for row in result["rows"]:
        assert row["n"]["natural"] == 10_000 and row["n"].keys() == row["wrong"].keys()
        assert {n for name, n in row["n"].items() if name != "natural"} == {config["judged"]}
        assert all(0 <= wrong <= row["n"][name] for name, wrong in row["wrong"].items())


# ---------------------------------------------------------------- the networks of Table 1


CLASSES = range(10)
CONDITIONS = list(evidence.TABLE1)
PARTS = {"validation": 1000, "test": 5000}  # of the split holdout


def test_table1_decides_for_the_others(tmp_path, monkeypatch):
    """Where it was run as declared and to the end, its settings are their only candidates; else they are as declared."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    names = ["table1", "table2", "figure2", "stress", "variation", "tradeoff"]

    def decided():
        return {name: experiments._decided(name, "cpu") for name in names}

    def write(**changes):
        result = {"chosen": chosen, "grid_complete": True} | changes
        report = {"config": experiments.EXPERIMENTS["table1"]["cpu"], "result": result} | changes
        (tmp_path / "results" / "table1_cpu.json").write_text(json.dumps(report))

    as_declared = {name: experiments.EXPERIMENTS[name]["cpu"] for name in names}
    assert decided() == as_declared
    chosen = {"none": {}, "euclidean": {"eta": 9.0}, "wasserstein": {"eta": 8.0, "radius": 1}}
    for changes in ({"config": {**as_declared["table1"], "seeds": [7]}}, {"grid_complete": False}):
        write(**changes)
        assert decided() == as_declared
    write()
    settled = {method: [setting] for method, setting in chosen.items()}
    rivals = as_declared["tradeoff"]["candidates"]
    assert decided() == {
        "table1": as_declared["table1"],
        **{name: as_declared[name] | {"candidates": settled} for name in names[1:-1]},
        "tradeoff": as_declared["tradeoff"] | {"candidates": rivals | settled},
    }
    assert experiments._decided("stress", "quick") == experiments.EXPERIMENTS["stress"]["quick"]
    assert (
        experiments._decided("robust_digits", "full")
        == experiments.EXPERIMENTS["robust_digits"]["full"]
    )


def labels_of(row):
    return row["method"], row["setting"], row["seed"]


def candidates(name, profile, config):
    """Those of a method that Table 1 has chosen are one."""
    settled = {} if name == "table1" else stored("table1", profile)["result"]["chosen"]
    settings = config["candidates"] | {method: [setting] for method, setting in settled.items()}
    return [(method, setting) for method, some in settings.items() for setting in some]


def final(config, chosen):
    """What must be trained of a choice, seed by seed."""
    changes = {
        name: {k: v for k, v in also.items() if k != "method"}
        for name, also in config["also"].items()
    }
    settings = chosen | {
        name: chosen[also["method"]] | changes[name] for name, also in config["also"].items()
    }
    return [
        (method, setting, seed) for seed in config["seeds"] for method, setting in settings.items()
    ]


def assert_trained(row, config, changes=()):
    training = {"epochs": 200} | config["training"] | dict(changes)
    assert row["training"]["epoch"] == training["epochs"]
    assert 0 < row["training"]["loss"] < math.inf and 0 <= row["training"]["penalty"] < math.inf
    assert 0 <= row["training"]["error"] <= 1
    penalised = row["method"].partition(",")[0] in (
        "euclidean",
        "wasserstein",
        "jacobian",
        "trades",
    )
    assert (row["training"]["penalty"] > 0) == penalised
    assert min(row["seconds"].values()) >= 0 and row["seconds"]["training"] > 0


def is_told(row, profile):
    """Not a hole, which only the grid of the full profile may have; nor diverged."""
    assert profile == "full" or "missing" not in row
    return "missing" not in row and "diverged" not in row


@profiles("table1", "tradeoff")
def test_table_follows_from_its_counts(name, profile):
    report = stored(name, profile)
    config, result = report["config"], report["result"]
    searched = any(len(settings) > 1 for settings in config["candidates"].values())
    grid = (
        [(*candidate, config["seeds"][0]) for candidate in candidates(name, profile, config)]
        if searched
        else []
    )
    assert [labels_of(row) for row in result["search"]] == grid
    assert result["grid_complete"] == (not any("missing" in row for row in result["search"]))
    assert result["grid_complete"] or profile == "full"
    assert [labels_of(row) for row in result["rows"]] == final(config, result["chosen"])
    for rows, part, attacked, changes in (
        (result["search"], "validation", PARTS["validation"], config["search"]),
        (result["rows"], "test", config["attacked"], {}),
    ):
        for row in rows:
            if is_told(row, profile):
                assert row["n"] == {"natural": PARTS[part]} | dict.fromkeys(
                    CONDITIONS[1:], attacked
                )
                assert row["wrong"].keys() == row["n"].keys() and row["seconds"].keys() == {
                    "training",
                    *CONDITIONS,
                }
                assert all(0 <= wrong <= row["n"][name] for name, wrong in row["wrong"].items())
                assert_trained(row, config, changes)


@profiles("table1", "tradeoff")
def test_setting_is_chosen_by_its_validation_errors(name, profile):
    """Of each method that of the lowest mean of natural error and error under I-FGSM-20, without the package."""
    report = stored(name, profile)
    search, chosen = report["result"]["search"], report["result"]["chosen"]
    if not report["result"]["grid_complete"]:
        assert chosen == report["config"]["likeliest"]
    elif search:
        best = {}
        for row in search:
            if "diverged" not in row:
                errors = [
                    row["wrong"][condition] / row["n"][condition]
                    for condition in ("natural", "I-FGSM-20 8")
                ]
                best.setdefault(row["method"], []).append((sum(errors), row["setting"]))
        assert chosen == {
            method: min(found, key=lambda each: each[0])[1] for method, found in best.items()
        }
        assert list(chosen) == list(report["config"]["candidates"])
    else:
        assert chosen == {
            method: settings[0] for method, settings in report["config"]["candidates"].items()
        }


@profiles("tradeoff")
def test_penalties_of_the_trade_off_are_those_of_table1(name, profile):
    """It does not choose them anew."""
    chosen = stored("table1", profile)["result"]["chosen"]
    assert {
        method: stored(name, profile)["result"]["chosen"][method] for method in chosen
    } == chosen


def told(name, profile):
    """Rows that are answered, by method and seed; but for those `also` asked they are of the networks of Table 1."""
    report, table1 = stored(name, profile), stored("table1", profile)
    config = report["config"]
    assert {key: config[key] for key in table1["config"]} == table1["config"] | {
        "also": config["also"]
    }
    rows, wanted = report["result"]["rows"], final(config, table1["result"]["chosen"])
    if name == "stress":
        wanted = [labels for labels in wanted if labels[2] == config["seeds"][0]]
    assert [labels_of(row) for row in rows] == wanted
    known = {labels_of(row)[::2]: row for row in table1["result"]["rows"]}
    found = {labels_of(row)[::2]: row for row in rows if is_told(row, profile)}
    for key, row in found.items():
        assert (
            row["seconds"].keys() == {"training", *row["measurements"]}
            and min(row["seconds"].values()) >= 0
        )
        if key[0] not in config["also"]:
            for part in ("epoch", "loss", "penalty", "error"):
                assert row["training"][part] == known[key]["training"][part], (
                    "trained again, they are the same networks"
                )
    return config, found, known


@profiles("table2")
def test_flips_add_up(name, profile):
    config, rows, _ = told(name, profile)
    wanted = pairs_of("horizontal vertical", "zeros edge reflect")
    for row in rows.values():
        assert list(row["measurements"]) == wanted
        for answer in row["measurements"].values():
            assert_flips(answer, config["moved"])


def assert_flips(answer, moved):
    n, reach = moved["images"], moved["reach"]
    assert answer["n"] == n and len(answer["consecutive"]) == len(answer["from_unshifted"]) == reach
    assert answer["consecutive"][0] == answer["from_unshifted"][0], (
        "one pixel away both are the same"
    )
    for counts in (answer["consecutive"], answer["from_unshifted"]):
        assert all(0 <= b - a <= 2 * n for a, b in itertools.pairwise([0, *counts])), (
            "two shifts more of n images"
        )
    for s, (flips, departures) in enumerate(
        zip(answer["consecutive"], answer["from_unshifted"], strict=True), 1
    ):
        assert departures <= s * flips, "a label that departed has changed"


def published(method, profile, monkeypatch):
    monkeypatch.chdir(STORED.parent)
    return experiments.network(method, profile)


def image_of(pixels):
    assert len(pixels) == 2 * 3 * 32 * 32
    return torch.frombuffer(bytearray.fromhex(pixels), dtype=torch.uint8).reshape(3, 32, 32) / 255


@profiles("figure2")
def test_figure2_follows_from_the_published_weights(name, profile, monkeypatch):
    report, table1 = stored(name, profile), stored("table1", profile)
    config, images, rows = report["config"], report["result"]["images"], report["result"]["rows"]
    reach, padding, first = config["shown"]["reach"], config["shown"]["padding"], config["seeds"][0]
    wanted = final(config, table1["result"]["chosen"])
    assert [labels_of(row) for row in rows] == [labels for labels in wanted if labels[2] == first]
    assert len(images) == config["shown"]["images"] and len(
        {image["pixels"] for image in images}
    ) == len(images)
    x = torch.stack([image_of(image["pixels"]) for image in images])
    moved = evaluation.translation_sequence(x, "horizontal", range(-reach, reach + 1), padding)
    for row in rows:
        model = published(row["method"], profile, monkeypatch)
        for k, image in enumerate(images):
            labels, confidences = row["labels"][k], row["confidences"][k]
            assert len(labels) == len(confidences) == 2 * reach + 1 and set(labels) <= set(CLASSES)
            assert all(0.1 <= confidence <= 1 for confidence in confidences)
            assert labels[reach] == image["label"] in CLASSES
            with torch.no_grad():
                probabilities = model(moved[:, k]).softmax(1)
            assert probabilities.amax(1).tolist() == pytest.approx(confidences, abs=0.01)
            assert probabilities[range(len(labels)), labels].tolist() == pytest.approx(
                confidences, abs=0.01
            )


@profiles("table1")
def test_published_weights_are_the_networks_of_the_first_seed(name, profile, monkeypatch):
    config = stored(name, profile)["config"]
    for method in config["candidates"]:
        assert 0 < path_of(name, profile, f"_{method}.pt").stat().st_size < 1.3e6
        model = published(method, profile, monkeypatch)
        kind, parameters = {"cpu": (models.resnet8, 75_290), "full": (models.resnet20, 269_722)}[
            profile
        ]
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters
        assert model.state_dict().keys() == kind().state_dict().keys()
        assert not any(module.training for module in model.modules())
        logits = model(torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
        assert logits.shape == (5, 10) and logits.isfinite().all() and logits.std() > 0
        assert torch.allclose(
            model.normalize.mean.flatten(), torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.01
        )


# ---------------------------------------------------------------- the harder trial


AUTOATTACK = ["natural", "apgd-ce", "apgd-t", "fab-t", "square"]


@profiles("stress")
def test_stress_is_what_it_can_be(name, profile):
    config, rows, known = told(name, profile)
    harder, epsilons = config["harder"], config["harder"]["epsilons"]
    curves = [f"{kind} {epsilon}" for kind in ("FGSM", "PGD-20") for epsilon in epsilons]
    attacked = [
        "natural",
        "PGD-50 linf",
        "PGD-50 l2",
        "transfer",
        "transfer euclidean",
        "transfer wasserstein",
        *curves,
    ]
    for key, row in rows.items():
        measurements = row["measurements"]
        assert measurements.keys() == {
            *attacked,
            "confidence",
            "surface",
            "frames",
            "autoattack",
            "square",
        }
        assert 0.1 <= measurements["confidence"] <= 1
        itself = (
            measurements["PGD-20 8"] if key[0] == "none" else measurements[f"transfer {key[0]}"]
        )
        assert abs(itself["wrong"] - measurements["PGD-20 8"]["wrong"]) <= 0.02 * itself["n"], (
            "but for the starts"
        )
        for name in attacked:
            assert (
                measurements[name]["n"] == harder["attacked"]
                and 0 <= measurements[name]["wrong"] <= harder["attacked"]
            )
        assert_within(measurements["natural"], known[key], "natural")
        assert_within(measurements["FGSM 8"], known[key], "FGSM 8")
        for judged, names in (("autoattack", AUTOATTACK), ("square", ["natural", "square"])):
            wrong, n = measurements[judged]["wrong"], measurements[judged]["n"]
            assert list(wrong) == names and n == harder["autoattack"]
            assert (
                list(wrong.values()) == sorted(wrong.values())
                and 0 <= wrong["natural"] <= wrong["square"] <= n
            )
        assert (
            measurements["autoattack"]["wrong"]["natural"]
            == measurements["square"]["wrong"]["natural"]
        )
        few = measurements["autoattack"]
        assert (
            0
            <= measurements["natural"]["wrong"] - few["wrong"]["natural"]
            <= harder["attacked"] - few["n"]
        ), "the first of them"


def assert_within(answer, row, condition):
    """Counted on some of the images of which Table 1 counts all."""
    assert 0 <= row["wrong"][condition] - answer["wrong"] <= row["n"][condition] - answer["n"]


@profiles("stress")
def test_loss_surfaces_and_frames_follow_from_the_published_weights(name, profile, monkeypatch):
    """At the surface's centre is the image, as in the first frame; no later frame is further from it than its epsilon."""
    config, rows, _ = told(name, profile)
    labels, pictured = stored(name, profile)["result"]["labels"], config["harder"]["pictured"]
    assert len(labels) == pictured and set(labels) <= set(CLASSES)
    for (method, _), row in rows.items():
        model = published(method, profile, monkeypatch)
        surface, shown = row["measurements"]["surface"], row["measurements"]["frames"]
        assert surface["at"] == pytest.approx([-16 + 1.6 * k for k in range(21)], abs=1e-4)
        losses = torch.tensor(surface["loss"])
        assert losses.shape == (pictured, 21, 21) and losses.isfinite().all() and losses.min() >= 0
        assert len(shown) == pictured and all(len(of_image) == 5 for of_image in shown)
        for label, loss, of_image in zip(labels, losses, shown, strict=True):
            x = torch.stack([image_of(frame["pixels"]) for frame in of_image])
            probabilities = torch.tensor([frame["probabilities"] for frame in of_image])
            assert (
                probabilities.shape == (5, 10)
                and torch.allclose(probabilities.sum(1), torch.ones(5), atol=1e-3)
                and probabilities.min() >= 0
            )
            for epsilon, image in zip((0, 2, 4, 8, 16), x, strict=True):
                assert (image - x[0]).abs().max() * 255 <= epsilon + 1e-3
                assert epsilon == 0 or not torch.equal(image, x[0])
            with torch.no_grad():
                found = model(x).softmax(1)
            assert torch.allclose(found[0], probabilities[0], atol=0.01)
            assert torch.allclose(found[1:], probabilities[1:], atol=0.1), (
                "but for the rounding of pixels"
            )
            assert float((-loss[10, 10]).exp()) == pytest.approx(
                float(probabilities[0, label]), abs=1e-3
            )


@profiles("stress")
def test_all_networks_are_shown_the_same_pictures(name, profile):
    _, rows, _ = told(name, profile)
    assert (
        len(
            {
                tuple(of_image[0]["pixels"] for of_image in row["measurements"]["frames"])
                for row in rows.values()
            }
        )
        == 1
    )


def pairs_of(first, second):
    return [f"{a} {b}" for a in first.split() for b in second.split()]


@profiles("variation")
def test_variation_is_what_it_can_be(name, profile):
    config, rows, known = told(name, profile)
    _, flips, _ = told("table2", profile)
    natural = config["natural"]
    for key, row in rows.items():
        measurements = row["measurements"]
        assert list(measurements) == [
            "variations",
            "gradients",
            "paths",
            "horizontal edge",
            "vertical edge",
        ]
        varied = measurements["variations"]
        assert varied["n"] == natural["images"]
        assert list(varied["wrong"]) == ["natural", "translation", "rotation", "elastic", "blur"]
        assert all(0 <= wrong <= varied["n"] for wrong in varied["wrong"].values())
        for axis in ("horizontal", "vertical"):
            assert_flips(measurements[f"{axis} edge"], config["moved"])
        if key[0] not in config["also"]:
            assert (
                0
                <= known[key]["wrong"]["natural"] - varied["wrong"]["natural"]
                <= known[key]["n"]["natural"] - varied["n"]
            )
            for axis in ("horizontal", "vertical"):
                assert measurements[f"{axis} edge"] == flips[key]["measurements"][f"{axis} edge"], (
                    "as Table 2 counts them"
                )
        assert measurements["gradients"].keys() == set(
            pairs_of("loss margin", "euclidean wasserstein")
        )
        for norms in measurements["gradients"].values():
            assert (
                len(norms) == natural["gradients"] and min(norms) >= 0 and 0 < max(norms) < math.inf
            )
        assert measurements["paths"].keys() == set(
            pairs_of("within between", "wasserstein euclidean")
        )
        for lengths in measurements["paths"].values():
            assert (
                len(lengths) == natural["pairs"]
                and 0 <= min(lengths)
                and 0 < max(lengths) <= natural["steps"] + 1e-3
            )
    assert len({json.dumps(row["measurements"]["gradients"]) for row in rows.values()}) == len(
        rows
    ), "each network has its own"

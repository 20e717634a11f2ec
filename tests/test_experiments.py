"""Published numbers are rebuilt from the raw outcomes; the experiments' code is checked on small data."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wdtr_lite import __main__, attacks, data, experiments, robustness, train, transport

STORED = Path(__file__).parent.parent / "results"


def stored(name):
    return json.loads((STORED / f"{name}.json").read_text())


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_stored_result_is_what_the_code_declares(name):
    report = stored(name)
    assert report["config"] == experiments.EXPERIMENTS[name]["full"]
    assert report["profile"] == "full"
    assert_origin_is_told(report)


@pytest.mark.parametrize("path", sorted(STORED.glob("benchmark_*.json")), ids=lambda path: path.stem)
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
    assert len(combinations) == len(result["rows"]) == 3 * len(config["train_sizes"]) * len(config["neighbours"])
    for row in result["rows"]:
        assert len(row["predictions"]) == config["test_size"]
        assert_row_follows(row, [p != label for p, label in zip(row["predictions"], result["labels"], strict=True)])


def test_label_keeping_table_follows_from_its_predictions():
    report = stored("label_keeping")
    config, result = report["config"], report["result"]
    combinations = {(r["classifier"], r["metric"], r["fraction"]) for r in result["rows"]}
    assert len(combinations) == len(result["rows"]) == 2 * 2 * len(config["fractions"])
    assert all(a != b for a, b in zip(result["labels"], result["targets"], strict=True))
    for row in result["rows"]:
        assert len(row["predictions"]) == config["pairs"]
        assert_row_follows(row, [p == label for p, label in zip(row["predictions"], result["labels"], strict=True)])


@pytest.fixture(scope="module")
def blobs():
    """Three classes on 6 x 6 pixels: a lit block in one of three places, of random brightness."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(60) % 3
    images = torch.zeros(60, 6, 6, dtype=torch.uint8)
    for image, label in zip(images, labels, strict=True):
        image[label * 2 : label * 2 + 2, 1:5] = torch.randint(50, 250, (2, 4), generator=generator, dtype=torch.uint8)
    return data.Dataset("blobs", images, labels, "a test", {"train": torch.arange(40), "test": torch.arange(40, 60)})


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
                return np.linalg.norm(x / x.sum() - y / y.sum()) if metric == "euclidean" else np.linalg.norm(x - y)

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
    result = experiments.label_keeping(blobs, classifier_size=40, pairs=12, fractions=[0.0, 5.0], seed=0)
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
    monkeypatch.setattr(data, "load", {"blobs": blobs}.get)
    monkeypatch.setattr("sys.argv", ["wdtr_lite", "experiment", "label_keeping", "--profile", "full"])
    __main__.main()
    assert '"metric": "wasserstein"' in capsys.readouterr().out
    report = experiments.stored("label_keeping")
    assert report["config"] == small
    assert report["provenance"]["command"] == "python -m wdtr_lite experiment label_keeping --profile full"
    assert report["provenance"]["command"] in experiments.describe(report)


def as_row(method, setting, natural, **wrong):
    counts = {"natural": natural, **wrong}
    return {"method": method, "setting": setting, "wrong": counts, "n": {name: 100 for name in counts}}


def test_choose_takes_the_most_robust_of_those_that_stay_accurate():
    search = [
        as_row("none", {}, 10, pgd=90, moved=30),
        as_row("euclidean", {"eta": 1}, 11, pgd=50, moved=20),
        as_row("euclidean", {"eta": 2}, 11, pgd=40, moved=40),
        as_row("euclidean", {"eta": 4}, 12, pgd=10, moved=10),  # too inaccurate
        as_row("pgd", {"epsilon": 1}, 30, pgd=20, moved=20),
        as_row("pgd", {"epsilon": 2}, 20, pgd=30, moved=30),  # all too inaccurate: the least so
    ]
    assert runs.choose(search, ["pgd"]) == {"none": {}, "euclidean": {"eta": 2}, "pgd": {"epsilon": 2}}
    assert runs.choose(search, ["pgd", "moved"])["euclidean"] == {"eta": 1}
    assert runs.choose(search, ["pgd"], allowance=0.02)["euclidean"] == {"eta": 4}


def test_across_seeds_by_hand():
    rows = [{**as_row("none", {}, 10, pgd=k), "chosen_for": "attack", "seed": k} for k in (10, 20, 60)]
    rows.append({**as_row("none", {}, 10, pgd=99), "chosen_for": "variation", "seed": 0})
    found = experiments.across_seeds(rows, "none", "pgd")
    assert found == {"mean": pytest.approx(0.3), "sd": pytest.approx(0.2645751), "n": 3}
    assert experiments.across_seeds(rows, "none", "pgd", "variation") == {"mean": 0.99, "sd": None, "n": 1}


def test_variations_move_turn_and_bend():
    spot = torch.zeros(40, 1, 28, 28)
    spot[:, :, 13, 18] = 1
    before = torch.random.get_rng_state()
    varied = robustness.variations(spot, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, images in varied.items():
        assert images.shape == spot.shape and images.min() >= 0 and images.max() <= 1, name
        assert torch.equal(images, robustness.variations(spot, seed=0)[name])
        assert not torch.equal(images, robustness.variations(spot, seed=1)[name])
    moves = varied["translation"].flatten(1).argmax(1)
    rows, columns = moves // 28 - 13, moves % 28 - 18
    assert set(rows.tolist()) == set(columns.tolist()) == {-2, -1, 0, 1, 2}
    centre = torch.arange(28.0) - 13.5
    image = varied["rotation"][:, 0]
    x, y = ((image * axis).sum((1, 2)) / image.sum((1, 2)) for axis in (centre, centre[:, None]))
    assert torch.allclose((x**2 + y**2).sqrt(), torch.tensor(4.5**2 + 0.5**2).sqrt(), atol=0.5)
    turned = torch.rad2deg(torch.atan2(y, x)).abs()
    assert 15 < turned.max() < 38
    away = varied["elastic"][:, 0] > 0
    assert not away[:, 13, 18].all() and away.flatten(1).sum(1).max() < 30


@pytest.fixture(scope="module")
def split_blobs(blobs):
    parts = {"fit": torch.arange(30), "validation": torch.arange(30, 40)}
    images = blobs.images.repeat_interleave(3, 1).repeat_interleave(3, 2)  # the elastic deformation needs 17 pixels
    return data.Dataset("mnist5k", images, blobs.labels, "a test", {**blobs.split, **parts})


DIGITS = {
    "training": {"model": "small_cnn", "width": 2, "epochs": 2, "batch_size": 10, "milestones": [], "learning_rate": 0.05},
    "search": {"epochs": 1},
    "candidates": {"none": [{}], "euclidean": [{"eta": 0.1}, {"eta": 0.2}]},
    "criteria": {"attack": ["pgd 0.1"], "variation": ["elastic"]},
    "also": {"difference": {"method": "euclidean", "mode": "finite_difference"}},
    "seeds": [0, 1],
    "judged": 8,
}


def test_robust_digits_by_hand(split_blobs):
    result = experiments.robust_digits(split_blobs, **DIGITS)
    assert [(row["method"], row["setting"]) for row in result["search"]] == [
        ("none", {}), ("euclidean", {"eta": 0.1}), ("euclidean", {"eta": 0.2}),
    ]  # fmt: skip
    labels = [(row["chosen_for"], row["method"], row["seed"]) for row in result["rows"]]
    methods = [("attack", "none"), ("attack", "euclidean"), ("attack", "difference"), ("variation", "none"), ("variation", "euclidean")]
    assert sorted(labels) == sorted((*method, seed) for method in methods for seed in (0, 1))
    row = next(row for row in result["rows"] if row["method"] == "difference" and row["seed"] == 1)
    assert row["setting"]["mode"] == "finite_difference"
    config = train.Config(data="mnist5k", **DIGITS["training"], method="euclidean", **row["setting"], seed=1)
    model = train.fit(config, dataset=split_blobs, progress=False).model
    images, labels = split_blobs.part("test")
    assert row["wrong"]["natural"] == int((robustness.predictions(model, images) != labels).sum())
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))[:8]
    drawn, wanted = images[order][:, None] / 255, labels[order]
    bent = robustness.variations(drawn, seed=0)["elastic"]
    assert row["wrong"]["elastic"] == int((robustness.predictions(model, bent) != wanted).sum())
    attacked = attacks.fgsm(model, drawn, wanted, 0.1)
    assert row["wrong"]["fgsm 0.1"] == int((robustness.predictions(model, attacked) != wanted).sum())
    assert row["n"] == {"natural": 20} | dict.fromkeys(["translation", "rotation", "elastic", *experiments.ATTACKS], 8)


def test_robust_digits_in_a_folder_is_the_same_and_done_once(split_blobs, tmp_path):
    options = DIGITS | {"candidates": {"none": [{}]}, "also": {}, "seeds": [0]}

    def outcome(**more):
        rows = experiments.robust_digits(split_blobs, **options, **more)["rows"]
        return [(row["wrong"], row["training"]["loss"]) for row in rows]

    assert outcome(folder=tmp_path) == outcome()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    assert outcome(folder=tmp_path) == outcome()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")} == written != {}


def test_robust_digits_table_follows_from_its_counts():
    report = stored("robust_digits")
    config, result = report["config"], report["result"]
    tried = [(method, setting) for method, settings in config["candidates"].items() for setting in settings]
    assert [(row["method"], row["setting"]) for row in result["search"]] == tried
    first = next(iter(config["criteria"]))
    wanted = []
    for criterion, conditions in config["criteria"].items():
        chosen = runs.choose(result["search"], conditions)
        for name, changes in config["also"].items() if criterion == first else ():
            chosen[name] = chosen[changes["method"]] | {k: v for k, v in changes.items() if k != "method"}
        wanted += [(criterion, name, setting, seed) for name, setting in chosen.items() for seed in config["seeds"]]
    assert [(row["chosen_for"], row["method"], row["setting"], row["seed"]) for row in result["rows"]] == wanted
    for row in result["rows"]:
        assert row["n"]["natural"] == 10_000 and row["n"].keys() == row["wrong"].keys()
        assert {n for name, n in row["n"].items() if name != "natural"} == {config["judged"]}
        assert all(0 <= wrong <= row["n"][name] for name, wrong in row["wrong"].items())

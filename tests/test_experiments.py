"""Published numbers are rebuilt from the raw outcomes; the experiments' code is checked on small data."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wdtr_lite import __main__, data, experiments, transport

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

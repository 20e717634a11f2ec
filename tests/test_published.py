"""Published numbers are rebuilt from the raw outcomes, and fit each other and the weights."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from wdtr_lite import evaluation, models, study
from wdtr_lite.study.statistics import choose
from wdtr_lite.study.table1 import CONDITIONS

STORED = Path(__file__).parent.parent / "results"
MUST = {
    "full": ["nearest_neighbours", "label_keeping", "robust_digits", "blind_direction"],
    "cpu": ["table1", "table2", "figure2", "stress", "variation", "tradeoff"],
}


def path_of(name, profile="full", suffix=".json"):
    return STORED / study.path_of(name, profile, suffix).name


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


@profiles(*study.EXPERIMENTS)
def test_stored_result_is_what_the_code_declares(name, profile):
    report = stored(name, profile)
    experiment = study.declared(name, profile)
    assert report["config"] == experiment.config()
    assert (report["experiment"], report["profile"]) == (name, profile)
    dataset, split = experiment.source
    assert report["data"].startswith(f"{dataset} ({split}): " if split else f"{dataset}: ")
    assert (
        f"python -m wdtr_lite experiment {name} --profile {profile}"
        in report["provenance"]["command"]
    )
    assert_origin_is_told(report)


def test_no_result_is_of_nothing():
    """Each file is an experiment's, a benchmark's or weights of Table 1."""
    declared = {path_of(name, profile) for name, by in study.EXPERIMENTS.items() for profile in by}
    benchmarks = set(STORED.glob("benchmark_*.json"))
    weights = {
        path_of("table1", profile, f"_{method}.pt")
        for profile, experiment in study.EXPERIMENTS["table1"].items()
        for method in experiment.networks.candidates
    }
    assert set(STORED.iterdir()) <= declared | benchmarks | weights


@pytest.mark.parametrize(
    "path", sorted(STORED.glob("benchmark_*.json")), ids=lambda path: path.stem
)
def test_stored_benchmark_is_of_a_script_here(path):
    report = json.loads(path.read_text())
    assert_origin_is_told(report)
    script = path.stem.removeprefix("benchmark_")
    if script == "gpu_prototype":  # whose code is not here, and says so
        assert "not in this repository" in report["provenance"]["command"]
        return
    assert (STORED.parent / "benchmarks" / f"{script}.py").exists()
    assert report["name"] == path.stem
    assert f"python benchmarks/{script}.py --write" in report["provenance"]["command"]


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


def test_robust_digits_table_follows_from_its_counts():
    report = stored("robust_digits")
    config, result = report["config"], report["result"]
    tried = [
        (method, setting)
        for method, settings in config["networks"]["candidates"].items()
        for setting in settings
    ]
    assert [(row["method"], row["setting"]) for row in result["search"]] == tried
    first = next(iter(config["criteria"]))
    wanted = []
    for criterion, conditions in config["criteria"].items():
        chosen = choose(result["search"], conditions)
        for name, changes in config["networks"]["also"].items() if criterion == first else ():
            chosen[name] = chosen[changes["method"]] | {
                k: v for k, v in changes.items() if k != "method"
            }
        wanted += [
            (criterion, name, setting, seed)
            for name, setting in chosen.items()
            for seed in config["networks"]["seeds"]
        ]
    assert [
        (row["chosen_for"], row["method"], row["setting"], row["seed"]) for row in result["rows"]
    ] == wanted
    for row in result["rows"]:
        assert row["n"]["natural"] == 10_000 and row["n"].keys() == row["wrong"].keys()
        assert {n for name, n in row["n"].items() if name != "natural"} == {config["evaluated"]}
        assert all(0 <= wrong <= row["n"][name] for name, wrong in row["wrong"].items())


# ---------------------------------------------------------------- the networks of Table 1


CLASSES = range(10)
PARTS = {"validation": 1000, "test": 5000}  # of the split holdout


def labels_of(row):
    return row["method"], row["setting"], row["seed"]


def candidates(name, profile, config):
    """Those of a method that Table 1 has chosen are one."""
    settled = {} if name == "table1" else stored("table1", profile)["result"]["chosen"]
    settings = config["networks"]["candidates"] | {
        method: [setting] for method, setting in settled.items()
    }
    return [(method, setting) for method, some in settings.items() for setting in some]


def final(config, chosen):
    """What must be trained of a choice, seed by seed."""
    changes = {
        name: {k: v for k, v in also.items() if k != "method"}
        for name, also in config["networks"]["also"].items()
    }
    settings = chosen | {
        name: chosen[also["method"]] | changes[name]
        for name, also in config["networks"]["also"].items()
    }
    return [
        (method, setting, seed)
        for seed in config["networks"]["seeds"]
        for method, setting in settings.items()
    ]


def assert_trained(row, config, profile, changes=()):
    """To the end; those of the full profile may have been asked as far as they were trained."""
    training = {"epochs": 200} | config["networks"]["training"] | dict(changes)
    assert 0 < row["training"]["epoch"] <= training["epochs"]
    assert row["training"]["epoch"] == training["epochs"] or profile == "full"
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
    searched = any(len(settings) > 1 for settings in config["networks"]["candidates"].values())
    grid = (
        [
            (*candidate, config["networks"]["seeds"][0])
            for candidate in candidates(name, profile, config)
        ]
        if searched
        else []
    )
    assert [labels_of(row) for row in result["search"]] == grid
    assert result["grid_complete"] == (not any("missing" in row for row in result["search"]))
    assert result["grid_complete"] or profile == "full"
    assert [labels_of(row) for row in result["rows"]] == final(config, result["chosen"])
    for rows, part, attacked, changes in (
        (result["search"], "validation", PARTS["validation"], config["networks"]["search"]),
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
                assert_trained(row, config, profile, changes)


@profiles("table1", "tradeoff")
def test_setting_is_chosen_by_its_validation_errors(name, profile):
    """Of each method that of the lowest mean of natural error and error under I-FGSM-20, without
    the package.
    """
    report = stored(name, profile)
    search, chosen = report["result"]["search"], report["result"]["chosen"]
    if not report["result"]["grid_complete"]:
        assert chosen == report["config"]["networks"]["initial"]
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
        assert list(chosen) == list(report["config"]["networks"]["candidates"])
    else:
        assert chosen == {
            method: settings[0]
            for method, settings in report["config"]["networks"]["candidates"].items()
        }


@profiles("tradeoff")
def test_penalties_of_the_trade_off_are_those_of_table1(name, profile):
    """It does not choose them anew."""
    chosen = stored("table1", profile)["result"]["chosen"]
    assert {
        method: stored(name, profile)["result"]["chosen"][method] for method in chosen
    } == chosen


def told(name, profile):
    """Rows that are measured, by method and seed; but for those of `also` they are the networks of
    Table 1.
    """
    report, table1 = stored(name, profile), stored("table1", profile)
    config = report["config"]
    networks, declared = config["networks"], table1["config"]["networks"]
    assert networks == declared | {"also": networks["also"]}
    rows, wanted = report["result"]["rows"], final(config, table1["result"]["chosen"])
    if name == "stress":
        wanted = [labels for labels in wanted if labels[2] == config["networks"]["seeds"][0]]
    assert [labels_of(row) for row in rows] == wanted
    known = {labels_of(row)[::2]: row for row in table1["result"]["rows"]}
    found = {labels_of(row)[::2]: row for row in rows if is_told(row, profile)}
    for key, row in found.items():
        assert (
            row["seconds"].keys() == {"training", *row["measurements"]}
            and min(row["seconds"].values()) >= 0
        )
        if key[0] not in config["networks"]["also"]:
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
        for measured in row["measurements"].values():
            assert_flips(measured, config)


def assert_flips(measured, config):
    n, reach = config["moved"], config["reach"]
    assert (
        measured["n"] == n
        and len(measured["consecutive"]) == len(measured["from_unshifted"]) == reach
    )
    assert measured["consecutive"][0] == measured["from_unshifted"][0], (
        "one pixel away both are the same"
    )
    for counts in (measured["consecutive"], measured["from_unshifted"]):
        assert all(0 <= b - a <= 2 * n for a, b in itertools.pairwise([0, *counts])), (
            "two shifts more of n images"
        )
    for s, (flips, departures) in enumerate(
        zip(measured["consecutive"], measured["from_unshifted"], strict=True), 1
    ):
        assert departures <= s * flips, "a label that departed has changed"


def published(method, profile, monkeypatch):
    monkeypatch.chdir(STORED.parent)
    return study.network(method, profile)


def image_of(pixels):
    assert len(pixels) == 2 * 3 * 32 * 32
    return torch.frombuffer(bytearray.fromhex(pixels), dtype=torch.uint8).reshape(3, 32, 32) / 255


@profiles("figure2")
def test_figure2_follows_from_the_published_weights(name, profile, monkeypatch):
    report, table1 = stored(name, profile), stored("table1", profile)
    config, images, rows = report["config"], report["result"]["images"], report["result"]["rows"]
    reach, padding, first = config["reach"], config["padding"], config["networks"]["seeds"][0]
    wanted = final(config, table1["result"]["chosen"])
    assert [labels_of(row) for row in rows] == [labels for labels in wanted if labels[2] == first]
    assert len(images) == config["images"] and len({image["pixels"] for image in images}) == len(
        images
    )
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


@profiles("photographs")
def test_photographs_follow_from_the_published_weights(name, profile, monkeypatch):
    """Moved horizontally alone, where a network is sure."""
    report = stored(name, profile)
    images, rows = report["result"]["images"], report["result"]["rows"]
    side = 2 * report["config"]["reach"] + 1
    shifts = range(-(side // 2), side // 2 + 1)
    x = torch.stack([image_of(image["pixels"]) for image in images])
    assert [row["method"] for row in rows] == ["none", "euclidean", "wasserstein"]
    for row in rows:
        model = published(row["method"], profile, monkeypatch)
        for padding, answers in row["measurements"].items():
            moved = evaluation.translation_sequence(x, "horizontal", shifts, padding)
            labels = torch.tensor(answers).reshape(len(images), side, side)[:, side // 2]
            with torch.no_grad():
                logits = torch.stack([model(each) for each in moved], 1)
            best, next_best = logits.topk(2).values.unbind(2)
            sure = best - next_best > 0.01
            assert sure.float().mean() > 0.9
            assert torch.equal(logits.argmax(2)[sure], labels[sure])


@profiles("table1")
def test_published_weights_are_the_networks_of_the_first_seed(name, profile, monkeypatch):
    config = stored(name, profile)["config"]
    for method in config["networks"]["candidates"]:
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


# ---------------------------------------------------------------- under attacks


AUTOATTACK = ["natural", "apgd-ce", "apgd-t", "fab-t", "square"]


@profiles("stress")
def test_stress_is_what_it_can_be(name, profile):
    config, rows, known = told(name, profile)
    curves = pairs_of("FGSM PGD-20", " ".join(map(str, config["epsilons"])))
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
                measurements[name]["n"] == config["attacked"]
                and 0 <= measurements[name]["wrong"] <= config["attacked"]
            )
        assert_within(measurements["natural"], known[key], "natural")
        assert_within(measurements["FGSM 8"], known[key], "FGSM 8")
        images = config["autoattack"]
        for under, names, asked in (
            ("autoattack", AUTOATTACK, images),
            ("square", ["natural", "square"], min(images, 250)),
        ):
            wrong, n = measurements[under]["wrong"], measurements[under]["n"]
            assert list(wrong) == names and n == asked
            assert (
                list(wrong.values()) == sorted(wrong.values())
                and 0 <= wrong["natural"] <= wrong["square"] <= n
            )
        every = {"wrong": {"natural": measurements["natural"]["wrong"]}, "n": config["attacked"]}
        samples = [every, measurements["autoattack"], measurements["square"]]
        for more, few in itertools.pairwise(samples):
            others = more["wrong"]["natural"] - few["wrong"]["natural"]
            assert 0 <= others <= more["n"] - few["n"], "the first of them"


def assert_within(measured, row, condition):
    """Counted on some of the images of which Table 1 counts all."""
    assert 0 <= row["wrong"][condition] - measured["wrong"] <= row["n"][condition] - measured["n"]


@profiles("stress")
def test_loss_surfaces_and_frames_follow_from_the_published_weights(name, profile, monkeypatch):
    """At the surface's centre is the image, as in the first frame; no later frame is further from
    it than its epsilon.
    """
    config, rows, _ = told(name, profile)
    labels, pictured = stored(name, profile)["result"]["labels"], config["pictured"]
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
        assert varied["n"] == config["images"]
        assert list(varied["wrong"]) == ["natural", "translation", "rotation", "elastic", "blur"]
        assert all(0 <= wrong <= varied["n"] for wrong in varied["wrong"].values())
        for axis in ("horizontal", "vertical"):
            assert_flips(measurements[f"{axis} edge"], config)
        if key[0] not in config["networks"]["also"]:
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
                len(norms) == config["gradients"] and min(norms) >= 0 and 0 < max(norms) < math.inf
            )
        assert measurements["paths"].keys() == set(
            pairs_of("within between", "wasserstein euclidean")
        )
        for lengths in measurements["paths"].values():
            assert (
                len(lengths) == config["pairs"]
                and 0 <= min(lengths)
                and 0 < max(lengths) <= config["steps"] + 1e-3
            )
    assert len({json.dumps(row["measurements"]["gradients"]) for row in rows.values()}) == len(
        rows
    ), "each network has its own"

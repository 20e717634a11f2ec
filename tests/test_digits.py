"""The experiments on digits, each on small data."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_study import in_this_process

from wdtr_lite import data, evaluation, training, transport
from wdtr_lite.study import grid
from wdtr_lite.study.label_keeping import LabelKeeping
from wdtr_lite.study.nearest_neighbours import NearestNeighbours
from wdtr_lite.study.questions import ATTACKS
from wdtr_lite.study.robust_digits import NAMES, RobustDigits
from wdtr_lite.study.spec import Networks
from wdtr_lite.study.store import Store

VARIED = ["translation", "rotation", "elastic"]


@pytest.fixture(scope="module", autouse=True)
def on_a_cpu():
    """Networks are trained in this process, in turn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "executor", in_this_process)
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


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


@pytest.fixture
def measured(blobs, monkeypatch):
    """What an experiment finds on the blobs."""
    monkeypatch.setattr(grid, "dataset_of", lambda name, split: {"blobs": blobs}[name])

    def run(kind, store=Store(), **options):  # noqa: B008
        return kind(dataset="blobs", **options).run(store)

    return run


NEAREST = {"train_sizes": [5], "test_size": 20, "neighbours": [1], "seed": 0}
KEEPING = {"classifier_size": 40, "pairs": 12, "fractions": [0.0, 5.0], "seed": 0}


def test_nearest_neighbours_by_hand(blobs, measured):
    options = {"train_sizes": [5, 20], "test_size": 10, "neighbours": [1, 3], "seed": 3}
    result = measured(NearestNeighbours, **options)
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


def test_a_stopped_run_goes_on_where_it_was(measured, tmp_path, monkeypatch, capsys):
    whole, store = measured(NearestNeighbours, **NEAREST), Store(tmp_path / "networks")
    assert measured(NearestNeighbours, store, **NEAREST) == whole
    assert "distances of 20 of 20" in capsys.readouterr().out
    monkeypatch.setattr(transport, "pairwise_distances", None)  # a resumed run must not need it
    assert measured(NearestNeighbours, store, **NEAREST) == whole


@pytest.mark.parametrize("where", [0.3, 0.5, 0.8])
def test_distances_that_are_damaged_are_not_taken(where, measured, tmp_path):
    """One flipped bit."""
    whole, store = measured(NearestNeighbours, **NEAREST), Store(tmp_path / "networks")
    measured(NearestNeighbours, store, **NEAREST)
    (file,) = tmp_path.glob("nearest_neighbours-*/0.npz")
    content = bytearray(file.read_bytes())
    content[int(where * len(content))] ^= 4
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{file} is damaged: delete it, and run"):
        measured(NearestNeighbours, store, **NEAREST)
    file.unlink()
    assert measured(NearestNeighbours, store, **NEAREST) == whole


def test_distances_are_those_of_these_images(blobs, measured, tmp_path, monkeypatch):
    """Not of others that were registered under the same name."""
    store = Store(tmp_path / "networks")
    before = measured(NearestNeighbours, store, **NEAREST)
    others = replace(blobs, images=blobs.images.roll(7, 0), labels=blobs.labels.roll(7, 0))
    monkeypatch.setattr(grid, "dataset_of", lambda *_: others)
    found = NearestNeighbours(dataset="blobs", **NEAREST).run(store)
    assert found == NearestNeighbours(dataset="blobs", **NEAREST).run(Store()) != before


def test_label_keeping_keeps_at_zero_and_loses_at_the_target(measured):
    result = measured(LabelKeeping, **KEEPING)
    for row in result["rows"]:
        expected = result["labels"] if row["fraction"] == 0 else result["targets"]
        assert row["predictions"] == expected
        assert row["reached"] == (row["fraction"] > 0)
        assert row["mean"] == 1 - row["reached"]


def test_errors_say_what_is_wrong(measured):
    with pytest.raises(ValueError, match="41 images asked for"):
        measured(LabelKeeping, **KEEPING | {"classifier_size": 41})
    with pytest.raises(ValueError, match="pairs=21"):
        measured(LabelKeeping, **KEEPING | {"pairs": 21})
    for kind, options in ((LabelKeeping, KEEPING), (NearestNeighbours, NEAREST)):
        with pytest.raises(ValueError, match="^seed must be at most 4294967295, got 4294967296$"):
            measured(kind, **options | {"seed": 2**32})


def test_label_keeping_says_what_it_needs(measured, monkeypatch):
    monkeypatch.setattr("wdtr_lite.study.label_keeping.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="label_keeping needs scikit-learn"):
        measured(LabelKeeping, **KEEPING)


# ---------------------------------------------------------------- networks

SHARED = {
    "model": "small_cnn", "width": 2, "images": 64, "epochs": 2, "batch_size": 32,
    "milestones": [], "learning_rate": 0.05,
}  # fmt: skip
NETWORKS = Networks(
    dataset="mnist5k",
    training=SHARED,
    search={"epochs": 1, "part": "fit"},
    candidates={"none": [{}], "euclidean": [{"eta": 0.1}, {"eta": 0.2}]},
    also={"difference": {"method": "euclidean", "mode": "finite_difference"}},
    seeds=(0, 1),
)
DIGITS = RobustDigits(
    networks=NETWORKS,
    criteria={"attack": ["pgd 0.1"], "variation": ["elastic"]},
    evaluated=8,
)


@pytest.fixture(scope="module")
def digits_result():
    return DIGITS.run(Store())


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
    """A network of the search, from the part fit, and one of the choice, from all of train."""
    digits = grid.dataset_of("mnist5k")
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
        data="mnist5k", **SHARED | {"method": "euclidean"} | row["setting"] | changes
    )
    run = training.fit(config, dataset=digits, device="cpu", progress=False)
    images, labels = digits.part(part)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:8]
    drawn, wanted = images[order][:, None] / 255, labels[order]
    varied = evaluation.variations(drawn, seed=0)
    names = NAMES if part == "test" else ["pgd 0.1"]
    cases = {name: varied[name] for name in VARIED}
    cases |= {name: ATTACKS[name](run.model, drawn, wanted) for name in names}
    wrong = {name: evaluation.predictions(run.model, x) != wanted for name, x in cases.items()}
    wrong["natural"] = evaluation.predictions(run.model, images) != labels
    assert row["wrong"] == {name: int(each.sum()) for name, each in wrong.items()}
    assert row["n"] == {"natural": len(labels)} | dict.fromkeys([*VARIED, *names], 8)
    told = {name: row["training"][name] for name in ("epoch", "loss", "penalty", "error")}
    assert told.items() <= run.history[-1].items()


def test_the_choice_is_planned_once_it_is_made(tmp_path):
    store = Store(tmp_path)
    assert DIGITS.planned(store) == NETWORKS.grid()
    rows = [*DIGITS.run(store)["rows"], *NETWORKS.grid()]
    assert len(DIGITS.planned(store)) == len(rows)


def test_robust_digits_in_a_folder_is_the_same_and_done_once(tmp_path):
    study = replace(DIGITS, networks=replace(NETWORKS, candidates={"none": [{}]}, also={}))

    def found(**how):
        rows = study.run(Store(**how))["rows"]
        return [(row["wrong"], row["training"]["loss"]) for row in rows]

    def stamps():
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}

    assert found(root=tmp_path) == found()
    written = stamps()
    assert found(root=tmp_path) == found(root=tmp_path, finished=True) == found()
    assert stamps() == written != {}


def test_robust_digits_shows_its_holes(tmp_path):
    """Finished only, where nothing is; and where a network diverged."""
    found = DIGITS.run(Store(tmp_path, finished=True))
    assert [row["missing"] for row in found["search"]] == [True] * 3 and found["rows"] == []
    candidates = {"none": [{}], "euclidean": [{"eta": 1e30}]}
    wild = replace(NETWORKS, candidates=candidates, also={}, seeds=(0,))
    result = replace(DIGITS, networks=wild).run(Store())
    assert "diverged" in result["search"][1]
    assert [row["method"] for row in result["rows"] if "wrong" in row] == ["none", "none"]

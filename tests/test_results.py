"""Experiments run as declared, and the files they write."""

import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import pytest
import torch
from small_study import few_digits, in_this_process

from wdtr_lite import data, evaluation, study, training
from wdtr_lite.__main__ import main
from wdtr_lite.book import results as book_results
from wdtr_lite.study import files, grid, results, spec, store, table1
from wdtr_lite.study.label_keeping import LabelKeeping
from wdtr_lite.study.spec import Experiment, Networks, Trained
from wdtr_lite.study.table1 import Table1

HOME = Path(__file__).parent.parent
OF_TABLE1 = {"experiment": "table1", "profile": "cpu"}
FOLLOWERS = ["table2", "figure2", "photographs", "units", "stress", "variation", "tradeoff"]


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A folder without results."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grid, "executor", in_this_process)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    grid.in_memory.cache_clear()
    yield tmp_path
    grid.in_memory.cache_clear()


# ---------------------------------------------------------------- declared, decided


def test_the_experiments_of_the_book():
    """In its order, those that follow Table 1 after it."""
    trained = ["robust_digits", "table1", *FOLLOWERS]
    names = ["nearest_neighbours", "label_keeping", *trained]
    assert list(study.EXPERIMENTS)[: len(names)] == names
    for name in names:
        trains = name in trained
        for experiment in study.EXPERIMENTS[name].values():
            assert experiment.trains == trains
            assert experiment.follows == ("table1" if name in FOLLOWERS else None)


def test_the_trade_off_takes_every_method():
    """As registered, but for the slowest; the profiles that are published, those that were
    declared.
    """
    quick, cpu = (study.declared("tradeoff", each).networks for each in ("quick", "cpu"))
    assert set(training.METHODS) - set(quick.candidates) == {"laplace_beltrami"}
    assert [job.config.method for job in quick.grid()] == [
        method for method, settings in quick.candidates.items() for _ in settings
    ]
    assert list(cpu.candidates) == [
        "none", "euclidean", "wasserstein", "gaussian_noise", "jacobian", "fgsm", "pgd", "trades",
    ]  # fmt: skip


def test_a_file_is_an_experiment(tmp_path):
    """Put into the folder it is found, after those of the book."""
    subprocess.run(["cp", "-r", HOME / "wdtr_lite", tmp_path], check=True)
    mine = """
        from dataclasses import dataclass

        from wdtr_lite.study.spec import Experiment, register


        @dataclass(frozen=True, kw_only=True)
        class Mine(Experiment):
            n: int

            @property
            def source(self):
                return "mnist5k", None

            def run(self, store):
                return {"rows": [{"k": k} for k in range(self.n)]}


        register("mine", quick=Mine(n=2))
    """
    (tmp_path / "wdtr_lite/study/mine.py").write_text(textwrap.dedent(mine))
    code = "from wdtr_lite import study; print('mine' in study.EXPERIMENTS, study.run('mine'))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    start = "True {'experiment': 'mine', 'profile': 'quick', 'config': {'n': 2}, "
    assert run.stdout.startswith(start)
    assert "'result': {'rows': [{'k': 0}, {'k': 1}]}" in run.stdout


def test_table1_decides_for_the_others(workshop):
    """Where it was run as declared and to the end, its settings are their only candidates; else
    they are as declared.
    """

    names = [name for name in ["table1", *FOLLOWERS] if "cpu" in study.EXPERIMENTS[name]]

    def decided():
        return {name: results.decided(name, "cpu") for name in names}

    def write(config, complete):
        result = {"chosen": chosen, "grid_complete": complete, "rows": []}
        report = OF_TABLE1 | {"config": config, "data": "", "result": result, "provenance": {}}
        store.write(study.path_of("table1", "cpu"), report)

    as_declared = {name: study.declared(name, "cpu") for name in names}
    assert decided() == as_declared
    (workshop / "results").mkdir()
    chosen = {"none": {}, "euclidean": {"eta": 9.0}, "wasserstein": {"eta": 8.0, "radius": 1}}
    config = as_declared["table1"].config()
    for changed in ((config | {"attacked": 7}, True), (config, False)):
        write(*changed)
        assert decided() == as_declared
    write(config, True)
    settled = {method: [setting] for method, setting in chosen.items()}
    for name, experiment in decided().items():
        before = as_declared[name].networks
        after = before.candidates | (settled if name in FOLLOWERS else {})
        assert experiment == replace(as_declared[name], networks=replace(before, candidates=after))
    assert results.decided("stress", "quick") == study.declared("stress", "quick")
    assert results.decided("robust_digits", "full") == study.declared("robust_digits", "full")


def test_errors_say_what_is_wrong(workshop):
    with pytest.raises(ValueError, match="name must be one of .*'nothing'"):
        study.run("nothing")
    with pytest.raises(ValueError, match="profile must be one of .*'slow'"):
        study.run("label_keeping", "slow")
    with pytest.raises(ValueError, match="label_keeping has no networks that could be finished"):
        study.run("label_keeping", "full", finished=True)
    with pytest.raises(ValueError, match="quick stores nothing"):
        study.run("table1", finished=True)
    with pytest.raises(
        FileNotFoundError,
        match="label_keeping.json, of name='label_keeping', was not run: make results",
    ):
        study.stored("label_keeping")
    assert study.found("label_keeping") is None
    for name in ("x" * 5000, "../pyproject", "a\0b"):
        for read in (study.stored, study.found, study.path_of):
            with pytest.raises(ValueError, match="name must be up to 100 letters, digits, _ and -"):
                read(name)


NAN = float("nan")
TOLD = ("device", "date", "commit", "command")
ORIGIN = {"versions": {}, "wall_seconds": 1, **dict.fromkeys(TOLD, "")}


def described(origin, **result):
    return lambda: study.describe({"provenance": origin, "result": result})


def minutes(**report):
    return lambda: study.network_minutes(report)


def took(seconds):
    return minutes(result={"rows": [{"method": "none", "seed": 0, "seconds": seconds}]})


REFUSED = {
    "declared": [
        (lambda: study.declared([], "cpu"), ValueError, r"name must be one of .*, got \[\]"),
        (lambda: study.declared("table1", 3), ValueError, "profile must be one of .*, got 3"),
    ],
    "run": [
        (lambda: study.run("table1", "cpu", cluster=3), TypeError, "cluster must be str, got 3"),
        (lambda: study.run("table1", "cpu", finished=1), TypeError, "finished must be .* int 1"),
        (
            lambda: study.run("table1", cluster=torch.ones(3)), TypeError,
            "cluster must be str, got tensor",
        ),
    ],
    "progress": [
        (lambda: study.progress("none", "cpu"), ValueError, "name must be one of .*'none'"),
        (lambda: study.progress("table1", "slow"), ValueError, "profile must be one of .*'slow'"),
    ],
    "network": [
        (lambda: study.network("pgd"), ValueError, "method must be one of 'none', .*, got 'pgd'"),
        (lambda: study.network("none", "quick"), ValueError, "profile must be one of .* 'quick'"),
    ],
    "path_of": [
        (lambda: study.path_of(3), TypeError, "name must be str, got 3"),
        (lambda: study.stored("table1", None), ValueError, "profile must be one of .*, got None"),
        (lambda: study.found(b"table1"), TypeError, "name must be str, got b'table1'"),
    ],
    "reports": [
        (lambda: study.describe(3), TypeError, "report must be dict, got 3"),
        (lambda: study.describe({"a": 1}), ValueError, "report must have 'provenance', got .'a'."),
        (lambda: study.network_minutes([]), TypeError, r"report must be dict, got \[\]"),
        (described(3), TypeError, r"report\['provenance'\] must be dict, got 3"),
        (described({}), ValueError, r"report\['provenance'\] must have 'device', got \[\]"),
        (described(ORIGIN | {"date": 3}), TypeError, r"report.*\['date'\] must be str, got 3"),
        (described(ORIGIN | {"versions": []}), TypeError, r"report.*\] must be dict, got \[\]"),
        (described(ORIGIN | {"wall_seconds": "x"}), TypeError, r"report.*\] must .* str 'x'"),
        (described(ORIGIN, rows=[3]), TypeError, r"report.*\['rows'\]\[0\] must be dict, got 3"),
        (minutes(result=3), TypeError, r"report\['result'\] must be dict, got 3"),
        (minutes(result={"rows": 3}), TypeError, r"report.*\['rows'\] must be list .*, got 3"),
        (minutes(result={"search": [3]}), TypeError, r"report.*\['search'\]\[0\] must .* got 3"),
        (took(3), TypeError, r"report.*\[0\]\['seconds'\] must be dict, got 3"),
        (took({}), ValueError, r"report.*\['seconds'\] must have 'training', got \[\]"),
        (took({"training": NAN}), ValueError, r"report.*\['training'\] must .*, got nan"),
        (took({"training": 1, "a": "x"}), TypeError, r"report.*\['a'\] must .* str 'x'"),
        (minutes(result={"rows": [{"seconds": {}}]}), ValueError, r"report.* must have 'method'.*"),
        (lambda: study.provenance(3, 1.0), TypeError, "command must be str, got 3"),
        (lambda: study.provenance("do", -1.0), ValueError, "seconds must be .*, got -1"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("call, error, says", [case for some in REFUSED.values() for case in some])
def test_bad_arguments(call, error, says):
    with pytest.raises(error, match=f"^{says}"):
        call()


def networks(**changes):
    return lambda: Networks(**{"dataset": "mnist5k", "candidates": {"none": [{}]}} | changes)


@pytest.mark.parametrize(
    "call, error, says",
    [
        (networks(dataset=3), TypeError, "dataset must be str, got 3"),
        (networks(split=3), TypeError, "split must be str or None, got 3"),
        (networks(seeds=()), ValueError, r"seeds must not be empty, got \(\)"),
        (networks(seeds=3), TypeError, "seeds must be list or tuple, got 3"),
        (networks(seeds=(-1,)), ValueError, "seeds must be at least 0, got -1"),
        (networks(seeds=(0, 1, 0)), ValueError, "seeds must differ, got 0 again"),
        (networks(training=3), TypeError, "training must be dict, got 3"),
        (networks(training={"epoch": 3}), ValueError, "a field in training must .*, got 'epoch'"),
        (networks(search={"seed": 4}), ValueError, "a field in search must .*, got 'seed'"),
        (networks(training={"data": "x"}), ValueError, "a field in training must .*, got 'data'"),
        (networks(search={"split": "x"}), ValueError, "a field in search must .*, got 'split'"),
        (
            networks(candidates={"none": [{"method": "pgd"}, {}]}),
            ValueError,
            r"candidates\['none'\] must be of one method, got 'pgd' and 'none'",
        ),
        (networks(search={"epochs": 0}), ValueError, "epochs must be at least 1, got 0"),
        (networks(candidates={}), ValueError, "candidates must not be empty, got {}"),
        (
            networks(candidates={"none": []}),
            ValueError,
            r"candidates\['none'\] must not be empty.*",
        ),
        (networks(candidates={"none": {}}), TypeError, r"candidates\['none'\] must be list .*"),
        (networks(candidates={"no": [{}]}), ValueError, "method must be one of .*, got 'no'"),
        (networks(initial={"none": {"eta": 1}}), ValueError, "method='none' needs no eta, got .*"),
        (networks(initial={"pgd": {}}), ValueError, "a method in initial must .*, got 'pgd'"),
        (networks(initial=3), TypeError, "initial must be dict, got 3"),
        (networks(also={"more": {"eta": 1}}), ValueError, r"also\['more'\] must have 'method', .*"),
        (networks(also={"more": 3}), TypeError, r"also\['more'\] must be dict, got 3"),
        (networks(also={3: {"method": "none"}}), TypeError, "a name in also must be str, got 3"),
        (
            networks(also={"more": {"method": "pgd"}}),
            ValueError,
            r"also\['more'\]\['method'\] must be one of 'none', got 'pgd'",
        ),
        (
            networks(also={"more": {"method": "none", "seed": 3}}),
            ValueError,
            r"a field in also\['more'\] must .*, got 'seed'",
        ),
        (
            networks(also={"none": {"method": "none"}}),
            ValueError,
            "the names in candidates and also must differ, got 'none' again",
        ),
    ],
)
def test_networks_that_cannot_be(call, error, says):
    with pytest.raises(error, match=f"^{says}$"):
        call()


@dataclass(frozen=True, kw_only=True)
class Tried(Trained):
    def run(self, store):
        return {"rows": []}


def test_the_networks_of_a_new_experiment_are_listed(workshop, monkeypatch):
    """Its candidates, and the first of them in place of a choice."""
    grid = {"none": [{}], "euclidean": [{"eta": 0.1}, {"eta": 0.2}]}
    tried = Tried(networks=networks(candidates=grid, seeds=(0, 1))())
    found = [(job.config.method, job.config.eta, job.config.seed) for job in tried.planned(None)]
    first = [("none", 0.0, 0), ("euclidean", 0.1, 0)]
    assert found == [*first, ("euclidean", 0.2, 0), *first, ("none", 0.0, 1), ("euclidean", 0.1, 1)]
    plain = replace(tried, networks=networks()())
    assert len(plain.planned(None)) == 1


def test_a_name_is_registered_once(monkeypatch):
    monkeypatch.setattr(spec, "EXPERIMENTS", {})
    tried, other = Tried(networks=networks()()), Tried(networks=networks(seeds=(1,))())
    spec.register("tried", quick=tried)
    spec.register("tried", quick=tried)
    spec.register("tried", cpu=other)  # of the same file
    assert spec.EXPERIMENTS == {"tried": {"cpu": other}}
    with pytest.raises(
        ValueError, match="name must be new, got 'tried', an experiment of test_res"
    ):
        spec.register("tried", cpu=study.declared("table1", "cpu"))
    for name, profiles, error, says in (
        (3, {"cpu": tried}, TypeError, "name must be str, got 3"),
        ("a/b", {"cpu": tried}, ValueError, "name must be up to 100 letters, .* got 'a/b'"),
        ("more", {}, ValueError, "profiles must not be empty"),
        ("more", {"fast": tried}, ValueError, "a profile must be one of .*, got 'fast'"),
        ("more", {"cpu": 3}, TypeError, "cpu must be Experiment, got 3"),
    ):
        with pytest.raises(error, match=says):
            spec.register(name, **profiles)
    assert list(spec.EXPERIMENTS) == ["tried"]


# ---------------------------------------------------------------- files that nobody wrote so


OURS = json.dumps({"provenance": {}, **OF_TABLE1})[1:-1]


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "is damaged"),
        ('{"provenance": {}', "is damaged"),
        ("3", "is damaged"),
        ("{}", "lacks 'provenance'"),
        ('{"provenance": 3}', "holds 3 in place of a dict"),
        ('{"provenance": {}}', "lacks 'experiment'"),
        ('{"provenance": {}, "experiment": 3}', "holds 3 in place of a str"),
        ('{"provenance": {}, "experiment": "table1"}', "lacks 'profile'"),
        (f"{{{OURS}}}", "lacks 'config'"),
        (f'{{{OURS}, "config": {{}}, "result": {{}}}}', "lacks 'rows'"),
        (f'{{{OURS}, "config": {{}}, "result": {{"rows": 1}}}}', "holds 1 in place of a list"),
        (f'{{{OURS}, "config": {{}}, "result": {{"rows": [1]}}}}', "holds 1 in place of a dict"),
        (f'{{{OURS}, "config": {{}}, "result": {{"rows": []}}, "checksum": 1}}', "is damaged"),
        (f'{{{OURS}, "config": {{}}, "result": {{"rows": [{{"x": NaN}}]}}}}', "is damaged"),
        ("[" * 100_000, "is damaged"),
        ("\x80", "is damaged"),
    ],
    ids=range(16),
)
def test_a_result_that_nobody_wrote(text, says, workshop):
    """Whoever reads it names the file, and what to do."""
    (workshop / "results").mkdir()
    path = study.path_of("table1", "cpu")
    path.write_bytes(text.encode("latin-1"))
    if text.startswith("{") and says != "is damaged":
        store.write(path, json.loads(text))
    readers = [
        lambda: study.stored("table1", "cpu"),
        lambda: study.found("table1", "cpu"),
        lambda: study.network("none"),
        lambda: results.decided("table2", "cpu"),
        lambda: study.run("table2", "cpu"),
        book_results.load,
    ]
    for read in readers:
        with pytest.raises(ValueError, match=f"^{path} {says}: delete it, and run"):
            read()


def test_a_result_that_lacks_what_is_asked_of_it(workshop):
    (workshop / "results").mkdir()
    config = study.declared("table1", "cpu").config()
    result = {"rows": [{"method": "none"}]}
    told = {**OF_TABLE1, "provenance": {}, "config": config, "result": result}
    path = study.path_of("table1", "cpu")
    store.write(path, told)
    with pytest.raises(ValueError, match=f"^{path} lacks 'grid_complete': delete it"):
        results.decided("table2", "cpu")
    with pytest.raises(ValueError, match=f"^{path} lacks 'date': delete it"):
        book_results.experiments_table(book_results.load())
    told["result"] |= {"grid_complete": True, "chosen": 3}
    store.write(path, told)
    with pytest.raises(ValueError, match=f"^{path} holds 3 in place of a dict: delete it"):
        results.decided("table2", "cpu")


PUBLISHED = HOME / "results"


@pytest.mark.parametrize(
    "one, other, says",
    [
        ("table2_cpu", "table1_cpu", "holds 'table2_cpu'"),
        ("table1_cpu", "table1", "holds 'table1_cpu'"),
        ("label_keeping", "label_keeping_cpu", "holds 'label_keeping'"),
        ("benchmark_metric", "benchmark_training", "holds 'benchmark_metric'"),
        ("table1_cpu", "benchmark_training", "lacks 'name'"),
        ("benchmark_training", "table1_cpu", "lacks 'experiment'"),
    ],
)
def test_a_result_under_the_name_of_another(one, other, says, workshop):
    (workshop / "results").mkdir()
    shutil.copy(PUBLISHED / f"{one}.json", f"results/{other}.json")
    name, profile = other.removesuffix("_cpu"), "cpu" if other.endswith("_cpu") else "full"
    with pytest.raises(ValueError, match=f"^results/{other}.json {says}: delete it, and run"):
        study.stored(name, profile)


def test_published_results_hold_their_checksums(workshop):
    """Whatever else is changed in them is noticed."""
    (workshop / "results").mkdir()
    paths = [path for path in PUBLISHED.glob("*.json") if "benchmark" not in path.stem]
    assert len(paths) >= 9
    for path in paths:
        report = json.loads(path.read_text())
        report["result"]["rows"][-1]["more"] = 1
        here = Path("results", path.name)
        here.write_text(json.dumps(report))
        with pytest.raises(ValueError, match=f"^{here} is damaged: delete it"):
            files.report_in(here)
        here.unlink()


def test_a_flipped_bit_changes_no_number(workshop):
    (workshop / "results").mkdir()
    path = study.path_of("table1", "cpu")
    whole = (PUBLISHED / path.name).read_bytes()
    right = json.loads(whole)
    del right["checksum"]
    for seed in range(60):
        path.write_bytes(flipped(whole, seed))
        try:
            assert study.stored("table1", "cpu") == right, seed
        except ValueError as error:
            assert re.match(f"{path} .*: delete it", str(error))


def flipped(content, seed):
    """With another bit somewhere."""
    place = random.Random(seed).randrange(8 * len(content))
    changed = bytearray(content)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def test_weights_that_nobody_wrote(workshop):
    """Also those of another network of the table."""
    (workshop / "results").mkdir()
    shutil.copy(PUBLISHED / "table1_cpu.json", "results")
    path = study.path_of("table1", "cpu", "_none.pt")
    whole, other = (
        (PUBLISHED / f"table1_cpu_{name}.pt").read_bytes() for name in ("none", "euclidean")
    )
    wrongs = [b"", whole[: len(whole) // 2], b"not weights", other]
    for wrong in [*wrongs, *(flipped(whole, seed) for seed in range(60))]:
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=f"^{path} is damaged or another network's: delete it"):
            study.network("none")
    path.write_bytes(whole)
    assert not study.network("none").training
    path.unlink()
    with pytest.raises(FileNotFoundError, match="table1_cpu_none.pt"):
        study.network("none")


# ---------------------------------------------------------------- run

SMALL = Table1(
    networks=Networks(
        dataset="mnist5k_color",
        training={
            "model": "small_cnn", "width": 2, "images": 64, "batch_size": 32, "epochs": 1,
            "milestones": [],
        },
        candidates={"none": [{}], "euclidean": [{"eta": 0.1}]},
        also={"more": {"method": "euclidean", "eta": 0.2}},
        seeds=(0, 1),
    ),
    attacked=5,
)  # fmt: skip


def test_a_result_is_written_with_its_weights(workshop, monkeypatch):
    """Of the first seed and the methods that were chosen; they are the networks of the rows."""
    monkeypatch.setitem(study.EXPERIMENTS, "table1", {"cpu": SMALL})
    digits = few_digits()
    monkeypatch.setattr(grid, "dataset_of", lambda name, split: digits)
    report = study.run("table1", "cpu")
    assert json.loads(json.dumps(report)) == study.stored("table1", "cpu")
    assert report["config"] == SMALL.config() and report["profile"] == "cpu"
    assert report["experiment"] == "table1"
    assert report["data"] == repr(digits)
    assert report["weights"] == {
        method: hashlib.sha256(
            study.path_of("table1", "cpu", f"_{method}.pt").read_bytes()
        ).hexdigest()
        for method in ("none", "euclidean")
    }
    command = "python -m wdtr_lite experiment table1 --profile cpu"
    assert report["provenance"]["command"] == command and command in study.describe(report)
    assert sorted(path.name for path in (workshop / "results").iterdir()) == [
        "table1_cpu.json", "table1_cpu_euclidean.pt", "table1_cpu_none.pt",
    ]  # fmt: skip
    images, labels = digits.part("test")
    for row in report["result"]["rows"][:2]:
        wrong = evaluation.misclassified(study.network(row["method"], "cpu"), images, labels)
        assert int(wrong.sum()) == row["wrong"]["natural"]


def test_at_full_scale_without_a_gpu_nothing_is_trained(workshop, monkeypatch, capsys):
    """What is trained is asked, what is published too, as far as it is; what a GPU would add is
    told.
    """
    digits = few_digits()
    monkeypatch.setitem(study.EXPERIMENTS, "table1", {"full": SMALL})
    monkeypatch.setattr(grid, "dataset_of", lambda name, split: digits)
    expected = study.run("table1", "full")
    monkeypatch.setitem(table1.NETWORKS, "full", SMALL.networks)
    shutil.rmtree("_runs")
    grid.in_memory.cache_clear()
    monkeypatch.setattr(training, "fit", None)
    found = study.run("table1", "full")
    assert found["weights"] == expected["weights"] and found["history"] == expected["history"]
    for row, before in zip(found["result"]["rows"], expected["result"]["rows"], strict=True):
        kept = row["seed"] == 0 and row["method"] != "more"
        assert row.get("wrong") == (before["wrong"] if kept else None)
        assert row.get("training") == (before["training"] if kept else None)
    assert not list(Path("_runs").rglob("checkpoint.pt"))
    main(["experiment", "table1", "--profile", "full", "--list"])
    assert "missing, about 0 min on a GPU" in capsys.readouterr().out
    main(["experiment", "table1", "--profile", "full"])
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("table1: 4 networks are not trained to the end, for want of a GPU")


@dataclass(frozen=True, kw_only=True)
class Refused(Experiment):
    @property
    def source(self):
        return "mnist5k", None

    def run(self, store):
        raise AssertionError("hours of work")


def test_where_nothing_can_be_written_nothing_is_begun(workshop, monkeypatch):
    monkeypatch.setitem(study.EXPERIMENTS, "table1", {"cpu": Refused()})
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError()))
    with pytest.raises(PermissionError):
        study.run("table1", "cpu")


def test_a_result_without_networks(workshop, monkeypatch):
    images = torch.arange(60, 120, dtype=torch.uint8)[:, None, None].repeat(1, 6, 6)
    images[1::2, :3] = 200
    parts = {"train": torch.arange(40), "test": torch.arange(40, 60)}
    stripes = data.Dataset("stripes", images, torch.arange(60) % 2, "a test", parts)
    monkeypatch.setattr(grid, "dataset_of", lambda name, split: {"stripes": stripes}[name])
    small = LabelKeeping(dataset="stripes", classifier_size=40, pairs=5, fractions=(0.5,), seed=0)
    monkeypatch.setitem(study.EXPERIMENTS, "label_keeping", {"full": small})
    study.run("label_keeping", "full")
    report = study.stored("label_keeping")
    assert report["config"] == small.config() and len(report["result"]["rows"]) == 4
    assert study.progress("label_keeping", "full") == []


# ---------------------------------------------------------------- where little is installed

RUN = """
import json
import torch
from wdtr_lite import data, study
from wdtr_lite.study.spec import Networks
from wdtr_lite.study.table1 import Table1

@data.register("noise")
def noise(root, split):
    images = torch.randint(256, (60, 12, 12), generator=torch.Generator().manual_seed(0))
    parts = {"train": torch.arange(32), "test": torch.arange(40, 60)}
    return data.Dataset("noise", images.byte(), torch.arange(60) % 3, "chance", parts)

if __name__ == "__main__":
    training = {"model": "small_cnn", "width": 2, "batch_size": 32, "epochs": 1, "milestones": []}
    candidates = {"none": [{}], "wasserstein": [{"eta": 0.1, "radius": 1}]}
    networks = Networks(dataset="noise", training=training, candidates=candidates)
    study.EXPERIMENTS["table1"]["cpu"] = Table1(networks=networks, attacked=5)
    study.run("table1", "cpu")
    print(json.dumps(study.stored("table1", "cpu")["provenance"]))
"""


def declared_dependencies():
    """Distributions that come with the package without its extras, theirs too."""
    project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
    wanted, found = list(project["dependencies"]), {}
    while wanted:
        requirement, _, marker = wanted.pop().partition(";")
        name = re.match(r"[\w.-]+", requirement).group().lower()
        if name in found or "extra" in marker:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # of another platform
            continue
        wanted += found[name].requires or []
    return found


def test_a_result_is_written_where_only_the_declared_dependencies_exist(tmp_path):
    """Nor git; what is not there is not told, and nothing fails after hours of work."""
    there, installed = tmp_path / "there", declared_dependencies()
    there.mkdir()
    for each in installed.values():
        for top in {path.parts[0] for path in each.files or [] if path.parts[0] != ".."}:
            if not (there / top).exists():
                (there / top).symlink_to(each.locate_file(top))
    assert {"torch", "pot"} <= installed.keys() and "scikit-learn" not in installed
    (tmp_path / "run.py").write_text(RUN)
    run = subprocess.run(
        [sys.executable, "-S", "run.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{there}:{HOME}", "CUDA_VISIBLE_DEVICES": "", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    origin = json.loads(run.stdout.splitlines()[-1])
    assert origin["commit"] == "unknown"
    assert list(origin["versions"]) == ["python", "numpy", "scipy", "torch", "torchvision", "POT"]
    assert origin["versions"]["torch"] == torch.__version__.partition("+")[0]


# ---------------------------------------------------------------- describing


def test_provenance_says_where_and_when():
    origin = study.provenance("do it", 1.26)
    assert list(origin) == ["command", "date", "wall_seconds", "device", "versions", "commit"]
    assert origin["command"] == "do it" and origin["wall_seconds"] == 1.3
    assert origin["device"].endswith(" cores") and origin["commit"]
    assert origin["versions"]["torch"] == metadata.version("torch")


def test_minutes_of_networks_add_up():
    one, other = ({"method": "none", "seed": seed} for seed in (0, 1))
    grid = one | {"seconds": {"training": 60, "natural": 30}}
    rows = [
        one | {"seconds": {"training": 60, "flips": 15}},
        {"missing": True},
        other | {"seconds": {"training": 45}},
    ]
    report = {"result": {"search": [grid], "rows": rows}}
    assert study.network_minutes(report) == 2.5, "the network of the grid is trained once"
    assert study.network_minutes({"result": {"rows": [{}]}}) is study.network_minutes({}) is None
    others = [rows[2] | {"setting": {"eta": eta}} for eta in (0.1, 0.2)]
    assert study.network_minutes({"result": {"rows": others}}) == 1.5, "two settings, two networks"
    told = {"device": "a CPU", "wall_seconds": 60, "date": "today", "commit": "c", "versions": {}}
    origin = {"provenance": told | {"command": "run"}}
    assert "; 2 network-minutes on today" in study.describe(report | origin)
    assert "; 1 minutes on today" in study.describe({"result": {"rows": []}} | origin)

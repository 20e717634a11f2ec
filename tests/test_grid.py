"""Networks stored run by run: what is there is not done again, whoever is killed, on processes and
on a cluster's workers.
"""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from oracles import gpu

from wdtr_lite import attacks, data, evaluation, training
from wdtr_lite.data import Dataset
from wdtr_lite.study import grid, stress
from wdtr_lite.study.grid import Network, complete, dataset_of, outcome
from wdtr_lite.study.questions import Errors, fgsm
from wdtr_lite.study.spec import Networks, Question
from wdtr_lite.study.store import Store
from wdtr_lite.training.lock import held

SMALL = {
    "data": "mnist5k", "model": "small_cnn", "width": 2, "images": 64, "batch_size": 32,
    "epochs": 2, "learning_rate": 0.02, "milestones": (),
}  # fmt: skip
NATURAL, FGSM = Errors("test", 40, None), Errors("test", 20, fgsm(25))


def network(questions=None, **how):
    return Network(
        training.Config(**SMALL | how),
        {"natural": NATURAL, "FGSM": FGSM} if questions is None else questions,
    )


@dataclass(frozen=True)
class Recorded(Question, name="recorded"):
    """Writes down each time it is asked; here, where other processes find it."""

    file: str
    say: str = "here"
    root: Path | None = field(default=None, compare=False)

    def __call__(self, model: torch.nn.Module, dataset: Dataset) -> dict[str, int]:
        with open(self.file, "a") as stream:
            stream.write(self.say + "\n")
        return {"label": int(evaluation.predictions(model, dataset.images[:1])[0])}


def recording(file, **options):
    return {"recorded": Recorded(str(file), **options)}


def asked(file):
    return file.read_text().splitlines() if file.exists() else []


@pytest.fixture(scope="module", autouse=True)
def on_a_cpu():
    """On one thread, as the processes of a pool; on a machine with a GPU too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv(
            "PYTHONPATH",
            os.pathsep.join(
                [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
        )
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(data, "load", cache(data.load))
        grid.in_memory.cache_clear()
        yield
        grid.in_memory.cache_clear()
    torch.set_num_threads(threads)


@contextmanager
def in_this_process(threads=1):
    """Networks are trained in a thread of this process, or several, where it can be seen which."""
    fitted, fit = [], training.fit

    def counted(config, **how):
        fitted.append(config)
        return fit(config, **how)

    @contextmanager
    def executor(cluster):
        with ThreadPoolExecutor(threads) as pool:
            yield pool, 0

    grid.in_memory.cache_clear()  # as in a new process
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "fit", counted)
        patch.setattr(grid, "executor", executor)
        yield fitted
    grid.in_memory.cache_clear()


@pytest.fixture
def here(request):
    with in_this_process(getattr(request, "param", 1)) as fitted:
        yield fitted


def nobody(*_):
    raise AssertionError("there is nothing to do")


def stamps(folder):
    """Of what is stored."""
    files = (path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.stat().st_mtime_ns for path in files}


def folder_of(network, root):
    """Found by the configuration that its checkpoint holds."""
    for checkpoint in Path(root).glob("*/checkpoint.pt"):
        if training.load(checkpoint.parent).config == network.config:
            return checkpoint.parent


def lines(folder):
    """Of the finished epochs that a checkpoint holds."""
    return training.load(folder).history


def shorten(folder, epochs):
    """As if the training had been stopped after so many epochs."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    state.pop("metrics")  # the checksum of more lines
    torch.save({**state, "epoch": epochs}, folder / "checkpoint.pt")


def without_times(outcomes):
    return [
        {
            "measurements": found["measurements"],
            "training": {k: v for k, v in found["training"].items() if "second" not in k},
        }
        for found in outcomes
    ]


# ---------------------------------------------------------------- with a root, without one


NETWORKS = [
    network(),
    network(method="euclidean", eta=0.3),
    network(),
    network(data="mnist5k_color", model="resnet8", epochs=1),
    network({"natural": NATURAL, **recording("/dev/null")}, seed=1),
]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The folder, the outcomes, what was printed."""
    root, printed = tmp_path_factory.mktemp("stored") / "networks", io.StringIO()
    with in_this_process(), redirect_stdout(printed):
        outcomes = complete(NETWORKS, Store(root))
    return root, outcomes, printed.getvalue().splitlines()


def test_with_a_root_and_without_the_same(stored):
    root, outcomes, _ = stored
    assert without_times(outcomes) == without_times(complete(NETWORKS, Store()))
    assert (
        outcomes
        == [outcome(network, Store(root)) for network in NETWORKS]
        == complete(NETWORKS, Store(root, finished=True))
    )
    for network, found in zip(NETWORKS, outcomes, strict=True):
        assert found.keys() == {"measurements", "training", "seconds"}
        assert found["measurements"].keys() == network.questions.keys()
        assert (
            found["seconds"].keys() == {"training", *network.questions}
            and min(found["seconds"].values()) >= 0
        )
        history = lines(folder_of(network, root))
        assert found["training"] == history[-1] and len(history) == network.config.epochs
        assert found["seconds"]["training"] == pytest.approx(
            sum(epoch["seconds"] for epoch in history), abs=0.006
        )


def test_measurements_by_hand(stored):
    _, outcomes, _ = stored
    digits = dataset_of("mnist5k")
    images, labels = digits.part("test", 40)
    model = training.fit(NETWORKS[1].config, device="cpu", dataset=digits, progress=False).model
    wrong = evaluation.predictions(model, images) != labels
    found = outcomes[1]["measurements"]["natural"]
    assert (found["wrong"], found["n"]) == (int(wrong.sum()), 40)
    x, y = images[:20], labels[:20]
    wrong = evaluation.predictions(model, attacks.fgsm(model, x[:, None] / 255, y, 25 / 255)) != y
    found = outcomes[1]["measurements"]["FGSM"]
    assert (found["wrong"], found["n"]) == (int(wrong.sum()), 20)


def test_a_folder_for_each_network_a_line_for_each(stored):
    root, _, printed = stored
    assert (
        len(list(root.iterdir()))
        == len(printed)
        == len({network.config for network in NETWORKS})
        == 4
    )
    assert sum("small_cnn euclidean {'eta': 0.3} seed 0: [" in line for line in printed) == 1
    assert not list(root.rglob("*.part"))


def test_a_second_call_does_nothing(stored, monkeypatch):
    root, outcomes, _ = stored
    written = stamps(root)
    monkeypatch.setattr(grid, "executor", nobody)
    assert complete(NETWORKS, Store(root)) == outcomes
    assert complete(NETWORKS[::-1], Store(root)) == outcomes[::-1]
    assert stamps(root) == written != {}


def test_what_the_time_does_not_allow_is_left(here, tmp_path):
    """Nothing is begun after it, what was done before is kept, and the next call goes on."""
    networks = [network(seed=seed) for seed in (0, 1)]
    complete(networks[:1], Store(tmp_path))
    with pytest.raises(training.Unfinished, match="the time is up, 1 networks are left") as told:
        complete(networks, Store(tmp_path, until=time.time() - 1))
    assert not told.value.trained and "Nothing was done" in str(told.value)
    done = Store(tmp_path / "other", until=time.time() + 600)
    work = grid.together

    def until_now(group, store):
        found = work(group, store)
        object.__setattr__(done, "until", time.time() - 1)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "together", until_now)
        with pytest.raises(training.Unfinished, match="1 networks are left. What was fin") as told:
            complete(networks, done)
    assert told.value.trained
    assert outcome(networks[1], Store(tmp_path)) is None
    again = complete(networks, Store(tmp_path, until=time.time() + 600))
    assert without_times(again) == without_times(complete(networks, Store()))


def test_the_folder_may_move(stored, tmp_path, monkeypatch):
    root, outcomes, _ = stored
    monkeypatch.setattr(grid, "executor", nobody)
    elsewhere = tmp_path / "elsewhere"
    subprocess.run(["cp", "-r", root, elsewhere], check=True)
    assert complete(NETWORKS, Store(elsewhere)) == outcomes


# ---------------------------------------------------------------- once


def test_each_is_trained_and_asked_once(here, tmp_path):
    first, second = (
        network(recording(tmp_path / "asked", say=str(seed)), seed=seed) for seed in (0, 1)
    )
    found = complete([first, second, first, first], Store(tmp_path / "root"))
    assert here == [first.config, second.config] and asked(tmp_path / "asked") == ["0", "1"]
    assert found[0] == found[2] == found[3] != found[1]
    grid.in_memory.cache_clear()
    complete([second, first], Store(tmp_path / "root"))
    assert here == [first.config, second.config] and asked(tmp_path / "asked") == ["0", "1"]


@pytest.mark.parametrize("here", [1, 2], indirect=True)
def test_with_other_questions_it_is_trained_once(here, tmp_path):
    """Also where two are trained at once."""
    found = complete([network({"natural": NATURAL}), network({"FGSM": FGSM})], Store(tmp_path))
    assert len(here) == 1 and [list(each["measurements"]) for each in found] == [
        ["natural"],
        ["FGSM"],
    ]


@pytest.mark.parametrize("here", [2], indirect=True)
def test_a_network_that_attacks_others_is_trained_once(here, tmp_path, monkeypatch):
    """Also where two ask for it at the same time, before Table 1 was run."""
    together, ask = threading.Barrier(2, timeout=30), stress.TransferErrors.__call__

    def at_the_same_time(question, *arguments):
        together.wait()
        return ask(question, *arguments)

    monkeypatch.setattr(stress.TransferErrors, "__call__", at_the_same_time)
    networks = Networks(
        dataset="mnist5k_color",
        training={name: SMALL[name] for name in SMALL if name != "data"},
        candidates={"none": [{}], "euclidean": [{"eta": 0.1}]},
        seeds=(0, 1),
    )
    small = stress.Stress(networks=networks, attacked=2, autoattack=0, epsilons=(), pictured=1)
    rows = small.run(Store(tmp_path))["rows"]
    assert [row["measurements"]["transfer"]["n"] for row in rows] == [2, 2]
    trained = sorted((config.method, config.seed) for config in here)
    assert trained == [("euclidean", 0), ("none", 0), ("none", 1)]


def test_a_new_question_trains_nothing(here, tmp_path):
    before, after = ({"natural": NATURAL}, {"natural": NATURAL, "FGSM": FGSM})
    (first,) = complete([network(before)], Store(tmp_path))
    written = stamps(tmp_path)
    assert outcome(network(after), Store(tmp_path)) is None
    grid.in_memory.cache_clear()
    (second,) = complete([network(after)], Store(tmp_path))
    assert len(here) == 1 and written.items() < stamps(tmp_path).items()
    assert (
        second["measurements"]["natural"] == first["measurements"]["natural"]
        and second["training"] == first["training"]
    )
    assert outcome(network(before), Store(tmp_path)) == first
    renamed = outcome(network({"by another name": NATURAL}), Store(tmp_path))
    assert renamed["measurements"] == {"by another name": first["measurements"]["natural"]}


def test_what_makes_a_question_another(here, tmp_path):
    """Its name and options, but not the folder of networks, which differs between machines."""
    file, root = tmp_path / "asked", tmp_path / "root"
    complete([network(recording(file, root=Path("here"), say="first"))], Store(root))
    written = stamps(root)
    complete([network(recording(file, root=Path("there"), say="first"))], Store(root))
    assert asked(file) == ["first"] and stamps(root) == written
    complete([network(recording(file, say="other"))], Store(root))
    assert asked(file) == ["first", "other"] and len(stamps(root)) == len(written) + 1


@pytest.mark.parametrize(
    "how",
    [{"seed": 1}, {"epochs": 3}, {"learning_rate": 0.06}, {"method": "euclidean", "eta": 0.1}],
    ids=str,
)
def test_another_configuration_is_another_network(how, stored):
    store = Store(stored[0])
    assert outcome(network(), store) and outcome(network({"FGSM": FGSM}, **how), store) is None


def test_finished_does_nothing(here, tmp_path, monkeypatch):
    done, _ = complete([network(), network(seed=1)], Store(tmp_path))
    shorten(folder_of(network(seed=1), tmp_path), 1)
    monkeypatch.setattr(grid, "executor", nobody)
    written = stamps(tmp_path)
    asked_too = network({"natural": NATURAL, "more": replace(NATURAL, images=5)})
    jobs = [network(), network(seed=1), network(seed=2), asked_too]
    assert complete(jobs, Store(tmp_path, finished=True)) == [done, None, None, None]
    assert complete([network()], Store(tmp_path / "nowhere", finished=True)) == [None]
    assert stamps(tmp_path) == written and not (tmp_path / "nowhere").exists()


def test_without_training_networks_are_asked_as_they_are(here, tmp_path):
    """One that stopped too, which is asked again once it is trained further."""
    last = network(seed=1)
    done, whole = complete([network(), last], Store(tmp_path))
    shorten(folder_of(last, tmp_path), 1)
    for file in folder_of(last, tmp_path).glob("*.json"):
        file.unlink()
    store, begun = Store(tmp_path, trains=False), len(here)
    first, stopped, missing = complete([network(), last, network(seed=2)], store)
    assert first == done and missing is None and len(here) == begun
    assert stopped["training"]["epoch"] == 1 and whole["training"]["epoch"] == 2
    assert stopped["measurements"] == whole["measurements"], "shortened, it has the same weights"
    assert outcome(last, store) == stopped and outcome(last, Store(tmp_path)) is None
    grid.in_memory.cache_clear()  # as in a new process
    (again,) = complete([last], Store(tmp_path))
    assert again["measurements"] != whole["measurements"] and len(here) == begun + 1
    assert outcome(last, store) == again, "asked anew"
    with pytest.raises(ValueError, match="config must be of a network that is trained, got Config"):
        grid.trained(network(seed=2).config, store)


def test_a_network_that_is_trained_further_is_asked_anew(here, tmp_path):
    """By the same process too."""
    asked = network(recording(tmp_path / "asked"))
    store = Store(tmp_path / "root", trains=False)
    grid.trained(asked.config, Store(tmp_path / "root"))
    shorten(folder_of(asked, tmp_path / "root"), 1)
    (stopped,) = complete([asked], store)
    (whole,) = complete([asked], Store(tmp_path / "root"))
    assert (stopped["training"]["epoch"], whole["training"]["epoch"]) == (1, 2)
    assert len(grid.trained(asked.config, store).history) == 2
    assert len((tmp_path / "asked").read_text().splitlines()) == 2


@dataclass(frozen=True)
class Spoils(Question, name="spoils"):
    def __call__(self, model: torch.nn.Module, dataset: Dataset) -> int:
        with torch.no_grad():
            for weight in model.parameters():
                weight.zero_()
        return 0


@pytest.mark.parametrize("stored", [True, False])
def test_a_question_changes_no_network(stored, here, tmp_path):
    store = Store(tmp_path) if stored else Store()
    (before,) = complete([network({"natural": NATURAL})], Store())
    (found,) = complete([network({"spoils": Spoils(), "natural": NATURAL})], store)
    assert found["measurements"]["natural"] == before["measurements"]["natural"]


def registered(images):
    """The data set ``grey`` anew, as by a notebook's cell that is run twice."""

    def grey(root, split):
        parts = {"train": range(48), "test": range(48, 64)}
        return Dataset("grey", images, torch.arange(64) % 2, "torch", parts)

    data.register("grey", grey)


def test_a_data_set_that_is_registered_anew(here, tmp_path, monkeypatch):
    """What was trained on the former is refused."""
    monkeypatch.setattr(data.dataset, "SOURCES", dict(data.SOURCES))
    monkeypatch.setattr(data, "SOURCES", data.dataset.SOURCES)
    monkeypatch.setattr(data, "load", data.dataset.load)  # without a cache
    one, other = torch.randint(
        256, (2, 64, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    registered(one)
    small = {"data": "grey", "images": 48, "batch_size": 16, "epochs": 1}
    asked = network({"natural": Errors("test", None, None)}, **small)
    (first,) = complete([asked], Store(tmp_path))
    without = complete([asked], Store())
    assert without_times(without) == without_times([first])
    registered(one.clone())
    assert complete([asked], Store(tmp_path)) == [first]
    registered(other)
    assert torch.equal(dataset_of("grey").images, other)
    for read in (complete, lambda networks, store: grid.trained(networks[0].config, store)):
        with pytest.raises(
            ValueError, match=f"^{folder_of(asked, tmp_path)} holds a network trained on other im"
        ):
            read([asked], Store(tmp_path))
    assert without_times(complete([asked], Store())) != without_times(without)
    registered(other[:, :, :7])
    assert complete([asked], Store())


@pytest.fixture
def grey(monkeypatch):
    """Images and labels of which ``grey`` consists, which may be changed: it is registered anew."""
    monkeypatch.setattr(data.dataset, "SOURCES", dict(data.SOURCES))
    monkeypatch.setattr(data, "SOURCES", data.dataset.SOURCES)
    monkeypatch.setattr(data, "load", data.dataset.load)  # without a cache
    random = torch.Generator().manual_seed(0)
    now = {
        "images": torch.randint(256, (64, 8, 8), dtype=torch.uint8, generator=random),
        "labels": torch.arange(64) % 2,
        "split": {"train": range(48), "test": range(48, 64)},
    }

    def change(**values):
        now.update(values)
        data.dataset.SOURCES.pop("grey", None)
        data.register("grey", lambda root, split: Dataset("grey", source="torch", **now))

    change()
    return now, change


GREY = {"data": "grey", "images": 48, "batch_size": 16, "epochs": 1}


def test_a_measurement_is_of_its_images(here, grey, tmp_path):
    """And labels, and parts; once it was not told of which."""
    now, change = grey
    question = Errors("test", None, None)
    asked, store = network({"natural": question}, **GREY), Store(tmp_path)
    (first,) = complete([asked], store)
    before, file = dict(now), store.file(asked.config, question)
    tested = now["images"].clone()
    tested[60] = 255 - tested[60]
    for other in (
        {"images": tested},
        {"labels": (torch.arange(64) + (torch.arange(64) > 50)) % 2},
        {"split": {"train": range(48), "test": range(49, 64)}},
    ):
        change(**before | other)
        for read in (outcome, grid.work, lambda asked, store: complete([asked], store)):
            with pytest.raises(
                ValueError, match=f"^{file} is of other images than .* 'grey' now: "
            ):
                read(asked, store)
    told = json.loads(file.read_text())
    file.write_text(json.dumps({k: told[k] for k in told if k not in ("images", "checksum")}))
    assert complete([asked], store) == [first]
    change(**before)
    assert complete([asked], store) == [first]


# ---------------------------------------------------------------- divergence


def test_a_divergence_is_of_its_images(here, grey, tmp_path):
    """Mended, they are refused until it is deleted; then the network is trained."""
    now, change = grey
    asked, store = network({}, **GREY, seed=1), Store(tmp_path)
    store.keep_divergence(asked.config, "in epoch 1")
    assert outcome(asked, store) == {"diverged": "in epoch 1"}, "once it was not told of which"
    told = network({}, **GREY | {"learning_rate": 1e30})
    assert complete([told], store)[0].keys() == {"diverged"}
    change(images=255 - now["images"])
    file = store.folder(told.config) / "diverged.json"
    says = f"^{file} is of other images than those of 'grey' now: delete it, and run the command"
    for read in (outcome, grid.work, lambda asked, store: grid.progress([asked.config], store)):
        with pytest.raises(ValueError, match=says):
            read(told, store)
    file.unlink()
    assert outcome(told, store) is None


@pytest.fixture
def wild():
    return network(learning_rate=1e30)


def test_divergence_is_told_and_remembered(here, wild, tmp_path, capsys):
    found = complete([wild, network()], Store(tmp_path))
    assert (
        found[0].keys() == {"diverged"} and "the run diverged in epoch 1 " in found[0]["diverged"]
    )
    assert "seed 0: diverged" in capsys.readouterr().out
    assert without_times([found[1]]) == without_times(complete([network()], Store()))
    trained = list(here)
    written = stamps(tmp_path)
    assert (
        complete([wild, network()], Store(tmp_path))
        == found
        == complete([wild, network()], Store(tmp_path, finished=True))
    )
    assert complete([network({}, learning_rate=1e30)], Store(tmp_path)) == found[:1], (
        "whatever the question"
    )
    assert here == trained and stamps(tmp_path) == written


def test_divergence_without_a_root(wild):
    (found,) = complete([wild], Store())
    assert found.keys() == {"diverged"} and "the run diverged in epoch 1 " in found["diverged"]


# ---------------------------------------------------------------- killed


LONG = 100  # epochs, some seconds
KILLED = [
    network(),
    network(epochs=LONG, seed=1),
    network(epochs=LONG, method="euclidean", eta=0.3),
    network(seed=2),
]


@pytest.fixture(scope="module")
def undisturbed():
    return without_times(complete(KILLED, Store()))


def until(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def begun(network, root):
    """Some epochs are stored, not all."""
    folder = folder_of(network, root)
    return folder is not None and 3 <= len(lines(folder)) < LONG


def histories(root):
    """Of the long networks that are begun, by folder."""
    return {
        folder_of(each, root): lines(folder_of(each, root))
        for each in KILLED[1:3]
        if begun(each, root)
    }


def assert_went_on(root, before, finished):
    """The epochs of before are there with the times they took: no one trained them again."""
    assert before and finished
    for folder, history in before.items():
        assert lines(folder)[: len(history)] == history and len(lines(folder)) == LONG
    assert finished.items() <= stamps(root).items()


KILL = """
import sys
from test_grid import KILLED, Path, Store, complete
complete(KILLED, Store(Path(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """An experiment whose process got SIGKILL: its folder, what was there, who outlived it."""
    root = tmp_path_factory.mktemp("killed")
    process = subprocess.Popen(
        [sys.executable, "-c", KILL, root],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: outcome(KILLED[0], Store(root)) and histories(root))
        before, finished = histories(root), stamps(folder_of(KILLED[0], root))
        process.kill()
        process.wait()
        deadline = time.monotonic() + 3
        while alive(process.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        outlived = alive(process.pid)
    finally:
        if alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    return root, before, finished, outlived


def test_killed_it_goes_on(here, killed, undisturbed):
    root, before, finished, _ = killed
    assert without_times(complete(KILLED, Store(root))) == undisturbed
    assert_went_on(root, before, finished)
    assert KILLED[0].config not in here


def test_killed_it_takes_its_processes_along(killed):
    """Else they would go on in the folders of the next call."""
    *_, outlived = killed
    assert not outlived


def alive(group):
    """Processes of a group that are not zombies."""
    states = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, owner = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        states += [state] if int(owner) == group and state != "Z" else []
    return bool(states)


# ---------------------------------------------------------------- in a script of one's own

SCRIPT = """
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from wdtr_lite import __main__, study, training
from wdtr_lite.study import grid
from wdtr_lite.study.spec import Networks, Question
from wdtr_lite.study.store import Store

TRAINED = {"model": "small_cnn", "width": 2, "images": 64, "batch_size": 32, "milestones": []}
HERE = Path(sys.argv[1])


def note(text):
    with open(HERE / "log", "a") as stream:
        stream.write(text + "\\n")


@training.register
class Slow(training.Objective):
    name, label = "slow", "slowly"

    def images(self, model, x, y, generator, epsilon):
        note(f"step {self.config.seed}")
        time.sleep(float(sys.argv[2]))
        return x


@dataclass(frozen=True)
class Mine(Question, name="mine"):
    part: str = "test"

    def __call__(self, model, dataset):
        note(f"asked {self.part}")
        return float(sum(p.detach().abs().sum() for p in model.parameters()))


def complete(seeds, **how):
    configs = [
        training.Config(data="mnist5k", method="slow", epochs=3, seed=seed, **TRAINED)
        for seed in range(seeds)
    ]
    networks = [grid.Network(config, {"mine": Mine()}) for config in configs]
    print(json.dumps(grid.complete(networks, Store(HERE / "root", **how))))


def experiment():
    networks = Networks(
        dataset="mnist5k_color",
        training=TRAINED | {"epochs": 3},
        candidates={"slow": [{}]},
        seeds=(0, 1, 2),
    )
    table2 = replace(study.EXPERIMENTS["table2"]["quick"], networks=networks, moved=4, reach=1)
    study.EXPERIMENTS["table2"] = {"cpu": table2}
    __main__.main(["experiment", "table2", "--profile", "cpu"])
"""


def started(tmp_path, does, pause=0.0, guard='if __name__ == "__main__":'):
    (tmp_path / "script.py").write_text(f"{SCRIPT}\n{guard} {does}\n")
    return subprocess.Popen(
        [sys.executable, "script.py", tmp_path, str(pause)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    """Its exit status, and the lines of what it said and complained of."""
    try:
        told = process.communicate(timeout=200)
    finally:
        process.kill()
    return process.returncode, *(text.splitlines() for text in told)


def logged(tmp_path):
    log = tmp_path / "log"
    return Counter(log.read_text().splitlines() if log.exists() else [])


def test_a_question_of_a_script(tmp_path):
    """Its class is ``__main__``'s here and ``__mp_main__``'s in the processes of the pool."""
    for _ in range(2):
        status, out, err = ended(started(tmp_path, "complete(2)"))
        assert (status, err) == (0, [])
        assert [list(each["measurements"]) for each in json.loads(out[-1])] == [["mine"]] * 2
        assert logged(tmp_path) == {"step 0": 6, "step 1": 6, "asked test": 2}


def test_a_script_without_its_guard(tmp_path):
    """Each process of the pool begins with it: it ends, and says why."""
    status, _, err = ended(started(tmp_path, "complete(2)", guard="if True:"))
    assert status == 1 and not logged(tmp_path)
    assert err[-1] == (
        "ChildProcessError: the processes that train networks could not begin: they were killed, "
        "or they cannot import your script, which must be a file, with what it does under "
        'if __name__ == "__main__":'
    )


def test_what_no_other_process_can_import(tmp_path):
    @dataclass(frozen=True)
    class Local(Question, name="local"):
        def __call__(self, model, dataset):
            return 1

    for question, says in (
        (Local(), "the question 'local' is a Local, which other processes cannot import"),
        (Errors("test", 5, lambda *_: 0), "the question 'errors', its options, must be what JSON"),
        (Recorded("here", root=lambda: 0), "the question 'recorded' cannot be sent to another pro"),
    ):
        with pytest.raises(TypeError, match=says):
            complete([network({"mine": question})], Store(tmp_path))
    command = [sys.executable, "-c", SCRIPT + "complete(1)", tmp_path, "0"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    last = told.splitlines()[-1]
    assert last.startswith("TypeError: the question 'mine' is a Mine, which other processes cannot")


@pytest.mark.parametrize(
    "networks, store, says",
    [
        (3, Store(), "networks must be list or tuple, got 3"),
        ([3], Store(), r"networks\[0\] must be Network, got 3"),
        ([network()], "root", "store must be Store, got 'root'"),
        ([network()._replace(config=3)], Store(), "config must be Config, got 3"),
        ([network({"x": len})], Store(), r"questions\['x'\] must be Question, got <"),
        ([network()._replace(questions=None)], Store(), "questions must be Mapping, got None"),
        ([network({3: NATURAL})], Store(), "each name in questions must be str, got 3"),
    ],
)
def test_bad_arguments(networks, store, says):
    with pytest.raises(TypeError, match=f"^{says}"):
        complete(networks, store)


def test_a_question_by_the_name_of_the_training():
    """Whose seconds stand beside those of the questions."""
    with pytest.raises(ValueError, match="names in questions, .* must differ, got 'training' agai"):
        complete([network({"training": NATURAL})], Store())


@dataclass(frozen=True)
class Says(Question, name="says"):
    """Answers with a number, or with something else."""

    answer: str

    def __call__(self, model: torch.nn.Module, dataset: Dataset) -> object:
        answers = {"nan": [float("nan")], "inf": -float("inf"), "tensor": torch.ones(2)}
        return {"here": answers.get(self.answer, ((1, 2), 0.1))}


@pytest.mark.parametrize("stored", [True, False])
def test_answers_that_json_does_not_keep(stored, here, tmp_path):
    store = Store(tmp_path if stored else None)
    for answer, error, says in (
        ("nan", ValueError, "have finite numbers, got NaN"),
        ("inf", ValueError, "have finite numbers, got -Infinity"),
        ("tensor", TypeError, r"be what JSON keeps, got {'here': tensor\(\[1., 1.\]\)}"),
    ):
        with pytest.raises(error, match=f"^the answer to the question 'says' must {says}$"):
            complete([network({"it": Says(answer)})], store)
    (found,) = complete([network({"it": Says("tuple")})], store)
    assert found["measurements"] == {"it": {"here": [[1, 2], 0.1]}}
    assert len(here) == 1


# ---------------------------------------------------------------- two at once


def test_two_processes_share_the_networks(tmp_path):
    """Each is trained and asked once, and both have all."""
    pair = [started(tmp_path, "complete(4)", pause=0.1) for _ in range(2)]
    (status, out, err), (status_2, out_2, err_2) = map(ended, pair)
    assert (status, err, status_2, err_2) == (0, [], 0, [])
    assert out[-1] == out_2[-1] and None not in json.loads(out[-1])
    assert logged(tmp_path) == {f"step {seed}": 6 for seed in range(4)} | {"asked test": 4}


@dataclass(frozen=True)
class Replacing(Question, name="replacing"):
    """In whose midst the network's folder is deleted and made anew, the first time."""

    folder: str

    def __call__(self, model: torch.nn.Module, dataset: Dataset) -> int:
        if (Path(self.folder) / "mark").exists():
            return 2
        shutil.rmtree(self.folder)
        Path(self.folder).mkdir()
        (Path(self.folder) / "mark").touch()
        return 1


def test_a_folder_that_was_replaced_is_worked_on_anew(tmp_path, capsys):
    """The answer of what was deleted is not written beside another's network."""
    store, plain = Store(tmp_path), network({})
    asked = plain._replace(questions={"q": Replacing(str(store.folder(plain.config)))})
    assert grid.work(asked, store).endswith(": [2]")
    assert "waits: " in (said := capsys.readouterr().out) and "was deleted, or its .lock" in said
    assert outcome(asked, store)["measurements"] == {"q": 2}


def test_who_finds_a_network_busy_waits(here, tmp_path, capsys):
    """It says once for whom, and goes on where that one ended, or died."""
    call = threading.Thread(target=complete, args=([network()], Store(tmp_path)))
    told = []
    with held(Store(tmp_path).folder(network().config)):
        call.start()
        until(lambda: told.append(capsys.readouterr().out) or " waits: " in told[-1])
        time.sleep(1.5)  # it asks again
        assert call.is_alive() and outcome(network(), Store(tmp_path)) is None
    call.join(100)
    lines = "".join([*told, capsys.readouterr().out]).splitlines()
    waits = [line for line in lines if " waits: " in line]
    assert len(waits) == 1 and f"process {os.getpid()} on " in waits[0]
    assert outcome(network(), Store(tmp_path)) is not None


def test_the_other_process_is_killed(tmp_path):
    """Who waits for it finishes its networks."""
    first = started(tmp_path, "complete(2)", pause=100)
    try:
        until(lambda: logged(tmp_path))
        second = started(tmp_path, "complete(2)")
        assert any(" waits: " in line for line in second.stdout)
    finally:
        first.kill()
        first.communicate()
    assert None not in json.loads(second.stdout.readlines()[-1])
    assert ended(second) == (0, [], [])


# ---------------------------------------------------------------- killed workers


def test_a_process_of_the_pool_is_killed(tmp_path):
    """The command says in a line what happened; called again it goes on."""
    process = started(tmp_path, "experiment()", pause=0.5)
    try:
        until(lambda: list(tmp_path.glob("_runs/*/*/checkpoint.pt")))
        os.kill(children(process.pid)[-1], signal.SIGKILL)
    except BaseException:
        process.kill()
        raise
    status, _, err = ended(process)
    assert status == 1 and err == [
        "python -m wdtr_lite experiment: a process that trains networks was killed, out of memory "
        "perhaps. What was finished is kept: run the command again, it goes on."
    ]
    before = logged(tmp_path)
    status, out, err = ended(started(tmp_path, "experiment()"))
    assert (status, err) == (0, []) and sum('"flips"' in line for line in out) == 3
    steps = logged(tmp_path) - before
    assert steps.total() < 18, "all were begun anew"


def children(parent):
    """The processes of its pool."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            owner = int(stat.read_text().rpartition(")")[2].split()[1])
            if owner == parent and "spawn_main" in (stat.parent / "cmdline").read_text():
                found.append(int(stat.parent.name))
    return found


# ---------------------------------------------------------------- a cluster


def test_a_scheduler_is_killed(tmp_path):
    """While the networks wait for a worker."""
    pytest.importorskip("distributed")
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0"]
    scheduler = subprocess.Popen(
        [*command, "--no-dashboard"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        address = next(filter(None, (re.search(r"tcp://\S+:\d+", x) for x in scheduler.stderr)))[0]
        process = started(tmp_path, f"complete(1, cluster={address!r})")
        assert any("Receive client connection" in line for line in scheduler.stderr)
        time.sleep(2)
    finally:
        scheduler.kill()
        scheduler.communicate()
    status, _, err = ended(process)
    assert status == 1 and err[-1] == (
        f"ConnectionError: the scheduler {address} is lost. What was finished is kept: run the "
        "command again, it goes on."
    )


def test_a_worker_of_a_cluster_is_killed(undisturbed, tmp_path):
    distributed = pytest.importorskip("distributed")
    root, found = tmp_path / "root", []
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=None,
        local_directory=tmp_path / "dask",
        silence_logs=50,
    ) as cluster:
        call = threading.Thread(
            target=lambda: found.extend(
                complete(KILLED, Store(root, cluster=cluster.scheduler_address))
            )
        )
        call.start()
        until(lambda: outcome(KILLED[0], Store(root)) and len(histories(root)) == 2)
        before, finished = histories(root), stamps(folder_of(KILLED[0], root))
        with distributed.Client(cluster) as client:
            os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
        call.join(100)
    assert without_times(found) == undisturbed
    assert_went_on(root, before, finished)


@pytest.mark.parametrize(("on_gpus", "sizes"), [(0, []), (1, [2, 1]), (2, [2, 1, 1]), (4, [])])
def test_workers_with_gpus_take_several_at_once(stored, tmp_path, monkeypatch, on_gpus, sizes):
    """Shared out evenly, three at most, of a data set at a time; one alone as on a CPU."""
    _, outcomes, _ = stored
    found, fit = [], training.fit_together

    def counted(configs, **how):
        found.append(len(configs))
        return fit(configs, **how)

    @contextmanager
    def executor(cluster):
        with ThreadPoolExecutor(1) as pool:
            yield pool, on_gpus

    monkeypatch.setattr(grid, "executor", executor)
    monkeypatch.setattr(grid, "TOGETHER", 3)
    monkeypatch.setattr(training, "fit_together", counted)
    told = complete(NETWORKS, Store(tmp_path, cluster="tcp://there:1"))
    assert found == sizes and without_times(told) == without_times(outcomes)


# ---------------------------------------------------------------- progress, trained


def test_progress(stored):
    root, outcomes, _ = stored
    more = [
        network(epochs=4),
        network(epochs=40),
        network(epochs=4, images=640),
        network(epochs=4, images=None, part="fit"),
    ]
    done, still = zip(
        *grid.progress([each.config for each in [*NETWORKS, *more]], Store(root)), strict=True
    )
    assert done[: len(NETWORKS)] == pytest.approx(
        [found["seconds"]["training"] for found in outcomes], abs=0.006
    )
    assert still[: len(NETWORKS)] == (0.0,) * len(NETWORKS) and done[len(NETWORKS) :] == (0,) * 4
    short, longer, larger, whole = still[len(NETWORKS) :]
    assert (
        0 < short
        and longer == larger == pytest.approx(10 * short)
        and whole == pytest.approx(3500 / 64 * short)
    )


def test_progress_of_a_network_that_was_stopped(tmp_path):
    asked = network(epochs=5)
    grid.trained(asked.config, Store(tmp_path))
    folder = folder_of(asked, tmp_path)
    shorten(folder, 2)
    configs = [asked.config, network(epochs=5, seed=1).config]
    (done, still), (_, all_of_it) = grid.progress(configs, Store(tmp_path))
    assert done == pytest.approx(sum(epoch["seconds"] for epoch in lines(folder)[:2]))
    assert still == pytest.approx(0.6 * all_of_it)


def test_progress_trains_as_the_network_does(monkeypatch, tmp_path):
    """Two short epochs of each kind, on one thread; what costs the same is not measured twice."""
    asked, fit = [], training.fit

    def counted(config, **how):
        asked.append((config, torch.get_num_threads()))
        return fit(config, **how)

    monkeypatch.setattr(training, "fit", counted)
    torch.set_num_threads(2)
    how = {"epochs": 9, "warmup": 1, "method": "fgsm", "epsilon": 0.1}
    grid.progress([network(seed=seed, **how).config for seed in range(3)], Store(tmp_path))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    ((config, threads),) = asked
    assert threads == 1 and (config.method, config.epochs, config.images) == (
        "fgsm",
        2,
        config.batch_size,
    )
    assert not stamps(tmp_path)


def test_trained_is_from_the_folder_or_kept_in_memory(stored, here):
    root, _, _ = stored
    run = grid.trained(NETWORKS[1].config, Store(root))
    assert here == []
    expected = training.load(folder_of(NETWORKS[1], root)).model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in run.model.state_dict().items())
    assert not any(module.training for module in run.model.modules())
    again = grid.trained(NETWORKS[1].config, Store())
    assert here == [NETWORKS[1].config] and again is grid.trained(NETWORKS[1].config, Store())
    assert all(
        torch.equal(value, expected[name]) for name, value in again.model.state_dict().items()
    )


def test_trained_is_kept_in_the_folder(here, tmp_path):
    run = grid.trained(network().config, Store(tmp_path))
    grid.in_memory.cache_clear()
    assert grid.trained(network().config, Store(tmp_path)).history == run.history and len(here) == 1
    assert (
        outcome(network({}), Store(tmp_path))["training"] == run.history[-1]
        and outcome(network(), Store(tmp_path)) is None
    )


def test_dataset_is_loaded_once():
    assert dataset_of("mnist5k") is dataset_of("mnist5k")
    assert (
        dataset_of("mnist5k").name == "mnist5k"
        and dataset_of("mnist5k_color").name == "mnist5k_color"
    )
    with pytest.raises(ValueError, match="split must be None for mnist5k, got 'official'"):
        dataset_of("mnist5k", "official")


# ---------------------------------------------------------------- on a GPU


@gpu
def test_on_the_gpu_several_train_at_once(monkeypatch, tmp_path):
    """One that diverges stops no other; a second call does nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    jobs = [
        network(),
        network(learning_rate=1e30),
        network(method="euclidean", eta=0.3),
        network({"more": FGSM}),
    ]
    found = complete(jobs, Store(tmp_path))
    assert ["measurements" in each for each in found] == [True, False, True, True] and found[
        1
    ].keys() == {"diverged"}
    on_cpu = complete(jobs[:1], Store())
    assert found[0]["training"]["loss"] == pytest.approx(on_cpu[0]["training"]["loss"], rel=1e-3)
    written = stamps(tmp_path)
    assert complete(jobs, Store(tmp_path)) == found and stamps(tmp_path) == written


def test_together_as_one_by_one(stored, here, tmp_path, monkeypatch):
    """What is done on a GPU, done on this machine; in groups of two."""
    _, outcomes, _ = stored
    jobs = [network(learning_rate=1e30), *NETWORKS]
    for group in (jobs[:2], jobs[2:4], jobs[4:]):
        assert len(list(grid.together(group, Store(tmp_path)))) == len(group)
    found = complete(jobs, Store(tmp_path, finished=True))
    assert found[0].keys() == {"diverged"} and without_times(found[1:]) == without_times(outcomes)

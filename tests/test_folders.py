"""A run's folder: one run at a time in it, whole files or none, and what is wrong with it said."""

import atexit
import errno
import gc
import itertools
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import filelock
import pytest
import torch

from wdtr_lite import data, training
from wdtr_lite.training import Busy, Config, Training, Unfinished, fit_together, load
from wdtr_lite.training import checkpoint as files
from wdtr_lite.training import lock as locks

generator = torch.Generator().manual_seed(0)
IMAGES = data.Dataset(
    "stripes",
    torch.randint(256, (40, 8, 8), generator=generator, dtype=torch.uint8),
    torch.arange(40) % 10,
    "a test",
    {"train": range(32), "validation": range(28, 32), "test": range(32, 40)},
)
SMALL = Config(
    model="small_cnn", width=2, epochs=3, batch_size=16, learning_rate=0.05, milestones=()
)


def fit(config=SMALL, **how):
    return training.fit(config, **{"device": "cpu", "dataset": IMAGES, "progress": False} | how)


def weights(run):
    return run.model.state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def stored(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def without_times(history):
    return [{key: value for key, value in line.items() if "second" not in key} for line in history]


@pytest.fixture(scope="module")
def whole():
    return fit()


@pytest.fixture
def run(tmp_path):
    """A finished run and its folder."""
    return fit(folder=tmp_path / "run"), tmp_path / "run"


# ---------------------------------------------------------------- what can be no folder


LOOP = Path(tempfile.mkdtemp())
(LOOP / "loop").symlink_to(LOOP / "loop")
atexit.register(shutil.rmtree, LOOP)

BAD = {
    "empty": ("", ValueError, "folder must name a folder, got ''"),
    "a number": (3, TypeError, "folder must be a path, got 3"),
    "bytes": (b"run", TypeError, "folder must be a path, got b'run'"),
    "a file": (__file__, ValueError, "folder must be a folder, got the file '.*test_folders.py'"),
    "no path": ("a\0b", ValueError, r"folder must name a folder, got 'a\\x00b': embedded null"),
    "no text": ("a\ud800b", ValueError, r"folder must name a folder, got 'a\\ud800b': 'utf-8'"),
    "long": (
        "a" * 5000,
        ValueError,
        "folder must name a folder, got 'aaaa.*: .*File name too long",
    ),
    "itself": (LOOP / "loop", ValueError, "folder must name a folder, got '.*/loop': .*Too many"),
    "in a file": (
        Path(__file__, "run"),
        OSError,
        r".*folder cannot be written: Not a directory: '.*test_folders.py/run'",
    ),
    "in none": ("/proc/run", OSError, ".*folder cannot be written: .*: '/proc/run'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_folder_is_told_before_training(case, monkeypatch):
    folder, kind, message = BAD[case]
    monkeypatch.setattr(Training, "eager_step", None)
    with pytest.raises(kind, match=f"^{message}"):
        fit(folder=folder)
    if kind is not OSError:
        with pytest.raises(kind, match=f"^{message}"):
            load(folder)
        with pytest.raises(kind, match=message.replace("folder must", "folders must", 1)):
            fit_together([SMALL], folders=[folder], dataset=IMAGES, device="cpu", progress=False)


@pytest.mark.parametrize("file", ["checkpoint.pt", "metrics.jsonl"])
@pytest.mark.parametrize("kind", ["a pipe", "a folder", "an endless device"])
def test_what_is_no_file_is_not_read(file, kind, run):
    path = run[1] / file
    path.unlink()
    if kind == "an endless device":
        path.symlink_to("/dev/zero")
    else:
        (os.mkfifo if kind == "a pipe" else os.mkdir)(path)
    for use in (load, lambda folder: fit(folder=folder)):
        with pytest.raises(ValueError, match=f"^{path} must be a regular file"):
            use(run[1])


def test_a_pipe_in_place_of_the_holders_name(tmp_path):
    os.mkfifo(tmp_path / ".holder")
    assert fit(folder=tmp_path).history


def test_a_finished_run_needs_no_lock(run, monkeypatch):
    """Nor a folder that can be written to."""

    def read_only(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(filelock.FileLock, "acquire", read_only)
    again = fit(folder=run[1])
    assert same(weights(again), weights(run[0])) and again.history == run[0].history
    (run[1] / "checkpoint.pt").unlink()
    with pytest.raises(PermissionError, match="folder cannot be written: Permission denied"):
        fit(folder=run[1])


# ---------------------------------------------------------------- one run at a time


processes = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module", autouse=True)
def forks():
    """Of a server that has imported this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        processes.set_forkserver_preload([__name__, "torch._dynamo"])
        yield


def one_of_two(folder, barrier, told):
    torch.set_num_threads(1)
    barrier.wait(60)
    try:
        history = fit(replace(SMALL, epochs=8), folder=folder, checkpoint_every=1).history
        told.put(("done", os.getpid(), without_times(history)))
    except Busy as busy:
        told.put(("busy", os.getpid(), str(busy)))


@pytest.mark.parametrize("pair", range(4))
def test_of_two_processes_one_trains(pair, tmp_path):
    """The other is told whose the folder is; what is left is one whole run."""
    barrier, told = processes.Barrier(2), processes.Queue()
    two = [
        processes.Process(target=one_of_two, args=(tmp_path / "run", barrier, told))
        for _ in range(2)
    ]
    for process in two:
        process.start()
    found = {how: (pid, what) for how, pid, what in (told.get(timeout=120) for _ in two)}
    for process in two:
        process.join(60)
        assert process.exitcode == 0
    assert found.keys() == {"done", "busy"}
    holder, history = found["done"]
    assert (
        f"run is in use, process {holder} on {locks.socket.gethostname()} trains there: wait"
        in (found["busy"][1])
    )
    assert without_times(load(tmp_path / "run").history) == history
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        ".lock",
        "checkpoint.pt",
        "metrics.jsonl",
    }


def trains_long(folder):
    torch.set_num_threads(1)
    fit(replace(SMALL, epochs=10_000), folder=folder, checkpoint_every=1)


def test_a_killed_process_holds_nothing(tmp_path):
    """The kernel lets go; what it left half written is removed."""
    process = processes.Process(target=trains_long, args=(tmp_path,))
    process.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(Busy, match=f"{tmp_path} is in use, process {process.pid} on "):
        Training(replace(SMALL, epochs=10_000), dataset=IMAGES, folder=tmp_path)
    assert load(tmp_path).history  # reads beside it
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    for name in (".checkpoint.pt.1.part", ".metrics.jsonl.1.part", ".errors.json.1.part"):
        (tmp_path / name).write_text("half")
    training = Training(replace(SMALL, epochs=10_000), dataset=IMAGES, folder=tmp_path)
    assert training.epoch >= 1
    assert [path.name for path in tmp_path.glob("*.part")] == [".errors.json.1.part"]
    training.close()


def test_in_one_process_too(tmp_path):
    """From any thread; until it is closed or forgotten."""
    first, seen = Training(SMALL, dataset=IMAGES, folder=tmp_path), []

    def second():
        try:
            seen.append(Training(SMALL, dataset=IMAGES, folder=tmp_path))
        except Busy as busy:
            seen.append(busy)

    def in_a_thread(call):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    for call in (second, lambda: in_a_thread(second)):
        call()
        assert isinstance(seen.pop(), Busy)
    in_a_thread(first.close)
    second()
    again = seen.pop()
    assert isinstance(again, Training)
    del again
    gc.collect()
    second()
    assert isinstance(seen.pop(), Training)


def test_step_by_step(tmp_path, whole):
    """Held while it trains, also where its steps are interrupted; then let go of."""
    training = Training(SMALL, dataset=IMAGES, folder=tmp_path)
    for step in training.steps():
        if step.metrics:
            break
    with pytest.raises(Busy):
        fit(folder=tmp_path)
    for _ in training.steps():
        pass
    assert same(weights(training.run()), weights(whole))
    assert same(weights(fit(folder=tmp_path)), weights(whole))


def test_a_folder_that_was_let_go_of_is_not_written(tmp_path):
    """By steps that were begun before or after; those that are done are no more."""
    training = Training(SMALL, dataset=IMAGES, folder=tmp_path)
    begun = training.steps()
    next(begun)
    training.close()
    for steps in (begun, training.steps()):
        with pytest.raises(RuntimeError, match="was let go of, .*: another Training goes on"):
            next(steps)
    assert not (tmp_path / "metrics.jsonl").exists()
    other = Training(SMALL, dataset=IMAGES, folder=tmp_path)
    assert len([*other.steps()]) == 6 and not [*other.steps()]


@pytest.mark.parametrize("deleted", ["folder", ".lock"])
def test_a_folder_that_another_run_took_is_not_written(deleted, tmp_path, whole):
    """Deleted while a run was at work there, which ends; the other keeps its files."""
    folder = tmp_path / "run"
    first = Training(SMALL, dataset=IMAGES, folder=folder, checkpoint_every=1)
    steps = first.steps()
    while first.epoch < 1:
        next(steps)
    if deleted == "folder":
        shutil.rmtree(folder)
    else:
        (folder / ".lock").unlink()
        (folder / "checkpoint.pt").unlink()
    second = Training(SMALL, dataset=IMAGES, folder=folder, checkpoint_every=1)
    others = second.steps()
    while second.epoch < 2:
        next(others)
    there = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(Busy, match=f"^{folder} was deleted, or its .lock, while this run was at"):
        list(steps)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == there
    assert ".holder" in there
    list(others)
    assert same(weights(load(folder)), weights(whole))


def test_metrics_after_an_epoch_that_was_given_up(tmp_path):
    training, sums = Training(replace(SMALL, epochs=1), dataset=IMAGES, folder=tmp_path), []
    compute = training.compute

    def seen(x, y):
        gradients, found = compute(x, y)
        sums.append(found)
        return gradients, found

    training.compute = seen
    given_up = training.steps()
    next(given_up)
    given_up.close()
    for _ in training.steps():
        pass
    assert len(sums) == 3
    loss, _, error = (torch.stack(sums[1:]).double().sum(0) / 32).tolist()
    assert (training.history[0]["loss"], training.history[0]["error"]) == (loss, error)


def test_images_until_an_epoch():
    training = Training(SMALL, dataset=IMAGES)
    assert [training.images_until(epoch) for epoch in (0, 3)] == [0, 96]
    with pytest.raises(TypeError, match="^epoch must be a whole number, got 'ab'"):
        training.images_until("ab")


def test_let_go_where_it_fails(tmp_path, monkeypatch):
    """In a step, in the folder's files, and of all folders where one is in use."""

    def fails(self):
        raise KeyboardInterrupt

    held = []
    with monkeypatch.context() as patch:
        patch.setattr(Training, "eager_step", fails)
        for call in (
            lambda: fit(folder=tmp_path / "a"),
            lambda: [*held[-1].steps()],
        ):
            held.append(Training(SMALL, dataset=IMAGES, folder=tmp_path / "b"))
            with pytest.raises(KeyboardInterrupt):
                call()
            if len(held) == 1:
                held[0].close()
    fit(folder=tmp_path / "b")
    with pytest.raises(ValueError, match="holds a run with epochs=3"):
        fit(replace(SMALL, epochs=4), folder=tmp_path / "b")
    (tmp_path / "b" / "checkpoint.pt").unlink()
    other = Training(SMALL, dataset=IMAGES, folder=tmp_path / "b")
    with pytest.raises(Busy, match="b is in use") as kept:
        fit_together(
            [SMALL, SMALL],
            folders=[tmp_path / "a", tmp_path / "b"],
            dataset=IMAGES,
            device="cpu",
            progress=False,
        )
    fit(folder=tmp_path / "a")
    other.close()
    assert kept


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOLCK, "No locks available"), OSError(errno.EOPNOTSUPP, "Not supported"),
     NotImplementedError("flock")],
    ids=repr,
)  # fmt: skip
def test_a_file_system_without_locks(error, tmp_path, monkeypatch, whole):
    class Lockless(filelock.FileLock):
        def acquire(self, *how, **more):
            raise error

    monkeypatch.setattr(locks, "FileLock", Lockless)
    with pytest.warns(UserWarning, match="is on a file system without locks"):
        run = fit(folder=tmp_path)
    assert same(weights(run), weights(whole)) and same(weights(load(tmp_path)), weights(whole))


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("file", ["checkpoint.pt", "metrics.jsonl"])
def test_a_flipped_bit_is_found_or_harmless(file, run):
    run, folder = run
    content = (folder / file).read_bytes()
    places, refused = random.Random(0), 0
    for place in [places.randrange(8 * len(content)) for _ in range(60)]:
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        (folder / file).write_bytes(flipped)
        try:
            found = load(folder)
        except ValueError as error:
            assert f"{file} is damaged" in str(error) and "delete" in str(error)
            refused += 1
        else:
            assert same(weights(found), weights(run))
            assert found.history == run.history and found.config == run.config
    assert refused > 50


def test_an_unreadable_file_is_not_called_damaged(run, monkeypatch):
    def no_access(*path):
        raise PermissionError(errno.EACCES, "Permission denied", "checkpoint.pt")

    monkeypatch.setattr("builtins.open", no_access)
    with pytest.raises(PermissionError, match="checkpoint.pt"):
        load(run[1])


def nested(state, *keys, value):
    """The state with another value of these keys."""
    first, *rest = keys
    inner = nested(state[first], *rest, value=value) if rest else value
    return {**state, first: inner}


def with_momentum(state, change):
    """The state with that of the first weight changed."""
    keys = "optimizer", "state", 0, "momentum_buffer"
    return nested(state, *keys, value=change(state["optimizer"]["state"][0]["momentum_buffer"]))


CHECKPOINTS = {
    "a list": (lambda s: [s], "it must be dict, got"),
    "no optimizer": (
        lambda s: {k: v for k, v in s.items() if k != "optimizer"},
        "it must hold optimizer, got",
    ),
    "an empty optimizer": (lambda s: nested(s, "optimizer", value={}), "state"),
    "no state": (lambda s: nested(s, "optimizer", "state", value=None), "optimizer's state"),
    "another optimizer": (
        lambda s: nested(s, "optimizer", "state", 0, "momentum_buffer", value=torch.ones(7)),
        r"momentum_buffer must have the shape of its weight, .* got \(7,\)",
    ),
    "an infinite optimizer": (
        lambda s: with_momentum(s, lambda momentum: math.inf * momentum.abs()),
        "momentum_buffer must be finite, got .* inf",
    ),
    "an optimizer of nothing": (
        lambda s: nested(s, "optimizer", "state", value={}), "which is empty"
    ),
    "an optimizer without momentum": (
        lambda s: nested(s, "optimizer", "state", 0, "momentum_buffer", value=None),
        "momentum_buffer must be Tensor, got None",
    ),
    "more weights": (
        lambda s: nested(s, "optimizer", "state", 99, value={"momentum_buffer": torch.ones(7)}),
        "optimizer's state",
    ),
    "an unknown option": (
        lambda s: nested(s, "config", "colour", value=3),
        "config must hold options of Config, got colour",
    ),
    "an unknown method": (
        lambda s: nested(s, "config", "method", value="mine"),
        "method must be one of .*, got 'mine': register what it names",
    ),
    "no option": (lambda s: nested(s, "config", value=3), "config must be dict, got 3"),
    "a wrong option": (
        lambda s: nested(s, "config", "epochs", value=0), "epochs must be at least 1, got 0"
    ),
    "epoch -1": (lambda s: nested(s, "epoch", value=-1), "epoch must be at least 1, got -1"),
    "epoch 4": (lambda s: nested(s, "epoch", value=4), "epoch must be at most 3, got 4"),
    "epoch 2.5": (
        lambda s: nested(s, "epoch", value=2.5), "epoch must be a whole number, got .*2.5"
    ),
    "data": (lambda s: nested(s, "data", value=None), "data must be str, got None"),
    "given": (lambda s: nested(s, "given", value="no"), "given must be True or False"),
    "sizes": (lambda s: nested(s, "sizes", value=[]), "sizes must be dict"),
    "classes": (lambda s: nested(s, "sizes", "classes", value=0), "classes must be at least 1"),
    "no channels": (
        lambda s: nested(s, "sizes", value={"classes": 10}),
        "channels must be a whole number, got .*None",
    ),
    "NaN": (
        lambda s: nested(s, "model", "linear2.bias", value=torch.full((10,), math.nan)),
        r"model\['linear2.bias'\] must be finite, got nan",
    ),
    "many channels": (
        lambda s: nested(s, "sizes", "channels", value=10**9),
        "channels must be at most 65536, got 1000000000",
    ),
    "metrics": (lambda s: nested(s, "metrics", value=torch.ones(2)), "metrics must be a whole num"),
    "frozen": (lambda s: nested(s, "frozen", value=[3]), r"frozen\[0\] must be str, got 3"),
    "threads": (lambda s: nested(s, "threads", value=None), "threads must be a whole number, got"),
    "no tensor": (
        lambda s: nested(s, "model", "linear2.bias", value=3.0),
        r"model\['linear2.bias'\] must be Tensor, got 3.0",
    ),
    "no weights": (lambda s: nested(s, "model", value=[]), r"model must be Mapping, got \[\]"),
    "another shape": (
        lambda s: nested(s, "model", "linear2.bias", value=torch.ones(9)),
        "holds a run of another network, .*size mismatch for linear2.bias",
    ),
    "one weight less": (
        lambda s: nested(
            s, "model", value={k: v for k, v in s["model"].items() if k != "linear2.bias"}
        ),
        "holds a run of another network, .*Missing key",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_of_no_run(case, run):
    """Whole, but not what a run leaves; the file is named, and what to do."""
    change, message = CHECKPOINTS[case]
    torch.save(change(stored(run[1])), run[1] / "checkpoint.pt")
    with pytest.raises(ValueError, match=f"(?s)checkpoint.pt .*{message}"):
        fit(folder=run[1])
    if "optimizer" not in case and case not in ("no state", "more weights"):
        with pytest.raises(ValueError, match=f"(?s)checkpoint.pt .*{message}"):
            load(run[1])


def test_a_network_much_larger_than_its_weights(run):
    """Is told before its memory is taken."""
    forged = nested(stored(run[1]), "config", "width", value=2**12)
    torch.save(forged, run[1] / "checkpoint.pt")
    message = r"width=4096, 10 classes, 1 channels has a weight \(8192, 4096, 3, 3\) of over 167772"
    with pytest.raises(ValueError, match=f"checkpoint.pt cannot be used here, .*{message}"):
        load(run[1])
    config = replace(SMALL, width=2**12)
    with pytest.raises(ValueError, match=f"^model='small_cnn' of {message}"):
        training.network(config, weights(run[0]), channels=1)


METRICS = {
    "no object": ("3", "line 2 must be dict, got 3"),
    "no JSON": ("{", "Expecting property name"),
    "nothing": ("", "Expecting value"),
    "no loss": ({"loss": None}, "loss in line 2 must be a number, got NoneType"),
    "a text": ({"error": "0.1"}, "error in line 2 must be a number, got str"),
    "NaN": ({"penalty": math.nan}, "penalty in line 2 must be finite, got nan"),
    "another epoch": ({"epoch": 3}, "epoch in line 2 must be 2, got 3"),
    "deep": ("[" * 100_000, "maximum recursion depth exceeded"),
}


@pytest.mark.parametrize("summed", [True, False])
@pytest.mark.parametrize("case", METRICS)
def test_metrics_of_no_run(case, summed, run):
    """Before their checksum was stored, too."""
    change, message = METRICS[case]
    path, state = run[1] / "metrics.jsonl", stored(run[1])
    lines = path.read_text().splitlines()
    lines[1] = change if isinstance(change, str) else json.dumps(json.loads(lines[1]) | change)
    path.write_text("\n".join(lines) + "\n")
    if not summed:
        del state["metrics"]
        torch.save(state, run[1] / "checkpoint.pt")
    says = "its checksum differs" if summed else message
    for use in (load, lambda folder: fit(folder=folder)):
        with pytest.raises(ValueError, match=f"metrics.jsonl is damaged, {says}.*: delete"):
            use(run[1])


def test_runs_without_checksums_and_threads_go_on(whole, run):
    """As they were stored before."""
    state = stored(run[1])
    del state["metrics"], state["threads"]
    torch.save(state, run[1] / "checkpoint.pt")
    assert same(weights(load(run[1])), weights(whole)) and len(load(run[1]).history) == 3
    assert same(weights(fit(folder=run[1])), weights(whole))


# ---------------------------------------------------------------- a full disk


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("file", ["checkpoint.pt", "metrics.jsonl"])
def test_a_full_disk(file, code, whole, tmp_path, monkeypatch):
    """In the last epoch: what was there before is still there, nothing else, and goes on."""
    left, flush = itertools.count(), os.fsync

    def full(descriptor):
        if next(left) == (4 if file == "metrics.jsonl" else 5):
            raise OSError(code, os.strerror(code))
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError) as error:
            fit(folder=tmp_path, checkpoint_every=1)
    reason = os.strerror(code) if code == errno.EIO else "the disk is full"
    assert error.value.errno == code and str(error.value).endswith(
        f"{reason}, {tmp_path / file} was not written: mend that, and the same call goes on from "
        "epoch 2"
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock", "checkpoint.pt", "metrics.jsonl"
    }  # fmt: skip
    assert stored(tmp_path)["epoch"] == len(load(tmp_path).history) == 2
    assert same(weights(fit(folder=tmp_path)), weights(whole))


def test_a_file_system_that_turns_read_only(run, monkeypatch):
    """The file is named that was to be written, not what is left of it."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "a .part")

    for name in ("fsync", "unlink"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(OSError, match=r"Read-only file system: '.*/kept.json'$"):
        files.replace_file(run[1] / "kept.json", lambda stream: None)


def test_a_removed_folder(tmp_path):
    """What was stored is gone with it."""
    run = Training(SMALL, dataset=IMAGES, folder=tmp_path / "run", checkpoint_every=1)
    steps = run.steps()
    while run.epoch < 1:
        next(steps)
    assert run.stored == 1
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="metrics.jsonl was not written: .* from epoch 0$"):
        list(steps)


def test_a_limit_on_files_is_as_a_full_disk(tmp_path):
    """The kernel's own error in the midst of a file, not torch's."""
    process = processes.Process(target=within_a_limit, args=(tmp_path,))
    process.start()
    process.join(120)
    assert process.exitcode == 0


def within_a_limit(folder):
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    with pytest.raises(
        OSError, match="File too large, .*checkpoint.pt was not written: .* epoch 0"
    ):
        fit(folder=folder, checkpoint_every=1)
    assert {path.name for path in folder.iterdir()} == {".lock", "metrics.jsonl"}


# ---------------------------------------------------------------- threads, and whose images


def test_another_number_of_threads_is_told(whole, tmp_path, monkeypatch):
    """Where the run goes on, not where it is done."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        calls, eager = itertools.count(), Training.eager_step

        def stopped(self):
            if next(calls) == 3:
                raise KeyboardInterrupt
            eager(self)

        patch.setattr(Training, "eager_step", stopped)
        fit(folder=tmp_path, checkpoint_every=1)
    torch.save(stored(tmp_path) | {"threads": 99}, tmp_path / "checkpoint.pt")
    with pytest.warns(UserWarning, match="was trained with 99 threads and goes on with"):
        run = fit(folder=tmp_path)
    assert same(weights(run), weights(whole))
    torch.save(stored(tmp_path) | {"threads": 99}, tmp_path / "checkpoint.pt")
    assert same(weights(fit(folder=tmp_path)), weights(whole))


def test_images_are_known_by_their_checksum(run):
    """Of the images trained on and their labels; not by the name or the source."""
    folder = run[1]
    assert files.trained_on(folder, IMAGES)
    assert files.trained_on(folder, replace(IMAGES, source="elsewhere"))
    changed = IMAGES.images.clone()
    changed[0, 0, 0] ^= 1
    assert not files.trained_on(folder, replace(IMAGES, images=changed))
    assert not files.trained_on(folder, replace(IMAGES, labels=IMAGES.labels.roll(1)))
    assert not files.trained_on(folder, replace(IMAGES, split={"train": range(16)}))
    few = fit(replace(SMALL, images=20), folder=folder.with_name("few"))
    assert files.trained_on(folder.with_name("few"), IMAGES) and few.history
    assert not files.trained_on(
        folder.with_name("few"), replace(IMAGES, split={"train": range(19)})
    )


# ---------------------------------------------------------------- time


class Clock:
    """A time that passes a second with each look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


@pytest.mark.parametrize("limit", [0.5, 1.5, 2.5])
def test_a_limited_time_loses_nothing(limit, whole, tmp_path, monkeypatch):
    """One look an epoch, which takes next to nothing: so many epochs are done and stored."""
    monkeypatch.setattr("wdtr_lite.training.run.time.time", Clock())
    done = int(limit)
    with pytest.raises(Unfinished, match=f"up after epoch {done} of {SMALL.epochs}: the same call"):
        fit(folder=tmp_path, until=limit, checkpoint_every=10)
    if done:
        assert stored(tmp_path)["epoch"] == done
    assert same(weights(fit(folder=tmp_path)), weights(whole))


def test_rates_are_the_configurations(whole, tmp_path, monkeypatch):
    """Not those that a file holds."""
    monkeypatch.setattr("wdtr_lite.training.run.time.time", Clock())
    with pytest.raises(Unfinished):
        fit(folder=tmp_path, until=1.5)
    state = stored(tmp_path)
    group = {**state["optimizer"]["param_groups"][0], "initial_lr": 7.0}
    forged = nested(state, "optimizer", "param_groups", value=[group])
    torch.save(forged, tmp_path / "checkpoint.pt")
    assert same(weights(fit(folder=tmp_path)), weights(whole))


def test_of_networks_together_each_ends_its_epoch(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("wdtr_lite.training.run.time.time", Clock())
    folders, options = [tmp_path / "a", tmp_path / "b"], {"device": "cpu", "progress": False}
    options["dataset"] = IMAGES
    configs = [SMALL, replace(SMALL, seed=1)]
    with pytest.raises(Unfinished, match="the time is up after epoch 0"):
        fit_together(configs, folders=folders, until=1.5, **options)
    assert stored(folders[0])["epoch"] == 1
    assert same(weights(fit_together(configs, folders=folders, **options)[0]), weights(whole))


def test_a_limited_time_asks_for_a_folder():
    with pytest.raises(ValueError, match="^folder must be given with until=3.0, got None"):
        fit(until=3.0)

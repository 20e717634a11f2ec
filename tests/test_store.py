"""Names of what is stored, and that nothing stored under earlier names is lost."""

import hashlib
import json
import random
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from oracles import real

from wdtr_lite import training
from wdtr_lite.attacks import Attack
from wdtr_lite.study import grid, legacy
from wdtr_lite.study import store as store_module
from wdtr_lite.study.figure2 import Sequences
from wdtr_lite.study.grid import Network
from wdtr_lite.study.questions import ATTACKS, Errors, Flips, WassersteinAttack, fgsm, pgd20
from wdtr_lite.study.robust_digits import NAMES, DigitErrors
from wdtr_lite.study.spec import Question
from wdtr_lite.study.store import Store, described, given
from wdtr_lite.study.stress import AutoAttack, Confidence, Frames, LossSurface, TransferErrors
from wdtr_lite.study.transport_ball import StaticBall
from wdtr_lite.study.variation import GradientNorms, PathLengths, VariationErrors

FULL_SCALE = Path(__file__).parents[2] / "shared/fullscale/networks-159epochs.tar"
CONFIG = training.Config(
    data="mnist5k", model="small_cnn", width=2, images=64, batch_size=32, epochs=2,
    learning_rate=0.05, milestones=(1,), method="euclidean", eta=0.5,
)  # fmt: skip


def md5(text, digits):
    return hashlib.md5(text.encode()).hexdigest()[:digits]


# ---------------------------------------------------------------- names


def test_a_network_is_named_by_what_is_not_as_by_default(tmp_path):
    """Readably, in a format that is told; so a field that is added later changes no name."""
    fields = {
        "data": "mnist5k", "images": 64, "model": "small_cnn", "width": 2, "method": "euclidean",
        "eta": 0.5, "epochs": 2, "batch_size": 32, "learning_rate": 0.05, "milestones": [1],
    }  # fmt: skip
    text = json.dumps({"format": 2, **fields}, sort_keys=True)
    name = f"mnist5k-small_cnn-euclidean-s0-{md5(text, 12)}"
    assert Store(tmp_path).folder(CONFIG) == tmp_path / name
    others = [
        replace(CONFIG, seed=1),
        replace(CONFIG, eta=0.25),
        replace(CONFIG, method="none", eta=0),
    ]
    assert len({Store(tmp_path).folder(each).name for each in [CONFIG, *others]}) == 4


PGD = Attack("pgd", 8 / 255)  # with the default step


@dataclass(frozen=True)
class Asked(Question, name="asked"):
    part: str
    how: tuple = ()
    attack: object = None
    root: Path | None = field(default=None, compare=False)

    def __call__(self, model, dataset):
        return 1


def test_a_measurement_is_named_by_its_question_and_options(tmp_path):
    def name(*options, **more):
        return Store(tmp_path).file(CONFIG, Asked(*options, **more)).name

    text = json.dumps({"format": 2, "part": "test"}, sort_keys=True)
    assert name("test") == f"asked-{md5(text, 12)}.json" == name("test", root=tmp_path)
    different = [name("test"), name("fit"), name("test", (1,)), name("test", attack=fgsm(8))]
    assert (
        len(
            {
                *different,
                name("test", attack=fgsm(2)),
                name("test", attack=pgd20(8)),
                name("test", attack=PGD),
            }
        )
        == 7
    )


@pytest.mark.parametrize("how", [({1: 2},), ([{None: 2}],), {"a": {True: 2}}], ids=repr)
def test_options_by_text_alone(how, tmp_path):
    """In a file's name JSON makes the same of {1: 2} and {"1": 2}."""
    says = "^each key in the options of the question 'asked' must be str, got (1|None|True)$"
    with pytest.raises(TypeError, match=says):
        Store(tmp_path).file(CONFIG, Asked("test", how))


@dataclass(frozen=True)
class Darker:
    epsilon: float = 0.1


@dataclass(frozen=True)
class Lighter:
    epsilon: float = 0.1


def test_attacks_of_two_classes_are_measured_apart(tmp_path, monkeypatch):
    """The first of the package are named as ever."""
    store, one, other = Store(tmp_path), *(Asked("test", attack=a()) for a in (Darker, Lighter))
    assert store.file(CONFIG, one) != store.file(CONFIG, other)
    assert described(one) == f'asked {{"attack": {{"class": "{__name__}.Darker"}}, "part": "test"}}'
    store.folder(CONFIG).mkdir()
    store.keep(CONFIG, one, 3, 1.0)
    assert store.measured(CONFIG, one)["measurement"] == 3 and not store.measured(CONFIG, other)
    assert store.measured(CONFIG, Errors("test", 4, Darker())) is None
    assert "class" not in described(Asked("test", attack=WassersteinAttack(0.1, 2)))
    assert '"wdtr_lite.study.transport_ball.StaticBall"' in described(
        Asked("test", StaticBall(0.1))
    )
    names = set()
    for module in ("__main__", "__mp_main__"):  # of a script, in its process and in the pool's
        monkeypatch.setattr(Darker, "__module__", module)
        names.add(described(one))
    assert names == {'asked {"attack": {"class": "__main__.Darker"}, "part": "test"}'}


def test_a_question_has_a_name_of_its_own():
    def again():
        class Mine(Asked, name="again"):
            pass

        return Mine

    assert again() is not again(), "as by a notebook's cell that is run twice"
    for name, error, says in (
        ("errors", ValueError, "name must be free, got 'errors', which is <class '.*Errors'>"),
        ("again", ValueError, "name must be free, got 'again'"),
        ("a/b", ValueError, "name must be up to 100 letters, digits, _ and -, .* got 'a/b'"),
        ("", ValueError, "name must be up to 100 letters"),
        ("x" * 101, ValueError, "name must be up to 100 letters"),
        (3, TypeError, "name must be str, got 3"),
    ):
        with pytest.raises(error, match=f"^{says}"):
            type("Other", (Asked,), {}, name=name)


def test_given_are_the_fields_that_are_not_as_by_default():
    assert given(training.Config()) == {}
    assert given(Asked("test", attack=fgsm(255), root=Path("x"))) == {
        "part": "test",
        "attack": {"method": "fgsm", "epsilon": 1.0},
    }


# ---------------------------------------------------------------- what was stored before

OLD = {
    "data": "mnist5k", "split": None, "part": "train", "images": 64, "model": "small_cnn",
    "activation": "softplus", "width": 2, "method": "euclidean", "eta": 0.5, "radius": None,
    "of": "loss", "mode": "double_backprop", "scale": "trace", "epsilon": 0.0, "steps": 7,
    "warmup": 0, "epochs": 2, "batch_size": 32, "learning_rate": 0.05, "milestones": [1],
    "momentum": 0.9, "weight_decay": 0.0001, "precision": "float32", "seed": 0,
}  # fmt: skip
SOURCE = training.Config(
    data="cifar10", split="holdout", model="resnet8", epochs=4, milestones=(2, 3),
    method="wasserstein", eta=0.5, radius=2, mode="finite_difference",
)  # fmt: skip
OLD_SOURCE = {
    "data": "cifar10", "split": "holdout", "model": "resnet8", "epochs": 4, "milestones": [2, 3],
    "method": "wasserstein", "eta": 0.5, "radius": 2, "mode": "finite_difference", "seed": 0,
}  # fmt: skip
PGD50 = {"method": "pgd", "steps": 50, "restarts": 10}
TEST = {"part": "test", "images": 7}
MOVED = {"axis": "vertical", "padding": "edge", "reach": 4}
BEFORE = [  # questions, and what they were: function and options
    (Errors("test", None, None), "evidence.errors", {**TEST, "images": None, "attack": None}),
    (
        Errors("test", 7, fgsm(25)),
        "evidence.errors",
        {**TEST, "attack": {"method": "fgsm", "epsilon": 25}},
    ),
    (
        Errors("test", 7, ATTACKS["I-FGSM-20 8"]),
        "evidence.errors",
        {**TEST, "attack": {"method": "ifgsm", "epsilon": 8, "alpha": 2, "steps": 20}},
    ),
    (
        Errors("test", 7, pgd20(1)),
        "evidence.errors",
        {**TEST, "attack": {"method": "pgd", "epsilon": 1, "alpha": 0.125, "steps": 20}},
    ),
    (
        Errors("test", 7, pgd20(24)),
        "evidence.errors",
        {**TEST, "attack": {"method": "pgd", "epsilon": 24, "alpha": 3.0, "steps": 20}},
    ),
    (
        Errors("test", 7, ATTACKS["PGD-50 linf"]),
        "evidence.errors",
        {**TEST, "attack": {**PGD50, "epsilon": 8, "alpha": 2}},
    ),
    (
        Errors("test", 7, ATTACKS["PGD-50 l2"]),
        "evidence.errors",
        {**TEST, "attack": {**PGD50, "epsilon": 128, "alpha": 16, "norm": "l2"}},
    ),
    (
        TransferErrors("test", 7, pgd20(8), SOURCE),
        "evidence.transfer_errors",
        {
            **TEST,
            "attack": {"method": "pgd", "epsilon": 8, "alpha": 1.0, "steps": 20},
            "source": OLD_SOURCE,
        },
    ),
    (AutoAttack("test", 7, 8), "evidence.autoattack", {**TEST, "epsilon": 8}),
    (
        AutoAttack("test", 7, 8, only="square"),
        "evidence.autoattack",
        {**TEST, "epsilon": 8, "only": "square"},
    ),
    (Confidence("test", 7), "evidence.confidence", TEST),
    (Flips("test", 7, **MOVED), "evidence.flips", {**TEST, **MOVED}),
    (Sequences("test", 7, **MOVED), "evidence.sequences", {**TEST, **MOVED}),
    (VariationErrors("test", 7), "evidence.variation_errors", TEST),
    (GradientNorms("test", 7, radius=2), "evidence.gradient_norms", {**TEST, "radius": 2}),
    (PathLengths("test", 3, 4), "evidence.along_paths", {"part": "test", "pairs": 3, "steps": 4}),
    (LossSurface("test", 7, 16, 21), "evidence.loss_surface", {**TEST, "reach": 16, "points": 21}),
    (Frames("test", 7, (0, 2, 16)), "evidence.frames", {**TEST, "epsilons": [0, 2, 16]}),
    (
        DigitErrors("test", 8, NAMES),
        "experiments.digit_errors",
        {"part": "test", "judged": 8, "names": list(NAMES)},
    ),
]


def test_every_attack_can_be_asked_about(tmp_path):
    files = {Store(tmp_path).file(CONFIG, Errors("test", 7, each)) for each in ATTACKS.values()}
    assert len(files) == len(ATTACKS)


def old_file(function, options):
    described = f"wdtr_lite.{function} {json.dumps(options, sort_keys=True)}"
    return f"{function.partition('.')[2]}-{md5(described, 8)}.json", described


@pytest.fixture
def before(tmp_path):
    """A folder of one network, trained now, and of its measurements, under the names of before."""
    folder = tmp_path / md5(json.dumps([OLD, {}]), 12)
    training.fit(CONFIG, folder=folder, device="cpu", progress=False)
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    state["config"] = OLD | {"milestones": (1,)}
    torch.save(state, folder / "checkpoint.pt")
    for k, (_, *asked) in enumerate(BEFORE):
        name, described = old_file(*asked)
        answer = {"wrong": k, "frames": [{"chances": [0.5, k]}]}
        told = {"question": described, "seconds": k + 0.5, "answer": answer}
        (folder / name).write_text(json.dumps(told))
    return folder


def test_what_was_stored_before_is_found(before, monkeypatch):
    """The network is not trained again, nor asked; by whichever call it is met first."""
    root, history = before.parent, training.load(before).history
    monkeypatch.setattr(training, "fit", None)
    monkeypatch.setattr(grid, "executor", None)
    store = Store(root, finished=True)
    assert grid.trained(CONFIG, Store(root)).history == history
    assert not before.exists() and [each.name for each in root.iterdir()] == [
        store.folder(CONFIG).name
    ]
    questions = {str(k): question for k, (question, *_) in enumerate(BEFORE)}
    (found,) = grid.complete([Network(CONFIG, questions)], store)
    for k, (name, measured) in enumerate(found["measurements"].items()):
        assert measured == {"wrong": k, "frames": [{"probabilities": [0.5, k]}]}
        assert found["seconds"][name] == k + 0.5
    assert found["training"] == history[-1]
    names = {path.name for path in store.folder(CONFIG).glob("*.json")}
    assert names == {store.file(CONFIG, question).name for question, *_ in BEFORE}
    assert grid.complete([Network(CONFIG, questions)], store) == [found], "found again"
    grid.in_memory.cache_clear()


def test_what_could_not_be_stored_before_is_not_found(before):
    """Another field, one of those that came later, another epsilon."""
    root = before.parent
    assert legacy.folder(replace(CONFIG, optimizer="adamw")) is None
    for config in (replace(CONFIG, seed=1), replace(CONFIG, augmentation="flip_crop")):
        assert not Store(root).folder(config).exists() and before.exists()
    other = list(legacy.files("errors", given(Errors("test", 7, fgsm(25.4)))))
    assert old_file(*BEFORE[1][1:])[0] not in other


@pytest.mark.parametrize(
    "text, says",
    [
        ("{", "{file} is damaged"),
        ("", "{file} is damaged"),
        ("\x80", "{file} is damaged"),
        ("3", "{file} holds 3 in place of a dict"),
        ("[1]", "{file} holds [1] in place of a dict"),
        ("{}", "{file} lacks 'measurement'"),
        ('{"measurement": 1}', "{file} lacks 'seconds'"),
        ('{"measurement": NaN, "seconds": 1}', "{file} is damaged"),
        ('{"measurement": 1e999, "seconds": 1}', "{file} is damaged"),
        ("[" * 100_000, "{file} is damaged"),
        *(
            (
                f'{{"measurement": 1, "seconds": {seconds}}}',
                f"{{file}} is damaged, seconds must be {says}",
            )
            for seconds, says in (
                ("-1", "non-negative and finite, got -1"),
                ('"x"', "a number, got str 'x'"),
                ("null", "a number, got NoneType None"),
                ("true", "a number, got bool True"),
            )
        ),
    ],
    ids=range(14),
)
@pytest.mark.parametrize("old", [False, True])
def test_a_file_that_nobody_wrote_there(old, text, says, before):
    """Also under its name of before. It is named, and what to do; then it is measured anew."""
    store, question = Store(before.parent), Errors("test", 5, None)
    known, _ = old_file("evidence.errors", {"part": "test", "images": 5, "attack": None})
    file = store.folder(CONFIG) / known if old else store.file(CONFIG, question)
    file.write_bytes(text.encode("latin-1"))
    asked = Network(CONFIG, {"natural": question})
    with pytest.raises(ValueError) as error:
        grid.complete([asked], store)
    told = str(error.value)
    named = next(path for path in store.folder(CONFIG).glob("errors-*") if str(path) in told)
    assert told == says.format(file=named) + ": delete it, and run the command again"
    named.unlink()
    assert grid.outcome(asked, store) is None


@pytest.mark.parametrize("text", ["", '"the run', "3", "{}", '""', "[]", "null", "[" * 100_000])
def test_a_note_of_divergence_that_nobody_wrote(text, tmp_path):
    file = Store(tmp_path).folder(CONFIG) / "diverged.json"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(ValueError, match="diverged.json .*: delete it, and run the command again"):
        grid.complete([Network(CONFIG, {})], Store(tmp_path))


# ---------------------------------------------------------------- what is another's

OTHER = replace(CONFIG, seed=1)
ASKED = {"natural": Errors("test", 5, None)}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two networks, each trained and asked."""
    root = tmp_path_factory.mktemp("two")
    for config in (CONFIG, OTHER):
        grid.work(Network(config, ASKED), Store(root))
    return root


@pytest.fixture
def pair(two, tmp_path):
    """A store of theirs that may be changed, and the folder of each."""
    grid.in_memory.cache_clear()
    store = Store(shutil.copytree(two, tmp_path / "root"))
    yield store, store.folder(CONFIG), store.folder(OTHER)
    grid.in_memory.cache_clear()


def readers(store):
    """Whoever looks at the other network."""
    asked = Network(OTHER, ASKED)
    yield lambda: grid.outcome(asked, store)
    yield lambda: grid.complete([asked], replace(store, finished=True))
    yield lambda: grid.work(asked, store)


def test_a_measurement_of_another_network(pair):
    store, one, _ = pair
    file = store.file(OTHER, *ASKED.values())
    shutil.copy(one / file.name, file)
    for read in readers(store):
        with pytest.raises(ValueError) as error:
            read()
        assert str(error.value) == (
            f"{file} is of the network {one.name!r}: delete it, and run the command again"
        )


def test_a_measurement_of_another_question(pair):
    store, _, _ = pair
    files = [store.file(OTHER, Errors("test", images, None)) for images in (5, 6)]
    shutil.copy(*files)
    with pytest.raises(
        ValueError, match=r"is of the question 'errors .*\"images\": 5.*': delete it"
    ):
        grid.outcome(Network(OTHER, {"natural": Errors("test", 6, None)}), store)


@pytest.mark.parametrize("measured", [True, False])
def test_a_checkpoint_of_another_network(measured, pair):
    """Also where it is measured already."""
    store, one, other = pair
    for name in ("checkpoint.pt", "metrics.jsonl"):
        shutil.copy(one / name, other / name)
    says = f"^{other} holds the network {one.name!r}: delete it, and run the command again$"
    if not measured:
        store.file(OTHER, *ASKED.values()).unlink()
    for read in [*readers(store)][0 if measured else 2 :]:
        with pytest.raises(ValueError, match=says):
            read()
    with pytest.raises(ValueError, match=says):
        grid.trained(OTHER, store)
    with pytest.raises(ValueError, match=says):
        grid.progress([OTHER], store)


def test_a_divergence_of_another_network(pair):
    store, one, other = pair
    store.keep_divergence(CONFIG, "in epoch 1")
    assert grid.outcome(Network(CONFIG, ASKED), store) == {"diverged": "in epoch 1"}
    shutil.copy(one / "diverged.json", other)
    for read in readers(store):
        with pytest.raises(ValueError, match=f"diverged.json is of the network {one.name!r}: del"):
            read()
    (other / "diverged.json").write_text('"in epoch 2"')  # as it was once
    assert grid.outcome(Network(OTHER, ASKED), store) == {"diverged": "in epoch 2"}


def test_a_measurement_from_before_it_was_told_whose_it_is(pair):
    store, _, _ = pair
    file, before = store.file(OTHER, *ASKED.values()), grid.outcome(Network(OTHER, ASKED), store)
    told = json.loads(file.read_text())
    old = {name: told[name] for name in ("question", "seconds", "measurement")}
    file.write_text(json.dumps(old))
    assert grid.outcome(Network(OTHER, ASKED), store) == before


def test_flipped_bits_change_no_outcome(pair):
    """Of a measurement and of a checkpoint: right as before, or refused by name."""
    store, _, other = pair
    asked = Network(OTHER, ASKED)
    right = grid.outcome(asked, store)
    for file in (store.file(OTHER, *ASKED.values()), other / "checkpoint.pt"):
        whole = file.read_bytes()
        for place in random.Random(0).sample(range(8 * len(whole)), 60):
            changed = bytearray(whole)
            changed[place // 8] ^= 1 << place % 8
            file.write_bytes(changed)
            try:
                assert grid.outcome(asked, store) == right, place
            except ValueError as error:
                assert str(file) in str(error) and "delete" in str(error)
        file.write_bytes(whole)


@pytest.mark.parametrize("bit", range(7))
def test_a_flipped_bit_in_the_name_of_the_checksum(bit, pair):
    """With which another change would not be seen."""
    store, one, _ = pair
    store.keep_divergence(CONFIG, "in epoch 1")
    for file in (one / "diverged.json", store.file(CONFIG, *ASKED.values())):
        text = bytearray(file.read_bytes())
        text[text.index(b'"checksum"') + 3] ^= 1 << bit
        file.write_bytes(text.replace(b"1", b"2"))
        with pytest.raises(ValueError, match=f"^{file} (is damaged|holds .*, which is unknown): d"):
            grid.outcome(Network(CONFIG, ASKED), store)
        file.unlink()


def test_a_store_makes_its_folders(tmp_path):
    store, (question,) = Store(tmp_path / "new"), ASKED.values()
    store.keep(CONFIG, question, 3, 1.0)
    store.keep_divergence(OTHER, "in epoch 1")
    assert store.measured(CONFIG, question)["measurement"] == 3
    assert store.diverged(OTHER)["diverged"] == "in epoch 1"


def test_what_is_written_is_json(tmp_path):
    file = tmp_path / "it.json"
    store_module.write(file, {"a": [1, 0.5]})
    before = file.read_text()
    with pytest.raises(ValueError, match=f"^what {file} is to hold must have finite .*, got NaN$"):
        store_module.write(file, {"a": float("nan")})
    assert file.read_text() == before and list(tmp_path.iterdir()) == [file]
    assert store_module.read(file) == {"a": [1, 0.5]}
    file.write_text(before.replace("0.5", "0.6"))
    with pytest.raises(ValueError, match="it.json is damaged: delete it"):
        store_module.read(file)


RENAME = """
import sys
from test_store import CONFIG, Store
sys.stdin.read(1)
print(Store(sys.argv[1]).folder(CONFIG))
"""


def test_two_processes_rename_a_folder(before):
    command = [sys.executable, "-c", RENAME, before.parent]
    how = {"cwd": Path(__file__).parent, "text": True, "stdin": subprocess.PIPE}
    pair = [subprocess.Popen(command, stdout=subprocess.PIPE, **how) for _ in range(2)]
    for process in pair:
        process.stdin.write("!")
        process.stdin.flush()
    found = [process.communicate()[0].strip() for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    assert found == [str(Store(before.parent).folder(CONFIG))] * 2
    assert not before.exists() and len(training.load(found[0]).history) == 2


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda store: store.folder(None), TypeError, "config must be Config, got None"),
        (lambda store: store.file(CONFIG, None), TypeError, "question must be Question, got None"),
        (
            lambda store: store.measured(None, Errors("test", 5, None)),
            TypeError,
            "config must be Config, got None",
        ),
        (lambda store: store.measured(CONFIG, 3), TypeError, "question must be Question, got 3"),
        (lambda store: store.keep(CONFIG, None, 1, 1), TypeError, "question must be Question"),
        (lambda store: store.diverged(None), TypeError, "config must be Config, got None"),
        (lambda store: Store().folder(CONFIG), ValueError, "root must be given where .* None"),
    ],
    ids=range(7),
)
def test_a_store_is_asked_of_a_network_and_a_question(call, error, says, tmp_path):
    with pytest.raises(error, match=f"^{says}"):
        call(Store(tmp_path))


@pytest.mark.parametrize(
    "options, error, says",
    [
        *(
            (without, ValueError, "root must be given with cluster, finished, until or .* None")
            for without in ({"until": 0.0}, {"until": 9.0}, {"trains": False})
        ),
        ({"root": 3}, TypeError, "root must be a path, got 3"),
        ({"root": ""}, ValueError, "root must name a folder, got ''"),
        ({"cluster": 3}, TypeError, "cluster must be str, got 3"),
        (
            {"finished": True},
            ValueError,
            "root must be given with cluster, finished, until or trains=False, got None",
        ),
        (
            {"cluster": "a:1"},
            ValueError,
            "root must be given with cluster, finished, until or trains=False, got None",
        ),
        ({"finished": "yes"}, TypeError, "finished must be True or False, got str 'yes'"),
    ],
)
def test_a_store_of_nothing(options, error, says):
    with pytest.raises(error, match=f"^{says}$"):
        Store(**options)


def test_the_root_may_be_a_text(tmp_path):
    assert Store(str(tmp_path)) == Store(tmp_path)


@real("cifar10")
def test_networks_at_full_scale_are_found(tmp_path, monkeypatch):
    """Those of the paper, 159 of 200 epochs, under the names of then."""
    if not FULL_SCALE.exists():
        pytest.skip(f"{FULL_SCALE.name} is not here")
    configs = {
        f"{method}-eta{eta:g}-r{radius}-s0": training.Config(
            data="cifar10",
            split="holdout",
            precision="bfloat16",
            method=method,
            eta=eta,
            radius=radius,
        )
        for method, eta, radius in (
            ("none", 0, None),
            ("euclidean", 1, None),
            ("wasserstein", 1, 8),
        )
    }
    with tarfile.open(FULL_SCALE) as networks:
        networks.extractall(tmp_path, filter="data")
    for name, config in configs.items():
        (tmp_path / name).rename(tmp_path / legacy.folder(config))
    store = Store(tmp_path)
    for config in configs.values():
        run = training.load(store.folder(config))
        assert run.config == config and len(run.history) == 159
        assert grid.outcome(Network(config, {}), store) is None, "not trained to the end"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        store.folder(config).name for config in configs.values()
    )

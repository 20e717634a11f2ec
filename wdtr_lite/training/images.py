"""The images to train on, and what is to be known of them."""

import zlib

import torch
from torch import Tensor

from wdtr_lite import data
from wdtr_lite.training.config import Config


def training_images(dataset: data.Dataset, config: Config) -> tuple[Tensor, Tensor]:
    """uint8 images (N, C, H, W) and labels (N,)."""
    if config.part not in dataset.split:
        raise ValueError(
            f"part must be 'train' for {dataset.name}, which keeps no images for validation, "
            f"got {config.part!r}"
        )
    images, labels = dataset.part(config.part, config.images)
    if len(images) < config.batch_size:
        raise ValueError(
            f"batch_size must be at most the number of images, {len(images)}, "
            f"got {config.batch_size}"
        )
    return images[:, None] if images.dim() == 3 else images, labels


def checksum(images: Tensor, labels: Tensor) -> int:
    return zlib.crc32(labels.numpy().data, zlib.crc32(images.contiguous().numpy().data))


def mean_and_std(images: Tensor) -> tuple[list[float], list[float]]:
    """Of each channel's intensities in [0, 1]; from histograms, for CIFAR-10 in float64 takes
    gigabytes.
    """
    channels = images.unbind(1)
    counts = torch.stack([each.flatten().bincount(minlength=256) for each in channels]).double()
    values, n = torch.arange(256, dtype=torch.float64) / 255, counts.sum(1)
    mean = counts @ values / n
    variance = (counts * (values - mean[:, None]) ** 2).sum(1) / (n - 1)
    return mean.tolist(), variance.sqrt().tolist()

"""Networks that are trained while a page is made."""

from typing import Any

from torch import nn

from wdtr_lite import training
from wdtr_lite.data import Dataset

__all__ = ["trained"]


def trained(dataset: Dataset | None = None, **options: Any) -> nn.Module:
    """A small network after a few seconds on the digits of mnist5k, or of another data set; plain,
    unless the options of :class:`~wdtr_lite.training.Config` say another method.
    """
    config = training.Config(
        data="mnist5k", model="small_cnn", epochs=5, milestones=(4,), learning_rate=0.05, **options
    )
    return training.fit(config, dataset=dataset, progress=False, device="cpu").model

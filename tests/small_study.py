"""Digits in colour, few of them, on which questions and experiments are checked."""

from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from wdtr_lite import data
from wdtr_lite.study import grid

NETWORK = {"data": "mnist5k_color", "model": "resnet8", "width": 2}


def few_digits():
    """mnist5k_color with 50 images for validation and 250 for tests, as many of each class."""
    whole = data.load("mnist5k_color")
    few = {"validation": whole.split["validation"][::10], "test": whole.split["test"][::4]}
    return replace(whole, split={**whole.split, **few})


@pytest.fixture(scope="module")
def digits():
    return few_digits()


@pytest.fixture(scope="module", autouse=True)
def trained_on_digits(digits):
    """Wherever the package asks for the data set; networks are trained in this process, in turn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "dataset_of", lambda name, split=None: {"mnist5k_color": digits}[name])
        patch.setattr(grid, "executor", in_this_process)
        patch.setattr(torch.cuda, "is_available", lambda: False)
        grid.in_memory.cache_clear()
        yield
        grid.in_memory.cache_clear()


def drawn(digits, images, part="test"):
    """The images that a question is asked about, (B, C, H, W) in [0, 1], and their labels."""
    index = digits.split[part]
    index = index[torch.randperm(len(index), generator=seeded())[:images]]
    return digits.images[index].float() / 255, digits.labels[index]


@torch.no_grad()
def labels_of(model, x):
    return model(x).argmax(1)


@torch.no_grad()
def probabilities_of(model, x):
    return model(x).softmax(1)


def wrong(model, x, y):
    return int((labels_of(model, x) != y).sum())


def seeded():
    return torch.Generator().manual_seed(0)


@contextmanager
def in_this_process(cluster=None):
    """In place of a pool of processes."""

    class Executor:
        def submit(self, function, *arguments):
            future = Future()
            future.set_result(function(*arguments))
            return future

    yield Executor(), 0

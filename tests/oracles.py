"""What the tests of the geometry share: the paper's definitions as loops in float64, written
without the package; and the graph and the generator they are tried on."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st

from wdtr_lite import PixelGraph

settings.register_profile("book", derandomize=True, deadline=None, max_examples=40, database=None)
settings.load_profile("book")

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

FOLDERS = [f for f in (os.environ.get("WDTR_DATA"), Path(__file__).parents[1] / ".data") if f]
REAL = {  # where the real images are
    name: [folder for folder in FOLDERS if (Path(folder) / f"{name}.npz").exists()]
    for name in ("mnist", "cifar10")
}


def real(name):
    """A mark of what needs the real images."""
    return pytest.mark.skipif(not REAL[name], reason=f"no {name}.npz in $WDTR_DATA or .data")


def graph_of(height, width, radius, weight=1.0):
    return PixelGraph(height, width, radius, weight=weight).to(dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def kernel(radius, seed=0, zeros=0.2):
    """Random weights, equal at opposite offsets, some of them 0; never those of the four nearest
    neighbours."""
    rng = np.random.default_rng(seed)
    side = 2 * radius + 1
    weight = rng.random((side, side)) * (rng.random((side, side)) > zeros)
    weight[radius - 1 : radius + 2, radius - 1 : radius + 2] += 0.3
    return torch.tensor(weight + weight[::-1, ::-1])


# height, width, radius, weight: square, thin and tiny, all weights equal or not, windows clipped
# or larger than the image
SIZES = {
    "3x4": (3, 4, 1, 1.0),
    "3x4_weighted": (3, 4, 2, kernel(2)),
    "4x3_constant": (4, 3, 2, 2.5),
    "row": (1, 5, 2, 1.0),
    "row_weighted": (1, 5, 3, kernel(3, seed=1)),
    "column": (5, 1, 2, kernel(2, seed=2)),
    "2x2": (2, 2, 1, 1.0),
    "2x6_wide": (2, 6, 5, kernel(5, seed=3)),
    "4x4_radius_3": (4, 4, 3, 0.5),
}


def weight_matrix(height, width, radius, weight=1.0):
    """All weights (n, n): pixels are neighbours if rows and columns differ by at most the
    radius."""
    points = [(row, column) for row in range(height) for column in range(width)]
    matrix = np.zeros((len(points), len(points)))
    for i, (r, c) in enumerate(points):
        for j, (s, d) in enumerate(points):
            if i != j and max(abs(r - s), abs(c - d)) <= radius:
                matrix[i, j] = (
                    weight if np.isscalar(weight) else float(weight[radius + s - r, radius + d - c])
                )
    return matrix


def volume(weights):
    """The paper's d, (n,)."""
    return weights.sum(1) / weights.sum()


def laplacian(weights, x):
    """The paper's L(x), of x (n,), entry by entry."""
    n, d = len(x), volume(weights)
    matrix = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j:
                matrix[i, j] = -weights[i, j] * (x[i] / d[i] + x[j] / d[j]) / 2
                matrix[i, i] += weights[i, j] * (x[i] / d[i] + x[j] / d[j]) / 2
    return matrix


def laplacian_basis(weights):
    """L is linear in x: L(x) = sum_k x_k L_k. The L_k as a tensor (n, n, n), so that L can be
    differentiated in x."""
    return torch.tensor(np.stack([laplacian(weights, e) for e in np.eye(len(weights))]))


def images(*shape, seed=0, black=0.3):
    """Random float64 images, some pixels black."""
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.random(shape) * (rng.random(shape) >= black))


def measures(*shape, seed=0, black=0.3):
    """Random float64 images of mass 1 in each channel, some pixels black, never the first."""
    x = images(*shape, seed=seed, black=black)
    x[..., 0, 0] += 0.2
    return x / x.sum((-2, -1), keepdim=True)


def inside(*shape, seed=0):
    """Random float64 images of mass 1 in each channel, every pixel positive."""
    x = torch.tensor(np.random.default_rng(seed).random(shape) + 0.3)
    return x / x.sum((-2, -1), keepdim=True)


def tangents(*shape, seed=0, size=1.0):
    """Random float64 tensors that sum to zero in each channel."""
    v = torch.tensor(np.random.default_rng(seed).standard_normal(shape))
    return size * (v - v.mean((-2, -1), keepdim=True))


seeds = st.integers(0, 2**32 - 1)

"""What optimal transport costs here, against POT and SciPy: medians, interleaved, in one run.

``OMP_NUM_THREADS=1 python benchmarks/transport.py [--write]`` prints the tables; with ``--write``
it stores ``results/benchmark_transport.json``. About five minutes on two cores.
"""

import os
import warnings
from itertools import combinations

import numpy as np
import ot
import torch
from common import main, milliseconds, timed
from scipy.optimize import linprog
from scipy.sparse import eye, kron, vstack

from wdtr_lite import data
from wdtr_lite.transport import (
    as_measure,
    ground_cost,
    pairwise_distances,
    sinkhorn_distance,
    wasserstein_distance,
)


def random_digits(n, seed):
    chosen = np.random.default_rng(seed).choice(5000, n, replace=False)
    return data.load("mnist5k").images[chosen].numpy().astype(np.float64)


def exact(pairs=100):
    """(a) One exact W2 at a time, against POT on all 784 x 784 pixels with the cost at hand."""
    digits = random_digits(2 * pairs, seed=0)
    cost = ground_cost((28, 28))

    def full(x, y):
        return np.sqrt(ot.emd2(x.ravel() / x.sum(), y.ravel() / y.sum(), cost))

    ours, theirs, error = [], [], 0.0
    for x, y in zip(digits[:pairs], digits[pairs:]):
        (a, seconds), (b, their_seconds) = timed(wasserstein_distance, x, y), timed(full, x, y)
        ours.append(seconds)
        theirs.append(their_seconds)
        error = max(error, abs(a / b - 1))
    ratios = np.array(theirs) / ours
    return {
        "pairs": pairs,
        "wasserstein_distance_ms": milliseconds(ours),
        "pot_emd2_full_grid_ms": milliseconds(theirs),
        "median_ratio": round(float(np.median(ratios)), 2),
        "ratio_of_medians": round(float(np.median(theirs) / np.median(ours)), 2),
        "max_relative_difference": error,
    }


def pairwise(n=200):
    """(b) All distances among n digits, on all cores, against a plain loop over the same pairs.

    Half the loop runs before and half after, so that both meet the same machine.
    """
    digits = random_digits(n, seed=1)
    pairs = list(combinations(range(n), 2))

    def loop(some):
        return [wasserstein_distance(digits[i], digits[j]) for i, j in some]

    half = len(pairs) // 2
    first, first_seconds = timed(loop, pairs[:half])
    distances, seconds = timed(pairwise_distances, digits)
    second, second_seconds = timed(loop, pairs[half:])
    return {
        "digits": n,
        "pairs": len(pairs),
        "cores": len(os.sched_getaffinity(0)),
        "pairwise_distances_s": round(seconds, 2),
        "loop_s": round(first_seconds + second_seconds, 2),
        "ratio": round((first_seconds + second_seconds) / seconds, 2),
        "max_difference": float(
            abs(distances[tuple(np.transpose(pairs))] - (first + second)).max()
        ),
    }


def pot_distance(x, y, epsilon, method, lit=False, **options):
    """W2 by POT's Sinkhorn, on the full grid or on the lit pixels alone."""
    a, b = x.ravel() / x.sum(), y.ravel() / y.sum()
    cost = ground_cost(x.shape)
    if lit:
        cost, a, b = cost[np.ix_(a > 0, b > 0)], a[a > 0], b[b > 0]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        plan = np.asarray(ot.sinkhorn(a, b, cost, epsilon, method, **options))
    return float((plan * cost).sum()) ** 0.5


def batched_sinkhorn(epsilons=(5.0, 1.0), batch=64, subset=4):
    """(c) A batch of entropic distances, against a loop over POT's ``sinkhorn_log``.

    At equal epsilon. POT is timed on a subset of the pairs and scaled to the batch. Both stop at
    their own criterion; the tolerances are chosen so that ours is the more accurate, by the errors
    against a converged reference.
    """
    digits = random_digits(2 * batch, seed=2)
    x, y = torch.tensor(digits[:batch]), torch.tensor(digits[batch:])
    rows = []
    for epsilon in epsilons:
        reference = np.array(
            [
                pot_distance(
                    a, b, epsilon, "sinkhorn_log", lit=True, stopThr=1e-11, numItermax=10**5
                )
                for a, b in zip(digits[:subset], digits[batch:])
            ]
        )
        full, lit, full_values, lit_values = [], [], [], []
        for a, b in zip(digits[:subset], digits[batch:]):
            options = {"stopThr": 1e-6, "numItermax": 10**5}
            for on_lit, times, values in ((False, full, full_values), (True, lit, lit_values)):
                value, seconds = timed(
                    lambda: pot_distance(a, b, epsilon, "sinkhorn_log", lit=on_lit, **options)
                )
                times.append(seconds)
                values.append(value)
        values, seconds = timed(lambda: sinkhorn_distance(x, y, epsilon=epsilon, tol=1e-4))
        scale = batch / subset
        rows.append(
            {
                "epsilon": epsilon,
                "batch": batch,
                "sinkhorn_distance_s": round(seconds, 2),
                "pot_pairs_timed": subset,
                "pot_sinkhorn_log_s_scaled": round(sum(full) * scale, 2),
                "pot_sinkhorn_log_lit_pixels_s_scaled": round(sum(lit) * scale, 2),
                "ratio": round(sum(full) * scale / seconds, 1),
                "ratio_to_lit_pixels": round(sum(lit) * scale / seconds, 1),
                "our_max_relative_error": float(
                    abs(np.asarray(values[:subset]) / reference - 1).max()
                ),
                "pot_max_relative_error": float(abs(full_values / reference - 1).max()),
            }
        )
    return rows


def stability(epsilons=(5.0, 2.0, 1.0, 0.5, 0.2, 0.1), iterations=2000):
    """(c) Which are right as epsilon shrinks: a digit at the left border, another at the right.

    The plain kernel is given the lit pixels only: it cannot take a black one at any epsilon. All
    run to their criterion or the same bound on iterations; "right" is within 1 % of
    ``sinkhorn_log`` after ten times as many.
    """
    a, b = random_digits(2, seed=3)
    a, b = (np.roll(z, shift, axis=1) for z, shift in ((a, -4), (b, 4)))
    rows = []
    for epsilon in epsilons:
        options = {"lit": True, "stopThr": 1e-6}
        reference = pot_distance(
            a, b, epsilon, "sinkhorn_log", numItermax=10 * iterations, **options
        )
        plain = pot_distance(a, b, epsilon, "sinkhorn", numItermax=iterations, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours = float(sinkhorn_distance(a, b, epsilon=epsilon, tol=1e-5, max_iter=iterations))
        rows.append(
            {
                "epsilon": epsilon,
                "sinkhorn_log": round(reference, 5),
                "pot_plain": round(plain, 5) if np.isfinite(plain) else None,
                "sinkhorn_distance": round(ours, 5),
                "pot_plain_right": bool(abs(plain / reference - 1) < 0.01),
                "sinkhorn_distance_right": bool(abs(ours / reference - 1) < 0.01),
            }
        )
    return rows


def resized(image, side):
    """28 x 28 to 7, 14 by averaging, to 56 by repeating."""
    if side > 28:
        return image.repeat(side // 28, axis=0).repeat(side // 28, axis=1)
    k = 28 // side
    return image.reshape(side, k, side, k).mean((1, 3))


def by_linprog(x, y):
    """W2 by the linear program on the lit pixels."""
    i, j = x.ravel() > 0, y.ravel() > 0
    cost = ground_cost(x.shape)[np.ix_(i, j)]
    n, m = cost.shape
    marginals = vstack([kron(eye(n), np.ones((1, m))), kron(np.ones((1, n)), eye(m))]).tocsr()
    masses = np.concatenate([as_measure(x).ravel()[i], as_measure(y).ravel()[j]])
    return linprog(cost.ravel(), A_eq=marginals, b_eq=masses, method="highs").fun ** 0.5


def scaling(sides=(7, 14, 28, 56), largest_linprog=28):
    """(d) Time of one distance against the number of pixels n, by solver.

    Epsilon keeps its place in units of the image: 1 % of the squared side.
    """
    digits = random_digits(10, seed=4)
    rows = []
    for side in sides:
        times = {"exact": [], "sinkhorn": [], "linprog": []}
        differences, errors = [], []
        epsilon = 0.01 * side**2
        pairs = 5 if side < 56 else 2
        for k, (x, y) in enumerate(zip(digits[:pairs], digits[5:])):
            x, y = resized(x, side), resized(y, side)
            value, seconds = timed(wasserstein_distance, x, y)
            times["exact"].append(seconds)
            blurred, seconds = timed(
                lambda: sinkhorn_distance(x, y, epsilon=epsilon, debiased=True, tol=1e-4)
            )
            times["sinkhorn"].append(seconds)
            errors.append(float(blurred) / value - 1)
            if side <= largest_linprog and (side < 28 or k < 2):
                other, seconds = timed(by_linprog, x, y)
                times["linprog"].append(seconds)
                differences.append(abs(other / value - 1))
        rows.append(
            {
                "side": side,
                "n": side**2,
                "pairs": pairs,
                "pairs_linprog": len(times["linprog"]),
                "epsilon": round(epsilon, 4),
                "exact_ms": milliseconds(times["exact"]),
                "sinkhorn_debiased_ms": milliseconds(times["sinkhorn"]),
                "linprog_ms": milliseconds(times["linprog"]) if times["linprog"] else None,
                "sinkhorn_relative_error": round(float(np.median(np.abs(errors))), 4),
                "linprog_max_relative_difference": max(differences, default=None),
            }
        )
    return rows


if __name__ == "__main__":
    pairwise_distances(random_digits(4, seed=5))  # warm up
    main("transport", __doc__, (exact, pairwise, batched_sinkhorn, stability, scaling))

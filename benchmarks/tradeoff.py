"""What a training step of each method of the experiment ``tradeoff`` costs: medians, interleaved,
in one run.

``OMP_NUM_THREADS=1 python benchmarks/tradeoff.py [--write]`` prints the table; with ``--write`` it
stores ``results/benchmark_tradeoff.json``. About a minute on one core.

ResNet-8 with softplus, batches of 128 images 3 x 32 x 32 of uniform random intensities, random
labels, momentum; the learning rate is 0, as in ``training.py``. The Wasserstein penalty has radius
8.
"""

from functools import partial

import numpy as np
from common import interleaved, main, milliseconds
from training import (
    DIFFERENCE,
    EPSILON,
    ETA,
    device_name,
    devices,
    run_of,
    significant,
    step,
    wasserstein,
)

# The step of each row: options of train.Config. FD is the finite difference, the other penalties double back-propagation.
METHODS = {
    "plain": {},
    "euclidean, FD": {"method": "euclidean", "eta": ETA, **DIFFERENCE},
    "wasserstein, FD": wasserstein(8, **DIFFERENCE),
    "wasserstein": wasserstein(8),
    "gaussian noise": {"method": "gaussian_noise", "eta": ETA},
    "jacobian, FD": {"method": "jacobian", "eta": ETA, **DIFFERENCE},
    "jacobian": {"method": "jacobian", "eta": ETA},
    "fgsm": {"method": "fgsm", "epsilon": EPSILON},
    "pgd-7": {"method": "pgd", "epsilon": EPSILON, "steps": 7},
    "trades-7": {"method": "trades", "epsilon": EPSILON, "eta": 6**0.5, "steps": 7},
}


def step_costs(rounds=9, model="resnet8", batch=128):
    """Time of one eager step of each method, its ratio to a plain one."""
    rows = []
    for device in devices():
        runs = {
            name: run_of("plain", device, model, batch, **options)
            for name, options in METHODS.items()
        }
        calls = dict.fromkeys(runs, 10) if device == "cuda" else None
        times = interleaved({name: partial(step, run) for name, run in runs.items()}, rounds, calls)
        plain = np.median(times["plain"])
        for name, taken in times.items():
            rows.append({
                "device": device_name(device),
                "step": name,
                "ms": milliseconds(taken),
                "ratio": significant(np.median(taken) / plain),
                "ratio_range": [significant(k(taken) / plain) for k in (np.min, np.max)],
            })  # fmt: skip
    return rows


if __name__ == "__main__":
    main("tradeoff", __doc__, [step_costs])

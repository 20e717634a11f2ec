"""What a training step of each method costs: medians, interleaved, in one run.

``OMP_NUM_THREADS=1 python benchmarks/tradeoff.py [--write]`` prints the table; with ``--write`` it
stores ``results/benchmark_tradeoff.json``. About two minutes on one core.

ResNet-8 with softplus, batches of 128 images 3 x 32 x 32 of uniform random intensities, random
labels, momentum; the learning rate is 0, as in ``training.py``. Every method has the settings that
its class tries it with: the Wasserstein penalty has radius 8.
"""

from functools import partial

import numpy as np
from common import interleaved, main, milliseconds
from training import DIFFERENCE, device_name, devices, extremes, run_of, significant, step

from wdtr_lite.study.tradeoff import TRIED
from wdtr_lite.training import METHODS, Config


def trials():
    """Options of Config by the name of the row. FD is the finite difference, the other penalties
    double back-propagation.
    """
    rows = {}
    for name, (setting,) in TRIED.items():
        method, shown = METHODS[name], name.replace("_", " ")
        options = {"method": name, **setting}
        if "steps" in method.options:
            shown += f"-{Config(**options).steps}"
        if "mode" in method.options:
            rows[f"{shown}, FD"] = options | DIFFERENCE
        rows["plain" if name == "none" else shown] = options
    return rows


def step_costs(rounds=9, model="resnet8", batch=128):
    """Time of one eager step of each method, its ratio to a plain one."""
    rows = []
    for device in devices():
        runs = {
            name: run_of("plain", device, model, batch, **options)
            for name, options in trials().items()
            if device in METHODS[options["method"]].devices
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
                "ratio_range": extremes(np.array(taken) / plain),
            })  # fmt: skip
    return rows


if __name__ == "__main__":
    main("tradeoff", __doc__, [step_costs])

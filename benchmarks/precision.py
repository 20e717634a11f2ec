"""What the network's arithmetic changes in the result: short trainings on mnist5k in float32, in
TF32 and in bfloat16.

``OMP_NUM_THREADS=1 python benchmarks/precision.py [--write]`` prints the table; with ``--write`` it
stores ``results/benchmark_precision.json``. About four minutes on one core. TF32 exists on a GPU
only.
"""

import numpy as np
import torch
from common import main

from wdtr_lite import data, evaluation, training

METHODS = {"none": {}, "wasserstein": {"eta": 0.5, "radius": 4}}


def precision(seeds=(0, 1, 2), epochs=8, milestones=(6,)):
    """The last epoch's training loss and the test error, mean and standard deviation over seeds;
    tested in float32.
    """
    digits = data.load("mnist5k")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = (part.to(device) for part in digits.part("test"))
    rows = []
    for method, options in METHODS.items():
        for arithmetic in ["float32", *(["tf32"] if device == "cuda" else []), "bfloat16"]:
            losses, errors = [], []
            for seed in seeds:
                config = training.Config(
                    data="mnist5k", model="small_cnn", learning_rate=0.05, epochs=epochs,
                    milestones=milestones, method=method, precision=arithmetic, seed=seed,
                    **options,
                )  # fmt: skip
                run = training.fit(config, dataset=digits, device=device, progress=False)
                losses.append(run.history[-1]["loss"])
                errors.append(evaluation.error(run.model, images, labels))
            row = {
                "device": device,
                "method": method,
                "precision": arithmetic,
                "epochs": epochs,
                "n": len(seeds),
            }
            for name, values in (("training_loss", losses), ("test_error", errors)):
                row |= {
                    f"{name}_mean": float(np.mean(values)),
                    f"{name}_sd": float(np.std(values, ddof=1)),
                    name: values,
                }
            rows.append(row)
    return rows


if __name__ == "__main__":
    main("precision", __doc__, [precision])

"""What a training step costs with each penalty, each noise and each attack: medians, interleaved,
in one run.

``OMP_NUM_THREADS=1 python benchmarks/training.py [--write]`` prints the tables; with ``--write`` it
stores ``results/benchmark_training.json``. About ten minutes on one core, and three more where
there is a GPU.

ResNet-20 with softplus, batches of 128 images 3 x 32 x 32 of uniform random intensities, random
labels, momentum. The learning rate is 0, so that every step does the same work: it computes the
update and leaves the weights as they are.
"""

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torchvision
from common import interleaved, main, milliseconds, timed
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torchvision.models.convnext import CNBlockConfig

from wdtr_lite import PixelGraph, data, kernels, training
from wdtr_lite.metric import operators
from wdtr_lite.regularizer import GradientPenalty, Terms
from wdtr_lite.training import METHODS, Config
from wdtr_lite.training.whole_step import Graph, inductor

ETA, EPSILON = 0.1, 8 / 255
PEAK_TFLOPS = {"float32": 67, "tf32": 494}  # dense, of an NVIDIA H100 or H200 SXM by its datasheet
DIFFERENCE = {"mode": "finite_difference"}


def wasserstein(radius, **options):
    return {"method": "wasserstein", "eta": ETA, "radius": radius, **options}


# The step of each row: options of Config, and "form" where it is not the engine's own step.
STEPS = {
    "plain": {},
    "euclidean": {"method": "euclidean", "eta": ETA},
    **{f"W r={r}": wasserstein(r) for r in (2, 4, 6, 8)},
    "euclidean, FD": {"method": "euclidean", "eta": ETA, **DIFFERENCE},
    "W r=8, FD": wasserstein(8, **DIFFERENCE),
    "W r=8, FD central": wasserstein(8, **DIFFERENCE, form="central"),
    "W r=8, README": wasserstein(8, form="readme"),
    "W r=8, torch's": wasserstein(8, form="torchs"),
    "W r=8, beside": wasserstein(8, form="beside"),
    "W r=8, naive": wasserstein(8, form="naive"),
    "gaussian noise": {"method": "gaussian_noise", "eta": ETA},
    "W noise r=2": {"method": "wasserstein_noise", "eta": ETA, "radius": 2},
    "fgsm": {"method": "fgsm", "epsilon": EPSILON},
    "pgd-7": {"method": "pgd", "epsilon": EPSILON, "steps": 7},
    "plain, bf16": {"precision": "bfloat16"},
    "W r=8, bf16": wasserstein(8, precision="bfloat16"),
    "plain, compiled": {"form": "compiled"},
    "W r=8, compiled": wasserstein(8, form="compiled"),
    "W r=8, FD, compiled": wasserstein(8, **DIFFERENCE, form="compiled"),
}
WITHIN = (  # a step, the one it is held against, and the largest ratio of their times
    ("W r=8", "plain", 2.8),
    ("W r=8, FD", "plain", 2.1),
    ("W r=8, README", "W r=8", 1.03),
    ("W r=8", "pgd-7", 0.35),
    *((f"W r={r}", "euclidean", 1.02) for r in (2, 4, 6, 8)),
)
OTHERS = {  # networks that are not ours, on 32 x 32 pixels
    "torchvision ResNet-18": lambda: torchvision.models.resnet18(num_classes=10),
    "torchvision ConvNeXt, 6 blocks": lambda: torchvision.models.ConvNeXt(
        [CNBlockConfig(48, 96, 2), CNBlockConfig(96, 192, 2), CNBlockConfig(192, None, 2)],
        num_classes=10,
    ),
    "torchvision ViT, 6 blocks": lambda: torchvision.models.VisionTransformer(
        32, 4, num_layers=6, num_heads=4, hidden_dim=128, mlp_dim=256, num_classes=10
    ),
}


def significant(value, digits=4):
    return float(f"{float(value):.{digits}g}")


def extremes(values):
    return [significant(np.min(values)), significant(np.max(values))]


def devices():
    return ["cpu"] + ["cuda"] * torch.cuda.is_available()


def device_name(device):
    return torch.cuda.get_device_name() if device == "cuda" else device


def random_data(images, shape=(3, 32, 32)):
    """A stand-in for a data set: uint8 images of uniform intensities and labels, all trained on."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, *shape), generator=rng, dtype=torch.uint8)
    labels = torch.randint(10, (images,), generator=rng)
    return data.Dataset(
        "random",
        pixels,
        labels,
        "torch.randint",
        {"train": torch.arange(images), "test": torch.arange(0)},
    )


Wasserstein: Any = METHODS["wasserstein"]


class Beside(Wasserstein):
    """The penalty beside a forward pass of the loop's own."""

    def terms(self, model, x, y, generator, epsilon):
        outputs = model(x)
        loss = F.cross_entropy(outputs, y, reduction="none")
        return Terms(outputs, loss, self.weight * self.penalty(model, x, y))


class Torchs(Wasserstein):
    """With torch's own second derivatives."""

    def terms(self, *args):
        with mock.patch.dict(kernels.REPLACED, clear=True):
            return super().terms(*args)


class Naive(Torchs, Beside):
    """Both: what is written first."""


class Central(Wasserstein):
    """The finite difference of two passes more."""

    def __init__(self, config, size, device):
        super().__init__(config, size, device)
        metric = self.input_metric(size, device)
        self.penalty = GradientPenalty(metric, mode=config.mode, central=True)


FORMS = {"beside": Beside, "torchs": Torchs, "naive": Naive, "central": Central}


def readme_step(run, penalty):
    """The lines of the README in a loop of one's own."""
    x, y = run.images[run.batch].float() / 255, run.labels[run.batch]
    _, loss, squared = penalty.terms(run.model, x, y)
    run.optimizer.zero_grad()
    (loss + ETA**2 * squared).mean().backward()
    run.optimizer.step()


def run_of(name, device="cpu", model="resnet20", batch=128, network=None, **changes):
    """The engine's training with its batch in place, ready for its step."""
    options = STEPS[name] | changes
    form = options.pop("form", None)
    config = Config(model=model, batch_size=batch, learning_rate=0.0, **options)
    run = training.Training(config, model=network, dataset=random_data(batch), device=device)
    if form in FORMS:
        run.objective = FORMS[form](config, (32, 32), run.device)
    run.batch.copy_(run.begin_epoch()[0])
    if form == "readme":
        run.eager_step = partial(readme_step, run, GradientPenalty(PixelGraph(32, 32, 8)))
    return run


def step(run):
    with run.streamed():
        run.eager_step()


def compiled_step(run):
    """Seconds of compiling with nothing cached, and a step; None where that fails."""
    x, y = run.images[run.batch].float() / 255, run.labels[run.batch]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        try:
            compiling = partial(Graph, run.derivatives, run.model, x, y, inductor)
            run.compute, seconds = timed(compiling)
            step(run)
            return seconds
        except Exception as error:
            said = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
            print(f"compiling fails here, its rows stay empty: {said}")
            return None


class Counter(TorchDispatchMode):
    """Counts as torch's FlopCounterMode does, whose hooks on modules do not bear gradients of
    gradients.
    """

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def operations(run):
    """Floating-point operations of the convolutions and matrix products of a step, of all
    derivatives too.
    """
    with Counter() as counter:
        step(run)
    return counter.total


def resident_peak(name, steps, sizes):
    """VmHWM of this process in MiB, the largest resident memory it had, after so many steps.

    Not ru_maxrss, which starts at that of the process that started this one.
    """
    run = run_of(name, **sizes)
    for _ in range(steps):
        step(run)
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def cpu_memory(names, sizes):
    """MiB by which a step raises the peak of a fresh process above that of one which only built
    network and batch.
    """
    if not Path("/proc/self/status").exists():
        return {}
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        built = pool.submit(resident_peak, "plain", 0, sizes).result()
        return {name: pool.submit(resident_peak, name, 1, sizes).result() - built for name in names}


def cuda_memory(run):
    """MiB allocated at most during an eager step."""
    torch.cuda.reset_peak_memory_stats()
    step(run)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**20


def step_costs(rounds=5, memory=True, **sizes):
    """(a, b) A step of each kind: time, ratio to a plain one, operations, peak memory.

    W is the Wasserstein penalty, FD its finite difference, one-sided where not central. "README"
    has the README's lines in a loop of its own, "beside" the penalty beside that loop's forward
    pass, "torch's" torch's own second derivatives, "naive" both. Compiled steps are one graph,
    compiled before; `compile_s` has the seconds that took, and their memory is not measured. On the
    CPU `peak_mib` is what the step adds to the largest resident memory of a fresh process, on a GPU
    the most that was allocated.
    """
    rows, counts = [], {}
    for device in devices():
        runs = {name: run_of(name, device, **sizes) for name in STEPS}
        compiled = {
            name: compiled_step(run)
            for name, run in runs.items()
            if STEPS[name].get("form") == "compiled"
        }
        failed = {name for name, seconds in compiled.items() if seconds is None}
        ready = {name: run for name, run in runs.items() if name not in failed}
        eager = {name: run for name, run in ready.items() if name not in compiled}
        counts = counts or {name: operations(run) for name, run in eager.items()}
        peak = {}
        if memory:
            peak = (
                {k: cuda_memory(v) for k, v in eager.items()}
                if device == "cuda"
                else cpu_memory(eager, sizes)
            )
        calls = dict.fromkeys(ready, 10) if device == "cuda" else None
        times = interleaved(
            {name: partial(step, run) for name, run in ready.items()}, rounds, calls
        )
        plain = np.median(times["plain"])
        for name in STEPS:
            taken, seconds = times.get(name), compiled.get(name)
            ratios = np.array(taken) / plain if taken else None
            rows.append({
                "device": device_name(device),
                "step": name,
                "ms": milliseconds(taken) if taken else None,
                "ratio": ratios if ratios is None else significant(np.median(ratios)),
                "ratio_range": ratios if ratios is None else extremes(ratios),
                "gflop": significant(counts[name] / 1e9) if name in counts else None,
                "peak_mib": round(peak[name]) if name in peak else None,
                "compile_s": round(seconds, 1) if seconds else None,
            })  # fmt: skip
    return rows


def other_networks(names=tuple(OTHERS), batch=64, rounds=5):
    """(c) The same steps of networks that are not ours; empty where the step cannot be."""
    steps = {"plain": "plain", "torchs": "W r=8, torch's", "ours": "W r=8", "fd": "W r=8, FD"}
    rows = []
    for device in devices():
        for name in names:
            torch.manual_seed(0)
            runs = {
                key: run_of(each, device, batch=batch, network=OTHERS[name]())
                for key, each in steps.items()
            }
            for key, run in list(runs.items()):
                try:
                    step(run)
                except RuntimeError as error:
                    print(f"{name}, {steps[key]}: {error}")
                    del runs[key]
            times = interleaved({key: partial(step, run) for key, run in runs.items()}, rounds)
            plain = np.median(times["plain"])
            ratios = {key: significant(np.median(times[key]) / plain, 3) if key in times else None
                      for key in steps if key != "plain"}  # fmt: skip
            ms = milliseconds(times["plain"])
            rows.append({"device": device_name(device), "network": name, "plain_ms": ms, **ratios})
    return rows


def penalty_alone(
    radii=(1, 2, 4, 8), by_algorithm1=(2, 8), shape=(128, 3, 32, 32), rounds=3, **sizes
):
    """(d) The squared gradient norm (7) of a batch with its derivative, by radius; a plain step."""
    rows = []
    for device in devices():
        x, grad = (
            draw(shape, generator=torch.Generator().manual_seed(0)).to(device)
            for draw in (torch.rand, torch.randn)
        )

        def both(function, graph, x=x, grad=grad):
            leaf = grad.clone().requires_grad_()
            return torch.autograd.grad(function(graph, x, leaf).sum(), leaf)

        graphs = {r: PixelGraph(*shape[-2:], radius=r).to(device) for r in radii}
        functions: dict[Any, Any] = {
            "plain": partial(step, run_of("plain", device, batch=shape[0], **sizes))
        }
        functions |= {("ours", r): partial(both, operators.grad_norm_sq, graphs[r]) for r in radii}
        functions |= {
            ("algorithm1", r): partial(both, operators.algorithm1, graphs[r]) for r in by_algorithm1
        }
        times = interleaved(functions, rounds, {("ours", r): 9 for r in radii})
        plain = np.median(times["plain"])
        for r in radii:
            row = {
                "device": device_name(device),
                "radius": r,
                "plain_step_ms": milliseconds(times["plain"]),
            }
            for kind in ("ours", "algorithm1"):
                taken = times.get((kind, r))
                row |= {
                    f"{kind}_ms": milliseconds(taken) if taken else None,
                    f"{kind}_over_plain_step": significant(np.median(taken) / plain, 3)
                    if taken
                    else None,
                }
            rows.append(row)
    return rows


def gpu_throughput(
    names=("plain", "W r=8", "W r=8, FD"),
    precisions=("float32", "tf32"),
    together=(1, 2, 4, 8),
    images=12_800,
    peak_tflops=PEAK_TFLOPS,
    model="resnet20",
    batch=128,
):
    """(e) Images per second on a GPU: eager steps, and the engine's, compiled and captured, of one
    network and of several at once.

    A captured rate is that of the third epoch, summed over the networks. Hours are those of 200
    epochs of 49,920 images for one network of them. `floor_hours` is what the counted operations
    take at the processor's peak: of one network. Without a GPU there are no rows.
    """
    if not torch.cuda.is_available():
        return []
    dataset, rows = random_data(images), []
    for name in names:
        flops = operations(run_of(name, "cuda", model=model, batch=batch)) / batch
        for precision in precisions:
            options = {"model": model, "precision": precision}
            run = run_of(name, "cuda", batch=batch, **options)
            for _ in range(3):
                step(run)
            eager = 20 * batch / timed(lambda run=run: [step(run) for _ in range(20)])[1]
            rates = {}
            for n in together:
                options |= {"batch_size": batch, "learning_rate": 0.0, "epochs": 3, **STEPS[name]}
                configs = [Config(**options, seed=seed) for seed in range(n)]
                with mock.patch("wdtr_lite.training.run.WORTH_COMPILING", 0):
                    runs = training.fit_together(
                        configs, dataset=dataset, device="cuda", progress=False
                    )
                rates[n] = sum(run.history[-1]["images_per_second"] for run in runs)
            floor = 200 * 49_920 * flops / (peak_tflops[precision] * 1e12)
            for n, rate in rates.items():
                rows.append({
                    "device": device_name("cuda"),
                    "step": name,
                    "precision": precision,
                    "networks": n,
                    "eager_images_per_second": round(eager) if n == 1 else None,
                    "captured_images_per_second": round(rate),
                    "captured_over_eager": significant(rate / eager, 3),
                    "hours_200_epochs": significant(n * 200 * 49_920 / rate / 3600, 3),
                    "peak_tflops": peak_tflops[precision],
                    "floor_hours": significant(floor / 3600, 3),
                })  # fmt: skip
    return rows


def targets(measured):
    """(f) Each ratio that was promised, of the medians, on each device."""
    rows = []
    for device in dict.fromkeys(row["device"] for row in measured["step_costs"]):
        ms = {row["step"]: row["ms"] for row in measured["step_costs"] if row["device"] == device}
        for slow, fast, most in WITHIN:
            ratio = ms[slow] / ms[fast]
            rows.append({
                "device": device,
                "target": f"{slow} / {fast} <= {most}" + (", GPU" if device != "cpu" else ""),
                "measured": significant(ratio, 3),
                "met": bool(ratio <= most),
            })  # fmt: skip
    return rows


if __name__ == "__main__":
    main("training", __doc__, [step_costs, other_networks, penalty_alone, gpu_throughput], targets)

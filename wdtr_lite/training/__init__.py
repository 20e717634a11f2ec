"""Training, from a configuration to weights: resumable, the same for the same seed, captured in a
CUDA graph on a GPU.

The images lie on the device as uint8. A run in a folder leaves ``checkpoint.pt``, replaced in one
step, and ``metrics.jsonl``, a line for each epoch; killed at any time it goes on from its last
checkpoint, on a CPU to the very same weights.
"""

import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from wdtr_lite import attacks, checks, data, metric, models, noise
from wdtr_lite.graph import PixelGraph
from wdtr_lite.regularizer import GradientPenalty

__all__ = ["Config", "Divergence", "Run", "fit", "fit_together", "load", "network"]

PENALTIES = ("euclidean", "wasserstein")
NOISES = ("gaussian_noise", "wasserstein_noise")
ADVERSARIES = ("fgsm", "pgd", "trades")
METHODS = ("none", *PENALTIES, "jacobian", *NOISES, *ADVERSARIES)


class Divergence(RuntimeError):
    """The loss or a weight is not a number any more."""


def _option(default, text: str, choices: tuple | None = None):
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class Config:
    """What a training run depends on; the defaults are those of Appendix D, without a penalty.

    Each field is an option of ``python -m wdtr_lite train``, whose ``--help`` explains it.

    Examples
    --------
    >>> from wdtr_lite.training import Config
    >>> Config(method="wasserstein", eta=0.1, radius=4).epochs
    200

    References
    ----------
    Appendix D of Lin et al. (2019).
    """

    data: str = _option(
        "cifar10",
        "data set, as in wdtr_lite.data.load",
        ("cifar10", "mnist", "mnist5k", "mnist5k_color"),
    )
    split: str | None = _option(
        None, "which split of the data set, where it has several: official or holdout"
    )
    part: str = _option(
        "train",
        "train on all training images, or on those that are not kept for validation",
        ("train", "fit"),
    )
    images: int | None = _option(
        None, "train on so many images, drawn at random, the same for every seed; default all"
    )
    model: str = _option("resnet20", "network, as in wdtr_lite.models", tuple(models.MODELS))
    activation: str = _option("softplus", "activation of the network", ("softplus", "relu"))
    width: int | None = _option(
        None, "channels of the network's first stage; default the network's own"
    )
    method: str = _option("none", "what is added to plain training", METHODS)
    eta: float = _option(
        0.0,
        "of a penalty and of trades: the root of the weight; of noise: its standard deviation per pixel, on average",
    )
    radius: int | None = _option(
        None, "neighbourhood of the pixel graph, in pixels, of the wasserstein methods"
    )
    of: str = _option("loss", "whose gradient a penalty takes", ("loss", "logits", "margin"))
    mode: str = _option(
        "double_backprop",
        "how a penalty is differentiated",
        ("double_backprop", "finite_difference"),
    )
    scale: str | None = _option(
        "trace",
        "divide L(x) by its mean diagonal (trace), or take it as it is (none)",
        ("trace", None),
    )
    epsilon: float = _option(
        0.0, "of fgsm, pgd and trades: the largest change of a pixel, of [0, 1]"
    )
    steps: int = _option(7, "of pgd and trades: steps, each of 2.5 epsilon / steps")
    warmup: int = _option(
        0,
        "of fgsm, pgd and trades: epochs in which epsilon grows to its value; without them training may never start",
    )
    epochs: int = _option(200, "passes over the images")
    batch_size: int = _option(
        128, "images per step; what is left over at an epoch's end waits for the next epoch's order"
    )
    learning_rate: float = _option(0.1, "of stochastic gradient descent, until the first milestone")
    milestones: tuple[int, ...] = _option(
        (100, 150), "epochs after which the learning rate is divided by 10"
    )
    momentum: float = _option(0.9, "of stochastic gradient descent")
    weight_decay: float = _option(1e-4, "of stochastic gradient descent")
    precision: str = _option(
        "float32",
        "arithmetic of the network; finite differences stay float32, and tf32 differs on a GPU only",
        ("float32", "tf32", "bfloat16"),
    )
    seed: int = _option(0, "of the first weights, the order of the images, the noise")

    def __post_init__(self):
        for option in fields(self):
            value, choices = getattr(self, option.name), option.metadata["choices"]
            if choices and value not in choices:
                raise ValueError(
                    f"{option.name} must be one of {', '.join(map(str, choices))}, got {value!r}"
                )
        given = [name for name in ("images", "radius", "width") if getattr(self, name) is not None]
        for name in ("steps", "warmup", "epochs", "batch_size", "seed", *given):
            checks.whole(getattr(self, name), name, 0 if name in ("seed", "warmup") else 1)
            if getattr(self, name) >= 2**40:
                raise ValueError(f"{name} must be less than 2**40, got {getattr(self, name)}")
            object.__setattr__(
                self, name, int(getattr(self, name))
            )  # a checkpoint holds no NumPy numbers
        for name in ("eta", "epsilon", "learning_rate", "momentum", "weight_decay"):
            checks.number(getattr(self, name), name)
            object.__setattr__(self, name, float(getattr(self, name)))
        if not isinstance(self.milestones, (tuple, list)):
            raise TypeError(f"milestones must be a tuple of epochs, got {self.milestones!r}")
        for milestone in self.milestones:
            checks.whole(milestone, "milestones")
        object.__setattr__(self, "milestones", tuple(map(int, self.milestones)))
        self._check_method()

    def _check_method(self) -> None:
        graph, adversary = self.method.startswith("wasserstein"), self.method in ADVERSARIES
        if graph != (self.radius is not None):
            raise ValueError(
                f"method={self.method!r} needs {'a' if graph else 'no'} radius, got radius={self.radius!r}"
            )
        if adversary != (self.epsilon > 0):
            raise ValueError(
                f"method={self.method!r} needs {'epsilon > 0' if adversary else 'no epsilon'}, got {self.epsilon!r}"
            )
        if self.eta and self.method in ("none", "fgsm", "pgd"):
            raise ValueError(f"method={self.method!r} needs no eta, got eta={self.eta!r}")


class Run(NamedTuple):
    """A trained network and how it got there."""

    model: nn.Module  # in evaluation mode
    history: list[
        dict
    ]  # one for each epoch: loss, penalty, error on the batches trained on, seconds
    config: Config


def fit(
    config: Config,
    *,
    folder: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    dataset: data.Dataset | None = None,
    checkpoint_every: int = 10,
    progress: bool = True,
) -> Run:
    """Train a network, or go on training the one in the folder.

    Parameters
    ----------
    config : Config
    folder : path, optional
        Where checkpoints and metrics are kept; a run found there is continued. Without it nothing
        is written.
    device : optional
        By default the GPU where there is one, else the CPU.
    dataset : Dataset, optional
        In place of the one that the configuration names.
    checkpoint_every : int
        Epochs between checkpoints.
    progress : bool
        Show loss, penalty, error, images per second and the time left.

    Returns
    -------
    Run

    Raises
    ------
    Divergence
        At the end of an epoch in which a loss or a weight was not finite.

    Examples
    --------
    >>> from wdtr_lite import training
    >>> config = training.Config(data="mnist5k", images=256, model="small_cnn", method="euclidean", eta=0.1, epochs=1)
    >>> run = training.fit(config, progress=False)
    >>> len(run.history), sorted(run.history[0])
    (1, ['epoch', 'error', 'images_per_second', 'loss', 'penalty', 'seconds'])

    References
    ----------
    Appendix D of Lin et al. (2019).
    """
    return fit_together(
        [config],
        folders=[folder],
        device=device,
        dataset=dataset,
        checkpoint_every=checkpoint_every,
        progress=progress,
    )[0]


def fit_together(
    configs: Sequence[Config],
    *,
    folders: Sequence[str | os.PathLike | None] | None = None,
    device: str | torch.device | None = None,
    dataset: data.Dataset | None = None,
    checkpoint_every: int = 10,
    progress: bool = True,
) -> list[Run]:
    """Train several networks: on a GPU at once, each on a stream of its own, step by step in turn;
    on a CPU one after the other.

    Parameters
    ----------
    configs : sequence of Config
    folders : sequence of paths, optional
        One for each configuration.
    device, dataset, checkpoint_every, progress
        As in :func:`fit`.

    Returns
    -------
    list of Run

    Raises
    ------
    Divergence
        As :func:`fit`.
    """
    checks.whole(checkpoint_every, "checkpoint_every")
    folders = [None] * len(configs) if folders is None else list(folders)
    if len(folders) != len(configs):
        raise ValueError(
            f"folders must be one for each of the {len(configs)} configurations, got {len(folders)}"
        )
    given = [Path(folder).resolve() for folder in folders if folder]
    if len(set(given)) < len(given):
        raise ValueError("folders must differ from each other")
    device = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    trainings = [
        Training(config, folder and Path(folder), device, dataset, checkpoint_every)
        for config, folder in zip(configs, folders, strict=True)
    ]
    total = sum(training.images_until(training.config.epochs) for training in trainings)
    done = sum(training.images_until(training.epoch) for training in trainings)
    with tqdm(
        total=total, initial=done, unit=" images", unit_scale=True, disable=not progress
    ) as bar:
        turns = [training.steps() for training in trainings]
        for group in [turns] if device.type == "cuda" else [[turn] for turn in turns]:
            while group:
                for turn in list(group):
                    step = next(turn, None)
                    if step is None:
                        group.remove(turn)
                    else:
                        bar.update(step.images)
                        if step.metrics:
                            bar.set_postfix(
                                {
                                    k: f"{step.metrics[k]:.4g}"
                                    for k in ("epoch", "loss", "penalty", "error")
                                }
                            )
    return [training.run() for training in trainings]


def load(folder: str | os.PathLike, *, device: str | torch.device = "cpu") -> Run:
    """The network of a run's last checkpoint, in evaluation mode, with the metrics up to it.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint in the folder.
    """
    folder = Path(folder)
    if not (folder / "checkpoint.pt").exists():
        raise FileNotFoundError(
            f"{folder} holds no checkpoint.pt: train with folder={str(folder)!r} first"
        )
    device = _device(device)
    state = _checkpoint(folder, device)
    config = Config(**state["config"])
    return Run(network(config, state["model"]).to(device), _metrics(folder, state["epoch"]), config)


def network(config: Config, weights: dict[str, Tensor]) -> nn.Module:
    """The network of a configuration with weights trained before, in evaluation mode on the CPU.

    Parameters
    ----------
    config : Config
    weights : dict of str to tensor
        Its ``state_dict()``.
    """
    model = _network(config, weights["normalize.mean"].shape[0], 0.0, 1.0)
    model.load_state_dict(weights)
    return model.eval()


def _device(device: str | torch.device) -> torch.device:
    available = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if str(device).partition(":")[0] not in available:
        raise ValueError(f"device must be {' or '.join(available)} here, got {str(device)!r}")
    return torch.device(device)


class _Step(NamedTuple):
    images: int
    metrics: dict | None  # at the end of an epoch


class Training:
    """One run, a step at a time."""

    def __init__(
        self,
        config: Config,
        folder: Path | None,
        device: torch.device,
        dataset: data.Dataset | None,
        every: int,
    ):
        self.config, self.folder, self.device, self.every = config, folder, device, every
        self.dataset = dataset or data.load(config.data, split=config.split)
        images, labels = _training_images(self.dataset, config)
        if len(images) < config.batch_size:
            raise ValueError(
                f"batch_size must be at most the number of images, {len(images)}, got {config.batch_size}"
            )
        self.images, self.labels = images.to(device), labels.to(device)
        self.data = f"{self.dataset!r}, checksum {zlib.crc32(labels.numpy(), zlib.crc32(images.contiguous().numpy()))}"
        self.model = _network(config, images.shape[1], *_mean_and_std(images)).to(device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        self.terms = _terms(config, images.shape[-2:], device)
        self.generator = torch.Generator(device)
        self.batch = torch.zeros(config.batch_size, dtype=torch.long, device=device)
        self.totals = torch.zeros(3, dtype=torch.float64, device=device)  # loss, penalty, mistakes
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.captured, self.constants = None, None
        self.epoch, self.history = 0, []
        self._restore()
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
        if self.stream:
            self.stream.wait_stream(torch.cuda.current_stream(device))

    def images_until(self, epoch: int) -> int:
        return epoch * (len(self.images) // self.config.batch_size) * self.config.batch_size

    def steps(self) -> Iterator[_Step]:
        """Train to the end, giving way after each step."""
        self.model.train()
        while self.epoch < self.config.epochs:
            self._begin_epoch()
            start, batches = time.perf_counter(), self._batches()
            for k, batch in enumerate(batches, 1):
                with self._streamed():
                    self.batch.copy_(batch)
                    self._step(k)
                if k < len(batches):
                    yield _Step(len(batch), None)
            yield _Step(len(batch), self._end_epoch(len(batches), start))

    def run(self) -> Run:
        return Run(self.model.eval(), self.history, self.config)

    def _begin_epoch(self) -> None:
        rate = self.config.learning_rate * 0.1 ** sum(
            self.epoch >= milestone for milestone in self.config.milestones
        )
        epsilon = self.config.epsilon * min(1.0, (self.epoch + 1) / (self.config.warmup + 1))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if (rate, epsilon) != self.constants:
            self.constants, self.captured = (
                (rate, epsilon),
                None,
            )  # a captured step holds the old ones
        # Seeded anew for each epoch: a resumed run needs no generator's state.
        self.generator.manual_seed(1_000_003 * self.config.seed + self.epoch)

    def _batches(self) -> tuple[Tensor, ...]:
        order = torch.randperm(
            len(self.images), generator=torch.Generator().manual_seed(self.generator.initial_seed())
        )
        whole = len(order) // self.config.batch_size * self.config.batch_size
        return order[:whole].to(self.device).split(self.config.batch_size)

    def _step(self, k: int) -> None:
        """One step: on a GPU eager for the first three, which warm up what is then captured, and
        afterwards replayed.
        """
        if self.stream is None or (self.captured is None and k <= 3):
            self._eager_step()
            return
        if self.captured is None:
            self.captured = torch.cuda.CUDAGraph()
            self.captured.register_generator_state(self.generator)
            with torch.cuda.graph(self.captured, stream=self.stream):
                self._eager_step()
        self.captured.replay()

    def _eager_step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        x, y = self.images[self.batch].float() / 255, self.labels[self.batch]
        with arithmetic(self.config.precision, self.device):
            outputs, loss, penalty = self.terms(self.model, x, y, self.generator, self.constants[1])
            with torch.autocast(
                self.device.type, enabled=False
            ):  # a finite difference is differentiated in float32
                (loss.mean() + penalty.mean()).backward()
        self.optimizer.step()
        self.totals += torch.stack(
            [loss.detach().sum(), penalty.detach().sum(), (outputs.argmax(1) != y).sum()]
        )

    @contextmanager
    def _streamed(self) -> Iterator[None]:
        with torch.cuda.stream(self.stream) if self.stream else nullcontext():
            yield

    def _end_epoch(self, batches: int, start: float) -> dict:
        with self._streamed():
            finite = torch.stack(
                [value.isfinite().all() for value in self.model.state_dict().values()]
            ).all()
            loss, penalty, error = (self.totals / (batches * self.config.batch_size)).tolist()
            self.totals.zero_()
        seconds = time.perf_counter() - start
        self.epoch += 1
        if not (bool(finite) and loss + penalty < float("inf")):
            kept = (
                f"the last good one is {self.folder / 'checkpoint.pt'}"
                if self._has_checkpoint()
                else "there is no checkpoint"
            )
            raise Divergence(
                f"the run diverged in epoch {self.epoch} (loss {loss}, penalty {penalty}); {kept}. "
                "Lower the learning rate or eta."
            )
        rate = batches * self.config.batch_size / seconds
        metrics = {"epoch": self.epoch, "loss": loss, "penalty": penalty, "error": error}
        self.history.append(
            {**metrics, "seconds": round(seconds, 3), "images_per_second": round(rate, 1)}
        )
        if self.folder:
            self._save()
        return metrics

    def _has_checkpoint(self) -> bool:
        return bool(self.folder) and (self.folder / "checkpoint.pt").exists()

    def _save(self) -> None:
        lines = "".join(json.dumps(line) + "\n" for line in self.history)
        _replace(
            self.folder / "metrics.jsonl", lambda stream: stream.write(lines.encode())
        )  # never behind the checkpoint
        if self.epoch % self.every == 0 or self.epoch == self.config.epochs:
            state = {
                "config": asdict(self.config), "data": self.data, "epoch": self.epoch,
                "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            }  # fmt: skip
            _replace(self.folder / "checkpoint.pt", lambda stream: torch.save(state, stream))

    def _restore(self) -> None:
        if not self._has_checkpoint():
            return
        state = _checkpoint(self.folder, self.device)
        found, asked = Config(**state["config"]), self.config
        different = [
            f.name for f in fields(Config) if getattr(found, f.name) != getattr(asked, f.name)
        ]
        if different:
            values = ", ".join(f"{name}={getattr(found, name)!r}" for name in different)
            raise ValueError(
                f"{self.folder} holds a run with {values}: choose another folder, or delete that one"
            )
        if state["data"] != self.data:
            raise ValueError(
                f"{self.folder} holds a run on other images ({state['data']}): choose another folder"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]
        self.history = _metrics(self.folder, self.epoch)


def _checkpoint(folder: Path, device: torch.device) -> dict:
    path = folder / "checkpoint.pt"
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        return {key: state[key] for key in ("config", "data", "epoch", "model", "optimizer")}
    except Exception as error:  # a damaged file makes torch raise nearly anything
        raise ValueError(f"{path} is damaged: delete {folder} and train anew") from error


def _metrics(folder: Path, epochs: int) -> list[dict]:
    path = folder / "metrics.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError):
        lines = []
    if len(lines) < epochs:
        raise ValueError(
            f"{path} is damaged, it lacks some of {epochs} epochs: delete {folder} and train anew"
        )
    return lines[:epochs]


def _replace(path: Path, write: Callable) -> None:
    """Write a file so that a kill at any time leaves the old one or the new one, whole."""
    part = path.with_name(f".{path.name}.part")
    with open(part, "wb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)


def _training_images(dataset: data.Dataset, config: Config) -> tuple[Tensor, Tensor]:
    """uint8 images (N, C, H, W) and labels (N,)."""
    images, labels = dataset.part(config.part, config.images)
    return images[:, None] if images.dim() == 3 else images, labels


def _mean_and_std(images: Tensor) -> tuple[list[float], list[float]]:
    """Of each channel's intensities in [0, 1]; from histograms, for CIFAR-10 in float64 takes
    gigabytes.
    """
    counts = torch.stack(
        [channel.flatten().bincount(minlength=256) for channel in images.unbind(1)]
    ).double()
    values, n = torch.arange(256, dtype=torch.float64) / 255, counts.sum(1)
    mean = counts @ values / n
    variance = (counts * (values - mean[:, None]) ** 2).sum(1) / (n - 1)
    return mean.tolist(), variance.sqrt().tolist()


def _network(config: Config, channels: int, mean, std) -> nn.Module:
    """With weights drawn from the seed, torch's global generators left as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        width = {} if config.width is None else {"width": config.width}
        return models.MODELS[config.model](
            config.activation, channels=channels, mean=mean, std=std, **width
        )


def _terms(config: Config, size: Sequence[int], device: torch.device) -> Callable:
    """The function model, x, y, generator -> outputs, loss (B,), weighted penalty (B,) that a
    configuration asks for.
    """
    graph = PixelGraph(*size, config.radius).to(device, torch.float32) if config.radius else None
    if config.method in PENALTIES:
        penalty = GradientPenalty(
            graph or "euclidean", of=config.of, mode=config.mode, scale=config.scale
        )

        def penalised(model, x, y, generator, epsilon):
            terms = penalty.terms(model, x, y)
            return terms.outputs, terms.loss, config.eta**2 * terms.penalty

        return penalised
    if config.method == "jacobian":
        return partial(_jacobian_terms, config)
    if config.method == "trades":
        return partial(_trades_terms, config)

    def changed(model, x, y, generator, epsilon):
        if config.method == "gaussian_noise":
            x = x + config.eta * torch.randn(x.shape, generator=generator, device=x.device)
        elif config.method == "wasserstein_noise":
            unit = metric.mean_diagonal(graph, x).clamp_min(1e-12) if config.scale else 1.0
            x = x + noise.sample(graph, x, config.eta, generator=generator)[0] / unit**0.5
        elif config.method in ADVERSARIES:
            x = _adversarial(config, model, x, y, generator, epsilon)
        outputs = model(x)
        loss = F.cross_entropy(outputs, y, reduction="none")
        return outputs, loss, torch.zeros_like(loss)

    return changed


def _jacobian_terms(
    config: Config,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    epsilon: float,
) -> tuple:
    """Hoffman, Roberts and Yaida (2019): the Jacobian's squared norm from one random projection of
    the logits.
    """
    direction = None

    def projected(outputs: Tensor, _: Tensor) -> Tensor:
        nonlocal direction  # the same when a finite difference asks again
        if direction is None:
            direction = F.normalize(
                torch.randn(outputs.shape, generator=generator, device=x.device), dim=1
            )
        return (outputs * direction).sum(1)

    outputs, _, norm_sq = GradientPenalty("euclidean", loss=projected, mode=config.mode).terms(
        model, x, y
    )
    return (
        outputs,
        F.cross_entropy(outputs, y, reduction="none"),
        config.eta**2 * outputs.shape[1] * norm_sq,
    )


def _trades_terms(
    config: Config,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    epsilon: float,
) -> tuple:
    """Zhang et al. (2019): the Kullback-Leibler divergence from the answers to those on images
    attacked to make it large.
    """
    model.eval()
    with torch.no_grad():
        answers = model(x).softmax(1)
    start = (x + 1e-3 * torch.randn(x.shape, generator=generator, device=x.device)).clamp(0, 1)
    attacked = attacks.ascend(
        model, x, answers, start, epsilon, 2.5 * epsilon / config.steps, config.steps, "linf"
    )
    model.train()
    outputs = model(x)
    divergence = F.kl_div(model(attacked).log_softmax(1), outputs.softmax(1), reduction="none").sum(
        1
    )
    return outputs, F.cross_entropy(outputs, y, reduction="none"), config.eta**2 * divergence


def _adversarial(
    config: Config,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    epsilon: float,
) -> Tensor:
    """Images attacked as the network stands, in evaluation mode."""
    model.eval()
    if config.method == "fgsm":
        x = attacks.fgsm(model, x, y, epsilon)
    else:
        alpha = 2.5 * epsilon / config.steps
        x = attacks.pgd(model, x, y, epsilon, alpha=alpha, steps=config.steps, generator=generator)
    model.train()
    return x


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """float32 as it is written, TF32 in the GPU's products, or bfloat16 in the network; repeatable
    convolutions.
    """
    before, tf32 = (
        torch.get_float32_matmul_precision(),
        precision == "tf32" and device.type == "cuda",
    )
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    flags = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32
    )
    try:
        with flags, torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)

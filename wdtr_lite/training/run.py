"""One run, a step at a time: from the configuration on, or from what is found in its folder."""

import errno
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wdtr_lite import checks, data
from wdtr_lite.models.modes import evaluating, layers, trained, used
from wdtr_lite.training import checkpoint, lock
from wdtr_lite.training.arithmetic import arithmetic
from wdtr_lite.training.checkpoint import Run
from wdtr_lite.training.choices import AUGMENTATIONS, OPTIMIZERS, SCHEDULES
from wdtr_lite.training.config import Config, recorded
from wdtr_lite.training.images import checksum, mean_and_std, training_images
from wdtr_lite.training.objectives import METHODS
from wdtr_lite.training.whole_step import Derivatives, Gradients, give, whole

WORTH_COMPILING = 2000
"""Steps, on a GPU: compiling takes as long as some hundred of them."""


class Divergence(RuntimeError):
    """The loss or a weight is not a number any more."""


class Unfinished(RuntimeError):
    """The time is up, and what was done is stored; `trained` says whether the call did an epoch."""

    trained = True


class Step(NamedTuple):
    """What was done."""

    images: int
    metrics: dict[str, float] | None  # at the end of an epoch


class Training:
    """One run, a step at a time: what :func:`fit` drives.

    Parameters
    ----------
    config, model, dataset, folder, checkpoint_every
        As in :func:`fit`.
    device : optional
    until : float, optional
        The time, in seconds as of ``time.time``, which no epoch is to pass: one that would is
        not begun, :class:`Unfinished` is raised and what was done is stored in the folder.

    Attributes
    ----------
    model, objective, optimizer
        What a step evaluates, calls and moves; another objective may be put in its place.
    generator : torch.Generator
        Of all that a step draws, on the device.
    batch : tensor, (B,)
        Which images the next step is of.
    epoch : int
        How many are done.
    """

    def __init__(
        self,
        config: Config,
        *,
        model: nn.Module | None = None,
        dataset: data.Dataset | None = None,
        folder: str | os.PathLike | None = None,
        device: str | torch.device = "cpu",
        checkpoint_every: int = 10,
        until: float | None = None,
    ):
        checks.default_device()
        checks.instance(config, "config", Config)
        checks.instance(model, "model", (nn.Module, type(None)))
        checks.instance(dataset, "dataset", (data.Dataset, type(None)))
        self.checkpoint_every = checks.whole(checkpoint_every, "checkpoint_every")
        self.device = checks.device(device)
        self.folder = None if folder is None else checks.folder(folder)
        self.until = until if until is None else checks.finite(until, "until")
        if until is not None and folder is None:
            raise ValueError(f"folder must be given with until={until!r}, got None")
        if dataset is None:
            checks.option(config.data, "data", data.names())
            dataset = data.load(config.data, split=config.split)
        self.config = config = recorded(config, model, dataset)
        images, labels = training_images(dataset, config)
        mean, std = mean_and_std(images)
        self.data = f"{dataset!r}, checksum {checksum(images, labels)}"
        self.sizes = {"classes": len(dataset.classes), "channels": len(mean)}
        self.images, self.labels = images.to(self.device), labels.to(self.device)
        self.given = model is not None
        if model is None:
            checks.contrast(std)
            model = checkpoint.untrained(config, self.sizes["classes"], mean, std)
        self.model = checks.trainable(model).to(self.device)
        if self.folder:
            checkpoint.check_storable(self.model)
        self.unbounded = checks.unbounded(self.model)
        optimizer = OPTIMIZERS[config.optimizer](self.model.parameters(), config, self.device)
        self.optimizer: Optimizer = checks.optimizer(
            optimizer, self._parameters(), f"what optimizer {config.optimizer!r} returns"
        )
        height, width = images.shape[-2:]
        self.objective = METHODS[config.method](config, (height, width), self.device)
        self.generator = torch.Generator(self.device)
        self.batch = torch.zeros(config.batch_size, dtype=torch.long, device=self.device)
        self.totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.compute: Derivatives = self.derivatives
        self.captured: torch.cuda.CUDAGraph | None = None
        self.rate, self.epsilon = 0.0, 0.0
        self.epoch, self.first, self.stored, self.history, self.closed = 0, 0, 0, [], False
        self.turn: object = None  # whose steps these are
        self.check_kept: Callable[[], None] = lambda: None
        with ExitStack() as held:
            state = checkpoint.stored_in(self.folder)
            if self.folder and not (state and state["epoch"] >= config.epochs):
                self.check_kept = held.enter_context(lock.held(self.folder))
                state = checkpoint.stored_in(self.folder)
            if state:
                self._restore(state)
            self.held = held.pop_all()
        if self.stream:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))

    def images_until(self, epoch: int) -> int:
        """How many images are done with after so many epochs."""
        epoch = checks.whole(epoch, "epoch", 0)
        return epoch * (len(self.images) // self.config.batch_size) * self.config.batch_size

    def steps(self) -> Iterator[Step]:
        """Train to the end, giving way after each step; then, or where a step fails, let go of the
        folder, without which none goes on. Where steps are given up within an epoch, others begin
        one with the weights as they are.
        """
        try:
            with trained(self.model):
                yield from self._epochs()
        except GeneratorExit:  # other steps may follow
            raise
        except BaseException as error:
            self.close()
            told = Divergence, Unfinished, lock.Busy, OSError
            if isinstance(error, Exception) and not isinstance(error, told):
                with evaluating(self.model):
                    checks.takes(self.model, self.images[:1].float() / 255)
            raise
        self.close()

    def _epochs(self) -> Iterator[Step]:
        self.turn = turn = object()
        while self.epoch < self.config.epochs:
            self._check_turn(turn)
            self._keep_in_time()
            with used(self.model, *layers(self.model)):  # puts them into training mode
                batches = self.begin_epoch()
            start = time.perf_counter()
            for k, batch in enumerate(batches, 1):
                self._check_turn(turn)
                with used(self.model), self.streamed():
                    self.batch.copy_(batch)
                    self.step(eager=k <= 3)
                if k < len(batches):
                    yield Step(len(batch), None)
            yield Step(self.config.batch_size, self._end_epoch(len(batches), start))

    def close(self) -> None:
        """Let go of the folder, which no other run may use before."""
        self.closed = True
        self.held.close()

    def _check_turn(self, turn: object) -> None:
        if turn is not self.turn:
            raise RuntimeError("steps() was called anew: these steps end, the others go on")
        if self.folder and self.closed:
            raise RuntimeError(
                f"{self.folder} was let go of, by close() or an error: another Training goes on "
                "from its last checkpoint"
            )

    def run(self) -> Run:
        with used(self.model):
            return Run(self.model.eval(), self.history, self.config)

    def begin_epoch(self) -> tuple[Tensor, ...]:
        """Set what the epoch's steps have in common; its batches, in their order."""
        config = self.config
        self.model.train()
        factor = SCHEDULES[config.schedule](config, self.epoch)
        factor = checks.number(factor, f"what schedule {config.schedule!r} returns")
        rate = checks.moderate(
            config.learning_rate * factor, f"learning_rate times schedule {config.schedule!r}"
        )
        epsilon = config.epsilon * min(1.0, (self.epoch + 1) / (config.warmup + 1))
        if (rate, epsilon) != (self.rate, self.epsilon):
            self.rate, self.epsilon = rate, epsilon
            self.captured = None  # a captured step holds the old ones
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", float(group.get("lr", config.learning_rate)))
            group["lr"] = group["initial_lr"] * factor
        with self.streamed():
            self.totals.zero_()
        if self.compute == self.derivatives:
            self.compute = self._compiled()
        # Seeded anew for each epoch: a resumed run needs no generator's state.
        seed = 1_000_003 * config.seed + self.epoch
        self.generator.manual_seed(seed)
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))
        whole = len(order) // config.batch_size * config.batch_size
        return order[:whole].to(self.device).split(config.batch_size)

    def step(self, *, eager: bool = False) -> None:
        """A step on the images of ``batch``: on a GPU replayed from a captured one, unless that
        is still to be captured and eager steps are to warm it up.
        """
        if self.stream is None or (self.captured is None and eager):
            self.eager_step()
            return
        if self.captured is None:
            self.captured = torch.cuda.CUDAGraph()
            self.captured.register_generator_state(self.generator)
            with torch.cuda.graph(self.captured, stream=self.stream):
                self.eager_step()
        self.captured.replay()

    def eager_step(self) -> None:
        """The step itself."""
        x, y = self._batch()
        gradients, sums = self.compute(x, y)
        give(self.model, dict(zip(self._parameters(), gradients, strict=True)))
        self.optimizer.step()
        self.totals += sums

    def derivatives(self, x: Tensor, y: Tensor) -> tuple[Gradients, Tensor]:
        """The gradient of the loss in each parameter, and the sums of loss, penalty and mistakes,
        (3,). Running statistics move.
        """
        method = type(self.objective).__name__
        with torch.enable_grad(), arithmetic(self.config.precision, self.device):
            terms = self.objective.terms(self.model, x, y, self.generator, self.epsilon)
            outputs, loss, penalty = checks.terms(
                terms, len(y), self.sizes["classes"], f"{method}.terms"
            )
            # A finite difference is differentiated in float32.
            with torch.autocast(self.device.type, enabled=False):
                total = loss.mean() + penalty.mean()
                gradients = torch.autograd.grad(total, self._parameters(), allow_unused=True)
        wrong = (outputs.argmax(1) != y).sum()
        return gradients, torch.stack([loss.detach().sum(), penalty.detach().sum(), wrong])

    def _parameters(self) -> list[Tensor]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def _frozen(self) -> list[str]:
        return [name for name, p in self.model.named_parameters() if not p.requires_grad]

    def _batch(self) -> tuple[Tensor, Tensor]:
        x, y = self.images[self.batch].float() / 255, self.labels[self.batch]
        how = self.config.augmentation
        return checks.transformed(
            AUGMENTATIONS[how](x, self.generator), x, f"augmentation {how!r}"
        ), y

    def _compiled(self) -> Derivatives:
        """On a GPU the derivatives as one graph, where that pays and nothing in it will change."""
        steps = self.images_until(self.config.epochs) // self.config.batch_size
        if self.stream is None or steps < WORTH_COMPILING or self.epoch < self.config.warmup:
            return self.derivatives
        return whole(self.derivatives, self.model, *self._batch())

    def streamed(self) -> AbstractContextManager:
        """On a GPU, the stream that all steps are done on."""
        return torch.cuda.stream(self.stream) if self.stream else nullcontext()

    def _end_epoch(self, batches: int, start: float) -> dict[str, float]:
        images = batches * self.config.batch_size
        with self.streamed():
            finite = torch.stack([
                checks.are_finite(value).all()
                for name, value in self.model.state_dict().items()
                if name not in self.unbounded and not checks.added(name)
            ]).all()  # fmt: skip
            loss, penalty, error = (self.totals / images).tolist()
        seconds = time.perf_counter() - start
        self.epoch += 1
        if not (bool(finite) and math.isfinite(loss + penalty)):
            raise Divergence(
                f"the run diverged in epoch {self.epoch} (loss {loss}, penalty {penalty}); "
                f"{self._last_good()}. Lower the learning rate, eta or the weight decay."
            )
        metrics = {"epoch": self.epoch, "loss": loss, "penalty": penalty, "error": error}
        speed = {"seconds": round(seconds, 3), "images_per_second": round(images / seconds, 1)}
        self.history.append(metrics | speed | {"device": _called(self.device)})
        if self.folder:
            self._write(self.folder)
        return metrics

    def _keep_in_time(self) -> None:
        """Stop where another epoch would pass the time."""
        epoch = self.epoch
        seconds = self.history[-1]["seconds"] if self.history else 0.0
        if self.folder is None or self.until is None or time.time() + seconds <= self.until:
            return
        if epoch > self.stored:
            self._write(self.folder, due=True)
        said = f"the time is up after epoch {epoch} of {self.config.epochs}: the same call goes on"
        stopped = Unfinished(said if epoch > self.first else f"{said}, given time for an epoch")
        stopped.trained = epoch > self.first
        raise stopped

    def _write(self, folder: Path, due: bool = False) -> None:
        due = due or self.epoch % self.checkpoint_every == 0 or self.epoch == self.config.epochs
        self.check_kept()
        try:
            checkpoint.write(folder, self.history, self._state() if due else None)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            stored = self.stored if checkpoint.found_in(folder) else 0  # it may be removed
            raise OSError(
                error.errno,
                f"{'the disk is full' if full else error.strerror}, {error.filename} was not "
                f"written: mend that, and the same call goes on from epoch {stored}",
            ) from error
        if due:
            self.stored = self.epoch

    def _last_good(self) -> str:
        if self.folder and checkpoint.found_in(self.folder):
            return f"the last good one is {checkpoint.path_in(self.folder)}"
        return "there is no checkpoint"

    def _state(self) -> dict[str, Any]:
        return {
            "config": asdict(self.config), "given": self.given, "data": self.data,
            "sizes": self.sizes, "epoch": self.epoch, "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(), "threads": torch.get_num_threads(),
            "frozen": self._frozen(),
        }  # fmt: skip

    def _restore(self, state: dict[str, Any]) -> None:
        assert self.folder is not None
        found = state["config"]
        different = [
            f"{field.name}={getattr(found, field.name)!r}"
            for field in fields(Config)
            if getattr(found, field.name) != getattr(self.config, field.name)
        ]
        if different:
            raise ValueError(
                f"{self.folder} holds a run with {', '.join(different)}: "
                "choose another folder, or delete that one"
            )
        if state["data"] != self.data:
            raise ValueError(
                f"{self.folder} holds a run on other images ({state['data']}): "
                "choose another folder"
            )
        if not self.given:
            checkpoint.check_makeable(state, self.folder)
        if (frozen := state.get("frozen", self._frozen())) != self._frozen():
            raise ValueError(
                f"{self.folder} holds a run of a model with {checks.shown(frozen)} frozen, got one "
                f"with {checks.shown(self._frozen())}: freeze the same, or choose another folder"
            )
        path = checkpoint.path_in(self.folder)
        self.history = checkpoint.metrics(self.folder, state)
        checkpoint.restore(self.model, state["model"], path)
        checkpoint.restore_optimizer(self.optimizer, state["optimizer"], path)
        self.epoch = self.first = self.stored = state["epoch"]
        threads = state.get("threads", torch.get_num_threads())
        if threads != torch.get_num_threads() and self.epoch < self.config.epochs:
            warnings.warn(
                f"{self.folder} was trained with {threads} threads and goes on with "
                f"{torch.get_num_threads()}: its weights will differ by rounding from those of "
                "one number of threads",
                stacklevel=2,
            )


def _called(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"

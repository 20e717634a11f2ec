"""The files of a run: ``checkpoint.pt``, replaced in one step, and ``metrics.jsonl``, a line for
each epoch, never behind the checkpoint, which holds its checksum.
"""

import io
import json
import os
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from threading import RLock, get_ident
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy
from torch.optim import SGD, AdamW, Optimizer

from wdtr_lite import checks, data, models
from wdtr_lite.training.choices import always_gathered
from wdtr_lite.training.config import Config
from wdtr_lite.training.images import checksum
from wdtr_lite.training.objectives import METHODS, OPTIONS, Objective


class Run(NamedTuple):
    """A trained network and how it got there."""

    model: nn.Module  # in evaluation mode
    history: list[dict[str, Any]]  # an epoch: loss, penalty, error on what it trained on, speed
    config: Config


def load(
    folder: str | os.PathLike,
    *,
    device: str | torch.device = "cpu",
    model: nn.Module | None = None,
) -> Run:
    """The network of a run's last checkpoint, in evaluation mode, with the metrics up to it.

    Parameters
    ----------
    folder : path
    device : optional
    model : torch.nn.Module, optional
        Of a run that was given its network, such a network: the weights are put into it, and it is
        moved to the device.

    Returns
    -------
    Run

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint in the folder.
    """
    folder, device = checks.folder(folder), checks.device(device)
    checks.allocated(model)
    state = read(folder)
    if model is None:
        check_makeable(state, folder)
        with _usable(path_in(folder)):
            model = _blank(state["config"], state["model"], **state["sizes"])
    restore(model, state["model"], path_in(folder))
    return Run(model.to(device).eval(), metrics(folder, state), state["config"])


def trained_on(folder: str | os.PathLike, dataset: data.Dataset) -> bool:
    """Whether a run was trained on these images and labels, by their checksum: not if it was given
    others of the data set's name. Of other parts, as the test images, a run knows nothing.
    """
    config = read(checks.folder(folder))["config"]
    return trained_on_checksum(folder, checksum_of(dataset, config.part, config.images))


def trained_on_checksum(folder: str | os.PathLike, found: int | None) -> bool:
    return read(checks.folder(folder))["data"].endswith(f", checksum {found}")


def checksum_of(dataset: data.Dataset, part: str, images: int | None) -> int | None:
    """Of images and labels to train on; None where the data set has no such part, or not so many
    images.
    """
    try:
        return checksum(*dataset.part(part, images))
    except ValueError:
        return None


def network(
    config: Config, weights: dict[str, Tensor], *, classes: int = 10, channels: int = 3
) -> nn.Module:
    """The network of a configuration with weights trained before, in evaluation mode on the CPU.

    Parameters
    ----------
    config : Config
    weights : dict of str to tensor
        Its ``state_dict()``.
    classes, channels : int
        Of the images it was trained on.
    """
    checks.instance(config, "config", Config)
    checks.weights(weights, "weights")
    classes, channels = checks.size(classes, "classes"), checks.size(channels, "channels")
    model = _blank(config, weights, classes, channels)
    checks.same_types(weights, model, "weights")
    checks.finite_weights(weights, model, "weights")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        sizes = f"classes={classes} and channels={channels}"
        raise ValueError(
            f"weights must be of the network of {config} with {sizes}: {error}"
        ) from error
    return model.eval()


def _blank(config: Config, weights: dict[str, Tensor], classes: int, channels: int) -> nn.Module:
    """The network of a configuration, for weights trained before; not one that is much larger."""
    stored = sum(weight.numel() for key, weight in weights.items() if not checks.added(key))
    largest = max(stored, 2**24)
    return untrained(config, classes, [0.0] * channels, [1.0] * channels, largest)


_DRAWING = RLock()  # one network at a time from torch's global generator


def untrained(
    config: Config, classes: int, mean: list[float], std: list[float], largest: int = 2**28
) -> nn.Module:
    """The network for images of this mean and standard deviation of each channel, float32, its
    weights drawn from the seed, torch's global generators left as they are; none of more than so
    many numbers. Another thread must not draw from torch's global generator meanwhile.
    """
    checks.option(config.model, "model", tuple(models.MODELS))
    what = (
        f"model={config.model!r} of width={config.width!r}, {classes} classes, {len(mean)} channels"
    )
    with _DRAWING, _sized(largest, what), _float32_on_the_cpu(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        return models.build(
            config.model,
            classes=classes,
            channels=len(mean),
            mean=mean,
            std=std,
            activation=config.activation,
            width=config.width,
        )


@contextmanager
def _float32_on_the_cpu() -> Iterator[None]:
    """Whatever the caller's default type and device are."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


@contextmanager
def _sized(largest: int, what: str) -> Iterator[None]:
    """Refuse a weight of more numbers before its memory is written to, and what has no place."""
    me = get_ident()

    def check(module: nn.Module, name: str, weight: nn.Parameter | None) -> None:
        if weight is None or is_lazy(weight) or get_ident() != me or weight.numel() <= largest:
            return
        raise ValueError(f"{what} has a weight {tuple(weight.shape)} of over {largest} numbers")

    try:
        with register_module_parameter_registration_hook(check):
            yield
    except RuntimeError as error:
        raise ValueError(f"{what} cannot be made here: {error}") from error


def check_makeable(state: dict[str, Any], folder: Path) -> None:
    """Refuse a network that was given: its class alone does not make it."""
    name = state["config"].model
    if state["given"] or name not in models.MODELS:
        raise ValueError(f"{folder} holds a run of a given {name}: pass one as model=...")


def check_storable(model: nn.Module) -> None:
    """Refuse what a layer adds to its weights, if a checkpoint would not be read for it."""
    added = {key: value for key, value in model.state_dict().items() if checks.added(key)}
    content = io.BytesIO()
    try:
        torch.save(added, content)
        content.seek(0)
        torch.load(content, weights_only=True)
    except Exception as error:  # pickle raises several kinds
        raise TypeError(
            "model must have an extra state of tensors, numbers and names, to be kept in a folder, "
            f"got {checks.shown(added)}"
        ) from error


def restore(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Put the weights of a checkpoint into the network."""
    with _usable(path):
        checks.finite_weights(weights, model, "model")
    try:
        checks.same_types(weights, model, "model")
        model.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{path} holds a run of another network, not of model: choose another folder or delete "
            f"that one: {error}"
        ) from error


def restore_optimizer(optimizer: Optimizer, gathered: dict[str, Any], path: Path) -> None:
    """Put back what the optimizer had gathered of each weight, and what it had added to its groups;
    how it uses that is the configuration's.
    """
    try:
        made = optimizer.state_dict()["param_groups"]
        groups = [
            {key: value for key, value in then.items() if key != "initial_lr"} | now
            for then, now in zip(gathered["param_groups"], made, strict=True)
        ]
        optimizer.load_state_dict({"state": gathered["state"], "param_groups": groups})
        names = always_gathered(optimizer)
        if names and not optimizer.state:
            raise ValueError("which is empty")
        for weight, values in optimizer.state.items():
            checks.instance(weight, "each weight", Tensor)
            for name in names:
                checks.instance(values.get(name), name, Tensor)
            if not isinstance(optimizer, SGD | AdamW):  # as Adafactor, which gathers sums of rows
                continue
            for name, value in values.items():
                if isinstance(value, Tensor) and value.dim():
                    checks.like(value, weight, name, "its weight")
                    checks.bounded(value, name)
    except Exception as error:  # of what is no state torch raises nearly anything
        raise ValueError(
            f"{path} holds another optimizer's state, {error}: delete {path.parent} and train anew"
        ) from error


def path_in(folder: Path) -> Path:
    return folder / "checkpoint.pt"


def found_in(folder: Path) -> bool:
    """Whether there is one, be it behind a link that leads nowhere."""
    return path_in(folder).exists() or path_in(folder).is_symlink()


def stored_in(folder: Path | None) -> dict[str, Any] | None:
    """The checkpoint of a folder, if there are both."""
    return read(folder) if folder and found_in(folder) else None


def tensors_in(path: Path, advice: str) -> Any:
    """What torch saved in a file, on the CPU, its checksums compared."""
    checks.regular(path)
    with open(path, "rb") as stream:
        try:
            archive = zipfile.ZipFile(stream)
            for entry in archive.infolist():  # else torch reads something else than zipfile
                if entry.external_attr or entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{entry.filename} is not stored as torch does")
            if damaged := archive.testzip():  # torch looks at no checksum
                raise ValueError(f"the checksum of {damaged} differs")
            stream.seek(0)
            return torch.load(stream, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file makes zipfile and torch raise nearly anything
            raise ValueError(f"{path} is damaged: {advice}") from error


def read(folder: Path) -> dict[str, Any]:
    """The checkpoint, on the CPU: ``config``, whether the network was ``given``, ``data``,
    ``sizes``, ``epoch``, ``model`` and ``optimizer``; since they are stored, the checksum of the
    ``metrics``, the number of ``threads`` and the names of ``frozen`` parameters.
    """
    path = path_in(folder)
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} holds no checkpoint.pt: train with folder={str(folder)!r} first"
        )
    state = tensors_in(path, f"delete {folder} and train anew")
    with _usable(path):
        return _checked(state)


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be used here, {error}: register what it names, use the version that "
            f"wrote it, or delete {path.parent} and train anew"
        ) from error


def _checked(state: Any) -> dict[str, Any]:
    checks.instance(state, "it", dict)
    missing = {"config", "data", "epoch", "model", "optimizer"} - state.keys()
    if missing:
        raise ValueError(f"it must hold {', '.join(sorted(missing))}, got {list(state)}")
    checks.weights(state["model"], "model")
    checks.instance(state["config"], "config", dict)
    config = _config(state["config"])
    checks.whole(state["epoch"], "epoch")
    if state["epoch"] > config.epochs:
        raise ValueError(f"epoch must be at most {config.epochs}, got {state['epoch']}")
    checks.text(state["data"], "data")
    checks.instance(state["optimizer"], "optimizer", dict)
    given = state.get("given", False)  # once this was not known,
    checks.flag(given, "given")
    sizes: Any = state.get("sizes")
    if sizes is None:  # and there were no other classes than ten
        sizes = {"classes": 10, "channels": len(state["model"]["normalize.mean"])}
    checks.instance(sizes, "sizes", dict)
    sizes = {name: sizes.get(name) for name in ("classes", "channels")}
    for name, size in sizes.items():
        checks.size(size, name)
    checks.whole(state.get("metrics", 0), "metrics", 0)
    checks.whole(state.get("threads", 1), "threads")
    checks.every(state.get("frozen", []), "frozen", str)
    return state | {"config": config, "given": given, "sizes": sizes}


def _config(options: dict[str, Any]) -> Config:
    """The stored configuration, without what its method does not use: once that was not refused."""
    unknown = options.keys() - {option.name for option in fields(Config)}
    if unknown:
        raise ValueError(f"config must hold options of Config, got {', '.join(sorted(unknown))}")
    method = METHODS.get(options.get("method", "none"), Objective)
    return Config(**{k: v for k, v in options.items() if k in method.options or k not in OPTIONS})


def metrics(folder: Path, state: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the checkpoint's epochs."""
    path, epochs = folder / "metrics.jsonl", state["epoch"]
    checks.regular(path)
    lines = path.read_bytes().splitlines(keepends=True)[:epochs] if path.exists() else []
    try:
        if len(lines) < epochs:
            raise ValueError(f"it lacks some of {epochs} epochs")
        if state.get("metrics", zlib.crc32(b"".join(lines))) != zlib.crc32(b"".join(lines)):
            raise ValueError("its checksum differs")
        return [_line(line, epoch) for epoch, line in enumerate(lines, 1)]
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, {error}: delete {folder} and train anew") from error


METRICS = ("epoch", "loss", "penalty", "error", "seconds", "images_per_second")


def _line(line: bytes, epoch: int) -> dict[str, Any]:
    found = json.loads(line)
    checks.instance(found, f"line {epoch}", dict)
    for name in METRICS:
        checks.finite(found.get(name), f"{name} in line {epoch}")
    if found["epoch"] != epoch:
        raise ValueError(f"epoch in line {epoch} must be {epoch}, got {found['epoch']}")
    return found


def write(folder: Path, history: list[dict[str, Any]], state: dict[str, Any] | None) -> None:
    """The metrics, and then the checkpoint if there is a state."""
    lines = "".join(json.dumps(line) + "\n" for line in history).encode()
    replace_file(folder / "metrics.jsonl", lambda stream: stream.write(lines))
    if state is not None:
        content = io.BytesIO()  # torch makes another error of a full disk's
        torch.save(state | {"metrics": zlib.crc32(lines)}, content)
        replace_file(path_in(folder), lambda stream: stream.write(content.getbuffer()))


def replace_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that a kill at any time leaves the old one or the new one, whole."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):  # on a file system that may not be written to
            part.unlink()

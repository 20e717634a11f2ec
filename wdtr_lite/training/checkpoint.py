"""The files of a run: ``checkpoint.pt``, replaced in one step, and ``metrics.jsonl``, a line for
each epoch, never behind the checkpoint.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor, nn

from wdtr_lite import checks, models
from wdtr_lite.training.config import Config
from wdtr_lite.training.objectives import METHODS, OPTIONS, Objective


class Run(NamedTuple):
    """A trained network and how it got there."""

    model: nn.Module  # in evaluation mode
    history: list[dict[str, Any]]  # an epoch: loss, penalty, error on what it trained on, seconds
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
    folder = Path(folder)
    if not found_in(folder):
        raise FileNotFoundError(
            f"{folder} holds no checkpoint.pt: train with folder={str(folder)!r} first"
        )
    device = checks.device(device)
    state = read(folder, device)
    if model is None:
        check_makeable(state, folder)
        model = _blank(state["config"], **state["sizes"])
    restore(model, state["model"], path_in(folder))
    return Run(model.to(device).eval(), metrics(folder, state["epoch"]), state["config"])


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
    model = _blank(config, classes, channels)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"weights must be of the network of {config}: {error}") from error
    return model.eval()


def _blank(config: Config, classes: int, channels: int) -> nn.Module:
    """The network of a configuration, for weights trained before."""
    return untrained(config, classes, [0.0] * channels, [1.0] * channels)


def untrained(config: Config, classes: int, mean: list[float], std: list[float]) -> nn.Module:
    """The network for images of this mean and standard deviation of each channel, its weights drawn
    from the seed, torch's global generators left as they are.
    """
    with torch.random.fork_rng(devices=[]):
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


def check_makeable(state: dict[str, Any], folder: Path) -> None:
    """Refuse a network that was given: its class alone does not make it."""
    name = state["config"].model
    if state["given"] or name not in models.MODELS:
        raise ValueError(f"{folder} holds a run of a given {name}: pass one as model=...")


def restore(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Put the weights of a checkpoint into the network."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} holds a run of another network: {error}") from error


def path_in(folder: Path) -> Path:
    return folder / "checkpoint.pt"


def found_in(folder: Path) -> bool:
    return path_in(folder).exists()


def read(folder: Path, device: torch.device) -> dict[str, Any]:
    """The checkpoint's ``config``, whether the network was ``given``, ``data``, ``sizes``,
    ``epoch``, ``model`` and ``optimizer``.
    """
    path = path_in(folder)
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if "sizes" not in state:  # written before there were other classes than ten
            channels = len(state["model"]["normalize.mean"])
            state["sizes"] = {"classes": 10, "channels": channels}
        state.setdefault("given", False)  # nor was this known
        keys = ("config", "given", "data", "sizes", "epoch", "model", "optimizer")
        state = {key: state[key] for key in keys}
    except Exception as error:  # a damaged file makes torch raise nearly anything
        raise ValueError(f"{path} is damaged: delete {folder} and train anew") from error
    return state | {"config": _config(state["config"])}


def _config(options: dict[str, Any]) -> Config:
    """The stored configuration, without what its method does not use: once that was not refused."""
    used = METHODS.get(options["method"], Objective).options
    return Config(**{k: v for k, v in options.items() if k in used or k not in OPTIONS})


def metrics(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """The lines of so many epochs."""
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


def write(folder: Path, history: list[dict[str, Any]], state: dict[str, Any] | None) -> None:
    """The metrics, and then the checkpoint if there is a state."""
    lines = "".join(json.dumps(line) + "\n" for line in history)
    replace_file(folder / "metrics.jsonl", lambda stream: stream.write(lines.encode()))
    if state is not None:
        replace_file(path_in(folder), lambda stream: torch.save(state, stream))


def replace_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that a kill at any time leaves the old one or the new one, whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)

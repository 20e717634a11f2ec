"""Training, from a configuration to weights: resumable, the same for the same seed, captured in a
CUDA graph on a GPU.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing

import torch
from torch import nn
from tqdm import tqdm

from wdtr_lite import checks, data
from wdtr_lite.training.checkpoint import Run
from wdtr_lite.training.config import Config
from wdtr_lite.training.run import Training, Unfinished


def fit(
    config: Config,
    *,
    model: nn.Module | None = None,
    dataset: data.Dataset | None = None,
    folder: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    checkpoint_every: int = 10,
    until: float | None = None,
    progress: bool = True,
) -> Run:
    """Train a network, or go on training the one in the folder.

    On a CPU a run is the same bit by bit with the same versions and number of threads, else but for
    rounding, which training amplifies.

    Parameters
    ----------
    config : Config
    model : torch.nn.Module, optional
        Images (B, C, H, W) in [0, 1] to logits (B, classes), in place of the network that the
        configuration names. It is trained as it comes, in place, on the device: frozen parameters
        stay as they are, and the gradients that any of them hold are lost. All of it is put into
        training mode, so that running statistics move, also those of a layer whose parameters are
        frozen. Hooks of parameters are called as by ``backward``; on a GPU, which replays its
        steps, what they did on the device is repeated, not the calls. Dropout draws from torch's
        global generators, which no seed of ours sets: then a continued run is another one. What
        evaluates the network or its penalty in another thread takes turns with the steps; a pass
        or an attack of your own there does not, and a second training there is refused.
    dataset : Dataset, optional
        In place of the one that the configuration names; classes and channels are its own.
    folder : path, optional
        Where checkpoints and metrics are kept, by one run at a time; a run of the same
        configuration, images and kind of network found there is continued. Without it nothing is
        written.
    device : optional
        By default the GPU where there is one, else the CPU.
    checkpoint_every : int
        Epochs between checkpoints.
    until : float, optional
        A time, in seconds as ``time.time`` gives it, for schedulers with a limit: an epoch that
        would pass it is not begun. Asks for a folder.
    progress : bool
        Show loss, penalty, error, images per second and the time left.

    Returns
    -------
    Run
        Its configuration names what was trained on what: the data set by its name and split, a
        given model by its class, of which width and activation say nothing.

    Raises
    ------
    Divergence
        At the end of an epoch in which a loss or a weight was not finite. What the network's
        buffers hold from the start, as a mask of -inf, does not count.
    Busy
        If another run is at work in the folder, or may be, since the folder was deleted while this
        run was at work there.
    Unfinished
        Where the time `until` which was allowed is up. All that was done is stored, and the same
        call goes on from it.
    OSError
        Where the disk is full, say. What was stored before is still there, and the same call goes
        on from it.

    Examples
    --------
    >>> from wdtr_lite import training
    >>> config = training.Config(
    ...     data="mnist5k", images=256, model="small_cnn", method="euclidean", eta=0.1, epochs=1
    ... )
    >>> run = training.fit(config, progress=False)
    >>> len(run.history), sorted(run.history[0])
    (1, ['device', 'epoch', 'error', 'images_per_second', 'loss', 'penalty', 'seconds'])

    References
    ----------
    Appendix D of Lin et al. (2019).
    """
    checks.flag(progress, "progress")
    where = _device(device)
    options = {"dataset": dataset, "folder": folder, "checkpoint_every": checkpoint_every}
    options |= {"until": until}
    with closing(Training(config, model=model, device=where, **options)) as training:
        return _train([training], where, progress)[0]


def fit_together(
    configs: Sequence[Config],
    *,
    dataset: data.Dataset | None = None,
    folders: Sequence[str | os.PathLike | None] | None = None,
    device: str | torch.device | None = None,
    checkpoint_every: int = 10,
    until: float | None = None,
    progress: bool = True,
) -> list[Run]:
    """Train several networks: on a GPU at once, each on a stream of its own, step by step in turn;
    on a CPU one after the other.

    Parameters
    ----------
    configs : sequence of Config
    folders : sequence of paths, optional
        One for each configuration.
    dataset, device, checkpoint_every, until, progress
        As in :func:`fit`.

    Returns
    -------
    list of Run

    Raises
    ------
    Divergence, Busy, Unfinished, OSError
        As :func:`fit`.
    """
    checks.every(configs, "configs", Config)
    checks.flag(progress, "progress")
    folders = [None] * len(configs) if folders is None else folders
    checks.instance(folders, "folders", (list, tuple))
    if len(folders) != len(configs):
        raise ValueError(
            f"folders must be one for each of the {len(configs)} configurations, got {len(folders)}"
        )
    given = [checks.folder(each, "folders").resolve() for each in folders if each is not None]
    if len(set(given)) < len(given):
        raise ValueError(f"folders must differ from each other, got {[*map(str, given)]}")
    where = _device(device)
    options = {"dataset": dataset, "device": where, "checkpoint_every": checkpoint_every}
    options |= {"until": until}
    with ExitStack() as held:
        trainings = [
            held.enter_context(closing(Training(config, folder=folder, **options)))
            for config, folder in zip(configs, folders, strict=True)
        ]
        return _train(trainings, where, progress)


def _train(trainings: list["Training"], device: torch.device, progress: bool) -> list[Run]:
    total = sum(training.images_until(training.config.epochs) for training in trainings)
    done = sum(training.images_until(training.epoch) for training in trainings)
    hidden = not (progress and sys.stderr)  # which a program without a console has not
    bar = tqdm(total=total, initial=done, unit=" images", unit_scale=True, disable=hidden)
    stopped = None
    with bar:
        turns = [training.steps() for training in trainings]
        for group in [turns] if device.type == "cuda" else [[turn] for turn in turns]:
            while group:
                for turn in list(group):
                    try:
                        step = next(turn, None)
                    except Unfinished as error:  # the others still end their epochs
                        step, stopped = None, error
                    if step is None:
                        group.remove(turn)
                        continue
                    bar.update(step.images)
                    if step.metrics:
                        bar.set_postfix({k: f"{v:.4g}" for k, v in step.metrics.items()})
    if stopped:
        raise stopped
    return [training.run() for training in trainings]


def _device(device: str | torch.device | None) -> torch.device:
    there = "cuda" if torch.cuda.is_available() else "cpu"
    return checks.device(there if device is None else device)

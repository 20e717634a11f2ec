"""The processes of this machine, or of a cluster, that train networks."""

import logging
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import torch
from tqdm import tqdm

from wdtr_lite.training import Unfinished

__all__ = ["executor", "unfinished"]

GOES_ON = "What was finished is kept: run the command again, it goes on."
KILLED = f"a process that trains networks was killed, out of memory perhaps. {GOES_ON}"
IN_VAIN = "Nothing was done: run the command again, with more time."
NOT_BEGUN = (
    "the processes that train networks could not begin: they were killed, or they cannot import "
    'your script, which must be a file, with what it does under if __name__ == "__main__":'
)


def unfinished(says: str, *, worked: bool) -> Unfinished:
    """That the time is up; whether the same call goes on in the same time."""
    stopped = Unfinished(f"the time is up, {says}. {GOES_ON if worked else IN_VAIN}")
    stopped.trained = worked
    return stopped


@contextmanager
def executor(cluster: str | None) -> Iterator[tuple[Executor, int]]:
    """A process on each core, or the workers of a Dask cluster, which answer to the same
    interface; and how many of these there are, if each has a GPU, else 0.
    """
    if cluster is None:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(os.cpu_count(), spawn, _begin) as workers:
            begun = workers.submit(os.getpid)
            try:
                yield workers, 0
            except BrokenProcessPool as error:
                raise ChildProcessError(NOT_BEGUN if begun.exception() else KILLED) from error
        return
    from distributed import Client, KilledWorker

    with Client(cluster) as client:
        try:
            on_gpus: Any = client.run(torch.cuda.is_available)
            yield client.get_executor(pure=False), len(on_gpus) if all(on_gpus.values()) else 0
        except KilledWorker as error:
            raise ChildProcessError(KILLED) from error
        except CancelledError as error:
            # It would tell at length that it cannot reconnect.
            logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
            raise ConnectionError(f"the scheduler {cluster} is lost. {GOES_ON}") from error


def _begin() -> None:
    """One thread for each process of the pool, which ends with the process that started it, even
    if that one is killed.
    """
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a killed process would leak
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow():
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()

"""One run at a time in a folder."""

import errno
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

LOCKLESS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # of file systems that have no locks


class Busy(RuntimeError):
    """Another run is at work in the folder, of this process or of another, or may be, since the
    folder was deleted.
    """


@contextmanager
def held(folder: Path) -> Iterator[Callable[[], None]]:
    """The folder, made if it is not there, for one run alone; the kernel frees that of a process
    which is killed. Before it writes, the run calls what this gives, which refuses where another
    folder has taken the place of the one that is held. Where the file system has no locks, a
    warning.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0, thread_local=False)
        _acquire(lock, folder)
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in LOCKLESS:
            raise _unusable(folder, error) from error
        warnings.warn(
            f"{folder} is on a file system without locks: see to it yourself that no other run "
            "trains there",
            stacklevel=2,
        )
        yield lambda: None
        return
    mine = _identity(folder)

    def replaced() -> bool:
        return folder.exists() and _identity(folder) != mine

    def check() -> None:
        if replaced():
            raise Busy(
                f"{folder} was deleted, or its .lock, while this run was at work there: what is "
                "there now may be another run's and is left as it is. Start again, there or in "
                "another folder"
            )

    try:
        _name_holder(folder)
        yield check
    finally:
        if not replaced():
            with suppress(OSError):
                (folder / ".holder").unlink()
        lock.release()


def _identity(folder: Path) -> tuple[int, int] | None:
    """Of the lock's file, which no other has while it is open."""
    try:
        found = (folder / ".lock").stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _acquire(lock: BaseFileLock, folder: Path) -> None:
    try:
        lock.acquire()
    except Timeout:
        (folder / ".lock").touch()  # where none can be made, nobody holds it
        raise Busy(
            f"{folder} is in use, {_holder(folder)} trains there: wait for it, or choose another "
            "folder"
        ) from None


def _name_holder(folder: Path) -> None:
    """Write who we are, and remove what a killed process left."""
    try:
        (folder / ".holder").unlink(missing_ok=True)  # writing to a pipe may never end
        (folder / ".holder").write_text(f"process {os.getpid()} on {socket.gethostname()}")
    except OSError as error:
        raise _unusable(folder, error) from error
    for part in folder.glob(".*.part"):
        if part.name.startswith((".checkpoint.pt.", ".metrics.jsonl.")):
            part.unlink(missing_ok=True)


def _holder(folder: Path) -> str:
    for _ in range(100):  # it has the lock, and writes its name next
        with suppress(OSError):
            if name := (folder / ".holder").read_text():
                return name
        time.sleep(0.01)
    return "another process"


def _unusable(folder: Path, error: OSError) -> OSError:
    return OSError(error.errno, f"folder cannot be written: {error.strerror}", str(folder))

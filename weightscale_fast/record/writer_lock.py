"""WriterLock: only one monitor at a time writes a run folder. Reading needs no lock."""

from __future__ import annotations

import errno
import os
import socket
import warnings
import weakref
from pathlib import Path

from ..errors import WeightScaleError

try:
    import fcntl
except ImportError:  # Windows has no such locks, so there a second writer is not noticed
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # what a file system without locks answers


class FolderTakenError(WeightScaleError):
    """A folder that cannot be taken for a run.

    Attributes:
        reason: why. The message continues with what to do.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}: {remedy}")
        self.reason = reason


class WriterLock:
    """A lock on the file `.lock` in a run folder. The operating system frees it when the process ends, however it ends.

    The file stays in the folder. It says which process wrote last.

    Raises:
        FolderTakenError: another monitor holds the lock, of this process or of another one.
        OSError: the file cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        # A link is not followed: the file behind it would be overwritten.
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _lock(file, folder)
        except BaseException:
            os.close(file)
            raise
        self._close = weakref.finalize(self, _close, file, os.getpid())
        _held.add(self)

    def release(self) -> None:
        """Free the lock."""
        self._close()


_held: weakref.WeakSet[WriterLock] = weakref.WeakSet()


def _lock(file: int, folder: Path) -> None:
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _taken(folder, os.pread(file, 300, 0).decode(errors="replace")) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            warnings.warn(
                f"{folder} is on a file system without locks ({error}): record there from one process only, because "
                "a second writer would not be noticed",
                stacklevel=2,
            )
    os.ftruncate(file, 0)
    os.write(file, f"{os.getpid()} {socket.gethostname()}\n".encode())


def _taken(folder: Path, holder: str) -> FolderTakenError:
    process, _, host = holder.strip().partition(" ")
    here = host == socket.gethostname()
    if here and process == str(os.getpid()):
        return FolderTakenError(
            f"another monitor of this process still records to {folder}",
            "call its close(), or delete its optimizer if that monitor is out of reach",
        )
    where = "" if here else f" on {host}"
    return FolderTakenError(f"process {process}{where} writes to {folder}", "end it, or choose another folder")


def _close(file: int, process: int) -> None:
    if fcntl is not None and os.getpid() == process:
        fcntl.flock(file, fcntl.LOCK_UN)  # a child that did not start by os.fork may still have the file open
    os.close(file)


def _close_in_child() -> None:
    """A forked child must not hold the lock, because it may live on when its parent is killed."""
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)

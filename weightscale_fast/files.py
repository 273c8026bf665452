"""Files that are either complete or not there, and the care that a stranger's folder needs."""

from __future__ import annotations

import csv
import errno
import io
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any

from .errors import WeightScaleError

_numbers = count()


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that gets its name `path` only when it is complete.

    The bytes go to a file with a temporary name in the same folder. At the end of the block they are flushed to the
    disk, and the file is renamed. A block that raises leaves `path` as it was. What a killed process leaves behind is
    hidden: its name begins with a dot and ends in `.tmp`. A link under the temporary name is not followed.

    Raises:
        OSError: the folder cannot be written, or the disk is full.

    Example:
        `with atomic_write(folder / "report.html") as file: file.write(text.encode())`
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "its folder does not exist", str(path))
    # The number is for a signal handler that writes the same file in the middle of this call.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{next(_numbers)}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a killed process with the same number
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_file(path: Path) -> bytes:
    """The content of a file.

    Raises:
        OSError: it is no file, or cannot be read.
    """
    check_is_file(path)
    return path.read_bytes()


def check_is_file(path: Path) -> None:
    """Raise `OSError` unless it is a file. Reading a pipe or a device would never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is not a file", str(path))


def check_own_folder(folder: Path) -> None:
    """Raise `WeightScaleError` unless files may be written to this folder inside a run: it is a folder, or not there.

    Behind a link may be anything, and a run folder may be a stranger's.
    """
    if folder.is_symlink():
        raise WeightScaleError(
            f"{folder} is a link, and nothing is written through a link inside a run folder: put a folder in its place"
        )
    if folder.exists() and not folder.is_dir():
        raise WeightScaleError(f"{folder} is not a folder, so nothing can be written to it: move it away")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as UTF-8 text, all of it or nothing."""
    with atomic_write(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        csv.writer(text).writerows([header, *rows])
        text.detach()  # flushes, and leaves the file open for atomic_write

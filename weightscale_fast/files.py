"""Files that are either complete or not there."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that gets its name `path` only when it is complete.

    The bytes go to a file with a temporary name in the same folder. At the end of the block they are flushed to the
    disk, and the file is renamed. A block that raises leaves `path` as it was. What a killed process leaves behind is
    hidden: its name begins with a dot and ends in `.tmp`.

    Raises:
        OSError: the folder cannot be written, or the disk is full.

    Example:
        `with atomic_write(folder / "report.html") as file: file.write(text.encode())`
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as UTF-8 text, all of it or nothing."""
    with atomic_write(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        csv.writer(text).writerows([header, *rows])
        text.detach()  # flushes, and leaves the file open for atomic_write

"""begin_folder: the folder of a new run, and what becomes of an older run in it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from ..errors import WeightScaleError
from ..files import atomic_write, check_own_folder
from .observed import OBSERVED
from .run_meta import META, parse_meta
from .writer_lock import FolderTakenError, WriterLock

EXIST = ("error", "overwrite", "next")
OF_A_RUN = ("rwc", "analysis", OBSERVED)  # what "overwrite" deletes, beside meta.json
NO_CONTENT = ("lost+found",)  # an empty volume has it
ADVICE = (
    'choose another folder, or pass exist="next" to record beside it, exist="overwrite" to replace it, or resume=True '
    "to continue it"
)


def local_path(path: str | os.PathLike[str]) -> Path:
    """The absolute path, with `~` expanded.

    Raises:
        ValueError: it is an address, such as `s3://bucket/run`, or no path.
    """
    text = os.fspath(path)
    if not isinstance(text, str) or "\0" in text:
        raise ValueError(f"a run folder must be the path of a folder, got {text!r}")
    if "://" in text or re.match("[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise ValueError(
            f"a run folder must be a folder of this machine, got the address {text!r}: record to a local folder and "
            "copy it, or mount the address as a folder"
        )
    return Path(os.path.abspath(os.path.expanduser(text)))


def begin_folder(path: Path, meta: str, exist: str) -> tuple[Path, WriterLock]:
    """Lock the folder of a new run and write its meta.json. If this fails, it leaves no files behind.

    Args:
        path: the folder. If it exists and holds nothing, or a run without a row, it is used as it is.
        meta: the text of meta.json.
        exist: what to do if it holds rows: an error, `"overwrite"` them, or take the `"next"` free one of `path-2`,
            `path-3`, ...

    Returns:
        The folder that was taken, and its lock.

    Raises:
        FolderTakenError: the folder holds rows or other files, or another monitor writes to it.
        WeightScaleError: the folder cannot be written.
    """
    for folder in _candidates(path, exist):
        try:
            return folder, _begin(folder, meta, exist)
        except FolderTakenError:
            if exist != "next":
                raise
        except OSError as error:
            raise WeightScaleError(f"run folder {folder} cannot be written: {error}") from error
    raise AssertionError("there is always a next folder")


def has_rows(folder: Path) -> bool:
    """Whether a run folder holds rows, or something else in their place."""
    try:
        return any(not name.startswith(".") for name in os.listdir(folder / "rwc"))
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        return True


def _candidates(path: Path, exist: str) -> Iterator[Path]:
    yield path
    number = 2
    while exist == "next":
        if not path.name:
            raise WeightScaleError(f"run folder {path} has no name, so there is no next one: choose another folder")
        yield path.with_name(f"{path.name}-{number}")
        number += 1


def _begin(folder: Path, meta: str, exist: str) -> WriterLock:
    real = Path(os.path.realpath(folder))  # a link to a folder stays a link
    if not real.exists():
        with contextlib.suppress(_OvertakenError):
            return _make(real, meta)
    _refuse(folder, exist)  # before a file is made
    lock = WriterLock(real)
    try:
        _refuse(folder, exist)  # another process may have written rows since
        if has_rows(real):
            _delete_rows(real)
        check_own_folder(real / "rwc")
        (real / "rwc").mkdir(exist_ok=True)
        _write_meta(real, meta)
    except BaseException:
        lock.release()
        raise
    return lock


class _OvertakenError(Exception):
    """Another process has made the folder."""


def _make(folder: Path, meta: str) -> WriterLock:
    """Make the folder under another name and rename it, so that it never appears without its meta.json."""
    temporary = folder.with_name(f".run-{uuid.uuid4().hex[:12]}.tmp")
    lock = None
    try:
        (temporary / "rwc").mkdir(parents=True)
        lock = WriterLock(temporary)
        _write_meta(temporary, meta)
        temporary.rename(folder)
    except BaseException as error:
        if lock is not None:
            lock.release()
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and folder.exists():
            raise _OvertakenError from error
        raise
    return lock


def _refuse(folder: Path, exist: str) -> None:
    """Raise if the folder exists and may not be taken."""
    if not folder.is_dir():
        raise FolderTakenError(f"run folder {folder} exists and is a file", "choose another name")
    if not (folder / META).exists():
        content = sorted(name for name in os.listdir(folder) if not name.startswith(".") and name not in NO_CONTENT)
        if content and not (content == ["rwc"] and not has_rows(folder)):
            raise FolderTakenError(
                f"run folder {folder} exists and is not empty, and holds no run: it has {content[0]} and no {META}",
                "choose another name, or an empty folder",
            )
        return
    parse_meta(folder)  # what is no run is not written over
    if has_rows(folder) and exist != "overwrite":
        raise FolderTakenError(f"run folder {folder} exists and holds the rows of a run", ADVICE)


def _delete_rows(folder: Path) -> None:
    for name in OF_A_RUN:
        room = folder / name
        if room.is_dir() and not room.is_symlink():
            shutil.rmtree(room)
        else:
            room.unlink(missing_ok=True)


def _write_meta(folder: Path, meta: str) -> None:
    with atomic_write(folder / META) as file:
        file.write(meta.encode())

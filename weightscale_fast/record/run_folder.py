"""RunFolder: the record of a run on disk. If the process is killed, at most the shard being written is lost.

    RUN/meta.json                                    describes the rows; written once, before the first row
    RUN/rwc/part-<first>-<last>.safetensors          step, flags [n], delta_l1, prev_l1, moved, ... [n, L]
    RUN/observed.json                                what is known beside the rows; replaced when it changes
    RUN/.lock                                        locked by the monitor that writes, so that there is only one

Each file is written under a temporary name, flushed to the disk, and then renamed. So a folder that has its meta.json
is a run, and a shard appears only when it is complete.

Letters: n rows, L layers.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import WeightScaleError
from ..files import atomic_write, check_own_folder
from .new_run import begin_folder, has_rows, local_path
from .rows import Rows, concatenate
from .run_meta import FORMAT, META, different_run, new_meta, parse_meta, read_meta, run_id, sums_of
from .shards import list_shards, read_shard, shard_path, step_range
from .writer_lock import WriterLock

__all__ = ["FORMAT", "META", "RunFolder"]
TRIES = 10  # how often rows are read if shards are deleted meanwhile

# The last shard takes further rows while it has few rows, is small, and was begun a short time ago. So a loop that
# flushes at each step does not leave a file for each.
JOINED_ROWS = 256
JOINED_BYTES = 8 * 2**20
JOINED_SECONDS = 60.0


class RunFolder:
    """The folder of one run.

    `create` makes it, `open` opens it for reading, `begin` for writing. `append` adds a shard, `rows` reads all shards.
    """

    def __init__(self, path: Path, meta: dict[str, Any], lock: WriterLock | None = None) -> None:
        self.path = path
        self.meta = meta
        self._lock = lock  # None for a reader
        self._listed: list[Path] | None = None  # the shards that a reader reads, so that two reads see the same
        self._last: tuple[float, Rows] | None = None  # of a writer: when its last shard was begun, and its rows

    @classmethod
    def create(cls, path: str | Path, meta: Mapping[str, Any], exist: str = "error") -> RunFolder:
        """Create the folder of a new run, or take one that holds no row. If this fails, it leaves no files behind.

        Args:
            path: the folder.
            meta: what meta.json says about the record.
            exist: what to do if the folder holds rows; see `RWCMonitor`.

        Raises:
            ValueError: the path is an address.
            WeightScaleError: the folder holds something, or cannot be written.
        """
        full = new_meta(meta)
        folder, lock = begin_folder(local_path(path), json.dumps(full, indent=1), exist)
        return cls(folder, full, lock)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open the run at `path` for reading.

        Raises:
            ValueError: the path is an address.
            WeightScaleError: there is no run at `path`, or it is damaged.
        """
        folder = local_path(path)
        run = cls(folder, read_meta(folder))
        run._shards()  # so that a damaged folder is an error here
        return run

    @classmethod
    def begin(cls, path: str | Path, meta: Mapping[str, Any], *, resume: bool, exist: str = "error") -> RunFolder:
        """Create the folder. With `resume`, continue the run in it if it has rows.

        Raises:
            ValueError: the path is an address.
            WeightScaleError: the folder exists and `resume` is False; or it is another run's, or cannot be written.
        """
        folder = local_path(path)
        try:
            if not resume or not (folder / META).exists() or not has_rows(folder):
                return cls.create(folder, meta, exist)
            read_meta(folder)  # before a lock file is made in a folder that is no run
            lock = WriterLock(folder)
        except OSError as error:
            raise WeightScaleError(f"run folder {folder} cannot be written: {error}") from error
        try:
            run = cls(folder, read_meta(folder), lock)
            difference = different_run(run.meta, meta)
            if difference is not None:
                raise WeightScaleError(f"run folder {folder} belongs to another run: {difference}; choose another name")
            run._shards()
            check_own_folder(folder / "rwc")
        except BaseException:
            lock.release()
            raise
        return run

    def release(self) -> None:
        """Stop writing, so that another monitor may write."""
        if self._lock is not None:
            self._lock.release()

    def lost(self) -> str | None:
        """Why the folder is not this run's any more, or cannot be read; None if it is."""
        try:
            now = parse_meta(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return f"run folder {self.path} was deleted"
        except OSError as error:
            return f"{self.path / META} cannot be read: {error.strerror}"
        except WeightScaleError as error:
            return str(error)
        if run_id(now) != run_id(self.meta):
            return f"{self.path} is the folder of another run now"
        return None if (self.path / "rwc").is_dir() else f"the folder of rows {self.path / 'rwc'} was deleted"

    def append(self, rows: Rows) -> None:
        """Write the rows as one shard, or together with the rows of the last shard if that one is short and new.

        Raises:
            OSError: the disk is full, or the folder is gone or another run's. No part of this shard is then left, and
                the others are untouched.
        """
        lost = self.lost()
        if lost is not None:
            raise OSError(lost)
        begun, last = self._last or (time.monotonic(), None)
        if last is None or not self._join(begun, last, rows):
            self._write(rows)
            self._last = time.monotonic(), rows

    def _join(self, begun: float, last: Rows, rows: Rows) -> bool:
        """Write the rows together with those of the last shard. Return False if that shard takes no more."""
        rows = rows.where(rows.steps > last.steps[-1])  # Ctrl-C may have come after they were written
        joined = self._concatenate([last, rows])
        is_old = time.monotonic() - begun > JOINED_SECONDS
        if is_old or len(joined.steps) > JOINED_ROWS or joined.nbytes > JOINED_BYTES:
            return False
        if len(rows.steps):
            self._write(joined)
            shard_path(self.path, last).unlink(missing_ok=True)
            self._last = begun, joined
        return True

    def _write(self, rows: Rows) -> None:
        with atomic_write(shard_path(self.path, rows)) as file:
            file.write(rows.to_bytes())

    def _concatenate(self, parts: list[Rows]) -> Rows:
        return concatenate(parts, len(self.meta["names"]), sums_of(self.meta))

    def rows(self) -> Rows:
        """All rows of all shards, in the order of steps.

        Raises:
            WeightScaleError: a shard is damaged, or belongs to another run.
        """
        for _ in range(TRIES):
            try:
                parts = list(self.parts())
            except _ShardGoneError:  # the run was resumed meanwhile
                self._listed = None
                continue
            return self._concatenate(parts)
        raise WeightScaleError(f"the rows in {self.path} change all the time: load them when its training is over")

    def parts(self) -> Iterator[Rows]:
        """The rows of one shard after another, in the order of steps, for runs that are larger than memory.

        A folder that is open for reading has the same rows at each call, also if the run goes on meanwhile.

        Raises:
            WeightScaleError: a shard is damaged, or belongs to another run.
        """
        last_step = -1
        for shard in self._shards():
            part = self._read(shard)
            if part.steps[0] <= last_step:  # a resume was killed: it left a shard and its shortened copy
                part = part.where(part.steps > last_step)
            if len(part.steps):
                yield part
                last_step = int(part.steps[-1])

    def _read(self, shard: Path) -> Rows:
        """The rows of a shard, also if further rows were written together with them meanwhile."""
        try:
            return read_shard(shard, self.meta)
        except FileNotFoundError as error:
            first, last = step_range(shard)
            for other in list_shards(self.path, self.meta["every"]):
                if step_range(other)[0] == first and step_range(other)[1] > last:
                    rows = self._read(other)
                    return rows.where(rows.steps <= last)
            raise _ShardGoneError(f"shard {shard} was deleted while the run was read: load it again") from error

    def newest(self) -> Rows | None:
        """The rows of the last shard; None if there is none.

        Raises:
            WeightScaleError: the shard is damaged, or belongs to another run.
        """
        shards = self._shards()
        return self._read(shards[-1]) if shards else None

    def last_step(self) -> int:
        """The step of the last row; 0 if there is none."""
        return max((step_range(shard)[1] for shard in self._shards()), default=0)

    def drop_after(self, step: int) -> None:
        """Delete the rows after `step`, because the run continues from a checkpoint of that step.

        The shortened copy of a shard is written first, and then the last shard is deleted first. So a full disk changes
        nothing, and a kill leaves no hole.

        Raises:
            OSError: the folder cannot be written, or is another run's.
        """
        lost = self.lost()
        if lost is not None:
            raise OSError(lost)
        self._last = None
        later = [shard for shard in self._shards() if step_range(shard)[1] > step]
        for shard in later:
            if step_range(shard)[0] <= step:
                rows = read_shard(shard, self.meta)
                self._write(rows.where(rows.steps <= step))
        for shard in reversed(later):
            os.unlink(shard)

    def _shards(self) -> list[Path]:
        if self._listed is not None:
            return self._listed
        shards = list_shards(self.path, self.meta["every"])
        if self._lock is None:
            self._listed = shards
        return shards


class _ShardGoneError(WeightScaleError):
    """A shard was deleted between the listing and the reading."""

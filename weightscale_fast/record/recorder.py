"""Recorder: takes rows out of the ring and keeps them in a run folder or in memory.

Letters: n rows, K sums (3, or 4 with the ratios), L layers.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ..errors import WeightScaleError
from .ring import Ring
from .row_sum import RowSum
from .rows import RESUMED, SKIPPED, Part, Rows, concatenate
from .run_folder import RunFolder


class Recorder:
    """Takes many rows at a time out of the ring and writes them as one shard of the run folder.

    If a shard cannot be written, its rows stay in memory and there is one warning. The next shard then contains them.

    Args:
        ring: where the pass puts its rows.
        every: steps between two rows. Row i, counted from 0, belongs to step (i + 1) * every.
        sums: how rows are added up over the ranks. With `RankSum`, `flush`, `recent` and `close` are collective calls.
    """

    def __init__(self, ring: Ring, every: int, sums: RowSum) -> None:
        self._ring = ring
        self._every = every
        self._sums = sums
        # All rows if there is no run folder. Otherwise the rows that are not written yet.
        self._kept: list[Rows] = []
        self._arrived: list[Rows] = []  # rows that no call has returned yet
        self._run: RunFolder | None = None
        self._elsewhere = False  # whether another rank keeps the rows
        self._warned = False
        self._resumed = 0  # the number of the first row after a resume; 0 without a resume
        self._newest: Rows | None = None  # what recent() returns after close, without a collective call
        self._process = os.getpid()

    @property
    def has_folder(self) -> bool:
        """Whether the rows go to a run folder, which this process or rank 0 writes."""
        return self._run is not None or self._elsewhere

    @property
    def step(self) -> int:
        """The step of the last row."""
        return self._ring.recorded * self._every

    def write_to(self, run: RunFolder | None) -> None:
        """Write all further rows to this folder; None if rank 0 writes them and this is another rank."""
        self._run, self._elsewhere = run, run is None

    def commit(self) -> list[Rows]:
        """Count the row that the pass just wrote to the ring.

        Returns:
            The rows that have arrived on the host; empty at most steps.

        Raises:
            WeightScaleError: the ranks could not add up their rows, now or earlier.
        """
        if self._sums.ended is not None:
            raise WeightScaleError(f"nothing is recorded any more: {self._sums.ended}")
        self._ring.advance()
        return self._take(wait=False) if self._sums.due(self._ring.recorded) else []

    def flush(self) -> list[Rows]:
        """Bring every row out of the ring, and return those that have arrived since the last call.

        Raises:
            WeightScaleError: a rank did not make this call, or made it after another row.
        """
        return self._take(wait=True) if self._sums.ended is None else []

    def close(self) -> list[Rows]:
        """Flush and stop recording. Warn if rows could not be written or added up."""
        if os.getpid() != self._process:  # this is a forked child, and the rows belong to its parent
            return []
        arrived: list[Rows] = []
        try:
            if self._sums.ended is None:
                arrived = self.flush()
                if self._sums.collective:
                    self._newest = self.recent(0)
        finally:
            self._end()
        return arrived

    def abandon(self) -> list[Rows]:
        """Stop recording if nobody called close: at garbage collection, at exit, or after an error.

        It makes no collective call, because the other ranks may not make it.
        """
        if os.getpid() != self._process:
            return []
        arrived = [] if self._sums.collective else self.flush()
        self._end()
        return arrived

    def rows(self) -> Rows:
        """Everything that was flushed so far, from the folder and from memory."""
        written = [] if self._run is None else [self._run.rows()]
        return self._concatenate(written + self._kept)

    def recent(self, after: int) -> Rows:
        """The rows after step `after` that the ring still holds. They stay in the ring.

        Raises:
            WeightScaleError: a rank did not make this call, or made it after another row; or that happened earlier.
        """
        if self._newest is not None:
            return self._newest.where(self._newest.steps > after)
        if self._sums.ended is not None:
            raise WeightScaleError(f"recent steps cannot be added up any more: {self._sums.ended}")
        parts = self._sums.total(self._ring.newest(after // self._every))
        return self._concatenate([self._rows(part) for part in parts])

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make collective calls an error inside the `with` block, if only the rank that keeps the rows runs it."""
        before, self._sums.alone = self._sums.alone, self.has_folder
        try:
            yield
        finally:
            self._sums.alone = before

    def restart(self, kept: Rows | None, step: int) -> None:
        """Forget every row after `step`. If `kept` is given, it replaces all rows."""
        self.resume_at(step)
        if self._run is not None:
            self._run.drop_after(0 if kept is not None else step)
        self._kept = [] if kept is None or not len(kept.steps) else [kept]
        self._arrived = []
        self._write_kept()

    @property
    def written(self) -> int:
        """The last step in the run folder; 0 if there is none."""
        return 0 if self._run is None else self._run.last_step()

    def warn_if_behind(self, written: int) -> None:
        """Warn if the folder lacks rows that it had when the checkpoint was saved: those up to step `written`."""
        if self._run is not None and self.written < written:
            warnings.warn(
                f"the record in {self._run.path} ends at step {self.written}, but when the checkpoint was saved it had "
                f"step {written}: check that this is the folder of the resumed run; the missing rows stay missing",
                stacklevel=3,
            )

    def resume_at(self, step: int) -> None:
        """Number the next row as the first after `step`, and flag it as resumed if `step` is not 0."""
        self._resumed = step // self._every
        self._ring.restart(self._resumed)
        self._sums.start(self._resumed)

    def _take(self, *, wait: bool) -> list[Rows]:
        self._keep(self._ring.arrived())  # before take, which raises if the device failed
        self._keep(self._ring.take(wait=wait))
        self._sums.start(self._ring.recorded)
        arrived, self._arrived = self._arrived, []
        return arrived

    def _keep(self, parts: list[Part]) -> None:
        added = self._sums.add(parts)
        if not self._elsewhere:
            new = [self._rows(part) for part in added]
            self._kept += new
            self._arrived += new
        self._write_kept()

    def _rows(self, part: Part) -> Rows:
        first, sums, skipped = part  # sums [n, K, L], skipped [n]
        numbers = first + np.arange(len(sums))
        flags = SKIPPED * (skipped > 0) + RESUMED * ((numbers == self._resumed) & (numbers > 0))
        ratio_sum = sums[:, 3] if sums.shape[1] == 4 else None
        steps, moved = (numbers + 1) * self._every, sums[:, 2].astype(np.int64)
        return Rows(steps, sums[:, 0], sums[:, 1], moved, ratio_sum, flags.astype(np.uint8))

    def _write_kept(self) -> None:
        if self._run is None or not self._kept:
            return
        try:
            self._run.append(self._concatenate(self._kept))
        except OSError as error:
            if not self._warned:
                warnings.warn(
                    f"recorded steps cannot be written to {self._run.path} ({error}); they stay in memory until they "
                    "can be written, and the steps that are in the folder already are safe",
                    stacklevel=2,
                )
            self._warned = True
            return
        self._kept = []
        self._warned = False

    def _end(self) -> None:
        self._write_kept()
        self._sums.end(self._ring.waiting)
        if self._run is not None and self._kept:
            count = sum(len(rows.steps) for rows in self._kept)
            warnings.warn(f"{count} recorded steps could not be written to {self._run.path}", stacklevel=2)

    def _concatenate(self, parts: list[Rows]) -> Rows:
        _, sums, layers = self._ring.rows.shape
        return concatenate(parts, layers, sums == 4)

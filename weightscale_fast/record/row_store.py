"""RowStore: takes rows out of the ring and keeps them in a run folder or in memory.

Letters: n rows, K sums (see ops/sums.py), L layers.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np

from ..errors import WeightScaleError
from .observed import Observed
from .rate_reader import RateReader
from .replicas import Replicas
from .ring import Ring
from .row_sum import RowSum
from .rows import RESUMED, SKIPPED, Part, Rows, concatenate
from .run_folder import RunFolder

IN_CHILD = "To record them too, make a monitor in this process, with its own run_dir"


class _Held(NamedTuple):
    """What the store has. It is replaced as a whole, so that Ctrl-C finds it before or after a change."""

    rows: list[Rows]  # all rows if there is no run folder; otherwise the rows that are not written yet
    until: int  # the number of the first row that has not left the ring


class RowStore:
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
        self._held = _Held([], 0)
        self._arrived: list[Rows] = []  # rows that no call has returned yet
        self._run: RunFolder | None = None
        self._elsewhere = False  # whether another rank keeps the rows
        self._warned = False
        self._resumed = 0  # the number of the first row after a resume; 0 without a resume
        self._newest: Rows | None = None  # what recent() returns after close, without a collective call
        self._process = os.getpid()
        self._warned_in_child = False
        self.rates: RateReader | None = None  # None if no optimizer is watched
        self._observed, self._observed_on_disk = Observed(), Observed()
        self.closed = False  # whether the folder was given up, so that another monitor may write to it

    @property
    def has_folder(self) -> bool:
        """Whether the rows go to a run folder, which this process or rank 0 writes."""
        return self._run is not None or self._elsewhere

    @property
    def is_elsewhere(self) -> bool:
        """Whether another rank writes the rows to the run folder."""
        return self._elsewhere

    @property
    def is_alone(self) -> bool:
        """Whether `on_finding` runs now, and on this rank alone, so that a collective call would wait for ever."""
        return self._sums.alone

    @property
    def step(self) -> int:
        """The step of the last row."""
        return self._ring.recorded * self._every

    @property
    def replicas(self) -> Replicas | None:
        """What compares the ranks' copies of the weights; None if there is nothing to compare."""
        return self._sums.replicas

    def write_to(self, run: RunFolder | None) -> None:
        """Write all further rows to this folder; None if rank 0 writes them and this is another rank."""
        self._run, self._elsewhere = run, run is None

    @property
    def observed(self) -> Observed:
        """What is known beside the rows."""
        return self._observed

    def observe(self, observed: Observed) -> None:
        """Keep what is known beside the rows, in the run folder too. If the disk is full, it is written later."""
        self._observed = observed
        if self._run is None or self.closed or observed == self._observed_on_disk or self._run.lost():
            return
        with suppress(OSError):
            observed.write(self._run.path)
            self._observed_on_disk = observed

    def in_child(self) -> bool:
        """Whether this process was forked from the one that records, so that it must not record. It warns once."""
        if os.getpid() == self._process:
            return False
        if not self._warned_in_child:
            self._warned_in_child = True
            warnings.warn(
                f"this process was forked from the one that made the monitor, so it records no steps. {IN_CHILD}",
                stacklevel=2,
            )
        return True

    def commit(self) -> list[Rows]:
        """Count the row that the pass just wrote to the ring.

        Returns:
            The rows that have arrived on the host; empty at most steps.

        Raises:
            WeightScaleError: the ranks could not add up their rows, now or earlier.
        """
        if self.in_child():
            return []
        if self._sums.ended is not None:
            raise WeightScaleError(f"nothing is recorded any more: {self._sums.ended}")
        if self.rates is not None:
            self.rates.read(self._ring.recorded)
        if self._sums.replicas is not None:
            self._sums.replicas.look(self._ring.recorded)
        self._ring.advance()
        return self._take(wait=False) if self._sums.due(self._ring.recorded) else []

    def flush(self) -> list[Rows]:
        """Bring every row out of the ring, and return those that have arrived since the last call.

        Raises:
            WeightScaleError: a rank did not make this call, or made it after another row.
        """
        if self.in_child() or self._sums.ended is not None:
            return []
        return self._take(wait=True)

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
        if self._run is None:
            joined = self._concatenate(self._held.rows)
            self._held = _Held([joined], self._held.until)  # so that the next call has fewer parts to join
            return self._concatenate([joined])  # a copy, because the caller may change it
        lost = self._run.lost()
        if lost is not None:
            warnings.warn(f"{lost}: only the rows that are still in memory are left", stacklevel=3)
            return self._concatenate(self._held.rows)
        written = self._run.rows()
        held = self._concatenate(self._held.rows)
        # Ctrl-C may have come after the rows were written and before they were forgotten. And if this monitor is
        # closed, another one may have recorded other rows of these steps.
        if len(held.steps):
            written = written.where(written.steps < held.steps[0])
        return self._concatenate([written, held])

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
        """Forget every row after `step`. If `kept` is given, it replaces all rows.

        Raises:
            WeightScaleError: the rows in the folder cannot be deleted. Nothing is changed in this case.
        """
        if os.getpid() != self._process:
            raise WeightScaleError(
                f"a monitor can go back to a checkpoint only in the process that made it. {IN_CHILD}"
            )
        if self.closed and self.has_folder:
            folder = "the run folder" if self._run is None else self._run.path
            raise WeightScaleError(
                f"the monitor is closed, so it may not change {folder}: make a new one with this run_dir and "
                "resume=True, and load the checkpoint into that one"
            )
        if self._run is not None:
            try:
                self._run.drop_after(0 if kept is not None else step)
            except OSError as error:
                raise WeightScaleError(
                    f"the record in {self._run.path} cannot go back to step {step}: {error}"
                ) from error
        held = self._concatenate(self._held.rows)  # what a full disk kept in memory
        rows = held.where(held.steps <= step) if kept is None else kept
        self.resume_at(step)
        self._held = _Held([rows] if len(rows.steps) else [], self._held.until)
        self._arrived = []
        self._write_held()

    @property
    def written(self) -> int:
        """The last step in the run folder; 0 if there is none."""
        return 0 if self._run is None or self._run.lost() else self._run.last_step()

    def last_row(self, step: int) -> bytes | None:
        """The row of `step` if it is the last one and this process keeps it; to tell one branch of a run from another.

        It is the last of the rows in memory, or in the last shard of the folder.
        """
        rows = self._held.rows[-1] if self._held.rows else None
        if rows is None and self._run is not None and not self._run.lost():
            with suppress(WeightScaleError):  # a damaged shard, which history() tells
                rows = self._run.newest()
        if rows is None or rows.steps[-1] != step:
            return None
        return rows.where(rows.steps == step)._replace(flags=None).to_bytes()  # a resume just before it changes nothing

    def warn_if_behind(self, written: int, last_row: bytes | None) -> None:
        """Warn if rows up to step `written`, which were recorded when the checkpoint was saved, are missing.

        Warn too if the row of that step is not `last_row`: the run went back and on since, and has other rows.
        """
        if self._run is None:
            return
        now = self.last_row(written)
        if None not in (now, last_row) and now != last_row:
            warnings.warn(
                f"the row of step {written} in {self._run.path} is not the one that was there when the checkpoint was "
                "saved: the run went back to an earlier checkpoint since, and other steps replaced those that led to "
                "this one. They stay in the record. To keep the rows of each branch, give each its own run_dir",
                stacklevel=3,
            )
        last = max([self.written, *(int(rows.steps[-1]) for rows in self._held.rows)])
        if last < written:
            warnings.warn(
                f"the record in {self._run.path} ends at step {last}, but when the checkpoint was saved it had "
                f"step {written}: check that this is the folder of the resumed run; the missing rows stay missing",
                stacklevel=3,
            )

    def resume_at(self, step: int) -> None:
        """Number the next row as the first after `step`, and flag it as resumed if `step` is not 0."""
        self._resumed = step // self._every
        self._ring.restart(self._resumed)
        if self.rates is not None:
            self.rates.restart(self._resumed)
        if self._sums.replicas is not None:
            self._sums.replicas.restart(self._resumed)
        self._held = _Held([], self._resumed)
        self._sums.start(self._resumed)

    def _take(self, *, wait: bool) -> list[Rows]:
        self._keep(self._ring.arrived())  # before take, which raises if the device failed
        parts = self._ring.take(wait=wait)
        if not wait and self._sums.replicas is not None:  # a row has just ended, so the weights are those of a row
            self._sums.replicas.start(self._held.until, self._ring.recorded)
        self._keep(parts)
        self._sums.start(self._ring.recorded)
        arrived, self._arrived = self._arrived, []
        return arrived

    def _keep(self, parts: list[Part]) -> None:
        """Store rows, and then tell the ring that it may forget them."""
        parts = [part.after(self._held.until) for part in parts]  # Ctrl-C may have come before the ring was told
        parts = [part for part in parts if len(part.sums)]
        added = [] if not parts else self._sums.add(parts)
        if parts:
            new = [] if self._elsewhere else [self._rows(part) for part in added]
            self._held = _Held(self._held.rows + new, parts[-1].first + len(parts[-1].sums))
            self._arrived += new
        self._ring.release(self._held.until)
        if self.rates is not None:
            self.rates.forget(self._held.until - len(self._ring.rows))  # `recent` reads rows that were stored, too
        self._write_held()

    def _rows(self, part: Part) -> Rows:
        first, sums, skipped = part  # sums [n, K, L], skipped [n]
        numbers = first + np.arange(len(sums))
        flags = SKIPPED * (skipped > 0) + RESUMED * ((numbers == self._resumed) & (numbers > 0))
        rows = Rows.of_sums((numbers + 1) * self._every, sums, flags.astype(np.uint8))
        return rows if self.rates is None else rows._replace(rates=self.rates.rates(first, len(sums)))

    def _write_held(self) -> None:
        if self._run is None or self.closed or not self._held.rows:
            return
        try:
            self._run.append(self._concatenate(self._held.rows))
        except OSError as error:
            if not self._warned:
                warnings.warn(
                    f"recorded steps cannot be written to {self._run.path} ({error}); they stay in memory until they "
                    "can be written, and the steps that are in the folder already are safe",
                    stacklevel=2,
                )
            self._warned = True
            return
        self._held = _Held([], self._held.until)
        self._warned = False

    def _end(self) -> None:
        self._write_held()
        self.observe(self._observed)  # a disk that was full may have room now
        self.closed = True
        self._sums.end(self._ring.waiting)
        if self._run is None:
            return
        if self._held.rows:
            count = sum(len(rows.steps) for rows in self._held.rows)
            warnings.warn(f"{count} recorded steps could not be written to {self._run.path}", stacklevel=2)
        self._run.release()

    def _concatenate(self, parts: list[Rows]) -> Rows:
        _, sums, layers = self._ring.rows.shape
        return concatenate(parts, layers, sums)

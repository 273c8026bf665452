"""Recorder: the rows of a ring, on their way to a run folder, or to memory where there is none.

Letters: K sums (3, or 4 with the ratios), L layers.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from .ring import SHARD_ROWS, Part, Ring
from .run_folder import RESUMED, SKIPPED, Rows, RunFolder, concatenate

SHARD_SECONDS = 60.0


class Recorder:
    """Takes rows out of the ring, half a ring or a minute at a time; each such part becomes a shard of the run folder.

    A shard that cannot be written stays in memory with one warning and goes out with the next that can.
    """

    def __init__(self, ring: Ring, every: int) -> None:
        self._ring = ring
        self._every = every  # steps between two rows: row i, counted from 0, is of step (i + 1) * every
        self._kept: list[Rows] = []  # the whole record without a run folder; with one, what it did not take
        self._run: RunFolder | None = None
        self._warned = False
        self._resumed = 0  # the row that is the first after a resume; 0 if there is none
        self._last = time.monotonic()  # when rows were taken
        self._process = os.getpid()
        # Who is shown every row that arrives. A weak reference: a monitor's rows go to its folder when it is collected,
        # and until then this recorder lives.
        self.show: Callable[[], Callable[[Rows], None] | None] = lambda: None

    @property
    def has_folder(self) -> bool:
        """Whether the rows go to a run folder."""
        return self._run is not None

    @property
    def step(self) -> int:
        """The step of the last row."""
        return self._ring.recorded * self._every

    def write_to(self, run: RunFolder | None) -> None:
        """Send every further row to this folder; None if another process does."""
        self._run = run

    def commit(self) -> None:
        """The ring got a row."""
        self._ring.advance()
        now = time.monotonic()
        if self._ring.recorded % SHARD_ROWS == 0 or now - self._last > SHARD_SECONDS:
            self._last = now
            self._take(wait=False)

    def flush(self) -> None:
        """Bring every row out of the ring."""
        self._take(wait=True)

    def close(self) -> None:
        """Flush, and say so if rows could not be written."""
        if os.getpid() != self._process:  # a forked child: the rows are its parent's
            return
        self.flush()
        if self._run is not None and self._kept:
            count = sum(len(rows.steps) for rows in self._kept)
            warnings.warn(f"{count} recorded steps could not be written to {self._run.path}", stacklevel=2)

    def abandon(self) -> None:
        """Close when nobody did: at garbage collection, at exit, or on the way out of an error."""
        self.close()

    def rows(self) -> Rows:
        """Everything recorded so far, from the folder and from memory."""
        self.flush()
        written = [] if self._run is None else [self._run.rows()]
        return self._concatenate(written + self._kept)

    def alone(self) -> AbstractContextManager[None]:
        """While what this process does others may not; nobody else is here."""
        return nullcontext()

    def recent(self, after: int) -> Rows:
        """The rows after step `after` that the ring still holds; they stay in it."""
        return self._rows(self._ring.newest(after // self._every))

    def restart(self, kept: Rows | None, step: int) -> None:
        """Forget every row after `step`; without a run folder the record is then `kept`."""
        self.resume_at(step)
        if self._run is not None:
            self._run.drop_after(0 if kept is not None else step)  # either holds the whole record
        self._kept = [] if kept is None or not len(kept.steps) else [kept]
        self._keep([])

    @property
    def written(self) -> int:
        """The last step in the run folder; 0 if there is none."""
        return 0 if self._run is None else self._run.last_step()

    def warn_if_behind(self, written: int) -> None:
        """Warn if a checkpoint knows of rows, up to step `written`, that are not in the folder."""
        if self._run is not None and self.written < written:
            warnings.warn(
                f"the record in {self._run.path} ends at step {self.written}, but when the checkpoint was saved it had "
                f"step {written}: is this the folder of the run that is resumed? What is missing stays so",
                stacklevel=3,
            )

    def resume_at(self, step: int) -> None:
        """The next row is the first after this step, and the first after a resume if there was a step at all."""
        self._resumed = step // self._every
        self._ring.restart(self._resumed)

    def _take(self, *, wait: bool) -> None:
        self._keep(self._ring.arrived())  # kept first: what the ring does next raises if the device failed
        self._keep(self._ring.take(wait=wait))

    def _keep(self, arrived: list[Part]) -> None:
        new = [self._rows(part) for part in arrived]
        self._kept += new
        if self._run is not None and self._kept:
            self._write(self._run)
        show = self.show()
        if show is not None:
            for rows in new:
                show(rows)

    def _rows(self, part: Part) -> Rows:
        first, sums, skipped = part  # sums [n, K, L], skipped [n]
        numbers = first + np.arange(len(sums))
        flags = SKIPPED * (skipped > 0) + RESUMED * ((numbers == self._resumed) & (numbers > 0))
        ratio_sum = sums[:, 3] if sums.shape[1] == 4 else None
        steps, moved = (numbers + 1) * self._every, sums[:, 2].astype(np.int64)
        return Rows(steps, sums[:, 0], sums[:, 1], moved, ratio_sum, flags.astype(np.uint8))

    def _write(self, run: RunFolder) -> None:
        try:
            run.append(self._concatenate(self._kept))
        except OSError as error:
            if not self._warned:
                warnings.warn(
                    f"recorded steps cannot be written to {run.path} ({error}); they stay in memory and are tried "
                    "again, and what was written before is safe",
                    stacklevel=2,
                )
            self._warned = True
            return
        self._kept = []
        self._warned = False

    def _concatenate(self, parts: list[Rows]) -> Rows:
        _, sums, layers = self._ring.rows.shape
        return concatenate(parts, layers, sums == 4)

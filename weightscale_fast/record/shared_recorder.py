"""SharedRecorder: the rows of all ranks' rings, added up on their way to rank 0's run folder, or to every memory.

Each ring holds what its rank counted. Many rows are added up in one collective call, and all ranks must come to it
after the same row: so the moment hangs on the number of rows, and on nothing that differs between ranks. If one rank's
ring is late, as on a GPU, then all are.

Letters: K sums (3, or 4 with the ratios), L layers.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ..distributed.process_group import Ranks
from ..errors import WeightScaleError
from .recorder import SHARD_SECONDS, Recorder
from .ring import SHARD_ROWS, Part, Ring
from .run_folder import Rows, RunFolder

FIRST_ROWS = 16  # before it is known how long a step takes


class SharedRecorder(Recorder):
    """A recorder whose flushes are collective calls.

    Rows are added up at 256, or earlier where steps are slow: rank 0 says with each sum how long its rows took, and
    from that all ranks reckon how many make a minute.
    """

    def __init__(self, ring: Ring, every: int, ranks: Ranks) -> None:
        super().__init__(ring, every)
        self._ranks = ranks
        self._keeps = True  # whether this rank keeps the sums
        self._interval = FIRST_ROWS  # rows
        self._due = self._next_due()
        self._header = 1 + 2 * ranks.size  # seconds since rank 0 kept rows; of each rank, its first row and how many
        self._ended: str | None = None  # why there are no collective calls any more
        self._newest: Rows | None = None  # once it is closed, what recent() is asked for
        self._alone = False

    def write_to(self, run: RunFolder | None) -> None:
        """Send every further row to this folder of rank 0; other ranks say None and keep nothing."""
        self._keeps = run is not None
        super().write_to(run)

    @property
    def has_folder(self) -> bool:
        """Whether the rows go to a run folder, of rank 0."""
        return super().has_folder or not self._keeps

    def commit(self) -> None:
        """The ring got a row.

        Raises:
            WeightScaleError: the ranks could not add their sums up, now or before.
        """
        if self._ended is not None:
            raise WeightScaleError(f"nothing is recorded any more: {self._ended}")
        self._ring.advance()
        if self._ring.recorded >= self._due:
            self._take(wait=False)
            self._due = self._next_due()

    def flush(self) -> None:
        """Add up every row that is in the rings, if there are any. A collective call.

        Raises:
            WeightScaleError: a rank did not come, or came after another row.
        """
        if self._ended is None:
            super().flush()
            self._due = self._next_due()

    def close(self) -> None:
        """Flush; once that has failed, say what is lost."""
        if os.getpid() != self._process:  # a forked child, which the other ranks do not wait for
            return
        try:
            if self._ended is None:
                super().close()
                self._newest = self.recent(0)
        finally:
            self.abandon()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While what this rank does the others may not: collective calls are errors."""
        self._alone = not self._keeps or self._run is not None
        try:
            yield
        finally:
            self._alone = False

    def abandon(self) -> None:
        """End without a collective call, to which nobody might come; rows that were not added up are lost."""
        if os.getpid() != self._process:  # a forked child: the rows are its parent's
            return
        super()._keep([])  # what the folder did not take before
        lost = self._ring.waiting
        if lost and self._ended is None and self._ranks.rank == 0:
            warnings.warn(
                f"the last {lost} recorded steps are lost, for they were not added up over the {self._ranks.size} "
                "ranks: call close() on all of them",
                stacklevel=2,
            )
        self._ended = self._ended or "the monitor was abandoned"

    def recent(self, after: int) -> Rows:
        """The rows after step `after` that the rings still hold, added up for every rank. A collective call.

        Raises:
            WeightScaleError: a rank did not come, or came after another row; or they have parted before.
        """
        if self._newest is not None:
            return self._newest.where(self._newest.steps > after)
        if self._ended is not None:
            raise WeightScaleError(f"recent steps cannot be added up any more: {self._ended}")
        added = [self._rows(part) for part, _ in map(self._add, _pieces(self._ring.newest(after // self._every)))]
        return self._concatenate(added)

    def restart(self, kept: Rows | None, step: int) -> None:
        """Forget every row after `step`, on this rank; without a run folder the record is then `kept`."""
        super().restart(kept, step)
        self._due = self._next_due()

    def _next_due(self) -> int:
        """The number of rows at which the next are added up; never past a half of the ring."""
        recorded = self._ring.recorded
        return min(recorded + self._interval, (recorded // SHARD_ROWS + 1) * SHARD_ROWS)

    def _keep(self, arrived: list[Part]) -> None:
        added = []
        if arrived:
            sums = np.concatenate([part.sums for part in arrived])
            skipped = np.concatenate([part.skipped for part in arrived])
            for piece in _pieces(Part(arrived[0].first, sums, skipped)):
                part, seconds = self._add(piece)
                self._last = time.monotonic()
                self._interval = int(min(max(len(part.sums) * SHARD_SECONDS / seconds, 1), SHARD_ROWS))
                added.append(part)
        super()._keep(added if self._keeps else [])

    def _add(self, part: Part) -> tuple[Part, float]:
        """The part of all ranks, added up, and the seconds since rank 0 last kept rows. What travels is always as long,
        however many rows: gloo ends the process where two ranks send different lengths, and so we can tell them what is
        wrong."""
        if self._alone:
            raise WeightScaleError(
                "on_finding is called on rank 0 alone, and flush, history, recent, summary and state_dict are for all "
                "ranks: keep the finding, and call them on every rank after the step"
            )
        first, sums, skipped = part
        n, K, L = sums.shape
        buffer = np.zeros(self._header + SHARD_ROWS * (K * L + 1))
        place = 1 + 2 * self._ranks.rank
        buffer[0] = time.monotonic() - self._last if self._ranks.rank == 0 else 0.0
        buffer[place : place + 2] = first, n
        end = self._header + sums.size
        buffer[self._header : end], buffer[end : end + n] = sums.ravel(), skipped
        what = f"RWCMonitor could not add up steps {(first + 1) * self._every} to {(first + n) * self._every}"
        try:
            total = self._ranks.add(buffer)
        except RuntimeError as error:
            raise self._end(
                f"{what} over {self._ranks.size} ranks: one of them is gone, or did not come "
                "(flush, history, recent, summary, state_dict and close must be called on every rank). "
                f"The steps before are safe. {str(error).strip()}"
            ) from error
        if total[1 : self._header].tolist() != [first, n] * self._ranks.size:
            raise self._end(
                f"{what}: the {self._ranks.size} ranks came after different steps; step every rank's optimizer equally "
                "often, and call flush, history, recent, summary, state_dict and close after the same step everywhere"
            )
        added = Part(first, total[self._header : end].reshape(n, K, L), total[end : end + n])
        return added, max(total[0], 1e-9)

    def _end(self, reason: str) -> WeightScaleError:
        self._ended = reason
        return WeightScaleError(reason)


def _pieces(part: Part) -> list[Part]:
    """The part in pieces that can travel; of no rows, one piece, so that a rank with none is heard too."""
    first, sums, skipped = part
    starts = range(0, max(len(sums), 1), SHARD_ROWS)
    return [Part(first + i, sums[i : i + SHARD_ROWS], skipped[i : i + SHARD_ROWS]) for i in starts]

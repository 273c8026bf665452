"""Row sums: when rows leave the ring, and how they are added up over the ranks on their way to the record.

With one process nothing has to be added up (`LocalSum`). With several, each ring holds what its rank counted, and
`RankSum` adds many rows up in one all-reduce. All ranks must come to it after the same row. So the moment depends on
the number of rows only, which is the same on every rank. If one rank's ring is late, as on a GPU, all of them are.

Letters: n rows, K sums (3, or 4 with the ratios), L layers.
"""

from __future__ import annotations

import time
import warnings

import numpy as np

from ..distributed.process_group import Ranks
from ..errors import WeightScaleError
from .ring import SHARD_ROWS
from .rows import Part

SHARD_SECONDS = 60.0
FIRST_ROWS = 16  # rows before the first all-reduce, when it is not known yet how long a step takes


class LocalSum:
    """The rows of one process: they are complete as they are."""

    collective = False  # whether adding up needs the other ranks
    ended: str | None = None  # why nothing is added up any more; one process never ends
    alone = False  # see `RankSum`; one process may always call everything

    def __init__(self) -> None:
        self._last = time.monotonic()  # when rows were taken

    def start(self, recorded: int) -> None:
        """Wait for the next rows: those up to number `recorded` were taken."""
        self._last = time.monotonic()

    def due(self, recorded: int) -> bool:
        """Whether rows should leave the ring now: at every 256th, or after a minute."""
        return recorded % SHARD_ROWS == 0 or time.monotonic() - self._last > SHARD_SECONDS

    def add(self, parts: list[Part]) -> list[Part]:
        """The rows to keep."""
        return parts

    def total(self, part: Part) -> list[Part]:
        """The rows of one part."""
        return [part]

    def end(self, waiting: int) -> None:
        """Nothing more will be recorded."""


class RankSum:
    """The rows of several ranks, added up. `add` and `total` are collective calls.

    Rows are added up at every 256th, or earlier when steps are slow. Rank 0 sends the time that its rows took along
    with each all-reduce, and from it all ranks compute how many rows make a minute.

    Args:
        ranks: the ranks that record together.
        every: steps between two rows, for the messages.

    Attributes:
        ended: why there are no collective calls any more; None as long as there are.
        alone: set while this rank does what the others may not do. A collective call is then an error.
    """

    collective = True

    def __init__(self, ranks: Ranks, every: int) -> None:
        self._ranks = ranks
        self._every = every
        self.ended: str | None = None
        self.alone = False
        self._last = time.monotonic()  # when rows were added up
        self._seconds = 0.0  # what rank 0 said with the last all-reduce: seconds since the one before
        self._interval = FIRST_ROWS  # rows
        self._header = 1 + 2 * ranks.size  # rank 0's seconds; then the first row and the number of rows of each rank
        self._started = 0

    def start(self, recorded: int) -> None:
        """Wait for the next rows: those up to number `recorded` were taken."""
        self._started = recorded

    def due(self, recorded: int) -> bool:
        """Whether rows should leave the rings now; at the latest when half of the ring is full."""
        half = (self._started // SHARD_ROWS + 1) * SHARD_ROWS
        return recorded >= min(self._started + self._interval, half)

    def add(self, parts: list[Part]) -> list[Part]:
        """The rows to keep, added up over all ranks. Without parts it is no collective call.

        Raises:
            WeightScaleError: a rank did not come, or came after another row.
        """
        if not parts:
            return []
        sums = np.concatenate([part.sums for part in parts])
        totals = self.total(Part(parts[0].first, sums, np.concatenate([part.skipped for part in parts])))
        self._last = time.monotonic()
        self._interval = int(min(max(len(sums) * SHARD_SECONDS / max(self._seconds, 1e-9), 1), SHARD_ROWS))
        return totals

    def total(self, part: Part) -> list[Part]:
        """The part added up over all ranks, in pieces of 256 rows. It does not change when the next rows are due.

        Raises:
            WeightScaleError: a rank did not come, or came after another row.
        """
        first, sums, skipped = part
        starts = range(0, max(len(sums), 1), SHARD_ROWS)  # a rank without rows sends one empty piece, to be heard too
        pieces = [Part(first + i, sums[i : i + SHARD_ROWS], skipped[i : i + SHARD_ROWS]) for i in starts]
        return [self._all_reduce(piece) for piece in pieces]

    def end(self, waiting: int) -> None:
        """Make no collective call any more. `waiting` rows that were recorded and not added up are lost."""
        if waiting and self.ended is None and self._ranks.rank == 0:
            warnings.warn(
                f"the last {waiting} recorded steps are lost, for they were not added up over the {self._ranks.size} "
                "ranks: call close() on all of them",
                stacklevel=2,
            )
        self.ended = self.ended or "the monitor was abandoned"

    def _all_reduce(self, part: Part) -> Part:
        """The sum over all ranks of at most 256 rows.

        The buffer has the same length however many rows there are. Gloo ends the process if two ranks send different
        lengths; with equal lengths the header tells what is wrong.
        """
        if self.alone:
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
            total = self._ranks.all_reduce(buffer)
        except RuntimeError as error:
            raise self._failed(
                f"{what} over {self._ranks.size} ranks: one of them is gone, or did not come "
                "(flush, history, recent, summary, state_dict and close must be called on every rank). "
                f"The steps before are safe. {str(error).strip()}"
            ) from error
        if total[1 : self._header].tolist() != [first, n] * self._ranks.size:
            raise self._failed(
                f"{what}: the {self._ranks.size} ranks came after different steps; step every rank's optimizer equally "
                "often, and call flush, history, recent, summary, state_dict and close after the same step everywhere"
            )
        self._seconds = total[0]
        return Part(first, total[self._header : end].reshape(n, K, L), total[end : end + n])

    def _failed(self, reason: str) -> WeightScaleError:
        self.ended = reason
        return WeightScaleError(reason)


RowSum = LocalSum | RankSum

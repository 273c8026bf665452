"""Row sums: when rows leave the ring, and how they are added up over the ranks.

With one process there is nothing to add up (`LocalSum`). With several, the ring of each rank holds the sums over its
share of the weights, and `RankSum` adds up many rows in one all-reduce. All ranks must make it after the same row. So
its moment depends only on the number of rows, which is the same on every rank. If one rank's ring is late, as on a GPU,
all rings are late.

Letters: n rows, K sums (see ops/sums.py), L layers.
"""

from __future__ import annotations

import time
import warnings

import numpy as np
from numpy.typing import NDArray

from ..distributed.process_group import Ranks
from ..errors import WeightScaleError
from ..ops.sums import DELTA_L1, DELTA_MAX, has_l2
from .replicas import Replicas
from .rows import Part

SHARD_SECONDS = 60.0
FIRST_ROWS = 16  # rows before the first all-reduce; until then nobody knows how long a step takes


class LocalSum:
    """The rows of one process: they are complete as they are.

    Args:
        half: the rows of half a ring: 256, or fewer for thousands of layers.
    """

    collective = False  # whether adding up needs the other ranks
    ended: str | None = None  # see `RankSum`; one process never ends
    alone = False  # see `RankSum`; one process may always make every call
    replicas: Replicas | None = None  # see `RankSum`; one process has nothing to compare

    def __init__(self, half: int) -> None:
        self._half = half
        self._last = time.monotonic()  # when rows were last taken

    def start(self, recorded: int) -> None:
        """Begin to count the next rows. The first `recorded` rows have been taken."""
        self._last = time.monotonic()

    def due(self, recorded: int) -> bool:
        """Whether rows should leave the ring now: whenever half of the ring is full, or after a minute."""
        return recorded % self._half == 0 or time.monotonic() - self._last > SHARD_SECONDS

    def add(self, parts: list[Part]) -> list[Part]:
        """The rows to keep: all of them."""
        return parts

    def total(self, part: Part) -> list[Part]:
        """The rows of one part."""
        return [part]

    def end(self, waiting: int) -> None:
        """Nothing more will be recorded."""


class RankSum:
    """The rows of several ranks, added up. `add` and `total` are collective calls.

    Rows are added up whenever half of the ring is full, or earlier if steps are slow. With each all-reduce rank 0 sends
    how long its rows took. From this all ranks compute how many rows take a minute.

    Args:
        ranks: the ranks that record together.
        every: steps between two rows, for the messages.
        half: the rows of half a ring, as for `LocalSum`.
        replicas: compares the weights that several ranks hold, in the same all-reduce. None if there are none.

    Attributes:
        ended: why there are no more collective calls; None while there are.
        alone: true while this rank runs code that other ranks may not run. A collective call is then an error.
    """

    collective = True

    def __init__(self, ranks: Ranks, every: int, half: int, replicas: Replicas | None = None) -> None:
        self._ranks = ranks
        self.replicas = replicas
        self._every = every
        self._half = half
        self.ended: str | None = None
        self.alone = False
        self._last = time.monotonic()  # when rows were last added up
        self._seconds = 0.0  # seconds on rank 0 between the last two all-reduces
        self._interval = FIRST_ROWS  # rows from one all-reduce to the next
        self._header = 1 + 2 * ranks.size  # rank 0's seconds; then the first row and the number of rows of each rank
        self._started = 0

    def start(self, recorded: int) -> None:
        """Begin to count the next rows. The first `recorded` rows have been taken."""
        self._started = recorded

    def due(self, recorded: int) -> bool:
        """Whether rows should leave the rings now, at the latest when half of the ring is full."""
        full = (self._started // self._half + 1) * self._half
        return recorded >= min(self._started + self._interval, full)

    def add(self, parts: list[Part]) -> list[Part]:
        """The rows to keep, added up over all ranks. If `parts` is empty, this is no collective call.

        Raises:
            WeightScaleError: a rank did not make this call, or made it after another row.
        """
        if not parts:
            return []
        sums = np.concatenate([part.sums for part in parts])
        part = Part(parts[0].first, sums, np.concatenate([part.skipped for part in parts]))
        checks = None if self.replicas is None else self.replicas.numbers(part.first, len(sums))
        totals, checked = self._totals(part, checks)
        if self.replicas is not None:
            self.replicas.judge(part.first, checked)
        self._last = time.monotonic()
        self._interval = int(min(max(len(sums) * SHARD_SECONDS / max(self._seconds, 1e-9), 1), self._half))
        return totals

    def total(self, part: Part) -> list[Part]:
        """The part added up over all ranks, in pieces of half a ring. The next rows are due when they were due before.

        Raises:
            WeightScaleError: a rank did not make this call, or made it after another row.
        """
        return self._totals(part, None)[0]

    def _totals(self, part: Part, checks: NDArray[np.float64] | None) -> tuple[list[Part], NDArray[np.float64]]:
        """The pieces, and the sums of the checks [2, n] of the replicas."""
        first, sums, skipped = part
        half = self._half
        checks = np.zeros((2, len(sums))) if checks is None else checks
        starts = range(0, max(len(sums), 1), half)  # a rank without rows sends one empty piece, so none waits
        pieces = [Part(first + i, sums[i : i + half], skipped[i : i + half]) for i in starts]
        totals = [self._all_reduce(piece, checks[:, i : i + half]) for i, piece in zip(starts, pieces, strict=True)]
        return [total for total, _ in totals], np.concatenate([checked for _, checked in totals], axis=1)

    def end(self, waiting: int) -> None:
        """Stop making collective calls. The `waiting` rows that were recorded and not added up are lost."""
        if waiting and self.ended is None and self._ranks.rank == 0:
            warnings.warn(
                f"the last {waiting} recorded steps are lost, because they were not added up over the "
                f"{self._ranks.size} ranks: call close() on every rank",
                stacklevel=2,
            )
        self.ended = self.ended or "the monitor was abandoned"

    def _all_reduce(self, part: Part, checks: NDArray[np.float64]) -> tuple[Part, NDArray[np.float64]]:
        """The sum over all ranks of at most half a ring of rows.

        The buffer has the same length for any number of rows. If two ranks sent different lengths, Gloo would end the
        process. With equal lengths the header shows what is wrong.
        """
        if self.alone:
            raise WeightScaleError(
                "on_finding is called on rank 0 alone, but flush, history, recent, summary and state_dict must be "
                "called on every rank: keep the finding, and call them on every rank after the step"
            )
        first, sums, skipped = part
        n, K, L = sums.shape
        buffer = np.zeros(self._header + self._half * (K * L + 3))
        place = 1 + 2 * self._ranks.rank
        buffer[0] = time.monotonic() - self._last if self._ranks.rank == 0 else 0.0
        buffer[place : place + 2] = first, n
        end = self._header + sums.size
        buffer[self._header : end], buffer[end : end + 3 * n] = sums.ravel(), np.concatenate([skipped, *checks])
        what = f"RWCMonitor could not add up steps {(first + 1) * self._every} to {(first + n) * self._every}"
        total = self._reduced(buffer, what)
        if total[1 : self._header].tolist() != [first, n] * self._ranks.size:
            raise self._failed(
                f"{what}: the {self._ranks.size} ranks made the call after different steps; make equally many "
                "optimizer steps on every rank, and call flush, history, recent, summary, state_dict and close after "
                "the same step"
            )
        self._seconds = total[0]
        skipped, *checked = total[end : end + 3 * n].reshape(3, n)
        added = total[self._header : end].reshape(n, K, L)
        if has_l2(K):
            added[:, DELTA_MAX] = self._largest(sums[:, DELTA_MAX], added[:, DELTA_L1], what)
        return Part(first, added, skipped), np.stack(checked)

    def _largest(self, mine: NDArray[np.float64], delta_l1: NDArray[np.float64], what: str) -> NDArray[np.float64]:
        """[n, L] the largest change over all ranks. A second all-reduce, after the first has shown that n is the same.

        A maximum may lose a NaN, depending on the order of the ranks. The sum of the changes does not.
        """
        buffer = np.zeros((self._half, mine.shape[1]))
        buffer[: len(mine)] = np.where(np.isnan(mine), 0.0, mine)
        return np.where(np.isnan(delta_l1), np.nan, self._reduced(buffer, what, largest=True)[: len(mine)])

    def _reduced(self, buffer: NDArray[np.float64], what: str, *, largest: bool = False) -> NDArray[np.float64]:
        try:
            return self._ranks.all_reduce(buffer, largest=largest)
        except RuntimeError as error:
            raise self._failed(
                f"{what} over {self._ranks.size} ranks: a rank has ended, or did not call what the others called "
                "(flush, history, recent, summary, state_dict and close must be called on every rank). "
                f"Earlier steps are safe. {str(error).strip()}"
            ) from error

    def _failed(self, reason: str) -> WeightScaleError:
        self.ended = reason
        return WeightScaleError(reason)


RowSum = LocalSum | RankSum

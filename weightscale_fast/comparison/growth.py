"""Growth: how the difference of two runs grows, and whether it reaches the noise.

Letters: S common rows, L common layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..record.history import FloatArray, RWCHistory
from .align import Alignment, align_runs
from .difference import both_rwc, log2_ratio

WINDOW = 5  # rows whose median counts, so that one wild step does not
LATE = 0.2  # of the rows: their median is the level at the end


@dataclass(frozen=True, eq=False)
class Growth:
    """How far apart two runs are at every row, and the noise to hold it against.

    Args:
        size: [S] the median over the layers of |log2(RWC of A / RWC of B)|. 0 is equal, 1 is a factor of 2.
        floor: [S] the same of A against its repeats, of the most different repeat. Without repeats, of A against its
            own row before. NaN where it is not known.
        repeats: the number of repeats; 0 if there are none.
        shown_rows: the first row that differs in bits, and those 10, 100, 1,000, ... rows after it.
        reached: the step since which the runs are as far apart as the noise is; None if they never are.
    """

    size: FloatArray
    floor: FloatArray
    repeats: int
    shown_rows: tuple[int, ...]
    reached: int | None

    @property
    def late_size(self) -> float:
        """The level of `size` in the last fifth of the rows."""
        return _late(self.size)

    @property
    def late_floor(self) -> float:
        """The level of `floor` in the last fifth of the rows; NaN if it is not known there."""
        return _late(self.floor)


def growth(
    a: RWCHistory, pairs: Alignment, log2: FloatArray, first_row: int | None, noise: Sequence[RWCHistory]
) -> Growth:
    """The growth of the difference.

    Args:
        a: the first run.
        pairs: the common rows and layers of A and B.
        log2: [S, L] log2(RWC of A / RWC of B).
        first_row: the first row that differs in bits; None if there is none.
        noise: repeats of A.

    Raises:
        ValueError: a repeat cannot be compared with A.
    """
    size = np.median(np.abs(log2), axis=1)
    floor = _of_repeats(a, pairs, noise) if noise else _of_neighbours(pairs.of_a(a.rwc))
    level, noisy = _running(size), _running(floor)
    at_noise = (size[: len(level)] > 0) & (level >= noisy) & (level > 0)
    reached = int(a.steps[pairs.rows_a[at_noise.argmax()]]) if at_noise.any() else None
    after = [0, *(10**power for power in range(1, 10))]
    shown = [] if first_row is None else [first_row + rows for rows in after if first_row + rows < len(size)]
    return Growth(size, floor, len(noise), tuple(shown), reached)


def _of_repeats(a: RWCHistory, pairs: Alignment, noise: Sequence[RWCHistory]) -> FloatArray:
    """[S] the median over the layers of |log2|, of the repeat that is the most different at each row."""
    floor = np.full(len(a), -np.inf)
    for number, repeat in enumerate(noise, start=1):
        try:
            theirs = align_runs(a, repeat, None, "step")
        except ValueError as error:
            raise ValueError(f"noise must be repeats of A, and repeat {number} is none: {error}") from error
        size = np.median(np.abs(log2_ratio(*both_rwc(a, repeat, theirs))), axis=1)
        floor[theirs.rows_a] = np.maximum(floor[theirs.rows_a], size)
    return np.where(floor < 0, np.nan, floor)[pairs.rows_a]


def _of_neighbours(rwc: FloatArray) -> FloatArray:
    """[S] the median over the layers of |log2| of each row against the row before."""
    size: FloatArray = np.median(np.abs(log2_ratio(rwc[1:], rwc[:-1])), axis=1)
    return np.concatenate([[np.nan], size])


def _running(values: FloatArray) -> FloatArray:
    """The median of each row and those after it, as far as there are `WINDOW` of them. NaN does not count."""
    windows = np.lib.stride_tricks.sliding_window_view(values, min(WINDOW, len(values)))
    return _known_median(windows)


def _late(values: FloatArray) -> float:
    return float(_known_median(values[None, -max(1, int(len(values) * LATE)) :])[0])


def _known_median(values: FloatArray) -> FloatArray:
    """The median along the last axis of what is not NaN, infinities included; NaN if there is nothing."""
    known = ~np.isnan(values).all(axis=-1)
    median = np.full(values.shape[:-1], np.nan)
    median[known] = np.nanmedian(values[known], axis=-1)
    return median

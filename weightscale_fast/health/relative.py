"""Relative: layers that run away, that stopped, or that move as before while the others stopped.

Letters: L layers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .blame import FEW, Blame
from .block import Block, FloatArray
from .block import median as median_of
from .limits import (
    CONFIRM,
    FALLEN,
    FALLING,
    RISEN,
    RUNAWAY,
    RUNAWAY_IF_RISEN,
    STOPPED,
    STOPPED_IF_FALLEN,
)
from .medians import median_of_others

TINY = np.finfo(float).tiny


class Relative:
    """Compares each layer with the median of the others in the same block.

    Groups may have learning rates of their own, on purpose. So a layer must be far from the others by its movement, and
    by its movement divided by its first rate, too. A rate that changes later is no part of that purpose.
    """

    def __init__(self, L: int) -> None:
        self._blame = Blame(L)
        self._most = np.zeros(L)  # of the others' median, in any block so far
        self._least = np.full(L, np.inf)  # the same, where it moved
        self._part = np.full(L, np.nan)  # of the layers' median rate, when it was first known
        self._before = np.zeros((CONFIRM["runaway"], L))  # the same in the last blocks

    def badness(self, block: Block, ever_moved: NDArray[np.bool_]) -> tuple[dict[str, FloatArray], FloatArray]:
        """How far each layer is from a limit, by kind: above 1 the condition holds. And the others' medians [L]."""
        level, peak = block.level, block.peak
        median = median_of_others(level[None])[0]
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(median > 0, level / median, np.nan)
            # A layer that moves at some of the steps has not stopped.
            most = np.where(median > 0, peak / median, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            part = block.lr / median_of(block.lr[block.lr > 0])
        self._part = np.where(np.isnan(self._part) & (part > 0), part, self._part)
        by_rate = self._by_rate(level, level)
        slow = np.clip(self._most / FALLEN, STOPPED, STOPPED_IF_FALLEN)
        fast = np.clip(self._least * RISEN, RUNAWAY_IF_RISEN, RUNAWAY)
        known = np.where(np.isfinite(ratio), ratio, 0.0)
        falling = known < FALLING * self._before.max(axis=0)
        self._most = np.maximum(self._most, known)
        self._least = np.minimum(self._least, np.where(known > 0, known, np.inf))
        self._before = np.vstack([self._before[1:], known])
        runaway = np.where(falling & (ratio > fast), np.nan, np.fmin(ratio, by_rate) / fast)
        # Without a rate a layer cannot move, and that is no finding about its gradient.
        most = np.maximum(np.fmax(most, self._by_rate(peak, level)), TINY)
        stopped = np.where(ever_moved & (block.lr != 0) & np.isfinite(ratio), slow / most, 0.0)
        ordinary = (runaway <= 1) & (stopped <= 1) & (known > 0)
        guilty = self._blame.update(level, median, ordinary)
        others_stopped = np.where(guilty, 0.0, np.where(np.isnan(runaway), 0.0, runaway))
        runaway = np.where(guilty | np.isnan(runaway), runaway, 0.0)
        if np.count_nonzero(ever_moved) < FEW:
            stopped = np.where(guilty | np.isnan(stopped), stopped, 0.0)
            if (stopped > 1).any():
                others_stopped[:] = 0.0  # each of them has a finding of its own
        return {"runaway": runaway, "others_stopped": others_stopped, "stopped": stopped}, median

    def _by_rate(self, values: FloatArray, level: FloatArray) -> FloatArray:
        """The values [L] divided by the first rates, in proportion to the others' median. NaN where not known."""
        with np.errstate(invalid="ignore", divide="ignore"):
            others = median_of_others((level / self._part)[None])[0]
            return np.where(others > 0, values / self._part / others, np.nan)

"""Condition: a layer is reported when something was wrong with it for several blocks, and once.

Letters: L layers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .limits import RECOVER


class Condition:
    """For each of L layers: whether a condition holds, since when, and whether it was reported."""

    def __init__(self, L: int, confirm: int) -> None:
        self._confirm = confirm  # blocks
        self.since = np.zeros(L, np.int64)  # the first step
        self._blocks = np.zeros(L, np.int64)
        self.said = np.zeros(L, bool)

    def update(self, badness: NDArray[np.float64], step: int) -> NDArray[np.intp]:
        """Add a block; the layers to report now. Where badness is NaN, a layer's state does not change."""
        bad = badness > 1
        self.since = np.where(bad & (self._blocks == 0), step, self.since)
        self._blocks = np.where(bad, self._blocks + 1, np.where(badness <= 1, 0, self._blocks))
        self.said &= ~(badness < 1 / RECOVER)
        new: NDArray[np.intp] = np.flatnonzero((self._blocks >= self._confirm) & ~self.said)
        self.said[new] = True
        return new

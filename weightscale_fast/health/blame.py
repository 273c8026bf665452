"""Blame: which layer changed, in a network so small that one layer moves the median of the others.

Letters: L layers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

FEW = 6  # layers that move; with as many or more, the median of the others hardly depends on one of them
RATE = 0.25  # how fast a layer's usual level follows its level
LEAST_PART = 0.5  # of the change of a ratio that a layer makes itself, if it is to blame


class Blame:
    """Tells a layer that changed from one that only seems so, because the layers it is compared with changed.

    Where two layers move alike and one stops, the other moves 1,000 times the "median of the others". A layer is to
    blame only if at least half of this change, on a log scale, is its own: measured against the level that it had when
    nothing was wrong, or against its first level.
    """

    def __init__(self, L: int) -> None:
        self._usual = np.full((2, L), np.nan)  # log of a layer's level, and of the median of the others

    def update(self, level: FloatArray, median: FloatArray, ordinary: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Add a block; for each layer [L], whether it is to blame if it is far from the median.

        Args:
            level: of each layer in this block.
            median: of the other layers' levels.
            ordinary: whether the layer is near that median.
        """
        with np.errstate(invalid="ignore"):
            now = np.log(np.maximum(np.stack([level, median]), np.finfo(float).tiny))
            own, others = now - self._usual
            change = own - others
            guilty: NDArray[np.bool_] = own * np.sign(change) >= LEAST_PART * np.abs(change)
        first = np.isnan(self._usual) & (level > 0) & (median > 0)
        followed = np.where(ordinary, self._usual + RATE * (now - self._usual), self._usual)
        self._usual = np.where(first, now, followed)
        return guilty

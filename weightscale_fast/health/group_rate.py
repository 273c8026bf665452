"""GroupRate: layers whose parameter group has a learning rate far from the others', so that they move far from them.

Letters: L layers.
"""

from __future__ import annotations

import numpy as np

from .block import Block, FloatArray
from .limits import FAST_GROUP, FAST_IF_GROWN, GROUP_RATE, GROUP_RATE_HIGH, GROWN_GROUP, STOPPED_IF_FALLEN

TINY = np.finfo(float).tiny


class GroupRate:
    """Compares each layer's rate with the median rate.

    Rates are chosen, and a head may well have 100 times the rate of the layers before it. So the layer must move far
    more or far less than the others, too. If it is fast, it must be too fast by itself, or its weights must have grown.
    """

    def __init__(self) -> None:
        self._first: FloatArray | None = None  # [L] the mean weights in the first block

    def badness(self, block: Block, median: FloatArray) -> dict[str, FloatArray]:
        """How far each layer [L] is from a limit: above 1 the condition holds. `median` is of the others' levels."""
        if self._first is None:
            self._first = block.size
        rates = block.lr[block.lr > 0]
        if not rates.size:
            nothing = np.zeros(len(block.lr))
            return {"slow": nothing, "fast": nothing}
        with np.errstate(invalid="ignore", divide="ignore"):
            part = block.lr / np.median(rates)
            ratio = block.level / median
            low = (part > 0) & (part < 1 / GROUP_RATE) & (block.level > 0)
            slow = np.where(low, STOPPED_IF_FALLEN / np.maximum(ratio, TINY), 0.0)
            high = (part > GROUP_RATE_HIGH) & (ratio > 1)
            grown = np.where(self._first > 0, block.size / self._first, 0.0)
            too_large = np.minimum(grown / GROWN_GROUP, block.level / FAST_IF_GROWN)
            fast = np.where(high, np.maximum(block.level / FAST_GROUP, too_large), 0.0)
        return {"slow": np.nan_to_num(slow), "fast": np.nan_to_num(fast)}

"""Spikes: single steps that move the whole network far more than the steps around them.

Letters: n rows, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..analysis.medians import finite_median
from .block import RowFacts
from .finding import Finding
from .limits import FAST, SPIKE, SPIKE_OF_RATE

BEFORE = 8  # rows with which a row is compared
AFTER = 4  # rows after it
RATE = 5.0  # times the rate before


class Spikes:
    """Takes rows as they come. A row is judged when the next 4 have come."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._rows = np.empty((0, 3))  # step, median RWC and median rate of the rows that later rows need

    def update(self, facts: RowFacts) -> list[Finding]:
        """The new findings."""
        moving = np.where(facts.rwc > 0, facts.rwc, np.nan)
        new = np.column_stack([facts.steps, finite_median(moving, axis=1), finite_median(facts.lr, axis=1)])
        rows = np.concatenate([self._rows, new])
        self._rows = rows[-(BEFORE + AFTER) :]
        if len(rows) <= BEFORE + AFTER:
            return []
        windows = np.lib.stride_tricks.sliding_window_view(rows, BEFORE + 1 + AFTER, axis=0)  # [n, 3, 13]
        before, after = np.median(windows[..., :BEFORE], axis=2), np.median(windows[..., -AFTER:], axis=2)  # [n, 3]
        step, level, rate = windows[..., BEFORE].T  # [n]
        jumped = rate > RATE * before[:, 2]
        # A rare large gradient is no fault, unless it changes much of the weights. NaN is no spike.
        least = np.maximum(SPIKE * np.maximum(before[:, 1], after[:, 1]), np.where(jumped, SPIKE_OF_RATE, FAST))
        first, *others = self._names
        return [
            Finding(
                "spike",
                first,
                int(step[i]),
                int(windows[i, 0, -1]),
                float(level[i]),
                float(before[i, 1]),
                tuple(others),
                "rate_spike" if jumped[i] else "" if np.isnan(rate[i]) else "large_gradient",
            )
            for i in np.flatnonzero(level > least)
        ]

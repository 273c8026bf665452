"""Spikes: single steps that move the whole network far more than the steps around them.

Letters: n rows, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..analysis.medians import finite_median
from .block import FloatArray, RowFacts
from .finding import Finding
from .limits import FAST, SPIKE, SPIKE_OF_RATE

BEFORE = 8  # rows with which a row is compared, at least; at most twice as many
AFTER = 4  # rows after it
RATE = 5.0  # times the rate before


class Spikes:
    """Takes rows as they come. A row is judged when the next 4 have come."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._rows = np.empty((0, 3))  # step, median RWC and median rate of the rows that are kept
        self._next = BEFORE  # the first of them that is not judged yet

    def update(self, facts: RowFacts) -> list[Finding]:
        """The new findings."""
        moving: FloatArray = np.where(facts.rwc > 0, facts.rwc, np.nan)
        new = np.column_stack([facts.steps, finite_median(moving, axis=1), finite_median(facts.lr, axis=1)])
        self._rows = np.concatenate([self._rows, new])
        found = []
        while self._next + AFTER < len(self._rows):
            finding = self._judge(self._next)
            if finding is not None:
                found.append(finding)
            self._next += 1
        gone = max(self._next - 2 * BEFORE, 0)
        self._rows, self._next = self._rows[gone:], self._next - gone
        return found

    def _judge(self, i: int) -> Finding | None:
        before, after = self._rows[max(i - 2 * BEFORE, 0) : i], self._rows[i + 1 : i + 1 + AFTER]
        step, level, rate = self._rows[i]
        around = max(np.median(before[:, 1]), np.median(after[:, 1]))
        jumped = rate > RATE * np.median(before[:, 2])
        # A rare large gradient is no fault, unless it changes much of the weights.
        if not level > max(SPIKE * around, SPIKE_OF_RATE if jumped else FAST):  # NaN too
            return None
        cause = "rate_spike" if jumped else "large_gradient"
        first, *others = self._names
        last = int(after[-1, 0])
        return Finding("spike", first, int(step), last, level, float(np.median(before[:, 1])), tuple(others), cause)

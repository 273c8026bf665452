"""Skipped: whether nearly every step is one that a gradient scaler skipped.

Letters: S recorded rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .condition import Condition
from .finding import Finding
from .limits import CONFIRM, SKIPPING


class Skipped:
    """Judges blocks of rows. It takes rows as they come."""

    def __init__(self, names: Sequence[str], block: int) -> None:
        self._names, self._block = names, block
        self._open: list[NDArray[np.int64]] = []  # [S, 2] the step of each row that is not judged yet, and its answer
        self._condition = Condition(1, CONFIRM["skipped"])

    def update(self, steps: NDArray[np.int64], skipped: NDArray[np.bool_]) -> list[Finding]:
        """The new findings in rows [S], of which some have only skipped steps."""
        self._open.append(np.column_stack([steps, skipped]))
        rows = np.concatenate(self._open)
        full = len(rows) - len(rows) % self._block
        self._open = [rows[full:]]
        found = []
        for block in rows[:full].reshape(-1, self._block, 2):
            share = float(block[:, 1].mean())
            if len(self._condition.update(np.array([share / SKIPPING]), int(block[0, 0]))):
                since, last = int(self._condition.since[0]), int(block[-1, 0])
                first, *others = self._names
                found.append(Finding("skipped", first, since, last, share, others=tuple(others), cause="overflow"))
        return found

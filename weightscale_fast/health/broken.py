"""Broken: the layers that become NaN or infinite, and since when.

Letters: S recorded rows, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .finding import Finding


class Broken:
    """Finds the layers that break. It takes rows as they come.

    NaN spreads within a step or two, so all layers that break within one block are one finding. A layer breaks again if
    it was well for a block in between.
    """

    def __init__(self, names: Sequence[str], block: int) -> None:
        self._names, self._block = names, block
        self._well = np.full(len(names), block)  # rows since a layer was last not finite, up to a block

    def update(self, steps: NDArray[np.int64], finite: NDArray[np.bool_]) -> list[Finding]:
        """The new findings in rows [S] whose sums were finite, [S, L]. There is at least one row."""
        found = []
        starts = self._starts(finite)  # [S, L]
        onset = np.where(starts.any(axis=0), starts.argmax(axis=0), len(steps))  # [L] row
        while (row := int(onset.min(initial=len(steps)))) < len(steps):
            together = np.flatnonzero(onset < min(row + self._block, len(steps)))
            first, *others = (self._names[i] for i in together[np.argsort(onset[together], kind="stable")])
            step = int(steps[row])
            found.append(Finding("not_finite", first, step, step, float("nan"), others=tuple(others)))
            for layer in together:
                later = np.flatnonzero(starts[onset[layer] + 1 :, layer])
                onset[layer] = onset[layer] + 1 + later[0] if len(later) else len(steps)
        return found

    def _starts(self, finite: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Where a layer is not finite, and was finite in the whole block before, [S, L]."""
        starts = np.zeros_like(finite)
        for layer in np.flatnonzero(~finite.all(axis=0)):
            rows = np.flatnonzero(~finite[:, layer])
            before = np.concatenate([[-1 - self._well[layer]], rows[:-1]])
            starts[rows[rows - before > self._block], layer] = True
        well = finite[::-1].argmin(axis=0)  # finite rows at the end, if any row is not finite
        well = np.where(finite.all(axis=0), self._well + len(finite), well)
        self._well = np.minimum(well, self._block)
        return starts

"""Block: some consecutive rows, and what each layer did in them. The check judges blocks, not rows.

Letters: n rows, B blocks, b rows of a block, L layers.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..ratios import norm_ratio

FloatArray = NDArray[np.float64]


class RowFacts(NamedTuple):
    """What the check takes from n rows."""

    steps: NDArray[np.int64]  # [n]
    rwc: FloatArray  # [n, L] NaN where a sum is not finite
    prev_l1: FloatArray  # [n, L]
    share: FloatArray  # [n, L] of the weights that moved
    step: FloatArray  # [n, L] mean |w_t - w_prev| / lr; NaN where the rate is not known or 0
    implied: FloatArray  # [n, L] the same that the optimizer implies; NaN where it implies none
    lr: FloatArray  # [n, L] NaN where not known
    decay: FloatArray  # [n, L] the weight decay; NaN where not known

    def cut(self, rows: slice | NDArray[np.bool_]) -> RowFacts:
        """Some of the rows."""
        return RowFacts._make(column[rows] for column in self)

    @classmethod
    def join(cls, parts: list[RowFacts]) -> RowFacts:
        """All rows of all parts."""
        return cls._make(map(np.concatenate, zip(*parts, strict=True)))


class Block(NamedTuple):
    """What each of L layers did in b rows."""

    first: int  # step of the first row
    last: int  # step of the last row
    level: FloatArray  # [L] median RWC
    peak: FloatArray  # [L] largest RWC
    share: FloatArray  # [L] mean share of the weights that moved
    most_share: FloatArray  # [L] the largest share
    size: FloatArray  # [L] mean |w| before the first row
    shrink: FloatArray  # [L] the part of the movement that made the weights smaller: 1 if all of it did; NaN if none
    step: FloatArray  # [L] median step in learning rates
    implied: FloatArray  # [L] what the optimizer implies for it
    lr: FloatArray  # [L] median rate
    decay: FloatArray  # [L] weight decay
    rises: bool  # whether the rate is larger at the end than at the begin


def blocks_of(facts: RowFacts, b: int, numel: NDArray[np.int64], steps_a_step: int = 1) -> list[Block]:
    """The full blocks of b rows, in order.

    Args:
        facts: the rows.
        b: the rows of a block.
        numel: [L] weights of each layer.
        steps_a_step: the optimizer steps for each one of which the rows have the movement.
    """
    B = len(facts.steps) // b
    if not B:
        return []
    rows = RowFacts._make(column[: B * b].reshape(B, b, *column.shape[1:]) for column in facts)  # [B, b, L]
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = np.sum(rows.rwc[:, :-1], axis=1) * steps_a_step
        shrink = np.where(moved > 0, np.log(rows.prev_l1[:, 0] / rows.prev_l1[:, -1]) / moved, np.nan)
    level, peak, lr, step = (np.median(rows.rwc, axis=1), np.max(rows.rwc, axis=1), *_medians(rows.lr, rows.step))
    share, most_share = rows.share.mean(axis=1), rows.share.max(axis=1)
    return [
        Block(
            first=int(rows.steps[i, 0]),
            last=int(rows.steps[i, -1]),
            level=level[i],
            peak=peak[i],
            share=share[i],
            most_share=most_share[i],
            size=rows.prev_l1[i, 0] / numel,
            shrink=shrink[i],
            step=step[i],
            implied=rows.implied[i, -1],
            lr=lr[i],
            decay=rows.decay[i, -1],
            rises=median(rows.lr[i, -1]) > 1.001 * median(rows.lr[i, 0]),
        )
        for i in range(B)
    ]


def _medians(*arrays: FloatArray) -> list[FloatArray]:
    """The medians [B, L] of arrays [B, b, L]. NaN where a value is NaN."""
    return [np.median(array, axis=1) for array in arrays]


def facts_of(
    steps: NDArray[np.int64],
    delta_l1: FloatArray,
    prev_l1: FloatArray,
    moved: NDArray[np.int64],
    lr: FloatArray,
    decay: FloatArray,
    implied: FloatArray,
    numel: NDArray[np.int64],
) -> RowFacts:
    """The facts from the sums and the rates of n rows."""
    finite = np.isfinite(delta_l1) & np.isfinite(prev_l1)
    with np.errstate(invalid="ignore", divide="ignore"):
        step = np.where(lr > 0, delta_l1 / numel / lr, np.nan)
    return RowFacts(
        steps, np.where(finite, norm_ratio(delta_l1, prev_l1), np.nan), prev_l1, moved / numel, step, implied, lr, decay
    )


def median(values: FloatArray, method: Literal["middle", "lower", "higher"] = "middle") -> float:
    """The median of the values that are not NaN; NaN if there are none.

    Of two values `"lower"` takes the smaller one. So where it is high, all but one of few values are high.
    """
    values = np.sort(values)  # NaN is sorted last
    n = len(values) - int(np.count_nonzero(np.isnan(values)))
    if not n:
        return float("nan")
    lower, higher = float(values[(n - 1) // 2]), float(values[n // 2])
    return {"middle": (lower + higher) / 2, "lower": lower, "higher": higher}[method]

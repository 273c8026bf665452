"""Block: some consecutive rows, and what each layer did in them. The check judges blocks, not rows.

Letters: n rows, B blocks, b rows of a block, L layers.
"""

from __future__ import annotations

import warnings
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


def blocks_of(facts: RowFacts, b: int, numel: NDArray[np.int64]) -> list[Block]:
    """The full blocks of b rows, in order."""
    return [_block(facts.cut(slice(i, i + b)), numel) for i in range(0, len(facts.steps) - b + 1, b)]


def _block(rows: RowFacts, numel: NDArray[np.int64]) -> Block:
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing but NaN
        moved = np.nansum(rows.rwc[:-1], axis=0)
        shrink = np.log(rows.prev_l1[0] / rows.prev_l1[-1]) / moved
        lr = np.nanmedian(rows.lr, axis=1)
        return Block(
            first=int(rows.steps[0]),
            last=int(rows.steps[-1]),
            level=np.median(rows.rwc, axis=0),
            peak=np.max(rows.rwc, axis=0),
            share=rows.share.mean(axis=0),
            most_share=rows.share.max(axis=0),
            size=rows.prev_l1[0] / numel,
            shrink=np.where(moved > 0, shrink, np.nan),
            step=np.nanmedian(rows.step, axis=0),
            implied=rows.implied[-1],
            lr=np.nanmedian(rows.lr, axis=0),
            decay=rows.decay[-1],
            rises=bool(lr[-1] > lr[0] * 1.001),
        )


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


def median(values: FloatArray, method: Literal["linear", "lower", "higher"] = "linear") -> float:
    """The median of the values that are not NaN; NaN if there are none.

    Of two values `"lower"` takes the smaller one. So where it is high, all but one of few values are high.
    """
    values = values[~np.isnan(values)]
    return float(np.quantile(values, 0.5, method=method)) if values.size else float("nan")

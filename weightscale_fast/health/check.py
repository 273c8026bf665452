"""Health: layers that stopped, run away, are lost to 16-bit rounding, never moved, or are not finite.

Each layer is compared with the other layers at the same steps. A schedule, a warm-up or a cosine to 0 changes all
layers alike, so it is not a finding.

limits.py has the limits, and where they come from.

Letters: S recorded rows, L layers, B blocks of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ratios import norm_ratio
from ..record.history import RWCHistory
from ..record.rows import SKIPPED, Rows
from ..record.source import HistorySource, history_of
from .blame import FEW, Blame
from .broken import Broken
from .condition import Condition
from .finding import Finding
from .limits import (
    BLOCK,
    CONFIRM,
    FALLEN,
    FALLING,
    FEWEST_ROWS,
    NAMED,
    RISEN,
    RUNAWAY,
    RUNAWAY_IF_RISEN,
    SIXTEEN_BIT,
    STOPPED,
    STOPPED_IF_FALLEN,
    STUCK,
)

FloatArray = NDArray[np.float64]


def check_health(history: HistorySource) -> list[Finding]:
    """What is wrong in a record, in the order in which it became certain.

    Args:
        history: an `RWCHistory`, the path of a run folder, or a monitor (then its `history()`).

    | kind | a layer |
    |---|---|
    | `not_finite` | has NaN or infinity among its weights |
    | `runaway` | moves more than 25 times as much as the other layers' median, or 10 if once 1/5 as much |
    | `stopped` | moved before, and now at no step 1/1,000 as much as that median, or 1/100 if once 20 times as much |
    | `stuck` | has 16-bit weights that move, but at a step fewer than 1 in 1,000 of them |
    | `still` | did not move once in the record: frozen, unused, or its steps are lost to rounding |

    "Moves" means the RWC of Eq. 1. The check takes its median over a block of 16 steps (4 rows if a row spans 4 steps
    or more). Everything but NaN must last: `stopped` and `stuck` for 3 blocks in a row, `still` for 4, `runaway` for 6.
    A finding is reported again only after it improved by a factor of 2. If more than 3 layers fail in the same way in
    one block, they are one finding. Where fewer than 6 layers move, one of them moves the median of the others: then a
    layer is named only if it changed itself, compared with its own earlier level.

    The check does not find a network that stops as a whole, or a single layer: there is nothing to compare with. It
    does not find a learning rate that is too high from the first step on: such a layer moves 10 to 20 times as much as
    the others, and so do some healthy classifiers. A layer that is fast but slows down does not run away: layers that
    start at 0 do that. `stuck` needs a record that knows the dtypes of the weights.

    Raises:
        TypeError: `history` is none of these.

    Example:
        >>> history = RWCHistory(
        ...     names=("conv", "fc", "head"), numel=np.full(3, 100), kinds=("conv", "linear", "linear"),
        ...     steps=np.arange(1, 129), delta_l1=np.full((128, 3), 0.1), prev_l1=np.full((128, 3), 100.0),
        ...     moved=np.full((128, 3), 100))
        >>> check_health(history)
        []
        >>> history.delta_l1[64:, 1] = 1e-5
        >>> for finding in check_health(history):
        ...     print(finding)
        fc stopped: RWC 1.0e-07 over steps 65 to 112, 1/10,000 of the other layers' median 1.0e-03
    """
    history = history_of(history)
    check = HealthCheck(history.names, history.numel, history.every, history.dtypes)
    moved = {history.names[i] for i in np.flatnonzero((history.moved > 0).any(axis=0))}
    return list(filter(None, (_without(finding, moved) for finding in check.update(history))))


def rows_to_judge(every: int) -> int:
    """How many rows `check_health` needs for all that it looks for, in a record with a row every so many steps.

    Example:
        >>> rows_to_judge(1), rows_to_judge(100)
        (64, 16)
    """
    return _block_rows(every) * CONFIRM["still"]


def _block_rows(every: int) -> int:
    return max(BLOCK // every, FEWEST_ROWS)


def _without(finding: Finding, moved: set[str]) -> Finding | None:
    """A finding of kind `still` without the layers that moved later in the record. None if no layer is left."""
    if finding.kind != "still":
        return finding
    still = [name for name in (finding.layer, *finding.others) if name not in moved]
    return replace(finding, layer=still[0], others=tuple(still[1:])) if still else None


class HealthCheck:
    """`check_health` for a run that goes on: it takes rows as they come and reports each finding once."""

    def __init__(
        self, names: Sequence[str], numel: NDArray[np.int64], every: int = 1, dtypes: tuple[str, ...] = ()
    ) -> None:
        L = len(names)
        self._names, self._numel = names, np.maximum(numel, 1)
        self._sixteen_bit = np.isin(dtypes or ("",) * L, SIXTEEN_BIT)
        self._block = _block_rows(every)  # rows
        self._open: list[tuple[NDArray[Any], ...]] = []  # steps, RWC and moved, of the block that is not full
        self._broken = Broken(names, self._block)
        self._blame = Blame(L)
        self._ever_moved = np.zeros(L, bool)
        self._most = np.zeros(L)  # of the others' median, in any block so far
        self._least = np.full(L, np.inf)  # the same, where it moved
        self._before = np.zeros((CONFIRM["runaway"], L))  # the same in the last blocks
        self._conditions = {kind: Condition(L, blocks) for kind, blocks in CONFIRM.items()}

    def update(self, rows: Rows | RWCHistory) -> list[Finding]:
        """The new findings. Rows that do not fill a block wait for the next call; NaN is reported at once."""
        if not len(rows.steps):
            return []
        finite = np.isfinite(rows.delta_l1) & np.isfinite(rows.prev_l1)  # [S, L]
        found = self._broken.update(rows.steps, finite)
        rwc = np.where(finite, norm_ratio(rows.delta_l1, rows.prev_l1), np.nan)
        flags = rows.bits if isinstance(rows, Rows) else rows.flags
        # Steps that a gradient scaler skipped say nothing of a layer. A row of several steps may have others too.
        made = ((flags & SKIPPED) == 0) | rows.moved.any(axis=1)
        self._open.append((rows.steps[made], rwc[made], rows.moved[made]))
        steps, rwc, moved = (np.concatenate(arrays) for arrays in zip(*self._open, strict=True))
        B = len(steps) // self._block
        full = B * self._block
        self._open = [(steps[full:], rwc[full:], moved[full:])]
        if B:
            shape = (B, self._block, len(self._names))
            levels = np.median(rwc[:full].reshape(shape), axis=1)  # [B, L]
            peaks = np.max(rwc[:full].reshape(shape), axis=1)  # [B, L]
            share = moved[:full].reshape(shape).mean(axis=1) / self._numel  # [B, L]
            medians = median_of_others(levels)
            edges = steps[:full].reshape(shape[:2])[:, [0, -1]].tolist()
            for i, (first, last) in enumerate(edges):
                found += self._judge(levels[i], peaks[i], medians[i], share[i], first, last)
        return sorted(found, key=lambda finding: finding.last)

    def _judge(
        self, level: FloatArray, peak: FloatArray, median: FloatArray, share: FloatArray, first: int, last: int
    ) -> list[Finding]:
        """One block [L] of steps `first` to `last`."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(median > 0, level / median, np.nan)
            # A layer that moves at some of the steps has not stopped.
            most = np.where(median > 0, peak / median, np.nan)
        self._ever_moved |= share > 0
        slow = np.clip(self._most / FALLEN, STOPPED, STOPPED_IF_FALLEN)
        fast = np.clip(self._least * RISEN, RUNAWAY_IF_RISEN, RUNAWAY)
        known = np.where(np.isfinite(ratio), ratio, 0.0)
        falling = known < FALLING * self._before.max(axis=0)
        self._most = np.maximum(self._most, known)
        self._least = np.minimum(self._least, np.where(known > 0, known, np.inf))
        self._before = np.vstack([self._before[1:], known])
        stuck = self._ever_moved & self._sixteen_bit & np.isfinite(level)
        badness = {  # above 1 the condition holds
            "runaway": np.where(falling & (ratio > fast), np.nan, ratio / fast),
            "stopped": np.where(self._ever_moved, slow / np.maximum(most, np.finfo(float).tiny), 0.0),
            "stuck": np.where(stuck, STUCK / np.maximum(share, np.finfo(float).tiny), 0.0),
            "still": np.where(self._ever_moved, 0.0, np.inf),
        }
        ordinary = (badness["runaway"] <= 1) & (badness["stopped"] <= 1) & (known > 0)
        guilty = self._blame.update(level, median, ordinary)
        if np.count_nonzero(self._ever_moved) < FEW:
            for kind in ("runaway", "stopped"):
                badness[kind] = np.where(guilty | np.isnan(badness[kind]), badness[kind], 0.0)
        badness["stopped"] = np.where(badness["stuck"] > 1, 0.0, badness["stopped"])  # stuck is the better name
        found = []
        for kind, condition in self._conditions.items():
            new = condition.update(badness[kind], first)
            value = share if kind == "stuck" else level
            found += self._findings(kind, new, condition.since[new], last, value, median)
        return found

    def _findings(
        self,
        kind: str,
        layers: NDArray[np.intp],
        since: NDArray[np.int64],
        last: int,
        value: FloatArray,
        median: FloatArray,
    ) -> list[Finding]:
        names = [self._names[i] for i in layers]
        if not names:
            return []
        if len(names) > NAMED:
            since, names, others = since[:1], names[:1], tuple(names[1:])
        else:
            others = ()
        return [
            Finding(kind, name, int(step), last, float(value[i]), float(median[i]), others)
            for name, step, i in zip(names, since, layers, strict=False)
        ]


def median_of_others(levels: FloatArray) -> FloatArray:
    """[B, L] for each layer the median of the other layers in its row, without those that are 0 or not finite.

    Example:
        >>> median_of_others(np.array([[1.0, 2.0, 4.0, 0.0]]))
        array([[3. , 2.5, 1.5, 2. ]])
    """
    counted = np.isfinite(levels) & (levels > 0)
    ordered = np.sort(np.where(counted, levels, np.inf), axis=1)
    rank = np.where(counted, np.argsort(np.argsort(np.where(counted, levels, np.inf), axis=1), axis=1), levels.shape[1])
    others = counted.sum(axis=1, keepdims=True) - counted  # [B, L] how many others
    low, high = np.maximum(others - 1, 0) // 2, others // 2
    low, high = low + (low >= rank), high + (high >= rank)  # skip the layer itself
    last = levels.shape[1] - 1
    middle = [np.take_along_axis(ordered, np.minimum(index, last), axis=1) for index in (low, high)]
    return np.where(others > 0, (middle[0] + middle[1]) / 2, np.nan)

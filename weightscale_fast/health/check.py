"""Health: layers that stopped, run away, are lost to 16-bit rounding, never moved, or are not finite.

A layer is compared with the other layers at the same steps. A learning-rate schedule, such as a warm-up or a cosine to
0, changes the RWC of all layers alike, so it makes no finding.

The limits come from healthy runs, measured with `python bench/health_false_alarms.py RUN ...`. The models are AlexNet,
ResNet-18, VGG-19, ResNet-10-T, MobileNetV3 and a small language model. The optimizers are SGD, Adam and AdamW. The
learning rate is constant, or has a warm-up and a cosine to 0. With these limits there is no finding in 17 float32 runs
of 10,105 steps.

- STOPPED: the slowest layer, an embedding under SGD, stayed at 0.008 times the others' median. So the limit is 0.001,
  unless the layer was faster before.
- RUNAWAY: the fastest layer, VGG-19's classifier, held 13 times the others' median for 6 blocks, with 8 at the least
  and 21 at the most. So the limit is 25, unless the layer was slower before. If the learning rate of a layer is raised
  by a factor of 30 to 300, the layer first reaches 30 to 60 times. It then stays at 10 to 22 times, because its weights
  grow.

With bfloat16 weights there is one finding in 500 steps: at the end of the cosine, 0.02 % of an embedding's weights
move.

The 18 runs of docs/paper (13,020 steps) were made after these limits were set. There is no finding in them either.

Letters: S recorded rows, L layers, N blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ratios import norm_ratio
from ..record.history import RWCHistory
from ..record.rows import Rows
from .finding import Finding

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

KINDS = ("not_finite", "runaway", "stopped", "stuck", "still")
BLOCK = 16  # steps whose median is a layer's level: a spike of one step, or a few skipped ones, do not count
FEWEST_ROWS = 4  # of a block, where a row is of several steps
CONFIRM = {"runaway": 6, "stopped": 3, "stuck": 3, "still": 4}  # blocks in a row before a layer is reported
RECOVER = 2.0  # how far a layer must come back over a limit before it can be reported again
STOPPED = 1e-3  # of the others' median
STOPPED_IF_FALLEN = 1e-2  # the same, where the layer's share of it is less than 1 / FALLEN of what it once was
FALLEN = 20.0
RUNAWAY = 25.0  # times the others' median
RUNAWAY_IF_RISEN = 10.0  # the same, where the layer's share of it is more than RISEN times what it once was
RISEN = 5.0
FALLING = 0.5  # of its own most in as many blocks: weights that began at 0 move fast and ever less, and do not run away
STUCK = 1e-3  # share of the weights that move at a step
SIXTEEN_BIT = ("bfloat16", "float16")
NAMED = 3  # layers found at once that are a finding each; more are one


def check_health(history: RWCHistory) -> list[Finding]:
    """What is wrong in a record, in the order in which it became certain.

    | kind | a layer |
    |---|---|
    | `not_finite` | has NaN or infinity among its weights |
    | `runaway` | moves more than 25 times as much as the other layers' median, or 10 if once 1/5 as much |
    | `stopped` | moved before, and now less than 1/1,000 as much as that median, or 1/100 if once 20 times as much |
    | `stuck` | has 16-bit weights that move, but at a step fewer than 1 in 1,000 of them |
    | `still` | did not move once in the record: frozen, unused, or its steps are lost to rounding |

    What moves is the RWC of Eq. 1, its median over a block of 16 steps (4 rows where a row is of 4 steps or more). All
    but NaN must last: `stopped` and `stuck` 3 blocks in a row, `still` 4, `runaway` 6. What was found is found again
    only after it got better by a factor of 2. More than 3 layers that become the same in one block are one finding.

    A network that stops as a whole is not found, nor is a single layer: there is nothing to compare with. Nor is a
    layer whose learning rate is too high from the first step on, for it then holds 10 to 20, as healthy classifiers
    may. Fast weights that move ever less, as those that began at 0, do not run away. `stuck` is found where the record
    knows the weights' dtypes.

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
    check = HealthCheck(history.names, history.numel, history.every, history.dtypes)
    return check.update(history)


class HealthCheck:
    """`check_health` of a run that goes on: takes rows as they come, and says everything once."""

    def __init__(
        self, names: Sequence[str], numel: NDArray[np.int64], every: int = 1, dtypes: tuple[str, ...] = ()
    ) -> None:
        L = len(names)
        self._names, self._numel = names, np.maximum(numel, 1)
        self._sixteen_bit = np.isin(dtypes or ("",) * L, SIXTEEN_BIT)
        self._block = max(BLOCK // every, FEWEST_ROWS)  # rows
        self._open: list[tuple[NDArray[Any], ...]] = []  # steps, RWC and moved, of the block that is not full
        self._broken = np.zeros(L, bool)
        self._ever_moved = np.zeros(L, bool)
        self._most = np.zeros(L)  # of the others' median, in any block so far
        self._least = np.full(L, np.inf)  # the same, where it moved
        self._before = np.zeros((CONFIRM["runaway"], L))  # the same in the last blocks
        self._conditions = {kind: _Condition(L, blocks) for kind, blocks in CONFIRM.items()}

    def update(self, rows: Rows | RWCHistory) -> list[Finding]:
        """What is new with these rows; those that do not fill a block wait for the next, but NaN does not."""
        if not len(rows.steps):
            return []
        finite = np.isfinite(rows.delta_l1) & np.isfinite(rows.prev_l1)  # [S, L]
        found = self._find_broken(rows.steps, finite)
        rwc = norm_ratio(rows.delta_l1, rows.prev_l1)
        self._open.append((rows.steps, np.where(finite, rwc, np.nan), rows.moved))
        steps, rwc, moved = (np.concatenate(arrays) for arrays in zip(*self._open, strict=True))
        N = len(steps) // self._block
        full = N * self._block
        self._open = [(steps[full:], rwc[full:], moved[full:])]
        if N:
            shape = (N, self._block, len(self._names))
            levels = np.median(rwc[:full].reshape(shape), axis=1)  # [N, L]
            share = moved[:full].reshape(shape).mean(axis=1) / self._numel  # [N, L]
            medians = median_of_others(levels)
            edges = steps[:full].reshape(shape[:2])[:, [0, -1]].tolist()
            for i, (first, last) in enumerate(edges):
                found += self._judge(levels[i], medians[i], share[i], first, last)
        return sorted(found, key=lambda finding: finding.last)

    def _judge(self, level: FloatArray, median: FloatArray, share: FloatArray, first: int, last: int) -> list[Finding]:
        """One block [L] of steps `first` to `last`."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(median > 0, level / median, np.nan)
        self._ever_moved |= share > 0
        slow = np.clip(self._most / FALLEN, STOPPED, STOPPED_IF_FALLEN)
        fast = np.clip(self._least * RISEN, RUNAWAY_IF_RISEN, RUNAWAY)
        known = np.where(np.isfinite(ratio), ratio, 0.0)
        falling = known < FALLING * self._before.max(axis=0)
        self._most = np.maximum(self._most, known)
        self._least = np.minimum(self._least, np.where(known > 0, known, np.inf))
        self._before = np.vstack([self._before[1:], known])
        stuck = self._ever_moved & self._sixteen_bit & np.isfinite(level)
        badness = {  # above 1 it is so
            "runaway": np.where(falling & (ratio > fast), np.nan, ratio / fast),
            "stopped": np.where(self._ever_moved, slow / np.maximum(ratio, np.finfo(float).tiny), 0.0),
            "stuck": np.where(stuck, STUCK / np.maximum(share, np.finfo(float).tiny), 0.0),
            "still": np.where(self._ever_moved, 0.0, np.inf),
        }
        badness["stopped"] = np.where(badness["stuck"] > 1, 0.0, badness["stopped"])  # the better name for it
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

    def _find_broken(self, steps: NDArray[np.int64], finite: BoolArray) -> list[Finding]:
        """NaN spreads in a step or two: all layers that break within a block's length are one finding."""
        onset = np.where(finite.all(axis=0) | self._broken, len(steps), (~finite).argmax(axis=0))  # [L] row
        self._broken = ~finite[-1]
        found = []
        while (row := int(onset.min())) < len(steps):
            together = np.flatnonzero(onset < row + self._block)
            first, *others = (self._names[i] for i in together[np.argsort(onset[together], kind="stable")])
            step = int(steps[row])
            found.append(Finding("not_finite", first, step, step, float("nan"), others=tuple(others)))
            onset[together] = len(steps)
        return found


class HealthWatch:
    """Hands what a `HealthCheck` finds to `on_finding`, when it is safe to call what is not ours."""

    def __init__(self, meta: Mapping[str, Any], on_finding: Callable[[Finding], object] | None) -> None:
        self._meta = meta
        self._on_finding = on_finding
        self.restart()

    def restart(self) -> None:
        """Forget what was seen: the record goes on from elsewhere."""
        meta = self._meta
        self._check = HealthCheck(meta["names"], np.asarray(meta["numel"]), meta["every"], tuple(meta["dtypes"]))
        self._found: list[Finding] = []

    def take(self, rows: Rows) -> None:
        """Look at rows that have arrived, if anybody wants to hear of them."""
        if self._on_finding is not None:
            self._found += self._check.update(rows)

    def tell(self) -> None:
        """Call `on_finding` with what is new."""
        while self._found and self._on_finding is not None:
            self._on_finding(self._found.pop(0))


class _Condition:
    """Which of L layers something is true of, how long, and whether it was said."""

    def __init__(self, L: int, confirm: int) -> None:
        self._confirm = confirm  # blocks
        self.since = np.zeros(L, np.int64)  # the step with which it began
        self._blocks = np.zeros(L, np.int64)
        self._said = np.zeros(L, bool)

    def update(self, badness: FloatArray, step: int) -> NDArray[np.intp]:
        """One block more: the layers to report now. Badness that is NaN says nothing of a layer: it stays as it is."""
        bad = badness > 1
        self.since = np.where(bad & (self._blocks == 0), step, self.since)
        self._blocks = np.where(bad, self._blocks + 1, np.where(badness <= 1, 0, self._blocks))
        self._said &= ~(badness < 1 / RECOVER)
        new: NDArray[np.intp] = np.flatnonzero((self._blocks >= self._confirm) & ~self._said)
        self._said[new] = True
        return new


def median_of_others(levels: FloatArray) -> FloatArray:
    """For each of [N, L] the median of the other layers in its row; those at 0, or not finite, are not counted.

    Example:
        >>> median_of_others(np.array([[1.0, 2.0, 4.0, 0.0]]))
        array([[3. , 2.5, 1.5, 2. ]])
    """
    counted = np.isfinite(levels) & (levels > 0)
    ordered = np.sort(np.where(counted, levels, np.inf), axis=1)
    rank = np.where(counted, np.argsort(np.argsort(np.where(counted, levels, np.inf), axis=1), axis=1), levels.shape[1])
    others = counted.sum(axis=1, keepdims=True) - counted  # [N, L] how many others
    low, high = np.maximum(others - 1, 0) // 2, others // 2
    low, high = low + (low >= rank), high + (high >= rank)  # skip the layer itself
    last = levels.shape[1] - 1
    middle = [np.take_along_axis(ordered, np.minimum(index, last), axis=1) for index in (low, high)]
    return np.where(others > 0, (middle[0] + middle[1]) / 2, np.nan)

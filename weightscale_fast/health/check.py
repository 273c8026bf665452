"""Health: what is wrong in a record, since when, and why.

limits.py has the limits, and where they come from.

Letters: S recorded rows, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..record.history import RWCHistory
from ..record.observed import Observed
from ..record.rows import SKIPPED, Rows
from ..record.source import HistorySource, history_of
from .block import Block, FloatArray, RowFacts, blocks_of, facts_of, median
from .broken import Broken
from .condition import Condition
from .explain import cause_of_all, cause_of_layer
from .finding import Finding
from .group_rate import GroupRate
from .limits import BLOCK, CONFIRM, FALLEN_ALL, FEWEST_ROWS, NAMED
from .network import KINDS as NETWORK_KINDS
from .network import Network
from .relative import Relative
from .rounding import Rounding
from .skipped import Skipped
from .spikes import Spikes

LAYER_KINDS = ("runaway", "others_stopped", "stopped", "stuck", "sparse", "still", "slow", "fast")


def check_health(history: HistorySource) -> list[Finding]:
    """What is wrong in a record, in the order in which it became certain.

    Args:
        history: an `RWCHistory`, the path of a run folder, or a monitor (then its `history()`).

    | kind | a layer |
    |---|---|
    | `not_finite` | has NaN or infinity among its weights |
    | `runaway` | moves more than 25 times as much as the other layers' median, or 10 if once 1/5 as much |
    | `others_stopped` | is as far from the others, because these stopped |
    | `stopped` | moved before, and now at no step 1/1,000 as much as that median, or 1/100 if once 20 times as much |
    | `stuck` | loses its steps to rounding: few of its weights move |
    | `sparse` | moves at no step in more than 1 in 10 of its weights, and not because of rounding |
    | `still` | did not move once in the record |
    | `frozen` | does not move, or no more, and `requires_grad` is False; this is no fault |

    | kind | the network, or a layer whose group has a rate far from the others' |
    |---|---|
    | `all_stopped` | moved before, and now almost not; or its learning rate fell to a millionth |
    | `slow`, `fast` | has an RWC below 1e-5 while the rate is not decaying; or above 1e-1 |
    | `small_step`, `large_step` | makes steps 14 times smaller or 3.5 times larger than its optimizer implies |
    | `shrinking` | loses size in 80 % of its movement, by more than 1e-3 a step |
    | `growing` | has weights 8 times as large as 128 steps ago |
    | `spike` | made one step 30 times as large as those before and after |
    | `replicas` | is not the same on all ranks |
    | `skipped` | made no steps, because a gradient scaler skipped them |

    "Moves" means the RWC of Eq. 1. The check takes its median over a block of 16 steps (4 rows if a row spans 4 steps
    or more). Everything but NaN and a spike must last for 3 to 6 blocks in a row. A finding is reported again only
    after it improved by a factor of 2. If more than 3 layers fail in the same way in one block, they are one finding.
    Where fewer than 6 layers move, one of them moves the median of the others: then a layer is named only if it changed
    itself, compared with its own earlier level.

    `finding.cause` and `finding.advice` say why, and what to do. They need a record that was made with the optimizer.
    Without its learning rate, `slow`, the two step sizes and most of `all_stopped` cannot be judged. Much is not
    visible in the movement of weights at all: see docs/health.md.

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
    check = HealthCheck(history.names, history.numel, history.every, history.dtypes, history.kinds, history.baseline)
    rows = np.where(history.moved > 0, history.steps[:, None], 0)
    last = dict(zip(history.names, rows.max(axis=0, initial=0).tolist(), strict=True))
    return list(filter(None, (_without(finding, last) for finding in check.update(history, history.observed))))


def rows_to_judge(every: int) -> int:
    """How many rows `check_health` needs for the findings that it makes first, if a row is `every` steps.

    Example:
        >>> rows_to_judge(1), rows_to_judge(100)
        (64, 16)
    """
    return _block_rows(every) * CONFIRM["still"]


def _block_rows(every: int) -> int:
    return max(BLOCK // every, FEWEST_ROWS)


def _without(finding: Finding, moved: dict[str, int]) -> Finding | None:
    """A finding of kind `still` without the layers that moved later. None if no layer is left.

    Args:
        finding: a finding of any kind.
        moved: the last step at which each layer moved; 0 if it never did.
    """
    if finding.kind not in ("still", "frozen"):
        return finding
    still = [name for name in (finding.layer, *finding.others) if moved[name] <= finding.last]
    return replace(finding, layer=still[0], others=tuple(still[1:])) if still else None


class HealthCheck:
    """`check_health` for a run that goes on: it takes rows as they come and reports each finding once."""

    def __init__(
        self,
        names: Sequence[str],
        numel: NDArray[np.int64],
        every: int = 1,
        dtypes: Sequence[str] = (),
        kinds: Sequence[str] = (),
        baseline: str = "last_row",
    ) -> None:
        L = len(names)
        self._names, self._numel = names, np.maximum(numel, 1)
        self._block = _block_rows(every)  # rows
        horizon = 1 if baseline == "before_step" else every
        self._steps_a_step = every // horizon  # the steps for each one of which the movement is known
        self._open: list[RowFacts] = []  # the rows of the block that is not full
        self._observed = Observed()
        self._broken, self._skipped = Broken(names, self._block), Skipped(names, self._block)
        self._spikes = Spikes(names) if horizon == 1 else None
        self._relative, self._group_rate = Relative(L), GroupRate()
        self._rounding = Rounding(kinds or ("",) * L, dtypes or ("",) * L, self._numel)
        self._network = Network(horizon)
        self._ever_moved = np.zeros(L, bool)
        self.parted: int | None = None  # the step of the finding about replicas
        self._highest = 0.0  # median RWC of a block
        self._layers = {kind: Condition(L, CONFIRM[kind]) for kind in LAYER_KINDS}
        self._whole = {kind: Condition(1, CONFIRM[kind]) for kind in NETWORK_KINDS}

    def update(self, rows: Rows | RWCHistory, observed: Observed | None = None) -> list[Finding]:
        """The new findings. Rows that do not fill a block wait for the next call; NaN is reported at once."""
        n, L = rows.delta_l1.shape
        if not n:
            return []
        self._observed = observed or self._observed
        unknown = np.full((n, L), np.nan)
        facts = facts_of(
            rows.steps,
            rows.delta_l1,
            rows.prev_l1,
            rows.moved,
            unknown if rows.rates is None else rows.rates.of_layers(rows.rates.lr),
            unknown if rows.rates is None else rows.rates.of_layers(rows.rates.weight_decay),
            self._observed.implied(rows.steps, L),
            self._numel,
        )
        found = self._of_replicas(int(rows.steps[-1]))
        found += self._broken.update(rows.steps, np.isfinite(rows.delta_l1) & np.isfinite(rows.prev_l1))
        # Steps that a gradient scaler skipped say nothing of a layer. A row of several steps may have others too.
        flags = rows.bits if isinstance(rows, Rows) else rows.flags
        made = ((flags & SKIPPED) == 0) | rows.moved.any(axis=1)
        found += self._skipped.update(rows.steps, ~made)
        self._open.append(facts.cut(made))
        if self._spikes is not None:
            found += self._spikes.update(self._open[-1])
        facts = RowFacts.join(self._open)
        blocks = blocks_of(facts, self._block, self._numel, self._steps_a_step)
        self._open = [facts.cut(slice(len(blocks) * self._block, None))]
        for block in blocks:
            found += self._judge(block)
        return sorted(found, key=lambda finding: finding.last)

    def _of_replicas(self, last: int) -> list[Finding]:
        """The finding that the ranks' copies part, once."""
        step, layers = self._observed.parted_step, self._observed.parted_layers
        if step is None or step == self.parted:
            return []
        self.parted = step
        number = float(len(layers))
        return [Finding("replicas", layers[0], step, last, number, others=tuple(layers[1:]), cause="parted")]

    def _judge(self, block: Block) -> list[Finding]:
        self._ever_moved |= block.share > 0
        relative, others = self._relative.badness(block, self._ever_moved)
        bad = relative | self._rounding.badness(block) | self._group_rate.badness(block, others)
        bad["fast"] = np.where(bad["runaway"] <= 1, bad["fast"], 0.0)  # runaway says more
        bad["still"] = np.where(self._ever_moved, 0.0, np.inf)
        bad["stuck"] = np.where(self._ever_moved, bad["stuck"], 0.0)
        # In 16 bits stuck is the better name. In float32 the steps of a layer that stopped end so, too.
        bad["stuck"] = np.where(~self._rounding.sixteen_bit & (bad["stopped"] > 1), 0.0, bad["stuck"])
        stuck = bad["stuck"] > 1
        bad["stopped"] = np.where(stuck, 0.0, bad["stopped"])
        whole = self._network.badness(block, stuck, self._ever_moved, bool(self._observed.keeps_gradients))
        level = median(block.level[block.level > 0])
        # What is left of the movement says nothing more.
        is_over = bool(self._whole["all_stopped"].said[0]) and level < FALLEN_ALL * self._highest
        if whole["all_stopped"] > 1 or is_over:
            bad |= {
                kind: np.zeros(len(self._names)) for kind in ("runaway", "others_stopped", "stopped", "stuck", "sparse")
            }
            whole |= {"slow": 0.0, "small_step": 0.0}
        found = []
        for kind, condition in self._layers.items():
            new = condition.update(bad[kind], block.first)
            found += self._of_layers(kind, new, condition.since, block, others)
        moving = block.level > 0
        level = median(block.level[moving]) if moving.any() else 0.0
        shrink, step = median(block.shrink[moving]), median((block.step / block.implied)[moving])
        for kind, badness in whole.items():
            values = {"small_step": step, "large_step": step, "shrinking": shrink, "growing": self._network.growth}
            found += self._of_all(kind, badness, block, values.get(kind, level))
        self._highest = float(np.fmax(self._highest, level))
        return found

    def _of_layers(
        self, kind: str, layers: NDArray[np.intp], since: NDArray[np.int64], block: Block, others: FloatArray
    ) -> list[Finding]:
        """The findings about layers, of which those with the same cause may share one."""
        by_cause: dict[str, list[int]] = {}
        for i in layers.tolist():
            cause = cause_of_layer(kind, i, self._names[i], block, self._observed)
            by_cause.setdefault(cause, []).append(i)
        found = []
        for cause, of_cause in by_cause.items():
            called = _called(kind, cause)
            value = {"stuck": block.share, "sparse": block.most_share}.get(called, block.level)
            together = [of_cause] if len(of_cause) > NAMED else [[i] for i in of_cause]
            for first, *more in together:
                names = tuple(self._names[i] for i in more)
                numbers = int(since[first]), block.last, float(value[first]), float(others[first])
                found.append(Finding(called, self._names[first], *numbers, names, cause))
        return found

    def _of_all(self, kind: str, badness: float, block: Block, value: float) -> list[Finding]:
        """The finding about the whole network, if it is new."""
        condition = self._whole[kind]
        if not len(condition.update(np.array([badness]), block.first)):
            return []
        network = self._network
        cause = cause_of_all(kind, self._names, block, self._observed, network.most_rate, network.growth_in_all)
        before = self._highest if kind == "all_stopped" else float("nan")
        first, *others = self._names
        return [Finding(kind, first, int(condition.since[0]), block.last, value, before, tuple(others), cause)]


def _called(kind: str, cause: str) -> str:
    """The right name, if the cause is known."""
    if cause == "frozen" and kind in ("still", "stopped", "stuck"):
        return "frozen"
    return "stopped" if kind == "stuck" and cause != "rounding" else kind

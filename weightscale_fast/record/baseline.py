"""Baseline: the weights that a row compares with, and how long a copy of them lives.

- `"last_row"`: the weights at the end of the last row. A copy of them always exists. A row has all that moved since.
- `"before_step"`: the weights before the step that the row is of. The copy exists while that step runs. There is none
  if the optimizer adds up the sums itself (`InStep`).
"""

from __future__ import annotations

from torch import nn

from ..errors import WeightScaleError
from ..graph_capture import is_capturing, keep_for_replays
from ..ops.backends import run_plan
from ..weights.brief_copy import BriefCopy
from ..weights.snapshot import Snapshot
from .in_step import InStep
from .ring import Ring

BASELINES = ("last_row", "before_step")


class LastRow:
    """Compares with the weights of the last row, and makes the new ones the last in the same pass.

    Args:
        weights: those at the last row.
    """

    name = "last_row"

    def __init__(self, weights: Snapshot, model: nn.Module) -> None:
        self.weights = weights
        self.plan, _ = weights.plan_for(model)

    def step_begins(self, model: nn.Module) -> None:
        """A step begins that will have a row."""

    def is_known(self) -> bool:
        """Whether there are weights to compare with."""
        return True

    def fill(self, model: nn.Module, ring: Ring) -> bool:
        """Fill the next row of the ring; whether some weights have another address than at the last row."""
        with self.weights.lock:
            plan, cur = self.weights.plan_for(model)
            changed, self.plan = plan is not self.plan, plan
            if is_capturing(ring.rows.device):
                keep_for_replays(plan, ring)  # the plan holds the previous weights
            run_plan(plan, cur, ring.rows, ring.cursor, update=True)
        return changed

    def monitor_starts(self, *, in_step: bool) -> None:
        """The monitor is made, in a step that will have a row or not in one."""

    def forget(self) -> None:
        """No step runs any more."""


class BeforeStep:
    """Compares with a copy that is made before the step and deleted after it.

    Args:
        weights: a copy of the weights now, for a step that runs already.
    """

    name = "before_step"

    def __init__(self, weights: BriefCopy, model: nn.Module) -> None:
        self.weights = weights
        self.plan, _ = weights.plan_for(model)

    def step_begins(self, model: nn.Module) -> None:
        """A step begins that will have a row: copy the weights.

        Raises:
            WeightScaleError: a CUDA graph is captured. It would keep the memory of the copy for its replays.
        """
        if is_capturing(self.plan.device):
            raise WeightScaleError(
                'baseline="before_step" gives the memory of its copy back after each step, and a CUDA graph would keep '
                'it: make the monitor with baseline="last_row", or do not capture the optimizer\'s step'
            )
        with self.weights.lock:
            self.weights.take(model)

    def is_known(self) -> bool:
        """Whether there are weights to compare with."""
        return self.weights.taken

    def fill(self, model: nn.Module, ring: Ring) -> bool:
        """Fill the next row of the ring, and delete the copy; whether some weights have moved to another address."""
        with self.weights.lock:
            try:
                plan, cur = self.weights.plan_for(model)
                changed, self.plan = plan is not self.plan, plan
                run_plan(plan, cur, ring.rows, ring.cursor, update=False)
            finally:
                self.weights.release()
        return changed

    def monitor_starts(self, *, in_step: bool) -> None:
        """The monitor is made. In a step that will have a row, the copy is that of the weights before it."""
        if not in_step:
            self.forget()

    def forget(self) -> None:
        """No step runs any more: delete the copy that a step left which raised."""
        with self.weights.lock:
            self.weights.release()


Baseline = LastRow | BeforeStep | InStep

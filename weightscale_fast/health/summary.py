"""RunSummary: a stretch of a record on half a page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..record.history import RWCHistory
from .check import check_health, rows_to_judge
from .finding import Finding
from .levels import layer_levels

SHOWN = 3  # layers at either end


@dataclass(frozen=True, repr=False)
class RunSummary:
    """What `RWCMonitor.summary` returns; print it.

    Args:
        first: the first step.
        last: the last step.
        rows: the number of recorded rows.
        layers: the number of layers.
        weights: the number of weights in them.
        median: the median over the layers that moved of each layer's median RWC over the steps.
        moved_fraction: the share of all weights that change at a step, 0 to 1.
        levels: the finite layers and their median RWC, the largest first.
        findings: what `check_health` finds in these steps.
        enough: whether there are enough rows for all that it looks for. NaN is found in any row.

    Example:
        >>> history = RWCHistory(
        ...     names=("conv", "fc"), numel=np.array([9, 4]), kinds=("conv", "linear"), steps=np.array([1, 2]),
        ...     delta_l1=np.array([[1.0, 0.5], [3.0, 0.1]]), prev_l1=np.array([[4.0, 2.0], [4.0, 2.0]]),
        ...     moved=np.array([[9, 4], [9, 4]]))
        >>> print(RunSummary.of(history))
        steps 1 to 2 (2 rows): 2 layers, 13 weights, 100.0% of them move at a step
        median RWC 3.3e-01
          5.0e-01  conv
          1.5e-01  fc
        nothing found so far: there are too few rows to judge
    """

    first: int
    last: int
    rows: int
    layers: int
    weights: int
    median: float
    moved_fraction: float
    levels: tuple[tuple[str, float], ...]
    findings: tuple[Finding, ...]
    enough: bool = True

    @classmethod
    def of(cls, history: RWCHistory) -> RunSummary:
        """Sum up every row of a history.

        Raises:
            ValueError: it has none.
        """
        if not len(history):
            raise ValueError("there is no row to sum up yet: call this after the first recorded step")
        level, is_finite = layer_levels(history)
        finite = np.flatnonzero(is_finite & ~np.isnan(level))
        levels = level[finite]
        moving = levels[history.moved[:, finite].any(axis=0)]
        order = np.argsort(-levels, kind="stable")
        return cls(
            first=int(history.steps[0]),
            last=int(history.steps[-1]),
            rows=len(history),
            layers=len(history.names),
            weights=int(history.numel.sum()),
            median=float(np.median(moving if len(moving) else levels)) if len(levels) else float("nan"),
            moved_fraction=float(history.moved.sum() / max(len(history) * history.numel.sum(), 1)),
            levels=tuple((history.names[finite[i]], float(levels[i])) for i in order),
            findings=tuple(check_health(history)),
            enough=len(history) >= rows_to_judge(history.every),
        )

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        layers = "1 layer" if self.layers == 1 else f"{self.layers:,} layers"
        rows = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        lines = [
            f"steps {self.first:,} to {self.last:,} ({rows}): {layers}, {self.weights:,} weights, "
            f"{self.moved_fraction:.1%} of them move at a step",
            f"median RWC {self.median:.1e}",
        ]
        shown = [f"  {level:.1e}  {name}" for name, level in self.levels]
        if len(shown) > 2 * SHOWN:
            shown[SHOWN:-SHOWN] = [f"     ...     {len(shown) - 2 * SHOWN} more"]
        lines += shown
        nothing = "nothing found" if self.enough else "nothing found so far: there are too few rows to judge"
        faults = [f"! {finding}" for finding in self.findings if finding.is_fault]
        notes = [f"- {finding}" for finding in self.findings if not finding.is_fault]
        lines += [*(faults or [nothing]), *notes]
        return "\n".join(lines)

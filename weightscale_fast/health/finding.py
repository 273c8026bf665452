"""Finding: one thing that is wrong with a run."""

from __future__ import annotations

from dataclasses import dataclass

from .causes import ADVICE, CAUSES
from .limits import NOTES


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with one layer, with several layers at the same time, or with the whole network.

    Args:
        kind: what happens, such as `"stopped"`; see `check_health`.
        layer: the name of the layer. If there are several, the first in network order; for `"not_finite"`, the first
            that became not finite.
        step: the step since which it is so.
        last: the step at which the check was certain.
        value: the number that was judged, at `last`: RWC, the median of a block. For `"stuck"` and `"sparse"`, the
            fraction of the weights that move at a step; for `"small_step"` and `"large_step"`, the step in units of the
            step that the optimizer implies; for `"shrinking"`, the part of the movement that made the weights smaller;
            for `"growing"`, how many times larger the weights became; for `"skipped"`, the fraction of the steps; for
            `"replicas"`, the number of layers.
        median: what it is compared with: the median RWC of the other layers at the same steps. For `"spike"`, the RWC
            before; for `"all_stopped"`, the highest RWC before. NaN if nothing is compared.
        others: the other layers for which the same became true in the same block.
        cause: why, a short code such as `"no_gradient"`; empty if it is not known.

    Example:
        >>> finding = Finding("still", "gate.weight", step=1, last=64, value=0.0, cause="no_gradient")
        >>> print(finding)
        gate.weight still: not one weight moved over steps 1 to 64, because it had no gradient (grad was None)
        >>> finding.is_fault
        True
    """

    kind: str
    layer: str
    step: int
    last: int
    value: float
    median: float = float("nan")
    others: tuple[str, ...] = ()
    cause: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether something is wrong. A frozen layer is worth a note, and no fault."""
        return self.kind not in NOTES

    @property
    def advice(self) -> str:
        """What to do about the cause; if the cause is not known, where to look first."""
        return CAUSES[self.cause].advice if self.cause in CAUSES else ADVICE.get(self.kind, "")

    def __str__(self) -> str:
        because = f", because {CAUSES[self.cause].because}" if self.cause in CAUSES else ""
        return self._what() + because

    def _what(self) -> str:
        steps = f"over steps {self.step} to {self.last}"
        since = f"since step {self.step}"
        who, s = self.layer, "" if self.others else "s"
        run, move, make = f"run{s}", f"move{s}", f"make{s}"
        if self.others:
            who += f" and {self.others[0] if len(self.others) == 1 else f'{len(self.others)} more layers'}"
        if self.kind == "not_finite":
            return f"{who} not finite: NaN or infinite {since}"
        if self.kind == "frozen" and self.value > 0:
            return f"{who} frozen: RWC {self.value:.1e} {steps}"
        if self.kind in ("still", "frozen"):
            why = "" if self.cause else "; it is unused, has no gradient, or its steps are lost to rounding"
            return f"{who} {self.kind}: not one weight moved {steps}{why}"
        if self.kind == "stuck":
            return f"{who} stuck: {self.value:.2%} of the weights move at a step, {steps}"
        if self.kind == "sparse":
            return f"{who} {move} in few places: at no step in more than {self.value:.1%} of its weights, {steps}"
        if self.kind == "runaway":
            return f"{who} {run} away: RWC {self.value:.1e} {steps}, {self._times()}"
        if self.kind == "others_stopped":
            return (
                f"{who} {move} as before, and the other layers stopped: RWC {self.value:.1e} {steps}, {self._times()}"
            )
        if self.kind == "stopped":
            if not self.median >= 10 * self.value:  # the others move as little, or nothing moves
                return f"{who} stopped: RWC {self.value:.1e} {steps}"
            part = f"1/{self.median / self.value:,.0f} of " if self.value else "against "
            return f"{who} stopped: RWC {self.value:.1e} {steps}, {part}{self._against()}"
        if self.kind == "all_stopped":
            before = f", and {self.median:.1e} at its highest" if self.median > 0 else ""
            return f"the network stopped: median RWC {self.value:.1e} {steps}{before}"
        if self.kind in ("slow", "fast"):
            amount = "little" if self.kind == "slow" else "much"
            usual = self._against() if self.cause == "group_rate" else "healthy runs have 1e-4 to 1e-1"
            return f"{who} {move} too {amount}: RWC {self.value:.1e} {steps}; {usual}"
        if self.kind in ("small_step", "large_step"):
            size = "small" if self.kind == "small_step" else "large"
            return (
                f"{who} {make} steps too {size} for the learning rate: {self.value:.2g} times the step that the "
                f"optimizer implies, {steps}"
            )
        if self.kind == "shrinking":
            return f"{who} shrink{s}: {min(self.value, 1):.0%} of the movement is towards zero {steps}"
        if self.kind == "growing":
            return f"{who} grow{s}: the weights became {self.value:,.0f} times as large {steps}"
        if self.kind == "spike":
            return f"{who} jumped at step {self.step}: RWC {self.value:.1e}, and {self.median:.1e} at the steps before"
        if self.kind == "skipped":
            return f"{self.value:.0%} of the steps were skipped by the gradient scaler {steps}"
        return f"{who}: the ranks' copies are not equal {since}, so the rows mix different networks"

    def _times(self) -> str:
        return f"{self.value / self.median:,.0f} times {self._against()}"

    def _against(self) -> str:
        return f"the other layers' median {self.median:.1e}"

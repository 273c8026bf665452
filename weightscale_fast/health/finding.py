"""Finding: one thing that is wrong with a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with one layer, or with several layers at the same time.

    Args:
        kind: one of `"not_finite"`, `"runaway"`, `"stopped"`, `"stuck"`, `"still"`; see `check_health`.
        layer: the name of the layer. If there are several, the first in network order; for `"not_finite"`, the first
            that became not finite.
        step: the step since which it is so.
        last: the step at which the check was certain.
        value: the layer's RWC at `last`, the median of a block. For `"stuck"`, the fraction of its weights that move at
            a step.
        median: the median RWC of the other layers at the same steps. NaN if nothing is compared.
        others: the other layers for which the same became true in the same block.

    Example:
        >>> print(Finding("runaway", "fc.weight", step=65, last=112, value=0.5, median=0.001))
        fc.weight runs away: RWC 5.0e-01 over steps 65 to 112, 500 times the other layers' median 1.0e-03
    """

    kind: str
    layer: str
    step: int
    last: int
    value: float
    median: float = float("nan")
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        steps = f"over steps {self.step} to {self.last}"
        who = self.layer
        if self.others:
            who += f" and {self.others[0] if len(self.others) == 1 else f'{len(self.others)} more layers'}"
        if self.kind == "not_finite":
            return f"{who} not finite: NaN or infinite since step {self.step}"
        if self.kind == "still":
            return f"{who} still: not one weight moved {steps}; frozen, unused, or its steps are lost to rounding"
        if self.kind == "stuck":
            return f"{who} stuck in 16 bits: {self.value:.2%} of the weights move at a step, {steps}"
        against = f"the other layers' median {self.median:.1e}"
        if self.kind == "runaway":
            return f"{who} runs away: RWC {self.value:.1e} {steps}, {self.value / self.median:,.0f} times {against}"
        part = f"1/{self.median / self.value:,.0f} of " if self.value else "against "
        return f"{who} stopped: RWC {self.value:.1e} {steps}, {part}{against}"

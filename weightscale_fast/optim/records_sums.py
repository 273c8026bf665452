"""RecordsSums: what makes an optimizer of torch add up the sums of its steps. StepSums: what it gives.

Letters: K sums per parameter, P parameters.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..eager import always_eager
from ..ops.sums import number_of_sums
from . import torch_step
from .plan import StepPlan, check_group
from .table import STILL


@dataclass(frozen=True)
class StepSums:
    """The sums of one step over parameters of one device.

    Attributes:
        parameters: [P] those that were stepped, as the optimizer has them. Of a DTensor, the sums are of the local
            shard.
        sums: [K, P] float64, on their device. The rows are those of ops/sums.py: K is 3, 6 with the sums of L2, or 7
            with ratio_sum too. They are of the values as stored, before and after the step.
    """

    parameters: Sequence[Tensor]
    sums: Tensor


class RecordsSums(Optimizer):
    """An optimizer of torch whose steps add up the sums of what they change, if somebody asks for them.

    A kernel of this package steps the parameters that it can serve (`Table`), and adds up the sums in the same pass.
    torch's own step takes the others. A copy of these lives during a step whose sums were asked for.

    Attributes:
        step_sums: the sums of the last step, in one or more parts, or None if nobody asked for them. They are valid
            until the next step begins. Parameters without a gradient are not in them.
    """

    step_sums: list[StepSums] | None = None
    _requested = 0  # K of the next step
    _plan: StepPlan | None = None

    @property
    def makes_the_whole_step(self) -> bool:
        """Whether `step` is that of this package. A subclass with its own may move the weights before or after it."""
        return inspect.unwrap(type(self).step) is inspect.unwrap(RecordsSums.step)

    def request_sums(self, *, l2: bool = False, ratio: bool = False) -> None:
        """Ask for the sums of the next step. Several may ask, so there may be more sums than one asked for.

        Args:
            l2: also for those of L2 and the largest change.
            ratio: also for ratio_sum. The sums of L2 come with it.
        """
        self.step_sums = None  # those of an earlier step
        self._requested = max(self._requested, number_of_sums(ratio=ratio, l2=l2 or ratio))

    @always_eager
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step, as torch's optimizer of this name does.

        Args:
            closure: computes the loss and its gradients again, and returns the loss.

        Raises:
            TypeError: a parameter is complex or has a sparse gradient. Nothing has moved then.
        """
        K, self._requested, self.step_sums = self._requested, 0, None
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parameters = [p for group in self.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters]
        if self._plan is None or not self._plan.fits(self, parameters, gradients):
            self._plan = StepPlan(self, parameters, gradients)
        self.step_sums = self._take_step(self._plan, gradients, K)
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer.add_param_group`."""
        check_group(self, {**self.defaults, **param_group})
        super().add_param_group(param_group)

    def _take_step(self, plan: StepPlan, gradients: list[Tensor | None], K: int) -> list[StepSums] | None:
        parts = []
        if plan.rest:  # first, because torch may refuse them
            parts += torch_step.take(self, super().step, plan.rest, K)
        if plan.tables:
            found_inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
            still = found_inf is not None and bool(found_inf)
            numbers = [[STILL] * 7 if still else list(map(float, self._numbers(group))) for group in self.param_groups]
            states = list(self.state.values())
            for table in plan.tables:
                sums = table.step(gradients, states, numbers, scale, K)
                parts.append((table.parameters, sums))
        return None if K == 0 else [StepSums(parameters, sums) for parameters, sums in parts]

    def _state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The states of a group's parameters that are as large as they."""
        raise NotImplementedError

    def _states_of(
        self, group: dict[str, Any], parameter: Tensor, names: tuple[str, ...]
    ) -> tuple[dict[str, Tensor], Tensor | None, bool]:
        """These states, made if there are none; Adam's number of steps; and whether the step fills the states first."""
        raise NotImplementedError

    def _numbers(self, group: dict[str, Any]) -> list[float]:
        """The numbers of a group, in the order of csrc/step_table.h."""
        raise NotImplementedError

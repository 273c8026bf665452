"""SGD."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .records_sums import RecordsSums
from .table import SGD as RULE


class SGD(RecordsSums, torch.optim.SGD):
    """`torch.optim.SGD`, which adds up the sums of what a step changes in the pass that writes the weights.

    It has the same arguments, and its `state_dict` can be loaded by torch's optimizer and the other way round. See
    docs/optimizers.md for what `foreach`, `fused` and `differentiable` mean here.

    Example:
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> optimizer.request_sums()
        >>> model(torch.ones(3, 4)).sum().backward()
        >>> optimizer.step()
        >>> optimizer.step_sums[0].sums[0]  # sum |w - prev| of the weight and of the bias: every gradient is 3
        tensor([2.4000, 0.6000], dtype=torch.float64)
    """

    def _state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) * bool(group["momentum"] != 0)

    def _states_of(
        self, group: dict[str, Any], parameter: Tensor, names: tuple[str, ...]
    ) -> tuple[dict[str, Tensor], Tensor | None, bool]:
        if not names:
            return {}, None, False
        buffer = self.state[parameter].get("momentum_buffer")
        if buffer is not None:
            return {"momentum_buffer": buffer}, None, False
        buffer = torch.empty_like(parameter, memory_format=torch.preserve_format, requires_grad=False)
        return {"momentum_buffer": buffer}, None, True

    def _numbers(self, group: dict[str, Any]) -> list[float]:
        decay, momentum, dampening = group["weight_decay"], group["momentum"], group["dampening"]
        return [RULE, group["lr"], decay, group["maximize"], momentum, dampening, group["nesterov"]]

"""Adam and AdamW."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .records_sums import RecordsSums
from .table import ADAM, ADAMW


class Adam(RecordsSums, torch.optim.Adam):
    """`torch.optim.Adam`, which adds up the sums of what a step changes in the pass that writes the weights.

    It has the same arguments, and its `state_dict` can be loaded by torch's optimizer and the other way round. See
    docs/optimizers.md for what `foreach`, `fused`, `capturable` and `differentiable` mean here.

    Example:
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = Adam(model.parameters(), lr=1e-3)
        >>> optimizer.request_sums()
        >>> model(torch.ones(3, 4)).sum().backward()
        >>> optimizer.step()
        >>> [part.sums.shape for part in optimizer.step_sums]
        [torch.Size([3, 2])]
    """

    def _state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq") + ("max_exp_avg_sq",) * bool(group["amsgrad"])

    def _states_of(
        self, group: dict[str, Any], parameter: Tensor, names: tuple[str, ...]
    ) -> tuple[dict[str, Tensor], Tensor | None, bool]:
        state = self.state[parameter]
        if not state:  # as torch makes it
            on_device = bool(group["capturable"] or group["fused"])
            wide = torch.get_default_dtype() == torch.float64 and not group["fused"]
            state["step"] = torch.zeros(
                (), dtype=torch.float64 if wide else torch.float32, device=parameter.device if on_device else "cpu"
            )
            for name in names:
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return {name: state[name] for name in names}, state["step"], False

    def _numbers(self, group: dict[str, Any]) -> list[float]:
        rule = ADAMW if group["decoupled_weight_decay"] else ADAM
        return [rule, group["lr"], group["weight_decay"], group["maximize"], *group["betas"], group["eps"]]


class AdamW(Adam, torch.optim.AdamW):
    """`torch.optim.AdamW`, which adds up the sums of what a step changes in the pass that writes the weights.

    See `Adam`.

    Example:
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
        >>> optimizer.load_state_dict(torch.optim.AdamW(model.parameters()).state_dict())
    """

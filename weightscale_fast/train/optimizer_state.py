"""load_optimizer_state: the state of an optimizer from a checkpoint that may be a stranger's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_ADAM = {"step", "exp_avg", "exp_avg_sq"}
STATES = {"Adam": _ADAM, "AdamW": _ADAM, "SGD": {"momentum_buffer"}}  # what a weight has after its first step


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Load the state of each weight. The settings, such as the learning rate, stay those that the optimizer has.

    torch's fused optimizers do not compare the sizes of the state with those of the weights: with a smaller tensor they
    read and write behind its end.

    Raises:
        ValueError: the state is not one of this optimizer and these weights. Nothing is loaded in this case.
    """
    if not isinstance(state, Mapping) or not isinstance(state.get("state"), Mapping):
        raise ValueError(f"the optimizer's state must be a dict with a dict 'state', got {type(state).__name__}")
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    unknown = [key for key in state["state"] if type(key) is not int or not 0 <= key < len(weights)]
    if unknown:
        raise ValueError(f"the optimizer's state has weight {str(unknown[0])[:60]!r}, here are {len(weights)} weights")
    keys = STATES[type(optimizer).__name__]
    checked = {i: _checked(weights[i], its, keys) for i, its in state["state"].items()}
    optimizer.load_state_dict({"state": checked, "param_groups": optimizer.state_dict()["param_groups"]})


def _checked(weight: Tensor, state: Any, keys: set[str]) -> dict[str, Tensor]:
    """The state of a weight, in tensors like the weight."""
    if not isinstance(state, Mapping):
        raise ValueError(f"the optimizer's state of a weight must be a dict, got {type(state).__name__}")
    state = {key: value for key, value in state.items() if value is not None}
    if state and set(state) != keys:
        found = str(sorted(map(str, state)))[:200]
        raise ValueError(f"the optimizer's state of a weight must have {sorted(keys)}, got {found}")
    return {key: _like(torch.zeros(()) if key == "step" else weight, value, key) for key, value in state.items()}


def _like(weight: Tensor, value: Any, key: str) -> Tensor:
    """The value in a tensor of its own. In memory it lies as the weight does; another layout is read beside its end."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
        raise ValueError(f"the optimizer's {key} must be a plain tensor, got {type(value).__name__}")
    if value.shape != weight.shape or value.dtype != weight.dtype:
        raise ValueError(
            f"the optimizer's {key} must be {weight.dtype} {list(weight.shape)} as its weight, "
            f"got {value.dtype} {list(value.shape)}"
        )
    return torch.empty_like(weight, device=value.device, requires_grad=False).copy_(value.detach())

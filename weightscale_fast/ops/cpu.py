"""The `cpu` backend: the compiled pass of csrc/cpu. One call reads all layers of a group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .extension import load_error
from .plan import Group, Plan


def refusal(device: torch.device) -> str | None:
    """Why this backend cannot serve the device, or None if it can."""
    if device.type != "cpu":
        return f"it reads weights on the cpu, these are on {device}"
    return load_error()


def run(
    plan: Plan, group: Group, cur: Sequence[Tensor], out: Tensor, rwc: Tensor, cursor: Tensor, update: bool
) -> None:
    """Fill the group's columns in row `cursor` of out [R, K, L], and in rwc [L]; with `update`, prev <- cur."""
    torch.ops.weightscale_fast.layer_sums.default(*group.tables, out, rwc, cursor, update)

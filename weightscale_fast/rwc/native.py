"""The `cpu` backend: the compiled pass of csrc/cpu, one call for all layers of a group."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .plan import Group, Plan


@functools.cache
def load_error() -> str | None:
    """Load the extension, once; None, or why it is not here."""
    package = Path(__file__).parents[1]
    found = sorted(package.glob("_C*.so"))
    if not found:
        return "the extension was not built (no C++ compiler at install time, or WEIGHTSCALE_FAST_NO_EXT=1)"
    try:
        torch.ops.load_library(str(found[0]))  # type: ignore[no-untyped-call]
    except OSError as error:
        return f"the extension {found[0].name} does not load: {error.__cause__ or error}"
    return None


def refusal(device: torch.device) -> str | None:
    """Why this backend cannot serve the device, or None if it can."""
    if device.type != "cpu":
        return f"it reads weights on the cpu, these are on {device}"
    return load_error()


def run(plan: Plan, group: Group, cur: Sequence[Tensor], out: Tensor, update: bool) -> None:
    """Fill the group's columns of out [K, M]; with `update`, prev <- cur in the same read."""
    torch.ops.weightscale_fast.layer_sums.default(
        group.chunks, group.layer_start, group.layer_row, group.prev, group.partial, out, update
    )

"""The `triton` backend: the fused pass on a GPU, with two kernel launches per group for any number of layers.

Letters: L layers of the model, G layers of a group, C chunks, K sums per layer (see sums.py), R rows of `out`.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from .plan import Group, Plan
from .register import library
from .sums import has_l2, has_ratio
from .trial import trial_error
from .tuning import stage_1_options, stage_2_options


def refusal(device: torch.device) -> str | None:
    """Why this backend cannot serve the device, or None if it can."""
    try:
        found = importlib.util.find_spec("triton")
    except ValueError:  # somebody set sys.modules['triton'] to None
        found = None
    if found is None:
        return "Triton is not installed"
    if device.type in ("cuda", "xpu"):
        return trial_error(run, device)
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return f"it runs on GPUs, these weights are on {device} (on the cpu TRITON_INTERPRET=1 interprets it, slowly)"


def run(
    plan: Plan, group: Group, cur: Sequence[Tensor], out: Tensor, rwc: Tensor, cursor: Tensor, update: bool
) -> None:
    """Fill the group's columns in row `cursor` of out [R, K, L], and in rwc [L]; with `update`, prev <- cur."""
    torch.ops.weightscale_fast.layer_sums_triton.default(*group.tables, out, rwc, cursor, update, group.most_chunks)


@functools.cache
def architecture(device: torch.device) -> str:
    """The device's name in the tuning table, such as `sm_90` or `gfx942`."""
    if device.type != "cuda":
        return device.type
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(device).gcnArchName).partition(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def _layer_sums(
    chunks: Tensor,  # [3, C]
    layer_start: Tensor,  # [G + 1]
    layer_row: Tensor,  # [G]
    prev: Tensor,  # any shape
    partial: Tensor,  # [>= K, C]
    out: Tensor,  # [R, K, L]
    rwc: Tensor,  # [L] or [0]
    cursor: Tensor,  # [1]
    update: bool,
    most_chunks: int,
) -> None:
    from .triton_kernels import chunk_sums_kernel, layer_sums_kernel

    (R, K, L), C, G = out.shape, chunks.shape[1], len(layer_row)
    name = architecture(prev.device)
    stage_1, stage_2 = stage_1_options(name, prev.element_size()), stage_2_options(name, most_chunks)
    with torch.accelerator.device_index(prev.device.index):
        if C:
            constants = {"SIZE": prev.element_size(), "UPDATE": update}
            constants |= {"WITH_RATIO": has_ratio(K), "WITH_L2": has_l2(K)}
            chunk_sums_kernel[(C,)](chunks, prev, partial, C, **constants, **stage_1)
        layer_sums_kernel[(G, K + 1 if len(rwc) else K)](
            partial, chunks, layer_start, layer_row, out, rwc, cursor, C, L, R, K=K, **stage_2
        )


library.impl("layer_sums_triton", _layer_sums, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]

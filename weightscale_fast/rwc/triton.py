"""The `triton` backend: the fused pass on a GPU, two kernel launches a group, however many layers there are.

Letters: C chunks, L layers of a group, M layers of the model, K sums per layer.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from .plan import Group, Plan
from .schema import library
from .trial import trial_error
from .tuning import OPTIONS, STAGE_2, launch_for


def refusal(device: torch.device) -> str | None:
    """Why this backend cannot serve the device, or None if it can."""
    try:
        found = importlib.util.find_spec("triton")
    except ValueError:  # taken out of sys.modules
        found = None
    if found is None:
        return "Triton is not installed"
    if device.type in ("cuda", "xpu"):
        return trial_error(run, device)
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return f"it runs on GPUs, these weights are on {device} (on the cpu TRITON_INTERPRET=1 interprets it, slowly)"


def run(plan: Plan, group: Group, cur: Sequence[Tensor], out: Tensor, cursor: Tensor, update: bool) -> None:
    """Fill the group's columns of row `cursor` of out [R, K, M]; with `update`, prev <- cur in the same read."""
    torch.ops.weightscale_fast.layer_sums_triton.default(
        group.chunks, group.layer_start, group.layer_row, group.prev, group.partial, out, cursor, update
    )


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
    layer_start: Tensor,  # [L + 1]
    layer_row: Tensor,  # [L]
    prev: Tensor,  # any shape
    partial: Tensor,  # [>= K, C]
    out: Tensor,  # [R, K, M]
    cursor: Tensor,  # [1]
    update: bool,
) -> None:
    from .triton_kernels import chunk_sums_kernel, layer_sums_kernel

    (R, K, M), C, L = out.shape, chunks.shape[1], len(layer_row)
    launch = launch_for(architecture(prev.device), prev.element_size())
    with torch.accelerator.device_index(prev.device.index):
        if C:
            chunk_sums_kernel[(C,)](
                chunks,
                prev,
                partial,
                C,
                SIZE=prev.element_size(),
                BLOCK=launch.block,
                UPDATE=update,
                WITH_RATIO=K == 4,
                num_warps=launch.num_warps,
                **OPTIONS,
            )
        layer_sums_kernel[(L,)](
            partial,
            layer_start,
            layer_row,
            out,
            cursor,
            C,
            M,
            R,
            K=K,
            BLOCK=STAGE_2.block,
            num_warps=STAGE_2.num_warps,
            **OPTIONS,
        )


library.impl("layer_sums_triton", _layer_sums, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]

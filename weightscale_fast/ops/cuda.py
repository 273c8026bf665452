"""The `cuda` backend: the compiled pass of csrc/cuda, for NVIDIA GPUs without Triton."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .extension import load_error
from .plan import Group, Plan
from .trial import trial_error


def refusal(device: torch.device) -> str | None:
    """Why this backend cannot serve the device, or None if it can."""
    if device.type != "cuda" or torch.version.hip:
        return f"it reads weights on an NVIDIA GPU, these are on {'an AMD GPU' if torch.version.hip else device}"
    error = load_error()
    if error is None and not built():
        return "the extension was built without CUDA (no nvcc at install time, or WEIGHTSCALE_FAST_CUDA=0)"
    return error or trial_error(run, device)


def built() -> bool:
    """Whether the loaded extension contains the CUDA pass. The check needs no GPU."""
    return torch._C._dispatch_has_kernel_for_dispatch_key("weightscale_fast::layer_sums_cuda", "CUDA")


def run(
    plan: Plan, group: Group, cur: Sequence[Tensor], out: Tensor, rwc: Tensor, cursor: Tensor, update: bool
) -> None:
    """Fill the group's columns in row `cursor` of out [R, K, L], and in rwc [L]; with `update`, prev <- cur."""
    stream = torch.cuda.current_stream(group.device).cuda_stream
    torch.ops.weightscale_fast.layer_sums_cuda.default(
        *group.tables, out, rwc, cursor, update, group.most_chunks, stream
    )

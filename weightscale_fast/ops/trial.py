"""A trial run of a GPU backend on one weight, because a backend that is installed may still not work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from .plan import build_plan, sum_dtype


def trial_error(run: Callable[..., None], device: torch.device) -> str | None:
    """Run a backend once on `device`. Return None, or its error. A failed launch raises at once, without a wait."""
    try:
        run_once(run, device)
    except Exception as error:  # a compiler or a driver may raise anything
        return f"a trial of its kernels failed: {error!r}"
    return None


def run_once(
    run: Callable[..., None],
    device: torch.device,
    *,
    dtype: torch.dtype = torch.float32,
    sums: int = 3,
    update: bool = False,
    most_chunks: int = 1,
) -> None:
    """Run a backend on one weight, so that the kernels for these arguments are compiled and loaded.

    A CUDA graph cannot capture the first launch of a kernel, and a training step should not wait for it.
    """
    weights = [torch.zeros(1, 1, dtype=dtype, device=device)]
    plan = build_plan(weights, [torch.zeros(1, 1, dtype=dtype, device=device)])
    plan.await_tables()
    group = replace(plan.groups[0], most_chunks=most_chunks)
    out = torch.zeros(1, sums, 1, dtype=sum_dtype(device), device=device)
    run(plan, group, weights, out, out.new_empty(0, dtype=torch.float32), plan.zero, update)

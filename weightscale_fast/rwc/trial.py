"""A trial of a GPU backend on one weight: what is installed may still not work."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .plan import build_plan


def trial_error(run: Callable[..., None], device: torch.device) -> str | None:
    """Run a backend once on `device`; None, or what it raised. A launch that fails does so at once, without a wait."""
    weights = [torch.zeros(1, 1, device=device)]
    plan = build_plan(weights, [torch.zeros(1, 1, device=device)])
    out = torch.zeros(1, 3, 1, dtype=torch.float64, device=device)
    try:
        run(plan, plan.groups[0], weights, out, plan.zero, False)
    except Exception as error:  # whatever a compiler or a driver may raise
        return f"a trial of its kernels failed: {error!r}"
    return None

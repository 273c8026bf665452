"""torch's own step, for parameters that no kernel serves, with a copy that lives only during the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..errors import WeightScaleError
from ..graph_capture import is_capturing
from ..ops.backends import run_plan
from ..ops.plan import build_plan, sum_dtype
from ..weights.layers import check_weights
from ..weights.snapshot import copy_to_arenas
from .table import local


def take(
    optimizer: Optimizer, step: Callable[[], Any], stepped: Sequence[list[Tensor]], K: int
) -> list[tuple[list[Tensor], Tensor]]:
    """Step some parameters as torch does.

    Args:
        optimizer: whose parameters they are.
        step: torch's step of the optimizer.
        stepped: of each group, the parameters.
        K: how many sums; 0 for none.

    Returns:
        For each device its parameters [P] and their sums [K, P].
    """
    by_device: dict[torch.device, list[Tensor]] = {}
    if K:
        for parameter in (parameter for parameters in stepped for parameter in parameters if _is_readable(parameter)):
            by_device.setdefault(local(parameter).device, []).append(parameter)
    for device in by_device:
        if is_capturing(device):
            raise WeightScaleError(
                f"the sums of a step on {device} cannot be added up while a CUDA graph is captured: make the monitor "
                "after the capture, or record with a torch.optim optimizer"
            )
    copies = {
        device: copy_to_arenas([local(parameter).detach() for parameter in parameters])[1]
        for device, parameters in by_device.items()
    }
    with _only(optimizer, stepped):
        _without_hooks(step)(optimizer)
    return [
        (parameters, _sums([local(parameter).detach() for parameter in parameters], copies[device], K))
        for device, parameters in by_device.items()
    ]


def _is_readable(parameter: Tensor) -> bool:
    """Whether the pass can read the weights. It cannot read those of quantized parameters."""
    try:
        check_weights("", local(parameter))
    except (TypeError, ValueError):
        return False
    return True


def _sums(cur: list[Tensor], prev: list[Tensor], K: int) -> Tensor:
    plan = build_plan(cur, prev)
    out = torch.zeros(1, K, len(cur), dtype=sum_dtype(plan.device), device=plan.device)
    run_plan(plan, cur, out, plan.zero, update=False)
    plan.retire()
    return out[0]


@contextmanager
def _only(optimizer: Optimizer, stepped: Sequence[list[Tensor]]) -> Iterator[None]:
    """Leave only these parameters in the optimizer's groups for a while."""
    groups = list(optimizer.param_groups)
    all_of_them = [group["params"] for group in groups]
    try:
        for group, parameters in zip(groups, stepped, strict=True):
            group["params"] = parameters
        yield
    finally:
        for group, parameters in zip(groups, all_of_them, strict=True):
            group["params"] = parameters


def _without_hooks(step: Callable[[], Any]) -> Callable[[Optimizer], Any]:
    """torch's step without the hooks around it: they run around the step of this package's class."""
    function = step.__func__  # type: ignore[attr-defined]
    while getattr(function, "hooked", False):
        function = function.__wrapped__
    return function  # type: ignore[no-any-return]

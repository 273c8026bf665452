"""start_monitor: a monitor that starts or continues together with a framework's training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..monitor import RWCMonitor


def start_monitor(
    model: nn.Module,
    optimizer: Optimizer | None,
    *,
    step: int,
    state: Mapping[str, Any] | None,
    earlier: RWCMonitor | None = None,
    again: bool = False,
    **options: Any,
) -> RWCMonitor:
    """A monitor that begins a record if `step` is 0, and continues one otherwise.

    Args:
        model: the network with its weights at `step`.
        optimizer: as for `RWCMonitor`.
        step: the number of steps so far. If it is 0, an existing run folder is an error.
        state: the return value of `RWCMonitor.checkpoint_state` from the checkpoint that training continues from.
        earlier: if there is no state, the monitor whose record continues. The next row compares with the model's
            current weights, because other code may have changed them. If this is None too, the next row follows `step`.
        again: training repeats the first steps. An existing run folder is continued, and its rows after `step` are
            deleted.
        options: further arguments of `RWCMonitor`.
    """
    if not step and not again:
        return RWCMonitor(model, optimizer, **options)
    monitor = RWCMonitor(model, optimizer, resume=options.get("run_dir") is not None, **options)
    if state is None:
        state = (
            {**monitor.state_dict(), "step": step, "written": 0}
            if earlier is None
            else {**earlier.state_dict(), "weights": None}
        )
    monitor.load_state_dict(state)
    return monitor

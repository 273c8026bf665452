"""start_monitor: the monitor that goes on from where a framework's training does."""

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
    """A monitor that begins a record at step 0 and goes on with one at any other.

    Args:
        model: its weights are those at `step`.
        optimizer: as for `RWCMonitor`.
        step: the steps done so far; where there are none, an existing run folder is an error.
        state: what `RWCMonitor.checkpoint_state` put into the checkpoint that training goes on from.
        earlier: without a state, the monitor to go on from, but with the weights of now: someone may have changed them.
            Without it, too, the record goes on at `step`.
        again: the first steps are done once more: what an existing run folder has of them is dropped.
        options: the others of `RWCMonitor`.
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

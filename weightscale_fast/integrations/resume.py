"""A monitor's part of a framework's checkpoint, and the monitor that goes on from there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..layers import select_layers
from ..monitor import RWCMonitor


def checkpoint_state(monitor: RWCMonitor) -> dict[str, Any]:
    """The monitor's `state_dict()`, without the previous weights where the model's are the same.

    They are after every recorded step, unless something else than the optimizer changed them since, as the clipping of
    a critic's weights. The checkpoint holds the model's, so that the record then adds next to nothing to it.

    Of several processes they are always left out: the frameworks save what the first of them says, and give it to all,
    while each has a share of the weights that no other has. A collective call.
    """
    state = monitor.state_dict()
    if monitor.is_shared:
        return {**state, "weights": None}
    weights = state["weights"]
    current = select_layers(monitor.model, lambda name, _: name in weights)
    if all(type(now) is nn.Parameter and torch.equal(now, weights[name]) for name, now in current.items()):
        state["weights"] = None
    return state


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
        state: what `checkpoint_state` put into the checkpoint that training goes on from.
        earlier: without a state, the monitor to go on from, but with the weights of now: someone may have changed them.
            Without it, too, the record goes on at `step`.
        again: the first steps are done once more: what an existing run folder has of them is dropped.
        options: the others of `RWCMonitor`.
    """
    if not step and not again:
        return RWCMonitor(model, optimizer, **options)
    monitor = RWCMonitor(model, optimizer, resume=options.get("run_dir") is not None, **options)
    if state is None:
        state = {**monitor.state_dict(), "step": step} if earlier is None else {**earlier.state_dict(), "weights": None}
    monitor.load_state_dict(state)
    return monitor

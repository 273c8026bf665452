"""start_monitor: a monitor that starts or continues together with a framework's training."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..errors import WeightScaleError
from ..monitor import RWCMonitor
from ..record.new_run import ADVICE, local_path

# The ways out that a callback has. It has no argument `resume`.
CALLBACK_ADVICE = (
    'pass another run_dir, exist="next" to record beside it, or exist="overwrite" to replace it; or continue its '
    "training from a checkpoint"
)

_started: weakref.WeakSet[RWCMonitor] = weakref.WeakSet()


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
        step: the number of steps so far. If it is 0, `exist` says what happens to an existing run folder.
        state: the return value of `RWCMonitor.checkpoint_state` from the checkpoint that training continues from.
        earlier: the monitor whose record continues, in its folder. If there is no state, the next row compares with
            the model's current weights, because other code may have changed them. If this is None too, the next row
            follows `step`.
        again: training repeats the first steps. An existing run folder is continued, and its rows after `step` are
            deleted.
        options: further arguments of `RWCMonitor`.
    """
    continues = bool(step) or again
    if continues and earlier is not None and earlier.run_dir is not None:
        options["run_dir"] = earlier.run_dir  # with exist="next" it is not the folder that was asked for
    if continues:
        options |= {"exist": "error", "resume": options.get("run_dir") is not None}
    if options.get("exist") != "next":
        _end_earlier(options.get("run_dir"))
    try:
        monitor = RWCMonitor(model, optimizer, **options)
    except WeightScaleError as error:
        error.args = (str(error).replace(ADVICE, CALLBACK_ADVICE),)
        raise
    _started.add(monitor)
    if continues:
        _load(monitor, state, step, earlier)
    return monitor


def _load(monitor: RWCMonitor, state: Mapping[str, Any] | None, step: int, earlier: RWCMonitor | None) -> None:
    try:
        if state is None:
            state = (
                {**monitor.state_dict(), "step": step, "written": 0}
                if earlier is None
                else {**earlier.state_dict(), "weights": None}
            )
        monitor.load_state_dict(state)
    except BaseException as error:
        monitor.abandon()
        if isinstance(error, ValueError):
            error.args = (str(error).replace(", and resume=True", ""),)
        raise


def _end_earlier(run_dir: Any) -> None:
    """End the monitors of earlier trainings that record to this folder: their training failed, and nobody closed them.

    All their rows are kept.
    """
    if run_dir is not None:
        for earlier in list(_started):
            if earlier.run_dir == local_path(run_dir):
                earlier.abandon()

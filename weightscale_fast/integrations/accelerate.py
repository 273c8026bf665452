"""RWCState: a monitor's state in the checkpoints of Accelerate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..monitor import RWCMonitor


class RWCState:
    """An object for `accelerator.register_for_checkpointing`: checkpoints then contain the record too.

    Accelerate saves the state of the first process only, and every process loads it. But each process has the previous
    weights of its own share only. So this class saves `RWCMonitor.checkpoint_state`, which every process can load.

    Args:
        monitor: the monitor of the prepared model.

    Example:
        `accelerator.register_for_checkpointing(RWCState(monitor))`
    """

    def __init__(self, monitor: RWCMonitor) -> None:
        self._monitor = monitor

    def state_dict(self) -> dict[str, Any]:
        """The monitor's part of a checkpoint. Every process must call this."""
        return self._monitor.checkpoint_state()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go back to the moment of `state_dict()`; see `RWCMonitor.load_state_dict`."""
        self._monitor.load_state_dict(state_dict)

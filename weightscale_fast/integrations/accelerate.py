"""RWCState: a monitor's state in the checkpoints of Accelerate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..monitor import RWCMonitor


class RWCState:
    """What `accelerator.register_for_checkpointing` takes, so that `save_state` and `load_state` hold the record too.

    Accelerate keeps what the first process says and tells it to all of them, while each has the previous weights of its
    own share: see `RWCMonitor.checkpoint_state`.

    Args:
        monitor: of the prepared model.

    Example:
        `accelerator.register_for_checkpointing(RWCState(monitor))`
    """

    def __init__(self, monitor: RWCMonitor) -> None:
        self._monitor = monitor

    def state_dict(self) -> dict[str, Any]:
        """The monitor's part of a checkpoint; every process must call it."""
        return self._monitor.checkpoint_state()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go back to the moment of `state_dict()`; see `RWCMonitor.load_state_dict`."""
        self._monitor.load_state_dict(state_dict)

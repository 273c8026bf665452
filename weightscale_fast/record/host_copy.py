"""HostCopy: tensors on their way to the host. On a GPU nobody waits for them."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from ..graph_capture import is_capturing


class HostCopy:
    """Copies of tensors of one device, on the host. On a GPU they go to pinned memory, after the current stream's work.

    Attributes:
        tensors: the copies. Read them only after `has_arrived` or `wait`.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self._device = tensors[0].device
        self._process = os.getpid()
        self._done: torch.cuda.Event | None = None  # the end of the copy; None if it is done
        if self._device.type == "cuda":
            self.tensors = tuple(_to_pinned(tensor) for tensor in tensors)
            self._done = torch.cuda.current_stream(self._device).record_event()
        else:
            self.tensors = tuple(tensor.to("cpu", copy=True) for tensor in tensors)

    def has_arrived(self) -> bool:
        """Whether the copies are there. It does not wait.

        Nobody may ask the device while a CUDA graph is captured, nor in a forked child. It is then False.
        """
        if self._done is None:
            return True
        if os.getpid() != self._process:
            return False
        return not is_capturing(self._device) and bool(self._done.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Wait for the copies."""
        if self._done is not None and not self.has_arrived():
            self._done.synchronize()


def _to_pinned(tensor: Tensor) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    return host.copy_(tensor, non_blocking=True)

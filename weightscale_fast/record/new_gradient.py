"""NewGradient: when a parameter got a gradient that is not 0. The host does not wait for a GPU."""

from __future__ import annotations

from torch import Tensor
from torch.utils.weak import TensorWeakRef

from ..graph_capture import is_capturing
from .host_copy import HostCopy


class NewGradient:
    """When a gradient that is not 0 came, after this object was made. A stale one does not count.

    Args:
        grad: the gradient now.
    """

    def __init__(self, grad: Tensor | None) -> None:
        self._seen = _mark(grad)
        self._asked: list[tuple[int, HostCopy]] = []  # whether the gradient of that look has a value that is not 0
        self._came: int | None = None

    def look(self, grad: Tensor | None, step: int) -> int | None:
        """Look at the gradient after `step`. Returns the step of the first look that found one; None if none did.

        A GPU's answer comes at a later look.
        """
        if grad is not None and not self._is_seen(grad):
            self._seen = _mark(grad)
            local = getattr(grad, "_local_tensor", grad)  # of a DTensor, without a collective call
            if local.is_sparse or is_capturing(local.device):
                self._came = step if self._came is None else self._came
            else:
                self._asked.append((step, HostCopy(local.any())))
        return self._answer()

    def wait(self) -> int | None:
        """As `look`, without a look; but a GPU is waited for."""
        for _, copy in self._asked:
            copy.wait()
        return self._answer()

    def _is_seen(self, grad: Tensor) -> bool:
        return self._seen is not None and self._seen[0]() is grad and self._seen[1] == grad._version

    def _answer(self) -> int | None:
        late = []
        for step, copy in self._asked:
            if not copy.has_arrived():
                late.append((step, copy))
            elif copy.tensors[0]:
                self._came = step if self._came is None else min(self._came, step)
        self._asked = late
        return self._came


def _mark(grad: Tensor | None) -> tuple[TensorWeakRef, int] | None:
    """What tells a gradient from a later one, also at the same address, and from itself after something wrote to it."""
    if grad is None or grad.is_inference():
        return None
    return TensorWeakRef(grad), grad._version

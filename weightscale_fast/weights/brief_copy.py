"""BriefCopy: a snapshot that gives its memory back between two steps."""

from __future__ import annotations

import torch
from torch import nn

from .snapshot import ALIGNMENT, Snapshot


class BriefCopy(Snapshot):
    """A snapshot whose memory exists only from `take` to `release`. A new one has it.

    The storages shrink to nothing, and the tensors stay. The plan of the pass has the places in the storages and not
    their addresses, so it stays good.

    Attributes:
        taken: whether it holds weights.

    Example:
        >>> model = nn.Linear(100, 10)
        >>> copy = BriefCopy(model)
        >>> copy.nbytes
        4256
        >>> copy.release()
        >>> copy.nbytes
        0
        >>> copy.take(model)
        >>> copy.nbytes
        4256
    """

    taken = True

    @torch.no_grad()
    @torch.inference_mode(False)  # the pass reads the copies later, in any mode
    def take(self, model: nn.Module) -> None:
        """Copy the weights of `model`.

        Raises:
            WeightScaleError: the model lacks one of the layers.
            ValueError: a layer's shape, dtype or device is no longer the one that it had.
        """
        self.taken = True
        try:
            for arena in self._arenas:
                arena.untyped_storage().resize_(arena.nbytes)
            if any(arena.data_ptr() % ALIGNMENT for arena in self._arenas):  # the plan needs the same phase as before
                self._plan = None
                self._copy([w.detach() for w in self.lookup_in(model)()[0]])
            _, cur = self.plan_for(model)
            torch._foreach_copy_(self._weights, [w.detach() for w in cur])
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Give the memory back. What a GPU still has to read is safe: PyTorch gives it to later work of this stream."""
        self.taken = False
        for arena in self._arenas:
            arena.untyped_storage().resize_(0)

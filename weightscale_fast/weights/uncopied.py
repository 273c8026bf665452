"""Uncopied: a snapshot without a copy, for an optimizer that adds up the sums itself."""

from __future__ import annotations

from torch import Tensor

from .snapshot import Snapshot


class Uncopied(Snapshot):
    """Knows the layers and finds them in a model. Its previous weights are the model's own, so it takes no memory.

    Example:
        >>> from torch import nn
        >>> Uncopied(nn.Linear(100, 10))
        Uncopied(1 layers, 1,000 weights, 0 bytes)
    """

    def forget(self) -> None:
        """Do not hold the weights that the model had at first."""
        self._weights, self._plan = [], None

    def _copy(self, weights: list[Tensor]) -> None:
        self._arenas, self._weights = [], weights

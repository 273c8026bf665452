"""KeptGradient: whether the loop keeps gradients from one step to the next."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.utils.weak import TensorWeakRef


class KeptGradient:
    """Remembers one gradient at the end of a step, and looks before the next whether the layer still has it."""

    def __init__(self) -> None:
        self._marked: tuple[int, TensorWeakRef] | None = None  # a layer, and its gradient

    def restart(self) -> None:
        """Forget the gradient."""
        self._marked = None

    def mark(self, parameters: Mapping[int, nn.Parameter]) -> None:
        """Remember a gradient of these layers."""
        for place, parameter in parameters.items():
            if parameter.grad is not None and not parameter.grad.is_inference():
                self._marked = place, TensorWeakRef(parameter.grad)
                return

    @property
    def is_marked(self) -> bool:
        return self._marked is not None

    def look(self, parameters: Mapping[int, nn.Parameter]) -> bool | None:
        """Whether the layer still has the gradient; None if it has none now."""
        assert self._marked is not None
        (place, before), self._marked = self._marked, None
        parameter = parameters.get(place)
        return None if parameter is None or parameter.grad is None else before() is parameter.grad

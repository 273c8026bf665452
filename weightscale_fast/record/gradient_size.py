"""GradientSize: how large the gradients are, without waiting for a device."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from .host_copy import HostCopy

SOME = 16  # layers whose gradient is measured


class GradientSize:
    """Measures the mean absolute gradient of some layers."""

    def __init__(self) -> None:
        self._sizes: HostCopy | None = None  # one of each measured layer; None if nothing is under way

    def restart(self) -> None:
        """Forget what is under way."""
        self._sizes = None

    def measure(self, parameters: Iterable[nn.Parameter]) -> None:
        """Begin to measure, if all gradients are on one device."""
        gradients = [g for p in parameters if (g := dense_gradient(p)) is not None and g.numel()]
        some = gradients[:: max(len(gradients) // SOME, 1)]
        if some and len({g.device for g in some}) == 1:
            self._sizes = HostCopy(torch.stack([g.detach().abs().mean(dtype=torch.float32) for g in some]))

    def collect(self) -> float | None:
        """The median over the layers, once it has arrived; else None."""
        if self._sizes is None or not self._sizes.has_arrived():
            return None
        size = float(np.median(self._sizes.tensors[0].numpy()))
        self._sizes = None
        return size if np.isfinite(size) else None


def dense_gradient(parameter: nn.Parameter) -> Tensor | None:
    """The gradient on this process; None if there is none, or it is sparse."""
    gradient = getattr(parameter.grad, "_local_tensor", parameter.grad)  # of a DTensor, without a collective call
    return None if gradient is None or gradient.layout != torch.strided else gradient

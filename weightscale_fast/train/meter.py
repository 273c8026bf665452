"""Meter: loss and accuracy over batches, summed on the device."""

from __future__ import annotations

import torch
from torch import Tensor


class Meter:
    """The mean loss, and the shares of images whose class is the best guess (top-1) or among the five best (top-5).

    Letters: N images of a batch, C classes.

    Example:
        >>> meter = Meter("cpu")
        >>> meter.add(torch.tensor(0.5), torch.eye(6), torch.tensor([0, 1, 2, 3, 4, 0]))
        >>> meter.result()["top1"]
        0.8333...
    """

    def __init__(self, device: str) -> None:
        self.images = 0
        # The sums of the losses, of the top-1 hits and of the top-5 hits.
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, scores: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss, its scores [N, C] and its labels [N]. This does not wait for the device."""
        guesses = scores.topk(min(5, scores.shape[1])).indices  # [N, 5]
        right = guesses == labels[:, None]
        self._sums += torch.stack([loss.double() * len(labels), right[:, 0].sum().double(), right.sum().double()])
        self.images += len(labels)

    def result(self) -> dict[str, float]:
        """`loss`, `top1` and `top5` so far. This waits for the device."""
        loss, top1, top5 = (self._sums / max(1, self.images)).tolist()
        return {"loss": loss, "top1": top1, "top5": top5}

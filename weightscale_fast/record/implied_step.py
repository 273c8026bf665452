"""implied_step: how large a step an optimizer makes in units of its learning rate, whatever the gradients are."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer

# By the name of a class, so that the same methods of other packages are known.
ADAM = ("Adam", "NAdam", "RAdam", "FusedAdam", "DeepSpeedCPUAdam", "CPUAdam", "AdamW", "Adam8bit", "AdamW8bit")
SIGN = ("Lion", "SignSGD", "Signum", "Tiger")
MUON = ("Muon",)
MUON_LIKE_ADAM = 0.2


def implied_step(optimizer: Optimizer, group: dict[str, object], weights: Tensor) -> float | None:
    """The RMS of a step of these weights divided by the learning rate; None if the optimizer implies none.

    - Adam: sqrt((1 - beta1) / (1 + beta1)) where gradients are noise, 0.23 for beta1 = 0.9. It is the variance of an
      exponential mean of independent numbers.
    - Methods that step by a sign: 1.
    - Muon: its steps are orthogonal matrices A x B, whose entries have the RMS 1 / sqrt(max(A, B)), times sqrt(max(1,
      A / B)), or 0.2 with `match_rms_adamw`.
    - SGD and others: none, because the step is as large as the gradient.

    Example:
        >>> import torch
        >>> weights = torch.zeros(4, 16)
        >>> adam = torch.optim.AdamW([weights])
        >>> round(implied_step(adam, adam.param_groups[0], weights), 3)
        0.229
        >>> implied_step(torch.optim.SGD([weights]), {}, weights)
    """
    names = {cls.__name__ for cls in type(optimizer).__mro__}
    if not names.isdisjoint(SIGN):
        return 1.0
    if not names.isdisjoint(MUON) and weights.dim() == 2 and weights.numel():
        if group.get("adjust_lr_fn") == "match_rms_adamw":
            return MUON_LIKE_ADAM
        rows, columns = weights.shape
        return math.sqrt(max(1.0, rows / columns) / max(rows, columns))
    betas = group.get("betas")
    if not names.isdisjoint(ADAM) and isinstance(betas, (tuple, list)) and betas:
        beta1 = float(betas[0])
        return math.sqrt((1 - beta1) / (1 + beta1)) if 0 <= beta1 < 1 else None
    return None

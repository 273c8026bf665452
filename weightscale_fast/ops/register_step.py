"""The schema of the compiled step of an optimizer. csrc/cpu/optimizer_step.cpp implements it.

Letters: P parameters, G groups of the optimizer, K sums per parameter (3; 6 with those of L2; 7 with ratio_sum too; 0
for none).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .register import library

PARAMETER_ROWS = 11  # csrc/step_table.h
GROUP_ROWS = 7

# `parameters` contains the addresses of weights, gradients, states and step numbers. The step writes to them and to
# `sums`. The gradients are divided by `scale` [1]; by nothing if it is [0]. `register_bytes` is the size of the widest
# vector registers to use, if the processor has them.
library.define(  # type: ignore[no-untyped-call]
    "optimizer_step(Tensor parameters, Tensor groups, Tensor scale, Tensor(a!) sums, int register_bytes) -> ()"
)


def _optimizer_step_fake(
    parameters: Tensor,  # [11, P] int64
    groups: Tensor,  # [7, G] float64
    scale: Tensor,  # [1] or [0] float32
    sums: Tensor,  # [K, P] float64
    register_bytes: int,
) -> None:
    torch._check(parameters.size(0) == PARAMETER_ROWS, lambda: "parameters must be [11, P]")
    torch._check(groups.size(0) == GROUP_ROWS, lambda: "groups must be [7, G]")
    torch._check(sums.size(0) in (0, 3, 6, 7) and sums.size(1) == parameters.size(1), lambda: "sums must be [K, P]")


torch.library.register_fake("weightscale_fast::optimizer_step", _optimizer_step_fake, lib=library)

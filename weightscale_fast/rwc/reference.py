"""The `torch` backend: the definition of the sums in plain PyTorch, for every device and memory layout.

Letters: M layers of the model, K sums per layer, R rows of out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .plan import Group, Plan


def refusal(device: torch.device) -> str | None:
    """Why this backend cannot serve the device: it always can."""
    return None


def run(plan: Plan, group: Group, cur: Sequence[Tensor], out: Tensor, cursor: Tensor, update: bool) -> None:
    """Fill the group's columns of row `cursor` of out [R, K, M]; with `update`, prev <- cur."""
    run_layers(group.layers, cur, plan.prev, out, cursor, update)


@torch.no_grad()
def run_layers(
    layers: Sequence[int], cur: Sequence[Tensor], prev: Sequence[Tensor], out: Tensor, cursor: Tensor, update: bool
) -> None:
    """Fill the columns `layers` of row `cursor` of out [R, K, M], one layer after the other; cur [M], prev [M]."""
    row = cursor % out.shape[0]
    for i in layers:
        sums = layer_sums(cur[i], prev[i], with_ratio=out.shape[1] == 4, dtype=out.dtype)
        out[:, :, i].index_copy_(0, row, sums[None].to(out.device))
        if update:
            prev[i].copy_(cur[i])


def layer_sums(w: Tensor, p: Tensor, *, with_ratio: bool, dtype: torch.dtype = torch.float64) -> Tensor:
    """[K] delta_l1, prev_l1, moved (, ratio_sum) of one layer's weights `w` and previous weights `p`.

    16-bit weights become float32 before the subtraction, and every sum is taken in `dtype`. Never `norm(p=1)`: on the
    CPU it adds float32 to float32 and loses whole per cents on large tensors.
    """
    w, p = w.detach(), p.detach()
    wide = torch.promote_types(w.dtype, torch.float32)
    abs_prev = p.to(wide).abs()
    abs_delta = (w.to(wide) - p.to(wide)).abs()
    sums = [abs_delta.sum(dtype=dtype), abs_prev.sum(dtype=dtype), (w != p).sum().to(dtype)]
    if with_ratio:
        sums.append((abs_delta / abs_prev).sum(dtype=dtype))
    return torch.stack(sums)

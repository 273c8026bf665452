"""The `torch` backend: the definition of the sums in plain PyTorch, for every device and memory layout.

Letters: M layers of the model, K sums per layer, R rows of out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ratios import mean_ratio, norm_ratio
from .plan import Group, Plan


def refusal(device: torch.device) -> str | None:
    """Why this backend cannot serve the device: it always can."""
    return None


def run(
    plan: Plan, group: Group, cur: Sequence[Tensor], out: Tensor, rwc: Tensor, cursor: Tensor, update: bool
) -> None:
    """Fill the group's columns of row `cursor` of out [R, K, M] and of rwc [M]; with `update`, prev <- cur."""
    run_layers(group.layers, cur, plan.prev, out, cursor, update)
    if len(rwc):
        ratio = ratio_of_row(out, cursor, plan.numel)
        rwc.index_copy_(0, group.layer_row, ratio.index_select(0, group.layer_row))


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


def ratio_of_row(out: Tensor, cursor: Tensor, numel: Tensor) -> Tensor:
    """[M] float32: the RWC of every layer from row `cursor` of out [R, K, M], where `numel` [M] are the layers' sizes.

    norm_ratio where K is 3, mean_ratio where K is 4.
    """
    sums = out.index_select(0, cursor % out.shape[0])[0]
    return (mean_ratio(sums[3], numel) if len(sums) == 4 else norm_ratio(sums[0], sums[1])).float()


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

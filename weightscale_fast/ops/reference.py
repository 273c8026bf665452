"""The `torch` backend: the sums in plain PyTorch, for every device and memory layout. It defines what they are.

Letters: L layers of the model, K sums per layer, R rows of `out`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ratios import l2_ratio, mean_ratio, norm_ratio
from .plan import CHUNK, Group, Plan
from .sums import DELTA_L1, DELTA_SQ, PREV_L1, PREV_SQ, has_l2, has_ratio

AT_ONCE = 2**22  # weights that become float64 together, so that a layer of any size takes 32 MB for it


def refusal(device: torch.device) -> str | None:
    """None: this backend can serve every device."""
    return None


def run(
    plan: Plan, group: Group, cur: Sequence[Tensor], out: Tensor, rwc: Tensor, cursor: Tensor, update: bool
) -> None:
    """Fill the group's columns in row `cursor` of out [R, K, L], and in rwc [L]; with `update`, prev <- cur."""
    run_layers(group.layers, cur, plan.prev, out, cursor, update)
    if len(rwc):
        ratio = ratio_of_row(out, cursor, plan.numel)
        rwc.index_copy_(0, group.layer_row, ratio.index_select(0, group.layer_row))


@torch.no_grad()
def run_layers(
    layers: Sequence[int], cur: Sequence[Tensor], prev: Sequence[Tensor], out: Tensor, cursor: Tensor, update: bool
) -> None:
    """Fill the columns `layers` in row `cursor` of out [R, K, L], one layer at a time. cur [L], prev [L]."""
    row = cursor % out.shape[0]
    for i in layers:
        sums = one_layer_sums(cur[i], prev[i], K=out.shape[1], dtype=out.dtype)
        out[:, :, i].index_copy_(0, row, sums[None].to(out.device))
        if update:
            prev[i].copy_(cur[i])


def ratio_of_row(out: Tensor, cursor: Tensor, numel: Tensor) -> Tensor:
    """The RWC of every layer, [L] float32, from row `cursor` of out [R, K, L] and the layers' sizes `numel` [L].

    It is norm_ratio if K is 3, l2_ratio if K is 6, and mean_ratio if ratio_sum is there.
    """
    sums = out.index_select(0, cursor % out.shape[0])[0]
    if has_ratio(len(sums)):
        return mean_ratio(sums[-1], numel).float()
    if has_l2(len(sums)):
        return l2_ratio(sums[DELTA_SQ].sqrt(), sums[PREV_SQ].sqrt()).float()
    return norm_ratio(sums[DELTA_L1], sums[PREV_L1]).float()


def one_layer_sums(w: Tensor, p: Tensor, *, K: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The sums [K] of one layer with weights `w` and previous weights `p`, in the order of sums.py.

    16-bit weights become float32 before the subtraction, and every sum is taken in `dtype`. `norm(p=1)` would be wrong:
    on the CPU it accumulates in float32, which costs whole per cents on large tensors.
    """
    w, p = w.detach(), p.detach()
    wide = torch.promote_types(w.dtype, torch.float32)
    abs_prev = p.to(wide).abs()
    abs_delta = (w.to(wide) - p.to(wide)).abs()
    sums = [_total(abs_delta, dtype), _total(abs_prev, dtype), (w != p).sum().to(dtype)]
    if has_l2(K):
        largest = abs_delta.amax() if abs_delta.numel() else abs_delta.new_zeros(())
        sums += [_total_of_squares(abs_delta, dtype), _total_of_squares(abs_prev, dtype), largest.to(dtype)]
    if has_ratio(K):
        sums.append(_total(abs_delta / abs_prev, dtype))
    return torch.stack(sums)


def _total_of_squares(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum of the squares of all values, formed in `dtype`: a float32 square may be 0 or infinite."""
    parts = [_total(part.to(dtype).square(), dtype) for part in torch.split(values.reshape(-1), AT_ONCE)]
    return torch.stack(parts).sum()


def _total(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum of all values, with the same bits for any number of threads.

    PyTorch cuts a long sum into as many parts as there are threads. It adds up a short one, and each row of a matrix,
    on one thread.
    """
    flat = values.reshape(-1)
    if len(flat) <= CHUNK:
        return flat.sum(dtype=dtype)
    whole = len(flat) // CHUNK * CHUNK
    rows = flat[:whole].view(-1, CHUNK).sum(dim=1, dtype=dtype)
    return _total(rows, dtype) + flat[whole:].sum(dtype=dtype)

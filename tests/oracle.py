"""The sums in float64 throughout: what every backend is held against."""

import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.ops.sums import DELTA_MAX, DELTA_SQ, PREV_SQ

TOLERANCE = 1e-6  # relative, of every sum, for every dtype (design, section 7)


def oracle_sums(w: torch.Tensor, p: torch.Tensor, K: int = 7) -> torch.Tensor:
    """[K] delta_l1, prev_l1, moved; for K of 6 and 7 delta_sq, prev_sq, delta_max; for K of 4 and 7 ratio_sum."""
    w, p = w.detach().reshape(-1).double(), p.detach().reshape(-1).double()
    delta = (w - p).abs()
    sums = [delta.sum(), p.abs().sum(), (w != p).sum().double()]
    if K >= 6:
        sums += [delta.square().sum(), p.square().sum(), torch.cat([delta, delta.new_zeros(1)]).max()]
    return torch.stack([*sums, (delta / p.abs()).sum()] if K in (4, 7) else sums)


def oracle_of(after, before, K: int = 7) -> torch.Tensor:
    """[K, L] the sums of all layers."""
    return torch.stack([oracle_sums(w, p, K) for w, p in zip(after, before, strict=True)], dim=1)


def layer_sums_in_order(model, prev, **options) -> torch.Tensor:
    """[7, L] what `layer_sums` returns, in the order of `oracle_sums`; norms as squares."""
    found = wsf.layer_sums(model, prev, ratio_sum=True, l2=True, **options)
    sums = [found.delta_l1, found.prev_l1, found.moved, found.delta_l2, found.prev_l2, found.delta_max, found.ratio_sum]
    sums[DELTA_SQ], sums[PREV_SQ] = found.delta_l2.square(), found.prev_l2.square()
    assert sums[DELTA_MAX] is found.delta_max
    return torch.stack(sums)


def module_of(*tensors: torch.Tensor) -> nn.Module:
    """A module whose parameters w0, w1, ... are these very tensors, in their own memory layout."""
    module = nn.Module()
    for i, tensor in enumerate(tensors):
        module.register_parameter(f"w{i}", nn.Parameter(tensor))
    return module


def nudge(module: nn.Module, scale: float = 1e-3) -> None:
    """Move every weight a little, as a step would."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape).to(parameter.dtype) * scale)

"""The sums in float64 throughout: what every backend is held against."""

import torch
from torch import nn

TOLERANCE = 1e-6  # relative, of every sum, for every dtype (design, section 7)


def oracle_sums(w: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """[4] delta_l1, prev_l1, moved, ratio_sum."""
    w, p = w.detach(), p.detach()
    delta = (w.double() - p.double()).abs()
    return torch.stack([delta.sum(), p.double().abs().sum(), (w != p).sum().double(), (delta / p.double().abs()).sum()])


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

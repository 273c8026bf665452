"""The ways to compute RWC of a list of layers, each as well as it can be written; and the copy, the floor of them all.

Every rival leaves prev[i] equal to w[i], for so the next step begins.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import weightscale_fast as wsf

Step = Callable[[], Tensor | None]


def fast_rwc(model: nn.Module) -> tuple[Step, list[Tensor]]:
    """This package: one pass, from the model itself."""
    prev = wsf.snapshot(model)
    return lambda: wsf.fast_rwc(model, prev), prev._weights


def _clones(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    weights = [p.detach() for p in model.parameters()]
    return weights, [w.clone() for w in weights]


def copy(model: nn.Module) -> tuple[Step, list[Tensor]]:
    """prev.copy_(w) alone: two of the pass's three streams, and no number at the end."""
    weights, prev = _clones(model)

    def step() -> None:
        for w, p in zip(weights, prev, strict=True):
            p.copy_(w)

    return step, prev


def naive(model: nn.Module) -> tuple[Step, list[Tensor]]:
    """Eq. 1 as it is written, layer by layer."""
    weights, prev = _clones(model)

    def step() -> Tensor:
        values = []
        for w, p in zip(weights, prev, strict=True):
            values.append((w - p).abs().sum() / p.abs().sum())
            p.copy_(w)
        return torch.stack(values)

    return step, prev


def foreach(model: nn.Module) -> tuple[Step, list[Tensor]]:
    """PyTorch's multi-tensor functions, which its own optimizers use."""
    weights, prev = _clones(model)

    def step() -> Tensor:
        delta = torch._foreach_sub(weights, prev)
        delta_l1, prev_l1 = torch._foreach_norm(delta, 1), torch._foreach_norm(prev, 1)
        torch._foreach_copy_(prev, weights)
        return torch.stack(delta_l1) / torch.stack(prev_l1)

    return step, prev


def compiled(model: nn.Module) -> tuple[Step, list[Tensor]]:
    """The naive loop under torch.compile, which fuses it."""
    weights, prev = _clones(model)

    @torch.compile(dynamic=False)
    def loop(weights: list[Tensor], prev: list[Tensor]) -> Tensor:
        values = []
        for w, p in zip(weights, prev, strict=True):
            values.append((w - p).abs().sum() / p.abs().sum())
            p.copy_(w)
        return torch.stack(values)

    return lambda: loop(weights, prev), prev


RIVALS = {"fast_rwc": fast_rwc, "copy": copy, "naive": naive, "foreach": foreach, "torch.compile": compiled}

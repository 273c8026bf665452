"""Ways to compute the RWC of a list of layers, each as fast as we can write it, and a copy, which none can beat.

Every rival leaves prev[i] equal to w[i], because the next step needs that.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

import weightscale_fast as wsf

Step = Callable[[], Tensor | None]


def fast_rwc(model: nn.Module, backend: str | None = None) -> tuple[Step, list[Tensor]]:
    """This package: one pass over the weights of the model."""
    prev = wsf.snapshot(model)
    return lambda: wsf.fast_rwc(model, prev, backend=backend), prev._weights


def _clones(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    weights = [p.detach() for p in model.parameters()]
    return weights, [w.clone() for w in weights]


def copy(model: nn.Module) -> tuple[Step, list[Tensor]]:
    """prev.copy_(w) alone. It moves two of the three streams of the pass, and computes nothing."""
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
    """PyTorch's multi-tensor functions, which its optimizers use."""
    weights, prev = _clones(model)

    def step() -> Tensor:
        delta = torch._foreach_sub(weights, prev)
        delta_l1, prev_l1 = torch._foreach_norm(delta, 1), torch._foreach_norm(prev, 1)
        torch._foreach_copy_(prev, weights)
        return torch.stack(delta_l1) / torch.stack(prev_l1)

    return step, prev


def foreach_in_place(model: nn.Module) -> tuple[Step, list[Tensor]]:
    """The same without a temporary tensor: prev becomes the difference before it is updated."""
    weights, prev = _clones(model)

    def step() -> Tensor:
        prev_l1 = torch._foreach_norm(prev, 1)
        torch._foreach_sub_(prev, weights)
        delta_l1 = torch._foreach_norm(prev, 1)
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


@torch.no_grad()
def worst_error(model: nn.Module, step: Step, prev: list[Tensor]) -> float:
    """The largest relative error of a layer's RWC over one real step, against float64; NaN for the copy.

    Raises:
        AssertionError: the step did not update prev.
    """
    for p in model.parameters():
        p.mul_(1 + 1e-2 * torch.rand_like(p))
    expected = torch.stack([_exact(w, p) for w, p in zip(model.parameters(), prev, strict=True)])
    got = step()
    assert all(torch.equal(w, p) for w, p in zip(model.parameters(), prev, strict=True)), "prev was not updated"
    return math.nan if got is None else ((got - expected) / expected).abs().max().item()


def _exact(w: Tensor, p: Tensor) -> Tensor:
    """RWC in float64, computed part by part, because the layer may not fit in memory as float64."""
    delta = prev = torch.zeros((), dtype=torch.float64, device=w.device)
    for w_part, p_part in zip(w.split(4096), p.split(4096), strict=True):
        delta = delta + (w_part.double() - p_part.double()).abs().sum()
        prev = prev + p_part.double().abs().sum()
    return delta / prev


RIVALS = {"fast_rwc": fast_rwc, "copy": copy, "naive": naive, "foreach": foreach, "torch.compile": compiled}

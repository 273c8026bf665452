"""fast_rwc against its rivals on the weights of real networks, verified against float64 before it is timed."""

import math

import pytest
import torch
from cases import CASES, layers_of
from rivals import RIVALS

PASSES = 3  # read w, read prev, write prev: what the work needs


def expected_rwc(model, prev):
    return torch.stack(
        [
            (w.double() - p.double()).abs().sum() / p.double().abs().sum()
            for w, p in zip(model.parameters(), prev, strict=True)
        ]
    )


@torch.no_grad()
def worst_error(model, step, prev):
    """The largest relative error of a layer's RWC over one real step; NaN for the copy, which has none."""
    for p in model.parameters():
        p.mul_(1 + 1e-3 * torch.rand_like(p))
    expected = expected_rwc(model, prev)
    got = step()
    assert all(torch.equal(w, p) for w, p in zip(model.parameters(), prev, strict=True)), "prev was not moved on"
    return math.nan if got is None else ((got - expected) / expected).abs().max().item()


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("case", CASES)
def bench_rwc(benchmark, case, rival):
    if rival == "torch.compile" and case == "1,000 x 4,096":
        pytest.skip("compiling a list of 1,000 takes many minutes")
    torch.manual_seed(0)
    model = layers_of(case)
    step, prev = RIVALS[rival](model)
    error = worst_error(model, step, prev)
    if rival == "fast_rwc":
        assert error < 1e-6
    weights = sum(p.numel() for p in model.parameters())
    benchmark.group = case
    benchmark.extra_info.update(
        case=case,
        rival=rival,
        layers=len(list(model.parameters())),
        weights=weights,
        bytes=PASSES * 4 * weights,
        error=error,
    )
    benchmark(step)

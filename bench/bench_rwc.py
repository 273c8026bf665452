"""fast_rwc and its rivals on the weights of real networks. Each is checked against float64 before it is timed."""

import pytest
import torch
from cases import ON_CPU, layers_of
from rivals import RIVALS, worst_error

PASSES = 3  # over the weights, the least that the work needs: read w, read prev, write prev


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("case", ON_CPU)
def bench_rwc(benchmark, case, rival):
    if rival == "torch.compile" and case == "1,000 x 4,096":
        pytest.skip("torch.compile takes many minutes for a list of 1,000 layers")
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

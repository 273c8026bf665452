"""What the L2 sums and the largest change add to the pass, on the CPU.

    python bench/l2_cost.py [threads]

For each case and dtype the pass with 3, 4, 6 and 7 sums runs in turns on the same weights. Before it is timed, its sums
are compared with float64. Printed are the median milliseconds of 3 sums, and the ratios to it: the median, over the
rounds, of the ratio within one round, so that other work on the machine falls on both.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from cases import layers_of
from torch import Tensor

from weightscale_fast.ops.backends import choose_backend, run_plan
from weightscale_fast.ops.plan import build_plan
from weightscale_fast.ops.sums import DELTA_MAX, DELTA_SQ, NUMBERS, PREV_SQ, has_l2

CASES = ("resnet50", "efficientnet_b4", "vit_base_patch16_224", "1,000 x 4,096")
DTYPES = (torch.float32, torch.bfloat16)
ROUNDS = 60


def check(sums: Tensor, w: list[Tensor], p: list[Tensor]) -> None:
    """Raise unless the L2 rows of sums [K, L] are those of float64, to 1e-6."""
    delta = [(a.double() - b.double()).abs() for a, b in zip(w, p, strict=True)]
    for row, exact in (
        (DELTA_SQ, [d.square().sum() for d in delta]),
        (PREV_SQ, [b.double().square().sum() for b in p]),
        (DELTA_MAX, [d.max() for d in delta]),
    ):
        torch.testing.assert_close(sums[row], torch.stack(exact), rtol=1e-6, atol=0)


def measure(case: str, dtype: torch.dtype) -> dict[int, list[float]]:
    """The milliseconds of each round, for each number of sums."""
    torch.manual_seed(0)
    w = [parameter.detach() for parameter in layers_of(case, dtype=dtype).parameters()]
    p = [weights * 1.001 for weights in w]
    plan = build_plan(w, [weights.clone() for weights in p])
    outs = {K: torch.zeros(1, K, len(w), dtype=torch.float64) for K in NUMBERS}
    for K, out in outs.items():
        run_plan(plan, w, out, plan.zero, update=False)
        if has_l2(K):
            check(out[0], w, p)
    times: dict[int, list[float]] = {K: [] for K in NUMBERS}
    for _ in range(ROUNDS):
        for K, out in outs.items():
            start = time.perf_counter()
            run_plan(plan, w, out, plan.zero, update=True)
            times[K].append((time.perf_counter() - start) * 1e3)
    return {K: taken[5:] for K, taken in times.items()}


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads())
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    print(f"torch {torch.__version__}, {capability}, {threads} threads, {choose_backend(torch.device('cpu')).__name__}")
    print(f"{'case':22} {'dtype':>9} {'3 sums, ms':>11}" + "".join(f"{f'{K} / 3':>8}" for K in NUMBERS[1:]))
    for dtype in DTYPES:
        for case in CASES:
            times = measure(case, dtype)
            ratios = [statistics.median(a / b for a, b in zip(times[K], times[3], strict=True)) for K in NUMBERS[1:]]
            line = f"{case:22} {str(dtype).removeprefix('torch.'):>9} {statistics.median(times[3]):11.2f}"
            print(line + "".join(f"{ratio:8.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()

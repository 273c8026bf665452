"""Finds the launch settings for the GPU at hand: prints rows for weightscale_fast/rwc/tuning.py, to be committed.

    python bench/tune.py

It is the only place where settings are tried, on weights of its own: the pass writes in place.
"""

from __future__ import annotations

import itertools
import sys

import torch
from cases import layers_of

import weightscale_fast as wsf
from weightscale_fast.rwc import triton, tuning

BLOCKS, WARPS = (512, 1024, 2048, 4096), (4, 8)
CASES = ("resnet50", "1 x 64 M", "1,000 x 4,096")
DTYPES = (torch.bfloat16, torch.float32, torch.float64)


def seconds(case: str, dtype: torch.dtype, launch: tuning.Launch) -> float:
    """Median time of the recorded pass with these settings."""
    from triton.testing import do_bench

    model = layers_of(case, dtype=dtype, device="cuda")
    prev = wsf.snapshot(model)
    name = triton.architecture(torch.device("cuda", torch.cuda.current_device()))
    tuning.TABLE[name] = {**tuning.TABLE["sm"], dtype.itemsize: launch}
    return float(do_bench(lambda: wsf.layer_sums(model, prev, backend="triton"), return_mode="median")) / 1e3


def main() -> None:
    """Try every setting on every case; the best by the sum of its times relative to each case's best."""
    if not torch.cuda.is_available():
        sys.exit(f"tune.py needs a GPU, and torch {torch.__version__} finds none")
    name = triton.architecture(torch.device("cuda", torch.cuda.current_device()))
    for dtype in DTYPES:
        launches = [tuning.Launch(block, warps, 96) for block, warps in itertools.product(BLOCKS, WARPS)]
        times = [[seconds(case, dtype, launch) for case in CASES] for launch in launches]
        best = [min(column) for column in zip(*times, strict=True)]
        scores = [sum(t / b for t, b in zip(row, best, strict=True)) / len(CASES) for row in times]
        for score, launch, row in sorted(zip(scores, launches, times, strict=True)):
            cases = (f"{case}: {t * 1e6:.1f} us" for case, t in zip(CASES, row, strict=True))
            print(f"{name} {dtype} {launch} {score:.3f}", *cases)
        print(f"best: {dtype.itemsize}: {min(zip(scores, launches, strict=True))[1]}")


if __name__ == "__main__":
    main()

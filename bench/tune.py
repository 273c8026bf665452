"""Try launch settings of the Triton kernels, and print the results as JSON lines. `gpu_check.py --tune` runs this file.

    python bench/tune.py float32 cuda

Settings are tried only here, on separate weights, because the pass writes in place.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from cases import layers_of
from timing import captured, milliseconds

import weightscale_fast as wsf
from weightscale_fast.ops import plan, triton, tuning

TOLERANCE = 1e-6


class Trial(NamedTuple):
    """Settings to try, one after the other, and the weights to try them on."""

    cases: tuple[tuple[str, torch.dtype], ...]
    settings: tuple[Mapping[str, int], ...]  # arguments of `use`; the first are the current ones


def stage_1(*settings: tuple[int, int, int]) -> tuple[Mapping[str, int], ...]:
    return tuple({"kilobytes": kilobytes, "warps": warps, "stages": stages} for kilobytes, warps, stages in settings)


# A thread that has less than 16 bytes of a block loses the 16-byte loads: such settings are left out.
TRIALS = {
    "bfloat16": Trial(
        tuple((case, torch.bfloat16) for case in ("transformer 1.1 B", "resnet50", "1,000 x 4,096")),
        stage_1((4, 8, 4), (4, 8, 1), (4, 8, 3), (4, 8, 5), (2, 4, 4), (2, 4, 6), (8, 8, 3)),
    ),
    "float32": Trial(
        tuple((case, torch.float32) for case in ("1 x 64 M", "resnet50", "1,000 x 4,096")),
        stage_1((4, 8, 4), (4, 8, 1), (4, 8, 3), (4, 8, 5), (2, 4, 4), (4, 4, 4), (8, 8, 3)),
    ),
    "float64": Trial(
        tuple((case, torch.float64) for case in ("1 x 64 M", "resnet50", "1,000 x 4,096")),
        stage_1((4, 8, 4), (4, 8, 1), (4, 8, 3), (4, 4, 3)),
    ),
    "stage 2": Trial(
        (("1 x 1 G", torch.float32), ("1 x 64 M", torch.float32), ("1 x 16 M", torch.float32),
         ("resnet50", torch.float32), ("1,000 x 4,096", torch.float32)),
        tuple({"stage_2_block": block, "stage_2_warps": warps} for block, warps in
              ((0, 0), (32, 1), (64, 1), (256, 4), (2048, 32), (1024, 32), (1024, 16))),
    ),
    "chunk": Trial(
        (("transformer 1.1 B", torch.bfloat16), ("1 x 1 G", torch.float32), ("resnet50", torch.float32)),
        tuple({"chunk": chunk * 1024} for chunk in (16, 8, 32, 64)),
    ),
    "dependent": Trial(
        (("1 x 64 M", torch.float32), ("resnet50", torch.float32), ("1,000 x 4,096", torch.float32)),
        ({"dependent": 1}, {"dependent": 0}),
    ),
}  # fmt: skip


CHUNK, STAGE_1, STAGE_2 = plan.CHUNK, tuning.stage_1_options, tuning.stage_2_options


def use(
    *,
    kilobytes: int = 0,
    warps: int = 0,
    stages: int = 0,
    stage_2_block: int = 0,
    stage_2_warps: int = 0,
    chunk: int = CHUNK,
    dependent: int = 1,
) -> None:
    """Give the package these settings. A 0 stands for its own setting. Stage 2 is set for every plan."""

    def stage_1_options(architecture: str, element_size: int) -> tuning.Options:
        given = {"BLOCK": kilobytes * 1024 // element_size, "num_warps": warps, "STAGES": stages}
        return {**STAGE_1(architecture, element_size), **{name: value for name, value in given.items() if value}}

    def stage_2_options(architecture: str, most_chunks: int) -> tuning.Options:
        given = {"BLOCK": stage_2_block, "num_warps": stage_2_warps}
        options = {**STAGE_2(architecture, most_chunks), **{name: value for name, value in given.items() if value}}
        return options if dependent else {**options, "DEPENDENT": False, "launch_pdl": False}

    triton.stage_1_options, triton.stage_2_options = stage_1_options, stage_2_options
    plan.CHUNK = chunk


def device_milliseconds(case: str, dtype: torch.dtype, device: str) -> float:
    """Check the sums of the pass, and then return its time on the device, from a CUDA graph."""
    torch.manual_seed(0)
    model = layers_of(case, dtype=dtype, device=device)
    prev = wsf.snapshot(model)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + 1e-2 * torch.rand_like(p))
    expected = torch.stack(wsf.layer_sums(model, prev, update=False, backend="torch")[:3])
    sums = torch.stack(wsf.layer_sums(model, prev, backend="triton")[:3])
    torch.testing.assert_close(sums, expected, rtol=TOLERANCE, atol=0)
    replay = captured(lambda: wsf.layer_sums(model, prev, backend="triton"), device)
    return milliseconds(replay, device)


def run(trial: Trial, device: str) -> bool:
    """Print a line for each choice of settings and each case. Returns whether all of them worked."""
    failures = 0
    for settings in trial.settings:
        for case, dtype in trial.cases:
            row: dict[str, Any] = {"settings": settings, "case": case, "dtype": str(dtype).removeprefix("torch.")}
            try:
                use(**settings)
                row["device_ms"] = device_milliseconds(case, dtype, device)
            except Exception as error:
                row["failed"] = f"{type(error).__name__}: {error}"
                failures += 1
            print(json.dumps(row), flush=True)
            if device == "cuda":
                torch.cuda.empty_cache()
    return not failures


if __name__ == "__main__":
    name, device = sys.argv[1:]
    trial = TRIALS[name]
    if device == "cpu":  # a dry run in the interpreter
        trial = Trial(
            tuple(("tiny", dtype) for dtype in dict.fromkeys(dtype for _, dtype in trial.cases)), trial.settings
        )
    sys.exit(not run(trial, device))

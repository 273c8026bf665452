"""Try launch settings of the Triton kernels, and print the results as JSON lines. `gpu_check.py --tune` runs this file.

    python bench/tune.py float32 cuda

Settings are tried only here, on separate weights, because the pass writes in place. `num_stages` is not tried: the
loops of the kernels do not ask for a pipeline, so it would change nothing.
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
    return tuple({"block": block, "warps": warps, "registers": registers} for block, warps, registers in settings)


# A thread that has more weights at a time needs more registers; with fewer it would spill. Two kinds of settings are
# left out: those that lose the 16-byte loads, because a thread has less than 16 bytes of a block, and those that spill,
# such as float64 4096 x 4.
TRIALS = {
    "bfloat16": Trial(
        tuple((case, torch.bfloat16) for case in ("transformer 1.1 B", "resnet50", "1,000 x 4,096")),
        stage_1((1024, 4, 72), (2048, 8, 72), (2048, 4, 128)),
    ),
    "float32": Trial(
        tuple((case, torch.float32) for case in ("1 x 64 M", "resnet50", "1,000 x 4,096")),
        stage_1((1024, 4, 72), (1024, 8, 72), (2048, 8, 72), (2048, 4, 128)),
    ),
    "float64": Trial(
        tuple((case, torch.float64) for case in ("1 x 64 M", "resnet50", "1,000 x 4,096")),
        stage_1((512, 4, 72), (1024, 8, 72), (1024, 4, 128)),
    ),
    "stage 2": Trial(
        (("1 x 1 G", torch.float32), ("1 x 64 M", torch.float32), ("1 x 16 M", torch.float32),
         ("resnet50", torch.float32), ("1,000 x 4,096", torch.float32)),
        tuple({"stage_2_block": block, "stage_2_warps": warps} for block, warps in
              ((256, 4), (2048, 32), (1024, 32), (1024, 16), (4096, 32))),
    ),
    "chunk": Trial(
        (("transformer 1.1 B", torch.bfloat16), ("1 x 1 G", torch.float32), ("resnet50", torch.float32)),
        tuple({"chunk": chunk * 1024} for chunk in (16, 32, 64)),
    ),
    "registers": Trial(
        (("transformer 1.1 B", torch.bfloat16), ("resnet50", torch.float32)),
        ({"registers": 72}, {"registers": 64}, {"registers": 56}),
    ),
}  # fmt: skip


CHUNK, FEW, MANY, REGISTERS = plan.CHUNK, tuning.FEW, dict(tuning.MANY), tuning.REGISTERS[False]


def use(
    device: str,
    *,
    block: int = 0,
    warps: int = 0,
    registers: int = REGISTERS,
    stage_2_block: int = 0,
    stage_2_warps: int = 0,
    chunk: int = CHUNK,
) -> None:
    """Give the package these settings. A block of 0 stands for its own setting. Stage 2 is set for every plan."""
    name = triton.architecture(torch.device(device, 0))
    tuning.TABLE.pop(name, None)
    if block:
        tuning.TABLE[name] = dict.fromkeys(tuning.TABLE["sm"], tuning.Launch(block, warps))
    stage_2 = tuning.Launch(stage_2_block, stage_2_warps) if stage_2_block else None
    tuning.FEW = stage_2 or FEW
    tuning.MANY.update(dict.fromkeys(MANY, stage_2) if stage_2 else MANY)
    tuning.REGISTERS[False] = registers
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
                use(device, **settings)
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

"""Tries launch settings of the Triton kernels and prints the results as JSON lines; `gpu_check.py --tune` runs it.

    python bench/tune.py float32 cuda

It is the only place where settings are tried, on weights of its own: the pass writes in place. What is tried are plain
settings. `num_stages` is not among them: the kernels' loops do not ask for a pipeline, so that it changes nothing.
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
from weightscale_fast.rwc import plan, triton, tuning

TOLERANCE = 1e-6


class Trial(NamedTuple):
    """Settings to try, one after the other, on some weights."""

    cases: tuple[tuple[str, torch.dtype], ...]
    settings: tuple[Mapping[str, int], ...]  # of `use`; the first are today's


def stage_1(*blocks_and_warps: tuple[int, int]) -> tuple[Mapping[str, int], ...]:
    return tuple({"block": block, "warps": warps} for block, warps in blocks_and_warps)


# Left out is what loses the 16-byte loads (less than 16 bytes of a block a thread) or spills (float64 4096 x 4).
TRIALS = {
    "bfloat16": Trial(
        tuple((case, torch.bfloat16) for case in ("transformer 1.1 B", "resnet50", "1,000 x 4,096")),
        stage_1((1024, 4), (2048, 8), (2048, 4)),
    ),
    "float32": Trial(
        tuple((case, torch.float32) for case in ("1 x 64 M", "resnet50", "1,000 x 4,096")),
        stage_1((1024, 4), (1024, 8), (2048, 8), (2048, 4)),
    ),
    "float64": Trial(
        tuple((case, torch.float64) for case in ("1 x 64 M", "resnet50", "1,000 x 4,096")),
        stage_1((512, 4), (1024, 8), (1024, 4)),
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
        ({}, {"maxnreg": 56}, {"maxnreg": 48}),
    ),
}  # fmt: skip


# What `use` changes, as it was.
STAGES = [(module, name, launch) for module in (tuning, triton) for name, launch in vars(module).items()
          if name.startswith("STAGE_2") and isinstance(launch, tuning.Launch)]  # fmt: skip
CHUNK = plan.CHUNK


def use(
    device: str,
    *,
    block: int = 0,
    warps: int = 0,
    stage_2_block: int = 0,
    stage_2_warps: int = 0,
    chunk: int = CHUNK,
    maxnreg: int = 0,
) -> None:
    """Give the package these settings; 0 is what it ships. A setting of stage 2 holds for every plan."""
    if stage_2_block and not STAGES:
        raise LookupError("tune.py sets the launch settings called STAGE_2... in tuning.py, and there are none")
    if block:
        name = triton.architecture(torch.device(device, 0))
        tuning.TABLE[name] = {
            size: launch._replace(block=block, num_warps=warps) for size, launch in tuning.TABLE["sm"].items()
        }
    for module, name, launch in STAGES:
        chosen = launch._replace(block=stage_2_block, num_warps=stage_2_warps) if stage_2_block else launch
        setattr(module, name, chosen)
    tuning.OPTIONS.pop("maxnreg", None)
    tuning.OPTIONS.update({"maxnreg": maxnreg} if maxnreg else {})
    plan.CHUNK = chunk


def device_milliseconds(case: str, dtype: torch.dtype, device: str) -> float:
    """Time on the device of the recorded pass, after a look at its sums."""
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
    """A line for every settings and case, the settings' turn by turn. Whether all of them worked."""
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
    if device == "cpu":  # a dry run, interpreted
        trial = Trial(
            tuple(("tiny", dtype) for dtype in dict.fromkeys(dtype for _, dtype in trial.cases)), trial.settings
        )
    sys.exit(not run(trial, device))

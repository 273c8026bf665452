"""Measure one thing on a device, and print the results as JSON lines. gpu_check.py runs this file.

python bench/gpu_cases.py case resnet50 float32 cuda triton cuda copy ...
python bench/gpu_cases.py copy cuda
python bench/gpu_cases.py host cuda
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import rivals
import torch
from cases import SHAPES, layers_of
from timing import captured, host_microseconds, milliseconds, milliseconds_back_to_back
from torch import nn

import weightscale_fast as wsf

OURS = ("triton", "cuda", "torch")
WAYS = {**rivals.RIVALS, "foreach in place": rivals.foreach_in_place}
TOLERANCE = 1e-6
SMALL = 100_000_000  # weights; up to this number the host may be slower than the device, so both are timed separately


def case(name: str, dtype: str, device: str, *ways: str) -> bool:
    """Check and then time each way to compute the case, and print a line for each. Returns whether all worked."""
    shared = {"case": name, "dtype": dtype}
    element, weights = getattr(torch, dtype), sum(math.prod(shape) for shape in SHAPES[name])
    ceiling, bytes_needed = flat_copy(weights * 3 // 2, element, device, small=weights <= SMALL)
    report({**shared, "way": "flat copy", "weights": weights, **ceiling, **rate(ceiling, bytes_needed)})
    failures = 0
    for way in ways:
        row: dict[str, Any] = {**shared, "way": way, "weights": weights}
        try:
            measure(row, way, name, element, device)
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {error}"
            failures += 1
        report(row)
        torch._dynamo.reset()
        if device == "cuda":
            torch.cuda.empty_cache()
    return not failures


def measure(row: dict[str, Any], way: str, name: str, dtype: torch.dtype, device: str) -> None:
    """Fill the row with the times and the error of one way."""
    torch.manual_seed(0)
    model = layers_of(name, dtype=dtype, device=device)
    step, prev = rivals.fast_rwc(model, way) if way in OURS else WAYS[way](model)
    error = rivals.worst_error(model, step, prev)
    row["error"] = None if math.isnan(error) else error
    if way in OURS and not error <= TOLERANCE:
        raise ValueError(f"the sums must be within {TOLERANCE} of float64, the worst is off by {error:.1e}")
    with torch.no_grad():  # as in the check before; otherwise torch.compile would compile another program
        row.update(times(step, device, small=row["weights"] <= SMALL))
    row.update(rate(row, 3 * row["weights"] * dtype.itemsize))
    if way == "torch.compile":
        row["compiled"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]


def times(step: rivals.Step, device: str, *, small: bool) -> dict[str, float]:
    """The time of a step. For small weights, also the time of the device alone and of the host alone."""
    result = {"ms": milliseconds(step, device)}
    if small:
        result["host_us"] = host_microseconds(step, device)
        replay = captured(step, device)
        result["device_ms"] = milliseconds(replay, device)
        result["warm_ms"] = milliseconds_back_to_back(replay, device)
    return result


def rate(times: dict[str, Any], bytes_needed: int) -> dict[str, float]:
    """GB/s of the device, from its own time if that was measured."""
    return {"gb_per_s": bytes_needed / times.get("device_ms", times["ms"]) / 1e6}


def flat_copy(elements: int, dtype: torch.dtype, device: str, *, small: bool) -> tuple[dict[str, float], int]:
    """The times of one copy, and the bytes that it moves. Nothing that moves as many bytes can be faster."""
    flat = torch.ones(elements, dtype=dtype, device=device)
    other = torch.empty_like(flat)
    return times(lambda: other.copy_(flat), device, small=small), 2 * flat.nbytes


def copy(device: str) -> bool:
    """Time a copy of 2 GB: the best bandwidth of the device's memory."""
    measured, moved = flat_copy(500_000_000 if device == "cuda" else 1_000, torch.float32, device, small=False)
    report({**measured, **rate(measured, moved)})
    return True


def host(device: str) -> bool:
    """Time the host for a step of 1,000 layers that are so small that the device has almost nothing to do."""
    model = nn.Module()
    for i in range(1_000):
        model.register_parameter(f"w{i}", nn.Parameter(torch.randn(4, 4, device=device)))
    prev, monitor = wsf.snapshot(model), wsf.RWCMonitor(model)
    for name, step in (("fast_rwc", lambda: wsf.fast_rwc(model, prev)), ("record", monitor.record)):
        for _ in range(20):
            step()
        report({"host": name, "us": host_microseconds(step, device)})
    return True


def report(row: dict[str, Any]) -> None:
    """Print a result at once, so that it is kept if this process is killed."""
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    sys.exit(not {"case": case, "copy": copy, "host": host}[what](*arguments))

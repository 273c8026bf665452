"""The time of a step: from CUDA events on a GPU, and from the clock elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

Call = Callable[[], Any]


def milliseconds(step: Call, device: str) -> float:
    """The median time of a step that Python calls. A GPU's L2 cache is cold. A slow host shows in small steps."""
    if device == "cuda":
        from triton.testing import do_bench

        return float(do_bench(step, warmup=20, rep=200, return_mode="median"))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return median(times) * 1e3


def captured(step: Call, device: str) -> Call:
    """The step as a CUDA graph, whose replay takes almost no time of the host. Without a GPU, the step itself."""
    if device != "cuda":
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def milliseconds_back_to_back(step: Call, device: str, steps: int = 50) -> float:
    """The time of one of many steps that follow at once, so that small weights stay in the GPU's L2 cache."""
    if device != "cuda":
        return milliseconds(step, device)
    times = []
    for _ in range(5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(steps):
            step()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / steps)
    return float(median(times))


def host_microseconds(step: Call, device: str, steps: int = 20) -> float:
    """The time until a call returns. The device is idle before every `steps` calls."""
    times = []
    for _ in range(10):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        times.append((time.perf_counter() - start) / steps * 1e6)
    return median(times)

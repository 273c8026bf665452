"""What `check_health` finds in recorded runs. In a healthy run, each finding is a false alarm.

    python bench/health_false_alarms.py [RUN ...]

For each run folder this prints the number of findings of each kind per 1,000 steps, and the first few findings. It also
prints how near the run came to the limits. A layer is reported if it stays far from the median of the other layers for
a number of blocks. "least" and "most" are the lowest and the highest share of that median at which any layer stayed for
so long. "most" includes layers whose RWC falls, as it does where weights begin at 0. At the end this prints the time
that the check takes.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np

import weightscale_fast as wsf
from weightscale_fast.health.check import HealthCheck, check_health
from weightscale_fast.health.limits import BLOCK, CONFIRM, KINDS
from weightscale_fast.health.medians import median_of_others
from weightscale_fast.record.ring import SHARD_ROWS
from weightscale_fast.record.rows import Rows

SHOWN = 4


def extremes(history: wsf.RWCHistory) -> tuple[float, float]:
    """The lowest and the highest share of the others' median at which a layer stayed long enough to be reported."""
    N = len(history) // BLOCK
    with np.errstate(invalid="ignore", divide="ignore"):
        rwc = np.where(history.delta_l1 == 0, 0, history.delta_l1 / history.prev_l1)[: N * BLOCK]
        levels = np.median(rwc.reshape(N, BLOCK, -1), axis=1)
        ratio = levels / median_of_others(levels)
    ratio = np.where(np.isfinite(ratio) & (history.moved > 0).any(axis=0), ratio, np.nan)
    ends = []
    for kind, hold in (("stopped", np.max), ("runaway", np.min)):
        if CONFIRM[kind] > N:
            ends.append(np.nan)
            continue
        held = hold(np.lib.stride_tricks.sliding_window_view(ratio, CONFIRM[kind], axis=0), axis=2)  # [., L]
        ends.append(float(np.nanmin(held) if kind == "stopped" else np.nanmax(held)))
    return ends[0], ends[1]


def cost(layers: int) -> float:
    """The seconds that a monitor's check takes for the rows of one shard, the median of 20."""
    check = HealthCheck([f"layer{i}" for i in range(layers)], np.full(layers, 100))
    rwc = np.exp(np.random.default_rng(0).normal(-7, 1, (SHARD_ROWS, layers)))
    rows = Rows(np.arange(1, SHARD_ROWS + 1), rwc, np.ones_like(rwc), np.full(rwc.shape, 100), None)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        check.update(rows)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN")
    total, steps = Counter(), 0
    print(f"{'run':44} {'steps':>6} {'layers':>6}  {'  '.join(KINDS)}   least    most      ms")
    for run in parser.parse_args().runs:
        history = wsf.RWCHistory.load(run)
        start = time.perf_counter()
        findings = check_health(history)
        took = (time.perf_counter() - start) * 1e3
        found = Counter(finding.kind for finding in findings)
        per_thousand = [found[kind] * 1e3 / max(len(history), 1) for kind in KINDS]
        rates = "  ".join(f"{rate:{len(kind)}.2f}" for rate, kind in zip(per_thousand, KINDS, strict=True))
        least, most = extremes(history)
        name = "/".join(run.parts[-2:])
        print(f"{name:44} {len(history):6,} {len(history.names):6}  {rates}  {least:6.4f}  {most:6.1f}  {took:6.1f}")
        for finding in findings[:SHOWN]:
            print(f"    {finding}")
        if len(findings) > SHOWN:
            print(f"    and {len(findings) - SHOWN} more")
        total += found
        steps += len(history)
    print(f"\nin {steps:,} steps: {', '.join(f'{total[kind]} {kind}' for kind in KINDS)}")
    for layers in (161, 1000):
        seconds = cost(layers)
        print(
            f"{layers:,} layers: {seconds * 1e3:.1f} ms for {SHARD_ROWS} rows, {seconds / SHARD_ROWS * 1e6:.0f} us each"
        )


if __name__ == "__main__":
    main()

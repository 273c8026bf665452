"""Print the results of gpu_check.py as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def print_cases(rows: Sequence[dict[str, Any]], copy: float) -> None:
    """Print a line for each way of each case: times, GB/s of the bytes that the work needs, and ratios of these GB/s.

    The time is that of the device alone if it was measured. `same` is the ratio to a flat copy that moves as many
    bytes, `2 GB` is the ratio to the large copy, and `x ours` is the ratio of our GB/s to those of the line.
    """
    print(f"{'':43}{'ms':>9}{'warm ms':>9}{'host us':>9}{'GB/s':>7}{'same':>6}{'2 GB':>6}{'x ours':>8}{'error':>7}")
    for case, dtype in dict.fromkeys((row["case"], row["dtype"]) for row in rows):
        here = [row for row in rows if (row["case"], row["dtype"]) == (case, dtype)]
        good = [row for row in here if "failed" not in row]
        same = next((row["gb_per_s"] for row in good if row["way"] == "flat copy"), math.nan)
        ours = max((row["gb_per_s"] for row in good if row["way"] in ("triton", "cuda", "torch")), default=math.nan)
        for row in good:
            ms, error = row.get("device_ms", row["ms"]), row.get("error")
            extra = "".join(
                f"{row[key]:9.{n}f}" if key in row else f"{'':9}" for key, n in (("warm_ms", 4), ("host_us", 1))
            )
            print(
                f"{case:<22}{dtype:<9}{row['way']:<12.12}{ms:9.4f}{extra}{row['gb_per_s']:7.0f}"
                f"{row['gb_per_s'] / same:6.2f}{row['gb_per_s'] / copy:6.2f}{ours / row['gb_per_s']:8.2f}"
                + (f"{error:7.0e}" if error is not None else "")
            )
        for row in here:
            if "failed" in row:
                print(f"{case:<22}{dtype:<9}{row['way']:<12.12} failed: {row['failed'][:200]}")


def print_trials(trial: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print the time of each choice of settings on each case, and the mean of its ratios to the best times."""
    times: dict[str, dict[str, float]] = {}
    for row in rows:
        times.setdefault(str(row["settings"]), {})[f"{row['case']} {row['dtype']}"] = row.get("device_ms", math.inf)
    best = {case: min(row.get(case, math.inf) for row in times.values()) for case in next(iter(times.values()), {})}
    print(trial)
    for settings, row in times.items():
        score = sum(ms / best[case] for case, ms in row.items()) / len(row)
        print(f"    {settings:<48}{score:6.3f}  " + ", ".join(f"{case}: {ms * 1e3:.1f} us" for case, ms in row.items()))


def print_found(outcomes: dict[str, dict[str, Any]]) -> None:
    """Print the tables, and a line for each other result."""
    found = {name: outcome["found"] for name, outcome in outcomes.items() if outcome.get("found")}
    cases = []
    for name, result in found.items():
        if name.startswith("tune "):
            print_trials(name, result)
        elif isinstance(result, list) and "case" in result[0]:
            cases += result
        else:
            print(f"{name}: {result}")
    if cases:
        print_cases(cases, found["2 GB copy"][0]["gb_per_s"] if "2 GB copy" in found else math.nan)

"""Write the table and the figure of docs/performance.md: python bench/draw.py bench/results/NAME.json."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from page import replace_between

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- speeds: written by bench/draw.py -->", "<!-- end of speeds -->"
RIVALS = ("copy", "torch.compile", "foreach", "naive")
COLOURS = {
    "fast_rwc": "#0072B2",
    "copy": "#999999",
    "torch.compile": "#E69F00",
    "foreach": "#009E73",
    "naive": "#CC79A7",
}


def by_case(benchmarks: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """The results by case and then by rival: the rival's extra_info, with the median in seconds."""
    cases: dict[str, dict[str, dict[str, Any]]] = {}
    for benchmark in benchmarks:
        info = benchmark["extra_info"]
        cases.setdefault(info["case"], {})[info["rival"]] = {**info, "seconds": benchmark["stats"]["median"]}
    return cases


def print_tables(benchmarks: list[dict[str, Any]], write: Callable[[str], None]) -> None:
    """Write time, bandwidth, ratios and error of every rival of every case."""
    for case, rivals in by_case(benchmarks).items():
        write(f"{case}")
        for name, row in rivals.items():
            line = f"  {name:<14}{row['seconds'] * 1e3:9.2f} ms {row['bytes'] / row['seconds'] / 1e9:7.1f} GB/s"
            if "copy" in rivals:
                line += f" {row['seconds'] / rivals['copy']['seconds']:7.2f} x copy"
            if "fast_rwc" in rivals:
                line += f" {row['seconds'] / rivals['fast_rwc']['seconds']:7.2f} x fast_rwc"
            write(line + ("" if math.isnan(row["error"]) else f"   error {row['error']:.0e}"))


def markdown(result: dict[str, Any]) -> str:
    """The table: the time of `fast_rwc`, and each rival's time as a multiple of the copy's."""
    machine = result["machine_info"]
    cases = by_case(result["benchmarks"])
    names = ("fast_rwc", *RIVALS[1:])
    lines = [
        f"| weights | layers | `fast_rwc` | GB/s | {' | '.join(f'{name} / copy' for name in names)} |",
        "|---|---:|---:|---:|" + "---:|" * len(names),
    ]
    for case, rivals in cases.items():
        ours, copy = rivals["fast_rwc"], rivals["copy"]["seconds"]
        ratios = [f"{rivals[name]['seconds'] / copy:.2f}" if name in rivals else "-" for name in names]
        lines.append(
            f"| {case}, {ours['weights'] / 1e6:.1f} M | {ours['layers']:,} | {ours['seconds'] * 1e3:.2f} ms "
            f"| {ours['bytes'] / ours['seconds'] / 1e9:.1f} | {' | '.join(ratios)} |"
        )
    cpu = machine["cpu"].get("brand_raw", machine["processor"])
    where = f"{cpu}, {machine['threads']} threads, torch {machine['torch']}, float32; medians of one run."
    return "\n".join([*lines, "", where])


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw each rival's time as a multiple of the copy's. The same result gives the same bytes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    cases = by_case(result["benchmarks"])
    names = ("fast_rwc", *RIVALS[1:])
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for i, name in enumerate(names):
        positions, heights = [], []
        for j, rivals in enumerate(cases.values()):
            if name in rivals:
                positions.append(j + (i - (len(names) - 1) / 2) * 0.2)
                heights.append(rivals[name]["seconds"] / rivals["copy"]["seconds"])
        bars = axes.bar(positions, heights, 0.19, color=COLOURS[name], label=name)
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=1)
    axes.axhline(1, color=COLOURS["copy"], linewidth=1.2, linestyle="--", zorder=0, label="prev.copy_(w)")
    axes.set_yscale("log")
    axes.set_xlim(-0.6, len(cases) - 0.4)
    axes.set_xticks(range(len(cases)), cases)
    axes.set_ylabel("time, in copies of the weights")
    axes.set_title(
        "RWC of every layer at every step: time relative to copying the weights (lower is better)", fontsize=10
    )
    axes.legend(ncols=5, frameon=False, loc="upper left", fontsize=9)
    axes.set_ylim(
        0.3, 3 * max(r["seconds"] / rivals["copy"]["seconds"] for rivals in cases.values() for r in rivals.values())
    )
    axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": "speeds"}):
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Print the tables, write the figure, and write the table between the marks of the page."""
    result = json.loads(Path(sys.argv[1]).read_text())
    print_tables(result["benchmarks"], print)
    draw(result, ROOT / "docs" / "speeds.svg")
    replace_between(BEGIN, END, markdown(result))


if __name__ == "__main__":
    main()

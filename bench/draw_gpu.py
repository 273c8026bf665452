"""Write the table of GPU figures of docs/performance.md: python bench/draw_gpu.py bench/results/NAME.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from page import replace_between

BEGIN, END = "<!-- gpu: written by bench/draw_gpu.py -->", "<!-- end of gpu -->"
WAYS = ("triton", "torch.compile", "foreach", "naive")


def milliseconds(row: dict[str, Any]) -> float:
    """The time of the device alone if it was measured."""
    return float(row.get("device_ms", row["ms"]))


def markdown(result: dict[str, Any], file: str) -> str:
    """The table: the Triton pass against a flat copy, and each way's time as a multiple of the layers' copies."""
    found = {name: part.get("found", []) for name, part in result["parts"].items()}
    ceiling = found["2 GB copy"][0]["gb_per_s"]
    titles = " | ".join(f"{'fast_rwc' if way == 'triton' else way} / copy" for way in WAYS)
    lines = [
        f"| weights | type | `fast_rwc` | GB/s | of a 2 GB copy | {titles} |",
        "|---|---|---:|---:|---:|" + "---:|" * len(WAYS),
    ]
    for name in found:
        rows = {row["way"]: row for row in found[name] if isinstance(row, dict) and "way" in row}
        if "triton" not in rows:
            continue
        rows.update({row["way"]: row for row in found.get(f"{name} compiled", []) if row["way"] == "torch.compile"})
        ours, copy = rows["triton"], milliseconds(rows["copy"])
        ratios = [f"{milliseconds(rows[way]) / copy:.2f}" if way in rows else "-" for way in WAYS]
        lines.append(
            f"| {name}, {ours['weights'] / 1e6:,.1f} M | {ours['dtype']} | {milliseconds(ours) * 1e3:,.1f} us "
            f"| {ours['gb_per_s']:,.0f} | {ours['gb_per_s'] / ceiling:.2f} | {' | '.join(ratios)} |"
        )
    loops = [f"- {part}." for name, part in found.items() if name.startswith("loop ")]
    where = f"{result['gpu']}, torch {result['torch']}; medians of one run, `bench/results/{file}`."
    return "\n".join([*lines, "", where, "", *loops])


def main() -> None:
    """Write the table between the marks of the page."""
    path = Path(sys.argv[1])
    replace_between(BEGIN, END, markdown(json.loads(path.read_text()), path.name))


if __name__ == "__main__":
    main()

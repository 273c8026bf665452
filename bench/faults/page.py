"""Writes the table of docs/health.md from the results of the benchmark.

python -m bench.faults --out bench/results/faults.json
python -m bench.faults.page
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .judge import FAULTS
from .networks import HELD_OUT, TUNED_ON

ROOT = Path(__file__).parents[2]
RESULTS, PAGE = ROOT / "bench" / "results" / "faults.json", ROOT / "docs" / "health.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->"


def table(runs: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of the table, from the runs of a result file."""
    yield "| networks | faults found | right name | right cause | clean runs | with a finding |"
    yield "|---|---|---|---|---|---|"
    held_out, tuned_on = ", ".join(HELD_OUT), ", ".join(TUNED_ON)
    groups = {name: (name,) for name in HELD_OUT}
    groups |= {f"**held out** ({held_out})": HELD_OUT, f"tuned on ({tuned_on})": TUNED_ON}
    for title, networks in groups.items():
        mine = [run for run in runs if run["job"]["network"] in networks]
        clean = [run for run in mine if run["job"]["clean"]]
        faulty = [run for run in mine if not run["job"]["clean"] and FAULTS[run["job"]["name"]].visible]
        explained = [run for run in faulty if FAULTS[run["job"]["name"]].causes]
        cells = [
            part(faulty, "found"),
            part(faulty, "named"),
            part(explained, "explained"),
            str(len(clean)),
            str(sum(run["found"] for run in clean)),
        ]
        yield f"| {title} | {' | '.join(cells)} |"


def part(runs: list[dict[str, Any]], key: str) -> str:
    """`12 of 13 (92 %)`."""
    n = sum(run[key] for run in runs)
    return f"{n} of {len(runs)} ({n / max(len(runs), 1):.0%})".replace("%", " %")


def with_table(page: str) -> str:
    """The page with the table of the result file."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    lines = "\n".join(table(json.loads(RESULTS.read_text())["runs"]))
    return f"{before}{BEGIN}\n{lines}\n\n{END}{after}"


def main() -> None:
    PAGE.write_text(with_table(PAGE.read_text()))


if __name__ == "__main__":
    main()

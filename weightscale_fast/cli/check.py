"""`weightscale check`: whether a recorded run has a fault, as an exit code."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..health.check import check_health, rows_to_judge
from ..health.finding import Finding
from ..record.history import RWCHistory
from ..report.findings import as_plain
from .commands import add_command, load_run, run_path, say

MOST_FINDINGS = 8  # that `analyze` prints


def add_commands(commands: Any) -> None:
    """Add `check`."""
    check = add_command(
        commands,
        "check",
        "say whether a recorded run has a fault, as an exit code",
        "Prints what is wrong with a recorded run, why, and what to do. The exit code is 0 if nothing is wrong, 1 if "
        "something is, and 2 if the run cannot be read. It writes nothing.",
        "weightscale check runs/first || echo look at it",
    )
    check.add_argument("run", type=run_path, metavar="RUN", help="folder of the run")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(call=run_check)


def run_check(arguments: argparse.Namespace) -> int:
    """Check a recorded run."""
    history = load_run(arguments.run)
    findings = check_health(history)
    if arguments.json:
        print(json.dumps(_as_json(arguments.run, history, findings), indent=1))
    else:
        print_findings(history, findings, most=len(findings))
    return int(any(finding.is_fault for finding in findings))


def _as_json(run: Path, history: RWCHistory, findings: list[Finding]) -> dict[str, Any]:
    return {
        "run": str(run),
        "first_step": int(history.steps[0]),
        "last_step": int(history.steps[-1]),
        "rows": len(history),
        "enough_rows": len(history) >= rows_to_judge(history.every),
        "faults": sum(finding.is_fault for finding in findings),
        "findings": list(map(as_plain, findings)),
    }


def print_findings(history: RWCHistory, findings: list[Finding], most: int = MOST_FINDINGS) -> None:
    """Print the findings: faults with `!`, notes with `-`, each with its advice; or that nothing was found."""
    if not any(finding.is_fault for finding in findings):
        needed = rows_to_judge(history.every)
        say(
            "nothing found: no fault that the movement of the weights shows"
            if len(history) >= needed
            else f"nothing found so far: no layer was not finite, and {needed} rows are needed to judge the rest"
        )
    for finding in sorted(findings, key=lambda finding: not finding.is_fault)[:most]:
        say(f"{'!' if finding.is_fault else '-'} {finding}")
        if finding.advice:
            say(f"  {finding.advice}")
    if len(findings) > most:
        say(f"! and {len(findings) - most} more, which weightscale check lists")

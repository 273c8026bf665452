"""The findings of a run: on top of its page, and as findings.csv and findings.json."""

from __future__ import annotations

import json
import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import atomic_write, write_csv

if TYPE_CHECKING:
    from ..health.finding import Finding

NOTHING_FOUND = "Nothing found: no fault that the movement of the weights shows."
TOO_SHORT = "Nothing found so far: there are too few rows to judge."


def findings_html(findings: list[Finding], enough: bool) -> str:
    """What is wrong, since which step, why, and what to do; or that nothing is.

    Args:
        findings: what `check_health` found.
        enough: whether the record has enough rows to judge.
    """
    faults = [finding for finding in findings if finding.is_fault]
    notes = [finding for finding in findings if not finding.is_fault]
    parts = [] if faults else [f'<p class="nothing-found">{NOTHING_FOUND if enough else TOO_SHORT}</p>']
    for title, looks, found in (("What is wrong", "findings", faults), ("Good to know", "findings notes", notes)):
        if found:
            items = "\n".join(map(_item, found))
            parts.append(f'<section class="{looks}">\n<h2>{title}</h2>\n<ul>\n{items}\n</ul>\n</section>')
    return "\n".join(parts)


def _item(finding: Finding) -> str:
    advice = f'<div class="advice">{escape(finding.advice)}</div>' if finding.advice else ""
    return f"<li>{escape(str(finding))}{advice}{_all_layers(finding)}</li>"


def _all_layers(finding: Finding) -> str:
    """The layers of a finding that counts them only."""
    if len(finding.others) < 2:
        return ""
    names = ", ".join(f"<code>{escape(name)}</code>" for name in (finding.layer, *finding.others))
    return f"<details><summary>all {len(finding.others) + 1} layers</summary>{names}</details>"


def as_plain(finding: Finding) -> dict[str, Any]:
    """A finding as plain values, for JSON. A number that is not known is None."""
    return {
        "kind": finding.kind,
        "is_fault": finding.is_fault,
        "cause": finding.cause or None,
        "layers": [finding.layer, *finding.others],
        "since_step": finding.step,
        "certain_at_step": finding.last,
        "value": _number(finding.value),
        "compared_with": _number(finding.median),
        "text": str(finding),
        "advice": finding.advice or None,
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_findings(folder: Path, findings: list[Finding]) -> None:
    """Write findings.csv and findings.json."""
    header = (
        "kind",
        "layer",
        "since_step",
        "certain_at_step",
        "value",
        "median_of_others",
        "more_layers",
        "text",
        "cause",
        "advice",
    )
    rows = [
        (
            f.kind,
            cell(f.layer),
            f.step,
            f.last,
            f.value,
            f.median,
            cell(" ".join(f.others)),
            cell(str(f)),
            f.cause,
            f.advice,
        )
        for f in findings
    ]
    write_csv(folder / "findings.csv", header, rows)
    with atomic_write(folder / "findings.json") as file:
        file.write(json.dumps(list(map(as_plain, findings)), indent=1, allow_nan=False).encode())


def cell(text: str) -> str:
    """Text that a spreadsheet takes as text, and not as a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text

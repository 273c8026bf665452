"""Run the parts of a GPU session, each in its own process, within one time limit.

If a part fails, hangs or is killed, only its own results are lost. What it prints goes to a log file at once. Every
printed line that is a JSON object is a result.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TAIL = 1_500  # characters of a failed part's log that are shown
GRACE = 20.0  # seconds that a stopped part gets to end


def json_lines(text: str) -> list[dict[str, Any]]:
    """The lines that are JSON objects. A killed process may leave half a line, which is not one."""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            if line.startswith("{"):
                found.append(json.loads(line))
    return found


@dataclass(frozen=True)
class Part:
    """One command, and how its output is read."""

    name: str
    command: Sequence[str]
    seconds: float  # the part is stopped after this time
    environment: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[str], Any] = json_lines  # raises ValueError if the output shows that the part failed

    @property
    def log(self) -> str:
        """The name of its log file."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") + ".log"


def run_parts(
    parts: Sequence[Part], *, folder: Path, logs: Path, seconds: float, save: Callable[[dict[str, Any]], None]
) -> dict[str, dict[str, Any]]:
    """Run the parts in order in `folder`, and return the outcome of each by name. `save` gets all outcomes after each.

    After `seconds`, the running part is stopped and no further part begins. So only the last parts are lost.
    """
    logs.mkdir(parents=True, exist_ok=True)
    end, outcomes = time.monotonic() + seconds, {}
    for part in parts:
        left = end - time.monotonic()
        if left > 0:
            outcomes[part.name] = outcome = _run(part, folder, logs / part.log, min(part.seconds, left))
            if left < part.seconds and outcome.get("failed", "").startswith("stopped after"):
                outcome["failed"] += f": the {seconds:g} s of the whole run were over"
            print(f"{part.name:<36}{outcome['seconds']:7.1f} s  {outcome.get('failed', 'done')}", flush=True)
            if "tail" in outcome:
                print("    " + outcome["tail"].replace("\n", "\n    "), flush=True)
        else:
            outcomes[part.name] = {"failed": f"not begun: {seconds:g} s were over"}
            print(f"{part.name:<36}{'':9}  {outcomes[part.name]['failed']}", flush=True)
        save(outcomes)
    return outcomes


def _run(part: Part, folder: Path, log: Path, seconds: float) -> dict[str, Any]:
    """The results of the part, its wall time, and the reason if it failed."""
    began = time.monotonic()
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": path, **part.environment}
    with log.open("w") as file:
        try:
            process = subprocess.Popen(
                part.command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return {"seconds": 0.0, "failed": str(error)}
        try:
            failure = _failure(process.wait(seconds))
        except subprocess.TimeoutExpired:
            failure = f"stopped after {seconds:.0f} s"
            os.killpg(process.pid, signal.SIGINT)  # so that pytest says what failed, and Python where it was
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        finally:
            _stop(process)
    outcome: dict[str, Any] = {"seconds": round(time.monotonic() - began, 1)}
    text = log.read_text(errors="replace")
    try:
        outcome["found"] = part.read(text)
    except ValueError as error:
        failure = failure or str(error)
    if failure:
        outcome.update(failed=failure, tail=text[-TAIL:])
    return outcome


def _failure(code: int) -> str | None:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}" if code else None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process and all processes that it started: one that is left would keep the GPU."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

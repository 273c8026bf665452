"""What comes of a reading, for damaged_files.py: the outcome of a call, here or in a child process, and their count."""

from __future__ import annotations

import collections
import os
import re
import resource
import signal
import time
import warnings
from collections.abc import Callable

import weightscale_fast as wsf

SECONDS = 20  # of work: a limit for one reading
WAITING = 120  # seconds; a limit for a reading that only waits, as for the other end of a pipe


class Count:
    """The outcomes by the kind of the damage, and the first fault of each kind."""

    def __init__(self) -> None:
        self.table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.faults: dict[str, str] = {}

    def add(self, kind: str, outcome: str, where: str) -> None:
        """Count an outcome: its first word."""
        word = outcome.partition(" ")[0]
        self.table[kind][word] += 1
        if word == "FAULT":
            fault = f"{kind} | {re.sub('[0-9]+', '0', outcome)[:60]}"
            if fault not in self.faults:
                print(f"FAULT {where}: {outcome}"[:400], flush=True)
            self.faults.setdefault(fault, where)

    def show(self) -> None:
        """Print the table."""
        words = ("read", "told", "refused", "FAULT")
        print(f"\n{'':44}" + "".join(f"{word:>9}" for word in words))
        for kind, found in self.table.items():
            print(f"{kind[:44]:44}" + "".join(f"{found[word]:9,}" for word in words))
        total = sum(self.table.values(), collections.Counter())
        print(f"{'all ' + format(sum(total.values()), ','):44}" + "".join(f"{total[word]:9,}" for word in words))


def outcome_of(call: Callable[[], object]) -> str:
    """What comes of a call. It returns None, or what is wrong with what it read."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            wrong = call()
        except (ValueError, wsf.WeightScaleError) as error:
            lines = str(error).count("\n")
            return f"refused {error}" if not lines else f"FAULT {lines + 1} lines: {error}"
        except BaseException as error:
            return f"FAULT {type(error).__name__}: {error}"
    if wrong:
        return f"FAULT {wrong}"
    return "told" if any(issubclass(warning.category, UserWarning) for warning in caught) else "read"


def in_child(call: Callable[[], object]) -> str:
    """The outcome of a call in a child process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))  # counted from the fork
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        outcome = "FAULT nothing"
        try:
            outcome = outcome_of(call)
        finally:
            os.write(writing, outcome.encode(errors="replace")[:4000])
            os._exit(0)
    os.close(writing)
    end = time.monotonic() + WAITING
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reading)
            return f"FAULT it waits for more than {WAITING} seconds"
        time.sleep(0.002)
    with os.fdopen(reading, "rb") as file:
        said = file.read().decode()
    if os.WIFSIGNALED(done[1]) and os.WTERMSIG(done[1]) == signal.SIGXCPU:
        return f"FAULT it takes more than {SECONDS} seconds"
    if os.WIFSIGNALED(done[1]):
        return f"FAULT the process died of signal {os.WTERMSIG(done[1])}"
    return said or "FAULT the process ended"

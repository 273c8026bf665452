"""The tables that the benchmark prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .judge import FAULTS, NETWORKS, Verdict
from .networks import HELD_OUT, TUNED_ON

WIDTH = 12


def evidence(verdict: Verdict) -> str:
    """The loss and the movement, which show that a fault is one if one compares them with the twins'."""
    loss = f"loss {verdict.first_loss:.3g} -> {verdict.last_loss:.3g}"
    return f"{loss:26} RWC {verdict.slowest:7.1e} to {verdict.fastest:7.1e}"


def details(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """For each fault, what is true of it, and what was said of it on each network. Before them, the sane twins."""
    for verdict in verdicts:
        if verdict.job.clean and verdict.job.name.startswith("twin_"):
            yield f"{verdict.job.name}: {verdict.job.network:{WIDTH}} {evidence(verdict)}"
    for fault in FAULTS.values():
        mine = [verdict for verdict in verdicts if not verdict.job.clean and verdict.job.name == fault.name]
        if not mine:
            continue
        truth = f"{' or '.join(sorted(fault.kinds)) or 'invisible'}; {' or '.join(sorted(fault.causes)) or 'no cause'}"
        yield f"{fault.name}: {fault.text} ({fault.source}). True: {truth}"
        for verdict in mine:
            yield f"    {verdict.job.network:{WIDTH}} {mark(verdict):4} {evidence(verdict)} {verdict.kinds or '-'}"


def matrix(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Faults and networks, a mark for each."""
    names = max(map(len, FAULTS))
    yield f"{'':{names}} " + " ".join(f"{name:>{WIDTH}}" for name in NETWORKS)
    for visible in (True, False):
        if not visible:
            yield "invisible, so that it is no miss if they are not found:"
        for fault in FAULTS.values():
            mine = {v.job.network: mark(v) for v in verdicts if not v.job.clean and v.job.name == fault.name}
            if mine and fault.visible == visible:
                yield f"{fault.name:{names}} " + " ".join(f"{mine.get(name, ''):>{WIDTH}}" for name in NETWORKS)
    yield "f: found, k: named with a right kind, c: explained with a right cause, -: not found"


def mark(verdict: Verdict) -> str:
    """f, k and c for what is right; "-" if the fault was not found."""
    marks = ("f", verdict.found), ("k", verdict.named), ("c", verdict.explained)
    return "".join(letter for letter, right in marks if right) or "-"


def summary(verdicts: Sequence[Verdict]) -> dict[str, dict[str, tuple[int, int]]]:
    """For the networks that were tuned on and those held out: (how many, of how many) of each number."""
    numbers: dict[str, dict[str, tuple[int, int]]] = {}
    for group, networks in (("tuned on", TUNED_ON), ("held out", HELD_OUT)):
        mine = [verdict for verdict in verdicts if verdict.job.network in networks]
        clean = [verdict for verdict in mine if verdict.job.clean]
        faulty = [(FAULTS[verdict.job.name], verdict) for verdict in mine if not verdict.job.clean]
        visible = [(fault, verdict) for fault, verdict in faulty if fault.visible]
        invisible = [verdict for fault, verdict in faulty if not fault.visible]
        explained = [verdict.explained for fault, verdict in visible if fault.causes]
        numbers[group] = {
            "visible faults found": count([verdict.found for _, verdict in visible]),
            "  with a right kind": count([verdict.named for _, verdict in visible]),
            "  with a right cause": count(explained),
            "invisible faults found": count([verdict.found for verdict in invisible]),
            "clean runs with a false alarm": count([verdict.found for verdict in clean]),
            "clean runs that did not learn": count([not verdict.learnt for verdict in clean]),
        }
    return numbers


def count(flags: Sequence[bool]) -> tuple[int, int]:
    """How many are True, of how many."""
    return sum(flags), len(flags)


def summary_lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """The summary, and the text of each false alarm."""
    numbers = summary(verdicts)
    yield f"{'':30} " + " ".join(f"{group:>18}" for group in numbers)
    for name in numbers["held out"]:
        cells = (f"{n} of {total} ({n / max(total, 1):.0%})" for n, total in (each[name] for each in numbers.values()))
        yield f"{name:30} " + " ".join(f"{cell:>18}" for cell in cells)
    for verdict in verdicts:
        if verdict.job.clean and not verdict.learnt:
            loss = f"{verdict.first_loss:.3g} -> {verdict.last_loss:.3g}"
            yield f"not clean: {verdict.job.network} {verdict.job.name}, loss {loss}"
        if verdict.job.clean and verdict.found:
            yield f"false alarm: {verdict.job.network} {verdict.job.name}"
            yield from (f"    {kind}/{cause}: {text}" for kind, cause, text in verdict.said)

"""Judging: is a fault found, is it named rightly, and is it explained rightly?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

import weightscale_fast as wsf

from .bad_gradients import BAD_GRADIENTS
from .clean import Clean, clean_runs
from .faults import Fault
from .invisible import INVISIBLE
from .networks import HELD_OUT, TUNED_ON, network
from .not_trained import NOT_TRAINED
from .training import Outcome, Training
from .wrong_rate import WRONG_RATE

FAULTS: dict[str, Fault] = {**NOT_TRAINED, **WRONG_RATE, **BAD_GRADIENTS, **INVISIBLE}
NETWORKS = (*TUNED_ON, *HELD_OUT)


@dataclass(frozen=True)
class Job:
    """One run: a network with a fault, or a clean run of it."""

    network: str
    name: str
    clean: bool

    @property
    def folder(self) -> str:
        """The name of the folder that keeps it."""
        return f"{self.network}-{'clean-' if self.clean else ''}{self.name}"

    @property
    def what(self) -> Fault | Clean:
        """What the run does."""
        return clean_runs(self.network)[self.name] if self.clean else FAULTS[self.name]

    def run(self, keep: Path | None = None) -> Outcome:
        """Train and record; with `keep`, into a folder there."""
        training = Training(network(self.network))
        self.what.alter(training)
        outcome = training.run(None if keep is None else keep / self.folder)
        if keep is not None:
            said = {"raised": outcome.raised, "warned": outcome.warned, "losses": outcome.losses}
            (keep / f"{self.folder}.json").write_text(json.dumps(said))
        return outcome

    def again(self, kept: Path) -> Outcome:
        """A run that was kept."""
        outcome = Outcome(**json.loads((kept / f"{self.folder}.json").read_text()))
        if not outcome.raised:
            outcome.history = wsf.RWCHistory.load(kept / self.folder)
        return outcome


@dataclass
class Verdict:
    """What was said of a run, and whether it is right.

    Args:
        said: (kind, cause, text) of each finding that is a fault, and of what the monitor raised or warned.
        notes: the same of findings that are no faults.
        slowest, fastest: the lowest and the highest RWC of a layer in the last quarter of the run, a median.
        learnt: whether a clean run has learnt, as it must.
    """

    job: Job
    said: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[tuple[str, str, str]] = field(default_factory=list)
    first_loss: float = 0.0
    last_loss: float = 0.0
    slowest: float = float("nan")
    fastest: float = float("nan")
    found: bool = False
    named: bool = False
    explained: bool = False
    learnt: bool = True

    @property
    def kinds(self) -> str:
        """All that was said, as kind/cause, each once."""
        pairs = [f"{kind}/{cause}" if cause else kind for kind, cause, _ in (*self.said, *self.notes)]
        return ", ".join(dict.fromkeys(pairs))

    def to_json(self) -> dict[str, object]:
        """All fields, the job's too."""
        return asdict(self)


def jobs() -> Iterator[Job]:
    """All runs, the slow networks first."""
    for name in reversed(NETWORKS):
        yield from (Job(name, clean, True) for clean in clean_runs(name))
        yield from (Job(name, fault.name, False) for fault in FAULTS.values() if fault.applies(network(name)))


def judge(job: Job, outcome: Outcome) -> Verdict:
    """Let `check_health` look at a record, and compare what it says with the truth."""
    findings = [] if outcome.history is None else wsf.check_health(outcome.history)
    verdict = Verdict(job, first_loss=outcome.first_loss, last_loss=outcome.last_loss)
    if outcome.history is not None and len(outcome.history):
        levels = np.median(outcome.history.rwc[-(len(outcome.history) // 4 + 1) :], axis=0)
        verdict.slowest, verdict.fastest = float(levels.min()), float(levels.max())
    for finding in findings:
        into = verdict.said if getattr(finding, "is_fault", True) else verdict.notes
        into.append((finding.kind, getattr(finding, "cause", ""), str(finding)))
    what = job.what
    kinds = frozenset(("raised", "warning")) if isinstance(what, Clean) else what.kinds
    if outcome.raised and "raised" in kinds:
        # The monitor's error says that the optimizer trains other tensors.
        verdict.said.append(("raised", "other_tensors", outcome.raised))
    if "warning" in kinds:
        verdict.said += [("warning", "", text) for text in outcome.warned]
    if isinstance(what, Clean):
        verdict.found = bool(verdict.said)
        verdict.learnt = outcome.last_loss < what.most * outcome.first_loss
        return verdict
    counted = verdict.said + [note for note in verdict.notes if what.note and note[0] in what.kinds]
    verdict.found = bool(counted)
    verdict.named = any(kind in what.kinds for kind, _, _ in counted)
    verdict.explained = any(cause in what.causes for _, cause, _ in counted)
    return verdict


def work(job: Job, keep: Path | None = None, again: Path | None = None) -> Verdict:
    """Make a run, or read one that was kept, and judge it. The workers import this."""
    torch.set_num_threads(1)
    try:
        return judge(job, job.run(keep) if again is None else job.again(again))
    except Exception as error:
        raise RuntimeError(f"{job.folder} failed: {error}") from error

"""SeedRuns: the runs of one network on one data set, one for each seed, and their mean.

Letters: R runs, E epochs (the number that all runs have), L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightScaleError
from ..ratios import l2_ratio
from ..record.history import RWCHistory
from ..record.rows import L2
from ..train.config import recorded_config
from ..train.data import NAMES
from ..train.loop import PER_EPOCH
from ..train.metrics import diverged, is_over, read_metrics

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SeedRuns:
    """The per-epoch records and the metrics of R runs that only differ in their seed.

    Args:
        folder: the folder of the run folders.
        histories: the per-epoch record of each run, R of them, cut to the epochs that all runs have.
        metrics: the lines of `metrics.jsonl` of each run, one for each of its own epochs.
        left_out: the seeds of runs that are left out, and why. Diverged runs are left out, and so are unfinished ones
            if another run is finished.
        unfinished: the seeds among the R that are not finished, and how far they are.
    """

    folder: Path
    histories: tuple[RWCHistory, ...]
    metrics: tuple[list[dict[str, Any]], ...]
    left_out: Mapping[int, str]
    unfinished: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path) -> SeedRuns:
        """Read what `run_preset` has written so far.

        Raises:
            WeightScaleError: no run has a whole epoch, no run has two epochs of finite loss, or their networks differ.
        """
        folder = Path(folder)
        runs = {int(run.name[5:]): run for run in folder.glob("seed-*") if run.name[5:].isdecimal()}
        metrics = {seed: lines for seed, run in sorted(runs.items()) if (lines := read_metrics(run))}
        if not metrics:
            raise WeightScaleError(f"{folder} holds no run with a whole epoch: expected folders seed-0, ... in it")
        hopeless = {seed: reason for seed, lines in metrics.items() if (reason := _no_curve(lines))}
        unfinished = {
            seed: f"has {len(lines)} of {config.epochs} epochs"
            for seed, lines in metrics.items()
            if seed not in hopeless and not is_over(config := recorded_config(runs[seed]), lines[-1])
        }
        some_are_finished = len(hopeless) + len(unfinished) < len(metrics)
        left_out = hopeless | unfinished if some_are_finished else hopeless
        used = {seed: RWCHistory.load(runs[seed] / PER_EPOCH) for seed in metrics if seed not in left_out}
        if not used:
            reasons = "; ".join(f"seed {seed} {reason}" for seed, reason in left_out.items())
            raise WeightScaleError(f"no run in {folder} has a curve from epoch to epoch: {reasons}")
        epochs = min(len(history) for history in used.values())
        first = next(iter(used.values()))
        if any((history.names, history.definition) != (first.names, first.definition) for history in used.values()):
            raise WeightScaleError(f"the runs in {folder} are of different networks or definitions: they have no mean")
        return cls(
            folder,
            tuple(
                replace(history.select(steps=slice(0, epochs)), settings={**history.settings, "unit": "epoch"})
                for history in used.values()
            ),
            tuple(metrics[seed] for seed in used),
            left_out,
            {} if some_are_finished else unfinished,
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the first run. The other runs differ in `seed` only."""
        return self.histories[0].settings

    @property
    def network(self) -> str:
        """The architecture, by the papers' name."""
        return str(self.settings["model"]).removesuffix("-small")

    @property
    def data(self) -> str:
        """The data set that was trained on. A folder is never one of the papers' data sets, whatever its name."""
        data = str(self.settings["data"])
        return data if data in NAMES else f"folder {Path(data).name}"

    @property
    def rwc(self) -> FloatArray:
        """[R, E, L] the relative weight change of every layer in every epoch of every run."""
        return np.stack([history.rwc for history in self.histories])

    def mean(self) -> RWCHistory:
        """The history whose RWC is the mean over the runs; see `mean_history`."""
        return mean_history(self.histories)

    def averaged(self) -> SeedRuns:
        """The mean of the runs as a single run, so R is 1."""
        return replace(self, histories=(self.mean(),))

    def per_step(self) -> RWCHistory:
        """The record of every step of the first run."""
        return RWCHistory.load(self.folder / f"seed-{self.settings['seed']}")

    def accuracy(self, name: str) -> FloatArray:
        """[R] a metric such as `"test_top1"` after the last epoch of each run."""
        return np.array([lines[-1][name] for lines in self.metrics])


def _no_curve(lines: list[dict[str, Any]]) -> str | None:
    """Why a run has no curve from epoch to epoch; None if it has one."""
    for line in lines:
        if diverged(line):
            return f"diverged in epoch {line['epoch']}"
    if len(lines) < 2:
        return f"has one epoch only, with {lines[-1]['test_top1']:.1%} of the test images right"
    return None


def mean_history(histories: Sequence[RWCHistory]) -> RWCHistory:
    """A history whose `rwc` is the mean of the histories' `rwc`: the papers' mean over seeds (arXiv 2011.06735).

    Its `prev_l1`, `moved` and `ratio_sum` are means too. Its `delta_l1` is chosen so that Eq. 1 gives the mean of the
    ratios, which is not the ratio of the means. If L2 was recorded, the same holds for `delta_l2`, and `delta_max` is a
    mean.

    Raises:
        ValueError: there is no history, or their layers, steps or definitions differ.

    Example:
        >>> one = RWCHistory(("fc",), np.array([2]), ("linear",), np.array([1]), np.array([[1.0]]), np.array([[4.0]]),
        ...                  np.array([[2]]))
        >>> other = replace(one, delta_l1=np.array([[1.5]]), prev_l1=np.array([[2.0]]))
        >>> mean_history([one, other]).rwc
        array([[0.5]])
    """
    if not histories:
        raise ValueError("histories must be one or more, got none")
    first = histories[0]
    for other in histories[1:]:
        if (other.names, other.definition, other.steps.tolist()) != (
            first.names,
            first.definition,
            first.steps.tolist(),
        ):
            raise ValueError("histories must have the same layers, steps and definition to have a mean")
    prev_l1 = np.mean([history.prev_l1 for history in histories], axis=0)
    ratios = [history.ratio_sum for history in histories if history.ratio_sum is not None]
    norm_ratios = [replace(history, definition="norm_ratio").rwc for history in histories]
    l2: dict[str, Any] = dict.fromkeys(L2)
    if all(history.prev_l2 is not None for history in histories):
        columns = {name: np.array([getattr(history, name) for history in histories]) for name in L2}
        l2 |= {name: columns[name].mean(axis=0) for name in ("prev_l2", "delta_max")}
        l2["delta_l2"] = l2_ratio(columns["delta_l2"], columns["prev_l2"]).mean(axis=0) * l2["prev_l2"]
    return replace(
        first,
        delta_l1=np.mean(norm_ratios, axis=0) * prev_l1,
        prev_l1=prev_l1,
        moved=np.mean([history.moved for history in histories], axis=0).round().astype(np.int64),
        ratio_sum=np.mean(ratios, axis=0) if ratios else None,
        **l2,
        settings={**first.settings, "seed": [history.settings.get("seed") for history in histories]},
    )

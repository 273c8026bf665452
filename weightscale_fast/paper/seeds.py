"""SeedRuns: the runs of one network on one data set, one for each seed, and their mean.

Letters: R runs, E epochs that all of them have, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightScaleError
from ..history import RWCHistory
from ..train.config import recorded_config
from ..train.loop import PER_EPOCH
from ..train.metrics import diverged, is_over, read_metrics

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SeedRuns:
    """The per-epoch records and the metrics of R runs that differ in their seed only.

    Args:
        folder: where their run folders are.
        histories: the per-epoch record of each, R of them, cut to the epochs that all have.
        metrics: the lines of `metrics.jsonl` of each, cut likewise.
        left_out: the seeds of other runs, and why: diverged ones, and unfinished ones where another is finished.
    """

    folder: Path
    histories: tuple[RWCHistory, ...]
    metrics: tuple[list[dict[str, Any]], ...]
    left_out: Mapping[int, str]

    @classmethod
    def load(cls, folder: str | Path) -> SeedRuns:
        """Read what `run_preset` has written so far.

        Raises:
            WeightScaleError: there is no run, one has less than two epochs, all have diverged, or networks differ.
        """
        folder = Path(folder)
        runs = sorted(folder.glob("seed-*"), key=_seed)
        metrics = {run: lines for run in runs if (lines := read_metrics(run))}
        if not metrics:
            raise WeightScaleError(f"{folder} holds no run with a whole epoch: expected folders seed-0, ... in it")
        lost = {run: f"diverged in epoch {epoch}" for run, lines in metrics.items() if (epoch := _end_of_loss(lines))}
        going_on = {
            run: f"has {len(lines)} of {config.epochs} epochs"
            for run, lines in metrics.items()
            if run not in lost and not is_over(config := recorded_config(run), lines[-1])
        }
        if len(lost) + len(going_on) == len(metrics):
            going_on = {}  # then as far as they are
        left_out = lost | going_on
        metrics = {run: lines for run, lines in metrics.items() if run not in left_out}
        if not metrics:
            raise WeightScaleError(f"every run in {folder} has diverged: {', '.join(lost.values())}")
        epochs = min(map(len, metrics.values()))
        if epochs < 2:
            raise WeightScaleError(f"a run in {folder} has one whole epoch only, and no curve yet: go on with --resume")
        histories = [RWCHistory.load(run / PER_EPOCH).select(steps=slice(0, epochs)) for run in metrics]
        if any(
            history.names != histories[0].names or history.definition != histories[0].definition
            for history in histories
        ):
            raise WeightScaleError(f"the runs in {folder} are of different networks or definitions: they have no mean")
        return cls(
            folder,
            tuple(replace(history, settings={**history.settings, "unit": "epoch"}) for history in histories),
            tuple(lines[:epochs] for lines in metrics.values()),
            {_seed(run): reason for run, reason in left_out.items()},
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the first run; the others differ in `seed`."""
        return self.histories[0].settings

    @property
    def network(self) -> str:
        """The architecture, as the papers call it."""
        return str(self.settings["model"]).removesuffix("-small")

    @property
    def data(self) -> str:
        """The data set that was trained on."""
        return Path(self.settings["data"]).name

    @property
    def rwc(self) -> FloatArray:
        """[R, E, L] the relative weight change of every layer in every epoch of every run."""
        return np.stack([history.rwc for history in self.histories])

    def mean(self) -> RWCHistory:
        """The history whose RWC is the mean over the runs: see `mean_history`."""
        return mean_history(self.histories)

    def per_step(self) -> RWCHistory:
        """The record of every step of the first run."""
        return RWCHistory.load(self.folder / f"seed-{self.settings['seed']}")

    def accuracy(self, name: str) -> FloatArray:
        """[R] a metric such as `"test_top1"` after the last epoch of each run."""
        return np.array([lines[-1][name] for lines in self.metrics])


def _seed(run: Path) -> int:
    return int(run.name.removeprefix("seed-"))


def _end_of_loss(lines: list[dict[str, Any]]) -> int | None:
    """The epoch whose loss was not finite, if any."""
    return next((line["epoch"] for line in lines if diverged(line)), None)


def mean_history(histories: Sequence[RWCHistory]) -> RWCHistory:
    """One history whose `rwc` is the mean of the histories' `rwc`, as the papers average over seeds (arXiv 2011.06735).

    Its `prev_l1`, `moved` and `ratio_sum` are means too; its `delta_l1` is what makes Eq. 1 give the mean of the
    ratios, which is not the ratio of the means.

    Raises:
        ValueError: no history, or not the same layers, steps and definition in all.

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
    return replace(
        first,
        delta_l1=np.mean(norm_ratios, axis=0) * prev_l1,
        prev_l1=prev_l1,
        moved=np.mean([history.moved for history in histories], axis=0).round().astype(np.int64),
        ratio_sum=np.mean(ratios, axis=0) if ratios else None,
        settings={**first.settings, "seed": [history.settings.get("seed") for history in histories]},
    )

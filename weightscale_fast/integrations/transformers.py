"""RWCTrainerCallback: the record of a training run of the Transformers Trainer."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import WeightScaleError, check_one_of
from ..extras import import_extra
from ..health.finding import Finding
from ..monitor import RWCMonitor
from ..record.baseline import BASELINES
from ..record.history import RWCHistory
from ..record.new_run import EXIST, local_path
from ..weights.dtensor import is_dtensor
from ..weights.layers import LayerSelector, select_layers
from .resume import start_monitor
from .trackers import log_summary

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
else:
    TrainerCallback = import_extra("transformers", "integrations").TrainerCallback


class RWCTrainerCallback(TrainerCallback):
    """Record the relative weight change of every layer after each real step of the optimizer.

    Accumulated batches make one row. A step that a gradient scaler skips makes no row. With a fused optimizer, which is
    the Trainer's default, it makes a row of 0 that `history().skipped` marks. The Trainer's checkpoints contain the
    state of the record, so after `trainer.train(resume_from_checkpoint=True)` the record has no hole, no double row and
    no false first value. With `save_only_model` the state is left out.

    Several processes record together, as described in `RWCMonitor`. `history()` is then a collective call until
    training ends. Afterwards only the first process has the record of a `run_dir`.

    Args:
        run_dir: a new folder for the record; None keeps the record in memory. If training continues from a checkpoint,
            the folder of that run.
        exist: what to do if `run_dir` holds an earlier run and training starts anew, as for `RWCMonitor`: `"error"`,
            `"overwrite"`, or `"next"` to record to `run_dir-2` and so on, as for a second `train()` or for trials.
            `monitor.run_dir` tells the folder.
        every, layers, definition, baseline, on_finding: as for `RWCMonitor`.
        tracker: gets the numbers of `summarize` whenever the Trainer logs; see `log_summary`. A callback cannot
            reach the Trainer's own trackers, so pass the one that you use: `wandb`, `mlflow`, a `SummaryWriter`, ...
            With several processes pass it on all of them: they add up the numbers together, and the first logs them.

    Raises:
        WeightScaleError: Transformers is not installed. When training starts, the errors of `RWCMonitor`.

    Example:
        `Trainer(..., callbacks=[RWCTrainerCallback("runs/first")])`, and after `train` `weightscale analyze runs/first`
    """

    def __init__(
        self,
        run_dir: str | Path | None = None,
        *,
        exist: str = "error",
        every: int = 1,
        layers: LayerSelector = None,
        definition: str = "norm_ratio",
        baseline: str | None = None,
        on_finding: Callable[[Finding], object] | None = None,
        tracker: Any = None,
    ) -> None:
        check_one_of("exist", exist, EXIST)
        if baseline is not None:
            check_one_of("baseline", baseline, BASELINES)
        self.monitor: RWCMonitor | None = None  # None before training
        self._options: dict[str, Any] = {
            "run_dir": None if run_dir is None else local_path(run_dir),
            "exist": exist,
            "every": every,
            "layers": layers,
            "definition": definition,
            "baseline": baseline,
            "on_finding": on_finding,
        }
        self._tracker = tracker
        self._logged = 0  # the last step that was logged
        self._training = False

    def history(self) -> RWCHistory:
        """Everything recorded so far.

        Raises:
            WeightScaleError: training has not started.
        """
        if self.monitor is None:
            raise WeightScaleError("nothing is recorded before training: call trainer.train() first")
        return self.monitor.history()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the monitor. The model has its weights by now, also those of a checkpoint."""
        again, options = False, dict(self._options)
        if self.monitor is not None:
            again = args.auto_find_batch_size and self._training  # the Trainer starts again with smaller batches
            self.monitor.close()
            if again or state.global_step:
                options["run_dir"] = self.monitor.run_dir  # with exist="next" not the folder that was asked for
        self.monitor = start_monitor(
            kwargs["model"],
            kwargs["optimizer"],
            step=state.global_step,
            state=self._load(args, state, kwargs["model"]),
            again=again,
            process_group=_replicas(args, kwargs["model"]),
            **options,
        )
        self._training = True
        self._logged = self.monitor.step

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Log a summary to the tracker."""
        if self._tracker is None or self.monitor is None:
            return
        history = self.monitor.recent(after=self._logged)
        self._logged = self.monitor.step
        if state.is_world_process_zero:
            log_summary(history, self._tracker, state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Put the record's state into the checkpoint that was just written."""
        if self.monitor is None or args.save_only_model:
            return
        monitor_state = self.monitor.checkpoint_state()
        folder = _checkpoint(args, state)
        if args.should_save and folder.is_dir():
            torch.save(monitor_state, folder / self._file(monitor_state["names"]))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the monitor."""
        self._training = False
        if self.monitor is not None:
            self.monitor.close()

    def _file(self, names: Iterable[str]) -> str:
        """The name of the state's file. It differs for callbacks with other options or other layers."""
        what = (self._options["every"], self._options["definition"], *names)
        return f"weightscale_fast_{hashlib.sha256(repr(what).encode()).hexdigest()[:12]}.pt"

    def _load(self, args: TrainingArguments, state: TrainerState, model: nn.Module) -> dict[str, Any] | None:
        """The record's state in the checkpoint that training continues from; None if there is none."""
        if not state.global_step:
            return None
        folders = [_checkpoint(args, state)]
        if isinstance(args.resume_from_checkpoint, str):
            folders.insert(0, Path(args.resume_from_checkpoint))
        file = self._file(select_layers(model, self._options["layers"]))
        for folder in folders:
            if (folder / file).is_file():
                loaded: dict[str, Any] = torch.load(folder / file, map_location="cpu", weights_only=True)
                return loaded
        warnings.warn(
            f"no {file} in {' or '.join(map(str, folders))}: the record continues after step {state.global_step}, "
            "from the current weights; if the checkpoint is elsewhere, pass its folder as "
            "TrainingArguments(resume_from_checkpoint=...)",
            stacklevel=2,
        )
        return None


def _replicas(args: TrainingArguments, model: nn.Module) -> Any:
    """The processes that hold the same weights, if there are several. The Trainer hides the wrapper that names them."""
    if args.world_size == 1 or any(map(is_dtensor, model.parameters())):
        return None
    return torch.distributed.group.WORLD


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"

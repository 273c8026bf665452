"""RWCMonitor: records every layer's relative weight change as a model trains."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from .distributed.process_group import find_ranks, reshard_fsdp2
from .eager import always_eager
from .errors import WeightScaleError, check_one_of
from .health.finding import Finding
from .health.summary import RunSummary
from .health.watch import HealthWatch
from .optim.records_sums import RecordsSums
from .ratios import check_definition
from .record import resume as resuming
from .record.baseline import BASELINES
from .record.frozen import Watch
from .record.history import RWCHistory
from .record.new_run import EXIST
from .record.optimizer_hook import OptimizerHook, unwrap_optimizer
from .record.record import Record
from .record.replicas import Parted
from .record.rows import Rows
from .record.step_check import StepCheck
from .record.still_look import StillLook
from .text import count
from .weights.layers import LayerSelector

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup  # some builds of torch have none


class RWCMonitor:
    """Record the relative weight change of every layer, in memory or to a run folder.

    Args:
        model: the network.
        optimizer: the monitor records after each of its steps, so accumulated batches make one row. If it wraps another
            optimizer, as Lookahead does, or calls `super().step()`, the outermost call is the step. A step that a
            gradient scaler skips makes no row. Fused optimizers are called even for such a step: it then makes a row of
            0, which `history().skipped` marks. Without an optimizer, call `record()` where a step ends: after the
            last of several optimizers, or after a backward pass in which parameters are updated one by one. Or make one
            monitor for each of several optimizers, with the `layers` that it trains.
        every: steps between two rows. By default a row compares with the weights that many steps before, so `every` is
            the horizon too. With the number of steps in an epoch it gives the papers' per-epoch curves.
        layers: which weights are layers, as for `snapshot`.
        definition: what `history().rwc` will be, `"norm_ratio"`, `"mean_ratio"` or `"l2_ratio"`.
        l2: record the L2 norms of the change and of the weights, and the largest change, too. `"l2_ratio"` does so.
        baseline: the weights that a row compares with. `"last_row"`: those at the row before. They are kept all the
            time, which takes as much memory as the layers have. `"before_step"`: those before the step of the row. The
            copy exists only while this step runs. A row is then the change of one step, also with `every` above 1, and
            what changes the weights between two steps is in no row. It needs the optimizer. None is `"last_row"`. But
            with an optimizer of `weightscale_fast.optim` it is `"before_step"`, without any copy: the optimizer adds up
            the sums in its own pass over the weights.
        run_dir: a folder for the record, new or without a row. Its closed shards can be loaded whatever happens to this
            process. With a folder, memory and time per step do not grow with the run.
        exist: what to do if `run_dir` holds the rows of an earlier run. `"error"` refuses it. `"overwrite"` deletes
            that run: its meta.json, observed.json, rows and analysis, and nothing else. `"next"` records to the first
            free one of `run_dir-2`, `run_dir-3`, ...
        settings: what to keep in the record about the run (model, data, seed, hyper-parameters): a dict, or a namespace
            such as argparse's. Values that JSON cannot hold are kept as text.
        resume: go on with the run in `run_dir` after its last row, or begin it if the folder does not exist. So the
            same script can start and go on. To go back to a checkpoint, call `load_state_dict`.
        process_group: the processes that train this model together. By default those of its wrapper of
            `DistributedDataParallel` or of its DTensors (FSDP2, HSDP, tensor parallel), otherwise this process alone.
            Weights that are no DTensors must be equal on all of them.
        pipeline: every process holds some stages of the model. Layers have the names that they have in the whole model.
        on_finding: called with each `Finding` of `check_health` during training; `print`, for example. It does not wait
            for the device, because it sees rows when they arrive on the host: every 256 rows or every minute, whichever
            comes first, and on a GPU one such part later. A finding is repeated only if the layer got better in
            between. It is called after a step is recorded, and may raise to end the run. With several processes it is
            called only on ranks that keep rows. With a run folder that is rank 0, which must not make collective calls
            in it; without one, all ranks.

    Attributes:
        model: the network, as given.
        run_dir: the folder that the record goes to; None if it stays in memory.
        step: optimizer steps so far. Steps in replays of a CUDA graph count from the next `flush` on.

    With `baseline="last_row"` a row must be the change between two ends of steps. So the monitor compares the
    weights before some steps with those of the last row: after each of the first 20 rows, and later after a few
    rows from 64, 128, 256, ... on, 20 at most each time. It warns if the loop changes them after `step`, at every
    step or at every n-th. On a GPU it does so a few steps later, because it does not wait, and at the latest at
    `flush`, `history` or `close`. It also warns if another optimizer steps on the model's layers while the watched
    one does not; and at `history` or `close`, if `record()` was never called.

    Making a monitor warns if an earlier one still records the same: this model and optimizer, with these `layers`,
    `every` and `definition`, in memory or to a folder. A monitor cannot be copied or pickled: save its `state_dict`,
    and keep it outside of a model that is copied or saved.

    The monitor also warns of what a record does not show: a layer that moves while it is frozen
    (`requires_grad=False`), a layer that is new in the model, and an optimizer that was rebuilt or does not train the
    model any more. It warns when rows arrive on the host, at the latest at `flush`. The layers are those that the model
    has when the monitor is made; for others make a new monitor.

    On a GPU a row is recorded on the current stream. If steps run on several streams, order each step after the one
    before. The weights need that too, and it puts the rows in order.

    With several processes, making the monitor, `flush`, `history`, `recent`, `summary`, `state_dict`,
    `checkpoint_state`, `load_state_dict` and `close` are collective calls: every rank must make them, after the same
    step. Each rank counts its share of the weights, and steps send nothing: one all-reduce adds up at most 256 rows at
    a time. The same all-reduce compares the weights that several ranks hold, and rank 0 warns if they are not equal.
    Rank 0 writes `run_dir`. If a rank does not call `close`, the rows that were not added up yet are lost.
    Parameters that FSDP2 has gathered are resharded when the monitor is made.

    Raises:
        ValueError, TypeError: a wrong argument, no layer in the model, or an optimizer of none of its parameters.
        WeightScaleError: the run folder exists, cannot be written, is another run's, or another monitor writes to it;
            or the ranks' models do not fit together.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with RWCMonitor(model, optimizer) as monitor:
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         model(torch.ones(2, 4)).square().sum().backward()
        ...         optimizer.step()
        >>> history = monitor.history()
        >>> history.steps, history.rwc.shape
        (array([1, 2, 3]), (3, 2))
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        every: int = 1,
        layers: LayerSelector = None,
        definition: str = "norm_ratio",
        baseline: str | None = None,
        l2: bool = False,
        run_dir: str | Path | None = None,
        exist: str = "error",
        settings: object = None,
        resume: bool = False,
        process_group: ProcessGroup | None = None,
        pipeline: bool = False,
        on_finding: Callable[[Finding], object] | None = None,
    ) -> None:
        check_definition(definition)
        if baseline is not None:
            check_one_of("baseline", baseline, BASELINES)
        if baseline == "before_step" and optimizer is None:
            raise ValueError(
                'baseline="before_step" needs the optimizer, because the weights are copied when its step begins: pass '
                'the optimizer, or use baseline="last_row" and call record() after each step'
            )
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ValueError(f"every must be a whole number of steps, 1 or more, got {every!r}")
        if on_finding is not None and not callable(on_finding):
            raise TypeError(
                f"on_finding must be callable with a finding, such as print; got {type(on_finding).__name__}"
            )
        if run_dir is not None and (not isinstance(run_dir, (str, os.PathLike)) or not os.fspath(run_dir)):
            raise TypeError(f"run_dir must be the path of a folder, or None for a record in memory, got {run_dir!r}")
        if not isinstance(l2, bool):
            raise TypeError(f"l2 must be True or False, got {l2!r}")
        l2 = l2 or definition == "l2_ratio"
        if not isinstance(resume, bool):
            raise TypeError(f"resume must be True or False, got {resume!r}")
        if resume and run_dir is None:
            raise ValueError("resume=True needs run_dir, the folder of the run to go on with")
        check_one_of("exist", exist, EXIST)
        if resume and exist != "error":
            raise ValueError(
                f"resume=True continues the run in run_dir, so it cannot go with exist={exist!r}: drop one"
            )
        stepping = None if optimizer is None else unwrap_optimizer(optimizer)
        summing = stepping if isinstance(stepping, RecordsSums) and baseline != "last_row" else None
        baseline = baseline or ("last_row" if summing is None else "before_step")
        if summing is not None and not summing.makes_the_whole_step:
            summing = None  # so the weights are copied before its step
        self.model = model
        self._thread = threading.get_ident()
        reshard_fsdp2(model)
        self._record = Record(
            model,
            every=every,
            layers=layers,
            definition=definition,
            baseline=baseline,
            l2=l2,
            settings={} if settings is None else settings,
            summing=summing,
            pipeline=pipeline,
            ranks=find_ranks(model, process_group, pipeline),
            arguments={
                "every": every,
                "definition": definition,
                "baseline": baseline,
                "l2": l2,
                "run_dir": None if run_dir is None else "a folder",  # only rank 0's is used
                "resume": resume,
                "exist": exist,
                "pipeline": pipeline,
            },
        )
        snapshot = self._record.snapshot
        recorded = snapshot.names, every, definition, baseline, run_dir is None
        self._hook = None if optimizer is None else OptimizerHook(optimizer, model, recorded)
        if self._hook is not None:
            self._record.store.rates = self._hook.rate_reader(model, snapshot.names)
        self._steps = StepCheck(
            model, snapshot, self._record.last_moved, self._hook.name if self._hook else None, baseline
        )
        self._watch = Watch(model, snapshot.lookup_in(model), layers, snapshot.names)
        names, numel = snapshot.names, self._record.meta["numel"]
        self._still = (
            StillLook(model, None, names, numel) if self._hook is None else self._hook.still_look(model, names, numel)
        )
        self._health = HealthWatch(self._record.meta, on_finding)
        self._parted: Parted | None = None  # the last difference between ranks that is known
        self._told_of: Parted | None = None
        self.run_dir: Path | None = None
        if run_dir is not None:
            self.run_dir = self._record.open(run_dir, resume=resume, exist=exist)
            self._watch.restart(self.step)
            self._still.resume(self._record.store.observed, self.step)
        self._record.store.observe(self._still.observed)
        # If nobody calls close(), rows that are still in the ring reach the folder at garbage collection or at exit.
        # With several processes they are lost, because the other ranks may not come any more.
        self._unclosed = weakref.finalize(self, self._record.abandon)
        if self._hook is not None:
            try:
                in_step = self._hook.start(self._before_step, self._after_step, self._steps.other_steps)
                self._record.baseline.monitor_starts(in_step=in_step)
            except BaseException:
                self.abandon()  # so that the folder is free for the next try
                raise

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse copy, deepcopy and pickle: a copy would not be what the optimizer calls."""
        raise TypeError(
            "a monitor cannot be copied or pickled, because it belongs to one model and one optimizer of this process: "
            "save its state_dict(), and load that into a new monitor. If a model or a configuration that is copied or "
            "saved has the monitor as an attribute, keep the monitor outside of it, in a variable of its own"
        )

    @property
    def step(self) -> int:
        """Optimizer steps so far. Steps in replays of a CUDA graph count from the next `flush` on."""
        return self._record.step

    def __repr__(self) -> str:
        state = "recording" if self._unclosed.alive else "closed"
        layers = count(len(self._record.snapshot), "layer")
        return f"RWCMonitor({type(self.model).__name__}, {layers}, {state}, step {self.step:,})"

    def record(self) -> None:
        """A step is done: if a row is due, compare the weights with those of `every` steps ago.

        Raises:
            WeightScaleError: the monitor is closed, or it has an optimizer and so records by itself.
        """
        if self._hook is not None:
            raise WeightScaleError(
                "this monitor records after each optimizer.step() by itself: remove this call or the optimizer argument"
            )
        if not self._unclosed.alive:
            raise WeightScaleError("the monitor is closed: make a new one to continue recording")
        self._after_step()

    def _before_step(self, raised: bool) -> None:
        self._still.look()
        self._observe()
        self._record.step_begins(self.model)
        if self._record.baseline.name == "before_step":
            return
        self._steps.judge()
        due = self._steps.is_due(raised=raised)
        if due and not self._record.between_rows and not self._record.is_capturing():
            self._steps.compare(raised=raised)

    @always_eager
    def _after_step(self, found_inf: Tensor | None = None) -> None:
        added = self._record.add_step(self.model, found_inf if isinstance(found_inf, Tensor) else None)
        self._steps.step_ended(row=added is not None)
        if added is None:
            return
        self._watch.look(self.step)
        if self._record.ranks is None:
            self._still.row_added(self._record.rows_added, self.step, self._record.last_row)
            self._observe()
        if added.plan_changed and self._hook is not None:
            self._hook.warn_if_unrelated(self.model)
        if added.arrived:
            self._look_at(added.arrived)
            self._tell()

    def _observe(self) -> None:
        """Keep what is known of layers that do not move, and of the ranks' copies."""
        self._still.collect()
        parted = self._record.parted
        if parted is not None and parted is not self._parted:
            self._parted = parted
            self._still.observed = replace(
                self._still.observed, parted_step=parted.step, parted_layers=tuple(parted.layers)
            )
        if self._still.observed is not self._record.store.observed:
            self._record.store.observe(self._still.observed)

    def _look_at(self, arrived: list[Rows]) -> None:
        self._observe()
        for rows in arrived:
            self._watch.check(rows)
            self._still.rows_arrived(rows)
            self._health.take(rows, self._still.observed)

    def _tell(self) -> None:
        with self._record.store.alone():
            self._tell_of_replicas()
            self._health.tell()

    def _tell_of_replicas(self) -> None:
        """Say once that the ranks' copies of the weights part. The rows are stored by now, so a warning may raise."""
        parted, record = self._record.parted, self._record
        if parted is None or parted is self._told_of or record.ranks is None:
            return
        self._told_of = parted
        if record.ranks.rank == 0:
            warnings.warn(str(parted), stacklevel=2)

    def _warn_of_missed_steps(self) -> None:
        if threading.get_ident() != self._thread:  # in the other thread a step may have begun and not be recorded yet
            return
        if self._hook is not None and not self._record.between_rows:
            last_row = self._record.snapshot if self._record.baseline.name == "last_row" else None
            self._hook.warn_if_steps_missed(self.model, last_row)
            if self.step == 0:
                self._hook.warn_if_no_step(self.model)
        if self._hook is None and self.step == 0:
            self._steps.warn_if_never_called()

    @property
    def nbytes(self) -> int:
        """Memory for the previous weights on this process now, in bytes: 0 between steps with `"before_step"`."""
        return self._record.snapshot.nbytes

    def history(self) -> RWCHistory:
        """Everything recorded so far. With several processes and a run folder, ranks other than 0 get no rows."""
        self._warn_of_missed_steps()
        self.flush()
        return self._record.history()

    def recent(self, *, after: int) -> RWCHistory:
        """The rows after step `after` that the ring on the device still holds.

        These are the last 512. For more than about 5,000 layers they are fewer, so that the ring takes 64 MiB at most.

        It copies these rows to the host, and so waits once for all streams of the device. It does not change what is
        recorded or when it is written, while `history()` closes a shard and reads the whole run. Do not use it with a
        monitor in a CUDA graph, where only the device counts the rows. With several processes it is a collective call:
        all ranks get the same rows, added up over their shares of the weights.

        Args:
            after: a step; `monitor.step - 50` for the last 50.

        Returns:
            A history; without rows if none was recorded since.

        Example:
            >>> monitor = RWCMonitor(nn.Linear(2, 2))
            >>> for _ in range(3):
            ...     monitor.record()
            >>> monitor.recent(after=1).steps
            array([2, 3])
        """
        if not isinstance(after, (int, np.integer)):
            raise TypeError(f"after must be a step, a whole number, got {after!r}")
        return self._record.recent(after)

    def summary(self) -> RunSummary:
        """The rows of `recent` on half a page, with the findings of `check_health`; cheap enough for every epoch.

        With several processes it is a collective call, and all ranks get the same summary.

        Raises:
            ValueError: nothing is recorded yet.
        """
        if self.step == 0:
            self._warn_of_missed_steps()
        return RunSummary.of(self.recent(after=0))

    def flush(self) -> None:
        """Bring every recorded row to the run folder now. This waits for the device, and for the other ranks if any.

        It is needed only if a CUDA graph holds `record()`, because the host does not see the replays. Call it at least
        once in 512 replays, or in as many as `recent` returns rows. Such a graph may still be replayed after this
        monitor is closed and deleted. So the memory that the graph writes to, the rows and the previous weights, is
        kept until the process ends.
        """
        self._look_at(self._record.flush())
        self._observe()
        self._steps.judge()  # nothing pends any more, because the flush has waited for the device
        self._tell()

    def close(self) -> None:
        """Flush and stop recording. `history()` can still be called, and is then no collective call."""
        self._warn_of_missed_steps()
        self._observe()  # before the folder is given up
        self._end(self._record.close)
        self._steps.judge()
        self._tell()

    def abandon(self) -> None:
        """Stop recording after an error, when other ranks may not call `close`. A `with` block does this by itself.

        With one process every row is kept, as with `close`, but `on_finding` is not called. With several processes it
        is no collective call: rows that were not added up yet are lost, with a warning.
        """
        self._end(self._record.abandon)

    def _end(self, last_call: Callable[[], list[Rows]]) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        try:
            if self._unclosed.detach() is not None:
                self._look_at(last_call())
        finally:
            self._watch.end()

    def __enter__(self) -> RWCMonitor:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs so that a resumed run has no hole, no double row and no false first value.

        It holds the previous weights, which are as large as the model's layers, but none with
        `baseline="before_step"`. Without a run folder it holds the record too. With several processes each rank has its
        share of the weights: save and load it on all of them.

        Raises:
            WeightScaleError: a signal handler called it in the middle of a step, or a hook of the optimizer called it
                before the step was recorded.
        """
        self._check_step_has_row("state_dict")
        self.flush()
        return resuming.state_dict(self._record)

    def checkpoint_state(self) -> dict[str, Any]:
        """A `state_dict()` that every rank can load, for frameworks that save the state of one rank only.

        If the previous weights are equal to the model's, they are left out, and the state adds almost nothing to the
        checkpoint. This is so after a row, unless something else than the optimizer changed the weights. Otherwise, as
        between two rows with `every` above 1, the previous weights of all ranks are in it. With several processes it is
        a collective call.

        Example:
            >>> monitor = RWCMonitor(nn.Linear(2, 2))
            >>> monitor.record()
            >>> monitor.checkpoint_state()["weights"] is None
            True
        """
        self._check_step_has_row("checkpoint_state")
        self.flush()
        return resuming.checkpoint_state(self._record, self.model)

    def _check_step_has_row(self, call: str) -> None:
        if self._hook is not None:
            self._hook.check_not_in_hook(call)
        elif self._unclosed.alive:
            resuming.warn_of_unrecorded_step(self._record, self.model)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go back to the moment of `state_dict()`. Later rows are deleted, in the run folder too.

        If the state's `"weights"` are None, the model's weights are the previous weights: load the model first.

        Raises:
            ValueError: the state is damaged, or has other layers, another definition or another `every`; or its rows
                are in a run folder and this monitor has none, or the folder of another run. Nothing is loaded then.
            WeightScaleError: the monitor is closed and has a run folder; the rows in the folder cannot be deleted; this
                process was forked from the one that made the monitor; a signal handler called it in the middle of a
                step; a hook of the optimizer called it before the step was recorded; or another rank cannot load.
        """
        if self._hook is not None:
            self._hook.check_not_in_hook("load_state_dict")
        resuming.load_state_dict(self._record, state_dict, self.model)
        self._watch.restart(self.step)
        self._steps.restart()
        self._still.go_back(self.step)
        self._observe()
        self._health.restart()

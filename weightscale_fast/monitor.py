"""RWCMonitor: records every layer's relative weight change as a model trains."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .distributed.process_group import find_ranks, reshard_fsdp2
from .eager import always_eager
from .errors import WeightScaleError
from .health.check import HealthWatch
from .health.finding import Finding
from .health.summary import RunSummary
from .ratios import check_definition
from .record import resume as resuming
from .record.frozen import Watch
from .record.history import RWCHistory
from .record.optimizer_hook import OptimizerHook
from .record.record import Record
from .record.rows import Rows
from .weights.layers import LayerSelector

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup  # a build of torch may be without


class RWCMonitor:
    """Record the relative weight change of every layer, in memory or to a run folder.

    Args:
        model: the network.
        optimizer: records by itself after each of its steps, once under gradient accumulation. A step that a gradient
            scaler skips is no step, but for fused optimizers, which are called all the same: it is then a row of 0,
            which `history().skipped` tells. Without an optimizer, call `record()` where a step ends: after the last of
            several optimizers, or after a backward pass in which parameters are updated one by one. Or give each of
            several optimizers a monitor with the `layers` that it trains.
        every: steps between two rows. A row compares with the weights that many steps before, so `every` is the horizon
            too: with the number of steps of an epoch it gives the papers' per-epoch curves.
        layers: which weights are layers, as for `snapshot`.
        definition: `"norm_ratio"` or `"mean_ratio"`, what `history().rwc` will be.
        run_dir: a new folder for the record. Closed shards of it load whatever happens to this process; memory and time
            a step then do not grow with the run.
        settings: anything that JSON can hold about the run (model, data, seed, hyper-parameters); kept in the record.
        resume: go on with an existing `run_dir` after its last row; `load_state_dict` takes it back to a checkpoint.
        process_group: the processes that train this model together. By default those of its wrapper of
            `DistributedDataParallel` or of its DTensors (FSDP2, HSDP, tensor parallel); otherwise this one alone.
            Weights that are no DTensors must then be equal on all of them.
        pipeline: every process holds some stages of the model, under the names that layers have in the whole model.
        on_finding: called with each `Finding` of `check_health` as training goes on, `print` for one. It costs no wait
            for the device, because it sees rows on their way to the record: every 256 rows or every minute, whichever
            comes first, and on a GPU one such part later. Nothing is said twice unless it had got better. It is called
            after a step is recorded, and may raise to end the run. Of several processes those call it that keep the
            record: rank 0 with a run folder, which then cannot make calls that are for all ranks; else all.

    What a record alone would not show is a warning when rows come to the host, at the latest at `flush`: a layer that
    moves while it is frozen (`requires_grad=False`), a layer that the model got since, an optimizer that was rebuilt or
    trains the model no more. The layers are those of the beginning; for others make a new monitor.

    On a GPU a row is recorded on the current stream. Where steps run on several streams, order each step after the one
    before, as the weights themselves need it; the rows are then in order too.

    With several processes, making the monitor, `flush`, `history`, `recent`, `summary`, `state_dict` and `close` are
    collective calls: every rank must make them, after the same step. Each rank counts its share of the weights, and
    nothing is sent at a step: one all-reduce adds up at most 256 rows at a time. Rank 0 writes `run_dir`; what was not
    added up when the processes end, because not all of them called `close`, is lost.

    Raises:
        ValueError, TypeError: a wrong argument, no layer in the model, or an optimizer of none of its parameters.
        WeightScaleError: the run folder exists, cannot be written, or is another run's; or the ranks' models do not fit
            together.

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
        run_dir: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        resume: bool = False,
        process_group: ProcessGroup | None = None,
        pipeline: bool = False,
        on_finding: Callable[[Finding], object] | None = None,
    ) -> None:
        check_definition(definition)
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a whole number of steps, 1 or more, got {every!r}")
        if on_finding is not None and not callable(on_finding):
            raise TypeError(f"on_finding must be called with each finding, as print; got {type(on_finding).__name__}")
        if resume and run_dir is None:
            raise ValueError("resume=True needs run_dir, the folder of the run to go on with")
        self.model = model
        reshard_fsdp2(model)
        self._record = Record(
            model,
            every=every,
            layers=layers,
            definition=definition,
            settings=settings or {},
            pipeline=pipeline,
            ranks=find_ranks(model, process_group, pipeline),
            arguments={
                "every": every,
                "definition": definition,
                "run_dir": None if run_dir is None else "a folder",  # only rank 0's is used
                "resume": resume,
                "pipeline": pipeline,
            },
        )
        self._hook = None if optimizer is None else OptimizerHook(optimizer, model)
        snapshot = self._record.snapshot
        self._watch = Watch(model, snapshot.lookup_in(model), layers, snapshot.names)
        self._health = HealthWatch(self._record.meta, on_finding)
        if run_dir is not None:
            self._record.open(Path(run_dir), resume=resume)
            self._watch.restart(self.step)
        # If nobody calls close(), rows that are still in the ring reach the folder at garbage collection or at exit.
        # With several processes they are lost, because the other ranks may not come any more.
        self._unclosed = weakref.finalize(self, self._record.abandon)
        if self._hook is not None:
            self._hook.start(self._after_step)

    @property
    def step(self) -> int:
        """Optimizer steps so far; those in replays of a CUDA graph count from the next `flush` on."""
        return self._record.step

    def record(self) -> None:
        """One step is done: compare the weights with those `every` steps ago, if it is time.

        Raises:
            WeightScaleError: the monitor is closed, or watches an optimizer and so records by itself.
        """
        if self._hook is not None:
            raise WeightScaleError(
                "this monitor records after each optimizer.step() by itself: drop the call, or the optimizer argument"
            )
        if not self._unclosed.alive:
            raise WeightScaleError("the monitor is closed: make a new one to record on")
        self._after_step()

    @always_eager
    def _after_step(self, found_inf: Tensor | None = None) -> None:
        added = self._record.add_step(self.model, found_inf if isinstance(found_inf, Tensor) else None)
        if added is None:
            return
        self._watch.look(self.step)
        if added.plan_changed and self._hook is not None:
            self._hook.warn_if_strange(self.model)
        if added.arrived:
            self._look_at(added.arrived)
            self._tell()

    def _look_at(self, arrived: list[Rows]) -> None:
        for rows in arrived:
            self._watch.check(rows)
            self._health.take(rows)

    def _tell(self) -> None:
        with self._record.recorder.alone():
            self._health.tell()

    def _warn_of_missed_steps(self) -> None:
        if self._hook is not None and not self._record.between_rows:
            self._hook.warn_if_silent(self.model, self._record.snapshot)

    @property
    def nbytes(self) -> int:
        """Memory that the previous weights take on this process, in bytes."""
        return self._record.snapshot.nbytes

    def history(self) -> RWCHistory:
        """Everything recorded so far; of several processes with a run folder, rank 0 has it and the others no rows."""
        self._warn_of_missed_steps()
        self.flush()
        return self._record.history()

    def recent(self, *, after: int) -> RWCHistory:
        """The rows after step `after`, 512 at most: those that the ring on the device still holds.

        It copies these rows to the host and so waits for the device, for all its streams, once; what is recorded and
        when it is written stays as it is, where `history()` would close a shard and read the whole run. Not for a
        monitor in a CUDA graph: of its rows only the device knows. Of several processes all get the same rows, summed
        over every rank's share of the weights: it is a collective call.

        Args:
            after: a step; `monitor.step - 50` for the last 50.

        Returns:
            A history; of no rows where none was recorded since.

        Example:
            >>> monitor = RWCMonitor(nn.Linear(2, 2))
            >>> for _ in range(3):
            ...     monitor.record()
            >>> monitor.recent(after=1).steps
            array([2, 3])
        """
        return self._record.recent(after)

    def summary(self) -> RunSummary:
        """The last 512 rows on half a page, with what `check_health` finds in them; cheap enough for every epoch.

        Of several processes every rank must call it, and all get the same.

        Raises:
            ValueError: nothing is recorded yet.
        """
        return RunSummary.of(self.recent(after=0))

    def flush(self) -> None:
        """Bring every recorded row to the run folder now; this waits for the device, and for the other ranks if any.

        Only where a CUDA graph holds `record()` is it needed: at least once in 512 replays, of which the host knows
        nothing. Such a graph may be replayed when this monitor is closed and gone, so what it writes, the rows and the
        previous weights, stays in memory until the process ends.
        """
        self._look_at(self._record.flush())
        self._tell()

    def close(self) -> None:
        """Flush and stop recording; `history()` stays, and is then no collective call."""
        self._warn_of_missed_steps()
        self._end(self._record.close)
        self._tell()

    def abandon(self) -> None:
        """Stop recording after an error, where other ranks may not come to `close`; a `with` block does it by itself.

        On one process every row is kept, as with `close`, but `on_finding` is not called. With several processes it is
        no collective call: the rows that were not added up yet are lost, with a warning.
        """
        self._end(self._record.abandon)

    def _end(self, last_call: Callable[[], list[Rows]]) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        if self._unclosed.detach() is not None:
            self._look_at(last_call())

    def __enter__(self) -> RWCMonitor:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs so that a resumed run has no hole, no double row and no false first value.

        It holds the previous weights, as large as the model's layers; without a run folder, the record too. Of several
        processes each has its share of the weights: save and load it on all of them.
        """
        self.flush()
        return resuming.state_dict(self._record)

    def checkpoint_state(self) -> dict[str, Any]:
        """A `state_dict()` that every process can load, whichever saved it, for frameworks that keep what one says.

        Previous weights that are the model's, as after a row unless something else than the optimizer changed them, are
        left out, so that it adds next to nothing to the checkpoint. Otherwise, as between two rows with `every` above
        1, those of all processes are in it. Of several processes every rank must call it.

        Example:
            >>> monitor = RWCMonitor(nn.Linear(2, 2))
            >>> monitor.record()
            >>> monitor.checkpoint_state()["weights"] is None
            True
        """
        self.flush()
        return resuming.checkpoint_state(self._record, self.model)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go back to the moment of `state_dict()`: later rows are dropped, in the run folder too.

        Where the state's `"weights"` are None, the model's are the previous weights: then load the model before.

        Raises:
            ValueError: the state is of other layers, another definition or another `every`, or of a monitor with a run
                folder while this one has none.
        """
        resuming.load_state_dict(self._record, state_dict, self.model)
        self._watch.restart(self.step)
        self._health.restart()

"""Record: the part of a monitor that records. It owns the previous weights, the ring, the store and the step."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from ..distributed.process_group import Ranks, has_joined, hint_of_others
from ..distributed.share_lookup import ShareLookup
from ..distributed.shares import agree
from ..errors import WeightScaleError
from ..graph_capture import is_capturing
from ..ops.backends import warm_up
from ..ops.plan import sum_dtype
from ..optim.records_sums import RecordsSums
from ..weights.brief_copy import BriefCopy
from ..weights.kinds import layer_kind
from ..weights.layers import LayerSelector
from ..weights.snapshot import Snapshot
from ..weights.uncopied import Uncopied
from .baseline import Baseline, BeforeStep, LastRow
from .history import RWCHistory
from .in_step import InStep
from .observed import Observed
from .replicas import Parted, Replicas
from .ring import Ring, arrives_late
from .row_store import RowStore
from .row_sum import LocalSum, RankSum
from .rows import Rows
from .run_folder import RunFolder
from .run_meta import sums_of
from .settings import plain_settings


class Added(NamedTuple):
    """What happened when a row was added."""

    plan_changed: bool  # whether some weights have another address than at the last row
    arrived: list[Rows]  # rows that have arrived on the host; empty at most steps


T = TypeVar("T")


class _Token:
    """Lives as long as a call that holds the lock. So no Ctrl-C leaves a mark of a call that has ended."""

    def __init__(self, thread: int) -> None:
        self.thread = thread


class Record:
    """A record that grows by one row at a time, on one process or on several together.

    Args:
        model: the network. The record does not keep it: each call gets it as an argument.
        every, layers, definition, l2, baseline, settings, pipeline: as for `RWCMonitor`.
        summing: an optimizer that adds up the sums in its steps, so that no copy of the weights is needed; or None.
        ranks: the ranks that record together; None for one process alone.
        arguments: the monitor's arguments that must be the same on all ranks, by name.

    Attributes:
        baseline: the weights that the next row compares with.
        store: takes the rows off the device and keeps them.
        ranks: as in the arguments.
        meta: what the run folder's meta.json says about the record.
        step: optimizer steps so far, as far as the host knows.
        lock: held by each call that adds or moves rows, so that another thread may ask for the history.

    Raises:
        TypeError: `settings` is no dict and no namespace.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int,
        layers: LayerSelector,
        definition: str,
        l2: bool,
        baseline: str,
        settings: object,
        summing: RecordsSums | None,
        pipeline: bool,
        ranks: Ranks | None,
        arguments: Mapping[str, object],
    ) -> None:
        settings = plain_settings(settings)
        self.ranks = ranks
        self.step = 0
        self._joined = False  # whether the loop has used join()
        self.lock = threading.RLock()
        self._inside: Callable[[], _Token | None] = lambda: None
        self._last_call: Callable[[], object] | None = None  # a close that came in the middle of another call
        kind = Snapshot if baseline == "last_row" else BriefCopy if summing is None else Uncopied
        if ranks is None:
            weights = kind(model, layers=layers)
            numel = weights.numel
            kinds = tuple(layer_kind(model, name) for name in weights.names)
        else:
            shares = agree(model, layers, ranks, pipeline=pipeline, arguments=arguments)
            label = f"rank {shares.rank} of {shares.size}"
            weights = kind._of(ShareLookup(model, shares), shares.names, label)
            numel, kinds = shares.numel, shares.kinds
        sums = sums_of({"definition": definition, "l2": l2})
        self.baseline: Baseline
        if isinstance(weights, Uncopied) and summing is not None:
            self.baseline = InStep(weights, model, summing, sums)
        elif isinstance(weights, BriefCopy):
            self.baseline = BeforeStep(weights, model)
        else:
            self.baseline = LastRow(weights, model)
        plan = self.baseline.plan
        assert plan is not None
        self.meta: dict[str, Any] = {
            "names": list(self.snapshot.names),
            "numel": list(numel),
            "kinds": list(kinds),
            "definition": definition,
            "l2": l2,
            "every": every,
            "baseline": baseline,
            "settings": settings,
            # A pipeline stage knows only the dtypes of its own layers.
            "dtypes": [] if pipeline else [str(w.dtype).removeprefix("torch.") for w in plan.prev],
        }
        late = arrives_late(plan.device)
        if ranks is not None:
            late = any(ranks.all_gather(lambda: late))
        self._every = every
        self._ring = Ring(sums, len(self.snapshot), device=plan.device, dtype=sum_dtype(plan.device), late=late)
        half = self._ring.half
        sums_of_rows = LocalSum(half) if ranks is None else RankSum(ranks, every, half, self._replicas(model, ranks))
        self.store = RowStore(self._ring, every, sums_of_rows)
        warm_up(plan, sums, update=baseline == "last_row")
        _records.add(self)

    @property
    def snapshot(self) -> Snapshot:
        """The copy of the weights. With `baseline="before_step"` it is empty between two steps."""
        return self.baseline.weights

    def _replicas(self, model: nn.Module, ranks: Ranks) -> Replicas | None:
        """What compares the ranks' copies of the weights; None on all ranks if no weight is on two of them."""
        lookup, rows = self.snapshot.lookup_in(model), len(self._ring.rows)
        assert isinstance(lookup, ShareLookup)
        replicas = Replicas(
            ranks, lookup, self.snapshot.names, every=self._every, rows=rows, device=self._ring.rows.device
        )
        return replicas if replicas.total else None

    def open(self, path: str | Path, *, resume: bool, exist: str) -> Path:
        """Create the run folder, or continue it after its last row.

        Returns:
            The folder that was taken, on every rank.

        Raises:
            ValueError: the path is an address.
            WeightScaleError: the folder exists, cannot be written, is another run's, or another monitor writes to it.
        """
        run: RunFolder | None = None
        known = Observed()

        def begin() -> tuple[dict[str, Any], int, str]:
            nonlocal run, known
            if self.ranks is not None and self.ranks.rank != 0:
                return {}, 0, ""
            try:
                run = RunFolder.begin(path, self.meta, resume=resume, exist=exist)
            except WeightScaleError as error:
                error.args = (f"{error}{hint_of_others() if self.ranks is None else ''}",)
                raise
            try:
                known = Observed.read(run.path, len(self.meta["names"]))
            except WeightScaleError:
                run.release()
                raise
            return run.meta, run.last_step(), str(run.path)

        self.meta, self.step, taken = begin() if self.ranks is None else self.ranks.all_gather(begin)[0]
        self.store.write_to(run)
        self.store.observe(known)
        self.store.resume_at(self.step)
        return Path(taken)

    def step_begins(self, model: nn.Module) -> None:
        """An optimizer step begins. If it will have a row, the baseline may have to be copied.

        Raises:
            WeightScaleError: the model lost a layer; or a CUDA graph is captured with `baseline="before_step"`.
        """
        due = (max(self.step, self.store.step) + 1) % self._every == 0
        if due and not self.store.closed and not self.store.in_child():
            self.baseline.step_begins(model)

    def add_step(self, model: nn.Module, found_inf: Tensor | None) -> Added | None:
        """Count an optimizer step. If a row is due, compare the weights with those of the last row.

        If this raises before the row is in the ring, the step is not counted. If it raises later, as for Ctrl-C while a
        shard is written, the step is counted. So the step stays in line with the rows.

        Args:
            found_inf: what a gradient scaler told a fused optimizer. If it is not 0, the step changed nothing.

        Returns:
            What happened when the row was added; None if no row is due.

        Raises:
            WeightScaleError: a CUDA graph is captured and `every` is not 1; or the model lost a layer; or the ranks
                could not add up their rows.
        """
        if self.ranks is not None and has_joined(model):
            self._warn_of_join()
            self.baseline.forget()
            return None
        if self.store.in_child():
            self.baseline.forget()
            return None
        return self.within(lambda: self._add_step(model, found_inf))

    def _add_step(self, model: nn.Module, found_inf: Tensor | None) -> Added | None:
        if self.store.closed:  # by a signal handler, just before this call
            return None
        capturing = is_capturing(self._ring.rows.device)
        if capturing and self._every > 1:
            raise WeightScaleError(
                f"a CUDA graph records a row at each replay, so every must be 1 in a graph, got {self._every}"
            )
        # Ctrl-C may have come when the last row was in the ring and its step was not counted yet.
        step = max(self.step, self.store.step) + (not capturing)
        due = capturing or step % self._every == 0
        if found_inf is not None and (due or self.baseline.name == "last_row"):
            self._ring.count_skipped(found_inf)
        if not due:
            self.step = step
            return None
        if not self.baseline.is_known():
            warnings.warn(
                "an optimizer step ended whose begin the monitor did not see, so there are no weights to compare with: "
                "this step has no row, and is not counted",
                stacklevel=2,
            )
            return None
        before = self._ring.recorded
        try:
            return self._add_row(model)
        except (WeightScaleError, ValueError, TypeError):  # they say what happened
            raise
        except BaseException as error:
            if self._ring.recorded == before:
                self._warn_of_lost_row(step, error)
            raise
        finally:
            if self._ring.recorded != before:  # the row is in the ring, whatever was raised after that
                self.step = step

    def _warn_of_lost_row(self, step: int, error: BaseException) -> None:
        """Say that a row is lost: Ctrl-C may have come when the previous weights were new and the row did not count."""
        warnings.warn(
            f"{type(error).__name__} came while step {step} was recorded, so this step has no row: what it moved is in "
            "the next row, or missing. The steps of the record are one less than those of the loop from here on",
            stacklevel=2,
        )

    def _warn_of_join(self) -> None:
        if not self._joined:
            warnings.warn(
                "DistributedDataParallel.join() lets ranks make different numbers of steps, and their rows cannot be "
                f"added up: nothing is recorded after step {self.step}. The rows up to it are kept",
                stacklevel=2,
            )
        self._joined = True

    def _add_row(self, model: nn.Module) -> Added:
        changed = self.baseline.fill(model, self._ring)
        if changed and self.store.rates is not None:
            self.store.rates.find_layers_anew()
        if changed and self.store.replicas is not None:
            self.store.replicas.find_anew()
        return Added(changed, self.store.commit())

    def is_capturing(self) -> bool:
        """Whether a CUDA graph is captured now."""
        return is_capturing(self._ring.rows.device)

    def last_moved(self) -> Tensor:
        """[L] the sum of |w_t - w_prev| in the last row: on the device, and on this rank only."""
        return self.last_row()[0]

    def last_row(self) -> Tensor:
        """[K, L] the sums of the last row: on the device, and on this rank only."""
        return self._ring.rows[(self._ring.recorded - 1) % len(self._ring.rows)]

    @property
    def rows_added(self) -> int:
        """The number of rows so far, as far as the host knows."""
        return self._ring.recorded

    @property
    def parted(self) -> Parted | None:
        """Since when the ranks' copies of the weights are not equal, on every rank; None if nobody saw a difference."""
        return None if self.store.replicas is None else self.store.replicas.parted

    @property
    def between_rows(self) -> bool:
        """Whether there were steps after the last row. The next row is then not due yet."""
        return self.step % self._every != 0

    def flush(self) -> list[Rows]:
        """Bring every row off the device, and return those that have arrived since the last call.

        With several ranks `flush`, `recent` and `close` are collective calls.
        """
        if self.store.in_child() or self.is_inside():
            return []
        return self.within(self._flush)

    def _flush(self) -> list[Rows]:
        arrived = self.store.flush()
        # Only the device counts the replays of a CUDA graph, so the store may know of more steps.
        self.step = max(self.step, self.store.step)
        return arrived

    def close(self) -> list[Rows]:
        """Flush and stop recording."""
        return self._end(self.store.close)

    def abandon(self) -> list[Rows]:
        """Stop recording, without a collective call."""
        return self._end(self.store.abandon)

    def is_inside(self) -> bool:
        """Whether this thread is in the middle of another call: a signal handler came, and makes one more.

        The rows must not move then, because the interrupted call may be moving them.
        """
        token = self._inside()
        return token is not None and token.thread == threading.get_ident()

    def within(self, call: Callable[[], T]) -> T:
        """Make a call with the lock held, and then the `close` that a signal handler asked for meanwhile."""
        if self.is_inside():
            return call()
        with self.lock:
            token = _Token(threading.get_ident())
            self._inside = weakref.ref(token)
            try:
                return call()
            finally:
                del token
                self._end_if_asked()

    def _end(self, last_call: Callable[[], list[Rows]]) -> list[Rows]:
        if self.is_inside():
            self._last_call = last_call
            return []
        try:
            return self.within(last_call)
        finally:
            self.baseline.forget()

    def _end_if_asked(self) -> None:
        if self._last_call is not None:
            last_call, self._last_call = self._last_call, None
            last_call()
            self.baseline.forget()

    def history(self) -> RWCHistory:
        """Every row that was flushed."""
        return self.within(lambda: RWCHistory.from_rows(self.meta, self.store.rows(), self.store.observed))

    def recent(self, after: int) -> RWCHistory:
        """The rows after step `after` that the ring still holds."""
        return self.within(lambda: RWCHistory.from_rows(self.meta, self.store.recent(after), self.store.observed))


_records: weakref.WeakSet[Record] = weakref.WeakSet()


def _renew_locks() -> None:
    """In a forked child: the thread that held a lock is not there, so it would be held for ever."""
    for record in list(_records):
        record.lock, record.snapshot.lock = threading.RLock(), threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)

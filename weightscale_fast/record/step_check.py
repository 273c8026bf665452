"""StepCheck: finds loops in which a row may not be the change between two ends of steps, and says so early.

A row is taken when the watched optimizer's `step` ends. Something may write to the weights after that: a second
optimizer, clipping, a mask, masters that are copied to the model. So before some steps the weights are compared with
those of the last row. If they moved in between, the next row has that movement. This is wrong if it belongs to the step
that had ended, as clipping after the step does; and right if it belongs to the next one, as `max_norm` of an embedding
does. Only the loop's author can tell, so the warning names both.

A GPU compares when it comes to it, and the host does not wait for that. So there a comparison is judged a few steps
later, or at the latest when the rows are flushed. The warning says what was so when the comparison was made.

Two comparisons are judged by themselves, because nothing of the kind is a habit of the loop: the one before the first
step, which finds weights that were loaded after the monitor was made, and the one after a step that raised.

Letters: L layers.
"""

from __future__ import annotations

import warnings
import weakref
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import WeightScaleError
from ..functional import layer_sums
from ..text import count, listing
from ..weights.snapshot import Snapshot
from .host_copy import HostCopy

# The rows after which the weights are compared: the first 20, and later the first 32nd, 20 at most, of the rows from 64
# to 127, from 128 to 255, ... So many in a row find what is done at every 5th or 10th step, such as Lookahead by hand.
# More would slow the training down, because each comparison reads all weights.
FIRST = 20
LATER = 64
PART_OF_ROWS = 32
TWICE = 2  # what is seen so often is a habit of the loop: an evaluation with other weights, or a load, is seen once
PART = 1e-3  # of a layer's last step; less is rounding, as when averaged weights are swapped in and out
MADE = "this monitor was made"
ALTERNATING = 3
SILENT = 10  # steps of another optimizer on the same layers, while the watched one makes none


class _Other(NamedTuple):
    """An optimizer that is not watched and trains recorded layers."""

    name: str  # of its class
    layers: frozenset[int]  # the recorded layers that it trains


class _Comparison(NamedTuple):
    """A comparison that a GPU may not have made yet, and what was known when it was asked for."""

    moved: HostCopy  # [L] bool: whether a layer moved after its row
    in_time: frozenset[int]  # the layers whose movement belongs to the next row
    late: tuple[str, ...]  # the optimizers that stepped after the watched one
    once: str  # what is said of these movements if they are seen once; empty if they must be seen twice


class StepCheck:
    """Compares the weights before a step with those of the last row, and listens to the other optimizers.

    Args:
        model: the network.
        last_row: the weights at the last row.
        moved: returns what each layer moved in the last row, [L] on the device.
        watched: the name of the optimizer whose steps are recorded; None if the loop calls `record()`.
        baseline: with `"before_step"` nothing is compared, and what other optimizers move is in no row.
    """

    def __init__(
        self,
        model: nn.Module,
        last_row: Snapshot,
        moved: Callable[[], Tensor],
        watched: str | None,
        baseline: str = "last_row",
    ) -> None:
        self._own_steps_only = baseline == "before_step"
        self._alternated = 0  # steps of the watched optimizer after which another one moved recorded layers
        self._model, self._last_row, self._moved, self._watched = model, last_row, moved, watched
        self._rows = 0
        self._called = False  # whether a step ended; without a watched optimizer, whether record() was called
        self._forward = _sequence_number()  # of autograd at the last row: it grows with every forward pass
        self._forwards = False  # whether that number grew between two rows: not if another thread trains, or nobody
        self._seen = 0  # how often weights had moved after a row
        self._told = False
        self._pending: deque[_Comparison] = deque()  # the oldest first
        # How many parameters each group of an optimizer had, and what was found then. Groups may be added later.
        self._others: weakref.WeakKeyDictionary[Optimizer, tuple[list[int], _Other | None]] = (
            weakref.WeakKeyDictionary()
        )
        self._first: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # those that stepped before the first row
        # Steps of others since the last one of the watched optimizer, by their layers. So those of an optimizer that is
        # rebuilt again and again add up.
        self._silent: Counter[frozenset[int]] = Counter()
        self._in_time: set[int] = set()  # layers that another optimizer moved since the last row, in the next step
        self._begun: str | None = MADE  # how the record began, or began again; None from the next row on
        self._told_of_raised = False
        self._late: dict[str, None] = {}  # names of optimizers that moved layers since the last row, in its own step

    def restart(self) -> None:
        """The record went back to a state. What is known of earlier rows does not count any more."""
        self._begun = "the monitor's state was loaded"
        self._pending.clear()
        self._in_time.clear()
        self._late.clear()

    def is_due(self, *, raised: bool = False) -> bool:
        """Whether the weights should be compared before the step that begins now.

        Args:
            raised: whether a call of the watched step raised since the last row.
        """
        n = self._rows
        if self._begun is not None or (raised and not self._told_of_raised):
            return True
        if self._told or n == 0 or len(self._pending) >= FIRST:  # so many only if the GPU is far behind
            return False
        power = 1 << (n.bit_length() - 1)
        return n <= FIRST or (n >= LATER and n - power < min(max(TWICE, power // PART_OF_ROWS), FIRST))

    def step_ended(self, *, row: bool) -> None:
        """A step ended, and its row was added if it has one."""
        self._called = True
        self._silent.clear()
        if row:
            self._rows += 1
            self._begun = None
            self._in_time.clear()
            self._late.clear()
            forward = _sequence_number()
            self._forwards |= forward != self._forward
            self._forward = forward

    def compare(self, *, raised: bool = False) -> None:
        """Before a step: compare the weights, and warn if the loop changes them after its rows.

        On a GPU this does not wait, and a later call of `judge` warns.
        """
        raised_again = raised and self._told_of_raised
        moved = None if raised_again else self._moved_since()
        if moved is not None:
            once = self._of_the_first_step() if self._begun else self._of_a_step_that_raised() if raised else ""
            self._pending.append(_Comparison(HostCopy(moved), frozenset(self._in_time), tuple(self._late), once))
        self.judge()

    def _of_the_first_step(self) -> str:
        return (
            f"moved after {self._begun} and before the next step: the row of that step has this movement too. If "
            "weights were loaded or initialized then, load them first, and then make the monitor or load its state. "
            "If it belongs to the step (max_norm of an embedding, noise before the forward pass), the row is right"
        )

    def _of_a_step_that_raised(self) -> str:
        return (
            f"moved in a call of {self._watched}.step() that raised, or after it: this call has no row, and the row of "
            "the next step has this movement too. The steps of the record are one less than those of the loop for each "
            "such call"
        )

    def judge(self) -> None:
        """Warn if the comparisons that have been made by now say so. This waits for nothing."""
        while self._pending:
            try:
                comparison = self._pending.popleft()  # first, because another thread may flush now
            except IndexError:
                return
            if not comparison.moved.has_arrived():
                self._pending.appendleft(comparison)
                return
            self._judge(comparison)

    def _judge(self, comparison: _Comparison) -> None:
        (moved,) = comparison.moved.tensors
        moved_late = set(np.flatnonzero(moved.numpy()).tolist()) - comparison.in_time
        late = [name for i, name in enumerate(self._last_row.names) if i in moved_late]
        if not late:
            return
        if comparison.once:
            self._told_of_raised |= comparison.once == self._of_a_step_that_raised()
            warnings.warn(f"{listing(late)} {comparison.once}", stacklevel=2)
            return
        if self._told:
            return
        self._seen += 1
        if self._seen < TWICE:
            return
        by = (
            f"{listing(list(comparison.late))} stepped after the {self._watched} that this monitor watches"
            if comparison.late
            else f"something wrote to them between {self._watched}.step() and the next one"
        )
        self._warn(
            f"{listing(late)} moved after their row was recorded: {by}. The row of the next step has this movement. If "
            "it belongs to the step before (another optimizer, clipping, a mask, a projection, masters that are copied "
            "to the model, a wrapper of the optimizer), make the monitor without an optimizer, and call record() after "
            "the last change of each step. If it belongs to the next step (max_norm of an embedding, noise or clipping "
            "before the forward pass), the rows are right"
        )

    def other_steps(self, optimizer: Optimizer) -> None:
        """An optimizer begins a step that is no part of a step of the watched one."""
        if self._told:
            return
        other = self._other(optimizer)
        if other is None:
            return
        if self._own_steps_only and self._rows > 0 and not self._silent[other.layers]:
            self._alternated += 1
        if self._alternated >= ALTERNATING:
            self._warn(
                f"{other.name} steps {listing([self._last_row.names[i] for i in sorted(other.layers)])}, which this "
                f'monitor of {self._watched} records, too. With baseline="before_step" a row has only what the '
                "watched optimizer moves in its step: make a monitor for each optimizer, with layers= of what it "
                'trains; or pass baseline="last_row"'
            )
            return
        if self._rows == 0:
            self._first.add(optimizer)
        if torch._C._current_graph_task_id() != -1 or _sequence_number() != self._forward:
            self._in_time |= other.layers  # in a backward pass, or after a new forward pass: it belongs to the next row
        elif not self._forwards and optimizer in self._first:
            self._in_time |= other.layers  # no forward pass tells; but it began before the watched one
        else:
            self._late[other.name] = None
        self._silent[other.layers] += 1
        steps = self._silent[other.layers]
        if steps < SILENT:
            return
        self._warn(
            f"{other.name} made {count(steps, 'step')} on layers of this monitor while the {self._watched} that it "
            "watches made none. If the optimizer was rebuilt, the steps of the new one are not recorded: make a new "
            "monitor with it. If the loop does not call step() of the watched one, as with SAM's first_step and "
            "second_step, make the monitor without an optimizer and call record() after each step"
        )

    def warn_if_never_called(self) -> None:
        """At the end of a loop that has to call `record()`: warn if it never did, and trained.

        This waits for the device.
        """
        if self._watched is not None or self._called or self._told:
            return
        moved = self._moved_since()
        if moved is not None and bool(moved.any()):
            self._warn(
                "the weights moved, and record() was never called, so nothing is recorded: call it after each step, or "
                "give the optimizer to the monitor"
            )

    def _moved_since(self) -> Tensor | None:
        """[L] bool, on the device: whether a layer moved since the last row. None if the model was changed."""
        try:
            since = layer_sums(self._model, self._last_row, update=False).delta_l1
        except (TypeError, ValueError, WeightScaleError):  # the next row says so
            return None
        return since > PART * self._moved()

    def _other(self, optimizer: Optimizer) -> _Other | None:
        groups = [len(group["params"]) for group in optimizer.param_groups]
        before, other = self._others.get(optimizer, (None, None))
        if before != groups:
            try:
                parameters = self._last_row.lookup_in(self._model).parameters()
            except (KeyError, WeightScaleError):  # the model was changed; the next row says so
                return None
            trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
            layers = frozenset(i for i, p in enumerate(parameters) if id(p) in trained)
            other = _Other(type(optimizer).__name__, layers) if layers else None
            self._others[optimizer] = groups, other
        return other

    def _warn(self, what: str) -> None:
        self._told = True
        warnings.warn(what, stacklevel=2)


def _sequence_number() -> int:
    """Autograd's number of the next operation of this thread."""
    return torch._C._autograd._get_sequence_nr()

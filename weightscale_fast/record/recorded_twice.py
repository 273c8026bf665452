"""RecordedTwice: knows which monitors record now, and warns of a second one that does the same as an earlier one."""

from __future__ import annotations

import warnings
import weakref

from torch import nn
from torch.optim import Optimizer

from ..weights.layers import unwrap

# {id: one that records now}. A plain dict, because list() of its values is one operation, which no other thread can
# interrupt.
_now: dict[int, weakref.ref[RecordedTwice]] = {}


class RecordedTwice:
    """What a monitor of an optimizer records. It holds nothing of it alive.

    A notebook cell that makes a monitor may run again. The optimizer still calls the earlier monitor, which costs time
    and memory at each step, and no variable leads to it any more.

    Args:
        model, optimizer: what the monitor was given.
        what: what it records of them: two monitors that differ in this are no accident.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, what: object) -> None:
        self._model, self._optimizer = weakref.ref(unwrap(model)), weakref.ref(optimizer)
        self._what = what

    def begin(self) -> None:
        """The monitor begins to record. Warn if an earlier one records the same."""
        if any(
            other._is_same(self) for other in (reference() for reference in list(_now.values())) if other is not None
        ):
            warnings.warn(
                "an earlier monitor still records this model at the steps of this optimizer, with the same layers, "
                "every and definition, so each step is recorded twice: call close() of the earlier one before you make "
                "the next, or make it in a `with` block. If no variable leads to it any more, as after a notebook cell "
                "that ran twice, make a new optimizer",
                stacklevel=2,
            )
        key = id(self)
        _now[key] = weakref.ref(self, lambda _: _now.pop(key, None))

    def end(self) -> None:
        """The monitor records no more."""
        _now.pop(id(self), None)

    def _is_same(self, other: RecordedTwice) -> bool:
        model, optimizer = self._model(), self._optimizer()
        same = model is other._model() and optimizer is other._optimizer() and self._what == other._what
        return same and model is not None and optimizer is not None

"""OutermostStep: which call of an optimizer's `step` is the outermost, where one calls another."""

from __future__ import annotations

import sys
import threading
from types import FrameType

from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer


class _Calls(threading.local):
    """The calls of one thread. Each thread sees its own."""

    def __init__(self) -> None:
        self.running: list[FrameType | None] = []
        self.raised = False


class OutermostStep:
    """Counts the calls of `step` that are running in a thread, of one optimizer.

    A subclass that calls `super().step()` runs the hooks of the optimizer twice, if PyTorch has put them into both
    classes. Only the outer call is a step. A call that raised never ends, so each call is known by its frame: one that
    is not on the stack any more does not count.
    """

    def __init__(self) -> None:
        self._calls = _Calls()

    def begin(self) -> bool:
        """A call of `step` begins; whether it is the outermost."""
        self._forget_ended()
        self._calls.running.append(_frame_of_step())
        return len(self._calls.running) == 1

    def end(self) -> bool:
        """A call of `step` has ended; whether it was the outermost."""
        running = self._calls.running
        if len(running) > 1:
            self._forget_ended()
        del running[-1:]
        if not running:
            self._calls.raised = False  # an inner call may have raised, and the outer one caught the error
        return not running

    def is_running(self) -> bool:
        """Whether a call of `step` is running."""
        self._forget_ended()
        return bool(self._calls.running)

    def has_raised(self) -> bool:
        """Whether a call raised since the last one that ended. Ask when the next one begins."""
        return self._calls.raised

    def is_after_step(self) -> bool:
        """Whether a running call is past its step, or past that of an optimizer inside it, and a hook calls this."""
        after = False
        running = self._calls.running
        frame: FrameType | None = sys._getframe() if running else None
        while frame is not None:
            after |= is_past_step(frame)
            if after and any(frame is step for step in running):
                return True
            frame = frame.f_back
        return False

    def _forget_ended(self) -> None:
        running = self._calls.running
        if not running:
            return
        stack: set[int] = set()
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            stack.add(id(frame))
            frame = frame.f_back
        still = [step for step in running if id(step) in stack]
        self._calls.raised |= len(still) < len(running)
        running[:] = still


def _frame_of_step() -> FrameType | None:
    """The frame of PyTorch's wrapper around `step`, which calls the hooks."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename != torch_optimizer.__file__:
        frame = frame.f_back
    return frame


def is_past_step(frame: FrameType) -> bool:
    """Whether it is PyTorch's wrapper around `step` after the step: it has the result in its variable `out`."""
    return frame.f_code.co_filename == torch_optimizer.__file__ and "out" in frame.f_locals


def stepping_frames(optimizer: Optimizer) -> list[FrameType]:
    """The frames, in this thread, of calls of this optimizer's `step`. PyTorch may be going through its hooks there.

    The frames of other threads are not looked at. CPython holds a lock during `sys._current_frames`, and may collect
    garbage meanwhile. A `threading.local` in that garbage then waits for the lock, for ever.
    """
    found = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == torch_optimizer.__file__ and frame.f_locals.get("self") is optimizer:
            found.append(frame)
        frame = frame.f_back
    return found

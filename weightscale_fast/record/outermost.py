"""OutermostStep: which call of an optimizer's `step` is the outermost, where one calls another."""

from __future__ import annotations

import sys
from types import FrameType

from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer


class OutermostStep:
    """Counts the calls of `step` that are running, of one optimizer.

    A subclass that calls `super().step()` runs the hooks of the optimizer twice, if PyTorch has put them into both
    classes. Only the outer call is a step. A call that raised never ends, so each call is known by its frame: one that
    is not on the stack any more does not count.
    """

    def __init__(self) -> None:
        self._running: list[FrameType | None] = []

    def begin(self) -> bool:
        """A call of `step` begins; whether it is the outermost."""
        self._forget_ended()
        self._running.append(_frame_of_step())
        return len(self._running) == 1

    def end(self) -> bool:
        """A call of `step` has ended; whether it was the outermost."""
        if len(self._running) > 1:
            self._forget_ended()
        del self._running[-1:]
        return not self._running

    def is_running(self) -> bool:
        """Whether a call of `step` is running."""
        self._forget_ended()
        return bool(self._running)

    def is_after_step(self) -> bool:
        """Whether a running call is past its step, or past that of an optimizer inside it, and a hook calls this."""
        after = False
        frame: FrameType | None = sys._getframe() if self._running else None
        while frame is not None:
            after |= _calls_hooks(frame)
            if after and any(frame is step for step in self._running):
                return True
            frame = frame.f_back
        return False

    def _forget_ended(self) -> None:
        if not self._running:
            return
        stack: set[int] = set()
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            stack.add(id(frame))
            frame = frame.f_back
        self._running = [step for step in self._running if id(step) in stack]


def _frame_of_step() -> FrameType | None:
    """The frame of PyTorch's wrapper around `step`, which calls the hooks."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename != torch_optimizer.__file__:
        frame = frame.f_back
    return frame


def _calls_hooks(frame: FrameType) -> bool:
    """Whether it is PyTorch's wrapper around `step` after the step: it has the result in its variable `out`."""
    return frame.f_code.co_filename == torch_optimizer.__file__ and "out" in frame.f_locals


def is_in_hook(optimizer: Optimizer) -> bool:
    """Whether a hook makes this call that the optimizer calls after its step."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if _calls_hooks(frame) and frame.f_locals.get("self") is optimizer:
            return True
        frame = frame.f_back
    return False


def is_stepping(optimizer: Optimizer) -> bool:
    """Whether a thread is in a call of this optimizer's `step`, so that PyTorch may be going through its hooks."""
    for innermost in sys._current_frames().values():
        frame: FrameType | None = innermost
        while frame is not None:
            if frame.f_code.co_filename == torch_optimizer.__file__ and frame.f_locals.get("self") is optimizer:
                return True
            frame = frame.f_back
    return False

"""Listener: hears every optimizer of this process before its step."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from ..eager import always_eager

_ended: list[RemovableHandle] = []  # of listeners that ended; PyTorch may be going through its hooks when they end


class Listener:
    """Calls a method before each step of any optimizer, until it is ended or the method's object is gone.

    Args:
        heard: the method; it is held weakly.
        ignored: which optimizers it is not called for; by default none.
    """

    def __init__(self, heard: Callable[[Optimizer], None], ignored: Callable[[Optimizer], bool] | None = None) -> None:
        while _ended:
            _ended.pop().remove()
        weak = weakref.WeakMethod(heard)
        active = self._active = [True]

        @always_eager
        def hear(optimizer: Optimizer, *_: object) -> None:
            if not active[0]:
                return
            call = weak()
            if call is not None and not (ignored is not None and ignored(optimizer)):
                call(optimizer)

        handle = register_optimizer_step_pre_hook(hear)
        weakref.finalize(heard.__self__, _ended.append, handle)  # type: ignore[attr-defined]

    def end(self) -> None:
        """Call the method no more."""
        self._active[0] = False

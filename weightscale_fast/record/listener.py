"""Listener: hears every optimizer of this process before its step."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ..eager import always_eager

# {id: a listener that hears now}. A plain dict, because list() of its values is one operation, which no other thread
# can interrupt.
_listening: dict[int, weakref.ref[Listener]] = {}
_registering = threading.RLock()
_registered = False


class Listener:
    """Calls a method before each step of any optimizer, until it is ended, or it or the method's object is gone.

    PyTorch gets one hook for all listeners, and keeps it. Another thread may go through PyTorch's hooks at any moment,
    and its step would fail if a hook came or went then.

    Args:
        heard: the method; it is held weakly.
        ignored: which optimizers it is not called for; by default none.
    """

    def __init__(self, heard: Callable[[Optimizer], None], ignored: Callable[[Optimizer], bool] | None = None) -> None:
        self._heard = weakref.WeakMethod(heard)
        self._ignored = ignored
        _register()
        key = id(self)
        _listening[key] = weakref.ref(self, lambda _: _listening.pop(key, None))

    def hear(self, optimizer: Optimizer) -> None:
        """The optimizer begins a step."""
        call = self._heard()
        if call is not None and not (self._ignored is not None and self._ignored(optimizer)):
            call(optimizer)

    def end(self) -> None:
        """Call the method no more."""
        _listening.pop(id(self), None)


def _register() -> None:
    global _registered
    with _registering:
        if not _registered:
            _registered = True
            register_optimizer_step_pre_hook(_hear)


@always_eager
def _hear(optimizer: Optimizer, *_: object) -> None:
    for reference in list(_listening.values()):
        listener = reference()
        if listener is not None and id(listener) in _listening:  # an earlier one may have ended it
            listener.hear(optimizer)

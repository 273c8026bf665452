"""Stopwatch: the time that a part of a training loop takes on the device that does the work."""

from __future__ import annotations

import time
from types import TracebackType

import torch


class Stopwatch:
    """Adds up the time of the blocks `with stopwatch:`. For a GPU this is the GPU's time, and no block waits for it.

    Example:
        >>> watch = Stopwatch("cpu")
        >>> with watch:
        ...     _ = sum(range(1000))
        >>> 0 < watch.seconds() < 1
        True
    """

    def __init__(self, device: str) -> None:
        self._on_gpu = torch.device(device).type == "cuda"
        self._total = 0.0
        self._start = 0.0
        self._events: list[torch.cuda.Event] = []  # start, end, start, end, ...

    def __enter__(self) -> None:
        if self._on_gpu:
            self._mark()
        else:
            self._start = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._on_gpu:
            self._mark()
        else:
            self._total += time.perf_counter() - self._start

    def restart(self) -> None:
        """Begin at 0 again."""
        self._total = 0.0
        self._events.clear()

    def seconds(self) -> float:
        """The sum so far. This waits for the GPU."""
        if self._events:
            self._events[-1].synchronize()
            pairs = zip(self._events[::2], self._events[1::2], strict=True)
            self._total += sum(start.elapsed_time(end) for start, end in pairs) / 1000
            self._events.clear()
        return self._total

    def _mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._events.append(event)

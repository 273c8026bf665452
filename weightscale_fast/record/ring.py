"""Ring: rows of sums on the device, and their copy to the host. Training does not wait for the copy.

Letters: R rows of the ring, n rows that are copied, K sums (see ops/sums.py), L layers.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..graph_capture import is_capturing
from .host_copy import HostCopy
from .rows import Part

RING_ROWS = 512
SHARD_ROWS = RING_ROWS // 2  # rows that are copied together
FEWEST_ROWS = 4
RING_BYTES = 64 * 2**20  # a ring for more than about 5,000 layers has fewer rows, so that it takes no more


class _InFlight(NamedTuple):
    """Rows that are being copied to the host."""

    first: int
    copies: HostCopy  # of the sums [n, K, L] and of the skipped steps [n]


class Ring:
    """R rows on the device. A counter on the device points at the next row, so a CUDA graph can record too.

    A `late` ring on a GPU does not wait. When one half is full, a side stream copies it to pinned memory while the
    other half fills. When the other half is full, `arrived` returns the copy. It waits only if the copy took
    longer than half a ring of steps.

    Rows are written on the current stream. Training on several streams must order each step after the one before, and
    this orders the rows too. So a copy waits only for the stream of its last row.

    Args:
        sums, layers: K and L.
        device, dtype: of the rows.
        late: only the rows up to the previous `take(wait=False)` arrive at the next. This works on any device, because
            ranks that record together must all take the same rows.
    """

    def __init__(self, sums: int, layers: int, *, device: torch.device, dtype: torch.dtype, late: bool = False) -> None:
        rows = _rows_for(sums, layers)
        with torch.inference_mode(False):  # so that any mode may write to them
            self.rows = torch.zeros(rows, sums, layers, dtype=dtype, device=device)  # [R, K, L]
            self.cursor = torch.zeros(1, dtype=torch.int64, device=device)  # rows recorded; modulo R it is the next row
            self.skipped = torch.zeros(rows, dtype=torch.float32, device=device)  # [R] steps that a scaler skipped
            self._skipping = torch.zeros(1, dtype=torch.float32, device=device)  # steps skipped since the last row
        self._scaled = False  # whether a gradient scaler was ever used; without one there is nothing to count
        self.recorded = 0  # rows recorded, as far as the host knows
        self.first = 0  # the first row that this ring ever held
        self._kept = 0  # the rows that `release` was told of
        self._in_graph = False
        self._late = late
        self._in_flight: _InFlight | None = None
        self._stream: torch.cuda.Stream | None = None
        if late and device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def half(self) -> int:
        """The most rows that are copied together: 256, or fewer for thousands of layers."""
        return len(self.rows) // 2

    @torch.no_grad()
    def count_skipped(self, found_inf: Tensor) -> None:
        """Count a step as skipped if `found_inf`, one number on a device, is not 0."""
        self._scaled = True
        # A ring on the CPU must wait for a flag from a GPU. Otherwise it would read the copy before it has arrived.
        found_inf = found_inf.reshape(1).to(self.rows.device, non_blocking=self.rows.device.type != "cpu")
        self._skipping.add_(found_inf != 0)

    def advance(self) -> None:
        """Move the cursor to the next row. The row at the cursor has been written."""
        if self._scaled:
            self.skipped.index_copy_(0, self.cursor % len(self.rows), self._skipping)
            self._skipping.zero_()
        if is_capturing(self.rows.device):
            self.cursor.add_(1)
            self._in_graph = True  # from now on only the device counts
            return
        try:
            self.cursor.add_(1)
            self.recorded += 1
        except BaseException:  # Ctrl-C may have come between the two, and only the cursor knows
            self.recorded = int(self.cursor.item())
            raise

    @property
    def waiting(self) -> int:
        """Rows that were recorded and that `release` was not told of."""
        return self.recorded - self._kept

    def restart(self, recorded: int) -> None:
        """Forget the rows in the ring. Rows before number `recorded` count as taken."""
        self.take(wait=True)
        self._in_flight = None
        self.recorded = self._kept = self.first = recorded
        self.cursor.fill_(recorded)
        self._skipping.zero_()

    def take(self, *, wait: bool) -> list[Part]:
        """The rows that can be had now, in order. With `wait`, all rows that were recorded.

        Call `arrived` and `release` first. The ring keeps the rows until `release`. So if Ctrl-C ends this call, or the
        caller before it has stored the rows, no row is lost: the next call returns them again.
        """
        if is_capturing(self.rows.device):
            return []
        if self._late and not wait and not self._in_graph:
            if self._kept < self.recorded:
                self._in_flight = self._start_copy()
            return []
        self._wait_for_device()
        # The device knows best: it counted the replays of a CUDA graph, and a row after which Ctrl-C ended `advance`.
        self.recorded = int(self.cursor.item())
        lost = self.recorded - self._kept - len(self.rows)
        if lost > 0:
            warnings.warn(
                f"{lost} rows were overwritten before they left the device: call flush() at least once in "
                f"{len(self.rows)} replays of a CUDA graph",
                stacklevel=2,
            )
            self._kept += lost
        return [self._copy(self._kept)] if self._kept < self.recorded else []

    def release(self, rows: int) -> None:
        """Forget the first `rows` rows of the record, because they are stored."""
        self._kept = max(self._kept, rows)
        if self._in_flight is not None and self._in_flight.first + len(self._in_flight.copies.tensors[0]) <= rows:
            self._in_flight = None

    def newest(self, first: int) -> Part:
        """The rows from number `first` on, if the ring still holds them. They stay in it. This waits for the device."""
        self._wait_for_device()
        return self._copy(max(first, self.recorded - len(self.rows), self.first))

    def arrived(self) -> list[Part]:
        """The rows that the last `take(wait=False)` began to copy, until `release`. This waits for the end of the copy.

        Call it before `take`, so that these rows are safe even if the device fails in `take`.
        """
        if self._in_flight is None or is_capturing(self.rows.device):
            return []
        first, copies = self._in_flight
        copies.wait()  # seldom, because the copy began half a ring ago
        sums, skipped = (copy.numpy().astype(np.float64) for copy in copies.tensors)  # copies, to free pinned memory
        return [Part(first, sums, skipped)]

    def _wait_for_device(self) -> None:
        """Wait until all rows are complete, on all streams."""
        if self.rows.device.type == "cuda":
            torch.cuda.synchronize(self.rows.device)

    def _copy(self, first: int) -> Part:
        numbers = torch.arange(first, max(first, self.recorded), device=self.rows.device) % len(self.rows)
        sums, skipped = (tensor[numbers].to("cpu", torch.float64).numpy() for tensor in (self.rows, self.skipped))
        return Part(first, sums, skipped)

    def _start_copy(self) -> _InFlight:
        """Begin to copy the rows that are not released. They lie in one half of the ring."""
        first = self._kept % len(self.rows)
        rows = slice(first, first + self.recorded - self._kept)
        tensors = self.rows[rows], self.skipped[rows]
        if self._stream is None:
            return _InFlight(self._kept, HostCopy(*tensors))
        self._stream.wait_stream(torch.cuda.current_stream(self.rows.device))
        with torch.cuda.stream(self._stream):
            return _InFlight(self._kept, HostCopy(*tensors))


def arrives_late(device: torch.device) -> bool:
    """Whether a ring on this device should be late: on a GPU, where waiting for rows would slow the training down."""
    return device.type == "cuda"


def _rows_for(sums: int, layers: int) -> int:
    """R, so that the ring takes at most `RING_BYTES`."""
    rows = RING_ROWS
    while rows > FEWEST_ROWS and rows * sums * layers * 8 > RING_BYTES:
        rows //= 2
    return rows

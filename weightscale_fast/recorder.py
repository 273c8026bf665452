"""Recorder: rows of sums from the device to a run folder, or to memory where there is none.

Letters: R rows of the ring, K sums (3, or 4 with the ratios), L layers.
"""

from __future__ import annotations

import os
import warnings

import numpy as np
import torch
from torch import Tensor

from .run_folder import Rows, RunFolder, concatenate

RING_ROWS = 256


class Recorder:
    """Takes a row a step into a ring on the device; a full ring becomes one shard of the run folder.

    A shard that cannot be written stays in memory with one warning and goes out with the next that can.
    """

    def __init__(self, layers: int, *, with_ratio: bool, device: torch.device, dtype: torch.dtype) -> None:
        self._ring = torch.empty(RING_ROWS, 4 if with_ratio else 3, layers, dtype=dtype, device=device)  # [R, K, L]
        self._steps: list[int] = []  # of the rows in the ring
        self._kept: list[Rows] = []  # the whole record without a run folder; with one, what it did not take
        self._run: RunFolder | None = None
        self._warned = False
        self._process = os.getpid()

    @property
    def has_folder(self) -> bool:
        """Whether the rows go to a run folder."""
        return self._run is not None

    def write_to(self, run: RunFolder) -> None:
        """Send every further row to this folder."""
        self._run = run

    def next_row(self) -> Tensor:
        """[K, L] where the next sums belong; `commit` makes them a row."""
        return self._ring[len(self._steps)]

    def commit(self, step: int) -> None:
        """The row is filled, and is that of `step`."""
        self._steps.append(step)
        if len(self._steps) == RING_ROWS:
            self.flush()

    def flush(self) -> None:
        """Bring every row out of the ring."""
        if self._steps:
            self._kept.append(self._take_ring())
        if self._run is not None and self._kept:
            self._write(self._run)

    def close(self) -> None:
        """Flush, and say so if rows could not be written."""
        if os.getpid() != self._process:  # a forked child: the rows are its parent's
            return
        self.flush()
        if self._run is not None and self._kept:
            count = sum(len(rows.steps) for rows in self._kept)
            warnings.warn(f"{count} recorded steps could not be written to {self._run.path}", stacklevel=2)

    def rows(self) -> Rows:
        """Everything recorded so far, from the folder and from memory."""
        self.flush()
        written = [] if self._run is None else [self._run.rows()]
        return concatenate(written + self._kept, self._ring.shape[2], self._ring.shape[1] == 4)

    def restart(self, kept: Rows | None, step: int) -> None:
        """Forget every row after `step`; without a run folder the record is then `kept`."""
        self._steps = []
        self._kept = [] if kept is None else [kept]
        if self._run is not None:
            self._run.drop_after(step)

    def _take_ring(self) -> Rows:
        ring = self._ring[: len(self._steps)].to("cpu", torch.float64, copy=True).numpy()
        steps = np.array(self._steps, dtype=np.int64)
        self._steps = []
        ratio_sum = ring[:, 3] if ring.shape[1] == 4 else None
        return Rows(steps, ring[:, 0], ring[:, 1], ring[:, 2].astype(np.int64), ratio_sum)

    def _write(self, run: RunFolder) -> None:
        try:
            run.append(concatenate(self._kept, self._ring.shape[2], self._ring.shape[1] == 4))
        except OSError as error:
            if not self._warned:
                warnings.warn(
                    f"recorded steps cannot be written to {run.path} ({error}); they stay in memory and are tried "
                    "again, and what was written before is safe",
                    stacklevel=2,
                )
            self._warned = True
            return
        self._kept = []
        self._warned = False

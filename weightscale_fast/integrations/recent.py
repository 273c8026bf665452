"""recent: the newest rows of a monitor, without writing a shard or reading the run folder."""

from __future__ import annotations

import numpy as np
import torch

from ..history import RWCHistory
from ..monitor import RWCMonitor
from ..ring import RING_ROWS
from ..run_folder import SKIPPED, Rows


def recent(monitor: RWCMonitor, *, after: int) -> RWCHistory:
    """The rows after step `after`, 512 at most: those that the ring on the device still holds.

    It copies these rows to the host and so waits for the device, once; what is recorded and when it is written stays as
    it is, where `history()` would close a shard and read the whole run. Not for a monitor in a CUDA graph: of its rows
    only the device knows.

    Args:
        monitor: what records.
        after: a step; `monitor.step - 50` for the last 50.

    Returns:
        A history; of no rows where none was recorded since.

    Example:
        >>> from torch import nn
        >>> monitor = RWCMonitor(nn.Linear(2, 2))
        >>> for _ in range(3):
        ...     monitor.record()
        >>> recent(monitor, after=1).steps
        array([2, 3])
    """
    ring, meta = monitor._ring, monitor._meta
    every = meta["every"]
    first = max(after // every, ring.recorded - RING_ROWS, 0)
    numbers = torch.arange(first, max(first, ring.recorded), device=ring.rows.device)
    sums = ring.rows[numbers % RING_ROWS].to("cpu", torch.float64).numpy()  # [n, K, L]
    steps = (first + 1 + np.arange(len(sums))) * every
    ratio_sum = sums[:, 3] if sums.shape[1] == 4 else None
    flags = ((ring.skipped[numbers % RING_ROWS] > 0).cpu().numpy() * SKIPPED).astype(np.uint8)
    return RWCHistory.from_rows(
        meta, Rows(steps, sums[:, 0], sums[:, 1], sums[:, 2].astype(np.int64), ratio_sum, flags)
    )

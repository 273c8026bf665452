"""recent_rows: the newest rows of a ring, without writing a shard or reading the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .history import RWCHistory
from .ring import RING_ROWS, Ring
from .run_folder import SKIPPED, Rows


def recent_rows(ring: Ring, meta: Mapping[str, Any], *, after: int) -> RWCHistory:
    """The rows after step `after`, as many as the ring on the device still holds; see `RWCMonitor.recent`."""
    every = meta["every"]
    first = max(after // every, ring.recorded - RING_ROWS, ring.first)
    numbers = torch.arange(first, max(first, ring.recorded), device=ring.rows.device)
    sums = ring.rows[numbers % RING_ROWS].to("cpu", torch.float64).numpy()  # [n, K, L]
    steps = (first + 1 + np.arange(len(sums))) * every
    ratio_sum = sums[:, 3] if sums.shape[1] == 4 else None
    flags = ((ring.skipped[numbers % RING_ROWS] > 0).cpu().numpy() * SKIPPED).astype(np.uint8)
    moved = sums[:, 2].astype(np.int64)
    return RWCHistory.from_rows(meta, Rows(steps, sums[:, 0], sums[:, 1], moved, ratio_sum, flags))

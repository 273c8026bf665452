"""HealthWatch: the health check of a run that goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..record.observed import Observed
from ..record.rows import Rows
from .check import HealthCheck
from .finding import Finding


class HealthWatch:
    """Calls `on_finding` with new findings, after the step is recorded, because user code may raise.

    Several threads may bring rows, and a later one may be faster. So rows that are not newer than those that were
    checked are left out: a check of rows that are not in order would find what is not there.
    """

    def __init__(self, meta: Mapping[str, Any], on_finding: Callable[[Finding], object] | None) -> None:
        self._meta = meta
        self._on_finding = on_finding
        self._checking = threading.Lock()
        self._check = self._new_check()
        self.restart()

    def restart(self) -> None:
        """Forget all rows: the record goes on from another step."""
        told, self._check = self._check.parted, self._new_check()
        self._check.parted = told  # copies that part stay so
        self._found: list[Finding] = []
        self._last = 0  # the step of the last row that was checked
        self._arrived: list[Rows] = []
        self._observed = Observed()

    def _new_check(self) -> HealthCheck:
        meta = self._meta
        numel, baseline = np.asarray(meta["numel"]), meta.get("baseline", "last_row")  # older runs have no baseline
        return HealthCheck(meta["names"], numel, meta["every"], meta["dtypes"], meta["kinds"], baseline)

    def take(self, rows: Rows, observed: Observed) -> None:
        """Check rows that have arrived, if there is a callback. `observed` is what is known beside them."""
        if self._on_finding is None or not len(rows.steps):
            return
        self._observed = observed
        self._arrived.append(rows)
        # A thread that finds another one at work leaves its rows to it. It need not wait, and a handler cannot.
        while self._arrived and self._checking.acquire(blocking=False):
            try:
                self._check_oldest()
            finally:
                self._checking.release()

    def _check_oldest(self) -> None:
        arrived = self._arrived
        rows = arrived.pop(min(range(len(arrived)), key=lambda i: int(arrived[i].steps[0])))
        if rows.steps[0] <= self._last:
            rows = rows.where(rows.steps > self._last)
        if len(rows.steps):
            self._last = int(rows.steps[-1])
            self._found += self._check.update(rows, self._observed)

    def tell(self) -> None:
        """Call `on_finding` with each new finding."""
        while self._found and self._on_finding is not None:
            self._on_finding(self._found.pop(0))

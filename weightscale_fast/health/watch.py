"""HealthWatch: the health check of a run that goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..record.rows import Rows
from .check import HealthCheck
from .finding import Finding


class HealthWatch:
    """Calls `on_finding` with new findings, after the step is recorded, because user code may raise."""

    def __init__(self, meta: Mapping[str, Any], on_finding: Callable[[Finding], object] | None) -> None:
        self._meta = meta
        self._on_finding = on_finding
        self.restart()

    def restart(self) -> None:
        """Forget all rows: the record goes on from another step."""
        meta = self._meta
        self._check = HealthCheck(meta["names"], np.asarray(meta["numel"]), meta["every"], tuple(meta["dtypes"]))
        self._found: list[Finding] = []

    def take(self, rows: Rows) -> None:
        """Check rows that have arrived, if there is a callback."""
        if self._on_finding is not None:
            self._found += self._check.update(rows)

    def tell(self) -> None:
        """Call `on_finding` with each new finding."""
        while self._found and self._on_finding is not None:
            self._on_finding(self._found.pop(0))

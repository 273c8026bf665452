"""Rows: recorded steps on the host, as the ring hands them out (`Part`) and as the record keeps them (`Rows`).

Letters: n rows, K sums (3, or 4 with the ratios), L layers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

# The bits of a row's flags.
SKIPPED = 1  # a gradient scaler skipped a step of this row, so nothing moved; only with fused optimizers
RESUMED = 2  # the first row after a resume


class Part(NamedTuple):
    """Consecutive rows, as the pass wrote them."""

    first: int  # number of the first row, counted from 0 over the whole record
    sums: NDArray[np.float64]  # [n, K, L]
    skipped: NDArray[np.float64]  # [n] how many steps of the row a gradient scaler skipped


class Rows(NamedTuple):
    """Consecutive rows, as the record keeps them."""

    steps: NDArray[np.int64]  # [n], rising
    delta_l1: NDArray[np.float64]  # [n, L]
    prev_l1: NDArray[np.float64]  # [n, L]
    moved: NDArray[np.int64]  # [n, L]
    ratio_sum: NDArray[np.float64] | None  # [n, L], if the definition is "mean_ratio"
    flags: NDArray[np.uint8] | None = None  # [n] SKIPPED, RESUMED; None means 0 for every row

    def where(self, keep: NDArray[np.bool_]) -> Rows:
        """The rows where keep [n] is true."""
        return Rows._make(None if column is None else column[keep] for column in self)

    @property
    def bits(self) -> NDArray[np.uint8]:
        """[n] the flags; 0 for every row if `flags` is None."""
        return np.zeros(len(self.steps), np.uint8) if self.flags is None else self.flags

    def to_bytes(self) -> bytes:
        """The rows as the content of a safetensors file."""
        arrays = {"step": self.steps, "flags": self.bits}
        arrays |= {"delta_l1": self.delta_l1, "prev_l1": self.prev_l1, "moved": self.moved}
        if self.ratio_sum is not None:
            arrays["ratio_sum"] = self.ratio_sum
        return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})

    @classmethod
    def from_bytes(cls, data: bytes) -> Rows:
        """The rows from the bytes that `to_bytes` returned."""
        arrays = safetensors.numpy.load(data)
        return cls(arrays.pop("step"), ratio_sum=arrays.pop("ratio_sum", None), **arrays)


def concatenate(parts: list[Rows], layers: int, with_ratio: bool) -> Rows:
    """All the rows of `parts`, in their order; without parts, zero rows of `layers` layers."""
    empty = np.empty((0, layers))
    nothing = Rows(
        np.empty(0, np.int64), empty, empty, np.empty((0, layers), np.int64), empty.copy() if with_ratio else None
    )
    columns = zip(*(part._replace(flags=part.bits) for part in parts or [nothing]), strict=True)
    return Rows._make(None if column[0] is None else np.concatenate(column) for column in columns)

"""Rows: recorded steps on the host, as the ring hands them out (`Part`) and as the record keeps them (`Rows`).

Letters: n rows, K sums (3, or 4 with the ratios), L layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from .rates import NAMES, Rates, join

# The bits of a row's flags.
SKIPPED = 1  # a gradient scaler skipped a step of this row, so nothing moved; only with fused optimizers
RESUMED = 2  # the first row after a resume

# The arrays of a shard, and what each holds.
DTYPES = {
    "step": np.int64,
    "flags": np.uint8,
    "delta_l1": np.float64,
    "prev_l1": np.float64,
    "moved": np.int64,
    "ratio_sum": np.float64,
}
SUMS = ("delta_l1", "prev_l1", "moved")


class Part(NamedTuple):
    """Consecutive rows, as the pass wrote them."""

    first: int  # number of the first row, counted from 0 over the whole record
    sums: NDArray[np.float64]  # [n, K, L]
    skipped: NDArray[np.float64]  # [n] how many steps of the row a gradient scaler skipped

    def after(self, number: int) -> Part:
        """The rows from this number on."""
        cut = max(number - self.first, 0)
        return Part(self.first + cut, self.sums[cut:], self.skipped[cut:])


class Rows(NamedTuple):
    """Consecutive rows, as the record keeps them."""

    steps: NDArray[np.int64]  # [n], rising
    delta_l1: NDArray[np.float64]  # [n, L]
    prev_l1: NDArray[np.float64]  # [n, L]
    moved: NDArray[np.int64]  # [n, L]
    ratio_sum: NDArray[np.float64] | None  # [n, L], if the definition is "mean_ratio"
    flags: NDArray[np.uint8] | None = None  # [n] SKIPPED, RESUMED; None means 0 for every row
    rates: Rates | None = None  # of n rows and L layers, if they are known

    def where(self, keep: NDArray[np.bool_]) -> Rows:
        """The rows where keep [n] is true."""
        return Rows._make(None if column is None else column[keep] for column in self)

    @property
    def bits(self) -> NDArray[np.uint8]:
        """[n] the flags; 0 for every row if `flags` is None."""
        return np.zeros(len(self.steps), np.uint8) if self.flags is None else self.flags

    @property
    def nbytes(self) -> int:
        """The memory of the rows, in bytes."""
        return sum(column.nbytes for column in self if column is not None)

    def to_bytes(self) -> bytes:
        """The rows as the content of a safetensors file."""
        arrays = {"step": self.steps, "flags": self.bits}
        arrays |= {"delta_l1": self.delta_l1, "prev_l1": self.prev_l1, "moved": self.moved}
        if self.ratio_sum is not None:
            arrays["ratio_sum"] = self.ratio_sum
        given = {name: np.ascontiguousarray(array, dtype=DTYPES[name]) for name, array in arrays.items()}
        return safetensors.numpy.save(given | (self.rates.arrays() if self.rates is not None else {}))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], layers: int, with_ratio: bool) -> Rows:
        """The rows from the arrays of a safetensors file, checked as a whole.

        Raises:
            ValueError: arrays are missing, or do not fit together, or have impossible values.
        """
        known, arrays = arrays, {name: array for name, array in arrays.items() if name not in NAMES}
        expected = set(DTYPES) - {"flags"} - ({"ratio_sum"} if not with_ratio else set())
        flags = arrays.get("flags")  # files of version 0.1 have none
        given = {name: array for name, array in arrays.items() if name != "flags"}
        n = len(given["step"]) if "step" in given and given["step"].ndim else 0
        shapes = {name: (n,) if name in ("step", "flags") else (n, layers) for name in DTYPES}
        wrong = [
            f"{name} {array.dtype} {list(array.shape)}"
            for name, array in arrays.items()
            if name not in DTYPES or array.dtype != DTYPES[name] or array.shape != shapes[name]
        ]
        if given.keys() != expected or wrong:
            raise ValueError(
                f"expected {', '.join(sorted(expected))} of {n} steps for {layers} layers, "
                f"got {', '.join(wrong) if given.keys() == expected else ', '.join(sorted(given)) or 'nothing'}"
            )
        rates = Rates.from_arrays(known, n, layers)  # files of version 0.1 have none
        sums = {name: given[name] for name in SUMS}
        rows = cls(given["step"], **sums, ratio_sum=given.get("ratio_sum"), flags=flags, rates=rates)
        if n and (rows.steps[0] < 1 or np.any(np.diff(rows.steps) <= 0)):
            raise ValueError("its steps do not rise from 1 on")
        if any(np.any(array < 0) for name, array in given.items()):
            raise ValueError("it has negative sums")
        return rows

    @classmethod
    def from_bytes(cls, data: bytes, layers: int, with_ratio: bool) -> Rows:
        """The rows from the bytes that `to_bytes` returned, checked as a whole.

        Raises:
            ValueError: the bytes are damaged, or of a record of other layers.
        """
        try:
            arrays = safetensors.numpy.load(data)
        except (safetensors.SafetensorError, TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"its rows are damaged ({error})") from error
        return cls.from_arrays(arrays, layers, with_ratio)


def concatenate(parts: list[Rows], layers: int, with_ratio: bool) -> Rows:
    """All the rows of `parts`, in their order; without parts, zero rows of `layers` layers."""
    empty = np.empty((0, layers))
    nothing = Rows(
        np.empty(0, np.int64), empty, empty, np.empty((0, layers), np.int64), empty.copy() if with_ratio else None
    )
    parts = parts or [nothing]
    columns = zip(*(part._replace(flags=part.bits, rates=None) for part in parts), strict=True)
    rows = Rows._make(None if column[0] is None else np.concatenate(column) for column in columns)
    if all(part.rates is None for part in parts):
        return rows
    return rows._replace(rates=join([_rates(part, layers) for part in parts]))


def _rates(rows: Rows, layers: int) -> Rates:
    return Rates.unknown(len(rows.steps), layers) if rows.rates is None else rows.rates

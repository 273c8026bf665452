"""Rows: recorded steps on the host, as the ring hands them out (`Part`) and as the record keeps them (`Rows`).

Letters: n rows, K sums (see ops/sums.py), L layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from ..ops.sums import DELTA_L1, DELTA_MAX, DELTA_SQ, MOVED, PREV_L1, PREV_SQ, has_l2, has_ratio
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
    "delta_l2": np.float64,
    "prev_l2": np.float64,
    "delta_max": np.float64,
}
SUMS = ("delta_l1", "prev_l1", "moved")
L2 = ("delta_l2", "prev_l2", "delta_max")  # norms, so roots of the sums of squares, and the largest change


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
    delta_l2: NDArray[np.float64] | None = None  # [n, L], if L2 is recorded; the next two also
    prev_l2: NDArray[np.float64] | None = None
    delta_max: NDArray[np.float64] | None = None

    @classmethod
    def of_sums(cls, steps: NDArray[np.int64], sums: NDArray[np.float64], flags: NDArray[np.uint8]) -> Rows:
        """The rows of complete sums [n, K, L]: those of all ranks."""
        K = sums.shape[1]
        rows = cls(steps, sums[:, DELTA_L1], sums[:, PREV_L1], sums[:, MOVED].astype(np.int64), None, flags)
        if has_ratio(K):
            rows = rows._replace(ratio_sum=sums[:, -1])
        if has_l2(K):
            norms = np.sqrt(sums[:, [DELTA_SQ, PREV_SQ]])
            rows = rows._replace(delta_l2=norms[:, 0], prev_l2=norms[:, 1], delta_max=sums[:, DELTA_MAX])
        return rows

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
        extra = {name: getattr(self, name) for name in ("ratio_sum", *L2)}
        arrays |= {name: array for name, array in extra.items() if array is not None}
        given = {name: np.ascontiguousarray(array, dtype=DTYPES[name]) for name, array in arrays.items()}
        return safetensors.numpy.save(given | (self.rates.arrays() if self.rates is not None else {}))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], layers: int, K: int) -> Rows:
        """The rows of K sums from the arrays of a safetensors file, checked as a whole.

        Raises:
            ValueError: arrays are missing, or do not fit together, or have impossible values.
        """
        known, arrays = arrays, {name: array for name, array in arrays.items() if name not in NAMES}
        extra = (("ratio_sum",) if has_ratio(K) else ()) + (L2 if has_l2(K) else ())
        expected = {"step", *SUMS, *extra}
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
        sums: dict[str, Any] = {"ratio_sum": None, **{name: given[name] for name in (*SUMS, *extra)}}
        rows = cls(given["step"], **sums, flags=flags, rates=rates)
        if n and (rows.steps[0] < 1 or np.any(np.diff(rows.steps) <= 0)):
            raise ValueError("its steps do not rise from 1 on")
        if any(np.any(array < 0) for name, array in given.items()):
            raise ValueError("it has negative sums")
        return rows

    @classmethod
    def from_bytes(cls, data: bytes, layers: int, K: int) -> Rows:
        """The rows from the bytes that `to_bytes` returned, checked as a whole.

        Raises:
            ValueError: the bytes are damaged, or of a record of other layers.
        """
        try:
            arrays = safetensors.numpy.load(data)
        except (safetensors.SafetensorError, TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"its rows are damaged ({error})") from error
        return cls.from_arrays(arrays, layers, K)


def concatenate(parts: list[Rows], layers: int, K: int) -> Rows:
    """All the rows of `parts`, in their order; without parts, zero rows of K sums of `layers` layers."""
    parts = parts or [Rows.of_sums(np.empty(0, np.int64), np.empty((0, K, layers)), np.empty(0, np.uint8))]
    columns = zip(*(part._replace(flags=part.bits, rates=None) for part in parts), strict=True)
    rows = Rows._make(None if column[0] is None else np.concatenate(column) for column in columns)
    if all(part.rates is None for part in parts):
        return rows
    return rows._replace(rates=join([_rates(part, layers) for part in parts]))


def _rates(rows: Rows, layers: int) -> Rates:
    return Rates.unknown(len(rows.steps), layers) if rows.rates is None else rows.rates

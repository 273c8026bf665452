"""Where two runs differ: in bits, by how much, and where first.

Letters: S common rows, L common layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..ratios import norm_ratio
from ..record.history import FloatArray, IntArray, RWCHistory
from .align import Alignment

BoolArray = NDArray[np.bool_]
BEFORE = ("prev_l1", "prev_l2")  # sums of the weights before the step
SUMS = (*BEFORE, "delta_l1", "delta_l2", "delta_max", "moved", "ratio_sum")  # a history may lack some of them


@dataclass(frozen=True)
class First:
    """The first row at which two runs differ.

    Args:
        step: the step of that row, in A.
        step_b: the same in B. It differs from `step` only if the rows are aligned by samples or epochs.
        layers: the layers that differ there, in network order. If the weights of some layers differ before the step,
            these: the others only follow in it.
        most: the one of them with the largest relative difference.
        shown_by: the sums of these layers that differ, such as `("delta_l1", "moved")`.
        before: whether the weights differ before the step. Otherwise their sums are equal, and the step differs.
        last_equal: the last step of A at which all was equal; None if there is none.
    """

    step: int
    step_b: int
    layers: tuple[str, ...]
    most: str
    shown_by: tuple[str, ...]
    before: bool
    last_equal: int | None


def differing(a: RWCHistory, b: RWCHistory, pairs: Alignment) -> dict[str, BoolArray]:
    """For each sum that both runs have, [S, L] whether its bits differ. NaN is equal to NaN."""
    found = {}
    for name in SUMS:
        one, other = getattr(a, name, None), getattr(b, name, None)
        if one is not None and other is not None:
            x, y = pairs.of_a(one), pairs.of_b(other)
            found[name] = (x != y) & ~(np.isnan(x) & np.isnan(y))
    return found


def relative_difference(a: RWCHistory, b: RWCHistory, pairs: Alignment) -> FloatArray:
    """[S, L] how much the runs differ: |x - y| / max(x, y) of `prev_l1` or of `delta_l1`, whichever is larger.

    0 is equal. 1 means that one is 0, or that only one is finite.
    """
    return np.maximum(*(_relative(pairs.of_a(x), pairs.of_b(y)) for x, y in _both_l1(a, b)))


def _both_l1(a: RWCHistory, b: RWCHistory) -> tuple[tuple[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]:
    return (a.prev_l1, b.prev_l1), (a.delta_l1, b.delta_l1)


def _relative(x: FloatArray, y: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.abs(x - y) / np.maximum(x, y)
    equal = (x == y) | (np.isnan(x) & np.isnan(y))
    return np.where(equal, 0.0, np.where(np.isfinite(x) & np.isfinite(y), relative, 1.0))


def both_rwc(a: RWCHistory, b: RWCHistory, pairs: Alignment) -> tuple[FloatArray, FloatArray]:
    """[S, L] the RWC of both runs, by one definition: their own, or `norm_ratio` if they have different ones."""
    if a.definition == b.definition:
        return pairs.of_a(a.rwc), pairs.of_b(b.rwc)
    return pairs.of_a(norm_ratio(a.delta_l1, a.prev_l1)), pairs.of_b(norm_ratio(b.delta_l1, b.prev_l1))


def log2_ratio(x: FloatArray, y: FloatArray) -> FloatArray:
    """log2(x / y): 0 where they are equal, even if they are 0 or not finite; inf or -inf where one is 0.

    Where only one is NaN it is inf.

    Example:
        >>> log2_ratio(np.array([2.0, 0.0, 0.0, np.nan]), np.array([1.0, 0.0, 3.0, 1.0])).tolist()
        [1.0, 0.0, -inf, inf]
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.log2(x / y)
    equal = (x == y) | (np.isnan(x) & np.isnan(y))
    return np.where(equal, 0.0, np.where(np.isnan(ratio), np.inf, ratio))


def first_rows(where: BoolArray) -> IntArray:
    """[L] the first row at which `where` [S, L] is true, or -1.

    Example:
        >>> first_rows(np.array([[False, False], [True, False]])).tolist()
        [1, -1]
    """
    return np.where(where.any(axis=0), where.argmax(axis=0), -1)


def find_first(
    bits: dict[str, BoolArray], relative: FloatArray, names: tuple[str, ...], steps_a: IntArray, steps_b: IntArray
) -> First | None:
    """The first row and layers at which any sum differs.

    Args:
        bits: what `differing` returned.
        relative: [S, L] what `relative_difference` returned.
        names: [L] of the layers.
        steps_a: [S] the steps of A.
        steps_b: [S] the steps of B.
    """
    any_sum = np.logical_or.reduce(list(bits.values()))
    differs = any_sum.any(axis=1)
    if not differs.any():
        return None
    row = int(differs.argmax())
    before = [name for name in BEFORE if name in bits and bits[name][row].any()]
    shown_by = before or [name for name in bits if bits[name][row].any()]
    layers = np.flatnonzero(np.logical_or.reduce([bits[name][row] for name in shown_by]))
    return First(
        step=int(steps_a[row]),
        step_b=int(steps_b[row]),
        layers=tuple(names[i] for i in layers),
        most=names[layers[relative[row, layers].argmax()]],
        shown_by=tuple(shown_by),
        before=bool(before),
        last_equal=int(steps_a[row - 1]) if row else None,
    )

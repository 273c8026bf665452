"""Medians of values that may not be finite."""

from __future__ import annotations

import numpy as np

from .curves import FloatArray


def finite_median(values: FloatArray, axis: int) -> FloatArray:
    """The median of the finite values along `axis`, or NaN if there are none.

    Example:
        >>> finite_median(np.array([[1.0, np.inf, 3.0], [np.nan, np.nan, np.nan]]), axis=1)
        array([ 2., nan])
    """
    finite = np.isfinite(values)
    ordered = np.sort(np.where(finite, values, np.nan), axis=axis)  # NaN is sorted last
    count = finite.sum(axis=axis, keepdims=True)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis)
    high = np.take_along_axis(ordered, count // 2, axis)
    middle: FloatArray = (low + high) / 2
    return middle.squeeze(axis)

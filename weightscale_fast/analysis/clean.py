"""Outliers: values of a curve that would decide the clusters alone.

Letters: L layers, T columns (steps or epochs).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .curves import FloatArray

OUTLIERS = ("two_sigma", "none", "mad", "log")

MAD_TO_SIGMA = 1.4826  # the median absolute deviation of a normal variable is its standard deviation over this


def clean_outliers(curves: NDArray[Any], how: str = "two_sigma") -> tuple[FloatArray, int]:
    """Replace the outliers of every layer, each curve by itself and in one pass.

    - `"two_sigma"`: what is further from the layer's mean than 2 population standard deviations becomes that mean; the
      outliers count in both. The rule of the authors' code for WeightScale (Agrawal, Tendle, Sikka, Singh).
    - `"mad"`: what is further from the layer's median than 3 scaled median absolute deviations (1.4826 MAD) becomes
      that median; outliers hardly count in either (Hampel, JASA 69, 1974). A layer with MAD 0, more than half of whose
      values are equal, is left alone: it has no scale to measure by.
    - `"log"`: log10 of every value; a zero becomes the smallest positive value of the matrix first.
    - `"none"`: the values as they are.

    Args:
        curves: [L, T] finite values; left as they are.
        how: the method, one of the four above.

    Returns:
        the cleaned curves [L, T], a new float64 matrix (of log10 values for `"log"`), and how many values were replaced
        (for `"log"`: how many zeros were). Beside the result no temporary of the matrix' size is made, but one of
        booleans for `"log"`.

    Raises:
        ValueError: an unknown method; `"log"` of a negative value, or of a matrix with no positive one.

    Example:
        >>> clean_outliers(np.array([[0, 0, 0, 1, 1, 7], [2, 2, 2, 3, 3, 3]]))
        (array([[0. , 0. , 0. , 1. , 1. , 1.5],
               [2. , 2. , 2. , 3. , 3. , 3. ]]), 1)
    """
    check_outliers(how)
    cleaned = np.array(curves, dtype=np.float64, order="C")
    if how == "none":
        return cleaned, 0
    if how == "log":
        return cleaned, _log10_in_place(cleaned)
    centre_and_limit = _two_sigma if how == "two_sigma" else _three_mad
    replaced = 0
    for row in cleaned:
        centre, limit = centre_and_limit(row)
        far = np.abs(row - centre) > limit
        row[far] = centre
        replaced += int(np.count_nonzero(far))
    return cleaned, replaced


def check_outliers(how: str) -> None:
    """Raise `ValueError` unless `how` is one of `OUTLIERS`."""
    if how not in OUTLIERS:
        raise ValueError(f"outliers must be one of {', '.join(map(repr, OUTLIERS))}, got {how!r}")


def _two_sigma(row: FloatArray) -> tuple[float, float]:
    return float(row.mean()), 2 * float(row.std())


def _three_mad(row: FloatArray) -> tuple[float, float]:
    median = float(np.median(row))
    mad = float(np.median(np.abs(row - median)))
    return median, 3 * MAD_TO_SIGMA * mad if mad > 0 else np.inf


def _log10_in_place(values: FloatArray) -> int:
    """Turn `values` into their log10; return how many zeros were raised to the smallest positive value."""
    if values.min() < 0:
        raise ValueError(f'outliers="log" needs values of at least 0, got {values.min():g}; use another method')
    positive = values > 0
    if not positive.any():
        raise ValueError('outliers="log" needs a positive value, but all are 0: no layer moved; use outliers="none"')
    floor = values.min(where=positive, initial=np.inf)
    np.maximum(values, floor, out=values)
    np.log10(values, out=values)
    return int(values.size - np.count_nonzero(positive))

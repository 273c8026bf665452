"""Outliers: values of a curve that would decide the clusters alone.

Letters: L layers, T columns (steps or epochs).
"""

from __future__ import annotations

import numpy as np

from ..errors import check_one_of
from .curves import FloatArray

OUTLIERS = ("two_sigma", "none", "mad")

MAD_TO_SIGMA = 1.4826  # the median absolute deviation of a normal variable is its standard deviation over this


def clean_outliers(curves: FloatArray, how: str = "two_sigma") -> int:
    """Replace the outliers of every layer in place, each curve by itself and in one pass.

    - `"two_sigma"`: what is further from the layer's mean than 2 population standard deviations becomes that mean; the
      outliers count in both. The rule of the authors' code for WeightScale (Agrawal, Tendle, Sikka, Singh).
    - `"mad"`: what is further from the layer's median than 3 scaled median absolute deviations (1.4826 MAD) becomes
      that median; outliers hardly count in either (Hampel, JASA 69, 1974). A layer with MAD 0, more than half of whose
      values are equal, is left alone: it has no scale to measure by.
    - `"none"`: the values stay as they are.

    Args:
        curves: [L, T] finite values.
        how: the method, one of the three above.

    Returns:
        how many values were replaced.

    Raises:
        ValueError: an unknown method.

    Example:
        >>> curves = np.array([[0.0, 0, 0, 1, 1, 7], [2, 2, 2, 3, 3, 3]])
        >>> clean_outliers(curves)
        1
        >>> curves
        array([[0. , 0. , 0. , 1. , 1. , 1.5],
               [2. , 2. , 2. , 3. , 3. , 3. ]])
    """
    check_outliers(how)
    if how == "none":
        return 0
    centre_and_limit = _two_sigma if how == "two_sigma" else _three_mad
    replaced = 0
    for row in curves:
        centre, limit = centre_and_limit(row)
        far = np.abs(row - centre) > limit
        row[far] = centre
        replaced += int(np.count_nonzero(far))
    return replaced


def check_outliers(how: str) -> None:
    """Raise `ValueError` unless `how` is one of `OUTLIERS`."""
    check_one_of("outliers", how, OUTLIERS)


def _two_sigma(row: FloatArray) -> tuple[float, float]:
    return float(row.mean()), 2 * float(row.std())


def _three_mad(row: FloatArray) -> tuple[float, float]:
    median = float(np.median(row))
    mad = float(np.median(np.abs(row - median)))
    return median, 3 * MAD_TO_SIGMA * mad if mad > 0 else np.inf

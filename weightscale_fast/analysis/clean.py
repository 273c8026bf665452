"""Outliers: single values of a curve that would dominate the clustering.

Letters: L layers, T columns (steps or epochs).
"""

from __future__ import annotations

import numpy as np

from ..errors import check_one_of
from .curves import FloatArray

OUTLIERS = ("two_sigma", "none", "mad")

MAD_TO_SIGMA = 1.4826  # standard deviation over median absolute deviation, for a normal distribution


def clean_outliers(curves: FloatArray, how: str = "two_sigma") -> int:
    """Replace the outliers in place. Each curve is cleaned by itself, once.

    - `"two_sigma"`: a value further than 2 population standard deviations from the layer's mean becomes that mean. Both
      include the outliers. This is the rule of the authors' code for WeightScale (Agrawal, Tendle, Sikka, Singh).
    - `"mad"`: a value further than 3 scaled median absolute deviations (1.4826 MAD) from the layer's median becomes
      that median. Outliers hardly change either (Hampel, JASA 69, 1974). If more than half of a layer's values are
      equal, its MAD is 0 and gives no scale, so the layer is not cleaned.
    - `"none"`: the values stay as they are.

    Args:
        curves: [L, T] finite values.
        how: one of the three methods above.

    Returns:
        The number of replaced values.

    Raises:
        ValueError: the method is unknown.

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

"""Linear or logarithmic: on which scale curves are compared.

Letters: L layers, T columns (steps or epochs).
"""

from __future__ import annotations

import numpy as np

from ..errors import check_one_of
from .curves import FloatArray

SCALES = ("auto", "log", "linear")

DECADES = 1.0  # between slow and fast layers, beyond which a linear distance sees the fast ones only


def to_scale(curves: FloatArray, scale: str = "auto") -> tuple[str, str]:
    """Put `curves` on a linear or a log10 scale, in place.

    K-means compares differences. Among curves that are decades apart the differences of the fastest layers decide
    alone, and all the slow ones fall into one cluster; on a log scale a factor of two is as much for each. So `"auto"`
    takes the log where no value is negative, some are positive, and the layers' medians span more than one decade
    between their 5th and 95th percentile (a layer or two far from all others do not count); else linear.

    For the log a zero, a step in which a layer did not move, becomes the smallest positive value of the matrix.

    Args:
        curves: [L, T] finite values; log10 values afterwards where the log was taken.
        scale: `"auto"`, `"log"` or `"linear"`.

    Returns:
        the scale taken, `"log"` or `"linear"`, and the reason for it.

    Raises:
        ValueError: an unknown scale; `"log"` of a negative value, or of a matrix with no positive one.

    Example:
        >>> curves = np.array([[0.001, 0.001], [0.1, 1.0]])
        >>> to_scale(curves)
        ('log', "auto: the layers' medians span 2.5 decades (5th to 95th percentile), more than 1")
        >>> curves
        array([[-3., -3.],
               [-1.,  0.]])
    """
    check_scale(scale)
    reason = "asked for"
    if scale == "auto":
        scale, reason = _choose(curves)
    if scale == "log":
        zeros = _log10(curves)
        if zeros:
            reason += f"; zeros raised to the smallest positive value: {zeros:,}"
    return scale, reason


def check_scale(scale: str) -> None:
    """Raise `ValueError` unless `scale` is one of `SCALES`."""
    check_one_of("scale", scale, SCALES)


def _choose(curves: FloatArray) -> tuple[str, str]:
    if curves.min() < 0:
        return "linear", "auto: some values are negative"
    if curves.max() == 0:
        return "linear", "auto: all values are 0"
    medians = np.array([np.median(row) for row in curves])  # a row at a time: numpy copies what it sorts
    low, high = np.percentile(np.log10(np.maximum(medians, _smallest_positive(curves))), [5, 95])
    span = f"auto: the layers' medians span {high - low:.1f} decades (5th to 95th percentile)"
    if high - low > DECADES:
        return "log", f"{span}, more than {DECADES:g}"
    return "linear", f"{span}, not more than {DECADES:g}"


def _smallest_positive(curves: FloatArray) -> float:
    return float(curves.min(where=curves > 0, initial=np.inf))


def _log10(curves: FloatArray) -> int:
    """Turn `curves` into their log10; return how many zeros were raised to the smallest positive value."""
    if curves.min() < 0:
        raise ValueError(f'scale="log" needs values of at least 0, got {curves.min():g}; use scale="linear"')
    floor = _smallest_positive(curves)
    if floor == np.inf:
        raise ValueError('scale="log" needs a positive value, but all are 0: no layer moved; use scale="linear"')
    zeros = curves.size - np.count_nonzero(curves)
    np.maximum(curves, floor, out=curves)
    np.log10(curves, out=curves)
    return int(zeros)

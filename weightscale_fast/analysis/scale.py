"""The scale on which curves are compared, linear or logarithmic.

Letters: L layers, T columns (steps or epochs).
"""

from __future__ import annotations

import numpy as np

from ..errors import check_one_of
from .curves import FloatArray

SCALES = ("auto", "log", "linear")

DECADES = 1.0  # between slow and fast layers; beyond this, fast layers dominate a linear distance


def to_scale(curves: FloatArray, scale: str = "auto") -> tuple[str, str]:
    """Put `curves` on a linear or a log10 scale, in place.

    K-means compares differences. If curves are decades apart, the differences between the fastest layers dominate, and
    all slow layers share one cluster. On a log scale a factor of two counts the same for every layer. So `"auto"` takes
    the log if no value is negative, some are positive, and the layers' medians span more than one decade between their
    5th and 95th percentile (so that a layer or two far from the others do not count). Otherwise the scale is linear.

    A zero is a step in which the layer did not move. For the log it becomes the smallest positive value of the matrix.

    Args:
        curves: [L, T] finite values. If the log is taken, they become log10 values.
        scale: `"auto"`, `"log"` or `"linear"`.

    Returns:
        The scale that was taken, `"log"` or `"linear"`, and the reason for it.

    Raises:
        ValueError: the scale is unknown, or it is `"log"` and a value is negative or none is positive.

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
    medians = np.array([np.median(row) for row in curves])  # row by row, because numpy copies what it sorts
    low, high = np.percentile(np.log10(np.maximum(medians, _smallest_positive(curves))), [5, 95])
    span = f"auto: the layers' medians span {high - low:.1f} decades (5th to 95th percentile)"
    if high - low > DECADES:
        return "log", f"{span}, more than {DECADES:g}"
    return "linear", f"{span}, not more than {DECADES:g}"


def _smallest_positive(curves: FloatArray) -> float:
    return float(curves.min(where=curves > 0, initial=np.inf))


def _log10(curves: FloatArray) -> int:
    """Replace `curves` with their log10. Return the number of zeros that were raised to the smallest positive value."""
    if curves.min() < 0:
        raise ValueError(f'scale="log" needs values of at least 0, got {curves.min():g}; use scale="linear"')
    floor = _smallest_positive(curves)
    if floor == np.inf:
        raise ValueError('scale="log" needs a positive value, but all are 0: no layer moved; use scale="linear"')
    zeros = curves.size - np.count_nonzero(curves)
    np.maximum(curves, floor, out=curves)
    np.log10(curves, out=curves)
    return int(zeros)

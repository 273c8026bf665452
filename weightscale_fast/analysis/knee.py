"""The number of clusters: the error of k-means against k, and the knee of that curve.

Letters: N points, d their dimensions, k clusters, k_max the largest k tried.
"""

from __future__ import annotations

import numpy as np

from .curves import FloatArray
from .kmeans import kmeans

SAME = 1e-6  # of the spread; k-means may not separate points that are nearer than this
ROUNDING = 1e-9  # of the height of an SSE curve: what lies so little below a line lies on it


def count_distinct(points: FloatArray, limit: int) -> int:
    """Count the points [N, d] that are distinct, up to `limit`.

    Each round counts the point that is furthest from all counted points, until none is further than `SAME` times the
    spread.

    Example:
        >>> count_distinct(np.array([[0.0], [1.0], [1.0]]), 3)
        2
    """
    nearest = ((points - points[0]) ** 2).sum(axis=1)
    same = SAME**2 * nearest.max()
    count = 1
    while count < limit and nearest.max() > same:
        nearest = np.minimum(nearest, ((points - points[nearest.argmax()]) ** 2).sum(axis=1))
        count += 1
    return count


def sse_curve(points: FloatArray, k_max: int, *, n_init: int, seed: int, backend: str = "sklearn") -> FloatArray:
    """The sum of squared errors of k-means on `points` [N, d] for k = 1..min(k_max, N).

    It is 0 if k is at least the number of distinct points. K-means does not run for k above that number.

    Example:
        >>> sse_curve(np.array([[0.0], [2.0], [10.0], [10.0]]), 17, n_init=3, seed=0)
        array([83.,  2.,  0.,  0.])
    """
    sse = np.zeros(min(k_max, len(points)))
    for k in range(1, count_distinct(points, len(sse)) + 1):
        sse[k - 1] = kmeans(points, k, n_init=n_init, seed=seed, backend=backend)[1]
    return sse


def chord_k(sse: FloatArray) -> int:
    """The knee of `sse`, for k = 1, 2, ...: the k where it is furthest below the straight line between its two ends.

    Both axes are scaled to 0..1. The knee is 1 if nothing is below the line: a flat curve, or one of two points. This
    is the knee of Satopaa et al., "Finding a Kneedle in a Haystack" (ICDCS workshops 2011), without smoothing.

    Example:
        >>> chord_k(np.array([100.0, 40.0, 10.0, 8.0, 6.0]))
        3
    """
    drop = sse[0] - sse[-1]
    if drop <= 0:
        return 1
    below = 1 - np.linspace(0, 1, len(sse)) - (sse - sse[-1]) / drop
    return int(below.argmax()) + 1 if below.max() > ROUNDING else 1

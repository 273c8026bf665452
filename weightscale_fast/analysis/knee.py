"""How many clusters: the curve of k-means' error against k, and its knee.

Letters: R points, d their dimensions, K the largest k tried.
"""

from __future__ import annotations

import numpy as np

from .curves import FloatArray
from .kmeans import kmeans

SAME = 1e-6  # points nearer than this share of the spread count as one: k-means cannot tell them apart for sure


def count_distinct(points: FloatArray, limit: int) -> int:
    """How many of `points` [R, d] are apart from one another, counted up to `limit`.

    Walks to the point furthest from all that were counted, until none is further than `SAME` times the spread.

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
    """The sum of squared errors [K] of k-means on `points` [R, d] for k = 1..K, K = min(k_max, R).

    From as many clusters as there are distinct points on it is 0, and k-means is not asked.

    Example:
        >>> sse_curve(np.array([[0.0], [2.0], [10.0], [10.0]]), 17, n_init=3, seed=0)
        array([83.,  2.,  0.,  0.])
    """
    sse = np.zeros(min(k_max, len(points)))
    for k in range(1, count_distinct(points, len(sse)) + 1):
        sse[k - 1] = kmeans(points, k, n_init=n_init, seed=seed, backend=backend)[1]
    return sse


def chord_k(sse: FloatArray) -> int:
    """The knee of `sse` [K], k = 1..K: where it is furthest below the straight line between its two ends.

    Both axes are scaled to 0..1. It is 1 where nothing lies below the line: a flat curve, or one of two points.
    The knee of Satopaa et al., "Finding a Kneedle in a Haystack" (ICDCS workshops 2011), without its smoothing.

    Example:
        >>> chord_k(np.array([100.0, 40.0, 10.0, 8.0, 6.0]))
        3
    """
    drop = sse[0] - sse[-1]
    if drop <= 0:
        return 1
    below = 1 - np.linspace(0, 1, len(sse)) - (sse - sse[-1]) / drop
    return int(below.argmax()) + 1

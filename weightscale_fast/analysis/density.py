"""HDBSCAN: clusters where points are dense, and no cluster for those that stand alone.

Letters: R points, d their dimensions.
"""

from __future__ import annotations

import numpy as np

from ..extras import import_extra
from .curves import FloatArray, IntArray

MIN_CLUSTER_SIZE = 3  # a layer and its like on both sides; of two alike layers one cannot tell that from chance


def hdbscan(points: FloatArray) -> IntArray:
    """Labels [R] of HDBSCAN, -1 for points that belong to no cluster of at least `MIN_CLUSTER_SIZE`.

    HDBSCAN: Campello, Moulavi and Sander, PAKDD 2013; here scikit-learn's. It draws no random numbers. Points that are
    all of one place are one cluster.

    Args:
        points: [R, d]; d may be 0 where all are equal.

    Raises:
        ValueError: fewer than `MIN_CLUSTER_SIZE` points.

    Example:
        >>> hdbscan(np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2], [20.0]])).tolist()
        [0, 0, 0, 1, 1, 1, -1]
    """
    if len(points) < MIN_CLUSTER_SIZE:
        raise ValueError(
            f'method="hdbscan" needs at least {MIN_CLUSTER_SIZE} layers, got {len(points)}; use method="kmeans"'
        )
    if not np.ptp(points, axis=0).any():
        return np.zeros(len(points), dtype=np.int64)
    cluster = import_extra("sklearn.cluster", "analysis")
    labels = cluster.HDBSCAN(min_cluster_size=MIN_CLUSTER_SIZE, copy=True).fit(points).labels_
    return np.asarray(labels, dtype=np.int64)

"""HDBSCAN: clusters where points are dense. Points that stand alone belong to no cluster.

Letters: N points, d their dimensions.
"""

from __future__ import annotations

import numpy as np

from ..extras import import_extra
from .curves import FloatArray, IntArray

MIN_CLUSTER_SIZE = 3  # two layers may be alike by chance


def hdbscan(points: FloatArray) -> IntArray:
    """Labels [N] of HDBSCAN: -1 for points that belong to no cluster of at least `MIN_CLUSTER_SIZE` points.

    HDBSCAN is by Campello, Moulavi and Sander (PAKDD 2013); this uses scikit-learn's. It draws no random numbers. If
    all points are equal, they are one cluster.

    Args:
        points: [N, d]; d may be 0 if all are equal.

    Raises:
        ValueError: there are fewer than `MIN_CLUSTER_SIZE` points.

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

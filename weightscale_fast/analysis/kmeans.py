"""K-means on points, and what can be said about how good its answer is.

Letters: R points, d their dimensions, k clusters.
"""

from __future__ import annotations

import numpy as np

from ..extras import import_extra
from .curves import FloatArray, IntArray

BACKENDS = ("auto", "sklearn")

STABILITY_SEEDS = 5


def choose_backend(backend: str) -> tuple[str, str]:
    """The name of the k-means to use and the reason for it.

    Raises:
        ValueError: an unknown backend.

    Example:
        >>> choose_backend("sklearn")
        ('sklearn', 'asked for')
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    if backend == "auto":
        return "sklearn", "auto: scikit-learn on the CPU"
    return backend, "asked for"


def kmeans(points: FloatArray, k: int, *, n_init: int, seed: int) -> tuple[IntArray, float]:
    """Labels [R] and the sum of squared errors (SSE) of the best of `n_init` runs of k-means with k-means++ starts.

    k-means++: Arthur and Vassilvitskii, SODA 2007; here scikit-learn's.

    Args:
        points: [R, d], at least `k` of them distinct; d may be 0 where `k` is 1.
        k: the number of clusters.
        n_init: the number of starts.
        seed: of the starts; the same seed gives the same labels.

    Example:
        >>> kmeans(np.array([[0.0], [2.0], [10.0]]), 2, n_init=3, seed=0)[1]
        2.0
    """
    if k == 1:
        return np.zeros(len(points), dtype=np.int64), float(((points - points.mean(axis=0)) ** 2).sum())
    cluster = import_extra("sklearn.cluster", "analysis")
    threadpool_limits = import_extra("threadpoolctl", "analysis").threadpool_limits

    # Layers are few: more threads gain nothing up to some 10,000 points, and on a busy machine cost a factor of ten.
    with threadpool_limits(1):
        fitted = cluster.KMeans(k, init="k-means++", n_init=n_init, random_state=seed).fit(points)
    return fitted.labels_.astype(np.int64), float(fitted.inertia_)


def stability(points: FloatArray, labels: IntArray, *, n_init: int, seed: int) -> float:
    """How alike other seeds cluster: the mean adjusted Rand index of `labels` [R], found from `seed`, with 5 others.

    1 when all agree, about 0 when they agree no better than chance (Hubert and Arabie, J. Classification 2, 1985).
    """
    k = int(labels.max()) + 1
    if k == 1:
        return 1.0
    metrics = import_extra("sklearn.metrics", "analysis")
    others = (kmeans(points, k, n_init=n_init, seed=seed + i)[0] for i in range(1, STABILITY_SEEDS + 1))
    return float(np.mean([metrics.adjusted_rand_score(labels, other) for other in others]))


def silhouette(points: FloatArray, labels: IntArray) -> float:
    """Mean silhouette (Rousseeuw, J. Comput. Appl. Math. 20, 1987), -1 to 1; NaN for one cluster or R of them."""
    if not 0 < labels.max() < len(points) - 1:
        return float("nan")
    return float(import_extra("sklearn.metrics", "analysis").silhouette_score(points, labels))

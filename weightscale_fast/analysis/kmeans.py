"""K-means, and two measures of the quality of its result.

Letters: N points, d their dimensions, k clusters.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from ..errors import check_one_of
from ..extras import import_extra
from . import cuml
from .curves import FloatArray, IntArray
from .result import OUTLIER

BACKENDS = ("auto", "sklearn", "cuml")
CUML_POINTS = 50_000  # `auto` uses cuML from this size on, where it works; not measured yet, its import takes 5 s

STABILITY_SEEDS = 5

WIDE = 100  # with more dimensions, a distance costs more to compute than to look up


def choose_backend(backend: str, n_points: int) -> tuple[str, str]:
    """The name of the library for `n_points` points, and the reason for the choice.

    Raises:
        ValueError: the backend is unknown.
        WeightScaleError: cuML is asked for and cannot be used here.

    Example:
        >>> choose_backend("sklearn", 161)
        ('sklearn', 'asked for')
        >>> choose_backend("auto", 161)
        ('sklearn', 'auto: 161 points are too few to gain from a GPU')
    """
    check_one_of("backend", backend, BACKENDS)
    if backend == "cuml":
        cuml.check_available()
    if backend != "auto":
        return backend, "asked for" + _patched()
    if n_points < CUML_POINTS:
        return "sklearn", f"auto: {n_points} points are too few to gain from a GPU" + _patched()
    reason = cuml.refusal()
    return ("sklearn", f"auto: {reason}" + _patched()) if reason else ("cuml", f"auto: {n_points} points on a GPU")


def _patched() -> str:
    """A note if cuML's accelerator has replaced scikit-learn's estimators with cuML's."""
    accelerator = sys.modules.get("cuml.accel")
    return "; cuml.accel had patched scikit-learn" if accelerator is not None and accelerator.enabled() else ""


def kmeans(points: FloatArray, k: int, *, n_init: int, seed: int, backend: str = "sklearn") -> tuple[IntArray, float]:
    """Labels [N] and the sum of squared errors (SSE) of the best of `n_init` runs of k-means with k-means++ starts.

    k-means++ is by Arthur and Vassilvitskii (SODA 2007); this uses scikit-learn's. For points of more than `WIDE`
    dimensions the method needs less arithmetic: the starts look up distances that were computed once, and Elkan's
    algorithm (ICML 2003) skips most distances.

    Args:
        points: [N, d], at least `k` of them distinct; d may be 0 if `k` is 1.
        k: the number of clusters.
        n_init: the number of starts.
        seed: the seed of the starts. The same seed gives the same labels.
        backend: `"sklearn"` or `"cuml"`.

    Example:
        >>> kmeans(np.array([[0.0], [2.0], [10.0]]), 2, n_init=3, seed=0)[1]
        2.0
    """
    if k == 1:
        return np.zeros(len(points), dtype=np.int64), float(((points - points.mean(axis=0)) ** 2).sum())
    if backend == "cuml":
        return cuml.kmeans(points, k, n_init=n_init, seed=seed)
    cluster = import_extra("sklearn.cluster", "analysis")
    threadpool_limits = import_extra("threadpoolctl", "analysis").threadpool_limits

    # There are few layers. Up to about 10,000 points more threads gain nothing. On a busy machine they cost a factor of
    # ten.
    with threadpool_limits(1):
        wide = points.shape[1] > WIDE
        init, algorithm = (_starts_by_distance(points), "elkan") if wide else ("k-means++", "lloyd")
        fitted = cluster.KMeans(k, init=init, n_init=n_init, algorithm=algorithm, random_state=seed).fit(points)
    return fitted.labels_.astype(np.int64), float(fitted.inertia_)


def _starts_by_distance(points: FloatArray) -> Callable[..., FloatArray]:
    """scikit-learn's greedy k-means++ on distances computed once. Each start is the best of 2 + log k candidates."""
    distances = import_extra("sklearn.metrics", "analysis").euclidean_distances(points, squared=True)  # [N, N]

    def starts(centred: FloatArray, k: int, random_state: np.random.RandomState) -> FloatArray:
        chosen = [random_state.randint(len(distances))]
        nearest = distances[chosen[0]]
        for _ in range(1, k):
            candidates = random_state.choice(len(distances), 2 + int(np.log(k)), p=nearest / nearest.sum())
            left = np.minimum(nearest, distances[candidates])
            best = left.sum(axis=1).argmin()
            chosen.append(candidates[best])
            nearest = left[best]
        return centred[chosen]

    return starts


def stability(points: FloatArray, labels: IntArray, *, n_init: int, seed: int, backend: str = "sklearn") -> float:
    """How similar the clusters of other seeds are: the mean adjusted Rand index of `labels` [N] with 5 other seeds.

    It is 1 if all agree, and about 0 if they agree no better than chance (Hubert and Arabie, J. Classification 2,
    1985). `seed` is the one that gave `labels`.
    """
    k = int(labels.max()) + 1
    if k == 1:
        return 1.0
    metrics = import_extra("sklearn.metrics", "analysis")
    seeds = range(seed + 1, seed + STABILITY_SEEDS + 1)
    others = (kmeans(points, k, n_init=n_init, seed=other, backend=backend)[0] for other in seeds)
    return float(np.mean([metrics.adjusted_rand_score(labels, other) for other in others]))


def silhouette(points: FloatArray, labels: IntArray) -> float:
    """Mean silhouette (Rousseeuw, J. Comput. Appl. Math. 20, 1987) of the points in a cluster, -1 to 1.

    It is NaN for fewer than two clusters, and if every point is its own cluster.
    """
    members = labels != OUTLIER
    if not 0 < labels.max() < np.count_nonzero(members) - 1:
        return float("nan")
    return float(import_extra("sklearn.metrics", "analysis").silhouette_score(points[members], labels[members]))

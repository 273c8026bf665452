"""Cluster the layers of a network by their RWC curves: hundreds of layers become a few behaviours.

Letters: L layers given, R rows used, T columns (steps or epochs), k clusters, K the largest k of the SSE curves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .clean import check_outliers, clean_outliers
from .curves import CurveRecord, FloatArray, IntArray, named_curves
from .kmeans import choose_backend, kmeans, silhouette, stability
from .knee import chord_k, count_distinct, sse_curve
from .reduce import pca_scores

SPACES = ("raw", "pca")


@dataclass(frozen=True, eq=False)
class LayerClusters:
    """Which layers learn alike, and everything that was decided on the way there.

    Args:
        names: the layers' names, R of them.
        rows: [R] which rows of the input they are.
        curves: [R, T] their curves after cleaning.
        labels: [R] the cluster of each, 0..k-1; clusters are numbered by the median of their centre, lowest first.
        coordinates: [R, 2] the first two principal component scores.
        k: the number of clusters.
        k_reason: why that many.
        sse: [K] sum of squared errors of k-means on `coordinates` for k = 1..K, K = min(k_max, R): the papers' scree
            plot.
        sse_raw: [K] the same on the whole curves.
        explained_variance_ratio: [at least 2] share of the variance along each principal component.
        centers: [k, T] mean cleaned curve of each cluster.
        center_coordinates: [k, 2] where the centres lie on the map of `coordinates`.
        center_offsets: [k] squared distance of each centre from the plane of that map, 0 for `space="pca"`. A point z
            of the map belongs to the cluster that has the least `|z - center_coordinates|^2 + center_offsets`.
        outliers: how outliers were cleaned.
        outliers_replaced: how many values that replaced.
        stability: mean adjusted Rand index between these labels and those from 5 other seeds, 1 for k = 1.
        silhouette: mean silhouette in the space that was clustered, NaN for k = 1 and k = R.
        space: what was clustered, `"raw"` curves or `"pca"` coordinates.
        seed: of the k-means starts.
        n_init: how many starts, the best of which counts.
        backend: which k-means ran.
        backend_reason: why that one.
    """

    names: tuple[str, ...]
    rows: IntArray
    curves: FloatArray
    labels: IntArray
    coordinates: FloatArray
    k: int
    k_reason: str
    sse: FloatArray
    sse_raw: FloatArray
    explained_variance_ratio: FloatArray
    centers: FloatArray
    center_coordinates: FloatArray
    center_offsets: FloatArray
    outliers: str
    outliers_replaced: int
    stability: float
    silhouette: float
    space: str
    seed: int
    n_init: int
    backend: str
    backend_reason: str


def cluster_layers(
    curves: ArrayLike | CurveRecord,
    *,
    k: int | str = "auto",
    outliers: str = "two_sigma",
    space: str = "raw",
    k_max: int = 17,
    n_init: int = 50,
    backend: str = "auto",
    seed: int = 0,
) -> LayerClusters:
    """Clean the curves, map them to the plane of their first two principal components, choose k, and run k-means.

    The method of WeightScale (Agrawal, Tendle, Sikka, Singh), with their choice of k by eye made a rule.

    Args:
        curves: an array-like [L, T], a row a layer, or an `RWCHistory`.
        k: how many clusters, 1..L; or `"auto"`, the knee of `sse`: the point furthest below its chord. One choice
            of several that can be defended: look at `sse`, `silhouette` and `stability` too.
        outliers: `"two_sigma"` (the authors'), `"mad"`, `"log"` or `"none"`; see `clean_outliers`.
        space: what k-means sees, the whole `"raw"` curves or the two `"pca"` coordinates.
        k_max: how far the SSE curves go, at most; they end at L.
        n_init: starts of k-means, the best of which counts. 10 miss the papers' optimum in one seed of five.
        backend: `"sklearn"`, or `"auto"` to have it chosen.
        seed: of the k-means starts; the same seed gives the same result.

    Raises:
        ValueError: curves that are no finite real matrix of at least 2 layers and 2 columns, names that do not fit
            them, fewer distinct curves than the `k` asked for, or an option outside what is listed here.

    Example:
        >>> clusters = cluster_layers([[1, 2, 1], [1, 2, 2], [9, 8, 9], [9, 9, 9]], k=2)
        >>> clusters.labels
        array([0, 0, 1, 1])
        >>> clusters.centers
        array([[1. , 2. , 1.5],
               [9. , 8.5, 9. ]])
    """
    names, matrix = named_curves(curves)
    _check_options(k, outliers, space, k_max, n_init, n_layers=len(matrix))
    backend, backend_reason = choose_backend(backend)

    cleaned, replaced = clean_outliers(matrix, outliers)
    reduced = pca_scores(cleaned)
    missing = max(0, 2 - reduced.scores.shape[1])
    coordinates = np.pad(reduced.scores[:, :2], ((0, 0), (0, missing)))
    points = reduced.scores if space == "raw" else coordinates
    if not isinstance(k, str):
        _check_distinct(points, k)
    sse = sse_curve(coordinates, k_max, n_init=n_init, seed=seed)
    sse_raw = sse_curve(reduced.scores, k_max, n_init=n_init, seed=seed)
    k_reason = "asked for"
    if isinstance(k, str):
        k, k_reason = chord_k(sse), f"chord rule over k = 1..{len(sse)} of the SSE on the 2-D scores"
    labels = _number_by_level(kmeans(points, k, n_init=n_init, seed=seed)[0], cleaned)
    return LayerClusters(
        names=names,
        rows=np.arange(len(names)),
        curves=cleaned,
        labels=labels,
        coordinates=coordinates,
        k=int(k),
        k_reason=k_reason,
        sse=sse,
        sse_raw=sse_raw,
        explained_variance_ratio=np.pad(reduced.explained_variance_ratio, (0, missing)),
        centers=_means(cleaned, labels),
        center_coordinates=_means(coordinates, labels),
        center_offsets=(_means(points, labels)[:, 2:] ** 2).sum(axis=1),
        outliers=outliers,
        outliers_replaced=replaced,
        stability=stability(points, labels, n_init=n_init, seed=seed),
        silhouette=silhouette(points, labels),
        space=space,
        seed=seed,
        n_init=n_init,
        backend=backend,
        backend_reason=backend_reason,
    )


def _check_options(k: Any, outliers: str, space: str, k_max: Any, n_init: Any, *, n_layers: int) -> None:
    if not (isinstance(k, str) and k == "auto"):
        _check_count("k", k, 'or "auto"')
        if k > n_layers:
            raise ValueError(f"k must be at most the number of layers, {n_layers}, got {k}; ask for fewer clusters")
    _check_count("k_max", k_max)
    _check_count("n_init", n_init)
    check_outliers(outliers)
    if space not in SPACES:
        raise ValueError(f"space must be one of {', '.join(map(repr, SPACES))}, got {space!r}")


def _check_count(argument: str, value: Any, or_else: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{argument} must be an integer of at least 1 {or_else}".rstrip() + f", got {value!r}")


def _check_distinct(points: FloatArray, k: int) -> None:
    distinct = count_distinct(points, k)
    if distinct < k:
        raise ValueError(
            f"k={k} clusters need as many distinct curves, but after cleaning only {distinct} of {len(points)} differ; "
            f'ask for at most k={distinct}, or k="auto"'
        )


def _number_by_level(labels: IntArray, curves: FloatArray) -> IntArray:
    """The labels renumbered by the median of each cluster's centre, lowest first; ties by their first layer."""
    level = np.median(_means(curves, labels), axis=1)
    first_row = np.unique(labels, return_index=True)[1]
    return np.lexsort((first_row, level)).argsort()[labels]


def _means(rows: FloatArray, labels: IntArray) -> FloatArray:
    """The mean of the `rows` [R, n] of each cluster, [k, n]."""
    return np.stack([rows[labels == cluster].mean(axis=0) for cluster in range(labels.max() + 1)])

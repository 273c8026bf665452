"""Cluster the layers of a network by their RWC curves.

Letters: L layers given, N layers clustered, T columns of the curves (steps or epochs), k clusters.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import ArrayLike

from .clean import clean_outliers
from .curve_files import load_curves
from .curves import CurveRecord, FloatArray, IntArray, check_finite, named_curves
from .density import MIN_CLUSTER_SIZE, hdbscan
from .kmeans import choose_backend, kmeans, silhouette, stability
from .knee import chord_k, count_distinct, sse_curve
from .options import check_options
from .recipe import weightscale_curves
from .reduce import pca_scores
from .result import OUTLIER, LayerClusters
from .scale import to_scale
from .usable import fill_infinities, moving_rows


def cluster_layers(
    curves: ArrayLike | CurveRecord | os.PathLike[str],
    *,
    k: int | str = "auto",
    outliers: str = "two_sigma",
    space: str = "raw",
    k_max: int = 17,
    n_init: int = 50,
    recipe: str | None = None,
    scale: str = "auto",
    method: str = "kmeans",
    backend: str = "auto",
    seed: int = 0,
) -> LayerClusters:
    """Clean the curves, compute their first two principal components, choose k, and cluster the layers.

    This is the method of WeightScale (Agrawal, Tendle, Sikka, Singh) with two additions: a rule chooses k, which they
    chose by eye, and the scale suits curves of Eq. 1, which are decades apart. `recipe="weightscale"` does exactly what
    the authors did.

    Args:
        curves: an array-like [L, T] with one row per layer; an `RWCHistory`; an `RWCMonitor`; or the path of a run
            folder, npz or CSV that `load_curves` can read. Give a very large run by its path. Then only the matrix of
            the curves is in memory, and it becomes part of the result. Of a record, layers that never moved are left
            out, and an infinite RWC (the weights were 0 before the step) gives way to the layer's next value.
        k: the number of clusters, 1..N; or `"auto"`, the knee of `sse`, which is the point furthest below its chord.
            Other choices can be right too: look at `sse`, `silhouette` and `stability`. cuML's k-means may leave a
            cluster empty. The result's `k` then counts the clusters that have layers, and `k_reason` says so.
        outliers: `"two_sigma"` (the authors' rule), `"mad"` or `"none"`, see `clean_outliers`. Cleaning comes after the
            scale. `"log"` is short for `scale="log", outliers="none"`.
        space: what to cluster, the whole `"raw"` curves or the two `"pca"` coordinates.
        k_max: the largest k of the SSE curves, which also end at N.
        n_init: the number of k-means starts; the best one counts. 10 starts miss the papers' optimum in one of five
            seeds.
        recipe: `"weightscale"`, the authors' pipeline: infinities become a mean, the network's first and last layer are
            dropped (`weightscale_curves`), two-sigma cleaning, linear scale, k-means.
        scale: `"linear"`, `"log"` (log10, with zeros raised to the smallest positive value) or `"auto"`: log if the
            layers' levels span more than a decade, see `to_scale`. On a linear scale the differences between the
            fastest layers outweigh all others, so layers that are slow in different ways share one cluster.
        method: `"kmeans"`; or `"hdbscan"`, which finds k itself and gives outlying layers the label -1. K-means would
            let them pull a centre, or give each its own cluster.
        backend: `"sklearn"`; `"cuml"`, RAPIDS on an NVIDIA GPU; or `"auto"`, which chooses by the number of layers.
        seed: the seed of the k-means starts. The same seed gives the same result.

    Raises:
        ValueError: the curves are not a finite real matrix of at least 2 layers and 2 columns (a record and the recipe
            may have infinities, and the recipe needs 4 layers), the names do not fit them, fewer than `k` curves
            differ, an option is not listed here, or an option contradicts the recipe.

    Example:
        >>> clusters = cluster_layers([[1, 2, 1], [1, 2, 2], [9, 8, 9], [9, 9, 9]], k=2)
        >>> clusters.labels
        array([0, 0, 1, 1])
        >>> clusters.centers
        array([[1. , 2. , 1.5],
               [9. , 8.5, 9. ]])
    """
    scale, outliers = check_options(
        k=k,
        k_max=k_max,
        n_init=n_init,
        recipe=recipe,
        scale=scale,
        outliers=outliers,
        space=space,
        method=method,
    )
    names, rows, cleaned, infinities = _rows_used(curves, recipe)
    if not isinstance(k, str) and k > len(rows):
        raise ValueError(f"k must be at most the number of layers, {len(rows)}, got {k}; ask for fewer clusters")

    backend, backend_reason = choose_backend(backend, len(rows))
    scale, scale_reason = to_scale(cleaned, scale)
    replaced = clean_outliers(cleaned, outliers)
    reduced = pca_scores(cleaned, backend=backend)
    missing = max(0, 2 - reduced.scores.shape[1])
    coordinates = np.pad(reduced.scores[:, :2], ((0, 0), (0, missing)))
    points = reduced.scores if space == "raw" else coordinates
    if not isinstance(k, str):
        _check_distinct(points, k)
    sse = sse_curve(coordinates, k_max, n_init=n_init, seed=seed, backend=backend)
    sse_raw = sse_curve(reduced.scores, k_max, n_init=n_init, seed=seed, backend=backend)
    if method == "hdbscan":
        labels = hdbscan(points)
        k, k_reason = int(labels.max()) + 1, f"found by HDBSCAN: clusters of at least {MIN_CLUSTER_SIZE} layers"
    else:
        k_reason = "asked for"
        if isinstance(k, str):
            k, k_reason = chord_k(sse), f"chord rule over k = 1..{len(sse)} of the SSE on the 2-D scores"
        labels = kmeans(points, k, n_init=n_init, seed=seed, backend=backend)[0]
    labels = _number_by_level(labels, cleaned)
    found = int(labels.max()) + 1
    if found < int(k):
        k, k_reason = found, f"{k_reason}; k-means left {int(k) - found} of {k} clusters empty"
    return LayerClusters(
        names=names,
        rows=rows,
        curves=cleaned,
        labels=labels,
        coordinates=coordinates,
        k=int(k),
        k_reason=k_reason,
        sse=sse,
        sse_raw=sse_raw,
        explained_variance_ratio=np.pad(reduced.explained_variance_ratio, (0, missing)),
        centers=_means(cleaned, labels, int(k)),
        center_coordinates=_means(coordinates, labels, int(k)),
        center_offsets=(_means(points, labels, int(k))[:, 2:] ** 2).sum(axis=1),
        recipe=recipe,
        infinities_replaced=infinities,
        scale=scale,
        scale_reason=scale_reason if recipe is None else f'recipe="{recipe}"',
        outliers=outliers,
        outliers_replaced=replaced,
        method=method,
        stability=stability(points, labels, n_init=n_init, seed=seed, backend=backend)
        if method == "kmeans"
        else float("nan"),
        silhouette=silhouette(points, labels),
        space=space,
        seed=seed,
        n_init=n_init,
        backend=backend,
        backend_reason=backend_reason,
    )


def _rows_used(
    curves: ArrayLike | CurveRecord | os.PathLike[str], recipe: str | None
) -> tuple[tuple[str, ...], IntArray, FloatArray, int]:
    """The names, rows and curves [N, T] to cluster, and the number of replaced infinities. The curves are writable."""
    from_file = isinstance(curves, (str, os.PathLike))
    if from_file:
        curves = load_curves(curves)  # type: ignore[arg-type]
    elif callable(getattr(curves, "history", None)):
        curves = curves.history()  # type: ignore[union-attr]
    names, matrix = named_curves(curves)  # type: ignore[arg-type]
    rows = np.arange(len(names))
    steps = getattr(curves, "steps", None)
    if recipe is not None:
        check_finite(names, matrix, infinite_too=True, steps=steps)
        kept, infinities = weightscale_curves(names, matrix)
        return names[1:-1], rows[1:-1], kept, infinities
    if not hasattr(curves, "names"):  # an array: it is taken as it is
        check_finite(names, matrix)
        return names, rows, np.array(matrix, dtype=np.float64, order="C"), 0
    rows = moving_rows(matrix)
    kept = matrix if from_file and len(rows) == len(matrix) else np.array(matrix[rows], dtype=np.float64, order="C")
    infinities = fill_infinities(kept)
    names = tuple(names[i] for i in rows)
    check_finite(names, kept, steps=steps)
    return names, rows, kept, infinities


def _check_distinct(points: FloatArray, k: int) -> None:
    distinct = count_distinct(points, k)
    if distinct < k:
        raise ValueError(
            f"k={k} clusters need as many distinct curves, but after cleaning only {distinct} of {len(points)} differ; "
            f'ask for at most k={distinct}, or k="auto"'
        )


def _number_by_level(labels: IntArray, curves: FloatArray) -> IntArray:
    """Renumber the labels by the median of each cluster's centre, lowest first. Ties go by the first layer.

    The new numbers are 0, 1, ... without a gap. `OUTLIER` stays as it is.
    """
    members = labels != OUTLIER
    _, first_row, number = np.unique(labels[members], return_index=True, return_inverse=True)
    gapless = np.full_like(labels, OUTLIER)
    gapless[members] = number
    level = np.median(_means(curves, gapless, len(first_row)), axis=1)
    gapless[members] = np.lexsort((first_row, level)).argsort()[number]
    return gapless


def _means(rows: FloatArray, labels: IntArray, k: int) -> FloatArray:
    """The mean of the `rows` [N, n] of each cluster, [k, n]."""
    member = (labels == np.arange(k)[:, None]).astype(np.float64)  # [k, N]; a matrix product copies no row
    means: FloatArray = member @ rows / member.sum(axis=1, keepdims=True)
    return means

"""LayerClusters: which layers learn alike, and everything that was decided on the way there.

Letters: R rows used, T columns (steps or epochs), k clusters, K the largest k of the SSE curves.
"""

from __future__ import annotations

from dataclasses import dataclass

from .curves import FloatArray, IntArray

OUTLIER = -1  # the label of a layer that belongs to no cluster


@dataclass(frozen=True, eq=False)
class LayerClusters:
    """Which layers learn alike, and everything that was decided on the way there.

    Args:
        names: the layers' names, R of them.
        rows: [R] which rows of the input they are.
        curves: [R, T] their curves after scaling and cleaning: log10 values where `scale` is `"log"`.
        labels: [R] the cluster of each, 0..k-1; clusters are numbered by the median of their centre, lowest first. With
            `method="hdbscan"` a layer that belongs to none, an outlier, has -1.
        coordinates: [R, 2] the first two principal component scores.
        k: the number of clusters; 0 where `method="hdbscan"` found none.
        k_reason: why that many.
        sse: [K] sum of squared errors of k-means on `coordinates` for k = 1..K, K = min(k_max, R): the papers' scree
            plot.
        sse_raw: [K] the same on the whole curves.
        explained_variance_ratio: [at least 2] share of the variance along each principal component.
        centers: [k, T] mean cleaned curve of each cluster.
        center_coordinates: [k, 2] where the centres lie on the map of `coordinates`.
        center_offsets: [k] squared distance of each centre from the plane of that map, 0 for `space="pca"`. With
            k-means a point z of the map belongs to the cluster that has the least
            `|z - center_coordinates|^2 + center_offsets`.
        recipe: whose pipeline it was, `"weightscale"`, or None.
        infinities_replaced: how many infinities the recipe replaced.
        scale: on which scale the curves were compared, `"log"` or `"linear"`.
        scale_reason: why on that one.
        outliers: how outliers were cleaned.
        outliers_replaced: how many values that replaced.
        method: what clustered, `"kmeans"` or `"hdbscan"`.
        stability: mean adjusted Rand index between these labels and those from 5 other seeds, 1 for k = 1; NaN for
            `method="hdbscan"`, which knows no seeds.
        silhouette: mean silhouette of the clusters' members in the space that was clustered; NaN for fewer than two
            clusters and for as many as layers.
        space: what was clustered, `"raw"` curves or `"pca"` coordinates.
        seed: of the k-means starts.
        n_init: how many starts, the best of which counts.
        backend: which library clustered.
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
    recipe: str | None
    infinities_replaced: int
    scale: str
    scale_reason: str
    outliers: str
    outliers_replaced: int
    method: str
    stability: float
    silhouette: float
    space: str
    seed: int
    n_init: int
    backend: str
    backend_reason: str

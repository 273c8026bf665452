"""LayerClusters: which layers learn alike, and how that was decided.

Letters: N layers clustered, T columns of the curves (steps or epochs), k clusters, k_max the largest k of `sse`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..extras import import_extra
from ..text import count, listing
from .curves import FloatArray, IntArray

if TYPE_CHECKING:
    from pandas import DataFrame

OUTLIER = -1  # the label of a layer that belongs to no cluster


@dataclass(frozen=True, eq=False, repr=False)
class LayerClusters:
    """Which layers learn alike, and how that was decided.

    Args:
        names: the names of the N layers.
        rows: [N], the layers' rows in the input.
        curves: [N, T], the curves after scaling and cleaning. They are log10 values if `scale` is `"log"`.
        labels: [N], the cluster of each layer, 0..k-1. Clusters are numbered by the median of their centre, lowest
            first. With `method="hdbscan"` a layer that belongs to no cluster, an outlier, has -1.
        coordinates: [N, 2], the first two principal component scores.
        k: the number of clusters. It is 0 if `method="hdbscan"` found none.
        k_reason: why there are k clusters.
        sse: the sum of squared errors of k-means on `coordinates` for k = 1..min(k_max, N): the papers' scree plot.
        sse_raw: the same for the whole curves.
        explained_variance_ratio: [at least 2], the share of the variance along each principal component.
        centers: [k, T], the mean cleaned curve of each cluster.
        center_coordinates: [k, 2], the centres on the map of `coordinates`.
        center_offsets: [k], the squared distance of each centre from the plane of that map; 0 for `space="pca"`. With
            k-means, a point z of the map belongs to the cluster with the smallest
            `|z - center_coordinates|^2 + center_offsets`.
        recipe: `"weightscale"`, or None.
        infinities_replaced: the number of infinities that were replaced: by the recipe, or by the layer's next value.
        scale: the scale on which the curves were compared, `"log"` or `"linear"`.
        scale_reason: why this scale.
        outliers: how outliers were cleaned.
        outliers_replaced: the number of values that were replaced.
        method: `"kmeans"` or `"hdbscan"`.
        stability: the mean adjusted Rand index between these labels and those of 5 other seeds. It is 1 for k = 1, and
            NaN for `method="hdbscan"`, which has no seed.
        silhouette: the mean silhouette of the clusters' members in `space`. It is NaN for fewer than two clusters, and
            if every layer is its own cluster.
        space: what was clustered, the `"raw"` curves or the `"pca"` coordinates.
        seed: the seed of the k-means starts.
        n_init: the number of k-means starts; the best one counts.
        backend: the library that clustered.
        backend_reason: why this library.

    Example:
        >>> from weightscale_fast import cluster_layers
        >>> clusters = cluster_layers([[1, 2, 1], [1, 2, 2], [9, 8, 9], [9, 9, 9]], k=2)
        >>> clusters
        LayerClusters(4 layers in 2 clusters of 2, 2; linear scale; stability 1.00)
        >>> clusters["layer 2"]
        1
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

    def __repr__(self) -> str:
        sizes = [int((self.labels == label).sum()) for label in range(self.k)]
        text = f"{count(len(self.names), 'layer')} in {count(self.k, 'cluster')}"
        if sizes:
            text += f" of {', '.join(map(str, sizes))}"
        if OUTLIER in self.labels:
            text += f" and {count(int((self.labels == OUTLIER).sum()), 'outlier')}"
        sure = "by HDBSCAN" if self.method == "hdbscan" else f"stability {self.stability:.2f}"
        return f"LayerClusters({text}; {self.scale} scale; {sure})"

    def __getitem__(self, layer: str) -> int:
        """The cluster of a layer.

        Raises:
            KeyError: the layer was not clustered.
        """
        if layer not in self.names:
            raise KeyError(f"no layer {layer!r} was clustered; the clusters have {listing(self.names)}")
        return int(self.labels[self.names.index(layer)])

    def to_dataframe(self) -> DataFrame:
        """A table with one row for each layer: its cluster and its place on the map. It needs pandas.

        Raises:
            WeightScaleError: pandas is not installed.
        """
        pd = import_extra("pandas")

        columns = {"cluster": self.labels, "component 1": self.coordinates[:, 0], "component 2": self.coordinates[:, 1]}
        table: DataFrame = pd.DataFrame(columns, index=pd.Index(self.names, name="layer"))
        return table

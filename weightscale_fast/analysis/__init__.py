"""Analysis of RWC curves: clean, reduce, cluster."""

from .cluster import LayerClusters, cluster_layers

__all__ = ["LayerClusters", "cluster_layers"]

"""Analysis of RWC curves: clean them, reduce their dimensions, cluster the layers."""

from .cluster import cluster_layers
from .curve_files import NamedCurves, load_curves
from .recipe import weightscale_curves
from .result import LayerClusters

__all__ = ["LayerClusters", "NamedCurves", "cluster_layers", "load_curves", "weightscale_curves"]

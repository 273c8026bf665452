"""Analysis of RWC curves: clean, reduce, cluster."""

from .cluster import cluster_layers
from .curve_files import NamedCurves, load_curves
from .recipe import weightscale_curves
from .result import LayerClusters

__all__ = ["LayerClusters", "NamedCurves", "cluster_layers", "load_curves", "weightscale_curves"]

"""Phases of training: the layers clustered in each of a few windows of steps.

Letters: N layers clustered, T columns of the curves, W windows, k clusters.
"""

from __future__ import annotations

import numpy as np

from ..extras import import_extra
from .curves import IntArray
from .kmeans import kmeans
from .knee import count_distinct
from .reduce import pca_scores
from .result import OUTLIER, LayerClusters

WINDOWS = 8
FEWEST_COLUMNS = 2  # of a window
STARTS = 10  # of k-means in each window


def phase_labels(clusters: LayerClusters) -> tuple[IntArray, IntArray]:
    """Cluster the layers by their cleaned curves in each of up to 8 windows of equal length.

    K-means clusters each window with the k of the whole run. The window's clusters then get the labels of the whole
    run's clusters, one to one, so that as many layers as possible keep their label (Kuhn's assignment, Naval Research
    Logistics 2, 1955). Outlier layers stay outliers. If fewer than k curves differ in a window, it has fewer clusters.

    Returns:
        The labels [W, N], and the edges of the windows among the columns [W + 1].
    """
    T = clusters.curves.shape[1]
    W = int(np.clip(T // FEWEST_COLUMNS, 1, WINDOWS))
    edges = np.linspace(0, T, W + 1).round().astype(np.int64)
    labels = np.full((W, len(clusters.names)), OUTLIER)
    inside = clusters.labels != OUTLIER
    if inside.any():
        for w in range(W):
            points = pca_scores(clusters.curves[inside, edges[w] : edges[w + 1]]).scores
            k = count_distinct(points, clusters.k)
            found = kmeans(points, k, n_init=STARTS, seed=clusters.seed)[0]
            labels[w, inside] = _aligned(found, clusters.labels[inside], clusters.k)
    return labels, edges


def _aligned(found: IntArray, wanted: IntArray, k: int) -> IntArray:
    """Rename the labels `found` [N] within 0..k-1, so that they equal `wanted` [N] for as many layers as possible."""
    overlap = np.zeros((k, k))
    np.add.at(overlap, (found, wanted), 1)
    return np.asarray(import_extra("scipy.optimize", "analysis").linear_sum_assignment(-overlap)[1][found])
